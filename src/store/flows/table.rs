//! Rows in memory, a column beside the other: to be sorted, split, summed up, and made what Parquet is written from.

use super::row::{Names, Values};
use super::schema::{Column, Kind, Rollup, Step, schema};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow_schema::{ArrowError, SchemaRef};
use std::collections::HashMap;
use std::sync::Arc;

/// Stands where there is no value. No number in a row is negative.
pub(super) const NOTHING: i64 = -1;

const DAY_MILLIS: i64 = 86_400_000;

/// What rows a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// One for each flow record.
    Rows,
    /// Sums.
    Rollup(Rollup, Step),
}

/// Rows of one tenant. Texts are numbers of [`Names`].
#[derive(Clone, Debug)]
pub(super) struct Table {
    shape: Shape,
    columns: Vec<Cells>,
}

/// One column, as wide as its kind.
#[derive(Clone, Debug)]
enum Cells {
    Long(Vec<i64>),
    /// What fits: ports, and numbers of names.
    Int(Vec<i32>),
}

impl Shape {
    pub(super) fn schema(self) -> SchemaRef {
        match self {
            Shape::Rows => schema(),
            Shape::Rollup(rollup, _) => rollup.schema(),
        }
    }

    /// What stands at each place; `None` for [`super::FLOWS`].
    fn columns(self) -> Vec<Option<Column>> {
        match self {
            Shape::Rows => Column::ALL.map(Some).to_vec(),
            Shape::Rollup(rollup, _) => {
                let columns = rollup.columns().map(Some).into_iter().chain([None]);
                columns.chain(Rollup::SUMS.map(Some)).collect()
            }
        }
    }

    fn place(self, column: Column) -> usize {
        self.columns().iter().position(|at| *at == Some(column)).unwrap_or_default()
    }

    /// What its files are sorted by, before time.
    pub(super) fn sorted_by(self) -> Column {
        match self {
            Shape::Rows => Column::Source,
            Shape::Rollup(rollup, _) => rollup.sorted_by(),
        }
    }
}

impl Table {
    pub(super) fn new(shape: Shape) -> Table {
        let cells = |column: Option<Column>| match column.map(Column::kind) {
            None | Some(Kind::Time | Kind::Long) => Cells::Long(Vec::new()),
            Some(Kind::Int | Kind::Text | Kind::Address) => Cells::Int(Vec::new()),
        };
        Table { shape, columns: shape.columns().into_iter().map(cells).collect() }
    }

    /// How many rows.
    pub(super) fn len(&self) -> usize {
        self.columns.first().map_or(0, Cells::len)
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// The rows, of a table of rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = Values> {
        (0..self.len()).map(|row| {
            let mut values = [NOTHING; Column::ALL.len()];
            for (value, cells) in values.iter_mut().zip(&self.columns) {
                *value = cells.get(row);
            }
            values
        })
    }

    /// Adds the rows of another of the same shape and names.
    pub(super) fn append(&mut self, other: &Table) {
        for (cells, more) in self.columns.iter_mut().zip(&other.columns) {
            cells.append(more);
        }
    }

    /// Adds a row, whose values are in the order of the columns.
    pub(super) fn push(&mut self, values: &[i64]) {
        for (cells, value) in self.columns.iter_mut().zip(values) {
            cells.push(*value);
        }
    }

