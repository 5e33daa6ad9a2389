//! Must hold 7, on a real socket: whatever strangers send to the UDP port is counted and harms nobody. The 100,000 packets
//! that reach the worker itself are in `tests/sim/rubbish.rs`.

use crate::world::{World, eventually};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use std::net::UdpSocket;
use std::time::Duration;

const SEED: u64 = 7;
const DATAGRAMS: u64 = 20_000;
/// How many stock peers there are in the lab.
const TUNNELS: u64 = 1;
/// As many as the kernel surely has room for at the PoP's socket.
const BURST: u64 = 50;

#[test]
fn rubbish_at_the_udp_port_is_counted_and_traffic_goes_on() {
    let world = World::up("erubbish", &["site1", "site1-host"]);
    world.await_ping("site1-host", "203.0.113.80");
    let before = dropped_at_the_port(&world);
    let received_before = udp_received(&world);
    println!("seed {SEED}");
    let send = || {
        let mut rng = StdRng::seed_from_u64(SEED);
        let socket = UdpSocket::bind("203.0.113.80:0").expect("a socket");
        let mut datagram = [0; 1_472];
        for number in 0..DATAGRAMS {
            let len = rubbish(&mut rng, &mut datagram);
            let to = if rng.random() { "192.0.2.1:51820" } else { "192.0.2.5:51820" };
            socket.send_to(&datagram[..len], to).expect("sent");
            if number % BURST == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    };
    world.enter("web", send).expect("entered");
    // What the kernel had no room for nobody can count but the kernel.
    let (mut counted, mut received) = (0, 0);
    eventually("all that the socket received is counted", || {
        counted = dropped_at_the_port(&world) - before;
        received = udp_received(&world) - received_before;
        // Of what the tunnels themselves received meanwhile, at most a keepalive each.
        (received - TUNNELS..=received).contains(&counted)
    });
    println!("of {DATAGRAMS} datagrams of rubbish, {received} reached popgate, which counted {counted}");
    assert!(received > DATAGRAMS / 2, "the kernel dropped most of it: this tests nothing");
    assert_eq!(world.status("fra1").site.site, "fra1", "the process is alive");
    assert!(world.pings("site1-host", "203.0.113.80"), "and forwards");
    let drops = world.drops("fra1");
    for reason in ["not-wireguard", "handshake-mac-invalid", "receiver-index-unknown"] {
        assert!(drops.iter().any(|row| row.reason == reason && row.packets > 0), "no {reason}: {drops:?}");
    }
}

/// Something that is nearly, or not at all, a WireGuard message: how long it is.
fn rubbish(rng: &mut StdRng, datagram: &mut [u8; 1_472]) -> usize {
    rng.fill_bytes(datagram);
    let message_type = rng.random_range(0..=5);
    // The length that its type should have (whitepaper section 5.4), or any.
    let len = match message_type {
        1 if rng.random() => 148,
        2 if rng.random() => 92,
        3 if rng.random() => 64,
        _ => rng.random_range(0..=datagram.len()),
    };
    if message_type > 0 {
        datagram[..4].copy_from_slice(&[message_type, 0, 0, 0]);
    }
    len
}

/// Datagrams at the PoP's port that went no further.
fn dropped_at_the_port(world: &World) -> u64 {
    const REASONS: [&str; 6] = [
        "not-wireguard",
        "handshake-mac-invalid",
        "handshake-refused",
        "handshake-rate-limited",
        "peer-unknown",
        "receiver-index-unknown",
    ];
    let rows = world.drops("fra1");
    rows.iter().filter(|row| REASONS.contains(&&*row.reason)).map(|row| row.packets).sum()
}

/// Datagrams that the kernel has handed to sockets in the PoP's namespace.
fn udp_received(world: &World) -> u64 {
    let snmp = world.must("fra1", &["cat", "/proc/net/snmp"]);
    let line = snmp.lines().filter(|line| line.starts_with("Udp:")).nth(1).expect("counters");
    line.split(' ').nth(1).and_then(|count| count.parse().ok()).expect("InDatagrams")
}
