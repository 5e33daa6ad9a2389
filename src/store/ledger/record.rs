//! Records: 64 bytes each, with a checksum, the same in logs and segments. So a torn one costs itself alone, and a file of
//! sorted ones is searched without an index beside it.
//!
//! Numbers are little-endian. An IPv4 address is written as the IPv4-mapped one (RFC 4291 section 2.5.5.2), which nobody
//! has as an address of IPv6. A time is 48 bits of milliseconds since the Unix epoch, 8,900 years.

use crate::model::Protocol;
use crate::store::report::{Gap, GapCause};
use std::net::{IpAddr, Ipv6Addr};

pub(super) const RECORD_BYTES: usize = 64;

/// A record, to be written.
pub(super) type Bytes = [u8; RECORD_BYTES];

/// Everything but the checksum.
const BODY: usize = RECORD_BYTES - 4;
/// What a record has room for; names are of 31 bytes at most (`config`).
const MAX_NAME: usize = 48;

/// What is written in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Header(Header),
    Name(Name),
    Holding(Holding),
    Gap(Gap),
    /// That the ledger was kept at this time, though nothing happened; milliseconds since the Unix epoch.
    Kept(u64),
}

/// The first record of every file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// Files follow each other: a log becomes the segment of the same number.
    pub(super) sequence: u64,
    /// The file has what ended from here on, until it was closed; milliseconds since the Unix epoch.
    pub(super) opened: u64,
    /// 0 in a log.
    pub(super) closed: u64,
    /// When the first of a segment's holdings began.
    pub(super) earliest: u64,
    /// How many records of a kind a segment has; they stand in this order.
    pub(super) bindings: u32,
    pub(super) blocks: u32,
    pub(super) names: u32,
    pub(super) gaps: u32,
    /// Ports in the largest of the blocks, less one.
    pub(super) widest: u16,
}

/// A number of this file's that stands for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) number: u32,
    /// A branch's tenant; 0 for a tenant.
    pub(super) of: u32,
    pub(super) text: String,
}

/// That somebody had ports of an outside address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) outside: IpAddr,
    pub(super) ports: (u16, u16),
    /// `None` for all.
    pub(super) protocol: Option<Protocol>,
    pub(super) inside: Option<(IpAddr, u16)>,
    /// The number of the branch's name, or of the tenant's.
    pub(super) who: u32,
    /// Milliseconds since the Unix epoch.
    pub(super) began: u64,
    /// 0 while it lasts.
    pub(super) ended: u64,
    pub(super) began_unsure: bool,
    pub(super) ended_unsure: bool,
}

const HEADER: u8 = 1;
const NAME: u8 = 2;
const HOLDING: u8 = 3;
const GAP: u8 = 4;
const KEPT: u8 = 5;

/// What tells our files from others', and this form of record from later ones.
const MAGIC: &[u8; 8] = b"pgledgr1";

const ALL_PROTOCOLS: u8 = 1;
const HAS_INSIDE: u8 = 2;
const BEGAN_UNSURE: u8 = 4;
const ENDED_UNSURE: u8 = 8;

