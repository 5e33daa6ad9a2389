//! Whether the way straight out of a branch is any good, and paths to those who are no popgate, asked by echo requests.

use crate::figures::{Figure, Where, percentile};
use crate::net::{ACME, GLOBEX, Link, Sim};
use crate::packets::{reply, source, tcp, udp};
use crate::steering::{DSL, LTE};
use popgate::flow::EndReason;
use popgate::model::{AskedFlow, Protocol};
use popgate::pipeline::replay;
use popgate::pipeline::report::{DecisionRow, PathReport, PathState};
use popgate::wire::tcp_flags::SYN;

const OWN: &str = "192.0.2.77";
const NEAR: &str = "203.0.113.53";
const FAR: &str = "203.0.113.54";
const LINE: Link = Link { loss: 0.0, delay_ms: 5, jitter_ms: 0 };
const BROWNOUT: [Link; 2] = [Link { loss: 0.0, delay_ms: 155, jitter_ms: 0 }, LINE];

/// Bulk breaks out at berlin, whose line is measured by these hosts.
fn acme(more: &str, slas: &str) -> String {
    let prefers = format!("prefer = [\"breakout\", \"lte\"]\n{more}");
    ACME.replace("prefer = [\"lte\"]", &prefers) + slas
}

fn up(targets: &str, more: &str, slas: &str) -> Sim {
    let acme = acme(more, slas);
    let mut sim = Sim::with_policies(&acme, GLOBEX);
    sim.pinged(NEAR, Some([LINE; 2]));
    sim.pinged(FAR, Some([Link { delay_ms: 20, ..LINE }; 2]));
    sim.break_out_by("berlin", Some(OWN), &format!("probe-target = {targets}\n"), ("acme", &acme));
    sim.advance(3_000);
    sim
}

const BOTH: &str = "[\"203.0.113.53\", \"203.0.113.54\"]";
const GOLD: &str = "[[sla-class]]\nname = \"gold\"\nmax-loss = \"1%\"\nmax-latency = \"50ms\"\n";

fn breakout(sim: &mut Sim) -> PathReport {
    let paths = sim.paths("berlin");
    paths.into_iter().find(|path| path.path == "breakout").expect("it is measured")
}

fn bulk(port: u16) -> Vec<u8> {
    tcp(&format!("10.1.0.5:{port}"), "203.0.113.80:5201", SYN, b"").bytes()
}

/// Where a session's packet leaves: straight out or not; `None` if nowhere.
fn leaves_straight(sim: &mut Sim, packet: &[u8]) -> Option<bool> {
    sim.take_delivered();
    let out = sim.send("berlin", "lan", packet);
    out.first().map(|(at, packet)| at == "berlin pg-breakout" && source(packet).to_string() == OWN)
}

/// A packet of one session every 20 ms, for so long; and where the first of a new session each would leave, from when on: after
/// how many milliseconds they leave by the PoP.
fn carry(sim: &mut Sim, ms: u64, first_port: u16) -> Option<u64> {
    let mut moved = None;
    for n in 0..ms / 20 {
        let straight = leaves_straight(sim, &bulk(first_port + n as u16));
        if straight == Some(false) && moved.is_none() {
            moved = Some(n * 20);
        }
        sim.advance(20);
    }
    moved
}

fn is_out(row: &DecisionRow) -> bool {
    row.class == "bulk" && [&row.from, &row.to].iter().any(|path| *path == "breakout")
}

fn moves(sim: &mut Sim) -> Vec<DecisionRow> {
    sim.decisions("berlin").into_iter().filter(is_out).collect()
}

