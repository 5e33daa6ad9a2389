//! The worker: packets in; packets, drops and records out.
//!
//! A packet's way: 1 from the underlay: handshake, or tunnel message; 2 out of a tunnel: probe, or tenant's packet
//! (`intake`); 3 forward: parse, look up, 4 run the plan: choose the way out, count, translate (`forwarding`); or take the
//! slow path first (`admission`), and what it says of names is heard (`naming`); where its two sides speak different families, it
//! changes over (`nat64`); 5 leave: into a tunnel, or to a device (`leaving`), after its turn where a bandwidth is limited
//! (`shaping`). What goes no further is a [`Refusal`], settled in one place.
//!
//! Replies to echo requests of our own (`echoes`) end here, and what canaries answer (`canaries`); and so does what hosts ask the
//! PoP itself (`whereabouts`).
//!
//! On that way a packet may change workers twice: before the look-up, to the one that has its session, and at the end, to
//! the one that has its tunnel. A handover goes on exactly where it left off.

mod admission;
mod canaries;
mod capturing;
mod echoes;
mod forwarding;
mod intake;
mod leaving;
mod links;
mod moves;
mod naming;
mod nat64;
mod shaping;
mod stories;
mod whereabouts;

use super::capture::{CaptureInterface, CaptureSpec, CapturedPacket, Captures};
use super::drops::Drops;
use super::gauge::{Gauge, Why};
use super::inspections::{Inspections, SessionNames};
use super::journal::Journal;
use super::learned::LearnedNames;
use super::nat::Holdings;
use super::paths::{self, Paths, Traffic};
use super::quotas::Quotas;
use super::recording::{Measured, Recording};
use super::report::ClearAsked;
use super::rules::{Logged, Rules};
use super::team::Team;
use crate::flow::{
    Denied, EndReason, FlowRecord, Fragments, PortEvent, Sample, Sampler, Session, SessionRef, SessionTable,
    Stories,
};
use crate::model::{
    AskedEnd, ClassId, DeviceId, DropReason, FlowKey, IdMap, Instant, NextHop, Now, PathId, RuleId, SiteId,
    TenantId, Zone,
};
use crate::path::{self, Action, Asks, Firsts, News, Numbering, Pace, Shaper, StreamAction, Turns};
use crate::tables::Generation;
use crate::tunnel::{Endpoint, buffer_for};
use crate::wire::{Batch, Listener, Outbound, Parsed, SLOT_BYTES};
use canaries::Canaries;
use leaving::TokenBucket;
pub use links::DeadLinks;
use moves::{Least, Taken};
use naming::Learners;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use stories::take_story;

/// Packets whose sessions are looked up together: what the table overlaps, and few enough to stay in the nearest cache
/// until they are forwarded.
const GROUP: usize = 16;
/// Endpoints that are found unreachable in one go; what is beyond is found so by its next packet.
const MAX_UNREACHABLE: usize = 64;
/// Room for what is opened of a group: for the largest datagram, and some.
const GROUP_BYTES: usize = 2 * SLOT_BYTES;

