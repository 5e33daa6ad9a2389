//! A session: one bidirectional flow with its verdict, translation, class and counters.
//!
//! The translation is not stored: it is the difference between the two keys. A packet that matches one key leaves as
//! the other key turned round.
//!
//! There may be millions, in no order that a cache could foresee; so a session is four cache lines, of which a packet
//! touches three: keys and policy in the first two, its direction's counters in the third or the fourth. What only
//! records tell fills the gaps.
//!
//! Sessions that share a NAT binding are a ring ([`super::table`] ties it): the binding is theirs together, and ends with
//! the last of them.

use super::nat::Binding;
use super::record::{DirectionRecord, EndReason, FlowRecord};
use super::tcp::{self, TcpState};
use crate::model::{
    ClassBy, ClassId, DeviceId, Direction, End, FlowKey, HandoffId, Id, Instant, NameSource, NextHop, Now,
    PathId, Protocol, RuleId, SiteId, TenantId, Timeouts,
};
use crate::wire::Segment;
use std::net::IpAddr;
use std::time::Duration;

/// A connection that is over is reported this long after its last segment: as long as a last retransmission may take.
const SETTLED: Duration = Duration::from_secs(10);

/// A bidirectional flow.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Session {
    /// By direction: as packets arrive.
    pub keys: [FlowKey; 2],
    /// Its lower half: nobody is four thousand million commits late.
    generation: u32,
    /// Where each end physically is: the initiator, the responder.
    hops: [PackedHop; 2],
    /// By direction.
    arrived_on: [PackedPath; 2],
    left_on: [PackedPath; 2],
    ends: [PackedEnd; 2],
    pub tenant: TenantId,
    class: ClassId,
    pub tcp: Option<TcpState>,
    pub translation: Translation,
    /// DSCP of the first packet.
    pub dscp: u8,
    told: PackedTold,
    /// Its neighbours in the ring of those that share its binding; itself, if it is alone.
    pub(super) next_sharing: u32,
    forward: Counters,
    /// Unique for the life of the process.
    pub id: u64,
    pub created: Instant,
    reverse: Counters,
    pub(super) last_report: Instant,
    rule: RuleId,
    pub(super) previous_sharing: u32,
}

/// What is translated. What it becomes, the keys say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    None,
    /// The initiator is known outside by an address and port of a pool: `keys[Reverse]`'s destination.
    Source,
    /// The responder is: the initiator has called the address and port of a pool that is bound to it, `keys[Forward]`'s
    /// destination (RFC 4787 section 5).
    Destination,
    /// One or both ends by a fixed rule, which takes nothing of a pool.
    Fixed,
    /// The initiator's address and port are bound to something by the far end of the tunnels: to whoever they let in here,
    /// it is known by them as they are.
    Beyond,
}

/// What the slow path decided: run for every packet until a new generation makes it stale. It holds the policy, not
/// the path, so that a failover invalidates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The generation it was made by.
    pub generation: u64,
    pub class: ClassId,
    /// What told the class.
    pub class_by: ClassBy,
    pub rule: RuleId,
    /// Who owns each end: the initiator, the responder.
    pub ends: [End; 2],
    /// Where each end physically is; a packet comes from its side's and goes to the other's.
    pub hops: [NextHop; 2],
}

impl Plan {
    /// The same for who is called by the other.
    pub fn turned_round(mut self) -> Plan {
        self.ends.reverse();
        self.hops.reverse();
        self
    }
}

/// What went in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    /// IP bytes as they arrived.
    pub bytes: u64,
    /// Since the last record: bytes; and packets, above the TCP flags seen in them.
    new_bytes: u64,
    new_packets_and_flags: u64,
    /// When the first packet since the last record came: milliseconds since that record's time.
    first_ms: u32,
    /// TCP: what this direction has acknowledged, and so expects next of the other.
    acknowledged: u32,
    /// When the last packet came; it outlives the record.
    last: Instant,
}

/// Bits below the new packets, for the TCP flags.
const FLAGS: u32 = 8;

