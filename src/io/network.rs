//! The kernel's side of a generation: TUN devices, namespaces, routes and rules, brought to what the generation asks for.
//!
//! [`Network::realise`] looks at what is there and changes what differs, so that running it twice changes nothing, and
//! running it after a crash picks up what the dead process left: an interface that is in its tenant's namespace already,
//! rules of devices that are no more. Order: 1 dismantle what is no longer wanted, 2 the box's own namespace, 3 one private
//! namespace after the other, 4 answers to addresses of the box's own (`masquerade`). What fails is reported by device and leaves the others alone.
//!
//! What is put into the kernel, and how to recognise it:
//! - routes and rules are of protocol 74 ([`super::netlink::PROTOCOL`]); whatever has that number is popgate's to remove;
//! - `internet`: the pools' routes in the main table, out of the device;
//! - `private` ([`private`]): in the tenant's namespace the interface, its addresses, its routers' routes, and defaults to the device;
//! - `lan`: [`TABLE`] with defaults to the device, and below them an `unreachable` default that outlives it: when popgate
//!   is not running, the LAN's traffic must not leave by the provider's default route, past the tunnels. Rules:
//!   ```text
//!   7446: from all iif eth0   lookup main suppress_prefixlength 0 suppress_ifgroup 0
//!   7447: from all iif eth0   lookup 7447
//!   7446: from all iif pg-lan lookup main suppress_ifgroup 0
//!   7447: from all iif pg-lan unreachable
//!   7446: from 10.1.0.1 iif lo lookup main suppress_prefixlength 0 suppress_ifgroup 0
//!   7447: from 10.1.0.1 iif lo lookup 7447
//!   ```
//!   The last two are for each address that the box has there by its configuration: it asks and answers by it as a host of the LAN.
//!   The LAN's interfaces are put into the interface group 7447, so that "not out of an interface of group 0" means "only
//!   to the LAN": from one LAN interface to another the kernel forwards by itself, what comes out of a tunnel goes to the
//!   LAN or nowhere, and routes that appear later (DHCP, a router behind the LAN) count at once. What is for the box itself
//!   is found in the table `local`, before all of these.
//!
//! Forwarding is switched on, and left on, in every namespace with a device. That has a side effect on IPv6: an interface
//! that forwards no longer listens to router advertisements unless its `accept_ra` is 2. An underlay that is configured by
//! them needs that set; we leave it alone.

mod private;

