//! A tenant's private namespace: the interface that is moved there or the VLAN that is made there, its addresses, fixed and learned,
//! and the routes that lead to it.
//!
//! What is learned changes by itself. The kernel takes addresses from router advertisements, and its default route by them is worse
//! than the device's, so that it only tells who the router is; routes to what the handoff reaches are ours. A DHCP client asks for one
//! address more. Each namespace is watched: whatever changes in it, the run after sets it right.

use super::super::dhcp::{Asking, DhcpClient, Lease};
use super::super::netlink::{Vlan, Watched};
use super::*;
use crate::config::Attachment;
use crate::tables::PrivateNetwork;
use rtnetlink::MulticastGroup;

/// What runs for a namespace while it is wanted.
#[derive(Debug)]
pub(super) struct Learning {
    netns: String,
    _watched: Watched,
    dhcp: Option<(Asking, DhcpClient)>,
}

/// How the interface of a private handoff is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoffLink {
    /// As it is called in the tenant's namespace.
    pub interface: String,
    /// It is there, is up, and has a carrier if it knows what that is.
    pub carries: bool,
    /// All it has but link-local ones.
    pub addresses: Vec<IpNetwork>,
    /// The DHCP server that gave it one of them.
    pub dhcp_server: Option<Ipv4Addr>,
}

impl HandoffLink {
    fn absent(interface: String) -> HandoffLink {
        HandoffLink { interface, carries: false, addresses: Vec::new(), dhcp_server: None }
    }
}

/// The name of the attached interface in the tenant's namespace: as `ip link` names VLANs by custom, or what of it fits.
fn name_of(attachment: &Attachment) -> String {
    match attachment.vlan {
        None => attachment.interface.clone(),
        Some(vlan) => {
            let name = format!("{}.{vlan}", attachment.interface);
            if name.len() <= 15 { name } else { format!("vlan{vlan}") }
        }
    }
}

impl Network {
    /// The interface goes home first: with the namespace it would be lost if it is virtual.
    pub(super) async fn dismantle_private(
        &mut self,
        id: DeviceId,
        known: &Known,
        private: &PrivateNetwork,
        realised: &mut Realised,
    ) -> Result<(), String> {
        self.learning.remove(&id);
        let netns = &private.netns;
        let Some(namespace) = find_namespace(netns)? else { return Ok(()) };
        delete_device(&namespace, known, realised).await?;
        self.detach(&namespace, netns, &private.attachment, realised).await?;
        let netlink = open_netlink(&namespace)?;
        let links = netlink.links().await.map_err(|e| e.to_string())?;
        let others: Vec<_> = links.iter().map(|l| &*l.name).filter(|n| !BORN_THERE.contains(n)).collect();
        if !others.is_empty() {
            return Err(format!(
                "left the network namespace {netns}: somebody put {} into it",
                others.join(", ")
            ));
        }
        realised.step(format!("ip netns delete {netns}"), Namespace::remove(netns))
    }

    /// Sends an interface home; a VLAN's is deleted.
    async fn detach(
        &self,
        namespace: &Namespace,
        netns: &str,
        attachment: &Attachment,
        realised: &mut Realised,
    ) -> Result<(), String> {
        let netlink = open_netlink(namespace)?;
        let name = name_of(attachment);
        let Some(link) = find_link(&netlink, &name).await? else { return Ok(()) };
        if attachment.vlan.is_some() {
            let change = format!("ip -n {netns} link delete {name}");
            return realised.step(change, netlink.delete_link(link.index).await);
        }
        let change = format!("ip -n {netns} link set {name} netns (the box's own)");
        realised.step(change, netlink.move_link(link.index, &self.home).await)
    }

