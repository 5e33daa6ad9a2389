//! NAT bindings, and which ports of which pool addresses they use.
//!
//! A binding is an inside address and port and what the outside knows them by, wherever packets go (endpoint-independent
//! mapping, RFC 4787 REQ-1). It has no table of its own: it lives in the sessions that share it ([`super::table`]).
//!
//! Which ports of an address this table may give out, others decide and tell it: in units of 64, that all of a worker's
//! branches take from or that are a branch's block.
//!
//! A bitmap per pool address and protocol: taking a port, finding a free one and knowing that none is left cost no more
//! in a full pool than in an empty one. A port belongs to one binding; `table` gives it back with the last
//! session that shares it.

use crate::model::{Protocol, SiteId, TenantId, Zone};
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};

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

/// Ports that are leased together. An address has [`u16::MAX`] / `UNIT` + 1 of them.
pub const UNIT: u16 = 64;

/// Which port is wanted, and what will do.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub port: u16,
    /// Where to look from if that one is taken.
    pub hint: u16,
    /// Only an even one for an even one, and an odd one for an odd one.
    pub alike: bool,
}

/// Ports in use, by pool address and protocol.
#[derive(Default)]
pub struct Ports {
    maps: HashMap<(IpAddr, Protocol), PortMap, foldhash::fast::FixedState>,
    units: HashMap<IpAddr, Units, foldhash::fast::FixedState>,
}

/// What is known of an address's units: one bit each.
#[derive(Default)]
struct Units {
    /// Anybody may have ports of these.
    shared: UnitSet,
    /// These are in blocks.
    in_blocks: UnitSet,
    /// A port of these was taken since somebody last looked.
    touched: UnitSet,
}

type UnitSet = [u64; 65_536 / UNIT as usize / 64];

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
        self.take_from(address, protocol, range, Wish { port: wanted, hint, alike: false }, None)
    }

    /// The same, of what will do; `None` also where only others are free.
    pub fn take_like(
        &mut self,
        address: IpAddr,
        protocol: Protocol,
        range: &RangeInclusive<u16>,
        wish: Wish,
    ) -> Option<u16> {
        self.take_from(address, protocol, range, wish, None)
    }

    /// The same, of ports that are leased for anybody.
    pub fn take_shared(
        &mut self,
        address: IpAddr,
        protocol: Protocol,
        range: &RangeInclusive<u16>,
        wish: Wish,
    ) -> Option<u16> {
        let shared = self.units.get(&address)?.shared;
        self.take_from(address, protocol, range, wish, Some(&shared))
    }

    fn take_from(
        &mut self,
        address: IpAddr,
        protocol: Protocol,
        range: &RangeInclusive<u16>,
        wish: Wish,
        units: Option<&UnitSet>,
    ) -> Option<u16> {
        let map = self.maps.entry((address, protocol)).or_insert_with(|| PortMap::new(protocol));
        let may_be = |port: u16| units.is_none_or(|units| has(units, port / UNIT));
        let port = if !protocol.has_ports() {
            Some(0).filter(|port| !map.is_used(*port))
        } else if range.contains(&wish.port) && may_be(wish.port) && !map.is_used(wish.port) {
            Some(wish.port)
        } else if range.is_empty() {
            None
        } else {
            let span = u32::from(range.end() - range.start()) + 1;
            let from = *range.start() + (u32::from(wish.hint) % span) as u16;
            let alike = if wish.port.is_multiple_of(2) { EVEN } else { !EVEN };
            let all = if wish.alike { &[alike][..] } else { &[alike, u64::MAX] };
            all.iter().find_map(|ports| {
                map.first_free(from, *range.end(), *ports, may_be)
                    .or_else(|| map.first_free(*range.start(), from, *ports, may_be))
            })
        };
        if let Some(port) = port {
            map.set(port);
            if let Some(units) = self.units.get_mut(&address) {
                put(&mut units.touched, port / UNIT);
            }
        } else if map.count == 0 {
            self.maps.remove(&(address, protocol));
        }
        port
    }

    /// Ports of these units of `address` may be given out from now on: to anybody, or in a block.
    pub fn lease(&mut self, address: IpAddr, units: Range<u16>, in_block: bool) {
        let of = self.units.entry(address).or_default();
        let set = if in_block { &mut of.in_blocks } else { &mut of.shared };
        units.for_each(|unit| put(set, unit));
    }

    /// No longer: they are another's now.
    pub fn end_lease(&mut self, address: IpAddr, units: Range<u16>) {
        let Some(of) = self.units.get_mut(&address) else { return };
        for set in [&mut of.shared, &mut of.in_blocks, &mut of.touched] {
            units.clone().for_each(|unit| clear(set, unit));
        }
        if (of.shared, of.in_blocks) == Default::default() {
            self.units.remove(&address);
        }
    }

    /// Whether anybody may have ports of this unit.
    pub fn shares(&self, address: IpAddr, unit: u16) -> bool {
        self.units.get(&address).is_some_and(|of| has(&of.shared, unit))
    }

    /// Whether `port` lies in a block.
    pub(super) fn is_in_block(&self, address: IpAddr, port: u16) -> bool {
        self.units.get(&address).is_some_and(|of| has(&of.in_blocks, port / UNIT))
    }

    /// Whether a port of these units of `address` is in use, or was since this was last asked.
    pub fn were_used(&mut self, address: IpAddr, units: Range<u16>) -> bool {
        let mut used = false;
        if let Some(of) = self.units.get_mut(&address) {
            for unit in units.clone() {
                used |= has(&of.touched, unit);
                clear(&mut of.touched, unit);
            }
        }
        const WITH_PORTS: [Protocol; 4] = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6];
        let maps = WITH_PORTS.iter().filter_map(|protocol| self.maps.get(&(address, *protocol)));
        used || maps
            .flat_map(|map| &map.used[usize::from(units.start)..usize::from(units.end)])
            .any(|w| *w != 0)
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

    /// How many are in use of each address and protocol that has any.
    pub fn used(&self) -> impl Iterator<Item = (IpAddr, Protocol, u64)> {
        self.maps.iter().map(|((address, protocol), map)| (*address, *protocol, u64::from(map.count)))
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

    /// The first free port in `from..=to`, 64 at a time; of those, the ones in `ports`, and where one `may_be`.
    fn first_free(&self, from: u16, to: u16, ports: u64, may_be: impl Fn(u16) -> bool) -> Option<u16> {
        let (first_word, last_word) = (usize::from(from / 64), usize::from(to / 64));
        for word in (first_word..=last_word).filter(|word| may_be(*word as u16 * UNIT)) {
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

fn has(set: &UnitSet, unit: u16) -> bool {
    set[usize::from(unit / 64)] & 1 << (unit % 64) != 0
}

fn put(set: &mut UnitSet, unit: u16) {
    set[usize::from(unit / 64)] |= 1 << (unit % 64);
}

fn clear(set: &mut UnitSet, unit: u16) {
    set[usize::from(unit / 64)] &= !(1 << (unit % 64));
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
