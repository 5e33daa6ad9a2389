//! The filter language: `tenant = acme and dst in 203.0.113.0/24 and class = voice and bytes > 1M`.
//!
//! ```text
//! filter = [any]                        all, where there is nothing
//! any    = every { "or" every }
//! every  = one { "and" one }
//! one    = "not" one | "(" any ")" | test
//! test   = FIELD ("=" | "!=") ("none" | VALUE)
//!        | FIELD ("<" | "<=" | ">" | ">=") NUMBER
//!        | FIELD ["not"] "in" (VALUE | "(" VALUE { "," VALUE } ")")
//!        | FIELD "~" TEXT               contains, whatever the letters' size
//! ```
//!
//! A value is what the field holds: text, an address or a prefix, a count (`1.5M`: thousands, millions, … by tens), a span
//! (`5m`). `!=` is the opposite of `=`: it holds, too, where there is nothing.

use super::field::{Field, Holds};
use super::lexer::{Placed, Token, is_of_a_word, tokens};
use ipnetwork::IpNetwork;
use std::fmt::{self, Write};
use std::iter::Peekable;
use std::str::FromStr;
use std::vec::IntoIter;

/// 8,192 characters: a list of all of a customer's prefixes fits; nobody writes more by hand.
const LONGEST: usize = 8_192;

/// 32 parentheses and negations within each other: the parser and whoever walks the filter call themselves as often.
const DEEPEST: usize = 32;

/// Which rows are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All rows, if there is nothing in it.
    Every(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Test(Test),
}

/// What must be so of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    pub field: Field,
    pub is: Is,
}

/// What is asked of a value, by what the field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Is {
    /// Nothing is there.
    None,
    /// One of these.
    Number(Vec<u64>),
    Compared(Order, u64),
    /// One of these, to the letter.
    Text(Vec<String>),
    /// In small letters; the field's are made small to look.
    Contains(String),
    /// Within one of these.
    Within(Vec<IpNetwork>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What is wrong with a filter's text, and where; for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    /// In characters, from 1 on; one beyond the last if something is missing there.
    pub column: usize,
    pub length: usize,
    pub message: String,
}

impl Filter {
    /// All rows of a tenant.
    pub fn of_tenant(name: String) -> Filter {
        Filter::Test(Test { field: Field::Tenant, is: Is::Text(vec![name]) })
    }

    /// The tenant that all rows must be of, if the filter says so.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Filter::Test(Test { field: Field::Tenant, is: Is::Text(names) }) => match names.as_slice() {
                [name] => Some(name),
                _ => None,
            },
            Filter::Every(parts) => parts.iter().find_map(Filter::tenant),
            _ => None,
        }
    }

    /// Every field that is tested.
    pub fn fields(&self) -> Vec<Field> {
        match self {
            Filter::Every(parts) | Filter::Any(parts) => parts.iter().flat_map(Filter::fields).collect(),
            Filter::Not(inner) => inner.fields(),
            Filter::Test(test) => vec![test.field],
        }
    }
}

impl Default for Filter {
    fn default() -> Filter {
        Filter::Every(Vec::new())
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let length = text.chars().count();
        if length > LONGEST {
            let message = format!("a filter is at most {LONGEST} characters long");
            return Err(FilterError { column: LONGEST + 1, length: 1, message });
        }
        let mut parser = Parser { rest: tokens(text)?.into_iter().peekable(), end: length + 1, depth: 0 };
        if parser.rest.peek().is_none() {
            return Ok(Filter::default());
        }
        let filter = parser.any()?;
        match parser.rest.next() {
            None => Ok(filter),
            Some(placed) => Err(placed.unexpected("\"and\", \"or\" or the end")),
        }
    }
}

impl Placed {
    fn unexpected(&self, expected: &str) -> FilterError {
        self.error(format!("expected {expected}, not {}", self.token))
    }

    fn error(&self, message: String) -> FilterError {
        FilterError { column: self.column, length: self.length, message }
    }

    fn is(&self, keyword: &str) -> bool {
        matches!(&self.token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }
}

struct Parser {
    rest: Peekable<IntoIter<Placed>>,
    /// One beyond the last character.
    end: usize,
    depth: usize,
}

impl Parser {
    fn any(&mut self) -> Result<Filter, FilterError> {
        let mut parts = vec![self.every()?];
        while self.take("or") {
            parts.push(self.every()?);
        }
        Ok(one_or(parts, Filter::Any))
    }

