//! How long nobody is heard when a line is cut: either way, or both, silently.
//!
//! Berlin has two lines of 30 to 50 ms there and back. A call over the first sends 50 packets a second either way; the line
//! is cut, with what is under way on it; and what is measured is the longest time without a packet at either receiving host,
//! less the 20 ms that are usual. Lines, phases and moments are another in each of a hundred cuts.

use crate::figures::{Figure, Stream, Where, percentile};
use crate::net::{ACME, GLOBEX, Link, Sim};
use crate::packets::{answer, read, udp};
use crate::steering::{DSL, LTE};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Milliseconds between a call's packets.
const SPACING: u64 = 20;
const CUTS: u64 = 100;
/// Where they are cut: from Berlin, to it, both.
const WAYS: [[bool; 2]; 3] = [[true, false], [false, true], [true, true]];

/// Two hosts that send each other numbered packets: in Berlin, and on the internet.
pub struct Call {
    /// Berlin's host and the other; the class that claims it tells them by the second's port.
    ends: [&'static str; 2],
    /// When in each [`SPACING`] they send, from Berlin and to it.
    phases: [u64; 2],
    /// Milliseconds since it began.
    pub now: u64,
    /// From Berlin, and to it.
    pub streams: [Stream; 2],
    /// A packet from Berlin, as the other host has seen it.
    seen: Option<Vec<u8>>,
}

impl Call {
    /// A call that begins with Berlin's first packet.
    pub fn new(other: &'static str, phases: [u64; 2]) -> Call {
        Call { ends: ["10.1.0.5:7000", other], phases, now: 0, streams: Default::default(), seen: None }
    }

    /// Goes on for so many milliseconds.
    pub fn run(&mut self, sim: &mut Sim, ms: u64) {
        for _ in 0..ms {
            let is_due = self.phases.map(|phase| self.now % SPACING == phase);
            if is_due[0] {
                let payload = self.number(0);
                sim.inject_from_lan("berlin", &udp(self.ends[0], self.ends[1], &payload).bytes());
            }
            if is_due[1] && self.seen.is_some() {
                let payload = self.number(1);
                let seen = self.seen.as_ref().expect("just looked");
                sim.inject_from_internet(&answer(seen, &payload));
            }
            sim.advance(1);
            self.now += 1;
            for (to, packet) in sim.take_delivered() {
                let way = usize::from(to == "berlin pg-lan");
                let payload = &packet[read(&packet).upper_at + 8..];
                let number = u32::from_be_bytes(*payload.first_chunk().expect("ours")) as usize;
                self.streams[way].came.push((number, self.now as f64));
                if way == 0 {
                    self.seen.get_or_insert(packet);
                }
            }
        }
    }

