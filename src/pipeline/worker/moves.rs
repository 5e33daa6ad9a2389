//! Who moves: 1 what an answer says of the SLAs; 2 which of those paths that all break one breaks it least; 3 which classes
//! take another path of a site now that one of them stands otherwise, which is written down with the reason; 4 when each
//! of their sessions goes over.
//!
//! A site's paths are all one worker's, and so every move towards it shows here, whoever has the sessions.

use super::Worker;
use crate::flow::SessionRef;
use crate::model::{ClassId, Direction, Instant, NextHop, Now, OnViolation, PathId, SiteId, TenantId};
use crate::path::{self, Action, Candidate, Counts, Quality, Ranking, Seen, State, Verdict};
use crate::pipeline::gauge::Why;
use crate::pipeline::journal::Move;
use crate::pipeline::recording::Measured;
use crate::tables::{Site, Tenant};
use crate::tunnel::Endpoint;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What breaks an SLA least is left for another only if that one is better by a fifth; and where it is latency that breaks it, by
/// so much: less is nothing that anybody hears.
const CLEARLY_BETTER: f64 = 0.8;
const CLEARLY_FASTER: Duration = Duration::from_millis(5);
/// A class that has moved for something better, and not because it had to, stays there so long before it moves so again. Which
/// of two good paths is better, their order says, and nothing that is measured: how much better need not be asked.
const DWELL: Duration = Duration::from_secs(10);

/// What a class takes of a site.
pub(super) struct Taken {
    /// Of equal ones all that are good enough.
    paths: Vec<PathId>,
    /// When it last moved there, or anywhere, for something better.
    chose: Option<Instant>,
}

/// The one of a site's paths, which all break an SLA, that breaks it least.
#[derive(Clone, Copy)]
pub(super) struct Least {
    path: PathId,
    /// When it became that in another's place.
    chosen: Option<Instant>,
}

/// How badly a path breaks an SLA.
#[derive(Clone, Copy)]
struct Bad {
    path: PathId,
    badness: f64,
    p95: Duration,
    /// It is by latency that it is so bad.
    is_slow: bool,
}

impl Bad {
    fn is_clearly_better(&self, than: &Bad) -> bool {
        self.badness < than.badness * CLEARLY_BETTER
            && !(than.is_slow && self.p95 + CLEARLY_FASTER > than.p95)
    }
}

impl Worker {
    // 1 What an answer says.

    /// By the stream whose probes carry `dscp`: SLAs that are judged by another have heard nothing new.
    pub(super) fn judge(&mut self, id: PathId, dscp: u8, now: Now) {
        let Some(gauge) = self.paths.gauge_mut(id) else { return };
        if std::mem::take(&mut gauge.is_held_back) {
            self.stands_anew(id, now);
        }
        let Some(gauge) = self.paths.gauge_mut(id) else { return };
        let seen = match gauge.stream_mut(dscp) {
            Some(stream) => stream.take_seen(),
            None => gauge.prober.take_seen(),
        };
        let Some(seen) = seen else { return };
        gauge.prober.is_judged(!gauge.judges.is_empty());
        let seen = match gauge.prober.state() {
            _ if gauge.judges.is_empty() => return,
            State::Up => seen,
            // What was lost while it was down says nothing of what it is like now.
            State::Recovering => Seen { counts: Counts::default(), ..seen },
            State::Unproven | State::Down => return,
        };
        let verdicts = gauge.judge(dscp, |judge, quality| judge.observe(&seen, quality, now.instant));
        let judges = || (0..).zip(&gauge.judges).filter(|(place, _)| gauge.judged_by(*place) == dscp);
        let doubt = judges().map(|(_, judge)| judge.doubt()).max();
        let broken: Vec<u8> =
            judges().filter(|(_, judge)| judge.is_broken()).map(|(place, _)| place as u8).collect();
        match gauge.stream_mut(dscp) {
            Some(stream) => stream.doubt(doubt.unwrap_or_default()),
            None => gauge.prober.doubt(doubt.unwrap_or_default()),
        }
        self.take_verdicts(id, &verdicts, now);
        let Some(at) = self.paths.whose(id) else { return };
        for place in broken {
            self.find_least(at, place, now);
        }
    }

