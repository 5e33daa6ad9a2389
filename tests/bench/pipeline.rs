//! `make bench`: the data plane without I/O, beside boringtun's `Tunn` and ring alone on the same packets in the same run.
//!
//! What is timed is the library alone, by the processor time of the thread that runs it: packets are sealed beforehand by
//! the clients' own `Tunn`s. The peers take turns with it, so that a noisy machine is noisy for all three, and get each
//! packet like it from where a receive has just put it; each figure is the median of the rounds. Writes
//! `target/bench/pipeline.json` and prints a table.
//!
//! `cases`: a packet by size, sessions, rules and tunnels. `supers`: super-packets. `stages`: where a packet's time goes.
//! `handshakes`: at the entrance and in the worker. `tunnels`: ten thousand of them, their memory, and what they cost
//! while idle. `workers`: what a second one adds. `tables`: rules and sessions by themselves.

mod cases;
mod handshakes;
mod measure;
mod pop;
mod stages;
mod supers;
mod tables;
mod tunnels;
mod workers;

use serde::Serialize;
use serde_json::{Map, Value};
use std::net::Ipv4Addr;

/// Packets between two looks at the clients.
pub const ROUND: usize = 4_096;
/// As `io` receives them.
pub const BATCH: usize = 64;
pub const ROUNDS: usize = 15;
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// One row of the result.
#[derive(Clone, Serialize)]
pub struct Row {
    pub name: String,
    pub direction: &'static str,
    /// Inner IP bytes; 0 for IMIX, or where there is no packet.
    pub bytes: usize,
    pub sessions: usize,
    pub rules: usize,
    pub tunnels: usize,
    pub workers: usize,
    /// Or per whatever the row is about.
    pub ns_per_packet: Option<f64>,
    /// boringtun's `Tunn` alone.
    pub tunn_ns_per_packet: Option<f64>,
    /// ring's ChaCha20-Poly1305 alone.
    pub ring_ns_per_packet: Option<f64>,
    /// To `Tunn`.
    pub ratio: Option<f64>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Row {
    /// A row about `case` without figures yet.
    pub fn new(name: String, direction: &'static str, case: cases::Case) -> Row {
        Row {
            name,
            direction,
            bytes: case.bytes,
            sessions: case.sessions,
            rules: case.rules,
            tunnels: case.tunnels,
            workers: 1,
            ns_per_packet: None,
            tunn_ns_per_packet: None,
            ring_ns_per_packet: None,
            ratio: None,
            more: Map::new(),
        }
    }

    /// With one more figure.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Row {
        self.more.insert(name.into(), value.into());
        self
    }
}

/// Which cases are to be run: those whose name holds one of the arguments of `cargo bench -- NAME`, or all.
pub struct Wanted(Vec<String>);

impl Wanted {
    pub fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|wanted| name.contains(wanted.as_str()))
    }
}

fn main() {
    let wanted = Wanted(std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect());
    // What looks at this process's memory comes before what leaves much of it behind.
    let mut rows = tunnels::rows(&wanted);
    rows.extend(cases::rows(&wanted));
    rows.extend(supers::rows(&wanted));
    rows.extend(stages::rows(&wanted));
    rows.extend(handshakes::rows(&wanted));
    rows.extend(workers::rows(&wanted));
    let rows = rows.iter().map(|row| serde_json::to_value(row).expect("a row is JSON"));
    let rows: Vec<Value> = rows.chain(tables::rows(&wanted)).collect();
    std::fs::create_dir_all("target/bench").expect("target/bench can be made");
    let json = serde_json::to_string_pretty(&rows).expect("rows are JSON");
    std::fs::write("target/bench/pipeline.json", json).expect("target/bench can be written");
}
