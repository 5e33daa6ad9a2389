//! Captures: each packet of the tenant's once where it comes in and once where it leaves, and none of anybody else's.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, read, reply, tcp, udp};
use popgate::model::{Protocol, TenantId};
use popgate::pipeline::{CaptureInterface, CaptureSpec, CapturedPacket, PacketFilter};
use popgate::wire::tcp_flags;

fn tenant(sim: &mut Sim, node: &str, name: &str) -> TenantId {
    let generation = sim.generation(node);
    generation.tenants.iter().map(|(id, _)| id).find(|id| generation.names.tenant(*id) == name).expect("one")
}

fn begin_at(sim: &mut Sim, node: &str, is_outer: bool, filter: PacketFilter) {
    let tenant = tenant(sim, node, "acme");
    let spec = CaptureSpec { number: 1, tenant, is_outer, filter, snap: 2_000 };
    sim.node(node).plane.capture(&[spec]);
}

fn begin(sim: &mut Sim, is_outer: bool, filter: PacketFilter) {
    begin_at(sim, "fra1", is_outer, filter);
}

fn taken(sim: &mut Sim) -> Vec<CapturedPacket> {
    sim.node("fra1").plane.take_captured(1)
}

/// Where, whether outwards, and between whom; without what chance has chosen.
fn seen(sim: &mut Sim) -> Vec<String> {
    seen_at(sim, "fra1")
}

fn seen_at(sim: &mut Sim, node: &str) -> Vec<String> {
    let generation = sim.generation(node);
    let packets = sim.node(node).plane.take_captured(1);
    let mut seen: Vec<String> = packets
        .iter()
        .map(|packet| {
            let at = match packet.interface {
                CaptureInterface::Path(path) => generation.names.site_and_path(path),
                CaptureInterface::Device(device) => {
                    generation.devices.get(device).map(|spec| spec.name.clone()).unwrap_or_default()
                }
                CaptureInterface::Transport(transport) => generation.names.transport(transport).to_owned(),
            };
            let way = if packet.is_outbound { "out" } else { "in" };
            let parsed = read(&packet.bytes);
            let hide =
                |address: String| if address.starts_with("198.51.100.") { "pool".into() } else { address };
            let [from, to] = [parsed.source(&packet.bytes), parsed.destination(&packet.bytes)]
                .map(|address| hide(address.to_string()));
            format!("{at} {way}: {from} > {to}")
        })
        .collect();
    // Workers tell one after the other.
    seen.sort();
    seen
}

#[test]
fn a_session_is_seen_where_it_comes_in_and_where_it_leaves_before_and_after_translation() {
    let mut sim = Sim::up();
    begin(&mut sim, false, PacketFilter::default());
    let out = sim.from_lan("berlin", &udp("10.1.0.5:4000", "203.0.113.80:53", b"asks").bytes());
    sim.from_internet(&answer(&out[0], b"answers"));
    let wanted = [
        "berlin/dsl in: 10.1.0.5 > 203.0.113.80",
        "berlin/dsl out: 203.0.113.80 > 10.1.0.5",
        "pg-internet in: 203.0.113.80 > pool",
        "pg-internet out: pool > 203.0.113.80",
    ];
    assert_eq!(seen(&mut sim), wanted);
    // From one branch to another, whose worker may be another.
    sim.from_lan("berlin", &udp("10.1.0.5:4000", "10.2.0.5:53", b"asks").bytes());
    assert_eq!(seen(&mut sim), ["berlin/dsl in: 10.1.0.5 > 10.2.0.5", "lyon/dsl out: 10.1.0.5 > 10.2.0.5"]);
    sim.send("fra1", "dc", &tcp("10.200.0.5:4000", "10.1.0.5:80", tcp_flags::SYN, b"").bytes());
    assert_eq!(seen(&mut sim), ["berlin/dsl out: 10.200.0.5 > 10.1.0.5", "pg1 in: 10.200.0.5 > 10.1.0.5"]);
    sim.node("fra1").plane.capture(&[]);
    sim.from_lan("berlin", &udp("10.1.0.5:4000", "203.0.113.80:53", b"asks").bytes());
    assert_eq!(taken(&mut sim), []);
}

