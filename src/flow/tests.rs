//! The session table against a naive model that scans a list.

use super::*;
use crate::model::{
    ClassBy, ClassId, Direction, FlowKey, HandoffId, IdMap, Instant, NextHop, Now, Protocol, RuleId, SiteId,
    TenantId, WORKER_BITS, Zone,
};
use crate::wire::Segment;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const TENANT: TenantId = TenantId(0);
const POOL: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const ACTIVE: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Now {
    Now::default() + Duration::from_secs(seconds)
}

fn session(host: u8, port: u16, translated_port: Option<u16>, now: Now) -> Session {
    session_with(1, host, port, translated_port, now)
}

fn server(server: u8) -> (IpAddr, u16) {
    (IpAddr::from([203, 0, 113, server]), 443)
}

fn session_with(to: u8, host: u8, port: u16, translated_port: Option<u16>, now: Now) -> Session {
    let inner = (IpAddr::from([10, 0, 0, host]), port);
    let server = server(to);
    let forward = FlowKey::new(Zone::tenant(TENANT), Protocol::UDP, inner, server);
    let reverse = match translated_port {
        Some(port) => FlowKey::new(Zone::INTERNET, Protocol::UDP, server, (POOL, port)),
        None => forward.turned_round(Zone::tenant(TENANT)),
    };
    let plan = Plan {
        generation: 1,
        class: ClassId(0),
        class_by: ClassBy::Default,
        rule: RuleId(0),
        ends: [End::Site(SiteId(0)), End::Handoff(HandoffId(0))],
        hops: [NextHop::Tunnel(SiteId(0)), NextHop::Device(crate::model::DeviceId(0))],
    };
    let translation = if translated_port.is_some() { Translation::Source } else { Translation::None };
    Session::new(TENANT, [forward, reverse], plan, translation, None, 0, now.instant)
}

