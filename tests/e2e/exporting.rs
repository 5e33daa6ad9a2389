//! Must hold 8 of issue 1 and 1 of issue 6: what real collectors have added up is what the sessions themselves counted, to the
//! byte, in every protocol, over every transport, all of them at once.

use crate::collectors::{Capture, Nfacctd, Nfcapd, Place, Program, Sfcapd, Sums, certificate};
use crate::hosts::{Echo, Server, curl};
use crate::world::{World, eventually, node, template};
use popgate::control::FlowPage;
use popgate::export::report::ExporterReport;
use popgate::lab::Signal;
use popgate::pipeline::report::{FlowReport, SessionReport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// Where each listens in the box's own namespace.
const NFCAPD_IPFIX: u16 = 4_739;
const NFCAPD_V9: u16 = 4_740;
const NFACCTD_IPFIX: u16 = 4_741;
const NFACCTD_V9: u16 = 4_742;
const TCP: u16 = 4_743;
const TLS: u16 = 4_744;
/// What comes out of TLS goes on to here, in the clear.
const CLEAR: u16 = 4_745;
const NAT_EVENTS: u16 = 4_746;
const BIFLOW: u16 = 4_747;
const SFCAPD: u16 = 4_748;

/// Sessions that last longer than a second are reported more than once, and every packet is a sample.
fn export(keys: &Path) -> String {
    let collector = |name: &str, port: u16, more: &str| {
        format!("[[export.collector]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n{more}\n")
    };
    let file = |name: &str| keys.join(name).to_str().expect("UTF-8").to_owned();
    let tls = format!(
        "transport = \"tls\"\n[export.collector.tls]\nca-file = \"{}\"\ncertificate-file = \"{}\"\nkey-file = \"{}\"",
        file("ca.crt"),
        file("fra1.crt"),
        file("fra1.key"),
    );
    [
        "[export]\nactive-timeout = \"1s\"\npacket-sampling = 1\n".to_owned(),
        collector("nfcapd-ipfix", NFCAPD_IPFIX, ""),
        collector("nfcapd-v9", NFCAPD_V9, "protocol = \"netflow-v9\""),
        collector("nfacctd-ipfix", NFACCTD_IPFIX, ""),
        collector("nfacctd-v9", NFACCTD_V9, "protocol = \"netflow-v9\""),
        collector("tcp", TCP, "transport = \"tcp\""),
        collector("cgn-log", NAT_EVENTS, "filter = { records = [\"nat-events\"] }"),
        collector("biflow", BIFLOW, "biflow = true"),
        collector("sfcapd", SFCAPD, "protocol = \"sflow\""),
        collector("tls", TLS, &tls),
    ]
    .concat()
}

#[test]
fn every_collector_adds_up_what_the_sessions_of_each_tenant_counted_to_the_byte() {
    let keys = tempfile::tempdir().expect("a directory");
    ["collector", "fra1"].iter().for_each(|name| certificate(keys.path(), "ca", name));
    let nodes = ["berlin", "berlin-host", "site1", "site1-host"];
    let world = World::changed("eexport", &nodes, |topology| {
        let text = format!("{}\n{}", template("fra1/popgate.toml"), export(keys.path()));
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    });
    // Templates that come before a collector listens are lost, and said again only after a minute.
    world.kill("fra1", Signal::TERM).expect("stopped");
    let place = Place(Some(world.node("fra1").namespace().to_owned()));
    let mut nfcapds = [NFCAPD_IPFIX, NFCAPD_V9].map(|port| Nfcapd::start(&place, port));
    let nfacctds = [NFACCTD_IPFIX, NFACCTD_V9].map(|port| Nfacctd::start(&place, port));
    let mut sfcapd = Sfcapd::start(&place, SFCAPD);
    // Of these only tshark takes anything in.
    let _sinks = [NAT_EVENTS, BIFLOW].map(|port| sink(&place, &format!("UDP-RECV:{port},bind=127.0.0.1")));
    let [nat_events, biflow, v9, mut sflow] =
        [NAT_EVENTS, BIFLOW, NFCAPD_V9, SFCAPD].map(|port| Capture::start(&place, "udp", port));
    sflow.decode_as = sflow.decode_as.replace("cflow", "sflow");
    let mut streams = Streams::start(&place, keys.path());
    world.start("fra1").expect("started");

    let _web = Server::web(&world, "web");
    let _echo = Echo::start(&world, "web");
    let mut so_far = Vec::new();
    for round in 0..2 {
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
        if round == 0 {
            // What the kernel took for a connection that then ends nobody knows of: so it ends when all has gone.
            let sent = quiet(&world).reported();
            eventually("all records so far are sent", || {
                let told = exporters(&world);
                ["tcp", "tls"]
                    .iter()
                    .all(|name| told[*name].stats.records == sent && told[*name].waiting == 0)
            });
            let next = Streams::start_instead(streams, &place, keys.path(), &mut so_far);
            streams = next;
        }
    }

    let told = quiet(&world);
    let reasons: BTreeSet<&str> = told.flows.iter().map(|flow| &*flow.end_reason).collect();
    assert!(reasons.contains("active-timeout"), "{reasons:?}");
    assert!(!told.sessions.is_empty(), "some sessions last until the end");
    let standing = exporters(&world);
    for (name, report) in &standing {
        let lives = if ["tcp", "tls"].contains(&name.as_str()) { 2 } else { 1 };
        assert_eq!(
            (report.connections, report.stats.lost_records, &report.problem),
            (lives, 0, &None),
            "{name}"
        );
    }
    let shown = world.show_text("fra1", &["exporters"]);
    let lines: Vec<&str> = shown.lines().skip(1).collect();
    assert_eq!(lines.len(), standing.len(), "{shown}");
    assert!(lines.iter().all(|line| line.contains("connected")), "{shown}");
    // The same, as Prometheus reads it.
    let token =
        std::fs::read_to_string(world.node("fra1").state_dir().join("admin-token")).expect("the token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let metrics = world.must("fra1", &["curl", "-sS", "-f", "-H", &bearer, "http://127.0.0.1:8443/metrics"]);
    for name in ["tcp", "nfcapd-v9", "cgn-log"] {
        let records = standing[name].stats.records;
        let line = format!("popgate_exporter_records_total{{collector=\"{name}\"}} {records}");
        assert!(metrics.lines().any(|told| told == line), "{line}: {metrics}");
    }
    world.kill("fra1", Signal::TERM).expect("stopped");

    let (by_tenant, all) = told.sums();
    for (tenant, families) in [("acme", 2), ("globex", 1)] {
        // TCP, UDP and ICMP.
        assert!(by_tenant[tenant].packets > 3 * families * 10, "{by_tenant:?}");
    }
    println!("exporting: {all:?}, {by_tenant:?}");
    nfcapds.iter_mut().for_each(|nfcapd| nfcapd.end_with(all));
    assert_eq!(sums_by_name(&nfcapds[0]), by_tenant);
    v9.assert_no_complaint();
    for nfacctd in &nfacctds {
        eventually("nfacctd has all", || nfacctd.sums(None) == all);
        // In the order of their names.
        for (number, sum) in (1..).zip(by_tenant.values()) {
            let Sums { packets, bytes, .. } = nfacctd.sums(Some(number));
            assert_eq!(Sum { packets, bytes }, *sum, "tenant {number}");
        }
        nfacctd.assert_no_complaint();
    }
    eventually("tshark has all that went by TCP and TLS", || {
        streams.sums(&so_far).iter().all(|sums| *sums == all)
    });
    so_far.iter().chain(&streams.captures).for_each(Capture::assert_no_complaint);
    eventually("tshark has all biflows", || {
        let Sums { packets, bytes, .. } = biflow.sums();
        (packets, bytes) == (all.packets, all.bytes)
    });
    biflow.assert_no_complaint();

    assert_eq!(bindings_in(&nat_events, "8"), told.bindings(), "each began once");
    assert_eq!(bindings_in(&nat_events, "9"), told.bindings(), "and ended");
    nat_events.assert_no_complaint();

    eventually("tshark has the last counters of every interface", || {
        let [inwards, outwards] = interface_counters(&sflow);
        let sums = (all.packets, all.bytes);
        inwards == sums && outwards == sums
    });
    // Of pings none is ever part of a larger packet: each is a sample of its own.
    let pings = told.pings();
    eventually("all pings were samples", || {
        sfcapd.0.log().matches("Flow Record:").count() as u64 >= pings.packets
    });
    sfcapd.0.end();
    let mut sampled = Sum::default();
    for line in sfcapd.nfdump("fmt:%pkt %byt", "proto icmp or proto icmp6").lines() {
        let fields: Vec<u64> = line.split_whitespace().map(|f| f.parse().expect("a number")).collect();
        let [packets, bytes] = fields[..] else { continue };
        sampled.add(packets, bytes);
    }
    assert_eq!(sampled, pings);
}

/// Takes what comes by `from` and throws it away.
fn sink(place: &Place, from: &str) -> Program {
    let dir = tempfile::tempdir().expect("a directory");
    let arguments = format!("-d -d -u {from} OPEN:/dev/null,wronly");
    let socat = Program::start(place, "socat", "socat", &arguments, dir);
    socat.await_log(if from.starts_with("TCP") { "listening on" } else { "starting data transfer loop" });
    socat
}

/// Collectors by TCP and TLS, which take one connection each, and what tshark makes of what they got.
struct Streams {
    programs: Vec<Program>,
    captures: [Capture; 2],
}

impl Streams {
    fn start(place: &Place, keys: &Path) -> Streams {
        let captures = [TCP, CLEAR].map(|port| Capture::start(place, "tcp", port));
        let listen = |port: u16| format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr");
        let sinks = [TCP, CLEAR].map(|port| sink(place, &listen(port)));
        let file = |name: &str| keys.join(name).to_str().expect("UTF-8").to_owned();
        let arguments = format!(
            "-d -d -u OPENSSL-LISTEN:{TLS},bind=127.0.0.1,reuseaddr,cert={},key={},cafile={},verify=1 TCP:127.0.0.1:{CLEAR}",
            file("collector.crt"),
            file("collector.key"),
            file("ca.crt"),
        );
        let dir = tempfile::tempdir().expect("a directory");
        let tls = Program::start(place, "socat", "socat", &arguments, dir);
        tls.await_log("listening on");
        Streams { programs: sinks.into_iter().chain([tls]).collect(), captures }
    }

    /// The collectors begin anew: the old ones are gone before the new ones are there.
    fn start_instead(old: Streams, place: &Place, keys: &Path, captures: &mut Vec<Capture>) -> Streams {
        drop(old.programs);
        for mut capture in old.captures {
            capture.tcpdump.end();
            captures.push(capture);
        }
        Streams::start(place, keys)
    }

    /// By TCP and by TLS, with what came before they began anew.
    fn sums(&self, before: &[Capture]) -> [Sums; 2] {
        [0, 1].map(|at| {
            let mut sums = self.captures[at].sums();
            let earlier = before.get(at).map(Capture::sums).unwrap_or_default();
            sums.records += earlier.records;
            sums.packets += earlier.packets;
            sums.bytes += earlier.bytes;
            sums
        })
    }
}

/// By the collectors' names.
fn exporters(world: &World) -> BTreeMap<String, ExporterReport> {
    let reports = world.status("fra1").exporters;
    reports.into_iter().map(|report| (report.collector.clone(), report)).collect()
}

/// Protocol, a host's address and port, and what they were outside.
type Bound = (u8, IpAddr, u16, IpAddr, u16);

/// Those that tshark reads of in events of this kind.
fn bindings_in(capture: &Capture, event: &str) -> Vec<Bound> {
    let fields = [
        "cflow.nat_event",
        "cflow.protocol",
        "cflow.srcaddr",
        "cflow.srcport",
        "cflow.post_natsource_ipv4_address",
        "cflow.post_naptsource_transport_port",
    ];
    let mut bindings = Vec::new();
    for message in capture.fields(&fields) {
        for at in (0..message[0].len()).filter(|at| message[0][*at] == event) {
            let field = |field: usize| message[field].get(at).unwrap_or_else(|| panic!("{message:?}"));
            let address = |of: usize| field(of).parse::<IpAddr>().expect("an address");
            let number = |of: usize| field(of).parse::<u16>().expect("a number");
            bindings.push((number(1) as u8, address(2), number(3), address(4), number(5)));
        }
    }
    bindings.sort();
    bindings
}

/// Packets and bytes that went in and out, by the last counters of each interface.
fn interface_counters(capture: &Capture) -> [(u64, u64); 2] {
    let fields = [
        "sflow_245.ifindex",
        "sflow_245.ifinpkt",
        "sflow_245.ifinoct",
        "sflow_245.ifoutpkt",
        "sflow_245.ifoutoct",
    ];
    let mut last = BTreeMap::new();
    for datagram in capture.fields_of("sflow", &fields) {
        for (at, interface) in datagram[0].iter().enumerate() {
            let number = |field: usize| datagram[field][at].parse::<u64>().expect("a number");
            last.insert(interface.clone(), [number(1), number(2), number(3), number(4)]);
        }
    }
    let sum = |at: usize| last.values().map(|counters| counters[at]).sum();
    [(sum(0), sum(1)), (sum(2), sum(3))]
}

/// What nfdump reads in nfcapd's files, by the tenants' names as they were exported.
fn sums_by_name(nfcapd: &Nfcapd) -> BTreeMap<String, Sum> {
    // `ingress VRF  =                 1 acme`
    let raw = nfcapd.nfdump("raw", "any");
    let told = raw.lines().filter_map(|line| line.trim().strip_prefix("ingress VRF")?.split_once('='));
    let names: BTreeMap<u64, String> = told
        .filter_map(|(_, vrf)| vrf.trim().split_once(' '))
        .map(|(id, name)| (id.parse().expect("a number"), name.trim().to_owned()))
        .collect();
    let mut sums = BTreeMap::<String, Sum>::new();
    for line in nfcapd.nfdump("fmt:%ivrf %pkt %byt", "any").lines() {
        let fields: Vec<u64> = line.split_whitespace().map(|f| f.parse().expect("a number")).collect();
        let [vrf, packets, bytes] = fields[..] else { continue };
        sums.entry(names[&vrf].clone()).or_default().add(packets, bytes);
    }
    sums
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

impl Sum {
    fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
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
    /// How many records have been told of so far: one for each direction in which something went.
    fn reported(&self) -> u64 {
        let directions = self.flows.iter().flat_map(|flow| [flow.forward_packets, flow.reverse_packets]);
        directions.filter(|packets| *packets > 0).count() as u64
    }

    /// What every session that was translated had outside, in order.
    fn bindings(&self) -> Vec<Bound> {
        let flows = self
            .flows
            .iter()
            .map(|it| (&it.protocol, it.source, it.source_port, it.nat_source.zip(it.nat_source_port)));
        let sessions = self
            .sessions
            .iter()
            .map(|it| (&it.protocol, it.source, it.source_port, it.nat_source.zip(it.nat_source_port)));
        let all = flows.chain(sessions).filter_map(|(protocol, source, port, outside)| {
            let (address, outside_port) = outside?;
            let protocol = match protocol.as_str() {
                "icmp" => 1,
                "tcp" => 6,
                "udp" => 17,
                other => panic!("{other} is translated"),
            };
            Some((protocol, source, port, address, outside_port))
        });
        all.collect::<BTreeSet<Bound>>().into_iter().collect()
    }

    /// Of sessions of pings.
    fn pings(&self) -> Sum {
        let is_ping = |protocol: &str| ["icmp", "icmpv6"].contains(&protocol);
        let pings = Told {
            flows: self.flows.iter().filter(|flow| is_ping(&flow.protocol)).cloned().collect(),
            sessions: self.sessions.iter().filter(|session| is_ping(&session.protocol)).cloned().collect(),
        };
        let (_, Sums { packets, bytes, .. }) = pings.sums();
        Sum { packets, bytes }
    }

    /// By tenant; and all together, in as many records as a collector gets.
    fn sums(&self) -> (BTreeMap<String, Sum>, Sums) {
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
        let (packets, bytes) =
            (sums.values().map(|it| it.packets).sum(), sums.values().map(|it| it.bytes).sum());
        (sums, Sums { records, packets, bytes })
    }
}

fn add(sums: &mut BTreeMap<String, Sum>, tenant: &str, counters: [u64; 4]) {
    sums.entry(tenant.to_owned()).or_default().add(counters[0] + counters[2], counters[1] + counters[3]);
}
