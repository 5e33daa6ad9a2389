//! A packet: by size, sessions, rules and tunnels; and a session's first.

use crate::measure::{Stopwatch, median};
use crate::pop::{Pop, bare_pair, from_client, host_of, process, seal, source_of, udp};
use crate::{BATCH, ROUND, ROUNDS, Row, SERVER, Wanted};
use boringtun::noise::{Tunn, TunnResult};
use popgate::model::Rate;
use popgate::wire::{Batch, Ingress, Outbound};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde_json::json;
use std::hint::black_box;

#[derive(Clone, Copy)]
pub struct Case {
    pub bytes: usize,
    pub sessions: usize,
    pub rules: usize,
    pub tunnels: usize,
}

pub const BASE: Case = Case { bytes: 1_420, sessions: 10_000, rules: 100, tunnels: 1 };

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let mut cases = Vec::new();
    for bytes in [64, 512, 1_420, 0] {
        cases.push(Case { bytes, ..BASE });
    }
    for sessions in [1, 1_000_000] {
        cases.push(Case { sessions, ..BASE });
        cases.push(Case { sessions, bytes: 64, ..BASE });
    }
    for rules in [10, 1_000] {
        cases.push(Case { rules, ..BASE });
    }
    for tunnels in [1_000, 10_000] {
        cases.push(Case { tunnels, ..BASE });
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
        if !wanted.has(&name("up")) && !wanted.has(&name("down")) {
            continue;
        }
        let mut bench = Bench::new(case);
        for direction in ["up", "down"] {
            rows.push(row(name(direction), direction, case, bench.run(direction)));
        }
    }
    if wanted.has("new sessions") {
        rows.extend(new_sessions());
    }
    rows
}

/// A row of three figures side by side.
pub fn row(name: String, direction: &'static str, case: Case, [ours, tunn, ring]: [f64; 3]) -> Row {
    let ratio = ours / tunn;
    println!("{name:44} {ours:>6.0} ns {tunn:>6.0} ns {ring:>6.0} ns {ratio:>6.2}");
    Row {
        ns_per_packet: Some(ours),
        tunn_ns_per_packet: Some(tunn),
        ring_ns_per_packet: Some(ring),
        ratio: Some(ratio),
        ..Row::new(name, direction, case)
    }
}

/// A PoP, its clients, and as many bare pairs of `Tunn`s.
pub struct Bench {
    case: Case,
    pub pop: Pop,
    bare: Vec<(Tunn, Tunn)>,
    key: LessSafeKey,
    /// The sessions' packets as hosts send them, and as the server answers them (towards the pool).
    pub outward: Vec<(usize, Vec<u8>)>,
    pub inward: Vec<Vec<u8>>,
    next: usize,
    /// As `io` has them: made once, so that no page of theirs is touched for the first time while the clock runs.
    batch: Batch,
    out: Outbound,
}

impl Bench {
    pub fn new(case: Case) -> Bench {
        Bench::limited(case, None)
    }

    /// With so much bandwidth.
    pub fn limited(case: Case, bandwidth: Option<Rate>) -> Bench {
        Bench::of(case, Pop::limited(case.tunnels, case.rules, bandwidth))
    }

