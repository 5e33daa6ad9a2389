//! The worker: packets in; packets, drops and records out.
//!
//! A packet's way, and the order of the functions: 1 from the underlay: handshake, or tunnel message; 2 out of a tunnel:
//! probe, or tenant's packet; 3 forward: parse, look up, or take the slow path; 4 run the plan: choose the way out, count,
//! translate; 5 leave: into a tunnel, or to a device. What goes no further is a [`Refusal`], settled in one place.
//!
//! On that way a packet may change workers twice: before the look-up, to the one that has its session, and at the end, to
//! the one that has its tunnel. A handover goes on exactly where it left off.

use super::decide::decide;
use super::drops::Drops;
use super::nat::allocate;
use super::paths::{Paths, Traffic};
use super::steering::{Steered, steer};
use super::team::{Team, session_share};
use crate::flow::{
    DatagramKey, EndReason, FlowRecord, Fragments, InsertError, Session, SessionRef, SessionTable, TcpState,
    Trail,
};
use crate::model::{
    ClassId, DeviceId, Direction, DropReason, FlowKey, Instant, NextHop, Now, PathId, Protocol, SiteId,
    TenantId, TransportId, Zone,
};
use crate::path::{self, Action, Message, PROBE_ADDRESS};
use crate::tables::{Generation, NatVerdict};
use crate::tunnel::{Endpoint, Opened, Sealed, buffer_for, receiver};
use crate::wire::{self, Batch, Handover, IcmpError, Ingress, Outbound, Parsed, SLOT_BYTES, Side, Upper};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The inner MTU of a path whose transport is not known yet: Ethernet's less WireGuard's worst case.
const DEFAULT_INNER_MTU: u16 = 1_420;
const IPV6_MIN_MTU: u16 = 1_280;
/// ICMP errors and resets of our own (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4f): as Linux does.
const ANSWERS_PER_SECOND: u64 = 1_000;
const ANSWER_BURST: u64 = 50;

/// Packets whose sessions are looked up together: what the table overlaps, and few enough to stay in the nearest cache
/// until they are forwarded.
const GROUP: usize = 16;
/// Room for what is opened of a group: for the largest datagram, and some.
const GROUP_BYTES: usize = 2 * SLOT_BYTES;

/// Smaller packets are not shed.
const SHED_BYTES: usize = 512;

/// The fragment header's own number (RFC 8200 section 4.5).
const IPV6_FRAGMENT: Protocol = Protocol(44);

