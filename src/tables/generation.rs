//! A generation: everything the data plane looks up, immutable, published as one `Arc`.

use super::classify::Classifier;
use super::device::DeviceSpec;
use super::names::Names;
use super::nat::{NatPolicy, Pool};
use super::routes::Routes;
use super::rules::{Acl, Subject, unreachable};
use super::services::Services;
use crate::config::{
    BranchLimits, Canary, IcmpSource, NatFiltering, PresharedKey, PrivateKey, Problem, PublicKey, SourceRef,
};
use crate::model::{
    ClassId, DeviceId, DropReason, End, FlowKey, HandoffId, IdMap, Nat64Prefix, NextHop, OnViolation, PathId,
    PrefixMap, Protocol, Queueing, Rate, Remediation, Resilience, Share, SiteId, SlaLimits, TenantId,
    Timeouts, TransportId, Zone,
};
use ipnetwork::IpNetwork;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What is at the far end of the way straight out of a branch.
pub const INTERNET: &str = "internet";

/// Which box it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    pub site: String,
    pub metro: Option<String>,
    pub facility: Option<String>,
}

/// A candidate's compiled tables.
#[derive(Clone)]
pub struct Generation {
    /// Counts up with every commit.
    pub number: u64,
    pub here: Here,
    pub names: Arc<Names>,
    pub tenants: IdMap<TenantId, Tenant>,
    pub paths: IdMap<PathId, PathSpec>,
    pub transports: IdMap<TransportId, TransportSpec>,
    pub devices: IdMap<DeviceId, DeviceSpec>,
    /// Which zone what comes out of a device is in.
    pub device_zones: IdMap<DeviceId, Zone>,
    /// NAT pools and routed prefixes: which tenant an address on the internet's side belongs to.
    pub internet: Routes<InternetPrefix>,
    /// Ports of pools' addresses that lead to a host.
    pub forwards: HashMap<(Protocol, IpAddr, u16), (IpAddr, u16), foldhash::fast::FixedState>,
    /// When classes' packets leave, where bandwidth is limited; of those that say so.
    pub queueing: IdMap<ClassId, Queueing>,
    /// What classes' packets carry from here on; of those that say so.
    pub dscp: IdMap<ClassId, u8>,
    pub icmp_source: IcmpSource,
    pub max_sessions: usize,
    pub active_timeout: Duration,
    /// Whether any class of any tenant's is sent twice, ever.
    pub(super) remediates: bool,
}

/// Whom a prefix that faces the internet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternetPrefix {
    pub tenant: TenantId,
    pub handoff: HandoffId,
    pub kind: InternetKind,
    /// It is the box's own address too: what belongs to no session is for the box.
    pub shared: bool,
}

/// What addresses on the internet's side are to their tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternetKind {
    /// Hosts of the tenant's have them themselves.
    Routed,
    /// Each stands for one inside.
    Mapped(PrefixMap),
    /// A NAT pool's.
    Pool,
}

/// Who stands behind an address and port on the internet's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// One host, always: the internet may call it, as far as the ACL lets it.
    Host { tenant: TenantId, host: (IpAddr, u16) },
    /// Whoever has it from the pool at present.
    Pool { tenant: TenantId, handoff: HandoffId },
}

/// One customer's tables.
#[derive(Clone)]
pub struct Tenant {
    /// Who owns which of the tenant's addresses: the route to it, and the only source it may come from.
    pub owners: Routes<End>,
    pub classifier: Classifier,
    /// Whose DNS answers teach names; empty: anybody's.
    pub dns_teachers: Box<[IpNetwork]>,
    /// Where a PoP answers its hosts itself.
    pub whereabouts: Box<[IpAddr]>,
    pub acl: Acl,
    /// All that its flows can be of.
    pub classes: Box<[ClassId]>,
    pub nat: IdMap<HandoffId, NatPolicy>,
    pub services: Services,
    /// The branch's own way to the internet, past the PoPs.
    pub breakout: Option<Breakout>,
    pub sites: IdMap<SiteId, Site>,
    /// What its path policies ask of paths, in their order: the places of [`Order::sla`].
    pub slas: Box<[Sla]>,
    /// What its classes' packets carry, other than best effort: each path is measured by a stream of probes for each.
    pub streams: Box<[u8]>,
    /// What must stay reachable while a commit is on trial, as far as it can be asked from here.
    pub canaries: Box<[Canary]>,
    pub timeouts: Timeouts,
    /// How many sessions it may have; as many as the box, if `None`.
    pub max_sessions: Option<usize>,
    pub written: Written,
    next_hops: NextHops,
}

