//! What is wrong with a configuration: every problem at once, each with the place it was written at.

use super::SourceRef;
use std::cell::RefCell;
use std::fmt;

/// One thing the operator has to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub at: SourceRef,
    /// For the operator, in the words of the file; never holds a private key.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// Everything that is wrong, by file and line; never empty. Displayed as `file:line: message`, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems in the order of their files and lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| writeln!(f, "{problem}"))
    }
}

impl std::error::Error for Problems {}

/// Collects problems while files are read. Shared by all readers, so that none of them stops at the first.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    problems: RefCell<Vec<Problem>>,
    /// What was asked for on the way.
    #[cfg(test)]
    pub(super) vocabulary: RefCell<super::vocabulary::Vocabulary>,
}

/// Proof that a problem was noted: the error of everything that reads. Whoever holds one need not say anything more,
/// and only [`Ledger::note`] makes them, so that nothing can go missing without a word to the operator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted(());

impl Ledger {
    /// Writes a problem down.
    pub(super) fn note(&self, at: &SourceRef, message: impl Into<String>) -> Noted {
        self.problems.borrow_mut().push(Problem { at: at.clone(), message: message.into() });
        Noted(())
    }

    /// `read`, unless anything was noted on the way.
    pub(super) fn settle<T>(self, read: Result<T, Noted>) -> Result<T, Problems> {
        let mut problems = self.problems.into_inner();
        match read {
            Ok(read) if problems.is_empty() => Ok(read),
            _ => {
                // Stable: of one line, what was found first comes first.
                problems.sort_by(|a, b| a.at.cmp(&b.at));
                problems.dedup();
                Err(Problems(problems))
            }
        }
    }
}

/// `other`, as it is best named in a message that itself stands at `here`.
pub(super) fn seen_from(here: &SourceRef, other: &SourceRef) -> String {
    if here.file == other.file { format!("line {}", other.line) } else { other.to_string() }
}

/// Says that there is no `kind` named `word`, and what was probably meant.
pub(super) fn unknown<'a>(
    kind: &str,
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    /// 12: more would not be read.
    const LISTED: usize = 12;
    if let Some(nearest) = nearest(word, known.clone()) {
        return format!("unknown {kind} {word:?}; did you mean {nearest:?}?");
    }
    let known: Vec<&str> = known.into_iter().take(LISTED + 1).collect();
    match known.as_slice() {
        [] => format!("unknown {kind} {word:?}; none is configured"),
        [known @ .., _] if known.len() == LISTED => {
            format!("unknown {kind} {word:?}; known are {}, …", known.join(", "))
        }
        known => format!("unknown {kind} {word:?}; known are {}", known.join(", ")),
    }
}

/// The known name that `word` is most likely a misspelling of.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// 64 bytes: no known name is longer, and the distance takes time by the product of lengths.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let plain = word.to_lowercase().replace('_', "-");
    known
        .into_iter()
        .map(|name| (strsim::osa_distance(&plain, name), name))
        // A third of the letters wrong: beyond that a guess misleads more often than it helps.
        .filter(|(distance, name)| *distance <= name.len().max(plain.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let known = ["public-key", "preshared-key-file", "endpoint"];
        assert_eq!(nearest("public_key", known), Some("public-key"));
        assert_eq!(nearest("Enpdoint", known), Some("endpoint"));
        assert_eq!(nearest("mtu", known), None);
        assert_eq!(nearest(&"public-key".repeat(1000), known), None);
    }

    #[test]
    fn many_known_names_are_cut_short() {
        let names: Vec<String> = (0..13).map(|i| format!("branch-number-{i}")).collect();
        let message = unknown("branch", "x", names.iter().map(String::as_str));
        assert!(message.contains("branch-number-11, …"), "{message}");
        assert!(!message.contains("branch-number-12"), "{message}");
    }
}
