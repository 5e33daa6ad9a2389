//! `make bench`: the data plane without I/O, beside boringtun's `Tunn` and ring alone on the same packets in the same run.
//!
//! For each case: a PoP with so many tunnels, rules and sessions; packets sealed beforehand by the clients' own `Tunn`s;
//! what is timed is [`Worker::process`] over batches of 64. The peers are timed in turns with it, so that a noisy machine is
//! noisy for all three; each figure is the median of the rounds. Writes `target/bench/pipeline.json` and prints a table.

mod tables;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnetwork::IpNetwork;
use popgate::config::{
    AclAction, AclRule, Admin, Appliance, Candidate, DEFAULT_CLASS, Export, FlowMatch, Handoff, HandoffKind,
    IcmpSource, PathPolicy, Place, Pop, PrivateKey, Role, SourceRef, Tenant, TenantBranch, TenantPath,
    Transport, public_of,
};
use popgate::model::{DeviceId, Now, Protocol, TransportId};
use popgate::pipeline::{Entrance, Team, Worker};
use popgate::tables::Compiler;
use popgate::wire::{Batch, Ingress, Outbound};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Packets between two looks at the clock.
const ROUND: usize = 4_096;
/// As `io` receives them.
const BATCH: usize = 64;
const ROUNDS: usize = 15;
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// One row of the result.
#[derive(Serialize)]
struct Row {
    name: String,
    direction: &'static str,
    /// Inner IP bytes; 0 for IMIX.
    bytes: usize,
    sessions: usize,
    rules: usize,
    tunnels: usize,
    workers: usize,
    ns_per_packet: f64,
    /// boringtun's `Tunn` alone.
    tunn_ns_per_packet: f64,
    /// ring's ChaCha20-Poly1305 alone.
    ring_ns_per_packet: f64,
    /// To `Tunn`.
    ratio: f64,
}

#[derive(Clone, Copy)]
struct Case {
    bytes: usize,
    sessions: usize,
    rules: usize,
    tunnels: usize,
}

fn main() {
    // `cargo bench -- NAME` runs the cases whose name holds NAME.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let base = Case { bytes: 1_420, sessions: 10_000, rules: 100, tunnels: 1 };
    let mut cases = Vec::new();
    for bytes in [64, 512, 1_420, 0] {
        cases.push(Case { bytes, ..base });
    }
    for sessions in [1, 1_000_000] {
        cases.push(Case { sessions, ..base });
        cases.push(Case { sessions, bytes: 64, ..base });
    }
    for rules in [10, 1_000] {
        cases.push(Case { rules, ..base });
    }
    for tunnels in [1_000, 10_000] {
        cases.push(Case { tunnels, ..base });
    }
    println!("{:44} {:>9} {:>9} {:>9} {:>6}", "case", "popgate", "Tunn", "ring", "ratio");
    let mut rows = Vec::new();
    for case in cases {
        let name = |direction| {
            let size = if case.bytes == 0 { "imix".into() } else { format!("{} B", case.bytes) };
            format!(
                "{direction} {size}, {} sessions, {} rules, {} tunnels",
                case.sessions, case.rules, case.tunnels
            )
        };
        let matches = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
        if !matches(&name("up")) && !matches(&name("down")) {
            continue;
        }
        let mut bench = Bench::new(case);
        for direction in ["up", "down"] {
            let name = name(direction);
            let (ours, tunn, ring) = bench.run(direction);
            let ratio = ours / tunn;
            println!("{name:44} {ours:>6.0} ns {tunn:>6.0} ns {ring:>6.0} ns {ratio:>6.2}");
            rows.push(Row {
                name,
                direction,
                bytes: case.bytes,
                sessions: case.sessions,
                rules: case.rules,
                tunnels: case.tunnels,
                workers: 1,
                ns_per_packet: ours,
                tunn_ns_per_packet: tunn,
                ring_ns_per_packet: ring,
                ratio,
            });
        }
    }
    if wanted.is_empty() || wanted.iter().any(|w| "new sessions".contains(w.as_str())) {
        rows.extend(new_sessions());
    }
    let rows = rows.iter().map(|row| serde_json::to_value(row).expect("a row is JSON"));
    let rows: Vec<serde_json::Value> = rows.chain(tables::rows(&wanted)).collect();
    std::fs::create_dir_all("target/bench").expect("target/bench can be made");
    let json = serde_json::to_string_pretty(&rows).expect("rows are JSON");
    std::fs::write("target/bench/pipeline.json", json).expect("target/bench can be written");
}

