//! Probe packets in STAMP form (RFC 8762 section 4, unauthenticated mode) inside the tunnel, which authenticates them.
//!
//! They travel between link-local addresses, which popgate never forwards: no host of a tenant's can send one into a
//! tunnel, and a stock WireGuard client that gets one would not know what to do with it.

use super::arrivals::Counts;
use super::clock::Stamps;
use super::pace::Stretch;
use crate::model::{Now, Protocol};
use crate::wire::{self, Parsed};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Both ends' address: fe80::706f:7067, "popg".
pub const PROBE_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x706f, 0x7067);

/// The Session-Reflector's UDP port (RFC 8762 section 4.1).
const REFLECTOR_PORT: u16 = 862;
/// The Session-Sender's; any from the dynamic range would do.
const SENDER_PORT: u16 = 49_862;
/// IPv6 and UDP.
const HEADERS: usize = 48;
/// Extra Padding's type (RFC 8972 section 4.1).
const EXTRA_PADDING: u8 = 1;
/// Both messages' length (RFC 8762 figures 2 and 4), without extensions.
const MESSAGE_BYTES: usize = 44;
/// TLVs for private use (RFC 8972 section 5.1), sent marked as not recognised (section 4). One is empty: the sender's earlier
/// requests have been answered.
const ANSWERED_TLV: [u8; 4] = [NOT_RECOGNISED, 252, 0, 0];
/// The other asks what has arrived of the sender's traffic; its value is four counts of 32 bits, which the reflector fills in
/// as the Direct Measurement TLV's (section 4.5): data messages received, lost, lost apart and reordered.
const ARRIVALS: u8 = 253;
const ARRIVALS_BYTES: usize = 16;
/// The third is what its first byte says it is. A promise: milliseconds within which the sender sends again, in two bytes, and
/// one that is 1 if it has not heard the other end for longer than it should have; and one that the reflector fills in: by how
/// much it would have the sender stretch its intervals.
const SAYS: u8 = 254;
const PROMISE: u8 = 1;
const PROMISE_BYTES: usize = 5;
/// Or news of another path between the same two boxes: its [`PathTag`], and one byte that says what has become of it there.
const NEWS: u8 = 2;
const NEWS_BYTES: usize = 10;
const SUSPECT: u8 = 1;
const DOWN: u8 = 2;
/// The fourth is sent where a path has several streams: a bit for each DSCP that this one stands for, in eight bytes, and what the
/// sender had sent of these before. The reflector fills in what has arrived of them there, and what it has sent of them back
/// (the counters of RFC 8972 section 4.5).
const STREAM: u8 = 251;
const STREAM_BYTES: usize = 20;
/// Or why another path stands as it does for those who send by it: its [`PathTag`], and a word that both ends read alike.
const REASON: u8 = 3;
const REASON_BYTES: usize = 13;
const NOT_RECOGNISED: u8 = 0x80;
/// Seconds between the NTP era's beginning and Unix's (RFC 5905 section 6).
const NTP_OFFSET: u64 = 2_208_988_800;
/// Clock synchronised by an external source, scale 0, multiplier 1 (RFC 4656 section 4.1.2): nothing better is known.
const ERROR_ESTIMATE: [u8; 2] = [0x80, 0x01];

/// A probe packet that came out of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// To be reflected.
    Request(Asks),
    Reply(Reply),
    /// Of another path; not to be reflected.
    News(PathTag, News),
    /// What made the far end send by another path than this one, or by this one; not to be reflected.
    Reason(PathTag, u32),
}

/// What a request says besides being one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// The sender's earlier requests have been answered.
    pub answered: bool,
    /// The sender sends again within this, if it promises anything; to a millisecond.
    pub within: Option<Duration>,
    /// The sender has not heard the other end for longer than it should have.
    pub deaf: bool,
    /// Of which of several streams it is.
    pub stream: Option<OfStream>,
}

/// Of which stream a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfStream {
    /// What it carries, and its reflection will.
    pub dscp: u8,
    /// What the stream stands for, a bit for each DSCP.
    pub dscps: u64,
    /// How many packets that carry one of these had been sent before.
    pub sent: u32,
}

/// What the reflector says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldOfStream {
    /// As in [`OfStream`].
    pub dscps: u64,
    pub sent: u32,
    /// How many have arrived there,
    pub arrived: u32,
    /// and how many the reflector had sent itself.
    pub sent_back: u32,
}

