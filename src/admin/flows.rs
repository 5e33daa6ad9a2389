//! `popgate flows`: a question to the flow history of the running box, answered in a table.

use super::client::{Connection, ShowError, ask, read, tell};
use super::history::csv;
use super::table::{Table, bytes, utc, utc_ms};
use crate::store::report::{Cell, FlowAnswer, FlowColumn, Holding};
use clap::Args;
use std::fmt::Write as _;

use std::process::ExitCode;

/// Ask the flow history: which records there are, or what they come to by any of their columns
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// Which: 'tenant = acme and dst in 203.0.113.0/24 and class = voice and bytes > 1M' [default: all]
    #[arg(value_name = "FILTER", default_value = "", hide_default_value = true)]
    filter: String,
    /// The time up to now: 30s, 5m, 2h, 1d [default: 1h]
    #[arg(long, value_name = "SPAN", conflicts_with_all = ["from", "until"])]
    last: Option<String>,
    /// The time's beginning, with its zone: 2026-11-22T10:00Z
    #[arg(long, value_name = "TIME", requires = "until")]
    from: Option<String>,
    /// The time's end, which is not part of it
    #[arg(long, value_name = "TIME", requires = "from")]
    until: Option<String>,
    /// Columns to sum up by: class,dst; without it, records are shown as they are
    #[arg(long, value_name = "COLUMNS")]
    by: Option<String>,
    /// So many groups, the largest ones [default: 10]
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// What to sum up [default: bytes,packets,flows]
    #[arg(long, value_name = "SUMS")]
    sum: Option<String>,
    /// The largest by this sum [default: the first]
    #[arg(long, value_name = "SUM")]
    order: Option<String>,
    /// Beside it the time before, as long
    #[arg(long)]
    previous: bool,
    /// Sums over time, too, in steps like this, or auto
    #[arg(long, value_name = "SPAN")]
    step: Option<String>,
    /// At most so many records [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// From where the page before ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// The table with commas between
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Runs `popgate flows`: 0 if there was an answer.
pub fn flows(args: &FlowsArgs) -> ExitCode {
    tell("flows", text(args))
}

/// What goes to standard output.
pub(super) fn text(args: &FlowsArgs) -> Result<String, ShowError> {
    let answer = ask(&args.connection, "flows/query", parameters(args))?;
    if args.connection.json {
        return Ok(answer + "\n");
    }
    let answer: FlowAnswer = read(&answer)?;
    Ok(if args.csv { csv(&answer) } else { render(&answer) })
}

fn parameters(args: &FlowsArgs) -> Vec<(&'static str, String)> {
    let number = |number: Option<usize>| number.map(|number| number.to_string());
    let parameters = [
        ("q", Some(args.filter.clone()).filter(|filter| !filter.is_empty())),
        ("last", args.last.clone()),
        ("from", args.from.clone()),
        ("until", args.until.clone()),
        ("by", args.by.clone()),
        ("sum", args.sum.clone()),
        ("order", args.order.clone()),
        ("top", number(args.top)),
        ("step", args.step.clone()),
        ("previous", args.previous.then(|| "true".to_owned())),
        ("limit", number(args.limit)),
        ("cursor", args.cursor.clone()),
    ];
    parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Of records; `--csv` and `--json` have all columns.
const OF_RECORDS: [&str; 16] = [
    "end",
    "tenant",
    "protocol",
    "source",
    "source_port",
    "destination",
    "destination_port",
    "nat_source",
    "from",
    "to",
    "class",
    "name",
    "rule",
    "forward_path",
    "forward_bytes",
    "reverse_bytes",
];

fn render(answer: &FlowAnswer) -> String {
    let (columns, rows) = answer.table();
    // Records as they are have more columns than a line has room for; whoever asked for sums chose theirs.
    let are_records = columns.iter().any(|column| column.name == "start");
    let is_shown = |column: &FlowColumn| !are_records || OF_RECORDS.contains(&column.name.as_str());
    let headings: Vec<String> = columns.iter().filter(|column| is_shown(column)).map(heading).collect();
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        let cells = row.iter().zip(&columns).filter(|(_, column)| is_shown(column));
        table.row(cells.map(|(cell, column)| shown(cell, column)));
    }
    let mut out = if answer.rows.is_empty() { "no flow records\n".to_owned() } else { table.render() };
    // Writing into a String cannot fail.
    let hidden = answer.groups.saturating_sub(answer.rows.len() as u64);
    if hidden > 0 {
        let _ = writeln!(out, "and {hidden} more; --top shows more");
    }
    if let Some(cursor) = &answer.cursor {
        let _ = writeln!(out, "and more: --cursor {cursor}");
    }
    if let Some(series) = &answer.series {
        out.push('\n');
        out.push_str(&over_time(series));
    }
    if let Some(before) = answer.incomplete_before_unix_ms {
        let _ = writeln!(
            out,
            "what ended before {} is not all in it: it was before the history, or has gone",
            utc_ms(before)
        );
    }
    for file in &answer.unreadable {
        let _ = writeln!(out, "left out, it cannot be read: {file}");
    }
    out
}

