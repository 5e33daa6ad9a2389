//! Naming: what a flow's far end is called, and so which class it has. 1 DNS answers on their way to a tenant's host teach
//! which name an address has, and the tenant's other workers are told; 2 a flow that begins is called as its destination's
//! address is; 3 what it says itself at its beginning is better, and 4 has it planned anew at once.
//!
//! Only where it makes a difference: for tenants whose rules ask for names, and of their flows for those that a name could
//! give another class.

use super::{Arrival, Refusal, Worker};
use crate::flow::SessionRef;
use crate::model::{Direction, End, FlowKey, NameSource, Named, Now, Protocol, TenantId};
use crate::tables::Generation;
use crate::wire::{
    self, DNS_PORT, DnsResponse, Handover, Inspection, NamedBy, Outbound, Parsed, Progress, Upper,
};
use std::collections::BTreeMap;

/// Tenants that ask for names, with a bit for each worker that has sites of theirs.
pub(super) type Learners = BTreeMap<TenantId, u64>;

impl Worker {
    /// Looks at what a packet of a session says about names, before it is forwarded.
    ///
    /// # Errors
    /// What it is called by now may not be reached: the session has ended.
    #[expect(clippy::too_many_arguments, reason = "a packet of a session, and where it came from")]
    #[inline]
    pub(super) fn listen(
        &mut self,
        at: SessionRef,
        direction: Direction,
        arrival: Arrival,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), Refusal> {
        if is_dns(parsed, direction) {
            self.hear_dns(at, direction, arrival, packet, parsed, now, out);
        }
        match self.sessions.get(at) {
            Some(session) if session.is_inspected() && direction == Direction::Forward => {
                self.look_inside(at, arrival, packet, parsed, now)
            }
            _ => Ok(()),
        }
    }

    // 1 DNS.

    /// Says whom names are to be learned for.
    pub(super) fn find_learners(&self, generation: &Generation) -> Learners {
        let asking = generation.tenants.iter().filter(|(_, tenant)| tenant.classifier.asks_for_names());
        let workers = asking.map(|(id, tenant)| {
            let owners = tenant.sites.iter().map(|(site, _)| 1 << self.team.worker_of(site));
            (id, owners.fold(0, |all, one| all | one))
        });
        workers.collect()
    }

    #[expect(clippy::too_many_arguments, reason = "a packet of a session, and where it came from")]
    #[cold]
    fn hear_dns(
        &mut self,
        at: SessionRef,
        direction: Direction,
        arrival: Arrival,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) {
        let Some(session) = self.sessions.get(at) else { return };
        let (id, tenant) = (session.id, session.tenant);
        let Some(workers) = self.learners.get(&tenant).copied() else { return };
        let was_begun_inside = matches!(session.plan().ends[0], End::Site(_) | End::Lan);
        let resolver = session.key(Direction::Forward).destination();
        let teachers = self.generation.tenants.get(tenant).map_or(&[][..], |tenant| &tenant.dns_teachers);
        let may_teach = teachers.is_empty() || teachers.iter().any(|prefix| prefix.contains(resolver));
        // Whoever it seems to come from, it must come from that side.
        if !was_begun_inside || !may_teach || session.from(direction) != arrival.hop {
            return;
        }
        let others = workers & !(1 << self.id);
        for message in dns_messages(packet, parsed) {
            if direction == Direction::Forward {
                self.learned.asked(id, message);
            } else if self.learned.is_answered(id, message)
                && let Some(response) = DnsResponse::read(message)
                && self.learned.teach(tenant, &response, now.instant)
            {
                (0..self.team.size())
                    .filter(|worker| others & 1 << worker != 0)
                    .for_each(|worker| out.hand_over(worker, Handover::Taught { tenant }, message));
            }
        }
    }

    /// Another worker of the tenant's has heard an answer, and found it to be one.
    pub(super) fn take_taught(&mut self, tenant: TenantId, message: &[u8], now: Now) {
        if self.learners.contains_key(&tenant)
            && let Some(response) = DnsResponse::read(message)
        {
            self.learned.teach(tenant, &response, now.instant);
        }
    }

