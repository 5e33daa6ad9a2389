//! Must hold 5: WireGuard as Debian has it, whoever calls first, and from whatever port.

use crate::world::{World, eventually, node, stderr, template};
use popgate::pipeline::report::{PathReport, PathState};
use std::process::Stdio;

#[test]
fn stock_wireguard_calls_us_and_keeps_its_pings_through_a_change_of_port() {
    let world = World::up("eresponder", &["lyon"]);
    let path = || world.path("fra1", "lyon", "cable");
    assert_eq!((path().state, path().endpoint), (PathState::Down, None), "it has not called yet");
    world.await_ping("lyon", "10.200.0.10");
    assert_eq!(path().state, PathState::Up);
    assert!(!path().probed, "it is no popgate");
    assert!(world.pings("dc-host", "10.2.0.1"), "and the other way round");
    pings_go_on_through_a_change_of_port(&world, "lyon", "cable", "10.2.0.1");
}

#[test]
fn we_call_stock_wireguard_that_does_not_know_where_we_are_and_it_keeps_its_pings_through_a_change_of_port() {
    let world = World::up("einitiator", &["oslo"]);
    let interface = world.node("oslo").wireguard_interface();
    world.await_ping("dc-host", "10.2.128.1");
    let peer = world.must("oslo", &["wg", "show", &interface, "endpoints"]);
    assert!(peer.trim_end().ends_with("192.0.2.1:51820"), "it learned where we are from our call: {peer}");
    assert!(world.pings("oslo", "10.200.0.10"), "and the other way round");
    pings_go_on_through_a_change_of_port(&world, "oslo", "fibre", "10.2.128.1");
}

#[test]
fn a_path_to_stock_wireguard_is_measured_by_pings_where_policy_names_an_address() {
    let world = World::changed("emeasured", &["lyon"], |topology| {
        let key = "public-key = \"@public-key:lyon@\"";
        let policy = template("tenants/acme.toml");
        assert!(policy.contains(key));
        let policy = policy.replace(key, &format!("{key}\nprobe-target = \"10.2.0.1\""));
        node(topology, "fra1").files.insert("tenants/acme.toml".to_owned(), policy);
    });
    world.await_ping("lyon", "10.200.0.10");
    let path = || world.path("fra1", "lyon", "cable");
    let is_measured = |path: &PathReport| {
        [path.outbound, path.inbound].iter().flatten().filter(|way| way.latency_p95_ms.is_some()).count() == 2
    };
    eventually("it answers pings", || is_measured(&path()));
    let measured = path();
    assert_eq!((measured.state, measured.probed), (PathState::Up, false));
    assert!(measured.rtt_ms.is_some_and(|rtt| rtt < 500.0), "{measured:?}");
    // It lets nothing in any more.
    world.must(
        "lyon",
        &["ip", "address", "delete", "10.2.0.1/16", "dev", &world.node("lyon").wireguard_interface()],
    );
    eventually("it is found down", || path().state == PathState::Down);
}

fn pings_go_on_through_a_change_of_port(world: &World, node: &str, path: &str, address: &str) {
    const PINGS: usize = 50;
    let interface = world.node(node).wireguard_interface();
    let endpoint = || world.path("fra1", node, path).endpoint.expect("it has called");
    let before = endpoint();
    let output = world.node(node).directory().join("pings");
    let file = std::fs::File::create(&output).expect("a file");
    let so_far = || std::fs::read_to_string(&output).expect("what ping says").matches("icmp_seq=").count();
    // From the stock side: until it sends something, nobody can know its new port.
    let count = PINGS.to_string();
    let ping = world.node(node).command("ping").args(["-n", "-i", "0.05", "-W", "2", "-c", &count]);
    let ping = ping.arg("10.200.0.10").stdout(file).stderr(Stdio::piped()).spawn().expect("ping runs");
    eventually("the first answers", || so_far() >= 10);
    world.must(node, &["wg", "set", &interface, "listen-port", "51999"]);
    let changed_after = so_far();
    let ended = ping.output().expect("ping ends");
    let text = std::fs::read_to_string(&output).expect("what ping says");
    assert!(ended.status.success(), "{}\n{text}", stderr(&ended));
    let answered = text.matches("icmp_seq=").count();
    println!("{node}: {answered} of {PINGS} pings answered, {changed_after} of them before its port changed");
    // wireguard-go has no socket for a moment while it changes.
    assert!(answered >= PINGS - 5, "{text}");
    assert!(text.contains(&format!("icmp_seq={PINGS} ")), "the last is answered: {text}");
    let after = endpoint();
    assert_eq!((after.ip(), after.port()), (before.ip(), 51_999));
    assert!(world.pings("dc-host", address), "we follow it to its new port");
}
