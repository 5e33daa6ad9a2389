//! A million sessions, accounted for: what the worker passed on, what records say, what is exported and what is kept are the
//! same, of each tenant, to the byte.

use crate::crowd::crowded;
use crate::net::Sim;
use crate::packets::udp;
use netflow_parser::variable_versions::ipfix::FlowSetBody;
use netflow_parser::{FieldValue, NetflowPacket, NetflowParser};
use popgate::export::{Directory, Exporter, Settings};
use popgate::io::flow_keeping::{Texts, row};
use popgate::model::DeviceId;
use popgate::pipeline::describe_record;
use popgate::store::flows::{Flows, Limits, LocalDisk};
use popgate::store::query::{self, History, Question};
use popgate::store::report::{Cell, FlowQuestion, FlowRange};
use popgate::wire::{Ingress, Outbound};
use std::collections::BTreeMap;
use std::time::Duration;
use tempfile::TempDir;

const EACH: u32 = 500_000;
const TOGETHER: u32 = 64;

/// Packets and bytes.
type Counts = (u64, u64);

fn add(counts: &mut Counts, packets: u64, bytes: u64) {
    counts.0 += packets;
    counts.1 += bytes;
}

/// A packet of each of a tenant's sessions to the internet, of differing sizes, and an answer to each third. What was sent.
fn talk(sim: &mut Sim, device: DeviceId, to: &str) -> Counts {
    let internet = sim.device("fra1", "internet");
    let mut sent = Counts::default();
    let mut numbers = 0..EACH;
    while !numbers.is_empty() {
        let packet = |n: u32| {
            let from = format!("10.200.{}.7:{}", n / 50_000, 1_024 + n % 50_000);
            (Ingress::Device(device), udp(&from, to, &vec![7; n as usize % 90]).bytes())
        };
        let together: Vec<_> = numbers.by_ref().take(TOGETHER as usize).map(packet).collect();
        together.iter().for_each(|(_, packet)| add(&mut sent, 1, packet.len() as u64));
        let now = sim.now;
        let mut out = Outbound::default();
        sim.node("fra1").plane.process_together(&together, now, &mut out);
        let answers: Vec<_> = out
            .packets()
            .flat_map(|packet| packet.pieces().map(<[u8]>::to_vec).collect::<Vec<_>>())
            .enumerate()
            .filter(|(n, _)| n % 3 == 0)
            .map(|(_, packet)| {
                let parsed = popgate::wire::parse(&packet).expect("sound");
                let port = u16::from_be_bytes([packet[20], packet[21]]);
                let asked = format!("{}:{port}", parsed.source(&packet));
                (Ingress::Device(internet), udp(to, &asked, &vec![9; 300]).bytes())
            })
            .collect();
        answers.iter().for_each(|(_, packet)| add(&mut sent, 1, packet.len() as u64));
        let mut out = Outbound::default();
        sim.node("fra1").plane.process_together(&answers, now, &mut out);
        let arrived: u64 = out.packets().map(|packet| packet.count()).sum();
        assert_eq!(arrived, answers.len() as u64, "each answer arrives");
    }
    sent
}

/// Packets and bytes of all flow records in what a collector is sent.
fn collected(exporter: &mut Exporter, parser: &mut NetflowParser, now: popgate::model::Now) -> Counts {
    let mut counts = Counts::default();
    while let Some(message) = exporter.poll(now) {
        let parsed = parser.parse_bytes(message);
        assert!(parsed.error.is_none(), "{:?}", parsed.error);
        for packet in parsed.packets {
            let NetflowPacket::IPFix(message) = packet else { panic!("{packet:?}") };
            for set in message.flowsets {
                let FlowSetBody::Data(data) = set.body else { continue };
                for flow in data.fields {
                    let find = |wanted: &str| {
                        let mut found = flow.iter().filter(|(name, _)| format!("{name:?}").contains(wanted));
                        let value: &FieldValue = found.next().map(|(_, value)| value).expect("a count");
                        u64::try_from(value).expect("a number")
                    };
                    add(&mut counts, find("PacketDeltaCount"), find("OctetDeltaCount"));
                }
            }
        }
    }
    counts
}

struct Kept(Flows);

