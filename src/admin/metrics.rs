//! `/metrics`: what Prometheus scrapes. The same answers as the API's, as families of numbers.
//!
//! Labels are what the configuration names (tenants, sites, paths, classes, handoffs, collectors) and drop reasons: there are
//! as many series as those make, however much traffic there is and whoever it is of. Rules may be many; they are told where
//! `?rules=true` asks for them.

use super::api::{Parameters, check_names, parse, value_of};
use super::openmetrics::{CONTENT_TYPE, Exposition, Series};
use super::problem::Problem;
use super::tls::CertificateRow;
use super::{App, worker_patience};
use crate::control::HandoffRow;
use crate::control::Status;
use crate::export::report::ExporterReport;
use crate::pipeline::report::{
    DirectionReport, DropRow, NatPoolRow, PathReport, PathState, QueueRow, RuleRow, TenantRow,
};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;

pub(super) async fn scrape(
    State(app): State<App>,
    Query(parameters): Parameters,
) -> Result<Response, Problem> {
    check_names(&parameters, &["rules"])?;
    let asks_rules = match value_of(&parameters, "rules") {
        Some(text) => parse("rules", text, "true or false")?,
        None => false,
    };
    let control = &app.control;
    let certificate = app.shown.as_ref().map(|shown| shown.row());
    let rules =
        async { if asks_rules { control.rules(None, worker_patience()).await.map(Some) } else { Ok(None) } };
    let (status, paths, queues, drops, tenants, rules) = tokio::try_join!(
        control.status(worker_patience()),
        control.paths(None, worker_patience()),
        control.queues(None, worker_patience()),
        control.drops(None, worker_patience()),
        control.tenants(worker_patience()),
        rules,
    )?;
    // Ten thousand paths make thirty megabytes, and others ask meanwhile.
    let write = move || {
        let mut out = Exposition::default();
        write_box(&mut out, &status);
        write_drops(&mut out, drops);
        write_tenants(&mut out, &tenants);
        write_paths(&mut out, paths);
        write_queues(&mut out, queues);
        write_exporters(&mut out, &status);
        write_handoffs(&mut out, &status);
        write_stores(&mut out, &status);
        write_certificate(&mut out, certificate);
        if let Some(rules) = rules {
            write_rules(&mut out, rules);
        }
        out.finish()
    };
    let text = tokio::task::spawn_blocking(write).await;
    let text = text.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

fn write_certificate(out: &mut Exposition, certificate: Option<CertificateRow>) {
    let shown = Series::new(certificate.iter(), |_| Vec::new());
    out.gauge(
        "popgate_certificate_end_time_seconds",
        "When the certificate shown over TLS is over, since the Unix epoch.",
        &shown,
        |row| unix_seconds(row.not_after_unix_ms),
    );
    out.gauge(
        "popgate_certificate_failures",
        "How often an authority was asked in vain since it signed the last one.",
        &shown,
        |row| u64::from(row.failures),
    );
}

fn seconds(millis: f64) -> f64 {
    millis / 1e3
}

fn unix_seconds(unix_ms: u64) -> f64 {
    seconds(unix_ms as f64)
}

fn write_box(out: &mut Exposition, status: &Status) {
    let site = Series::new([&status.site], |site| {
        let places = [("metro", &site.metro), ("facility", &site.facility)];
        let places = places.into_iter().filter_map(|(name, place)| Some((name, place.as_deref()?)));
        [("site", &*site.site), ("role", &*site.role)].into_iter().chain(places).collect()
    });
    out.info("popgate_site_info", "Which box this is.", &site);
    let build = Series::new([&status.site], |site| vec![("version", &*site.version)]);
    out.info("popgate_build_info", "Which version it runs.", &build);

    let all = Series::new([status], |_| Vec::new());
    out.gauge("popgate_start_time_seconds", "When it was started, since the Unix epoch.", &all, |all| {
        unix_seconds(all.site.started_unix_ms)
    });
    out.gauge("popgate_uptime_seconds", "How long it has run.", &all, |all| {
        unix_seconds(all.now_unix_ms.saturating_sub(all.site.started_unix_ms))
    });
    out.gauge("popgate_workers", "Forwarding threads.", &all, |all| all.site.workers as u64);
    out.gauge("popgate_generation", "The configuration that all workers run.", &all, |all| {
        all.totals.generation
    });
    out.gauge("popgate_sessions", "Sessions in the table.", &all, |all| all.totals.sessions);
    out.gauge("popgate_sessions_limit", "Sessions that the table holds.", &all, |all| {
        all.totals.max_sessions
    });
    out.counter("popgate_new_sessions_total", "Sessions that have begun.", &all, |all| {
        all.totals.sessions_created
    });
    out.counter("popgate_forwarded_packets_total", "Inner packets passed on.", &all, |all| {
        all.totals.forwarded_packets
    });
    out.counter("popgate_forwarded_bytes_total", "Their IP bytes.", &all, |all| all.totals.forwarded_bytes);
    out.counter(
        "popgate_records_lost_total",
        "Flow records that there was no room for between workers and exporter.",
        &all,
        |all| all.totals.records_lost,
    );
    out.counter(
        "popgate_flows_not_inspected_total",
        "Flows that a name could have given another class, and that there was no room to look into.",
        &all,
        |all| all.totals.not_inspected,
    );
    out.counter(
        "popgate_returns_overridden_total",
        "Sessions answered by another path than they came by, since that one breaks what their class needs.",
        &all,
        |all| all.totals.returns_overridden,
    );
}

fn write_drops(out: &mut Exposition, drops: Vec<DropRow>) {
    let mut sums: BTreeMap<(Option<String>, String), u64> = BTreeMap::new();
    for row in drops {
        *sums.entry((row.tenant, row.reason)).or_default() += row.packets;
    }
    let drops = Series::new(sums, |((tenant, reason), _)| {
        let tenant = tenant.as_deref().map(|tenant| ("tenant", tenant));
        tenant.into_iter().chain([("reason", &**reason)]).collect()
    });
    let help = "Packets dropped, by reason; without a tenant where none could be told.";
    out.counter("popgate_dropped_packets_total", help, &drops, |(_, packets)| *packets);
}

fn write_tenants(out: &mut Exposition, tenants: &[TenantRow]) {
    let pools = tenants.iter().flat_map(|row| row.nat_pools.iter().map(move |pool| (row, pool)));
    let pools: Vec<(&TenantRow, &NatPoolRow)> = pools.collect();
    let tenants = Series::new(tenants, |row| vec![("tenant", &*row.tenant)]);
    out.gauge("popgate_tenant_sessions", "Sessions of a tenant.", &tenants, |row| row.sessions);
    let help = "Sessions that a tenant may have, where it may not have as many as the box.";
    out.gauge("popgate_tenant_sessions_limit", help, &tenants, |row| row.max_sessions);

    let kinds = pools.iter().flat_map(|(tenant, pool)| {
        let kinds = [
            ("tcp", pool.tcp_bindings),
            ("udp", pool.udp_bindings),
            ("icmp", pool.icmp_bindings),
            ("other", pool.other_bindings),
        ];
        kinds.map(|(protocol, bindings)| (*tenant, *pool, protocol, bindings))
    });
    let kinds = Series::new(kinds, |(tenant, pool, protocol, _)| {
        vec![("tenant", &*tenant.tenant), ("handoff", &*pool.handoff), ("protocol", *protocol)]
    });
    let pools =
        Series::new(pools, |(tenant, pool)| vec![("tenant", &*tenant.tenant), ("handoff", &*pool.handoff)]);
    out.gauge("popgate_nat_pool_addresses", "Addresses of a handoff's NAT pool.", &pools, |(_, pool)| {
        pool.addresses
    });
    let help = "Ports that the pool has for each protocol.";
    out.gauge("popgate_nat_pool_ports", help, &pools, |(_, pool)| pool.ports);
    let help = "Ports that workers have taken of it to give out, in units or as branches' blocks.";
    out.gauge("popgate_nat_pool_leased_ports", help, &pools, |(_, pool)| pool.leased_ports);
    let help = "Ports of it that sessions hold; whole addresses of protocols without ports.";
    out.gauge("popgate_nat_pool_bindings", help, &kinds, |(_, _, _, bindings)| *bindings);
}

/// One direction of a path.
struct PathWay<'a> {
    path: &'a PathReport,
    direction: &'static str,
    measured: DirectionReport,
    packets: u64,
    bytes: u64,
    copies: u64,
}