    pub(super) async fn realise_private(
        &mut self,
        id: DeviceId,
        spec: &DeviceSpec,
        private: &PrivateNetwork,
        realised: &mut Realised,
    ) -> Result<(), String> {
        let PrivateNetwork { netns, attachment, addressing, routes, .. } = private;
        let namespace = match find_namespace(netns)? {
            Some(found) => found,
            None => {
                let made = Namespace::ensure(netns)
                    .map_err(|e| format!("cannot make the network namespace {netns}: {e}"))?;
                realised.changed(format!("ip netns add {netns}"));
                made
            }
        };
        if let Some(DeviceKind::Private(before)) = self.known.get(&id).map(|k| &k.spec.kind)
            && before.attachment != *attachment
        {
            self.detach(&namespace, netns, &before.attachment, realised).await?;
        }
        self.watch(id, netns, &namespace)?;

        let netlink = open_netlink(&namespace)?;
        let ip = format!("ip -n {netns}");
        if let Some(loopback) = find_link(&netlink, "lo").await? {
            bring_up(&netlink, &ip, &loopback, realised).await?;
        }
        // The device does not depend on the interface: without it, packets to the tenant's network end here, and
        // everything is in place when it appears.
        let index = self.realise_device(id, spec, Some((netns, &namespace)), &netlink, realised).await?;
        let mut wanted: Vec<Route> =
            defaults().map(|default| route(default, MAIN_TABLE, index, None)).collect();
        let attached = self.attach(&namespace, netns, attachment, &netlink, realised).await;
        let mut state = HandoffLink::absent(name_of(attachment));
        if let Ok(link) = &attached {
            set_advertisements(&namespace, &link.name, addressing.ra, realised)?;
            bring_up(&netlink, &ip, link, realised).await?;
            let lease = self.ask_dhcp(id, &namespace, link, addressing.dhcp)?;
            let leased = lease.as_ref().map(|lease| IpNetwork::from(lease.address));
            let addresses: Vec<IpNetwork> = addressing.fixed.iter().copied().chain(leased).collect();
            sync_addresses(&netlink, &ip, link, &addresses, addressing.ra, realised).await?;
            let out = |to: IpNetwork, via: IpAddr| route(to, MAIN_TABLE, link.index, Some(via));
            wanted.extend(routes.iter().map(|(to, via)| out(*to, *via)));
            let learned = lease.iter().flat_map(|lease| lease.routes(private));
            wanted.extend(learned.map(|(to, via)| out(to, via)));
            let advertised = netlink.advertised(link.index).await;
            let advertised = advertised.map_err(|e| format!("cannot list routes: {e}"))?;
            if addressing.ra {
                let router = advertised.iter().find_map(|route| match route.target {
                    Target::Link { via, .. } if route.destination.prefix() == 0 => via,
                    _ => None,
                });
                let to = private
                    .reached
                    .iter()
                    .filter(|to| to.is_ipv6() && routes.iter().all(|(said, _)| said != *to));
                wanted.extend(router.into_iter().flat_map(|via| to.clone().map(move |to| out(*to, via))));
            } else {
                // What was learned while that was wanted.
                for route in &advertised {
                    let deleted = netlink.delete_advertised(route).await;
                    realised.step(format!("{ip} route delete {route} proto ra"), deleted)?;
                }
            }
            let has = netlink.addresses(link.index).await.map_err(|e| e.to_string())?;
            // As it is now, and not as it was found.
            let now = find_link(&netlink, &link.name).await?;
            state.carries = now.is_some_and(|link| link.up && link.runs);
            state.addresses = has;
            state.dhcp_server = lease.map(|lease| lease.server);
        } else {
            self.ask_no_more(id);
        }
        realised.handoffs.insert(id, state);
        sync_routes(&netlink, &wanted, &format!("{ip} route"), realised).await?;
        attached.map(drop)
    }

