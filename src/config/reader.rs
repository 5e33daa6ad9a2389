//! The reader: TOML text in, typed values out, a problem with its line for whatever does not fit.
//!
//! A [`Table`] knows which keys it was asked for. What is left over when it is finished is unknown, and a known name
//! that is spelled like it is offered instead. Every value that cannot be read notes its problem and yields [`Noted`],
//! so a reader asks for ALL keys of its table first and gives up with `?` only afterwards.

use super::problem::{Ledger, Noted, unknown};
use super::{SourceRef, values::Parsed};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file that was read, and the ledger that its problems go to.
pub(super) struct Document<'d> {
    text: &'d str,
    /// The byte each line begins at.
    line_starts: Vec<usize>,
    file: Arc<str>,
    ledger: &'d Ledger,
}

impl<'d> Document<'d> {
    pub(super) fn new(file: Arc<str>, text: &'d str, ledger: &'d Ledger) -> Document<'d> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Document { text, line_starts, file, ledger }
    }

    /// Parses the text. What is not TOML is noted, all of it, and then nothing else is said about the file: its
    /// missing half would only show as problems that it does not have.
    pub(super) fn parse(&self) -> Result<DeTable<'d>, Noted> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        let mut noted = None;
        let mut last_line = 0;
        for error in errors {
            let at = self.at(error.span().unwrap_or_default());
            // The parser picks itself up in the same line and stumbles over the same mistake again.
            if at.line != last_line {
                last_line = at.line;
                noted = Some(self.ledger.note(&at, format!("not TOML: {}", error.message())));
            }
        }
        noted.map_or(Ok(root.into_inner()), Err)
    }

    /// The parsed file's outermost table.
    pub(super) fn root(&'d self, entries: &'d DeTable<'d>) -> Table<'d> {
        Table { document: self, header: None, at: self.at(0..0), entries, asked: Vec::new() }
    }

    fn at(&self, span: Range<usize>) -> SourceRef {
        let line = self.line_starts.partition_point(|start| *start <= span.start);
        SourceRef { file: self.file.clone(), line: line.max(1) }
    }
}

/// A TOML table that is being read.
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    /// As it is written in the file, `[[branch.path]]`; none for the outermost.
    header: Option<&'static str>,
    at: SourceRef,
    entries: &'d DeTable<'d>,
    asked: Vec<&'static str>,
}

impl<'d> Table<'d> {
    /// Where the table begins.
    pub(super) fn at(&self) -> &SourceRef {
        &self.at
    }

    /// Notes a problem of the table as a whole.
    pub(super) fn note(&self, message: impl Into<String>) -> Noted {
        self.document.ledger.note(&self.at, message)
    }

    /// Notes a problem that shows here but is to be mended elsewhere.
    pub(super) fn note_at(&self, at: &SourceRef, message: impl Into<String>) -> Noted {
        self.document.ledger.note(at, message)
    }

