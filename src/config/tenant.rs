//! `tenants/NAME.toml`: one customer. Branches and handoffs are read first, so that groups, classes and rules can name them, then
//! groups, then classes, then the rules.

use super::appliance::{
    MASQUERADE_PORTS, RoleName, Surroundings, interface, key_file, not_breakout, public_key, same_family,
};
use super::apps::{domain, tenant_app, unknown_app};
use super::groups::{Groups, Member};
use super::interfaces::{addressing, on_link};
use super::problem::{Noted, seen_from, unknown};
use super::reader::{Table, Value, all};
use super::scope::{Claims, Owners, PrefixKind, Scope, whose};
use super::services::Homes;
use super::values::{self, covers};
use super::*;
use crate::model::{
    AskedEnd, AskedFlow, MAX_SLA_POLICIES, Nat64Prefix, NotAHostName, NotAnEnd, OnViolation, PrefixMap,
    Protocol, Queueing, Remediation, Resilience, SlaLimits, Timeouts, may_be_forwarded,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// Reads the tenant in `root`, whose file is called `stem`.toml. Key files' names are relative to `dir`; what no two
/// tenants may have goes to `claims`.
pub(super) fn read(
    mut root: Table<'_>,
    stem: &str,
    dir: &Path,
    around: &Surroundings,
    claims: &mut Claims,
) -> Result<Tenant, Noted> {
    let file = root.at().file.clone();
    let name = root.required("tenant", |value| {
        let name = value.parse(values::name)?;
        if name != stem {
            return Err(value.note(format!("{name:?} must stand in tenants/{name}.toml, not in {file}")));
        }
        Ok(name)
    });
    let mut reader = TenantReader {
        dir,
        around,
        claims,
        tenant: stem,
        branches: Scope::new("branch"),
        paths: around.branch_paths.iter().cloned().collect(),
        policies_with_sla: 0,
        handoffs: Scope::new("handoff"),
        apps: Scope::new("app"),
        addresses: Groups::new("address group"),
        services: Groups::new("service group"),
        published: Scope::new("service"),
        subscribers: Scope::new("subscriber"),
        publishers: Scope::new("subscription to"),
        called: BTreeMap::new(),
        known_as: Vec::new(),
        classes: Scope::new("class"),
        goes_first: None,
        forwarded: Owners::default(),
        owners: Owners::default(),
    };
    let branches = root
        .tables("branch", "[[branch]]")
        .and_then(|tables| all(tables.into_iter().map(|table| reader.branch(table))));
    let handoffs = root.tables("handoff", "[[handoff]]").and_then(|tables| {
        all(tables.into_iter().map(|table| reader.handoff(table, branches.as_deref().ok())))
    });
    let apps = root
        .tables("app", "[[app]]")
        .and_then(|tables| all(tables.into_iter().map(|table| tenant_app(table, &mut reader.apps))));
    let dns_teachers = root
        .with_default("dns-teachers", Vec::new(), |value| value.list(|value| value.parse(values::prefix)));
    let whereabouts = whereabouts(&mut root, branches.as_deref().ok(), handoffs.as_deref().ok());
    let service_groups = root
        .tables("service-group", "[[service-group]]")
        .and_then(|tables| reader.services.read(tables, "services", service_or_group));
    let homes = branches.as_deref().ok().zip(handoffs.as_deref().ok());
    let homes = homes.map(|(branches, handoffs)| Homes { branches, handoffs });
    let published = root
        .tables("publish", "[[publish]]")
        .and_then(|tables| all(tables.into_iter().map(|table| reader.publish(table, homes))));
    let subscribers = root
        .tables("subscriber", "[[subscriber]]")
        .and_then(|tables| all(tables.into_iter().map(|table| reader.subscriber(table))));
    let subscriptions = root
        .tables("subscribe", "[[subscribe]]")
        .and_then(|tables| all(tables.into_iter().map(|table| reader.subscription(table, homes))));
    let address_groups = root
        .tables("address-group", "[[address-group]]")
        .and_then(|tables| reader.read_address_groups(tables));
    let classes = root
        .tables("app-class", "[[app-class]]")
        .and_then(|tables| all(tables.into_iter().map(|table| reader.class(table))));
    let mut acl_names = Scope::new("ACL rule");
    let acl = root
        .tables("acl", "[[acl]]")
        .and_then(|tables| all(tables.into_iter().map(|table| reader.acl_rule(table, &mut acl_names))));
    let mut nat_names = Scope::new("NAT rule");
    // A NAT rule is only held against branches and handoffs that could be read whole.
    let whole = branches.as_deref().ok().zip(handoffs.as_deref().ok());
    let nat = root.tables("nat", "[[nat]]").and_then(|tables| {
        all(tables.into_iter().map(|table| reader.nat_rule(table, &mut nat_names, whole)))
    });
    let mut slas = Scope::new("SLA class");
    let sla_classes = root
        .tables("sla-class", "[[sla-class]]")
        .and_then(|tables| all(tables.into_iter().map(|table| sla_class(table, &mut slas))));
    let mut policies = BTreeMap::new();
    let path_policies = root.tables("path-policy", "[[path-policy]]").and_then(|tables| {
        all(tables.into_iter().map(|table| reader.path_policy(table, &mut policies, &slas)))
    });

    let max_sessions = root.optional("max-sessions", |value| value.number(1..=MAX_SESSIONS));
    let timeouts = root.table("session-timeouts", "[session-timeouts]").and_then(|table| match table {
        Some(table) => session_timeouts(table),
        None => Ok(Timeouts::DEFAULT),
    });
    let mut test_names = Scope::new("policy test");
    let policy_tests = root.tables("policy-test", "[[policy-test]]").and_then(|tables| {
        all(tables.into_iter().map(|table| reader.policy_test(table, &mut test_names, &acl_names)))
    });
    let mut canary_names = Scope::new("canary");
    let canaries = root.tables("canary", "[[canary]]").and_then(|tables| {
        if let Some(table) = tables.get(MAX_CANARIES) {
            return Err(table.note(format!("a tenant has at most {MAX_CANARIES} canaries")));
        }
        let branches = branches.as_deref().ok();
        all(tables.into_iter().map(|table| reader.canary(table, &mut canary_names, branches)))
    });

    if let (Some((RoleName::Branch, _)), Some((site, at))) = (&around.role, &around.site)
        && reader.branches.get(site).is_none()
    {
        let branch = unknown("branch", site, reader.branches.names());
        root.note_at(at, format!("site: {file} has no such branch: {branch}"));
    }
    root.finish();
    address_groups?;
    service_groups?;
    sla_classes?;
    Ok(Tenant {
        name: name?,
        branches: branches?,
        handoffs: handoffs?,
        published: published?,
        subscribers: subscribers?,
        subscriptions: subscriptions?,
        apps: apps?,
        dns_teachers: dns_teachers?,
        whereabouts: whereabouts?,
        classes: classes?,
        acl: acl?,
        nat: nat?,
        path_policies: path_policies?,
        policy_tests: policy_tests?,
        canaries: canaries?.into_iter().flatten().collect(),
        timeouts: timeouts?,
        max_sessions: max_sessions?,
        file,
    })
}

/// Of the range for benchmarks (RFC 2544 appendix C.2.2), which is forwarded inside a network and belongs to nobody on the
/// internet; and of the ULA (RFC 4193) of our own.
const WHEREABOUTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 80)),
    IpAddr::V6(Ipv6Addr::new(0xfd70, 0x6f70, 0x6761, 0x7465, 0, 0, 0, 0x80)),
];

