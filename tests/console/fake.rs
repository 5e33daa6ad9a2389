//! A PoP that is not there: two workers whose paths, sessions and drops are a function of time and a number, so that
//! they look and move like real ones and are the same in every run.

use crate::changes::Changes;
use popgate::config::{AclAction, Outcome};
use popgate::control::captures::{CaptureAsked, CapturePort, CaptureRefusal, CaptureRow};
use popgate::control::updates::{
    IncomingUpdate, LastUpdate, SlotRow, UpdateOutcome, UpdatePort, UpdateRefusal, UpdateState, UpdateTerms,
};
use popgate::control::{Control, FlowsPort, LedgerPort, RecentFlows, SiteFacts, WorkerGone, WorkerPort};
use popgate::export::ExportStats;
use popgate::export::report::ExporterReport;
use popgate::model::{AskedFlow, AskedPort};
use popgate::pipeline::report::{
    Answer, DecisionRow, DirectionReport, DropRow, Dropped, DroppedFor, Explanation, FlowFilter, FlowReport,
    MoveBy, MoveRow, NatBlockRow, NatPoolRow, PathHistory, PathName, PathReport, PathSample, PathState,
    PathStep, Query, QueueRow, RuleRow, SessionPage, SessionReport, SlaRow, Step, StepKind, StoryReport,
    StreamReport, TenantRow, Totals, TraceAsked, Traced,
};
use popgate::store::query::{self, Question, Show, Summing};
use popgate::store::report::{
    self, Cell, FlowAnswer, FlowColumn, FlowHistoryState, FlowProblem, FlowQuestion, FlowSeries, FlowsBefore,
    Held, Holding, LedgerState, ObjectStoreState, WhoHad,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Workers, so that answers must be merged.
const WORKERS: u64 = 2;

/// Sessions a second.
const BIRTHS: f64 = 14.0;

/// No session lasts longer, in seconds.
const LONGEST: f64 = 1_500.0;

/// How long the PoP is said to have run when the test begins, in seconds.
const HEAD_START: f64 = 190_000.0;

/// A session the tests look for: it is always there, on worker 1.
pub(crate) const KNOWN_SESSION: &str = "10.1.0.77:50123";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Everything is as it should be.
    Calm,
    /// Paths are down, lossy, and a pool is running dry.
    Troubled,
}

#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn secs(self) -> f64 {
        HEAD_START + self.0.elapsed().as_secs_f64()
    }
}

/// The PoP's control, as `main` would make it of real workers.
pub(crate) fn control(mood: Mood) -> Arc<Control> {
    let clock = Clock(Instant::now());
    let worker = |number| Box::new(Worker { number, mood, clock }) as Box<dyn WorkerPort>;
    let flows = Arc::new(RecentFlows::default());
    let now = unix_ms();
    // What ended in the last ten minutes, then whatever ends from now on.
    let ended = record_ends(&flows, clock.secs() - 600.0, clock.secs(), now, clock.secs());
    keep_recording(Arc::downgrade(&flows), clock, ended);
    let site = SiteFacts {
        site: "fra1".into(),
        role: "pop".into(),
        metro: Some("fra".into()),
        facility: Some("Equinix FR5".into()),
        version: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms: now - (HEAD_START * 1_000.0) as u64,
        workers: WORKERS as usize,
    };
    let control = Control::new(site, (0..WORKERS).map(worker).collect(), flows, unix_ms);
    let control = control.exporting(move || exporters(mood, clock.secs()));
    Arc::new(
        control
            .with_commits(Changes::new(unix_ms))
            .explained_by(explanation)
            .with_ledger(Ledger)
            .with_history(History)
            .with_captures(Tapes::default())
            .with_updates(Slots::default()),
    )
}

/// Captures that are over as soon as they have begun, with a packet each.
#[derive(Default)]
struct Tapes(Mutex<(u64, Vec<CaptureRow>)>);

impl CapturePort for Tapes {
    fn begin(&self, asked: CaptureAsked) -> Result<CaptureRow, CaptureRefusal> {
        if !["acme", "globex", "initech"].contains(&asked.tenant.as_str()) {
            return Err(CaptureRefusal::NoTenant(asked.tenant));
        }
        let mut tapes = self.0.lock().expect("nobody panics with it");
        tapes.0 += 1;
        let row = CaptureRow {
            capture: tapes.0,
            asked: CaptureAsked {
                packets: asked.packets.or(Some(1_000)),
                seconds: asked.seconds.or(Some(60)),
                snap_length: asked.snap_length.or(Some(2_048)),
                ..asked
            },
            began_unix_ms: unix_ms(),
            is_running: false,
            captured_packets: 1,
            captured_bytes: 84,
            lost_packets: 0,
        };
        tapes.1.insert(0, row.clone());
        Ok(row)
    }

    fn list(&self) -> Vec<CaptureRow> {
        self.0.lock().expect("nobody panics with it").1.clone()
    }

    fn file(&self, capture: u64) -> Option<(CaptureRow, Vec<u8>)> {
        let row = self.list().into_iter().find(|row| row.capture == capture)?;
        Some((row, b"\n\r\r\n".to_vec()))
    }

    fn forget(&self, capture: u64) -> bool {
        let mut tapes = self.0.lock().expect("nobody panics with it");
        let before = tapes.1.len();
        tapes.1.retain(|row| row.capture != capture);
        tapes.1.len() < before
    }
}