/// One worker of the data plane. Owns everything a packet needs; shares nothing but the generation, and with the team how
/// its paths stand.
pub struct Worker {
    pub(super) id: u16,
    team: Arc<Team>,
    pub(super) generation: Arc<Generation>,
    pub(super) paths: Paths,
    pub(super) sessions: SessionTable,
    fragments: Fragments,
    pub(super) drops: Drops,
    pub(super) forwarded: Traffic,
    records: Vec<FlowRecord>,
    pub(super) records_lost: u64,
    answers: TokenBucket,
    rng: StdRng,
    /// One segment of a super-packet.
    segment: Vec<u8>,
    due: Vec<PathId>,
    /// A packet is to be shed: the next one that will do.
    shed: bool,
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

/// Where it will leave.
#[derive(Clone, Copy, Debug)]
enum Exit {
    Path(PathId),
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
            fragments: Fragments::default(),
            drops: Drops::default(),
            forwarded: Traffic::default(),
            records: Vec::new(),
            records_lost: 0,
            answers: TokenBucket { tokens: ANSWER_BURST, filled: now.instant },
            rng,
            segment: Vec::new(),
            due: Vec::new(),
            shed: false,
        };
        worker.adopt(generation, now);
        worker
    }

    /// Goes over to `generation`. Sessions whose tenant is gone end here; the others are looked at again when their next
    /// packet comes.
    pub fn adopt(&mut self, generation: Arc<Generation>, now: Now) {
        self.paths.adopt(&generation, &mut self.rng, now);
        let allowed = self.sessions.allowed();
        self.sessions.configure(generation.max_sessions, generation.active_timeout);
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
        self.generation = generation;
    }

    /// Takes the packets of `batch` and puts what is to be sent into `out`.
    pub fn process(&mut self, batch: &mut Batch, now: Now, out: &mut Outbound) {
        self.shed = batch.sheds();
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
        out.finish();
    }

    /// When [`Worker::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.sessions.poll_timeout(), self.paths.poll_timeout()].into_iter().flatten().min()
    }

    /// Does what is due: tunnels' timers, probes, sessions that end.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbound) {
        let Self { sessions, records, .. } = self;
        sessions.expire(now, |record| records.push(record));
        self.return_sessions();
        let mut due = std::mem::take(&mut self.due);
        self.paths.take_due(now.instant, &mut due);
        for id in due.drain(..) {
            self.work_path(id, now, out);
            self.paths.schedule(id);
        }
        self.due = due;
    }

    /// How many ports of NAT pools its sessions hold.
    pub fn ports_in_use(&self) -> u64 {
        self.sessions.ports_in_use()
    }

    /// The records written since the last call.
    pub fn take_records(&mut self) -> std::vec::Drain<'_, FlowRecord> {
        self.records.drain(..)
    }

    /// `count` records could not be passed on.
    pub fn records_lost(&mut self, count: u64) {
        self.records_lost += count;
    }

    /// `count` packets that were to be sent could not be.
    pub fn egress_dropped(&mut self, reason: DropReason, count: u64) {
        self.drops.count(None, reason, count);
    }

    /// Ends every session, so that its last record is written: the box goes down.
    pub fn end_all(&mut self, now: Now) {
        let all: Vec<SessionRef> = self.sessions.iter().map(|(at, _)| at).collect();
        for at in all {
            self.end_session(at, EndReason::ForcedEnd, now);
        }
    }

    /// What is to be forwarded of what came in by `ingress`. What is opened goes into `room`, which shrinks by it.
    fn take<'a>(
        &mut self,
        ingress: Ingress,
        packet: &'a mut [u8],
        segment: u16,
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        match ingress {
            Ingress::Transport { transport, from } => {
                self.take_underlay(transport, from, packet, false, room, now, out)
            }
            Ingress::Device(device) => self.take_device(device, packet, segment),
            Ingress::Worker(what) => self.take_handover(what, packet, room, now, out),
        }
    }

    // 1 From the underlay.

    #[expect(clippy::too_many_arguments, reason = "a datagram is its bytes and where it came from")]
    fn take_underlay<'a>(
        &mut self,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        handed_over: bool,
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        // The type, and three zero bytes (whitepaper section 5.4).
        if let [2..=4, 0, 0, 0, ..] = datagram
            && let Some(path) = receiver(datagram).and_then(|index| self.paths.by_index(index))
        {
            return self.tunnel_message(path, transport, from, datagram, room, now, out);
        }
        let owner = match datagram {
            [1..=4, 0, 0, 0, ..] if !handed_over => match steer(datagram, self.team.size()) {
                Steered::Worker(worker) if worker == self.id => Err(DropReason::ReceiverIndexUnknown),
                Steered::Worker(worker) => Ok(worker),
                // Its seat is behind the workers'.
                Steered::Entrance => Ok(self.team.size()),
            },
            [1..=4, 0, 0, 0, ..] => Err(DropReason::ReceiverIndexUnknown),
            _ => Err(DropReason::NotWireGuard),
        };
        match owner {
            Ok(owner) => out.hand_over(owner, Handover::Datagram { path: None, transport, from }, datagram),
            Err(reason) => self.drops.count(None, reason, 1),
        }
        None
    }

    fn take_handover<'a>(
        &mut self,
        what: Handover,
        packet: &'a mut [u8],
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        match what {
            Handover::Datagram { path: None, transport, from } => {
                self.take_underlay(transport, from, packet, true, room, now, out)
            }
            Handover::Datagram { path: Some(path), transport, from } if self.paths.get(path).is_some() => {
                self.tunnel_message(path, transport, from, packet, room, now, out)
            }
            // A commit has taken the path away meanwhile.
            Handover::Datagram { .. } => {
                self.drops.count(None, DropReason::PeerUnknown, 1);
                None
            }
            Handover::Arrived { zone, hop, path, segment } => {
                let arrival = Arrival { zone, tenant: zone.as_tenant(), hop, path, handed_over: true };
                Some(Arrived { arrival, packet, segment })
            }
            Handover::Leaving { path, mtu, segment } => {
                self.take_leaving(path, packet, segment, mtu, now, out);
                None
            }
        }
    }

    fn take_leaving(
        &mut self,
        path: PathId,
        packet: &mut [u8],
        segment: u16,
        mtu: u16,
        now: Now,
        out: &mut Outbound,
    ) {
        let tenant = self.paths.get(path).map(|path| path.spec.tenant);
        let (outcome, packets) = match wire::parse_super(packet, segment) {
            _ if tenant.is_none() => (Err(DropReason::NoPath), 1),
            Ok(parsed) => {
                (self.leave(Exit::Path(path), packet, &parsed, mtu, now, out), parsed.on_the_wire(packet).0)
            }
            Err(reason) => (Err(reason), 1),
        };
        if let Err(reason) = outcome {
            self.drops.count(tenant, reason, packets);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a datagram is its bytes and where it came from")]
    fn tunnel_message<'a>(
        &mut self,
        id: PathId,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        let len = self.open(id, transport, from, datagram, room, now, out)?;
        let (packet, rest) = std::mem::take(room).split_at_mut(len);
        *room = rest;
        let arrival = self.out_of_tunnel(id, packet, now, out)?;
        Some(Arrived { arrival, packet, segment: 0 })
    }

    /// Lets the tunnel have its message; gives the length of the packet that was in it, if any, and is now in `buffer`.
    #[expect(clippy::too_many_arguments, reason = "a datagram is its bytes and where it came from")]
    fn open(
        &mut self,
        id: PathId,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        buffer: &mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<usize> {
        let path = self.paths.get_mut(id)?;
        let tenant = path.spec.tenant;
        if path.spec.transport.is_some_and(|only| only != transport) {
            self.drops.count(Some(tenant), DropReason::WrongTransport, 1);
            return None;
        }
        let had_session = path.tunnel.has_session();
        let opened = match path.tunnel.open(from.ip(), datagram, buffer) {
            Ok(opened) => opened,
            Err(reason) => {
                self.drops.count(Some(tenant), reason, 1);
                return None;
            }
        };
        let has_begun = path.tunnel.has_session() != had_session;
        let endpoint = Endpoint { transport, address: from };
        // A cookie reply authenticates nobody.
        if datagram[0] != 3 && path.tunnel.endpoint() != Some(endpoint) {
            path.tunnel.roam(endpoint);
            if path.tell_of_move(now.instant) {
                tracing::info!(path = self.generation.names.site_and_path(id), %from, "peer is at a new endpoint");
            }
            self.paths.publish(id);
        }
        if has_begun {
            self.paths.publish(id);
        }
        let packet = match opened {
            Opened::Packet(len) => Some(len),
            Opened::Nothing => None,
            Opened::Reply(len) => {
                out.push_datagram(transport, from, &buffer[..len]);
                if datagram[0] == 2 {
                    if let Some(path) = self.paths.get_mut(id) {
                        path.prober.hurry(now.instant);
                    }
                    self.paths.schedule(id);
                }
                None
            }
        };
        self.flush_waiting(id, out);
        packet
    }

    /// There may be a session now: what waited for it goes.
    fn flush_waiting(&mut self, id: PathId, out: &mut Outbound) {
        let Some(path) = self.paths.get_mut(id) else { return };
        let Some(Endpoint { transport, address }) = path.tunnel.endpoint() else { return };
        while let Some(len) = path.tunnel.waiting() {
            path.sent.count(len);
            out.write_datagram(transport, address, buffer_for(len), |room| {
                (path.tunnel.seal_waiting(room), ())
            });
        }
    }

    // 2 Out of a tunnel.

    fn out_of_tunnel(&mut self, id: PathId, packet: &[u8], now: Now, out: &mut Outbound) -> Option<Arrival> {
        let path = self.paths.get_mut(id)?;
        path.received.count(packet.len());
        if is_probe(packet) {
            self.probe(id, packet, now, out);
            return None;
        }
        let tenant = path.spec.tenant;
        let arrival = Arrival {
            zone: Zone::tenant(tenant),
            tenant: Some(tenant),
            hop: NextHop::Tunnel(path.spec.site),
            path: Some(id),
            handed_over: false,
        };
        if path.prober.traffic(now.instant) {
            self.paths.schedule(id);
        }
        Some(arrival)
    }

    fn probe(&mut self, id: PathId, packet: &[u8], now: Now, out: &mut Outbound) {
        let Some(path) = self.paths.get_mut(id) else { return };
        let message = wire::parse_ip(packet).ok().and_then(|ip| Some((Message::read(packet, &ip)?, ip)));
        match message {
            Some((Message::Request, ip)) => {
                if !path.probed {
                    path.probed = true;
                    path.prober.hurry(now.instant);
                    self.paths.schedule(id);
                }
                if let Some(reply) = path::reflect(packet, &ip, now) {
                    self.seal_into(id, &reply, out)
                        .unwrap_or_else(|reason| self.drops.count(None, reason, 1));
                }
            }
            Some((Message::Reply { sequence }, _)) => {
                if let Some(action) = path.prober.answer(sequence, now.instant) {
                    self.log_change(id, action);
                    self.paths.publish(id);
                }
            }
            None => {
                let tenant = path.spec.tenant;
                self.drops.count(Some(tenant), DropReason::AddressNotForwarded, 1);
            }
        }
    }

    fn take_device<'a>(
        &mut self,
        device: DeviceId,
        packet: &'a mut [u8],
        segment: u16,
    ) -> Option<Arrived<'a>> {
        let Some(zone) = self.generation.device_zones.get(device).copied() else {
            self.drops.count(None, DropReason::DeviceDown, 1);
            return None;
        };
        let (tenant, hop) = (zone.as_tenant(), NextHop::Device(device));
        let arrival = Arrival { zone, tenant, hop, path: None, handed_over: false };
        Some(Arrived { arrival, packet, segment })
    }

    // 3 Forward.

    fn look_at<'a>(&mut self, arrived: Arrived<'a>) -> Option<Packet<'a>> {
        let Arrived { arrival, packet, segment } = arrived;
        match wire::parse_super(packet, segment) {
            Ok(parsed) => {
                let packet = &mut packet[..parsed.len];
                Some(Packet { arrival, packet, parsed, key: parsed.key(arrival.zone) })
            }
            Err(reason) => {
                self.drops.count(arrival.tenant, reason, 1);
                None
            }
        }
    }

    /// Forwards a group of packets: their sessions are looked up together, so that they are fetched from memory together.
    fn forward_all(&mut self, group: &mut [Option<Packet<'_>>], now: Now, out: &mut Outbound) {
        let mut keys = [FlowKey::NONE; GROUP];
        let mut found = [None; GROUP];
        for (key, packet) in keys.iter_mut().zip(&*group) {
            *key = packet.as_ref().and_then(|packet| packet.key).unwrap_or(FlowKey::NONE);
        }
        self.sessions.lookup_batch(&keys[..group.len()], &mut found[..group.len()]);
        for (packet, found) in group.iter_mut().flatten().zip(found) {
            self.forward(packet, found, now, out);
        }
    }

    /// A packet on its way, and what was found under its key, which what came before it may have changed.
    fn forward(
        &mut self,
        packet: &mut Packet<'_>,
        found: Option<(SessionRef, Direction)>,
        now: Now,
        out: &mut Outbound,
    ) {
        let Packet { arrival, ref mut packet, ref mut parsed, key } = *packet;
        let outcome = match parsed.upper {
            Upper::IcmpError(_) => self.forward_error(arrival, packet, parsed, now, out),
            Upper::LaterFragment => self.forward_fragment(arrival, packet, parsed, now, out),
            _ => match key {
                Some(key) => self.forward_flow(arrival, packet, parsed, (key, found), now, out),
                None => Err(Refusal::new(arrival.tenant, DropReason::NoSession)),
            },
        };
        match outcome {
            Ok(Fate::Forwarded) => self.forwarded.add(parsed.on_the_wire(packet)),
            // Whoever has it now counts it.
            Ok(Fate::HandedOver) => {}
            Err(refusal) => self.settle(refusal, arrival, packet, parsed, now, out),
        }
    }

    fn forward_flow(
        &mut self,
        arrival: Arrival,
        packet: &mut [u8],
        parsed: &mut Parsed,
        (key, found): (FlowKey, Option<(SessionRef, Direction)>),
        now: Now,
        out: &mut Outbound,
    ) -> Result<Fate, Refusal> {
        let datagram = parsed.fragment.map(|fragment| datagram_key(arrival.zone, parsed, fragment.id));
        let (at, direction, is_new) = match self.find(&key, found, parsed, now)? {
            Some((at, direction)) => (at, direction, false),
            None => {
                if let Some(owner) = self.elsewhere(arrival, &key) {
                    if let Some(datagram) = datagram {
                        self.fragments.insert(datagram, Trail::Worker(owner), now.instant);
                    }
                    return Ok(hand_over(owner, arrival, packet, parsed, out));
                }
                (self.admit(arrival, &key, parsed, now)?, Direction::Forward, true)
            }
        };
        let outcome = self.run_plan(at, direction, arrival, packet, parsed, now, out);
        match (&outcome, datagram) {
            // Where the first fragment did not pass, nothing is to follow it.
            (Ok(()), Some(datagram)) => {
                let id = self.sessions.get(at).map_or(0, |session| session.id);
                self.fragments.insert(datagram, Trail::Session { at, id, direction }, now.instant);
            }
            // A session begins with a packet that goes somewhere: this one is as if it had never been.
            (Err(_), _) if is_new => {
                self.sessions.remove(at, EndReason::ForcedEnd, now);
            }
            _ => {}
        }
        outcome.map(|()| Fate::Forwarded)
    }

    /// The worker that has the session of a packet this one has none for, if it is another. What was handed over stays: two
    /// workers that run different generations for a moment must not play ball with it.
    fn elsewhere(&self, arrival: Arrival, key: &FlowKey) -> Option<u16> {
        if arrival.handed_over {
            return None;
        }
        self.team.owner(key, &self.generation).filter(|owner| *owner != self.id)
    }

    /// The session of `key`, brought up to date with the generation; `None` if there is none (any more).
    fn find(
        &mut self,
        key: &FlowKey,
        found: Option<(SessionRef, Direction)>,
        parsed: &Parsed,
        now: Now,
    ) -> Result<Option<(SessionRef, Direction)>, Refusal> {
        let still_there = found.filter(|(at, direction)| {
            self.sessions.get(*at).is_some_and(|session| session.key(*direction) == key)
        });
        let Some((at, direction)) = still_there.or_else(|| self.sessions.lookup(key)) else {
            return Ok(None);
        };
        let Some(session) = self.sessions.get(at) else { return Ok(None) };
        let flags = parsed.tcp_flags();
        let begins_anew =
            TcpState::first(flags) == Some(TcpState::SynSent) && session.tcp.is_some_and(TcpState::is_over);
        if begins_anew {
            // The same ports again, after both sides were done with them (RFC 9293 section 3.6.1).
            self.end_session(at, EndReason::EndOfFlow, now);
            return Ok(None);
        }
        self.bring_up_to_date(at, now)?;
        Ok(Some((at, direction)))
    }

    /// Where the policy has changed since the session was planned, it is decided on again, and keeps its NAT binding where
    /// that is still permitted. Where it is not, the session ends.
    fn bring_up_to_date(&mut self, at: SessionRef, now: Now) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(at) else { return Ok(()) };
        if session.generation() == self.generation.number {
            return Ok(());
        }
        let (tenant_id, binding) = (session.tenant, session.binding());
        let answers_from = Some(session.key(Direction::Reverse).zone);
        let outcome = match self.generation.tenants.get(tenant_id) {
            None => Err(DropReason::NoRoute),
            Some(tenant) => decide(
                &self.generation,
                tenant,
                session.key(Direction::Forward),
                session.dscp,
                session.from(Direction::Forward),
            )
            .and_then(|decision| match (binding, &decision.nat) {
                // The answers will come from another zone than the one they are known in.
                _ if self.zone_of(decision.plan.hops[1], tenant_id) != answers_from => {
                    Err(DropReason::NatBindingRevoked)
                }
                (None, NatVerdict::Untranslated) => Ok(decision.plan),
                (Some((address, port)), NatVerdict::Translate(pool)) if pool.permits(address, port) => {
                    Ok(decision.plan)
                }
                _ => Err(DropReason::NatBindingRevoked),
            }),
        };
        match outcome {
            Ok(plan) => {
                if let Some(session) = self.sessions.get_mut(at) {
                    session.set_plan(&plan);
                }
                Ok(())
            }
            Err(reason) => {
                self.end_session(at, EndReason::ForcedEnd, now);
                Err(Refusal::new(Some(tenant_id), reason))
            }
        }
    }

    /// The slow path: a flow's first packet.
    fn admit(
        &mut self,
        arrival: Arrival,
        key: &FlowKey,
        parsed: &Parsed,
        now: Now,
    ) -> Result<SessionRef, Refusal> {
        let generation = &self.generation;
        let (tenant_id, may_begin) = match arrival.tenant {
            Some(tenant) => (tenant, true),
            // From the internet: only a tenant's own prefixes can be called; a pool's addresses only answer.
            None => match generation.internet.lookup(parsed.destination) {
                Some(prefix) => (prefix.tenant, prefix.routed),
                None => return Err(Refusal::new(None, DropReason::NoRoute)),
            },
        };
        let refuse = |reason| Refusal::new(Some(tenant_id), reason);
        let tenant = generation.tenants.get(tenant_id).ok_or_else(|| refuse(DropReason::NoRoute))?;
        let tcp = match parsed.upper {
            Upper::Tcp { flags, .. } => {
                Some(TcpState::first(flags).ok_or_else(|| refuse(DropReason::NoSession))?)
            }
            Upper::EchoReply { .. } => return Err(refuse(DropReason::NoSession)),
            _ if !may_begin => return Err(refuse(DropReason::NoSession)),
            _ => None,
        };
        if !may_begin {
            return Err(refuse(DropReason::NoSession));
        }
        let decision = decide(generation, tenant, key, parsed.dscp, arrival.hop).map_err(refuse)?;
        let far_zone = self.zone_of(decision.plan.hops[1], tenant_id);
        let far_zone = far_zone.ok_or_else(|| refuse(DropReason::DeviceDown))?;
        let reverse = match &decision.nat {
            NatVerdict::Translate(pool) => {
                let seat = (self.id, self.team.size());
                allocate(self.sessions.ports(), pool, seat, tenant_id, key, far_zone, &mut self.rng)
                    .ok_or_else(|| refuse(DropReason::NatPoolExhausted(pool.handoff)))?
            }
            _ => key.turned_round(far_zone),
        };
        let translated = matches!(decision.nat, NatVerdict::Translate(_));
        let keys = [*key, reverse];
        let session = Session::new(tenant_id, keys, decision.plan, translated, tcp, parsed.dscp, now.instant);
        if self.sessions.len() >= self.sessions.allowed() {
            let granted = self.team.grant_sessions(self.generation.max_sessions);
            self.sessions.allow(self.sessions.allowed() + granted);
        }
        self.sessions.insert(session).map_err(|error| match error {
            InsertError::Full => refuse(DropReason::SessionTableFull),
            // Its answers are another session's already.
            InsertError::Taken => refuse(DropReason::SessionConflict),
        })
    }

    /// Gives back what it may have and does not need, for others.
    fn return_sessions(&mut self) {
        let spare = self.sessions.allowed().saturating_sub(self.sessions.len());
        let keep = session_share(self.generation.max_sessions);
        if spare > keep {
            self.sessions.allow(self.sessions.len() + keep);
            self.team.return_sessions(spare - keep);
        }
    }

    /// The zone that a tenant's packets are in when they come from `hop`.
    fn zone_of(&self, hop: NextHop, tenant: TenantId) -> Option<Zone> {
        match hop {
            NextHop::Device(device) => self.generation.device_zones.get(device).copied(),
            NextHop::Tunnel(_) => Some(Zone::tenant(tenant)),
        }
    }

    /// An ICMP error about a packet of a session goes where that packet came from, with the packet it quotes translated
    /// back (RFC 5508 section 4).
    fn forward_error(
        &mut self,
        arrival: Arrival,
        packet: &mut [u8],
        parsed: &mut Parsed,
        now: Now,
        out: &mut Outbound,
    ) -> Result<Fate, Refusal> {
        let lost = Refusal::new(arrival.tenant, DropReason::NoSession);
        let Upper::IcmpError(embedded) = parsed.upper else { return Err(lost) };
        let key = embedded.answering_key(arrival.zone);
        let Some((at, direction)) = self.sessions.lookup(&key) else {
            let owner = self.elsewhere(arrival, &key).ok_or(lost)?;
            return Ok(hand_over(owner, arrival, packet, parsed, out));
        };
        self.bring_up_to_date(at, now)?;
        let session = self.sessions.get(at).ok_or(lost)?;
        let refuse = |reason| Refusal::new(Some(session.tenant), reason);
        // Whoever reports it, a host or a router on the way, must be on the side the packet went to.
        if session.from(direction) != arrival.hop
            || !self.may_report(session.tenant, parsed.source, arrival.hop)
        {
            return Err(refuse(DropReason::SourceNotAllowed));
        }
        if parsed.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let exit = self.choose_exit(session, direction).map_err(refuse)?;
        let mtu = self.mtu(exit, parsed);
        // Errors are small (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4c); in fragments the next box would not know one.
        if parsed.len > usize::from(mtu) {
            return Err(refuse(DropReason::TooBig));
        }
        let (source, destination) = session.leaving(direction);
        // Towards the internet it comes from the address that was called: neither a host's inside address nor the dummy
        // one of a box of ours means anything out there.
        let to_internet = session.key(direction.opposite()).zone == Zone::INTERNET;
        let hides_source = to_internet && (session.translated || self.is_ours(parsed.source));
        wire::translate_embedded(packet, parsed, &embedded, Side::Source, destination.0, destination.1);
        wire::translate_embedded(packet, parsed, &embedded, Side::Destination, source.0, source.1);
        if hides_source {
            wire::translate(packet, parsed, Side::Source, source.0, 0);
        }
        wire::translate(packet, parsed, Side::Destination, destination.0, 0);
        wire::decrement_ttl(packet, parsed);
        let tenant = session.tenant;
        self.leave(exit, packet, parsed, mtu, now, out)
            .map_err(|reason| Refusal::new(Some(tenant), reason))
            .map(|()| Fate::Forwarded)
    }

    fn may_report(&self, tenant: TenantId, source: IpAddr, hop: NextHop) -> bool {
        if self.is_ours(source) {
            return true;
        }
        let Some(tenant) = self.generation.tenants.get(tenant) else { return false };
        tenant.owners.lookup(source).and_then(|end| tenant.next_hop(end)) == Some(hop)
    }

    /// Whether it is the address that errors of our own come from.
    fn is_ours(&self, source: IpAddr) -> bool {
        let ours = self.generation.icmp_source;
        source == IpAddr::V4(ours.v4) || source == IpAddr::V6(ours.v6)
    }

    /// A later fragment follows its datagram's first: only its addresses change.
    fn forward_fragment(
        &mut self,
        arrival: Arrival,
        packet: &mut [u8],
        parsed: &mut Parsed,
        now: Now,
        out: &mut Outbound,
    ) -> Result<Fate, Refusal> {
        let datagram = datagram_key(arrival.zone, parsed, parsed.fragment.map_or(0, |fragment| fragment.id));
        let (at, direction) = match self.fragments.lookup(&datagram, now.instant) {
            Some(Trail::Session { at, id, direction })
                if self.sessions.get(at).is_some_and(|session| session.id == id) =>
            {
                (at, direction)
            }
            Some(Trail::Worker(owner)) if !arrival.handed_over => {
                return Ok(hand_over(owner, arrival, packet, parsed, out));
            }
            _ => return Err(Refusal::new(arrival.tenant, DropReason::FragmentUnknown)),
        };
        self.bring_up_to_date(at, now)?;
        self.run_plan(at, direction, arrival, packet, parsed, now, out).map(|()| Fate::Forwarded)
    }

    // 4 Run the plan.

    #[expect(clippy::too_many_arguments, reason = "a packet of a session, and where it came from")]
    fn run_plan(
        &mut self,
        at: SessionRef,
        direction: Direction,
        arrival: Arrival,
        packet: &mut [u8],
        parsed: &mut Parsed,
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(at) else { return Ok(()) };
        let tenant = session.tenant;
        let refuse = |reason| Refusal::new(Some(tenant), reason);
        if session.from(direction) != arrival.hop {
            return Err(refuse(DropReason::SourceNotAllowed));
        }
        if parsed.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let exit = self.choose_exit(session, direction).map_err(refuse)?;
        let packet =
            self.shed_from(packet, parsed, tenant).ok_or_else(|| refuse(DropReason::QueueStanding))?;
        let mtu = self.mtu(exit, parsed);
        // Whoever made a super-packet knows nothing of this path's MTU: a segment can be too big like any packet.
        if parsed.largest(packet) > usize::from(mtu) && parsed.dont_fragment {
            return Err(Refusal { tenant: Some(tenant), reason: DropReason::TooBig, mtu });
        }
        let segment_mtu = arrival.path.map_or(mtu, |path| mtu.min(self.mtu(Exit::Path(path), parsed)));
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        let was = session.tcp;
        session.count(direction, parsed.on_the_wire(packet), parsed.tcp_flags(), arrival.path, now);
        if let Exit::Path(path) = exit {
            session.leaves_on(direction, path);
        }
        let hasten = session.tcp != was && session.tcp.is_some_and(TcpState::is_over);
        let (key, answer) = (*session.key(direction), *session.key(direction.opposite()));
        if !key.comes_from_where(&answer) {
            wire::translate(packet, parsed, Side::Source, answer.destination(), answer.destination_port);
        }
        if !key.goes_where(&answer) {
            wire::translate(packet, parsed, Side::Destination, answer.source(), answer.source_port);
        }
        if hasten {
            self.sessions.hasten(at);
        }
        wire::decrement_ttl(packet, parsed);
        wire::clamp_mss(packet, parsed, segment_mtu);
        self.leave(exit, packet, parsed, mtu, now, out).map_err(|reason| Refusal::new(Some(tenant), reason))
    }

    /// Where a packet is to be shed, it is a large one: calls and acknowledgements are not what the queue is made of. Its
    /// mark or loss tells its sender; of a super-packet one segment is enough. `None` if it is the packet that is lost.
    fn shed_from<'a>(
        &mut self,
        packet: &'a mut [u8],
        parsed: &mut Parsed,
        tenant: TenantId,
    ) -> Option<&'a mut [u8]> {
        if !self.shed || parsed.len < SHED_BYTES {
            return Some(packet);
        }
        self.shed = false;
        if wire::mark_congested(packet, parsed) {
            return Some(packet);
        }
        if parsed.on_the_wire(packet).0 < 2 {
            return None;
        }
        self.drops.count(Some(tenant), DropReason::QueueStanding, 1);
        wire::lose_last(packet, parsed);
        Some(&mut packet[..parsed.len])
    }

    /// Which way out: answers take the path the flow last arrived on, everything else the class's order of paths.
    fn choose_exit(&self, session: &Session, direction: Direction) -> Result<Exit, DropReason> {
        match session.to(direction) {
            NextHop::Device(device) => Ok(Exit::Device(device)),
            NextHop::Tunnel(site) => {
                let arrived_on = match direction {
                    Direction::Forward => None,
                    Direction::Reverse => session.arrived_on(Direction::Forward),
                };
                self.choose_path(session.tenant, site, session.class(), arrived_on)
                    .map(Exit::Path)
                    .ok_or(DropReason::NoPath)
            }
        }
    }

    fn choose_path(
        &self,
        tenant: TenantId,
        site: SiteId,
        class: ClassId,
        arrived_on: Option<PathId>,
    ) -> Option<PathId> {
        let order = self.generation.tenants.get(tenant)?.sites.get(site)?.order(class);
        path::select(order, arrived_on, |id| self.team.standing(id).fitness)
    }

    /// The largest packet of this one's family that goes through. IPv6 must find 1,280 bytes everywhere (RFC 8200
    /// section 5); where a path has less, the datagram around it is fragmented.
    fn mtu(&self, exit: Exit, parsed: &Parsed) -> u16 {
        let mtu = match exit {
            Exit::Device(device) => self.generation.devices.get(device).map_or(u16::MAX, |spec| spec.mtu),
            Exit::Path(id) => self
                .generation
                .transports
                .get(self.team.standing(id).transport)
                .map_or(DEFAULT_INNER_MTU, |transport| transport.inner_mtu),
        };
        if parsed.source.is_ipv6() { mtu.max(IPV6_MIN_MTU) } else { mtu }
    }

    // 5 Leave.

    /// Sends a packet that is ready; in fragments, if it is larger than `mtu`.
    fn leave(
        &mut self,
        exit: Exit,
        packet: &mut [u8],
        parsed: &Parsed,
        mtu: u16,
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        if let Exit::Path(id) = exit {
            let Some(path) = self.paths.get_mut(id) else {
                return self.leave_elsewhere(id, packet, parsed.segment, mtu, out);
            };
            if path.prober.traffic(now.instant) {
                self.paths.schedule(id);
            }
        }
        let mut outcome = Ok(());
        match exit {
            Exit::Device(device) if parsed.segment > 0 => {
                wire::prepare(packet, parsed);
                out.push_super(device, packet, parsed);
            }
            Exit::Path(path) if parsed.segment > 0 => {
                let mut segment = std::mem::take(&mut self.segment);
                // It fails where packets wait for a session and there is no room: the rest would find none either.
                wire::split(packet, parsed, &mut segment, |segment| {
                    outcome = outcome.and_then(|()| self.seal_fitting(path, segment, mtu, out));
                });
                self.segment = segment;
            }
            Exit::Device(_) if packet.len() > usize::from(mtu) => {
                wire::fragment_v4(packet, parsed, mtu, |fragment| {
                    outcome = outcome.and_then(|()| self.put(exit, fragment, out));
                });
            }
            Exit::Device(device) => out.push_segment(device, packet, parsed),
            Exit::Path(path) => return self.seal_fitting(path, packet, mtu, out),
        }
        outcome
    }

    /// The path is another worker's: that one does the rest.
    fn leave_elsewhere(
        &self,
        path: PathId,
        packet: &[u8],
        segment: u16,
        mtu: u16,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        let spec = self.generation.paths.get(path).ok_or(DropReason::NoPath)?;
        let owner = self.team.worker_of(spec.site);
        if owner == self.id {
            return Err(DropReason::NoPath);
        }
        out.hand_over(owner, Handover::Leaving { path, mtu, segment }, packet);
        Ok(())
    }

    fn put(&mut self, exit: Exit, packet: &[u8], out: &mut Outbound) -> Result<(), DropReason> {
        match exit {
            Exit::Device(device) => {
                out.push_packet(device, packet);
                Ok(())
            }
            Exit::Path(path) if self.paths.get(path).is_none() => {
                self.leave_elsewhere(path, packet, 0, u16::MAX, out)
            }
            Exit::Path(path) => self.seal_into(path, packet, out),
        }
    }

    /// Seals a packet; in fragments, if it is larger than `mtu`.
    fn seal_fitting(
        &mut self,
        path: PathId,
        packet: &[u8],
        mtu: u16,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        if packet.len() <= usize::from(mtu) {
            return self.seal_into(path, packet, out);
        }
        let parsed = wire::parse_ip(packet)?;
        let mut outcome = Ok(());
        wire::fragment_v4(packet, &parsed, mtu, |fragment| {
            outcome = outcome.and_then(|()| self.seal_into(path, fragment, out));
        });
        outcome
    }

    /// Seals `packet` into the path's tunnel, or has it wait for a session there.
    fn seal_into(&mut self, id: PathId, packet: &[u8], out: &mut Outbound) -> Result<(), DropReason> {
        let path = self.paths.get_mut(id).ok_or(DropReason::NoPath)?;
        let Endpoint { transport, address } = path.tunnel.endpoint().ok_or(DropReason::NoPath)?;
        out.write_datagram(transport, address, buffer_for(packet.len()), |room| {
            match path.tunnel.seal(packet, room) {
                Sealed::Datagram(len) => {
                    path.sent.count(packet.len());
                    (Some(len), Ok(()))
                }
                Sealed::Waiting(handshake) => (handshake, Ok(())),
                Sealed::QueueFull => (None, Err(DropReason::TunnelQueueFull)),
            }
        })
    }

    /// Counts a packet that goes no further, and answers it where its sender should know.
    fn settle(
        &mut self,
        refusal: Refusal,
        arrival: Arrival,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) {
        self.drops.count(refusal.tenant, refusal.reason, parsed.on_the_wire(packet).0);
        let error = match refusal.reason {
            DropReason::TtlExpired => IcmpError::TimeExceeded,
            DropReason::TooBig => IcmpError::TooBig { mtu: refusal.mtu },
            DropReason::AclRejected(_) => IcmpError::Prohibited,
            DropReason::NoRoute if arrival.tenant.is_some() => IcmpError::NoRoute,
            _ => return,
        };
        if !wire::may_answer(parsed) || !self.answers.take(now.instant) {
            return;
        }
        let reset = matches!(error, IcmpError::Prohibited).then(|| wire::tcp_reset(packet, parsed)).flatten();
        let answer = match reset {
            Some(reset) => reset,
            None if parsed.protocol == Protocol::TCP && matches!(error, IcmpError::Prohibited) => return,
            None => wire::icmp_error(packet, parsed, error, self.answer_source(arrival, parsed)),
        };
        let exit = match (arrival.path, arrival.hop) {
            (Some(path), _) => Exit::Path(path),
            (None, NextHop::Device(device)) => Exit::Device(device),
            (None, NextHop::Tunnel(_)) => return,
        };
        if let Err(reason) = self.put(exit, &answer, out) {
            self.drops.count(refusal.tenant, reason, 1);
        }
    }

    /// Towards the internet an error comes from the address that was called: the dummy address tenants see means nothing
    /// out there.
    fn answer_source(&self, arrival: Arrival, parsed: &Parsed) -> (std::net::Ipv4Addr, std::net::Ipv6Addr) {
        let mut source = (self.generation.icmp_source.v4, self.generation.icmp_source.v6);
        if arrival.zone == Zone::INTERNET {
            match parsed.destination {
                IpAddr::V4(v4) => source.0 = v4,
                IpAddr::V6(v6) => source.1 = v6,
            }
        }
        source
    }

    // Timers.

    fn work_path(&mut self, id: PathId, now: Now, out: &mut Outbound) {
        let Some(path) = self.paths.get_mut(id) else { return };
        let mut message = [0; 256];
        let endpoint = path.tunnel.endpoint();
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
        let (tenant, probed) = (path.spec.tenant, path.probed);
        if lost > 0 {
            self.drops.count(Some(tenant), DropReason::NoPath, lost);
        }
        if probed {
            self.work_prober(id, now, out);
        }
        self.paths.publish(id);
    }

    fn work_prober(&mut self, id: PathId, now: Now, out: &mut Outbound) {
        while let Some(path) = self.paths.get_mut(id) {
            let action = if path.tunnel.has_session() {
                path.prober.poll(now.instant)
            } else {
                path.prober.lost_session()
            };
            match action {
                None => return,
                Some(Action::Send { sequence }) => {
                    if let Err(reason) = self.seal_into(id, &path::request(sequence, now), out) {
                        self.drops.count(None, reason, 1);
                    }
                }
                Some(change) => self.log_change(id, change),
            }
        }
    }

    fn log_change(&self, id: PathId, action: Action) {
        let path = self.generation.names.site_and_path(id);
        match action {
            Action::CameUp => tracing::info!(path, "path is up"),
            Action::WentDown => tracing::warn!(path, "path is down"),
            Action::Send { .. } => {}
        }
    }

    fn end_session(&mut self, at: SessionRef, reason: EndReason, now: Now) {
        self.records.extend(self.sessions.remove(at, reason, now));
    }
}

