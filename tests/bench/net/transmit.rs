//! The ways a single packet can leave by, side by side: those that popgate takes (a UDP socket on the underlay, a TUN device
//! on the handoff), and those that go past the kernel's own UDP and IP, AF_PACKET and AF_XDP.
//!
//! What is sent has one size and goes to, or comes from, one of 1,000 peers after the other, so that no two packets in a row
//! can leave as one. Sender and receiver share the DUT's processor: over veth it is the sender that takes a packet through
//! the receiver's kernel, as far as a rule that drops it, and that is in all the figures alike. Ways take turns, a fraction
//! of a second each, so that a noisy machine is noisy for all. The frames are made beforehand, which favours the ways that
//! need them: looking a neighbour up and writing headers is some 50 ns more, the checksum of a large datagram 100.
//!
//! What was found stands in `src/io/udp.rs`.
//!
//! Functions in order: what is measured, the ways, memory shared with the kernel.

#![allow(unsafe_code)]

use super::dut::outer_address;
use super::load::Direction;
use super::packet;
use super::report::{Figures, Subject, median};
use super::rig::{Inside, POP, POP_PORT, Rig, SERVER, Setting, early_filter, pin};
use super::{DUT_CPU, Failure, GENERATOR_CPU};
use popgate::io::namespace::Namespace;
use popgate::io::tun::TunDevice;
use popgate::io::udp::{Listen, TransportSocket};
use popgate::model::{DeviceId, TransportId};
use popgate::wire::Outbound;
use rustix::io::Errno;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{
    AddressFamily, MMsgHdr, Protocol, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sockopt,
};
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PEERS: usize = 1_000;
/// Packets a system call where a way can take many: a full batch of the forwarder's.
const BURST: usize = 64;
/// Bursts a turn, and turns; of each way the first turn is not counted.
const BURSTS: usize = 150;
const TURNS: usize = 16;
/// A second: what has been sent is on its way to the same processor.
const PATIENCE: Duration = Duration::from_secs(1);
/// What WireGuard adds to an inner packet.
const SEAL_BYTES: usize = 32;
const LOAD_PORT: u16 = 7000;

/// A way's name, and what was measured of it.
type Measured = (&'static str, Result<Figures, String>);
/// A way that can be sent by, unless this machine does not have it.
type Opened<'a> = Result<Box<dyn Way + 'a>, Failure>;

/// Singles of `bytes` inner bytes, leaving at one of the PoP's two sides.
pub struct Transmit {
    side: Side,
    bytes: usize,
}

#[derive(Clone, Copy)]
enum Side {
    /// Sealed, to branches.
    Underlay,
    /// Translated, to a server.
    Handoff,
}

impl Side {
    /// The PoP's interface; the node at its other end, and that node's interface.
    fn cable(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Side::Underlay => ("u1", "branch", "u0"),
            Side::Handoff => ("s1", "srv", "s0"),
        }
    }
}

impl Transmit {
    pub fn all() -> impl Iterator<Item = Transmit> {
        let sides = [Side::Underlay, Side::Handoff].into_iter();
        sides.flat_map(|side| [1_420, 64].map(|bytes| Transmit { side, bytes }))
    }

    pub fn name(&self) -> String {
        let side = match self.side {
            Side::Underlay => "underlay",
            Side::Handoff => "handoff",
        };
        format!("transmit {} singles, {side}", self.bytes)
    }

    pub fn subject(&self) -> Subject {
        let direction = match self.side {
            Side::Underlay => Direction::Down.name(),
            Side::Handoff => Direction::Up.name(),
        };
        Subject { case: self.name(), direction, peers: PEERS, bytes: self.bytes, burst: 1 }
    }

