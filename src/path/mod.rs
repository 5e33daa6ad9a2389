//! Paths: measured by probes and by the traffic itself, chosen by policy. Pure state machines; time comes as an argument.

mod arrivals;
mod clock;
mod judge;
mod mos;
mod probe;
mod quality;
mod select;
mod stamp;

pub use arrivals::{Arrivals, Counts};
pub use clock::Stamps;
pub use judge::{Evidence, Judge, Seen, Verdict};
pub use mos::mos;
pub use probe::{Action, Prober, State};
pub use quality::{LONG, Measured, Quality, Way};
pub use select::{Candidate, select};
pub use stamp::{Message, PROBE_ADDRESS, Reply, reflect, request};
