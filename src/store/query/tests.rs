//! The engine beside a twin that keeps rows in a list and does everything the plain way.

use super::*;
use crate::store::flows::{Column, Counted, FLOWS, Kind, Part, Rollup, Row, Step, Told, schema};
use crate::store::report::{Cell, FlowProblem, FlowQuestion, FlowRange};
use arrow_array::builder::{Int32Builder, StringDictionaryBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMillisecondArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// 2026-11-22T10:00Z.
const TEN: u64 = 1_795_341_600_000;
const MINUTE: u64 = 60_000;

/// What a row has in a column: text, a number, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Plain {
    None,
    Number(u64),
    Text(String),
}

fn plain(row: &Row<'static>, column: Column) -> Plain {
    let text = |text: &str| Plain::Text(text.to_owned());
    let some = |given: Option<&str>| given.map_or(Plain::None, text);
    let address = |end: Option<(IpAddr, u16)>| end.map_or(Plain::None, |end| Plain::Text(end.0.to_string()));
    let port = |end: Option<(IpAddr, u16)>| end.map_or(Plain::None, |end| Plain::Number(end.1.into()));
    match column {
        Column::Start => Plain::Number(row.start),
        Column::End => Plain::Number(row.end),
        Column::Session => Plain::Number(row.session),
        Column::Protocol => text(row.protocol),
        Column::Source => address(Some(row.source)),
        Column::SourcePort => port(Some(row.source)),
        Column::Destination => address(Some(row.destination)),
        Column::DestinationPort => port(Some(row.destination)),
        Column::NatSource => address(row.nat_source),
        Column::NatSourcePort => port(row.nat_source),
        Column::NatDestination => address(row.nat_destination),
        Column::NatDestinationPort => port(row.nat_destination),
        Column::From => text(row.from),
        Column::To => text(row.to),
        Column::Class => text(row.class),
        Column::ClassBy => text(row.class_by),
        Column::App => some(row.app),
        Column::Name => some(row.name),
        Column::Rule => text(row.rule),
        Column::Dscp => Plain::Number(row.dscp.into()),
        Column::ForwardPath => some(row.forward_path),
        Column::ReversePath => some(row.reverse_path),
        Column::ForwardPackets => Plain::Number(row.forward.packets),
        Column::ForwardBytes => Plain::Number(row.forward.bytes),
        Column::ReversePackets => Plain::Number(row.reverse.packets),
        Column::ReverseBytes => Plain::Number(row.reverse.bytes),
        Column::TcpFlags => Plain::Number(row.tcp_flags.into()),
        Column::Generation => Plain::Number(row.generation),
        Column::EndReason => text(row.end_reason),
        Column::ForwardMoves => some(row.told.forward_moves),
        Column::ReverseMoves => some(row.told.reverse_moves),
        Column::DroppedPackets => Plain::Number(row.told.dropped_packets),
        Column::DropReasons => some(row.told.drop_reasons),
        Column::DeniedBy => some(row.told.denied_by),
        Column::DeniedAfter => Plain::Number(row.told.denied_after),
    }
}

fn array(column: Column, values: impl Iterator<Item = Plain>) -> ArrayRef {
    let number = |value: Plain| match value {
        Plain::Number(number) => Some(number),
        _ => None,
    };
    match column.kind() {
        Kind::Time => {
            let times = values.map(|value| number(value).map(|number| number as i64));
            Arc::new(TimestampMillisecondArray::from_iter(times).with_timezone("UTC"))
        }
        Kind::Long => {
            Arc::new(Int64Array::from_iter(values.map(|value| number(value).map(|number| number as i64))))
        }
        Kind::Int => {
            let mut builder = Int32Builder::new();
            values.for_each(|value| builder.append_option(number(value).map(|number| number as i32)));
            Arc::new(builder.finish())
        }
        Kind::Text | Kind::Address => {
            let mut builder = StringDictionaryBuilder::<Int32Type>::new();
            values.for_each(|value| match value {
                Plain::Text(text) => builder.append_value(text),
                _ => builder.append_null(),
            });
            Arc::new(builder.finish())
        }
    }
}

