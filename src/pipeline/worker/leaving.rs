//! Leaving: into a tunnel, to a device, or to the worker that has the tunnel; and what is refused, counted and answered.

use super::{Arrival, Exit, Refusal, Worker};
use crate::model::{ClassId, DropReason, Instant, NextHop, Now, PathId, Protocol, Remediation, Zone};
use crate::path::{self, Candidate};
use crate::pipeline::paths::Path;
use crate::tunnel::{Endpoint, Sealed, buffer_for};
use crate::wire::{self, Handover, IcmpError, Outbound, Parsed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// ICMP errors and resets of our own (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4f): as Linux does.
const ANSWERS_PER_SECOND: u64 = 1_000;
const ANSWER_BURST: u64 = 50;

/// The path that a packet is sent on, and the one that a copy goes by as well; as one of a class's.
#[derive(Clone, Copy)]
struct Onto {
    path: PathId,
    copy: Option<PathId>,
    class: ClassId,
}

impl Worker {
    // 5 Leave.

    /// Sends a packet that is ready; in fragments, if it is larger than `mtu`.
    pub(super) fn leave(
        &mut self,
        exit: Exit,
        packet: &mut [u8],
        parsed: &Parsed,
        mtu: u16,
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        let mut outcome = Ok(());
        let mut copy = None;
        if let Exit::Path(id, class) = exit {
            let remediation = self.generation.remediation(id, class);
            let is_protected = remediation != Remediation::None;
            let Some(path) = self.paths.get_mut(id) else {
                return self.leave_elsewhere((id, class), packet, parsed.segment, mtu, out);
            };
            if path.carries(path::dscp_of(packet), is_protected, now.instant) {
                self.paths.schedule(id);
            }
            if self.sees_inner {
                self.see_leaving(None, exit, packet, parsed);
            }
            if is_protected {
                copy = self.copies_onto(id, (class, path::dscp_of(packet)), remediation, now);
            }
        }
        match exit {
            Exit::Device(device) if parsed.segment > 0 => {
                wire::prepare(packet, parsed);
                out.push_super(device, packet, parsed);
            }
            Exit::Path(path, class) if parsed.segment > 0 => {
                let to = Onto { path, copy, class };
                let mut segment = std::mem::take(&mut self.segment);
                // It fails where packets wait for a session and there is no room: the rest would find none either.
                wire::split(packet, parsed, &mut segment, |segment| {
                    outcome = outcome.and_then(|()| self.seal_fitting(to, segment, mtu, now, out));
                });
                self.segment = segment;
            }
            Exit::Device(_) if packet.len() > usize::from(mtu) => {
                wire::fragment(packet, parsed, mtu, |fragment| {
                    outcome = outcome.and_then(|()| self.put(exit, fragment, now, out));
                });
            }
            Exit::Device(device) => out.push_segment(device, packet, parsed),
            Exit::Path(path, class) => {
                return self.seal_fitting(Onto { path, copy, class }, packet, mtu, now, out);
            }
        }
        outcome
    }

    /// The path is another worker's: that one does the rest.
    fn leave_elsewhere(
        &self,
        (path, class): (PathId, ClassId),
        packet: &[u8],
        segment: u16,
        mtu: u16,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        let spec = self.generation.paths.get(path).ok_or(DropReason::NoPath)?;
        let owner = self.team.worker_of(spec.site);
        if owner == self.id {
            return Err(DropReason::NoPath);
        }
        out.hand_over(owner, Handover::Leaving { path, class, mtu, segment }, packet);
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        exit: Exit,
        packet: &[u8],
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        match exit {
            Exit::Device(device) => {
                out.push_packet(device, packet);
                Ok(())
            }
            Exit::Path(path, class) if self.paths.get(path).is_none() => {
                self.leave_elsewhere((path, class), packet, 0, u16::MAX, out)
            }
            Exit::Path(path, class) => self.send_on(path, class, packet, now, out),
        }
    }

    /// The path that a flow's packets go by as well as by `first`, if they are to: the best other one whose far end knows a copy
    /// when it sees one.
    fn copies_onto(
        &mut self,
        first: PathId,
        (class, dscp): (ClassId, u8),
        remediation: Remediation,
        now: Now,
    ) -> Option<PathId> {
        let path = self.paths.get(first)?;
        if !path.probed || remediation == Remediation::DuplicateOnSuspect && !path.gauge.prober.is_suspect() {
            return None;
        }
        let order = self.generation.tenants.get(path.spec.tenant)?.sites.get(path.spec.site)?.order(class);
        let is = |id: PathId, wanted| {
            let fits = |path: &Path| path.probed && path.tunnel.has_session() && path.fitness() == wanted;
            id != first && self.paths.get(id).is_some_and(fits)
        };
        let second = [Candidate::Up, Candidate::Recovering]
            .into_iter()
            .find_map(|wanted| order.iter().copied().find(|id| is(*id, wanted)))?;
        if self.paths.get_mut(second).is_some_and(|path| path.carries(dscp, true, now.instant)) {
            self.paths.schedule(second);
        }
        Some(second)
    }

    /// Seals a packet, and its copy if there is to be one; in fragments, if it is larger than `mtu`.
    fn seal_fitting(
        &mut self,
        to: Onto,
        packet: &[u8],
        mtu: u16,
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        if packet.len() <= usize::from(mtu) {
            return self.seal_copies(to, packet, now, out);
        }
        let parsed = wire::parse_ip(packet)?;
        let mut outcome = Ok(());
        wire::fragment(packet, &parsed, mtu, |fragment| {
            outcome = outcome.and_then(|()| self.seal_copies(to, fragment, now, out));
        });
        outcome
    }

    /// Seals a packet into one path; or into two, told to be the same: then it is lost only if neither takes it.
    fn seal_copies(
        &mut self,
        Onto { path: first, copy: second, class }: Onto,
        packet: &[u8],
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        let Some(second) = second else { return self.send_on(first, class, packet, now, out) };
        let site = self.paths.get(first).ok_or(DropReason::NoPath)?.spec.site;
        let mut copy = std::mem::take(&mut self.copy);
        self.copies(site).numbering.wrap(packet, &mut copy);
        let outcomes = [first, second].map(|path| self.send_on(path, class, &copy, now, out));
        self.copy = copy;
        if outcomes[1].is_ok()
            && let Some(path) = self.paths.get_mut(second)
        {
            path.duplicated += 1;
        }
        outcomes[0].or(outcomes[1])
    }

    /// Seals `packet` into the path's tunnel, whose datagram carries its DSCP, or has it wait for a session there.
    pub(super) fn seal_into(
        &mut self,
        id: PathId,
        packet: &[u8],
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        let path = self.paths.get_mut(id).ok_or(DropReason::NoPath)?;
        let Endpoint { transport, address } = path.tunnel.endpoint().ok_or(DropReason::NoPath)?;
        let (tenant, before) = (path.spec.tenant, out.datagrams().len());
        let dscp = path::dscp_of(packet);
        let sealed = out.write_marked(transport, address, dscp, buffer_for(packet.len()), |room| match path
            .tunnel
            .seal(packet, room)
        {
            Sealed::Datagram(len) => {
                path.sent.count(packet.len());
                if let Some(by_dscp) = &mut path.by_dscp {
                    by_dscp.sent(dscp);
                }
                (Some(len), Ok(()))
            }
            Sealed::Waiting(handshake) => (handshake, Ok(())),
            Sealed::QueueFull => (None, Err(DropReason::TunnelQueueFull)),
        });
        if self.sees_outer {
            self.see_sent(tenant, before, out);
        }
        sealed
    }

    /// Counts a packet that goes no further, and answers it where its sender should know.
    pub(super) fn settle(
        &mut self,
        refusal: Refusal,
        arrival: Arrival,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) {
        self.drops.count(refusal.tenant, refusal.reason, parsed.on_the_wire(packet).0);
        let error = match refusal.reason {
            DropReason::TtlExpired => IcmpError::TimeExceeded,
            DropReason::TooBig => IcmpError::TooBig { mtu: refusal.mtu },
            DropReason::AclRejected(_) | DropReason::NotAnswered => IcmpError::Prohibited,
            // RFC 7915 sections 4.4 and 5.4.
            DropReason::Untranslatable if !parsed.protocol.is_icmp() => IcmpError::Prohibited,
            DropReason::NoRoute | DropReason::Nat64Refused if arrival.tenant.is_some() => IcmpError::NoRoute,
            _ => return,
        };
        if !wire::may_answer(parsed) || !self.answers.take(now.instant) {
            return;
        }
        let reset = matches!(error, IcmpError::Prohibited).then(|| wire::tcp_reset(packet, parsed)).flatten();
        let answer = match reset {
            Some(reset) => reset,
            None if parsed.protocol == Protocol::TCP && matches!(error, IcmpError::Prohibited) => return,
            None => wire::icmp_error(packet, parsed, error, self.answer_source(arrival, packet, parsed)),
        };
        let exit = match (arrival.path, arrival.hop) {
            (Some(path), _) => Exit::Path(path, ClassId::NONE),
            (None, NextHop::Device(device)) => Exit::Device(device),
            (None, NextHop::Tunnel(_)) => return,
        };
        if self.sees_inner
            && let Ok(parsed) = wire::parse_ip(&answer)
        {
            self.see_leaving(arrival.tenant.or(refusal.tenant), exit, &answer, &parsed);
        }
        if let Err(reason) = self.put(exit, &answer, now, out) {
            self.drops.count(refusal.tenant, reason, 1);
        }
    }

    /// Towards the internet an error comes from the address that was called: the dummy address tenants see means nothing
    /// out there.
    fn answer_source(&self, arrival: Arrival, packet: &[u8], parsed: &Parsed) -> (Ipv4Addr, Ipv6Addr) {
        let mut source = (self.generation.icmp_source.v4, self.generation.icmp_source.v6);
        if arrival.zone == Zone::INTERNET {
            match parsed.destination(packet) {
                IpAddr::V4(v4) => source.0 = v4,
                IpAddr::V6(v6) => source.1 = v6,
            }
        }
        source
    }
}

/// Bounds what strangers can make us send.
pub(super) struct TokenBucket {
    tokens: u64,
    filled: Instant,
}

impl TokenBucket {
    /// A bucket that is full.
    pub(super) fn full(now: Instant) -> TokenBucket {
        TokenBucket { tokens: ANSWER_BURST, filled: now }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        const EACH: Duration = Duration::from_nanos(1_000_000_000 / ANSWERS_PER_SECOND);
        let earned = now.since(self.filled).as_nanos() / EACH.as_nanos();
        if earned >= u128::from(ANSWER_BURST) {
            *self = TokenBucket { tokens: ANSWER_BURST, filled: now };
        } else {
            self.tokens = (self.tokens + earned as u64).min(ANSWER_BURST);
            self.filled += EACH * earned as u32;
        }
        let has = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        has
    }
}
