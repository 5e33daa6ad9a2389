//! Whether a path keeps to an SLA: bad fast, good slow.
//!
//! Broken is what a sequential probability-ratio test says (Wald 1945), begun anew whenever the evidence is for the path
//! (Page 1954): each packet and each probe adds the logarithm of how much likelier it is if the limit is broken than if it is
//! kept, and when that is enough it is. There is no window to wait for, and no k of n: one that loses every packet is found out by
//! a few, one that is barely over the limit by many. Of loss three tests run, against three, five and twelve times the limit,
//! and what counts is what is lost apart ([`Counts::apart`]): a burst now and then is no brownout. Of latency and MOS the
//! test is whether half of the time the limit is exceeded rather than the 5 % that p95 grants. Jitter is a mean of many
//! differences in latency, and slow to forget: the test is of these, each heard once, as if they were distributed exponentially, which of all
//! distributions with their mean says least; and the mean must be over the limit as well.
//!
//! How long it takes: of a path that loses a share p of its packets each of them adds on average the Kullback-Leibler
//! distance, p ln(p/q) + (1-p) ln((1-p)/(1-q)), q being what is kept. Ten per cent against one are 0.16, so that what is enough is
//! there after some 90 packets; the deviation is as large as half of that. At 50 packets a second that is too long: probes are many while
//! there is doubt, and very many while there is much.
//!
//! Kept again is what has been below 80 % of every limit for 30 seconds, or twice as long each time it breaks again soon.

use super::arrivals::Counts;
use super::quality::{APART, LONG, Measured, Quality, Way};
use crate::model::{Instant, SlaLimit, SlaLimits};
use std::time::Duration;

/// Loss is kept at this share of its limit: between that and the limit nothing is said soon.
const KEPT: f64 = 0.8;
/// What loss is tested against, as multiples of its limit, and the evidence that is enough. A path that loses just the limit is
/// found to break it with a probability of 1e-4 before the evidence is back at nothing; and one that loses half of it at
/// random, 150 packets a second, once in a year. Chance looks like the worst most often.
const LOSS_IS: [(f64, f64); 3] = [(3.0, 11.3), (5.0, 13.2), (12.0, 15.5)];
/// There is doubt from this share of the evidence on: a loss, until some twenty packets more have come;
const DOUBT: f64 = 0.05;
/// and much from this on: a few close to each other.
const MUCH_DOUBT: f64 = 0.2;
/// Share of probes over a limit on percentiles that p95 grants, and that it is tested against.
const GRANTED: f64 = 0.05;
const EXCEEDING: f64 = 0.5;
/// Six in a row are evidence enough for that, [`APART`] from each other: one spike is not to be counted as often as one looks.
const ENOUGH_EXCEEDING: f64 = 13.8;
/// Differences in latency are kept to a jitter whose p95 is the limit if their mean is this share of it,
const JITTER_KEPT: f64 = 0.74;
/// tested against these multiples of it, with the evidence that is enough;
const JITTER_IS: [f64; 2] = [1.5, 3.0];
const ENOUGH_JITTER: f64 = 12.0;
/// and one that is larger than this counts as if it were not: so that a spike is one, however high.
const JITTER_AT_MOST: f64 = 3.0;
/// What is shown of a broken limit.
const SHORT: Duration = Duration::from_secs(2);
/// Good again is below this share of the limit,
const GOOD: f64 = 0.8;
/// for so long at first, and at most.
const HOLD: Duration = Duration::from_secs(30);
const MAX_HOLD: Duration = Duration::from_secs(600);

/// What one answered probe has brought of the outbound direction.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Since the answer before: what has arrived there, and what has been lost.
    pub counts: Counts,
    pub latency: Duration,
    pub jitter: Duration,
    /// What the latency differs by from the one that jitter was last made of; `None` if that was too short a while ago.
    pub difference: Option<Duration>,
}

/// How closely one wants to look at a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    #[default]
    None,
    Some,
    Much,
}

/// A limit, and what was measured: a share, milliseconds, or a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    pub of: SlaLimit,
    pub measured: f64,
    pub limit: f64,
}

/// What the judge has come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Broken(Evidence),
    /// It has been good for so long.
    Kept(Duration),
}