#[test]
fn the_way_out_is_measured_in_both_directions_by_half_of_what_an_echo_takes() {
    let mut sim = up(BOTH, "", "");
    sim.advance(10_000);
    let report = breakout(&mut sim);
    assert_eq!((report.site.as_str(), report.state), ("internet", PathState::Up));
    assert_eq!((report.probed, report.public_key), (false, None));
    assert!(
        (report.rtt_ms.expect("measured") - 10.0).abs() < 0.1,
        "the near one answers first: {:?}",
        report.rtt_ms
    );
    for way in [report.outbound, report.inbound] {
        let way = way.expect("measured");
        assert_eq!((way.latency_p95_ms, way.loss), (Some(5.0), Some(0.0)));
    }
    assert!(leaves_straight(&mut sim, &bulk(1)).expect("it leaves"));
    assert_eq!(breakout(&mut sim).sent_packets, 1);
    assert!(
        sim.path_history("berlin", "acme", "internet", "breakout").is_some_and(|h| !h.samples.is_empty())
    );
}

#[test]
fn it_is_asked_every_second_while_idle_and_ten_times_a_second_with_traffic() {
    let mut sim = up("\"203.0.113.53\"", "", "");
    let measured =
        |sim: &mut Sim| sim.measurements("berlin").iter().filter(|row| row.path == "breakout").count();
    let before = measured(&mut sim);
    sim.advance(10_000);
    let idle = measured(&mut sim) - before;
    assert!((9..=11).contains(&idle), "{idle}");
    let before = measured(&mut sim);
    carry(&mut sim, 10_000, 1);
    let busy = measured(&mut sim) - before;
    assert!((95..=105).contains(&busy), "{busy}");
}

#[test]
fn one_dead_target_is_no_dead_line_and_none_that_answers_is_one() {
    let mut sim = up(BOTH, "", "");
    sim.pinged(NEAR, None);
    carry(&mut sim, 5_000, 1);
    let report = breakout(&mut sim);
    assert_eq!((report.state, moves(&mut sim)), (PathState::Up, vec![]));
    assert!(report.rtt_ms.expect("measured") > 30.0, "the far one is the best now: {:?}", report.rtt_ms);
    sim.pinged(FAR, None);
    let moved = carry(&mut sim, 3_000, 10_000).expect("a dead line is left");
    println!("no target answers: new sessions go by the PoP after {moved} ms");
    assert!(moved <= 1_000, "{moved} ms");
    assert_eq!(breakout(&mut sim).state, PathState::Down);
    let [row] = &moves(&mut sim)[..] else { panic!("one") };
    assert_eq!((row.from.as_str(), row.to.as_str(), row.why.as_str()), ("breakout", "lte", "down"));
    assert!(row.detail.starts_with("breakout has not answered for "), "{row:?}");
    // It comes back, and is trusted after its hold.
    sim.pinged(FAR, Some([LINE; 2]));
    carry(&mut sim, 5_000, 20_000);
    assert_eq!(breakout(&mut sim).state, PathState::Recovering);
    assert_eq!(leaves_straight(&mut sim, &bulk(30_000)), Some(false));
    sim.advance(10_000);
    assert_eq!(leaves_straight(&mut sim, &bulk(30_001)), Some(true));
}

#[test]
fn a_brownout_of_the_line_sends_new_sessions_by_the_pop_within_a_second_and_leaves_the_running_ones() {
    let mut taken = Vec::new();
    for run in 0..20 {
        let mut sim = up("\"203.0.113.53\"", "sla-class = \"gold\"\n", GOLD);
        carry(&mut sim, 2_000 + 7 * run, 1_000);
        assert_eq!(moves(&mut sim), [], "nothing was wrong");
        sim.pinged(NEAR, Some(BROWNOUT));
        let moved = carry(&mut sim, 2_000, 5_000).expect("new sessions go by the PoP");
        taken.push(moved as f64);
        assert_eq!(leaves_straight(&mut sim, &bulk(1_000)), Some(true), "what runs keeps its address");
        let [row] = &moves(&mut sim)[..] else { panic!("one") };
        assert_eq!((row.why.as_str(), row.sla.as_deref()), ("sla-broken", Some("gold")));
        assert!(row.measured > row.limit && row.limit == Some(50.0), "{row:?}");
        assert_eq!(breakout(&mut sim).state, PathState::Up, "it is slow, and not dead");
        if run > 0 {
            continue;
        }
        let measured = sim.measurements("berlin");
        let (replayed, unknown) = replay(sim.generation("berlin"), measured);
        let replayed: Vec<DecisionRow> = replayed.into_iter().filter(is_out).collect();
        assert_eq!((replayed, unknown), (moves(&mut sim), 0), "what was measured decides alike");
        // It is good again, and after half a minute, and the ten seconds that are judged, new sessions leave at the branch.
        sim.pinged(NEAR, Some([LINE; 2]));
        let back = (0..60).find(|_| {
            carry(&mut sim, 1_000, 20_000);
            leaves_straight(&mut sim, &bulk(30_000)) == Some(true) || moves(&mut sim).len() == 2
        });
        assert!(back.is_some_and(|secs| (30..=45).contains(&secs)), "{back:?}");
        assert_eq!(moves(&mut sim)[1].why, "sla-kept");
    }
    let most = percentile(&taken, 100).expect("runs");
    Figure::new("breakout-brownout", Where::Sim, "bulk")
        .runs(taken.len())
        .moves(taken.len() as u64)
        .with("moved_p50_ms", percentile(&taken, 50))
        .with("moved_p99_ms", percentile(&taken, 99))
        .record();
    assert!(most <= 1_000.0, "{taken:?}");
}