/// A PoP, its clients, and a bare pair of `Tunn`s.
struct Bench {
    case: Case,
    worker: Worker,
    entrance: Entrance,
    now: Now,
    clients: Vec<Tunn>,
    bare: (Tunn, Tunn),
    key: LessSafeKey,
    internet: DeviceId,
    /// The sessions' packets as hosts send them, and as the server answers them (towards the pool).
    outward: Vec<(usize, Vec<u8>)>,
    inward: Vec<Vec<u8>>,
    next: usize,
}

impl Bench {
    fn new(case: Case) -> Bench {
        let candidate = candidate(case.tunnels, case.rules);
        let generation = Arc::new(Compiler::new("bench-").compile(&candidate).expect("few names"));
        let internet = generation.devices.iter().next().expect("the internet's device").0;
        let now = Now { unix_nanos: 1_790_000_000_000_000_000, ..Now::default() };
        let team = Team::new(1);
        let entrance = Entrance::new(&team, Arc::clone(&generation), now);
        let worker = Worker::new(0, &team, [7; 32], generation, now);
        let pop = PublicKey::from(public_of(&pop_key()).0);
        let clients = (0..case.tunnels)
            .map(|n| Tunn::new(StaticSecret::from(client_key(n).0), pop, None, None, n as u32, None));
        let mut bench = Bench {
            case,
            worker,
            entrance,
            now,
            clients: clients.collect(),
            bare: bare_pair(),
            key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).expect("a key")),
            internet,
            outward: Vec::new(),
            inward: Vec::new(),
            next: 0,
        };
        bench.connect();
        bench.open_sessions();
        bench
    }

    fn connect(&mut self) {
        for n in 0..self.clients.len() {
            // By the thousand a second, as after a restart: some are asked for a cookie first.
            while !self.shake_hands(n) {}
            self.now = self.now + Duration::from_millis(100);
            self.worker.handle_timeout(self.now, &mut Outbound::default());
        }
    }

    /// One handshake; false if the PoP asked for a cookie, which the client now has.
    fn shake_hands(&mut self, n: usize) -> bool {
        let mut buffer = vec![0; 2_048];
        let client = &mut self.clients[n];
        let TunnResult::WriteToNetwork(init) = client.format_handshake_initiation(&mut buffer, true) else {
            panic!("no initiation")
        };
        let (mut admitted, mut out) = (Outbound::default(), Outbound::default());
        let mut batch = Batch::with_slots(1);
        batch.push(from_client(n), init);
        self.entrance.process(&mut batch, self.now, &mut admitted);
        for (_, what, initiation) in admitted.handovers() {
            process(&mut self.worker, &[(Ingress::Worker(what), initiation.to_vec())], self.now, &mut out);
        }
        let reply = admitted.datagrams().chain(out.datagrams()).next().expect("a reply").2.to_vec();
        match self.clients[n].decapsulate(None, &reply, &mut buffer) {
            TunnResult::Done => false,
            TunnResult::WriteToNetwork(keepalive) => {
                let keepalive = keepalive.to_vec();
                process(&mut self.worker, &[(from_client(n), keepalive)], self.now, &mut Outbound::default());
                true
            }
            other => panic!("{other:?}"),
        }
    }

    /// One packet of every session, so that none is timed on the slow path.
    fn open_sessions(&mut self) {
        for n in 0..self.case.sessions {
            let tunnel = n % self.clients.len();
            let in_tunnel = n / self.clients.len();
            let host = host_of(tunnel, in_tunnel / 50_000);
            let packet = udp((host, 1_024 + (in_tunnel % 50_000) as u16), (SERVER, 4_500), self.bytes_of(n));
            let mut buffer = vec![0; packet.len() + 64];
            let TunnResult::WriteToNetwork(sealed) = self.clients[tunnel].encapsulate(&packet, &mut buffer)
            else {
                panic!("no session")
            };
            let mut out = Outbound::default();
            process(&mut self.worker, &[(from_client(tunnel), sealed.to_vec())], self.now, &mut out);
            let left = out.packets().next().expect("forwarded").to_vec();
            self.inward.push(udp((SERVER, 4_500), source_of(&left), left.len()));
            self.outward.push((tunnel, packet));
        }
    }

    fn bytes_of(&self, n: usize) -> usize {
        match self.case.bytes {
            // IMIX: 28 of 64, 16 of 570, 4 of 1,518, the last cut to what fits a tunnel.
            0 => match n * 37 % 48 {
                0..28 => 64,
                28..44 => 570,
                _ => 1_420,
            },
            bytes => bytes,
        }
    }

    /// Median ns a packet: the worker, `Tunn`, ring.
    fn run(&mut self, direction: &str) -> (f64, f64, f64) {
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let batch = self.next_round();
            let ours = if direction == "up" { self.up(&batch) } else { self.down(&batch) };
            let tunn = self.tunn(&batch, direction);
            let ring = self.ring(&batch, direction);
            for (samples, sample) in samples.iter_mut().zip([ours, tunn, ring]) {
                samples.push(sample.as_nanos() as f64 / ROUND as f64);
            }
        }
        let [a, b, c] = samples.map(median);
        (a, b, c)
    }

    /// Which sessions' packets come next: at a stride that is no friend of any cache.
    fn next_round(&mut self) -> Vec<usize> {
        let sessions = self.outward.len();
        (0..ROUND)
            .map(|_| {
                self.next = (self.next + 7_919) % sessions.max(1);
                self.next
            })
            .collect()
    }

    fn up(&mut self, sessions: &[usize]) -> Duration {
        let mut sealed = Vec::with_capacity(ROUND);
        for &n in sessions {
            let (tunnel, packet) = &self.outward[n];
            let mut buffer = vec![0; packet.len() + 64];
            let TunnResult::WriteToNetwork(datagram) = self.clients[*tunnel].encapsulate(packet, &mut buffer)
            else {
                panic!("no session")
            };
            sealed.push((from_client(*tunnel), datagram.to_vec()));
        }
        let (spent, packets, _) = self.time(&sealed);
        assert_eq!(packets, ROUND, "every packet was forwarded");
        spent
    }

    fn down(&mut self, sessions: &[usize]) -> Duration {
        let packets: Vec<_> =
            sessions.iter().map(|&n| (Ingress::Device(self.internet), self.inward[n].clone())).collect();
        let (spent, _, datagrams) = self.time(&packets);
        assert_eq!(datagrams, ROUND, "every packet was forwarded");
        spent
    }

    /// Time spent in the worker alone, and the packets and datagrams that came of it.
    fn time(&mut self, packets: &[(Ingress, Vec<u8>)]) -> (Duration, usize, usize) {
        let mut batch = Batch::with_slots(BATCH);
        let mut out = Outbound::default();
        let (mut spent, mut forwarded, mut sealed) = (Duration::ZERO, 0, 0);
        for chunk in packets.chunks(BATCH) {
            batch.clear();
            for (ingress, packet) in chunk {
                batch.push(*ingress, packet);
            }
            out.clear();
            let begin = Instant::now();
            self.worker.process(&mut batch, self.now, &mut out);
            spent += begin.elapsed();
            // Coalesced or not: what is counted is packets on the wire.
            forwarded += out.packets().map(|packet| packet.count() as usize).sum::<usize>();
            sealed += out.datagrams().len();
        }
        (spent, forwarded, sealed)
    }

    fn tunn(&mut self, sessions: &[usize], direction: &str) -> Duration {
        let (client, server) = &mut self.bare;
        let mut buffer = vec![0; 2_048];
        if direction == "down" {
            let mut spent = Duration::ZERO;
            for chunk in sessions.chunks(BATCH) {
                let begin = Instant::now();
                for &n in chunk {
                    let TunnResult::WriteToNetwork(_) = server.encapsulate(&self.inward[n], &mut buffer)
                    else {
                        panic!("no session")
                    };
                }
                spent += begin.elapsed();
            }
            return spent;
        }
        let sealed: Vec<Vec<u8>> = sessions
            .iter()
            .map(|&n| match client.encapsulate(&self.outward[n].1, &mut buffer) {
                TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        let begin = Instant::now();
        for datagram in &sealed {
            let TunnResult::WriteToTunnelV4(..) = server.decapsulate(None, datagram, &mut buffer) else {
                panic!("not opened")
            };
        }
        begin.elapsed()
    }

    fn ring(&mut self, sessions: &[usize], direction: &str) -> Duration {
        let nonce = || Nonce::assume_unique_for_key([0; 12]);
        let mut packets: Vec<Vec<u8>> = sessions.iter().map(|&n| self.outward[n].1.clone()).collect();
        let seal = |packets: &mut Vec<Vec<u8>>| {
            for packet in packets {
                self.key.seal_in_place_append_tag(nonce(), Aad::empty(), packet).expect("sealed");
            }
        };
        for packet in &mut packets {
            packet.reserve(16);
        }
        let begin = Instant::now();
        seal(&mut packets);
        if direction == "down" {
            return begin.elapsed();
        }
        let begin = Instant::now();
        for packet in &mut packets {
            self.key.open_in_place(nonce(), Aad::empty(), packet).expect("opened");
        }
        begin.elapsed()
    }
}

/// New sessions a second through the slow path: the cipher's share is in it, as it is in life.
fn new_sessions() -> Vec<Row> {
    [10, 1_000]
        .map(|rules| {
            let mut bench = Bench::new(Case { bytes: 64, sessions: 1, rules, tunnels: 1 });
            let mut sealed = Vec::new();
            for n in 0..40_000u32 {
                let packet =
                    udp((host_of(0, (n / 10_000) as usize), 10_000 + (n % 10_000) as u16), (SERVER, 80), 64);
                let mut buffer = vec![0; 256];
                let TunnResult::WriteToNetwork(datagram) = bench.clients[0].encapsulate(&packet, &mut buffer)
                else {
                    panic!("no session")
                };
                sealed.push((from_client(0), datagram.to_vec()));
            }
            let (spent, packets, _) = bench.time(&sealed);
            assert_eq!(packets, sealed.len());
            let ns = spent.as_nanos() as f64 / sealed.len() as f64;
            let round = bench.next_round();
            let tunn = bench.tunn(&round, "up").as_nanos() as f64 / ROUND as f64;
            let ring = bench.ring(&round, "up").as_nanos() as f64 / ROUND as f64;
            println!("new sessions, {rules} rules: {ns:.0} ns each, {:.0} thousand a second", 1e6 / ns);
            Row {
                name: format!("new sessions, {rules} rules"),
                direction: "up",
                bytes: 64,
                sessions: sealed.len(),
                rules,
                tunnels: 1,
                workers: 1,
                ns_per_packet: ns,
                tunn_ns_per_packet: tunn,
                ring_ns_per_packet: ring,
                ratio: ns / tunn,
            }
        })
        .into()
}

fn process(worker: &mut Worker, packets: &[(Ingress, Vec<u8>)], now: Now, out: &mut Outbound) {
    let mut batch = Batch::with_slots(packets.len());
    for (ingress, packet) in packets {
        batch.push(*ingress, packet);
    }
    worker.process(&mut batch, now, out);
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn pop_key() -> PrivateKey {
    PrivateKey::from_random([0x11; 32])
}

fn client_key(n: usize) -> PrivateKey {
    let mut bytes = [0x22; 32];
    bytes[8..16].copy_from_slice(&(n as u64).to_le_bytes());
    PrivateKey::from_random(bytes)
}

fn from_client(n: usize) -> Ingress {
    let address = Ipv4Addr::from_bits(0x0b00_0000 + n as u32);
    Ingress::Transport { transport: TransportId(0), from: SocketAddr::new(address.into(), 51_820) }
}

/// The `k`th host behind tunnel `n`: 10.0.0.0/8 in /22s.
fn host_of(n: usize, k: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + ((n as u32) << 10) + 5 + k as u32)
}

fn bare_pair() -> (Tunn, Tunn) {
    let (a, b) = (StaticSecret::from([5; 32]), StaticSecret::from([6; 32]));
    let mut client = Tunn::new(a.clone(), PublicKey::from(&b), None, None, 1, None);
    let mut server = Tunn::new(b, PublicKey::from(&a), None, None, 2, None);
    let (mut x, mut y) = (vec![0; 2_048], vec![0; 2_048]);
    let TunnResult::WriteToNetwork(init) = client.format_handshake_initiation(&mut x, true) else { panic!() };
    let TunnResult::WriteToNetwork(response) = server.decapsulate(None, init, &mut y) else { panic!() };
    let TunnResult::WriteToNetwork(keepalive) = client.decapsulate(None, response, &mut x) else { panic!() };
    server.decapsulate(None, keepalive, &mut y);
    (client, server)
}

/// An IPv4/UDP packet of `len` bytes in all, every checksum right.
fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&from.0.octets());
    packet[16..20].copy_from_slice(&to.0.octets());
    let sum = !popgate::wire::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&from.1.to_be_bytes());
    packet[22..24].copy_from_slice(&to.1.to_be_bytes());
    packet[24..26].copy_from_slice(&((len - 20) as u16).to_be_bytes());
    let pseudo = popgate::wire::pseudo_header(from.0.into(), to.0.into(), 17, len - 20);
    let sum = !popgate::wire::add_sums(pseudo, popgate::wire::checksum(&packet[20..]));
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn source_of(packet: &[u8]) -> (Ipv4Addr, u16) {
    let address = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    (address, u16::from_be_bytes([packet[20], packet[21]]))
}

