//! The exporter through its public door, read back by a decoder that knows nothing but the RFC.

mod decoder;

use super::*;
use crate::flow::{DirectionRecord, End, EndReason, PortChange, PortEvent};
use crate::model::{
    ClassBy, ClassId, Direction, FlowKey, HandoffId, PathId, Protocol, RecordKind, RuleId, SiteId, TenantId,
    Zone,
};
use decoder::{Collector, Data, Header, REVERSE};
use names::NAMES_BURST;
use netflow_parser::variable_versions::{ipfix, v9};
use netflow_parser::{FieldValue, NetflowPacket, NetflowParser};
use proptest::prelude::*;
use std::net::IpAddr;

const FORWARD: DirectionRecord = DirectionRecord {
    packets: 10,
    bytes: 1_000,
    first_unix_millis: 1_700_000_000_123,
    last_unix_millis: 1_700_000_001_456,
    tcp_flags: 0x1b,
    arrived_on: Some(PathId(3)),
    left_on: None,
};

const ANSWERS: DirectionRecord = DirectionRecord {
    packets: 20,
    bytes: 30_000,
    first_unix_millis: 1_700_000_000_130,
    last_unix_millis: 1_700_000_001_450,
    tcp_flags: 0x1a,
    arrived_on: None,
    left_on: Some(PathId(4)),
};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn start() -> Now {
    Now { instant: Instant(5_000_000_000), unix_nanos: 1_700_000_002_000_000_000 }
}

/// A host of acme's, translated to the pool.
fn translated() -> FlowRecord {
    FlowRecord {
        session: 77,
        tenant: TenantId(1),
        key: FlowKey::new(
            Zone::tenant(TenantId(1)),
            Protocol::TCP,
            (address("10.1.0.5"), 40_000),
            (address("203.0.113.80"), 443),
        ),
        reply_key: FlowKey::new(
            Zone::INTERNET,
            Protocol::TCP,
            (address("203.0.113.80"), 443),
            (address("198.51.100.1"), 2_048),
        ),
        initiator: End::Site(SiteId(9)),
        responder: End::Handoff(HandoffId(2)),
        class: ClassId(4),
        class_by: ClassBy::Rule,
        name: None,
        rule: RuleId(6),
        dscp: 46,
        generation: 1,
        directions: [FORWARD, ANSWERS],
        end_reason: EndReason::EndOfFlow,
        story: None,
    }
}

fn untranslated(protocol: Protocol, source: (&str, u16), destination: (&str, u16)) -> FlowRecord {
    let zone = Zone::tenant(TenantId(1));
    let end = |(text, port)| (address(text), port);
    let key = FlowKey::new(zone, protocol, end(source), end(destination));
    FlowRecord { key, reply_key: key.turned_round(zone), ..translated() }
}

fn directory() -> Directory {
    Directory {
        tenants: [(TenantId(1), "acme".to_owned())].into(),
        classes: [((TenantId(1), ClassId(4)), "voice".to_owned())].into(),
        rules: [((TenantId(1), RuleId(6)), "web-out".to_owned())].into(),
        sites: [(SiteId(9), "acme/berlin".to_owned())].into(),
        paths: [(PathId(3), "acme/berlin/dsl".to_owned())].into(),
        handoffs: [(HandoffId(2), "acme/internet".to_owned())].into(),
        lan: None,
    }
}

fn exporter(observation_domain: u32) -> Exporter {
    Exporter::new(Settings { observation_domain, ..Settings::default() }, directory(), start())
}

fn exporter_in(protocol: ExportProtocol) -> Exporter {
    Exporter::new(Settings { protocol, ..Settings::default() }, directory(), start())
}

/// All the exporter has to send at `now`, decoded.
fn drain(exporter: &mut Exporter, collector: &mut Collector, now: Now) -> Vec<(Header, Vec<Data>)> {
    std::iter::from_fn(|| exporter.poll(now).map(|datagram| collector.receive(datagram))).collect()
}

/// The flow records of what `exporter` sends at once of `record`.
fn flows(record: &FlowRecord) -> Vec<Data> {
    let (mut exporter, mut collector) = (exporter(0), Collector::default());
    exporter.add(record, start());
    exporter.flush();
    let messages = drain(&mut exporter, &mut collector, start());
    messages.into_iter().flat_map(|(_, records)| records).filter(|record| !record.is_options).collect()
}

/// Source, its port, destination, its port, as they arrive; then as they leave.
type Translation = ((IpAddr, u64, IpAddr, u64), (IpAddr, u64, IpAddr, u64));

fn translation(flow: &Data) -> Translation {
    (
        (flow.address(8), flow.number(7), flow.address(12), flow.number(11)),
        (flow.address(225), flow.number(227), flow.address(226), flow.number(228)),
    )
}

