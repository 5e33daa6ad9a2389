//! Candidate -> Generation. Whatever could be wrong, `config` has found; all that can fail here is that a process has seen
//! more names than it has numbers for.
//!
//! 1 the box's transports and devices, 2 each tenant: ends and owners, classes, ACL, NAT, paths and their orders, 3 the
//! services that tenants publish to each other.

use super::apps::{Apps, Domains, TenantApps};
use super::classify::{Asks, ClassRule, Classifier};
use super::device::{DeviceKind, DeviceSpec, Masquerade, PrivateNetwork};
use super::generation::{
    Breakout, EchoSpec, Generation, Here, InternetKind, InternetPrefix, NextHops, Order, PathSpec, Site, Sla,
    Tenant, TransportSpec, Written,
};
use super::names::Names;
use super::nat::{Branches, NatPolicy, Pool};
use super::rules::{Acl, AclRule, Matcher};
use super::services::Subscribed;
use crate::config::{
    self, Appliance, BREAKOUT, Branch, BranchLimits, Candidate, DEFAULT_CLASS, FlowMatch, HandoffKind,
    NatAction, Place, Pop, PortForward, Role, catalog,
};
use crate::model::{
    End, HandoffId, IdMap, PathId, PrefixMap, Queueing, Rate, Remediation, Share, SiteId, TenantId, Zone,
};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// Ethernet's: what handoffs and LANs carry. Larger packets towards a tunnel are answered by the pipeline.
const DEVICE_MTU: u16 = 1_500;

/// The name under which a branch keeps all that is beyond its PoPs.
const UPLINK: &str = "uplink";

/// Too many different names in the life of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process has seen more names of {what} than it can tell apart; restart it to take this configuration over"
)]
pub struct OutOfIds {
    what: &'static str,
}

/// Compiles candidates, one generation after another, with ids that keep their meaning from each to the next.
pub struct Compiler {
    names: Names,
    number: u64,
    netns_prefix: String,
    /// The catalog's: most tenants have no others.
    apps: Arc<Apps>,
    /// The box's own addresses, by interface, as far as they are masqueraded with.
    addresses: BTreeMap<String, Ipv4Addr>,
}

/// Of echo requests into a tunnel. Any would do: nobody else there asks from the address that they come from.
const ECHO_IDENTIFIER: u16 = 0x7067;

impl Compiler {
    /// `netns_prefix` begins the names of the tenants' network namespaces: `pg-` on an appliance, something of its own
    /// in a lab.
    pub fn new(netns_prefix: &str) -> Compiler {
        let mut names = Names::default();
        let apps = Arc::new(Apps::compile(catalog().values().map(|app| &app.app), &mut names));
        let (netns_prefix, addresses) = (netns_prefix.into(), BTreeMap::new());
        Compiler { names, number: 0, netns_prefix, apps, addresses }
    }

    /// What the addresses of interfaces that are masqueraded with are from now on; true if that differs from before, so that
    /// what was compiled is out of date.
    pub fn know_addresses(&mut self, addresses: BTreeMap<String, Ipv4Addr>) -> bool {
        let differ = self.addresses != addresses;
        self.addresses = addresses;
        differ
    }

