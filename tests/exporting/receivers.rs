//! What real collectors make of every kind of message: Debian's tshark, pmacct and nfdump. No template is unknown to them,
//! nothing is missing in the sequence, and their sums are the sessions' own.

use super::collectors::{Capture, Nfacctd, Nfcapd, Place, Sfcapd, Sums, eventually, ready_made};
use super::*;
use popgate::export::{NatChange, NatEvent, NatLimit};
use popgate::flow::{PortChange, PortEvent, Sample};

/// Programs run beside the test.
const HERE: Place = Place(None);

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

/// One that nobody has; nobody else takes it in the little time until a collector does.
fn free_port() -> u16 {
    address_of(&udp()).port()
}

fn sums_of(sessions: &[FlowRecord]) -> Sums {
    let mut sums = Sums::default();
    for direction in sessions.iter().flat_map(|it| it.directions).filter(|it| it.packets > 0) {
        sums.add(direction.packets, direction.bytes);
    }
    sums
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

#[test]
fn tshark_reads_every_kind_of_record_in_both_protocols_over_udp() {
    for (protocol, more) in [("netflow-v9", ""), ("ipfix", ""), ("ipfix", "biflow = true")] {
        let sink = udp();
        let capture = Capture::start(&HERE, "udp", address_of(&sink).port());
        let settings = format!("protocol = \"{protocol}\"\n{more}");
        let mut exporting = Exporting::start(&collector("noc", address_of(&sink), &settings));
        let sessions = every_kind(30);
        exporting.add_all(&sessions);
        exporting.end();
        // A biflow's answers are packets and bytes like those of a flow of their own.
        capture.await_sums(sums_of(&sessions));
        capture.assert_no_complaint();
        drop(sink);
    }
}

#[test]
fn tshark_reads_every_kind_of_record_over_tcp() {
    let listener = tcp();
    let capture = Capture::start(&HERE, "tcp", listens_at(&listener).port());
    let sessions = every_kind(30);
    let settings = "transport = \"tcp\"\nfilter = { records = [\"flows\", \"nat-events\"] }";
    let mut exporting = Exporting::start(&collector("noc", listens_at(&listener), settings));
    exporting.add_all(&sessions);
    let (mut stream, _) = listener.accept().expect("it connects");
    let reader = std::thread::spawn(move || while read_message(&mut stream).is_some() {});
    exporting.end();
    reader.join().expect("it reads");
    capture.await_sums(sums_of(&sessions));
    capture.assert_no_complaint();
}

#[test]
fn tshark_reads_what_comes_out_of_tls() {
    let collector = TlsCollector::start();
    let capture = Capture::start(&HERE, "tcp", listens_at(&collector.clear).port());
    let sessions = every_kind(30);
    let mut exporting =
        Exporting::start_in(collector.dir.path(), &collector.configuration("ca", Some("fra1")));
    exporting.add_all(&sessions);
    let (mut stream, _) = collector.clear.accept().expect("socat connects");
    let reader = std::thread::spawn(move || while read_message(&mut stream).is_some() {});
    exporting.end();
    reader.join().expect("it reads");
    capture.await_sums(sums_of(&sessions));
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
    let capture = Capture::start(&HERE, "udp", address_of(&events_alone).port());
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

#[test]
fn pmacct_s_sums_are_the_sessions_own_by_tenant_with_the_ready_made_configuration() {
    for protocol in ["ipfix", "netflow-v9"] {
        let nfacctd = Nfacctd::start(&HERE, free_port());
        let sessions = every_kind(30);
        let settings = format!("protocol = \"{protocol}\"");
        let mut exporting = Exporting::start(&collector("pmacct", nfacctd.address, &settings));
        exporting.add_all(&sessions);
        exporting.end();
        eventually("pmacct's sums", || match nfacctd.sums(None) {
            sums if sums == sums_of(&sessions) => Ok(()),
            sums => {
                Err(format!("{sums:?} of {:?} by {protocol}:\n{}", sums_of(&sessions), nfacctd.program.log()))
            }
        });
        for (tenant, vrf) in [(ACME, 1), (GLOBEX, 2)] {
            let theirs: Vec<FlowRecord> = sessions.iter().filter(|it| it.tenant == tenant).cloned().collect();
            assert_eq!(nfacctd.sums(Some(vrf)), sums_of(&theirs));
        }
        let rows = nfacctd.rows();
        let translated = rows.iter().find(|row| row["post_nat_ip_src"] == "198.51.100.1");
        let translated = translated.expect("the address after translation");
        assert_eq!(
            (&translated["ip_src"], &translated["ip_dst"]),
            (&"10.1.0.5".into(), &"203.0.113.80".into())
        );
        nfacctd.assert_no_complaint();
    }
}

#[test]
fn nfdump_s_sums_are_the_sessions_own_in_both_protocols_with_the_ready_made_options() {
    for protocol in ["ipfix", "netflow-v9"] {
        let port = free_port();
        let mut nfcapd = Nfcapd::start(&HERE, port);
        let sessions = every_kind(30);
        let settings = format!("protocol = \"{protocol}\"");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut exporting = Exporting::start(&collector("nfdump", address, &settings));
        exporting.add_all(&sessions);
        exporting.end();
        nfcapd.end_with(sums_of(&sessions));
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
    let port = free_port();
    let mut sfcapd = Sfcapd::start(&HERE, port);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let samples: Vec<Sample> = (0..200).map(|number| sample(number, number % 3 > 0)).collect();
    let exporting = Exporting::start(&collector("sfcapd", address, "protocol = \"sflow\""));
    for sample in &samples {
        exporting.orders.send(Order::Sample(sample.clone())).expect("it runs");
    }
    exporting.end();
    sfcapd.end_with(samples.len());
    let (mut packets, mut bytes) = (0, 0);
    let text = sfcapd.nfdump("fmt:%pkt %byt %in %out %sap %dap", "any");
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
    let mut capture = Capture::start(&HERE, "udp", address_of(&sink).port());
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
