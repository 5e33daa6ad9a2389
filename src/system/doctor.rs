//! Whether the box has what it needs of its machine and of the network, and what to do where it has not.
//!
//! Everything is looked at from outside the running box, so that one that does not start is examined too; of one that runs, its API
//! tells how the paths are.

use super::programs::said;
use crate::config::{Appliance, Candidate, HandoffKind, Role, load};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// The oldest kernel that has all of it: UDP GRO towards sockets and TUN's USO fall back quietly, router advertisements' metric does not.
const KERNEL: (u32, u32) = (5, 12);
/// Free room that a state directory is to have: what a day of a busy branch's records takes.
const ROOM_MIB: u64 = 1024;
/// A clock that is before the software was made is wrong.
const MADE_UNIX_SECS: u64 = 1_764_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Good,
    /// It runs, but not as it could.
    Warning,
    /// It cannot run so, or not all of it.
    Bad,
}

/// What was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    pub about: &'static str,
    pub what: String,
    /// None where there is nothing to be done.
    pub remedy: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Good => "ok",
            Level::Warning => "warning",
            Level::Bad => "BAD",
        };
        write!(f, "{level:8} {:12} {}", self.about, self.what)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "\n{:21} -> {remedy}", ""))
    }
}

fn good(about: &'static str, what: impl Into<String>) -> Finding {
    Finding { level: Level::Good, about, what: what.into(), remedy: None }
}

fn warning(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, about, what: what.into(), remedy: Some(remedy.into()) }
}

fn bad(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Bad, about, what: what.into(), remedy: Some(remedy.into()) }
}

/// Examines the box configured in `dir`. `popgate` is this program, which asks the running box; `unix_secs` is the clock's time.
pub fn examine(dir: &Path, popgate: &Path, unix_secs: u64) -> Vec<Finding> {
    let mut found = vec![kernel(), tun(), filters(), clock(unix_secs)];
    let candidate = match load(dir) {
        Ok(candidate) => {
            found.push(good("config", format!("{}: {}", dir.display(), candidate.summary())));
            candidate
        }
        Err(problems) => {
            // Keys that are missing, or open to others, are among them.
            let what = format!("{} does not read:\n{}", dir.display(), indented(&problems.to_string()));
            found.push(bad("config", what, "mend what it says; popgate check says it again"));
            return found;
        }
    };
    let appliance = &candidate.appliance;
    found.extend(room(&appliance.state_dir));
    found.extend(modules(&candidate));
    found.extend(helpers(appliance));
    found.extend(
        appliance
            .transports
            .iter()
            .filter_map(|one| one.interface.as_deref().map(|name| (name, one.mtu)))
            .flat_map(|(name, mtu)| interface(name, mtu)),
    );
    if let Role::Branch(branch) = &appliance.role {
        let endpoints = branch
            .pops
            .iter()
            .flat_map(|pop| pop.paths.iter().map(|path| (&*pop.name, &*path.name, path.endpoint)));
        found.extend(endpoints.map(|(pop, path, endpoint)| way_to(pop, path, endpoint)));
    }
    found.extend(running(popgate));
    found
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("{:22}{line}", "")).collect::<Vec<_>>().join("\n")
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version_of(release) {
        Some(version) if version >= KERNEL => good("kernel", format!("Linux {release}")),
        _ => warning(
            "kernel",
            format!("Linux {release} is older than {}.{}", KERNEL.0, KERNEL.1),
            "it forwards, but private handoffs cannot learn IPv6 routers; take Debian 12's",
        ),
    }
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn tun() -> Finding {
    match fs::File::open("/dev/net/tun") {
        Ok(_) => good("kernel", "TUN devices can be made"),
        Err(error) => bad(
            "kernel",
            format!("/dev/net/tun: {error}"),
            "modprobe tun; in a container, give it the device",
        ),
    }
}

fn filters() -> Finding {
    match said(&["nft", "list", "tables"]) {
        Ok(_) => good("kernel", "nftables can be set"),
        Err(why) => bad("kernel", why, "needed for masquerading: run this as root; apt-get install nftables"),
    }
}

