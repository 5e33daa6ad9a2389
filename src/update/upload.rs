//! Updates that come over the API. The service may not install one: it looks at it, and puts it into the folder that the updater
//! watches, which looks again.
//!
//! What comes is held to its signature as soon as its head is there, and hashed as it comes: a wrong one is refused after a few
//! kilobytes, and nothing is read twice.

use super::bundle::{Bundle, Refusal};
use super::slots::{Disk, Slot};
use super::status::{Outcome, Status};
use super::version::Version;
use super::{FORCE, REBOOT, is_newer, open, running_version, trusted_keys, updates_in};
use crate::control::updates::{IncomingUpdate, SlotRow, UpdatePort, UpdateRefusal, UpdateState, UpdateTerms};
use crate::store::whole;
use minisign_verify::PublicKey;
use ring::digest::{Context, SHA256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The folder that the updater watches (popgate-update.path).
const FOLDER: &str = "/var/lib/popgate/update";
/// No name of an update's: the updater passes it over.
const ON_ITS_WAY: &str = ".upload.new";
/// Bytes: the head of an update is within them, or it is none.
const LONGEST_HEAD: u64 = 64 * 1024;
/// Bytes behind the content: a tar archive ends with two blocks of nothing, and is filled up to twenty.
const LONGEST_TAIL: u64 = 64 * 1024;
/// Bytes after which they are put to the disk, so that the end is not a long one.
const SYNC_EVERY: u64 = 16 << 20;
/// Bytes that the box has use for besides.
const LEFT_FREE: u64 = 32 << 20;

/// What an update is held against.
struct Facts {
    keys: Vec<PublicKey>,
    running: Version,
    /// The last version that was left.
    failed: Option<String>,
    /// Of a slot, in bytes.
    room: u64,
}

/// Takes updates for the box that it runs on.
pub struct Uploads {
    folder: PathBuf,
    facts: fn() -> Result<Facts, UpdateRefusal>,
    is_busy: Arc<AtomicBool>,
}

impl Uploads {
    /// For the box that it runs on. What was on its way when the power went is of no use.
    pub fn of_box() -> Uploads {
        // Where there is no such folder, nothing was.
        let _ = whole::remove(&Path::new(FOLDER).join(ON_ITS_WAY));
        Uploads { folder: FOLDER.into(), facts: facts_of_box, is_busy: Arc::default() }
    }
}

fn facts_of_box() -> Result<Facts, UpdateRefusal> {
    let not_now = |error: io::Error| UpdateRefusal::NotNow(error.to_string());
    let disk = Disk::of_root().map_err(not_now)?;
    let running = running_version().map_err(not_now)?;
    let keys = trusted_keys().map_err(not_now)?;
    if keys.is_empty() {
        return Err(UpdateRefusal::NotNow(Refusal::NoKeys.to_string()));
    }
    let status = Status::read();
    if is_on_trial(&disk, &status, &running) {
        return Err(UpdateRefusal::NotNow(Refusal::OnTrial.to_string()));
    }
    let room = disk.room(disk.running.other()).map_err(not_now)?;
    Ok(Facts { keys, running, failed: status.failed, room })
}

/// Booted to be tried, and not kept yet.
fn is_on_trial(disk: &Disk, status: &Status, running: &Version) -> bool {
    disk.on_trial && status.is(Outcome::Installed) && status.version() == Some(&running.to_string())
}

impl UpdatePort for Uploads {
    fn state(&self) -> UpdateState {
        let status = Status::read();
        let is_waiting = updates_in(&self.folder).is_ok_and(|files| !files.is_empty());
        let under_way = is_waiting || self.is_busy.load(Ordering::Relaxed);
        let (disk, running) = match (Disk::of_root(), running_version()) {
            (Ok(disk), Ok(running)) => (disk, running),
            (Err(error), _) | (_, Err(error)) => {
                return UpdateState { refuses: Some(error.to_string()), ..UpdateState::default() };
            }
        };
        let refuses = trusted_keys()
            .map_err(|error| error.to_string())
            .and_then(|keys| if keys.is_empty() { Err(Refusal::NoKeys.to_string()) } else { Ok(()) });
        let slot = |slot: Slot| SlotRow {
            slot: slot.name().to_owned(),
            version: if slot == disk.running {
                Some(running.to_string())
            } else {
                status.slots.get(slot.name()).cloned()
            },
            runs: slot == disk.running,
        };
        UpdateState {
            refuses: refuses.err(),
            version: running.to_string(),
            slots: [Slot::A, Slot::B].map(slot).into(),
            on_trial: is_on_trial(&disk, &status, &running),
            under_way,
            last: status.last(),
        }
    }

    fn begin(&self, terms: UpdateTerms) -> Result<Box<dyn IncomingUpdate>, UpdateRefusal> {
        let facts = (self.facts)()?;
        let busy = || UpdateRefusal::NotNow("another update is on its way, or is being installed".to_owned());
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return Err(busy());
        }
        let mine = Busy(Arc::clone(&self.is_busy));
        if !updates_in(&self.folder).map_err(failed)?.is_empty() {
            return Err(busy());
        }
        let path = self.folder.join(ON_ITS_WAY);
        whole::remove(&path).map_err(failed)?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let incoming = Incoming { path, file, written: 0, content: None, facts, terms, _mine: mine };
        Ok(Box::new(incoming))
    }
}

