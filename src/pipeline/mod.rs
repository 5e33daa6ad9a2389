//! The data plane as a function: packets in; packets, drops and records out. No sockets, no clock, no locks; tests,
//! fuzzers, the simulator and the real I/O drive the same code.

mod answers;
mod capture;
mod decide;
mod drops;
mod entrance;
mod explain;
mod gauge;
mod inspections;
mod journal;
mod learned;
mod leases;
mod nat;
mod outlet;
mod paths;
mod quotas;
mod recording;
mod rehearse;
pub mod report;
mod rules;
mod steering;
mod team;
mod tenants;
mod trace;
mod whereabouts;
mod worker;

pub use answers::{SessionScan, describe_record};
pub use capture::{CaptureInterface, CaptureSpec, CapturedPacket, PacketFilter};
pub use decide::{Decision, Observer, Question, Way, decide};
pub use drops::Drops;
pub use entrance::Entrance;
pub use explain::explain;
pub use recording::{Measured, replay};
pub use rehearse::{Rehearsed, rehearse, rehearse_all};
pub use rules::Logged;
pub use steering::{Steered, steer};
pub use team::Team;
pub use worker::{DeadLinks, Worker};
