//! One tunnel: a WireGuard peer's keys, sessions and endpoint.
//!
//! boringtun's `Tunn` reads the clock; that stays behind this. Its queue is not used: it cannot say whether there was
//! room, and its own keepalives wait among the packets. Packets that need a session that is not there wait here.

use super::index::TunnelIndex;
use crate::model::{DropReason, TransportId};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What a data message adds to a packet: 16 bytes of header, 16 of tag (whitepaper section 5.4.6).
pub const OVERHEAD: usize = 32;
/// The longest handshake message.
const HANDSHAKE_BYTES: usize = 148;
/// The types of messages (whitepaper section 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;
/// Packets that wait for a session; boringtun's own measure. What comes after is lost.
const QUEUE: usize = 256;

/// A buffer of this size is enough for sealing or opening `len` bytes, or for any handshake message.
pub fn buffer_for(len: usize) -> usize {
    (len + OVERHEAD).max(HANDSHAKE_BYTES)
}

/// A tunnel's key material.
#[derive(Clone)]
pub struct Keys {
    pub private: [u8; 32],
    pub peer: [u8; 32],
    pub preshared: Option<[u8; 32]>,
}

/// Where the peer was last heard: the address, and the transport it was heard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub transport: TransportId,
    pub address: SocketAddr,
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// An IP packet of so many bytes is in the buffer.
    Packet(usize),
    /// A keepalive, or a cookie.
    Nothing,
    /// A message of so many bytes is in the buffer, to be sent to where the datagram came from.
    Reply(usize),
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed {
    /// A data message of so many bytes is in the buffer.
    Datagram(usize),
    /// The packet waits for a session; if a handshake begins with it, its message of so many bytes is in the buffer.
    Waiting(Option<usize>),
    /// It would have to wait, and there is no room.
    QueueFull,
}

/// A WireGuard peer.
pub struct Tunnel {
    noise: Tunn,
    index: TunnelIndex,
    endpoint: Option<Endpoint>,
    waiting: VecDeque<Vec<u8>>,
    /// Whether there is a session. It comes with a handshake or its first packet and goes with a tick; asking `noise`
    /// means reading the clock.
    live: bool,
    /// We have begun a handshake, and no session has come of it yet.
    calling: bool,
}

impl Tunnel {
    /// A tunnel without a session. `keepalive` in seconds.
    pub fn new(keys: &Keys, keepalive: Option<u16>, index: TunnelIndex) -> Tunnel {
        let private = StaticSecret::from(keys.private);
        // Initiations have passed the gate: this one verifies MACs and never finds itself under load.
        let limiter = Arc::new(RateLimiter::new(&PublicKey::from(&private), u64::MAX));
        let peer = PublicKey::from(keys.peer);
        let noise = Tunn::new(private, peer, keys.preshared, keepalive, index.bits(), Some(limiter));
        Tunnel { noise, index, endpoint: None, waiting: VecDeque::new(), live: false, calling: false }
    }

    /// What peers address this tunnel by.
    pub fn index(&self) -> TunnelIndex {
        self.index
    }

