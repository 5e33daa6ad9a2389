//! A packet of one family becomes one of the other: IP/ICMP translation (RFC 7915), the packet's half of NAT64 (RFC 6146).
//!
//! [`change_family`] is given what the packet becomes ([`Change`]), for that is the session's to know, and 1 reads its
//! header into what both families can say, 2 writes the other family's, 3 lets ports and checksum follow. ICMP errors come
//! behind that, with what they quote. Options and extension headers are left behind (sections 4.1 and 5.1); the TTL is as it was.
//!
//! What is not a whole ICMP message, a UDP fragment whose datagram has no checksum, and what means nothing in the other family
//! (sections 1.2, 4.2, 4.5, 5.1.1 and 5.2) cannot be translated: `None`. Damage stays damage: a checksum is brought up to date
//! with what changed, never made anew, but for an ICMP error, and for that it must have been right (section 5).
//!
//! Towards IPv4 a packet shrinks, and the new header is written over the end of the old one: nothing else moves, and what was
//! opened where it will be sent from stays there. Towards IPv6 it grows and is copied, once; where IPv4's answers go is into a
//! tunnel, and beside its sealing that is little. A super-packet is changed as one, and has no checksum to follow.

use super::batch::SLOT_BYTES;
use super::checksum;
use super::offload::finish_v4;
use super::parse::{Fragment, Parsed, Upper, be16, be32, parse};
use super::rewrite::{UDP_CHECKSUM, address_sum, update_upper};
use crate::model::Protocol;
use std::net::IpAddr;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;
/// Every IPv6 link carries it (RFC 8200 section 5); an ICMPv6 error is not longer (RFC 4443 section 2.4c).
const V6_MIN_MTU: usize = 1_280;
/// And every IPv4 link this (RFC 791 section 3.2).
const V4_MIN_MTU: usize = 68;
/// Up to here an IPv4 packet may be fragmented on its way: its IPv6 sender cannot be asked for less (section 5.1).
const MAY_BE_FRAGMENTED: usize = V6_MIN_MTU - V6_HEADER + V4_HEADER;
/// What would be read as an extension header, and is none in IPv4; or covers what has changed (AH).
const EXTENSION_HEADERS: [u8; 5] = [0, 43, 44, 51, 60];
/// Likely path MTUs, where a router does not say (RFC 1191 section 7), down to what IPv6 has anyway.
const PLATEAUS: [usize; 7] = [65_535, 32_000, 17_914, 8_166, 4_352, 2_002, 1_492];

/// What a packet becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub ends: Ends,
    /// Of the packet that an ICMP error quotes.
    pub quoted: Option<Ends>,
    /// The largest packet where it came from, in the family it came in; bytes.
    pub mtu_in: u16,
    /// And where it goes, in the family it goes in.
    pub mtu_out: u16,
    /// Identifies it in IPv4 if it is no fragment yet and may become some; to be another for each.
    pub id: u16,
}

/// The two ends of a packet: addresses of one family, and ports; for ICMP echo the identifier is the port of the one who
/// asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
}

/// Changes `packet` into one of the family of `change`'s ends, which is not its own. It comes back in its own place or in
/// `scratch`, which is overwritten; `None` if it has no counterpart.
///
/// What is larger than the way out and may be fragmented comes back with a fragment header, for [`super::fragment`] to cut up.
pub fn change_family<'a>(
    packet: &'a mut [u8],
    parsed: &Parsed,
    change: &Change,
    scratch: &'a mut Vec<u8>,
) -> Option<(&'a mut [u8], Parsed)> {
    match parsed.upper {
        Upper::IcmpError => change_error(packet, parsed, change, scratch),
        Upper::IcmpOther => None,
        _ if change.is_to_v6(parsed)? => to_v6(packet, parsed, change, scratch),
        _ => to_v4(packet, parsed, change),
    }
}

