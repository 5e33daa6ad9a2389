//! The packets inside the tunnels: what is sent, and how a sample of what arrives is recognised.

use std::net::{Ipv4Addr, SocketAddrV4};

/// IPv4 and UDP headers.
pub const HEADERS: usize = 28;
/// IPv4 and TCP headers.
pub const TCP_HEADERS: usize = 40;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// Where a TCP segment's sequence number and checksum stand.
const SEQUENCE_AT: usize = 24;
const TCP_CHECKSUM_AT: usize = 36;

/// An IPv4 UDP packet with both checksums: without, nothing on the way may put it into a super-packet.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = with_ports(UDP, HEADERS, from, to, payload);
    let len = packet.len() as u16 - 20;
    packet[24..26].copy_from_slice(&len.to_be_bytes());
    let checksum = match upper_checksum(&packet) {
        0 => 0xffff,
        checksum => checksum,
    };
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// A TCP segment in the middle of a connection, with the sequence number 0.
pub fn tcp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = with_ports(TCP, TCP_HEADERS, from, to, payload);
    packet[31] = 1; // Acknowledges something.
    packet[32] = 5 << 4;
    packet[33] = 0x10; // ACK
    packet[34..36].copy_from_slice(&[0xff; 2]);
    let checksum = upper_checksum(&packet);
    packet[TCP_CHECKSUM_AT..][..2].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Gives a segment that [`tcp`] made another sequence number.
pub fn set_sequence(packet: &mut [u8], sequence: u32) {
    let old = sum(&packet[SEQUENCE_AT..][..4]);
    packet[SEQUENCE_AT..][..4].copy_from_slice(&sequence.to_be_bytes());
    let new = sum(&packet[SEQUENCE_AT..][..4]);
    let before = u16::from_be_bytes([packet[TCP_CHECKSUM_AT], packet[TCP_CHECKSUM_AT + 1]]);
    // RFC 1624 section 3, equation 3.
    let checksum = finish(u32::from(!before) + u32::from(!fold(old)) + new);
    packet[TCP_CHECKSUM_AT..][..2].copy_from_slice(&checksum.to_be_bytes());
}

/// An IPv4 packet whose upper layer begins with two ports; the rest of its `headers` is left zero.
fn with_ports(protocol: u8, headers: usize, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; headers];
    packet.extend_from_slice(payload);
    let len = packet.len() as u16;
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[6] = 0x40; // DF
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    let header = finish(sum(&packet[..20]));
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet
}

/// Of a packet whose upper checksum is still zero.
fn upper_checksum(packet: &[u8]) -> u16 {
    let pseudo = sum(&packet[12..20]) + u32::from(packet[9]) + packet.len() as u32 - 20;
    finish(pseudo + sum(&packet[20..]))
}

/// The source address and payload of an IPv4 UDP packet without options; `None` for anything else.
pub fn udp_payload(packet: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    if packet.len() < HEADERS || packet[0] != 0x45 || packet[9] != UDP {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let ip = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    let from = SocketAddrV4::new(ip, u16::from_be_bytes([packet[20], packet[21]]));
    packet.get(HEADERS..len).map(|payload| (from, payload))
}

/// The payload that belongs to peer `index` and to nobody else.
pub fn payload(index: usize, len: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(len);
    payload.extend_from_slice(&(index as u32).to_be_bytes());
    payload.extend((4..len).map(|at| (at * 31 + index * 7) as u8));
    payload.truncate(len);
    payload
}

/// Whose payload it is.
pub fn index_of(payload: &[u8]) -> Option<usize> {
    let first = payload.first_chunk::<4>()?;
    usize::try_from(u32::from_be_bytes(*first)).ok()
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    words.sum()
}

fn finish(sum: u32) -> u16 {
    !fold(sum)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
