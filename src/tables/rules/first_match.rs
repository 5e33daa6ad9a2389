//! First match: which of many rules, in their order, is the first that a flow fits.
//!
//! A rule of several services is taken apart into one *row* for each, with the same number; the rest of this speaks of rows
//! as of rules, for they are tried in the same order.
//!
//! A rule is a conjunction, so the rules that a flow fits are the intersection, over all fields, of the rules that its
//! value in that field fits; and the first match is the lowest of them (bit vectors: Lakshman and Stiliadis, SIGCOMM 1998).
//! When rules are compiled, each field's values are cut into intervals within which the same rules fit. A look-up finds
//! the interval of each of the flow's values and intersects their sets of rules.
//!
//! Sets come in blocks of 512 rules. Equal blocks are kept once: the sets of neighbouring intervals differ in a rule or
//! two, so they share all blocks but one, and memory grows with the rules and not with their square. For 10,000 rules a
//! set is 20 block numbers, and a mask tells which of its blocks hold anything at all (aggregated bit vectors: Baboescu and
//! Varghese, SIGCOMM 2001), so that only blocks are read where every field has something.

use super::{Matcher, Places, Service, Subject};
use crate::model::{ClassId, End, HandoffId, Id, SiteId, TenantId};
use ipnetwork::IpNetwork;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Rules of a block: a cache line of bits.
const BLOCK: usize = 512;
/// As many as a set's mask has bits; longer lists are compiled in parts, tried in their order.
const PART: usize = 64 * BLOCK;
/// Lists this short are scanned: that takes no longer.
const SCANNED: usize = 8;

/// An ordered list of rules, compiled.
#[derive(Clone, Debug)]
pub enum FirstMatch {
    Scan(Box<[Matcher]>),
    Compiled {
        parts: Box<[Part]>,
        /// By row: the rule it is of. Empty where every rule is one row.
        rules: Box<[u32]>,
    },
}

/// Up to [`PART`] rows.
#[derive(Clone, Debug)]
pub struct Part {
    source: Place,
    destination: Place,
    /// Fields that all rules leave open are left out.
    protocol: Option<Intervals<u16>>,
    source_port: Option<Intervals<u16>>,
    destination_port: Option<Intervals<u16>>,
    dscp: Option<Intervals<u16>>,
    /// A flow without a class stands at [`NO_CLASS`].
    class: Option<Intervals<u32>>,
    /// A flow may be of several apps, and its name in several domains; one without stands at [`NONE`].
    app: Option<Intervals<u32>>,
    domain: Option<Intervals<u32>>,
    bound: Option<Intervals<u16>>,
    sets: Sets,
}

/// A flow's end fits by its address or by its owner.
#[derive(Clone, Debug)]
struct Place {
    v4: Option<Intervals<u32>>,
    v6: Option<Intervals<u128>>,
    /// Rules that name owners, and only for those.
    owner: Option<Intervals<u64>>,
}

/// A field's values, cut where other rules begin to fit.
#[derive(Clone, Debug)]
struct Intervals<K> {
    /// Where they begin, the lowest value first.
    starts: Box<[K]>,
    sets: Box<[Set]>,
}

/// A set of rules: which blocks hold any, and where the numbers of its blocks stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set {
    mask: u64,
    at: u32,
}

/// The sets of a part.
#[derive(Clone, Debug)]
struct Sets {
    numbers: Box<[u32]>,
    blocks: Box<[Block]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(align(64))]
struct Block([u64; BLOCK / 64]);

const NO_CLASS: u32 = 0;
/// No app, no domain.
const NONE: u32 = 0;

impl FirstMatch {
    /// Compiles `matchers`, first of all rules first.
    pub fn new(matchers: Vec<Matcher>) -> FirstMatch {
        if matchers.len() <= SCANNED {
            FirstMatch::Scan(matchers.into())
        } else {
            FirstMatch::compile(&matchers)
        }
    }

    fn compile(matchers: &[Matcher]) -> FirstMatch {
        let mut rules = Vec::with_capacity(matchers.len());
        let mut rows = Vec::with_capacity(matchers.len());
        for (number, matcher) in (0..).zip(matchers) {
            rows.extend(Row::of(matcher));
            rules.resize(rows.len(), number);
        }
        if rows.len() == matchers.len() {
            rules.clear();
        }
        FirstMatch::Compiled { parts: rows.chunks(PART).map(Part::compile).collect(), rules: rules.into() }
    }