/// Where a PoP answers. One that the file names must be nobody else's; the usual one is left out where it is somebody's.
fn whereabouts(
    root: &mut Table<'_>,
    branches: Option<&[TenantBranch]>,
    handoffs: Option<&[Handoff]>,
) -> Result<Vec<IpAddr>, Noted> {
    let branches = branches.unwrap_or_default().iter();
    let branches = branches.map(|branch| ("branch", &branch.name, &branch.prefixes));
    let private = handoffs.unwrap_or_default().iter().filter(|handoff| !handoff.is_internet());
    let private = private.map(|handoff| ("handoff", &handoff.name, &handoff.prefixes));
    let owners: Vec<_> = branches.chain(private).collect();
    let owner = |address: IpAddr| {
        let has = |prefixes: &[IpNetwork]| prefixes.iter().any(|prefix| prefix.contains(address));
        owners.iter().find(|(.., prefixes)| has(prefixes)).map(|(kind, name, _)| format!("{kind} {name:?}"))
    };
    let usual = || WHEREABOUTS.into_iter().filter(|address| owner(*address).is_none()).collect();
    let mut has = [false; 2];
    let named = root.optional("whereabouts", |value| {
        value.one_or_many(|value| {
            if value.string()? == "none" {
                return Ok(None);
            }
            let address = value.parse(values::address)?;
            if !may_be_forwarded(address) {
                return Err(value.note(format!("{address} is an address that is never forwarded")));
            }
            if let Some(owner) = owner(address) {
                return Err(value.note(format!("{address} belongs to {owner}")));
            }
            if std::mem::replace(&mut has[usize::from(address.is_ipv6())], true) {
                return Err(value.note("one address of each family is enough"));
            }
            Ok(Some(address))
        })
    });
    Ok(named?.map_or_else(usual, |named| named.into_iter().flatten().collect()))
}

fn sla_class(mut table: Table<'_>, slas: &mut Scope<SlaLimits>) -> Result<(), Noted> {
    let millis = |value: Value<'_>| {
        let range = Duration::from_millis(1)..=Duration::from_secs(10);
        value.duration(|text| values::duration_within(text, range, "1ms to 10s"))
    };
    let loss = table.optional("max-loss", |value| value.parse(values::percent));
    let latency = table.optional("max-latency", millis);
    let jitter = table.optional("max-jitter", millis);
    let mos = table.optional("min-mos", |value| value.parse(values::mos));
    let lacks_all = matches!((&loss, &latency, &jitter, &mos), (Ok(None), Ok(None), Ok(None), Ok(None)));
    // What could not be read has been noted; who names the class is not to blame.
    let limits = SlaLimits {
        loss: loss.unwrap_or_default(),
        latency: latency.unwrap_or_default(),
        jitter: jitter.unwrap_or_default(),
        mos: mos.unwrap_or_default(),
    };
    let name = table.required("name", |value| slas.claim(value, limits));
    if lacks_all {
        return Err(table.missing("max-loss, max-latency, max-jitter or min-mos"));
    }
    table.finish();
    name.map(drop)
}

fn session_timeouts(mut table: Table<'_>) -> Result<Timeouts, Noted> {
    let mut timeout = |key, default| {
        table.with_default(key, default, |value| {
            let range = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3_600);
            value.duration(|text| values::duration_within(text, range, "1s to 168h"))
        })
    };
    let default = Timeouts::DEFAULT;
    let tcp_established = timeout("tcp-established", default.tcp_established);
    let tcp_transitory = timeout("tcp-transitory", default.tcp_transitory);
    let udp = timeout("udp", default.udp);
    let icmp = timeout("icmp", default.icmp);
    let other = timeout("other", default.other);
    table.finish();
    Ok(Timeouts {
        tcp_established: tcp_established?,
        tcp_transitory: tcp_transitory?,
        udp: udp?,
        icmp: icmp?,
        other: other?,
    })
}

/// Each is a probe a second while a commit is on trial.
const MAX_CANARIES: usize = 16;

/// A box has no more.
const MAX_SESSIONS: usize = 100_000_000;

/// Keys that only one kind of handoff has.
const INTERNET_KEYS: [&str; 9] = [
    "nat-pool",
    "masquerade",
    "nat-ports",
    "nat-blocks",
    "nat-filtering",
    "nat64-prefix",
    "map",
    "port-forward",
    "routed",
];
const PRIVATE_KEYS: [&str; 4] = ["interface", "vlan", "address", "routes"];

/// One tenant's file while it is being read.
pub(super) struct TenantReader<'a> {
    dir: &'a Path,
    around: &'a Surroundings,
    claims: &'a mut Claims,
    pub(super) tenant: &'a str,
    branches: Scope<()>,
    /// Of all branches; two of them may well use the same names.
    paths: BTreeSet<String>,
    policies_with_sla: usize,
    handoffs: Scope<()>,
    apps: Scope<()>,
    addresses: Groups<Place>,
    pub(super) services: Groups<Service>,
    /// The services that it publishes.
    pub(super) published: Scope<()>,
    /// The tenants that subscribe to them, and those that it subscribes to.
    pub(super) subscribers: Scope<()>,
    pub(super) publishers: Scope<()>,
    /// By `TENANT/NAME`: what a service of another tenant's is called by.
    pub(super) called: BTreeMap<String, IpAddr>,
    /// What subscribers are known as, and where that is written.
    pub(super) known_as: Vec<(IpNetwork, SourceRef)>,
    classes: Scope<()>,
    /// The class that goes first, and where that is said.
    goes_first: Option<(String, SourceRef)>,
    /// Of all handoffs.
    forwarded: Owners<(Protocol, SocketAddr)>,
    /// Whose a prefix is within the tenant. More specific ones may be another's, the same one may not.
    pub(super) owners: Owners<IpNetwork>,
}

/// A branch's prefixes, and where each is written.
type Prefixes = Result<Vec<(IpNetwork, SourceRef)>, Noted>;

