//! The flow history: what went through the box in the last days.
//!
//! 1 a record in names, a *row* ([`Row`]), is taken in: it is added to the active log ([`log`]) and lies in memory beside it
//! ([`active`]). 2 A log that has grown long, or old, is closed: its rows become Parquet files, one for each tenant and day,
//! and roll-ups of these ([`job`]). 3 Small files are merged, old ones go, and so do the oldest of a tenant that has more
//! than it may. Those that nothing is added to any more may be copied elsewhere ([`outbox`]). 4 Whoever asks is told which files and rows in memory cover the time ([`Part`]).
//!
//! ```text
//! flow-log/NUMBER.log                                                                        logs
//! flow-log/sent                                                                              which files are copied elsewhere
//! flow-log/begins.json                                                                       from when on all is there
//! flows/tenant=NAME/date=YYYY-MM-DD/*.parquet                                                rows
//! flow-rollups/step=1m|5m|1h/by=class|source|destination/tenant=NAME/date=YYYY-MM-DD/*.parquet     roll-ups
//! ```
//!
//! A roll-up has one row for all records of a step of time that agree in its columns ([`Rollup::columns`]): those it shares
//! with the rows bear their names, [`Column::End`] being where the step begins. Beside these it has [`FLOWS`], how many
//! records it sums up.
//!
//! A history that cannot be written goes on in memory, as far as that goes, and tries again every few seconds; what is lost
//! then is counted. Nothing waits for it.

mod active;
mod begins;
mod file;
pub(super) mod files;
mod job;
mod log;
mod outbox;
mod row;
mod schema;
mod table;
#[cfg(test)]
mod tests;

pub use job::{Job, Outcome};
pub use log::{Append, Disk, LocalDisk};
pub use outbox::ToSend;
pub use row::{Counted, Row, Told};
pub use schema::{Column, FLOWS, Kind, Rollup, Step, schema};

use super::report::{FlowHistoryState, ObjectStoreState};
use super::whole;
use active::Active;
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use begins::Begins;
use files::Info;
use job::Work;
use log::Log;
use outbox::Outbox;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use table::Shape;

/// Half a million: 100 MB in memory, a file of 12, and read in within a second after a crash.
const LOG_ROWS: usize = 500_000;
/// In memory beside those that are being made files of; what comes while no file can be written is lost beyond that.
const MAX_ROWS: usize = 2 * LOG_ROWS;
/// Other programs see what is in files: so old is what they see at most.
const LOG_AGE: Duration = Duration::from_secs(600);
/// How often what was written is made to last; a crash or a loss of power costs this much.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often one that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is looked which files are to go or to be merged.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Whoever was told of a file that is to go has this long to open it.
const GRACE: Duration = Duration::from_secs(60);
/// A file worth merging is smaller.
const SMALL: u64 = 8 << 20;
/// So many small files of a day are merged, of one that is over from two on; and so many at once at most.
const MERGED: usize = 8;
const MERGED_AT_ONCE: usize = 64;
/// So long after a day's end its last records are in files: a small file of that day stays as it is.
const DAY_IS_OVER_AFTER: Duration = Duration::from_secs(3_600);
/// Roll-ups are kept longer than rows, and take a fraction of the room: rows have this part of a quota in any case.
const ROWS_SHARE: u64 = 2;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows that ended longer ago go.
    pub keep: Duration,
    /// And so do roll-ups.
    pub keep_rollups: Duration,
    /// Of each tenant the oldest files go before they are larger together.
    pub tenant_bytes: u64,
    /// Files are copied elsewhere: that one goes before it has been is told.
    pub is_copied: bool,
}

/// What is to be read for a question: rows, or a roll-up of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Rows,
    Rollup(Rollup, Step),
}

/// Rows of one tenant, or a roll-up of them, to be read.
#[derive(Clone, Debug)]
pub enum Part {
    /// Rows that are in no file yet, in no order; rows also where a roll-up is wanted.
    Memory { tenant: Arc<str>, rows: RecordBatch },
    /// A Parquet file of what is wanted, whose rows are sorted by address and, within that, time; the first begins or ends at
    /// `from` and the last at `until`, milliseconds since the Unix epoch.
    File { tenant: Arc<str>, path: PathBuf, from: u64, until: u64 },
}

