//! One class's packets, of one path, that wait for their turn.

use super::codel::{Codel, Head, TARGET};
use crate::model::{ClassId, Instant, Queueing, Rate};
use crate::wire;
use std::collections::VecDeque;
use std::time::Duration;

/// No larger packet is usual: Ethernet's, and what is around it.
pub(super) const LARGEST: usize = 1_514;
/// 200 ms of the rate: what CoDel's interval needs to see a queue stand, twice; senders that heed nothing fill it.
const MOST: Duration = Duration::from_millis(200);
/// A super-packet is not to be cut short, however slow the line; nor is a fast one's queue to fill the memory.
const MOST_BYTES: std::ops::RangeInclusive<usize> = 128 << 10..=4 << 20;
/// Waits that the percentiles are of: half a second of 250 packets a second.
const WAITS: usize = 128;

/// What a class has sent by a path, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inner packets that went, and their bytes.
    pub packets: u64,
    pub bytes: u64,
    /// Lost because the queue stood, or was full.
    pub dropped: u64,
    pub overflowed: u64,
    /// Marked instead (ECN).
    pub marked: u64,
}

/// A packet that waits.
pub(super) struct Waiting {
    pub(super) packet: Vec<u8>,
    came: Instant,
}

/// A queue, and its place in the round.
pub(super) struct Queue {
    pub(super) class: ClassId,
    pub(super) queueing: Queueing,
    pub(super) counters: Counters,
    /// Bytes that it may still send in its turn.
    pub(super) deficit: i64,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    codel: Codel,
    /// The last waits, in microseconds, in no order.
    waits: Vec<u32>,
    next_wait: usize,
}

impl Queue {
    pub(super) fn new(class: ClassId, queueing: Queueing) -> Queue {
        Queue {
            class,
            queueing,
            counters: Counters::default(),
            deficit: 0,
            waiting: VecDeque::new(),
            bytes: 0,
            codel: Codel::default(),
            waits: Vec::new(),
            next_wait: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room for a packet, at this rate.
    pub(super) fn has_room(&self, bytes: usize, rate: Option<Rate>) -> bool {
        let most = rate.map_or(usize::MAX, |rate| rate.bytes_in(MOST));
        let most = most.clamp(*MOST_BYTES.start(), *MOST_BYTES.end());
        self.bytes + bytes <= most
    }

    pub(super) fn push(&mut self, packet: Vec<u8>, now: Instant) {
        self.bytes += packet.len();
        self.waiting.push_back(Waiting { packet, came: now });
    }

    /// The next packet to go, if CoDel leaves any; what it does not is given to `lost`.
    pub(super) fn pop(
        &mut self,
        rate: Option<Rate>,
        now: Instant,
        mut lost: impl FnMut(Vec<u8>),
    ) -> Option<Vec<u8>> {
        // RFC 8289 section 4.4: where one packet takes longer than the target, that is no queue.
        let target = rate.map_or(TARGET, |rate| TARGET.max(rate.time_of(LARGEST) * 3 / 2));
        loop {
            let Some(Waiting { mut packet, came }) = self.waiting.pop_front() else {
                self.codel.emptied();
                return None;
            };
            self.bytes -= packet.len();
            let sojourn = now.since(came);
            let head = Head { sojourn, target, is_last: self.bytes <= LARGEST };
            if self.codel.sheds(head, now) {
                if !wire::mark_congested(&mut packet) {
                    self.counters.dropped += 1;
                    lost(packet);
                    continue;
                }
                self.codel.marked();
                self.counters.marked += 1;
            }
            self.went(packet.len(), sojourn);
            return Some(packet);
        }
    }

    /// A packet of so many bytes has gone, after such a wait.
    pub(super) fn went(&mut self, bytes: usize, wait: Duration) {
        self.counters.packets += 1;
        self.counters.bytes += bytes as u64;
        let micros = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
        match self.waits.get_mut(self.next_wait) {
            Some(oldest) => *oldest = micros,
            None => self.waits.push(micros),
        }
        self.next_wait = (self.next_wait + 1) % WAITS;
    }

    /// What half and 95 of a hundred of the last packets waited at most.
    pub(super) fn waits(&self) -> Option<(Duration, Duration)> {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let percentile = |of_100: usize| {
            let at = (waits.len() * of_100).div_ceil(100).max(1) - 1;
            waits.get(at).map(|micros| Duration::from_micros((*micros).into()))
        };
        Some((percentile(50)?, percentile(95)?))
    }
}
