//! Answers to queries: the worker's state in names.

use super::outlet::Outlet;
use super::paths::Path;
use super::report::{
    Answer, DirectionReport, FlowFilter, FlowReport, PathHistory, PathName, PathReport, PathSample,
    PathState, Query, QueueRow, SessionPage, SessionReport, SlaRow, StreamReport, Totals,
};
use super::trace::describe_story;
use super::worker::Worker;
use crate::config::dscp_name;
use crate::flow::{EndReason, FlowRecord, Session, SessionRef, TcpState};
use crate::model::{ClassId, Direction, End, FlowKey, Now, PathId, Queueing, TenantId};
use crate::path::{Candidate, Judge, LONG, Measured, Sample, SampledWay, Stream, Way};
use crate::tables::{Generation, INTERNET, Sla, Subject};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

/// A search for sessions that goes through the table a part at a time: a million of them at once would hold up packets.
pub struct SessionScan {
    filter: FlowFilter,
    limit: usize,
    next: usize,
    matching: u64,
    /// The newest found so far, at most `limit`; the oldest of them on top.
    newest: BinaryHeap<Reverse<(u64, SessionRef)>>,
}

impl SessionScan {
    /// A scan that has not begun.
    pub fn new(filter: FlowFilter, limit: usize) -> SessionScan {
        SessionScan { filter, limit, next: 0, matching: 0, newest: BinaryHeap::new() }
    }
}

impl Worker {
    /// Answers `query`, at once. For sessions, [`Worker::scan`] does the same in parts.
    pub fn answer(&self, query: &Query, now: Now) -> Answer {
        match query {
            Query::Totals => Answer::Totals(self.totals()),
            Query::Paths => {
                let paths = self.paths.iter().map(|(id, path)| self.path_report(id, path, now));
                let outlet = self.paths.outlet().filter(|outlet| outlet.is_measured());
                Answer::Paths(paths.chain(outlet.map(|outlet| self.outlet_report(outlet, now))).collect())
            }
            Query::Sessions { filter, limit } => {
                let mut scan = SessionScan::new(filter.clone(), *limit);
                while !self.scan(&mut scan, usize::MAX) {}
                Answer::Sessions(self.page(scan, now))
            }
            Query::Trace(asked) => Answer::Trace(self.trace(asked, now)),
            Query::Drops => Answer::Drops(self.drops.rows(&self.generation)),
            Query::Decisions { tenant } => {
                Answer::Decisions(self.journal.rows(tenant.as_deref(), &self.generation))
            }
            Query::Measurements { tenant } => {
                Answer::Measurements(self.recording.rows(tenant.as_deref(), &self.generation))
            }
            Query::History(asked) => Answer::History(self.path_history(asked, now)),
            Query::Queues { tenant } => Answer::Queues(self.queue_rows(tenant.as_deref())),
            Query::Canaries { .. } => Answer::Canaries(self.canary_rows()),
            Query::NatBlocks { tenant } => Answer::NatBlocks(self.nat_block_rows(tenant.as_deref())),
            Query::Tenants => Answer::Tenants(self.tenant_rows()),
            // Looking ends none: [`Worker::clear_sessions`] does.
            Query::Clear(_) => Answer::Cleared(0),
            Query::Rules { tenant } => {
                Answer::Rules(self.rules.rows(tenant.as_deref(), &self.drops, &self.generation))
            }
        }
    }

    fn totals(&self) -> Totals {
        let up = self.paths.iter().filter(|(_, path)| path.fitness().is_alive()).count();
        Totals {
            generation: self.generation.number,
            sessions: self.sessions.len() as u64,
            // The box's, told by one of its workers: answers are added up.
            max_sessions: if self.id == 0 { self.generation.max_sessions as u64 } else { 0 },
            sessions_created: self.sessions.created(),
            paths: self.paths.iter().count() as u64,
            paths_up: up as u64,
            forwarded_packets: self.forwarded.packets,
            forwarded_bytes: self.forwarded.bytes,
            dropped_packets: self.drops.total(),
            records_lost: self.records_lost,
            ledger_lost: self.ledger_lost,
            not_inspected: self.inspections.refused,
            returns_overridden: self.returns_overridden,
        }
    }

