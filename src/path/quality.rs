//! What probes say of a path, and what the far end says in its answers of the traffic that reached it: smoothed for timeouts,
//! and per direction over the last two and ten seconds for those who judge.

use super::arrivals::Counts;
use super::clock::{FarClock, Stamps};
use super::judge::Seen;
use super::mos::mos;
use crate::model::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// What is shown and what is come back to: ten seconds.
pub const LONG: Duration = Duration::from_secs(10);
/// What is remembered of answers is 50 ms apart: percentiles are of the time, however closely one looked.
pub(super) const APART: Duration = Duration::from_millis(50);
/// Ten seconds of them. One in a hundred paths has as many: others have what their probes need.
const OBSERVATIONS: usize = 200;
/// A probe that is due after [`APART`] may come a little sooner.
const NEARLY: Duration = Duration::from_millis(45);
/// Probes whose loss is told.
const PROBES: u32 = 100;
/// RFC 3550 section 6.4.1: the gain of the jitter's estimate.
const JITTER_GAIN: i64 = 16;
/// It is of probes that were sent as far from each other as a call's packets, or nearly so: where one waits for the other, those that
/// follow each other closely differ by less, and there are many while there is doubt.
const JITTER_APART: i64 = 15_000_000;

/// What is known of a path's quality.
#[derive(Clone, Debug, Default)]
pub struct Quality {
    srtt: Option<Duration>,
    rttvar: Duration,
    /// One bit a probe, newest lowest: set where no answer came.
    lost: u128,
    judged: u32,
    clock: FarClock,
    jitters: [Jitter; 2],
    observations: VecDeque<Observation>,
    /// What was counted there when it was last told.
    told: Option<Counts>,
    seen: Option<Seen>,
}

/// Which way: the order of [`Quality`]'s pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Outbound,
    Inbound,
}

/// One direction, over a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// One-way latency: half of the probes took no longer, and 95 of a hundred.
    pub p50: Duration,
    pub p95: Duration,
    /// Interarrival jitter as of now (RFC 3550 section 6.4.1).
    pub jitter: Duration,
    /// Share of all packets lost, 0 to 1; `None` if the far end has not told.
    pub loss: Option<f64>,
    /// Of a call over this direction: [`mos`].
    pub mos: f64,
}

/// What one answered probe has brought.
#[derive(Clone, Copy, Debug)]
struct Observation {
    at: Instant,
    /// One-way latencies.
    ways: [Duration; 2],
    /// What has arrived at either end.
    counts: [Option<Counts>; 2],
}

/// RFC 3550's interarrival jitter of probes.
#[derive(Clone, Copy, Debug, Default)]
struct Jitter {
    /// When the last one was sent, and how long it was under way.
    last: Option<(u64, i64)>,
    nanos: i64,
}

impl Quality {
    /// A probe was answered; `counts` of what has arrived there, if the answer tells, and here.
    pub fn answered(&mut self, stamps: &Stamps, counts: [Option<Counts>; 2], now: Instant) {
        let trip = self.clock.split(stamps, now);
        self.smooth(trip.rtt);
        let (out, back) = stamps.apparent();
        let difference = self.jitters[0].feed(stamps.sent, out);
        self.jitters[1].feed(stamps.sent, back);
        while self.observations.front().is_some_and(|old| now.since(old.at) > LONG) {
            self.observations.pop_front();
        }
        if self.observations.back().is_none_or(|last| now.since(last.at) >= NEARLY) {
            if self.observations.len() >= OBSERVATIONS {
                self.observations.pop_front();
            }
            self.observations.push_back(Observation { at: now, ways: [trip.outbound, trip.inbound], counts });
        }
        if let Some(there) = counts[0] {
            let since = self.told.replace(there).map(|before| there.since(before));
            let counts = since.filter(|counts| !counts.is_anew()).unwrap_or_default();
            let jitter = self.jitters[0].mean();
            self.seen = Some(Seen { counts, latency: trip.outbound, jitter, difference });
        }
        self.judge(false);
    }

    /// What the next answer counts is other packets than the last one did: they say nothing together.
    pub fn counts_others(&mut self) {
        self.told = None;
    }

    /// What the last answer has brought, once.
    pub fn take_seen(&mut self) -> Option<Seen> {
        self.seen.take()
    }

    /// A probe was not answered in time.
    pub fn missed(&mut self) {
        self.judge(true);
    }

    /// Smoothed round-trip time (RFC 6298 section 2).
    pub fn rtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Smoothed mean deviation of the round-trip time.
    pub fn rtt_deviation(&self) -> Option<Duration> {
        self.srtt.map(|_| self.rttvar)
    }

    /// Share of the last 100 probes that went unanswered, 0 to 1.
    pub fn loss(&self) -> Option<f64> {
        let window = self.judged.min(PROBES);
        (window > 0).then(|| f64::from((self.lost & ((1 << PROBES) - 1)).count_ones()) / f64::from(window))
    }

