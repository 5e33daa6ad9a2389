//! A flow that has not come, to be asked about: by an operator, by a policy test.

use super::{HostName, NameSource, Named, Protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// An end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedEnd {
    pub address: IpAddr,
    pub port: Option<u16>,
}

/// What its first packet would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedFlow {
    pub from: AskedEnd,
    pub to: AskedEnd,
    pub protocol: Protocol,
    /// 0-63.
    pub dscp: u8,
    /// What the client calls the server, in the packets after it.
    pub sni: Option<HostName>,
}

impl AskedFlow {
    /// The port it comes from: 49152, the first of those that systems give to clients (RFC 6335 section 6), unless asked
    /// for another.
    pub fn source_port(&self) -> u16 {
        let any = if self.protocol.has_ports() { 49_152 } else { 0 };
        self.from.port.unwrap_or(any)
    }

    /// What it is known by when its client has said so: in TLS over TCP, in QUIC over UDP; other protocols name nobody.
    pub fn named(&self) -> Option<Named> {
        let by = match self.protocol {
            Protocol::TCP => NameSource::TlsSni,
            Protocol::UDP => NameSource::QuicSni,
            _ => return None,
        };
        self.sni.map(|name| Named { name: name.as_str().into(), by })
    }

    /// The port it goes to; 0 where none was asked for.
    pub fn destination_port(&self) -> u16 {
        self.to.port.unwrap_or_default()
    }
}

/// Neither an address nor an address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address, or address:port as in \"192.0.2.1:443\" or \"[2001:db8::1]:443\"")]
pub struct NotAnEnd;

impl FromStr for AskedEnd {
    type Err = NotAnEnd;

    fn from_str(text: &str) -> Result<AskedEnd, NotAnEnd> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(AskedEnd { address, port: None });
        }
        let with_port: SocketAddr = text.parse().map_err(|_| NotAnEnd)?;
        Ok(AskedEnd { address: with_port.ip(), port: Some(with_port.port()) })
    }
}

impl fmt::Display for AskedEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}