impl TenantReader<'_> {
    fn branch(&mut self, mut table: Table<'_>) -> Result<TenantBranch, Noted> {
        let name = table.required("name", |value| self.branches.claim(value, ()));
        let branch = whose("branch", &name);
        let prefixes = table.required("prefixes", |value| {
            value.list(|value| Ok((self.owned_prefix(value, &branch)?, value.at())))
        });
        let mut names = Scope::new("path");
        let paths = table.tables("path", "[[branch.path]]").and_then(|tables| {
            all(tables.into_iter().map(|table| self.path(table, (&branch, &prefixes), &mut names)))
        });
        let max_sessions = table.optional("max-sessions", |value| value.number(1..=MAX_SESSIONS));
        let rate = table.optional("new-sessions-per-second", |value| value.number(1..=1_000_000));
        let at = table.at().clone();
        table.finish();
        let limits = BranchLimits {
            max_sessions: max_sessions?,
            new_sessions_per_second: rate?.and_then(NonZeroU32::new),
        };
        let (prefixes, prefixes_at) = prefixes?.into_iter().unzip();
        Ok(TenantBranch { name: name?, prefixes, prefixes_at, paths: paths?, limits, at })
    }

    fn path(
        &mut self,
        mut table: Table<'_>,
        (branch, prefixes): (&str, &Prefixes),
        names: &mut Scope<()>,
    ) -> Result<TenantPath, Noted> {
        let name = table.required("name", |value| {
            self.paths.insert(not_breakout(value)?.to_owned());
            names.claim(value, ())
        });
        let transport = table.optional("transport", |value| match &self.around.pop_transports {
            Some(transports) => transports.find(value, value.string()?),
            None => value.parse(values::name),
        });
        let public_key = table.required("public-key", |value| {
            let key = public_key(value)?;
            let owner = format!("{} of {branch}", whose("path", &name));
            self.claims.public_keys.claim(value, key, "this public key", owner)?;
            Ok(key)
        });
        let preshared_key = table.optional("preshared-key-file", |value| match self.around.role {
            Some((RoleName::Pop, _)) => key_file(value, self.dir).map(Some),
            // The PoP's half of a key. A branch has its own in popgate.toml, and must not have the other branches'.
            _ => value.string().map(|_| None),
        });
        let endpoint = table.optional("endpoint", |value| {
            let endpoint = value.parse(values::endpoint)?;
            if let (Some(transports), Ok(Some(transport))) = (&self.around.pop_transports, &transport) {
                same_family(value, endpoint, transport, transports)?;
            }
            Ok(endpoint)
        });
        let persistent_keepalive =
            table.optional("persistent-keepalive", |value| value.duration(values::keepalive_secs));
        let bandwidth = table.optional("bandwidth", |value| value.parse(values::rate));
        let probe_target = table.optional("probe-target", |value| {
            let target = value.parse(values::address)?;
            let prefixes = prefixes.as_ref().map_err(|noted| *noted)?;
            if !prefixes.iter().any(|(prefix, _)| prefix.contains(target)) {
                return Err(value.note(format!("{target} is not in the prefixes of {branch}")));
            }
            Ok(target)
        });
        let at = table.at().clone();
        table.finish();
        Ok(TenantPath {
            name: name?,
            transport: transport?,
            public_key: public_key?,
            preshared_key: preshared_key?.flatten(),
            endpoint: endpoint?,
            persistent_keepalive: persistent_keepalive?,
            bandwidth: bandwidth?,
            probe_target: probe_target?,
            at,
        })
    }

    pub(super) fn owned_prefix(&mut self, value: Value<'_>, owner: &str) -> Result<IpNetwork, Noted> {
        let prefix = value.parse(values::owned_prefix)?;
        self.owners.claim(value, prefix, &prefix.to_string(), owner.to_owned())?;
        Ok(prefix)
    }

    fn handoff(&mut self, mut table: Table<'_>, branches: Option<&[TenantBranch]>) -> Result<Handoff, Noted> {
        let name = table.required("name", |value| self.handoffs.claim(value, ()));
        let handoff = whose("handoff", &name);
        let is_internet =
            table.required("kind", |value| value.one_of(&[("internet", true), ("private", false)]));
        let at = table.at().clone();
        let prefixes;
        let kind = match is_internet {
            Ok(true) => {
                prefixes = match table.value("prefixes") {
                    Some(value) => value.list(|value| self.owned_prefix(value, &handoff)),
                    None => self.whole_internet(&table, &handoff),
                };
                let reason = "only for kind \"private\"; this handoff's kind is \"internet\"";
                table.refuse(&PRIVATE_KEYS, reason);
                let reached = prefixes.as_deref().unwrap_or_default();
                self.internet(&mut table, &handoff, reached, branches)
            }
            Ok(false) => {
                prefixes = table
                    .required("prefixes", |value| value.list(|value| self.owned_prefix(value, &handoff)));
                let reason = "only for kind \"internet\"; this handoff's kind is \"private\"";
                table.refuse(&INTERNET_KEYS, reason);
                self.private(&mut table, &handoff)
            }
            Err(noted) => {
                // Either kind's keys may be meant.
                for key in INTERNET_KEYS.into_iter().chain(PRIVATE_KEYS).chain(["prefixes"]) {
                    table.value(key);
                }
                prefixes = Err(noted);
                Err(noted)
            }
        };
        table.finish();
        Ok(Handoff { name: name?, kind: kind?, prefixes: prefixes?, at })
    }

    /// What an internet handoff reaches unless it says otherwise.
    fn whole_internet(&mut self, table: &Table<'_>, handoff: &str) -> Result<Vec<IpNetwork>, Noted> {
        all(["0.0.0.0/0", "::/0"].into_iter().map(|text| {
            let prefix = values::prefix(text).expect("both are prefixes");
            self.owners.claim_by_default(table, prefix, text, handoff.to_owned())?;
            Ok(prefix)
        }))
    }

    fn internet(
        &mut self,
        table: &mut Table<'_>,
        handoff: &str,
        reached: &[IpNetwork],
        branches: Option<&[TenantBranch]>,
    ) -> Result<HandoffKind, Noted> {
        let owner = format!("tenant {:?} {handoff}", self.tenant);
        let nat_pool = table.with_default("nat-pool", Vec::new(), |value| {
            value.list(|value| {
                let prefix = value.parse(values::pool_prefix)?;
                self.claims.prefix(value, PrefixKind::Pool, prefix, owner.clone());
                Ok(prefix)
            })
        });
        let masquerade = table.optional("masquerade", |value| Ok((value, interface(value)?)));
        // 1024: the ports below are for services; clients' translated ports there trip filters (RFC 7857 section 4).
        let all_ports = if matches!(masquerade, Ok(Some(_))) { MASQUERADE_PORTS } else { 1024..=u16::MAX };
        let nat_ports = table.with_default("nat-ports", all_ports, |value| value.parse(values::ports));
        let masquerade = masquerade.and_then(|masquerade| {
            let Some((value, interface)) = masquerade else { return Ok(None) };
            if nat_pool.as_ref().is_ok_and(|pool| !pool.is_empty()) {
                return Err(value.note("a handoff has either a nat-pool or masquerade"));
            }
            if let Ok(ports) = &nat_ports {
                self.claims.masquerade(value, &interface, ports, &owner)?;
            }
            Ok(Some(interface))
        });
        let nat_blocks = table.optional("nat-blocks", |value| {
            let blocks = port_blocks(value)?;
            match (&nat_pool, &nat_ports) {
                (Ok(pool), Ok(ports)) => {
                    enough_blocks(value, blocks, pool, ports, branches)?;
                    Ok(blocks)
                }
                _ => Ok(blocks),
            }
        });
        let filterings = [
            ("endpoint-independent", NatFiltering::EndpointIndependent),
            ("address-dependent", NatFiltering::AddressDependent),
            ("address-and-port-dependent", NatFiltering::AddressAndPortDependent),
        ];
        let nat_filtering =
            table.with_default("nat-filtering", NatFiltering::AddressAndPortDependent, |value| {
                value.one_of(&filterings)
            });
        let nat64_prefix = table.optional("nat64-prefix", |value| {
            let prefix = self.nat64_prefix(value, handoff, reached, branches)?;
            match (&nat_pool, &masquerade) {
                (Ok(pool), Ok(None)) if pool.is_empty() => {
                    let message = "it leads to IPv4 by a nat-pool or masquerade, and the handoff has neither";
                    Err(value.note(message))
                }
                _ => Ok(prefix),
            }
        });
        let maps = table.with_default("map", Vec::new(), |value| {
            all(value.entries()?.map(|(inside, value)| self.prefix_map(inside, value, &owner, branches)))
        });
        let pool = nat_pool.as_deref().ok().zip(nat_ports.as_ref().ok());
        let mut names = Scope::new("port forward");
        let forwards = table.tables("port-forward", "[[handoff.port-forward]]").and_then(|tables| {
            all(tables.into_iter().map(|table| self.port_forward(table, &mut names, pool)))
        });
        let routed = table.with_default("routed", Vec::new(), |value| {
            value.list(|value| {
                let prefix = value.parse(values::owned_prefix)?;
                self.claims.prefix(value, PrefixKind::Routed, prefix, owner.clone());
                let within = |branch: &TenantBranch| branch.prefixes.iter().any(|own| covers(*own, prefix));
                if branches.is_some_and(|branches| !branches.iter().any(within)) {
                    let message = format!("{handoff}: routed {prefix} lies in no branch's prefixes");
                    return Err(value.remark(message));
                }
                Ok(prefix)
            })
        });
        Ok(HandoffKind::Internet {
            nat_pool: nat_pool?,
            masquerade: masquerade?,
            nat_ports: nat_ports?,
            nat_blocks: nat_blocks?,
            nat_filtering: nat_filtering?,
            nat64_prefix: nat64_prefix?,
            maps: maps?,
            forwards: forwards?,
            routed: routed?,
        })
    }

    /// `nat64-prefix = "64:ff9b::/96"`: it is the handoff's as its `prefixes` are, and no host's.
    fn nat64_prefix(
        &mut self,
        value: Value<'_>,
        handoff: &str,
        reached: &[IpNetwork],
        branches: Option<&[TenantBranch]>,
    ) -> Result<Nat64Prefix, Noted> {
        let IpNetwork::V6(network) = self.owned_prefix(value, handoff)? else {
            return Err(value.note(format!("{} is IPv4, and a NAT64 prefix is IPv6", value.string()?)));
        };
        let prefix = Nat64Prefix::new(network).map_err(|message| value.note(message))?;
        let mut hosts = branches.into_iter().flatten().flat_map(|branch| &branch.prefixes);
        if let Some(hosts) = hosts.find(|hosts| covers(network.into(), **hosts)) {
            let message = format!("branch prefix {hosts} lies in it, and would stand for IPv4 addresses");
            return Err(value.note(message));
        }
        if !reached.iter().any(IpNetwork::is_ipv4) {
            let message = "it leads to what the handoff reaches of IPv4, and none of its prefixes is";
            return Err(value.note(message));
        }
        Ok(prefix)
    }

    /// `map = { "10.1.0.0/16" = "172.20.0.0/16" }`: what the tenant's own prefixes are known by outside.
    fn prefix_map(
        &mut self,
        inside: &str,
        value: Value<'_>,
        owner: &str,
        branches: Option<&[TenantBranch]>,
    ) -> Result<PrefixMap, Noted> {
        let inside = values::owned_prefix(inside).map_err(|message| value.note(message))?;
        let outside = value.parse(values::owned_prefix)?;
        let map = PrefixMap::new(inside, outside).map_err(|message| value.note(message))?;
        let within = |branch: &TenantBranch| branch.prefixes.iter().any(|own| covers(*own, inside));
        if branches.is_some_and(|branches| !branches.iter().any(within)) {
            return Err(value.note(format!("{inside} lies in no branch's prefixes")));
        }
        self.claims.prefix(value, PrefixKind::Mapped, outside, owner.to_owned());
        Ok(map)
    }

    fn port_forward(
        &mut self,
        mut table: Table<'_>,
        names: &mut Scope<()>,
        pool: Option<(&[IpNetwork], &RangeInclusive<u16>)>,
    ) -> Result<PortForward, Noted> {
        let name = table.required("name", |value| names.claim(value, ()));
        let protocol = table
            .required("protocol", |value| value.one_of(&[("tcp", Protocol::TCP), ("udp", Protocol::UDP)]));
        let outside = table.required("address", |value| {
            let outside = value.parse(values::endpoint)?;
            if let Some((networks, ports)) = pool {
                if !networks.iter().any(|network| network.contains(outside.ip())) {
                    return Err(value.note(format!("{} is not in the handoff's nat-pool", outside.ip())));
                }
                if ports.contains(&outside.port()) {
                    return Err(value.note(format!(
                        "port {} may be given out to any host; take one that is not in the handoff's nat-ports, {}-{}",
                        outside.port(),
                        ports.start(),
                        ports.end()
                    )));
                }
            }
            if let Ok(protocol) = &protocol {
                let what = format!("{protocol} {outside}");
                let owner = whose("port forward", &name);
                self.forwarded.claim(value, (*protocol, outside), &what, owner)?;
            }
            Ok(outside)
        });
        let inside = table.required("to", |value| {
            let inside = value.parse(values::endpoint)?;
            match &outside {
                Ok(outside) if outside.is_ipv4() != inside.is_ipv4() => {
                    Err(value.note(format!("{inside} is of another family than {outside}")))
                }
                _ => Ok(inside),
            }
        });
        let at = table.at().clone();
        table.finish();
        Ok(PortForward { name: name?, protocol: protocol?, outside: outside?, inside: inside?, at })
    }

    fn private(&mut self, table: &mut Table<'_>, handoff: &str) -> Result<HandoffKind, Noted> {
        let owner = format!("tenant {:?} {handoff}", self.tenant);
        let vlan = table.optional("vlan", super::interfaces::vlan);
        let interface = table.required("interface", |value| {
            let interface = interface(value)?;
            match vlan {
                Ok(None) => {
                    let what = format!("interface {interface:?}");
                    self.claims.interfaces.claim(value, interface.clone(), &what, owner)?;
                }
                Ok(Some(vlan)) => self.claims.vlan(value, &interface, vlan, owner)?,
                Err(_) => {}
            }
            Ok(interface)
        });
        let addressing = table.required("address", addressing);
        let routes = table.with_default("routes", Vec::new(), |value| {
            let mut routes = all(value.entries()?.map(|(prefix, value)| {
                let prefix = values::prefix(prefix).map_err(|message| value.note(message))?;
                let hop = value.parse(values::address)?;
                if prefix.is_ipv4() != hop.is_ipv4() {
                    return Err(
                        value.note(format!("{prefix} cannot have the next hop {hop}: another family"))
                    );
                }
                // What is learned is not known yet.
                let may_be = |own: &Addressing| {
                    let is_learned = if hop.is_ipv4() { own.dhcp } else { own.ra };
                    is_learned || on_link(&own.fixed, hop)
                };
                if addressing.as_ref().is_ok_and(|own| !may_be(own)) {
                    return Err(value.note(format!("next hop {hop} lies in no network of the interface's")));
                }
                Ok((prefix, hop))
            }))?;
            routes.sort();
            Ok(routes)
        });
        let attachment = Attachment { interface: interface?, vlan: vlan? };
        Ok(HandoffKind::Private { attachment, addressing: addressing?, routes: routes? })
    }

    fn class(&mut self, mut table: Table<'_>) -> Result<AppClass, Noted> {
        let name = table.required("name", |value| {
            if value.string()? == DEFAULT_CLASS {
                let message =
                    format!("{DEFAULT_CLASS:?} is the class of what matches no other; take another name");
                return Err(value.note(message));
            }
            self.classes.claim(value, ())
        });
        let matches = table.required("match", |value| {
            value.list(|value| {
                let mut table = value.table("[[app-class.match]]")?;
                let apps = table
                    .with_default("app", Vec::new(), |value| value.one_or_many(|value| self.find_app(value)));
                let domains = table.with_default("domain", Vec::new(), |value| value.one_or_many(domain));
                let flow_match = self.flow_match(&mut table);
                table.finish();
                Ok(FlowMatch { apps: apps?, domains: domains?, ..flow_match? })
            })
        });
        let queue = table.optional("queue", |value| {
            value.one_of(&[("priority", ())])?;
            let name = name.as_deref().unwrap_or_default();
            if let Some((first, at)) = &self.goes_first {
                let at = seen_from(&value.at(), at);
                return Err(value.note(format!("one class goes first, and that is {first:?} ({at})")));
            }
            self.goes_first = Some((name.to_owned(), value.at()));
            Ok(Queueing::Priority)
        });
        let weight = table.optional("weight", |value| {
            if matches!(queue, Ok(Some(_))) {
                return Err(value.note("a class has either a weight or goes first"));
            }
            value.number(1..=100).map(Queueing::Weight)
        });
        let set_dscp = table.optional("set-dscp", dscp);
        let at = table.at().clone();
        table.finish();
        let queueing = queue?.or(weight?).unwrap_or_default();
        Ok(AppClass { name: name?, matches: matches?, queueing, set_dscp: set_dscp?, at })
    }

    fn acl_rule(&mut self, mut table: Table<'_>, names: &mut Scope<()>) -> Result<AclRule, Noted> {
        let actions =
            [("accept", AclAction::Accept), ("drop", AclAction::Drop), ("reject", AclAction::Reject)];
        let name = table.required("name", |value| names.claim(value, ()));
        let matches = self.classified_match(&mut table);
        let directions =
            [("outbound", Some(Bound::Outbound)), ("inbound", Some(Bound::Inbound)), ("any", None)];
        let bound = table.with_default("direction", None, |value| value.one_of(&directions));
        let action = table.required("action", |value| value.one_of(&actions));
        let log = table.with_default("log", false, Value::boolean);
        let at = table.at().clone();
        table.finish();
        let matches = FlowMatch { bound: bound?, ..matches? };
        Ok(AclRule { name: name?, matches, action: action?, log: log?, at })
    }

    fn nat_rule(
        &mut self,
        mut table: Table<'_>,
        names: &mut Scope<()>,
        whole: Option<(&[TenantBranch], &[Handoff])>,
    ) -> Result<NatRule, Noted> {
        let name = table.required("name", |value| names.claim(value, ()));
        let rule = whose("NAT rule", &name);
        let matches = self.classified_match(&mut table);
        let pool = table.value("pool");
        let no_nat = table.optional("no-nat", |value| Ok((value, value.boolean()?)));
        let action = match (pool, no_nat) {
            (Some(pool), Ok(None | Some((_, false)))) => pool
                .list(|value| {
                    let prefix = value.parse(values::pool_prefix)?;
                    if let (Some((_, handoffs)), Ok(matches)) = (whole, &matches) {
                        pool_of_handoff(value, prefix, matches, handoffs, &rule)?;
                    }
                    Ok(prefix)
                })
                .map(NatAction::Pool),
            (Some(_), Ok(Some((value, true)))) => Err(value.note("a rule has either a pool or no-nat")),
            (None, Ok(Some((value, true)))) => match (whole, &matches) {
                (Some((branches, handoffs)), Ok(matches)) => {
                    source_is_routed(value, matches, branches, handoffs).map(|()| NatAction::NoNat)
                }
                _ => Ok(NatAction::NoNat),
            },
            (None, Ok(_)) => Err(table.missing("pool (or no-nat = true)")),
            (_, Err(noted)) => Err(noted),
        };
        let at = table.at().clone();
        table.finish();
        Ok(NatRule { name: name?, matches: matches?, action: action?, at })
    }

    fn path_policy(
        &mut self,
        mut table: Table<'_>,
        policies: &mut BTreeMap<String, SourceRef>,
        slas: &Scope<SlaLimits>,
    ) -> Result<PathPolicy, Noted> {
        let class = table.required("class", |value| {
            let class = self.find_class(value)?;
            if let Some(first) = policies.get(&class) {
                let first = seen_from(&value.at(), first);
                return Err(value.note(format!("{class:?} already has a path policy ({first})")));
            }
            policies.insert(class.clone(), value.at());
            Ok(class)
        });
        let mut named = BTreeSet::new();
        let prefer = table.required("prefer", |value| {
            value.list(|value| {
                let group = value.one_or_many(|value| {
                    #[cfg(test)]
                    value.offers_words([BREAKOUT]);
                    let path = value.string()?;
                    if path != BREAKOUT && !self.paths.contains(path) {
                        return Err(value.note(unknown("path", path, self.paths.iter().map(String::as_str))));
                    }
                    if !named.insert(path) {
                        return Err(value.note(format!("path {path:?} stands here twice")));
                    }
                    Ok(path.to_owned())
                })?;
                if group.len() > 1 && group.iter().any(|path| path == BREAKOUT) {
                    return Err(value.note(format!("{BREAKOUT:?} shares with no path: it stands alone")));
                }
                Ok(group)
            })
        });
        let weights = table.with_default("weights", BTreeMap::new(), |value| {
            let weights = value.entries()?.map(|(path, value)| {
                let is_shared = prefer.as_ref().map_or(true, |groups: &Vec<Vec<String>>| {
                    groups.iter().any(|group| group.len() > 1 && group.iter().any(|equal| equal == path))
                });
                if !is_shared {
                    return Err(value.note(format!("{path:?} is no path with equals in prefer")));
                }
                Ok((path.to_owned(), value.number(1..=100)?))
            });
            Ok(all(weights)?.into_iter().collect())
        });
        let sla = table.optional("sla-class", |value| {
            let name = slas.find(value, value.string()?)?;
            if self.policies_with_sla == MAX_SLA_POLICIES {
                return Err(
                    value.note(format!("more than {MAX_SLA_POLICIES} path policies with an SLA class"))
                );
            }
            self.policies_with_sla += 1;
            let limits = slas.get(&name).copied().unwrap_or_default();
            Ok(SlaClass { name, limits })
        });
        let on_violation = table.optional("on-violation", |value| {
            value.one_of(&[
                ("best-of-worst", OnViolation::BestOfWorst),
                ("backup", OnViolation::Backup),
                ("strict", OnViolation::Strict),
            ])
        });
        if matches!((&sla, &on_violation), (Ok(None), Ok(Some(_)))) {
            table.refuse(&["on-violation"], "needs sla-class");
        }
        let remediation = table.with_default("remediation", Remediation::default(), |value| {
            value.one_of(&[
                ("none", Remediation::None),
                ("duplicate-on-suspect", Remediation::DuplicateOnSuspect),
                ("duplicate-always", Remediation::DuplicateAlways),
            ])
        });
        let resilience = table.with_default("resilience", Resilience::default(), |value| {
            value.one_of(&[
                ("none", Resilience::None),
                ("failover", Resilience::Failover),
                ("revertible", Resilience::Revertible),
            ])
        });
        let at = table.at().clone();
        table.finish();
        let (sla, on_violation) = (sla?, on_violation?.unwrap_or_default());
        let sla = sla.map(|sla| (sla, on_violation));
        Ok(PathPolicy {
            class: class?,
            prefer: prefer?,
            weights: weights?,
            sla,
            remediation: remediation?,
            resilience: resilience?,
            at,
        })
    }

    fn policy_test(
        &self,
        mut table: Table<'_>,
        names: &mut Scope<()>,
        rules: &Scope<()>,
    ) -> Result<PolicyTest, Noted> {
        let name = table.required("name", |value| names.claim(value, ()));
        let from = table.required("from", asked_end);
        let to = table.required("to", |value| Ok((value, asked_end(value)?)));
        let service = table.optional("service", |value| self.services.find(value, value.string()?));
        let protocol = match service {
            Ok(None) => table.required("protocol", protocol).map(Some),
            _ => {
                table.refuse(&["protocol"], "a policy test has either a service or a protocol");
                Ok(None)
            }
        };
        let dscp = table.with_default("dscp", 0, dscp);
        let sni = table.optional("sni", |value| {
            value.parse(|text| text.parse().map_err(|error: NotAHostName| format!("{text:?} is {error}")))
        });
        let outcomes = [("accept", Outcome::Accept), ("drop", Outcome::Drop), ("reject", Outcome::Reject)];
        let expect = table.required("expect", |value| value.one_of(&outcomes));
        let class = table.optional("class", |value| self.find_class(value));
        let rule = table.optional("rule", |value| rules.find(value, value.string()?));
        let handoff = table.optional("handoff", |value| self.handoffs.find(value, value.string()?));
        let path = table.with_default("path", Vec::new(), |value| {
            value.one_or_many(|value| match value.string()? {
                path if path == BREAKOUT || self.paths.contains(path) => Ok(path.to_owned()),
                path => Err(value.note(unknown("path", path, self.paths.iter().map(String::as_str)))),
            })
        });
        let nat = table.optional("nat", |value| value.parse(values::prefix));
        let at = table.at().clone();
        table.finish();
        let (from, (to_value, to)) = (from?, to?);
        if from.address.is_ipv4() != to.address.is_ipv4() {
            return Err(to_value.note(format!("{} and {} are of two families", from.address, to.address)));
        }
        let flow = |protocol, to| AskedFlow { from, to, protocol, dscp: 0, sni: None };
        let flows = match (service?, protocol?) {
            (Some(_), _) if to.port.is_some() => return Err(to_value.note("the ports are the service's")),
            (Some(services), _) => {
                let mut flows = Vec::new();
                for service in &services {
                    let ports: Vec<_> =
                        service.destination_ports.iter().map(|range| Some(*range.start())).collect();
                    let ports = if ports.is_empty() { vec![None] } else { ports };
                    for protocol in &service.protocols {
                        flows
                            .extend(ports.iter().map(|port| flow(*protocol, AskedEnd { port: *port, ..to })));
                    }
                }
                flows
            }
            (None, protocol) => vec![flow(protocol.unwrap_or(Protocol(0)), to)],
        };
        let (dscp, sni) = (dscp?, sni?);
        Ok(PolicyTest {
            name: name?,
            flows: flows.into_iter().map(|flow| AskedFlow { dscp, sni, ..flow }).collect(),
            expect: expect?,
            class: class?,
            rule: rule?,
            handoff: handoff?,
            path: path?,
            nat: nat?,
            at,
        })
    }

    /// `None` where its branch could not be read, of which enough has been said.
    fn canary(
        &self,
        mut table: Table<'_>,
        names: &mut Scope<()>,
        branches: Option<&[TenantBranch]>,
    ) -> Result<Option<Canary>, Noted> {
        let name = table.required("name", |value| names.claim(value, ()));
        let branch = table.required("from", |value| {
            let branch = value.string()?;
            Ok((value, self.branches.find(value, branch)?))
        });
        let source = table.optional("source", |value| Ok((value, value.parse(values::address)?)));
        let target = table.required("target", |value| Ok((value, value.parse(values::address)?)));
        let is_ping =
            table.with_default("kind", true, |value| value.one_of(&[("ping", true), ("tcp", false)]));
        let kind = match is_ping {
            Ok(true) => {
                table.refuse(&["port"], "a ping has no port");
                Ok(CanaryKind::Ping)
            }
            Ok(false) => table.required("port", |value| value.number(1..=u16::MAX)).map(CanaryKind::Tcp),
            Err(noted) => {
                // Whether it is one too many, nobody can say.
                let _ = table.value("port");
                Err(noted)
            }
        };
        let at = table.at().clone();
        table.finish();
        let ((branch_value, branch), (target_value, target)) = (branch?, target?);
        let Some(found) = branches.into_iter().flatten().find(|known| known.name == branch) else {
            return Ok(None);
        };
        if found.prefixes.iter().any(|prefix| prefix.contains(target)) {
            return Err(target_value.note(format!("{target} is in the prefixes of branch {branch:?} itself")));
        }
        let source = match source? {
            Some((value, source)) if source.is_ipv4() != target.is_ipv4() => {
                return Err(value.note(format!("{source} and {target} are of two families")));
            }
            Some((value, source)) if !found.prefixes.iter().any(|prefix| prefix.contains(source)) => {
                return Err(value.note(format!("{source} is not in the prefixes of branch {branch:?}")));
            }
            Some((_, source)) => source,
            None => {
                let prefix = found.prefixes.iter().find(|prefix| prefix.is_ipv4() == target.is_ipv4());
                prefix.map(first_host).ok_or_else(|| {
                    branch_value.note(format!("branch {branch:?} has no prefix of the family of {target}"))
                })?
            }
        };
        Ok(Some(Canary { name: name?, branch, source, target, kind: kind?, at }))
    }

    /// [`TenantReader::flow_match`] and the class: for all that comes after classification.
    fn classified_match(&self, table: &mut Table<'_>) -> Result<FlowMatch, Noted> {
        let classes = table
            .with_default("class", Vec::new(), |value| value.one_or_many(|value| self.find_class(value)));
        let flow_match = self.flow_match(table);
        Ok(FlowMatch { classes: classes?, ..flow_match? })
    }

    fn flow_match(&self, table: &mut Table<'_>) -> Result<FlowMatch, Noted> {
        let mut places = |key| {
            table.with_default(key, Vec::new(), |value| {
                value.one_or_many(|value| self.places(value)).map(|places| places.concat())
            })
        };
        let (from, to) = (places("from"), places("to"));
        let by_service = table.optional("service", |value| {
            let groups = value.one_or_many(|value| self.services.find(value, value.string()?));
            groups.map(|groups| groups.concat())
        });
        let (mut protocols, mut source_ports, mut destination_ports) = (Ok(vec![]), Ok(vec![]), Ok(vec![]));
        if let Ok(None) = by_service {
            protocols = table.with_default("protocol", Vec::new(), |value| value.one_or_many(protocol));
            source_ports = ports(table, "src-port", &protocols);
            destination_ports = ports(table, "dst-port", &protocols);
        } else {
            let reason = "a rule with a service has no protocol and no ports of its own";
            table.refuse(&["protocol", "src-port", "dst-port"], reason);
        }
        let dscp = table.with_default("dscp", Vec::new(), |value| value.one_or_many(dscp));
        Ok(FlowMatch {
            from: from?,
            to: to?,
            protocols: protocols?,
            source_ports: source_ports?,
            destination_ports: destination_ports?,
            services: by_service?.unwrap_or_default(),
            dscp: dscp?,
            classes: Vec::new(),
            apps: Vec::new(),
            domains: Vec::new(),
            bound: None,
        })
    }

    fn read_address_groups(&mut self, tables: Vec<Table<'_>>) -> Result<(), Noted> {
        let mut groups = std::mem::replace(&mut self.addresses, Groups::new("address group"));
        let read = groups.read(tables, "addresses", |value| match value.string()?.strip_prefix("group:") {
            Some(group) => Ok(Member::Of(group)),
            None => self.place(value).map(Member::Itself),
        });
        self.addresses = groups;
        read
    }

    /// A place, or all those of a group.
    fn places(&self, value: Value<'_>) -> Result<Vec<Place>, Noted> {
        let text = value.string()?;
        match text.strip_prefix("group:") {
            Some(group) => self.addresses.find(value, group),
            None if self.addresses.has(text) => {
                Err(value.note(format!("{text:?} is an address group; write \"group:{text}\"")))
            }
            None => self.place(value).map(|place| vec![place]),
        }
    }

    fn place(&self, value: Value<'_>) -> Result<Place, Noted> {
        let text = value.string()?;
        if let Some(branch) = text.strip_prefix("branch:") {
            return self.branches.find(value, branch).map(Place::Branch);
        }
        if let Some(handoff) = text.strip_prefix("handoff:") {
            return self.handoffs.find(value, handoff).map(Place::Handoff);
        }
        if let Some(tenant) = text.strip_prefix("tenant:") {
            return self.neighbour(value, tenant).map(Place::Tenant);
        }
        if let Some(service) = text.strip_prefix("service:") {
            return self.called_service(value, service).map(|address| Place::Prefix(address.into()));
        }
        if self.branches.get(text).is_some() {
            return Err(value.note(format!("{text:?} is a branch; write \"branch:{text}\"")));
        }
        if self.handoffs.get(text).is_some() {
            return Err(value.note(format!("{text:?} is a handoff; write \"handoff:{text}\"")));
        }
        if text.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' | b'.' | b':' | b'/')) {
            let message = format!(
                "{text:?} is no prefix, address, branch:NAME, handoff:NAME, group:NAME, tenant:NAME or service:TENANT/NAME"
            );
            return Err(value.note(message));
        }
        value.parse(values::prefix).map(Place::Prefix)
    }

    fn find_app(&self, value: Value<'_>) -> Result<String, Noted> {
        #[cfg(test)]
        value.offers_words(catalog().keys().map(String::as_str));
        let app = value.string()?;
        if catalog().contains_key(app) || self.apps.get(app).is_some() {
            return Ok(app.to_owned());
        }
        Err(value.note(unknown_app(app, self.apps.names())))
    }

    fn find_class(&self, value: Value<'_>) -> Result<String, Noted> {
        #[cfg(test)]
        value.offers_words([DEFAULT_CLASS]);
        let class = value.string()?;
        if class == DEFAULT_CLASS || self.classes.get(class).is_some() {
            return Ok(class.to_owned());
        }
        Err(value.note(unknown("class", class, self.classes.names().chain([DEFAULT_CLASS]))))
    }
}

