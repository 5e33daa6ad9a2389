//! What the PoP itself answers a host behind a tunnel: where it is ([`Whereabouts`]), at an address of the tenant's and by
//! a name that no resolver on the internet knows. Nothing is kept of it: every such packet takes the slow path, is checked to
//! come from whom it says, answered at once by the path that it came by, and forgotten.

use super::{Arrival, Exit, Refusal, Worker};
use crate::model::{ClassId, DropReason, End, FlowKey, Now, PathId, Protocol, SiteId, TenantId, WHEREABOUTS};
use crate::pipeline::nat::Applicant;
use crate::pipeline::whereabouts::{Whereabouts, respond};
use crate::tables::{NatVerdict, Subject, Tenant};
use crate::wire::{self, DNS_PORT, DnsQuestion, Heard, Outbound, Parsed};
use std::net::IpAddr;

const HTTP_PORT: u16 = 80;

/// 60 s: policy may change the address.
const NAME_TTL_SECS: u32 = 60;

impl Worker {
    /// Answers a packet that no session knows, if the PoP itself is asked; whether it was.
    ///
    /// # Errors
    /// The PoP is asked, and does not answer that.
    pub(super) fn answers_itself(
        &mut self,
        arrival: Arrival,
        key: &FlowKey,
        packet: &[u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) -> Result<bool, Refusal> {
        let (Some(id), Some(path)) = (arrival.tenant, arrival.path) else { return Ok(false) };
        let Some(tenant) = self.generation.tenants.get(id) else { return Ok(false) };
        let here = tenant.answers_at();
        let named = if key.destination_port == DNS_PORT { asks_for_us(packet, parsed) } else { None };
        let named = named.filter(|_| !here.is_empty());
        if !here.contains(&key.destination()) && named.is_none() {
            return Ok(false);
        }
        let refuse = |reason| Refusal::new(Some(id), reason);
        let branch = match tenant.owners.lookup(key.source()) {
            Some(end @ End::Site(branch)) if tenant.next_hop(end) == Some(arrival.hop) => branch,
            _ => return Err(refuse(DropReason::SourceNotAllowed)),
        };
        let answers = match named {
            Some(question) => {
                let answer = question.answer(here, NAME_TTL_SECS);
                wire::udp_back(packet, parsed, &answer).into_iter().collect()
            }
            None if key.protocol.is_icmp() => wire::echo_reply(packet, parsed).into_iter().collect(),
            None if key.protocol == Protocol::TCP
                && key.destination_port == HTTP_PORT
                && parsed.fragment.is_none() =>
            {
                match self.listener.hear(packet, parsed) {
                    Heard::Answer(answer) => vec![answer],
                    Heard::Question(question) => {
                        let about = self.whereabouts((id, tenant), (branch, path), key, parsed.dscp);
                        wire::reply(packet, parsed, &respond(question, here, &about))
                    }
                    Heard::Nothing => return Ok(true),
                    Heard::Unknown => return Err(refuse(DropReason::NotAnswered)),
                }
            }
            None => Vec::new(),
        };
        if answers.is_empty() {
            return Err(refuse(DropReason::NotAnswered));
        }
        for answer in answers {
            if !self.asked.take(now.instant) {
                return Err(refuse(DropReason::NotAnswered));
            }
            self.put(Exit::Path(path, ClassId::NONE), &answer, now, out).map_err(refuse)?;
        }
        Ok(true)
    }

    /// Where the host is that has sent a packet of `key` by a path of its branch's. What it is told of the internet is what would
    /// become of the packet if nobody answered here.
    fn whereabouts(
        &self,
        (id, tenant): (TenantId, &Tenant),
        (branch, path): (SiteId, PathId),
        key: &FlowKey,
        dscp: u8,
    ) -> Whereabouts {
        let names = &self.generation.names;
        let here = self.generation.here.clone();
        let destination_end = tenant.owners.lookup(key.destination());
        let subject = Subject {
            source: key.source(),
            source_port: key.source_port,
            source_end: End::Site(branch),
            destination: key.destination(),
            destination_port: key.destination_port,
            destination_end: destination_end.unwrap_or(End::Site(branch)),
            protocol: key.protocol,
            dscp,
            apps: &[],
            domains: &[],
        };
        let class = tenant.classifier.classify(&subject, None).class;
        let handoff = match destination_end {
            Some(End::Handoff(handoff)) => Some(handoff),
            _ => None,
        };
        let verdict = handoff.map(|handoff| {
            let policy = tenant.nat.get(handoff);
            policy.map_or(NatVerdict::Untranslated, |policy| policy.outbound(&subject, class))
        });
        let public_address = match verdict {
            Some(NatVerdict::Translate(pool)) => {
                let applicant = Applicant { tenant: id, branch: Some(branch), key };
                self.holdings.foreseen(pool, &applicant).map(IpAddr::V4)
            }
            Some(NatVerdict::Map(outside)) => Some(outside),
            Some(NatVerdict::Untranslated) => Some(key.source()),
            _ => None,
        };
        Whereabouts {
            site: here.site,
            metro: here.metro,
            facility: here.facility,
            tenant: names.tenant(id).to_owned(),
            branch: names.site(branch).to_owned(),
            path: names.path(path).to_owned(),
            address: key.source(),
            class: names.class(class).to_owned(),
            handoff: handoff.map(|handoff| names.handoff(handoff).to_owned()),
            public_address,
        }
    }
}

/// The question in a datagram, if it is for the name that the PoP answers by.
fn asks_for_us<'p>(packet: &'p [u8], parsed: &Parsed) -> Option<DnsQuestion<'p>> {
    if parsed.protocol != Protocol::UDP {
        return None;
    }
    let question = DnsQuestion::read(parsed.payload(packet))?;
    (question.name.as_str() == WHEREABOUTS).then_some(question)
}
