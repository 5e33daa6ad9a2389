//! Forwarding: a worker's thread, or the entrance's.
//!
//! The thread owns a data plane, its sockets and its devices; nobody else touches them. It waits for any of them, and runs
//! each batch to completion: receive up to 64, process, send everything that came of it, hand over what is another
//! thread's. Between batches it lets timeouts that are due run, and takes orders. Functions appear in that order. What
//! others hand over to it ([`super::crossing`]) is one more source. Before it sleeps, it may poll for a moment
//! ([`super::polling`]).
//!
//! Fairness: in each round every ready source gets one batch in turn, and at most [`BATCHES_PER_ROUND`] in all before the
//! kernel is asked again who is ready; at most [`COMMANDS_PER_BATCH`] commands run between two batches. So no source, no
//! timeout and no command waits for longer than the others' shares.

use super::clock::Clock;
use super::cpu::Placement;
use super::crossing::Seat;
use super::polling::{Polling, Rest};
use super::portion::{MOST_MESSAGES, PORTION_BYTES};
use super::standing::Standing;
use super::tun::TunDevice;
use super::udp::TransportSocket;
use super::wake::Wake;
use crate::model::{DeviceId, DropReason, Id, IdMap, Instant, Now, TransportId};
use crate::wire::{self, Batch, Handover, Outbound};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;

/// Batches a source gets in a round; a flood on one source keeps the others waiting for this many at most.
const BATCHES_PER_ROUND: usize = 4;
/// Commands between two batches: a query may walk a table, and packets are waiting.
const COMMANDS_PER_BATCH: usize = 4;
/// Commands that may wait: an API that asks faster than a worker answers is told so.
const COMMAND_QUEUE: usize = 256;
/// Changes of devices and transports that may wait; commits are rare and wait for each other.
const CHANGE_QUEUE: usize = 16;
/// Events taken from the kernel at a time; the rest keep their place in its list.
const EVENTS: usize = 64;

/// What the thread drives: `pipeline::Worker`, or a fake in tests.
pub trait DataPlane {
    /// Takes the packets of `batch`, puts what is to be sent into `out`.
    fn process(&mut self, batch: &mut Batch, now: Now, out: &mut Outbound);
    /// The next instant at which [`DataPlane::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Does what is due at `now`, or a part of it where that is much; then [`DataPlane::poll_timeout`] is not later than `now`.
    fn handle_timeout(&mut self, now: Now, out: &mut Outbound);
    /// `count` packets of `out` could not be sent: to be counted.
    fn egress_dropped(&mut self, what: Dropped, count: u64);
    /// Queries, a new generation. Answers go back through whatever the command itself carries.
    type Command;
    /// Takes a command.
    fn command(&mut self, command: Self::Command, now: Now, out: &mut Outbound);
}

/// Where packets were to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    Transport(TransportId),
    Device(DeviceId),
    /// Another thread, by its seat.
    Worker(u16),
}

/// Why the kernel did not take a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its queue was full.
    QueueFull,
    /// It has no way there: no route, no address to send from, or an interface that is down.
    Unreachable(SocketAddr),
    /// Larger than can be sent, even fragmented.
    TooBig,
    /// It refused this packet: a firewall, or not an IP packet.
    Refused,
    /// The socket or device is not there, or down.
    Gone,
}

/// Packets that could not be sent: where, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub egress: Egress,
    pub fault: Fault,
}

impl Dropped {
    /// The reason it is counted under.
    pub fn reason(self) -> DropReason {
        match self.fault {
            Fault::QueueFull | Fault::Gone if matches!(self.egress, Egress::Worker(_)) => {
                DropReason::WorkerQueueFull
            }
            Fault::QueueFull | Fault::Refused => DropReason::EgressQueueFull,
            Fault::Unreachable(_) => DropReason::NoPath,
            Fault::TooBig => DropReason::TooBig,
            Fault::Gone => DropReason::DeviceDown,
        }
    }
}

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// There may be more: the batch filled up first.
    Full,
    /// Nothing more at present.
    Drained,
    /// The device was deleted; nothing will ever come from it again.
    Gone,
}

/// A thread's name, where it runs, and its place among the others.
#[derive(Debug)]
pub struct Post {
    pub name: String,
    pub placement: Placement,
    pub seat: Seat,
}

