//! Parts, read: 1 files are opened and their groups of rows looked at: what cannot have a row that is asked for is left
//! out, 2 what is left is read, by two threads, no more of it than the columns in question, 3 whoever looks at the rows is
//! shown them batch by batch.

use super::judge::{Judge, Mask};
use super::prune::may_have;
use super::{Filter, Limits, QueryError};
use crate::store::flows::{Column, FLOWS, Part, Rollup, schema};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{DictionaryArray, Int32Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// 16,384 rows: three columns of them fit a core's second-level cache.
const BATCH: usize = 16_384;

/// A part, and the time of which its rows are asked for: milliseconds since the Unix epoch, without the end.
pub(super) struct Span {
    pub(super) part: Part,
    pub(super) time: Range<u64>,
}

/// Why the rows of a part could not be looked at.
pub(super) enum Trouble {
    /// Of this part alone.
    Unreadable(String),
    /// Of the whole question.
    Refused(QueryError),
}

impl From<QueryError> for Trouble {
    fn from(error: QueryError) -> Trouble {
        Trouble::Refused(error)
    }
}

impl From<ParquetError> for Trouble {
    fn from(error: ParquetError) -> Trouble {
        Trouble::Unreadable(error.to_string())
    }
}

/// An opened part.
pub(super) struct Source {
    pub(super) tenant: Arc<str>,
    time: Range<u64>,
    rows: Rows,
}

enum Rows {
    Memory(RecordBatch),
    File { path: PathBuf, file: Chunks, metadata: ArrowReaderMetadata },
}

/// What one thread reads at a time: a group of rows of a file, or all that a part in memory has.
pub(super) struct Unit {
    pub(super) source: usize,
    row_group: usize,
    /// By when its rows end at the latest.
    pub(super) latest: u64,
    /// None of its rows is outside of the time.
    within: bool,
    pub(super) rows: usize,
}

/// Everything there is to look at, and what could not be.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) sources: Vec<Source>,
    /// Those that end last come first.
    pub(super) units: Vec<Unit>,
    pub(super) unreadable: Vec<String>,
    /// What ended before may not all be there.
    pub(super) incomplete_before: Option<u64>,
}

/// A batch, as it is shown.
pub(super) struct Block<'a> {
    pub(super) tenant: &'a Arc<str>,
    /// Among [`Opened::units`].
    pub(super) unit: usize,
    /// The first row's place in the unit.
    pub(super) first: usize,
    pub(super) batch: &'a RecordBatch,
    /// The places of those rows that are meant; `None` for all.
    pub(super) places: Option<&'a [u32]>,
}

/// Who looks at rows; one in each thread.
pub(super) trait Look: Send {
    /// Whether a unit whose rows end by then is of any use still.
    fn wants(&self, latest: u64) -> bool {
        let _ = latest;
        true
    }