    fn every(&mut self) -> Result<Filter, FilterError> {
        let mut parts = vec![self.one()?];
        while self.take("and") {
            parts.push(self.one()?);
        }
        Ok(one_or(parts, Filter::Every))
    }

    fn one(&mut self) -> Result<Filter, FilterError> {
        let first = self.next("a column, \"not\" or \"(\"")?;
        let inner = if first.is("not") {
            self.deeper(&first, |parser| Ok(Filter::Not(Box::new(parser.one()?))))?
        } else if first.token == Token::Open {
            let inner = self.deeper(&first, Parser::any)?;
            match self.rest.next() {
                Some(Placed { token: Token::Close, .. }) => inner,
                Some(other) => return Err(other.unexpected("\"and\", \"or\" or \")\"")),
                None => {
                    let column = first.column;
                    return Err(self.missing(&format!("\")\" for the \"(\" in column {column}")));
                }
            }
        } else {
            self.test(&first)?
        };
        Ok(inner)
    }

    fn deeper(
        &mut self,
        at: &Placed,
        inner: impl FnOnce(&mut Parser) -> Result<Filter, FilterError>,
    ) -> Result<Filter, FilterError> {
        if self.depth == DEEPEST {
            return Err(at.error(format!("more than {DEEPEST} of \"(\" and \"not\" within each other")));
        }
        self.depth += 1;
        let inner = inner(self);
        self.depth -= 1;
        inner
    }

    fn test(&mut self, first: &Placed) -> Result<Filter, FilterError> {
        let Token::Word(name) = &first.token else {
            return Err(first.unexpected("a column, \"not\" or \"(\""));
        };
        let field = Field::named(name).ok_or_else(|| {
            first.error(match Field::nearest(name) {
                Some(near) => format!("there is no column {name:?}; did you mean {near:?}?"),
                None => format!("there is no column {name:?}; there are {}", names()),
            })
        })?;
        let holds = field.holds();
        if holds == Holds::Time {
            return Err(first.error(format!("{} is no part of a filter: the range says when", field.name())));
        }
        let expected = holds.operators();
        let operator = self.next(&format!("{expected} after {:?}", field.name()))?;
        let unfit =
            || operator.error(format!("{} is {}: expected {expected}", field.name(), holds.in_words()));
        let (is, negated) = match &operator.token {
            Token::Equal | Token::NotEqual => {
                let none = self.rest.next_if(|next| next.is("none"));
                let is = match none {
                    Some(none) if !field.is_nullable() => {
                        let message = format!("{} is never none", field.name());
                        return Err(none.error(message));
                    }
                    Some(_) => Is::None,
                    None => {
                        let value =
                            self.next(&format!("{} after the {}", holds.in_words(), operator.token))?;
                        holds.is(field, std::slice::from_ref(&value))?
                    }
                };
                (is, operator.token == Token::NotEqual)
            }
            Token::Less | Token::LessOrEqual | Token::Greater | Token::GreaterOrEqual => {
                if !matches!(holds, Holds::Small(_) | Holds::Count | Holds::Span) {
                    return Err(unfit());
                }
                let value = self.next(&format!("{} after the {}", holds.in_words(), operator.token))?;
                let order = match operator.token {
                    Token::Less => Order::Less,
                    Token::LessOrEqual => Order::LessOrEqual,
                    Token::Greater => Order::Greater,
                    _ => Order::GreaterOrEqual,
                };
                (Is::Compared(order, holds.number(field, &value)?), false)
            }
            Token::Contains if holds == Holds::Text => {
                let value = self.next("text after the \"~\"")?;
                (Is::Contains(value.text(field)?.to_lowercase()), false)
            }
            Token::Word(_) if operator.is("not") => match self.next("\"in\" after the \"not\"")? {
                within if within.is("in") => (self.list(field)?, true),
                other => return Err(other.unexpected("\"in\" after the \"not\"")),
            },
            Token::Word(_) if operator.is("in") => (self.list(field)?, false),
            Token::Contains => return Err(unfit()),
            _ => return Err(operator.unexpected(&format!("{expected} after {:?}", field.name()))),
        };
        let test = Filter::Test(Test { field, is });
        Ok(if negated { Filter::Not(Box::new(test)) } else { test })
    }