/// Judges one direction of one stream of a path by one SLA.
#[derive(Clone, Debug)]
pub struct Judge {
    limits: SlaLimits,
    loss: [Sequential; 3],
    latency: Sequential,
    jitter: [SequentialMean; 2],
    mos: Sequential,
    /// When those of latency and MOS were fed.
    fed: Option<Instant>,
    is_broken: bool,
    good_since: Option<Instant>,
    kept_since: Option<Instant>,
    hold: Duration,
}

/// A sequential test of a share: is it `kept`, or `broken`?
#[derive(Clone, Copy, Debug)]
struct Sequential {
    evidence: f64,
    /// What one of the bad and one of the good add.
    bad: f64,
    good: f64,
    enough: f64,
}

impl Judge {
    /// A judge who has seen nothing yet.
    pub fn new(limits: SlaLimits) -> Judge {
        let loss = limits.loss.unwrap_or(1.0);
        let exceeding = Sequential::new(GRANTED, EXCEEDING, ENOUGH_EXCEEDING);
        Judge {
            limits,
            loss: LOSS_IS.map(|(times, enough)| Sequential::new(loss * KEPT, loss * times, enough)),
            latency: exceeding,
            jitter: JITTER_IS.map(|times| SequentialMean::new(JITTER_KEPT, times, ENOUGH_JITTER)),
            mos: exceeding,
            fed: None,
            is_broken: false,
            good_since: None,
            kept_since: None,
            hold: HOLD,
        }
    }

    /// What it judges by.
    pub fn limits(&self) -> &SlaLimits {
        &self.limits
    }

    /// Whether the path breaks the SLA.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether there is reason to look more closely.
    pub fn doubt(&self) -> Doubt {
        let is_over = |share: f64| self.loss.iter().any(|test| test.evidence > test.enough * share);
        match self.is_broken {
            false if is_over(MUCH_DOUBT) => Doubt::Much,
            false if is_over(DOUBT) => Doubt::Some,
            _ => Doubt::None,
        }
    }

    /// An answer came while the path was up.
    pub fn observe(&mut self, seen: &Seen, quality: &Quality, now: Instant) -> Option<Verdict> {
        if self.is_broken { self.pardon(quality, now) } else { self.accuse(seen, quality, now) }
    }

    /// Nothing gets through, and so nothing is said that it could be judged by: all is lost.
    pub fn silenced(&mut self, now: Instant) -> Option<Verdict> {
        let limit = self.limits.loss.unwrap_or(1.0);
        (!self.is_broken).then(|| self.broken(Evidence { of: SlaLimit::Loss, measured: 1.0, limit }, now))
    }

    /// How badly it breaks the SLA: the largest share of a limit that is used up, 1 being all of it; `None` if nothing is known.
    pub fn badness(&self, quality: &Quality, now: Instant) -> Option<f64> {
        let measured = quality.measured(Way::Outbound, LONG, now)?;
        let used = |of| self.evidence(of, &measured).map(|evidence| evidence.used());
        Some(ALL.into_iter().filter_map(used).fold(0.0, f64::max))
    }

    fn accuse(&mut self, seen: &Seen, quality: &Quality, now: Instant) -> Option<Verdict> {
        let SlaLimits { loss, latency, jitter, mos } = self.limits;
        let lost = loss.is_some()
            // All are to hear it.
            && self.loss.iter_mut().fold(false, |found, test| {
                test.feed(seen.counts.apart, seen.counts.received) | found
            });
        let shaky = jitter.is_some_and(|limit| {
            let tests = &mut self.jitter;
            seen.difference.is_some_and(|difference| {
                let share = difference.as_secs_f64() / limit.as_secs_f64().max(1e-6);
                let found = tests.iter_mut().fold(false, |found, test| test.feed(share) | found);
                found && seen.jitter > limit
            })
        });
        let is_time = self.fed.is_none_or(|last| now.since(last) >= APART);
        if is_time {
            self.fed = Some(now);
        }
        let one = |test: &mut Sequential, is_over: bool| test.feed(is_over.into(), (!is_over).into());
        let of = if lost {
            SlaLimit::Loss
        } else if shaky {
            SlaLimit::Jitter
        } else if !is_time {
            return None;
        } else if latency.is_some_and(|limit| one(&mut self.latency, seen.latency > limit)) {
            SlaLimit::Latency
        } else if let Some(limit) = mos
            && let Some(measured) = quality.measured(Way::Outbound, SHORT, now)
            && one(&mut self.mos, measured.mos < limit)
        {
            SlaLimit::Mos
        } else {
            return None;
        };
        let measured = quality.measured(Way::Outbound, SHORT, now)?;
        let evidence = self.evidence(of, &measured)?;
        Some(self.broken(evidence, now))
    }

