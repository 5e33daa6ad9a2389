//! A box's data plane in one thread: entrance and workers, and the handovers between them, as `io` wires them.
//!
//! `POPGATE_TEST_WORKERS` says how many workers a PoP has; what the tests say must hold for any number. A branch has one:
//! all its tunnels end at one site.

use popgate::control::{Control, SiteFacts, Unanswered, WorkerGone, WorkerPort};
use popgate::flow::{FlowRecord, Sample};
use popgate::model::{DropReason, Instant, Now};
use popgate::pipeline::report::{Answer, ClearAsked, Query};
use popgate::pipeline::{
    CaptureSpec, CapturedPacket, DeadLinks, Entrance, Logged, Steered, Team, Worker, steer,
};
use popgate::tables::Generation;
use popgate::tunnel::Endpoint;
use popgate::wire::{self, Batch, Handover, Ingress, Outbound};
use std::collections::VecDeque;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Far more than one packet may cause: a loop shows.
const MAX_HANDOVERS: usize = 1_000;

pub fn workers() -> u16 {
    std::env::var("POPGATE_TEST_WORKERS").map_or(1, |text| text.parse().expect("a number of workers"))
}

pub struct Plane {
    workers: Vec<Worker>,
    entrance: Entrance,
    datagrams: u64,
    /// Packets that left as parts of super-packets.
    pub coalesced: u64,
    /// The next packet comes from a queue that has been standing for too long.
    pub shed: bool,
}

impl Plane {
    pub fn new(workers: u16, seed: [u8; 32], generation: &Arc<Generation>, now: Now) -> Plane {
        let team = Team::new(workers);
        let worker = |id: u16| {
            let mut seed = seed;
            seed[31] ^= id as u8;
            Worker::new(id, &team, seed, Arc::clone(generation), now)
        };
        Plane {
            workers: (0..workers).map(worker).collect(),
            entrance: Entrance::new(&team, Arc::clone(generation), now),
            datagrams: 0,
            coalesced: 0,
            shed: false,
        }
    }

    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    pub fn adopt(&mut self, generation: &Arc<Generation>, now: Now) {
        self.entrance.adopt(Arc::clone(generation));
        for worker in &mut self.workers {
            worker.adopt(Arc::clone(generation), now);
        }
    }

    /// Takes one packet, or a super-packet if `segment` is not 0.
    pub fn process(&mut self, ingress: Ingress, packet: &[u8], segment: u16, now: Now, out: &mut Outbound) {
        let mut batch = Batch::with_slots(1);
        let pushed = match ingress {
            Ingress::Device(device) if segment > 0 => batch.push_super(device, packet, segment),
            _ => batch.push(ingress, packet),
        };
        assert!(pushed, "the packet fits");
        if std::mem::take(&mut self.shed) {
            batch.shed_one();
        }
        let mut sent = Outbound::default();
        match ingress {
            Ingress::Transport { .. } => {
                let threads = self.workers.len() + 1;
                let mut to = match steer(packet, self.workers.len() as u16) {
                    Steered::Worker(worker) => usize::from(worker),
                    Steered::Entrance => threads - 1,
                };
                // Now and then the kernel gives one to the wrong thread.
                self.datagrams += 1;
                if self.datagrams.is_multiple_of(7) {
                    to = (to + 1) % threads;
                }
                self.thread(to, &mut batch, now, &mut sent);
            }
            Ingress::Device(_) => {
                let queue = queue_of(packet) % self.workers.len();
                self.workers[queue].process(&mut batch, now, &mut sent);
            }
            Ingress::Worker(_) => panic!("what workers pass to each other stays in here"),
        }
        self.pass_on(sent, now, out);
    }

