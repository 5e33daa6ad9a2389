//! What systemd-networkd is told: `man 5 systemd.network`, `systemd.netdev`.

use crate::config::{Addressing, Interface};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The files by their names. None at all unless the configuration has interfaces of the box's own: then somebody else keeps them.
pub(super) fn files(interfaces: &[Interface], handoffs: &[String]) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    if interfaces.is_empty() {
        return files;
    }
    for interface in interfaces {
        files.insert(format!("{}.network", interface.name), network(interface, interfaces));
        if let Some(vlan) = interface.of.as_ref().and_then(|of| of.vlan) {
            let netdev = format!("[NetDev]\nName={}\nKind=vlan\n\n[VLAN]\nId={vlan}\n", interface.name);
            files.insert(format!("{}.netdev", interface.name), netdev);
        }
    }
    // Those that others stand on are up, and ask nobody for anything.
    let trunks = interfaces.iter().filter_map(|interface| interface.of.as_ref());
    let bare: BTreeSet<&String> = trunks.map(|of| &of.interface).chain(handoffs).collect();
    for name in bare {
        files.entry(format!("{name}.network")).or_insert_with(|| {
            let mut text = matching(name);
            text += "\n[Network]\n";
            learning(&mut text, &Addressing::default());
            text += "LinkLocalAddressing=no\n";
            vlans(&mut text, name, interfaces);
            text
        });
    }
    files
}

fn network(interface: &Interface, all: &[Interface]) -> String {
    let mut text = matching(&interface.name);
    if let Some(mtu) = interface.mtu {
        let _ = writeln!(text, "MTUBytes={mtu}");
    }
    text += "\n[Network]\n";
    for address in &interface.addressing.fixed {
        let _ = writeln!(text, "Address={address}");
    }
    for gateway in &interface.gateways {
        let _ = writeln!(text, "Gateway={gateway}");
    }
    for server in &interface.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    learning(&mut text, &interface.addressing);
    // A branch serves its LAN while the cable is out, too.
    text += "ConfigureWithoutCarrier=yes\n";
    vlans(&mut text, &interface.name, all);
    if interface.addressing.dhcp {
        // As before the box had a configuration: a lease stays a box's, across updates and a new disk too.
        text += "\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\n";
    }
    text
}

fn matching(name: &str) -> String {
    // The box is up without it: who waits for the network waits for no one of them.
    format!("# popgate's, from popgate.toml.\n[Match]\nName={name}\n\n[Link]\nRequiredForOnline=no\n")
}

fn learning(text: &mut String, addressing: &Addressing) {
    let _ = writeln!(text, "DHCP={}", if addressing.dhcp { "ipv4" } else { "no" });
    let _ = writeln!(text, "IPv6AcceptRA={}", if addressing.ra { "yes" } else { "no" });
}

fn vlans(text: &mut String, trunk: &str, interfaces: &[Interface]) {
    for interface in interfaces {
        if interface.of.as_ref().is_some_and(|of| of.interface == trunk) {
            let _ = writeln!(text, "VLAN={}", interface.name);
        }
    }
}
