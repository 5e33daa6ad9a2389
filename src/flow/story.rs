//! What happened to a session besides its packets going through: which paths it moved between, which of its packets were
//! dropped, and what ended it. Few sessions have such a story, so it lies beside them, by their ids, and goes into their
//! next record. Bounded: what finds no room is counted.

use super::record::FlowRecord;
use crate::model::{Direction, DropReason, FlowKey, Instant, PathId};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Sessions with a story, a worker: with a move each way 20 MB. A cut moves more at once in a PoP of the largest size; of the
/// rest the records tell the path alone.
const MAX_STORIES: usize = 131_072;
/// Moves that are kept between two records, a direction: a class moves every ten seconds at most by choice, and records are
/// written every minute or so. The newest stay.
const MAX_MOVES: usize = 16;
/// A packet that comes by the path before the last within this was late on its way; where that is no longer.
const STRAY_MS: u64 = 500;
/// Reasons to drop that are told apart, a session.
const MAX_REASONS: usize = 8;
/// Sessions that policy has ended and whose packets may still come, a worker: 6 MB.
const MAX_DENIED: usize = 16_384;
/// One that has been silent so long has been given up by its hosts: a TCP segment is sent again within that, at first.
const DENIED_SILENCE: Duration = Duration::from_secs(10);
/// One whose hosts go on and on is told of after so long, and what still comes counts for nobody's.
const DENIED_LONGEST: Duration = Duration::from_secs(60);

/// A session's, since its last record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// By direction.
    pub moves: [Moves; 2],
    pub drops: Vec<(DropReason, u64)>,
    /// Why policy does not let it go on, and since when, in milliseconds since the Unix epoch; `None` of one that ended
    /// otherwise, or has not.
    pub denied: Option<(DropReason, u64)>,
}

/// Moves of one direction, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    pub kept: VecDeque<Moved>,
    /// Older ones, which there was no room for.
    pub left_out: u32,
    /// One back to where the last came from, so soon that it may have been a packet that was late.
    strayed: Option<Moved>,
}

/// From one path to another, with a packet that took the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub unix_millis: u64,
    pub from: PathId,
    pub to: PathId,
    pub by: MovedBy,
    /// The reason is the move's: it was told just before. Otherwise a better one may still come.
    pub is_sure: bool,
}

/// Whose doing a move was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovedBy {
    /// This box's, for what a path did.
    Here(Cause),
    /// The far end's, for what it found of a path; if it told.
    FarEnd(Option<Cause>),
    /// Answers go where the session comes from.
    Follows,
    /// Another app class, or another path policy.
    Policy,
}

/// What a path did that moved somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    pub path: PathId,
    /// Packed by whoever knows what paths do.
    pub why: u32,
}

/// The stories of a worker's sessions.
#[derive(Debug, Default)]
pub struct Stories {
    stories: HashMap<u64, Box<Story>, foldhash::fast::FixedState>,
    /// Moves and drops of sessions that there was no room for.
    pub untold: u64,
}

/// Sessions that policy has ended. Their last records wait here for as long as their packets come, to tell how many were
/// dropped.
#[derive(Debug, Default)]
pub struct Denied {
    by_key: HashMap<FlowKey, u64, foldhash::fast::FixedState>,
    waiting: HashMap<u64, Waiting, foldhash::fast::FixedState>,
    /// In the order in which they were denied.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Waiting {
    record: FlowRecord,
    since: Instant,
    last: Instant,
}

impl Story {
    /// Counts packets that were dropped.
    pub fn dropped(&mut self, reason: DropReason, packets: u64) {
        let known = self.drops.iter().position(|(known, _)| *known == reason);
        if known.is_none() && self.drops.len() < MAX_REASONS {
            self.drops.push((reason, packets));
            return;
        }
        // Of one that is dropped for everything there is, the last tells the rest.
        if let Some((_, count)) = self.drops.get_mut(known.unwrap_or(MAX_REASONS - 1)) {
            *count += packets;
        }
    }
}