fn failed(error: io::Error) -> UpdateRefusal {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            UpdateRefusal::NoRoom("the box's disk is full".to_owned())
        }
        _ => UpdateRefusal::Failed(error.to_string()),
    }
}

impl From<Refusal> for UpdateRefusal {
    fn from(refusal: Refusal) -> UpdateRefusal {
        match refusal {
            Refusal::Io(error) => failed(error),
            Refusal::TooBig { .. } => UpdateRefusal::NoRoom(refusal.to_string()),
            Refusal::NoKeys | Refusal::OnTrial => UpdateRefusal::NotNow(refusal.to_string()),
            // In the words of whoever has no shell.
            Refusal::Older { offered, running } => UpdateRefusal::Wrong(format!(
                "{offered} is older than {running}: it is taken if that is forced"
            )),
            Refusal::FailedBefore(version) => UpdateRefusal::Wrong(format!(
                "{version} was tried before and did not come up healthy: it is tried again if that is forced"
            )),
            refusal => UpdateRefusal::Wrong(refusal.to_string()),
        }
    }
}

/// One at a time.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

struct Incoming {
    path: PathBuf,
    file: File,
    written: u64,
    /// Once the head is there and good.
    content: Option<Content>,
    facts: Facts,
    terms: UpdateTerms,
    _mine: Busy,
}

/// What the head promises, and what has come of it.
struct Content {
    bundle: Bundle,
    hash: Context,
    hashed: u64,
}

