//! What real clients call their servers, found in what they send: whole, in pieces, out of order, cut short. Every file is
//! described in `tests/corpus/README.md`.

#[path = "fuzz/targets/initial.rs"]
mod initial;

use initial::{V1, V2, Version, seal};
use popgate::model::{HostName, Protocol};
use popgate::wire::{Inspection, NamedBy, Progress};
use proptest::prelude::*;

macro_rules! corpus {
    ($file:literal) => {
        include_bytes!(concat!("corpus/", $file, ".bin"))
    };
}

const CURL: &[u8] = corpus!("inspect_tcp/tls-curl");
const CHROMIUM: &[u8] = corpus!("inspect_tcp/tls-chromium");

fn tls(name: &str) -> Progress {
    named(name, NamedBy::TlsSni)
}

fn http(name: &str) -> Progress {
    named(name, NamedBy::HttpHost)
}

fn quic(name: &str) -> Progress {
    named(name, NamedBy::QuicSni)
}

fn named(name: &str, by: NamedBy) -> Progress {
    Progress::Named { name: name.parse().expect("a name"), by }
}

/// The first bytes of TCP connections, and what they come to.
fn streams() -> [(&'static [u8], Progress); 10] {
    [
        (CURL, tls("curl.example.com")),
        (CHROMIUM, tls("chromium.example.com")),
        (corpus!("inspect_tcp/tls-openssl"), tls("openssl.example.com")),
        (corpus!("inspect_tcp/tls-openssl-tls12"), tls("openssl.example.com")),
        (corpus!("inspect_tcp/tls-openssl-no-name"), Progress::Nothing),
        (corpus!("inspect_tcp/http-curl"), http("curl.example.com")),
        (corpus!("inspect_tcp/http-curl-proxy"), http("curl.example.com")),
        (corpus!("inspect_tcp/http-curl-connect"), http("curl.example.com")),
        (corpus!("inspect_tcp/http-curl-h2-prior-knowledge"), Progress::Nothing),
        (corpus!("inspect_tcp/http-chromium"), http("chromium.example.com")),
    ]
}

/// A connection's SYN, then these pieces of its stream, each where it belongs, until something is known.
fn segments(stream: &[u8], pieces: impl IntoIterator<Item = std::ops::Range<usize>>) -> Progress {
    const BEGIN: u32 = u32::MAX - 100;
    let mut inspection = Inspection::new(Protocol::TCP, 443).expect("inspected");
    assert_eq!(inspection.feed_tcp(BEGIN, b""), Progress::More);
    let mut feed = |piece: std::ops::Range<usize>| {
        inspection.feed_tcp(BEGIN.wrapping_add(piece.start as u32), &stream[piece])
    };
    pieces.into_iter().map(&mut feed).find(|progress| *progress != Progress::More).unwrap_or(Progress::More)
}

/// The stream in one segment.
fn whole(stream: &[u8]) -> Progress {
    segments(stream, std::iter::once(0..stream.len()))
}

fn datagrams<'a>(datagrams: impl IntoIterator<Item = &'a [u8]>) -> Progress {
    let mut inspection = Inspection::new(Protocol::UDP, 443).expect("inspected");
    let mut feed = |datagram| inspection.feed_udp(datagram);
    datagrams
        .into_iter()
        .map(&mut feed)
        .find(|progress| *progress != Progress::More)
        .unwrap_or(Progress::More)
}

/// The datagrams in a file, each behind its length.
fn unpack(mut file: &[u8]) -> Vec<&[u8]> {
    let mut datagrams = Vec::new();
    while let Some((length, rest)) = file.split_first_chunk() {
        let (datagram, rest) = rest.split_at(u16::from_be_bytes(*length).into());
        datagrams.push(datagram);
        file = rest;
    }
    datagrams
}

// TCP.

#[test]
fn curl_openssl_and_chromium_name_their_servers() {
    for (stream, expected) in streams() {
        assert_eq!(whole(stream), expected);
    }
}

#[test]
fn cut_at_any_byte_a_stream_gives_the_same_name_in_either_order_and_overlapping() {
    for (stream, expected) in streams() {
        let end = stream.len();
        for cut in 1..end {
            assert_eq!(segments(stream, [0..cut, cut..end]), expected, "{cut}");
            assert_eq!(segments(stream, [cut..end, 0..cut]), expected, "{cut}, the second first");
            let back = cut.saturating_sub(7);
            assert_eq!(segments(stream, [0..cut, back..end]), expected, "{cut}, overlapping");
            assert_eq!(
                segments(stream, [back..end, 0..cut, 0..cut]),
                expected,
                "{cut}, overlapping backwards"
            );
        }
    }
}

