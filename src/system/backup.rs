//! Everything that the operator has made, in one file that `age` has encrypted: configuration, keys, users, revisions, candidates,
//! the audit log, the box's own certificate and token. What the box has seen (flow history, NAT ledger) is not among it.
//!
//! The file is a tar archive in age's format: without popgate, `age --decrypt FILE | tar --list` shows what is in it. Both programs are
//! Debian's. age asks for a passphrase by itself, at the terminal; a recipient's key needs nobody there.

use super::of_file;
use crate::config::{APPLIANCE_FILE, Documents};
use crate::store::{DATA_DIRS, whole};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What tells a backup from other archives, and its form.
const MARK: &str = "popgate-backup";
const FORM: &str = "1";
/// The two parts of one.
const CONFIG: &str = "config";
const STATE: &str = "state";
/// Databases are copied by themselves: somebody may be writing.
const DATABASE: &str = "db";
/// Of a link that makes the first owner; one of another time lets nobody in.
const NOT_KEPT: &str = "setup-secret";

/// Where a box's things are.
#[derive(Clone, Debug)]
pub struct Kept {
    /// With popgate.toml.
    pub config: PathBuf,
    pub state: PathBuf,
}

/// For whom it is encrypted.
#[derive(Clone, Debug)]
pub enum Lock {
    /// Whoever knows the passphrase that age asks for.
    Passphrase,
    /// Whoever has the identity of one of these (`age1...`).
    Recipients(Vec<String>),
}

/// Writes the backup to `file`, which is whole or not there, and nobody else's to read.
///
/// # Errors
/// The file that cannot be read or written; or that tar or age failed, which have said why.
pub fn backup(kept: &Kept, lock: &Lock, file: &Path) -> io::Result<()> {
    let stage = Stage::new(&kept.state)?;
    copy(&kept.config, &stage.0.join(CONFIG), &[])?;
    let left_out: Vec<&str> = DATA_DIRS.iter().copied().chain([NOT_KEPT]).collect();
    copy(&kept.state, &stage.0.join(STATE), &left_out)?;
    fs::write(stage.0.join(MARK), format!("{FORM}\n{}\n", env!("CARGO_PKG_VERSION")))?;

    let mut age = Command::new("age");
    age.arg("--encrypt");
    match lock {
        Lock::Passphrase => {
            age.arg("--passphrase");
        }
        Lock::Recipients(recipients) => {
            age.args(recipients.iter().flat_map(|one| ["--recipient", one]));
        }
    }
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--directory").arg(&stage.0).args([MARK, CONFIG, STATE]);
    let encrypted = stage.0.join("encrypted");
    let mut tar = begin(tar.stdout(Stdio::piped()))?;
    let archive = tar.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut age = begin(age.arg("--output").arg(&encrypted).stdin(archive))?;
    ended("age", age.wait()?)?;
    ended("tar", tar.wait()?)?;
    let mut from = fs::File::open(&encrypted)?;
    whole::create(file, |to| io::copy(&mut from, to).map(drop))
        .map(drop)
        .map_err(|error| of_file(file, error))
}

/// Puts a backup's things in place of what is there, which goes aside, into a folder beside it. `identity` is age's, of a recipient's
/// key; without one age asks for the passphrase.
///
/// # Errors
/// It cannot be opened, is no backup, or its configuration does not read: then nothing has been touched. Or the disk's.
pub fn restore(kept: &Kept, identity: Option<&Path>, file: &Path, unix_secs: u64) -> io::Result<PathBuf> {
    make_dir(&kept.state)?;
    let stage = Stage::new(&kept.state)?;
    let mut age = Command::new("age");
    age.arg("--decrypt");
    if let Some(identity) = identity {
        age.arg("--identity").arg(identity);
    }
    let mut age = begin(age.arg(file).stdout(Stdio::piped()))?;
    let archive = age.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--preserve-permissions", "--directory"]).arg(&stage.0);
    let mut tar = begin(tar.stdin(archive))?;
    ended("age", age.wait()?)?;
    ended("tar", tar.wait()?)?;

    let mark = fs::read_to_string(stage.0.join(MARK)).unwrap_or_default();
    match mark.lines().next() {
        Some(FORM) => {}
        Some(other) => {
            return Err(io::Error::other(format!("a backup of form {other}; this popgate reads {FORM}")));
        }
        None => return Err(io::Error::other("this is no backup of popgate's")),
    }
    let config = stage.0.join(CONFIG);
    if config.join(APPLIANCE_FILE).exists() {
        let problems = Documents::read(&config).check(&config).err();
        problems.map_or(Ok(()), |problems| {
            Err(io::Error::other(format!("its configuration does not read:\n{problems}")))
        })?;
    }
    let aside = aside(&kept.state, "before-restore", unix_secs);
    for (from, to, name) in [(config, &kept.config, CONFIG), (stage.0.join(STATE), &kept.state, STATE)] {
        make_dir(to)?;
        exchange(&from, to, &aside.join(name))?;
    }
    Ok(aside)
}

