//! An IPv4 address by DHCP (RFC 2131), for an interface in any network namespace: what of the system would ask there knows of its own
//! namespace alone.
//!
//! The client is mozim's. It runs on a thread that stays in the namespace, since each of its sockets is opened when it is needed;
//! what it has been given is read by whoever sets the interface up, who gives the address to the interface.

use super::namespace::Namespace;
use crate::tables::PrivateNetwork;
use ipnetwork::{IpNetwork, Ipv4Network};
use mozim::{DhcpV4Client, DhcpV4Config, DhcpV4Lease, DhcpV4State};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Before a client that has failed begins anew; servers' own patience is of this order.
const PAUSE: Duration = Duration::from_secs(10);

/// Asks for an address, and for it again, until it is dropped.
#[derive(Debug)]
pub(super) struct DhcpClient {
    held: Arc<Mutex<Option<Lease>>>,
    /// Dropped, it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The interface that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asking {
    pub name: String,
    pub index: u32,
    pub mac: [u8; 6],
}

/// What a server has given for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub address: Ipv4Network,
    pub server: Ipv4Addr,
    /// The way to everywhere else; the first there is (RFC 2132 section 3.5).
    router: Option<Ipv4Addr>,
    /// Ways to some networks. Where there are any, `router` counts for nothing (RFC 3442).
    ways: Vec<(Ipv4Network, Ipv4Addr)>,
}

