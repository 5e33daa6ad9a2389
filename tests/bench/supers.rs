//! Super-packets: what one UDP GRO receive holds of one flow becomes one write to the TUN device, and one TSO or USO read
//! from it becomes as many datagrams. Beside them `Tunn`, which knows packets only.

use crate::cases::{BASE, Case, row};
use crate::measure::{Stopwatch, median};
use crate::pop::{Pop, bare_pair, from_client, host_of, process, seal, source_of, tcp, udp};
use crate::{ROUND, ROUNDS, Row, SERVER, Wanted};
use boringtun::noise::{Tunn, TunnResult};
use popgate::wire::{Batch, Outbound, tcp_flags};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::net::Ipv4Addr;

const FLOWS: usize = 1_000;

/// Of one super-packet.
#[derive(Clone, Copy)]
struct Shape {
    tcp: bool,
    segments: usize,
    /// Inner bytes of each.
    bytes: usize,
}

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    for (tcp, segments, bytes) in [(true, 44, 1_420), (false, 44, 1_420), (true, 64, 64), (false, 64, 64)] {
        let shape = Shape { tcp, segments, bytes };
        let kind = if tcp { "TCP" } else { "UDP" };
        let name = |direction| {
            format!("super-packets {direction}, {segments} x {bytes} B {kind}, {FLOWS} sessions, 100 rules")
        };
        if !wanted.has(&name("up")) && !wanted.has(&name("down")) {
            continue;
        }
        let mut bench = Supers::new(shape);
        for direction in ["up", "down"] {
            let case = Case { bytes, sessions: FLOWS, ..BASE };
            let row = row(name(direction), direction, case, bench.run(direction));
            rows.push(row.with("segments", segments).with("protocol", kind));
        }
    }
    rows
}

struct Supers {
    shape: Shape,
    pop: Pop,
    bare: (Tunn, Tunn),
    key: LessSafeKey,
    flows: Vec<Flow>,
    next: usize,
}

struct Flow {
    host: (Ipv4Addr, u16),
    /// The host's end as the server sees it.
    pool: (Ipv4Addr, u16),
    /// TCP's next.
    sequence: u32,
}