    /// Nothing that carries `dscp` gets through a path that is alive.
    pub(super) fn fell_silent(&mut self, id: PathId, dscp: u8, now: Now) {
        self.recording.write(id, Measured::FellSilent { dscp }, now);
        let Some(gauge) = self.paths.gauge_mut(id) else { return };
        let verdicts = gauge.judge(dscp, |judge, _| judge.silenced(now.instant));
        self.take_verdicts(id, &verdicts, now);
    }

    fn take_verdicts(&mut self, id: PathId, verdicts: &[(u8, Verdict)], now: Now) {
        let Some(at) = self.paths.whose(id) else { return };
        for &(place, verdict) in verdicts {
            if let Some(gauge) = self.paths.gauge_mut(id) {
                gauge.why = Why::Sla(place, verdict);
                match verdict {
                    Verdict::Broken(_) => gauge.avoid |= 1 << place,
                    Verdict::Kept(_) => gauge.avoid &= !(1 << place),
                }
            }
            // Who is good is to be there before who is less bad goes.
            if matches!(verdict, Verdict::Kept(_)) {
                self.stands_anew(id, now);
            }
            self.find_least(at, place, now);
            self.stands_anew(id, now);
        }
    }

    // 2 Which breaks it least.

    /// Where all paths of a site that are up break an SLA, the one that breaks it least is not avoided, if policy says so.
    fn find_least(&mut self, (tenant, site): (TenantId, SiteId), place: u8, now: Now) {
        let Some(tenant) = self.generation.tenants.get(tenant) else { return };
        let policy = tenant.slas.get(usize::from(place));
        let is_wanted = policy.is_some_and(|sla| sla.on_violation == OnViolation::BestOfWorst);
        let Some(paths) = tenant.sites.get(site) else { return };
        // One class asks for it, and may have another way than the site's paths.
        let class = tenant.classes.iter().find(|class| paths.sla(**class) == Some(place));
        let breakout = tenant.breakout.as_ref().filter(|breakout| breakout.site == site);
        let order = class.zip(breakout).map(|(class, breakout)| breakout.order(*class));
        let order = order.filter(|order| !order.is_empty()).unwrap_or(&paths.paths);
        let up = order.iter().copied().filter(|id| self.paths.fitness(*id) == Candidate::Up);
        let judged: Option<Vec<Bad>> = up
            .filter_map(|id| Some((id, self.paths.gauge(id)?)))
            .map(|(id, gauge)| {
                let judge = gauge.judges.get(usize::from(place)).filter(|judge| judge.is_broken())?;
                Some(how_bad(id, gauge.quality_for(place.into()), judge, now.instant))
            })
            .collect();
        let before = self.least.get(&(site, place)).copied();
        let least = judged.filter(|_| is_wanted).and_then(|judged| {
            let best = judged.iter().min_by(|a, b| a.badness.total_cmp(&b.badness))?;
            let had = before.and_then(|had| Some((had, judged.iter().find(|bad| bad.path == had.path)?)));
            match had {
                Some((had, bad)) if is_recent(had.chosen, now) || !best.is_clearly_better(bad) => Some(had),
                Some(_) => Some(Least { path: best.path, chosen: Some(now.instant) }),
                None => Some(Least { path: best.path, chosen: None }),
            }
        });
        let [had, takes] = [before, least].map(|least| Some(least?.path));
        if takes == had {
            return;
        }
        match least {
            Some(least) => self.least.insert((site, place), least),
            None => self.least.remove(&(site, place)),
        };
        // The better one first: nobody is to be left without any meanwhile.
        for (id, is_least) in takes.map(|id| (id, true)).into_iter().chain(had.map(|id| (id, false))) {
            let Some(gauge) = self.paths.gauge_mut(id) else { continue };
            let is_broken = gauge.judges.get(usize::from(place)).is_some_and(path::Judge::is_broken);
            if is_least || !is_broken {
                gauge.avoid &= !(1 << place);
            } else {
                gauge.avoid |= 1 << place;
            }
            if is_broken {
                gauge.why = if is_least { Why::BestOfWorst(place) } else { Why::NotBestOfWorst(place) };
            }
            self.stands_anew(id, now);
        }
    }

