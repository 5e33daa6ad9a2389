//! Order: packets of a flow leave in the order in which they came, whatever comes between them and however they travel:
//! singly, coalesced, as super-packets, over several workers.

use crate::net::Sim;
use crate::packets::{ends, read, udp};
use popgate::wire::Ingress;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

const FLOWS: u16 = 8;
/// More than fit one batch.
const PACKETS: usize = 400;

/// The numbered packets of all flows, mixed: runs of equal sizes, which coalesce, and single ones between them.
fn mixed(rng: &mut StdRng, ends_of: impl Fn(u16) -> (String, String)) -> Vec<Vec<u8>> {
    let mut numbers = [0u32; FLOWS as usize];
    let mut packets = Vec::new();
    while packets.len() < PACKETS {
        let flow = rng.random_range(0..FLOWS);
        let (from, to) = ends_of(flow);
        let len = rng.random_range(4..1_200);
        for _ in 0..rng.random_range(1..12) {
            let number = &mut numbers[usize::from(flow)];
            let mut payload = number.to_be_bytes().to_vec();
            *number += 1;
            // Now and then a shorter one, which ends a super-packet.
            payload.resize(if rng.random_ratio(1, 8) { 4 } else { len }, 7);
            packets.push(udp(&from, &to, &payload).bytes());
        }
    }
    packets
}

/// That every flow's numbers go up by one, from 0.
fn assert_in_order(delivered: Vec<(String, Vec<u8>)>, expected: usize, seed: u64) {
    let mut next: BTreeMap<String, u32> = BTreeMap::new();
    assert_eq!(delivered.len(), expected, "seed {seed}: none is lost");
    for (place, packet) in delivered {
        let upper = &packet[read(&packet).upper_at..];
        let number = u32::from_be_bytes([upper[8], upper[9], upper[10], upper[11]]);
        let next = next.entry(ends(&packet)).or_default();
        assert_eq!(number, *next, "seed {seed}, {place}: {}", ends(&packet));
        *next += 1;
    }
}

#[test]
fn packets_of_a_flow_leave_in_the_order_in_which_they_came_in_both_directions() {
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sim = Sim::up();
        let up = mixed(&mut rng, |flow| {
            (format!("10.1.0.{}:5000", 5 + flow), format!("203.0.113.{}:443", 80 + flow % 3))
        });
        let lan = Ingress::Device(sim.device("berlin", "lan"));
        let mut pool = BTreeMap::new();
        let mut delivered = Vec::new();
        for batch in up.chunks(64) {
            let batch: Vec<_> = batch.iter().map(|packet| (lan, packet.clone())).collect();
            sim.inject_together("berlin", &batch);
            delivered.extend(sim.take_delivered());
        }
        for (_, packet) in &delivered {
            let known = pool.len() as u16;
            pool.entry(ends(packet)).or_insert(known);
        }
        assert_eq!(pool.len(), usize::from(FLOWS), "seed {seed}");
        assert!(sim.node("fra1").plane.coalesced > 0, "seed {seed}");
        assert_in_order(delivered, up.len(), seed);

        let flows: Vec<(String, String)> = (pool.keys())
            .map(|ends| ends.split_once(" > ").map(|(inside, out)| (out.to_owned(), inside.to_owned())))
            .map(|ends| ends.expect("two ends"))
            .collect();
        let down = mixed(&mut rng, |flow| flows[usize::from(flow)].clone());
        let internet = Ingress::Device(sim.device("fra1", "internet"));
        for batch in down.chunks(64) {
            let batch: Vec<_> = batch.iter().map(|packet| (internet, packet.clone())).collect();
            sim.inject_together("fra1", &batch);
        }
        let delivered = sim.take_delivered();
        assert_in_order(delivered, down.len(), seed);
    }
}

#[test]
fn what_follows_a_super_packet_leaves_behind_its_segments() {
    let mut sim = Sim::up();
    let opened = sim.from_lan("berlin", &udp("10.1.0.5:5000", "203.0.113.80:443", b"?").bytes());
    let inside = ends(&opened[0]).split_once(" > ").expect("two ends").0.to_owned();
    let device = sim.device("fra1", "internet");
    let mut number = 0u32;
    for segments in [3, 1, 20, 1, 1, 7] {
        let payload: Vec<u8> = (number..number + segments)
            .flat_map(|number| {
                let mut part = number.to_be_bytes().to_vec();
                part.resize(1_000, 7);
                part
            })
            .collect();
        number += segments;
        let packet = udp("203.0.113.80:443", &inside, &payload);
        match segments {
            1 => sim.inject("fra1", Ingress::Device(device), &packet.bytes()),
            _ => sim.inject_super("fra1", device, &packet.bytes(), 1_000),
        }
    }
    assert_in_order(sim.take_delivered(), number as usize, 0);
}
