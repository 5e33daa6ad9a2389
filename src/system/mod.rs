//! The system around the box: what other programs on it are told of the configuration, and what an operator does with the whole box:
//! examine it ([`doctor`]), show it to somebody who is to help ([`bundle`]), keep what has been made and put it back ([`backup`]), set a fresh
//! one up ([`setup`]) by what they answer at its console ([`dialogue`]), and see there how it is ([`screen`]).
//!
//! popgate keeps the addresses of its own interfaces by systemd-networkd ([`networkd`]) and serves the LAN's hosts by dnsmasq
//! ([`dnsmasq`]): both are Debian's, and both read files. [`Files::of`] says what is in them; [`Files::put`] puts them into the
//! service's own folder under /run, and then touches one, at which a unit that may do so (`popgate-network`) hands them on.

pub mod backup;
pub mod bundle;
mod cloud_init;
pub mod commands;
pub mod dialogue;
mod dnsmasq;
pub mod doctor;
mod networkd;
mod programs;
pub mod screen;
pub mod setup;

use crate::config::{Appliance, Interface};
use crate::store::whole;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// How networkd's files begin. Before most of what others call theirs: the first that fits an interface counts.
const OURS: &str = "10-popgate-";

/// The files that other programs read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// By their names.
    networkd: BTreeMap<String, String>,
    /// None where there is nothing to do for a LAN.
    lan: Option<String>,
}

/// For networkd, in the service's own folder.
pub const NETWORKD_DIR: &str = "network";
/// For dnsmasq.
pub const LAN_FILE: &str = "lan.conf";
/// Written anew whenever one of the others has changed.
pub const STAMP: &str = "system";

impl Files {
    /// What the configuration makes of them. Handoffs' trunks and interfaces are none of networkd's: `handoffs` are their names.
    pub fn of(appliance: &Appliance, handoffs: &[String]) -> Files {
        let networkd = networkd::files(&appliance.interfaces, handoffs);
        Files { networkd: ours(networkd), lan: dnsmasq::file(appliance) }
    }

    /// What interfaces make of them before there is a configuration.
    pub fn of_interfaces(interfaces: &[Interface]) -> Files {
        Files { networkd: ours(networkd::files(interfaces, &[])), lan: None }
    }

    /// Puts them into `runtime` in place of what was there before; what is as it should be is not touched. Whether anything has
    /// changed.
    ///
    /// # Errors
    /// The file that cannot be written, listed or removed.
    pub fn put(&self, runtime: &Path) -> io::Result<bool> {
        let (networkd, lan) = (runtime.join(NETWORKD_DIR), runtime.join(LAN_FILE));
        let mut changed = false;
        if !self.networkd.is_empty() {
            std::fs::create_dir_all(&networkd).map_err(|error| of_file(&networkd, error))?;
        }
        for (name, text) in &self.networkd {
            changed |= write(&networkd.join(name), text)?;
        }
        for name in names(&networkd)? {
            if !self.networkd.contains_key(&name) {
                changed |= remove(&networkd.join(name))?;
            }
        }
        changed |= match &self.lan {
            Some(text) => write(&lan, text)?,
            None => remove(&lan)?,
        };
        if changed {
            let stamp = runtime.join(STAMP);
            std::fs::write(&stamp, "").map_err(|error| of_file(&stamp, error))?;
        }
        Ok(changed)
    }
}

fn ours(files: BTreeMap<String, String>) -> BTreeMap<String, String> {
    files.into_iter().map(|(name, text)| (format!("{OURS}{name}"), text)).collect()
}

/// The names of a directory's files; none if there is no such directory.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(of_file(dir, error)),
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Whether it was another before. By everybody it can be read, whatever the process's umask is: networkd and dnsmasq are other users.
fn write(path: &Path, text: &str) -> io::Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    let written = whole::create(path, |file| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    });
    written.map(|_| true).map_err(|error| of_file(path, error))
}

fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(of_file(path, error)),
    }
}

