//! The disk that the box runs from: two slots for a root file system, of which one runs, and GRUB's environment block
//! (appliance-image/grub/grub.cfg), which says which one is next.
//!
//! The block is the only thing that is written beside a slot that does not run. It is one file of 1,024 bytes whose content is
//! within the first sector, written in place: a disk writes a sector whole or not at all.

use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// 2: one is spent by a power cut that has nothing to do with the version.
pub const TRIES: u8 = 2;
const BLOCK: usize = 1024;
const SECTOR: usize = 512;
const HEAD: &str = "# GRUB Environment Block\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    pub fn name(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    fn named(name: &str) -> Option<Slot> {
        [Slot::A, Slot::B].into_iter().find(|slot| slot.name() == name)
    }
}

/// What the environment block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// What is booted when nothing is on trial, or its tries are spent.
    pub good: Slot,
    /// A new one, and how often it may still be tried.
    pub trial: Option<(Slot, u8)>,
    /// What is in them, as far as something whole is.
    pub versions: BTreeMap<&'static str, String>,
}

impl Environment {
    /// Reads it as GRUB does: what is not known is passed over, and what is missing is slot A.
    pub fn parse(block: &[u8]) -> Environment {
        let text = String::from_utf8_lossy(block);
        let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let slot = |key: &str| values.get(key).and_then(|name| Slot::named(name));
        let tries = values.get("tries").and_then(|it| it.parse().ok()).unwrap_or(0);
        let versions = [Slot::A, Slot::B].into_iter().filter_map(|slot| {
            let version = values.get(&*format!("version_{}", slot.name()))?;
            (!version.is_empty()).then(|| (slot.name(), (*version).to_owned()))
        });
        Environment {
            good: slot("good").unwrap_or(Slot::A),
            trial: slot("trial").map(|slot| (slot, tries)),
            versions: versions.collect(),
        }
    }

    /// As GRUB wants it: `None` if it does not fit into a sector.
    pub fn to_block(&self) -> Option<Vec<u8>> {
        let mut text = format!("{HEAD}good={}\n", self.good.name());
        if let Some((slot, tries)) = self.trial {
            let _ = write!(text, "trial={}\ntries={tries}\n", slot.name());
        }
        for (slot, version) in &self.versions {
            let _ = writeln!(text, "version_{slot}={version}");
        }
        let mut block = text.into_bytes();
        if block.len() > SECTOR {
            return None;
        }
        block.resize(BLOCK, b'#');
        Some(block)
    }
}

/// The disk's partitions that an update has to do with.
#[derive(Debug)]
pub struct Disk {
    boot: PathBuf,
    slots: [PathBuf; 2],
    pub running: Slot,
    /// Whether this boot is one of the running slot's tries.
    pub on_trial: bool,
}

impl Disk {
    /// The disk of the root file system.
    ///
    /// # Errors
    /// If it is not one that an image was written to.
    pub fn of_root() -> io::Result<Disk> {
        let device = fs::metadata("/")?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let none =
            || io::Error::other("this box does not run from an image: whatever installed popgate updates it");
        let root = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).map_err(|_| none())?;
        let (own, _) = partition(&root).ok_or_else(none)?;
        let mut named = BTreeMap::new();
        for entry in fs::read_dir(root.parent().unwrap_or(&root))? {
            named.extend(partition(&entry?.path()));
        }
        let mut take = |name: &str| named.remove(&format!("popgate-{name}")).ok_or_else(none);
        let slots = [take("root-a")?, take("root-b")?];
        let boot = take("esp")?;
        let running = own.strip_prefix("popgate-root-").and_then(Slot::named);
        let running = running.ok_or_else(none)?;
        let line = fs::read_to_string("/proc/cmdline")?;
        Ok(Disk { boot, slots, running, on_trial: line.split_whitespace().any(|word| word == super::TRIAL) })
    }

    fn node(&self, slot: Slot) -> &Path {
        match slot {
            Slot::A => &self.slots[0],
            Slot::B => &self.slots[1],
        }
    }

    /// How much a slot holds, in bytes.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn room(&self, slot: Slot) -> io::Result<u64> {
        // Not of the node, which only root may open.
        let name = self.node(slot).file_name().unwrap_or_default();
        let sectors = fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))?;
        let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
        Ok(sectors * SECTOR as u64)
    }

    /// A slot, to be written or read.
    ///
    /// # Errors
    /// If it cannot be opened; to write to the one that runs is one.
    pub fn open(&self, slot: Slot, write: bool) -> io::Result<File> {
        if write && slot == self.running {
            return Err(io::Error::other("this slot runs"));
        }
        OpenOptions::new().read(!write).write(write).open(self.node(slot))
    }

    /// What is next, as it is on the disk.
    ///
    /// # Errors
    /// If the boot partition cannot be mounted or read.
    pub fn environment(&self) -> io::Result<Environment> {
        let boot = Mounted::boot(&self.boot, MountFlags::RDONLY)?;
        Ok(Environment::parse(&fs::read(boot.block())?))
    }

    /// Says what is next. It is on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written; then it is what it was.
    pub fn set_environment(&self, environment: &Environment) -> io::Result<()> {
        let block =
            environment.to_block().ok_or_else(|| io::Error::other("the versions' names are too long"))?;
        let boot = Mounted::boot(&self.boot, MountFlags::SYNCHRONOUS)?;
        // In place: GRUB writes to where it has found it, and a file system would move what is truncated.
        let file = OpenOptions::new().write(true).open(boot.block())?;
        if file.metadata()?.len() != BLOCK as u64 {
            return Err(io::Error::other("the environment block is not GRUB's"));
        }
        file.write_all_at(&block, 0)?;
        file.sync_all()
    }
}

