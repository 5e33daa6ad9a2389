//! Streams: an underlay that treats DSCPs differently moves the classes whose packets it treats badly, and no others.

use crate::net::{ACME, GLOBEX, Link, Sim};
use crate::packets::{answer, udp};
use crate::steering::{DSL, LTE};
use popgate::pipeline::report::{DecisionRow, DirectionReport, MeasurementRow, PathReport, PathState};
use popgate::pipeline::{Measured, replay};

const EF: u8 = 46;
const STEADY: Link = Link { loss: 0.0, delay_ms: 20, jitter_ms: 0 };
/// The PoP's end of Berlin's DSL.
const POP: &str = "192.0.2.1:51820";

/// Voice carries EF, and what no class claims nothing; each wants an SLA with these limits.
fn policy(limits: &str) -> String {
    let sla = "sla-class = \"gold\"\n";
    let acme = ACME.replace(
        "name = \"voice\"\nmatch = [ { dscp = [\"ef\"] } ]",
        "name = \"voice\"\nset-dscp = \"ef\"\nmatch = [ { protocol = \"udp\", dst-port = 5004 } ]",
    );
    let default = "class = \"default\"\nprefer = [\"dsl\", \"lte\"]\n";
    let voice = format!("[[path-policy]]\n{}{sla}", default.replace("default", "voice"));
    let acme = acme.replace(default, &format!("{default}{sla}"));
    let all = format!("{acme}{voice}[[sla-class]]\nname = \"gold\"\n{limits}\n");
    assert!(all.matches(sla).count() == 2 && all.contains("set-dscp"), "there to be changed");
    all
}

fn sim(limits: &str) -> Sim {
    let mut sim = Sim::with_policies(&policy(limits), GLOBEX);
    sim.impair(DSL, [STEADY; 2]);
    sim.impair(LTE, [STEADY; 2]);
    sim.advance(3_000);
    sim
}

/// A call of either class's for so many seconds: 50 packets a second either way.
fn calls(sim: &mut Sim, secs: u64) {
    let packets = [5_004, 53].map(|port| udp("10.1.0.5:1000", &format!("203.0.113.80:{port}"), b"speech"));
    let packets = packets.map(|packet| packet.bytes());
    for _ in 0..secs * 50 {
        packets.iter().for_each(|packet| sim.inject_from_lan("berlin", packet));
        sim.advance(20);
        for (to, packet) in sim.take_delivered() {
            if to == "fra1 pg-internet" {
                sim.inject_from_internet(&answer(&packet, b"speech"));
            }
        }
    }
}

/// Moves by an SLA at a box since it made so many.
fn moves(sim: &mut Sim, node: &str, known: usize) -> Vec<DecisionRow> {
    sim.decisions(node).into_iter().skip(known).filter(|row| row.why.starts_with("sla")).collect()
}

fn classes(rows: &[DecisionRow]) -> Vec<(&str, &str)> {
    rows.iter().map(|row| (&*row.class, &*row.to)).collect()
}

fn dsl(sim: &mut Sim, node: &str, site: &str) -> PathReport {
    let found = sim.paths(node).into_iter().find(|path| path.site == site && path.path == "dsl");
    found.expect("Berlin's DSL")
}

#[test]
fn a_dscp_that_the_underlay_treats_badly_moves_the_class_that_carries_it_and_no_other() {
    let slow = Link { delay_ms: 170, ..STEADY };
    let lossy = Link { loss: 0.1, ..STEADY };
    let shaky = Link { jitter_ms: 150, ..STEADY };
    let cases = [
        (slow, "latency", "max-latency = \"100ms\""),
        (lossy, "loss", "max-loss = \"1%\""),
        (shaky, "jitter", "max-jitter = \"8ms\""),
    ];
    for (bad, what, limits) in cases {
        for (of_ef, of_others, moved, named) in
            [(bad, STEADY, "voice", "dsl (ef) breaks gold"), (STEADY, bad, "default", "dsl breaks gold")]
        {
            let mut sim = sim(limits);
            calls(&mut sim, 5);
            let known = ["berlin", "fra1"].map(|node| sim.decisions(node).len());
            sim.impair(DSL, [of_others, STEADY]);
            sim.impair_marked(DSL, EF, [of_ef, STEADY]);
            let begin = sim.now.unix_nanos / 1_000_000;
            calls(&mut sim, 5);
            let rows = moves(&mut sim, "berlin", known[0]);
            assert_eq!(classes(&rows), [(moved, "lte")], "{what}");
            let took = rows[0].unix_ms - begin;
            println!("{what} of {moved}'s packets: moved after {took} ms: {}", rows[0].detail);
            assert!(took <= 1_000, "{rows:?}");
            assert!(rows[0].detail.starts_with(named) && rows[0].detail.contains(what), "{rows:?}");
            assert_eq!(rows[0].stream.as_deref(), (moved == "voice").then_some("ef"));
            assert_eq!(moves(&mut sim, "fra1", known[1]), [], "{what}: its direction is good");
        }
    }
}

