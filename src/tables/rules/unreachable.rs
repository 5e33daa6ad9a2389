//! Rules that never decide, because those before them take everything they could match.
//!
//! What a rule matches is a union of boxes: in every field a set of ranges. A rule is tried by a point of its box: if the
//! look-up finds the rule itself there, it decides on something, and that is most of them. If it finds an earlier one, what
//! that one takes is cut out of the box, and a point of what is left is tried. When nothing is left, the rule never decides.
//!
//! Only what can come about counts: addresses that somebody owns, classes that there are. That a class may itself depend on
//! ports or DSCP is not looked into, so a rule may be unreachable without being found; what is found is unreachable.

use super::{Acl, Matcher, Places, Service, Subject, bound_from};
use crate::config::Bound;
use crate::model::{ClassId, End, Protocol};
use crate::tables::Routes;
use ipnetwork::IpNetwork;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Points that are tried for one rule: more cuts than a person could follow.
const TRIES: usize = 1_000;
/// And for all rules of a tenant: some tenths of a second.
const ALL_TRIES: usize = 200_000;

/// A rule that never decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Its place among the rules.
    pub rule: usize,
    /// Those before it that together, or one of them alone, take everything.
    pub by: Vec<usize>,
}

/// Ranges of a field's values that neither overlap nor touch, in their order.
type Ranges = Vec<(u128, u128)>;

/// Source, destination, protocol, source port, destination port, DSCP, class.
const FIELDS: usize = 7;

/// Whether source and destination are IPv4: the same, but for what NAT64 takes across.
type Families = [bool; 2];

/// Everything that has in each field a value of these.
#[derive(Clone, Debug)]
struct Region {
    families: Families,
    fields: [Ranges; FIELDS],
}

/// What can come about.
struct Universe {
    /// Who owns which addresses, by family: v4, v6.
    owned: [Vec<(u128, u128, End)>; 2],
    families: Vec<Families>,
    classes: Ranges,
}

/// The rules of `acl` that never decide, as far as that is found out in reasonable time. `classes` are all there are,
/// `owners` say whose an address is, `nat64` whether IPv6 hosts reach IPv4's addresses.
pub(in crate::tables) fn unreachable(
    acl: &Acl,
    classes: &[ClassId],
    owners: &Routes<End>,
    nat64: bool,
) -> Vec<Unreachable> {
    let mut families = vec![[true, true], [false, false]];
    families.extend(nat64.then_some([false, true]));
    let universe = Universe {
        owned: [true, false].map(|is_v4| owned(owners, is_v4)),
        families,
        classes: joined(classes.iter().map(|class| (class.0.into(), class.0.into())).collect()),
    };
    let mut tries = ALL_TRIES;
    let found = (1..acl.rules.len()).filter_map(|rule| {
        let by = universe.taken_by(acl, owners, rule, &mut tries)?;
        Some(Unreachable { rule, by })
    });
    found.collect()
}

impl Universe {
    /// Who takes everything that `rule` could match; `None` if it decides on something, could match nothing anyway, or
    /// has not been found out.
    fn taken_by(
        &self,
        acl: &Acl,
        owners: &Routes<End>,
        rule: usize,
        tries: &mut usize,
    ) -> Option<Vec<usize>> {
        let whole = self.regions(&acl.matchers[rule]);
        let mut open = whole.clone();
        let mut by = BTreeSet::new();
        let mut own_tries = TRIES;
        if open.is_empty() {
            return None;
        }
        while let Some(region) = open.pop() {
            if own_tries == 0 || *tries == 0 {
                // One of those that were met may be enough by itself.
                return self.alone(acl, &whole, &by).map(|one| vec![one]);
            }
            own_tries -= 1;
            *tries -= 1;
            let point = region.point();
            let (subject, class) = point.subject(owners)?;
            let first = acl.first_match.find(&subject, Some(class)).filter(|first| *first < rule)?;
            let taking = self.regions(&acl.matchers[first]);
            let taking = taking.iter().find(|taking| taking.holds(&point))?;
            by.insert(first);
            region.cut(taking, &mut open);
        }
        match self.alone(acl, &whole, &by) {
            Some(one) => Some(vec![one]),
            None => Some(by.into_iter().collect()),
        }
    }