    /// The first and the last of [`Column::End`].
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        let ends = self.times(Column::End);
        Some((*ends.iter().min()?, *ends.iter().max()?))
    }

    /// The rows of each day, by the day's number since the Unix epoch.
    pub(super) fn by_day(self) -> Vec<(u64, Table)> {
        let Some((first, last)) = self.span() else { return Vec::new() };
        let day = |millis: i64| u64::try_from(millis / DAY_MILLIS).unwrap_or_default();
        if day(first) == day(last) {
            return vec![(day(first), self)];
        }
        let days: Vec<u64> = self.times(Column::End).iter().map(|end| day(*end)).collect();
        let of = |wanted: u64| {
            let rows: Vec<u32> =
                (0..).zip(&days).filter(|(_, day)| **day == wanted).map(|(n, _)| n).collect();
            (
                wanted,
                Table { shape: self.shape, columns: self.columns.iter().map(|c| c.take(&rows)).collect() },
            )
        };
        let split = (day(first)..=day(last)).map(of);
        split.filter(|(_, table)| table.len() > 0).collect()
    }

    /// As its files are: sorted by address, as text, and then time.
    pub(super) fn sorted(&self, names: &Names) -> Table {
        let addresses = &self.columns[self.shape.place(self.shape.sorted_by())];
        let ranks = rank(addresses, names);
        let ends = self.times(Column::End);
        let first = ends.iter().min().copied().unwrap_or_default();
        // Rank, time since the first, place: in one word each of the two that matter most.
        let mut order: Vec<(u64, u32)> = (0..self.len())
            .map(|row| {
                let rank = ranks.get(addresses.get(row).max(0) as usize).copied().unwrap_or_default();
                let time = u64::try_from(ends[row] - first).unwrap_or_default().min(u32::MAX.into());
                (u64::from(rank) << 32 | time, row as u32)
            })
            .collect();
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|(_, row)| row).collect();
        Table { shape: self.shape, columns: self.columns.iter().map(|cells| cells.take(&order)).collect() }
    }

    /// One row for all that agree in what a roll-up tells apart. Of rows, or of a roll-up of no longer steps.
    pub(super) fn summed(&self, rollup: Rollup, step: Step) -> Table {
        let to = Shape::Rollup(rollup, step);
        let keys = rollup.columns().map(|column| self.shape.place(column));
        let sums = Rollup::SUMS.map(|column| self.shape.place(column));
        let flows = self.shape.columns().iter().position(Option::is_none);
        let step = step.millis() as i64;
        let mut places: HashMap<[i64; 9], usize, foldhash::fast::FixedState> = HashMap::default();
        let mut table = Table::new(to);
        let last = rollup.columns().len();
        for row in 0..self.len() {
            let mut key = keys.map(|place| self.columns[place].get(row));
            key[0] -= key[0].rem_euclid(step);
            let flows = flows.map_or(1, |place| self.columns[place].get(row));
            let counted = sums.map(|place| self.columns[place].get(row));
            let values = [flows, counted[0], counted[1], counted[2], counted[3]];
            match places.get(&key) {
                Some(at) => {
                    for (cells, more) in table.columns[last..].iter_mut().zip(values) {
                        cells.add(*at, more);
                    }
                }
                None => {
                    places.insert(key, table.len());
                    let all: Vec<i64> = key.into_iter().chain(values).collect();
                    table.push(&all);
                }
            }
        }
        table
    }

    /// As Arrow has it, dictionaries holding what is used.
    ///
    /// # Errors
    /// Arrow refuses it.
    pub(super) fn to_arrow(&self, names: &Names) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.iter().zip(self.shape.columns());
        let arrays =
            columns.map(|(cells, column)| cells.to_arrow(column, names)).collect::<Result<_, _>>()?;
        RecordBatch::try_new(self.shape.schema(), arrays)
    }

    /// Adds the rows of a batch of the same shape, as [`Table::to_arrow`] and the reader of files make them.
    pub(super) fn add(&mut self, batch: &RecordBatch, names: &mut Names) {
        for (cells, array) in self.columns.iter_mut().zip(batch.columns()) {
            cells.add_arrow(array, names);
        }
    }

    #[cfg(test)]
    pub(super) fn sum(&self, column: Column) -> i64 {
        let cells = &self.columns[self.shape.place(column)];
        (0..self.len()).map(|row| cells.get(row)).sum()
    }

    #[cfg(test)]
    pub(super) fn sum_flows(&self) -> i64 {
        let at = self.shape.columns().iter().position(Option::is_none);
        at.map_or(0, |at| (0..self.len()).map(|row| self.columns[at].get(row)).sum())
    }

    fn times(&self, column: Column) -> &[i64] {
        match &self.columns[self.shape.place(column)] {
            Cells::Long(times) => times,
            Cells::Int(_) => &[],
        }
    }
}

impl Cells {
    fn len(&self) -> usize {
        match self {
            Cells::Long(cells) => cells.len(),
            Cells::Int(cells) => cells.len(),
        }
    }

    fn get(&self, row: usize) -> i64 {
        match self {
            Cells::Long(cells) => cells[row],
            Cells::Int(cells) => cells[row].into(),
        }
    }

    fn push(&mut self, value: i64) {
        match self {
            Cells::Long(cells) => cells.push(value),
            Cells::Int(cells) => cells.push(i32::try_from(value).unwrap_or(i32::MAX)),
        }
    }

    fn append(&mut self, other: &Cells) {
        match (self, other) {
            (Cells::Long(cells), Cells::Long(more)) => cells.extend_from_slice(more),
            (Cells::Int(cells), Cells::Int(more)) => cells.extend_from_slice(more),
            _ => {}
        }
    }

