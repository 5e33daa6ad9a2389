//! `popgate.toml`: the box itself.

use super::admin::read_admin;
use super::documents::STATE_DIR;
use super::keys::{public_of, read_key_file};
use super::object_store;
use super::problem::{Noted, seen_from};
use super::reader::{Table, Value, all};
use super::scope::{Claims, Owners, PrefixKind, Scope, whose};
use super::values;
use super::*;
use crate::model::MAX_WORKERS;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What a tenant's file must fit to. Whatever could not be read is `None` and is then not held against a tenant.
#[derive(Default)]
pub(super) struct Surroundings {
    pub(super) role: Option<(RoleName, SourceRef)>,
    pub(super) site: Option<(String, SourceRef)>,
    /// The PoP's transports and the addresses they listen on; `None` at a branch, where tenants' files speak of
    /// transports of the PoP's.
    pub(super) pop_transports: Option<Scope<Option<SocketAddr>>>,
    /// Names of the branch's own paths.
    pub(super) branch_paths: Vec<String>,
    /// Tenants that collectors' filters and rules of who signs in name: there must be such.
    pub(super) named_tenants: Vec<(String, SourceRef)>,
}

/// What the box is, as the file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoleName {
    Pop,
    Branch,
}

/// What a probe may cost; and who does not answer is asked each time.
const MAX_PROBE_TARGETS: usize = 4;

/// RFC 7600 section 4.7's dummy address and a ULA (RFC 4193) of our own.
const ICMP_SOURCE: IcmpSource = IcmpSource {
    v4: Ipv4Addr::new(192, 0, 0, 8),
    v6: Ipv6Addr::new(0xfd70, 0x6f70, 0x6761, 0x7465, 0, 0, 0, 1),
};

/// What masquerading gives out unless it is told otherwise: above where WireGuard listens by custom, and leaving the box
/// most of what the kernel gives out itself (32768 to 60999).
pub(super) const MASQUERADE_PORTS: RangeInclusive<u16> = 52_000..=u16::MAX;

/// Reads the box. Key files' names are relative to `dir`; what a PoP itself needs and no tenant can have goes to
/// `claims`, what tenants' files refer to, to `around`.
pub(super) fn read(
    mut root: Table<'_>,
    dir: &Path,
    around: &mut Surroundings,
    claims: &mut Claims,
) -> Result<Appliance, Noted> {
    let site = root.required("site", |value| {
        let site = value.string()?;
        around.site = Some((site.to_owned(), value.at()));
        value.parse(values::name)
    });
    let role_name = root.required("role", |value| {
        let role = value.one_of(&[("pop", RoleName::Pop), ("branch", RoleName::Branch)])?;
        around.role = Some((role, value.at()));
        Ok(role)
    });
    let metro = root.optional("metro", |value| value.parse(values::name));
    let facility = root.optional("facility", |value| value.string().map(str::to_owned));
    let state_dir = root.with_default("state-dir", PathBuf::from(STATE_DIR), absolute_path);
    // At least 1,000: fewer would not carry a branch's DNS. At most 100 million: about 50 GB of table.
    let max_sessions =
        root.with_default("max-sessions", 1_000_000, |value| value.number(1_000..=100_000_000));
    // What the receiver index has bits for.
    let workers =
        root.optional("workers", |value| value.number(1..=MAX_WORKERS)).map(|n| n.and_then(NonZeroU16::new));
    let icmp_source = root.with_default("icmp-source", ICMP_SOURCE, icmp_source);
    let mut transport_scope = Scope::new("transport");
    let mut own = Claims::default();
    let transports = read_transports(&mut root, &mut transport_scope, &mut own);
    let admin = read_admin(&mut root, dir, around);
    if let Ok(admin) = &admin {
        let listen = admin.tls.iter().flat_map(|tls| &tls.listen).chain([&admin.listen]);
        own.ports.extend(listen.map(|listen| (listen.port(), "the admin server".to_owned())));
    }
    let export = export::read(&mut root, dir, around);
    let nat_ledger = read_nat_ledger(&mut root);
    let flow_history = read_flow_history(&mut root, dir, site.as_deref().ok());
    let commit_guard = read_commit_guard(&mut root);
    let audit_syslog = read_audit(&mut root);
    let interfaces = interfaces::read_interfaces(&mut root, &mut own);

    let role = match role_name {
        Ok(RoleName::Pop) => {
            root.refuse(&["lan", "breakout", "pop"], "only for role \"branch\"; this box's role is \"pop\"");
            let pop = read_pop(&mut root, dir, &mut own);
            around.pop_transports = Some(transport_scope);
            // At a branch, tenants' handoffs are somewhere else, and so nothing of its own stands against them.
            *claims = own;
            pop.map(Role::Pop)
        }
        Ok(RoleName::Branch) => {
            let reason = "only for role \"pop\"; this box's role is \"branch\"";
            root.refuse(&["private-key-file", "internet-device"], reason);
            read_branch(&mut root, dir, around, &transport_scope, &own, &interfaces).map(Role::Branch)
        }
        Err(noted) => {
            // Either role's keys may be meant.
            for key in ["private-key-file", "internet-device", "lan", "breakout", "pop"] {
                root.value(key);
            }
            Err(noted)
        }
    };
    root.finish();
    Ok(Appliance {
        site: site?,
        metro: metro?,
        facility: facility?,
        role: role?,
        state_dir: state_dir?,
        transports: transports?,
        icmp_source: icmp_source?,
        max_sessions: max_sessions?,
        workers: workers?,
        admin: admin?,
        export: export?,
        nat_ledger: nat_ledger?,
        flow_history: flow_history?,
        commit_guard: commit_guard?,
        audit_syslog: audit_syslog?,
        interfaces: interfaces?,
    })
}

