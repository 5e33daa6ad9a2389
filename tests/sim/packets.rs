//! What hosts send and see.

use popgate::wire::{self, Parsed, Upper, tcp_flags};
use std::net::{IpAddr, SocketAddr};

/// A host's packet: addresses, an upper layer, and the IP fields tests play with.
#[derive(Clone, Debug)]
pub struct Build {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    upper: Vec<u8>,
    checksum_at: Option<usize>,
    ttl: u8,
    dscp: u8,
    dont_fragment: bool,
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// A UDP packet between `from` and `to`, written as `address:port`.
pub fn udp(from: &str, to: &str, payload: &[u8]) -> Build {
    let (from, to) = (addr(from), addr(to));
    let mut upper = Vec::new();
    upper.extend_from_slice(&from.port().to_be_bytes());
    upper.extend_from_slice(&to.port().to_be_bytes());
    upper.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    upper.extend_from_slice(&[0, 0]);
    upper.extend_from_slice(payload);
    Build::new(from.ip(), to.ip(), 17, upper, Some(6))
}

/// A TCP segment with an MSS option of 1,460 when it is a SYN.
pub fn tcp(from: &str, to: &str, flags: u8, payload: &[u8]) -> Build {
    let (from, to) = (addr(from), addr(to));
    let mut upper = Vec::new();
    upper.extend_from_slice(&from.port().to_be_bytes());
    upper.extend_from_slice(&to.port().to_be_bytes());
    // Nobody ever gets further than the byte behind the SYN.
    let sequence = if flags & tcp_flags::SYN != 0 { 1u32 } else { 2 };
    upper.extend_from_slice(&sequence.to_be_bytes());
    upper.extend_from_slice(&2u32.to_be_bytes());
    let options: &[u8] = if flags & tcp_flags::SYN != 0 { &[2, 4, 0x05, 0xb4] } else { &[] };
    upper.extend_from_slice(&[((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    upper.extend_from_slice(options);
    upper.extend_from_slice(payload);
    Build::new(from.ip(), to.ip(), 6, upper, Some(16))
}

/// An ICMP echo request (of the addresses' family).
pub fn ping(from: &str, to: &str, id: u16, payload: &[u8]) -> Build {
    let (from, to): (IpAddr, IpAddr) = (from.parse().expect("an address"), to.parse().expect("an address"));
    let mut upper = vec![if from.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    upper.extend_from_slice(&id.to_be_bytes());
    upper.extend_from_slice(&[0, 1]);
    upper.extend_from_slice(payload);
    Build::new(from, to, if from.is_ipv4() { 1 } else { 58 }, upper, Some(2))
}

/// A packet of a protocol whose upper layer popgate does not read.
pub fn other(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Build {
    let (from, to): (IpAddr, IpAddr) = (from.parse().expect("an address"), to.parse().expect("an address"));
    Build::new(from, to, protocol, payload.to_vec(), None)
}

/// An IPv4 packet's fragments of at most `mtu` bytes.
pub fn fragments(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    wire::fragment(packet, &read(packet), mtu, |part| parts.push(part.to_vec()));
    parts
}

impl Build {
    fn new(from: IpAddr, to: IpAddr, protocol: u8, upper: Vec<u8>, checksum_at: Option<usize>) -> Build {
        Build { from, to, protocol, upper, checksum_at, ttl: 64, dscp: 0, dont_fragment: true }
    }

    pub fn ttl(mut self, ttl: u8) -> Build {
        self.ttl = ttl;
        self
    }

    pub fn dscp(mut self, dscp: u8) -> Build {
        self.dscp = dscp;
        self
    }

    /// TCP's.
    pub fn sequence(mut self, sequence: u32) -> Build {
        self.upper[4..8].copy_from_slice(&sequence.to_be_bytes());
        self
    }

    /// TCP's.
    pub fn acknowledges(mut self, sequence: u32) -> Build {
        self.upper[8..12].copy_from_slice(&sequence.to_be_bytes());
        self
    }

    pub fn may_fragment(mut self) -> Build {
        self.dont_fragment = false;
        self
    }

    /// The packet's bytes, all checksums right.
    pub fn bytes(&self) -> Vec<u8> {
        let mut upper = self.upper.clone();
        if let Some(at) = self.checksum_at {
            let pseudo = match self.protocol {
                1 => 0,
                protocol => wire::pseudo_header(self.from, self.to, protocol, upper.len()),
            };
            let sum = !wire::add_sums(pseudo, wire::checksum(&upper));
            let sum = if sum == 0 && self.protocol == 17 { 0xffff } else { sum };
            upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let mut out = Vec::new();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend_from_slice(&[0x45, self.dscp << 2]);
                out.extend_from_slice(&(20 + upper.len() as u16).to_be_bytes());
                out.extend_from_slice(&[
                    0,
                    99,
                    if self.dont_fragment { 0x40 } else { 0 },
                    0,
                    self.ttl,
                    self.protocol,
                    0,
                    0,
                ]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
                let sum = !wire::checksum(&out);
                out[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out.extend_from_slice(&[0x60 | self.dscp >> 2, self.dscp << 6, 0, 0]);
                out.extend_from_slice(&(upper.len() as u16).to_be_bytes());
                out.extend_from_slice(&[self.protocol, self.ttl]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            }
            _ => panic!("two families in one packet"),
        }
        out.extend_from_slice(&upper);
        out
    }
}

/// A packet, read: with every checksum verified.
pub fn read(packet: &[u8]) -> Parsed {
    let parsed = wire::parse(packet).unwrap_or_else(|reason| panic!("{reason:?}: {packet:02x?}"));
    assert!(is_sound(packet, &parsed), "checksum of {parsed:?}");
    parsed
}

/// Whether its upper layer's checksum holds, where it has one that can be judged.
pub fn is_sound(packet: &[u8], parsed: &Parsed) -> bool {
    if matches!(parsed.upper, Upper::LaterFragment | Upper::Other) || parsed.fragment.is_some() {
        return true;
    }
    let upper = &packet[parsed.upper_at..parsed.len];
    let pseudo = match parsed.protocol.0 {
        1 => 0,
        protocol => {
            wire::pseudo_header(parsed.source(packet), parsed.destination(packet), protocol, upper.len())
        }
    };
    wire::add_sums(pseudo, wire::checksum(upper)) == 0xffff
}

/// Where a packet says it comes from.
pub fn source(packet: &[u8]) -> IpAddr {
    read(packet).source(packet)
}

/// `10.1.0.5:4000 > 203.0.113.9:80`; the identifier in the port's place for echo.
pub fn ends(packet: &[u8]) -> String {
    let parsed = read(packet);
    let (from, to) = (parsed.source(packet), parsed.destination(packet));
    match parsed.upper {
        Upper::Tcp { source_port, destination_port, .. } | Upper::Udp { source_port, destination_port } => {
            format!("{} > {}", SocketAddr::new(from, source_port), SocketAddr::new(to, destination_port))
        }
        Upper::EchoRequest { id } => format!("{from} > {to} echo {id}"),
        Upper::EchoReply { id } => format!("{from} > {to} echo reply {id}"),
        Upper::IcmpError => {
            let quoted = parsed.embedded(packet).expect("an error quotes a packet");
            format!(
                "{from} > {to} error about {} > {}",
                SocketAddr::new(quoted.source, quoted.source_port),
                SocketAddr::new(quoted.destination, quoted.destination_port)
            )
        }
        other => format!("{from} > {to} {other:?}"),
    }
}

/// The answer a host gives: addresses and ports turned round.
pub fn answer(packet: &[u8], payload: &[u8]) -> Vec<u8> {
    let parsed = read(packet);
    let (source, destination) = (parsed.source(packet), parsed.destination(packet));
    match parsed.upper {
        Upper::Udp { source_port, destination_port } => {
            let from = SocketAddr::new(destination, destination_port).to_string();
            let to = SocketAddr::new(source, source_port).to_string();
            udp(&from, &to, payload).bytes()
        }
        Upper::Tcp { source_port, destination_port, flags } => {
            let from = SocketAddr::new(destination, destination_port).to_string();
            let to = SocketAddr::new(source, source_port).to_string();
            let flags =
                if flags & tcp_flags::SYN != 0 { tcp_flags::SYN | tcp_flags::ACK } else { tcp_flags::ACK };
            tcp(&from, &to, flags, payload).bytes()
        }
        Upper::EchoRequest { id } => {
            let mut reply = ping(&destination.to_string(), &source.to_string(), id, payload);
            reply.upper[0] = if parsed.ipv4 { 0 } else { 129 };
            reply.bytes()
        }
        other => panic!("no answer to {other:?}"),
    }
}

/// The reply to an echo request.
pub fn reply(request: &[u8]) -> Vec<u8> {
    let parsed = read(request);
    let mut reply = request.to_vec();
    let (at, length, kind) = if parsed.ipv4 { (12, 4, 0) } else { (8, 16, 129) };
    reply[at..at + 2 * length].rotate_left(length);
    let icmp = parsed.upper_at;
    reply[icmp] = kind;
    reply[icmp + 2..icmp + 4].copy_from_slice(&[0, 0]);
    let (source, destination) = (parsed.destination(request), parsed.source(request));
    let pseudo =
        if parsed.ipv4 { 0 } else { wire::pseudo_header(source, destination, 58, request.len() - icmp) };
    let sum = !wire::add_sums(pseudo, wire::checksum(&reply[icmp..]));
    reply[icmp + 2..icmp + 4].copy_from_slice(&sum.to_be_bytes());
    reply
}