impl DhcpClient {
    /// Begins to ask; `tell` is called whenever [`DhcpClient::lease`] has changed.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(
        namespace: &Namespace,
        asking: Asking,
        tell: impl Fn() + Send + 'static,
    ) -> io::Result<DhcpClient> {
        let held = Arc::new(Mutex::new(None));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kept = Arc::clone(&held);
        let thread = namespace.spawn("dhcp", move || {
            let set = |lease: Option<Lease>| {
                let mut held = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if *held != lease {
                    *held = lease;
                    drop(held);
                    tell();
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = ask_on(&asking, set) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(DhcpClient { held, stop: Some(stop), thread: Some(thread) })
    }

    /// What the interface has been given and may still use.
    pub(super) fn lease(&self) -> Option<Lease> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DhcpClient {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been told.
            if let Ok(Err(error)) = thread.join() {
                tracing::error!("DHCP: {error}");
            }
        }
    }
}

async fn ask_on(asking: &Asking, set: impl Fn(Option<Lease>)) {
    loop {
        if let Err(error) = ask(asking, &set).await {
            tracing::warn!("DHCP on {}: {error}", asking.name);
        }
        set(None);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(asking: &Asking, set: &impl Fn(Option<Lease>)) -> Result<(), mozim::DhcpError> {
    let mut config = DhcpV4Config::new(&asking.name);
    config.set_iface_index(asking.index).set_iface_mac_raw(&asking.mac)?.use_mac_as_client_id();
    let mut client = DhcpV4Client::init(config, None).await?;
    loop {
        match client.run().await? {
            DhcpV4State::Done(lease) => {
                let lease = Lease::of(&lease);
                tracing::info!("DHCP on {}: {} of {}", asking.name, lease.address, lease.server);
                set(Some(lease));
            }
            DhcpV4State::Renewing | DhcpV4State::Rebinding => {}
            // It has run out, or was refused.
            DhcpV4State::InitReboot | DhcpV4State::Selecting => set(None),
        }
    }
}

impl Lease {
    fn of(lease: &DhcpV4Lease) -> Lease {
        let network = |address, length| Ipv4Network::new(address, length).ok();
        let mask = Ipv4Network::with_netmask(lease.yiaddr, lease.subnet_mask).ok();
        let given = lease.classless_routes.iter().flatten();
        let ways = given.filter_map(|way| Some((network(way.destination, way.prefix_length)?, way.router)));
        Lease {
            address: mask.unwrap_or_else(|| Ipv4Network::from(lease.yiaddr)),
            server: lease.srv_id,
            router: lease.gateways.iter().flatten().next().copied(),
            ways: ways.collect(),
        }
    }

    /// By which routers what the handoff reaches is reached, as far as neither the interface's own networks nor the configured
    /// routes say so.
    pub(super) fn routes(&self, wanted: &PrivateNetwork) -> Vec<(IpNetwork, IpAddr)> {
        let everywhere = Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).ok();
        let default = if self.ways.is_empty() { everywhere.zip(self.router) } else { None };
        let ways: Vec<_> =
            self.ways.iter().copied().chain(default).filter(|(_, via)| !via.is_unspecified()).collect();
        let mut routes = Vec::new();
        for reached in wanted.reached.iter() {
            let IpNetwork::V4(reached) = *reached else { continue };
            // The way that leads there whole, and those that lead to parts of it.
            let whole =
                ways.iter().filter(|(to, _)| reached.is_subnet_of(*to)).max_by_key(|(to, _)| to.prefix());
            let parts = ways.iter().filter(|(to, _)| to.is_subnet_of(reached) && *to != reached);
            routes.extend(whole.map(|(_, via)| (reached, *via)));
            routes.extend(parts.copied());
        }
        let own = |to: &Ipv4Network| to.is_subnet_of(self.address);
        let said = |to: &Ipv4Network| wanted.routes.iter().any(|(prefix, _)| *prefix == IpNetwork::V4(*to));
        let routes = routes.into_iter().filter(|(to, _)| !own(to) && !said(to));
        routes.map(|(to, via)| (to.into(), via.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Addressing, Attachment};

    fn network(text: &str) -> Ipv4Network {
        text.parse().expect("a prefix")
    }

    fn wanted(reached: &[&str], routes: &[(&str, &str)]) -> PrivateNetwork {
        PrivateNetwork {
            tenant: "acme".into(),
            handoff: "dc".into(),
            netns: "n".into(),
            attachment: Attachment { interface: "eth1".into(), vlan: Some(5) },
            addressing: Addressing { dhcp: true, ..Addressing::default() },
            routes: routes
                .iter()
                .map(|(to, via)| (to.parse().expect("a prefix"), via.parse().expect("an address")))
                .collect(),
            reached: reached.iter().map(|to| to.parse().expect("a prefix")).collect(),
        }
    }

    fn lease(router: Option<&str>, ways: &[(&str, &str)]) -> Lease {
        Lease {
            address: network("10.200.0.7/24"),
            server: Ipv4Addr::new(10, 200, 0, 1),
            router: router.map(|router| router.parse().expect("an address")),
            ways: ways.iter().map(|(to, via)| (network(to), via.parse().expect("an address"))).collect(),
        }
    }

    fn told(lease: &Lease, wanted: &PrivateNetwork) -> Vec<String> {
        lease.routes(wanted).iter().map(|(to, via)| format!("{to} via {via}")).collect()
    }

    #[test]
    fn the_router_leads_to_all_that_the_handoff_reaches_and_the_link_has_not() {
        let lease = lease(Some("10.200.0.1"), &[]);
        let wanted = wanted(&["10.200.0.0/16", "10.200.0.128/25", "172.16.0.0/12", "2001:db8::/32"], &[]);
        assert_eq!(told(&lease, &wanted), ["10.200.0.0/16 via 10.200.0.1", "172.16.0.0/12 via 10.200.0.1"]);
    }

    #[test]
    fn what_the_configuration_says_of_a_prefix_stands() {
        let lease = lease(Some("10.200.0.1"), &[]);
        let wanted = wanted(&["10.200.0.0/16"], &[("10.200.0.0/16", "10.200.0.254")]);
        assert_eq!(told(&lease, &wanted), [""; 0]);
    }

    #[test]
    fn classless_routes_stand_in_the_routers_place() {
        let ways =
            [("0.0.0.0/0", "10.200.0.2"), ("10.200.8.0/21", "10.200.0.3"), ("192.168.0.0/16", "10.200.0.4")];
        let lease = lease(Some("10.200.0.1"), &ways);
        let wanted = wanted(&["10.200.0.0/16"], &[]);
        assert_eq!(told(&lease, &wanted), ["10.200.0.0/16 via 10.200.0.2", "10.200.8.0/21 via 10.200.0.3"]);
    }

    #[test]
    fn without_any_router_there_is_the_link_alone() {
        assert_eq!(told(&lease(None, &[]), &wanted(&["10.200.0.0/16"], &[])), [""; 0]);
    }
}
