//! What differs between two configurations, file by file, as a unified diff.

use serde::{Deserialize, Serialize};
use similar::{ChangeTag, TextDiff};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// Lines around a change.
const CONTEXT: usize = 3;

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FileDifference {
    pub file: String,
    pub added_lines: usize,
    pub removed_lines: usize,
    /// A unified diff with three lines of context, headed by `--- FILE` and `+++ FILE`, or `/dev/null` where there is none.
    pub diff: String,
}

/// The files that differ, by name.
pub fn compare(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<FileDifference> {
    differing(old, new).map(|name| of_file(name, old.get(name), new.get(name))).collect()
}

/// Their names alone.
pub fn differing<'a>(
    old: &'a BTreeMap<String, String>,
    new: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = &'a String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name))
}

fn of_file(name: &str, old: Option<&String>, new: Option<&String>) -> FileDifference {
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let head = |text: Option<&String>| if text.is_some() { name } else { "/dev/null" };
    let (old_text, new_text) = (text(old), text(new));
    let diff = TextDiff::from_lines(&old_text, &new_text);
    let count = |tag| diff.iter_all_changes().filter(|change| change.tag() == tag).count();
    FileDifference {
        file: name.to_owned(),
        added_lines: count(ChangeTag::Insert),
        removed_lines: count(ChangeTag::Delete),
        diff: diff.unified_diff().context_radius(CONTEXT).header(head(old), head(new)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn only_what_differs_is_told_with_the_lines_around_it() {
        let old = texts(&[("popgate.toml", "a\n"), ("tenants/acme.toml", "1\n2\n3\n4\n5\n")]);
        let new = texts(&[("popgate.toml", "a\n"), ("tenants/acme.toml", "1\n2\n3\n4\nfive\n")]);
        let [difference] = compare(&old, &new).try_into().expect("one file");
        assert_eq!((difference.added_lines, difference.removed_lines), (1, 1));
        let expected =
            "--- tenants/acme.toml\n+++ tenants/acme.toml\n@@ -2,4 +2,4 @@\n 2\n 3\n 4\n-5\n+five\n";
        assert_eq!(difference.diff, expected);
    }

    #[test]
    fn a_file_that_comes_or_goes_is_compared_with_nothing() {
        let (none, one) = (texts(&[]), texts(&[("tenants/acme.toml", "a\n")]));
        assert!(compare(&none, &one)[0].diff.starts_with("--- /dev/null\n+++ tenants/acme.toml\n"));
        assert!(compare(&one, &none)[0].diff.starts_with("--- tenants/acme.toml\n+++ /dev/null\n"));
        assert_eq!(compare(&one, &one), []);
    }
}
