//! IPv6 across the NATs there are for it: a branch that has nothing else reaches IPv4 (NAT64), and one whose prefix is its own
//! affair is known by another (NPTv6). Programs that people use, and what the network says to them.

use crate::hops::{HOST, TRACES_IN, lead_to_far, take_and_return, there_and_back, trace};
use crate::hosts::{Echo, Server, curl};
use crate::programs::{Way, use_programs};
use crate::world::{World, eventually, node, stdout, template};
use ipnetwork::IpNetwork;
use popgate::lab::Topology;
use popgate::lab::topology::{Route, Via};
use popgate::model::{Nat64Prefix, PrefixMap};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, ip_mtu, set_ip_mtu_discover};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

const WEB_V4: &str = "203.0.113.80";
const WEB_V6: &str = "2001:db8:113::80";
/// Berlin's host.
const INSIDE: &str = "2001:db8:a:1::10";

/// acme's policy, changed, at the PoP and in Berlin.
fn set_policy(topology: &mut Topology, change: impl Fn(&str) -> String) {
    for at in ["fra1", "berlin"] {
        let acme = change(&template("tenants/acme.toml"));
        node(topology, at).files.insert("tenants/acme.toml".to_owned(), acme);
    }
}

fn v6(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

// NAT64.

/// Not the well-known one: the lab's addresses are documentation's, which that does not lead to.
const PREFIX: &str = "2001:db8:64::/96";

/// What stands for an IPv4 address.
fn called(v4: &str) -> String {
    let prefix = Nat64Prefix::new(PREFIX.parse().expect("a prefix")).expect("a NAT64 prefix");
    prefix.embed(v4.parse::<Ipv4Addr>().expect("an address")).to_string()
}

/// Berlin's LAN has IPv6 alone.
fn without_ipv4(topology: &mut Topology) {
    lead_to_far(topology);
    node(topology, HOST).routes.retain(|route| route.to.is_ipv6());
    let lan = topology.links.iter_mut().find(|link| link.name == "berlin-lan").expect("the topology has it");
    lan.ends.iter_mut().for_each(|end| end.addresses.retain(IpNetwork::is_ipv6));
    set_policy(topology, |acme| {
        let pool = "nat-pool = [\"198.51.100.0/29\"]";
        acme.replace(pool, &format!("{pool}\nnat64-prefix = \"{PREFIX}\""))
            .replace("\"10.1.0.0/24\", \"2001:db8:a:1::/64\"", "\"2001:db8:a:1::/64\"")
    });
}

#[test]
fn a_branch_of_ipv6_alone_uses_servers_of_ipv4_alone() {
    let world = World::changed("enat64", &["berlin", HOST, "transit", "far"], without_ipv4);
    let web = called(WEB_V4);
    world.await_ping(HOST, &web);
    let outside = "198.51.100.0/29".parse().expect("a prefix");
    let server = WEB_V4.parse().expect("an address");
    use_programs(&world, &Way { called: v6(&web), server, outside });
    hops_of_both_families(&world);
    path_mtu_across(&world);
    fragments_across(&world);
    let said = world
        .ask("fra1", &["explain", "--tenant", "acme", "--from", INSIDE, "--to", &format!("[{web}]:443")]);
    assert!(said.contains(&format!("{web} stands for {WEB_V4}")), "{said}");
    assert!(said.contains("the source becomes an address of 198.51.100.0/29"), "{said}");
}

/// traceroute in each of its modes: the boxes answer in IPv6, the routers beyond by what stands for them.
fn hops_of_both_families(world: &World) {
    let far = called("192.0.2.130");
    let boxes = ["2001:db8:a:1::1", "fd70:6f70:6761:7465::1", "fd70:6f70:6761:7465::1"].map(str::to_owned);
    let beyond = ["192.0.2.1", "192.0.2.2", "192.0.2.10", "192.0.2.130"].map(called);
    let hops = [&boxes[..], &beyond].concat();
    for mode in [&["--udp"][..], &["--icmp"], &["--tcp", "--port=80"]] {
        assert_eq!(trace(world, HOST, &far, mode), hops, "{mode:?}");
    }
}

/// What the routers on either side say of packets that are too big reaches the other, less or more by what a header is
/// longer.
fn path_mtu_across(world: &World) {
    let far = called("192.0.2.130");
    let server = take_and_return(world, "far");
    there_and_back(world, &far);
    let route = world.must(HOST, &["ip", "route", "get", &far]);
    assert!(route.contains(" mtu 1320"), "the host has been told: {route}");
    for peer in server.peers() {
        assert!(peer.is_ipv4(), "{peer}");
        let route = world.must("far", &["ip", "route", "get", &peer.ip().to_string()]);
        assert!(route.contains(" mtu 1300"), "the server has been told: {route}");
    }
    let told = world.must(HOST, &["tracepath", "-n", &called("192.0.2.129")]);
    assert!(told.contains("pmtu 1420") && told.contains("Resume: pmtu 1320 hops 6 back 6"), "{told}");

    // The PoP tells the server how little an answer may have, if it is to get an IPv6 header and go through the tunnel.
    let bound = |at: &str, address: &str| {
        let socket = world.enter(at, || UdpSocket::bind(address)).expect("entered").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        socket
    };
    let (host, web) = (bound(HOST, "[::]:0"), bound("web", "0.0.0.0:0"));
    let port = web.local_addr().expect("an address").port();
    host.connect((called(WEB_V4).as_str(), port)).expect("connected");
    host.send(b"how much may I get?").expect("sent");
    let mut buffer = [0; 2_000];
    let (_, translated) = web.recv_from(&mut buffer).expect("asked");
    web.connect(translated).expect("connected");
    set_ip_mtu_discover(&web, Ipv4PathMtuDiscovery::DO).expect("no fragments");
    web.send(&[7; 1_472]).expect("sent");
    let refused = web.recv(&mut buffer).expect_err("it was too big");
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE), "{refused}");
    assert_eq!(ip_mtu(&web).expect("what is known"), 1_400);
    web.send(&[7; 1_372]).expect("sent");
    assert_eq!(host.recv(&mut buffer).expect("it fits"), 1_372);
}

