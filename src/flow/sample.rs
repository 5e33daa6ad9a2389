//! Packet samples: one in so many, as it arrived.

use crate::model::{End, PathId, TenantId};

/// Bytes of a packet that a sample shows: all of the headers, and what a name is looked for in.
pub const SAMPLE_BYTES: usize = 128;

/// A packet of a session, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub tenant: TenantId,
    /// Its first bytes.
    pub header: Vec<u8>,
    pub is_ipv4: bool,
    /// Of the whole packet, bytes; of one segment, where many came as one.
    pub length: u32,
    pub from: End,
    pub arrived_on: Option<PathId>,
    pub to: End,
    pub left_on: Option<PathId>,
    /// It stands for so many.
    pub rate: u32,
    /// Of so many that have come since sampling began, by this worker; it begins again at 2^32.
    pub pool: u64,
}

/// Chooses packets: a countdown, and after each that is chosen a length drawn anew, so that no rhythm of the traffic's is
/// followed (RFC 5475 section 5.2.1: random n-out-of-N would need a draw for each).
#[derive(Debug)]
pub struct Sampler {
    left: u64,
    /// What the countdown began at.
    skip: u64,
    /// 0: none is chosen.
    rate: u32,
    pool: u64,
    state: u64,
}

impl Sampler {
    /// Chooses none until it is given a rate.
    pub fn seeded(seed: u64) -> Sampler {
        Sampler { left: u64::MAX, skip: u64::MAX, rate: 0, pool: 0, state: seed | 1 }
    }

    /// One in `rate` from now on, on average; 0 for none.
    pub fn set_rate(&mut self, rate: u32) {
        if rate != self.rate {
            self.rate = rate;
            self.pool = 0;
            self.begin();
        }
    }

    /// One in so many; 0 for none.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Whether one of `packets` more is chosen.
    #[inline]
    pub fn chooses(&mut self, packets: u64) -> bool {
        if self.left > packets {
            self.left -= packets;
            return false;
        }
        self.choose(packets)
    }

    /// Of so many packets one was last chosen.
    pub fn pool(&self) -> u64 {
        self.pool
    }

    #[cold]
    fn choose(&mut self, packets: u64) -> bool {
        let beyond = packets - self.left;
        self.pool = self.pool.wrapping_add(self.skip - self.left).wrapping_add(packets);
        self.begin();
        // What came with the chosen one counts towards the next. Of packets that come as one, one is chosen at most.
        self.left = self.left.saturating_sub(beyond).max(1);
        self.skip = self.left;
        self.rate != 0
    }

    fn begin(&mut self) {
        self.skip = match self.rate {
            0 => u64::MAX,
            1 => 1,
            // Evenly from 1 to 2 * rate - 1: on average the rate.
            rate => 1 + self.draw() % (2 * u64::from(rate) - 1),
        };
        self.left = self.skip;
    }

    /// Marsaglia's xorshift64: nobody gains by foreseeing it.
    fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_chosen_on_average_and_none_without_a_rate() {
        let mut sampler = Sampler::seeded(7);
        assert!((0..100_000).all(|_| !sampler.chooses(1)));
        for rate in [1, 10, 1_000] {
            sampler.set_rate(rate);
            let (packets, mut chosen) = (2_000 * u64::from(rate), 0u64);
            for _ in 0..packets {
                chosen += u64::from(sampler.chooses(1));
            }
            // Two thousand draws, each with a deviation of 0.58 of the rate: five of the sum's.
            assert!(chosen.abs_diff(2_000) < 150, "{chosen} of {packets} at 1 in {rate}");
            assert!(packets - sampler.pool() < 2 * u64::from(rate), "{} of {packets}", sampler.pool());
        }
    }

    #[test]
    fn packets_that_come_as_one_count_as_many() {
        let mut sampler = Sampler::seeded(7);
        sampler.set_rate(450);
        let chosen = (0..100_000).filter(|_| sampler.chooses(45)).count();
        assert!(chosen.abs_diff(10_000) < 400, "{chosen}");
    }
}
