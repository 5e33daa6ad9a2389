//! TCP sockets that listen.

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// As many as wait to be let in at a time.
const BACKLOG: i32 = 128;

/// Listens at an address; `ahead` of it, where nothing here has it yet.
///
/// # Errors
/// What the kernel says: it is taken, it is nobody's here, it may not be.
pub fn bind(listen: SocketAddr, ahead: bool) -> io::Result<TcpListener> {
    if !ahead {
        return TcpListener::bind(listen);
    }
    let family = if listen.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // ip(7), ipv6(7): whatever addresses there are.
    if listen.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else {
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    rustix::net::bind(&socket, &listen)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_nobodys_is_listened_at_ahead_of_it_alone() {
        // RFC 5737: no machine has it.
        let listen: SocketAddr = "192.0.2.77:0".parse().expect("an address");
        assert_eq!(
            bind(listen, false).map_err(|error| error.kind()).err(),
            Some(io::ErrorKind::AddrNotAvailable)
        );
        let bound = bind(listen, true).expect("bound");
        assert_eq!(bound.local_addr().expect("an address").ip(), listen.ip());
    }
}
