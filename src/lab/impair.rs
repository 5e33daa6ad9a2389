//! One direction of a link: what becomes of a frame between one end and the other.
//!
//! A frame 1 may be lost, 2 waits until the frames before it have left (rate), 3 travels (delay and jitter), 4 arrives.
//! Pure: frames, the time and a seed go in, frames come out; the shoveller in `link` does the rest.

use super::units::{Loss, Rate, Span};
use crate::model::Instant;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// What a direction of a link does to frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impairment {
    /// How long a frame travels.
    pub delay: Duration,
    /// A frame travels up to so much longer or shorter, evenly spread; never less than nothing.
    pub jitter: Duration,
    /// How many frames are lost, each by itself.
    pub loss: Loss,
    /// How fast frames leave, all bytes of an Ethernet frame counted but preamble and checksum.
    pub rate: Option<Rate>,
    /// How many frames may wait to leave; one more is dropped.
    pub queue: usize,
    /// Whether jitter may let a frame overtake another.
    pub reorder: bool,
}

impl Default for Impairment {
    fn default() -> Impairment {
        Impairment {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::default(),
            rate: None,
            // 1000: what Linux gives an Ethernet device (txqueuelen) and netem by default.
            queue: 1_000,
            reorder: false,
        }
    }
}

/// Part of an [`Impairment`]: what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Change {
    pub delay: Option<Span>,
    pub jitter: Option<Span>,
    pub loss: Option<Loss>,
    pub rate: Option<Rate>,
    pub queue: Option<usize>,
    pub reorder: Option<bool>,
}

impl Change {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }

    /// `before`, changed.
    pub fn apply(&self, before: &Impairment) -> Impairment {
        Impairment {
            delay: self.delay.map_or(before.delay, |span| span.0),
            jitter: self.jitter.map_or(before.jitter, |span| span.0),
            loss: self.loss.unwrap_or(before.loss),
            rate: self.rate.or(before.rate),
            queue: self.queue.unwrap_or(before.queue),
            reorder: self.reorder.unwrap_or(before.reorder),
        }
    }
}

/// What became of the frames so far. `offered` is the sum of all others and of what is still under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counters {
    /// Frames that came in.
    pub offered: u64,
    /// Frames that came out.
    pub delivered: u64,
    /// Lost by chance, as configured.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Lost because the link was cut.
    pub cut: u64,
    /// Arrived where the kernel would not take them: the interface is down.
    pub refused: u64,
}

/// Frames under way in one direction.
pub struct Wire {
    impairment: Impairment,
    cut: bool,
    random: StdRng,
    /// When each frame that waits to leave will have left, in order.
    waiting: VecDeque<Instant>,
    travelling: BinaryHeap<Reverse<Travelling>>,
    /// When the last frame in the queue will have left.
    busy_until: Instant,
    /// When the latest of all frames arrives: without reordering no other may come before it.
    last_arrival: Instant,
    pub counters: Counters,
}

/// 65,536: memory for 100 MB of full-sized frames, a 1 Gbps link 0.8 s long.
const MAX_TRAVELLING: usize = 65_536;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Travelling {
    arrives: Instant,
    /// Breaks ties: of two frames that arrive at once, the one that was offered first comes first.
    number: u64,
    frame: Vec<u8>,
}

impl Wire {
    /// An empty wire. The same seed and the same frames give the same losses and the same jitter.
    pub fn new(impairment: Impairment, seed: u64) -> Wire {
        Wire {
            impairment,
            cut: false,
            random: StdRng::seed_from_u64(seed),
            waiting: VecDeque::new(),
            travelling: BinaryHeap::new(),
            busy_until: Instant::default(),
            last_arrival: Instant::default(),
            counters: Counters::default(),
        }
    }

