//! Packets popgate writes itself: ICMP errors, TCP resets, fragments.

use super::checksum;
use super::parse::{Parsed, Upper, be16, be32, tcp_flags};
use crate::model::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Quoted at most, so that an ICMPv4 error stays within 576 bytes (RFC 1812 section 4.3.2.3).
const QUOTE_V4: usize = 576 - 28;
/// And an ICMPv6 error within 1,280 (RFC 4443 section 2.4c).
const QUOTE_V6: usize = 1_280 - 48;

/// An ICMP error, in the words both families share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Type 11 code 0; ICMPv6 type 3 code 0.
    TimeExceeded,
    /// Fragmentation needed (RFC 1191 section 4); ICMPv6 packet too big (RFC 8201).
    TooBig { mtu: u16 },
    /// Communication administratively prohibited: type 3 code 13 (RFC 1812); ICMPv6 type 1 code 1.
    Prohibited,
    /// No route: type 3 code 0; ICMPv6 type 1 code 0.
    NoRoute,
}

/// Whether an error may be sent about a packet: never about an ICMP error or other non-query ICMP, nor a later
/// fragment (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4e).
pub fn may_answer(parsed: &Parsed) -> bool {
    !matches!(parsed.upper, Upper::IcmpError | Upper::IcmpOther | Upper::LaterFragment)
}

/// An ICMP error about `packet`, from this box to the packet's source.
pub fn icmp_error(
    packet: &[u8],
    parsed: &Parsed,
    error: IcmpError,
    (v4, v6): (Ipv4Addr, Ipv6Addr),
) -> Vec<u8> {
    match parsed.source(packet) {
        IpAddr::V4(to) => {
            let (kind, code, word) = match error {
                IcmpError::TimeExceeded => (11, 0, 0),
                IcmpError::TooBig { mtu } => (3, 4, u32::from(mtu)),
                IcmpError::Prohibited => (3, 13, 0),
                IcmpError::NoRoute => (3, 0, 0),
            };
            let quote = &packet[..parsed.len.min(QUOTE_V4)];
            let mut out = ipv4_header(v4, to, Protocol::ICMP, 8 + quote.len());
            push_icmp(&mut out, kind, code, word, quote);
            let sum = !checksum::sum(&out[20..]);
            out[22..24].copy_from_slice(&sum.to_be_bytes());
            out
        }
        IpAddr::V6(to) => {
            let (kind, code, word) = match error {
                IcmpError::TimeExceeded => (3, 0, 0),
                IcmpError::TooBig { mtu } => (2, 0, u32::from(mtu)),
                IcmpError::Prohibited => (1, 1, 0),
                IcmpError::NoRoute => (1, 0, 0),
            };
            let quote = &packet[..parsed.len.min(QUOTE_V6)];
            let mut out = ipv6_header(v6, to, Protocol::ICMPV6, 8 + quote.len());
            push_icmp(&mut out, kind, code, word, quote);
            finish_upper(&mut out, 40, 42, Protocol::ICMPV6, IpAddr::V6(v6), IpAddr::V6(to));
            out
        }
    }
}

/// A TCP reset in answer to `packet`, as if from its destination (RFC 9293 section 3.5.2); `None` for what is not TCP
/// or is itself a reset.
pub fn tcp_reset(packet: &[u8], parsed: &Parsed) -> Option<Vec<u8>> {
    let Upper::Tcp { flags, .. } = parsed.upper else { return None };
    if flags & tcp_flags::RST != 0 {
        return None;
    }
    let at = parsed.upper_at;
    let sequence = be32(packet, at + 4);
    let acknowledged = be32(packet, at + 8);
    let header_len = usize::from(packet[at + 12] >> 4) * 4;
    let data = parsed.len.saturating_sub(at + header_len) as u32;
    // SYN and FIN each take a sequence number.
    let length = data + u32::from(flags & tcp_flags::SYN != 0) + u32::from(flags & tcp_flags::FIN != 0);
    let (seq, ack, reset_flags) = if flags & tcp_flags::ACK != 0 {
        (acknowledged, 0, tcp_flags::RST)
    } else {
        (0, sequence.wrapping_add(length), tcp_flags::RST | tcp_flags::ACK)
    };
    tcp_back(packet, parsed, (seq, ack), reset_flags, &[], &[])
}

