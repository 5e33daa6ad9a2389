//! A question in words, understood.

use super::filter::span;
use super::group::MOST_FIELDS;
use super::{Field, Filter, Holds};
use crate::store::flows::Column;
use crate::store::report::{FlowColumn, FlowProblem, FlowQuestion, FlowRange, Holding};
use std::fmt::Display;
use std::ops::Range;

/// 10, unless asked otherwise: what is looked at first.
const TOP: usize = 10;
/// 10,000 groups: more is for a tool that reads the files.
const MOST_TOP: usize = 10_000;
/// 100 rows, unless asked otherwise.
const ROWS: usize = 100;
/// 100,000 rows at once: some 100 MB while they are written.
const MOST_ROWS: usize = 100_000;
/// 120 steps, or fewer, unless asked otherwise: as many as a chart has room for.
const STEPS: u64 = 120;
/// 250,000 points of all lines: 5 MB of JSON.
const MOST_POINTS: u64 = 250_000;

/// Steps that begin where people look for it; milliseconds.
const NICE_STEPS: [u64; 16] = [
    1_000,
    5_000,
    10_000,
    30_000,
    60_000,
    2 * 60_000,
    5 * 60_000,
    10 * 60_000,
    15 * 60_000,
    30 * 60_000,
    3_600_000,
    2 * 3_600_000,
    3 * 3_600_000,
    6 * 3_600_000,
    12 * 3_600_000,
    86_400_000,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub filter: Filter,
    /// By when records end: milliseconds since the Unix epoch, without the end.
    pub time: Range<u64>,
    pub show: Show,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// The newest, before one that ended then, of that session.
    Rows {
        most: usize,
        before: Option<(u64, u64)>,
    },
    Sums(Summing),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summing {
    pub by: Vec<Field>,
    /// At least one.
    pub sums: Vec<Sum>,
    pub top: usize,
    /// The largest by the sum at this place.
    pub order: usize,
    /// Milliseconds.
    pub step: Option<u64>,
    /// With the time before, as long.
    pub previous: bool,
}

/// What is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Records: a long session has several.
    Flows,
    Bytes,
    Packets,
    /// One of [`crate::store::flows::Rollup::SUMS`].
    Of(Column),
}

impl Sum {
    const ALL: [Sum; 7] = [
        Sum::Bytes,
        Sum::Packets,
        Sum::Flows,
        Sum::Of(Column::ForwardBytes),
        Sum::Of(Column::ReverseBytes),
        Sum::Of(Column::ForwardPackets),
        Sum::Of(Column::ReversePackets),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Sum::Flows => "flows",
            Sum::Bytes => "bytes",
            Sum::Packets => "packets",
            Sum::Of(column) => column.name(),
        }
    }

    pub fn columns(self) -> &'static [Column] {
        match self {
            Sum::Flows => &[],
            Sum::Bytes => Field::Bytes.columns(),
            Sum::Packets => Field::Packets.columns(),
            Sum::Of(column) => Field::Column(column).columns(),
        }
    }

    fn named(name: &str) -> Option<Sum> {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        Sum::ALL.into_iter().find(|sum| sum.name() == plain)
    }
}

impl Question {
    /// Understands `asked`, at `now` (milliseconds since the Unix epoch).
    ///
    /// # Errors
    /// What is wrong, by the parameter's name, and of a filter the place in it.
    pub fn read(asked: &FlowQuestion, now: u64) -> Result<Question, FlowProblem> {
        let filter: Filter = asked.filter.parse().map_err(|error: super::FilterError| FlowProblem {
            column: Some(error.column),
            length: Some(error.length),
            ..FlowProblem::asked("q", error.pointed(&asked.filter))
        })?;
        let filter = match &asked.tenant {
            // Before the rest, which may be an "or" and ask for other tenants.
            Some(tenant) if filter == Filter::default() => Filter::of_tenant(tenant.clone()),
            Some(tenant) => Filter::Every(vec![Filter::of_tenant(tenant.clone()), filter]),
            None => filter,
        };
        let time = range(&asked.range, now)?;
        let by = asked.by.iter().map(|name| group_field(name)).collect::<Result<Vec<_>, _>>()?;
        if by.len() > MOST_FIELDS {
            let detail = format!("by: at most {MOST_FIELDS} columns at once, not {}", by.len());
            return Err(FlowProblem::asked("by", detail));
        }
        let sums_rows = by.is_empty()
            && asked.sums.is_empty()
            && asked.order.is_none()
            && asked.top.is_none()
            && asked.step.is_none()
            && !asked.previous;
        let show = if sums_rows {
            Show::Rows {
                most: at_most("limit", asked.limit, ROWS, MOST_ROWS)?,
                before: asked.cursor.as_deref().map(cursor).transpose()?,
            }
        } else {
            for (name, given) in [("limit", asked.limit.is_some()), ("cursor", asked.cursor.is_some())] {
                if given {
                    let detail = format!("{name}: it is for rows as they are; groups have \"top\"");
                    return Err(FlowProblem::asked(name, detail));
                }
            }
            Show::Sums(summing(asked, by, &time)?)
        };
        Ok(Question { filter, time, show })
    }
}