/// A folder of its own while something is put together, for nobody else; gone with it.
pub(super) struct Stage(pub(super) PathBuf);

impl Stage {
    pub(super) fn new(state: &Path) -> io::Result<Stage> {
        let dir = state.join(format!(".stage-{}", std::process::id()));
        make_dir(&dir)?;
        Ok(Stage(dir))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{}: {error}", self.0.display());
        }
    }
}

pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| of_file(dir, error))
}

/// Copies a folder's files, with their modes, and its folders; links and what begins with a dot, which is unfinished, are none.
pub(super) fn copy(from: &Path, to: &Path, left_out: &[&str]) -> io::Result<()> {
    make_dir(to)?;
    for entry in fs::read_dir(from).map_err(|error| of_file(from, error))? {
        let (entry, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        let name = entry.to_string_lossy();
        if name.starts_with('.') || name.starts_with("before-") || left_out.contains(&&*name) {
            continue;
        }
        let copied = match fs::symlink_metadata(&path) {
            Ok(it) if it.is_dir() => copy(&path, &to.join(&entry), &[]),
            Ok(it) if it.is_file() && path.extension().is_some_and(|it| it == DATABASE) => {
                copy_database(&path, &to.join(&entry))
            }
            Ok(it) if it.is_file() => fs::copy(&path, to.join(&entry)).map(drop),
            Ok(_) => Ok(()),
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        copied.map_err(|error| of_file(&path, error))?;
    }
    Ok(())
}

/// As it is at one moment, with what has been committed, whoever writes to it.
fn copy_database(from: &Path, to: &Path) -> io::Result<()> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let copied = rusqlite::Connection::open_with_flags(from, flags)
        .and_then(|database| database.execute("VACUUM INTO ?1", [to.to_string_lossy()]));
    copied.map_err(io::Error::other)?;
    fs::set_permissions(to, Permissions::from_mode(0o600))
}

/// A folder of the state directory that is not there yet, for what something takes the place of.
pub(super) fn aside(state: &Path, before: &str, unix_secs: u64) -> PathBuf {
    let first = state.join(format!("{before}-{unix_secs}"));
    let others = (2..).map(|number| state.join(format!("{before}-{unix_secs}-{number}")));
    std::iter::once(first.clone()).chain(others).find(|dir| !dir.exists()).unwrap_or(first)
}

/// Moves what is in `from` into `to`; what has the same name there, into `aside`. It becomes `to`'s owner's. popgate.toml comes last:
/// with it there is a configuration.
pub(super) fn exchange(from: &Path, to: &Path, aside: &Path) -> io::Result<()> {
    let owner = fs::metadata(to)?;
    let mut names: Vec<OsString> =
        fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort_by_key(|name| name == APPLIANCE_FILE);
    for name in names {
        give(&from.join(&name), owner.uid(), owner.gid())?;
        if to.join(&name).symlink_metadata().is_ok() {
            make_dir(aside)?;
            move_to(&to.join(&name), &aside.join(&name))?;
        }
        move_to(&from.join(&name), &to.join(&name))?;
    }
    if aside.exists() { give(aside, owner.uid(), owner.gid()) } else { Ok(()) }
}

/// Also to another file system: the configuration may be on one of its own.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            ended("cp", Command::new("cp").arg("--archive").arg(from).arg(to).status()?)?;
            if from.is_dir() { fs::remove_dir_all(from) } else { fs::remove_file(from) }
        }
        done => done,
    }
}

fn give(path: &Path, user: u32, group: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(user), Some(group))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user, group)?;
        }
    }
    Ok(())
}

fn begin(command: &mut Command) -> io::Result<std::process::Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("there is no program {program}: apt-get install {program}"))
        }
        _ => io::Error::new(error.kind(), format!("{program}: {error}")),
    })
}

fn ended(program: &str, status: std::process::ExitStatus) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{program} failed ({status})"))) }
}
