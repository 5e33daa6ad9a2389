//! What a generation wants of the kernel, and which thread gets it.

use super::crew::Crew;
use crate::control::HandoffRow;
use crate::io::network::{self, HandoffLink, Network, NetworkWatch};
use crate::io::udp::{Listen, TransportSocket};
use crate::model::{DeviceId, TransportId};
use crate::pipeline::DeadLinks;
use crate::tables::{DeviceKind, DeviceSpec, Generation};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// How private handoffs' interfaces were found to be; read by whoever is asked.
pub(super) type HandoffRows = Arc<ArcSwap<Vec<HandoffRow>>>;

/// The kernel's devices and sockets, brought in line with a generation.
pub(super) struct Kernel {
    network: Network,
    crew: Crew,
    bound: Vec<(TransportId, Listen)>,
    /// By which interface's addresses transports send, as far as one has been seen to have them.
    homes: BTreeMap<IpAddr, String>,
    /// What the workers have been told.
    dead: DeadLinks,
    /// Nothing is missing.
    complete: bool,
    handoffs: HandoffRows,
}

impl Kernel {
    /// With nothing opened yet; what will be goes to `crew`.
    pub(super) fn new(crew: Crew, watch: &NetworkWatch) -> io::Result<Kernel> {
        let network = Network::new(crew.workers(), watch.teller())?;
        let (homes, dead) = (BTreeMap::new(), DeadLinks::default());
        Ok(Kernel {
            network,
            crew,
            bound: Vec::new(),
            homes,
            dead,
            complete: false,
            handoffs: HandoffRows::default(),
        })
    }

    /// Whether everything the last generation wanted is there.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether nobody can reach the box.
    pub(super) fn is_deaf(&self) -> bool {
        self.bound.is_empty()
    }

    /// Opens what `generation` wants and is not there, and closes what it does not want.
    pub(super) async fn bring_to(&mut self, generation: &Generation) {
        let transports = self.bring_transports_to(generation).await;
        let devices = self.bring_devices_to(generation).await;
        self.complete = transports && devices;
        self.follow_links(generation).await;
    }

    /// Tells the workers of transports, and of the way straight out, whose interface can carry nothing, and when it can again. One
    /// that nobody knows the interface of is taken to carry.
    pub(super) async fn follow_links(&mut self, generation: &Generation) {
        let interfaces = match network::interfaces().await {
            Ok(interfaces) => interfaces,
            Err(error) => {
                tracing::warn!("this box's interfaces: {error}");
                return;
            }
        };
        for interface in &interfaces {
            self.homes.extend(interface.addresses.iter().map(|address| (*address, interface.name.clone())));
        }
        let carries = |name: &String| interfaces.iter().any(|one| one.name == *name && one.carries);
        let is_dead = |listen: &Listen| {
            let home = listen.interface.as_ref().or_else(|| self.homes.get(&listen.address.ip()));
            home.is_some_and(|name| !carries(name))
        };
        let transports = self.bound.iter().filter(|(_, listen)| is_dead(listen)).map(|(id, _)| *id);
        let outlet = generation.breakout().is_some_and(|(_, breakout)| !carries(&breakout.interface));
        let dead = DeadLinks { transports: transports.collect(), outlet };
        if self.dead != dead {
            self.crew.tell_links(&dead).await;
            self.dead = dead;
        }
    }

    /// Whether something in a tenant's namespace has changed by itself.
    pub(super) fn has_news(&self) -> bool {
        self.network.has_news()
    }

    /// Whether something is not as it was left, by somebody else or by itself.
    pub(super) fn has_lost_something(&mut self) -> bool {
        self.network.has_lost_masquerades() || self.network.has_news()
    }

    /// Takes away what should not outlive the process.
    pub(super) fn leave(&mut self) {
        self.network.leave();
    }

    async fn bring_transports_to(&mut self, generation: &Generation) -> bool {
        let wanted: Vec<(TransportId, Listen)> = generation
            .transports
            .iter()
            .map(|(id, spec)| (id, Listen { address: spec.listen, interface: spec.interface.clone() }))
            .collect();
        let close: Vec<TransportId> =
            self.bound.iter().filter(|bound| !wanted.contains(bound)).map(|(id, _)| *id).collect();
        // Closed first, by everybody: an address can be bound once.
        if !close.is_empty() {
            self.crew.close_transports(close).await;
            self.bound.retain(|bound| wanted.contains(bound));
        }
        for (id, listen) in &wanted {
            if self.bound.iter().any(|(bound, _)| bound == id) {
                continue;
            }
            match TransportSocket::bind_group(*id, listen, self.crew.workers()) {
                Ok(group) => {
                    if self.crew.open_transport(group).await {
                        self.bound.push((*id, listen.clone()));
                    }
                }
                Err(error) => tracing::warn!("{error}; will try again"),
            }
        }
        self.bound.len() == wanted.len()
    }

    async fn bring_devices_to(&mut self, generation: &Generation) -> bool {
        let wanted: Vec<_> = generation.devices.iter().map(|(id, spec)| (id, spec.clone())).collect();
        let realised = self.network.realise(&wanted).await;
        let unchanged = realised.opened.is_empty() && realised.closed.is_empty();
        let handed_over = unchanged || self.crew.replace_devices(realised.closed, realised.opened).await;
        self.show_handoffs(generation, &realised.handoffs);
        realised.problems.is_empty() && handed_over
    }

    fn show_handoffs(&self, generation: &Generation, links: &BTreeMap<DeviceId, HandoffLink>) {
        let row = |(id, spec): (DeviceId, &DeviceSpec)| {
            let DeviceKind::Private(private) = &spec.kind else { return None };
            let link = links.get(&id);
            Some(HandoffRow {
                tenant: private.tenant.clone(),
                handoff: private.handoff.clone(),
                interface: link.map_or(&private.attachment.interface, |link| &link.interface).clone(),
                up: link.is_some_and(|link| link.carries),
                addresses: link.iter().flat_map(|link| &link.addresses).map(ToString::to_string).collect(),
                dhcp_server: link.and_then(|link| link.dhcp_server).map(|server| server.to_string()),
            })
        };
        let rows: Vec<HandoffRow> = generation.devices.iter().filter_map(row).collect();
        let before = self.handoffs.load();
        for row in &rows {
            let was = before.iter().find(|was| (&was.tenant, &was.handoff) == (&row.tenant, &row.handoff));
            if was.is_none_or(|was| was.up != row.up) {
                let HandoffRow { tenant, handoff, interface, .. } = row;
                match row.up {
                    true => tracing::info!(tenant, handoff, interface, "handoff: its link is up"),
                    false => tracing::warn!(tenant, handoff, interface, "handoff: its link is down"),
                }
            }
        }
        self.handoffs.store(Arc::new(rows));
    }

    /// Where it is told how private handoffs' interfaces are.
    pub(super) fn handoffs(&self) -> HandoffRows {
        Arc::clone(&self.handoffs)
    }
}
