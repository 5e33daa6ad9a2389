//! SLAs: who is moved for which reason, who comes back when, and who is left alone.

use crate::figures::{Figure, Where, percentile};
use crate::net::{ACME, GLOBEX, Link, Sim};
use crate::packets::{answer, udp};
use popgate::pipeline::replay;
use popgate::pipeline::report::{DecisionRow, MeasurementRow};

/// Berlin's lines, as the simulated network knows them.
pub const DSL: &str = "203.0.113.1:1001";
pub const LTE: &str = "203.0.113.1:1002";

const STEADY: Link = Link { loss: 0.0, delay_ms: 20, jitter_ms: 0 };

/// What no class of its own claims wants an SLA with these limits.
pub fn with_sla(limits: &str, on_violation: &str) -> Sim {
    let mut sim = Sim::with_policies(&acme_with_sla(limits, on_violation), GLOBEX);
    sim.impair(DSL, [STEADY; 2]);
    sim.impair(LTE, [STEADY; 2]);
    sim.advance(3_000);
    sim
}

/// Acme's policy with that SLA.
pub fn acme_with_sla(limits: &str, on_violation: &str) -> String {
    let policy = "class = \"default\"\nprefer = [\"dsl\", \"lte\"]\n";
    let sla = format!("{policy}sla-class = \"gold\"\non-violation = \"{on_violation}\"\n");
    let acme = ACME.replace(policy, &sla) + &format!("[[sla-class]]\nname = \"gold\"\n{limits}\n");
    assert!(acme.contains("sla-class = "), "the policy is there to be changed");
    acme
}

/// A call for so many seconds, 50 packets a second either way: how long after the beginning each packet from Berlin that
/// reached the internet did, in milliseconds.
pub fn call(sim: &mut Sim, secs: u64) -> Vec<u64> {
    call_at(sim, secs, 50)
}

/// The same, so many packets a second.
fn call_at(sim: &mut Sim, secs: u64, per_second: u64) -> Vec<u64> {
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"speech").bytes();
    let spacing = 1_000 / per_second;
    let mut arrived = Vec::new();
    for n in 0..secs * per_second {
        sim.inject_from_lan("berlin", &packet);
        sim.advance(spacing);
        for (to, packet) in sim.take_delivered() {
            if to == "fra1 pg-internet" {
                arrived.push(n * spacing);
                sim.inject_from_internet(&answer(&packet, b"speech"));
            }
        }
    }
    arrived
}

fn forward(sim: &mut Sim) -> Option<String> {
    sim.sessions("fra1").first().and_then(|session| session.forward_path.clone())
}

/// The default class's moves at `node` towards the other end, since there were so many.
fn moves(sim: &mut Sim, node: &str, site: &str, known: usize) -> Vec<DecisionRow> {
    let rows = sim.decisions(node).into_iter().filter(|row| row.class == "default" && row.site == site);
    rows.skip(known).collect()
}

#[test]
fn a_brownout_moves_the_class_whose_sla_it_breaks_and_says_why() {
    let mut sim = with_sla("max-loss = \"1%\"", "best-of-worst");
    call(&mut sim, 10);
    let known = moves(&mut sim, "berlin", "fra1", 0).len();
    let at_pop = moves(&mut sim, "fra1", "berlin", 0).len();
    assert_eq!(forward(&mut sim).as_deref(), Some("dsl"));
    sim.impair(DSL, [Link { loss: 0.1, ..STEADY }, STEADY]);
    let begin = sim.now.unix_nanos / 1_000_000;
    call(&mut sim, 4);
    let row = match &moves(&mut sim, "berlin", "fra1", known)[..] {
        [row] => row.clone(),
        rows => panic!("{rows:?}"),
    };
    println!("10 % loss at 50 packets/s: moved after {} ms: {}", row.unix_ms - begin, row.detail);
    assert!(row.unix_ms - begin <= 1_000, "{row:?}");
    assert_eq!((row.from.as_str(), row.to.as_str(), row.why.as_str()), ("dsl", "lte", "sla-broken"));
    assert!(row.measured > row.limit && row.limit == Some(0.01), "{row:?}");
    assert_eq!(row.sla.as_deref(), Some("gold"));
    assert_eq!(forward(&mut sim).as_deref(), Some("lte"));
    assert_eq!(moves(&mut sim, "fra1", "berlin", at_pop), [], "its direction is good");
    // Classes that ask for nothing stay where they are.
    assert!(sim.decisions("berlin").iter().all(|row| row.class == "default" || row.why != "sla-broken"));
    // It is good again, and come back to half a minute later.
    sim.impair(DSL, [STEADY; 2]);
    call(&mut sim, 30);
    assert_eq!(forward(&mut sim).as_deref(), Some("lte"), "good slow");
    call(&mut sim, 30);
    let rows = moves(&mut sim, "berlin", "fra1", known + 1);
    assert!(matches!(&rows[..], [row] if row.why == "sla-kept" && row.to == "dsl"), "{rows:?}");
    assert_eq!(forward(&mut sim).as_deref(), Some("dsl"));
}

