//! Where a packet's time goes: the worker's pieces by themselves, in its order and on the same packets. In the worker they
//! run one behind the other, and no clock stands between them.

use crate::cases::{BASE, Bench, Case};
use crate::measure::{Stopwatch, median};
use crate::pop::{client_key, from_client, initiation, pop_key, seal};
use crate::{BATCH, ROUND, ROUNDS, Row, Wanted};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use popgate::config::public_of;
use popgate::flow::{Plan, Session, SessionTable, Translation};
use popgate::model::{
    ClassBy, ClassId, DeviceId, End, FlowKey, Id, IdMap, NextHop, Now, RuleId, SiteId, TenantId, TransportId,
    Zone,
};
use popgate::tunnel::{Keys, Opened, Sealed, Tunnel, TunnelIndex, buffer_for};
use popgate::wire::{self, Batch, Outbound, Parsed, Side};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const UP: [&str; 5] = ["open", "parse", "look-up", "plan and translate", "finish"];
const DOWN: [&str; 4] = ["parse", "look-up", "plan and translate", "seal"];
const ZONE: Zone = Zone::INTERNET;

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    for bytes in [64, 1_420] {
        let name =
            |direction: &str, stage: &str| format!("stage {stage}, {direction} {bytes} B, 10000 sessions");
        let all =
            UP.iter().map(|stage| name("up", stage)).chain(DOWN.iter().map(|stage| name("down", stage)));
        if !all.into_iter().any(|name| wanted.has(&name)) {
            continue;
        }
        let case = Case { bytes, ..BASE };
        let mut stages = Stages::new(case);
        for (direction, names) in [("up", &UP[..]), ("down", &DOWN[..])] {
            let (whole, parts) = stages.run(direction);
            let rest = whole - parts.iter().sum::<f64>();
            let tell = |stage: &str, ns: f64| {
                let name = name(direction, stage);
                println!("{name:56} {ns:>6.0} ns of {whole:.0}");
                Row { ns_per_packet: Some(ns), ..Row::new(name, direction, case) }
                    .with("stage", stage)
                    .with("share", ns / whole)
            };
            rows.extend(names.iter().zip(parts).map(|(stage, ns)| tell(stage, ns)));
            rows.push(tell("what is between them", rest));
        }
    }
    rows.extend(split(wanted));
    rows
}

struct Stages {
    bench: Bench,
    client: Tunn,
    tunnel: Tunnel,
    table: SessionTable,
    now: Now,
}

impl Stages {
    fn new(case: Case) -> Stages {
        let bench = Bench::new(case);
        let (client, tunnel) = tunnel();
        let now = Now::default();
        let mut table = SessionTable::new(0, [1, 2], now.instant);
        table.configure(2 * case.sessions, Duration::from_secs(60), IdMap::default());
        table.allow(2 * case.sessions);
        for (outward, inward) in bench.outward.iter().zip(&bench.inward) {
            let key = |packet: &[u8]| {
                wire::parse_super(packet, 0).expect("sound").key(packet, ZONE).expect("a flow's")
            };
            table.insert(session([key(&outward.1), key(inward)], now)).expect("room");
        }
        Stages { bench, client, tunnel, table, now }
    }

    /// The worker's time for a packet, and each stage's.
    fn run(&mut self, direction: &str) -> (f64, Vec<f64>) {
        let up = direction == "up";
        let mut whole = Vec::new();
        let mut parts = vec![Vec::new(); if up { UP.len() } else { DOWN.len() }];
        for _ in 0..ROUNDS {
            let round = self.bench.next_round();
            let packets = match up {
                true => self.bench.sealed(&round),
                false => {
                    let internet = popgate::wire::Ingress::Device(self.bench.pop.internet);
                    round.iter().map(|&n| (internet, self.bench.inward[n].clone())).collect()
                }
            };
            whole.push(self.bench.time(&packets).0 / ROUND as f64);
            let watches = if up { self.up(&round) } else { self.down(&round) };
            for (part, watch) in parts.iter_mut().zip(watches) {
                part.push(watch.nanos() / ROUND as f64);
            }
        }
        (median(whole), parts.into_iter().map(median).collect())
    }

    fn up(&mut self, round: &[usize]) -> Vec<Stopwatch> {
        let mut watches: Vec<Stopwatch> = UP.iter().map(|_| Stopwatch::new()).collect();
        let mut batch = Batch::with_slots(BATCH);
        let mut out = Outbound::default();
        for chunk in round.chunks(BATCH) {
            batch.clear();
            for &n in chunk {
                let sealed = seal(&mut self.client, &self.bench.outward[n].1);
                assert!(batch.push(from_client(0), &sealed));
            }
            out.clear();
            let mut landing = out.land(BATCH * 1_600);
            let mut room = landing.room();
            let mut opened: Vec<&mut [u8]> = Vec::with_capacity(BATCH);
            watches[0].time(|| {
                for (_, datagram, _) in batch.packets() {
                    let opening = self.tunnel.open(IpAddr::V4(Ipv4Addr::LOCALHOST), datagram, room);
                    let Ok(Opened::Packet(len)) = opening else { panic!("not opened") };
                    let (packet, rest) = std::mem::take(&mut room).split_at_mut(len);
                    room = rest;
                    opened.push(packet);
                }
            });
            let mut work = Work { table: &mut self.table, now: self.now };
            let mut parsed = work.forward(&mut opened, &mut watches[1..4]);
            watches[4].time(|| {
                for (packet, (parsed, _)) in opened.iter_mut().zip(&mut parsed) {
                    out.push_segment(DeviceId(0), packet, parsed);
                }
            });
            out.give_back(landing);
            watches[4].time(|| out.finish());
        }
        watches
    }

