//! A checked view of one IP packet: where its headers are and what flow it belongs to.
//!
//! Everything a later stage relies on is checked here once: lengths, the IPv4 header checksum, extension headers,
//! source routing, addresses that are never forwarded, fragments too small to be judged. What passes can be rewritten
//! at the offsets found without another bounds question.

use super::checksum;
use super::rewrite::Side;
use crate::model::{DropReason, FlowKey, Protocol, Zone, may_be_forwarded};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// More extension headers than this no honest packet has.
const MAX_EXTENSION_HEADERS: usize = 8;

/// What was found out about an IP packet whose headers are sound. Its addresses stay in the packet, since every packet's
/// `Parsed` is passed about: 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// IPv4; otherwise IPv6.
    pub ipv4: bool,
    /// Upper-layer protocol, behind all extension headers.
    pub protocol: Protocol,
    /// Where the upper layer begins.
    pub upper_at: usize,
    /// The packet's length by its own header; a buffer may be longer.
    pub len: usize,
    /// 0-63.
    pub dscp: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4's flag; always set for IPv6, whose routers never fragment (RFC 8200 section 5).
    pub dont_fragment: bool,
    pub fragment: Option<Fragment>,
    pub upper: Upper,
    /// Payload bytes of each segment, if it is a super-packet: its upper checksum is then the pseudo header's sum alone.
    /// 0 for a packet as it is on the wire.
    pub segment: u16,
}

/// A packet that is a part of a datagram (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    pub id: u32,
    /// In bytes.
    pub offset: u16,
    pub more: bool,
}

/// What the upper layer says that decides a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    Tcp {
        source_port: u16,
        destination_port: u16,
        flags: u8,
    },
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    EchoRequest {
        id: u16,
    },
    EchoReply {
        id: u16,
    },
    /// An ICMP error about a packet of ours, which is inside ([`Parsed::embedded`]).
    IcmpError,
    /// ICMP that is never forwarded: redirects, router and neighbour discovery, the unknown.
    IcmpOther,
    /// A protocol without ports: GRE, ESP, …
    Other,
    /// Not the first fragment: no upper header.
    LaterFragment,
}

/// The packet an ICMP error speaks of: only its headers can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub source_port: u16,
    pub destination_port: u16,
    /// Where the embedded IP header begins, from the beginning of the outer packet.
    pub ip_at: usize,
    /// Where its upper layer begins.
    pub upper_at: usize,
}

/// What a TCP segment says of the connection (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub flags: u8,
    pub sequence: u32,
    /// Means nothing without the ACK flag.
    pub acknowledgment: u32,
}

/// TCP flag bits (RFC 9293 section 3.1).
pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const CWR: u8 = 0x80;
}

impl Parsed {
    /// The source address of `packet`, which this was found out about.
    #[inline]
    pub fn source(&self, packet: &[u8]) -> IpAddr {
        address_at(packet, 0, self.ipv4, Side::Source)
    }

    /// The destination address of `packet`, which this was found out about.
    #[inline]
    pub fn destination(&self, packet: &[u8]) -> IpAddr {
        address_at(packet, 0, self.ipv4, Side::Destination)
    }

    /// The flow key of `packet` as it arrives in `zone`; `None` for what has no flow of its own: later fragments and
    /// ICMP other than echo.
    #[inline]
    pub fn key(&self, packet: &[u8], zone: Zone) -> Option<FlowKey> {
        let (source_port, destination_port) = match self.upper {
            Upper::Tcp { source_port, destination_port, .. }
            | Upper::Udp { source_port, destination_port } => (source_port, destination_port),
            Upper::EchoRequest { id } => (id, 0),
            Upper::EchoReply { id } => (0, id),
            Upper::Other => (0, 0),
            Upper::IcmpError | Upper::IcmpOther | Upper::LaterFragment => return None,
        };
        Some(FlowKey::new(
            zone,
            self.protocol,
            (self.source(packet), source_port),
            (self.destination(packet), destination_port),
        ))
    }

    /// The packet that `packet`, an ICMP error, quotes.
    pub fn embedded(&self, packet: &[u8]) -> Option<Embedded> {
        if self.upper == Upper::IcmpError { parse_embedded(packet, self) } else { None }
    }