/// The largest packet that fits `mtu` bytes in the other family, its own headers being what they are. An IPv6 sender is
/// never asked for less than 1,280 bytes: what it then sends may be fragmented.
pub fn mtu_across(parsed: &Parsed, mtu: u16) -> u16 {
    let (least, there) = match (parsed.ipv4, parsed.fragment) {
        (true, None) => (0, V6_HEADER),
        (true, Some(_)) => (0, V6_HEADER + FRAGMENT_HEADER),
        (false, _) => (V6_MIN_MTU, V4_HEADER),
    };
    let here = (usize::from(mtu) + parsed.upper_at).saturating_sub(there);
    here.clamp(least, usize::from(u16::MAX)) as u16
}

fn to_v4<'a>(packet: &'a mut [u8], parsed: &Parsed, change: &Change) -> Option<(&'a mut [u8], Parsed)> {
    let header = Header::read_v6(packet)?;
    let old = (parsed.source(packet), parsed.destination(packet));
    // Past all extension headers, so there is room for IPv4's before it.
    let at = header.upper_at.checked_sub(V4_HEADER)?;
    let packet = packet.get_mut(at..parsed.len)?;
    let changed = follow(parsed, &header, change, V4_HEADER)?;
    let largest = changed.largest(packet);
    let mut written = [0; V4_HEADER];
    header.write_v4(&change.ends, change.id, largest, &mut written)?;
    let (room, upper) = packet.split_at_mut_checked(V4_HEADER)?;
    change_upper(upper, &header, parsed, old, change)?;
    room.copy_from_slice(&written);
    let dont_fragment = header.fragment.is_none() && largest > MAY_BE_FRAGMENTED;
    Some((packet, Parsed { dont_fragment, ..changed }))
}