#[test]
fn a_translated_session_is_two_flows_each_as_it_arrives_and_as_it_leaves() {
    let flows = flows(&translated());
    let [inner, server, pool] = ["10.1.0.5", "203.0.113.80", "198.51.100.1"].map(address);
    assert_eq!(flows.len(), 2);
    assert_eq!(translation(&flows[0]), ((inner, 40_000, server, 443), (pool, 2_048, server, 443)));
    assert_eq!(translation(&flows[1]), ((server, 443, pool, 2_048), (server, 443, inner, 40_000)));
}

#[test]
fn a_flow_says_all_that_is_known_of_it() {
    let [forward, reverse] = &flows(&translated())[..] else { panic!("two flows") };
    let both = [forward, reverse];
    let numbers = |element| both.map(|flow| flow.number(element));
    assert_eq!(numbers(1), [1_000, 30_000]);
    assert_eq!(numbers(2), [10, 20]);
    assert_eq!(numbers(152), [1_700_000_000_123, 1_700_000_000_130]);
    assert_eq!(numbers(153), [1_700_000_001_456, 1_700_000_001_450]);
    assert_eq!(numbers(10), [1_000_003, 100_002], "ingress: the path, the handoff");
    assert_eq!(numbers(14), [100_002, 1_000_004], "egress: the handoff, the path");
    assert_eq!(numbers(34), [1, 1], "sampling interval");
    assert_eq!(numbers(4), [6, 6]);
    assert_eq!(numbers(5), [46 << 2; 2], "DSCP is the upper six bits of the TOS octet");
    assert_eq!(numbers(6), [0x1b, 0x1a]);
    assert_eq!(numbers(136), [3, 3], "end of flow");
    assert_eq!(numbers(61), [0, 0], "ingress");
    assert_eq!(numbers(239), [1, 2], "from the initiator, to the initiator");
    assert_eq!(numbers(234), [2, 2]);
    assert_eq!(numbers(235), [2, 2]);
    assert_eq!(numbers(95), [0x0600_0805; 2], "engine 6, tenant 1, class 4");
    assert_eq!(numbers(137), [2 << 32 | 6; 2]);
    assert_eq!(numbers(148), [77, 77]);
}

#[test]
fn an_untranslated_flow_leaves_as_it_arrives() {
    for flow in flows(&untranslated(Protocol::UDP, ("10.1.0.5", 5_000), ("10.2.0.5", 53))) {
        let (arriving, leaving) = translation(&flow);
        assert_eq!(arriving, leaving);
    }
}

#[test]
fn ipv6_flows_have_their_own_template_and_leave_as_they_arrive_or_by_another_prefix() {
    let flows = flows(&untranslated(Protocol::TCP, ("2001:db8:1::5", 5_000), ("2001:db8:2::5", 80)));
    assert_eq!(flows.len(), 2);
    assert_eq!(
        (flows[0].address(27), flows[0].address(28)),
        (address("2001:db8:1::5"), address("2001:db8:2::5"))
    );
    assert_eq!(
        (flows[1].address(27), flows[1].address(28)),
        (address("2001:db8:2::5"), address("2001:db8:1::5"))
    );
    assert_eq!((flows[1].number(7), flows[1].number(11)), (80, 5_000));
    assert!(!flows[0].has(225));
    assert_eq!((flows[0].address(281), flows[0].address(282)), (flows[0].address(27), flows[0].address(28)));

    let mut mapped = untranslated(Protocol::TCP, ("2001:db8:1::5", 5_000), ("2001:db8:2::5", 80));
    let server = (address("2001:db8:2::5"), 80);
    let outside = (address("2001:db8:f00:4e3b::5"), 5_000);
    mapped.reply_key = FlowKey::new(Zone::INTERNET, Protocol::TCP, server, outside);
    let [request, reply] = &self::flows(&mapped)[..] else { panic!("two flows") };
    assert_eq!((request.address(27), request.address(281)), (address("2001:db8:1::5"), outside.0));
    assert_eq!((reply.address(28), reply.address(282)), (outside.0, address("2001:db8:1::5")));
}

#[test]
fn an_echo_says_type_code_and_leaving_identifier_instead_of_ports() {
    let mut echo = translated();
    let server = (address("203.0.113.80"), 0);
    echo.key = FlowKey::new(echo.key.zone, Protocol::ICMP, (address("10.1.0.5"), 4_242), server);
    echo.reply_key = FlowKey::new(Zone::INTERNET, Protocol::ICMP, server, (address("198.51.100.1"), 1_025));
    let [request, reply] = &flows(&echo)[..] else { panic!("two flows") };
    assert_eq!((request.number(32), request.number(227)), (0x0800, 1_025));
    assert_eq!((reply.number(32), reply.number(227)), (0, 4_242));
    assert_eq!((reply.address(12), reply.address(226)), (address("198.51.100.1"), address("10.1.0.5")));
    assert!(!request.has(7) && !request.has(11));

    let echo = untranslated(Protocol::ICMPV6, ("2001:db8:1::5", 4_242), ("2001:db8:2::5", 0));
    let [request, reply] = &flows(&echo)[..] else { panic!("two flows") };
    assert_eq!((request.number(139), reply.number(139)), (128 << 8, 129 << 8));
}