/// One worker of the data plane. Owns everything a packet needs; shares nothing but the generation, and with the team how
/// its paths stand.
pub struct Worker {
    pub(super) id: u16,
    team: Arc<Team>,
    pub(super) generation: Arc<Generation>,
    pub(super) paths: Paths,
    pub(super) sessions: SessionTable,
    quotas: Quotas,
    pub(super) holdings: Holdings,
    fragments: Fragments,
    /// What DNS has taught; for whom it is to be learned.
    learned: LearnedNames,
    learners: Learners,
    pub(super) inspections: Inspections,
    pub(super) names: SessionNames,
    pub(super) stories: Stories,
    pub(super) denied: Denied,
    /// Paths that stand otherwise than their far ends have been told the reason of.
    unexplained: BTreeSet<PathId>,
    pub(super) canaries: Canaries,
    pub(super) drops: Drops,
    pub(super) rules: Rules,
    pub(super) journal: Journal,
    /// What paths are judged by.
    pub(super) recording: Recording,
    /// What each class takes of each of the worker's sites, as of the last change; once more where it may go straight out.
    taken: BTreeMap<(SiteId, ClassId, bool), Taken>,
    /// Where no path keeps to an SLA: the one that breaks it least.
    least: BTreeMap<(SiteId, u8), Least>,
    /// Which sessions go over to a better path when.
    turns: Turns,
    pub(super) forwarded: Traffic,
    records: Vec<FlowRecord>,
    /// Chooses packets to be shown to collectors; those it has chosen.
    sampler: Sampler,
    samples: Vec<Sample>,
    pub(super) records_lost: u64,
    pub(super) ledger_lost: u64,
    /// How often a session has been answered by another path than it came by, though that one is there.
    pub(super) returns_overridden: u64,
    answers: TokenBucket,
    /// What hosts ask the PoP itself: answers to them, of which it gives no more than of others.
    asked: TokenBucket,
    listener: Listener,
    rng: StdRng,
    /// One segment of a super-packet.
    segment: Vec<u8>,
    /// A copy of one, with its shim.
    copy: Vec<u8>,
    /// By site: what numbers copies to it, and which have come from it.
    copies: IdMap<SiteId, Copies>,
    /// A packet that has changed family and grown.
    changed: Vec<u8>,
    /// What identifies the next packet that becomes one of IPv4 and may be fragmented there.
    next_id: u16,
    /// Where nothing could be sent to since paths were last looked at.
    unreachable: Vec<Endpoint>,
    dead_links: DeadLinks,
    due: Vec<PathId>,
    /// A packet is to be shed: the next one that will do.
    shed: bool,
    /// Whether a capture looks at packets, and at datagrams: these are asked for each, and the rest only if so.
    sees_inner: bool,
    sees_outer: bool,
    captures: Captures,
    /// Keeps probes within the worker's share of the box's budget.
    pace: Pace,
    /// If any bandwidth is limited: what waits for it.
    pub(super) shaper: Option<Box<Shaper>>,
}

/// What is sent to a site and comes from it more than once.
struct Copies {
    numbering: Numbering,
    firsts: Firsts,
}

/// Where a packet came from.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    zone: Zone,
    tenant: Option<TenantId>,
    hop: NextHop,
    path: Option<PathId>,
    /// Another worker took it in and found it to be for this one.
    handed_over: bool,
}

/// A packet that has come this far: where from, and the payload of its segments if it is a super-packet.
struct Arrived<'a> {
    arrival: Arrival,
    packet: &'a mut [u8],
    segment: u16,
}

/// One that has been looked at: what it holds, and what its session is to be looked up by, if it is a flow's.
struct Packet<'a> {
    arrival: Arrival,
    packet: &'a mut [u8],
    parsed: Parsed,
    key: Option<FlowKey>,
}

/// What became of a packet that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Forwarded,
    HandedOver,
}

/// Where it will leave; by a path as one of a class's packets.
#[derive(Clone, Copy, Debug)]
enum Exit {
    Path(PathId, ClassId),
    Device(DeviceId),
}

/// A packet that goes no further, and why.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    tenant: Option<TenantId>,
    reason: DropReason,
    /// The MTU that a too big packet did not fit.
    mtu: u16,
}

impl Worker {
    /// Worker `id` of `team`, with nothing to do yet. `seed` must be unpredictable: indices, ports and hash seeds are
    /// drawn from it.
    pub fn new(id: u16, team: &Arc<Team>, seed: [u8; 32], generation: Arc<Generation>, now: Now) -> Worker {
        use rand::Rng;
        let mut rng = StdRng::from_seed(seed);
        let sessions = SessionTable::new(id, [rng.random(), rng.random()], now.instant);
        let mut worker = Worker {
            id,
            team: Arc::clone(team),
            generation: Arc::clone(&generation),
            paths: Paths::new(Arc::clone(team), id, now),
            sessions,
            quotas: Quotas::default(),
            holdings: Holdings::default(),
            fragments: Fragments::default(),
            learned: LearnedNames::new(rng.random()),
            learners: Learners::new(),
            inspections: Inspections::default(),
            names: SessionNames::default(),
            stories: Stories::default(),
            denied: Denied::default(),
            unexplained: BTreeSet::new(),
            canaries: Canaries::default(),
            drops: Drops::default(),
            rules: Rules::default(),
            journal: Journal::default(),
            recording: Recording::default(),
            taken: BTreeMap::new(),
            least: BTreeMap::new(),
            turns: Turns::default(),
            forwarded: Traffic::default(),
            records: Vec::new(),
            sampler: Sampler::seeded(rng.random()),
            samples: Vec::new(),
            records_lost: 0,
            ledger_lost: 0,
            returns_overridden: 0,
            answers: TokenBucket::full(now.instant),
            asked: TokenBucket::full(now.instant),
            listener: Listener::new(rng.random()),
            next_id: rng.random(),
            rng,
            segment: Vec::new(),
            copy: Vec::new(),
            copies: IdMap::default(),
            changed: Vec::new(),
            unreachable: Vec::new(),
            dead_links: DeadLinks::default(),
            due: Vec::new(),
            shed: false,
            sees_inner: false,
            sees_outer: false,
            captures: Captures::default(),
            pace: Pace::new(path::EXCHANGES / u32::from(team.size().max(1)), now.instant),
            shaper: None,
        };
        worker.adopt(generation, now);
        worker
    }

