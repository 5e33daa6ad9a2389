//! Captures: copies of a tenant's packets as they pass a worker, for somebody who looks at them.
//!
//! The inner side are packets in the clear, where they come in (whatever becomes of them) and where they leave: out of and into
//! tunnels, from and to devices. The outer side are the datagrams of the tenant's tunnels, with the headers they have on the wire.
//! What a worker has copied waits here until its thread takes it away; what finds no room meanwhile is counted.

use crate::model::{DeviceId, PathId, Protocol, TenantId, TransportId};
use crate::wire;
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// 4 MiB for each capture and worker: several batches of the largest packets.
const MAX_STAGED_BYTES: usize = 4 << 20;

/// What is to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSpec {
    pub number: u64,
    pub tenant: TenantId,
    /// The datagrams around its tunnels' packets, and not the packets.
    pub is_outer: bool,
    pub filter: PacketFilter,
    /// So many bytes of each packet.
    pub snap: usize,
}

/// Which packets: those that have all that is said, at either end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketFilter {
    pub address: Option<IpNetwork>,
    pub port: Option<u16>,
    pub protocol: Option<Protocol>,
}

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CaptureInterface {
    Path(PathId),
    Device(DeviceId),
    Transport(TransportId),
}

/// A packet that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket {
    pub unix_nanos: u64,
    pub interface: CaptureInterface,
    /// It leaves by it.
    pub is_outbound: bool,
    /// Of the whole packet, bytes; a super-packet is one.
    pub length: u32,
    /// Its first ones.
    pub bytes: Vec<u8>,
    /// So many were lost since the one before at this interface.
    pub lost: u32,
}

/// The captures that a worker takes part in.
#[derive(Debug, Default)]
pub(super) struct Captures {
    running: Vec<Staged>,
    /// The time of the batch.
    unix_nanos: u64,
}

#[derive(Debug)]
struct Staged {
    spec: CaptureSpec,
    packets: Vec<CapturedPacket>,
    bytes: usize,
    lost: BTreeMap<CaptureInterface, u32>,
}

impl Captures {
    /// These and no others run from now on. What is left of those that go on stays.
    pub(super) fn set(&mut self, specs: Vec<CaptureSpec>) {
        let mut before = std::mem::take(&mut self.running);
        for spec in specs {
            let known = before.iter().position(|staged| staged.spec == spec);
            self.running.push(match known {
                Some(at) => before.swap_remove(at),
                None => Staged { spec, packets: Vec::new(), bytes: 0, lost: BTreeMap::new() },
            });
        }
    }

    /// Whether any looks at this side.
    pub(super) fn looks_at(&self, is_outer: bool) -> bool {
        self.running.iter().any(|staged| staged.spec.is_outer == is_outer)
    }

    /// What is captured from now on was seen at this time.
    pub(super) fn set_time(&mut self, unix_nanos: u64) {
        self.unix_nanos = unix_nanos;
    }

    /// What has been captured since this was last asked.
    pub(super) fn take(&mut self, number: u64) -> impl Iterator<Item = CapturedPacket> + '_ {
        let staged = self.running.iter_mut().find(|staged| staged.spec.number == number);
        staged.into_iter().flat_map(|staged| {
            staged.bytes = 0;
            staged.packets.drain(..)
        })
    }

    /// A packet of `tenant`'s, in the clear.
    #[cold]
    pub(super) fn see_inner(
        &mut self,
        tenant: TenantId,
        interface: CaptureInterface,
        is_outbound: bool,
        packet: &[u8],
    ) {
        self.see((tenant, false), interface, is_outbound, packet);
    }

    /// A datagram of a tunnel of `tenant`'s between `ends`, from and to, which is put into the packet that carries it.
    #[cold]
    pub(super) fn see_outer(
        &mut self,
        tenant: TenantId,
        transport: TransportId,
        is_outbound: bool,
        (from, to): (SocketAddr, SocketAddr),
        datagram: &[u8],
    ) {
        let is_wanted = |staged: &Staged| staged.spec.is_outer && staged.spec.tenant == tenant;
        if !self.running.iter().any(is_wanted) {
            return;
        }
        let (from, to) = of_one_family(from, to);
        if let Some(packet) = wire::udp(from, to, datagram) {
            self.see((tenant, true), CaptureInterface::Transport(transport), is_outbound, &packet);
        }
    }

    fn see(&mut self, side: (TenantId, bool), interface: CaptureInterface, is_outbound: bool, packet: &[u8]) {
        let unix_nanos = self.unix_nanos;
        for staged in self.running.iter_mut().filter(|it| (it.spec.tenant, it.spec.is_outer) == side) {
            if !staged.spec.filter.fits(packet) {
                continue;
            }
            let bytes = packet.len().min(staged.spec.snap);
            if staged.bytes + bytes > MAX_STAGED_BYTES {
                *staged.lost.entry(interface).or_default() += 1;
                continue;
            }
            staged.bytes += bytes;
            let lost = staged.lost.remove(&interface).unwrap_or_default();
            let (length, bytes) = (packet.len() as u32, packet[..bytes].to_vec());
            staged.packets.push(CapturedPacket { unix_nanos, interface, is_outbound, length, bytes, lost });
        }
    }
}