    /// What follows an `in`.
    fn list(&mut self, field: Field) -> Result<Is, FilterError> {
        let holds = field.holds();
        let first = self.next(&format!("{} or a list in parentheses", holds.in_words()))?;
        if first.token != Token::Open {
            return holds.is(field, &[first]);
        }
        let mut values = Vec::new();
        loop {
            values.push(self.next(holds.in_words())?);
            match self.next("\",\" or \")\"")? {
                Placed { token: Token::Comma, .. } => {}
                Placed { token: Token::Close, .. } => return holds.is(field, &values),
                other => return Err(other.unexpected("\",\" or \")\"")),
            }
        }
    }

    fn take(&mut self, keyword: &str) -> bool {
        self.rest.next_if(|next| next.is(keyword)).is_some()
    }

    fn next(&mut self, expected: &str) -> Result<Placed, FilterError> {
        self.rest.next().ok_or_else(|| self.missing(expected))
    }

    fn missing(&self, expected: &str) -> FilterError {
        FilterError { column: self.end, length: 1, message: format!("expected {expected}") }
    }
}

fn one_or(mut parts: Vec<Filter>, all: impl FnOnce(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            all(parts)
        }
    }
}

fn names() -> String {
    Field::all().filter(|field| field.holds() != Holds::Time).map(Field::name).collect::<Vec<_>>().join(", ")
}

impl Holds {
    fn in_words(self) -> &'static str {
        match self {
            Holds::Text => "text",
            Holds::Address => "an address or a prefix",
            Holds::Small(_) => "a number",
            Holds::Count => "a number as in 500, 10k or 1.5M",
            Holds::Span => "a span as in 250ms, 30s, 5m, 2h or 1d",
            Holds::Time => "a time",
        }
    }

    fn operators(self) -> &'static str {
        match self {
            Holds::Text => "=, !=, in or ~",
            Holds::Address => "=, != or in",
            Holds::Small(_) | Holds::Count | Holds::Span | Holds::Time => "=, !=, <, <=, >, >= or in",
        }
    }

    /// That the field is one of `values`.
    fn is(self, field: Field, values: &[Placed]) -> Result<Is, FilterError> {
        let mut values = values.iter();
        match self {
            Holds::Text => {
                values.map(|value| Ok(value.text(field)?.to_owned())).collect::<Result<_, _>>().map(Is::Text)
            }
            Holds::Address => {
                values.map(|value| value.within(field)).collect::<Result<_, _>>().map(Is::Within)
            }
            _ => values
                .try_fold(Vec::new(), |mut numbers, value| {
                    numbers.push(self.number(field, value)?);
                    Ok(numbers)
                })
                .map(Is::Number),
        }
    }

    fn number(self, field: Field, value: &Placed) -> Result<u64, FilterError> {
        let text = value.text(field)?;
        match self {
            Holds::Span => span(text),
            Holds::Small(most) => text.parse().ok().filter(|number| *number <= most),
            _ => count(text),
        }
        .ok_or_else(|| match self {
            Holds::Small(most) => {
                value.error(format!("{text:?} is not what {} may be: 0 to {most}", field.name()))
            }
            _ => value.error(format!("{text:?} is not {}", self.in_words())),
        })
    }
}

impl Placed {
    fn text(&self, field: Field) -> Result<&str, FilterError> {
        match &self.token {
            Token::Word(text) | Token::Quoted(text) => Ok(text),
            _ => Err(self.unexpected(field.holds().in_words())),
        }
    }

    fn within(&self, field: Field) -> Result<IpNetwork, FilterError> {
        let text = self.text(field)?;
        let network: Option<IpNetwork> = text.parse().ok();
        let network = network.and_then(|given| IpNetwork::new(given.network(), given.prefix()).ok());
        network.ok_or_else(|| self.error(format!("{text:?} is not an address or a prefix")))
    }
}

