//! The audit log: who changed what, when, and from where; append-only, each entry bound to the one before.
//!
//! A line of `STATE-DIR/audit.log` is a hash, a space, and the entry in JSON; the hash is the SHA-256 of the hash in the line
//! before (64 zeros for the first), a newline, and the JSON. Whoever changes, removes or reorders a line breaks the chain
//! behind it. Lines cut off at the end leave a shorter chain that is whole: against that, the last hash is to be kept
//! elsewhere.

use super::revisions::{Who, hash_of};
use crate::model::Civil;
use crate::store::whole;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use utoipa::ToSchema;

/// The log's file in the state directory.
pub const FILE_NAME: &str = "audit.log";

const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A configuration is about to be put in force.
    Commit,
    /// It was not: the detail says why.
    CommitFailed,
    Confirm,
    /// An earlier configuration is put in force, for the reason that the detail tells.
    Revert,
    /// A candidate was written.
    Edit,
    /// A candidate was given up.
    Discard,
    SignIn,
    /// Somebody was not let in. Where there are many, only some are written down, with how many were not.
    SignInFailed,
    SignOut,
    /// What a user is, or may; or how they sign in.
    UserChange,
    /// An API token was made or revoked.
    TokenChange,
    /// A tenant's packets are captured.
    Capture,
    /// Sessions were ended.
    Clear,
    /// A code for a branch was made, used, approved, refused or revoked.
    Enrolment,
    /// A new version of the box was given to it, or not taken.
    Update,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    pub unix_ms: u64,
    #[serde(flatten)]
    pub who: Who,
    pub action: Action,
    /// The revision that it makes, or is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// It is about this tenant, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub detail: String,
}

/// The log, open for more.
#[derive(Debug)]
pub struct Audit {
    file: File,
    last: String,
}

/// How far a log is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub entries: Vec<Entry>,
    /// The last entry's hash: of a log that was whole before, the same hash stands in it at the same place.
    pub last: String,
}

/// A log that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Counted from 1.
    pub line: usize,
    pub why: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Broken {}

impl Audit {
    /// Opens the log in `state_dir`, or begins it. A last line that was not written whole was never an entry, and goes.
    /// A broken chain goes on from its last line: it is broken for everybody who verifies it, and what comes is kept.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(state_dir: &Path) -> io::Result<Audit> {
        let mut options = OpenOptions::new();
        let path = state_dir.join(FILE_NAME);
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        let last = text[..whole].lines().last().and_then(|line| line.split(' ').next()).unwrap_or(FIRST);
        whole::sync(state_dir)?;
        Ok(Audit { file, last: last.to_owned() })
    }

    /// Adds an entry, which is on the disk when this returns, and gives its hash.
    ///
    /// # Errors
    /// The disk's; then nothing was added.
    pub fn add(&mut self, entry: &Entry) -> io::Result<&str> {
        let json = serde_json::to_string(entry)?;
        let hash = link(&self.last, &json);
        let before = self.file.seek(SeekFrom::End(0))?;
        let written =
            self.file.write_all(format!("{hash} {json}\n").as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a line would swallow the next one.
            self.file.set_len(before)?;
            return Err(error);
        }
        self.last = hash;
        Ok(&self.last)
    }
}

impl Action {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Action::Commit => "commit",
            Action::CommitFailed => "commit-failed",
            Action::Confirm => "confirm",
            Action::Revert => "revert",
            Action::Edit => "edit",
            Action::Discard => "discard",
            Action::SignIn => "sign-in",
            Action::SignInFailed => "sign-in-failed",
            Action::SignOut => "sign-out",
            Action::UserChange => "user-change",
            Action::TokenChange => "token-change",
            Action::Capture => "capture",
            Action::Clear => "clear",
            Action::Enrolment => "enrolment",
            Action::Update => "update",
        }
    }
}

/// An entry as a syslog message (RFC 5424 section 6), with its hash: who keeps these messages finds out about a log that was cut
/// short. Facility 13, log audit, and severity 5, notice.
pub fn syslog(entry: &Entry, hash: &str, site: &str) -> String {
    const PRIORITY: u8 = 13 * 8 + 5;
    let Civil { year, month, day, hour, minute, second } = Civil::at(entry.unix_ms / 1_000);
    let millis = entry.unix_ms % 1_000;
    let time = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
    let revision = entry.revision.map_or_else(String::new, |revision| format!(" revision=\"{revision}\""));
    // 32473 stands for an enterprise that has no number of its own (RFC 5612).
    format!(
        "<{PRIORITY}>1 {time} {site} popgate - {} [audit@32473 user=\"{}\" from=\"{}\"{revision} hash=\"{hash}\"] {}",
        entry.action.name(),
        quoted(&entry.who.user),
        quoted(&entry.who.from),
        entry.detail.replace(|it: char| it.is_control(), " "),
    )
}

