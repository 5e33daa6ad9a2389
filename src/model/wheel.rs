//! A timing wheel: thousands of deadlines at the price of the few that fall due.
//!
//! Deadlines are rounded up to a tick, and those beyond the horizon come up at it early; so whoever is told that an
//! item is due looks at its own deadline and, if that is still ahead, schedules it again. That is also how a deadline
//! is moved back: not at all, until it comes up.

use super::Instant;
use std::time::Duration;

/// With ticks of 100 ms a deadline of more than 51 s comes up early once a turn and is put off.
const SLOTS: usize = 512;
/// Of the bits that tell which slots hold anything.
const WORDS: usize = SLOTS / 64;
/// Items a slot keeps room for when it is empty.
const KEPT: usize = 64;

/// Items by deadline.
#[derive(Debug)]
pub struct Wheel<T> {
    tick_nanos: u64,
    slots: Vec<Vec<T>>,
    /// One bit a slot: whether it holds anything.
    occupied: [u64; WORDS],
    /// The tick up to which everything has been given out.
    done: u64,
}

impl<T> Wheel<T> {
    /// An empty wheel that begins at `now` and tells deadlines apart that are a `tick` apart.
    pub fn new(tick: Duration, now: Instant) -> Wheel<T> {
        let tick_nanos = u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX).max(1);
        let slots = std::iter::repeat_with(Vec::new).take(SLOTS).collect();
        Wheel { tick_nanos, slots, occupied: [0; WORDS], done: now.0 / tick_nanos }
    }

    /// Has `item` come up at `at`, or within a tick after it.
    pub fn schedule(&mut self, item: T, at: Instant) {
        let tick = self.tick_of(at);
        let slot = (tick % SLOTS as u64) as usize;
        self.slots[slot].push(item);
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// When an item that is scheduled now for `at` comes up.
    pub fn comes_up(&self, at: Instant) -> Instant {
        self.instant_of(self.tick_of(at))
    }

    /// [`Wheel::comes_up`] in ticks: smaller where there are many to keep.
    pub fn tick_of(&self, at: Instant) -> u64 {
        at.0.div_ceil(self.tick_nanos).clamp(self.done + 1, self.done + SLOTS as u64 - 1)
    }

    /// When `tick` is.
    pub fn instant_of(&self, tick: u64) -> Instant {
        Instant(tick.saturating_mul(self.tick_nanos))
    }

    /// Takes out what is due at `now`, into `due`.
    pub fn expire(&mut self, now: Instant, due: &mut Vec<T>) {
        let until = now.0 / self.tick_nanos;
        // A clock that jumped a whole turn empties every slot once.
        let first = (self.done + 1).max(until.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=until {
            let slot = (tick % SLOTS as u64) as usize;
            if self.occupied[slot / 64] & 1 << (slot % 64) != 0 {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
                due.append(&mut self.slots[slot]);
                // Or each slot would in time keep the room that the busiest of all ticks once needed.
                self.slots[slot].shrink_to(KEPT);
            }
        }
        self.done = self.done.max(until);
    }

    /// When the next item comes up.
    pub fn next(&self) -> Option<Instant> {
        let first = self.done + 1;
        let (word, bit) = ((first % SLOTS as u64) as usize / 64, first % 64);
        // From `first`'s word on and round to it again, whose lower bits are a turn away.
        (0..=WORDS).find_map(|step| {
            let mut bits = self.occupied[(word + step) % WORDS];
            if step == 0 {
                bits &= u64::MAX << bit;
            }
            let ahead = step as u64 * 64 + u64::from(bits.trailing_zeros());
            (bits != 0).then(|| self.instant_of(first - bit + ahead))
        })
    }

    /// [`Wheel::next`]'s twin.
    #[cfg(test)]
    fn next_by_scan(&self) -> Option<Instant> {
        (self.done + 1..self.done + SLOTS as u64)
            .find(|tick| !self.slots[(tick % SLOTS as u64) as usize].is_empty())
            .map(|tick| self.instant_of(tick))
    }

    /// How many items wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_comes_up_once_never_early_within_the_horizon_and_at_most_a_tick_late(
            deadlines in proptest::collection::vec(0u64..120_000, 1..100),
            step in 1u64..5_000,
        ) {
            let mut wheel = Wheel::new(Duration::from_millis(100), Instant(0));
            for ms in &deadlines {
                wheel.schedule(*ms, Instant(ms * 1_000_000));
            }
            let mut seen = Vec::new();
            let mut now = 0;
            while seen.len() < deadlines.len() {
                now += step;
                prop_assert!(now < 200_000);
                let mut due = Vec::new();
                wheel.expire(Instant(now * 1_000_000), &mut due);
                prop_assert_eq!(wheel.next(), wheel.next_by_scan());
                for ms in due {
                    if ms > now {
                        wheel.schedule(ms, Instant(ms * 1_000_000));
                    } else {
                        prop_assert!(now - ms < 100 + step);
                        seen.push(ms);
                    }
                }
            }
            let mut expected = deadlines;
            expected.sort_unstable();
            seen.sort_unstable();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(wheel.next(), None);
        }
    }
}