/// `1500`, `1.5k`, `20M`: whole when it is multiplied out.
fn count(text: &str) -> Option<u64> {
    let text = text.strip_suffix(['b', 'B']).unwrap_or(text);
    let (digits, zeros) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 3),
        (at, 'm' | 'M') => (&text[..at], 6),
        (at, 'g' | 'G') => (&text[..at], 9),
        (at, 't' | 'T') => (&text[..at], 12),
        _ => (text, 0),
    };
    scaled(digits, 10u64.pow(zeros))
}

/// `250ms`, `1.5h`; 0 needs no unit.
pub(super) fn span(text: &str) -> Option<u64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let millis = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
    scaled(digits, millis.or((digits == "0" && unit.is_empty()).then_some(1))?)
}

/// Milliseconds each.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A number with at most twelve decimals, times `unit`, if that is whole.
fn scaled(digits: &str, unit: u64) -> Option<u64> {
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 12 {
        return None;
    }
    let tens = 10u128.pow(decimals.len() as u32);
    let parts = u128::from(whole.parse::<u64>().ok()?) * tens + decimals.parse::<u128>().ok()?;
    let product = parts.checked_mul(u128::from(unit))?;
    if product.is_multiple_of(tens) { u64::try_from(product / tens).ok() } else { None }
}

impl fmt::Display for Filter {
    /// As the language has it: read again, it is the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Filter::Every(parts) => {
                joined(f, parts, " and ", |part| matches!(part, Filter::Every(_) | Filter::Any(_)))
            }
            Filter::Any(parts) => joined(f, parts, " or ", |part| matches!(part, Filter::Any(_))),
            Filter::Not(inner) => match &**inner {
                Filter::Test(Test { field, is }) => is.print(f, *field, true),
                Filter::Not(_) => write!(f, "not {inner}"),
                Filter::Every(_) | Filter::Any(_) => write!(f, "not ({inner})"),
            },
            Filter::Test(Test { field, is }) => is.print(f, *field, false),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Filter],
    word: &str,
    in_parentheses: impl Fn(&Filter) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(word)?;
        }
        if in_parentheses(part) { write!(f, "({part})")? } else { write!(f, "{part}")? }
    }
    Ok(())
}

impl Is {
    fn print(&self, f: &mut fmt::Formatter<'_>, field: Field, negated: bool) -> fmt::Result {
        let values: Vec<String> = match self {
            Is::None => vec!["none".to_owned()],
            Is::Compared(order, value) => {
                let order = match order {
                    Order::Less => "<",
                    Order::LessOrEqual => "<=",
                    Order::Greater => ">",
                    Order::GreaterOrEqual => ">=",
                };
                let not = if negated { "not " } else { "" };
                return write!(f, "{not}{} {order} {}", field.name(), written(field, *value));
            }
            Is::Contains(text) => {
                let not = if negated { "not " } else { "" };
                return write!(f, "{not}{} ~ {}", field.name(), quoted(text));
            }
            Is::Number(numbers) => numbers.iter().map(|number| written(field, *number)).collect(),
            Is::Text(texts) => texts.iter().map(|text| quoted(text)).collect(),
            Is::Within(networks) => networks.iter().map(|network| network_text(*network)).collect(),
        };
        match (values.as_slice(), negated) {
            ([one], false) => write!(f, "{} = {one}", field.name()),
            ([one], true) => write!(f, "{} != {one}", field.name()),
            (all, false) => write!(f, "{} in ({})", field.name(), all.join(", ")),
            (all, true) => write!(f, "{} not in ({})", field.name(), all.join(", ")),
        }
    }
}

fn network_text(network: IpNetwork) -> String {
    let whole = if network.is_ipv4() { 32 } else { 128 };
    if network.prefix() == whole { network.ip().to_string() } else { network.to_string() }
}

fn written(field: Field, value: u64) -> String {
    if field.holds() != Holds::Span || value == 0 {
        return value.to_string();
    }
    let whole = UNITS.iter().find(|(_, millis)| value.is_multiple_of(*millis));
    whole.map_or_else(|| format!("{value}ms"), |(unit, millis)| format!("{}{unit}", value / millis))
}

