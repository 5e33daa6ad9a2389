//! A candidate: a configuration that has been read and found whole, with every name resolved to something that exists.
//! What is in here needs no further checking; `tables` compiles it without being able to fail.

use super::App;
use super::admin::Admin;
use super::export::CollectorTls;
use super::interfaces::{Interface, LanServices};
use super::object_store::ObjectStore;
use crate::model::{
    AskedFlow, ExportProtocol, HostName, Nat64Prefix, OnViolation, PrefixMap, Protocol, Queueing, Rate,
    RecordKind, Remediation, Resilience, SlaLimits, Timeouts,
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// A checked configuration that is not active (yet).
#[derive(Clone, Debug)]
pub struct Candidate {
    pub appliance: Appliance,
    /// By tenant name.
    pub tenants: BTreeMap<String, Tenant>,
}

/// Where something was written: for explanations and problems.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRef {
    /// Relative to the configuration directory: `tenants/acme.toml`.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// `popgate.toml`: the box.
#[derive(Clone, Debug)]
pub struct Appliance {
    /// The site's short name, `fra1`.
    pub site: String,
    pub metro: Option<String>,
    pub facility: Option<String>,
    pub role: Role,
    /// Admin token, revisions, NAT ledger, flow history.
    pub state_dir: PathBuf,
    pub transports: Vec<Transport>,
    /// The source of ICMP errors towards tenants. RFC 7600's dummy address unless configured.
    pub icmp_source: IcmpSource,
    /// How many sessions the box holds at most.
    pub max_sessions: usize,
    /// How many threads forward; unless configured, the role and the machine decide.
    pub workers: Option<NonZeroU16>,
    pub admin: Admin,
    pub export: Export,
    /// `None` unless it is to be kept.
    pub nat_ledger: Option<NatLedger>,
    /// `None` unless it is to be kept.
    pub flow_history: Option<FlowHistory>,
    pub commit_guard: CommitGuard,
    /// The box's own interfaces, as far as popgate is to have them kept.
    pub interfaces: Vec<Interface>,
    /// Where entries of the audit log are sent by syslog (RFC 5424), over UDP.
    pub audit_syslog: Option<SocketAddr>,
}

/// When a commit is taken back because the box is worse off with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommitGuard {
    /// For how long the box is watched; one that is still to be confirmed is watched until it is.
    pub watch: Duration,
    /// Of the tunnels that were up this share may be down, 0 to 1.
    pub tunnels_lost: f64,
    /// Of all packets this share more may be dropped than before, 0 to 1; however many if `None`.
    pub drops: Option<f64>,
}

/// The history of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowHistory {
    /// Records that are older are deleted.
    pub keep: Duration,
    /// And so are sums of these.
    pub keep_rollups: Duration,
    /// Of each tenant the oldest is deleted before its files are larger together; bytes.
    pub tenant_quota: u64,
    /// Where its files are copied to.
    pub object_store: Option<Arc<ObjectStore>>,
}

