//! What belongs to whom: names within their kind, and the things that no two may have.

use super::PublicKey;
use super::SourceRef;
use super::problem::{Ledger, Noted, seen_from, unknown};
use super::reader::{Table, Value};
use super::values::{self, covers};
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The names of one kind of thing, with what else must be known of each.
///
/// A name that is badly spelled or already given is noted, but known all the same: what refers to it is not to blame.
pub(super) struct Scope<T> {
    kind: &'static str,
    names: BTreeMap<String, (SourceRef, T)>,
}

impl<T> Scope<T> {
    /// No names yet; `kind` is what messages call the thing.
    pub(super) fn new(kind: &'static str) -> Scope<T> {
        Scope { kind, names: BTreeMap::new() }
    }

    /// Gives the name that `value` holds to something.
    pub(super) fn claim(&mut self, value: Value<'_>, thing: T) -> Result<String, Noted> {
        let name = value.string()?;
        let at = value.at();
        if let Some((first, _)) = self.names.get(name) {
            let (kind, first) = (self.kind, seen_from(&at, first));
            return Err(value.note(format!("{kind} {name:?} already exists ({first})")));
        }
        self.names.insert(name.to_owned(), (at, thing));
        value.parse(values::name)
    }

    /// The name `word`, which must have been given; `value` is where it was written.
    pub(super) fn find(&self, value: Value<'_>, word: &str) -> Result<String, Noted> {
        match self.names.get_key_value(word) {
            Some((name, _)) => Ok(name.clone()),
            None => Err(value.note(unknown(self.kind, word, self.names()))),
        }
    }

    /// What is known of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.names.get(name).map(|(_, thing)| thing)
    }

    /// All names, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.names.keys().map(String::as_str)
    }
}

/// What messages call a thing of this name.
pub(super) fn whose(kind: &str, name: &Result<String, Noted>) -> String {
    name.as_ref().map_or_else(|_| format!("a {kind}"), |name| format!("{kind} {name:?}"))
}

/// Things that only one may have, or several share, and who has them.
#[derive(Debug)]
pub(super) struct Owners<K>(BTreeMap<K, Owned>);

#[derive(Debug)]
struct Owned {
    /// The first, where several share it.
    owner: String,
    at: SourceRef,
    is_shared: bool,
}

impl<K> Default for Owners<K> {
    fn default() -> Self {
        Owners(BTreeMap::new())
    }
}

impl<K: Ord> Owners<K> {
    /// Gives `thing`, which messages call `what`, to `owner`; notes if it is somebody's already.
    pub(super) fn claim(
        &mut self,
        value: Value<'_>,
        thing: K,
        what: &str,
        owner: String,
    ) -> Result<(), Noted> {
        self.claim_at(value.at(), thing, what, owner).map_err(|message| value.remark(message))
    }

    /// [`Owners::claim`] for what is not written down but goes without saying.
    pub(super) fn claim_by_default(
        &mut self,
        table: &Table<'_>,
        thing: K,
        what: &str,
        owner: String,
    ) -> Result<(), Noted> {
        self.claim_at(table.at().clone(), thing, what, owner).map_err(|message| table.note(message))
    }

    fn claim_at(&mut self, at: SourceRef, thing: K, what: &str, owner: String) -> Result<(), String> {
        if let Some(first) = self.0.get(&thing) {
            return Err(first.already(&at, what, &owner));
        }
        self.0.insert(thing, Owned { owner, at, is_shared: false });
        Ok(())
    }

    /// `owner` uses `thing`, which others that do so too may share, but nobody may claim.
    pub(super) fn share(
        &mut self,
        value: Value<'_>,
        thing: K,
        what: &str,
        owner: String,
    ) -> Result<(), Noted> {
        match self.0.get(&thing) {
            Some(first) if !first.is_shared => Err(value.remark(first.already(&value.at(), what, &owner))),
            Some(_) => Ok(()),
            None => {
                self.0.insert(thing, Owned { owner, at: value.at(), is_shared: true });
                Ok(())
            }
        }
    }
}

impl Owned {
    fn already(&self, seen_at: &SourceRef, what: &str, other: &str) -> String {
        let at = seen_from(seen_at, &self.at);
        format!("{other}: {what} already belongs to {} ({at})", self.owner)
    }
}

/// What all tenants, and the PoP itself, share out between them.
#[derive(Default)]
pub(super) struct Claims {
    pub(super) public_keys: Owners<PublicKey>,
    /// Interfaces of the box; a private handoff takes its interface away into the tenant's namespace.
    pub(super) interfaces: Owners<String>,
    /// VLANs, by interface and number.
    vlans: Owners<(String, u16)>,
    /// Ports of its addresses' that the box itself listens on, and what does.
    pub(super) ports: Vec<(u16, String)>,
    /// By interface: which ports of its address are given out, and who said so first.
    masquerades: BTreeMap<String, (RangeInclusive<u16>, String, SourceRef)>,
    prefixes: Vec<Claim>,
}

/// Addresses that somebody wants on the internet's side.
struct Claim {
    kind: PrefixKind,
    prefix: IpNetwork,
    owner: String,
    at: SourceRef,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrefixKind {
    /// The box's own.
    Own,
    /// A NAT pool.
    Pool,
    /// What a tenant's prefix is known by, host by host.
    Mapped,
    /// A tenant's, routed untranslated.
    Routed,
}

impl Claims {
    /// `owner` wants these addresses on the internet's side; settled by [`Claims::check`].
    pub(super) fn prefix(&mut self, value: Value<'_>, kind: PrefixKind, prefix: IpNetwork, owner: String) {
        self.prefixes.push(Claim { kind, prefix, owner, at: value.at() });
    }

