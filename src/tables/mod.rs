//! A candidate, compiled: immutable, numbered, ready to be looked up in.

mod device;

pub use device::{DeviceKind, DeviceSpec};