    fn path_history(&self, asked: &PathName, now: Now) -> Option<PathHistory> {
        let names = &self.generation.names;
        let outlet = self.paths.outlet().filter(|outlet| outlet.is_measured()).map(|outlet| outlet.path);
        let is_asked = |id: &PathId| {
            let far = self.generation.far_end(*id);
            far.is_some_and(|(tenant, far)| {
                (names.tenant(tenant), far, names.path(*id)) == (&asked.tenant, &asked.site, &asked.path)
            })
        };
        let id = self.paths.iter().map(|(id, _)| id).chain(outlet).find(is_asked)?;
        let (gauge, (tenant, site)) = (self.paths.gauge(id)?, self.paths.whose(id)?);
        let sample = |sample: Sample| PathSample {
            unix_ms: now.unix_nanos.saturating_sub(now.instant.since(sample.at).as_nanos() as u64)
                / 1_000_000,
            state: if sample.is_up { PathState::Up } else { PathState::Down },
            outbound: sample.ways[0].map(sampled_report),
            inbound: sample.ways[1].map(sampled_report),
        };
        let tenant = self.generation.tenants.get(tenant)?;
        let site = tenant.sites.get(site)?;
        let sla = |(place, sla): (u8, &Sla)| SlaRow {
            sla: sla.name.clone(),
            classes: (tenant.classes.iter().filter(|class| site.sla(**class) == Some(place)))
                .map(|class| names.class(*class).to_owned())
                .collect(),
            stream: Some(gauge.judged_by(place.into())).filter(|dscp| *dscp != 0).map(dscp_name),
            max_loss: sla.limits.loss,
            max_latency_ms: sla.limits.latency.map(millis),
            max_jitter_ms: sla.limits.jitter.map(millis),
            min_mos: sla.limits.mos,
            is_broken: gauge.judges.get(usize::from(place)).is_some_and(Judge::is_broken),
        };
        Some(PathHistory {
            samples: gauge.history.samples().map(sample).collect(),
            slas: (0..).zip(&tenant.slas).map(sla).collect(),
        })
    }

    fn queue_rows(&self, tenant: Option<&str>) -> Vec<QueueRow> {
        let names = &self.generation.names;
        let queues = self.shaper.iter().flat_map(|shaper| shaper.queues());
        let rows = queues.filter_map(|queue| {
            let spec = &self.paths.get(queue.path)?.spec;
            let owner = names.tenant(spec.tenant);
            if tenant.is_some_and(|tenant| tenant != owner) {
                return None;
            }
            Some(QueueRow {
                tenant: owner.to_owned(),
                site: spec.far.clone(),
                path: names.path(queue.path).to_owned(),
                class: match queue.class {
                    // What the box itself answers with.
                    ClassId::NONE => "-".to_owned(),
                    class => names.class(class).to_owned(),
                },
                weight: match queue.queueing {
                    Queueing::Priority => None,
                    Queueing::Weight(weight) => Some(weight),
                },
                sent_packets: queue.counters.packets,
                sent_bytes: queue.counters.bytes,
                queued_packets: queue.waiting_packets as u64,
                queued_bytes: queue.waiting_bytes as u64,
                dropped_packets: queue.counters.dropped,
                marked_packets: queue.counters.marked,
                overflowed_packets: queue.counters.overflowed,
                delay_p50_ms: queue.waits.map(|(half, _)| millis(half)),
                delay_p95_ms: queue.waits.map(|(_, most)| millis(most)),
            })
        });
        rows.collect()
    }

