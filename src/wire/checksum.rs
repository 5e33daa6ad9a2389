//! The Internet checksum: whole (RFC 1071) and changed in place (RFC 1624).

use std::net::IpAddr;

/// The ones' complement sum of `bytes` (RFC 1071), folded to 16 bits, not complemented; an odd last byte is padded
/// with zero.
///
/// In this machine's byte order: the sum's bytes come out swapped as its words were (RFC 1071 section 2, B). Long runs are
/// summed in lanes, as vector instructions do it: of 32 bits, which 65,536 halves of words cannot fill.
pub fn sum(bytes: &[u8]) -> u16 {
    // A header: filling lanes and adding them up would take longer than the sum itself.
    if bytes.len() < 2 * size_of::<Lanes>() {
        return u16::from_be(fold(sum_of_words(bytes)));
    }
    let mut sum = 0;
    for run in bytes.chunks(LANE_RUN) {
        let (blocks, rest) = run.as_chunks::<{ size_of::<Lanes>() }>();
        let (mut low, mut high): (Lanes, Lanes) = Default::default();
        for block in blocks {
            for (lane, word) in block.as_chunks::<4>().0.iter().enumerate() {
                let word = u32::from_ne_bytes(*word);
                low[lane] += word & 0xffff;
                high[lane] += word >> 16;
            }
        }
        sum += low.iter().chain(&high).map(|lane| u64::from(*lane)).sum::<u64>() + sum_of_words(rest);
    }
    u16::from_be(fold(sum))
}

/// Two vector registers of the oldest kind there is.
type Lanes = [u32; 8];
/// Bytes summed before lanes are added up: 32,768 halves of words a lane.
const LANE_RUN: usize = 1 << 20;

fn sum_of_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    sum + u64::from(u32::from_ne_bytes(last))
}

/// The sum of an upper layer's pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, upper_len: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => add(sum(&s.octets()), sum(&d.octets())),
        (IpAddr::V6(s), IpAddr::V6(d)) => add(sum(&s.octets()), sum(&d.octets())),
        // Never of two families: both come out of one header.
        _ => 0,
    };
    fold(u64::from(addresses) + u64::from(protocol) + upper_len as u64)
}

/// The same, of a packet's two addresses as they stand in its header.
pub(super) fn pseudo_header_of(addresses: &[u8], protocol: u8, upper_len: usize) -> u16 {
    fold(u64::from(sum(addresses)) + u64::from(protocol) + upper_len as u64)
}

/// Adds two folded sums.
pub fn add(a: u16, b: u16) -> u16 {
    fold(u64::from(a) + u64::from(b))
}

/// Brings `checksum` up to date after bytes summing to `old` became bytes summing to `new`: HC' = ~(~HC + ~m + m')
/// (RFC 1624 section 3, equation 3).
pub(super) fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 section 4.1 writes it.
    fn naive(bytes: &[u8]) -> u16 {
        let pair = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        fold(bytes.chunks(2).map(pair).sum())
    }

    proptest! {
        #[test]
        fn a_sum_is_the_rfcs(bytes: Vec<u8>) {
            prop_assert_eq!(sum(&bytes), naive(&bytes));
        }

        #[test]
        fn an_update_equals_a_full_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..200),
            at in any::<proptest::sample::Index>(),
            new in any::<[u8; 2]>(),
        ) {
            bytes.truncate(bytes.len() & !1);
            let before = !sum(&bytes);
            let at = at.index(bytes.len() / 2) * 2;
            let old = sum(&bytes[at..at + 2]);
            bytes[at..at + 2].copy_from_slice(&new);
            let updated = update(before, old, sum(&new));
            // +0 and -0 are the same number (RFC 1624 section 3): compare what a receiver computes.
            prop_assert_eq!(add(updated, sum(&bytes)), 0xffff);
        }
    }
}