fn read_pop(root: &mut Table<'_>, dir: &Path, own: &mut Claims) -> Result<Pop, Noted> {
    let private_key = root.required("private-key-file", |value| {
        let key = key_file(value, dir)?;
        own.public_keys.claim(value, public_of(&key), "its public key", "this PoP".to_owned())?;
        Ok(key)
    });
    let owner = "the internet handoff".to_owned();
    let internet_device = match root.value("internet-device") {
        Some(value) => interface(value).and_then(|device| {
            own.interfaces.claim(value, device.clone(), &format!("{device:?}"), owner)?;
            Ok(device)
        }),
        None => {
            let device = "pg-internet".to_owned();
            own.interfaces
                .claim_by_default(root, device.clone(), &format!("{device:?}"), owner)
                .map(|()| device)
        }
    };
    Ok(Pop { private_key: private_key?, internet_device: internet_device? })
}

fn read_branch(
    root: &mut Table<'_>,
    dir: &Path,
    around: &mut Surroundings,
    transports: &Scope<Option<SocketAddr>>,
    own: &Claims,
    interfaces: &Result<Vec<Interface>, Noted>,
) -> Result<Branch, Noted> {
    let (lan_device, lan_interfaces, lan_services) = read_lan(root, interfaces);
    let breakout = root.table("breakout", "[breakout]").and_then(|table| {
        table.map(|table| read_breakout(table, &lan_device, &lan_interfaces, own)).transpose()
    });
    let mut pops = Scope::new("pop");
    let mut paths = Scope::new("path");
    let (mut pop_keys, mut path_keys) = (Owners::default(), Owners::default());
    let peers = root.tables("pop", "[[pop]]").and_then(|tables| {
        if tables.is_empty() {
            return Err(root.missing("[[pop]]"));
        }
        all(tables.into_iter().map(|mut table| {
            let name = table.required("name", |value| pops.claim(value, ()));
            let public_key = table.required("public-key", |value| {
                let key = public_key(value)?;
                pop_keys.claim(value, key, "this public key", whose("pop", &name))?;
                Ok(key)
            });
            let own_paths = table.tables("path", "[[pop.path]]").and_then(|tables| {
                if tables.is_empty() {
                    return Err(table.missing("[[pop.path]]"));
                }
                let read = |table| read_pop_path(table, dir, transports, &mut paths, &mut path_keys);
                all(tables.into_iter().map(read))
            });
            let at = table.at().clone();
            table.finish();
            Ok(PopPeer { name: name?, public_key: public_key?, paths: own_paths?, at })
        }))
    });
    around.branch_paths = paths.names().map(str::to_owned).collect();
    Ok(Branch {
        lan_device: lan_device?,
        lan_interfaces: lan_interfaces?,
        lan_services: lan_services?,
        breakout: breakout?,
        pops: peers?,
    })
}

