//! What a session's record tells besides its counters: 1 the paths it moved between, and whose doing each move was; 2 its
//! packets that were dropped; 3 what ended it, if policy did. And what the far end needs to tell the same: 4 why it is sent
//! to by another path.

use super::Worker;
use crate::flow::{Cause, Denied, EndReason, FlowRecord, Moved, MovedBy, SessionRef, Stories, Story};
use crate::model::{Direction, DropReason, FlowKey, Instant, NextHop, Now, PathId, Remediation};
use crate::path;
use crate::pipeline::paths::Path;
use crate::pipeline::team::Team;
use crate::wire::Outbound;
use std::sync::Arc;

/// What the far end tells of a path comes by another, and may be as much later than the first packet that it explains.
const LATER_MS: u64 = 1_000;

impl Worker {
    // 1 Moves.

    /// A packet of a session leaves by another path than the one before.
    #[cold]
    pub(super) fn leaves_by_another(
        &mut self,
        at: SessionRef,
        direction: Direction,
        (from, to): (PathId, PathId),
        now: Now,
    ) {
        let Some(session) = self.sessions.get(at) else { return };
        let follows = direction == Direction::Reverse && session.arrived_on(Direction::Forward) == Some(to);
        let by = if follows { MovedBy::Follows } else { self.own_move(at, direction, (from, to), now) };
        let moved = Moved { unix_millis: now.unix_nanos / 1_000_000, from, to, by, is_sure: true };
        self.stories.left(session.id, direction, moved);
    }

    fn own_move(
        &self,
        at: SessionRef,
        direction: Direction,
        (from, to): (PathId, PathId),
        now: Now,
    ) -> MovedBy {
        let Some(session) = self.sessions.get(at) else { return MovedBy::Policy };
        let NextHop::Tunnel(site) = session.to(direction) else { return MovedBy::Policy };
        let tenant = self.generation.tenants.get(session.side(direction.opposite()));
        let is_had = |paths: &crate::tables::Site| paths.order(session.class()).contains(&from);
        if !tenant.and_then(|tenant| tenant.sites.get(site)).is_some_and(is_had) {
            return MovedBy::Policy;
        }
        let [left, taken] = [from, to].map(|path| (self.team.change(path, now.instant).at, path));
        // Who had to go is the reason, where another was made ready for it at the same time.
        let (since, path) = if taken.0 > left.0 { taken } else { left };
        let why = self.team.cause(path);
        if why == 0 || since < to_the_millisecond(session.created) {
            return MovedBy::Policy;
        }
        MovedBy::Here(Cause { path, why })
    }

    /// A packet of a session came by another path than the one before.
    #[cold]
    pub(super) fn comes_by_another(
        &mut self,
        at: SessionRef,
        direction: Direction,
        (from, to): (PathId, PathId),
        now: Now,
    ) {
        let Some(session) = self.sessions.get(at) else { return };
        // What is sent twice comes by either.
        if [from, to]
            .iter()
            .any(|path| self.generation.remediation(*path, session.class()) != Remediation::None)
        {
            return;
        }
        let unix_millis = now.unix_nanos / 1_000_000;
        let (by, is_sure) =
            if direction == Direction::Reverse && session.left_on(Direction::Forward) == Some(to) {
                (MovedBy::Follows, true)
            } else {
                let heard = heard_next_to(&self.team, (from, to), unix_millis, now);
                let since = now.unix_millis_at(session.created);
                let heard = heard.filter(|(at, _)| *at >= since);
                // Of a gradual move it was told longer ago.
                let is_sure = heard.is_some_and(|(at, _)| at + LATER_MS >= unix_millis);
                (MovedBy::FarEnd(heard.map(|(_, cause)| cause)), is_sure)
            };
        let moved = Moved { unix_millis, from, to, by, is_sure };
        self.stories.came(session.id, direction, moved);
    }

    // 2 Drops.

    /// Packets that a flow's key has are dropped: they count with its session, or with the one that policy has ended.
    pub(super) fn tell_drop(&mut self, key: &FlowKey, reason: DropReason, packets: u64, now: Now) {
        match self.sessions.lookup(key).and_then(|(at, _)| self.sessions.get(at)) {
            Some(session) => self.stories.dropped(session.id, reason, packets),
            None => self.denied.dropped(key, reason, packets, now.instant),
        }
    }

