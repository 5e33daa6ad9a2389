//! The code that an operator gives to whoever is at a branch: text to be pasted, typed or read out.
//!
//! `PG1`, for this version of it, and letters in groups of five: base32 with Crockford's alphabet, which has no I, L, O and U; small
//! letters, and I, L and O for what they look like, are read as well. The bytes are
//!
//! ```text
//! 4 when it ends, seconds since the Unix epoch    32 the PoP's public key
//! 16 a random secret                              1+n the site's name
//! 32 the pin of the PoP's admin server            1 how many addresses, and those: 4 or 6 with an address and a port,
//!                                                   or 0 with a length, a name and a port
//! 4 CRC-32 of all before, the lowest byte first
//! ```
//!
//! A CRC-32 finds whatever lies within 32 bits: any one letter that is wrong, two that are swapped, and more.

use crate::config::{self, PublicKey};
use crate::model::HostName;
use data_encoding::{Encoding, Specification};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::LazyLock;
use subtle::ConstantTimeEq;

const PREFIX: &str = "PG1";
const GROUP: usize = 5;
/// 4: a PoP's admin server is known by a name and an address of each family, as a rule.
pub const MOST_ADDRESSES: usize = 4;
/// 2,000 letters: twice what the longest names make.
const LONGEST: usize = 2_000;

/// The letters.
static LETTERS: LazyLock<Option<Encoding>> = LazyLock::new(|| {
    let mut letters = Specification::new();
    letters.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    letters.translate.from.push_str("abcdefghjkmnpqrstvwxyzOoIiLl");
    letters.translate.to.push_str("ABCDEFGHJKMNPQRSTVWXYZ001111");
    letters.ignore.push_str("- \t\r\n");
    letters.encoding().ok()
});

/// All that a branch needs to find its PoP and to be found out as who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// The branch's name.
    pub site: String,
    /// Where the PoP's admin server is, the best first; 1 to [`MOST_ADDRESSES`].
    pub addresses: Vec<Address>,
    /// SHA-256 of its certificate's SubjectPublicKeyInfo: a certificate that is renewed with the same key still fits.
    pub pin: [u8; 32],
    pub pop_key: PublicKey,
    /// Seconds since the Unix epoch.
    pub expires_unix_secs: u32,
    pub secret: Secret,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    At(SocketAddr),
    Named(Box<HostName>, u16),
}

/// What opens an enrolment.
#[derive(Clone)]
pub struct Secret(pub [u8; 16]);

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Secret {
    /// In the code's letters.
    pub fn to_letters(&self) -> String {
        encode(&self.0)
    }

    /// `None` if it is none.
    pub fn from_letters(text: &str) -> Option<Secret> {
        // 26 letters are 16 bytes.
        let bytes = (text.len() <= 64).then(|| decode(text)).flatten()?;
        bytes.try_into().ok().map(Secret)
    }
}

/// Why a text is no code; for whoever typed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotACode {
    #[error("this is no enrolment code: one begins with {PREFIX}-")]
    Another,
    #[error("a letter of the code is wrong or missing: compare it, or copy it again")]
    Altered,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::At(address) => write!(f, "{address}"),
            Address::Named(name, port) => write!(f, "{}:{port}", name.as_str()),
        }
    }
}

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Address, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let ip = address.ip();
            let is_anybodys = ip.is_unspecified() || ip.is_multicast() || address.port() == 0;
            return if is_anybodys {
                Err(format!("{text:?} is nobody's address"))
            } else {
                Ok(Address::At(address))
            };
        }
        let named = text.rsplit_once(':').and_then(|(name, port)| {
            let port = port.parse().ok().filter(|port| *port > 0)?;
            Some(Address::Named(Box::new(name.parse().ok()?), port))
        });
        named.ok_or_else(|| {
            format!("{text:?} is not an address or a name with a port, as in \"pop.example:443\"")
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = encode(&self.bytes());
        f.write_str(PREFIX)?;
        letters.as_bytes().chunks(GROUP).try_for_each(|group| {
            // All of them are ASCII.
            write!(f, "-{}", str::from_utf8(group).unwrap_or_default())
        })
    }
}

impl FromStr for Code {
    type Err = NotACode;
    fn from_str(text: &str) -> Result<Code, NotACode> {
        let text = text.trim();
        let head = text.get(..PREFIX.len()).ok_or(NotACode::Another)?;
        if !head.eq_ignore_ascii_case(PREFIX) || text.len() > LONGEST {
            return Err(NotACode::Another);
        }
        let bytes = decode(&text[PREFIX.len()..]).ok_or(NotACode::Altered)?;
        Code::of(&bytes).ok_or(NotACode::Altered)
    }
}