#[test]
fn loss_of_the_line_is_found_too_and_chance_in_a_day_is_not() {
    let mut sim = up("\"203.0.113.53\"", "sla-class = \"gold\"\n", GOLD);
    carry(&mut sim, 2_000, 1_000);
    sim.pinged(NEAR, Some([Link { loss: 0.3, ..LINE }, LINE]));
    let moved = carry(&mut sim, 5_000, 5_000);
    println!("30 % loss: moved after {moved:?} ms");
    assert!(moved.is_some(), "{:?}", moves(&mut sim));
    let mut sim = up("\"203.0.113.53\"", "sla-class = \"gold\"\n", GOLD);
    sim.pinged(NEAR, Some([Link { loss: 0.002, jitter_ms: 5, ..LINE }, LINE]));
    for _ in 0..720 {
        carry(&mut sim, 1_000, 1_000);
        sim.advance(9_000);
    }
    assert_eq!(moves(&mut sim), []);
}

#[test]
fn running_sessions_leave_a_dead_line_as_new_ones_if_their_class_has_them_do_so() {
    for (resilience, leaves) in [("none", false), ("failover", true), ("revertible", true)] {
        let mut sim = up("\"203.0.113.53\"", &format!("resilience = \"{resilience}\"\n"), "");
        assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(true));
        carry(&mut sim, 1_000, 10);
        sim.pinged(NEAR, None);
        carry(&mut sim, 2_000, 1_000);
        sim.node("berlin").records.clear();
        assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(!leaves), "{resilience}");
        let ended: Vec<EndReason> = sim
            .node("berlin")
            .records
            .iter()
            .filter(|r| r.key.source_port == 1)
            .map(|r| r.end_reason)
            .collect();
        assert_eq!(ended, if leaves { vec![EndReason::ForcedEnd] } else { vec![] });
        // The line is back: what goes by the PoP has its address there.
        sim.pinged(NEAR, Some([LINE; 2]));
        sim.advance(20_000);
        assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(!leaves), "{resilience}");
    }
}

#[test]
fn where_nothing_else_is_alive_a_dead_line_is_not_left() {
    let mut sim = up("\"203.0.113.53\"", "resilience = \"revertible\"\n", "");
    assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(true));
    carry(&mut sim, 1_000, 10);
    sim.pinged(NEAR, None);
    sim.cut(DSL);
    sim.cut(LTE);
    carry(&mut sim, 5_000, 1_000);
    assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(true));
}

