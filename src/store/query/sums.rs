//! An answer in sums: the largest groups, what they were over time, and what they were in the period before.

use super::group::{Buckets, Groups, Largest, Lines, Value};
use super::read::Opened;
use super::{Asked, Field, QueryError, Sum, Summing, question, want};
use crate::store::flows::Column;
use crate::store::report::{Cell, FlowAnswer, FlowSeries, FlowsBefore};
use std::ops::Range;

impl Asked<'_> {
    pub(super) fn sums(&self, summing: &Summing) -> Result<FlowAnswer, QueryError> {
        let Summing { by, sums, top, order, step, previous } = summing;
        let time = &self.question.time;
        let mut answer = self.begin(question::sum_columns(by, sums));
        let mut groups = Vec::new();
        if by.is_empty() {
            // One group of everything: what is in none of none.
            let (lines, opened) = self.lines(summing, time, &[], sums, None)?;
            answer.note(&opened);
            answer.total = (0..sums.len()).map(|sum| lines.at(sum, 0)).collect();
            answer.rows.push(answer.total.iter().map(|total| Cell::Number(*total)).collect());
            answer.groups = 1;
        } else {
            let (found, opened) = self.groups(summing, time)?;
            answer.note(&opened);
            let Largest { rows, count, total } = found.top(*top, *order);
            for (values, totals) in rows {
                let values_of = values.iter().map(Cell::from);
                answer.rows.push(values_of.chain(totals.into_iter().map(Cell::Number)).collect());
                groups.push(values);
            }
            (answer.groups, answer.total) = (count as u64, total);
        }
        let of_order = std::slice::from_ref(&sums[*order]);
        if let Some(step) = step {
            let (lines, opened) = self.lines(summing, time, &groups, of_order, Some(*step))?;
            answer.note_missing(&opened);
            answer.series = Some(FlowSeries {
                of: sums[*order].name().to_owned(),
                step_ms: *step,
                from_unix_ms: time.start / step * step,
                lines: lines.of(0).map(<[u64]>::to_vec).collect(),
                before: None,
            });
        }
        if *previous {
            let length = time.end - time.start;
            let before = time.start.saturating_sub(length)..time.start;
            let (lines, opened) = self.lines(summing, &before, &groups, sums, None)?;
            answer.note(&opened);
            let total: Vec<u64> = (0..sums.len()).map(|sum| lines.of(sum).flatten().sum()).collect();
            let row = |group: usize| (0..sums.len()).map(|sum| lines.at(sum, group)).collect();
            let rows = match groups.len() {
                0 if by.is_empty() => vec![total.clone()],
                count => (0..count).map(row).collect(),
            };
            answer.before =
                Some(FlowsBefore { from_unix_ms: before.start, until_unix_ms: before.end, total, rows });
            if let (Some(series), Some(step)) = (&mut answer.series, step) {
                let (lines, opened) = self.lines(summing, &before, &groups, of_order, Some(*step))?;
                series.before = Some(lines.of(0).map(<[u64]>::to_vec).collect());
                answer.note_missing(&opened);
            }
        }
        Ok(answer)
    }

    fn groups(&self, summing: &Summing, time: &Range<u64>) -> Result<(Groups, Opened), QueryError> {
        let Summing { by, sums, .. } = summing;
        let mut opened = self.open_for(summing, time, sums, None)?;
        let make = || Groups::new(by, sums, self.limits.most_groups);
        let columns = columns(by, sums, false);
        let mut found = opened.scan(&self.question.filter, &columns, self.limits, make)?.into_iter();
        let mut groups = found.next().unwrap_or_else(make);
        for other in found {
            groups.absorb(other)?;
        }
        Ok((groups, opened))
    }

    /// Of `groups` and everything else, in steps of that many milliseconds, or all of `time` at once.
    fn lines(
        &self,
        summing: &Summing,
        time: &Range<u64>,
        groups: &[Vec<Value>],
        sums: &[Sum],
        step: Option<u64>,
    ) -> Result<(Lines, Opened), QueryError> {
        let buckets = Buckets::of(time, step);
        let mut opened = self.open_for(summing, time, sums, step)?;
        let make = || Lines::new(&summing.by, groups, sums, buckets);
        let columns = columns(&summing.by, sums, step.is_some());
        let mut found = opened.scan(&self.question.filter, &columns, self.limits, make)?.into_iter();
        let mut lines = found.next().unwrap_or_else(make);
        found.for_each(|other| lines.absorb(other));
        Ok((lines, opened))
    }

    fn open_for(
        &self,
        summing: &Summing,
        time: &Range<u64>,
        sums: &[Sum],
        step: Option<u64>,
    ) -> Result<Opened, QueryError> {
        self.open(want::wants(time.clone(), &self.question.filter, &summing.by, sums, step))
    }
}

fn columns(by: &[Field], sums: &[Sum], in_steps: bool) -> Vec<Column> {
    let by = by.iter().flat_map(|field| field.columns());
    let summed = sums.iter().flat_map(|sum| sum.columns());
    by.chain(summed).copied().chain(in_steps.then_some(Column::End)).collect()
}

impl Buckets {
    /// Those that `time` falls into; they begin where a step does.
    fn of(time: &Range<u64>, step: Option<u64>) -> Buckets {
        let Some(step) = step else {
            return Buckets { from: time.start, step: (time.end - time.start).max(1), count: 1 };
        };
        let from = time.start / step * step;
        let count = (time.end - from).div_ceil(step).max(1);
        Buckets { from, step, count: usize::try_from(count).unwrap_or(usize::MAX) }
    }
}

impl From<&Value> for Cell {
    fn from(value: &Value) -> Cell {
        match value {
            Value::None => Cell::None,
            Value::Number(number) => Cell::Number(*number),
            Value::Text(text) => Cell::Text(text.to_string()),
        }
    }
}

impl FlowAnswer {
    /// How much was looked at for it.
    pub(super) fn note(&mut self, opened: &Opened) {
        self.rows_read += opened.units.iter().map(|unit| unit.rows as u64).sum::<u64>();
        self.unreadable.extend(opened.unreadable.iter().cloned());
        self.unreadable.sort();
        self.unreadable.dedup();
        self.note_missing(opened);
    }

    fn note_missing(&mut self, opened: &Opened) {
        self.incomplete_before_unix_ms = self.incomplete_before_unix_ms.max(opened.incomplete_before);
    }
}
