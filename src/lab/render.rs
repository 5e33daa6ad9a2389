//! Keys and configuration: what a template leaves open is filled in anew at every `up`.
//!
//! `@public-key:NAME@` is the public key of the lab's key pair NAME, `@key:NAME@` the path of its private key file,
//! `@preshared-key:NAME@` the path of a preshared key file, `@state-dir@` the node's state directory. A key is made when
//! it is first spoken of.

use super::LabError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use x25519_dalek::{PublicKey, StaticSecret};

/// The lab's keys: files in a directory, base64 as `wg` has them, readable by the owner alone.
#[derive(Debug)]
pub(super) struct Keys {
    directory: PathBuf,
}

impl Keys {
    pub(super) fn new(directory: PathBuf) -> Keys {
        Keys { directory }
    }

    /// The file of the private key `name`.
    pub(super) fn private_key_file(&self, name: &str) -> io::Result<PathBuf> {
        self.file(name, "key")
    }

    /// The file of the preshared key `name`.
    pub(super) fn preshared_key_file(&self, name: &str) -> io::Result<PathBuf> {
        self.file(name, "psk")
    }

    /// The public key that goes with the private key `name`, base64.
    pub(super) fn public_key(&self, name: &str) -> io::Result<String> {
        let text = fs::read_to_string(self.private_key_file(name)?)?;
        let bytes = STANDARD.decode(text.trim()).map_err(io::Error::other)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| io::Error::other("a key is not 32 bytes long"))?;
        Ok(STANDARD.encode(PublicKey::from(&StaticSecret::from(bytes)).as_bytes()))
    }

    fn file(&self, name: &str, extension: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(format!("{name}.{extension}"));
        let mut bytes = [0; 32];
        OsRng.try_fill_bytes(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        if extension == "key" {
            // Clamped, as `wg genkey` does (RFC 7748 section 5).
            bytes = x25519_dalek::StaticSecret::from(bytes).to_bytes();
            bytes[0] &= 248;
            bytes[31] = (bytes[31] & 127) | 64;
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => writeln!(file, "{}", STANDARD.encode(bytes))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(path)
    }
}

/// Fills in templates for one node.
#[derive(Debug)]
pub(super) struct Renderer<'a> {
    pub(super) keys: &'a Keys,
    pub(super) state_dir: &'a Path,
}

impl Renderer<'_> {
    /// Renders all files under `from` to the same names under `to`.
    pub(super) fn directory(&self, from: &Path, to: &Path) -> Result<(), LabError> {
        let failed = |path: &Path| LabError::io(format!("reading template {}", path.display()));
        for entry in fs::read_dir(from).map_err(failed(from))? {
            let entry = entry.map_err(failed(from))?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            if entry.file_type().map_err(failed(&source))?.is_dir() {
                self.directory(&source, &target)?;
            } else {
                self.file(&source, &target)?;
            }
        }
        Ok(())
    }

    /// Renders one file.
    pub(super) fn file(&self, from: &Path, to: &Path) -> Result<(), LabError> {
        let text =
            fs::read_to_string(from).map_err(LabError::io(format!("reading template {}", from.display())))?;
        self.text(&text, &from.display().to_string(), to)
    }

    /// Renders `text`, which problems call `name`, to the file `to`.
    pub(super) fn text(&self, text: &str, name: &str, to: &Path) -> Result<(), LabError> {
        let mut out = String::new();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let line = self
                .line(line)
                .map_err(|problem| LabError::Problems(vec![format!("{name}:{}: {problem}", index + 1)]))?;
            out.push_str(&line);
        }
        let write = || {
            fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
            fs::write(to, out)
        };
        write().map_err(LabError::io(format!("writing {}", to.display())))
    }

    /// Fills in one line. An `@` that begins nothing of the placeholders' form stays.
    pub(super) fn line(&self, line: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('@') {
            out.push_str(before);
            match after.split_once('@').filter(|(inner, _)| is_placeholder(inner)) {
                Some((placeholder, after)) => {
                    out.push_str(&self.placeholder(placeholder)?);
                    rest = after;
                }
                None => {
                    out.push('@');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn placeholder(&self, placeholder: &str) -> Result<String, String> {
        let path = |path: io::Result<PathBuf>| path.map(|path| path.display().to_string());
        let made = match placeholder.split_once(':') {
            Some(("public-key", name)) => self.keys.public_key(name),
            Some(("key", name)) => path(self.keys.private_key_file(name)),
            Some(("preshared-key", name)) => path(self.keys.preshared_key_file(name)),
            None if placeholder == "state-dir" => Ok(self.state_dir.display().to_string()),
            _ => {
                return Err(format!(
                    "there is no placeholder @{placeholder}@: there are @public-key:NAME@, @key:NAME@, \
                     @preshared-key:NAME@ and @state-dir@"
                ));
            }
        };
        made.map_err(|error| format!("@{placeholder}@: {error}"))
    }
}

fn is_placeholder(text: &str) -> bool {
    let (word, name) = text.split_once(':').map_or((text, None), |(word, name)| (word, Some(name)));
    let lower = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !word.is_empty() && lower(word) && name.is_none_or(|name| !name.is_empty() && lower(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let keys = Keys::new(directory.path().to_owned());
        let first = keys.public_key("fra1").expect("a key");
        assert_eq!(keys.public_key("fra1").expect("a key"), first);
        assert_ne!(keys.public_key("fra2").expect("a key"), first);
        let mode = fs::metadata(directory.path().join("fra1.key")).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn placeholders_are_filled_in_and_other_at_signs_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = Keys::new(directory.path().to_owned());
        let renderer = Renderer { keys: &keys, state_dir: Path::new("/lab/state") };
        let line = |text: &str| renderer.line(text).expect("rendered");
        assert_eq!(
            line("dir = \"@state-dir@\" # noc@example.net, me@home"),
            "dir = \"/lab/state\" # noc@example.net, me@home"
        );
        assert_eq!(
            line("k = \"@public-key:a@\""),
            format!("k = \"{}\"", keys.public_key("a").expect("a key"))
        );
        assert_eq!(line("f = \"@key:a@\""), format!("f = \"{}/a.key\"", directory.path().display()));
        assert!(
            renderer.line("@pubkey:a@").expect_err("unknown").contains("there is no placeholder @pubkey:a@")
        );
    }
}
