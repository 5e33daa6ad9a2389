//! Echoes: the way straight out of a branch, and paths to stock clients, are asked about by echo requests, whose replies end
//! here; and what follows for sessions that go straight out.

use super::{Arrival, Refusal, Worker};
use crate::flow::{Session, SessionRef};
use crate::model::{DeviceId, Direction, DropReason, NextHop, Now, PathId, Resilience, Zone};
use crate::path::{Action, Way};
use crate::pipeline::outlet::Outlet;
use crate::tables::{Site, Tenant};
use crate::wire::{self, Handover, Outbound, Parsed, Upper};

impl Worker {
    /// Does what is due for the way straight out.
    pub(super) fn work_outlet(&mut self, now: Now, out: &mut Outbound) {
        let is_due = |outlet: &Outlet| outlet.poll_timeout().is_some_and(|at| at <= now.instant);
        let Some(path) = self.paths.outlet().filter(|outlet| is_due(outlet)).map(|outlet| outlet.path) else {
            return;
        };
        while let Some(outlet) = self.paths.outlet_mut() {
            outlet.gauge.prober.pace(self.pace.stretch());
            match outlet.gauge.prober.poll(now.instant) {
                None => break,
                Some(Action::Send { sequence, .. }) => {
                    for request in outlet.echo().iter().flat_map(|echo| echo.requests(sequence)) {
                        self.pace.count(now.instant);
                        out.push_packet(outlet.device, &request);
                    }
                }
                // Nobody is there to hear of it.
                Some(Action::Suspected) => {}
                Some(change) => self.changed(path, change, now),
            }
        }
        if let Some(outlet) = self.paths.outlet_mut()
            && outlet.gauge.history.is_due(now.instant)
        {
            let ways = [Way::Outbound, Way::Inbound].map(|way| outlet.gauge.measured(way, now.instant));
            outlet.gauge.sample(ways, now.instant);
        }
        self.stands_anew(path, now);
    }

    /// Asks about a path by echo requests into its tunnel.
    pub(super) fn ask_by_echo(&mut self, id: PathId, sequence: u32, now: Now, out: &mut Outbound) {
        let Some(echo) = self.paths.get(id).and_then(|path| path.echo.as_ref()) else { return };
        let requests: Vec<Vec<u8>> = echo.requests(sequence).collect();
        for request in requests {
            self.pace.count(now.instant);
            if let Err(reason) = self.seal_own(id, &request, now, out) {
                self.drops.count(None, reason, 1);
            }
        }
    }

    /// Takes what came out of a path's tunnel if it answers an echo request of ours.
    pub(super) fn take_echo(&mut self, id: PathId, packet: &[u8], now: Now) -> bool {
        let Some(path) = self.paths.get_mut(id) else { return false };
        let parsed = wire::parse(packet).ok();
        let answers =
            path.echo.as_ref().zip(parsed).and_then(|(echo, parsed)| echo.answered(packet, &parsed));
        let Some(sequence) = answers else { return false };
        let action = path.gauge.prober.echoed(sequence, now);
        self.answered(id, 0, action, now);
        self.paths.schedule(id);
        true
    }

    /// Takes what came from outside and belongs to no session if it answers an echo request of ours; or lets the worker have it
    /// that has asked.
    pub(super) fn take_echo_from_outside(
        &mut self,
        refusal: &Refusal,
        arrival: Arrival,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) -> bool {
        let Upper::EchoReply { id } = parsed.upper else { return false };
        let NextHop::Device(device) = arrival.hop else { return false };
        if arrival.zone != Zone::INTERNET || refusal.reason != DropReason::NoSession {
            return false;
        }
        if let Some(outlet) = self.paths.outlet_mut() {
            let answers = outlet.echo().and_then(|echo| echo.answered(packet, parsed));
            let Some(sequence) = answers.filter(|_| outlet.device == device) else { return false };
            let path = outlet.path;
            let action = outlet.gauge.prober.echoed(sequence, now);
            self.answered(path, 0, action, now);
            return true;
        }
        let breakout = self.generation.breakout().map(|(_, breakout)| breakout);
        let asks = breakout.filter(|breakout| {
            breakout.device == device && breakout.echo.as_ref().is_some_and(|echo| echo.identifier == id)
        });
        let Some(owner) = asks.map(|breakout| self.team.worker_of(breakout.site)) else { return false };
        if arrival.handed_over || owner == self.id {
            return false;
        }
        let Arrival { zone, hop, path, .. } = arrival;
        out.hand_over(owner, Handover::Arrived { zone, hop, path, segment: parsed.segment }, packet);
        true
    }

    /// Whether a session's line is dead, and its class's sessions do not stay on a dead one where another way is alive.
    pub(super) fn has_to_leave(&self, at: SessionRef, direction: Direction) -> bool {
        let Some(outlet) = self.paths.outlet().filter(|outlet| outlet.is_dead()) else { return false };
        let Some(session) = self.sessions.get(at).filter(|_| direction == Direction::Forward) else {
            return false;
        };
        let goes_out = session.to(Direction::Forward) == NextHop::Device(outlet.device);
        let Some(site) = self.site_past(outlet).filter(|_| goes_out) else { return false };
        let class = session.class();
        site.resilience(class) != Resilience::None
            && site.order(class).iter().any(|path| self.team.standing(*path).fitness.is_alive())
    }

    /// Whether a session's class would rather have nothing sent than by its way straight out, as that is.
    pub(super) fn is_forbidden(&self, session: &Session, device: DeviceId) -> bool {
        let Some(outlet) = self.paths.outlet().filter(|outlet| outlet.device == device) else { return false };
        let sla = self.site_past(outlet).and_then(|site| site.sla(session.class()));
        let insists = |sla: u8| self.tenant_of(outlet).is_some_and(|tenant| tenant.insists(sla));
        sla.is_some_and(|sla| insists(sla) && outlet.standing().is_avoided(sla))
    }

    fn tenant_of(&self, outlet: &Outlet) -> Option<&Tenant> {
        self.generation.tenants.get(outlet.tenant)
    }

    fn site_past(&self, outlet: &Outlet) -> Option<&Site> {
        self.tenant_of(outlet)?.sites.get(outlet.site)
    }
}