/// A parameter's value (RFC 5424 section 6.3.3).
fn quoted(text: &str) -> String {
    text.chars()
        .flat_map(|it| matches!(it, '"' | '\\' | ']').then_some('\\').into_iter().chain([it]))
        .collect()
}

/// The entries of the log in `state_dir`, none if there is none.
///
/// # Errors
/// It cannot be read; or the first line that is not what was written, as an error of its own.
pub fn verify(state_dir: &Path) -> io::Result<Result<Verified, Broken>> {
    match std::fs::read_to_string(state_dir.join(FILE_NAME)) {
        Ok(text) => Ok(verify_text(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(verify_text("")),
        Err(error) => Err(error),
    }
}

fn verify_text(text: &str) -> Result<Verified, Broken> {
    let mut verified = Verified { entries: Vec::new(), last: FIRST.to_owned() };
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let broken = |why| Broken { line: at + 1, why };
        let line = line.strip_suffix('\n').ok_or(broken("it is cut short"))?;
        let (hash, json) = line.split_once(' ').ok_or(broken("it is no entry"))?;
        if link(&verified.last, json) != hash {
            return Err(broken(
                "it does not follow from the one before: one of them was changed or taken away",
            ));
        }
        verified.entries.push(serde_json::from_str(json).map_err(|_| broken("it is no entry"))?);
        hash.clone_into(&mut verified.last);
    }
    Ok(verified)
}

fn link(before: &str, json: &str) -> String {
    hash_of(&format!("{before}\n{json}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        let who = Who { user: "admin".into(), from: "SIGHUP".into() };
        let detail = "tenants/acme.toml\n+1 -0".to_owned();
        Entry { unix_ms: number, who, action: Action::Commit, revision: Some(number), tenant: None, detail }
    }

    fn log_of(entries: u64) -> tempfile::TempDir {
        let state = tempfile::tempdir().expect("a directory");
        for number in 0..entries {
            // Opened anew each time, as over restarts.
            Audit::open(state.path()).expect("open").add(&entry(number)).expect("added");
        }
        state
    }

    #[test]
    fn entries_are_verified_as_they_were_added_over_restarts() {
        let state = log_of(5);
        let verified = verify(state.path()).expect("readable").expect("whole");
        assert_eq!(verified.entries, (0..5).map(entry).collect::<Vec<_>>());
        assert_eq!(verify(&state.path().join("none")).expect("readable").expect("whole").entries, []);
    }

    #[test]
    fn a_line_that_is_changed_taken_away_or_moved_is_found() {
        let state = log_of(5);
        let path = state.path().join(FILE_NAME);
        let text = std::fs::read_to_string(&path).expect("readable");
        let lines: Vec<&str> = text.lines().collect();
        let changed = text.replacen("\"unix-ms\":2", "\"unix-ms\":9", 1);
        let without =
            |index| lines.iter().enumerate().filter(move |(at, _)| *at != index).map(|(_, line)| *line);
        let taken_away = without(1).collect::<Vec<_>>().join("\n") + "\n";
        let mut moved = lines.clone();
        moved.swap(1, 2);
        let moved = moved.join("\n") + "\n";
        for (text, line) in [(changed, 3), (taken_away, 2), (moved, 2)] {
            assert_eq!(verify_text(&text).expect_err("broken").line, line);
        }
        assert_eq!(verify_text(&text[..text.len() - 1]).expect_err("broken").line, 5);
    }

    #[test]
    fn every_changed_bit_is_found() {
        let text = std::fs::read(log_of(2).path().join(FILE_NAME)).expect("readable");
        for at in 0..text.len() * 8 {
            let mut text = text.clone();
            text[at / 8] ^= 1 << (at % 8);
            // What is no text any more cannot even be read.
            assert!(String::from_utf8(text).map_or(true, |text| verify_text(&text).is_err()), "bit {at}");
        }
    }

    #[test]
    fn an_entry_is_a_syslog_message_whatever_is_in_it() {
        let mut entry = entry(1_700_000_000_042);
        entry.revision = Some(7);
        entry.who.from = "a]\"\\".to_owned();
        let expected = "<109>1 2023-11-14T22:13:20.042Z fra1 popgate - commit [audit@32473 user=\"admin\" \
                        from=\"a\\]\\\"\\\\\" revision=\"7\" hash=\"ab\"] tenants/acme.toml +1 -0";
        assert_eq!(syslog(&entry, "ab", "fra1"), expected);
    }

    #[test]
    fn half_a_line_that_a_power_cut_left_is_no_entry() {
        let state = log_of(3);
        let path = state.path().join(FILE_NAME);
        let text = std::fs::read_to_string(&path).expect("readable");
        for cut in 1..60 {
            std::fs::write(&path, &text[..text.len() - cut]).expect("written");
            Audit::open(state.path()).expect("open").add(&entry(7)).expect("added");
            let verified = verify(state.path()).expect("readable").expect("whole");
            assert_eq!(verified.entries.iter().map(|entry| entry.unix_ms).collect::<Vec<_>>(), [0, 1, 7]);
        }
    }
}
