//! Taking in: from the underlay (a handshake, or a tunnel message), out of a tunnel (a probe, or a tenant's packet), from a
//! device, from another worker. What is to be forwarded comes out as [`Arrived`].

use super::capturing::see_datagram;
use super::{Arrival, Arrived, Copies, Exit, Worker};
use crate::model::{
    ClassId, DeviceId, DropReason, NextHop, Now, PathId, SiteId, TenantId, TransportId, Zone,
};
use crate::path::{
    self, Action, Firsts, Message, News, Numbering, PROBE_ADDRESS, PathTag, Reply, SHIM_BYTES, Tells,
};
use crate::pipeline::gauge::{Gauge, Why};
use crate::pipeline::recording::Measured;
use crate::pipeline::steering::{Steered, steer};
use crate::tunnel::{Endpoint, Opened, buffer_for, receiver, sequence};
use crate::wire::{self, Handover, Ingress, Outbound};
use rand::Rng;
use std::net::SocketAddr;

/// A probe that is larger is one of full size.
const SMALL_PROBE_BYTES: usize = 512;

impl Worker {
    /// What is to be forwarded of what came in by `ingress`. What is opened goes into `room`, which shrinks by it.
    pub(super) fn take<'a>(
        &mut self,
        ingress: Ingress,
        packet: &'a mut [u8],
        segment: u16,
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        match ingress {
            Ingress::Transport { transport, from } => {
                self.take_underlay(transport, from, packet, false, room, now, out)
            }
            Ingress::Device(device) => self.take_device(device, packet, segment),
            Ingress::Worker(what) => self.take_handover(what, packet, room, now, out),
        }
    }

    // 1 From the underlay.

    #[expect(clippy::too_many_arguments, reason = "a datagram is its bytes and where it came from")]
    fn take_underlay<'a>(
        &mut self,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        handed_over: bool,
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        // The type, and three zero bytes (whitepaper section 5.4).
        if let [2..=4, 0, 0, 0, ..] = datagram
            && let Some(path) = receiver(datagram).and_then(|index| self.paths.by_index(index))
        {
            return self.tunnel_message(path, transport, from, datagram, room, now, out);
        }
        let owner = match datagram {
            [1..=4, 0, 0, 0, ..] if !handed_over => match steer(datagram, self.team.size()) {
                Steered::Worker(worker) if worker == self.id => Err(DropReason::ReceiverIndexUnknown),
                Steered::Worker(worker) => Ok(worker),
                // Its seat is behind the workers'.
                Steered::Entrance => Ok(self.team.size()),
            },
            [1..=4, 0, 0, 0, ..] => Err(DropReason::ReceiverIndexUnknown),
            _ => Err(DropReason::NotWireGuard),
        };
        match owner {
            Ok(owner) => out.hand_over(owner, Handover::Datagram { path: None, transport, from }, datagram),
            Err(reason) => self.drops.count(None, reason, 1),
        }
        None
    }

    fn take_handover<'a>(
        &mut self,
        what: Handover,
        packet: &'a mut [u8],
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        match what {
            Handover::Datagram { path: None, transport, from } => {
                self.take_underlay(transport, from, packet, true, room, now, out)
            }
            Handover::Datagram { path: Some(path), transport, from } if self.paths.get(path).is_some() => {
                self.tunnel_message(path, transport, from, packet, room, now, out)
            }
            // A commit has taken the path away meanwhile.
            Handover::Datagram { .. } => {
                self.drops.count(None, DropReason::PeerUnknown, 1);
                None
            }
            Handover::Arrived { zone, hop, path, segment } => {
                let arrival = Arrival { zone, tenant: zone.as_tenant(), hop, path, handed_over: true };
                Some(Arrived { arrival, packet, segment })
            }
            Handover::Taught { tenant } => {
                self.take_taught(tenant, packet, now);
                None
            }
            Handover::Leaving { path, class, mtu, segment } => {
                self.take_leaving((path, class), packet, segment, mtu, now, out);
                None
            }
        }
    }

    fn take_leaving(
        &mut self,
        (path, class): (PathId, ClassId),
        packet: &mut [u8],
        segment: u16,
        mtu: u16,
        now: Now,
        out: &mut Outbound,
    ) {
        let tenant = self.paths.get(path).map(|path| path.spec.tenant);
        let (outcome, packets) = match wire::parse_super(packet, segment) {
            _ if tenant.is_none() => (Err(DropReason::NoPath), 1),
            Ok(parsed) => (
                self.leave(Exit::Path(path, class), packet, &parsed, mtu, now, out),
                parsed.on_the_wire(packet).0,
            ),
            Err(reason) => (Err(reason), 1),
        };
        if let Err(reason) = outcome {
            self.drops.count(tenant, reason, packets);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a datagram is its bytes and where it came from")]
    fn tunnel_message<'a>(
        &mut self,
        id: PathId,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        room: &mut &'a mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<Arrived<'a>> {
        let len = self.open(id, transport, from, datagram, room, now, out)?;
        let (packet, rest) = std::mem::take(room).split_at_mut(len);
        *room = rest;
        let (arrival, skip) = self.out_of_tunnel(id, packet, now, out)?;
        Some(Arrived { arrival, packet: &mut packet[skip..], segment: 0 })
    }

    /// Lets the tunnel have its message; gives the length of the packet that was in it, if any, and is now in `buffer`.
    #[expect(clippy::too_many_arguments, reason = "a datagram is its bytes and where it came from")]
    fn open(
        &mut self,
        id: PathId,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        buffer: &mut [u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<usize> {
        let path = self.paths.get_mut(id)?;
        let tenant = path.spec.tenant;
        if path.spec.transport.is_some_and(|only| only != transport) {
            self.drops.count(Some(tenant), DropReason::WrongTransport, 1);
            return None;
        }
        if self.sees_outer {
            see_datagram(&mut self.captures, &self.generation, tenant, (transport, from), datagram);
        }
        let had_session = path.tunnel.has_session();
        let opened = match path.tunnel.open(from.ip(), datagram, buffer) {
            Ok(opened) => opened,
            Err(reason) => {
                self.drops.count(Some(tenant), reason, 1);
                return None;
            }
        };
        path.gauge.prober.heard(now.instant);
        if let Some((session, number)) = sequence(datagram) {
            path.arrivals.arrived(session, number, now.instant);
        }
        let mut has_changed = path.tunnel.has_session() != had_session;
        let endpoint = Endpoint { transport, address: from };
        // A cookie reply authenticates nobody.
        if datagram[0] != 3 && path.tunnel.endpoint() != Some(endpoint) {
            path.tunnel.roam(endpoint);
            if path.tell_of_move(now.instant) {
                tracing::info!(path = self.generation.names.site_and_path(id), %from, "peer is at a new endpoint");
            }
            has_changed = true;
        }
        if has_changed {
            path.gauge.why = Why::Heard;
            self.stands_anew(id, now);
        }
        let packet = match opened {
            Opened::Packet(len) => Some(len),
            Opened::Nothing => None,
            Opened::Reply(len) => {
                let before = out.datagrams().len();
                out.push_datagram(transport, from, &buffer[..len]);
                if self.sees_outer {
                    self.see_sent(tenant, before, out);
                }
                if datagram[0] == 2 {
                    if let Some(path) = self.paths.get_mut(id) {
                        path.gauge.prober.hurry(now.instant);
                    }
                    self.paths.schedule(id);
                }
                None
            }
        };
        self.flush_waiting(id, out);
        packet
    }

    /// There may be a session now: what waited for it goes.
    fn flush_waiting(&mut self, id: PathId, out: &mut Outbound) {
        let Some(path) = self.paths.get_mut(id) else { return };
        let Some(Endpoint { transport, address }) = path.tunnel.endpoint() else { return };
        let (tenant, before) = (path.spec.tenant, out.datagrams().len());
        while let Some(len) = path.tunnel.waiting() {
            path.sent.count(len);
            out.write_datagram(transport, address, buffer_for(len), |room| {
                (path.tunnel.seal_waiting(room), ())
            });
        }
        if self.sees_outer {
            self.see_sent(tenant, before, out);
        }
    }

    // 2 Out of a tunnel.

    /// Where the packet is from, and how many bytes of it are none of the packet's own.
    fn out_of_tunnel(
        &mut self,
        id: PathId,
        packet: &[u8],
        now: Now,
        out: &mut Outbound,
    ) -> Option<(Arrival, usize)> {
        let path = self.paths.get_mut(id)?;
        path.received.count(packet.len());
        if let Some(by_dscp) = &mut path.by_dscp {
            by_dscp.received(path::dscp_of(packet));
        }
        if is_probe(packet) {
            self.probe(id, packet, now, out);
            return None;
        }
        if path.echo.is_some() && self.take_echo(id, packet, now) {
            return None;
        }
        let path = self.paths.get_mut(id)?;
        let (tenant, site) = (path.spec.tenant, path.spec.site);
        let arrival = Arrival {
            zone: Zone::tenant(tenant),
            tenant: Some(tenant),
            hop: NextHop::Tunnel(site),
            path: Some(id),
            handed_over: false,
        };
        let copied = path::copied(packet);
        if path.carries(path::dscp_of(packet), copied.is_some(), now.instant) {
            self.paths.schedule(id);
        }
        let Some(copied) = copied else { return Some((arrival, 0)) };
        if self.copies(site).firsts.is_first(copied) {
            return Some((arrival, SHIM_BYTES));
        }
        if let Some(path) = self.paths.get_mut(id) {
            path.duplicates += 1;
        }
        self.drops.count(Some(tenant), DropReason::Duplicate, 1);
        None
    }

    fn probe(&mut self, id: PathId, packet: &[u8], now: Now, out: &mut Outbound) {
        let Some(path) = self.paths.get_mut(id) else { return };
        let arrived = path.arrivals.counts();
        let message = wire::parse_ip(packet).ok().and_then(|ip| Some((Message::read(packet, &ip, now)?, ip)));
        match message {
            Some((Message::Request(asks), ip)) => {
                path.gauge.prober.asked(&asks, now.instant);
                if !path.probed {
                    path.is_popgates(now.instant);
                    path.follow(&self.generation, now.instant);
                } else if asks.answered && !path.spec.calls {
                    // The end that calls is the one that asks.
                    path.gauge.prober.vouched(now.instant);
                }
                self.paths.schedule(id);
                if packet.len() <= SMALL_PROBE_BYTES {
                    self.pace.count(now.instant);
                }
                let stretch = self.pace.stretch();
                let of_stream = match (asks.stream, self.paths.get_mut(id)) {
                    (Some(stream), Some(path)) => path.by_dscp.get_or_insert_default().of(stream.dscps),
                    _ => [0; 2],
                };
                if let Some(reply) = path::reflect(packet, &ip, &Tells { arrived, of_stream, stretch }, now) {
                    self.seal_own(id, &reply, now, out)
                        .unwrap_or_else(|reason| self.drops.count(None, reason, 1));
                }
            }
            Some((Message::Reply(reply), ip)) => self.take_reply(id, ip.dscp, reply, now),
            Some((Message::News(tag, news), _)) => {
                let at = (path.spec.tenant, path.spec.site);
                self.take_news(at, tag, news, now);
            }
            Some((Message::Reason(tag, why), _)) => {
                let at = (path.spec.tenant, path.spec.site);
                if let Some(of) = self.tagged(at, tag) {
                    self.team.hear(of, why, now.instant);
                }
            }
            None => {
                let tenant = path.spec.tenant;
                self.drops.count(Some(tenant), DropReason::AddressNotForwarded, 1);
            }
        }
    }

    /// An answer to a probe of the stream that carries `dscp`.
    fn take_reply(&mut self, id: PathId, dscp: u8, reply: Reply, now: Now) {
        let Some(path) = self.paths.get_mut(id) else { return };
        let arrived = path.arrivals.counts();
        let told = reply.of_stream.zip(path.by_dscp.as_ref());
        let come = told.map_or(0, |(told, by_dscp)| by_dscp.of(told.dscps)[1]);
        let counts = path.gauge.counted(&reply, dscp, come, arrived);
        let Gauge { prober, streams, .. } = &mut path.gauge;
        if let Some(stream) = streams.iter_mut().find(|stream| stream.dscp() == dscp) {
            if stream.answer(prober, (reply.sequence, &reply.stamps), counts, now.instant) {
                self.answered(id, dscp, None, now);
            }
            return;
        }
        let [there, here] = counts;
        let reply = Reply { arrivals: there, ..reply };
        let action = path.gauge.prober.answer(&reply, here.unwrap_or(arrived), now.instant);
        self.answered(id, 0, action, now);
    }

    /// An answer came to a probe of this stream, and this is what the prober makes of it.
    pub(super) fn answered(&mut self, id: PathId, dscp: u8, action: Option<Action>, now: Now) {
        let Some(gauge) = self.paths.gauge_mut(id) else { return };
        let measured = match gauge.stream_mut(dscp) {
            Some(stream) => stream.take_measured(),
            None => gauge.prober.take_measured(),
        };
        if let Some((stamps, [there, here])) = measured {
            let here = here.unwrap_or_default();
            self.recording.write(id, Measured::Answer { stamps, there, here, dscp }, now);
        }
        if let Some(action) = action {
            self.changed(id, action, now);
            self.stands_anew(id, now);
        }
        self.judge(id, dscp, now);
    }

    /// The site says what has become of one of its paths.
    fn take_news(&mut self, (tenant, site): (TenantId, SiteId), tag: PathTag, news: News, now: Now) {
        let Some(id) = self.tagged((tenant, site), tag) else { return };
        let Some(path) = self.paths.get_mut(id) else { return };
        if let Some(action) = path.gauge.prober.told(news, now.instant) {
            self.changed(id, action, now);
            self.stands_anew(id, now);
        }
        self.paths.schedule(id);
    }

    /// Which of a site's paths both ends know by this tag.
    fn tagged(&self, (tenant, site): (TenantId, SiteId), tag: PathTag) -> Option<PathId> {
        let paths = self.generation.tenants.get(tenant)?.sites.get(site)?;
        let has_tag = |id: &PathId| self.paths.get(*id).is_some_and(|path| path.tag == tag);
        paths.paths.iter().copied().find(has_tag)
    }

    /// What a site's copies are numbered and known by.
    pub(super) fn copies(&mut self, site: SiteId) -> &mut Copies {
        if self.copies.get(site).is_none() {
            let stream = self.rng.random();
            self.copies.insert(site, Copies { numbering: Numbering::new(stream), firsts: Firsts::default() });
        }
        self.copies.get_mut(site).expect("just put there")
    }

    fn take_device<'a>(
        &mut self,
        device: DeviceId,
        packet: &'a mut [u8],
        segment: u16,
    ) -> Option<Arrived<'a>> {
        let Some(zone) = self.generation.device_zones.get(device).copied() else {
            self.drops.count(None, DropReason::DeviceDown, 1);
            return None;
        };
        let (tenant, hop) = (zone.as_tenant(), NextHop::Device(device));
        let arrival = Arrival { zone, tenant, hop, path: None, handed_over: false };
        Some(Arrived { arrival, packet, segment })
    }
}

fn is_probe(packet: &[u8]) -> bool {
    packet.len() >= 40 && packet[0] >> 4 == 6 && packet[24..40] == PROBE_ADDRESS.octets()
}
