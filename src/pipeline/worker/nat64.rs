//! NAT64 (RFC 6146): a session whose two keys are of different families. Policy has bound its IPv6 host to an address and
//! port of a pool as it would have an IPv4 one; what is left is that its packets change family on the way (RFC 7915), and with
//! that their size.
//!
//! 1 what fits on both hops; 2 a packet of the flow; 3 an ICMP error about one, with what it quotes.

use super::{Arrival, Exit, Worker};
use crate::flow::Session;
use crate::model::{ClassId, Direction, DropReason, End, FlowKey, NextHop, Now};
use crate::wire::{self, Change, Ends, Outbound, Parsed};
use std::net::IpAddr;

/// An IPv6 header is longer by this than an IPv4 one.
const GROWS: u16 = 20;

impl Worker {
    // 1 What fits.

    /// What a segment may fill on the hop that `parsed` came by, in terms of the other family: the same payload.
    pub(super) fn segment_mtu_across(parsed: &Parsed, mtu: u16) -> u16 {
        if parsed.ipv4 { mtu.saturating_add(GROWS) } else { mtu.saturating_sub(GROWS) }
    }

    /// The largest packet of this one's family on the hop that it came by.
    fn mtu_behind(&self, arrival: Arrival, parsed: &Parsed) -> u16 {
        match (arrival.path, arrival.hop) {
            (Some(path), _) => self.mtu(Exit::Path(path, ClassId::NONE), parsed.ipv4),
            (None, NextHop::Device(device)) => self.mtu(Exit::Device(device), parsed.ipv4),
            (None, NextHop::Tunnel(_)) => u16::MAX,
        }
    }

    // 2 A packet of the flow.

    /// Sends a packet with `key` as one that `answer` answers, which is of the other family: none larger than `mtu`, and if
    /// it is a SYN, its MSS within `segment_mtu`.
    #[expect(clippy::too_many_arguments, reason = "a packet of a session, and where it goes")]
    pub(super) fn leave_across(
        &mut self,
        exit: Exit,
        answer: &FlowKey,
        packet: &mut [u8],
        parsed: &Parsed,
        (mtu, segment_mtu): (u16, u16),
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        let source = (answer.destination(), answer.destination_port);
        let ends = Ends { source, destination: (answer.source(), answer.source_port) };
        let id = self.next_id;
        self.next_id = id.wrapping_add(parsed.on_the_wire(packet).0 as u16);
        let change = Change { ends, quoted: None, mtu_in: u16::MAX, mtu_out: mtu, id };
        let mut scratch = std::mem::take(&mut self.changed);
        let outcome = match wire::change_family(packet, parsed, &change, &mut scratch) {
            None => Err(DropReason::Untranslatable),
            Some((packet, mut parsed)) => {
                wire::decrement_ttl(packet, &mut parsed);
                wire::clamp_mss(packet, &parsed, segment_mtu);
                if self.sees_inner && matches!(exit, Exit::Device(_)) {
                    self.see_leaving(None, exit, packet, &parsed);
                }
                self.leave(exit, packet, &parsed, mtu, now, out)
            }
        };
        self.changed = scratch;
        outcome
    }

    // 3 An ICMP error.

    /// How an ICMP error that answers `session`'s packets, and so goes in `direction`, looks on the other side. A router of
    /// IPv4's is known by its address within the prefix, whichever that is (RFC 7915 section 4.1); what is behind the NAT, by what
    /// was called. `None` if the handoff has no prefix any more.
    pub(super) fn error_across(
        &self,
        session: &Session,
        direction: Direction,
        arrival: Arrival,
        packet: &[u8],
        parsed: &Parsed,
        mtu: u16,
    ) -> Option<Change> {
        let (called, destination) = session.leaving(direction);
        let reporter = parsed.source(packet);
        let source = match reporter {
            IpAddr::V4(router) if reporter != session.key(direction).source() => {
                let tenant = self.generation.tenants.get(session.tenant)?;
                let prefix = session.plan().ends.into_iter().find_map(|end| match end {
                    End::Handoff(handoff) => tenant.nat64(handoff),
                    End::Site(_) | End::Lan | End::Tenant(_) => None,
                });
                IpAddr::V6(prefix?.embed(router))
            }
            _ => called.0,
        };
        let ends = Ends { source: (source, 0), destination };
        let quoted = Some(Ends { source: destination, destination: called });
        Some(Change {
            ends,
            quoted,
            mtu_in: self.mtu_behind(arrival, parsed),
            mtu_out: mtu,
            id: self.next_id,
        })
    }

    /// Sends an ICMP error as `change` says.
    pub(super) fn leave_error_across(
        &mut self,
        exit: Exit,
        change: &Change,
        packet: &mut [u8],
        parsed: &Parsed,
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        self.next_id = self.next_id.wrapping_add(1);
        let mut scratch = std::mem::take(&mut self.changed);
        let outcome = match wire::change_family(packet, parsed, change, &mut scratch) {
            None => Err(DropReason::Untranslatable),
            Some((packet, _)) if packet.len() > usize::from(change.mtu_out) => Err(DropReason::TooBig),
            Some((packet, mut parsed)) => {
                wire::decrement_ttl(packet, &mut parsed);
                if self.sees_inner && matches!(exit, Exit::Device(_)) {
                    self.see_leaving(None, exit, packet, &parsed);
                }
                self.leave(exit, packet, &parsed, change.mtu_out, now, out)
            }
        };
        self.changed = scratch;
        outcome
    }
}
