//! What `io` hands to a worker and gets back: packets received, packets to send. Plain memory, reused from batch to
//! batch, so that the packet path allocates nothing.

use crate::model::{DeviceId, TransportId};
use std::net::SocketAddr;
use std::ops::Range;

/// The most bytes one receive can deliver: a full UDP GRO or TUN super-packet.
pub const SLOT_BYTES: usize = 65_536;

/// Where a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// A UDP datagram from the underlay.
    Transport { transport: TransportId, from: SocketAddr },
    /// An IP packet from a TUN device.
    Device(DeviceId),
}

/// Packets received, in order of arrival.
pub struct Batch {
    slots: Vec<Slot>,
    filled: usize,
}

struct Slot {
    ingress: Ingress,
    len: usize,
    segment: usize,
    buffer: Box<[u8]>,
}

impl Batch {
    /// Room for `slots` receives of up to [`SLOT_BYTES`]; pages that nothing is received into are never touched.
    pub fn with_slots(slots: usize) -> Batch {
        let slot = || Slot {
            ingress: Ingress::Device(DeviceId(0)),
            len: 0,
            segment: 0,
            buffer: vec![0; SLOT_BYTES].into_boxed_slice(),
        };
        Batch { slots: std::iter::repeat_with(slot).take(slots).collect(), filled: 0 }
    }

    /// The buffers of the free slots, to be received into from the first on; [`Batch::commit`] them in that order.
    pub fn free(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.slots[self.filled..].iter_mut().map(|slot| &mut *slot.buffer)
    }

    /// How many slots are free.
    pub fn free_slots(&self) -> usize {
        self.slots.len() - self.filled
    }

    /// Says that the first free slot now holds `len` bytes that came in by `ingress`: one packet if `segment` is 0 or
    /// `len`, otherwise datagrams of `segment` bytes each of which the last may be shorter (UDP GRO).
    pub fn commit(&mut self, ingress: Ingress, len: usize, segment: usize) {
        let Some(slot) = self.slots.get_mut(self.filled) else { return };
        slot.ingress = ingress;
        slot.len = len.min(slot.buffer.len());
        slot.segment = if segment == 0 { slot.len } else { segment };
        self.filled += 1;
    }

    /// Copies one packet in; for tests and simulation. False if the batch is full.
    pub fn push(&mut self, ingress: Ingress, packet: &[u8]) -> bool {
        let Some(room) = self.free().next() else { return false };
        let Some(room) = room.get_mut(..packet.len()) else { return false };
        room.copy_from_slice(packet);
        self.commit(ingress, packet.len(), 0);
        true
    }

    /// The packets received, each on its own, to be changed in place.
    pub fn packets(&mut self) -> impl Iterator<Item = (Ingress, &mut [u8])> {
        self.slots[..self.filled].iter_mut().flat_map(|slot| {
            let Slot { ingress, len, segment, buffer } = slot;
            // An empty datagram is still one that arrived: it is counted like any other.
            let empty = (*len == 0).then_some(&mut [][..]);
            let whole = buffer[..*len].chunks_mut((*segment).max(1));
            empty.into_iter().chain(whole).map(|packet| (*ingress, packet))
        })
    }

    /// Whether nothing was received.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Forgets what was received; the memory stays.
    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

/// A UDP datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub transport: TransportId,
    pub to: SocketAddr,
    bytes: Range<usize>,
}

/// An IP packet to write to a TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePacket {
    pub device: DeviceId,
    bytes: Range<usize>,
}

/// Packets to send, in order; the order within a flow is the order here.
#[derive(Default)]
pub struct Outbound {
    bytes: Vec<u8>,
    datagrams: Vec<Datagram>,
    packets: Vec<DevicePacket>,
}

impl Outbound {
    /// Adds a datagram that `write` puts into the room it is given, of at most `room` bytes; it says how many it used,
    /// or `None` if there is nothing to send after all.
    pub fn write_datagram<R>(
        &mut self,
        transport: TransportId,
        to: SocketAddr,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> (Option<usize>, R),
    ) -> R {
        let (bytes, result) = self.write(room, write);
        if let Some(bytes) = bytes {
            self.datagrams.push(Datagram { transport, to, bytes });
        }
        result
    }

    /// Adds a datagram that is ready.
    pub fn push_datagram(&mut self, transport: TransportId, to: SocketAddr, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        self.datagrams.push(Datagram { transport, to, bytes: start..self.bytes.len() });
    }

    /// Adds an IP packet for `device`.
    pub fn push_packet(&mut self, device: DeviceId, packet: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(packet);
        self.packets.push(DevicePacket { device, bytes: start..self.bytes.len() });
    }

    /// The datagrams to send.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = (TransportId, SocketAddr, &[u8])> {
        self.datagrams.iter().map(|d| (d.transport, d.to, &self.bytes[d.bytes.clone()]))
    }

    /// The IP packets to write.
    pub fn packets(&self) -> impl ExactSizeIterator<Item = (DeviceId, &[u8])> {
        self.packets.iter().map(|p| (p.device, &self.bytes[p.bytes.clone()]))
    }

    /// Forgets what was sent; the memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
        self.packets.clear();
    }

    fn write<R>(
        &mut self,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> (Option<usize>, R),
    ) -> (Option<Range<usize>>, R) {
        let start = self.bytes.len();
        self.bytes.resize(start + room, 0);
        let (used, result) = write(&mut self.bytes[start..]);
        let end = start + used.unwrap_or(0).min(room);
        self.bytes.truncate(end);
        (used.map(|_| start..end), result)
    }
}
