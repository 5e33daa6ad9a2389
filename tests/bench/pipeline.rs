//! `make bench`: the data plane without I/O, beside boringtun's `Tunn` and ring alone on the same packets in the same run.
//!
//! What is timed is the library alone, by the processor time of the thread that runs it: packets are sealed beforehand by
//! the clients' own `Tunn`s. The peers take turns with it, so that a noisy machine is noisy for all three, and get each
//! packet like it from where a receive has just put it; each figure is the median of the rounds. Writes
//! `target/bench/pipeline.json` and prints a table.
//!
//! `cases`: a packet by size, sessions, rules and tunnels. `supers`: super-packets. `stages`: where a packet's time goes.
//! `handshakes`: at the entrance and in the worker. `tunnels`: ten thousand of them, their memory, and what they cost
//! while idle. `workers`: what a second one adds. `tables`: rules and sessions by themselves. `bindings`: those of NAT.
//! `steering`: a packet where there are two paths. `shaping`: one where a bandwidth is limited. `classify`: names in the first bytes of flows. `ledger`: the NAT ledger, on
//! disk. `probes`: five thousand paths, probed, and what is decided by it. `export`: flow records into messages, whose figure
//! goes into `target/bench/flows.json`. `flows`: the flow history, on disk, whose figures go there too.

mod bindings;
mod cases;
mod classify;
mod commits;
mod export;
mod flows;
mod handshakes;
#[path = "../large/mod.rs"]
mod large;
mod ledger;
mod measure;
mod pop;
mod probes;
mod shaping;
mod stages;
mod steering;
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

/// Cases that look at this process's memory, and what shares their set-up: each is run by a process of its own, where
/// nothing has left memory behind.
const APART: [&str; 3] = ["tunnels", "table", "sessions"];

fn main() {
    let (options, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let apart = options.iter().find_map(|option| option.strip_prefix("--apart="));
    let wanted = Wanted(names);
    let rows = match apart {
        Some("tunnels") => values(tunnels::rows(&wanted)),
        Some("table") => tables::table_rows(&wanted),
        Some(_) => tables::memory_rows(&wanted),
        None => all(&wanted),
    };
    std::fs::create_dir_all("target/bench").expect("target/bench can be made");
    let json = serde_json::to_string_pretty(&rows).expect("rows are JSON");
    std::fs::write(file(apart), json).expect("target/bench can be written");
}

fn all(wanted: &Wanted) -> Vec<Value> {
    let mut rows: Vec<Value> = APART.iter().flat_map(|part| run_apart(part, wanted)).collect();
    rows.extend(values(cases::rows(wanted)));
    rows.extend(values(supers::rows(wanted)));
    rows.extend(values(stages::rows(wanted)));
    rows.extend(values(steering::rows(wanted)));
    rows.extend(values(shaping::rows(wanted)));
    rows.extend(values(handshakes::rows(wanted)));
    rows.extend(values(workers::rows(wanted)));
    rows.extend(values(probes::rows(wanted)));
    rows.extend(tables::rows(wanted));
    rows.extend(bindings::rows(wanted));
    rows.extend(classify::rows(wanted));
    rows.extend(commits::rows(wanted));
    rows.extend(ledger::rows(wanted));
    rows.extend(export::rows(wanted));
    rows.extend(flows::rows(wanted));
    rows
}

fn values(rows: Vec<Row>) -> Vec<Value> {
    rows.iter().map(|row| serde_json::to_value(row).expect("a row is JSON")).collect()
}

fn run_apart(part: &str, wanted: &Wanted) -> Vec<Value> {
    let this = std::env::current_exe().expect("Linux tells");
    let status = std::process::Command::new(this).args(&wanted.0).arg(format!("--apart={part}")).status();
    assert!(status.is_ok_and(|status| status.success()), "{part} apart: it says why");
    let json = std::fs::read(file(Some(part))).expect("it has written it");
    std::fs::remove_file(file(Some(part))).expect("it is ours");
    serde_json::from_slice(&json).expect("it is JSON")
}

fn file(apart: Option<&str>) -> String {
    format!("target/bench/{}.json", apart.unwrap_or("pipeline"))
}
