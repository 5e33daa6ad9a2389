//! The data plane without sockets or clocks: a PoP and its branches, wired to each other in memory, time as an argument.
//!
//! `net` is the simulated network, `packets` builds and reads what hosts send; the rest are tests by subject.

#![expect(
    clippy::wrong_self_convention,
    reason = "`sim.from_lan(…)` reads as what happens: a packet comes from a LAN"
)]

mod accounts;
mod blocks;
mod breakout;
mod canaries;
mod captures;
mod chaos;
mod copies;
mod crowd;
mod cuts;
mod days;
mod drops;
mod failover;
#[path = "../figures/mod.rs"]
mod figures;
mod forwarding;
mod masquerade;
mod moves;
mod naming;
mod nat;
mod nat64;
mod nat_behaviour;
mod net;
mod oracle;
mod order;
mod outlet;
mod packets;
mod plane;
mod policy;
mod pops;
mod quality;
mod rubbish;
mod services;
mod shaping;
mod steering;
mod streams;
mod traces;
mod whereabouts;
mod why;
