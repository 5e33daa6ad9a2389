//! Must hold 7 of flows: a flow that has moved twice and was denied after a commit is told from beginning to end, by its box
//! and from its history.

use crate::branches::topology;
use crate::hosts::Echo;
use crate::reload::edit_and_tell;
use crate::world::{World, eventually, node, template};
use popgate::control::{Trace, TraceMove};
use popgate::lab::topology::Directions;
use popgate::pipeline::report::{MoveBy, PathState};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const POLICY: &str = "
[[sla-class]]
name = \"gold\"
max-loss = \"1%\"
[[path-policy]]
class = \"default\"
prefer = [\"dsl\", \"lte\"]
sla-class = \"gold\"
";
const DENIAL: &str = "[[acl]]\nname = \"no-echo\"\nprotocol = \"udp\"\ndst-port = 7\naction = \"drop\"\n";
const TO: &str = "203.0.113.80:7";

/// What the box tells of the flow from `port` of the branch's host.
fn trace(world: &World, port: u16) -> Trace {
    let told = world.ask("fra1", &["trace", "--tenant", "acme", &format!("10.1.0.10:{port}"), TO, "--json"]);
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

/// The moves of what the branch sends: from, to, whose doing, and why.
fn moves(trace: &Trace) -> Vec<(String, String, MoveBy, Option<String>)> {
    let events = trace.sessions.iter().flat_map(|session| &session.events);
    let moves = events.filter_map(|event| event.moved.clone()).filter(|moved| moved.direction == "forward");
    moves.map(|TraceMove { from, to, by, why, .. }| (from, to, by, why)).collect()
}

#[test]
fn a_flow_that_moved_twice_and_was_denied_after_a_commit_is_told_with_its_reasons() {
    let mut topology = topology("etrace", 1, POLICY, "");
    let keeps = template("fra1/popgate.toml") + "\n[flow-history]\n";
    node(&mut topology, "fra1").files.insert("popgate.toml".to_owned(), keeps);
    let world = World::alone_with(topology);
    let _echo = Echo::start(&world, "web");
    let is_up = |path| {
        world.path("fra1", "b1", path).state == PathState::Up
            && world.path("b1", "fra1", path).state == PathState::Up
    };
    eventually("both paths are up", || is_up("dsl") && is_up("lte"));
    let socket = world.enter("h1", || UdpSocket::bind("10.1.0.10:0")).expect("entered").expect("bound");
    let port = socket.local_addr().expect("an address").port();
    let goes_on = Arc::new(AtomicBool::new(true));
    let going = Arc::clone(&goes_on);
    // A call: 50 packets a second, whether answers come or not.
    let call = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while going.load(Ordering::Relaxed) {
            sent += u64::from(socket.send_to(&[0; 100], TO).is_ok());
            std::thread::sleep(Duration::from_millis(20));
        }
        sent
    });
    let path = || trace(&world, port).sessions.first().and_then(|session| session.forward_path.clone());
    eventually("the call is on dsl", || path().as_deref() == Some("dsl"));
    let lossy = toml::from_str("loss = '20%'").expect("a change");
    world.link("dsl1").impair(Directions::Forward, lossy).expect("impaired");
    eventually("it moves to lte", || path().as_deref() == Some("lte"));
    world.link("dsl1").heal().expect("healed");
    world.link("lte1").cut().expect("cut");
    eventually("it moves back", || path().as_deref() == Some("dsl"));
    let wanted = [
        ("dsl".to_owned(), "lte".to_owned(), MoveBy::FarEnd, Some("sla-broken".to_owned())),
        ("lte".to_owned(), "dsl".to_owned(), MoveBy::FarEnd, Some("down".to_owned())),
    ];
    eventually("both reasons have been told", || moves(&trace(&world, port)) == wanted);
    let live = trace(&world, port);
    assert_eq!((live.site.as_str(), live.facility.as_deref()), ("fra1", Some("the lab")));
    assert!(live.was_there && live.sessions[0].ended_unix_ms.is_none(), "{live:?}");

    edit_and_tell(&world, "fra1", "tenants/acme.toml", |text| {
        text.replacen("[[acl]]", &format!("{DENIAL}[[acl]]"), 1)
    });
    let generation = world.status("fra1").totals.generation;
    let dropped = |trace: &Trace| trace.sessions[0].drops.iter().map(|drop| drop.packets).sum::<u64>();
    eventually("what comes after that is dropped", || dropped(&trace(&world, port)) > 20);
    goes_on.store(false, Ordering::Relaxed);
    let sent = call.join().expect("it ends");
    eventually("its record is in the history", || {
        let asked = format!("tenant = acme and sport = {port} and denied_by = 'acl-dropped no-echo'");
        world.ask("fra1", &["flows", &asked, "--last", "5m", "--csv"]).lines().count() == 2
    });
    let told = trace(&world, port);
    let session = &told.sessions[0];
    assert_eq!(moves(&told), wanted);
    assert_eq!(
        session.denied.as_ref().map(|denied| denied.reason.to_string()).as_deref(),
        Some("acl-dropped no-echo")
    );
    assert_eq!(session.generation, generation);
    assert!(
        session.forward_packets + dropped(&told) <= sent
            && session.forward_bytes == session.forward_packets * 128,
        "{sent}: {session:?}"
    );
    assert!(session.forward_packets >= live.sessions[0].forward_packets, "{session:?}");
    let outcome = told.now.expect("it is asked").explanation.reason;
    assert_eq!(outcome.as_deref(), Some("acl-dropped"), "what would become of it now");

    let text = world.ask("fra1", &["trace", "--tenant", "acme", &format!("10.1.0.10:{port}"), TO]);
    for part in [
        "site fra1, metro fra, facility the lab, tenant acme",
        "forward: dsl > lte: the far end says: dsl breaks gold: loss",
        "forward: lte > dsl: the far end says: lte has not answered for",
        &format!("denied: acl-dropped no-echo, by generation {generation}"),
        &format!("what would become of it now, by generation {generation}:"),
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let ago =
        world.ask("fra1", &["trace", "--tenant", "acme", &format!("10.1.0.10:{port}"), TO, "--at", "-1d"]);
    assert!(ago.contains("it was not there") && ago.contains("no-echo"), "{ago}");
    let outside = (session.nat_source.expect("translated"), session.nat_source_port.expect("translated"));
    let outside = format!("{}:{}", outside.0, outside.1);
    let same = world.ask("fra1", &["trace", "--tenant", "acme", "--protocol", "udp", TO, &outside]);
    assert!(same.contains("no-echo"), "{same}");
    println!("{text}");
}
