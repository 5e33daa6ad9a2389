//! `popgate-lab`: the lab.

fn main() {}
