//! Passwords: argon2id (RFC 9106), as strings in the form of the password hashing competition:
//! `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`. Each names what it was made with, so that more can be asked of later ones.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq;

/// 12 characters: below that, whoever has the hashes has the passwords. Nothing is said of which characters (NIST SP 800-63B
/// section 3.1.1.2).
pub(crate) const SHORTEST: usize = 12;
/// 256 characters: nobody types more, and each costs time.
pub(crate) const LONGEST: usize = 256;

/// 19 MiB, 2 passes, 1 lane: OWASP's Password Storage Cheat Sheet.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const HASH_BYTES: usize = 32;

/// A random beginning, so that equal passwords have different hashes.
pub(crate) type Salt = [u8; 16];

/// What is wrong with a new password; for whoever chose it.
pub(crate) fn check(password: &str) -> Result<(), String> {
    match password.chars().count() {
        0..SHORTEST => Err(format!("it has to have at least {SHORTEST} characters")),
        SHORTEST..=LONGEST => Ok(()),
        _ => Err(format!("it may have at most {LONGEST} characters")),
    }
}

/// What is kept of a password. Takes some 30 ms and 19 MiB; `None` if there is no memory for it.
pub(crate) fn hash(password: &str, salt: Salt) -> Option<String> {
    let hash = derive(password, &salt, MEMORY_KIB, PASSES, LANES)?;
    let [salt, hash] = [&salt[..], &hash[..]].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    Some(format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}"))
}

/// Whether a password is the one of which `kept` was made. Takes as long, whatever the answer.
pub(crate) fn verify(password: &str, kept: &str) -> bool {
    let Some((salt, memory, passes, lanes, expected)) = parse(kept) else { return false };
    derive(password, &salt, memory, passes, lanes).is_some_and(|hash| hash.ct_eq(&expected[..]).into())
}

fn derive(password: &str, salt: &[u8], memory: u32, passes: u32, lanes: u32) -> Option<[u8; HASH_BYTES]> {
    let params = Params::new(memory, passes, lanes, Some(HASH_BYTES)).ok()?;
    let mut hash = [0; HASH_BYTES];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(password.as_bytes(), salt, &mut hash).ok()?;
    Some(hash)
}

type Parsed = (Vec<u8>, u32, u32, u32, Vec<u8>);

fn parse(kept: &str) -> Option<Parsed> {
    let mut fields = kept.strip_prefix("$argon2id$v=19$")?.split('$');
    let (costs, salt, hash) = (fields.next()?, fields.next()?, fields.next()?);
    let mut costs = costs.split(',').zip(["m=", "t=", "p="]);
    let mut cost = || {
        let (text, name) = costs.next()?;
        text.strip_prefix(name)?.parse().ok()
    };
    let (memory, passes, lanes) = (cost()?, cost()?, cost()?);
    let [salt, hash] = [salt, hash].map(|text| STANDARD_NO_PAD.decode(text).ok());
    Some((salt?, memory, passes, lanes, hash?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_again_and_no_other() {
        let kept = hash("correct horse battery", [7; 16]).expect("memory");
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(verify("correct horse battery", &kept));
        assert!(!verify("correct horse batterx", &kept));
        assert!(!verify("", &kept));
        assert_ne!(hash("correct horse battery", [8; 16]), Some(kept));
    }

    /// Made by the reference implementation's command (`echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32`), which
    /// says in its own tests what comes of it.
    #[test]
    fn the_reference_implementations_hashes_are_known() {
        let kept = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(verify("password", kept));
        assert!(!verify("differentpassword", kept));
    }

    #[test]
    fn what_is_no_hash_admits_nobody() {
        for kept in
            ["", "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ", "$argon2i$v=19$m=8,t=1,p=1$YQ$YQ", "password"]
        {
            assert!(!verify("password", kept), "{kept}");
            assert!(!verify("", kept), "{kept}");
        }
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        assert!(check("elf Zeichen").is_err());
        assert!(check("zwölf Buchst").is_ok());
        assert!(check("ääääääääääää").is_ok());
        assert!(check("äääääääääää").is_err());
        assert!(check(&"a".repeat(LONGEST + 1)).is_err());
    }
}
