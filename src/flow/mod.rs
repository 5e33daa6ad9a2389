//! Sessions and what is written down of them.

mod record;

pub use record::{DirectionRecord, End, EndReason, FlowRecord};
