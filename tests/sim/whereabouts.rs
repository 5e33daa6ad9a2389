//! What the PoP itself answers hosts behind tunnels: where they are, by the name `popgate.internal`.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{ends, fragments, ping, read, source, tcp, udp};
use popgate::model::HostName;
use popgate::wire::tcp_flags::{ACK, FIN, RST, SYN};
use popgate::wire::{DnsQuestion, DnsResponse};
use serde_json::Value;
use std::net::IpAddr;

const V4: &str = "198.18.0.80";
const V6: &str = "fd70:6f70:6761:7465::80";

fn up(pop: &str, acme: &str, globex: &str) -> Sim {
    let mut sim = Sim::with_configurations(pop, acme, globex);
    sim.advance(2_000);
    sim
}

/// Sequence number and acknowledgment of a segment, and what it carries.
fn segment(packet: &[u8]) -> (u32, u32, u8, Vec<u8>) {
    let parsed = read(packet);
    let told = parsed.tcp_segment(packet).expect("a segment");
    let header = usize::from(packet[parsed.upper_at + 12] >> 4) * 4;
    (told.sequence, told.acknowledgment, told.flags, packet[parsed.upper_at + header..parsed.len].to_vec())
}

/// A host's segment behind its SYN of number 1.
fn behind(
    host: &str,
    to: &str,
    flags: u8,
    (sequence, acknowledgment): (u32, u32),
    content: &[u8],
) -> Vec<u8> {
    tcp(host, to, flags, content).sequence(sequence).acknowledges(acknowledgment).bytes()
}

/// A host's whole connection: what it is told.
fn fetch(sim: &mut Sim, branch: &str, host: &str, to: &str, request: &str) -> String {
    let told = sim.from_lan(branch, &tcp(host, to, SYN, b"").bytes());
    assert_eq!(ends(&told[0]), format!("{to} > {host}"));
    let (first, acknowledged, flags, _) = segment(&told[0]);
    assert_eq!((acknowledged, flags), (2, SYN | ACK));
    assert!(sim.from_lan(branch, &behind(host, to, ACK, (2, first.wrapping_add(1)), b"")).is_empty());
    let asked = behind(host, to, ACK, (2, first.wrapping_add(1)), request.as_bytes());
    let told = sim.from_lan(branch, &asked);
    let mut text = Vec::new();
    for packet in &told {
        let (at, acknowledged, _, content) = segment(packet);
        assert_eq!(at, first.wrapping_add(1).wrapping_add(text.len() as u32));
        assert_eq!(acknowledged as usize, 2 + request.len());
        text.extend(content);
    }
    assert_eq!(segment(told.last().expect("an answer")).2 & FIN, FIN);
    // What was lost on the way is asked for again.
    assert_eq!(sim.from_lan(branch, &asked), told);
    let all = first.wrapping_add(text.len() as u32 + 2);
    let end = behind(host, to, ACK | FIN, (2 + request.len() as u32, all), b"");
    let told = sim.from_lan(branch, &end);
    let (at, acknowledged, flags, _) = segment(&told[0]);
    assert_eq!((at, acknowledged as usize, flags), (all, 3 + request.len(), ACK));
    String::from_utf8(text).expect("text")
}