/// Where what the tables say is written, as far as they do not say so themselves: for explanations.
#[derive(Clone, Default)]
pub struct Written {
    /// Of branches, and of handoffs, with the handoff's own line; longest first.
    pub(super) prefixes: Vec<(IpNetwork, SourceRef)>,
    pub classes: IdMap<ClassId, SourceRef>,
    /// Path policies.
    pub policies: IdMap<ClassId, SourceRef>,
}

impl Written {
    /// The longest prefix that covers `address`, and where it is written.
    pub fn prefix_of(&self, address: IpAddr) -> Option<&(IpNetwork, SourceRef)> {
        self.prefixes.iter().find(|(prefix, _)| prefix.contains(address))
    }
}

/// A branch's own way to the internet: translated to the address of an interface of its own.
#[derive(Clone)]
pub struct Breakout {
    /// What it is among the paths of an order.
    pub path: PathId,
    /// The site that it leads past.
    pub site: SiteId,
    pub device: DeviceId,
    /// What goes out by the device leaves by this one, and with its address.
    pub interface: String,
    pub pool: Pool,
    /// Whom to ask whether it is any good; `None`: it is taken to be.
    pub echo: Option<EchoSpec>,
    /// The handoffs whose sessions may take it.
    pub(super) handoffs: Box<[HandoffId]>,
    /// By class that may take it: this and the paths, best first.
    pub(super) orders: IdMap<ClassId, Order>,
}

/// Who asks whom, by echo requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoSpec {
    pub source: IpAddr,
    pub targets: Box<[IpAddr]>,
    pub identifier: u16,
}

impl Breakout {
    /// Whether a session may take it, wherever it goes ([`Tenant::may_break_out`]).
    fn is_open_to(&self, subject: &Subject<'_>, class: ClassId) -> bool {
        let is_handoff = |end| matches!(end, End::Handoff(handoff) if self.handoffs.contains(&handoff));
        // As with any pool that is an address of the box's own.
        is_handoff(subject.destination_end)
            && subject.source.is_ipv4()
            && subject.destination.is_ipv4()
            && subject.protocol.has_ports()
            && self.orders.get(class).is_some()
    }

    /// This and the paths of a class that may take it, best first; nothing of another.
    pub fn order(&self, class: ClassId) -> &[PathId] {
        self.orders.get(class).map_or(&[], |order| &order.paths)
    }

    /// What each of them takes, where some are equal; otherwise none.
    pub fn shares(&self, class: ClassId) -> &[Share] {
        self.orders.get(class).map_or(&[], |order| &order.shares)
    }
}

#[derive(Clone)]
pub(super) enum NextHops {
    /// At a PoP a site is reached by its own tunnels, a handoff by its device.
    Pop(IdMap<HandoffId, DeviceId>),
    /// At a branch the LAN is on its device, and all else beyond the PoPs.
    Branch { lan: DeviceId, uplink: SiteId },
}

/// What is at the far end of tunnels.
#[derive(Clone)]
pub struct Site {
    /// Every path there is, in the order of the file.
    pub paths: Box<[PathId]>,
    /// Best first, by app class; classes without a policy take `paths` as it stands.
    pub orders: IdMap<ClassId, Order>,
    /// Where the paths lead to several PoPs: to which.
    pub pops: IdMap<PathId, u16>,
    pub limits: BranchLimits,
}

