//! A packet towards a branch where a bandwidth is limited: one that goes at once, since there is time for it, and one that waits
//! for its turn; beside one where nothing is limited.

use crate::cases::{BASE, Bench, Case, fill};
use crate::measure::{Stopwatch, median};
use crate::{BATCH, ROUND, ROUNDS, Row, Wanted};
use popgate::model::Rate;
use popgate::wire::{Batch, Ingress, Outbound};
use std::time::Duration;

/// As far as a batch and another are apart: the sum of them is less than the fast rate, and more than the slow one.
const STEP: Duration = Duration::from_micros(400);

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    for bytes in [64, 1_420] {
        let case = Case { bytes, sessions: 1_000, ..BASE };
        // Nine tenths of what comes: the rest waits until the last batch has been.
        let offered = ((bytes + 60) * 8 * BATCH) as f64 / STEP.as_secs_f64();
        let mut unlimited = 0.0;
        for (what, rate) in
            [("unlimited", None), ("at once", Some(offered * 2.0)), ("in turn", Some(offered * 0.9))]
        {
            let name = format!("shaping: {what}, {bytes} B");
            if !wanted.has(&name) {
                continue;
            }
            let rate = rate.and_then(|rate| Rate::bits_per_second(rate as u64));
            let ns = median(run(case, rate));
            unlimited = if what == "unlimited" { ns } else { unlimited };
            println!("{name:44} {ns:>6.0} ns, {:>6.0} ns more", ns - unlimited);
            rows.push(
                Row { ns_per_packet: Some(ns), ..Row::new(name, "down", case) }
                    .with("more_than_unlimited_ns", ns - unlimited),
            );
        }
    }
    rows
}

/// Nanoseconds a packet, by round.
fn run(case: Case, rate: Option<Rate>) -> Vec<f64> {
    let mut bench = Bench::limited(case, rate);
    let (mut batch, mut out) = (Batch::with_slots(BATCH), Outbound::default());
    let internet = Ingress::Device(bench.pop.internet);
    let mut round = |bench: &mut Bench| {
        let sessions = bench.next_round();
        let mut watch = Stopwatch::new();
        let mut sealed = 0;
        let mut time = |bench: &mut Bench, batch: Option<&mut Batch>, out: &mut Outbound| {
            let (worker, now) = (&mut bench.pop.workers[0], bench.pop.now);
            out.clear();
            watch.time(|| match batch {
                Some(batch) => worker.process(batch, now, out),
                None => worker.handle_timeout(now, out),
            });
            sealed += out.datagrams().len();
        };
        for chunk in sessions.chunks(BATCH) {
            fill(&mut batch, chunk.iter().map(|&n| (internet, bench.inward[n].as_slice())));
            time(bench, Some(&mut batch), &mut out);
            bench.pop.now = bench.pop.now + STEP;
        }
        // In steps, as a thread wakes: at once, more would go than a line may be late with.
        for _ in 0..20 {
            bench.pop.now = bench.pop.now + STEP;
            if bench.pop.workers[0].poll_timeout().is_some_and(|at| at <= bench.pop.now.instant) {
                time(bench, None, &mut out);
            }
        }
        (watch.nanos() / ROUND as f64, sealed)
    };
    let rounds = (0..ROUNDS).map(|_| {
        let (ns, sealed) = round(&mut bench);
        assert!(sealed >= ROUND, "every packet was sent: {sealed}");
        ns
    });
    rounds.collect()
}