impl Code {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(self.expires_unix_secs.to_be_bytes());
        bytes.extend(self.secret.0);
        bytes.extend(self.pin);
        bytes.extend(self.pop_key.0);
        put_text(&mut bytes, &self.site);
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            let port = match address {
                Address::At(at) => {
                    match at.ip() {
                        IpAddr::V4(v4) => {
                            bytes.push(4);
                            bytes.extend(v4.octets());
                        }
                        IpAddr::V6(v6) => {
                            bytes.push(6);
                            bytes.extend(v6.octets());
                        }
                    }
                    at.port()
                }
                Address::Named(name, port) => {
                    bytes.push(0);
                    put_text(&mut bytes, name.as_str());
                    *port
                }
            };
            bytes.extend(port.to_be_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Code> {
        let (bytes, checksum) = bytes.split_last_chunk()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut rest = Rest(bytes);
        let expires_unix_secs = u32::from_be_bytes(rest.take()?);
        let secret = Secret(rest.take()?);
        let (pin, pop_key) = (rest.take()?, PublicKey(rest.take()?));
        let site = config::name(&rest.text()?).ok()?;
        let count = usize::from(rest.byte()?);
        if !(1..=MOST_ADDRESSES).contains(&count) {
            return None;
        }
        let addresses = (0..count).map(|_| rest.address()).collect::<Option<_>>()?;
        rest.0.is_empty().then_some(Code { site, addresses, pin, pop_key, expires_unix_secs, secret })
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    // Names of sites have 31 letters at most, and of hosts 253.
    bytes.push(text.len() as u8);
    bytes.extend(text.as_bytes());
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn address(&mut self) -> Option<Address> {
        let ip = match self.byte()? {
            4 => IpAddr::from(Ipv4Addr::from(self.take::<4>()?)),
            6 => IpAddr::from(Ipv6Addr::from(self.take::<16>()?)),
            0 => {
                let name = HostName::new(self.text()?.as_bytes())?;
                return Some(Address::Named(Box::new(name), u16::from_be_bytes(self.take()?)));
            }
            _ => return None,
        };
        Some(Address::At(SocketAddr::new(ip, u16::from_be_bytes(self.take()?))))
    }
}

fn encode(bytes: &[u8]) -> String {
    LETTERS.as_ref().map(|letters| letters.encode(bytes)).unwrap_or_default()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    LETTERS.as_ref()?.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn code() -> Code {
        Code {
            site: "lyon".to_owned(),
            addresses: vec![
                "192.0.2.1:4443".parse().expect("an address"),
                "[2001:db8::1]:4443".parse().expect("an address"),
                "pop.example:443".parse().expect("a name"),
            ],
            pin: [0xa7; 32],
            pop_key: PublicKey([0x5c; 32]),
            expires_unix_secs: 1_800_000_000,
            secret: Secret([0x3e; 16]),
        }
    }

    #[test]
    fn a_code_is_read_as_it_was_written_however_it_is_typed() {
        let text = code().to_string();
        assert!(text.starts_with("PG1-"), "{text}");
        assert!(text.split('-').skip(1).all(|group| (1..=GROUP).contains(&group.len())));
        assert_eq!(text.parse(), Ok(code()));
        for typed in [
            text.to_lowercase(),
            text.replace('-', " "),
            text.replace('-', ""),
            text.replace("-", "-\n"),
            format!("  {text}\r\n"),
            text.replace('0', "O").replace('1', "l").replacen("PGl", "PG1", 1),
        ] {
            assert_eq!(typed.parse(), Ok(code()), "{typed}");
        }
    }

    #[test]
    fn every_single_letter_that_is_wrong_missing_doubled_or_swapped_is_caught() {
        let text = code().to_string();
        let letters: Vec<char> = text.chars().collect();
        let value = |letter: char| decode(&format!("0{letter}")).map(|_| letter);
        assert_eq!(value('U'), None);
        let caught = |typed: String, what: &str, at: usize| {
            assert!(typed.parse::<Code>().is_err(), "{what} at {at}: {typed}");
        };
        for at in 0..letters.len() {
            let with = |instead: &[char]| {
                let (before, behind) = (&letters[..at], &letters[at + 1..]);
                before.iter().chain(instead).chain(behind).collect::<String>()
            };
            if letters[at] == '-' {
                continue;
            }
            for other in "0123456789ABCDEFGHJKMNPQRSTVWXYZU!".chars().filter(|it| *it != letters[at]) {
                caught(with(&[other]), "another letter", at);
            }
            caught(with(&[]), "a missing letter", at);
            caught(with(&[letters[at], letters[at]]), "a doubled letter", at);
            let next = letters.get(at + 1).copied().filter(|next| *next != '-' && *next != letters[at]);
            if let Some(next) = next {
                let mut swapped = letters.clone();
                swapped[at] = next;
                swapped[at + 1] = letters[at];
                caught(swapped.into_iter().collect(), "swapped letters", at);
            }
        }
    }

    #[test]
    fn what_is_no_code_is_refused_without_a_word_about_what_was_typed() {
        for text in ["", "PG", "PG1", "PG1-", "PG2-ABCDE", "hello", "PG1-ÄÖÜ", "Ä", &"PG1-0".repeat(1_000)]
        {
            assert!(text.parse::<Code>().is_err(), "{text}");
        }
        // With a checksum that fits, and nothing else that does.
        for bytes in [&[][..], &[0; 16], &[0; 200]] {
            let mut bytes = bytes.to_vec();
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            assert_eq!(format!("{PREFIX}-{}", encode(&bytes)).parse::<Code>(), Err(NotACode::Altered));
        }
        assert_eq!(format!("{:?}", code().secret), "Secret(hidden)");
    }

    #[test]
    fn an_address_is_one_that_can_be_dialled() {
        for text in [
            "0.0.0.0:443",
            "[::]:443",
            "192.0.2.1",
            "192.0.2.1:0",
            "pop.example",
            "pop.example:0",
            "a b:1",
            "",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