    /// The number of the first rule that fits; `class` is `None` while the flow is still to be classified.
    pub fn find(&self, subject: &Subject<'_>, class: Option<ClassId>) -> Option<usize> {
        match self {
            FirstMatch::Scan(rules) => rules.iter().position(|rule| rule.matches(subject, class)),
            FirstMatch::Compiled { parts, rules } => {
                let row = parts
                    .iter()
                    .enumerate()
                    .find_map(|(number, part)| Some(number * PART + part.find(subject, class)?))?;
                Some(rules.get(row).map_or(row, |rule| *rule as usize))
            }
        }
    }

    /// Bytes of memory.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        match self {
            FirstMatch::Scan(rules) => size_of_val(&**rules),
            FirstMatch::Compiled { parts, rules } => {
                parts.iter().map(Part::bytes).sum::<usize>() + size_of_val(&**rules)
            }
        }
    }
}

// Looking up.

impl Part {
    fn find(&self, subject: &Subject<'_>, class: Option<ClassId>) -> Option<usize> {
        let mut mask = u64::MAX;
        let mut sets = [None; 6];
        let source = self.source.sets(subject.source, subject.source_end);
        let destination = self.destination.sets(subject.destination, subject.destination_end);
        for pair in [source, destination] {
            mask &= pair[0].map_or(u64::MAX, |set| set.mask) | pair[1].map_or(0, |set| set.mask);
        }
        let fields = [
            (&self.protocol, u16::from(subject.protocol.0)),
            (&self.destination_port, subject.destination_port),
            (&self.source_port, subject.source_port),
            (&self.dscp, u16::from(subject.dscp)),
            (&self.bound, subject.bound() as u16),
        ];
        for (set, (field, value)) in sets.iter_mut().zip(fields) {
            *set = field.as_ref().map(|field| field.get(value));
            mask &= set.map_or(u64::MAX, |set| set.mask);
        }
        sets[5] = self.class.as_ref().map(|field| field.get(number_of_class(class)));
        mask &= sets[5].map_or(u64::MAX, |set| set.mask);
        mask &= self.app.as_ref().map_or(u64::MAX, |field| field.mask_of_any(subject.apps));
        mask &= self.domain.as_ref().map_or(u64::MAX, |field| field.mask_of_any(subject.domains));
        while mask != 0 {
            let at = mask.trailing_zeros();
            mask &= mask - 1;
            if let Some(bit) = self.first_of_block(at, subject, [source, destination], sets) {
                return Some(at as usize * BLOCK + bit);
            }
        }
        None
    }

    /// The lowest rule that block `at` of all sets has in common.
    #[inline]
    fn first_of_block(
        &self,
        at: u32,
        subject: &Subject<'_>,
        places: [[Option<Set>; 2]; 2],
        sets: [Option<Set>; 6],
    ) -> Option<usize> {
        let mut common = Block::FULL;
        for [by_address, by_owner] in places {
            match (by_address, by_owner) {
                (Some(a), Some(b)) => common.retain(self.sets.block(a, at).or(self.sets.block(b, at))),
                (Some(a), None) => common.retain(*self.sets.block(a, at)),
                // Nobody asks for either.
                (None, _) => {}
            }
        }
        for set in sets.into_iter().flatten() {
            common.retain(*self.sets.block(set, at));
        }
        if let Some(field) = &self.app {
            common.retain(self.sets.any_block(field.of_any(subject.apps), at));
        }
        if let Some(field) = &self.domain {
            common.retain(self.sets.any_block(field.of_any(subject.domains), at));
        }
        common.first()
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        let place = |place: &Place| bytes_of(&place.v4) + bytes_of(&place.v6) + bytes_of(&place.owner);
        let words = [&self.protocol, &self.source_port, &self.destination_port, &self.dscp, &self.bound];
        let fields = place(&self.source)
            + place(&self.destination)
            + words.into_iter().map(bytes_of).sum::<usize>()
            + [&self.class, &self.app, &self.domain].into_iter().map(bytes_of).sum::<usize>();
        size_of::<Part>() + fields + size_of_val(&*self.sets.numbers) + size_of_val(&*self.sets.blocks)
    }
}