fn of_file(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{APPLIANCE_FILE, Documents};

    /// The example of a branch with this added to its box.
    fn branch(more: &str) -> Appliance {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/branch");
        let documents = Documents::read(&dir);
        let text = documents.text(APPLIANCE_FILE).expect("the example").to_owned();
        let keys = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(keys.path().join("keys")).expect("made");
        for (number, name) in ["dsl.key", "dsl.psk", "mpls.key"].into_iter().enumerate() {
            use base64::Engine;
            let path = keys.path().join("keys").join(name);
            let key = base64::engine::general_purpose::STANDARD.encode([number as u8 + 1; 32]);
            std::fs::write(&path, key).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        }
        let text =
            text.replace("[breakout]", "[unused]").split("[unused]").next().expect("a part").to_owned()
                + &text[text.find("# A PoP to connect to.").expect("the PoPs")..];
        let text = text.replace("[lan]\n", &format!("{}[lan]\n{}", interfaces_of(more), lan_of(more)));
        let documents = documents.with(APPLIANCE_FILE, Some(text));
        documents.check(keys.path()).unwrap_or_else(|problems| panic!("{problems}")).appliance
    }

    fn interfaces_of(more: &str) -> &str {
        more.split("[lan]").next().unwrap_or_default()
    }

    fn lan_of(more: &str) -> &str {
        more.split("[lan]\n").nth(1).unwrap_or_default()
    }

    const WHOLE: &str = r#"
[[interface]]
name = "eth0"
address = ["10.1.0.1/24", "2001:db8:1::1/64"]
[[interface]]
name = "eth1"
address = ["dhcp", "ra"]
mtu = 1492
[[interface]]
name = "mpls"
of = "eth2"
vlan = 30
address = ["10.255.1.2/30"]
gateway = "10.255.1.1"
dns = ["10.255.0.53"]
[lan]
advertise = true
dns = { upstream = ["10.200.0.53", "2001:db8:53::53"], domains = { "corp.example" = "10.200.0.54" } }
dhcp = [{ range = "10.1.0.100-10.1.0.199", domain = "berlin.example", host = [
  { name = "printer", mac = "52:54:00:12:34:56", address = "10.1.0.20" }] }]
"#;

    #[test]
    fn networkd_is_told_of_every_interface_and_of_trunks() {
        let files = Files::of(&branch(WHOLE), &["eth7".to_owned()]);
        let told: Vec<&str> = files.networkd.keys().map(String::as_str).collect();
        let all =
            ["eth0.network", "eth1.network", "eth2.network", "eth7.network", "mpls.netdev", "mpls.network"];
        assert_eq!(told, all.map(|name| format!("10-popgate-{name}")));
        let file = |name: &str| files.networkd[&format!("10-popgate-{name}")].as_str();
        assert!(file("eth0.network").contains("Address=10.1.0.1/24\nAddress=2001:db8:1::1/64\n"));
        assert!(file("eth0.network").contains("DHCP=no\nIPv6AcceptRA=no\n"));
        assert!(file("eth1.network").contains("MTUBytes=1492\n"));
        assert!(file("eth1.network").contains("DHCP=ipv4\nIPv6AcceptRA=yes\n"));
        assert!(file("eth2.network").contains("VLAN=mpls\n"));
        assert!(file("eth7.network").contains("DHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"));
        assert!(file("mpls.netdev").contains("Kind=vlan\n\n[VLAN]\nId=30\n"));
        assert!(file("mpls.network").contains("Gateway=10.255.1.1\nDNS=10.255.0.53\n"));
    }

    #[test]
    fn dnsmasq_is_told_what_the_lans_hosts_get_and_whom_it_asks() {
        let files = Files::of(&branch(WHOLE), &[]);
        let lan = files.lan.expect("there is something to do");
        for line in [
            "interface=eth0",
            "server=10.200.0.53@10.1.0.1",
            "server=2001:db8:53::53@2001:db8:1::1",
            "server=/corp.example/10.200.0.54@10.1.0.1",
            "dhcp-range=set:pool0,10.1.0.100,10.1.0.199,255.255.255.0,43200",
            "dhcp-option=tag:pool0,option:router,10.1.0.1",
            "dhcp-option=tag:pool0,option:dns-server,10.1.0.1",
            "domain=berlin.example,10.1.0.0/24,local",
            "dhcp-host=52:54:00:12:34:56,10.1.0.20,printer",
            "dhcp-range=2001:db8:1::,ra-stateless,64,43200",
        ] {
            assert!(lan.lines().any(|it| it == line), "{line} is not in\n{lan}");
        }
    }

    #[test]
    fn without_interfaces_and_services_nobody_is_told_anything() {
        assert_eq!(Files::of(&branch(""), &["eth7".to_owned()]), Files::default());
    }

    #[test]
    fn files_are_put_once_and_go_when_they_are_not_wanted() {
        let dir = tempfile::tempdir().expect("a directory");
        let has = |name: &str| dir.path().join(name).exists();
        let files = Files::of(&branch(WHOLE), &[]);
        assert!(files.put(dir.path()).expect("written"));
        assert!(has("network/10-popgate-eth0.network") && has(LAN_FILE) && has(STAMP));
        assert!(!files.put(dir.path()).expect("read"), "nothing has changed");
        assert!(Files::default().put(dir.path()).expect("removed"));
        assert!(!has("network/10-popgate-eth0.network") && !has(LAN_FILE));
        assert!(!Files::default().put(dir.path()).expect("read"));
    }
}
