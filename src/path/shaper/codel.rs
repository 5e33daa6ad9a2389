//! CoDel (RFC 8289 section 5): drops, or marks, of a queue that makes packets wait for longer than bursts explain.

use crate::model::Instant;
use std::time::Duration;

/// What a packet may wait (RFC 8289 section 4.3).
pub(super) const TARGET: Duration = Duration::from_millis(5);
/// A round trip of the longest that are usual (RFC 8289 section 4.3).
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// One queue's state; the RFC's names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Codel {
    first_above_time: Option<Instant>,
    drop_next: Instant,
    count: u32,
    last_count: u32,
    dropping: bool,
    /// A packet has been shed, and when the next one is depends on what comes behind it.
    unscheduled: bool,
}

/// The packet at the head of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// How long it has waited, and how long it may.
    pub(super) sojourn: Duration,
    pub(super) target: Duration,
    /// What is behind it is no more than one largest packet, which is no queue.
    pub(super) is_last: bool,
}

impl Codel {
    /// The queue was found empty.
    pub(super) fn emptied(&mut self) {
        self.first_above_time = None;
        self.dropping = false;
        self.unscheduled = false;
    }

    /// Whether the packet is shed: lost, and then the next one is asked about in the same breath; or [`Codel::marked`], and
    /// goes.
    pub(super) fn sheds(&mut self, head: Head, now: Instant) -> bool {
        let unscheduled = std::mem::take(&mut self.unscheduled);
        if !self.stands(head, now) {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            if unscheduled {
                self.drop_next = control_law(self.drop_next, self.count);
            }
            let sheds = now >= self.drop_next;
            if sheds {
                self.count = self.count.saturating_add(1);
                self.unscheduled = true;
            }
            return sheds;
        }
        self.dropping = true;
        // Where it stands again soon after, the rate that sent it away is a good one to begin with.
        let delta = self.count.saturating_sub(self.last_count);
        let is_recent = now.since(self.drop_next) < 16 * INTERVAL;
        self.count = if delta > 1 && is_recent { delta } else { 1 };
        self.last_count = self.count;
        self.drop_next = control_law(now, self.count);
        true
    }

    /// What was shed has taken a mark instead, and goes.
    pub(super) fn marked(&mut self) {
        if std::mem::take(&mut self.unscheduled) {
            self.drop_next = control_law(self.drop_next, self.count);
        }
    }

    /// Whether packets have waited too long for an interval.
    fn stands(&mut self, head: Head, now: Instant) -> bool {
        if head.sojourn < head.target || head.is_last {
            self.first_above_time = None;
            return false;
        }
        match self.first_above_time {
            None => {
                self.first_above_time = Some(now + INTERVAL);
                false
            }
            Some(at) => now >= at,
        }
    }
}

fn control_law(at: Instant, count: u32) -> Instant {
    at + INTERVAL.div_f64(f64::from(count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// RFC 8289 section 5's pseudo code as it stands there, over packets that are when they came.
    #[derive(Default)]
    struct Written {
        queue: VecDeque<u64>,
        first_above_time: u64,
        drop_next: u64,
        count: u64,
        last_count: u64,
        dropping: bool,
        dropped: u64,
    }

    const MTU: usize = 1;

    impl Written {
        fn dodequeue(&mut self, now: u64) -> (Option<u64>, bool) {
            let packet = self.queue.pop_front();
            let mut ok_to_drop = false;
            match packet {
                None => self.first_above_time = 0,
                Some(came) => {
                    if now - came < TARGET.as_nanos() as u64 || self.queue.len() <= MTU {
                        self.first_above_time = 0;
                    } else if self.first_above_time == 0 {
                        self.first_above_time = now + INTERVAL.as_nanos() as u64;
                    } else if now >= self.first_above_time {
                        ok_to_drop = true;
                    }
                }
            }
            (packet, ok_to_drop)
        }

        fn control_law(at: u64, count: u64) -> u64 {
            at + INTERVAL.div_f64((count as f64).sqrt()).as_nanos() as u64
        }

        fn deque(&mut self, now: u64) -> Option<u64> {
            let (mut packet, mut ok_to_drop) = self.dodequeue(now);
            if self.dropping {
                if !ok_to_drop {
                    self.dropping = false;
                }
                while now >= self.drop_next && self.dropping {
                    self.dropped += 1;
                    self.count += 1;
                    (packet, ok_to_drop) = self.dodequeue(now);
                    if !ok_to_drop {
                        self.dropping = false;
                    } else {
                        self.drop_next = Self::control_law(self.drop_next, self.count);
                    }
                }
            } else if ok_to_drop {
                self.dropped += 1;
                (packet, _) = self.dodequeue(now);
                self.dropping = true;
                let delta = self.count - self.last_count;
                self.count = 1;
                let interval = INTERVAL.as_nanos() as i128;
                if delta > 1 && i128::from(now) - i128::from(self.drop_next) < 16 * interval {
                    self.count = delta;
                }
                self.drop_next = Self::control_law(now, self.count);
                self.last_count = self.count;
            }
            packet
        }
    }

    #[derive(Default)]
    struct Ours {
        queue: VecDeque<u64>,
        codel: Codel,
        dropped: u64,
    }

    impl Ours {
        fn deque(&mut self, now: u64) -> Option<u64> {
            loop {
                let Some(came) = self.queue.pop_front() else {
                    self.codel.emptied();
                    return None;
                };
                let sojourn = Duration::from_nanos(now - came);
                let head = Head { sojourn, target: TARGET, is_last: self.queue.len() <= MTU };
                if !self.codel.sheds(head, Instant(now)) {
                    return Some(came);
                }
                self.dropped += 1;
            }
        }
    }

    proptest! {
        #[test]
        fn it_drops_what_the_rfcs_pseudo_code_drops(
            steps in proptest::collection::vec((0u64..4_000_000, 0usize..4, any::<bool>()), 1..3_000),
        ) {
            let (mut written, mut ours) = (Written::default(), Ours::default());
            let mut now = 1_000_000_000;
            for (step, packets, serves) in steps {
                now += step;
                for _ in 0..packets {
                    written.queue.push_back(now);
                    ours.queue.push_back(now);
                }
                if serves {
                    prop_assert_eq!(written.deque(now), ours.deque(now));
                    prop_assert_eq!(written.dropped, ours.dropped);
                }
            }
        }
    }

    #[test]
    fn what_does_not_slow_down_is_shed_more_and_more_often() {
        let mut codel = Codel::default();
        let head = Head { sojourn: Duration::from_millis(20), target: TARGET, is_last: false };
        let shed: Vec<u64> = (0..2_000).filter(|ms| codel.sheds(head, Instant(ms * 1_000_000))).collect();
        assert_eq!(shed[..4], [100, 200, 271, 329], "an interval, and then one by the root of how many");
        let marked = |codel: &mut Codel, ms: u64| {
            let sheds = codel.sheds(head, Instant(ms * 1_000_000));
            codel.marked();
            sheds
        };
        let mut codel = Codel::default();
        let marks: Vec<u64> = (0..2_000).filter(|ms| marked(&mut codel, *ms)).collect();
        assert_eq!(marks, shed, "marks come when losses would");
    }
}