#[test]
fn what_nat64_takes_across_arrives_in_one_family_and_leaves_in_the_other() {
    let [inner, called] = ["2001:db8:1::5", "2001:db8:64::cb00:7150"].map(address);
    let [server, pool] = ["203.0.113.80", "198.51.100.1"].map(address);
    let mut record = translated();
    record.key = FlowKey::new(record.key.zone, Protocol::TCP, (inner, 40_000), (called, 443));
    let [request, reply] = &flows(&record)[..] else { panic!("two flows") };
    let addresses = |flow: &Data, elements: [u16; 4]| elements.map(|element| flow.address(element));
    assert_eq!(addresses(request, [27, 28, 225, 226]), [inner, called, pool, server]);
    assert_eq!(addresses(reply, [8, 12, 281, 282]), [server, pool, called, inner]);
    let ports = |flow: &Data| [7, 11, 227, 228].map(|element| flow.number(element));
    assert_eq!((ports(request), ports(reply)), ([40_000, 443, 2_048, 443], [443, 2_048, 443, 40_000]));
    assert!(!request.has(281) && !reply.has(225));

    record.key = FlowKey::new(record.key.zone, Protocol::ICMPV6, (inner, 4_242), (called, 0));
    record.reply_key = FlowKey::new(Zone::INTERNET, Protocol::ICMP, (server, 0), (pool, 1_025));
    let [request, reply] = &flows(&record)[..] else { panic!("two flows") };
    assert_eq!((request.number(4), request.number(139), request.number(227)), (58, 128 << 8, 1_025));
    assert_eq!((reply.number(4), reply.number(32), reply.number(227)), (1, 0, 4_242));
    assert_eq!(addresses(request, [27, 28, 225, 226]), [inner, called, pool, server]);
    assert_eq!(addresses(reply, [8, 12, 281, 282]), [server, pool, called, inner]);
}

#[test]
fn a_direction_without_packets_is_not_told() {
    let mut record = translated();
    record.directions[Direction::Reverse as usize] = DirectionRecord::default();
    assert_eq!(flows(&record).len(), 1);
    record.directions[Direction::Forward as usize] = DirectionRecord::default();
    assert!(flows(&record).is_empty());
}

#[test]
fn names_come_by_options_records_before_any_flow() {
    let (mut exporter, mut collector) = (exporter(7), Collector::default());
    exporter.add(&translated(), start());
    exporter.flush();
    let messages = drain(&mut exporter, &mut collector, start());
    assert!(messages.iter().all(|(header, _)| header.observation_domain == 7));
    assert!(messages.iter().all(|(header, _)| header.export_unix_secs == 1_700_000_002));
    let records: Vec<Data> = messages.into_iter().flat_map(|(_, records)| records).collect();
    let first_flow = records.iter().position(|record| !record.is_options).expect("a flow");
    let options = &records[..first_flow];
    let find = |key, number| {
        let mut found = options.iter().filter(|it| it.has(key) && it.number(key) == number);
        found.next().unwrap_or_else(|| panic!("nothing names {number} of element {key}"))
    };
    for flow in &records[first_flow..] {
        assert_eq!(find(95, flow.number(95)).text(96), "acme/voice");
        assert_eq!(find(95, flow.number(95)).text(94), "app class of acme");
        assert_eq!(find(137, flow.number(137)).text(335), "acme/web-out");
        assert_eq!(find(234, flow.number(234)).text(236), "acme");
    }
    let ingress = find(10, records[first_flow].number(10));
    assert_eq!((ingress.text(82), ingress.text(83)), ("acme/berlin/dsl", "path acme/berlin/dsl"));
    let egress = find(10, records[first_flow].number(14));
    assert_eq!((egress.text(82), egress.text(83)), ("acme/internet", "handoff acme/internet"));
}

#[test]
fn the_longest_names_fit() {
    let long = "n".repeat(31);
    let mut directory = directory();
    directory.tenants.insert(TenantId(1), long.clone());
    directory.classes.insert((TenantId(1), ClassId(4)), long.clone());
    directory.rules.insert((TenantId(1), RuleId(6)), long.clone());
    directory.handoffs.insert(HandoffId(2), format!("{long}/{long}/{long}"));
    let (mut exporter, mut collector) =
        (Exporter::new(Settings::default(), directory, start()), Collector::default());
    let messages = drain(&mut exporter, &mut collector, start());
    let records: Vec<Data> = messages.into_iter().flat_map(|(_, records)| records).collect();
    let longest = |element| {
        records.iter().filter(|it| it.has(element)).map(|it| it.text(element)).max_by_key(|it| it.len())
    };
    assert_eq!(longest(82), Some(format!("{long}/{long}/{long}").as_str()));
    assert_eq!(longest(83), Some(format!("handoff {long}/{long}/{long}").as_str()));
    assert_eq!(longest(96), Some(format!("{long}/{long}").as_str()));
    assert_eq!(longest(94), Some(format!("app class of {long}").as_str()));
    assert_eq!(longest(335), Some(format!("{long}/{long}").as_str()));
    assert_eq!(longest(236), Some(long.as_str()));
}

