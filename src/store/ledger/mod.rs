//! The NAT ledger: who had which outside address and port, and when.
//!
//! 1 what begins and ends is added to the *log* ([`log`]), and what is held at present is kept in memory beside it. 2 A log
//! that has grown long, or old, is closed: what ended in it is sorted into a *segment* ([`segment`]), and a new log begins
//! with what is still held. 3 Segments go when they are older than they are to be kept, or take too much room. 4 Whoever
//! asks reads the files ([`who_had`]), whether somebody writes to them or not.
//!
//! What is not known is written down as well, as a *gap*: while popgate did not run, what there was no room for, what could
//! not be written. A ledger that cannot be written goes on in memory, tries again every few seconds, and then says what it
//! has missed.

mod files;
mod log;
mod record;
mod search;
mod segment;
#[cfg(test)]
mod tests;

pub use search::{Asked, who_had};

use super::report::{Gap, GapCause, LedgerState};
use super::whole;
use crate::flow::{PortChange, PortEvent};
use crate::model::{Protocol, SiteId, TenantId};
use files::Files;
use log::Log;
use record::{Header, Holding, Record};
use segment::Segment;
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The ledger's directory in the state directory.
pub const DIR_NAME: &str = "nat-ledger";

/// 64 MiB, a million records: read through in a moment by who asks, and few enough to sort in memory.
const LOG_BYTES: u64 = 64 << 20;
/// A log is closed after a day, or, where little is kept, sooner: what is not to be kept longer goes with its segment.
const LOG_AGE: Duration = Duration::from_secs(24 * 3_600);
/// Of the time that is kept, at most so much longer because of that.
const LOG_AGE_SHARE: u32 = 24;
/// How often an idle ledger says that it is kept: a crash leaves no more than this in doubt.
const KEPT_EVERY: Duration = Duration::from_secs(60);
/// How often what was written is made to last; a loss of power costs this much.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether segments are to go.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// How often one that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What ended longer ago goes.
    pub keep: Duration,
    /// The oldest go before the files are larger together; what is held at present stays.
    pub max_bytes: u64,
}

/// Whose ports they are, by name: ids mean nothing after the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    pub tenant: Arc<str>,
    pub branch: Option<Arc<str>>,
}

/// Names of tenants and branches.
pub type NamedBy = dyn Fn(TenantId, Option<SiteId>) -> Who + Send;

/// A ledger that is being written.
pub struct Ledger {
    dir: PathBuf,
    limits: Limits,
    named_by: Box<NamedBy>,
    open: HashMap<Key, Open>,
    /// `None` while it cannot be written.
    log: Option<Log>,
    /// What the files lack.
    missing: Missing,
    /// When the first came that there was no room for.
    overrun_since: Option<u64>,
    last_event: u64,
    /// When the files were last known to say everything.
    written_at: u64,
    next_kept: u64,
    next_sync: u64,
    next_retain: u64,
    next_try: u64,
    state: LedgerState,
}

/// What is not in the files yet. Times are milliseconds since the Unix epoch.
struct Missing {
    /// The process has only begun: what was on disk was another's.
    begins: bool,
    since: u64,
    lost: u64,
    /// Gaps that could not be written down.
    gaps: Vec<Gap>,
}

/// Pools do not overlap within a tenant; those of two may, beyond what they publish to each other.
type Key = (TenantId, IpAddr, Option<Protocol>, u16);

/// What is held, but for what its key says.
struct Open {
    branch: Option<SiteId>,
    last_port: u16,
    inside: Option<(IpAddr, u16)>,
    began: u64,
}

impl Ledger {
    /// The ledger in `dir`, which need not be there yet, at `now` (milliseconds since the Unix epoch). What was held when the
    /// last process wrote to it has ended. One that cannot be written says so in its [`Ledger::state`], and is tried again.
    pub fn new(dir: PathBuf, limits: Limits, named_by: Box<NamedBy>, now: u64) -> Ledger {
        let mut ledger = Ledger {
            dir,
            limits,
            named_by,
            open: HashMap::new(),
            log: None,
            missing: Missing { begins: true, since: now, lost: 0, gaps: Vec::new() },
            overrun_since: None,
            last_event: now,
            written_at: now,
            next_kept: 0,
            next_sync: 0,
            next_retain: 0,
            next_try: 0,
            state: LedgerState::default(),
        };
        ledger.work(now);
        ledger
    }

