//! A box that runs from an image takes another one over: into the slot that does not run, tried at the next boot, kept when it is
//! healthy, and left when it is not.
//!
//! 1 [`bundle`]: the file is looked at whole, signature first, before anything is touched. 2 The environment block says that the
//! running slot is the good one, whatever was before. 3 The other slot is written and read back. 4 The block says that it is on
//! trial ([`slots`]). 5 [`settle`]: after the next boot it is kept, or the box starts anew until GRUB goes back. Cut the power at
//! any point: what boots is the slot that ran, or a whole new one.

mod bundle;
#[cfg(test)]
mod sample;
mod settle;
mod slots;
mod status;
mod upload;
mod version;

pub use upload::Uploads;

use crate::store::whole;
use bundle::{Bundle, Refusal};
use clap::{Args, Subcommand};
use minisign_verify::PublicKey;
use rustix::fs::{Advice, FlockOperation, Mode, OFlags};
use slots::{Disk, Environment, Mounted, Slot, TRIES};
use status::{Outcome, Status};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use version::Version;

/// What is mounted and locked is below this.
const RUNTIME: &str = "/run/popgate-update";
/// Keys that came with the image.
const IMAGE_KEYS: &str = "/usr/lib/popgate/update-keys";
/// The operator's, which take their place. The service can write to the folder above, and so to none of these: they count only
/// if they and their folder are root's.
const OPERATOR_KEYS: &str = "/etc/popgate/update-keys";
/// Beside files that are dropped: the box starts anew when one was installed.
const REBOOT: &str = "reboot";
/// Beside them too: the version that is taken though it is not newer, or was left before. The service says so for an owner: whoever has
/// taken the service over may go back to what was signed once, and to nothing else.
const FORCE: &str = "force-downgrade";
/// On the kernel's command line of a boot that is one of a version's tries (appliance-image/grub/grub.cfg).
const TRIAL: &str = "popgate.trial";
/// For a running version to be kept or left, in seconds: longer than that takes ([`settle`]).
const SETTLED_WITHIN: u32 = 600;

/// A new version for a box that runs from an image
#[derive(Args)]
pub struct UpdateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Look at an update without installing it: signature, content, version
    Check { file: PathBuf },
    /// Install an update, to be tried at the next boot
    Install {
        file: PathBuf,
        /// Take one that is not newer than what runs
        #[arg(long)]
        allow_downgrade: bool,
        /// Start the box anew when it is installed
        #[arg(long)]
        reboot: bool,
    },
    /// Show what runs, what the other slot has, and what became of the last update
    Status,
    /// Install what a directory or a stick has: what the box's units call
    #[command(hide = true)]
    Apply {
        directory: Option<PathBuf>,
        #[arg(long)]
        device: Option<PathBuf>,
    },
    /// After a boot: keep the running version or leave it: what the box's units call
    #[command(hide = true)]
    Settle,
}

