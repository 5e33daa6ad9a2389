//! Copies: a packet that is sent by two paths at once arrives by one of them whatever happens to the other; the far end
//! passes the first on and drops the second.
//!
//! What tells them to be the same is a shim before either, inside the tunnel, of 12 bytes:
//!
//! | bytes | |
//! | --- | --- |
//! | 0 | 0x40: an IPv4 header without a word in it, which nothing else begins with |
//! | 1 | 0 |
//! | 2-3 | length of shim and packet, where IPv4 has its own and WireGuard's receiver looks for it (whitepaper section 5.4.6) |
//! | 4-7 | the stream: chance, anew whenever the sender begins to count anew |
//! | 8-11 | the packet's number in the stream, which counts up by one |
//!
//! A far end that does not know it drops it for a malformed packet; so stock clients are sent none.

use crate::wire;

/// Of the shim.
pub const SHIM_BYTES: usize = 12;
const MARK: u8 = 0x40;
/// Numbers that the receiver remembers: one path may be slower than the other by 200 ms at 80,000 packets a second.
const WINDOW: u32 = 16_384;
const WORD: u32 = u64::BITS;

/// Numbers a sender's packets to one site.
#[derive(Clone, Debug)]
pub struct Numbering {
    stream: u32,
    next: u32,
}

impl Numbering {
    /// Begins a stream; it must be unlike those before it.
    pub fn new(stream: u32) -> Numbering {
        Numbering { stream, next: 0 }
    }

    /// Puts the next number before `packet`, which is at most 65,523 bytes long; `copy` becomes what is to be sent.
    pub fn wrap(&mut self, packet: &[u8], copy: &mut Vec<u8>) {
        copy.clear();
        copy.extend_from_slice(&[MARK, 0]);
        copy.extend_from_slice(&((SHIM_BYTES + packet.len()) as u16).to_be_bytes());
        copy.extend_from_slice(&self.stream.to_be_bytes());
        copy.extend_from_slice(&self.next.to_be_bytes());
        copy.extend_from_slice(packet);
        self.next = self.next.wrapping_add(1);
    }
}

/// Which of several that may have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    pub stream: u32,
    pub number: u32,
}

/// What the shim says of a packet out of a tunnel; `None` if it has none. The packet itself is behind [`SHIM_BYTES`].
pub fn copied(packet: &[u8]) -> Option<Copied> {
    let &[MARK, 0, _, _, s0, s1, s2, s3, n0, n1, n2, n3, ..] = packet else { return None };
    Some(Copied {
        stream: u32::from_be_bytes([s0, s1, s2, s3]),
        number: u32::from_be_bytes([n0, n1, n2, n3]),
    })
}

/// The DSCP of a packet that is ready to be sealed, be it a copy or not.
pub fn dscp_of(packet: &[u8]) -> u8 {
    wire::traffic_class(inner_of(packet)) >> 2
}

/// A packet without the shim that it may have.
pub(super) fn inner_of(packet: &[u8]) -> &[u8] {
    if packet.first() == Some(&MARK) { packet.get(SHIM_BYTES..).unwrap_or(packet) } else { packet }
}

/// Remembers what has come from one site.
#[derive(Clone, Debug, Default)]
pub struct Firsts {
    /// The present stream and the one before it, whose last packets may still be under way.
    streams: [Option<Stream>; 2],
}

#[derive(Clone, Debug)]
struct Stream {
    id: u32,
    newest: u32,
    /// One bit a number, by its remainder.
    seen: Box<[u64]>,
}

impl Firsts {
    /// Whether it is the first of its copies. One that is older than all that is remembered is none.
    pub fn is_first(&mut self, Copied { stream, number }: Copied) -> bool {
        let known =
            self.streams.iter().position(|known| known.as_ref().is_some_and(|known| known.id == stream));
        match known.and_then(|at| self.streams[at].as_mut()) {
            Some(known) => known.is_first(number),
            None => {
                self.streams.swap(0, 1);
                self.streams[0] = Some(Stream::begin(stream, number));
                true
            }
        }
    }
}

impl Stream {
    fn begin(id: u32, number: u32) -> Stream {
        let mut seen = vec![0; (WINDOW / WORD) as usize].into_boxed_slice();
        let (word, bit) = place(number);
        seen[word] |= bit;
        Stream { id, newest: number, seen }
    }

    fn is_first(&mut self, number: u32) -> bool {
        let ahead = number.wrapping_sub(self.newest);
        if ahead != 0 && ahead < u32::MAX / 2 {
            // What lies between has not come yet; where that is more than all, all is forgotten.
            for passed in 1..=ahead.min(WINDOW) {
                let (word, bit) = place(number.wrapping_sub(ahead.min(WINDOW)).wrapping_add(passed));
                self.seen[word] &= !bit;
            }
            self.newest = number;
        } else if self.newest.wrapping_sub(number) >= WINDOW {
            return false;
        }
        let (word, bit) = place(number);
        let is_first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_first
    }
}