fn read_breakout(
    mut table: Table<'_>,
    lan_device: &Result<String, Noted>,
    lan_interfaces: &Result<Vec<String>, Noted>,
    own: &Claims,
) -> Result<Breakout, Noted> {
    let interface = table.required("interface", |value| {
        let interface = interface(value)?;
        if lan_interfaces.as_ref().is_ok_and(|lan| lan.contains(&interface)) {
            return Err(value.note(format!("{interface:?} is the LAN's")));
        }
        Ok(interface)
    });
    let device = table.with_default("device", "pg-breakout".to_owned(), |value| {
        let device = super::appliance::interface(value)?;
        if lan_device.as_ref().is_ok_and(|lan| *lan == device) {
            return Err(value.note(format!("{device:?} is the LAN's")));
        }
        Ok(device)
    });
    let nat_ports = table.with_default("nat-ports", MASQUERADE_PORTS, |value| {
        let ports = value.parse(values::ports)?;
        own.not_listened_on(value, &ports, "breakout")?;
        Ok(ports)
    });
    let probe_targets = table.with_default("probe-target", Vec::new(), |value| {
        let ports = nat_ports.as_ref().map_err(|noted| *noted)?;
        if ports.start() == ports.end() {
            return Err(value.note("nat-ports is one port, and probes take one for themselves"));
        }
        probe_targets(value)
    });
    table.finish();
    let (interface, nat_ports, device) = (interface?, nat_ports?, device?);
    Ok(Breakout { interface, nat_ports, device, probe_targets: probe_targets? })
}

/// Hosts that are asked by echo requests; each probe asks them all.
fn probe_targets(value: Value<'_>) -> Result<Vec<Ipv4Addr>, Noted> {
    let mut targets = Vec::new();
    value.one_or_many(|value| {
        let target = match value.parse(values::address)? {
            IpAddr::V4(target) => target,
            IpAddr::V6(_) => return Err(value.note("breakout is IPv4 alone")),
        };
        if target.is_unspecified() || target.is_multicast() || target.is_broadcast() || target.is_loopback() {
            return Err(value.note(format!("{target} is no host's address")));
        }
        if targets.contains(&target) {
            return Err(value.note(format!("{target} stands here twice")));
        }
        targets.push(target);
        Ok(())
    })?;
    if targets.len() > MAX_PROBE_TARGETS {
        return Err(value.note(format!("at most {MAX_PROBE_TARGETS} targets")));
    }
    Ok(targets)
}

/// The LAN's device, its interfaces, and what the box does for the hosts there.
type Lan = (Result<String, Noted>, Result<Vec<String>, Noted>, Result<LanServices, Noted>);

fn read_lan(root: &mut Table<'_>, interfaces: &Result<Vec<Interface>, Noted>) -> Lan {
    let device = "pg-lan".to_owned();
    match root.table("lan", "[lan]") {
        Ok(None) => (Ok(device), Ok(Vec::new()), Ok(LanServices::default())),
        Ok(Some(mut table)) => {
            let device = table.with_default("device", device, interface);
            let lan = table.with_default("interfaces", Vec::new(), |value| value.list(interface));
            let services = interfaces::read_services(&mut table, &lan, interfaces);
            table.finish();
            (device, lan, services)
        }
        Err(noted) => (Err(noted), Err(noted), Err(noted)),
    }
}

/// A path's name.
pub(super) fn not_breakout(value: Value<'_>) -> Result<&str, Noted> {
    match value.string()? {
        BREAKOUT => {
            Err(value.note(format!("{BREAKOUT:?} is the way straight out of a branch; take another name")))
        }
        name => Ok(name),
    }
}

fn read_pop_path(
    mut table: Table<'_>,
    dir: &Path,
    transports: &Scope<Option<SocketAddr>>,
    paths: &mut Scope<()>,
    keys: &mut Owners<PublicKey>,
) -> Result<PopPath, Noted> {
    let name = table.required("name", |value| {
        not_breakout(value)?;
        paths.claim(value, ())
    });
    let transport = table.required("transport", |value| transports.find(value, value.string()?));
    let endpoint = table.required("endpoint", |value| {
        let endpoint = value.parse(values::endpoint)?;
        if let Ok(transport) = &transport {
            same_family(value, endpoint, transport, transports)?;
        }
        Ok(endpoint)
    });
    let private_key = table.required("private-key-file", |value| {
        let key = key_file(value, dir)?;
        // A PoP tells paths apart by their keys alone.
        keys.claim(value, public_of(&key), "this private key", whose("path", &name))?;
        Ok(key)
    });
    let preshared_key = table.optional("preshared-key-file", |value| key_file(value, dir));
    let persistent_keepalive =
        table.optional("persistent-keepalive", |value| value.duration(values::keepalive_secs));
    let bandwidth = table.optional("bandwidth", |value| value.parse(values::rate));
    let at = table.at().clone();
    table.finish();
    Ok(PopPath {
        name: name?,
        transport: transport?,
        endpoint: endpoint?,
        private_key: private_key?,
        preshared_key: preshared_key?,
        persistent_keepalive: persistent_keepalive?,
        bandwidth: bandwidth?,
        at,
    })
}

