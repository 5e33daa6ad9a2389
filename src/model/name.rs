//! Host names: what DNS answers, TLS, QUIC and HTTP call the far end, and what app classes are told by.

use serde::{Serialize, Serializer};
use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// What hosts behind tunnels call their PoP: in a domain that is kept for private use (ICANN Board resolution 2024.07.29.06), so
/// that no server on the internet has it.
pub const WHEREABOUTS: &str = "popgate.internal";

/// As text, without the root's dot: 255 octets on the wire (RFC 1035 section 2.3.4) less the first length and the root's.
const MAX_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A host's name in DNS: small letters, digits, hyphens and underscores in labels of 1 to 63, 253 bytes at most, no
/// dot at the end. An address is none: the last label is never a number (RFC 3696 section 2).
///
/// It lies in one piece, so that finding one in a packet allocates nothing.
#[derive(Clone, Copy)]
pub struct HostName {
    len: u8,
    bytes: [u8; MAX_BYTES],
}

/// The text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host name")]
pub struct NotAHostName;

impl HostName {
    /// The name written as `text`; one dot at the end (the root) is left out. `None` if it is no host name.
    ///
    /// Names outside ASCII have to come as A-labels (RFC 5890 section 2.3.2.1), as they do on the wire.
    pub fn new(text: &[u8]) -> Option<HostName> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        HostName::from_labels(text.split(|byte| *byte == b'.').map(Some))
    }

    /// The name of these labels, the host's own first. `None` if it is no host name; a label that is `None`, because what
    /// it was read from is broken, makes it so.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = Option<&'a [u8]>>) -> Option<HostName> {
        let mut name = HostName { len: 0, bytes: [0; MAX_BYTES] };
        let mut top_is_number = true;
        for label in labels {
            let label = label?;
            if label.is_empty() || label.len() > MAX_LABEL_BYTES {
                return None;
            }
            if name.len > 0 {
                name.push(b'.')?;
            }
            top_is_number = true;
            for byte in label {
                top_is_number &= byte.is_ascii_digit();
                name.push(match byte {
                    b'A'..=b'Z' => byte.to_ascii_lowercase(),
                    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => *byte,
                    _ => return None,
                })?;
            }
        }
        (!top_is_number).then_some(name)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(usize::from(self.len))? = byte;
        self.len += 1;
        Some(())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        // Always ASCII.
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The name, then each domain it is in: `login.example.com`, `example.com`, `com`.
    pub fn suffixes(&self) -> impl Iterator<Item = &str> {
        let mut rest = Some(self.as_str());
        std::iter::from_fn(move || {
            let suffix = rest?;
            rest = suffix.split_once('.').map(|(_, parent)| parent);
            Some(suffix)
        })
    }
}

impl FromStr for HostName {
    type Err = NotAHostName;

    fn from_str(text: &str) -> Result<HostName, NotAHostName> {
        HostName::new(text.as_bytes()).ok_or(NotAHostName)
    }
}

impl PartialEq for HostName {
    fn eq(&self, other: &HostName) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for HostName {}

impl PartialOrd for HostName {
    fn partial_cmp(&self, other: &HostName) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HostName {
    fn cmp(&self, other: &HostName) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

/// As the text's, so that maps of names can be asked for a suffix.
impl Hash for HostName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Option<HostName> {
        text.parse().ok()
    }

    #[test]
    fn a_name_is_in_small_letters_and_without_the_roots_dot() {
        assert_eq!(
            name("Login.MicrosoftOnline.COM.").map(|n| n.to_string()),
            Some("login.microsoftonline.com".into())
        );
        assert_eq!(name("_sip._tcp.xn--bcher-kva.example"), name("_SIP._TCP.XN--BCHER-KVA.example"));
        assert!(name("localhost").is_some());
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        let long_label = "a".repeat(64);
        for text in [
            "",
            ".",
            "..",
            ".com",
            "a..b",
            "example.com..",
            "192.0.2.1",
            "12",
            "[2001:db8::1]",
            "2001:db8::1",
            "a b",
            "a/b",
            "*.example.com",
            "bücher.example",
            "a\0.example",
            "host:443",
            &long_label,
        ] {
            assert_eq!(name(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_name_has_253_bytes_at_most() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(name(&longest).is_some());
        assert!(name(&format!("{longest}.")).is_some());
        assert_eq!(name(&format!("{longest}a")), None);
    }

    #[test]
    fn labels_make_the_name_that_text_does() {
        let labels = |labels: &[Option<&'static [u8]>]| HostName::from_labels(labels.iter().copied());
        assert_eq!(labels(&[Some(b"www"), Some(b"Example"), Some(b"com")]), name("www.example.com"));
        assert_eq!(labels(&[]), None);
        assert_eq!(labels(&[Some(b"www"), None]), None);
        assert_eq!(
            labels(&[Some(b"www.example"), Some(b"com")]),
            None,
            "a dot inside a label is not two labels"
        );
    }

    #[test]
    fn suffixes_go_from_the_host_to_the_top() {
        let name = name("login.microsoftonline.com").expect("a name");
        assert_eq!(
            name.suffixes().collect::<Vec<_>>(),
            ["login.microsoftonline.com", "microsoftonline.com", "com"]
        );
    }

    #[test]
    fn a_map_of_names_can_be_asked_for_a_suffix() {
        let map = std::collections::HashMap::from([(name("example.com").expect("a name"), 1)]);
        let host = name("a.b.example.com").expect("a name");
        assert_eq!(host.suffixes().find_map(|suffix| map.get(suffix)), Some(&1));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_accepted_again_as_it_is_written(text in "[a-zA-Z0-9_.-]{0,80}") {
            if let Some(accepted) = name(&text) {
                prop_assert_eq!(name(accepted.as_str()), Some(accepted));
                let text = text.to_ascii_lowercase();
                prop_assert_eq!(accepted.as_str(), text.strip_suffix('.').unwrap_or(&text));
            }
        }
    }
}