    /// The next generation.
    ///
    /// # Errors
    /// This process has seen more names of some kind than there are ids: a restart begins anew.
    pub fn compile(&mut self, candidate: &Candidate) -> Result<Generation, OutOfIds> {
        self.number += 1;
        let appliance = &candidate.appliance;
        let mut generation = Generation {
            number: self.number,
            here: Here {
                site: appliance.site.clone(),
                metro: appliance.metro.clone(),
                facility: appliance.facility.clone(),
            },
            names: Arc::default(),
            tenants: IdMap::default(),
            paths: IdMap::default(),
            transports: IdMap::default(),
            devices: IdMap::default(),
            device_zones: IdMap::default(),
            internet: super::Routes::default(),
            forwards: HashMap::default(),
            queueing: IdMap::default(),
            dscp: IdMap::default(),
            icmp_source: appliance.icmp_source,
            max_sessions: appliance.max_sessions,
            active_timeout: appliance.export.active_timeout,
            remediates: candidate
                .tenants
                .values()
                .flat_map(|tenant| &tenant.path_policies)
                .any(|policy| policy.remediation != Remediation::None),
        };
        for transport in &appliance.transports {
            let id = self.names.transport_id(&transport.name);
            let spec = TransportSpec {
                name: transport.name.clone(),
                listen: transport.listen,
                interface: transport.interface.clone(),
                inner_mtu: transport.inner_mtu(),
                bandwidth: transport.bandwidth,
            };
            generation.transports.insert(id, spec);
        }
        match &appliance.role {
            Role::Pop(pop) => self.compile_pop(appliance, pop, candidate, &mut generation),
            Role::Branch(branch) => self.compile_branch(appliance, branch, candidate, &mut generation),
        }
        self.compile_classes(candidate, &mut generation);
        generation.names = Arc::new(self.names.clone());
        match self.names.exhausted() {
            Some(what) => Err(OutOfIds { what }),
            None => Ok(generation),
        }
    }

    fn compile_pop(
        &mut self,
        appliance: &Appliance,
        pop: &Pop,
        candidate: &Candidate,
        generation: &mut Generation,
    ) {
        let internet = self.names.device_id("internet");
        let mut internet_routes = Vec::new();
        let mut masquerades = BTreeMap::new();
        for config in candidate.tenants.values() {
            let tenant = self.names.tenant_id(&config.name);
            let mut devices = IdMap::default();
            for handoff in &config.handoffs {
                let id = self.names.handoff_id(tenant, &handoff.name);
                let device = match &handoff.kind {
                    HandoffKind::Internet {
                        nat_pool, masquerade, routed, nat_ports, maps, forwards, ..
                    } => {
                        let pool = InternetKind::Pool;
                        if let Some(interface) = masquerade {
                            let address = self.addresses.get(interface).copied();
                            let (interface, ports) = (interface.clone(), nat_ports.clone());
                            masquerades.insert(interface.clone(), Masquerade { interface, address, ports });
                            if let Some(address) = address {
                                let owner = InternetPrefix { tenant, handoff: id, kind: pool, shared: true };
                                generation.internet.insert(IpAddr::V4(address).into(), owner);
                            }
                        }
                        let pools = nat_pool.iter().map(|prefix| (*prefix, pool));
                        let routed = routed.iter().map(|prefix| (*prefix, InternetKind::Routed));
                        let maps = maps.iter().map(|map| (map.outside(), InternetKind::Mapped(*map)));
                        for (prefix, kind) in pools.chain(routed).chain(maps) {
                            internet_routes.push(prefix);
                            let owner = InternetPrefix { tenant, handoff: id, kind, shared: false };
                            generation.internet.insert(prefix, owner);
                        }
                        for PortForward { protocol, outside, inside, .. } in forwards {
                            let port = (*protocol, outside.ip(), outside.port());
                            generation.forwards.insert(port, (inside.ip(), inside.port()));
                        }
                        internet
                    }
                    HandoffKind::Private { attachment, addressing, routes } => {
                        let device = self.names.device_id(&format!("{}/{}", config.name, handoff.name));
                        let kind = DeviceKind::Private(PrivateNetwork {
                            tenant: config.name.clone(),
                            handoff: handoff.name.clone(),
                            netns: self.netns(&appliance.site, &config.name, &handoff.name),
                            attachment: attachment.clone(),
                            addressing: addressing.clone(),
                            routes: routes.clone(),
                            reached: handoff.prefixes.clone(),
                        });
                        let name = format!("pg{}", device.0);
                        generation.devices.insert(device, DeviceSpec { name, mtu: DEVICE_MTU, kind });
                        generation.device_zones.insert(device, Zone::tenant(tenant));
                        device
                    }
                };
                devices.insert(id, device);
            }
            let ends = |names: &mut Names, place: &Place| match place {
                Place::Branch(name) => End::Site(names.site_id(tenant, name)),
                Place::Handoff(name) => End::Handoff(names.handoff_id(tenant, name)),
                Place::Tenant(name) => End::Tenant(names.tenant_id(name)),
                Place::Prefix(_) => End::Lan,
            };
            let mut compiled = self.compile_policy(config, tenant, NextHops::Pop(devices), ends);
            compiled.canaries = config.canaries.clone().into();
            for branch in &config.branches {
                let site = self.names.site_id(tenant, &branch.name);
                let mut paths = Vec::new();
                for path in &branch.paths {
                    let id = self.names.path_id(site, &path.name);
                    paths.push(Known { id, name: &path.name, bandwidth: path.bandwidth });
                    let spec = PathSpec {
                        tenant,
                        site,
                        far: branch.name.clone(),
                        transport: path.transport.as_ref().map(|name| self.names.transport_id(name)),
                        private_key: pop.private_key.clone(),
                        public_key: path.public_key,
                        preshared_key: path.preshared_key.clone(),
                        endpoint: path.endpoint,
                        persistent_keepalive: path.persistent_keepalive,
                        calls: path.endpoint.is_some(),
                        probes: false,
                        bandwidth: path.bandwidth,
                        echo: path.probe_target.map(|target| EchoSpec {
                            source: match target {
                                IpAddr::V4(_) => appliance.icmp_source.v4.into(),
                                IpAddr::V6(_) => appliance.icmp_source.v6.into(),
                            },
                            targets: [target].into(),
                            identifier: ECHO_IDENTIFIER,
                        }),
                    };
                    generation.paths.insert(id, spec);
                }
                let orders = self.compile_orders(config, tenant, &paths);
                compiled.sites.insert(site, Site { limits: branch.limits, ..orders });
            }
            generation.tenants.insert(tenant, compiled);
        }
        self.compile_services(candidate, generation);
        internet_routes.sort();
        internet_routes.dedup();
        let masquerades = masquerades.into_values().collect();
        let kind = DeviceKind::Internet { routes: internet_routes, masquerades };
        generation
            .devices
            .insert(internet, DeviceSpec { name: pop.internet_device.clone(), mtu: DEVICE_MTU, kind });
        generation.device_zones.insert(internet, Zone::INTERNET);
    }

