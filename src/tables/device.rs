//! The TUN devices a generation asks `io` for, and what the kernel must know so that the right packets come out of them.

use crate::config::{Addressing, Attachment};
use ipnetwork::IpNetwork;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

/// A TUN device that `io` keeps. Two specs that are equal need no work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// The device's name in the namespace it lives in, at most 15 bytes.
    pub name: String,
    /// Bytes. Packets too big for a path are answered by the pipeline, so this is the handoff's MTU, not the tunnel's.
    pub mtu: u16,
    pub kind: DeviceKind,
}

/// What a tenant's network namespace holds besides the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateNetwork {
    pub tenant: String,
    pub handoff: String,
    pub netns: String,
    /// Moved there from the box's namespace, or made there of a VLAN.
    pub attachment: Attachment,
    pub addressing: Addressing,
    /// Routers behind the interface: `prefix -> next hop`.
    pub routes: Vec<(IpNetwork, IpAddr)>,
    /// What the handoff leads to: where neither the interface nor `routes` has it, by the router that DHCP or an advertisement
    /// names.
    pub reached: Vec<IpNetwork>,
}

/// Ports of an address of the box's own, which are given out to tenants' sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    pub interface: String,
    /// The interface's, when the generation was compiled; none if it had none.
    pub address: Option<Ipv4Addr>,
    pub ports: RangeInclusive<u16>,
}

/// Which side of the box a device faces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// All tenants' internet handoff: in the box's own namespace, with `routes` (NAT pools, routed prefixes) pointing
    /// into it; what is written to it the kernel forwards by its own routes. What comes for the ports that `masquerades`
    /// give out is led into it too.
    Internet { routes: Vec<IpNetwork>, masquerades: Vec<Masquerade> },
    /// One tenant's private handoff: in the namespace `netns` (a name under /run/netns, made when missing, left in place
    /// at exit and found again, removed when no generation wants it), together with the interface that is attached; everything
    /// else in that namespace is routed to the device.
    Private(PrivateNetwork),
    /// A branch's LAN: in the box's own namespace; whatever arrives on `interfaces` and is not for the box itself is led
    /// into the device by policy routing, unless it goes from one of them to another.
    /// What the box itself sends from one of `own`, its addresses there, goes the same way.
    Lan { interfaces: Vec<String>, own: Vec<IpAddr> },
}