    fn look(&mut self, block: &Block<'_>) -> Result<(), Trouble>;
}

/// Opens `spans`, leaving out what `filter` cannot mean.
pub(super) fn open(spans: Vec<Span>, filter: &Filter, limits: &Limits<'_>) -> Result<Opened, QueryError> {
    let next = AtomicUsize::new(0);
    let spans: Vec<_> = spans.into_iter().map(|span| (span.part, span.time)).collect();
    let work = || {
        let mut opened = Vec::new();
        while let Some((part, time)) = spans.get(next.fetch_add(1, Ordering::Relaxed)) {
            limits.check()?;
            opened.push(open_one(part, time, filter));
        }
        Ok(opened)
    };
    let mut all = Opened::default();
    for opened in in_threads(limits, spans.len(), work)?.into_iter().flatten() {
        match opened {
            Ok(Some((source, units))) => {
                let at = all.sources.len();
                all.units.extend(units.into_iter().map(|unit| Unit { source: at, ..unit }));
                all.sources.push(source);
            }
            Ok(None) => {}
            Err(unreadable) => all.unreadable.push(unreadable),
        }
    }
    all.units.sort_by_key(|unit| std::cmp::Reverse(unit.latest));
    Ok(all)
}

/// `None` if nothing in it can be meant, or it is gone.
fn open_one(part: &Part, time: &Range<u64>, filter: &Filter) -> Result<Option<(Source, Vec<Unit>)>, String> {
    let (tenant, path) = match part {
        Part::Memory { tenant, rows } => {
            if rows.num_rows() == 0 {
                return Ok(None);
            }
            let source =
                Source { tenant: Arc::clone(tenant), time: time.clone(), rows: Rows::Memory(rows.clone()) };
            let unit =
                Unit { source: 0, row_group: 0, latest: u64::MAX, within: false, rows: rows.num_rows() };
            return Ok(Some((source, vec![unit])));
        }
        Part::File { tenant, path, .. } => (tenant, path),
    };
    let file = match Chunks::open(path) {
        // The quota took it, after it was found.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| unreadable(path, &error))?,
    };
    let metadata = file_metadata(&file).map_err(|error| unreadable(path, &error))?;
    let units: Vec<Unit> = (0..metadata.metadata().num_row_groups())
        .filter_map(|row_group| {
            let group = metadata.metadata().row_group(row_group);
            let (earliest, latest) = super::prune::times(group);
            let possible = latest >= time.start && earliest < time.end && may_have(filter, tenant, group);
            let within = earliest >= time.start && latest < time.end;
            let rows = usize::try_from(group.num_rows()).unwrap_or_default();
            possible.then_some(Unit { source: 0, row_group, latest, within, rows })
        })
        .collect();
    if units.is_empty() {
        return Ok(None);
    }
    let rows = Rows::File { path: path.clone(), file, metadata };
    Ok(Some((Source { tenant: Arc::clone(tenant), time: time.clone(), rows }, units)))
}

fn unreadable(path: &std::path::Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// With the columns' types as they are in memory, whatever the file says of itself.
fn file_metadata(file: &Chunks) -> Result<ArrowReaderMetadata, ParquetError> {
    let metadata: ParquetMetaData = ParquetMetaDataReader::new().parse_and_finish(file)?;
    let columns = metadata.file_metadata().schema_descr();
    let has = |name: &str| columns.columns().iter().any(|column| column.name() == name);
    let rolled_up = |rollup: &Rollup| rollup.columns().iter().all(|column| has(column.name()));
    let rollup = Rollup::ALL.into_iter().find(|rollup| has(FLOWS) && rolled_up(rollup));
    let schema = rollup.map_or_else(schema, Rollup::schema);
    ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new().with_schema(schema))
}

impl Opened {
    /// Shows all rows that `filter` means to those whom `make` makes, with `columns`; they come back. What turns out to be
    /// unreadable is noted.
    pub(super) fn scan<L: Look>(
        &mut self,
        filter: &Filter,
        columns: &[Column],
        limits: &Limits<'_>,
        make: impl Fn() -> L + Sync,
    ) -> Result<Vec<L>, QueryError> {
        let mut columns: Vec<Column> = columns.to_vec();
        columns.extend(filter.fields().iter().flat_map(|field| field.columns()));
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut looker, mut judge, mut unreadable) = (make(), Judge::new(filter), Vec::new());
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(unit) = self.units.get(at) else { return Ok((looker, unreadable)) };
                if !looker.wants(unit.latest) {
                    continue;
                }
                match self.read(at, unit, &columns, &mut judge, &mut looker, limits) {
                    Ok(()) => {}
                    Err(Trouble::Refused(error)) => return Err(error),
                    Err(Trouble::Unreadable(why)) => {
                        unreadable.push(match &self.sources[unit.source].rows {
                            Rows::File { path, .. } => format!("{}: {why}", path.display()),
                            Rows::Memory(_) => why,
                        });
                    }
                }
            }
        };
        let (lookers, unreadable): (Vec<L>, Vec<Vec<String>>) =
            in_threads(limits, self.units.len(), work)?.into_iter().unzip();
        self.unreadable.extend(unreadable.into_iter().flatten());
        Ok(lookers)
    }

    fn read<L: Look>(
        &self,
        at: usize,
        unit: &Unit,
        columns: &[Column],
        judge: &mut Judge<'_>,
        looker: &mut L,
        limits: &Limits<'_>,
    ) -> Result<(), Trouble> {
        let source = &self.sources[unit.source];
        let mut first = 0;
        let mut show = |batch: &RecordBatch| {
            limits.check()?;
            let in_time = if unit.within { Mask::All } else { in_time(batch, &source.time)? };
            let mask = match in_time {
                Mask::None => Mask::None,
                in_time => in_time.and(judge.judge(batch, &source.tenant)?),
            };
            let places = mask.places();
            if places.as_ref().is_none_or(|places| !places.is_empty()) {
                let (tenant, places) = (&source.tenant, places.as_deref());
                looker.look(&Block { tenant, unit: at, first, batch, places })?;
            }
            first += batch.num_rows();
            Ok::<(), Trouble>(())
        };
        match &source.rows {
            Rows::Memory(rows) => {
                for start in (0..rows.num_rows()).step_by(BATCH) {
                    show(&rows.slice(start, BATCH.min(rows.num_rows() - start)))?;
                }
            }
            Rows::File { .. } => {
                let end = [Column::End];
                let end = if unit.within { &[] } else { end.as_slice() };
                for batch in source.batches(unit, &[columns, end].concat(), None)? {
                    show(&batch.map_err(|error| Trouble::Unreadable(error.to_string()))?)?;
                }
            }
        }
        Ok(())
    }

    /// Whole rows of a unit, by their places, in order.
    pub(super) fn rows(&self, unit: usize, places: &[usize]) -> Result<Vec<RecordBatch>, Trouble> {
        let unit = &self.units[unit];
        let source = &self.sources[unit.source];
        match &source.rows {
            Rows::Memory(rows) => Ok(places.iter().map(|place| rows.slice(*place, 1)).collect()),
            Rows::File { .. } => {
                let ranges = places.iter().map(|place| *place..*place + 1);
                let selection = RowSelection::from_consecutive_ranges(ranges, unit.rows);
                let batches = source.batches(unit, &Column::ALL, Some(selection))?;
                batches.map(|batch| batch.map_err(|error| Trouble::Unreadable(error.to_string()))).collect()
            }
        }
    }

    pub(super) fn tenant(&self, unit: usize) -> &Arc<str> {
        &self.sources[self.units[unit].source].tenant
    }
}

