//! The rows: medians over the runs, the ratios to boringtun, the table and the JSON.

use super::Failure;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// In every row, `null` where there is no such thing.
const ALWAYS: [&str; 5] = ["lossless_kpps", "overload_kpps", "cpu_s_per_gb", "rss_mb", "ratio_to_boringtun"];
/// What the table shows, if a case has it, and what it calls it; digits behind the point.
const SHOWN: [(&str, &str, usize); 19] = [
    ("lossless_kpps", "lossless kpps", 0),
    ("overload_kpps", "overload kpps", 0),
    ("ns_per_packet", "ns a packet", 0),
    ("mbit_s", "Mbit/s", 0),
    ("retransmits", "retransmits", 0),
    ("out_of_order", "out of order", 0),
    ("reordered", "reordered", 0),
    ("p50_ms", "p50 ms", 3),
    ("p99_ms", "p99 ms", 3),
    ("before_kpps", "before it, kpps", 0),
    ("flooded_kpps", "under it, kpps", 0),
    ("throughput_lost", "throughput lost", 3),
    ("flood_per_s", "initiations/s", 0),
    ("newcomer_s", "new peer in after s", 2),
    ("cpu_s_per_gb", "CPU s/GB", 2),
    ("rss_mb", "RSS MB", 0),
    ("idle_cpu_percent", "idle CPU %", 1),
    ("wrong", "wrong packets", 0),
    ("ratio_to_boringtun", "to boringtun", 2),
];

/// What a row is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    pub case: String,
    pub direction: &'static str,
    pub peers: usize,
    pub bytes: usize,
    pub burst: usize,
}

/// What was measured, by name.
pub type Figures = BTreeMap<&'static str, f64>;

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

struct Row {
    subject: Subject,
    dut: &'static str,
    /// One a run.
    runs: Vec<Figures>,
    note: Option<String>,
}

impl Report {
    pub fn add(&mut self, subject: &Subject, dut: &'static str, result: Result<Figures, String>) {
        let found = self.rows.iter_mut().find(|row| row.subject == *subject && row.dut == dut);
        let row = match found {
            Some(row) => row,
            None => {
                self.rows.push(Row { subject: subject.clone(), dut, runs: Vec::new(), note: None });
                self.rows.last_mut().expect("just pushed")
            }
        };
        match result {
            Ok(figures) => row.runs.push(figures),
            Err(note) => row.note = Some(note),
        }
    }

    /// Medians; with the ratio to the best boringtun of the same case. Where there are two such ratios, lossless and under
    /// overload, it is the smaller.
    fn figures(&self, row: &Row) -> Figures {
        let mut figures = medians(&row.runs);
        let of_boringtun: Vec<Figures> = self
            .rows
            .iter()
            .filter(|other| other.subject == row.subject && other.dut.starts_with("boringtun"))
            .map(|row| medians(&row.runs))
            .collect();
        // More is better of these.
        let mut ratios = ["lossless_kpps", "overload_kpps", "mbit_s"].into_iter().filter_map(|measure| {
            let ours = figures.get(measure)?;
            let best =
                of_boringtun.iter().filter_map(|figures| figures.get(measure)).fold(0.0, |a, b| b.max(a));
            (best > 0.0).then_some(ours / best)
        });
        if let Some(first) = ratios.next() {
            let smallest = ratios.fold(first, f64::min);
            figures.insert("ratio_to_boringtun", smallest);
        }
        figures
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let rows = self.rows.iter().map(|row| {
            let Subject { case, direction, peers, bytes, burst } = &row.subject;
            let mut object = Map::new();
            for (key, value) in [
                ("case", json!(case)),
                ("direction", json!(direction)),
                ("peers", json!(peers)),
                ("bytes", json!(bytes)),
                ("burst", json!(burst)),
                ("dut", json!(row.dut)),
                ("runs", json!(row.runs.len())),
            ] {
                object.insert(key.to_owned(), value);
            }
            ALWAYS.iter().for_each(|key| drop(object.insert((*key).to_owned(), Value::Null)));
            for (key, value) in self.figures(row) {
                object.insert(key.to_owned(), json!((value * 1e4).round() / 1e4));
            }
            if let Some(note) = &row.note {
                object.insert("note".to_owned(), json!(note));
            }
            Value::Object(object)
        });
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?)?;
        Ok(())
    }

    /// The devices side by side, case by case.
    pub fn print(&self) {
        let mut duts: Vec<&str> = Vec::new();
        let mut subjects: Vec<&Subject> = Vec::new();
        for row in &self.rows {
            if !duts.contains(&row.dut) {
                duts.push(row.dut);
            }
            if !subjects.contains(&&row.subject) {
                subjects.push(&row.subject);
            }
        }
        let heads: String = duts.iter().map(|dut| format!("{dut:>14}")).collect();
        println!("\n{:34} {:20}{heads}", "case", "");
        for subject in subjects {
            let figures: Vec<Option<Figures>> = duts
                .iter()
                .map(|dut| {
                    let row = self.rows.iter().find(|row| row.subject == *subject && row.dut == *dut)?;
                    (!row.runs.is_empty()).then(|| self.figures(row))
                })
                .collect();
            let mut case = subject.case.as_str();
            for (key, name, digits) in SHOWN {
                let values: Vec<Option<f64>> =
                    figures.iter().map(|figures| figures.as_ref()?.get(key).copied()).collect();
                // No wrong packets is what goes without saying.
                let silent = key == "wrong" && values.iter().flatten().all(|wrong| *wrong == 0.0);
                if values.iter().all(Option::is_none) || silent {
                    continue;
                }
                let columns: String = values
                    .iter()
                    .map(|value| value.map_or(format!("{:>14}", "-"), |value| format!("{value:>14.digits$}")))
                    .collect();
                println!("{case:34} {name:20}{columns}");
                case = "";
            }
        }
        for row in &self.rows {
            if let Some(note) = &row.note {
                println!("{}, {}: {note}", row.subject.case, row.dut);
            }
        }
    }
}

fn medians(runs: &[Figures]) -> Figures {
    let keys = runs.iter().flat_map(|run| run.keys().copied());
    let mut figures = Figures::new();
    for key in keys {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(key).copied()).collect();
        figures.insert(key, median(&mut values));
    }
    figures
}

/// 0 of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(values, 0.5)
}

/// Of ordered values; 0 of nothing.
pub fn quantile(ordered: &[f64], share: f64) -> f64 {
    let at = (ordered.len() as f64 * share) as usize;
    ordered.get(at.min(ordered.len().saturating_sub(1))).copied().unwrap_or(0.0)
}