/// Starts a thread. `transports` and `devices` may be changed later.
///
/// # Errors
/// The process may have no more threads or open files.
pub fn start<D>(
    post: Post,
    plane: D,
    transports: Vec<TransportSocket>,
    devices: Vec<TunDevice>,
    clock: Clock,
) -> io::Result<(ForwardThread<D>, ForwardHandle<D::Command>)>
where
    D: DataPlane + Send + 'static,
    D::Command: Send,
{
    let Post { name, placement, seat } = post;
    let attention = Arc::new(Attention::by(Arc::clone(seat.wake())));
    let (commands, commands_in) = sync_channel(COMMAND_QUEUE);
    let (changes, changes_in) = sync_channel(CHANGE_QUEUE);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &attention.wake, Source::Wake.into_data(), epoll::EventFlags::IN)?;
    let mut forwarder = Forwarder {
        plane,
        clock,
        epoll,
        seat,
        polling: Polling::default(),
        transports: IdMap::default(),
        devices: IdMap::default(),
        batch: Batch::with_slots(MOST_MESSAGES),
        out: Outbound::default(),
        commands: commands_in,
        changes: changes_in,
        commands_waiting: false,
        attention: Arc::clone(&attention),
    };
    for socket in transports {
        forwarder.open_transport(socket)?;
    }
    for device in devices {
        forwarder.open_device(device)?;
    }
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
        match placement.take() {
            Ok(()) => tracing::info!(thread = name, ?placement, "forwarding"),
            // It forwards all the same.
            Err(error) => tracing::warn!(thread = name, ?placement, %error, "the thread runs anywhere"),
        }
        forwarder.run()
    })?;
    let handle = ForwardHandle { commands, changes, attention: Arc::clone(&attention) };
    Ok((ForwardThread { thread: Some(thread), attention }, handle))
}

/// The running thread; dropped, it stops.
#[derive(Debug)]
pub struct ForwardThread<D> {
    thread: Option<JoinHandle<D>>,
    attention: Arc<Attention>,
}

impl<D> ForwardThread<D> {
    /// Whether the thread has ended, which without [`ForwardThread::stop`] it does only by a panic.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops after the batch in hand, closes all sockets and devices, and gives the data plane back, for what it still has
    /// to say.
    ///
    /// # Errors
    /// What the thread panicked with.
    pub fn stop(mut self) -> std::thread::Result<D> {
        self.attention.stop();
        // `thread` is only ever taken here and in drop, which comes later.
        self.thread.take().expect("a thread not joined yet").join()
    }
}

impl<D> Drop for ForwardThread<D> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.attention.stop();
            if thread.join().is_err() {
                tracing::error!("a forwarding thread panicked");
            }
        }
    }
}

/// Gives orders to a running thread; as many copies as needed.
#[derive(Debug)]
pub struct ForwardHandle<C> {
    commands: SyncSender<C>,
    changes: SyncSender<Change>,
    attention: Arc<Attention>,
}

impl<C> Clone for ForwardHandle<C> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            changes: self.changes.clone(),
            attention: Arc::clone(&self.attention),
        }
    }
}

/// Why an order was not accepted; with the order.
#[derive(Error)]
pub enum Refused<T> {
    #[error("the worker is busy: too many commands are waiting")]
    Full(T),
    #[error("the worker has stopped")]
    Gone(T),
}

/// Without the order, which need not know how to be printed.
impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Full(_) => "Full",
            Refused::Gone(_) => "Gone",
        })
    }
}

/// A change of devices or transports, on its way to the thread.
#[derive(Debug)]
pub struct Change {
    kind: ChangeKind,
    done: oneshot::Sender<()>,
}

#[derive(Debug)]
enum ChangeKind {
    Devices { close: Vec<DeviceId>, open: Vec<TunDevice> },
    Transports { close: Vec<TransportId>, open: Vec<TransportSocket> },
}

impl<C> ForwardHandle<C> {
    /// Queues a command; never waits.
    ///
    /// # Errors
    /// The queue is full, or the thread has ended.
    pub fn send(&self, command: C) -> Result<(), Refused<C>> {
        self.commands.try_send(command).map_err(refused)?;
        self.attention.wake.wake();
        Ok(())
    }

    /// Asks whether the thread still goes round; never waits.
    pub fn ask_pulse(&self) {
        self.attention.asked.fetch_add(1, Ordering::AcqRel);
        self.attention.wake.wake();
    }

