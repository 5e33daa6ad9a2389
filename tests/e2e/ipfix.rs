//! Must hold 8: what a real collector has added up is what the sessions themselves counted, to the byte.

use crate::hosts::{Echo, Server, curl};
use crate::world::{World, eventually, node, template};
use popgate::control::FlowPage;
use popgate::lab::{NodeChild, Signal};
use popgate::pipeline::report::{FlowReport, SessionReport};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Sessions that last longer are reported more than once.
const EXPORT: &str = r#"
[export]
active-timeout = "1s"
[[export.collector]]
name = "noc"
address = "127.0.0.1:4739"
"#;

#[test]
fn nfdump_adds_up_what_the_sessions_of_each_tenant_counted_to_the_byte() {
    let nodes = ["berlin", "berlin-host", "site1", "site1-host"];
    let world = World::changed("eipfix", &nodes, |topology| {
        let text = template("fra1/popgate.toml") + EXPORT;
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    });
    // Templates that come before the collector listens are lost, and said again only after a minute.
    world.kill("fra1", Signal::TERM).expect("stopped");
    let mut collector = Collector::start(&world, "fra1");
    world.start("fra1").expect("started");

    let _web = Server::web(&world, "web");
    let _echo = Echo::start(&world, "web");
    for (host, to, reached) in [
        ("berlin-host", "203.0.113.80", "203.0.113.80"),
        ("site1-host", "203.0.113.80", "203.0.113.80"),
        ("berlin-host", "[2001:db8:113::80]", "2001:db8:113::80"),
    ] {
        world.await_ping(host, reached);
        assert_eq!(curl(&world, host, &format!("http://{to}/bytes/300000"), &[]).len(), 300_000);
        world.must(host, &["ping", "-n", "-c", "12", "-i", "0.1", "-s", "700", "-W", "5", reached]);
        echo(&world, host, &format!("{to}:7"));
    }
    world.must("berlin-host", &["ping", "-n", "-c", "3", "-i", "0.1", "-W", "5", "10.200.0.10"]);

    let told = quiet(&world);
    let reasons: BTreeSet<&str> = told.flows.iter().map(|flow| &*flow.end_reason).collect();
    assert!(reasons.contains("active-timeout"), "{reasons:?}");
    assert!(!told.sessions.is_empty(), "some sessions last until the end");
    world.kill("fra1", Signal::TERM).expect("stopped");
    let (by_tenant, records) = told.sums();
    for (tenant, families) in [("acme", 2), ("globex", 1)] {
        // TCP, UDP and ICMP.
        assert!(by_tenant[tenant].packets > 3 * families * 10, "{by_tenant:?}");
    }
    eventually("all records have arrived", || collector.log().matches("Flow Record:").count() >= records);
    collector.end();
    println!("ipfix: {records} records, {by_tenant:?}");
    assert_eq!(collector.sums(), by_tenant);
}

/// Three datagrams there and back, large enough to be told from everything else.
fn echo(world: &World, host: &str, to: &str) {
    let echoed = world.enter(host, || {
        let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let to: std::net::SocketAddr = to.parse().expect("an address");
        let to = match to.ip() {
            std::net::IpAddr::V4(v4) => (v4.to_ipv6_mapped(), to.port()).into(),
            std::net::IpAddr::V6(_) => to,
        };
        socket.connect(to)?;
        for len in [1, 500, 1_200] {
            socket.send(&vec![7; len])?;
            assert_eq!(socket.recv(&mut [0; 2_000])?, len);
        }
        std::io::Result::Ok(())
    });
    echoed.expect("entered").unwrap_or_else(|error| panic!("{host} to {to}: {error}"));
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    packets: u64,
    bytes: u64,
}

/// What the PoP told of its sessions when nothing moved any more.
struct Told {
    flows: Vec<FlowReport>,
    sessions: Vec<SessionReport>,
}

/// Waits until nothing moves: the same sessions with the same counters and the same records, twice.
fn quiet(world: &World) -> Told {
    let ask = || {
        let (flows, sessions): (FlowPage, _) = (world.flows("fra1"), world.sessions("fra1"));
        Told { flows: flows.flows, sessions }
    };
    let mut told = ask();
    eventually("traffic is quiet", || {
        // Longer than the active timeout: what was still to be reported has been.
        std::thread::sleep(Duration::from_millis(1_500));
        let before = std::mem::replace(&mut told, ask());
        let counters = |told: &Told| -> Vec<[u64; 5]> {
            let counters = |s: &SessionReport| {
                [s.id, s.forward_packets, s.forward_bytes, s.reverse_packets, s.reverse_bytes]
            };
            told.sessions.iter().map(counters).collect()
        };
        before.flows == told.flows && counters(&before) == counters(&told)
    });
    told
}

