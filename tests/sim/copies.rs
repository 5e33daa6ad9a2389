//! Packets that are sent by two paths, of which the first to come is passed on and the other is not.

use crate::net::{ACME, GLOBEX, Link, Sim};
use crate::packets::{answer, ping, tcp, udp};
use crate::steering::{DSL, LTE};
use popgate::pipeline::report::PathReport;
use popgate::wire::tcp_flags::SYN;
use std::collections::BTreeMap;

fn remediation(remediation: &str) -> Sim {
    let policy = ACME.replacen(
        "prefer = [\"dsl\", \"lte\"]",
        &format!("prefer = [\"dsl\", \"lte\"]\nremediation = \"{remediation}\""),
        1,
    );
    let mut sim = Sim::with_policies(&policy, GLOBEX);
    sim.advance(2_000);
    sim
}

fn path(sim: &mut Sim, node: &str, site: &str, name: &str) -> PathReport {
    let found = sim.paths(node).into_iter().find(|path| path.site == site && path.path == name);
    found.unwrap_or_else(|| panic!("no path {site}/{name}"))
}

fn numbered(number: u32) -> Vec<u8> {
    udp("10.1.0.5:1000", "203.0.113.80:53", &number.to_be_bytes()).bytes()
}

/// How often each number has come out of the PoP to the internet.
fn delivered(sim: &mut Sim, times: &mut BTreeMap<u32, u32>) {
    for (to, packet) in sim.take_delivered() {
        assert_eq!(to, "fra1 pg-internet");
        let number = packet.last_chunk().expect("four bytes");
        *times.entry(u32::from_be_bytes(*number)).or_default() += 1;
    }
}

#[test]
fn what_always_goes_twice_loses_nothing_to_a_cut_and_comes_once() {
    let mut sim = remediation("duplicate-always");
    let link = |delay_ms| [Link { delay_ms, ..Link::default() }; 2];
    sim.impair(DSL, link(15));
    // Slower by what two paths may differ by.
    sim.impair(LTE, link(215));
    sim.advance(1_000);
    let mut times = BTreeMap::new();
    for number in 0..500 {
        if number == 250 {
            sim.cut(DSL);
        }
        sim.inject_from_lan("berlin", &numbered(number));
        sim.advance(20);
        delivered(&mut sim, &mut times);
    }
    sim.advance(1_000);
    delivered(&mut sim, &mut times);
    assert_eq!(times.len(), 500);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    // As many as were not under way on the line that was cut, with those that were sent until that was known.
    let duplicates = path(&mut sim, "fra1", "berlin", "lte").duplicate_packets;
    assert!((245..=250).contains(&duplicates), "{duplicates}");
    assert_eq!(sim.dropped("fra1", Some("acme"), "duplicate"), duplicates);
    assert!(path(&mut sim, "berlin", "fra1", "lte").duplicated_packets >= 250);
}

#[test]
fn answers_go_twice_too_and_a_path_that_is_sound_alone_carries_each_once() {
    let mut sim = remediation("duplicate-always");
    sim.cut(LTE);
    sim.advance(5_000);
    let out = sim.from_lan("berlin", &numbered(1));
    assert_eq!(sim.from_internet(&answer(&out[0], b"y")).len(), 1);
    assert_eq!(path(&mut sim, "berlin", "fra1", "lte").duplicated_packets, 0, "there is no second path");
    sim.heal(LTE);
    sim.advance(5_000);
    let out = sim.from_lan("berlin", &numbered(2));
    assert_eq!(out.len(), 1);
    assert_eq!(sim.from_internet(&answer(&out[0], b"y")).len(), 1);
    assert_eq!(path(&mut sim, "berlin", "fra1", "lte").duplicated_packets, 1);
    assert_eq!(path(&mut sim, "fra1", "berlin", "lte").duplicated_packets, 1);
}

#[test]
fn while_a_path_is_suspect_what_is_protected_goes_twice_and_nothing_else_ever_does() {
    let mut sim = remediation("duplicate-on-suspect");
    let link = [Link { delay_ms: 20, ..Link::default() }; 2];
    sim.impair(DSL, link);
    sim.impair(LTE, link);
    sim.advance(1_000);
    let mut times = BTreeMap::new();
    let mut number = 0;
    let mut send = |sim: &mut Sim, times: &mut _, packets| {
        for _ in 0..packets {
            sim.inject_from_lan("berlin", &numbered(number));
            number += 1;
            sim.advance(20);
            delivered(sim, times);
        }
    };
    send(&mut sim, &mut times, 100);
    assert_eq!(path(&mut sim, "berlin", "fra1", "lte").duplicated_packets, 0, "nothing is wrong");
    sim.cut(DSL);
    send(&mut sim, &mut times, 100);
    sim.advance(100);
    delivered(&mut sim, &mut times);
    let duplicated = path(&mut sim, "berlin", "fra1", "lte").duplicated_packets;
    assert!((1..=8).contains(&duplicated), "for as long as nobody knew: {duplicated}");
    let lost = 200 - times.len();
    assert!(lost <= 4, "{lost} lost");
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[test]
fn a_stock_client_and_a_class_that_asks_for_nothing_are_sent_no_copies() {
    let mut sim = remediation("duplicate-always");
    // Lyon has one path; Berlin's bulk has a policy of its own.
    sim.from_lan("lyon", &udp("10.2.0.1:1", "203.0.113.80:53", b"x").bytes());
    sim.from_lan("berlin", &tcp("10.1.0.5:1000", "203.0.113.80:5201", SYN, b"").bytes());
    for report in sim.paths("berlin").into_iter().chain(sim.paths("lyon")).chain(sim.paths("fra1")) {
        assert_eq!((report.duplicated_packets, report.duplicate_packets), (0, 0), "{report:?}");
    }
}

#[test]
fn a_packet_leaves_room_for_what_tells_its_copies_and_its_sender_is_told_how_much() {
    let mut sim = remediation("duplicate-always");
    let whole = |bytes: usize| udp("10.1.0.5:1", "203.0.113.80:53", &vec![0; bytes - 28]).bytes();
    assert_eq!(sim.from_lan("berlin", &whole(1_408)).len(), 1);
    assert_eq!(path(&mut sim, "berlin", "fra1", "lte").duplicated_packets, 1);
    let told = sim.from_lan("berlin", &whole(1_409));
    let [error] = &told[..] else { panic!("{told:?}") };
    assert_eq!((error[20], error[21], &error[26..28]), (3, 4, &1_408_u16.to_be_bytes()[..]), "RFC 1191");
    assert_eq!(sim.from_lan("berlin", &ping("10.1.0.5", "203.0.113.80", 1, b"x").bytes()).len(), 1);
}
