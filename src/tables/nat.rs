//! Which address pool a session's source is translated to. Which address and port of it, the worker decides
//! (`flow::nat`): that is state, this is policy.

use super::rules::{FirstMatch, Matcher, Subject};
use super::services::Crossing;
use crate::config::{NatFiltering, SourceRef};
use crate::model::{ClassId, HandoffId, Nat64Prefix, PrefixMap, Protocol};
use ipnetwork::{IpNetwork, Ipv4Network};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

/// Addresses and ports that may be given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub handoff: HandoffId,
    networks: Box<[Ipv4Network]>,
    pub ports: PoolPorts,
}

/// The ports a pool has, in disjoint blocks for the workers: so that an answer's port names its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPorts {
    first: u16,
    last: u16,
}

impl PoolPorts {
    /// All of `ports`.
    pub fn new(ports: &RangeInclusive<u16>) -> PoolPorts {
        PoolPorts { first: *ports.start(), last: *ports.end() }
    }

    /// Those that `worker` of `workers` may give out.
    pub fn of(self, worker: u16, workers: u16) -> RangeInclusive<u16> {
        let (first, last) = (u32::from(self.first), u32::from(self.last));
        let share = self.share(workers);
        let begin = first + share * u32::from(worker);
        if begin > last {
            // More workers than ports: this one has none to give.
            return RangeInclusive::new(1, 0);
        }
        let end = if worker + 1 >= workers { last } else { last.min(begin + share - 1) };
        begin as u16..=end as u16
    }

    /// Which of `workers` may give out `port` of `address`. A protocol without ports takes whole addresses, and each of
    /// those is one worker's.
    pub fn owner(self, address: IpAddr, protocol: Protocol, port: u16, workers: u16) -> u16 {
        let workers = workers.max(1);
        if protocol.has_ports() {
            let block = u32::from(port.saturating_sub(self.first)) / self.share(workers);
            return block.min(u32::from(workers) - 1) as u16;
        }
        match address {
            IpAddr::V4(v4) => (v4.to_bits() % u32::from(workers)) as u16,
            IpAddr::V6(v6) => (v6.to_bits() % u128::from(workers)) as u16,
        }
    }

    fn share(self, workers: u16) -> u32 {
        ((u32::from(self.last) - u32::from(self.first) + 1) / u32::from(workers.max(1))).max(1)
    }

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Pool {
    /// A pool of all addresses of `networks` (network and broadcast addresses too: a pool is routed, not on a link).
    pub fn new(handoff: HandoffId, networks: &[IpNetwork], ports: RangeInclusive<u16>) -> Pool {
        let v4 = |network: &IpNetwork| if let IpNetwork::V4(v4) = network { Some(*v4) } else { None };
        Pool { handoff, networks: networks.iter().filter_map(v4).collect(), ports: PoolPorts::new(&ports) }
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

    /// Whether `address` and `port` are among what may be given out. Port 0 stands for a whole address, given to a
    /// session of a protocol without ports; no pool has it as a port.
    pub fn permits(&self, address: IpAddr, port: u16) -> bool {
        let IpAddr::V4(address) = address else { return false };
        (port == 0 || self.ports.contains(port))
            && self.networks.iter().any(|network| network.contains(address))
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

    #[test]
    fn the_workers_port_blocks_are_disjoint_leave_no_port_out_and_are_known_by_any_port() {
        for (first, last) in [(1_024, 65_535), (5_000, 5_003), (7, 7)] {
            let ports = PoolPorts::new(&(first..=last));
            for workers in [1, 2, 3, 4, 7, 64] {
                let mut next = u32::from(first);
                for worker in 0..workers {
                    for port in ports.of(worker, workers) {
                        assert_eq!(u32::from(port), next);
                        assert_eq!(ports.owner(IpAddr::from([0; 4]), Protocol::TCP, port, workers), worker);
                        next += 1;
                    }
                }
                assert_eq!(next, u32::from(last) + 1);
            }
        }
    }
}