/// A box whose slots are words: an update is its version, and one that is called older than what runs is.
#[derive(Default)]
struct Slots(Arc<Mutex<Option<String>>>);

const RUNS: &str = "0.1.0+20261128215258.gcdc271cb1";

impl UpdatePort for Slots {
    fn state(&self) -> UpdateState {
        let other = self.0.lock().expect("nobody panics with it").clone();
        let outcome = if other.is_some() { UpdateOutcome::Installed } else { UpdateOutcome::Kept };
        let row = |slot: &str, version: Option<String>, runs| SlotRow { slot: slot.into(), version, runs };
        UpdateState {
            refuses: None,
            version: RUNS.into(),
            slots: vec![row("a", Some(RUNS.into()), true), row("b", other.clone(), false)],
            on_trial: false,
            under_way: false,
            last: Some(LastUpdate {
                outcome,
                version: other.or(Some(RUNS.into())),
                detail: None,
                unix_ms: Some(unix_ms() - 60_000),
            }),
        }
    }

    fn begin(&self, terms: UpdateTerms) -> Result<Box<dyn IncomingUpdate>, UpdateRefusal> {
        Ok(Box::new(Parcel { terms, text: Vec::new(), to: Arc::clone(&self.0) }))
    }
}

struct Parcel {
    terms: UpdateTerms,
    text: Vec<u8>,
    to: Arc<Mutex<Option<String>>>,
}

impl IncomingUpdate for Parcel {
    fn write(&mut self, bytes: &[u8]) -> Result<(), UpdateRefusal> {
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<String, UpdateRefusal> {
        let version = String::from_utf8_lossy(&self.text).into_owned();
        if !version.starts_with("0.") {
            return Err(UpdateRefusal::Wrong("it is signed by none of the keys that this box trusts".into()));
        }
        if version.as_str() < RUNS && !self.terms.force_downgrade {
            return Err(UpdateRefusal::Wrong(format!("{version} is older than {RUNS}")));
        }
        *self.to.lock().expect("nobody panics with it") = Some(version.clone());
        Ok(version)
    }
}

/// Two collectors, one of which is away if there is trouble.
fn exporters(mood: Mood, at: f64) -> Vec<ExporterReport> {
    let report = |collector: &str, port: u16, protocol: &str, transport: &str| ExporterReport {
        collector: collector.into(),
        address: (Ipv4Addr::new(192, 0, 2, 50), port).into(),
        protocol: protocol.into(),
        transport: transport.into(),
        connected: true,
        connections: 1,
        failures: 0,
        failing_since_unix_ms: None,
        problem: None,
        retry_unix_ms: None,
        waiting: 0,
        stats: ExportStats {
            messages: (at * 3.1) as u64,
            octets: (at * 3_900.0) as u64,
            records: (at * 27.0) as u64,
            ..ExportStats::default()
        },
    };
    let (noc, mut siem) = (report("noc", 4_739, "ipfix", "tls"), report("siem", 2_055, "netflow-v9", "udp"));
    if mood == Mood::Troubled {
        siem.connected = false;
        siem.failures = 41;
        siem.failing_since_unix_ms = Some(unix_ms() - 1_300_000);
        siem.problem = Some("Connection refused (os error 111)".into());
        siem.retry_unix_ms = Some(unix_ms() + 17_000);
        siem.waiting = 2_048;
        siem.stats.lost_records = (at - HEAD_START) as u64 * 27 + 35_100;
    }
    vec![noc, siem]
}

/// A NAT ledger in which one host had everything, a minute before and after what is asked about.
struct Ledger;

impl LedgerPort for Ledger {
    fn who_had(&self, asked: &AskedPort) -> std::io::Result<WhoHad> {
        let now = unix_ms();
        let (from, until) = asked.at.map_or((now, now + 1), |at| (at.from_unix_ms, at.until_unix_ms));
        let held = Held {
            tenant: "acme".into(),
            branch: Some("berlin".into()),
            inside: Some(IpAddr::from([10, 1, 0, 77])),
            inside_port: Some(50_123),
            protocol: Some("udp".into()),
            first_port: asked.port,
            last_port: asked.port,
            began_unix_ms: from - 60_000,
            began_unsure: false,
            ended_unix_ms: Some(from + 60_000),
            ended_unsure: false,
        };
        Ok(WhoHad {
            address: asked.address,
            port: asked.port,
            protocol: asked.protocol.map(|protocol| protocol.to_string()),
            from_unix_ms: from,
            until_unix_ms: until,
            answer: report::Answer::Held,
            holdings: vec![held],
            gaps: Vec::new(),
            known_from_unix_ms: Some(0),
        })
    }

    fn state(&self) -> LedgerState {
        LedgerState::default()
    }
}

/// A flow history in which everything is as its place in the answer says. What is no question is refused as by a real one.
struct History;

impl FlowsPort for History {
    fn state(&self) -> FlowHistoryState {
        FlowHistoryState {
            known_from_unix_ms: Some(unix_ms() - 86_400_000),
            bytes: 1_234_567,
            files: 9,
            object_store: Some(ObjectStoreState {
                failing_since_unix_ms: Some(unix_ms() - 4_000_000),
                problem: Some("s3.example.net: status 403, AccessDenied, Access Denied".into()),
                waiting_files: 3,
                waiting_bytes: 345_678,
                sent_files: 6,
                sent_bytes: 888_889,
                lost_files: 2,
                ..ObjectStoreState::default()
            }),
            ..FlowHistoryState::default()
        }
    }