fn batch(rows: &[Row<'static>]) -> RecordBatch {
    let columns = Column::ALL.map(|column| array(column, rows.iter().map(|row| plain(row, column))));
    RecordBatch::try_new(schema(), columns.to_vec()).expect("rows of the schema")
}

fn rolled_up(rows: &[Row<'static>], rollup: Rollup, step: Step) -> RecordBatch {
    let mut groups: BTreeMap<Vec<Plain>, [u64; 5]> = BTreeMap::new();
    for row in rows {
        let key = rollup.columns().map(|column| match (column, plain(row, column)) {
            (Column::End, Plain::Number(end)) => Plain::Number(end / step.millis() * step.millis()),
            (_, value) => value,
        });
        let sums = groups.entry(key.to_vec()).or_default();
        let Counted { packets, bytes } = row.forward;
        let back = row.reverse;
        for (sum, value) in sums.iter_mut().zip([1, packets, bytes, back.packets, back.bytes]) {
            *sum += value;
        }
    }
    let keys = rollup.columns();
    let keys = keys
        .into_iter()
        .enumerate()
        .map(|(at, column)| array(column, groups.keys().map(|key| key[at].clone())));
    let sums = (0..5).map(|at| {
        let sums = groups.values().map(|sums| Some(sums[at] as i64));
        Arc::new(Int64Array::from_iter(sums)) as ArrayRef
    });
    let schema = rollup.schema();
    assert_eq!(schema.field(rollup.columns().len()).name(), FLOWS);
    RecordBatch::try_new(schema, keys.chain(sums).collect()).expect("rows of the schema")
}

fn write(path: &Path, rows: &RecordBatch, row_group: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(row_group)).build();
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).expect("a writer");
    writer.write(rows).expect("written");
    writer.close().expect("closed");
}

/// What lies in files, and what is in memory still.
struct Kept {
    dir: TempDir,
    parts: Vec<(Want, Part)>,
    /// Whose rows, or roll-ups, have gone that were before.
    gone: Vec<(&'static str, bool, u64)>,
}

impl Kept {
    fn new() -> Kept {
        Kept { dir: TempDir::new().expect("a directory"), parts: Vec::new(), gone: Vec::new() }
    }

    fn file(&mut self, want: Want, tenant: &str, rows: &RecordBatch, row_group: usize) {
        let path = self.dir.path().join(format!("{}.parquet", self.parts.len()));
        write(&path, rows, row_group);
        self.parts.push((want, Part::File { tenant: tenant.into(), path, from: 0, until: u64::MAX }));
    }