#[cfg(test)]
fn bytes_of<K>(intervals: &Option<Intervals<K>>) -> usize {
    intervals.as_ref().map_or(0, |i| size_of_val(&*i.starts) + size_of_val(&*i.sets))
}

impl Place {
    /// The rules that fit by address, those for any place among them, and those that fit by owner.
    #[inline]
    fn sets(&self, address: IpAddr, owner: End) -> [Option<Set>; 2] {
        let by_address = match address {
            IpAddr::V4(v4) => self.v4.as_ref().map(|v4s| v4s.get(v4.to_bits())),
            IpAddr::V6(v6) => self.v6.as_ref().map(|v6s| v6s.get(v6.to_bits())),
        };
        [by_address, self.owner.as_ref().map(|owners| owners.get(number_of_end(owner)))]
    }
}

impl<K: Copy + Ord> Intervals<K> {
    #[inline]
    fn get(&self, value: K) -> Set {
        // The first begins with the lowest value there is.
        self.sets[self.starts.partition_point(|start| *start <= value) - 1]
    }
}

impl Intervals<u32> {
    /// The rules that fit each of a flow's values in a field where it has any number, those for any value among them.
    fn of_any<I: Id>(&self, values: &[I]) -> impl Iterator<Item = Set> {
        let none = values.is_empty().then_some(NONE);
        none.into_iter().chain(values.iter().map(|id| number_of(*id))).map(|number| self.get(number))
    }

    fn mask_of_any<I: Id>(&self, values: &[I]) -> u64 {
        self.of_any(values).fold(0, |mask, set| mask | set.mask)
    }
}

impl Sets {
    fn any_block(&self, sets: impl Iterator<Item = Set>, at: u32) -> Block {
        sets.fold(Block::EMPTY, |either, set| either.or(self.block(set, at)))
    }

    #[inline]
    fn block(&self, set: Set, at: u32) -> &Block {
        &self.blocks[self.numbers[(set.at + at) as usize] as usize]
    }
}

impl Block {
    const EMPTY: Block = Block([0; BLOCK / 64]);
    const FULL: Block = Block([u64::MAX; BLOCK / 64]);

    #[inline]
    fn retain(&mut self, other: Block) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word &= other;
        }
    }

    #[inline]
    fn or(&self, other: &Block) -> Block {
        let mut either = *self;
        for (word, other) in either.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        either
    }

    #[inline]
    fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }
}

// Compiling.

/// A rule, for one of its services.
struct Row<'a> {
    rule: &'a Matcher,
    service: Option<&'a Service>,
}

