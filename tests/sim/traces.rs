//! What is told of a flow: every move with whose doing it was, what policy did to it, and what was dropped.

use crate::net::{GLOBEX, Link, Sim};
use crate::packets::{answer, udp};
use crate::steering::{DSL, LTE, acme_with_sla, call, with_sla};
use popgate::control::{Control, RecentFlows, SiteFacts, Trace, TraceEventKind, TraceMove, TraceQuestion};
use popgate::model::Protocol;
use popgate::pipeline::describe_record;
use popgate::pipeline::report::{Answer, MoveBy, Query, TraceAsked};
use std::sync::Arc;

const LOSS: &str = "max-loss = \"1%\"";

/// The call's ends, as `node` knows them.
fn asked(from: (&str, u16), to: (&str, u16)) -> TraceQuestion {
    let end = |(address, port): (&str, u16)| (address.parse().expect("an address"), port);
    let ends = [end(from), end(to)];
    TraceQuestion { flow: TraceAsked { tenant: "acme".into(), protocol: None, ends }, at: None }
}

fn the_call() -> TraceQuestion {
    asked(("10.1.0.5", 1_000), ("203.0.113.80", 53))
}

/// What a box without a flow history tells of it.
fn trace(sim: &mut Sim, node: &str, question: &TraceQuestion) -> Trace {
    let now = sim.now;
    let node = sim.node(node);
    let recent = Arc::new(RecentFlows::default());
    let records: Vec<_> =
        node.records.iter().map(|record| describe_record(record, node.generation())).collect();
    records.into_iter().for_each(|record| recent.push(record));
    let live = match node.plane.answer(&Query::Trace(question.flow.clone()), now) {
        Answer::Trace(traced) => traced,
        other => panic!("{other:?}"),
    };
    let facts = SiteFacts { site: "fra1".into(), facility: Some("the sim".into()), ..SiteFacts::default() };
    Control::new(facts, Vec::new(), recent, move || now.unix_nanos / 1_000_000).trace(question, &live)
}

/// Direction, from, to, whose doing, and why.
fn moves(trace: &Trace) -> Vec<(String, String, String, MoveBy, Option<String>)> {
    let moves = trace.sessions[0].events.iter().filter_map(|event| event.moved.clone());
    moves.map(|TraceMove { direction, from, to, by, why }| (direction, from, to, by, why)).collect()
}

fn a_move(
    direction: &str,
    to: &str,
    by: MoveBy,
    why: Option<&str>,
) -> (String, String, String, MoveBy, Option<String>) {
    let from = if to == "dsl" { "lte" } else { "dsl" };
    (direction.into(), from.into(), to.into(), by, why.map(str::to_owned))
}

