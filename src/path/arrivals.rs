//! What arrived of what the far end sent: the live traffic is the probe.
//!
//! WireGuard numbers the data messages of a session one by one and authenticates the number (whitepaper section 5.4.6): what
//! is missing between them was lost on the way here, of real packets as of probes, and also from a stock client. Where a path has
//! streams for several DSCPs, [`super::Tally`] counts each.

use crate::model::Instant;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// A message is lost when so many later ones have arrived: until then it may only have been overtaken. More than TCP's 3
/// (RFC 5681 section 3.2), for a network card's queues reorder a burst.
const OVERTAKEN_BY: u64 = 8;
/// It is lost, too, when one has overtaken it so long ago (as in RACK, RFC 8985): a call's eight packets would take longer.
const OVERTAKEN_FOR: Duration = Duration::from_millis(20);
/// Of a run of lost messages the first counts as apart, and then every fourth.
const RUN: u32 = 4;
/// A rekeyed session's last messages may come after the next one's first.
const SESSIONS: usize = 2;
/// Loss is shown of the last ten seconds, in steps of one.
const STEP: Duration = Duration::from_secs(1);
const STEPS: usize = 10;

/// Messages since the path began, wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub received: u32,
    pub lost: u32,
    /// Of those lost, the ones that count as lost apart from each other: of a run of them the first, and then every fourth.
    /// What is lost in one go says less of a path than as much that is lost here and there.
    pub apart: u32,
    /// Of those received, the ones that came after a later one.
    pub reordered: u32,
}

/// Counts what arrives on one path.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    counts: Counts,
    /// The newest first.
    sessions: [Sequence; SESSIONS],
    steps: VecDeque<(Instant, Counts)>,
}

/// One session's numbers.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    session: u32,
    /// One more than the highest number seen.
    next: u64,
    /// One bit a message that has arrived, the highest lowest; those before the first count as arrived.
    seen: u64,
    /// Lower numbers have been counted, as received or as lost.
    decided: u64,
    /// How many before that are lost without one between.
    run: u32,
    /// What `next` was, the newer last; not more often than [`OVERTAKEN_FOR`] twice.
    marks: [(Instant, u64); 2],
}

impl Default for Sequence {
    fn default() -> Sequence {
        Sequence { session: 0, next: 0, seen: u64::MAX, decided: 0, run: 0, marks: [(Instant(0), 0); 2] }
    }
}

impl Counts {
    /// What has come since `earlier`.
    pub fn since(self, earlier: Counts) -> Counts {
        Counts {
            received: self.received.wrapping_sub(earlier.received),
            lost: self.lost.wrapping_sub(earlier.lost),
            apart: self.apart.wrapping_sub(earlier.apart),
            reordered: self.reordered.wrapping_sub(earlier.reordered),
        }
    }

    /// Whether it is less than nothing, for the far end has begun to count anew.
    pub fn is_anew(self) -> bool {
        [self.received, self.lost, self.apart].iter().any(|count| *count > u32::MAX / 2)
    }

    /// So many more are lost, after `run` that were without one between.
    pub(super) fn lose(&mut self, messages: u32, run: &mut u32) {
        let apart = |run: u32| run / RUN + u32::from(run > 0);
        let longer = run.saturating_add(messages);
        self.lost = self.lost.wrapping_add(messages);
        self.apart = self.apart.wrapping_add(apart(longer) - apart(*run));
        *run = longer;
    }

    /// Share that was lost, 0 to 1; `None` of nothing.
    pub fn loss(self) -> Option<f64> {
        if self.is_anew() {
            return None;
        }
        let sent = f64::from(self.received) + f64::from(self.lost);
        (sent > 0.0).then(|| f64::from(self.lost) / sent)
    }
}

impl Arrivals {
    /// A data message arrived and was authentic: number `number` of the session that `session` stands for.
    pub fn arrived(&mut self, session: u32, number: u64, now: Instant) {
        if self.steps.back().is_none_or(|(at, _)| now.since(*at) >= STEP) {
            if self.steps.len() > STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back((now, self.counts));
        }
        let Self { counts, sessions, .. } = self;
        let sequence = match sessions.iter_mut().position(|sequence| sequence.session == session) {
            Some(at) => &mut sessions[at],
            None => {
                sessions.rotate_right(1);
                sessions[0] = Sequence { session, ..Sequence::default() };
                &mut sessions[0]
            }
        };
        sequence.arrived(number, counts, now);
    }

    /// Since the path began.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Of the last ten seconds.
    pub fn lately(&self, now: Instant) -> Counts {
        let begin = self.steps.iter().find(|(at, _)| now.since(*at) <= STEP * STEPS as u32);
        begin.map_or(Counts::default(), |(_, then)| self.counts.since(*then))
    }
}

impl Sequence {
    fn arrived(&mut self, number: u64, counts: &mut Counts, now: Instant) {
        counts.received = counts.received.wrapping_add(1);
        self.decide(number, counts, now);
        if number < self.next {
            counts.reordered = counts.reordered.wrapping_add(1);
            // One that has been given up stays lost: who reads the counts has been told.
            if let Some(bit) = 1_u64.checked_shl((self.next - 1 - number).min(64) as u32) {
                self.seen |= bit;
            }
            return;
        }
        let step = number - self.next + 1;
        self.seen = self.seen.checked_shl(step.min(64) as u32).unwrap_or(0) | 1;
        self.next = number + 1;
        if now.since(self.marks[1].0) >= OVERTAKEN_FOR / 2 {
            self.marks = [self.marks[1], (now, self.next)];
        }
    }

