//! Coalescing: consecutive segments of a flow become a super-packet (see `offload`). Nothing is copied: this says which
//! packets belong together, and what the headers of the whole are.

use super::checksum;
use super::offload::{addresses_of, finish_v4, set_ip_len};
use super::outbound::Offload;
use super::parse::{Parsed, Upper, be16, be32, tcp_flags};
use crate::model::{DeviceId, Protocol};

/// Flows under way at once in one batch; one more takes the place of another, which then stays as long as it is.
const SLOTS: usize = 256;
/// What a header's 16-bit length can say.
const MAX_BYTES: usize = 65_535;
/// As many as Linux cuts up at once (UDP_MAX_SEGMENTS in kernels before 6.9).
pub(super) const MAX_SEGMENTS: u16 = 64;

/// What decides whether a TCP or UDP packet can be part of a super-packet; noted down while its headers are at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// By hash of the flow.
    slot: u8,
    tcp: bool,
    ipv4: bool,
    /// `None` if it must go by itself.
    body: Option<Body>,
}

#[derive(Clone, Copy, Debug)]
struct Body {
    upper_at: u16,
    headers: u16,
    payload: u16,
    /// TCP's.
    sequence: u32,
    /// TCP's PSH: nothing may follow.
    push: bool,
}

/// A super-packet in the making; of one segment, just a packet.
pub(super) struct Super {
    device: DeviceId,
    first: usize,
    last: usize,
    head: Segment,
    body: Body,
    segments: u16,
    bytes: usize,
    next_sequence: u32,
    push: bool,
    /// The first segment's checksum has been found right. It is looked at when there is a second: most packets stay alone.
    verified: bool,
}

/// Finds what belongs together.
pub(super) struct Coalescer {
    supers: Vec<Super>,
    /// By slot: which super-packet may still grow, counted from 1.
    open: Box<[u32; SLOTS]>,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self { supers: Vec::new(), open: Box::new([0; SLOTS]) }
    }
}

impl Coalescer {
    /// Takes the packet at `at` for `device` in: if it goes behind another, which. A packet that must go by itself closes
    /// what its flow had: no later one is then put before it. `bytes` gives a packet's bytes by its place.
    pub(super) fn take<'a>(
        &mut self,
        at: usize,
        device: DeviceId,
        segment: &Segment,
        bytes: impl Fn(usize) -> &'a [u8],
    ) -> Option<usize> {
        let slot = usize::from(segment.slot);
        let Some(body) = segment.body else {
            self.open[slot] = 0;
            return None;
        };
        let growing = (self.open[slot] as usize).checked_sub(1).filter(|growing| {
            let made = &mut self.supers[*growing];
            made.accepts(device, segment, &body, bytes(made.first), bytes(at))
        });
        let (index, after) = match growing {
            Some(index) => (index, Some(self.supers[index].append(at, &body))),
            None => {
                self.supers.push(Super::begin(at, device, segment, &body));
                (self.supers.len() - 1, None)
            }
        };
        let full = self.supers[index].is_full(&body);
        self.open[slot] = if full { 0 } else { index as u32 + 1 };
        after
    }

    /// The super-packets made, of two segments at least; then there are none.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Super> {
        self.open.fill(0);
        self.supers.drain(..).filter(|made| made.segments > 1)
    }
}

impl Super {
    fn begin(at: usize, device: DeviceId, head: &Segment, body: &Body) -> Super {
        Super {
            device,
            first: at,
            last: at,
            head: *head,
            body: *body,
            segments: 1,
            bytes: usize::from(body.headers) + usize::from(body.payload),
            next_sequence: body.sequence.wrapping_add(body.payload.into()),
            push: body.push,
            verified: false,
        }
    }

    fn accepts(
        &mut self,
        device: DeviceId,
        next: &Segment,
        body: &Body,
        head_bytes: &[u8],
        next_bytes: &[u8],
    ) -> bool {
        let fits = self.device == device
            && (self.head.tcp, self.head.ipv4) == (next.tcp, next.ipv4)
            && (self.body.headers, self.body.upper_at) == (body.headers, body.upper_at)
            && body.payload <= self.body.payload
            && self.bytes + usize::from(body.payload) <= MAX_BYTES
            && (!next.tcp || body.sequence == self.next_sequence)
            && self.same_headers(head_bytes, next_bytes);
        if !fits {
            return false;
        }
        self.verified = self.verified || checksum_holds(head_bytes, next, body);
        self.verified && checksum_holds(next_bytes, next, body)
    }

    /// Equal but for what differs from segment to segment: lengths, IPv4's id, checksums, TCP's sequence number and PSH.
    fn same_headers(&self, a: &[u8], b: &[u8]) -> bool {
        let (at, end) = (usize::from(self.body.upper_at), usize::from(self.body.headers));
        let same = |from: usize, to: usize| a[from..to] == b[from..to];
        let ip = match self.head.ipv4 {
            true => same(0, 2) && same(6, 10) && same(12, at),
            false => same(0, 4) && same(6, at),
        };
        let upper = match self.head.tcp {
            true => {
                same(at, at + 4)
                    && same(at + 8, at + 13)
                    && (a[at + 13] ^ b[at + 13]) & !tcp_flags::PSH == 0
                    && same(at + 14, at + 16)
                    && same(at + 18, end)
            }
            false => same(at, at + 4),
        };
        ip && upper
    }