    /// One direction over the last `window`, at most [`LONG`]; `None` if no probe has been answered meanwhile.
    pub fn measured(&self, way: Way, window: Duration, now: Instant) -> Option<Measured> {
        let way = way as usize;
        let within = || self.observations.iter().filter(|seen| now.since(seen.at) <= window);
        let mut latencies: Vec<Duration> = within().map(|seen| seen.ways[way]).collect();
        if latencies.is_empty() {
            return None;
        }
        let mut percentile = |of_100: usize| {
            let at = (latencies.len() * of_100).div_ceil(100).max(1) - 1;
            *latencies.select_nth_unstable(at).1
        };
        let (p50, p95) = (percentile(50), percentile(95));
        let counts = || within().filter_map(|seen| seen.counts[way]);
        let loss =
            counts().next().zip(counts().next_back()).and_then(|(first, last)| last.since(first).loss());
        let jitter = self.jitters[way].mean();
        Some(Measured { p50, p95, jitter, loss, mos: mos(p50, jitter, loss.unwrap_or(0.0)) })
    }

    fn smooth(&mut self, rtt: Duration) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    fn judge(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u128::from(lost);
        self.judged = self.judged.saturating_add(1);
    }
}

impl Jitter {
    /// What the probe's time differs by from the one's before, if it counts.
    fn feed(&mut self, sent: u64, transit: i64) -> Option<Duration> {
        let apart = |last: u64| sent.wrapping_sub(last).cast_signed();
        // Less than nothing: the clock was set.
        if self.last.is_some_and(|(last, _)| (0..JITTER_APART).contains(&apart(last))) {
            return None;
        }
        let (_, last) = self.last.replace((sent, transit))?;
        let difference = transit.saturating_sub(last).saturating_abs();
        self.nanos += (difference - self.nanos) / JITTER_GAIN;
        Some(Duration::from_nanos(difference.unsigned_abs()))
    }

    fn mean(self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A quality fed with probes every 50 ms, whose ways take `trip(n)` milliseconds; of ten packets between two probes
    /// `lost` never arrive there.
    fn fed(probes: u64, lost: u32, trip: impl Fn(u64) -> [u64; 2]) -> (Quality, Instant) {
        let mut quality = Quality::default();
        let mut now = Instant(0);
        for n in 0..probes {
            let [out, back] = trip(n);
            let sent = 1_000_000 * MS + n * 50 * MS;
            let at = sent + out * MS;
            let stamps = Stamps { sent, received: at, reflected: at, returned: at + back * MS };
            now = Instant((n * 50 + out + back) * MS);
            let there =
                Counts { received: n as u32 * (10 - lost), lost: n as u32 * lost, ..Counts::default() };
            let here = Counts { received: n as u32 * 10, ..Counts::default() };
            quality.answered(&stamps, [Some(there), Some(here)], now);
        }
        (quality, now)
    }

    #[test]
    fn each_direction_has_its_own_latency_loss_and_score() {
        let (quality, now) = fed(100, 1, |n| if n < 20 { [20, 20] } else { [220, 20] });
        let out = quality.measured(Way::Outbound, LONG, now).expect("measured");
        let back = quality.measured(Way::Inbound, LONG, now).expect("measured");
        assert_eq!((out.p50, out.p95), (Duration::from_millis(220), Duration::from_millis(220)));
        assert_eq!((back.p50, back.p95), (Duration::from_millis(20), Duration::from_millis(20)));
        assert_eq!((out.loss, back.loss), (Some(0.1), Some(0.0)));
        assert!(out.mos < 3.4 && back.mos > 4.3, "{} {}", out.mos, back.mos);
    }

    #[test]
    fn percentiles_are_of_the_window_that_is_asked_for() {
        let (quality, now) = fed(200, 0, |n| {
            [
                if n < 160 {
                    20
                } else if n % 10 == 0 {
                    120
                } else {
                    40
                },
                20,
            ]
        });
        let of = |secs| quality.measured(Way::Outbound, Duration::from_secs(secs), now).expect("measured");
        assert_eq!((of(10).p50, of(1).p50), (Duration::from_millis(20), Duration::from_millis(40)));
        assert_eq!((of(10).p95, of(1).p95), (Duration::from_millis(40), Duration::from_millis(120)));
        assert_eq!(quality.measured(Way::Outbound, LONG, now + LONG * 2), None, "nothing is known any more");
    }

    #[test]
    fn jitter_is_the_mean_difference_from_probe_to_probe() {
        let (steady, now) = fed(200, 0, |_| [30, 30]);
        assert_eq!(steady.measured(Way::Outbound, LONG, now).expect("measured").jitter, Duration::ZERO);
        let (shaky, now) = fed(200, 0, |n| [30 + 16 * (n % 2), 30]);
        let jitter = shaky.measured(Way::Outbound, LONG, now).expect("measured").jitter;
        assert!(jitter.abs_diff(Duration::from_millis(16)) < Duration::from_micros(10), "{jitter:?}");
        assert_eq!(shaky.measured(Way::Inbound, LONG, now).expect("measured").jitter, Duration::ZERO);
    }
}
