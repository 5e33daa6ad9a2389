//! Receiver indices: which tunnel a datagram is for, and which worker has that tunnel.
//!
//! boringtun counts a tunnel's sessions in the low 8 bits; the upper 24 are ours: the worker's number in the lowest of
//! them, so that a program on the socket can steer by it, and the rest random, so that nobody guesses one.

use crate::model::{MAX_WORKERS, WORKER_BITS};

/// The 24 bits that stand for one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelIndex(u32);

impl TunnelIndex {
    /// The index made of `random` bits for a tunnel of `worker`'s.
    pub fn new(random: u32, worker: u16) -> TunnelIndex {
        let worker = u32::from(worker % MAX_WORKERS);
        TunnelIndex((random << WORKER_BITS | worker) & 0x00ff_ffff)
    }

    /// Whose tunnel it is.
    pub fn worker(self) -> u16 {
        (self.0 % u32::from(MAX_WORKERS)) as u16
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }
}

/// The session that a data message is of, and its number in it: means something only once the message was opened.
pub fn sequence(datagram: &[u8]) -> Option<(u32, u64)> {
    if datagram.first() != Some(&4) {
        return None;
    }
    let session = u32::from_le_bytes(*datagram.get(4..)?.first_chunk()?);
    let number = u64::from_le_bytes(*datagram.get(8..)?.first_chunk()?);
    Some((session, number))
}

/// The tunnel that a WireGuard message other than an initiation is for, by its receiver index.
pub fn receiver(datagram: &[u8]) -> Option<TunnelIndex> {
    let at = match datagram.first()? {
        // Handshake response: sender, then receiver.
        2 => 8,
        // Cookie reply, data: receiver first.
        3 | 4 => 4,
        _ => return None,
    };
    let bytes: [u8; 4] = *datagram.get(at..)?.first_chunk()?;
    Some(TunnelIndex(u32::from_le_bytes(bytes) >> 8))
}
