//! Tables and human units for `popgate show`.

use crate::model::Civil;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under headings, each column as wide as its widest cell.
pub(super) struct Table<'a> {
    columns: Vec<(&'a str, Align)>,
    rows: Vec<Vec<String>>,
}

impl<'a> Table<'a> {
    /// Headings that begin with `>` stand above numbers: to the right.
    pub(super) fn new(headings: &[&'a str]) -> Table<'a> {
        let column = |heading: &&'a str| match heading.strip_prefix('>') {
            Some(heading) => (heading, Align::Right),
            None => (*heading, Align::Left),
        };
        Table { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn render(&self) -> String {
        let width = |(index, (heading, _)): (usize, &(&str, Align))| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            cells.chain([heading.len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let mut out = String::new();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let width = *width;
                // Writing into a String cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{cell:<width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `-` where there is nothing to tell.
pub(super) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// `10.0.0.1:443`, `[2001:db8::1]:443`.
pub(super) fn endpoint(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Three digits and a decimal unit: `999 B`, `1.02 KB`, `45.1 MB`.
pub(super) fn bytes(count: u64) -> String {
    scaled(count, &["B", "KB", "MB", "GB", "TB", "PB", "EB"])
}

fn scaled(count: u64, units: &[&str]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", units[unit]).trim_end().to_owned()
}

/// `0.4s`, `59s`, `12m04s`, `3h10m`, `5d02h`.
pub(super) fn duration(secs: f64) -> String {
    if secs < 10.0 {
        return format!("{secs:.1}s");
    }
    let secs = secs as u64;
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3_600..86_400 => format!("{}h{:02}m", secs / 3_600, secs / 60 % 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs / 3_600 % 24),
    }
}

/// `2026-03-14T15:09:26Z`: the box has no viewer's zone to tell times in.
pub(super) fn utc(unix_ms: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::at(unix_ms / 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// [`utc`] to the millisecond.
pub(super) fn utc_ms(unix_ms: u64) -> String {
    format!("{}.{:03}Z", utc(unix_ms).trim_end_matches('Z'), unix_ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        let mut table = Table::new(&["SITE", ">RTT"]);
        table.row(["fra1".to_owned(), "1.5".to_owned()]);
        table.row(["münchen".to_owned(), "120.25".to_owned()]);
        assert_eq!(table.render(), "SITE        RTT\nfra1        1.5\nmünchen  120.25\n");
    }

    #[test]
    fn units_keep_three_digits() {
        let texts = [0, 999, 1_000, 9_994, 9_996, 99_949, 123_456, 999_499, 999_500, u64::MAX].map(bytes);
        let expected = [
            "0 B", "999 B", "1.00 KB", "9.99 KB", "10.0 KB", "99.9 KB", "123 KB", "999 KB", "1.00 MB",
            "18.4 EB",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn durations_grow_coarser() {
        let texts = [0.42, 9.94, 59.9, 724.0, 11_400.0, 439_200.0].map(duration);
        assert_eq!(texts, ["0.4s", "9.9s", "59s", "12m04s", "3h10m", "5d02h"]);
    }

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_773_500_966_535), "2026-03-14T15:09:26Z");
    }
}