    /// Counts what will not come any more, now that `number` has.
    fn decide(&mut self, number: u64, counts: &mut Counts, now: Instant) {
        let overtaken_for = |&(at, next): &(Instant, u64)| (now.since(at) >= OVERTAKEN_FOR).then_some(next);
        let overtaken_for = self.marks.iter().rev().find_map(overtaken_for).unwrap_or(0);
        let until = (number + 1).saturating_sub(OVERTAKEN_BY).max(overtaken_for);
        while self.decided < until.min(self.next) {
            let has_come = self.seen >> (self.next - 1 - self.decided).min(63) & 1 == 1;
            if has_come {
                self.run = 0;
            } else {
                counts.lose(1, &mut self.run);
            }
            self.decided += 1;
        }
        if self.decided < until {
            counts.lose((until - self.decided).min(u32::MAX.into()) as u32, &mut self.run);
            self.decided = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    fn count(numbers: impl IntoIterator<Item = u64>) -> Counts {
        let mut arrivals = Arrivals::default();
        numbers.into_iter().for_each(|number| arrivals.arrived(1, number, Instant(0)));
        arrivals.counts()
    }

    #[test]
    fn what_is_missing_is_lost_once_eight_later_ones_are_there() {
        assert_eq!(count(0..100), Counts { received: 100, ..Counts::default() });
        let hole = |until| count((0..until).filter(|n| !(40..43).contains(n)));
        assert_eq!(hole(50).lost, 2);
        assert_eq!(hole(51), Counts { received: 48, lost: 3, apart: 1, reordered: 0 });
        assert_eq!(count([5, 6, 7, 8, 9, 10, 11, 12]).lost, 5, "the first were lost too");
        assert_eq!(count([0, 1_000]).lost, 999 - OVERTAKEN_BY as u32 + 1);
    }

    #[test]
    fn what_was_overtaken_is_not_lost() {
        let swapped = count([0, 2, 1, 3, 5, 6, 7, 4].into_iter().chain(8..40));
        assert_eq!(swapped, Counts { received: 40, reordered: 2, ..Counts::default() });
    }

    #[test]
    fn what_was_overtaken_20_ms_ago_is_lost_however_few_came_since() {
        let ms = |ms: u64| Instant(ms * 1_000_000);
        let mut arrivals = Arrivals::default();
        for (at, number) in [(100, 0), (120, 1), (140, 3), (155, 4)] {
            arrivals.arrived(1, number, ms(at));
        }
        assert_eq!(arrivals.counts().lost, 0, "overtaken a moment ago");
        arrivals.arrived(1, 5, ms(160));
        assert_eq!(arrivals.counts(), Counts { received: 5, lost: 1, apart: 1, reordered: 0 });
        arrivals.arrived(1, 2, ms(161));
        arrivals.arrived(1, 6, ms(300));
        assert_eq!(arrivals.counts().lost, 1, "given up");
        // The one before has just overtaken it.
        arrivals.arrived(1, 8, ms(400));
        arrivals.arrived(1, 7, ms(401));
        arrivals.arrived(1, 9, ms(500));
        assert_eq!(arrivals.counts().lost, 1);
    }

    #[test]
    fn of_a_run_the_first_is_lost_apart_and_then_every_fourth() {
        for (run, apart) in [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3), (100, 26), (1_000, 251)]
        {
            let counts = count((0..20).chain(20 + run..50 + run));
            assert_eq!((counts.lost, counts.apart), (run as u32, apart));
        }
        assert_eq!(count((0..90).filter(|n| n % 10 != 3)).apart, 8);
    }

    #[test]
    fn a_new_session_begins_at_nought_and_the_old_ones_stragglers_are_still_known() {
        let mut arrivals = Arrivals::default();
        (0..30).filter(|n| *n != 29).for_each(|n| arrivals.arrived(1, n, Instant(0)));
        (0..5).for_each(|n| arrivals.arrived(2, n, Instant(0)));
        arrivals.arrived(1, 29, Instant(0));
        (5..30).for_each(|n| arrivals.arrived(2, n, Instant(0)));
        assert_eq!(arrivals.counts(), Counts { received: 60, ..Counts::default() });
    }

    #[test]
    fn loss_is_counted_exactly_whatever_is_lost_and_shuffled_a_little() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut numbers: Vec<u64> = (0..5_000).filter(|_| rng.random_bool(0.93)).collect();
            let lost = 5_000 - numbers.len() as u32;
            // Within four neighbours nobody is overtaken by eight.
            numbers.chunks_mut(4).for_each(|few| few.shuffle(&mut rng));
            // The end is decided by what comes after it.
            let counts = count(numbers.iter().copied().chain(5_000..5_010));
            assert_eq!((counts.received, counts.lost), (numbers.len() as u32 + 10, lost), "seed {seed}");
        }
    }

    #[test]
    fn a_far_end_that_counts_anew_has_lost_nothing() {
        let (before, after) = (
            Counts { received: 500, lost: 5, apart: 4, reordered: 0 },
            Counts { received: 3, ..Counts::default() },
        );
        assert!(after.since(before).is_anew() && !before.since(after).is_anew());
        assert_eq!(after.since(before).loss(), None);
    }

    #[test]
    fn loss_is_of_the_last_ten_seconds() {
        let mut arrivals = Arrivals::default();
        let at = |secs: u64| Instant(secs * 1_000_000_000);
        for n in (0..100).filter(|n| *n < 20 || *n >= 30) {
            arrivals.arrived(1, n, at(n / 10));
        }
        assert_eq!(arrivals.lately(at(10)).loss(), Some(0.1));
        for n in 100..200 {
            arrivals.arrived(1, n, at(n / 10));
        }
        assert_eq!(arrivals.lately(at(20)).loss(), Some(0.0));
        assert_eq!(arrivals.lately(at(60)).loss(), None);
    }
}