impl Session {
    /// A session of `tenant`'s between `keys` (by direction, as packets arrive), before its first packet is counted; if that
    /// is a TCP segment, `tcp` is its state and what it carries.
    pub fn new(
        tenant: TenantId,
        keys: [FlowKey; 2],
        plan: Plan,
        translation: Translation,
        tcp: Option<(TcpState, Segment)>,
        dscp: u8,
        now: Instant,
    ) -> Session {
        let counters = Counters { last: now, ..Counters::default() };
        let reverse = Counters {
            // What the answer will acknowledge at least.
            acknowledged: tcp.map_or(0, |(_, segment)| tcp::begins_at(&segment)),
            ..counters
        };
        let mut session = Session {
            keys,
            generation: 0,
            hops: [PackedHop(0); 2],
            arrived_on: [PackedPath::NONE; 2],
            left_on: [PackedPath::NONE; 2],
            ends: [PackedEnd(0); 2],
            tenant,
            class: plan.class,
            tcp: tcp.map(|(state, _)| state),
            translation,
            dscp,
            told: PackedTold::new(plan.class_by, 0),
            next_sharing: 0,
            forward: counters,
            id: 0,
            created: now,
            reverse,
            last_report: now,
            rule: plan.rule,
            previous_sharing: 0,
        };
        session.set_plan(&plan);
        session
    }

    /// What the slow path decided.
    pub fn plan(&self) -> Plan {
        Plan {
            generation: u64::from(self.generation),
            class: self.class,
            class_by: self.told.class_by(),
            rule: self.rule,
            ends: self.ends.map(PackedEnd::get),
            hops: self.hops.map(PackedHop::get),
        }
    }

    /// The branch whose session it is: who began it, or else who was called.
    pub fn branch(&self) -> Option<SiteId> {
        self.ends.iter().find_map(|end| match end.get() {
            End::Site(site) => Some(site),
            End::Handoff(_) | End::Lan | End::Tenant(_) => None,
        })
    }

    /// Replaces what the slow path decided.
    pub(super) fn set_plan(&mut self, plan: &Plan) {
        self.generation = plan.generation as u32;
        self.class = plan.class;
        self.told = PackedTold::new(plan.class_by, self.told.flags());
        self.rule = plan.rule;
        self.ends = plan.ends.map(PackedEnd::new);
        self.hops = plan.hops.map(PackedHop::new);
    }

    /// Whether the plan was made by an older generation than `generation`.
    pub fn is_stale(&self, generation: u64) -> bool {
        self.generation != generation as u32
    }

    /// Its app class.
    pub fn class(&self) -> ClassId {
        self.class
    }

    /// Whether its first bytes are being looked into.
    #[inline]
    pub fn is_inspected(&self) -> bool {
        self.told.0 & PackedTold::INSPECTED != 0
    }

    /// Has its first bytes looked into, or no longer.
    pub fn set_inspected(&mut self, inspected: bool) {
        self.told = self.told.with(PackedTold::INSPECTED, inspected);
    }

    /// Whether it is a probe of ours.
    #[inline]
    pub fn is_canary(&self) -> bool {
        self.told.0 & PackedTold::CANARY != 0
    }

    /// It is a probe of ours.
    pub fn set_canary(&mut self) {
        self.told = self.told.with(PackedTold::CANARY, true);
    }

    /// Where a packet in `direction` must come from.
    pub fn from(&self, direction: Direction) -> NextHop {
        self.hops[direction as usize].get()
    }

    /// Where it goes.
    pub fn to(&self, direction: Direction) -> NextHop {
        self.from(direction.opposite())
    }

    /// The key under which packets of `direction` arrive.
    pub fn key(&self, direction: Direction) -> &FlowKey {
        &self.keys[direction as usize]
    }

    /// Whose network packets of `direction` come from: the session's tenant's, but for the far side of one that has crossed
    /// into another's.
    pub fn side(&self, direction: Direction) -> TenantId {
        self.key(direction).zone.as_tenant().unwrap_or(self.tenant)
    }

