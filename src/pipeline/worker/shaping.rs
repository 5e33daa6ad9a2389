//! Shaping: between the choice of a path and the sealing, a packet may have to wait for its turn.

use super::Worker;
use crate::model::{ClassId, DropReason, Now, PathId};
use crate::path::{FullClasses, Offered, ShapedWay, Shaper};
use crate::tunnel::{Endpoint, OVERHEAD};
use crate::wire::Outbound;
use rand::Rng;

/// Of UDP, and of IPv4 and IPv6 without options.
const UDP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

impl Worker {
    /// Brings the rates in line with the generation. What waits goes on waiting.
    pub(super) fn shape(&mut self, now: Now) {
        let is_idle = self.shaper.as_ref().is_none_or(|shaper| shaper.is_idle());
        if !self.generation.is_shaped() && is_idle {
            self.shaper = None;
            return;
        }
        let mut shaper =
            self.shaper.take().unwrap_or_else(|| Box::new(Shaper::new(self.rng.random(), now.instant)));
        let transports = self.generation.transports.iter();
        shaper.set_lines(transports.map(|(id, spec)| (id, spec.bandwidth, self.team.budget(id))));
        for (id, path) in self.paths.iter() {
            shaper.set_path(id, path.spec.bandwidth);
        }
        let gone: Vec<PathId> = shaper.paths().filter(|id| self.paths.get(*id).is_none()).collect();
        for id in gone {
            self.drops.count(None, DropReason::NoPath, shaper.remove(id) as u64);
            self.team.tell_full(id, FullClasses::default());
        }
        self.shaper = Some(shaper);
    }

    /// Sends a packet of `class` by a path; or keeps it, if others are to go first.
    pub(super) fn send_on(
        &mut self,
        id: PathId,
        class: ClassId,
        packet: &[u8],
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        if let Some(shaper) = &mut self.shaper {
            let endpoint = self.paths.get(id).and_then(|path| path.tunnel.endpoint());
            let way = way(id, endpoint.ok_or(DropReason::NoPath)?);
            let queueing = self.generation.queueing.get(class).copied().unwrap_or_default();
            let offered = shaper.offer(way, (class, queueing), packet, now.instant);
            if offered != Offered::Goes {
                shaper.take_full(|path, full| self.team.tell_full(path, full));
            }
            match offered {
                Offered::Goes => {}
                Offered::Waits => return Ok(()),
                Offered::Full(lost) => {
                    let tenant = self.paths.get(id).map(|path| path.spec.tenant);
                    self.drops.count(tenant, DropReason::ClassQueueFull, lost);
                    return Ok(());
                }
            }
        }
        self.seal_into(id, packet, out)
    }

    /// Sends a packet of our own: it measures the path, and not what waits before it.
    pub(super) fn seal_own(
        &mut self,
        id: PathId,
        packet: &[u8],
        now: Now,
        out: &mut Outbound,
    ) -> Result<(), DropReason> {
        if let Some(shaper) = &mut self.shaper
            && let Some(endpoint) = self.paths.get(id).and_then(|path| path.tunnel.endpoint())
        {
            shaper.charge(way(id, endpoint), packet.len(), now.instant);
        }
        self.seal_into(id, packet, out)
    }

    /// Sends what has waited and whose turn it is.
    pub(super) fn release(&mut self, now: Now, out: &mut Outbound) {
        let Some(mut shaper) = self.shaper.take() else { return };
        loop {
            let Self { paths, drops, .. } = self;
            let tenant = |id| paths.get(id).map(|path| path.spec.tenant);
            let departed = shaper.depart(now.instant, |id| {
                drops.count(tenant(id), DropReason::ClassQueueStanding, 1);
            });
            let Some((id, packet)) = departed else { break };
            let tenant = tenant(id);
            if let Err(reason) = self.seal_into(id, &packet, out) {
                self.drops.count(tenant, reason, 1);
            }
            shaper.give_back(packet);
        }
        shaper.take_full(|path, full| self.team.tell_full(path, full));
        self.shaper = Some(shaper);
    }
}

fn way(path: PathId, endpoint: Endpoint) -> ShapedWay {
    let ip = if endpoint.address.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
    ShapedWay { path, transport: endpoint.transport, overhead: OVERHEAD + UDP_HEADER + ip }
}
