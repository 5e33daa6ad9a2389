//! Translation between the families, against the tables and rules of RFC 7915 and against itself.

use super::*;
use crate::wire::offload::finish_v4;

const V4_HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 40_112);
const V4_THERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 443);
const V6_HERE: (IpAddr, u16) = (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 4_000);
const V6_THERE: (IpAddr, u16) =
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0xcb00, 0x7109)), 443);

/// To these ends, between links of 1,500 bytes.
fn change(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Change {
    let ends = Ends { source, destination };
    Change { ends, quoted: None, mtu_in: 1_500, mtu_out: 1_500, id: 7 }
}

fn out() -> Change {
    change(V4_HERE, V4_THERE)
}

fn back() -> Change {
    change(V6_HERE, V6_THERE)
}

fn changed_super(packet: &[u8], segment: u16, change: &Change) -> Option<(Vec<u8>, Parsed)> {
    let mut packet = packet.to_vec();
    let parsed = parse_super(&packet, segment).expect("sound");
    let mut scratch = vec![0xee; 7];
    let (changed, parsed) = change_family(&mut packet, &parsed, change, &mut scratch)?;
    Some((changed.to_vec(), parsed))
}

fn changed(packet: &[u8], change: &Change) -> Option<Vec<u8>> {
    let (changed, parsed) = changed_super(packet, 0, change)?;
    let again = parse(&changed).expect("sound");
    let ends = (again.source(&changed), again.destination(&changed));
    assert_eq!(ends, (change.ends.source.0, change.ends.destination.0));
    // Whether IPv6 may be cut up is not in the packet.
    assert_eq!(Parsed { dont_fragment: parsed.dont_fragment, ..again }, parsed);
    assert!(changed[0] >> 4 == 6 || again.dont_fragment == parsed.dont_fragment);
    Some(changed)
}

/// IPv6 with extension headers between its header and its upper layer, the first of this kind.
fn extended(mut packet: Vec<u8>, kind: u8, extensions: &[u8]) -> Vec<u8> {
    packet[6] = kind;
    packet.splice(40..40, extensions.iter().copied());
    let len = packet.len() - 40;
    packet[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

fn set_v4(packet: &mut [u8], at: usize, word: u16) {
    packet[at..at + 2].copy_from_slice(&word.to_be_bytes());
    finish_v4(packet, 20);
}

/// The datagram that these are all fragments of, as if it had never been in any.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let is_v4 = fragments[0][0] >> 4 == 4;
    let mut whole = Vec::new();
    for fragment in fragments {
        let parsed = parse_ip(fragment).expect("sound");
        let part = parsed.fragment.expect("a fragment");
        assert_eq!(usize::from(part.offset), whole.len());
        assert_eq!(part.id, parse_ip(&fragments[0]).expect("sound").fragment.expect("a fragment").id);
        whole.extend_from_slice(&fragment[parsed.upper_at..parsed.len]);
        assert_eq!(part.more, !std::ptr::eq(fragment, fragments.last().expect("the last")));
    }
    let mut packet = fragments[0][..if is_v4 { 20 } else { 40 }].to_vec();
    if !is_v4 {
        packet[6] = fragments[0][40];
    }
    packet.extend_from_slice(&whole);
    let len = packet.len();
    crate::wire::offload::set_ip_len(&mut packet, is_v4, len);
    if is_v4 {
        set_v4(&mut packet, 6, 0);
    }
    packet
}

fn cut(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let mut fragments = Vec::new();
    fragment(packet, &parse_ip(packet).expect("sound"), mtu, |part| fragments.push(part.to_vec()));
    fragments
}

proptest! {
    #[test]
    fn from_ipv6_to_ipv4_and_back_is_the_packet_and_every_checksum_holds(
        protocol in protocols(), ports: (u16, u16), len in 0usize..1_600, class: u8, ttl in 1u8..,
    ) {
        let ports = (ports.0.max(1), ports.1.max(1));
        let mut original = packet(true, protocol, ports, &vec![0x5a; len]);
        (original[0], original[1], original[7]) = (0x60 | class >> 4, class << 4, ttl);
        let there = changed(&original, &out()).expect("has a counterpart");
        prop_assert!(sound(&there));
        prop_assert_eq!((there.len(), there[1], there[8]), (original.len() - 20, class, ttl));
        // Section 5.1: up to 1,260 bytes it may be fragmented, and can be told from others.
        let word = u16::from_be_bytes([there[6], there[7]]);
        let expected = if there.len() <= 1_260 { (0, [0, 7]) } else { (0x4000, [0, 0]) };
        prop_assert_eq!((word, [there[4], there[5]]), expected);
        let parsed = parse(&original).expect("sound");
        let back = change((parsed.source(&original), ports.0), (parsed.destination(&original), ports.1));
        prop_assert_eq!(changed(&there, &Change { mtu_out: u16::MAX, ..back }).expect("has one"), original);
    }

    #[test]
    fn from_ipv4_to_ipv6_and_back_is_the_packet_but_for_its_options(
        protocol in protocols(), ports: (u16, u16), len in 0usize..1_400, tos: u8, ttl in 1u8.., options in 0usize..10,
    ) {
        let ports = (ports.0.max(1), ports.1.max(1));
        let mut plain = packet(false, protocol, ports, &vec![0xa5; len]);
        (plain[1], plain[8]) = (tos, ttl);
        let (id, word) = if plain.len() > 1_260 { (0, 0x4000) } else { (7, 0) };
        set_v4(&mut plain, 4, id);
        set_v4(&mut plain, 6, word);
        let mut original = plain.clone();
        original.splice(20..20, vec![1; options * 4]);
        original[0] += options as u8;
        crate::wire::offload::set_ip_len(&mut original, true, plain.len() + options * 4);
        finish_v4(&mut original, 20 + options * 4);
        let there = changed(&original, &back()).expect("has a counterpart");
        prop_assert!(sound(&there));
        prop_assert_eq!(there.len(), plain.len() + 20);
        prop_assert_eq!((there[0], there[1], there[7]), (0x60 | tos >> 4, tos << 4, ttl));
        let parsed = parse(&original).expect("sound");
        let out = change((parsed.source(&original), ports.0), (parsed.destination(&original), ports.1));
        prop_assert_eq!(changed(&there, &out).expect("has one"), plain);
    }

    #[test]
    fn damage_stays_damage(v6: bool, protocol in protocols(), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let mut bytes = packet(v6, protocol, (4_000, 443), b"sixteen bytes...");
        let last = bytes.len() - 1 - at.index(16);
        bytes[last] ^= 1 << bit;
        let there = changed(&bytes, &if v6 { out() } else { back() }).expect("has a counterpart");
        prop_assert!(!sound(&there));
    }

    #[test]
    fn a_super_packet_changed_is_its_segments_changed(
        v6: bool, udp: bool, len in 1usize..20_000, segment in 50u16..1_400, df: bool, mtu_out in 1_280u16..1_500,
    ) {
        let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
        let mut whole = packet(v6, protocol, (4_000, 443), &vec![7; len]);
        if !v6 {
            set_v4(&mut whole, 6, if df { 0x4000 } else { 0 });
        }
        let cut_up = |packet: &[u8], parsed: &Parsed| {
            let mut parts = Vec::new();
            split(packet, parsed, &mut Vec::new(), |part| parts.push(part.to_vec()));
            parts
        };
        let change = Change { mtu_out, ..if v6 { out() } else { back() } };
        let (there, parsed) = changed_super(&whole, segment, &change).expect("has a counterpart");
        prop_assert_eq!(parse_super(&there, segment).map(|p| Parsed { dont_fragment: parsed.dont_fragment, ..p }), Ok(parsed));
        let parts = cut_up(&there, &parsed);
        let expected: Vec<_> = cut_up(&whole, &parse_super(&whole, segment).expect("sound"))
            .iter()
            .map(|part| changed(part, &change).expect("has a counterpart"))
            .collect();
        prop_assert_eq!(parts.len(), expected.len());
        for (part, mut expected) in parts.iter().zip(expected) {
            prop_assert!(sound(part));
            let mut part = part.clone();
            if v6 {
                // The last segment alone may be small enough for other flags and an id.
                for packet in [&mut part, &mut expected] {
                    set_v4(packet, 4, 0);
                    set_v4(packet, 6, 0);
                }
            } else if part.len() == expected.len() + 8 {
                // The same for the fragment header of what goes out whole.
                prop_assert!(part.len() <= usize::from(mtu_out) + 8);
                part.drain(40..48);
                crate::wire::offload::set_ip_len(&mut part, false, expected.len());
                part[6] = protocol.0;
            }
            if !udp {
                // Zero has two forms: one checksum was made anew, the other brought up to date (RFC 1624 section 3).
                let at = if v6 { 20 } else { 40 } + 16;
                for packet in [&mut part, &mut expected] {
                    if packet[at..at + 2] == [0xff; 2] {
                        packet[at..at + 2].fill(0);
                    }
                }
            }
            prop_assert_eq!(part, expected);
        }
    }

    #[test]
    fn fragments_of_ipv4_become_fragments_of_the_same_datagram(
        udp: bool, len in 40usize..4_000, mtu in 100u16..1_500, id: u16, mtu_out in 1_280u16..1_500,
    ) {
        let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
        let mut whole = packet(false, protocol, (4_000, 443), &vec![0x33; len]);
        set_v4(&mut whole, 4, id);
        prop_assume!(whole.len() > usize::from(mtu));
        let change = Change { mtu_out, ..back() };
        let mut there = Vec::new();
        for part in cut(&whole, mtu) {
            let part = changed(&part, &change).expect("has a counterpart");
            prop_assert_eq!(&part[44..48], &[&[0, 0][..], &id.to_be_bytes()].concat()[..]);
            // One that fitted may be too large now (section 4.1).
            if part.len() > usize::from(mtu_out) {
                there.extend(cut(&part, mtu_out));
            } else {
                there.push(part);
            }
        }
        prop_assert!(there.iter().all(|part| part.len() <= usize::from(mtu_out)));
        let expected = changed(&whole, &Change { mtu_out: u16::MAX, ..change }).expect("has a counterpart");
        prop_assert_eq!(reassembled(&there), expected);
        // And back again: section 5.1.1.
        let original: Vec<_> = there
            .iter()
            .map(|part| changed(part, &self::change(
                (parse(&whole).expect("sound").source(&whole), 4_000),
                (parse(&whole).expect("sound").destination(&whole), 443),
            )).expect("has one"))
            .collect();
        prop_assert!(original.iter().all(|part| part[4..6] == id.to_be_bytes() && part[6] & 0x40 == 0));
        set_v4(&mut whole, 6, 0);
        prop_assert_eq!(reassembled(&original), whole);
    }

    #[test]
    fn what_grows_too_large_is_cut_up_if_it_may_be(udp: bool, len in 1_200usize..5_000, id: u16, mtu_out in 1_280u16..1_500) {
        let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
        let mut whole = packet(false, protocol, (4_000, 443), &vec![0x33; len]);
        set_v4(&mut whole, 4, id);
        let (there, parsed) = changed_super(&whole, 0, &Change { mtu_out, ..back() }).expect("has a counterpart");
        let too_large = whole.len() + 20 > usize::from(mtu_out);
        prop_assert_eq!(parsed.dont_fragment, !too_large);
        let expected = changed(&whole, &Change { mtu_out: u16::MAX, ..back() }).expect("has a counterpart");
        if too_large {
            let fragments = cut(&there, mtu_out);
            prop_assert!(fragments.iter().all(|part| part.len() <= usize::from(mtu_out)));
            prop_assert_eq!(parse_ip(&fragments[0]).expect("sound").fragment.expect("one").id, u32::from(id));
            prop_assert_eq!(reassembled(&fragments), expected);
        } else {
            prop_assert_eq!(there, expected);
        }
        // Where it may not, the sender hears what would fit.
        set_v4(&mut whole, 6, 0x4000);
        let (there, parsed) = changed_super(&whole, 0, &Change { mtu_out, ..back() }).expect("has a counterpart");
        prop_assert!(parsed.dont_fragment && there[6] == protocol.0);
        let fits = mtu_across(&parse(&whole).expect("sound"), mtu_out);
        prop_assert_eq!(whole.len() > usize::from(fits), there.len() > usize::from(mtu_out));
    }

    #[test]
    fn an_error_is_changed_with_what_it_quotes_and_back(
        v6: bool, protocol in protocols(), len in 0usize..1_400, mtu in 1_300u16..1_480,
    ) {
        // A packet of ours goes out, and is told to be too large there.
        let first = packet(!v6, protocol, (4_000, 443), &vec![0x11; len]);
        let (to, from) = if v6 { (back(), out()) } else { (out(), back()) };
        let sent = changed(&first, &to).expect("has a counterpart");
        let router = ("192.0.2.1".parse().expect("v4"), "2001:db8:9::1".parse().expect("v6"));
        let error = icmp_error(&sent, &parse(&sent).expect("sound"), IcmpError::TooBig { mtu }, router);
        let was = parse(&first).expect("sound");
        let reporter: IpAddr = if v6 { "192.0.2.99".parse().expect("v4") } else { "2001:db8:64::99".parse().expect("v6") };
        let quoted = Ends {
            source: (was.source(&first), 4_000),
            destination: (was.destination(&first), 443),
        };
        let back = Change {
            ends: Ends { source: (reporter, 0), destination: (was.source(&first), 0) },
            quoted: Some(quoted),
            ..from
        };
        let there = changed(&error, &back).expect("has a counterpart");
        prop_assert!(sound(&there));
        let outer = parse(&there).expect("sound");
        let embedded = outer.embedded(&there).expect("still an error");
        prop_assert_eq!((outer.source(&there), outer.destination(&there)), (reporter, was.source(&first)));
        let ports = match (protocol, embedded.protocol) {
            (Protocol::ICMP, Protocol::ICMP | Protocol::ICMPV6) => (4_000, 0),
            _ => (4_000, 443),
        };
        prop_assert_eq!((embedded.source, embedded.destination), (was.source(&first), was.destination(&first)));
        prop_assert_eq!((embedded.source_port, embedded.destination_port), ports);
        let said = u16::from_be_bytes([there[outer.upper_at + 6], there[outer.upper_at + 7]]);
        prop_assert_eq!(said, if v6 { mtu - 20 } else { mtu + 20 });
        // The quote is the packet as it was sent, but for what IPv4's header says of fragments.
        let quote = &there[embedded.ip_at..];
        if v6 {
            prop_assert_eq!(&quote[..4], &first[..4]);
            prop_assert_eq!(&quote[8..10], &first[8..10]);
            prop_assert_eq!(&quote[12..], &first[12..quote.len()]);
        } else {
            prop_assert_eq!(quote, &first[..quote.len()]);
            prop_assert!(there.len() <= 1_280);
        }
    }

    #[test]
    fn rubbish_is_refused_or_changed_and_never_panics(
        v6: bool, protocol in protocols(), payload: Vec<u8>, quotes: bool, reckoned: bool,
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
        cut_at in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = packet(v6, protocol, (9, 10), &payload);
        if quotes {
            let us = (Ipv4Addr::new(192, 0, 0, 8), "2001:db8::8".parse().expect("v6"));
            bytes = icmp_error(&bytes, &parse(&bytes).expect("sound"), IcmpError::TimeExceeded, us);
        }
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut_at.index(bytes.len()) + 1);
        if reckoned && bytes.len() >= 60 && bytes[0] == if v6 { 0x60 } else { 0x45 } {
            // Past what is refused for its checksums and lengths.
            let len = bytes.len();
            crate::wire::offload::set_ip_len(&mut bytes, !v6, len);
            if !v6 {
                finish_v4(&mut bytes, 20);
            }
            if let Ok(parsed) = parse(&bytes) && matches!(parsed.upper, Upper::IcmpError) {
                let at = parsed.upper_at;
                bytes[at + 2..at + 4].fill(0);
                let sum = !upper_sum(&bytes, at, parsed.protocol, parsed.source(&bytes), parsed.destination(&bytes));
                bytes[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
            }
        }
        for segment in [0, 9] {
            let Ok(parsed) = parse_super(&bytes, segment) else { continue };
            for change in [out(), back()] {
                let mut bytes = bytes.clone();
                let change = Change { quoted: Some(change.ends), ..change };
                mtu_across(&parsed, 1_280);
                if let Some((there, parsed)) = change_family(&mut bytes, &parsed, &change, &mut Vec::new()) {
                    prop_assert_eq!(there.len(), parsed.len);
                    prop_assert!(parse(there).is_ok());
                }
            }
        }
    }
}

// Section 4.5, and RFC 6935 for the way back.

#[test]
fn udp_without_a_checksum_gets_one_in_ipv6_unless_it_is_a_fragment() {
    let mut bytes = packet(false, Protocol::UDP, (4_000, 443), &[1; 601]);
    bytes[26..28].fill(0);
    let there = changed(&bytes, &back()).expect("has a counterpart");
    assert!(sound(&there) && there[46..48] != [0, 0]);
    let fragments = cut(&bytes, 300);
    assert_eq!(changed(&fragments[0], &back()), None);
    // A datagram that will be fragmented is whole yet.
    let mut large = packet(false, Protocol::UDP, (4_000, 443), &[1; 1_500]);
    large[26..28].fill(0);
    let expected = changed(&large, &Change { mtu_out: u16::MAX, ..back() }).expect("has a counterpart");
    let there = changed(&large, &Change { mtu_out: 1_280, ..back() }).expect("has a counterpart");
    assert!(sound(&expected));
    assert_eq!(reassembled(&cut(&there, 1_280)), expected);
}

#[test]
fn udp_without_a_checksum_in_ipv6_has_none_in_ipv4() {
    let mut bytes = packet(true, Protocol::UDP, (4_000, 443), b"a tunnel's");
    bytes[46..48].fill(0);
    assert_eq!(changed(&bytes, &out()).expect("has a counterpart")[26..28], [0, 0]);
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    // Some payload word makes the sum all ones in the other family.
    for v6 in [false, true] {
        let change = if v6 { out() } else { back() };
        let zero = (0..=u16::MAX).find(|word| {
            let bytes = packet(v6, Protocol::UDP, (4_000, 443), &word.to_be_bytes());
            let there = changed(&bytes, &change).expect("has a counterpart");
            assert!(sound(&there));
            let at = parse(&there).expect("sound").upper_at + 6;
            assert_ne!(there[at..at + 2], [0, 0]);
            there[at..at + 2] == [0xff, 0xff]
        });
        assert!(zero.is_some());
    }
}

#[test]
fn pieces_of_icmp_messages_are_not_translated() {
    for part in cut(&packet(false, Protocol::ICMP, (4_000, 0), &[1; 600]), 300) {
        assert_eq!(changed(&part, &back()), None);
    }
    let echo = packet(true, Protocol::ICMP, (4_000, 0), &[1; 600]);
    let atomic = extended(echo, 44, &[58, 0, 0, 0, 0, 0, 0, 9]);
    for part in cut(&atomic, 300) {
        assert_eq!(changed(&part, &out()), None);
    }
    // All of one is one.
    assert!(sound(&changed(&atomic, &out()).expect("has a counterpart")));
}

#[test]
fn extension_headers_are_left_behind() {
    let plain = packet(true, Protocol::UDP, (4_000, 443), b"payload");
    let expected = changed(&plain, &out()).expect("has a counterpart");
    let with = |kind, extensions: &[u8]| changed(&extended(plain.clone(), kind, extensions), &out());
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(with(0, &options).as_ref(), Some(&expected));
    assert_eq!(with(60, &[17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).as_ref(), Some(&expected));
    // A routing header that has been all the way, of a type without source routes (RFC 8754).
    assert_eq!(with(43, &[17, 0, 4, 0, 0, 0, 0, 0]).as_ref(), Some(&expected));
    // One that has not, the fragment header before another, and what covers the header (sections 5.1 and 5.1.1).
    assert_eq!(with(43, &[17, 0, 4, 1, 0, 0, 0, 0]), None);
    assert_eq!(with(44, &[&[60, 0, 0, 0, 0, 0, 0, 9], &options[..]].concat()), None);
    assert_eq!(with(51, &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    // A fragment that is all of its datagram (RFC 6946) keeps its id, and may be fragmented.
    let atomic = with(44, &[17, 0, 0, 0, 1, 2, 4, 8]).expect("has a counterpart");
    assert_eq!(atomic[4..8], [4, 8, 0, 0]);
    assert_eq!(atomic[20..], expected[20..]);
}

#[test]
fn no_extension_header_is_made_of_an_ipv4_packets_protocol() {
    for protocol in [0, 43, 44, 51, 60] {
        let mut bytes = packet(false, Protocol::UDP, (4_000, 443), b"payload");
        bytes[9] = protocol;
        finish_v4(&mut bytes, 20);
        assert_eq!(changed(&bytes, &back()), None);
    }
}

#[test]
fn protocols_of_no_reading_are_carried_as_they_are() {
    // ESP, GRE, no next header.
    for protocol in [50, 47, 59] {
        let mut bytes = packet(false, Protocol::UDP, (4_000, 443), b"payload");
        bytes[9] = protocol;
        finish_v4(&mut bytes, 20);
        let there = changed(&bytes, &back()).expect("has a counterpart");
        assert_eq!((there[6], &there[40..]), (protocol, &bytes[20..]));
        let again = changed(
            &there,
            &change(
                (parse(&bytes).expect("sound").source(&bytes), 0),
                (parse(&bytes).expect("sound").destination(&bytes), 0),
            ),
        );
        assert_eq!(again, Some(bytes));
    }
    // DCCP has the addresses in its checksum (RFC 4340 section 9.1).
    let mut bytes = packet(true, Protocol::UDP, (4_000, 443), b"payload");
    bytes[6] = 33;
    let sum_of = |packet: &[u8]| {
        let parsed = parse(packet).expect("sound");
        upper_sum(packet, parsed.upper_at, parsed.protocol, parsed.source(packet), parsed.destination(packet))
    };
    assert_eq!(sum_of(&changed(&bytes, &out()).expect("has a counterpart")), sum_of(&bytes));
}

#[test]
fn what_is_of_that_family_already_is_not_changed() {
    for v6 in [false, true] {
        let bytes = packet(v6, Protocol::UDP, (4_000, 443), b"payload");
        assert_eq!(changed(&bytes, &if v6 { back() } else { out() }), None);
        let mixed = change(V4_HERE, V6_THERE);
        assert_eq!(changed(&bytes, &mixed), None);
        let mixed = change(V6_HERE, V4_THERE);
        assert_eq!(changed(&bytes, &mixed), None);
    }
}

// Sections 4.2 and 5.2.

/// An ICMP message with these first 8 bytes (its checksum apart), about a packet that went from here to there.
fn error(v6: bool, [kind, code]: [u8; 2], word: u32, quote: &[u8]) -> Vec<u8> {
    let about = packet(v6, Protocol::UDP, (4_000, 443), &[]);
    let us = (Ipv4Addr::new(192, 0, 2, 1), "2001:db8:9::1".parse().expect("v6"));
    let mut bytes = icmp_error(&about, &parse(&about).expect("sound"), IcmpError::NoRoute, us);
    let at = if v6 { 40 } else { 20 };
    bytes.truncate(at + 8);
    bytes.extend_from_slice(quote);
    let len = bytes.len();
    crate::wire::offload::set_ip_len(&mut bytes, !v6, len);
    if !v6 {
        finish_v4(&mut bytes, 20);
    }
    (bytes[at], bytes[at + 1]) = (kind, code);
    bytes[at + 2..at + 4].fill(0);
    bytes[at + 4..at + 8].copy_from_slice(&word.to_be_bytes());
    let ip = parse_ip(&bytes).expect("sound");
    let sum = !upper_sum(&bytes, at, ip.protocol, ip.source(&bytes), ip.destination(&bytes));
    bytes[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The same message in the other family.
fn error_changed(v6: bool, bytes: &[u8]) -> Option<Vec<u8>> {
    let (to, quoted) = if v6 { (out(), out()) } else { (back(), back()) };
    changed(bytes, &Change { quoted: Some(quoted.ends), ..to })
}

/// Type, code and the word behind the checksum in the other family.
fn head(v6: bool, kind: [u8; 2], word: u32, quote: &[u8]) -> Option<([u8; 2], u32)> {
    let there = error_changed(v6, &error(v6, kind, word, quote))?;
    assert!(sound(&there));
    let at = if v6 { 20 } else { 40 };
    let word = [there[at + 4], there[at + 5], there[at + 6], there[at + 7]];
    Some(([there[at], there[at + 1]], u32::from_be_bytes(word)))
}

#[test]
fn icmpv4_errors_become_the_icmpv6_errors_of_section_4_2() {
    let quote = packet(false, Protocol::UDP, (4_000, 443), &[]);
    for code in 0..=16 {
        let expected = match code {
            0 | 1 | 5..=8 | 11 | 12 => Some(([1, 0], 0)),
            2 => Some(([4, 1], 6)),
            3 => Some(([1, 4], 0)),
            4 => Some(([2, 0], 1_420)),
            9 | 10 | 13 | 15 => Some(([1, 1], 0)),
            _ => None,
        };
        assert_eq!(head(false, [3, code], 1_400, &quote), expected, "code {code}");
    }
    for code in 0..=1 {
        assert_eq!(head(false, [11, code], 0, &quote), Some(([3, code], 0)));
    }
    assert_eq!(head(false, [12, 1], 0, &quote), None);
    assert_eq!(head(false, [12, 3], 0, &quote), None);
}

#[test]
fn icmpv6_errors_become_the_icmpv4_errors_of_section_5_2() {
    let quote = packet(true, Protocol::UDP, (4_000, 443), &[]);
    for code in 0..=7 {
        let expected = match code {
            0 | 2 | 3 => Some(([3, 1], 0)),
            1 => Some(([3, 10], 0)),
            4 => Some(([3, 3], 0)),
            _ => None,
        };
        assert_eq!(head(true, [1, code], 0, &quote), expected, "code {code}");
    }
    assert_eq!(head(true, [2, 0], 1_400, &quote), Some(([3, 4], 1_380)));
    for code in 0..=1 {
        assert_eq!(head(true, [3, code], 0, &quote), Some(([11, code], 0)));
    }
    assert_eq!(head(true, [4, 1], 6, &quote), Some(([3, 2], 0)));
    assert_eq!(head(true, [4, 2], 40, &quote), None);
}

#[test]
fn pointers_are_those_of_figures_3_and_6() {
    let v4 = packet(false, Protocol::UDP, (4_000, 443), &[]);
    for pointer in 0..=24 {
        let expected = match pointer {
            0 => Some(0),
            1 => Some(1),
            2 | 3 => Some(4),
            8 => Some(7),
            9 => Some(6),
            12..=15 => Some(8),
            16..=19 => Some(24),
            _ => None,
        };
        for code in [0, 2] {
            let there = head(false, [12, code], pointer << 24, &v4);
            assert_eq!(there, expected.map(|to| ([4, 0], to)), "pointer {pointer}");
        }
    }
    let v6 = packet(true, Protocol::UDP, (4_000, 443), &[]);
    for pointer in 0..=44 {
        let expected: Option<u32> = match pointer {
            0 => Some(0),
            1 => Some(1),
            4 | 5 => Some(2),
            6 => Some(9),
            7 => Some(8),
            8..=23 => Some(12),
            24..=39 => Some(16),
            _ => None,
        };
        let there = head(true, [4, 0], pointer, &v6);
        assert_eq!(there, expected.map(|to| ([12, 0], to << 24)), "pointer {pointer}");
    }
}

#[test]
fn mtus_differ_by_the_headers_and_stay_within_what_both_links_carry() {
    let large = packet(false, Protocol::UDP, (4_000, 443), &[0; 1_472]);
    let mtu = |said: u32, quote: &[u8]| head(false, [3, 4], said, quote).expect("has a counterpart").1;
    assert_eq!([1_261, 1_260, 1_259, 68].map(|said| mtu(said, &large[..48])), [1_281, 1_280, 1_280, 1_280]);
    // 1,500 here, 1,500 there.
    assert_eq!(mtu(9_000, &large[..48]), 1_500);
    // A router that does not say (RFC 1191 section 7): the greatest plateau below the packet.
    assert_eq!(mtu(0, &large[..48]), 1_500);
    let small = packet(false, Protocol::UDP, (4_000, 443), &[0; 1_400]);
    assert_eq!(mtu(0, &small[..48]), 1_300);

    let large = packet(true, Protocol::UDP, (4_000, 443), &[0; 1_472]);
    let mtu = |said: u32, quote: &[u8]| head(true, [2, 0], said, quote).expect("has a counterpart").1;
    assert_eq!(
        [1_280, 1_500, 9_000, u32::MAX, 0].map(|said| mtu(said, &large)),
        [1_260, 1_480, 1_480, 1_480, 68]
    );
    // What was a fragment there is smaller here by the fragment header too.
    let fragment = extended(large, 44, &[17, 0, 0, 1, 0, 0, 0, 9]);
    assert_eq!(mtu(1_400, &fragment), 1_372);
}

#[test]
fn a_quoted_fragment_is_one_in_the_other_family() {
    let first = cut(&packet(false, Protocol::UDP, (4_000, 443), &[3; 600]), 300).remove(0);
    let there = error_changed(false, &error(false, [11, 0], 0, &first[..60])).expect("has a counterpart");
    assert_eq!(there[48 + 6], 44);
    assert_eq!(there[48 + 40..48 + 48], [17, 0, 0, 1, 0, 0, 0, 7]);
    let quote = &there[48..];
    let back = error_changed(true, &error(true, [3, 0], 0, quote)).expect("has a counterpart");
    assert_eq!(back[28 + 4..28 + 8], [0, 7, 0x20, 0]);
    assert_eq!(back[28 + 2..28 + 4], first[2..4]);
}

#[test]
fn an_error_that_is_damaged_or_quotes_what_cannot_be_is_not_translated() {
    for v6 in [false, true] {
        let quote = packet(v6, Protocol::UDP, (4_000, 443), &[]);
        let mut bytes = error(v6, if v6 { [1, 4] } else { [3, 3] }, 0, &quote);
        assert!(error_changed(v6, &bytes).is_some());
        // Without the quoted packet's ends there is nothing to say.
        assert_eq!(changed(&bytes, &if v6 { out() } else { back() }), None);
        *bytes.last_mut().expect("not empty") ^= 1;
        assert_eq!(error_changed(v6, &bytes), None);
    }
    let mut quote = packet(false, Protocol::UDP, (4_000, 443), &[]);
    quote[9] = 44;
    assert_eq!(error_changed(false, &error(false, [3, 3], 0, &quote)), None);
}

// RFC 4884: the quote's length is in the error if there is an extension behind it.

#[test]
fn an_extension_stays_behind_the_quote_and_its_length_is_right() {
    let extension = [0x20, 0, 0xaa, 0xbb, 0, 4, 1, 1];
    for (v6, lens) in [(false, [132, 128, 200]), (true, [152, 128, 224])] {
        for len in lens {
            let quote = packet(v6, Protocol::UDP, (4_000, 443), &vec![9; len - if v6 { 48 } else { 28 }]);
            let (kind, word) =
                if v6 { ([1, 4], (len as u32 / 8) << 24) } else { ([3, 3], (len as u32 / 4) << 16) };
            let bytes = error(v6, kind, word, &[&quote[..], &extension].concat());
            let there = error_changed(v6, &bytes).expect("has a counterpart");
            assert!(sound(&there));
            let at = if v6 { 20 } else { 40 };
            let said = if v6 { usize::from(there[at + 5]) * 4 } else { usize::from(there[at + 4]) * 8 };
            let changed_len = if v6 { len - 20 } else { len + 20 };
            assert_eq!(said, changed_len.max(128).next_multiple_of(if v6 { 4 } else { 8 }));
            let (quoted, behind) = there[at + 8..].split_at(said);
            assert_eq!(behind, extension);
            assert!(quoted[changed_len..].iter().all(|byte| *byte == 0));
            assert_eq!(quoted[changed_len - 20..changed_len], [9; 20]);
        }
    }
    // Packet too big has no place for one (RFC 4884 section 4).
    let quote = packet(false, Protocol::UDP, (4_000, 443), &[9; 100]);
    let bytes = error(false, [3, 4], 32 << 16 | 1_400, &[&quote[..], &extension].concat());
    let there = error_changed(false, &bytes).expect("has a counterpart");
    assert_eq!(there.len(), 40 + 8 + 128 + 20);
    assert_eq!(there[40..42], [2, 0]);
}

#[test]
fn an_icmpv6_error_is_at_most_1_280_bytes() {
    let quote = packet(false, Protocol::UDP, (4_000, 443), &[9; 1_300]);
    let there = error_changed(false, &error(false, [3, 3], 0, &quote)).expect("has a counterpart");
    assert_eq!(there.len(), 1_280);
    assert!(sound(&there));
}

#[test]
fn what_fits_across_is_the_mtu_less_what_the_packet_grows() {
    let v4 = packet(false, Protocol::UDP, (4_000, 443), &[9; 600]);
    let across = |bytes: &[u8], mtu| mtu_across(&parse(bytes).expect("sound"), mtu);
    assert_eq!(across(&v4, 1_420), 1_400);
    assert_eq!(across(&cut(&v4, 300)[0], 1_420), 1_392);
    let v6 = packet(true, Protocol::UDP, (4_000, 443), &[9; 600]);
    assert_eq!([1_400, 1_260, 600].map(|mtu| across(&v6, mtu)), [1_420, 1_280, 1_280]);
    assert_eq!(across(&extended(v6, 44, &[17, 0, 0, 1, 0, 0, 0, 9]), 1_400), 1_428);
}

#[test]
fn packets_that_have_changed_family_leave_as_one() {
    let mut sent = Outbound::default();
    for filling in 0..4 {
        let original = packet(true, Protocol::UDP, (4_000, 443), &[filling; 1_300]);
        let (packet, parsed) = changed_super(&original, 0, &out()).expect("has a counterpart");
        sent.push_segment(DeviceId(0), &packet, &parsed);
    }
    sent.finish();
    let counts: Vec<u64> = sent.packets().map(|packet| packet.count()).collect();
    assert_eq!(counts, [4]);
}
