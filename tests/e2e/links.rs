//! What the kernel knows of a line at once: its link is down.

use crate::world::{World, eventually};
use popgate::pipeline::report::{DecisionRow, PathState};
use std::time::UNIX_EPOCH;

#[test]
fn a_link_that_is_set_down_is_left_at_once_and_asked_about_at_once_when_it_is_back() {
    let world = World::changed_alone("elinks", &["berlin", "berlin-host"], |topology| {
        // Bare cables: what happens at one end of one, the other end sees.
        topology.links.iter_mut().for_each(|link| link.shape = None);
    });
    world.await_ping("berlin-host", "10.200.0.10");
    let is = |path: &str, state| world.path("berlin", "fra1", path).state == state;
    eventually("both lines are up", || is("dsl", PathState::Up) && is("lte", PathState::Up));
    let now = || UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64;
    let move_since = |since: u64| -> Option<DecisionRow> {
        let rows = world.decisions("berlin");
        rows.into_iter().find(|row| row.class == "default" && row.unix_ms >= since)
    };
    let down = now();
    world.must("berlin", &["ip", "link", "set", "eth1", "down"]);
    eventually("the class has moved", || move_since(down).is_some());
    let row = move_since(down).expect("moved");
    println!("{} ms after the link was set down: {}", row.unix_ms - down, row.detail);
    assert_eq!((row.from.as_str(), row.to.as_str()), ("dsl", "lte"));
    // The kernel tells of the link, and refuses what is sent by it; whichever a worker hears of first.
    let told = [("link-down", "dsl: link down"), ("cannot-send", "nothing can be sent by dsl")];
    assert!(told.contains(&(row.why.as_str(), row.detail.as_str())), "{row:?}");
    assert!(row.unix_ms - down <= 150, "{row:?}");
    assert!(world.pings("berlin-host", "10.200.0.10"), "by the other line");

    world.must("berlin", &["ip", "link", "set", "eth1", "up"]);
    // The kernel has taken the route with it.
    world.must("berlin", &["ip", "route", "replace", "192.0.2.0/30", "via", "100.64.1.1"]);
    eventually("it answers again, and is held", || is("dsl", PathState::Recovering));

    // The far end of the other goes: no carrier.
    let known = world.decisions("berlin").len();
    let down = now();
    world.must("isp", &["ip", "link", "set", "berlin-lte", "down"]);
    eventually("the other line is down", || is("lte", PathState::Down));
    let row = move_since(down).unwrap_or_else(|| panic!("none after {known}"));
    println!("{} ms after the far end was set down: {}", row.unix_ms - down, row.detail);
    assert_eq!((row.why.as_str(), row.detail.as_str()), ("link-down", "lte: link down"));
    assert!(row.unix_ms - down <= 150, "{row:?}");
}