/// A partition's name in the table, and its node.
fn partition(sys: &Path) -> Option<(String, PathBuf)> {
    let uevent = fs::read_to_string(sys.join("uevent")).ok()?;
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((value("PARTNAME")?.to_owned(), Path::new("/dev").join(value("DEVNAME")?)))
}

/// Something mounted for as long as it is looked at.
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn boot(device: &Path, flags: MountFlags) -> io::Result<Mounted> {
        Mounted::new(device, "boot", &["vfat"], flags)
    }

    /// A stick, to be read: with the file systems that sticks have.
    pub fn stick(device: &Path) -> io::Result<Mounted> {
        Mounted::new(device, "stick", &["vfat", "exfat", "ext4", "iso9660"], MountFlags::RDONLY)
    }

    fn new(device: &Path, name: &str, kinds: &[&str], flags: MountFlags) -> io::Result<Mounted> {
        let at = Path::new(super::RUNTIME).join(name);
        fs::create_dir_all(&at)?;
        let flags = flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let mut result = Err(io::Error::other("no kind of file system"));
        for kind in kinds {
            result =
                rustix::mount::mount(device, &at, CString::new(*kind)?, flags, None).map_err(io::Error::from);
            if result.is_ok() {
                return Ok(Mounted { at });
            }
        }
        result.map(|()| Mounted { at })
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    fn block(&self) -> PathBuf {
        self.at.join("grub/grubenv")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing is open in it any more; if something were, it would go with that.
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(trial: Option<(Slot, u8)>) -> Environment {
        let versions = [("a", "0.1.0+1".to_owned()), ("b", "0.1.0+2.gabc".to_owned())];
        Environment { good: Slot::B, trial, versions: versions.into() }
    }

    #[test]
    fn a_block_says_what_it_was_told_and_is_as_grub_wants_it() {
        for trial in [None, Some((Slot::A, 2)), Some((Slot::B, 0))] {
            let block = environment(trial).to_block().expect("it fits");
            assert_eq!((block.len(), &block[..HEAD.len()]), (BLOCK, HEAD.as_bytes()));
            assert_eq!(Environment::parse(&block), environment(trial));
            assert!(block[SECTOR..].iter().all(|it| *it == b'#'), "the second sector never changes");
        }
    }

    #[test]
    fn a_block_without_sense_is_slot_a() {
        for block in [&b""[..], &[0; BLOCK], b"good=c\ntrial=\ntries=x\n", &[0xff; 7]] {
            assert_eq!(
                Environment::parse(block),
                Environment { good: Slot::A, trial: None, versions: BTreeMap::new() }
            );
        }
    }

    #[test]
    fn a_version_that_does_not_fit_a_sector_is_not_written() {
        let mut long = environment(None);
        long.versions.insert("a", "1".repeat(SECTOR));
        assert_eq!(long.to_block(), None);
    }
}