    /// Of this PoP, whose clients may be more than the tunnels by which sessions come.
    pub fn of(case: Case, pop: Pop) -> Bench {
        let mut bench = Bench {
            case,
            pop,
            bare: (0..case.tunnels).map(|_| bare_pair()).collect(),
            key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).expect("a key")),
            outward: Vec::new(),
            inward: Vec::new(),
            next: 0,
            batch: Batch::with_slots(BATCH),
            out: Outbound::default(),
        };
        bench.open_sessions();
        bench
    }

    /// One packet of every session, so that none is timed on the slow path.
    fn open_sessions(&mut self) {
        let mut out = Outbound::default();
        for n in 0..self.case.sessions {
            let tunnel = n % self.case.tunnels;
            let in_tunnel = n / self.case.tunnels;
            let host = host_of(tunnel, in_tunnel / 50_000);
            let packet = udp((host, 1_024 + (in_tunnel % 50_000) as u16), (SERVER, 4_500), self.bytes_of(n));
            let sealed = seal(&mut self.pop.clients[tunnel], &packet);
            out.clear();
            process(&mut self.pop.workers[0], &[(from_client(tunnel), sealed)], self.pop.now, &mut out);
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
    fn run(&mut self, direction: &str) -> [f64; 3] {
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let round = self.next_round();
            let ours = if direction == "up" { self.up(&round) } else { self.down(&round) };
            let tunn = self.tunn(&round, direction);
            let ring = self.ring(&round, direction);
            for (samples, sample) in samples.iter_mut().zip([ours, tunn, ring]) {
                samples.push(sample / ROUND as f64);
            }
        }
        samples.map(median)
    }

    /// Which sessions' packets come next: at a stride that is no friend of any cache.
    pub fn next_round(&mut self) -> Vec<usize> {
        let sessions = self.outward.len();
        (0..ROUND)
            .map(|_| {
                self.next = (self.next + 7_919) % sessions.max(1);
                self.next
            })
            .collect()
    }

    /// The round's packets as the worker gets them from the clients.
    pub fn sealed(&mut self, sessions: &[usize]) -> Vec<(Ingress, Vec<u8>)> {
        let packets = sessions.iter().map(|&n| &self.outward[n]);
        packets
            .map(|(tunnel, packet)| (from_client(*tunnel), seal(&mut self.pop.clients[*tunnel], packet)))
            .collect()
    }

    fn up(&mut self, sessions: &[usize]) -> f64 {
        let sealed = self.sealed(sessions);
        let (spent, packets, _) = self.time(&sealed);
        assert_eq!(packets, ROUND, "every packet was forwarded");
        spent
    }

    fn down(&mut self, sessions: &[usize]) -> f64 {
        let internet = Ingress::Device(self.pop.internet);
        let packets: Vec<_> = sessions.iter().map(|&n| (internet, self.inward[n].clone())).collect();
        let (spent, _, datagrams) = self.time(&packets);
        assert_eq!(datagrams, ROUND, "every packet was forwarded");
        spent
    }

    /// Nanoseconds spent in the worker alone, and the packets and datagrams that came of it.
    pub fn time(&mut self, packets: &[(Ingress, Vec<u8>)]) -> (f64, usize, usize) {
        let Bench { pop, batch, out, .. } = self;
        let (worker, now) = (&mut pop.workers[0], pop.now);
        let mut watch = Stopwatch::new();
        let (mut forwarded, mut sealed) = (0, 0);
        for chunk in packets.chunks(BATCH) {
            fill(batch, chunk.iter().map(|(ingress, packet)| (*ingress, packet.as_slice())));
            out.clear();
            watch.time(|| worker.process(batch, now, out));
            // Coalesced or not: what is counted is packets on the wire.
            forwarded += out.packets().map(|packet| packet.count() as usize).sum::<usize>();
            sealed += out.datagrams().len();
        }
        (watch.nanos(), forwarded, sealed)
    }

    pub fn tunn(&mut self, sessions: &[usize], direction: &str) -> f64 {
        let mut batch = Batch::with_slots(BATCH);
        let mut watch = Stopwatch::new();
        // As the worker does, one datagram behind the other.
        let mut to = vec![0; BATCH * 1_600];
        for chunk in sessions.chunks(BATCH) {
            let packets: Vec<Vec<u8>> = match direction {
                "down" => chunk.iter().map(|&n| self.inward[n].clone()).collect(),
                _ => chunk
                    .iter()
                    .map(|&n| {
                        let (tunnel, packet) = &self.outward[n];
                        seal(&mut self.bare[*tunnel].0, packet)
                    })
                    .collect(),
            };
            fill(&mut batch, packets.iter().map(|packet| (from_client(0), packet.as_slice())));
            let (bare, outward) = (&mut self.bare, &self.outward);
            watch.time(|| {
                let mut room = to.as_mut_slice();
                for ((_, packet, _), &n) in batch.packets().zip(chunk) {
                    let (here, rest) = room.split_at_mut((packet.len() + 32).max(148));
                    let server = &mut bare[outward[n].0].1;
                    match direction {
                        "down" => {
                            assert!(matches!(server.encapsulate(packet, here), TunnResult::WriteToNetwork(_)))
                        }
                        _ => assert!(matches!(
                            server.decapsulate(None, packet, here),
                            TunnResult::WriteToTunnelV4(..)
                        )),
                    }
                    room = rest;
                }
            });
        }
        watch.nanos()
    }

    pub fn ring(&mut self, sessions: &[usize], direction: &str) -> f64 {
        let nonce = || Nonce::assume_unique_for_key([0; 12]);
        let (mut sealing, mut opening) = (Stopwatch::new(), Stopwatch::new());
        for chunk in sessions.chunks(BATCH) {
            let mut packets: Vec<Vec<u8>> = chunk
                .iter()
                .map(|&n| {
                    let mut packet = Vec::with_capacity(self.outward[n].1.len() + 16);
                    packet.extend_from_slice(&self.outward[n].1);
                    packet
                })
                .collect();
            sealing.time(|| {
                for packet in &mut packets {
                    self.key.seal_in_place_append_tag(nonce(), Aad::empty(), packet).expect("sealed");
                }
            });
            opening.time(|| {
                for packet in &mut packets {
                    let opened = self.key.open_in_place(nonce(), Aad::empty(), packet);
                    black_box(opened.expect("opened").len());
                }
            });
        }
        if direction == "down" { sealing.nanos() } else { opening.nanos() }
    }
}

