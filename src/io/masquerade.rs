//! Masquerading: answers to ports of an address of the box's own reach the TUN device, although the address is the kernel's.
//!
//! A chain of nftables at the ingress hook of the interface, and of `lo`, where the kernel's own errors about what is sent
//! from the address come by, looks at what is for the address. TCP and UDP to a port that is given out, answers to a ping
//! with such an identifier, ICMP errors about packets from such a port, and later fragments, which have no ports, go straight
//! to the device (`fwd`). All else is the box's as ever: who it listens for, its tunnels, its own connections, whose ports
//! the kernel chooses elsewhere (`ip_local_reserved_ports`). What belongs to no session after all, such as an answer to a ping
//! from the box, which asks nobody for its identifier, the data plane gives back.
//!
//! Why not otherwise: rules of policy routing (`ipproto`, `dport`) know nothing of identifiers, of what an error quotes, or
//! of fragments, and the table `local`, before which they would have to stand, comes first in every namespace. To give the
//! sessions an address of their own, rewritten at the hook both ways, would need what errors quote rewritten too. The `fwd`
//! hands super-packets over whole, and neither routes nor tracks them.
//!
//! It takes the program `nft`. Whoever flushes the whole ruleset takes the chain away; [`Masquerading::is_gone`] sees it. A
//! process that was killed leaves the chain, leading nowhere, until the next one.

use super::namespace::Namespace;
use super::network::read_sysctl;
use crate::tables::Masquerade;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Everything of ours is in this table of the family `netdev`.
const TABLE: &str = "popgate";
const CLEAR: &str = "add table netdev popgate\ndelete table netdev popgate\n";
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// What this process has put into the kernel.
#[derive(Debug, Default)]
pub(super) struct Masquerading {
    /// As `nft` reads it; empty for no chain, `None` before anybody looked.
    script: Option<String>,
    reserved: Vec<Ports>,
}

/// From the first to the last.
type Ports = (u16, u16);

impl Masquerading {
    /// Brings the namespace to `wanted`, whose answers go to `device`. What was changed, in words of `nft` and `sysctl`.
    ///
    /// # Errors
    /// What could not be done; the rest may be.
    pub(super) fn realise(
        &mut self,
        home: &Namespace,
        device: &str,
        wanted: &[Masquerade],
    ) -> Result<Vec<String>, String> {
        let mut changes = Vec::new();
        if self.script.is_none() && wanted.is_empty() && !is_there(home) {
            self.script = Some(String::new());
        }
        let script = script(device, wanted);
        if self.script.as_ref() != Some(&script) {
            nft(home, &format!("{CLEAR}{script}"))?;
            changes.push(if wanted.is_empty() {
                format!("nft delete table netdev {TABLE}")
            } else {
                format!("nft add table netdev {TABLE}: {}", described(wanted))
            });
            self.script = Some(script);
        }
        let reserved: Vec<Ports> = wanted.iter().map(|one| (*one.ports.start(), *one.ports.end())).collect();
        let accepts_local = format!("net/ipv4/conf/{device}/accept_local");
        let set = home.run(|| {
            let mut set = Vec::new();
            if !reserved.is_empty() || !self.reserved.is_empty() {
                set.extend(reserve(&self.reserved, &reserved)?);
                // Packets from an address of the box's own come out of the device.
                let accepts = if reserved.is_empty() { "0" } else { "1" };
                set.extend(set_sysctl(&accepts_local, accepts)?);
            }
            Ok::<_, io::Error>(set)
        });
        changes.extend(set.and_then(|set| set).map_err(|e| e.to_string())?);
        self.reserved = reserved;
        Ok(changes)
    }

    /// Whether somebody took away what is to be there; the next [`Masquerading::realise`] puts it back.
    pub(super) fn is_gone(&mut self, home: &Namespace) -> bool {
        let gone = self.script.as_ref().is_some_and(|script| !script.is_empty()) && !is_there(home);
        if gone {
            self.script = None;
        }
        gone
    }
}