    /// This was measured another time, and is judged as it was then.
    pub fn recall(&mut self, id: PathId, measured: Measured, now: Now) {
        if let Some(path) = self.paths.get_mut(id)
            && path.tunnel.endpoint().is_none()
        {
            // Where the far end was is not recorded: it was somewhere.
            let Some((any, _)) = self.generation.transports.iter().next() else { return };
            let transport = path.spec.transport.unwrap_or(any);
            path.tunnel
                .roam(Endpoint { transport, address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0) });
        }
        let Some(gauge) = self.paths.gauge_mut(id) else { return };
        // What of which nothing is asked by this policy says nothing.
        if let Measured::Answer { dscp, .. } | Measured::FellSilent { dscp } = measured
            && dscp != 0
            && gauge.stream(dscp).is_none()
        {
            return;
        }
        let is_first = gauge.prober.state() == State::Unproven && measured.action().is_none();
        // The recording begins with a path that was up before.
        let change = if is_first { Some(Action::CameUp { held: Duration::ZERO }) } else { measured.action() };
        if let Some(change) = change {
            gauge.prober.recall_change(change);
            self.changed(id, change, now);
            self.stands_anew(id, now);
        }
        match measured {
            Measured::Answer { stamps, there, here, dscp } => {
                let Some(gauge) = self.paths.gauge_mut(id) else { return };
                let counts = [there, Some(here)];
                match gauge.stream_mut(dscp) {
                    Some(stream) => stream.recall(&stamps, counts, now.instant),
                    None => gauge.prober.recall(&stamps, counts, now.instant),
                }
                self.judge(id, dscp, now);
            }
            Measured::FellSilent { dscp } => self.fell_silent(id, dscp, now),
            _ => {}
        }
    }

    // 3 Who takes another.

    /// A path may stand otherwise than before: the others are told, and who moves is written down. Where it is only better than
    /// before, and classes would move to it that need not and have done so just now, that is looked at again with
    /// each of its answers.
    pub(super) fn stands_anew(&mut self, id: PathId, now: Now) {
        if self.is_premature(id, now) {
            if let Some(gauge) = self.paths.gauge_mut(id) {
                gauge.is_held_back = true;
            }
            return;
        }
        if !self.paths.publish(id, now.instant) {
            return;
        }
        self.unexplained.insert(id);
        let Some(at) = self.paths.whose(id) else { return };
        let Some(gauge) = self.paths.gauge_mut(id) else { return };
        gauge.is_held_back = false;
        let why = gauge.why;
        // Who has to move is to find those that were held back.
        for other in self.paths.held_back(at.1) {
            if let Some(gauge) = self.paths.gauge_mut(other) {
                gauge.is_held_back = false;
            }
            let is_premature = self.is_premature(other, now);
            if let Some(gauge) = self.paths.gauge_mut(other) {
                gauge.is_held_back = is_premature;
            }
            if !is_premature && self.paths.publish(other, now.instant) {
                self.unexplained.insert(other);
            }
        }
        self.write_moves(at, Some((id, why)), now);
    }

    /// Whether a path has become better for classes that move to it by choice, and are to stay where they are for now.
    fn is_premature(&self, id: PathId, now: Now) -> bool {
        let Some((tenant, site)) = self.paths.whose(id) else { return false };
        let (was, is) = (self.team.standing(id), self.paths.standing(id));
        if was == is || !was.fitness.is_alive() || !is.is_no_worse_than(was) {
            return false;
        }
        // Only its next answer tells whether the time has come: so it is when it is replayed.
        if self.paths.gauge(id).is_some_and(|gauge| gauge.is_held_back) {
            return true;
        }
        let Some(tables) = self.generation.tenants.get(tenant) else { return false };
        let Some(paths) = tables.sites.get(site) else { return false };
        let mut is_early = false;
        for class in &tables.classes {
            let sla = paths.sla(*class);
            let before = |other| self.team.standing(other).fitness_for(sla);
            let after = |other| if other == id { is.fitness_for(sla) } else { before(other) };
            for (ranking, is_out) in rankings(tables, site, *class) {
                if path::takers(ranking, before) == path::takers(ranking, after) {
                    continue;
                }
                let taken = self.taken.get(&(site, *class, is_out));
                let Some(Taken { paths: has, chose }) = taken else { return false };
                if has.iter().all(|has| before(*has) != Candidate::Up) {
                    return false;
                }
                is_early |= is_recent(*chose, now);
            }
        }
        is_early
    }

    /// After a commit.
    pub(super) fn look_at_all_sites(&mut self, now: Now) {
        let sites = self.paths.iter().map(|(_, path)| (path.spec.site, path.spec.tenant));
        let sites: BTreeMap<SiteId, TenantId> = sites.collect();
        self.taken.retain(|(site, ..), _| sites.contains_key(site));
        self.least.retain(|(site, _), _| sites.contains_key(site));
        for (site, tenant) in sites {
            self.write_moves((tenant, site), None, now);
        }
    }

    fn write_moves(&mut self, (tenant, site): (TenantId, SiteId), cause: Option<(PathId, Why)>, now: Now) {
        let generation = Arc::clone(&self.generation);
        let Some(tables) = generation.tenants.get(tenant) else { return };
        let Some(paths) = tables.sites.get(site) else { return };
        for class in &tables.classes {
            let sla = paths.sla(*class);
            let fitness = |id| self.team.standing(id).fitness_for(sla);
            let mut told = Vec::new();
            for (ranking, is_out) in rankings(tables, site, *class) {
                // One that nobody knows to be alive is no choice, but what is left.
                let takes = path::takers(ranking, fitness);
                if takes.is_empty() {
                    continue;
                }
                let key = (site, *class, is_out);
                let (had, mut chose) = match self.taken.remove(&key) {
                    Some(Taken { paths, chose }) => (paths, chose),
                    None => (Vec::new(), None),
                };
                for (from, to) in shifts(&had, &takes) {
                    let is_better = cause.is_some_and(|(_, why)| {
                        matches!(why, Why::NotBestOfWorst(_)) || fitness(from) == Candidate::Up
                    });
                    if is_better {
                        chose = Some(now.instant);
                    }
                    if told.contains(&(from, to)) {
                        continue;
                    }
                    told.push((from, to));
                    let (path, why) = cause.unwrap_or((to, Why::Configured));
                    let entry = Move { at: now.unix_nanos, tenant, class: *class, from, to, path, why };
                    tracing::info!(
                        path = self.generation.names.site_and_path(to),
                        class = self.generation.names.class(*class),
                        "class has moved: {}",
                        entry.reason(&self.generation)
                    );
                    self.journal.write(entry);
                }
                self.taken.insert(key, Taken { paths: takes, chose });
            }
        }
    }

    // 4 When sessions do.

    /// Which of two paths a session takes: the one that its packets leave on, or the one that is better. Off a path that is good
    /// for nothing all go at once; otherwise each in its turn.
    #[cold]
    pub(super) fn goes_over(
        &mut self,
        at: SessionRef,
        direction: Direction,
        (from, to): (PathId, PathId),
        now: Now,
    ) -> PathId {
        let Some(session) = self.sessions.get(at) else { return to };
        let (id, class) = (session.id, session.class());
        let NextHop::Tunnel(site) = session.to(direction) else { return to };
        let Some(tenant) = self.generation.tenants.get(session.side(direction.opposite())) else { return to };
        let Some(paths) = tenant.sites.get(site) else { return to };
        let standing = self.team.standing(from);
        let is_forbidden =
            paths.sla(class).is_some_and(|sla| standing.is_avoided(sla) && tenant.insists(sla));
        // One that is recovering has been left by everybody; or large packets are lost on it, as all were.
        if standing.fitness != Candidate::Up || is_forbidden || !paths.order(class).contains(&from) {
            return to;
        }
        let changes = [from, to].map(|path| self.team.change(path, now.instant));
        let follows = direction == Direction::Reverse && session.arrived_on(Direction::Forward) == Some(to);
        // The far end's sessions have had their turns there; but if it is this way that is good again, their answers have theirs here.
        if follows && !changes[1].by_sla {
            return to;
        }
        let began = changes[0].at.max(changes[1].at);
        // Its packets wait with the worker that has the path, which need not be the session's.
        let is_full = || self.team.full(to).has(class);
        if self.turns.is_due((from, to), began, id, is_full, now.instant) { to } else { from }
    }
}

