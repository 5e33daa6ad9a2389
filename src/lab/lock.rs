//! Whose a lab's name is, and what its owner has made on disk.

use super::{LabError, RUN_DIR};
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// 1 s, where something should be gone in a moment: then it is not going.
const RACE_PATIENCE: Duration = Duration::from_secs(1);

/// What makes one lab of a name the only one: a locked file, which the kernel unlocks when the process dies. In it stand the
/// process and the paths of what the lab made on disk.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    pub(super) fn acquire(name: &str, patience: Duration) -> Result<Lock, LabError> {
        let path = Path::new(RUN_DIR).join(format!("{name}.lock"));
        let failed = || LabError::io(format!("locking {}", path.display()));
        let deadline = Instant::now() + patience;
        loop {
            let mut options = OpenOptions::new();
            let made = DirBuilder::new().recursive(true).mode(0o700).create(RUN_DIR);
            let opened =
                made.and_then(|()| options.read(true).write(true).create(true).truncate(false).open(&path));
            let file = match opened {
                // The last lab of all went down just now and took the directory along: there a moment ago
                // (`AlreadyExists`, says mkdir), gone the next.
                Err(error) if vanished(&error) && Instant::now() < deadline + RACE_PATIENCE => continue,
                opened => opened.map_err(failed())?,
            };
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            // Whoever had it may have removed it meanwhile: then this is the lock of a file that is no more.
            let is_current = || {
                let same = |there: fs::Metadata, here: fs::Metadata| there.ino() == here.ino();
                fs::metadata(&path).and_then(|there| Ok(same(there, file.metadata()?))).unwrap_or(false)
            };
            match locked {
                Ok(()) if is_current() => return Ok(Lock { path, file }),
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() >= deadline => match owner(&path) {
                    // Under load the lock of a process that was killed has been seen to outlive it for a moment.
                    Some(pid) if !is_alive(pid) && Instant::now() < deadline + RACE_PATIENCE => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    owner => return Err(LabError::AlreadyUp { name: name.to_owned(), owner }),
                },
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(failed()(error.into())),
            }
        }
    }

    /// Writes down who we are and what is about to be made, in the order in which it will be removed.
    pub(super) fn remember(&self, made: &[PathBuf]) -> io::Result<()> {
        let mut lines = format!("process {}\n", std::process::id());
        lines.extend(made.iter().map(|path| format!("{}\n", path.display())));
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(lines.as_bytes())
    }

    /// Removes what was written down, but what is to be kept, and a directory that something is left in.
    pub(super) fn remove_remembered(&self, keep: impl Fn(&Path) -> bool) -> io::Result<()> {
        let mut lines = String::new();
        let mut file = &self.file;
        file.rewind()?;
        file.read_to_string(&mut lines)?;
        for path in lines.lines().map(Path::new).filter(|path| path.is_absolute() && !keep(path)) {
            let removed = match path.file_name().and_then(OsStr::to_str) {
                Some("keys" | "nodes") => fs::remove_dir_all(path),
                Some(name) if name.ends_with(".log") => fs::remove_file(path),
                _ => fs::remove_dir(path),
            };
            match removed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// The process whose lock it is, if it has got as far as to say so.
fn owner(path: &Path) -> Option<u32> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next()?.strip_prefix("process ")?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn vanished(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is locked: whoever waits for it looks whether it is still there.
        let _ = fs::remove_file(&self.path);
        // Ours was the last lab, or it was not.
        let _ = fs::remove_dir(RUN_DIR);
    }
}
