//! The configuration's revisions on disk, and which of them is in force.
//!
//! ```text
//! STATE-DIR/revisions/
//!   in-force.json       the number of the revision in force, and whether it is still to be confirmed
//!   12.json             a revision: who made it, when, from where, why, and the texts it is made of by their hashes
//!   texts/HASH          a file's text by its SHA-256; revisions share those that did not change
//! ```
//!
//! Each file is whole or not there, and `in-force.json` is exchanged last, in one rename: whenever the power goes, the
//! box starts with the old configuration or with the new one. No secret is in here: key files are named in the texts, and
//! stay where they are.

use crate::config::Documents;
use crate::store::whole;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use utoipa::ToSchema;

/// The directory in the state directory.
const DIR: &str = "revisions";
const TEXTS: &str = "texts";
const IN_FORCE: &str = "in-force.json";

/// 100, 0 to 99 as one counts back from the one in force: as many as Junos keeps.
pub const KEPT: usize = 100;

/// Who changed something, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Who {
    /// A user's name; of what the box does by itself, `popgate`.
    pub user: String,
    /// An address and port, or what it came by: `SIGHUP`, `start`.
    pub from: String,
}

/// What made a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Files were edited on the box.
    Files,
    /// A candidate was committed.
    Candidate,
    /// An earlier revision was asked for.
    Rollback,
    /// The one before was not confirmed in time.
    Unconfirmed,
    /// The box was worse off with the one before.
    Guard,
}

/// All about a revision but its texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Stamp {
    pub unix_ms: u64,
    #[serde(flatten)]
    pub who: Who,
    pub cause: Cause,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A revision, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Revision {
    /// Counted from 1, never given twice.
    pub number: u64,
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The hash of each file's text, by the file's name.
    pub texts: BTreeMap<String, String>,
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unconfirmed {
    /// The wall clock's: it must outlive a reboot.
    pub deadline_unix_ms: u64,
    /// How long it was at first: a clock that was set back must not lengthen it.
    pub window_ms: u64,
    /// The revision to go back to.
    pub back_to: u64,
}

/// Which revision is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InForce {
    pub revision: u64,
    /// Whether the files in the configuration directory are known to be its texts.
    pub written_out: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
}

/// All revisions that are kept, the newest of which is in force.
#[derive(Debug)]
pub struct Revisions {
    dir: PathBuf,
    in_force: Option<InForce>,
    kept: BTreeMap<u64, Revision>,
}

