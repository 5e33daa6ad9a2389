//! Which address pool a session's source is translated to. Which address and port of it, the worker decides
//! (`flow::nat`): that is state, this is policy.

use super::rules::{FirstMatch, Matcher, Subject};
use super::services::Crossing;
use crate::config::{NatFiltering, PortBlocks, SourceRef};
use crate::model::{ClassId, HandoffId, Nat64Prefix, PrefixMap, SiteId};
use ipnetwork::{IpNetwork, Ipv4Network};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Addresses and ports that may be given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub handoff: HandoffId,
    networks: Box<[Ipv4Network]>,
    ports: RangeInclusive<u16>,
    /// Its ports are given out in blocks, each to one branch.
    blocks: Option<PortBlocks>,
    /// The branches whose blocks are computed, by their places.
    branches: Branches,
}

/// Branches in the order of the file, and the place of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    in_order: Arc<[SiteId]>,
    places: Arc<HashMap<SiteId, u32, foldhash::fast::FixedState>>,
}

impl FromIterator<SiteId> for Branches {
    fn from_iter<I: IntoIterator<Item = SiteId>>(branches: I) -> Branches {
        let in_order: Arc<[SiteId]> = branches.into_iter().collect();
        let places = in_order.iter().zip(0..).map(|(branch, place)| (*branch, place)).collect();
        Branches { in_order, places: Arc::new(places) }
    }
}

impl Pool {
    /// A pool of all addresses of `networks` (network and broadcast addresses too: a pool is routed, not on a link).
    pub fn new(handoff: HandoffId, networks: &[IpNetwork], ports: RangeInclusive<u16>) -> Pool {
        let v4 = |network: &IpNetwork| if let IpNetwork::V4(v4) = network { Some(*v4) } else { None };
        let networks = networks.iter().filter_map(v4).collect();
        Pool { handoff, networks, ports, blocks: None, branches: Branches::default() }
    }

    /// The same in blocks; `branches` are all that may have some.
    pub fn in_blocks(self, blocks: Option<PortBlocks>, branches: &Branches) -> Pool {
        Pool { blocks, branches: branches.clone(), ..self }
    }

    /// The ports of its addresses that may be given out.
    pub fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }

    /// How its ports are shared out between branches, if they are.
    pub fn blocks(&self) -> Option<PortBlocks> {
        self.blocks
    }

    /// Its addresses, as prefixes.
    pub fn networks(&self) -> &[Ipv4Network] {
        &self.networks
    }

    /// How many addresses there are.
    pub fn len(&self) -> u64 {
        self.networks.iter().map(|network| u64::from(network.size())).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// The address at `index`, below [`Pool::len`].
    pub fn address(&self, mut index: u64) -> Option<Ipv4Addr> {
        for network in &self.networks {
            let size = u64::from(network.size());
            if index < size {
                return network.nth(index as u32);
            }
            index -= size;
        }
        None
    }

    /// Whether `address` and `port` are among what may be given out to `branch`. Port 0 stands for a whole address, given to a
    /// session of a protocol without ports; no pool has it as a port.
    pub fn permits(&self, branch: Option<SiteId>, address: IpAddr, port: u16) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let is_branchs = || match self.is_deterministic() {
            true => branch
                .and_then(|branch| self.ports_of(branch))
                .is_some_and(|(its, ports)| its == address && ports.contains(&port)),
            false => true,
        };
        self.networks.iter().any(|network| network.contains(address))
            && (port == 0 || self.ports.contains(&port) && is_branchs())
    }

    // Deterministic NAT (RFC 7422): branches in their order have the addresses' whole blocks in theirs, each as many as it may
    // have and all of one address. What an address has over, nobody gets.

    /// Whether it can be computed which ports a branch has.
    pub fn is_deterministic(&self) -> bool {
        self.blocks.is_some_and(|blocks| blocks.deterministic)
    }

    /// The address and ports that are `branch`'s, where that can be computed.
    pub fn ports_of(&self, branch: SiteId) -> Option<(Ipv4Addr, RangeInclusive<u16>)> {
        let blocks = self.blocks.filter(|blocks| blocks.deterministic)?;
        let place = u64::from(*self.branches.places.get(&branch)?);
        let to_an_address = u64::from(blocks.branches(&self.ports));
        let address = self.address(place.checked_div(to_an_address)?)?;
        let nth = (place % to_an_address) as u32;
        let size = u32::from(blocks.size) * u32::from(blocks.per_branch);
        let first = u32::from(blocks.whole(&self.ports).start) * u32::from(blocks.size) + nth * size;
        Some((address, first as u16..=(first + size - 1) as u16))
    }

    /// The branch that has `port` of `address`, where that can be computed: nothing else need have been written down.
    pub fn branch_of(&self, address: Ipv4Addr, port: u16) -> Option<SiteId> {
        let blocks = self.blocks.filter(|blocks| blocks.deterministic)?;
        let to_an_address = blocks.branches(&self.ports);
        let block = (port / blocks.size).checked_sub(blocks.whole(&self.ports).start)?;
        let nth = block / blocks.per_branch;
        let place = self.index(address)? * u64::from(to_an_address) + u64::from(nth);
        let branch = self.branches.in_order.get(usize::try_from(place).ok()?);
        branch.copied().filter(|_| nth < to_an_address)
    }

    /// What [`Pool::address`] gives `address` for.
    fn index(&self, address: Ipv4Addr) -> Option<u64> {
        let mut before = 0;
        for network in &self.networks {
            if network.contains(address) {
                return Some(before + u64::from(address.to_bits() - network.network().to_bits()));
            }
            before += u64::from(network.size());
        }
        None
    }
}