impl IncomingUpdate for Incoming {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), UpdateRefusal> {
        if self.content.is_none() {
            // No further than where the content may begin: the rest is hashed as it comes.
            let head = usize::try_from(LONGEST_HEAD - self.written).unwrap_or_default().min(bytes.len());
            self.put(&bytes[..head])?;
            bytes = &bytes[head..];
            self.try_head(self.written >= LONGEST_HEAD)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let most = self.content.as_ref().map_or(LONGEST_HEAD, |it| it.bundle.end() + LONGEST_TAIL);
        if self.written + bytes.len() as u64 > most {
            return Err(UpdateRefusal::Wrong("there is more of it than its manifest says".to_owned()));
        }
        self.put(bytes)?;
        if let Some(content) = &mut self.content {
            content.take(bytes);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<String, UpdateRefusal> {
        if self.content.is_none() {
            // Shorter than a head may be.
            self.try_head(true)?;
        }
        let Some(content) = self.content.take() else { return Err(Refusal::Truncated.into()) };
        if content.hashed < content.bundle.size() {
            return Err(Refusal::Truncated.into());
        }
        if !content.bundle.is_of(content.hash.finish().as_ref()) {
            return Err(Refusal::Altered.into());
        }
        self.file.sync_all().map_err(failed)?;
        let version = content.bundle.version().to_string();
        let folder = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        let mark = |name: &str, is_meant: bool, text: &str| {
            let marker = folder.join(name);
            if !is_meant {
                return whole::remove(&marker);
            }
            whole::create(&marker, |file| file.write_all(text.as_bytes())).map(drop)
        };
        // Before the update itself, which the updater sees at once.
        mark(REBOOT, self.terms.reboot, "").map_err(failed)?;
        mark(FORCE, self.terms.force_downgrade, &version).map_err(failed)?;
        fs::rename(&self.path, folder.join(format!("popgate-{version}.update"))).map_err(failed)?;
        whole::sync(&folder).map_err(failed)?;
        Ok(version)
    }
}

impl Incoming {
    fn put(&mut self, bytes: &[u8]) -> Result<(), UpdateRefusal> {
        self.file.write_all(bytes).map_err(failed)?;
        let before = self.written;
        self.written += bytes.len() as u64;
        if before / SYNC_EVERY != self.written / SYNC_EVERY {
            self.file.sync_data().map_err(failed)?;
        }
        Ok(())
    }

    /// Holds the head to what it should be, if it is there; `is_all` says that no more of it comes.
    fn try_head(&mut self, is_all: bool) -> Result<(), UpdateRefusal> {
        let file = open(&self.path).map_err(failed)?;
        let bundle = match Bundle::open(file, &self.facts.keys, std::env::consts::ARCH) {
            Err(Refusal::Truncated) if !is_all => return Ok(()),
            opened => opened?,
        };
        let Facts { running, failed: left, room, .. } = &self.facts;
        if !self.terms.force_downgrade {
            is_newer(&bundle, running)?;
            if left.as_deref() == Some(&bundle.version().to_string()) {
                return Err(Refusal::FailedBefore(bundle.version().clone()).into());
            }
        }
        if bundle.size() > *room {
            return Err(Refusal::TooBig { needs: bundle.size(), has: *room }.into());
        }
        let disk = rustix::fs::statvfs(self.path.parent().unwrap_or(Path::new("/"))).map_err(io::Error::from);
        let disk = disk.map_err(failed)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bundle.size() + LEFT_FREE > free {
            let detail = format!("it has {} bytes, and {free} are free on the box's disk", bundle.size());
            return Err(UpdateRefusal::NoRoom(detail));
        }
        let mut content = Content { bundle, hash: Context::new(&SHA256), hashed: 0 };
        let come = content.bundle.come(self.written).map_err(failed)?;
        content.take(&come);
        self.content = Some(content);
        Ok(())
    }
}

impl Content {
    fn take(&mut self, bytes: &[u8]) {
        let left = self.bundle.size() - self.hashed;
        let mine = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.hash.update(&bytes[..mine]);
        self.hashed += mine as u64;
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Once it is finished, it is called something else.
        let _ = whole::remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{KEY, good};
    use super::*;

    /// Of a box with an older version than the sample's.
    fn facts() -> Result<Facts, UpdateRefusal> {
        let key = PublicKey::from_base64(KEY).expect("a key");
        Ok(Facts {
            keys: vec![key],
            running: "0.1.0+1.gold".parse().expect("a version"),
            failed: None,
            room: 1 << 20,
        })
    }

    fn newer() -> Result<Facts, UpdateRefusal> {
        Ok(Facts { running: "0.1.0+3.gnew".parse().expect("a version"), ..facts()? })
    }

    fn left_before() -> Result<Facts, UpdateRefusal> {
        Ok(Facts { failed: Some("0.1.0+2.gabc".to_owned()), ..facts()? })
    }

    struct Inbox {
        folder: tempfile::TempDir,
        uploads: Uploads,
    }

    impl Inbox {
        fn new(facts: fn() -> Result<Facts, UpdateRefusal>) -> Inbox {
            let folder = tempfile::tempdir().expect("a folder");
            let uploads = Uploads { folder: folder.path().to_owned(), facts, is_busy: Arc::default() };
            Inbox { folder, uploads }
        }

        /// In pieces of so many bytes.
        fn send(&self, bytes: &[u8], piece: usize, terms: UpdateTerms) -> Result<String, UpdateRefusal> {
            let mut incoming = self.uploads.begin(terms)?;
            bytes.chunks(piece).try_for_each(|piece| incoming.write(piece))?;
            incoming.finish()
        }

        fn refused(&self, bytes: &[u8]) -> String {
            match self.send(bytes, 700, UpdateTerms::default()).expect_err("it is refused") {
                UpdateRefusal::Wrong(why) => why,
                other => panic!("{other:?}"),
            }
        }

        fn files(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path()).expect("readable");
            let mut names: Vec<String> =
                entries.map(|it| it.expect("readable").file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }

        fn empty(&self) {
            for name in self.files() {
                fs::remove_file(self.folder.path().join(name)).expect("removed");
            }
        }
    }

    const UPDATE: &str = "popgate-0.1.0+2.gabc.update";

    #[test]
    fn a_good_one_lies_in_the_folder_byte_for_byte_in_whatever_pieces_it_comes() {
        let inbox = Inbox::new(facts);
        let good = good();
        for piece in [1, 511, 512, 1_000, good.len()] {
            let taken = inbox.send(&good, piece, UpdateTerms::default());
            assert_eq!(taken.as_deref(), Ok("0.1.0+2.gabc"), "in pieces of {piece}");
            assert_eq!(inbox.files(), [UPDATE]);
            assert_eq!(fs::read(inbox.folder.path().join(UPDATE)).expect("readable"), good);
            inbox.empty();
        }
    }

    #[test]
    fn what_is_to_become_of_it_is_said_beside_it() {
        let inbox = Inbox::new(newer);
        let terms = UpdateTerms { force_downgrade: true, reboot: true };
        inbox.send(&good(), 700, terms).expect("it is forced");
        assert_eq!(inbox.files(), ["force-downgrade", UPDATE, "reboot"]);
        let forced = super::super::forced(inbox.folder.path());
        assert_eq!(forced.as_deref(), Some("0.1.0+2.gabc"), "that one and no other");
        inbox.empty();
        assert_eq!(super::super::forced(inbox.folder.path()), None);
    }

    #[test]
    fn whatever_is_wrong_with_it_is_told_and_nothing_of_it_stays() {
        let inbox = Inbox::new(facts);
        let good = good();
        let mut altered = good.clone();
        let content = good.len() - 512;
        altered[content] ^= 1;
        assert!(inbox.refused(&altered).contains("altered"));
        let mut another = good.clone();
        another[600] ^= 1;
        assert!(inbox.refused(&another).contains("signed by none of the keys"));
        assert!(inbox.refused(&good[..content + 5]).contains("cut short"));
        assert!(inbox.refused(&good[..700]).contains("cut short"));
        assert!(inbox.refused(b"").contains("cut short"));
        assert!(inbox.refused(&[b'-'; 200_000]).contains("no tar archive"));
        let long = [&*good, &[0; 2 * LONGEST_TAIL as usize]].concat();
        assert!(inbox.refused(&long).contains("more of it"));
        assert_eq!(inbox.files(), [""; 0]);
        // Nor of one that was given up.
        let mut incoming = inbox.uploads.begin(UpdateTerms::default()).expect("begun");
        incoming.write(&good).expect("good so far");
        drop(incoming);
        assert_eq!(inbox.files(), [""; 0]);
    }

    #[test]
    fn one_that_is_older_or_was_left_before_is_taken_only_if_that_is_forced() {
        for (facts, why) in [
            (newer as fn() -> Result<Facts, UpdateRefusal>, "is older than 0.1.0+3.gnew"),
            (left_before, "did not come up healthy"),
        ] {
            let inbox = Inbox::new(facts);
            assert!(inbox.refused(&good()).contains(why));
            let terms = UpdateTerms { force_downgrade: true, reboot: false };
            assert!(inbox.send(&good(), 700, terms).is_ok(), "{why}");
        }
    }

    #[test]
    fn there_is_one_at_a_time_and_what_a_crash_left_is_in_nobodys_way() {
        let inbox = Inbox::new(facts);
        let busy = |inbox: &Inbox| {
            matches!(inbox.uploads.begin(UpdateTerms::default()), Err(UpdateRefusal::NotNow(_)))
        };
        fs::write(inbox.folder.path().join(ON_ITS_WAY), "half of one").expect("written");
        let incoming = inbox.uploads.begin(UpdateTerms::default()).expect("begun");
        assert!(busy(&inbox), "while one comes");
        drop(incoming);
        inbox.send(&good(), 700, UpdateTerms::default()).expect("taken");
        assert!(busy(&inbox), "while the updater has one");
        inbox.empty();
        assert!(!busy(&inbox));
    }

    #[test]
    fn one_that_fits_no_slot_is_refused_before_it_has_come() {
        let inbox = Inbox::new(|| Ok(Facts { room: 16, ..facts()? }));
        let refusal = inbox.send(&good(), 700, UpdateTerms::default()).expect_err("too big");
        assert!(
            matches!(&refusal, UpdateRefusal::NoRoom(why) if why.contains("needs 17 bytes")),
            "{refusal:?}"
        );
    }
}