#[test]
fn a_record_leaves_after_a_second_at_the_latest() {
    let (mut exporter, mut collector) = (exporter(0), Collector::default());
    drain(&mut exporter, &mut collector, start());
    let added = start() + Duration::from_millis(10);
    exporter.add(&translated(), added);
    exporter.add(&translated(), added + Duration::from_millis(500));
    assert_eq!(exporter.poll_timeout(), added.instant + Duration::from_secs(1));
    assert!(exporter.poll(added + Duration::from_millis(999)).is_none());
    let sent = drain(&mut exporter, &mut collector, added + Duration::from_secs(1));
    assert_eq!(sent.iter().map(|(_, records)| records.len()).collect::<Vec<_>>(), [4]);
    assert_eq!(exporter.poll_timeout(), start().instant + REFRESH);
}

#[test]
fn a_full_message_leaves_at_once() {
    let (mut exporter, mut collector) = (exporter(0), Collector::default());
    drain(&mut exporter, &mut collector, start());
    for _ in 0..10 {
        exporter.add(&translated(), start());
    }
    assert!(exporter.poll_timeout() <= start().instant);
    let sent = drain(&mut exporter, &mut collector, start());
    assert_eq!(sent.len(), 1, "the second message waits for more");
    assert!(sent[0].0.length > 1_250, "{} bytes", sent[0].0.length);
}

#[test]
fn templates_and_names_come_again_every_minute_and_when_names_change() {
    let (mut exporter, mut collector) = (exporter(0), Collector::default());
    let all = drain(&mut exporter, &mut collector, start()).len();
    let sets = collector.template_sets;
    assert_eq!(sets, 1 + 6, "the flow templates' set, and one for each options template");

    exporter.set_directory(&directory());
    assert!(drain(&mut exporter, &mut collector, start() + Duration::from_millis(59_999)).is_empty());
    assert_eq!(exporter.poll_timeout(), start().instant + REFRESH);
    assert_eq!(drain(&mut exporter, &mut collector, start() + REFRESH).len(), all);
    assert_eq!(collector.template_sets, 2 * sets);

    let mut renamed = directory();
    renamed.tenants.insert(TenantId(1), "acme-corp".to_owned());
    exporter.set_directory(&renamed);
    assert!(exporter.poll_timeout() <= start().instant);
    let records = drain(&mut exporter, &mut collector, start() + REFRESH);
    assert_eq!(collector.template_sets, 3 * sets);
    let mut vrfs = records.iter().flat_map(|(_, records)| records).filter(|it| it.has(236));
    assert_eq!(vrfs.next().expect("a name").text(236), "acme-corp");
}

#[test]
fn a_provider_s_many_names_go_in_bursts_and_flows_do_not_wait_for_them() {
    let mut directory = directory();
    for id in 0..1_000 {
        directory.paths.insert(PathId(id), format!("acme/branch-{id}/dsl"));
    }
    let (mut exporter, mut collector) =
        (Exporter::new(Settings::default(), directory, start()), Collector::default());
    exporter.add(&translated(), start());
    exporter.flush();
    let (mut now, mut names, mut bursts) = (start(), 0, 0);
    while exporter.poll_timeout() < start().instant + REFRESH {
        let burst = drain(&mut exporter, &mut collector, now);
        let records = || burst.iter().flat_map(|(_, records)| records);
        names += records().filter(|it| it.has(82)).count();
        assert_eq!(records().any(|it| !it.is_options), bursts == 0, "the flow goes with the first burst");
        assert!(burst.len() <= NAMES_BURST + 3, "{} messages at once", burst.len());
        bursts += 1;
        now = Now { instant: exporter.poll_timeout(), ..now };
    }
    assert_eq!(names, 1_003);
    assert!(bursts > 1);
}