    /// Takes packets that came in together.
    pub fn process_together(&mut self, packets: &[(Ingress, Vec<u8>)], now: Now, out: &mut Outbound) {
        let threads = self.workers.len() + 1;
        let mut shares: Vec<Vec<&(Ingress, Vec<u8>)>> = vec![Vec::new(); threads];
        for taken in packets {
            let (ingress, packet) = taken;
            let to = match ingress {
                Ingress::Device(_) => queue_of(packet) % self.workers.len(),
                _ => match steer(packet, self.workers.len() as u16) {
                    Steered::Worker(worker) => usize::from(worker),
                    Steered::Entrance => threads - 1,
                },
            };
            shares[to].push(taken);
        }
        for (at, taken) in shares.into_iter().enumerate().filter(|(_, taken)| !taken.is_empty()) {
            let mut share = Batch::with_slots(taken.len());
            for (ingress, packet) in taken {
                assert!(share.push(*ingress, packet), "the packet fits");
            }
            let mut sent = Outbound::default();
            self.thread(at, &mut share, now, &mut sent);
            self.pass_on(sent, now, out);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.workers.iter().filter_map(Worker::poll_timeout).min()
    }

    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbound) {
        for at in 0..self.workers.len() {
            if self.workers[at].poll_timeout().is_some_and(|due| due <= now.instant) {
                let mut sent = Outbound::default();
                self.workers[at].handle_timeout(now, &mut sent);
                self.pass_on(sent, now, out);
            }
        }
    }

    /// Sends the probes of canaries that have none under way.
    pub fn probe_canaries(&mut self, now: Now, out: &mut Outbound) {
        for at in 0..self.workers.len() {
            let mut sent = Outbound::default();
            self.workers[at].probe_canaries(now, &mut sent);
            self.pass_on(sent, now, out);
        }
    }

    fn thread(&mut self, at: usize, batch: &mut Batch, now: Now, out: &mut Outbound) {
        match self.workers.get_mut(at) {
            Some(worker) => worker.process(batch, now, out),
            None => self.entrance.process(batch, now, out),
        }
    }

    /// Delivers handovers until there are none; everything else goes to `out`.
    fn pass_on(&mut self, sent: Outbound, now: Now, out: &mut Outbound) {
        let mut waiting: VecDeque<(u16, Handover, Vec<u8>)> = VecDeque::new();
        let mut next = Some(sent);
        let mut steps = 0;
        while let Some(sent) = next.take() {
            waiting.extend(sent.handovers().map(|(worker, what, packet)| (worker, what, packet.to_vec())));
            for ((transport, to, datagram), dscp) in sent.datagrams().zip(sent.dscps()) {
                out.write_marked(transport, to, dscp, datagram.len(), |room| {
                    room[..datagram.len()].copy_from_slice(datagram);
                    (Some(datagram.len()), ())
                });
            }
            for packet in sent.packets() {
                let (device, bytes) = (packet.device(), packet.to_vec());
                match packet.offload() {
                    None => out.push_packet(device, &bytes),
                    // As the kernel cuts it up.
                    Some(offload) => {
                        let parsed = wire::parse_super(&bytes, offload.segment).expect("sound");
                        wire::split(&bytes, &parsed, &mut Vec::new(), |part| out.push_packet(device, part));
                        self.coalesced += u64::from(offload.segments);
                    }
                }
            }
            if let Some((worker, what, packet)) = waiting.pop_front() {
                let (mut batch, mut sent) = (Batch::with_slots(1), Outbound::default());
                assert!(batch.push(Ingress::Worker(what), &packet), "the packet fits");
                self.thread(usize::from(worker), &mut batch, now, &mut sent);
                steps += 1;
                assert!(steps < MAX_HANDOVERS, "workers play ball with {what:?}");
                next = Some(sent);
            }
        }
    }

    /// All answers as one, by the control that a running box has.
    pub fn answer(&self, query: &Query, now: Now) -> Answer {
        let answers = self.workers.iter().map(|worker| worker.answer(query, now));
        let ports = answers.chain([self.entrance.answer(query)]).map(|answer| Box::new(AtOnce(answer)) as _);
        let control = Control::new(SiteFacts::default(), ports.collect(), Arc::default(), || 0);
        match query {
            Query::Totals => Answer::Totals(at_once(control.status(pending())).totals),
            Query::Paths => Answer::Paths(at_once(control.paths(None, pending()))),
            Query::Sessions { filter, limit } => {
                Answer::Sessions(at_once(control.sessions(filter.clone(), *limit, pending())))
            }
            Query::Trace(asked) => Answer::Trace(at_once(control.traced(asked.clone(), pending()))),
            Query::Drops => Answer::Drops(at_once(control.drops(None, pending()))),
            Query::Queues { tenant } => Answer::Queues(at_once(control.queues(tenant.as_deref(), pending()))),
            Query::Decisions { tenant } => {
                Answer::Decisions(at_once(control.decisions(tenant.as_deref(), usize::MAX, pending())))
            }
            Query::Measurements { tenant } => {
                Answer::Measurements(at_once(control.measurements(tenant.as_deref(), pending())))
            }
            Query::History(asked) => Answer::History(at_once(control.path_history(asked.clone(), pending()))),
            Query::Canaries { probe } => Answer::Canaries(at_once(control.canaries(*probe, pending()))),
            Query::NatBlocks { tenant } => {
                Answer::NatBlocks(at_once(control.nat_blocks(tenant.as_deref(), pending())))
            }
            Query::Tenants => Answer::Tenants(at_once(control.tenants(pending()))),
            Query::Clear(_) => Answer::Cleared(0),
            Query::Rules { tenant } => Answer::Rules(at_once(control.rules(tenant.as_deref(), pending()))),
        }
    }