impl History for Kept {
    fn parts(
        &self,
        tenant: Option<&str>,
        from: u64,
        until: u64,
        want: popgate::store::flows::Want,
    ) -> Vec<popgate::store::flows::Part> {
        self.0.parts(tenant, from, until, want).expect("read")
    }

    fn complete_from(&self, tenant: Option<&str>, want: popgate::store::flows::Want) -> u64 {
        self.0.complete_from(tenant, want)
    }
}

#[test]
fn a_million_sessions_are_the_same_to_the_worker_the_collector_and_the_history() {
    let mut sim = crowded();
    let before = sim.node("fra1").taken_in();
    let server = "203.0.113.80:53";
    let sent: BTreeMap<&str, Counts> = ["acme", "globex"]
        .map(|tenant| {
            let name = if tenant == "acme" { "dc" } else { "globex/dc" };
            let device = sim.device("fra1", name);
            (tenant, talk(&mut sim, device, server))
        })
        .into();
    let now = sim.now;
    let node = sim.node("fra1");
    assert_eq!(node.taken_in() - before, sent.values().map(|counts| counts.0).sum::<u64>());

    node.plane.end_all(now);
    let records = node.plane.take_records();
    assert_eq!(records.len(), 2 * EACH as usize);
    let dir = TempDir::new().expect("a directory");
    let day = Duration::from_secs(86_400);
    let limits = Limits { keep: day, keep_rollups: day, tenant_bytes: u64::MAX, is_copied: false };
    let millis = now.unix_nanos / 1_000_000;
    let mut kept = Kept(Flows::open(dir.path().to_owned(), limits, Box::new(LocalDisk), millis));
    let new = || (Exporter::new(Settings::default(), Directory::default(), now), NetflowParser::default());
    let mut exporters: BTreeMap<String, _> = BTreeMap::new();
    let (mut recorded, mut exported) = (BTreeMap::new(), BTreeMap::<String, Counts>::new());
    for record in &records {
        let flow = describe_record(record, node.generation());
        for direction in &record.directions {
            add(recorded.entry(flow.tenant.clone()).or_default(), direction.packets, direction.bytes);
        }
        assert!(kept.0.take(&row(&flow, &Texts::of(&flow)), millis));
        if let Some(job) = kept.0.work(millis) {
            kept.0.done(job.run(), millis);
        }
        let (exporter, parser) = exporters.entry(flow.tenant.clone()).or_insert_with(new);
        exporter.add(record, now);
        let counts = collected(exporter, parser, now);
        add(exported.entry(flow.tenant).or_default(), counts.0, counts.1);
    }
    for (tenant, (exporter, parser)) in &mut exporters {
        exporter.flush();
        let counts = collected(exporter, parser, now);
        add(exported.entry(tenant.clone()).or_default(), counts.0, counts.1);
    }
    let sent: BTreeMap<String, Counts> =
        sent.into_iter().map(|(tenant, counts)| (tenant.to_owned(), counts)).collect();
    assert_eq!(recorded, sent);
    assert_eq!(exported, sent);

    // From rows, and from what sums them up; from memory and from files.
    for filter in ["", "sport > 0"] {
        let question = FlowQuestion {
            filter: filter.to_owned(),
            range: FlowRange::Between {
                from_unix_ms: 0,
                until_unix_ms: (millis / 3_600_000 + 1) * 3_600_000,
            },
            by: vec!["tenant".to_owned()],
            sums: ["packets", "bytes", "flows"].map(str::to_owned).to_vec(),
            ..FlowQuestion::default()
        };
        let question = Question::read(&question, millis).expect("a question");
        let limits = query::Limits { threads: 2, most_groups: 10, expired: &|| false };
        let answer = query::answer(&question, &kept, &limits).expect("answered");
        let stored: BTreeMap<String, Counts> = answer
            .rows
            .iter()
            .map(|row| match row.as_slice() {
                [Cell::Text(tenant), Cell::Number(packets), Cell::Number(bytes), Cell::Number(flows)] => {
                    assert_eq!(*flows, u64::from(EACH));
                    (tenant.clone(), (*packets, *bytes))
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(stored, sent, "{filter:?}");
    }
}