    /// Source and destination that a packet of `direction` leaves with.
    pub fn leaving(&self, direction: Direction) -> ((IpAddr, u16), (IpAddr, u16)) {
        let answer = self.key(direction.opposite());
        ((answer.destination(), answer.destination_port), (answer.source(), answer.source_port))
    }

    /// The NAT binding it holds, alone or with others.
    pub fn binding(&self) -> Option<Binding> {
        let (inside, outside) = match self.translation {
            Translation::Source | Translation::Beyond => (&self.keys[0], &self.keys[1]),
            Translation::Destination => (&self.keys[1], &self.keys[0]),
            Translation::None | Translation::Fixed => return None,
        };
        Some(Binding {
            zone: inside.zone,
            protocol: outside.protocol,
            inside: (inside.source(), inside.source_port),
            outside: (outside.destination(), outside.destination_port),
            far_zone: outside.zone,
        })
    }

    /// The far end of a session that holds a binding, as seen from the inside of the translation.
    pub(super) fn remote(&self) -> IpAddr {
        match self.translation {
            Translation::Destination => self.keys[0].source(),
            _ => self.keys[1].source(),
        }
    }

    /// What went in `direction`.
    pub fn counters(&self, direction: Direction) -> &Counters {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Reverse => &self.reverse,
        }
    }

    /// The path that the last packet of `direction` came by.
    pub fn arrived_on(&self, direction: Direction) -> Option<PathId> {
        self.arrived_on[direction as usize].get()
    }

    /// The path that the last packet of `direction` left by.
    pub fn left_on(&self, direction: Direction) -> Option<PathId> {
        self.left_on[direction as usize].get()
    }

    /// A packet of `direction` leaves by `path`.
    pub fn leaves_on(&mut self, direction: Direction, path: PathId) {
        self.left_on[direction as usize] = PackedPath::new(Some(path));
    }

    /// Counts packets and their bytes that arrived on `path`, and follows TCP.
    pub fn count(
        &mut self,
        direction: Direction,
        (packets, bytes): (u64, u64),
        segment: Option<Segment>,
        path: Option<PathId>,
        now: Now,
    ) {
        self.arrived_on[direction as usize] = PackedPath::new(path);
        if let (Some(state), Some(segment)) = (self.tcp, segment) {
            let expected = self.counters(direction.opposite()).acknowledged;
            self.tcp = Some(state.next(direction, &segment, expected, self.counters(direction).acknowledged));
        }
        let last_report = self.last_report;
        let counters = match direction {
            Direction::Forward => &mut self.forward,
            Direction::Reverse => &mut self.reverse,
        };
        if counters.new_packets() == 0 {
            let millis = now.instant.since(last_report).as_millis();
            counters.first_ms = u32::try_from(millis).unwrap_or(u32::MAX);
        }
        counters.last = now.instant;
        counters.packets += packets;
        counters.bytes += bytes;
        counters.new_bytes += bytes;
        counters.new_packets_and_flags += packets << FLAGS;
        if let Some(segment) = segment {
            counters.new_packets_and_flags |= u64::from(segment.flags);
            counters.acknowledged = tcp::acknowledged(&segment, counters.acknowledged);
        }
    }

    /// When a packet last came, in either direction.
    pub fn last_packet(&self) -> Instant {
        self.forward.last.max(self.reverse.last)
    }

    /// How long it is kept without a packet.
    fn idle_timeout(&self, timeouts: &Timeouts) -> Duration {
        match (self.tcp, self.keys[0].protocol) {
            (Some(TcpState::Established), _) => timeouts.tcp_established,
            (Some(_), _) => timeouts.tcp_transitory,
            (None, Protocol::ICMP | Protocol::ICMPV6) => timeouts.icmp,
            (None, Protocol::UDP) => timeouts.udp,
            (None, _) => timeouts.other,
        }
    }

    /// When it ends unless a packet comes.
    pub fn deadline(&self, timeouts: &Timeouts) -> Instant {
        self.last_packet() + self.idle_timeout(timeouts)
    }

    /// When its record is due although it stays: TCP is over, and its ports are kept from others for some time yet.
    pub(super) fn settles(&self) -> Option<Instant> {
        (self.tcp.is_some_and(TcpState::is_over) && self.has_news()).then(|| self.last_packet() + SETTLED)
    }

    /// Whether all there is to tell of it has been told.
    pub(super) fn is_told(&self) -> bool {
        self.tcp.is_some_and(TcpState::is_over) && !self.has_news() && self.last_report > self.created
    }

    /// Why it ends when its deadline passes.
    pub fn end_reason(&self) -> EndReason {
        if self.tcp.is_some_and(TcpState::is_over) { EndReason::EndOfFlow } else { EndReason::IdleTimeout }
    }

    /// What went since the last record; the next record begins here.
    pub fn take_record(&mut self, end_reason: EndReason, now: Now) -> FlowRecord {
        let since = std::mem::replace(&mut self.last_report, now.instant);
        let mut directions = [self.forward.take(since, now), self.reverse.take(since, now)];
        for direction in [Direction::Forward, Direction::Reverse] {
            directions[direction as usize].arrived_on = self.arrived_on(direction);
            directions[direction as usize].left_on = self.left_on(direction);
        }
        let plan = self.plan();
        FlowRecord {
            session: self.id,
            tenant: self.tenant,
            key: self.keys[0],
            reply_key: self.keys[1],
            initiator: plan.ends[0],
            responder: plan.ends[1],
            class: plan.class,
            class_by: plan.class_by,
            name: None,
            rule: plan.rule,
            dscp: self.dscp,
            generation: plan.generation,
            directions,
            end_reason,
            story: None,
        }
    }

    /// Reads from each cache line that a packet in `direction` touches, to have them fetched.
    #[inline]
    pub(super) fn touch(&self, direction: Direction) -> u64 {
        u64::from(self.keys[0].source_port) ^ u64::from(self.generation) ^ self.counters(direction).packets
    }

    /// Whether anything went since the last record.
    pub fn has_news(&self) -> bool {
        self.forward.new_packets() > 0 || self.reverse.new_packets() > 0
    }
}

