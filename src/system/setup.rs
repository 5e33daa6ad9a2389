//! A fresh box is configured from a folder, as a stick has one: with a whole configuration, or with a branch's enrolment code.

use super::backup::{Kept, Stage, copy, exchange, make_dir};
use super::of_file;
use crate::config::{APPLIANCE_FILE, Documents};
use std::fs;
use std::io;
use std::path::Path;

/// The file of a stick that holds what the PoP's operator has given out; and where the box keeps it until it is enrolled.
pub const CODE_FILE: &str = "enrol-code";

/// What the folder had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is in its place, and reads: `pop fra1, 2 tenants`.
    Configuration(String),
    /// It is to be enrolled by.
    Code,
}

/// Takes what `from` has for the box. Its files' modes do not count: a stick's file system has none. What it takes the place of goes
/// aside, into a folder of the state directory.
///
/// # Errors
/// It has neither, or a configuration that does not read, or the box has one already and this is not to take its place; then
/// nothing has been touched.
pub fn setup(from: &Path, kept: &Kept, force: bool, unix_secs: u64) -> io::Result<Found> {
    if !force && kept.config.join(APPLIANCE_FILE).exists() {
        let why = "there is a configuration already; --force puts this one in its place";
        return Err(of_file(&kept.config, io::Error::other(why)));
    }
    make_dir(&kept.config)?;
    let stage = Stage::new(&kept.config)?;
    let new = stage.0.join("new");
    let has = |name: &str| from.join(name).is_file();
    let found = if has(APPLIANCE_FILE) {
        copy(from, &new, &[CODE_FILE])?;
        close(&new)?;
        let candidate = Documents::read(&new).check(&new);
        let candidate =
            candidate.map_err(|problems| io::Error::other(format!("it does not read:\n{problems}")))?;
        Found::Configuration(candidate.summary())
    } else if has(CODE_FILE) {
        make_dir(&new)?;
        fs::copy(from.join(CODE_FILE), new.join(CODE_FILE))?;
        close(&new)?;
        Found::Code
    } else {
        let why = format!("there is neither {APPLIANCE_FILE} nor {CODE_FILE}");
        return Err(of_file(from, io::Error::other(why)));
    };
    exchange(&new, &kept.config, &kept.state.join(format!("before-setup-{unix_secs}")))?;
    Ok(found)
}

/// Makes a folder's files nobody's but their owner's: keys are refused otherwise.
fn close(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if dir.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(|error| of_file(dir, error))?;
    if dir.is_dir() {
        for entry in fs::read_dir(dir)? {
            close(&entry?.path())?;
        }
    }
    Ok(())
}
