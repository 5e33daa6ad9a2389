//! The rows of one log, in memory: those that are being taken in, or that are being made files of.

use super::log::Frames;
use super::row::{Names, Row, Values};
use super::table::{Shape, Table};
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A whole chunk is made what queries read once; of one that still grows that is made each time.
const CHUNK: usize = 32_768;

/// The rows of one log.
#[derive(Default)]
pub(super) struct Active {
    /// The log's.
    pub(super) number: u64,
    /// Milliseconds since the Unix epoch.
    pub(super) opened: u64,
    pub(super) names: Names,
    /// By the tenant's number among the names.
    tenants: BTreeMap<u32, Vec<Chunk>>,
    rows: usize,
}

struct Chunk {
    table: Table,
    read: OnceLock<RecordBatch>,
}

impl Active {
    pub(super) fn new(number: u64, opened: u64) -> Active {
        Active { number, opened, ..Active::default() }
    }

    /// How many rows.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Adds a row; its tenant's number, and its values.
    pub(super) fn add(&mut self, row: &Row<'_>) -> (u32, Values) {
        let tenant = self.names.number(row.tenant);
        let values = row.values(&mut self.names);
        self.push(tenant, &values);
        (tenant, values)
    }

    /// Adds a row whose texts are in the names.
    pub(super) fn push(&mut self, tenant: u32, values: &Values) {
        let chunks = self.tenants.entry(tenant).or_default();
        if chunks.last().is_none_or(|chunk| chunk.table.len() >= CHUNK) {
            chunks.push(Chunk { table: Table::new(Shape::Rows), read: OnceLock::new() });
        }
        if let Some(chunk) = chunks.last_mut() {
            chunk.table.push(values);
        }
        self.rows += 1;
    }

    /// All of it, as a log begins with it.
    pub(super) fn frames(&self) -> Frames {
        let mut frames = Frames::default();
        for (tenant, chunks) in &self.tenants {
            for chunk in chunks {
                chunk.table.rows().for_each(|values| frames.add(*tenant, &values, &self.names));
            }
        }
        frames
    }

    /// Each tenant's rows.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&str, Table)> {
        self.tenants.iter().map(|(tenant, chunks)| {
            let mut all = Table::new(Shape::Rows);
            chunks.iter().for_each(|chunk| all.append(&chunk.table));
            (self.names.text(*tenant), all)
        })
    }

    /// The rows that ended between `from` and `until`, of one tenant or of each, as queries read them.
    ///
    /// # Errors
    /// Arrow refuses them.
    pub(super) fn read(
        &self,
        tenant: Option<&str>,
        from: u64,
        until: u64,
    ) -> Result<Vec<(&str, RecordBatch)>, ArrowError> {
        let mut batches = Vec::new();
        for (number, chunks) in &self.tenants {
            let name = self.names.text(*number);
            if tenant.is_some_and(|tenant| tenant != name) {
                continue;
            }
            for chunk in chunks {
                let overlaps = chunk.table.span().is_some_and(|(first, last)| {
                    first < i64::try_from(until).unwrap_or(i64::MAX)
                        && last >= i64::try_from(from).unwrap_or(i64::MAX)
                });
                if !overlaps {
                    continue;
                }
                let batch = match chunk.read.get() {
                    Some(batch) => batch.clone(),
                    None => {
                        let batch = chunk.table.to_arrow(&self.names)?;
                        if chunk.table.len() >= CHUNK {
                            let _ = chunk.read.set(batch.clone());
                        }
                        batch
                    }
                };
                batches.push((name, batch));
            }
        }
        Ok(batches)
    }
}
