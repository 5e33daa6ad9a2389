//! What real collectors make of every kind of message: Debian's tshark, pmacct and nfdump. No template is unknown to them,
//! nothing is missing in the sequence, and their sums are the sessions' own. pmacct and nfdump run with the very files of
//! `config/collectors`, but for port, paths and how often they write.

use super::*;
use popgate::export::{NatChange, NatEvent, NatLimit};
use popgate::flow::{PortChange, PortEvent, Sample};
use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;

const ACME: TenantId = TenantId(0);
const GLOBEX: TenantId = TenantId(1);

/// Sessions of every kind: IPv4 with and without translation, IPv6, both ways across families, echoes, one without answers.
fn every_kind(rounds: u16) -> Vec<FlowRecord> {
    let address = |text: &str| text.parse::<std::net::IpAddr>().expect("an address");
    let (v4, server) = (address("10.1.0.5"), address("203.0.113.80"));
    let (v6, far) = (address("2001:db8:1::5"), address("2001:db8:2::7"));
    let (pool, called) = (address("198.51.100.1"), address("2001:db8:64::cb00:7150"));
    let mut records = Vec::new();
    for round in 0..rounds {
        let port = 10_000 + round;
        let kinds = [
            // Protocol, inside, called, and then server and address outside where there is a translation.
            (Protocol::TCP, (v4, port), (server, 443), Some(((server, 443), (pool, port + 20_000)))),
            (Protocol::UDP, (v4, port), (address("10.2.0.7"), 53), None),
            (Protocol::TCP, (v6, port), (far, 80), None),
            (Protocol::ICMP, (v4, port), (server, 0), Some(((server, 0), (pool, port)))),
            (Protocol::ICMPV6, (v6, port), (far, 0), None),
            (Protocol::TCP, (v6, port), (called, 443), Some(((server, 443), (pool, port)))),
            (Protocol::ICMPV6, (v6, port), (called, 0), Some(((server, 0), (pool, port + 1)))),
        ];
        for (kind, (protocol, inside, called, outside)) in kinds.into_iter().enumerate() {
            let number = u64::from(round) * 10 + kind as u64;
            let tenant = if round % 3 == 0 { GLOBEX } else { ACME };
            let key = FlowKey::new(Zone::tenant(tenant), protocol, inside, called);
            let reply_key = outside.map_or(key.turned_round(key.zone), |(server, pool)| {
                FlowKey::new(Zone::INTERNET, protocol.with(server.0), server, pool)
            });
            let mut record = FlowRecord { key, reply_key, ..session(number + 1, tenant) };
            if number.is_multiple_of(11) {
                record.directions[1] = DirectionRecord::default();
            }
            records.push(record);
        }
    }
    records
}

/// Flow records, their packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    records: usize,
    packets: u64,
    bytes: u64,
}

impl Sums {
    fn of(sessions: &[FlowRecord]) -> Sums {
        let mut sums = Sums::default();
        for direction in sessions.iter().flat_map(|it| it.directions).filter(|it| it.packets > 0) {
            sums.add(direction.packets, direction.bytes);
        }
        sums
    }

    fn add(&mut self, packets: u64, bytes: u64) {
        self.records += 1;
        self.packets += packets;
        self.bytes += bytes;
    }
}