impl PacketFilter {
    /// Whether a packet is one of these. What is no whole packet has no ports.
    fn fits(&self, packet: &[u8]) -> bool {
        if *self == PacketFilter::default() {
            return true;
        }
        let Ok(parsed) = wire::parse_ip(packet) else { return false };
        let has_ports = parsed.protocol.has_ports() && parsed.fragment.is_none_or(|it| it.offset == 0);
        let at = |at: usize| packet.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
        let ports = [0, 2].map(|offset| at(parsed.upper_at + offset).filter(|_| has_ports));
        let ends = [parsed.source(packet), parsed.destination(packet)];
        self.address.is_none_or(|prefix| ends.iter().any(|end| prefix.contains(*end)))
            && self.port.is_none_or(|port| ports.contains(&Some(port)))
            && self.protocol.is_none_or(|protocol| protocol == parsed.protocol)
    }
}

/// What listens at any address has none of the other end's family.
fn of_one_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let like = |end: SocketAddr, other: SocketAddr| {
        let any = match other.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        if end.is_ipv4() == other.is_ipv4() { end } else { SocketAddr::new(any, end.port()) }
    };
    if from.ip().is_unspecified() { (like(from, to), to) } else { (from, like(to, from)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: CaptureInterface = CaptureInterface::Path(PathId(3));
    const ACME: TenantId = TenantId(1);

    fn packet(from: &str, to: &str) -> Vec<u8> {
        let end = |text: &str| text.parse().expect("an address and port");
        wire::udp(end(from), end(to), b"payload").expect("one family")
    }

    fn capturing(filter: PacketFilter, snap: usize) -> Captures {
        let mut captures = Captures::default();
        captures.set(vec![CaptureSpec { number: 7, tenant: ACME, is_outer: false, filter, snap }]);
        captures
    }

    #[test]
    fn what_is_captured_is_the_tenants_and_fits_at_either_end() {
        let there = packet("10.1.0.5:4000", "203.0.113.80:53");
        let back = packet("203.0.113.80:53", "10.1.0.5:4000");
        let filter = |address: &str, port, protocol| PacketFilter {
            address: Some(address.parse().expect("a prefix")),
            port: Some(port),
            protocol: Some(protocol),
        };
        let fitting = [filter("203.0.113.0/24", 53, Protocol::UDP), filter("10.1.0.5/32", 53, Protocol::UDP)];
        let others = [
            filter("10.2.0.0/16", 53, Protocol::UDP),
            filter("10.1.0.5/32", 54, Protocol::UDP),
            filter("10.1.0.5/32", 53, Protocol::TCP),
        ];
        for (filters, packets) in [(&fitting[..], 2), (&others[..], 0), (&[PacketFilter::default()], 2)] {
            for filter in filters {
                let mut captures = capturing(filter.clone(), 1_500);
                captures.see_inner(ACME, PATH, false, &there);
                captures.see_inner(ACME, PATH, true, &back);
                captures.see_inner(TenantId(2), PATH, true, &back);
                captures.see_outer(
                    ACME,
                    TransportId(0),
                    true,
                    (([203, 0, 113, 80], 53).into(), ([10, 1, 0, 5], 53).into()),
                    b"sealed",
                );
                assert_eq!(captures.take(7).count(), packets, "{filter:?}");
                assert_eq!(captures.take(7).count(), 0, "it was taken");
            }
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_with_the_next_at_its_interface() {
        let mut captures = capturing(PacketFilter::default(), 1 << 20);
        let large = vec![0x45; 1 << 20];
        for _ in 0..6 {
            captures.see_inner(ACME, PATH, false, &large);
        }
        let taken: Vec<u32> = captures.take(7).map(|packet| packet.lost).collect();
        assert_eq!(taken, [0; 4]);
        captures.see_inner(ACME, CaptureInterface::Device(DeviceId(1)), true, &large);
        captures.see_inner(ACME, PATH, false, &large);
        let taken: Vec<u32> = captures.take(7).map(|packet| packet.lost).collect();
        assert_eq!(taken, [0, 2]);
    }

    #[test]
    fn a_packet_is_cut_to_what_was_asked_for_and_tells_its_length() {
        let mut captures = capturing(PacketFilter::default(), 28);
        captures.set_time(5);
        captures.see_inner(ACME, PATH, true, &packet("10.1.0.5:4000", "203.0.113.80:53"));
        let taken: Vec<CapturedPacket> = captures.take(7).collect();
        let [CapturedPacket { unix_nanos: 5, is_outbound: true, length: 35, bytes, lost: 0, .. }] =
            &taken[..]
        else {
            panic!("{taken:?}");
        };
        assert_eq!(bytes.len(), 28);
    }

    #[test]
    fn a_datagram_is_captured_in_the_packet_that_carries_it_though_its_socket_listens_at_any_address() {
        let mut captures = Captures::default();
        let spec = CaptureSpec {
            number: 1,
            tenant: ACME,
            is_outer: true,
            filter: PacketFilter::default(),
            snap: 1_500,
        };
        captures.set(vec![spec]);
        let (here, there) = ("[::]:51820".parse().expect("ours"), "192.0.2.9:1001".parse().expect("theirs"));
        captures.see_outer(ACME, TransportId(2), true, (here, there), b"sealed");
        captures.see_outer(ACME, TransportId(2), false, (there, here), b"sealed");
        captures.see_inner(ACME, PATH, true, &packet("10.1.0.5:4000", "203.0.113.80:53"));
        let ends: Vec<[String; 2]> = captures
            .take(1)
            .map(|it| {
                let parsed = wire::parse_ip(&it.bytes).expect("sound");
                [parsed.source(&it.bytes), parsed.destination(&it.bytes)].map(|end| end.to_string())
            })
            .collect();
        assert_eq!(ends, [["0.0.0.0", "192.0.2.9"], ["192.0.2.9", "0.0.0.0"]]);
    }
}