/// The flow history of a box.
pub struct Flows {
    dir: PathBuf,
    limits: Limits,
    disk: Box<dyn Disk>,
    active: Active,
    /// Of the active rows; `None` while it cannot be written.
    log: Option<Log>,
    /// Logs that are to become files, the oldest first.
    closed: VecDeque<Arc<Active>>,
    /// By tenant and shape; in the order of their logs.
    files: BTreeMap<(Arc<str>, usize), Vec<Info>>,
    /// Files that nobody is told of any more, and when they go.
    doomed: VecDeque<(u64, PathBuf)>,
    begins: Begins,
    outbox: Outbox,
    /// What a job makes one file of must not be copied meanwhile.
    is_merging: bool,
    copying: ObjectStoreState,
    /// Whether what was there before is known: until then no log has a number.
    has_looked: bool,
    is_busy: bool,
    /// Files could not be written.
    has_failed: bool,
    next_sync: u64,
    next_try: u64,
    next_job: u64,
    next_tidy: u64,
    state: FlowHistoryState,
}

impl Flows {
    /// The history in `dir`, which need not be there yet, at `now` (milliseconds since the Unix epoch), with what a crash left
    /// in logs. One that cannot be written says so in its [`Flows::state`], and is tried again.
    pub fn open(dir: PathBuf, limits: Limits, disk: Box<dyn Disk>, now: u64) -> Flows {
        let mut flows = Flows {
            dir,
            limits,
            disk,
            active: Active::new(1, now),
            log: None,
            closed: VecDeque::new(),
            files: BTreeMap::new(),
            doomed: VecDeque::new(),
            begins: Begins::default(),
            outbox: Outbox::default(),
            is_merging: false,
            copying: ObjectStoreState::default(),
            has_looked: false,
            is_busy: false,
            has_failed: false,
            next_sync: 0,
            next_try: 0,
            next_job: 0,
            next_tidy: 0,
            state: FlowHistoryState::default(),
        };
        flows.retry(now);
        flows
    }