use super::masquerade::Masquerading;
use super::namespace::Namespace;
pub use super::netlink::NetworkWatch;
use super::netlink::{Action, Link, Netlink, Route, Rule, Target};
use super::tun::TunDevice;
use crate::model::DeviceId;
use crate::tables::{DeviceKind, DeviceSpec};
use ipnetwork::IpNetwork;
pub use private::HandoffLink;
use private::Learning;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// The routing table that LAN interfaces' traffic is looked up in, their interface group, and the priority of the rules
/// that decide; the port of this project's number, as good as any that nobody uses.
const TABLE: u32 = 7447;
const LAN_GROUP: u32 = TABLE;
const DECIDING_PRIORITY: u32 = TABLE;
/// Of the rules that look for a way within the LAN before.
const LAN_PRIORITY: u32 = TABLE - 1;
const MAIN_TABLE: u32 = 254;
/// The group of every interface nobody grouped.
const DEFAULT_GROUP: u32 = 0;
/// Of the unreachable defaults: worse than the device's own, in either family.
const UNREACHABLE_METRIC: u32 = TABLE;
/// Packets a TUN device holds for us: 20 ms of a gigabit. The kernel's 500 are gone in the time a worker takes over one
/// batch and a slice of somebody else's.
const DEVICE_QUEUE_PACKETS: u32 = 2000;
/// Interfaces that some kernels put into every namespace by themselves.
const BORN_THERE: [&str; 10] =
    ["lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// The kernel's network, as far as it is popgate's.
#[derive(Debug)]
pub struct Network {
    /// The box's own namespace.
    home: Namespace,
    /// How many queues a device gets.
    workers: u16,
    known: BTreeMap<DeviceId, Known>,
    /// Devices no longer wanted, of which something could not be taken away yet.
    leftovers: Vec<(DeviceId, Known)>,
    masquerading: Masquerading,
    learning: BTreeMap<DeviceId, Learning>,
    news: News,
}

/// That something has changed in a namespace of a tenant's.
#[derive(Clone, Debug)]
struct News {
    is_there: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

/// A device that exists.
#[derive(Debug)]
struct Known {
    spec: DeviceSpec,
    index: u32,
}

/// What [`Network::realise`] did.
#[derive(Debug, Default)]
pub struct Realised {
    /// Devices just made, each with a queue for each worker, in the workers' order, to be handed to them. Dropped, they are
    /// gone again, and the next run makes them anew.
    pub opened: Vec<Vec<TunDevice>>,
    /// Devices that are no more.
    pub closed: Vec<DeviceId>,
    /// Of each private handoff's device: the interface it is there for.
    pub handoffs: BTreeMap<DeviceId, HandoffLink>,
    /// What was changed, in the words of `ip` and `sysctl`; nothing if all was as it should be.
    pub changes: Vec<String>,
    /// What could not be done; the next run tries again.
    pub problems: Vec<Problem>,
}

/// Something about one device that could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The device's name; none if it is about no device in particular.
    pub device: Option<String>,
    /// For the operator.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "device {device}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl Realised {
    fn changed(&mut self, change: String) {
        tracing::info!("{change}");
        self.changes.push(change);
    }

    fn problem(&mut self, device: Option<&str>, message: String) {
        let problem = Problem { device: device.map(str::to_owned), message };
        tracing::warn!("{problem}");
        self.problems.push(problem);
    }

    /// Notes a change if it worked; otherwise gives it back as what did not.
    fn step(&mut self, change: String, result: io::Result<()>) -> Result<(), String> {
        match result {
            Ok(()) => {
                self.changed(change);
                Ok(())
            }
            Err(e) => Err(format!("{change}: {e}")),
        }
    }
}

impl Network {
    /// The network of the calling thread's namespace, which is from then on the box's own, with no devices known yet. Those
    /// it makes have a queue for each of `workers`. `wake` is notified when something in a tenant's namespace has changed by itself.
    pub fn new(workers: u16, wake: Arc<Notify>) -> io::Result<Network> {
        Ok(Network {
            home: Namespace::current()?,
            workers,
            known: BTreeMap::new(),
            leftovers: Vec::new(),
            masquerading: Masquerading::default(),
            learning: BTreeMap::new(),
            news: News { is_there: Arc::default(), wake },
        })
    }

    /// Takes away what would outlive the process and lead nowhere, or bind the box, when it has stopped.
    pub fn leave(&mut self) {
        let device = self.known.values().find(|known| matches!(known.spec.kind, DeviceKind::Internet { .. }));
        let Some(device) = device else { return };
        if let Err(message) = self.masquerading.realise(&self.home, &device.spec.name, &[]) {
            tracing::warn!("{message}");
        }
    }

    /// Whether somebody else took away what [`Network::realise`] had put into the kernel for masquerading.
    pub fn has_lost_masquerades(&mut self) -> bool {
        self.masquerading.is_gone(&self.home)
    }

    /// Whether anything in a tenant's namespace has changed since [`Network::realise`] last began.
    pub fn has_news(&self) -> bool {
        self.news.is_there.load(Ordering::Acquire)
    }

    /// Tells that something has.
    fn teller(&self) -> impl Fn() + Send + 'static {
        let news = self.news.clone();
        move || {
            news.is_there.store(true, Ordering::Release);
            news.wake.notify_one();
        }
    }

    /// Brings the kernel to `wanted`. Within a tokio runtime.
    ///
    /// A device of which only routes, addresses, interfaces or the MTU changed is kept, with what is in flight; one that
    /// changed its name, kind or namespace is closed and opened anew.
    pub async fn realise(&mut self, wanted: &[(DeviceId, DeviceSpec)]) -> Realised {
        let mut realised = Realised::default();
        self.news.is_there.store(false, Ordering::Release);
        self.dismantle(wanted, &mut realised).await;
        if let Err(message) = self.realise_home(wanted, &mut realised).await {
            realised.problem(None, message);
        }
        let mut namespaces = BTreeSet::new();
        for (id, spec) in wanted {
            let DeviceKind::Private(private) = &spec.kind else { continue };
            let result = if namespaces.insert(&private.netns) {
                self.realise_private(*id, spec, private, &mut realised).await
            } else {
                // Both would want the default route.
                Err(format!("the network namespace {} already has another device", private.netns))
            };
            if let Err(message) = result {
                realised.problem(Some(&spec.name), message);
            }
        }
        self.realise_masquerades(wanted, &mut realised);
        realised
    }

    // 1: what is no longer wanted.

    async fn dismantle(&mut self, wanted: &[(DeviceId, DeviceSpec)], realised: &mut Realised) {
        let stays = |id: &DeviceId, known: &Known| {
            wanted.iter().any(|(wanted, spec)| wanted == id && same_place(spec, &known.spec))
        };
        let gone: Vec<DeviceId> =
            self.known.iter().filter(|(id, known)| !stays(id, known)).map(|(id, _)| *id).collect();
        let mut dismantled = std::mem::take(&mut self.leftovers);
        for id in gone {
            dismantled.extend(self.known.remove(&id).map(|known| (id, known)));
            realised.closed.push(id);
        }
        for (id, known) in dismantled {
            let result = match &known.spec.kind {
                DeviceKind::Private(private) => self.dismantle_private(id, &known, private, realised).await,
                _ => delete_device(&self.home, &known, realised).await,
            };
            if let Err(message) = result {
                realised.problem(Some(&known.spec.name), message);
                // Tried again, unless the namespace has found a new use meanwhile.
                if !wanted.iter().any(|(_, spec)| same_namespace(spec, &known.spec)) {
                    self.leftovers.push((id, known));
                }
            }
        }
    }

    // 2: the box's own namespace: the internet and the LAN.

    async fn realise_home(
        &mut self,
        wanted: &[(DeviceId, DeviceSpec)],
        realised: &mut Realised,
    ) -> Result<(), String> {
        let netlink = open_netlink(&self.home)?;
        let mut routes = Vec::new();
        let mut lan = BTreeMap::new();
        for (id, spec) in wanted {
            // Also of a device that cannot be made now: its LAN is still to be kept off the internet.
            match &spec.kind {
                DeviceKind::Private(_) => continue,
                DeviceKind::Internet { .. } => {}
                DeviceKind::Lan { interfaces, own } => {
                    lan.insert(&*spec.name, Lan { interfaces, own });
                }
            }
            match self.realise_device(*id, spec, None, &netlink, realised).await {
                Ok(index) => match &spec.kind {
                    DeviceKind::Internet { routes: pools, .. } => {
                        routes.extend(pools.iter().map(|pool| route(*pool, MAIN_TABLE, index, None)));
                    }
                    _ => routes.extend(defaults().map(|default| route(default, TABLE, index, None))),
                },
                Err(message) => realised.problem(Some(&spec.name), message),
            }
        }
        if lan.values().any(|lan| !lan.interfaces.is_empty()) {
            routes.extend(defaults().map(|destination| Route {
                destination,
                table: TABLE,
                metric: UNREACHABLE_METRIC,
                target: Target::Unreachable,
            }));
        }
        sync_routes(&netlink, &routes, "ip route", realised).await?;
        sync_groups(&netlink, &lan, realised).await?;
        sync_rules(&netlink, &lan, realised).await
    }

    // 4: answers to addresses of the box's own.

    fn realise_masquerades(&mut self, wanted: &[(DeviceId, DeviceSpec)], realised: &mut Realised) {
        for (id, spec) in wanted {
            let DeviceKind::Internet { masquerades, .. } = &spec.kind else { continue };
            // Without the device there is nothing to lead them to.
            if !self.known.contains_key(id) {
                continue;
            }
            for one in masquerades.iter().filter(|one| one.address.is_none()) {
                let message = format!("masquerade: interface {} has no IPv4 address", one.interface);
                realised.problem(Some(&spec.name), message);
            }
            match self.masquerading.realise(&self.home, &spec.name, masquerades) {
                Ok(changes) => changes.into_iter().for_each(|change| realised.changed(change)),
                Err(message) => realised.problem(Some(&spec.name), message),
            }
        }
    }

    // A TUN device, wherever it is.

    /// Makes the device unless it is there; sets what can be set on it. Gives its interface index.
    async fn realise_device(
        &mut self,
        id: DeviceId,
        spec: &DeviceSpec,
        private: Option<(&str, &Namespace)>,
        netlink: &Netlink,
        realised: &mut Realised,
    ) -> Result<u32, String> {
        let (ip, namespace) = match private {
            Some((netns, namespace)) => (format!("ip -n {netns}"), namespace),
            None => ("ip".to_owned(), &self.home),
        };
        let found = find_link(netlink, &spec.name).await?;
        let known = self.known.get(&id).map(|known| known.index);
        let link = match found {
            Some(link) if known == Some(link.index) => link,
            _ => {
                if self.known.remove(&id).is_some() {
                    // Somebody deleted it.
                    realised.closed.push(id);
                }
                let queues = create_device(id, &spec.name, namespace, self.workers).await?;
                realised.changed(format!("{ip} tuntap add {} mode tun", spec.name));
                realised.opened.push(queues);
                let link = find_link(netlink, &spec.name).await?;
                link.ok_or_else(|| "was deleted as soon as it was made".to_owned())?
            }
        };
        self.known.insert(id, Known { spec: spec.clone(), index: link.index });

        let mtu = u32::from(spec.mtu);
        if link.mtu != mtu {
            let result = netlink.set_mtu(link.index, mtu).await;
            realised.step(format!("{ip} link set {} mtu {mtu}", spec.name), result)?;
        }
        set_sysctls(namespace, &spec.name, realised)?;
        if !link.up {
            let result = netlink.set_queue_length(link.index, DEVICE_QUEUE_PACKETS).await;
            let change = format!("{ip} link set {} txqueuelen {DEVICE_QUEUE_PACKETS}", spec.name);
            realised.step(change, result)?;
        }
        bring_up(netlink, &ip, &link, realised).await?;
        Ok(link.index)
    }
}