impl<'a> Row<'a> {
    fn of(rule: &'a Matcher) -> impl Iterator<Item = Row<'a>> {
        let any = rule.services.is_empty().then_some(Row { rule, service: None });
        any.into_iter().chain(rule.services.iter().map(move |service| Row { rule, service: Some(service) }))
    }
}

impl Part {
    fn compile(rules: &[Row<'_>]) -> Part {
        let mut builder = Builder::new(rules.len());
        let ports = |ranges: &[RangeInclusive<u16>]| ranges.iter().map(|r| (*r.start(), *r.end())).collect();
        let points = |bytes: &mut dyn Iterator<Item = u8>| bytes.map(|b| (b.into(), b.into())).collect();
        Part {
            source: builder.place(rules, |row| &row.rule.from),
            destination: builder.place(rules, |row| &row.rule.to),
            protocol: builder.field(rules, |row| {
                points(&mut row.service.iter().flat_map(|service| &service.protocols).map(|p| p.0))
            }),
            source_port: builder.field(rules, |row| ports(row.service.map_or(&[], |s| &s.source_ports))),
            destination_port: builder
                .field(rules, |row| ports(row.service.map_or(&[], |s| &s.destination_ports))),
            dscp: builder.field(rules, |row| points(&mut row.rule.dscp.iter().copied())),
            class: builder.field(rules, |row| {
                row.rule.classes.iter().map(|class| number_of_class(Some(*class))).map(|n| (n, n)).collect()
            }),
            bound: builder
                .field(rules, |row| row.rule.bound.map(|b| (b as u16, b as u16)).into_iter().collect()),
            app: builder
                .field(rules, |row| row.rule.apps.iter().map(|id| number_of(*id)).map(|n| (n, n)).collect()),
            domain: builder.field(rules, |row| {
                row.rule.domains.iter().map(|id| number_of(*id)).map(|n| (n, n)).collect()
            }),
            sets: builder.finish(),
        }
    }
}

/// Puts sets together, each block and each set once.
struct Builder {
    blocks_per_set: usize,
    blocks: Vec<Block>,
    block_numbers: HashMap<Block, u32, foldhash::fast::FixedState>,
    numbers: Vec<u32>,
    sets: HashMap<Box<[u32]>, Set, foldhash::fast::FixedState>,
}

/// A value that a field can have.
trait Value: Copy + Ord {
    const LOWEST: Self;
    /// The next higher one.
    fn next(self) -> Option<Self>;
}

macro_rules! value {
    ($($type:ty)*) => {$(
        impl Value for $type {
            const LOWEST: Self = 0;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )*};
}

value!(u16 u32 u64 u128);

impl Builder {
    fn new(rules: usize) -> Builder {
        let mut builder = Builder {
            blocks_per_set: rules.div_ceil(BLOCK),
            blocks: Vec::new(),
            block_numbers: HashMap::default(),
            numbers: Vec::new(),
            sets: HashMap::default(),
        };
        builder.block(Block::EMPTY);
        builder
    }

    fn finish(self) -> Sets {
        Sets { numbers: self.numbers.into(), blocks: self.blocks.into() }
    }

    fn place<'a>(&mut self, rules: &[Row<'a>], places: impl Fn(&Row<'a>) -> &'a Places) -> Place {
        let is_open = |places: &Places| places.prefixes.is_empty() && places.ends.is_empty();
        if rules.iter().all(|rule| is_open(places(rule))) {
            return Place { v4: None, v6: None, owner: None };
        }
        // A rule for prefixes of the other family alone, or for owners alone, fits no address.
        let open = |rule: &Row<'a>| is_open(places(rule));
        let v4 = self.intervals(rules, open, |rule| {
            places(rule)
                .prefixes
                .iter()
                .filter_map(|prefix| match prefix {
                    IpNetwork::V4(v4) => Some((v4.network().to_bits(), v4.broadcast().to_bits())),
                    IpNetwork::V6(_) => None,
                })
                .collect()
        });
        let v6 = self.intervals(rules, open, |rule| {
            places(rule)
                .prefixes
                .iter()
                .filter_map(|prefix| match prefix {
                    IpNetwork::V6(v6) => Some((v6.network().to_bits(), v6.broadcast().to_bits())),
                    IpNetwork::V4(_) => None,
                })
                .collect()
        });
        let any_owner = rules.iter().any(|rule| !places(rule).ends.is_empty());
        let owner = any_owner.then(|| {
            self.intervals(
                rules,
                |_| false,
                |rule| places(rule).ends.iter().map(|end| number_of_end(*end)).map(|n| (n, n)).collect(),
            )
        });
        Place { v4: Some(v4), v6: Some(v6), owner }
    }

    /// A field that a rule leaves open by naming no value of it.
    fn field<'a, K: Value>(
        &mut self,
        rules: &[Row<'a>],
        ranges: impl Fn(&Row<'a>) -> Vec<(K, K)>,
    ) -> Option<Intervals<K>> {
        if rules.iter().all(|rule| ranges(rule).is_empty()) {
            return None;
        }
        Some(self.intervals(rules, |rule| ranges(rule).is_empty(), &ranges))
    }

    /// Goes through the field's values from the lowest to the highest, and notes where the set of rules that fit changes.
    fn intervals<'a, K: Value>(
        &mut self,
        rules: &[Row<'a>],
        open: impl Fn(&Row<'a>) -> bool,
        ranges: impl Fn(&Row<'a>) -> Vec<(K, K)>,
    ) -> Intervals<K> {
        let mut current = vec![Block::EMPTY; self.blocks_per_set];
        // Where a rule begins or ceases to fit.
        let mut changes: Vec<(K, usize)> = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            if open(rule) {
                flip(&mut current, number);
                continue;
            }
            for (first, last) in disjoint(ranges(rule)) {
                changes.push((first, number));
                changes.extend(last.next().map(|after| (after, number)));
            }
        }
        changes.sort_unstable();
        let mut numbers: Vec<u32> = current.iter().map(|block| self.block(*block)).collect();
        let (mut starts, mut sets) = (vec![K::LOWEST], vec![self.set(&numbers)]);
        for changes in changes.chunk_by(|a, b| a.0 == b.0) {
            for (_, number) in changes {
                flip(&mut current, *number);
            }
            for (_, number) in changes {
                numbers[number / BLOCK] = self.block(current[number / BLOCK]);
            }
            let set = self.set(&numbers);
            if changes[0].0 == K::LOWEST {
                sets[0] = set;
            } else if sets.last() != Some(&set) {
                starts.push(changes[0].0);
                sets.push(set);
            }
        }
        Intervals { starts: starts.into(), sets: sets.into() }
    }

    fn block(&mut self, block: Block) -> u32 {
        *self.block_numbers.entry(block).or_insert_with(|| {
            self.blocks.push(block);
            self.blocks.len() as u32 - 1
        })
    }

    fn set(&mut self, numbers: &[u32]) -> Set {
        if let Some(set) = self.sets.get(numbers) {
            return *set;
        }
        let held = numbers.iter().enumerate().filter(|(_, number)| **number != 0);
        let set = Set { mask: held.fold(0, |mask, (at, _)| mask | 1 << at), at: self.numbers.len() as u32 };
        self.numbers.extend_from_slice(numbers);
        self.sets.insert(numbers.into(), set);
        set
    }
}

fn flip(blocks: &mut [Block], rule: usize) {
    blocks[rule / BLOCK].0[rule % BLOCK / 64] ^= 1 << (rule % 64);
}

/// The same values in ranges that neither overlap nor touch, so that no rule begins where it ends.
fn disjoint<K: Value>(mut ranges: Vec<(K, K)>) -> Vec<(K, K)> {
    ranges.retain(|(first, last)| first <= last);
    ranges.sort_unstable();
    let mut merged: Vec<(K, K)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if before.1.next().is_none_or(|after| first <= after) => {
                before.1 = before.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Classes from 1 on.
fn number_of_class(class: Option<ClassId>) -> u32 {
    class.map_or(NO_CLASS, |class| u32::from(class.0) + 1)
}

/// Apps and domains from 1 on.
fn number_of(id: impl Id) -> u32 {
    id.index() as u32 + 1
}

fn number_of_end(end: End) -> u64 {
    match end {
        End::Lan => 0,
        End::Handoff(HandoffId(handoff)) => 1 << 32 | u64::from(handoff),
        End::Site(SiteId(site)) => 2 << 32 | u64::from(site),
        End::Tenant(TenantId(tenant)) => 3 << 32 | u64::from(tenant),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bound;
    use crate::model::{AppId, DomainId, Protocol};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Few distinct values, so that rules overlap and subjects hit.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            3 => (0u32..4, 0u32..256).prop_map(|(net, host)| {
                IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | net << 16 | host))
            }),
            1 => prop_oneof![Just(0), Just(u32::MAX)].prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            2 => (0u128..4, 0u128..256).prop_map(|(net, host)| {
                IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | net << 64 | host))
            }),
            1 => prop_oneof![Just(0), Just(u128::MAX)].prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNetwork> {
        (
            address(),
            prop_oneof![Just(0u8), Just(8), Just(14), Just(15), Just(16), Just(28), Just(31), Just(128)],
        )
            .prop_map(|(address, length)| {
                let length = length.min(if address.is_ipv4() { 32 } else { 128 });
                let network = IpNetwork::new(address, length).expect("a length").network();
                IpNetwork::new(network, length).expect("a prefix")
            })
    }

    fn end() -> impl Strategy<Value = End> {
        prop_oneof![
            Just(End::Lan),
            (0u16..3).prop_map(|n| End::Handoff(HandoffId(n))),
            (0u32..3).prop_map(|n| End::Site(SiteId(n))),
            (0u16..3).prop_map(|n| End::Tenant(TenantId(n))),
        ]
    }

    fn several<S: Strategy>(one: S) -> impl Strategy<Value = Vec<S::Value>>
    where
        S::Value: Clone,
    {
        prop_oneof![2 => Just(Vec::new()), 3 => proptest::collection::vec(one, 1..4)]
    }

    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0), Just(u16::MAX), 20u16..30]
    }