impl Counters {
    fn new_packets(&self) -> u64 {
        self.new_packets_and_flags >> FLAGS
    }

    fn take(&mut self, last_report: Instant, now: Now) -> DirectionRecord {
        let packets = self.new_packets();
        let first = last_report + Duration::from_millis(self.first_ms.into());
        let (first, last) = if packets > 0 { (first, self.last) } else { (now.instant, now.instant) };
        let record = DirectionRecord {
            packets,
            bytes: self.new_bytes,
            first_unix_millis: now.unix_millis_at(first),
            last_unix_millis: now.unix_millis_at(last),
            tcp_flags: self.new_packets_and_flags as u8,
            arrived_on: None,
            left_on: None,
        };
        (self.new_bytes, self.new_packets_and_flags) = (0, 0);
        record
    }
}

/// A path, or none, in four bytes: the largest number is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedPath(u32);

impl PackedPath {
    const NONE: PackedPath = PackedPath(u32::MAX);

    fn new(path: Option<PathId>) -> PackedPath {
        path.map_or(PackedPath::NONE, |path| PackedPath(path.0))
    }

    fn get(self) -> Option<PathId> {
        (self != PackedPath::NONE).then_some(PathId(self.0))
    }
}

/// What told the class, whether the session's first bytes are being looked into, and whether it is a probe of ours, in a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedTold(u8);

impl PackedTold {
    const INSPECTED: u8 = 1 << 7;
    const CANARY: u8 = 1 << 6;
    /// By their numbers.
    const CLASS_BY: [ClassBy; 8] = [
        ClassBy::Default,
        ClassBy::Rule,
        ClassBy::Port,
        ClassBy::Prefix,
        ClassBy::Name(NameSource::Dns),
        ClassBy::Name(NameSource::TlsSni),
        ClassBy::Name(NameSource::QuicSni),
        ClassBy::Name(NameSource::HttpHost),
    ];

    fn new(class_by: ClassBy, flags: u8) -> PackedTold {
        let number = PackedTold::CLASS_BY.iter().position(|known| *known == class_by).unwrap_or(0);
        PackedTold(number as u8 | flags)
    }