fn write_paths(out: &mut Exposition, paths: Vec<PathReport>) {
    let ways = paths.iter().flat_map(|path| {
        let way = |direction, measured: Option<DirectionReport>, packets, bytes, copies| {
            let measured = measured.unwrap_or_default();
            PathWay { path, direction, measured, packets, bytes, copies }
        };
        let sent = (path.sent_packets, path.sent_bytes, path.duplicated_packets);
        let received = (path.received_packets, path.received_bytes, path.duplicate_packets);
        [
            way("outbound", path.outbound, sent.0, sent.1, sent.2),
            way("inbound", path.inbound, received.0, received.1, received.2),
        ]
    });
    let ways = Series::new(ways, |way| {
        let PathReport { tenant, site, path, .. } = way.path;
        vec![("tenant", &**tenant), ("site", &**site), ("path", &**path), ("direction", way.direction)]
    });
    let paths = Series::new(&paths, |path| {
        vec![("tenant", &*path.tenant), ("site", &*path.site), ("path", &*path.path)]
    });
    out.gauge("popgate_path_up", "Whether it is up, and has proved to last.", &paths, |path| {
        path.state == PathState::Up
    });
    let help = "Whether it is up again, and is used only where no other is until it has proved to last.";
    out.gauge("popgate_path_recovering", help, &paths, |path| path.state == PathState::Recovering);
    out.gauge("popgate_path_rtt_seconds", "Round-trip time, smoothed.", &paths, |path| {
        path.rtt_ms.map(seconds)
    });
    let help = "Mean deviation of the round-trip time, smoothed.";
    out.gauge("popgate_path_rtt_deviation_seconds", help, &paths, |path| path.jitter_ms.map(seconds));
    let help = "Share of the last 100 probes that went unanswered.";
    out.gauge("popgate_path_probe_loss_ratio", help, &paths, |path| path.loss);
    let help = "How long ago the last handshake was.";
    out.gauge("popgate_path_handshake_age_seconds", help, &paths, |path| path.last_handshake_secs);

    let help = "One-way latency that half of the probes of the last 10 s took at most.";
    out.gauge("popgate_path_latency_p50_seconds", help, &ways, |way| {
        way.measured.latency_p50_ms.map(seconds)
    });
    let help = "One-way latency that 95 of 100 probes of the last 10 s took at most.";
    out.gauge("popgate_path_latency_p95_seconds", help, &ways, |way| {
        way.measured.latency_p95_ms.map(seconds)
    });
    let help = "Interarrival jitter (RFC 3550) over the last 10 s.";
    out.gauge("popgate_path_jitter_seconds", help, &ways, |way| way.measured.jitter_ms.map(seconds));
    let help = "Share of all packets lost over the last 10 s.";
    out.gauge("popgate_path_loss_ratio", help, &ways, |way| way.measured.loss);
    let help = "How a call would sound, 1 to 4.4 (ITU-T G.107).";
    out.gauge("popgate_path_mos", help, &ways, |way| way.measured.mos);
    out.counter("popgate_path_packets_total", "Inner packets.", &ways, |way| way.packets);
    out.counter("popgate_path_bytes_total", "Their IP bytes.", &ways, |way| way.bytes);
    let help = "Packets among these that another path carried too, and first.";
    out.counter("popgate_path_copies_total", help, &ways, |way| way.copies);
}

