//! How good paths are, per direction, by their probes and by the traffic itself.

use crate::net::{Link, Sim};
use crate::packets::{answer, udp};
use popgate::pipeline::report::{DirectionReport, PathReport, PathSample, PathState};

/// Berlin's DSL, as the simulated network knows it.
const DSL: &str = "203.0.113.1:1001";

fn dsl(sim: &mut Sim, node: &str, site: &str) -> PathReport {
    let found = sim.paths(node).into_iter().find(|p| p.site == site && p.path == "dsl");
    found.expect("Berlin's DSL")
}

/// Both directions as Berlin sees them, then both as the PoP does, each from Berlin to the PoP first.
fn directions(sim: &mut Sim) -> [DirectionReport; 4] {
    let (berlin, pop) = (dsl(sim, "berlin", "fra1"), dsl(sim, "fra1", "berlin"));
    [berlin.outbound, berlin.inbound, pop.inbound, pop.outbound].map(|direction| direction.expect("measured"))
}

/// A call for so many seconds: 50 packets a second either way.
fn call(sim: &mut Sim, secs: u64) {
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"speech").bytes();
    for _ in 0..secs * 50 {
        sim.inject_from_lan("berlin", &packet);
        for (to, packet) in sim.take_delivered() {
            if to == "fra1 pg-internet" {
                sim.inject_from_internet(&answer(&packet, b"speech"));
            }
        }
        sim.advance(20);
    }
}

#[test]
fn loss_of_the_traffic_itself_is_told_by_direction_at_both_ends() {
    let mut sim = Sim::new();
    sim.impair(DSL, [Link::default(), Link { delay_ms: 10, ..Link::default() }]);
    sim.advance(2_000);
    call(&mut sim, 5);
    for direction in directions(&mut sim) {
        assert_eq!(direction.loss, Some(0.0));
    }
    sim.impair(DSL, [Link { loss: 0.1, ..Link::default() }, Link { delay_ms: 10, ..Link::default() }]);
    call(&mut sim, 12);
    let [out, back, out_at_pop, back_at_pop] = directions(&mut sim);
    for lossy in [out, out_at_pop] {
        let loss = lossy.loss.expect("counted");
        assert!((0.07..=0.13).contains(&loss), "{lossy:?}");
        assert!(lossy.mos.is_some_and(|mos| mos < 3.7), "{lossy:?}");
    }
    for clean in [back, back_at_pop] {
        assert_eq!(clean.loss, Some(0.0));
        assert!(clean.mos.is_some_and(|mos| mos > 4.3), "{clean:?}");
    }
}

#[test]
fn latency_and_jitter_are_told_by_direction_at_both_ends() {
    let mut sim = Sim::new();
    let steady = Link { delay_ms: 20, ..Link::default() };
    sim.impair(DSL, [steady; 2]);
    sim.advance(2_000);
    call(&mut sim, 12);
    for direction in directions(&mut sim) {
        assert!(direction.latency_p95_ms.is_some_and(|ms| (19.0..=21.0).contains(&ms)), "{direction:?}");
        assert!(direction.jitter_ms.is_some_and(|ms| ms < 1.0), "{direction:?}");
    }
    sim.impair(DSL, [Link { delay_ms: 120, jitter_ms: 40, ..Link::default() }, steady]);
    call(&mut sim, 12);
    let [out, back, out_at_pop, back_at_pop] = directions(&mut sim);
    for slow in [out, out_at_pop] {
        assert!(slow.latency_p50_ms.is_some_and(|ms| (120.0..=160.0).contains(&ms)), "{slow:?}");
        assert!(slow.latency_p95_ms.is_some_and(|ms| (140.0..=161.0).contains(&ms)), "{slow:?}");
        assert!(slow.jitter_ms.is_some_and(|ms| (5.0..=30.0).contains(&ms)), "{slow:?}");
    }
    for steady in [back, back_at_pop] {
        assert!(steady.latency_p95_ms.is_some_and(|ms| (19.0..=21.0).contains(&ms)), "{steady:?}");
        assert!(steady.jitter_ms.is_some_and(|ms| ms < 1.0), "{steady:?}");
    }
}

#[test]
fn loss_from_a_stock_client_is_known_though_it_answers_no_probes() {
    let mut sim = Sim::new();
    let packet = udp("10.2.0.1:1", "203.0.113.80:53", b"x").bytes();
    sim.cut("203.0.113.2:1001");
    for n in 0..100 {
        sim.advance(20);
        // Every fifth is numbered, and never sent.
        if n % 5 == 4 {
            sim.seal_and_lose("lyon", &packet);
        } else {
            sim.forge("lyon", &packet);
        }
    }
    let lyon = sim.paths("fra1").into_iter().find(|p| p.site == "lyon").expect("Lyon's path");
    let inbound = lyon.inbound.expect("counted");
    assert!(inbound.loss.is_some_and(|loss| (0.18..=0.22).contains(&loss)), "{inbound:?}");
    assert_eq!((inbound.latency_p50_ms, lyon.outbound), (None, None));
}

#[test]
fn how_a_path_has_been_is_remembered_with_what_its_classes_ask_of_it() {
    let mut sim = Sim::with_policies(
        &(crate::net::ACME.replacen(
            "prefer = [\"lte\"]",
            "prefer = [\"lte\", \"dsl\"]\nsla-class = \"gold\"",
            1,
        ) + "[[sla-class]]\nname = \"gold\"\nmax-latency = \"150ms\"\n"),
        crate::net::GLOBEX,
    );
    sim.impair(DSL, [Link { delay_ms: 20, ..Link::default() }; 2]);
    sim.advance(2_000);
    call(&mut sim, 60);
    sim.cut(DSL);
    sim.advance(40_000);
    let history = sim.path_history("berlin", "acme", "fra1", "dsl").expect("there is such a path");
    let [before @ .., _, down, last] = &history.samples[..] else { panic!("{:?}", history.samples) };
    assert!(before.len() >= 3 && before.windows(2).all(|two| two[0].unix_ms + 15_000 <= two[1].unix_ms));
    let latency = |sample: &PathSample| sample.outbound.and_then(|way| way.latency_p95_ms);
    for sample in &before[1..] {
        assert!(latency(sample).is_some_and(|ms| (19.0..=21.5).contains(&ms)), "{sample:?}");
    }
    for sample in [down, last] {
        assert_eq!((sample.state, sample.outbound), (PathState::Down, None));
    }
    let [sla] = &history.slas[..] else { panic!("{:?}", history.slas) };
    assert_eq!((&*sla.sla, &sla.classes[..], sla.is_broken), ("gold", &["bulk".to_owned()][..], false));
    assert_eq!((sla.max_latency_ms, sla.max_loss), (Some(150.0), None));
    assert!(sim.path_history("berlin", "acme", "fra1", "mpls").is_none());
}
