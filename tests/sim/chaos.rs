//! Everything at once, at random: packets good and bad from everywhere, handshakes, commits, cut links, restarts, time.
//!
//! What must hold after every step: each packet a box takes in is counted once, forwarded or dropped ([`Sim::inject`] sees
//! to that); NAT ports in use are those of sessions; no tenant's bytes come out at another's door. The seed is printed; a
//! longer run: `POPGATE_CHAOS_SECONDS=300 cargo test --test sim chaos`.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{addr, answer, fragments, is_sound, other, ping, read, tcp, udp};
use crate::rubbish::damage;
use popgate::model::TransportId;
use popgate::wire::{self, IcmpError, Ingress, Upper, tcp_flags};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// In every payload: whose it is.
const MARKS: [&[u8]; 2] = [b"acme's secret", b"globex's secret"];
const NODES: [&str; 4] = ["fra1", "berlin", "lyon", "site1"];
const LINKS: [&str; 4] = ["203.0.113.1:1001", "203.0.113.1:1002", "203.0.113.2:1001", "203.0.113.3:1001"];

struct Chaos {
    sim: Sim,
    rng: StdRng,
    /// What the internet has seen lately, to be answered.
    seen_outside: Vec<Vec<u8>>,
    /// The great events, for whoever has to understand a failure.
    log: Vec<String>,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        Chaos { sim: Sim::up(), rng: StdRng::seed_from_u64(seed), seen_outside: Vec::new(), log: Vec::new() }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("something to choose from")
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..60 => self.from_a_lan(),
            60..75 => self.from_the_internet(),
            75..80 => self.from_the_data_centre(),
            80..86 => self.forged(),
            86..89 => self.rubbish_at_the_port(),
            89..92 => self.commit(),
            92..94 => self.change_a_link(),
            94 => self.restart(),
            _ => self.wait(),
        }
        self.check();
    }

    fn payload(&mut self, tenant: usize) -> Vec<u8> {
        let mut payload = MARKS[tenant].to_vec();
        let len = self.pick(&[0, 0, 40, 1_300, 1_400, 2_000]);
        payload.resize(payload.len() + len, 0);
        payload
    }

    /// A packet between two places, of any kind, perhaps in fragments, perhaps damaged.
    fn packets(&mut self, from: &str, to: &str, tenant: usize) -> Vec<Vec<u8>> {
        let payload = self.payload(tenant);
        let (source, destination) =
            (self.pick(&[0, 1, 1_000, 5_000, 5_001]), self.pick(&[23, 53, 80, 123, 5_201, 27_000]));
        let host = |address: &str, port: u16| match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        let flags = self.pick(&[
            tcp_flags::SYN,
            tcp_flags::ACK,
            tcp_flags::SYN | tcp_flags::ACK,
            tcp_flags::FIN | tcp_flags::ACK,
            tcp_flags::RST,
            0,
        ]);
        let (a, b) = (host(from, source), host(to, destination));
        let mut build = match self.rng.random_range(0..10) {
            0..4 => udp(&a, &b, &payload),
            4..8 => tcp(&a, &b, flags, &payload),
            8 => ping(from, to, source, &payload),
            _ => other(from, to, 47, &payload),
        };
        if self.rng.random_bool(0.1) {
            build = build.ttl(self.rng.random_range(0..4));
        }
        if self.rng.random_bool(0.1) {
            build = build.dscp(46);
        }
        let may_fragment = self.rng.random_bool(0.5);
        if may_fragment {
            build = build.may_fragment();
        }
        let mut packet = build.bytes();
        if self.rng.random_bool(0.1) {
            damage(&mut packet, &mut self.rng);
            return vec![packet];
        }
        if may_fragment && packet[0] >> 4 == 4 && self.rng.random_bool(0.3) && wire::parse(&packet).is_ok() {
            let mut parts = fragments(&packet, 700);
            if self.rng.random_bool(0.3) {
                let at = self.rng.random_range(0..parts.len());
                parts.swap(0, at);
            }
            return parts;
        }
        vec![packet]
    }

    fn from_a_lan(&mut self) {
        let (branch, tenant) = self.pick(&[("berlin", 0), ("berlin", 0), ("lyon", 0), ("site1", 1)]);
        let (from, to) = if self.rng.random_bool(0.2) {
            let inside = ["2001:db8:1::5", "2001:db8:1::80", "2001:db8:2::1"];
            (self.pick(&inside), self.pick(&["2001:db8:ffff::9", "2001:db8:1::7"]))
        } else {
            let mine = if branch == "lyon" { ["10.2.0.9", "10.1.77.5"] } else { ["10.1.0.5", "10.1.0.6"] };
            let from = self.pick(&[mine[0], mine[0], mine[1], "10.1.77.6", "192.168.1.1"]);
            let to = ["203.0.113.80", "203.0.113.81", "10.2.0.9", "10.1.0.5", "10.200.0.7", "198.51.100.9"];
            (from, self.pick(&to))
        };
        for packet in self.packets(from, to, tenant) {
            self.send(branch, "lan", &packet);
        }
    }

    fn from_the_internet(&mut self) {
        let known = self.seen_outside.choose(&mut self.rng).cloned();
        let packets = match known {
            Some(packet) if self.rng.random_bool(0.9) => {
                let parsed = read(&packet);
                let tenant = self.owner_outside(&parsed.source(&packet));
                let (Some(tenant), true) = (tenant, parsed.fragment.is_none()) else { return };
                let payload = self.payload(tenant);
                let router = ("203.0.113.1".parse().expect("v4"), "2001:db8:ffff::1".parse().expect("v6"));
                match parsed.upper {
                    _ if self.rng.random_bool(0.2) && wire::may_answer(&parsed) => {
                        let error = self.pick(&[
                            IcmpError::NoRoute,
                            IcmpError::TimeExceeded,
                            IcmpError::TooBig { mtu: 600 },
                        ]);
                        vec![wire::icmp_error(&packet, &parsed, error, router)]
                    }
                    Upper::Udp { source_port: 0, .. } => return,
                    Upper::Udp { .. } | Upper::Tcp { .. } | Upper::EchoRequest { .. } => {
                        let reply = answer(&packet, &payload);
                        vec![self.perhaps_reset(reply, &packet)]
                    }
                    _ => return,
                }
            }
            _ => {
                let to = self.pick(&["198.51.100.1", "198.51.100.9", "198.51.100.17", "203.0.113.5"]);
                // Nobody asked for it, so it is nobody's.
                let mut unasked = udp("203.0.113.80:53", &format!("{to}:5001"), b"unasked").bytes();
                if self.rng.random_bool(0.3) {
                    unasked = tcp("[2001:db8:ffff::9]:4000", "[2001:db8:1::80]:80", tcp_flags::SYN, MARKS[0])
                        .bytes();
                }
                vec![unasked]
            }
        };
        for packet in packets {
            self.send("fra1", "internet", &packet);
        }
    }

    fn perhaps_reset(&mut self, reply: Vec<u8>, asked: &[u8]) -> Vec<u8> {
        let parsed = read(asked);
        let Upper::Tcp { source_port, destination_port, .. } = parsed.upper else { return reply };
        if self.rng.random_bool(0.6) {
            return reply;
        }
        let flags = self.pick(&[tcp_flags::RST, tcp_flags::FIN | tcp_flags::ACK, tcp_flags::SYN]);
        let from = std::net::SocketAddr::new(parsed.destination(asked), destination_port).to_string();
        let to = std::net::SocketAddr::new(parsed.source(asked), source_port).to_string();
        tcp(&from, &to, flags, b"").bytes()
    }

    fn from_the_data_centre(&mut self) {
        let to = self.pick(&["10.1.0.5", "10.2.0.9", "203.0.113.80"]);
        let from = self.pick(&["10.200.0.7", "10.200.0.7", "10.1.0.5"]);
        for packet in self.packets(from, to, 0) {
            self.send("fra1", "dc", &packet);
        }
    }

    /// What no honest branch would send.
    fn forged(&mut self) {
        let branch = self.pick(&["berlin", "lyon"]);
        if self.rng.random_bool(0.1) {
            self.sim.hang_up();
        }
        let from = self.pick(&["10.1.0.5", "10.2.0.9", "10.1.77.5", "203.0.113.80", "198.51.100.1"]);
        let to = self.pick(&["203.0.113.80", "10.1.0.5", "10.2.0.9", "10.200.0.7"]);
        for packet in self.packets(from, to, 0) {
            self.sim.forge(branch, &packet);
            self.look_at_deliveries();
        }
        if self.rng.random_bool(0.2) {
            let asks = popgate::path::Asks {
                answered: self.rng.random(),
                within: self
                    .rng
                    .random_bool(0.5)
                    .then(|| Duration::from_millis(self.rng.random_range(0..70_000))),
                deaf: self.rng.random(),
                stream: self.rng.random_bool(0.5).then(|| popgate::path::OfStream {
                    dscp: self.rng.random_range(0..64),
                    dscps: self.rng.random(),
                    sent: self.rng.random(),
                }),
            };
            let request = popgate::path::request(self.rng.random(), asks, self.sim.now);
            self.sim.forge(branch, &request);
        }
    }

    fn rubbish_at_the_port(&mut self) {
        let mut datagram = self.sim.initiation_of("lyon", "dsl");
        if self.rng.random_bool(0.5) {
            datagram[0] = self.rng.random_range(0..6);
        }
        if self.rng.random_bool(0.8) {
            damage(&mut datagram, &mut self.rng);
        }
        let from = addr(&format!("203.0.113.{}:9", self.rng.random_range(1..250)));
        self.sim.inject("fra1", Ingress::Transport { transport: TransportId(0), from }, &datagram);
    }

    fn commit(&mut self) {
        let what = self.rng.random_range(0..7);
        self.log.push(format!("commit {what}"));
        // Enough for CoDel to be content: what it drops has been counted as taken in before.
        let limited = ACME
            .replace("name = \"dsl\"\n", "name = \"dsl\"\nbandwidth = \"20mbit\"\n")
            .replace("name = \"voice\"\n", "name = \"voice\"\nqueue = \"priority\"\n")
            .replace("name = \"bulk\"\n", "name = \"bulk\"\nweight = 1\nset-dscp = \"le\"\n");
        let moved = ACME.replace("198.51.100.0/30", "198.51.100.16/30");
        let closed = ACME.replace("action = \"accept\"", "action = \"reject\"");
        let classed = ACME.replace("prefer = [\"dsl\", \"lte\"]", "prefer = [\"lte\", \"dsl\"]");
        let traded = ACME.replace("10.1.77.0/24", "10.1.78.0/24");
        match what {
            0 => self.sim.commit(&[("acme", ACME)]),
            1 => self.sim.commit(&[("acme", &moved), ("globex", GLOBEX)]),
            2 => self.sim.commit(&[("acme", &closed), ("globex", GLOBEX)]),
            3 => self.sim.commit(&[("acme", &classed), ("globex", GLOBEX)]),
            4 => self.sim.commit(&[("acme", &traded), ("globex", GLOBEX)]),
            5 => self.sim.commit(&[("acme", &limited), ("globex", GLOBEX)]),
            _ => self.sim.commit(&[("acme", ACME), ("globex", GLOBEX)]),
        }
    }

    fn change_a_link(&mut self) {
        let link = self.pick(&LINKS);
        self.log.push(format!("link {link}"));
        if self.rng.random_bool(0.3) {
            self.sim.cut(link);
        } else {
            self.sim.heal(link);
        }
    }

    fn restart(&mut self) {
        let node = self.pick(&NODES);
        self.log.push(format!("restart {node}"));
        self.sim.restart(node);
    }

    fn wait(&mut self) {
        let ms = self.pick(&[1, 50, 300, 2_000, 11_000]);
        self.sim.advance(ms);
        self.look_at_deliveries();
    }

    fn send(&mut self, node: &str, device: &str, packet: &[u8]) {
        let device = self.sim.device(node, device);
        self.sim.inject(node, Ingress::Device(device), packet);
        self.look_at_deliveries();
    }

    /// Whose pool or prefix an address on the internet's side is, in any of the commits.
    fn owner_outside(&self, address: &IpAddr) -> Option<usize> {
        let is = |prefix: &str| prefix.parse::<ipnetwork::IpNetwork>().expect("a prefix").contains(*address);
        match () {
            () if is("198.51.100.0/30") || is("198.51.100.16/30") || is("2001:db8:1::/48") => Some(0),
            () if is("198.51.100.8/30") => Some(1),
            () => None,
        }
    }

    fn look_at_deliveries(&mut self) {
        for (place, packet) in self.sim.take_delivered() {
            let carries = |tenant: usize| packet.windows(MARKS[tenant].len()).any(|w| w == MARKS[tenant]);
            let allowed = match place.as_str() {
                "berlin pg-lan" | "lyon pg-lan" | "fra1 pg1" => Some(0),
                "site1 pg-lan" => Some(1),
                _ => {
                    let parsed = wire::parse(&packet).expect("what we forward is well-formed");
                    let owner = self.owner_outside(&parsed.source(&packet));
                    assert!(owner.is_some(), "{place}: from {}: {packet:02x?}", parsed.source(&packet));
                    if is_sound(&packet, &parsed) {
                        self.seen_outside.push(packet.clone());
                    }
                    if self.seen_outside.len() > 200 {
                        self.seen_outside.swap_remove(0);
                    }
                    owner
                }
            };
            for tenant in 0..MARKS.len() {
                assert!(
                    !carries(tenant) || allowed == Some(tenant),
                    "{place}: tenant {tenant}'s: {packet:02x?}"
                );
            }
        }
    }

    fn check(&mut self) {
        for node in NODES {
            let ports = self.sim.node(node).plane.ports_in_use();
            assert_eq!(ports, self.sim.bindings(node), "{node}: ports in use");
            self.sim.node(node).records.clear();
        }
    }
}

