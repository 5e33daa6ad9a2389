//! The flow history as others see it: files that any reader of Parquet takes, whatever happened to the process.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use popgate::store::flows::{Column, Counted, Flows, Limits, LocalDisk, Part, Row, Told, Want};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const NOON: u64 = 1_764_331_200_000;
const LIMITS: Limits = Limits {
    keep: Duration::from_secs(10_000 * 86_400),
    keep_rollups: Duration::from_secs(10_000 * 86_400),
    tenant_bytes: 1 << 40,
    is_copied: false,
};

fn open(dir: &Path) -> Flows {
    Flows::open(dir.to_owned(), LIMITS, Box::new(LocalDisk), NOON)
}

fn row(n: u64) -> Row<'static> {
    Row {
        tenant: ["acme", "beta", "globex"][(n % 3) as usize],
        start: NOON + n,
        end: NOON + n + 30,
        session: n,
        protocol: ["tcp", "udp"][(n % 2) as usize],
        source: (IpAddr::from([10, 1, (n / 250 % 250) as u8, (n % 250) as u8]), 40_000),
        destination: (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, (n % 9) as u16]), 443),
        nat_source: n.is_multiple_of(4).then_some((IpAddr::from([198, 51, 100, 7]), 2_000)),
        nat_destination: None,
        from: "paris",
        to: "internet",
        class: ["default", "voice", "bulk", "erp"][(n / 5 % 4) as usize],
        class_by: "rule",
        app: None,
        name: n.is_multiple_of(5).then_some("www.example.com"),
        rule: "out",
        dscp: 0,
        forward_path: Some("dsl"),
        reverse_path: None,
        forward: Counted { packets: n % 90 + 1, bytes: 1_000 + n },
        reverse: Counted { packets: n % 80, bytes: 7 * n },
        tcp_flags: 0,
        generation: 1,
        end_reason: "idle-timeout",
        told: Told::default(),
    }
}

/// The sessions of all rows, in order.
fn sessions(flows: &Flows) -> Vec<i64> {
    let mut sessions = Vec::new();
    let place = Column::Session.place();
    for part in flows.parts(None, 0, u64::MAX, Want::Rows).expect("read") {
        let batches = match part {
            Part::Memory { rows, .. } => vec![rows],
            Part::File { path, .. } => {
                let file = File::open(&path).expect("a file that was told of");
                let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|it| it.build());
                reader.expect("Parquet").collect::<Result<_, _>>().expect("whole")
            }
        };
        for batch in batches {
            sessions.extend_from_slice(batch.column(place).as_primitive::<Int64Type>().values());
        }
    }
    sessions.sort_unstable();
    sessions
}

/// Takes in rows from `POPGATE_FLOW_FROM` on, as fast as it can, makes files of them and merges these all the time, and
/// tells how many are to last.
#[test]
#[ignore = "the process that is killed by killed_at_any_moment_it_has_lost_nothing_that_was_synced_and_has_nothing_twice"]
fn the_writer_that_is_killed() {
    let dir = std::env::var_os("POPGATE_FLOW_DIR").expect("started by the other test");
    let from = std::env::var("POPGATE_FLOW_FROM").expect("started by the other test");
    let mut flows = open(Path::new(&dir));
    let mut out = std::io::stdout();
    let mut now = NOON;
    for n in from.parse::<u64>().expect("a number").. {
        assert!(flows.take(&row(n), now), "no room");
        if n % 40 == 39 {
            // A minute, so that there is something to tidy up.
            now += 60_000;
            flows.sync(now);
            writeln!(out, "synced {}", n + 1).expect("heard");
            out.flush().expect("heard");
        }
        if n % 200 == 199 {
            flows.close_log(now);
        }
        if n % 40 == 0
            && let Some(job) = flows.work(now)
        {
            flows.done(job.run(), now);
        }
    }
}

#[test]
fn killed_at_any_moment_it_has_lost_nothing_that_was_synced_and_has_nothing_twice() {
    let seed: u64 = StdRng::from_os_rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let this = std::env::current_exe().expect("this test");
    let mut kills = 0;
    while kills < 200 {
        let dir = TempDir::new().expect("a directory");
        let mut from = 0;
        for _ in 0..20 {
            let mut writer = Command::new(&this)
                .args(["--ignored", "--exact", "the_writer_that_is_killed", "--nocapture"])
                .env("POPGATE_FLOW_DIR", dir.path())
                .env("POPGATE_FLOW_FROM", from.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("started");
            let lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
            let mut synced = from;
            // So many times it tells, and then some microseconds.
            let told = rng.random_range(1..12);
            let is_told = |line: &String| line.starts_with("synced ");
            let mut lines = lines.map(|line| line.expect("text")).filter(is_told);
            for line in lines.by_ref().take(told) {
                synced = line["synced ".len()..].parse().expect("a number");
            }
            std::thread::sleep(Duration::from_micros(rng.random_range(0..3_000)));
            writer.kill().expect("killed");
            writer.wait().expect("ended");
            for line in lines {
                synced = line["synced ".len()..].parse().expect("a number");
            }
            kills += 1;

            let flows = open(dir.path());
            let sessions = sessions(&flows);
            let all: Vec<i64> = (0..sessions.len() as i64).collect();
            assert_eq!(sessions, all, "none twice, none left out; {} synced", synced);
            assert!(sessions.len() as u64 >= synced, "{} of {synced}", sessions.len());
            from = sessions.len() as u64;
        }
    }
}

/// What duckdb and pyarrow say of the files, by the program beside this one.
#[test]
fn duckdb_and_pyarrow_read_the_files_and_come_to_the_same_sums() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path());
    for n in 0..20_000 {
        flows.take(&row(n), NOON);
        if n % 3_000 == 2_999 {
            flows.close_log(NOON);
            while let Some(job) = flows.work(NOON) {
                flows.done(job.run(), NOON);
            }
        }
    }
    flows.close_log(NOON);
    while let Some(job) = flows.work(NOON) {
        flows.done(job.run(), NOON);
    }
    assert_eq!(flows.state().in_memory, 0);
    let popgate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readers = popgate.join("target/tools/flow-readers");
    assert!(readers.exists(), "{}: `make test` installs them", readers.display());
    let output = Command::new("python3")
        .env("PYTHONPATH", readers)
        .arg(popgate.join("tests/flow_history/read.py"))
        .arg(dir.path())
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).expect("text");

    let mut expected = String::new();
    for tenant in ["acme", "beta", "globex"] {
        let rows = || (0..20_000).map(row).filter(|row| row.tenant == tenant);
        let bytes: u64 = rows().map(|row| row.forward.bytes + row.reverse.bytes).sum();
        let voice: u64 = rows().filter(|row| row.class == "voice").map(|row| row.forward.packets).sum();
        let named = rows().filter(|row| row.name.is_some()).count();
        let line = format!("{tenant} 2025-11-28 {} {bytes} {voice} {named}\n", rows().count());
        expected.push_str(&line);
    }
    let of = |who: &str| format!("{who} rows\n{expected}{who} roll-up\n{expected}");
    let expected = of("duckdb") + &of("pyarrow");
    // Of names a roll-up knows nothing: the last number is of rows alone.
    let without_names = |text: &str| {
        let mut is_rollup = false;
        let line = |line: &str| {
            if line.ends_with("rows") || line.ends_with("roll-up") {
                is_rollup = line.ends_with("roll-up");
            } else if is_rollup {
                return line.rsplit_once(' ').map_or(line, |(rest, _)| rest).to_owned();
            }
            line.to_owned()
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    assert_eq!(without_names(&told), without_names(&expected));
}
