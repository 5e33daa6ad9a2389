//! The way to the first user: a secret in a file of the state directory, good for a day and for one owner. `popgate setup-link`
//! prints it as a link; behind a `#`, which browsers send to nobody, it is in no log.
//!
//! The file holds the secret, a space, and when it was made, in milliseconds since the Unix epoch.

use super::store::Store;
use crate::store::whole;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::FlockOperation;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use subtle::ConstantTimeEq;

/// The secret's file in the state directory.
pub(crate) const FILE_NAME: &str = "setup-secret";

const LIFETIME_MS: u64 = 24 * 3_600_000;

struct Kept {
    secret: String,
    made_ms: u64,
}

impl Kept {
    fn is_good(&self, now_ms: u64) -> bool {
        // A clock that was set back makes no secret last for years.
        now_ms.abs_diff(self.made_ms) < LIFETIME_MS
    }
}

fn read(state_dir: &Path) -> io::Result<Option<Kept>> {
    let text = match fs::read_to_string(state_dir.join(FILE_NAME)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let kept = text.trim_end().split_once(' ').and_then(|(secret, made)| {
        let made_ms = made.parse().ok()?;
        Some(Kept { secret: secret.to_owned(), made_ms })
    });
    Ok(kept)
}

/// The secret in the file; where there is none, or it is too old, one made of `random` and kept there.
pub(super) fn ensure(state_dir: &Path, random: impl FnOnce() -> [u8; 32], now_ms: u64) -> io::Result<String> {
    // Two may ask at once, as the screens at two consoles do; both are told the same.
    let alone = fs::File::open(state_dir)?;
    rustix::fs::flock(&alone, FlockOperation::LockExclusive)?;
    if let Some(kept) = read(state_dir)?.filter(|kept| kept.is_good(now_ms)) {
        return Ok(kept.secret);
    }
    let secret = URL_SAFE_NO_PAD.encode(random());
    whole::create(&state_dir.join(FILE_NAME), |file| writeln!(file, "{secret} {now_ms}"))?;
    Ok(secret)
}

/// Whether this is the secret, and still good.
pub(super) fn admits(state_dir: &Path, presented: &str, now_ms: u64) -> io::Result<bool> {
    let kept = read(state_dir)?.filter(|kept| kept.is_good(now_ms));
    Ok(kept.is_some_and(|kept| kept.secret.as_bytes().ct_eq(presented.as_bytes()).into()))
}

/// It has served.
pub(super) fn forget(state_dir: &Path) -> io::Result<()> {
    whole::remove(&state_dir.join(FILE_NAME))
}

/// The link for whoever is on the box: to the page at `url` that makes the first owner.
///
/// # Errors
/// For the operator: there are users already, or the disk's.
pub(crate) fn setup_link(
    state_dir: &Path,
    url: &str,
    random: impl FnOnce() -> [u8; 32],
    now_unix_ms: u64,
) -> Result<String, String> {
    let failed = |error: io::Error| format!("{}: {error}", state_dir.display());
    if !state_dir.join(super::store::FILE_NAME).exists() {
        return Err(format!("{}: no popgate has run with this state directory yet", state_dir.display()));
    }
    let has_users = Store::open(state_dir).map_err(failed)?.has_users().map_err(|error| error.to_string())?;
    if has_users {
        return Err("there are users already; `popgate users` lists and changes them".to_owned());
    }
    let secret = ensure(state_dir, random, now_unix_ms).map_err(failed)?;
    Ok(format!("{}/#setup={secret}", url.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_secret_is_good_for_a_day_and_then_there_is_another() {
        let state = tempfile::tempdir().expect("a directory");
        let first = ensure(state.path(), || [1; 32], 1_000).expect("made");
        assert_eq!(fs::metadata(state.path().join(FILE_NAME)).expect("is there").mode() & 0o777, 0o600);
        let day = 1_000 + LIFETIME_MS;
        assert_eq!(ensure(state.path(), || [2; 32], day - 1).expect("kept"), first);
        assert!(admits(state.path(), &first, day - 1).expect("read"));
        assert!(!admits(state.path(), "", 1_000).expect("read"));
        assert!(!admits(state.path(), &first[1..], 1_000).expect("read"));
        assert!(!admits(state.path(), &first, day).expect("read"));
        let second = ensure(state.path(), || [2; 32], day).expect("made");
        assert_ne!(first, second);
        assert!(!admits(state.path(), &first, day).expect("read"));
        forget(state.path()).expect("gone");
        assert!(!admits(state.path(), &second, day).expect("read"));
    }

    #[test]
    fn whoever_asks_at_once_gets_the_same() {
        let state = tempfile::tempdir().expect("a directory");
        let ask = &|byte| ensure(state.path(), || [byte; 32], 1_000).expect("made");
        let told: Vec<String> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|byte| scope.spawn(move || ask(byte))).collect();
            asked.into_iter().map(|it| it.join().expect("no panic")).collect()
        });
        assert!(told.iter().all(|one| *one == told[0]));
    }

    #[test]
    fn a_box_that_has_users_has_no_link() {
        use super::super::{Role, store::NewUser};
        let state = tempfile::tempdir().expect("a directory");
        let link = || setup_link(state.path(), "http://127.0.0.1:8443/", || [1; 32], 1_000);
        assert!(link().expect_err("refused").contains("no popgate has run"));
        let store = Store::open(state.path()).expect("made");
        assert_eq!(
            link().expect("a link"),
            format!("http://127.0.0.1:8443/#setup={}", URL_SAFE_NO_PAD.encode([1; 32]))
        );
        let anna = NewUser {
            name: "anna",
            role: Role::Owner,
            tenant: None,
            password: "",
            must_change_password: false,
            totp: None,
        };
        store.add_user(&anna, 1_000).expect("added");
        assert!(link().expect_err("refused").contains("users already"));
    }
}
