//! Packets: checked views of what is on the wire, and the batches they travel in.

mod batch;

pub use batch::{Batch, Ingress, Outbound, SLOT_BYTES};