/// The first address of a prefix that a host can have.
fn first_host(prefix: &IpNetwork) -> IpAddr {
    match prefix.network() {
        IpAddr::V4(v4) if prefix.prefix() < 31 => IpAddr::V4((v4.to_bits() + 1).into()),
        IpAddr::V6(v6) if prefix.prefix() < 127 => IpAddr::V6((v6.to_bits() + 1).into()),
        network => network,
    }
}

fn asked_end(value: Value<'_>) -> Result<AskedEnd, Noted> {
    value.parse(|text| text.parse().map_err(|error: NotAnEnd| format!("{text:?} is {error}")))
}

fn service_or_group(value: Value<'_>) -> Result<Member<'_, Service>, Noted> {
    if value.is_string() {
        return value.string().map(Member::Of);
    }
    let mut table = value.table("[[service-group.services]]")?;
    let protocols = table.required("protocol", |value| value.one_or_many(protocol));
    let source_ports = ports(&mut table, "src-port", &protocols);
    let destination_ports = ports(&mut table, "dst-port", &protocols);
    table.finish();
    Ok(Member::Itself(Service {
        protocols: protocols?,
        source_ports: source_ports?,
        destination_ports: destination_ports?,
    }))
}

pub(super) fn protocol(value: Value<'_>) -> Result<Protocol, Noted> {
    #[cfg(test)]
    value.offers_words(Protocol::NAMED.iter().map(|(name, _)| *name));
    if value.is_number() { value.number(0..=255).map(Protocol) } else { value.parse(values::protocol) }
}

fn dscp(value: Value<'_>) -> Result<u8, Noted> {
    #[cfg(test)]
    value.offers_words(values::DSCPS.iter().map(|(name, _)| *name));
    if value.is_number() { value.number(0..=63) } else { value.parse(values::dscp) }
}

pub(super) fn ports(
    table: &mut Table<'_>,
    key: &'static str,
    protocols: &Result<Vec<Protocol>, Noted>,
) -> Result<Vec<RangeInclusive<u16>>, Noted> {
    let has_ports = |protocol: &Protocol| matches!(*protocol, Protocol::TCP | Protocol::UDP);
    table.with_default(key, Vec::new(), |value| {
        let ports = value.one_or_many(|value| match value.is_number() {
            true => value.number(1..=u16::MAX).map(|port| port..=port),
            false => value.parse(values::ports),
        });
        if protocols.as_ref().is_ok_and(|all| all.is_empty() || !all.iter().all(has_ports)) {
            return Err(value.note("needs protocol = \"tcp\", \"udp\" or both, and no other"));
        }
        ports
    })
}

/// `nat-blocks = { size = 512, per-branch = 4, deterministic = true }`.
fn port_blocks(value: Value<'_>) -> Result<PortBlocks, Noted> {
    let mut table = value.table("nat-blocks")?;
    let size = table.required("size", |value| {
        let size: u16 = value.number(0..=u16::MAX)?;
        if !size.is_power_of_two() || size < PortBlocks::MIN_SIZE {
            return Err(value.note(format!("{size} is no power of two from {} on", PortBlocks::MIN_SIZE)));
        }
        Ok(size)
    });
    let per_branch = table.required("per-branch", |value| value.number(1..=1_024));
    let deterministic = table.with_default("deterministic", false, Value::boolean);
    table.finish();
    Ok(PortBlocks { size: size?, per_branch: per_branch?, deterministic: deterministic? })
}

/// That the pool has blocks at all, and where they are computed, one for each that each branch may have.
fn enough_blocks(
    value: Value<'_>,
    blocks: PortBlocks,
    pool: &[IpNetwork],
    ports: &RangeInclusive<u16>,
    branches: Option<&[TenantBranch]>,
) -> Result<(), Noted> {
    if pool.is_empty() {
        return Err(value.note("they are of a nat-pool's ports, and the handoff has none"));
    }
    let (first, last, size) = (ports.start(), ports.end(), blocks.size);
    if blocks.whole(ports).is_empty() {
        return Err(value.note(format!("no block of {size} ports lies in nat-ports {first}-{last}")));
    }
    let addresses: u64 = pool.iter().map(|network| 1 << (32 - network.prefix().min(32))).sum();
    let room = addresses * u64::from(blocks.branches(ports));
    match branches {
        Some(branches) if blocks.deterministic && branches.len() as u64 > room => {
            let each = blocks.per_branch;
            Err(value.note(format!(
                "{} branches of {each} x {size} ports each: nat-pool and nat-ports have room for {room}",
                branches.len()
            )))
        }
        _ => Ok(()),
    }
}

/// Whether a NAT rule's addresses are its handoff's to give: of every handoff it names, or of any if it names none.
fn pool_of_handoff(
    value: Value<'_>,
    prefix: IpNetwork,
    matches: &FlowMatch,
    handoffs: &[Handoff],
    rule: &str,
) -> Result<(), Noted> {
    let named: Vec<&str> = matches
        .to
        .iter()
        .filter_map(|place| if let Place::Handoff(name) = place { Some(name.as_str()) } else { None })
        .collect();
    let gives = |handoff: &Handoff| match &handoff.kind {
        HandoffKind::Internet { nat_pool, .. } => nat_pool.iter().any(|pool| covers(*pool, prefix)),
        HandoffKind::Private { .. } => false,
    };
    let outside = handoffs.iter().find(|handoff| named.contains(&handoff.name.as_str()) && !gives(handoff));
    let computes = |handoff: &Handoff| match &handoff.kind {
        HandoffKind::Internet { nat_blocks, .. } => nat_blocks.is_some_and(|blocks| blocks.deterministic),
        HandoffKind::Private { .. } => false,
    };
    if let Some(handoff) = handoffs.iter().find(|handoff| gives(handoff) && computes(handoff)) {
        return Err(value.remark(format!(
            "{rule}: which of {prefix} a branch has is computed, for handoff {:?} has deterministic nat-blocks",
            handoff.name
        )));
    }
    match outside {
        Some(handoff) => {
            Err(value
                .remark(format!("{rule}: {prefix} is not in the NAT pool of handoff {:?}", handoff.name)))
        }
        None if !handoffs.iter().any(gives) => {
            Err(value.remark(format!("{rule}: {prefix} is in no handoff's NAT pool")))
        }
        None => Ok(()),
    }
}

/// Whether answers to what a no-nat rule lets out untranslated can find back: its sources must be routed here.
fn source_is_routed(
    value: Value<'_>,
    matches: &FlowMatch,
    branches: &[TenantBranch],
    handoffs: &[Handoff],
) -> Result<(), Noted> {
    let routed: Vec<IpNetwork> = handoffs
        .iter()
        .filter_map(|handoff| match &handoff.kind {
            HandoffKind::Internet { routed, .. } => Some(routed),
            HandoffKind::Private { .. } => None,
        })
        .flatten()
        .copied()
        .collect();
    let sources: Vec<IpNetwork> = matches
        .from
        .iter()
        .flat_map(|place| match place {
            Place::Prefix(prefix) => vec![*prefix],
            // IPv6 takes of the pool only where it must (NAT64), so the rule says nothing about it.
            Place::Branch(name) => branches
                .iter()
                .filter(|branch| branch.name == *name)
                .flat_map(|branch| branch.prefixes.iter().copied().filter(IpNetwork::is_ipv4))
                .collect(),
            Place::Handoff(_) | Place::Tenant(_) => Vec::new(),
        })
        .collect();
    if sources.is_empty() {
        return Err(value.note("say from which of the handoff's routed prefixes, with `from`"));
    }
    match sources.iter().find(|source| !routed.iter().any(|routed| covers(*routed, **source))) {
        Some(source) => Err(value.note(format!("{source} is not in the routed prefixes of a handoff"))),
        None => Ok(()),
    }
}
