//! The budget for probes: what all paths of a box may cost together, however many there are and however busy.
//!
//! An exchange is a probe that is sent, or one that is answered; those of full size, one in ten seconds, do not count. Where there are more in a second than the box allows itself,
//! all intervals are stretched until there are not: those of idle paths first, up to four times, then those of paths with
//! traffic. Far ends stretch theirs as well, for they are told with every answer; and since probes promise when the next one
//! comes, nobody takes that for silence.

use crate::model::Instant;
use std::time::Duration;

/// Exchanges in a second, of all workers: 3 % of a core, by `make bench`, and room for what sockets cost. It is 600 calls over
/// paths of their own beside 5,000 idle ones, or 5,000 paths with a call on each, asked every 400 ms.
pub const EXCHANGES: u32 = 25_000;
/// How often it is looked whether there are too many: an idle path's longest interval, for within it they may come all at once.
const LOOK: Duration = Duration::from_secs(4);
/// Steps that double an interval.
const OCTAVE: u8 = 16;
/// Idle paths' intervals are stretched by two octaves, then the others' are, by six more: from 50 ms to 3 s.
const OF_IDLE: u8 = 2 * OCTAVE;
const MOST: u8 = OF_IDLE + 6 * OCTAVE;
/// By how much at once: up quickly, for it is to protect the box; down by little, for who was told last has not yet answered.
const UP: f64 = 64.0;
const DOWN: f64 = -8.0;

/// How much longer than they should be intervals are, in steps of a sixteenth of an octave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch(u8);

impl Stretch {
    /// As it is on the wire.
    pub fn from_steps(steps: u8) -> Stretch {
        Stretch(steps.min(MOST))
    }

    /// For the wire.
    pub fn steps(self) -> u8 {
        self.0
    }

    /// An idle path's interval.
    pub fn of_idle(self, interval: Duration) -> Duration {
        stretched(interval, self.0.min(OF_IDLE))
    }

    /// That of a path with traffic.
    pub fn of_active(self, interval: Duration) -> Duration {
        stretched(interval, self.0.saturating_sub(OF_IDLE))
    }
}

fn stretched(interval: Duration, steps: u8) -> Duration {
    // As a rule nothing is.
    if steps == 0 { interval } else { interval.mul_f64((f64::from(steps) / f64::from(OCTAVE)).exp2()) }
}

/// Keeps one worker within its share of the budget.
#[derive(Clone, Debug)]
pub struct Pace {
    /// In a second.
    allowed: u32,
    exchanges: u32,
    since: Instant,
    stretch: Stretch,
}

impl Pace {
    /// So many exchanges are allowed in a second.
    pub fn new(allowed: u32, now: Instant) -> Pace {
        Pace { allowed: allowed.max(1), exchanges: 0, since: now, stretch: Stretch::default() }
    }

    /// One more.
    pub fn count(&mut self, now: Instant) {
        self.exchanges += 1;
        let lasted = now.since(self.since);
        // Or sooner, if what is allowed for all of that time is used up: many paths at once may be in doubt.
        if lasted >= LOOK || self.exchanges > self.allowed.saturating_mul(LOOK.as_secs() as u32) {
            self.look(lasted);
            (self.exchanges, self.since) = (0, now);
        }
    }

    /// By how much intervals are stretched at present.
    pub fn stretch(&self) -> Stretch {
        self.stretch
    }