    fn protocol() -> impl Strategy<Value = Protocol> {
        prop_oneof![Just(0), Just(6), Just(17), Just(255)].prop_map(Protocol)
    }

    fn dscp() -> impl Strategy<Value = u8> {
        prop_oneof![Just(0), Just(46), Just(63), Just(255)]
    }

    fn class() -> impl Strategy<Value = ClassId> {
        prop_oneof![Just(0), Just(1), Just(u16::MAX)].prop_map(ClassId)
    }

    fn places() -> impl Strategy<Value = Places> {
        (several(prefix()), several(end()))
            .prop_map(|(prefixes, ends)| Places { prefixes: prefixes.into(), ends: ends.into() })
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let ranges = || {
            let range = (port(), port(), any::<bool>()).prop_map(|(a, b, as_it_is)| {
                // A range the wrong way round holds nothing, and yet is not open.
                if as_it_is { a..=b } else { a.min(b)..=a.max(b) }
            });
            several(range)
        };
        let service = (several(protocol()), ranges(), ranges()).prop_map(
            |(protocols, source_ports, destination_ports)| Service {
                protocols: protocols.into(),
                source_ports: source_ports.into(),
                destination_ports: destination_ports.into(),
            },
        );
        let bound =
            prop_oneof![3 => Just(None), 1 => Just(Some(Bound::Outbound)), 1 => Just(Some(Bound::Inbound))];
        (
            places(),
            places(),
            several(service),
            several(dscp()),
            several(class()),
            bound,
            several(app()),
            several(domain()),
        )
            .prop_map(|(from, to, services, dscp, classes, bound, apps, domains)| Matcher {
                from,
                to,
                services: services.into(),
                dscp: dscp.into(),
                classes: classes.into(),
                bound,
                apps: apps.into(),
                domains: domains.into(),
            })
    }