    /// The first of `rules` that takes all of `whole` by itself.
    fn alone(&self, acl: &Acl, whole: &[Region], rules: &BTreeSet<usize>) -> Option<usize> {
        rules.iter().copied().find(|rule| {
            let mut left = whole.to_vec();
            for taking in self.regions(&acl.matchers[*rule]) {
                let mut rest = Vec::new();
                left.iter().for_each(|region| region.cut(&taking, &mut rest));
                left = rest;
                if left.len() > TRIES {
                    return false;
                }
            }
            left.is_empty()
        })
    }

    /// What a rule matches of all that can come about.
    fn regions(&self, rule: &Matcher) -> Vec<Region> {
        let mut regions = Vec::new();
        let any = Service::default();
        let services = if rule.services.is_empty() { std::slice::from_ref(&any) } else { &rule.services };
        let dscp = points(rule.dscp.iter().map(|dscp| u128::from(*dscp)), 63);
        let classes = match &*rule.classes {
            [] => self.classes.clone(),
            classes => {
                let named = joined(classes.iter().map(|class| (class.0.into(), class.0.into())).collect());
                common(&named, &self.classes)
            }
        };
        for families in &self.families {
            let [from_v4, to_v4] = *families;
            let source = common(&self.places(&rule.from, from_v4), &self.bound(rule.bound, from_v4));
            let destination = self.places(&rule.to, to_v4);
            for service in services {
                let fields = [
                    source.clone(),
                    destination.clone(),
                    points(service.protocols.iter().map(|protocol| u128::from(protocol.0)), 255),
                    ports(&service.source_ports),
                    ports(&service.destination_ports),
                    dscp.clone(),
                    classes.clone(),
                ];
                if fields.iter().all(|ranges| !ranges.is_empty()) {
                    regions.push(Region { families: *families, fields });
                }
            }
        }
        regions
    }

    /// The addresses of a rule's end that are somebody's.
    fn places(&self, places: &Places, is_v4: bool) -> Ranges {
        let owned = &self.owned[usize::from(!is_v4)];
        let all = joined(owned.iter().map(|(first, last, _)| (*first, *last)).collect());
        if places.prefixes.is_empty() && places.ends.is_empty() {
            return all;
        }
        let of_prefixes = places.prefixes.iter().filter(|prefix| prefix.is_ipv4() == is_v4).map(range);
        let mut ranges = common(&joined(of_prefixes.collect()), &all);
        let of_ends = owned.iter().filter(|(.., end)| places.ends.contains(end));
        ranges.extend(of_ends.map(|(first, last, _)| (*first, *last)));
        joined(ranges)
    }

    /// The addresses that sessions of this direction begin at.
    fn bound(&self, bound: Option<Bound>, is_v4: bool) -> Ranges {
        let begins = |end: &End| bound.is_none_or(|bound| bound == bound_from(*end));
        let owned = self.owned[usize::from(!is_v4)].iter().filter(|(.., end)| begins(end));
        joined(owned.map(|(first, last, _)| (*first, *last)).collect())
    }
}

/// One value of each field.
struct Point {
    families: Families,
    values: [u128; FIELDS],
}

impl Point {
    fn subject(&self, owners: &Routes<End>) -> Option<(Subject<'static>, ClassId)> {
        let [source, destination, protocol, source_port, destination_port, dscp, class] = self.values;
        let address = |is_v4: bool, bits: u128| match is_v4 {
            true => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
            false => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        let [from_v4, to_v4] = self.families;
        let (source, destination) = (address(from_v4, source), address(to_v4, destination));
        let subject = Subject {
            source,
            source_port: source_port as u16,
            source_end: owners.lookup(source)?,
            destination,
            destination_port: destination_port as u16,
            destination_end: owners.lookup(destination)?,
            protocol: Protocol(protocol as u8),
            dscp: dscp as u8,
            apps: &[],
            domains: &[],
        };
        Some((subject, ClassId(class as u16)))
    }
}

impl Region {
    /// Its lowest point.
    fn point(&self) -> Point {
        Point { families: self.families, values: self.fields.each_ref().map(|ranges| ranges[0].0) }
    }