/// A tenant's translation policy towards one internet handoff.
#[derive(Clone, Debug)]
pub struct NatPolicy {
    handoff: HandoffId,
    /// Who may call an address and port that is bound to a host.
    pub filtering: NatFiltering,
    /// Within which IPv6 hosts find IPv4's addresses.
    pub nat64: Option<Nat64Prefix>,
    maps: Box<[PrefixMap]>,
    /// By rule: what it translates to, if it is not one that says not to.
    pools: Box<[Option<Pool>]>,
    /// By rule: where it is written.
    rules_at: Box<[SourceRef]>,
    /// Where the handoff is written.
    pub(super) at: Option<SourceRef>,
    first_match: FirstMatch,
    pool: Pool,
    routed: Box<[IpNetwork]>,
    /// The pool is an address of the box's own.
    shared: bool,
}

/// What becomes of a session's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatVerdict<'a> {
    Translate(&'a Pool),
    /// It becomes this address, and nothing else about it changes.
    Map(IpAddr),
    /// It becomes an address of the tenant's whose service is called.
    Cross(Crossing),
    Untranslated,
    /// The far end of the tunnels translates it.
    Beyond(HandoffId),
    /// It would have to be translated, and there is nothing to translate it to.
    Impossible(HandoffId),
}

impl NatPolicy {
    pub(super) fn new(
        handoff: HandoffId,
        filtering: NatFiltering,
        maps: Box<[PrefixMap]>,
        pool: Pool,
        routed: Box<[IpNetwork]>,
        rules: Vec<(Option<Pool>, SourceRef, Matcher)>,
    ) -> NatPolicy {
        let (mut pools, mut rules_at, mut matchers) = (Vec::new(), Vec::new(), Vec::new());
        for (pool, at, matcher) in rules {
            pools.push(pool);
            rules_at.push(at);
            matchers.push(matcher);
        }
        let first_match = FirstMatch::new(matchers);
        NatPolicy {
            handoff,
            filtering,
            nat64: None,
            maps,
            pools: pools.into(),
            rules_at: rules_at.into(),
            at: None,
            first_match,
            pool,
            routed,
            shared: false,
        }
    }

    /// All that may be given out at the handoff; rules may keep it for some.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The branch that has an address and port of the handoff's pool, where that can be computed.
    pub fn branch_of(&self, address: Ipv4Addr, port: u16) -> Option<SiteId> {
        self.pool.branch_of(address, port)
    }

    /// Where that is written which decides on the translation of this session: the rule that fits, or the handoff.
    pub fn written(&self, subject: &Subject<'_>, class: ClassId) -> Option<&SourceRef> {
        let is_mapped =
            !is_nat64(subject) && self.maps.iter().any(|map| map.to_outside(subject.source).is_some());
        let rule = self.first_match.find(subject, Some(class)).filter(|_| !is_mapped);
        rule.map(|rule| &self.rules_at[rule]).or(self.at.as_ref())
    }

    /// The same, of a pool that is an address of the box's own: what has no ports cannot be told from the box's there, and has
    /// nothing to be translated to.
    pub(super) fn shared(self, shared: bool) -> NatPolicy {
        NatPolicy { shared, ..self }
    }

