//! Whether a thread that has nothing to do looks again at once, or sleeps.
//!
//! Waking a thread on an idle core takes the kernel some 27 microseconds, as long as twenty packets. So a thread whose
//! packets come within that time of each other had better not sleep in between: it polls, looking again and again for up to
//! [`WINDOW`]. A thread whose packets come later would burn its core for nothing, and where its packets come from a
//! neighbour on the same core (an endpoint on the same small machine) it would keep them from coming at all. Nobody can
//! tell it which is the case; what it knows is how its last polls went:
//!
//! - one that found something was worth it, and the next is more likely;
//! - one in vain costs the next ones: after `n` in a row, `2^n - 1` waits are slept through at once, at most
//!   [`MOST_SKIPPED`];
//! - one during which the core was given to somebody else says that the core is shared: as bad as many in vain;
//! - a sleep that ended within the window would have been a poll that found something: the next poll comes sooner, unless
//!   the core is shared.
//!
//! What is found at the first look was waiting already and says nothing. An idle thread wakes for its timers alone, and
//! those wake it a thousand times a second at the most: ten polls in vain, and from then on one in a thousand waits, which is
//! less than a thousandth of a core.

use crate::model::Instant;
use std::time::Duration;

/// How long a poll lasts at most: twice what it takes to be woken.
const WINDOW: Duration = Duration::from_micros(50);
/// A look takes a microsecond or two; after so long, somebody else had the core in between.
const ELBOWED: Duration = Duration::from_micros(20);
/// A poll is tried again after this many waits, however many were in vain: traffic changes.
const MOST_SKIPPED: u32 = 1023;

/// How a thread's polls went.
#[derive(Clone, Debug, Default)]
pub(super) struct Polling {
    /// Waits slept through after a poll in vain.
    penalty: u32,
    /// Of those, how many are still to come.
    to_skip: u32,
    /// The last poll found the core to be shared.
    crowded: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Working,
    Polling {
        until: Instant,
        last_look: Instant,
    },
    Sleeping {
        since: Instant,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Poll,
    Sleep,
}

impl Polling {
    /// A first look found nothing.
    pub(super) fn rest(&mut self, now: Instant) -> Rest {
        if self.to_skip > 0 {
            self.to_skip -= 1;
            self.state = State::Sleeping { since: now };
            return Rest::Sleep;
        }
        self.state = State::Polling { until: now + WINDOW, last_look: now };
        Rest::Poll
    }

    /// Another look found nothing.
    pub(super) fn found_nothing(&mut self, now: Instant) -> Rest {
        let State::Polling { until, last_look } = self.state else { return Rest::Sleep };
        self.crowded = now.since(last_look) > ELBOWED;
        if !self.crowded && now < until {
            self.state = State::Polling { until, last_look: now };
            return Rest::Poll;
        }
        self.back_off();
        self.state = State::Sleeping { since: now };
        Rest::Sleep
    }

    /// There is something to do: another look found it, or the thread was woken.
    pub(super) fn found(&mut self, now: Instant) {
        match std::mem::take(&mut self.state) {
            State::Working => {}
            State::Polling { last_look, .. } => {
                // Found after somebody else's turn, it is that one's: a sleep would have done as well.
                self.crowded = now.since(last_look) > ELBOWED;
                if self.crowded {
                    self.back_off();
                } else {
                    self.penalty /= 2;
                }
            }
            State::Sleeping { since } if !self.crowded && now.since(since) <= WINDOW => self.to_skip /= 2,
            State::Sleeping { .. } => {}
        }
    }

    fn back_off(&mut self) {
        let more = if self.crowded { MOST_SKIPPED } else { 2 * self.penalty + 1 };
        self.penalty = more.min(MOST_SKIPPED);
        self.to_skip = self.penalty;
    }

