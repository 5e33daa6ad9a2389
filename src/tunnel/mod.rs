//! WireGuard: tunnels over boringtun's noise, and the gate that handshakes pass before they cost anything.

mod gate;
mod index;
mod peer;
#[cfg(test)]
mod tests;

pub use gate::{Admission, Gate};
pub use index::{TunnelIndex, receiver, sequence};
pub use peer::{Endpoint, Keys, OVERHEAD, Opened, Sealed, Tunnel, buffer_for};