    /// What `packet`, which this is the view of, says if it is a TCP segment; of a super-packet, the first one.
    pub fn tcp_segment(&self, packet: &[u8]) -> Option<Segment> {
        let Upper::Tcp { flags, .. } = self.upper else { return None };
        let at = self.upper_at;
        Some(Segment { flags, sequence: be32(packet, at + 4), acknowledgment: be32(packet, at + 8) })
    }

    /// What is behind `packet`'s TCP or UDP header: of a super-packet, that of all its segments. Nothing, if it is only a part
    /// of a datagram.
    pub fn payload<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        let upper = packet.get(self.upper_at..self.len).unwrap_or_default();
        let header = match self.upper {
            _ if self.fragment.is_some() => upper.len(),
            Upper::Udp { .. } => 8,
            Upper::Tcp { .. } => upper.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4),
            _ => upper.len(),
        };
        upper.get(header..).unwrap_or_default()
    }

    /// TCP flags; 0 for other protocols.
    pub fn tcp_flags(&self) -> u8 {
        match self.upper {
            Upper::Tcp { flags, .. } => flags,
            _ => 0,
        }
    }
}

impl Embedded {
    /// The key under which packets that come from where the error comes from are looked up: the embedded packet's,
    /// turned round.
    pub fn answering_key(&self, zone: Zone) -> FlowKey {
        FlowKey::new(
            zone,
            self.protocol,
            (self.destination, self.destination_port),
            (self.source, self.source_port),
        )
    }
}

/// Checks `packet` and finds its headers.
///
/// # Errors
/// `Malformed`, `SourceRouted` or `AddressNotForwarded`.
pub fn parse(packet: &[u8]) -> Result<Parsed, DropReason> {
    let mut parsed = match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_v4(packet)?,
        Some(6) => parse_v6(packet)?,
        _ => return Err(DropReason::Malformed),
    };
    if !may_be_forwarded(parsed.source(packet)) || !may_be_forwarded(parsed.destination(packet)) {
        return Err(DropReason::AddressNotForwarded);
    }
    parsed.upper = parse_upper(packet, &parsed)?;
    Ok(parsed)
}

/// As [`parse`], for a super-packet of `segment` bytes of payload each (0: none).
///
/// # Errors
/// As [`parse`]; also `Malformed` for what cannot be a super-packet.
pub fn parse_super(packet: &[u8], segment: u16) -> Result<Parsed, DropReason> {
    let mut parsed = parse(packet)?;
    if segment > 0 {
        if !matches!(parsed.upper, Upper::Tcp { .. } | Upper::Udp { .. }) || parsed.fragment.is_some() {
            return Err(DropReason::Malformed);
        }
        parsed.segment = segment;
    }
    Ok(parsed)
}

/// Checks the IP header alone, accepting any address; the upper layer is left `Other`. For packets that are for
/// popgate itself (probes use link-local addresses).
pub fn parse_ip(packet: &[u8]) -> Result<Parsed, DropReason> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_v4(packet),
        Some(6) => parse_v6(packet),
        _ => Err(DropReason::Malformed),
    }
}

fn parse_v4(packet: &[u8]) -> Result<Parsed, DropReason> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(DropReason::Malformed)?;
    let upper_at = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(be16(header, 2));
    if upper_at < 20 || len < upper_at || len > packet.len() {
        return Err(DropReason::Malformed);
    }
    // RFC 1812 section 5.2.2: a router must not forward what fails this.
    if checksum::sum(&packet[..upper_at]) != 0xffff {
        return Err(DropReason::Malformed);
    }
    refuse_source_route(&packet[20..upper_at])?;
    let flags = be16(header, 6);
    let offset = (flags & 0x1fff) * 8;
    let more = flags & 0x2000 != 0;
    let payload = len - upper_at;
    if more && !payload.is_multiple_of(8) || usize::from(offset) + payload > 65_535 {
        return Err(DropReason::Malformed);
    }
    Ok(Parsed {
        ipv4: true,
        protocol: Protocol(header[9]),
        upper_at,
        len,
        dscp: header[1] >> 2,
        ttl: header[8],
        dont_fragment: flags & 0x4000 != 0,
        fragment: (more || offset > 0).then_some(Fragment { id: be16(header, 4).into(), offset, more }),
        upper: Upper::Other,
        segment: 0,
    })
}

