//! Syslog over UDP (RFC 5426): a message a datagram, sent and forgotten.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sends `message` to `collector`.
///
/// # Errors
/// There is no way there, or no room: nothing waits for that.
pub fn send(collector: SocketAddr, message: &str) -> io::Result<()> {
    let any: SocketAddr = match collector {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Messages are rare: a socket for each is simpler than one that must follow the configuration.
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.send_to(message.as_bytes(), collector).map(drop)
}