    fn look(&mut self, lasted: Duration) {
        let lasted = lasted.as_secs_f64().max(1e-3);
        let load = f64::from(self.exchanges) / lasted / f64::from(self.allowed);
        let steps = (load.log2() * f64::from(OCTAVE)).clamp(DOWN, UP).round();
        self.stretch = Stretch((f64::from(self.stretch.0) + steps).clamp(0.0, MOST.into()) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::clock::Stamps;
    use crate::path::{Action, Counts, Prober, Reply};

    /// Probers at both ends of so many paths, of which every so many has a call; the box with the pace is at one end of all.
    struct Paths {
        ends: Vec<[Prober; 2]>,
        calls_every: usize,
        pace: Pace,
        now: Instant,
    }

    impl Paths {
        fn new(paths: usize, calls_every: usize, allowed: u32) -> Paths {
            let now = Instant(0);
            // Not all at once, as sites do not call all at once.
            let begins = |n: usize| now + Duration::from_millis(n as u64 * 1_000 / paths as u64);
            let ends = (0..paths).map(|n| [(); 2].map(|()| Prober::new(begins(n)))).collect();
            Paths { ends, calls_every, pace: Pace::new(allowed, now), now }
        }

        /// How many exchanges there are in so many seconds. Answers take no time.
        fn run(&mut self, seconds: u64) -> u64 {
            let mut exchanges = 0;
            for step in 0..seconds * 200 {
                self.now += Duration::from_millis(5);
                let now = self.now;
                for (n, ends) in self.ends.iter_mut().enumerate() {
                    let calls = n % self.calls_every == 0 && step % 4 == n as u64 % 4;
                    for at in [0, 1] {
                        if calls {
                            ends[at].traffic(false, now);
                        }
                        if at == 0 {
                            ends[0].pace(self.pace.stretch());
                        }
                        while let Some(action) = ends[at].poll(now) {
                            let (Action::Send { sequence, asks } | Action::SendFullSize { sequence, asks }) =
                                action
                            else {
                                assert!(
                                    !matches!(action, Action::Suspected | Action::WentDown { .. }),
                                    "{action:?}"
                                );
                                continue;
                            };
                            if matches!(action, Action::Send { .. }) {
                                exchanges += 1;
                                self.pace.count(now);
                            }
                            ends[1 - at].heard(now);
                            ends[1 - at].asked(&asks, now);
                            if asks.answered && at == 1 {
                                ends[0].vouched(now);
                            }
                            let stamps = Stamps { sent: 0, received: 0, reflected: 0, returned: 0 };
                            // The other has no pace to tell of.
                            let stretch = if at == 1 { self.pace.stretch() } else { Stretch::default() };
                            ends[at].heard(now);
                            ends[at].answer(
                                &Reply { sequence, stamps, arrivals: None, of_stream: None, stretch },
                                Counts::default(),
                                now,
                            );
                        }
                    }
                }
            }
            exchanges
        }
    }

    #[test]
    fn within_the_budget_nothing_is_stretched() {
        let mut paths = Paths::new(500, 12, EXCHANGES / 10);
        paths.run(8);
        let exchanges = paths.run(5);
        assert_eq!(paths.pace.stretch(), Stretch::default());
        // 42 calls, asked about every 50 ms from either end, and the idle paths every second from one.
        assert!((10_000..=11_500).contains(&exchanges), "{exchanges}");
    }

    #[test]
    fn a_call_on_every_path_is_within_the_budget_soon_and_nobody_becomes_suspect() {
        let mut paths = Paths::new(500, 1, EXCHANGES / 10);
        paths.run(16);
        let exchanges = paths.run(12) / 12;
        assert!((1_800..=2_900).contains(&exchanges), "{exchanges} a second of 2,500");
        // The calls are over: what was stretched is not for long.
        paths.calls_every = usize::MAX;
        paths.run(60);
        assert_eq!(paths.pace.stretch(), Stretch::default());
    }

    #[test]
    fn idle_paths_are_asked_more_seldom_before_those_with_calls_are() {
        let mut paths = Paths::new(1_000, 100, 1_000);
        paths.run(16);
        let exchanges = paths.run(12) / 12;
        assert!(exchanges <= 1_100, "{exchanges} a second of 1,000");
        let stretch = paths.pace.stretch();
        assert_eq!(stretch.of_active(Duration::from_millis(50)), Duration::from_millis(50), "{stretch:?}");
        assert!(stretch.of_idle(Duration::from_secs(1)) > Duration::from_secs(1), "{stretch:?}");
    }

    #[test]
    fn it_is_looked_at_once_when_what_is_allowed_for_all_of_the_time_is_used_up() {
        let mut pace = Pace::new(1_000, Instant(0));
        // Four times as many as are allowed: what is allowed in four seconds is used up after one.
        let looked = (1..).map(|n| Instant(n * 250_000)).find(|now| {
            pace.count(*now);
            pace.stretch() > Stretch::default()
        });
        assert_eq!(looked, Some(Instant(4_001 * 250_000)));
    }

    #[test]
    fn the_transition_table() {
        let mut pace = Pace::new(1_000, Instant(0));
        let mut now = Instant(0);
        let mut look = |pace: &mut Pace, exchanges: u32| {
            now += LOOK;
            pace.exchanges = exchanges * 4 - 1;
            pace.count(now);
            pace.stretch().steps()
        };
        // As many as are allowed, fewer, a few more, twice as many, and a hundred times; then fewer, and none to speak of.
        assert_eq!(look(&mut pace, 1_000), 0);
        assert_eq!(look(&mut pace, 400), 0);
        assert_eq!(look(&mut pace, 1_091), 2);
        assert_eq!(look(&mut pace, 2_000), 18);
        assert_eq!(look(&mut pace, 100_000), 82);
        assert_eq!(look(&mut pace, 1_000), 82);
        assert_eq!(look(&mut pace, 958), 81);
        assert_eq!(look(&mut pace, 1), 73);
        for _ in 0..10 {
            look(&mut pace, 100_000);
        }
        assert_eq!(look(&mut pace, 100_000), MOST);
        let ms = Duration::from_millis;
        assert_eq!(
            (pace.stretch().of_active(ms(50)), pace.stretch().of_idle(ms(1_000))),
            (ms(3_200), ms(4_000))
        );
    }
}
