//! Capturing: where a packet or datagram passes that somebody may be looking at.
//!
//! Whoever asks has asked [`Worker::sees_inner`] or [`Worker::sees_outer`] first, so that nothing of this costs anything while no
//! capture runs.

use super::{Arrival, CaptureInterface, CaptureSpec, CapturedPacket, Captures, Exit, Worker};
use crate::model::{DeviceId, NextHop, TenantId, TransportId, Zone};
use crate::tables::Generation;
use crate::wire::{Outbound, Parsed};
use std::net::{IpAddr, SocketAddr};

impl Worker {
    /// These captures and no others run from now on.
    pub fn capture(&mut self, specs: Vec<CaptureSpec>) {
        self.captures.set(specs);
        (self.sees_inner, self.sees_outer) = (self.captures.looks_at(false), self.captures.looks_at(true));
    }

    /// What has been captured for one of them since this was last asked.
    pub fn take_captured(&mut self, capture: u64) -> impl Iterator<Item = CapturedPacket> + '_ {
        self.captures.take(capture)
    }

    // Inner.

    /// A packet has come in. Another worker that has passed it on has seen it already, if it could tell whose it is.
    #[cold]
    pub(super) fn see_arrived(&mut self, arrival: Arrival, packet: &[u8], parsed: &Parsed) {
        if !arrival.handed_over
            && let Some(tenant) =
                arrival.tenant.or_else(|| whose(&self.generation, parsed.destination(packet)))
        {
            see_by_hop(&mut self.captures, tenant, arrival, packet);
        }
    }

    /// A packet leaves; by a device that all tenants share as `tenant`'s, or whose address it comes from.
    #[cold]
    pub(super) fn see_leaving(
        &mut self,
        tenant: Option<TenantId>,
        exit: Exit,
        packet: &[u8],
        parsed: &Parsed,
    ) {
        let (tenant, interface) = match exit {
            // A service of another tenant's is called by tunnels and devices of that one's.
            Exit::Path(path, _) => {
                (self.generation.paths.get(path).map(|spec| spec.tenant), CaptureInterface::Path(path))
            }
            Exit::Device(device) => {
                let tenant = self.zone(device).as_tenant().or(tenant);
                let tenant = tenant.or_else(|| whose(&self.generation, parsed.source(packet)));
                (tenant, CaptureInterface::Device(device))
            }
        };
        if let Some(tenant) = tenant {
            self.captures.see_inner(tenant, interface, true, packet);
        }
    }

    fn zone(&self, device: DeviceId) -> Zone {
        self.generation.device_zones.get(device).copied().unwrap_or(Zone::INTERNET)
    }

    // Outer.

    /// All datagrams but the first so many were written for tunnels of `tenant`'s.
    #[cold]
    pub(super) fn see_sent(&mut self, tenant: TenantId, before: usize, out: &Outbound) {
        for (transport, to, datagram) in out.datagrams().skip(before) {
            if let Some(here) = self.generation.transports.get(transport).map(|spec| spec.listen) {
                self.captures.see_outer(tenant, transport, true, (here, to), datagram);
            }
        }
    }
}

// Those that a packet on its way asks for: they take a worker apart, so that what is known of the packet by then stays known.

/// A packet that has come in from the internet is found to be `tenant`'s: what is sent to an address that tenants share is
/// whose session it is.
#[cold]
pub(super) fn see_found(
    captures: &mut Captures,
    generation: &Generation,
    tenant: TenantId,
    arrival: Arrival,
    packet: &[u8],
    parsed: &Parsed,
) {
    if arrival.tenant.is_none() && whose(generation, parsed.destination(packet)).is_none() {
        see_by_hop(captures, tenant, arrival, packet);
    }
}

/// A datagram has come for a tunnel of `tenant`'s.
#[cold]
pub(super) fn see_datagram(
    captures: &mut Captures,
    generation: &Generation,
    tenant: TenantId,
    (transport, from): (TransportId, SocketAddr),
    datagram: &[u8],
) {
    if let Some(here) = generation.transports.get(transport).map(|spec| spec.listen) {
        captures.see_outer(tenant, transport, false, (from, here), datagram);
    }
}

fn see_by_hop(captures: &mut Captures, tenant: TenantId, arrival: Arrival, packet: &[u8]) {
    let interface = match (arrival.path, arrival.hop) {
        (Some(path), _) => CaptureInterface::Path(path),
        (None, NextHop::Device(device)) => CaptureInterface::Device(device),
        // A probe of ours has come from nowhere.
        (None, NextHop::Tunnel(_)) => return,
    };
    captures.see_inner(tenant, interface, false, packet);
}

/// Whose an address on the internet's side is, if it is one tenant's alone.
fn whose(generation: &Generation, address: IpAddr) -> Option<TenantId> {
    let prefix = generation.internet.lookup(address).filter(|prefix| !prefix.shared)?;
    Some(prefix.tenant)
}