/// What a reflection tells beside what it reflects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tells {
    /// What has arrived of all that the sender has sent.
    pub arrived: Counts,
    /// Of the request's stream: what was sent by the reflector, and what has arrived.
    pub of_stream: [u32; 2],
    /// By how much the sender is to stretch its intervals.
    pub stretch: Stretch,
}

/// What both ends of a path know it by: the first bytes of their public keys, added without carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathTag([u8; 8]);

/// What the far end has found out about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It may be dead.
    Suspect,
    /// It is.
    Down,
}

impl PathTag {
    /// The tag of the path between the owners of these public keys, in either order.
    pub fn between(a: &[u8; 32], b: &[u8; 32]) -> PathTag {
        PathTag(std::array::from_fn(|at| a[at] ^ b[at]))
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's number.
    pub sequence: u32,
    pub stamps: Stamps,
    /// What has arrived at the far end, if it tells.
    pub arrivals: Option<Counts>,
    /// That of one stream, if it was asked and tells.
    pub of_stream: Option<ToldOfStream>,
    /// By how much the far end would have us stretch our intervals.
    pub stretch: Stretch,
}

impl Message {
    /// Reads a packet that is addressed to [`PROBE_ADDRESS`] and has just come; `None` if it is no probe.
    pub fn read(packet: &[u8], ip: &Parsed, now: Now) -> Option<Message> {
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
                let mut asks = Asks::default();
                for tlv in tlvs(&udp[8 + MESSAGE_BYTES..]) {
                    match *tlv {
                        _ if tlv == ANSWERED_TLV => asks.answered = true,
                        [_, SAYS, _, _, PROMISE, high, low, deaf, _] => {
                            asks.within = Some(Duration::from_millis(u16::from_be_bytes([high, low]).into()));
                            asks.deaf = deaf == 1;
                        }
                        [_, STREAM, _, _, ref value @ ..] if value.len() == STREAM_BYTES => {
                            let (dscps, sent) = (be64(value, 0), be32(value, 8));
                            asks.stream = Some(OfStream { dscp: ip.dscp, dscps, sent });
                        }
                        [_, SAYS, _, _, NEWS, ref tag @ .., what @ (SUSPECT | DOWN)] => {
                            let tag = PathTag(*tag.first_chunk().filter(|_| tag.len() == 8)?);
                            let news = if what == DOWN { News::Down } else { News::Suspect };
                            return Some(Message::News(tag, news));
                        }
                        [_, SAYS, _, _, REASON, ref tag @ .., a, b, c, d] => {
                            let tag = PathTag(*tag.first_chunk().filter(|_| tag.len() == 8)?);
                            return Some(Message::Reason(tag, u32::from_be_bytes([a, b, c, d])));
                        }
                        _ => {}
                    }
                }
                Some(Message::Request(asks))
            }
            SENDER_PORT => {
                let stamps = Stamps {
                    sent: unix_nanos(body, 28),
                    received: unix_nanos(body, 16),
                    reflected: unix_nanos(body, 4),
                    returned: now.unix_nanos,
                };
                let tlvs = || tlvs(&udp[8 + MESSAGE_BYTES..]);
                let arrivals = tlvs().find_map(told_arrivals);
                let of_stream = tlvs().find_map(told_of_stream);
                let stretch = tlvs().find_map(told_stretch).unwrap_or_default();
                Some(Message::Reply(Reply { sequence: be32(body, 24), stamps, arrivals, of_stream, stretch }))
            }
            _ => None,
        }
    }
}

/// A request (RFC 8762 section 4.2.1), which asks what has arrived, and carries its stream's DSCP.
pub fn request(sequence: u32, asks: Asks, now: Now) -> Vec<u8> {
    let mut body = request_body(sequence, now);
    if asks.answered {
        body.extend_from_slice(&ANSWERED_TLV);
    }
    if let Some(within) = asks.within {
        let [high, low] = u16::try_from(within.as_millis()).unwrap_or(u16::MAX).to_be_bytes();
        let promise: [u8; PROMISE_BYTES] = [PROMISE, high, low, asks.deaf.into(), 0];
        body.extend_from_slice(&[NOT_RECOGNISED, SAYS, 0, PROMISE_BYTES as u8]);
        body.extend_from_slice(&promise);
    }
    body.extend_from_slice(&[NOT_RECOGNISED, ARRIVALS, 0, ARRIVALS_BYTES as u8]);
    body.resize(body.len() + ARRIVALS_BYTES, 0);
    if let Some(OfStream { dscps, sent, .. }) = asks.stream {
        body.extend_from_slice(&[NOT_RECOGNISED, STREAM, 0, STREAM_BYTES as u8]);
        body.extend_from_slice(&dscps.to_be_bytes());
        body.extend_from_slice(&sent.to_be_bytes());
        body.resize(body.len() + 8, 0);
    }
    let dscp = asks.stream.map_or(0, |stream| stream.dscp);
    wire::udp_v6((PROBE_ADDRESS, SENDER_PORT), (PROBE_ADDRESS, REFLECTOR_PORT), dscp, &body)
}