    fn down(&mut self, round: &[usize]) -> Vec<Stopwatch> {
        let mut watches: Vec<Stopwatch> = DOWN.iter().map(|_| Stopwatch::new()).collect();
        let mut batch = Batch::with_slots(BATCH);
        let mut out = Outbound::default();
        let to = std::net::SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
        for chunk in round.chunks(BATCH) {
            batch.clear();
            for &n in chunk {
                assert!(batch.push(from_client(0), &self.bench.inward[n]));
            }
            out.clear();
            let mut packets: Vec<&mut [u8]> = batch.packets().map(|(_, packet, _)| packet).collect();
            let mut work = Work { table: &mut self.table, now: self.now };
            work.forward(&mut packets, &mut watches[..3]);
            watches[3].time(|| {
                for packet in &packets {
                    out.write_datagram(TransportId(0), to, buffer_for(packet.len()), |room| {
                        match self.tunnel.seal(packet, room) {
                            Sealed::Datagram(len) => (Some(len), ()),
                            other => panic!("{other:?}"),
                        }
                    });
                }
            });
        }
        watches
    }
}

/// What both directions have in common.
struct Work<'a> {
    table: &'a mut SessionTable,
    now: Now,
}

impl Work<'_> {
    fn forward(&mut self, packets: &mut [&mut [u8]], watches: &mut [Stopwatch]) -> Vec<(Parsed, FlowKey)> {
        let mut parsed = Vec::with_capacity(BATCH);
        watches[0].time(|| {
            for packet in packets.iter() {
                let it = wire::parse_super(packet, 0).expect("sound");
                let key = it.key(packet, ZONE).expect("a flow's");
                parsed.push((it, key));
            }
        });
        let keys: Vec<FlowKey> = parsed.iter().map(|(_, key)| *key).collect();
        let mut found = vec![None; keys.len()];
        watches[1].time(|| self.table.lookup_batch(&keys, &mut found));
        watches[2].time(|| {
            for ((packet, (parsed, _)), found) in packets.iter_mut().zip(&mut parsed).zip(&found) {
                let (at, direction) = found.expect("a session");
                let session = self.table.get_mut(at).expect("a session");
                let segment = parsed.tcp_segment(packet);
                session.count(direction, parsed.on_the_wire(packet), segment, None, self.now);
                let (key, answer) = (*session.key(direction), *session.key(direction.opposite()));
                if !key.comes_from_where(&answer) {
                    let to = (answer.destination(), answer.destination_port);
                    wire::translate(packet, parsed, Side::Source, to.0, to.1);
                }
                if !key.goes_where(&answer) {
                    let to = (answer.source(), answer.source_port);
                    wire::translate(packet, parsed, Side::Destination, to.0, to.1);
                }
                wire::decrement_ttl(packet, parsed);
                wire::clamp_mss(packet, parsed, 1_420);
            }
        });
        parsed
    }
}

/// What it takes to cut a super-packet up, a segment.
fn split(wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    for (segments, bytes) in [(44, 1_420), (64, 64)] {
        let name = format!("stage split, down {segments} x {bytes} B");
        if !wanted.has(&name) {
            continue;
        }
        let payload = bytes - 28;
        let ends = ((crate::SERVER, 443), (Ipv4Addr::new(198, 51, 100, 1), 2_000));
        let packet = crate::pop::udp(ends.0, ends.1, bytes + (segments - 1) * payload);
        let mut scratch = Vec::new();
        let mut samples = Vec::new();
        for _ in 0..ROUNDS {
            let mut watch = Stopwatch::new();
            let mut made = 0;
            for _ in 0..ROUND / segments {
                watch.time(|| {
                    let parsed = wire::parse_super(&packet, payload as u16).expect("sound");
                    wire::split(&packet, &parsed, &mut scratch, |segment| made += segment.len() / bytes);
                });
            }
            assert_eq!(made, ROUND / segments * segments);
            samples.push(watch.nanos() / made as f64);
        }
        let ns = median(samples);
        println!("{name:56} {ns:>6.0} ns");
        let case = Case { bytes, sessions: 1, ..BASE };
        rows.push(Row { ns_per_packet: Some(ns), ..Row::new(name, "down", case) }.with("stage", "split"));
    }
    rows
}

/// A tunnel of ours and boringtun at its other end.
fn tunnel() -> (Tunn, Tunnel) {
    let keys = Keys { private: pop_key().0, peer: public_of(&client_key(0)).0, preshared: None };
    let mut tunnel = Tunnel::new(&keys, None, TunnelIndex::new(7, 0));
    let pop = PublicKey::from(public_of(&pop_key()).0);
    let mut client = Tunn::new(StaticSecret::from(client_key(0).0), pop, None, None, 1, None);
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (mut here, mut there) = (vec![0; 2_048], vec![0; 2_048]);
    let Ok(Opened::Reply(len)) = tunnel.open(from, &initiation(&mut client), &mut here) else {
        panic!("no answer")
    };
    let TunnResult::WriteToNetwork(keepalive) = client.decapsulate(None, &here[..len], &mut there) else {
        panic!("no session")
    };
    assert_eq!(tunnel.open(from, keepalive, &mut here), Ok(Opened::Nothing));
    (client, tunnel)
}

fn session(keys: [FlowKey; 2], now: Now) -> Session {
    let plan = Plan {
        generation: 1,
        class: ClassId(0),
        class_by: ClassBy::Default,
        rule: RuleId(0),
        ends: [End::Site(SiteId::from_index(0)), End::Site(SiteId::from_index(1))],
        hops: [NextHop::Tunnel(SiteId::from_index(0)), NextHop::Device(DeviceId(0))],
    };
    Session::new(TenantId(0), keys, plan, Translation::None, None, 0, now.instant)
}
