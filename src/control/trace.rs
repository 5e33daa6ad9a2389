//! What became of a flow: 1 who knows of it is asked: the workers, for a live session and one that policy has just ended; and the
//! flow history, for what has been written, or the last records in memory where no history is kept ([`records`]). 2 Of its
//! sessions those are told that were there at the time in question, or else the nearest, each as what happened, in order
//! ([`told`]).
//!
//! Beside it stands what would become of it now. That is another question, and its answer may be another.

mod records;
mod told;

use super::{Control, SiteFacts, Unanswered};
use crate::model::{AskedEnd, AskedFlow, AskedWhen, Protocol};
use crate::pipeline::report::{
    Answer, Denial, Dropped, Explanation, FlowReport, MoveBy, Query, TraceAsked, Traced,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::ops::Range;
use told::told;
use utoipa::ToSchema;

/// A day before the time in question and after it: a session that was there has records within that, but for one that was
/// silent all day.
const AROUND_MS: u64 = 86_400_000;
/// A record may end in the millisecond in which it is asked for, and the box's clock be set meanwhile.
const SOON_MS: u64 = 60_000;
/// 10,000 records: a session of a week, with one a minute.
const RECORDS: usize = 10_000;

/// Which flow, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceQuestion {
    pub flow: TraceAsked,
    /// `None` for now, or else the last that is known.
    pub at: Option<AskedWhen>,
}

/// What became of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Trace {
    pub site: String,
    pub metro: Option<String>,
    pub facility: Option<String>,
    pub tenant: String,
    /// The time that was asked about, without its end.
    pub from_unix_ms: u64,
    pub until_unix_ms: u64,
    /// These sessions were there at that time; otherwise they are the nearest that are known.
    pub was_there: bool,
    /// The newest first.
    pub sessions: Vec<TracedSession>,
    pub known: TraceSources,
    /// What would become of it if its first packet came now; `None` where that cannot be told.
    pub now: Option<TraceNow>,
}

/// What there is to know from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceSources {
    /// A flow history is kept; otherwise the last records in memory are all there is besides live sessions.
    pub has_history: bool,
    /// The end of the first record that there still is.
    pub since_unix_ms: Option<u64>,
    /// Why the history could not be asked, or not all of it.
    pub problem: Option<String>,
}

/// What would become of the flow now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceNow {
    /// Of the configuration in force.
    pub generation: u64,
    pub explanation: Explanation,
}

/// One session of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TracedSession {
    pub session: u64,
    pub protocol: String,
    /// Who began, before translation.
    #[schema(value_type = String)]
    pub source: IpAddr,
    pub source_port: u16,
    #[schema(value_type = String)]
    pub destination: IpAddr,
    pub destination_port: u16,
    #[schema(value_type = Option<String>)]
    pub nat_source: Option<IpAddr>,
    pub nat_source_port: Option<u16>,
    #[schema(value_type = Option<String>)]
    pub nat_destination: Option<IpAddr>,
    pub nat_destination_port: Option<u16>,
    /// The branch, handoff or tenant that it came from, and went to: as of its end, like all that follows.
    pub from: String,
    pub to: String,
    pub class: String,
    /// What told the class: `default`, `rule`, `port`, `prefix`, `dns`, `tls-sni`, `quic-sni`, `http-host`.
    pub class_by: String,
    pub app: Option<String>,
    pub name: Option<String>,
    pub rule: String,
    pub dscp: u8,
    /// Of the configuration that decided.
    pub generation: u64,
    pub forward_path: Option<String>,
    pub reverse_path: Option<String>,
    /// While it lasts.
    pub tcp_state: Option<String>,
    /// Its first packet that is known of.
    pub began_unix_ms: u64,
    /// The last packet that was let through; `None` while it lasts.
    pub ended_unix_ms: Option<u64>,
    /// As in flow records; `None` while it lasts, and where the last record is not known.
    pub end_reason: Option<String>,
    /// Policy has ended it.
    pub denied: Option<Denial>,
    pub forward_packets: u64,
    pub forward_bytes: u64,
    pub reverse_packets: u64,
    pub reverse_bytes: u64,
    /// Its packets that were dropped, by reason. What a queue drops later is counted by path and class.
    pub drops: Vec<Dropped>,
    /// In order of time.
    pub events: Vec<TraceEvent>,
}

/// What happened to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceEvent {
    pub unix_ms: u64,
    pub what: TraceEventKind,
    /// In words.
    pub text: String,
    /// Of a move.
    #[serde(rename = "move")]
    pub moved: Option<TraceMove>,
}

/// A move, as told by `popgate show decisions` of classes; of one direction of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceMove {
    /// `forward`, which is from who began the session, or `reverse`.
    pub direction: String,
    pub from: String,
    pub to: String,
    pub by: MoveBy,
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TraceEventKind {
    Began,
    /// It was decided on again: after a commit, or when its name had become known.
    Decided,
    Moved,
    Denied,
    /// So many packets, by then.
    Dropped,
    Ended,
}

