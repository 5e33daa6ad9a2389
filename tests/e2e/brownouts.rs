//! Must hold 2 of paths: how soon a line that breaks an SLA is left, with real processes.

use crate::branches::{CONTROL, Class, Run, SPARE, branches, is_measured, policies, try_often};
use crate::figures::{Figure, Stream, Where, percentile};
use popgate::lab::topology::Directions;
use std::time::Duration;

const CLASSES: [Class; 4] = [
    Class::call("steady", 5_001, "sla-class = \"gold\""),
    Class { name: "dense", port: 5_002, spacing: Duration::from_millis(2), policy: "sla-class = \"silver\"" },
    Class::call("even", 5_003, "sla-class = \"bronze\""),
    CONTROL,
];
const SLAS: &str = "
[[sla-class]]
name = \"gold\"
max-loss = \"1%\"
max-latency = \"100ms\"
max-jitter = \"20ms\"
[[sla-class]]
name = \"silver\"
max-loss = \"0.5%\"
[[sla-class]]
name = \"bronze\"
max-jitter = \"10ms\"
";

/// What is done to what branches send, and which class is on the line then.
const BROWNOUTS: [(&str, usize, &str); 4] = [
    ("brownout-loss-10", 0, "loss = '10%'"),
    ("brownout-loss-3-dense", 1, "loss = '3%'"),
    ("brownout-latency", 0, "delay = '170ms'"),
    // Packets wait for each other, so that those of a call differ by a sixth of what each may be late by: twice the limit.
    ("brownout-jitter", 2, "delay = '60ms'\njitter = '60ms'"),
];
const RUNS: usize = 20;
/// What the issue allows.
const WITHIN_MS: f64 = 1_000.0;
/// Later than ever before, by so many milliseconds, is late.
const LATE: f64 = 15.0;

/// How long after it was done its last packet was sent that was lost, or late.
fn suffered(stream: &Stream, run: &Run) -> f64 {
    let took = |(number, at): &(usize, f64)| (stream.sent[*number], at - stream.sent[*number]);
    let before = stream.came.iter().map(took).filter(|(sent, _)| *sent < run.at - 100.0);
    let usual = before.map(|(_, took)| took).fold(0.0, f64::max);
    let late = stream.came.iter().map(took).filter(|(_, took)| *took > usual + LATE).map(|(sent, _)| sent);
    let mut came = vec![false; stream.sent.len()];
    stream.came.iter().for_each(|(number, _)| came[*number] = true);
    // What was sent in the end may be under way.
    let lost = stream.sent.iter().zip(came).filter(|(at, came)| !came && **at < run.end - 300.0);
    let last = late.chain(lost.map(|(at, _)| *at)).fold(run.at, f64::max);
    last - run.at
}

#[test]
fn a_line_that_breaks_an_sla_is_left_within_a_second() {
    if !is_measured() {
        return;
    }
    let policy = SLAS.to_owned() + &policies(&CLASSES);
    let world = branches("ebrownouts", RUNS + SPARE, &policy, "jitter = \"1ms\"");
    let brownout = |number: usize| BROWNOUTS[number % BROWNOUTS.len()];
    let lasting = Duration::from_millis(2_500);
    let runs = try_often(
        &world,
        (RUNS, lasting),
        &CLASSES,
        |number| vec![brownout(number).1],
        |number, world| {
            let change = toml::from_str(brownout(number).2).expect("a change");
            world.link(&format!("dsl{number}")).impair(Directions::Forward, change).expect("impaired");
        },
    );
    for (scenario, class, _) in BROWNOUTS {
        let of: Vec<&Run> = runs.iter().filter(|run| brownout(run.number).0 == scenario).collect();
        let heard = || of.iter().map(|run| &run.heard[0]);
        let suffered: Vec<f64> = of.iter().map(|run| suffered(&run.heard[0].streams[0], run)).collect();
        let decided: Vec<Option<u64>> = heard().map(|heard| heard.moved).collect();
        println!(
            "{scenario}: moved after ms {decided:?}, heard for ms {:?}",
            suffered.iter().map(|ms| ms.round()).collect::<Vec<_>>()
        );
        let late = |percent| percentile(&suffered, percent).map(f64::round);
        let decided_ms: Vec<f64> = decided.iter().flatten().map(|ms| *ms as f64).collect();
        Figure::new(scenario, Where::Lab, CLASSES[class].name)
            .gaps(&heard().map(|heard| heard.gap).collect::<Vec<_>>())
            .lost(heard().map(|heard| heard.lost).sum())
            .moves(heard().map(|heard| heard.moves[1]).sum())
            .false_moves(heard().map(|heard| heard.moves[0]).sum())
            .with("moved_p50_ms", percentile(&decided_ms, 50))
            .with("moved_p99_ms", percentile(&decided_ms, 99))
            .with("suffered_p50_ms", late(50))
            .with("suffered_p99_ms", late(99))
            .record();
        assert!(heard().all(|heard| heard.moves[0] == 0), "{scenario}: nothing was wrong before");
        assert!(heard().all(|heard| heard.moved.is_some()), "{scenario}: it is left");
        // What is late is certain; but of what is lost by chance it may be that little is lost at first, and of 3 % it takes more than a
        // second once in a hundred runs (`path::judge` has the distribution). So it is four of five there.
        let most = if scenario == "brownout-latency" { 100 } else { 80 };
        assert!(percentile(&suffered, most).is_some_and(|ms| ms < WITHIN_MS), "{scenario}: {suffered:?}");
    }
}