    /// Changes how much is kept, from the next look on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.next_tidy = 0;
    }

    /// How it stands.
    pub fn state(&self) -> FlowHistoryState {
        let bytes = self.files.values().flatten().map(|file| file.bytes).sum::<u64>();
        let rows = self.files.iter().filter(|((_, shape), _)| *shape == 0).flat_map(|(_, files)| files);
        FlowHistoryState {
            bytes: bytes + self.log.as_ref().map_or(0, Log::len),
            files: self.files.values().map(Vec::len).sum::<usize>() as u64,
            known_from_unix_ms: rows.map(|file| file.from).min(),
            in_memory: (self.active.len() + self.closed.iter().map(|closed| closed.len()).sum::<usize>())
                as u64,
            object_store: self.limits.is_copied.then(|| self.copying_state()),
            ..self.state.clone()
        }
    }

    // 1 Taking in.

    /// Takes a row in. False if there was no room for it: it is counted.
    pub fn take(&mut self, row: &Row<'_>, now: u64) -> bool {
        if self.active.len() >= MAX_ROWS {
            self.state.lost += 1;
            return false;
        }
        let (tenant, values) = self.active.add(row);
        if let Some(log) = &mut self.log
            && let Err(error) = log.add(tenant, &values, &self.active.names)
        {
            self.failed(&error, now);
        }
        true
    }

    /// Takes down that rows were lost before they came here.
    pub fn miss(&mut self, rows: u64) {
        self.state.lost += rows;
    }

    /// Does what is due at `now`, milliseconds since the Unix epoch: to be called after rows, and at least every second. What
    /// it returns takes longer, is to be run ([`Job::run`]) beside this and its outcome told ([`Flows::done`]).
    pub fn work(&mut self, now: u64) -> Option<Job> {
        self.retry(now);
        if now >= self.next_sync {
            self.next_sync = now + millis(SYNC_EVERY);
            if let Some(Err(error)) = self.log.as_mut().map(Log::sync) {
                self.failed(&error, now);
            }
        }
        let age = now.saturating_sub(self.active.opened);
        let is_due = self.active.len() >= LOG_ROWS || age >= millis(LOG_AGE) && self.active.len() > 0;
        if is_due && self.has_looked && self.closed.is_empty() {
            self.close_log(now);
        }
        while self.doomed.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, path)) = self.doomed.pop_front() {
                remove(&path);
            }
        }
        if self.is_busy || now < self.next_job {
            return None;
        }
        let work = match self.closed.front() {
            Some(closed) => Some(Work::Seal(Arc::clone(closed))),
            None if now >= self.next_tidy => {
                self.retain(now);
                let merge = self.find_merge(now);
                if merge.is_none() {
                    self.next_tidy = now + millis(TIDY_EVERY);
                }
                merge
            }
            None => None,
        };
        self.is_busy = work.is_some();
        self.is_merging = matches!(work, Some(Work::Merge(_)));
        work.map(|work| Job { dir: self.dir.clone(), work })
    }

    /// Has all that was taken in last.
    pub fn sync(&mut self, now: u64) {
        self.retry(now);
        if let Some(Err(error)) = self.log.as_mut().map(Log::sync) {
            self.failed(&error, now);
        }
    }

    /// Closes the log, so that what is in it becomes files.
    pub fn close_log(&mut self, now: u64) {
        if let Some(Err(error)) = self.log.as_mut().map(Log::sync) {
            self.failed(&error, now);
        }
        let next = Active::new(self.active.number + 1, now);
        let closed = std::mem::replace(&mut self.active, next);
        self.closed.push_back(Arc::new(closed));
        self.log = None;
        self.next_try = 0;
        self.retry(now);
    }

    // 2 Files.

    /// Nothing came of a [`Job`]: whoever ran it could not, or is no more. It is handed out again.
    pub fn give_up(&mut self, now: u64) {
        self.is_busy = false;
        self.is_merging = false;
        self.next_job = now + millis(RETRY);
    }

    /// What came of a [`Job`].
    pub fn done(&mut self, outcome: Outcome, now: u64) {
        self.is_busy = false;
        self.is_merging = false;
        let made = match outcome.made {
            Ok(made) => made,
            Err(error) => {
                self.next_job = now + millis(RETRY);
                match outcome.damaged {
                    Some(damaged) if error.kind() != io::ErrorKind::NotFound => {
                        self.set_aside(&damaged, &error)
                    }
                    _ => {
                        self.has_failed = true;
                        self.raise_alarm(&error, now);
                    }
                }
                return;
            }
        };
        match outcome.work {
            Work::Seal(active) => {
                self.closed.retain(|closed| closed.number != active.number);
                remove(&files::log_path(&self.dir, active.number));
            }
            Work::Merge(merged) => {
                for file in &merged {
                    self.doom(file, now);
                }
            }
        }
        made.into_iter().for_each(|file| self.add(file));
        self.has_failed = false;
        self.recovered();
    }

    fn add(&mut self, file: Info) {
        let files = self.files.entry((Arc::clone(&file.tenant), place(file.shape))).or_default();
        let at = files.partition_point(|other| (&other.date, other.first) < (&file.date, file.first));
        files.insert(at, file);
    }

    fn doom(&mut self, file: &Info, now: u64) {
        if let Some(files) = self.files.get_mut(&(Arc::clone(&file.tenant), place(file.shape))) {
            files.retain(|other| other.path != file.path);
        }
        self.doomed.push_back((now + millis(GRACE), file.path.clone()));
    }

    /// It cannot be read; whoever knows more of such files may still want it.
    fn set_aside(&mut self, file: &Info, error: &io::Error) {
        tracing::error!("flow history: {} is set aside: {error}", file.path.display());
        self.state.damaged += 1;
        if let Some(files) = self.files.get_mut(&(Arc::clone(&file.tenant), place(file.shape))) {
            files.retain(|other| other.path != file.path);
        }
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        // Readers of whole directories pass over what begins like this.
        let aside = file.path.with_file_name(format!("_{name}.damaged"));
        if let Err(error) = std::fs::rename(&file.path, aside) {
            tracing::warn!("flow history: {}: {error}", file.path.display());
        }
    }

    // 3 What goes, and what is merged.

    fn retain(&mut self, now: u64) {
        let tenants: Vec<Arc<str>> = self.files.keys().map(|(tenant, _)| Arc::clone(tenant)).collect();
        let mut going = Vec::new();
        for tenant in tenants.iter().enumerate().filter(|(n, tenant)| *n == 0 || tenants[n - 1] != **tenant) {
            let of = |is_rollup: bool| {
                let range = (Arc::clone(tenant.1), usize::from(is_rollup))..;
                let range = self.files.range(range).take_while(|((other, _), _)| other == tenant.1);
                let files = range.filter(move |((_, shape), _)| is_rollup || *shape == 0);
                let mut files: Vec<&Info> = files.flat_map(|(_, files)| files).collect();
                files.sort_by_key(|file| file.until);
                files
            };
            let (rows, mut rollups) = (of(false), of(true));
            let quota = self.limits.tenant_bytes;
            let of_rollups = rollups.iter().map(|file| file.bytes).sum::<u64>();
            let for_rows = quota.saturating_sub(of_rollups).max(quota / ROWS_SHARE);
            let (kept, gone) = old(&rows, for_rows, self.limits.keep, now);
            // Of a time of which there are rows there are sums: who asks for these would not see that some are missing.
            let first = rows.get(gone.len()).map_or(u64::MAX, |file| file.from);
            rollups.retain(|file| file.until + Step::Hour.millis() <= first);
            let later = of_rollups - rollups.iter().map(|file| file.bytes).sum::<u64>();
            going.extend(gone);
            let for_rollups = quota.saturating_sub(kept + later);
            going.extend(old(&rollups, for_rollups, self.limits.keep_rollups, now).1);
        }
        if going.is_empty() {
            return;
        }
        for file in &going {
            let (is_rollup, step) = match file.shape {
                Shape::Rows => (false, 1),
                Shape::Rollup(_, step) => (true, step.millis()),
            };
            self.begins.goes(&file.tenant, is_rollup, file.until + step);
        }
        // It is written before they are gone: they go a minute later.
        self.write_begins();
        self.miss_copies(&going);
        going.iter().for_each(|file| self.doom(file, now));
    }

    fn find_merge(&self, now: u64) -> Option<Work> {
        let today = files::date(now / 86_400_000);
        for files in self.files.values() {
            for day in files.chunk_by(|a, b| a.date == b.date) {
                let enough = if day[0].date < today { 2 } else { MERGED };
                let may_grow = |file: &Info| file.bytes < SMALL && !self.outbox.is_taken(&self.name_of(file));
                for run in day.chunk_by(|a, b| may_grow(a) && may_grow(b)) {
                    if run.len() >= enough {
                        return Some(Work::Merge(run[..run.len().min(MERGED_AT_ONCE)].to_vec()));
                    }
                }
            }
        }
        None
    }

    /// The next file to be copied elsewhere, which nothing is added to from now on: until it is [`Flows::sent`], it is handed out
    /// again.
    ///
    /// # Errors
    /// It cannot be written down that it is.
    pub fn next_to_send(&mut self, now: u64) -> io::Result<Option<ToSend>> {
        if !self.has_looked {
            return Ok(None);
        }
        let over = files::date(now.saturating_sub(millis(DAY_IS_OVER_AFTER)) / 86_400_000);
        let is_tidy = now < self.next_tidy && !self.is_merging && self.closed.is_empty();
        let next = self.rows().find_map(|file| {
            let name = self.name_of(file);
            let is_whole = file.bytes >= SMALL || is_tidy && file.date < over || self.outbox.is_taken(&name);
            (is_whole && !self.outbox.is_sent(&name)).then(|| ToSend {
                path: file.path.clone(),
                name,
                bytes: file.bytes,
            })
        });
        if let Some(next) = &next {
            self.outbox.take(&self.dir, &next.name)?;
        }
        Ok(next)
    }

    /// A file has arrived.
    pub fn sent(&mut self, file: &ToSend) {
        self.copying.sent_files += 1;
        self.copying.sent_bytes += file.bytes;
        if self.copying.failing_since_unix_ms.take().is_some() {
            tracing::info!("flow history: files arrive at the object store again");
        }
        (self.copying.problem, self.copying.retry_unix_ms) = (None, None);
        // It is copied once more after a restart, then.
        if let Err(error) = self.outbox.sent(&self.dir, &file.name) {
            tracing::warn!("flow history: which files are copied cannot be written: {error}");
        }
    }

    /// A file could not be copied; it is tried again.
    pub fn not_sent(&mut self, why: &str, now: u64, retry_at: u64) {
        if self.copying.failing_since_unix_ms.is_none() {
            tracing::error!("flow history: files cannot be copied to the object store: {why}");
            self.copying.failing_since_unix_ms = Some(now);
        }
        self.copying.problem = Some(why.to_owned());
        self.copying.retry_unix_ms = Some(retry_at);
    }

    fn rows(&self) -> impl Iterator<Item = &Info> {
        self.files.iter().filter(|((_, shape), _)| *shape == 0).flat_map(|(_, files)| files)
    }

    fn name_of(&self, file: &Info) -> String {
        file.path.strip_prefix(&self.dir).unwrap_or(&file.path).to_string_lossy().into_owned()
    }

    fn copying_state(&self) -> ObjectStoreState {
        let waiting = || self.rows().filter(|file| !self.outbox.is_sent(&self.name_of(file)));
        ObjectStoreState {
            waiting_files: waiting().count() as u64,
            waiting_bytes: waiting().map(|file| file.bytes).sum(),
            ..self.copying.clone()
        }
    }

    /// These go.
    fn miss_copies(&mut self, going: &[Info]) {
        let (mut files, mut bytes) = (0, 0);
        for file in going.iter().filter(|file| file.shape == Shape::Rows) {
            let name = self.name_of(file);
            if self.limits.is_copied && !self.outbox.is_sent(&name) {
                files += 1;
                bytes += file.bytes;
            }
            self.outbox.forget(&name);
        }
        if files > 0 {
            tracing::error!(
                "flow history: {files} files had to go before they were copied to the object store"
            );
            self.copying.lost_files += files;
            self.copying.lost_bytes += bytes;
        }
    }

    // 4 Whoever asks.

    /// What is to be read of one tenant, or of all, for rows that ended from `from` on and before `until`, milliseconds since the
    /// Unix epoch. More may be in it.
    ///
    /// # Errors
    /// Arrow refuses what is in memory.
    pub fn parts(
        &self,
        tenant: Option<&str>,
        from: u64,
        until: u64,
        want: Want,
    ) -> Result<Vec<Part>, ArrowError> {
        let mut parts = Vec::new();
        let (shape, step) = match want {
            Want::Rows => (Shape::Rows, 0),
            Want::Rollup(rollup, step) => (Shape::Rollup(rollup, step), step.millis()),
        };
        for ((_, at), files) in &self.files {
            let here = files.iter().filter(|file| {
                *at == place(shape)
                    && tenant.is_none_or(|tenant| *tenant == *file.tenant)
                    && file.from < until
                    && file.until + step >= from
            });
            parts.extend(here.map(|file| Part::File {
                tenant: Arc::clone(&file.tenant),
                path: file.path.clone(),
                from: file.from,
                until: file.until,
            }));
        }
        for active in self.closed.iter().map(|closed| &**closed).chain([&self.active]) {
            let read = active.read(tenant, from, until)?;
            parts.extend(read.into_iter().map(|(tenant, rows)| Part::Memory { tenant: tenant.into(), rows }));
        }
        Ok(parts)
    }

    /// From when on there is everything of one tenant, or of all (milliseconds since the Unix epoch): rows that ended before,
    /// or steps of a roll-up, were never here or may have gone.
    pub fn complete_from(&self, tenant: Option<&str>, want: Want) -> u64 {
        self.begins.from(tenant, want != Want::Rows)
    }

    // The disk.

    /// Finds what is there already.
    fn look(&mut self, now: u64) -> io::Result<()> {
        let logs = files::logs(&self.dir)?;
        let files = files::list(&self.dir)?;
        let first = files.iter().map(|file| file.from).min();
        self.begins = Begins::read(&self.dir, first.unwrap_or(now).min(now))?;
        let numbers = logs.iter().map(|(number, _)| *number);
        let last = files.iter().map(|file| file.last).chain(numbers).max();
        self.active.number = last.map_or(1, |last| last + 1);
        for (number, path) in &logs {
            let is_within =
                |file: &&Info| file.first < file.last && (file.first..=file.last).contains(number);
            if files.iter().any(|file| is_within(&file)) {
                // What was merged had been made of whole logs.
                remove(path);
                continue;
            }
            let mut active = Active::new(*number, now);
            let mut names = row::Names::default();
            let replayed = log::replay(path, &mut names, |tenant, values| active.push(tenant, values));
            let torn = match replayed {
                Ok(torn) => torn,
                Err(error) => {
                    tracing::error!("flow history: {} stays as it is: {error}", path.display());
                    continue;
                }
            };
            active.names = names;
            if torn > 0 {
                tracing::warn!("flow history: {}: the last {torn} bytes are not whole", path.display());
            }
            self.closed.push_back(Arc::new(active));
        }
        let names: std::collections::BTreeSet<String> = files.iter().map(|file| self.name_of(file)).collect();
        self.outbox = Outbox::read(&self.dir, |name| names.contains(name))?;
        for file in files {
            // Its log is still there: perhaps not all files of that were made.
            if self.closed.iter().any(|closed| closed.number == file.last) {
                remove(&file.path);
            } else {
                self.add(file);
            }
        }
        Ok(())
    }

    /// Has a log, if there is none and it is time to try.
    fn retry(&mut self, now: u64) {
        if self.log.is_some() || now < self.next_try {
            return;
        }
        self.next_try = now + millis(RETRY);
        if !self.has_looked
            && let Err(error) = self.look(now)
        {
            return self.failed(&error, now);
        }
        self.has_looked = true;
        let path = files::log_path(&self.dir, self.active.number);
        let created =
            files::make_dir_of(&path).and_then(|()| Log::create(&*self.disk, &path, self.active.frames()));
        match created {
            Ok(log) => {
                self.log = Some(log);
                self.write_begins();
                self.recovered();
            }
            Err(error) => self.failed(&error, now),
        }
    }

    fn write_begins(&self) {
        if let Err(error) = self.begins.write(&self.dir) {
            tracing::warn!("flow history: from when on all is there cannot be written: {error}");
        }
    }

    fn failed(&mut self, error: &io::Error, now: u64) {
        // What is in memory is written anew: after an error nobody knows what is on disk.
        self.log = None;
        self.next_try = now + millis(RETRY);
        self.raise_alarm(error, now);
    }

    fn raise_alarm(&mut self, error: &io::Error, now: u64) {
        if self.state.failing_since_unix_ms.is_none() {
            tracing::error!("flow history: {}: {error}", self.dir.display());
            self.state.failing_since_unix_ms = Some(now);
        }
        self.state.problem = Some(error.to_string());
    }

    fn recovered(&mut self) {
        if self.log.is_some() && !self.has_failed && self.state.failing_since_unix_ms.take().is_some() {
            tracing::info!("flow history: {} is written again", self.dir.display());
            self.state.problem = None;
        }
    }
}

/// What cannot be taken away is at the next start.
fn remove(path: &Path) {
    if let Err(error) = whole::remove(path) {
        tracing::warn!("flow history: {}: {error}", path.display());
    }
}

/// Which files go, the oldest first, for their age or for what there is room for; and how many bytes the others have.
fn old(files: &[&Info], max_bytes: u64, keep: Duration, now: u64) -> (u64, Vec<Info>) {
    let mut total = files.iter().map(|file| file.bytes).sum::<u64>();
    let mut gone = Vec::new();
    for file in files {
        if total <= max_bytes && file.until.saturating_add(millis(keep)) > now {
            break;
        }
        total -= file.bytes;
        gone.push((*file).clone());
    }
    (total, gone)
}

/// Rows first.
fn place(shape: Shape) -> usize {
    match shape {
        Shape::Rows => 0,
        Shape::Rollup(rollup, step) => 1 + rollup as usize * Step::ALL.len() + step as usize,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