/// Runs `popgate update`. `now_unix` is in seconds.
pub fn update(args: &UpdateArgs, now_unix: u64) -> ExitCode {
    let done = match &args.what {
        What::Check { file } => check(file),
        What::Install { file, allow_downgrade, reboot } => {
            install_by_hand(file, *allow_downgrade, *reboot, now_unix)
        }
        What::Status => show_status(),
        What::Apply { directory: Some(directory), .. } => apply_dropped(directory, now_unix),
        What::Apply { device: Some(device), .. } => apply_stick(device, now_unix),
        What::Apply { .. } => Err("a directory or --device".into()),
        What::Settle => settle::settle(now_unix),
    };
    match done {
        Ok(told) => {
            if !told.is_empty() {
                println!("{told}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("popgate: {error}");
            ExitCode::FAILURE
        }
    }
}

type Told = Result<String, Box<dyn std::error::Error>>;

fn check(file: &Path) -> Told {
    let mut bundle = signed(open(file)?)?;
    bundle.verify()?;
    let running = running_version()?;
    is_newer(&bundle, &running)?;
    Ok(format!("{}: {} is newer than {running}, and whole", file.display(), bundle.version()))
}

fn install_by_hand(file: &Path, allow_downgrade: bool, reboot: bool, now_unix: u64) -> Told {
    let _alone = lock()?;
    let installed = open(file).map_err(Refusal::from).and_then(|file| install(file, allow_downgrade));
    note(&file.display().to_string(), &installed, now_unix)?;
    let version = installed?;
    if reboot {
        start_anew()?;
        return Ok(format!("{version} is installed; the box starts anew"));
    }
    Ok(format!("{version} is installed, and tried at the next boot"))
}

/// What of updates is news to whoever looks at the box's console, if anything.
pub fn news() -> Option<String> {
    let on_trial =
        fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(|it| it == TRIAL));
    Status::read().news(on_trial)
}

fn show_status() -> Told {
    let disk = Disk::of_root()?;
    let environment = disk.environment()?;
    let mut told = String::new();
    for slot in [Slot::A, Slot::B] {
        let version = environment.versions.get(slot.name()).map_or("empty", String::as_str);
        let mut about = Vec::new();
        about.extend((slot == disk.running).then_some("runs"));
        about.extend((slot == environment.good).then_some("kept"));
        about.extend(environment.trial.filter(|it| it.0 == slot).map(|_| "on trial"));
        told += &format!(
            "slot {}: {version}{}{}\n",
            slot.name(),
            if about.is_empty() { "" } else { ": " },
            about.join(", ")
        );
    }
    told += &Status::read().to_string();
    Ok(told.trim_end().to_owned())
}

/// What the service was given: every file is taken away, whatever became of it, so that it is tried once.
fn apply_dropped(directory: &Path, now_unix: u64) -> Told {
    settle::await_settled(SETTLED_WITHIN);
    let _alone = lock()?;
    let mut installed = false;
    let (reboots, forced) = (directory.join(REBOOT).symlink_metadata().is_ok(), forced(directory));
    for file in updates_in(directory)? {
        let result =
            open(&file).map_err(Refusal::from).and_then(|file| install_unasked(file, forced.as_deref()));
        whole::remove(&file)?;
        note(&file.display().to_string(), &result, now_unix)?;
        installed |= result.is_ok();
    }
    // They were of these files, whatever became of them.
    for marker in [REBOOT, FORCE] {
        whole::remove(&directory.join(marker))?;
    }
    if installed && reboots {
        start_anew()?;
    }
    Ok(String::new())
}

/// What somebody has put in, who stands in front of the box and wants nothing else: it starts anew when something was installed.
fn apply_stick(device: &Path, now_unix: u64) -> Told {
    settle::await_settled(SETTLED_WITHIN);
    let _alone = lock()?;
    let stick = Mounted::stick(device)?;
    let mut installed = false;
    for file in updates_in(stick.path())? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("popgate-") {
            continue;
        }
        let result = open(&file).map_err(Refusal::from).and_then(|file| install_unasked(file, None));
        note(&format!("{name} on a stick"), &result, now_unix)?;
        installed |= result.is_ok();
    }
    drop(stick);
    if installed {
        start_anew()?;
    }
    Ok(String::new())
}

fn updates_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "update") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Without anybody to ask: a version that was left before would be tried for ever, by a stick that stays in.
fn install_unasked(file: File, forced: Option<&str>) -> Result<Version, Refusal> {
    let bundle = signed(file)?;
    if forced == Some(&bundle.version().to_string()) {
        return install_bundle(bundle, true);
    }
    if Status::read().failed.as_deref() == Some(&bundle.version().to_string()) {
        return Err(Refusal::FailedBefore(bundle.version().clone()));
    }
    install_bundle(bundle, false)
}

/// The version that an owner wants all the same.
fn forced(directory: &Path) -> Option<String> {
    let mut text = String::new();
    open(&directory.join(FORCE)).ok()?.take(64).read_to_string(&mut text).ok()?;
    Some(text)
}

fn install(file: File, allow_downgrade: bool) -> Result<Version, Refusal> {
    install_bundle(signed(file)?, allow_downgrade)
}

/// What was signed by whom this box trusts.
fn signed(file: File) -> Result<Bundle, Refusal> {
    Bundle::open(file, &trusted_keys()?, std::env::consts::ARCH)
}

