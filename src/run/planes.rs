//! The data planes as `io` drives them: a worker, whose records go on to the exporter, and the entrance. Both take the
//! same commands.

use super::captures::Taping;
use crate::control::{WorkerGone, WorkerPort};
use crate::export::{Missed, NatChange, NatEvent, NatLimit};
use crate::flow::PortEvent;
use crate::io::exporting::{Order, Wants};
use crate::io::forward::{DataPlane, Dropped, Egress, Fault, ForwardHandle};
use crate::io::ledgering::Ledgering;
use crate::model::{Instant, Now};
use crate::pipeline::report::{Answer, Query};
use crate::pipeline::{DeadLinks, Entrance, Logged, SessionScan, Worker};
use crate::tables::Generation;
use crate::tunnel::Endpoint;
use crate::wire::{Batch, Outbound};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

/// Slots of the session table that are looked at between packets: well under a millisecond.
const SCAN_SLOTS: usize = 10_000;
/// Questions under way at once.
const MAX_SCANS: usize = 64;
/// Between two such looks, so that packets get nine tenths of the time: a million sessions take half a second.
const SCAN_PAUSE: Duration = Duration::from_millis(5);

/// Collectors are told no more often than this that somebody gets no ports (RFC 8158 asks for such a limit).
const REFUSALS_PAUSE: Duration = Duration::from_secs(1);

/// What a forwarding thread is told.
pub(super) enum Command {
    Adopt(Arc<Generation>),
    Links(DeadLinks),
    Ask(Query, Reply),
}

pub(super) type Reply = Box<dyn FnOnce(Answer) + Send>;

/// A worker.
pub(super) struct WorkerPlane {
    worker: Worker,
    orders: SyncSender<Order>,
    wants: Arc<Wants>,
    /// Whether the worker tells what becomes of ports.
    tells_ports: bool,
    /// When collectors are next told of sessions that could not begin.
    next_refusals: Instant,
    /// Records that found no room there, and have not been told as lost.
    missed: Missed,
    /// `None` where no NAT ledger is kept.
    ledger: Option<Ledgering>,
    /// Questions about sessions that are being answered, a part of the table at a time.
    scans: VecDeque<(SessionScan, Reply)>,
    next_scan: Instant,
    taping: Taping,
}

impl WorkerPlane {
    pub(super) fn new(
        mut worker: Worker,
        orders: SyncSender<Order>,
        wants: Arc<Wants>,
        ledger: Option<Ledgering>,
        taping: Taping,
        now: Now,
    ) -> WorkerPlane {
        let tells_ports = ledger.is_some();
        if tells_ports {
            worker.tell_ports();
        }
        WorkerPlane {
            worker,
            orders,
            wants,
            tells_ports,
            next_refusals: now.instant,
            missed: Missed::default(),
            ledger,
            scans: VecDeque::new(),
            next_scan: now.instant,
            taping,
        }
    }

    /// Ends all sessions. Packets wait no more, so the exporter gets the records of all of them, however many there are, and
    /// the ledger the ends of all bindings.
    pub(super) fn end(mut self, now: Now) {
        self.worker.end_all(now);
        let at = now.unix_nanos / 1_000_000;
        let wanted = self.wants.nat_events();
        let orders = &self.orders;
        let events = self.worker.take_port_events().inspect(|event| {
            if wanted {
                // Gone with the exporter's thread, of which the records below tell.
                let _ = orders.send(Order::NatEvent(nat_event(event, at)));
            }
        });
        let kept = match self.ledger.take() {
            Some(ledger) => ledger.finish(events, at),
            None => {
                events.for_each(drop);
                true
            }
        };
        if !kept {
            tracing::error!("the NAT ledger's thread is gone: the ends of bindings are not in it");
        }
        for record in self.worker.take_records() {
            if self.orders.send(Order::Record(record)).is_err() {
                return;
            }
        }
    }

    /// Records, lines of the log, and what became of ports: none holds up the worker.
    fn pass_on(&mut self, now: Now) {
        self.taping.collect(&mut self.worker);
        self.pass_on_nat_events(now);
        // Before what comes after it: so a collector learns of a loss no later than of what followed.
        if self.missed != Missed::default() && self.orders.try_send(Order::Missed(self.missed)).is_ok() {
            self.missed = Missed::default();
        }
        self.worker.sample_packets(self.wants.packet_sampling());
        for sample in self.worker.take_samples() {
            if self.orders.try_send(Order::Sample(sample)).is_err() {
                self.missed.add(Missed::one_sample());
            }
        }
        let mut lost = 0;
        for record in self.worker.take_records() {
            if let Err(
                TrySendError::Full(Order::Record(record)) | TrySendError::Disconnected(Order::Record(record)),
            ) = self.orders.try_send(Order::Record(record))
            {
                lost += 1;
                self.missed.count(&record);
            }
        }
        self.worker.records_lost(lost);
        let logged: Vec<Logged> = self.worker.take_logged().collect();
        for logged in logged {
            if self.orders.try_send(Order::Logged(logged)).is_err() {
                self.worker.not_logged(logged.rule);
            }
        }
    }