impl Revisions {
    /// Those in `state_dir`, none if there are none yet.
    ///
    /// # Errors
    /// The disk's; or what is in force cannot be made out, [`ErrorKind::InvalidData`].
    pub fn open(state_dir: &Path) -> io::Result<Revisions> {
        let dir = state_dir.join(DIR);
        DirBuilder::new().recursive(true).mode(0o700).create(dir.join(TEXTS))?;
        whole::remove_unfinished(&dir)?;
        whole::remove_unfinished(&dir.join(TEXTS))?;
        let in_force: Option<InForce> = match fs::read(dir.join(IN_FORCE)) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let last = in_force.map_or(0, |in_force| in_force.revision);
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse().ok());
            match number {
                // Never came into force: the process ended before that.
                Some(number) if number > last => whole::remove(&path)?,
                Some(number) => {
                    kept.insert(number, serde_json::from_slice(&fs::read(&path)?)?);
                }
                None => {}
            }
        }
        if last != 0 && !kept.contains_key(&last) {
            let missing = format!("revision {last} is in force and not there");
            return Err(io::Error::new(ErrorKind::InvalidData, missing));
        }
        Ok(Revisions { dir, in_force, kept })
    }

    /// Moves what is in `state_dir` aside, so that one can begin anew; `tag` tells it from what was moved before.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_aside(state_dir: &Path, tag: u64) -> io::Result<PathBuf> {
        let aside = state_dir.join(format!("{DIR}.unreadable-{tag}"));
        fs::rename(state_dir.join(DIR), &aside)?;
        Ok(aside)
    }

    /// What is in force; `None` before the first commit.
    pub fn in_force(&self) -> Option<InForce> {
        self.in_force
    }

    /// All that are kept, the one in force first.
    pub fn list(&self) -> Vec<&Revision> {
        self.kept.values().rev().collect()
    }

    /// The revision `back` before the one in force, which is 0.
    pub fn back(&self, back: usize) -> Option<&Revision> {
        self.kept.values().rev().nth(back)
    }

    /// The files of a revision.
    ///
    /// # Errors
    /// There is no such revision, [`ErrorKind::NotFound`]; a text is not what it was, [`ErrorKind::InvalidData`]; the disk's.
    pub fn documents(&self, number: u64) -> io::Result<Documents> {
        let revision = self.kept.get(&number);
        let unknown = || io::Error::new(ErrorKind::NotFound, format!("there is no revision {number}"));
        let spoilt = |what: String| io::Error::new(ErrorKind::InvalidData, what);
        let mut texts = BTreeMap::new();
        for (name, hash) in &revision.ok_or_else(unknown)?.texts {
            // A hash is part of a path from here on.
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(spoilt(format!("revision {number}: {hash:?} is no hash")));
            }
            let text = fs::read_to_string(self.dir.join(TEXTS).join(hash))?;
            if hash_of(&text) != *hash {
                return Err(spoilt(format!("revision {number}: the text of {name} is not what it was")));
            }
            texts.insert(name.clone(), text);
        }
        Documents::from_texts(texts).map_err(spoilt)
    }

    /// Keeps a revision made of `texts` and makes it the one in force; gives its number. Not done in part: when this
    /// fails, the one before is still in force.
    ///
    /// # Errors
    /// The disk's.
    pub fn commit(
        &mut self,
        texts: &BTreeMap<String, String>,
        stamp: Stamp,
        written_out: bool,
        unconfirmed: Option<Unconfirmed>,
    ) -> io::Result<u64> {
        let number = self.in_force.map_or(0, |in_force| in_force.revision) + 1;
        let dir = self.dir.join(TEXTS);
        let mut hashes = BTreeMap::new();
        for (name, text) in texts {
            let hash = hash_of(text);
            let path = dir.join(&hash);
            if !path.exists() {
                whole::create(&path, |file| file.write_all(text.as_bytes()))?;
            }
            hashes.insert(name.clone(), hash);
        }
        let revision = Revision { number, stamp, texts: hashes };
        self.write(&format!("{number}.json"), &revision)?;
        self.set(InForce { revision: number, written_out, unconfirmed })?;
        self.kept.insert(number, revision);
        // It is in force: what cannot be taken away now will be at the next commit.
        let _ = self.forget_old();
        Ok(number)
    }

    /// The files in the configuration directory are those of the revision in force now.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_written_out(&mut self) -> io::Result<()> {
        match self.in_force {
            Some(in_force) if !in_force.written_out => self.set(InForce { written_out: true, ..in_force }),
            _ => Ok(()),
        }
    }

    /// The revision in force stays; false if nothing was to be confirmed.
    ///
    /// # Errors
    /// The disk's: it is still to be confirmed.
    pub fn confirm(&mut self) -> io::Result<bool> {
        match self.in_force {
            Some(in_force) if in_force.unconfirmed.is_some() => {
                self.set(InForce { unconfirmed: None, ..in_force })?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn set(&mut self, in_force: InForce) -> io::Result<()> {
        self.write(IN_FORCE, &in_force)?;
        self.in_force = Some(in_force);
        Ok(())
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(value)?;
        whole::create(&self.dir.join(name), |file| file.write_all(&text)).map(drop)
    }

    fn forget_old(&mut self) -> io::Result<()> {
        // What may still be gone back to stays, however many come meanwhile.
        let needed = self.in_force.and_then(|in_force| in_force.unconfirmed).map(|it| it.back_to);
        let old: Vec<u64> = self.kept.keys().rev().skip(KEPT).copied().collect();
        let old = old.into_iter().filter(|number| Some(*number) != needed);
        let old: Vec<u64> = old.collect();
        for number in &old {
            whole::remove(&self.dir.join(format!("{number}.json")))?;
            self.kept.remove(number);
        }
        if !old.is_empty() {
            let used: BTreeSet<&String> =
                self.kept.values().flat_map(|revision| revision.texts.values()).collect();
            for entry in fs::read_dir(self.dir.join(TEXTS))? {
                let entry = entry?;
                if !used.contains(&entry.file_name().to_string_lossy().into_owned()) {
                    whole::remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// SHA-256 in hexadecimal digits.
pub fn hash_of(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |mut hash, byte| {
        // Writing into a String cannot fail.
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(acme: &str) -> BTreeMap<String, String> {
        let of = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        [of("popgate.toml", "site = \"fra1\"\n"), of("tenants/acme.toml", acme)].into()
    }

    fn stamp(unix_ms: u64) -> Stamp {
        let who = Who { user: "admin".into(), from: "127.0.0.1:4000".into() };
        Stamp { unix_ms, who, cause: Cause::Candidate, comment: Some("a change".into()) }
    }

    #[test]
    fn a_revision_is_read_back_as_it_was_committed_and_the_one_before_too() {
        let state = tempfile::tempdir().expect("a directory");
        let mut revisions = Revisions::open(state.path()).expect("empty");
        assert_eq!((revisions.in_force(), revisions.list().len()), (None, 0));
        assert_eq!(revisions.commit(&texts("# 1\n"), stamp(1), true, None).expect("kept"), 1);
        assert_eq!(revisions.commit(&texts("# 2\n"), stamp(2), false, None).expect("kept"), 2);
        let again = Revisions::open(state.path()).expect("read");
        assert_eq!(again.in_force(), Some(InForce { revision: 2, written_out: false, unconfirmed: None }));
        assert_eq!(again.list(), revisions.list());
        assert_eq!(again.documents(1).expect("kept").texts(), Some(texts("# 1\n")));
        assert_eq!(again.documents(2).expect("kept").texts(), Some(texts("# 2\n")));
        assert_eq!(again.back(1).map(|revision| revision.number), Some(1));
        // One text of the box, two of the tenant.
        assert_eq!(fs::read_dir(state.path().join("revisions/texts")).expect("a directory").count(), 3);
    }

    #[test]
    fn a_hundred_are_kept_and_their_numbers_go_on() {
        let state = tempfile::tempdir().expect("a directory");
        let mut revisions = Revisions::open(state.path()).expect("empty");
        for number in 1..=103 {
            revisions.commit(&texts(&format!("# {number}\n")), stamp(number), true, None).expect("kept");
        }
        let again = Revisions::open(state.path()).expect("read");
        let numbers: Vec<u64> = again.list().iter().map(|revision| revision.number).collect();
        assert_eq!(numbers, (4..=103).rev().collect::<Vec<_>>());
        assert_eq!(again.documents(3).expect_err("forgotten").kind(), ErrorKind::NotFound);
        assert_eq!(again.documents(4).expect("kept").texts(), Some(texts("# 4\n")));
        assert_eq!(fs::read_dir(state.path().join("revisions/texts")).expect("a directory").count(), 101);
    }

    #[test]
    fn what_is_to_be_confirmed_is_so_after_a_reboot_and_until_it_is() {
        let state = tempfile::tempdir().expect("a directory");
        let mut revisions = Revisions::open(state.path()).expect("empty");
        revisions.commit(&texts("# 1\n"), stamp(1), true, None).expect("kept");
        assert!(!revisions.confirm().expect("nothing to write"));
        let unconfirmed = Unconfirmed { deadline_unix_ms: 120_002, window_ms: 120_000, back_to: 1 };
        revisions.commit(&texts("# 2\n"), stamp(2), true, Some(unconfirmed)).expect("kept");
        let mut again = Revisions::open(state.path()).expect("read");
        assert_eq!(again.in_force().and_then(|in_force| in_force.unconfirmed), Some(unconfirmed));
        assert!(again.confirm().expect("written"));
        let again = Revisions::open(state.path()).expect("read");
        assert_eq!(again.in_force().and_then(|in_force| in_force.unconfirmed), None);
    }

    #[test]
    fn a_revision_that_never_came_into_force_is_none_and_its_number_is_given_again() {
        let state = tempfile::tempdir().expect("a directory");
        let mut revisions = Revisions::open(state.path()).expect("empty");
        revisions.commit(&texts("# 1\n"), stamp(1), true, None).expect("kept");
        let in_force = fs::read(state.path().join("revisions/in-force.json")).expect("there");
        revisions.commit(&texts("# 2\n"), stamp(2), true, None).expect("kept");
        fs::write(state.path().join("revisions/in-force.json"), in_force).expect("written");
        fs::write(state.path().join("revisions/.3.json.new"), "{\"num").expect("written");
        let mut again = Revisions::open(state.path()).expect("read");
        assert_eq!(again.list().len(), 1);
        assert_eq!(again.commit(&texts("# 3\n"), stamp(3), true, None).expect("kept"), 2);
        assert_eq!(again.documents(2).expect("kept").texts(), Some(texts("# 3\n")));
    }

    #[test]
    fn a_text_that_was_tampered_with_is_no_configuration_any_more() {
        let state = tempfile::tempdir().expect("a directory");
        let mut revisions = Revisions::open(state.path()).expect("empty");
        revisions.commit(&texts("# 1\n"), stamp(1), true, None).expect("kept");
        fs::write(state.path().join("revisions/texts").join(hash_of("# 1\n")), "# other\n").expect("written");
        let error = revisions.documents(1).expect_err("not what it was");
        assert_eq!(error.to_string(), "revision 1: the text of tenants/acme.toml is not what it was");
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_the_one_before_in_force() {
        let state = tempfile::tempdir().expect("a directory");
        let mut revisions = Revisions::open(state.path()).expect("empty");
        revisions.commit(&texts("# 1\n"), stamp(1), true, None).expect("kept");
        // Root may write anywhere, but not make a file in what is one.
        fs::remove_dir_all(state.path().join("revisions/texts")).expect("removed");
        fs::write(state.path().join("revisions/texts"), "").expect("written");
        revisions.commit(&texts("# 2\n"), stamp(2), true, None).expect_err("no room");
        assert_eq!(revisions.in_force().map(|in_force| in_force.revision), Some(1));
        assert_eq!(revisions.list().len(), 1);
    }
}