impl Refusal {
    fn new(tenant: Option<TenantId>, reason: DropReason) -> Refusal {
        Refusal { tenant, reason, mtu: 0 }
    }
}

/// Bounds what strangers can make us send.
struct TokenBucket {
    tokens: u64,
    filled: Instant,
}

impl TokenBucket {
    fn take(&mut self, now: Instant) -> bool {
        const EACH: Duration = Duration::from_nanos(1_000_000_000 / ANSWERS_PER_SECOND);
        let earned = now.since(self.filled).as_nanos() / EACH.as_nanos();
        if earned >= u128::from(ANSWER_BURST) {
            *self = TokenBucket { tokens: ANSWER_BURST, filled: now };
        } else {
            self.tokens = (self.tokens + earned as u64).min(ANSWER_BURST);
            self.filled += EACH * earned as u32;
        }
        let has = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        has
    }
}

fn is_probe(packet: &[u8]) -> bool {
    packet.len() >= 40 && packet[0] >> 4 == 6 && packet[24..40] == PROBE_ADDRESS.octets()
}

/// What tells a datagram from others: in IPv4 the protocol too (RFC 791 section 3.2), in IPv6 not (RFC 8200 section 4.5),
/// where what follows the fragment header may be an option in one fragment and unknown in the next.
fn datagram_key(zone: Zone, parsed: &Parsed, id: u32) -> DatagramKey {
    let protocol = if parsed.source.is_ipv4() { parsed.protocol } else { IPV6_FRAGMENT };
    DatagramKey { zone, source: parsed.source, destination: parsed.destination, protocol, id }
}

/// Lets `owner` go on with a packet that has come here.
fn hand_over(owner: u16, arrival: Arrival, packet: &[u8], parsed: &Parsed, out: &mut Outbound) -> Fate {
    let Arrival { zone, hop, path, .. } = arrival;
    out.hand_over(owner, Handover::Arrived { zone, hop, path, segment: parsed.segment }, packet);
    Fate::HandedOver
}
