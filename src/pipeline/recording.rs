//! What paths were judged by: each answer to a probe, and each change that followed. Bounded: the oldest go.
//!
//! `popgate show measurements` gives it out, and `popgate replay` puts it through the same decisions again, under the same
//! policy or another: what is replayed is what a worker does once it has an answer, not when it would have asked.

use super::report::{Answer, DecisionRow, MeasurementRow, Query};
use super::{Team, Worker};
use crate::model::{Instant, Now, PathId};
use crate::path::{Action, Counts, Stamps};
use crate::tables::Generation;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Half an hour of a call on one path, or a day of nine idle ones; 4 MB.
const ENTRIES: usize = 32_768;

/// The measurements of one worker's paths.
#[derive(Default)]
pub struct Recording {
    entries: VecDeque<Measurement>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    pub at: Now,
    pub path: PathId,
    pub what: Measured,
}

/// What was measured, or what the prober made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Measured {
    /// The four timestamps of a probe and its answer; what had arrived at the far end by then, and here; and which stream's it
    /// was, by the DSCP that it carried.
    Answer {
        stamps: Stamps,
        there: Option<Counts>,
        here: Counts,
        #[serde(default, skip_serializing_if = "is_best_effort")]
        dscp: u8,
    },
    /// A stream's probes were not answered, and the path's own were.
    FellSilent {
        dscp: u8,
    },
    CameUp {
        held_ms: u64,
    },
    Recovered,
    WentDown {
        silent_ms: u64,
    },
    /// As the far end had found.
    ToldDown,
    /// As the kernel said.
    CannotSend,
    LinkDown,
    Narrow,
    Wide,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_best_effort(dscp: &u8) -> bool {
    *dscp == 0
}

impl Measured {
    /// What a change is recorded as; `None` if it is none.
    pub fn of(action: Action) -> Option<Measured> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Some(match action {
            Action::CameUp { held } => Measured::CameUp { held_ms: millis(held) },
            Action::Recovered => Measured::Recovered,
            Action::WentDown { silent } => Measured::WentDown { silent_ms: millis(silent) },
            Action::ToldDown => Measured::ToldDown,
            Action::CannotSend => Measured::CannotSend,
            Action::LinkDown => Measured::LinkDown,
            Action::Narrow => Measured::Narrow,
            Action::Wide => Measured::Wide,
            Action::Send { .. } | Action::SendFullSize { .. } | Action::Suspected => return None,
        })
    }

    /// The change that was recorded so; `None` of an answer.
    pub fn action(self) -> Option<Action> {
        Some(match self {
            Measured::Answer { .. } | Measured::FellSilent { .. } => return None,
            Measured::CameUp { held_ms } => Action::CameUp { held: Duration::from_millis(held_ms) },
            Measured::Recovered => Action::Recovered,
            Measured::WentDown { silent_ms } => Action::WentDown { silent: Duration::from_millis(silent_ms) },
            Measured::ToldDown => Action::ToldDown,
            Measured::CannotSend => Action::CannotSend,
            Measured::LinkDown => Action::LinkDown,
            Measured::Narrow => Action::Narrow,
            Measured::Wide => Action::Wide,
        })
    }
}

impl Recording {
    /// Takes one down.
    pub fn write(&mut self, path: PathId, what: Measured, at: Now) {
        if self.entries.len() >= ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(Measurement { at, path, what });
    }

    /// All of them, or a tenant's, the oldest first. What a commit has taken away is left out.
    pub fn rows(&self, tenant: Option<&str>, generation: &Generation) -> Vec<MeasurementRow> {
        let names = &generation.names;
        let row = |entry: &Measurement| {
            let (owner, far) = generation.far_end(entry.path)?;
            Some(MeasurementRow {
                unix_nanos: entry.at.unix_nanos,
                monotonic_nanos: entry.at.instant.0,
                tenant: names.tenant(owner).to_owned(),
                site: far.to_owned(),
                path: names.path(entry.path).to_owned(),
                measured: entry.what,
            })
        };
        let rows = self.entries.iter().filter_map(row);
        rows.filter(|row| tenant.is_none_or(|tenant| row.tenant == tenant)).collect()
    }
}

/// Which classes move under the policy of `generation` where this is measured, in order of time: the newest 4,096 moves; and how
/// many of the measurements are of paths that policy does not know.
pub fn replay(generation: Generation, mut rows: Vec<MeasurementRow>) -> (Vec<DecisionRow>, usize) {
    rows.sort_by_key(|row| row.monotonic_nanos);
    let names = &generation.names;
    let outlet = generation.breakout().map(|(_, breakout)| breakout.path);
    let paths = generation.paths.iter().map(|(id, _)| id).chain(outlet).filter_map(|id| {
        let (tenant, far) = generation.far_end(id)?;
        Some(((names.tenant(tenant).to_owned(), far.to_owned(), names.path(id).to_owned()), id))
    });
    let paths: BTreeMap<_, _> = paths.collect();
    let at = |row: &MeasurementRow| Now { instant: Instant(row.monotonic_nanos), unix_nanos: row.unix_nanos };
    let Some(first) = rows.first() else { return Default::default() };
    let begin = at(first);
    // Chance decides nothing of what is replayed.
    let mut worker = Worker::new(0, &Team::new(1), [0; 32], Arc::new(generation), begin);
    let mut unknown = 0;
    for row in rows {
        let now = at(&row);
        match paths.get(&(row.tenant, row.site, row.path)) {
            Some(path) => worker.recall(*path, row.measured, now),
            None => unknown += 1,
        }
    }
    match worker.answer(&Query::Decisions { tenant: None }, begin) {
        Answer::Decisions(rows) => (rows, unknown),
        _ => (Vec::new(), unknown),
    }
}