#[test]
fn cut_at_any_two_bytes_a_stream_gives_the_same_name_in_any_order() {
    for (stream, expected) in streams() {
        let end = stream.len();
        // Of the largest every eleventh.
        let step = if end < 600 { 1 } else { 11 };
        for first in 1..end {
            for second in (first + 1..end).step_by(step) {
                let [a, b, c] = [0..first, first..second, second..end];
                for pieces in [[&a, &b, &c], [&c, &a, &b], [&b, &c, &a]] {
                    let progress = segments(stream, pieces.into_iter().cloned());
                    assert_eq!(progress, expected, "{first} {second} {pieces:?}");
                }
            }
        }
    }
}

#[test]
fn a_stream_cut_short_gives_its_name_or_waits_for_it() {
    for (stream, expected) in streams() {
        let mut before = Progress::More;
        for end in 0..=stream.len() {
            let progress = whole(&stream[..end]);
            assert!(progress == Progress::More || progress == expected, "{end}: {progress:?}");
            assert!(before == Progress::More || progress == before, "{end}: what is known stays known");
            before = progress;
        }
    }
}

proptest! {
    #[test]
    fn a_stream_in_any_pieces_gives_the_same_name(
        which in 0..10_usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..14),
        order in any::<prop::sample::Index>(),
        overlap in 0..50_usize,
    ) {
        let (stream, expected) = streams()[which];
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).chain([0, stream.len()]).collect();
        at.sort_unstable();
        at.dedup();
        let mut pieces: Vec<_> =
            at.windows(2).map(|pair| pair[0].saturating_sub(overlap)..pair[1]).collect();
        let first = order.index(pieces.len());
        pieces.rotate_left(first);
        prop_assert_eq!(segments(stream, pieces), expected);
    }
}

// QUIC.

#[test]
fn the_initials_of_rfc_9001_and_rfc_9369_are_named() {
    for file in
        [corpus!("inspect_udp/rfc9001-a2-client-initial"), corpus!("inspect_udp/rfc9369-a2-client-initial")]
    {
        assert_eq!(datagrams(unpack(file)), quic("example.com"));
    }
}

#[test]
fn chromium_and_aioquic_name_their_servers() {
    for (file, name) in [
        (&corpus!("inspect_udp/quic-chromium")[..], "chromium.example.com"),
        (corpus!("inspect_udp/quic-chromium-resent"), "chromium.example.com"),
        (corpus!("inspect_udp/quic-aioquic-v1"), "aioquic.example.com"),
        (corpus!("inspect_udp/quic-aioquic-v2"), "aioquic.example.com"),
    ] {
        let file = unpack(file);
        assert_eq!(datagrams(file.iter().copied()), quic(name));
        assert_eq!(datagrams(file.iter().rev().copied()), quic(name), "the last one first");
    }
    // One of each flight, as if the others were lost.
    let (sent, resent) = (corpus!("inspect_udp/quic-chromium"), corpus!("inspect_udp/quic-chromium-resent"));
    let (sent, resent) = (unpack(sent), unpack(resent));
    assert_eq!(datagrams([sent[1], resent[0], resent[1]]), quic("chromium.example.com"));
    assert_eq!(datagrams([sent[0], resent[1], resent[0]]), quic("chromium.example.com"));
}

/// A CRYPTO frame (RFC 9000 section 19.6).
fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    let varint = |value: usize| (0x8000_0000 | value as u32).to_be_bytes();
    [&[0x06][..], &varint(offset), &varint(data.len()), data].concat()
}

