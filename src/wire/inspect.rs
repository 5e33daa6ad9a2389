//! Inspection: what a client calls its server in the first bytes it sends, whichever protocol they are.
//!
//! A flow that policy does not know by its addresses is looked into until a name is found or can be found no more. What
//! that may cost is bounded: so many pieces, [`assembly::MAX_BYTES`] of them kept, and those only if one piece is not
//! enough. Somebody who hides his server's name, or cuts it into crumbs, succeeds; his flow has the class that its
//! addresses give it.

use super::assembly::{self, Assembly};
use super::dns::DNS_PORT;
use super::quic::Initials;
use super::{http, tls};
use crate::model::{HostName, Protocol};
use serde::Serialize;

/// Segments with payload that a stream's beginning may take: [`assembly::MAX_BYTES`] in segments of 536 bytes, the smallest
/// that anybody has to use (RFC 9293 section 3.7.1).
const MAX_SEGMENTS: u8 = 32;
/// Datagrams that a client may send before it has told a name: Chromium's two, sent anew three times.
const MAX_DATAGRAMS: u8 = 8;
/// TCP ports at which the server speaks first, and that is all it needs to be known by: FTP, SSH, SMTP.
const SERVER_SPEAKS_FIRST: [u16; 3] = [21, 22, 25];

/// The inspection of one flow.
#[derive(Clone, Debug)]
pub struct Inspection {
    of: Of,
    pieces_left: u8,
}

#[derive(Clone, Debug)]
enum Of {
    /// `begins` is the sequence number of the stream's first byte.
    Tcp {
        begins: Option<u32>,
        stream: Assembly,
    },
    Quic(Initials),
}

/// How far an inspection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives as long as it takes to be matched; a name allocates nothing"
)]
pub enum Progress {
    /// What follows may have the name.
    More,
    Named {
        name: HostName,
        by: NamedBy,
    },
    /// There is none, or it is not looked for any further.
    Nothing,
}

/// What told a flow's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedBy {
    TlsSni,
    QuicSni,
    HttpHost,
}

/// Why the beginning of a stream gives no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// The rest may.
    NotYet,
    /// Whatever follows.
    Never,
}

impl Inspection {
    /// Of a flow that begins towards this port; `None` where nothing can be found.
    pub fn new(protocol: Protocol, destination_port: u16) -> Option<Inspection> {
        let (of, pieces_left) = match protocol {
            // What is asked there is learned from the answers.
            _ if destination_port == DNS_PORT => return None,
            Protocol::TCP if SERVER_SPEAKS_FIRST.contains(&destination_port) => return None,
            Protocol::TCP => (Of::Tcp { begins: None, stream: Assembly::default() }, MAX_SEGMENTS),
            Protocol::UDP => (Of::Quic(Initials::default()), MAX_DATAGRAMS),
            _ => return None,
        };
        Some(Inspection { of, pieces_left })
    }

    /// Takes in the payload of the client's next TCP segment, in whatever order they come; it begins at `sequence`.
    ///
    /// The first call says where the stream begins: it should be the SYN's, with the sequence number behind it and the
    /// payload it has (mostly none). Without that the first segment has to come first.
    pub fn feed_tcp(&mut self, sequence: u32, payload: &[u8]) -> Progress {
        let Of::Tcp { begins, stream } = &mut self.of else { return Progress::Nothing };
        let begins = *begins.get_or_insert(sequence);
        if payload.is_empty() {
            return Progress::More;
        }
        let Some(left) = self.pieces_left.checked_sub(1) else { return Progress::Nothing };
        self.pieces_left = left;
        // Half of all sequence numbers are behind, half before (RFC 9293 section 3.4). A segment from before the beginning
        // may reach into it.
        let (offset, before) = match sequence.wrapping_sub(begins).cast_signed() {
            offset @ 0.. => (offset.unsigned_abs() as usize, 0),
            before => (0, before.unsigned_abs() as usize),
        };
        let payload = payload.get(before..).unwrap_or_default();
        let seen = look(payload, offset, stream);
        match seen {
            Err(Unnamed::NotYet) if left > 0 => Progress::More,
            Err(_) => Progress::Nothing,
            Ok((name, by)) => Progress::Named { name, by },
        }
    }

    /// Takes in the payload of the client's next UDP datagram.
    pub fn feed_udp(&mut self, payload: &[u8]) -> Progress {
        let Of::Quic(initials) = &mut self.of else { return Progress::Nothing };
        let Some(left) = self.pieces_left.checked_sub(1) else { return Progress::Nothing };
        self.pieces_left = left;
        match initials.feed(payload) {
            Err(Unnamed::NotYet) if left > 0 => Progress::More,
            Err(_) => Progress::Nothing,
            Ok(name) => Progress::Named { name, by: NamedBy::QuicSni },
        }
    }
}

/// Reads the stream, in the segment itself as long as nothing else has come.
fn look(payload: &[u8], offset: usize, stream: &mut Assembly) -> Result<(HostName, NamedBy), Unnamed> {
    if offset == 0 && stream.is_empty() {
        match name(&payload[..payload.len().min(assembly::MAX_BYTES)]) {
            Err(Unnamed::NotYet) => {}
            decided => return decided,
        }
    }
    stream.put(offset, payload).map_err(|_| Unnamed::Never)?;
    match name(stream.beginning()) {
        Err(Unnamed::NotYet) if stream.is_full() => Err(Unnamed::Never),
        read => read,
    }
}

