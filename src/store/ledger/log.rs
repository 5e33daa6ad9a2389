//! The log: beginnings and ends as they come, at the end of one file.
//!
//! A holding is written when it begins, and again, whole, when it ends. A log begins with what was held when it was
//! opened, so that none before it is needed to understand it.

use super::Who;
use super::files::{self, LOG};
use super::record::{Header, Holding, Name, RECORD_BYTES, Record};
use crate::model::Protocol;
use crate::store::report::{Gap, GapCause};
use crate::store::whole;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::Path;

/// Records are written when so many bytes of them have come together, or when no more wait.
const BUFFER_BYTES: usize = 1 << 18;

/// A log that is open for writing.
pub(super) struct Log {
    pub(super) header: Header,
    file: File,
    /// What the file holds for sure.
    written: u64,
    /// Of what was held when it was opened, and of what comes with every file.
    pub(super) carried: u64,
    buffer: Vec<u8>,
    numbers: HashMap<Who, u32>,
    synced: bool,
}

impl Log {
    /// A new log, with `gaps` and `held` in it.
    pub(super) fn create<'a>(
        dir: &Path,
        header: Header,
        gaps: &[Gap],
        held: impl Iterator<Item = (Holding, Who)> + 'a,
    ) -> io::Result<Log> {
        let path = files::path_of(dir, header.sequence, LOG);
        let (mut buffer, mut numbers, mut written) = (Vec::new(), HashMap::new(), 0);
        buffer.extend_from_slice(&Record::Header(header).to_bytes());
        for gap in gaps {
            buffer.extend_from_slice(&Record::Gap(*gap).to_bytes());
        }
        let file = whole::create(&path, |file| {
            for (holding, who) in held {
                push(&mut buffer, &mut numbers, holding, &who);
                if buffer.len() >= BUFFER_BYTES {
                    file.write_all(&buffer)?;
                    written += buffer.len() as u64;
                    buffer.clear();
                }
            }
            written += buffer.len() as u64;
            file.write_all(&buffer)
        })?;
        buffer.clear();
        Ok(Log { header, file, written, carried: written, buffer, numbers, synced: true })
    }

    /// Adds that `who` has, or had, this.
    pub(super) fn push(&mut self, holding: Holding, who: &Who) -> io::Result<()> {
        push(&mut self.buffer, &mut self.numbers, holding, who);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Adds what is not of a holding.
    pub(super) fn note(&mut self, record: &Record) {
        self.buffer.extend_from_slice(&record.to_bytes());
    }

    /// Lets readers see what was added.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.synced = false;
        Ok(())
    }

    /// Has what was flushed outlive a loss of power.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.synced {
            self.file.sync_data()?;
            self.synced = true;
        }
        Ok(())
    }

    /// Bytes, with what waits to be written.
    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Records that were added and are not written.
    pub(super) fn waiting(&self) -> u64 {
        (self.buffer.len() / RECORD_BYTES) as u64
    }

    /// From now on there is no room on the disk.
    #[cfg(test)]
    pub(super) fn fill_disk(&mut self) {
        self.file = File::options().write(true).open("/dev/full").expect("Linux has it");
    }

    /// Gives the file up as it was before the write that failed.
    pub(super) fn give_up(self) -> io::Result<()> {
        self.file.set_len(self.written)
    }
}

fn push(buffer: &mut Vec<u8>, numbers: &mut HashMap<Who, u32>, mut holding: Holding, who: &Who) {
    holding.who = match numbers.get(who) {
        Some(number) => *number,
        None => {
            let of = match &who.branch {
                // A branch's name says whose it is.
                Some(_) => {
                    let tenant = Who { tenant: who.tenant.clone(), branch: None };
                    let known = numbers.get(&tenant).copied();
                    known.unwrap_or_else(|| name(buffer, numbers, tenant, 0))
                }
                None => 0,
            };
            name(buffer, numbers, who.clone(), of)
        }
    };
    buffer.extend_from_slice(&Record::Holding(holding).to_bytes());
}

