//! NAT events (RFC 8158): who was given which outside address and ports, when that ended, and who got none.
//!
//! A binding is endpoint-independent, so that it is an entry of the Binding Information Base that begins and ends, whatever
//! sessions share it. A block of ports is a branch's: it has no inside address, and is told with the branch's interface.

use super::directory::{interface, vrf};
use super::element::{Element, Field, Template};
use crate::flow::{PortChange, PortEvent};
use crate::model::{DropReason, End, HandoffId, SiteId, TenantId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What became of an outside address's ports, or of somebody who wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatEvent {
    /// When, milliseconds since the Unix epoch.
    pub unix_millis: u64,
    pub tenant: TenantId,
    pub what: NatChange,
}

/// What a [`NatEvent`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatChange {
    Ports(PortEvent),
    /// Sessions could not begin, in the second before.
    Refused(NatLimit),
}

/// What stood in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NatLimit {
    /// Every port of the handoff's pool is in use.
    Pool(HandoffId),
    /// Every port of the blocks that the branch may have is.
    BranchPorts(SiteId),
    /// The branch has as many sessions as it may.
    BranchSessions(SiteId),
    /// The tenant has.
    TenantSessions,
    /// The box has.
    Sessions,
}

impl NatLimit {
    /// What a packet was dropped for, if it is a limit of translation or of sessions.
    pub fn of(reason: DropReason) -> Option<NatLimit> {
        match reason {
            DropReason::NatPoolExhausted(handoff) => Some(NatLimit::Pool(handoff)),
            DropReason::BranchPortLimit(site) => Some(NatLimit::BranchPorts(site)),
            DropReason::BranchSessionLimit(site) => Some(NatLimit::BranchSessions(site)),
            DropReason::TenantSessionLimit => Some(NatLimit::TenantSessions),
            DropReason::SessionTableFull => Some(NatLimit::Sessions),
            _ => None,
        }
    }
}

/// IANA's "NAT Event Type" registry.
mod event {
    pub(super) const NAT44_BIB_CREATE: u8 = 8;
    pub(super) const NAT44_BIB_DELETE: u8 = 9;
    pub(super) const NAT64_BIB_CREATE: u8 = 10;
    pub(super) const NAT64_BIB_DELETE: u8 = 11;
    pub(super) const PORTS_EXHAUSTED: u8 = 12;
    pub(super) const QUOTA_EXCEEDED: u8 = 13;
    pub(super) const BLOCK_ALLOCATED: u8 = 16;
    pub(super) const BLOCK_RELEASED: u8 = 17;
}

/// IANA's "NAT Quota Exceeded Event" registry.
const MAX_SESSION_ENTRIES: u32 = 1;
const MAX_ENTRIES_PER_USER: u32 = 3;