    /// A timeout or an order ended the wait: that says nothing about packets.
    pub(super) fn interrupted(&mut self) {
        self.state = State::Working;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_micros(2);

    /// A thread that is brought packets, and how it spends its time.
    #[derive(Default)]
    struct Thread {
        polling: Polling,
        now: Instant,
        polled: Duration,
        polls: u32,
        found_by_polling: u32,
    }

    impl Thread {
        /// Waits for something that comes after `pause`.
        fn wait(&mut self, pause: Duration) {
            self.wait_beside(pause, LOOK);
        }

        /// The same, while a look takes as long as `look`, since somebody else is on the core.
        fn wait_beside(&mut self, pause: Duration, look: Duration) {
            let (begin, comes) = (self.now, self.now + pause);
            let mut rest = self.polling.rest(self.now);
            self.polls += u32::from(rest == Rest::Poll);
            while rest == Rest::Poll {
                self.now += look;
                if self.now >= comes {
                    self.found_by_polling += 1;
                    break;
                }
                rest = self.polling.found_nothing(self.now);
            }
            self.polled += self.now.since(begin);
            self.now = self.now.max(comes);
            self.polling.found(self.now);
        }
    }

    #[test]
    fn packets_that_come_soon_are_all_found_by_polling() {
        let mut thread = Thread::default();
        (0..1000).for_each(|_| thread.wait(Duration::from_micros(30)));
        assert_eq!(thread.found_by_polling, 1000);
    }

    #[test]
    fn an_idle_thread_polls_for_less_than_a_thousandth_of_its_time() {
        // Nothing but timers, as often as they can be.
        let mut thread = Thread::default();
        (0..1000).for_each(|_| thread.wait(Duration::from_millis(1)));
        let first = thread.polled;
        assert!(first <= (WINDOW + LOOK) * 11, "polled {first:?} in the first second");
        (0..60_000).for_each(|_| thread.wait(Duration::from_millis(1)));
        let minute = thread.polled - first;
        assert!(minute <= Duration::from_millis(60), "polled {minute:?} in a minute");
    }

    #[test]
    fn polls_in_vain_become_rarer_exponentially() {
        let mut thread = Thread::default();
        let mut polls_after = Vec::new();
        for waits in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
            (0..waits).for_each(|_| thread.wait(Duration::from_micros(200)));
            polls_after.push(thread.polls);
        }
        assert_eq!(polls_after, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn traffic_that_speeds_up_is_polled_for_again_soon() {
        let mut thread = Thread::default();
        (0..10_000).for_each(|_| thread.wait(Duration::from_millis(1)));
        let (polls, begin) = (thread.found_by_polling, thread.now);
        while thread.found_by_polling < polls + 1000 {
            thread.wait(Duration::from_micros(30));
            let time = thread.now.since(begin);
            assert!(time < Duration::from_millis(40), "{time:?} and only {polls} found by polling");
        }
    }

    #[test]
    fn of_packets_half_of_which_come_soon_vain_polls_do_not_outnumber_the_others_by_much() {
        let mut thread = Thread::default();
        for i in 0..10_000 {
            thread.wait(Duration::from_micros(if i % 2 == 0 { 20 } else { 300 }));
        }
        let vain = thread.polls - thread.found_by_polling;
        assert!(vain <= 2 * thread.found_by_polling + 11, "{vain} in vain, {}", thread.found_by_polling);
    }

    #[test]
    fn on_a_shared_core_polls_are_rare_even_if_they_find_something() {
        let mut thread = Thread::default();
        for _ in 0..10_240 {
            thread.wait_beside(Duration::from_micros(40), Duration::from_micros(100));
        }
        assert_eq!(thread.polls, 10);
    }

    #[test]
    fn a_timeout_or_an_order_says_nothing() {
        let mut polling = Polling::default();
        assert_eq!(polling.rest(Instant(0)), Rest::Poll);
        polling.interrupted();
        polling.found(Instant(10_000_000));
        assert_eq!((polling.penalty, polling.to_skip), (0, 0));
    }
}
