//! The journal of moves: which class went from which path to which, when, and why. Bounded: the oldest entries go.

use super::gauge::Why;
use super::report::DecisionRow;
use crate::config::dscp_name;
use crate::model::{ClassId, PathId, SlaLimit, TenantId};
use crate::path::{Evidence, Verdict};
use crate::tables::{Generation, Sla};
use std::collections::VecDeque;

/// A link that flaps as much as its hold-down lets it makes two entries a class in ten minutes; this is a day of ten of them.
const ENTRIES: usize = 4_096;

/// The moves of one worker's sites.
#[derive(Default)]
pub struct Journal {
    entries: VecDeque<Move>,
}

/// One class's move.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// Nanoseconds since the Unix epoch.
    pub at: u64,
    pub tenant: TenantId,
    pub class: ClassId,
    pub from: PathId,
    pub to: PathId,
    /// Whose doing it was, and what it did.
    pub path: PathId,
    pub why: Why,
}

impl Journal {
    /// Writes a move down.
    pub fn write(&mut self, entry: Move) {
        if self.entries.len() >= ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// All moves, or a tenant's, the oldest first. What a commit has taken the name of is left out.
    pub fn rows(&self, tenant: Option<&str>, generation: &Generation) -> Vec<DecisionRow> {
        let names = &generation.names;
        let row = |entry: &Move| DecisionRow {
            unix_ms: entry.at / 1_000_000,
            tenant: names.tenant(entry.tenant).to_owned(),
            site: generation.far_end(entry.to).map_or_else(String::new, |(_, far)| far.to_owned()),
            class: names.class(entry.class).to_owned(),
            from: names.path(entry.from).to_owned(),
            to: names.path(entry.to).to_owned(),
            path: names.path(entry.path).to_owned(),
            why: entry.kind().to_owned(),
            detail: entry.reason(generation),
            sla: entry.sla(generation).map(|sla| sla.name.clone()),
            stream: entry.stream(generation),
            measured: entry.evidence().map(|evidence| evidence.measured),
            limit: entry.evidence().map(|evidence| evidence.limit),
        };
        let rows = self.entries.iter().map(row);
        rows.filter(|row| tenant.is_none_or(|tenant| row.tenant == tenant)).collect()
    }
}

impl Move {
    /// The reason's name in the API.
    pub(super) fn kind(&self) -> &'static str {
        match self.why {
            Why::Configured => "commit",
            Why::Heard => "heard",
            Why::Down(_) => "down",
            Why::ToldDown => "told-down",
            Why::CannotSend => "cannot-send",
            Why::LinkDown => "link-down",
            Why::LinkUp => "link-up",
            Why::Narrow => "narrow",
            Why::Wide => "wide",
            Why::CameUp => "came-up",
            Why::Recovered => "recovered",
            Why::Sla(_, Verdict::Broken(_)) => "sla-broken",
            Why::Sla(_, Verdict::Kept(_)) => "sla-kept",
            Why::BestOfWorst(_) | Why::NotBestOfWorst(_) => "best-of-worst",
        }
    }

    fn evidence(&self) -> Option<Evidence> {
        match self.why {
            Why::Sla(_, Verdict::Broken(evidence)) => Some(evidence),
            _ => None,
        }
    }

    fn sla<'a>(&self, generation: &'a Generation) -> Option<&'a Sla> {
        let (Why::Sla(place, _) | Why::BestOfWorst(place) | Why::NotBestOfWorst(place)) = self.why else {
            return None;
        };
        generation.tenants.get(self.tenant)?.slas.get(usize::from(place))
    }

    /// What the probes carry that told, if it is not best effort; echo requests carry nothing else.
    fn stream(&self, generation: &Generation) -> Option<String> {
        let by_probes = generation.paths.get(self.path).is_some_and(|spec| spec.echo.is_none());
        let dscp = self.sla(generation).map(|sla| sla.dscp).filter(|dscp| by_probes && *dscp != 0);
        dscp.map(dscp_name)
    }

    /// The reason in words, with the numbers that decided.
    pub fn reason(&self, generation: &Generation) -> String {
        let path = generation.names.path(self.path);
        let path = match self.stream(generation) {
            Some(stream) => &format!("{path} ({stream})"),
            None => path,
        };
        let sla = self.sla(generation).map_or("", |sla| &sla.name);
        match self.why {
            Why::Configured => "a commit".to_owned(),
            Why::Heard => format!("{path} was heard of"),
            Why::Down(silent) => format!("{path} has not answered for {} ms", silent.as_millis()),
            Why::ToldDown => format!("the far end has found {path} down"),
            Why::CannotSend => format!("nothing can be sent by {path}"),
            Why::LinkDown => format!("{path}: link down"),
            Why::LinkUp => format!("{path}: link up"),
            Why::Narrow => format!("{path} loses packets of full size"),
            Why::Wide => format!("{path} carries packets of full size again"),
            Why::CameUp => format!("{path} answers"),
            Why::Recovered => format!("{path} has recovered"),
            Why::Sla(_, Verdict::Broken(evidence)) => format!("{path} breaks {sla}: {}", numbers(evidence)),
            Why::Sla(_, Verdict::Kept(good)) => {
                format!("{path} has been well within {sla} for {} s", good.as_secs())
            }
            Why::BestOfWorst(_) => format!("all break {sla}, {path} least"),
            Why::NotBestOfWorst(_) => format!("{path} is no longer the one that breaks {sla} least"),
        }
    }
}

fn numbers(Evidence { of, measured, limit }: Evidence) -> String {
    match of {
        SlaLimit::Loss => format!("loss {:.1} %, limit {:.2} %", measured * 100.0, limit * 100.0),
        SlaLimit::Latency => format!("latency p95 {measured:.0} ms, limit {limit:.0} ms"),
        SlaLimit::Jitter => format!("jitter {measured:.1} ms, limit {limit:.0} ms"),
        SlaLimit::Mos => format!("MOS {measured:.2}, limit {limit:.2}"),
    }
}
