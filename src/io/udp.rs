//! Transports: the UDP sockets that WireGuard datagrams come and go by.
//!
//! Functions in order: bind, receive, send. Both ways work on many datagrams a call (recvmmsg, sendmmsg), and on many
//! datagrams a message where the kernel can (UDP_GRO, UDP_SEGMENT): a run of equal-sized datagrams to one peer crosses the
//! kernel as one.
//!
//! **Several threads.** A transport is a group of sockets at one address, one a worker and one for the entrance, and the
//! kernel itself gives each datagram to its owner ([`steering`]): nobody receives what is another's, and no lock is shared.
//!
//! **Outer fragmentation.** Sockets are set to IP_PMTUDISC_DONT, which is what WireGuard in the kernel does: the outer DF
//! bit is clear and the kernel fragments what does not fit. The inner MTU is chosen so that this does not happen; where an
//! underlay turns out to be smaller than configured, a fragmented tunnel packet is slow, but a dropped one is a black hole
//! that no inner host can find out about, since the outer ICMP error never reaches it. DONT also means that an ICMP
//! "fragmentation needed" which anybody may forge does not turn into an error here; for IPv6, where routers do not
//! fragment, the kernel still honours it by fragmenting smaller (so PMTUDISC_OMIT, which ignores it, would be wrong).
//!
//! **One packet a peer.** Where no two datagrams in a row are one peer's, nothing becomes a GSO message, and each takes the
//! kernel's whole way out. Going past it was tried on veth (Linux 6.18; `make bench-net CASE=transmit` measures again); ns a
//! packet, the far end's receiving included, which over veth is the sender's work:
//!
//! | to 1,000 peers in turn | 1,420 B, underlay | 64 B, underlay | 1,420 B, handoff | 64 B, handoff |
//! | --- | --- | --- | --- | --- |
//! | this socket; a TUN device | 3,400 | 3,400 | 3,900 | 4,000 |
//! | AF_PACKET, qdisc bypassed, sendmmsg | 2,200 | 2,100 | 2,200 | 2,100 |
//! | AF_PACKET, TX_RING | 2,500 | 2,400 | 2,600 | 2,500 |
//! | AF_XDP, copy mode | 1,800 | 1,500 | 1,700 | 1,700 |
//!
//! A prototype that sent singles by AF_XDP, switched on and off every 50 ms while `make bench-net`'s 1,000 peers overloaded
//! it, made a whole packet of 1,420 bytes cheaper by 1.26 to 1.32 on the underlay and by 1.41 to 1.43 on the handoff. That is
//! not the 1.5 it was to earn its place with, and it has a price: a socket binds a queue of the interface alone, so that it
//! takes one a worker; routes, neighbours and MTU have to be followed by netlink; and what leaves so is seen neither by the
//! host's firewall nor by its tcpdump. What is left is what every way pays for: a buffer made, filled and carried through
//! the far end. Zero copy, which veth refuses, would spare the first two: a case for measuring again.
//!
//! **Source address.** A socket bound to a wildcard answers from the address the route chooses, which on a box with
//! several addresses on one interface may be another than the peer called. Such boxes name the address in `listen`.

#![allow(unsafe_code)]

use super::forward::{Fault, Received};
use super::portion::Portion;
use super::standing::Standing;
use super::steering;
use crate::model::TransportId;
use crate::wire::{Batch, Ingress};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// 8 MiB each way: some 60 ms of a full gigabit, so that a worker held up for a scheduler's slice loses nothing.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Messages a system call; the size of the forwarder's batch.
const MESSAGES: usize = 64;
/// Datagrams a system call: enough for six full GSO messages, and the stack need hold no more than 6 KiB of them.
const PIECES: usize = 384;
/// Datagrams a GSO message: the kernel's own limit (UDP_MAX_SEGMENTS, 64 until Linux 6.9).
const SEGMENTS: usize = 64;
/// Bytes a GSO message: what fits an IPv4 packet of 65,535 bytes, with room for headers.
const GSO_BYTES: usize = 65_000;
/// After so many datagrams that GSO might have carried, it is tried again: routes change.
const GSO_RETRY_DATAGRAMS: u32 = 100_000;