impl Source {
    /// A group of rows with `columns`, those that the file has, and [`FLOWS`].
    fn batches(
        &self,
        unit: &Unit,
        columns: &[Column],
        selection: Option<RowSelection>,
    ) -> Result<ParquetRecordBatchReader, Trouble> {
        let Rows::File { file, metadata, .. } = &self.rows else {
            return Err(Trouble::Unreadable("no file".to_owned()));
        };
        let in_file = metadata.parquet_schema();
        let wanted = in_file.columns().iter().enumerate().filter(|(_, column)| {
            column.name() == FLOWS || columns.iter().any(|wanted| wanted.name() == column.name())
        });
        let mask = ProjectionMask::roots(in_file, wanted.map(|(at, _)| at).collect::<Vec<_>>());
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone());
        let builder =
            builder.with_row_groups(vec![unit.row_group]).with_projection(mask).with_batch_size(BATCH);
        let builder = match selection {
            Some(selection) => builder.with_row_selection(selection),
            None => builder,
        };
        Ok(builder.build()?)
    }
}

/// What `work` makes in as many threads as there may be, and there is work for.
fn in_threads<T: Send>(
    limits: &Limits<'_>,
    units: usize,
    work: impl Fn() -> Result<T, QueryError> + Sync,
) -> Result<Vec<T>, QueryError> {
    let others = limits.threads.min(units).saturating_sub(1);
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(&work)).collect();
        let mut all = vec![work()];
        all.extend(others.into_iter().map(|other| other.join().unwrap_or(Err(QueryError::Panicked))));
        all.into_iter().collect()
    })
}

fn in_time(batch: &RecordBatch, time: &Range<u64>) -> Result<Mask, Trouble> {
    let ends = longs(batch, Column::End.name())?;
    Ok(Mask::Some(ends.iter().map(|end| time.contains(&(*end as u64))).collect()))
}

fn missing(name: &str) -> Trouble {
    Trouble::Unreadable(format!("column {name:?} is missing, or of another type"))
}

/// A column of times or 64-bit numbers.
pub(super) fn longs<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [i64], Trouble> {
    let array = batch.column_by_name(name).ok_or_else(|| missing(name))?;
    let longs = array.as_primitive_opt::<Int64Type>().map(|array| &array.values()[..]);
    let times = || array.as_primitive_opt::<TimestampMillisecondType>().map(|array| &array.values()[..]);
    longs.or_else(times).ok_or_else(|| missing(name))
}

pub(super) fn ints(batch: &RecordBatch, column: Column) -> Result<&Int32Array, Trouble> {
    let array = batch.column_by_name(column.name()).and_then(|array| array.as_primitive_opt::<Int32Type>());
    array.ok_or_else(|| missing(column.name()))
}

/// A column of text, whose values are strings.
pub(super) fn dictionary(
    batch: &RecordBatch,
    column: Column,
) -> Result<&DictionaryArray<Int32Type>, Trouble> {
    let array = batch.column_by_name(column.name()).and_then(|array| array.as_dictionary_opt::<Int32Type>());
    let of_strings = array.filter(|array| array.values().as_string_opt::<i32>().is_some());
    of_strings.ok_or_else(|| missing(column.name()))
}

/// A file that several threads read at once: each says where, so that there is no position to share.
#[derive(Clone)]
struct Chunks {
    file: Arc<File>,
    len: u64,
}

impl Chunks {
    fn open(path: &std::path::Path) -> io::Result<Chunks> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Chunks { file: Arc::new(file), len })
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<Onward>;

    fn get_read(&self, start: u64) -> Result<BufReader<Onward>, ParquetError> {
        // 512 bytes: no more than a page's header is read this way.
        Ok(BufReader::with_capacity(512, Onward { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are beyond its end")));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

struct Onward {
    file: Arc<File>,
    at: u64,
}

impl Read for Onward {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