fn table(max: usize) -> SessionTable {
    let mut table = SessionTable::new(0, [1, 2], Instant(0));
    table.configure(max, ACTIVE, IdMap::default());
    table.allow(max);
    table
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8, u8, u16, bool),
    Packet(u8, u8, u16, bool, usize),
    Remove(u8, u8, u16),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = 0u8..4;
    let port = 1_000u16..1_006;
    let flow = || (0u8..3, host.clone(), port.clone());
    let step = prop_oneof![
        4 => (flow(), any::<bool>()).prop_map(|((s, h, p), t)| Step::Open(s, h, p, t)),
        8 => (flow(), any::<bool>(), 20usize..1_500).prop_map(|((s, h, p), r, n)| Step::Packet(s, h, p, r, n)),
        1 => flow().prop_map(|(s, h, p)| Step::Remove(s, h, p)),
        2 => (0u64..200).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The twin: a list of sessions, each with its idle deadline and the bytes counted for it.
struct Twin {
    session: Session,
    deadline: u64,
    bytes: [u64; 2],
}

fn outsides(twins: &[Twin]) -> BTreeSet<(IpAddr, u16)> {
    twins.iter().filter_map(|t| t.session.binding()).map(|binding| binding.outside).collect()
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_list_and_records_add_up_to_the_byte(steps in steps(), max in 1usize..12) {
        let mut table = table(max);
        let mut twins: Vec<Twin> = Vec::new();
        let mut clock = 0;
        let (mut counted, mut recorded) = (0u64, 0u64);
        let mut sum = |record: FlowRecord| recorded += record.directions.iter().map(|d| d.bytes).sum::<u64>();
        for step in steps {
            let now = at(clock);
            match step {
                Step::Open(to, host, port, translate) => {
                    let inside = (IpAddr::from([10, 0, 0, host]), port);
                    let shared = twins.iter().find_map(|t| {
                        t.session.binding().filter(|binding| binding.inside == inside).map(|b| b.outside)
                    });
                    let bound = table.bound_to(Zone::tenant(TENANT), Protocol::UDP, inside, |_, _| true);
                    prop_assert_eq!(bound, shared);
                    let outside = bound.map(|(_, port)| port).or_else(|| {
                        let range = 5_000..=5_003;
                        translate.then(|| table.ports().take(POOL, Protocol::UDP, &range, port, port)).flatten()
                    });
                    let outside = outside.filter(|_| translate);
                    if translate && outside.is_none() {
                        prop_assert_eq!(outsides(&twins).len(), 4);
                        continue;
                    }
                    let session = session_with(to, host, port, outside, now);
                    let known = twins.iter().any(|t| t.session.keys.iter().any(|k| session.keys.contains(k)));
                    let expected = match (twins.len() >= max, known) {
                        (true, _) => Err(InsertError::Full),
                        (_, true) => Err(InsertError::Taken),
                        _ => Ok(()),
                    };
                    prop_assert_eq!(table.insert(session.clone()).map(|_| ()), expected);
                    if expected.is_ok() {
                        twins.push(Twin { session, deadline: clock + 300, bytes: [0, 0] });
                    }
                }
                Step::Packet(to, host, port, reverse, bytes) => {
                    let direction = if reverse { Direction::Reverse } else { Direction::Forward };
                    let probe = session_with(to, host, port, None, now).keys[0];
                    let twin = twins.iter_mut().find(|t| t.session.keys[0] == probe);
                    let key = twin.as_ref().map_or(probe, |t| *t.session.key(direction));
                    let found = table.lookup(&key);
                    prop_assert_eq!(found.is_some(), twin.is_some());
                    if let (Some((at, found)), Some(twin)) = (found, twin) {
                        prop_assert_eq!(found, direction);
                        table.get_mut(at).expect("just found").count(direction, (1, bytes as u64), None, None, now);
                        twin.deadline = clock + 300;
                        twin.bytes[direction as usize] += bytes as u64;
                        counted += bytes as u64;
                        let session = table.get(at).expect("just found");
                        let bytes = [Direction::Forward, Direction::Reverse].map(|d| session.counters(d).bytes);
                        prop_assert_eq!(bytes, twin.bytes);
                    }
                }
                Step::Remove(to, host, port) => {
                    let probe = session_with(to, host, port, None, now).keys[0];
                    if let Some((at, _)) = table.lookup(&probe) {
                        sum(table.remove(at, EndReason::ForcedEnd, now).expect("just found"));
                        twins.retain(|t| t.session.keys[0] != probe);
                    }
                }
                Step::Wait(seconds) => {
                    clock += seconds;
                    table.expire(at(clock), &mut sum);
                    twins.retain(|t| t.deadline > clock);
                }
            }
            prop_assert_eq!(table.len(), twins.len());
            prop_assert_eq!([table.of_tenant(TENANT), table.of_branch(SiteId(0))], [twins.len(); 2]);
            prop_assert_eq!(table.ports().in_use(), outsides(&twins).len() as u64);
            for port in 5_000..=5_003 {
                let sharing = |t: &&Twin| t.session.binding().is_some_and(|b| b.outside == (POOL, port));
                let found = table.bound_from(Zone::INTERNET, Protocol::UDP, (POOL, port));
                prop_assert_eq!(found.map(|(_, b)| b), twins.iter().find(sharing).and_then(|t| t.session.binding()));
                for to in 0..3 {
                    let asked = found.is_some_and(|(at, _)| table.talks_to(at, server(to).0));
                    let talks = |t: &Twin| t.session.keys[0].destination() == server(to).0;
                    prop_assert_eq!(asked, twins.iter().filter(sharing).any(talks));
                }
            }
        }
        // The wheel lets go of everything in the end, in steps as a worker takes them.
        for _ in 0..20 {
            clock += 30;
            table.expire(at(clock), &mut sum);
        }
        prop_assert!(table.is_empty());
        prop_assert_eq!(table.ports().in_use(), 0);
        prop_assert_eq!(recorded, counted);
    }
}

#[test]
fn a_table_of_several_chunks_finds_one_key_at_a_time_or_many_also_after_it_was_made_larger() {
    let mut table = table(6_000);
    let key = |port| session(1, port, None, at(0)).keys[0];
    let enter = |table: &mut SessionTable, port| table.insert(session(1, port, None, at(0)));
    let entered: Vec<SessionRef> = (0..6_000).map(|port| enter(&mut table, port).expect("room")).collect();
    assert_eq!(enter(&mut table, 6_000), Err(InsertError::Full));
    for port in (0..6_000usize).step_by(3) {
        assert!(table.remove(entered[port], EndReason::ForcedEnd, at(1)).is_some());
    }
    table.configure(20_000, ACTIVE, IdMap::default());
    table.allow(20_000);
    for port in 6_000..16_000 {
        enter(&mut table, port).expect("room");
    }
    assert_eq!((table.len(), table.iter().count()), (14_000, 14_000));
    // An odd number, so that the last group is not a whole one.
    let forward: Vec<FlowKey> = (0..16_003).map(key).collect();
    let reverse: Vec<FlowKey> = forward.iter().map(|key| key.turned_round(Zone::tenant(TENANT))).collect();
    for (keys, direction) in [(forward, Direction::Forward), (reverse, Direction::Reverse)] {
        let mut found = vec![None; keys.len()];
        table.lookup_batch(&keys, &mut found);
        for (port, (key, found)) in keys.iter().zip(found).enumerate() {
            assert_eq!(found, table.lookup(key));
            let alive = port < 16_000 && (port >= 6_000 || port % 3 > 0);
            assert_eq!(found.map(|(_, direction)| direction), alive.then_some(direction), "port {port}");
            if let Some((at, direction)) = found {
                assert_eq!(table.get(at).expect("found").key(direction), key);
            }
        }
    }
}

#[test]
fn a_lasting_session_is_reported_at_every_active_timeout_with_what_is_new() {
    let mut table = table(10);
    let at_zero = table.insert(session(1, 1_000, None, at(0))).expect("room");
    let mut records = Vec::new();
    for second in 1..=125 {
        if second % 10 == 0 {
            table.get_mut(at_zero).expect("alive").count(
                Direction::Forward,
                (1, 100),
                None,
                None,
                at(second),
            );
        }
        table.expire(at(second), |record| records.push((second, record)));
    }
    let told: Vec<_> = records.iter().map(|(s, r)| (*s, r.directions[0].packets, r.end_reason)).collect();
    assert_eq!(told, [(60, 6, EndReason::ActiveTimeout), (120, 6, EndReason::ActiveTimeout)]);
    let last = records[1].1.directions[0];
    assert_eq!((last.first_unix_millis, last.last_unix_millis), (70_000, 120_000));
}

#[test]
fn fragments_are_forgotten_in_time_and_by_number() {
    let mut fragments = Fragments::default();
    let mut table = table(10);
    let session_at = table.insert(session(1, 1_000, None, at(0))).expect("room");
    let key = |id| DatagramKey {
        zone: Zone::tenant(TENANT),
        source: IpAddr::from([10, 0, 0, 1]),
        destination: IpAddr::from([10, 0, 0, 2]),
        protocol: Protocol::UDP,
        id,
    };
    let trail = Trail::Session { at: session_at, id: 1, direction: Direction::Forward };
    for id in 0..5_000 {
        fragments.insert(key(id), trail, at(0).instant);
    }
    assert!(fragments.lookup(&key(0), at(1).instant).is_none());
    assert!(fragments.lookup(&key(4_999), at(29).instant).is_some());
    assert!(fragments.lookup(&key(4_999), at(30).instant).is_none());
}

#[test]
fn sessions_that_come_and_go_leave_no_trail_in_the_wheel() {
    let mut table = table(10);
    let tcp = |port, now| {
        let mut session = session(1, port, None, now);
        session.tcp = Some(TcpState::SynSent);
        session
    };
    let reset = Segment { flags: 0x04, sequence: 0, acknowledgment: 0 };
    // As a host does it that opens, resets and opens again, as fast as it can: 100 times a tick.
    for step in 0..20_000u32 {
        let now = Now::default() + Duration::from_millis(1) * step;
        let entry = table.insert(tcp(1_000 + (step % 3) as u16, now)).expect("room");
        table.get_mut(entry).expect("just entered").count(
            Direction::Forward,
            (1, 40),
            Some(reset),
            None,
            now,
        );
        table.hasten(entry);
        assert!(table.remove(entry, EndReason::EndOfFlow, now).is_some());
        table.expire(now, |_| {});
        assert!(table.scheduled() <= 10, "{} entries after {step} sessions", table.scheduled());
    }
    // And one that is still there when its predecessors' entries come up is looked at when it should be.
    let now = at(20);
    table.insert(session(1, 1_000, None, now)).expect("room");
    table.expire(at(319), |record| assert_eq!(record.end_reason, EndReason::ActiveTimeout));
    assert_eq!(table.len(), 1);
    table.expire(at(320), |_| {});
    assert!(table.is_empty());
}

#[test]
fn what_ends_at_once_is_ended_by_parts_each_session_once_and_in_order() {
    const SESSIONS: u16 = 1_000;
    let mut table = table(SESSIONS.into());
    for n in 0..SESSIONS {
        table.insert(session(1, 1_000 + n, None, at(0))).expect("room");
    }
    let now = at(2 * 60 * 60);
    let mut ended = Vec::new();
    let mut calls = 0;
    while table.poll_timeout().is_some_and(|due| due <= now.instant) {
        let before = ended.len();
        table.expire(now, |record| ended.push(record.session));
        assert!(ended.len() - before <= 256, "{} in one call", ended.len() - before);
        calls += 1;
        if calls == 1 {
            // One that comes in between takes a slot over, not its predecessor's end.
            table.insert(session(2, 1_000, None, now)).expect("room");
        }
    }
    let ids = |count: u16| (1..=u64::from(count)).map(|n| n << WORKER_BITS);
    assert!(
        ended.iter().copied().eq(ids(SESSIONS)),
        "not each of them once, in order: {} ended",
        ended.len()
    );
    assert_eq!(table.len(), 1);
    assert!(calls < 20, "{calls} calls");
}

#[test]
fn rfc_7857_section_2_2_a_connection_that_is_over_is_told_of_soon_and_its_port_kept_for_four_minutes() {
    let mut table = table(10);
    let segment = |flags, sequence, acknowledgment| Some(Segment { flags, sequence, acknowledgment });
    let port = table.ports().take(POOL, Protocol::TCP, &(5_000..=5_003), 5_001, 0).expect("free");
    let mut opened = session(1, 1_000, Some(port), at(0));
    opened.keys.iter_mut().for_each(|key| key.protocol = Protocol::TCP);
    opened.tcp = Some(TcpState::Established);
    let entry = table.insert(opened).expect("room");
    let session = table.get_mut(entry).expect("alive");
    session.count(Direction::Forward, (1, 40), segment(0x10, 500, 900), None, at(1));
    session.count(Direction::Reverse, (1, 40), segment(0x14, 900, 500), None, at(1));
    assert_eq!(session.tcp, Some(TcpState::Reset));
    table.hasten(entry);
    let mut records = Vec::new();
    for second in 2..=300 {
        table.expire(at(second), |record| records.push((second, record.end_reason)));
        assert_eq!(table.ports().in_use(), u64::from(second <= 240), "at {second} s");
    }
    assert_eq!(records, [(11, EndReason::EndOfFlow)]);
}

#[test]
fn a_binding_that_sessions_share_is_one_holding_from_the_first_to_the_last() {
    let mut table = table(8);
    table.tell_bindings(true);
    let port = table.ports().take(POOL, Protocol::UDP, &(5_000..=5_003), 5_000, 0);
    let first = table.insert(session_with(1, 7, 1_000, port, at(0))).expect("room");
    let second = table.insert(session_with(2, 7, 1_000, port, at(1))).expect("room");
    table.insert(session_with(1, 8, 1_000, None, at(1))).expect("room");
    let mut event = PortEvent {
        change: PortChange::Began,
        tenant: TENANT,
        branch: Some(SiteId(0)),
        outside: POOL,
        ports: (5_000, 5_000),
        protocol: Some(Protocol::UDP),
        inside: Some((IpAddr::from([10, 0, 0, 7]), 1_000)),
    };
    assert_eq!(table.take_port_events().collect::<Vec<_>>(), [event]);
    table.remove(first, EndReason::ForcedEnd, at(2));
    assert_eq!(table.take_port_events().count(), 0);
    table.remove(second, EndReason::ForcedEnd, at(3));
    event.change = PortChange::Ended;
    assert_eq!(table.take_port_events().collect::<Vec<_>>(), [event]);
}