    /// Nanoseconds a packet, of each way; or why this machine does not have it.
    pub fn measure(&self, setting: &Setting) -> Result<Vec<Measured>, Failure> {
        let rig = Rig::up(setting, false, Inside::Router, Inside::Router, &[DUT_CPU])?;
        let (interface, far_node, far_interface) = self.side.cable();
        let dropped = early_filter(&format!("udp dport {{ {LOAD_PORT}, {POP_PORT} }} drop"));
        rig.nft(far_node, &dropped)?;
        let packets: Vec<Vec<u8>> = (0..PEERS).map(|index| self.packet(index)).collect();
        let ethernet = [
            &hardware_address(&rig, far_node, far_interface)?[..],
            &hardware_address(&rig, "pop", interface)?,
            &[0x08, 0x00],
        ]
        .concat();
        let frames: Vec<Vec<u8>> = packets.iter().map(|packet| [&ethernet[..], packet].concat()).collect();

        // A way that the machine does not have keeps its place, with the reason.
        let mut ways: Vec<(&'static str, Opened<'_>)> = vec![
            match self.side {
                Side::Underlay => ("socket", socket(&rig, &packets)),
                Side::Handoff => ("tun", tun(&rig, &packets)),
            },
            ("packet", packet_socket(&rig, interface, &frames)),
            ("packet-ring", packet_ring(&rig, interface, &frames)),
            ("xdp", xdp(&rig, interface, &frames)),
        ];
        let mut arrivals = rig.counter(far_node, far_interface)?;
        let mut nanos: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
        pin(&[DUT_CPU]);
        for turn in 0..TURNS {
            for ((_, way), nanos) in ways.iter_mut().zip(&mut nanos) {
                setting.check()?;
                let Ok(sender) = way else { continue };
                let expected = arrivals.read().buffers + (BURSTS * BURST) as u64;
                let begin = Instant::now();
                let sent = (0..BURSTS).try_for_each(|burst| sender.send(burst * BURST));
                let took = begin.elapsed().as_nanos() as f64;
                // The first turn may lose some: a neighbour has yet to answer.
                let arrived = || turn == 0 || arrivals.read().buffers >= expected;
                match sent.and_then(|()| setting.wait("all packets arrive", PATIENCE, arrived)) {
                    Ok(()) if turn == 0 => {}
                    Ok(()) => nanos.push(took / (BURSTS * BURST) as f64),
                    Err(error) => *way = Err(error),
                }
            }
        }
        pin(&[GENERATOR_CPU]);
        let figures = ways.iter().zip(&mut nanos).map(|((name, way), nanos)| match way {
            Ok(_) => (*name, Ok(Figures::from([("ns_per_packet", median(nanos))]))),
            Err(error) => (*name, Err(error.to_string())),
        });
        Ok(figures.collect())
    }

    /// As it leaves: what went to or came from peer `index`.
    fn packet(&self, index: usize) -> Vec<u8> {
        let (from, to, bytes) = match self.side {
            Side::Underlay => {
                let peer = SocketAddrV4::new(outer_address(index), POP_PORT);
                (SocketAddrV4::new(POP, POP_PORT), peer, self.bytes + SEAL_BYTES)
            }
            Side::Handoff => {
                let translated = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 10_000 + index as u16);
                (translated, SocketAddrV4::new(SERVER, LOAD_PORT), self.bytes - packet::HEADERS)
            }
        };
        packet::udp(from, to, &packet::payload(index, bytes))
    }
}

fn hardware_address(rig: &Rig, node: &str, interface: &str) -> Result<[u8; 6], Failure> {
    let line = rig.must(node, &["ip", "-o", "link", "show", "dev", interface])?;
    let text = line.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap_or_default();
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    Ok(bytes?.try_into().map_err(|_| format!("{interface} has no Ethernet address"))?)
}

/// One way to send.
trait Way {
    /// Sends the packets of [`BURST`] peers from the `first` on, in this order, and comes back when the kernel has them.
    fn send(&mut self, first: usize) -> Result<(), Failure>;
}

/// Whatever there is one of for each peer, of [`BURST`] peers from the `first` on.
fn burst_of<T>(all: &[T], first: usize) -> impl Iterator<Item = &T> {
    (first..first + BURST).map(|at| &all[at % all.len()])
}

// popgate's own.