/// The paths of a class, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Order {
    pub paths: Box<[PathId]>,
    /// Of each, where some are equal; otherwise none.
    pub shares: Box<[Share]>,
    /// The place in [`Tenant::slas`] of what it asks of them.
    pub sla: Option<u8>,
    pub remediation: Remediation,
    pub resilience: Resilience,
}

impl Order {
    /// The same with one more path, at this place, which none is equal to.
    pub(super) fn with_one_alone(&self, at: usize, path: PathId) -> Order {
        let Order { paths, shares, .. } = self;
        let (mut paths, mut shares) = (paths.to_vec(), shares.to_vec());
        if !shares.is_empty() {
            shares.insert(at, Share { group: u16::MAX, weight: 1.0 });
        }
        paths.insert(at, path);
        Order { paths: paths.into(), shares: shares.into(), ..self.clone() }
    }
}

/// What a path policy asks of paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Sla {
    pub name: String,
    pub limits: SlaLimits,
    pub on_violation: OnViolation,
    /// What the packets carry that it is asked for, 0 where their class does not say: probes that carry it say whether it is kept.
    pub dscp: u8,
}

/// A path: one WireGuard peer.
#[derive(Clone, PartialEq)]
pub struct PathSpec {
    pub tenant: TenantId,
    pub site: SiteId,
    /// The far end's name for people: the branch, or the PoP.
    pub far: String,
    /// Only on this transport; any, if `None`.
    pub transport: Option<TransportId>,
    pub private_key: PrivateKey,
    pub public_key: PublicKey,
    pub preshared_key: Option<PresharedKey>,
    pub endpoint: Option<SocketAddr>,
    /// Seconds.
    pub persistent_keepalive: Option<u16>,
    /// This end calls and keeps calling: a branch does, a PoP only to where policy names an endpoint.
    pub calls: bool,
    /// The far end is known to be a popgate, which answers probes; otherwise its first probe shows it.
    pub probes: bool,
    /// What may be sent by it.
    pub bandwidth: Option<Rate>,
    /// Whom to ask whether it is any good, if the far end is no popgate.
    pub echo: Option<EchoSpec>,
}

/// An underlay attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportSpec {
    pub name: String,
    pub listen: SocketAddr,
    pub interface: Option<String>,
    /// The largest inner packet, bytes.
    pub inner_mtu: u16,
    /// What may be sent over it.
    pub bandwidth: Option<Rate>,
}

impl Tenant {
    pub(super) fn new(classifier: Classifier, acl: Acl, timeouts: Timeouts, next_hops: NextHops) -> Tenant {
        Tenant {
            owners: Routes::default(),
            classifier,
            dns_teachers: [].into(),
            whereabouts: [].into(),
            acl,
            classes: Box::default(),
            nat: IdMap::default(),
            services: Services::default(),
            breakout: None,
            sites: IdMap::default(),
            slas: Box::default(),
            streams: Box::default(),
            canaries: Box::default(),
            timeouts,
            max_sessions: None,
            written: Written::default(),
            next_hops,
        }
    }

    /// Whether a session may go straight out of this branch: not to where hosts ask the PoP.
    pub fn may_break_out(&self, subject: &Subject<'_>, class: ClassId) -> bool {
        self.breakout.as_ref().is_some_and(|breakout| breakout.is_open_to(subject, class))
            && !self.whereabouts.contains(&subject.destination)
    }

    /// Where this box itself answers hosts: nowhere, if it is a branch.
    pub fn answers_at(&self) -> &[IpAddr] {
        if matches!(self.next_hops, NextHops::Pop(_)) { &self.whereabouts } else { &[] }
    }

    /// Whether who asks for the SLA at place `sla` would rather have nothing sent than by a path that breaks it.
    pub fn insists(&self, sla: u8) -> bool {
        self.slas.get(usize::from(sla)).is_some_and(|sla| sla.on_violation == OnViolation::Strict)
    }

    /// Who may call what a pool of `handoff` has bound to a host; `None` if the handoff has no translation.
    pub fn filtering(&self, handoff: HandoffId) -> Option<NatFiltering> {
        Some(self.nat.get(handoff)?.filtering)
    }

