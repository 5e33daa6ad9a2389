//! The active log: what has come since the last files were made, so that a crash does not lose it.
//!
//! A file begins with [`MAGIC`]. Frames follow: length and CRC-32 of the payload, 4 bytes each, little-endian; then the
//! payload: how many texts are new, each with its length; how many rows, each with its tenant and its values. Texts and
//! tenants go by numbers in the order in which they came. All these numbers are LEB128; of values they are one more, so
//! that 0 is none. What follows a frame that is not whole was never synced.

use super::row::{Names, Values};
use super::schema::Column;
use super::table::NOTHING;
use crate::store::whole;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"PGFLOW2\n";
/// Rows that are written together; in bytes.
const FRAME: usize = 256 << 10;
/// No frame is larger: one more row may be in it than fits, and the texts of all.
const MAX_FRAME: u32 = 64 << 20;

/// Where logs are written to; tests have disks that fail.
pub trait Disk: Send {
    /// A new file at `path`, whole with what `begin` writes or not there.
    ///
    /// # Errors
    /// The disk's.
    fn create(&self, path: &Path, begin: &[u8]) -> io::Result<Box<dyn Append>>;
}

/// A file that grows.
pub trait Append: Write + Send {
    /// Has what was written last.
    ///
    /// # Errors
    /// The disk's: what was written since the last time may be lost.
    fn sync(&mut self) -> io::Result<()>;
}

/// The box's own disk.
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn create(&self, path: &Path, begin: &[u8]) -> io::Result<Box<dyn Append>> {
        Ok(Box::new(whole::create(path, |file| file.write_all(begin))?))
    }
}

impl Append for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// What is to be written, as frames.
#[derive(Default)]
pub(super) struct Frames {
    /// Of the frame that is being made.
    rows: Vec<u8>,
    count: u64,
    texts: Vec<u8>,
    text_count: u64,
    /// How many texts have been told in all.
    told: usize,
    /// Whole frames.
    whole: Vec<u8>,
}

/// A log that is being written.
pub(super) struct Log {
    file: Box<dyn Append>,
    frames: Frames,
    is_synced: bool,
    len: u64,
}

impl Frames {
    /// Adds a row; its texts must be in `names`.
    pub(super) fn add(&mut self, tenant: u32, values: &Values, names: &Names) {
        for number in self.told..names.len() {
            let text = names.text(number as u32);
            put(&mut self.texts, text.len() as u64);
            self.texts.extend_from_slice(text.as_bytes());
            self.text_count += 1;
        }
        self.told = names.len();
        put(&mut self.rows, tenant.into());
        for value in values {
            put(&mut self.rows, value.wrapping_add(1) as u64);
        }
        self.count += 1;
        if self.rows.len() + self.texts.len() >= FRAME {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut payload = Vec::with_capacity(self.rows.len() + self.texts.len() + 20);
        put(&mut payload, std::mem::take(&mut self.text_count));
        payload.append(&mut self.texts);
        put(&mut payload, std::mem::take(&mut self.count));
        payload.append(&mut self.rows);
        self.whole.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.whole.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        self.whole.append(&mut payload);
    }

    fn take(&mut self) -> Vec<u8> {
        self.end_frame();
        std::mem::take(&mut self.whole)
    }
}

impl Log {
    /// A new log that begins with `frames`, and goes on with what is added to these.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn create(disk: &dyn Disk, path: &Path, mut frames: Frames) -> io::Result<Log> {
        let begin = [&MAGIC[..], &frames.take()].concat();
        let file = disk.create(path, &begin)?;
        Ok(Log { file, frames, is_synced: true, len: begin.len() as u64 })
    }

    /// As [`Frames::add`]; written when there is enough.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn add(&mut self, tenant: u32, values: &Values, names: &Names) -> io::Result<()> {
        self.frames.add(tenant, values, names);
        if self.frames.whole.is_empty() { Ok(()) } else { self.write() }
    }

    /// Has all that was added last.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if !std::mem::replace(&mut self.is_synced, true) {
            self.file.sync()?;
        }
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn write(&mut self) -> io::Result<()> {
        let bytes = self.frames.take();
        if !bytes.is_empty() {
            self.is_synced = false;
            self.len += bytes.len() as u64;
            self.file.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Reads a log, and tells each row with its tenant's number. How many bytes at the end were no whole frame.
///
/// # Errors
/// It cannot be read. That it is no log is none: then all of it is not whole.
pub(super) fn replay(path: &Path, names: &mut Names, mut tell: impl FnMut(u32, &Values)) -> io::Result<u64> {
    let bytes = std::fs::read(path)?;
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return Ok(bytes.len() as u64) };
    let mut rows = Vec::new();
    while let Some((payload, after)) = frame(rest) {
        let known = names.len();
        rows.clear();
        // A frame counts as a whole or not at all.
        if read_payload(payload, names, &mut rows).is_none() {
            debug_assert!(names.len() >= known);
            break;
        }
        for (tenant, values) in &rows {
            tell(*tenant, values);
        }
        rest = after;
    }
    Ok(rest.len() as u64)
}

fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len);
    if len > MAX_FRAME {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(len as usize)?;
    (crc32fast::hash(payload) == u32::from_le_bytes(*crc)).then_some((payload, rest))
}

fn read_payload(mut payload: &[u8], names: &mut Names, rows: &mut Vec<(u32, Values)>) -> Option<()> {
    for _ in 0..get(&mut payload)? {
        let len = get(&mut payload)?;
        let (text, rest) = payload.split_at_checked(usize::try_from(len).ok()?)?;
        names.number(std::str::from_utf8(text).ok()?);
        payload = rest;
    }
    let known = |number: i64| usize::try_from(number).is_ok_and(|number| number < names.len());
    for _ in 0..get(&mut payload)? {
        let tenant = u32::try_from(get(&mut payload)?).ok()?;
        let mut values: Values = [NOTHING; Column::ALL.len()];
        for (column, value) in Column::ALL.into_iter().zip(&mut values) {
            *value = get(&mut payload)?.wrapping_sub(1) as i64;
            if column.is_text() && !known(*value) && !(column.is_nullable() && *value == NOTHING) {
                return None;
            }
        }
        rows.push((known(tenant.into()).then_some(tenant)?, values));
    }
    Some(())
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
