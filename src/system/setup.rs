//! A fresh box is configured: from a folder, as a stick has it, or by what somebody has answered at its console ([`super::dialogue`]);
//! with a whole configuration, or with a branch's enrolment code; or by what cloud-init's data says ([`cloud_init`]).
//!
//! What there is to be is put together in a stage, looked at by the readers that the box itself uses, and only then moved to its
//! place, `popgate.toml` last. Until then nothing has been touched.

use super::backup::{Kept, Stage, aside, copy, exchange, make_dir};
use super::cloud_init::{self, MOST_BYTES, USER_DATA};
use super::of_file;
use crate::config::{APPLIANCE_FILE, Documents, TENANTS_DIR, interfaces_alone};
use crate::enrol::Code;
use crate::store::whole;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The file of a stick that holds what the PoP's operator has given out; and where the box keeps it until it is enrolled.
pub const CODE_FILE: &str = "enrol-code";
/// Beside it: `[[interface]]`s, as popgate.toml has them, of a box that is not simply given an address. The first leads to the PoP.
pub const UPLINK_FILE: &str = "uplink.toml";

/// What there is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is in its place, and reads: `pop fra1, 2 tenants`.
    Configuration(String),
    /// It is to be enrolled by.
    Code,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Configuration(summary) => f.write_str(summary),
            Found::Code => f.write_str("to be enrolled by its code"),
        }
    }
}

/// Takes what `from` has for the box. Its files' modes do not count: a stick's file system has none. What it takes the place of goes
/// aside, into a folder of the state directory.
///
/// # Errors
/// It has neither, or a configuration that does not read, or the box has one already and this is not to take its place; then
/// nothing has been touched.
pub fn setup(from: &Path, kept: &Kept, force: bool, unix_secs: u64) -> io::Result<Found> {
    put(kept, force, unix_secs, |new| {
        let has = |name: &str| from.join(name).is_file();
        if has(APPLIANCE_FILE) {
            copy(from, new, &[CODE_FILE, UPLINK_FILE])
        } else if has(CODE_FILE) {
            let of_code = [CODE_FILE, UPLINK_FILE].into_iter().filter(|name| has(name));
            of_code.into_iter().try_for_each(|name| fs::copy(from.join(name), new.join(name)).map(drop))
        } else if has(USER_DATA) {
            let mut text = String::new();
            let read =
                fs::File::open(from.join(USER_DATA))?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
            if read as u64 > MOST_BYTES {
                return Err(of_file(&from.join(USER_DATA), io::Error::other("is larger than 1 MiB")));
            }
            cloud_init::fill(&text, new)
        } else {
            let why = format!("there is neither {APPLIANCE_FILE} nor {CODE_FILE} nor {USER_DATA}");
            Err(of_file(from, io::Error::other(why)))
        }
    })
}

/// Whether the box may be set up at all.
///
/// # Errors
/// It is, and this is not to take its place; or who asks may not.
pub fn may_be_set_up(kept: &Kept, force: bool) -> io::Result<()> {
    if !force && kept.config.join(APPLIANCE_FILE).exists() {
        let why = "there is a configuration already; --force puts another in its place";
        return Err(of_file(&kept.config, io::Error::other(why)));
    }
    if kept.config.exists() {
        let may = rustix::fs::access(&kept.config, rustix::fs::Access::WRITE_OK);
        may.map_err(|error| of_file(&kept.config, error.into()))?;
    }
    Ok(())
}

/// Puts what `fill` writes into an empty folder into its place.
pub fn put(
    kept: &Kept,
    force: bool,
    unix_secs: u64,
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<Found> {
    may_be_set_up(kept, force)?;
    make_dir(&kept.config)?;
    let stage = Stage::new(&kept.config)?;
    let new = stage.0.join("new");
    make_dir(&new)?;
    fill(&new)?;
    close(&new)?;
    let found = read(&new)?;
    let aside = aside(&kept.state, "before-setup", unix_secs);
    if found == Found::Code {
        // A box with a configuration does not ask for one, and one of another role is in its way.
        let before = stage.0.join("before");
        make_dir(&before)?;
        for name in [APPLIANCE_FILE, TENANTS_DIR].into_iter().filter(|name| kept.config.join(name).exists()) {
            fs::rename(kept.config.join(name), before.join(name))?;
        }
        if fs::read_dir(&before)?.next().is_some() {
            make_dir(&aside)?;
            exchange(&before, &aside, &aside)?;
        }
    }
    exchange(&new, &kept.config, &aside)?;
    whole::sync(&kept.config)?;
    Ok(found)
}

/// By the readers that the box itself uses.
fn read(new: &Path) -> io::Result<Found> {
    let wrong =
        |what: &str, why: &dyn fmt::Display| Err(io::Error::other(format!("{what} does not read:\n{why}")));
    if new.join(APPLIANCE_FILE).is_file() {
        return match Documents::read(new).check(new) {
            Ok(candidate) => Ok(Found::Configuration(candidate.summary())),
            Err(problems) => wrong("the configuration", &problems),
        };
    }
    if let Err(why) = fs::read_to_string(new.join(CODE_FILE))?.parse::<Code>() {
        return wrong(CODE_FILE, &why);
    }
    match fs::read_to_string(new.join(UPLINK_FILE)) {
        Ok(text) => match interfaces_alone(UPLINK_FILE, &text) {
            Ok(_) => Ok(Found::Code),
            Err(problems) => wrong(UPLINK_FILE, &problems),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Code),
        Err(error) => Err(error),
    }
}

/// Makes a folder's files nobody's but their owner's, for keys are refused otherwise; and lasting, whenever the plug is pulled.
fn close(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let closed = || {
        let is_dir = path.is_dir();
        fs::set_permissions(path, fs::Permissions::from_mode(if is_dir { 0o700 } else { 0o600 }))?;
        fs::File::open(path)?.sync_all()?;
        Ok(is_dir)
    };
    if closed().map_err(|error| of_file(path, error))? {
        let entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        entries.iter().try_for_each(|entry| close(entry))?;
    }
    Ok(())
}
