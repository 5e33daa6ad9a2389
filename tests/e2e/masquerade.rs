//! A PoP with one address of its own: tenants go out by it, the box itself still lives at it, and it may change.

use crate::hosts::{Echo, Server, curl};
use crate::world::{World, eventually, need_program, node, stdout, template};
use popgate::lab::{Signal, Topology};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const WEB: &str = "203.0.113.80";
/// What masquerading gives out by default.
const FIRST_PORT: u16 = 52_000;

/// Both tenants go out by the address of `fra1`'s first interface, and hear of the routers beyond.
fn masquerading(topology: &mut Topology) {
    for (name, pool) in [("acme", "198.51.100.0/29"), ("globex", "198.51.100.8/29")] {
        let file = format!("tenants/{name}.toml");
        let text = template(&file).replace(&format!("nat-pool = [\"{pool}\"]"), "masquerade = \"eth0\"");
        let text = text.replace("[\"203.0.113.0/24\"]", "[\"203.0.113.0/24\", \"192.0.2.0/24\"]");
        node(topology, "fra1").files.insert(file, text);
    }
}

/// Where the web server says that a request comes from.
fn whoami(world: &World, from: &str, options: &[&str]) -> SocketAddr {
    let page = curl(world, from, &format!("http://{WEB}/whoami"), options);
    page.strip_prefix("/whoami ").and_then(|peer| peer.parse().ok()).expect("an address")
}

fn reserved(world: &World) -> String {
    world.must("fra1", &["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]).trim().to_owned()
}

#[test]
fn tenants_go_out_by_the_boxs_own_address_and_the_box_itself_still_lives_there() {
    need_program("nft", "nftables");
    let nodes = ["berlin", "berlin-host", "site1", "site1-host"];
    let world = World::changed("emasq", &nodes, masquerading);
    let web = Server::web(&world, "web");
    let own = Server::web(&world, "fra1");
    world.await_ping("site1-host", WEB);
    world.await_ping("berlin-host", WEB);

    // Two tenants' flows of one 5-tuple, the box's own, and one to the box, all at one address.
    let address = "192.0.2.1".parse::<std::net::IpAddr>().expect("an address");
    let tenants = ["berlin-host", "site1-host"].map(|host| whoami(&world, host, &["--local-port", "40000"]));
    for peer in tenants {
        assert_eq!(peer.ip(), address);
        assert!(peer.port() >= FIRST_PORT, "{peer}");
    }
    assert_ne!(tenants[0], tenants[1]);
    let the_boxs = whoami(&world, "fra1", &[]);
    assert!(the_boxs.ip() == address && the_boxs.port() < FIRST_PORT, "{the_boxs}");
    assert_eq!(reserved(&world), "52000-65535");
    curl(&world, "web", "http://192.0.2.1/whoami", &[]);
    assert_eq!((web.peers().len(), own.peers().len()), (3, 1));
    // Super-packets, both ways.
    assert_eq!(curl(&world, "site1-host", &format!("http://{WEB}/bytes/5000000"), &[]).len(), 5_000_000);

    // In fragments, too; and by the box itself, with an identifier that is given out as well.
    world.must("site1-host", &["ping", "-n", "-c", "1", "-W", "2", "-s", "4000", WEB]);
    world.must("fra1", &["ping", "-n", "-c", "1", "-W", "2", "-e", "60000", WEB]);
    world.must("fra1", &["ping", "-n", "-c", "1", "-W", "2", "-e", "60000", "-s", "4000", WEB]);

    // Errors come back: of a router's beyond, of the box's own kernel's, of the far end's.
    let hops: String = (1..=6)
        .map(|ttl| {
            let ttl = ttl.to_string();
            stdout(&world.exec("site1-host", &["ping", "-n", "-c", "1", "-W", "1", "-t", &ttl, WEB]))
        })
        .collect();
    for reporter in ["192.0.2.1", "192.0.2.2"] {
        assert!(hops.contains(&format!("From {reporter} icmp_seq=1 Time to live exceeded")), "{hops}");
    }
    let refused = world.enter("site1-host", || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect((WEB, 7))?;
        socket.send(b"is anybody there?")?;
        socket.recv(&mut [0; 16])
    });
    let refused = refused.expect("entered").expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{refused}");
    world.must("fra1", &["ip", "link", "set", "eth0", "mtu", "1300"]);
    let large = &["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1320", WEB];
    let too_large = stdout(&world.exec("site1-host", large));
    assert!(too_large.contains("mtu = 1300") || too_large.contains("mtu=1300"), "{too_large}");

    // It cleans up behind itself.
    world.kill("fra1", Signal::TERM).expect("stops");
    assert_eq!(reserved(&world), "");
    let left = world.must("fra1", &["nft", "list", "ruleset"]);
    assert!(!left.contains("popgate"), "{left}");
}

#[test]
fn new_flows_come_from_the_new_address_when_it_changes_and_the_old_ones_end_and_are_counted() {
    need_program("nft", "nftables");
    let world = World::changed("emasqnew", &["site1", "site1-host"], masquerading);
    let _web = Server::web(&world, "web");
    let _echo = Echo::start(&world, "web");
    world.await_ping("site1-host", WEB);
    let socket = world.enter("site1-host", || UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("bound");
    socket.connect((WEB, 7)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let answered = || {
        socket.send(b"still there?").expect("sent");
        socket.recv(&mut [0; 16]).is_ok()
    };
    assert!(answered());
    assert_eq!(whoami(&world, "site1-host", &[]).ip().to_string(), "192.0.2.1");

    world.must("isp", &["ip", "address", "add", "192.0.2.18/30", "dev", "fra1-a"]);
    world.must("fra1", &["ip", "address", "add", "192.0.2.17/30", "dev", "eth0"]);
    world.must("fra1", &["ip", "route", "replace", "default", "via", "192.0.2.18"]);
    world.must("fra1", &["ip", "address", "delete", "192.0.2.1/30", "dev", "eth0"]);
    eventually("flows come from the new address", || {
        let output = world.exec("site1-host", &["curl", "-s", "-m", "2", &format!("http://{WEB}/whoami")]);
        stdout(&output).contains(" 192.0.2.17:")
    });
    let revoked = || world.dropped("fra1", Some("globex"), "nat-binding-revoked");
    eventually("the old flow begins anew", answered);
    assert!(revoked() >= 1);
    let sessions = world.sessions("fra1");
    let echo = sessions.iter().find(|session| session.destination_port == 7).expect("its session");
    assert_eq!(echo.nat_source.map(|address| address.to_string()).as_deref(), Some("192.0.2.17"));
    assert!(world.pings("site1-host", WEB));

    // Whoever flushes the ruleset takes the chain away; it is put back.
    world.must("fra1", &["nft", "flush", "ruleset"]);
    eventually("the chain is back", || world.pings("site1-host", WEB));

    // Without an address nobody goes out, and the box says so.
    world.must("fra1", &["ip", "address", "delete", "192.0.2.17/30", "dev", "eth0"]);
    eventually("it is refused", || {
        world.pings("site1-host", WEB);
        world.dropped("fra1", Some("globex"), "nat-required") > 0
    });
}