/// Loose and strict source routing (RFC 7126 sections 4.3 and 4.4: drop by default).
fn refuse_source_route(mut options: &[u8]) -> Result<(), DropReason> {
    loop {
        match *options {
            [] | [0, ..] => return Ok(()),
            [1, ref rest @ ..] => options = rest,
            [131 | 137, ..] => return Err(DropReason::SourceRouted),
            [_, len, ..] if len >= 2 && usize::from(len) <= options.len() => {
                options = &options[usize::from(len)..];
            }
            _ => return Err(DropReason::Malformed),
        }
    }
}

fn parse_v6(packet: &[u8]) -> Result<Parsed, DropReason> {
    let header: &[u8; 40] = packet.first_chunk().ok_or(DropReason::Malformed)?;
    let len = 40 + usize::from(be16(header, 4));
    let packet = packet.get(..len).ok_or(DropReason::Malformed)?;
    let (protocol, upper_at, fragment) = walk_extensions(packet, header[6])?;
    Ok(Parsed {
        ipv4: false,
        protocol: Protocol(protocol),
        upper_at,
        len,
        dscp: (be16(header, 0) >> 6) as u8 & 0x3f,
        ttl: header[7],
        dont_fragment: true,
        fragment,
        upper: Upper::Other,
        segment: 0,
    })
}

/// Past the extension headers of RFC 8200 section 4 and AH (RFC 4302), in whatever order: the upper layer's protocol,
/// where it begins, and what fragment it is.
fn walk_extensions(packet: &[u8], first: u8) -> Result<(u8, usize, Option<Fragment>), DropReason> {
    let (mut protocol, mut at, mut fragment) = (first, 40, None);
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let (next, step) = match (protocol, packet.get(at..at + 8)) {
            (0 | 60, Some(h)) => (h[0], (usize::from(h[1]) + 1) * 8),
            (43, Some(h)) => {
                if h[2] == 0 {
                    return Err(DropReason::SourceRouted);
                }
                (h[0], (usize::from(h[1]) + 1) * 8)
            }
            (51, Some(h)) => (h[0], (usize::from(h[1]) + 2) * 4),
            (44, Some(h)) => {
                let word = be16(h, 2);
                let found = Fragment {
                    id: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                    offset: word & 0xfff8,
                    more: word & 1 != 0,
                };
                // An "atomic" fragment (RFC 6946) is a whole datagram.
                if found.more || found.offset > 0 {
                    fragment = Some(found);
                }
                (h[0], 8)
            }
            (0 | 60 | 43 | 51 | 44, None) => return Err(DropReason::Malformed),
            _ => return Ok((protocol, at, fragment)),
        };
        protocol = next;
        at += step;
        if at > packet.len() {
            return Err(DropReason::Malformed);
        }
        if fragment.is_some_and(|fragment| fragment.offset > 0) {
            // What follows is the middle of a datagram, not a header.
            return Ok((protocol, at, fragment));
        }
    }
    Err(DropReason::Malformed)
}

