//! The flow history: how fast records are kept and how small, and how fast it answers who the top talkers are; beside DuckDB on
//! the same files and SQLite on the same rows.
//!
//! A PoP's morning: 10 million records in ten hours, of 2,000 hosts, to 20,000 others of which few are met often. `FLOWS=n` has
//! another number of records. What is kept at 250,000 a second, in the same run, is how fast it can be: of processor time, with the
//! making of files. Figures are merged into `target/bench/flows.json`.

use crate::Wanted;
use crate::export::write_figure;
use crate::measure::{cpu_time, since};
use popgate::store::flows::{Counted, Flows, Limits, LocalDisk, Part, Row, Told, Want};
use popgate::store::query::{self, History, Question};
use popgate::store::report::{FlowAnswer, FlowQuestion, FlowRange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MORNING: u64 = 10 * 3_600_000;
/// 2026-11-22T00:00Z.
const BEGIN: u64 = 1_795_305_600_000;
const HOSTS: f64 = 2_000.0;
const OTHERS: f64 = 20_000.0;

struct Kept(Flows);

impl History for Kept {
    fn parts(&self, tenant: Option<&str>, from: u64, until: u64, want: Want) -> Vec<Part> {
        self.0.parts(tenant, from, until, want).expect("read")
    }

    fn complete_from(&self, tenant: Option<&str>, want: Want) -> u64 {
        self.0.complete_from(tenant, want)
    }
}

pub fn rows(wanted: &Wanted) -> Vec<Value> {
    if !wanted.has("flows: keep") {
        return Vec::new();
    }
    let count = std::env::var("FLOWS").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000_000);
    let fast = TempDir::new().expect("a directory");
    let (_, fast_ns, fast_bytes) = keep(fast.path(), count / 4, count / 4 * 1_000 / 250_000);
    drop(fast);
    let start_ms = start_after_a_crash();
    let dir = TempDir::new().expect("a directory");
    let (kept, ns, bytes) = keep(dir.path(), count, MORNING);
    let whole = |name: &str, filter: &str| {
        let range = FlowRange::Between { from_unix_ms: BEGIN, until_unix_ms: BEGIN + MORNING };
        let question = FlowQuestion {
            filter: filter.to_owned(),
            range,
            by: vec!["src".to_owned()],
            sums: vec!["bytes".to_owned()],
            top: Some(10),
            ..FlowQuestion::default()
        };
        let question = Question::read(&question, BEGIN + MORNING).expect("a question");
        let (ms, answer) = best(|| ask(&kept, &question));
        println!("{name:44} {ms:>8.1} ms, {} rows read", answer.rows_read);
        (ms, answer)
    };
    // No roll-up knows of ports.
    let (raw, from_rows) = whole("flows: top talkers from rows", "dport > 0");
    let (rollup, from_rollup) = whole("flows: top talkers from roll-ups", "");
    assert_eq!(from_rows.rows, from_rollup.rows, "the same");
    let beside = beside(dir.path());
    let figure = |name: &str| beside.get(name).and_then(Value::as_f64);
    let (duckdb, sqlite) = (figure("duckdb_ms"), figure("sqlite_ms"));
    if let (Some(duckdb), Some(sqlite)) = (duckdb, sqlite) {
        println!(
            "flows: beside it                              DuckDB {duckdb:.1} ms, SQLite {sqlite:.1} ms"
        );
        assert_eq!(
            beside["top"],
            json!(from_rows.rows.first().map(|row| json!(row))),
            "DuckDB and SQLite come to the same"
        );
    }
    write_figure("store_records_per_s", (1e9 / fast_ns).round().into());
    write_figure("bytes_per_record", round(bytes).into());
    write_figure("top_raw_ms", round(raw).into());
    write_figure("top_rollup_ms", round(rollup).into());
    write_figure("top_ratio_to_duckdb", duckdb.map(|other| round(other / raw)).into());
    write_figure("top_ratio_to_sqlite", sqlite.map(|other| round(other / raw)).into());
    vec![json!({
        "name": "flows: keep",
        "records": count,
        "ns_per_record": ns,
        "bytes_per_record": bytes,
        "at_250000_a_second": { "ns_per_record": fast_ns, "bytes_per_record": fast_bytes },
        "start_after_a_crash_ms": start_ms,
        "top_raw_ms": raw,
        "top_rollup_ms": rollup,
        "beside": beside,
    })]
}

/// Keeps `count` records in as many milliseconds, the making of files included. How long each took, of processor time, and
/// how many bytes it has on disk, roll-ups included.
fn keep(dir: &Path, count: u64, millis: u64) -> (Kept, f64, f64) {
    let ever = Duration::from_secs(1 << 32);
    let limits = Limits { keep: ever, keep_rollups: ever, tenant_bytes: u64::MAX, is_copied: false };
    let mut flows = Flows::open(dir.to_owned(), limits, Box::new(LocalDisk), BEGIN);
    let mut rng = StdRng::seed_from_u64(1);
    let names: Vec<String> = (0..5_000).map(|n| format!("host{n}.example{}.com", n % 300)).collect();
    let mut taken = 0.0;
    let mut now = BEGIN;
    let mut together = Vec::with_capacity(4_096);
    let settle = |flows: &mut Flows, now| {
        while let Some(job) = flows.work(now) {
            flows.done(job.run(), now);
        }
    };
    for n in 0..count {
        now = BEGIN + n * millis / count;
        together.push(record(n, now, &names, &mut rng));
        if together.len() == together.capacity() || n + 1 == count {
            let begin = cpu_time();
            for row in together.drain(..) {
                assert!(flows.take(&row, now), "there is room");
            }
            settle(&mut flows, now);
            taken += since(begin);
        }
    }
    let begin = cpu_time();
    flows.close_log(now);
    settle(&mut flows, now);
    taken += since(begin);
    let state = flows.state();
    assert_eq!((state.problem, state.lost, state.in_memory), (None, 0, 0));
    let (ns, bytes) = (taken / count as f64, state.bytes as f64 / count as f64);
    println!(
        "flows: keep {count:>9} in {:>6} s               {ns:>6.0} ns a record, {:.0} a second, {bytes:.1} bytes each",
        millis / 1_000,
        1e9 / ns
    );
    (Kept(flows), ns, bytes)
}

