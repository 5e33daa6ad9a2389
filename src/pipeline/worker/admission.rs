//! The slow path: a flow's first packet, and a session whose plan is stale.

use super::{Arrival, Refusal, Worker};
use crate::config::NatFiltering;
use crate::flow::{Binding, EndReason, InsertError, Plan, Session, SessionRef, TcpState, Translation};
use crate::model::{
    ClassId, Direction, DropReason, End, FlowKey, HandoffId, Named, NextHop, Now, SiteId, TenantId, Zone,
};
use crate::pipeline::decide::{Decision, Observer, Question, Way, decide};
use crate::pipeline::nat::Applicant;
use crate::pipeline::team::session_share;
use crate::tables::{AclRule, Called, Crossing, Generation, NatVerdict, Pool, Subject};
use crate::wire::{Parsed, Upper};
use std::net::IpAddr;
use std::sync::Arc;

/// Who is called.
struct Call {
    tenant: TenantId,
    whom: Whom,
}

enum Whom {
    /// Whoever has the address that the packet is sent to.
    Itself,
    /// The host that stands behind it.
    Host((IpAddr, u16)),
    /// The host it is bound to, which knows the caller by this address.
    Bound(Binding, IpAddr),
}

/// Keeps the rules that decided: the tenant's, and where the session crosses into another, that one's.
struct Deciding<'a> {
    tenant: TenantId,
    rule: Option<&'a AclRule>,
    /// Those that log: whose, what they were asked about, and who owns its ends.
    logs: Vec<(TenantId, &'a AclRule, FlowKey, [End; 2])>,
}

impl<'a> Observer<'a> for Deciding<'a> {
    fn rule(&mut self, subject: &Subject<'_>, _class: ClassId, rule: Option<&'a AclRule>) {
        self.rule = rule;
        if let Some(rule) = rule.filter(|rule| rule.log) {
            let ends = [subject.source_end, subject.destination_end];
            self.logs.push((self.tenant, rule, subject.key(Zone::tenant(self.tenant)), ends));
        }
    }

    fn crosses(&mut self, crossing: &Crossing) {
        self.tenant = crossing.publisher;
    }
}

