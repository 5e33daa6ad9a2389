//! popgate end to end: real processes on real sockets, stock WireGuard peers and plain hosts, in a lab of network
//! namespaces. One module for each thing that must hold; what they share is in `world` and `hosts`.
//!
//! Needs root and Debian's packages (`make setup` installs them). What was measured is printed: `--nocapture` shows it.

mod access;
mod acl;
mod acme;
mod api;
mod branches;
mod breakout;
mod brownouts;
mod calls;
mod captures;
#[path = "../collectors/mod.rs"]
mod collectors;
mod commits;
mod console;
mod demo;
mod enrolment;
mod exporting;
mod failover;
#[path = "../figures/mod.rs"]
mod figures;
mod history;
mod hops;
mod hosts;
mod ipv6;
mod isolation;
#[path = "../large/mod.rs"]
mod large;
mod ledger;
mod links;
mod masquerade;
mod names;
mod nat;
mod oidc;
mod oneway;
mod order;
mod paths;
mod programs;
mod reload;
mod restart;
mod rubbish;
mod shaping;
mod stock;
mod stun;
mod tls;
mod traces;
mod transfers;
mod whereabouts;
mod world;
