//! What the network itself says across the NAT: who is on the way, what is too big, and what comes in pieces.

use crate::hosts::Server;
use crate::world::{World, eventually, node, stdout, template};
use popgate::lab::Topology;
use popgate::lab::topology::{Route, Via};
use popgate::pipeline::report::PathState;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, ip_mtu, set_ip_mtu_discover};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

pub const HOST: &str = "berlin-host";
const PORT: u16 = 9_000;
const WEB: &str = "203.0.113.80";

/// Far: behind the stretch that takes only 1,300 bytes.
const FAR: [&str; 2] = ["192.0.2.130", "2001:db8:114::130"];

/// Who is between the host and there, in order. A box is two hops: popgate and the kernel that leads packets to it, or
/// from it. popgate answers by its `icmp-source`, the kernels by whatever address of theirs is nearest.
const HOPS: [[&str; 7]; 2] = [
    ["10.1.0.1", "192.0.0.8", "192.0.0.8", "192.0.2.1", "192.0.2.2", "192.0.2.10", FAR[0]],
    [
        "2001:db8:a:1::1",
        "fd70:6f70:6761:7465::1",
        "fd70:6f70:6761:7465::1",
        "2001:db8:ffff:1::1",
        "2001:db8:ffff:1::2",
        "2001:db8:ffff:2::2",
        FAR[1],
    ],
];

/// Lets the internet trace its way to Berlin, which has addresses there in IPv6.
pub const TRACES_IN: &str = r#"
[[acl]]
name = "traces-in"
from = ["handoff:internet"]
to = ["branch:berlin"]
protocol = ["udp", "icmpv6"]
action = "accept"
"#;

#[test]
fn traces_name_each_hop_paths_are_found_as_narrow_as_they_are_and_pings_of_8000_bytes_return() {
    let world = World::changed("ehops", &["berlin", HOST, "transit", "far"], |topology| {
        lead_to_far(topology);
        let acme = template("tenants/acme.toml") + TRACES_IN;
        for at in ["fra1", "berlin"] {
            node(topology, at).files.insert("tenants/acme.toml".to_owned(), acme.clone());
        }
        // The second transport is narrower than popgate believes.
        let lte = topology.links.iter_mut().find(|link| link.name == "berlin-lte");
        lte.expect("the topology has it").mtu = 1_400;
    });
    FAR.iter().for_each(|far| world.await_ping(HOST, far));
    thread::scope(|scope| {
        let world = &world;
        let start = |name: &str, part: fn(&World)| {
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn_scoped(scope, move || part(world)).expect("a thread");
        };
        start("traces", traces);
        start("path MTU", path_mtu);
        start("fragments", fragments);
    });
    narrow_underlay(&world);
}

/// The internet's own routes to what only these tests have in it.
pub fn lead_to_far(topology: &mut Topology) {
    for (to, via) in [("192.0.2.128/26", "192.0.2.10"), ("2001:db8:114::/64", "2001:db8:ffff:2::2")] {
        let via = Via::Address(via.parse().expect("an address"));
        node(topology, "isp").routes.push(Route { to: to.parse().expect("a prefix"), via });
    }
}

/// traceroute in each of its modes. It only names a hop when the packet that is quoted to it is one it has sent: so the
/// quotes are translated back, whatever is in them.
fn traces(world: &World) {
    for mode in [&["--udp"][..], &["--icmp"], &["--tcp", "--port=80"]] {
        for (to, hops) in FAR.into_iter().zip(HOPS) {
            let trace = trace(world, HOST, to, mode);
            assert_eq!(trace, hops, "{mode:?}; {:?}, {:?}", world.drops("berlin"), world.drops("fra1"));
        }
    }
    // Inwards, popgate answers by the address that was called: its own means nothing out there. What Berlin's kernel says
    // for itself does not take the tunnel (README, known limits).
    let host = "2001:db8:a:1::10";
    for mode in ["--udp", "--icmp"] {
        let hops = ["2001:db8:113::1", "2001:db8:ffff:1::1", host, host, "*", host];
        assert_eq!(trace(world, "web", host, &[mode]), hops, "{mode:?} inwards");
    }
}

/// The addresses that traceroute prints, a hop a line; its asterisk where nobody answered.
pub fn trace(world: &World, from: &str, to: &str, mode: &[&str]) -> Vec<String> {
    // One packet at a time: routers, and popgate, answer only so often.
    let command = ["traceroute", "-n", "--queries=1", "--sim-queries=1", "--wait=2", to];
    let told = world.must(from, &[&command, mode].concat());
    let address = |line: &str| line.split_whitespace().nth(1).expect("a hop").to_owned();
    told.lines().skip(1).map(address).collect()
}