/// Where and how a transport listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `[::]` hears IPv4 too; any other IPv6 address only IPv6.
    pub address: SocketAddr,
    /// Sends and receives over this interface alone, whatever the routes say.
    pub interface: Option<String>,
}

impl Listen {
    fn failed(&self, error: io::Error) -> io::Error {
        let on = self.interface.as_deref().map(|i| format!(" on interface {i}")).unwrap_or_default();
        io::Error::new(error.kind(), format!("cannot listen at {}{on}: {error}", self.address))
    }
}

/// A transport's UDP socket.
#[derive(Debug)]
pub struct TransportSocket {
    id: TransportId,
    fd: OwnedFd,
    /// IPv4 peers are written as IPv4-mapped addresses on an IPv6 socket.
    ipv6: bool,
    /// The largest segment GSO is tried with; 0 if it is not tried at all.
    gso_segment: usize,
    /// Counts down to another try.
    gso_retry: u32,
    portion: Portion,
    /// Whether what the kernel has for us keeps us from ever catching up.
    pub(super) queue: Standing,
}

impl TransportSocket {
    /// Opens and binds a socket for whoever is alone, in the calling thread's network namespace.
    ///
    /// # Errors
    /// With a text for the operator: an address the box does not have, a port in use, an interface that is not there.
    pub fn bind(id: TransportId, listen: &Listen) -> io::Result<TransportSocket> {
        let bound = || {
            let socket = TransportSocket::open(id, listen)?;
            rustix::net::bind(&socket.fd, &listen.address)?;
            Ok(socket)
        };
        bound().map_err(|e| listen.failed(e))
    }

    /// Opens and binds a group of sockets: one for each of `workers`, in their order, and behind them the entrance's. Each
    /// receives what [`steering`] says is its own.
    ///
    /// # Errors
    /// Those of [`TransportSocket::bind`]; a second popgate at the same address is refused.
    pub fn bind_group(id: TransportId, listen: &Listen, workers: u16) -> io::Result<Vec<TransportSocket>> {
        let bound = || {
            // The first binds as if it were alone, and so only where nobody is; it lets others in afterwards, which no
            // other popgate's first will make use of.
            let first = TransportSocket::open(id, listen)?;
            rustix::net::bind(&first.fd, &listen.address)?;
            sockopt::set_socket_reuseport(&first.fd, true)?;
            let address = first.local_address()?;
            let mut group = vec![first];
            for _ in 0..workers {
                // The kernel numbers the sockets of a group in the order in which they are bound.
                let next = TransportSocket::open(id, listen)?;
                sockopt::set_socket_reuseport(&next.fd, true)?;
                rustix::net::bind(&next.fd, &address)?;
                group.push(next);
            }
            steering::attach(&group[0].fd, workers)?;
            // What came before was dealt out by chance: its senders are used to losing datagrams while a box starts.
            group.iter_mut().for_each(TransportSocket::forget_received);
            Ok(group)
        };
        bound().map_err(|e| listen.failed(e))
    }

    fn open(id: TransportId, listen: &Listen) -> io::Result<TransportSocket> {
        Ok(TransportSocket {
            id,
            fd: open(listen)?,
            ipv6: listen.address.is_ipv6(),
            gso_segment: usize::MAX,
            gso_retry: GSO_RETRY_DATAGRAMS,
            portion: Portion::default(),
            queue: Standing::default(),
        })
    }

    fn forget_received(&mut self) {
        // As many as a socket's buffer can hold at the very most: one that is flooded is not emptied for ever.
        for _ in 0..SOCKET_BUFFER_BYTES / 1024 {
            // A pending error is taken out like a datagram.
            if rustix::net::recv(&self.fd, &mut [0u8; 1], RecvFlags::DONTWAIT) == Err(Errno::AGAIN) {
                return;
            }
        }
    }

