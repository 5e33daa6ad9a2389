//! The data plane as a function.

pub mod report;
