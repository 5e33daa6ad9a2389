//! NAT64: hosts that have IPv6 alone reach servers that have IPv4 alone, and each sees packets of its own family.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, fragments, is_sound, other, ping, read, source, tcp, udp};
use popgate::config::Outcome;
use popgate::model::{AskedFlow, Protocol};
use popgate::wire::tcp_flags::{ACK, SYN};
use popgate::wire::{self, IcmpError};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

const PREFIX: &str = "2001:db8:64::/96";

/// acme's internet handoff leads from IPv6 to IPv4, and has more to say.
fn policy(more: &str) -> String {
    let pool = "nat-pool = [\"198.51.100.0/30\"]";
    ACME.replace(pool, &format!("{pool}\nnat64-prefix = \"{PREFIX}\"\n{more}"))
}

fn up(policy: &str) -> Sim {
    let mut sim = Sim::with_policies(policy, GLOBEX);
    sim.advance(2_000);
    sim
}

/// `198.51.100.1:5001`: what the internet sees `packet` come from.
fn seen_as(packet: &[u8]) -> String {
    ends(packet).split_once(" > ").expect("two ends").0.to_owned()
}

const HOST: &str = "2001:db8:1::5";
/// What the host calls 203.0.113.80, as it is written.
const SERVER: &str = "2001:db8:64::cb00:7150";

#[test]
fn tcp_udp_and_echo_reach_a_server_of_ipv4_and_their_answers_come_back() {
    let mut sim = up(&policy(""));
    for packet in [
        tcp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:443"), SYN, b"").bytes(),
        udp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:53"), b"question").bytes(),
        ping(HOST, SERVER, 77, b"data").bytes(),
    ] {
        let out = sim.send("berlin", "lan", &packet);
        assert_eq!(out.len(), 1, "{:?}", sim.drops("fra1"));
        let (device, out) = &out[0];
        assert_eq!(device, "fra1 pg-internet");
        let outside = seen_as(out);
        assert!(outside.starts_with("198.51.100."), "{outside}");
        assert!(ends(out).contains("> 203.0.113.80"), "{}", ends(out));
        let back = sim.send("fra1", "internet", &answer(out, b"answer"));
        assert_eq!(back.len(), 1, "{:?}", sim.drops("fra1"));
        assert_eq!(back[0].0, "berlin pg-lan");
        assert_eq!(ends(&back[0].1), ends(&answer(&packet, b"answer")));
        // And on.
        let parsed = read(&packet);
        if parsed.tcp_flags() == 0 {
            assert_eq!(seen_as(&sim.from_lan("berlin", &packet)[0]), outside);
        } else {
            let ack = tcp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:443"), ACK, b"more").bytes();
            assert_eq!(seen_as(&sim.from_lan("berlin", &ack)[0]), outside);
        }
    }
    assert_eq!((sim.sessions("fra1").len(), sim.bindings("fra1")), (3, 3));
}