    /// Ends sessions of all workers.
    pub fn clear_sessions(&mut self, asked: &ClearAsked, now: Now) -> u64 {
        self.workers.iter_mut().map(|worker| worker.clear_sessions(asked, now)).sum()
    }

    pub fn ports_in_use(&self) -> u64 {
        self.workers.iter().map(Worker::ports_in_use).sum()
    }

    /// Nothing can be sent there.
    pub fn cannot_send_to(&mut self, endpoint: Endpoint) {
        self.workers.iter_mut().for_each(|worker| worker.cannot_send_to(endpoint));
    }

    /// These links are dead, and no others.
    pub fn know_dead_links(&mut self, dead: &DeadLinks, now: Now, out: &mut Outbound) {
        for at in 0..self.workers.len() {
            let mut sent = Outbound::default();
            self.workers[at].know_dead_links(dead.clone(), now, &mut sent);
            self.pass_on(sent, now, out);
        }
    }

    pub fn egress_dropped(&mut self, reason: DropReason, count: u64) {
        self.workers[0].egress_dropped(reason, count);
    }

    pub fn end_all(&mut self, now: Now) {
        self.workers.iter_mut().for_each(|worker| worker.end_all(now));
    }

    pub fn take_logged(&mut self) -> Vec<Logged> {
        self.workers.iter_mut().flat_map(|worker| worker.take_logged().collect::<Vec<_>>()).collect()
    }

    pub fn sample_packets(&mut self, rate: u32) {
        self.workers.iter_mut().for_each(|worker| worker.sample_packets(rate));
    }

    pub fn take_samples(&mut self) -> Vec<Sample> {
        self.workers.iter_mut().flat_map(|worker| worker.take_samples().collect::<Vec<_>>()).collect()
    }

    pub fn capture(&mut self, specs: &[CaptureSpec]) {
        self.workers.iter_mut().for_each(|worker| worker.capture(specs.to_vec()));
    }

    /// What all workers have captured for one, each its own behind the other's.
    pub fn take_captured(&mut self, number: u64) -> Vec<CapturedPacket> {
        self.workers.iter_mut().flat_map(|worker| worker.take_captured(number).collect::<Vec<_>>()).collect()
    }

    pub fn take_records(&mut self) -> Vec<FlowRecord> {
        self.workers.iter_mut().flat_map(|worker| worker.take_records().collect::<Vec<_>>()).collect()
    }
}

/// The queue of a device that a packet comes in by: a flow's always the same, a datagram's fragments' too, and as often as
/// not the wrong one.
fn queue_of(packet: &[u8]) -> usize {
    let addresses = match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(12..20),
        _ => packet.get(8..40),
    };
    addresses.unwrap_or_default().iter().map(|byte| usize::from(*byte)).sum()
}

/// A worker that has answered before the question is out.
struct AtOnce(Answer);

impl WorkerPort for AtOnce {
    fn ask(&self, _: Query, reply: Box<dyn FnOnce(Answer) + Send>) -> Result<(), WorkerGone> {
        reply(self.0.clone());
        Ok(())
    }
}

fn at_once<T>(answer: impl Future<Output = Result<T, Unanswered>>) -> T {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.expect("an answer of each"),
        Poll::Pending => panic!("nobody is waited for"),
    }
}