fn read_transports(
    root: &mut Table<'_>,
    scope: &mut Scope<Option<SocketAddr>>,
    own: &mut Claims,
) -> Result<Vec<Transport>, Noted> {
    let tables = root.tables("transport", "[[transport]]")?;
    if tables.is_empty() {
        return Err(root.missing("[[transport]]"));
    }
    let mut bound: Vec<(SocketAddr, Option<String>, SourceRef)> = Vec::new();
    all(tables.into_iter().map(|mut table| {
        let interface = table.optional("interface", |value| Ok((value, interface(value)?)));
        let listen = table.required("listen", |value| {
            let listen = value.parse(values::socket_address)?;
            let device = interface.as_ref().ok().and_then(Option::as_ref).map(|(_, name)| name.clone());
            let taken = bound.iter().find(|(other, other_device, _)| {
                let apart = device.is_some() && other_device.is_some() && device != *other_device;
                same_socket(listen, *other) && !apart
            });
            if let Some((other, _, first)) = taken {
                let first = seen_from(&value.at(), first);
                return Err(value.note(format!("{listen} is already taken by {other} ({first})")));
            }
            bound.push((listen, device, value.at()));
            Ok((value, listen))
        });
        let listens_on = listen.as_ref().ok().map(|(_, listen)| *listen);
        let name = table.required("name", |value| scope.claim(value, listens_on));
        let mtu = table.with_default("mtu", 1500, |value| value.number(1280..=9216));
        let bandwidth = table.optional("bandwidth", |value| value.parse(values::rate));
        let at = table.at().clone();
        table.finish();
        if let Ok(Some((value, interface))) = &interface {
            let what = format!("interface {interface:?}");
            own.interfaces.share(*value, interface.clone(), &what, whose("transport", &name))?;
        }
        if let Ok((_, listen)) = &listen {
            own.ports.push((listen.port(), whose("transport", &name)));
        }
        if let Ok((value, listen)) = &listen
            && !listen.ip().is_unspecified()
        {
            own.prefix(*value, PrefixKind::Own, listen.ip().into(), whose("transport", &name));
        }
        Ok(Transport {
            name: name?,
            listen: listen?.1,
            interface: interface?.map(|(_, name)| name),
            mtu: mtu?,
            bandwidth: bandwidth?,
            at,
        })
    }))
}

/// Whether two sockets would get each other's datagrams, were they on the same interface.
fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip(), b.ip());
    a.port() == b.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// An IPv4 socket cannot send to IPv6 at all, nor one with an IPv6 address of its own to IPv4.
pub(super) fn same_family(
    value: Value<'_>,
    endpoint: SocketAddr,
    transport: &str,
    transports: &Scope<Option<SocketAddr>>,
) -> Result<(), Noted> {
    match transports.get(transport) {
        Some(Some(listen))
            if listen.is_ipv4() != endpoint.is_ipv4() && listen.ip() != Ipv6Addr::UNSPECIFIED =>
        {
            Err(value.note(format!(
                "{endpoint} cannot be reached from transport {transport:?}, which is at {listen}"
            )))
        }
        _ => Ok(()),
    }
}

fn read_nat_ledger(root: &mut Table<'_>) -> Result<Option<NatLedger>, Noted> {
    const HOUR: Duration = Duration::from_secs(3_600);
    // 30 days and 10 GB: what providers are most often asked about, and what a small disk has.
    let default = NatLedger { keep: 30 * 24 * HOUR, max_bytes: 10_000_000_000 };
    let Some(mut table) = root.table("nat-ledger", "[nat-ledger]")? else { return Ok(None) };
    let keep = table.with_default("keep", default.keep, |value| {
        value.duration(|text| values::duration_within(text, HOUR..=3_650 * 24 * HOUR, "1h to 3650d"))
    });
    let max_bytes = table.with_default("max-size", default.max_bytes, |value| {
        // Three times what a log may grow to before it is closed.
        let least = 200_000_000;
        let size = value.parse(values::size)?;
        if size < least {
            let text = value.string()?;
            return Err(value.note(format!("{text:?} is out of range; at least 200MB")));
        }
        Ok(size)
    });
    table.finish();
    Ok(Some(NatLedger { keep: keep?, max_bytes: max_bytes? }))
}