fn to_v6<'a>(
    packet: &[u8],
    parsed: &Parsed,
    change: &Change,
    scratch: &'a mut Vec<u8>,
) -> Option<(&'a mut [u8], Parsed)> {
    let header = Header::read_v4(packet)?;
    let upper = packet.get(header.upper_at..parsed.len)?;
    let largest = V6_HEADER + parsed.largest(packet).saturating_sub(parsed.upper_at);
    let to_be_cut = !header.dont_fragment && largest > usize::from(change.mtu_out);
    let part = header.fragment.or(to_be_cut.then_some(Fragment { id: header.id, offset: 0, more: false }));
    let mut headers = [0; V6_HEADER + FRAGMENT_HEADER];
    let upper_at = header.write_v6(&change.ends, part, &mut headers)?;
    // A worker that it is handed over to would have no room for more.
    if upper_at + upper.len() > SLOT_BYTES {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(&headers[..upper_at]);
    scratch.extend_from_slice(upper);
    let changed = follow(parsed, &header, change, upper_at)?;
    let old = (parsed.source(packet), parsed.destination(packet));
    change_upper(&mut scratch[upper_at..], &header, parsed, old, change)?;
    let dont_fragment = part.is_none() || header.dont_fragment;
    Some((scratch, Parsed { dont_fragment, ..changed }))
}

/// What is to be known of the packet when it has changed: its upper layer is at `upper_at` then.
fn follow(parsed: &Parsed, header: &Header, change: &Change, upper_at: usize) -> Option<Parsed> {
    let Ends { source, destination } = change.ends;
    let upper = match parsed.upper {
        Upper::Tcp { flags, .. } => {
            Upper::Tcp { source_port: source.1, destination_port: destination.1, flags }
        }
        Upper::Udp { .. } => Upper::Udp { source_port: source.1, destination_port: destination.1 },
        Upper::EchoRequest { .. } => Upper::EchoRequest { id: source.1 },
        Upper::EchoReply { .. } => Upper::EchoReply { id: destination.1 },
        Upper::Other | Upper::LaterFragment => parsed.upper,
        Upper::IcmpError | Upper::IcmpOther => return None,
    };
    let fragment = parsed.fragment.map(|fragment| Fragment { id: fragment.id & 0xffff, ..fragment });
    Some(Parsed {
        ipv4: source.0.is_ipv4(),
        protocol: across(header.protocol),
        upper_at,
        len: upper_at + header.upper_len,
        fragment,
        upper,
        ..*parsed
    })
}

/// Ports and checksum of a packet that is no ICMP error; `upper` is the packet behind its headers.
fn change_upper(
    upper: &mut [u8],
    header: &Header,
    parsed: &Parsed,
    old: (IpAddr, IpAddr),
    change: &Change,
) -> Option<()> {
    if header.is_later_fragment() {
        return (!header.protocol.is_icmp()).then_some(());
    }
    // The pseudo header has the whole message's length (section 1.2).
    if header.protocol.is_icmp() && parsed.fragment.is_some() {
        return None;
    }
    let without_checksum = parsed.segment == 0
        && header.protocol == Protocol::UDP
        && parsed.ipv4
        && upper.get(6..8) == Some(&[0, 0]);
    // What is not here cannot be summed.
    if without_checksum && parsed.fragment.is_some() {
        return None;
    }
    follow_upper(upper, header, old, &change.ends, parsed.segment == 0)?;
    if without_checksum {
        compute_udp(upper, &change.ends)?;
    }
    Some(())
}

/// Gives the upper layer other ports and, where `sums`, brings its checksum up to date with them and the addresses. `upper` may
/// be the beginning alone. UDP without a checksum stays without one: IPv6 has that too (RFC 6935).
fn follow_upper(
    upper: &mut [u8],
    header: &Header,
    old: (IpAddr, IpAddr),
    new: &Ends,
    sums: bool,
) -> Option<()> {
    let protocol = header.protocol;
    let addresses = |source, destination| checksum::add(address_sum(source), address_sum(destination));
    let (before, after) = (addresses(old.0, old.1), addresses(new.source.0, new.destination.0));
    match protocol {
        Protocol::TCP | Protocol::UDP => {
            let ports = upper.get_mut(..4)?;
            let before = checksum::add(before, checksum::sum(ports));
            ports[..2].copy_from_slice(&new.source.1.to_be_bytes());
            ports[2..].copy_from_slice(&new.destination.1.to_be_bytes());
            let after = checksum::add(after, checksum::sum(ports));
            let at = if protocol == Protocol::TCP { 16 } else { 6 };
            if sums && upper.len() >= at + 2 {
                update_upper(upper, at, protocol, before, after);
            }
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let message: &mut [u8] = upper.get_mut(..8)?;
            let before = checksum::add(be16(message, 0), be16(message, 4));
            let (kind, id) = match message[0] {
                8 => (128, new.source.1),
                128 => (8, new.source.1),
                0 => (129, new.destination.1),
                129 => (0, new.destination.1),
                _ => return None,
            };
            message[0] = kind;
            message[4..6].copy_from_slice(&id.to_be_bytes());
            let after = checksum::add(be16(message, 0), be16(message, 4));
            // ICMPv4 has no pseudo header; the other family's protocol number is in ICMPv6's.
            let pseudo = |source, destination| {
                checksum::pseudo_header(source, destination, Protocol::ICMPV6.0, header.upper_len)
            };
            let (before, after) = match old.0 {
                IpAddr::V4(_) => (before, checksum::add(after, pseudo(new.source.0, new.destination.0))),
                IpAddr::V6(_) => (checksum::add(before, pseudo(old.0, old.1)), after),
            };
            update_upper(message, 2, protocol, before, after);
        }
        _ if UDP_CHECKSUM.contains(&protocol) && upper.len() >= 8 => {
            update_upper(upper, 6, protocol, before, after);
        }
        _ => {}
    }
    Some(())
}

/// A UDP checksum where there was none (section 4.5).
fn compute_udp(upper: &mut [u8], ends: &Ends) -> Option<()> {
    let len = usize::from(be16(upper, 4));
    let datagram = upper.get_mut(..len)?;
    let pseudo = checksum::pseudo_header(ends.source.0, ends.destination.0, Protocol::UDP.0, len);
    let sum = !checksum::add(pseudo, checksum::sum(datagram));
    let sum = if sum == 0 { 0xffff } else { sum };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

// Headers.

/// What both families' headers say.
#[derive(Clone, Copy, Debug)]
struct Header {
    traffic_class: u8,
    ttl: u8,
    /// The upper layer's, in the family it was read in.
    protocol: Protocol,
    /// Where the upper layer begins, from the beginning of the header.
    upper_at: usize,
    /// By the header's own count: what an ICMP error quotes is shorter.
    upper_len: usize,
    /// IPv4's identification.
    id: u32,
    dont_fragment: bool,
    /// Also of an IPv6 packet whose one fragment is all of it (RFC 6946).
    fragment: Option<Fragment>,
}

impl Header {
    fn read_v4(bytes: &[u8]) -> Option<Header> {
        let header: &[u8; V4_HEADER] = bytes.first_chunk()?;
        let upper_at = usize::from(header[0] & 0x0f) * 4;
        if upper_at < V4_HEADER || EXTENSION_HEADERS.contains(&header[9]) {
            return None;
        }
        let (id, word) = (u32::from(be16(header, 4)), be16(header, 6));
        let (offset, more) = ((word & 0x1fff) * 8, word & 0x2000 != 0);
        Some(Header {
            traffic_class: header[1],
            ttl: header[8],
            protocol: Protocol(header[9]),
            upper_at,
            upper_len: usize::from(be16(header, 2)).checked_sub(upper_at)?,
            id,
            dont_fragment: word & 0x4000 != 0,
            fragment: (more || offset > 0).then_some(Fragment { id, offset, more }),
        })
    }

    fn read_v6(bytes: &[u8]) -> Option<Header> {
        let header: &[u8; V6_HEADER] = bytes.first_chunk()?;
        let (mut protocol, mut at, mut fragment) = (header[6], V6_HEADER, None);
        while EXTENSION_HEADERS.contains(&protocol) {
            let extension: &[u8; 8] = bytes.get(at..)?.first_chunk()?;
            match protocol {
                // Section 5.1.1: nothing but the upper layer may come behind the fragment header.
                _ if fragment.is_some() => return None,
                // A routing header with a way still to go (section 5.1).
                43 if extension[3] != 0 => return None,
                0 | 43 | 60 => at += (usize::from(extension[1]) + 1) * 8,
                44 => {
                    let word = be16(extension, 2);
                    let (offset, more) = (word & 0xfff8, word & 1 != 0);
                    fragment = Some(Fragment { id: be32(extension, 4), offset, more });
                    at += FRAGMENT_HEADER;
                }
                _ => return None,
            }
            protocol = extension[0];
        }
        Some(Header {
            traffic_class: (be16(header, 0) >> 4) as u8,
            ttl: header[7],
            protocol: Protocol(protocol),
            upper_at: at,
            upper_len: (V6_HEADER + usize::from(be16(header, 4))).checked_sub(at)?,
            id: 0,
            dont_fragment: true,
            fragment,
        })
    }

    /// The header in IPv4 (section 5.1); `largest` is the packet's length, or its longest segment's. `id` is for what is no
    /// fragment, but may become some.
    fn write_v4(&self, ends: &Ends, id: u16, largest: usize, out: &mut [u8; V4_HEADER]) -> Option<()> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (ends.source.0, ends.destination.0) else {
            return None;
        };
        let (id, word) = match self.fragment {
            Some(Fragment { id, offset, more }) => {
                if usize::from(offset) + self.upper_len > usize::from(u16::MAX)
                    || more && !self.upper_len.is_multiple_of(8)
                {
                    return None;
                }
                (id as u16, (offset / 8) | if more { 0x2000 } else { 0 })
            }
            None if largest <= MAY_BE_FRAGMENTED => (id, 0),
            // Never fragmented, so its id means nothing (RFC 6864).
            None => (0, 0x4000),
        };
        let len = u16::try_from(V4_HEADER + self.upper_len).ok()?;
        out[..2].copy_from_slice(&[0x45, self.traffic_class]);
        out[2..4].copy_from_slice(&len.to_be_bytes());
        out[4..6].copy_from_slice(&id.to_be_bytes());
        out[6..8].copy_from_slice(&word.to_be_bytes());
        out[8..10].copy_from_slice(&[self.ttl, across(self.protocol).0]);
        out[12..16].copy_from_slice(&source.octets());
        out[16..].copy_from_slice(&destination.octets());
        finish_v4(out, V4_HEADER);
        Some(())
    }

    /// The header in IPv6 (section 4.1), with a fragment header if it is to be `part` of a datagram; gives their length.
    fn write_v6(
        &self,
        ends: &Ends,
        part: Option<Fragment>,
        out: &mut [u8; V6_HEADER + FRAGMENT_HEADER],
    ) -> Option<usize> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (ends.source.0, ends.destination.0) else {
            return None;
        };
        let protocol = across(self.protocol).0;
        let upper_at = if part.is_some() { V6_HEADER + FRAGMENT_HEADER } else { V6_HEADER };
        let len = u16::try_from(upper_at - V6_HEADER + self.upper_len).ok()?;
        let class = self.traffic_class;
        out[..4].copy_from_slice(&[0x60 | class >> 4, class << 4, 0, 0]);
        out[4..6].copy_from_slice(&len.to_be_bytes());
        out[6..8].copy_from_slice(&[if part.is_some() { 44 } else { protocol }, self.ttl]);
        out[8..24].copy_from_slice(&source.octets());
        out[24..40].copy_from_slice(&destination.octets());
        if let Some(Fragment { id, offset, more }) = part {
            let word = offset & 0xfff8 | u16::from(more);
            out[40..42].copy_from_slice(&[protocol, 0]);
            out[42..44].copy_from_slice(&word.to_be_bytes());
            out[44..48].copy_from_slice(&id.to_be_bytes());
        }
        Some(upper_at)
    }

    fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset > 0)
    }
}

