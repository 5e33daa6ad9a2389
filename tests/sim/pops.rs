//! A branch with paths to two PoPs: their order is one, and a session's NAT binding is at one of them.

use crate::net::{ACME, Sim};
use crate::packets::{answer, source, udp};
use popgate::pipeline::report::{PathReport, PathState};

/// Where fra1's transports listen, which the paths `dsl` and `lte` lead to.
const FRA1: [&str; 2] = ["192.0.2.1:51820", "192.0.2.2:51820"];

fn preferring(order: &str) -> Sim {
    let policy = "class = \"default\"\nprefer = [\"dsl\", \"lte\"]";
    let acme = ACME.replace(policy, &format!("class = \"default\"\nprefer = {order}"));
    assert_ne!(acme, ACME, "the policy is there to be changed");
    let mut sim = Sim::with_two_pops(&acme);
    sim.advance(3_000);
    sim
}

/// Where a packet from Berlin's `port` comes out, by which of Berlin's paths, and with which source.
fn left(sim: &mut Sim, port: u16) -> (String, String, String) {
    let out = sim.send("berlin", "lan", &udp(&format!("10.1.0.5:{port}"), "203.0.113.80:53", b"q").bytes());
    let [(at, packet)] = out.as_slice() else { panic!("{out:?}") };
    let sessions = sim.sessions("berlin");
    let session = sessions.iter().find(|session| session.source_port == port).expect("just sent");
    (at.clone(), session.forward_path.clone().expect("by a path"), source(packet).to_string())
}

fn at((at, path, _): &(String, String, String)) -> (&str, &str) {
    (at, path)
}

#[test]
fn new_sessions_go_by_the_next_pop_when_the_first_is_gone_and_running_ones_stay_where_their_binding_is() {
    let mut sim = preferring("[\"dsl\", \"lte\", \"ams-dsl\"]");
    assert_eq!(at(&left(&mut sim, 1_000)), ("fra1 pg-internet", "dsl"));
    FRA1.iter().for_each(|address| sim.cut(address));
    sim.advance(1_000);
    assert_eq!(at(&left(&mut sim, 1_001)), ("ams1 pg-internet", "ams-dsl"));
    // Nothing leads to where the running one's binding is: it is known by another address now, and whoever is called may mind.
    let moved = left(&mut sim, 1_000);
    assert_eq!(at(&moved), ("ams1 pg-internet", "ams-dsl"));
    FRA1.iter().for_each(|address| sim.heal(address));
    sim.advance(30_000);
    assert_eq!(at(&left(&mut sim, 1_002)), ("fra1 pg-internet", "dsl"));
    assert_eq!(left(&mut sim, 1_000), moved, "it has a binding there");
    assert_eq!(at(&left(&mut sim, 1_001)), ("ams1 pg-internet", "ams-dsl"));
}

#[test]
fn a_running_session_takes_another_path_to_its_own_pop_before_the_next_pops() {
    let mut sim = preferring("[\"dsl\", \"ams-dsl\", \"lte\"]");
    let before = left(&mut sim, 1_000);
    assert_eq!(at(&before), ("fra1 pg-internet", "dsl"));
    sim.cut(FRA1[0]);
    sim.advance(1_000);
    assert_eq!(at(&left(&mut sim, 1_001)), ("ams1 pg-internet", "ams-dsl"));
    let after = left(&mut sim, 1_000);
    assert_eq!(at(&after), ("fra1 pg-internet", "lte"));
    assert_eq!(after.2, before.2, "its binding stays");
    let out = sim.send("berlin", "lan", &udp("10.1.0.5:1000", "203.0.113.80:53", b"q").bytes());
    let answered = sim.send("fra1", "internet", &answer(&out[0].1, b"yes"));
    assert_eq!(answered[0].0, "berlin pg-lan");
    sim.heal(FRA1[0]);
    sim.advance(30_000);
    assert_eq!(at(&left(&mut sim, 1_000)), ("fra1 pg-internet", "dsl"));
}

#[test]
fn a_class_that_came_back_stays_ten_seconds_before_it_goes_back_to_what_it_likes_even_more() {
    let mut sim = preferring("[\"dsl\", \"lte\", \"ams-dsl\"]");
    FRA1.iter().for_each(|address| sim.cut(address));
    sim.advance(2_000);
    let known = sim.decisions("berlin").len();
    sim.heal(FRA1[1]);
    sim.advance(4_000);
    sim.heal(FRA1[0]);
    sim.advance(40_000);
    let rows = sim.decisions("berlin");
    let rows: Vec<_> = rows[known..].iter().filter(|row| row.class == "default").collect();
    let [first, second] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((first.to.as_str(), first.why.as_str()), ("lte", "recovered"), "{rows:?}");
    assert_eq!((second.to.as_str(), second.why.as_str()), ("dsl", "recovered"), "{rows:?}");
    // A path without traffic is asked once a second.
    let stayed = second.unix_ms - first.unix_ms;
    assert!((10_000..=11_500).contains(&stayed), "{stayed} ms");
}

#[test]
fn nobody_who_needs_a_path_waits_for_those_who_do_not() {
    let mut sim = preferring("[\"dsl\", \"lte\", \"ams-dsl\"]");
    FRA1.iter().for_each(|address| sim.cut(address));
    sim.advance(2_000);
    sim.heal(FRA1[1]);
    sim.advance(4_000);
    sim.heal(FRA1[0]);
    let has_moved = |sim: &mut Sim, to: &str, why: &str| {
        let rows = sim.decisions("berlin");
        let of_default = rows.iter().filter(|row| row.class == "default");
        of_default.rev().take(1).any(|row| row.to == to && row.why == why)
    };
    while !has_moved(&mut sim, "lte", "recovered") {
        sim.advance(100);
    }
    // dsl has recovered as well, and is held back, when lte is lost again.
    sim.advance(6_000);
    let state = |path: &PathReport| (path.site == "fra1" && path.path == "dsl").then_some(path.state);
    assert_eq!(sim.paths("berlin").iter().find_map(state), Some(PathState::Up));
    assert!(has_moved(&mut sim, "lte", "recovered"));
    sim.cut(FRA1[1]);
    sim.advance(2_000);
    let rows = sim.decisions("berlin");
    let of_default: Vec<_> = rows.iter().filter(|row| row.class == "default").collect();
    let last = of_default.last().expect("it has moved");
    assert_eq!((last.to.as_str(), last.why.as_str()), ("dsl", "down"), "{of_default:?}");
}