    fn path_report(&self, id: PathId, path: &Path, now: Now) -> PathReport {
        let names = &self.generation.names;
        let endpoint = path.tunnel.endpoint();
        let quality = path.gauge.prober.quality();
        PathReport {
            tenant: names.tenant(path.spec.tenant).to_owned(),
            site: path.spec.far.clone(),
            path: names.path(id).to_owned(),
            transport: endpoint.map(|endpoint| names.transport(endpoint.transport).to_owned()),
            state: state_of(path.fitness()),
            public_key: Some(path.spec.public_key.to_string()),
            endpoint: endpoint.map(|endpoint| endpoint.address),
            last_handshake_secs: path.tunnel.since_handshake().map(|age| age.as_secs()),
            probed: path.probed,
            rtt_ms: quality.rtt().map(millis),
            jitter_ms: quality.rtt_deviation().map(millis),
            loss: quality.loss(),
            outbound: direction_report(path.measured(Way::Outbound, now.instant)),
            inbound: direction_report(path.measured(Way::Inbound, now.instant)),
            streams: path.gauge.streams.iter().map(|stream| stream_report(stream, now)).collect(),
            received_packets: path.received.packets,
            received_bytes: path.received.bytes,
            sent_packets: path.sent.packets,
            sent_bytes: path.sent.bytes,
            duplicated_packets: path.duplicated,
            duplicate_packets: path.duplicates,
        }
    }

    fn outlet_report(&self, outlet: &Outlet, now: Now) -> PathReport {
        let names = &self.generation.names;
        let gauge = &outlet.gauge;
        let quality = gauge.prober.quality();
        PathReport {
            tenant: names.tenant(outlet.tenant).to_owned(),
            site: INTERNET.to_owned(),
            path: names.path(outlet.path).to_owned(),
            transport: None,
            state: state_of(outlet.fitness()),
            public_key: None,
            endpoint: None,
            last_handshake_secs: None,
            probed: false,
            rtt_ms: quality.rtt().map(millis),
            jitter_ms: quality.rtt_deviation().map(millis),
            loss: quality.loss(),
            outbound: direction_report(gauge.measured(Way::Outbound, now.instant)),
            inbound: direction_report(gauge.measured(Way::Inbound, now.instant)),
            streams: Vec::new(),
            received_packets: outlet.received.packets,
            received_bytes: outlet.received.bytes,
            sent_packets: outlet.sent.packets,
            sent_bytes: outlet.sent.bytes,
            duplicated_packets: 0,
            duplicate_packets: 0,
        }
    }

    /// Looks through so many more of the table's slots. True when all of it has been seen.
    pub fn scan(&self, scan: &mut SessionScan, slots: usize) -> bool {
        let names = &self.generation.names;
        let (sessions, next) = self.sessions.some(scan.next, slots);
        for (at, session) in sessions {
            let (tenant, class) = (names.tenant(session.tenant), names.class(session.class()));
            if matches(&scan.filter, tenant, class, &session.keys) {
                scan.matching += 1;
                scan.newest.push(Reverse((session.id, at)));
                if scan.newest.len() > scan.limit {
                    scan.newest.pop();
                }
            }
        }
        scan.next = next.unwrap_or(scan.next);
        next.is_none()
    }

    /// What a scan found, newest first; sessions that have ended since are left out.
    pub fn page(&self, scan: SessionScan, now: Now) -> SessionPage {
        // A heap of reversed ids sorts into descending order.
        let newest = scan.newest.into_sorted_vec().into_iter();
        let sessions = newest.filter_map(|Reverse((id, at))| {
            let session = self.sessions.get(at).filter(|session| session.id == id)?;
            Some(self.session_report(session, now))
        });
        SessionPage { matching: scan.matching, sessions: sessions.collect() }
    }