impl Change {
    /// Whether the packet becomes one of IPv6; `None` if it is one already, or IPv4 likewise.
    fn is_to_v6(&self, parsed: &Parsed) -> Option<bool> {
        let to_v6 = self.ends.source.0.is_ipv6();
        (to_v6 == parsed.ipv4).then_some(to_v6)
    }
}

/// The protocol's number in the other family.
fn across(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::ICMP => Protocol::ICMPV6,
        Protocol::ICMPV6 => Protocol::ICMP,
        other => other,
    }
}

// ICMP errors.

/// An ICMP error with what it quotes, which is translated by the same rules (sections 4.2, 4.3, 5.2, 5.3).
fn change_error<'a>(
    packet: &[u8],
    parsed: &Parsed,
    change: &Change,
    scratch: &'a mut Vec<u8>,
) -> Option<(&'a mut [u8], Parsed)> {
    let to_v6 = change.is_to_v6(parsed)?;
    let quoted = change.quoted?;
    let embedded = parsed.embedded(packet)?;
    let message = packet.get(parsed.upper_at..parsed.len)?;
    if !checksum_holds(message, packet, parsed) {
        return None;
    }
    let read = if to_v6 { Header::read_v4 } else { Header::read_v6 };
    let (outer, inner) = (read(packet)?, read(packet.get(embedded.ip_at..)?)?);
    let (quote, extension) = split_extension(message, !to_v6)?;
    let head = if to_v6 { head_v6(message, &inner, change)? } else { head_v4(message, &inner, change)? };

    scratch.clear();
    scratch.resize(if to_v6 { V6_HEADER } else { V4_HEADER }, 0);
    let message_at = scratch.len();
    scratch.extend_from_slice(&head);
    push_header(&inner, &quoted, to_v6, scratch)?;
    let upper_at = scratch.len();
    scratch.extend_from_slice(quote.get(inner.upper_at..)?);
    let old = (embedded.source, embedded.destination);
    follow_upper(&mut scratch[upper_at..], &inner, old, &quoted, true)?;
    push_extension(extension, to_v6, message_at, scratch);
    if to_v6 {
        scratch.truncate(V6_MIN_MTU);
    }

    let outer = Header { upper_len: scratch.len() - message_at, ..outer };
    let (headers, message) = scratch.split_at_mut(message_at);
    let pseudo = if to_v6 {
        let mut both = [0; V6_HEADER + FRAGMENT_HEADER];
        outer.write_v6(&change.ends, None, &mut both)?;
        headers.copy_from_slice(&both[..V6_HEADER]);
        let (source, destination) = (change.ends.source.0, change.ends.destination.0);
        checksum::pseudo_header(source, destination, Protocol::ICMPV6.0, message.len())
    } else {
        outer.write_v4(&change.ends, change.id, V4_HEADER + message.len(), headers.first_chunk_mut()?)?;
        0
    };
    let sum = !checksum::add(pseudo, checksum::sum(message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let parsed = parse(scratch).ok()?;
    Some((scratch, parsed))
}

/// Whether an ICMP message is as it was sent: it gets a new checksum, and that must not make damage look whole.
fn checksum_holds(message: &[u8], packet: &[u8], parsed: &Parsed) -> bool {
    let pseudo = if parsed.ipv4 {
        0
    } else {
        let (source, destination) = (parsed.source(packet), parsed.destination(packet));
        checksum::pseudo_header(source, destination, Protocol::ICMPV6.0, message.len())
    };
    checksum::add(pseudo, checksum::sum(message)) == 0xffff
}

/// The quoted packet, and what RFC 4884 has behind it: an error says how long its quote is if it has an extension.
fn split_extension(message: &[u8], is_v6: bool) -> Option<(&[u8], &[u8])> {
    let (head, body) = message.split_at_checked(8)?;
    let said = match (is_v6, head[0]) {
        (true, 1 | 3) => usize::from(head[4]) * 8,
        (false, 3 | 11 | 12) => usize::from(head[5]) * 4,
        _ => 0,
    };
    let len = if said == 0 { body.len() } else { said.min(body.len()) };
    Some(body.split_at(len))
}

/// The first 8 bytes of an ICMPv4 error in ICMPv6, without checksum and length attribute (section 4.2).
fn head_v6(message: &[u8], inner: &Header, change: &Change) -> Option<[u8; 8]> {
    /// Figure 3, by IPv4's pointer.
    const POINTERS: [Option<u8>; 20] = {
        let mut to = [None; 20];
        (to[0], to[1], to[2], to[3], to[8], to[9]) = (Some(0), Some(1), Some(4), Some(4), Some(7), Some(6));
        (to[12], to[13], to[14], to[15]) = (Some(8), Some(8), Some(8), Some(8));
        (to[16], to[17], to[18], to[19]) = (Some(24), Some(24), Some(24), Some(24));
        to
    };
    let (kind, code, word) = match (message[0], message[1]) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, 0),
        // The protocol is not known there: it points to the next header field.
        (3, 2) => (4, 1, 6),
        (3, 3) => (1, 4, 0),
        (3, 4) => (2, 0, mtu_v6(be16(message, 6).into(), inner, change)),
        (3, 9 | 10 | 13 | 15) => (1, 1, 0),
        (11, code) => (3, code, 0),
        (12, 0 | 2) => (4, 0, (*POINTERS.get(usize::from(message[4]))?)?.into()),
        _ => return None,
    };
    let [a, b, c, d] = u32::to_be_bytes(word);
    Some([kind, code, 0, 0, a, b, c, d])
}

