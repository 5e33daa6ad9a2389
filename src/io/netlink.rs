//! The kernel's network settings in a few plain types: what `ip link`, `ip address`, `ip route` and `ip rule` show and
//! change, in one namespace. [`super::network`] decides what they should be.

use super::namespace::Namespace;
use futures_util::{StreamExt, TryStreamExt};
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{
    Error, Handle, IpVersion, LinkMessageBuilder, LinkUnspec, LinkVlan, MulticastGroup, RouteMessageBuilder,
};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// "Who added this" of our routes and rules (rtm_protocol, FRA_PROTOCOL): a number that nobody registered in
/// /etc/iproute2/rt_protos. `ip route show proto 74 table all` lists what popgate added; all of it is popgate's to remove.
pub(super) const PROTOCOL: u8 = 74;

/// Netlink in one namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    /// Moves the messages; holds the socket, and with it the namespace, until it is dropped.
    connection: JoinHandle<()>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    /// It has a carrier, or does not know what that is.
    pub runs: bool,
    pub mtu: u32,
    /// What `ip link set DEV group` sets; 0 unless somebody did.
    pub group: u32,
    /// Of Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Which VLAN it is.
    pub vlan: Option<Vlan>,
}

/// A VLAN, and the index of the interface it is of, in that one's own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vlan {
    pub trunk: u32,
    pub id: u16,
}

/// A route of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub destination: IpNetwork,
    pub table: u32,
    pub metric: u32,
    pub target: Target,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Link { index: u32, via: Option<IpAddr> },
    Unreachable,
}

/// A policy routing rule of ours, about what comes in by one interface; by `lo` comes what the box itself sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub ipv6: bool,
    pub priority: u32,
    pub iif: String,
    /// Only what is from this address.
    pub from: Option<IpAddr>,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Look up in `table`, but do not take a route out of an interface of the group `not_group`, nor one whose prefix is
    /// no longer than `not_prefix`: the rules after this one decide instead.
    Lookup {
        table: u32,
        not_group: Option<u32>,
        not_prefix: Option<u32>,
    },
    Unreachable,
}

/// Tells when IPv4 addresses come and go, and links go up and down, in the calling thread's namespace.
#[derive(Debug)]
pub struct NetworkWatch {
    changed: Arc<Notify>,
    _watched: Watched,
}

impl NetworkWatch {
    /// Begins to watch; within a tokio runtime.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn open() -> io::Result<NetworkWatch> {
        let changed = Arc::new(Notify::new());
        let tell = Arc::clone(&changed);
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Link];
        let watched = Watched::open(&Namespace::current()?, &groups, move || tell.notify_one())?;
        Ok(NetworkWatch { changed, _watched: watched })
    }

    /// Until something has changed since it was last asked.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes it tell of a change that it cannot see itself.
    pub fn teller(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }
}

/// Listens to what the kernel tells of changes in a namespace, until it is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    tasks: [JoinHandle<()>; 2],
}