/// As a word, where that is read as the same.
fn quoted(text: &str) -> String {
    if !text.is_empty() && text.chars().all(is_of_a_word) && !text.eq_ignore_ascii_case("none") {
        return text.to_owned();
    }
    let mut out = String::from('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

impl FilterError {
    /// The filter's text with a mark below what is wrong, and what that is.
    pub fn pointed(&self, text: &str) -> String {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = write!(
            out,
            "{line}\n{}{} {}",
            " ".repeat(self.column - 1),
            "^".repeat(self.length),
            self.message
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Filter {
        text.parse().unwrap_or_else(|error: FilterError| panic!("{}", error.pointed(text)))
    }

    fn error(text: &str) -> (usize, usize, String) {
        let error = text.parse::<Filter>().expect_err(text);
        (error.column, error.length, error.message)
    }

    #[test]
    fn a_filter_is_read_and_written_as_the_same() {
        for (text, printed) in [
            ("", ""),
            (
                "tenant = acme and dst in 203.0.113.0/24 and class = voice and bytes > 1M",
                "tenant = acme and destination = 203.0.113.0/24 and class = voice and bytes > 1000000",
            ),
            ("src=10.1.0.5", "source = 10.1.0.5"),
            ("SRC == 10.1.0.5/16", "source = 10.1.0.0/16"),
            (
                "app != none or (name ~ 'Ex ample' AND not port in (80,443))",
                "app != none or name ~ \"ex ample\" and port not in (80, 443)",
            ),
            ("source-port >= 1024", "source_port >= 1024"),
            ("duration > 90s and duration <= 1.5h", "duration > 90s and duration <= 90m"),
            ("packets = 1.5k or packets < 2", "packets = 1500 or packets < 2"),
            ("host in 2001:db8::/32", "address = 2001:db8::/32"),
            ("path = berlin/dsl or path = none", "path = berlin/dsl or path = none"),
            ("app = \"none\"", "app = \"none\""),
            ("rule = 'a \\'b\\' \"c\"'", "rule = \"a 'b' \\\"c\\\"\""),
            (
                "not (class = a or class = b) and not not class not in (a, b)",
                "not (class = a or class = b) and not not class not in (a, b)",
            ),
            (
                "class = a and (class = b and class = c) or class = d",
                "class = a and (class = b and class = c) or class = d",
            ),
            ("class = and or class = or", "class = and or class = or"),
        ] {
            let filter = parse(text);
            let again = filter.to_string();
            assert_eq!(again, printed);
            assert_eq!(parse(&again), filter, "{text}: {again}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at_and_what_was_expected_is_said() {
        let message = |text: &str| error(text).2;
        assert_eq!(
            error("clas = voice"),
            (1, 4, "there is no column \"clas\"; did you mean \"class\"?".into())
        );
        let (column, _, text) = error("class = voice and xyzzy = 1");
        assert_eq!(column, 19);
        assert!(text.starts_with("there is no column \"xyzzy\"; there are tenant, bytes, "), "{text}");
        assert_eq!(
            error("class = voice bytes > 1"),
            (15, 5, "expected \"and\", \"or\" or the end, not \"bytes\"".into())
        );
        assert_eq!(error("class"), (6, 1, "expected =, !=, in or ~ after \"class\"".into()));
        assert_eq!(error("class >  voice"), (7, 1, "class is text: expected =, !=, in or ~".into()));
        assert_eq!(
            error("src ~ 10"),
            (5, 1, "source is an address or a prefix: expected =, != or in".into())
        );
        assert_eq!(error("bytes > many"), (9, 4, "\"many\" is not a number as in 500, 10k or 1.5M".into()));
        assert_eq!(message("bytes > 1.5"), "\"1.5\" is not a number as in 500, 10k or 1.5M");
        assert_eq!(error("port = 65536"), (8, 5, "\"65536\" is not what port may be: 0 to 65535".into()));
        assert_eq!(
            error("dst in 203.0.113.0/33"),
            (8, 14, "\"203.0.113.0/33\" is not an address or a prefix".into())
        );
        assert_eq!(
            error("duration > 5"),
            (12, 1, "\"5\" is not a span as in 250ms, 30s, 5m, 2h or 1d".into())
        );
        assert_eq!(error("class = none"), (9, 4, "class is never none".into()));
        assert_eq!(error("(class = a"), (11, 1, "expected \")\" for the \"(\" in column 1".into()));
        assert_eq!(error("class in (a, b"), (15, 1, "expected \",\" or \")\"".into()));
        assert_eq!(error("class = 'a"), (9, 1, "a quotation begins with ' and does not end".into()));
        assert_eq!(
            error("class = a;"),
            (10, 1, "';' means nothing here; a value with such in it needs quotes".into())
        );
        assert_eq!(error("start > 5"), (1, 5, "start is no part of a filter: the range says when".into()));
        let deep = "(".repeat(40) + "class = a";
        assert_eq!(error(&deep), (33, 1, "more than 32 of \"(\" and \"not\" within each other".into()));
        assert_eq!(message(&"x".repeat(9_000)), "a filter is at most 8192 characters long");
        let text = "class = voice and\nbyts > 1";
        let pointed = text.parse::<Filter>().expect_err("wrong").pointed(text);
        let lines: Vec<&str> = pointed.lines().collect();
        assert_eq!(lines[0], "class = voice and byts > 1");
        assert_eq!(lines[1], "                  ^^^^ there is no column \"byts\"; did you mean \"bytes\"?");
    }

    #[test]
    fn a_tenant_is_known_where_all_rows_must_be_of_it() {
        assert_eq!(parse("class = a and tenant = acme").tenant(), Some("acme"));
        assert_eq!(parse("class = a or tenant = acme").tenant(), None);
        assert_eq!(parse("tenant != acme").tenant(), None);
    }

    /// Anything the language has, and what it has not.
    fn filters() -> impl Strategy<Value = Filter> {
        let fields: Vec<Field> = Field::all().filter(|field| field.holds() != Holds::Time).collect();
        let test = (prop::sample::select(fields), any::<(u64, u8)>(), prop::collection::vec(".{0,8}", 1..4));
        let test = test.prop_map(|(field, (number, pick), texts)| {
            let order = [Order::Less, Order::LessOrEqual, Order::Greater, Order::GreaterOrEqual];
            let is = match field.holds() {
                _ if field.is_nullable() && pick.is_multiple_of(5) => Is::None,
                Holds::Text if pick.is_multiple_of(2) => Is::Contains(texts.concat().to_lowercase()),
                Holds::Text => Is::Text(texts),
                Holds::Address => {
                    let v4 = std::net::Ipv4Addr::from(number as u32);
                    let v6 = std::net::Ipv6Addr::from(u128::from(number) << 40);
                    let one = |address, prefix| {
                        let network = IpNetwork::new(address, prefix).expect("a prefix");
                        IpNetwork::new(network.network(), prefix).expect("a prefix")
                    };
                    Is::Within(vec![one(v4.into(), pick % 33), one(v6.into(), pick % 129)])
                }
                Holds::Small(most) => Is::Number(vec![number % (most + 1), 0]),
                _ if pick.is_multiple_of(2) => Is::Number(vec![number]),
                _ => Is::Compared(order[usize::from(pick / 2 % 4)], number),
            };
            Filter::Test(Test { field, is })
        });
        test.prop_recursive(4, 24, 3, |inner| {
            let parts = prop::collection::vec(inner.clone(), 2..4);
            prop_oneof![
                parts.clone().prop_map(Filter::Every),
                parts.prop_map(Filter::Any),
                inner.prop_map(|inner| Filter::Not(Box::new(inner))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(filter in filters()) {
            let text = filter.to_string();
            prop_assert_eq!(text.parse::<Filter>().map_err(|error| error.pointed(&text)), Ok(filter));
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,200}") {
            if let Err(error) = text.parse::<Filter>() {
                error.pointed(&text);
            }
        }

        #[test]
        fn no_words_are_too_much(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "class", "src", "bytes", "duration", "app", "port", "and", "or", "not", "in", "none", "(", ")", ",", "=",
                    "!=", "<", ">=", "~", "voice", "10.0.0.0/8", "2001:db8::1", "1.5M", "5m", "\"a b\"", "'",
                ]),
                0..24,
            ),
        ) {
            let text = words.join(" ");
            match text.parse::<Filter>() {
                Ok(filter) => prop_assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter)),
                Err(error) => {
                    prop_assert!((1..=text.chars().count() + 1).contains(&error.column));
                    error.pointed(&text);
                }
            }
        }
    }
}