/// The first 8 bytes of an ICMPv6 error in ICMPv4, likewise (section 5.2).
fn head_v4(message: &[u8], inner: &Header, change: &Change) -> Option<[u8; 8]> {
    let word = be32(message, 4);
    let (kind, code, word) = match (message[0], message[1]) {
        (1, 0 | 2 | 3) => (3, 1, 0),
        (1, 1) => (3, 10, 0),
        (1, 4) => (3, 3, 0),
        (2, _) => (3, 4, mtu_v4(word as usize, inner, change)),
        (3, code) => (11, code, 0),
        // Figure 6.
        (4, 0) => {
            let pointer = match word {
                0 | 1 => word,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..24 => 12,
                24..40 => 16,
                _ => return None,
            };
            (12, 0, pointer << 24)
        }
        (4, 1) => (3, 2, 0),
        _ => return None,
    };
    let [a, b, c, d] = u32::to_be_bytes(word);
    Some([kind, code, 0, 0, a, b, c, d])
}

/// What an IPv6 sender is told where IPv4 fits `said` bytes, or does not say.
fn mtu_v6(said: usize, inner: &Header, change: &Change) -> u32 {
    const GROWS: usize = V6_HEADER - V4_HEADER;
    let len = inner.upper_at + inner.upper_len;
    let likely = || PLATEAUS.into_iter().find(|plateau| *plateau < len).unwrap_or(V6_MIN_MTU);
    let v4 = if said == 0 { likely() } else { said };
    let fits = (v4 + GROWS).min(change.mtu_out.into()).min(usize::from(change.mtu_in) + GROWS);
    fits.max(V6_MIN_MTU) as u32
}