#[test]
fn a_flow_that_moved_twice_and_was_denied_after_a_commit_is_told_from_beginning_to_end() {
    let mut sim = with_sla(LOSS, "best-of-worst");
    call(&mut sim, 10);
    sim.impair(
        DSL,
        [Link { loss: 0.1, delay_ms: 20, jitter_ms: 0 }, Link { delay_ms: 20, ..Link::default() }],
    );
    call(&mut sim, 4);
    sim.cut(LTE);
    call(&mut sim, 4);

    let told = trace(&mut sim, "fra1", &the_call());
    assert!(told.was_there && told.sessions.len() == 1, "{told:?}");
    let both = [
        a_move("forward", "lte", MoveBy::FarEnd, Some("sla-broken")),
        a_move("reverse", "lte", MoveBy::Answers, None),
        a_move("forward", "dsl", MoveBy::FarEnd, Some("down")),
    ];
    let found = moves(&told);
    assert!(both.iter().all(|wanted| found.contains(wanted)), "{found:?}");
    assert_eq!(found.iter().filter(|(direction, ..)| direction == "forward").count(), 2, "{found:?}");
    let session = &told.sessions[0];
    assert_eq!((session.ended_unix_ms, session.from.as_str()), (None, "branch:berlin"));
    let outside = (session.nat_source.expect("translated"), session.nat_source_port.expect("translated"));
    let (packets, bytes) = (session.forward_packets, session.forward_bytes);
    assert!(packets > 800 && bytes == packets * 34, "{session:?}");

    let no_dns = "[[acl]]\nname = \"no-dns\"\nprotocol = \"udp\"\ndst-port = 53\naction = \"drop\"\n\n";
    let policy = acme_with_sla(LOSS, "best-of-worst");
    let policy = policy.replacen("[[acl]]", &format!("{no_dns}[[acl]]"), 1);
    sim.commit(&[("acme", &policy), ("globex", GLOBEX)]);
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"speech").bytes();
    for _ in 0..3 {
        sim.inject_from_lan("berlin", &packet);
        sim.advance(1_000);
    }
    assert!(sim.take_delivered().iter().all(|(to, _)| to != "fra1 pg-internet"), "nothing passes");
    let back =
        answer(&udp(&format!("{}:{}", outside.0, outside.1), "203.0.113.80:53", b"speech").bytes(), b"x");
    for _ in 0..5 {
        assert_eq!(sim.from_internet(&back), Vec::<Vec<u8>>::new());
    }
    // While its hosts still send, and when they have given up.
    for wait in [0, 20_000] {
        sim.advance(wait);
        let told = trace(&mut sim, "fra1", &the_call());
        let session = told.sessions.first().unwrap_or_else(|| panic!("{told:?}"));
        let denied = session.denied.as_ref().expect("denied");
        assert_eq!(denied.reason.to_string(), "acl-dropped no-dns");
        assert_eq!(session.events.first().map(|event| event.what), Some(TraceEventKind::Began));
        let denial = session.events.iter().find(|event| event.what == TraceEventKind::Denied);
        let denial = &denial.expect("it is told").text;
        assert_eq!(denial, &format!("denied: acl-dropped no-dns, by generation {}", session.generation));
        let drops = session.drops.iter().map(|drop| (drop.reason.to_string(), drop.packets));
        let wanted = [("acl-dropped no-dns".to_owned(), 3), ("no-session".to_owned(), 5)];
        assert_eq!(drops.collect::<Vec<_>>(), wanted);
        assert_eq!((session.rule.as_str(), session.end_reason.as_deref()), ("out", Some("forced-end")));
    }
    let told = trace(&mut sim, "fra1", &the_call());
    assert_eq!((told.sessions[0].forward_packets, told.sessions[0].forward_bytes), (packets, bytes));
    assert!(both.iter().all(|wanted| moves(&told).contains(wanted)), "{told:?}");
    assert!(!told.was_there, "it is over; this is the last that is known");
    // The same, as the internet knows it; and nobody's.
    let outside = asked((&outside.0.to_string(), outside.1), ("203.0.113.80", 53));
    assert_eq!(trace(&mut sim, "fra1", &outside).sessions, told.sessions);
    let nobody = asked(("10.1.0.5", 1_001), ("203.0.113.80", 53));
    let nothing = trace(&mut sim, "fra1", &nobody);
    assert!(nothing.sessions.is_empty() && nothing.known.since_unix_ms.is_some(), "{nothing:?}");
}

#[test]
fn a_box_that_moves_a_flow_itself_tells_what_the_path_did_with_the_numbers_that_decided() {
    let mut sim = with_sla(LOSS, "best-of-worst");
    call(&mut sim, 10);
    sim.impair(
        DSL,
        [Link { loss: 0.1, delay_ms: 20, jitter_ms: 0 }, Link { delay_ms: 20, ..Link::default() }],
    );
    call(&mut sim, 4);
    let told = trace(&mut sim, "berlin", &the_call());
    let moved = told.sessions[0].events.iter().find(|event| event.what == TraceEventKind::Moved);
    let moved = moved.unwrap_or_else(|| panic!("{told:?}"));
    let decided = sim.decisions("berlin");
    let decided =
        decided.iter().find(|row| row.class == "default" && row.why == "sla-broken").expect("a move");
    let numbers = |text: &str| text.split_once("gold: ").map(|(_, numbers)| numbers.to_owned());
    assert_eq!(numbers(&moved.text), numbers(&decided.detail), "{} and {}", moved.text, decided.detail);
    assert!(moved.unix_ms - decided.unix_ms <= 100, "{} and {}", moved.unix_ms, decided.unix_ms);
    let found = moves(&told);
    assert!(found.contains(&a_move("forward", "lte", MoveBy::Here, Some("sla-broken"))), "{found:?}");
    assert!(found.contains(&a_move("reverse", "lte", MoveBy::Answers, None)), "{found:?}");
}

#[test]
fn a_packet_that_comes_late_by_the_old_path_is_no_move() {
    let mut sim = Sim::up();
    let slow = Link { delay_ms: 200, ..Link::default() };
    sim.impair(DSL, [slow; 2]);
    sim.impair(LTE, [Link { delay_ms: 20, ..Link::default() }; 2]);
    // It looks as if it were dead, at first.
    sim.advance(60_000);
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"speech").bytes();
    for n in 0..100 {
        sim.inject_from_lan("berlin", &packet);
        if n == 50 {
            // What is under way by the slow one comes after what goes by the other.
            sim.dead_links("berlin", &["dsl", "isp-a"], false);
        }
        sim.advance(10);
    }
    sim.advance(500);
    let found = moves(&trace(&mut sim, "fra1", &the_call()));
    assert!(
        matches!(&found[..], [(direction, _, to, ..)] if direction == "forward" && to == "lte"),
        "{found:?}"
    );
    let is_udp =
        TraceQuestion { at: None, flow: TraceAsked { protocol: Some(Protocol::TCP), ..the_call().flow } };
    assert_eq!(trace(&mut sim, "fra1", &is_udp).sessions, [], "that would be another flow");
}
