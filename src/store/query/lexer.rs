//! A filter's text in words.

use super::filter::FilterError;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name, a value or a keyword: which, its place tells.
    Word(String),
    /// Always a value.
    Quoted(String),
    Open,
    Close,
    Comma,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
}

/// A token, and where it stands: characters from 1 on, and how many it is long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) column: usize,
    pub(super) length: usize,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Word(text) | Token::Quoted(text) => return write!(f, "{text:?}"),
            Token::Open => "\"(\"",
            Token::Close => "\")\"",
            Token::Comma => "\",\"",
            Token::Equal => "\"=\"",
            Token::NotEqual => "\"!=\"",
            Token::Less => "\"<\"",
            Token::LessOrEqual => "\"<=\"",
            Token::Greater => "\">\"",
            Token::GreaterOrEqual => "\">=\"",
            Token::Contains => "\"~\"",
        })
    }
}

/// Whether it may stand in a word: addresses, prefixes, paths, host names and times all are words.
pub(super) fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || "._-:/@*+%".contains(c)
}

/// The tokens of `text`.
///
/// # Errors
/// A character that begins no token, or a quotation that does not end.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, FilterError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().enumerate().map(|(at, c)| (at + 1, c)).peekable();
    while let Some((column, c)) = chars.next() {
        let mut length = 1;
        let mut then = |wanted: char| {
            let found = chars.next_if(|(_, next)| *next == wanted).is_some();
            length += usize::from(found);
            found
        };
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '~' => Token::Contains,
            '=' => {
                // As in programs: who writes `==` means it.
                then('=');
                Token::Equal
            }
            '!' if then('=') => Token::NotEqual,
            '<' if then('=') => Token::LessOrEqual,
            '<' => Token::Less,
            '>' if then('=') => Token::GreaterOrEqual,
            '>' => Token::Greater,
            '"' | '\'' => {
                let mut inside = String::new();
                loop {
                    length += 1;
                    match chars.next() {
                        Some((_, end)) if end == c => break,
                        Some((_, '\\')) => {
                            length += 1;
                            inside.extend(chars.next().map(|(_, escaped)| escaped));
                        }
                        Some((_, c)) => inside.push(c),
                        None => {
                            let message = format!("a quotation begins with {c} and does not end");
                            return Err(FilterError { column, length: 1, message });
                        }
                    }
                }
                Token::Quoted(inside)
            }
            c if is_of_a_word(c) => {
                let mut word = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| is_of_a_word(*c)) {
                    word.push(c);
                    length += 1;
                }
                Token::Word(word)
            }
            c => {
                let message = format!("{c:?} means nothing here; a value with such in it needs quotes");
                return Err(FilterError { column, length, message });
            }
        };
        tokens.push(Placed { token, column, length });
    }
    Ok(tokens)
}
