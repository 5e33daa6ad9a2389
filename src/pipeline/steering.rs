//! Steering: which thread a datagram from the underlay is for. The kernel runs the same rule as a program on the sockets.

use crate::tunnel::receiver;

/// Who takes a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steered {
    Worker(u16),
    /// Handshake initiations, and whatever is addressed to no worker.
    Entrance,
}

/// Steers by the worker's number in the receiver index.
pub fn steer(datagram: &[u8], workers: u16) -> Steered {
    match receiver(datagram).map(|index| index.worker()) {
        Some(worker) if worker < workers => Steered::Worker(worker),
        _ => Steered::Entrance,
    }
}