    /// Puts the packet at `at` at the end; gives the place of the one before it.
    fn append(&mut self, at: usize, body: &Body) -> usize {
        self.segments += 1;
        self.bytes += usize::from(body.payload);
        self.next_sequence = body.sequence.wrapping_add(body.payload.into());
        self.push |= body.push;
        std::mem::replace(&mut self.last, at)
    }

    /// Whether nothing may follow `last`, which it ends with.
    fn is_full(&self, last: &Body) -> bool {
        last.push || last.payload < self.body.payload || self.segments >= MAX_SEGMENTS
    }

    /// The place of its first segment.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    pub(super) fn offload(&self) -> Offload {
        Offload {
            tcp: self.head.tcp,
            ipv4: self.head.ipv4,
            headers: self.body.headers,
            upper_at: self.body.upper_at,
            segment: self.body.payload,
            segments: self.segments,
        }
    }

    /// Makes the first segment's headers those of the whole; the upper checksum becomes the pseudo header's sum alone.
    pub(super) fn write_headers(&self, packet: &mut [u8]) {
        let at = usize::from(self.body.upper_at);
        set_ip_len(packet, self.head.ipv4, self.bytes);
        if self.head.ipv4 {
            finish_v4(packet, at);
        }
        let len = self.bytes - at;
        let checksum_at = if self.head.tcp {
            if self.push {
                packet[at + 13] |= tcp_flags::PSH;
            }
            at + 16
        } else {
            packet[at + 4..at + 6].copy_from_slice(&(len as u16).to_be_bytes());
            at + 6
        };
        let sum = pseudo_header(packet, &self.head, len);
        packet[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Segment {
    /// `None` for what is neither TCP nor UDP.
    pub(super) fn of(packet: &[u8], parsed: &Parsed) -> Option<Segment> {
        let (ports, tcp) = match parsed.upper {
            Upper::Tcp { source_port, destination_port, .. } => ((source_port, destination_port), true),
            Upper::Udp { source_port, destination_port } => ((source_port, destination_port), false),
            _ => return None,
        };
        Some(Segment {
            slot: slot_of(packet, parsed, ports),
            tcp,
            ipv4: parsed.ipv4,
            body: Body::of(packet, parsed),
        })
    }
}

impl Body {
    fn of(packet: &[u8], parsed: &Parsed) -> Option<Body> {
        let bare_ip = if parsed.ipv4 { 20 } else { 40 };
        let at = parsed.upper_at;
        if parsed.segment > 0 || parsed.fragment.is_some() || !parsed.dont_fragment || at != bare_ip {
            return None;
        }
        let headers = parsed.payload_at(packet);
        let payload = parsed.len.checked_sub(headers)?;
        let (sequence, push) = match parsed.upper {
            Upper::Tcp { flags, .. } if flags & !tcp_flags::PSH == tcp_flags::ACK => {
                (be32(packet, at + 4), flags & tcp_flags::PSH != 0)
            }
            Upper::Udp { .. }
                if be16(packet, at + 6) != 0 && usize::from(be16(packet, at + 4)) == parsed.len - at =>
            {
                (0, false)
            }
            _ => return None,
        };
        (payload > 0).then_some(Body {
            upper_at: at as u16,
            headers: headers as u16,
            payload: payload as u16,
            sequence,
            push,
        })
    }
}

/// Whether the upper checksum is right: a super-packet gets a new one, and that must not make damage look whole.
fn checksum_holds(packet: &[u8], segment: &Segment, body: &Body) -> bool {
    let upper = &packet[usize::from(body.upper_at)..];
    checksum::add(pseudo_header(packet, segment, upper.len()), checksum::sum(upper)) == 0xffff
}

fn pseudo_header(packet: &[u8], segment: &Segment, upper_len: usize) -> u16 {
    let protocol = if segment.tcp { Protocol::TCP } else { Protocol::UDP };
    checksum::pseudo_header_of(addresses_of(packet, segment.ipv4), protocol.0, upper_len)
}

fn slot_of(packet: &[u8], parsed: &Parsed, (source_port, destination_port): (u16, u16)) -> u8 {
    let (source_ends, destination_ends) = if parsed.ipv4 { (16, 20) } else { (24, 40) };
    let ports = u32::from(source_port) << 16 | u32::from(destination_port);
    // Where two flows meet, one of them stays uncoalesced: no harm, so no secret is needed.
    let low = |end: usize| be32(packet, end - 4);
    let mixed = (ports ^ low(source_ends).rotate_left(7) ^ low(destination_ends)).wrapping_mul(0x9e37_79b1);
    (mixed >> 24) as u8
}