impl Watched {
    /// Calls `tell` at each change to what `groups` are about; within a tokio runtime.
    pub(super) fn open(
        namespace: &Namespace,
        groups: &[MulticastGroup],
        tell: impl Fn() + Send + 'static,
    ) -> io::Result<Watched> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, _, mut messages) = namespace.run(|| {
            let _guard = runtime.enter();
            rtnetlink::new_multicast_connection(groups)
        })??;
        let told = tokio::spawn(async move {
            while messages.next().await.is_some() {
                tell();
            }
        });
        Ok(Watched { tasks: [tokio::spawn(connection), told] })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens netlink in `namespace`; within a tokio runtime.
    pub(super) fn open(namespace: &Namespace) -> io::Result<Netlink> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = namespace.run(|| {
            let _guard = runtime.enter();
            // Strict: the kernel then filters dumps itself, and does not hand us a million BGP routes to find ten.
            rtnetlink::new_connection_with_strict_check()
        })??;
        Ok(Netlink { handle, connection: runtime.spawn(connection) })
    }

    /// Opens netlink where the calling thread is, which takes no rights; within a tokio runtime.
    pub(super) fn here() -> io::Result<Netlink> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        Ok(Netlink { handle, connection: tokio::spawn(connection) })
    }

    /// All interfaces.
    pub(super) async fn links(&self) -> io::Result<Vec<Link>> {
        let links = self.handle.link().get().execute().map_ok(|message| link_of(&message));
        links.try_collect().await.map_err(io_error)
    }

    /// The interface called `name`.
    pub(super) async fn link(&self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }

    pub(super) async fn set_up(&self, index: u32) -> io::Result<()> {
        self.change_link(LinkUnspec::new_with_index(index).up()).await
    }

    pub(super) async fn set_mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.change_link(LinkUnspec::new_with_index(index).mtu(mtu)).await
    }

    pub(super) async fn set_queue_length(&self, index: u32, packets: u32) -> io::Result<()> {
        self.change_link(LinkUnspec::new_with_index(index).txqueuelen(packets)).await
    }

    pub(super) async fn set_group(&self, index: u32, group: u32) -> io::Result<()> {
        let attribute = LinkAttribute::Group(group);
        self.change_link(LinkUnspec::new_with_index(index).append_extra_attribute(attribute)).await
    }

    /// Moves an interface into another namespace; it arrives there down and without addresses.
    pub(super) async fn move_link(&self, index: u32, to: &Namespace) -> io::Result<()> {
        self.change_link(LinkUnspec::new_with_index(index).setns_by_fd(to.as_fd().as_raw_fd())).await
    }

    /// Makes the VLAN interface `name` of a trunk that is here, in `namespace`; it is down there.
    pub(super) async fn add_vlan(&self, name: &str, vlan: Vlan, namespace: &Namespace) -> io::Result<()> {
        let builder = LinkVlan::new(name, vlan.trunk, vlan.id).setns_by_fd(namespace.as_fd().as_raw_fd());
        self.handle.link().add(builder.build()).execute().await.map_err(io_error)
    }

    pub(super) async fn delete_link(&self, index: u32) -> io::Result<()> {
        self.handle.link().del(index).execute().await.map_err(io_error)
    }

    /// The addresses of an interface, without the link-local ones that IPv6 gives itself.
    pub(super) async fn addresses(&self, index: u32) -> io::Result<Vec<IpNetwork>> {
        Ok(self.lasting(index).await?.into_iter().map(|(address, _)| address).collect())
    }

    /// Each address, and whether somebody gave it to the interface for good; others are made of advertisements, and run out.
    pub(super) async fn lasting(&self, index: u32) -> io::Result<Vec<(IpNetwork, bool)>> {
        let get = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<AddressMessage> = get.try_collect().await.map_err(io_error)?;
        let lasts = |message: &AddressMessage| message.header.flags.contains(AddressHeaderFlags::Permanent);
        let addresses = messages.iter().filter_map(|message| Some((address_of(message)?, lasts(message))));
        let is_local =
            |address: &IpNetwork| matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        Ok(addresses.filter(|(address, _)| !is_local(address)).collect())
    }

    /// The routes that the kernel has learned by advertisements on an interface.
    pub(super) async fn advertised(&self, index: u32) -> io::Result<Vec<Route>> {
        let mut routes = self.routes_of(AddressFamily::Inet6, RouteProtocol::Ra).await?;
        routes.retain(|route| matches!(route.target, Target::Link { index: out, .. } if out == index));
        Ok(routes)
    }

    /// Makes the kernel forget one.
    pub(super) async fn delete_advertised(&self, route: &Route) -> io::Result<()> {
        let message = message_of_route(route, RouteProtocol::Ra)?;
        self.handle.route().del(message).execute().await.map_err(io_error)
    }

    /// Adds an address that may be used at once: no duplicate address detection (RFC 4862 section 5.4) is waited for.
    pub(super) async fn add_address(&self, index: u32, address: IpNetwork) -> io::Result<()> {
        let mut add = self.handle.address().add(index, address.ip(), address.prefix());
        if address.is_ipv6() {
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        add.execute().await.map_err(io_error)
    }

    pub(super) async fn delete_address(&self, index: u32, address: IpNetwork) -> io::Result<()> {
        let mut add = self.handle.address().add(index, address.ip(), address.prefix());
        let message = std::mem::take(add.message_mut());
        self.handle.address().del(message).execute().await.map_err(io_error)
    }

    /// Our routes, in all tables.
    pub(super) async fn routes(&self) -> io::Result<Vec<Route>> {
        let mut routes = self.routes_of(AddressFamily::Inet, PROTOCOL.into()).await?;
        routes.extend(self.routes_of(AddressFamily::Inet6, PROTOCOL.into()).await?);
        Ok(routes)
    }

    async fn routes_of(&self, family: AddressFamily, protocol: RouteProtocol) -> io::Result<Vec<Route>> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.protocol = protocol;
        let get = self.handle.route().get(filter).execute();
        let messages: Vec<RouteMessage> = get.try_collect().await.map_err(io_error)?;
        // A kernel before 4.20 does not filter.
        let those = messages.iter().filter(|message| message.header.protocol == protocol);
        Ok(those.filter_map(route_of).collect())
    }

    pub(super) async fn add_route(&self, route: &Route) -> io::Result<()> {
        self.handle.route().add(message_of_route(route, PROTOCOL.into())?).execute().await.map_err(io_error)
    }

    pub(super) async fn delete_route(&self, route: &Route) -> io::Result<()> {
        self.handle.route().del(message_of_route(route, PROTOCOL.into())?).execute().await.map_err(io_error)
    }

    /// Our rules. A rule of ours that is like none we would make today comes back as one that fits none wanted.
    pub(super) async fn rules(&self) -> io::Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let get = self.handle.rule().get(version).execute();
            let messages: Vec<RuleMessage> = get.try_collect().await.map_err(io_error)?;
            rules.extend(messages.iter().filter_map(rule_of));
        }
        Ok(rules)
    }

    pub(super) async fn add_rule(&self, rule: &Rule) -> io::Result<()> {
        let mut add = self.handle.rule().add();
        *add.message_mut() = message_of_rule(rule);
        add.execute().await.map_err(io_error)
    }

    pub(super) async fn delete_rule(&self, rule: &Rule) -> io::Result<()> {
        self.handle.rule().del(message_of_rule(rule)).execute().await.map_err(io_error)
    }

    async fn change_link(&self, builder: LinkMessageBuilder<LinkUnspec>) -> io::Result<()> {
        self.handle.link().change(builder.build()).execute().await.map_err(io_error)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        runs: message.header.flags.contains(LinkFlags::Running),
        mtu: 0,
        group: 0,
        mac: None,
        vlan: None,
    };
    let (mut trunk, mut id) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Link(index) => trunk = Some(*index),
            LinkAttribute::LinkInfo(about) => id = about.iter().find_map(vlan_id_of),
            _ => {}
        }
    }
    link.vlan = trunk.zip(id).map(|(trunk, id)| Vlan { trunk, id });
    link
}