    /// Takes a frame in.
    pub fn offer(&mut self, frame: &[u8], now: Instant) {
        self.counters.offered += 1;
        if self.cut {
            self.counters.cut += 1;
            return;
        }
        if self.is_lost() {
            self.counters.lost += 1;
            return;
        }
        while self.waiting.front().is_some_and(|left| *left <= now) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.impairment.queue || self.travelling.len() >= MAX_TRAVELLING {
            self.counters.overflowed += 1;
            return;
        }
        let arrives = self.departure(frame.len(), now) + self.travel_time();
        let arrives = if self.impairment.reorder { arrives } else { arrives.max(self.last_arrival) };
        self.last_arrival = self.last_arrival.max(arrives);
        let number = self.counters.offered;
        self.travelling.push(Reverse(Travelling { arrives, number, frame: frame.to_vec() }));
    }

    /// The next frame that has arrived by `now`; the caller counts it as delivered or refused.
    pub fn take_arrived(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.poll_timeout()? > now {
            return None;
        }
        self.travelling.pop().map(|Reverse(travelling)| travelling.frame)
    }

    /// When the next frame arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.travelling.peek().map(|Reverse(next)| next.arrives)
    }

    /// What it does to frames.
    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// Does something else to frames from now on; those under way arrive when they were going to.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Cuts it, which loses all that is under way, or mends it.
    pub fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
        if cut {
            self.counters.cut += self.travelling.len() as u64;
            self.travelling.clear();
            self.waiting.clear();
            self.busy_until = Instant::default();
            self.last_arrival = Instant::default();
        }
    }

    /// One draw a frame, and none where nothing can be lost: a loss pattern depends on the seed and on how many frames
    /// there were, not on what else is configured.
    fn is_lost(&mut self) -> bool {
        let loss = self.impairment.loss.millionths();
        loss > 0 && self.random.random_range(0..Loss::WHOLE) < loss
    }

    /// When the last bit of a frame leaves.
    fn departure(&mut self, bytes: usize, now: Instant) -> Instant {
        let Some(rate) = self.impairment.rate else { return now };
        self.busy_until = self.busy_until.max(now) + rate.serialization(bytes);
        self.waiting.push_back(self.busy_until);
        self.busy_until
    }

    fn travel_time(&mut self) -> Duration {
        let Impairment { delay, jitter, .. } = self.impairment;
        if jitter.is_zero() {
            return delay;
        }
        let spread = u64::try_from(jitter.as_nanos() * 2).unwrap_or(u64::MAX);
        let longer = Duration::from_nanos(self.random.random_range(0..=spread));
        (delay + longer).saturating_sub(jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant(ms * MS)
    }

    fn change(text: &str) -> Impairment {
        toml::from_str::<Change>(text).expect("a change").apply(&Impairment::default())
    }

    /// All frames with the millisecond they arrived in.
    fn drain(wire: &mut Wire) -> Vec<(u64, Vec<u8>)> {
        std::iter::from_fn(|| {
            let when = wire.poll_timeout()?;
            Some((when.0 / MS, wire.take_arrived(when)?))
        })
        .collect()
    }

    #[test]
    fn an_unimpaired_frame_arrives_at_once() {
        let mut wire = Wire::new(Impairment::default(), 1);
        wire.offer(b"frame", at(5));
        assert_eq!(wire.take_arrived(at(5)), Some(b"frame".to_vec()));
    }

    #[test]
    fn a_delayed_frame_arrives_when_its_delay_is_over_and_not_before() {
        let mut wire = Wire::new(change("delay = '20ms'"), 1);
        wire.offer(b"frame", at(100));
        assert_eq!(wire.poll_timeout(), Some(at(120)));
        assert_eq!(wire.take_arrived(Instant(120 * MS - 1)), None);
        assert_eq!(wire.take_arrived(at(120)), Some(b"frame".to_vec()));
        assert_eq!(wire.poll_timeout(), None);
    }

    #[test]
    fn a_rate_spaces_frames_by_their_length() {
        let mut wire = Wire::new(change("rate = '1Mbps'\ndelay = '5ms'"), 1);
        for _ in 0..3 {
            wire.offer(&[0; 1_250], at(0));
        }
        let arrivals: Vec<u64> = drain(&mut wire).into_iter().map(|(when, _)| when).collect();
        assert_eq!(arrivals, [15, 25, 35]);
    }

    #[test]
    fn a_full_queue_drops_what_comes_next_and_empties_with_time() {
        let mut wire = Wire::new(change("rate = '1Mbps'\nqueue = 2"), 1);
        for _ in 0..3 {
            wire.offer(&[0; 1_250], at(0));
        }
        assert_eq!(wire.counters.overflowed, 1);
        wire.offer(&[0; 1_250], at(10));
        assert_eq!((wire.counters.overflowed, wire.counters.offered), (1, 4));
        assert_eq!(drain(&mut wire).len(), 3);
    }

    #[test]
    fn a_long_fast_link_holds_more_frames_than_its_queue() {
        let mut wire = Wire::new(change("delay = '100ms'\nqueue = 2"), 1);
        for _ in 0..50 {
            wire.offer(b"frame", at(0));
        }
        assert_eq!(drain(&mut wire).len(), 50);
    }

    #[test]
    fn the_same_seed_loses_the_same_frames() {
        let survivors = |seed: u64| {
            let mut wire = Wire::new(change("loss = '10%'"), seed);
            for number in 0..1_000_u32 {
                wire.offer(&number.to_be_bytes(), at(0));
            }
            assert_eq!(wire.counters.lost as usize + wire.travelling.len(), 1_000);
            drain(&mut wire)
        };
        assert_eq!(survivors(7), survivors(7));
        assert_ne!(survivors(7), survivors(8));
        let lost = 1_000 - survivors(7).len();
        assert!((70..130).contains(&lost), "seed 7 lost {lost} of 1000 at 10%");
    }

    #[test]
    fn everything_is_lost_at_a_hundred_percent() {
        let mut wire = Wire::new(change("loss = '100%'"), 1);
        for _ in 0..100 {
            wire.offer(b"frame", at(0));
        }
        assert_eq!(wire.counters.lost, 100);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_keeps_order_unless_reordering_is_asked_for() {
        let order = |reorder: bool| -> Vec<(u64, u8)> {
            let mut wire =
                Wire::new(change(&format!("delay = '20ms'\njitter = '10ms'\nreorder = {reorder}")), 3);
            for number in 0..100 {
                wire.offer(&[number], at(0));
            }
            drain(&mut wire).into_iter().map(|(when, frame)| (when, frame[0])).collect()
        };
        let numbers = |frames: &[(u64, u8)]| frames.iter().map(|(_, number)| *number).collect::<Vec<u8>>();
        let (kept, mixed) = (order(false), order(true));
        assert!(numbers(&kept).is_sorted(), "seed 3: {kept:?}");
        assert!(!numbers(&mixed).is_sorted(), "seed 3: {mixed:?}");
        assert!(mixed.iter().all(|(when, _)| (10..=30).contains(when)), "seed 3: {mixed:?}");
        assert!(mixed.iter().any(|(when, _)| *when < 20) && mixed.iter().any(|(when, _)| *when > 20));
    }

    #[test]
    fn a_cut_loses_what_is_under_way_and_what_comes_until_it_is_mended() {
        let mut wire = Wire::new(change("delay = '20ms'"), 1);
        wire.offer(b"under way", at(0));
        wire.set_cut(true);
        wire.offer(b"too late", at(10));
        assert_eq!((wire.poll_timeout(), wire.counters.cut), (None, 2));
        wire.set_cut(false);
        wire.offer(b"mended", at(20));
        assert_eq!(wire.take_arrived(at(40)), Some(b"mended".to_vec()));
    }

    #[test]
    fn a_change_leaves_alone_what_it_does_not_name() {
        let before = change("delay = '20ms'\nloss = '1%'");
        let after = toml::from_str::<Change>("loss = '5%'").expect("a change").apply(&before);
        assert_eq!(after.delay, Duration::from_millis(20));
        assert_eq!(after.loss, "5%".parse().expect("a share"));
    }
}
