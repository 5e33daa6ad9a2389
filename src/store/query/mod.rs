//! Questions to the flow history.
//!
//! 1 A question in words ([`FlowQuestion`]) becomes a [`Question`], its filter a [`Filter`]; or a problem that points at what
//! is wrong. 2 What is to be read is decided: rows, or a roll-up that knows as much ([`Want`]). 3 The parts that cover the
//! time are opened, and those groups of rows left out that cannot have any that are meant. 4 The rest is read column by
//! column, and grouped and summed up; or the newest rows are picked. Rows that are summed up over time, or beside the
//! period before, are read twice: once to know the largest groups, and once for these.

mod download;
mod field;
mod filter;
mod group;
mod judge;
mod lexer;
mod prune;
mod question;
mod read;
mod rows;
mod sums;
mod want;

#[cfg(test)]
mod tests;

pub use download::parquet;
pub use field::{Field, Holds};
pub use filter::{Filter, FilterError, Is, Order, Test};
pub use question::{Question, Show, Sum, Summing};
pub use want::History;

use crate::store::flows::Want;

use crate::store::report::{FlowAnswer, FlowColumn};
use read::{Opened, Span, Trouble};
use rows::Newest;
use std::ops::Range;

/// How much a question may take.
pub struct Limits<'a> {
    /// Which read at once.
    pub threads: usize,
    /// More than this are refused, for the memory they take.
    pub most_groups: usize,
    /// Whether it has taken too long already.
    pub expired: &'a (dyn Fn() -> bool + Sync),
}

impl Limits<'_> {
    /// 1 million: some 100 MB, when grouped by addresses.
    pub const MOST_GROUPS: usize = 1_000_000;

    fn check(&self) -> Result<(), QueryError> {
        if (self.expired)() { Err(QueryError::TookTooLong) } else { Ok(()) }
    }
}

/// Why a question that was understood is not answered; for whoever asked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("there are more than {0} groups; a narrower filter, or fewer columns to group by, make fewer")]
    TooManyGroups(usize),
    #[error("it took too long; a narrower filter or a shorter range take less")]
    TookTooLong,
    #[error("a thread that read the history panicked")]
    Panicked,
}

/// Asks `history`.
///
/// # Errors
/// It would take too much. A file that cannot be read is no error, but named in the answer.
pub fn answer(
    question: &Question,
    history: &dyn History,
    limits: &Limits<'_>,
) -> Result<FlowAnswer, QueryError> {
    let asked = Asked { question, history, limits };
    match &question.show {
        Show::Rows { most, before } => asked.rows(*most, *before),
        Show::Sums(summing) => asked.sums(summing),
    }
}

struct Asked<'a> {
    question: &'a Question,
    history: &'a dyn History,
    limits: &'a Limits<'a>,
}

impl Asked<'_> {
    fn open(&self, spans: Vec<(Range<u64>, Want)>) -> Result<Opened, QueryError> {
        let tenant = self.question.filter.tenant();
        let missing = spans.iter().filter_map(|(time, want)| {
            let from = self.history.complete_from(tenant, *want);
            (time.start < from).then_some(from.min(time.end))
        });
        let incomplete_before = missing.max();
        let parts = spans.into_iter().flat_map(|(time, want)| {
            let parts = self.history.parts(tenant, time.start, time.end, want);
            parts.into_iter().map(move |part| Span { part, time: time.clone() })
        });
        let opened = read::open(parts.collect(), &self.question.filter, self.limits)?;
        Ok(Opened { incomplete_before, ..opened })
    }

    fn begin(&self, columns: Vec<FlowColumn>) -> FlowAnswer {
        let Question { filter, time, .. } = self.question;
        FlowAnswer {
            from_unix_ms: time.start,
            until_unix_ms: time.end,
            filter: filter.to_string(),
            columns,
            ..FlowAnswer::default()
        }
    }

    fn rows(&self, most: usize, before: Option<rows::Place>) -> Result<FlowAnswer, QueryError> {
        let filter = &self.question.filter;
        let mut opened = self.open(vec![(self.question.time.clone(), Want::Rows)])?;
        // One more, to know whether there are more.
        let newest = || Newest::new(most + 1, before);
        let found = opened.scan(filter, &rows::ORDER, self.limits, newest)?;
        let mut hits = Newest::merge(found);
        let more = hits.len() > most;
        hits.truncate(most);
        let mut answer = self.begin(question::row_columns());
        match rows::fetch(&opened, &hits) {
            Ok(rows) => answer.rows = rows,
            Err(Trouble::Refused(error)) => return Err(error),
            Err(Trouble::Unreadable(why)) => opened.unreadable.push(why),
        }
        let last = hits.last().filter(|_| more);
        answer.cursor = last.map(|hit| format!("{}-{}", hit.place.0, hit.place.1));
        answer.note(&opened);
        Ok(answer)
    }
}