/// Runs `steps` steps of `seed`; tells of both when something breaks.
fn run(seed: u64, steps: usize) {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("chaos: seed {}", self.0);
            }
        }
    }
    let _tell = Tell(seed);
    let mut chaos = Chaos::new(seed);
    for step in 0..steps {
        let log = chaos.log.len();
        chaos.step();
        if chaos.log.len() > log {
            println!("{step}: {}", chaos.log[log]);
        }
    }
    // When everything is healed and time has passed, everything works again.
    for link in LINKS {
        chaos.sim.heal(link);
    }
    chaos.sim.commit(&[("acme", ACME), ("globex", GLOBEX)]);
    // With boringtun's clock in our hand, a restarted box stamps its handshakes with real time again, behind what it
    // stamped before: it is refused until it has caught up.
    let behind = if cfg!(feature = "sim") { chaos.sim.now.instant.0 / 1_000_000 } else { 0 };
    chaos.sim.advance(behind + 400_000);
    chaos.sim.take_delivered();
    assert!(chaos.sim.sessions("fra1").iter().all(|s| s.protocol == "tcp"), "only TCP lives this long");
    for (branch, from) in [("berlin", "10.1.0.5:999"), ("lyon", "10.2.0.9:999"), ("site1", "10.1.0.5:999")] {
        let out = chaos.sim.from_lan(branch, &udp(from, "203.0.113.99:9", b"").bytes());
        assert_eq!(out.len(), 1, "{branch} works again: {:?}", chaos.sim.drops("fra1"));
    }
}

#[test]
fn whatever_happens_packets_are_counted_ports_given_back_and_tenants_kept_apart() {
    let seconds = std::env::var("POPGATE_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok());
    match seconds {
        None => (1..=4).for_each(|seed| run(seed, 1_500)),
        Some(seconds) => {
            let end = Instant::now() + Duration::from_secs(seconds);
            let first: u64 = StdRng::from_os_rng().random_range(0..1 << 32);
            let mut runs = 0;
            while Instant::now() < end {
                run(first + runs, 3_000);
                runs += 1;
            }
            println!("{runs} runs from seed {first} on");
        }
    }
}
