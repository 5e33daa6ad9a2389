//! What is to be read for a question: rows, or a roll-up that knows as much.

use super::{Field, Filter, Sum};
use crate::store::flows::{Column, Part, Rollup, Step, Want};
use std::ops::Range;

/// Where the parts come from.
pub trait History {
    /// What there is of a span of time (milliseconds since the Unix epoch, without the end), by when rows end, of one tenant
    /// or of all. Each record is in one of the parts; a part may have more than what was asked for.
    ///
    /// Where a roll-up is wanted and there is none, rows are handed out in its place, or finer roll-ups: what has not been
    /// rolled up yet is in memory, most of the time. The span then begins and ends where a step does.
    fn parts(&self, tenant: Option<&str>, from: u64, until: u64, want: Want) -> Vec<Part>;

    /// From when on there is everything of what is wanted; earlier some may be missing.
    fn complete_from(&self, tenant: Option<&str>, want: Want) -> u64;
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
    let fits = |kept: &Step| step.is_none_or(|step| step.is_multiple_of(kept.millis()));
    let fitting = |rollup: Rollup| {
        let steps: Vec<Step> = rollup.steps().iter().copied().filter(fits).collect();
        (!steps.is_empty()).then_some((rollup, steps))
    };
    let mut spans = Vec::new();
    match Rollup::ALL.into_iter().filter(covers).find_map(fitting) {
        None => spans.push((time, Want::Rows)),
        Some((rollup, steps)) => cut(time, rollup, &steps, &mut spans),
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
        let class = |step| Want::Rollup(Rollup::Class, step);
        let by = [Field::Column(Column::Class)];
        let from = HOUR - 6 * MINUTE - 1;
        let until = 3 * HOUR + 11 * MINUTE;
        let spans = [
            (from..HOUR - 6 * MINUTE, Want::Rows),
            (HOUR - 6 * MINUTE..HOUR - 5 * MINUTE, class(Step::Minute)),
            (HOUR - 5 * MINUTE..HOUR, class(Step::FiveMinutes)),
            (HOUR..3 * HOUR, class(Step::Hour)),
            (3 * HOUR..3 * HOUR + 10 * MINUTE, class(Step::FiveMinutes)),
            (3 * HOUR + 10 * MINUTE..until, class(Step::Minute)),
        ];
        assert_eq!(asked(from..until, "class = voice", &by, None), spans);
        let within_a_minute = 1..MINUTE - 1;
        assert_eq!(asked(within_a_minute.clone(), "", &by, None), [(within_a_minute, Want::Rows)]);
        let whole = 0..HOUR;
        assert_eq!(asked(whole.clone(), "", &by, Some(10 * MINUTE)), [(whole, class(Step::FiveMinutes))]);
    }

    #[test]
    fn rows_are_read_where_no_roll_up_knows_as_much() {
        let hour = || 0..HOUR;
        let by = |column| [Field::Column(column)];
        for (filter, by, want) in [
            ("", by(Column::Destination), Want::Rollup(Rollup::Destination, Step::Hour)),
            ("name ~ video", by(Column::Class), Want::Rollup(Rollup::Destination, Step::Hour)),
            ("path = dsl and tenant = acme", by(Column::Class), Want::Rollup(Rollup::Class, Step::Hour)),
            ("dst in 10.0.0.0/8", by(Column::Source), Want::Rows),
            ("bytes > 1M", by(Column::Source), Want::Rows),
            ("port = 443", by(Column::Class), Want::Rows),
            ("host = 10.0.0.1", by(Column::Class), Want::Rows),
            ("", by(Column::DestinationPort), Want::Rows),
        ] {
            assert_eq!(asked(hour(), filter, &by, None), [(hour(), want)], "{filter}");
        }
        assert_eq!(asked(hour(), "", &by(Column::Class), Some(1_000)), [(hour(), Want::Rows)]);
        // Addresses are rolled up by the hour alone.
        assert_eq!(asked(hour(), "", &by(Column::Source), Some(60_000)), [(hour(), Want::Rows)]);
    }
}