fn clock(unix_secs: u64) -> Finding {
    if unix_secs < MADE_UNIX_SECS {
        let what =
            "the clock is before this popgate was made: certificates and codes are taken for not yet valid";
        return bad("clock", what, "set it: timedatectl set-time, or let a time server be reached");
    }
    match said(&["timedatectl", "show", "--property=NTPSynchronized", "--value"]) {
        Ok(answer) if answer.trim() == "yes" => good("clock", "it is kept right by a time server"),
        _ => warning(
            "clock",
            "no time server keeps it right: records and logs of two boxes cannot be compared",
            "systemctl enable --now systemd-timesyncd, and let UDP port 123 out",
        ),
    }
}

fn room(state: &Path) -> Option<Finding> {
    let stat = rustix::fs::statvfs(state).ok()?;
    let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
    let what = format!("{free_mib} MiB are free for {}", state.display());
    Some(if free_mib >= ROOM_MIB {
        good("disk", what)
    } else {
        warning("disk", what, "make room, or keep less: [flow-history] and [nat-ledger] in popgate.toml")
    })
}

/// What of the kernel a configuration needs that not every one has.
fn modules(candidate: &Candidate) -> Vec<Finding> {
    let handoffs = candidate.tenants.values().flat_map(|tenant| &tenant.handoffs);
    let has_vlan = handoffs
        .filter_map(|handoff| match &handoff.kind {
            HandoffKind::Private { attachment, .. } => attachment.vlan,
            HandoffKind::Internet { .. } => None,
        })
        .next()
        .is_some();
    let of_own = candidate.appliance.interfaces.iter().any(|interface| interface.of.is_some());
    if !has_vlan && !of_own {
        return Vec::new();
    }
    let is_there = Path::new("/proc/net/vlan").exists() || said(&["modprobe", "--dry-run", "8021q"]).is_ok();
    vec![if is_there {
        good("kernel", "VLANs can be made (8021q)")
    } else {
        bad(
            "kernel",
            "it has no VLANs (8021q), and the configuration has",
            "modprobe 8021q; or take a kernel that has it, as Debian's",
        )
    }]
}

/// Programs that do what the configuration leaves to them.
fn helpers(appliance: &Appliance) -> Vec<Finding> {
    let mut found = Vec::new();
    if !appliance.interfaces.is_empty() {
        found.push(match said(&["systemctl", "is-active", "systemd-networkd"]) {
            Ok(_) => good("system", "systemd-networkd keeps the interfaces"),
            Err(_) => bad(
                "system",
                "systemd-networkd does not run, and is to keep the configured [[interface]]s",
                "systemctl enable --now systemd-networkd, and leave these interfaces to no other program",
            ),
        });
    }
    if let Role::Branch(branch) = &appliance.role
        && branch.lan_services != Default::default()
    {
        found.push(match said(&["dnsmasq", "--version"]) {
            Ok(_) => good("system", "dnsmasq serves the LAN"),
            Err(why) => bad("system", why, "apt-get install dnsmasq-base"),
        });
    }
    found
}