#[test]
fn a_strict_class_sends_nothing_while_all_its_ways_break_its_sla() {
    let mut sim = up("\"203.0.113.53\"", "sla-class = \"gold\"\non-violation = \"strict\"\n", GOLD);
    let slow = Link { delay_ms: 100, ..Link::default() };
    carry(&mut sim, 1_000, 1);
    for line in [DSL, LTE] {
        sim.impair(line, [slow; 2]);
    }
    // Somebody's packets are on them, so that they are looked at.
    let call = udp("10.1.0.5:1000", "203.0.113.80:53", b"speech").bytes();
    let other = udp("10.1.0.5:1000", "10.2.0.9:53", b"speech").bytes();
    sim.pinged(NEAR, Some(BROWNOUT));
    for _ in 0..60 {
        sim.inject_from_lan("berlin", &call);
        sim.inject_from_lan("berlin", &other);
        carry(&mut sim, 100, 1);
    }
    sim.advance(2_000);
    assert_eq!(leaves_straight(&mut sim, &bulk(1)), None, "{:?}", moves(&mut sim));
    let before = sim.dropped("berlin", Some("acme"), "sla-violated");
    assert_eq!(leaves_straight(&mut sim, &bulk(30_000)), None, "nor does what begins");
    assert_eq!(sim.dropped("berlin", Some("acme"), "sla-violated"), before + 1);
}

#[test]
fn what_answers_no_echo_request_of_ours_is_the_boxs_own() {
    let mut sim = up("\"203.0.113.53\"", "", "");
    let guessed = reply(&crate::packets::ping(OWN, NEAR, 52_000, &[0; 12]).bytes());
    let back = sim.send("berlin", "breakout", &guessed);
    assert_eq!(back, [("berlin pg-breakout".to_owned(), guessed)]);
    // A host's ping never has the probes' identifier.
    let out = sim.send("berlin", "lan", &bulk(1));
    assert!(out[0].0 == "berlin pg-breakout");
    let ports = sim.sessions("berlin").into_iter().filter_map(|session| session.nat_source_port);
    assert!(ports.into_iter().all(|port| port > 52_000));
}

#[test]
fn how_the_way_out_stands_is_explained() {
    let mut sim = up("\"203.0.113.53\"", "", "");
    let asked = AskedFlow {
        from: "10.1.0.5".parse().expect("an end"),
        to: "203.0.113.80:5201".parse().expect("an end"),
        protocol: Protocol::TCP,
        dscp: 0,
        sni: None,
    };
    let explained = sim.explain("berlin", "acme", &asked);
    let told = explained.with_live("acme", &sim.paths("berlin"));
    let ways: Vec<&str> = told.paths.iter().map(|step| step.path.as_str()).collect();
    assert_eq!(ways, ["breakout", "lte", "dsl"]);
    let live = told.paths[0].live.expect("told");
    assert!(
        live.state == PathState::Up && live.rtt_ms.is_some_and(|rtt| (rtt - 10.0).abs() < 0.1),
        "{live:?}"
    );
}

/// Lyon is a stock client of which policy says whom to ask; so long passes, in which it answers or not.
fn stock(sim: &mut Sim, ms: u64, answers: bool, late_ms: u64) {
    for _ in 0..ms / 10 {
        sim.advance(10);
        let asked = sim.taken_by_forger("lyon");
        let asked: Vec<_> = asked.into_iter().filter(|packet| packet[9] == 1 && answers).collect();
        if !asked.is_empty() && late_ms > 0 {
            sim.advance(late_ms);
        }
        for request in asked {
            sim.forge("lyon", &reply(&request));
        }
    }
}

fn with_stock_client() -> Sim {
    let key = "public-key = \"@lyon-dsl@\"";
    let acme = ACME.replace(key, &format!("{key}\nprobe-target = \"10.2.0.1\""));
    let mut sim = Sim::with_policies(&acme, GLOBEX);
    sim.unplug("lyon");
    sim.forge("lyon", b"");
    sim
}

fn lyon(sim: &mut Sim) -> PathReport {
    sim.paths("fra1").into_iter().find(|path| path.site == "lyon").expect("lyon's")
}