#[test]
fn what_policy_denies_is_seen_with_the_answer_it_is_given() {
    let mut sim = Sim::up();
    begin_at(&mut sim, "berlin", false, PacketFilter::default());
    begin(&mut sim, false, PacketFilter::default());
    sim.from_lan("berlin", &udp("10.1.0.5:4000", "203.0.113.80:123", b"asks").bytes());
    let wanted = ["pg-lan in: 10.1.0.5 > 203.0.113.80", "pg-lan out: 192.0.0.8 > 10.1.0.5"];
    assert_eq!(seen_at(&mut sim, "berlin"), wanted);
    // Nobody there has asked for it.
    sim.from_internet(&udp("203.0.113.80:53", "198.51.100.1:4000", b"scans").bytes());
    assert_eq!(seen(&mut sim), ["pg-internet in: 203.0.113.80 > pool"]);
}

#[test]
fn another_tenants_packets_are_in_no_capture_though_their_addresses_are_the_same() {
    let mut sim = Sim::up();
    for is_outer in [false, true] {
        begin(&mut sim, is_outer, PacketFilter::default());
        let out = sim.from_lan("site1", &udp("10.1.0.5:4000", "203.0.113.80:53", b"asks").bytes());
        assert_eq!(sim.from_internet(&answer(&out[0], b"answers")).len(), 1);
        let packets = taken(&mut sim);
        // Acme's own probes go on.
        let of_globex = packets.iter().filter(|packet| {
            let text = format!("{:?}", read(&packet.bytes).source(&packet.bytes));
            !is_outer || text == "203.0.113.3"
        });
        assert_eq!(of_globex.count(), 0, "{packets:?}");
    }
}

#[test]
fn the_outer_side_is_every_datagram_of_the_tenants_tunnels_with_its_headers() {
    let mut sim = Sim::new();
    begin(&mut sim, true, PacketFilter::default());
    sim.advance(2_000);
    let handshakes = taken(&mut sim);
    let kinds = |packets: &[CapturedPacket], is_outbound: bool| {
        let of_way = packets.iter().filter(|packet| packet.is_outbound == is_outbound);
        let mut kinds: Vec<u8> = of_way.map(|packet| packet.bytes[28]).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    // Branches call: initiations in and responses out, and data both ways.
    assert_eq!((kinds(&handshakes, false), kinds(&handshakes, true)), (vec![1, 4], vec![2, 4]));
    let out = sim.from_lan("berlin", &udp("10.1.0.5:4000", "203.0.113.80:53", b"asks").bytes());
    let [datagram] = &taken(&mut sim)[..] else { panic!("one") };
    assert!(!datagram.is_outbound);
    assert_eq!(ends(&datagram.bytes), "203.0.113.1:1001 > 192.0.2.1:51820");
    sim.from_internet(&answer(&out[0], b"answers"));
    let [datagram] = &taken(&mut sim)[..] else { panic!("one") };
    assert!(datagram.is_outbound);
    assert_eq!(ends(&datagram.bytes), "192.0.2.1:51820 > 203.0.113.1:1001");
}

#[test]
fn a_filter_is_asked_about_each_packet_as_it_is_there() {
    let mut sim = Sim::up();
    let filter = PacketFilter {
        address: Some("10.1.0.0/24".parse().expect("a prefix")),
        port: Some(53),
        protocol: Some(Protocol::UDP),
    };
    begin(&mut sim, false, filter);
    let out = sim.from_lan("berlin", &udp("10.1.0.5:4000", "203.0.113.80:53", b"asks").bytes());
    sim.from_internet(&answer(&out[0], b"answers"));
    sim.from_lan("berlin", &udp("10.1.0.5:4000", "203.0.113.80:54", b"asks").bytes());
    sim.from_lan("berlin", &udp("10.1.1.5:4000", "203.0.113.80:53", b"asks").bytes());
    sim.from_lan("berlin", &tcp("10.1.0.5:4000", "203.0.113.80:53", tcp_flags::SYN, b"").bytes());
    // Outside it has another address.
    let wanted = ["berlin/dsl in: 10.1.0.5 > 203.0.113.80", "berlin/dsl out: 203.0.113.80 > 10.1.0.5"];
    assert_eq!(seen(&mut sim), wanted);
}

#[test]
fn a_canarys_probe_is_seen_where_it_leaves_and_its_answer_where_it_comes_in() {
    let canary = "[[canary]]\nname = \"web\"\nfrom = \"berlin\"\ntarget = \"203.0.113.80\"\n";
    let mut sim = Sim::with_policies(&format!("{ACME}\n{canary}"), GLOBEX);
    sim.advance(2_000);
    begin(&mut sim, false, PacketFilter::default());
    sim.probe_canaries("fra1");
    let sent = sim.take_delivered();
    sim.from_internet(&reply(&sent[0].1));
    let wanted = ["pg-internet in: 203.0.113.80 > pool", "pg-internet out: pool > 203.0.113.80"];
    assert_eq!(seen(&mut sim), wanted);
}
