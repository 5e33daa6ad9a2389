//! What `io` hands to a worker: packets received. Plain memory, reused from batch to batch, so that the packet path
//! allocates nothing.

use crate::model::{ClassId, DeviceId, NextHop, PathId, TenantId, TransportId, Zone};
use std::net::SocketAddr;

/// The most bytes one receive can deliver: a full UDP GRO or TUN super-packet.
pub const SLOT_BYTES: usize = 65_536;

/// Where a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// A UDP datagram from the underlay.
    Transport { transport: TransportId, from: SocketAddr },
    /// An IP packet from a TUN device.
    Device(DeviceId),
    /// From another worker, or from the entrance.
    Worker(Handover),
}

/// What one worker passes to another, beside the packet's bytes: a site's tunnels are one worker's alone, and so is a
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// A datagram for the other: a handshake initiation for this path, which the entrance has admitted; or, without a path,
    /// one that the kernel gave to the wrong one, as part of a train of datagrams that began with another's.
    Datagram { path: Option<PathId>, transport: TransportId, from: SocketAddr },
    /// An IP packet whose session the other has, as it arrived; a super-packet, if `segment` is not 0.
    Arrived { zone: Zone, hop: NextHop, path: Option<PathId>, segment: u16 },
    /// An IP packet of a flow of `class` that is ready to leave by a path of the other's, in fragments if it is larger than
    /// `mtu`.
    Leaving { path: PathId, class: ClassId, mtu: u16, segment: u16 },
    /// A DNS message, and no packet: an answer that a host of the tenant's was given, which teaches names.
    Taught { tenant: TenantId },
}

/// Packets received, in order of arrival.
pub struct Batch {
    slots: Vec<Slot>,
    /// [`STRIDE`] bytes a slot.
    memory: Box<[u8]>,
    filled: usize,
    shed: bool,
}

/// From slot to slot. 64 KB apart, the heads of all packets would compete for the same few lines of the cache: 23 lines
/// more, and each has its own.
const STRIDE: usize = SLOT_BYTES + 23 * 64;

struct Slot {
    ingress: Ingress,
    len: usize,
    /// Bytes of each datagram in it.
    datagram: usize,
    /// Payload bytes of each segment, if it is a super-packet.
    segment: u16,
}

impl Batch {
    /// Room for `slots` receives of up to [`SLOT_BYTES`]; pages that nothing is received into are never touched.
    pub fn with_slots(slots: usize) -> Batch {
        let slot = || Slot { ingress: Ingress::Device(DeviceId(0)), len: 0, datagram: 0, segment: 0 };
        let memory = vec![0; slots * STRIDE].into_boxed_slice();
        Batch { slots: std::iter::repeat_with(slot).take(slots).collect(), memory, filled: 0, shed: false }
    }

    /// The buffers of the free slots, to be received into from the first on; [`Batch::commit`] them in that order.
    pub fn free(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memory[self.filled * STRIDE..].chunks_mut(STRIDE).map(|room| &mut room[..SLOT_BYTES])
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
        slot.len = len.min(SLOT_BYTES);
        slot.datagram = if segment == 0 { slot.len } else { segment };
        slot.segment = 0;
        self.filled += 1;
    }

    /// Says that the first free slot now holds a packet from `device`, of `segment` bytes of payload each if it is a
    /// super-packet, else 0.
    pub fn commit_packet(&mut self, device: DeviceId, len: usize, segment: u16) {
        let at = self.filled;
        self.commit(Ingress::Device(device), len, 0);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.segment = segment;
        }
    }

    /// Copies one packet in; for tests and simulation. False if the batch is full.
    pub fn push(&mut self, ingress: Ingress, packet: &[u8]) -> bool {
        let Some(room) = self.free().next() else { return false };
        let Some(room) = room.get_mut(..packet.len()) else { return false };
        room.copy_from_slice(packet);
        self.commit(ingress, packet.len(), 0);
        true
    }

    /// Copies one super-packet in; for tests and simulation. False if the batch is full.
    pub fn push_super(&mut self, device: DeviceId, packet: &[u8], segment: u16) -> bool {
        let pushed = self.push(Ingress::Device(device), packet);
        if pushed {
            self.slots[self.filled - 1].segment = segment;
        }
        pushed
    }

    /// The packets received, each on its own, to be changed in place; a super-packet is one, and comes with the payload
    /// bytes of its segments (others: 0).
    pub fn packets(&mut self) -> impl Iterator<Item = (Ingress, &mut [u8], u16)> {
        self.slots[..self.filled].iter().zip(self.memory.chunks_mut(STRIDE)).flat_map(|(slot, buffer)| {
            let Slot { ingress, len, datagram, segment } = slot;
            // An empty datagram is still one that arrived: it is counted like any other.
            let empty = (*len == 0).then_some(&mut [][..]);
            let whole = buffer[..*len].chunks_mut((*datagram).max(1));
            empty.into_iter().chain(whole).map(|packet| (*ingress, packet, *segment))
        })
    }

    /// The queue these came from has been standing for too long: one packet of them is to be marked or dropped.
    pub fn shed_one(&mut self) {
        self.shed = true;
    }

    /// Whether one packet is to be marked or dropped.
    pub fn sheds(&self) -> bool {
        self.shed
    }

    /// Whether nothing was received.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Forgets what was received; the memory stays.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.shed = false;
    }
}