#[test]
fn what_finds_no_room_is_counted_as_lost() {
    let (mut exporter, mut collector) = (exporter(0), Collector::default());
    let records = 10_000;
    for _ in 0..records {
        exporter.add(&translated(), start());
    }
    exporter.flush();
    let sent: usize = drain(&mut exporter, &mut collector, start())
        .iter()
        .map(|(_, records)| records.iter().filter(|it| !it.is_options).count())
        .sum();
    let stats = exporter.stats();
    assert!(stats.lost_records > 0);
    assert_eq!(stats.records, sent as u64);
    assert_eq!(stats.records + stats.lost_records, 2 * records);
    // Both directions are lost alike, give or take one message.
    assert!(stats.lost_packets.abs_diff(15 * stats.lost_records) < 300, "{stats:?}");

    let again = drain(&mut exporter, &mut collector, start() + REFRESH);
    let mut told = again.iter().flat_map(|(_, records)| records).filter(|it| it.has(166));
    let told = told.next().expect("statistics");
    assert_eq!((told.number(166), told.number(42)), (stats.lost_records, stats.records));
    assert_eq!((told.number(41), told.number(40)), (stats.messages, stats.octets));
    assert_eq!((told.number(167), told.number(168)), (stats.lost_packets, stats.lost_octets));
}

#[test]
fn a_datagram_the_network_would_not_take_is_counted_as_lost_and_leaves_a_gap() {
    let (mut exporter, mut collector) = (exporter(0), Collector::default());
    drain(&mut exporter, &mut collector, start());
    let before = exporter.stats();
    exporter.add(&translated(), start());
    exporter.flush();
    let (header, _) = collector.receive(exporter.poll(start()).expect("a datagram"));
    exporter.not_sent();
    exporter.not_sent();
    let lost = ExportStats { lost_records: 2, lost_packets: 30, lost_octets: 31_000, ..before };
    assert_eq!(exporter.stats(), lost);
    exporter.add(&translated(), start());
    exporter.flush();
    let (next, _) = collector.receive(exporter.poll(start()).expect("a datagram"));
    assert_eq!(next.sequence, header.sequence + 2);
}

#[test]
fn netflow_v9_says_the_same_in_its_own_header_times_and_sequence() {
    let (mut exporter, mut collector) = (exporter_in(ExportProtocol::NetflowV9), Collector::default());
    exporter.add(&translated(), start());
    exporter.flush();
    let messages = drain(&mut exporter, &mut collector, start());
    let told = |element, found: &Data| found.number(element);
    for (nth, (header, records)) in messages.iter().enumerate() {
        assert_eq!((header.version, header.sequence), (9, nth as u32), "the sequence counts messages");
        for flow in records.iter().filter(|it| !it.is_options) {
            // A collector knows by the header when the box began.
            let boot = u64::from(header.export_unix_secs) * 1_000 - header.uptime_millis;
            let direction = if told(239, flow) == 1 { FORWARD } else { ANSWERS };
            assert_eq!(boot + told(22, flow), direction.first_unix_millis);
            assert_eq!(boot + told(21, flow), direction.last_unix_millis);
            assert_eq!((told(1, flow), told(2, flow)), (direction.bytes, direction.packets));
        }
    }
    let records: Vec<&Data> = messages.iter().flat_map(|(_, records)| records).collect();
    assert_eq!(records.iter().filter(|it| !it.is_options).count(), 2);
    let named = |element, text| records.iter().any(|it| it.has(element) && it.text(element) == text);
    for (element, text) in [(96, "acme/voice"), (335, "acme/web-out"), (236, "acme"), (82, "acme/berlin/dsl")]
    {
        assert!(named(element, text), "{text} by element {element}");
    }
}

#[test]
fn netflow_v9_tells_right_times_after_more_milliseconds_than_it_can_count() {
    let (mut exporter, mut collector) = (exporter_in(ExportProtocol::NetflowV9), Collector::default());
    let mut now = start();
    for days in 0..60 {
        now = now + Duration::from_secs(24 * 3_600);
        let mut record = translated();
        record.directions[0].first_unix_millis = now.unix_nanos / 1_000_000 - 3_600_000;
        exporter.add(&record, now);
        exporter.flush();
        for (header, records) in drain(&mut exporter, &mut collector, now) {
            let boot = u64::from(header.export_unix_secs) * 1_000 - header.uptime_millis;
            for flow in records.iter().filter(|it| !it.is_options && it.number(239) == 1) {
                assert_eq!(boot + flow.number(22), record.directions[0].first_unix_millis, "day {days}");
            }
        }
    }
}

#[test]
fn each_connection_is_told_the_templates_once_and_counts_from_zero() {
    let settings = Settings { is_stream: true, ..Settings::default() };
    let (mut exporter, mut collector) = (Exporter::new(settings, directory(), start()), Collector::default());
    let mut now = start();
    drain(&mut exporter, &mut collector, now);
    let templates = collector.template_sets;
    now = now + REFRESH;
    let again = drain(&mut exporter, &mut collector, now);
    assert!(again.iter().any(|(_, records)| records.iter().any(|it| it.has(236))), "names are said again");
    assert_eq!(collector.template_sets, templates, "templates are not");

    exporter.add(&translated(), now);
    exporter.flush();
    exporter.begin_session();
    let mut next = Collector::default();
    let messages = drain(&mut exporter, &mut next, now);
    assert_eq!((messages[0].0.sequence, next.template_sets), (0, templates));
    let flows = messages.iter().flat_map(|(_, records)| records).filter(|it| !it.is_options);
    assert_eq!(flows.count(), 2, "what waited goes by the new one");
}