    /// Whether it has gone round since it was last asked.
    pub fn has_pulse(&self) -> bool {
        self.attention.answered.load(Ordering::Acquire) >= self.attention.asked.load(Ordering::Acquire)
    }

    /// Closes devices, then opens others (one that is open under the same id is replaced); never waits. The receiver
    /// hears when it is done: from then on nothing of the closed devices is open here.
    ///
    /// # Errors
    /// The queue is full, or the thread has ended; with it the devices, which are to be offered again or dropped.
    pub fn replace_devices(
        &self,
        close: Vec<DeviceId>,
        open: Vec<TunDevice>,
    ) -> Result<oneshot::Receiver<()>, Refused<Change>> {
        self.change(ChangeKind::Devices { close, open })
    }

    /// The same for transports. An address that is to be bound anew must be closed, and the receiver awaited, first.
    ///
    /// # Errors
    /// The queue is full, or the thread has ended.
    pub fn replace_transports(
        &self,
        close: Vec<TransportId>,
        open: Vec<TransportSocket>,
    ) -> Result<oneshot::Receiver<()>, Refused<Change>> {
        self.change(ChangeKind::Transports { close, open })
    }

    fn change(&self, kind: ChangeKind) -> Result<oneshot::Receiver<()>, Refused<Change>> {
        let (done, receiver) = oneshot::channel();
        self.changes.try_send(Change { kind, done }).map_err(refused)?;
        self.attention.wake.wake();
        Ok(receiver)
    }
}

fn refused<T>(error: TrySendError<T>) -> Refused<T> {
    match error {
        TrySendError::Full(order) => Refused::Full(order),
        TrySendError::Disconnected(order) => Refused::Gone(order),
    }
}

/// How many packets on the wire a packet is that was to be handed over.
fn on_the_wire(what: Handover, packet: &[u8]) -> u64 {
    match what {
        Handover::Datagram { .. } => 1,
        // It has gone its own way.
        Handover::Taught { .. } => 0,
        Handover::Arrived { segment, .. } | Handover::Leaving { segment, .. } => {
            wire::parse_super(packet, segment).map_or(1, |parsed| parsed.on_the_wire(packet).0)
        }
    }
}

/// How others get the thread's attention.
#[derive(Debug)]
struct Attention {
    wake: Arc<Wake>,
    stop: AtomicBool,
    /// How often it was asked whether it still goes round.
    asked: AtomicU64,
    /// Up to which of these it has.
    answered: AtomicU64,
}

impl Attention {
    fn by(wake: Arc<Wake>) -> Attention {
        let [asked, answered] = [0, 0].map(AtomicU64::new);
        Attention { wake, stop: AtomicBool::new(false), asked, answered }
    }

    /// By the thread, once a round.
    fn answer(&self) {
        self.answered.store(self.asked.load(Ordering::Acquire), Ordering::Release);
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
    }
}

/// Where something is to be done; as a number, by which epoll watches all but the mailbox: the kind, then the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Wake,
    Mailbox,
    Transport(TransportId),
    Device(DeviceId),
}

impl Source {
    fn into_data(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Source::Wake => 0,
            Source::Transport(id) => (1 << 32) | id.index() as u64,
            Source::Device(id) => (2 << 32) | id.index() as u64,
            Source::Mailbox => 3 << 32,
        })
    }

    fn from_data(data: epoll::EventData) -> Source {
        let index = (data.u64() & 0xffff_ffff) as usize;
        match data.u64() >> 32 {
            0 => Source::Wake,
            1 => Source::Transport(TransportId::from_index(index)),
            2 => Source::Device(DeviceId::from_index(index)),
            _ => Source::Mailbox,
        }
    }
}

struct Forwarder<D: DataPlane> {
    plane: D,
    clock: Clock,
    epoll: OwnedFd,
    seat: Seat,
    polling: Polling,
    transports: IdMap<TransportId, TransportSocket>,
    devices: IdMap<DeviceId, TunDevice>,
    batch: Batch,
    out: Outbound,
    commands: Receiver<D::Command>,
    changes: Receiver<Change>,
    /// More commands may be queued than have been taken: do not sleep.
    commands_waiting: bool,
    attention: Arc<Attention>,
}

