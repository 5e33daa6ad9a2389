//! What is known of how good a way is, and what follows from it for those who go by it.

use crate::model::{Instant, SlaLimit, SlaLimits};
use crate::path::{
    self, Counts, Evidence, History, Judge, Measured, Prober, Quality, Reply, Sample, SampledWay, State,
    Stream, Tally, Verdict, Way,
};
use std::time::Duration;

/// How good a way is.
pub struct Gauge {
    pub prober: Prober,
    /// One for each DSCP that classes' packets carry, other than best effort, which the prober's own probes do. Not for who is
    /// asked by echo requests.
    pub streams: Box<[Stream]>,
    /// Of the prober's own stream, where it is not the only one: outbound and inbound.
    tallies: [Tally; 2],
    pub history: History,
    /// One for each of the tenant's SLAs.
    pub judges: Box<[Judge]>,
    /// The DSCP of what each is asked for.
    judged_for: Box<[u8]>,
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

impl Why {
    /// In a word that is not 0, with what was measured to three digits and more: for other workers, and for the far end. A
    /// limit is not part of it; whoever reads it knows the policy.
    pub fn pack(self) -> u32 {
        let (kind, place, of, value) = match self {
            Why::Configured => (1, 0, 0, 0),
            Why::Heard => (2, 0, 0, 0),
            Why::Down(silent) => (3, 0, 0, silent.as_millis() as u64),
            Why::ToldDown => (4, 0, 0, 0),
            Why::CannotSend => (5, 0, 0, 0),
            Why::LinkDown => (6, 0, 0, 0),
            Why::LinkUp => (7, 0, 0, 0),
            Why::Narrow => (8, 0, 0, 0),
            Why::Wide => (9, 0, 0, 0),
            Why::CameUp => (10, 0, 0, 0),
            Why::Recovered => (11, 0, 0, 0),
            Why::Sla(place, Verdict::Broken(Evidence { of, measured, .. })) => {
                let (number, unit) = OF_SLAS[of as usize];
                (12, place, number, (measured * unit).round() as u64)
            }
            Why::Sla(place, Verdict::Kept(good)) => (13, place, 0, good.as_secs()),
            Why::BestOfWorst(place) => (14, place, 0, 0),
            Why::NotBestOfWorst(place) => (15, place, 0, 0),
        };
        kind << 28 | u32::from(place & 15) << 24 | of << 22 | value.min(MOST) as u32
    }

    /// What was packed, where the tenant's SLA at each place has these limits. `None` of 0, and of what asks for an SLA that is not
    /// there.
    pub fn unpack(packed: u32, limits: impl Fn(u8) -> Option<SlaLimits>) -> Option<Why> {
        let (place, value) = ((packed >> 24 & 15) as u8, packed & MOST as u32);
        Some(match packed >> 28 {
            1 => Why::Configured,
            2 => Why::Heard,
            3 => Why::Down(Duration::from_millis(value.into())),
            4 => Why::ToldDown,
            5 => Why::CannotSend,
            6 => Why::LinkDown,
            7 => Why::LinkUp,
            8 => Why::Narrow,
            9 => Why::Wide,
            10 => Why::CameUp,
            11 => Why::Recovered,
            12 => {
                let of = [SlaLimit::Loss, SlaLimit::Latency, SlaLimit::Jitter, SlaLimit::Mos]
                    [(packed >> 22 & 3) as usize];
                let limits = limits(place)?;
                let millis = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64() * 1e3);
                let limit = match of {
                    SlaLimit::Loss => limits.loss,
                    SlaLimit::Latency => millis(limits.latency),
                    SlaLimit::Jitter => millis(limits.jitter),
                    SlaLimit::Mos => limits.mos,
                };
                let measured = f64::from(value) / OF_SLAS[of as usize].1;
                Why::Sla(place, Verdict::Broken(Evidence { of, measured, limit: limit? }))
            }
            13 => Why::Sla(place, Verdict::Kept(Duration::from_secs(value.into()))),
            14 => Why::BestOfWorst(place),
            15 => Why::NotBestOfWorst(place),
            _ => return None,
        })
    }
}

/// The largest number that is packed.
const MOST: u64 = (1 << 22) - 1;
/// By [`SlaLimit`]: its number, and by how much what is measured is multiplied to be a whole number: a share, milliseconds,
/// milliseconds, a score.
const OF_SLAS: [(u32, f64); 4] = [(0, 1e6), (1, 10.0), (2, 100.0), (3, 1e5)];

impl Gauge {
    /// One of which nothing is known yet.
    pub fn new(prober: Prober) -> Gauge {
        Gauge {
            prober,
            streams: Box::default(),
            tallies: Default::default(),
            history: History::default(),
            judges: Box::default(),
            judged_for: Box::default(),
            avoid: 0,
            is_held_back: false,
            why: Why::Configured,
        }
    }

