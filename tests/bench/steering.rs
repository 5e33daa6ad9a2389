//! A packet towards a branch with two paths: of a session that stays on its own, of one whose class's policy chooses, and of one
//! that is to go over to the other, and whose turn has not come; beside one of a branch with a single path.

use crate::cases::{BASE, Bench, Case};
use crate::measure::median;
use crate::pop::{Pop, candidate, set_dscps};
use crate::{ROUND, ROUNDS, Row, Wanted};
use popgate::config::Candidate;
use popgate::model::{OnViolation, PathId, Resilience, SlaLimits};
use popgate::pipeline::Measured;
use popgate::pipeline::report::{Answer, FlowFilter, Query};
use popgate::wire::Ingress;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Steering {
    OnePath,
    Pinned,
    ByPolicy,
    WithStreams,
    GoesOver,
}

const CASES: [(Steering, &str); 5] = [
    (Steering::OnePath, "one path"),
    (Steering::Pinned, "two paths, pinned to one"),
    (Steering::ByPolicy, "two paths, by policy"),
    (Steering::WithStreams, "two paths, by policy, three streams each"),
    (Steering::GoesOver, "two paths, a gradual move under way"),
];

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let case = Case { bytes: 64, ..BASE };
    let mut rows = Vec::new();
    let mut one_path = 0.0;
    for (steering, what) in CASES {
        let name = format!("steering: {what}");
        if !wanted.has(&name) {
            continue;
        }
        let ns = run(case, steering);
        one_path = if steering == Steering::OnePath { ns } else { one_path };
        println!("{name:56} {ns:>6.0} ns, {:>6.0} ns more", ns - one_path);
        rows.push(
            Row { ns_per_packet: Some(ns), ..Row::new(name, "down", case) }
                .with("more_than_one_path_ns", ns - one_path),
        );
    }
    rows
}

/// A PoP with one branch.
fn policy(case: Case, steering: Steering) -> Candidate {
    let mut candidate = candidate(2, case.rules);
    if steering == Steering::WithStreams {
        set_dscps(&mut candidate);
    }
    let tenant = candidate.tenants.values_mut().next().expect("one");
    let other = tenant.branches.pop().expect("two branches");
    if steering == Steering::OnePath {
        return candidate;
    }
    let mut path = other.paths.into_iter().next().expect("a path");
    path.name = "lte".into();
    tenant.branches[0].paths.push(path);
    let policy = &mut tenant.path_policies[0];
    policy.prefer.push(vec!["lte".into()]);
    if steering == Steering::Pinned {
        policy.resilience = Resilience::None;
    }
    let limits = SlaLimits { loss: Some(0.01), ..SlaLimits::default() };
    let sla = popgate::config::SlaClass { name: "gold".into(), limits };
    policy.sla = Some((sla, OnViolation::BestOfWorst));
    candidate
}

/// Nanoseconds a packet.
fn run(case: Case, steering: Steering) -> f64 {
    let clients = if steering == Steering::OnePath { 1 } else { 2 };
    let mut bench = Bench::of(case, Pop::by(&policy(case, steering), clients));
    let internet = Ingress::Device(bench.pop.internet);
    let mut samples = Vec::new();
    for n in 0..=ROUNDS {
        let round = bench.next_round();
        let packets: Vec<_> = round.iter().map(|&n| (internet, bench.inward[n].clone())).collect();
        let (spent, _, datagrams) = bench.time(&packets);
        assert_eq!(datagrams, ROUND, "every packet was forwarded");
        // After the first all sessions have left by a path; and no time goes by from then on, so that no more than the first
        // eighth has its turn.
        if n == 0 {
            leave_once(&mut bench);
            if steering == Steering::GoesOver {
                let now = bench.pop.now;
                let first = PathId(0);
                bench.pop.workers[0].recall(first, Measured::FellSilent { dscp: 0 }, now);
            }
        } else {
            samples.push(spent / ROUND as f64);
        }
    }
    let query = Query::Sessions { filter: FlowFilter::default(), limit: usize::MAX };
    let Answer::Sessions(page) = bench.pop.workers[0].answer(&query, bench.pop.now) else {
        panic!("sessions")
    };
    let gone = page.sessions.iter().filter(|session| session.reverse_path.as_deref() == Some("lte")).count();
    let eighth = if steering == Steering::GoesOver { case.sessions / 8 } else { 0 };
    assert!(gone.abs_diff(eighth) <= eighth / 5, "{gone} have gone over");
    median(samples)
}

/// Every session has a packet from the internet.
fn leave_once(bench: &mut Bench) {
    let internet = Ingress::Device(bench.pop.internet);
    let packets: Vec<_> = bench.inward.iter().map(|packet| (internet, packet.clone())).collect();
    bench.time(&packets);
}