fn read_flow_history(
    root: &mut Table<'_>,
    dir: &Path,
    site: Option<&str>,
) -> Result<Option<FlowHistory>, Noted> {
    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    // A month of records, a year of sums to compare with; 5 GB are some 200 million records.
    const QUOTA: u64 = 5_000_000_000;
    let Some(mut table) = root.table("flow-history", "[flow-history]")? else { return Ok(None) };
    let mut age = |key, default| {
        table.with_default(key, default, |value| {
            value.duration(|text| values::duration_within(text, HOUR..=3_650 * DAY, "1h to 3650d"))
        })
    };
    let (keep, keep_rollups) = (age("keep", 30 * DAY), age("keep-rollups", 400 * DAY));
    let tenant_quota = table.with_default("tenant-quota", QUOTA, |value| {
        // Some files of half a million records, which go one by one.
        let size = value.parse(values::size)?;
        if size < 50_000_000 {
            let text = value.string()?;
            return Err(value.note(format!("{text:?} is out of range; at least 50MB")));
        }
        Ok(size)
    });
    let store = match table.table("object-store", "[flow-history.object-store]") {
        Ok(store) => store.map(|store| object_store::read(store, dir, site)).transpose(),
        Err(noted) => Err(noted),
    };
    table.finish();
    let object_store = store?.map(Arc::new);
    let (keep, keep_rollups, tenant_quota) = (keep?, keep_rollups?, tenant_quota?);
    Ok(Some(FlowHistory { keep, keep_rollups, tenant_quota, object_store }))
}

fn read_commit_guard(root: &mut Table<'_>) -> Result<CommitGuard, Noted> {
    const LONGEST: Duration = Duration::from_secs(3_600);
    // 30 s: a stock client's tunnel that was lost shows by then. A tenth: some branches are always being switched off.
    // A change may be meant to drop more, so that drops are judged only where it is asked for.
    let default = CommitGuard { watch: Duration::from_secs(30), tunnels_lost: 0.1, drops: None };
    let Some(mut table) = root.table("commit-guard", "[commit-guard]")? else { return Ok(default) };
    let watch = table.with_default("watch", default.watch, |value| {
        value.duration(|text| values::duration_within(text, Duration::from_secs(5)..=LONGEST, "5s to 1h"))
    });
    let tunnels_lost =
        table.with_default("tunnels-lost", default.tunnels_lost, |value| value.parse(values::percent));
    let drops = table.optional("drops", |value| value.parse(values::percent));
    table.finish();
    Ok(CommitGuard { watch: watch?, tunnels_lost: tunnels_lost?, drops: drops? })
}

fn read_audit(root: &mut Table<'_>) -> Result<Option<SocketAddr>, Noted> {
    let Some(mut table) = root.table("audit", "[audit]")? else { return Ok(None) };
    let syslog = table.required("syslog", |value| value.parse(values::socket_address));
    table.finish();
    syslog.map(Some)
}

fn icmp_source(value: Value<'_>) -> Result<IcmpSource, Noted> {
    let (mut v4, mut v6) = (None, None);
    value.list(|value| {
        let text = value.string()?;
        // The same addresses that somebody can own can be sent from.
        value.parse(values::owned_prefix)?;
        let taken = match value.parse(values::address)? {
            IpAddr::V4(address) => v4.replace(address).is_some(),
            IpAddr::V6(address) => v6.replace(address).is_some(),
        };
        if taken {
            Err(value.note(format!("{text:?} is the second of its family; one of each")))
        } else {
            Ok(())
        }
    })?;
    Ok(IcmpSource { v4: v4.unwrap_or(ICMP_SOURCE.v4), v6: v6.unwrap_or(ICMP_SOURCE.v6) })
}

fn absolute_path(value: Value<'_>) -> Result<PathBuf, Noted> {
    value.parse(|text| match PathBuf::from(text) {
        path if path.is_absolute() => Ok(path),
        _ => Err(format!("{text:?} is not an absolute path")),
    })
}

pub(super) fn interface(value: Value<'_>) -> Result<String, Noted> {
    value.parse(values::interface)
}

/// The public key written in the file. What is not one is not repeated: it may be a private key's file's content.
pub(super) fn public_key(value: Value<'_>) -> Result<PublicKey, Noted> {
    value.parse(|text| text.parse().map_err(|error: NotAKey| error.to_string()))
}

/// The key in the file that is named; relative to `dir`.
pub(super) fn key_file<K: FromStr<Err = NotAKey>>(value: Value<'_>, dir: &Path) -> Result<K, Noted> {
    value.parse(|name| read_key_file(name, &dir.join(name)))
}
