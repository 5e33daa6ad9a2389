//! What an app class needs of a path.

use std::time::Duration;

/// How many of a tenant's path policies may have an SLA: workers tell each other how a path stands in one word.
pub const MAX_SLA_POLICIES: usize = 14;

/// The limits of an SLA class, of one direction; what is `None` may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlaLimits {
    /// Share of packets lost, 0 to 1.
    pub loss: Option<f64>,
    /// One-way latency that 95 of 100 packets must keep to.
    pub latency: Option<Duration>,
    /// Interarrival jitter (RFC 3550).
    pub jitter: Option<Duration>,
    /// A call's mean opinion score, 1 to 5; the least.
    pub mos: Option<f64>,
}

/// Which of an SLA class's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlaLimit {
    Loss,
    Latency,
    Jitter,
    Mos,
}

/// A path's place among those of a class, where some are equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Equal ones have the same number, and stand beside each other.
    pub group: u16,
    /// How much of what goes by them all it takes, beside the others' weights; more than 0.
    pub weight: f32,
}

/// What is done for an app class's packets beyond sending them by its best path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remediation {
    #[default]
    None,
    /// They go by the next path as well while the best one may be dead.
    DuplicateOnSuspect,
    /// They always do.
    DuplicateAlways,
}

/// What becomes of an app class's running sessions when another path is better for new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resilience {
    /// Each stays on the path that it began on, and is lost with it.
    None,
    /// They leave a path that is dead or breaks their SLA, and do not come back.
    Failover,
    /// They always take the best.
    #[default]
    Revertible,
}

/// What to do where no path keeps to an app class's SLA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnViolation {
    /// Take the one that breaks it least.
    #[default]
    BestOfWorst,
    /// Take the first in the order that is alive.
    Backup,
    /// Drop.
    Strict,
}
