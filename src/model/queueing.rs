//! How much may be sent, and whose turn it is.

use std::num::NonZeroU64;
use std::time::Duration;

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// A rate of so many bits per second; `None` if that is none.
    pub fn bits_per_second(bits: u64) -> Option<Rate> {
        NonZeroU64::new(bits).map(Rate)
    }

    /// How long so many bytes take.
    pub fn time_of(self, bytes: usize) -> Duration {
        const NANO_BITS: u64 = 8 * 1_000_000_000;
        Duration::from_nanos((bytes as u64).saturating_mul(NANO_BITS) / self.0)
    }

    /// How many bytes go in so much time.
    pub fn bytes_in(self, time: Duration) -> usize {
        let bytes = u128::from(self.0.get()) * time.as_nanos() / (8 * 1_000_000_000);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// `percent` of it.
    pub fn share(self, percent: u64) -> Rate {
        let bits = u128::from(self.0.get()) * u128::from(percent) / 100;
        Rate(u64::try_from(bits).ok().and_then(NonZeroU64::new).unwrap_or(NonZeroU64::MIN))
    }
}

/// When a class's packets leave, where others wait too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queueing {
    /// Before all others, within a share.
    Priority,
    /// In turn with others, with so large a share beside theirs.
    Weight(u8),
}

impl Queueing {
    /// A class's that says nothing: in the middle, so that others can have less.
    pub const DEFAULT_WEIGHT: u8 = 10;
}

impl Default for Queueing {
    fn default() -> Self {
        Queueing::Weight(Queueing::DEFAULT_WEIGHT)
    }
}