    /// What stands under `key`, if anything.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.asked.push(key);
        #[cfg(test)]
        self.document.ledger.vocabulary.borrow_mut().values(self.header, &self.document.file, key, []);
        let (name, value) = self.entries.get_key_value(key)?;
        Some(Value {
            document: self.document,
            #[cfg(test)]
            header: self.header,
            key: name.get_ref(),
            value,
        })
    }

    /// `key`, read by `read`; it must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'d>) -> Result<T, Noted>,
    ) -> Result<T, Noted> {
        match self.value(key) {
            Some(value) => read(value),
            None => Err(self.missing(key)),
        }
    }

    /// `key`, read by `read`; `None` if it is not there.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'d>) -> Result<T, Noted>,
    ) -> Result<Option<T>, Noted> {
        self.value(key).map(read).transpose()
    }

    /// `key`, read by `read`; `default` if it is not there.
    pub(super) fn with_default<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Value<'d>) -> Result<T, Noted>,
    ) -> Result<T, Noted> {
        self.value(key).map_or(Ok(default), read)
    }

    /// The table `[key]`.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        header: &'static str,
    ) -> Result<Option<Table<'d>>, Noted> {
        self.optional(key, |value| value.table(header))
    }

    /// The tables `[[key]]`, none if there are none.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        header: &'static str,
    ) -> Result<Vec<Table<'d>>, Noted> {
        self.with_default(key, Vec::new(), |value| match value.value.get_ref() {
            DeValue::Array(_) => value.list(|element| element.table(header)),
            DeValue::Table(_) => Err(value.note(format!("write {header}: there may be several"))),
            _ => Err(value.expected(header)),
        })
    }

    /// Notes those of `keys` that are there: they make no sense here, for the reason given.
    pub(super) fn refuse(&mut self, keys: &[&'static str], reason: &str) {
        for key in keys {
            if let Some(value) = self.value(key) {
                value.note(reason);
            }
        }
    }

    /// Says that `key` is missing.
    pub(super) fn missing(&self, key: &str) -> Noted {
        match self.header {
            Some(header) => self.note(format!("{header} lacks {key}")),
            None => self.note(format!("missing: {key}")),
        }
    }

    /// Notes every key that nobody asked for. To be called once all keys were.
    pub(super) fn finish(self) {
        for key in self.entries.keys() {
            if !self.asked.contains(&key.get_ref().as_ref()) {
                let kind = self.header.map_or("key".to_owned(), |header| format!("{header} key"));
                let message = unknown(&kind, key.get_ref(), self.asked.iter().copied());
                self.document.ledger.note(&self.document.at(key.span()), message);
            }
        }
    }
}

