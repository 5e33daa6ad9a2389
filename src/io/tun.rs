//! TUN devices: where the kernel hands IP packets to popgate and takes them back.
//!
//! A device is one queue here; a second worker attaches a second queue to the same device. Packets come without a virtio
//! header for now: each read is one packet of at most the MTU, and checksums are complete. When super-packets come
//! (IFF_VNET_HDR, TUNSETOFFLOAD), [`TunDevice::receive`] will read the header before the packet and [`TunDevice::send`]
//! will write one; nothing outside this file needs to know.

use super::forward::{Fault, Received};
use super::namespace::Namespace;
use super::tuntap;
use crate::model::DeviceId;
use crate::wire::{Batch, Ingress};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One queue of a TUN device. The device goes when its last queue is dropped.
#[derive(Debug)]
pub struct TunDevice {
    id: DeviceId,
    name: String,
    fd: OwnedFd,
}

impl TunDevice {
    /// Makes the device `name` in `namespace`. The result may be used from anywhere.
    ///
    /// # Errors
    /// `EBUSY` if there is an interface of that name already; otherwise those of [`tuntap::open`].
    pub fn create(id: DeviceId, name: &str, namespace: &Namespace) -> io::Result<TunDevice> {
        let flags = tuntap::TUN | tuntap::MULTI_QUEUE | tuntap::EXCLUSIVE;
        let fd = namespace.run(|| tuntap::open(name, flags))??;
        Ok(TunDevice { id, name: name.to_owned(), fd })
    }

    /// Opens one more queue of a device that [`TunDevice::create`] made, for another worker.
    pub fn attach(id: DeviceId, name: &str, namespace: &Namespace) -> io::Result<TunDevice> {
        let fd = namespace.run(|| tuntap::open(name, tuntap::TUN | tuntap::MULTI_QUEUE))??;
        Ok(TunDevice { id, name: name.to_owned(), fd })
    }

    /// The number the data plane knows the device by.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The device's name in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads packets into the free slots of `batch` until it is full or nothing is waiting.
    pub fn receive(&mut self, batch: &mut Batch) -> Received {
        loop {
            let Some(room) = batch.free().next() else { return Received::Full };
            match rustix::io::read(&self.fd, room) {
                Ok(len) => batch.commit(Ingress::Device(self.id), len, 0),
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
    pub fn send(&mut self, packet: &[u8]) -> Result<(), Fault> {
        loop {
            return match rustix::io::write(&self.fd, packet) {
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

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