impl<D: DataPlane> Forwarder<D> {
    fn run(mut self) -> D {
        let mut events = Vec::with_capacity(EVENTS);
        let mut ready = Vec::with_capacity(EVENTS + 2);
        while !self.attention.stop.load(Ordering::Acquire) {
            self.attention.answer();
            self.expire();
            self.wait(&mut events, &mut ready);
            for _ in 0..BATCHES_PER_ROUND {
                ready.retain(|source| self.serve(*source) == Received::Full);
                if ready.is_empty() {
                    break;
                }
            }
        }
        self.plane
    }

    /// Until something is to be done, or a timeout may be due.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, ready: &mut Vec<Source>) {
        self.look(events, ready, Duration::ZERO);
        if !ready.is_empty() {
            return;
        }
        let now = self.clock.now().instant;
        let longest = self.sleep_time(now);
        let deadline = now + longest;
        let mut rest = self.polling.rest(now);
        while rest == Rest::Poll {
            // If somebody else is to have this core, let it be now, and not when there are packets.
            rustix::thread::sched_yield();
            self.look(events, ready, Duration::ZERO);
            let now = self.clock.now().instant;
            if !ready.is_empty() {
                return self.polling.found(now);
            }
            if now >= deadline {
                return self.polling.interrupted();
            }
            rest = self.polling.found_nothing(now);
        }
        if self.seat.may_sleep() {
            self.look(events, ready, longest);
        } else {
            ready.push(Source::Mailbox);
        }
        if ready.iter().any(|source| *source != Source::Wake) {
            self.polling.found(self.clock.now().instant);
        } else {
            self.polling.interrupted();
        }
    }

    /// Asks the kernel who is ready, waiting for `patience`, and looks what else is to be done.
    fn look(&mut self, events: &mut Vec<epoll::Event>, ready: &mut Vec<Source>, patience: Duration) {
        events.clear();
        ready.clear();
        let patience = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&patience)) {
            Ok(_) => ready.extend(events.iter().map(|event| Source::from_data(event.data))),
            Err(Errno::INTR) => {}
            // Only a bad descriptor or pointer could do this, and both are ours.
            Err(e) => panic!("epoll_wait: {e}"),
        }
        if self.commands_waiting && !ready.contains(&Source::Wake) {
            ready.push(Source::Wake);
        }
        if self.seat.has_mail() {
            ready.push(Source::Mailbox);
        }
    }

    /// How long nothing is due. At least a millisecond, epoll's unit: what is due now has just been done, and a data plane
    /// whose deadline stays in the past would have us spin.
    fn sleep_time(&self, now: Instant) -> Duration {
        /// An hour: a deadline further off is looked at again then.
        const LONGEST: Duration = Duration::from_secs(3600);
        const SHORTEST: Duration = Duration::from_millis(1);
        let deadline = self.plane.poll_timeout();
        deadline.map_or(LONGEST, |deadline| deadline.since(now).clamp(SHORTEST, LONGEST))
    }

    /// One batch of one source, run to completion; then whatever else is due.
    fn serve(&mut self, source: Source) -> Received {
        let received = match source {
            Source::Wake => {
                self.obey();
                Received::Drained
            }
            Source::Mailbox => match self.seat.receive(&mut self.batch, PORTION_BYTES) {
                true => Received::Full,
                false => Received::Drained,
            },
            // A source that a change has just closed has nothing more to say.
            Source::Transport(id) => self
                .transports
                .get_mut(id)
                .map_or(Received::Drained, |socket| socket.receive(&mut self.batch)),
            Source::Device(id) => {
                self.devices.get_mut(id).map_or(Received::Drained, |device| device.receive(&mut self.batch))
            }
        };
        let now = self.clock.now();
        if self.queue(source).is_some_and(|queue| queue.sheds(received != Received::Full, now.instant)) {
            self.batch.shed_one();
        }
        if !self.batch.is_empty() {
            self.plane.process(&mut self.batch, now, &mut self.out);
            self.batch.clear();
            self.send_all();
        }
        if let (Received::Gone, Source::Device(id)) = (received, source) {
            self.lose_device(id);
        }
        if source != Source::Wake {
            self.take_commands();
        }
        self.expire();
        received
    }

    /// The kernel's queue behind a source.
    fn queue(&mut self, source: Source) -> Option<&mut Standing> {
        match source {
            Source::Transport(id) => self.transports.get_mut(id).map(|transport| &mut transport.queue),
            Source::Device(id) => self.devices.get_mut(id).map(|device| &mut device.queue),
            Source::Wake | Source::Mailbox => None,
        }
    }

    fn expire(&mut self) {
        let now = self.clock.now();
        if self.plane.poll_timeout().is_some_and(|deadline| deadline <= now.instant) {
            self.plane.handle_timeout(now, &mut self.out);
            self.send_all();
        }
    }

    /// Sends all of `out`, and tells the data plane what could not be sent.
    fn send_all(&mut self) {
        let Self { plane, transports, devices, seat, out, .. } = self;
        let mut datagrams = out.datagrams().zip(out.dscps()).peekable();
        while let Some(&((id, _, _), _)) = datagrams.peek() {
            let run = std::iter::from_fn(|| {
                let ((_, to, bytes), dscp) = datagrams.next_if(|((next, ..), _)| *next == id)?;
                Some((to, dscp, bytes))
            });
            let mut dropped = |fault, count| {
                plane.egress_dropped(Dropped { egress: Egress::Transport(id), fault }, count);
            };
            match transports.get_mut(id) {
                Some(socket) => socket.send(run, dropped),
                None => dropped(Fault::Gone, run.count() as u64),
            }
        }
        for packet in out.packets() {
            let id = packet.device();
            let sent = devices.get_mut(id).map_or(Err(Fault::Gone), |device| device.send(&packet));
            if let Err(fault) = sent {
                plane.egress_dropped(Dropped { egress: Egress::Device(id), fault }, packet.count());
            }
        }
        drop(datagrams);
        seat.hand_over(out, |worker, what, packet| {
            let no_room = Dropped { egress: Egress::Worker(worker), fault: Fault::QueueFull };
            plane.egress_dropped(no_room, on_the_wire(what, packet));
        });
        out.clear();
    }

    /// Takes what has been ordered since the thread was last woken.
    fn obey(&mut self) {
        // First: what is queued from here on wakes us again.
        self.attention.wake.clear();
        while let Ok(change) = self.changes.try_recv() {
            self.apply(change);
        }
        self.take_commands();
    }

    fn take_commands(&mut self) {
        for _ in 0..COMMANDS_PER_BATCH {
            let Ok(command) = self.commands.try_recv() else {
                self.commands_waiting = false;
                return;
            };
            self.plane.command(command, self.clock.now(), &mut self.out);
            self.send_all();
        }
        self.commands_waiting = true;
    }

    fn apply(&mut self, change: Change) {
        match change.kind {
            ChangeKind::Devices { close, open } => {
                close.into_iter().for_each(|id| self.close_device(id));
                for device in open {
                    let name = device.name().to_owned();
                    if let Err(e) = self.open_device(device) {
                        tracing::error!("device {name}: cannot be watched: {e}");
                    }
                }
            }
            ChangeKind::Transports { close, open } => {
                close.into_iter().for_each(|id| self.close_transport(id));
                for socket in open {
                    let id = socket.id();
                    if let Err(e) = self.open_transport(socket) {
                        tracing::error!("{id:?}: cannot be watched: {e}");
                    }
                }
            }
        }
        // Whoever ordered it may no longer care.
        let _ = change.done.send(());
    }

    fn open_transport(&mut self, socket: TransportSocket) -> io::Result<()> {
        self.close_transport(socket.id());
        self.watch(&socket, Source::Transport(socket.id()))?;
        self.transports.insert(socket.id(), socket);
        Ok(())
    }

    fn open_device(&mut self, device: TunDevice) -> io::Result<()> {
        self.close_device(device.id());
        self.watch(&device, Source::Device(device.id()))?;
        self.devices.insert(device.id(), device);
        Ok(())
    }

    fn watch(&self, fd: &impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, source.into_data(), epoll::EventFlags::IN)?)
    }

    // Closing a file takes it off epoll's list too, as long as nobody else has it open; these have one owner.

    fn close_transport(&mut self, id: TransportId) {
        self.transports.remove(id);
    }

    fn close_device(&mut self, id: DeviceId) {
        self.devices.remove(id);
    }

    /// A deleted device reports an error for ever; watched on, it would keep us spinning.
    fn lose_device(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.remove(id) {
            tracing::warn!("device {} was deleted", device.name());
        }
    }
}
