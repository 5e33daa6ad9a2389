use super::*;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const NOON: u64 = 1_764_331_200_000;
const LIMITS: Limits = Limits {
    keep: Duration::from_secs(30 * 86_400),
    keep_rollups: Duration::from_secs(400 * 86_400),
    tenant_bytes: 1 << 30,
    is_copied: false,
};

fn row(tenant: &str, n: u64, end: u64) -> Row<'_> {
    let host = IpAddr::from([10, 1, (n / 200 % 256) as u8, (n % 200) as u8]);
    Row {
        tenant,
        start: end - n % 60_000,
        end,
        session: n,
        protocol: ["tcp", "udp"][(n % 2) as usize],
        source: (host, 40_000 + (n % 20_000) as u16),
        destination: (IpAddr::from([203, 0, 113, (n % 7) as u8]), 443),
        nat_source: (!n.is_multiple_of(3))
            .then_some((IpAddr::from([198, 51, 100, 1]), 1_024 + (n % 50_000) as u16)),
        nat_destination: None,
        from: "paris",
        to: "internet",
        class: ["default", "voice", "bulk"][(n % 3) as usize],
        class_by: "rule",
        app: None,
        name: n.is_multiple_of(2).then_some("www.example.com"),
        rule: "allow-out",
        dscp: 46,
        forward_path: Some("dsl"),
        reverse_path: None,
        forward: Counted { packets: n + 1, bytes: 100 * n + 40 },
        reverse: Counted { packets: n, bytes: 1_000 * n },
        tcp_flags: 0x1b,
        generation: 3,
        end_reason: "end-of-flow",
        told: Told::default(),
    }
}

fn open(dir: &Path, now: u64) -> Flows {
    Flows::open(dir.to_owned(), LIMITS, Box::new(LocalDisk), now)
}

/// Runs what there is to run.
fn settle(flows: &mut Flows, now: u64) {
    while let Some(job) = flows.work(now) {
        let outcome = job.run();
        flows.done(outcome, now);
    }
}

fn seal(flows: &mut Flows, now: u64) {
    flows.close_log(now);
    settle(flows, now);
}

/// All rows of a tenant, by what stands in them as text.
fn rows(flows: &Flows, tenant: &str) -> Vec<String> {
    let shape = Shape::Rows;
    let (mut table, mut names) = (table::Table::new(shape), row::Names::default());
    for part in flows.parts(Some(tenant), 0, u64::MAX, Want::Rows).expect("read") {
        match part {
            Part::Memory { rows, .. } => table.add(&rows, &mut names),
            Part::File { path, .. } => {
                file::read(&path, shape, &mut table, &mut names).expect("a file of rows")
            }
        }
    }
    let mut rows: Vec<String> = table.rows().map(|values| told(&values, &names)).collect();
    rows.sort_unstable();
    rows
}

fn told(values: &row::Values, names: &row::Names) -> String {
    let cell = |(column, value): (Column, &i64)| match column.is_text() {
        true if *value >= 0 => names.text(*value as u32).to_owned(),
        _ => value.to_string(),
    };
    Column::ALL.into_iter().zip(values).map(cell).collect::<Vec<_>>().join(" ")
}

