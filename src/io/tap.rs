//! TAP devices: a network interface whose other end is this process. The lab's links are made of them.

use super::tuntap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The process's end of a TAP device, non-blocking. The device lives as long as this does.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
}

impl Tap {
    /// Makes the device `name` in the network namespace the calling thread is in. One read is one Ethernet frame, one
    /// write is another; checksums and segments are complete, for no offload is asked for.
    ///
    /// # Errors
    /// Those of [`tuntap::open`]; `EBUSY` if `name` is in use.
    pub fn create(name: &str) -> io::Result<Tap> {
        Ok(Tap { fd: tuntap::open(name, tuntap::TAP | tuntap::EXCLUSIVE)? })
    }

    /// Receives one frame that the kernel sends out of the device.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buffer)?)
    }

    /// Lets the device receive a frame.
    ///
    /// # Errors
    /// `EIO` while the interface is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.fd, frame)?;
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