fn name(buffer: &mut Vec<u8>, numbers: &mut HashMap<Who, u32>, who: Who, of: u32) -> u32 {
    // 0 is no name's.
    let number = numbers.len() as u32 + 1;
    let text = who.branch.as_ref().unwrap_or(&who.tenant).to_string();
    buffer.extend_from_slice(&Record::Name(Name { number, of, text }).to_bytes());
    numbers.insert(who, number);
    number
}

/// What a log says.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) header: Header,
    pub(super) names: Names,
    /// In the order they ended.
    pub(super) ended: Vec<Holding>,
    pub(super) open: Vec<Holding>,
    /// Those written down, and those of records that cannot be read.
    pub(super) gaps: Vec<Gap>,
    /// The last time that something is known of.
    pub(super) last: u64,
}

/// Names by their numbers in a file.
#[derive(Clone, Default)]
pub(super) struct Names(HashMap<u32, Name>);

impl Names {
    pub(super) fn add(&mut self, name: Name) {
        self.0.insert(name.number, name);
    }

    /// Whom a number stands for; `?` where its name was lost.
    pub(super) fn who(&self, number: u32) -> Who {
        let text = |number| self.0.get(&number).map_or("?", |name: &Name| name.text.as_str()).into();
        match self.0.get(&number) {
            Some(Name { of, .. }) if *of != 0 => Who { tenant: text(*of), branch: Some(text(number)) },
            _ => Who { tenant: text(number), branch: None },
        }
    }

    /// By number.
    pub(super) fn all(&self) -> Vec<Name> {
        let mut all: Vec<Name> = self.0.values().cloned().collect();
        all.sort_by_key(|name| name.number);
        all
    }
}

/// Reads a log through; of its holdings, those that are `wanted`. A record that is not whole is left out, and if others
/// come after it, that is a gap; the end of the file is where a crash may have left one, and no gap.
///
/// # Errors
/// `InvalidData` if it does not begin as a log does.
pub(super) fn replay(file: File, wanted: impl Fn(&Holding) -> bool) -> io::Result<Replay> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut replay = Replay::default();
    let mut open: HashMap<(u32, IpAddr, Option<Protocol>, u16), Holding> = HashMap::new();
    match next(&mut reader)? {
        Some(Some(Record::Header(header))) if header.closed == 0 => {
            (replay.header, replay.last) = (header, header.opened);
        }
        _ => return Err(ErrorKind::InvalidData.into()),
    }
    let mut damaged = 0;
    while let Some(record) = next(&mut reader)? {
        let Some(record) = record else {
            damaged += 1;
            continue;
        };
        let seen = match &record {
            Record::Holding(holding) => holding.began.max(holding.ended),
            Record::Gap(gap) => gap.until_unix_ms,
            Record::Kept(unix_ms) => *unix_ms,
            Record::Header(_) | Record::Name(_) => 0,
        };
        if damaged > 0 && seen > 0 {
            let (from_unix_ms, until_unix_ms) = (replay.last, seen.max(replay.last));
            let cause = GapCause::Damaged;
            replay.gaps.push(Gap { from_unix_ms, until_unix_ms, cause, lost: damaged });
            damaged = 0;
        }
        replay.last = replay.last.max(seen);
        match record {
            Record::Holding(holding) if wanted(&holding) => {
                let key = (holding.who, holding.outside, holding.protocol, holding.ports.0);
                if holding.ended == 0 {
                    open.insert(key, holding);
                } else {
                    open.remove(&key);
                    replay.ended.push(holding);
                }
            }
            Record::Name(name) => replay.names.add(name),
            Record::Gap(gap) => replay.gaps.push(gap),
            Record::Holding(_) | Record::Header(_) | Record::Kept(_) => {}
        }
    }
    replay.open = open.into_values().collect();
    replay.open.sort_by_key(Holding::order);
    Ok(replay)
}

/// The next record, or that it is damaged; `None` at the end, also at that of a file that ends in the middle of one.
fn next(reader: &mut impl Read) -> io::Result<Option<Option<Record>>> {
    let mut bytes = [0; RECORD_BYTES];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(Record::from_bytes(&bytes))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
