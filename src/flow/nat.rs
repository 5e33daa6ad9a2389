//! NAT bindings, and which ports of which pool addresses they use.
//!
//! A binding is an inside address and port and what the outside knows them by, wherever packets go (endpoint-independent
//! mapping, RFC 4787 REQ-1). It has no table of its own: it lives in the sessions that share it ([`super::table`]).
//!
//! A bitmap per pool address and protocol: taking a port, finding a free one and knowing that none is left cost no more
//! in a full pool than in an empty one. A port belongs to one binding; `table` gives it back with the last
//! session that shares it.

use crate::model::{Protocol, SiteId, TenantId, Zone};
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// What an inside endpoint is known by on the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where the inside address means something.
    pub zone: Zone,
    /// As it is outside: an IPv6 host's ICMPv6 may be ICMP there.
    pub protocol: Protocol,
    /// Ports are identifiers for ICMP queries, and 0 for protocols without any.
    pub inside: (IpAddr, u16),
    pub outside: (IpAddr, u16),
    /// Where the outside one does.
    pub far_zone: Zone,
}

/// That an outside address and ports began, or ceased, to be somebody's: what the ledger is told. It has no time of its own:
/// whoever takes it from the table knows the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEvent {
    pub change: PortChange,
    pub tenant: TenantId,
    /// Of the session that began the holding, or ended it as the last to share it.
    pub branch: Option<SiteId>,
    pub outside: IpAddr,
    /// The first and the last; one and the same for a binding.
    pub ports: (u16, u16),
    /// `None` for all protocols, which a block is for.
    pub protocol: Option<Protocol>,
    /// Who has a binding; `None` for a block, which is the whole branch's. Its family may be another than `outside`'s.
    pub inside: Option<(IpAddr, u16)>,
}

/// What a [`PortEvent`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChange {
    Began,
    Ended,
}

/// Ports in use, by pool address and protocol.
#[derive(Default)]
pub struct Ports {
    maps: HashMap<(IpAddr, Protocol), PortMap, foldhash::fast::FixedState>,
}

/// The even ports of 64.
const EVEN: u64 = 0x5555_5555_5555_5555;

struct PortMap {
    /// One bit a port; a single word where the protocol has no ports.
    used: Box<[u64]>,
    count: u32,
}

impl Ports {
    /// Takes a port of `address` for `protocol`: `wanted` if it is free and in `range`, otherwise the next free one from
    /// `hint` on, an even one for an even one where there is any (RFC 4787 REQ-4: media and its control are neighbours).
    /// `None` when all of `range` are in use.
    ///
    /// Protocols without ports share the whole address: they take the one port 0.
    pub fn take(
        &mut self,
        address: IpAddr,
        protocol: Protocol,
        range: &RangeInclusive<u16>,
        wanted: u16,
        hint: u16,
    ) -> Option<u16> {
        let map = self.maps.entry((address, protocol)).or_insert_with(|| PortMap::new(protocol));
        let port = if !protocol.has_ports() {
            Some(0).filter(|port| !map.is_used(*port))
        } else if range.contains(&wanted) && !map.is_used(wanted) {
            Some(wanted)
        } else if range.is_empty() {
            None
        } else {
            let span = u32::from(range.end() - range.start()) + 1;
            let from = *range.start() + (u32::from(hint) % span) as u16;
            let alike = if wanted.is_multiple_of(2) { EVEN } else { !EVEN };
            [alike, u64::MAX].into_iter().find_map(|ports| {
                map.first_free(from, *range.end(), ports)
                    .or_else(|| map.first_free(*range.start(), from, ports))
            })
        };
        if let Some(port) = port {
            map.set(port);
        } else if map.count == 0 {
            self.maps.remove(&(address, protocol));
        }
        port
    }