    fn compile_branch(
        &mut self,
        appliance: &Appliance,
        branch: &Branch,
        candidate: &Candidate,
        generation: &mut Generation,
    ) {
        // A branch belongs to one tenant; `config` has seen to it.
        let Some(config) = candidate.tenants.values().next() else { return };
        let tenant = self.names.tenant_id(&config.name);
        let uplink = self.names.site_id(tenant, UPLINK);
        let lan = self.names.device_id("lan");
        let here = appliance.site.clone();
        let ends = move |names: &mut Names, place: &Place| match place {
            Place::Branch(name) if *name == here => End::Lan,
            Place::Branch(name) => End::Site(names.site_id(tenant, name)),
            Place::Handoff(name) => End::Handoff(names.handoff_id(tenant, name)),
            Place::Tenant(name) => End::Tenant(names.tenant_id(name)),
            Place::Prefix(_) => End::Lan,
        };
        let mut compiled = self.compile_policy(config, tenant, NextHops::Branch { lan, uplink }, ends);
        let is_here = |canary: &&config::Canary| canary.branch == appliance.site;
        compiled.canaries = config.canaries.iter().filter(is_here).cloned().collect();
        let mut paths = Vec::new();
        let mut pops = IdMap::default();
        for (n, pop) in (0..).zip(&branch.pops) {
            for path in &pop.paths {
                let id = self.names.path_id(uplink, &path.name);
                let transport = appliance.transports.iter().find(|known| known.name == path.transport);
                let bandwidth = path.bandwidth.or(transport.and_then(|transport| transport.bandwidth));
                paths.push(Known { id, name: &path.name, bandwidth });
                if branch.pops.len() > 1 {
                    pops.insert(id, n);
                }
                let spec = PathSpec {
                    tenant,
                    site: uplink,
                    far: pop.name.clone(),
                    transport: Some(self.names.transport_id(&path.transport)),
                    private_key: path.private_key.clone(),
                    public_key: pop.public_key,
                    preshared_key: path.preshared_key.clone(),
                    endpoint: Some(path.endpoint),
                    persistent_keepalive: path.persistent_keepalive,
                    calls: true,
                    probes: true,
                    bandwidth: path.bandwidth,
                    echo: None,
                };
                generation.paths.insert(id, spec);
            }
        }
        let site = self.compile_orders(config, tenant, &paths);
        if let Some(breakout) = &branch.breakout {
            compiled.breakout =
                self.compile_breakout(config, (tenant, uplink), breakout, (&site, &paths), generation);
        }
        compiled.sites.insert(uplink, Site { pops, ..site });
        generation.tenants.insert(tenant, compiled);
        let of_lan = appliance.interfaces.iter().filter(|one| branch.lan_interfaces.contains(&one.name));
        let own = of_lan.flat_map(|one| one.addressing.fixed.iter().map(|own| own.ip()));
        // Tunnels are not led into themselves.
        let is_underlay = |own: &IpAddr| appliance.transports.iter().any(|one| one.listen.ip() == *own);
        let own = own.filter(|own| !is_underlay(own)).collect();
        let kind = DeviceKind::Lan { interfaces: branch.lan_interfaces.clone(), own };
        generation.devices.insert(lan, DeviceSpec { name: branch.lan_device.clone(), mtu: DEVICE_MTU, kind });
        generation.device_zones.insert(lan, Zone::tenant(tenant));
    }

