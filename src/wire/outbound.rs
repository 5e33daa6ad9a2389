//! What `io` gets back from a worker: packets to send. Plain memory, reused from batch to batch.
//!
//! A packet out of a tunnel is opened where it will be sent from ([`Outbound::land`]), and is never copied again: segments
//! of one flow become a super-packet by being listed one behind the other ([`Outbound::finish`]), and the kernel gathers them.

use super::batch::Handover;
use super::coalesce::{Coalescer, Segment};
use super::parse::Parsed;
use crate::model::{DeviceId, Protocol, TransportId};
use std::net::SocketAddr;
use std::ops::Range;

/// Packets to send, in order; the order within a flow is the order here.
#[derive(Default)]
pub struct Outbound {
    /// What was sealed or copied. Grows to what the largest batch needed; `used` of it is this batch's.
    arena: Vec<u8>,
    used: usize,
    /// What was opened, of which `landed` is this batch's. It is elsewhere while packets are being opened and worked on.
    landing: Vec<u8>,
    landed: usize,
    /// Where in memory the room lent is, to know a packet in it when it is to be sent; and where in `landing` it begins.
    lent: Range<usize>,
    lent_at: usize,
    datagrams: Vec<Datagram>,
    packets: Vec<DevicePacket>,
    passed: Vec<Passed>,
    coalescer: Coalescer,
    /// So many of `packets` have been through it.
    finished: usize,
}

/// A UDP datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Datagram {
    transport: TransportId,
    to: SocketAddr,
    dscp: u8,
    bytes: Range<usize>,
}

/// A packet for another worker.
struct Passed {
    worker: u16,
    what: Handover,
    bytes: Range<usize>,
}

/// An IP packet to write to a TUN device, or a segment of one.
struct DevicePacket {
    device: DeviceId,
    bytes: Range<usize>,
    in_landing: bool,
    /// What the kernel is to cut up, if it is a super-packet.
    offload: Option<Offload>,
    segment: Option<Segment>,
    /// It is listed as a part of an earlier one.
    joined: bool,
    /// The next part of the same super-packet, counted from 1.
    next: u32,
}

/// How the kernel is to cut a super-packet up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    pub tcp: bool,
    pub ipv4: bool,
    /// Bytes of all headers, and where TCP's or UDP's begins.
    pub headers: u16,
    pub upper_at: u16,
    /// Payload bytes of each segment but the last, which may have fewer.
    pub segment: u16,
    pub segments: u16,
}

/// Room that packets are opened into.
pub struct Landing {
    buffer: Vec<u8>,
    room: Range<usize>,
}

impl Landing {
    /// The room; what is in it beforehand means nothing.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.room.clone()]
    }
}

/// An IP packet on its way to a device.
#[derive(Clone, Copy)]
pub struct ToDevice<'a> {
    out: &'a Outbound,
    first: usize,
}

/// The most pieces a packet is in.
pub const MAX_PIECES: usize = super::coalesce::MAX_SEGMENTS as usize;

impl Outbound {
    /// Adds a datagram that `write` puts into the room it is given, of `room` bytes; it says how many it used, or `None`
    /// if there is nothing to send after all. What is in the room beforehand means nothing.
    pub fn write_datagram<R>(
        &mut self,
        transport: TransportId,
        to: SocketAddr,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> (Option<usize>, R),
    ) -> R {
        self.write_marked(transport, to, 0, room, write)
    }

    /// The same, of a datagram that is to carry `dscp`, 0 to 63.
    pub fn write_marked<R>(
        &mut self,
        transport: TransportId,
        to: SocketAddr,
        dscp: u8,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> (Option<usize>, R),
    ) -> R {
        let start = self.used;
        let (written, result) = write(self.room(room));
        if let Some(len) = written {
            self.used = start + len.min(room);
            self.datagrams.push(Datagram { transport, to, dscp, bytes: start..self.used });
        }
        result
    }

    /// Adds a datagram that is ready.
    pub fn push_datagram(&mut self, transport: TransportId, to: SocketAddr, datagram: &[u8]) {
        let bytes = self.copy(datagram);
        self.datagrams.push(Datagram { transport, to, dscp: 0, bytes });
    }

    /// Lends room of `room` bytes to open packets into; to be brought back with [`Outbound::give_back`].
    pub fn land(&mut self, room: usize) -> Landing {
        let mut buffer = std::mem::take(&mut self.landing);
        let end = self.landed + room;
        if buffer.len() < end {
            buffer.resize(end.next_power_of_two(), 0);
        }
        let from = buffer[self.landed..].as_ptr().addr();
        self.lent = from..from + room;
        self.lent_at = self.landed;
        Landing { buffer, room: self.landed..end }
    }

    /// Takes the room back. The packets in it that were added to what is to be sent stay there.
    pub fn give_back(&mut self, landing: Landing) {
        self.landing = landing.buffer;
        self.lent = 0..0;
    }

    /// Adds an IP packet for `device`.
    pub fn push_packet(&mut self, device: DeviceId, packet: &[u8]) {
        self.push(device, packet, None, None);
    }