/// A value that is being read, under its key.
#[derive(Clone, Copy)]
pub(super) struct Value<'d> {
    document: &'d Document<'d>,
    /// Of the table it stands in.
    #[cfg(test)]
    header: Option<&'static str>,
    key: &'d str,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    /// Where the value stands.
    pub(super) fn at(self) -> SourceRef {
        self.document.at(self.value.span())
    }

    /// Notes a problem with the value: `key: message`.
    pub(super) fn note(self, message: impl AsRef<str>) -> Noted {
        self.document.ledger.note(&self.at(), format!("{}: {}", self.key, message.as_ref()))
    }

    /// Notes a problem that names what it is about by itself.
    pub(super) fn remark(self, message: impl Into<String>) -> Noted {
        self.document.ledger.note(&self.at(), message)
    }

    /// Any string.
    pub(super) fn string(self) -> Result<&'d str, Noted> {
        self.value.get_ref().as_str().ok_or_else(|| self.expected("a string"))
    }

    /// A string with a meaning, such as a name, a prefix or a duration.
    pub(super) fn parse<T>(self, parse: impl FnOnce(&str) -> Parsed<T>) -> Result<T, Noted> {
        parse(self.string()?).map_err(|message| self.note(message))
    }

    /// A duration: a string like any other, but left without quotes and unit more often.
    pub(super) fn duration<T>(self, parse: impl FnOnce(&str) -> Parsed<T>) -> Result<T, Noted> {
        match self.value.get_ref() {
            DeValue::String(_) => self.parse(parse),
            _ => Err(self.expected("a number with its unit in quotes, as in \"60s\"")),
        }
    }

    /// One of several words.
    pub(super) fn one_of<T: Copy>(self, words: &[(&str, T)]) -> Result<T, Noted> {
        #[cfg(test)]
        self.offers_words(words.iter().map(|(word, _)| *word));
        let word = self.string()?;
        match words.iter().find(|(known, _)| *known == word) {
            Some((_, meaning)) => Ok(*meaning),
            None => Err(self.note(unknown(self.key, word, words.iter().map(|(known, _)| *known)))),
        }
    }

    /// Writes down which words may stand here.
    #[cfg(test)]
    pub(super) fn offers_words<'w>(self, words: impl IntoIterator<Item = &'w str>) {
        self.offers(words.into_iter().map(|word| format!("{word:?}")));
    }

    #[cfg(test)]
    fn offers(self, values: impl IntoIterator<Item = String>) {
        let mut vocabulary = self.document.ledger.vocabulary.borrow_mut();
        vocabulary.values(self.header, &self.document.file, self.key, values);
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(self, range: RangeInclusive<T>) -> Result<T, Noted>
    where
        T: TryFrom<i128> + PartialOrd + std::fmt::Display,
    {
        let Some(number) = self.value.get_ref().as_integer() else {
            return Err(self.expected("a whole number"));
        };
        i128::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                self.note(format!("{number} is out of range; {least} to {most}"))
            })
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Result<bool, Noted> {
        #[cfg(test)]
        self.offers(["false".to_owned(), "true".to_owned()]);
        self.value.get_ref().as_bool().ok_or_else(|| self.expected("true or false"))
    }

    /// Whether it is a number: for keys that take a name or a number.
    pub(super) fn is_number(self) -> bool {
        self.value.get_ref().is_integer()
    }

    /// Whether it is a string: for lists of names and tables.
    pub(super) fn is_string(self) -> bool {
        self.value.get_ref().is_str()
    }

    /// A list of at least one, each read by `read`; the problems of all of them are noted.
    ///
    /// An empty list is refused everywhere: for a rule it would have to mean "nothing", and a reader would take it for
    /// the same as the key left out, which means "anything".
    pub(super) fn list<T>(self, read: impl FnMut(Value<'d>) -> Result<T, Noted>) -> Result<Vec<T>, Noted> {
        let DeValue::Array(elements) = self.value.get_ref() else { return Err(self.expected("a list")) };
        if elements.is_empty() {
            return Err(self.note("the list is empty; leave the key out or put something in"));
        }
        all(elements.iter().map(|value| Value { value, ..self }).map(read))
    }

    /// A list of at least one, or a single value in place of a list of one.
    pub(super) fn one_or_many<T>(
        self,
        mut read: impl FnMut(Value<'d>) -> Result<T, Noted>,
    ) -> Result<Vec<T>, Noted> {
        match self.value.get_ref() {
            DeValue::Array(_) => self.list(read),
            _ => Ok(vec![read(self)?]),
        }
    }

    /// A table, `header` being what it is called.
    pub(super) fn table(self, header: &'static str) -> Result<Table<'d>, Noted> {
        match self.value.get_ref() {
            DeValue::Table(entries) => Ok(Table {
                document: self.document,
                header: Some(header),
                at: self.at(),
                entries,
                asked: Vec::new(),
            }),
            DeValue::Array(_) => Err(self.note(format!("write {header}: there is only one"))),
            _ => Err(self.expected(header)),
        }
    }

    /// The entries of a table whose keys are not names of ours, each under its own key.
    pub(super) fn entries(self) -> Result<impl Iterator<Item = (&'d str, Value<'d>)>, Noted> {
        let DeValue::Table(entries) = self.value.get_ref() else { return Err(self.expected("a table")) };
        Ok(entries.iter().map(move |(key, value)| (key.get_ref().as_ref(), Value { value, ..self })))
    }

    /// Says that something else was expected.
    pub(super) fn expected(self, expected: &str) -> Noted {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.note(format!("expected {expected}, found {found}"))
    }
}

/// Everything `results` holds, or [`Noted`]; runs through all of them either way, so that all problems are noted.
pub(super) fn all<T>(results: impl Iterator<Item = Result<T, Noted>>) -> Result<Vec<T>, Noted> {
    let mut read = Ok(Vec::new());
    for result in results {
        match (result, &mut read) {
            (Ok(value), Ok(values)) => values.push(value),
            (Ok(_), Err(_)) => {}
            (Err(noted), _) => read = Err(noted),
        }
    }
    read
}