/// The first IPv4 address of each of `interfaces` in the calling thread's namespace; those that have none, or are not there,
/// are left out. Within a tokio runtime.
///
/// # Errors
/// The kernel does not answer.
pub async fn addresses(interfaces: &BTreeSet<String>) -> io::Result<BTreeMap<String, Ipv4Addr>> {
    let mut found = BTreeMap::new();
    if interfaces.is_empty() {
        return Ok(found);
    }
    let netlink = Netlink::open(&Namespace::current()?)?;
    for link in netlink.links().await? {
        if !interfaces.contains(&link.name) {
            continue;
        }
        let addresses = netlink.addresses(link.index).await?;
        let first = addresses.iter().find_map(|address| match address.ip() {
            IpAddr::V4(v4) if !v4.is_link_local() => Some(v4),
            _ => None,
        });
        found.extend(first.map(|address| (link.name, address)));
    }
    Ok(found)
}

/// The interfaces of the calling thread's namespace, within a tokio runtime. Anybody may ask.
///
/// # Errors
/// The kernel does not answer.
pub async fn interfaces() -> io::Result<Vec<Interface>> {
    let netlink = Netlink::here()?;
    let mut interfaces = Vec::new();
    for link in netlink.links().await? {
        let addresses = netlink.addresses(link.index).await?;
        let addresses = addresses.iter().map(|address| address.ip()).collect();
        interfaces.push(Interface { name: link.name, carries: link.up && link.runs, addresses });
    }
    Ok(interfaces)
}