    fn broken(&mut self, evidence: Evidence, now: Instant) -> Verdict {
        let again = self.kept_since.is_some_and(|since| now.since(since) < self.hold * 2);
        let hold = if again { (self.hold * 2).min(MAX_HOLD) } else { HOLD };
        *self = Judge { is_broken: true, kept_since: None, hold, ..Judge::new(self.limits) };
        Verdict::Broken(evidence)
    }

    fn pardon(&mut self, quality: &Quality, now: Instant) -> Option<Verdict> {
        let is_good = self.badness(quality, now).is_some_and(|used| used <= GOOD);
        let since = *self.good_since.get_or_insert(now);
        if !is_good {
            self.good_since = None;
            return None;
        }
        if now.since(since) < self.hold {
            return None;
        }
        *self = Judge { kept_since: Some(now), hold: self.hold, ..Judge::new(self.limits) };
        Some(Verdict::Kept(now.since(since)))
    }

    fn evidence(&self, of: SlaLimit, measured: &Measured) -> Option<Evidence> {
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        let (measured, limit) = match of {
            SlaLimit::Loss => (measured.loss?, self.limits.loss?),
            SlaLimit::Latency => (millis(measured.p95), millis(self.limits.latency?)),
            SlaLimit::Jitter => (millis(measured.jitter), millis(self.limits.jitter?)),
            SlaLimit::Mos => (measured.mos, self.limits.mos?),
        };
        Some(Evidence { of, measured, limit })
    }
}

const ALL: [SlaLimit; 4] = [SlaLimit::Loss, SlaLimit::Latency, SlaLimit::Jitter, SlaLimit::Mos];

/// The best a call can sound, in G.711.
const BEST_MOS: f64 = 4.4;

impl Evidence {
    /// What share of the limit is used up. Of a score it is what is missing of the best that counts.
    fn used(&self) -> f64 {
        match self.of {
            SlaLimit::Mos => (BEST_MOS - self.measured).max(0.0) / (BEST_MOS - self.limit).max(0.1),
            _ => self.measured / self.limit,
        }
    }
}

impl Sequential {
    fn new(kept: f64, broken: f64, enough: f64) -> Sequential {
        let (kept, broken) = (kept.clamp(1e-6, 0.9), broken.clamp(2e-6, 0.99));
        Sequential {
            evidence: 0.0,
            bad: (broken / kept).ln(),
            good: ((1.0 - broken) / (1.0 - kept)).ln(),
            enough,
        }
    }

    /// Whether that is enough.
    fn feed(&mut self, bad: u32, good: u32) -> bool {
        self.evidence = (self.evidence + self.bad * f64::from(bad) + self.good * f64::from(good)).max(0.0);
        self.evidence >= self.enough
    }
}

/// A sequential test of a mean of what is distributed exponentially: is it `kept`, or `broken`?
#[derive(Clone, Copy, Debug)]
struct SequentialMean {
    evidence: f64,
    /// What each adds, and adds by what it measures.
    each: f64,
    by: f64,
    enough: f64,
}

impl SequentialMean {
    fn new(kept: f64, broken: f64, enough: f64) -> SequentialMean {
        SequentialMean { evidence: 0.0, each: (kept / broken).ln(), by: 1.0 / kept - 1.0 / broken, enough }
    }

