//! Turns: who goes over when. Where another path is better than one that still carries what is sent by it, sessions go over an
//! eighth at a time, every 200 ms: each part shows in the target's queue before the next one comes, and senders that find
//! more room there do not all ask for it at once. Off a path that is dead everybody goes at once, and takes no turn here.

use crate::model::{Instant, PathId};
use std::collections::BTreeMap;
use std::time::Duration;

/// An eighth goes at a time.
const PARTS: u8 = 8;
/// Between two of them: a few round trips, in which senders find the target's rate.
const STEP: Duration = Duration::from_millis(200);
/// These go at once whichever part they are of: so few are no burden, and a call that is alone does not wait for the crowd.
const FIRST: u8 = 8;
/// So long a full target is waited for. What is left may break an SLA, and that is to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Moves that are kept before those that are over are looked for.
const FEW: usize = 64;

/// The moves of one worker's sessions that are under way.
#[derive(Default)]
pub struct Turns {
    under_way: BTreeMap<(PathId, PathId), Turn>,
    /// How many make it worth looking for some that are over.
    many: usize,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Turn {
    began: Instant,
    /// How many went whichever part they are of.
    first: u8,
    /// How many parts may go.
    parts: u8,
    /// When the next part may.
    next: Instant,
}

impl Turns {
    /// Whether `session` may go over, by a move of such sessions, from a path to another, that began then. `is_full`: the
    /// target has more to send already than it can.
    pub fn is_due(
        &mut self,
        (from, to): (PathId, PathId),
        began: Instant,
        session: u64,
        is_full: impl FnOnce() -> bool,
        now: Instant,
    ) -> bool {
        if is_over(began, now) {
            return true;
        }
        if self.under_way.len() >= self.many.max(FEW) {
            self.under_way.retain(|_, turn| !is_over(turn.began, now));
            self.many = self.under_way.len() * 2;
        }
        let new = Turn { began, first: 0, parts: 0, next: began };
        let turn = self.under_way.entry((from, to)).or_insert(new);
        if turn.began != began {
            *turn = new;
        }
        turn.advance(is_full, now);
        if part_of(session) < turn.parts {
            return true;
        }
        let is_first = turn.first < FIRST;
        turn.first += u8::from(is_first);
        is_first
    }
}

/// Whether the last part of a move has had its turn by now, whatever happened.
fn is_over(began: Instant, now: Instant) -> bool {
    now.since(began) >= PATIENCE + STEP * u32::from(PARTS)
}

/// Sessions' numbers follow each other: the golden ratio's multiples spread them evenly (Knuth, TAOCP 6.4).
fn part_of(session: u64) -> u8 {
    (session.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8 % PARTS
}

impl Turn {
    fn advance(&mut self, is_full: impl FnOnce() -> bool, now: Instant) {
        if self.parts >= PARTS || now < self.next {
            return;
        }
        if now.since(self.began) < PATIENCE && is_full() {
            self.next = now + STEP;
            return;
        }
        while self.parts < PARTS && self.next <= now {
            self.parts += 1;
            self.next += STEP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PathId = PathId(1);
    const B: PathId = PathId(2);
    const BEGAN: Instant = Instant(10_000_000_000);

    fn at(ms: u64) -> Instant {
        BEGAN + Duration::from_millis(ms)
    }

    /// How many of 8,000 sessions may have gone by then.
    fn gone(turns: &mut Turns, is_full: bool, ms: u64) -> usize {
        (0..8_000).filter(|id| turns.is_due((A, B), BEGAN, id << 10, || is_full, at(ms))).count()
    }

    #[test]
    fn an_eighth_goes_every_fifth_of_a_second() {
        let mut turns = Turns::default();
        for (step, ms) in [(1, 0), (1, 199), (2, 200), (4, 650), (8, 1_400), (8, 20_000)] {
            let gone = gone(&mut turns, false, ms);
            assert!(gone.abs_diff(step * 1_000) <= 40, "{ms} ms: {gone}");
        }
    }

    #[test]
    fn a_few_go_at_once_and_a_new_move_has_a_few_of_its_own() {
        let late: Vec<u64> = (0..1_000).filter(|id| part_of(*id) == PARTS - 1).take(12).collect();
        let mut turns = Turns::default();
        let due = |turns: &mut Turns, began| {
            late.iter().filter(|id| turns.is_due((A, B), began, **id, || true, at(1))).count()
        };
        assert_eq!(due(&mut turns, BEGAN), usize::from(FIRST));
        assert_eq!(due(&mut turns, BEGAN), 0);
        assert_eq!(due(&mut turns, at(1)), usize::from(FIRST));
    }

    #[test]
    fn a_full_target_is_waited_for_but_not_for_ever() {
        let mut turns = Turns::default();
        assert!(gone(&mut turns, false, 250) > 1_900);
        for ms in (300..3_000).step_by(10) {
            let gone = gone(&mut turns, true, ms);
            assert!(gone.abs_diff(2_000) <= 60, "{ms} ms: {gone}");
        }
        // It has room again: the next part goes a step after it was last seen full, and no two at once.
        assert!(gone(&mut turns, false, 3_100).abs_diff(3_000) <= 60);
        assert!(gone(&mut turns, false, 3_199).abs_diff(3_000) <= 60);
        assert!(gone(&mut turns, false, 3_200).abs_diff(4_000) <= 60);
        assert!(gone(&mut turns, true, 3_399).abs_diff(4_000) <= 60);
        assert!(gone(&mut turns, true, 4_990).abs_diff(4_000) <= 60);
        assert!(gone(&mut turns, true, 5_200).abs_diff(5_000) <= 60);
        assert_eq!(gone(&mut turns, true, 6_600), 8_000);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut turns = Turns::default();
        for n in 0..100_000 {
            turns.is_due((PathId(n), B), at(u64::from(n)), 7, || false, at(u64::from(n)));
        }
        assert!(turns.under_way.len() <= 20_000, "{}", turns.under_way.len());
    }
}