fn write_queues(out: &mut Exposition, queues: Vec<QueueRow>) {
    let losses = queues.iter().flat_map(|row| {
        let causes = [("standing", row.dropped_packets), ("full", row.overflowed_packets)];
        causes.map(|(cause, packets)| (row, cause, packets))
    });
    fn labels(row: &QueueRow) -> Vec<(&'static str, &str)> {
        vec![("tenant", &row.tenant), ("site", &row.site), ("path", &row.path), ("class", &row.class)]
    }
    let losses =
        Series::new(losses, |(row, cause, _)| labels(row).into_iter().chain([("cause", *cause)]).collect());
    let queues = Series::new(&queues, |row| labels(row));
    let help = "Packets of a class that have left, where bandwidth is limited.";
    out.counter("popgate_queue_packets_total", help, &queues, |row| row.sent_packets);
    out.counter("popgate_queue_bytes_total", "Their IP bytes.", &queues, |row| row.sent_bytes);
    out.gauge("popgate_queue_waiting_packets", "Packets that wait.", &queues, |row| row.queued_packets);
    out.gauge("popgate_queue_waiting_bytes", "Their IP bytes.", &queues, |row| row.queued_bytes);
    let help = "Packets lost because the queue stood for too long (CoDel), or was full.";
    out.counter("popgate_queue_dropped_packets_total", help, &losses, |(_, _, packets)| *packets);
    let help = "Packets marked (ECN) because the queue stood for too long.";
    out.counter("popgate_queue_marked_packets_total", help, &queues, |row| row.marked_packets);
    let help = "How long half of its last 128 packets waited at most.";
    out.gauge("popgate_queue_delay_p50_seconds", help, &queues, |row| row.delay_p50_ms.map(seconds));
    let help = "How long 95 of 100 of them waited at most.";
    out.gauge("popgate_queue_delay_p95_seconds", help, &queues, |row| row.delay_p95_ms.map(seconds));
}