    /// The number the data plane knows the transport by.
    pub fn id(&self) -> TransportId {
        self.id
    }

    /// The address bound, with the port the kernel chose if none was given.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(&self.fd)?;
        SocketAddr::try_from(address).map_err(Into::into)
    }

    /// Receives a [`Portion`] into the free slots of `batch`.
    pub fn receive(&mut self, batch: &mut Batch) -> Received {
        let mut names = [Name::EMPTY; MESSAGES];
        let mut controls = [Control::EMPTY; MESSAGES];
        // SAFETY: `iovec` and `mmsghdr` are integers and raw pointers; zeroes and nulls are values of them.
        let (mut rooms, mut headers): ([libc::iovec; MESSAGES], [libc::mmsghdr; MESSAGES]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        let mut wanted = 0;
        for (i, room) in batch.free().take(self.portion.messages().min(MESSAGES)).enumerate() {
            rooms[i] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = &raw mut rooms[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut controls[i]).cast();
            header.msg_controllen = size_of::<Control>() as _;
            wanted = i + 1;
        }
        if wanted == 0 {
            return Received::Full;
        }

        // A pending error (an ICMP message about an earlier datagram) is reported once and has nothing to do with what is
        // waiting: try again, but not for ever.
        for _ in 0..4 {
            // SAFETY: the first `wanted` headers point at names, controls and rooms that live to the end of this
            // function, each used by one header, with their true sizes; `batch` is not touched meanwhile.
            let got = unsafe {
                let fd = self.fd.as_raw_fd();
                libc::recvmmsg(fd, headers.as_mut_ptr(), wanted as u32, 0, std::ptr::null_mut())
            };
            let Ok(got) = usize::try_from(got) else {
                match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EAGAIN) => return Received::Drained,
                    _ => continue,
                }
            };
            let mut bytes = 0;
            for (header, name) in headers.iter().zip(&names).take(got) {
                let ingress = Ingress::Transport { transport: self.id, from: name.get() };
                batch.commit(ingress, header.msg_len as usize, gro_segment(&header.msg_hdr));
                bytes += header.msg_len as usize;
            }
            self.portion.received(got, bytes);
            return if got == wanted { Received::Full } else { Received::Drained };
        }
        Received::Drained
    }

    /// Sends datagrams in their order, each with its DSCP. What cannot be sent is reported to `dropped`, with how many it was, and
    /// forgotten: nothing here is worth stopping for.
    pub fn send<'a>(
        &mut self,
        datagrams: impl Iterator<Item = (SocketAddr, u8, &'a [u8])>,
        mut dropped: impl FnMut(Fault, u64),
    ) {
        let mut outbox = Outbox::new();
        for (to, dscp, bytes) in datagrams {
            if to.is_ipv6() && !self.ipv6 {
                dropped(Fault::Unreachable(to), 1);
                continue;
            }
            if !outbox.has_room() {
                self.flush(&mut outbox, &mut dropped);
            }
            let gso_segment = self.gso_segment_for(bytes.len());
            outbox.push((to, dscp), bytes, gso_segment);
        }
        self.flush(&mut outbox, &mut dropped);
    }

    fn gso_segment_for(&mut self, len: usize) -> usize {
        if len > self.gso_segment {
            self.gso_retry -= 1;
            if self.gso_retry == 0 {
                self.gso_segment = usize::MAX;
                self.gso_retry = GSO_RETRY_DATAGRAMS;
            }
        }
        self.gso_segment
    }

    fn flush(&mut self, outbox: &mut Outbox<'_>, dropped: &mut impl FnMut(Fault, u64)) {
        let (mut next, mut tried_again) = (0, false);
        while next < outbox.messages {
            let error = match self.send_messages(outbox, next) {
                Ok(sent) => {
                    next += sent;
                    continue;
                }
                Err(error) => error,
            };
            let message = outbox.message[next];
            match error {
                libc::EINTR => continue,
                // An ICMP error about an earlier datagram, reported late; see `receive`.
                libc::ECONNREFUSED if !tried_again => {
                    tried_again = true;
                    continue;
                }
                // The socket's buffer is full, and so it would be for the rest.
                libc::EAGAIN => {
                    let rest = outbox.message[next..outbox.messages].iter();
                    dropped(Fault::QueueFull, rest.map(|m| m.pieces as u64).sum());
                    break;
                }
                libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP if message.pieces > 1 => {
                    self.send_pieces(outbox, message, error, dropped);
                }
                _ => dropped(fault_of(error, message.to), message.pieces as u64),
            }
            (next, tried_again) = (next + 1, false);
        }
        outbox.clear();
    }

    /// Sends the messages from `first` on; how many the kernel took, or why it did not take the first.
    fn send_messages(&self, outbox: &Outbox<'_>, first: usize) -> Result<usize, i32> {
        let mut names = [Name::EMPTY; MESSAGES];
        let mut controls = [Control::EMPTY; MESSAGES];
        // SAFETY: `iovec` and `mmsghdr` are integers and raw pointers; zeroes and nulls are values of them.
        let (mut pieces, mut headers): ([libc::iovec; PIECES], [libc::mmsghdr; MESSAGES]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for (to, from) in pieces.iter_mut().zip(&outbox.piece[..outbox.pieces]) {
            *to = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        }
        let messages = &outbox.message[first..outbox.messages];
        for (i, message) in messages.iter().enumerate() {
            let header = &mut headers[i].msg_hdr;
            header.msg_namelen = names[i].set(message.to, self.ipv6);
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_iov = &raw mut pieces[message.first];
            header.msg_iovlen = message.pieces as _;
            let mut used = 0;
            if message.pieces > 1 {
                // A segment is at most half of GSO_BYTES.
                let segment = outbox.piece[message.first].len() as u16;
                used = controls[i].put(used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
            }
            if message.dscp > 0 {
                // ECN is left out: a far end that knows nothing of RFC 6040 would lose marks that were made outside.
                let class = libc::c_int::from(message.dscp) << 2;
                let (level, option) = match message.to.ip().to_canonical() {
                    IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
                    IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
                };
                used = controls[i].put(used, level, option, class);
            }
            if used > 0 {
                header.msg_control = (&raw mut controls[i]).cast();
                header.msg_controllen = used as _;
            }
        }
        // SAFETY: the first `messages.len()` headers point at names, controls and pieces that live to the end of this
        // function, with their true sizes (`Outbox` keeps every message's pieces within `pieces`); the kernel only
        // reads what the pieces point at, which the outbox borrows.
        let sent =
            unsafe { libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), messages.len() as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// Sends a GSO message that was refused again, a datagram at a time, and remembers what GSO is good for.
    fn send_pieces(
        &mut self,
        outbox: &Outbox<'_>,
        message: Message,
        error: i32,
        dropped: &mut impl FnMut(Fault, u64),
    ) {
        let pieces = &outbox.piece[message.first..message.first + message.pieces];
        let mut sent = false;
        for piece in pieces {
            match self.send_piece((message.to, message.dscp), piece) {
                Ok(()) => sent = true,
                Err(error) => dropped(fault_of(error, message.to), 1),
            }
        }
        // If nothing could be sent singly either, it was not GSO's fault.
        if sent {
            let segment = pieces[0].len();
            self.gso_segment = match error {
                // Segments are never fragmented: these were larger than the path's MTU.
                libc::EMSGSIZE | libc::EINVAL => segment - 1,
                _ => 0,
            };
            self.gso_retry = GSO_RETRY_DATAGRAMS;
        }
    }

    fn send_piece(&self, to: (SocketAddr, u8), piece: &[u8]) -> Result<(), i32> {
        let mut outbox = Outbox::new();
        outbox.push(to, piece, 0);
        loop {
            match self.send_messages(&outbox, 0) {
                Ok(_) => return Ok(()),
                Err(libc::EINTR) => continue,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for TransportSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(listen: &Listen) -> io::Result<OwnedFd> {
    let family = if listen.address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    set_option(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    if listen.address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, !listen.address.ip().is_unspecified())?;
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
    }
    if let Some(interface) = &listen.interface {
        bind_to_interface(&fd, interface)?;
    }
    // FORCE goes past net.core.rmem_max but needs CAP_NET_ADMIN; without it the limit is what we get.
    if sockopt::set_socket_recv_buffer_size_force(&fd, SOCKET_BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&fd, SOCKET_BUFFER_BYTES)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&fd, SOCKET_BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(&fd, SOCKET_BUFFER_BYTES)?;
    }
    // Linux 5.0; without it each datagram comes on its own.
    let _ = set_option(&fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    Ok(fd)
}

fn set_option(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, which is that long and lives through the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind_to_interface(fd: &OwnedFd, interface: &str) -> io::Result<()> {
    let len = interface.len() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
    // SAFETY: the kernel reads `len` bytes of `interface`, which is that long; it wants no terminator.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, interface.as_ptr().cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fault_of(error: i32, to: SocketAddr) -> Fault {
    match error {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Fault::QueueFull,
        libc::EMSGSIZE => Fault::TooBig,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::ENETDOWN => {
            Fault::Unreachable(to)
        }
        libc::ENODEV | libc::ENXIO => Fault::Gone,
        _ => Fault::Refused,
    }
}

/// Datagrams on their way into one sendmmsg: messages, each of one or several pieces.
struct Outbox<'a> {
    piece: [&'a [u8]; PIECES],
    pieces: usize,
    message: [Message; MESSAGES],
    messages: usize,
}

/// Datagrams of one size and DSCP to one peer, except that the last may be shorter.
#[derive(Clone, Copy)]
struct Message {
    to: SocketAddr,
    dscp: u8,
    first: usize,
    pieces: usize,
    bytes: usize,
}

impl<'a> Outbox<'a> {
    fn new() -> Outbox<'a> {
        let to = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let message = Message { to, dscp: 0, first: 0, pieces: 0, bytes: 0 };
        Outbox { piece: [&[]; PIECES], pieces: 0, message: [message; MESSAGES], messages: 0 }
    }

    fn has_room(&self) -> bool {
        self.pieces < PIECES && self.messages < MESSAGES
    }

    /// Adds a datagram, to the last message if GSO can carry it there. There must be room.
    fn push(&mut self, (to, dscp): (SocketAddr, u8), bytes: &'a [u8], gso_segment: usize) {
        let joins = self.message[..self.messages].last().is_some_and(|last| {
            let segment = self.piece[last.first].len();
            let previous = self.piece[last.first + last.pieces - 1].len();
            last.to == to
                && last.dscp == dscp
                && previous == segment
                && (1..=segment).contains(&bytes.len())
                && segment <= gso_segment
                && last.pieces < SEGMENTS
                && last.bytes + bytes.len() <= GSO_BYTES
        });
        if joins {
            let last = &mut self.message[self.messages - 1];
            last.pieces += 1;
            last.bytes += bytes.len();
        } else {
            self.message[self.messages] =
                Message { to, dscp, first: self.pieces, pieces: 1, bytes: bytes.len() };
            self.messages += 1;
        }
        self.piece[self.pieces] = bytes;
        self.pieces += 1;
    }

    fn clear(&mut self) {
        (self.pieces, self.messages) = (0, 0);
    }
}

/// A socket address as the kernel has it, of either family.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    const EMPTY: Name = Name {
        v6: libc::sockaddr_in6 {
            sin6_family: libc::AF_UNSPEC as libc::sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// Writes an address down, as IPv6 if the socket is; gives its length.
    fn set(&mut self, address: SocketAddr, ipv6: bool) -> libc::socklen_t {
        let address = match address {
            SocketAddr::V4(v4) if ipv6 => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0),
            SocketAddr::V4(v4) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                return size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => v6,
        };
        self.v6 = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: address.port().to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
            sin6_scope_id: address.scope_id(),
        };
        size_of::<libc::sockaddr_in6>() as libc::socklen_t
    }

    /// The address, IPv4 where it is IPv4-mapped: a peer has one name, whichever socket hears it.
    fn get(&self) -> SocketAddr {
        // SAFETY: all fields are integers, for which any bytes are a value; `EMPTY` wrote every byte of the union, and
        // the kernel or `set` then wrote the variant that `family`, which both share as their first field, names.
        unsafe {
            if self.family == libc::AF_INET as libc::sa_family_t {
                let ip = self.v4.sin_addr.s_addr.to_ne_bytes();
                return SocketAddrV4::new(ip.into(), u16::from_be(self.v4.sin_port)).into();
            }
            let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
            let port = u16::from_be(self.v6.sin6_port);
            match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => SocketAddrV6::new(ip, port, 0, self.v6.sin6_scope_id).into(),
            }
        }
    }
}

/// Room for two control messages of an integer each, aligned as their headers must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 48]);

impl Control {
    const EMPTY: Control = Control([0; 48]);

    /// Writes a control message behind the first `used` bytes, which are none or what this has said before; says how many are used
    /// now.
    fn put<T: Copy + Into<libc::c_int>>(&mut self, used: usize, level: i32, option: i32, value: T) -> usize {
        // SAFETY: CMSG_LEN and CMSG_SPACE only compute, and round up to the alignment that `Control` has. A header and an
        // integer of at most 4 bytes behind it take 24 bytes, and so two of them the 48 there are: that is asserted. CMSG_DATA of
        // a header stays within those.
        unsafe {
            let space = libc::CMSG_SPACE(size_of::<T>() as u32) as usize;
            assert!(used + space <= self.0.len() && used.is_multiple_of(8), "two control messages");
            let header: *mut libc::cmsghdr = (&raw mut self.0).cast::<u8>().add(used).cast();
            (*header).cmsg_level = level;
            (*header).cmsg_type = option;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
            used + space
        }
    }
}

/// The size of the datagrams that were received as one; 0 if it was one.
fn gro_segment(header: &libc::msghdr) -> usize {
    // SAFETY: `header` was filled by the kernel: its control pointer and length describe control messages within the
    // `Control` it was given, and the CMSG functions stay within those bounds. UDP_GRO's data is an int.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_UDP && (*control).cmsg_type == libc::UDP_GRO {
                let segment = libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(segment).unwrap_or(0);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape<'a>(datagrams: &[(&str, usize)], bytes: &'a [u8], gso_segment: usize) -> Vec<usize> {
        let mut outbox: Outbox<'a> = Outbox::new();
        for (to, len) in datagrams {
            outbox.push((to.parse().expect("an address"), 0), &bytes[..*len], gso_segment);
        }
        outbox.message[..outbox.messages].iter().map(|m| m.pieces).collect()
    }

    #[test]
    fn runs_of_one_size_to_one_peer_become_one_message() {
        const A: &str = "192.0.2.1:51820";
        const B: &str = "[2001:db8::1]:51820";
        let bytes = [0; 2000];
        let shape = |datagrams: &[(&str, usize)]| shape(datagrams, &bytes, usize::MAX);
        assert_eq!(shape(&[(A, 1400), (A, 1400), (A, 1400)]), [3]);
        assert_eq!(shape(&[(A, 1400), (A, 1400), (A, 90), (A, 90)]), [3, 1], "a short one ends the message");
        assert_eq!(shape(&[(A, 90), (A, 1400)]), [1, 1], "a longer one begins another");
        assert_eq!(shape(&[(A, 1400), (B, 1400), (A, 1400)]), [1, 1, 1]);
        assert_eq!(shape(&[(A, 0), (A, 0)]), [1, 1], "empty datagrams have no segments");
        assert_eq!(shape(&[(A, 100); 130]), [64, 64, 2], "at most 64 segments");
        assert_eq!(shape(&[(A, 2000); 40]), [32, 8], "at most what fits an IP packet");
    }

    #[test]
    fn segments_larger_than_gso_is_known_to_carry_go_singly() {
        let bytes = [0; 2000];
        let a = "192.0.2.1:51820";
        assert_eq!(shape(&[(a, 1400), (a, 1400)], &bytes, 1399), [1, 1]);
        assert_eq!(shape(&[(a, 1399), (a, 1399)], &bytes, 1399), [2]);
    }

    #[test]
    fn what_carries_another_dscp_is_another_message_and_carries_it_by_either_family() {
        let bytes = [7; 100];
        let to = "192.0.2.1:51820".parse().expect("an address");
        let mut outbox = Outbox::new();
        for dscp in [0, 46, 46, 0] {
            outbox.push((to, dscp), &bytes, usize::MAX);
        }
        assert_eq!(outbox.message[..outbox.messages].iter().map(|m| m.pieces).collect::<Vec<_>>(), [1, 2, 1]);

        for (listen, at) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
        {
            let parsed = |text: &str| Listen { address: text.parse().expect("an address"), interface: None };
            let receiver = open(&parsed(at)).expect("opened");
            rustix::net::bind(&receiver, &parsed(at).address).expect("bound");
            let receiver_at: SocketAddr =
                rustix::net::getsockname(&receiver).expect("bound").try_into().expect("an IP address");
            set_option(&receiver, libc::SOL_UDP, libc::UDP_GRO, 0).expect("set");
            let (level, option, kind) = match receiver_at.is_ipv4() {
                true => (libc::IPPROTO_IP, libc::IP_RECVTOS, libc::IP_TOS),
                false => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, libc::IPV6_TCLASS),
            };
            set_option(&receiver, level, option, 1).expect("set");
            let mut socket = TransportSocket::bind(TransportId(0), &parsed(listen)).expect("bound");
            let sent = [46u8, 46, 0, 10].map(|dscp| (receiver_at, dscp, &bytes[..]));
            socket.send(sent.into_iter(), |fault, count| panic!("{fault:?} {count}"));
            let got: Vec<u8> = (0..4).map(|_| class_of_next(&receiver, kind)).collect();
            assert_eq!(got, [46 << 2, 46 << 2, 0, 10 << 2], "from {listen}");
        }
    }

    /// The traffic class of the next datagram, as the kernel tells it.
    fn class_of_next(receiver: &OwnedFd, kind: i32) -> u8 {
        let (mut room, mut control) = ([0u8; 200], Control::EMPTY);
        let mut iovec = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        // SAFETY: `msghdr` is integers and raw pointers, and what it points at lives to the end of this function, with its true
        // size; the control messages that are read are those that the kernel has written there.
        unsafe {
            let mut header: libc::msghdr = mem::zeroed();
            header.msg_iov = &raw mut iovec;
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = size_of::<Control>() as _;
            assert_eq!(libc::recvmsg(receiver.as_raw_fd(), &raw mut header, 0), 100, "over loopback");
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while !message.is_null() {
                if (*message).cmsg_type == kind {
                    return *libc::CMSG_DATA(message);
                }
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
        }
        panic!("no traffic class was told")
    }

    #[test]
    fn addresses_come_back_from_the_kernels_form() {
        let addresses = ["192.0.2.1:51820", "[2001:db8::1]:51820", "[fe80::1%7]:9"];
        for text in addresses {
            let address: SocketAddr = text.parse().expect("an address");
            for ipv6 in [address.is_ipv6(), true] {
                let mut name = Name::EMPTY;
                name.set(address, ipv6);
                assert_eq!(name.get(), address);
            }
        }
    }
}
