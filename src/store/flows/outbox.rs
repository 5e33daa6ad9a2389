//! Which files have been copied elsewhere: in `flow-log/sent`, a line for each time that a file was taken up or done with.
//!
//! A file that is to be copied is taken up first, and that is written down before it is told to anybody: from then on it is
//! merged with no other, so that what lies elsewhere never has its rows a second time. One that was taken up and not done with
//! when the box went down is copied again, under the same name, in place of itself.

use crate::store::whole;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "sent";
const TAKEN: &str = "taken";
const SENT: &str = "sent";

/// A file that is to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToSend {
    pub path: PathBuf,
    /// What it is called elsewhere: its path in the state directory, with slashes.
    pub name: String,
    pub bytes: u64,
}

#[derive(Default)]
pub(super) struct Outbox {
    /// By name; true if it has arrived.
    files: BTreeMap<String, bool>,
    file: Option<File>,
}

impl Outbox {
    /// As it is written in `dir`, as far as there `is` such a file any more.
    pub(super) fn read(dir: &Path, is: impl Fn(&str) -> bool) -> io::Result<Outbox> {
        let mut files = BTreeMap::new();
        match fs::read_to_string(path(dir)) {
            Ok(text) => {
                for line in text.lines() {
                    // Others have gone; or the last line is not whole, and nobody was told of that.
                    if let Some((what, name)) = line.split_once(' ').filter(|(_, name)| is(name)) {
                        let has_arrived = files.entry(name.to_owned()).or_insert(false);
                        *has_arrived |= what == SENT;
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Outbox { files, file: None })
    }

    pub(super) fn is_taken(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    pub(super) fn is_sent(&self, name: &str) -> bool {
        self.files.get(name) == Some(&true)
    }

    pub(super) fn take(&mut self, dir: &Path, name: &str) -> io::Result<()> {
        if !self.is_taken(name) {
            self.write(dir, TAKEN, name)?;
            self.files.insert(name.to_owned(), false);
        }
        Ok(())
    }

    pub(super) fn sent(&mut self, dir: &Path, name: &str) -> io::Result<()> {
        self.files.insert(name.to_owned(), true);
        self.write(dir, SENT, name)
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.files.remove(name);
    }

    fn write(&mut self, dir: &Path, what: &str, name: &str) -> io::Result<()> {
        if self.file.is_none() {
            // Begun anew, without what has gone.
            let file = whole::create(&path(dir), |file| {
                self.files.iter().try_for_each(|(name, sent)| {
                    writeln!(file, "{} {name}", if *sent { SENT } else { TAKEN })
                })
            })?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(format!("{what} {name}\n").as_bytes()).and_then(|()| file.sync_data());
        if written.is_err() {
            // Half a line may be there.
            self.file = None;
        }
        written
    }
}

fn path(dir: &Path) -> PathBuf {
    super::files::logs_dir(dir).join(NAME)
}