impl Moves {
    /// A packet has come by another path than the one before it: that need not be a move.
    fn came(&mut self, moved: Moved) {
        let Some(last) = self.kept.back().copied() else { return self.add(moved) };
        if let Some(strayed) = self.strayed.take()
            && moved.unix_millis > strayed.unix_millis + STRAY_MS
        {
            // It had stayed there.
            self.add(strayed);
            return self.add(moved);
        }
        if moved.to == last.to {
            return;
        }
        let from = last.to;
        if moved.to == last.from && moved.unix_millis < last.unix_millis + STRAY_MS {
            self.strayed = Some(Moved { from, ..moved });
        } else {
            self.add(Moved { from, ..moved });
        }
    }

    /// What was taken for late packets and is the last that came, was a move after all.
    pub fn settle(&mut self) {
        if let Some(strayed) = self.strayed.take() {
            self.add(strayed);
        }
    }

    fn add(&mut self, moved: Moved) {
        if self.kept.len() >= MAX_MOVES {
            self.kept.pop_front();
            self.left_out += 1;
        }
        self.kept.push_back(moved);
    }
}

impl Stories {
    /// A session's packets come by another path; where late ones come by the old one, that is no move.
    pub fn came(&mut self, session: u64, direction: Direction, moved: Moved) {
        if let Some(story) = self.of(session, 1) {
            story.moves[direction as usize].came(moved);
        }
    }

    /// A session's packets leave by another path.
    pub fn left(&mut self, session: u64, direction: Direction, moved: Moved) {
        if let Some(story) = self.of(session, 1) {
            story.moves[direction as usize].add(moved);
        }
    }

    /// Packets of a session were dropped.
    pub fn dropped(&mut self, session: u64, reason: DropReason, packets: u64) {
        if let Some(story) = self.of(session, packets) {
            story.dropped(reason, packets);
        }
    }

    /// A session's, so far.
    pub fn get(&self, session: u64) -> Option<&Story> {
        self.stories.get(&session).map(|story| &**story)
    }

    /// A session's, for its record; the next begins anew.
    pub fn take(&mut self, session: u64) -> Option<Box<Story>> {
        if self.stories.is_empty() { None } else { self.stories.remove(&session) }
    }

    fn of(&mut self, session: u64, more: u64) -> Option<&mut Story> {
        if self.stories.len() >= MAX_STORIES && !self.stories.contains_key(&session) {
            self.untold += more;
            return None;
        }
        Some(self.stories.entry(session).or_default())
    }
}

impl Denied {
    /// Keeps the last record of a session that policy has ended. Gives back what has to be told of now: itself, if its keys
    /// are another's.
    pub fn keep(&mut self, record: FlowRecord, now: Instant) -> Option<FlowRecord> {
        let session = record.session;
        if record.story.is_none() || self.waiting.contains_key(&session) {
            return Some(record);
        }
        let oldest = if self.waiting.len() >= MAX_DENIED { self.end_oldest() } else { None };
        self.by_key.insert(record.key, session);
        self.by_key.insert(record.reply_key, session);
        self.waiting.insert(session, Waiting { record, since: now, last: now });
        self.order.push_back(session);
        oldest
    }

    /// Packets with `key` were dropped: they count if they are of a session that was denied.
    pub fn dropped(&mut self, key: &FlowKey, reason: DropReason, packets: u64, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = self.by_key.get(key).and_then(|session| self.waiting.get_mut(session));
        if let Some(Waiting { record, last, .. }) = waiting
            && let Some(story) = &mut record.story
        {
            *last = now;
            story.dropped(reason, packets);
        }
    }

    /// The last record of a session whose keys another has now.
    pub fn is_let_in(&mut self, key: &FlowKey) -> Option<FlowRecord> {
        if self.waiting.is_empty() {
            return None;
        }
        let session = *self.by_key.get(key)?;
        self.end(session)
    }

