//! The flow key: what a packet is looked up by.

use super::{DeviceId, HandoffId, SiteId, TenantId};
use serde::{Serialize, Serializer};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ICMP: Protocol = Protocol(1);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const ICMPV6: Protocol = Protocol(58);

    /// Those that have a name here.
    pub const NAMED: [(&str, Protocol); 4] = [
        ("tcp", Protocol::TCP),
        ("udp", Protocol::UDP),
        ("icmp", Protocol::ICMP),
        ("icmpv6", Protocol::ICMPV6),
    ];

    /// The protocol of a name, or of a number.
    pub fn by_name(text: &str) -> Option<Protocol> {
        let named = Protocol::NAMED.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol);
        named.or_else(|| text.parse().ok().map(Protocol))
    }

    /// Either family's.
    pub fn is_icmp(self) -> bool {
        matches!(self, Protocol::ICMP | Protocol::ICMPV6)
    }

    /// The same protocol as it is called with addresses of `address`'s family: ICMP and ICMPv6 are one another's.
    pub fn with(self, address: IpAddr) -> Protocol {
        match (self, address) {
            (Protocol::ICMP, IpAddr::V6(_)) => Protocol::ICMPV6,
            (Protocol::ICMPV6, IpAddr::V4(_)) => Protocol::ICMP,
            (protocol, _) => protocol,
        }
    }

    /// Whether it has something that can be translated besides the address: ports, or ICMP's query identifier.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => f.write_str("icmp"),
            Protocol::TCP => f.write_str("tcp"),
            Protocol::UDP => f.write_str("udp"),
            Protocol::ICMPV6 => f.write_str("icmpv6"),
            Protocol(other) => write!(f, "{other}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An address space in which a flow key is unique: one tenant's inside, or the internet that all NAT pools face.
/// Tenants' prefixes may overlap, so no key means anything without its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(u16);

impl Zone {
    /// The far side of the internet handoff, shared by all tenants.
    pub const INTERNET: Zone = Zone(0);

    /// The inside of one tenant.
    pub fn tenant(id: TenantId) -> Zone {
        Zone(id.0.saturating_add(1))
    }

    /// Whose inside it is; `None` for the internet.
    pub fn as_tenant(self) -> Option<TenantId> {
        self.0.checked_sub(1).map(TenantId)
    }
}

/// Which of a session's two directions a packet goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The way of the first packet.
    Forward = 0,
    /// The way of its answers.
    Reverse = 1,
}

impl Direction {
    /// The other direction.
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Forward => Direction::Reverse,
            Direction::Reverse => Direction::Forward,
        }
    }
}

/// Who owns an address: where one end of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Behind tunnels.
    Site(SiteId),
    /// Behind a handoff.
    Handoff(HandoffId),
    /// On this branch's own LAN.
    Lan,
    /// In another tenant, which publishes a service here or subscribes to one.
    Tenant(TenantId),
}

/// Where a session's packets physically go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Into one of this site's tunnels.
    Tunnel(SiteId),
    Device(DeviceId),
}

/// What a packet is looked up by: the addresses and ports it carries as it arrives, in the zone it arrives from.
///
/// For ICMP echo the identifier is the source port of requests and the destination port of replies, so that turning a
/// key round matches a request's reply (RFC 5508 section 3.1 calls this the query identifier). 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    source: [u64; 2],
    destination: [u64; 2],
    pub source_port: u16,
    pub destination_port: u16,
    pub zone: Zone,
    pub protocol: Protocol,
}

impl FlowKey {
    /// No packet's key.
    pub const NONE: FlowKey = FlowKey {
        source: [0; 2],
        destination: [0; 2],
        source_port: 0,
        destination_port: 0,
        zone: Zone(u16::MAX),
        protocol: Protocol(0),
    };

    /// A key of the given addresses. No packet has two of different families; what policy is asked about has, where it is
    /// NAT64 that takes it there.
    pub fn new(
        zone: Zone,
        protocol: Protocol,
        (source, source_port): (IpAddr, u16),
        (destination, destination_port): (IpAddr, u16),
    ) -> FlowKey {
        FlowKey {
            source: pack(source),
            destination: pack(destination),
            source_port,
            destination_port,
            zone,
            protocol,
        }
    }

    /// The address the packet comes from.
    pub fn source(&self) -> IpAddr {
        unpack(self.source)
    }

    /// The address the packet goes to.
    pub fn destination(&self) -> IpAddr {
        unpack(self.destination)
    }

    /// Whether packets with it become packets of the other family on the way to where `answer` comes from.
    #[inline]
    pub fn changes_family(&self, answer: &FlowKey) -> bool {
        is_v4(self.source) != is_v4(answer.source)
    }

    /// Whether it comes from where packets with `answer` go: its source is not translated.
    pub fn comes_from_where(&self, answer: &FlowKey) -> bool {
        (self.source, self.source_port) == (answer.destination, answer.destination_port)
    }

    /// Whether it goes where packets with `answer` come from: its destination is not translated.
    pub fn goes_where(&self, answer: &FlowKey) -> bool {
        answer.comes_from_where(self)
    }

    /// The key of the answer to this packet, were it seen in `zone` untranslated.
    pub fn turned_round(&self, zone: Zone) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            zone,
            protocol: self.protocol,
        }
    }
}

/// In five words: derived, it would feed the hasher field by field, and every packet is hashed.
impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in [self.source[0], self.source[1], self.destination[0], self.destination[1]] {
            state.write_u64(word);
        }
        let ports = u64::from(self.source_port) << 16 | u64::from(self.destination_port);
        state.write_u64(ports << 32 | u64::from(self.zone.0) << 8 | u64::from(self.protocol.0));
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}:{} > {}:{} in {:?}",
            self.protocol,
            self.source(),
            self.source_port,
            self.destination(),
            self.destination_port,
            self.zone
        )
    }
}

/// IPv4 is kept as an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2); a packet that carries such an address
/// itself never gets this far (`wire` refuses it), so the two families cannot meet.
fn pack(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

#[inline]
fn is_v4(words: [u64; 2]) -> bool {
    words[0] == 0 && words[1] >> 32 == 0xffff
}

fn unpack(words: [u64; 2]) -> IpAddr {
    let v6 = Ipv6Addr::from_bits((u128::from(words[0]) << 64) | u128::from(words[1]));
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_forty_bytes() {
        assert_eq!(size_of::<FlowKey>(), 40);
    }

    #[test]
    fn addresses_of_both_families_come_back_as_they_went_in() {
        for text in ["10.1.2.3", "2001:db8::1", "::1"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(unpack(pack(address)), address);
            assert_eq!(is_v4(pack(address)), address.is_ipv4());
        }
    }
}
