//! What is fuzzed: every function that reads what a stranger wrote, and what the data plane does with it afterwards.
//!
//! Each target takes bytes and must not panic; where there is a property that holds whatever they are, it checks it. The
//! fuzzer (`make fuzz TARGET=name`) and `tests/corpus.rs`, which replays `tests/corpus/name`, run the same functions.

mod initial;
mod packets;
mod texts;
mod tunnels;

use popgate::model::{HostName, Protocol};
use popgate::wire::{DnsResponse, Inspection, Progress, dns_messages};

/// What is done with some bytes.
type Target = fn(&[u8]);

/// By name: the folder of its corpus, and the binary that fuzzes it.
pub const TARGETS: [(&str, Target); 11] = [
    ("config", texts::config),
    ("device", packets::device),
    ("dns", dns),
    ("host_name", host_name),
    ("inspect_tcp", inspect_tcp),
    ("inspect_udp", inspect_udp),
    ("packet", packets::packet),
    ("probe", packets::probe),
    ("quic_frames", quic_frames),
    ("topology", texts::topology),
    ("tunnel", tunnels::tunnel),
];

/// Runs `target`.
pub fn run(target: &str, data: &[u8]) {
    let (_, function) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    function(data);
}

fn host_name(data: &[u8]) {
    let Some(name) = HostName::new(data) else { return };
    assert_eq!(name.as_str().parse(), Ok(name));
    let data = data.strip_suffix(b".").unwrap_or(data);
    assert!(name.as_str().as_bytes().eq_ignore_ascii_case(data));
    assert!(name.suffixes().all(|suffix| name.as_str().ends_with(suffix)));
    assert_eq!(name.suffixes().count(), name.as_str().split('.').count());
}

/// A response by itself, and what a TCP segment has of them.
fn dns(data: &[u8]) {
    for message in dns_messages(data).chain([data]) {
        let Some(response) = DnsResponse::read(message) else { continue };
        assert!(response.names().count() <= 16);
        assert!(response.addresses().count() <= 128);
        // The question's name is always there.
        assert!(response.names().next().is_some());
    }
}

/// A stream, whole and in two pieces in either order: the same comes of it.
fn inspect_tcp(data: &[u8]) {
    let cut =
        data.iter().fold(0_usize, |sum, byte| sum * 31 % 65_521 + usize::from(*byte)) % data.len().max(1);
    let (first, second) = data.split_at(cut);
    let pieces = |pieces: &[(usize, &[u8])]| {
        let mut inspection = Inspection::new(Protocol::TCP, 443).expect("inspected");
        inspection.feed_tcp(7, b"");
        let mut feed = |(offset, piece): &(usize, &[u8])| inspection.feed_tcp(7 + *offset as u32, piece);
        pieces.iter().map(&mut feed).find(|progress| *progress != Progress::More).unwrap_or(Progress::More)
    };
    let whole = pieces(&[(0, data)]);
    assert_eq!(pieces(&[(0, first), (cut, second)]), whole, "cut at {cut}");
    assert_eq!(pieces(&[(cut, second), (0, first)]), whole, "cut at {cut}, the second piece first");
}

/// A client's datagrams, each behind its length in two bytes.
fn inspect_udp(mut data: &[u8]) {
    let mut inspection = Inspection::new(Protocol::UDP, 443).expect("inspected");
    while let Some((length, rest)) = data.split_first_chunk() {
        let (datagram, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        if inspection.feed_udp(datagram) != Progress::More {
            return;
        }
        data = rest;
    }
}

/// The frames of a client's Initial packets: where the first byte divides the rest.
fn quic_frames(data: &[u8]) {
    let Some((cut, frames)) = data.split_first() else { return };
    let frames = &frames[..frames.len().min(1_900)];
    let (first, second) = frames.split_at(frames.len() * usize::from(*cut) / 256);
    for version in [&initial::V1, &initial::V2] {
        let mut inspection = Inspection::new(Protocol::UDP, 443).expect("inspected");
        for (packet_number, frames) in [first, second].into_iter().enumerate() {
            inspection.feed_udp(&initial::seal(version, packet_number as u8, frames));
        }
    }
}