fn parse_upper(packet: &[u8], ip: &Parsed) -> Result<Upper, DropReason> {
    if let Some(fragment) = ip.fragment
        && fragment.offset > 0
    {
        // RFC 1858 section 3.2.1: a second fragment that would overwrite a TCP header's flags.
        if ip.protocol == Protocol::TCP && fragment.offset == 8 {
            return Err(DropReason::Malformed);
        }
        return Ok(Upper::LaterFragment);
    }
    let whole = ip.fragment.is_none();
    let upper = &packet[ip.upper_at..ip.len];
    match (ip.protocol, ip.ipv4) {
        (Protocol::TCP, _) => {
            // The whole header must be in the first fragment (RFC 1858 section 3.2.2, RFC 7112 section 5).
            let header: &[u8; 20] = upper.first_chunk().ok_or(DropReason::Malformed)?;
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < 20 || header_len > upper.len() {
                return Err(DropReason::Malformed);
            }
            let (source_port, destination_port) = (be16(header, 0), be16(header, 2));
            if source_port == 0 || destination_port == 0 {
                return Err(DropReason::Malformed);
            }
            Ok(Upper::Tcp { source_port, destination_port, flags: header[13] })
        }
        (Protocol::UDP, _) => {
            let header: &[u8; 8] = upper.first_chunk().ok_or(DropReason::Malformed)?;
            let len = usize::from(be16(header, 4));
            if len < 8 || whole && len > upper.len() || be16(header, 2) == 0 {
                return Err(DropReason::Malformed);
            }
            Ok(Upper::Udp { source_port: be16(header, 0), destination_port: be16(header, 2) })
        }
        (Protocol::ICMP, true) | (Protocol::ICMPV6, false) => {
            let header: &[u8; 8] = upper.first_chunk().ok_or(DropReason::Malformed)?;
            let id = be16(header, 4);
            Ok(match (ip.protocol, header[0]) {
                (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => Upper::EchoRequest { id },
                (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => Upper::EchoReply { id },
                // RFC 792; source quench (4) is obsolete (RFC 6633), redirects are for one link only.
                (Protocol::ICMP, 3 | 11 | 12) | (Protocol::ICMPV6, 1..=4) if whole => {
                    parse_embedded(packet, ip).ok_or(DropReason::Malformed)?;
                    Upper::IcmpError
                }
                _ => Upper::IcmpOther,
            })
        }
        // ICMP of the other family is nonsense.
        (Protocol::ICMP | Protocol::ICMPV6, _) => Err(DropReason::Malformed),
        _ => Ok(Upper::Other),
    }
}

/// The first bytes of a packet, quoted by an ICMP error: 8 bytes of upper layer at least (RFC 792), no checksum or
/// length to be trusted.
fn parse_embedded(packet: &[u8], outer: &Parsed) -> Option<Embedded> {
    let ip_at = outer.upper_at + 8;
    let inner = packet.get(ip_at..outer.len)?;
    let (protocol, header_len) = match inner.first()? >> 4 {
        4 if outer.ipv4 => {
            let header: &[u8; 20] = inner.first_chunk()?;
            // Only a first fragment quotes ports.
            if be16(header, 6) & 0x1fff != 0 {
                return None;
            }
            let header_len = usize::from(header[0] & 0x0f) * 4;
            if header_len < 20 {
                return None;
            }
            (header[9], header_len)
        }
        6 if !outer.ipv4 => {
            let header: &[u8; 40] = inner.first_chunk()?;
            let (protocol, upper_at, fragment) = walk_extensions(inner, header[6]).ok()?;
            if fragment.is_some_and(|fragment| fragment.offset > 0) {
                return None;
            }
            (protocol, upper_at)
        }
        _ => return None,
    };
    let upper: &[u8; 8] = inner.get(header_len..)?.first_chunk()?;
    let protocol = Protocol(protocol);
    let (source_port, destination_port) = match protocol {
        Protocol::TCP | Protocol::UDP => (be16(upper, 0), be16(upper, 2)),
        Protocol::ICMP | Protocol::ICMPV6 => match upper[0] {
            8 | 128 => (be16(upper, 4), 0),
            0 | 129 => (0, be16(upper, 4)),
            // No error is ever sent about an error (RFC 1122 section 3.2.2).
            _ => return None,
        },
        _ => (0, 0),
    };
    Some(Embedded {
        source: address_at(packet, ip_at, outer.ipv4, Side::Source),
        destination: address_at(packet, ip_at, outer.ipv4, Side::Destination),
        protocol,
        source_port,
        destination_port,
        ip_at,
        upper_at: ip_at + header_len,
    })
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Where the address of `side` stands in the IP header that begins at `ip_at` (RFC 791 section 3.1, RFC 8200 section 3).
pub(super) fn address_range(ip_at: usize, ipv4: bool, side: Side) -> Range<usize> {
    let (at, len) = match (ipv4, side) {
        (true, Side::Source) => (12, 4),
        (true, Side::Destination) => (16, 4),
        (false, Side::Source) => (8, 16),
        (false, Side::Destination) => (24, 16),
    };
    ip_at + at..ip_at + at + len
}

fn address_at(bytes: &[u8], ip_at: usize, ipv4: bool, side: Side) -> IpAddr {
    let bytes = &bytes[address_range(ip_at, ipv4, side)];
    if ipv4 {
        return IpAddr::V4(Ipv4Addr::from_bits(be32(bytes, 0)));
    }
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    IpAddr::V6(Ipv6Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_packet_carries_about_is_small() {
        assert!(size_of::<Parsed>() <= 40);
    }
}
