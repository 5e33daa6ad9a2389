//! Breakout: a branch lets a class straight out by the address of its own line, and everything else through the PoP.

use crate::hosts::{Server, curl};
use crate::world::{World, eventually, need_program, node, stdout, template};
use popgate::lab::{Signal, Topology};
use std::net::{IpAddr, SocketAddr};

const WEB: &str = "203.0.113.80";
/// Berlin's line.
const LINE: &str = "100.64.1.2";

/// The web leaves at berlin, by its DSL line.
fn breaking_out(topology: &mut Topology) {
    let by_paths = "class = \"web\"\nprefer = [\"dsl\", \"lte\"]";
    let policy = template("tenants/acme.toml");
    assert!(policy.contains(by_paths));
    let policy = policy.replace(by_paths, "class = \"web\"\nprefer = [\"breakout\"]");
    for name in ["berlin", "fra1"] {
        node(topology, name).files.insert("tenants/acme.toml".to_owned(), policy.clone());
    }
    let berlin = node(topology, "berlin");
    let config = template("berlin/popgate.toml") + "\n[breakout]\ninterface = \"eth1\"\n";
    berlin.files.insert("popgate.toml".to_owned(), config);
}

/// Where the web server says that a request comes from.
fn whoami(world: &World) -> SocketAddr {
    let page = curl(world, "berlin-host", &format!("http://{WEB}/whoami"), &[]);
    page.strip_prefix("/whoami ").and_then(|peer| peer.parse().ok()).expect("an address")
}

#[test]
fn a_class_leaves_at_the_branch_and_goes_through_the_pop_while_the_line_has_no_address() {
    need_program("nft", "nftables");
    let world = World::changed("ebreak", &["berlin", "berlin-host"], breaking_out);
    let _web = Server::web(&world, "web");
    world.must("berlin", &["ip", "route", "add", "203.0.113.0/24", "via", "100.64.1.1"]);
    world.await_ping("berlin-host", WEB);

    let peer = whoami(&world);
    assert!(peer.ip() == LINE.parse::<IpAddr>().expect("an address") && peer.port() >= 52_000, "{peer}");
    assert_eq!(curl(&world, "berlin-host", &format!("http://{WEB}/bytes/5000000"), &[]).len(), 5_000_000);
    let is_web = |port: u16| port == 80;
    assert!(world.sessions("berlin").iter().any(|session| is_web(session.destination_port)));
    assert!(!world.sessions("fra1").iter().any(|session| is_web(session.destination_port)));
    // The ping went through the PoP; the box's own goes as ever, by an identifier that is given out as well.
    assert!(world.sessions("fra1").iter().any(|session| session.protocol == "icmp"));
    world.must("berlin", &["ping", "-n", "-c", "1", "-W", "2", "-e", "60000", WEB]);
    let told = world
        .ask("berlin", &["explain", "--tenant", "acme", "--from", "10.1.0.10", "--to", &format!("{WEB}:80")]);
    assert!(told.contains("internet/breakout: up"), "{told}");

    world.must("berlin", &["ip", "address", "delete", "100.64.1.2/30", "dev", "eth1"]);
    eventually("the web goes through the PoP", || {
        let command = ["curl", "-s", "-m", "2", &format!("http://{WEB}/whoami")];
        stdout(&world.exec("berlin-host", &command)).contains(" 198.51.100.")
    });

    world.kill("berlin", Signal::TERM).expect("stops");
    let left = world.must("berlin", &["nft", "list", "ruleset"]);
    assert!(!left.contains("popgate"), "{left}");
}