fn expected(tenant: &str, numbers: impl Iterator<Item = u64>, end: impl Fn(u64) -> u64) -> Vec<String> {
    let mut names = row::Names::default();
    let mut rows: Vec<String> =
        numbers.map(|n| told(&row(tenant, n, end(n)).values(&mut names), &names)).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn what_is_taken_in_is_there_at_once_and_the_same_from_the_log_and_from_files() {
    let dir = TempDir::new().expect("a directory");
    let end = |n: u64| NOON + 10 * n;
    let all = || expected("acme", (0..3_000).filter(|n| n % 2 == 0), end);
    let mut flows = open(dir.path(), NOON);
    for n in 0..3_000 {
        assert!(flows.take(&row(["acme", "beta"][(n % 2) as usize], n, end(n)), NOON));
    }
    assert_eq!(rows(&flows, "acme"), all());
    flows.sync(NOON);
    drop(flows);

    let mut flows = open(dir.path(), NOON);
    assert_eq!(flows.state().in_memory, 3_000, "from the log");
    assert_eq!(rows(&flows, "acme"), all());
    settle(&mut flows, NOON);
    assert_eq!(flows.state().in_memory, 0, "in files");
    assert_eq!(rows(&flows, "acme"), all());
    drop(flows);

    let flows = open(dir.path(), NOON);
    assert_eq!((flows.state().in_memory, flows.state().known_from_unix_ms), (0, Some(NOON)));
    assert_eq!(rows(&flows, "acme"), all());
    assert_eq!(rows(&flows, "beta").len(), 1_500);
    assert!(dir.path().join("flows/tenant=acme/date=2025-11-28").is_dir());
}

#[test]
fn rows_are_in_the_files_of_the_day_on_which_they_ended() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path(), NOON);
    for n in 0..48 {
        flows.take(&row("acme", n, NOON + n * 3_600_000), NOON);
    }
    seal(&mut flows, NOON);
    let days: BTreeSet<_> = fs::read_dir(dir.path().join("flows/tenant=acme"))
        .expect("days")
        .collect::<Vec<_>>()
        .into_iter()
        .map(|day| day.expect("a day").file_name())
        .collect();
    assert_eq!(days.len(), 3);
    assert_eq!(rows(&flows, "acme").len(), 48);
    let within = |from, until| flows.parts(None, from, until, Want::Rows).expect("read").len();
    assert_eq!((within(0, NOON), within(NOON, NOON + 1), within(NOON, u64::MAX)), (0, 1, 3));
}

#[test]
fn a_roll_up_sums_to_what_the_rows_do_however_often_files_are_merged() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path(), NOON);
    let mut n = 0;
    for _ in 0..20 {
        for _ in 0..300 {
            flows.take(&row("acme", n, NOON + n * 100), NOON);
            n += 1;
        }
        seal(&mut flows, NOON);
    }
    settle(&mut flows, NOON + 60_000);
    let total: u64 = (0..n).map(|n| 100 * n + 40).sum();
    for rollup in Rollup::ALL {
        for step in rollup.steps().iter().copied() {
            let shape = Shape::Rollup(rollup, step);
            let (mut table, mut names) = (table::Table::new(shape), row::Names::default());
            let parts = flows.parts(Some("acme"), 0, u64::MAX, Want::Rollup(rollup, step)).expect("read");
            assert!(parts.len() < 20, "merged: {}", parts.len());
            for part in parts {
                let Part::File { path, .. } = part else { panic!("nothing is in memory") };
                file::read(&path, shape, &mut table, &mut names).expect("a roll-up");
            }
            assert_eq!(table.sum(Column::ForwardBytes), total as i64, "{shape:?}");
            assert_eq!(table.sum_flows(), n as i64, "{shape:?}");
        }
    }
    assert_eq!(rows(&flows, "acme"), expected("acme", 0..n, |n| NOON + n * 100));
    // What was merged goes when nobody reads it any more, and at the latest with the next start.
    let count = |dir: &Path| fs::read_dir(dir).expect("files").count();
    let day = dir.path().join("flows/tenant=acme/date=2025-11-28");
    let before = count(&day);
    settle(&mut flows, NOON + 240_000);
    let after = count(&day);
    assert!(after < before, "{after} of {before}");
    drop(flows);
    let flows = open(dir.path(), NOON);
    assert_eq!(rows(&flows, "acme").len() as u64, n);
}

#[test]
fn a_log_that_is_torn_anywhere_gives_all_whole_frames_before_and_nothing_twice() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path(), NOON);
    let mut lengths = vec![(8, 0)];
    for n in 0..6 {
        flows.take(&row("acme", n, NOON), NOON);
        flows.sync(NOON);
        lengths.push((flows.log.as_ref().expect("a log").len() as usize, n + 1));
    }
    drop(flows);
    let path = files::log_path(dir.path(), 1);
    let whole = fs::read(&path).expect("the log");
    let numbers = |dir: &Path| rows(&open(dir, NOON), "acme").len() as u64;
    for len in 0..=whole.len() {
        for torn in [whole[..len].to_vec(), [&whole[..len], &vec![0; whole.len() - len][..]].concat()] {
            let dir = TempDir::new().expect("a directory");
            let path = files::log_path(dir.path(), 1);
            files::make_dir_of(&path).expect("a directory");
            fs::write(&path, torn).expect("written");
            let wanted = lengths.iter().rev().find(|(at, _)| *at <= len).map_or(0, |(_, rows)| *rows);
            assert_eq!(numbers(dir.path()), wanted, "{len} bytes");
        }
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        fs::write(&path, flipped).expect("written");
        let wanted = lengths.iter().rev().find(|(end, _)| *end <= at).map_or(0, |(_, rows)| *rows);
        let mut rows = 0;
        log::replay(&path, &mut row::Names::default(), |_, _| rows += 1).expect("read");
        assert_eq!(rows, wanted, "byte {at}");
    }
}