/// A PoP with everything on: NAT, `rules` rules of which the last accepts, classes, path policies.
fn candidate(tunnels: usize, rules: usize) -> Candidate {
    let at = SourceRef { file: "bench".into(), line: 1 };
    let transport = Transport {
        name: "wan".into(),
        listen: "192.0.2.1:51820".parse().expect("an address"),
        interface: None,
        mtu: 1_500,
        at: at.clone(),
    };
    let network = |text: &str| text.parse::<IpNetwork>().expect("a network");
    let branches = (0..tunnels).map(|n| TenantBranch {
        name: format!("b{n}"),
        prefixes: vec![
            IpNetwork::new(IpAddr::V4(host_of(n, 0)), 22)
                .map(|p| IpNetwork::new(p.network(), 22))
                .expect("a /22")
                .expect("a /22"),
        ],
        paths: vec![TenantPath {
            name: "wan".into(),
            transport: None,
            public_key: public_of(&client_key(n)),
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            at: at.clone(),
        }],
        at: at.clone(),
    });
    let rule = |n: usize| AclRule {
        name: format!("r{n}"),
        matches: FlowMatch {
            from: vec![Place::Prefix(network(&format!("10.250.{}.0/24", n % 250)))],
            protocols: vec![Protocol::TCP],
            destination_ports: vec![(n as u16 + 1)..=(n as u16 + 1)],
            ..FlowMatch::default()
        },
        action: AclAction::Drop,
        at: at.clone(),
    };
    let mut acl: Vec<AclRule> = (1..rules).map(rule).collect();
    acl.push(AclRule {
        name: "out".into(),
        matches: FlowMatch { to: vec![Place::Handoff("internet".into())], ..FlowMatch::default() },
        action: AclAction::Accept,
        at: at.clone(),
    });
    let class = |name: &str, dscp| popgate::config::AppClass {
        name: name.into(),
        matches: vec![FlowMatch { dscp: vec![dscp], ..FlowMatch::default() }],
        at: at.clone(),
    };
    let tenant = Tenant {
        name: "acme".into(),
        branches: branches.collect(),
        handoffs: vec![Handoff {
            name: "internet".into(),
            kind: HandoffKind::Internet {
                nat_pool: vec![network("198.51.100.0/24")],
                nat_ports: 1_024..=65_535,
                routed: Vec::new(),
            },
            prefixes: vec![network("0.0.0.0/0")],
            at: at.clone(),
        }],
        classes: vec![class("voice", 46), class("meetings", 34), class("bulk", 8)],
        acl,
        nat: Vec::new(),
        path_policies: vec![PathPolicy {
            class: DEFAULT_CLASS.into(),
            prefer: vec!["wan".into()],
            at: at.clone(),
        }],
        file: "bench".into(),
    };
    let appliance = Appliance {
        site: "fra1".into(),
        metro: None,
        facility: None,
        role: Role::Pop(Pop { private_key: pop_key(), internet_device: "pg-internet".into() }),
        state_dir: "/nonexistent".into(),
        transports: vec![transport],
        icmp_source: IcmpSource {
            v4: Ipv4Addr::new(192, 0, 0, 8),
            v6: "fd00::1".parse().expect("an address"),
        },
        max_sessions: 2_000_000,
        workers: None,
        admin: Admin { listen: "127.0.0.1:0".parse().expect("an address") },
        export: Export { active_timeout: Duration::from_secs(60), collectors: Vec::new() },
    };
    Candidate { appliance, tenants: [("acme".to_owned(), tenant)].into() }
}
