//! Figures of paths: how long the gap was, what was lost, who moved. Simulator and lab write them into one file,
//! `target/bench/paths.json`: an array of objects, one for each scenario, place and class.
//!
//! Tests in parallel threads and processes add to it: each takes a lock, reads what is there, puts its row in the place of
//! its like, and renames. A row is thus of the last run that measured it.

#![allow(dead_code, reason = "the simulator's tests and the lab's do not measure the same things")]

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// In virtual time, or with real processes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    Sim,
    Lab,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    scenario: String,
    #[serde(rename = "where")]
    place: Where,
    class: String,
    runs: usize,
    gap_p50_ms: Option<f64>,
    gap_p99_ms: Option<f64>,
    lost: u64,
    moves: u64,
    false_moves: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What a row replaces, and what is in order.
const KEY: [&str; 3] = ["scenario", "where", "class"];

impl Figure {
    /// One run in which nothing was lost and nobody moved.
    pub fn new(scenario: &str, place: Where, class: &str) -> Figure {
        Figure {
            scenario: scenario.to_owned(),
            place,
            class: class.to_owned(),
            runs: 1,
            gap_p50_ms: None,
            gap_p99_ms: None,
            lost: 0,
            moves: 0,
            false_moves: 0,
            more: Map::new(),
        }
    }

    /// How often it was tried.
    pub fn runs(mut self, runs: usize) -> Figure {
        self.runs = runs;
        self
    }

    /// The gap of each run, in milliseconds.
    pub fn gaps(mut self, gaps: &[f64]) -> Figure {
        self.runs = gaps.len();
        self.gap_p50_ms = percentile(gaps, 50).map(tenths);
        self.gap_p99_ms = percentile(gaps, 99).map(tenths);
        self.with("gap_max_ms", percentile(gaps, 100).map(tenths))
    }

    /// Packets that did not arrive, in all runs.
    pub fn lost(mut self, packets: u64) -> Figure {
        self.lost = packets;
        self
    }

    /// Moves that had their reason, in all runs.
    pub fn moves(mut self, moves: u64) -> Figure {
        self.moves = moves;
        self
    }

    /// Moves that had none.
    pub fn false_moves(mut self, moves: u64) -> Figure {
        self.false_moves = moves;
        self
    }

    /// What else is worth knowing.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Figure {
        let value = serde_json::to_value(value).expect("a number or a word");
        self.more.insert(name.to_owned(), value);
        self
    }

    /// Prints the row, and writes it down.
    pub fn record(self) {
        let row = serde_json::to_value(&self).expect("a row");
        println!("figure: {row}");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&directory).expect("target/bench can be made");
        record_in(&directory, row);
    }
}

/// One direction of a call: numbered packets, when each was sent, and which came when, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub sent: Vec<f64>,
    pub came: Vec<(usize, f64)>,
}

impl Stream {
    /// The longest time without a packet at the receiving host, less the `spacing` that is usual.
    pub fn gap(&self, within: Range<f64>, spacing: f64) -> f64 {
        let mut times: Vec<f64> =
            self.came.iter().map(|(_, at)| *at).filter(|at| within.contains(at)).collect();
        times.sort_by(f64::total_cmp);
        let last = times.last().copied().unwrap_or(within.start);
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]).chain([within.end - last]);
        (gaps.fold(0.0, f64::max) - spacing).max(0.0)
    }

    /// Of the packets that were sent so long: how many have not come, and how many came more than once.
    pub fn lost(&self, within: Range<f64>) -> [u64; 2] {
        let mut times = vec![0_u64; self.sent.len()];
        self.came.iter().for_each(|(number, _)| times[*number] += 1);
        let of = self.sent.iter().zip(&times).filter(|(at, _)| within.contains(at));
        of.fold([0, 0], |[lost, twice], (_, times)| {
            [lost + u64::from(*times == 0), twice + u64::from(*times > 1)]
        })
    }

    /// How a call made of the packets that were sent so long has sounded: half of them took that latency or less, and the
    /// jitter is RFC 3550's (section 6.4.1) at the end.
    pub fn mos(&self, within: Range<f64>) -> f64 {
        let took: Vec<f64> = self
            .came
            .iter()
            .filter(|(number, _)| within.contains(&self.sent[*number]))
            .map(|(number, at)| at - self.sent[*number])
            .collect();
        let jitter = took.windows(2).fold(0.0, |jitter, pair| {
            let difference = f64::abs(pair[1] - pair[0]);
            jitter + (difference - jitter) / 16.0
        });
        let lost = self.lost(within.clone())[0] as f64;
        let sent = self.sent.iter().filter(|at| within.contains(at)).count() as f64;
        let millis = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let latency = percentile(&took, 50).unwrap_or_default();
        popgate::path::mos(millis(latency), millis(jitter), lost / sent.max(1.0))
    }
}

/// The value that so many of a hundred do not exceed (nearest rank).
pub fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

fn tenths(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

fn record_in(directory: &Path, row: Value) {
    // A file of its own: the other is replaced under those who wait for it.
    let lock = File::create(directory.join("paths.lock")).expect("target/bench can be written");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    let file = directory.join("paths.json");
    let text = std::fs::read(&file).unwrap_or_default();
    // What a broken run left is measured anew.
    let mut rows: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
    let key = |row: &Value| KEY.map(|name| row[name].as_str().unwrap_or_default().to_owned());
    rows.retain(|known| key(known) != key(&row));
    rows.push(row);
    rows.sort_by_key(key);
    let whole = serde_json::to_string_pretty(&rows).expect("rows") + "\n";
    let next = directory.join("paths.json.next");
    std::fs::write(&next, whole).expect("target/bench can be written");
    std::fs::rename(&next, &file).expect("renamed");
}

#[test]
fn rows_of_many_at_once_are_all_there_and_each_in_the_place_of_its_like() {
    let directory = tempfile::tempdir().expect("a directory");
    std::thread::scope(|scope| {
        for class in ["voice", "bulk", "default"] {
            let directory = directory.path();
            scope.spawn(move || {
                for lost in 0..20 {
                    let row = Figure::new("cut", Where::Sim, class).gaps(&[40.0, 20.0, 60.04]).lost(lost);
                    record_in(directory, serde_json::to_value(row).expect("a row"));
                }
            });
        }
    });
    let text = std::fs::read(directory.path().join("paths.json")).expect("written");
    let rows: Vec<Value> = serde_json::from_slice(&text).expect("an array");
    let told: Vec<_> = rows.iter().map(|row| (row["class"].as_str(), row["lost"].as_u64())).collect();
    assert_eq!(told, [(Some("bulk"), Some(19)), (Some("default"), Some(19)), (Some("voice"), Some(19))]);
    assert_eq!((&rows[0]["gap_p50_ms"], &rows[0]["gap_p99_ms"]), (&40.0.into(), &60.0.into()));
    assert_eq!((&rows[0]["where"], &rows[0]["runs"]), (&"sim".into(), &3.into()));
}