fn place(number: u32) -> (usize, u64) {
    let at = number % WINDOW;
    ((at / WORD) as usize, 1 << (at % WORD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_wrapped_is_told_and_found_behind_the_shim() {
        let (mut numbering, mut copy) = (Numbering::new(0xdead_beef), Vec::new());
        for number in 0..3 {
            numbering.wrap(b"packet", &mut copy);
            assert_eq!(copied(&copy), Some(Copied { stream: 0xdead_beef, number }));
            assert_eq!(&copy[SHIM_BYTES..], b"packet");
            assert_eq!(usize::from(u16::from_be_bytes([copy[2], copy[3]])), copy.len());
        }
        assert_eq!(copied(&copy[..SHIM_BYTES - 1]), None, "cut short");
        assert_eq!(copied(&[0x45; 40]), None, "an IPv4 packet");
        assert_eq!(copied(&[0x60; 60]), None, "an IPv6 packet");
    }

    #[test]
    fn a_path_may_be_slower_than_the_other_by_200_ms_at_80_000_packets_a_second() {
        let mut firsts = Firsts::default();
        let skew = 80_000 / 5;
        for now in 0..100_000_u32 {
            assert!(firsts.is_first(Copied { stream: 1, number: now }));
            if let Some(late) = now.checked_sub(skew) {
                assert!(!firsts.is_first(Copied { stream: 1, number: late }));
            }
        }
    }

    /// Every state a number can be in, and what each that can come makes of it: whether it is passed on, and then again.
    #[test]
    fn the_transition_table() {
        const NEWEST: u32 = 50_000;
        let begin = || {
            let mut firsts = Firsts::default();
            for (stream, number) in [(1, NEWEST), (2, NEWEST), (2, NEWEST - 10)] {
                assert!(firsts.is_first(Copied { stream, number }));
            }
            firsts
        };
        for (which, stream, number, is_first) in [
            ("the newest", 2, NEWEST, false),
            ("the next", 2, NEWEST + 1, true),
            ("one far ahead", 2, NEWEST + 10 * WINDOW, true),
            ("one that has come late", 2, NEWEST - 10, false),
            ("one that has not come yet", 2, NEWEST - 9, true),
            ("the oldest that is remembered", 2, NEWEST - WINDOW + 1, true),
            ("one that is too old to be known", 2, NEWEST - WINDOW, false),
            ("the newest of the stream before", 1, NEWEST, false),
            ("the next of the stream before", 1, NEWEST + 1, true),
            ("the first of a new stream", 3, 0, true),
        ] {
            let mut firsts = begin();
            assert_eq!(firsts.is_first(Copied { stream, number }), is_first, "{which}");
            assert!(!firsts.is_first(Copied { stream, number }), "{which}, again");
        }
        // A stream is forgotten with the second that begins after it.
        let mut firsts = begin();
        assert!(firsts.is_first(Copied { stream: 3, number: 0 }));
        assert!(!firsts.is_first(Copied { stream: 2, number: NEWEST }), "the one before");
        assert!(firsts.is_first(Copied { stream: 1, number: NEWEST }), "nobody knows it any more");
    }

    #[test]
    fn a_sender_that_begins_anew_is_heard_and_its_old_streams_last_packets_are_too() {
        let mut firsts = Firsts::default();
        assert!(firsts.is_first(Copied { stream: 1, number: 700 }));
        assert!(firsts.is_first(Copied { stream: 2, number: 0 }));
        assert!(firsts.is_first(Copied { stream: 1, number: 701 }), "it was on its way");
        assert!(!firsts.is_first(Copied { stream: 1, number: 701 }));
        assert!(!firsts.is_first(Copied { stream: 2, number: 0 }));
    }

    proptest! {
        /// Against a set that remembers everything, across the point where numbers begin anew.
        #[test]
        fn each_number_is_first_once_and_none_that_is_too_old(
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 9_000)],
            steps in proptest::collection::vec(prop_oneof![0_u32..40, 0_u32..20_000], 1..400),
            backs in proptest::collection::vec(0_u32..18_000, 400),
        ) {
            let (mut firsts, mut all) = (Firsts::default(), BTreeSet::new());
            let mut newest = 20_000_u64;
            let number = |n: u64| start.wrapping_add(n as u32);
            let begin = Copied { stream: 1, number: number(newest) };
            prop_assert!(firsts.is_first(begin));
            all.insert(newest);
            for (step, back) in steps.into_iter().zip(backs) {
                newest += u64::from(step);
                for n in [newest, newest - u64::from(back).min(newest)] {
                    let remembered = newest - n < u64::from(WINDOW);
                    let expected = remembered && all.insert(n);
                    prop_assert_eq!(firsts.is_first(Copied { stream: 1, number: number(n) }), expected);
                }
            }
        }
    }
}