    pub(super) fn session_report(&self, session: &Session, now: Now) -> SessionReport {
        let names = &self.generation.names;
        let key = session.key(Direction::Forward);
        let plan = session.plan();
        let [nat_source, nat_destination] = translated(&session.keys);
        let name = self.names.get(session.id).map(|named| &*named.name);
        let [forward, reverse] =
            [Direction::Forward, Direction::Reverse].map(|direction| session.counters(direction));
        let path = |first: Option<PathId>, second: Option<PathId>| {
            first.or(second).map(|id| names.path(id).to_owned())
        };
        SessionReport {
            id: session.id,
            tenant: names.tenant(session.tenant).to_owned(),
            protocol: key.protocol.to_string(),
            source: key.source(),
            source_port: key.source_port,
            destination: key.destination(),
            destination_port: key.destination_port,
            nat_source: nat_source.map(|(address, _)| address),
            nat_source_port: nat_source.map(|(_, port)| port),
            nat_destination: nat_destination.map(|(address, _)| address),
            nat_destination_port: nat_destination.map(|(_, port)| port),
            from: self.generation.describe_end(plan.ends[0]),
            to: self.generation.describe_end(plan.ends[1]),
            class: names.class(plan.class).to_owned(),
            class_by: plan.class_by.name().to_owned(),
            app: app(&self.generation, session.tenant, key, plan.ends, session.dscp, name),
            name: name.map(str::to_owned),
            rule: names.rule(plan.rule).to_owned(),
            dscp: session.dscp,
            generation: plan.generation,
            forward_path: path(session.arrived_on(Direction::Forward), session.left_on(Direction::Forward)),
            reverse_path: path(session.left_on(Direction::Reverse), session.arrived_on(Direction::Reverse)),
            tcp_state: session.tcp.map(|state: TcpState| state.name().to_owned()),
            age_secs: now.instant.since(session.created).as_secs_f64(),
            idle_secs: now.instant.since(session.last_packet()).as_secs_f64(),
            forward_packets: forward.packets,
            forward_bytes: forward.bytes,
            reverse_packets: reverse.packets,
            reverse_bytes: reverse.bytes,
            story: self
                .story(session.id, now)
                .map(|story| Box::new(describe_story(&story, session.tenant, &self.generation))),
        }
    }
}

fn state_of(fitness: Candidate) -> PathState {
    match fitness {
        Candidate::Up | Candidate::Poor => PathState::Up,
        Candidate::Recovering => PathState::Recovering,
        Candidate::Reachable | Candidate::Unreachable => PathState::Down,
    }
}

fn direction_report((measured, loss): (Option<Measured>, Option<f64>)) -> Option<DirectionReport> {
    let known = measured.is_some() || loss.is_some();
    known.then(|| DirectionReport {
        latency_p50_ms: measured.map(|measured| millis(measured.p50)),
        latency_p95_ms: measured.map(|measured| millis(measured.p95)),
        jitter_ms: measured.map(|measured| millis(measured.jitter)),
        loss,
        mos: measured.map(|measured| measured.mos),
    })
}

fn stream_report(stream: &Stream, now: Now) -> StreamReport {
    let way = |way| {
        let measured = stream.quality().measured(way, LONG, now.instant);
        direction_report((measured, measured.and_then(|measured| measured.loss)))
    };
    StreamReport {
        dscp: dscp_name(stream.dscp()),
        rtt_ms: stream.quality().rtt().map(millis),
        outbound: way(Way::Outbound),
        inbound: way(Way::Inbound),
    }
}

