//! Forwarding: 1 parse, 2 look up, in groups, 3 run the plan: choose the way out, count, translate. ICMP errors and later
//! fragments find their session in their own ways.

use super::capturing::see_found;
use super::moves::ranking;
use super::{Arrival, Arrived, Exit, Fate, GROUP, Packet, Refusal, Worker};
use crate::flow::{
    DatagramKey, EndReason, SAMPLE_BYTES, Sample, Sampler, Session, SessionRef, TcpState, Trail, Translation,
};
use crate::model::{
    Direction, DropReason, FlowKey, NextHop, Now, PathId, Protocol, Remediation, Resilience, SiteId,
    TenantId, Zone,
};
use crate::path::{self, Bond, Candidate, SHIM_BYTES};
use crate::tables::Site;
use crate::wire::{self, Handover, Outbound, Parsed, Side, Upper};
use std::net::IpAddr;

/// The inner MTU of a path whose transport is not known yet: Ethernet's less WireGuard's worst case.
const DEFAULT_INNER_MTU: u16 = 1_420;
const IPV6_MIN_MTU: u16 = 1_280;
/// Smaller packets are not shed.
const SHED_BYTES: usize = 512;
/// The fragment header's own number (RFC 8200 section 4.5).
const IPV6_FRAGMENT: Protocol = Protocol(44);

impl Worker {
    // 3 Forward.

