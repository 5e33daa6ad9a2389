//! A TCP server that remembers nothing: for a question that comes in one segment, and an answer that is sent once.
//!
//! Its initial sequence number is a keyed hash of the connection and the client's own (RFC 6528 section 3), so that the
//! segment with the question proves that there was a handshake, and is known to be the first. What is lost on the way the
//! client sends again, and gets the same again: the acknowledgment of its question travels with the answer and the FIN alone.

use super::answer::tcp_back;
use super::parse::{Parsed, Upper, tcp_flags};
use ring::hmac;

/// Fits into what IPv6 carries everywhere (RFC 8200 section 5), and into any tunnel of ours.
const MAX_SEGMENT_BYTES: u16 = 1_220;

/// What becomes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'p> {
    /// This packet goes back.
    Answer(Vec<u8>),
    /// A question, or as much of it as came in its first segment: [`reply`] answers it.
    Question(&'p [u8]),
    /// Nothing goes back.
    Nothing,
    /// It belongs to no connection: a reset goes back.
    Unknown,
}

/// Answers at one port of whatever address is called.
#[derive(Debug)]
pub struct Listener(hmac::Key);

impl Listener {
    /// One whose sequence numbers nobody guesses who does not know `secret`.
    pub fn new(secret: [u8; 32]) -> Listener {
        Listener(hmac::Key::new(hmac::HMAC_SHA256, &secret))
    }

    /// What becomes of `packet`, a TCP segment that is no super-packet.
    pub fn hear<'p>(&self, packet: &'p [u8], parsed: &Parsed) -> Heard<'p> {
        use tcp_flags::{ACK, FIN, RST, SYN};
        let Some(segment) = parsed.tcp_segment(packet) else { return Heard::Unknown };
        let back = |sequence, acknowledgment, flags, options: &[u8]| {
            tcp_back(packet, parsed, (sequence, acknowledgment), flags, options, &[])
                .map_or(Heard::Nothing, Heard::Answer)
        };
        let content = parsed.payload(packet);
        let is_first = || {
            let first = self.initial(packet, parsed, segment.sequence.wrapping_sub(1));
            first.is_some_and(|first| segment.acknowledgment == first.wrapping_add(1))
        };
        match segment.flags & (SYN | ACK | RST | FIN) {
            flags if flags & RST != 0 => Heard::Nothing,
            SYN => {
                let Some(first) = self.initial(packet, parsed, segment.sequence) else {
                    return Heard::Unknown;
                };
                let [high, low] = MAX_SEGMENT_BYTES.to_be_bytes();
                back(first, segment.sequence.wrapping_add(1), SYN | ACK, &[2, 4, high, low])
            }
            flags if flags & (SYN | ACK) != ACK => Heard::Unknown,
            _ if !content.is_empty() && is_first() => Heard::Question(content),
            _ if !content.is_empty() => Heard::Unknown,
            flags if flags & FIN != 0 => {
                back(segment.acknowledgment, segment.sequence.wrapping_add(1), ACK, &[])
            }
            _ => Heard::Nothing,
        }
    }

    /// The number that the answers to a client begin with whose own is `theirs`.
    fn initial(&self, packet: &[u8], parsed: &Parsed, theirs: u32) -> Option<u32> {
        let Upper::Tcp { source_port, destination_port, .. } = parsed.upper else { return None };
        let mut context = hmac::Context::with_key(&self.0);
        for address in [parsed.source(packet), parsed.destination(packet)] {
            match address {
                std::net::IpAddr::V4(v4) => context.update(&v4.octets()),
                std::net::IpAddr::V6(v6) => context.update(&v6.octets()),
            }
        }
        context.update(&source_port.to_be_bytes());
        context.update(&destination_port.to_be_bytes());
        context.update(&theirs.to_be_bytes());
        let tag = context.sign();
        Some(u32::from_be_bytes(*tag.as_ref().first_chunk()?))
    }
}

/// The segments that answer `packet`, which was a [`Heard::Question`], and end the connection.
pub fn reply(packet: &[u8], parsed: &Parsed, answer: &[u8]) -> Vec<Vec<u8>> {
    use tcp_flags::{ACK, FIN, PSH};
    let Some(segment) = parsed.tcp_segment(packet) else { return Vec::new() };
    let asked = parsed.payload(packet).len() as u32 + u32::from(segment.flags & FIN != 0);
    let acknowledgment = segment.sequence.wrapping_add(asked);
    let parts = answer.chunks(usize::from(MAX_SEGMENT_BYTES));
    let last = parts.len().saturating_sub(1);
    let segments = parts.enumerate().filter_map(|(place, part)| {
        let at = segment.acknowledgment.wrapping_add((place * usize::from(MAX_SEGMENT_BYTES)) as u32);
        let flags = if place == last { ACK | PSH | FIN } else { ACK };
        tcp_back(packet, parsed, (at, acknowledgment), flags, &[], part)
    });
    segments.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::parse;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_segment_makes_it_panic_and_none_but_its_own_numbers_open_it(
            flags: u8, sequence: u32, acknowledgment: u32, offset in 5u8..16, payload in prop::collection::vec(any::<u8>(), 60..200),
        ) {
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 1, 0, 5, 198, 18, 0, 80];
            packet.extend([0x0f, 0xa0, 0, 80]);
            packet.extend(sequence.to_be_bytes());
            packet.extend(acknowledgment.to_be_bytes());
            packet.extend([offset << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
            packet.extend(&payload);
            let len = packet.len() as u16;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            let sum = !crate::wire::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            let parsed = parse(&packet).expect("sound");
            let listener = Listener::new([7; 32]);
            let first = listener.initial(&packet, &parsed, sequence.wrapping_sub(1)).expect("TCP");
            match listener.hear(&packet, &parsed) {
                Heard::Question(content) => {
                    prop_assert_eq!(acknowledgment, first.wrapping_add(1));
                    prop_assert_eq!(content, &payload[usize::from(offset - 5) * 4..]);
                }
                Heard::Answer(answer) => {
                    parse(&answer).expect("sound");
                }
                Heard::Nothing | Heard::Unknown => {}
            }
        }
    }
}