/// The chain; empty if nobody masquerades.
fn script(device: &str, wanted: &[Masquerade]) -> String {
    let addressed: Vec<_> = wanted.iter().filter_map(|one| Some((one, one.address?))).collect();
    if addressed.is_empty() {
        return String::new();
    }
    let mut script =
        format!("table netdev {TABLE} {{\nchain answers {{\ntype filter hook ingress devices = {{ ");
    for (one, _) in &addressed {
        let _ = write!(script, "\"{}\", ", one.interface);
    }
    script.push_str("\"lo\" } priority -10; policy accept;\n");
    for (one, address) in addressed {
        let ports = format!("{}-{}", one.ports.start(), one.ports.end());
        let errors = "icmp type { destination-unreachable, time-exceeded, parameter-problem }";
        for what in [
            "ip frag-off & 0x1fff != 0".to_owned(),
            format!("meta l4proto {{ tcp, udp }} th dport {ports}"),
            format!("icmp type echo-reply icmp id {ports}"),
            // Behind ICMP's 8 bytes the quoted header, of 20: protocol, then source port, or an echo's identifier.
            format!("{errors} @th,136,8 {{ 6, 17 }} @th,224,16 {ports}"),
            format!("{errors} @th,136,8 1 @th,256,16 {ports}"),
        ] {
            let _ = writeln!(script, "ip daddr {address} {what} fwd ip to {address} device \"{device}\"");
        }
    }
    script.push_str("}\n}\n");
    script
}

fn described(wanted: &[Masquerade]) -> String {
    let one = |one: &Masquerade| {
        let address = one.address.map_or("no address".to_owned(), |address| address.to_string());
        format!("{} ({address}) ports {}-{}", one.interface, one.ports.start(), one.ports.end())
    };
    wanted.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn is_there(home: &Namespace) -> bool {
    let list = home.run(|| {
        let mut nft = Command::new("nft");
        nft.args(["list", "table", "netdev", TABLE]).stdout(Stdio::null()).stderr(Stdio::null()).status()
    });
    // Where there is no `nft`, nothing was put there with it.
    list.and_then(|status| status).is_ok_and(|status| status.success())
}

fn nft(home: &Namespace, script: &str) -> Result<(), String> {
    let run = home.run(|| {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(stdin) = &mut nft.stdin {
            stdin.write_all(script.as_bytes())?;
        }
        nft.wait_with_output()
    });
    match run.and_then(|output| output) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("masquerade: nft: {}", said.lines().next().unwrap_or("failed")))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err("masquerade needs the program nft (Debian's package nftables)".to_owned())
        }
        Err(e) => Err(format!("masquerade: nft: {e}")),
    }
}

/// Keeps the kernel from choosing `wanted` for the box's own connections, and from keeping clear of `before` any longer.
fn reserve(before: &[Ports], wanted: &[Ports]) -> io::Result<Option<String>> {
    let Some(present) = read_sysctl(RESERVED)? else { return Ok(None) };
    set_sysctl(RESERVED, &reserved(&present, before, wanted))
}

/// A list of ports as the kernel writes it, without `before` and with `wanted`.
fn reserved(present: &str, before: &[Ports], wanted: &[Ports]) -> String {
    let mut ports = vec![false; 1 << 16];
    let mut set = |(first, last): Ports, to| ports[usize::from(first)..=usize::from(last)].fill(to);
    for part in present.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>())
            && first <= last
        {
            set((first, last), true);
        }
    }
    before.iter().for_each(|ports| set(*ports, false));
    wanted.iter().for_each(|ports| set(*ports, true));
    let mut list: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(first) = (at..ports.len()).find(|port| ports[*port]) {
        at = (first..ports.len()).find(|port| !ports[*port]).unwrap_or(ports.len());
        list.push(if at - 1 == first { first.to_string() } else { format!("{first}-{}", at - 1) });
    }
    list.join(",")
}

/// Sets what differs; what was set.
fn set_sysctl(path: &str, value: &str) -> io::Result<Option<String>> {
    if read_sysctl(path)?.is_none_or(|present| present == value) {
        return Ok(None);
    }
    // A newline, for nothing at all would change nothing.
    std::fs::write(Path::new("/proc/sys").join(path), format!("{value}\n"))
        .map_err(|e| io::Error::new(e.kind(), format!("sysctl {path}={value}: {e}")))?;
    Ok(Some(format!("sysctl {path}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_to_what_is_reserved_already_and_taken_out_again() {
        assert_eq!(reserved("", &[], &[(52_000, 65_535)]), "52000-65535");
        assert_eq!(reserved("8080,9000-9001", &[], &[(52_000, 52_000)]), "8080,9000-9001,52000");
        assert_eq!(
            reserved("8080,52000-65535", &[(52_000, 65_535)], &[(60_000, 60_001)]),
            "8080,60000-60001"
        );
        assert_eq!(reserved("52000-65535", &[(52_000, 65_535)], &[]), "");
    }
}
