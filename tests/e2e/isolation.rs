//! Must hold 2: no packet crosses tenants or spoofs. Stock WireGuard sends what it is told to; the PoP has to refuse it.

use crate::hosts::Watch;
use crate::world::{World, eventually};
use std::net::UdpSocket;

/// What is sent where it must not arrive, three times.
struct Attempt {
    what: &'static str,
    from: &'static str,
    source: &'static str,
    to: &'static str,
    /// Under which tenant and reason it is counted.
    counted: (&'static str, &'static str),
}

const ATTEMPTS: [Attempt; 8] = [
    Attempt {
        what: "a source that is nobody's",
        from: "site1",
        source: "10.9.9.9",
        to: "203.0.113.80",
        counted: ("globex", "source-not-allowed"),
    },
    Attempt {
        what: "a source that is the other tenant's",
        from: "site1",
        source: "10.2.0.99",
        to: "203.0.113.80",
        counted: ("globex", "source-not-allowed"),
    },
    Attempt {
        what: "a destination that is a branch of the other tenant",
        from: "site1",
        source: "10.1.0.1",
        to: "10.2.0.1",
        counted: ("globex", "no-route"),
    },
    Attempt {
        what: "a destination in the other tenant's data centre",
        from: "site1",
        source: "10.1.0.1",
        to: "10.200.0.10",
        counted: ("globex", "no-route"),
    },
    Attempt {
        what: "a source that is another branch's",
        from: "lyon",
        source: "10.1.0.99",
        to: "10.200.0.10",
        counted: ("acme", "source-not-allowed"),
    },
    Attempt {
        what: "a source within its own prefix, of which another branch owns that part",
        from: "lyon",
        source: "10.2.128.99",
        to: "10.200.0.10",
        counted: ("acme", "source-not-allowed"),
    },
    Attempt {
        what: "a source that is beyond a handoff",
        from: "lyon",
        source: "203.0.113.99",
        to: "10.200.0.10",
        counted: ("acme", "source-not-allowed"),
    },
    Attempt {
        what: "a branch's source from the data centre",
        from: "dc-host",
        source: "10.1.0.98",
        to: "10.2.0.1",
        counted: ("acme", "source-not-allowed"),
    },
];

#[test]
fn no_packet_crosses_tenants_or_comes_from_where_it_does_not_belong() {
    let world = World::up("eisolate", &["lyon", "site1"]);
    let lyon_tunnel = world.node("lyon").wireguard_interface();
    let watches = [("web", "eth0"), ("dc-host", "eth0"), ("lyon", &*lyon_tunnel)]
        .map(|(node, interface)| (node, Watch::start(&world, node, interface, "icmp or udp")));
    // What may pass does, so tunnels are up; and it shows that the watches see.
    world.await_ping("lyon", "10.200.0.10");
    world.must("site1", &["ip", "address", "add", "10.1.0.1/32", "dev", "lo"]);
    eventually("globex reaches the internet", || {
        let ping = ["ping", "-n", "-c", "1", "-W", "1", "-I", "10.1.0.1", "203.0.113.80"];
        world.exec("site1", &ping).status.success()
    });

    for Attempt { what, from, source, to, counted: (tenant, reason) } in &ATTEMPTS {
        if *source != "10.1.0.1" {
            world.must(from, &["ip", "address", "add", &format!("{source}/32"), "dev", "lo"]);
        }
        let count = || world.dropped("fra1", Some(tenant), reason);
        let before = count();
        let ping = ["ping", "-n", "-q", "-c", "3", "-i", "0.05", "-W", "0.3", "-I", source, to];
        let output = world.exec(from, &ping);
        assert!(!output.status.success(), "{what}: {output:?}");
        eventually(&format!("{what} is counted under {reason}"), || count() >= before + 3);
        assert_eq!(count(), before + 3, "{what}: each packet is counted once");
    }

    // The internet cannot begin anything with a pool's address either.
    let count = || world.dropped("fra1", Some("acme"), "no-session");
    let before = count();
    let knock = || {
        let socket = UdpSocket::bind("203.0.113.80:0").expect("a socket");
        socket.send_to(b"let me in", "198.51.100.1:5000").expect("sent");
    };
    world.enter("web", knock).expect("entered");
    eventually("the internet's own packet is counted", || count() > before);

    // Last of all come packets that may pass: whatever was sent before them has been seen by now.
    let seen_last = |node: &str, from: &str, source: &str, to: &str, size: u32| {
        let (_, watch) = watches.iter().find(|(watched, _)| *watched == node).expect("it is watched");
        let bytes = size.to_string();
        world.must(from, &["ping", "-n", "-c", "1", "-W", "5", "-s", &bytes, "-I", source, to]);
        let shows = format!("length {}", size + 8);
        eventually(&format!("{node} sees what is allowed"), || {
            watch.lines().iter().any(|line| line.contains(&shows))
        });
    };
    seen_last("dc-host", "lyon", "10.2.0.1", "10.200.0.10", 101);
    seen_last("lyon", "dc-host", "10.200.0.10", "10.2.0.1", 102);
    seen_last("web", "site1", "10.1.0.1", "203.0.113.80", 103);
    for (node, watch) in &watches {
        for line in watch.lines() {
            let allowed = match *node {
                // Pings of globex's, translated, and their answers; the packet that `web` sent itself.
                "web" => line.contains("203.0.113.80") && line.contains("198.51.100."),
                _ => is_between_lyon_and_dc(&line) || is_own_attempt(node, &line),
            };
            assert!(allowed, "{node} saw: {line}");
        }
    }
    // Nothing of it has become a session.
    for session in world.sessions("fra1") {
        let (source, destination) = (session.source.to_string(), session.destination.to_string());
        let allowed = match &*session.tenant {
            "globex" => source == "10.1.0.1" && destination == "203.0.113.80",
            _ => {
                [&source, &destination].iter().all(|end| ["10.2.0.1", "10.200.0.10"].contains(&end.as_str()))
            }
        };
        assert!(allowed, "{session:?}");
    }
}

/// Pings that may pass and their answers.
fn is_between_lyon_and_dc(line: &str) -> bool {
    let between = |one: &str, other: &str| line.contains(&format!("IP {one} > {other}: ICMP echo"));
    between("10.2.0.1", "10.200.0.10") || between("10.200.0.10", "10.2.0.1")
}

/// What the watched node sent itself, on its way out; and what it was told about that.
fn is_own_attempt(node: &str, line: &str) -> bool {
    ATTEMPTS
        .iter()
        .filter(|attempt| attempt.from == node)
        .any(|attempt| line.contains(&format!("IP {} > {}: ICMP echo request", attempt.source, attempt.to)))
}