#[test]
fn as_a_biflow_a_session_is_one_record_with_its_answers_and_without_any_a_flow() {
    let settings = Settings { biflow: true, ..Settings::default() };
    let (mut exporter, mut collector) = (Exporter::new(settings, directory(), start()), Collector::default());
    exporter.add(&translated(), start());
    let mut lonely = translated();
    lonely.directions[Direction::Reverse as usize] = DirectionRecord::default();
    exporter.add(&lonely, start());
    exporter.flush();
    let messages = drain(&mut exporter, &mut collector, start());
    let flows: Vec<Data> = messages.into_iter().flat_map(|(_, it)| it).filter(|it| !it.is_options).collect();
    let [both, alone] = &flows[..] else { panic!("two records: {flows:?}") };
    let numbers = |elements: [u16; 7]| elements.map(|element| both.number(element));
    let elements = [1, 2, 6, 10, 14, 152, 153];
    let expected = |it: DirectionRecord, interfaces: [u64; 2]| {
        let [from, to] = interfaces;
        [it.bytes, it.packets, it.tcp_flags.into(), from, to, it.first_unix_millis, it.last_unix_millis]
    };
    assert_eq!(numbers(elements), expected(FORWARD, [1_000_003, 100_002]));
    assert_eq!(numbers(elements.map(|element| element | REVERSE)), expected(ANSWERS, [100_002, 1_000_004]));
    assert!(!alone.has(1 | REVERSE));
    assert_eq!(exporter.stats().records, 2);
}

#[test]
fn nat_events_say_who_was_given_what_and_who_got_nothing() {
    let settings = Settings { nat_events: true, flows: false, ..Settings::default() };
    let (mut exporter, mut collector) = (Exporter::new(settings, directory(), start()), Collector::default());
    let ports = |change, inside, ports| {
        NatChange::Ports(PortEvent {
            change,
            tenant: TenantId(1),
            branch: Some(SiteId(9)),
            outside: address("198.51.100.1"),
            ports,
            protocol: Some(Protocol::UDP),
            inside,
        })
    };
    let v4 = Some((address("10.1.0.5"), 5_000));
    let v6 = Some((address("2001:db8:1::5"), 5_000));
    let changes = [
        ports(PortChange::Began, v4, (2_048, 2_048)),
        ports(PortChange::Ended, v6, (2_049, 2_049)),
        ports(PortChange::Began, None, (4_096, 4_159)),
        NatChange::Refused(NatLimit::Pool(HandoffId(2))),
        NatChange::Refused(NatLimit::BranchPorts(SiteId(9))),
    ];
    for what in changes {
        exporter
            .add_nat_event(&NatEvent { unix_millis: 1_700_000_000_123, tenant: TenantId(1), what }, start());
    }
    exporter.flush();
    let messages = drain(&mut exporter, &mut collector, start());
    let told: Vec<Data> = messages.into_iter().flat_map(|(_, it)| it).filter(|it| !it.is_options).collect();
    assert_eq!(told.iter().map(|it| it.number(230)).collect::<Vec<_>>(), [8, 11, 16, 12, 13]);
    assert!(told.iter().all(|it| it.number(323) == 1_700_000_000_123 && it.number(234) == 2));
    let [nat44, nat64, block, exhausted, quota] = &told[..] else { panic!("five") };
    assert_eq!((nat44.address(8), nat44.number(7)), (address("10.1.0.5"), 5_000));
    assert_eq!(
        (nat44.address(225), nat44.number(227), nat44.number(4)),
        (address("198.51.100.1"), 2_048, 17)
    );
    assert_eq!(nat64.address(27), address("2001:db8:1::5"));
    assert_eq!((block.number(361), block.number(362), block.number(10)), (4_096, 4_159, 1_000_000_009));
    assert_eq!((exhausted.number(283), quota.number(466)), (100_002, 3));
    assert_eq!(exporter.stats().records, 5);
}

