//! Canaries: what must stay reachable from a branch's side. 1 asked, each is sent a probe: a packet as one of the branch's hosts
//! would send it, which takes the slow path and runs its plan; 2 its answer is taken where it would go on to the branch, or
//! 3 does not come in time. Either way the session of the probe is forgotten: it leaves no record, and no binding.

use super::{Arrival, Refusal, Worker};
use crate::config::{Canary, CanaryKind};
use crate::flow::{EndReason, SessionRef};
use crate::model::{Direction, FlowKey, Instant, NextHop, Now, Protocol, TenantId, Zone};
use crate::pipeline::report::CanaryRow;
use crate::tables::Tenant;
use crate::wire::{self, Outbound, Parsed, Upper, tcp_flags};
use rand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// 900 ms: less than the second after which a probe's session could be reported, or end, at the soonest.
const PATIENCE: Duration = Duration::from_millis(900);

/// 8: that a host of the branch's uses the identifier or port that is drawn is rare enough for one.
const DRAWS: usize = 8;

/// From where clients call (RFC 6335 section 6).
const FIRST_PORT: u16 = 49_152;

/// What a worker knows of canaries whose probes it sends.
#[derive(Default)]
pub(crate) struct Canaries {
    known: BTreeMap<(TenantId, String), Standing>,
    /// When the first probe is given up; later than that at the latest.
    next: Option<Instant>,
}

#[derive(Default)]
struct Standing {
    /// Whether the last probe was answered that is not under way any more.
    answers: bool,
    probe: Option<Probe>,
}

/// A probe under way.
struct Probe {
    at: SessionRef,
    /// The session's own number: its place may be another's by now.
    session: u64,
    give_up: Instant,
}

impl Canaries {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

impl Worker {
    // 1 Asked.

    /// Sends a probe to each canary that has none under way.
    pub fn probe_canaries(&mut self, now: Now, out: &mut Outbound) {
        let generation = Arc::clone(&self.generation);
        for (tenant, tables) in generation.tenants.iter() {
            for canary in &tables.canaries {
                let name = (tenant, canary.name.clone());
                let is_free = self.canaries.known.get(&name).is_none_or(|it| it.probe.is_none());
                let Some(hop) = tables.owners.lookup(canary.source).and_then(|end| tables.next_hop(end))
                else {
                    continue;
                };
                if !is_free || !self.has_sessions_of(tenant, canary) {
                    continue;
                }
                let probe = self.send_probe((tenant, hop), canary, now, out);
                let standing = self.canaries.known.entry(name).or_default();
                standing.answers &= probe.is_some();
                standing.probe = probe;
            }
        }
        self.canaries.next = self.next_to_give_up();
        out.finish();
    }

    /// Whether the session of a canary's probe would be this worker's.
    fn has_sessions_of(&self, tenant: TenantId, canary: &Canary) -> bool {
        let zone = Zone::tenant(tenant);
        let key = FlowKey::new(zone, Protocol::TCP, (canary.source, 0), (canary.target, 0));
        self.team.owner(&key, &self.generation).unwrap_or_default() == self.id
    }

    /// `None` if it goes nowhere.
    fn send_probe(
        &mut self,
        (tenant, hop): (TenantId, NextHop),
        canary: &Canary,
        now: Now,
        out: &mut Outbound,
    ) -> Option<Probe> {
        let zone = Zone::tenant(tenant);
        // By none of its paths: whichever is the best for its answer would be.
        let arrival = Arrival { zone, tenant: Some(tenant), hop, path: None, handed_over: false };
        let (mut packet, mut parsed, key) = (0..DRAWS).find_map(|_| {
            let packet = self.first_packet(canary)?;
            let parsed = wire::parse(&packet).ok()?;
            let key = parsed.key(&packet, zone)?;
            self.sessions.lookup(&key).is_none().then_some((packet, parsed, key))
        })?;
        let admitted = self.admit(arrival, &key, &packet, &parsed, now);
        let sent = admitted.and_then(|at| {
            if let Some(session) = self.sessions.get_mut(at) {
                session.set_canary();
            }
            let outcome = self.run_plan(at, Direction::Forward, arrival, &mut packet, &mut parsed, now, out);
            if outcome.is_err() {
                self.forget_session(at, EndReason::ForcedEnd, now);
            }
            outcome.map(|()| at)
        });
        match sent {
            Ok(at) => {
                let session = self.sessions.get(at)?.id;
                Some(Probe { at, session, give_up: now.instant + PATIENCE })
            }
            Err(Refusal { tenant, reason, .. }) => {
                self.drops.count(tenant, reason, 1);
                None
            }
        }
    }

    /// What a host would begin with.
    fn first_packet(&mut self, canary: &Canary) -> Option<Vec<u8>> {
        let Canary { source, target, .. } = *canary;
        match canary.kind {
            CanaryKind::Ping => wire::echo_request(source, target, (self.rng.random(), 1), b"popgate canary"),
            CanaryKind::Tcp(port) => {
                let from = (source, self.rng.random_range(FIRST_PORT..=u16::MAX));
                let numbers = (self.rng.random(), 0);
                wire::tcp_segment(from, (target, port), numbers, tcp_flags::SYN, &[], &[])
            }
        }
    }

