//! `[[publish]]`, `[[subscriber]]` and `[[subscribe]]`: services that tenants offer each other. Nothing leads from one tenant
//! into another unless both files say so: the publisher's names the subscriber, what it may call and which addresses it is
//! known by; the subscriber's names the service, and what it is called by. At a PoP, which has both files, they are held
//! against each other.

use super::problem::{Ledger, Noted, seen_from, unknown};
use super::reader::{Table, Value, all};
use super::scope::whose;
use super::tenant::{TenantReader, ports, protocol};
use super::values::{self, covers};
use super::*;
use crate::model::PrefixMap;
use std::net::IpAddr;

/// Where a tenant's own hosts are.
#[derive(Clone, Copy)]
pub(super) struct Homes<'a> {
    pub(super) branches: &'a [TenantBranch],
    pub(super) handoffs: &'a [Handoff],
}

impl Homes<'_> {
    /// The prefixes of branches and private handoffs.
    fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        let private = self.handoffs.iter().filter(|handoff| !handoff.is_internet());
        let of_branches = self.branches.iter().flat_map(|branch| &branch.prefixes);
        of_branches.chain(private.flat_map(|handoff| &handoff.prefixes)).copied()
    }

    /// Whether it is a host of the tenant's: the longest prefix around it is not the internet's.
    fn has(&self, address: IpAddr) -> bool {
        let internet = self.handoffs.iter().filter(|handoff| handoff.is_internet());
        let internet = internet.flat_map(|handoff| handoff.prefixes.iter().copied());
        let own = longest(self.prefixes(), address);
        own.is_some() && own > longest(internet, address)
    }
}

fn longest(prefixes: impl Iterator<Item = IpNetwork>, address: IpAddr) -> Option<u8> {
    prefixes.filter(|prefix| prefix.contains(address)).map(|prefix| prefix.prefix()).max()
}

impl TenantReader<'_> {
    pub(super) fn publish(
        &mut self,
        mut table: Table<'_>,
        homes: Option<Homes<'_>>,
    ) -> Result<PublishedService, Noted> {
        let name = table.required("name", |value| self.published.claim(value, ()));
        let host = table.required("host", |value| {
            let host = value.parse(values::address)?;
            if homes.is_some_and(|homes| !homes.has(host)) {
                let message = format!("{host} lies in no branch's and no private handoff's prefixes");
                return Err(value.note(message));
            }
            Ok(host)
        });
        let by_group = table.optional("service", |value| {
            let groups = value.one_or_many(|value| self.services.find(value, value.string()?));
            groups.map(|groups| groups.concat())
        });
        let spoken = match by_group {
            Ok(None) => {
                let protocols = table.required("protocol", |value| value.one_or_many(protocol));
                let ports = ports(&mut table, "dst-port", &protocols);
                protocols.and_then(|protocols| {
                    Ok(vec![Service { protocols, source_ports: Vec::new(), destination_ports: ports? }])
                })
            }
            Ok(Some(spoken)) => {
                let reason = "what is published by a service group has no protocol and no ports of its own";
                table.refuse(&["protocol", "dst-port"], reason);
                Ok(spoken)
            }
            Err(noted) => Err(noted),
        };
        let at = table.at().clone();
        table.finish();
        Ok(PublishedService { name: name?, host: host?, spoken: spoken?, at })
    }

    pub(super) fn subscriber(&mut self, mut table: Table<'_>) -> Result<Subscriber, Noted> {
        let tenant = table.required("tenant", |value| {
            self.is_another(value)?;
            self.subscribers.claim(value, ())
        });
        let services = table
            .required("services", |value| value.list(|value| self.published.find(value, value.string()?)));
        let subscriber = whose("subscriber", &tenant);
        let known_as = table.required("known-as", |value| {
            value.one_or_many(|value| {
                let prefix = self.owned_prefix(value, &subscriber)?;
                let met = |other: &IpNetwork| covers(*other, prefix) || covers(prefix, *other);
                if let Some((other, at)) = self.known_as.iter().find(|(other, _)| met(other)) {
                    let at = seen_from(&value.at(), at);
                    return Err(value.note(format!("{prefix} overlaps {other} ({at})")));
                }
                self.known_as.push((prefix, value.at()));
                Ok(prefix)
            })
        });
        let at = table.at().clone();
        table.finish();
        Ok(Subscriber { tenant: tenant?, services: services?, known_as: known_as?, at })
    }

    pub(super) fn subscription(
        &mut self,
        mut table: Table<'_>,
        homes: Option<Homes<'_>>,
    ) -> Result<Subscription, Noted> {
        let tenant = table.required("tenant", |value| {
            self.is_another(value)?;
            self.publishers.claim(value, ())
        });
        let services = table.required("services", |value| {
            all(value.entries()?.map(|(name, value)| self.subscribed_service(&tenant, name, value)))
        });
        let maps = table.required("map", |value| {
            let mut maps: Vec<(PrefixMap, SourceRef)> = Vec::new();
            for (inside, value) in value.entries()? {
                let map = own_prefix_map(inside, value, homes)?;
                if let Some((other, _)) = maps.iter().find(|(other, _)| overlap(other, &map)) {
                    return Err(value.note(format!(
                        "{} = {} overlaps {} = {}",
                        map.inside(),
                        map.outside(),
                        other.inside(),
                        other.outside()
                    )));
                }
                maps.push((map, value.at()));
            }
            Ok(maps)
        });
        let at = table.at().clone();
        table.finish();
        Ok(Subscription { tenant: tenant?, services: services?, maps: maps?, at })
    }

    fn subscribed_service(
        &mut self,
        publisher: &Result<String, Noted>,
        name: &str,
        value: Value<'_>,
    ) -> Result<SubscribedService, Noted> {
        let name = values::name(name).map_err(|message| value.note(message))?;
        let address = value.parse(values::address)?;
        if let Ok(publisher) = publisher {
            self.called.insert(format!("{publisher}/{name}"), address);
        }
        let owner = whose("subscription to", publisher);
        self.owners.claim(value, address.into(), &address.to_string(), owner)?;
        Ok(SubscribedService { name, address, at: value.at() })
    }

    fn is_another(&self, value: Value<'_>) -> Result<(), Noted> {
        match value.string()? {
            own if own == self.tenant => Err(value.note("this is the tenant itself, which needs no service")),
            _ => Ok(()),
        }
    }

    /// `tenant:NAME`, in a rule.
    pub(super) fn neighbour(&self, value: Value<'_>, tenant: &str) -> Result<String, Noted> {
        if self.subscribers.get(tenant).is_some() || self.publishers.get(tenant).is_some() {
            return Ok(tenant.to_owned());
        }
        Err(value.note(format!("no [[subscriber]] and no [[subscribe]] here is of tenant {tenant:?}")))
    }

    /// `service:TENANT/NAME`, in a rule: what it is called by.
    pub(super) fn called_service(&self, value: Value<'_>, service: &str) -> Result<IpAddr, Noted> {
        let address = self.called.get(service).copied();
        address.ok_or_else(|| value.note(unknown("service", service, self.called.keys().map(String::as_str))))
    }
}

