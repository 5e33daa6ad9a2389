//! Keys: base64 in and out, the public half of a private one, and the files that private ones are kept in.
//!
//! All as `wg` does it, so that keys made by either work with the other. Nothing here puts a secret into a message.

use super::{PresharedKey, PrivateKey, PublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use x25519_dalek::StaticSecret;

/// Not a key: 32 bytes in base64 make 44 characters, the last of which is `=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKey;

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a key of 32 bytes in base64")
    }
}

impl std::error::Error for NotAKey {}

impl PrivateKey {
    /// A private key out of 32 random bytes, clamped (RFC 7748 section 5).
    pub fn from_random(mut bytes: [u8; 32]) -> PrivateKey {
        bytes[0] &= 0b1111_1000;
        bytes[31] = (bytes[31] & 0b0111_1111) | 0b0100_0000;
        PrivateKey(bytes)
    }

    /// For writing the key to its file, and nowhere else.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

/// The public key that belongs to `private`; clamps, as `wg pubkey` does.
pub fn public_of(private: &PrivateKey) -> PublicKey {
    PublicKey(x25519_dalek::PublicKey::from(&StaticSecret::from(private.0)).to_bytes())
}

impl FromStr for PrivateKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<PrivateKey, NotAKey> {
        decode(text).map(PrivateKey)
    }
}

impl FromStr for PresharedKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<PresharedKey, NotAKey> {
        decode(text).map(PresharedKey)
    }
}

impl FromStr for PublicKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<PublicKey, NotAKey> {
        decode(text).map(PublicKey)
    }
}

fn decode(text: &str) -> Result<[u8; 32], NotAKey> {
    STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NotAKey)
}

/// Reads the key in the file that the configuration calls `name` and that lies at `path`, or says what is wrong with
/// it. White space around the key is allowed; anybody else being allowed to read the file is not.
pub(super) fn read_key_file<K: FromStr<Err = NotAKey>>(name: &str, path: &Path) -> Result<K, String> {
    // Somebody wrote the key itself where its file's name belongs: it must not get into a message.
    if decode(name).is_ok() {
        return Err("this is a key itself; put it in a file of its own and write that file's name".to_owned());
    }
    // 128: a key is 44 bytes, the rest is room for white space.
    let text = read_file(path, Access::OwnerAlone, 128)?;
    std::str::from_utf8(&text)
        .map_err(|_| NotAKey)
        .and_then(|text| text.trim_ascii().parse())
        .map_err(|error| format!("{} is {error}", path.display()))
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Anybody,
    /// There is a secret in it.
    OwnerAlone,
}

/// The first `limit` bytes of the file at `path`, or what is wrong with it.
pub(super) fn read_file(path: &Path, access: Access, limit: u64) -> Result<Vec<u8>, String> {
    let cannot_read = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => format!("there is no file {}", path.display()),
        _ => format!("{} cannot be read: {error}", path.display()),
    };
    // Looked at before it is opened: opening a FIFO would wait for whoever writes to it.
    if !std::fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let file = File::open(path).map_err(cannot_read)?;
    let mode = file.metadata().map_err(cannot_read)?.permissions().mode();
    if access == Access::OwnerAlone && mode & 0o077 != 0 {
        let (path, mode) = (path.display(), mode & 0o7777);
        return Err(format!("{path} is open to others (mode {mode:04o}); chmod 600 {path}"));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(cannot_read)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 section 6.1.
    #[test]
    fn the_public_half_is_the_rfcs() {
        let private = PrivateKey([
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ]);
        assert_eq!(public_of(&private).to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn clamping_a_key_does_not_change_its_public_half() {
        for byte in [0x00, 0x5a, 0xff] {
            let raw = PrivateKey([byte; 32]);
            assert_eq!(public_of(&PrivateKey::from_random(raw.0)), public_of(&raw));
        }
    }

    #[test]
    fn only_32_bytes_in_strict_base64_are_a_key() {
        let key = PrivateKey::from_random([7; 32]);
        assert_eq!(key.to_base64().parse(), Ok(key.clone()));
        let text = key.to_base64();
        for wrong in
            ["", &text[..43], &format!("{text}="), &format!(" {text}"), "AAAA", &text.replace('=', "A")]
        {
            assert_eq!(wrong.parse::<PublicKey>(), Err(NotAKey), "{wrong:?} was taken");
        }
    }
}