    fn holds(&self, point: &Point) -> bool {
        self.families == point.families
            && self.fields.iter().zip(point.values).all(|(ranges, value)| {
                let after = ranges.partition_point(|(first, _)| *first <= value);
                after > 0 && value <= ranges[after - 1].1
            })
    }

    /// What `taking` leaves of it, in pieces that do not overlap: for each field in turn what lies outside of `taking` in
    /// it and inside in those before.
    fn cut(&self, taking: &Region, left: &mut Vec<Region>) {
        let inside = |field: usize| common(&self.fields[field], &taking.fields[field]);
        if self.families != taking.families || (0..FIELDS).any(|field| inside(field).is_empty()) {
            left.push(self.clone());
            return;
        }
        let mut rest = self.clone();
        for field in 0..FIELDS {
            let outside = without(&rest.fields[field], &taking.fields[field]);
            if !outside.is_empty() {
                let mut piece = rest.clone();
                piece.fields[field] = outside;
                left.push(piece);
            }
            rest.fields[field] = inside(field);
        }
    }
}

/// Who owns which addresses of a family, in ranges within which one prefix is the longest.
fn owned(owners: &Routes<End>, is_v4: bool) -> Vec<(u128, u128, End)> {
    let prefixes: Vec<_> =
        owners.prefixes().filter(|prefix| prefix.is_ipv4() == is_v4).map(|p| range(&p)).collect();
    let highest = if is_v4 { u128::from(u32::MAX) } else { u128::MAX };
    let begins = prefixes.iter().map(|(first, _)| *first);
    let after = prefixes.iter().filter(|(_, last)| *last < highest).map(|(_, last)| last + 1);
    let starts: Vec<u128> = begins.chain(after).collect::<BTreeSet<_>>().into_iter().collect();
    let ranges = starts.iter().enumerate().filter_map(|(at, first)| {
        let last = starts.get(at + 1).map_or(highest, |next| next - 1);
        let address = match is_v4 {
            true => IpAddr::V4(Ipv4Addr::from_bits(*first as u32)),
            false => IpAddr::V6(Ipv6Addr::from_bits(*first)),
        };
        Some((*first, last, owners.lookup(address)?))
    });
    ranges.collect()
}

fn range(prefix: &IpNetwork) -> (u128, u128) {
    match prefix {
        IpNetwork::V4(v4) => (v4.network().to_bits().into(), v4.broadcast().to_bits().into()),
        IpNetwork::V6(v6) => (v6.network().to_bits(), v6.broadcast().to_bits()),
    }
}

/// Single values; all up to `highest` if there are none.
fn points(values: impl Iterator<Item = u128>, highest: u128) -> Ranges {
    let values: Ranges = values.map(|value| (value, value)).collect();
    if values.is_empty() { vec![(0, highest)] } else { joined(values) }
}

fn ports(ranges: &[RangeInclusive<u16>]) -> Ranges {
    let of = |range: &RangeInclusive<u16>| (u128::from(*range.start()), u128::from(*range.end()));
    match ranges {
        [] => vec![(0, u16::MAX.into())],
        ranges => joined(ranges.iter().map(of).collect()),
    }
}

/// In order, and without what overlaps or touches.
fn joined(mut ranges: Ranges) -> Ranges {
    ranges.retain(|(first, last)| first <= last);
    ranges.sort_unstable();
    let mut joined: Ranges = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if before.1 >= first || before.1 + 1 == first => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What is in both.
fn common(a: &Ranges, b: &Ranges) -> Ranges {
    let (mut i, mut j) = (0, 0);
    let mut both = Vec::new();
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let (first, last) = (x.0.max(y.0), x.1.min(y.1));
        if first <= last {
            both.push((first, last));
        }
        if x.1 < y.1 { i += 1 } else { j += 1 }
    }
    both
}

/// What is in `a` and not in `b`.
fn without(a: &Ranges, b: &Ranges) -> Ranges {
    let mut left = Vec::new();
    for (first, last) in a {
        let mut next = Some(*first);
        let from = b.partition_point(|(_, end)| end < first);
        for (begin, end) in b[from..].iter().take_while(|(begin, _)| begin <= last) {
            if let Some(first) = next.filter(|next| next < begin) {
                left.push((first, begin - 1));
            }
            next = end.checked_add(1);
        }
        left.extend(next.filter(|next| next <= last).map(|next| (next, *last)));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AclAction, SourceRef};
    use crate::model::{HandoffId, Id, RuleId, SiteId};
    use crate::tables::rules::AclRule;
    use proptest::prelude::*;

    const CLASSES: [ClassId; 2] = [ClassId(0), ClassId(1)];

    /// Eight addresses of four owners, one within another's.
    fn owners() -> Routes<End> {
        let mut owners = Routes::default();
        for (prefix, end) in [
            ("10.0.0.0/30", End::Site(SiteId(0))),
            ("10.0.0.2/32", End::Site(SiteId(1))),
            ("10.0.0.4/31", End::Lan),
            ("10.0.0.6/31", End::Handoff(HandoffId(0))),
        ] {
            owners.insert(prefix.parse().expect("a prefix"), end);
        }
        owners
    }

    fn some<T: Clone + std::fmt::Debug + 'static>(values: Vec<T>) -> impl Strategy<Value = Box<[T]>> {
        let one = prop::sample::select(values);
        prop_oneof![2 => Just(Box::default()), 2 => prop::collection::vec(one, 1..3).prop_map(Vec::into)]
    }

