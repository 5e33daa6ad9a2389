//! The search: every file that may know is asked. Nothing is kept in memory for it, so it is the same whether the ledger is
//! being written or lies somewhere else long after.

use super::KEPT_EVERY;
use super::files::Files;
use super::log::{self, Replay};
use super::record::Holding;
use super::segment::Segment;
use crate::model::Protocol;
use crate::store::report::{Answer, Gap, GapCause, Held, WhoHad};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::Path;

/// How often the directory is read anew because a file was gone when it was to be opened: they go one at a time, seconds
/// apart.
const TRIES: usize = 10;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// An outside one.
    pub address: IpAddr,
    /// An identifier for ICMP queries, and 0 for protocols without any.
    pub port: u16,
    /// `None` for all.
    pub protocol: Option<Protocol>,
    /// A span of time, without its end; milliseconds since the Unix epoch.
    pub from: u64,
    pub until: u64,
}

impl Asked {
    pub(super) fn fits(&self, holding: &Holding) -> bool {
        self.is_of(holding)
            && holding.began < self.until
            // What ended as it began was there for a moment.
            && (holding.ended == 0 || holding.ended.max(holding.began + 1) > self.from)
    }

    /// Leaving time aside.
    fn is_of(&self, holding: &Holding) -> bool {
        holding.outside == self.address
            && (holding.ports.0..=holding.ports.1).contains(&self.port)
            && (self.protocol.is_none() || holding.protocol.is_none() || holding.protocol == self.protocol)
    }
}

/// Who had it, as the ledger in `dir` tells at `now` (milliseconds since the Unix epoch).
///
/// # Errors
/// The directory or a file in it cannot be read. What is damaged is no error but a gap.
pub fn who_had(dir: &Path, asked: &Asked, now: u64) -> io::Result<WhoHad> {
    let mut tries = TRIES;
    let (logs, segments, damaged) = loop {
        tries -= 1;
        match open(dir, now) {
            Err(error) if error.kind() == ErrorKind::NotFound && tries > 0 && dir.exists() => {}
            opened => break opened?,
        }
    };
    let mut known_from: Option<u64> = None;
    let (mut holdings, mut gaps) = (Vec::new(), damaged);
    for segment in &segments {
        let header = &segment.header;
        known_from = Some(known_from.unwrap_or(u64::MAX).min(header.opened));
        let all_of_it = damage(header.earliest, header.closed);
        match segment.find(asked) {
            Ok(found) if found.is_empty() => {}
            Ok(found) => {
                let names = segment.names().unwrap_or_default();
                holdings.extend(found.iter().map(|holding| held(holding, &names)));
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => gaps.push(all_of_it),
            Err(error) => return Err(error),
        }
        match segment.gaps() {
            Ok(found) => gaps.extend(found),
            Err(error) if error.kind() == ErrorKind::InvalidData => gaps.push(all_of_it),
            Err(error) => return Err(error),
        }
    }
    for file in logs {
        let replay = match log::replay(file, |holding| asked.is_of(holding)) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let closed = segments.last().map_or(0, |segment| segment.header.closed);
                gaps.push(damage(closed, now));
                continue;
            }
            replay => replay?,
        };
        let Replay { header, names, ended, open, gaps: found, last } = replay;
        known_from = Some(known_from.unwrap_or(u64::MAX).min(header.opened));
        let ended = ended.iter().chain(&open).filter(|holding| asked.fits(holding));
        holdings.extend(ended.map(|holding| held(holding, &names)));
        gaps.extend(found);
        // It says at least this often that it is kept.
        if last + 2 * KEPT_EVERY.as_millis() as u64 <= now {
            gaps.push(Gap { from_unix_ms: last, until_unix_ms: now, cause: GapCause::Stopped, lost: 0 });
        }
    }
    holdings.sort_by_key(|held: &Held| (held.began_unix_ms, held.first_port));
    gaps.sort_by_key(|gap| (gap.from_unix_ms, gap.until_unix_ms));
    gaps.dedup();
    Ok(judge(asked, known_from, holdings, &gaps, now))
}