fn json(sim: &mut Sim, branch: &str, host: &str, to: &str) -> Value {
    let request = "GET / HTTP/1.1\r\nHost: popgate.internal\r\nAccept: application/json\r\n\r\n";
    let told = fetch(sim, branch, host, to, request);
    let (head, body) = told.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn hosts_of_two_tenants_with_one_address_are_each_told_where_they_are_and_leave_nothing_behind() {
    let pop = format!("metro = \"fra\"\nfacility = \"Kleyerstr. 90, hall 2\"\n{}", crate::net::POP);
    let mut sim = up(&pop, ACME, GLOBEX);
    for (branch, tenant, path) in [("berlin", "acme", "dsl"), ("site1", "globex", "wan")] {
        let told = json(&mut sim, branch, "10.1.0.5:4000", &format!("{V4}:80"));
        for (name, value) in [
            ("site", "fra1"),
            ("metro", "fra"),
            ("facility", "Kleyerstr. 90, hall 2"),
            ("tenant", tenant),
            ("branch", branch),
            ("path", path),
            ("address", "10.1.0.5"),
            ("class", "default"),
            ("handoff", "internet"),
        ] {
            assert_eq!(told[name], value, "{name} of {told}");
        }
        let out = sim.from_lan(branch, &udp("10.1.0.5:5000", "203.0.113.80:53", b"x").bytes());
        assert_eq!(told["public_address"], source(&out[0]).to_string(), "{branch}");
    }
    let at_pop = sim.sessions("fra1");
    assert!(at_pop.iter().all(|session| session.destination.to_string() != V4), "{at_pop:?}");
}

#[test]
fn the_path_is_the_one_that_the_question_came_by() {
    let mut sim = up(crate::net::POP, ACME, GLOBEX);
    sim.cut("203.0.113.1:1001");
    sim.advance(2_000);
    let told = json(&mut sim, "berlin", "10.1.0.5:4000", &format!("{V4}:80"));
    assert_eq!(told["path"], "lte");
}

#[test]
fn it_is_told_in_text_over_ipv6_too_and_whose_address_is_not_translated_is_known_by_its_own() {
    let mut sim = up(crate::net::POP, ACME, GLOBEX);
    let request = format!("GET / HTTP/1.1\r\nHost: [{V6}]\r\n\r\n");
    let told = fetch(&mut sim, "berlin", "[2001:db8:1::5]:4000", &format!("[{V6}]:80"), &request);
    assert!(told.contains("\r\n\r\nsite            fra1\n"), "{told}");
    assert!(told.ends_with("public address  2001:db8:1::5\n"), "{told}");
}

#[test]
fn the_public_address_is_a_branchs_own_where_it_has_ports_of_its_own() {
    let blocks = "nat-pool = [\"198.51.100.0/30\"]\nnat-blocks = { size = 64, per-branch = 2 }";
    let acme = ACME.replace("nat-pool = [\"198.51.100.0/30\"]", blocks);
    let mut sim = up(crate::net::POP, &acme, GLOBEX);
    for _before_and_after_it_has_a_block in 0..2 {
        let told = json(&mut sim, "lyon", "10.2.0.5:4000", &format!("{V4}:80"));
        let out = sim.from_lan("lyon", &udp("10.2.0.5:5000", "203.0.113.80:53", b"x").bytes());
        assert_eq!(told["public_address"], source(&out[0]).to_string());
    }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

#[test]
fn whoever_asks_a_resolver_beyond_for_the_name_is_told_it_by_the_pop() {
    let mut sim = up(crate::net::POP, ACME, GLOBEX);
    let mut addresses = Vec::new();
    // Capitals as resolvers put them in to know their answers by.
    for (kind, port) in [(1, 5300), (28, 5301), (65, 5302)] {
        let question = query("PopGate.inTERnal", kind);
        let asked = udp(&format!("10.1.0.5:{port}"), "9.9.9.9:53", &question).bytes();
        let told = sim.from_lan("berlin", &asked);
        assert_eq!(ends(&told[0]), format!("9.9.9.9:53 > 10.1.0.5:{port}"));
        let message = &told[0][28..];
        assert_eq!(message[..2], [0x12, 0x34]);
        assert_eq!(message[12..question.len()], question[12..], "to the letter");
        let response = DnsResponse::read(message).expect("a response");
        assert_eq!(response.names().next(), HostName::new(b"popgate.internal"));
        addresses.extend(response.addresses().map(|told| told.address));
    }
    assert_eq!(addresses, [V4, V6].map(|address| address.parse::<IpAddr>().expect("an address")));
    let other = udp("10.1.0.5:5303", "9.9.9.9:53", &query("www.example", 1)).bytes();
    let out = sim.from_lan("berlin", &other);
    assert!(
        DnsQuestion::read(&out[0][28..]).is_some() && source(&out[0]).to_string().starts_with("198.51.100.")
    );
}

#[test]
fn policy_names_another_address_or_none_and_where_a_branch_has_the_usual_one_it_is_the_branchs() {
    let named = |line: &str| ACME.replace("tenant = \"acme\"", &format!("tenant = \"acme\"\n{line}"));
    let mut sim = up(crate::net::POP, &named("whereabouts = [\"192.0.2.80\"]"), GLOBEX);
    assert_eq!(json(&mut sim, "berlin", "10.1.0.5:4000", "192.0.2.80:80")["branch"], "berlin");
    let out = sim.from_lan("berlin", &tcp("10.1.0.5:4001", &format!("{V4}:80"), SYN, b"").bytes());
    assert!(source(&out[0]).to_string().starts_with("198.51.100."), "it is any address out there");

    sim.commit(&[("acme", &named("whereabouts = \"none\"")), ("globex", GLOBEX)]);
    let out =
        sim.from_lan("berlin", &udp("10.1.0.5:5300", "9.9.9.9:53", &query("popgate.internal", 1)).bytes());
    assert!(source(&out[0]).to_string().starts_with("198.51.100."), "nobody answers here");

    let theirs = ACME.replace("\"10.2.0.0/16\"", "\"10.2.0.0/16\", \"198.18.0.0/24\"");
    let mut sim = up(crate::net::POP, &theirs, GLOBEX);
    let out = sim.from_lan("berlin", &tcp("10.1.0.5:4000", &format!("{V4}:80"), SYN, b"").bytes());
    assert_eq!(ends(&out[0]), format!("10.1.0.5:4000 > {V4}:80"), "at lyon's LAN");
}

#[test]
fn what_is_not_answered_there_is_refused_and_pings_are_answered() {
    let mut sim = up(crate::net::POP, ACME, GLOBEX);
    let told = sim.from_lan("berlin", &ping("10.1.0.5", V4, 7, b"there?").bytes());
    assert_eq!(ends(&told[0]), format!("{V4} > 10.1.0.5 echo reply 7"));
    assert_eq!(told[0][28..], *b"there?");
    let told = sim.from_lan("berlin", &ping("2001:db8:1::5", V6, 7, b"").bytes());
    assert_eq!(ends(&told[0]), format!("{V6} > 2001:db8:1::5 echo reply 7"));
    let told = sim.from_lan("berlin", &tcp("10.1.0.5:4000", &format!("{V4}:443"), SYN, b"").bytes());
    assert_eq!(segment(&told[0]).2 & RST, RST);
    // Of a connection that was never begun, or with another PoP.
    let stray = behind("10.1.0.5:4001", &format!("{V4}:80"), ACK, (2, 77), b"GET / HTTP/1.1\r\n\r\n");
    sim.forge("berlin", &stray);
    assert_eq!(sim.dropped("fra1", Some("acme"), "not-answered"), 2);
}

#[test]
fn nobody_asks_in_anothers_name() {
    let mut sim = up(crate::net::POP, ACME, GLOBEX);
    for packet in [
        tcp("10.2.0.5:4000", &format!("{V4}:80"), SYN, b"").bytes(),
        udp("10.2.0.5:5300", "9.9.9.9:53", &query("popgate.internal", 1)).bytes(),
    ] {
        sim.forge("berlin", &packet);
        assert!(sim.take_delivered().is_empty());
    }
    assert_eq!(sim.dropped("fra1", Some("acme"), "source-not-allowed"), 2);
    assert!(sim.from_internet(&tcp("203.0.113.9:4000", &format!("{V4}:80"), SYN, b"").bytes()).is_empty());
}

#[test]
fn pieces_of_a_question_are_not_put_together() {
    let mut sim = up(crate::net::POP, ACME, GLOBEX);
    let whole = udp("10.1.0.5:5300", &format!("{V4}:80"), &[7; 2_000]).may_fragment().bytes();
    for part in fragments(&whole, 1_000) {
        sim.from_lan("berlin", &part);
    }
    assert_eq!(sim.dropped("fra1", Some("acme"), "not-answered"), 1);
    assert_eq!(sim.dropped("fra1", Some("acme"), "fragment-unknown"), 2);
}
