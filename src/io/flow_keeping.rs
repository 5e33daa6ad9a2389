//! Keeping the flow history: the thread that takes flow records in names and gives them to the history, and what it starts
//! when files are to be made.
//!
//! Nothing here can hold up who tells: the queue between is bounded, and [`FlowKeeping::pass_on`] counts what it had no room
//! for.

use super::clock::Clock;
use crate::pipeline::report::{FlowReport, MoveRow};
use crate::store::flows::{Counted, Flows, Limits, Outcome, Row, Told};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Records between who tells and the history: 30 MB, a quarter of a second of the most that one thread can describe.
const QUEUE: usize = 65_536;
/// Between two looks at what else is due; a question waits no longer than for these.
const AT_ONCE: usize = 4_096;
/// An idle history is looked at this often.
const IDLE: Duration = Duration::from_secs(1);

/// What the thread is sent.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are records, and they are in the queue as they are"
)]
enum Entry {
    Flow(FlowReport),
    Limits(Limits),
    /// Files have been made, or not.
    Done(Box<Outcome>),
}

/// The history, for whoever asks.
#[derive(Clone)]
pub struct SharedFlows(Arc<Mutex<Flows>>);

/// The way to the thread.
#[derive(Clone)]
pub struct FlowKeeping {
    entries: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

impl SharedFlows {
    /// The history between two records. A panic leaves it whole enough: what it says of files is read from the disk again at
    /// the next start.
    pub fn lock(&self) -> MutexGuard<'_, Flows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowKeeping {
    /// Passes a record on, without waiting. Where there is no room, it is counted.
    pub fn pass_on(&self, flow: FlowReport) {
        if let Err(TrySendError::Full(_)) = self.entries.try_send(Entry::Flow(flow)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes how much is kept. False if the thread is gone.
    pub fn set_limits(&self, limits: Limits) -> bool {
        self.entries.send(Entry::Limits(limits)).is_ok()
    }
}

/// Starts the thread, which ends when nobody is left who could tell it something, after it has taken in what was left.
///
/// # Errors
/// The thread could not be made.
pub fn start(flows: Flows, clock: Clock) -> io::Result<(FlowKeeping, SharedFlows, JoinHandle<()>)> {
    let (entries, entries_in) = sync_channel(QUEUE);
    let shared = SharedFlows(Arc::new(Mutex::new(flows)));
    let way = FlowKeeping { entries, lost: Arc::default() };
    let keeper = Keeper { flows: shared.clone(), lost: Arc::clone(&way.lost), clock, making: None };
    let thread =
        std::thread::Builder::new().name("flow-history".into()).spawn(move || keeper.run(&entries_in))?;
    Ok((way, shared, thread))
}

struct Keeper {
    flows: SharedFlows,
    lost: Arc<AtomicU64>,
    clock: Clock,
    /// Who makes files at present.
    making: Option<(JoinHandle<()>, Receiver<Entry>)>,
}

impl Keeper {
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            let first = match entries.recv_timeout(IDLE) {
                Ok(entry) => Some(entry),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let now = unix_ms(self.clock);
            let done = self.made(now);
            let job = {
                let mut flows = self.flows.lock();
                flows.miss(self.lost.swap(0, Ordering::Relaxed));
                let more = entries.try_iter().take(AT_ONCE);
                for entry in done.into_iter().chain(first).chain(more) {
                    take(&mut flows, entry, now);
                }
                flows.work(now)
            };
            if let Some(job) = job {
                let (sender, made) = sync_channel(1);
                let make = move || drop(sender.send(Entry::Done(Box::new(job.run()))));
                match std::thread::Builder::new().name("flow-files".into()).spawn(make) {
                    Ok(thread) => self.making = Some((thread, made)),
                    Err(error) => {
                        tracing::error!(%error, "flow history: no thread to make files");
                        self.flows.lock().give_up(now);
                    }
                }
            }
        }
        if let Some((thread, made)) = self.making.take()
            && let Ok(entry) = made.recv()
        {
            take(&mut self.flows.lock(), entry, unix_ms(self.clock));
            if thread.join().is_err() {
                tracing::error!("flow history: the thread that makes files panicked");
            }
        }
        self.flows.lock().sync(unix_ms(self.clock));
    }

    /// What came of the making of files, if it has ended.
    fn made(&mut self, now: u64) -> Option<Entry> {
        let entry = match self.making.as_ref()?.1.try_recv() {
            Ok(entry) => Some(entry),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                tracing::error!("flow history: the thread that makes files panicked");
                self.flows.lock().give_up(now);
                None
            }
        };
        self.making = None;
        entry
    }
}

fn take(flows: &mut Flows, entry: Entry, now: u64) {
    match entry {
        Entry::Flow(flow) => {
            flows.take(&row(&flow, &Texts::of(&flow)), now);
        }
        Entry::Limits(limits) => flows.set_limits(limits),
        Entry::Done(outcome) => flows.done(*outcome, now),
    }
}

/// What happened to a session, as the history keeps it: in texts.
#[derive(Default)]
pub struct Texts {
    moves: [Option<String>; 2],
    dropped_packets: u64,
    drop_reasons: Option<String>,
    denied_by: Option<String>,
    denied_after: u64,
}

impl Texts {
    /// Those of a record.
    pub fn of(flow: &FlowReport) -> Texts {
        let Some(story) = flow.story.as_deref() else { return Texts::default() };
        // Rows are plain structs with string keys, which always serialise.
        let json = |moves: &Vec<MoveRow>| {
            Some(moves).filter(|moves| !moves.is_empty()).and_then(|moves| serde_json::to_string(moves).ok())
        };
        let drops: Vec<String> =
            story.drops.iter().map(|drop| format!("{} {}", drop.reason, drop.packets)).collect();
        let denied = story.denied.as_ref();
        Texts {
            moves: [json(&story.forward_moves), json(&story.reverse_moves)],
            dropped_packets: story.dropped_packets(),
            drop_reasons: (!drops.is_empty()).then(|| drops.join(", ")),
            denied_by: denied.map(|denied| denied.reason.to_string()),
            denied_after: denied.map_or(0, |denied| denied.unix_ms.saturating_sub(flow.end_unix_ms)),
        }
    }
}

/// A record in names, as the history takes it, with its [`Texts`].
pub fn row<'a>(flow: &'a FlowReport, texts: &'a Texts) -> Row<'a> {
    let translated =
        |address: Option<_>, port: Option<_>| address.map(|address| (address, port.unwrap_or(0)));
    Row {
        tenant: &flow.tenant,
        start: flow.start_unix_ms,
        end: flow.end_unix_ms,
        session: flow.session,
        protocol: &flow.protocol,
        source: (flow.source, flow.source_port),
        destination: (flow.destination, flow.destination_port),
        nat_source: translated(flow.nat_source, flow.nat_source_port),
        nat_destination: translated(flow.nat_destination, flow.nat_destination_port),
        from: &flow.from,
        to: &flow.to,
        class: &flow.class,
        class_by: &flow.class_by,
        app: flow.app.as_deref(),
        name: flow.name.as_deref(),
        rule: &flow.rule,
        dscp: flow.dscp,
        forward_path: flow.forward_path.as_deref(),
        reverse_path: flow.reverse_path.as_deref(),
        forward: Counted { packets: flow.forward_packets, bytes: flow.forward_bytes },
        reverse: Counted { packets: flow.reverse_packets, bytes: flow.reverse_bytes },
        tcp_flags: flow.tcp_flags,
        generation: flow.generation,
        end_reason: &flow.end_reason,
        told: Told {
            forward_moves: texts.moves[0].as_deref(),
            reverse_moves: texts.moves[1].as_deref(),
            dropped_packets: texts.dropped_packets,
            drop_reasons: texts.drop_reasons.as_deref(),
            denied_by: texts.denied_by.as_deref(),
            denied_after: texts.denied_after,
        },
    }
}

fn unix_ms(clock: Clock) -> u64 {
    clock.now().unix_nanos / 1_000_000
}
