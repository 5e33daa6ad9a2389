//! What the outside may ask a running box: its state, its paths, its sessions, its recent flows, its drops.
//!
//! Every question goes to all workers and comes back as one answer: 1 ask each worker, 2 wait for all of them or for
//! the deadline, 3 merge. A worker answers between two batches, on its own thread; nobody reads its tables from here.
//!
//! There is no runtime in this module. An answer is awaited with the standard library's wakers alone, and the deadline
//! is a future that the caller brings: time is an argument here as it is in the pipeline.

pub mod audit;
pub mod candidates;
pub mod captures;
pub mod commits;
pub mod compare;
mod gather;
mod recent;
pub mod revisions;
mod trace;
pub mod trial;
pub mod updates;

use captures::CapturePort;
use commits::{CommitPort, Refusal, Reply, Standing, Verb};
pub use gather::{Unanswered, WorkerGone, WorkerPort};
pub use recent::{FlowPage, RecentFlows};
pub use trace::{
    Trace, TraceEvent, TraceEventKind, TraceMove, TraceNow, TraceQuestion, TraceSources, TracedSession,
};

use crate::export::report::ExporterReport;
use crate::model::{AskedFlow, AskedPort};
use crate::pipeline::report::{
    Answer, CanaryRow, ClearAsked, DecisionRow, DropRow, Explanation, FlowFilter, MeasurementRow,
    NatBlockRow, PathHistory, PathName, PathReport, PathState, Query, QueueRow, RuleRow, SessionPage,
    TenantRow, Totals,
};
use crate::store::report::{FlowAnswer, FlowHistoryState, FlowProblem, FlowQuestion, LedgerState, WhoHad};
use revisions::Who;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use updates::UpdatePort;
use utoipa::ToSchema;

/// What does not change while the process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SiteFacts {
    pub site: String,
    /// `pop` or `branch`.
    pub role: String,
    pub metro: Option<String>,
    pub facility: Option<String>,
    pub version: String,
    pub started_unix_ms: u64,
    /// Forwarding threads.
    pub workers: usize,
}

/// The box in one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    #[serde(flatten)]
    pub site: SiteFacts,
    /// The box's own clock: whoever computes rates or an uptime from two answers needs no other.
    pub now_unix_ms: u64,
    /// Sums over all workers; `generation` is the oldest that any of them still runs.
    #[serde(flatten)]
    pub totals: Totals,
    /// `None` where no NAT ledger is kept.
    pub nat_ledger: Option<LedgerState>,
    /// `None` where no flow history is kept.
    #[serde(default)]
    pub flow_history: Option<FlowHistoryState>,
    /// `None` where nobody puts configurations in force.
    #[serde(default)]
    pub commit: Option<Standing>,
    /// In the order of the configuration.
    #[serde(default)]
    pub exporters: Vec<ExporterReport>,
    /// By tenant and handoff.
    #[serde(default)]
    pub handoffs: Vec<HandoffRow>,
}

/// The interface of a private handoff, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HandoffRow {
    pub tenant: String,
    pub handoff: String,
    /// As it is called in the tenant's network namespace.
    pub interface: String,
    /// It is there, is up, and has a carrier if it knows what that is.
    pub up: bool,
    /// `10.200.0.1/24`; without link-local ones.
    pub addresses: Vec<String>,
    /// Who gave it one of them by DHCP.
    pub dhcp_server: Option<String>,
}

/// What a box's status is narrowed to a tenant by.
#[derive(Clone, Debug, Default)]
pub struct TenantFacts {
    pub paths: Vec<PathReport>,
    pub drops: Vec<DropRow>,
    pub rules: Vec<RuleRow>,
    pub tenants: Vec<TenantRow>,
}

