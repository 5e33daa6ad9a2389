//! Properties of parsing and rewriting, against packets of every kind and against rubbish.

mod siit;

use super::*;
use crate::model::{DeviceId, Protocol};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A sound packet: family, protocol, ports, payload.
fn packet(v6: bool, protocol: Protocol, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut upper = Vec::new();
    match protocol {
        Protocol::TCP => {
            upper.extend_from_slice(&ports.0.to_be_bytes());
            upper.extend_from_slice(&ports.1.to_be_bytes());
            upper.extend_from_slice(&[0; 8]);
            upper.extend_from_slice(&[0x60, tcp_flags::SYN, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4]);
        }
        Protocol::UDP => {
            upper.extend_from_slice(&ports.0.to_be_bytes());
            upper.extend_from_slice(&ports.1.to_be_bytes());
            upper.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
            upper.extend_from_slice(&[0, 0]);
        }
        _ => {
            upper.extend_from_slice(&[if v6 { 128 } else { 8 }, 0, 0, 0]);
            upper.extend_from_slice(&ports.0.to_be_bytes());
            upper.extend_from_slice(&[0, 1]);
        }
    }
    upper.extend_from_slice(payload);
    let protocol = if protocol == Protocol::ICMP && v6 { Protocol::ICMPV6 } else { protocol };
    let (source, destination): (IpAddr, IpAddr) = if v6 {
        (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2).into(),
        )
    } else {
        (Ipv4Addr::new(10, 1, 0, 5).into(), Ipv4Addr::new(203, 0, 113, 9).into())
    };
    let mut out = Vec::new();
    if v6 {
        out.extend_from_slice(&[0x60, 0, 0, 0]);
        out.extend_from_slice(&(upper.len() as u16).to_be_bytes());
        out.extend_from_slice(&[protocol.0, 64]);
    } else {
        out.extend_from_slice(&[0x45, 0]);
        out.extend_from_slice(&(20 + upper.len() as u16).to_be_bytes());
        out.extend_from_slice(&[0, 7, 0, 0, 64, protocol.0, 0, 0]);
    }
    for address in [source, destination] {
        match address {
            IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
            IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
        }
    }
    if !v6 {
        let sum = !checksum(&out[..20]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let upper_at = out.len();
    out.extend_from_slice(&upper);
    let checksum_at = upper_at
        + match protocol {
            Protocol::TCP => 16,
            Protocol::UDP => 6,
            _ => 2,
        };
    let sum = !upper_sum(&out, upper_at, protocol, source, destination);
    let sum = if sum == 0 && protocol == Protocol::UDP { 0xffff } else { sum };
    out[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    out
}

/// A sound packet in the middle of a stream: TCP without options, or UDP; not to be fragmented.
fn stream_packet(v6: bool, protocol: Protocol, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = packet(v6, protocol, ports, payload);
    let at = if v6 { 40 } else { 20 };
    if protocol == Protocol::TCP {
        bytes.drain(at + 20..at + 24);
        bytes[at + 12] = 0x50;
    }
    let len = bytes.len();
    if v6 {
        bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    } else {
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        bytes[6] = 0x40;
    }
    bytes
}

/// Makes all checksums right again.
fn mend(bytes: &mut [u8], at: usize, protocol: Protocol) {
    if at == 20 {
        bytes[10..12].copy_from_slice(&[0, 0]);
        let sum = !checksum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let checksum_at = at + if protocol == Protocol::TCP { 16 } else { 6 };
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&[0, 0]);
    let ip = parse_ip(bytes).expect("sound");
    let sum = !upper_sum(bytes, at, protocol, ip.source(bytes), ip.destination(bytes));
    let sum = if sum == 0 { 0xffff } else { sum };
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn upper_sum(packet: &[u8], at: usize, protocol: Protocol, source: IpAddr, destination: IpAddr) -> u16 {
    let pseudo = match protocol {
        Protocol::ICMP => 0,
        _ => pseudo_header(source, destination, protocol.0, packet.len() - at),
    };
    add_sums(pseudo, checksum(&packet[at..]))
}

/// Every checksum in the packet holds.
fn sound(bytes: &[u8]) -> bool {
    let Ok(parsed) = parse(bytes) else { return false };
    upper_sum(bytes, parsed.upper_at, parsed.protocol, parsed.source(bytes), parsed.destination(bytes))
        == 0xffff
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::ICMP)]
}

proptest! {
    #[test]
    fn rewriting_keeps_every_checksum_right_and_can_be_undone(
        v6: bool, protocol in protocols(), ports: (u16, u16), payload: Vec<u8>,
        new_port in 1u16.., address: [u16; 8], ttl_too: bool,
    ) {
        let ports = (ports.0.max(1), ports.1.max(1));
        let original = packet(v6, protocol, ports, &payload);
        prop_assert!(sound(&original));
        let mut bytes = original.clone();
        let mut parsed = parse(&bytes).expect("sound");
        let before = parsed.source(&bytes);
        let new: IpAddr = if v6 {
            Ipv6Addr::new(0x2001, address[1], address[2], address[3], address[4], address[5], address[6], address[7]).into()
        } else {
            Ipv4Addr::new(198, address[0] as u8, address[1] as u8, address[2] as u8).into()
        };
        translate(&mut bytes, &mut parsed, Side::Source, new, new_port);
        clamp_mss(&mut bytes, &parsed, 1_280);
        if ttl_too {
            decrement_ttl(&mut bytes, &mut parsed);
        }
        prop_assert!(sound(&bytes));
        prop_assert_eq!(parse(&bytes).expect("sound"), parsed);
        prop_assert_eq!(parsed.source(&bytes), new);
        if !ttl_too && protocol != Protocol::TCP {
            translate(&mut bytes, &mut parsed, Side::Source, before, ports.0);
            prop_assert_eq!(bytes, original);
        }
    }

    #[test]
    fn errors_about_translated_packets_are_translated_back(
        v6: bool, protocol in protocols(), payload: Vec<u8>, mtu in 1_280u16..1_500,
    ) {
        let mut bytes = packet(v6, protocol, (4_000, 80), &payload);
        let us = (Ipv4Addr::new(192, 0, 0, 8), "fd00::1".parse().expect("an address"));
        let mut error = icmp_error(&bytes, &parse(&bytes).expect("sound"), IcmpError::TooBig { mtu }, us);
        prop_assert!(sound(&error));
        let outer = parse(&error).expect("sound");
        let embedded = outer.embedded(&error).expect("an error");
        let new: IpAddr = if v6 { "2001:db8:9::9".parse().expect("v6") } else { "198.51.100.1".parse().expect("v4") };
        translate_embedded(&mut error, &outer, &embedded, Side::Source, new, 5_000);
        prop_assert!(sound(&error));
        let after = parse(&error).expect("sound").embedded(&error).expect("still an error");
        prop_assert_eq!((after.source, after.source_port), (new, 5_000));
        // The quote now equals the packet as it would have been after the same translation of its own.
        let mut parsed = parse(&bytes).expect("sound");
        translate(&mut bytes, &mut parsed, Side::Source, new, 5_000);
        let quoted = &error[outer.upper_at + 8..];
        let headers = parsed.upper_at + 4;
        prop_assert_eq!(&quoted[..headers], &bytes[..headers]);
    }

    #[test]
    fn what_is_coalesced_and_cut_up_again_is_what_was_there(
        v6: bool, udp: bool, segment in 1usize..1_400,
        // Of each packet: the flow, how its payload compares with the segment's, whether it pushes, is damaged, or has other flags.
        steps in proptest::collection::vec((0u16..3, 0usize..8, any::<bool>(), 0u8..12), 1..80),
    ) {
        let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
        let mut out = Outbound::default();
        let mut sent: Vec<Vec<u8>> = Vec::new();
        let mut sequences = [1_000u32; 3];
        let mut ids = [7u16; 3];
        for (flow, shorter, push, twist) in steps {
            let len = if shorter == 0 { segment / 2 } else { segment };
            let payload: Vec<u8> = (0..len).map(|i| (i * 7 + sent.len()) as u8).collect();
            let mut bytes = stream_packet(v6, protocol, (4_000 + flow, 443), &payload);
            let at = if v6 { 40 } else { 20 };
            if !v6 {
                bytes[4..6].copy_from_slice(&ids[usize::from(flow)].to_be_bytes());
                ids[usize::from(flow)] = ids[usize::from(flow)].wrapping_add(1);
            }
            if !udp {
                bytes[at + 4..at + 8].copy_from_slice(&sequences[usize::from(flow)].to_be_bytes());
                sequences[usize::from(flow)] = sequences[usize::from(flow)].wrapping_add(len as u32);
                bytes[at + 13] = tcp_flags::ACK | if push { tcp_flags::PSH } else { 0 };
                if twist == 1 {
                    bytes[at + 13] |= tcp_flags::FIN;
                }
            }
            mend(&mut bytes, at, protocol);
            if twist == 2 {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            }
            let parsed = parse(&bytes).expect("sound headers");
            // Some are where they were opened, some are copied in.
            if sent.len() % 5 < 3 {
                let mut landing = out.land(bytes.len() + 16);
                landing.room()[..bytes.len()].copy_from_slice(&bytes);
                out.push_segment(DeviceId(1), &landing.room()[..bytes.len()], &parsed);
                out.give_back(landing);
            } else {
                out.push_segment(DeviceId(1), &bytes, &parsed);
            }
            sent.push(bytes);
        }
        let mut back: Vec<Vec<u8>> = Vec::new();
        out.finish();
        for packet in out.packets() {
            prop_assert_eq!(packet.device(), DeviceId(1));
            let (offload, packet) = (packet.offload(), packet.to_vec());
            if let Some(offload) = offload {
                let parsed = parse_super(&packet, offload.segment).expect("sound");
                prop_assert_eq!(parsed.payload_at(&packet), usize::from(offload.headers));
                let before = back.len();
                split(&packet, &parsed, &mut Vec::new(), |part| back.push(part.to_vec()));
                let wire: u64 = back[before..].iter().map(|part| part.len() as u64).sum();
                prop_assert_eq!(parsed.on_the_wire(&packet), ((back.len() - before) as u64, wire));
                prop_assert_eq!(usize::from(offload.segments), back.len() - before);
                prop_assert!(back[before..].iter().all(|part| part.len() <= parsed.largest(&packet)));
            } else {
                back.push(packet);
            }
        }
        // In order within each flow; flows may change places.
        let by_flow = |packets: &[Vec<u8>]| {
            let mut flows = vec![Vec::new(); 3];
            for packet in packets {
                let at = if v6 { 40 } else { 20 };
                flows[usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]) - 4_000)].push(packet.clone());
            }
            flows
        };
        prop_assert_eq!(by_flow(&back), by_flow(&sent));
    }

    #[test]
    fn a_super_packet_that_lost_its_last_segment_is_the_others_and_a_mark_changes_nothing_else(
        v6: bool, udp: bool, len in 1usize..20_000, segment in 50u16..1_300, ecn in 0u8..4,
    ) {
        let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
        let mut whole = packet(v6, protocol, (4_000, 80), &vec![7; len]);
        whole[1] |= if v6 { ecn << 4 } else { ecn };
        if !v6 {
            crate::wire::offload::finish_v4(&mut whole, 20);
        }
        let parts = |packet: &[u8], parsed: &Parsed| {
            let mut parts = Vec::new();
            split(packet, parsed, &mut Vec::new(), |part| parts.push(part.to_vec()));
            parts
        };
        let mut parsed = parse_super(&whole, segment).expect("sound");
        let mut expected = parts(&whole, &parsed);
        if expected.len() > 1 {
            expected.pop();
        }
        let mut shorter = whole.clone();
        crate::wire::lose_last(&mut shorter, &mut parsed);
        prop_assert_eq!(parse_super(&shorter[..parsed.len], segment).expect("sound"), parsed);
        prop_assert_eq!(parts(&shorter[..parsed.len], &parsed), expected);
        let mut marked = whole.clone();
        let parsed = parse_super(&whole, segment).expect("sound");
        prop_assert_eq!(crate::wire::mark_congested(&mut marked), ecn != 0);
        prop_assert_eq!(parse_super(&marked, segment).expect("sound"), parsed);
        prop_assert_eq!(&marked[2..10], &whole[2..10]);
        prop_assert_eq!(marked[1], whole[1] | if ecn == 0 { 0 } else if v6 { 0x30 } else { 3 });
        prop_assert_eq!(&marked[12..], &whole[12..]);
    }

    #[test]
    fn another_dscp_changes_nothing_else(v6: bool, before in 0u8..64, dscp in 0u8..64, ecn in 0u8..4) {
        let mut whole = packet(v6, Protocol::UDP, (4_000, 80), b"speech");
        crate::wire::set_dscp(&mut whole, before);
        whole[1] |= if v6 { ecn << 4 } else { ecn };
        if !v6 {
            crate::wire::offload::finish_v4(&mut whole, 20);
        }
        let mut marked = whole.clone();
        crate::wire::set_dscp(&mut marked, dscp);
        prop_assert!(sound(&marked));
        let parsed = parse(&whole).expect("sound");
        prop_assert_eq!(parse(&marked).expect("sound"), Parsed { dscp, ..parsed });
        prop_assert_eq!(crate::wire::traffic_class(&marked), dscp << 2 | ecn);
        prop_assert_eq!(&marked[2..10], &whole[2..10]);
        prop_assert_eq!(&marked[12..], &whole[12..]);
    }

    #[test]
    fn a_reset_answers_its_segment(v6: bool) {
        let syn = packet(v6, Protocol::TCP, (4_000, 80), &[]);
        let reset = tcp_reset(&syn, &parse(&syn).expect("sound")).expect("TCP");
        prop_assert!(sound(&reset));
        let parsed = parse(&reset).expect("sound");
        prop_assert_eq!(parsed.tcp_flags(), tcp_flags::RST | tcp_flags::ACK);
        prop_assert!(tcp_reset(&reset, &parsed).is_none());
    }

    #[test]
    fn fragments_put_together_are_the_packet(payload in proptest::collection::vec(any::<u8>(), 0..4_000), mtu in 68u16..1_500) {
        let bytes = packet(false, Protocol::UDP, (1, 2), &payload);
        let parsed = parse(&bytes).expect("sound");
        let mut whole = vec![0; bytes.len() - 20];
        let mut seen = 0;
        let mut last = false;
        fragment(&bytes, &parsed, mtu, |fragment| {
            let part = parse_ip(fragment).expect("sound");
            assert!(fragment.len() <= usize::from(mtu));
            let offset = part.fragment.map_or(0, |f| usize::from(f.offset));
            last = part.fragment.is_none_or(|f| !f.more);
            whole[offset..offset + part.len - 20].copy_from_slice(&fragment[20..]);
            seen += part.len - 20;
        });
        prop_assert!(last);
        prop_assert_eq!(seen, whole.len());
        prop_assert_eq!(&whole[..], &bytes[20..]);
    }

    #[test]
    fn rubbish_is_refused_or_handled_and_never_panics(
        v6: bool, protocol in protocols(), payload: Vec<u8>,
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<proptest::sample::Index>(), mend: bool,
    ) {
        let mut bytes = packet(v6, protocol, (9, 10), &payload);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if mend && bytes.len() >= 20 && bytes[0] >> 4 == 4 {
            let end = (usize::from(bytes[0] & 15) * 4).clamp(20, bytes.len() & !1);
            bytes[10..12].copy_from_slice(&[0, 0]);
            let sum = !checksum(&bytes[..end]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let us = (Ipv4Addr::new(192, 0, 0, 8), Ipv6Addr::LOCALHOST);
        if let Ok(mut parsed) = parse(&bytes) {
            icmp_error(&bytes, &parsed, IcmpError::TimeExceeded, us);
            tcp_reset(&bytes, &parsed);
            if parsed.ipv4 {
                fragment(&bytes, &parsed, 68, |_| {});
            }
            clamp_mss(&mut bytes, &parsed, 1_280);
            if let Some(embedded) = parsed.embedded(&bytes) {
                let to = embedded.source;
                translate_embedded(&mut bytes, &parsed, &embedded, Side::Destination, to, 7);
                translate_embedded(&mut bytes, &parsed, &embedded, Side::Source, to, 7);
            }
            if parsed.ttl > 0 {
                decrement_ttl(&mut bytes, &mut parsed);
            }
            let to = parsed.source(&bytes);
            translate(&mut bytes, &mut parsed, Side::Destination, to, 7);
        }
    }
}

#[test]
fn source_routes_and_unroutable_addresses_are_refused() {
    use crate::model::DropReason::*;
    let mut with_option = packet(false, Protocol::UDP, (1, 2), &[]);
    with_option.splice(20..20, [131, 7, 4, 10, 0, 0, 1, 0]);
    with_option[0] = 0x47;
    with_option[2..4].copy_from_slice(&36u16.to_be_bytes());
    with_option[10..12].copy_from_slice(&[0, 0]);
    let sum = !checksum(&with_option[..28]);
    with_option[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(parse(&with_option), Err(SourceRouted));

    let mut loopback = packet(true, Protocol::UDP, (1, 2), &[]);
    loopback[24..40].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
    assert_eq!(parse(&loopback), Err(AddressNotForwarded));
    let mut mapped = packet(true, Protocol::UDP, (1, 2), &[]);
    mapped[8..24].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
    assert_eq!(parse(&mapped), Err(AddressNotForwarded));
}
