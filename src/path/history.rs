//! How good a path has been: a sample every 15 seconds, for half an hour. What moved somebody is to be seen beside what the
//! path was like before and after; whoever wants more than that exports it.

use crate::model::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Between samples: what is sampled is itself of the ten seconds before.
const SAMPLE_EVERY: Duration = Duration::from_secs(15);
/// Half an hour, in 3 KB a path.
const SAMPLES: usize = 120;

/// What has been known of one direction: latency that 95 of 100 probes kept to and jitter in milliseconds, loss from 0 to 1, a
/// call's score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SampledWay {
    pub latency_p95_ms: f32,
    pub jitter_ms: f32,
    pub loss: Option<f32>,
    pub mos: f32,
}

/// A path at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub at: Instant,
    pub is_up: bool,
    /// Outbound and inbound, as far as anything was known.
    pub ways: [Option<SampledWay>; 2],
}

/// The last samples of one path, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    samples: VecDeque<Packed>,
}

/// A [`Sample`] in 24 bytes: times and scores to a hundredth, and a value that stands for nothing known.
#[derive(Clone, Copy, Debug)]
struct Packed {
    at: Instant,
    ways: [[u16; 4]; 2],
}

const UNKNOWN: u16 = u16::MAX;
/// In the place of a direction's score: the path was not up.
const NOT_UP: u16 = u16::MAX - 1;
const HUNDREDTHS: f32 = 100.0;
const LOSS_STEPS: f32 = 10_000.0;

impl History {
    /// Whether it is time for a sample.
    pub fn is_due(&self, now: Instant) -> bool {
        self.samples.back().is_none_or(|last| now.since(last.at) >= SAMPLE_EVERY)
    }

    /// Takes a sample down.
    pub fn add(&mut self, sample: &Sample) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        let unknown = if sample.is_up { UNKNOWN } else { NOT_UP };
        let pack = |way: Option<SampledWay>| {
            way.filter(|_| sample.is_up).map_or([unknown; 4], |way| {
                let hundredths = |value: f32| steps(value * HUNDREDTHS);
                let loss = way.loss.map_or(UNKNOWN, |loss| steps(loss * LOSS_STEPS));
                [hundredths(way.latency_p95_ms), hundredths(way.jitter_ms), loss, hundredths(way.mos)]
            })
        };
        self.samples.push_back(Packed { at: sample.at, ways: sample.ways.map(pack) });
    }

    /// All samples, the oldest first.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        self.samples.iter().map(|packed| {
            let unpack = |[latency, jitter, loss, mos]: [u16; 4]| {
                (mos < NOT_UP).then(|| SampledWay {
                    latency_p95_ms: f32::from(latency) / HUNDREDTHS,
                    jitter_ms: f32::from(jitter) / HUNDREDTHS,
                    loss: (loss != UNKNOWN).then(|| f32::from(loss) / LOSS_STEPS),
                    mos: f32::from(mos) / HUNDREDTHS,
                })
            };
            Sample { at: packed.at, is_up: packed.ways[0][3] != NOT_UP, ways: packed.ways.map(unpack) }
        })
    }
}

/// The nearest step; what is larger than can be said is the largest that can.
fn steps(value: f32) -> u16 {
    value.round().clamp(0.0, f32::from(NOT_UP - 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_hour_is_remembered_to_a_hundredth() {
        let mut history = History::default();
        let way = |n: u64| SampledWay {
            latency_p95_ms: 20.25 + n as f32,
            jitter_ms: 1.5,
            loss: (!n.is_multiple_of(3)).then_some(0.0125),
            mos: 4.31,
        };
        let sample = |n: u64| Sample {
            at: Instant(0) + SAMPLE_EVERY * n as u32,
            is_up: !n.is_multiple_of(5),
            ways: [(n.is_multiple_of(2) && !n.is_multiple_of(5)).then(|| way(n)), None],
        };
        for n in 0..200 {
            let sample = sample(n);
            assert!(history.is_due(sample.at));
            history.add(&sample);
            assert!(!history.is_due(sample.at + SAMPLE_EVERY / 2));
        }
        let kept: Vec<Sample> = history.samples().collect();
        assert_eq!(kept, (80..200).map(sample).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_beyond_the_scale_is_at_its_end() {
        let mut history = History::default();
        let way = SampledWay { latency_p95_ms: 9_000.0, jitter_ms: -1.0, loss: Some(2.0), mos: 4.4 };
        history.add(&Sample { at: Instant(0), is_up: true, ways: [Some(way), None] });
        let kept = history.samples().next().and_then(|sample| sample.ways[0]).expect("known");
        assert_eq!((kept.latency_p95_ms, kept.jitter_ms, kept.loss), (655.33, 0.0, Some(2.0)));
    }
}