/// The ledger of who had which outside address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatLedger {
    /// What ended longer ago is deleted.
    pub keep: Duration,
    /// The oldest is deleted before the files are larger together.
    pub max_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpSource {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// What the box is.
#[derive(Clone, Debug)]
pub enum Role {
    /// A PoP: one key pair, any number of tenants, handoffs.
    Pop(Pop),
    /// A branch of one tenant: a LAN, and tunnels to PoPs.
    Branch(Branch),
}

#[derive(Clone, Debug)]
pub struct Pop {
    pub private_key: PrivateKey,
    /// The TUN device that NAT pools are routed to.
    pub internet_device: String,
}

#[derive(Clone, Debug)]
pub struct Branch {
    /// The TUN device the LAN's traffic is led through.
    pub lan_device: String,
    /// The interfaces whose traffic is led into it; none: the operator routes by hand.
    pub lan_interfaces: Vec<String>,
    pub lan_services: LanServices,
    pub breakout: Option<Breakout>,
    pub pops: Vec<PopPeer>,
}

/// The name of the way straight out of a branch, among those of paths.
pub const BREAKOUT: &str = "breakout";

/// The way straight out of the branch to the internet.
#[derive(Clone, Debug)]
pub struct Breakout {
    /// Whose own address, as it is at the time, hosts' addresses are translated to.
    pub interface: String,
    /// The ports of it that may be given out.
    pub nat_ports: RangeInclusive<u16>,
    /// The TUN device.
    pub device: String,
    /// Who answers echo requests as long as the way is any good; of several, whoever does soonest.
    pub probe_targets: Vec<Ipv4Addr>,
}

/// A PoP, as a branch knows it.
#[derive(Clone, Debug)]
pub struct PopPeer {
    pub name: String,
    pub public_key: PublicKey,
    pub paths: Vec<PopPath>,
    pub at: SourceRef,
}

/// A branch's path to a PoP.
#[derive(Clone, Debug)]
pub struct PopPath {
    /// The name path policies use; unique at the branch.
    pub name: String,
    /// One of the box's transports.
    pub transport: String,
    pub endpoint: SocketAddr,
    pub private_key: PrivateKey,
    pub preshared_key: Option<PresharedKey>,
    /// Seconds; WireGuard's own unit.
    pub persistent_keepalive: Option<u16>,
    /// What the branch may send by it.
    pub bandwidth: Option<Rate>,
    pub at: SourceRef,
}

/// An underlay attachment.
#[derive(Clone, Debug)]
pub struct Transport {
    pub name: String,
    /// Where WireGuard datagrams are received and sent from.
    pub listen: SocketAddr,
    /// Sends and receives over this interface alone, whatever the routes say.
    pub interface: Option<String>,
    /// The underlay's MTU in bytes; tunnel packets are 80 smaller (60 over IPv4 would do, but the address family of
    /// a roaming peer may change).
    pub mtu: u16,
    /// What may be sent over it, all that is around packets included.
    pub bandwidth: Option<Rate>,
    pub at: SourceRef,
}

impl Transport {
    /// The largest inner packet that fits, bytes.
    pub fn inner_mtu(&self) -> u16 {
        self.mtu.saturating_sub(80)
    }
}

#[derive(Clone, Debug)]
pub struct Export {
    /// A session that lasts longer is reported this often.
    pub active_timeout: Duration,
    /// One packet in so many is shown to collectors that speak sFlow.
    pub packet_sampling: u32,
    pub collectors: Vec<Collector>,
}

/// A flow collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    pub name: String,
    pub address: SocketAddr,
    pub protocol: ExportProtocol,
    pub transport: CollectorTransport,
    /// RFC 7011 section 3.1; NetFlow v9's source id.
    pub observation_domain: u32,
    /// Of these tenants only; `None` is all.
    pub tenants: Option<BTreeSet<String>>,
    pub records: BTreeSet<RecordKind>,
    /// Whether a session is one record, both ways (RFC 5103), and not two.
    pub biflow: bool,
}

/// What carries messages to a collector (RFC 7011 section 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectorTransport {
    Udp,
    Tcp,
    Tls(CollectorTls),
}

/// `tenants/NAME.toml`: one customer.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub name: String,
    pub branches: Vec<TenantBranch>,
    pub handoffs: Vec<Handoff>,
    /// What other tenants may call, as far as they are subscribers.
    pub published: Vec<PublishedService>,
    pub subscribers: Vec<Subscriber>,
    /// What it calls in other tenants.
    pub subscriptions: Vec<Subscription>,
    /// Its own apps; the catalog has the others.
    pub apps: Vec<App>,
    /// Whose DNS answers may teach which name an address has; empty: anybody's.
    pub dns_teachers: Vec<IpNetwork>,
    /// Where a PoP itself answers its hosts, by the name of [`WHEREABOUTS`]: at most one of each family, and nobody else's.
    ///
    /// [`WHEREABOUTS`]: crate::model::WHEREABOUTS
    pub whereabouts: Vec<IpAddr>,
    /// In the order they are tried; the first match wins, what matches none is of class `default`.
    pub classes: Vec<AppClass>,
    /// In the order they are tried; the first match wins, what matches none is dropped.
    pub acl: Vec<AclRule>,
    /// In the order they are tried; what matches none takes its handoff's pool.
    pub nat: Vec<NatRule>,
    pub path_policies: Vec<PathPolicy>,
    pub policy_tests: Vec<PolicyTest>,
    pub canaries: Vec<Canary>,
    pub timeouts: Timeouts,
    /// How many sessions the tenant has at most; as many as the box, if `None`.
    pub max_sessions: Option<usize>,
    pub file: Arc<str>,
}