/// How long a box takes to begin with a log as long as they get, of which no file has been made; in milliseconds.
fn start_after_a_crash() -> f64 {
    const ROWS: u64 = 500_000;
    let dir = TempDir::new().expect("a directory");
    let ever = Duration::from_secs(1 << 32);
    let limits = Limits { keep: ever, keep_rollups: ever, tenant_bytes: u64::MAX, is_copied: false };
    let open = || Flows::open(dir.path().to_owned(), limits, Box::new(LocalDisk), BEGIN);
    let mut flows = open();
    let mut rng = StdRng::seed_from_u64(2);
    let names: Vec<String> = (0..5_000).map(|n| format!("host{n}.example.com")).collect();
    for n in 0..ROWS {
        assert!(flows.take(&record(n, BEGIN + n, &names, &mut rng), BEGIN), "there is room");
    }
    flows.sync(BEGIN);
    drop(flows);
    let (ms, flows) = best(open);
    assert_eq!(flows.state().in_memory, ROWS);
    println!("flows: start after a crash with {ROWS} in the log   {ms:>8.1} ms");
    ms
}

fn record<'a>(n: u64, now: u64, names: &'a [String], rng: &mut StdRng) -> Row<'a> {
    let host = (rng.random::<f64>().powi(2) * HOSTS) as u32;
    let other = (rng.random::<f64>().powi(4) * OTHERS) as u32;
    let is_voice = rng.random_bool(0.05);
    let is_udp = is_voice || rng.random_bool(0.4);
    let bytes = (40.0 * (rng.random::<f64>() * 10.0).exp()) as u64;
    let back = bytes * rng.random_range(1..8);
    let nat_port = 1_024 + (host % 63) as u16 * 1_024 + rng.random_range(0..1_024);
    let [class, rule] = if is_voice {
        ["voice", "voice"]
    } else {
        [["default", "voice", "bulk", "erp"][other as usize % 4], "out"]
    };
    Row {
        tenant: "acme",
        start: now - (rng.random::<f64>().powi(3) * 60_000.0) as u64,
        end: now,
        session: n,
        protocol: if is_udp { "udp" } else { "tcp" },
        source: (
            IpAddr::from([10, 1, (host / 250) as u8, (host % 250) as u8]),
            rng.random_range(32_768..61_000),
        ),
        destination: (
            IpAddr::from([203, (other / 10_000) as u8, (other / 250 % 40) as u8, (other % 250) as u8]),
            if is_udp && !is_voice { 53 } else { 443 },
        ),
        nat_source: Some((IpAddr::from([198, 51, 100, (host % 16) as u8]), nat_port)),
        nat_destination: None,
        from: ["paris", "lyon", "nice", "lille"][host as usize % 4],
        to: "internet",
        class,
        class_by: "rule",
        app: None,
        name: (!other.is_multiple_of(4)).then(|| names[other as usize % names.len()].as_str()),
        rule,
        dscp: if is_voice { 46 } else { 0 },
        forward_path: Some(["dsl", "lte"][usize::from(rng.random_bool(0.1))]),
        reverse_path: Some("dsl"),
        forward: Counted { packets: bytes / 700 + 1, bytes },
        reverse: Counted { packets: back / 1_000 + 1, bytes: back },
        tcp_flags: if is_udp { 0 } else { 0x1b },
        generation: 3,
        end_reason: ["end-of-flow", "idle-timeout", "active-timeout"][other as usize % 3],
        told: Told::default(),
    }
}

fn ask(kept: &Kept, question: &Question) -> FlowAnswer {
    let limits = query::Limits { threads: 2, most_groups: query::Limits::MOST_GROUPS, expired: &|| false };
    query::answer(question, kept, &limits).expect("answered")
}

/// The quickest of seven, in milliseconds: what else the machine does only adds to it.
fn best<R>(mut work: impl FnMut() -> R) -> (f64, R) {
    let mut best = f64::INFINITY;
    let mut last = work();
    for _ in 0..7 {
        let begin = Instant::now();
        last = work();
        best = best.min(begin.elapsed().as_secs_f64() * 1e3);
    }
    (best, last)
}

/// What DuckDB and SQLite take, by the program beside this one; each is given the best of seven too, and two threads.
fn beside(dir: &Path) -> Value {
    let popgate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .env("PYTHONPATH", popgate.join("target/tools/flow-readers"))
        .arg(popgate.join("tests/bench/flows_beside.py"))
        .arg(dir)
        .output();
    match output {
        Ok(output) if output.status.success() => serde_json::from_slice(&output.stdout).expect("JSON"),
        Ok(output) => {
            println!("flows: nothing beside it: {}", String::from_utf8_lossy(&output.stderr));
            Value::Null
        }
        Err(error) => {
            println!("flows: nothing beside it: {error}");
            Value::Null
        }
    }
}

fn round(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}
