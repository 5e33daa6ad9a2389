//! TUN devices: where the kernel hands IP packets to popgate and takes them back.
//!
//! A device is one queue here, of several if there are several workers: the kernel sends a flow's packets to the queue that
//! the flow was last written on, others to any. Each packet has a virtio-net
//! header before it (VIRTIO 1.2 section 5.1.6), by which the kernel hands over 64 KB of a TCP or UDP flow at once and takes
//! as much. A single packet whose checksum the kernel left open is finished here; what comes out of this file is either a
//! packet as it is on the wire, or a super-packet.

use super::forward::{Fault, Received};
use super::namespace::Namespace;
use super::portion::PORTION_BYTES;
use super::standing::Standing;
use super::tuntap;
use crate::model::DeviceId;
use crate::wire::{self, Batch, MAX_PIECES, Offload, ToDevice};
use rustix::io::Errno;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One queue of a TUN device. The device goes when its last queue is dropped; the queues of one have one id.
#[derive(Debug)]
pub struct TunDevice {
    id: DeviceId,
    name: String,
    fd: OwnedFd,
    /// Whether what the kernel has for us keeps us from ever catching up.
    pub(super) queue: Standing,
}

impl TunDevice {
    /// Makes the device `name` in `namespace`. The result may be used from anywhere.
    ///
    /// # Errors
    /// `EBUSY` if there is an interface of that name already; otherwise those of [`tuntap::open`].
    pub fn create(id: DeviceId, name: &str, namespace: &Namespace) -> io::Result<TunDevice> {
        TunDevice::open(id, name, namespace, tuntap::EXCLUSIVE)
    }

    /// Makes the device with a queue for each of `workers`, in their order.
    ///
    /// # Errors
    /// Those of [`TunDevice::create`].
    pub fn create_queues(
        id: DeviceId,
        name: &str,
        namespace: &Namespace,
        workers: u16,
    ) -> io::Result<Vec<TunDevice>> {
        let first = TunDevice::create(id, name, namespace);
        let others = (1..workers).map(|_| TunDevice::open(id, name, namespace, 0));
        std::iter::once(first).chain(others).collect()
    }

    fn open(id: DeviceId, name: &str, namespace: &Namespace, flags: i32) -> io::Result<TunDevice> {
        let flags = flags | tuntap::TUN | tuntap::MULTI_QUEUE | tuntap::VIRTIO_HEADER;
        let fd = namespace.run(|| tuntap::open(name, flags))??;
        if !tuntap::offload(&fd)? {
            tracing::info!(
                device = name,
                "this kernel has no UDP segmentation on TUN: UDP goes packet by packet"
            );
        }
        Ok(TunDevice { id, name: name.to_owned(), fd, queue: Standing::default() })
    }

    /// The number the data plane knows the device by.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The device's name in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads packets into the free slots of `batch` until it is full, holds a portion, or nothing is waiting.
    pub fn receive(&mut self, batch: &mut Batch) -> Received {
        let mut bytes = 0;
        loop {
            let Some(room) = batch.free().next() else { return Received::Full };
            if bytes >= PORTION_BYTES {
                return Received::Full;
            }
            let mut header = [0; HEADER_BYTES];
            match rustix::io::readv(&self.fd, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(room)]) {
                Ok(len) => {
                    let len = len.saturating_sub(HEADER_BYTES);
                    let header = Header::read(&header);
                    let segment = header.finish(&mut room[..len]);
                    batch.commit_packet(self.id, len, segment);
                    bytes += len;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Received::Drained,
                // EBADFD once the device is deleted, EFAULT if that happens during the read.
                Err(_) => return Received::Gone,
            }
        }
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// Why the kernel did not take it.
    pub fn send(&mut self, packet: &ToDevice<'_>) -> Result<(), Fault> {
        let header = packet.offload().map_or(Header::default(), Header::of_super).write();
        let mut pieces = [IoSlice::new(&header); 1 + MAX_PIECES];
        let mut used = 1;
        for (to, from) in pieces[1..].iter_mut().zip(packet.pieces()) {
            *to = IoSlice::new(from);
            used += 1;
        }
        loop {
            return match rustix::io::writev(&self.fd, &pieces[..used]) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Err(Fault::QueueFull),
                // EINVAL: no IP version it knows in the first nibble. Anything else (EIO: down, EBADFD: deleted) is the
                // device's fault.
                Err(Errno::INVAL | Errno::MSGSIZE) => Err(Fault::Refused),
                Err(_) => Err(Fault::Gone),
            };
        }
    }
}

/// `struct virtio_net_hdr`, in this machine's byte order as TUN has it unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    flags: u8,
    kind: u8,
    header_len: u16,
    segment: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

const HEADER_BYTES: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
const KIND_TCP4: u8 = 1;
const KIND_TCP6: u8 = 4;
const KIND_UDP: u8 = 5;

impl Header {
    fn read(bytes: &[u8; HEADER_BYTES]) -> Header {
        let at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Header {
            flags: bytes[0],
            kind: bytes[1],
            header_len: at(2),
            segment: at(4),
            checksum_start: at(6),
            checksum_offset: at(8),
        }
    }

    fn write(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [self.flags, self.kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, value) in
            [(2, self.header_len), (4, self.segment), (6, self.checksum_start), (8, self.checksum_offset)]
        {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    /// Finishes a single packet's checksum; gives the payload bytes of a super-packet's segments.
    fn finish(self, packet: &mut [u8]) -> u16 {
        if self.kind != 0 && self.segment > 0 {
            return self.segment;
        }
        if self.flags & NEEDS_CHECKSUM != 0 {
            let start = usize::from(self.checksum_start);
            wire::complete(packet, start, start + usize::from(self.checksum_offset));
        }
        0
    }

    fn of_super(offload: Offload) -> Header {
        Header {
            flags: NEEDS_CHECKSUM,
            kind: match (offload.tcp, offload.ipv4) {
                (true, true) => KIND_TCP4,
                (true, false) => KIND_TCP6,
                (false, _) => KIND_UDP,
            },
            header_len: offload.headers,
            segment: offload.segment,
            checksum_start: offload.upper_at,
            checksum_offset: if offload.tcp { 16 } else { 6 },
        }
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
