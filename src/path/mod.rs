//! Paths: measured by probes and by the traffic itself, chosen by policy. Pure state machines; time comes as an argument.

mod arrivals;
mod clock;
mod copies;
mod echo;
mod history;
mod judge;
mod mos;
mod pace;
mod probe;
mod quality;
mod select;
mod shaper;
mod stamp;
mod stream;
mod tally;
mod turns;

pub use arrivals::{Arrivals, Counts};
pub use clock::Stamps;
pub use copies::{Firsts, Numbering, SHIM_BYTES, copied, dscp_of};
pub use echo::Echo;
pub use history::{History, Sample, SampledWay};
pub use judge::{Doubt, Evidence, Judge, Seen, Verdict};
pub use mos::mos;
pub use pace::{EXCHANGES, Pace, Stretch};
pub use probe::{Action, Prober, State};
pub use quality::{LONG, Measured, Quality, Way};
pub use select::{Bond, Candidate, Ranking, select, steer, takers};
pub use shaper::{Budget, Counters, FullClasses, Offered, QueueState, Shaper, Way as ShapedWay};
pub use stamp::{
    Asks, Message, News, OfStream, PROBE_ADDRESS, PathTag, Reply, Tells, ToldOfStream, news, reason, reflect,
    request, request_of_size,
};
pub use stream::{Stream, StreamAction};
pub use tally::{ByDscp, Tally};
pub use turns::Turns;