    /// Goes over to `generation`. Sessions whose tenant is gone end here; the others are looked at again when their next
    /// packet comes.
    pub fn adopt(&mut self, generation: Arc<Generation>, now: Now) {
        self.withdraw_canaries(now);
        self.paths.adopt(&generation, &mut self.rng, now);
        let allowed = self.sessions.allowed();
        self.sessions.configure(generation.max_sessions, generation.active_timeout, generation.timeouts());
        self.team.return_sessions(allowed - self.sessions.allowed());
        let gone: Vec<SessionRef> = self
            .sessions
            .iter()
            .filter(|(_, session)| generation.tenants.get(session.tenant).is_none())
            .map(|(at, _)| at)
            .collect();
        for at in gone {
            self.end_session(at, EndReason::ForcedEnd, now);
        }
        let sites: BTreeSet<SiteId> = generation.paths.iter().map(|(_, path)| path.site).collect();
        let gone: Vec<SiteId> =
            self.copies.iter().map(|(site, _)| site).filter(|site| !sites.contains(site)).collect();
        gone.into_iter().for_each(|site| drop(self.copies.remove(site)));
        self.learners = self.find_learners(&generation);
        self.learned.learn_for(&self.learners.keys().copied().collect::<Vec<_>>());
        self.generation = generation;
        self.shape(now);
        if self.paths.outlet().is_some_and(|outlet| outlet.is_cut != self.dead_links.outlet) {
            self.cut_outlet(self.dead_links.outlet, now);
        }
        self.look_at_all_sites(now);
    }