/// A request that makes a packet of `bytes` of itself, as far as it is not that long anyway, and so does its reflection (Extra
/// Padding, RFC 8972 section 4.1).
pub fn request_of_size(sequence: u32, asks: Asks, bytes: usize, now: Now) -> Vec<u8> {
    let short = request(sequence, asks, now);
    let Some(padding) = bytes.checked_sub(short.len() + 4) else { return short };
    let mut body = short[HEADERS..].to_vec();
    let [high, low] = u16::try_from(padding).unwrap_or(u16::MAX).to_be_bytes();
    body.extend_from_slice(&[NOT_RECOGNISED, EXTRA_PADDING, high, low]);
    body.resize(body.len() + usize::from(u16::from_be_bytes([high, low])), 0);
    wire::udp_v6((PROBE_ADDRESS, SENDER_PORT), (PROBE_ADDRESS, REFLECTOR_PORT), 0, &body)
}

/// News of another path: a request in form, so that a far end which does not know it answers what nobody has asked.
pub fn news(of: PathTag, news: News, now: Now) -> Vec<u8> {
    let mut body = request_body(0, now);
    body.extend_from_slice(&[NOT_RECOGNISED, SAYS, 0, NEWS_BYTES as u8, NEWS]);
    body.extend_from_slice(&of.0);
    body.push(if news == News::Down { DOWN } else { SUSPECT });
    wire::udp_v6((PROBE_ADDRESS, SENDER_PORT), (PROBE_ADDRESS, REFLECTOR_PORT), 0, &body)
}

/// Why another path stands as it does here; in form as [`news`].
pub fn reason(of: PathTag, why: u32, now: Now) -> Vec<u8> {
    let mut body = request_body(0, now);
    body.extend_from_slice(&[NOT_RECOGNISED, SAYS, 0, REASON_BYTES as u8, REASON]);
    body.extend_from_slice(&of.0);
    body.extend_from_slice(&why.to_be_bytes());
    wire::udp_v6((PROBE_ADDRESS, SENDER_PORT), (PROBE_ADDRESS, REFLECTOR_PORT), 0, &body)
}

fn request_body(sequence: u32, now: Now) -> Vec<u8> {
    // With room for what [`request`] says.
    let says = 4 + 4 + PROMISE_BYTES + 4 + ARRIVALS_BYTES + 4 + STREAM_BYTES;
    let mut body = Vec::with_capacity(MESSAGE_BYTES + says);
    body.extend_from_slice(&sequence.to_be_bytes());
    body.extend_from_slice(&ntp(now));
    body.extend_from_slice(&ERROR_ESTIMATE);
    body.resize(MESSAGE_BYTES, 0);
    body
}

/// The reflection of a request (RFC 8762 section 4.3.1, stateless: the sequence number is the sender's), which tells what it is
/// asked, and carries the same DSCP. `None` if it is too short to be one.
pub fn reflect(packet: &[u8], ip: &Parsed, tells: &Tells, now: Now) -> Option<Vec<u8>> {
    let Tells { arrived, of_stream: [sent_back, arrived_of_stream], stretch } = tells;
    let sent = packet.get(ip.upper_at + 8..ip.len)?;
    let request: &[u8; MESSAGE_BYTES] = sent.first_chunk()?;
    let mut body = Vec::with_capacity(sent.len());
    body.extend_from_slice(&request[..4]);
    body.extend_from_slice(&ntp(now));
    body.extend_from_slice(&ERROR_ESTIMATE);
    body.extend_from_slice(&[0; 2]);
    body.extend_from_slice(&ntp(now));
    body.extend_from_slice(&request[..14]);
    body.extend_from_slice(&[0; 2]);
    body.extend_from_slice(&[ip.ttl, 0, 0, 0]);
    for tlv in tlvs(&sent[MESSAGE_BYTES..]) {
        if tlv[1] == ARRIVALS && tlv.len() == 4 + ARRIVALS_BYTES {
            body.extend_from_slice(&[0, ARRIVALS, 0, ARRIVALS_BYTES as u8]);
            for count in [arrived.received, arrived.lost, arrived.apart, arrived.reordered] {
                body.extend_from_slice(&count.to_be_bytes());
            }
        } else if tlv[1] == STREAM && tlv.len() == 4 + STREAM_BYTES {
            body.extend_from_slice(&[0, STREAM, 0, STREAM_BYTES as u8]);
            body.extend_from_slice(&tlv[4..16]);
            body.extend_from_slice(&arrived_of_stream.to_be_bytes());
            body.extend_from_slice(&sent_back.to_be_bytes());
        } else if let [_, SAYS, _, _, PROMISE, high, low, deaf, _] = *tlv {
            body.extend_from_slice(&[
                0,
                SAYS,
                0,
                PROMISE_BYTES as u8,
                PROMISE,
                high,
                low,
                deaf,
                stretch.steps(),
            ]);
        } else {
            body.extend_from_slice(tlv);
        }
    }
    Some(wire::udp_v6((PROBE_ADDRESS, REFLECTOR_PORT), (PROBE_ADDRESS, SENDER_PORT), ip.dscp, &body))
}