/// What TLS has in its record, QUIC has in CRYPTO frames.
fn hellos() -> [(&'static [u8], Progress); 2] {
    [(&CURL[5..], quic("curl.example.com")), (&CHROMIUM[5..], quic("chromium.example.com"))]
}

#[test]
fn crypto_frames_cut_at_any_byte_give_the_same_name_in_any_order_and_over_datagrams() {
    for (hello, expected) in hellos() {
        for version in [&V1, &V2] {
            for cut in 1..hello.len() {
                let (a, b) = (crypto(0, &hello[..cut]), crypto(cut, &hello[cut..]));
                let sealed = |packet_number, frames: &[&[u8]]| seal(version, packet_number, &frames.concat());
                let (first, second) = (sealed(0, &[&a]), sealed(1, &[&b]));
                // Longer than packets are looked into.
                let fits = |packet: &[u8]| packet.len() <= 2_048;
                assert!(fits(&first) && fits(&second));
                assert_eq!(datagrams([&first[..], &second]), expected, "{cut}");
                assert_eq!(datagrams([&second[..], &first]), expected, "{cut}, the second datagram first");
                assert_eq!(datagrams([&[&first[..], &second].concat()[..]]), expected, "{cut}, coalesced");
                assert_eq!(datagrams([&[&second[..], &first].concat()[..]]), expected, "{cut}, coalesced");
                let both =
                    [sealed(0, &[&a, &b]), sealed(0, &[&b, &a]), sealed(0, &[&b, &[1, 0, 0], &a, &a, &b])];
                for packet in both.iter().filter(|packet| fits(packet)) {
                    assert_eq!(datagrams([&packet[..]]), expected, "{cut}, in one packet");
                }
            }
        }
    }
}

#[test]
fn a_hello_cut_short_in_crypto_frames_gives_its_name_or_waits_for_it() {
    for (hello, expected) in hellos() {
        for end in 0..hello.len() {
            let progress = datagrams([&seal(&V1, 0, &crypto(0, &hello[..end]))[..]]);
            assert!(progress == Progress::More || progress == expected, "{end}: {progress:?}");
        }
    }
}

#[test]
fn a_datagram_cut_short_or_damaged_never_gives_a_name() {
    for file in
        [corpus!("inspect_udp/rfc9001-a2-client-initial"), corpus!("inspect_udp/rfc9369-a2-client-initial")]
    {
        let whole = unpack(file)[0];
        for end in 0..whole.len() {
            assert_eq!(datagrams([&whole[..end]]), Progress::Nothing, "{end}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 0x10;
            let progress = datagrams([&damaged[..]]);
            // A kind of packet that may come before the Initial, at best.
            assert!(
                progress == Progress::Nothing || at == 0 && progress == Progress::More,
                "{at}: {progress:?}"
            );
        }
    }
}

#[test]
fn other_frames_are_passed_over() {
    let (hello, expected) = hellos()[0];
    let (ping, padding) = ([0x01], [0x00; 9]);
    let ack = [0x02, 5, 0x40, 9, 1, 0, 2, 2];
    let ack_ecn = [0x03, 0, 0, 0, 0, 1, 2, 3];
    let close = [0x1c, 0, 0x06, 3, b'b', b'y', b'e'];
    for version in [&V1, &V2] {
        let others = [&ping[..], &padding, &ack, &ack_ecn, &close].concat();
        assert_eq!(
            datagrams([&seal(version, 0, &[&others, &crypto(0, hello)[..], &others].concat())[..]]),
            expected
        );
    }
    // A STREAM frame has no place there (RFC 9000 section 12.4), nor one that is cut short.
    for wrong in [&[0x08, 0, 1][..], &[0x06, 0, 0x44], &[0x02, 5, 0, 0x3f, 0]] {
        assert_eq!(datagrams([&seal(&V1, 0, &[wrong, &crypto(0, hello)].concat())[..]]), Progress::Nothing);
    }
}

#[test]
fn after_a_retry_the_keys_come_of_the_new_connection_id_rfc_9001_section_5_2() {
    let before = seal(&V1, 0, &[0x01]);
    let after = unpack(corpus!("inspect_udp/quic-aioquic-v1"));
    assert_eq!(datagrams([&before[..], after[0]]), quic("aioquic.example.com"));
}

#[test]
fn zero_rtt_and_handshake_packets_beside_the_initial_do_no_harm() {
    let (hello, expected) = hellos()[0];
    let initial = seal(&V1, 0, &crypto(0, hello));
    let mut zero_rtt = seal(&V1, 1, &[0; 40]);
    // No token; the kind's bits are not protected.
    zero_rtt.remove(15);
    zero_rtt[0] |= 0x10;
    assert_eq!(datagrams([&zero_rtt[..]]), Progress::More);
    assert_eq!(datagrams([&zero_rtt[..], &initial]), expected);
    assert_eq!(datagrams([&[&zero_rtt[..], &initial].concat()[..]]), expected);
}

#[test]
fn a_flow_is_looked_into_for_so_many_datagrams() {
    let initial = seal(&V1, 0, &crypto(0, hellos()[0].0));
    let waiting = |version: &Version| seal(version, 0, &[0x01]);
    let flow = |pings: usize| {
        let pings = std::iter::repeat_n(waiting(&V1), pings);
        let all: Vec<_> = pings.chain([initial.clone()]).collect();
        datagrams(all.iter().map(Vec::as_slice))
    };
    assert_eq!(flow(7), hellos()[0].1);
    assert_eq!(flow(8), Progress::Nothing);
}

#[test]
fn names_are_compared_in_small_letters() {
    let request = b"GET / HTTP/1.1\r\nHost: LOGIN.Example.COM\r\n\r\n";
    let Progress::Named { name, .. } = whole(request) else { panic!("no name") };
    assert_eq!(Some(name), HostName::new(b"login.example.com"));
}
