//! Keeping the NAT ledger: the thread that takes from the workers what became of ports, and writes it down.
//!
//! Nothing here can hold up a worker: the queue between is bounded. What a worker had no room for it counts, and tells as a
//! gap when there is room again ([`Ledgering`]).

use super::clock::Clock;
use crate::flow::PortEvent;
use crate::store::ledger::{Ledger, Limits, NamedBy};
use crate::store::report::{Gap, GapCause, LedgerState};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the thread is sent.
pub enum Entry {
    /// What became of ports, and when; milliseconds since the Unix epoch.
    Event(PortEvent, u64),
    /// What a worker had no room for.
    Missed(Gap),
    Limits(Limits),
}

/// Entries between two looks at what else is due: some milliseconds.
const ENTRIES: usize = 8_192;
/// An idle ledger is looked at this often.
const IDLE: Duration = Duration::from_secs(1);

/// How the ledger stands, for whoever asks.
pub type SharedState = Arc<Mutex<LedgerState>>;

/// Starts the thread, which keeps the ledger in `dir`, and ends when all senders of `entries` are gone, after it has written
/// down what was left.
///
/// # Errors
/// The thread could not be made.
pub fn start(
    entries: Receiver<Entry>,
    dir: PathBuf,
    limits: Limits,
    named_by: Box<NamedBy>,
    clock: Clock,
    state: SharedState,
) -> io::Result<JoinHandle<()>> {
    let keep = move || {
        let mut ledger = Ledger::new(dir, limits, named_by, unix_ms(clock));
        loop {
            *state.lock().unwrap_or_else(PoisonError::into_inner) = ledger.state();
            match entries.recv_timeout(IDLE) {
                Ok(entry) => {
                    take(&mut ledger, entry);
                    entries.try_iter().take(ENTRIES).for_each(|entry| take(&mut ledger, entry));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            ledger.work(unix_ms(clock));
        }
        ledger.close(unix_ms(clock));
    };
    std::thread::Builder::new().name("nat-ledger".into()).spawn(keep)
}

fn take(ledger: &mut Ledger, entry: Entry) {
    match entry {
        Entry::Event(event, at) => ledger.take(&event, at),
        Entry::Missed(gap) => ledger.miss(gap),
        Entry::Limits(limits) => ledger.set_limits(limits),
    }
}

fn unix_ms(clock: Clock) -> u64 {
    clock.now().unix_nanos / 1_000_000
}

/// A worker's way to the ledger.
pub struct Ledgering {
    entries: SyncSender<Entry>,
    /// What there was no room for, and has not been told.
    missed: Option<Gap>,
}

impl Ledgering {
    pub fn new(entries: SyncSender<Entry>) -> Ledgering {
        Ledgering { entries, missed: None }
    }

    /// Passes on what became of ports at `at`, milliseconds since the Unix epoch, without waiting; how many there was no room
    /// for.
    pub fn pass_on(&mut self, events: impl Iterator<Item = PortEvent>, at: u64) -> u64 {
        if let Some(gap) = self.missed
            && self.entries.try_send(Entry::Missed(Gap { until_unix_ms: at, ..gap })).is_ok()
        {
            self.missed = None;
        }
        let mut lost = 0;
        for event in events {
            // Nothing overtakes what is missing: whoever reads on knows by then.
            if self.missed.is_some() || self.entries.try_send(Entry::Event(event, at)).is_err() {
                lost += 1;
                let gap = Gap { from_unix_ms: at, until_unix_ms: at, cause: GapCause::Overrun, lost: 0 };
                self.missed.get_or_insert(gap).lost += 1;
            }
        }
        lost
    }

    /// [`Ledgering::pass_on`] of the last there will be, which may wait; false if the ledger is gone.
    pub fn finish(self, events: impl Iterator<Item = PortEvent>, at: u64) -> bool {
        let missed = self.missed.map(|gap| Entry::Missed(Gap { until_unix_ms: at, ..gap }));
        let events = events.map(|event| Entry::Event(event, at));
        missed.into_iter().chain(events).all(|entry| self.entries.send(entry).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::PortChange;
    use crate::model::{Protocol, TenantId};
    use std::net::IpAddr;
    use std::sync::mpsc::sync_channel;

    fn event(port: u16) -> PortEvent {
        PortEvent {
            change: PortChange::Began,
            tenant: TenantId(0),
            branch: None,
            outside: IpAddr::from([198, 51, 100, 7]),
            ports: (port, port),
            protocol: Some(Protocol::TCP),
            inside: None,
        }
    }

    #[test]
    fn what_a_full_queue_has_no_room_for_is_counted_and_told_before_what_comes_after() {
        let (sender, entries) = sync_channel(2);
        let mut way = Ledgering::new(sender);
        assert_eq!(way.pass_on([1, 2, 3, 4].map(event).into_iter(), 10), 2);
        assert_eq!(way.pass_on([5].map(event).into_iter(), 11), 1);
        let port = |entry: Entry| match entry {
            Entry::Event(event, at) => (event.ports.0, at),
            _ => panic!("an event"),
        };
        assert_eq!(entries.try_iter().map(port).collect::<Vec<_>>(), [(1, 10), (2, 10)]);
        assert_eq!(way.pass_on([6].map(event).into_iter(), 12), 0);
        let Ok(Entry::Missed(gap)) = entries.try_recv() else { panic!("the gap comes first") };
        let expected = Gap { from_unix_ms: 10, until_unix_ms: 12, cause: GapCause::Overrun, lost: 3 };
        assert_eq!(gap, expected);
        assert_eq!(entries.try_recv().map(port), Ok((6, 12)));
    }

    #[test]
    fn a_ledger_that_is_gone_holds_nobody_up() {
        let (sender, entries) = sync_channel(1);
        drop(entries);
        let mut way = Ledgering::new(sender);
        assert_eq!(way.pass_on([1, 2].map(event).into_iter(), 10), 2);
        assert!(!way.finish([3].map(event).into_iter(), 11));
    }
}
