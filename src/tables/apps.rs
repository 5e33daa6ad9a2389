//! Apps and domains: which of them a flow is of, by its name, by where it goes, by its port.
//!
//! A name is looked up by its suffixes, one probe a label and no more than the longest known domain has; a destination by
//! the lengths of prefixes there are. What is found is ordered, the most specific first: a name says more than a prefix,
//! a prefix more than a port; a longer domain or prefix more than a shorter one, a few ports more than many.

use super::names::Names;
use super::routes::Routes;
use super::rules::Subject;
use crate::config::{self, AppPorts};
use crate::model::{AppId, DomainId, HostName};
use foldhash::fast::FixedState;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Apps, compiled.
#[derive(Clone, Debug, Default)]
pub struct Apps {
    apps: Box<[App]>,
    by_domain: Domains<Vec<u32>>,
    by_prefix: Routes<u32>,
    /// What [`Apps::by_prefix`] leads to.
    of_prefix: Vec<Vec<u32>>,
    /// Those that have ports alone, the fewest first.
    by_port: Vec<(AppPorts, u32)>,
}

#[derive(Clone, Debug)]
struct App {
    id: AppId,
    /// Empty: any.
    ports: Box<[AppPorts]>,
}

/// An app that a flow is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    pub app: AppId,
    pub by: FitBy,
    /// Labels of the domain, length of the prefix, or how few ports.
    specificity: u16,
}

/// What shows that a flow is an app's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FitBy {
    Port,
    Prefix,
    Name,
}

impl Apps {
    pub(super) fn compile<'a>(apps: impl IntoIterator<Item = &'a config::App>, names: &mut Names) -> Apps {
        let mut compiled = Apps::default();
        let mut list = Vec::new();
        let mut prefixes: HashMap<_, u32, FixedState> = HashMap::default();
        for (at, app) in (0..).zip(apps) {
            list.push(App { id: names.app_id(&app.name), ports: app.ports.clone().into() });
            for domain in &app.domains {
                compiled.by_domain.entry(domain).push(at);
            }
            for prefix in &app.prefixes {
                let of_prefix = *prefixes.entry(*prefix).or_insert_with(|| {
                    compiled.of_prefix.push(Vec::new());
                    let place = compiled.of_prefix.len() as u32 - 1;
                    compiled.by_prefix.insert(*prefix, place);
                    place
                });
                compiled.of_prefix[of_prefix as usize].push(at);
            }
            if app.domains.is_empty() && app.prefixes.is_empty() {
                compiled.by_port.extend(app.ports.iter().map(|ports| (ports.clone(), at)));
            }
        }
        compiled.by_port.sort_by_key(|(ports, _)| ports.ports.len());
        compiled.apps = list.into();
        compiled
    }

    /// The apps that a flow is of, behind those in `found`, each in as many ways as show it.
    fn find(&self, subject: &Subject<'_>, name: Option<&str>, found: &mut Vec<Fit>) {
        let mut fit = |at: u32, by, specificity| {
            let app = &self.apps[at as usize];
            if app.ports.is_empty() || app.ports.iter().any(|ports| is_among(subject, ports)) {
                found.push(Fit { app: app.id, by, specificity });
            }
        };
        for (labels, apps) in name.into_iter().flat_map(|name| self.by_domain.of(name)) {
            apps.iter().for_each(|at| fit(*at, FitBy::Name, labels));
        }
        for (length, place) in self.by_prefix.covering(subject.destination) {
            self.of_prefix[place as usize].iter().for_each(|at| fit(*at, FitBy::Prefix, length.into()));
        }
        for (ports, at) in self.by_port.iter().filter(|(ports, _)| is_among(subject, ports)) {
            fit(*at, FitBy::Port, u16::MAX - (ports.ports.len() as u16).saturating_sub(1));
        }
    }
}

fn is_among(subject: &Subject<'_>, ports: &AppPorts) -> bool {
    ports.protocol == subject.protocol && ports.ports.contains(&subject.destination_port)
}

/// A tenant's apps: its own, and those of the catalog that it has none of that name in place of.
#[derive(Clone, Debug)]
pub struct TenantApps {
    pub(super) catalog: std::sync::Arc<Apps>,
    pub(super) own: Apps,
}

impl TenantApps {
    /// Whether a name can show that a flow is of `app`.
    pub(super) fn has_domains(&self, app: AppId) -> bool {
        let entry = |apps: &Apps| {
            let at = apps.apps.iter().position(|known| known.id == app)? as u32;
            Some(apps.by_domain.entries.values().any(|apps| apps.contains(&at)))
        };
        entry(&self.own).or_else(|| entry(&self.catalog)).unwrap_or(false)
    }

