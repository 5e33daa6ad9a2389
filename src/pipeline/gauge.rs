//! What is known of how good a way is, and what follows from it for those who go by it.

use crate::model::Instant;
use crate::path::{self, History, Judge, Measured, Prober, Sample, SampledWay, State, Verdict, Way};
use std::time::Duration;

/// How good a way is.
pub struct Gauge {
    pub prober: Prober,
    pub history: History,
    /// One for each of the tenant's SLAs.
    pub judges: Box<[Judge]>,
    /// One bit for each of these: whether the way is to be avoided by who asks for it.
    pub avoid: u16,
    /// It is better than the others know.
    pub is_held_back: bool,
    /// What it last did that may have moved somebody.
    pub why: Why,
}

/// What a path did, and so may have moved those who used it, or might.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// A commit.
    Configured,
    /// The peer has been heard of, or its session has begun or ended.
    Heard,
    /// It went down, after so long without an answer.
    Down(Duration),
    /// It is down, as the far end has found out.
    ToldDown,
    /// There is no way to its far end.
    CannotSend,
    /// Its link is down, or up again.
    LinkDown,
    LinkUp,
    /// Packets that are as large as they may be do not get through any more; or they do again.
    Narrow,
    Wide,
    CameUp,
    /// It has been up for as long as it was held.
    Recovered,
    /// It breaks, or keeps, the tenant's SLA at this place; or it is, or is no longer, the one that breaks it least.
    Sla(u8, Verdict),
    BestOfWorst(u8),
    NotBestOfWorst(u8),
}

impl Gauge {
    /// One of which nothing is known yet.
    pub fn new(prober: Prober, judges: Box<[Judge]>) -> Gauge {
        Gauge {
            prober,
            history: History::default(),
            judges,
            avoid: 0,
            is_held_back: false,
            why: Why::Configured,
        }
    }

    /// One direction over the last ten seconds, and the share of all packets lost.
    pub fn measured(&self, way: Way, now: Instant) -> (Option<Measured>, Option<f64>) {
        let measured = self.prober.quality().measured(way, path::LONG, now);
        (measured, measured.and_then(|measured| measured.loss))
    }

    /// Takes down that it is so good.
    pub fn sample(&mut self, ways: [(Option<Measured>, Option<f64>); 2], now: Instant) {
        let millis = |time: Duration| time.as_secs_f32() * 1e3;
        let ways = ways.map(|(measured, loss)| {
            measured.map(|measured| SampledWay {
                latency_p95_ms: millis(measured.p95),
                jitter_ms: millis(measured.jitter),
                loss: loss.map(|loss| loss as f32),
                mos: measured.mos as f32,
            })
        });
        let is_up = matches!(self.prober.state(), State::Up | State::Recovering);
        self.history.add(&Sample { at: now, is_up, ways });
    }

    /// From now on it is judged by these; where they judge by the same limits as before, those go on.
    pub fn judge_by(&mut self, judges: Box<[Judge]>) {
        let same = judges.len() == self.judges.len()
            && self.judges.iter().zip(&judges).all(|(old, new)| old.limits() == new.limits());
        if !same {
            (self.judges, self.avoid) = (judges, 0);
        }
    }
}
