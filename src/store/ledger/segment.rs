//! A segment: what ended while one log was written, sorted, and never changed again.
//!
//! The header, then bindings and then blocks, each by address, first port and time; then names, then gaps. Records are of
//! one size, so the file is its own index: twenty of half a million are read to find one.

use super::files::{self, SEGMENT};
use super::log::Names;
use super::record::{Header, Holding, RECORD_BYTES, Record, number_of};
use super::search::Asked;
use crate::store::report::Gap;
use crate::store::whole;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Writes a segment: `header` says which, and when it was opened and closed.
pub(super) fn write(
    dir: &Path,
    mut header: Header,
    mut ended: Vec<Holding>,
    names: &Names,
    gaps: &[Gap],
) -> io::Result<()> {
    ended.sort_unstable_by_key(Holding::order);
    let blocks = ended.partition_point(|holding| !holding.is_block());
    let names = names.all();
    let count = |records: usize| u32::try_from(records).map_err(|_| ErrorKind::FileTooLarge);
    header.earliest = ended.iter().map(|holding| holding.began).min().unwrap_or(header.closed);
    header.closed = ended.iter().map(|holding| holding.ended).max().unwrap_or(0).max(header.closed);
    header.bindings = count(blocks)?;
    header.blocks = count(ended.len() - blocks)?;
    header.names = count(names.len())?;
    header.gaps = count(gaps.len())?;
    header.widest =
        ended.iter().map(|holding| holding.ports.1.saturating_sub(holding.ports.0)).max().unwrap_or(0);
    let records = [Record::Header(header)]
        .into_iter()
        .chain(ended.into_iter().map(Record::Holding))
        .chain(names.into_iter().map(Record::Name))
        .chain(gaps.iter().copied().map(Record::Gap));
    whole::create(&files::path_of(dir, header.sequence, SEGMENT), |file| {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        for record in records {
            out.write_all(&record.to_bytes())?;
        }
        out.flush()
    })?;
    Ok(())
}

/// A segment that is open for reading.
pub(super) struct Segment {
    file: File,
    pub(super) header: Header,
}

impl Segment {
    /// # Errors
    /// `InvalidData` if it does not begin as a segment does.
    pub(super) fn open(path: &Path) -> io::Result<Segment> {
        let file = File::open(path)?;
        let mut segment = Segment { file, header: Header::default() };
        segment.header = match segment.read(0)? {
            Record::Header(header) if header.closed > 0 => header,
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        Ok(segment)
    }

    /// Its holdings that fit.
    ///
    /// # Errors
    /// `InvalidData` if records that had to be read for that are damaged.
    pub(super) fn find(&self, asked: &Asked) -> io::Result<Vec<Holding>> {
        let header = &self.header;
        if header.earliest >= asked.until || header.closed < asked.from {
            return Ok(Vec::new());
        }
        let blocks = 1 + u64::from(header.bindings);
        let end = blocks + u64::from(header.blocks);
        let mut found = Vec::new();
        self.collect(1..blocks, asked.port, asked, &mut found)?;
        self.collect(blocks..end, asked.port.saturating_sub(header.widest), asked, &mut found)?;
        Ok(found)
    }

    /// Of those of `records` that begin at the port `first` or after it, those that fit.
    fn collect(
        &self,
        records: std::ops::Range<u64>,
        first: u16,
        asked: &Asked,
        found: &mut Vec<Holding>,
    ) -> io::Result<()> {
        let place = |holding: &Holding| (number_of(holding.outside), holding.ports.0);
        let (mut low, mut high) = (records.start, records.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if place(&self.holding(middle)?) < (number_of(asked.address), first) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        for at in low..records.end {
            let holding = self.holding(at)?;
            if place(&holding) > (number_of(asked.address), asked.port) {
                break;
            }
            if asked.fits(&holding) {
                found.push(holding);
            }
        }
        Ok(())
    }

    pub(super) fn names(&self) -> io::Result<Names> {
        let first = 1 + u64::from(self.header.bindings) + u64::from(self.header.blocks);
        let mut names = Names::default();
        for at in first..first + u64::from(self.header.names) {
            if let Record::Name(name) = self.read(at)? {
                names.add(name);
            }
        }
        Ok(names)
    }

    pub(super) fn gaps(&self) -> io::Result<Vec<Gap>> {
        let header = &self.header;
        let before = [header.bindings, header.blocks, header.names].map(u64::from).iter().sum::<u64>();
        let mut gaps = Vec::new();
        for at in 1 + before..1 + before + u64::from(header.gaps) {
            if let Record::Gap(gap) = self.read(at)? {
                gaps.push(gap);
            }
        }
        Ok(gaps)
    }

    fn holding(&self, at: u64) -> io::Result<Holding> {
        match self.read(at)? {
            Record::Holding(holding) => Ok(holding),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn read(&self, at: u64) -> io::Result<Record> {
        let mut bytes = [0; RECORD_BYTES];
        match self.file.read_exact_at(&mut bytes, at * RECORD_BYTES as u64) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(ErrorKind::InvalidData.into()),
            Err(error) => Err(error),
            Ok(()) => Record::from_bytes(&bytes).ok_or_else(|| ErrorKind::InvalidData.into()),
        }
    }
}