/// The TLVs behind a message, each with its header of four bytes, as far as they are whole (RFC 8972 section 4).
fn tlvs(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = 4 + usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let (tlv, behind) = rest.split_at_checked(len)?;
        rest = behind;
        Some(tlv)
    })
}

/// What has arrived, if that is what the TLV tells: a reflector that does not know it leaves it as it was sent.
fn told_arrivals(tlv: &[u8]) -> Option<Counts> {
    (tlv.len() == 4 + ARRIVALS_BYTES && tlv[0] & NOT_RECOGNISED == 0 && tlv[1] == ARRIVALS).then(|| Counts {
        received: be32(tlv, 4),
        lost: be32(tlv, 8),
        apart: be32(tlv, 12),
        reordered: be32(tlv, 16),
    })
}

/// What there is to tell of a stream, likewise.
fn told_of_stream(tlv: &[u8]) -> Option<ToldOfStream> {
    let tells = tlv.len() == 4 + STREAM_BYTES && tlv[0] & NOT_RECOGNISED == 0 && tlv[1] == STREAM;
    tells.then(|| ToldOfStream {
        dscps: be64(tlv, 4),
        sent: be32(tlv, 12),
        arrived: be32(tlv, 16),
        sent_back: be32(tlv, 20),
    })
}

/// By how much intervals are to be stretched, if that is what the TLV tells.
fn told_stretch(tlv: &[u8]) -> Option<Stretch> {
    match *tlv {
        [flags, SAYS, _, _, PROMISE, _, _, _, steps] if flags & NOT_RECOGNISED == 0 => {
            Some(Stretch::from_steps(steps))
        }
        _ => None,
    }
}

/// NTP's 64-bit timestamp: seconds and their fraction (RFC 5905 section 6).
fn ntp(now: Now) -> [u8; 8] {
    let seconds = now.unix_nanos / 1_000_000_000 + NTP_OFFSET;
    let fraction = ((now.unix_nanos % 1_000_000_000) << 32) / 1_000_000_000;
    (seconds << 32 | fraction).to_be_bytes()
}

