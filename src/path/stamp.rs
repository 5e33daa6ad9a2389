//! Probe packets in STAMP form (RFC 8762 section 4, unauthenticated mode) inside the tunnel, which authenticates them.
//!
//! They travel between link-local addresses, which popgate never forwards: no host of a tenant's can send one into a
//! tunnel, and a stock WireGuard client that gets one would not know what to do with it.

use crate::model::{Now, Protocol};
use crate::wire::{self, Parsed};
use std::net::{IpAddr, Ipv6Addr};

/// Both ends' address: fe80::706f:7067, "popg".
pub const PROBE_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x706f, 0x7067);

/// The Session-Reflector's UDP port (RFC 8762 section 4.1).
const REFLECTOR_PORT: u16 = 862;
/// The Session-Sender's; any from the dynamic range would do.
const SENDER_PORT: u16 = 49_862;
/// Both messages' length (RFC 8762 figures 2 and 4), without extensions.
const MESSAGE_BYTES: usize = 44;
/// A TLV for private use (RFC 8972 section 5.1), empty and marked as not recognised yet (section 4): the sender's earlier
/// requests have been answered.
const ANSWERED_TLV: [u8; 4] = [0x80, 252, 0, 0];
/// Seconds between the NTP era's beginning and Unix's (RFC 5905 section 6).
const NTP_OFFSET: u64 = 2_208_988_800;
/// Clock synchronised by an external source, scale 0, multiplier 1 (RFC 4656 section 4.1.2): nothing better is known.
const ERROR_ESTIMATE: [u8; 2] = [0x80, 0x01];

/// A probe packet that came out of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// To be reflected; and whether the sender says that it gets its answers.
    Request { answered: bool },
    /// The answer to the request with this sequence number.
    Reply { sequence: u32 },
}

impl Message {
    /// Reads a packet that is addressed to [`PROBE_ADDRESS`]; `None` if it is no probe.
    pub fn read(packet: &[u8], ip: &Parsed) -> Option<Message> {
        if ip.destination(packet) != IpAddr::V6(PROBE_ADDRESS)
            || ip.protocol != Protocol::UDP
            || ip.fragment.is_some()
        {
            return None;
        }
        let udp = packet.get(ip.upper_at..ip.len)?;
        let body = udp.get(8..8 + MESSAGE_BYTES)?;
        match u16::from_be_bytes([udp[2], udp[3]]) {
            REFLECTOR_PORT => {
                let answered = udp[8 + MESSAGE_BYTES..] == ANSWERED_TLV;
                Some(Message::Request { answered })
            }
            SENDER_PORT => Some(Message::Reply { sequence: be32(body, 24) }),
            _ => None,
        }
    }
}

/// A request (RFC 8762 section 4.2.1), which says whether earlier ones have been `answered`.
pub fn request(sequence: u32, answered: bool, now: Now) -> Vec<u8> {
    let mut body = [0; MESSAGE_BYTES + ANSWERED_TLV.len()];
    body[MESSAGE_BYTES..].copy_from_slice(&ANSWERED_TLV);
    let len = if answered { body.len() } else { MESSAGE_BYTES };
    body[..4].copy_from_slice(&sequence.to_be_bytes());
    body[4..12].copy_from_slice(&ntp(now));
    body[12..14].copy_from_slice(&ERROR_ESTIMATE);
    wire::udp_v6((PROBE_ADDRESS, SENDER_PORT), (PROBE_ADDRESS, REFLECTOR_PORT), 0, &body[..len])
}

/// The reflection of a request (RFC 8762 section 4.3.1, stateless: the sequence number is the sender's).
pub fn reflect(packet: &[u8], ip: &Parsed, now: Now) -> Option<Vec<u8>> {
    let sent = packet.get(ip.upper_at + 8..ip.upper_at + 8 + MESSAGE_BYTES)?;
    let mut body = [0; MESSAGE_BYTES];
    body[..4].copy_from_slice(&sent[..4]);
    body[4..12].copy_from_slice(&ntp(now));
    body[12..14].copy_from_slice(&ERROR_ESTIMATE);
    body[16..24].copy_from_slice(&ntp(now));
    body[24..38].copy_from_slice(&sent[..14]);
    body[40] = ip.ttl;
    Some(wire::udp_v6((PROBE_ADDRESS, REFLECTOR_PORT), (PROBE_ADDRESS, SENDER_PORT), ip.dscp, &body))
}

/// NTP's 64-bit timestamp: seconds and their fraction (RFC 5905 section 6).
fn ntp(now: Now) -> [u8; 8] {
    let seconds = now.unix_nanos / 1_000_000_000 + NTP_OFFSET;
    let fraction = ((now.unix_nanos % 1_000_000_000) << 32) / 1_000_000_000;
    (seconds << 32 | fraction).to_be_bytes()
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reflection_carries_the_request_it_answers() {
        let now = Now { unix_nanos: 1_500_000_000, ..Now::default() };
        for answered in [false, true] {
            let request = request(77, answered, now);
            let ip = wire::parse_ip(&request).expect("sound");
            assert_eq!(Message::read(&request, &ip), Some(Message::Request { answered }));
            let reply = reflect(&request, &ip, now).expect("a request");
            let ip = wire::parse_ip(&reply).expect("sound");
            assert_eq!(Message::read(&reply, &ip), Some(Message::Reply { sequence: 77 }));
            let body = &reply[48..];
            assert_eq!(body[4..12], ((NTP_OFFSET + 1) << 32 | 1 << 31).to_be_bytes());
            assert_eq!(body[28..36], body[4..12], "the sender's timestamp comes back");
        }
    }
}
