//! The ledger's directory: `0000000007.log` is being written to, `0000000006.segment` and those before it are closed. A
//! file that comes into being has `.new` behind its name, until it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) const LOG: &str = "log";
pub(super) const SEGMENT: &str = "segment";
const NEW: &str = "new";

/// What is in the directory, by sequence number.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) logs: Vec<(u64, PathBuf)>,
    pub(super) segments: Vec<(u64, PathBuf)>,
}

impl Files {
    pub(super) fn list(dir: &Path) -> io::Result<Files> {
        let mut files = Files::default();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let sequence = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(sequence) = sequence else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(LOG) => files.logs.push((sequence, path)),
                Some(SEGMENT) => files.segments.push((sequence, path)),
                _ => {}
            }
        }
        files.logs.sort();
        files.segments.sort();
        Ok(files)
    }

    /// The number that no file has yet.
    pub(super) fn next(&self) -> u64 {
        let last = self.logs.last().into_iter().chain(self.segments.last()).map(|(sequence, _)| *sequence);
        last.max().map_or(1, |last| last + 1)
    }

    pub(super) fn has_segment(&self, sequence: u64) -> bool {
        self.segments.binary_search_by_key(&sequence, |(sequence, _)| *sequence).is_ok()
    }
}

pub(super) fn path_of(dir: &Path, sequence: u64, kind: &str) -> PathBuf {
    dir.join(format!("{sequence:010}.{kind}"))
}

/// Makes a file that is either whole or not there, whatever happens meanwhile; what `write` leaves behind when it fails is
/// taken away, for the disk may be full of it.
pub(super) fn create(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(NEW);
    let new = PathBuf::from(name);
    let created = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        write(&mut file)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        Ok(file)
    };
    let file = created().inspect_err(|_| drop(fs::remove_file(&new)))?;
    sync(path.parent().unwrap_or(path))?;
    Ok(file)
}

/// Takes away files that never came into being.
pub(super) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == NEW) {
            remove(&path)?;
        }
    }
    Ok(())
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was created and renamed in a directory last.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
