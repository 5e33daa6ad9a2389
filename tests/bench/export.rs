//! Flow records into messages, by themselves: what a collector costs the thread that serves it. Beside it, copying as many
//! bytes. Writes `encode_records_per_s` into `target/bench/flows.json`, by IPFIX, in which most are sent.

use crate::Wanted;
use crate::measure::{Stopwatch, median};
use popgate::export::{Directory, Exporter, Settings};
use popgate::flow::{DirectionRecord, End, EndReason, FlowRecord};
use popgate::model::{
    ClassBy, ClassId, ExportProtocol, FlowKey, HandoffId, Instant, Now, PathId, Protocol, RuleId, SiteId,
    TenantId, Zone,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

const SESSIONS: usize = 20_000;
const ROUNDS: usize = 15;
/// Sessions between two looks at what is to be sent.
const AT_ONCE: usize = 64;

/// Runs the cases that are `wanted`; their rows.
pub fn rows(wanted: &Wanted) -> Vec<Value> {
    let cases = [("export, IPFIX", ExportProtocol::Ipfix), ("export, NetFlow v9", ExportProtocol::NetflowV9)];
    let wanted = cases.into_iter().filter(|(name, _)| wanted.has(name));
    wanted.map(|(name, protocol)| measure(name, protocol)).collect()
}

fn measure(name: &str, protocol: ExportProtocol) -> Value {
    let sessions = sessions();
    let now = Now { instant: Instant(1_000_000_000), unix_nanos: 1_795_341_600_000_000_000 };
    let settings = Settings { protocol, ..Settings::default() };
    let mut exporter = Exporter::new(settings, Directory::default(), now);
    while exporter.poll(now).is_some() {}
    let (mut encoded, mut copied) = (Vec::new(), Vec::new());
    let mut wire = vec![0; 2_048];
    for _ in 0..ROUNDS {
        let before = exporter.stats();
        let mut watch = Stopwatch::new();
        watch.time(|| {
            for some in sessions.chunks(AT_ONCE) {
                some.iter().for_each(|record| exporter.add(record, now));
                while let Some(message) = exporter.poll(now) {
                    black_box(message);
                }
            }
            exporter.flush();
            while let Some(message) = exporter.poll(now) {
                black_box(message);
            }
        });
        let stats = exporter.stats();
        assert_eq!(stats.lost_records, 0);
        let records = (stats.records - before.records) as f64;
        assert_eq!(records, 2.0 * SESSIONS as f64);
        encoded.push(watch.nanos() / records);
        let length = (stats.octets - before.octets) as usize / (stats.messages - before.messages) as usize;
        let message = vec![7; length];
        let mut watch = Stopwatch::new();
        watch.time(|| {
            for _ in before.messages..stats.messages {
                wire[..length].copy_from_slice(black_box(&message));
                black_box(&wire);
            }
        });
        copied.push(watch.nanos() / records);
    }
    let (ns, copy_ns) = (median(encoded), median(copied));
    let per_second = (1e9 / ns).round();
    println!("{name:44} {ns:>6.0} ns a record, {per_second:.0} a second; copying the bytes {copy_ns:.0} ns");
    if protocol == ExportProtocol::Ipfix {
        write_figure("encode_records_per_s", per_second.into());
    }
    json!({ "name": name, "ns_per_record": ns, "records_per_s": per_second, "copy_ns_per_record": copy_ns })
}

/// Puts a figure into the place of its like; the file has those of others too.
pub fn write_figure(name: &str, value: Value) {
    const FILE: &str = "target/bench/flows.json";
    let before = std::fs::read(FILE).ok();
    let mut figures: Map<String, Value> =
        before.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    figures.insert(name.to_owned(), value);
    std::fs::create_dir_all("target/bench").expect("target/bench can be made");
    let json = serde_json::to_string_pretty(&figures).expect("figures are JSON");
    std::fs::write(FILE, json + "\n").expect("target/bench can be written");
}

/// Translated, as most are, with answers.
fn sessions() -> Vec<FlowRecord> {
    let mut rng = StdRng::seed_from_u64(11);
    let session = |number| {
        let tenant = TenantId(rng.random_range(0..50));
        let host = IpAddr::from(Ipv4Addr::from(0x0a01_0000 + rng.random_range(0..4_000)));
        let server = (IpAddr::from(Ipv4Addr::from(rng.random::<u32>())), 443);
        let pool = (IpAddr::from(Ipv4Addr::new(198, 51, 100, rng.random())), rng.random());
        let direction = |arrived_on, left_on| DirectionRecord {
            packets: 12,
            bytes: 8_000,
            first_unix_millis: 1_795_341_500_000,
            last_unix_millis: 1_795_341_501_000,
            tcp_flags: 0x1b,
            arrived_on,
            left_on,
        };
        FlowRecord {
            session: number,
            tenant,
            key: FlowKey::new(Zone::tenant(tenant), Protocol::TCP, (host, rng.random()), server),
            reply_key: FlowKey::new(Zone::INTERNET, Protocol::TCP, server, pool),
            initiator: End::Site(SiteId(1)),
            responder: End::Handoff(HandoffId(1)),
            class: ClassId(1),
            class_by: ClassBy::Rule,
            name: None,
            rule: RuleId(3),
            dscp: 0,
            generation: 1,
            directions: [direction(Some(PathId(1)), None), direction(None, Some(PathId(1)))],
            end_reason: EndReason::EndOfFlow,
            story: None,
        }
    };
    (0..SESSIONS as u64).map(session).collect()
}