#[test]
fn a_crash_while_files_are_made_leaves_nothing_twice() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path(), NOON);
    for n in 0..100 {
        flows.take(&row(["acme", "beta"][(n % 2) as usize], n, NOON + n), NOON);
    }
    flows.close_log(NOON);
    let job = flows.work(NOON).expect("to be made files of");
    assert!(job.run().made.is_ok());
    // The log is still there: nobody was told that it is done.
    drop(flows);
    let mut flows = open(dir.path(), NOON);
    assert_eq!(rows(&flows, "acme").len(), 50);
    settle(&mut flows, NOON);
    assert_eq!(rows(&flows, "acme"), expected("acme", (0..100).filter(|n| n % 2 == 0), |n| NOON + n));
}

/// A disk that is full, or does not keep what is written, when it is told to.
#[derive(Clone, Default)]
struct BadDisk {
    is_full: Arc<AtomicBool>,
    forgets: Arc<AtomicBool>,
}

struct BadFile {
    file: Box<dyn Append>,
    disk: BadDisk,
}

impl Disk for BadDisk {
    fn create(&self, path: &Path, begin: &[u8]) -> io::Result<Box<dyn Append>> {
        if self.is_full.load(Ordering::Relaxed) || self.forgets.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Box::new(BadFile { file: LocalDisk.create(path, begin)?, disk: self.clone() }))
    }
}

impl Write for BadFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.disk.is_full.load(Ordering::Relaxed) {
            // As far as it goes.
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Append for BadFile {
    fn sync(&mut self) -> io::Result<()> {
        if self.disk.forgets.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.sync()
    }
}

#[test]
fn a_full_disk_and_one_that_forgets_raise_an_alarm_and_lose_nothing_when_they_are_well_again() {
    for is_full in [true, false] {
        let dir = TempDir::new().expect("a directory");
        let disk = BadDisk::default();
        let mut flows = Flows::open(dir.path().to_owned(), LIMITS, Box::new(disk.clone()), NOON);
        let mut now = NOON;
        let take = |flows: &mut Flows, numbers: std::ops::Range<u64>, now: u64| {
            numbers.for_each(|n| assert!(flows.take(&row("acme", n, NOON + n), now)));
            settle(flows, now);
        };
        take(&mut flows, 0..1_000, now);
        let bad = if is_full { &disk.is_full } else { &disk.forgets };
        bad.store(true, Ordering::Relaxed);
        for n in 1..10 {
            now += 2_000;
            take(&mut flows, n * 1_000..(n + 1) * 1_000, now);
            let state = flows.state();
            assert_eq!(state.failing_since_unix_ms, Some(NOON + 2_000), "{state:?}");
            assert!(state.problem.is_some());
        }
        bad.store(false, Ordering::Relaxed);
        now += 6_000;
        take(&mut flows, 10_000..11_000, now);
        flows.sync(now);
        let state = flows.state();
        assert_eq!((state.failing_since_unix_ms, state.problem, state.lost), (None, None, 0));
        drop(flows);
        assert_eq!(rows(&open(dir.path(), now), "acme"), expected("acme", 0..11_000, |n| NOON + n));
    }
}

#[test]
fn that_no_file_can_be_made_is_an_alarm_and_the_log_goes_on() {
    let dir = TempDir::new().expect("a directory");
    fs::create_dir_all(dir.path().join("flows")).expect("a directory");
    fs::write(dir.path().join("flows/tenant=acme"), "").expect("a file");
    let mut flows = open(dir.path(), NOON);
    flows.take(&row("acme", 0, NOON), NOON);
    seal(&mut flows, NOON);
    assert!(flows.state().problem.is_some());
    flows.take(&row("acme", 1, NOON), NOON);
    flows.sync(NOON);
    drop(flows);
    assert_eq!(rows(&open(dir.path(), NOON), "acme").len(), 2, "both are in logs");
}

#[test]
fn what_was_there_stays_where_it_could_not_be_looked_at_at_first() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path(), NOON);
    flows.take(&row("acme", 0, NOON), NOON);
    flows.sync(NOON);
    drop(flows);
    // Neither a directory nor nothing.
    let (day, file) = (dir.path().join("flows/tenant=acme/date=2025-11-28"), "1-1_1-1.parquet");
    fs::create_dir_all(&day).expect("a directory");
    std::os::unix::fs::symlink(file, day.join(file)).expect("a link to itself");
    let mut flows = open(dir.path(), NOON);
    assert!(flows.state().problem.is_some(), "it cannot be read");
    flows.take(&row("acme", 1, NOON), NOON);
    fs::remove_file(day.join(file)).expect("removed");
    flows.work(NOON + 6_000);
    assert_eq!(flows.state().problem, None);
    assert_eq!(rows(&flows, "acme").len(), 2);
    flows.sync(NOON + 6_000);
    drop(flows);
    assert_eq!(rows(&open(dir.path(), NOON), "acme").len(), 2);
}