    fn places() -> impl Strategy<Value = Places> {
        let prefixes =
            ["10.0.0.0/29", "10.0.0.0/30", "10.0.0.2/31", "10.0.0.6/32", "0.0.0.0/0", "10.9.0.0/16"];
        let prefixes = prefixes.map(|text| text.parse::<IpNetwork>().expect("a prefix")).to_vec();
        let ends = vec![End::Site(SiteId(0)), End::Site(SiteId(1)), End::Lan, End::Handoff(HandoffId(0))];
        (some(prefixes), some(ends)).prop_map(|(prefixes, ends)| Places { prefixes, ends })
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let ports = || some(vec![1..=1, 1..=2, 2..=3, 0..=u16::MAX]);
        let service =
            (some(vec![Protocol::TCP, Protocol::UDP]), ports()).prop_map(|(protocols, destination_ports)| {
                Service { protocols, source_ports: Box::default(), destination_ports }
            });
        let services = prop_oneof![Just(Vec::new()), prop::collection::vec(service, 1..3)];
        let bound = prop::sample::select(vec![None, None, Some(Bound::Outbound), Some(Bound::Inbound)]);
        let classes = some(vec![ClassId(0), ClassId(1)]);
        (places(), places(), services, some(vec![0, 46]), classes, bound).prop_map(
            |(from, to, services, dscp, classes, bound)| Matcher {
                from,
                to,
                services: services.into(),
                dscp,
                classes,
                bound,
                apps: [].into(),
                domains: [].into(),
            },
        )
    }

    fn acl(matchers: Vec<Matcher>) -> Acl {
        let rule = |number| AclRule {
            id: RuleId::from_index(number),
            action: AclAction::Accept,
            log: false,
            at: SourceRef { file: "a".into(), line: number + 1 },
        };
        Acl::new(matchers.into_iter().enumerate().map(|(number, matcher)| (rule(number), matcher)).collect())
    }