/// The class of everything no `[[app-class]]` matches.
pub const DEFAULT_CLASS: &str = "default";

#[derive(Clone, Debug)]
pub struct TenantBranch {
    pub name: String,
    pub prefixes: Vec<IpNetwork>,
    /// Where each of them is written.
    pub prefixes_at: Vec<SourceRef>,
    pub paths: Vec<TenantPath>,
    pub limits: BranchLimits,
    pub at: SourceRef,
}

/// What one branch may have of what all share (RFC 6888 REQ-4, REQ-12); `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BranchLimits {
    pub max_sessions: Option<usize>,
    pub new_sessions_per_second: Option<NonZeroU32>,
}

/// A PoP's path to a branch: a WireGuard peer.
#[derive(Clone, Debug)]
pub struct TenantPath {
    /// The name path policies use; unique within the branch.
    pub name: String,
    /// Only accepted on this transport of the PoP's; any, if not named.
    pub transport: Option<String>,
    pub public_key: PublicKey,
    pub preshared_key: Option<PresharedKey>,
    /// Where to begin a handshake from our side; without it the branch must call first.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; WireGuard's own unit.
    pub persistent_keepalive: Option<u16>,
    /// What the PoP may send to the branch by it.
    pub bandwidth: Option<Rate>,
    /// A host of the branch's, where that is no popgate, which answers echo requests as long as the path is any good.
    pub probe_target: Option<IpAddr>,
    pub at: SourceRef,
}

#[derive(Clone, Debug)]
pub struct Handoff {
    pub name: String,
    pub kind: HandoffKind,
    /// What is reached through it. `0.0.0.0/0` and `::/0` unless configured, for `internet`.
    pub prefixes: Vec<IpNetwork>,
    pub at: SourceRef,
}

impl Handoff {
    /// Whether it leads to the internet.
    pub fn is_internet(&self) -> bool {
        matches!(self.kind, HandoffKind::Internet { .. })
    }
}

#[derive(Clone, Debug)]
pub enum HandoffKind {
    Internet {
        /// IPv4 addresses that tenants' addresses are translated to; no two tenants share one.
        nat_pool: Vec<IpNetwork>,
        /// Instead of a pool: the interface of the box's whose own address, as it is at the time, tenants' addresses are
        /// translated to.
        masquerade: Option<String>,
        /// The ports of the pool's addresses that may be given out.
        nat_ports: RangeInclusive<u16>,
        /// How they are shared out between branches; if not at all, all branches take any.
        nat_blocks: Option<PortBlocks>,
        nat_filtering: NatFiltering,
        /// Within which IPv6 hosts find IPv4's addresses, and are translated to the pool's (RFC 6146).
        nat64_prefix: Option<Nat64Prefix>,
        /// Prefixes of the tenant's that are known outside by others, host by host, both ways.
        maps: Vec<PrefixMap>,
        /// Ports of the pool's addresses that lead to a host.
        forwards: Vec<PortForward>,
        /// Prefixes of the tenant's own that go out and may be reached untranslated; IPv6 as a rule.
        routed: Vec<IpNetwork>,
    },
    Private {
        attachment: Attachment,
        addressing: Addressing,
        /// Routers behind the interface: `prefix -> next hop`.
        routes: Vec<(IpNetwork, IpAddr)>,
    },
}

/// Which interface a private handoff has in its tenant's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Without a VLAN it is moved there, and with one it stays where it is: a trunk that several handoffs may be on.
    pub interface: String,
    /// The 802.1Q VLAN of which an interface is made there, 1 to 4094.
    pub vlan: Option<u16>,
}

/// Which addresses an interface has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addressing {
    pub fixed: Vec<IpNetwork>,
    /// One more by DHCP (RFC 2131).
    pub dhcp: bool,
    /// And those it makes itself of what routers advertise (RFC 4862).
    pub ra: bool,
}

/// A pool's ports in blocks that are a branch's alone: whoever asks who had a port needs to know of blocks, not of each
/// binding (RFC 6888 section 4, RFC 7422).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBlocks {
    /// Ports, a power of two from 64 on. A block begins at a multiple of it.
    pub size: u16,
    /// How many a branch may have at a time.
    pub per_branch: u16,
    /// They are computed from the branch's place in the file; otherwise it takes any, as it needs them.
    pub deterministic: bool,
}