#[test]
fn what_a_dscp_with_a_better_queue_overtakes_is_not_lost() {
    let mut sim = sim("max-loss = \"1%\"");
    sim.impair(DSL, [Link { delay_ms: 120, ..STEADY }; 2]);
    sim.impair_marked(DSL, EF, [STEADY; 2]);
    calls(&mut sim, 60);
    for (node, site) in [("berlin", "fra1"), ("fra1", "berlin")] {
        assert_eq!(moves(&mut sim, node, 0), [], "{node}");
        let path = dsl(&mut sim, node, site);
        for way in [path.outbound, path.inbound, path.streams[0].outbound, path.streams[0].inbound] {
            assert_eq!(way.expect("measured").loss, Some(0.0), "{node}: {path:?}");
        }
    }
}

#[test]
fn each_stream_is_measured_by_direction_at_both_ends() {
    let mut sim = sim("max-loss = \"50%\"");
    sim.impair(DSL, [Link { delay_ms: 60, ..STEADY }, Link { loss: 0.05, ..STEADY }]);
    sim.impair_marked(DSL, EF, [Link { loss: 0.1, delay_ms: 20, jitter_ms: 0 }, STEADY]);
    calls(&mut sim, 20);
    let (berlin, pop) = (dsl(&mut sim, "berlin", "fra1"), dsl(&mut sim, "fra1", "berlin"));
    let [ef, ef_at_pop] = [&berlin, &pop].map(|path| match &path.streams[..] {
        [stream] if stream.dscp == "ef" => stream.clone(),
        streams => panic!("{streams:?}"),
    });
    let loss = |way: Option<DirectionReport>| way.expect("measured").loss.expect("counted");
    // Each from Berlin to the PoP first.
    for (ways, wanted) in [
        ([berlin.outbound, pop.inbound], 0.0),
        ([berlin.inbound, pop.outbound], 0.05),
        ([ef.outbound, ef_at_pop.inbound], 0.1),
        ([ef.inbound, ef_at_pop.outbound], 0.0),
    ] {
        for way in ways {
            let found = loss(way);
            let (least, most) = (wanted * 0.6, wanted * 1.4);
            assert!((least..=most).contains(&found), "{wanted}: {berlin:?} {pop:?}");
        }
    }
    let p50 = |way: Option<DirectionReport>| way.and_then(|way| way.latency_p50_ms).expect("measured");
    assert!((59.0..=61.0).contains(&p50(berlin.outbound)), "{berlin:?}");
    assert!((19.0..=21.0).contains(&p50(ef.outbound)), "{ef:?}");
}

#[test]
fn a_dscp_of_which_nothing_gets_through_is_left_by_its_class_though_the_path_is_alive() {
    for limits in ["max-loss = \"1%\"", "max-latency = \"150ms\""] {
        let mut sim = sim(limits);
        calls(&mut sim, 5);
        let known = sim.decisions("berlin").len();
        let gone = Link { loss: 1.0, ..STEADY };
        sim.impair_marked(DSL, EF, [gone, gone]);
        let begin = sim.now.unix_nanos / 1_000_000;
        calls(&mut sim, 5);
        let rows = moves(&mut sim, "berlin", known);
        assert_eq!(classes(&rows), [("voice", "lte")], "{limits}");
        let took = rows[0].unix_ms - begin;
        println!("a silent stream: moved after {took} ms: {}", rows[0].detail);
        assert!(took <= 1_000, "{rows:?}");
        assert_eq!(dsl(&mut sim, "berlin", "fra1").state, PathState::Up);
        // It is come back to when it has been good for half a minute.
        sim.impair_marked(DSL, EF, [STEADY; 2]);
        calls(&mut sim, 60);
        let rows = moves(&mut sim, "berlin", known + 1);
        assert_eq!(classes(&rows), [("voice", "dsl")], "{limits}");
    }
}

#[test]
fn a_cut_moves_all_classes_at_once_and_no_stream_is_blamed() {
    let mut sim = sim("max-loss = \"1%\"\nmax-latency = \"100ms\"");
    calls(&mut sim, 5);
    let known = ["berlin", "fra1"].map(|node| sim.decisions(node).len());
    sim.cut(DSL);
    let begin = sim.now.unix_nanos / 1_000_000;
    calls(&mut sim, 3);
    for (node, known) in ["berlin", "fra1"].into_iter().zip(known) {
        let rows: Vec<DecisionRow> = sim.decisions(node).into_iter().skip(known).collect();
        assert!(rows.len() >= 2 && rows.iter().all(|row| row.why.ends_with("down")), "{node}: {rows:?}");
        assert!(rows.iter().all(|row| row.unix_ms - begin <= 150), "{node}: {rows:?}");
    }
    sim.heal(DSL);
    calls(&mut sim, 40);
    for node in ["berlin", "fra1"] {
        assert_eq!(moves(&mut sim, node, 0), [], "{node}: what was lost while it was cut breaks no SLA");
    }
}