    /// Gives a port back.
    pub fn release(&mut self, address: IpAddr, protocol: Protocol, port: u16) {
        if let Some(map) = self.maps.get_mut(&(address, protocol)) {
            map.clear(port);
            if map.count == 0 {
                self.maps.remove(&(address, protocol));
            }
        }
    }

    /// How many are in use, over all addresses.
    pub fn in_use(&self) -> u64 {
        self.maps.values().map(|map| u64::from(map.count)).sum()
    }
}

impl PortMap {
    /// 8 KiB for the few protocols with ports; the 250 without must not each cost a pool address that much, for a host
    /// may send them all.
    fn new(protocol: Protocol) -> PortMap {
        let words = if protocol.has_ports() { 1_024 } else { 1 };
        PortMap { used: vec![0; words].into_boxed_slice(), count: 0 }
    }

    fn is_used(&self, port: u16) -> bool {
        self.used[usize::from(port / 64)] & 1 << (port % 64) != 0
    }

    fn set(&mut self, port: u16) {
        self.used[usize::from(port / 64)] |= 1 << (port % 64);
        self.count += 1;
    }

    fn clear(&mut self, port: u16) {
        if self.is_used(port) {
            self.used[usize::from(port / 64)] &= !(1 << (port % 64));
            self.count -= 1;
        }
    }

    /// The first free port in `from..=to`, 64 at a time; of those, the ones in `ports`.
    fn first_free(&self, from: u16, to: u16, ports: u64) -> Option<u16> {
        let (first_word, last_word) = (usize::from(from / 64), usize::from(to / 64));
        for word in first_word..=last_word {
            let mut free = !self.used[word] & ports;
            if word == first_word {
                free &= u64::MAX << (from % 64);
            }
            if free != 0 {
                let port = word as u32 * 64 + free.trailing_zeros();
                return (port <= u32::from(to)).then_some(port as u16);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_protocol_without_ports_takes_a_whole_address_and_little_memory() {
        let address = IpAddr::from([198, 51, 100, 1]);
        let mut ports = Ports::default();
        let mut take = |protocol| ports.take(address, Protocol(protocol), &(1_024..=65_535), 0, 7);
        for protocol in (0..=255).filter(|p| !Protocol(*p).has_ports()) {
            assert_eq!((take(protocol), take(protocol)), (Some(0), None));
        }
        assert_eq!(ports.in_use(), 252);
        assert_eq!(ports.maps.values().map(|map| map.used.len()).sum::<usize>(), 252);
        ports.release(address, Protocol(47), 0);
        assert_eq!(ports.take(address, Protocol(47), &(1_024..=65_535), 0, 7), Some(0));
    }

    proptest! {
        #[test]
        fn a_bitmap_of_ports_behaves_as_a_set(
            from in 1_000u16..1_200, size in 0u16..150,
            steps in proptest::collection::vec((any::<bool>(), 1_000u16..1_400, any::<u16>()), 1..400),
        ) {
            let range = from..=from + size;
            let address = IpAddr::from([198, 51, 100, 1]);
            let mut ports = Ports::default();
            let mut taken = BTreeSet::new();
            for (take, wanted, hint) in steps {
                if take {
                    let expect_wanted = range.contains(&wanted) && !taken.contains(&wanted);
                    match ports.take(address, Protocol::UDP, &range, wanted, hint) {
                        Some(port) => {
                            prop_assert!(range.contains(&port));
                            prop_assert!(!expect_wanted || port == wanted);
                            let alike = |port: &u16| port % 2 == wanted % 2;
                            let free = range.clone().filter(|port| !taken.contains(port)).any(|port| alike(&port));
                            prop_assert!(!free || alike(&port));
                            prop_assert!(taken.insert(port));
                        }
                        None => prop_assert_eq!(taken.len(), range.len()),
                    }
                } else {
                    taken.remove(&wanted);
                    ports.release(address, Protocol::UDP, wanted);
                }
                prop_assert_eq!(ports.in_use(), taken.len() as u64);
            }
        }
    }
}