/// What an IPv4 sender is told where IPv6 fits `said` bytes.
fn mtu_v4(said: usize, inner: &Header, change: &Change) -> u32 {
    const SHRINKS: usize = V6_HEADER - V4_HEADER;
    let fragment = if inner.fragment.is_some() { FRAGMENT_HEADER } else { 0 };
    let fits = said.min(change.mtu_in.into()).saturating_sub(SHRINKS + fragment);
    fits.min(change.mtu_out.into()).max(V4_MIN_MTU) as u32
}

/// The quoted packet's header in the other family.
fn push_header(inner: &Header, ends: &Ends, to_v6: bool, out: &mut Vec<u8>) -> Option<()> {
    if to_v6 {
        let mut header = [0; V6_HEADER + FRAGMENT_HEADER];
        let len = inner.write_v6(ends, inner.fragment, &mut header)?;
        out.extend_from_slice(&header[..len]);
    } else {
        let mut header = [0; V4_HEADER];
        // What identified it is forgotten.
        inner.write_v4(ends, 0, V4_HEADER + inner.upper_len, &mut header)?;
        out.extend_from_slice(&header);
    }
    Some(())
}

/// Puts the extension behind the quote, and in the head how long that is now, padded to the family's unit and to the least
/// RFC 4884 section 3 has; leaves it out where the error has no place for it.
fn push_extension(extension: &[u8], to_v6: bool, message_at: usize, out: &mut Vec<u8>) {
    const LEAST: usize = 128;
    let (unit, length_at) = if to_v6 { (8, 4) } else { (4, 5) };
    let takes_one = match (to_v6, out[message_at]) {
        (true, kind) => matches!(kind, 1 | 3),
        (false, kind) => matches!(kind, 3 | 11 | 12),
    };
    let quote_at = message_at + 8;
    let quote = (out.len() - quote_at).max(LEAST).next_multiple_of(unit);
    let Ok(units) = u8::try_from(quote / unit) else { return };
    let fits = !to_v6 || quote_at + quote + extension.len() <= V6_MIN_MTU;
    if extension.is_empty() || !takes_one || !fits {
        return;
    }
    out.resize(quote_at + quote, 0);
    out[message_at + length_at] = units;
    out.extend_from_slice(extension);
}