#[test]
fn five_minutes_of_chance_loss_move_nobody() {
    let mut sim = sim("max-loss = \"1%\"\nmax-latency = \"100ms\"\nmax-jitter = \"20ms\"");
    for line in [DSL, LTE] {
        sim.impair(line, [Link { loss: 0.005, jitter_ms: 5, ..STEADY }; 2]);
        sim.impair_marked(line, EF, [Link { loss: 0.005, jitter_ms: 5, ..STEADY }; 2]);
    }
    calls(&mut sim, 300);
    for node in ["berlin", "fra1"] {
        assert_eq!(moves(&mut sim, node, 0), [], "{node}");
    }
}

#[test]
fn an_idle_stream_is_asked_about_every_five_seconds_and_a_far_end_without_it_answers_as_it_is_asked() {
    let mut sim = sim("max-loss = \"1%\"");
    sim.commit(&[("acme", ACME), ("globex", GLOBEX)]);
    // Lyon's only line leads to the same place.
    let marked = |sim: &Sim| [DSL, "203.0.113.2:1001", POP].map(|end| sim.marked(end, EF));
    let before = marked(&sim);
    sim.advance(20_000);
    let after = marked(&sim);
    let [berlin, lyon, answered] = [0, 1, 2].map(|end| after[end] - before[end]);
    assert!(
        (3..=5).contains(&berlin) && answered == berlin + lyon,
        "{berlin} and {lyon}, {answered} answered"
    );
    assert_eq!(dsl(&mut sim, "fra1", "berlin").streams, []);
    let [ef] = &dsl(&mut sim, "berlin", "fra1").streams[..] else { panic!("one stream") };
    assert!(ef.rtt_ms.is_some_and(|ms| (39.0..=42.0).contains(&ms)), "{ef:?}");
    assert_eq!(ef.outbound.and_then(|way| way.loss), Some(0.0), "it counts what it is asked about");
}

#[test]
fn where_no_class_sets_a_dscp_there_is_one_stream() {
    let mut sim = Sim::up();
    sim.advance(20_000);
    assert_eq!(dsl(&mut sim, "berlin", "fra1").streams, []);
    assert_eq!([DSL, POP].map(|end| (1..64).map(|dscp| sim.marked(end, dscp)).sum::<u64>()), [0, 0]);
    let is_of_stream = |row: &MeasurementRow| {
        matches!(row.measured, Measured::Answer { dscp: 1.., .. } | Measured::FellSilent { .. })
    };
    assert!(!sim.measurements("berlin").iter().any(is_of_stream));
}

#[test]
fn moves_by_a_stream_are_replayed_from_what_was_recorded() {
    let limits = "max-loss = \"1%\"\nmax-latency = \"100ms\"";
    let mut sim = sim(limits);
    calls(&mut sim, 10);
    let begin = sim.now.unix_nanos / 1_000_000;
    sim.impair_marked(DSL, EF, [Link { delay_ms: 170, ..STEADY }, STEADY]);
    calls(&mut sim, 5);
    sim.impair_marked(DSL, EF, [STEADY; 2]);
    calls(&mut sim, 60);
    sim.impair_marked(DSL, EF, [Link { loss: 1.0, ..STEADY }; 2]);
    calls(&mut sim, 5);
    let told = |row: &DecisionRow| (row.unix_ms, row.class.clone(), row.to.clone(), row.detail.clone());
    let did: Vec<_> = moves(&mut sim, "berlin", 0).iter().map(told).collect();
    assert_eq!(did.len(), 3, "{did:?}");
    // As it is exported, and read again.
    let rows: Vec<MeasurementRow> = sim
        .measurements("berlin")
        .iter()
        .map(|row| serde_json::to_string(row).expect("JSON"))
        .map(|line| serde_json::from_str(&line).expect("a row"))
        .collect();
    let with_streams = policy(limits);
    let again = |sim: &mut Sim, policy: &str| {
        let (moves, unknown) = replay(sim.other_generation("berlin", &[("acme", policy)]), rows.clone());
        assert_eq!(unknown, 0);
        let by_sla = moves.iter().filter(|row| row.unix_ms >= begin && row.why.starts_with("sla"));
        by_sla.map(told).collect::<Vec<_>>()
    };
    assert_eq!(again(&mut sim, &with_streams), did);
    // Were voice judged by best effort, it would have stayed.
    assert_eq!(again(&mut sim, &with_streams.replace("set-dscp = \"ef\"\n", "")), []);
}

#[test]
fn a_commit_that_takes_a_stream_away_or_adds_one_moves_nobody_by_what_was_lost_long_ago() {
    let limits = "max-loss = \"1%\"";
    let with = policy(limits);
    let without = with.replace("set-dscp = \"ef\"\n", "");
    let mut sim = sim(limits);
    // More than an SLA's test would bear at once; of what nobody asks about.
    sim.commit(&[("acme", ACME), ("globex", GLOBEX)]);
    sim.impair(DSL, [STEADY, Link { loss: 0.2, ..STEADY }]);
    calls(&mut sim, 20);
    sim.impair(DSL, [STEADY; 2]);
    calls(&mut sim, 20);
    for policy in [&with, &without, &with, &without] {
        sim.commit(&[("acme", policy), ("globex", GLOBEX)]);
        calls(&mut sim, 5);
        assert_eq!(moves(&mut sim, "fra1", 0), []);
    }
}