    fn add(&mut self, row: usize, more: i64) {
        match self {
            Cells::Long(cells) => cells[row] = cells[row].saturating_add(more),
            Cells::Int(_) => {}
        }
    }

    fn take(&self, rows: &[u32]) -> Cells {
        match self {
            Cells::Long(cells) => Cells::Long(rows.iter().map(|row| cells[*row as usize]).collect()),
            Cells::Int(cells) => Cells::Int(rows.iter().map(|row| cells[*row as usize]).collect()),
        }
    }

    fn to_arrow(&self, column: Option<Column>, names: &Names) -> Result<ArrayRef, ArrowError> {
        let kind = column.map_or(Kind::Long, Column::kind);
        let is_nullable = column.is_some_and(Column::is_nullable);
        Ok(match (self, kind) {
            (Cells::Long(cells), Kind::Time) => {
                Arc::new(TimestampMillisecondArray::from(cells.clone()).with_timezone("UTC"))
            }
            (Cells::Long(cells), _) => Arc::new(Int64Array::from(cells.clone())),
            (Cells::Int(cells), Kind::Text | Kind::Address) => {
                let (keys, texts) = dictionary(cells, names);
                Arc::new(DictionaryArray::<Int32Type>::try_new(ints(&keys, is_nullable), Arc::new(texts))?)
            }
            (Cells::Int(cells), _) => Arc::new(ints(cells, is_nullable)),
        })
    }

    fn add_arrow(&mut self, array: &ArrayRef, names: &mut Names) {
        let some = |row: usize, value: i32| if array.is_null(row) { NOTHING as i32 } else { value };
        match self {
            Cells::Long(cells) => match array.as_primitive_opt::<Int64Type>() {
                Some(numbers) => cells.extend_from_slice(numbers.values()),
                None => match array.as_primitive_opt::<TimestampMillisecondType>() {
                    Some(times) => cells.extend_from_slice(times.values()),
                    None => cells.extend(std::iter::repeat_n(0, array.len())),
                },
            },
            Cells::Int(cells) => match array.as_primitive_opt::<Int32Type>() {
                Some(numbers) => {
                    cells.extend(numbers.values().iter().enumerate().map(|(row, value)| some(row, *value)));
                }
                None => {
                    let texts = array.as_dictionary_opt::<Int32Type>();
                    let known = texts.and_then(|texts| Some((texts, texts.values().as_string_opt::<i32>()?)));
                    let Some((texts, values)) = known else {
                        cells.extend(std::iter::repeat_n(NOTHING as i32, array.len()));
                        return;
                    };
                    let numbers: Vec<i32> =
                        values.iter().map(|text| names.number(text.unwrap_or_default()) as i32).collect();
                    let number = |key: i32| numbers.get(key.max(0) as usize).copied().unwrap_or_default();
                    cells.extend(
                        texts.keys().values().iter().enumerate().map(|(row, key)| some(row, number(*key))),
                    );
                }
            },
        }
    }
}

fn ints(cells: &[i32], is_nullable: bool) -> Int32Array {
    if is_nullable {
        cells.iter().map(|cell| (*cell >= 0).then_some(*cell)).collect()
    } else {
        Int32Array::from(cells.to_vec())
    }
}

/// The texts that are used, each once in the order in which they come, and for each row its text's place.
fn dictionary(cells: &[i32], names: &Names) -> (Vec<i32>, StringArray) {
    let mut places: HashMap<i32, i32, foldhash::fast::FixedState> = HashMap::default();
    let mut texts = Vec::new();
    let mut last = (NOTHING as i32, NOTHING as i32);
    let mut key = |cell: i32| {
        if cell < 0 {
            return NOTHING as i32;
        }
        if cell != last.0 {
            let place = *places.entry(cell).or_insert_with(|| {
                texts.push(names.text(cell as u32));
                texts.len() as i32 - 1
            });
            last = (cell, place);
        }
        last.1
    };
    let keys = cells.iter().map(|cell| key(*cell)).collect();
    (keys, StringArray::from(texts))
}

/// The place of each name that is used among all that are, in the order of their texts.
fn rank(cells: &Cells, names: &Names) -> Vec<u32> {
    let mut ranks = vec![0; names.len()];
    let Cells::Int(cells) = cells else { return ranks };
    let mut used: Vec<u32> = cells.iter().filter_map(|cell| u32::try_from(*cell).ok()).collect();
    used.sort_unstable();
    used.dedup();
    used.sort_unstable_by_key(|number| names.text(*number));
    for (rank, number) in (0..).zip(used) {
        ranks[number as usize] = rank;
    }
    ranks
}