fn name(stream: &[u8]) -> Result<(HostName, NamedBy), Unnamed> {
    match stream.first() {
        None => Err(Unnamed::NotYet),
        Some(&tls::HANDSHAKE) => tls::name_in_records(stream).map(|name| (name, NamedBy::TlsSni)),
        Some(_) => http::host(stream).map(|name| (name, NamedBy::HttpHost)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nUser-Agent: a\r\nHost: www.example.com\r\n\r\n";
    /// So near to where sequence numbers begin anew that the request goes over it.
    const BEGIN: u32 = u32::MAX - 10;

    /// After the SYN.
    fn begun() -> Inspection {
        let mut inspection = Inspection::new(Protocol::TCP, 80).expect("inspected");
        assert_eq!(inspection.feed_tcp(BEGIN, b""), Progress::More);
        inspection
    }

    fn at(offset: usize) -> u32 {
        BEGIN.wrapping_add(offset as u32)
    }

    fn named() -> Progress {
        let name = HostName::new(b"www.example.com").expect("a name");
        Progress::Named { name, by: NamedBy::HttpHost }
    }

    #[test]
    fn one_segment_is_read_where_it_lies() {
        let mut inspection = begun();
        assert_eq!(inspection.feed_tcp(BEGIN, REQUEST), named());
        let Of::Tcp { stream, .. } = inspection.of else { panic!("TCP") };
        assert!(stream.is_empty(), "nothing was kept");
    }

    #[test]
    fn segments_in_any_order_and_twice_give_the_name() {
        for cut in 1..REQUEST.len() {
            let (first, second) = REQUEST.split_at(cut);
            let mut inspection = begun();
            assert_eq!(inspection.feed_tcp(at(cut), second), Progress::More, "{cut}");
            assert_eq!(inspection.feed_tcp(at(cut), second), Progress::More, "{cut}");
            assert_eq!(inspection.feed_tcp(BEGIN, first), named(), "{cut}");
        }
    }

    #[test]
    fn of_overlapping_segments_the_first_one_counts() {
        let mut inspection = begun();
        let host_at = REQUEST.windows(3).position(|three| three == b"www").expect("there");
        assert_eq!(inspection.feed_tcp(at(host_at), b"www.example"), Progress::More);
        let mut other = REQUEST.to_vec();
        other[host_at..host_at + 3].copy_from_slice(b"ftp");
        assert_eq!(inspection.feed_tcp(BEGIN, &other), named());
    }

    #[test]
    fn what_comes_from_before_the_beginning_is_cut_off() {
        let mut inspection = begun();
        assert_eq!(inspection.feed_tcp(BEGIN.wrapping_sub(1), b"\0"), Progress::More, "a keepalive");
        assert_eq!(inspection.feed_tcp(BEGIN.wrapping_sub(0x8000_0000), b"\0"), Progress::More);
        assert_eq!(inspection.feed_tcp(BEGIN.wrapping_sub(3), &[b"\0\0\0", REQUEST].concat()), named());
    }

    #[test]
    fn without_a_syn_the_first_segment_begins_the_stream() {
        let mut inspection = Inspection::new(Protocol::TCP, 80).expect("inspected");
        assert_eq!(inspection.feed_tcp(77, &REQUEST[..9]), Progress::More);
        assert_eq!(inspection.feed_tcp(77 + 9, &REQUEST[9..]), named());
    }

    #[test]
    fn a_flow_is_looked_into_for_so_many_segments_and_bytes() {
        let mut inspection = begun();
        for n in 0..usize::from(MAX_SEGMENTS) {
            assert_ne!(inspection.feed_tcp(at(n), b"G"), named());
        }
        assert_eq!(inspection.feed_tcp(BEGIN, REQUEST), Progress::Nothing);
        let endless = [b"GET / HTTP/1.1\r\n", &b"a: b\r\n".repeat(10_000)[..]].concat();
        assert_eq!(
            begun().feed_tcp(BEGIN, &endless),
            Progress::Nothing,
            "at once, if it comes as a super-packet"
        );
        let mut inspection = begun();
        let progress: Vec<_> = endless
            .chunks(1_000)
            .enumerate()
            .map(|(n, chunk)| inspection.feed_tcp(at(n * 1_000), chunk))
            .collect();
        assert_eq!(
            progress.iter().position(|progress| *progress == Progress::Nothing),
            Some(assembly::MAX_BYTES / 1_000)
        );
    }

    #[test]
    fn what_is_neither_tls_nor_http_is_known_by_its_first_byte() {
        for first in (0..=u8::MAX).filter(|byte| !byte.is_ascii_uppercase() && !b"\x16\r-_".contains(byte)) {
            assert_eq!(begun().feed_tcp(BEGIN, &[first]), Progress::Nothing, "{first}");
        }
    }

    #[test]
    fn flows_that_cannot_have_a_name_are_not_inspected() {
        assert!(Inspection::new(Protocol::ICMP, 0).is_none());
        assert!(Inspection::new(Protocol::UDP, 53).is_none());
        assert!(Inspection::new(Protocol::TCP, 22).is_none());
        assert!(Inspection::new(Protocol::UDP, 8_443).is_some());
        let mut tcp = begun();
        assert_eq!(tcp.feed_udp(REQUEST), Progress::Nothing);
    }
}
