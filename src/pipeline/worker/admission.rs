//! The slow path: a flow's first packet, and a session whose plan is stale.

use super::{Arrival, Refusal, Worker};
use crate::flow::{EndReason, InsertError, Session, SessionRef, TcpState};
use crate::model::{Direction, DropReason, FlowKey, NextHop, Now, TenantId, Zone};
use crate::pipeline::decide::decide;
use crate::pipeline::nat::allocate;
use crate::pipeline::team::session_share;
use crate::tables::NatVerdict;
use crate::wire::{Parsed, Upper};

impl Worker {
    /// The session of `key`, brought up to date with the generation; `None` if there is none (any more).
    pub(super) fn find(
        &mut self,
        key: &FlowKey,
        found: Option<(SessionRef, Direction)>,
        parsed: &Parsed,
        now: Now,
    ) -> Result<Option<(SessionRef, Direction)>, Refusal> {
        let still_there = found.filter(|(at, direction)| {
            self.sessions.get(*at).is_some_and(|session| session.key(*direction) == key)
        });
        let Some((at, direction)) = still_there.or_else(|| self.sessions.lookup(key)) else {
            return Ok(None);
        };
        let Some(session) = self.sessions.get(at) else { return Ok(None) };
        let flags = parsed.tcp_flags();
        let begins_anew =
            TcpState::first(flags) == Some(TcpState::SynSent) && session.tcp.is_some_and(TcpState::is_over);
        if begins_anew {
            // The same ports again, after both sides were done with them (RFC 9293 section 3.6.1).
            self.end_session(at, EndReason::EndOfFlow, now);
            return Ok(None);
        }
        self.bring_up_to_date(at, now)?;
        Ok(Some((at, direction)))
    }

    /// Where the policy has changed since the session was planned, it is decided on again, and keeps its NAT binding where
    /// that is still permitted. Where it is not, the session ends.
    pub(super) fn bring_up_to_date(&mut self, at: SessionRef, now: Now) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(at) else { return Ok(()) };
        if session.generation() == self.generation.number {
            return Ok(());
        }
        let (tenant_id, binding) = (session.tenant, session.binding());
        let answers_from = Some(session.key(Direction::Reverse).zone);
        let outcome = match self.generation.tenants.get(tenant_id) {
            None => Err(DropReason::NoRoute),
            Some(tenant) => decide(
                &self.generation,
                tenant,
                session.key(Direction::Forward),
                session.dscp,
                session.from(Direction::Forward),
            )
            .and_then(|decision| match (binding, &decision.nat) {
                // The answers will come from another zone than the one they are known in.
                _ if self.zone_of(decision.plan.hops[1], tenant_id) != answers_from => {
                    Err(DropReason::NatBindingRevoked)
                }
                (None, NatVerdict::Untranslated) => Ok(decision.plan),
                (Some((address, port)), NatVerdict::Translate(pool)) if pool.permits(address, port) => {
                    Ok(decision.plan)
                }
                _ => Err(DropReason::NatBindingRevoked),
            }),
        };
        match outcome {
            Ok(plan) => {
                if let Some(session) = self.sessions.get_mut(at) {
                    session.set_plan(&plan);
                }
                Ok(())
            }
            Err(reason) => {
                self.end_session(at, EndReason::ForcedEnd, now);
                Err(Refusal::new(Some(tenant_id), reason))
            }
        }
    }

    /// The slow path: a flow's first packet.
    pub(super) fn admit(
        &mut self,
        arrival: Arrival,
        key: &FlowKey,
        parsed: &Parsed,
        now: Now,
    ) -> Result<SessionRef, Refusal> {
        let generation = &self.generation;
        let (tenant_id, may_begin) = match arrival.tenant {
            Some(tenant) => (tenant, true),
            // From the internet: only a tenant's own prefixes can be called; a pool's addresses only answer.
            None => match generation.internet.lookup(key.destination()) {
                Some(prefix) => (prefix.tenant, prefix.routed),
                None => return Err(Refusal::new(None, DropReason::NoRoute)),
            },
        };
        let refuse = |reason| Refusal::new(Some(tenant_id), reason);
        let tenant = generation.tenants.get(tenant_id).ok_or_else(|| refuse(DropReason::NoRoute))?;
        let tcp = match parsed.upper {
            Upper::Tcp { flags, .. } => {
                Some(TcpState::first(flags).ok_or_else(|| refuse(DropReason::NoSession))?)
            }
            Upper::EchoReply { .. } => return Err(refuse(DropReason::NoSession)),
            _ if !may_begin => return Err(refuse(DropReason::NoSession)),
            _ => None,
        };
        if !may_begin {
            return Err(refuse(DropReason::NoSession));
        }
        let decision = decide(generation, tenant, key, parsed.dscp, arrival.hop).map_err(refuse)?;
        let far_zone = self.zone_of(decision.plan.hops[1], tenant_id);
        let far_zone = far_zone.ok_or_else(|| refuse(DropReason::DeviceDown))?;
        let reverse = match &decision.nat {
            NatVerdict::Translate(pool) => {
                let seat = (self.id, self.team.size());
                allocate(self.sessions.ports(), pool, seat, tenant_id, key, far_zone, &mut self.rng)
                    .ok_or_else(|| refuse(DropReason::NatPoolExhausted(pool.handoff)))?
            }
            _ => key.turned_round(far_zone),
        };
        let translated = matches!(decision.nat, NatVerdict::Translate(_));
        let keys = [*key, reverse];
        let session = Session::new(tenant_id, keys, decision.plan, translated, tcp, parsed.dscp, now.instant);
        if self.sessions.len() >= self.sessions.allowed() {
            let granted = self.team.grant_sessions(self.generation.max_sessions);
            self.sessions.allow(self.sessions.allowed() + granted);
        }
        self.sessions.insert(session).map_err(|error| match error {
            InsertError::Full => refuse(DropReason::SessionTableFull),
            // Its answers are another session's already.
            InsertError::Taken => refuse(DropReason::SessionConflict),
        })
    }

    /// Gives back what it may have and does not need, for others.
    pub(super) fn return_sessions(&mut self) {
        let spare = self.sessions.allowed().saturating_sub(self.sessions.len());
        let keep = session_share(self.generation.max_sessions);
        if spare > keep {
            self.sessions.allow(self.sessions.len() + keep);
            self.team.return_sessions(spare - keep);
        }
    }

    /// The zone that a tenant's packets are in when they come from `hop`.
    fn zone_of(&self, hop: NextHop, tenant: TenantId) -> Option<Zone> {
        match hop {
            NextHop::Device(device) => self.generation.device_zones.get(device).copied(),
            NextHop::Tunnel(_) => Some(Zone::tenant(tenant)),
        }
    }
}