fn sampled_report(way: SampledWay) -> DirectionReport {
    DirectionReport {
        latency_p50_ms: None,
        latency_p95_ms: Some(way.latency_p95_ms.into()),
        jitter_ms: Some(way.jitter_ms.into()),
        loss: way.loss.map(f64::from),
        mos: Some(way.mos.into()),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A record in names.
pub fn describe_record(record: &FlowRecord, generation: &Generation) -> FlowReport {
    let names = &generation.names;
    let [forward, reverse] = &record.directions;
    let [nat_source, nat_destination] = translated(&[record.key, record.reply_key]);
    let name = record.name.as_ref().map(|named| &*named.name);
    let path =
        |arrived: Option<PathId>, left: Option<PathId>| arrived.or(left).map(|id| names.path(id).to_owned());
    let begins = [forward, reverse].into_iter().filter(|d| d.packets > 0).map(|d| d.first_unix_millis).min();
    let ends = [forward, reverse].into_iter().filter(|d| d.packets > 0).map(|d| d.last_unix_millis).max();
    FlowReport {
        session: record.session,
        tenant: names.tenant(record.tenant).to_owned(),
        protocol: record.key.protocol.to_string(),
        source: record.key.source(),
        source_port: record.key.source_port,
        destination: record.key.destination(),
        destination_port: record.key.destination_port,
        nat_source: nat_source.map(|(address, _)| address),
        nat_source_port: nat_source.map(|(_, port)| port),
        nat_destination: nat_destination.map(|(address, _)| address),
        nat_destination_port: nat_destination.map(|(_, port)| port),
        from: generation.describe_end(record.initiator),
        to: generation.describe_end(record.responder),
        class: names.class(record.class).to_owned(),
        class_by: record.class_by.name().to_owned(),
        app: app(
            generation,
            record.tenant,
            &record.key,
            [record.initiator, record.responder],
            record.dscp,
            name,
        ),
        name: name.map(str::to_owned),
        rule: names.rule(record.rule).to_owned(),
        dscp: record.dscp,
        forward_path: path(forward.arrived_on, forward.left_on),
        reverse_path: path(reverse.left_on, reverse.arrived_on),
        start_unix_ms: begins.unwrap_or(forward.first_unix_millis),
        end_unix_ms: ends.unwrap_or(forward.last_unix_millis),
        forward_packets: forward.packets,
        forward_bytes: forward.bytes,
        reverse_packets: reverse.packets,
        reverse_bytes: reverse.bytes,
        tcp_flags: forward.tcp_flags | reverse.tcp_flags,
        generation: record.generation,
        end_reason: match record.end_reason {
            EndReason::IdleTimeout => "idle-timeout",
            EndReason::ActiveTimeout => "active-timeout",
            EndReason::EndOfFlow => "end-of-flow",
            EndReason::ForcedEnd => "forced-end",
            EndReason::LackOfResources => "lack-of-resources",
        }
        .to_owned(),
        story: record.story.as_ref().map(|story| Box::new(describe_story(story, record.tenant, generation))),
    }
}

/// What the source and the destination of a session's first packet became, where they became something else.
fn translated(keys: &[FlowKey; 2]) -> [Option<(IpAddr, u16)>; 2] {
    let [key, answer] = keys;
    [
        (!key.comes_from_where(answer)).then(|| (answer.destination(), answer.destination_port)),
        (!key.goes_where(answer)).then(|| (answer.source(), answer.source_port)),
    ]
}

/// The app that a flow is of, by what the generation knows of apps.
fn app(
    generation: &Generation,
    tenant: TenantId,
    key: &FlowKey,
    [source_end, destination_end]: [End; 2],
    dscp: u8,
    name: Option<&str>,
) -> Option<String> {
    let tenant = generation.tenants.get(tenant)?;
    let key = tenant.across(key).ok().flatten().unwrap_or(*key);
    let subject = Subject {
        source: key.source(),
        source_port: key.source_port,
        source_end,
        destination: key.destination(),
        destination_port: key.destination_port,
        destination_end,
        protocol: key.protocol,
        dscp,
        apps: &[],
        domains: &[],
    };
    let app = tenant.classifier.app(&subject, name)?;
    Some(generation.names.app(app).to_owned())
}

fn matches(filter: &FlowFilter, tenant: &str, class: &str, keys: &[FlowKey; 2]) -> bool {
    let has_address =
        |wanted: IpAddr| keys.iter().any(|key| key.source() == wanted || key.destination() == wanted);
    let has_port =
        |wanted| keys.iter().any(|key| key.source_port == wanted || key.destination_port == wanted);
    filter.tenant.as_deref().is_none_or(|wanted| wanted == tenant)
        && filter.class.as_deref().is_none_or(|wanted| wanted == class)
        && filter.address.is_none_or(has_address)
        && filter.port.is_none_or(has_port)
}
