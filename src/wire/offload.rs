//! Super-packets: many segments of one flow under one header, as Linux hands them over and takes them (TSO, USO, GRO).
//!
//! A super-packet is parsed, looked up and translated once; only the cipher sees its segments. Its upper checksum is the
//! pseudo header's sum alone, for whoever cuts it up to finish (VIRTIO 1.2 section 5.1.6.2, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
//! [`split`] cuts up; [`Coalescer`] puts together.

use super::checksum;
use super::parse::{Parsed, Upper, be16, be32, tcp_flags};
use crate::model::{DeviceId, Protocol};

/// Flows under way at once in one batch; one more takes the place of another, which then stays as long as it is.
const SLOTS: usize = 256;
/// What a header's 16-bit length can say.
const MAX_BYTES: usize = 65_535;
/// As many as Linux cuts up at once (UDP_MAX_SEGMENTS in kernels before 6.9).
const MAX_SEGMENTS: u16 = 64;

/// Cuts a super-packet into its segments, checksums complete; `scratch` is overwritten.
pub fn split(packet: &[u8], parsed: &Parsed, scratch: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) {
    let headers = parsed.payload_at(packet);
    let payload = &packet[headers..parsed.len];
    let at = parsed.upper_at;
    let is_v4 = parsed.source.is_ipv4();
    let tcp = matches!(parsed.upper, Upper::Tcp { .. });
    let first_id = if is_v4 { be16(packet, 4) } else { 0 };
    let first_sequence = if tcp { be32(packet, at + 4) } else { 0 };
    let segment = usize::from(parsed.segment).max(1);
    let last = payload.len().div_ceil(segment).saturating_sub(1);
    for (index, part) in payload.chunks(segment).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(&packet[..headers]);
        scratch.extend_from_slice(part);
        let len = scratch.len();
        set_ip_len(scratch, is_v4, len);
        if is_v4 {
            scratch[4..6].copy_from_slice(&first_id.wrapping_add(index as u16).to_be_bytes());
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

/// A super-packet in the making; of one segment, just a packet.
#[derive(Default)]
struct Super {
    device: DeviceId,
    bytes: Vec<u8>,
    headers: usize,
    segment: usize,
    segments: u16,
    /// TCP's, of the segment that may be appended.
    next_sequence: u32,
    /// The first segment's checksum has been found right. It is looked at when there is a second: most packets stay alone.
    verified: bool,
}

/// Puts consecutive segments of a flow together.
pub(super) struct Coalescer {
    supers: Vec<Super>,
    used: usize,
    /// By hash of the flow: which super-packet it may still be appended to, counted from 1.
    open: Box<[u32; SLOTS]>,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self { supers: Vec::new(), used: 0, open: Box::new([0; SLOTS]) }
    }
}

impl Coalescer {
    /// Takes a packet for `device` in: `None` if it was appended to an earlier one of its flow, else where it is now.
    /// `Err` for what cannot be part of a super-packet; no later packet of its flow is then put before it.
    pub(super) fn push(
        &mut self,
        device: DeviceId,
        packet: &[u8],
        parsed: &Parsed,
    ) -> Result<Option<usize>, ()> {
        let Some(slot) = slot_of(parsed) else { return Err(()) };
        let Some((payload, sequence, ends)) = mergeable(packet, parsed) else {
            self.open[slot] = 0;
            return Err(());
        };
        let appended = match (self.open[slot] as usize).checked_sub(1) {
            Some(at) => self.supers[at].append(device, packet, parsed, payload, sequence),
            None => false,
        };
        let at = match appended {
            true => self.open[slot] as usize - 1,
            false => self.begin(device, packet, payload, sequence),
        };
        let full = ends || payload < self.supers[at].segment || self.supers[at].segments >= MAX_SEGMENTS;
        self.open[slot] = if full { 0 } else { at as u32 + 1 };
        Ok((!appended).then_some(at))
    }

    /// The packet at `at`, and the payload of each of its segments; 0 if it is a single packet.
    pub(super) fn get(&self, at: usize) -> (&[u8], u16) {
        let made = &self.supers[at];
        (&made.bytes, if made.segments > 1 { made.segment as u16 } else { 0 })
    }

    pub(super) fn clear(&mut self) {
        if self.used > 0 {
            self.used = 0;
            self.open.fill(0);
        }
    }

    fn begin(&mut self, device: DeviceId, packet: &[u8], payload: usize, sequence: u32) -> usize {
        if self.used == self.supers.len() {
            self.supers.push(Super::default());
        }
        let at = self.used;
        self.used += 1;
        let made = &mut self.supers[at];
        made.device = device;
        made.bytes.clear();
        made.bytes.extend_from_slice(packet);
        made.headers = packet.len() - payload;
        made.segment = payload;
        made.segments = 1;
        made.next_sequence = sequence.wrapping_add(payload as u32);
        made.verified = false;
        at
    }
}

impl Super {
    fn append(
        &mut self,
        device: DeviceId,
        packet: &[u8],
        parsed: &Parsed,
        payload: usize,
        sequence: u32,
    ) -> bool {
        let headers = packet.len() - payload;
        let tcp = matches!(parsed.upper, Upper::Tcp { .. });
        if self.device != device
            || self.headers != headers
            || payload > self.segment
            || self.bytes.len() + payload > MAX_BYTES
            || tcp && sequence != self.next_sequence
            || !same_headers(&self.bytes[..headers], &packet[..headers], parsed)
            || !self.verified && !checksum_holds(&self.bytes, parsed)
            || !checksum_holds(packet, parsed)
        {
            return false;
        }
        self.verified = true;
        self.bytes.extend_from_slice(&packet[headers..]);
        self.segments += 1;
        self.next_sequence = sequence.wrapping_add(payload as u32);
        let (at, len) = (parsed.upper_at, self.bytes.len());
        set_ip_len(&mut self.bytes, parsed.source.is_ipv4(), len);
        if parsed.source.is_ipv4() {
            finish_v4(&mut self.bytes, at);
        }
        let checksum_at = if tcp {
            self.bytes[at + 13] |= packet[at + 13] & tcp_flags::PSH;
            at + 16
        } else {
            self.bytes[at + 4..at + 6].copy_from_slice(&((len - at) as u16).to_be_bytes());
            at + 6
        };
        set_partial(&mut self.bytes, parsed, checksum_at);
        true
    }
}

/// Whether the upper checksum of a packet of `parsed`'s flow is right: a super-packet gets a new one, and that must not
/// make damage look whole.
fn checksum_holds(packet: &[u8], parsed: &Parsed) -> bool {
    let upper = &packet[parsed.upper_at..];
    let pseudo = checksum::pseudo_header(parsed.source, parsed.destination, parsed.protocol.0, upper.len());
    checksum::add(pseudo, checksum::sum(upper)) == 0xffff
}

/// Payload length, TCP sequence number, and whether nothing may follow; `None` if the packet must go by itself.
fn mergeable(packet: &[u8], parsed: &Parsed) -> Option<(usize, u32, bool)> {
    let bare_ip = if parsed.source.is_ipv4() { 20 } else { 40 };
    if parsed.segment > 0 || parsed.fragment.is_some() || !parsed.dont_fragment || parsed.upper_at != bare_ip
    {
        return None;
    }
    let payload = parsed.len.checked_sub(parsed.payload_at(packet))?;
    let (sequence, ends) = match parsed.upper {
        Upper::Tcp { flags, .. } if flags & !tcp_flags::PSH == tcp_flags::ACK => {
            (be32(packet, parsed.upper_at + 4), flags & tcp_flags::PSH != 0)
        }
        Upper::Udp { .. }
            if be16(packet, parsed.upper_at + 6) != 0
                && usize::from(be16(packet, parsed.upper_at + 4)) == parsed.len - parsed.upper_at =>
        {
            (0, false)
        }
        _ => return None,
    };
    (payload > 0).then_some((payload, sequence, ends))
}

/// Equal but for what differs from segment to segment: lengths, IPv4's id, checksums, TCP's sequence number and PSH.
fn same_headers(a: &[u8], b: &[u8], parsed: &Parsed) -> bool {
    let at = parsed.upper_at;
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let ip = match parsed.source.is_ipv4() {
        true => same(0, 2) && same(6, 10) && same(12, at),
        false => same(0, 4) && same(6, at),
    };
    let upper = match parsed.upper {
        Upper::Tcp { .. } => {
            same(at, at + 4)
                && same(at + 8, at + 13)
                && (a[at + 13] ^ b[at + 13]) & !tcp_flags::PSH == 0
                && same(at + 14, at + 16)
                && same(at + 18, a.len())
        }
        _ => same(at, at + 4),
    };
    ip && upper
}

fn slot_of(parsed: &Parsed) -> Option<usize> {
    let (Upper::Tcp { source_port, destination_port, .. } | Upper::Udp { source_port, destination_port }) =
        parsed.upper
    else {
        return None;
    };
    let low = |address| match address {
        std::net::IpAddr::V4(v4) => v4.to_bits(),
        std::net::IpAddr::V6(v6) => v6.to_bits() as u32,
    };
    let ports = u32::from(source_port) << 16 | u32::from(destination_port);
    // Where two flows meet, one of them stays uncoalesced: no harm, so no secret is needed.
    let mixed =
        (ports ^ low(parsed.source).rotate_left(7) ^ low(parsed.destination)).wrapping_mul(0x9e37_79b1);
    Some((mixed >> 24) as usize % SLOTS)
}

fn set_ip_len(packet: &mut [u8], is_v4: bool, len: usize) {
    match is_v4 {
        true => packet[2..4].copy_from_slice(&(len as u16).to_be_bytes()),
        false => packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes()),
    }
}

fn finish_v4(packet: &mut [u8], header_len: usize) {
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = !checksum::sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The pseudo header's sum, where the checksum will be.
fn set_partial(packet: &mut [u8], parsed: &Parsed, checksum_at: usize) {
    let len = packet.len() - parsed.upper_at;
    let sum = checksum::pseudo_header(parsed.source, parsed.destination, parsed.protocol.0, len);
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
