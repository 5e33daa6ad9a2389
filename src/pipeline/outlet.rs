//! The way straight out of a branch, as the worker works it that has its sessions: measured by echo requests if policy names
//! whom to ask, and taken to be up if not.

use super::gauge::Gauge;
use super::paths::{Traffic, judges};
use super::team::Standing;
use crate::model::{DeviceId, Instant, PathId, SiteId, SlaLimits, TenantId, TransportId};
use crate::path::{Candidate, Echo, Judge, Prober, State};
use crate::tables::{Breakout, EchoSpec, Generation};
use rand::Rng;
use rand::rngs::StdRng;

/// A branch's way straight out.
pub struct Outlet {
    /// What classes' orders call it.
    pub path: PathId,
    pub device: DeviceId,
    pub tenant: TenantId,
    /// What is beyond the tunnels, which it leads past.
    pub site: SiteId,
    pub gauge: Gauge,
    /// Its interface can carry nothing.
    pub is_cut: bool,
    /// Who is asked, and what is asked with; `None`: nobody.
    asked: Option<(EchoSpec, Echo)>,
    pub received: Traffic,
    pub sent: Traffic,
}

impl Outlet {
    /// A new one, of which nothing is known yet.
    pub fn new(
        tenant: TenantId,
        breakout: &Breakout,
        generation: &Generation,
        rng: &mut StdRng,
        now: Instant,
    ) -> Outlet {
        let mut outlet = Outlet {
            path: breakout.path,
            device: breakout.device,
            tenant,
            site: breakout.site,
            gauge: Gauge::new(Prober::by_echo(now)),
            is_cut: false,
            asked: None,
            received: Traffic::default(),
            sent: Traffic::default(),
        };
        outlet.follow(breakout, generation, rng, now);
        outlet
    }

    /// Brings it in line with a generation: what is known stays while the same are asked.
    pub fn follow(&mut self, breakout: &Breakout, generation: &Generation, rng: &mut StdRng, now: Instant) {
        (self.device, self.site) = (breakout.device, breakout.site);
        if self.asked.as_ref().map(|(spec, _)| spec) != breakout.echo.as_ref() {
            let spec = breakout.echo.clone();
            self.asked = spec.map(|spec| (spec.clone(), asking(&spec, rng.random())));
            self.gauge = Gauge::new(Prober::by_echo(now));
        }
        let (mut judges, judged_for) = judges(self.tenant, generation);
        let tenant = generation.tenants.get(self.tenant);
        for (place, judge) in (0..).zip(&mut judges) {
            let asks = |tenant: &crate::tables::Tenant| {
                let site = tenant.sites.get(self.site)?;
                tenant.classes.iter().find(|class| site.sla(**class) == Some(place)).copied()
            };
            // Nobody doubts it for the sake of a class that never takes it.
            if tenant.and_then(asks).is_none_or(|class| breakout.order(class).is_empty()) {
                *judge = Judge::new(SlaLimits::default());
            }
        }
        self.gauge.judge_by(judges, judged_for);
    }

    /// Whether anybody is asked about it.
    pub fn is_measured(&self) -> bool {
        self.asked.is_some()
    }

    /// What is asked with.
    pub fn echo(&self) -> Option<&Echo> {
        self.asked.as_ref().map(|(_, echo)| echo)
    }

    /// How fit it is to send on: up, until it is known not to be.
    pub fn fitness(&self) -> Candidate {
        match self.gauge.prober.state() {
            _ if self.is_cut => Candidate::Reachable,
            State::Unproven | State::Up => Candidate::Up,
            State::Recovering => Candidate::Recovering,
            State::Down => Candidate::Reachable,
        }
    }

    pub fn standing(&self) -> Standing {
        Standing { fitness: self.fitness(), transport: TransportId(0), avoid: self.gauge.avoid }
    }

    /// Whether nobody answers any more, or nothing can leave.
    pub fn is_dead(&self) -> bool {
        self.is_cut || self.gauge.prober.state() == State::Down
    }

    /// A packet of a session's came this way, or leaves by it.
    pub fn carries(&mut self, device: DeviceId, is_out: bool, packets: (u64, u64), now: Instant) {
        if device == self.device {
            let traffic = if is_out { &mut self.sent } else { &mut self.received };
            traffic.add(packets);
            self.gauge.prober.traffic(false, now);
        }
    }

    /// When it has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.asked.as_ref().map(|_| self.gauge.prober.poll_timeout())
    }
}

/// What is asked with.
pub fn asking(EchoSpec { source, targets, identifier }: &EchoSpec, secret: u64) -> Echo {
    Echo::new(*source, targets, *identifier, secret)
}