/// The interface of a transport.
fn interface(name: &str, mtu: u16) -> Vec<Finding> {
    let read = |file: &str| fs::read_to_string(format!("/sys/class/net/{name}/{file}"));
    let Ok(its) = read("mtu") else {
        return vec![bad(
            "interface",
            format!("there is no {name}"),
            "name one that is there (ip link) in popgate.toml",
        )];
    };
    let mut found = Vec::new();
    let its: u32 = its.trim().parse().unwrap_or_default();
    found.push(if its >= u32::from(mtu) {
        good("mtu", format!("{name}: {its} bytes; the transport has {mtu}"))
    } else {
        let what = format!("{name}: {its} bytes, and the transport has {mtu}: its packets are cut in pieces");
        bad("mtu", what, format!("set mtu = {its} in the [[transport]], or the interface's to {mtu}"))
    });
    if read("operstate").is_ok_and(|state| !["up", "unknown"].contains(&state.trim())) {
        found.push(bad("interface", format!("{name} has no link"), "its cable, or the other end's port"));
    }
    // Without these each packet is handed over by itself, which costs most of the speed.
    if let Ok(features) = said(&["ethtool", "--show-features", name]) {
        let off: Vec<&str> =
            ["generic-segmentation-offload", "generic-receive-offload", "tx-udp-segmentation"]
                .into_iter()
                .filter(|feature| {
                    features.lines().any(|line| line.trim().starts_with(&format!("{feature}: off")))
                })
                .collect();
        found.push(if off.is_empty() {
            good("offloads", format!("{name}: packets are handed over many at a time"))
        } else {
            let remedy =
                format!("ethtool --features {name} gso on gro on tx-udp-segmentation on, as far as it can");
            warning("offloads", format!("{name}: off: {}", off.join(", ")), remedy)
        });
    }
    found
}

/// Whether the kernel knows a way to a PoP's transport. Nothing is sent.
fn way_to(pop: &str, path: &str, endpoint: SocketAddr) -> Finding {
    match said(&["ip", "route", "get", &endpoint.ip().to_string()]) {
        Ok(way) => {
            let way = way.lines().next().unwrap_or_default().trim().to_owned();
            good("route", format!("{pop} by {path}: {way}"))
        }
        Err(why) => bad(
            "route",
            format!("{pop} by {path}: no way to {endpoint}: {why}"),
            "the box has no address or no default route there: ip route; DHCP or gateway in [[interface]]",
        ),
    }
}

/// What the running box says of its paths.
fn running(popgate: &Path) -> Vec<Finding> {
    let popgate = popgate.to_string_lossy();
    let answer = match said(&[&popgate, "show", "paths", "--json"]) {
        Ok(answer) => answer,
        Err(why) => {
            let remedy = "systemctl start popgate; journalctl --unit popgate says why it stopped";
            return vec![bad("service", format!("the box cannot be asked: {why}"), remedy)];
        }
    };
    let mut found = vec![good("service", "the box runs and answers")];
    let paths = serde_json::from_str::<Value>(&answer).unwrap_or_default();
    let paths = paths["paths"].as_array().cloned().unwrap_or_default();
    let text = |path: &Value, key: &str| path[key].as_str().unwrap_or("?").to_owned();
    let (up, down): (Vec<_>, Vec<_>) = paths.iter().partition(|path| text(path, "state") == "up");
    if down.is_empty() {
        found.push(good("paths", format!("all {} are up", up.len())));
    }
    for path in down {
        let what = format!(
            "{}/{} by {} is {}",
            text(path, "tenant"),
            text(path, "site"),
            text(path, "path"),
            text(path, "state")
        );
        found.push(bad(
            "paths",
            what,
            "is the far end on, its UDP port let through, and each one's public key at the other?",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_their_numbers() {
        assert_eq!(version_of("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(version_of("5.10"), Some((5, 10)));
        assert_eq!(version_of("next"), None);
        assert!(version_of("5.4.0").expect("a version") < KERNEL);
    }

    #[test]
    fn a_clock_of_the_past_is_bad() {
        assert_eq!(clock(0).level, Level::Bad);
    }

    #[test]
    fn each_finding_that_is_not_good_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let found = examine(dir.path(), Path::new("/nonexistent"), MADE_UNIX_SECS);
        assert!(found.iter().any(|it| it.about == "config" && it.level == Level::Bad), "{found:?}");
        assert!(found.iter().all(|it| it.level == Level::Good || it.remedy.is_some()), "{found:?}");
        let lo = interface("lo", 1500);
        assert_eq!(lo[0].level, Level::Good, "{lo:?}");
        assert_eq!(interface("none-such", 1500)[0].level, Level::Bad);
        let route = way_to("fra1", "dsl", "127.0.0.1:51820".parse().expect("an address"));
        assert_eq!(route.level, Level::Good, "{route}");
    }
}
