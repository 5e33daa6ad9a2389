//! 100,000 random, truncated and bit-flipped datagrams and inner packets: nothing panics, everything is counted.

use crate::net::Sim;
use crate::packets::{addr, ping, tcp, udp};
use popgate::model::TransportId;
use popgate::wire::Ingress;
use popgate::wire::tcp_flags::SYN;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SEED: u64 = 0x0706_0504_0302_0100;
const PACKETS: u64 = 100_000;

/// Damages `bytes` for certain: cut short, bits flipped, a run overwritten, or made longer.
pub fn damage(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    let before = bytes.clone();
    while *bytes == before {
        damage_perhaps(bytes, rng);
    }
}

fn damage_perhaps(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    match rng.random_range(0..4) {
        0 => bytes.truncate(rng.random_range(0..=bytes.len())),
        1 => {
            for _ in 0..rng.random_range(1..8) {
                if let Some(len) = std::num::NonZero::new(bytes.len()) {
                    bytes[rng.random_range(0..len.get())] ^= 1 << rng.random_range(0..8);
                }
            }
        }
        2 => {
            let at = rng.random_range(0..=bytes.len());
            let end = rng.random_range(at..=bytes.len());
            rng.fill(&mut bytes[at..end]);
        }
        _ => bytes.extend((0..rng.random_range(1..40)).map(|_| rng.random::<u8>())),
    }
}

#[test]
fn rubbish_at_the_udp_port_is_counted_to_the_last_datagram() {
    let mut sim = Sim::up();
    sim.record_datagrams();
    for n in 0..40 {
        sim.from_lan("lyon", &udp(&format!("10.2.0.1:{}", 1 + n), "203.0.113.80:53", &[0; 200]).bytes());
    }
    sim.restart("lyon");
    sim.advance(500);
    let mut samples = sim.recorded();
    samples.push(sim.initiation_of("lyon", "dsl"));
    samples.push(sim.initiation([0x77; 32]));
    let mut rng = StdRng::seed_from_u64(SEED);
    sim.take_strays(2);
    let before = sim.node("fra1").taken_in();
    for n in 0..PACKETS {
        let mut datagram = if n % 5 == 0 {
            (0..rng.random_range(0..300)).map(|_| rng.random()).collect()
        } else {
            samples[rng.random_range(0..samples.len())].clone()
        };
        damage(&mut datagram, &mut rng);
        let from = addr(&format!("203.0.113.{}:9", rng.random_range(1..250)));
        sim.inject("fra1", Ingress::Transport { transport: TransportId(0), from }, &datagram);
    }
    // mac2 means nothing while there is no load: an initiation damaged there is a good one, and is answered.
    let accounted = sim.node("fra1").taken_in() - before + sim.take_strays(2);
    assert_eq!(accounted, PACKETS, "seed {SEED:#x}: {:?}", sim.drops("fra1"));
}

#[test]
fn rubbish_inside_a_tunnel_is_counted_to_the_last_packet() {
    let mut sim = Sim::up();
    let samples = [
        udp("10.1.0.5:1000", "203.0.113.80:53", &[1; 100]).bytes(),
        udp("10.1.0.5:1000", "10.2.0.1:53", &[1; 1_000]).may_fragment().bytes(),
        tcp("10.1.0.5:1000", "203.0.113.80:443", SYN, b"").bytes(),
        tcp("10.1.0.5:1000", "203.0.113.80:23", SYN, b"").bytes(),
        ping("10.1.0.5", "203.0.113.80", 1, &[0; 40]).bytes(),
        ping("2001:db8:1::5", "2001:db8:ffff::1", 1, &[0; 40]).bytes(),
        udp("[2001:db8:1::5]:1000", "[2001:db8:ffff::1]:53", &[1; 100]).bytes(),
        popgate::path::request(1, popgate::path::Asks { answered: true, ..Default::default() }, sim.now),
    ];
    let mut rng = StdRng::seed_from_u64(SEED);
    let device = sim.device("fra1", "internet");
    let before = sim.node("fra1").taken_in();
    let mut sent = 0;
    for n in 0..PACKETS {
        let mut packet = samples[rng.random_range(0..samples.len())].clone();
        damage(&mut packet, &mut rng);
        // Mended, so that it gets past the header checksum.
        if packet.len() >= 20 && packet[0] == 0x45 && n % 2 == 0 {
            packet[10..12].copy_from_slice(&[0, 0]);
            let sum = !popgate::wire::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        if n % 3 == 0 {
            sim.inject("fra1", Ingress::Device(device), &packet);
            sent += 1;
        } else {
            // Damage that spares the headers leaves a probe a probe: it is answered, not counted here.
            let probe = popgate::wire::parse_ip(&packet)
                .ok()
                .and_then(|ip| popgate::path::Message::read(&packet, &ip, sim.now));
            sent += u64::from(sim.forge("berlin", &packet) && probe.is_none());
        }
    }
    sim.take_delivered();
    assert_eq!(sim.node("fra1").taken_in() - before, sent, "seed {SEED:#x}: {:?}", sim.drops("fra1"));
}