    /// Changes how much is kept, from the next look on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.next_retain = 0;
    }

    /// How it stands.
    pub fn state(&self) -> LedgerState {
        let open = self.open.len() as u64;
        let bytes = self.state.bytes + self.log.as_ref().map_or(0, Log::len);
        LedgerState { open, bytes, ..self.state.clone() }
    }

    /// Takes down what became of ports at `at`, milliseconds since the Unix epoch.
    pub fn take(&mut self, event: &PortEvent, at: u64) {
        self.last_event = at;
        let key = (event.tenant, event.outside, event.protocol, event.ports.0);
        match event.change {
            PortChange::Began => {
                let open =
                    Open { branch: event.branch, last_port: event.ports.1, inside: event.inside, began: at };
                let began = holding(&key, &open);
                if let Some(before) = self.open.insert(key, open) {
                    // Nobody has it twice: its end was lost.
                    let ended =
                        Holding { ended: at.max(before.began), ended_unsure: true, ..holding(&key, &before) };
                    self.push(ended, event.tenant, before.branch);
                }
                self.push(began, event.tenant, event.branch);
            }
            PortChange::Ended => {
                let known = self.open.remove(&key);
                let began_unsure = known.is_none();
                let open = known.unwrap_or(Open {
                    branch: event.branch,
                    last_port: event.ports.1,
                    inside: event.inside,
                    began: self.overrun_since.unwrap_or(at).min(at),
                });
                // A wall clock may go backwards.
                let ended = Holding { ended: at.max(open.began), began_unsure, ..holding(&key, &open) };
                self.push(ended, event.tenant, open.branch);
            }
        }
    }

    /// Takes down that something is missing.
    pub fn miss(&mut self, gap: Gap) {
        self.overrun_since.get_or_insert(gap.from_unix_ms);
        self.state.lost += gap.lost;
        match &mut self.log {
            Some(log) => log.note(&Record::Gap(gap)),
            None => self.missing.gaps.push(gap),
        }
    }

    /// Does what is due at `now`: to be called after events, and at least every second.
    pub fn work(&mut self, now: u64) {
        if self.log.is_none() && now >= self.next_try {
            self.next_try = now + millis(RETRY);
            match self.renew(now) {
                Ok(()) => self.recovered(),
                Err(error) => self.failed(&error, now),
            }
        }
        if let Err(error) = self.write(now) {
            self.failed(&error, now);
        }
        if now >= self.next_retain {
            self.next_retain = now + millis(RETAIN_EVERY);
            if let Err(error) = self.retain(now) {
                tracing::warn!("NAT ledger: {}: {error}", self.dir.display());
            }
        }
    }

    /// Leaves everything in the files.
    pub fn close(mut self, now: u64) {
        if let Some(log) = &mut self.log {
            log.note(&Record::Kept(now));
            if let Err(error) = log.flush().and_then(|()| log.sync()) {
                tracing::error!("NAT ledger: {}: {error}", self.dir.display());
            }
        }
    }

    fn push(&mut self, holding: Holding, tenant: TenantId, branch: Option<SiteId>) {
        let Some(log) = &mut self.log else {
            self.missing.lost += 1;
            self.state.lost += 1;
            return;
        };
        let who = (self.named_by)(tenant, branch);
        if let Err(error) = log.push(holding, &who) {
            self.failed(&error, self.last_event);
        }
    }

    fn write(&mut self, now: u64) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if log.waiting() > 0 {
            self.next_kept = now + millis(KEPT_EVERY);
        } else if now >= self.next_kept {
            self.next_kept = now + millis(KEPT_EVERY);
            log.note(&Record::Kept(now));
        }
        log.flush()?;
        self.written_at = now;
        if now >= self.next_sync {
            self.next_sync = now + millis(SYNC_EVERY);
            log.sync()?;
        }
        let age = LOG_AGE.min(self.limits.keep / LOG_AGE_SHARE);
        let is_old = now >= log.header.opened + millis(age) && log.len() > log.carried;
        // As much again as it began with, so that what is held long is not written over and over.
        if is_old || log.len() >= log.carried + LOG_BYTES.max(log.carried) {
            log.sync()?;
            self.renew(now)?;
        }
        Ok(())
    }

    /// Gives the log up; what comes from now on is missing until there is another.
    fn failed(&mut self, error: &io::Error, now: u64) {
        if let Some(log) = self.log.take() {
            let lost = log.waiting();
            let since = self.written_at.min(now);
            self.missing = Missing { begins: false, since, lost, gaps: Vec::new() };
            self.state.lost += lost;
            let _ = log.give_up();
            self.next_try = now + millis(RETRY);
        }
        if self.state.problem.is_none() {
            tracing::error!("NAT ledger: {}: {error}; trying again every few seconds", self.dir.display());
        }
        self.state.failing_since_unix_ms.get_or_insert(self.missing.since);
        self.state.problem = Some(error.to_string());
    }

    fn recovered(&mut self) {
        if self.state.problem.take().is_some() {
            tracing::info!("NAT ledger: {}: it can be written again", self.dir.display());
        }
        self.state.failing_since_unix_ms = None;
    }

    /// Makes segments of what logs there are, and begins another.
    fn renew(&mut self, now: u64) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        whole::remove_unfinished(&self.dir)?;
        let files = Files::list(&self.dir)?;
        let (last, begins) = self.close_logs(&files, now)?;
        let mut gaps = std::mem::take(&mut self.missing.gaps);
        if self.log.is_none() {
            let Missing { since, lost, .. } = self.missing;
            if let (true, Some(from_unix_ms)) = (self.missing.begins, last) {
                let until_unix_ms = since.max(from_unix_ms);
                gaps.push(Gap { from_unix_ms, until_unix_ms, cause: GapCause::Stopped, lost: 0 });
            }
            if lost > 0 || since < now {
                let until_unix_ms = now.max(since);
                gaps.push(Gap { from_unix_ms: since, until_unix_ms, cause: GapCause::NotWritten, lost });
            }
        }
        gaps.extend(begins);
        let header = Header { sequence: files.next(), opened: now, ..Header::default() };
        let held =
            self.open.iter().map(|(key, open)| (holding(key, open), (self.named_by)(key.0, open.branch)));
        match Log::create(&self.dir, header, &gaps, held) {
            Ok(log) => self.log = Some(log),
            Err(error) => {
                // The others are found again.
                gaps.retain(|gap| matches!(gap.cause, GapCause::Overrun | GapCause::Damaged));
                self.missing.gaps = gaps;
                return Err(error);
            }
        }
        self.missing = Missing { begins: false, since: now, lost: 0, gaps: Vec::new() };
        for (_, path) in &files.logs {
            whole::remove(path)?;
        }
        self.next_kept = now + millis(KEPT_EVERY);
        self.next_retain = 0;
        Ok(())
    }

    /// Makes segments of all logs; gives the last time that anything was written, and a gap for a log that cannot be read.
    fn close_logs(&self, files: &Files, now: u64) -> io::Result<(Option<u64>, Option<Gap>)> {
        // Whoever reads it sees when a holding began that goes on, however often the log was renewed.
        let goes_on: HashSet<_> =
            self.open.iter().map(|(key, open)| (key.1, key.2, key.3, open.began)).collect();
        let closed =
            files.segments.last().map(|(_, path)| Segment::open(path).map(|segment| segment.header.closed));
        let mut last = closed.and_then(Result::ok);
        let mut unreadable = None;
        for (sequence, path) in &files.logs {
            let replay = match log::replay(File::open(path)?, |_| true) {
                Ok(replay) => replay,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    tracing::error!("NAT ledger: {} cannot be read; put aside", path.display());
                    fs::rename(path, path.with_extension("damaged"))?;
                    let from_unix_ms = last.unwrap_or(0).min(now);
                    let cause = GapCause::Damaged;
                    unreadable = Some(Gap { from_unix_ms, until_unix_ms: now, cause, lost: 0 });
                    continue;
                }
                Err(error) => return Err(error),
            };
            last = last.max(Some(replay.last));
            if files.has_segment(*sequence) && files.logs.last().is_some_and(|(last, _)| last > sequence) {
                continue;
            }
            let is_over =
                |held: &&Holding| !goes_on.contains(&(held.outside, held.protocol, held.ports.0, held.began));
            let cut_off = replay.open.iter().filter(is_over);
            let cut_off =
                cut_off.map(|held| Holding { ended: now.max(held.began), ended_unsure: true, ..*held });
            let ended = replay.ended.iter().copied().chain(cut_off).collect();
            let header = Header { closed: now, ..replay.header };
            segment::write(&self.dir, header, ended, &replay.names, &replay.gaps)?;
        }
        Ok((last, unreadable))
    }

    /// Takes segments away that are too old, or for which there is no room.
    fn retain(&mut self, now: u64) -> io::Result<()> {
        let files = Files::list(&self.dir)?;
        let log = self.log.as_ref().map_or(0, Log::len);
        let mut known_from = self.log.as_ref().map(|log| log.header.opened);
        let (mut total, mut segments) = (0, Vec::new());
        for (_, path) in files.segments.iter().rev() {
            let size = fs::metadata(path)?.len();
            total += size;
            let (opened, closed) = match Segment::open(path) {
                Ok(Segment { header, .. }) => (Some(header.opened), header.closed),
                // It is from before the next.
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    (known_from, known_from.unwrap_or(now))
                }
                Err(error) => return Err(error),
            };
            known_from = opened;
            segments.push((path, size, opened, closed));
        }
        self.state.known_from_unix_ms = self.log.as_ref().map(|log| log.header.opened);
        for (path, size, opened, closed) in segments.into_iter().rev() {
            let is_old = closed + millis(self.limits.keep) <= now;
            if !is_old && total + log <= self.limits.max_bytes {
                self.state.known_from_unix_ms = opened;
                break;
            }
            if !is_old {
                tracing::warn!(
                    "NAT ledger: {} goes before its time: there is no room for it",
                    path.display()
                );
            }
            whole::remove(path)?;
            total -= size;
        }
        self.state.bytes = total;
        Ok(())
    }
}

fn holding((_, outside, protocol, first): &Key, open: &Open) -> Holding {
    Holding {
        outside: *outside,
        ports: (*first, open.last_port),
        protocol: *protocol,
        inside: open.inside,
        who: 0,
        began: open.began,
        ended: 0,
        began_unsure: false,
        ended_unsure: false,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