struct Socket<'a> {
    socket: TransportSocket,
    datagrams: Vec<(SocketAddr, &'a [u8])>,
}

fn socket<'a>(rig: &Rig, packets: &'a [Vec<u8>]) -> Opened<'a> {
    let listen = Listen { address: SocketAddr::from((POP, POP_PORT)), interface: None };
    let socket = rig.lab.enter("pop", || TransportSocket::bind(TransportId(0), &listen))??;
    let to = |index| SocketAddr::from((outer_address(index), POP_PORT));
    let datagrams = packets.iter().enumerate().map(|(index, packet)| (to(index), &packet[packet::HEADERS..]));
    Ok(Box::new(Socket { socket, datagrams: datagrams.collect() }))
}

impl Way for Socket<'_> {
    fn send(&mut self, first: usize) -> Result<(), Failure> {
        let mut fault = None;
        self.socket.send(burst_of(&self.datagrams, first).map(|(to, bytes)| (*to, 0, *bytes)), |why, _| {
            fault = Some(why)
        });
        fault.map_or(Ok(()), |why| Err(format!("{why:?}").into()))
    }
}

/// The kernel forwards from there.
struct Tun<'a> {
    device: TunDevice,
    out: Outbound,
    packets: &'a [Vec<u8>],
}

fn tun<'a>(rig: &Rig, packets: &'a [Vec<u8>]) -> Opened<'a> {
    const NAME: &str = "bench0";
    let namespace = Namespace::find(rig.lab.node("pop").namespace())?.ok_or("the PoP has no namespace")?;
    let device = TunDevice::create(DeviceId(0), NAME, &namespace)?;
    rig.must("pop", &["ip", "link", "set", NAME, "up"])?;
    rig.must("pop", &["ip", "route", "add", "198.51.100.0/24", "dev", NAME])?;
    Ok(Box::new(Tun { device, out: Outbound::default(), packets }))
}

impl Way for Tun<'_> {
    fn send(&mut self, first: usize) -> Result<(), Failure> {
        burst_of(self.packets, first).for_each(|packet| self.out.push_packet(self.device.id(), packet));
        let sent = self.out.packets().try_for_each(|packet| self.device.send(&packet));
        self.out.clear();
        sent.map_err(|why| format!("{why:?}").into())
    }
}

// AF_PACKET (packet(7)), past the queueing discipline.

const PACKET_VERSION: i32 = 10;
const PACKET_TX_RING: i32 = 13;
const PACKET_QDISC_BYPASS: i32 = 20;

fn open_packet_socket(rig: &Rig) -> Result<OwnedFd, Failure> {
    let open = || {
        rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None::<Protocol>,
        )
    };
    let socket = rig.lab.enter("pop", open)??;
    sockopt::set_socket_send_buffer_size_force(&socket, 8 << 20)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1)?;
    Ok(socket)
}

fn bind_packet_socket(socket: &OwnedFd, interface: &str) -> Result<(), Failure> {
    let index = rustix::net::netdevice::name_to_index(socket, interface)?;
    // Of no protocol, so that it receives nothing.
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `address`, which is that long and lives through the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

fn set_option<T: Copy>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    let value: *const T = value;
    // SAFETY: the kernel reads `len` bytes of `value`, which is that long and lives through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

struct PacketSocket<'a> {
    socket: OwnedFd,
    frames: &'a [Vec<u8>],
}

fn packet_socket<'a>(rig: &Rig, interface: &str, frames: &'a [Vec<u8>]) -> Opened<'a> {
    let socket = open_packet_socket(rig)?;
    bind_packet_socket(&socket, interface)?;
    Ok(Box::new(PacketSocket { socket, frames }))
}

