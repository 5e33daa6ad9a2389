//! The way to a flow collector: datagrams, or a connection that is made anew, with patience, whenever it ends.
//!
//! RFC 7011 section 10.3 for UDP, 10.4 for TCP, 11 for TLS.

use crate::config::{CollectorTls, CollectorTransport};
use crate::model::Instant;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to be made, and a collector not to take anything in. Both hold up its own thread alone.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts: at first, and at most. Each failure doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// At the end: for a collector to say that it has all.
const FAREWELL: Duration = Duration::from_secs(2);

/// The way to one collector.
pub(super) struct Link {
    address: SocketAddr,
    kind: Kind,
    open: Option<Open>,
    /// Not before, after a failure.
    retry_at: Instant,
    retry_after: Duration,
}

enum Kind {
    Udp,
    Tcp,
    Tls(Arc<ClientConfig>, ServerName<'static>),
    /// What the configuration has let through and TLS does not take: told with every attempt.
    Impossible(rustls::Error),
}

enum Open {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<ClientConnection>, TcpStream),
}

impl Link {
    pub(super) fn new(address: SocketAddr, transport: &CollectorTransport) -> Link {
        let kind = match transport {
            CollectorTransport::Udp => Kind::Udp,
            CollectorTransport::Tcp => Kind::Tcp,
            CollectorTransport::Tls(tls) => Kind::of_tls(tls),
        };
        Link { address, kind, open: None, retry_at: Instant::default(), retry_after: FIRST_RETRY }
    }

    /// When it can be used, as far as anybody knows: in the past, but after a failure.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.retry_at
    }

    /// There will be no later attempt: the next may be made at once.
    pub(super) fn hurry(&mut self) {
        self.retry_at = Instant::default();
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// By which address of the box's it goes.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        let address = match self.open.as_ref()? {
            Open::Udp(socket) => socket.local_addr(),
            Open::Tcp(socket) | Open::Tls(_, socket) => socket.local_addr(),
        };
        address.ok().map(|address| address.ip())
    }

    /// Sees to it that there is a way; true if it is a new one, a transport session to which nothing has been said.
    pub(super) fn open(&mut self, now: Instant) -> io::Result<bool> {
        if let Some(open) = &mut self.open {
            if !open.has_ended() {
                return Ok(false);
            }
            self.open = None;
        }
        match Open::new(self.address, &self.kind) {
            Ok(open) => {
                self.open = Some(open);
                Ok(true)
            }
            Err(error) => {
                self.failed(now);
                Err(error)
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// It could not be sent. A stream is over then; of UDP the next may arrive.
    pub(super) fn send(&mut self, message: &[u8], now: Instant) -> io::Result<()> {
        let sent = match &mut self.open {
            Some(open) => open.send(message),
            None => Err(ErrorKind::NotConnected.into()),
        };
        match &sent {
            Ok(()) => self.retry_after = FIRST_RETRY,
            Err(_) if matches!(self.open, Some(Open::Udp(_))) => {}
            Err(_) => {
                self.open = None;
                self.failed(now);
            }
        }
        sent
    }

    /// Says good-bye, and waits a little until the collector has read all.
    pub(super) fn close(self) {
        if let Some(open) = self.open {
            open.close();
        }
    }

    fn failed(&mut self, now: Instant) {
        self.retry_at = now + self.retry_after;
        self.retry_after = (2 * self.retry_after).min(LAST_RETRY);
    }
}

impl Kind {
    fn of_tls(tls: &CollectorTls) -> Kind {
        match tls.client() {
            Ok(client) => Kind::Tls(Arc::new(client), tls.server_name.clone()),
            Err(error) => Kind::Impossible(error),
        }
    }
}

impl Open {
    fn new(address: SocketAddr, kind: &Kind) -> io::Result<Open> {
        let tls_error = |error: rustls::Error| io::Error::new(ErrorKind::InvalidData, error);
        match kind {
            Kind::Udp => connected_udp(address).map(Open::Udp),
            Kind::Tcp => connected_tcp(address).map(Open::Tcp),
            Kind::Tls(client, server_name) => {
                let mut socket = connected_tcp(address)?;
                let mut connection =
                    ClientConnection::new(Arc::clone(client), server_name.clone()).map_err(tls_error)?;
                while connection.is_handshaking() {
                    connection.complete_io(&mut socket)?;
                }
                Ok(Open::Tls(Box::new(connection), socket))
            }
            Kind::Impossible(error) => Err(tls_error(error.clone())),
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Open::Udp(socket) => socket.send(message).map(|_| ()),
            Open::Tcp(socket) => socket.write_all(message),
            Open::Tls(connection, socket) => {
                connection.writer().write_all(message)?;
                while connection.wants_write() {
                    connection.write_tls(socket)?;
                }
                Ok(())
            }
        }
    }

    /// Whether the collector has closed a stream. It has nothing to say to an exporter but this, and over TLS what TLS itself
    /// says; left unread, that would make the kernel take back what was sent last.
    fn has_ended(&mut self) -> bool {
        let socket = match self {
            Open::Udp(_) => return false,
            Open::Tcp(socket) | Open::Tls(_, socket) => socket,
        };
        if socket.set_nonblocking(true).is_err() {
            return true;
        }
        let ended = loop {
            let read = match self {
                Open::Udp(_) => return false,
                Open::Tcp(socket) => socket.read(&mut [0; 512]),
                Open::Tls(connection, socket) => read_tls(connection, socket),
            };
            match read {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        let (Open::Tcp(socket) | Open::Tls(_, socket)) = self else { return ended };
        ended || socket.set_nonblocking(false).is_err()
    }

    fn close(self) {
        match self {
            Open::Udp(_) => {}
            Open::Tcp(mut socket) => see_off(&mut socket),
            Open::Tls(mut connection, mut socket) => {
                connection.send_close_notify();
                while connection.wants_write() && connection.write_tls(&mut socket).is_ok_and(|sent| sent > 0)
                {
                }
                see_off(&mut socket);
            }
        }
    }
}

/// What TLS has to say, and nothing else; the bytes it took, 0 at the end.
fn read_tls(connection: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<usize> {
    let read = connection.read_tls(socket)?;
    let state =
        connection.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let mut text = vec![0; state.plaintext_bytes_to_read()];
    connection.reader().read_exact(&mut text)?;
    Ok(if state.peer_has_closed() { 0 } else { read })
}

fn see_off(socket: &mut TcpStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(FAREWELL));
    while socket.read(&mut [0; 512]).is_ok_and(|read| read > 0) {}
}

fn connected_tcp(collector: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&collector, TIMEOUT)?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    // Messages are full, or have waited long enough.
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn connected_udp(collector: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match collector {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(collector)?;
    Ok(socket)
}