#[test]
fn a_filter_lets_a_tenant_s_records_and_names_through_and_no_others() {
    let mut all = directory();
    all.tenants.insert(TenantId(2), "globex".to_owned());
    all.classes.insert((TenantId(2), ClassId(1)), "voice".to_owned());
    all.rules.insert((TenantId(2), RuleId(9)), "all".to_owned());
    all.paths.insert(PathId(8), "globex/rome/dsl".to_owned());
    all.sites.insert(SiteId(8), "globex/rome".to_owned());
    all.handoffs.insert(HandoffId(8), "globex/internet".to_owned());
    let flows = [RecordKind::Flows];
    let mut filter = Filter::new(Some(["acme".to_owned()].into()), flows.into());
    filter.learn(&all);
    let others = FlowRecord { tenant: TenantId(2), ..translated() };
    assert_eq!((filter.admits(&translated()), filter.admits(&others)), (true, false));
    assert_eq!(filter.names(&all), directory());
    let mut everybody = Filter::new(None, flows.into());
    everybody.learn(&all);
    assert_eq!((everybody.admits(&translated()), everybody.admits(&others)), (true, true));
    assert_eq!(everybody.names(&all), all);
}

#[test]
fn what_went_astray_on_the_way_here_is_told_as_lost() {
    let (mut exporter, mut collector) = (exporter(0), Collector::default());
    let mut missed = Missed::default();
    missed.count(&translated());
    exporter.missed(missed);
    let messages = drain(&mut exporter, &mut collector, start());
    let mut told = messages.iter().flat_map(|(_, records)| records).filter(|it| it.has(166));
    let told = told.next().expect("statistics");
    assert_eq!([166, 167, 168].map(|element| told.number(element)), [2, 30, 31_000]);
}

fn any_direction() -> impl Strategy<Value = DirectionRecord> {
    let path = proptest::option::of((0..2_000u32).prop_map(PathId));
    (0..3u64, any::<u64>(), any::<u32>(), any::<u32>(), any::<u8>(), path.clone(), path).prop_map(
        |(packets, bytes, first, lasting, tcp_flags, arrived_on, left_on)| DirectionRecord {
            packets,
            bytes: bytes >> 16,
            first_unix_millis: u64::from(first),
            last_unix_millis: u64::from(first) + u64::from(lasting),
            tcp_flags,
            arrived_on,
            left_on,
        },
    )
}

fn any_end() -> impl Strategy<Value = End> {
    prop_oneof![
        any::<u32>().prop_map(|id| End::Site(SiteId(id))),
        any::<u16>().prop_map(|id| End::Handoff(HandoffId(id))),
        any::<u16>().prop_map(|id| End::Tenant(TenantId(id))),
        Just(End::Lan),
    ]
}

prop_compose! {
    fn any_record()(
        addresses in prop_oneof![
            any::<[u32; 3]>().prop_map(|bits| bits.map(|it| IpAddr::V4(it.into()))),
            // Not the IPv4-mapped ones, which a key cannot tell from IPv4.
            any::<[u128; 3]>().prop_map(|bits| bits.map(|it| IpAddr::V6((it | 1 << 127).into()))),
        ],
        nat64 in any::<Option<[u32; 2]>>(),
        ports in any::<[u16; 3]>(),
        protocol in prop_oneof![Just(1), Just(6), Just(17), Just(58), any::<u8>()],
        (session, tenant, class, rule) in any::<(u64, u16, u16, u32)>(),
        dscp in 0..64u8,
        (initiator, responder) in (any_end(), any_end()),
        directions in [any_direction(), any_direction()],
        end_reason in prop_oneof![Just(EndReason::IdleTimeout), Just(EndReason::ActiveTimeout), Just(EndReason::LackOfResources)],
    ) -> FlowRecord {
        let [inner, server, pool] = addresses;
        let nat = if inner.is_ipv4() { pool } else { inner };
        let (far, nat) = match nat64.map(|bits| bits.map(|it| IpAddr::V4(it.into()))) {
            Some([far, nat]) if inner.is_ipv6() => (far, nat),
            _ => (server, nat),
        };
        let there = Protocol(protocol).with(far);
        let zone = Zone::tenant(TenantId(tenant));
        FlowRecord {
            session,
            tenant: TenantId(tenant),
            key: FlowKey::new(zone, Protocol(protocol), (inner, ports[0]), (server, ports[1])),
            reply_key: FlowKey::new(Zone::INTERNET, there, (far, ports[1]), (nat, ports[2])),
            initiator,
            responder,
            class: ClassId(class),
            class_by: ClassBy::Rule,
            name: None,
            rule: RuleId(rule),
            dscp,
            generation: 1,
            directions,
            end_reason,
            story: None,
        }
    }
}

/// What happens to an exporter.
#[derive(Clone, Debug)]
enum Step {
    Add(Box<FlowRecord>),
    Wait(Duration),
    Rename(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_record().prop_map(|record| Step::Add(Box::new(record))),
        2 => (0..40_000u64).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        1 => any::<u8>().prop_map(Step::Rename),
    ]
}

/// What a flow record must say, of either family: session, direction, addresses and counts.
type Told = (u64, u64, IpAddr, IpAddr, u64, u64);