impl Status {
    /// As one tenant may see it: no number says anything of another one, or of all together. What is forwarded is what came and
    /// went by the tenant's paths; sessions are those that its rules have let begin.
    pub fn of_tenant(&self, tenant: &str, facts: &TenantFacts) -> Status {
        let paths = || facts.paths.iter().filter(|path| path.tenant == tenant);
        let row = facts.tenants.iter().find(|row| row.tenant == tenant);
        let drops = facts.drops.iter().filter(|row| row.tenant.as_deref() == Some(tenant));
        let rules = facts.rules.iter().filter(|row| row.tenant == tenant);
        let sum = |number: fn(&PathReport) -> u64| paths().map(number).sum();
        Status {
            site: self.site.clone(),
            now_unix_ms: self.now_unix_ms,
            totals: Totals {
                generation: self.totals.generation,
                sessions: row.map_or(0, |row| row.sessions),
                max_sessions: row.and_then(|row| row.max_sessions).unwrap_or(self.totals.max_sessions),
                sessions_created: rules.map(|row| row.sessions).sum(),
                paths: paths().count() as u64,
                paths_up: paths().filter(|path| path.state == PathState::Up).count() as u64,
                forwarded_packets: sum(|path| path.received_packets + path.sent_packets),
                forwarded_bytes: sum(|path| path.received_bytes + path.sent_bytes),
                dropped_packets: drops.map(|row| row.packets).sum(),
                ..Totals::default()
            },
            nat_ledger: self.nat_ledger.as_ref().map(|ledger| LedgerState {
                known_from_unix_ms: ledger.known_from_unix_ms,
                ..LedgerState::default()
            }),
            flow_history: self.flow_history.as_ref().map(|history| FlowHistoryState {
                known_from_unix_ms: history.known_from_unix_ms,
                ..FlowHistoryState::default()
            }),
            // Whoever wants to commit has to know that another commit waits.
            commit: self.commit.as_ref().map(|commit| Standing { problem: None, ..commit.clone() }),
            exporters: Vec::new(),
            handoffs: self.handoffs.iter().filter(|row| row.tenant == tenant).cloned().collect(),
        }
    }
}

/// The NAT ledger, as it is asked.
pub trait LedgerPort: Send + Sync {
    /// Who had an outside address and port. Reads files, which takes some milliseconds.
    ///
    /// # Errors
    /// They cannot be read.
    fn who_had(&self, asked: &AskedPort) -> io::Result<WhoHad>;

    /// How it stands.
    fn state(&self) -> LedgerState;
}

/// The flow history, as it is asked.
pub trait FlowsPort: Send + Sync {
    /// Reads files, which takes from some milliseconds to some seconds.
    ///
    /// # Errors
    /// What is wrong with the question, or that it takes too much.
    fn ask(&self, question: &FlowQuestion) -> Result<FlowAnswer, FlowProblem>;

    /// An answer's table as a Parquet file.
    ///
    /// # Errors
    /// It cannot be made.
    fn parquet(&self, answer: &FlowAnswer) -> Result<Vec<u8>, FlowProblem>;

    /// How it stands.
    fn state(&self) -> FlowHistoryState;
}

/// The way to everything that can be asked.
pub struct Control {
    site: SiteFacts,
    /// The workers' ports and then the entrance's: it drops datagrams too.
    ports: Vec<Box<dyn WorkerPort>>,
    flows: Arc<RecentFlows>,
    unix_millis: Box<dyn Fn() -> u64 + Send + Sync>,
    explainer: Box<Explainer>,
    exporters: Box<Exporters>,
    handoffs: Box<Handoffs>,
    ledger: Option<Box<dyn LedgerPort>>,
    history: Option<Box<dyn FlowsPort>>,
    commits: Option<Box<dyn CommitPort>>,
    captures: Option<Box<dyn CapturePort>>,
    updates: Option<Arc<dyn UpdatePort>>,
}

/// What the generation in force makes of a tenant's flow; or that there is no such tenant.
type Explainer = dyn Fn(&str, &AskedFlow) -> Result<Explanation, String> + Send + Sync;

/// How exporting to each collector stands.
type Exporters = dyn Fn() -> Vec<ExporterReport> + Send + Sync;

/// How private handoffs' interfaces are.
type Handoffs = dyn Fn() -> Vec<HandoffRow> + Send + Sync;

