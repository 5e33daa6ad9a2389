//! popgate: the box at the edge of a provider's point of presence, and the box in each branch.

pub mod admin;
pub mod config;
pub mod control;
pub mod export;
pub mod flow;
pub mod io;
pub mod lab;
pub mod model;
pub mod path;
pub mod pipeline;
pub mod run;
pub mod tables;
pub mod tunnel;
pub mod wire;