#[test]
fn a_path_to_a_stock_client_is_measured_by_echo_requests_to_where_policy_says() {
    let mut sim = with_stock_client();
    assert_eq!(lyon(&mut sim).state, PathState::Up, "it has a session");
    stock(&mut sim, 10_000, true, 0);
    let report = lyon(&mut sim);
    assert_eq!((report.state, report.probed), (PathState::Up, false));
    assert!(
        report.rtt_ms.is_some() && report.outbound.is_some_and(|way| way.loss == Some(0.0)),
        "{report:?}"
    );
    assert!(sim.path_history("fra1", "acme", "lyon", "dsl").is_some_and(|h| !h.samples.is_empty()));
    // Its replies are no traffic: it is asked once a second.
    let row = |sim: &mut Sim| sim.measurements("fra1").iter().filter(|row| row.site == "lyon").count();
    let before = row(&mut sim);
    stock(&mut sim, 10_000, true, 0);
    let idle = row(&mut sim) - before;
    assert!((9..=11).contains(&idle), "{idle}");
    stock(&mut sim, 5_000, false, 0);
    assert_eq!(lyon(&mut sim).state, PathState::Down, "it does not answer");
    stock(&mut sim, 15_000, true, 0);
    assert_eq!(lyon(&mut sim).state, PathState::Up);
}

#[test]
fn a_path_whose_link_is_down_is_left_at_once_and_asked_about_at_once_when_it_is_up_again() {
    let mut sim = Sim::up();
    let call = udp("10.1.0.5:1000", "203.0.113.80:53", b"speech").bytes();
    sim.from_lan("berlin", &call);
    sim.dead_links("berlin", &["dsl"], false);
    let path = |sim: &mut Sim, node: &str, name: &str| {
        let paths = sim.paths(node);
        paths
            .into_iter()
            .find(|path| path.path == name && path.tenant == "acme" && path.site != "lyon")
            .expect("a path")
    };
    assert_eq!(path(&mut sim, "berlin", "dsl").state, PathState::Down);
    assert_eq!(path(&mut sim, "fra1", "dsl").state, PathState::Down, "the far end has been told");
    let rows = sim.decisions("berlin");
    let row = rows.iter().rfind(|row| row.class == "default").expect("moved");
    assert_eq!((row.from.as_str(), row.to.as_str(), row.why.as_str()), ("dsl", "lte", "link-down"));
    assert_eq!((row.detail.as_str(), row.unix_ms), ("dsl: link down", sim.now.unix_nanos / 1_000_000));
    sim.advance(5_000);
    sim.dead_links("berlin", &[], false);
    sim.advance(500);
    assert_eq!(path(&mut sim, "berlin", "dsl").state, PathState::Recovering, "it answers, and is held");
}

#[test]
fn a_way_out_whose_link_is_down_is_left_at_once_whether_it_is_measured_or_not() {
    for targets in ["\"203.0.113.53\"", ""] {
        let acme = acme("", "");
        let mut sim = Sim::with_policies(&acme, GLOBEX);
        sim.pinged(NEAR, Some([LINE; 2]));
        let more = if targets.is_empty() { String::new() } else { format!("probe-target = {targets}\n") };
        sim.break_out_by("berlin", Some(OWN), &more, ("acme", &acme));
        sim.advance(3_000);
        assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(true));
        sim.dead_links("berlin", &[], true);
        assert_eq!(leaves_straight(&mut sim, &bulk(2)), Some(false));
        assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(false), "what runs goes on as another session");
        let row = moves(&mut sim).pop().expect("moved");
        assert_eq!((row.why.as_str(), row.detail.as_str()), ("link-down", "breakout: link down"));
        // A commit changes nothing about that.
        sim.break_out_by("berlin", Some(OWN), &more, ("acme", &acme));
        assert_eq!(leaves_straight(&mut sim, &bulk(3)), Some(false));
        sim.dead_links("berlin", &[], false);
        sim.advance(15_000);
        assert_eq!(leaves_straight(&mut sim, &bulk(4)), Some(true));
    }
}

#[test]
fn replies_find_the_worker_that_has_asked_whoever_they_reach_first() {
    for target in [NEAR, FAR] {
        let mut sim = up(&format!("\"{target}\""), "", "");
        sim.restart_with("berlin", 3);
        sim.advance(5_000);
        let report = breakout(&mut sim);
        assert!(report.rtt_ms.is_some() && report.state == PathState::Up, "{target}: {report:?}");
        assert_eq!(leaves_straight(&mut sim, &bulk(1)), Some(true));
    }
}
