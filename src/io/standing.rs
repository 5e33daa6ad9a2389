//! Whether a queue stands: one that bursts pass through is good, one that is never empty only makes everybody wait.
//!
//! CoDel's idea (RFC 8289) with another measure: the kernel does not say how long a packet has waited, but a queue that has
//! not been found empty for an interval has made packets wait all that time. Then one packet is shed, and while the queue
//! goes on standing, more and more often, by CoDel's control law: senders that heed losses or marks slow down, and a call
//! through the same box does not wait behind a download.

use crate::model::Instant;
use std::time::Duration;

/// As long as a queue may stand: CoDel's target is 5 ms, and what waits here waits for a processor and not for a line.
const INTERVAL: Duration = Duration::from_millis(4);
/// Senders that heed nothing lose 2,000 packets a second to this and no more; what their queue has no room for, they lose
/// anyway.
const MAX_COUNT: u32 = 64;

/// What is known of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// When it was last seen not to be empty, having been empty before.
    since: Option<Instant>,
    /// The next packet to be shed, if it still stands then.
    next: Instant,
    /// How many have been shed since it began to stand; remembered for a while, so that a queue that comes back at once
    /// meets what sent it away.
    count: u32,
}

impl Standing {
    /// After a receive at `now` that emptied the queue, or did not: whether to shed a packet.
    pub fn sheds(&mut self, emptied: bool, now: Instant) -> bool {
        if emptied {
            self.since = None;
            return false;
        }
        let Some(since) = self.since else {
            self.since = Some(now);
            if now.since(self.next) > 10 * INTERVAL {
                self.count = 0;
            }
            self.count /= 2;
            self.next = now + INTERVAL;
            return false;
        };
        let sheds = now.since(since) >= INTERVAL && now >= self.next;
        if sheds {
            self.count = (self.count + 1).min(MAX_COUNT);
            self.next = now + INTERVAL.div_f64(f64::from(self.count).sqrt());
        }
        sheds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shed in `ms` milliseconds of looking ten times each, by whether the queue was empty then.
    fn shed(standing: &mut Standing, from_ms: u64, ms: u64, emptied: impl Fn(u64) -> bool) -> Vec<u64> {
        let looks = from_ms * 10..(from_ms + ms) * 10;
        looks.filter(|look| standing.sheds(emptied(*look), Instant(look * 100_000))).collect()
    }

    #[test]
    fn bursts_pass() {
        let mut standing = Standing::default();
        assert_eq!(shed(&mut standing, 1, 1_000, |look| look % 35 == 0), [0; 0]);
        assert_eq!(shed(&mut Standing::default(), 2_000, 3, |_| false), [0; 0]);
    }

    #[test]
    fn a_queue_that_stands_sheds_more_and_more_often() {
        let mut standing = Standing::default();
        let shed = shed(&mut standing, 0, 200, |_| false);
        assert_eq!(shed[..4], [40, 80, 109, 133], "4 ms, and then 4 ms by the root of how many");
        let gaps: Vec<u64> = shed.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.is_sorted_by(|a, b| a >= b), "{gaps:?}");
    }

    #[test]
    fn senders_that_heed_nothing_lose_a_bounded_number() {
        let mut standing = Standing::default();
        shed(&mut standing, 0, 60_000, |_| false);
        let last = shed(&mut standing, 60_000, 1_000, |_| false);
        assert!((1_900..=2_000).contains(&last.len()), "{}", last.len());
    }

    #[test]
    fn a_queue_that_comes_back_at_once_is_met_with_half_of_what_sent_it_away() {
        let mut standing = Standing::default();
        let before = shed(&mut standing, 0, 100, |_| false).len();
        shed(&mut standing, 100, 1, |_| true);
        let again = shed(&mut standing, 101, 20, |_| false);
        assert!(again.len() > 2 && before > 4, "{again:?} after {before}");
        shed(&mut standing, 121, 500, |_| true);
        assert_eq!(shed(&mut standing, 621, 7, |_| false).len(), 1, "forgotten");
    }
}
