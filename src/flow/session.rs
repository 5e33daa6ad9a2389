//! A session: one bidirectional flow with its verdict, translation, class and counters.
//!
//! The translation is not stored: it is the difference between the two keys. A packet that matches one key leaves as
//! the other key turned round.

use super::record::{DirectionRecord, EndReason, FlowRecord};
use super::tcp::TcpState;
use crate::model::{
    ClassId, Direction, End, FlowKey, Instant, NextHop, Now, PathId, Protocol, RuleId, TenantId,
};
use std::net::IpAddr;
use std::time::Duration;

/// UDP (RFC 4787 REQ-5: 5 minutes recommended) and whatever has no states either.
const UDP_IDLE: Duration = Duration::from_secs(5 * 60);
/// ICMP queries (RFC 5508 REQ-2: not less than 60 s).
const ICMP_IDLE: Duration = Duration::from_secs(60);

/// A bidirectional flow.
#[derive(Clone, Debug)]
pub struct Session {
    /// Unique for the life of the process.
    pub id: u64,
    /// By direction: as packets arrive.
    pub keys: [FlowKey; 2],
    pub plan: Plan,
    pub tenant: TenantId,
    /// The source is translated: `keys[Reverse]`'s destination is a pool's address, its port taken from the pool.
    pub translated: bool,
    pub tcp: Option<TcpState>,
    /// DSCP of the first packet.
    pub dscp: u8,
    /// By direction.
    pub counters: [Counters; 2],
    pub created: Instant,
    pub last_packet: Instant,
    pub last_report: Instant,
}

/// What the slow path decided: run for every packet until a new generation makes it stale. It holds the policy, not
/// the path, so that a failover invalidates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The generation it was made by.
    pub generation: u64,
    pub class: ClassId,
    pub rule: RuleId,
    /// Who owns each end: the initiator, the responder.
    pub ends: [End; 2],
    /// Where each end physically is; a packet comes from its side's and goes to the other's.
    pub hops: [NextHop; 2],
}

/// What went in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    /// IP bytes as they arrived.
    pub bytes: u64,
    /// The path the last packet came by.
    pub arrived_on: Option<PathId>,
    /// The path the last packet left by.
    pub left_on: Option<PathId>,
    /// What the last record told.
    reported_packets: u64,
    reported_bytes: u64,
    /// Of the packets since the last record.
    first: Instant,
    last: Instant,
    tcp_flags: u8,
}

impl Plan {
    /// Where a packet in `direction` must come from.
    pub fn from(&self, direction: Direction) -> NextHop {
        self.hops[direction as usize]
    }

    /// Where it goes.
    pub fn to(&self, direction: Direction) -> NextHop {
        self.hops[direction.opposite() as usize]
    }
}

impl Session {
    /// The key under which packets of `direction` arrive.
    pub fn key(&self, direction: Direction) -> &FlowKey {
        &self.keys[direction as usize]
    }

    /// Source and destination that a packet of `direction` leaves with.
    pub fn leaving(&self, direction: Direction) -> ((IpAddr, u16), (IpAddr, u16)) {
        let answer = self.key(direction.opposite());
        ((answer.destination(), answer.destination_port), (answer.source(), answer.source_port))
    }

    /// The pool's address and port, if the session has one.
    pub fn binding(&self) -> Option<(IpAddr, u16)> {
        self.translated.then(|| self.leaving(Direction::Forward).0)
    }

    /// Counts packets and their bytes that arrived on `path`, and follows TCP.
    pub fn count(
        &mut self,
        direction: Direction,
        (packets, bytes): (u64, u64),
        tcp_flags: u8,
        path: Option<PathId>,
        now: Now,
    ) {
        let counters = &mut self.counters[direction as usize];
        if counters.packets == counters.reported_packets {
            counters.first = now.instant;
        }
        counters.last = now.instant;
        counters.packets += packets;
        counters.bytes += bytes;
        counters.tcp_flags |= tcp_flags;
        counters.arrived_on = path;
        self.last_packet = now.instant;
        self.tcp = self.tcp.map(|state| state.next(direction, tcp_flags));
    }

    /// How long it is kept without a packet.
    pub fn idle_timeout(&self) -> Duration {
        match (self.tcp, self.keys[0].protocol) {
            (Some(state), _) => state.idle_timeout(),
            (None, Protocol::ICMP | Protocol::ICMPV6) => ICMP_IDLE,
            (None, _) => UDP_IDLE,
        }
    }

    /// When it ends unless a packet comes.
    pub fn deadline(&self) -> Instant {
        self.last_packet + self.idle_timeout()
    }

    /// Why it ends when its deadline passes.
    pub fn end_reason(&self) -> EndReason {
        if self.tcp.is_some_and(TcpState::is_over) { EndReason::EndOfFlow } else { EndReason::IdleTimeout }
    }

    /// What went since the last record; the next record begins here.
    pub fn take_record(&mut self, end_reason: EndReason, now: Now) -> FlowRecord {
        self.last_report = now.instant;
        let directions = self.counters.each_mut().map(|counters| counters.take(now));
        FlowRecord {
            session: self.id,
            tenant: self.tenant,
            key: self.keys[0],
            reply_key: self.keys[1],
            initiator: self.plan.ends[0],
            responder: self.plan.ends[1],
            class: self.plan.class,
            rule: self.plan.rule,
            dscp: self.dscp,
            generation: self.plan.generation,
            directions,
            end_reason,
        }
    }

    /// Whether anything went since the last record.
    pub fn has_news(&self) -> bool {
        self.counters.iter().any(|counters| counters.packets > counters.reported_packets)
    }
}

impl Counters {
    fn take(&mut self, now: Now) -> DirectionRecord {
        let packets = self.packets - self.reported_packets;
        let (first, last) = if packets > 0 { (self.first, self.last) } else { (now.instant, now.instant) };
        let record = DirectionRecord {
            packets,
            bytes: self.bytes - self.reported_bytes,
            first_unix_millis: now.unix_millis_at(first),
            last_unix_millis: now.unix_millis_at(last),
            tcp_flags: self.tcp_flags,
            arrived_on: self.arrived_on,
            left_on: self.left_on,
        };
        self.reported_packets = self.packets;
        self.reported_bytes = self.bytes;
        self.tcp_flags = 0;
        record
    }
}