impl PortBlocks {
    /// The least: what workers share ports out by.
    pub const MIN_SIZE: u16 = 64;

    /// The blocks that lie within `ports` whole, by their numbers: the `n`th of an address begins at port `n` times the size.
    pub fn whole(self, ports: &RangeInclusive<u16>) -> Range<u16> {
        let (first, end) = (u32::from(*ports.start()), u32::from(*ports.end()) + 1);
        let size = u32::from(self.size);
        let (first, end) = (first.div_ceil(size) as u16, (end / size) as u16);
        first..end.max(first)
    }

    /// How many branches an address has ports for, if each has all it may have.
    pub fn branches(self, ports: &RangeInclusive<u16>) -> u16 {
        self.whole(ports).len() as u16 / self.per_branch
    }
}

/// A port that leads to a host: what is sent to `outside` goes to `inside`, as far as the ACL lets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    pub name: String,
    pub protocol: Protocol,
    pub outside: SocketAddr,
    pub inside: SocketAddr,
    pub at: SourceRef,
}

/// A service that other tenants may call.
#[derive(Clone, Debug)]
pub struct PublishedService {
    pub name: String,
    /// Among the tenant's own addresses.
    pub host: IpAddr,
    /// Any of them is spoken.
    pub spoken: Vec<Service>,
    pub at: SourceRef,
}

/// A tenant that may call services of this one.
#[derive(Clone, Debug)]
pub struct Subscriber {
    pub tenant: String,
    /// Their names.
    pub services: Vec<String>,
    /// Which addresses its own are known by here.
    pub known_as: Vec<IpNetwork>,
    pub at: SourceRef,
}

/// Services of another tenant's that this one calls.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The publisher.
    pub tenant: String,
    pub services: Vec<SubscribedService>,
    /// Own prefixes and what they are known by to the publisher, host by host; with where each is written.
    pub maps: Vec<(PrefixMap, SourceRef)>,
    pub at: SourceRef,
}

#[derive(Clone, Debug)]
pub struct SubscribedService {
    pub name: String,
    /// Among the subscriber's own addresses: what the service is called by.
    pub address: IpAddr,
    pub at: SourceRef,
}

/// From whom packets pass to an address and port that is bound to a host (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatFiltering {
    EndpointIndependent,
    /// From addresses it has sent to.
    AddressDependent,
    /// From addresses and ports it has sent to.
    AddressAndPortDependent,
}

/// What a flow must be like for a rule. Every field left empty matches everything.
#[derive(Clone, Debug, Default)]
pub struct FlowMatch {
    pub from: Vec<Place>,
    pub to: Vec<Place>,
    pub protocols: Vec<Protocol>,
    pub source_ports: Vec<RangeInclusive<u16>>,
    pub destination_ports: Vec<RangeInclusive<u16>>,
    /// Any of them; where there are some, protocols and ports above are empty.
    pub services: Vec<Service>,
    /// 0-63.
    pub dscp: Vec<u8>,
    /// App classes; empty in `[[app-class]]` itself.
    pub classes: Vec<String>,
    /// Apps, of the tenant's or the catalog's; and domains that the flow's name lies in. In `[[app-class]]` alone.
    pub apps: Vec<String>,
    pub domains: Vec<HostName>,
    /// Only in `[[acl]]`.
    pub bound: Option<Bound>,
}

/// Which way a session goes, by who begins it. It is the same at the PoP and at the branch; between two branches it is
/// outbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// From a branch or a LAN.
    Outbound,
    /// From behind a handoff, or from another tenant.
    Inbound,
}

/// A service of a service group: each of these must fit. Ports left empty match every port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    pub protocols: Vec<Protocol>,
    pub source_ports: Vec<RangeInclusive<u16>>,
    pub destination_ports: Vec<RangeInclusive<u16>>,
}

/// One end of a flow, as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Prefix(IpNetwork),
    /// `branch:berlin`: whatever that branch's prefixes cover.
    Branch(String),
    /// `handoff:internet`: whatever is reached through it.
    Handoff(String),
    /// `tenant:acme`: another tenant's hosts, by what they are known by here; or services that it publishes.
    Tenant(String),
}