/// Packets that are too big for some link on the way: the answer of the router there reaches whoever sent them.
fn path_mtu(world: &World) {
    // TCP fills its packets, there and back.
    let server = take_and_return(world, "far");
    for far in FAR {
        there_and_back(world, far);
        let route = world.must(HOST, &["ip", "route", "get", far]);
        assert!(route.contains(" mtu 1300"), "the host has been told: {route}");
    }
    for peer in server.peers() {
        let route = world.must("far", &["ip", "route", "get", &peer.ip().to_string()]);
        assert!(route.contains(" mtu 1300"), "the server has been told: {route}");
    }

    // The tunnel is the first that is too narrow, then the stretch before `transit`. Nothing is known yet of the way to
    // the address behind it.
    for (to, hops) in ["192.0.2.129", "2001:db8:114::1"].into_iter().zip(HOPS) {
        let told = world.must(HOST, &["tracepath", "-n", to]);
        let says = |hop: &str, mtu: &str| {
            told.lines().any(|line| line.contains(&format!("  {hop} ")) && line.trim_end().ends_with(mtu))
        };
        assert!(says(hops[1], "pmtu 1420") && says(hops[4], "pmtu 1300"), "{told}");
        assert!(told.contains("Resume: pmtu 1300 hops 6 back 6"), "{told}");
    }
    let told = world.must("web", &["tracepath", "-n", "2001:db8:a:1::10"]);
    assert!(told.contains("Resume: pmtu 1420 hops 6 back 6"), "{told}");

    // The same for an answer through the NAT: the PoP tells the server.
    let [host, web] = [HOST, "web"]
        .map(|at| world.enter(at, || UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("a socket"));
    let port = web.local_addr().expect("an address").port();
    host.connect((WEB, port)).expect("connected");
    for socket in [&host, &web] {
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    }
    host.send(b"how much may I get?").expect("sent");
    let mut buffer = [0; 2_000];
    let (_, translated) = web.recv_from(&mut buffer).expect("asked");
    web.connect(translated).expect("connected");
    set_ip_mtu_discover(&web, Ipv4PathMtuDiscovery::DO).expect("no fragments");
    web.send(&[7; 1_472]).expect("sent");
    let refused = web.recv(&mut buffer).expect_err("it was too big");
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE), "{refused}");
    assert_eq!(ip_mtu(&web).expect("what is known"), 1_420);
    web.send(&[7; 1_392]).expect("sent");
    assert_eq!(host.recv(&mut buffer).expect("it fits"), 1_392);
}

/// A megabyte, and a megabyte back, over one connection.
pub fn there_and_back(world: &World, to: &str) {
    let connect = || {
        let stream = TcpStream::connect((to, PORT)).expect("connected");
        send(&stream);
        receive(&stream);
    };
    world.enter(HOST, connect).expect("entered");
}

/// The other end of it.
pub fn take_and_return(world: &World, node: &str) -> Server {
    Server::start(world, node, PORT, |_, _, stream| {
        receive(&stream);
        send(&stream);
    })
}

fn megabyte() -> Vec<u8> {
    (0..1_000_000_u32).map(|at| (at ^ at >> 7) as u8).collect()
}

fn send(mut stream: &TcpStream) {
    stream.write_all(&megabyte()).and_then(|()| stream.shutdown(Shutdown::Write)).expect("sent");
}

fn receive(mut stream: &TcpStream) {
    let mut got = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
    stream.read_to_end(&mut got).expect("received");
    assert!(got == megabyte(), "{} bytes came, or others", got.len());
}

/// 8,000 bytes there and back, in pieces: through the NAT, past it, and to the data centre.
fn fragments(world: &World) {
    for to in [FAR[0], WEB, "10.200.0.10", FAR[1], "2001:db8:113::80", "2001:db8:a:200::10"] {
        let ping = |count: &str| {
            world.exec(HOST, &["ping", "-n", "-s", "8000", "-c", count, "-i", "0.05", "-W", "1", to])
        };
        // In IPv6 only the sender makes fragments, and those it makes before it knows the path's MTU are lost.
        eventually(&format!("{to} is pinged"), || ping("1").status.success());
        let pings = ping("5");
        assert!(stdout(&pings).contains(" 5 received"), "{pings:?}");
    }
}

/// Where the underlay takes less than a transport says, tunnel packets travel in pieces themselves, both ways.
fn narrow_underlay(world: &World) {
    let _server = take_and_return(world, "web");
    world.link("berlin-dsl").cut().expect("cut");
    eventually("berlin is reached by lte alone", || {
        let ends = [("fra1", "berlin"), ("berlin", "fra1")];
        ends.map(|(at, far)| world.path(at, far, "dsl").state) == [PathState::Down; 2]
    });
    let pieces = |node: &str| -> u64 {
        let told = world.must(node, &["nstat", "-asz", "IpFragCreates"]);
        let count = told.lines().find_map(|line| line.strip_prefix("IpFragCreates"));
        count.and_then(|count| count.split_whitespace().next()?.parse().ok()).expect("a number")
    };
    let before = ["berlin", "isp"].map(pieces);
    for to in [WEB, "2001:db8:113::80"] {
        there_and_back(world, to);
    }
    let made = ["berlin", "isp"].map(pieces);
    // Two megabytes each way, in packets that no longer fit.
    assert!(made.iter().zip(before).all(|(now, before)| now - before > 2_000), "{before:?}, then {made:?}");
}
