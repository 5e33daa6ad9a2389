//! The NAT ledger as a box keeps it, and as it is asked: while it is kept, or where nobody keeps it any more.

use crate::config::NatLedger;
use crate::control::LedgerPort;
use crate::io::clock::Clock;
use crate::io::ledgering::{self, Entry, SharedState};
use crate::model::AskedPort;
use crate::store::ledger::{self, Asked, DIR_NAME, Limits, Who};
use crate::store::report::{LedgerState, WhoHad};
use crate::tables::Generation;
use arc_swap::ArcSwap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

/// Entries between the workers and the ledger: 10 MB, and more than a second of all that workers can bring while a log is
/// made a segment of.
const QUEUE: usize = 131_072;

/// The thread that keeps it.
pub(super) struct LedgerThread {
    pub(super) entries: SyncSender<Entry>,
    dir: PathBuf,
    clock: Clock,
    state: SharedState,
    thread: JoinHandle<()>,
}

/// Whoever asks reads the files.
struct Reader {
    dir: PathBuf,
    clock: Clock,
    state: SharedState,
}

impl LedgerThread {
    /// # Errors
    /// The thread could not be made. That the ledger cannot be written is no error: it is tried again.
    pub(super) fn start(
        state_dir: &Path,
        config: &NatLedger,
        naming: Arc<ArcSwap<Generation>>,
        clock: Clock,
    ) -> io::Result<LedgerThread> {
        let (entries, entries_in) = sync_channel(QUEUE);
        let (dir, state) = (state_dir.join(DIR_NAME), SharedState::default());
        let named_by = Box::new(move |tenant, branch: Option<_>| {
            let generation = naming.load();
            let names = &generation.names;
            Who {
                tenant: names.tenant(tenant).into(),
                branch: branch.map(|branch| names.site(branch).into()),
            }
        });
        let limits = limits_of(config);
        let thread = ledgering::start(entries_in, dir.clone(), limits, named_by, clock, Arc::clone(&state))?;
        Ok(LedgerThread { entries, dir, clock, state, thread })
    }

    pub(super) fn reader(&self) -> impl LedgerPort + 'static {
        Reader { dir: self.dir.clone(), clock: self.clock, state: Arc::clone(&self.state) }
    }

    /// Waits until all that was told is written; nobody else may be left who tells.
    pub(super) fn finish(self) -> Result<(), &'static str> {
        drop(self.entries);
        self.thread.join().map_err(|_| "the NAT ledger's thread panicked")
    }
}

impl LedgerPort for Reader {
    fn who_had(&self, asked: &AskedPort) -> io::Result<WhoHad> {
        ask(&self.dir, asked, self.clock)
    }

    fn state(&self) -> LedgerState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the ledger in `dir` says, whether a box keeps it or it lies there.
///
/// # Errors
/// It cannot be read.
pub fn who_had_offline(dir: &Path, asked: &AskedPort) -> Result<WhoHad, String> {
    ask(dir, asked, Clock::new()).map_err(|error| format!("{}: {error}", dir.display()))
}

fn ask(dir: &Path, asked: &AskedPort, clock: Clock) -> io::Result<WhoHad> {
    let now = clock.now().unix_nanos / 1_000_000;
    // The moment that has just passed: what is to come nobody knows.
    let (from, until) =
        asked.at.map_or((now.saturating_sub(1), now), |at| (at.from_unix_ms, at.until_unix_ms));
    let AskedPort { address, port, protocol, .. } = *asked;
    ledger::who_had(dir, &Asked { address, port, protocol, from, until }, now)
}

pub(super) fn limits_of(config: &NatLedger) -> Limits {
    Limits { keep: config.keep, max_bytes: config.max_bytes }
}
