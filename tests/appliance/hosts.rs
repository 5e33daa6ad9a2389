//! Who talks through the boxes: a host on a branch's LAN, and what is beyond a point of presence, flow collector included.

use crate::container::text;
use crate::guest::busybox;
use crate::network::{Network, OUTSIDE};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// Beyond the point of presence, and not on its link.
pub const BEYOND: &str = "203.0.113.1";
/// What it is called, by names that it serves itself.
pub const BEYOND_NAME: &str = "beyond.example";
/// What its web server says.
const PAGE: &str = "as it was written\n";

/// Takes what a DHCP server gives.
const TAKE_LEASE: &str = "#!/bin/sh -e
case $1 in bound)
    ip address replace $ip/$mask dev $interface
    ip route replace default via $router
    echo nameserver $dns >/etc/netns/$namespace/resolv.conf
esac
";

/// A host on a switch, with a network namespace of its own.
pub struct Host {
    namespace: String,
    directory: TempDir,
}

impl Host {
    /// One without an address.
    pub fn new(network: &Network, switch: &str) -> Host {
        let namespace = format!("{}-{switch}", network.name());
        let host = Host { namespace, directory: tempfile::tempdir().expect("a directory") };
        let name = host.namespace.as_str();
        let added = Command::new("ip").args(["netns", "add", name]).status().expect("ip runs");
        assert!(added.success(), "ip netns add {name}");
        let port = format!("{switch}-host");
        network.must(&["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", name]);
        network.must(&["ip", "link", "set", &port, "master", switch, "up"]);
        for line in [&["ip", "link", "set", "lo", "up"][..], &["ip", "link", "set", "eth0", "up"]] {
            assert!(host.exec(line).status.success(), "{line:?}");
        }
        fs::create_dir_all(host.own_files()).expect("made");
        host
    }

    /// What `ip netns exec` puts in the place of files in /etc.
    fn own_files(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.namespace)
    }

    pub fn exec(&self, line: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).args(line).stdin(Stdio::null());
        command.output().expect("ip runs")
    }

    /// Whether it has got an address, a router and a resolver. A server may ping an address for 3 s before it gives it out.
    pub fn takes_a_lease(&self) -> bool {
        let script = self.directory.path().join("lease");
        fs::write(&script, TAKE_LEASE).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("ours");
        fs::write(self.own_files().join("resolv.conf"), "").expect("written");
        let mut client = Command::new("ip");
        client.args(["netns", "exec", &self.namespace]).arg(busybox());
        client.args(["udhcpc", "-f", "-n", "-q", "-t", "1", "-T", "5", "-i", "eth0", "-s"]).arg(&script);
        client.env("namespace", &self.namespace).stdin(Stdio::null()).stderr(Stdio::null());
        client.output().expect("ip runs").status.success()
    }

    pub fn addresses(&self) -> String {
        text(&self.exec(&["ip", "-brief", "-4", "address", "show", "dev", "eth0"]).stdout)
    }

    /// Whether one ping comes back within a second.
    pub fn pings(&self, address: &str) -> bool {
        self.exec(&["ping", "-n", "-c", "1", "-W", "1", address]).status.success()
    }

    /// Whether it gets the page of the web server beyond, by its name.
    pub fn fetches(&self) -> bool {
        let url = format!("http://{BEYOND_NAME}/");
        text(&self.exec(&["curl", "-sS", "-m", "5", &url]).stdout) == PAGE
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
        let _ = fs::remove_dir_all(self.own_files());
    }
}

/// What is beyond: names, a web server, and a collector of flow records, where no box knows of them.
pub struct Beyond {
    servers: Vec<Child>,
    directory: TempDir,
}

impl Beyond {
    /// All of it, whose way to `pool` is by the box at `pop`.
    pub fn new(network: &Network, pool: &str, pop: &str) -> Beyond {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        network.must(&["ip", "address", "add", &format!("{BEYOND}/32"), "dev", "lo"]);
        network.must(&["ip", "route", "add", pool, "via", pop]);
        for folder in ["pages", "flows"] {
            fs::create_dir(at(folder)).expect("made");
        }
        fs::write(at("pages/index.html"), PAGE).expect("written");
        let start = |mut command: Command, log: &str| {
            let log = File::create(at(log)).expect("a file");
            command.stdout(log.try_clone().expect("a handle")).stderr(log).spawn().expect("ip runs")
        };
        let mut pages = network.command(&[]);
        let listen = format!("{BEYOND}:80");
        pages.arg(busybox()).args(["httpd", "-f", "-v", "-p", &listen, "-h"]).arg(at("pages"));
        let answer = format!("--address=/{BEYOND_NAME}/{BEYOND}");
        let listen = format!("--listen-address={BEYOND}");
        let names = network.command(&[
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file",
            &listen,
            &answer,
        ]);
        let mut collector =
            network.command(&["nfcapd", "-C", "none", "-4", "-b", OUTSIDE, "-p", "4739", "-t", "2", "-w"]);
        collector.arg(at("flows"));
        let all = [(pages, "pages.log"), (names, "names.log"), (collector, "collector.log")];
        Beyond { servers: all.map(|(command, log)| start(command, log)).into(), directory }
    }

    /// From where the web server was asked, a line for each time.
    pub fn asked_from(&self) -> String {
        fs::read_to_string(self.directory.path().join("pages.log")).unwrap_or_default()
    }

    /// What nfdump reads of the flows that the collector was told until a moment ago: the protocol's number, from, to, its port, what the
    /// first was translated to.
    pub fn flows(&self) -> Vec<Vec<String>> {
        let files = fs::read_dir(self.directory.path().join("flows")).expect("a directory").flatten();
        let is_whole = |path: &PathBuf| !path.to_string_lossy().contains("current");
        let read = |path: PathBuf| {
            let mut nfdump = Command::new("nfdump");
            nfdump.args(["-C", "none", "-q", "-N", "-o", "fmt:%pr %sa %da %dp %nsa", "-r"]).arg(path);
            let output = nfdump.output().expect("nfdump runs: it is in Debian's package nfdump");
            assert!(output.status.success(), "nfdump: {}", text(&output.stderr));
            let lines = text(&output.stdout);
            lines.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect::<Vec<_>>()
        };
        files.map(|entry| entry.path()).filter(is_whole).flat_map(read).collect()
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        for child in &mut self.servers {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