    /// What classes say of their packets' turn and marks.
    fn compile_classes(&mut self, candidate: &Candidate, generation: &mut Generation) {
        for config in candidate.tenants.values() {
            let tenant = self.names.tenant_id(&config.name);
            for class in &config.classes {
                let id = self.names.class_id(tenant, &class.name);
                if class.queueing != Queueing::default() {
                    generation.queueing.insert(id, class.queueing);
                }
                if let Some(dscp) = class.set_dscp {
                    generation.dscp.insert(id, dscp);
                }
            }
        }
    }

    /// Ties each subscription to what is published: both tenants know of it, or neither.
    fn compile_services(&mut self, candidate: &Candidate, generation: &mut Generation) {
        for config in candidate.tenants.values() {
            let tenant = self.names.tenant_id(&config.name);
            for subscription in &config.subscriptions {
                let Some(published) = candidate.tenants.get(&subscription.tenant) else { continue };
                let publisher = self.names.tenant_id(&published.name);
                let maps: Box<[PrefixMap]> = subscription.maps.iter().map(|(map, _)| *map).collect();
                if let Some(own) = generation.tenants.get_mut(tenant) {
                    for service in &subscription.services {
                        let named = published.published.iter().find(|offered| offered.name == service.name);
                        let Some(offered) = named else { continue };
                        let spoken = FlowMatch { services: offered.spoken.clone(), ..FlowMatch::default() };
                        let spoken = Matcher::compile(&spoken, [].into(), |_| End::Tenant(publisher));
                        let (subscriber, host) = (tenant, offered.host);
                        let subscribed = Subscribed { subscriber, publisher, host, spoken };
                        own.services.subscribe(service.address, subscribed);
                    }
                    own.services.known_as(publisher, maps.clone());
                }
                if let Some(other) = generation.tenants.get_mut(publisher) {
                    other.services.subscribed_by(tenant, maps);
                }
            }
        }
    }

