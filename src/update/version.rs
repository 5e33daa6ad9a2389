//! What tells two builds apart, and which is newer: `0.1.0+20261128215258.gcdc271cb1`. The release's three numbers count, then the
//! build's, which `make image` takes from the commit's time; the word behind it names the commit and does not count.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone)]
pub struct Version {
    order: [u64; 4],
    text: String,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let parsed = || {
            let plain = |it: char| it.is_ascii_alphanumeric() || "+.-".contains(it);
            if text.len() > 64 || !text.chars().all(plain) {
                return None;
            }
            let (release, build) = text.split_once('+')?;
            let number = build.split('.').next()?;
            let mut numbers = release.split('.').chain([number]).map(|it| {
                let digits = !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
                digits.then(|| it.parse().ok()).flatten()
            });
            let mut order = [0; 4];
            for place in &mut order {
                *place = numbers.next()??;
            }
            numbers.next().is_none().then_some(order)
        };
        match parsed() {
            Some(order) => Ok(Version { order, text: text.to_owned() }),
            None => Err(format!("{text:?} is not a version: it should be like 1.2.3+20261128215258.name")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.order == other.order
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        self.order.cmp(&other.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_counts_before_a_build_and_numbers_are_no_words() {
        let in_order = ["0.1.0+5", "0.1.0+20.gaaa", "0.1.9+1", "0.1.10+0.gbbb", "1.0.0+0"];
        let parsed: Vec<Version> = in_order.iter().map(|it| it.parse().expect("a version")).collect();
        assert!(parsed.is_sorted_by(|one, next| one < next), "{parsed:?}");
        let same: Version = "0.1.0+20.gccc-dirty".parse().expect("a version");
        assert_eq!(same, parsed[1], "the word does not count");
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in [
            "",
            "1.2.3",
            "1.2+3",
            "1.2.3.4+5",
            "1.2.x+4",
            "1.2.+3+4",
            "1.2.3+",
            "1.2.3+-4",
            "1.2.3+4 ",
            "1.2.3+4\n",
            "1.2.3+99999999999999999999",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }
}
