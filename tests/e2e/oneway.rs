//! Must hold 5 of paths: one direction of a line bad, the other good, and only the bad one moves; with real processes.

use crate::branches::{CONTROL, Class, Run, SPARE, branches, is_measured, policies, try_often};
use crate::figures::{Figure, Where};
use popgate::lab::topology::Directions;
use std::time::Duration;

const CLASSES: [Class; 2] = [Class::call("steady", 5_001, "sla-class = \"gold\""), CONTROL];
const SLA: &str = "[[sla-class]]\nname = \"gold\"\nmax-loss = \"1%\"\n";
const RUNS: usize = 10;

#[test]
fn of_a_line_that_is_bad_one_way_only_that_direction_moves() {
    if !is_measured() {
        return;
    }
    let world =
        branches("eoneway", RUNS + SPARE, &(SLA.to_owned() + &policies(&CLASSES)), "jitter = \"1ms\"");
    let way =
        |number: usize| if number.is_multiple_of(2) { Directions::Forward } else { Directions::Reverse };
    let runs = try_often(
        &world,
        (RUNS, Duration::from_millis(4_000)),
        &CLASSES,
        |_| vec![0],
        |number, world| {
            let change = toml::from_str("loss = '10%'").expect("a change");
            world.link(&format!("dsl{number}")).impair(way(number), change).expect("impaired");
        },
    );
    // Whether the class was moved for its SLA by the branch, and by the PoP.
    let moved_by = |run: &Run| {
        let branch = format!("b{}", run.number);
        [(branch.as_str(), "fra1"), ("fra1", branch.as_str())].map(|(near, far)| {
            let rows = world.decisions(near);
            rows.iter().any(|row| row.site == far && row.class == "steady" && row.why == "sla-broken")
        })
    };
    for (scenario, bad) in [("one-way-out", Directions::Forward), ("one-way-in", Directions::Reverse)] {
        let of = || runs.iter().filter(|run| way(run.number) == bad);
        let moved: Vec<[bool; 2]> = of().map(moved_by).collect();
        let lost = of().map(|run| run.heard[0].lost).sum();
        // Of the two directions' moves that of the good one is one too many.
        let [bad_moves, good_moves] = [0, 1].map(|good| {
            let at = if bad == Directions::Forward { good } else { 1 - good };
            moved.iter().filter(|ends| ends[at]).count() as u64
        });
        Figure::new(scenario, Where::Lab, "steady")
            .gaps(&of().map(|run| run.heard[0].gap).collect::<Vec<_>>())
            .lost(lost)
            .moves(bad_moves)
            .false_moves(good_moves)
            .record();
        assert_eq!((bad_moves as usize, good_moves), (moved.len(), 0), "{scenario}: {moved:?}");
    }
}