    /// The way out of the branch, and its device; `None` while its interface has no address.
    fn compile_breakout(
        &mut self,
        config: &config::Tenant,
        (tenant, uplink): (TenantId, SiteId),
        breakout: &config::Breakout,
        (site, paths): (&Site, &[Known<'_>]),
        generation: &mut Generation,
    ) -> Option<Breakout> {
        let device = self.names.device_id("breakout");
        let address = self.addresses.get(&breakout.interface).copied();
        let (interface, ports) = (breakout.interface.clone(), breakout.nat_ports.clone());
        let masquerades = vec![Masquerade { interface, address, ports }];
        let kind = DeviceKind::Internet { routes: Vec::new(), masquerades };
        generation
            .devices
            .insert(device, DeviceSpec { name: breakout.device.clone(), mtu: DEVICE_MTU, kind });
        generation.device_zones.insert(device, Zone::INTERNET);
        let internet = config.handoffs.iter().filter(|handoff| handoff.is_internet());
        let handoffs: Box<[HandoffId]> =
            internet.map(|handoff| self.names.handoff_id(tenant, &handoff.name)).collect();
        let (address, handoff) = (IpAddr::V4(address?), *handoffs.first()?);
        let kind = InternetKind::Pool;
        generation.internet.insert(address.into(), InternetPrefix { tenant, handoff, kind, shared: true });
        let path = self.names.path_id(uplink, BREAKOUT);
        let policies = config.path_policies.iter();
        let orders = policies
            .filter(|policy| policy.prefer.iter().flatten().any(|name| name == BREAKOUT))
            .filter_map(|policy| {
                let class = self.names.class_id(tenant, &policy.class);
                let before = policy.prefer.iter().flatten().take_while(|name| *name != BREAKOUT);
                let before = before.filter(|name| paths.iter().any(|path| path.name == **name)).count();
                Some((class, site.orders.get(class)?.with_one_alone(before, path)))
            });
        let orders = orders.collect();
        let identifier = *breakout.nat_ports.start();
        let targets: Box<[IpAddr]> = breakout.probe_targets.iter().map(|target| (*target).into()).collect();
        let echo = (!targets.is_empty()).then_some(EchoSpec { source: address, targets, identifier });
        let ports = match echo {
            // By this one our own echo requests are known from those of hosts.
            Some(_) => identifier + 1..=*breakout.nat_ports.end(),
            None => breakout.nat_ports.clone(),
        };
        let pool = Pool::new(handoff, &[address.into()], ports);
        let interface = breakout.interface.clone();
        Some(Breakout { path, site: uplink, device, interface, pool, echo, handoffs, orders })
    }

    /// A namespace of the tenant's for each private handoff: were two in one, its kernel would forward between them past
    /// the policy.
    fn netns(&self, site: &str, tenant: &str, handoff: &str) -> String {
        format!("{}{site}-{tenant}-{handoff}", self.netns_prefix)
    }

    /// Owners, classes, ACL and NAT: the same at the PoP and at the branch, but for who is local.
    fn compile_policy(
        &mut self,
        config: &config::Tenant,
        tenant: TenantId,
        next_hops: NextHops,
        end: impl Fn(&mut Names, &Place) -> End,
    ) -> Tenant {
        let names = &mut self.names;
        let default = names.class_id(tenant, DEFAULT_CLASS);
        let mut owners = super::Routes::default();
        for branch in &config.branches {
            let owner = end(names, &Place::Branch(branch.name.clone()));
            for prefix in &branch.prefixes {
                owners.insert(*prefix, owner);
            }
        }
        for handoff in &config.handoffs {
            let owner = end(names, &Place::Handoff(handoff.name.clone()));
            let nat64 = handoff.nat64().map(|prefix| IpNetwork::V6(prefix.network()));
            for prefix in handoff.prefixes.iter().copied().chain(nat64) {
                owners.insert(prefix, owner);
            }
        }
        for subscriber in &config.subscribers {
            let owner = end(names, &Place::Tenant(subscriber.tenant.clone()));
            for prefix in &subscriber.known_as {
                owners.insert(*prefix, owner);
            }
        }
        for subscription in &config.subscriptions {
            let owner = end(names, &Place::Tenant(subscription.tenant.clone()));
            for service in &subscription.services {
                owners.insert(service.address.into(), owner);
            }
        }
        // Nobody's but the PoP's: branches take it there as they take what is out there.
        let internet = config.handoffs.iter().find(|handoff| handoff.is_internet());
        for address in &config.whereabouts {
            if let Some(internet) = internet
                && owners.lookup(*address).is_none()
            {
                owners.insert((*address).into(), end(names, &Place::Handoff(internet.name.clone())));
            }
        }
        let apps = TenantApps { catalog: Arc::clone(&self.apps), own: Apps::compile(&config.apps, names) };
        let mut domains = Domains::default();
        let mut classes = Vec::new();
        for config in &config.classes {
            let class = names.class_id(tenant, &config.name);
            for matches in &config.matches {
                let matcher = compile_matcher(names, tenant, matches, &end);
                let apps = matches.apps.iter().map(|name| names.app_id(name)).collect();
                let domains = matches.domains.iter().map(|domain| domains.id(domain)).collect();
                classes.push(ClassRule { class, matcher, asks: Asks { apps, domains } });
            }
        }
        let rules = config.acl.iter().map(|rule| {
            let matcher = compile_matcher(names, tenant, &rule.matches, &end);
            let id = names.rule_id(tenant, &rule.name);
            (AclRule { id, action: rule.action, log: rule.log, at: rule.at.clone() }, matcher)
        });
        let acl = Acl::new(rules.collect());
        let classifier = Classifier::new(default, classes, apps, domains);
        let mut compiled = Tenant::new(classifier, acl, config.timeouts, next_hops);
        compiled.owners = owners;
        compiled.max_sessions = config.max_sessions;
        compiled.whereabouts = config.whereabouts.iter().copied().collect();
        let carries = |class: &str| config.classes.iter().find(|config| config.name == class)?.set_dscp;
        let slas =
            config.path_policies.iter().filter_map(|policy| Some((&policy.class, policy.sla.as_ref()?)));
        compiled.slas = slas
            .map(|(class, (sla, on_violation))| Sla {
                name: sla.name.clone(),
                limits: sla.limits,
                on_violation: *on_violation,
                dscp: carries(class).unwrap_or(0),
            })
            .collect();
        let streams: BTreeSet<u8> = config.classes.iter().filter_map(|class| class.set_dscp).collect();
        compiled.streams = streams.into_iter().filter(|dscp| *dscp != 0).collect();
        compiled.dns_teachers = config.dns_teachers.clone().into();
        let named = config.classes.iter().map(|class| names.class_id(tenant, &class.name));
        compiled.classes = named.chain([default]).collect();
        compiled.written = written(config, names, tenant);
        let branches: Branches =
            config.branches.iter().map(|branch| names.site_id(tenant, &branch.name)).collect();
        for handoff in &config.handoffs {
            if let HandoffKind::Internet {
                nat_pool,
                masquerade,
                nat_ports,
                nat_blocks,
                nat_filtering,
                maps,
                routed,
                ..
            } = &handoff.kind
            {
                let own = masquerade.as_ref().and_then(|interface| self.addresses.get(interface));
                let own: Vec<IpNetwork> = own.map(|own| IpAddr::V4(*own).into()).into_iter().collect();
                let nat_pool = if masquerade.is_some() { &own } else { nat_pool };
                let id = names.handoff_id(tenant, &handoff.name);
                let pool = |networks: &[IpNetwork]| {
                    Pool::new(id, networks, nat_ports.clone()).in_blocks(*nat_blocks, &branches)
                };
                let mut rules = Vec::new();
                for rule in &config.nat {
                    let translates_to = match &rule.action {
                        NatAction::Pool(networks) if !within(networks, nat_pool) => continue,
                        NatAction::Pool(networks) => Some(pool(networks)),
                        NatAction::NoNat => None,
                    };
                    rules.push((
                        translates_to,
                        rule.at.clone(),
                        compile_matcher(names, tenant, &rule.matches, &end),
                    ));
                }
                let mut policy = NatPolicy::new(
                    id,
                    *nat_filtering,
                    maps.clone().into(),
                    pool(nat_pool),
                    routed.clone().into(),
                    rules,
                )
                .shared(masquerade.is_some());
                policy.at = Some(handoff.at.clone());
                policy.nat64 = handoff.nat64();
                compiled.nat.insert(id, policy);
            }
        }
        compiled
    }

    /// A site's paths, and for every class with a policy their order: those it names first, the rest after them.
    fn compile_orders(&mut self, config: &config::Tenant, tenant: TenantId, paths: &[Known<'_>]) -> Site {
        let mut slas = 0..;
        let orders = config.path_policies.iter().map(|policy| {
            let mut order = Vec::new();
            let mut shares = Vec::new();
            for (group, names) in (0..).zip(&policy.prefer) {
                let named = names.iter().filter_map(|name| paths.iter().find(|path| path.name == name));
                let named: Vec<&Known<'_>> = named.collect();
                for (path, weight) in named.iter().zip(weights(policy, &named)) {
                    order.push(path.id);
                    shares.push(Share { group, weight });
                }
            }
            let is_shared = shares.windows(2).any(|two| two[0].group == two[1].group);
            for path in paths {
                if !order.contains(&path.id) {
                    order.push(path.id);
                    shares
                        .push(Share { group: order.len() as u16 + policy.prefer.len() as u16, weight: 1.0 });
                }
            }
            if !is_shared {
                shares.clear();
            }
            let sla = policy.sla.as_ref().and_then(|_| slas.next());
            (
                self.names.class_id(tenant, &policy.class),
                Order {
                    paths: order.into(),
                    shares: shares.into(),
                    sla,
                    remediation: policy.remediation,
                    resilience: policy.resilience,
                },
            )
        });
        let orders = orders.collect();
        let paths = paths.iter().map(|path| path.id).collect();
        Site { orders, paths, pops: IdMap::default(), limits: BranchLimits::default() }
    }
}

/// A site's path.
struct Known<'a> {
    id: PathId,
    name: &'a str,
    /// What may be sent by it, or over its transport.
    bandwidth: Option<Rate>,
}

/// What equal paths take: as the policy says; otherwise in proportion to what may be sent by them, if that is known of all.
fn weights(policy: &config::PathPolicy, equal: &[&Known<'_>]) -> Vec<f32> {
    let says = equal.iter().any(|path| policy.weights.contains_key(path.name));
    let bandwidths: Option<Vec<f32>> = equal
        .iter()
        .map(|path| Some(path.bandwidth?.bytes_in(Duration::from_secs(1)).max(1) as f32))
        .collect();
    match bandwidths {
        Some(bandwidths) if !says => bandwidths,
        _ => {
            let weight =
                |path: &&Known<'_>| policy.weights.get(path.name).map_or(1.0, |weight| f32::from(*weight));
            equal.iter().map(weight).collect()
        }
    }
}

fn written(config: &config::Tenant, names: &mut Names, tenant: TenantId) -> Written {
    let of_branches =
        config.branches.iter().flat_map(|branch| branch.prefixes.iter().zip(&branch.prefixes_at));
    let of_handoffs = config
        .handoffs
        .iter()
        .flat_map(|handoff| handoff.prefixes.iter().map(|prefix| (prefix, &handoff.at)));
    let of_subscribers = config
        .subscribers
        .iter()
        .flat_map(|subscriber| subscriber.known_as.iter().map(|prefix| (prefix, &subscriber.at)));
    let services = config.subscriptions.iter().flat_map(|subscription| &subscription.services);
    let services = services.map(|service| (IpNetwork::from(service.address), service.at.clone()));
    let nat64 = config.handoffs.iter().filter_map(|handoff| Some((handoff.nat64()?, &handoff.at)));
    let nat64 = nat64.map(|(prefix, at)| (IpNetwork::V6(prefix.network()), at.clone()));
    let all = of_branches.chain(of_handoffs).chain(of_subscribers).map(|(prefix, at)| (*prefix, at.clone()));
    let mut prefixes: Vec<_> = all.chain(services).chain(nat64).collect();
    prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix()));
    let classes =
        config.classes.iter().map(|class| (names.class_id(tenant, &class.name), class.at.clone())).collect();
    let policies = config
        .path_policies
        .iter()
        .map(|policy| (names.class_id(tenant, &policy.class), policy.at.clone()))
        .collect();
    Written { prefixes, classes, policies }
}

fn compile_matcher(
    names: &mut Names,
    tenant: TenantId,
    config: &FlowMatch,
    end: &impl Fn(&mut Names, &Place) -> End,
) -> Matcher {
    let classes = config.classes.iter().map(|name| names.class_id(tenant, name)).collect();
    Matcher::compile(config, classes, |place| end(names, place))
}

/// Whether a NAT rule's addresses are of this handoff's pool: a rule says which handoff it is for by its addresses.
fn within(networks: &[IpNetwork], pool: &[IpNetwork]) -> bool {
    networks
        .iter()
        .all(|network| pool.iter().any(|p| p.prefix() <= network.prefix() && p.contains(network.network())))
}
