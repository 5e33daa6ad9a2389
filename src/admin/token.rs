//! The box's own token: made at first start, kept in a file that only its owner reads, it opens the API to whoever is root on
//! the box. What programs elsewhere come with are API tokens, which users make; a client reads either from a file.

use super::access::TOKEN_PREFIX;
use crate::store::whole;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::geteuid;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// The token's file in the state directory.
pub const FILE_NAME: &str = "admin-token";

/// 32 bytes, 256 bits: beyond guessing, so that wrong guesses need no counting.
const SECRET_BYTES: usize = 32;

/// 43 characters of base64url; of an API token, with what those begin with before it. Never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token made of these random bytes.
    pub fn from_bytes(secret: [u8; SECRET_BYTES]) -> Token {
        Token(URL_SAFE_NO_PAD.encode(secret))
    }

    /// Whether `presented` is this token; takes as long wherever the first difference is.
    pub fn admits(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }

    /// Whether a text holds it.
    pub(super) fn is_in(&self, text: &str) -> bool {
        text.contains(&self.0)
    }

    /// The `Authorization` header that presents it.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    fn parse(text: &str) -> Option<Token> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let secret = URL_SAFE_NO_PAD.decode(text.strip_prefix(TOKEN_PREFIX).unwrap_or(text)).ok()?;
        (secret.len() == SECRET_BYTES).then(|| Token(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Why there is no token; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: may be read by others (mode {mode:04o}): chmod 600 it, or remove it to have a new one made",
        .path.display())]
    ReadableByOthers { path: PathBuf, mode: u32 },
    #[error("{}: belongs to another user (uid {owner})", .path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("{}: holds no admin token: remove it to have a new one made", .path.display())]
    Malformed { path: PathBuf },
}

/// The token kept in `state_dir`; where there is none, one made of `random` bytes and kept there from now on.
pub fn load_or_create(
    state_dir: &Path,
    random: impl FnOnce() -> [u8; SECRET_BYTES],
) -> Result<Token, TokenError> {
    let path = state_dir.join(FILE_NAME);
    match load(&path) {
        Err(TokenError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => {
            let token = Token::from_bytes(random());
            let kept =
                make_dir(state_dir).and_then(|()| whole::create(&path, |file| writeln!(file, "{}", token.0)));
            kept.map_err(|error| TokenError::Io { path, error })?;
            Ok(token)
        }
        Ok(token) if token.0.starts_with(TOKEN_PREFIX) => Err(TokenError::Malformed { path }),
        Ok(token) => match fs::metadata(&path).map(|metadata| metadata.uid()) {
            // Whoever owns the file knows the token.
            Ok(owner) if owner != geteuid().as_raw() => Err(TokenError::NotOurs { path, owner }),
            _ => Ok(token),
        },
        Err(error) => Err(error),
    }
}

/// The token kept in the file at `path`, if none but its owner can read it there.
pub fn load(path: &Path) -> Result<Token, TokenError> {
    let failed = |error| TokenError::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    // Of the file that is open, not of whatever the path names by then.
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(TokenError::ReadableByOthers { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    let mut text = String::new();
    // 1 KiB: many times a token, should the path name something else.
    file.take(1024).read_to_string(&mut text).map_err(failed)?;
    Token::parse(&text).ok_or_else(|| TokenError::Malformed { path: path.to_owned() })
}

/// Makes the directory of the box's secrets, if it is not there, for its owner alone.
fn make_dir(state_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    const SECRET: [u8; 32] = [7; 32];

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let parent = tempfile::tempdir().expect("a directory");
        let state_dir = parent.path().join("state");
        let made = load_or_create(&state_dir, || SECRET).expect("a token");
        let mode = |path: &Path| fs::metadata(path).expect("is there").mode() & 0o7777;
        assert_eq!(mode(&state_dir), 0o700);
        assert_eq!(mode(&state_dir.join(FILE_NAME)), 0o600);
        let found = load_or_create(&state_dir, || panic!("there is one already")).expect("the token");
        assert_eq!(made.0, found.0);
        assert_eq!(fs::read_dir(&state_dir).expect("a directory").count(), 1);
    }

    #[test]
    fn what_a_crash_left_behind_is_in_nobodys_way() {
        let state_dir = tempfile::tempdir().expect("a directory");
        fs::write(state_dir.path().join(".admin-token.new"), "half").expect("written");
        let made = load_or_create(state_dir.path(), || SECRET).expect("a token");
        assert_eq!(load(&state_dir.path().join(FILE_NAME)).expect("a token").0, made.0);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_left_alone() {
        let state_dir = tempfile::tempdir().expect("a directory");
        load_or_create(state_dir.path(), || SECRET).expect("a token");
        let path = state_dir.path().join(FILE_NAME);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
            let refused = load_or_create(state_dir.path(), || [9; 32]).expect_err("refused");
            assert!(refused.to_string().contains(&format!("(mode {mode:04o}): chmod 600")), "{refused}");
        }
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused() {
        let state_dir = tempfile::tempdir().expect("a directory");
        load_or_create(state_dir.path(), || SECRET).expect("a token");
        let path = state_dir.path().join(FILE_NAME);
        for text in ["", "secret\n", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw\n", &"B".repeat(5_000)] {
            fs::write(&path, text).expect("written");
            assert!(matches!(load(&path), Err(TokenError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        let token = Token::from_bytes(SECRET);
        assert!(token.admits(&token.0.clone()));
        assert!(!token.admits(""));
        assert!(!token.admits(&token.0[..42]));
        assert!(!token.admits(&format!("{} ", token.0)));
        assert!(!token.admits(&token.0.to_lowercase()));
    }

    #[test]
    fn the_token_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", Token::from_bytes(SECRET)), "Token(hidden)");
    }

    #[test]
    fn an_api_token_is_a_clients_and_never_the_boxs_own() {
        let state_dir = tempfile::tempdir().expect("a directory");
        let made = load_or_create(state_dir.path(), || SECRET).expect("a token");
        let path = state_dir.path().join(FILE_NAME);
        fs::write(&path, format!("{TOKEN_PREFIX}{}\n", made.0)).expect("written");
        assert_eq!(load(&path).expect("a token").authorization(), format!("Bearer {TOKEN_PREFIX}{}", made.0));
        let refused = load_or_create(state_dir.path(), || SECRET).expect_err("refused");
        assert!(matches!(refused, TokenError::Malformed { .. }));
    }
}