#[test]
fn what_no_file_can_be_made_of_for_long_is_bounded_and_counted() {
    let dir = TempDir::new().expect("a directory");
    // Where the directory of files is to be, is something else.
    fs::create_dir_all(dir.path().join("flows")).expect("a directory");
    fs::write(dir.path().join("flows/tenant=acme"), "").expect("a file");
    let mut flows = open(dir.path(), NOON);
    let mut refused = 0;
    for n in 0..(LOG_ROWS + MAX_ROWS) as u64 + 100 {
        refused += u64::from(!flows.take(&row("acme", n % 1_000, NOON), NOON));
        if n.is_multiple_of(10_000) {
            settle(&mut flows, NOON + n / 1_000);
        }
    }
    assert!(refused > 0 && flows.state().lost == refused, "{:?}", flows.state());
    assert!(flows.state().problem.is_some());
    fs::remove_file(dir.path().join("flows/tenant=acme")).expect("removed");
    settle(&mut flows, NOON + 60_000);
    settle(&mut flows, NOON + 70_000);
    assert_eq!(flows.state().problem, None);
    assert_eq!(flows.state().in_memory, 0);
}

#[test]
fn the_oldest_files_of_a_tenant_go_for_their_age_and_beyond_its_quota_and_others_stay() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path(), NOON);
    let day = 86_400_000;
    for n in 0..10 {
        for more in 0..12_000 {
            flows.take(&row("acme", n * 12_000 + more, NOON + n * day), NOON);
        }
        flows.take(&row("beta", n, NOON + n * day), NOON);
        seal(&mut flows, NOON + n * day);
    }
    let now = NOON + 9 * day;
    let days =
        |flows: &Flows, tenant| flows.parts(Some(tenant), 0, u64::MAX, Want::Rows).expect("read").len();
    assert_eq!((days(&flows, "acme"), days(&flows, "beta")), (10, 10));
    let complete = |flows: &Flows, tenant| {
        let rollup = Want::Rollup(Rollup::Class, Step::Hour);
        [Want::Rows, rollup].map(|want| flows.complete_from(tenant, want))
    };
    assert_eq!(complete(&flows, Some("acme")), [NOON; 2], "since it was begun");
    flows.set_limits(Limits { keep: Duration::from_millis(4 * day + 1), ..LIMITS });
    settle(&mut flows, now);
    assert_eq!((days(&flows, "acme"), days(&flows, "beta")), (5, 5));
    assert_eq!(complete(&flows, Some("acme")), [NOON + 4 * day + 1, NOON], "roll-ups are kept longer");
    let rows: u64 = flows.files[&("acme".into(), 0)].iter().map(|file| file.bytes).sum();
    flows.set_limits(Limits { tenant_bytes: rows / 2, ..LIMITS });
    settle(&mut flows, now + 60_000);
    let left = flows.parts(Some("acme"), 0, u64::MAX, Want::Rows).expect("read");
    assert!(left.len() < 5, "{}", left.len());
    assert!(left.iter().all(|part| matches!(part, Part::File { until, .. } if *until > NOON + 6 * day)));
    assert_eq!(days(&flows, "beta"), 5, "beta has little");
    let [of_acme, of_beta, of_all] =
        [Some("acme"), Some("beta"), None].map(|tenant| complete(&flows, tenant)[0]);
    let first = left.iter().filter_map(|part| match part {
        Part::File { from, .. } => Some(*from),
        Part::Memory { .. } => None,
    });
    let first = first.min().expect("a file");
    assert!(first - day < of_acme && of_acme <= first, "{of_acme} and {first}");
    assert_eq!(of_beta, NOON + 4 * day + 1, "the last that went");
    assert_eq!(of_all, of_acme);
    drop(flows);
    let flows = open(dir.path(), now);
    assert_eq!(complete(&flows, Some("acme"))[0], of_acme, "it is written down");
    assert_eq!(complete(&flows, Some("nobody"))[0], NOON);
}

