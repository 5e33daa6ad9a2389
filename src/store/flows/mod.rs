//! The flow history: what went through the box in the last days.
//!
//! 1 a record in names, a *row* ([`Row`]), is added to the active log and lies in memory beside it. 2 A log that has grown
//! long, or old, is closed: its rows become Parquet files, one for each tenant and day. 3 Whoever asks looks at the files
//! that cover the time and at what is in memory ([`Part`]).
//!
//! ```text
//! flows/tenant=NAME/date=YYYY-MM-DD/SEQUENCE.parquet                              rows
//! flow-rollups/step=1m|5m|1h/by=source|destination/tenant=NAME/date=…/SEQUENCE.parquet   roll-ups
//! ```
//!
//! A roll-up has one row for all records of a step of time that agree in its columns ([`Rollup::columns`]): those it shares
//! with the rows bear their names, [`Column::End`] being where the step begins. Beside these it has [`FLOWS`], how many
//! records it sums up.

mod row;
mod schema;

pub use row::{Counted, Row};
pub use schema::{Column, FLOWS, Kind, Rollup, Step, schema};

use arrow_array::RecordBatch;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows of one tenant, or a roll-up of them, to be read.
#[derive(Clone, Debug)]
pub enum Part {
    /// What has not been written to a file of rows yet. In no order.
    Memory { tenant: Arc<str>, rows: RecordBatch },
    /// A Parquet file, whose rows are sorted by their first address and, within that, time.
    File { tenant: Arc<str>, path: PathBuf, until: u64, from: u64 },
}
