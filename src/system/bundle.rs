//! What somebody who is to help needs to see of a box, without what nobody else may know.
//!
//! No file that holds a secret is taken. And of every text that is taken, each secret that the box has is taken out wherever it stands:
//! keys, tokens, links and passwords' files are read to know what to look for.

use super::backup::{Kept, Stage};
use super::programs::said;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What stands in a secret's place.
const TAKEN_OUT: &str = "[secret]";
/// Shorter words are in too much else to be looked for, and are no secrets of the box's making.
const SHORTEST: usize = 12;
/// Larger files hold no key.
const LARGEST: u64 = 64 * 1024;

/// What is asked, and the file that it is put into.
const ASKED: [(&str, &[&str]); 22] = [
    ("system/uname", &["uname", "-a"]),
    ("system/os-release", &["cat", "/etc/os-release"]),
    ("system/uptime", &["uptime"]),
    ("system/memory", &["free", "-m"]),
    ("system/disks", &["df", "-h"]),
    ("system/units", &["systemctl", "status", "--no-pager", "--lines=0", "popgate*"]),
    ("system/failed", &["systemctl", "--failed", "--no-pager"]),
    ("system/clock", &["timedatectl"]),
    ("system/kernel-log", &["journalctl", "--dmesg", "--no-pager", "--lines=500"]),
    (
        "system/log",
        &["journalctl", "--unit=popgate*", "--no-pager", "--lines=5000", "--output=short-iso-precise"],
    ),
    ("network/links", &["ip", "-d", "-s", "link"]),
    ("network/addresses", &["ip", "address"]),
    ("network/routes-v4", &["ip", "-4", "route", "show", "table", "all"]),
    ("network/routes-v6", &["ip", "-6", "route", "show", "table", "all"]),
    ("network/rules-v4", &["ip", "-4", "rule"]),
    ("network/rules-v6", &["ip", "-6", "rule"]),
    ("network/namespaces", &["ip", "netns"]),
    ("network/filters", &["nft", "list", "ruleset"]),
    ("network/sockets", &["ss", "-tulpn"]),
    ("network/counters", &["nstat", "-az"]),
    ("network/managed", &["networkctl", "list"]),
    ("network/resolvers", &["resolvectl", "status"]),
];
/// Of the running box, by `popgate show`.
const SHOWN: [&str; 8] =
    ["status", "paths", "drops", "rules", "decisions", "queues", "exporters", "handoffs"];

/// Writes the bundle (a tar archive, gzip) to `file`. `popgate` is this program, `doctor` what it found.
///
/// # Errors
/// The disk's; or that tar failed. What cannot be asked is told in the bundle in its place.
pub fn bundle(kept: &Kept, popgate: &Path, doctor: &str, file: &Path) -> io::Result<()> {
    let stage = Stage::new(&kept.state)?;
    let secrets = Secrets::of(kept);
    let put = |name: &str, text: &str| {
        let path = stage.0.join(name);
        let dir = path.parent().unwrap_or(&stage.0);
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::write(path, secrets.taken_out_of(text))
    };
    put("doctor", doctor)?;
    for (name, line) in ASKED {
        put(name, &said(line).unwrap_or_else(|why| format!("not to be had: {why}\n")))?;
    }
    let popgate = popgate.to_string_lossy();
    for what in SHOWN {
        let line = [&*popgate, "show", what, "--json"];
        put(
            &format!("popgate/{what}.json"),
            &said(&line).unwrap_or_else(|why| format!("not to be had: {why}\n")),
        )?;
    }
    put("popgate/version", &format!("{}\n", env!("CARGO_PKG_VERSION")))?;
    put(
        "popgate/check",
        &said(&[&popgate, "check", &kept.config.to_string_lossy()]).unwrap_or_else(|why| why + "\n"),
    )?;
    for path in documents(&kept.config) {
        let name = path.strip_prefix(&kept.config).unwrap_or(&path).to_string_lossy().into_owned();
        put(
            &format!("config/{name}"),
            &fs::read_to_string(&path).unwrap_or_else(|error| format!("{error}\n")),
        )?;
    }
    let (file, stage) = (file.to_string_lossy(), stage.0.to_string_lossy());
    said(&["tar", "--create", "--gzip", "--file", &file, "--directory", &stage, "."])
        .map(drop)
        .map_err(io::Error::other)
}

/// The files that a configuration is read from; nothing that it names.
fn documents(config: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in [config.to_owned(), config.join(crate::config::TENANTS_DIR)] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        found
            .extend(entries.filter(|path| path.is_file() && path.extension().is_some_and(|it| it == "toml")));
    }
    found
}

/// Words that nobody else may know, the longest first: one may be part of another.
struct Secrets(Vec<String>);

impl Secrets {
    /// All words of the files that are nobody's but their owner's, besides the documents themselves.
    fn of(kept: &Kept) -> Secrets {
        let mut words = Vec::new();
        let documents = documents(&kept.config);
        for dir in [&kept.config, &kept.state] {
            gather(dir, &documents, &mut words);
        }
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        words.dedup();
        Secrets(words)
    }

    fn taken_out_of(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.0.iter().filter(|secret| text.contains(secret.as_str())).collect::<Vec<_>>() {
            text = text.replace(secret.as_str(), TAKEN_OUT);
        }
        text
    }
}

/// The folder's files, as far as they can be secrets: data, revisions and logs of what was done are not.
fn gather(dir: &Path, documents: &[PathBuf], words: &mut Vec<String>) {
    const NO_SECRETS: [&str; 4] = ["revisions", "candidates", "audit.log", "users.db"];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if crate::store::DATA_DIRS.contains(&&*name)
            || NO_SECRETS.contains(&&*name)
            || documents.contains(&path)
        {
            continue;
        }
        match fs::symlink_metadata(&path) {
            Ok(it) if it.is_dir() => gather(&path, documents, words),
            Ok(it) if it.is_file() && it.len() <= LARGEST => {
                let text = fs::read(&path).unwrap_or_default();
                // Of PEM and the like each line is a word, of JSON what stands between quotes.
                let apart = |it: char| it.is_whitespace() || matches!(it, '"' | ',' | ':');
                let text = String::from_utf8_lossy(&text).into_owned();
                words.extend(text.split(apart).filter(|word| word.len() >= SHORTEST).map(str::to_owned));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_secret_a_text_has_is_taken_out_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let (config, state) = (dir.path().join("config"), dir.path().join("state"));
        fs::create_dir_all(config.join("keys")).expect("made");
        fs::create_dir_all(state.join("revisions")).expect("made");
        fs::write(config.join("popgate.toml"), "site = \"berlin-is-no-secret\"\n").expect("written");
        fs::write(config.join("keys/dsl.key"), "wKxJ9c0y0k7yZ0mB8hK2p1Q3s5u7v9x1z3B5D7F9H1A=\n")
            .expect("written");
        fs::write(state.join("admin-token"), "token-of-the-box-itself\n").expect("written");
        fs::write(state.join("revisions/1"), "berlin-is-no-secret\n").expect("written");
        let secrets = Secrets::of(&Kept { config, state });
        let text = "berlin-is-no-secret had wKxJ9c0y0k7yZ0mB8hK2p1Q3s5u7v9x1z3B5D7F9H1A= and token-of-the-box-itself.";
        assert_eq!(secrets.taken_out_of(text), "berlin-is-no-secret had [secret] and [secret].");
    }
}