/// How long after a line has begun to be bad the class moved, in so many cases of `bad` under a call of so many packets a second,
/// and the row of the figures for it.
fn brownouts(scenario: &str, limits: &str, bad: Link, (cases, per_second): (u64, u64)) -> Vec<f64> {
    let (mut took, mut others) = (Vec::new(), 0);
    for case in 0..cases {
        let mut sim = with_sla(limits, "best-of-worst");
        sim.advance(37 * case);
        call_at(&mut sim, 2, per_second);
        let known = moves(&mut sim, "berlin", "fra1", 0).len();
        let at_pop = moves(&mut sim, "fra1", "berlin", 0).len();
        sim.impair(DSL, [bad, STEADY]);
        let begin = sim.now.unix_nanos / 1_000_000;
        call_at(&mut sim, 3, per_second);
        let rows = moves(&mut sim, "berlin", "fra1", known);
        let row = rows.first().expect("it is found");
        assert_eq!((row.to.as_str(), row.why.as_str()), ("lte", "sla-broken"), "case {case}: {rows:?}");
        took.push((row.unix_ms - begin) as f64);
        others += rows.len() as u64 - 1 + moves(&mut sim, "fra1", "berlin", at_pop).len() as u64;
    }
    assert_eq!(others, 0, "once, and not the way that is good");
    Figure::new(scenario, Where::Sim, "default").gaps(&took).moves(cases).false_moves(others).record();
    took
}

#[test]
fn a_call_leaves_a_line_that_loses_a_tenth_within_a_second_whenever_it_begins_to_and_the_other_way_stays() {
    let loss = Link { loss: 0.1, ..STEADY };
    let took = brownouts("brownout-loss-10", "max-loss = \"1%\"", loss, (40, 50));
    assert!(took.iter().all(|ms| *ms < 1_000.0), "{took:?}");
}

#[test]
fn five_hundred_packets_a_second_leave_a_line_that_loses_three_in_a_hundred_within_a_second() {
    let loss = Link { loss: 0.03, ..STEADY };
    let took = brownouts("brownout-loss-3-dense", "max-loss = \"0.5%\"", loss, (20, 500));
    // Chance may have it that less is lost at first.
    let at = |percent| percentile(&took, percent).expect("twenty");
    assert!(at(50) <= 650.0 && at(95) < 1_000.0, "{took:?}");
}

#[test]
fn a_step_of_latency_moves_within_a_second() {
    // So much at once is silence at first, and the line would be left for that.
    let slow = Link { delay_ms: 65, ..STEADY };
    let took = brownouts("brownout-latency", "max-latency = \"60ms\"", slow, (20, 50));
    assert!(took.iter().all(|ms| *ms < 1_000.0), "{took:?}");
    let mut sim = with_sla("max-latency = \"100ms\"", "best-of-worst");
    call(&mut sim, 10);
    let known = moves(&mut sim, "berlin", "fra1", 0).len();
    sim.impair(DSL, [Link { delay_ms: 170, ..STEADY }, STEADY]);
    let begin = sim.now.unix_nanos / 1_000_000;
    call(&mut sim, 2);
    let rows = moves(&mut sim, "berlin", "fra1", known);
    assert!(!rows.is_empty() && rows[0].unix_ms - begin <= 1_000 && rows[0].to == "lte", "{rows:?}");
}

#[test]
fn jitter_moves_within_a_second() {
    // Packets wait for each other, so that what 50 a second differ by is a sixth of what each may be late by.
    let shaky = Link { delay_ms: 10, jitter_ms: 60, loss: 0.0 };
    let took = brownouts("brownout-jitter", "max-jitter = \"5ms\"", shaky, (40, 50));
    let at = |percent| percentile(&took, percent).expect("forty");
    assert!(at(50) <= 600.0 && at(95) < 1_000.0, "{took:?}");
}

#[test]
fn where_every_path_is_bad_the_least_bad_is_taken_and_nothing_oscillates() {
    let mut sim = with_sla("max-latency = \"50ms\"", "best-of-worst");
    call(&mut sim, 5);
    let jittery = |delay_ms| Link { delay_ms, jitter_ms: 10, loss: 0.0 };
    sim.impair(DSL, [jittery(150); 2]);
    sim.impair(LTE, [jittery(90); 2]);
    call(&mut sim, 30);
    assert_eq!(forward(&mut sim).as_deref(), Some("lte"), "{:?}", moves(&mut sim, "berlin", "fra1", 0));
    let known = moves(&mut sim, "berlin", "fra1", 0).len();
    // A little better is not enough.
    sim.impair(DSL, [jittery(82); 2]);
    call(&mut sim, 120);
    assert_eq!(moves(&mut sim, "berlin", "fra1", known), []);
    sim.impair(DSL, [jittery(60); 2]);
    call(&mut sim, 60);
    let rows = moves(&mut sim, "berlin", "fra1", known);
    assert!(matches!(&rows[..], [row] if row.to == "dsl" && row.why == "best-of-worst"), "{rows:?}");
}