/// A TCP segment to where `packet` came from, as if from its destination; `None` if that is no TCP.
pub(super) fn tcp_back(
    packet: &[u8],
    parsed: &Parsed,
    numbers: (u32, u32),
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Option<Vec<u8>> {
    let Upper::Tcp { source_port, destination_port, .. } = parsed.upper else { return None };
    let (from, to) = (parsed.destination(packet), parsed.source(packet));
    tcp_segment((from, destination_port), (to, source_port), numbers, flags, options, payload)
}

/// A TCP segment of ours with this sequence number and acknowledgement (RFC 9293 section 3.1), and `options` that are whole
/// words; its window is the largest there is, but for a reset, which has none. `None` between addresses of different families.
pub fn tcp_segment(
    (from, source_port): (IpAddr, u16),
    (to, destination_port): (IpAddr, u16),
    (sequence, acknowledged): (u32, u32),
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Option<Vec<u8>> {
    let window = if flags & tcp_flags::RST == 0 { u16::MAX } else { 0 };
    let header_len = 20 + options.len();
    let mut out = ip_header(from, to, Protocol::TCP, header_len + payload.len())?;
    let tcp_at = out.len();
    out.extend_from_slice(&source_port.to_be_bytes());
    out.extend_from_slice(&destination_port.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&acknowledged.to_be_bytes());
    out.extend_from_slice(&[(header_len as u8 / 4) << 4, flags]);
    out.extend_from_slice(&window.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(options);
    out.extend_from_slice(payload);
    finish_upper(&mut out, tcp_at, tcp_at + 16, Protocol::TCP, from, to);
    Some(out)
}

/// The reply to `packet`, an echo request (RFC 792, RFC 4443 section 4.2), as if from its destination.
pub fn echo_reply(packet: &[u8], parsed: &Parsed) -> Option<Vec<u8>> {
    if !matches!(parsed.upper, Upper::EchoRequest { .. }) || parsed.fragment.is_some() {
        return None;
    }
    let (from, to) = (parsed.destination(packet), parsed.source(packet));
    let message = &packet[parsed.upper_at..parsed.len];
    let mut out = ip_header(from, to, parsed.protocol, message.len())?;
    let at = out.len();
    push_icmp(&mut out, if parsed.ipv4 { 0 } else { 129 }, 0, be32(message, 4), &message[8..]);
    finish_icmp(&mut out, at, from, to);
    Some(out)
}

/// A UDP datagram back to where `packet` came from, as if from its destination; `None` if that is no UDP.
pub fn udp_back(packet: &[u8], parsed: &Parsed, payload: &[u8]) -> Option<Vec<u8>> {
    let Upper::Udp { source_port, destination_port } = parsed.upper else { return None };
    let (from, to) = (parsed.destination(packet), parsed.source(packet));
    udp(SocketAddr::new(from, destination_port), SocketAddr::new(to, source_port), payload)
}

/// An echo request of ours (RFC 792, RFC 4443 section 4.1) with this identifier and sequence number; `None` between addresses
/// of different families.
pub fn echo_request(
    source: IpAddr,
    destination: IpAddr,
    (id, sequence): (u16, u16),
    payload: &[u8],
) -> Option<Vec<u8>> {
    let (protocol, kind) = if source.is_ipv4() { (Protocol::ICMP, 8) } else { (Protocol::ICMPV6, 128) };
    let mut out = ip_header(source, destination, protocol, 8 + payload.len())?;
    let at = out.len();
    push_icmp(&mut out, kind, 0, u32::from(id) << 16 | u32::from(sequence), payload);
    finish_icmp(&mut out, at, source, destination);
    Some(out)
}

/// A UDP packet of ours over IPv6.
pub fn udp_v6(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), dscp: u8, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len();
    let mut out = ipv6_header(source.0, destination.0, Protocol::UDP, len);
    out[0] = 0x60 | dscp >> 2;
    out[1] = dscp << 6;
    push_udp(&mut out, source.1, destination.1, payload);
    finish_upper(&mut out, 40, 46, Protocol::UDP, IpAddr::V6(source.0), IpAddr::V6(destination.0));
    out
}

/// A UDP packet (RFC 768) between two ends; `None` if they are of different families, or it would be too long.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let len = 8 + payload.len();
    if len > usize::from(u16::MAX) - 20 {
        return None;
    }
    let mut out = ip_header(from.ip(), to.ip(), Protocol::UDP, len)?;
    let at = out.len();
    push_udp(&mut out, from.port(), to.port(), payload);
    finish_upper(&mut out, at, at + 6, Protocol::UDP, from.ip(), to.ip());
    Some(out)
}

/// Cuts a packet into fragments of at most `mtu` bytes; works on fragments too. Of IPv6 only what has a fragment header
/// already can be cut, which [`super::change_family`] makes: but for that only its sender may (RFC 8200 section 4.5), and it
/// comes out whole.
pub fn fragment(packet: &[u8], parsed: &Parsed, mtu: u16, emit: impl FnMut(&[u8])) {
    if parsed.ipv4 {
        fragment_v4(packet, parsed, mtu, emit);
    } else {
        fragment_v6(packet, parsed, mtu, emit);
    }
}

/// Cuts an IPv4 packet into fragments of at most `mtu` bytes (RFC 791 section 3.2); works on fragments too. Options
/// are copied to every fragment: those that must not be (RFC 791's copied flag unset) harm nobody by being repeated.
fn fragment_v4(packet: &[u8], parsed: &Parsed, mtu: u16, mut emit: impl FnMut(&[u8])) {
    let header = &packet[..parsed.upper_at];
    let payload = &packet[parsed.upper_at..parsed.len];
    // A fragment's payload is a multiple of 8 bytes; the smallest MTU of IPv4 is 68 (RFC 791 section 3.1).
    let step = (usize::from(mtu).saturating_sub(header.len()) & !7).max(8);
    let word = be16(packet, 6);
    let (base, more_after) = (usize::from(word & 0x1fff), word & 0x2000);
    let mut out = Vec::with_capacity(header.len() + step);
    for (index, part) in payload.chunks(step).enumerate() {
        let last = (index + 1) * step >= payload.len();
        out.clear();
        out.extend_from_slice(header);
        out.extend_from_slice(part);
        let len = out.len() as u16;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        let offset = (base + index * step / 8) as u16 & 0x1fff;
        let word = offset | if last { more_after } else { 0x2000 };
        out[6..8].copy_from_slice(&word.to_be_bytes());
        finish_v4_header(&mut out, header.len());
        emit(&out);
    }
}

fn fragment_v6(packet: &[u8], parsed: &Parsed, mtu: u16, mut emit: impl FnMut(&[u8])) {
    const HEADERS: usize = 48;
    if packet[6] != 44 || parsed.len <= HEADERS {
        return emit(packet);
    }
    let (headers, payload) = packet[..parsed.len].split_at(HEADERS);
    let step = (usize::from(mtu).saturating_sub(HEADERS) & !7).max(8);
    let word = be16(packet, 42);
    let (base, more_after) = (usize::from(word & 0xfff8), word & 1);
    let mut out = Vec::with_capacity(HEADERS + step);
    for (index, part) in payload.chunks(step).enumerate() {
        let last = (index + 1) * step >= payload.len();
        out.clear();
        out.extend_from_slice(headers);
        out.extend_from_slice(part);
        let len = (out.len() - 40) as u16;
        out[4..6].copy_from_slice(&len.to_be_bytes());
        let word = (base + index * step) as u16 & 0xfff8 | if last { more_after } else { 1 };
        out[42..44].copy_from_slice(&word.to_be_bytes());
        emit(&out);
    }
}

fn push_icmp(out: &mut Vec<u8>, kind: u8, code: u8, word: u32, quote: &[u8]) {
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(quote);
}

/// Its checksum is that of zeros, as yet.
fn push_udp(out: &mut Vec<u8>, source_port: u16, destination_port: u16, payload: &[u8]) {
    out.extend_from_slice(&source_port.to_be_bytes());
    out.extend_from_slice(&destination_port.to_be_bytes());
    out.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
}

/// Of IPv6 alone the checksum covers the addresses (RFC 4443 section 2.3).
fn finish_icmp(out: &mut [u8], at: usize, source: IpAddr, destination: IpAddr) {
    if source.is_ipv4() {
        let sum = !checksum::sum(&out[at..]);
        out[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    } else {
        finish_upper(out, at, at + 2, Protocol::ICMPV6, source, destination);
    }
}

fn ip_header(source: IpAddr, destination: IpAddr, protocol: Protocol, upper_len: usize) -> Option<Vec<u8>> {
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => Some(ipv4_header(s, d, protocol, upper_len)),
        (IpAddr::V6(s), IpAddr::V6(d)) => Some(ipv6_header(s, d, protocol, upper_len)),
        _ => None,
    }
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol, upper_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + upper_len);
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&((20 + upper_len) as u16).to_be_bytes());
    // Never fragmented, so its id means nothing (RFC 6864).
    out.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol.0, 0, 0]);
    out.extend_from_slice(&source.octets());
    out.extend_from_slice(&destination.octets());
    finish_v4_header(&mut out, 20);
    out
}

fn finish_v4_header(out: &mut [u8], header_len: usize) {
    out[10..12].copy_from_slice(&[0, 0]);
    let sum = !checksum::sum(&out[..header_len]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr, protocol: Protocol, upper_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + upper_len);
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&(upper_len as u16).to_be_bytes());
    out.extend_from_slice(&[protocol.0, 64]);
    out.extend_from_slice(&source.octets());
    out.extend_from_slice(&destination.octets());
    out
}

fn finish_upper(
    out: &mut [u8],
    upper_at: usize,
    checksum_at: usize,
    protocol: Protocol,
    source: IpAddr,
    destination: IpAddr,
) {
    let pseudo = checksum::pseudo_header(source, destination, protocol.0, out.len() - upper_at);
    let mut sum = !checksum::add(pseudo, checksum::sum(&out[upper_at..]));
    if sum == 0 && protocol == Protocol::UDP {
        sum = 0xffff;
    }
    out[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
}