    fn ask(&self, question: &FlowQuestion) -> Result<FlowAnswer, FlowProblem> {
        let Question { filter, time, show } = Question::read(question, unix_ms())?;
        let column = |name: &str, holds| FlowColumn { name: name.to_owned(), holds };
        let begins = unix_ms() - 86_400_000;
        let mut answer = FlowAnswer {
            from_unix_ms: time.start,
            until_unix_ms: time.end,
            incomplete_before_unix_ms: (time.start < begins).then_some(begins),
            filter: filter.to_string(),
            ..FlowAnswer::default()
        };
        let Show::Sums(Summing { by, sums, top, step, .. }) = show else {
            let text = ["tenant", "protocol", "source", "destination", "class", "rule", "forward_path"];
            answer.columns = vec![column("start", Holding::Time), column("end", Holding::Time)];
            answer.columns.extend(text.map(|name| column(name, Holding::Text)));
            answer.columns.push(column("forward_bytes", Holding::Number));
            answer.rows = (0..100u64)
                .map(|at| {
                    let ended = time.end - at * 7_013 - 60_000;
                    let texts = text.map(|name| Cell::Text(named(name, at)));
                    let times = [Cell::Number(ended - at * 311), Cell::Number(ended)];
                    times.into_iter().chain(texts).chain([Cell::Number(amount("bytes", at))]).collect()
                })
                .collect();
            answer.cursor = Some("1-1".to_owned());
            return Ok(answer);
        };
        answer.columns = by.iter().map(|field| column(field.name(), Holding::Text)).collect();
        answer.columns.extend(sums.iter().map(|sum| column(sum.name(), Holding::Number)));
        let count = top.min(40) as u64;
        let row = |at: u64| -> Vec<u64> { sums.iter().map(|sum| amount(sum.name(), at)).collect() };
        answer.rows = (0..count)
            .map(|at| {
                let names = by.iter().map(|field| Cell::Text(named(field.name(), at)));
                names.chain(row(at).into_iter().map(Cell::Number)).collect()
            })
            .collect();
        answer.groups = 1_234;
        answer.total = row(0).into_iter().map(|sum| sum * 5).collect();
        answer.before = Some(FlowsBefore {
            from_unix_ms: 2 * time.start - time.end,
            until_unix_ms: time.start,
            total: answer.total.iter().map(|sum| sum * 9 / 10).collect(),
            rows: (0..count).map(|at| row(at + at % 3)).collect(),
        });
        answer.series = step.map(|step_ms| {
            let steps = (time.end - time.start).div_ceil(step_ms);
            let wave = |at: u64| (4.0e8 * (2.0 + (at as f64 / 9.0).sin())) as u64 + at * at % 97 * 1_000_000;
            let lines = |shift: u64| vec![(0..steps).map(|at| wave(at + shift)).collect()];
            FlowSeries {
                of: sums[0].name().to_owned(),
                step_ms,
                from_unix_ms: time.start / step_ms * step_ms,
                lines: lines(0),
                before: Some(lines(14)),
            }
        });
        Ok(answer)
    }