    fn number(&mut self, way: usize) -> [u8; 160] {
        let mut payload = [0; 160];
        let sent = &mut self.streams[way].sent;
        payload[..4].copy_from_slice(&(sent.len() as u32).to_be_bytes());
        sent.push(self.now as f64);
        payload
    }
}

/// What a hundred cuts have done to one class.
struct Outcome {
    gaps: Vec<f64>,
    lost: u64,
}

fn policy() -> String {
    let classes = [("twin", 5_001, "duplicate-always"), ("critical", 5_002, "duplicate-on-suspect")];
    let classes = classes.into_iter().map(|(class, port, remediation)| {
        format!(
            "[[app-class]]\nname = \"{class}\"\nmatch = [ {{ protocol = \"udp\", dst-port = {port} }} ]\n\
             [[path-policy]]\nclass = \"{class}\"\nprefer = [\"dsl\", \"lte\"]\n\
             remediation = \"{remediation}\"\n"
        )
    });
    ACME.to_owned() + &classes.collect::<String>()
}

/// Cuts Berlin's DSL a hundred times under a call of `class`, which is what the other host's port makes it.
fn cut(class: &str, other: &'static str) -> Outcome {
    let (mut gaps, mut by_way) = (Vec::new(), [const { Vec::new() }; 3]);
    let (mut lost, mut moves, mut false_moves) = (0, 0, 0);
    for seed in 0..CUTS {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut sim = Sim::with_policies(&policy(), GLOBEX);
        for line in [DSL, LTE] {
            let link =
                [(); 2].map(|()| Link { delay_ms: chance.random_range(15..=24), jitter_ms: 1, loss: 0.0 });
            sim.impair(line, link);
        }
        sim.advance(2_000 + chance.random_range(0..1_000));
        let mut call = Call::new(other, [(); 2].map(|()| chance.random_range(0..SPACING)));
        call.run(&mut sim, 500);
        let count = |sim: &mut Sim| -> u64 {
            let of = |node| sim.decisions(node).iter().filter(|row| row.class == class).count() as u64;
            ["berlin", "fra1"].map(of).into_iter().sum()
        };
        let known = count(&mut sim);
        call.run(&mut sim, 2_000 + chance.random_range(0..200));
        let before = count(&mut sim);
        let ways = (seed % 3) as usize;
        sim.cut_ways(DSL, WAYS[ways]);
        let at = call.now as f64;
        call.run(&mut sim, 1_500);
        let mut gap: f64 = 0.0;
        let mut missing = 0;
        for stream in &call.streams {
            gap = gap.max(stream.gap(at - 100.0..call.now as f64, SPACING as f64));
            let [never, twice] = stream.lost(at - 100.0..at + 1_000.0);
            missing += never;
            assert_eq!(twice, 0, "seed {seed}: packets came twice");
        }
        assert!(gap < 1_000.0, "seed {seed}: {gap} ms, {:?}", sim.decisions("berlin"));
        gaps.push(gap);
        by_way[ways].push(gap);
        (lost, false_moves, moves) =
            (lost + missing, false_moves + before - known, moves + count(&mut sim) - before);
    }
    for (way, gaps) in ["from Berlin", "to Berlin", "both ways"].into_iter().zip(&by_way) {
        let at = [0, 50, 90, 99, 100].map(|percent| percentile(gaps, percent).unwrap_or_default());
        println!(
            "{class}, cut {way}: ms at least {}, half {}, p90 {}, p99 {}, most {}",
            at[0], at[1], at[2], at[3], at[4]
        );
    }
    let mut sorted = gaps.clone();
    sorted.sort_by(f64::total_cmp);
    println!("{class}: {sorted:?}");
    let row = Figure::new("blackout", Where::Sim, class).gaps(&gaps).lost(lost);
    row.moves(moves)
        .false_moves(false_moves)
        .with("lost_ms_per_cut", lost as f64 * SPACING as f64 / CUTS as f64)
        .record();
    assert_eq!(false_moves, 0, "nothing was wrong before the cuts");
    Outcome { gaps, lost }
}

fn at(outcome: &Outcome, percent: usize) -> f64 {
    percentile(&outcome.gaps, percent).expect("a hundred")
}

#[test]
fn a_hundred_cuts_keep_nobody_of_the_default_class_waiting_for_300_ms() {
    let outcome = cut("default", "203.0.113.80:5003");
    assert!(at(&outcome, 99) <= 300.0, "p99 {} ms, {} lost", at(&outcome, 99), outcome.lost);
}

#[test]
fn a_hundred_cuts_are_hardly_heard_in_a_class_that_is_duplicated_on_suspicion() {
    let outcome = cut("critical", "203.0.113.80:5002");
    let [half, most] = [50, 99].map(|percent| at(&outcome, percent));
    assert!(half <= 80.0 && most <= 150.0, "half {half} ms, p99 {most} ms");
}

#[test]
fn a_hundred_cuts_take_no_packet_from_a_class_that_is_always_duplicated() {
    assert_eq!(cut("twin", "203.0.113.80:5001").lost, 0);
}