fn vlan_id_of(about: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(about)) = about else { return None };
    about.iter().find_map(|about| match about {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpNetwork> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // Where both are given (IPv4 always, point-to-point), the local one is ours.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    IpNetwork::new(address?, message.header.prefix_len).ok()
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut destination, mut via, mut index) = (unspecified, None, None);
    let (mut table, mut metric) = (u32::from(message.header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = (*ip).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = (*ip).into(),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some((*ip).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => via = Some((*ip).into()),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let target = match (message.header.kind, index) {
        // IPv6 says that an unreachable route leads to the loopback interface.
        (RouteType::Unreachable, _) => Target::Unreachable,
        (_, Some(index)) => Target::Link { index, via },
        (_, None) => return None,
    };
    let destination = IpNetwork::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, table, metric, target })
}

fn message_of_route(route: &Route, protocol: RouteProtocol) -> io::Result<RouteMessage> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidInput, format!("{e}"));
    let (network, prefix) = (route.destination.network(), route.destination.prefix());
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(network, prefix)
        .map_err(invalid)?
        .table_id(route.table)
        .priority(route.metric)
        .protocol(protocol);
    match &route.target {
        Target::Link { index, via } => {
            builder = builder.output_interface(*index);
            match via {
                Some(via) => builder = builder.gateway(*via).map_err(invalid)?,
                // Without a next hop, the destination is on the link; IPv6 has no such scopes.
                None if network.is_ipv4() => builder = builder.scope(RouteScope::Link),
                None => {}
            }
        }
        Target::Unreachable => builder = builder.kind(RouteType::Unreachable),
    }
    Ok(builder.build())
}

fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let (mut iif, mut priority, mut table) = (String::new(), 0, u32::from(message.header.table));
    let (mut not_group, mut not_prefix, mut ours, mut from) = (None, None, false, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => iif.clone_from(name),
            RuleAttribute::Priority(p) => priority = *p,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Source(source) => from = Some(*source),
            // All ones stand for none.
            RuleAttribute::SuppressIfGroup(group) => not_group = Some(*group).filter(|g| *g != u32::MAX),
            RuleAttribute::SuppressPrefixLen(len) => not_prefix = Some(*len).filter(|l| *l != u32::MAX),
            RuleAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::from(PROTOCOL),
            _ => {}
        }
    }
    let action = match message.header.action {
        RuleAction::ToTable => Action::Lookup { table, not_group, not_prefix },
        _ => Action::Unreachable,
    };
    ours.then_some(Rule { ipv6: message.header.family == AddressFamily::Inet6, priority, iif, from, action })
}

fn message_of_rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Iifname(rule.iif.clone()));
    attributes.push(RuleAttribute::Protocol(PROTOCOL.into()));
    if let Some(from) = rule.from {
        message.header.src_len = if from.is_ipv4() { 32 } else { 128 };
        attributes.push(RuleAttribute::Source(from));
    }
    match rule.action {
        Action::Lookup { table, not_group, not_prefix } => {
            message.header.action = RuleAction::ToTable;
            attributes.push(RuleAttribute::Table(table));
            attributes.extend(not_group.map(RuleAttribute::SuppressIfGroup));
            attributes.extend(not_prefix.map(RuleAttribute::SuppressPrefixLen));
        }
        Action::Unreachable => message.header.action = RuleAction::Unreachable,
    }
    message
}

// As `ip` writes them, for the log and for problems; an interface by its number, as `ip` reads it after `if`.

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.target == Target::Unreachable { "unreachable " } else { "" };
        write!(f, "{kind}{}", self.destination)?;
        if let Target::Link { index, via } = &self.target {
            if let Some(via) = via {
                write!(f, " via {via}")?;
            }
            write!(f, " dev if{index}")?;
        }
        write!(f, " table {} metric {}", self.table, self.metric)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "-6" } else { "-4" };
        write!(f, "{family} pref {}", self.priority)?;
        self.from.map_or(Ok(()), |from| write!(f, " from {from}"))?;
        write!(f, " iif {}", self.iif)?;
        match &self.action {
            Action::Lookup { table, not_group, not_prefix } => {
                write!(f, " lookup {table}")?;
                not_prefix.map_or(Ok(()), |len| write!(f, " suppress_prefixlength {len}"))?;
                not_group.map_or(Ok(()), |group| write!(f, " suppress_ifgroup {group}"))
            }
            Action::Unreachable => f.write_str(" unreachable"),
        }
    }
}