/// An interface, and whether anything can leave by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// It is up, and has a carrier if it knows what that is.
    pub carries: bool,
    pub addresses: Vec<IpAddr>,
}

/// Whether a device can become the other without being made anew.
fn same_place(one: &DeviceSpec, other: &DeviceSpec) -> bool {
    use DeviceKind::*;
    let same_kind = match (&one.kind, &other.kind) {
        (Internet { .. }, Internet { .. }) | (Lan { .. }, Lan { .. }) => true,
        _ => same_namespace(one, other),
    };
    one.name == other.name && same_kind
}

/// Whether both are in one private namespace.
fn same_namespace(one: &DeviceSpec, other: &DeviceSpec) -> bool {
    use DeviceKind::Private;
    match (&one.kind, &other.kind) {
        (Private(one), Private(other)) => one.netns == other.netns,
        _ => false,
    }
}

/// A process that was just killed may not have let go of the name yet: tries for a second.
async fn create_device(
    id: DeviceId,
    name: &str,
    namespace: &Namespace,
    workers: u16,
) -> Result<Vec<TunDevice>, String> {
    const TRIES: usize = 10;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut tries = 1;
    loop {
        match TunDevice::create_queues(id, name, namespace, workers) {
            Ok(queues) => return Ok(queues),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                return Err(
                    "there is an interface of that name already; is another popgate running?".to_owned()
                );
            }
            Err(e) => return Err(format!("cannot be made: {e}")),
        }
    }
}