    // 2 Answered.

    /// Takes what comes back to a probe. Anything but the answer that is meant leaves it unanswered.
    #[cold]
    pub(super) fn take_canary(
        &mut self,
        at: SessionRef,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) {
        const ACCEPTED: u8 = tcp_flags::SYN | tcp_flags::ACK;
        let is_answer = match parsed.upper {
            Upper::EchoReply { .. } => true,
            Upper::Tcp { flags, .. } => flags & (ACCEPTED | tcp_flags::RST) == ACCEPTED,
            _ => false,
        };
        let Some(session) = self.sessions.get(at).filter(|_| is_answer).map(|session| session.id) else {
            return;
        };
        self.hang_up(at, packet, parsed, now, out);
        self.forget_session(at, EndReason::ForcedEnd, now);
        let of_session = |probe: &mut Probe| probe.session == session;
        for standing in self.canaries.known.values_mut() {
            if standing.probe.take_if(of_session).is_some() {
                standing.answers = true;
            }
        }
        self.canaries.next = self.next_to_give_up();
    }

    /// Whoever has accepted a connection is told that there is none.
    fn hang_up(&mut self, at: SessionRef, packet: &[u8], parsed: &Parsed, now: Now, out: &mut Outbound) {
        let Some(session) = self.sessions.get(at) else { return };
        let (key, hop, tenant) =
            (*session.key(Direction::Forward), session.from(Direction::Forward), session.tenant);
        let (from, to) = ((key.source(), key.source_port), (key.destination(), key.destination_port));
        let Some(next) = parsed.tcp_segment(packet).map(|segment| segment.acknowledgment) else { return };
        let Some(mut reset) = wire::tcp_segment(from, to, (next, 0), tcp_flags::RST, &[], &[]) else {
            return;
        };
        let Ok(mut parsed) = wire::parse(&reset) else { return };
        let arrival = Arrival { zone: key.zone, tenant: Some(tenant), hop, path: None, handed_over: false };
        if let Err(Refusal { tenant, reason, .. }) =
            self.run_plan(at, Direction::Forward, arrival, &mut reset, &mut parsed, now, out)
        {
            self.drops.count(tenant, reason, 1);
        }
    }

    // 3 Not answered.

    /// Gives up the probes that have waited for long enough.
    pub(super) fn give_up_canaries(&mut self, now: Now) {
        if self.canaries.next.is_none_or(|next| next > now.instant) {
            return;
        }
        let overdue = |standing: &mut Standing| {
            let probe = standing.probe.take_if(|probe| probe.give_up <= now.instant)?;
            standing.answers = false;
            Some(probe)
        };
        self.end_probes(overdue, now);
    }

    /// Gives up all probes that are under way: the policy that they are sent by is about to be another, so that it says nothing
    /// whether they are answered.
    pub(super) fn withdraw_canaries(&mut self, now: Now) {
        self.end_probes(|standing| standing.probe.take(), now);
    }

    fn end_probes(&mut self, take: impl FnMut(&mut Standing) -> Option<Probe>, now: Now) {
        let ended: Vec<Probe> = self.canaries.known.values_mut().filter_map(take).collect();
        for Probe { at, session, .. } in ended {
            if self.sessions.get(at).is_some_and(|there| there.id == session) {
                self.forget_session(at, EndReason::ForcedEnd, now);
            }
        }
        self.canaries.next = self.next_to_give_up();
    }

    fn next_to_give_up(&self) -> Option<Instant> {
        let probes = self.canaries.known.values().filter_map(|standing| standing.probe.as_ref());
        probes.map(|probe| probe.give_up).min()
    }

    /// How those stand whose probes it sends.
    pub(in crate::pipeline) fn canary_rows(&self) -> Vec<CanaryRow> {
        let of_tenant = |(tenant, tables): (TenantId, &Tenant)| {
            let mine = tables.canaries.iter().filter(move |canary| self.has_sessions_of(tenant, canary));
            let rows = mine.map(move |canary| {
                let standing = self.canaries.known.get(&(tenant, canary.name.clone()));
                CanaryRow {
                    tenant: self.generation.names.tenant(tenant).to_owned(),
                    canary: canary.name.clone(),
                    target: match canary.kind {
                        CanaryKind::Ping => canary.target.to_string(),
                        CanaryKind::Tcp(port) => SocketAddr::new(canary.target, port).to_string(),
                    },
                    answers: standing.is_some_and(|it| it.answers),
                    under_way: standing.is_some_and(|it| it.probe.is_some()),
                }
            });
            rows.collect::<Vec<_>>()
        };
        self.generation.tenants.iter().flat_map(of_tenant).collect()
    }
}