/// All groups together in each step.
fn over_time(series: &crate::store::report::FlowSeries) -> String {
    let heading = format!(">{}", series.of.to_uppercase().replace('_', " "));
    let before = format!("{heading} BEFORE");
    let mut table = match series.before {
        Some(_) => Table::new(&["TIME", &heading, &before]),
        None => Table::new(&["TIME", &heading]),
    };
    let sum = |lines: &[Vec<u64>], at: usize| -> u64 { lines.iter().filter_map(|line| line.get(at)).sum() };
    let write = |number: u64| if series.of.ends_with("bytes") { bytes(number) } else { number.to_string() };
    for at in 0..series.lines.iter().map(Vec::len).max().unwrap_or_default() {
        let begins = series.from_unix_ms + at as u64 * series.step_ms;
        let before = series.before.as_ref().map(|before| write(sum(before, at)));
        table.row([utc(begins), write(sum(&series.lines, at))].into_iter().chain(before));
    }
    table.render()
}

fn heading(column: &FlowColumn) -> String {
    let name = column.name.to_uppercase().replace('_', " ");
    match column.holds {
        Holding::Number => format!(">{name}"),
        Holding::Text | Holding::Time => name,
    }
}

fn shown(cell: &Cell, column: &FlowColumn) -> String {
    match (cell, column.holds) {
        (Cell::None, _) => "-".to_owned(),
        (Cell::Text(text), _) => text.clone(),
        (Cell::Number(millis), Holding::Time) => utc_ms(*millis),
        (Cell::Number(number), _) if column.name.ends_with("bytes") => bytes(*number),
        (Cell::Number(number), _) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::report::{FlowSeries, FlowsBefore};

    #[test]
    fn groups_are_told_in_a_table_with_what_they_were_before_and_over_time() {
        let column = |name: &str, holds| FlowColumn { name: name.into(), holds };
        let answer = FlowAnswer {
            columns: vec![column("class", Holding::Text), column("bytes", Holding::Number)],
            rows: vec![
                vec![Cell::Text("voice".into()), Cell::Number(1_020)],
                vec![Cell::None, Cell::Number(7)],
            ],
            groups: 5,
            total: vec![1_030],
            before: Some(FlowsBefore {
                from_unix_ms: 0,
                until_unix_ms: 60_000,
                total: vec![900],
                rows: vec![vec![900], vec![0]],
            }),
            series: Some(FlowSeries {
                of: "bytes".into(),
                step_ms: 60_000,
                from_unix_ms: 1_795_341_600_000,
                lines: vec![vec![1_000, 20], vec![7, 0], vec![0, 3]],
                before: None,
            }),
            incomplete_before_unix_ms: Some(1_795_341_600_123),
            ..FlowAnswer::default()
        };
        let lines = [
            "CLASS    BYTES  PREVIOUS BYTES",
            "voice  1.02 KB           900 B",
            "-          7 B             0 B",
            "and 3 more; --top shows more",
            "",
            "TIME                    BYTES",
            "2026-11-22T10:00:00Z  1.01 KB",
            "2026-11-22T10:01:00Z     23 B",
            "what ended before 2026-11-22T10:00:00.123Z is not all in it: it was before the history, or has gone",
        ];
        assert_eq!(render(&answer).lines().collect::<Vec<_>>(), lines);
        assert_eq!(csv(&answer), "class,bytes,previous_bytes\r\nvoice,1020,900\r\n,7,0\r\n");
    }
}
