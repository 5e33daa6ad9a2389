//! WireGuard: tunnels over boringtun's noise, and the gate that handshakes pass before they cost anything.

mod gate;
mod index;
#[cfg(test)]
mod tests;
mod tunnel;

pub use gate::{Admission, Gate};
pub use index::{MAX_WORKERS, TunnelIndex, receiver};
pub use tunnel::{Endpoint, Keys, OVERHEAD, Opened, Sealed, Tunnel, buffer_for};
