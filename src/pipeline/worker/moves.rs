//! Who moves: 1 what an answer says of the SLAs; 2 which of those paths that all break one breaks it least; 3 which classes
//! take another path of a site now that one of them stands otherwise, which is written down with the reason; 4 when each
//! of their sessions goes over.
//!
//! A site's paths are all one worker's, and so every move towards it shows here, whoever has the sessions.

use super::Worker;
use crate::flow::SessionRef;
use crate::model::{Direction, NextHop, Now, OnViolation, PathId, SiteId, TenantId};
use crate::path::{self, Action, Candidate, Counts, Seen, State, Verdict};
use crate::pipeline::gauge::Why;
use crate::pipeline::journal::Move;
use crate::pipeline::recording::Measured;
use crate::tunnel::Endpoint;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What breaks an SLA least is left for another only if that one is better by a fifth.
const CLEARLY_BETTER: f64 = 0.8;

impl Worker {
    // 1 What an answer says.

    pub(super) fn judge(&mut self, id: PathId, now: Now) {
        let Some(at) = self.paths.whose(id) else { return };
        let Some(gauge) = self.paths.gauge_mut(id) else { return };
        let Some(seen) = gauge.prober.take_seen() else { return };
        gauge.prober.is_judged(!gauge.judges.is_empty());
        let seen = match gauge.prober.state() {
            _ if gauge.judges.is_empty() => return,
            State::Up => seen,
            // What was lost while it was down says nothing of what it is like now.
            State::Recovering => Seen { counts: Counts::default(), ..seen },
            State::Unproven | State::Down => return,
        };
        let mut verdicts = Vec::new();
        for (place, judge) in (0..).zip(&mut gauge.judges) {
            if let Some(verdict) = judge.observe(&seen, gauge.prober.quality(), now.instant) {
                verdicts.push((place, verdict));
            }
        }
        let in_doubt = gauge.judges.iter().any(path::Judge::is_in_doubt);
        gauge.prober.doubt(in_doubt);
        let broken: Vec<u8> =
            (0..).zip(&gauge.judges).filter(|(_, judge)| judge.is_broken()).map(|(place, _)| place).collect();
        for (place, verdict) in verdicts {
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
        for place in broken {
            self.find_least(at, place, now);
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
        let judged: Option<Vec<(PathId, f64)>> = up
            .filter_map(|id| Some((id, self.paths.gauge(id)?)))
            .map(|(id, gauge)| {
                let judge = gauge.judges.get(usize::from(place)).filter(|judge| judge.is_broken())?;
                Some((id, judge.badness(gauge.prober.quality(), now.instant).unwrap_or(f64::INFINITY)))
            })
            .collect();
        let before = self.least.get(&(site, place)).copied();
        let least = judged.filter(|_| is_wanted).and_then(|judged| {
            let (best, badness) = judged.iter().copied().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
            let stays = judged.iter().find(|(id, _)| Some(*id) == before);
            match stays {
                Some((id, now)) if badness >= now * CLEARLY_BETTER => Some(*id),
                _ => Some(best),
            }
        });
        if least == before {
            return;
        }
        match least {
            Some(least) => self.least.insert((site, place), least),
            None => self.least.remove(&(site, place)),
        };
        // The better one first: nobody is to be left without any meanwhile.
        for (id, is_least) in least.map(|id| (id, true)).into_iter().chain(before.map(|id| (id, false))) {
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
        let is_first = gauge.prober.state() == State::Unproven && measured.action().is_none();
        // The recording begins with a path that was up before.
        let change = if is_first { Some(Action::CameUp { held: Duration::ZERO }) } else { measured.action() };
        if let Some(change) = change {
            gauge.prober.recall_change(change);
            self.changed(id, change, now);
            self.stands_anew(id, now);
        }
        if let Measured::Answer { stamps, there, here } = measured
            && let Some(gauge) = self.paths.gauge_mut(id)
        {
            gauge.prober.recall(&stamps, [there, Some(here)], now.instant);
            self.judge(id, now);
        }
    }

    // 3 Who takes another.

    /// A path may stand otherwise than before: the others are told, and who moves is written down.
    pub(super) fn stands_anew(&mut self, id: PathId, now: Now) {
        if self.paths.publish(id, now.instant)
            && let Some(at) = self.paths.whose(id)
        {
            let why = self.paths.gauge(id).map_or(Why::Configured, |gauge| gauge.why);
            self.write_moves(at, Some((id, why)), now);
        }
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
        let breakout = tables.breakout.as_ref().filter(|breakout| breakout.site == site);
        for class in &tables.classes {
            let sla = paths.sla(*class);
            let fitness = |id| self.team.standing(id).fitness_for(sla);
            // What cannot take the way straight out goes by the paths alone, and what can may go by the same ones.
            let out = breakout.map_or(&[][..], |breakout| breakout.order(*class));
            let mut told = None;
            for (order, is_out) in [(paths.order(*class), false), (out, true)] {
                // One that nobody knows to be alive is no choice, but what is left.
                let takes = path::select(order, None, fitness).filter(|id| fitness(*id).is_alive());
                let Some(takes) = takes else { continue };
                let from = self.taken.insert((site, *class, is_out), takes);
                let Some(from) = from.filter(|from| *from != takes && told != Some((*from, takes))) else {
                    continue;
                };
                told = Some((from, takes));
                let (path, why) = cause.unwrap_or((takes, Why::Configured));
                let entry = Move { at: now.unix_nanos, tenant, class: *class, from, to: takes, path, why };
                tracing::info!(
                    path = self.generation.names.site_and_path(takes),
                    class = self.generation.names.class(*class),
                    "class has moved: {}",
                    entry.reason(&self.generation)
                );
                self.journal.write(entry);
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
        let is_full = || self.shaper.as_ref().is_some_and(|shaper| shaper.is_full(to, class));
        if self.turns.is_due((from, to), began, id, is_full, now.instant) { to } else { from }
    }
}
