//! Must hold 3: what a rule denies shows under the rule's name, and who is rejected is told.

use crate::world::World;
use popgate::pipeline::report::DropRow;
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Far less than any timeout of TCP's, far more than the way to the PoP and back.
const AT_ONCE: Duration = Duration::from_secs(1);

#[test]
fn what_a_rule_denies_shows_under_its_name_and_who_is_rejected_hears_of_it() {
    let world = World::up("eacl", &["berlin", "berlin-host", "site1", "site1-host"]);
    world.await_ping("site1-host", "203.0.113.80");
    world.await_ping("berlin-host", "203.0.113.80");
    world.await_ping("berlin-host", "2001:db8:113::80");

    // The PoP decides for a stock branch.
    let (refused, took) = connect(&world, "site1-host", "203.0.113.80:23");
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "{refused}");
    assert!(took < AT_ONCE, "refused after {took:?}");
    let refused = ask(&world, "site1-host", "0.0.0.0:0", "203.0.113.80:514");
    // Communication administratively prohibited (RFC 1812 section 5.2.7.1), as Linux tells applications.
    assert_eq!(refused.raw_os_error(), Some(libc::EHOSTUNREACH), "{refused}");
    let (silent, _) = connect(&world, "site1-host", "203.0.113.80:25");
    assert_eq!(silent.kind(), io::ErrorKind::TimedOut, "{silent}");
    let silent = ask(&world, "site1-host", "0.0.0.0:0", "203.0.113.80:9");
    assert_eq!(silent.kind(), io::ErrorKind::WouldBlock, "{silent}");
    let globex = |reason, rule| row(&world, "fra1", "globex", reason, rule);
    assert_eq!(globex("acl-rejected", Some("no-telnet")).map(|row| row.packets), Some(1));
    assert_eq!(globex("acl-rejected", Some("no-syslog")).map(|row| row.packets), Some(1));
    assert!(
        globex("acl-dropped", Some("no-smtp")).is_some_and(|row| row.packets >= 1),
        "{:?}",
        world.drops("fra1")
    );
    assert_eq!(globex("acl-default", None).map(|row| row.packets), Some(1), "UDP port 9 has no rule");
    let shown = world.show_text("fra1", &["drops", "--tenant", "globex"]);
    let line = shown.lines().find(|line| line.contains("no-telnet"));
    assert!(line.is_some_and(|line| line.contains("globex") && line.contains("acl-rejected")), "{shown}");

    // A popgate branch decides by itself, before the packet has used up its line.
    for (to, own, unreachable) in [
        ("203.0.113.80", "0.0.0.0:0", libc::EHOSTUNREACH),
        ("[2001:db8:113::80]", "[::]:0", libc::EACCES), // RFC 4443 section 3.1, as Linux tells applications
    ] {
        let (refused, took) = connect(&world, "berlin-host", &format!("{to}:23"));
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "{to}: {refused}");
        assert!(took < AT_ONCE, "{to}: refused after {took:?}");
        let refused = ask(&world, "berlin-host", own, &format!("{to}:514"));
        assert_eq!(refused.raw_os_error(), Some(unreachable), "{to}: {refused}");
    }
    let acme = |node, rule| row(&world, node, "acme", "acl-rejected", Some(rule)).map(|row| row.packets);
    assert_eq!(acme("berlin", "no-telnet"), Some(2));
    assert_eq!(acme("berlin", "no-syslog"), Some(2));
    assert_eq!(acme("fra1", "no-telnet"), None);

    // Beside all that, what is allowed passes.
    assert!(world.pings("berlin-host", "203.0.113.80") && world.pings("site1-host", "203.0.113.80"));
}

fn row(world: &World, node: &str, tenant: &str, reason: &str, rule: Option<&str>) -> Option<DropRow> {
    let mut rows = world.drops(node).into_iter();
    rows.find(|row| {
        row.tenant.as_deref() == Some(tenant) && row.reason == reason && row.detail.as_deref() == rule
    })
}

/// Connects by TCP, which must fail; why it did, and how long it took.
fn connect(world: &World, from: &str, to: &str) -> (io::Error, Duration) {
    let to: SocketAddr = to.parse().expect("an address");
    let begin = Instant::now();
    let connected = world.enter(from, || TcpStream::connect_timeout(&to, Duration::from_secs(2)));
    (connected.expect("entered").expect_err("nobody answers there"), begin.elapsed())
}

/// Asks by UDP and waits for an answer, which must not come; what came instead.
fn ask(world: &World, from: &str, own: &str, to: &str) -> io::Error {
    let asked = world.enter(from, || {
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(to)?;
        socket.send(b"anybody there?")?;
        socket.recv(&mut [0; 64])
    });
    asked.expect("entered").expect_err("nobody answers there")
}