impl Way for PacketSocket<'_> {
    fn send(&mut self, first: usize) -> Result<(), Failure> {
        let pieces: Vec<[IoSlice<'_>; 1]> =
            burst_of(self.frames, first).map(|frame| [IoSlice::new(frame)]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            pieces.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> =
            pieces.iter().zip(&mut controls).map(|(piece, control)| MMsgHdr::new(piece, control)).collect();
        let mut sent = 0;
        while sent < messages.len() {
            sent += rustix::net::sendmmsg(&self.socket, &mut messages[sent..], SendFlags::empty())?;
        }
        Ok(())
    }
}

/// AF_PACKET's ring (Documentation/networking/packet_mmap.rst), version 2.
struct PacketRing<'a> {
    socket: OwnedFd,
    ring: Mapping,
    next: usize,
    frames: &'a [Vec<u8>],
}

impl PacketRing<'_> {
    const SLOTS: usize = 1_024;
    const SLOT_BYTES: usize = 2_048;
    /// Of `struct tpacket2_hdr`: the status, the length, and where the frame begins.
    const STATUS_AT: usize = 0;
    const LENGTH_AT: usize = 4;
    const FRAME_AT: usize = 32;
    const AVAILABLE: u32 = 0;
    const SEND_REQUEST: u32 = 1;
}

fn packet_ring<'a>(rig: &Rig, interface: &str, frames: &'a [Vec<u8>]) -> Opened<'a> {
    let socket = open_packet_socket(rig)?;
    let bytes = PacketRing::SLOTS * PacketRing::SLOT_BYTES;
    // TPACKET_V2; `struct tpacket_req`: one block of all the slots.
    set_option(&socket, libc::SOL_PACKET, PACKET_VERSION, &1)?;
    let request = [bytes as u32, 1, PacketRing::SLOT_BYTES as u32, PacketRing::SLOTS as u32];
    set_option(&socket, libc::SOL_PACKET, PACKET_TX_RING, &request)?;
    let ring = Mapping::of(Some((socket.as_fd(), 0)), bytes)?;
    bind_packet_socket(&socket, interface)?;
    Ok(Box::new(PacketRing { socket, ring, next: 0, frames }))
}

impl Way for PacketRing<'_> {
    fn send(&mut self, first: usize) -> Result<(), Failure> {
        for frame in burst_of(self.frames, first) {
            let slot = self.next % Self::SLOTS * Self::SLOT_BYTES;
            self.next += 1;
            let status = self.ring.word(slot + Self::STATUS_AT);
            if status.load(Ordering::Acquire) != Self::AVAILABLE {
                return Err("the ring is full".into());
            }
            self.ring.write(slot + Self::LENGTH_AT, &(frame.len() as u32).to_ne_bytes());
            self.ring.write(slot + Self::FRAME_AT, frame);
            status.store(Self::SEND_REQUEST, Ordering::Release);
        }
        rustix::net::send(&self.socket, &[], SendFlags::empty())?;
        Ok(())
    }
}

/// AF_XDP (Documentation/networking/af_xdp.rst), in copy mode; it needs no program as long as it only sends.
struct Xdp<'a> {
    socket: OwnedFd,
    /// Where frames lie.
    chunks: Mapping,
    /// What is to be sent, and what has been.
    sending: Ring,
    sent: Ring,
    frames: &'a [Vec<u8>],
}

struct Ring {
    memory: Mapping,
    at: XdpRingOffset,
}

impl Ring {
    fn producer(&self) -> &AtomicU32 {
        self.memory.word(self.at.producer as usize)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.memory.word(self.at.consumer as usize)
    }
}

impl Xdp<'_> {
    /// Slots of each ring, and chunks.
    const SLOTS: u32 = 1_024;
    const CHUNK_BYTES: usize = 2_048;
    /// `struct xdp_desc`; what the other ring holds is an address.
    const DESCRIPTOR_BYTES: usize = 16;
    const ADDRESS_BYTES: usize = 8;
    /// Kicks in a row that move nothing: something else is wrong.
    const KICKS: usize = 1_000;
}

