//! The text format of OpenMetrics 1.0: families of numbers, each with its name, kind, unit and what it is.
//!
//! Crates that write it keep the numbers too, to be counted up where things happen. Ours are the workers' own and are asked
//! for when somebody wants them: what is left to do is this file.

use std::fmt::{self, Write as _};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Units, as they end names.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

/// Things that numbers are told of, with their labels as they are written.
pub(super) struct Series<T>(Vec<(String, T)>);

impl<T> Series<T> {
    pub(super) fn new(
        things: impl IntoIterator<Item = T>,
        labels: impl for<'a> Fn(&'a T) -> Vec<(&'static str, &'a str)>,
    ) -> Series<T> {
        let series = things.into_iter().map(|thing| (written(&labels(&thing)), thing));
        Series(series.collect())
    }
}

fn written(labels: &[(&'static str, &str)]) -> String {
    let mut text = String::new();
    for (at, (name, value)) in labels.iter().enumerate() {
        text.push(if at == 0 { '{' } else { ',' });
        // Writing into a String cannot fail.
        let _ = write!(text, "{name}=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
    text
}

/// A number of either kind, or none: nothing is told then.
pub(super) trait Number {
    fn write(self, text: &mut Written<'_>);
}

/// Where a number goes: behind its name and labels.
pub(super) struct Written<'a> {
    text: &'a mut String,
    name: &'a str,
    labels: &'a str,
}

impl Written<'_> {
    fn put(&mut self, number: impl fmt::Display) {
        let _ = writeln!(self.text, "{}{} {number}", self.name, self.labels);
    }
}

impl Number for u64 {
    fn write(self, text: &mut Written<'_>) {
        text.put(self);
    }
}

impl Number for f64 {
    fn write(self, text: &mut Written<'_>) {
        text.put(self);
    }
}

impl Number for bool {
    fn write(self, text: &mut Written<'_>) {
        text.put(u8::from(self));
    }
}

impl<N: Number> Number for Option<N> {
    fn write(self, text: &mut Written<'_>) {
        if let Some(number) = self {
            number.write(text);
        }
    }
}

/// What is written so far.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// A family of numbers that go up and down.
    pub(super) fn gauge<T, N: Number>(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: &Series<T>,
        number: impl Fn(&T) -> N,
    ) {
        self.family(name, name, "gauge", help, series, number);
    }

    /// A family of numbers that only grow while the box runs. Its name ends in `_total`.
    pub(super) fn counter<T, N: Number>(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: &Series<T>,
        number: impl Fn(&T) -> N,
    ) {
        let family = name.strip_suffix("_total").unwrap_or(name);
        self.family(family, name, "counter", help, series, number);
    }

    /// A family that tells by its labels alone. Its name ends in `_info`.
    pub(super) fn info<T>(&mut self, name: &'static str, help: &'static str, series: &Series<T>) {
        let family = name.strip_suffix("_info").unwrap_or(name);
        self.family(family, name, "info", help, series, |_| true);
    }

    fn family<T, N: Number>(
        &mut self,
        family: &str,
        name: &str,
        kind: &str,
        help: &str,
        series: &Series<T>,
        number: impl Fn(&T) -> N,
    ) {
        let text = &mut self.0;
        let _ = writeln!(text, "# TYPE {family} {kind}");
        let is_in = |unit: &&&str| family.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_'));
        if let Some(unit) = UNITS.iter().find(is_in) {
            let _ = writeln!(text, "# UNIT {family} {unit}");
        }
        let _ = writeln!(text, "# HELP {family} {help}");
        for (labels, thing) in &series.0 {
            number(thing).write(&mut Written { text, name, labels });
        }
    }

    /// All of it.
    pub(super) fn finish(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_told_with_its_kind_and_unit_and_a_number_that_is_not_there_is_left_out() {
        let series = Series::new([("a\"b\\c\nd", Some(0.25)), ("e", None)], |(name, _)| vec![("path", name)]);
        let mut out = Exposition::default();
        out.gauge("popgate_rtt_seconds", "How long it takes.", &series, |(_, rtt)| *rtt);
        out.counter("popgate_sent_bytes_total", "How much.", &series, |_| 7u64);
        out.info("popgate_site_info", "Which.", &Series::new([()], |()| Vec::new()));
        let lines = [
            "# TYPE popgate_rtt_seconds gauge",
            "# UNIT popgate_rtt_seconds seconds",
            "# HELP popgate_rtt_seconds How long it takes.",
            r#"popgate_rtt_seconds{path="a\"b\\c\nd"} 0.25"#,
            "# TYPE popgate_sent_bytes counter",
            "# UNIT popgate_sent_bytes bytes",
            "# HELP popgate_sent_bytes How much.",
            r#"popgate_sent_bytes_total{path="a\"b\\c\nd"} 7"#,
            r#"popgate_sent_bytes_total{path="e"} 7"#,
            "# TYPE popgate_site info",
            "# HELP popgate_site Which.",
            "popgate_site_info 1",
            "# EOF",
        ];
        assert_eq!(out.finish().lines().collect::<Vec<_>>(), lines);
    }
}