#[derive(Clone, Debug)]
pub struct AppClass {
    pub name: String,
    /// Any of them.
    pub matches: Vec<FlowMatch>,
    /// When its packets leave, where bandwidth is limited.
    pub queueing: Queueing,
    /// 0-63: what its packets carry from here on.
    pub set_dscp: Option<u8>,
    pub at: SourceRef,
}

#[derive(Clone, Debug)]
pub struct AclRule {
    pub name: String,
    pub matches: FlowMatch,
    pub action: AclAction,
    /// The first packet of each session it decides on is logged.
    pub log: bool,
    pub at: SourceRef,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AclAction {
    Accept,
    /// Silently.
    Drop,
    /// With TCP RST or ICMP administratively prohibited.
    Reject,
}

#[derive(Clone, Debug)]
pub struct NatRule {
    pub name: String,
    pub matches: FlowMatch,
    pub action: NatAction,
    pub at: SourceRef,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatAction {
    /// To these addresses, a part of the handoff's pool.
    Pool(Vec<IpNetwork>),
    /// Not translated; the source must be in the handoff's `routed` prefixes.
    NoNat,
}

#[derive(Clone, Debug)]
pub struct PathPolicy {
    pub class: String,
    /// Path names, best first, those beside each other that are equal, and [`BREAKOUT`]. A branch's paths that are not named here come after these, in its own order.
    pub prefer: Vec<Vec<String>>,
    /// By path: what it takes beside its equals. One that is not here takes 1; or if none of a group is, each what it can.
    pub weights: BTreeMap<String, u8>,
    /// What the class needs of a path, and what to do where none has it.
    pub sla: Option<(SlaClass, OnViolation)>,
    pub remediation: Remediation,
    pub resilience: Resilience,
    pub at: SourceRef,
}

/// What an app class may need of a path.
#[derive(Clone, Debug, PartialEq)]
pub struct SlaClass {
    pub name: String,
    pub limits: SlaLimits,
}

/// What must stay reachable from a branch's side while a commit is on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    pub name: String,
    pub branch: String,
    /// Of the branch's prefixes, and of the target's family.
    pub source: IpAddr,
    pub target: IpAddr,
    pub kind: CanaryKind,
    pub at: SourceRef,
}

/// What counts as its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryKind {
    /// An echo reply.
    Ping,
    /// That a connection to this port is accepted.
    Tcp(u16),
}

/// A question to the policy, and what should come out.
#[derive(Clone, Debug)]
pub struct PolicyTest {
    pub name: String,
    /// All of them must come out so.
    pub flows: Vec<AskedFlow>,
    pub expect: Outcome,
    pub class: Option<String>,
    /// An ACL rule.
    pub rule: Option<String>,
    pub handoff: Option<String>,
    /// The first of the paths it takes, best first; empty: whichever.
    pub path: Vec<String>,
    /// What its source is translated to lies in it.
    pub nat: Option<IpNetwork>,
    pub at: SourceRef,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Accept,
    #[default]
    Drop,
    Reject,
}

/// A Curve25519 private key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub [u8; 32]);

/// A key both ends share besides their key pairs. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(pub [u8; 32]);

/// A Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(hidden)")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine;
        f.write_str(&base64::engine::general_purpose::STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Handoff {
    /// Within which IPv6 hosts find the IPv4 addresses behind it, if they do.
    pub fn nat64(&self) -> Option<Nat64Prefix> {
        match self.kind {
            HandoffKind::Internet { nat64_prefix, .. } => nat64_prefix,
            HandoffKind::Private { .. } => None,
        }
    }
}

impl Candidate {
    /// The interfaces whose addresses tenants' addresses are translated to.
    pub fn masquerades(&self) -> BTreeSet<String> {
        if let Role::Branch(branch) = &self.appliance.role {
            return branch.breakout.iter().map(|breakout| breakout.interface.clone()).collect();
        }
        let handoffs = self.tenants.values().flat_map(|tenant| &tenant.handoffs);
        let interface = |handoff: &Handoff| match &handoff.kind {
            HandoffKind::Internet { masquerade, .. } => masquerade.clone(),
            HandoffKind::Private { .. } => None,
        };
        handoffs.filter_map(interface).collect()
    }
}
