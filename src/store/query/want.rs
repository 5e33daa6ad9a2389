//! What is to be read for a question: rows, or a roll-up that knows as much.

use super::{Field, Filter, Sum};
use crate::store::flows::{Column, Part, Rollup, Step};
use std::ops::Range;

/// Where the parts come from.
pub trait History {
    /// What there is of a span of time (milliseconds since the Unix epoch, without the end), by when rows end, of one tenant
    /// or of all. Each record is in one of the parts; a part may have more than what was asked for.
    ///
    /// Where a roll-up is wanted and there is none, rows are handed out in its place, or finer roll-ups: what has not been
    /// rolled up yet is in memory, most of the time. The span then begins and ends where a step does.
    fn parts(&self, tenant: Option<&str>, from: u64, until: u64, want: Want) -> Vec<Part>;
}

/// What to hand out, where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Rows,
    Rollup(Rollup, Step),
}

/// The spans that `time` falls into, and what to read of each: the coarsest steps that fit, finer ones at its edges, and
/// at last rows; all rows, where no roll-up has all that is asked about. Every step of a roll-up is within one of the
/// question's own steps of `step` milliseconds, if it has such.
pub(super) fn wants(
    time: Range<u64>,
    filter: &Filter,
    by: &[Field],
    sums: &[Sum],
    step: Option<u64>,
) -> Vec<(Range<u64>, Want)> {
    let fields: Vec<Field> = filter.fields().into_iter().chain(by.iter().copied()).collect();
    let summed = sums.iter().all(|sum| sum.columns().iter().all(|column| Rollup::SUMS.contains(column)));
    let covers = |rollup: &Rollup| summed && fields.iter().all(|field| covers(*rollup, *field));
    let mut spans = Vec::new();
    match Rollup::ALL.into_iter().find(covers) {
        None => spans.push((time, Want::Rows)),
        Some(rollup) => {
            let fits = |step_of: &Step| step.is_none_or(|step| step.is_multiple_of(step_of.millis()));
            let steps: Vec<Step> = Step::ALL.into_iter().filter(fits).collect();
            cut(time, rollup, &steps, &mut spans);
        }
    }
    spans
}

/// Whether a roll-up's rows tell as much of `field` as the records do. Sums are of many records there.
fn covers(rollup: Rollup, field: Field) -> bool {
    let known = |column: &Column| *column != Column::End && rollup.columns().contains(column);
    match field {
        Field::Tenant => true,
        Field::Bytes | Field::Packets | Field::Duration => false,
        field => field.columns().iter().all(known),
    }
}

/// `steps`: the coarsest last.
fn cut(time: Range<u64>, rollup: Rollup, steps: &[Step], into: &mut Vec<(Range<u64>, Want)>) {
    if time.is_empty() {
        return;
    }
    let Some((coarsest, finer)) = steps.split_last() else {
        into.push((time, Want::Rows));
        return;
    };
    let millis = coarsest.millis();
    let (from, until) = (time.start.next_multiple_of(millis), time.end / millis * millis);
    if from >= until {
        return cut(time, rollup, finer, into);
    }
    cut(time.start..from, rollup, finer, into);
    into.push((from..until, Want::Rollup(rollup, *coarsest)));
    cut(until..time.end, rollup, finer, into);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    fn asked(time: Range<u64>, filter: &str, by: &[Field], step: Option<u64>) -> Vec<(Range<u64>, Want)> {
        wants(time, &filter.parse().expect("a filter"), by, &[Sum::Bytes, Sum::Flows], step)
    }

    #[test]
    fn the_edges_of_a_span_are_cut_from_finer_steps() {
        let source = |step| Want::Rollup(Rollup::Source, step);
        let by = [Field::Column(Column::Source)];
        let from = HOUR - 6 * MINUTE - 1;
        let until = 3 * HOUR + 11 * MINUTE;
        let spans = [
            (from..HOUR - 6 * MINUTE, Want::Rows),
            (HOUR - 6 * MINUTE..HOUR - 5 * MINUTE, source(Step::Minute)),
            (HOUR - 5 * MINUTE..HOUR, source(Step::FiveMinutes)),
            (HOUR..3 * HOUR, source(Step::Hour)),
            (3 * HOUR..3 * HOUR + 10 * MINUTE, source(Step::FiveMinutes)),
            (3 * HOUR + 10 * MINUTE..until, source(Step::Minute)),
        ];
        assert_eq!(asked(from..until, "class = voice", &by, None), spans);
        let within_a_minute = 1..MINUTE - 1;
        assert_eq!(asked(within_a_minute.clone(), "", &by, None), [(within_a_minute, Want::Rows)]);
        let whole = 0..HOUR;
        assert_eq!(asked(whole.clone(), "", &by, Some(10 * MINUTE)), [(whole, source(Step::FiveMinutes))]);
    }

    #[test]
    fn rows_are_read_where_no_roll_up_knows_as_much() {
        let hour = || 0..HOUR;
        let by = |column| [Field::Column(column)];
        for (filter, by, want) in [
            ("", by(Column::Destination), Want::Rollup(Rollup::Destination, Step::Hour)),
            ("name ~ video", by(Column::Class), Want::Rollup(Rollup::Destination, Step::Hour)),
            ("path = dsl and tenant = acme", by(Column::Class), Want::Rollup(Rollup::Source, Step::Hour)),
            ("dst in 10.0.0.0/8", by(Column::Source), Want::Rows),
            ("bytes > 1M", by(Column::Source), Want::Rows),
            ("port = 443", by(Column::Class), Want::Rows),
            ("host = 10.0.0.1", by(Column::Class), Want::Rows),
            ("", by(Column::DestinationPort), Want::Rows),
        ] {
            assert_eq!(asked(hour(), filter, &by, None), [(hour(), want)], "{filter}");
        }
        assert_eq!(asked(hour(), "", &by(Column::Class), Some(1_000)), [(hour(), Want::Rows)]);
    }
}