    /// By tenants, in files and rolled up, but the last `in_memory`.
    fn of(rows: &[Row<'static>], in_memory: usize, row_group: usize) -> Kept {
        let mut kept = Kept::new();
        let (filed, rest) = rows.split_at(rows.len().saturating_sub(in_memory));
        for tenant in TENANTS {
            let of_tenant = |rows: &[Row<'static>]| -> Vec<Row<'static>> {
                rows.iter().filter(|row| row.tenant == tenant).copied().collect()
            };
            let mut filed = of_tenant(filed);
            filed.sort_by_key(|row| (row.source.0.to_string(), row.end));
            for some in filed.chunks(2 * row_group) {
                kept.file(Want::Rows, tenant, &batch(some), row_group);
                for rollup in Rollup::ALL {
                    for step in Step::ALL {
                        let rows = rolled_up(some, rollup, step);
                        kept.file(Want::Rollup(rollup, step), tenant, &rows, row_group);
                    }
                }
            }
            let rows = batch(&of_tenant(rest));
            // What is asked for is never without what is in memory.
            kept.parts.push((Want::Rows, Part::Memory { tenant: tenant.into(), rows }));
        }
        kept
    }
}

impl History for Kept {
    fn parts(&self, tenant: Option<&str>, _: u64, _: u64, want: Want) -> Vec<Part> {
        let wanted = |(of, part): &&(Want, Part)| match part {
            Part::Memory { tenant: of, .. } => tenant.is_none_or(|tenant| **of == *tenant),
            Part::File { tenant: name, .. } => *of == want && tenant.is_none_or(|tenant| **name == *tenant),
        };
        self.parts.iter().filter(wanted).map(|(_, part)| part.clone()).collect()
    }

    fn complete_from(&self, tenant: Option<&str>, want: Want) -> u64 {
        let gone = self.gone.iter().filter(|(of, is_rollup, _)| {
            tenant.is_none_or(|tenant| tenant == *of) && *is_rollup == (want != Want::Rows)
        });
        gone.map(|(.., until)| *until).max().unwrap_or_default()
    }
}

const TENANTS: [&str; 2] = ["acme", "globex"];

/// Any row, in two hours from [`TEN`] on; `number` is its session.
fn row(number: u64, bytes: [u8; 16]) -> Row<'static> {
    let pick = |at: usize, of: &[&'static str]| of[usize::from(bytes[at]) % of.len()];
    let some = |at: usize, of: &[&'static str]| (bytes[at] < 160).then(|| pick(at, of));
    let address = |at: usize, of: &[&'static str]| pick(at, of).parse().expect("an address");
    let port = |at: usize| [53, 80, 443, 1_024, 51_000][usize::from(bytes[at]) % 5];
    let end = TEN + u64::from(bytes[0]) * 28_125 + number % 1_000;
    let counted = |at: usize| Counted {
        packets: u64::from(bytes[at] % 7),
        bytes: u64::from(bytes[at] % 7) * 100 * u64::from(bytes[at]).pow(2),
    };
    let inside =
        ["10.1.0.5", "10.1.0.6", "10.1.200.9", "10.2.0.1", "192.0.2.7", "2001:db8::5", "2001:db8:1::6"];
    let outside = ["203.0.113.9", "203.0.113.200", "198.51.100.1", "2001:db8:2::1", "2001:4860::8"];
    Row {
        tenant: pick(1, &TENANTS),
        start: end - u64::from(bytes[2]) * 100,
        end,
        session: number,
        protocol: pick(3, &["tcp", "udp", "icmp"]),
        source: (address(4, &inside), port(5)),
        destination: (address(6, &outside), port(7)),
        nat_source: (bytes[8] < 128).then(|| (address(8, &["198.51.100.7", "198.51.100.8"]), port(8))),
        nat_destination: (bytes[8].is_multiple_of(5)).then(|| (address(9, &inside), port(9))),
        from: pick(9, &["berlin", "lyon"]),
        to: pick(10, &["internet", "private"]),
        class: pick(11, &["voice", "bulk", "default"]),
        class_by: pick(11, &["rule", "sni"]),
        app: some(12, &["zoom", "sap"]),
        name: some(13, &["video.example", "", "a-rather-long-name.example", "Ex ample"]),
        rule: pick(10, &["web-out", "any"]),
        dscp: bytes[12] % 64,
        forward_path: some(14, &["dsl", "lte"]),
        reverse_path: some(15, &["dsl", "mpls"]),
        forward: counted(14),
        reverse: counted(15),
        tcp_flags: bytes[13] % 64,
        generation: 7,
        end_reason: pick(2, &["idle-timeout", "end-of-flow"]),
        told: Told::default(),
    }
}

fn rows() -> impl Strategy<Value = Vec<Row<'static>>> {
    prop::collection::vec(any::<[u8; 16]>(), 0..120)
        .prop_map(|bytes| (1..).zip(bytes).map(|(number, bytes)| row(number, bytes)).collect())
}

/// Filters that mean some of these rows.
fn filters() -> impl Strategy<Value = String> {
    let tests = vec![
        "tenant = acme",
        "tenant != acme",
        "src in 10.1.0.0/16",
        "src = 10.1.0.5",
        "src in 2001:db8::/32",
        "src != 2001:db8::5",
        "dst in (203.0.113.128/25, 2001:db8:2::1)",
        "host = 192.0.2.7",
        "host in 198.51.100.0/24",
        "class = voice",
        "class not in (voice, bulk)",
        "app = none",
        "app != zoom",
        "name ~ EX",
        "name = 'Ex ample'",
        "path = dsl",
        "reverse_path != none",
        "port = 443",
        "port < 100",
        "sport >= 1024",
        "nat_source = none",
        "nat_source_port > 1000",
        "nat_source_port != 53",
        "dscp in (0, 46)",
        "bytes > 1M",
        "bytes = 0",
        "forward-bytes <= 300k",
        "packets >= 6",
        "duration > 5s",
        "session = 3",
        "generation = 8",
    ];
    prop::sample::select(tests).prop_map(str::to_owned).prop_recursive(3, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} and {other})")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} or {other})")),
            inner.prop_map(|inner| format!("not {inner}")),
        ]
    })
}