    /// When [`Denied::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = self.order.front().and_then(|session| self.waiting.get(session))?;
        Some(due(first))
    }

    /// The next record to be told of by now, if there is one. Those behind one whose packets still come wait for it.
    pub fn expire(&mut self, now: Instant) -> Option<FlowRecord> {
        while let Some(first) = self.order.front() {
            match self.waiting.get(first) {
                Some(waiting) if due(waiting) > now => return None,
                Some(_) => return self.end_oldest(),
                None => drop(self.order.pop_front()),
            }
        }
        None
    }

    /// The record of the one that was denied first.
    pub fn end_oldest(&mut self) -> Option<FlowRecord> {
        loop {
            let session = self.order.pop_front()?;
            let record = self.end(session);
            if record.is_some() {
                return record;
            }
        }
    }

    /// The record that waits for packets with `key`.
    pub fn get(&self, key: &FlowKey) -> Option<&FlowRecord> {
        Some(&self.waiting.get(self.by_key.get(key)?)?.record)
    }

    fn end(&mut self, session: u64) -> Option<FlowRecord> {
        let Waiting { record, .. } = self.waiting.remove(&session)?;
        for key in [record.key, record.reply_key] {
            if self.by_key.get(&key) == Some(&session) {
                self.by_key.remove(&key);
            }
        }
        while self.order.front().is_some_and(|first| !self.waiting.contains_key(first)) {
            self.order.pop_front();
        }
        Some(record)
    }
}