/// Puts packets into an empty `batch`.
pub fn fill<'a>(batch: &mut Batch, packets: impl Iterator<Item = (Ingress, &'a [u8])>) {
    batch.clear();
    for (ingress, packet) in packets {
        assert!(batch.push(ingress, packet), "there is room");
    }
}

/// New sessions a second through the slow path: the cipher's share is in it, as it is in life.
fn new_sessions() -> Vec<Row> {
    const EACH_ROUND: u32 = 20_000;
    [10, 1_000]
        .map(|rules| {
            let case = Case { bytes: 64, sessions: 1, rules, tunnels: 1 };
            let mut bench = Bench::new(case);
            let mut samples = Vec::new();
            for round in 0..ROUNDS as u32 {
                let sealed: Vec<_> = (round * EACH_ROUND..(round + 1) * EACH_ROUND)
                    .map(|n| {
                        let host = host_of(0, (n / 10_000) as usize);
                        let packet = udp((host, 10_000 + (n % 10_000) as u16), (SERVER, 80), 64);
                        (from_client(0), seal(&mut bench.pop.clients[0], &packet))
                    })
                    .collect();
                let (spent, packets, _) = bench.time(&sealed);
                assert_eq!(packets, sealed.len());
                samples.push(spent / f64::from(EACH_ROUND));
            }
            let worst = samples.iter().copied().fold(0.0, f64::max);
            let ns = median(samples);
            let round = bench.next_round();
            let [tunn, ring] =
                [bench.tunn(&round, "up"), bench.ring(&round, "up")].map(|nanos| nanos / ROUND as f64);
            println!(
                "new sessions, {rules} rules: {ns:.0} ns each, {:.0} thousand a second; worst round {worst:.0} ns",
                1e6 / ns
            );
            let sessions = ROUNDS * EACH_ROUND as usize;
            Row {
                ns_per_packet: Some(ns),
                tunn_ns_per_packet: Some(tunn),
                ring_ns_per_packet: Some(ring),
                ratio: Some(ns / tunn),
                ..Row::new(format!("new sessions, {rules} rules"), "up", Case { sessions, ..case })
            }
            .with("per_second", json!((1e9 / ns).round()))
        })
        .into()
}
