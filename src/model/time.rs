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

/// A date and a time of day, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: u64,
    /// From 1 on.
    pub month: u64,
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

impl Civil {
    /// The date at `unix_secs` since the Unix epoch.
    pub fn at(unix_secs: u64) -> Civil {
        // Howard Hinnant's civil_from_days, for dates after 1970 alone.
        let days = unix_secs / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Civil {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: unix_secs / 3_600 % 24,
            minute: unix_secs / 60 % 60,
            second: unix_secs % 60,
        }
    }

    /// Seconds since the Unix epoch; `None` if there is no such date, or it was before.
    pub fn unix_secs(self) -> Option<u64> {
        let Civil { year, month, day, hour, minute, second } = self;
        // Its days_from_civil.
        if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        let year = if month <= 2 { year - 1 } else { year };
        let (era, year_of_era) = (year / 400, year % 400);
        let day_of_year =
            (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day.checked_sub(1)?;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
        let secs = days * 86_400 + hour * 3_600 + minute * 60 + second;
        // The 31st of February comes out as another day.
        (Civil::at(secs) == self).then_some(secs)
    }
}

impl Add<Duration> for Now {
    type Output = Now;
    fn add(self, rhs: Duration) -> Now {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Now { instant: self.instant + rhs, unix_nanos: self.unix_nanos.saturating_add(nanos) }
    }
}