    pub(super) fn look_at<'a>(&mut self, arrived: Arrived<'a>) -> Option<Packet<'a>> {
        let Arrived { arrival, packet, segment } = arrived;
        match wire::parse_super(packet, segment) {
            Ok(parsed) => {
                let packet = &mut packet[..parsed.len];
                if self.sees_inner {
                    self.see_arrived(arrival, packet, &parsed);
                }
                let key = parsed.key(packet, arrival.zone);
                Some(Packet { arrival, packet, parsed, key })
            }
            Err(reason) => {
                self.drops.count(arrival.tenant, reason, 1);
                None
            }
        }
    }

    /// Forwards a group of packets: their sessions are looked up together, so that they are fetched from memory together.
    pub(super) fn forward_all(&mut self, group: &mut [Option<Packet<'_>>], now: Now, out: &mut Outbound) {
        // Packets come in bursts of a flow: a run of them is one key.
        let mut keys = [FlowKey::NONE; GROUP];
        let mut runs = 0;
        let mut run_of = [0; GROUP];
        for (packet, run) in group.iter().flatten().zip(&mut run_of) {
            let key = packet.key.unwrap_or(FlowKey::NONE);
            if runs == 0 || keys[runs - 1] != key {
                keys[runs] = key;
                runs += 1;
            }
            *run = runs - 1;
        }
        let mut found = [None; GROUP];
        self.sessions.lookup_batch(&keys[..runs], &mut found[..runs]);
        for (packet, run) in group.iter_mut().flatten().zip(run_of) {
            self.forward(packet, found[run], now, out);
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
            Upper::IcmpError => self.forward_error(arrival, packet, parsed, now, out),
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
            Err(refusal) if self.take_echo_from_outside(&refusal, arrival, packet, parsed, now, out) => {
                self.forwarded.add(parsed.on_the_wire(packet));
            }
            Err(refusal) if self.is_for_the_box(&refusal, arrival, packet, parsed) => {
                self.give_back(refusal, arrival, packet, parsed, now, out);
            }
            Err(refusal) => {
                if let Some(key) = key {
                    self.tell_drop(&key, refusal.reason, parsed.on_the_wire(packet).0, now);
                }
                self.settle(refusal, arrival, packet, parsed, now, out);
            }
        }
    }

    /// Whether what no session knows is for the box itself, which shares its address with tenants' sessions.
    fn is_for_the_box(&self, refusal: &Refusal, arrival: Arrival, packet: &[u8], parsed: &Parsed) -> bool {
        arrival.zone == Zone::INTERNET
            && matches!(refusal.reason, DropReason::NoSession | DropReason::FragmentUnknown)
            && self.generation.internet.lookup(parsed.destination(packet)).is_some_and(|prefix| prefix.shared)
    }

    /// Lets the kernel have what came from it by mistake, as it came.
    fn give_back(
        &mut self,
        refusal: Refusal,
        arrival: Arrival,
        packet: &mut [u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) {
        let NextHop::Device(device) = arrival.hop else { return };
        match self.leave(Exit::Device(device), packet, parsed, u16::MAX, now, out) {
            Ok(()) => self.forwarded.add(parsed.on_the_wire(packet)),
            Err(reason) => self.drops.count(refusal.tenant, reason, parsed.on_the_wire(packet).0),
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
        let datagram =
            parsed.fragment.map(|fragment| datagram_key(arrival.zone, packet, parsed, fragment.id));
        let found = match self.find(&key, found, parsed, now)? {
            Some((at, direction)) if self.sessions.get(at).is_some_and(Session::is_canary) => {
                if direction == Direction::Reverse {
                    self.take_canary(at, packet, parsed, now, out);
                    return Ok(Fate::Forwarded);
                }
                // A host of the branch's has begun the same: it goes first.
                self.forget_session(at, EndReason::ForcedEnd, now);
                None
            }
            found => found,
        };
        let (at, direction, is_new) = match found {
            Some((at, direction)) => (at, direction, false),
            None if self.answers_itself(arrival, &key, packet, parsed, now, out)? => {
                return Ok(Fate::Forwarded);
            }
            None => {
                if let Some(owner) = self.elsewhere(arrival, &key) {
                    if let Some(datagram) = datagram {
                        self.fragments.insert(datagram, Trail::Worker(owner), now.instant);
                    }
                    return Ok(hand_over(owner, arrival, packet, parsed, out));
                }
                (self.admit(arrival, &key, packet, parsed, now)?, Direction::Forward, true)
            }
        };
        let outcome = self
            .listen(at, direction, arrival, packet, parsed, now, out)
            .and_then(|()| self.run_plan(at, direction, arrival, packet, parsed, now, out));
        if is_new
            && outcome.is_ok()
            && let Some(session) = self.sessions.get(at)
        {
            self.rules.began(session.plan().rule);
            self.is_let_in(&key);
        }
        match (&outcome, datagram) {
            // Where the first fragment did not pass, nothing is to follow it.
            (Ok(()), Some(datagram)) => {
                let id = self.sessions.get(at).map_or(0, |session| session.id);
                self.fragments.insert(datagram, Trail::Session { at, id, direction }, now.instant);
            }
            // A session begins with a packet that goes somewhere: this one is as if it had never been.
            (Err(_), _) if is_new => {
                self.forget_session(at, EndReason::ForcedEnd, now);
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
        let embedded = parsed.embedded(packet).ok_or(lost)?;
        let key = embedded.answering_key(arrival.zone);
        let Some((at, direction)) = self.sessions.lookup(&key) else {
            let owner = self.elsewhere(arrival, &key).ok_or(lost)?;
            return Ok(hand_over(owner, arrival, packet, parsed, out));
        };
        self.bring_up_to_date(at, now)?;
        let session = self.sessions.get(at).ok_or(lost)?;
        if self.sees_inner {
            see_found(&mut self.captures, &self.generation, session.tenant, arrival, packet, parsed);
        }
        if session.is_canary() {
            return Ok(Fate::Forwarded);
        }
        let refuse = |reason| Refusal::new(Some(session.tenant), reason);
        let reporter = parsed.source(packet);
        // Whoever reports it, a host or a router on the way, must be on the side the packet went to.
        let side = session.side(direction);
        if session.from(direction) != arrival.hop || !self.may_report(side, reporter, arrival.hop) {
            return Err(refuse(DropReason::SourceNotAllowed));
        }
        if parsed.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let exit = self.choose_exit(session, direction).map_err(refuse)?;
        let across = session.key(direction).changes_family(session.key(direction.opposite()));
        let mtu = self.mtu(exit, parsed.ipv4 != across);
        if across {
            let change = self.error_across(session, direction, arrival, packet, parsed, mtu).ok_or(lost)?;
            let tenant = session.tenant;
            return self
                .leave_error_across(exit, &change, packet, parsed, now, out)
                .map_err(|reason| Refusal::new(Some(tenant), reason))
                .map(|()| Fate::Forwarded);
        }
        // Errors are small (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4c); in fragments the next box would not know one.
        if parsed.len > usize::from(mtu) {
            return Err(refuse(DropReason::TooBig));
        }
        let (source, destination) = session.leaving(direction);
        // Towards the internet it comes from the address that was called: neither a host's inside address nor the dummy
        // one of a box of ours means anything out there. Nor does one tenant's address in another.
        let [near, far] = [direction, direction.opposite()].map(|direction| session.key(direction).zone);
        let hides_source = match far.as_tenant() {
            None => session.translation != Translation::None || self.is_ours(reporter),
            Some(_) => near.as_tenant().is_some() && near != far && !self.is_ours(reporter),
        };
        wire::translate_embedded(packet, parsed, &embedded, Side::Source, destination.0, destination.1);
        wire::translate_embedded(packet, parsed, &embedded, Side::Destination, source.0, source.1);
        if hides_source {
            wire::translate(packet, parsed, Side::Source, source.0, 0);
        }
        wire::translate(packet, parsed, Side::Destination, destination.0, 0);
        wire::decrement_ttl(packet, parsed);
        let tenant = session.tenant;
        if self.sees_inner && matches!(exit, Exit::Device(_)) {
            self.see_leaving(Some(tenant), exit, packet, parsed);
        }
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
        let datagram =
            datagram_key(arrival.zone, packet, parsed, parsed.fragment.map_or(0, |fragment| fragment.id));
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
    pub(super) fn run_plan(
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
        if self.sees_inner {
            see_found(&mut self.captures, &self.generation, tenant, arrival, packet, parsed);
        }
        let refuse = |reason| Refusal::new(Some(tenant), reason);
        if session.from(direction) != arrival.hop {
            return Err(refuse(DropReason::SourceNotAllowed));
        }
        if parsed.ttl <= 1 {
            return Err(refuse(DropReason::TtlExpired));
        }
        let has = session.left_on(direction);
        let exit = match (self.choose_exit(session, direction).map_err(refuse)?, has) {
            (Exit::Path(path, class), Some(has)) if has != path => {
                Exit::Path(self.goes_over(at, direction, (has, path), now), class)
            }
            (exit, _) => exit,
        };
        let packet =
            self.shed_from(packet, parsed, tenant).ok_or_else(|| refuse(DropReason::QueueStanding))?;
        let Some(session) = self.sessions.get(at) else { return Ok(()) };
        let (key, answer) = (*session.key(direction), *session.key(direction.opposite()));
        let across = key.changes_family(&answer);
        let mtu = self.mtu(exit, parsed.ipv4 != across);
        let fits = if across { wire::mtu_across(parsed, mtu) } else { mtu };
        // Whoever made a super-packet knows nothing of this path's MTU: a segment can be too big like any packet.
        if parsed.largest(packet) > usize::from(fits) && parsed.dont_fragment {
            return Err(Refusal { tenant: Some(tenant), reason: DropReason::TooBig, mtu: fits });
        }
        let class = session.class();
        let segment_mtu = arrival.path.map_or(mtu, |path| {
            let came_by = self.mtu(Exit::Path(path, class), parsed.ipv4);
            mtu.min(if across { Worker::segment_mtu_across(parsed, came_by) } else { came_by })
        });
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        let class = session.class();
        let was = session.tcp;
        let segment = parsed.tcp_segment(packet);
        let counts = parsed.on_the_wire(packet);
        let came_by = session.arrived_on(direction);
        session.count(direction, counts, segment, arrival.path, now);
        if let Some(outlet) = self.paths.outlet_mut() {
            if let NextHop::Device(device) = arrival.hop {
                outlet.carries(device, false, counts, now.instant);
            }
            if let Exit::Device(device) = exit {
                outlet.carries(device, true, counts, now.instant);
            }
        }
        if let Exit::Path(path, _) = exit {
            // Its own would be the one that it came by, and that one is there: it is not good enough.
            let came_by = session.arrived_on(Direction::Forward).filter(|_| direction == Direction::Reverse);
            if came_by
                .is_some_and(|came_by| came_by != path && self.team.standing(came_by).fitness.is_alive())
                && session.left_on(direction) != Some(path)
            {
                self.returns_overridden += 1;
            }
            session.leaves_on(direction, path);
        }
        let hasten = session.tcp != was && session.tcp.is_some_and(TcpState::is_over);
        if self.sampler.chooses(counts.0) {
            let sample = sample_of(session, direction, packet, parsed, &self.sampler);
            self.samples.push(sample);
        }
        if hasten {
            self.sessions.hasten(at);
        }
        if let (Some(from), Some(to)) = (came_by, arrival.path)
            && from != to
        {
            self.comes_by_another(at, direction, (from, to), now);
        }
        if let (Some(from), Exit::Path(to, _)) = (has, exit)
            && from != to
        {
            self.leaves_by_another(at, direction, (from, to), now);
        }
        if let Some(dscp) = self.generation.dscp.get(class) {
            wire::set_dscp(packet, *dscp);
        }
        if across {
            return self
                .leave_across(exit, &answer, packet, parsed, (mtu, segment_mtu), now, out)
                .map_err(|reason| Refusal::new(Some(tenant), reason));
        }
        if !key.comes_from_where(&answer) {
            wire::translate(packet, parsed, Side::Source, answer.destination(), answer.destination_port);
        }
        if !key.goes_where(&answer) {
            wire::translate(packet, parsed, Side::Destination, answer.source(), answer.source_port);
        }
        wire::decrement_ttl(packet, parsed);
        wire::clamp_mss(packet, parsed, segment_mtu);
        if self.sees_inner && matches!(exit, Exit::Device(_)) {
            self.see_leaving(Some(tenant), exit, packet, parsed);
        }
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
        if wire::mark_congested(packet) {
            return Some(packet);
        }
        if parsed.on_the_wire(packet).0 < 2 {
            return None;
        }
        self.drops.count(Some(tenant), DropReason::QueueStanding, 1);
        wire::lose_last(packet, parsed);
        Some(&mut packet[..parsed.len])
    }

    /// Which way out: answers take the path the flow last arrived on, everything else the class's order of paths, or the one
    /// that it has taken so far, by the class's resilience.
    fn choose_exit(&self, session: &Session, direction: Direction) -> Result<Exit, DropReason> {
        match session.to(direction) {
            NextHop::Device(device) if self.is_forbidden(session, device) => Err(DropReason::SlaViolated),
            NextHop::Device(device) => Ok(Exit::Device(device)),
            NextHop::Tunnel(site) => {
                self.choose_path(session, direction, site).map(|path| Exit::Path(path, session.class()))
            }
        }
    }

    fn choose_path(
        &self,
        session: &Session,
        direction: Direction,
        site: SiteId,
    ) -> Result<PathId, DropReason> {
        let tenant = session.side(direction.opposite());
        let tenant = self.generation.tenants.get(tenant).ok_or(DropReason::NoPath)?;
        let paths = tenant.sites.get(site).ok_or(DropReason::NoPath)?;
        let class = session.class();
        let (ranking, sla) = (ranking(paths, class), paths.sla(class));
        let fitness = |id| self.team.standing(id).fitness_for(sla);
        let bond = match (direction, paths.resilience(class)) {
            (Direction::Forward, Resilience::Revertible) => None,
            (Direction::Forward, resilience) => session.left_on(direction).zip(Some(resilience)),
            (Direction::Reverse, resilience) => session.arrived_on(Direction::Forward).zip(Some(resilience)),
        };
        let bond = match bond {
            None => Bond::Free,
            Some((path, Resilience::None)) => Bond::Keeps(path),
            Some((path, _)) => Bond::Prefers(path),
        };
        let is_refused = |path| {
            let insists = sla.filter(|sla| tenant.insists(*sla));
            insists.is_some_and(|sla| self.team.standing(path).is_avoided(sla))
        };
        if session.translation == Translation::Beyond
            && let Some(path) = self.keep_to_its_pop(session, direction, paths, bond, &fitness)
        {
            return if is_refused(path) { Err(DropReason::SlaViolated) } else { Ok(path) };
        }
        path::steer(ranking, session.id, bond, fitness, is_refused)
    }

    /// A session whose binding is at one of several PoPs is lost at another: it takes what leads to its own, as long as that is
    /// alive. `None` if nothing is, or it is free to go.
    fn keep_to_its_pop(
        &self,
        session: &Session,
        direction: Direction,
        paths: &Site,
        bond: Bond,
        fitness: &impl Fn(PathId) -> Candidate,
    ) -> Option<PathId> {
        let has = match direction {
            Direction::Forward => session.left_on(direction),
            Direction::Reverse => session.arrived_on(Direction::Forward),
        };
        let pop = paths.pops.get(has?)?;
        let there =
            |path| if paths.pops.get(path) == Some(pop) { fitness(path) } else { Candidate::Unreachable };
        let ranking = ranking(paths, session.class());
        let chosen = path::steer(ranking, session.id, bond, there, |_| false).ok()?;
        fitness(chosen).is_alive().then_some(chosen)
    }

    /// The largest packet of a family that goes through, with room for what tells its copies from each other if it may be
    /// sent twice. IPv6 must find 1,280 bytes everywhere (RFC 8200 section 5); where a path has less, the datagram around it is
    /// fragmented.
    pub(super) fn mtu(&self, exit: Exit, ipv4: bool) -> u16 {
        let mtu = match exit {
            Exit::Device(device) => self.generation.devices.get(device).map_or(u16::MAX, |spec| spec.mtu),
            Exit::Path(id, class) => {
                let transport = self.generation.transports.get(self.team.standing(id).transport);
                let mtu = transport.map_or(DEFAULT_INNER_MTU, |transport| transport.inner_mtu);
                match self.generation.remediation(id, class) {
                    Remediation::None => mtu,
                    _ => mtu.saturating_sub(SHIM_BYTES as u16),
                }
            }
        };
        if ipv4 { mtu } else { mtu.max(IPV6_MIN_MTU) }
    }
}

/// What tells a datagram from others: in IPv4 the protocol too (RFC 791 section 3.2), in IPv6 not (RFC 8200 section 4.5),
/// where what follows the fragment header may be an option in one fragment and unknown in the next.
fn datagram_key(zone: Zone, packet: &[u8], parsed: &Parsed, id: u32) -> DatagramKey {
    let protocol = if parsed.ipv4 { parsed.protocol } else { IPV6_FRAGMENT };
    let (source, destination) = (parsed.source(packet), parsed.destination(packet));
    DatagramKey { zone, source, destination, protocol, id }
}

/// A chosen packet as it arrived, before it is translated.
#[cold]
fn sample_of(
    session: &Session,
    direction: Direction,
    packet: &[u8],
    parsed: &Parsed,
    sampler: &Sampler,
) -> Sample {
    let [initiator, responder] = session.plan().ends;
    let (from, to) = match direction {
        Direction::Forward => (initiator, responder),
        Direction::Reverse => (responder, initiator),
    };
    Sample {
        tenant: session.tenant,
        header: packet[..packet.len().min(parsed.len).min(SAMPLE_BYTES)].to_vec(),
        is_ipv4: parsed.ipv4,
        length: parsed.largest(packet) as u32,
        from,
        arrived_on: session.arrived_on(direction),
        to,
        left_on: session.left_on(direction),
        rate: sampler.rate(),
        pool: sampler.pool(),
    }
}

/// Lets `owner` go on with a packet that has come here.
fn hand_over(owner: u16, arrival: Arrival, packet: &[u8], parsed: &Parsed, out: &mut Outbound) -> Fate {
    let Arrival { zone, hop, path, .. } = arrival;
    out.hand_over(owner, Handover::Arrived { zone, hop, path, segment: parsed.segment }, packet);
    Fate::HandedOver
}