    /// The prefix within which `handoff` leads from IPv6 to IPv4, if it does.
    pub fn nat64(&self, handoff: HandoffId) -> Option<Nat64Prefix> {
        self.nat.get(handoff)?.nat64
    }

    /// What `key` is to policy if its destination is within a NAT64 prefix: to the IPv4 address that this stands for, of the
    /// protocol that it is there. `None` if it is not.
    ///
    /// # Errors
    /// `Nat64Refused`, where the prefix does not lead to that address: it lies behind its handoff, or nowhere.
    pub fn across(&self, key: &FlowKey) -> Result<Option<FlowKey>, DropReason> {
        let IpAddr::V6(destination) = key.destination() else { return Ok(None) };
        let Some(End::Handoff(handoff)) = self.owners.lookup(key.destination()) else { return Ok(None) };
        let Some(prefix) = self.nat64(handoff).filter(|prefix| prefix.contains(destination)) else {
            return Ok(None);
        };
        let real = prefix.extract(destination).map(IpAddr::V4).ok_or(DropReason::Nat64Refused)?;
        if self.owners.lookup(real) != Some(End::Handoff(handoff)) {
            return Err(DropReason::Nat64Refused);
        }
        let source = (key.source(), key.source_port);
        let destination = (real, key.destination_port);
        Ok(Some(FlowKey::new(key.zone, key.protocol.with(real), source, destination)))
    }

    /// Where packets for `end` go, and the only place its packets may come from.
    pub fn next_hop(&self, end: End) -> Option<NextHop> {
        match (&self.next_hops, end) {
            (NextHops::Pop(_), End::Site(site)) => Some(NextHop::Tunnel(site)),
            (NextHops::Pop(devices), End::Handoff(handoff)) => {
                devices.get(handoff).copied().map(NextHop::Device)
            }
            // Where another tenant's host is, depends on the host.
            (NextHops::Pop(_), End::Lan | End::Tenant(_)) => None,
            (NextHops::Branch { lan, .. }, End::Lan) => Some(NextHop::Device(*lan)),
            (NextHops::Branch { uplink, .. }, End::Site(_) | End::Handoff(_) | End::Tenant(_)) => {
                Some(NextHop::Tunnel(*uplink))
            }
        }
    }
}

impl Site {
    /// The paths for `class`, best first.
    pub fn order(&self, class: ClassId) -> &[PathId] {
        self.orders.get(class).map_or(&self.paths, |order| &order.paths)
    }

    /// What each of them takes, where some are equal for `class`; otherwise none.
    pub fn shares(&self, class: ClassId) -> &[Share] {
        self.orders.get(class).map_or(&[], |order| &order.shares)
    }

    /// The place in [`Tenant::slas`] of what `class` asks of them.
    pub fn sla(&self, class: ClassId) -> Option<u8> {
        self.orders.get(class)?.sla
    }

    /// What becomes of `class`'s running sessions when another path is better for new ones.
    pub fn resilience(&self, class: ClassId) -> Resilience {
        self.orders.get(class).map_or(Resilience::default(), |order| order.resilience)
    }

    /// What is done for `class` beyond sending it by its best path.
    pub fn remediation(&self, class: ClassId) -> Remediation {
        self.orders.get(class).map_or(Remediation::None, |order| order.remediation)
    }
}

impl Generation {
    /// Who is called at an address and port on the internet's side; `None` if it is nobody's.
    pub fn called(&self, protocol: Protocol, (address, port): (IpAddr, u16)) -> Option<Called> {
        let InternetPrefix { tenant, handoff, kind, .. } = self.internet.lookup(address)?;
        let host = match kind {
            InternetKind::Routed => Some((address, port)),
            InternetKind::Mapped(map) => Some((map.to_inside(address)?, port)),
            InternetKind::Pool => match self.forwards.get(&(protocol, address, port)) {
                Some(host) => Some(*host),
                None => return Some(Called::Pool { tenant, handoff }),
            },
        };
        host.map(|host| Called::Host { tenant, host })
    }