impl NatEvent {
    /// The template to write it by.
    pub(super) fn template(&self) -> &'static Template<NatEvent> {
        match self.what {
            NatChange::Ports(PortEvent { inside: None, .. }) => &BLOCK,
            NatChange::Ports(PortEvent { inside: Some((IpAddr::V4(_), _)), .. }) => &NAT44_BINDING,
            NatChange::Ports(PortEvent { inside: Some((IpAddr::V6(_), _)), .. }) => &NAT64_BINDING,
            NatChange::Refused(NatLimit::Pool(_)) => &EXHAUSTED,
            NatChange::Refused(_) => &QUOTA,
        }
    }

    fn event(&self) -> u8 {
        match self.what {
            NatChange::Ports(PortEvent { change, inside, .. }) => match (inside, change) {
                (None, PortChange::Began) => event::BLOCK_ALLOCATED,
                (None, PortChange::Ended) => event::BLOCK_RELEASED,
                (Some((IpAddr::V4(_), _)), PortChange::Began) => event::NAT44_BIB_CREATE,
                (Some((IpAddr::V4(_), _)), PortChange::Ended) => event::NAT44_BIB_DELETE,
                (Some((IpAddr::V6(_), _)), PortChange::Began) => event::NAT64_BIB_CREATE,
                (Some((IpAddr::V6(_), _)), PortChange::Ended) => event::NAT64_BIB_DELETE,
            },
            NatChange::Refused(NatLimit::Pool(_)) => event::PORTS_EXHAUSTED,
            NatChange::Refused(_) => event::QUOTA_EXCEEDED,
        }
    }

    /// Whose it is: the branch, or all of the tenant's as seen from it.
    fn ingress_interface(&self) -> u32 {
        let site = match self.what {
            NatChange::Ports(PortEvent { branch, .. }) => branch,
            NatChange::Refused(NatLimit::BranchPorts(site) | NatLimit::BranchSessions(site)) => Some(site),
            NatChange::Refused(_) => None,
        };
        interface(site.map_or(End::Tenant(self.tenant), End::Site), None)
    }

    fn ports(&self) -> Option<&PortEvent> {
        match &self.what {
            NatChange::Ports(event) => Some(event),
            NatChange::Refused(_) => None,
        }
    }

    fn inside(&self) -> (IpAddr, u16) {
        let none = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        self.ports().and_then(|event| event.inside).unwrap_or(none)
    }

    fn inside_v4(&self) -> Ipv4Addr {
        match self.inside().0 {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    fn inside_v6(&self) -> Ipv6Addr {
        match self.inside().0 {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        }
    }

    /// Pools are of IPv4.
    fn outside(&self) -> Ipv4Addr {
        match self.ports().map(|event| event.outside) {
            Some(IpAddr::V4(v4)) => v4,
            Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        }
    }

    fn outside_ports(&self) -> (u16, u16) {
        self.ports().map_or((0, 0), |event| event.ports)
    }

    fn protocol(&self) -> u8 {
        self.ports().and_then(|event| event.protocol).map_or(0, |protocol| protocol.0)
    }

    fn pool(&self) -> u32 {
        match self.what {
            NatChange::Refused(NatLimit::Pool(handoff)) => interface(End::Handoff(handoff), None),
            _ => 0,
        }
    }

    fn quota(&self) -> u32 {
        match self.what {
            NatChange::Refused(NatLimit::Sessions) => MAX_SESSION_ENTRIES,
            _ => MAX_ENTRIES_PER_USER,
        }
    }
}

/// Wraps the fields that are the same in every event's record round the given ones.
macro_rules! event_fields {
    ($($own:expr,)*) => {&[
        Field::u64(Element::ObservationTimeMilliseconds, |it: &NatEvent| it.unix_millis),
        Field::u8(Element::NatEvent, NatEvent::event),
        Field::u32(Element::IngressVrfId, |it| vrf(it.tenant)),
        Field::u32(Element::IngressInterface, NatEvent::ingress_interface),
        $($own,)*
    ]};
}

/// An IPv4 host's.
pub(super) static NAT44_BINDING: Template<NatEvent> = Template::new(
    269,
    event_fields![
        Field::v4(Element::SourceIpv4Address, NatEvent::inside_v4),
        Field::v4(Element::PostNatSourceIpv4Address, NatEvent::outside),
        Field::u8(Element::ProtocolIdentifier, NatEvent::protocol),
        Field::u16(Element::SourceTransportPort, |it| it.inside().1),
        Field::u16(Element::PostNaptSourceTransportPort, |it| it.outside_ports().0),
    ],
);

/// An IPv6 host's, by NAT64.
pub(super) static NAT64_BINDING: Template<NatEvent> = Template::new(
    270,
    event_fields![
        Field::v6(Element::SourceIpv6Address, NatEvent::inside_v6),
        Field::v4(Element::PostNatSourceIpv4Address, NatEvent::outside),
        Field::u8(Element::ProtocolIdentifier, NatEvent::protocol),
        Field::u16(Element::SourceTransportPort, |it| it.inside().1),
        Field::u16(Element::PostNaptSourceTransportPort, |it| it.outside_ports().0),
    ],
);

/// A branch's block.
pub(super) static BLOCK: Template<NatEvent> = Template::new(
    271,
    event_fields![
        Field::v4(Element::PostNatSourceIpv4Address, NatEvent::outside),
        Field::u16(Element::PortRangeStart, |it| it.outside_ports().0),
        Field::u16(Element::PortRangeEnd, |it| it.outside_ports().1),
    ],
);

/// Of sessions that found no free port. A pool's number is its handoff's, as an interface.
pub(super) static EXHAUSTED: Template<NatEvent> =
    Template::new(272, event_fields![Field::u32(Element::NatPoolId, NatEvent::pool),]);

/// Of somebody who has as much as they may.
pub(super) static QUOTA: Template<NatEvent> =
    Template::new(273, event_fields![Field::u32(Element::NatQuotaExceededEvent, NatEvent::quota),]);