    /// Where datagrams go.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint
    }

    /// The peer is there now: policy says so, or an authenticated datagram came from there (whitepaper section 6.5).
    pub fn roam(&mut self, to: Endpoint) {
        self.endpoint = Some(to);
    }

    /// Takes a datagram; `buffer` must be [`buffer_for`] its length.
    ///
    /// # Errors
    /// Why it was not accepted.
    pub fn open(&mut self, from: IpAddr, datagram: &[u8], buffer: &mut [u8]) -> Result<Opened, DropReason> {
        if buffer.len() < buffer_for(datagram.len()) || datagram.is_empty() {
            return Err(DropReason::NotWireGuard);
        }
        let opened = match self.noise.decapsulate(Some(from), datagram, buffer) {
            TunnResult::Done => Ok(Opened::Nothing),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Ok(Opened::Packet(packet.len()))
            }
            TunnResult::WriteToNetwork(message) => Ok(Opened::Reply(message.len())),
            TunnResult::Err(error) => Err(reason(&error, datagram[0])),
        };
        if !self.live || datagram[0] != DATA {
            self.look();
        }
        if opened.is_ok() && matches!(datagram[0], INITIATION | RESPONSE) {
            self.calling = false;
        }
        opened
    }

    /// Seals `packet` into `buffer`, which must be [`buffer_for`] its length.
    pub fn seal(&mut self, packet: &[u8], buffer: &mut [u8]) -> Sealed {
        if buffer.len() < buffer_for(packet.len()) {
            return Sealed::QueueFull;
        }
        if self.live {
            return self.encapsulate(packet, buffer).map_or(Sealed::QueueFull, Sealed::Datagram);
        }
        if self.waiting.len() >= QUEUE {
            return Sealed::QueueFull;
        }
        self.waiting.push_back(packet.to_vec());
        match self.noise.format_handshake_initiation(buffer, false) {
            TunnResult::WriteToNetwork(message) => {
                self.calling = true;
                Sealed::Waiting(Some(message.len()))
            }
            _ => Sealed::Waiting(None),
        }
    }

    /// The length of the packet that has waited longest, if there is a session for it now.
    pub fn waiting(&self) -> Option<usize> {
        self.waiting.front().map(Vec::len).filter(|_| self.has_session())
    }

    /// A packet that waited, sealed, now that there is a session: call after a datagram was opened, until `None`.
    /// `buffer` must be [`buffer_for`] what [`Tunnel::waiting`] says.
    pub fn seal_waiting(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if buffer.len() < buffer_for(self.waiting()?) {
            return None;
        }
        let packet = self.waiting.pop_front()?;
        self.encapsulate(&packet, buffer)
    }

    fn encapsulate(&mut self, packet: &[u8], buffer: &mut [u8]) -> Option<usize> {
        match self.noise.encapsulate(packet, buffer) {
            TunnResult::WriteToNetwork(message) if message[0] == DATA => Some(message.len()),
            _ => None,
        }
    }

    /// WireGuard's own timers (whitepaper section 6.1): call once a second, and a few times while [`Tunnel::is_calling`].
    /// It is also what tells boringtun the time: what comes and goes until the next call has come and gone now. A handshake
    /// or keepalive message may be in `buffer` afterwards; packets that waited in vain are counted.
    pub fn tick(&mut self, buffer: &mut [u8]) -> (Option<usize>, usize) {
        let outcome = match self.noise.update_timers(buffer) {
            TunnResult::WriteToNetwork(message) => {
                self.calling |= message[0] == INITIATION;
                (Some(message.len()), 0)
            }
            TunnResult::Err(_) => {
                self.calling = false;
                (None, std::mem::take(&mut self.waiting).len())
            }
            _ => (None, 0),
        };
        self.look();
        outcome
    }

    /// Policy forbids where the peer was last heard: nothing is sent until it is heard elsewhere.
    pub fn forget_endpoint(&mut self) {
        self.endpoint = None;
    }

    /// Begins a handshake, whatever is under way.
    pub fn call(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.noise.format_handshake_initiation(buffer, true) {
            TunnResult::WriteToNetwork(message) => {
                self.calling = true;
                Some(message.len())
            }
            _ => None,
        }
    }

    /// Whether a handshake of ours is under way.
    pub fn is_calling(&self) -> bool {
        self.calling
    }

    /// Whether packets can be sealed without waiting.
    pub fn has_session(&self) -> bool {
        self.live
    }

    fn look(&mut self) {
        self.live = self.since_handshake().is_some();
    }

    /// How long ago the session in use was agreed on.
    pub fn since_handshake(&self) -> Option<Duration> {
        self.noise.time_since_last_handshake()
    }
}

fn reason(error: &WireGuardError, message_type: u8) -> DropReason {
    use WireGuardError::*;
    match (error, message_type) {
        (InvalidMac, _) => DropReason::HandshakeMacInvalid,
        (UnderLoad, _) => DropReason::CookieRequired,
        (WrongIndex, _) => DropReason::ReceiverIndexUnknown,
        (InvalidCounter | DuplicateCounter, _) => DropReason::TunnelReplayed,
        (NoCurrentSession | ConnectionExpired, _) => DropReason::TunnelSessionExpired,
        (InvalidPacket, 4) => DropReason::Malformed,
        (InvalidPacket, _) => DropReason::NotWireGuard,
        (_, 4) => DropReason::TunnelAuthenticationFailed,
        _ => DropReason::HandshakeRefused,
    }
}
