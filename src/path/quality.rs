//! What probes say of a path.

use std::time::Duration;

/// Smoothed round-trip time and its deviation (RFC 6298 section 2), and the loss among the last 100 probes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    srtt: Option<Duration>,
    rttvar: Duration,
    /// One bit a probe, newest lowest: set where no answer came.
    lost: u128,
    judged: u32,
}

const WINDOW: u32 = 100;

impl Quality {
    /// A probe was answered after `rtt`.
    pub fn answered(&mut self, rtt: Duration) {
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
        self.judge(false);
    }

    /// A probe was not answered in time.
    pub fn missed(&mut self) {
        self.judge(true);
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Smoothed mean deviation of the round-trip time.
    pub fn jitter(&self) -> Option<Duration> {
        self.srtt.map(|_| self.rttvar)
    }

    /// Share of the last 100 probes that went unanswered, 0 to 1.
    pub fn loss(&self) -> Option<f64> {
        let window = self.judged.min(WINDOW);
        (window > 0).then(|| f64::from((self.lost & ((1 << WINDOW) - 1)).count_ones()) / f64::from(window))
    }

    fn judge(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u128::from(lost);
        self.judged = self.judged.saturating_add(1);
    }
}