fn own_prefix_map(inside: &str, value: Value<'_>, homes: Option<Homes<'_>>) -> Result<PrefixMap, Noted> {
    let inside = values::owned_prefix(inside).map_err(|message| value.note(message))?;
    let outside = value.parse(values::owned_prefix)?;
    if homes.is_some_and(|homes| !homes.prefixes().any(|own| covers(own, inside))) {
        return Err(value.note(format!("{inside} lies in no branch's and no private handoff's prefixes")));
    }
    PrefixMap::new(inside, outside).map_err(|message| value.note(message))
}

/// Whether a host would have two addresses, or an address two hosts.
fn overlap(one: &PrefixMap, other: &PrefixMap) -> bool {
    let met = |a, b| covers(a, b) || covers(b, a);
    met(one.inside(), other.inside()) || met(one.outside(), other.outside())
}

/// Holds what tenants say of each other against each other.
pub(super) fn settle(tenants: &BTreeMap<String, Tenant>, ledger: &Ledger) {
    let note_unknown = |at: &SourceRef, name: &str| {
        ledger.note(at, unknown("tenant", name, tenants.keys().map(String::as_str)));
    };
    for tenant in tenants.values() {
        for subscriber in tenant.subscribers.iter().filter(|named| !tenants.contains_key(&named.tenant)) {
            note_unknown(&subscriber.at, &subscriber.tenant);
        }
        for subscription in &tenant.subscriptions {
            match tenants.get(&subscription.tenant) {
                Some(publisher) => settle_one(&tenant.name, subscription, publisher, ledger),
                None => note_unknown(&subscription.at, &subscription.tenant),
            }
        }
    }
}

fn settle_one(subscriber: &str, subscription: &Subscription, publisher: &Tenant, ledger: &Ledger) {
    let Some(offer) = publisher.subscribers.iter().find(|offer| offer.tenant == subscriber) else {
        let message =
            format!("tenant {:?} has no [[subscriber]] {subscriber:?}: both must say so", publisher.name);
        ledger.note(&subscription.at, message);
        return;
    };
    for SubscribedService { name, address, at } in &subscription.services {
        if !offer.services.contains(name) {
            let whole = |name: &String| format!("{}/{name}", publisher.name);
            let offered: Vec<String> = offer.services.iter().map(whole).collect();
            ledger.note(at, unknown("service", &whole(name), offered.iter().map(String::as_str)));
            continue;
        }
        let published = publisher.published.iter().find(|published| published.name == *name);
        if let Some(PublishedService { host, .. }) = published
            && host.is_ipv4() != address.is_ipv4()
        {
            ledger.note(at, format!("{address} cannot stand for {host}: another family"));
        }
    }
    for (map, at) in &subscription.maps {
        if !offer.known_as.iter().any(|prefix| covers(*prefix, map.outside())) {
            let prefixes: Vec<String> = offer.known_as.iter().map(ToString::to_string).collect();
            let message = format!(
                "{} is not of what tenant {:?} knows this one as: {} ({})",
                map.outside(),
                publisher.name,
                prefixes.join(", "),
                offer.at
            );
            ledger.note(at, message);
        }
    }
}
