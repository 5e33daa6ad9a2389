//! Time as an argument. Only `io` reads a clock; everything else is told.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// How long ago `earlier` was; zero if it is still to come.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.since(rhs)
    }
}

/// One reading of both clocks: the monotonic one, which decides, and the wall clock, which is only written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Decides every timeout.
    pub instant: Instant,
    /// Nanoseconds since the Unix epoch; goes into records and STAMP timestamps, decides nothing.
    pub unix_nanos: u64,
}

impl Now {
    /// The wall clock's reading when the monotonic clock stood at `then`, in milliseconds since the Unix epoch.
    pub fn unix_millis_at(self, then: Instant) -> u64 {
        let age = self.instant.0.saturating_sub(then.0);
        self.unix_nanos.saturating_sub(age) / 1_000_000
    }
}

impl Add<Duration> for Now {
    type Output = Now;
    fn add(self, rhs: Duration) -> Now {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Now { instant: self.instant + rhs, unix_nanos: self.unix_nanos.saturating_add(nanos) }
    }
}