    // 3 Ends.

    /// Policy ends a session. Its record waits for what else its hosts send.
    pub(super) fn deny(&mut self, at: SessionRef, reason: DropReason, now: Now) {
        let Some(mut record) = self.forget_session(at, EndReason::ForcedEnd, now) else { return };
        self.rules.recorded(&record);
        record.generation = self.generation.number;
        record.story.get_or_insert_default().denied = Some((reason, now.unix_nanos / 1_000_000));
        self.records.extend(self.denied.keep(record, now.instant));
    }

    /// A session has begun whose keys another had that policy has ended.
    pub(super) fn is_let_in(&mut self, key: &FlowKey) {
        self.records.extend(self.denied.is_let_in(key));
    }

    pub(super) fn report_denied(&mut self, now: Now) {
        while let Some(record) = self.denied.expire(now.instant) {
            self.records.push(record);
        }
    }

    /// Ends what waits for packets of sessions that policy has ended.
    pub(super) fn end_denied(&mut self) {
        let Self { denied, records, .. } = self;
        records.extend(std::iter::from_fn(|| Denied::end_oldest(denied)));
    }

    /// A session's story so far, as its record would tell it.
    pub(in crate::pipeline) fn story(&self, session: u64, now: Now) -> Option<Story> {
        let mut story = self.stories.get(session)?.clone();
        settle(&mut story, &self.team, now);
        Some(story)
    }

    /// The records of sessions that policy has ended, of these keys.
    pub(in crate::pipeline) fn denied_of(&self, key: &FlowKey) -> Option<&FlowRecord> {
        self.denied.get(key)
    }

    // 4 What the far end is told.

    /// Tells the far ends why paths stand otherwise here, each by the other ways there.
    pub(super) fn explain_moves(&mut self, now: Now, out: &mut Outbound) {
        let generation = Arc::clone(&self.generation);
        for id in std::mem::take(&mut self.unexplained) {
            let why = self.team.cause(id);
            let Some(path) = self.paths.get(id).filter(|_| why != 0) else { continue };
            let (tenant, site) = (path.spec.tenant, path.spec.site);
            let message = path::reason(path.tag, why, now);
            let all = generation.tenants.get(tenant).and_then(|tenant| tenant.sites.get(site));
            for other in all.iter().flat_map(|site| &site.paths).filter(|other| **other != id) {
                let hears = |path: &Path| path.probed && path.fitness().is_alive();
                if self.paths.get(*other).is_some_and(hears)
                    && let Err(reason) = self.seal_own(*other, &message, now, out)
                {
                    self.drops.count(Some(tenant), reason, 1);
                }
            }
        }
    }
}

/// A session's story for its record.
pub(super) fn take_story(stories: &mut Stories, session: u64, team: &Team, now: Now) -> Option<Box<Story>> {
    let mut story = stories.take(session)?;
    settle(&mut story, team, now);
    Some(story)
}

/// What the far end has told meanwhile of its moves.
fn settle(story: &mut Story, team: &Team, now: Now) {
    for moves in &mut story.moves {
        moves.settle();
        for moved in &mut moves.kept {
            if let MovedBy::FarEnd(cause) = &mut moved.by
                && !moved.is_sure
                && let Some((at, heard)) = heard_next_to(team, (moved.from, moved.to), moved.unix_millis, now)
                && at.abs_diff(moved.unix_millis) <= LATER_MS
            {
                *cause = Some(heard);
            }
        }
    }
}

/// What the far end told of either of two paths, whatever is nearest to that time; and when, in milliseconds since the Unix epoch.
fn heard_next_to(
    team: &Team,
    (from, to): (PathId, PathId),
    unix_millis: u64,
    now: Now,
) -> Option<(u64, Cause)> {
    let heard = [from, to].map(|path| (team.heard(path, now.instant), path));
    let told = heard.into_iter().filter(|((_, why), _)| *why != 0);
    let told = told.map(|((at, why), path)| (now.unix_millis_at(at), Cause { path, why }));
    // The first of two at the same time: who had to go.
    told.min_by_key(|(at, _)| at.abs_diff(unix_millis))
}

/// As exactly as a team knows when a path changed.
fn to_the_millisecond(at: Instant) -> Instant {
    Instant(at.0 / 1_000_000 * 1_000_000)
}
