//! IP packets: parsed, and then changed, into those of the other family too, and answered as a worker may.

use popgate::model::{DeviceId, Now, Zone};
use popgate::path::{self, Message, Tells};
use popgate::wire::{self, Change, Ends, IcmpError, Outbound, Parsed, Side};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
const DEVICE: DeviceId = DeviceId(0);

/// A packet, or a super-packet if the first two bytes say so.
pub fn packet(data: &[u8]) {
    let Some((segment, packet)) = data.split_first_chunk() else { return };
    // Half of them as they are on the wire.
    let segment = u16::from_be_bytes(*segment) & 0x7fff;
    let segment = if segment & 0x4000 == 0 { 0 } else { segment & 0x3fff };
    let Ok(parsed) = wire::parse_super(packet, segment) else { return };
    assert!(parsed.upper_at <= parsed.len && parsed.len <= packet.len());
    let key = parsed.key(packet, Zone::INTERNET);
    assert!(key.is_none() || parsed.embedded(packet).is_none(), "an error has no flow of its own");
    rewrite(&mut packet.to_vec(), parsed);
    cross(&mut packet[..parsed.len].to_vec(), &parsed);
    answer(packet, &parsed);
    if segment > 0 {
        cut(packet, parsed);
    }
}

fn rewrite(packet: &mut [u8], mut parsed: Parsed) {
    let address = |of: IpAddr| if of.is_ipv4() { IpAddr::V4(V4) } else { IpAddr::V6(V6) };
    if let Some(embedded) = parsed.embedded(packet) {
        for side in [Side::Source, Side::Destination] {
            wire::translate_embedded(packet, &parsed, &embedded, side, address(embedded.source), 5_000);
        }
    }
    wire::clamp_mss(packet, &parsed, 1_280);
    wire::mark_congested(packet);
    if parsed.ttl > 1 {
        wire::decrement_ttl(packet, &mut parsed);
    }
    for side in [Side::Source, Side::Destination] {
        let address = address(parsed.source(packet));
        wire::translate(packet, &mut parsed, side, address, 5_000);
    }
    // What was sound and may be forwarded still is both.
    let again = wire::parse_super(packet, parsed.segment);
    assert_eq!(again.map(|again| again.len), Ok(parsed.len));
}

/// What it becomes in the other family, if anything, is sound there, and can go back.
fn cross(packet: &mut [u8], parsed: &Parsed) {
    let change = |to_v4: bool| {
        let address = if to_v4 { IpAddr::V4(V4) } else { IpAddr::V6(V6) };
        let ends = Ends { source: (address, 5_000), destination: (address, 443) };
        Change { ends, quoted: Some(ends), mtu_in: 1_500, mtu_out: 1_280, id: 7 }
    };
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let Some((changed, across)) = wire::change_family(packet, parsed, &change(!parsed.ipv4), &mut there)
    else {
        return;
    };
    let again = wire::parse_super(changed, across.segment).expect("sound");
    assert_eq!((again.ipv4, again.len), (!parsed.ipv4, changed.len()));
    assert_eq!((again.upper, again.protocol), (across.upper, across.protocol));
    wire::change_family(changed, &across, &change(parsed.ipv4), &mut back);
}

fn answer(packet: &[u8], parsed: &Parsed) {
    if wire::may_answer(parsed) {
        for error in [IcmpError::TimeExceeded, IcmpError::TooBig { mtu: 1_280 }, IcmpError::Prohibited] {
            let answer = wire::icmp_error(packet, parsed, error, (V4, V6));
            assert!(wire::parse_ip(&answer).is_ok_and(|ip| ip.len == answer.len()), "{answer:x?}");
        }
    }
    if let Some(reset) = wire::tcp_reset(packet, parsed) {
        assert!(wire::parse_ip(&reset).is_ok_and(|ip| ip.len == reset.len()), "{reset:x?}");
    }
    if parsed.source(packet).is_ipv4() {
        let mut bytes = 0;
        wire::fragment(packet, parsed, 576, |fragment| {
            assert!(fragment.len() <= 576 || parsed.len <= 576);
            bytes += fragment.len() - parsed.upper_at;
        });
        assert_eq!(bytes, parsed.len - parsed.upper_at);
    }
}

/// All payload comes out, in segments of the size asked for.
fn cut(packet: &[u8], mut parsed: Parsed) {
    let headers = parsed.payload_at(packet);
    let (mut count, mut bytes) = (0, 0);
    wire::split(packet, &parsed, &mut Vec::new(), |segment| {
        assert!(segment.len() - headers <= usize::from(parsed.segment));
        count += 1;
        bytes += segment.len() - headers;
    });
    assert_eq!(bytes, parsed.len.saturating_sub(headers));
    assert_eq!(count.max(1), parsed.on_the_wire(packet).0);
    let mut packet = packet.to_vec();
    wire::prepare(&mut packet, &parsed);
    wire::lose_last(&mut packet, &mut parsed);
}

/// Packets on their way to a device, each behind its length in two bytes: what is put together has the same packets in it.
pub fn device(mut data: &[u8]) {
    let mut out = Outbound::default();
    let (mut count, mut bytes) = (0, 0);
    while let Some((length, rest)) = data.split_first_chunk() {
        let (packet, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        data = rest;
        let Ok(parsed) = wire::parse(packet) else { continue };
        out.push_segment(DEVICE, &packet[..parsed.len], &parsed);
        count += 1;
        bytes += parsed.len;
    }
    out.finish();
    assert_eq!(out.packets().map(|packet| packet.count()).sum::<u64>(), count);
    let mut wire_bytes = 0;
    for packet in out.packets() {
        let joined = packet.to_vec();
        let segment = packet.offload().map_or(0, |offload| offload.segment);
        let parsed = wire::parse_super(&joined, segment).expect("what is put together is sound");
        wire_bytes += parsed.on_the_wire(&joined).1;
    }
    assert_eq!(wire_bytes, bytes as u64);
}

/// What comes out of a tunnel for the box itself.
pub fn probe(data: &[u8]) {
    let Ok(ip) = wire::parse_ip(data) else { return };
    let now = Now::default();
    if matches!(Message::read(data, &ip, now), Some(Message::Request { .. })) {
        let reflection = path::reflect(data, &ip, &Tells::default(), now).expect("a request");
        let ip = wire::parse_ip(&reflection).expect("sound");
        assert!(matches!(Message::read(&reflection, &ip, now), Some(Message::Reply(_))));
    }
}
