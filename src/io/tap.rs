//! TAP devices: a network interface whose other end is this process. The lab's links are made of them.
#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use rustix::ioctl;
use std::ffi::{c_short, c_ulong, c_void};
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
    /// The kernel's: no `/dev/net/tun`, no right to make devices, `name` in use (`EBUSY`) or longer than 15 bytes.
    pub fn create(name: &str) -> io::Result<Tap> {
        let mut request = InterfaceRequest {
            name: [0; libc::IFNAMSIZ],
            flags: (libc::IFF_TAP | libc::IFF_NO_PI) as c_short,
            padding: [0; 22],
        };
        // One byte stays 0: the kernel reads a C string.
        let room = request.name.get_mut(..name.len()).filter(|room| room.len() < libc::IFNAMSIZ);
        room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (linux/if_tun.h), which is what it is given.
        unsafe { ioctl::ioctl(&fd, SetInterface(&mut request)) }?;
        Ok(Tap { fd })
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

/// The part of `struct ifreq` (linux/if.h) that TUNSETIFF looks at, at the size of the whole.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: c_short,
    padding: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

struct SetInterface<'a>(&'a mut InterfaceRequest);

// SAFETY: `as_ptr` points to a live `struct ifreq` for the length of the call, as TUNSETIFF asks; nothing is read from
// it afterwards.
unsafe impl ioctl::Ioctl for SetInterface<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> ioctl::Opcode {
        libc::TUNSETIFF as c_ulong as ioctl::Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: ioctl::IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}