    /// Adds a super-packet for `device`, made ready by [`super::prepare`].
    pub fn push_super(&mut self, device: DeviceId, packet: &[u8], parsed: &Parsed) {
        let headers = parsed.payload_at(packet);
        let offload = Offload {
            tcp: parsed.protocol == Protocol::TCP,
            ipv4: parsed.ipv4,
            headers: headers as u16,
            upper_at: parsed.upper_at as u16,
            segment: parsed.segment,
            segments: parsed.on_the_wire(packet).0 as u16,
        };
        self.push(device, packet, Some(offload), None);
    }

    /// Adds an IP packet for `device` that may become a part of a super-packet.
    pub fn push_segment(&mut self, device: DeviceId, packet: &[u8], parsed: &Parsed) {
        self.push(device, packet, None, Segment::of(packet, parsed));
    }

    /// Adds a packet for `worker`.
    pub fn hand_over(&mut self, worker: u16, what: Handover, packet: &[u8]) {
        let bytes = self.copy(packet);
        self.passed.push(Passed { worker, what, bytes });
    }

    /// Puts segments of one flow together that were added since this was last called; to be called when a batch is done.
    pub fn finish(&mut self) {
        let Self { packets, landing, arena, coalescer, finished, .. } = self;
        let new = std::mem::replace(finished, packets.len())..packets.len();
        if new.len() < 2 {
            return;
        }
        for at in new {
            let DevicePacket { device, segment: Some(segment), .. } = packets[at] else { continue };
            let after = coalescer.take(at, device, &segment, |at| packets[at].bytes(landing, arena));
            if let Some(after) = after {
                packets[after].next = at as u32 + 1;
                packets[at].joined = true;
            }
        }
        for made in coalescer.drain() {
            let packet = &mut packets[made.first()];
            packet.offload = Some(made.offload());
            let from = if packet.in_landing { &mut *landing } else { &mut *arena };
            made.write_headers(&mut from[packet.bytes.clone()]);
        }
    }

    /// The datagrams to send.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = (TransportId, SocketAddr, &[u8])> {
        self.datagrams.iter().map(|d| (d.transport, d.to, &self.arena[d.bytes.clone()]))
    }

    /// What each of [`Outbound::datagrams`] is to carry, 0 to 63 (RFC 2474).
    pub fn dscps(&self) -> impl ExactSizeIterator<Item = u8> {
        self.datagrams.iter().map(|d| d.dscp)
    }

    /// The IP packets to write.
    pub fn packets(&self) -> impl Iterator<Item = ToDevice<'_>> {
        let is_first = |at: &usize| !self.packets[*at].joined;
        (0..self.packets.len()).filter(is_first).map(|first| ToDevice { out: self, first })
    }

    /// The packets for other workers.
    pub fn handovers(&self) -> impl ExactSizeIterator<Item = (u16, Handover, &[u8])> {
        self.passed.iter().map(|p| (p.worker, p.what, &self.arena[p.bytes.clone()]))
    }

    /// Forgets what was sent; the memory stays.
    pub fn clear(&mut self) {
        self.used = 0;
        self.landed = 0;
        self.datagrams.clear();
        self.packets.clear();
        self.finished = 0;
        self.passed.clear();
    }

    fn push(&mut self, device: DeviceId, packet: &[u8], offload: Option<Offload>, segment: Option<Segment>) {
        let at = packet.as_ptr().addr();
        let in_landing = self.lent.contains(&at);
        let bytes = if in_landing {
            let start = self.lent_at + at - self.lent.start;
            self.landed = self.landed.max(start + packet.len());
            start..start + packet.len()
        } else {
            self.copy(packet)
        };
        let (joined, next) = (false, 0);
        self.packets.push(DevicePacket { device, bytes, in_landing, offload, segment, joined, next });
    }

    fn room(&mut self, room: usize) -> &mut [u8] {
        let end = self.used + room;
        if end > self.arena.len() {
            self.arena.resize(end.next_power_of_two(), 0);
        }
        &mut self.arena[self.used..end]
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.used;
        self.room(bytes.len()).copy_from_slice(bytes);
        self.used += bytes.len();
        start..self.used
    }
}

impl DevicePacket {
    fn bytes<'a>(&self, landing: &'a [u8], arena: &'a [u8]) -> &'a [u8] {
        let from = if self.in_landing { landing } else { arena };
        &from[self.bytes.clone()]
    }
}

impl<'a> ToDevice<'a> {
    /// Which device it is for.
    pub fn device(&self) -> DeviceId {
        self.out.packets[self.first].device
    }

    /// How the kernel is to cut it up; `None` for a packet as it is on the wire.
    pub fn offload(&self) -> Option<Offload> {
        self.out.packets[self.first].offload
    }

    /// How many packets it is on the wire.
    pub fn count(&self) -> u64 {
        self.offload().map_or(1, |offload| offload.segments.into())
    }

    /// Its bytes: headers and the first payload, then one payload after the other. At most [`MAX_PIECES`].
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let out = self.out;
        let mut headers = 0;
        let mut next = Some(self.first);
        std::iter::from_fn(move || {
            let packet = &out.packets[next?];
            let piece = &packet.bytes(&out.landing, &out.arena)[headers..];
            if let Some(offload) = packet.offload {
                headers = usize::from(offload.headers);
            }
            next = (packet.next as usize).checked_sub(1);
            Some(piece)
        })
    }

    /// Its bytes in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }
}