async fn delete_device(namespace: &Namespace, known: &Known, realised: &mut Realised) -> Result<(), String> {
    let netlink = open_netlink(namespace)?;
    match find_link(&netlink, &known.spec.name).await? {
        Some(link) if link.index == known.index => {
            let deleted = netlink.delete_link(link.index).await;
            realised.step(format!("ip link delete {}", link.name), deleted)
        }
        // Gone already, or another's of the same name.
        _ => Ok(()),
    }
}

async fn bring_up(netlink: &Netlink, ip: &str, link: &Link, realised: &mut Realised) -> Result<(), String> {
    if link.up {
        return Ok(());
    }
    realised.step(format!("{ip} link set {} up", link.name), netlink.set_up(link.index).await)
}

fn open_netlink(namespace: &Namespace) -> Result<Netlink, String> {
    Netlink::open(namespace).map_err(|e| format!("cannot talk to the kernel: {e}"))
}

fn find_namespace(name: &str) -> Result<Option<Namespace>, String> {
    Namespace::find(name).map_err(|e| format!("cannot open the network namespace {name}: {e}"))
}

async fn find_link(netlink: &Netlink, name: &str) -> Result<Option<Link>, String> {
    netlink.link(name).await.map_err(|e| format!("cannot look for interface {name}: {e}"))
}

// Routes, addresses, groups, rules: what is there and not wanted goes, what is wanted and not there comes.

/// `0.0.0.0/0` and `::/0`.
fn defaults() -> impl Iterator<Item = IpNetwork> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    any.into_iter().filter_map(|any| IpNetwork::new(any, 0).ok())
}

/// A route with the metric that the kernel would give it, so that it is found again.
fn route(to: IpNetwork, table: u32, index: u32, via: Option<IpAddr>) -> Route {
    let metric = if to.is_ipv6() { 1024 } else { 0 };
    let destination = IpNetwork::new(to.network(), to.prefix()).unwrap_or(to);
    Route { destination, table, metric, target: Target::Link { index, via } }
}

