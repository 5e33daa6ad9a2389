//! The flow history as a box keeps it, and as it is asked.

use crate::config::FlowHistory;
use crate::control::FlowsPort;
use crate::io::clock::Clock;
use crate::io::flow_keeping::{self, FlowKeeping, SharedFlows};
use crate::io::object_sending::{self, Destination};
use crate::model::Instant;
use crate::store::flows::{Flows, Limits, LocalDisk, Part, Want};
use crate::store::query::{self, History, Question};
use crate::store::report::{FlowAnswer, FlowHistoryState, FlowProblem, FlowQuestion};
use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

/// A page waits, and the CLI for 10 s at most: a question that takes longer is to be narrower, and is told so before that.
const PATIENCE: Duration = Duration::from_secs(8);
/// Forwarding has the processors first, but a question is not to take all day on a small box.
const THREADS: usize = 2;

/// The thread that keeps it.
pub(super) struct FlowsThread {
    pub(super) way: FlowKeeping,
    destination: Destination,
    shared: SharedFlows,
    clock: Clock,
    thread: JoinHandle<()>,
}

/// The way to change what the configuration says of it.
#[derive(Clone)]
pub(super) struct FlowsSettings {
    way: FlowKeeping,
    destination: Destination,
}

/// Whoever asks.
struct Reader {
    flows: SharedFlows,
    clock: Clock,
}

impl FlowsThread {
    /// # Errors
    /// The thread could not be made. That the history cannot be written is no error: it is tried again.
    pub(super) fn start(state_dir: &Path, config: &FlowHistory, clock: Clock) -> io::Result<FlowsThread> {
        let now = clock.now().unix_nanos / 1_000_000;
        let flows = Flows::open(state_dir.to_owned(), limits_of(config), Box::new(LocalDisk), now);
        let (way, shared, thread) = flow_keeping::start(flows, clock)?;
        let destination = object_sending::start(shared.clone(), clock)?;
        let flows = FlowsThread { way, destination, shared, clock, thread };
        // It has just been started.
        let _ = flows.destination.send(config.object_store.clone());
        Ok(flows)
    }

    pub(super) fn settings(&self) -> FlowsSettings {
        FlowsSettings { way: self.way.clone(), destination: self.destination.clone() }
    }

    pub(super) fn reader(&self) -> impl FlowsPort + 'static {
        Reader { flows: self.shared.clone(), clock: self.clock }
    }

    /// Waits until all that was told is in the log; nobody else may be left who tells.
    pub(super) fn finish(self) -> Result<(), &'static str> {
        drop(self.way);
        self.thread.join().map_err(|_| "the flow history's thread panicked")
    }
}

impl FlowsSettings {
    /// Takes over what the configuration says. False if a thread is gone.
    pub(super) fn take_over(&self, config: &FlowHistory) -> bool {
        self.way.set_limits(limits_of(config)) && self.destination.send(config.object_store.clone()).is_ok()
    }
}

impl FlowsPort for Reader {
    fn ask(&self, question: &FlowQuestion) -> Result<FlowAnswer, FlowProblem> {
        let begun = self.clock.now();
        let question = Question::read(question, begun.unix_nanos / 1_000_000)?;
        let until: Instant = begun.instant + PATIENCE;
        let expired = || self.clock.now().instant > until;
        let limits =
            query::Limits { threads: THREADS, most_groups: query::Limits::MOST_GROUPS, expired: &expired };
        query::answer(&question, self, &limits).map_err(|error| FlowProblem::answering(error.to_string()))
    }

    fn parquet(&self, answer: &FlowAnswer) -> Result<Vec<u8>, FlowProblem> {
        query::parquet(answer).map_err(|error| FlowProblem::answering(error.to_string()))
    }

    fn state(&self) -> FlowHistoryState {
        self.flows.lock().state()
    }
}

impl History for Reader {
    fn parts(&self, tenant: Option<&str>, from: u64, until: u64, want: Want) -> Vec<Part> {
        self.flows.lock().parts(tenant, from, until, want).unwrap_or_else(|error| {
            tracing::error!(%error, "flow history: what is in memory cannot be read");
            Vec::new()
        })
    }

    fn complete_from(&self, tenant: Option<&str>, want: Want) -> u64 {
        self.flows.lock().complete_from(tenant, want)
    }
}

fn limits_of(config: &FlowHistory) -> Limits {
    let FlowHistory { keep, keep_rollups, tenant_quota, object_store } = config;
    let (keep, keep_rollups, tenant_bytes) = (*keep, *keep_rollups, *tenant_quota);
    Limits { keep, keep_rollups, tenant_bytes, is_copied: object_store.is_some() }
}