fn means(filter: &Filter, row: &Row<'static>) -> bool {
    match filter {
        Filter::Every(parts) => parts.iter().all(|part| means(part, row)),
        Filter::Any(parts) => parts.iter().any(|part| means(part, row)),
        Filter::Not(inner) => !means(inner, row),
        Filter::Test(Test { field, is }) => {
            let values = match field {
                Field::Tenant => vec![Plain::Text(row.tenant.to_owned())],
                Field::Bytes => vec![Plain::Number(row.forward.bytes + row.reverse.bytes)],
                Field::Packets => vec![Plain::Number(row.forward.packets + row.reverse.packets)],
                Field::Duration => vec![Plain::Number(row.end - row.start)],
                field => field.columns().iter().map(|column| plain(row, *column)).collect(),
            };
            values.iter().any(|value| match (is, value) {
                (Is::None, value) => *value == Plain::None,
                (Is::Number(wanted), Plain::Number(number)) => wanted.contains(number),
                (Is::Compared(Order::Less, bound), Plain::Number(number)) => number < bound,
                (Is::Compared(Order::LessOrEqual, bound), Plain::Number(number)) => number <= bound,
                (Is::Compared(Order::Greater, bound), Plain::Number(number)) => number > bound,
                (Is::Compared(Order::GreaterOrEqual, bound), Plain::Number(number)) => number >= bound,
                (Is::Text(wanted), Plain::Text(text)) => wanted.contains(text),
                (Is::Contains(wanted), Plain::Text(text)) => text.to_lowercase().contains(wanted),
                (Is::Within(networks), Plain::Text(text)) => {
                    networks.iter().any(|network| network.contains(text.parse().expect("an address")))
                }
                _ => false,
            })
        }
    }
}

fn question(filter: &str, time: Range<u64>) -> FlowQuestion {
    FlowQuestion {
        tenant: None,
        filter: filter.to_owned(),
        range: FlowRange::Between { from_unix_ms: time.start, until_unix_ms: time.end },
        by: Vec::new(),
        sums: Vec::new(),
        order: None,
        top: None,
        step: None,
        previous: false,
        limit: None,
        cursor: None,
    }
}

fn understood(question: &FlowQuestion) -> Question {
    Question::read(question, TEN).expect("a question")
}

fn ask(question: &FlowQuestion, kept: &Kept) -> FlowAnswer {
    let answer = ask_within(question, kept, Limits::MOST_GROUPS).expect("an answer");
    assert_eq!(answer.unreadable, [""; 0]);
    answer
}

fn ask_within(question: &FlowQuestion, kept: &Kept, most_groups: usize) -> Result<FlowAnswer, QueryError> {
    let limits = Limits { threads: 2, most_groups, expired: &|| false };
    answer(&understood(question), kept, &limits)
}

/// What the rows in `time` that `filter` means come to, by `by`: bytes, packets, flows and forward packets.
type Totals = BTreeMap<Vec<Plain>, [u64; 4]>;

