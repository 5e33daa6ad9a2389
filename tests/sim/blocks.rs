//! Port blocks: which branch has which ports of a pool, for how long, and whom it hits when there are none left.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, udp};
use popgate::pipeline::report::NatBlockRow;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const POOL: &str = "nat-pool = [\"198.51.100.0/30\"]";

/// acme with these lines in place of its pool's; its UDP sessions are kept for ten seconds.
fn policy(lines: &str) -> String {
    ACME.replace(POOL, lines) + "[session-timeouts]\nudp = \"10s\"\n"
}

fn with_pool(lines: &str) -> Sim {
    let mut sim = Sim::with_policies(&policy(lines), GLOBEX);
    sim.advance(2_000);
    sim
}

/// A branch's host begins something; what it is known by outside, if it gets out.
fn begin(sim: &mut Sim, branch: &str, port: u16) -> Option<SocketAddr> {
    let host = if branch == "berlin" { "10.1.0.5" } else { "10.2.0.5" };
    let packet = udp(&format!("{host}:{port}"), "203.0.113.80:53", b"").bytes();
    let out = sim.from_lan(branch, &packet);
    out.first().map(|out| end(out, 0))
}

/// Where a packet comes from (0), or goes (1).
fn end(packet: &[u8], which: usize) -> SocketAddr {
    ends(packet).split(" > ").nth(which).and_then(|end| end.parse().ok()).expect("an address and port")
}

/// Blocks of 64 ports that addresses and ports are of.
fn blocks(outsides: &[SocketAddr]) -> BTreeSet<(String, u16)> {
    outsides.iter().map(|outside| (outside.ip().to_string(), outside.port() / 64)).collect()
}

#[test]
fn a_branch_takes_its_ports_of_blocks_that_are_its_alone_and_of_one_address() {
    let mut sim = with_pool(&format!("{POOL}\nnat-blocks = {{ size = 64, per-branch = 3 }}"));
    let mut of = |branch| -> Vec<_> { (1..=130).filter_map(|port| begin(&mut sim, branch, port)).collect() };
    let (berlin, lyon) = (of("berlin"), of("lyon"));
    assert_eq!((berlin.len(), lyon.len()), (130, 130));
    let held = [blocks(&berlin), blocks(&lyon)];
    assert!(held[0].is_disjoint(&held[1]));
    let told = sim.nat_blocks("fra1");
    assert!(told.iter().all(|row| (row.tenant.as_str(), row.handoff.as_str()) == ("acme", "internet")));
    for (branch, held) in ["berlin", "lyon"].into_iter().zip(&held) {
        let of_branch = told.iter().filter(|row| row.branch.as_deref() == Some(branch));
        let first = |row: &NatBlockRow| {
            assert_eq!(row.last_port - row.first_port, 63);
            (row.address.to_string(), row.first_port / 64)
        };
        assert_eq!(&of_branch.map(first).collect::<BTreeSet<_>>(), held);
    }
    for held in held {
        assert_eq!(held.len(), 3, "130 ports are of three blocks: {held:?}");
        assert_eq!(held.iter().map(|(address, _)| address).collect::<BTreeSet<_>>().len(), 1);
    }
}

#[test]
fn answers_find_the_worker_that_has_the_block() {
    let mut sim = with_pool(&format!("{POOL}\nnat-blocks = {{ size = 128, per-branch = 1 }}"));
    for (branch, host) in [("berlin", "10.1.0.5:7"), ("lyon", "10.2.0.5:7")] {
        let out = sim.from_lan(branch, &udp(host, "203.0.113.80:53", b"").bytes());
        let back = sim.from_internet(&answer(&out[0], b"yes"));
        assert_eq!(end(&back[0], 1).to_string(), host);
    }
}

#[test]
fn a_pool_that_is_given_away_hits_the_branch_without_a_block_alone() {
    let mut sim = with_pool(
        "nat-pool = [\"198.51.100.0/32\"]\nnat-ports = \"1024-1087\"\nnat-blocks = { size = 64, per-branch = 2 }",
    );
    assert!(begin(&mut sim, "berlin", 1).is_some());
    assert!(begin(&mut sim, "lyon", 1).is_none());
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-pool-exhausted"), 1);
    assert!(begin(&mut sim, "berlin", 2).is_some());
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-pool-exhausted"), 1);
}