    fn parquet(&self, answer: &FlowAnswer) -> Result<Vec<u8>, FlowProblem> {
        query::parquet(answer).map_err(|error| FlowProblem::answering(error.to_string()))
    }
}

/// What stands at a place of a column.
fn named(column: &str, at: u64) -> String {
    let of = |names: &[&str]| names[at as usize % names.len()].to_owned();
    match column {
        "source" => format!("10.1.{}.{}", at % 3, 5 + at * 7 % 200),
        "destination" => format!("203.0.113.{}", 9 + at * 11 % 200),
        "class" => of(&["voice", "meetings", "erp", "bulk", "default"]),
        "protocol" => of(&["tcp", "udp"]),
        "rule" => of(&["web-out", "voice-out", "any"]),
        "forward_path" => of(&["berlin/dsl", "berlin/lte", "lyon/mpls"]),
        _ => of(&["acme", "globex"]),
    }
}

fn amount(sum: &str, at: u64) -> u64 {
    let scale = match sum {
        "flows" => 40_000,
        "packets" | "forward_packets" | "reverse_packets" => 90_000_000,
        _ => 81_000_000_000,
    };
    scale / (at + 1) / (1 + at % 2)
}

/// What a real box says has this shape.
pub(crate) fn explanation(tenant: &str, asked: &AskedFlow) -> Result<Explanation, String> {
    if !RULES.iter().any(|(of, ..)| *of == tenant) {
        return Err(format!("there is no tenant {tenant:?}"));
    }
    let step = |kind, text: String, line: usize, fits| Step {
        kind,
        text,
        at: (line > 0).then(|| format!("tenants/{tenant}.toml:{line}")),
        fits,
    };
    let port = asked.destination_port();
    Ok(Explanation {
        outcome: Outcome::Accept,
        class: Some("default".into()),
        rule: Some("web-out".into()),
        handoff: Some("internet".into()),
        nat: vec!["198.51.100.0/29".into()],
        paths: ["dsl", "mpls"]
            .map(|path| PathStep { site: "berlin".into(), path: path.into(), live: None })
            .into(),
        steps: vec![
            step(StepKind::Source, format!("{} belongs to branch:berlin", asked.from.address), 8, true),
            step(
                StepKind::Destination,
                format!("{} belongs to handoff:internet", asked.to.address),
                31,
                true,
            ),
            step(StepKind::Class, "class default: no app class fits".into(), 0, true),
            step(StepKind::Rule, format!("no-smb-out does not fit: tcp 49152 to {port}"), 40, false),
            step(StepKind::Rule, "web-out fits: accept".into(), 53, true),
            step(StepKind::Nat, "the source becomes an address of 198.51.100.0/29".into(), 31, true),
            step(StepKind::Path, "answers take the path it came by".into(), 90, true),
        ],
        ..Explanation::default()
    })
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

struct Worker {
    number: u64,
    mood: Mood,
    clock: Clock,
}

impl WorkerPort for Worker {
    fn ask(&self, query: Query, reply: Box<dyn FnOnce(Answer) + Send>) -> Result<(), WorkerGone> {
        let at = self.clock.secs();
        reply(match query {
            Query::Totals => Answer::Totals(self.totals(at)),
            Query::Paths => Answer::Paths(self.paths(at)),
            Query::Sessions { filter, limit } => Answer::Sessions(self.sessions(at, &filter, limit)),
            Query::Trace(asked) => Answer::Trace(self.traced(at, &asked)),
            Query::Drops => Answer::Drops(self.drops(at)),
            Query::Measurements { .. } => Answer::Measurements(Vec::new()),
            Query::Decisions { .. } => Answer::Decisions(self.decisions()),
            Query::History(asked) => Answer::History(self.history(at, &asked)),
            Query::Queues { .. } => Answer::Queues(self.queues(at)),
            Query::Rules { tenant } => Answer::Rules(rules(at, tenant.as_deref())),
            Query::Canaries { .. } => Answer::Canaries(Vec::new()),
            Query::Clear(_) => Answer::Cleared(1),
            Query::NatBlocks { tenant } => Answer::NatBlocks(nat_blocks(self.number, tenant.as_deref())),
            Query::Tenants => Answer::Tenants(self.tenants(at)),
        });
        Ok(())
    }
}

/// Tenant, site, path, transport, Mbit/s, RTT in ms: a stock client, which answers no probes, has none.
type FakePath = (&'static str, &'static str, &'static str, &'static str, f64, Option<f64>);

/// Tenant, rule, what it does, its line, sessions a second: one that never decided has none.
const RULES: [(&str, &str, AclAction, usize, f64); 7] = [
    ("acme", "no-smb-out", AclAction::Drop, 40, 1.3),
    ("acme", "voice", AclAction::Accept, 46, 0.4),
    ("acme", "web-out", AclAction::Accept, 53, 6.1),
    ("acme", "old-erp", AclAction::Accept, 61, 0.0),
    ("globex", "no-ads", AclAction::Reject, 22, 0.12),
    ("globex", "all-out", AclAction::Accept, 29, 4.7),
    ("initech", "all-out", AclAction::Accept, 18, 2.2),
];

/// Acme's branches have a few each, all of one worker.
fn nat_blocks(number: u64, tenant: Option<&str>) -> Vec<NatBlockRow> {
    let block = |(branch, address, first_port): (&str, u8, u16)| NatBlockRow {
        tenant: "acme".into(),
        handoff: "internet".into(),
        branch: Some(branch.into()),
        address: Ipv4Addr::new(198, 51, 100, address).into(),
        first_port,
        last_port: first_port + 511,
    };
    let all = [("berlin", 7, 39_936), ("berlin", 7, 40_448), ("lyon", 3, 1_024)];
    let wanted = tenant.is_none_or(|tenant| tenant == "acme") && number == 0;
    all.into_iter().filter(|_| wanted).map(block).collect()
}

fn rules(at: f64, tenant: Option<&str>) -> Vec<RuleRow> {
    let wanted = RULES.into_iter().filter(|(of, ..)| tenant.is_none_or(|tenant| tenant == *of));
    let row = |(tenant, rule, action, line, rate): (&str, &str, AclAction, usize, f64)| {
        let happened = (at * rate) as u64;
        let accepted = if action == AclAction::Accept { happened } else { 0 };
        RuleRow {
            tenant: tenant.into(),
            rule: rule.into(),
            action,
            at: format!("tenants/{tenant}.toml:{line}"),
            sessions: accepted,
            packets: accepted * 210,
            bytes: accepted * 145_000,
            dropped_packets: happened - accepted,
            unlogged: 0,
        }
    };
    wanted.map(row).collect()
}

const PATHS: [FakePath; 11] = [
    ("acme", "berlin", "dsl", "isp-a", 38.0, Some(14.2)),
    ("acme", "berlin", "mpls", "mpls", 61.0, Some(9.1)),
    ("acme", "lyon", "fibre", "isp-a", 212.0, Some(11.7)),
    ("acme", "warsaw", "fibre", "isp-b", 87.0, Some(19.8)),
    ("acme", "warsaw", "lte", "isp-b", 0.02, Some(46.3)),
    ("globex", "bergen", "fibre", "isp-a", 140.0, Some(27.4)),
    ("globex", "bergen", "leo", "isp-b", 22.0, Some(38.9)),
    ("globex", "oslo", "wan", "isp-a", 9.4, None),
    ("initech", "porto", "dsl", "isp-b", 4.1, Some(33.0)),
    ("initech", "braga", "dsl", "isp-b", 6.6, Some(35.2)),
    ("initech", "braga", "lte", "isp-a", 0.01, Some(58.8)),
];

impl Worker {
    fn totals(&self, at: f64) -> Totals {
        let paths = self.paths(at);
        let bytes = paths.iter().map(|path| path.received_bytes + path.sent_bytes).sum::<u64>() / 2;
        Totals {
            generation: 17,
            sessions: alive(at).filter(|k| k % WORKERS == self.number).count() as u64,
            max_sessions: 500_000,
            sessions_created: (at * BIRTHS) as u64 / WORKERS,
            paths: paths.len() as u64,
            paths_up: paths.iter().filter(|path| path.state == PathState::Up).count() as u64,
            forwarded_packets: bytes / 640,
            forwarded_bytes: bytes,
            dropped_packets: self.drops(at).iter().map(|row| row.packets).sum(),
            records_lost: 0,
            not_inspected: 0,
            returns_overridden: 0,
            ledger_lost: 0,
        }
    }

    fn paths(&self, at: f64) -> Vec<PathReport> {
        let mine = |(index, _): &(usize, _)| *index as u64 % WORKERS == self.number;
        PATHS.iter().enumerate().filter(mine).map(|(index, path)| self.path(index, path, at)).collect()
    }

    fn path(
        &self,
        index: usize,
        (tenant, site, path, transport, mbits, rtt): &FakePath,
        at: f64,
    ) -> PathReport {
        let troubled = self.mood == Mood::Troubled;
        let down = troubled && matches!((*site, *path), ("berlin", "dsl") | ("porto", "dsl"));
        let lossy = troubled && *path == "leo";
        let wave = (at / 3.1 + index as f64).sin();
        // The integral of a rate that swings by a third, so that what is counted never falls.
        let secs = if down { HEAD_START - 40.0 } else { at };
        let swing = |period: f64| secs + 0.33 * period * ((secs + index as f64 * 7.0) / period).sin();
        let bytes = |share: f64, period: f64| (share * mbits * 125_000.0 * swing(period)) as u64;
        let (received, sent) = (bytes(0.3, 9.0), bytes(0.7, 13.0));
        let quality = |value: f64| rtt.filter(|_| !down).map(|_| value);
        PathReport {
            tenant: (*tenant).into(),
            site: (*site).into(),
            path: (*path).into(),
            transport: Some((*transport).into()),
            state: if down { PathState::Down } else { PathState::Up },
            public_key: Some(format!("{:A<42}x=", format!("{tenant}{site}{path}"))),
            endpoint: format!("203.0.113.{}:{}", 10 + index * 7, 51_820 + index).parse().ok(),
            last_handshake_secs: Some(if down {
                173 + at as u64 - HEAD_START as u64
            } else {
                (at as u64 + index as u64 * 11) % 120
            }),
            probed: rtt.is_some(),
            rtt_ms: quality(rtt.unwrap_or_default() * (1.0 + 0.04 * wave)),
            jitter_ms: quality(rtt.unwrap_or_default() * 0.03 * (1.4 + wave)),
            loss: rtt.map(|_| {
                if down {
                    1.0
                } else if lossy {
                    0.04
                } else {
                    0.0
                }
            }),
            outbound: rtt.filter(|_| !down).map(|rtt| direction(rtt, if lossy { 0.06 } else { 0.0 })),
            inbound: rtt.filter(|_| !down).map(|rtt| direction(rtt, 0.0)),
            // Its underlay lets calls go first.
            streams: rtt.filter(|_| *path == "dsl").map_or_else(Vec::new, |rtt| {
                let way = (!down).then(|| direction(rtt * 0.7, 0.0));
                let rtt_ms = quality(rtt * 0.7);
                vec![StreamReport { dscp: "ef".into(), rtt_ms, outbound: way, inbound: way }]
            }),
            received_packets: received / 410,
            received_bytes: received,
            sent_packets: sent / 900,
            sent_bytes: sent,
            duplicated_packets: 0,
            duplicate_packets: 0,
        }
    }

    /// A path that was down for two minutes, and whose latency swings, to beyond what its calls bear if there is trouble.
    fn history(&self, at: f64, asked: &PathName) -> Option<PathHistory> {
        let of = |path: &&FakePath| (path.0, path.1, path.2) == (&*asked.tenant, &*asked.site, &*asked.path);
        let rtt = PATHS.iter().find(of)?.5?;
        let sample = |n: u64| {
            let is_up = !(70..78).contains(&n);
            let worse = if self.mood == Mood::Troubled && n > 100 { 180.0 } else { 0.0 };
            let wave = ((at + n as f64) / 9.0).sin();
            let way = |rtt: f64, loss| is_up.then(|| direction(rtt * (1.0 + 0.2 * wave), loss));
            PathSample {
                unix_ms: unix_ms() - (119 - n) * 15_000,
                state: if is_up { PathState::Up } else { PathState::Down },
                outbound: way(rtt + worse, if n.is_multiple_of(40) { 0.03 } else { 0.0 }),
                inbound: way(rtt, 0.0),
            }
        };
        let call = SlaRow {
            sla: "call".into(),
            classes: vec!["meetings".into()],
            stream: None,
            max_loss: Some(0.01),
            max_latency_ms: Some(150.0),
            max_jitter_ms: Some(30.0),
            min_mos: Some(3.6),
            is_broken: self.mood == Mood::Troubled,
        };
        let voice = SlaRow {
            classes: vec!["voice".into()],
            stream: Some("ef".into()),
            is_broken: false,
            ..call.clone()
        };
        Some(PathHistory { samples: (0..120).map(sample).collect(), slas: vec![call, voice] })
    }

    /// Of one path whose bandwidth is limited.
    fn queues(&self, at: f64) -> Vec<QueueRow> {
        if self.number > 0 {
            return Vec::new();
        }
        let row = |class: &str, weight, share: f64| QueueRow {
            tenant: "acme".into(),
            site: "berlin".into(),
            path: "dsl".into(),
            class: class.into(),
            weight,
            sent_packets: (at * share * 400.0) as u64,
            sent_bytes: (at * share * 400_000.0) as u64,
            queued_packets: (share * 20.0) as u64,
            queued_bytes: (share * 20_000.0) as u64,
            dropped_packets: (at * share * 0.1) as u64,
            marked_packets: (at * share * 0.05) as u64,
            overflowed_packets: 0,
            delay_p50_ms: Some(share * 4.0),
            delay_p95_ms: Some(share * 9.0),
        };
        vec![row("voice", None, 0.1), row("default", Some(10), 0.9)]
    }

    fn tenants(&self, at: f64) -> Vec<TenantRow> {
        let row = |tenant: &str, max_sessions, share: u64| {
            let sessions = alive(at).filter(|k| k % WORKERS == self.number).count() as u64 / share;
            TenantRow {
                tenant: tenant.into(),
                sessions,
                max_sessions,
                nat_pools: vec![NatPoolRow {
                    handoff: "internet".into(),
                    prefixes: vec!["198.51.100.0/29".into()],
                    first_port: 1_024,
                    last_port: 65_535,
                    block_ports: (tenant == "acme").then_some(512),
                    addresses: 8,
                    ports: 8 * 64_512,
                    leased_ports: sessions.next_multiple_of(64),
                    tcp_bindings: sessions * 7 / 10,
                    udp_bindings: sessions / 4,
                    icmp_bindings: sessions / 20,
                    other_bindings: 0,
                }],
            }
        };
        vec![row("acme", Some(200_000), 2), row("globex", None, 3), row("initech", None, 6)]
    }

    fn decisions(&self) -> Vec<DecisionRow> {
        let row = |ago_secs: u64, from: &str, to: &str, why: &str, detail: &str| DecisionRow {
            unix_ms: unix_ms() - ago_secs * 1_000,
            tenant: "acme".into(),
            site: "berlin".into(),
            class: "voice".into(),
            from: from.into(),
            to: to.into(),
            path: "dsl".into(),
            why: why.into(),
            detail: detail.into(),
            sla: None,
            stream: None,
            measured: None,
            limit: None,
        };
        if self.number > 0 {
            return Vec::new();
        }
        vec![
            row(740, "dsl", "lte", "down", "dsl has not answered for 94 ms"),
            row(600, "lte", "dsl", "recovered", "dsl has recovered"),
        ]
    }

    fn drops(&self, at: f64) -> Vec<DropRow> {
        let row = |tenant: Option<&str>, reason: &str, detail: Option<&str>, packets: f64| DropRow {
            tenant: tenant.map(String::from),
            reason: reason.into(),
            detail: detail.map(String::from),
            packets: packets as u64,
        };
        let recent = at - HEAD_START;
        let mut rows = vec![
            row(None, "not-wireguard", None, at * 0.31),
            row(None, "handshake-mac-invalid", None, at * 0.02),
            row(Some("acme"), "acl-default", None, at * 0.6),
            row(Some("acme"), "acl-dropped", Some("no-smb-out"), at * 1.3),
            row(Some("globex"), "acl-rejected", Some("no-ads"), at * 0.12),
            row(Some("globex"), "tunnel-replayed", None, 12.0),
            row(Some("initech"), "ttl-expired", None, 431.0),
            row(Some("acme"), "no-session", None, at * 0.05),
        ];
        if self.mood == Mood::Troubled {
            rows.push(row(Some("initech"), "no-path", None, 210.0 + recent * 4.0));
            rows.push(row(Some("globex"), "nat-pool-exhausted", Some("internet"), 30.0 + recent * 1.6));
            rows.push(row(Some("globex"), "source-not-allowed", None, 4_000.0));
        }
        rows
    }

    fn traced(&self, at: f64, asked: &TraceAsked) -> Traced {
        let is_asked = |session: &SessionReport| {
            let ends =
                [(session.source, session.source_port), (session.destination, session.destination_port)];
            session.tenant == asked.tenant && ends == asked.ends
        };
        let all = self.sessions(at, &FlowFilter::default(), usize::MAX).sessions;
        Traced { sessions: all.into_iter().filter(is_asked).collect(), denied: Vec::new() }
    }

    fn sessions(&self, at: f64, filter: &FlowFilter, limit: usize) -> SessionPage {
        let mine = alive(at).rev().filter(|k| k % WORKERS == self.number).map(|k| session(k, at));
        let known = (self.number == 1).then(|| known_session(at));
        let mut page = SessionPage::default();
        for session in known.into_iter().chain(mine).filter(|session| matches(filter, session)) {
            page.matching += 1;
            if page.sessions.len() < limit {
                page.sessions.push(session);
            }
        }
        page
    }
}

fn matches(filter: &FlowFilter, s: &SessionReport) -> bool {
    let ends = [(s.source, s.source_port), (s.destination, s.destination_port)];
    let nat = s.nat_source.zip(s.nat_source_port);
    let mut ends = ends.into_iter().chain(nat);
    filter.tenant.as_ref().is_none_or(|tenant| *tenant == s.tenant)
        && filter.class.as_ref().is_none_or(|class| *class == s.class)
        && filter.address.is_none_or(|address| ends.clone().any(|(a, _)| a == address))
        && filter.port.is_none_or(|port| ends.any(|(_, p)| p == port))
}

/// Well mixed bits of a number (splitmix64).
fn mix(k: u64, salt: u64) -> u64 {
    let mut z = (k ^ salt.wrapping_mul(0xa076_1d64_78bd_642f)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Between 0 and 1.
fn chance(k: u64, salt: u64) -> f64 {
    (mix(k, salt) >> 11) as f64 / (1u64 << 53) as f64
}

fn born(k: u64) -> f64 {
    k as f64 / BIRTHS
}

/// Most sessions are short, a few last.
fn lifetime(k: u64) -> f64 {
    LONGEST * chance(k, 1).powi(4) + 0.08
}

fn alive(at: f64) -> impl DoubleEndedIterator<Item = u64> {
    let oldest = ((at - LONGEST) * BIRTHS) as u64;
    (oldest..(at * BIRTHS) as u64).filter(move |k| born(*k) + lifetime(*k) > at)
}

/// Class, protocol, destination port, rule, mean kbit/s towards the initiator.
const KINDS: [(&str, &str, u16, &str, f64); 9] = [
    ("default", "tcp", 443, "web-out", 180.0),
    ("default", "tcp", 443, "web-out", 900.0),
    ("default", "udp", 443, "web-out", 1_400.0),
    ("voice", "udp", 16_384, "voice", 80.0),
    ("meetings", "udp", 3_478, "meetings", 1_800.0),
    ("erp", "tcp", 1_521, "erp-dc", 60.0),
    ("bulk", "tcp", 873, "backup", 9_000.0),
    ("default", "udp", 53, "dns", 2.0),
    ("default", "icmp", 0, "ping", 1.0),
];

fn session(k: u64, at: f64) -> SessionReport {
    let pick = |salt, of: usize| (mix(k, salt) % of as u64) as usize;
    let (tenant, site, path, ..) = PATHS[pick(2, PATHS.len())];
    let (class, protocol, port, rule, kbits) = KINDS[pick(3, KINDS.len())];
    let private = class == "erp";
    let v6 = !private && pick(4, 9) == 0;
    let host = mix(k, 5);
    let (source, destination): (IpAddr, IpAddr) = if v6 {
        let source = Ipv6Addr::new(0x2001, 0xdb8, 1, (host % 40) as u16, 0, 0, 0, (host >> 8) as u16);
        (source.into(), Ipv6Addr::new(0x2a00, 0x1450, 0x4001, (host % 900) as u16, 0, 0, 0, 0x200e).into())
    } else {
        let source = Ipv4Addr::new(10, 1 + (host % 6) as u8, (host >> 8) as u8 % 16, (host >> 16) as u8 | 1);
        let server = if private {
            Ipv4Addr::new(10, 200, 0, 10 + (host >> 24) as u8 % 12)
        } else {
            Ipv4Addr::new(151, 101, (host >> 24) as u8 % 64, (host >> 32) as u8)
        };
        (source.into(), server.into())
    };
    let source_port = if protocol == "icmp" { 1 } else { 32_768 + (host >> 40) as u16 % 28_000 };
    let translated = !v6 && !private;
    let age = (at - born(k)).min(lifetime(k));
    let idle = if pick(6, 3) == 0 { (age * chance(k, 7)).min(90.0) } else { chance(k, 7) * 0.9 };
    let bytes = |share: f64| 120 + (age * kbits * 125.0 * share * (0.3 + chance(k, 8))) as u64;
    let (forward, reverse) = (bytes(0.12), bytes(0.88));
    SessionReport {
        id: k,
        tenant: tenant.into(),
        protocol: protocol.into(),
        source,
        source_port,
        destination,
        destination_port: port,
        nat_source: translated.then(|| Ipv4Addr::new(198, 51, 100, pick(9, 8) as u8).into()),
        nat_source_port: translated.then(|| 1_024 + (host >> 20) as u16 % 60_000),
        nat_destination: None,
        nat_destination_port: None,
        from: format!("branch:{site}"),
        to: if private { "handoff:dc".into() } else { "handoff:internet".into() },
        class: class.into(),
        class_by: if class == "default" { "default".into() } else { "rule".into() },
        app: (port == 443).then(|| "web".into()),
        name: None,
        rule: rule.into(),
        dscp: 0,
        generation: 7,
        forward_path: Some(path.into()),
        reverse_path: Some(if site == "berlin" && class == "bulk" { "mpls".into() } else { path.into() }),
        tcp_state: (protocol == "tcp")
            .then(|| if age < 0.3 { "syn-sent".into() } else { "established".into() }),
        age_secs: age,
        idle_secs: idle,
        forward_packets: forward / 90 + 1,
        forward_bytes: forward,
        reverse_packets: reverse / 1_100 + 1,
        reverse_bytes: reverse,
        story: None,
    }
}

/// It has moved twice, and one of its packets was too large.
fn story() -> StoryReport {
    let moved = |secs_ago: u64, from: &str, to: &str, by, why: &str, detail: &str| MoveRow {
        unix_ms: unix_ms() - 1_000 * secs_ago,
        from: from.into(),
        to: to.into(),
        by,
        why: (!why.is_empty()).then(|| why.into()),
        detail: detail.into(),
        unkept: 0,
    };
    let broken = "the far end says: dsl breaks gold: loss 3.8 %, limit 1.00 %";
    let follows = "answers go where the session comes from";
    let down = "the far end says: mpls has not answered for 212 ms";
    StoryReport {
        forward_moves: vec![
            moved(240, "dsl", "mpls", MoveBy::FarEnd, "sla-broken", broken),
            moved(60, "mpls", "dsl", MoveBy::FarEnd, "down", down),
        ],
        reverse_moves: vec![
            moved(240, "dsl", "mpls", MoveBy::Answers, "", follows),
            moved(60, "mpls", "dsl", MoveBy::Answers, "", follows),
        ],
        drops: vec![Dropped { reason: DroppedFor { reason: "too-big".into(), detail: None }, packets: 1 }],
        denied: None,
    }
}

fn known_session(at: f64) -> SessionReport {
    SessionReport {
        id: u64::MAX,
        tenant: "acme".into(),
        protocol: "tcp".into(),
        source: Ipv4Addr::new(10, 1, 0, 77).into(),
        source_port: 50_123,
        destination: Ipv4Addr::new(192, 0, 2, 80).into(),
        destination_port: 8_080,
        nat_source: Some(Ipv4Addr::new(198, 51, 100, 7).into()),
        nat_source_port: Some(40_112),
        nat_destination: None,
        nat_destination_port: None,
        age_secs: at - HEAD_START + 300.0,
        story: Some(Box::new(story())),
        ..session(4, at)
    }
}

/// Records what ended between two points in time; gives back the later one.
fn record_ends(flows: &RecentFlows, from: f64, to: f64, now_unix_ms: u64, now: f64) -> f64 {
    let candidates = ((from - LONGEST) * BIRTHS) as u64..(to * BIRTHS) as u64;
    let end = |k: &u64| born(*k) + lifetime(*k);
    let mut ended: Vec<u64> = candidates.filter(|k| (from..to).contains(&end(k))).collect();
    ended.sort_by(|a, b| end(a).total_cmp(&end(b)));
    for k in ended {
        let unix_ms = |at: f64| (now_unix_ms as f64 - (now - at) * 1_000.0) as u64;
        flows.push(flow(session(k, end(&k)), unix_ms(born(k)), unix_ms(end(&k))));
    }
    to
}

/// As the exporter's thread does, until nobody holds the flows any more.
fn keep_recording(flows: Weak<RecentFlows>, clock: Clock, mut recorded: f64) {
    std::thread::spawn(move || {
        while let Some(flows) = flows.upgrade() {
            recorded = record_ends(&flows, recorded, clock.secs(), unix_ms(), clock.secs());
            drop(flows);
            std::thread::sleep(Duration::from_millis(500));
        }
    });
}

fn flow(s: SessionReport, start_unix_ms: u64, end_unix_ms: u64) -> FlowReport {
    let tcp = s.protocol == "tcp";
    FlowReport {
        session: s.id,
        protocol: s.protocol,
        source: s.source,
        source_port: s.source_port,
        destination: s.destination,
        destination_port: s.destination_port,
        nat_source: s.nat_source,
        nat_source_port: s.nat_source_port,
        nat_destination: s.nat_destination,
        nat_destination_port: s.nat_destination_port,
        from: s.from,
        to: s.to,
        dscp: if s.class == "voice" { 46 } else { 0 },
        class: s.class,
        class_by: s.class_by,
        app: s.app,
        name: s.name,
        tenant: s.tenant,
        rule: s.rule,
        forward_path: s.forward_path,
        reverse_path: s.reverse_path,
        start_unix_ms,
        end_unix_ms,
        forward_packets: s.forward_packets,
        forward_bytes: s.forward_bytes,
        reverse_packets: s.reverse_packets,
        reverse_bytes: s.reverse_bytes,
        tcp_flags: if tcp { 0x1b } else { 0 },
        generation: 7,
        end_reason: if tcp { "end-of-flow".into() } else { "idle-timeout".into() },
        story: None,
    }
}

/// What a direction of a path with this round-trip time shows.
fn direction(rtt_ms: f64, loss: f64) -> DirectionReport {
    let way = Duration::from_secs_f64(rtt_ms / 2e3);
    DirectionReport {
        latency_p50_ms: Some(rtt_ms / 2.0),
        latency_p95_ms: Some(rtt_ms * 0.6),
        jitter_ms: Some(rtt_ms * 0.02),
        loss: Some(loss),
        mos: Some(popgate::path::mos(way, way / 25, loss)),
    }
}
