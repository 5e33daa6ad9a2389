//! What the flow history is asked, and what it answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A question in words, as somebody wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowQuestion {
    /// Of one tenant, whatever the filter says.
    pub tenant: Option<String>,
    /// In the filter language; empty for all.
    pub filter: String,
    pub range: FlowRange,
    /// Columns to group by. Without any, and nothing to sum up either, rows are shown as they are.
    pub by: Vec<String>,
    /// What to sum up: bytes, packets, flows and each direction's bytes and packets.
    pub sums: Vec<String>,
    /// The largest by which sum come first.
    pub order: Option<String>,
    /// At most so many groups.
    pub top: Option<usize>,
    /// Sums over time too, in steps as long as that, or "auto".
    pub step: Option<String>,
    /// Beside it what was before, in a time as long.
    pub previous: bool,
    /// At most so many rows.
    pub limit: Option<usize>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// When records ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowRange {
    /// A span as in `30s`, `5m`, `2h`, `1d`, up to now. If it is 10 minutes or longer, up to the end of this minute.
    Last(String),
    /// Without the end.
    Between { from_unix_ms: u64, until_unix_ms: u64 },
}

impl Default for FlowRange {
    /// An hour.
    fn default() -> FlowRange {
        FlowRange::Last("1h".to_owned())
    }
}

/// Why a question is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct FlowProblem {
    /// What is wrong with the question; `None` if it was understood and takes too much.
    pub parameter: Option<&'static str>,
    pub detail: String,
    /// Of the filter: where it is wrong, in characters from 1 on, and for how many.
    pub column: Option<usize>,
    pub length: Option<usize>,
}

impl FlowProblem {
    /// With a parameter of the question.
    pub fn asked(parameter: &'static str, detail: String) -> FlowProblem {
        FlowProblem { parameter: Some(parameter), detail, column: None, length: None }
    }

    /// With answering it.
    pub fn answering(detail: String) -> FlowProblem {
        FlowProblem { parameter: None, detail, column: None, length: None }
    }
}

/// A table, and what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowAnswer {
    /// The time that was asked about, without its end.
    pub from_unix_ms: u64,
    pub until_unix_ms: u64,
    /// The filter as it was understood.
    pub filter: String,
    pub columns: Vec<FlowColumn>,
    /// Cells in the order of the columns. The largest group first, or the newest row.
    pub rows: Vec<Vec<Cell>>,
    /// How many groups there are, shown or not.
    pub groups: u64,
    /// The sums over all groups, in the order of the columns that are sums.
    pub total: Vec<u64>,
    /// The same in the time before.
    pub before: Option<FlowsBefore>,
    pub series: Option<FlowSeries>,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
    /// How many rows were looked at.
    pub rows_read: u64,
    /// Records that ended before are not all in it: they were before the history, or have gone for their age or for want of
    /// room. `None` if all are.
    #[serde(default)]
    pub incomplete_before_unix_ms: Option<u64>,
    /// Files that are left out because they cannot be read, and why.
    pub unreadable: Vec<String>,
}

impl FlowAnswer {
    /// The rows as one table: what each was before stands behind it, in columns whose names begin with `previous_`.
    pub fn table(&self) -> (Vec<FlowColumn>, impl Iterator<Item = Vec<Cell>>) {
        let mut columns = self.columns.clone();
        if self.before.is_some() {
            let sums = self.columns.len().saturating_sub(self.total.len());
            columns.extend(
                self.columns[sums..].iter().map(|column| FlowColumn {
                    name: format!("previous_{}", column.name),
                    holds: column.holds,
                }),
            );
        }
        let rows = self.rows.iter().enumerate().map(|(at, row)| {
            let before = self.before.iter().filter_map(move |before| before.rows.get(at)).flatten();
            row.iter().cloned().chain(before.map(|sum| Cell::Number(*sum))).collect()
        });
        (columns, rows)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowColumn {
    pub name: String,
    pub holds: Holding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Holding {
    Text,
    Number,
    /// Milliseconds since the Unix epoch.
    Time,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Cell {
    Number(u64),
    Text(String),
    None,
}

/// The time before, as long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowsBefore {
    pub from_unix_ms: u64,
    pub until_unix_ms: u64,
    pub total: Vec<u64>,
    /// For each row of the answer its sums then.
    pub rows: Vec<Vec<u64>>,
}

/// A sum over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowSeries {
    /// Which sum.
    pub of: String,
    pub step_ms: u64,
    /// Where the first step begins; that may be before the time that was asked about.
    pub from_unix_ms: u64,
    /// For each row of the answer the sum in each step, and at last that of all else.
    pub lines: Vec<Vec<u64>>,
    /// The same in the time before.
    pub before: Option<Vec<Vec<u64>>>,
}
