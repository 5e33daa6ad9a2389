//! What is outside of the machines: a network namespace with a switch in it, an address on that, and who gives out more.

use crate::container::text;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use tempfile::TempDir;

/// The test's own address on the switch.
pub const OUTSIDE: &str = "192.0.2.1";

pub struct Network {
    name: String,
    directory: TempDir,
    dnsmasq: Option<Child>,
}

impl Network {
    pub fn new() -> Network {
        static MADE: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes a network namespace: it must run as root"
        );
        let name = format!("pgi-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a directory");
        let added = Command::new("ip").args(["netns", "add", &name]).status().expect("ip runs");
        assert!(added.success(), "ip netns add {name}");
        let mut network = Network { name, directory, dnsmasq: None };
        network.must(&["ip", "link", "set", "lo", "up"]);
        network.add_switch("switch", Some(&format!("{OUTSIDE}/24")));
        network.serve_addresses();
        network
    }

    /// Another switch, and what the namespace is called on it.
    pub fn add_switch(&self, name: &str, address: Option<&str>) {
        // An address of its own: else it has the lowest of its ports', and another one whenever a machine is switched on, which
        // whoever knows the one before finds out late.
        static MADE: AtomicU8 = AtomicU8::new(0xa0);
        let own = hardware_address(MADE.fetch_add(1, Ordering::Relaxed));
        self.must(&["ip", "link", "add", name, "address", &own, "type", "bridge"]);
        if let Some(address) = address {
            self.must(&["ip", "address", "add", address, "dev", name]);
        }
        self.must(&["ip", "link", "set", name, "up"]);
    }

    /// A machine whose card has the hardware address 52:54:00:00:00:NN gets 192.0.2.NN (in hexadecimal there, decimal here), so
    /// that a test knows it beforehand.
    fn serve_addresses(&mut self) {
        let leases = self.directory.path().join("leases");
        let mut dnsmasq = Command::new("ip");
        dnsmasq.args([
            "netns",
            "exec",
            &self.name,
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
        ]);
        dnsmasq.args(["--interface=switch", "--bind-interfaces", "--dhcp-range=192.0.2.0,static,1h"]);
        dnsmasq.arg(format!("--dhcp-leasefile={}", leases.display())).arg("--user=root").arg("--pid-file");
        for number in 10..30 {
            dnsmasq.arg(format!("--dhcp-host={},192.0.2.{number}", hardware_address(number)));
        }
        let log = std::fs::File::create(self.directory.path().join("dnsmasq")).expect("a file");
        dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.dnsmasq = Some(dnsmasq.spawn().expect("dnsmasq runs: it is in Debian's package dnsmasq-base"));
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command in it, to be run.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(line).stdin(Stdio::null());
        command
    }

    /// Runs a command in it to its end.
    pub fn exec(&self, line: &[&str]) -> Output {
        self.command(line).output().expect("ip runs")
    }

    /// Runs one that must succeed; what it printed.
    pub fn must(&self, line: &[&str]) -> String {
        let output = self.exec(line);
        assert!(output.status.success(), "{line:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(dnsmasq) = &mut self.dnsmasq {
            let _ = dnsmasq.kill();
            let _ = dnsmasq.wait();
        }
        // What went on in the background, as a tunnel does, would keep the namespace without its name.
        let pids = Command::new("ip").args(["netns", "pids", &self.name]).output();
        for pid in pids.map(|it| text(&it.stdout)).unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").arg(pid).status();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Of a card, by its number.
pub fn hardware_address(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}