    /// What became of ports, to the ledger and the collectors; and once a second to these, who got none.
    fn pass_on_nat_events(&mut self, now: Now) {
        let wanted = self.wants.nat_events();
        if wanted && !self.tells_ports {
            self.worker.tell_ports();
            self.tells_ports = true;
        }
        if !self.tells_ports {
            return;
        }
        let at = now.unix_nanos / 1_000_000;
        let (orders, missed) = (&self.orders, &mut self.missed);
        let mut tell = |event: NatEvent| {
            if wanted && orders.try_send(Order::NatEvent(event)).is_err() {
                missed.add(Missed::one_event());
            }
        };
        let events = self.worker.take_port_events().inspect(|event| tell(nat_event(event, at)));
        match &mut self.ledger {
            Some(ledger) => {
                let lost = ledger.pass_on(events, at);
                self.worker.ledger_lost(lost);
            }
            None => events.for_each(drop),
        }
        if wanted && self.next_refusals <= now.instant {
            self.next_refusals = now.instant + REFUSALS_PAUSE;
            for (tenant, reason) in self.worker.take_newly_dropped() {
                if let (Some(tenant), Some(limit)) = (tenant, NatLimit::of(reason)) {
                    tell(NatEvent { unix_millis: at, tenant, what: NatChange::Refused(limit) });
                }
            }
        }
    }

    /// One look at the table for the question that has waited longest; those that come after wait their turn.
    fn go_on_scanning(&mut self, now: Now) {
        if now.instant < self.next_scan {
            return;
        }
        if let Some((mut scan, reply)) = self.scans.pop_front() {
            self.next_scan = now.instant + SCAN_PAUSE;
            if self.worker.scan(&mut scan, SCAN_SLOTS) {
                reply(Answer::Sessions(self.worker.page(scan, now)));
            } else {
                self.scans.push_back((scan, reply));
            }
        }
    }
}

impl DataPlane for WorkerPlane {
    type Command = Command;

    fn process(&mut self, batch: &mut Batch, now: Now, out: &mut Outbound) {
        self.taping.prepare(&mut self.worker, now);
        self.worker.process(batch, now, out);
        self.pass_on(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let scan = (!self.scans.is_empty()).then_some(self.next_scan);
        [self.worker.poll_timeout(), scan].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Now, out: &mut Outbound) {
        self.taping.prepare(&mut self.worker, now);
        self.worker.handle_timeout(now, out);
        self.pass_on(now);
        self.go_on_scanning(now);
    }

    fn egress_dropped(&mut self, what: Dropped, count: u64) {
        if let (Egress::Transport(transport), Fault::Unreachable(address)) = (what.egress, what.fault) {
            self.worker.cannot_send_to(Endpoint { transport, address });
        }
        self.worker.egress_dropped(what.reason(), count);
    }

    fn command(&mut self, command: Command, now: Now, out: &mut Outbound) {
        match command {
            Command::Adopt(generation) => {
                self.worker.adopt(generation, now);
                self.pass_on(now);
            }
            Command::Links(dead) => self.worker.know_dead_links(dead, now, out),
            Command::Ask(Query::Sessions { filter, limit }, reply) => {
                // One that finds no room is dropped unanswered, and whoever asked is told that nobody answers.
                if self.scans.len() < MAX_SCANS {
                    self.scans.push_back((SessionScan::new(filter, limit), reply));
                }
                self.go_on_scanning(now);
            }
            Command::Ask(Query::Clear(asked), reply) => {
                reply(Answer::Cleared(self.worker.clear_sessions(&asked, now)));
                self.pass_on(now);
            }
            Command::Ask(query, reply) => {
                if let Query::Canaries { probe: true } = query {
                    self.worker.probe_canaries(now, out);
                }
                reply(self.worker.answer(&query, now));
            }
        }
    }
}

fn nat_event(event: &PortEvent, unix_millis: u64) -> NatEvent {
    NatEvent { unix_millis, tenant: event.tenant, what: NatChange::Ports(*event) }
}

/// The entrance.
pub(super) struct EntrancePlane(pub(super) Entrance);

impl DataPlane for EntrancePlane {
    type Command = Command;

    fn process(&mut self, batch: &mut Batch, now: Now, out: &mut Outbound) {
        self.0.process(batch, now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // What the gate counts by the second is begun anew by the first initiation of the next.
        None
    }

    fn handle_timeout(&mut self, _: Now, _: &mut Outbound) {}

    fn egress_dropped(&mut self, what: Dropped, count: u64) {
        self.0.egress_dropped(what.reason(), count);
    }

    fn command(&mut self, command: Command, _: Now, _: &mut Outbound) {
        match command {
            Command::Adopt(generation) => self.0.adopt(generation),
            // Who calls is answered by whoever works the path.
            Command::Links(_) => {}
            Command::Ask(query, reply) => reply(self.0.answer(&query)),
        }
    }
}

/// A forwarding thread, as `control` asks it.
pub(super) struct Port(pub(super) ForwardHandle<Command>);

impl WorkerPort for Port {
    fn ask(&self, query: Query, reply: Reply) -> Result<(), WorkerGone> {
        self.0.send(Command::Ask(query, reply)).map_err(|_| WorkerGone)
    }
}