async fn sync_routes(
    netlink: &Netlink,
    wanted: &[Route],
    ip_route: &str,
    realised: &mut Realised,
) -> Result<(), String> {
    let present = netlink.routes().await.map_err(|e| format!("cannot list routes: {e}"))?;
    for route in present.iter().filter(|route| !wanted.contains(route)) {
        let deleted = netlink.delete_route(route).await;
        note(realised, format!("{ip_route} delete {route}"), deleted);
    }
    for (i, route) in wanted.iter().enumerate() {
        // Tenants that share a pool's prefix share its route.
        if present.contains(route) || wanted[..i].contains(route) {
            continue;
        }
        note(realised, format!("{ip_route} add {route}"), netlink.add_route(route).await);
    }
    Ok(())
}

/// One route or rule that fails is a problem, but no reason not to do the others.
fn note(realised: &mut Realised, change: String, result: io::Result<()>) {
    if let Err(message) = realised.step(change, result) {
        realised.problem(None, message);
    }
}

async fn sync_addresses(
    netlink: &Netlink,
    ip: &str,
    link: &Link,
    wanted: &[IpNetwork],
    keeps_advertised: bool,
    realised: &mut Realised,
) -> Result<(), String> {
    let present = netlink.lasting(link.index).await.map_err(|e| format!("cannot list addresses: {e}"))?;
    let is_ours = |(address, lasts): &(IpNetwork, bool)| *lasts || address.is_ipv4() || !keeps_advertised;
    let present: Vec<IpNetwork> = present.into_iter().filter(is_ours).map(|(address, _)| address).collect();
    for address in present.iter().filter(|address| !wanted.contains(address)) {
        let deleted = netlink.delete_address(link.index, *address).await;
        realised.step(format!("{ip} address delete {address} dev {}", link.name), deleted)?;
    }
    for address in wanted.iter().filter(|address| !present.contains(address)) {
        let added = netlink.add_address(link.index, *address).await;
        realised.step(format!("{ip} address add {address} dev {}", link.name), added)?;
    }
    Ok(())
}

/// Puts the LAN's interfaces into their group, and takes others out of it.
async fn sync_groups(
    netlink: &Netlink,
    lan: &BTreeMap<&str, Lan<'_>>,
    realised: &mut Realised,
) -> Result<(), String> {
    let links = netlink.links().await.map_err(|e| format!("cannot list interfaces: {e}"))?;
    for link in &links {
        let in_lan = lan.values().any(|lan| lan.interfaces.contains(&link.name));
        let group = match (in_lan, link.group) {
            (true, LAN_GROUP) => continue,
            (true, _) => LAN_GROUP,
            (false, LAN_GROUP) => DEFAULT_GROUP,
            (false, _) => continue,
        };
        let set = netlink.set_group(link.index, group).await;
        realised.step(format!("ip link set {} group {group}", link.name), set)?;
    }
    for (device, lan) in lan {
        for interface in lan.interfaces.iter().filter(|name| !links.iter().any(|link| link.name == **name)) {
            // Its rules are there all the same, for when it comes.
            realised.problem(Some(device), format!("there is no interface {interface}"));
        }
    }
    Ok(())
}

async fn sync_rules(
    netlink: &Netlink,
    lan: &BTreeMap<&str, Lan<'_>>,
    realised: &mut Realised,
) -> Result<(), String> {
    let wanted: BTreeSet<Rule> = lan.iter().flat_map(|(device, lan)| rules(device, lan)).collect();
    let present = netlink.rules().await.map_err(|e| format!("cannot list rules: {e}"))?;
    let mut kept = BTreeSet::new();
    for rule in &present {
        // Not wanted, or there twice.
        if !wanted.contains(rule) || !kept.insert(rule) {
            note(realised, format!("ip rule delete {rule}"), netlink.delete_rule(rule).await);
        }
    }
    for rule in wanted.iter().filter(|rule| !kept.contains(rule)) {
        note(realised, format!("ip rule add {rule}"), netlink.add_rule(rule).await);
    }
    Ok(())
}

/// What there is on a LAN.
struct Lan<'a> {
    interfaces: &'a [String],
    /// The box's own addresses there.
    own: &'a [IpAddr],
}