    fn app() -> impl Strategy<Value = AppId> {
        (0u32..4).prop_map(AppId)
    }

    fn domain() -> impl Strategy<Value = DomainId> {
        (0u32..4).prop_map(DomainId)
    }

    /// A subject without its apps and domains, and those.
    type Flow = (Subject<'static>, Option<ClassId>, Vec<AppId>, Vec<DomainId>);

    fn flow() -> impl Strategy<Value = Flow> {
        (subject(), several(app()), several(domain()))
            .prop_map(|((subject, class), apps, domains)| (subject, class, apps, domains))
    }

    fn subject() -> impl Strategy<Value = (Subject<'static>, Option<ClassId>)> {
        let class = proptest::option::of(class());
        ((address(), port(), end()), (address(), port(), end()), protocol(), dscp(), class).prop_map(
            |(source, destination, protocol, dscp, class)| {
                let subject = Subject {
                    source: source.0,
                    source_port: source.1,
                    source_end: source.2,
                    destination: destination.0,
                    destination_port: destination.1,
                    destination_end: destination.2,
                    protocol,
                    dscp,
                    apps: &[],
                    domains: &[],
                };
                (subject, class)
            },
        )
    }

    /// The twin.
    fn scan(rules: &[Matcher], subject: &Subject<'_>, class: Option<ClassId>) -> Option<usize> {
        rules.iter().position(|rule| rule.matches(subject, class))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn compiled_rules_find_what_a_scan_finds(
            rules in proptest::collection::vec(matcher(), 0..24),
            flows in proptest::collection::vec(flow(), 1..40),
        ) {
            let compiled = FirstMatch::compile(&rules);
            let either = FirstMatch::new(rules.clone());
            for (subject, class, apps, domains) in flows {
                let subject = Subject { apps: &apps, domains: &domains, ..subject };
                let expected = scan(&rules, &subject, class);
                prop_assert_eq!(compiled.find(&subject, class), expected, "{:?}", subject);
                prop_assert_eq!(either.find(&subject, class), expected);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn so_they_do_where_there_are_many_blocks(
            few in proptest::collection::vec(matcher(), 1..40),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 1_400..1_600),
            flows in proptest::collection::vec(flow(), 1..200),
        ) {
            // Most of them for nobody, as most rules are for others than the flow at hand.
            let rules: Vec<Matcher> = order
                .iter()
                .enumerate()
                .map(|(at, index)| {
                    let mut rule = index.get(&few).clone();
                    if at % 97 != 0 {
                        let others: Box<[_]> = [at as u16 + 100..=at as u16 + 200].into();
                        if rule.services.is_empty() {
                            rule.services = [Service::default()].into();
                        }
                        rule.services.iter_mut().for_each(|service| service.source_ports = others.clone());
                    }
                    rule
                })
                .collect();
            let compiled = FirstMatch::compile(&rules);
            for (subject, class, apps, domains) in flows {
                let subject = Subject { apps: &apps, domains: &domains, ..subject };
                prop_assert_eq!(compiled.find(&subject, class), scan(&rules, &subject, class));
                let elsewhere = Subject { source_port: subject.source_port + 700 * u16::from(subject.source_port < 30), ..subject };
                prop_assert_eq!(compiled.find(&elsewhere, class), scan(&rules, &elsewhere, class));
            }
        }
    }

    /// A rule from one host to one port: no two alike in either.
    fn narrow(number: u32) -> Matcher {
        let prefix = |base: u32| {
            let address = IpAddr::V4(Ipv4Addr::from_bits(base + 2 * number));
            Places { prefixes: [IpNetwork::from(address)].into(), ends: [].into() }
        };
        let port = (number % 60_000) as u16 + 1;
        Matcher {
            from: prefix(0x0a00_0000),
            to: prefix(0xc000_0000),
            services: [Service {
                protocols: [Protocol::TCP].into(),
                source_ports: [port..=port].into(),
                destination_ports: [port..=port].into(),
            }]
            .into(),
            dscp: [].into(),
            classes: [].into(),
            apps: [].into(),
            domains: [].into(),
            bound: None,
        }
    }

    fn of_narrow(number: u32) -> Subject<'static> {
        let port = (number % 60_000) as u16 + 1;
        Subject {
            source: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 2 * number)),
            source_port: port,
            source_end: End::Lan,
            destination: IpAddr::V4(Ipv4Addr::from_bits(0xc000_0000 + 2 * number)),
            destination_port: port,
            destination_end: End::Lan,
            protocol: Protocol::TCP,
            dscp: 0,
            apps: &[],
            domains: &[],
        }
    }

    #[test]
    fn memory_grows_with_the_rules_and_not_with_their_square() {
        let rules: Vec<Matcher> = (0..10_000).map(narrow).collect();
        let bytes = FirstMatch::compile(&rules).bytes();
        assert!(bytes < 20 << 20, "{bytes} bytes for 10,000 rules");
    }

    #[test]
    fn memory_grows_with_the_services_and_not_with_their_square() {
        let web_and_dns = |number| {
            let mut rule = narrow(number);
            for (protocol, port) in [(Protocol::TCP, 443), (Protocol::UDP, 53)] {
                let service = Service {
                    protocols: [protocol].into(),
                    source_ports: [].into(),
                    destination_ports: [port..=port].into(),
                };
                rule.services = rule.services.into_iter().chain([service]).collect();
            }
            rule
        };
        let rules: Vec<Matcher> = (0..10_000).map(web_and_dns).collect();
        let compiled = FirstMatch::compile(&rules);
        let bytes = compiled.bytes();
        assert!(bytes < 60 << 20, "{bytes} bytes for 10,000 rules of three services");
        let dns =
            Subject { protocol: Protocol::UDP, source_port: 9, destination_port: 53, ..of_narrow(7_777) };
        assert_eq!(compiled.find(&dns, None), Some(7_777));
    }

    #[test]
    fn lists_longer_than_a_part_are_tried_part_by_part() {
        let count = PART as u32 * 2 + 10;
        let rules: Vec<Matcher> = (0..count).map(narrow).collect();
        let compiled = FirstMatch::new(rules);
        for number in [0, 511, 512, PART as u32 - 1, PART as u32, count - 1] {
            assert_eq!(compiled.find(&of_narrow(number), None), Some(number as usize));
        }
        assert_eq!(compiled.find(&of_narrow(count), None), None);
    }
}