/// A class's paths at a site, best first.
pub(super) fn ranking(site: &Site, class: ClassId) -> Ranking<'_> {
    Ranking { paths: site.order(class), shares: site.shares(class) }
}

/// Those of a site for a class: what cannot take the way straight out goes by the paths alone, and what can may go by the same ones.
/// Whether it is that one.
fn rankings(tables: &Tenant, site: SiteId, class: ClassId) -> impl Iterator<Item = (Ranking<'_>, bool)> {
    let by_paths = tables.sites.get(site).map(|site| (ranking(site, class), false));
    let breakout = tables.breakout.as_ref().filter(|breakout| breakout.site == site);
    let out = breakout
        .map(|breakout| (Ranking { paths: breakout.order(class), shares: breakout.shares(class) }, true));
    by_paths.into_iter().chain(out)
}

/// From where to where sessions move when these paths take what those took: a share that goes or comes, to or from who stays;
/// otherwise all.
fn shifts(had: &[PathId], takes: &[PathId]) -> Vec<(PathId, PathId)> {
    let new = takes.iter().copied().filter(|path| !had.contains(path));
    match had.iter().copied().find(|path| takes.contains(path)) {
        Some(stays) => {
            let gone = had.iter().copied().filter(|path| !takes.contains(path));
            gone.map(|path| (path, stays)).chain(new.map(|path| (stays, path))).collect()
        }
        None => had.first().copied().zip(takes.first().copied()).into_iter().collect(),
    }
}