/// The rules of a LAN; none if it has no interfaces: then the operator routes by hand.
fn rules(device: &str, Lan { interfaces, own }: &Lan<'_>) -> Vec<Rule> {
    let within_lan =
        |not_prefix| Action::Lookup { table: MAIN_TABLE, not_group: Some(DEFAULT_GROUP), not_prefix };
    let to_device = Action::Lookup { table: TABLE, not_group: None, not_prefix: None };
    let mut rules = Vec::new();
    for ipv6 in [false, true] {
        let rule =
            |priority, iif: &str, action| Rule { ipv6, priority, iif: iif.to_owned(), from: None, action };
        for interface in *interfaces {
            // A default route out of the LAN is not for the LAN's own traffic.
            rules.push(rule(LAN_PRIORITY, interface, within_lan(Some(0))));
            rules.push(rule(DECIDING_PRIORITY, interface, to_device.clone()));
        }
        // What the box asks or answers as one of the LAN's hosts.
        for own in own.iter().filter(|own| own.is_ipv6() == ipv6) {
            let from = |rule: Rule| Rule { from: Some(*own), ..rule };
            rules.push(from(rule(LAN_PRIORITY, "lo", within_lan(Some(0)))));
            rules.push(from(rule(DECIDING_PRIORITY, "lo", to_device.clone())));
        }
        if !interfaces.is_empty() {
            rules.push(rule(LAN_PRIORITY, device, within_lan(None)));
            rules.push(rule(DECIDING_PRIORITY, device, Action::Unreachable));
        }
    }
    rules
}

// Settings under /proc/sys.

/// Switches forwarding on in the namespace, and sets a TUN device so that it takes and gives packets as they are.
fn set_sysctls(namespace: &Namespace, device: &str, realised: &mut Realised) -> Result<(), String> {
    let (v4, v6) = (format!("net/ipv4/conf/{device}"), format!("net/ipv6/conf/{device}"));
    // The kernel takes the larger of this and `all`: 0 is off, 1 asks for the way back to lead to this very device,
    // which of the far ends of tunnels is not so, 2 for any way back. So where `all` is not off, 2 is the mildest.
    let all = namespace.run(|| read_sysctl("net/ipv4/conf/all/rp_filter"));
    let all = all.and_then(|all| all).map_err(|e| e.to_string())?;
    let rp_filter = if all.as_deref() == Some("0") { "0" } else { "2" };
    let settings = [
        ("net/ipv4/ip_forward".to_owned(), "1"),
        ("net/ipv6/conf/all/forwarding".to_owned(), "1"),
        (format!("{v4}/rp_filter"), rp_filter),
        // No link-local address, no router advertisements: nobody is at the other end to talk to about them.
        (format!("{v6}/addr_gen_mode"), "1"),
        (format!("{v6}/accept_ra"), "0"),
    ];
    write_sysctls(namespace, &settings, realised)
}

/// Sets in the namespace what is set otherwise there.
fn write_sysctls(
    namespace: &Namespace,
    settings: &[(String, &str)],
    realised: &mut Realised,
) -> Result<(), String> {
    let set = namespace.run(|| {
        let mut changes = Vec::new();
        for (path, value) in settings {
            // Not there: IPv6 is switched off on this machine, or the kernel is too old for it.
            if read_sysctl(path)?.is_some_and(|present| present != *value) {
                std::fs::write(Path::new("/proc/sys").join(path), value)
                    .map_err(|e| io::Error::new(e.kind(), format!("sysctl {path}={value}: {e}")))?;
                changes.push(format!("sysctl {path}={value}"));
            }
        }
        Ok::<_, io::Error>(changes)
    });
    let changes = set.and_then(|changes| changes).map_err(|e| e.to_string())?;
    changes.into_iter().for_each(|change| realised.changed(change));
    Ok(())
}

/// A setting of the calling thread's namespace; none if the kernel has none of that name.
pub(super) fn read_sysctl(path: &str) -> io::Result<Option<String>> {
    match std::fs::read_to_string(Path::new("/proc/sys").join(path)) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io::Error::new(e.kind(), format!("sysctl {path}: {e}"))),
    }
}