/// What policy says to a call.
struct Planned {
    /// The key of its answers.
    reverse: FlowKey,
    plan: Plan,
    translation: Translation,
    /// A name could give it another class.
    may_change: bool,
}

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
        if self.has_to_leave(at, direction) {
            // It goes on as another, with another address: who is called may not know it any more, but says so.
            self.end_session(at, EndReason::ForcedEnd, now);
            return Ok(None);
        }
        Ok(Some((at, direction)))
    }

    /// Where the policy has changed since the session was planned, it is decided on again, and keeps its NAT binding where
    /// that is still permitted. Where it is not, the session ends.
    pub(super) fn bring_up_to_date(&mut self, at: SessionRef, now: Now) -> Result<(), Refusal> {
        match self.sessions.get(at) {
            Some(session) if session.is_stale(self.generation.number) => {
                let plan = self.plan_again(session, Self::may_keep_binding);
                self.settle_plan(at, plan, now)
            }
            _ => Ok(()),
        }
    }

    /// The session's name has become known: it is decided on again. Its NAT binding stays, even where the class that it has
    /// now would have led to another pool.
    pub(super) fn plan_by_name(&mut self, at: SessionRef, now: Now) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(at) else { return Ok(()) };
        let plan = self.plan_again(session, |_, _, _| true);
        self.settle_plan(at, plan, now)
    }

    fn settle_plan(
        &mut self,
        at: SessionRef,
        plan: Result<Plan, DropReason>,
        now: Now,
    ) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(at) else { return Ok(()) };
        match plan {
            Ok(plan) => {
                self.sessions.set_plan(at, &plan);
                Ok(())
            }
            Err(reason) => {
                let tenant = session.tenant;
                self.deny(at, reason, now);
                Err(Refusal::new(Some(tenant), reason))
            }
        }
    }

    fn plan_again(
        &self,
        session: &Session,
        may_keep_binding: impl FnOnce(&Worker, &Session, &Decision<'_>) -> bool,
    ) -> Result<Plan, DropReason> {
        let decision = self.decide_again(session, self.names.get(session.id))?;
        let begins = begins(session);
        let answer = session.key(begins.opposite());
        // The answers will come from another zone than the one they are known in, or from another address.
        if self.far_zone(&decision, session.tenant) != Some(answer.zone)
            || (session.key(begins).changes_family(answer) && decision.asked.destination() != answer.source())
            || !may_keep_binding(self, session, &decision)
        {
            return Err(DropReason::NatBindingRevoked);
        }
        match begins {
            Direction::Forward => Ok(decision.plan),
            Direction::Reverse => Ok(decision.plan.turned_round()),
        }
    }

    fn decide_again(&self, session: &Session, named: Option<&Named>) -> Result<Decision<'_>, DropReason> {
        let tenant = self.generation.tenants.get(session.tenant).ok_or(DropReason::NoRoute)?;
        let begins = begins(session);
        let (key, from) = (session.key(begins), session.from(begins));
        let whom = self.whom(key, session.key(begins.opposite()))?;
        let asked = FlowKey::new(key.zone, key.protocol, (key.source(), key.source_port), whom);
        let way = Way::Kept(session.to(begins));
        let (key, dscp) = (&asked, session.dscp);
        let question = Question { key, dscp, arrives_from: from, named, way };
        decide(&self.generation, tenant, &question, &mut ())
    }

    /// Whom a session's packets go to by policy: where the internet calls one by another address than its own, that must still
    /// be so.
    fn whom(&self, key: &FlowKey, answer: &FlowKey) -> Result<(IpAddr, u16), DropReason> {
        let called = (key.destination(), key.destination_port);
        if key.zone != Zone::INTERNET {
            return Ok(called);
        }
        let host = (answer.source(), answer.source_port);
        if !key.goes_where(answer) {
            let called = self.generation.called(key.protocol, called);
            if !matches!(called, Some(Called::Host { host: now, .. }) if now == host) {
                return Err(DropReason::NatBindingRevoked);
            }
        }
        Ok(host)
    }

    /// Whether policy would give the session what it has. One that was named later had no name when it was translated.
    fn may_keep_binding(&self, session: &Session, decision: &Decision<'_>) -> bool {
        let begins = begins(session);
        let (key, answer) = (session.key(begins), session.key(begins.opposite()));
        let may_be = |verdict: &NatVerdict<'_>| match (session.binding(), verdict) {
            (None, NatVerdict::Untranslated) => key.comes_from_where(answer),
            (None, NatVerdict::Map(outside)) => *outside == answer.destination(),
            (None, NatVerdict::Cross(crossing)) => {
                (crossing.source, crossing.host) == (answer.destination(), answer.source())
            }
            (Some(binding), verdict) => permits(verdict, &decision.plan, &binding),
            _ => false,
        };
        may_be(&decision.nat)
            || self.names.get(session.id).is_some()
                && self.decide_again(session, None).is_ok_and(|unnamed| may_be(&unnamed.nat))
    }

    /// The slow path: a flow's first packet.
    pub(super) fn admit(
        &mut self,
        arrival: Arrival,
        key: &FlowKey,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
    ) -> Result<SessionRef, Refusal> {
        let call = match arrival.tenant {
            Some(tenant) => {
                let bound = self.called_from_beyond(tenant, key);
                Call { tenant, whom: bound.unwrap_or(Whom::Itself) }
            }
            None => self.called_from_internet(key)?,
        };
        let refuse = |reason| Refusal::new(Some(call.tenant), reason);
        let tcp = match parsed.tcp_segment(packet) {
            Some(segment) => {
                let state = TcpState::first(segment.flags);
                // From outside nothing but a call begins a session: its middle may be anything.
                let is_bound = matches!(call.whom, Whom::Bound(..));
                let begins = state.filter(|state| !is_bound || *state == TcpState::SynSent);
                Some((begins.ok_or_else(|| refuse(DropReason::NoSession))?, segment))
            }
            None if matches!(parsed.upper, Upper::EchoReply { .. }) => {
                return Err(refuse(DropReason::NoSession));
            }
            None => None,
        };
        // Who calls a host of the tenant's is nobody that DNS knows.
        let is_call_out = matches!(call.whom, Whom::Itself);
        let named = if is_call_out { self.name_by_dns(call.tenant, key, now) } else { None };
        let Planned { reverse, plan, translation, may_change } =
            self.plan_call(&call, key, parsed.dscp, arrival.hop, named.as_ref(), now).map_err(refuse)?;
        let keys = [*key, reverse];
        let session = Session::new(call.tenant, keys, plan, translation, tcp, parsed.dscp, now.instant);
        if self.sessions.len() >= self.sessions.allowed() {
            let granted = self.team.grant_sessions(self.generation.max_sessions);
            self.sessions.allow(self.sessions.allowed() + granted);
        }
        let at = self.sessions.insert(session).map_err(|error| match error {
            InsertError::Full => refuse(DropReason::SessionTableFull),
            // Its answers are another session's already.
            InsertError::Taken => refuse(DropReason::SessionConflict),
        })?;
        if named.is_some() || may_change {
            self.begin_naming(at, named, may_change, now);
        }
        Ok(at)
    }

    /// Whom a packet from the internet calls: a tenant's own prefix, or what a pool has bound to a host and filtering lets
    /// the caller reach.
    fn called_from_internet(&self, key: &FlowKey) -> Result<Call, Refusal> {
        let sent_to = (key.destination(), key.destination_port);
        match self.generation.called(key.protocol, sent_to) {
            None => Err(Refusal::new(None, DropReason::NoRoute)),
            Some(Called::Host { tenant, host }) if host == sent_to => Ok(Call { tenant, whom: Whom::Itself }),
            Some(Called::Host { tenant, host }) => Ok(Call { tenant, whom: Whom::Host(host) }),
            Some(Called::Pool { tenant, handoff, .. }) => {
                let lost = Refusal::new(Some(tenant), DropReason::NoSession);
                Ok(Call { tenant, whom: self.bound_and_open(tenant, handoff, key).ok_or(lost)? })
            }
        }
    }

    /// The host at a branch that a packet out of the tunnels calls, if the PoP that translates for it has let the caller in.
    fn called_from_beyond(&self, tenant: TenantId, key: &FlowKey) -> Option<Whom> {
        match self.generation.tenants.get(tenant)?.owners.lookup(key.source())? {
            End::Handoff(handoff) => self.bound_and_open(tenant, handoff, key),
            _ => None,
        }
    }

    /// What the packet's destination is bound to, if filtering lets its source in (RFC 4787 section 5).
    fn bound_and_open(&self, tenant: TenantId, handoff: HandoffId, key: &FlowKey) -> Option<Whom> {
        let outside = (key.destination(), key.destination_port);
        let (at, binding) = self.sessions.bound_from(key.zone, key.protocol, outside)?;
        let tenant = self.generation.tenants.get(tenant)?;
        let caller = match (key.source(), binding.inside.0) {
            (IpAddr::V4(v4), IpAddr::V6(_)) => IpAddr::V6(tenant.nat64(handoff)?.embed(v4)),
            (caller, _) => caller,
        };
        let passes = match tenant.filtering(handoff)? {
            NatFiltering::EndpointIndependent => true,
            NatFiltering::AddressDependent => self.sessions.talks_to(at, key.source()),
            NatFiltering::AddressAndPortDependent => false,
        };
        passes.then_some(Whom::Bound(binding, caller))
    }

    /// What policy says to a call whose far end is `named`, as far as one knows.
    fn plan_call(
        &mut self,
        call: &Call,
        key: &FlowKey,
        dscp: u8,
        from: NextHop,
        named: Option<&Named>,
        now: Now,
    ) -> Result<Planned, DropReason> {
        let (generation, team) = (Arc::clone(&self.generation), Arc::clone(&self.team));
        let tenant = generation.tenants.get(call.tenant).ok_or(DropReason::NoRoute)?;
        // It is asked where there is a way straight out, and thus one site.
        let site = tenant.breakout.as_ref().and_then(|breakout| tenant.sites.get(breakout.site));
        let fitness = |path, class| team.standing(path).fitness_for(site.and_then(|site| site.sla(class)));
        let question = Question { key, dscp, arrives_from: from, named, way: Way::Best(&fitness) };
        if let Whom::Bound(binding, caller) = call.whom {
            // The host has a binding, so it was let out; whether the caller may talk to it is asked as if the host had begun.
            let protocol = binding.protocol.with(caller);
            let answer = FlowKey::new(binding.zone, protocol, binding.inside, (caller, key.source_port));
            let host = tenant.owners.lookup(binding.inside.0).and_then(|end| tenant.next_hop(end));
            let host = host.ok_or(DropReason::NoRoute)?;
            // By the way that the caller comes.
            let way = Way::Kept(from);
            let question = Question { key: &answer, arrives_from: host, way, ..question };
            let decision = self.decide_and_log(&generation, call.tenant, &question, now)?;
            if decision.plan.hops[1] != from {
                return Err(DropReason::SourceNotAllowed);
            }
            return match decision.nat {
                verdict if permits(&verdict, &decision.plan, &binding) => Ok(Planned {
                    reverse: answer,
                    plan: decision.plan.turned_round(),
                    translation: Translation::Destination,
                    may_change: false,
                }),
                _ => Err(DropReason::NatBindingRevoked),
            };
        }
        if let Whom::Host(host) = call.whom {
            let caller = (key.source(), key.source_port);
            let called = FlowKey::new(key.zone, key.protocol, caller, host);
            let question = Question { key: &called, ..question };
            let Decision { plan, .. } = self.decide_and_log(&generation, call.tenant, &question, now)?;
            let zone = self.zone_of(plan.hops[1], call.tenant).ok_or(DropReason::DeviceDown)?;
            let reverse = called.turned_round(zone);
            return Ok(Planned { reverse, plan, translation: Translation::Fixed, may_change: false });
        }
        let decision = self.decide_and_log(&generation, call.tenant, &question, now)?;
        let far_zone = self.far_zone(&decision, call.tenant).ok_or(DropReason::DeviceDown)?;
        let Decision { plan, asked, nat, may_change } = decision;
        let answered_by = (asked.destination(), key.destination_port);
        let (reverse, translation) = match nat {
            NatVerdict::Translate(pool) => {
                let outside = self.bind(pool, call.tenant, branch_of(&plan), &asked, now)?;
                (FlowKey::new(far_zone, asked.protocol, answered_by, outside), Translation::Source)
            }
            NatVerdict::Map(outside) => {
                let outside = (outside, key.source_port);
                (FlowKey::new(far_zone, key.protocol, answered_by, outside), Translation::Fixed)
            }
            NatVerdict::Cross(crossing) => {
                let answered_by = (crossing.host, key.destination_port);
                let known_as = (crossing.source, key.source_port);
                (FlowKey::new(far_zone, key.protocol, answered_by, known_as), Translation::Fixed)
            }
            NatVerdict::Beyond(_) => (key.turned_round(far_zone), Translation::Beyond),
            _ => (key.turned_round(far_zone), Translation::None),
        };
        Ok(Planned { reverse, plan, translation, may_change })
    }

    /// Decides, and tells of it if the rule that decided has `log`. What is accepted must also be within the tenant's and the
    /// branch's limits.
    fn decide_and_log<'a>(
        &mut self,
        generation: &'a Generation,
        tenant: TenantId,
        question: &Question<'_>,
        now: Now,
    ) -> Result<Decision<'a>, DropReason> {
        let mut deciding = Deciding { tenant, rule: None, logs: Vec::new() };
        let tables = generation.tenants.get(tenant).ok_or(DropReason::NoRoute)?;
        let decision = decide(generation, tables, question, &mut deciding);
        for (tenant, rule, key, ends) in deciding.logs {
            self.rules.decided(tenant, rule, &key, question.dscp, ends, now.instant);
        }
        let decision = decision?;
        let whose = (tenant, tables);
        self.quotas.admit(whose, &decision.plan, &self.sessions, &self.team, now.instant)?;
        if let (NatVerdict::Cross(_), Some(guest_rule)) = (&decision.nat, deciding.rule) {
            self.rules.began(guest_rule.id);
        }
        Ok(decision)
    }

    /// What the source is known by outside: what it is bound to already, or a new port of `pool`.
    fn bind(
        &mut self,
        pool: &Pool,
        tenant: TenantId,
        branch: Option<SiteId>,
        key: &FlowKey,
        now: Now,
    ) -> Result<(IpAddr, u16), DropReason> {
        let inside = (key.source(), key.source_port);
        let permits = |address, port| pool.permits(branch, address, port);
        if let Some(outside) = self.sessions.bound_to(key.zone, key.protocol, inside, permits) {
            return Ok(outside);
        }
        let applicant = Applicant { tenant, branch, key };
        let seat = (self.id, &*self.team);
        self.holdings.allocate(&mut self.sessions, pool, seat, &applicant, &mut self.rng, now.instant)
    }

    /// Gives back what it may have and does not need, for others.
    pub(super) fn return_sessions(&mut self) {
        let spare = self.sessions.allowed().saturating_sub(self.sessions.len());
        let keep = session_share(self.generation.max_sessions);
        if spare > keep {
            self.sessions.allow(self.sessions.len() + keep);
            self.team.return_sessions(spare - keep);
        }
        self.quotas.give_back(&self.generation, &self.sessions, &self.team);
    }

    /// The zone that the answers of a tenant's session come from.
    fn far_zone(&self, decision: &Decision<'_>, tenant: TenantId) -> Option<Zone> {
        match decision.nat {
            NatVerdict::Cross(crossing) => Some(Zone::tenant(crossing.publisher)),
            _ => self.zone_of(decision.plan.hops[1], tenant),
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

/// The direction that policy is asked about: whoever called, the inside's side of it.
fn begins(session: &Session) -> Direction {
    match session.translation {
        Translation::Destination => Direction::Reverse,
        _ => Direction::Forward,
    }
}

/// The branch that begins a session of this plan.
fn branch_of(plan: &Plan) -> Option<SiteId> {
    match plan.ends[0] {
        End::Site(site) => Some(site),
        End::Handoff(_) | End::Lan | End::Tenant(_) => None,
    }
}

/// Whether what policy says now leaves a host its binding.
fn permits(verdict: &NatVerdict<'_>, plan: &Plan, binding: &Binding) -> bool {
    match verdict {
        NatVerdict::Translate(pool) => pool.permits(branch_of(plan), binding.outside.0, binding.outside.1),
        NatVerdict::Beyond(_) => binding.inside == binding.outside,
        NatVerdict::Map(_) | NatVerdict::Cross(_) | NatVerdict::Untranslated | NatVerdict::Impossible(_) => {
            false
        }
    }
}
