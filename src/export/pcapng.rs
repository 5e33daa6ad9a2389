//! Packet captures as a file (pcapng, draft-ietf-opsawg-pcapng): one section, a description of each interface, the packets, and at
//! the end what each interface has seen and lost.

/// Raw IPv4 and IPv6, by the version in the header (LINKTYPE_RAW).
const LINK_TYPE: u16 = 101;
/// 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Where packets were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// Which packets it was asked for, for people; empty: all.
    pub filter: String,
    /// Packets it has seen that were asked for, those that were lost among them.
    pub received: u64,
    pub lost: u64,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The place of its interface among those given.
    pub interface: u32,
    pub unix_nanos: u64,
    pub is_outbound: bool,
    /// Of the whole packet, bytes.
    pub length: u32,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// So many were lost since the one before at this interface.
    pub lost: u32,
}

/// The whole of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture<'a> {
    /// Who has made it, and what it is.
    pub application: String,
    pub comment: String,
    /// Bytes of each packet at most.
    pub snap: u32,
    pub began_unix_nanos: u64,
    pub ended_unix_nanos: u64,
    pub interfaces: &'a [Interface],
}

// Types of blocks.
const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

// Options, of every block, and of each kind.
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_FILTER: u16 = 11;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;

/// The file of `capture` with `packets`, the earliest first.
pub fn file<'a>(capture: &Capture<'_>, packets: impl Iterator<Item = Packet<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    block(&mut out, SECTION_HEADER, |out| {
        // Byte order, version 1.0, and a section of unknown length.
        out.extend_from_slice(&0x1A2B_3C4D_u32.to_le_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
        out.extend_from_slice(&[0xff; 8]);
        text(out, COMMENT, &capture.comment);
        text(out, SHB_USERAPPL, &capture.application);
        end_of_options(out);
    });
    for interface in capture.interfaces {
        block(&mut out, INTERFACE_DESCRIPTION, |out| {
            out.extend_from_slice(&LINK_TYPE.to_le_bytes());
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&capture.snap.to_le_bytes());
            text(out, IF_NAME, &interface.name);
            option(out, IF_TSRESOL, &[NANOSECONDS]);
            if !interface.filter.is_empty() {
                // 0: a filter for people to read.
                option(out, IF_FILTER, &[&[0], interface.filter.as_bytes()].concat());
            }
            end_of_options(out);
        });
    }
    for packet in packets {
        block(&mut out, ENHANCED_PACKET, |out| {
            out.extend_from_slice(&packet.interface.to_le_bytes());
            out.extend_from_slice(&time(packet.unix_nanos));
            out.extend_from_slice(&(packet.bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(&packet.length.to_le_bytes());
            padded(out, packet.bytes);
            let direction: u32 = if packet.is_outbound { 2 } else { 1 };
            option(out, EPB_FLAGS, &direction.to_le_bytes());
            if packet.lost > 0 {
                option(out, EPB_DROPCOUNT, &u64::from(packet.lost).to_le_bytes());
            }
            end_of_options(out);
        });
    }
    for (number, interface) in (0_u32..).zip(capture.interfaces) {
        block(&mut out, INTERFACE_STATISTICS, |out| {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&time(capture.ended_unix_nanos));
            option(out, ISB_STARTTIME, &time(capture.began_unix_nanos));
            option(out, ISB_ENDTIME, &time(capture.ended_unix_nanos));
            option(out, ISB_IFRECV, &interface.received.to_le_bytes());
            option(out, ISB_IFDROP, &interface.lost.to_le_bytes());
            end_of_options(out);
        });
    }
    out
}

/// A block: its type, its length, what is in it, and its length again.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = (out.len() - start + 4) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    padded(out, value);
}

/// No longer than an option may be.
fn text(out: &mut Vec<u8>, code: u16, text: &str) {
    option(out, code, &text.as_bytes()[..text.len().min(usize::from(u16::MAX))]);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

/// Up to the next 32 bits.
fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()]);
}

/// The upper 32 bits first.
fn time(unix_nanos: u64) -> [u8; 8] {
    let halves = [(unix_nanos >> 32) as u32, unix_nanos as u32].map(u32::to_le_bytes);
    let [[a, b, c, d], [e, f, g, h]] = halves;
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What blocks there are: type and body.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().expect("four"));
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let (kind, length) = (number(file), number(&file[4..]) as usize);
            assert_eq!(length % 4, 0);
            assert_eq!(number(&file[length - 4..]) as usize, length, "the length stands at both ends");
            blocks.push((kind, file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        blocks
    }

    /// The options that begin at `at`.
    fn options(body: &[u8], mut at: usize) -> Vec<(u16, Vec<u8>)> {
        let number = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
        let mut options = Vec::new();
        loop {
            let (code, length) = (number(at), usize::from(number(at + 2)));
            if code == 0 {
                assert_eq!(at + 4, body.len(), "nothing is behind the end of options");
                return options;
            }
            options.push((code, body[at + 4..at + 4 + length].to_vec()));
            at += 4 + length.next_multiple_of(4);
        }
    }

    #[test]
    fn a_capture_is_a_section_with_its_interfaces_packets_and_what_was_lost() {
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            filter: "port 53".to_owned(),
            received: 5,
            lost: 3,
        };
        let interfaces = [interface("berlin/dsl"), interface("pg-internet")];
        let capture = Capture {
            application: "popgate".to_owned(),
            comment: "acme".to_owned(),
            snap: 96,
            began_unix_nanos: 1 << 32,
            ended_unix_nanos: (3 << 32) + 4,
            interfaces: &interfaces,
        };
        let packet = Packet {
            interface: 1,
            unix_nanos: (2 << 32) + 7,
            is_outbound: true,
            length: 1_400,
            bytes: &[0x45, 1, 2, 3, 4],
            lost: 3,
        };
        let file = file(&capture, [packet, Packet { lost: 0, is_outbound: false, ..packet }].into_iter());
        let blocks = blocks(&file);
        assert_eq!(
            blocks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [
                SECTION_HEADER,
                INTERFACE_DESCRIPTION,
                INTERFACE_DESCRIPTION,
                ENHANCED_PACKET,
                ENHANCED_PACKET,
                INTERFACE_STATISTICS,
                INTERFACE_STATISTICS
            ]
        );
        assert_eq!(options(&blocks[0].1, 16), [(1, b"acme".to_vec()), (4, b"popgate".to_vec())]);
        assert_eq!(blocks[1].1[..8], [101, 0, 0, 0, 96, 0, 0, 0]);
        let described = [(2, b"berlin/dsl".to_vec()), (9, vec![9]), (11, b"\0port 53".to_vec())];
        assert_eq!(options(&blocks[1].1, 8), described);
        let body = &blocks[3].1;
        assert_eq!(body[..12], [1, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(body[12..20], [5, 0, 0, 0, 0x78, 5, 0, 0]);
        assert_eq!(body[20..28], [0x45, 1, 2, 3, 4, 0, 0, 0]);
        assert_eq!(
            options(body, 28),
            [(2, vec![2, 0, 0, 0]), (4, vec![3, 0, 0, 0, 0, 0, 0, 0])],
            "the direction, and what was lost before it"
        );
        assert_eq!(options(&blocks[4].1, 28), [(2, vec![1, 0, 0, 0])]);
        let statistics = options(&blocks[6].1, 12);
        assert_eq!(statistics[0], (2, vec![1, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(statistics[2..], [(4, 5_u64.to_le_bytes().to_vec()), (5, 3_u64.to_le_bytes().to_vec())]);
    }
}