    // 2 A flow that begins.

    /// What a flow that begins is called, as far as one can know.
    pub(super) fn name_by_dns(&self, tenant: TenantId, key: &FlowKey, now: Now) -> Option<Named> {
        let name = self.learned.name(tenant, key.destination(), now.instant)?;
        Some(Named { name: name.clone(), by: NameSource::Dns })
    }

    /// Keeps the name that a session was classed by, and begins to look into it if it `may_change`.
    pub(super) fn begin_naming(&mut self, at: SessionRef, named: Option<Named>, may_change: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        if let Some(named) = named {
            self.names.insert(session.id, named);
        }
        let key = session.key(Direction::Forward);
        if may_change
            && let Some(inspection) = Inspection::new(key.protocol, key.destination_port)
            && self.inspections.begin(session.id, inspection, now.instant)
        {
            session.set_inspected(true);
        }
    }

    // 3 Its first bytes.

    #[cold]
    fn look_inside(
        &mut self,
        at: SessionRef,
        arrival: Arrival,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
    ) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        let id = session.id;
        if session.from(Direction::Forward) != arrival.hop {
            return Ok(());
        }
        let progress =
            self.inspections.get(id).map_or(Progress::Nothing, |inspection| feed(inspection, packet, parsed));
        if progress == Progress::More {
            return Ok(());
        }
        session.set_inspected(false);
        self.inspections.end(id);
        let Progress::Named { name, by } = progress else { return Ok(()) };
        let by = match by {
            NamedBy::TlsSni => NameSource::TlsSni,
            NamedBy::QuicSni => NameSource::QuicSni,
            NamedBy::HttpHost => NameSource::HttpHost,
        };
        // 4 Planned anew, with that.
        if self.names.insert(id, Named { name: name.as_str().into(), by }) {
            self.plan_by_name(at, now)?;
        }
        Ok(())
    }
}

/// Whether it is a question to a resolver, or an answer.
#[inline]
fn is_dns(parsed: &Parsed, direction: Direction) -> bool {
    match parsed.upper {
        Upper::Udp { source_port, destination_port } | Upper::Tcp { source_port, destination_port, .. } => {
            match direction {
                Direction::Forward => destination_port == DNS_PORT,
                Direction::Reverse => source_port == DNS_PORT,
            }
        }
        _ => false,
    }
}

/// The whole DNS messages in a packet.
fn dns_messages<'a>(packet: &'a [u8], parsed: &Parsed) -> impl Iterator<Item = &'a [u8]> {
    let payload = parsed.payload(packet);
    let (udp, tcp) = if parsed.protocol == Protocol::UDP { (payload, &[][..]) } else { (&[][..], payload) };
    datagrams(udp, parsed).chain(wire::dns_messages(tcp))
}

fn feed(inspection: &mut Inspection, packet: &[u8], parsed: &Parsed) -> Progress {
    let payload = parsed.payload(packet);
    let Upper::Tcp { flags, .. } = parsed.upper else {
        let mut progress = Progress::More;
        for datagram in datagrams(payload, parsed) {
            progress = inspection.feed_udp(datagram);
            if progress != Progress::More {
                break;
            }
        }
        return progress;
    };
    let Some(sequence) = packet.get(parsed.upper_at + 4..).and_then(<[u8]>::first_chunk) else {
        return Progress::More;
    };
    // A SYN stands before the first byte.
    let syn = u32::from(flags & wire::tcp_flags::SYN != 0);
    inspection.feed_tcp(u32::from_be_bytes(*sequence).wrapping_add(syn), payload)
}

/// The datagrams of a packet: several, if it is a super-packet.
fn datagrams<'a>(payload: &'a [u8], parsed: &Parsed) -> impl Iterator<Item = &'a [u8]> {
    payload.chunks(if parsed.segment > 0 { parsed.segment.into() } else { payload.len().max(1) })
}
