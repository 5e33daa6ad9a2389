//! Must hold 1 and 4 of paths: how long nobody is heard when a line is cut, one way, the other and both; with real processes.

use crate::branches::{CONTROL, Class, Heard, SPARE, branches, is_measured, policies, try_often};
use crate::figures::{Figure, Where, percentile};
use popgate::lab::topology::Directions;
use std::time::Duration;

const CUTS: usize = 20;
const WAYS: [Directions; 3] = [Directions::Forward, Directions::Reverse, Directions::Both];
const CLASSES: [Class; 4] = [
    Class::call("twin", 5_001, "remediation = \"duplicate-always\""),
    Class::call("critical", 5_002, "remediation = \"duplicate-on-suspect\""),
    Class::call("default", 5_003, ""),
    CONTROL,
];

#[test]
fn twenty_cuts_are_heard_as_little_as_each_class_may() {
    if !is_measured() {
        return;
    }
    let world = branches("ecuts", CUTS + SPARE, &policies(&CLASSES), "jitter = \"1ms\"");
    let runs = try_often(
        &world,
        (CUTS, Duration::from_millis(7_600)),
        &CLASSES,
        |_| vec![0, 1, 2],
        |n, world| {
            world.link(&format!("dsl{n}")).cut_way(WAYS[n % 3]).expect("cut");
        },
    );
    let of = |index: usize| runs.iter().map(move |run| &run.heard[index]);
    let mut gaps = Vec::new();
    for (index, Class { name: class, .. }) in CLASSES.iter().enumerate() {
        let mut of_class: Vec<f64> = of(index).map(|heard| heard.gap).collect();
        of_class.sort_by(f64::total_cmp);
        println!(
            "{class}: gaps in ms {:?}",
            of_class.iter().map(|gap| gap.round() as u64).collect::<Vec<_>>()
        );
        let moves = of(index).fold([0, 0], |sum, heard| [0, 1].map(|when| sum[when] + heard.moves[when]));
        for (scenario, mos) in [("blackout", None), ("voice-through-cut", Some(mos(of(index))))] {
            let row = Figure::new(scenario, Where::Lab, class).gaps(&of_class).lost(lost(of(index)));
            let row = row.moves(moves[1]).false_moves(moves[0]);
            mos.map_or(row.clone(), |mos| row.with("mos", (mos * 100.0).round() / 100.0)).record();
        }
        assert_eq!(moves[0], 0, "nothing was wrong before the cuts");
        gaps.push([50, 99].map(|percent| percentile(&of_class, percent).expect("twenty")));
    }
    // Must hold 1, and 4: it is heard, and not minded.
    let [_, critical, default, _] = gaps[..] else { panic!("one for each class") };
    assert_eq!(lost(of(0)), 0, "packets that went twice");
    assert!(critical[0] <= 80.0 && critical[1] <= 150.0, "critical class: half and p99 {critical:?}");
    assert!(default[1] <= 300.0, "default class: half and p99 {default:?}");
    assert!((0..4).all(|index| mos(of(index)) >= 4.0), "a call through a cut sounds badly");
    assert_eq!(lost(of(3)), 0, "the other line was not cut");
}

fn lost<'a>(runs: impl Iterator<Item = &'a Heard>) -> u64 {
    runs.map(|heard| heard.lost).sum()
}

/// The worst of them.
fn mos<'a>(runs: impl Iterator<Item = &'a Heard>) -> f64 {
    runs.map(|heard| heard.mos).fold(5.0, f64::min)
}
