//! Who may send when: a line's time, taken in advance.
//!
//! A rate is kept by a clock that runs ahead (the virtual scheduling form of GCRA, ITU-T I.371 annex A): it shows when what was
//! let go so far will have left, and whoever sends takes the time that it needs from there on. Of a transport there is one
//! clock for all workers, an atomic word. Shares of it would have to follow who has something to send, and would be too
//! small or too large until they do; taken from one clock, time goes to whoever asks, and everybody's turn comes, since what
//! is taken is kept: who wakes late still has its turn.

use crate::model::{Instant, Rate};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a line that was idle lets go at once: with more, a call that begins with others' burst waits behind it.
pub(super) const IDLE_BURST: Duration = Duration::from_millis(1);
/// What may be made up for after a turn that was missed, since the thread was woken late. Less, and a busy box does not reach its
/// rate; more, and the line has as much of a queue again.
pub(super) const LATE_BURST: Duration = Duration::from_millis(5);
/// What priority may take at once of its own share: a call's packets of 20 ms come together.
const FIRST_BURST: Duration = Duration::from_millis(20);
/// Percent of a rate that goes before everything else: what is more takes its turn with the others, so that a class that is
/// too large, or is not what it says, leaves a quarter to them.
const FIRST_SHARE: u64 = 75;

/// When what was let go will have left, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// Whether something may go now.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.0.load(Ordering::Relaxed) <= now.0
    }

    /// When something may go.
    pub(super) fn next(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed))
    }

    /// Takes `time`; when that begins. It may begin up to `burst` before `now`, if nobody has taken that.
    pub(super) fn take(&self, time: Duration, burst: Duration, now: Instant) -> Instant {
        let earliest = now.0.saturating_sub(burst.as_nanos() as u64);
        let after = |at: u64| at.max(earliest).saturating_add(time.as_nanos() as u64);
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(after(at)));
        Instant(before.unwrap_or_else(|at| at).max(earliest))
    }

    /// [`Clock::take`], if it begins by now.
    pub(super) fn take_now(&self, time: Duration, burst: Duration, now: Instant) -> bool {
        let earliest = now.0.saturating_sub(burst.as_nanos() as u64);
        let after = |at: u64| (at <= now.0).then(|| at.max(earliest).saturating_add(time.as_nanos() as u64));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).is_ok()
    }

    /// Gives back what was taken and not used.
    pub(super) fn give_back(&self, time: Duration) {
        // Somebody may have taken time behind it; that begins the sooner then, and the rate is still kept.
        let before = |at: u64| Some(at.saturating_sub(time.as_nanos() as u64));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, before);
    }
}

/// The clocks of one rate: of everything, and of what goes first.
#[derive(Debug, Default)]
pub struct Budget {
    pub(super) all: Clock,
    first: Clock,
}

impl Budget {
    /// Whether priority is within its share.
    pub(super) fn is_open_first(&self, now: Instant) -> bool {
        self.first.is_free(now)
    }

    /// A packet of priority goes, whoever waits.
    pub(super) fn take_first(&self, rate: Rate, bytes: usize, now: Instant) {
        self.first.take(rate.share(FIRST_SHARE).time_of(bytes), FIRST_BURST, now);
        self.all.take(rate.time_of(bytes), IDLE_BURST, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 8_000_000;

    fn ms(ms: u64) -> Instant {
        Instant(1_000_000_000 + ms * 1_000_000)
    }

    fn rate() -> Rate {
        Rate::bits_per_second(RATE).expect("not zero")
    }

    #[test]
    fn turns_follow_each_other_and_who_comes_late_still_has_its_own() {
        let clock = Clock::default();
        let each = rate().time_of(1_000);
        assert_eq!(each, Duration::from_millis(1));
        let turns: Vec<Instant> = (0..4).map(|_| clock.take(each, IDLE_BURST, ms(0))).collect();
        assert_eq!(
            turns,
            [Instant(ms(0).0 - 1_000_000), ms(0), ms(1), ms(2)],
            "a burst of 1 ms, then in turn"
        );
        assert!(!clock.is_free(ms(2)) && clock.is_free(ms(3)));
        assert!(!clock.take_now(each, IDLE_BURST, ms(2)));
        assert!(clock.take_now(each, IDLE_BURST, ms(3)));
        clock.give_back(each);
        assert_eq!(clock.next(), ms(3));
    }

    #[test]
    fn what_was_not_used_is_gone_but_for_a_burst() {
        let clock = Clock::default();
        clock.take(Duration::from_millis(1), IDLE_BURST, ms(0));
        assert_eq!(clock.take(Duration::from_millis(1), LATE_BURST, ms(100)), ms(95));
    }

    #[test]
    fn priority_goes_whoever_waits_and_pays_from_a_share_of_its_own() {
        let budget = Budget::default();
        budget.all.take(Duration::from_millis(50), IDLE_BURST, ms(0));
        // 20 ms at once at three quarters of the rate, and one more.
        let mut went = 0;
        while budget.is_open_first(ms(0)) {
            budget.take_first(rate(), 1_000, ms(0));
            went += 1;
        }
        assert_eq!(went, 16);
        assert_eq!(budget.all.next(), ms(49 + 16), "the others wait for that much longer");
        // From then on 750 of each 1,000.
        let mut later = 0;
        for at in 0..4_000 {
            if budget.is_open_first(ms(at)) {
                budget.take_first(rate(), 1_000, ms(at));
                later += 1;
            }
        }
        assert!((2_999..=3_001).contains(&later), "{later}");
    }
}
