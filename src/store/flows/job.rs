//! What takes long, and so is done beside the taking in: making files of a log's rows, and one file of many.

use super::active::Active;
use super::file;
use super::files::{self, Info};
use super::row::Names;
use super::schema::Rollup;
use super::table::{Shape, Table};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Something to be done, by whoever has the time; what came of it is told to [`super::Flows::done`].
pub struct Job {
    pub(super) dir: PathBuf,
    pub(super) work: Work,
}

#[derive(Clone)]
pub(super) enum Work {
    /// Make files of a log's rows.
    Seal(Arc<Active>),
    /// Make one file of these: of one tenant, shape and date, one after the other.
    Merge(Vec<Info>),
}

/// What came of a [`Job`].
pub struct Outcome {
    pub(super) work: Work,
    /// The files that it has made.
    pub(super) made: io::Result<Vec<Info>>,
    /// A file that could not be read, if that was it.
    pub(super) damaged: Option<Info>,
}

impl Job {
    /// Does it. What has been written when it fails is written again another time.
    pub fn run(self) -> Outcome {
        let mut damaged = None;
        let made = match &self.work {
            Work::Seal(active) => self.seal(active),
            Work::Merge(files) => self.merge(files, &mut damaged).map(|made| vec![made]),
        };
        Outcome { work: self.work, made, damaged }
    }

    fn seal(&self, active: &Active) -> io::Result<Vec<Info>> {
        let mut made = Vec::new();
        let (number, names) = (active.number, &active.names);
        for (tenant, rows) in active.tables() {
            let tenant: Arc<str> = tenant.into();
            for (day, rows) in rows.by_day() {
                let date = files::date(day);
                let rows = rows.sorted(names);
                let mut write = |table: &Table| {
                    let made_of = (number, number);
                    self.write(&tenant, &date, made_of, table, names).map(|info| made.push(info))
                };
                for rollup in Rollup::ALL {
                    let mut finer: Option<Table> = None;
                    for step in rollup.steps() {
                        let summed = finer.as_ref().unwrap_or(&rows).summed(rollup, *step);
                        write(&summed.sorted(names))?;
                        finer = Some(summed);
                    }
                }
                write(&rows)?;
            }
        }
        Ok(made)
    }

    fn merge(&self, merged: &[Info], damaged: &mut Option<Info>) -> io::Result<Info> {
        let ([first, ..], [.., last]) = (merged, merged) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut names = Names::default();
        let mut all = Table::new(first.shape);
        for info in merged {
            file::read(&info.path, info.shape, &mut all, &mut names)
                .inspect_err(|_| *damaged = Some(info.clone()))?;
        }
        if let Shape::Rollup(rollup, step) = first.shape {
            all = all.summed(rollup, step);
        }
        self.write(&first.tenant, &first.date, (first.first, last.last), &all.sorted(&names), &names)
    }

    fn write(
        &self,
        tenant: &Arc<str>,
        date: &str,
        (first, last): (u64, u64),
        table: &Table,
        names: &Names,
    ) -> io::Result<Info> {
        let millis = |time: i64| u64::try_from(time).unwrap_or_default();
        let (from, until) = table.span().map_or((0, 0), |(from, until)| (millis(from), millis(until)));
        let (tenant, date) = (Arc::clone(tenant), date.to_owned());
        let path = PathBuf::new();
        let mut info = Info { tenant, shape: table.shape(), date, first, last, from, until, bytes: 0, path };
        info.path = files::path_of(&self.dir, &info);
        files::make_dir_of(&info.path)?;
        info.bytes = file::write(&info.path, table, names)?;
        Ok(info)
    }
}
