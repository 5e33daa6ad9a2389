//! One class's packets, of one path, that wait for their turn.

use super::codel::TARGET;
use super::flows::{Fate, Flows, Popped};
use crate::model::{ClassId, Instant, Queueing, Rate};
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

/// A queue, and its place in the round.
pub(super) struct Queue {
    pub(super) class: ClassId,
    pub(super) queueing: Queueing,
    pub(super) counters: Counters,
    /// Bytes that it may still send in its turn.
    pub(super) deficit: i64,
    /// Made when the first one has to wait: most never do.
    flows: Option<Flows>,
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
            flows: None,
            waits: Vec::new(),
            next_wait: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.flows.as_ref().map_or(0, Flows::packets)
    }

    pub(super) fn bytes(&self) -> usize {
        self.flows.as_ref().map_or(0, Flows::bytes)
    }

    /// Keeps a packet. What there is no room for at this rate, which may be others before it, is given to `lost`.
    pub(super) fn push(
        &mut self,
        packet: Vec<u8>,
        rate: Option<Rate>,
        seed: u64,
        now: Instant,
        mut lost: impl FnMut(Vec<u8>),
    ) {
        let most = rate.map_or(usize::MAX, |rate| rate.bytes_in(MOST));
        let most = most.clamp(*MOST_BYTES.start(), *MOST_BYTES.end());
        let flows = self.flows.get_or_insert_with(Flows::new);
        flows.push(packet, seed, now);
        while flows.bytes() > most
            && let Some(displaced) = flows.displace()
        {
            self.counters.overflowed += 1;
            lost(displaced);
        }
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
            let Popped { packet, wait, fate } = self.flows.as_mut()?.pop(target, now)?;
            match fate {
                Fate::Goes => {}
                Fate::Marked => self.counters.marked += 1,
                Fate::Lost => {
                    self.counters.dropped += 1;
                    lost(packet);
                    continue;
                }
            }
            self.went(packet.len(), wait);
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