fn install_bundle(mut bundle: Bundle, allow_downgrade: bool) -> Result<Version, Refusal> {
    if !allow_downgrade {
        is_newer(&bundle, &running_version()?)?;
    }
    let disk = Disk::of_root()?;
    let mut environment = disk.environment()?;
    let slot = disk.running.other();
    if disk.on_trial && environment.good != disk.running {
        return Err(Refusal::OnTrial);
    }
    let room = disk.room(slot)?;
    if bundle.size() > room {
        return Err(Refusal::TooBig { needs: bundle.size(), has: room });
    }
    bundle.verify()?;

    // From here on the other slot is nothing to go to.
    environment.good = disk.running;
    environment.trial = None;
    environment.versions.remove(slot.name());
    disk.set_environment(&environment)?;
    let mut to = disk.open(slot, true)?;
    bundle.copy(&mut to)?;
    to.sync_all()?;
    // From the disk itself, not from what is remembered of it.
    let mut back = disk.open(slot, false)?;
    rustix::fs::fadvise(&back, 0, None, Advice::DontNeed).map_err(io::Error::from)?;
    if !bundle.is_in(&mut back)? {
        return Err(io::Error::other("the disk does not give back what was written to it").into());
    }
    put_on_trial(&disk, environment, slot, bundle.version())?;
    Ok(bundle.version().clone())
}

fn put_on_trial(disk: &Disk, mut environment: Environment, slot: Slot, version: &Version) -> io::Result<()> {
    environment.trial = Some((slot, TRIES));
    environment.versions.insert(slot.name(), version.to_string());
    disk.set_environment(&environment)
}

fn is_newer(bundle: &Bundle, running: &Version) -> Result<(), Refusal> {
    let offered = bundle.version();
    match offered.cmp(running) {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Equal => Err(Refusal::Same(offered.clone())),
        std::cmp::Ordering::Less => {
            Err(Refusal::Older { offered: offered.clone(), running: running.clone() })
        }
    }
}

/// A file that somebody else may have put there: no link, no pipe, no device.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(file)
}

/// Whose updates this box takes.
fn trusted_keys() -> io::Result<Vec<PublicKey>> {
    let operator = keys_in(Path::new(OPERATOR_KEYS))?;
    if operator.is_empty() { keys_in(Path::new(IMAGE_KEYS)) } else { Ok(operator) }
}

fn keys_in(directory: &Path) -> io::Result<Vec<PublicKey>> {
    let is_roots = |metadata: &fs::Metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0;
    match directory.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() && is_roots(&metadata) => {}
        _ => return Ok(Vec::new()),
    }
    let mut keys = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|it| it != "pub") || !is_roots(&path.symlink_metadata()?) {
            continue;
        }
        let text = io::read_to_string(open(&path)?)?;
        match PublicKey::decode(&text) {
            Ok(key) => keys.push(key),
            Err(error) => eprintln!("popgate: {} is no minisign key: {error}", path.display()),
        }
    }
    Ok(keys)
}

fn running_version() -> io::Result<Version> {
    let release = fs::read_to_string("/etc/os-release")?;
    let version = release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION=")).unwrap_or_default();
    version
        .parse()
        .map_err(|error: String| io::Error::other(format!("this box does not run from an image: {error}")))
}

/// One update at a time.
fn lock() -> io::Result<File> {
    fs::create_dir_all(RUNTIME)?;
    let file = File::create(Path::new(RUNTIME).join("lock"))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Keeps what became of an update, and tells it on the console.
fn note(what: &str, result: &Result<Version, Refusal>, now_unix: u64) -> io::Result<()> {
    let mut status = Status::read();
    match result {
        Ok(version) => status.note(Outcome::Installed, Some(version), String::new(), now_unix),
        // A stick that has what runs is what every box has that was updated by it.
        Err(refusal @ Refusal::Same(_)) => {
            println!("popgate: update {what}: {refusal}");
            return Ok(());
        }
        Err(refusal) => status.note(Outcome::Refused, None, format!("{what}: {refusal}"), now_unix),
    }
    if let Ok(environment) = Disk::of_root().and_then(|disk| disk.environment()) {
        status.slots = in_slots(&environment);
    }
    print!("popgate: update: {status}");
    status.write()
}

/// What is in the slots, for those who may not look.
fn in_slots(environment: &Environment) -> BTreeMap<String, String> {
    environment.versions.iter().map(|(slot, version)| ((*slot).to_owned(), version.clone())).collect()
}

/// Asks the system to start anew, in order.
fn start_anew() -> io::Result<()> {
    let asked = Command::new("systemctl").args(["--no-block", "reboot"]).status()?;
    if asked.success() { Ok(()) } else { Err(io::Error::other("systemctl cannot start the box anew")) }
}

fn pause() {
    std::thread::sleep(Duration::from_secs(1));
}
