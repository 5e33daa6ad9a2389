//! Where the files are, and what their names say.
//!
//! `flows/tenant=NAME/date=YYYY-MM-DD/FIRST-LAST_FROM-UNTIL.parquet`: the numbers of the first and the last log whose rows
//! are in it, and the times of its first and last row, milliseconds since the Unix epoch. A file whose logs are all in
//! another one's has been merged into that.

use super::schema::Rollup;
use super::table::Shape;
use crate::model::Civil;
use crate::store::whole;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(in crate::store) const ROWS_DIR: &str = "flows";
pub(in crate::store) const ROLLUPS_DIR: &str = "flow-rollups";
/// Beside the directories that others read as a whole.
pub(in crate::store) const LOGS_DIR: &str = "flow-log";
const LOG: &str = "log";
const PARQUET: &str = "parquet";
const DAY_SECS: u64 = 86_400;

/// A file of rows, or of a roll-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) tenant: Arc<str>,
    pub(super) shape: Shape,
    /// `YYYY-MM-DD`.
    pub(super) date: String,
    /// Numbers of logs.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Milliseconds since the Unix epoch, of the first and the last row.
    pub(super) from: u64,
    pub(super) until: u64,
    pub(super) bytes: u64,
    pub(super) path: PathBuf,
}

/// The date of a day by its number since the Unix epoch.
pub(super) fn date(day: u64) -> String {
    let Civil { year, month, day, .. } = Civil::at(day * DAY_SECS);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Where the logs are.
pub(super) fn logs_dir(dir: &Path) -> PathBuf {
    dir.join(LOGS_DIR)
}

/// Where the log of a number is.
pub(super) fn log_path(dir: &Path, number: u64) -> PathBuf {
    logs_dir(dir).join(format!("{number:010}.{LOG}"))
}

/// Where a file belongs, of which all is known but its size.
pub(super) fn path_of(dir: &Path, info: &Info) -> PathBuf {
    let Info { tenant, date, first, last, from, until, .. } = info;
    let name = format!("{first:010}-{last:010}_{from:013}-{until:013}.{PARQUET}");
    root(dir, info.shape).join(format!("tenant={tenant}")).join(format!("date={date}")).join(name)
}

/// Makes the directory that a file is to be in, so that it lasts.
pub(super) fn make_dir_of(path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for dir in dir.ancestors().skip(1).take(4).filter(|dir| !dir.as_os_str().is_empty()) {
            whole::sync(dir)?;
        }
    }
    Ok(())
}

/// The logs, by number.
pub(super) fn logs(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut logs = Vec::new();
    let dir = dir.join(LOGS_DIR);
    if dir.is_dir() {
        whole::remove_unfinished(&dir)?;
    }
    for path in entries(&dir)? {
        if path.extension().is_some_and(|extension| extension == LOG)
            && let Some(number) =
                path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
        {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs)
}

/// All Parquet files, by tenant, shape and number; those that were merged into others, and those that never came to be whole,
/// are taken away.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Info>> {
    let rollups = Rollup::ALL
        .into_iter()
        .flat_map(|rollup| rollup.steps().iter().map(move |step| Shape::Rollup(rollup, *step)));
    let mut files = Vec::new();
    for shape in [Shape::Rows].into_iter().chain(rollups) {
        let root = root(dir, shape);
        for tenant_dir in entries(&root)? {
            let Some(tenant) = partition(&tenant_dir, "tenant=") else { continue };
            let tenant: Arc<str> = tenant.into();
            for date_dir in entries(&tenant_dir)? {
                let Some(date) = partition(&date_dir, "date=") else { continue };
                whole::remove_unfinished(&date_dir)?;
                let mut here: Vec<Info> = Vec::new();
                for path in entries(&date_dir)? {
                    let bytes = fs::metadata(&path)?.len();
                    let named = parse(&path);
                    here.extend(named.map(|[first, last, from, until]| Info {
                        tenant: Arc::clone(&tenant),
                        shape,
                        date: date.to_owned(),
                        first,
                        last,
                        from,
                        until,
                        bytes,
                        path,
                    }));
                }
                files.extend(without_merged(here)?);
            }
        }
    }
    Ok(files)
}

/// The widest of those that overlap.
fn without_merged(mut files: Vec<Info>) -> io::Result<Vec<Info>> {
    files.sort_by_key(|file| (file.first, std::cmp::Reverse(file.last)));
    let mut kept: Vec<Info> = Vec::new();
    for file in files {
        if kept.last().is_some_and(|wider| file.last <= wider.last) {
            whole::remove(&file.path)?;
        } else {
            kept.push(file);
        }
    }
    Ok(kept)
}

fn root(dir: &Path, shape: Shape) -> PathBuf {
    match shape {
        Shape::Rows => dir.join(ROWS_DIR),
        Shape::Rollup(rollup, step) => {
            let of = dir.join(ROLLUPS_DIR).join(format!("step={}", step.name()));
            of.join(format!("by={}", rollup.name()))
        }
    }
}

fn partition<'a>(dir: &'a Path, key: &str) -> Option<&'a str> {
    dir.file_name()?.to_str()?.strip_prefix(key)
}

fn parse(path: &Path) -> Option<[u64; 4]> {
    let (logs, times) = path.file_name()?.to_str()?.strip_suffix(".parquet")?.split_once('_')?;
    let ((first, last), (from, until)) = (logs.split_once('-')?, times.split_once('-')?);
    let number = |text: &str| text.parse().ok();
    Some([number(first)?, number(last)?, number(from)?, number(until)?])
}

/// What is in a directory; nothing, if it is not there, or none.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}