fn summing(asked: &FlowQuestion, by: Vec<Field>, time: &Range<u64>) -> Result<Summing, FlowProblem> {
    let sum = |parameter: &'static str, name: &str| {
        let names = Sum::ALL.map(Sum::name).join(", ");
        Sum::named(name)
            .ok_or_else(|| FlowProblem::asked(parameter, format!("{parameter}: {name:?} is none of {names}")))
    };
    let mut sums = Vec::new();
    for name in &asked.sums {
        let sum = sum("sum", name)?;
        if !sums.contains(&sum) {
            sums.push(sum);
        }
    }
    let order = asked.order.as_deref().map(|name| sum("order", name)).transpose()?;
    if sums.is_empty() {
        sums = vec![Sum::Bytes, Sum::Packets, Sum::Flows];
    }
    let order = order.unwrap_or(sums[0]);
    if !sums.contains(&order) {
        sums.push(order);
    }
    let top = at_most("top", asked.top, TOP, MOST_TOP)?;
    let step = asked.step.as_deref().map(|text| step(text, time, top)).transpose()?;
    let order = sums.iter().position(|sum| *sum == order).unwrap_or_default();
    Ok(Summing { by, sums, top, order, step, previous: asked.previous })
}

fn range(asked: &FlowRange, now: u64) -> Result<Range<u64>, FlowProblem> {
    /// From 10 minutes on, time begins and ends with a minute: roll-ups know no less.
    const ROUNDED: u64 = 600_000;
    const MINUTE: u64 = 60_000;
    /// Far enough off, and no sum of two such is too large.
    const END_OF_TIME: u64 = 1 << 46;
    let time = match asked {
        FlowRange::Last(text) => {
            let last = span(text).filter(|last| (1..END_OF_TIME).contains(last)).ok_or_else(|| {
                let detail = format!("last: {text:?} is not a span as in 30s, 5m, 2h or 1d");
                FlowProblem::asked("last", detail)
            })?;
            let until = if last < ROUNDED { now + 1 } else { (now + 1).next_multiple_of(MINUTE) };
            until.saturating_sub(last)..until
        }
        FlowRange::Between { from_unix_ms, until_unix_ms } => *from_unix_ms..*until_unix_ms,
    };
    if time.is_empty() || time.end > END_OF_TIME {
        return Err(FlowProblem::asked("until", "until: it must be later than from".to_owned()));
    }
    Ok(time)
}

fn group_field(name: &str) -> Result<Field, FlowProblem> {
    let wrong = |detail: String| Err(FlowProblem::asked("by", detail));
    let Some(field) = Field::named(name) else {
        return wrong(match Field::nearest(name) {
            Some(near) => format!("by: there is no column {name:?}; did you mean {near:?}?"),
            None => format!("by: there is no column {name:?}"),
        });
    };
    match field {
        Field::Tenant => Ok(field),
        Field::Column(_) if field.holds() == Holds::Time => wrong(format!(
            "by: {name} has a value of its own for each record; \"step\" is for sums over time"
        )),
        Field::Column(_) => Ok(field),
        Field::Bytes | Field::Packets | Field::Duration => wrong(format!("by: {name} is not a column")),
        Field::Port | Field::Address | Field::Path => {
            let columns: Vec<&str> = field.columns().iter().map(|column| column.name()).collect();
            wrong(format!("by: {name} is several columns: {}", columns.join(", ")))
        }
    }
}

fn at_most(
    name: &'static str,
    asked: Option<usize>,
    usually: usize,
    most: usize,
) -> Result<usize, FlowProblem> {
    match asked.unwrap_or(usually) {
        number if (1..=most).contains(&number) => Ok(number),
        number => Err(FlowProblem::asked(name, format!("{name}: {number} is not a number from 1 to {most}"))),
    }
}

fn step(text: &str, time: &Range<u64>, lines: usize) -> Result<u64, FlowProblem> {
    let length = time.end - time.start;
    if text == "auto" {
        let fits = |step: &u64| length.div_ceil(*step) <= STEPS;
        let longest = NICE_STEPS[NICE_STEPS.len() - 1];
        return Ok(NICE_STEPS
            .into_iter()
            .find(fits)
            .unwrap_or_else(|| length.div_ceil(STEPS).next_multiple_of(longest)));
    }
    let wrong = |why: &dyn Display| FlowProblem::asked("step", format!("step: {text:?} {why}"));
    let step = span(text).filter(|step| *step > 0);
    let step = step.ok_or_else(|| wrong(&"is neither \"auto\" nor a span as in 30s, 5m or 1h"))?;
    if (length / step + 2).saturating_mul(lines as u64 + 1) > MOST_POINTS {
        return Err(wrong(&format!("makes more than {MOST_POINTS} points")));
    }
    Ok(step)
}

/// What an answer gives for the page after it.
fn cursor(text: &str) -> Result<(u64, u64), FlowProblem> {
    let read =
        text.split_once('-').and_then(|(end, session)| Some((end.parse().ok()?, session.parse().ok()?)));
    read.ok_or_else(|| FlowProblem::asked("cursor", format!("cursor: {text:?} is from no answer")))
}

/// The columns of rows as they are.
pub(super) fn row_columns() -> Vec<FlowColumn> {
    std::iter::once(Field::Tenant).chain(Column::ALL.map(Field::Column)).map(column).collect()
}

/// The columns of sums.
pub(super) fn sum_columns(by: &[Field], sums: &[Sum]) -> Vec<FlowColumn> {
    let sums = sums.iter().map(|sum| FlowColumn { name: sum.name().to_owned(), holds: Holding::Number });
    by.iter().copied().map(column).chain(sums).collect()
}

fn column(field: Field) -> FlowColumn {
    let holds = match field.holds() {
        Holds::Text | Holds::Address => Holding::Text,
        Holds::Time => Holding::Time,
        Holds::Small(_) | Holds::Count | Holds::Span => Holding::Number,
    };
    FlowColumn { name: field.name().to_owned(), holds }
}