impl Told {
    /// By tenant; and how many records a collector gets: one for each direction in which something went.
    fn sums(&self) -> (BTreeMap<String, Sum>, usize) {
        let mut sums = BTreeMap::<String, Sum>::new();
        let mut records = 0;
        // What a session has counted but not yet been reported comes with its end: a record's counters are those since
        // the record before.
        let mut reported = BTreeMap::<u64, [u64; 4]>::new();
        for flow in &self.flows {
            let counters =
                [flow.forward_packets, flow.forward_bytes, flow.reverse_packets, flow.reverse_bytes];
            records += [counters[0], counters[2]].into_iter().filter(|packets| *packets > 0).count();
            let so_far = reported.entry(flow.session).or_default();
            so_far.iter_mut().zip(counters).for_each(|(so_far, counter)| *so_far += counter);
            if !self.sessions.iter().any(|session| session.id == flow.session) {
                add(&mut sums, &flow.tenant, counters);
            }
        }
        for session in &self.sessions {
            let counters = [
                session.forward_packets,
                session.forward_bytes,
                session.reverse_packets,
                session.reverse_bytes,
            ];
            let so_far = reported.get(&session.id).copied().unwrap_or_default();
            records += [0, 2].into_iter().filter(|at| counters[*at] > so_far[*at]).count();
            // The session's own counters, whatever its records said.
            add(&mut sums, &session.tenant, counters);
        }
        (sums, records)
    }
}

fn add(sums: &mut BTreeMap<String, Sum>, tenant: &str, counters: [u64; 4]) {
    let sum = sums.entry(tenant.to_owned()).or_default();
    sum.packets += counters[0] + counters[2];
    sum.bytes += counters[1] + counters[3];
}

/// Debian's nfcapd in a node.
struct Collector {
    nfcapd: NodeChild,
    directory: PathBuf,
}

impl Collector {
    fn start(world: &World, node: &str) -> Collector {
        let directory = world.node(node).directory().join("nfcapd");
        let flows = directory.join("flows");
        std::fs::create_dir_all(&flows).expect("a directory for flows");
        let log = File::create(directory.join("log")).expect("a log file");
        // With -E nfcapd prints every record it takes in, and stdbuf has it do so at once: that is how the test knows
        // that all have arrived.
        let command = world.node(node).command("stdbuf");
        let command = command.args(["-oL", "nfcapd", "-E", "-C", "none", "-4", "-b", "127.0.0.1"]);
        let command = command.args(["-p", "4739", "-t", "3600", "-w"]).arg(&flows);
        let command = command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let nfcapd = command.spawn().expect("nfcapd runs");
        let collector = Collector { nfcapd, directory };
        eventually("nfcapd listens", || collector.log().contains("Startup nfcapd."));
        collector
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).expect("nfcapd's log")
    }

    /// Ends it, which makes it write its file.
    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.nfcapd);
        rustix::process::kill_process(pid, Signal::TERM).expect("nfcapd is there");
        let status = self.nfcapd.wait().expect("nfcapd ends");
        assert!(status.success(), "nfcapd: {status}:\n{}", self.log());
    }

    /// What nfdump reads in nfcapd's files, by the tenants' names as they were exported.
    fn sums(&self) -> BTreeMap<String, Sum> {
        let names = self.tenants();
        let mut sums = BTreeMap::<String, Sum>::new();
        for line in self.nfdump("fmt:%ivrf %pkt %byt").lines() {
            let fields: Vec<u64> = line.split_whitespace().map(|f| f.parse().expect("a number")).collect();
            let [vrf, packets, bytes] = fields[..] else { continue };
            let sum = sums.entry(names[&vrf].clone()).or_default();
            sum.packets += packets;
            sum.bytes += bytes;
        }
        sums
    }

    /// `ingress VRF  =                 1 acme`
    fn tenants(&self) -> BTreeMap<u64, String> {
        let raw = self.nfdump("raw");
        let told = raw.lines().filter_map(|line| line.trim().strip_prefix("ingress VRF")?.split_once('='));
        told.filter_map(|(_, vrf)| vrf.trim().split_once(' '))
            .map(|(id, name)| (id.parse().expect("a number"), name.trim().to_owned()))
            .collect()
    }

    fn nfdump(&self, format: &str) -> String {
        let flows = self.directory.join("flows");
        let output = Command::new("nfdump")
            .arg("-R")
            .arg(flows)
            .args(["-C", "none", "-q", "-N", "-6", "-o", format])
            .output()
            .expect("nfdump runs");
        assert!(output.status.success(), "nfdump: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}
