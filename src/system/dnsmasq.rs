//! What dnsmasq is told: `man 8 dnsmasq`.

use crate::config::{Appliance, DhcpPool, Interface, LanServices, Role};
use ipnetwork::IpNetwork;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Names that are kept while they are good.
const CACHED_NAMES: u32 = 10_000;

/// Its configuration; none where a branch does nothing for its LAN's hosts, and at a PoP.
pub(super) fn file(appliance: &Appliance) -> Option<String> {
    let Role::Branch(branch) = &appliance.role else { return None };
    let services = &branch.lan_services;
    if *services == LanServices::default() {
        return None;
    }
    let lan: Vec<&Interface> =
        appliance.interfaces.iter().filter(|one| branch.lan_interfaces.contains(&one.name)).collect();
    let own: Vec<IpNetwork> = lan.iter().flat_map(|one| one.addressing.fixed.iter().copied()).collect();
    // Nothing of the system's own is mixed in, and nobody but the LAN is served.
    let mut text =
        "# popgate's, from popgate.toml.\nbind-dynamic\nexcept-interface=lo\nno-hosts\nno-resolv\nno-poll\n"
            .to_owned();
    for interface in &lan {
        let _ = writeln!(text, "interface={}", interface.name);
    }
    match &services.dns {
        Some(dns) => {
            let _ = writeln!(text, "cache-size={CACHED_NAMES}\ndomain-needed\nexpand-hosts");
            for server in &dns.upstream {
                let _ = writeln!(text, "server={}", asked(*server, &own));
            }
            for (domain, servers) in &dns.domains {
                for server in servers {
                    let _ = writeln!(text, "server=/{domain}/{}", asked(*server, &own));
                }
            }
        }
        None => text += "port=0\n",
    }
    if !services.dhcp.is_empty() {
        text += "dhcp-authoritative\n";
    }
    for (number, pool) in services.dhcp.iter().enumerate() {
        write_pool(&mut text, number, pool, services.dns.is_some());
    }
    if services.advertises {
        text += "enable-ra\n";
        let prefixes = own.iter().filter(|own| own.is_ipv6() && own.prefix() == 64);
        for prefix in prefixes {
            let _ = writeln!(text, "dhcp-range={},ra-stateless,64,43200", prefix.network());
        }
    }
    Some(text)
}

/// A server, and the address of the LAN's that it is asked from: by that the question takes the LAN's way.
fn asked(server: IpAddr, own: &[IpNetwork]) -> String {
    let from = own.iter().find(|own| own.is_ipv4() == server.is_ipv4());
    from.map_or_else(|| server.to_string(), |from| format!("{server}@{}", from.ip()))
}

fn write_pool(text: &mut String, number: usize, pool: &DhcpPool, box_answers: bool) {
    let DhcpPool { own, first, last, lease, domain, dns, hosts, .. } = pool;
    let (tag, router) = (format!("pool{number}"), own.ip());
    let _ = writeln!(text, "dhcp-range=set:{tag},{first},{last},{},{}", own.mask(), lease.as_secs());
    let _ = writeln!(text, "dhcp-option=tag:{tag},option:router,{router}");
    let mut servers: Vec<String> = dns.iter().map(ToString::to_string).collect();
    if servers.is_empty() && box_answers {
        servers.push(router.to_string());
    }
    if servers.is_empty() {
        // It would name itself.
        let _ = writeln!(text, "dhcp-option=tag:{tag},option:dns-server");
    } else {
        let _ = writeln!(text, "dhcp-option=tag:{tag},option:dns-server,{}", servers.join(","));
    }
    if let Some(domain) = domain {
        let _ = writeln!(text, "domain={domain},{}/{},local", own.network(), own.prefix());
        let _ = writeln!(text, "dhcp-option=tag:{tag},option:domain-name,{domain}");
    }
    for host in hosts {
        let mac: Vec<String> = host.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "dhcp-host={},{},{}", mac.join(":"), host.address, host.name);
    }
}
