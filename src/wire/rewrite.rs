//! Changing a packet in place: addresses and ports, TTL, MSS; every checksum that covers the change follows it.

use super::checksum;
use super::parse::{Embedded, Parsed, Upper, address_range, be16, tcp_flags};
use crate::model::Protocol;
use std::net::IpAddr;

/// One end of a packet: where its address and port stand and what they are to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Gives `packet` another address and port (for ICMP echo: identifier) on `side`. `port` is ignored where the packet
/// has none. `parsed` is brought up to date with it.
pub fn translate(packet: &mut [u8], parsed: &mut Parsed, side: Side, address: IpAddr, port: u16) {
    if parsed.ipv4 != address.is_ipv4() {
        return;
    }
    let (old, new) = write_address(packet, 0, side, address);
    if parsed.ipv4 {
        update_at(packet, 10, old, new);
    }
    let (port_at, checksum_at) = upper_offsets(parsed, side);
    let old_port = port_at.map(|at| be16(packet, at));
    // A super-packet's checksum is made anew when it leaves.
    let checksum_at = checksum_at.filter(|_| parsed.segment == 0);
    if let (Some(at), Some(old_port)) = (port_at, old_port) {
        packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
        if let Some(checksum_at) = checksum_at {
            update_upper(packet, checksum_at, parsed.protocol, old_port, port);
        }
    }
    // ICMPv4's checksum covers no pseudo header (RFC 792).
    if let Some(checksum_at) = checksum_at
        && parsed.protocol != Protocol::ICMP
    {
        update_upper(packet, checksum_at, parsed.protocol, old, new);
    }
    set_port(&mut parsed.upper, side, port);
}

/// Translates what an ICMP error quotes, and nothing outside the quote but the ICMP checksum (RFC 5508 section 4.2).
pub fn translate_embedded(
    packet: &mut [u8],
    outer: &Parsed,
    embedded: &Embedded,
    side: Side,
    address: IpAddr,
    port: u16,
) {
    let icmp_checksum_at = outer.upper_at + 2;
    if outer.ipv4 != address.is_ipv4() {
        return;
    }
    let end = outer.len;
    let before = checksum::sum(&packet[embedded.ip_at..end]);
    let (old, new) = write_address(packet, embedded.ip_at, side, address);
    if outer.ipv4 {
        update_at(packet, embedded.ip_at + 10, old, new);
    }
    let port_at = match (embedded.protocol, side) {
        (Protocol::TCP | Protocol::UDP, Side::Source) => Some(embedded.upper_at),
        (Protocol::TCP | Protocol::UDP, Side::Destination) => Some(embedded.upper_at + 2),
        (Protocol::ICMP | Protocol::ICMPV6, Side::Source) if embedded.destination_port == 0 => {
            Some(embedded.upper_at + 4)
        }
        (Protocol::ICMP | Protocol::ICMPV6, Side::Destination) if embedded.source_port == 0 => {
            Some(embedded.upper_at + 4)
        }
        _ => None,
    };
    if let Some(at) = port_at {
        packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
    }
    // The quoted checksum follows too, where the quote is long enough to hold it (RFC 5508 section 4.2).
    let checksum_at = embedded.upper_at
        + match embedded.protocol {
            Protocol::TCP => 16,
            Protocol::UDP => 6,
            _ => 2,
        };
    let has_checksum =
        matches!(embedded.protocol, Protocol::TCP | Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6);
    if has_checksum && checksum_at + 2 <= end {
        if port_at.is_some() {
            let old_port = match side {
                Side::Source => embedded.source_port,
                Side::Destination => embedded.destination_port,
            };
            update_upper(packet, checksum_at, embedded.protocol, old_port, port);
        }
        if embedded.protocol != Protocol::ICMP {
            update_upper(packet, checksum_at, embedded.protocol, old, new);
        }
    }
    let after = checksum::sum(&packet[embedded.ip_at..end]);
    update_at(packet, icmp_checksum_at, before, after);
}

/// One hop less. The caller has seen that there is one left.
pub fn decrement_ttl(packet: &mut [u8], parsed: &mut Parsed) {
    parsed.ttl -= 1;
    if parsed.ipv4 {
        let old = be16(packet, 8);
        packet[8] = parsed.ttl;
        let new = be16(packet, 8);
        update_at(packet, 10, old, new);
    } else {
        packet[7] = parsed.ttl;
    }
}

/// Marks an IP packet whose ends can take a mark for a loss (RFC 3168 section 5: ECT becomes CE); false if they cannot.
pub fn mark_congested(packet: &mut [u8]) -> bool {
    const CE: u8 = 0b11;
    let is_capable = traffic_class(packet) & CE != 0;
    if is_capable {
        set_traffic_class(packet, traffic_class(packet) | CE);
    }
    is_capable
}

/// Gives an IP packet another DSCP, 0 to 63 (RFC 2474 section 3); its ECN bits stay.
pub fn set_dscp(packet: &mut [u8], dscp: u8) {
    set_traffic_class(packet, dscp << 2 | traffic_class(packet) & 0b11);
}

/// DSCP and ECN of an IP packet: IPv4's type of service, IPv6's traffic class.
pub fn traffic_class(packet: &[u8]) -> u8 {
    match packet {
        [first, class, ..] if first >> 4 == 4 => *class,
        // It lies across two bytes (RFC 8200 section 3).
        [first, second, ..] => first << 4 | second >> 4,
        _ => 0,
    }
}

