//! Sessions: the one table with one lifecycle, what it holds, and what is written down of it.

mod fragments;
mod index;
mod nat;
mod record;
mod sample;
mod session;
mod story;
mod table;
mod tcp;
#[cfg(test)]
mod tests;

pub use crate::model::End;
pub use fragments::{DatagramKey, Fragments, Trail};
pub use nat::{Binding, PortChange, PortEvent, Ports, UNIT, Wish};
pub use record::{DirectionRecord, EndReason, FlowRecord};
pub use sample::{SAMPLE_BYTES, Sample, Sampler};
pub use session::{Counters, Plan, Session, Translation};
pub use story::{Cause, Denied, Moved, MovedBy, Moves, Stories, Story};
pub use table::{InsertError, SessionRef, SessionTable};
pub use tcp::TcpState;