    /// Whether that is enough; it goes on being, while it is.
    fn feed(&mut self, measured: f64) -> bool {
        let more = self.each + self.by * measured.min(JITTER_AT_MOST);
        self.evidence = (self.evidence + more).clamp(0.0, self.enough);
        self.evidence >= self.enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::clock::Stamps;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const MS: u64 = 1_000_000;
    const VOICE: SlaLimits = SlaLimits {
        loss: Some(0.01),
        latency: Some(Duration::from_millis(100)),
        jitter: Some(Duration::from_millis(20)),
        mos: None,
    };

    /// A path that is probed 50 times a second, 200 and 800 while its judge is in doubt, and carries `per_second` packets beside and
    /// the answers to the far end's own probes.
    struct Trace {
        quality: Quality,
        judge: Judge,
        rng: StdRng,
        now: Instant,
        there: Counts,
        /// How many have been lost without one between.
        run: u32,
        /// How many more are lost by the same chance.
        burst: u32,
        per_second: u64,
        due: f64,
    }

    impl Trace {
        fn new(limits: SlaLimits, per_second: u64, seed: u64) -> Trace {
            Trace {
                quality: Quality::default(),
                judge: Judge::new(limits),
                rng: StdRng::seed_from_u64(seed),
                now: Instant(0),
                there: Counts::default(),
                run: 0,
                burst: 0,
                per_second,
                due: 0.0,
            }
        }

        /// Goes on for `ms`, losing a share of `loss` (one in a hundred losses takes the next two along), each probe taking
        /// 20 ms and what `more` says; stops at a verdict.
        fn run(
            &mut self,
            ms: u64,
            loss: f64,
            mut more: impl FnMut(&mut StdRng) -> u64,
        ) -> Option<(u64, Verdict)> {
            let begin = self.now;
            while self.now.since(begin) < Duration::from_millis(ms) {
                let (step, probes) = match self.judge.doubt() {
                    Doubt::None => (20, 1.0),
                    Doubt::Some => (5, 1.0),
                    Doubt::Much => (5, 4.0),
                };
                self.now += Duration::from_millis(step);
                self.due += ((self.per_second + 50) * step) as f64 / 1e3 + probes;
                let due = self.due as u64;
                self.due -= due as f64;
                for _ in 0..due {
                    if self.burst > 0 || self.rng.random_bool(loss) {
                        self.burst = match self.burst {
                            0 => 2 * u32::from(self.rng.random_bool(0.01)),
                            more => more - 1,
                        };
                        self.run += 1;
                        self.there.lost += 1;
                        self.there.apart += u32::from(self.run == 1 || self.run.is_multiple_of(4));
                    } else {
                        self.run = 0;
                        self.there.received += 1;
                    }
                }
                let sent = 1_000_000 * MS + self.now.0;
                let there = sent + (20 + more(&mut self.rng)) * MS;
                let stamps = Stamps { sent, received: there, reflected: there, returned: there + 20 * MS };
                self.quality.answered(&stamps, [Some(self.there), None], self.now);
                let seen = self.quality.take_seen().expect("an answer came");
                if let Some(verdict) = self.judge.observe(&seen, &self.quality, self.now) {
                    return Some((self.now.since(begin).as_millis() as u64, verdict));
                }
            }
            None
        }
    }

    /// How long it takes to find out, over 200 traces: half of them, 95 and 99 of a hundred.
    fn found(
        limits: SlaLimits,
        per_second: u64,
        of: SlaLimit,
        loss: f64,
        more: impl Fn(&mut StdRng) -> u64,
    ) -> [u64; 3] {
        let mut took: Vec<u64> = (0..200)
            .map(|seed| {
                let mut trace = Trace::new(limits, per_second, seed);
                assert_eq!(trace.run(10_000, 0.0, |_| 0), None, "nothing was wrong");
                match trace.run(60_000, loss, &more) {
                    Some((ms, Verdict::Broken(evidence))) if evidence.of == of => ms,
                    other => panic!("seed {seed}: {other:?}"),
                }
            })
            .collect();
        took.sort_unstable();
        let [half, most, nearly_all] = [took[99], took[189], took[197]];
        println!("{of:?}, {per_second} packets/s: {half} ms, p95 {most} ms, p99 {nearly_all} ms");
        [half, most, nearly_all]
    }

    #[test]
    fn loss_is_found_by_the_packets_it_takes() {
        let [half, _, most] = found(VOICE, 50, SlaLimit::Loss, 0.1, |_| 0);
        assert!(half <= 300 && most <= 750, "{half} {most}");
        let [half, _, most] =
            found(SlaLimits { loss: Some(0.005), ..VOICE }, 500, SlaLimit::Loss, 0.03, |_| 0);
        assert!(half <= 450 && most <= 950, "{half} {most}");
        let [half, _, most] = found(VOICE, 500, SlaLimit::Loss, 0.3, |_| 0);
        assert!(half <= 100 && most <= 150, "{half} {most}");
    }

    #[test]
    fn a_step_of_latency_and_jitter_are_found_within_a_second() {
        let [_, _, most] = found(VOICE, 50, SlaLimit::Latency, 0.0, |_| 150);
        assert!(most <= 500, "{most}");
        let limits = SlaLimits { latency: None, ..VOICE };
        let [half, _, most] = found(limits, 50, SlaLimit::Jitter, 0.0, |rng| rng.random_range(0..=150));
        assert!(half <= 500 && most <= 800, "{half} {most}");
    }

    #[test]
    fn chance_does_not_break_an_sla_in_a_day() {
        for seed in 0..8 {
            let mut trace = Trace::new(VOICE, 50, 24 + seed);
            assert_eq!(trace.run(86_400_000, 0.005, |rng| rng.random_range(0..=5)), None, "seed {seed}");
        }
    }

    #[test]
    fn jitter_below_its_limit_does_not_break_it_in_a_day_nor_do_spikes_however_high() {
        let limits = SlaLimits { jitter: Some(Duration::from_millis(20)), ..SlaLimits::default() };
        for seed in 0..2 {
            let day = |latency: fn(&mut StdRng) -> u64| {
                let verdict = Trace::new(limits, 50, 24 + seed).run(86_400_000, 0.0, latency);
                assert_eq!(verdict, None, "seed {seed}");
            };
            // A mean difference of three fifths of the limit, of latencies that are distributed evenly; and of half of it,
            // distributed exponentially.
            day(|rng| rng.random_range(0..=36));
            day(|rng| (-10.0 * (1.0 - rng.random::<f64>()).ln()) as u64);
            // One in 100.
            day(|rng| if rng.random_ratio(1, 100) { 150 } else { 0 });
        }
    }

    #[test]
    fn a_path_at_its_latency_limit_one_time_in_thirty_is_left_alone() {
        let mut trace = Trace::new(SlaLimits { jitter: None, ..VOICE }, 50, 3);
        assert_eq!(trace.run(3_600_000, 0.0, |rng| if rng.random_ratio(1, 30) { 100 } else { 0 }), None);
    }

    /// What a judge has come to, and how closely it wants to look.
    type Shown = (&'static str, Doubt);

    /// What is done to a path, for so many milliseconds: packets are lost at once, or a share of all, and what probes take longer.
    type Weather = (u64, u32, f64, fn(&mut StdRng) -> u64);

    impl Trace {
        fn weather(&mut self, (ms, at_once, loss, more): Weather) -> Shown {
            // Apart, as far as anybody counts.
            self.there.lost += at_once;
            self.there.apart += at_once;
            let verdict = match self.run(ms, loss, more) {
                None => "",
                Some((_, Verdict::Kept(_))) => "kept",
                Some((_, Verdict::Broken(evidence))) => match evidence.of {
                    SlaLimit::Loss => "loss",
                    SlaLimit::Latency => "latency",
                    SlaLimit::Jitter => "jitter",
                    SlaLimit::Mos => "mos",
                },
            };
            (verdict, self.judge.doubt())
        }
    }

    /// Every state, everything that can happen in it, and what becomes of it.
    #[test]
    fn the_transition_table() {
        const GOOD: fn(&mut StdRng) -> u64 = |_| 0;
        const SLOW: fn(&mut StdRng) -> u64 = |_| 150;
        // Each from one that was good for ten seconds; and whether it is broken then.
        let states: [(&str, &[Weather], bool); 6] = [
            ("kept", &[], false),
            ("in doubt", &[(20, 1, 0.0, GOOD)], false),
            ("in much doubt", &[(20, 2, 0.0, GOOD)], false),
            ("broken", &[(5_000, 0, 0.0, SLOW)], true),
            ("broken, and good for a while", &[(5_000, 0, 0.0, SLOW), (20_000, 0, 0.0, GOOD)], true),
            ("kept again", &[(5_000, 0, 0.0, SLOW), (60_000, 0, 0.0, GOOD)], false),
        ];
        let nothing = ("", Doubt::None);
        let table: [(&str, Weather, [Shown; 6]); 9] = [
            ("a good second", (1_000, 0, 0.0, GOOD), [nothing; 6]),
            (
                "a good minute",
                (60_000, 0, 0.0, GOOD),
                [nothing, nothing, nothing, ("kept", Doubt::None), ("kept", Doubt::None), nothing],
            ),
            (
                "a loss",
                (20, 1, 0.0, GOOD),
                [
                    ("", Doubt::Some),
                    ("", Doubt::Much),
                    ("", Doubt::Much),
                    nothing,
                    nothing,
                    ("", Doubt::Some),
                ],
            ),
            (
                "twenty at once",
                (20, 20, 0.0, GOOD),
                [
                    ("loss", Doubt::None),
                    ("loss", Doubt::None),
                    ("loss", Doubt::None),
                    nothing,
                    nothing,
                    ("loss", Doubt::None),
                ],
            ),
            (
                "a tenth lost",
                (5_000, 0, 0.1, GOOD),
                [
                    ("loss", Doubt::None),
                    ("loss", Doubt::None),
                    ("loss", Doubt::None),
                    nothing,
                    nothing,
                    ("loss", Doubt::None),
                ],
            ),
            (
                "a slow answer",
                (20, 0, 0.0, SLOW),
                [nothing, ("", Doubt::Some), ("", Doubt::Much), nothing, nothing, nothing],
            ),
            (
                "a slow second",
                (1_000, 0, 0.0, SLOW),
                [
                    ("latency", Doubt::None),
                    ("latency", Doubt::None),
                    ("latency", Doubt::None),
                    nothing,
                    nothing,
                    ("latency", Doubt::None),
                ],
            ),
            (
                "latencies that differ",
                (5_000, 0, 0.0, |rng| rng.random_range(0..=79)),
                [
                    ("jitter", Doubt::None),
                    ("jitter", Doubt::None),
                    ("jitter", Doubt::None),
                    nothing,
                    nothing,
                    ("jitter", Doubt::None),
                ],
            ),
            ("below the limit, and not well below", (60_000, 0, 0.0, |_| 70), [nothing; 6]),
        ];
        for (state, weathers, is_broken) in states {
            let column = states.iter().position(|(name, ..)| *name == state).expect("one of them");
            for (event, weather, becomes) in &table {
                let mut trace = Trace::new(VOICE, 50, 1);
                assert_eq!(trace.run(10_000, 0.0, GOOD), None);
                for weather in weathers {
                    trace.weather(*weather);
                }
                assert_eq!(trace.judge.is_broken(), is_broken, "{state}");
                let shown = trace.weather(*weather);
                assert_eq!(shown, becomes[column], "{event}, {state}");
            }
        }
    }

    #[test]
    fn bad_is_told_fast_and_good_slowly_and_more_slowly_each_time() {
        // Kept: stays so while it is good, broken when it is not.
        let mut trace = Trace::new(VOICE, 50, 1);
        assert_eq!(trace.run(10_000, 0.0, |_| 0), None);
        let Some((_, Verdict::Broken(evidence))) = trace.run(10_000, 0.0, |_| 150) else {
            panic!("not found")
        };
        assert_eq!((evidence.of, evidence.limit), (SlaLimit::Latency, 100.0));
        assert!(trace.judge.is_broken());
        // Broken: stays so while it is bad, and below the limit but not well below it.
        assert_eq!(trace.run(60_000, 0.0, |_| 150), None);
        assert_eq!(trace.run(60_000, 0.0, |_| 70), None);
        // Kept again 30 s after it has become good: ten seconds of what was bad must have gone by.
        let Some((ms, Verdict::Kept(good))) = trace.run(60_000, 0.0, |_| 0) else { panic!("not pardoned") };
        assert!((39_000..=41_000).contains(&ms) && good >= HOLD, "{ms}");
        // And broken again soon: twice as long.
        assert_eq!(trace.run(30_000, 0.0, |_| 0), None);
        assert!(matches!(trace.run(10_000, 0.0, |_| 150), Some((_, Verdict::Broken(_)))));
        let Some((ms, Verdict::Kept(_))) = trace.run(100_000, 0.0, |_| 0) else { panic!("not pardoned") };
        // It was bad for too short a time to count for p95.
        assert!((60_000..=71_000).contains(&ms), "{ms}");
        // Much later it is as the first time.
        assert_eq!(trace.run(130_000, 0.0, |_| 0), None);
        assert!(matches!(trace.run(10_000, 0.0, |_| 150), Some((_, Verdict::Broken(_)))));
        let Some((ms, Verdict::Kept(_))) = trace.run(60_000, 0.0, |_| 0) else { panic!("not pardoned") };
        assert!((30_000..=41_000).contains(&ms), "{ms}");
    }

    #[test]
    fn a_score_that_is_too_low_breaks_an_sla_of_scores() {
        let limits = SlaLimits { mos: Some(4.0), ..SlaLimits::default() };
        let [_, _, most] = found(limits, 50, SlaLimit::Mos, 0.1, |_| 0);
        assert!(most <= 4_000, "{most}");
    }
}