#[test]
fn rfc_6888_req_8_nobody_else_gets_a_block_for_two_minutes_after_its_last_binding() {
    let mut sim = with_pool(
        "nat-pool = [\"198.51.100.0/32\"]\nnat-ports = \"1024-1087\"\nnat-blocks = { size = 64, per-branch = 1 }",
    );
    assert!(begin(&mut sim, "berlin", 1).is_some());
    sim.advance(10_000 + 60_000);
    assert!(begin(&mut sim, "lyon", 1).is_none());
    assert!(begin(&mut sim, "berlin", 2).is_some(), "whose it was, it still is");
    sim.advance(10_000 + 119_000);
    assert!(begin(&mut sim, "lyon", 2).is_none());
    sim.advance(4_000);
    assert!(begin(&mut sim, "lyon", 3).is_some());
    assert!(begin(&mut sim, "berlin", 3).is_none());
}

#[test]
fn ports_that_are_in_no_block_and_that_a_workers_branches_no_longer_use_are_anothers_at_once() {
    let mut sim = with_pool("nat-pool = [\"198.51.100.0/32\"]\nnat-ports = \"1024-1087\"");
    assert_eq!((1..=80).filter(|port| begin(&mut sim, "berlin", *port).is_some()).count(), 64);
    assert!(begin(&mut sim, "lyon", 1).is_none());
    sim.advance(13_000);
    assert_eq!((1..=80).filter(|port| begin(&mut sim, "lyon", *port).is_some()).count(), 64);
}

#[test]
fn rfc_7422_deterministic_a_branch_has_the_ports_that_are_computed_for_it() {
    let mut sim =
        with_pool(&format!("{POOL}\nnat-blocks = {{ size = 16384, per-branch = 1, deterministic = true }}"));
    // Port 16,384 on is the first whole block; an address has three.
    for (branch, first) in [("berlin", 16_384), ("lyon", 32_768)] {
        for port in [1, 2, 20_000, 40_000, 60_000] {
            let outside = begin(&mut sim, branch, port).expect("a port");
            assert_eq!(outside.ip().to_string(), "198.51.100.0");
            assert!((first..first + 16_384).contains(&outside.port()), "{branch}: {outside}");
        }
    }
}

#[test]
fn a_commit_that_has_ports_computed_ends_bindings_to_others() {
    let mut sim = with_pool(POOL);
    let before = begin(&mut sim, "lyon", 1_100).expect("a port");
    assert_eq!(before.port(), 1_100);
    let computed = format!("{POOL}\nnat-blocks = {{ size = 1024, per-branch = 2, deterministic = true }}");
    sim.commit(&[("acme", &policy(&computed)), ("globex", GLOBEX)]);
    assert!(begin(&mut sim, "lyon", 1_100).is_none());
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-binding-revoked"), 1);
    let after = begin(&mut sim, "lyon", 1_100).expect("a port");
    assert!((3_072..5_120).contains(&after.port()), "{after}");
    assert_eq!(after.ip().to_string(), "198.51.100.0");
}

#[test]
fn a_commit_to_blocks_leaves_bindings_that_there_are_as_they_are() {
    let mut sim = with_pool(POOL);
    let before = begin(&mut sim, "lyon", 1_100);
    let in_blocks = format!("{POOL}\nnat-blocks = {{ size = 512, per-branch = 1 }}");
    sim.commit(&[("acme", &policy(&in_blocks)), ("globex", GLOBEX)]);
    assert_eq!(begin(&mut sim, "lyon", 1_100), before);
    let held: Vec<_> = (2_000..2_200).filter_map(|port| begin(&mut sim, "lyon", port)).collect();
    assert_eq!(held.iter().map(|outside| outside.port() / 512).collect::<BTreeSet<_>>().len(), 1);
}