impl Supers {
    fn new(shape: Shape) -> Supers {
        let mut pop = Pop::new(1, 100, 1);
        let mut flows = Vec::new();
        for n in 0..FLOWS {
            let host = (host_of(0, n / 100), 2_000 + (n % 100) as u16);
            let first = match shape.tcp {
                true => tcp(host, (SERVER, 443), 0, tcp_flags::ACK, 40),
                false => udp(host, (SERVER, 443), 40),
            };
            let mut out = Outbound::default();
            let sealed = seal(&mut pop.clients[0], &first);
            process(&mut pop.workers[0], &[(from_client(0), sealed)], pop.now, &mut out);
            let left = out.packets().next().expect("forwarded").to_vec();
            flows.push(Flow { host, pool: source_of(&left), sequence: 0 });
        }
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).expect("a key"));
        Supers { shape, pop, bare: bare_pair(), key, flows, next: 0 }
    }

    fn run(&mut self, direction: &str) -> [f64; 3] {
        let supers = ROUND / self.shape.segments;
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let mut watches = [(); 3].map(|()| Stopwatch::new());
            let mut batch = Batch::with_slots(1);
            let mut out = Outbound::default();
            for _ in 0..supers {
                let mut segments = self.segments(direction);
                if direction == "up" {
                    self.receive(&segments, &mut batch);
                } else {
                    assert!(batch.push_super(
                        self.pop.internet,
                        &self.whole(),
                        self.payload_bytes().try_into().expect("16 bits")
                    ));
                }
                let (worker, now) = (&mut self.pop.workers[0], self.pop.now);
                watches[0].time(|| worker.process(&mut batch, now, &mut out));
                match direction {
                    "up" => {
                        let made: Vec<u64> = out.packets().map(|packet| packet.count()).collect();
                        assert_eq!(made, [self.shape.segments as u64], "one super-packet");
                    }
                    _ => assert_eq!(out.datagrams().len(), self.shape.segments, "a datagram each"),
                }
                batch.clear();
                out.clear();
                self.peers(direction, &mut segments, &mut batch, &mut watches);
                batch.clear();
            }
            let packets = (supers * self.shape.segments) as f64;
            for (samples, watch) in samples.iter_mut().zip(watches) {
                samples.push(watch.nanos() / packets);
            }
        }
        samples.map(median)
    }

    fn payload_bytes(&self) -> usize {
        self.shape.bytes - if self.shape.tcp { 40 } else { 28 }
    }

    /// The next flow's packets, one by one.
    fn segments(&mut self, direction: &str) -> Vec<Vec<u8>> {
        self.next = (self.next + 7) % FLOWS;
        let (payload, shape) = (self.payload_bytes() as u32, self.shape);
        let Flow { host, pool, sequence } = &mut self.flows[self.next];
        let (from, to) = if direction == "up" { (*host, (SERVER, 443)) } else { ((SERVER, 443), *pool) };
        (0..shape.segments)
            .map(|_| {
                *sequence = sequence.wrapping_add(payload);
                match shape.tcp {
                    true => tcp(from, to, *sequence, tcp_flags::ACK, shape.bytes),
                    false => udp(from, to, shape.bytes),
                }
            })
            .collect()
    }

    /// The same flow's packets down, as the TUN device gives them.
    fn whole(&self) -> Vec<u8> {
        let Flow { pool, sequence, .. } = self.flows[self.next];
        let len = self.shape.bytes + (self.shape.segments - 1) * self.payload_bytes();
        match self.shape.tcp {
            true => tcp((SERVER, 443), pool, sequence, tcp_flags::ACK, len),
            false => udp((SERVER, 443), pool, len),
        }
    }

    /// One UDP GRO receive.
    fn receive(&mut self, segments: &[Vec<u8>], batch: &mut Batch) {
        let mut len = 0;
        let room = batch.free().next().expect("a slot");
        for segment in segments {
            let sealed = seal(&mut self.pop.clients[0], segment);
            room[len..len + sealed.len()].copy_from_slice(&sealed);
            len += sealed.len();
        }
        batch.commit(from_client(0), len, self.shape.bytes + 32);
    }

    /// `Tunn` and ring on the same packets.
    fn peers(
        &mut self,
        direction: &str,
        segments: &mut [Vec<u8>],
        batch: &mut Batch,
        watches: &mut [Stopwatch; 3],
    ) {
        let (client, server) = &mut self.bare;
        let mut to = vec![0; segments.len() * (self.shape.bytes + 64).max(148)];
        if direction == "up" {
            let mut len = 0;
            let room = batch.free().next().expect("a slot");
            for segment in segments.iter() {
                let sealed = seal(client, segment);
                room[len..len + sealed.len()].copy_from_slice(&sealed);
                len += sealed.len();
            }
            batch.commit(from_client(0), len, self.shape.bytes + 32);
            watches[1].time(|| {
                for ((_, packet, _), to) in
                    batch.packets().zip(to.chunks_mut((self.shape.bytes + 64).max(148)))
                {
                    assert!(matches!(server.decapsulate(None, packet, to), TunnResult::WriteToTunnelV4(..)));
                }
            });
        } else {
            watches[1].time(|| {
                for (packet, to) in segments.iter().zip(to.chunks_mut((self.shape.bytes + 64).max(148))) {
                    assert!(matches!(server.encapsulate(packet, to), TunnResult::WriteToNetwork(_)));
                }
            });
        }
        let nonce = || Nonce::assume_unique_for_key([0; 12]);
        segments.iter_mut().for_each(|segment| segment.reserve(16));
        let mut sealing = || {
            for segment in segments.iter_mut() {
                self.key.seal_in_place_append_tag(nonce(), Aad::empty(), segment).expect("sealed");
            }
        };
        if direction == "down" {
            watches[2].time(sealing);
            return;
        }
        sealing();
        watches[2].time(|| {
            for segment in segments.iter_mut() {
                self.key.open_in_place(nonce(), Aad::empty(), segment).expect("opened");
            }
        });
    }
}