    /// It is measured by these streams beside the prober's own from now on; those that it had go on.
    pub fn measure_by(&mut self, dscps: &[u8], now: Instant) {
        if self.streams.iter().map(Stream::dscp).eq(dscps.iter().copied()) {
            return;
        }
        let mut had = std::mem::take(&mut self.streams).into_vec();
        let mut stream = |dscp: &u8| {
            let at = had.iter().position(|stream| stream.dscp() == *dscp);
            at.map_or_else(|| Stream::new(*dscp, now), |at| had.swap_remove(at))
        };
        self.streams = dscps.iter().map(&mut stream).collect();
        self.tallies = Default::default();
        self.prober.counts_others();
    }

    /// The stream whose probes carry this; `None`: the prober's own, or there is none.
    pub fn stream(&self, dscp: u8) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.dscp() == dscp)
    }

    /// That, to be worked.
    pub fn stream_mut(&mut self, dscp: u8) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.dscp() == dscp)
    }

    /// What the stream whose probes carry this stands for, a bit for each DSCP: the prober's own for all that no other does.
    pub fn stands_for(&self, dscp: u8) -> u64 {
        let others = self.streams.iter().fold(0, |others, stream| others | 1 << stream.dscp());
        if self.stream(dscp).is_some() { 1 << dscp } else { !others }
    }

    /// What the SLA at `place` is judged by: the stream whose probes carry this, or the prober's own.
    pub fn judged_by(&self, place: usize) -> u8 {
        let dscp = self.judged_for.get(place).copied();
        dscp.filter(|dscp| self.stream(*dscp).is_some()).unwrap_or(0)
    }

    /// What the probes say that the SLA at `place` is judged by.
    pub fn quality_for(&self, place: usize) -> &Quality {
        self.stream(self.judged_by(place)).map_or_else(|| self.prober.quality(), Stream::quality)
    }

    /// Asks all who judge by the stream whose probes carry `dscp`; the places of those who have come to something, and to what.
    pub fn judge(
        &mut self,
        dscp: u8,
        mut ask: impl FnMut(&mut Judge, &Quality) -> Option<Verdict>,
    ) -> Vec<(u8, Verdict)> {
        let mut judges = std::mem::take(&mut self.judges);
        let asked = judges.iter_mut().enumerate().filter(|(place, _)| self.judged_by(*place) == dscp);
        let verdicts = asked.filter_map(|(place, judge)| {
            let verdict = ask(judge, self.quality_for(place))?;
            Some((place as u8, verdict))
        });
        let verdicts = verdicts.collect();
        self.judges = judges;
        verdicts
    }

    /// What has arrived there and here by the time of an answer: of its stream, if the far end counts by streams, and so many
    /// packets of that have come; otherwise of all that the path has carried.
    pub fn counted(&mut self, reply: &Reply, dscp: u8, come: u32, here: Counts) -> [Option<Counts>; 2] {
        let Some(told) = reply.of_stream.filter(|told| told.dscps == self.stands_for(dscp)) else {
            return [reply.arrivals, Some(here)];
        };
        let Gauge { streams, tallies, .. } = self;
        let stream = streams.iter_mut().find(|stream| stream.dscp() == dscp);
        let [out, back] = stream.map_or(tallies, |stream| &mut stream.tallies);
        [Some(out.feed(told.sent, told.arrived)), Some(back.feed(told.sent_back, come))]
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
    pub fn judge_by(&mut self, judges: Box<[Judge]>, judged_for: Box<[u8]>) {
        let same = judged_for == self.judged_for
            && self.judges.iter().zip(&judges).all(|(old, new)| old.limits() == new.limits());
        if !same {
            (self.judges, self.judged_for, self.avoid) = (judges, judged_for, 0);
        }
        for stream in &mut self.streams {
            stream.is_judged(self.judged_for.contains(&stream.dscp()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_comes_back_from_its_word_with_its_numbers_and_the_limit_of_whoever_reads_it() {
        let second = Duration::from_secs(1);
        let limits = SlaLimits {
            loss: Some(0.01),
            latency: Some(second / 10),
            jitter: Some(second / 50),
            mos: Some(3.6),
        };
        let broken = |of, measured, limit| Why::Sla(9, Verdict::Broken(Evidence { of, measured, limit }));
        let all = [
            Why::Configured,
            Why::Heard,
            Why::Down(second * 2),
            Why::ToldDown,
            Why::CannotSend,
            Why::LinkDown,
            Why::LinkUp,
            Why::Narrow,
            Why::Wide,
            Why::CameUp,
            Why::Recovered,
            broken(SlaLimit::Loss, 0.0375, 0.01),
            broken(SlaLimit::Latency, 250.5, 100.0),
            broken(SlaLimit::Jitter, 31.25, 20.0),
            broken(SlaLimit::Mos, 2.5, 3.6),
            Why::Sla(13, Verdict::Kept(second * 30)),
            Why::BestOfWorst(0),
            Why::NotBestOfWorst(13),
        ];
        for why in all {
            assert_eq!(Why::unpack(why.pack(), |_| Some(limits)), Some(why));
        }
        assert_eq!(Why::unpack(all[11].pack(), |_| None), None, "of another policy");
        assert_eq!(Why::unpack(0, |_| Some(limits)), None);
    }
}