    /// The apps that a flow is of, the most specific first, each once.
    pub fn of(&self, subject: &Subject<'_>, name: Option<&str>) -> Vec<Fit> {
        let mut found = Vec::new();
        self.catalog.find(subject, name, &mut found);
        found.retain(|fit| !self.own.apps.iter().any(|own| own.id == fit.app));
        self.own.find(subject, name, &mut found);
        // Of two that are alike, the one whose name was given an id first: the catalog's.
        found.sort_by_key(|fit| (Reverse((fit.by, fit.specificity)), fit.app));
        let mut once: Vec<Fit> = Vec::with_capacity(found.len());
        for fit in found {
            if !once.iter().any(|other| other.app == fit.app) {
                once.push(fit);
            }
        }
        once
    }
}

/// A map from domains: a name finds what stands under itself and under every domain it lies in.
#[derive(Clone, Debug)]
pub struct Domains<T> {
    // Fixed: domains come from the operator. Names come from whoever, and are only looked up.
    entries: HashMap<Box<str>, T, FixedState>,
    /// Of the longest.
    most_labels: usize,
}

impl<T> Default for Domains<T> {
    fn default() -> Self {
        Domains { entries: HashMap::default(), most_labels: 0 }
    }
}

impl<T: Default> Domains<T> {
    /// What stands under `domain`, to be changed.
    pub(super) fn entry(&mut self, domain: &HostName) -> &mut T {
        self.most_labels = self.most_labels.max(labels(domain.as_str()));
        self.entries.entry(domain.as_str().into()).or_default()
    }
}

impl<T> Domains<T> {
    /// What stands under the domains that `name` lies in, with how many labels they have, the longest first.
    pub fn of(&self, name: &str) -> impl Iterator<Item = (u16, &T)> {
        let labels = if self.entries.is_empty() { 0 } else { labels(name) };
        let suffixes = std::iter::successors(Some(name), |suffix| Some(suffix.split_once('.')?.1));
        let known = (1..=labels).rev().zip(suffixes).skip(labels.saturating_sub(self.most_labels));
        known.filter_map(|(labels, suffix)| Some((labels as u16, self.entries.get(suffix)?)))
    }
}

impl Domains<DomainId> {
    /// The number of `domain` among those of a tenant's rules, from 0.
    pub(super) fn id(&mut self, domain: &HostName) -> DomainId {
        let next = DomainId(self.entries.len() as u32);
        self.most_labels = self.most_labels.max(labels(domain.as_str()));
        *self.entries.entry(domain.as_str().into()).or_insert(next)
    }
}