fn xdp<'a>(rig: &Rig, interface: &str, frames: &'a [Vec<u8>]) -> Opened<'a> {
    let open = || {
        rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None::<Protocol>)
    };
    let socket = rig.lab.enter("pop", open)??;
    let chunks = Mapping::of(None, Xdp::SLOTS as usize * Xdp::CHUNK_BYTES)?;
    let registration = XdpUmemReg {
        addr: chunks.at.addr().get() as u64,
        len: chunks.bytes as u64,
        chunk_size: Xdp::CHUNK_BYTES as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(&socket, registration)?;
    // Nothing will be received, but it must be there.
    sockopt::set_xdp_umem_fill_ring_size(&socket, 64)?;
    sockopt::set_xdp_umem_completion_ring_size(&socket, Xdp::SLOTS)?;
    sockopt::set_xdp_tx_ring_size(&socket, Xdp::SLOTS)?;
    let offsets = sockopt::xdp_mmap_offsets(&socket)?;
    let ring = |at: XdpRingOffset, page: u64, entry: usize| {
        let bytes = at.desc as usize + Xdp::SLOTS as usize * entry;
        Ok::<_, Failure>(Ring { memory: Mapping::of(Some((socket.as_fd(), page)), bytes)?, at })
    };
    let sending = ring(offsets.tx, rustix::net::xdp::XDP_PGOFF_TX_RING, Xdp::DESCRIPTOR_BYTES)?;
    let sent = ring(offsets.cr, rustix::net::xdp::XDP_UMEM_PGOFF_COMPLETION_RING, Xdp::ADDRESS_BYTES)?;
    let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
    rustix::net::bind(&socket, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, index, 0))?;
    Ok(Box::new(Xdp { socket, chunks, sending, sent, frames }))
}

impl Way for Xdp<'_> {
    fn send(&mut self, first: usize) -> Result<(), Failure> {
        let begin = self.sending.producer().load(Ordering::Relaxed);
        let mut end = begin;
        for frame in burst_of(self.frames, first) {
            // All that was sent earlier has gone: see below.
            let slot = (end % Self::SLOTS) as usize;
            let chunk = slot * Self::CHUNK_BYTES;
            self.chunks.write(chunk, frame);
            let mut descriptor = [0; Self::DESCRIPTOR_BYTES];
            descriptor[..8].copy_from_slice(&(chunk as u64).to_ne_bytes());
            descriptor[8..12].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
            let at = self.sending.at.desc as usize + slot * Self::DESCRIPTOR_BYTES;
            self.sending.memory.write(at, &descriptor);
            end = end.wrapping_add(1);
        }
        self.sending.producer().store(end, Ordering::Release);
        // A kick moves 32 frames.
        for _ in 0..Self::KICKS {
            if self.sending.consumer().load(Ordering::Acquire) == end {
                let sent = self.sent.producer().load(Ordering::Acquire);
                self.sent.consumer().store(sent, Ordering::Release);
                return Ok(());
            }
            match rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT) {
                Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err("AF_XDP takes nothing any more".into())
    }
}

/// Memory shared with the kernel.
struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Of a socket, from an offset on; or of nothing, for a socket to be told of.
    fn of(socket: Option<(BorrowedFd<'_>, u64)>, bytes: usize) -> io::Result<Mapping> {
        let (flags, fd, offset) = match socket {
            Some((socket, offset)) => (libc::MAP_SHARED, socket.as_raw_fd(), offset),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        };
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_POPULATE);
        // SAFETY: the kernel chooses where, so that nothing which is there already is touched.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, fd, offset as libc::off_t) };
        match NonNull::new(at.cast::<u8>()) {
            Some(at) if at.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { at, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A word that both sides read and write.
    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.bytes);
        // SAFETY: within the mapping, which outlives the reference, and aligned, as mappings begin with a page; any bits
        // are a value, and whoever writes there meanwhile, the kernel, does so a word at a time.
        unsafe { AtomicU32::from_ptr(self.at.as_ptr().add(at).cast()) }
    }

    /// Writes where the kernel does not: a slot that is ours at the time.
    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.bytes);
        // SAFETY: within the mapping; `bytes` are not of it, since it is never lent but for `word`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.as_ptr().add(at), bytes.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `of`, with that length, and nothing refers to it any more. A socket that knows of it
        // keeps the pages.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}
