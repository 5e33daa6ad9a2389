//! Paths: measured by probes, chosen by policy. Pure state machines; time comes as an argument.

mod probe;
mod quality;
mod select;
mod stamp;

pub use probe::{Action, Prober, State};
pub use quality::Quality;
pub use select::{Candidate, select};
pub use stamp::{Message, PROBE_ADDRESS, reflect, request};