fn write_handoffs(out: &mut Exposition, status: &Status) {
    let handoffs = Series::new(&status.handoffs, |row| {
        let HandoffRow { tenant, handoff, interface, .. } = row;
        vec![("tenant", &**tenant), ("handoff", &**handoff), ("interface", &**interface)]
    });
    let help = "Whether the interface of a private handoff is there, is up and has a carrier.";
    out.gauge("popgate_handoff_link_up", help, &handoffs, |row| row.up);
}

fn write_exporters(out: &mut Exposition, status: &Status) {
    let kinds = Series::new(&status.exporters, |report| {
        let ExporterReport { collector, protocol, transport, .. } = report;
        vec![("collector", &**collector), ("protocol", &**protocol), ("transport", &**transport)]
    });
    out.info("popgate_exporter_info", "How a collector is spoken to.", &kinds);
    let exporters = Series::new(&status.exporters, |report| vec![("collector", &*report.collector)]);
    let help = "Whether there is a way to the collector. Over UDP nobody knows whether it listens.";
    out.gauge("popgate_exporter_connected", help, &exporters, |report| report.connected);
    out.gauge("popgate_exporter_failing", "Whether nothing can be sent.", &exporters, |report| {
        report.failing_since_unix_ms.is_some()
    });
    let help = "How often a way was made.";
    out.counter("popgate_exporter_connections_total", help, &exporters, |report| report.connections);
    let help = "How often that failed, one broke, or a datagram could not be sent.";
    out.counter("popgate_exporter_failures_total", help, &exporters, |report| report.failures);
    let help = "How long until the next attempt, after a failure.";
    let now = status.now_unix_ms;
    out.gauge("popgate_exporter_retry_seconds", help, &exporters, move |report| {
        report.retry_unix_ms.map_or(0.0, |at| unix_seconds(at.saturating_sub(now)))
    });
    let help = "Records, NAT events and samples that wait for the collector's thread.";
    out.gauge("popgate_exporter_waiting_records", help, &exporters, |report| report.waiting);
    out.counter("popgate_exporter_messages_total", "Messages sent.", &exporters, |report| {
        report.stats.messages
    });
    out.counter("popgate_exporter_bytes_total", "Their bytes.", &exporters, |report| report.stats.octets);
    let help = "Records, NAT events and samples in them.";
    out.counter("popgate_exporter_records_total", help, &exporters, |report| report.stats.records);
    let help = "Records, NAT events and samples that were not sent.";
    out.counter("popgate_exporter_lost_records_total", help, &exporters, |report| report.stats.lost_records);
    let help = "Packets that lost records spoke of.";
    out.counter("popgate_exporter_lost_packets_total", help, &exporters, |report| report.stats.lost_packets);
    let help = "Bytes that lost records spoke of.";
    out.counter("popgate_exporter_lost_bytes_total", help, &exporters, |report| report.stats.lost_octets);
}