fn told(flow: &Data) -> Told {
    let (source, destination) = if flow.has(8) { (8, 12) } else { (27, 28) };
    let addresses = (flow.address(source), flow.address(destination));
    (flow.number(148), flow.number(239), addresses.0, addresses.1, flow.number(2), flow.number(1))
}

fn to_be_told(record: &FlowRecord) -> impl Iterator<Item = Told> {
    let keys = [(Direction::Forward, record.key), (Direction::Reverse, record.reply_key)];
    let flows = keys.map(|(direction, key)| {
        let it = record.direction(direction);
        (record.session, direction as u64 + 1, key.source(), key.destination(), it.packets, it.bytes)
    });
    flows.into_iter().filter(|flow| flow.4 > 0)
}

proptest! {
    /// The decoder itself refuses wrong lengths, gaps in the sequence, sets without a template and large messages.
    #[test]
    fn whatever_is_added_comes_out_once_and_in_order(
        protocol in prop_oneof![Just(ExportProtocol::Ipfix), Just(ExportProtocol::NetflowV9)],
        steps in proptest::collection::vec(any_step(), 0..120),
    ) {
        let (mut exporter, mut collector) = (exporter_in(protocol), Collector::default());
        let (mut now, mut added, mut received) = (start(), Vec::new(), Vec::new());
        let mut poll = |exporter: &mut Exporter, now| {
            let messages = drain(exporter, &mut collector, now);
            let records = messages.into_iter().flat_map(|(_, records)| records);
            received.extend(records.filter(|it| !it.is_options).map(|it| told(&it)));
        };
        for step in steps {
            match step {
                Step::Add(record) => {
                    added.extend(to_be_told(&record));
                    exporter.add(&record, now);
                }
                Step::Wait(duration) => now = now + duration,
                Step::Rename(name) => {
                    let mut directory = directory();
                    directory.tenants.insert(TenantId(1), format!("acme-{name}"));
                    exporter.set_directory(&directory);
                }
            }
            poll(&mut exporter, now);
            prop_assert!(exporter.poll_timeout() > now.instant, "nothing is left, and yet it is due");
        }
        exporter.flush();
        poll(&mut exporter, now);
        prop_assert_eq!(exporter.stats().records, added.len() as u64);
        prop_assert_eq!(received, added);
    }

    /// Somebody else's decoder: it finds as many records of flows, with the same sums, and nothing that it does not know.
    #[test]
    fn netflow_parser_reads_every_message(
        protocol in prop_oneof![Just(ExportProtocol::Ipfix), Just(ExportProtocol::NetflowV9)],
        records in proptest::collection::vec(any_record(), 0..60),
    ) {
        let (mut exporter, mut parser) = (exporter_in(protocol), NetflowParser::default());
        let (mut expected, mut read) = (Vec::new(), Vec::new());
        for record in &records {
            expected.extend(to_be_told(record).map(|told| (told.4, told.5)));
            exporter.add(record, start());
        }
        exporter.flush();
        while let Some(message) = exporter.poll(start()) {
            let parsed = parser.parse_bytes(message);
            prop_assert!(parsed.error.is_none(), "{:?}", parsed.error);
            prop_assert_eq!(parsed.packets.len(), 1);
            read.extend(parsed.packets.iter().flat_map(counts_of));
        }
        prop_assert_eq!(read, expected);
    }
}

/// Packets and bytes of each flow in it, as `netflow_parser` read them.
fn counts_of(packet: &NetflowPacket) -> Vec<(u64, u64)> {
    fn counts<N: std::fmt::Debug>(flow: &[(N, FieldValue)]) -> (u64, u64) {
        let find = |names: [&str; 2]| {
            let is_it = |name: &N| names.iter().any(|it| format!("{name:?}").contains(it));
            let mut found =
                flow.iter().filter(|(name, _)| is_it(name)).map(|(_, value)| u64::try_from(value));
            found.next().expect("a count").expect("a number")
        };
        (find(["PacketDeltaCount", "InPkts"]), find(["OctetDeltaCount", "InBytes"]))
    }
    match packet {
        NetflowPacket::IPFix(message) => {
            let flows = message.flowsets.iter().filter_map(|set| match &set.body {
                ipfix::FlowSetBody::Data(data) => Some(&data.fields),
                ipfix::FlowSetBody::NoTemplate(_) | ipfix::FlowSetBody::Empty => panic!("{:?}", set.body),
                _ => None,
            });
            flows.flatten().map(|flow| counts(flow)).collect()
        }
        NetflowPacket::V9(message) => {
            let flows = message.flowsets.iter().filter_map(|set| match &set.body {
                v9::FlowSetBody::Data(data) => Some(&data.fields),
                v9::FlowSetBody::NoTemplate(_) | v9::FlowSetBody::Empty => panic!("{:?}", set.body),
                _ => None,
            });
            flows.flatten().map(|flow| counts(flow)).collect()
        }
        other => panic!("{other:?}"),
    }
}