#[test]
fn a_file_is_copied_once_its_day_is_over_and_is_merged_with_no_other_from_then_on() {
    let dir = TempDir::new().expect("a directory");
    let limits = Limits { is_copied: true, ..LIMITS };
    let open = |now| Flows::open(dir.path().to_owned(), limits, Box::new(LocalDisk), now);
    let mut flows = open(NOON);
    for n in 0..3 {
        flows.take(&row("acme", n, NOON + n), NOON);
        seal(&mut flows, NOON);
    }
    let next = |flows: &mut Flows, now| flows.next_to_send(now).expect("it is written down");
    assert_eq!(next(&mut flows, NOON + 1), None, "more of today may be added");
    let midnight = NOON + 43_200_000;
    settle(&mut flows, midnight + 1_800_000);
    assert_eq!(next(&mut flows, midnight + 1_800_001), None, "the last of today are not in files yet");

    let over = midnight + 7_200_000;
    settle(&mut flows, over);
    let whole = next(&mut flows, over + 1).expect("the day is over");
    assert!(whole.name.starts_with("flows/tenant=acme/date=2025-11-28/0000000001-0000000003_"), "{whole:?}");
    assert_eq!(flows.state().object_store.map(|copies| copies.waiting_files), Some(1));
    // Killed while it is on its way: it is sent again, under the same name.
    drop(flows);
    let mut flows = open(over);
    assert_eq!(next(&mut flows, over), Some(whole.clone()));
    flows.sent(&whole);

    // A straggler of that day stays by itself, and what has gone there is remembered.
    flows.take(&row("acme", 9, NOON + 9), over);
    seal(&mut flows, over);
    settle(&mut flows, over + 60_000);
    let straggler = next(&mut flows, over + 60_001).expect("another file");
    assert_ne!(straggler.name, whole.name);
    assert_eq!(flows.parts(Some("acme"), 0, u64::MAX, Want::Rows).expect("read").len(), 2);
    flows.sent(&straggler);
    let copies = flows.state().object_store.expect("files are copied");
    assert_eq!((copies.sent_files, copies.waiting_files, copies.lost_files), (2, 0, 0));
    drop(flows);
    let mut flows = open(over + 60_000);
    settle(&mut flows, over + 60_000);
    assert_eq!(next(&mut flows, over + 60_001), None);

    // One that has arrived may go; one that has not is missed.
    flows.take(&row("acme", 10, NOON + 10), over);
    seal(&mut flows, over + 60_000);
    flows.set_limits(Limits { keep: Duration::from_secs(3_600), ..limits });
    settle(&mut flows, over + 120_000);
    let copies = flows.state().object_store.expect("files are copied");
    assert_eq!((copies.waiting_files, copies.lost_files), (0, 1));
    assert!(copies.lost_bytes > 0);
}

#[test]
fn a_file_that_cannot_be_read_is_set_aside_and_the_others_are_merged() {
    let dir = TempDir::new().expect("a directory");
    let mut flows = open(dir.path(), NOON);
    for n in 0..MERGED as u64 - 1 {
        flows.take(&row("acme", n, NOON + n), NOON);
        seal(&mut flows, NOON);
    }
    let Some(Part::File { path, .. }) = flows.parts(None, 0, u64::MAX, Want::Rows).expect("read").pop()
    else {
        panic!("a file");
    };
    fs::write(&path, "no Parquet").expect("written");
    let next_day = NOON + 86_400_000;
    settle(&mut flows, next_day);
    settle(&mut flows, next_day + 60_000);
    assert_eq!(flows.state().damaged, 1);
    let name = path.file_name().expect("a name").to_string_lossy();
    assert!(path.with_file_name(format!("_{name}.damaged")).exists());
    assert_eq!(flows.parts(None, 0, u64::MAX, Want::Rows).expect("read").len(), 1);
    assert_eq!(rows(&flows, "acme").len(), MERGED - 2);
}