    /// What becomes of a session that leaves by this handoff. A mapped prefix is always known by its other one. Prefixes the
    /// tenant may show to the internet go untranslated; the rest takes the first rule's pool, or the handoff's. Towards IPv6
    /// there is no pool; towards IPv4 an IPv6 host has nothing else (NAT64).
    pub fn outbound(&self, subject: &Subject<'_>, class: ClassId) -> NatVerdict<'_> {
        let changes_family = is_nat64(subject);
        if let Some(outside) = self.maps.iter().find_map(|map| map.to_outside(subject.source))
            && !changes_family
        {
            return NatVerdict::Map(outside);
        }
        let routed = !changes_family && self.routed.iter().any(|prefix| prefix.contains(subject.source));
        let rule = self.first_match.find(subject, Some(class));
        // A rule not to translate changes nothing: it can show to the internet only what may be shown anyway.
        if let Some(pool) = rule.and_then(|rule| self.pools[rule].as_ref())
            && subject.destination.is_ipv4()
        {
            return NatVerdict::Translate(pool);
        }
        if routed {
            NatVerdict::Untranslated
        } else if subject.destination.is_ipv6()
            || self.pool.is_empty()
            || self.shared && !subject.protocol.has_ports()
        {
            NatVerdict::Impossible(self.handoff)
        } else {
            NatVerdict::Translate(&self.pool)
        }
    }
}

fn is_nat64(subject: &Subject<'_>) -> bool {
    subject.source.is_ipv6() && subject.destination.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Id;
    use proptest::prelude::*;

    fn pool(networks: &[&str], ports: RangeInclusive<u16>, blocks: PortBlocks, branches: usize) -> Pool {
        let networks: Vec<IpNetwork> = networks.iter().map(|text| text.parse().expect("a prefix")).collect();
        // Not in the order of their numbers: places are the file's.
        let branches = (0..branches).rev().map(SiteId::from_index).collect();
        Pool::new(HandoffId(0), &networks, ports).in_blocks(Some(blocks), &branches)
    }

    #[test]
    fn rfc_7422_branches_have_the_blocks_of_one_address_after_the_other_in_the_order_of_the_file() {
        let blocks = PortBlocks { size: 8_192, per_branch: 3, deterministic: true };
        let pool = pool(&["198.51.100.0/32", "203.0.113.8/31"], 1_024..=u16::MAX, blocks, 7);
        let found = |branch| pool.ports_of(SiteId::from_index(branch));
        // From 8,192 on there are seven whole blocks: two branches' and one that is over.
        assert_eq!(found(6), Some(([198, 51, 100, 0].into(), 8_192..=32_767)));
        assert_eq!(found(5), Some(([198, 51, 100, 0].into(), 32_768..=57_343)));
        assert_eq!(found(4), Some(([203, 0, 113, 8].into(), 8_192..=32_767)));
        assert_eq!(found(1), Some(([203, 0, 113, 9].into(), 32_768..=57_343)));
        assert_eq!(found(0), None, "the pool has no more");
        assert_eq!(pool.branch_of([198, 51, 100, 0].into(), 57_344), None);
        assert_eq!(pool.branch_of([198, 51, 100, 0].into(), 8_191), None);
    }

    proptest! {
        #[test]
        fn rfc_7422_a_port_is_the_branchs_whose_ports_hold_it_and_nobody_elses(
            size in 6u32..=15, per_branch in 1u16..6, branches in 0usize..40, first: u16, length: u16, asked: u16,
        ) {
            let blocks = PortBlocks { size: 1 << size, per_branch, deterministic: true };
            let ports = first..=first.saturating_add(length);
            let pool = pool(&["198.51.100.4/30", "203.0.113.9/32"], ports.clone(), blocks, branches);
            let all: Vec<SiteId> = (0..branches).map(SiteId::from_index).collect();
            for index in 0..pool.len() {
                let address = pool.address(index).expect("below its length");
                prop_assert_eq!(pool.index(address), Some(index));
                let edges = all.iter().filter_map(|branch| pool.ports_of(*branch)).filter(|(its, _)| *its == address);
                let edges: Vec<u16> = edges.flat_map(|(_, ports)| [*ports.start(), *ports.end()]).collect();
                for port in edges.into_iter().chain([asked, first]) {
                    let has = |branch: &&SiteId| {
                        pool.ports_of(**branch).is_some_and(|(its, ports)| its == address && ports.contains(&port))
                    };
                    let owners: Vec<SiteId> = all.iter().filter(has).copied().collect();
                    prop_assert!(owners.len() <= 1);
                    prop_assert_eq!(pool.branch_of(address, port), owners.first().copied());
                    prop_assert!(owners.is_empty() || ports.contains(&port));
                    for branch in &all {
                        let permits = pool.permits(Some(*branch), address.into(), port);
                        prop_assert_eq!(permits, port == 0 || owners.contains(branch));
                    }
                }
            }
            let room = pool.len() as usize * usize::from(blocks.branches(&ports));
            let served = all.iter().filter(|branch| pool.ports_of(**branch).is_some()).count();
            prop_assert_eq!(served, branches.min(room), "as many as there is room for");
        }
    }
}