impl Control {
    /// What the workers have of the sessions between two ends.
    pub async fn traced(
        &self,
        asked: TraceAsked,
        deadline: impl Future<Output = ()>,
    ) -> Result<Traced, Unanswered> {
        let answers = self.ask_all(Query::Trace(asked), deadline, |answer| match answer {
            Answer::Trace(traced) => Some(traced),
            _ => None,
        });
        let mut all = Traced::default();
        for mut traced in answers.await? {
            all.sessions.append(&mut traced.sessions);
            all.denied.append(&mut traced.denied);
        }
        Ok(all)
    }

    /// What became of a flow, as the history and `live` have it. It reads files: not for a thread that others wait for.
    pub fn trace(&self, question: &TraceQuestion, live: &Traced) -> Trace {
        let now = (self.unix_millis)();
        let at = question.at.map_or(now..now + 1, |at| at.range(now));
        let (records, known) = self.records(&question.flow, live, &at, now);
        let (sessions, was_there) = told(records, live, &at, now);
        let SiteFacts { site, metro, facility, .. } = self.site.clone();
        Trace {
            site,
            metro,
            facility,
            tenant: question.flow.tenant.clone(),
            from_unix_ms: at.start,
            until_unix_ms: at.end,
            was_there,
            sessions,
            known,
            now: None,
        }
    }

    fn records(
        &self,
        asked: &TraceAsked,
        live: &Traced,
        at: &Range<u64>,
        now: u64,
    ) -> (Vec<FlowReport>, TraceSources) {
        let Some(history) = &self.history else {
            let (flows, since_unix_ms) = self.flows.between(|flow| records::is_asked(flow, asked));
            return (flows, TraceSources { has_history: false, since_unix_ms, problem: None });
        };
        let since_unix_ms = history.state().known_from_unix_ms;
        let mut problem = None;
        let mut ask = |filter: String, from: u64, until: u64| {
            let answer = history.ask(&records::question(filter, from..until, RECORDS));
            match answer {
                Ok(answer) => {
                    problem = problem.take().or_else(|| answer.unreadable.first().cloned());
                    records::of(&answer)
                }
                Err(error) => {
                    problem = Some(error.detail);
                    Vec::new()
                }
            }
        };
        let from = at.start.saturating_sub(AROUND_MS);
        let until = at.end.saturating_add(AROUND_MS).min(now + SOON_MS).max(from + 1);
        let mut found = ask(records::filter(asked), from, until);
        found.retain(|flow| records::is_asked(flow, asked));
        if since_unix_ms.is_some_and(|since| since < from) {
            // Those that were there may have begun before that.
            for session in told(found.clone(), live, at, now).0 {
                found.extend(ask(records::filter_of(&asked.tenant, &session), 0, from));
            }
        }
        (found, TraceSources { has_history: true, since_unix_ms, problem })
    }

    /// What would become of the flow now: as the newest of the sessions that are told, or else as it was asked; or that there is
    /// no such tenant.
    pub async fn trace_now(
        &self,
        question: &TraceQuestion,
        trace: &Trace,
        deadline: impl Future<Output = ()>,
    ) -> Result<Result<TraceNow, String>, Unanswered> {
        let asked = asked_flow(question, trace.sessions.first());
        let explanation = match (self.explainer)(&question.flow.tenant, &asked) {
            Ok(explanation) => explanation,
            Err(unknown) => return Ok(Err(unknown)),
        };
        let totals = self.ask_all(Query::Totals, deadline, |answer| match answer {
            Answer::Totals(totals) => Some(totals),
            _ => None,
        });
        let generation = totals.await?.iter().map(|totals| totals.generation).min().unwrap_or_default();
        Ok(Ok(TraceNow { generation, explanation }))
    }
}

fn asked_flow(question: &TraceQuestion, session: Option<&TracedSession>) -> AskedFlow {
    let end = |(address, port): (IpAddr, u16)| AskedEnd { address, port: Some(port) };
    let Some(session) = session else {
        let [from, to] = question.flow.ends.map(end);
        let protocol = question.flow.protocol.unwrap_or(Protocol::TCP);
        return AskedFlow { from, to, protocol, dscp: 0, sni: None };
    };
    let is_said = matches!(session.class_by.as_str(), "tls-sni" | "quic-sni" | "http-host");
    let name = session.name.as_ref().filter(|_| is_said);
    AskedFlow {
        from: end((session.source, session.source_port)),
        to: end((session.destination, session.destination_port)),
        protocol: Protocol::by_name(&session.protocol).unwrap_or(Protocol::TCP),
        dscp: session.dscp,
        sni: name.and_then(|name| name.parse().ok()),
    }
}