    /// A flow of every kind that any of the rules above tells from another.
    fn everything(owners: &Routes<End>) -> Vec<(Subject<'static>, ClassId)> {
        let mut all = Vec::new();
        for (source, destination) in (0u8..8).flat_map(|a| (0u8..8).map(move |b| (a, b))) {
            let [source, destination] = [source, destination].map(|host| IpAddr::from([10, 0, 0, host]));
            for (protocol, port) in [1, 6, 17].into_iter().flat_map(|p| [0, 1, 2, 3, 4].map(|port| (p, port)))
            {
                for (dscp, class) in [(0, 0), (0, 1), (46, 0), (46, 1), (7, 0), (7, 1)] {
                    let subject = Subject {
                        source,
                        source_port: 9,
                        source_end: owners.lookup(source).expect("owned"),
                        destination,
                        destination_port: port,
                        destination_end: owners.lookup(destination).expect("owned"),
                        protocol: Protocol(protocol),
                        dscp,
                        apps: &[],
                        domains: &[],
                    };
                    all.push((subject, ClassId(class)));
                }
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn the_rules_found_are_those_that_decide_on_nothing_of_all_there_is(
            matchers in prop::collection::vec(matcher(), 1..7),
        ) {
            let owners = owners();
            let everything = everything(&owners);
            let fits = |rule: usize| {
                let matcher = &matchers[rule];
                everything.iter().filter(move |(subject, class)| matcher.matches(subject, Some(*class)))
            };
            let found = unreachable(&acl(matchers.clone()), &CLASSES, &owners, false);
            for rule in 0..matchers.len() {
                let earlier = |(subject, class): &(Subject<'static>, ClassId), rules: &[usize]| {
                    rules.iter().any(|rule| matchers[*rule].matches(subject, Some(*class)))
                };
                let before: Vec<usize> = (0..rule).collect();
                let is_unreachable = fits(rule).next().is_some() && fits(rule).all(|flow| earlier(flow, &before));
                match found.iter().find(|found| found.rule == rule) {
                    Some(found) => {
                        prop_assert!(is_unreachable, "{} decides: {:?}", rule, matchers);
                        prop_assert!(found.by.iter().all(|by| *by < rule));
                        prop_assert!(fits(rule).all(|flow| earlier(flow, &found.by)), "{:?}", found);
                        let alone = (0..rule).any(|one| fits(rule).all(|flow| earlier(flow, &[one])));
                        prop_assert!(found.by.len() == 1 || !alone || !found.by.iter().any(|one| {
                            fits(rule).all(|flow| earlier(flow, &[*one]))
                        }), "{:?}", found);
                    }
                    None => prop_assert!(!is_unreachable, "{} never decides: {:?}", rule, matchers),
                }
            }
        }
    }

    #[test]
    fn ten_thousand_rules_are_looked_through_in_a_moment() {
        let host = |n: u32| Places {
            prefixes: [IpNetwork::from(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)))].into(),
            ends: [].into(),
        };
        let any = Places { prefixes: [].into(), ends: [].into() };
        let rule = |from: Places| Matcher {
            from,
            to: any.clone(),
            services: [].into(),
            dscp: [].into(),
            classes: [].into(),
            bound: None,
            apps: [].into(),
            domains: [].into(),
        };
        let mut owners = owners();
        owners.insert("10.0.0.0/8".parse().expect("a prefix"), End::Lan);
        let mut matchers: Vec<Matcher> = (0..9_999).map(|n| rule(host(n))).collect();
        matchers.push(rule(host(7)));
        let found = unreachable(&acl(matchers), &CLASSES, &owners, false);
        assert_eq!(found, [Unreachable { rule: 9_999, by: vec![7] }]);
    }

    #[test]
    fn a_rule_that_only_ipv6_hosts_meet_on_their_way_to_ipv4_is_reachable_where_there_is_nat64() {
        let mut owners = owners();
        owners.insert("2001:db8::/64".parse().expect("a prefix"), End::Lan);
        let rule = |from: Option<&str>| {
            let prefixes = from.map(|text| text.parse::<IpNetwork>().expect("a prefix"));
            let from = Places { prefixes: prefixes.into_iter().collect(), ends: Box::default() };
            let to =
                Places { prefixes: ["10.0.0.6/31".parse().expect("a prefix")].into(), ends: Box::default() };
            Matcher {
                from,
                to,
                services: [].into(),
                dscp: [].into(),
                classes: [].into(),
                apps: [].into(),
                domains: [].into(),
                bound: None,
            }
        };
        let matchers = vec![rule(Some("0.0.0.0/0")), rule(None)];
        let found = |nat64| unreachable(&acl(matchers.clone()), &CLASSES, &owners, nat64).len();
        assert_eq!((found(false), found(true)), (1, 0));
    }
}
