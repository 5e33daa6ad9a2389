//! Configuration: TOML files in, a [`Candidate`] out, or all problems at once as `file:line: message`.

mod candidate;

pub use candidate::*;