impl Control {
    /// `unix_millis` reads the wall clock; it is shown and decides nothing.
    pub fn new(
        site: SiteFacts,
        ports: Vec<Box<dyn WorkerPort>>,
        flows: Arc<RecentFlows>,
        unix_millis: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Control {
        let explainer = Box::new(|tenant: &str, _: &AskedFlow| Err(format!("there is no tenant {tenant:?}")));
        Control {
            site,
            ports,
            flows,
            unix_millis: Box::new(unix_millis),
            explainer,
            exporters: Box::new(Vec::new),
            handoffs: Box::new(Vec::new),
            ledger: None,
            history: None,
            commits: None,
            captures: None,
            updates: None,
        }
    }

    /// With somebody who puts configurations in force.
    pub fn with_commits(self, commits: impl CommitPort + 'static) -> Control {
        Control { commits: Some(Box::new(commits)), ..self }
    }

    /// The site's name.
    pub fn site(&self) -> &str {
        &self.site.site
    }

    /// The wall clock's time, in milliseconds since the Unix epoch.
    pub fn now_unix_ms(&self) -> u64 {
        (self.unix_millis)()
    }

    /// Puts a verb to whoever owns the configuration.
    ///
    /// # Errors
    /// Why it is not done.
    pub async fn commits(&self, who: Who, verb: Verb) -> Result<Reply, Refusal> {
        match &self.commits {
            Some(commits) => commits.ask(who, verb).await,
            None => Err(Refusal::Failed("nobody puts configurations in force here".to_owned())),
        }
    }

    /// With somebody who captures packets.
    pub fn with_captures(self, captures: impl CapturePort + 'static) -> Control {
        Control { captures: Some(Box::new(captures)), ..self }
    }

    /// Who captures packets; `None` where nobody does.
    pub fn captures(&self) -> Option<&dyn CapturePort> {
        self.captures.as_deref()
    }

    /// With somebody who takes updates of the box.
    pub fn with_updates(self, updates: impl UpdatePort + 'static) -> Control {
        Control { updates: Some(Arc::new(updates)), ..self }
    }

    /// Who takes updates; `None` where nobody does.
    pub fn updates(&self) -> Option<Arc<dyn UpdatePort>> {
        self.updates.clone()
    }

    /// With a NAT ledger to be asked.
    pub fn with_ledger(self, ledger: impl LedgerPort + 'static) -> Control {
        Control { ledger: Some(Box::new(ledger)), ..self }
    }

    /// With a flow history to be asked.
    pub fn with_history(self, history: impl FlowsPort + 'static) -> Control {
        Control { history: Some(Box::new(history)), ..self }
    }

    /// With the one who knows how exporting stands.
    pub fn exporting(self, exporters: impl Fn() -> Vec<ExporterReport> + Send + Sync + 'static) -> Control {
        Control { exporters: Box::new(exporters), ..self }
    }

    /// How exporting to each collector stands, in the order of the configuration.
    pub fn exporters(&self) -> Vec<ExporterReport> {
        (self.exporters)()
    }

    /// With the one who knows how private handoffs' interfaces are.
    pub fn handing_off(self, handoffs: impl Fn() -> Vec<HandoffRow> + Send + Sync + 'static) -> Control {
        Control { handoffs: Box::new(handoffs), ..self }
    }

    /// The interfaces of private handoffs, of all tenants or of one, by tenant and handoff.
    pub fn handoffs(&self, tenant: Option<&str>) -> Vec<HandoffRow> {
        let mut rows = (self.handoffs)();
        rows.retain(|row| tenant.is_none_or(|tenant| row.tenant == tenant));
        rows.sort_by(|a, b| (&a.tenant, &a.handoff).cmp(&(&b.tenant, &b.handoff)));
        rows
    }

    /// Who had an outside address and port; `None` where no ledger is kept. It reads files: not for a thread that others
    /// wait for.
    pub fn who_had(&self, asked: &AskedPort) -> Option<io::Result<WhoHad>> {
        self.ledger.as_ref().map(|ledger| ledger.who_had(asked))
    }

    /// The flow history; `None` where none is kept. It reads files: not for a thread that others wait for.
    pub fn history(&self) -> Option<&dyn FlowsPort> {
        self.history.as_deref()
    }

    /// With the one who explains what becomes of a flow: that needs the tables, which are no business of this module.
    pub fn explained_by(
        self,
        explainer: impl Fn(&str, &AskedFlow) -> Result<Explanation, String> + Send + Sync + 'static,
    ) -> Control {
        Control { explainer: Box::new(explainer), ..self }
    }

    /// What would become of a flow of `tenant`'s, with how its paths stand; or that there is no such tenant.
    pub async fn explain(
        &self,
        tenant: &str,
        asked: &AskedFlow,
        deadline: impl Future<Output = ()>,
    ) -> Result<Result<Explanation, String>, Unanswered> {
        match (self.explainer)(tenant, asked) {
            Ok(explanation) => {
                let paths = self.paths(Some(tenant), deadline).await?;
                Ok(Ok(explanation.with_live(tenant, &paths)))
            }
            Err(unknown) => Ok(Err(unknown)),
        }
    }

    /// The box and its sums.
    pub async fn status(&self, deadline: impl Future<Output = ()>) -> Result<Status, Unanswered> {
        let totals = self.ask_all(Query::Totals, deadline, |answer| match answer {
            Answer::Totals(totals) => Some(totals),
            _ => None,
        });
        let totals = totals.await?.into_iter().reduce(add).unwrap_or_default();
        let now_unix_ms = (self.unix_millis)();
        let nat_ledger = self.ledger.as_ref().map(|ledger| ledger.state());
        let flow_history = self.history.as_ref().map(|history| history.state());
        let (exporters, handoffs) = (self.exporters(), self.handoffs(None));
        let commit = self.commits.as_ref().map(|commits| commits.standing());
        Ok(Status {
            site: self.site.clone(),
            now_unix_ms,
            totals,
            nat_ledger,
            flow_history,
            commit,
            exporters,
            handoffs,
        })
    }

    /// All paths, or one tenant's, by tenant, site and name. A path belongs to one worker, so none comes twice.
    pub async fn paths(
        &self,
        tenant: Option<&str>,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<PathReport>, Unanswered> {
        let paths = self.ask_all(Query::Paths, deadline, |answer| match answer {
            Answer::Paths(paths) => Some(paths),
            _ => None,
        });
        let mut paths: Vec<PathReport> = paths.await?.into_iter().flatten().collect();
        paths.retain(|path| tenant.is_none_or(|tenant| path.tenant == tenant));
        paths.sort_by(|a, b| (&a.tenant, &a.site, &a.path).cmp(&(&b.tenant, &b.site, &b.path)));
        Ok(paths)
    }

    /// How app classes fare where bandwidth is limited, of one tenant or of all, by tenant, site, path and class.
    pub async fn queues(
        &self,
        tenant: Option<&str>,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<QueueRow>, Unanswered> {
        let query = Query::Queues { tenant: tenant.map(str::to_owned) };
        let answers = self.ask_all(query, deadline, |answer| match answer {
            Answer::Queues(rows) => Some(rows),
            _ => None,
        });
        let mut rows: Vec<QueueRow> = answers.await?.into_iter().flatten().collect();
        let key = |row: &QueueRow| [&row.tenant, &row.site, &row.path, &row.class].map(String::clone);
        rows.sort_by_key(key);
        Ok(rows)
    }

    /// The newest `limit` sessions that match, and how many match in all.
    pub async fn sessions(
        &self,
        filter: FlowFilter,
        limit: usize,
        deadline: impl Future<Output = ()>,
    ) -> Result<SessionPage, Unanswered> {
        let pages = self.ask_all(Query::Sessions { filter, limit }, deadline, |answer| match answer {
            Answer::Sessions(page) => Some(page),
            _ => None,
        });
        let mut merged = SessionPage::default();
        for page in pages.await? {
            merged.matching += page.matching;
            merged.sessions.extend(page.sessions);
        }
        merged.sessions.sort_by(|a, b| a.age_secs.total_cmp(&b.age_secs).then(b.id.cmp(&a.id)));
        merged.sessions.truncate(limit);
        Ok(merged)
    }

    /// The newest `limit` flow records that match, out of those still held.
    pub fn flows(&self, filter: &FlowFilter, limit: usize) -> FlowPage {
        self.flows.page(filter, limit)
    }

    /// Dropped packets by tenant, reason and detail, of one tenant or of all; most packets first.
    pub async fn drops(
        &self,
        tenant: Option<&str>,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<DropRow>, Unanswered> {
        let rows = self.ask_all(Query::Drops, deadline, |answer| match answer {
            Answer::Drops(rows) => Some(rows),
            _ => None,
        });
        let mut sums: BTreeMap<_, u64> = BTreeMap::new();
        for row in rows.await?.into_iter().flatten() {
            if tenant.is_none_or(|tenant| row.tenant.as_deref() == Some(tenant)) {
                *sums.entry((row.tenant, row.reason, row.detail)).or_default() += row.packets;
            }
        }
        let rows = sums.into_iter();
        let mut rows: Vec<DropRow> = rows
            .map(|((tenant, reason, detail), packets)| DropRow { tenant, reason, detail, packets })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.packets));
        Ok(rows)
    }

    /// The moves of app classes between paths, of one tenant or of all, the newest first; at most `limit`.
    pub async fn decisions(
        &self,
        tenant: Option<&str>,
        limit: usize,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<DecisionRow>, Unanswered> {
        let query = Query::Decisions { tenant: tenant.map(str::to_owned) };
        let answers = self.ask_all(query, deadline, |answer| match answer {
            Answer::Decisions(rows) => Some(rows),
            _ => None,
        });
        let mut rows: Vec<DecisionRow> = answers.await?.into_iter().flatten().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.unix_ms));
        rows.truncate(limit);
        Ok(rows)
    }

    /// What paths were judged by, of one tenant or of all, the oldest first.
    pub async fn measurements(
        &self,
        tenant: Option<&str>,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<MeasurementRow>, Unanswered> {
        let query = Query::Measurements { tenant: tenant.map(str::to_owned) };
        let answers = self.ask_all(query, deadline, |answer| match answer {
            Answer::Measurements(rows) => Some(rows),
            _ => None,
        });
        let mut rows: Vec<MeasurementRow> = answers.await?.into_iter().flatten().collect();
        rows.sort_by_key(|row| row.monotonic_nanos);
        Ok(rows)
    }

    /// How canaries stand, by tenant and name; each is sent a probe first, if that is to be.
    pub async fn canaries(
        &self,
        probe: bool,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<CanaryRow>, Unanswered> {
        let answers = self.ask_all(Query::Canaries { probe }, deadline, |answer| match answer {
            Answer::Canaries(rows) => Some(rows),
            _ => None,
        });
        let mut rows: Vec<CanaryRow> = answers.await?.into_iter().flatten().collect();
        rows.sort_by(|a, b| (&a.tenant, &a.canary).cmp(&(&b.tenant, &b.canary)));
        Ok(rows)
    }

    /// Ends sessions; how many.
    pub async fn clear_sessions(
        &self,
        asked: ClearAsked,
        deadline: impl Future<Output = ()>,
    ) -> Result<u64, Unanswered> {
        let answers = self.ask_all(Query::Clear(asked), deadline, |answer| match answer {
            Answer::Cleared(sessions) => Some(sessions),
            _ => None,
        });
        Ok(answers.await?.into_iter().sum())
    }

    /// How good a path has been; `None` if there is no such path.
    pub async fn path_history(
        &self,
        asked: PathName,
        deadline: impl Future<Output = ()>,
    ) -> Result<Option<PathHistory>, Unanswered> {
        let answers = self.ask_all(Query::History(asked), deadline, |answer| match answer {
            Answer::History(history) => Some(history),
            _ => None,
        });
        Ok(answers.await?.into_iter().flatten().next())
    }

    /// The ACL rules of one tenant or of all, by tenant and in the order they are tried, with the sums over all workers.
    pub async fn rules(
        &self,
        tenant: Option<&str>,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<RuleRow>, Unanswered> {
        let query = Query::Rules { tenant: tenant.map(str::to_owned) };
        let answers = self.ask_all(query, deadline, |answer| match answer {
            Answer::Rules(rows) => Some(rows),
            _ => None,
        });
        let mut answers = answers.await?.into_iter();
        let mut merged = answers.next().unwrap_or_default();
        // For a moment, while a commit is being taken over, a worker may have other rules than the first.
        let places: HashMap<(String, String), usize> =
            merged.iter().enumerate().map(|(at, row)| ((row.tenant.clone(), row.rule.clone()), at)).collect();
        for row in answers.flatten() {
            if let Some(at) = places.get(&(row.tenant, row.rule)) {
                let sum = &mut merged[*at];
                sum.sessions += row.sessions;
                sum.packets += row.packets;
                sum.bytes += row.bytes;
                sum.dropped_packets += row.dropped_packets;
                sum.unlogged += row.unlogged;
            }
        }
        Ok(merged)
    }

    /// What every tenant has of what is limited, by name.
    pub async fn tenants(&self, deadline: impl Future<Output = ()>) -> Result<Vec<TenantRow>, Unanswered> {
        let answers = self.ask_all(Query::Tenants, deadline, |answer| match answer {
            Answer::Tenants(rows) => Some(rows),
            _ => None,
        });
        let mut sums: BTreeMap<String, TenantRow> = BTreeMap::new();
        for row in answers.await?.into_iter().flatten() {
            match sums.get_mut(&row.tenant) {
                Some(sum) => add_tenant(sum, row),
                None => drop(sums.insert(row.tenant.clone(), row)),
            }
        }
        Ok(sums.into_values().collect())
    }

    /// The blocks of ports that branches have, of one tenant's or of all, by tenant, handoff, branch and address.
    pub async fn nat_blocks(
        &self,
        tenant: Option<&str>,
        deadline: impl Future<Output = ()>,
    ) -> Result<Vec<NatBlockRow>, Unanswered> {
        let query = Query::NatBlocks { tenant: tenant.map(str::to_owned) };
        let answers = self.ask_all(query, deadline, |answer| match answer {
            Answer::NatBlocks(rows) => Some(rows),
            _ => None,
        });
        let mut rows: Vec<NatBlockRow> = answers.await?.into_iter().flatten().collect();
        rows.sort_by(|a, b| {
            let key = |row: &NatBlockRow| (row.address, row.first_port);
            (&a.tenant, &a.handoff, &a.branch)
                .cmp(&(&b.tenant, &b.handoff, &b.branch))
                .then(key(a).cmp(&key(b)))
        });
        Ok(rows)
    }

    async fn ask_all<T>(
        &self,
        query: Query,
        deadline: impl Future<Output = ()>,
        expect: impl Fn(Answer) -> Option<T>,
    ) -> Result<Vec<T>, Unanswered> {
        let answers = gather::ask_all(&self.ports, query, deadline).await?;
        let answers = answers.into_iter().enumerate();
        answers.map(|(worker, answer)| expect(answer).ok_or(Unanswered { worker })).collect()
    }
}

fn add(a: Totals, b: Totals) -> Totals {
    Totals {
        generation: a.generation.min(b.generation),
        sessions: a.sessions + b.sessions,
        max_sessions: a.max_sessions + b.max_sessions,
        sessions_created: a.sessions_created + b.sessions_created,
        paths: a.paths + b.paths,
        paths_up: a.paths_up + b.paths_up,
        forwarded_packets: a.forwarded_packets + b.forwarded_packets,
        forwarded_bytes: a.forwarded_bytes + b.forwarded_bytes,
        dropped_packets: a.dropped_packets + b.dropped_packets,
        records_lost: a.records_lost + b.records_lost,
        ledger_lost: a.ledger_lost + b.ledger_lost,
        not_inspected: a.not_inspected + b.not_inspected,
        returns_overridden: a.returns_overridden + b.returns_overridden,
    }
}

fn add_tenant(sum: &mut TenantRow, row: TenantRow) {
    sum.sessions += row.sessions;
    for pool in row.nat_pools {
        // For a moment, while a commit is being taken over, a worker may have other pools than the first.
        if let Some(sum) = sum.nat_pools.iter_mut().find(|sum| sum.handoff == pool.handoff) {
            sum.leased_ports += pool.leased_ports;
            sum.tcp_bindings += pool.tcp_bindings;
            sum.udp_bindings += pool.udp_bindings;
            sum.icmp_bindings += pool.icmp_bindings;
            sum.other_bindings += pool.other_bindings;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::report::SessionReport;
    use std::future::{pending, ready};
    use std::net::IpAddr;
    use std::sync::mpsc;
    use std::thread;

    type Question = (Query, Box<dyn FnOnce(Answer) + Send>);

    /// A worker on a thread of its own, as the real ones are.
    struct Fake(mpsc::Sender<Question>);

    impl WorkerPort for Fake {
        fn ask(&self, query: Query, reply: Box<dyn FnOnce(Answer) + Send>) -> Result<(), WorkerGone> {
            self.0.send((query, reply)).map_err(|_| WorkerGone)
        }
    }

    /// A worker that has answered before the question is out.
    struct AtOnce(Answer);

    impl WorkerPort for AtOnce {
        fn ask(&self, _: Query, reply: Box<dyn FnOnce(Answer) + Send>) -> Result<(), WorkerGone> {
            reply(self.0.clone());
            Ok(())
        }
    }

    fn worker(mut answer: impl FnMut(Query) -> Option<Answer> + Send + 'static) -> Box<dyn WorkerPort> {
        let (sender, questions) = mpsc::channel::<Question>();
        thread::spawn(move || {
            let mut unanswered = Vec::new();
            for (query, reply) in questions {
                match answer(query) {
                    Some(answer) => reply(answer),
                    None => unanswered.push(reply),
                }
            }
        });
        Box::new(Fake(sender))
    }

    fn control(workers: Vec<Box<dyn WorkerPort>>) -> Control {
        let site = SiteFacts {
            site: "fra1".into(),
            role: "pop".into(),
            metro: None,
            facility: None,
            version: "0".into(),
            started_unix_ms: 1_000,
            workers: workers.len(),
        };
        Control::new(site, workers, Arc::default(), || 5_000)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(future)
    }

    #[test]
    fn totals_are_summed_over_workers_and_the_oldest_generation_is_told() {
        let one = |generation, sessions| {
            worker(move |_| {
                Some(Answer::Totals(Totals { generation, sessions, paths_up: 1, ..Totals::default() }))
            })
        };
        let status = run(control(vec![one(8, 40), one(7, 2)]).status(pending())).expect("an answer");
        assert_eq!((status.totals.generation, status.totals.sessions, status.totals.paths_up), (7, 42, 2));
        assert_eq!((status.site.workers, status.now_unix_ms), (2, 5_000));
    }

    #[test]
    fn a_box_without_workers_still_has_a_status() {
        let status = run(control(Vec::new()).status(pending())).expect("an answer");
        assert_eq!(status.totals, Totals::default());
    }

    #[test]
    fn the_same_drop_seen_by_two_workers_is_one_row() {
        let rows = |packets| {
            worker(move |_| {
                let row = |tenant: Option<&str>, packets| DropRow {
                    tenant: tenant.map(String::from),
                    reason: "acl-default".into(),
                    detail: None,
                    packets,
                };
                Some(Answer::Drops(vec![row(Some("acme"), packets), row(None, 1)]))
            })
        };
        let control = control(vec![rows(5), rows(6)]);
        let all = run(control.drops(None, pending())).expect("an answer");
        assert_eq!(all.iter().map(|row| row.packets).collect::<Vec<_>>(), [11, 2]);
        let acme = run(control.drops(Some("acme"), pending())).expect("an answer");
        assert_eq!(acme.len(), 1);
    }

    #[test]
    fn sessions_of_all_workers_come_newest_first_and_are_cut_at_the_limit() {
        let page = |ages: &'static [f64]| {
            worker(move |query| {
                let Query::Sessions { limit, .. } = query else { return None };
                let sessions = ages.iter().take(limit).map(|age| session(*age)).collect();
                Some(Answer::Sessions(SessionPage { matching: ages.len() as u64, sessions }))
            })
        };
        let control = control(vec![page(&[1.0, 4.0, 9.0]), page(&[2.0, 3.0])]);
        let merged = run(control.sessions(FlowFilter::default(), 3, pending())).expect("an answer");
        assert_eq!(merged.matching, 5);
        assert_eq!(merged.sessions.iter().map(|s| s.age_secs).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn paths_of_all_workers_are_told_in_order_and_by_tenant() {
        let paths = |tenant: &'static str, site: &'static str| {
            worker(move |_| Some(Answer::Paths(vec![path(tenant, site)])))
        };
        let control = control(vec![paths("globex", "oslo"), paths("acme", "lyon"), paths("acme", "berlin")]);
        let all = run(control.paths(None, pending())).expect("an answer");
        assert_eq!(all.iter().map(|p| p.site.as_str()).collect::<Vec<_>>(), ["berlin", "lyon", "oslo"]);
        assert_eq!(run(control.paths(Some("globex"), pending())).expect("an answer").len(), 1);
    }

    #[test]
    fn a_worker_that_stays_silent_is_named_when_the_deadline_passes() {
        let mut workers = vec![worker(|_| None), worker(|_| None)];
        workers.insert(0, Box::new(AtOnce(Answer::Totals(Totals::default()))));
        let error = run(control(workers).status(ready(()))).expect_err("no answer");
        assert_eq!(error.to_string(), "worker 1 does not answer");
    }

    #[test]
    fn a_worker_whose_thread_has_died_is_named_without_waiting() {
        let (sender, questions) = mpsc::channel();
        drop(questions);
        let control =
            control(vec![worker(|_| Some(Answer::Totals(Totals::default()))), Box::new(Fake(sender))]);
        assert_eq!(run(control.status(pending())), Err(Unanswered { worker: 1 }));
    }

    #[test]
    fn a_worker_that_dies_over_the_question_is_named_without_waiting() {
        let (sender, questions) = mpsc::channel::<Question>();
        thread::spawn(move || drop(questions.recv()));
        assert_eq!(
            run(control(vec![Box::new(Fake(sender))]).status(pending())),
            Err(Unanswered { worker: 0 })
        );
    }

    #[test]
    fn an_answer_to_another_question_is_no_answer() {
        let control = control(vec![worker(|_| Some(Answer::Drops(Vec::new())))]);
        assert_eq!(run(control.status(pending())), Err(Unanswered { worker: 0 }));
    }

    fn session(age_secs: f64) -> SessionReport {
        SessionReport {
            id: age_secs as u64,
            tenant: "acme".into(),
            protocol: "tcp".into(),
            source: IpAddr::from([10, 1, 0, 5]),
            source_port: 40_000,
            destination: IpAddr::from([192, 0, 2, 1]),
            destination_port: 443,
            nat_source: None,
            nat_source_port: None,
            nat_destination: None,
            nat_destination_port: None,
            from: "branch:berlin".into(),
            to: "handoff:internet".into(),
            class: "default".into(),
            class_by: "rule".into(),
            app: None,
            name: None,
            rule: "web-out".into(),
            dscp: 0,
            generation: 1,
            forward_path: None,
            reverse_path: None,
            tcp_state: None,
            age_secs,
            idle_secs: 0.0,
            forward_packets: 1,
            forward_bytes: 60,
            reverse_packets: 0,
            reverse_bytes: 0,
            story: None,
        }
    }

    fn path(tenant: &str, site: &str) -> PathReport {
        PathReport {
            tenant: tenant.into(),
            site: site.into(),
            path: "dsl".into(),
            transport: None,
            state: PathState::Up,
            public_key: Some("key".into()),
            endpoint: None,
            last_handshake_secs: None,
            probed: false,
            rtt_ms: None,
            jitter_ms: None,
            loss: None,
            outbound: None,
            inbound: None,
            streams: Vec::new(),
            received_packets: 0,
            received_bytes: 0,
            sent_packets: 0,
            sent_bytes: 0,
            duplicated_packets: 0,
            duplicate_packets: 0,
        }
    }
}