    /// What is done for a class beyond sending it by its best path, which is this one.
    pub fn remediation(&self, path: PathId, class: ClassId) -> Remediation {
        if !self.remediates {
            return Remediation::None;
        }
        let site = |spec: &PathSpec| self.tenants.get(spec.tenant)?.sites.get(spec.site);
        self.paths.get(path).and_then(site).map_or(Remediation::None, |site| site.remediation(class))
    }

    /// The branch that has an address and port of a pool's, where that can be computed ([`Pool::branch_of`]).
    ///
    /// [`Pool::branch_of`]: super::Pool::branch_of
    pub fn branch_of(&self, outside: IpAddr, port: u16) -> Option<(TenantId, SiteId)> {
        let InternetPrefix { tenant, handoff, kind: InternetKind::Pool, .. } =
            self.internet.lookup(outside)?
        else {
            return None;
        };
        let IpAddr::V4(outside) = outside else { return None };
        let branch = self.tenants.get(tenant)?.nat.get(handoff)?.branch_of(outside, port)?;
        Some((tenant, branch))
    }

    /// Whose a path is, and what is at its far end, for people: a branch, or a PoP; of the way straight out of a branch, the internet.
    pub fn far_end(&self, path: PathId) -> Option<(TenantId, &str)> {
        if let Some(spec) = self.paths.get(path) {
            return Some((spec.tenant, &spec.far));
        }
        let (tenant, breakout) = self.breakout()?;
        (breakout.path == path).then_some((tenant, INTERNET))
    }

    /// The way straight out of this branch.
    pub fn breakout(&self) -> Option<(TenantId, &Breakout)> {
        self.tenants.iter().find_map(|(id, tenant)| Some((id, tenant.breakout.as_ref()?)))
    }

    /// Whether any bandwidth is limited.
    pub fn is_shaped(&self) -> bool {
        self.transports.iter().any(|(_, transport)| transport.bandwidth.is_some())
            || self.paths.iter().any(|(_, path)| path.bandwidth.is_some())
    }

    /// How long each tenant's sessions are kept.
    pub fn timeouts(&self) -> IdMap<TenantId, Timeouts> {
        self.tenants.iter().map(|(id, tenant)| (id, tenant.timeouts)).collect()
    }

    /// The ACL rules that never decide, each at its line: not wrong, but not what was meant.
    pub fn unreachable_rules(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for (_, tenant) in self.tenants.iter() {
            let rules = tenant.acl.rules();
            let nat64 = tenant.nat.iter().any(|(_, policy)| policy.nat64.is_some());
            for found in unreachable(&tenant.acl, &tenant.classes, &tenant.owners, nat64) {
                let rule = &rules[found.rule];
                let told =
                    |by: usize| format!("{:?} (line {})", self.names.rule(rules[by].id), rules[by].at.line);
                // 3: who wants to know them all begins with these.
                let listed = found.by.iter().take(3).map(|by| told(*by)).collect::<Vec<_>>().join(", ");
                let by = match found.by.len() {
                    1 => format!("rule {listed} takes"),
                    2 | 3 => format!("rules {listed} together take"),
                    more => format!("rules {listed} and {} more together take", more - 3),
                };
                let message = format!(
                    "ACL rule {:?} never decides: {by} everything it could match",
                    self.names.rule(rule.id)
                );
                warnings.push(Problem { at: rule.at.clone(), message });
            }
        }
        warnings.sort_by(|a, b| a.at.cmp(&b.at));
        warnings
    }

    /// `branch:berlin`, `handoff:internet`, `lan`: as policy names it.
    pub fn describe_end(&self, end: End) -> String {
        match end {
            End::Site(site) => format!("branch:{}", self.names.site(site)),
            End::Handoff(handoff) => format!("handoff:{}", self.names.handoff(handoff)),
            End::Lan => "lan".into(),
            End::Tenant(tenant) => format!("tenant:{}", self.names.tenant(tenant)),
        }
    }
}