/// What can be said with that, and how surely.
fn judge(asked: &Asked, known_from: Option<u64>, mut holdings: Vec<Held>, gaps: &[Gap], now: u64) -> WhoHad {
    let meets = |gap: &Gap, from: u64, until: u64| gap.from_unix_ms < until && gap.until_unix_ms >= from;
    for held in holdings.iter_mut().filter(|held| held.ended_unix_ms.is_none()) {
        let unseen =
            |gap: &&Gap| matches!(gap.cause, GapCause::Overrun | GapCause::Stopped | GapCause::Damaged);
        held.ended_unsure = gaps.iter().filter(unseen).any(|gap| meets(gap, held.began_unix_ms, u64::MAX));
    }
    // Whoever's beginning was lost may have had it until popgate was stopped.
    let may_last = |gap: &Gap| {
        let stopped = |later: &Gap| {
            later.cause == GapCause::Stopped && (gap.until_unix_ms..asked.from).contains(&later.from_unix_ms)
        };
        matches!(gap.cause, GapCause::Overrun | GapCause::Damaged)
            && holdings.is_empty()
            && gap.until_unix_ms < asked.from
            && !gaps.iter().any(stopped)
    };
    let bears = |gap: &Gap| {
        let of_one = |held: &Held| {
            (held.began_unsure || held.ended_unsure)
                && meets(gap, held.began_unix_ms, held.ended_unix_ms.unwrap_or(u64::MAX))
        };
        meets(gap, asked.from, asked.until) || may_last(gap) || holdings.iter().any(of_one)
    };
    let gaps: Vec<Gap> = gaps.iter().filter(|gap| bears(gap)).copied().collect();
    let answer = if !holdings.is_empty() {
        Answer::Held
    } else if asked.from >= now {
        Answer::NotYet
    } else if known_from.is_none_or(|from| asked.from < from) {
        Answer::BeforeLedger
    } else if !gaps.is_empty() {
        Answer::NotSure
    } else {
        Answer::Nobody
    };
    WhoHad {
        address: asked.address,
        port: asked.port,
        protocol: asked.protocol.map(|protocol| protocol.to_string()),
        from_unix_ms: asked.from,
        until_unix_ms: asked.until,
        answer,
        holdings,
        gaps,
        known_from_unix_ms: known_from,
    }
}

type Opened = (Vec<File>, Vec<Segment>, Vec<Gap>);

/// All files, all at once: what is open stays readable when it is taken away. A log that is a segment already is left
/// out, or while no other has come after it the segment is.
fn open(dir: &Path, now: u64) -> io::Result<Opened> {
    let files = Files::list(dir)?;
    let last = files.logs.last().map_or(0, |(sequence, _)| *sequence);
    let (mut logs, mut segments, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for (sequence, path) in &files.logs {
        if *sequence == last || !files.has_segment(*sequence) {
            logs.push(File::open(path)?);
        }
    }
    let mut closed = 0;
    for (sequence, path) in &files.segments {
        if *sequence == last {
            continue;
        }
        match Segment::open(path) {
            Ok(segment) => {
                closed = segment.header.closed;
                segments.push(segment);
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                damaged.push(damage(closed, now));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((logs, segments, damaged))
}

/// A file, or what matters of it, cannot be read.
fn damage(from_unix_ms: u64, until_unix_ms: u64) -> Gap {
    Gap { from_unix_ms, until_unix_ms, cause: GapCause::Damaged, lost: 0 }
}

fn held(holding: &Holding, names: &log::Names) -> Held {
    let who = names.who(holding.who);
    Held {
        tenant: who.tenant.to_string(),
        branch: who.branch.map(|branch| branch.to_string()),
        inside: holding.inside.map(|(address, _)| address),
        inside_port: holding.inside.map(|(_, port)| port),
        protocol: holding.protocol.map(|protocol| protocol.to_string()),
        first_port: holding.ports.0,
        last_port: holding.ports.1,
        began_unix_ms: holding.began,
        began_unsure: holding.began_unsure,
        ended_unix_ms: (holding.ended > 0).then_some(holding.ended),
        ended_unsure: holding.ended_unsure,
    }
}