/// Whether that is less than [`DWELL`] ago.
fn is_recent(chose: Option<Instant>, now: Now) -> bool {
    chose.is_some_and(|at| now.instant.since(at) < DWELL)
}

fn how_bad(id: PathId, quality: &Quality, judge: &path::Judge, now: Instant) -> Bad {
    let badness = judge.badness(quality, now).unwrap_or(f64::INFINITY);
    let p95 = quality.measured(path::Way::Outbound, path::LONG, now).map_or(Duration::ZERO, |seen| seen.p95);
    let limit = judge.limits().latency;
    let is_slow = limit.is_some_and(|limit| p95.as_secs_f64() / limit.as_secs_f64() >= badness);
    Bad { path: id, badness, p95, is_slow }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_comes_from_who_stays_and_goes_there_and_otherwise_all_go() {
        let [a, b, c] = [PathId(1), PathId(2), PathId(3)];
        // Who took what was new, who takes it now; from where to where that moves sessions.
        type Row<'a> = (&'a [PathId], &'a [PathId], &'a [(PathId, PathId)]);
        let table: [Row<'_>; 9] = [
            (&[], &[a], &[]),
            (&[a], &[a], &[]),
            (&[a], &[b], &[(a, b)]),
            (&[a, b], &[b, a], &[]),
            (&[a, b], &[b], &[(a, b)]),
            (&[a, b, c], &[b], &[(a, b), (c, b)]),
            (&[b], &[a, b, c], &[(b, a), (b, c)]),
            (&[a, b], &[a, c], &[(b, a), (a, c)]),
            (&[a, b], &[c], &[(a, c)]),
        ];
        for (had, takes, wanted) in table {
            assert_eq!(shifts(had, takes), wanted, "{had:?}, then {takes:?}");
        }
    }

    #[test]
    fn clearly_better_is_a_fifth_and_where_latency_is_what_is_bad_five_milliseconds() {
        let bad = |badness, ms, is_slow| {
            let p95 = Duration::from_micros((ms * 1e3) as u64);
            Bad { path: PathId(0), badness, p95, is_slow }
        };
        for (than, better, is_clear) in [
            (bad(2.0, 100.0, true), bad(1.7, 85.0, true), false),
            (bad(2.0, 100.0, true), bad(1.5, 75.0, true), true),
            // A limit of 8 ms.
            (bad(2.0, 16.0, true), bad(1.5, 12.0, true), false),
            (bad(2.0, 16.0, true), bad(1.375, 11.0, true), true),
            // It is loss that is bad.
            (bad(2.0, 16.0, false), bad(1.5, 16.0, false), true),
        ] {
            assert_eq!(better.is_clearly_better(&than), is_clear, "{} to {}", than.badness, better.badness);
        }
    }
}