/// Datagrams of 8,000 bytes go there and come back in fragments. A ping of that size has no counterpart in the other family
/// (RFC 7915 section 1.2; README, known limits).
fn fragments_across(world: &World) {
    let _echo = Echo::start(world, "web");
    let web = called(WEB_V4);
    let socket = world.enter(HOST, || UdpSocket::bind("[::]:0")).expect("entered").expect("a socket");
    socket.connect((web.as_str(), 7)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let sent: Vec<u8> = (0..8_000_u32).map(|at| (at ^ at >> 7) as u8).collect();
    let mut buffer = [0; 10_000];
    // The fragments it makes before it knows the path's MTU are lost.
    eventually("8,000 bytes come back", || {
        socket.send(&sent).is_ok_and(|len| len == sent.len())
            && socket.recv(&mut buffer).is_ok_and(|len| buffer[..len] == sent)
    });
    let ping =
        |size: &str| world.exec(HOST, &["ping", "-n", "-s", size, "-c", "3", "-i", "0.2", "-W", "1", &web]);
    assert!(stdout(&ping("1000")).contains(" 3 received"), "{:?}", ping("1000"));
    assert!(stdout(&ping("8000")).contains(" 0 received"), "{:?}", ping("8000"));
    assert!(world.dropped("fra1", Some("acme"), "untranslatable") > 0, "{:?}", world.drops("fra1"));
}

// NPTv6.

const MAP: [&str; 2] = ["2001:db8:a:1::/64", "2001:db8:f00:1::/64"];

/// Berlin's prefix is known by another, and by that alone.
fn mapped(topology: &mut Topology) {
    lead_to_far(topology);
    let via = Via::Address(v6("2001:db8:ffff:1::1"));
    node(topology, "isp").routes.push(Route { to: MAP[1].parse().expect("a prefix"), via });
    set_policy(topology, |acme| {
        let map = format!("map = {{ \"{}\" = \"{}\" }}", MAP[0], MAP[1]);
        acme.replace("routed = [\"2001:db8:a:1::/64\"]", &map) + TRACES_IN
    });
}

#[test]
fn a_branch_known_by_another_prefix_uses_servers_and_is_found_by_it() {
    let world = World::changed("enptv6", &["berlin", HOST, "transit", "far"], mapped);
    world.await_ping(HOST, WEB_V6);
    let [inside, outside] = MAP.map(|prefix| prefix.parse::<IpNetwork>().expect("a prefix"));
    let map = PrefixMap::new(inside, outside).expect("a map");
    let known_as = map.to_outside(v6(INSIDE)).expect("it has a counterpart").to_string();
    use_programs(&world, &Way { called: v6(WEB_V6), server: v6(WEB_V6), outside });
    let server = Server::start(&world, "web", 8_080, |_, peer, mut stream| {
        use std::io::Write;
        // curl takes it as it is.
        let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{}", peer.ip());
    });
    assert_eq!(curl(&world, HOST, &format!("http://[{WEB_V6}]:8080/"), &[]), known_as);
    assert_eq!(server.peers().len(), 1);

    // Sizes and pieces, both ways.
    let far = "2001:db8:114::130";
    let server = take_and_return(&world, "far");
    there_and_back(&world, far);
    let route = world.must(HOST, &["ip", "route", "get", far]);
    assert!(route.contains(" mtu 1300"), "the host has been told: {route}");
    for peer in server.peers() {
        assert_eq!(peer.ip().to_string(), known_as);
        let route = world.must("far", &["ip", "route", "get", &known_as]);
        assert!(route.contains(" mtu 1300"), "the server has been told: {route}");
    }
    let ping = |count: &str| {
        world.exec(HOST, &["ping", "-n", "-s", "8000", "-c", count, "-i", "0.05", "-W", "1", far])
    };
    eventually("a ping of 8,000 bytes comes back", || ping("1").status.success());
    assert!(stdout(&ping("5")).contains(" 5 received"), "{:?}", ping("5"));

    // Out, and in to what it is known by: what is quoted is translated back.
    let out = [
        "2001:db8:a:1::1",
        "fd70:6f70:6761:7465::1",
        "fd70:6f70:6761:7465::1",
        "2001:db8:ffff:1::1",
        "2001:db8:ffff:1::2",
        "2001:db8:ffff:2::2",
        far,
    ];
    for mode in [&["--udp"][..], &["--icmp"], &["--tcp", "--port=80"]] {
        assert_eq!(trace(&world, HOST, far, mode), out, "{mode:?}");
    }
    let host = known_as.as_str();
    for mode in ["--udp", "--icmp"] {
        let hops = ["2001:db8:113::1", "2001:db8:ffff:1::1", host, host, "*", host];
        assert_eq!(trace(&world, "web", host, &[mode]), hops, "{mode:?} inwards");
    }
    let told = world.must("web", &["tracepath", "-n", host]);
    assert!(told.contains("Resume: pmtu 1420 hops 6 back 6"), "{told}");
}