#[test]
fn a_cut_is_a_move_with_its_reason_and_so_is_the_way_back() {
    let mut sim = with_sla("max-loss = \"5%\"", "best-of-worst");
    call(&mut sim, 5);
    let known = moves(&mut sim, "berlin", "fra1", 0).len();
    sim.cut(DSL);
    call(&mut sim, 5);
    sim.heal(DSL);
    call(&mut sim, 20);
    let rows = moves(&mut sim, "berlin", "fra1", known);
    let told: Vec<(&str, &str)> = rows.iter().map(|row| (row.to.as_str(), row.why.as_str())).collect();
    // Whichever end finds it out first.
    match told[..] {
        [("lte", "down"), ("dsl", "recovered")] => {
            assert!(rows[0].detail.starts_with("dsl has not answered for "), "{rows:?}");
        }
        [("lte", "told-down"), ("dsl", "recovered")] => {
            assert_eq!(rows[0].detail, "the far end has found dsl down");
        }
        _ => panic!("{rows:?}"),
    }
}

#[test]
fn what_was_measured_is_replayed_to_the_same_moves_and_to_others_by_another_policy() {
    let limits = "max-loss = \"1%\"\nmax-latency = \"50ms\"";
    let acme = acme_with_sla(limits, "best-of-worst");
    let mut sim = with_sla(limits, "best-of-worst");
    let begin = sim.now.unix_nanos / 1_000_000;
    call(&mut sim, 10);
    sim.impair(DSL, [Link { delay_ms: 80, ..STEADY }, STEADY]);
    call(&mut sim, 5);
    sim.impair(DSL, [STEADY; 2]);
    call(&mut sim, 60);
    sim.cut(DSL);
    call(&mut sim, 5);
    sim.heal(DSL);
    call(&mut sim, 30);
    let told = |row: &DecisionRow| {
        (row.unix_ms, row.class.clone(), row.to.clone(), row.why.clone(), row.detail.clone())
    };
    // What was heard of first is nothing that was measured.
    let is_measured = |row: &&DecisionRow| row.unix_ms >= begin;
    // Classes that move together do so in any order.
    let sorted = |mut told: Vec<(u64, String, String, String, String)>| {
        told.sort();
        told
    };
    for (node, site) in [("berlin", "fra1"), ("fra1", "berlin")] {
        let of_site = |row: &&DecisionRow| row.site == site;
        let did = sim.decisions(node);
        let did = sorted(did.iter().filter(of_site).filter(is_measured).map(told).collect());
        // As it is exported, and read again.
        let rows: Vec<MeasurementRow> = sim
            .measurements(node)
            .iter()
            .map(|row| serde_json::to_string(row).expect("JSON"))
            .map(|line| serde_json::from_str(&line).expect("a row"))
            .collect();
        let tenants: &[(&str, &str)] =
            if node == "fra1" { &[("acme", &acme), ("globex", GLOBEX)] } else { &[("acme", &acme)] };
        let (moves, unknown) = replay(sim.other_generation(node, tenants), rows.clone());
        let moves = sorted(moves.iter().filter(of_site).filter(is_measured).map(told).collect());
        assert_eq!((&moves, unknown), (&did, 0), "{node}");
        assert!(node == "fra1" || moves.iter().any(|(_, _, _, why, _)| why == "sla-broken"), "{moves:?}");
        assert!(moves.iter().any(|(_, _, _, why, _)| why == "down" || why == "told-down"), "{moves:?}");
        // By a policy that asks for nothing only the cut moves anybody.
        let tenants: &[(&str, &str)] =
            if node == "fra1" { &[("acme", ACME), ("globex", GLOBEX)] } else { &[("acme", ACME)] };
        let (moves, _) = replay(sim.other_generation(node, tenants), rows);
        let reasons: Vec<&str> = moves.iter().filter(of_site).map(|row| row.why.as_str()).collect();
        assert!(!reasons.is_empty() && !reasons.contains(&"sla-broken"), "{reasons:?}");
    }
}

#[test]
fn five_minutes_of_chance_loss_moves_nobody() {
    let mut sim =
        with_sla("max-loss = \"1%\"\nmax-latency = \"100ms\"\nmax-jitter = \"20ms\"", "best-of-worst");
    let known =
        [("berlin", "fra1"), ("fra1", "berlin")].map(|(node, site)| moves(&mut sim, node, site, 0).len());
    for line in [DSL, LTE] {
        sim.impair(line, [Link { loss: 0.005, jitter_ms: 5, ..STEADY }; 2]);
    }
    call(&mut sim, 300);
    for ((node, site), known) in [("berlin", "fra1"), ("fra1", "berlin")].into_iter().zip(known) {
        assert_eq!(moves(&mut sim, node, site, known), [], "{node}");
    }
}