    /// Takes the packets of `batch` and puts what is to be sent into `out`.
    pub fn process(&mut self, batch: &mut Batch, now: Now, out: &mut Outbound) {
        self.shed = batch.sheds();
        self.captures.set_time(now.unix_nanos);
        let mut packets = batch.packets().peekable();
        while packets.peek().is_some() {
            let mut landing = out.land(GROUP_BYTES);
            let mut room = landing.room();
            let mut group: [Option<Packet<'_>>; GROUP] = [const { None }; GROUP];
            let mut filled = 0;
            while filled < GROUP
                && let Some((ingress, packet, segment)) =
                    packets.next_if(|(_, packet, _)| buffer_for(packet.len()) <= room.len())
            {
                group[filled] = self
                    .take(ingress, packet, segment, &mut room, now, out)
                    .and_then(|arrived| self.look_at(arrived));
                filled += usize::from(group[filled].is_some());
            }
            self.forward_all(&mut group[..filled], now, out);
            out.give_back(landing);
        }
        if !self.unexplained.is_empty() {
            self.explain_moves(now, out);
        }
        self.release(now, out);
        out.finish();
    }

    /// When [`Worker::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.sessions.poll_timeout(),
            self.paths.poll_timeout(),
            self.holdings.poll_timeout(),
            self.denied.poll_timeout(),
            self.canaries.poll_timeout(),
            self.shaper.as_ref().and_then(|shaper| shaper.poll_timeout()),
        ];
        let at_once = (!self.unreachable.is_empty()).then_some(Instant(0));
        timeouts.into_iter().chain([at_once]).flatten().min()
    }

    /// Does what is due: tunnels' timers, probes, sessions that end, packets whose turn it is.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbound) {
        self.captures.set_time(now.unix_nanos);
        if !self.unreachable.is_empty() {
            self.work_unreachable(now, out);
        }
        self.give_up_canaries(now);
        let Self { sessions, records, rules, names, inspections, stories, team, .. } = self;
        sessions.expire(now, |mut record| {
            rules.recorded(&record);
            record.story = take_story(stories, record.session, team, now);
            record.name = if record.end_reason == EndReason::ActiveTimeout {
                names.get(record.session).cloned()
            } else {
                inspections.end(record.session);
                names.remove(record.session)
            };
            records.push(record);
        });
        self.report_denied(now);
        self.return_sessions();
        self.holdings.look(&mut self.sessions, &self.team, now.instant);
        let mut due = std::mem::take(&mut self.due);
        self.paths.take_due(now.instant, &mut due);
        for id in due.drain(..) {
            self.work_path(id, now, out);
            self.paths.schedule(id);
        }
        self.due = due;
        self.work_outlet(now, out);
        if !self.unexplained.is_empty() {
            self.explain_moves(now, out);
        }
        self.release(now, out);
    }

    /// How many ports of NAT pools its sessions hold.
    pub fn ports_in_use(&self) -> u64 {
        self.sessions.ports_in_use()
    }

    /// The records written since the last call.
    pub fn take_records(&mut self) -> std::vec::Drain<'_, FlowRecord> {
        self.records.drain(..)
    }

    /// Has one packet in `rate` shown from now on; none with 0.
    pub fn sample_packets(&mut self, rate: u32) {
        self.sampler.set_rate(rate);
    }

    /// The packets chosen since the last call.
    pub fn take_samples(&mut self) -> std::vec::Drain<'_, Sample> {
        self.samples.drain(..)
    }

    /// What rules with `log` decided on since the last call.
    pub fn take_logged(&mut self) -> std::vec::Drain<'_, Logged> {
        self.rules.take_lines()
    }

    /// What [`Worker::take_logged`] gave of `rule` could not be passed on.
    pub fn not_logged(&mut self, rule: RuleId) {
        self.rules.left_out(rule);
    }

    /// `count` records could not be passed on.
    pub fn records_lost(&mut self, count: u64) {
        self.records_lost += count;
    }

    /// Has it tell from now on which outside ports begin and cease to be whose; whoever asks for that takes what there is
    /// after each batch.
    pub fn tell_ports(&mut self) {
        self.sessions.tell_bindings(true);
    }

    /// What became of outside ports since the last call, in order.
    pub fn take_port_events(&mut self) -> impl Iterator<Item = PortEvent> {
        self.sessions.take_port_events()
    }

    /// `count` of what [`Worker::take_port_events`] gave could not be passed on.
    pub fn ledger_lost(&mut self, count: u64) {
        self.ledger_lost += count;
    }

    /// Whose packets were dropped since the last call, and for what.
    pub fn take_newly_dropped(&mut self) -> Vec<(Option<TenantId>, DropReason)> {
        self.drops.take_new()
    }

    /// `count` packets that were to be sent could not be.
    pub fn egress_dropped(&mut self, reason: DropReason, count: u64) {
        self.drops.count(None, reason, count);
    }

    /// There is no way there.
    pub fn cannot_send_to(&mut self, endpoint: Endpoint) {
        if self.unreachable.len() < MAX_UNREACHABLE && !self.unreachable.contains(&endpoint) {
            self.unreachable.push(endpoint);
        }
    }

    /// Ends every session, so that its last record is written: the box goes down.
    pub fn end_all(&mut self, now: Now) {
        self.withdraw_canaries(now);
        let all: Vec<SessionRef> = self.sessions.iter().map(|(at, _)| at).collect();
        for at in all {
            self.end_session(at, EndReason::ForcedEnd, now);
        }
        self.end_denied();
        self.holdings.end_all(&mut self.sessions, &self.team);
    }

    // Timers.

    fn work_path(&mut self, id: PathId, now: Now, out: &mut Outbound) {
        let Some(path) = self.paths.get_mut(id) else { return };
        let mut message = [0; 256];
        let endpoint = path.tunnel.endpoint();
        let before = out.datagrams().len();
        let mut send = |len: Option<usize>, message: &[u8]| {
            if let (Some(len), Some(Endpoint { transport, address })) = (len, endpoint) {
                out.push_datagram(transport, address, &message[..len]);
            }
        };
        let mut lost = 0;
        if let Some((len, waited_in_vain)) = path.tick_tunnel(now.instant, &mut message) {
            send(len, &message);
            lost = waited_in_vain as u64;
        }
        if path.call_due(now.instant) {
            send(path.tunnel.call(&mut message), &message);
        }
        path.sample(now.instant);
        let (tenant, is_measured) = (path.spec.tenant, path.is_measured());
        if self.sees_outer {
            self.see_sent(tenant, before, out);
        }
        if lost > 0 {
            self.drops.count(Some(tenant), DropReason::NoPath, lost);
        }
        if is_measured {
            self.work_prober(id, now, out);
        }
        self.stands_anew(id, now);
    }

    fn work_prober(&mut self, id: PathId, now: Now, out: &mut Outbound) {
        while let Some(path) = self.paths.get_mut(id) {
            let action = if path.tunnel.has_session() {
                path.gauge.prober.pace(self.pace.stretch());
                path.gauge.prober.poll(now.instant)
            } else {
                path.gauge.prober.lost_session(now.instant)
            };
            match action {
                None => break,
                Some(Action::Send { sequence, .. }) if path.echo.is_some() => {
                    self.ask_by_echo(id, sequence, now, out);
                }
                Some(Action::Send { sequence, asks }) => self.ask(id, (sequence, 0), asks, now, out),
                Some(Action::SendFullSize { sequence, asks }) => {
                    let bytes = self.mtu(Exit::Path(id, ClassId::NONE), true);
                    let message = path::request_of_size(sequence, asks, bytes.into(), now);
                    if let Err(reason) = self.seal_own(id, &message, now, out) {
                        self.drops.count(None, reason, 1);
                    }
                }
                Some(Action::Suspected) => self.tell_far_end(id, News::Suspect, now, out),
                Some(change) => {
                    self.changed(id, change, now);
                    if matches!(change, Action::WentDown { .. }) {
                        self.tell_far_end(id, News::Down, now, out);
                    }
                }
            }
        }
        self.work_streams(id, now, out);
    }

    fn work_streams(&mut self, id: PathId, now: Now, out: &mut Outbound) {
        for at in 0.. {
            let Some(dscp) = self.paths.get(id).and_then(|path| Some(path.gauge.streams.get(at)?.dscp()))
            else {
                return;
            };
            while let Some(path) = self.paths.get_mut(id) {
                let Gauge { prober, streams, .. } = &mut path.gauge;
                let Some(stream) = streams.get_mut(at) else { break };
                match stream.poll(prober, now.instant) {
                    None => break,
                    Some(StreamAction::Send { sequence }) => {
                        let asks = prober.asks(now.instant);
                        self.ask(id, (sequence, dscp), asks, now, out);
                    }
                    Some(StreamAction::FellSilent) => self.fell_silent(id, dscp, now),
                }
            }
        }
    }

    /// Sends a probe of the stream that carries `dscp`.
    fn ask(&mut self, id: PathId, (sequence, dscp): (u32, u8), asks: Asks, now: Now, out: &mut Outbound) {
        self.pace.count(now.instant);
        let stream = self.paths.get(id).and_then(|path| path.of_stream(dscp));
        let request = path::request(sequence, Asks { stream, ..asks }, now);
        if let Err(reason) = self.seal_own(id, &request, now, out) {
            self.drops.count(None, reason, 1);
        }
    }

    /// Sends news of a path by the site's others, so that both ends go by the same.
    fn tell_far_end(&mut self, id: PathId, news: News, now: Now, out: &mut Outbound) {
        let Some(path) = self.paths.get(id) else { return };
        let (tenant, site, message) = (path.spec.tenant, path.spec.site, path::news(path.tag, news, now));
        let generation = Arc::clone(&self.generation);
        let all = generation.tenants.get(tenant).and_then(|tenant| tenant.sites.get(site));
        for other in all.iter().flat_map(|site| &site.paths).filter(|other| **other != id) {
            let is_sound = |path: &paths::Path| {
                path.probed && path.fitness().is_alive() && !path.gauge.prober.is_suspect()
            };
            if self.paths.get(*other).is_some_and(is_sound)
                && let Err(reason) = self.seal_own(*other, &message, now, out)
            {
                self.drops.count(Some(tenant), reason, 1);
            }
        }
    }

    fn changed(&mut self, id: PathId, action: Action, now: Now) {
        if let Some(change) = Measured::of(action) {
            self.recording.write(id, change, now);
        }
        if let Some(gauge) = self.paths.gauge_mut(id) {
            gauge.why = match action {
                Action::CameUp { .. } => Why::CameUp,
                Action::Recovered => Why::Recovered,
                Action::WentDown { silent } => Why::Down(silent),
                Action::ToldDown => Why::ToldDown,
                Action::CannotSend => Why::CannotSend,
                Action::LinkDown => Why::LinkDown,
                Action::Narrow => Why::Narrow,
                Action::Wide => Why::Wide,
                Action::Send { .. } | Action::SendFullSize { .. } | Action::Suspected => gauge.why,
            };
        }
        let path = self.generation.names.site_and_path(id);
        match action {
            Action::CameUp { held } if held.is_zero() => tracing::info!(path, "path is up"),
            Action::CameUp { held } => tracing::info!(path, held_secs = held.as_secs(), "path is recovering"),
            Action::Recovered => tracing::info!(path, "path has recovered"),
            Action::WentDown { silent } => {
                tracing::warn!(path, silent_ms = silent.as_millis(), "path is down");
            }
            Action::ToldDown => tracing::warn!(path, "path is down, as the far end has found out"),
            Action::CannotSend => tracing::warn!(path, "path is down: nothing can be sent by it"),
            Action::LinkDown => tracing::warn!(path, "path is down: its link is"),
            Action::Narrow => tracing::warn!(path, "path loses packets of full size"),
            Action::Wide => tracing::info!(path, "path carries packets of full size again"),
            Action::Send { .. } | Action::SendFullSize { .. } | Action::Suspected => {}
        }
    }

    /// Ends sessions because somebody says so; how many. What their hosts still send is looked at as if nothing had been before.
    pub fn clear_sessions(&mut self, asked: &ClearAsked, now: Now) -> u64 {
        let names = &self.generation.names;
        let tenant = self.generation.tenants.iter().find(|(id, _)| names.tenant(*id) == asked.tenant);
        let Some((tenant, _)) = tenant else { return 0 };
        let is_at = |end: Option<AskedEnd>, address: IpAddr, port: u16| {
            end.is_none_or(|end| end.address == address && end.port.is_none_or(|asked| asked == port))
        };
        let is_asked = |session: &Session| {
            let key = &session.keys[0];
            session.tenant == tenant
                && asked.protocol.is_none_or(|protocol| protocol == key.protocol)
                && is_at(asked.from, key.source(), key.source_port)
                && is_at(asked.to, key.destination(), key.destination_port)
        };
        let sessions = self.sessions.iter().filter(|(_, session)| is_asked(session));
        let gone: Vec<SessionRef> = sessions.map(|(at, _)| at).collect();
        gone.iter().for_each(|at| self.end_session(*at, EndReason::ForcedEnd, now));
        gone.len() as u64
    }

    fn end_session(&mut self, at: SessionRef, reason: EndReason, now: Now) {
        let record = self.forget_session(at, reason, now);
        if let Some(record) = &record {
            self.rules.recorded(record);
        }
        self.records.extend(record);
    }

    /// Ends a session and all that is kept beside it; gives its last record, if there is anything left to tell.
    fn forget_session(&mut self, at: SessionRef, reason: EndReason, now: Now) -> Option<FlowRecord> {
        let session = self.sessions.get(at)?.id;
        self.inspections.end(session);
        let name = self.names.remove(session);
        let story = take_story(&mut self.stories, session, &self.team, now);
        let mut record = self.sessions.remove(at, reason, now)?;
        (record.name, record.story) = (name, story);
        Some(record)
    }
}

impl Refusal {
    fn new(tenant: Option<TenantId>, reason: DropReason) -> Refusal {
        Refusal { tenant, reason, mtu: 0 }
    }
}
