//! Must hold 6: a PoP that is killed and started again is found again by all its branches, each in its own time.

use crate::world::{World, eventually, within};
use popgate::lab::Signal;
use popgate::pipeline::report::PathState;
use std::time::{Duration, Instant};

/// WireGuard's own timers (whitepaper section 6.1): after KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, 15 s of sending without an
/// answer, a client begins a handshake; its initiation may be lost while the PoP is down, and comes again after
/// REKEY_TIMEOUT and up to 334 ms of jitter.
const STOCK: Duration = Duration::from_secs(25);
const BRANCH: Duration = Duration::from_secs(5);

#[test]
fn a_pop_killed_and_started_again_carries_its_branches_traffic_within_seconds_and_a_stock_clients_within_its_timers()
 {
    let world = World::up("erestart", &["berlin", "berlin-host", "site1", "site1-host"]);
    // From, to, and how long it may take.
    let ways = [
        ("berlin-host", "203.0.113.80", BRANCH, "a popgate branch to the internet"),
        ("berlin-host", "2001:db8:113::80", BRANCH, "a popgate branch to the internet by IPv6"),
        ("berlin-host", "10.200.0.10", BRANCH, "a popgate branch to its data centre"),
        ("dc-host", "10.1.0.10", BRANCH, "the data centre to a popgate branch"),
        ("site1-host", "203.0.113.80", STOCK, "a stock client to the internet"),
    ];
    for (from, to, _, _) in ways {
        world.await_ping(from, to);
    }
    eventually("both of Berlin's paths are up", || {
        world.paths("berlin").iter().all(|path| path.state == PathState::Up)
    });
    // The stock client goes on sending, as a client that is used does.
    let sending = world.spawn("site1-host", ["ping", "-q", "-i", "0.2", "203.0.113.80"]).expect("ping runs");

    let status = world.kill("fra1", Signal::KILL).expect("killed");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(!world.pings("berlin-host", "203.0.113.80"), "there is no PoP");
    world.start("fra1").expect("started");
    let ready = Instant::now();
    std::thread::scope(|scope| {
        let tries = ways.map(|(from, to, patience, what)| {
            let world = &world;
            scope.spawn(move || {
                let ping = ["ping", "-n", "-q", "-c", "1", "-W", "0.3", to];
                let found = within(patience, || world.exec(from, &ping).status.success());
                (found.map(|_| ready.elapsed()), patience, what)
            })
        });
        for thread in tries {
            let (took, patience, what) = thread.join().expect("no panic");
            let took = took.unwrap_or_else(|| panic!("{what}: not again within {patience:?}"));
            println!("restart: {what} again {took:.2?} after the new process was ready");
            assert!(took <= patience, "{what}: {took:?}");
        }
    });
    drop(sending);
    eventually("both of Berlin's paths are there again", || {
        world.paths("berlin").iter().all(|path| path.state != PathState::Down)
    });
}