fn write_stores(out: &mut Exposition, status: &Status) {
    let history = Series::new(&status.flow_history, |_| Vec::new());
    out.gauge("popgate_flow_history_failing", "Whether it cannot be written.", &history, |state| {
        state.failing_since_unix_ms.is_some()
    });
    let help = "When its first record ended, since the Unix epoch.";
    out.gauge("popgate_flow_history_begin_time_seconds", help, &history, |state| {
        state.known_from_unix_ms.map(unix_seconds)
    });
    out.gauge("popgate_flow_history_size_bytes", "On disk.", &history, |state| state.bytes);
    out.gauge("popgate_flow_history_files", "Its Parquet files.", &history, |state| state.files);
    let help = "Records that are in the log alone, and in no file yet.";
    out.gauge("popgate_flow_history_log_records", help, &history, |state| state.in_memory);
    let help = "Records that there was no room for.";
    out.counter("popgate_flow_history_lost_records_total", help, &history, |state| state.lost);
    let help = "Files that could not be read, and were set aside.";
    out.counter("popgate_flow_history_damaged_files_total", help, &history, |state| state.damaged);

    let copies = status.flow_history.iter().filter_map(|history| history.object_store.as_ref());
    let copies = Series::new(copies, |_| Vec::new());
    out.gauge("popgate_object_store_failing", "Whether files do not arrive at it.", &copies, |state| {
        state.failing_since_unix_ms.is_some()
    });
    let help = "Files of the flow history that are not there yet.";
    out.gauge("popgate_object_store_waiting_files", help, &copies, |state| state.waiting_files);
    out.gauge("popgate_object_store_waiting_bytes", "Their bytes.", &copies, |state| state.waiting_bytes);
    let help = "Files that have arrived at it.";
    out.counter("popgate_object_store_sent_files_total", help, &copies, |state| state.sent_files);
    out.counter("popgate_object_store_sent_bytes_total", "Their bytes.", &copies, |state| state.sent_bytes);
    let help = "Files that had to go before they had arrived.";
    out.counter("popgate_object_store_lost_files_total", help, &copies, |state| state.lost_files);

    let ledger = Series::new(&status.nat_ledger, |_| Vec::new());
    out.gauge("popgate_nat_ledger_failing", "Whether it cannot be written.", &ledger, |state| {
        state.failing_since_unix_ms.is_some()
    });
    let help = "Where it begins, since the Unix epoch.";
    out.gauge("popgate_nat_ledger_begin_time_seconds", help, &ledger, |state| {
        state.known_from_unix_ms.map(unix_seconds)
    });
    out.gauge("popgate_nat_ledger_size_bytes", "On disk.", &ledger, |state| state.bytes);
    out.gauge("popgate_nat_ledger_open_holdings", "What is held at present.", &ledger, |state| state.open);
    let help = "Beginnings and ends of holdings that are missing in it.";
    // What workers could not pass on is told to the ledger when there is room again.
    let lost = status.totals.ledger_lost;
    out.counter("popgate_nat_ledger_lost_events_total", help, &ledger, move |state| state.lost.max(lost));
}

fn write_rules(out: &mut Exposition, rules: Vec<RuleRow>) {
    let rules = Series::new(rules, |row| vec![("tenant", &*row.tenant), ("rule", &*row.rule)]);
    out.counter("popgate_rule_sessions_total", "Sessions that a rule accepted.", &rules, |row| row.sessions);
    let help = "Packets of these, as far as records of them have been written.";
    out.counter("popgate_rule_packets_total", help, &rules, |row| row.packets);
    out.counter("popgate_rule_bytes_total", "Their IP bytes.", &rules, |row| row.bytes);
    let help = "Packets that it dropped or rejected.";
    out.counter("popgate_rule_dropped_packets_total", help, &rules, |row| row.dropped_packets);
}