impl Record {
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = [0; RECORD_BYTES];
        let mut out = Writer { bytes: &mut bytes, at: 0 };
        match self {
            Record::Header(header) => {
                out.put(&[HEADER, 0, 0, 0]);
                out.put(MAGIC);
                out.put(&header.sequence.to_le_bytes());
                out.time(header.opened);
                out.time(header.closed);
                out.time(header.earliest);
                for count in [header.bindings, header.blocks, header.names, header.gaps] {
                    out.put(&count.to_le_bytes());
                }
                out.put(&header.widest.to_le_bytes());
            }
            Record::Name(Name { number, of, text }) => {
                let text = &text.as_bytes()[..text.len().min(MAX_NAME)];
                out.put(&[NAME, text.len() as u8, 0, 0]);
                out.put(&number.to_le_bytes());
                out.put(&of.to_le_bytes());
                out.put(text);
            }
            Record::Holding(holding) => {
                let flag = |is, flag| if is { flag } else { 0 };
                let flags = flag(holding.protocol.is_none(), ALL_PROTOCOLS)
                    | flag(holding.inside.is_some(), HAS_INSIDE)
                    | flag(holding.began_unsure, BEGAN_UNSURE)
                    | flag(holding.ended_unsure, ENDED_UNSURE);
                out.put(&[HOLDING, holding.protocol.map_or(0, |protocol| protocol.0), flags, 0]);
                out.put(&holding.who.to_le_bytes());
                out.address(holding.outside);
                let (address, port) = holding.inside.unwrap_or((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));
                out.address(address);
                for port in [holding.ports.0, holding.ports.1, port] {
                    out.put(&port.to_le_bytes());
                }
                out.time(holding.began);
                out.time(holding.ended);
            }
            Record::Gap(gap) => {
                let cause = CAUSES.iter().position(|cause| *cause == gap.cause).unwrap_or_default();
                out.put(&[GAP, cause as u8, 0, 0]);
                out.time(gap.from_unix_ms);
                out.time(gap.until_unix_ms);
                out.put(&gap.lost.to_le_bytes());
            }
            Record::Kept(unix_ms) => {
                out.put(&[KEPT, 0, 0, 0]);
                out.time(*unix_ms);
            }
        }
        let sum = crc32fast::hash(&bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` for what was never written, or not whole.
    pub(super) fn from_bytes(bytes: &Bytes) -> Option<Record> {
        let (body, sum) = bytes.split_at(BODY);
        if crc32fast::hash(body).to_le_bytes() != sum {
            return None;
        }
        let [kind, second, flags, _] = *body.first_chunk()?;
        let mut read = Reader { bytes: body, at: 4 };
        Some(match kind {
            HEADER => {
                if read.array()? != *MAGIC {
                    return None;
                }
                Record::Header(Header {
                    sequence: u64::from_le_bytes(read.array()?),
                    opened: read.time()?,
                    closed: read.time()?,
                    earliest: read.time()?,
                    bindings: u32::from_le_bytes(read.array()?),
                    blocks: u32::from_le_bytes(read.array()?),
                    names: u32::from_le_bytes(read.array()?),
                    gaps: u32::from_le_bytes(read.array()?),
                    widest: read.port()?,
                })
            }
            NAME => {
                let number = u32::from_le_bytes(read.array()?);
                let of = u32::from_le_bytes(read.array()?);
                let text = read.bytes.get(read.at..read.at + usize::from(second))?;
                Record::Name(Name { number, of, text: String::from_utf8(text.to_vec()).ok()? })
            }
            HOLDING => {
                let who = u32::from_le_bytes(read.array()?);
                let (outside, inside) = (read.address()?, read.address()?);
                let ports = (read.port()?, read.port()?);
                let inside = (inside, read.port()?);
                Record::Holding(Holding {
                    outside,
                    ports,
                    protocol: (flags & ALL_PROTOCOLS == 0).then_some(Protocol(second)),
                    inside: (flags & HAS_INSIDE != 0).then_some(inside),
                    who,
                    began: read.time()?,
                    ended: read.time()?,
                    began_unsure: flags & BEGAN_UNSURE != 0,
                    ended_unsure: flags & ENDED_UNSURE != 0,
                })
            }
            GAP => Record::Gap(Gap {
                cause: *CAUSES.get(usize::from(second))?,
                from_unix_ms: read.time()?,
                until_unix_ms: read.time()?,
                lost: u64::from_le_bytes(read.array()?),
            }),
            KEPT => Record::Kept(read.time()?),
            _ => return None,
        })
    }
}

/// By the number that is written for them.
const CAUSES: [GapCause; 4] = [GapCause::Stopped, GapCause::Overrun, GapCause::NotWritten, GapCause::Damaged];

impl Holding {
    /// What holdings are sorted by in a segment.
    pub(super) fn order(&self) -> (bool, u128, u16, u64) {
        (self.is_block(), number_of(self.outside), self.ports.0, self.began)
    }

    /// Whether it is of several ports.
    pub(super) fn is_block(&self) -> bool {
        self.ports.0 != self.ports.1
    }
}

/// An address as one of IPv6, in order.
pub(super) fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

struct Writer<'a> {
    bytes: &'a mut Bytes,
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn time(&mut self, unix_ms: u64) {
        self.put(&unix_ms.to_le_bytes()[..6]);
    }

    fn address(&mut self, address: IpAddr) {
        self.put(&number_of(address).to_be_bytes());
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(*bytes)
    }

    fn port(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn time(&mut self) -> Option<u64> {
        let [a, b, c, d, e, f] = self.array()?;
        Some(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    fn address(&mut self) -> Option<IpAddr> {
        let address = Ipv6Addr::from(self.array::<16>()?);
        Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>()
                .prop_map(Ipv6Addr::from)
                .prop_filter("nobody has a mapped one", |address| address.to_ipv4_mapped().is_none())
                .prop_map(IpAddr::V6),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let time = 0u64..1 << 48;
        let header = (any::<[u64; 4]>(), any::<[u32; 4]>(), any::<u16>()).prop_map(
            |([sequence, opened, closed, earliest], [bindings, blocks, names, gaps], widest)| {
                let time = |unix_ms: u64| unix_ms >> 16;
                let (opened, closed, earliest) = (time(opened), time(closed), time(earliest));
                Record::Header(Header {
                    sequence,
                    opened,
                    closed,
                    earliest,
                    bindings,
                    blocks,
                    names,
                    gaps,
                    widest,
                })
            },
        );
        let name = (any::<u32>(), any::<u32>(), "[a-zé]{0,24}")
            .prop_map(|(number, of, text)| Record::Name(Name { number, of, text }));
        let inside = proptest::option::of((address(), any::<u16>()));
        let holding = (
            (address(), any::<(u16, u16)>(), proptest::option::of(any::<u8>()), inside),
            (any::<u32>(), time.clone(), time.clone(), any::<bool>(), any::<bool>()),
        )
            .prop_map(
                |((outside, ports, protocol, inside), (who, began, ended, began_unsure, ended_unsure))| {
                    let protocol = protocol.map(Protocol);
                    Record::Holding(Holding {
                        outside,
                        ports,
                        protocol,
                        inside,
                        who,
                        began,
                        ended,
                        began_unsure,
                        ended_unsure,
                    })
                },
            );
        let gap = (time.clone(), time.clone(), 0usize..4, any::<u64>()).prop_map(
            |(from_unix_ms, until_unix_ms, cause, lost)| {
                Record::Gap(Gap { from_unix_ms, until_unix_ms, cause: CAUSES[cause], lost })
            },
        );
        prop_oneof![header, name, holding, gap, time.prop_map(Record::Kept)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_one_wrong_bit_is_noticed(record in record(), bit in 0usize..512) {
            let mut bytes = record.to_bytes();
            prop_assert_eq!(Record::from_bytes(&bytes), Some(record));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::from_bytes(&bytes), None);
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in any::<[u8; RECORD_BYTES]>(), mend in any::<bool>()) {
            let mut bytes = bytes;
            if mend {
                bytes[0] %= 6;
                let sum = crc32fast::hash(&bytes[..BODY]);
                bytes[BODY..].copy_from_slice(&sum.to_le_bytes());
            }
            let _ = Record::from_bytes(&bytes);
        }
    }
}
