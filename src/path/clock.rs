//! How far the far end's clock is from ours, and with that how long a probe was under way in either direction.
//!
//! Nobody synchronises the clocks of two boxes well enough to subtract one's from the other's. But the probe that came back
//! soonest has waited nowhere: what it took is taken to be the same both ways, as NTP does (RFC 5905 section 10), and what
//! later probes take beyond that falls to the direction they took it in. A path whose directions differ when they are at rest
//! is not found out so; one that gets worse in one direction is.

use crate::model::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// After this the soonest probe is forgotten: clocks drift by a few milliseconds meanwhile.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// A direction that seems to have taken less than nothing by more than this tells of a clock that was set.
const SLACK_NANOS: i64 = 10_000_000;

/// A probe's four timestamps (RFC 8762 section 4): ours, theirs, theirs, ours, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    pub sent: u64,
    pub received: u64,
    pub reflected: u64,
    pub returned: u64,
}

/// What one probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// Without the far end's own time.
    pub rtt: Duration,
    pub outbound: Duration,
    pub inbound: Duration,
}

/// What is known of the far end's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct FarClock {
    best: Option<Best>,
}

#[derive(Clone, Copy, Debug)]
struct Best {
    rtt: Duration,
    /// What the far clock is ahead by.
    ahead: i64,
    at: Instant,
}

impl Stamps {
    /// How long it seems to have been under way outbound, and inbound: off by what the clocks differ by, but from one probe to
    /// the next as much.
    pub fn apparent(&self) -> (i64, i64) {
        (difference(self.received, self.sent), difference(self.returned, self.reflected))
    }
}

impl FarClock {
    /// Splits a probe's round trip.
    pub fn split(&mut self, stamps: &Stamps, now: Instant) -> Trip {
        let (out, back) = stamps.apparent();
        let rtt = nanos(out.saturating_add(back));
        let measured = Best { rtt, ahead: out.saturating_sub(back) / 2, at: now };
        let best = match self.best {
            Some(best)
                if best.rtt < rtt
                    && now.since(best.at) < FORGET_AFTER
                    && out.saturating_sub(best.ahead) > -SLACK_NANOS
                    && back.saturating_add(best.ahead) > -SLACK_NANOS =>
            {
                best
            }
            _ => measured,
        };
        self.best = Some(best);
        let outbound = nanos(out.saturating_sub(best.ahead)).min(rtt);
        Trip { rtt, outbound, inbound: rtt - outbound }
    }
}

fn difference(later: u64, earlier: u64) -> i64 {
    later.wrapping_sub(earlier).cast_signed()
}

fn nanos(signed: i64) -> Duration {
    Duration::from_nanos(u64::try_from(signed).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const EPOCH: u64 = 1_790_000_000 * 1_000 * MS;

    /// A probe that takes `out` and `back` milliseconds to a far end whose clock is `ahead` by so many.
    fn probe(clock: &mut FarClock, at_ms: u64, [out, back]: [u64; 2], ahead: i64) -> [u64; 2] {
        let sent = EPOCH + at_ms * MS;
        let theirs = |ours: u64| ours.wrapping_add_signed(ahead * MS as i64);
        let received = sent + out * MS;
        let reflected = received + 3 * MS;
        let stamps = Stamps {
            sent,
            received: theirs(received),
            reflected: theirs(reflected),
            returned: reflected + back * MS,
        };
        let trip = clock.split(&stamps, Instant(at_ms * MS));
        assert_eq!(trip.rtt, Duration::from_millis(out + back));
        [trip.outbound, trip.inbound].map(|way| way.as_millis() as u64)
    }

    #[test]
    fn a_direction_that_gets_slower_is_told_from_the_other_whatever_the_clocks_say() {
        for ahead in [0, -7_200_000, 123_456] {
            let mut clock = FarClock::default();
            assert_eq!(probe(&mut clock, 0, [20, 20], ahead), [20, 20]);
            assert_eq!(probe(&mut clock, 100, [170, 20], ahead), [170, 20]);
            assert_eq!(probe(&mut clock, 200, [20, 90], ahead), [20, 90]);
            assert_eq!(probe(&mut clock, 300, [15, 15], ahead), [15, 15]);
        }
    }

    #[test]
    fn a_clock_that_was_set_is_noticed_by_the_next_probe() {
        let mut clock = FarClock::default();
        probe(&mut clock, 0, [20, 20], 0);
        for ahead in [5_000, -60_000] {
            let [out, back] = probe(&mut clock, 100, [25, 25], ahead);
            assert_eq!([out, back], [25, 25]);
            assert_eq!(probe(&mut clock, 200, [125, 25], ahead), [125, 25]);
        }
    }

    #[test]
    fn the_soonest_probe_is_forgotten_after_ten_minutes() {
        let mut clock = FarClock::default();
        probe(&mut clock, 0, [10, 10], 0);
        assert_eq!(probe(&mut clock, 599_000, [30, 10], 0), [30, 10]);
        assert_eq!(probe(&mut clock, 600_000, [30, 10], 0), [20, 20]);
    }
}
