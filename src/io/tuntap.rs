//! Opening /dev/net/tun. One function, so that whoever needs another kind of device passes other flags.

#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// A layer 3 device: IP packets, nothing before them.
pub const TUN: i32 = libc::IFF_TUN | libc::IFF_NO_PI;
/// A layer 2 device: Ethernet frames, nothing before them.
pub const TAP: i32 = libc::IFF_TAP | libc::IFF_NO_PI;
/// More queues may be attached, one a worker.
pub const MULTI_QUEUE: i32 = libc::IFF_MULTI_QUEUE;
/// A virtio-net header before each packet, and super-packets where [`offload`] says so.
pub const VIRTIO_HEADER: i32 = libc::IFF_VNET_HDR;
/// Refuse a device that is already there (`EBUSY`), rather than share it with whoever made it.
pub const EXCLUSIVE: i32 = libc::IFF_TUN_EXCL;

/// Opens a queue of the device `name` in the calling thread's network namespace, making the device if need be;
/// non-blocking. The device lives as long as a queue of it is open.
///
/// # Errors
/// `EBUSY` if the device exists and [`EXCLUSIVE`] is among `flags` (or it is of another kind), `EINVAL` for a name that
/// is empty or longer than 15 bytes, `EPERM` without CAP_NET_ADMIN, `ENOENT` if there is no /dev/net/tun.
pub fn open(name: &str, flags: i32) -> io::Result<OwnedFd> {
    let mut request = interface_request(name)?;
    // The kernel takes the low 16 bits; as a signed short EXCLUSIVE is the sign bit.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    let fd =
        rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is, and which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

/// Has the kernel hand over and take packets whose checksums are left to the other side, and TCP and UDP super-packets
/// of both families. True if UDP's are among them (Linux 6.2).
///
/// # Errors
/// `EINVAL` from a kernel that knows none of it.
pub fn offload(fd: &OwnedFd) -> io::Result<bool> {
    const TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    const UDP: libc::c_uint = TUN_F_USO4 | TUN_F_USO6;
    let set = |flags: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    match set(TCP | UDP) {
        Ok(()) => Ok(true),
        Err(_) => set(TCP).map(|()| false),
    }
}

/// linux/if_tun.h; not in libc yet.
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an `ifreq` is plain integers, arrays and a union of such; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: it ends the name. A `%` would make the kernel choose a number in its place.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(['\0', '%', '/']) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