fn due(waiting: &Waiting) -> Instant {
    (waiting.last + DENIED_SILENCE).min(waiting.since + DENIED_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{DirectionRecord, EndReason};
    use crate::model::{ClassBy, ClassId, End, Protocol, RuleId, SiteId, TenantId, Zone};

    const A: PathId = PathId(1);
    const B: PathId = PathId(2);

    fn moved(unix_millis: u64, from: PathId, to: PathId) -> Moved {
        Moved { unix_millis, from, to, by: MovedBy::FarEnd(None), is_sure: false }
    }

    /// What is told of arrivals by other paths at these times.
    fn told(arrivals: &[(u64, PathId, PathId)]) -> Vec<(u64, PathId, PathId)> {
        let mut stories = Stories::default();
        for (at, from, to) in arrivals {
            stories.came(7, Direction::Forward, moved(*at, *from, *to));
        }
        let mut story = stories.take(7).expect("a story");
        story.moves[0].settle();
        assert!(stories.take(7).is_none(), "it is told once");
        story.moves[0].kept.iter().map(|moved| (moved.unix_millis, moved.from, moved.to)).collect()
    }

    #[test]
    fn packets_that_come_late_by_the_old_path_are_no_moves_and_those_that_go_on_coming_are_one() {
        let there = (1_000, A, B);
        assert_eq!(told(&[there]), [there]);
        assert_eq!(told(&[there, (1_005, B, A), (1_006, A, B), (1_300, B, A), (1_301, A, B)]), [there]);
        assert_eq!(told(&[there, (1_200, B, A)]), [there, (1_200, B, A)], "the last came by it");
        let back = (9_000, B, A);
        assert_eq!(told(&[there, back]), [there, back]);
        // It went back soon, and stayed there; then it moved again.
        assert_eq!(told(&[there, (1_200, B, A), (5_000, A, B)]), [there, (1_200, B, A), (5_000, A, B)]);
    }

    #[test]
    fn the_newest_moves_are_kept_and_the_others_counted() {
        let mut stories = Stories::default();
        for n in 0..20 {
            let (from, to) = if n % 2 == 0 { (A, B) } else { (B, A) };
            stories.left(7, Direction::Reverse, moved(n * 10_000, from, to));
        }
        let story = stories.get(7).expect("a story");
        let [forward, reverse] = &story.moves;
        assert_eq!((forward.kept.len(), reverse.kept.len(), reverse.left_out), (0, MAX_MOVES, 4));
        assert_eq!(reverse.kept.back().map(|moved| moved.unix_millis), Some(190_000));
    }

    #[test]
    fn stories_are_bounded_and_what_finds_no_room_is_counted() {
        let mut stories = Stories::default();
        for session in 0..MAX_STORIES as u64 {
            stories.dropped(session, DropReason::NoPath, 1);
        }
        stories.dropped(u64::MAX, DropReason::NoPath, 3);
        stories.left(u64::MAX, Direction::Forward, moved(0, A, B));
        assert!(stories.get(u64::MAX).is_none());
        assert_eq!(stories.untold, 4);
        stories.dropped(5, DropReason::NoPath, 2);
        stories.dropped(5, DropReason::TooBig, 1);
        let drops = stories.take(5).expect("a story").drops;
        assert_eq!(drops, [(DropReason::NoPath, 3), (DropReason::TooBig, 1)]);
        stories.dropped(u64::MAX, DropReason::NoPath, 3);
        assert!(stories.get(u64::MAX).is_some(), "there is room again");
    }

    fn denied(session: u16) -> FlowRecord {
        let (inside, outside) = (Zone::tenant(TenantId(1)), Zone::INTERNET);
        let end = |last, port| (std::net::IpAddr::from([10, 1, 0, last]), port);
        let key = FlowKey::new(inside, Protocol::UDP, end(5, session), end(9, 53));
        FlowRecord {
            session: session.into(),
            tenant: TenantId(1),
            key,
            reply_key: key.turned_round(outside),
            initiator: End::Site(SiteId(1)),
            responder: End::Lan,
            class: ClassId(0),
            class_by: ClassBy::Default,
            name: None,
            rule: RuleId(1),
            dscp: 0,
            generation: 2,
            directions: [DirectionRecord::default(); 2],
            end_reason: EndReason::ForcedEnd,
            story: Some(Box::new(Story {
                denied: Some((DropReason::AclDropped(RuleId(2)), 0)),
                ..Story::default()
            })),
        }
    }

    #[test]
    fn the_record_of_a_denied_session_waits_for_its_packets_in_both_directions_but_not_for_ever() {
        let (mut all, begin) = (Denied::default(), Instant(0));
        let second = Duration::from_secs(1);
        let record = denied(1);
        assert_eq!(all.keep(record.clone(), begin), None);
        let dropped = |all: &mut Denied, key, at| all.dropped(key, DropReason::AclDropped(RuleId(2)), 2, at);
        for secs in (0..=54).step_by(9) {
            dropped(&mut all, &record.key, begin + second * secs);
            dropped(&mut all, &record.reply_key, begin + second * secs);
            assert_eq!(all.expire(begin + second * secs), None);
        }
        assert_eq!(all.poll_timeout(), Some(begin + DENIED_LONGEST));
        let told = all.expire(begin + DENIED_LONGEST).expect("it is time");
        assert_eq!(told.story.expect("a story").drops, [(DropReason::AclDropped(RuleId(2)), 28)]);
        assert_eq!((all.poll_timeout(), all.get(&record.key)), (None, None));

        // One is silent, another let in again.
        assert_eq!((all.keep(denied(2), begin), all.keep(denied(3), begin)), (None, None));
        assert_eq!(all.is_let_in(&denied(2).key).map(|record| record.session), Some(2));
        assert_eq!(all.expire(begin + DENIED_SILENCE).map(|record| record.session), Some(3));
        assert_eq!(all.expire(begin + DENIED_SILENCE), None);
    }

    #[test]
    fn of_too_many_denied_at_once_the_first_are_told_of_at_once() {
        let mut all = Denied::default();
        for session in 0..MAX_DENIED as u16 {
            assert_eq!(all.keep(denied(session), Instant(0)), None);
        }
        let first = all.keep(denied(MAX_DENIED as u16), Instant(0));
        assert_eq!(first.map(|record| record.session), Some(0));
        assert_eq!(all.waiting.len(), MAX_DENIED);
        assert_eq!(std::iter::from_fn(|| all.end_oldest()).count(), MAX_DENIED);
    }
}