    /// `owner` wants the VLAN of this number of an interface, which stays the box's.
    pub(super) fn vlan(
        &mut self,
        value: Value<'_>,
        interface: &str,
        vlan: u16,
        owner: String,
    ) -> Result<(), Noted> {
        let what = format!("VLAN {vlan} of interface {interface:?}");
        self.vlans.claim(value, (interface.to_owned(), vlan), &what, owner.clone())?;
        self.interfaces.share(value, interface.to_owned(), &format!("interface {interface:?}"), owner)
    }

    /// `owner` wants to give out `ports` of an address of the box's own.
    pub(super) fn not_listened_on(
        &self,
        value: Value<'_>,
        ports: &RangeInclusive<u16>,
        owner: &str,
    ) -> Result<(), Noted> {
        match self.ports.iter().find(|(port, _)| ports.contains(port)) {
            Some((port, what)) => Err(value.remark(format!(
                "{owner}: ports {}-{} cannot be given out: {what} listens at {port}; choose others with nat-ports",
                ports.start(),
                ports.end()
            ))),
            None => Ok(()),
        }
    }

    /// `owner` has `ports` of the interface's address given out; others may, if they say the same of them.
    pub(super) fn masquerade(
        &mut self,
        value: Value<'_>,
        interface: &str,
        ports: &RangeInclusive<u16>,
        owner: &str,
    ) -> Result<(), Noted> {
        self.not_listened_on(value, ports, owner)?;
        let what = format!("interface {interface:?}");
        self.interfaces.share(value, interface.to_owned(), &what, owner.to_owned())?;
        let first = self
            .masquerades
            .entry(interface.to_owned())
            .or_insert_with(|| (ports.clone(), owner.to_owned(), value.at()));
        if first.0 != *ports {
            let first_at = seen_from(&value.at(), &first.2);
            return Err(value.remark(format!(
                "{owner}: {} ({first_at}) gives out ports {}-{} of {interface:?}; all must give out the same",
                first.1,
                first.0.start(),
                first.0.end()
            )));
        }
        Ok(())
    }

    /// Notes what overlaps and must not, each at whichever stands later.
    pub(super) fn check(mut self, ledger: &Ledger) {
        // Two prefixes are either nested or disjoint. In this order a prefix directly follows those around it, which
        // the stack holds: outermost first.
        self.prefixes.sort_by_key(|claim| (claim.prefix.ip(), claim.prefix.prefix()));
        let mut around: Vec<&Claim> = Vec::new();
        for claim in &self.prefixes {
            while around.last().is_some_and(|outer| !covers(outer.prefix, claim.prefix)) {
                around.pop();
            }
            if let Some(outer) = around.iter().rev().find(|outer| outer.excludes(claim)) {
                let (first, later) = if outer.at <= claim.at { (*outer, claim) } else { (claim, *outer) };
                ledger.note(
                    &later.at,
                    format!(
                        "{}: {} overlaps {} of {} ({})",
                        later.owner,
                        later.what(),
                        first.what(),
                        first.owner,
                        seen_from(&later.at, &first.at)
                    ),
                );
            }
            around.push(claim);
        }
    }
}

impl Claim {
    /// Whether the two cannot both stand although one lies within the other.
    fn excludes(&self, other: &Claim) -> bool {
        use PrefixKind::{Own, Routed};
        match (self.kind, other.kind) {
            (Own, Own) => false,
            // One file, one tenant: it may well reach its own addresses through several handoffs.
            (Routed, Routed) => self.at.file != other.at.file,
            _ => true,
        }
    }

    fn what(&self) -> String {
        match (self.kind, self.prefix.ip()) {
            (PrefixKind::Own, IpAddr::V4(own)) => format!("address {own}"),
            (PrefixKind::Own, IpAddr::V6(own)) => format!("address {own}"),
            (PrefixKind::Pool, _) => format!("NAT pool {}", self.prefix),
            (PrefixKind::Mapped, _) => format!("mapped {}", self.prefix),
            (PrefixKind::Routed, _) => format!("routed {}", self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A claim of one of three files on one of the few prefixes in 10.0.0.0/28 and 2001:db8::/124.
    fn claim() -> impl Strategy<Value = (PrefixKind, IpNetwork, u8)> {
        let kind = prop::sample::select(vec![
            PrefixKind::Own,
            PrefixKind::Pool,
            PrefixKind::Mapped,
            PrefixKind::Routed,
        ]);
        let prefix = (any::<bool>(), 0..16u8, 0..5u8).prop_map(|(v4, host, free)| {
            let host = host >> free << free;
            let text = if v4 {
                format!("10.0.0.{host}/{}", 32 - free)
            } else {
                format!("2001:db8::{host:x}/{}", 128 - free)
            };
            text.parse().expect("a prefix")
        });
        (kind, prefix, 0..3u8)
    }

    proptest! {
        #[test]
        fn an_overlap_is_noted_whenever_comparing_all_with_all_finds_one(
            claims in prop::collection::vec(claim(), 0..8),
        ) {
            let prefixes: Vec<Claim> = claims
                .into_iter()
                .zip(1..)
                .map(|((kind, prefix, file), line)| {
                    let at = SourceRef { file: format!("{file}").into(), line };
                    Claim { kind, prefix, owner: String::new(), at }
                })
                .collect();
            let overlapping = |claim: &Claim| prefixes.iter().any(|other| {
                claim.at != other.at
                    && claim.excludes(other)
                    && (covers(claim.prefix, other.prefix) || covers(other.prefix, claim.prefix))
            });
            let overlaps = prefixes.iter().any(overlapping);
            let ledger = Ledger::default();
            Claims { prefixes, ..Claims::default() }.check(&ledger);
            prop_assert_eq!(ledger.settle(Ok(())).is_err(), overlaps);
        }
    }
}