    fn flags(self) -> u8 {
        self.0 & (PackedTold::INSPECTED | PackedTold::CANARY)
    }

    fn with(self, flag: u8, set: bool) -> PackedTold {
        PackedTold(if set { self.0 | flag } else { self.0 & !flag })
    }

    fn class_by(self) -> ClassBy {
        PackedTold::CLASS_BY[usize::from(self.0 & 7)]
    }
}

/// The first number that is no site's.
const NO_SITE: u32 = SiteId::LIMIT as u32;
const NO_HANDOFF: u32 = NO_SITE + 0x1_0000;
const LAN: u32 = NO_HANDOFF + 0x1_0000;

/// An [`End`] in four bytes: a site as it is, a handoff from [`NO_SITE`] on, a tenant from [`NO_HANDOFF`], the LAN behind those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedEnd(u32);

impl PackedEnd {
    fn new(end: End) -> PackedEnd {
        PackedEnd(match end {
            End::Site(site) => site.0,
            End::Handoff(handoff) => NO_SITE + u32::from(handoff.0),
            End::Tenant(tenant) => NO_HANDOFF + u32::from(tenant.0),
            End::Lan => LAN,
        })
    }

    fn get(self) -> End {
        match self.0 {
            site @ ..NO_SITE => End::Site(SiteId(site)),
            handoff @ NO_SITE..NO_HANDOFF => End::Handoff(HandoffId((handoff - NO_SITE) as u16)),
            tenant @ NO_HANDOFF..LAN => End::Tenant(TenantId((tenant - NO_HANDOFF) as u16)),
            LAN.. => End::Lan,
        }
    }
}

/// A [`NextHop`] in four bytes: a site as it is, a device from [`NO_SITE`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedHop(u32);

impl PackedHop {
    fn new(hop: NextHop) -> PackedHop {
        PackedHop(match hop {
            NextHop::Tunnel(site) => site.0,
            NextHop::Device(device) => NO_SITE + u32::from(device.0),
        })
    }

    fn get(self) -> NextHop {
        match self.0 {
            site @ ..NO_SITE => NextHop::Tunnel(SiteId(site)),
            device @ NO_SITE.. => NextHop::Device(DeviceId((device - NO_SITE) as u16)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn a_session_is_four_cache_lines_and_a_packet_touches_three() {
        assert_eq!((size_of::<Option<Session>>(), align_of::<Option<Session>>()), (256, 64));
        assert!(offset_of!(Session, forward) == 128);
        assert!(offset_of!(Session, reverse) == 192);
    }

    #[test]
    fn ends_hops_and_paths_come_back_from_their_four_bytes() {
        let last = SiteId(SiteId::LIMIT as u32 - 1);
        for site in [SiteId(0), SiteId(70_000), last] {
            assert_eq!(PackedEnd::new(End::Site(site)).get(), End::Site(site));
            assert_eq!(PackedHop::new(NextHop::Tunnel(site)).get(), NextHop::Tunnel(site));
        }
        for number in [0, 1, u16::MAX] {
            let (handoff, device) = (HandoffId(number), DeviceId(number));
            assert_eq!(PackedEnd::new(End::Handoff(handoff)).get(), End::Handoff(handoff));
            let tenant = TenantId(number);
            assert_eq!(PackedEnd::new(End::Tenant(tenant)).get(), End::Tenant(tenant));
            assert_eq!(PackedHop::new(NextHop::Device(device)).get(), NextHop::Device(device));
        }
        assert_eq!(PackedEnd::new(End::Lan).get(), End::Lan);
        for class_by in PackedTold::CLASS_BY {
            let told = PackedTold::new(class_by, 0).with(PackedTold::CANARY, true);
            assert_eq!((told.class_by(), told.flags()), (class_by, PackedTold::CANARY));
            assert_eq!(told.with(PackedTold::INSPECTED, true).class_by(), class_by);
        }
        for path in [None, Some(PathId(0)), Some(PathId(u32::MAX - 1))] {
            assert_eq!(PackedPath::new(path).get(), path);
        }
    }
}
