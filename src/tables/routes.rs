//! Longest-prefix match, for routes and source checks alike.

use ipnetwork::IpNetwork;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A map from prefixes, looked up by address: the longest prefix that covers it wins.
///
/// One hash map per prefix length that occurs. A tenant's table has a handful of lengths, so a look-up is a handful of
/// probes, and only a session's first packet makes one.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    v4: Family<T>,
    v6: Family<T>,
}

#[derive(Clone, Debug)]
struct Family<T> {
    /// Longest first.
    lengths: Vec<u8>,
    /// By prefix length and address bits, aligned to the left of the word.
    entries: HashMap<(u8, u128), T, foldhash::fast::FixedState>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { v4: Family::new(), v6: Family::new() }
    }
}

impl<T: Copy> Routes<T> {
    /// Sets what `prefix` leads to; gives back what it led to.
    pub fn insert(&mut self, prefix: IpNetwork, value: T) -> Option<T> {
        let (family, bits) = match prefix.network() {
            IpAddr::V4(v4) => (&mut self.v4, left_v4(v4.to_bits())),
            IpAddr::V6(v6) => (&mut self.v6, v6.to_bits()),
        };
        family.insert(prefix.prefix(), bits, value)
    }

    /// What the longest prefix that covers `address` leads to.
    pub fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(v4) => self.v4.lookup(left_v4(v4.to_bits())),
            IpAddr::V6(v6) => self.v6.lookup(v6.to_bits()),
        }
    }
}

impl<T: Copy> Routes<T> {
    /// What every prefix that covers `address` leads to, with its length, the longest first.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = (u8, T)> {
        let (family, bits) = match address {
            IpAddr::V4(v4) => (&self.v4, left_v4(v4.to_bits())),
            IpAddr::V6(v6) => (&self.v6, v6.to_bits()),
        };
        let found =
            move |length: &u8| Some((*length, *family.entries.get(&(*length, bits & mask(*length)))?));
        family.lengths.iter().filter_map(found)
    }
}

impl<T> Routes<T> {
    /// Every prefix there is, in no particular order.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        let v4 = self.v4.entries.keys().map(|(length, bits)| ((bits >> 96) as u32, *length));
        let v4 = v4.map(|(bits, length)| IpNetwork::new(Ipv4Addr::from_bits(bits).into(), length));
        let v6 = self.v6.entries.keys().map(|(length, bits)| (Ipv6Addr::from_bits(*bits), *length));
        let v6 = v6.map(|(address, length)| IpNetwork::new(address.into(), length));
        v4.chain(v6).flatten()
    }
}

impl<T: Copy> Family<T> {
    fn insert(&mut self, length: u8, bits: u128, value: T) -> Option<T> {
        if let Err(at) = self.lengths.binary_search_by(|probe| length.cmp(probe)) {
            self.lengths.insert(at, length);
        }
        self.entries.insert((length, bits & mask(length)), value)
    }

    fn lookup(&self, bits: u128) -> Option<T> {
        self.lengths.iter().find_map(|&length| self.entries.get(&(length, bits & mask(length))).copied())
    }
}

impl<T> Family<T> {
    fn new() -> Self {
        // Fixed: prefixes come from the operator, not from an attacker.
        Self { lengths: Vec::new(), entries: HashMap::with_hasher(foldhash::fast::FixedState::default()) }
    }
}

fn left_v4(bits: u32) -> u128 {
    u128::from(bits) << 96
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lookup_equals_a_scan_for_the_longest_prefix(
            prefixes in proptest::collection::vec((any::<u8>(), 0u8..=32), 0..40),
            addresses in proptest::collection::vec(any::<u8>(), 1..40),
        ) {
            // Few distinct bits, so that prefixes nest and addresses hit.
            let address = |seed: u8| IpAddr::from([10, seed & 3, seed >> 4, seed]);
            let mut routes = Routes::default();
            let mut naive = Vec::new();
            for (index, (seed, length)) in prefixes.into_iter().enumerate() {
                let prefix = IpNetwork::new(address(seed), length).expect("a prefix");
                let prefix = IpNetwork::new(prefix.network(), length).expect("a prefix");
                routes.insert(prefix, index);
                naive.retain(|(p, _)| *p != prefix);
                naive.push((prefix, index));
            }
            for seed in addresses {
                let probe = address(seed);
                let expected = naive.iter().filter(|(p, _)| p.contains(probe)).max_by_key(|(p, _)| p.prefix());
                prop_assert_eq!(routes.lookup(probe), expected.map(|(_, index)| *index));
                let mut covering: Vec<_> = naive.iter().filter(|(p, _)| p.contains(probe)).collect();
                covering.sort_by_key(|(p, _)| std::cmp::Reverse(p.prefix()));
                let all: Vec<_> = covering.into_iter().map(|(p, index)| (p.prefix(), *index)).collect();
                prop_assert_eq!(routes.covering(probe).collect::<Vec<_>>(), all);
            }
        }
    }
}