fn sum_up(rows: &[Row<'static>], filter: &str, time: &Range<u64>, by: &[&str]) -> Totals {
    let filter: Filter = filter.parse().expect("a filter");
    let mut totals = Totals::new();
    for row in rows.iter().filter(|row| time.contains(&row.end) && means(&filter, row)) {
        let key = by.iter().map(|name| match Field::named(name) {
            Some(Field::Column(column)) => plain(row, column),
            _ => Plain::Text(row.tenant.to_owned()),
        });
        let sums = totals.entry(key.collect()).or_default();
        let (packets, bytes) =
            (row.forward.packets + row.reverse.packets, row.forward.bytes + row.reverse.bytes);
        for (sum, value) in sums.iter_mut().zip([bytes, packets, 1, row.forward.packets]) {
            *sum += value;
        }
    }
    totals
}

fn cells(key: &[Plain], sums: &[u64]) -> Vec<Cell> {
    let key = key.iter().map(|value| match value {
        Plain::None => Cell::None,
        Plain::Number(number) => Cell::Number(*number),
        Plain::Text(text) => Cell::Text(text.clone()),
    });
    key.chain(sums.iter().map(|sum| Cell::Number(*sum))).collect()
}

const BY: [&[&str]; 9] = [
    &["source"],
    &["class", "dst"],
    &["tenant"],
    &["app"],
    &["nat_source_port", "tenant", "forward_path"],
    &["dport"],
    &["session"],
    &["from", "to", "protocol", "rule"],
    &[],
];

/// Spans of the two hours that rows are in; some begin and end where steps do.
fn spans() -> impl Strategy<Value = Range<u64>> {
    let edge = (0u64..=121, prop::sample::select(vec![0u64, 0, 1, 7_000]));
    (edge.clone(), edge).prop_map(|((one, more), (other, less))| {
        let (one, other) = (TEN + one * MINUTE + more, TEN + other * MINUTE + less);
        one.min(other)..one.max(other) + 1_000
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn sums_are_what_plain_code_makes_of_the_rows(
        rows in rows(),
        filter in filters(),
        time in spans(),
        by in prop::sample::select(BY.to_vec()),
        in_memory in 0usize..40,
        row_group in 4usize..40,
        top in 1usize..12,
        filtered: bool,
    ) {
        let filter = if filtered { filter } else { String::new() };
        let kept = Kept::of(&rows, in_memory, row_group);
        let names = ["bytes", "packets", "flows", "forward_packets"];
        let asked = FlowQuestion {
            by: by.iter().map(|name| (*name).to_owned()).collect(),
            sums: names.map(str::to_owned).to_vec(),
            order: Some("packets".to_owned()),
            top: Some(top),
            step: Some("5m".to_owned()),
            previous: true,
            ..question(&filter, time.clone())
        };
        let told = ask(&asked, &kept);
        let mut expected: Vec<(Vec<Plain>, [u64; 4])> =
            sum_up(&rows, &filter, &time, by).into_iter().collect();
        if by.is_empty() && expected.is_empty() {
            expected.push((Vec::new(), [0; 4]));
        }
        expected.sort_by_key(|(key, sums)| (std::cmp::Reverse(sums[1]), key.clone()));
        prop_assert_eq!(told.groups, expected.len() as u64);
        let total = |groups: &[(Vec<Plain>, [u64; 4])]| -> Vec<u64> {
            (0..4).map(|at| groups.iter().map(|(_, sums)| sums[at]).sum()).collect()
        };
        prop_assert_eq!(&told.total, &total(&expected));
        expected.truncate(top);
        let shown: Vec<Vec<Cell>> = expected.iter().map(|(key, sums)| cells(key, sums)).collect();
        prop_assert_eq!(&told.rows, &shown);

        let before = time.start - (time.end - time.start)..time.start;
        let groups = sum_up(&rows, &filter, &before, by);
        let told_before = told.before.expect("what was before");
        prop_assert_eq!(told_before.total, total(&groups.clone().into_iter().collect::<Vec<_>>()));
        let was = |key: &[Plain]| groups.get(key).copied().unwrap_or_default().to_vec();
        let rows_before: Vec<Vec<u64>> = expected.iter().map(|(key, _)| was(key)).collect();
        prop_assert_eq!(told_before.rows, rows_before);

        let series = told.series.expect("a series");
        for (lines, time) in [(series.lines, time.clone()), (series.before.expect("before"), before)] {
            let first = time.start / series.step_ms * series.step_ms;
            let steps = (time.end - first).div_ceil(series.step_ms);
            // Everything is in no group.
            let groups = if by.is_empty() { 0 } else { expected.len() };
            prop_assert_eq!(lines.len(), groups + 1);
            for step in 0..steps {
                let begins = first + step * series.step_ms;
                let step_of = begins.max(time.start)..(begins + series.step_ms).min(time.end);
                let mut sums = sum_up(&rows, &filter, &step_of, by);
                for ((key, _), line) in expected.iter().zip(&lines[..groups]) {
                    prop_assert_eq!(line[step as usize], sums.remove(key).unwrap_or_default()[1]);
                }
                let others: u64 = sums.values().map(|sums| sums[1]).sum();
                prop_assert_eq!(lines[groups][step as usize], others);
            }
        }
    }

    #[test]
    fn rows_come_the_newest_first_page_by_page(
        rows in rows(),
        filter in filters(),
        time in spans(),
        in_memory in 0usize..40,
        row_group in 4usize..40,
        page in 1usize..50,
    ) {
        let kept = Kept::of(&rows, in_memory, row_group);
        let meant: Filter = filter.parse().expect("a filter");
        let mut expected: Vec<_> =
            rows.iter().filter(|row| time.contains(&row.end) && means(&meant, row)).collect();
        expected.sort_by_key(|row| std::cmp::Reverse((row.end, row.session)));
        let mut asked = FlowQuestion { limit: Some(page), ..question(&filter, time) };
        let mut told = Vec::new();
        loop {
            let answer = ask(&asked, &kept);
            prop_assert!(answer.rows.len() <= page);
            told.extend(answer.rows);
            asked.cursor = answer.cursor;
            if asked.cursor.is_none() {
                break;
            }
        }
        let whole = |row: &&Row<'static>| -> Vec<Cell> {
            let columns = Column::ALL.map(|column| plain(row, column));
            cells(&[&[Plain::Text(row.tenant.to_owned())], columns.as_slice()].concat(), &[])
        };
        prop_assert_eq!(told, expected.iter().map(whole).collect::<Vec<_>>());
    }
}

#[test]
fn an_answer_is_written_as_a_file_that_reads_the_same() {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    let kept = Kept::of(&some_rows(50), 5, 10);
    let told = ask(&FlowQuestion { previous: true, ..by(&["app", "dport"], "") }, &kept);
    let file = bytes::Bytes::from(parquet(&told).expect("a file"));
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1_000).expect("read");
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("rows")).collect();
    let read = batches.iter().flat_map(|batch| {
        let numbers = batch.column_by_name("bytes").expect("bytes").as_primitive::<Int64Type>().clone();
        numbers.values().to_vec()
    });
    let bytes = told.rows.iter().map(|row| match &row[2] {
        Cell::Number(number) => *number as i64,
        other => panic!("{other:?}"),
    });
    assert_eq!(read.collect::<Vec<_>>(), bytes.collect::<Vec<_>>());
    assert!(batches[0].column_by_name("previous_flows").is_some());
    let rows = ask(&question("", TEN..TEN + 120 * MINUTE), &kept);
    assert!(!parquet(&rows).expect("a file").is_empty());
}