fn set_traffic_class(packet: &mut [u8], class: u8) {
    match packet {
        [first, ..] if *first >> 4 == 4 && packet.len() >= 20 => {
            let old = be16(packet, 0);
            packet[1] = class;
            let new = be16(packet, 0);
            update_at(packet, 10, old, new);
        }
        [first, second, ..] if *first >> 4 == 6 => {
            *first = 6 << 4 | class >> 4;
            *second = class << 4 | *second & 0xf;
        }
        _ => {}
    }
}

/// Lowers the MSS option of a SYN to what fits `mtu` (RFC 6691: MTU less the fixed headers); never raises it.
pub fn clamp_mss(packet: &mut [u8], parsed: &Parsed, mtu: u16) {
    let Upper::Tcp { flags, .. } = parsed.upper else { return };
    if flags & tcp_flags::SYN == 0 {
        return;
    }
    let fixed = if parsed.ipv4 { 40 } else { 60 };
    let limit = mtu.saturating_sub(fixed);
    let options_at = parsed.upper_at + 20;
    let options_end = parsed.upper_at + usize::from(packet[parsed.upper_at + 12] >> 4) * 4;
    let mut at = options_at;
    while at < options_end {
        match packet[at] {
            0 => return,
            1 => at += 1,
            2 if at + 4 <= options_end && packet[at + 1] == 4 => {
                let old = be16(packet, at + 2);
                if old > limit {
                    packet[at + 2..at + 4].copy_from_slice(&limit.to_be_bytes());
                    // An option at an odd offset changes the checksum with its bytes swapped.
                    let swap = (at + 2 - parsed.upper_at) % 2 == 1;
                    let (old, new) = if swap { (old.swap_bytes(), limit.swap_bytes()) } else { (old, limit) };
                    update_at(packet, parsed.upper_at + 16, old, new);
                }
                return;
            }
            _ => match packet.get(at + 1) {
                Some(&len) if len >= 2 => at += usize::from(len),
                _ => return,
            },
        }
    }
}

/// Protocols without ports of popgate's reading whose checksum covers the addresses and stands where UDP's does: DCCP
/// (RFC 4340 section 9.1) and UDP-Lite (RFC 3828 section 3.1).
pub(super) const UDP_CHECKSUM: [Protocol; 2] = [Protocol(33), Protocol(136)];

/// Where the port (or echo identifier) of `side` and the upper checksum stand. A later fragment has neither; of ICMP
/// errors only the addresses change.
fn upper_offsets(parsed: &Parsed, side: Side) -> (Option<usize>, Option<usize>) {
    let at = parsed.upper_at;
    let port_at = match side {
        Side::Source => at,
        Side::Destination => at + 2,
    };
    match (parsed.upper, side) {
        (Upper::Tcp { .. }, _) => (Some(port_at), Some(at + 16)),
        (Upper::Udp { .. }, _) => (Some(port_at), Some(at + 6)),
        (Upper::EchoRequest { .. }, Side::Source) | (Upper::EchoReply { .. }, Side::Destination) => {
            (Some(at + 4), Some(at + 2))
        }
        (Upper::EchoRequest { .. } | Upper::EchoReply { .. } | Upper::IcmpError | Upper::IcmpOther, _) => {
            (None, Some(at + 2))
        }
        (Upper::Other, _) if UDP_CHECKSUM.contains(&parsed.protocol) && parsed.len >= at + 8 => {
            (None, Some(at + 6))
        }
        (Upper::Other | Upper::LaterFragment, _) => (None, None),
    }
}

fn set_port(upper: &mut Upper, side: Side, port: u16) {
    match (upper, side) {
        (Upper::Tcp { source_port, .. } | Upper::Udp { source_port, .. }, Side::Source) => {
            *source_port = port
        }
        (Upper::Tcp { destination_port, .. } | Upper::Udp { destination_port, .. }, Side::Destination) => {
            *destination_port = port;
        }
        (Upper::EchoRequest { id }, Side::Source) | (Upper::EchoReply { id }, Side::Destination) => {
            *id = port
        }
        _ => {}
    }
}

/// Writes an address over another of its family; gives the sums of the bytes that were and of those that are.
fn write_address(packet: &mut [u8], ip_at: usize, side: Side, address: IpAddr) -> (u16, u16) {
    let place = &mut packet[address_range(ip_at, address.is_ipv4(), side)];
    let old = checksum::sum(place);
    match address {
        IpAddr::V4(v4) => place.copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => place.copy_from_slice(&v6.octets()),
    }
    (old, checksum::sum(place))
}

pub(super) fn address_sum(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(v4) => checksum::sum(&v4.octets()),
        IpAddr::V6(v6) => checksum::sum(&v6.octets()),
    }
}

fn update_at(packet: &mut [u8], at: usize, old: u16, new: u16) {
    let updated = checksum::update(be16(packet, at), old, new);
    packet[at..at + 2].copy_from_slice(&updated.to_be_bytes());
}

/// As [`update_at`], with UDP's two meanings of zero (RFC 768: none was computed; a computed zero is sent as all ones).
pub(super) fn update_upper(packet: &mut [u8], at: usize, protocol: Protocol, old: u16, new: u16) {
    if protocol == Protocol::UDP {
        if be16(packet, at) == 0 {
            return;
        }
        update_at(packet, at, old, new);
        if be16(packet, at) == 0 {
            packet[at..at + 2].copy_from_slice(&[0xff, 0xff]);
        }
    } else {
        update_at(packet, at, old, new);
    }
}