/// What [`ntp`] stands for, to a nanosecond.
fn unix_nanos(bytes: &[u8], at: usize) -> u64 {
    let seconds = u64::from(be32(bytes, at)).saturating_sub(NTP_OFFSET);
    // Rounded up, for it was rounded down.
    seconds * 1_000_000_000 + (u64::from(be32(bytes, at + 4)) * 1_000_000_000).div_ceil(1 << 32)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reflection_carries_the_request_it_answers_and_what_has_arrived() {
        let at = |unix_nanos| Now { unix_nanos, ..Now::default() };
        let arrived = Counts { received: 70_000, lost: 3, apart: 2, reordered: 1 };
        let promises = [None, Some(Duration::from_millis(20)), Some(Duration::from_secs(1))];
        for (n, within) in promises.into_iter().cycle().take(6).enumerate() {
            // A DSCP, as those of other streams', and a count.
            let stream =
                (n % 2 == 1).then_some(OfStream { dscp: 46, dscps: 1 << 46 | 1, sent: u32::MAX - 5 });
            let asks = Asks { answered: n < 3, within, deaf: n == 1, stream };
            let request = request(77, asks, at(1_500_000_000));
            let ip = wire::parse_ip(&request).expect("sound");
            assert_eq!(Message::read(&request, &ip, at(0)), Some(Message::Request(asks)));
            let stretch = Stretch::from_steps(n as u8);
            let tells = Tells { arrived, of_stream: [9, 70_000], stretch };
            let reply = reflect(&request, &ip, &tells, at(1_500_000_123)).expect("a request");
            assert_eq!(reply.len(), request.len(), "what is sent out and back is as long");
            let ip = wire::parse_ip(&reply).expect("sound");
            assert_eq!(ip.dscp, if stream.is_some() { 46 } else { 0 }, "it comes back as it went");
            let stamps = Stamps {
                sent: 1_500_000_000,
                received: 1_500_000_123,
                reflected: 1_500_000_123,
                returned: 1_600_000_000,
            };
            // It is told who promises something: who does not would not know what it means.
            let stretch = if within.is_some() { stretch } else { Stretch::default() };
            let of_stream = stream.map(|OfStream { dscps, sent, .. }| ToldOfStream {
                dscps,
                sent,
                arrived: 70_000,
                sent_back: 9,
            });
            let expected = Reply { sequence: 77, stamps, arrivals: Some(arrived), of_stream, stretch };
            assert_eq!(Message::read(&reply, &ip, at(1_600_000_000)), Some(Message::Reply(expected)));
        }
    }

    #[test]
    fn a_reflector_that_knows_no_tlvs_tells_no_arrivals() {
        let now = Now { unix_nanos: 1, ..Now::default() };
        let stream = Some(OfStream { dscp: 46, dscps: 1 << 46, sent: 5 });
        let sent = request(1, Asks { stream, ..Asks::default() }, now);
        let body = &sent[48..48 + MESSAGE_BYTES];
        for behind in [&sent[48 + MESSAGE_BYTES..], &[], &[0, ARRIVALS, 0, 200, 1], &[0, ARRIVALS, 0, 1, 1]] {
            let body: Vec<u8> = [body, behind].concat();
            let reply = wire::udp_v6((PROBE_ADDRESS, REFLECTOR_PORT), (PROBE_ADDRESS, SENDER_PORT), 0, &body);
            let ip = wire::parse_ip(&reply).expect("sound");
            let Some(Message::Reply(reply)) = Message::read(&reply, &ip, now) else { panic!("no reply") };
            assert_eq!((reply.arrivals, reply.of_stream, reply.stretch), (None, None, Stretch::default()));
        }
    }

    #[test]
    fn a_request_of_full_size_is_that_large_and_so_is_its_reflection() {
        let now = Now { unix_nanos: 1, ..Now::default() };
        let within = Some(Duration::from_millis(50));
        let asks = Asks { answered: true, within, ..Asks::default() };
        for bytes in [0, 100, 200, 1_280, 1_420, 9_000] {
            let request = request_of_size(9, asks, bytes, now);
            assert!(request.len() == bytes || bytes < 200, "{} of {bytes}", request.len());
            let ip = wire::parse_ip(&request).expect("sound");
            assert_eq!(Message::read(&request, &ip, now), Some(Message::Request(asks)));
            let reply = reflect(&request, &ip, &Tells::default(), now).expect("a request");
            assert_eq!(reply.len(), request.len());
            let ip = wire::parse_ip(&reply).expect("sound");
            let Some(Message::Reply(reply)) = Message::read(&reply, &ip, now) else { panic!("no reply") };
            assert_eq!((reply.sequence, reply.arrivals), (9, Some(Counts::default())));
        }
    }

    #[test]
    fn news_of_another_path_is_read_as_such_and_both_ends_know_it_by_the_same_tag() {
        let now = Now { unix_nanos: 1, ..Now::default() };
        let (a, b) = ([7; 32], std::array::from_fn(|n| n as u8));
        let tag = PathTag::between(&a, &b);
        assert_eq!(tag, PathTag::between(&b, &a));
        assert_ne!(tag, PathTag::between(&a, &a));
        for what in [News::Suspect, News::Down] {
            let packet = news(tag, what, now);
            let ip = wire::parse_ip(&packet).expect("sound");
            assert_eq!(Message::read(&packet, &ip, now), Some(Message::News(tag, what)));
        }
        let packet = reason(tag, 0x1234_5678, now);
        let ip = wire::parse_ip(&packet).expect("sound");
        assert_eq!(Message::read(&packet, &ip, now), Some(Message::Reason(tag, 0x1234_5678)));
    }
}
