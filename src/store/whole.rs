//! Files that are either whole or not there: one that comes into being has `.new` behind its name until it is, and a dot
//! before it, for which readers of whole directories pass it over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const NEW: &str = "new";

/// Makes a file that is either whole or not there, whatever happens meanwhile; what `write` leaves behind when it fails is
/// taken away, for the disk may be full of it.
pub(crate) fn create(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{NEW}"));
    let created = || -> io::Result<File> {
        // What a crash left there may be open to others.
        remove(&new)?;
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&new)?;
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
pub(crate) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == NEW) {
            remove(&path)?;
        }
    }
    Ok(())
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was created and renamed in a directory last.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