fn some_rows(count: u64) -> Vec<Row<'static>> {
    let bytes =
        |number: u64| std::array::from_fn(|at| (number.wrapping_mul(31 + at as u64) >> (at % 3)) as u8);
    (1..=count).map(|number| row(number, bytes(number))).collect()
}

fn by(names: &[&str], filter: &str) -> FlowQuestion {
    FlowQuestion {
        by: names.iter().map(|name| (*name).to_owned()).collect(),
        ..question(filter, TEN..TEN + 120 * MINUTE)
    }
}

#[test]
fn what_would_take_too_much_is_refused() {
    let kept = Kept::of(&some_rows(100), 20, 10);
    let refused = ask_within(&by(&["session"], ""), &kept, 99);
    assert_eq!(refused, Err(QueryError::TooManyGroups(99)));
    assert!(ask_within(&by(&["session"], ""), &kept, 100).is_ok());
    let refused = ask_within(&by(&["session", "source"], ""), &kept, 99);
    assert_eq!(refused, Err(QueryError::TooManyGroups(99)));
    let expired = Limits { threads: 2, most_groups: 99, expired: &|| true };
    let question = understood(&by(&["source"], ""));
    assert_eq!(answer(&question, &kept, &expired), Err(QueryError::TookTooLong));
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_counted() {
    let mut kept = Kept::of(&some_rows(100), 0, 1_000);
    let broken = kept.dir.path().join("broken.parquet");
    std::fs::write(&broken, b"PAR1 and so on PAR1").expect("written");
    let gone = kept.dir.path().join("gone.parquet");
    for path in [broken, gone] {
        kept.parts.push((Want::Rows, Part::File { tenant: "acme".into(), path, from: 0, until: u64::MAX }));
    }
    let told = ask_within(&by(&["sport"], ""), &kept, 1_000).expect("an answer");
    assert_eq!(told.total[2], 100);
    let [unreadable] = told.unreadable.as_slice() else { panic!("{:?}", told.unreadable) };
    assert!(unreadable.contains("broken.parquet: "), "{unreadable}");
}

#[test]
fn an_answer_says_before_when_some_may_be_missing_and_the_edges_of_a_range_are_of_rows() {
    let mut kept = Kept::of(&some_rows(100), 0, 1_000);
    let day = |n: u64| TEN - n * 24 * 60 * MINUTE;
    kept.gone = vec![("acme", false, day(7)), ("acme", true, day(90)), ("globex", false, day(2))];
    let told = |question: FlowQuestion| ask(&question, &kept).incomplete_before_unix_ms;
    let of = |filter: &str, time: Range<u64>, by: &[&str]| FlowQuestion {
        by: by.iter().map(|by| (*by).to_owned()).collect(),
        ..question(filter, time)
    };
    // Rows.
    assert_eq!(told(of("", day(1)..TEN, &[])), None);
    assert_eq!(told(of("", day(5)..TEN, &[])), Some(day(2)));
    assert_eq!(told(of("tenant = acme", day(5)..TEN, &[])), None);
    assert_eq!(told(of("tenant = acme", day(9)..TEN, &["sport"])), Some(day(7)));
    assert_eq!(told(of("tenant = acme", day(9)..day(8), &["sport"])), Some(day(8)), "all of it may be");
    // Roll-ups, and rows where a range begins or ends within a step.
    assert_eq!(told(of("tenant = acme", day(30)..TEN, &["class"])), None);
    assert_eq!(told(of("tenant = acme", day(100)..TEN, &["class"])), Some(day(90)));
    let edge = day(30) + MINUTE / 2;
    assert_eq!(told(of("tenant = acme", edge..TEN, &["class"])), Some(day(30) + MINUTE));
    let previous = FlowQuestion { previous: true, ..of("tenant = acme", day(6)..TEN, &["sport"]) };
    assert_eq!(told(previous), Some(day(7)), "in the time before");
}

#[test]
fn groups_of_rows_that_cannot_have_what_is_asked_for_are_not_read() {
    let kept = Kept::of(&some_rows(250), 0, 10);
    let read = |filter: &str| ask(&by(&["sport"], filter), &kept).rows_read;
    assert_eq!(read(""), 250);
    assert!(read("src in 10.2.0.0/16") < 100);
    assert!(read("src = 2001:db8::5 and tenant = acme") < 50);
    assert_eq!(read("src in 9.0.0.0/8 or session > 1000 or class = aaa"), 0);
}

#[test]
fn of_one_tenant_whatever_else_a_filter_says_there_is_nothing_of_others() {
    let kept = Kept::of(&some_rows(250), 0, 10);
    let of = |filter: &str| FlowQuestion { tenant: Some("acme".into()), ..by(&["tenant"], filter) };
    let only = Cell::Text("acme".into());
    for filter in
        ["", "sport > 0 or tenant = globex", "not tenant = acme or bytes >= 0", "tenant in (acme, globex)"]
    {
        let told = ask(&of(filter), &kept);
        assert_eq!(told.rows.iter().map(|row| &row[0]).collect::<Vec<_>>(), [&only], "{filter}");
        // And what it was understood as is such a filter again.
        assert_eq!(ask(&by(&["tenant"], &told.filter), &kept).rows, told.rows, "{filter}");
    }
    assert_eq!(ask(&of("tenant = globex"), &kept).rows, Vec::<Vec<Cell>>::new());
}

#[test]
fn a_question_that_cannot_be_understood_is_refused_by_name() {
    let problem = |question: FlowQuestion| Question::read(&question, TEN).expect_err("a problem");
    let rows = || question("", TEN..TEN + MINUTE);
    let sums = || by(&["class"], "");
    let wrong_filter = problem(question("class = voice and byts > 1", TEN..TEN + MINUTE));
    assert_eq!((wrong_filter.column, wrong_filter.length), (Some(19), Some(4)));
    assert!(wrong_filter.detail.ends_with("^^^^ there is no column \"byts\"; did you mean \"bytes\"?"));
    for (asked, parameter) in [
        (question("clas", 0..1), "q"),
        (question("", TEN..TEN), "until"),
        (FlowQuestion { range: FlowRange::Last("1w".into()), ..rows() }, "last"),
        (FlowQuestion { limit: Some(0), ..rows() }, "limit"),
        (FlowQuestion { limit: Some(100_001), ..rows() }, "limit"),
        (FlowQuestion { cursor: Some("x".into()), ..rows() }, "cursor"),
        (FlowQuestion { cursor: Some("1-2".into()), ..sums() }, "cursor"),
        (FlowQuestion { limit: Some(10), ..sums() }, "limit"),
        (by(&["clas"], ""), "by"),
        (by(&["end"], ""), "by"),
        (by(&["bytes"], ""), "by"),
        (by(&["host"], ""), "by"),
        (by(&["class", "app", "from", "to", "rule"], ""), "by"),
        (FlowQuestion { sums: vec!["byte".into()], ..sums() }, "sum"),
        (FlowQuestion { order: Some("size".into()), ..sums() }, "order"),
        (FlowQuestion { top: Some(0), ..sums() }, "top"),
        (FlowQuestion { step: Some("5".into()), ..sums() }, "step"),
        (FlowQuestion { step: Some("1ms".into()), ..sums() }, "step"),
    ] {
        let FlowProblem { parameter: named, detail, .. } = problem(asked);
        assert_eq!(named, Some(parameter), "{detail}");
    }
}

#[test]
fn a_range_up_to_now_ends_with_the_minute_and_steps_are_chosen_to_fit() {
    let time = |last: &str| {
        let asked = FlowQuestion { range: FlowRange::Last(last.into()), ..by(&["class"], "") };
        let asked = FlowQuestion { step: Some("auto".into()), ..asked };
        let Question { time, show, .. } = Question::read(&asked, TEN + 1_234).expect("a question");
        let Show::Sums(Summing { step, .. }) = show else { panic!("rows") };
        (time, step)
    };
    assert_eq!(time("1h"), (TEN - 59 * MINUTE..TEN + MINUTE, Some(30_000)));
    assert_eq!(time("2m"), (TEN + 1_235 - 2 * MINUTE..TEN + 1_235, Some(1_000)));
    assert_eq!(time("7d").1, Some(2 * 60 * MINUTE));
    assert_eq!(time("400d").1, Some(4 * 24 * 60 * MINUTE));
}