    /// Finds the interface in the namespace, or moves it there, or makes it of a VLAN.
    async fn attach(
        &self,
        namespace: &Namespace,
        netns: &str,
        attachment: &Attachment,
        netlink: &Netlink,
        realised: &mut Realised,
    ) -> Result<Link, String> {
        let interface = &attachment.interface;
        let name = name_of(attachment);
        let present = find_link(netlink, &name).await?;
        let home = open_netlink(&self.home)?;
        let Some(id) = attachment.vlan else {
            if let Some(link) = present {
                return Ok(link);
            }
            let Some(link) = find_link(&home, interface).await? else {
                return Err(format!("there is no interface {interface}, neither in the box nor in {netns}"));
            };
            let moved = home.move_link(link.index, namespace).await;
            realised.step(format!("ip link set {interface} netns {netns}"), moved)?;
            return arrived(netlink, netns, &name).await;
        };

        let Some(trunk) = find_link(&home, interface).await? else {
            return Err(format!("there is no interface {interface}, for VLAN {id} to be on"));
        };
        bring_up(&home, "ip", &trunk, realised).await?;
        let vlan = Vlan { trunk: trunk.index, id };
        match present {
            Some(link) if link.vlan == Some(vlan) => return Ok(link),
            // Of an interface that had the trunk's name before.
            Some(link) if link.vlan.is_some() => {
                let deleted = netlink.delete_link(link.index).await;
                realised.step(format!("ip -n {netns} link delete {name}"), deleted)?;
            }
            Some(_) => return Err(format!("interface {name} in {netns} is no VLAN; somebody put it there")),
            None => {}
        }
        let made = home.add_vlan(&name, vlan, namespace).await;
        let change = format!("ip link add link {interface} name {name} netns {netns} type vlan id {id}");
        realised.step(change, made).map_err(|message| match message {
            message if message.contains("not supported") => {
                format!("{message}; this kernel has no VLANs (8021q)")
            }
            message => message,
        })?;
        arrived(netlink, netns, &name).await
    }

    /// Sees to it that a change in the namespace is told of.
    fn watch(&mut self, id: DeviceId, netns: &str, namespace: &Namespace) -> Result<(), String> {
        if self.learning.get(&id).is_some_and(|learning| learning.netns == netns) {
            return Ok(());
        }
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv6Route];
        let watched = Watched::open(namespace, &groups, self.teller())
            .map_err(|e| format!("cannot watch the network namespace {netns}: {e}"))?;
        self.learning.insert(id, Learning { netns: netns.to_owned(), _watched: watched, dhcp: None });
        Ok(())
    }

    /// Keeps a DHCP client asking for the interface, or none. What it has been given.
    fn ask_dhcp(
        &mut self,
        id: DeviceId,
        namespace: &Namespace,
        link: &Link,
        is_wanted: bool,
    ) -> Result<Option<Lease>, String> {
        let tell = self.teller();
        let Some(learning) = self.learning.get_mut(&id) else { return Ok(None) };
        if !is_wanted {
            learning.dhcp = None;
            return Ok(None);
        }
        let Some(mac) = link.mac else { return Err(format!("{} is not Ethernet: no DHCP", link.name)) };
        let asking = Asking { name: link.name.clone(), index: link.index, mac };
        match &learning.dhcp {
            Some((asks, client)) if *asks == asking => Ok(client.lease()),
            _ => {
                learning.dhcp = None;
                let client = DhcpClient::start(namespace, asking.clone(), tell)
                    .map_err(|e| format!("DHCP on {}: {e}", link.name))?;
                learning.dhcp = Some((asking, client));
                Ok(None)
            }
        }
    }

    fn ask_no_more(&mut self, id: DeviceId) {
        if let Some(learning) = self.learning.get_mut(&id) {
            learning.dhcp = None;
        }
    }
}

async fn arrived(netlink: &Netlink, netns: &str, name: &str) -> Result<Link, String> {
    let found = find_link(netlink, name).await?;
    found.ok_or_else(|| format!("interface {name} did not arrive in {netns}"))
}

/// Whether the interface listens to router advertisements. A namespace that forwards listens to them only where it is told so twice;
/// and what is not to be learned is not to be learned from whoever is on the tenant's network either.
fn set_advertisements(
    namespace: &Namespace,
    interface: &str,
    listens: bool,
    realised: &mut Realised,
) -> Result<(), String> {
    let v6 = format!("net/ipv6/conf/{interface}");
    let metric = UNREACHABLE_METRIC.to_string();
    let settings = [
        // Before the kernel takes a route by one.
        (format!("{v6}/ra_defrtr_metric"), &*metric),
        (format!("{v6}/accept_ra_rt_info_max_plen"), "0"),
        (format!("{v6}/accept_ra"), if listens { "2" } else { "0" }),
    ];
    write_sysctls(namespace, &settings, realised)
}
