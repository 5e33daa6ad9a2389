//! Rows as they are, the newest first: 1 which they are, by when they end, is found out from two columns, 2 these few are
//! read whole.

use super::read::{Block, Look, Opened, Trouble, dictionary, ints, longs};
use crate::store::flows::{Column, Kind};
use crate::store::report::Cell;
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// What is read to find them.
pub(super) const ORDER: [Column; 2] = [Column::End, Column::Session];

/// A row's place in the order: records of a session do not end at the same time.
pub(super) type Place = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    pub(super) place: Place,
    unit: usize,
    row: usize,
}

/// The newest rows before a place.
pub(super) struct Newest {
    most: usize,
    before: Option<Place>,
    /// The oldest on top.
    kept: BinaryHeap<Reverse<Hit>>,
}

impl Newest {
    pub(super) fn new(most: usize, before: Option<Place>) -> Newest {
        Newest { most, before, kept: BinaryHeap::new() }
    }

    fn oldest(&self) -> Option<Place> {
        let full = self.kept.len() >= self.most;
        self.kept.peek().filter(|_| full).map(|Reverse(hit)| hit.place)
    }

    /// All that were found, the newest first.
    pub(super) fn merge(found: Vec<Newest>) -> Vec<Hit> {
        let mut hits: Vec<Hit> =
            found.into_iter().flat_map(|newest| newest.kept.into_iter().map(|Reverse(hit)| hit)).collect();
        hits.sort_unstable_by_key(|hit| Reverse(*hit));
        hits
    }
}

impl Look for Newest {
    fn wants(&self, latest: u64) -> bool {
        self.oldest().is_none_or(|(end, _)| latest >= end)
    }

    fn look(&mut self, block: &Block<'_>) -> Result<(), Trouble> {
        let ends = longs(block.batch, Column::End.name())?;
        let sessions = longs(block.batch, Column::Session.name())?;
        let mut oldest = self.oldest();
        block.each(|at| {
            let place = (ends[at] as u64, sessions[at] as u64);
            if oldest.is_some_and(|oldest| place < oldest)
                || self.before.is_some_and(|before| place >= before)
            {
                return;
            }
            self.kept.push(Reverse(Hit { place, unit: block.unit, row: block.first + at }));
            if self.kept.len() > self.most {
                self.kept.pop();
            }
            oldest = self.oldest();
        });
        Ok(())
    }
}

/// The rows at `hits`, in that order: the tenant's name and then every column.
pub(super) fn fetch(opened: &Opened, hits: &[Hit]) -> Result<Vec<Vec<Cell>>, Trouble> {
    let mut units: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (at, hit) in hits.iter().enumerate() {
        units.entry(hit.unit).or_default().push((hit.row, at));
    }
    let mut rows = vec![Vec::new(); hits.len()];
    for (unit, mut wanted) in units {
        wanted.sort_unstable();
        let places: Vec<usize> = wanted.iter().map(|(row, _)| *row).collect();
        let mut wanted = wanted.into_iter();
        for batch in opened.rows(unit, &places)? {
            for row in 0..batch.num_rows() {
                let Some((_, at)) = wanted.next() else { break };
                let mut cells = vec![Cell::Text(opened.tenant(unit).to_string())];
                for column in Column::ALL {
                    cells.push(cell(&batch, column, row)?);
                }
                rows[at] = cells;
            }
        }
    }
    Ok(rows)
}

fn cell(batch: &RecordBatch, column: Column, row: usize) -> Result<Cell, Trouble> {
    Ok(match column.kind() {
        Kind::Time | Kind::Long => Cell::Number(longs(batch, column.name())?[row] as u64),
        Kind::Int => {
            let array = ints(batch, column)?;
            if array.is_null(row) { Cell::None } else { Cell::Number(array.value(row) as u64) }
        }
        Kind::Text | Kind::Address => {
            let array = dictionary(batch, column)?;
            match array.key(row) {
                Some(key) => Cell::Text(array.values().as_string::<i32>().value(key).to_owned()),
                None => Cell::None,
            }
        }
    })
}
