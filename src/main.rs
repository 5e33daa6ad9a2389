//! `popgate`: the command line; wiring only.

fn main() {}
