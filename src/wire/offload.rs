//! Super-packets: many segments of one flow under one header, as Linux hands them over and takes them (TSO, USO, GRO).
//!
//! A super-packet is parsed, looked up and translated once; only the cipher sees its segments. Its upper checksum is the
//! pseudo header's sum alone, for whoever cuts it up to finish (VIRTIO 1.2 section 5.1.6.2, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
//! [`split`] cuts up; `coalesce` puts together.

use super::checksum;
use super::parse::{Parsed, Upper, be16, be32, tcp_flags};
use crate::model::Protocol;

/// Cuts a super-packet into its segments, checksums complete; `scratch` is overwritten.
pub fn split(packet: &[u8], parsed: &Parsed, scratch: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) {
    let headers = parsed.payload_at(packet);
    let payload = &packet[headers..parsed.len];
    let at = parsed.upper_at;
    let is_v4 = parsed.ipv4;
    let tcp = matches!(parsed.upper, Upper::Tcp { .. });
    // In IPv6 it has one that `siit` made, to be cut up further.
    let id_at = if is_v4 { Some(4) } else { (packet[6] == 44).then_some(46) };
    let first_id = id_at.map_or(0, |at| be16(packet, at));
    let first_sequence = if tcp { be32(packet, at + 4) } else { 0 };
    let segment = usize::from(parsed.segment).max(1);
    let last = payload.len().div_ceil(segment).saturating_sub(1);
    for (index, part) in payload.chunks(segment).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(&packet[..headers]);
        scratch.extend_from_slice(part);
        let len = scratch.len();
        set_ip_len(scratch, is_v4, len);
        if let Some(id_at) = id_at {
            scratch[id_at..id_at + 2].copy_from_slice(&first_id.wrapping_add(index as u16).to_be_bytes());
        }
        if is_v4 {
            finish_v4(scratch, at);
        }
        if tcp {
            let sequence = first_sequence.wrapping_add((index * segment) as u32);
            scratch[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            // What ends the data belongs to its last segment, what the congestion window says to the first (RFC 3168).
            if index != last {
                scratch[at + 13] &= !(tcp_flags::FIN | tcp_flags::PSH);
            }
            if index != 0 {
                scratch[at + 13] &= !tcp_flags::CWR;
            }
        } else {
            scratch[at + 4..at + 6].copy_from_slice(&((len - at) as u16).to_be_bytes());
        }
        let checksum_at = at + if tcp { 16 } else { 6 };
        set_partial(scratch, parsed, checksum_at);
        complete(scratch, at, checksum_at);
        emit(scratch);
    }
}

/// Takes the last segment off a super-packet of several, as if the network had lost it; its checksum is not kept.
pub fn lose_last(packet: &mut [u8], parsed: &mut Parsed) {
    let headers = parsed.payload_at(packet);
    let whole = parsed.len.saturating_sub(headers);
    let segment = usize::from(parsed.segment).max(1);
    let kept = (whole.div_ceil(segment).saturating_sub(1)) * segment;
    if kept == 0 {
        return;
    }
    parsed.len = headers + kept;
    set_ip_len(packet, parsed.ipv4, parsed.len);
    if parsed.ipv4 {
        finish_v4(packet, parsed.upper_at);
    }
    match parsed.protocol {
        // What ended the data ended it in the segment that is gone.
        Protocol::TCP => packet[parsed.upper_at + 13] &= !(tcp_flags::FIN | tcp_flags::PSH),
        _ => {
            let len = (parsed.len - parsed.upper_at) as u16;
            packet[parsed.upper_at + 4..parsed.upper_at + 6].copy_from_slice(&len.to_be_bytes());
        }
    }
}

/// Makes a super-packet's checksum what the kernel expects of one: the pseudo header's sum.
pub fn prepare(packet: &mut [u8], parsed: &Parsed) {
    let checksum_at = parsed.upper_at + if parsed.protocol == Protocol::TCP { 16 } else { 6 };
    set_partial(&mut packet[..parsed.len], parsed, checksum_at);
}

/// Finishes a checksum whose field holds the sum of what is not in the packet: `at` to the end is summed into it.
pub fn complete(packet: &mut [u8], at: usize, checksum_at: usize) {
    if checksum_at + 2 > packet.len() || at > checksum_at {
        return;
    }
    let sum = !checksum::sum(&packet[at..]);
    // For UDP a computed zero is sent as all ones (RFC 768); for TCP the two are the same number.
    let sum = if sum == 0 { 0xffff } else { sum };
    packet[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
}

pub(super) fn set_ip_len(packet: &mut [u8], is_v4: bool, len: usize) {
    match is_v4 {
        true => packet[2..4].copy_from_slice(&(len as u16).to_be_bytes()),
        false => packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes()),
    }
}

pub(super) fn finish_v4(packet: &mut [u8], header_len: usize) {
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = !checksum::sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Both addresses, as they stand in a packet's header one behind the other.
pub(super) fn addresses_of(packet: &[u8], ipv4: bool) -> &[u8] {
    if ipv4 { &packet[12..20] } else { &packet[8..40] }
}

/// The pseudo header's sum, where the checksum will be.
fn set_partial(packet: &mut [u8], parsed: &Parsed, checksum_at: usize) {
    let len = packet.len() - parsed.upper_at;
    let sum = checksum::pseudo_header_of(addresses_of(packet, parsed.ipv4), parsed.protocol.0, len);
    packet[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
}

impl Parsed {
    /// Where the payload begins, for TCP and UDP.
    pub fn payload_at(&self, packet: &[u8]) -> usize {
        self.upper_at
            + match self.protocol {
                Protocol::TCP => usize::from(packet[self.upper_at + 12] >> 4) * 4,
                _ => 8,
            }
    }

    /// How many packets it is on the wire, and how many bytes they have.
    pub fn on_the_wire(&self, packet: &[u8]) -> (u64, u64) {
        if self.segment == 0 {
            return (1, self.len as u64);
        }
        let headers = self.payload_at(packet);
        let segments = self.len.saturating_sub(headers).div_ceil(usize::from(self.segment)).max(1);
        (segments as u64, (self.len + (segments - 1) * headers) as u64)
    }

    /// The size of the largest packet it is on the wire.
    pub fn largest(&self, packet: &[u8]) -> usize {
        match self.segment {
            0 => self.len,
            segment => self.len.min(self.payload_at(packet) + usize::from(segment)),
        }
    }
}