fn labels(name: &str) -> usize {
    name.split('.').count()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::catalog;
    use crate::model::{End, Protocol};
    use proptest::prelude::*;
    use std::net::IpAddr;
    use std::sync::Arc;

    pub(in crate::tables) fn subject(destination: IpAddr, protocol: Protocol, port: u16) -> Subject<'static> {
        Subject {
            source: IpAddr::from([10, 0, 0, 1]),
            source_port: 40_000,
            source_end: End::Lan,
            destination,
            destination_port: port,
            destination_end: End::Lan,
            protocol,
            dscp: 0,
            apps: &[],
            domains: &[],
        }
    }

    fn of_the_catalog() -> (Names, TenantApps) {
        let mut names = Names::default();
        let apps = Apps::compile(catalog().values().map(|app| &app.app), &mut names);
        (names, TenantApps { catalog: Arc::new(apps), own: Apps::default() })
    }

    const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// Were an app hidden behind another, by the same domain or port, its flows would be told as the other's.
    #[test]
    fn every_domain_prefix_and_port_of_the_catalog_tells_its_app() {
        let (names, apps) = of_the_catalog();
        for (name, app) in catalog() {
            let app = &app.app;
            let any = AppPorts { protocol: Protocol::TCP, ports: 443..=443 };
            let told = |destination, host: Option<&str>, by: FitBy| {
                let ports = if app.ports.is_empty() { std::slice::from_ref(&any) } else { &app.ports };
                for ports in ports {
                    // Where ranges meet, the smaller one has what is in both.
                    let tells = ports.ports.clone().any(|port| {
                        let first = apps.of(&subject(destination, ports.protocol, port), host)[0];
                        (names.app(first.app), first.by) == (name.as_str(), by)
                    });
                    assert!(tells, "{name} is not told by {by:?}, {host:?}, {ports:?}");
                }
            };
            for domain in &app.domains {
                told(NOWHERE, Some(domain.as_str()), FitBy::Name);
                told(NOWHERE, Some(&format!("a.b.{domain}")), FitBy::Name);
            }
            app.prefixes.iter().for_each(|prefix| told(prefix.network(), None, FitBy::Prefix));
            if app.domains.is_empty() && app.prefixes.is_empty() {
                told(NOWHERE, None, FitBy::Port);
            }
        }
    }

    #[test]
    fn a_name_says_more_than_a_prefix_and_a_prefix_more_than_a_port() {
        let (names, apps) = of_the_catalog();
        let subject = subject(IpAddr::from([52, 112, 0, 1]), Protocol::TCP, 443);
        let told: Vec<&str> =
            apps.of(&subject, Some("acme.slack.com")).iter().map(|fit| names.app(fit.app)).collect();
        assert_eq!(told, ["slack", "microsoft-teams", "web"]);
    }

    #[test]
    fn a_tenants_own_app_takes_the_place_of_the_catalogs() {
        let (mut names, mut apps) = of_the_catalog();
        let at = config::SourceRef { file: "tenants/acme.toml".into(), line: 1 };
        let domains = vec!["zoom.example".parse().expect("a name")];
        let own = config::App { name: "zoom".into(), domains, prefixes: vec![], ports: vec![], at };
        apps.own = Apps::compile([&own], &mut names);
        let told = |host: &str| {
            let found = apps.of(&subject(NOWHERE, Protocol::TCP, 8_801), Some(host));
            found.iter().map(|fit| names.app(fit.app)).collect::<Vec<_>>()
        };
        assert_eq!(told("eu.zoom.example"), ["zoom"]);
        assert_eq!(told("eu.zoom.us"), Vec::<&str>::new());
    }

    /// The twin of [`TenantApps::of`]: whether a flow is of an app, as `config::apps` says it.
    pub(in crate::tables) fn is_of(
        app: &config::App,
        subject: &Subject<'_>,
        name: Option<&HostName>,
    ) -> bool {
        let by_name = name.is_some_and(|name| {
            app.domains.iter().any(|domain| name == domain || name.as_str().ends_with(&format!(".{domain}")))
        });
        let by_prefix = app.prefixes.iter().any(|prefix| prefix.contains(subject.destination));
        let by_port = app.ports.iter().any(|ports| is_among(subject, ports));
        let alone = app.domains.is_empty() && app.prefixes.is_empty();
        (by_name || by_prefix || alone) && (by_port || app.ports.is_empty())
    }

    pub(in crate::tables) fn host() -> impl Strategy<Value = HostName> {
        proptest::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 1..4)
            .prop_map(|labels| labels.join(".").parse().expect("a name"))
    }

    pub(in crate::tables) fn app() -> impl Strategy<Value = config::App> {
        let prefix = (0u8..4, 28u8..=32).prop_map(|(host, length)| {
            let network =
                ipnetwork::IpNetwork::new(IpAddr::from([10, 0, 0, host]), length).expect("a length");
            ipnetwork::IpNetwork::new(network.network(), length).expect("a prefix")
        });
        let ports = (any::<bool>(), 1u16..5, 0u16..3).prop_map(|(tcp, first, more)| AppPorts {
            protocol: if tcp { Protocol::TCP } else { Protocol::UDP },
            ports: first..=first + more,
        });
        let lists = (
            proptest::collection::vec(host(), 0..3),
            proptest::collection::vec(prefix, 0..3),
            proptest::collection::vec(ports, 0..3),
        );
        let something = lists.prop_filter("nothing to be known by", |(domains, prefixes, ports)| {
            !domains.is_empty() || !prefixes.is_empty() || !ports.is_empty()
        });
        something.prop_map(|(domains, prefixes, ports)| {
            let at = config::SourceRef { file: "".into(), line: 1 };
            config::App { name: String::new(), domains, prefixes, ports, at }
        })
    }

    proptest! {
        #[test]
        fn a_flow_is_of_the_apps_that_trying_each_finds(
            mut apps in proptest::collection::vec(app(), 0..8),
            flows in proptest::collection::vec(
                (0u8..4, any::<bool>(), 1u16..8, proptest::option::of(host())), 1..20),
        ) {
            for (at, app) in apps.iter_mut().enumerate() {
                app.name = format!("app-{at}");
            }
            let mut names = Names::default();
            let own = Apps::compile(&apps, &mut names);
            let compiled = TenantApps { catalog: Arc::default(), own };
            for (destination, tcp, port, name) in flows {
                let protocol = if tcp { Protocol::TCP } else { Protocol::UDP };
                let subject = subject(IpAddr::from([10, 0, 0, destination]), protocol, port);
                let found = compiled.of(&subject, name.as_ref().map(HostName::as_str));
                let mut told: Vec<&str> = found.iter().map(|fit| names.app(fit.app)).collect();
                told.sort_unstable();
                let expected: Vec<&str> = apps
                    .iter()
                    .filter(|app| is_of(app, &subject, name.as_ref()))
                    .map(|app| app.name.as_str())
                    .collect();
                prop_assert_eq!(told, expected);
                prop_assert!(found.is_sorted_by_key(|fit| Reverse((fit.by, fit.specificity))));
            }
        }
    }
}