impl Exporting {
    /// Sends sessions' records, a few at a time: a collector's socket buffer holds them.
    fn add_all(&mut self, sessions: &[FlowRecord]) {
        for some in sessions.chunks(100) {
            for record in some {
                self.orders.send(Order::Record(record.clone())).expect("it runs");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(so_far) => assert!(Instant::now() < deadline, "waited in vain for {what}: {so_far}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program that is ended with what it was for, in a directory of its own with its output in `log`.
struct Program {
    process: Child,
    dir: TempDir,
}

impl Program {
    fn start(package: &str, command: &str, arguments: &[String], dir: TempDir) -> Program {
        let log = File::create(dir.path().join("log")).expect("a log file");
        let process = Command::new(command)
            .args(arguments)
            .current_dir(dir.path())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command}: {error}; it is in Debian's package {package}"));
        Program { process, dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).expect("the log")
    }

    fn await_log(&self, text: &str) {
        eventually(text, || if self.log().contains(text) { Ok(()) } else { Err(self.log()) });
    }

    fn end(&mut self) {
        let kill = Command::new("kill").arg(self.process.id().to_string()).status().expect("kill runs");
        assert!(kill.success(), "it ended early:\n{}", self.log());
        self.process.wait().expect("it ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Wireshark's `PI_WARN`, above its notes and chat.
const EXPERT_WARNING: u32 = 0x0060_0000;

/// What goes over the loopback from or to a port, as tshark reads it.
struct Capture {
    tcpdump: Program,
    decode_as: String,
}

impl Capture {
    fn start(protocol: &str, port: u16) -> Capture {
        let dir = tempfile::tempdir().expect("a directory");
        let arguments = format!("-i lo -U --immediate-mode -B 8192 -w capture {protocol} port {port}");
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let tcpdump = Program::start("tcpdump", "tcpdump", &arguments, dir);
        tcpdump.await_log("listening on lo");
        Capture { tcpdump, decode_as: format!("{protocol}.port=={port},cflow") }
    }

    /// Fields of each message, each with all its values.
    fn fields(&self, fields: &[&str]) -> Vec<Vec<Vec<String>>> {
        self.fields_of("cflow", fields)
    }

    fn fields_of(&self, protocol: &str, fields: &[&str]) -> Vec<Vec<Vec<String>>> {
        let mut tshark = Command::new("tshark");
        tshark.args(["-r", "capture", "-d", &self.decode_as, "-Y", protocol, "-T", "fields"]);
        tshark.args(["-E", "separator=|", "-E", "occurrence=a"]);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.current_dir(self.tcpdump.dir.path()).output();
        let output = output.expect("tshark runs: it is in Debian's package tshark");
        // It says that the last packet is cut short, where tcpdump is still writing it.
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let values = |field: &str| field.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        text.lines().map(|line| line.split('|').map(values).collect()).collect()
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        let number = |text: &String| text.parse::<u64>().expect("a number");
        for message in self.fields(&["cflow.packets", "cflow.octets"]) {
            assert_eq!(message[0].len(), message[1].len());
            for (packets, bytes) in message[0].iter().zip(&message[1]) {
                sums.add(number(packets), number(bytes));
            }
        }
        sums
    }

    fn await_sums(&self, expected: Sums) {
        eventually("tshark's sums", || match self.sums() {
            sums if sums == expected => Ok(()),
            sums => Err(format!("{sums:?} of {expected:?}")),
        });
    }

    /// Every data set has its template, nothing is missing in the sequence, and nothing is malformed.
    fn assert_no_complaint(&self) {
        for message in self.fields(&["cflow.sequence_analysis.expected_sn", "_ws.malformed"]) {
            let complaints: Vec<&String> = message.iter().flatten().collect();
            assert!(complaints.is_empty(), "tshark says: {complaints:?}");
        }
        for message in self.fields(&["_ws.expert.severity", "_ws.expert.message"]) {
            let severities = message[0].iter().map(|text| text.parse::<u32>().expect("a severity"));
            // Below a warning it only remarks, as on a connection that ends with its last message.
            assert!(
                severities.max().is_none_or(|worst| worst < EXPERT_WARNING),
                "tshark says: {:?}",
                message[1]
            );
        }
        let unknown = self.fields(&["cflow.flowset_id", "cflow.template_frame"]);
        for message in unknown {
            let data_sets = message[0].iter().filter(|id| id.parse::<u16>().is_ok_and(|id| id >= 256));
            assert_eq!(message[1].len(), data_sets.count(), "a data set without template: {message:?}");
        }
    }
}

#[test]
fn tshark_reads_every_kind_of_record_in_both_protocols_over_udp() {
    for (protocol, more) in [("netflow-v9", ""), ("ipfix", ""), ("ipfix", "biflow = true")] {
        let sink = udp();
        let capture = Capture::start("udp", address_of(&sink).port());
        let settings = format!("protocol = \"{protocol}\"\n{more}");
        let mut exporting = Exporting::start(&collector("noc", address_of(&sink), &settings));
        let sessions = every_kind(30);
        exporting.add_all(&sessions);
        exporting.end();
        // A biflow's answers are packets and bytes like those of a flow of their own.
        capture.await_sums(Sums::of(&sessions));
        capture.assert_no_complaint();
        drop(sink);
    }
}

#[test]
fn tshark_reads_every_kind_of_record_over_tcp() {
    let listener = tcp();
    let capture = Capture::start("tcp", listens_at(&listener).port());
    let sessions = every_kind(30);
    let settings = "transport = \"tcp\"\nfilter = { records = [\"flows\", \"nat-events\"] }";
    let mut exporting = Exporting::start(&collector("noc", listens_at(&listener), settings));
    exporting.add_all(&sessions);
    let (mut stream, _) = listener.accept().expect("it connects");
    let reader = std::thread::spawn(move || while read_message(&mut stream).is_some() {});
    exporting.end();
    reader.join().expect("it reads");
    capture.await_sums(Sums::of(&sessions));
    capture.assert_no_complaint();
}

#[test]
fn tshark_reads_what_comes_out_of_tls() {
    let collector = TlsCollector::start();
    let capture = Capture::start("tcp", listens_at(&collector.clear).port());
    let sessions = every_kind(30);
    let mut exporting =
        Exporting::start_in(collector.dir.path(), &collector.configuration("ca", Some("fra1")));
    exporting.add_all(&sessions);
    let (mut stream, _) = collector.clear.accept().expect("socat connects");
    let reader = std::thread::spawn(move || while read_message(&mut stream).is_some() {});
    exporting.end();
    reader.join().expect("it reads");
    capture.await_sums(Sums::of(&sessions));
    capture.assert_no_complaint();
}

fn nat_events() -> Vec<NatEvent> {
    let outside = "198.51.100.1".parse().expect("an address");
    let ports = |change, inside: Option<&str>, ports| PortEvent {
        change,
        tenant: ACME,
        branch: Some(SiteId(0)),
        outside,
        ports,
        protocol: inside.map(|_| Protocol::UDP),
        inside: inside.map(|it| (it.parse().expect("an address"), 5_000)),
    };
    let changes = [PortChange::Began, PortChange::Ended].into_iter().flat_map(|change| {
        [
            NatChange::Ports(ports(change, Some("10.1.0.5"), (30_001, 30_001))),
            NatChange::Ports(ports(change, Some("2001:db8:1::5"), (30_002, 30_002))),
            NatChange::Ports(ports(change, None, (40_000, 40_063))),
        ]
    });
    let refused = [NatLimit::Pool(HandoffId(2)), NatLimit::BranchPorts(SiteId(0)), NatLimit::Sessions];
    let all = changes.chain(refused.map(NatChange::Refused));
    all.map(|what| NatEvent { unix_millis: 1_700_000_000_123, tenant: ACME, what }).collect()
}

#[test]
fn tshark_reads_nat_events_by_their_names_and_a_collector_that_wants_none_gets_none() {
    let (events_alone, flows_alone) = (udp(), udp());
    let capture = Capture::start("udp", address_of(&events_alone).port());
    let mut exporting = Exporting::start(
        &[
            collector("cgn-log", address_of(&events_alone), "filter = { records = [\"nat-events\"] }"),
            collector("noc", address_of(&flows_alone), ""),
        ]
        .concat(),
    );
    for event in nat_events() {
        exporting.orders.send(Order::NatEvent(event)).expect("it runs");
    }
    exporting.add(3, ACME);
    exporting.end();
    let told = eventually("all events", || {
        let told = capture.fields(&["cflow.nat_event"]);
        let told: Vec<String> = told.into_iter().flatten().flatten().collect();
        if told.len() >= 9 { Ok(told) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(told, ["8", "10", "16", "9", "11", "17", "12", "13", "13"]);
    assert_eq!(capture.sums(), Sums::default(), "no flow among them");
    capture.assert_no_complaint();
    let flows = receive(&flows_alone, 6);
    assert!(flows.iter().flat_map(|it| &it.sets).all(|id| !(269..=273).contains(id)), "{flows:?}");
}

/// A file of `config/collectors` with parts of it replaced.
fn ready_made(name: &str, replace: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/collectors").join(name);
    let mut text = fs::read_to_string(path).expect("it is there");
    for (old, new) in replace {
        assert_eq!(text.matches(old).count(), 1, "{old:?} in {name}");
        text = text.replace(old, new);
    }
    text
}

#[test]
fn the_ready_made_files_of_what_debian_lacks_are_whole_as_far_as_they_can_be_read_here() {
    let telegraf: toml::Table =
        toml::from_str(&ready_made("telegraf/popgate.conf", &[])).expect("Telegraf's is TOML");
    assert!(telegraf["inputs"]["netflow"].is_array(), "{telegraf}");
    for (file, elements) in [("goflow2/mapping.yaml", 8), ("akvorado/akvorado.yaml", 0)] {
        let text = ready_made(file, &[]);
        assert!(text.lines().all(|line| !line.contains('\t')), "{file}: YAML is indented by spaces");
        assert_eq!(text.matches("{ field: ").count(), elements, "{file}");
    }
}

/// pmacct's nfacctd, which writes what it has got into files of JSON.
struct Nfacctd {
    program: Program,
    address: SocketAddr,
}

impl Nfacctd {
    fn start() -> Nfacctd {
        let dir = tempfile::tempdir().expect("a directory");
        // It cannot choose one itself; nobody else takes it in the little time between.
        let address = address_of(&udp());
        let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let configuration = ready_made(
            "pmacct/nfacctd.conf",
            &[
                ("daemonize: true", "daemonize: false"),
                ("pidfile: /var/run/nfacctd.pid", &format!("pidfile: {}", at("pid"))),
                ("syslog: daemon", &format!("nfacctd_ip: 127.0.0.1\nlogfile: {}", at("log"))),
                ("nfacctd_port: 4739", &format!("nfacctd_port: {}", address.port())),
                ("/etc/pmacct/popgate.primitives", &at("popgate.primitives")),
                ("/var/lib/pmacct/", &at("")),
                ("print_refresh_time[sessions]: 60", "print_refresh_time[sessions]: 1"),
            ],
        );
        fs::write(dir.path().join("nfacctd.conf"), configuration).expect("written");
        fs::write(dir.path().join("popgate.primitives"), ready_made("pmacct/popgate.primitives", &[]))
            .expect("written");
        let arguments = ["-f".to_owned(), at("nfacctd.conf")];
        let program = Program::start("pmacct", "nfacctd", &arguments, dir);
        program.await_log("waiting for NetFlow/IPFIX data");
        // Its plugin is a process of its own, which knows nothing of what came before it was there.
        program.await_log("JSON: setting object handlers.");
        Nfacctd { program, address }
    }

    fn rows(&self) -> Vec<Value> {
        let files = fs::read_dir(self.program.dir.path()).expect("its directory");
        let paths = files.map(|file| file.expect("a file").path());
        let json: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|it| it == "json")).collect();
        let text: String = json.iter().map(|path| fs::read_to_string(path).expect("its output")).collect();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn sums(&self, tenant: Option<u64>) -> Sums {
        let mut sums = Sums::default();
        for row in self.rows() {
            let number = |field: &str| match &row[field] {
                Value::String(text) => text.parse::<u64>().expect("a number"),
                other => other.as_u64().unwrap_or_else(|| panic!("{field} in {row}")),
            };
            if tenant.is_none_or(|tenant| number("tenant") == tenant) {
                sums.add(number("packets"), number("bytes"));
            }
        }
        sums
    }
}

#[test]
fn pmacct_s_sums_are_the_sessions_own_by_tenant_with_the_ready_made_configuration() {
    for protocol in ["ipfix", "netflow-v9"] {
        let nfacctd = Nfacctd::start();
        let sessions = every_kind(30);
        let settings = format!("protocol = \"{protocol}\"");
        let mut exporting = Exporting::start(&collector("pmacct", nfacctd.address, &settings));
        exporting.add_all(&sessions);
        exporting.end();
        eventually("pmacct's sums", || match nfacctd.sums(None) {
            sums if sums == Sums::of(&sessions) => Ok(()),
            sums => Err(format!(
                "{sums:?} of {:?} by {protocol}:\n{}",
                Sums::of(&sessions),
                nfacctd.program.log()
            )),
        });
        for (tenant, vrf) in [(ACME, 1), (GLOBEX, 2)] {
            let theirs: Vec<FlowRecord> = sessions.iter().filter(|it| it.tenant == tenant).cloned().collect();
            assert_eq!(nfacctd.sums(Some(vrf)), Sums::of(&theirs));
        }
        let rows = nfacctd.rows();
        let translated = rows.iter().find(|row| row["post_nat_ip_src"] == "198.51.100.1");
        let translated = translated.expect("the address after translation");
        assert_eq!(
            (&translated["ip_src"], &translated["ip_dst"]),
            (&"10.1.0.5".into(), &"203.0.113.80".into())
        );
        let log = nfacctd.program.log();
        let is_complaint = |line: &&str| !line.contains("INFO") || line.contains("expecting flow");
        let complaints: Vec<&str> = log.lines().filter(is_complaint).collect();
        assert!(complaints.is_empty(), "nfacctd says: {complaints:?}");
    }
}

#[test]
fn nfdump_s_sums_are_the_sessions_own_in_both_protocols_with_the_ready_made_options() {
    for protocol in ["ipfix", "netflow-v9"] {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("flows")).expect("a directory");
        let address = address_of(&udp());
        let port = format!("-p {} -b 127.0.0.1 -C none -E", address.port());
        let text =
            ready_made("nfdump/popgate.conf", &[("-l /var/cache/nfdump", "-l flows"), ("-p 4739", &port)]);
        let options = text.lines().find_map(|line| line.strip_prefix("options='")).expect("options");
        // stdbuf has it print each record at once: that is how the test knows that all have arrived.
        let arguments = format!("-oL nfcapd {}", options.trim_end_matches('\''));
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let mut nfcapd = Program::start("nfdump", "stdbuf", &arguments, dir);
        nfcapd.await_log("Startup nfcapd.");
        let sessions = every_kind(30);
        let sums = Sums::of(&sessions);
        let settings = format!("protocol = \"{protocol}\"");
        let mut exporting = Exporting::start(&collector("nfdump", address, &settings));
        exporting.add_all(&sessions);
        exporting.end();
        eventually("all records", || {
            let log = nfcapd.log();
            let records = log.matches("Flow Record:").count();
            if records >= sums.records { Ok(()) } else { Err(format!("{records} of {sums:?}:\n{log}")) }
        });
        nfcapd.end();
        let line = format!(
            "Flows: {}, Packets: {}, Bytes: {}, Sequence Errors: 0, Bad Packets: 0",
            sums.records, sums.packets, sums.bytes
        );
        let log = nfcapd.log();
        let told: Vec<&str> =
            log.lines().filter(|it| !it.starts_with("  ") && !it.contains("Flow Record")).collect();
        assert!(log.contains(&line), "not {line:?}:\n{}", told.join("\n"));
    }
}

/// A sampled packet: UDP over IPv4, or over IPv6.
fn sample(number: u32, is_ipv4: bool) -> Sample {
    let length = 100 + number;
    let mut header = Vec::new();
    if is_ipv4 {
        header.extend_from_slice(&[0x45, 0]);
        header.extend_from_slice(&(length as u16).to_be_bytes());
        header.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 5, 203, 0, 113, 80]);
    } else {
        header.extend_from_slice(&[0x60, 0, 0, 0]);
        header.extend_from_slice(&(length as u16 - 40).to_be_bytes());
        header.extend_from_slice(&[17, 64]);
        for last in [5, 7] {
            header.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
    }
    header.extend_from_slice(&40_000_u16.to_be_bytes());
    header.extend_from_slice(&53_u16.to_be_bytes());
    header.extend_from_slice(&[0, 8, 0, 0]);
    header.resize(length.min(128) as usize, 7);
    Sample {
        tenant: ACME,
        header,
        is_ipv4,
        length,
        from: End::Site(SiteId(0)),
        arrived_on: Some(PathId(3)),
        to: End::Handoff(HandoffId(2)),
        left_on: None,
        rate: 100,
        pool: u64::from(number) * 100,
    }
}

#[test]
fn sfcapd_makes_of_samples_the_packets_and_bytes_that_they_stand_for() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("flows")).expect("a directory");
    let address = address_of(&udp());
    let arguments = format!("-oL sfcapd -E -C none -4 -b 127.0.0.1 -t 3600 -p {} -w flows", address.port());
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let mut sfcapd = Program::start("nfdump-sflow", "stdbuf", &arguments, dir);
    sfcapd.await_log("Startup sfcapd.");
    let samples: Vec<Sample> = (0..200).map(|number| sample(number, number % 3 > 0)).collect();
    let exporting = Exporting::start(&collector("sfcapd", address, "protocol = \"sflow\""));
    for sample in &samples {
        exporting.orders.send(Order::Sample(sample.clone())).expect("it runs");
    }
    exporting.end();
    eventually("all samples", || {
        let records = sfcapd.log().matches("Flow Record:").count();
        if records >= samples.len() { Ok(()) } else { Err(format!("{records}:\n{}", sfcapd.log())) }
    });
    sfcapd.end();
    let nfdump = |format: &str| {
        let output = Command::new("nfdump")
            .current_dir(sfcapd.dir.path())
            .args(["-R", "flows", "-C", "none", "-q", "-N", "-6", "-o", format])
            .output()
            .expect("nfdump runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let (mut packets, mut bytes) = (0, 0);
    let text = nfdump("fmt:%pkt %byt %in %out %sap %dap");
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        packets += fields[0].parse::<u64>().expect("packets");
        bytes += fields[1].parse::<u64>().expect("bytes");
        assert_eq!(fields[2..4], ["1000003", "100002"], "{line}");
        assert!(fields[4].ends_with("40000") && fields[5].ends_with("53"), "{line}");
    }
    let expected: u64 = samples.iter().map(|it| u64::from(it.length) * 100).sum();
    assert_eq!((packets, bytes), (20_000, expected), "{text}");
}

#[test]
fn tshark_reads_samples_and_counters() {
    let sink = udp();
    let mut capture = Capture::start("udp", address_of(&sink).port());
    capture.decode_as = capture.decode_as.replace("cflow", "sflow");
    let mut exporting = Exporting::start(&collector("noc", address_of(&sink), "protocol = \"sflow\""));
    exporting.add(10, ACME);
    for number in 0..50 {
        exporting.orders.send(Order::Sample(sample(number, number % 2 == 0))).expect("it runs");
    }
    exporting.end();
    let read = eventually("all samples", || {
        let fields = ["sflow_245.numsamples", "sflow.flow_sample.sampling_rate", "_ws.malformed"];
        let read = capture.fields_of("sflow", &fields);
        // Two interfaces' counters besides.
        let samples: usize =
            read.iter().flat_map(|it| &it[0]).map(|it| it.parse::<usize>().expect("a number")).sum();
        if samples == 52 { Ok(read) } else { Err(format!("{read:?}")) }
    });
    let rates: Vec<&String> = read.iter().flat_map(|it| &it[1]).collect();
    assert!(rates.len() == 50 && rates.iter().all(|rate| *rate == "100"), "{rates:?}");
    assert!(read.iter().all(|it| it[2].is_empty()), "malformed: {read:?}");
    drop(sink);
}