#[test]
fn rfc_6146_section_3_5_a_host_and_port_are_known_by_one_address_and_port_wherever_they_send() {
    let mut sim = up(&policy(""));
    let mut seen = Vec::new();
    for server in ["2001:db8:64::cb00:7150", "2001:db8:64::cb00:7151", "2001:db8:64::808:808"] {
        for port in [53, 54] {
            let query = udp(&format!("[{HOST}]:5001"), &format!("[{server}]:{port}"), b"").bytes();
            seen.push(seen_as(&sim.from_lan("berlin", &query)[0]));
        }
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    assert_eq!((sim.sessions("fra1").len(), sim.bindings("fra1")), (6, 1));
}

#[test]
fn rfc_4787_req_8_filtering_lets_in_whom_policy_names_by_an_address_of_the_prefix() {
    for (filtering, passes) in [
        ("endpoint-independent", [true, true, true]),
        ("address-dependent", [true, true, false]),
        ("address-and-port-dependent", [true, false, false]),
    ] {
        let mut sim = up(&policy(&format!("nat-filtering = \"{filtering}\"")));
        let out =
            sim.from_lan("berlin", &udp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:53"), b"").bytes());
        let outside = seen_as(&out[0]);
        for (caller, passes) in ["203.0.113.80:53", "203.0.113.80:99", "203.0.113.99:53"].iter().zip(passes) {
            let in_ = sim.from_internet(&udp(caller, &outside, b"").bytes());
            assert_eq!(!in_.is_empty(), passes, "{filtering}, from {caller}: {:?}", sim.drops("fra1"));
            if passes {
                let (host, port) = caller.split_once(':').expect("both");
                let known = prefixed(host);
                assert_eq!(ends(&in_[0]), format!("[{known}]:{port} > [{HOST}]:5001"));
                let back = sim.from_lan("berlin", &answer(&in_[0], b""));
                assert_eq!(ends(&back[0]), format!("{outside} > {caller}"));
            }
        }
        assert_eq!(sim.node("fra1").plane.ports_in_use(), 1, "whoever calls, it is one binding");
    }
}

#[test]
fn hosts_reach_each_other_by_their_addresses_outside() {
    let mut sim = up(&policy("nat-filtering = \"endpoint-independent\""));
    let mut outside = Vec::new();
    for host in ["2001:db8:1::5", "2001:db8:1::6"] {
        let out =
            sim.from_lan("berlin", &udp(&format!("[{host}]:5001"), &format!("[{SERVER}]:53"), b"").bytes());
        outside.push(seen_as(&out[0]));
    }
    let (other, port) = outside[1].split_once(':').expect("both");
    let to = format!("[{}]:{port}", prefixed(other));
    let out = sim.from_lan("berlin", &udp("[2001:db8:1::5]:5001", &to, b"hello").bytes());
    assert_eq!(ends(&out[0]), format!("{} > {}", outside[0], outside[1]));
    // The pool is routed back to where it came from.
    let in_ = sim.send("fra1", "internet", &out[0]);
    assert_eq!(in_[0].0, "berlin pg-lan");
    let (own, own_port) = outside[0].split_once(':').expect("both");
    assert_eq!(ends(&in_[0].1), format!("[{}]:{own_port} > [2001:db8:1::6]:5001", prefixed(own)));
    let back = sim.from_lan("berlin", &answer(&in_[0].1, b"too"));
    assert_eq!(ends(&back[0]), format!("{} > {}", outside[1], outside[0]));
    assert_eq!(ends(&sim.from_internet(&back[0])[0]), format!("{to} > [2001:db8:1::5]:5001"));
}

// What policy is asked.

#[test]
fn policy_is_asked_about_the_address_that_is_meant() {
    let deny = "[[acl]]\nname = \"no-81\"\nto = [\"203.0.113.81\"]\nprotocol = [\"udp\", \"icmp\"]\naction = \"reject\"\n\n";
    let first = "[[acl]]\nname = \"no-telnet\"";
    let acme = policy("").replace(first, &format!("{deny}{first}"));
    let mut sim = up(&acme);
    let denied = prefixed("203.0.113.81").to_string();
    for packet in [
        udp(&format!("[{HOST}]:5001"), &format!("[{denied}]:53"), b"").bytes(),
        ping(HOST, &denied, 7, b"").bytes(),
    ] {
        // The branch has the same policy, and says so.
        let answers = sim.send("berlin", "lan", &packet);
        assert_eq!(answers[0].0, "berlin pg-lan");
        assert_eq!(answers[0].1[40..42], [1, 1], "administratively prohibited");
    }
    assert_eq!(sim.rule("berlin", "acme", "no-81").sessions, 0);
    assert_eq!(sim.dropped("berlin", Some("acme"), "acl-rejected"), 2);
    for (to, outcome) in [
        (format!("[{SERVER}]:443"), Outcome::Accept),
        (format!("[{SERVER}]:23"), Outcome::Reject),
        // As it is known to everybody else.
        ("203.0.113.80:443".to_owned(), Outcome::Accept),
    ] {
        let (from, to) = (HOST.parse().expect("an end"), to.parse().expect("an end"));
        let asked = AskedFlow { from, to, protocol: Protocol::TCP, dscp: 0, sni: None };
        let said = sim.explain("fra1", "acme", &asked);
        assert_eq!(said.outcome, outcome, "{said:?}");
        let texts: Vec<&str> = said.steps.iter().map(|step| step.text.as_str()).collect();
        assert!(texts.contains(&"2001:db8:64::cb00:7150 stands for 203.0.113.80"), "{texts:?}");
        assert!(
            texts.contains(&"203.0.113.80 belongs to handoff:internet, as part of 0.0.0.0/0"),
            "{texts:?}"
        );
        if outcome == Outcome::Accept {
            assert_eq!(said.nat, ["198.51.100.0/30"]);
        }
    }
}

#[test]
fn a_commit_that_leaves_the_prefix_alone_keeps_the_binding_and_one_that_does_not_ends_it() {
    let mut sim = up(&policy(""));
    let packet = udp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:53"), b"").bytes();
    let out = sim.from_lan("berlin", &packet);
    sim.commit(&[("acme", &policy("")), ("globex", GLOBEX)]);
    assert_eq!(ends(&sim.from_lan("berlin", &packet)[0]), ends(&out[0]));
    assert_eq!(sim.from_internet(&answer(&out[0], b"")).len(), 1);
    let elsewhere = policy("").replace(PREFIX, "2001:db8:65::/96");
    for acme in [elsewhere.as_str(), ACME] {
        let mut sim = up(&policy(""));
        let out = sim.from_lan("berlin", &packet);
        sim.commit(&[("acme", acme), ("globex", GLOBEX)]);
        assert!(sim.from_internet(&answer(&out[0], b"")).is_empty());
        assert_eq!(sim.dropped("fra1", Some("acme"), "nat-binding-revoked"), 1);
        assert_eq!(sim.node("fra1").plane.ports_in_use(), 0);
    }
}

#[test]
fn a_record_tells_each_side_in_its_own_family() {
    let mut sim = up(&policy(""));
    let out = sim.from_lan("berlin", &udp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:53"), b"").bytes());
    sim.from_internet(&answer(&out[0], b""));
    let session = sim.sessions("fra1").remove(0);
    assert_eq!((session.source, session.source_port), (HOST.parse().expect("v6"), 5_001));
    assert_eq!(session.destination, prefixed("203.0.113.80"));
    assert_eq!(session.nat_source, Some(source(&out[0])));
    assert_eq!(session.nat_destination, Some("203.0.113.80".parse().expect("v4")));
    sim.advance(301_000);
    let record = sim.node("fra1").records.pop().expect("one");
    assert_eq!(record.key.destination(), prefixed("203.0.113.80"));
    assert_eq!(record.reply_key.destination(), source(&out[0]));
}

// Errors and sizes.

/// What a router that has both families says of `packet`.
fn complaint(packet: &[u8], error: IcmpError) -> Vec<u8> {
    let router = ("192.0.2.77".parse().expect("v4"), "2001:db8:1::77".parse().expect("v6"));
    wire::icmp_error(packet, &read(packet), error, router)
}

/// The address within the prefix that stands for `v4`.
fn prefixed(v4: &str) -> Ipv6Addr {
    let v4: Ipv4Addr = v4.parse().expect("v4");
    let prefix: Ipv6Addr = "2001:db8:64::".parse().expect("v6");
    Ipv6Addr::from_bits(prefix.to_bits() | u128::from(v4.to_bits()))
}

#[test]
fn icmp_errors_are_translated_with_what_they_quote_in_both_directions() {
    let mut sim = up(&policy(""));
    for packet in [
        udp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:33434"), b"x").bytes(),
        tcp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:443"), SYN, b"").bytes(),
        ping(HOST, SERVER, 77, b"x").bytes(),
    ] {
        let out = sim.from_lan("berlin", &packet).remove(0);
        for (error, [kind, code]) in
            [(IcmpError::TimeExceeded, [3, 0]), (IcmpError::NoRoute, [1, 0]), (IcmpError::Prohibited, [1, 1])]
        {
            let back = sim.send("fra1", "internet", &complaint(&out, error));
            assert_eq!(back.len(), 1, "{:?}", sim.drops("fra1"));
            assert_eq!(back[0].0, "berlin pg-lan");
            let back = &back[0].1;
            assert_eq!(
                ends(back),
                ends(&complaint(&packet, error))
                    .replace("2001:db8:1::77", &prefixed("192.0.2.77").to_string())
            );
            assert_eq!(back[40..42], [kind, code]);
        }
        // And about the answer.
        let reply = sim.from_internet(&answer(&out, b"y")).remove(0);
        let outside = sim.send("berlin", "lan", &complaint(&reply, IcmpError::Prohibited));
        assert_eq!(outside[0].0, "fra1 pg-internet");
        let outside = &outside[0].1;
        let pool = source(&out).to_string();
        assert_eq!(
            ends(outside),
            ends(&complaint(&answer(&out, b"y"), IcmpError::Prohibited)).replace("192.0.2.77", &pool)
        );
        assert_eq!(outside[20..22], [3, 10], "host administratively prohibited");
    }
}

#[test]
fn a_traceroute_sees_both_boxes_and_the_routers_of_ipv4() {
    let mut sim = up(&policy(""));
    let probe = udp(&format!("[{HOST}]:33000"), &format!("[{SERVER}]:33434"), b"");
    for ttl in [1, 2] {
        let answers = sim.from_lan("berlin", &probe.clone().ttl(ttl).bytes());
        assert_eq!(
            ends(&answers[0]),
            format!("fd70:6f70:6761:7465::1 > {HOST} error about [{HOST}]:33000 > [{SERVER}]:33434"),
            "hop limit {ttl}"
        );
        assert_eq!(answers[0][40..42], [3, 0]);
    }
    let out = sim.from_lan("berlin", &probe.ttl(3).bytes());
    assert_eq!(read(&out[0]).ttl, 1);
    let back = sim.from_internet(&complaint(&out[0], IcmpError::TimeExceeded));
    assert!(ends(&back[0]).starts_with(&format!("{} > {HOST} error", prefixed("192.0.2.77"))));
}

#[test]
fn a_path_mtu_is_found_from_both_sides() {
    let mut sim = up(&policy(""));
    let (from, to) = (format!("[{HOST}]:5001"), format!("[{SERVER}]:9"));
    // The tunnel has 1,420 for either; the internet 1,500.
    let out = sim.from_lan("berlin", &udp(&from, &to, &[7; 1_372]).bytes());
    assert_eq!((out[0].len(), read(&out[0]).dont_fragment), (1_400, true));
    let back = sim.from_internet(&complaint(&out[0], IcmpError::TooBig { mtu: 1_300 }));
    assert_eq!(back[0][40..42], [2, 0], "packet too big");
    assert_eq!(back[0][44..48], 1_320u32.to_be_bytes());
    let back = sim.from_internet(&complaint(&out[0], IcmpError::TooBig { mtu: 600 }));
    assert_eq!(back[0][44..48], 1_280u32.to_be_bytes(), "never less than IPv6's least");

    let reply = udp("203.0.113.80:9", &seen_as(&out[0]), &[7; 1_373]);
    let answers = sim.from_internet(&reply.bytes());
    assert_eq!(answers[0][20..22], [3, 4], "fragmentation needed");
    assert_eq!(answers[0][26..28], 1_400u16.to_be_bytes());
    let reply = udp("203.0.113.80:9", &seen_as(&out[0]), &[7; 1_372]).bytes();
    let in_ = sim.from_internet(&reply);
    assert_eq!(in_[0].len(), 1_420);
    let error = sim.send("berlin", "lan", &complaint(&in_[0], IcmpError::TooBig { mtu: 1_350 }));
    assert_eq!(error[0].1[20..22], [3, 4], "fragmentation needed");
    assert_eq!(error[0].1[26..28], 1_330u16.to_be_bytes());
}

#[test]
fn a_small_packet_may_be_fragmented_in_ipv4_and_is_told_from_others() {
    let mut sim = up(&policy(""));
    let packet = udp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:9"), b"small").bytes();
    let ids: Vec<[u8; 2]> = (0..2)
        .map(|_| {
            let out = sim.from_lan("berlin", &packet).remove(0);
            assert!(!read(&out).dont_fragment);
            [out[4], out[5]]
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn the_mss_fits_both_hops() {
    let mut sim = up(&policy(""));
    let syn = tcp(&format!("[{HOST}]:5001"), &format!("[{SERVER}]:443"), SYN, b"").bytes();
    let out = sim.from_lan("berlin", &syn);
    let mss = |packet: &[u8]| {
        let at = read(packet).upper_at;
        u16::from_be_bytes([packet[at + 22], packet[at + 23]])
    };
    // What comes back has an IPv6 header when it goes through the tunnel of 1,420 bytes.
    assert_eq!(mss(&out[0]), 1_360);
    let back = sim.from_internet(&answer(&out[0], b""));
    assert_eq!(mss(&back[0]), 1_360);
    // The PoP by itself, which a stock client relies on.
    sim.forge("berlin", &tcp(&format!("[{HOST}]:5002"), &format!("[{SERVER}]:443"), SYN, b"").bytes());
    assert_eq!(mss(&sim.take_delivered()[0].1), 1_360);
}

#[test]
fn fragments_stay_fragments_in_both_directions() {
    let mut sim = up(&policy(""));
    let (from, to) = (format!("[{HOST}]:5001"), format!("[{SERVER}]:9"));
    let whole = udp(&from, &to, &[7; 3_000]).bytes();
    let mut out = Vec::new();
    for part in fragments_v6(&whole, 0xabcd_1234, 1_200) {
        out.extend(sim.from_lan("berlin", &part));
    }
    assert_eq!(out.len(), 3);
    let mut joined = Vec::new();
    for part in &out {
        let parsed = read(part);
        let fragment = parsed.fragment.expect("a fragment");
        assert_eq!((usize::from(fragment.offset), fragment.id), (joined.len(), 0x1234));
        assert!(!parsed.dont_fragment);
        joined.extend_from_slice(&part[parsed.upper_at..parsed.len]);
    }
    assert_eq!(joined.len(), 3_008);
    let (pool, server) = (read(&out[0]).source(&out[0]), read(&out[0]).destination(&out[0]));
    let pseudo = wire::pseudo_header(pool, server, 17, joined.len());
    assert_eq!(wire::add_sums(pseudo, wire::checksum(&joined)), 0xffff, "the checksum is that of the whole");

    // Back in fragments that the server made; and in one piece that the tunnel has no room for.
    for mtu in [1_000, 1_500] {
        let outside = format!("{pool}:{}", u16::from_be_bytes([joined[0], joined[1]]));
        let reply = udp("203.0.113.80:9", &outside, &[9; 1_450]).may_fragment().bytes();
        let mut back = Vec::new();
        for part in fragments(&reply, mtu) {
            back.extend(sim.from_internet(&part));
        }
        assert_eq!(back.len(), 2, "{:?}", sim.drops("fra1"));
        let mut joined = Vec::new();
        for part in &back {
            let parsed = read(part);
            assert!(parsed.len <= 1_420);
            assert_eq!(usize::from(parsed.fragment.expect("a fragment").offset), joined.len());
            joined.extend_from_slice(&part[parsed.upper_at..parsed.len]);
        }
        let pseudo =
            wire::pseudo_header(read(&back[0]).source(&back[0]), HOST.parse().expect("v6"), 17, joined.len());
        assert_eq!(wire::add_sums(pseudo, wire::checksum(&joined)), 0xffff, "MTU {mtu}");
    }
}

/// An IPv6 packet's fragments with up to `step` bytes of it each.
fn fragments_v6(packet: &[u8], id: u32, step: usize) -> Vec<Vec<u8>> {
    let (header, upper) = packet.split_at(40);
    let last = upper.len().div_ceil(step) - 1;
    let part = |(index, part): (usize, &[u8])| {
        let mut header = header.to_vec();
        header[4..6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
        let word = (index * step) as u16 | u16::from(index < last);
        let protocol = std::mem::replace(&mut header[6], 44);
        [&header[..], &[protocol, 0], &word.to_be_bytes(), &id.to_be_bytes(), part].concat()
    };
    upper.chunks(step).enumerate().map(part).collect()
}

#[test]
fn super_packets_change_family_whole() {
    let mut sim = up(&policy(""));
    let (from, to) = (format!("[{HOST}]:5001"), format!("[{SERVER}]:443"));
    let out = sim.from_lan("berlin", &tcp(&from, &to, SYN, b"").bytes());
    let outside = seen_as(&out[0]);
    sim.from_internet(&answer(&out[0], b""));
    // From the internet: cut up where it goes into the tunnel.
    let data: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
    let device = sim.device("fra1", "internet");
    let reply = tcp("203.0.113.80:443", &outside, ACK, &data).bytes();
    sim.inject_super("fra1", device, &reply, 1_360);
    let mut joined = Vec::new();
    let back = sim.take_delivered();
    assert_eq!(back.len(), data.len().div_ceil(1_360));
    for (_, part) in &back {
        let parsed = read(part);
        assert!(parsed.len <= 1_420 && is_sound(part, &parsed));
        assert_eq!(ends(part), format!("{to} > {from}"));
        joined.extend_from_slice(&part[parsed.payload_at(part)..]);
    }
    assert_eq!(joined, data);
    // From the branch: what the PoP opens together leaves together.
    let device = sim.device("berlin", "lan");
    sim.inject_super("berlin", device, &tcp(&from, &to, ACK, &data).bytes(), 1_340);
    let out = sim.take_delivered();
    let mut joined = Vec::new();
    for (_, part) in &out {
        let parsed = read(part);
        assert_eq!(ends(part), format!("{outside} > 203.0.113.80:443"));
        joined.extend_from_slice(&part[parsed.payload_at(part)..]);
    }
    assert_eq!(joined, data);
    // A segment too big for the tunnel with an IPv6 header is answered.
    let device = sim.device("fra1", "internet");
    sim.inject_super("fra1", device, &reply, 1_361);
    let answers = sim.take_delivered();
    assert_eq!(answers[0].1[20..22], [3, 4]);
    assert_eq!(answers[0].1[26..28], 1_400u16.to_be_bytes());
    // One of datagrams that may be fragmented is cut up twice.
    let out = sim.from_lan("berlin", &udp(&from, &to, b"").bytes());
    let reply = udp("203.0.113.80:443", &seen_as(&out[0]), &[7; 2_900]).may_fragment().bytes();
    sim.inject_super("fra1", device, &reply, 1_450);
    let parts: Vec<_> = sim.take_delivered().into_iter().map(|(_, part)| part).collect();
    assert_eq!(parts.len(), 4, "two datagrams in two fragments each");
    let id = |part: &[u8]| read(part).fragment.expect("a fragment").id;
    assert_eq!((id(&parts[0]), id(&parts[2])), (id(&parts[1]), id(&parts[3])));
    assert_ne!(id(&parts[0]), id(&parts[2]));
}

#[test]
fn what_has_no_counterpart_is_not_sent_on() {
    let mut sim = up(&policy(""));
    let mut parts = fragments_v6(&ping(HOST, SERVER, 7, &[7; 2_000]).bytes(), 9, 1_200);
    assert!(sim.from_lan("berlin", &parts.remove(0)).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "untranslatable"), 1);
    assert!(sim.sessions("fra1").is_empty(), "it is as if it had never been");
}

// Both families' hosts at one pool.

/// A flow of a branch's to a server of IPv4: of a host that has IPv6 alone, or IPv4; by small numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    v6: bool,
    host: u8,
    port: u16,
    server: u8,
    server_port: u16,
    kind: u8,
}

const TCP: u8 = 0;
const UDP: u8 = 1;
const PING: u8 = 2;

impl Flow {
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let server = format!("203.0.113.{}", self.server);
        let (host, server) = match self.v6 {
            true => (format!("2001:db8:1::{}", self.host), prefixed(&server).to_string()),
            false => (format!("10.1.0.{}", self.host), server),
        };
        let end = |address: &str, port: u16| match self.v6 {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        let (from, to) = (end(&host, self.port), end(&server, self.server_port));
        match self.kind {
            TCP => tcp(&from, &to, SYN, payload),
            UDP => udp(&from, &to, payload),
            PING => ping(&host, &server, self.port, payload),
            _ => other(&host, &server, 47, payload),
        }
        .bytes()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Out(Flow, Vec<u8>),
    /// The server of one of the flows so far answers, or a router on the way complains.
    Back(prop::sample::Index, Vec<u8>),
    Error(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let port = prop::sample::select(vec![1u16, 1_024, 5_000, 5_001, 65_535]);
    let flow = (any::<bool>(), 1u8..4, port, 80u8..82, 9u16..11, 0u8..4).prop_map(
        |(v6, host, port, server, server_port, kind)| match kind {
            TCP | UDP => Flow { v6, host, port, server, server_port, kind },
            PING => Flow { v6, host, port, server, server_port: 0, kind },
            _ => Flow { v6, host, port: 0, server, server_port: 0, kind },
        },
    );
    let payload = || prop::collection::vec(any::<u8>(), 8..40);
    let step = prop_oneof![
        3 => (flow, payload()).prop_map(|(flow, payload)| Step::Out(flow, payload)),
        3 => (any::<prop::sample::Index>(), payload()).prop_map(|(index, payload)| Step::Back(index, payload)),
        1 => any::<prop::sample::Index>().prop_map(Step::Error),
    ];
    prop::collection::vec(step, 1..60)
}

/// As [`answer`], and of GRE the packet turned round.
fn answered(packet: &[u8], payload: &[u8]) -> Vec<u8> {
    let parsed = read(packet);
    if parsed.protocol.0 != 47 {
        return answer(packet, payload);
    }
    let (from, to) = (parsed.destination(packet).to_string(), parsed.source(packet).to_string());
    other(&from, &to, 47, payload).bytes()
}

/// What is behind the upper layer's header, or all of it where that is not known.
fn payload_of(packet: &[u8]) -> Vec<u8> {
    let parsed = read(packet);
    let header = match parsed.protocol.0 {
        6 => parsed.payload_at(packet) - parsed.upper_at,
        47 => 0,
        _ => 8,
    };
    packet[parsed.upper_at + header..parsed.len].to_vec()
}

fn check(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut sim = up(&policy(""));
    // What the internet saw of each flow, and what its host had sent.
    let mut outside: BTreeMap<Flow, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Out(flow, payload) => {
                let sent = flow.packet(&payload);
                let out = sim.send("berlin", "lan", &sent);
                if out.is_empty() {
                    // GRE has no ports: a host more than the pool has addresses.
                    prop_assert!(flow.kind > PING && !outside.contains_key(&flow), "{:?}", sim.drops("fra1"));
                    continue;
                }
                let out = out[0].1.clone();
                prop_assert_eq!(payload_of(&out), payload);
                let pool: ipnetwork::IpNetwork = "198.51.100.0/30".parse().expect("a prefix");
                prop_assert!(pool.contains(source(&out)), "{:?} left as {}", flow, ends(&out));
                if let Some((first, _)) = outside.get(&flow) {
                    prop_assert_eq!(ends(first), ends(&out), "a binding stays");
                }
                let key = (ends(&out), flow.kind);
                let same = outside.iter().find(|(f, (o, _))| **f != flow && (ends(o), f.kind) == key);
                prop_assert!(same.is_none(), "{:?} and {:?} look the same outside", flow, same);
                outside.insert(flow, (out, sent));
            }
            Step::Back(index, payload) if !outside.is_empty() => {
                let (flow, (out, sent)) =
                    outside.iter().nth(index.index(outside.len())).expect("one of them");
                let back = sim.send("fra1", "internet", &answered(out, &payload));
                prop_assert_eq!(back.len(), 1, "{:?}", sim.drops("fra1"));
                prop_assert_eq!(back[0].0.as_str(), "berlin pg-lan");
                prop_assert_eq!(ends(&back[0].1), ends(&answered(sent, &payload)), "{:?}", flow);
                prop_assert_eq!(payload_of(&back[0].1), payload);
            }
            Step::Error(index) if !outside.is_empty() => {
                let (flow, (out, sent)) =
                    outside.iter().nth(index.index(outside.len())).expect("one of them");
                let back = sim.send("fra1", "internet", &complaint(out, IcmpError::NoRoute));
                prop_assert_eq!(back.len(), 1, "{:?}", sim.drops("fra1"));
                let router = prefixed("192.0.2.77").to_string();
                let expected = ends(&complaint(sent, IcmpError::NoRoute)).replace("2001:db8:1::77", &router);
                prop_assert_eq!(ends(&back[0].1), expected, "{:?}", flow);
            }
            _ => {}
        }
        prop_assert_eq!(sim.node("fra1").plane.ports_in_use(), sim.bindings("fra1"));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn hosts_of_both_families_share_a_pool_and_each_gets_its_own_answers(steps in steps()) {
        check(steps)?;
    }
}
