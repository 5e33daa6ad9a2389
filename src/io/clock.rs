//! The clocks. Nothing else in popgate reads one.

use crate::model::{Instant, Now};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The first reading anybody took: near enough to when the process began, and the same for all threads.
static BEGINNING: OnceLock<std::time::Instant> = OnceLock::new();

/// Reads both clocks. All clocks of a process agree on when it began.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    beginning: std::time::Instant,
}

impl Clock {
    /// The process's clock; the first call sets its zero.
    pub fn new() -> Clock {
        Clock { beginning: *BEGINNING.get_or_init(std::time::Instant::now) }
    }

    /// What both clocks say. A wall clock set before 1970 reads as 1970: it only goes into records.
    pub fn now(&self) -> Now {
        let instant = Instant(u64::try_from(self.beginning.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { instant, unix_nanos: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX) }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_and_all_clocks_agree_on_it() {
        let (one, other) = (Clock::new(), Clock::new());
        let (first, second, third) = (one.now(), other.now(), one.now());
        assert!(first.instant <= second.instant && second.instant <= third.instant);
        // 2024-01-01: whoever runs this has a clock that is right to within a few years.
        assert!(first.unix_nanos > 1_704_067_200_000_000_000);
    }
}
