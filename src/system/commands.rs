//! The commands of an operator who is on the box itself: `popgate doctor`, `support-bundle`, `backup`, `restore`.

use super::backup::{self, Kept, Lock};
use super::doctor::{self, Level};
use super::programs::said;
use super::setup;
use super::{bundle, of_file};
use crate::config::Documents;
use clap::Args;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Where the box's things are.
#[derive(Clone, Debug, Args)]
pub struct Of {
    /// The directory with popgate.toml and tenants/
    #[arg(long, default_value = "/etc/popgate")]
    dir: PathBuf,
    /// Where the box keeps its state; what popgate.toml says, if it reads
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

impl Of {
    /// Of a box that has no configuration yet as well.
    pub fn kept(&self) -> Kept {
        let state = self.state_dir.clone().unwrap_or_else(|| Documents::read(&self.dir).state_dir());
        Kept { config: self.dir.clone(), state }
    }
}

/// Examine the box: kernel, clock, configuration, keys, interfaces, the ways to its PoPs; and say what to do about each finding
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    of: Of,
}

/// Write what somebody who is to help needs to see, without any secret, into one file
#[derive(Clone, Debug, Args)]
pub struct BundleArgs {
    /// A .tar.gz that is not there yet
    file: PathBuf,
    #[command(flatten)]
    of: Of,
}

/// Write everything you have made (configuration, keys, users, revisions, audit log) into one file, encrypted by age: with a
/// passphrase that it asks for, unless there is a recipient
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// A file that is not there yet
    file: PathBuf,
    /// Who can open it, by their public key (age1...) instead; may be given several times
    #[arg(long)]
    recipient: Vec<String>,
    #[command(flatten)]
    of: Of,
}

/// Put back what a backup holds, while the box is stopped; what is there goes aside
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    file: PathBuf,
    /// The file with the identity (AGE-SECRET-KEY-...) of a recipient; otherwise age asks for the passphrase
    #[arg(long)]
    identity: Option<PathBuf>,
    #[command(flatten)]
    of: Of,
}

/// Set a fresh box up, as a PoP or as a branch: by questions; or from a folder, such as a stick's, with popgate.toml, tenants/ and keys/,
/// or with enrol-code, what the PoP's operator has given out for this branch, and uplink.toml if it is not simply given an address; or with
/// cloud-init's user-data, whose key popgate has enrol-code, uplink or files
#[derive(Clone, Debug, Args)]
pub struct SetupArgs {
    /// The folder; without it, questions
    #[arg(long)]
    pub from: Option<PathBuf>,
    /// Even if there is a configuration already: it is replaced
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub of: Of,
}

/// # Errors
/// For the operator.
pub fn setup(from: &Path, args: &SetupArgs, unix_secs: u64) -> io::Result<String> {
    setup::setup(from, &args.of.kept(), args.force, unix_secs).map(|found| format!("set up: {found}\n"))
}

/// What the doctor found, and whether anything is bad.
pub fn doctor(args: &DoctorArgs, popgate: &Path, unix_secs: u64) -> (String, bool) {
    let found = doctor::examine(&args.of.dir, popgate, unix_secs);
    let mut text = String::new();
    for finding in &found {
        let _ = writeln!(text, "{finding}");
    }
    let count = |level| found.iter().filter(|finding| finding.level == level).count();
    let (bad, warnings) = (count(Level::Bad), count(Level::Warning));
    let _ = match (bad, warnings) {
        (0, 0) => writeln!(text, "nothing is wrong"),
        _ => writeln!(text, "{bad} bad, {warnings} warnings, {} well", count(Level::Good)),
    };
    (text, bad > 0)
}

/// # Errors
/// For the operator.
pub fn support_bundle(args: &BundleArgs, popgate: &Path, unix_secs: u64) -> io::Result<String> {
    not_there(&args.file)?;
    let kept = args.of.kept();
    let (found, _) = doctor(&DoctorArgs { of: args.of.clone() }, popgate, unix_secs);
    bundle::bundle(&kept, popgate, &found, &args.file)?;
    Ok(format!(
        "{}: it holds no key, password or token, but names, addresses and the policy\n",
        args.file.display()
    ))
}

/// # Errors
/// For the operator.
pub fn backup(args: &BackupArgs) -> io::Result<String> {
    not_there(&args.file)?;
    let lock =
        if args.recipient.is_empty() { Lock::Passphrase } else { Lock::Recipients(args.recipient.clone()) };
    backup::backup(&args.of.kept(), &lock, &args.file)?;
    Ok(format!("{}: popgate restore puts it back\n", args.file.display()))
}

/// # Errors
/// For the operator.
pub fn restore(args: &RestoreArgs, unix_secs: u64) -> io::Result<String> {
    if said(&["systemctl", "is-active", "popgate"]).is_ok() {
        return Err(io::Error::other("the box runs: systemctl stop popgate first"));
    }
    let aside = backup::restore(&args.of.kept(), args.identity.as_deref(), &args.file, unix_secs)?;
    Ok(format!("restored; what was there is in {}\nstart it: systemctl start popgate\n", aside.display()))
}

fn not_there(file: &Path) -> io::Result<()> {
    match file.symlink_metadata() {
        Ok(_) => Err(of_file(file, io::Error::other("is there already"))),
        Err(_) => Ok(()),
    }
}
