//! Codes of a second factor (RFC 6238): six digits of HMAC-SHA-1, another every 30 seconds, as all authenticator apps have
//! them. SHA-1's weakness is about collisions, which HMAC does not rest on.

use qrcode::{Color, QrCode};
use ring::hmac;
use std::fmt::Write;
use subtle::ConstantTimeEq;

/// 20 bytes: as long as the hash (RFC 4226 section 4).
pub(crate) const SECRET_BYTES: usize = 20;
const STEP_MS: u64 = 30_000;
/// 1 step, before and behind: a phone's clock is off by some seconds, and typing takes some (RFC 6238 section 5.2).
const TOLERANCE: u64 = 1;
const DIGITS: usize = 6;

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What an app is given once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// Of random bytes.
    pub(crate) fn of(random: [u8; 32]) -> Secret {
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(&random[..SECRET_BYTES]);
        Secret(secret)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Secret> {
        bytes.try_into().ok().map(Secret)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As one types it (RFC 4648 section 6), without padding.
    pub(crate) fn to_base32(self) -> String {
        let mut out = String::with_capacity(SECRET_BYTES * 8 / 5);
        let (mut bits, mut held) = (0u32, 0u32);
        for byte in self.0 {
            bits = bits << 8 | u32::from(byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                out.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
            }
        }
        out
    }

    /// Spaces and small letters are as good.
    pub(crate) fn from_base32(text: &str) -> Option<Secret> {
        let mut bytes = Vec::with_capacity(SECRET_BYTES);
        let (mut bits, mut held) = (0u32, 0u32);
        for letter in text.bytes().filter(|letter| !matches!(letter, b' ' | b'-')) {
            let letter = letter.to_ascii_uppercase();
            let value = ALPHABET.iter().position(|known| *known == letter)?;
            bits = bits << 5 | u32::try_from(value).ok()?;
            held += 5;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held & 255) as u8);
            }
        }
        Secret::from_bytes(&bytes)
    }

    /// The code of a step.
    fn code(&self, step: u64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let hash = tag.as_ref();
        // RFC 4226 section 5.3: four bytes from where the last one says, without the sign.
        let at = usize::from(hash.last().copied().unwrap_or_default() & 15);
        let number = hash.iter().skip(at).take(4).fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        format!("{:0DIGITS$}", (number & 0x7fff_ffff) % 10u32.pow(DIGITS as u32))
    }

    /// The code at a time, as an app shows it.
    #[cfg(test)]
    pub(crate) fn code_at(&self, unix_ms: u64) -> String {
        self.code(unix_ms / STEP_MS)
    }

    /// The step whose code this is, if that is near and later than `last`, the one whose code was taken last: each is taken
    /// once (RFC 6238 section 5.2).
    pub(crate) fn step_of(&self, code: &str, last: u64, unix_ms: u64) -> Option<u64> {
        let code: String = code.chars().filter(|letter| *letter != ' ').collect();
        let now = unix_ms / STEP_MS;
        let mut steps = now.saturating_sub(TOLERANCE)..=now + TOLERANCE;
        steps.find(|step| *step > last && self.code(*step).as_bytes().ct_eq(code.as_bytes()).into())
    }

    /// What an app reads from a picture (Google Authenticator's Key URI Format).
    pub(crate) fn uri(&self, user: &str, site: &str) -> String {
        let (user, site) = (escaped(user), escaped(site));
        format!("otpauth://totp/popgate%20{site}:{user}?secret={}&issuer=popgate%20{site}", self.to_base32())
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            // Writing into a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// A text as a picture: how many squares it has each way, and the black ones as the path of an SVG in that many units.
pub(crate) fn qr(text: &str) -> Option<(usize, String)> {
    let code = QrCode::new(text).ok()?;
    let width = code.width();
    let mut path = String::new();
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            // Writing into a String cannot fail.
            let _ = write!(path, "M{} {}h1v1h-1z", at % width, at / width);
        }
    }
    Some((width, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RFC: Secret = Secret(*b"12345678901234567890");

    /// RFC 6238 appendix B, the last six of its eight digits.
    #[test]
    fn the_rfcs_codes_are_made() {
        let known = [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ];
        for (secs, code) in known {
            assert_eq!(RFC.code_at(secs * 1_000), code, "{secs}");
        }
    }

    #[test]
    fn a_code_is_taken_once_and_while_it_is_near() {
        let now = 1_111_111_111_000;
        let code = RFC.code_at(now);
        let step = RFC.step_of(&code, 0, now).expect("taken");
        assert_eq!(step, now / STEP_MS);
        assert_eq!(RFC.step_of(&code, step, now), None);
        assert_eq!(RFC.step_of(&code, 0, now + STEP_MS), Some(step));
        assert_eq!(RFC.step_of(&code, 0, now - STEP_MS), Some(step));
        assert_eq!(RFC.step_of(&code, 0, now + 2 * STEP_MS), None);
        assert_eq!(RFC.step_of(&code, 0, now - 2 * STEP_MS), None);
        // Nor an older one, once a later has been taken.
        assert_eq!(RFC.step_of(&RFC.code_at(now - STEP_MS), step, now), None);
    }

    #[test]
    fn a_code_may_be_typed_in_two_halves_and_what_is_none_is_refused() {
        let now = 59_000;
        assert!(RFC.step_of("287 082", 0, now).is_some());
        for code in ["", "28708", "2870820", "287083", "２８７０８２"] {
            assert_eq!(RFC.step_of(code, 0, now), None, "{code}");
        }
    }

    #[test]
    fn a_secret_is_typed_in_letters_and_digits() {
        assert_eq!(RFC.to_base32(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert!(Secret::from_base32("gezd gnbv gy3t qojq GEZD-GNBV-GY3T-QOJQ") == Some(RFC));
        for text in ["", "GEZDGNBVGY3TQOJQ", "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJ1"] {
            assert!(Secret::from_base32(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_app_reads_whose_secret_it_is_from_a_picture() {
        let uri = RFC.uri("anna@example.net", "fra1");
        assert_eq!(
            uri,
            "otpauth://totp/popgate%20fra1:anna%40example.net?\
             secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=popgate%20fra1"
        );
        let (width, path) = qr(&uri).expect("a picture");
        assert!(width > 21 && path.starts_with("M0 0h1v1h-1z"), "{width}");
    }
}
