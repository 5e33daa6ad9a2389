//! `popgate show`: the API's reports as tables, or as the JSON they came in.

use super::api::{Decisions, Drops, Exporters, Handoffs, Measurements, Paths, Queues, Rules};
use super::problem::Problem;
use super::table::{Table, bytes, duration, endpoint, or_dash, utc};
use super::tls::{CertificateAnswer, CertificateRow, Issued};
use super::token::{self, TokenError};
use crate::config::AclAction;
use crate::control::{FlowPage, HandoffRow, Status};
use crate::export::report::ExporterReport;
use crate::pipeline::report::{
    DecisionRow, DirectionReport, DropRow, FlowReport, MeasurementRow, PathReport, PathState, QueueRow,
    RuleRow, SessionPage, SessionReport,
};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// 10 s: the server itself gives up on its workers after 2.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ask the running popgate what it does
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    connection: Connection,
}

/// The running box, and in which form it is to answer.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// The API's answer as it is
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Where popgate's admin API listens
    #[arg(long, global = true, default_value = "http://127.0.0.1:8443")]
    url: String,
    /// The file that holds a token: the box's own, or an API token
    #[arg(long, global = true, value_name = "PATH", default_value = "/var/lib/popgate/admin-token")]
    token_file: PathBuf,
}

impl Connection {
    /// The box that this runs on.
    pub(super) fn of_box(listen: SocketAddr, state_dir: &Path) -> Connection {
        Connection {
            json: false,
            url: format!("http://{listen}"),
            token_file: state_dir.join(token::FILE_NAME),
        }
    }
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// The site, and sums over its life
    Status,
    /// The tunnels: state, quality, traffic
    #[command(visible_alias = "tunnels")]
    Paths(TenantArgs),
    /// What is in the session table, newest first
    Sessions(FilterArgs),
    /// The flow records of late, newest first
    Flows(FilterArgs),
    /// What was dropped, and why
    Drops(TenantArgs),
    /// The ACL rules, and what each has let pass or dropped
    Rules(TenantArgs),
    /// Which app class moved from which path to which, and why, newest first
    Decisions(TenantArgs),
    /// What paths were judged by of late, the oldest first, one in a line: what `popgate replay` reads
    Measurements(TenantArgs),
    /// How each app class fares where bandwidth is limited: what it sent, what waits, and for how long
    Queues(TenantArgs),
    /// How the export of flow records to each collector stands: what it was sent, what was lost, and what is wrong
    Exporters,
    /// The interfaces of private handoffs: their links and addresses
    Handoffs(TenantArgs),
    /// The certificate that the admin server shows over TLS: whose, until when, and what keeps a better one away
    Certificate,
}

#[derive(Clone, Debug, Args)]
struct TenantArgs {
    /// Of this tenant alone
    #[arg(long)]
    tenant: Option<String>,
}

#[derive(Clone, Debug, Args)]
struct FilterArgs {
    /// Of this tenant alone
    #[arg(long)]
    tenant: Option<String>,
    /// From, to or translated to this address
    #[arg(long)]
    address: Option<IpAddr>,
    /// From, to or translated to this port
    #[arg(long)]
    port: Option<u16>,
    /// Of this app class
    #[arg(long)]
    class: Option<String>,
    /// At most this many rows [default: 100]
    #[arg(long)]
    limit: Option<usize>,
}

/// Runs `popgate show`: 0 if it was shown, 1 if there was something in the way, which is said on standard error.
pub fn show(args: ShowArgs) -> ExitCode {
    tell("show", text(&args))
}

/// Writes what a command has to say: to standard output, or why it has nothing to standard error.
pub(super) fn tell(command: &str, text: Result<String, ShowError>) -> ExitCode {
    let told = text.and_then(|text| match io::stdout().lock().write_all(text.as_bytes()) {
        // `popgate show sessions | head` has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(ShowError::Output),
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(io::stderr(), "popgate {command}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is nothing to show; for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShowError {
    #[error("{0}; give its place with --token-file, and read it as the user popgate runs as, or root")]
    Token(#[from] TokenError),
    #[error("--url {0}: must begin with http:// (for a box elsewhere: ssh -L 8443:127.0.0.1:8443 HOST)")]
    Url(String),
    #[error("popgate is not running at {url}: {cause}")]
    NotRunning { url: String, cause: String },
    #[error("no answer from {url}: {cause}")]
    NoAnswer { url: String, cause: String },
    #[error("{url} does not take the token in {}: is that file of this box?", .token_file.display())]
    Refused { url: String, token_file: PathBuf },
    #[error("{0}")]
    Problem(String),
    #[error("{url} answers, but not as popgate does: {cause}")]
    NotPopgate { url: String, cause: String },
    #[error("cannot write: {0}")]
    Output(io::Error),
}

/// What goes to standard output.
pub(super) fn text(args: &ShowArgs) -> Result<String, ShowError> {
    let (path, parameters) = question(&args.what);
    let answer = ask(&args.connection, path, parameters)?;
    if args.connection.json { Ok(format!("{answer}\n")) } else { render(&args.what, &answer) }
}

/// The body of the API's answer to a GET.
pub(super) fn ask(
    to: &Connection,
    path: &str,
    parameters: Vec<(&'static str, String)>,
) -> Result<String, ShowError> {
    text_of(exchange(to, |agent, base, authorization| {
        let request = agent.get(format!("{base}{path}")).header("Authorization", authorization);
        parameters.into_iter().fold(request, |request, (name, value)| request.query(name, value)).call()
    }))
}

/// The body of the API's answer to a POST of JSON.
pub(super) fn post(to: &Connection, path: &str, body: &impl Serialize) -> Result<String, ShowError> {
    text_of(exchange(to, |agent, base, authorization| {
        agent.post(format!("{base}{path}")).header("Authorization", authorization).send_json(body)
    }))
}

/// A file that the API gives.
pub(super) fn download(to: &Connection, path: &str) -> Result<Vec<u8>, ShowError> {
    exchange(to, |agent, base, authorization| {
        agent.get(format!("{base}{path}")).header("Authorization", authorization).call()
    })
}

/// The body of the API's answer to a PATCH of JSON.
pub(super) fn patch(to: &Connection, path: &str, body: &impl Serialize) -> Result<String, ShowError> {
    text_of(exchange(to, |agent, base, authorization| {
        agent.patch(format!("{base}{path}")).header("Authorization", authorization).send_json(body)
    }))
}

/// The body of the API's answer to a DELETE.
pub(super) fn delete(to: &Connection, path: &str) -> Result<String, ShowError> {
    text_of(exchange(to, |agent, base, authorization| {
        agent.delete(format!("{base}{path}")).header("Authorization", authorization).call()
    }))
}

/// A text that the API answers with.
fn text_of(answer: Result<Vec<u8>, ShowError>) -> Result<String, ShowError> {
    let text = String::from_utf8(answer?);
    text.map_err(|_| ShowError::Problem("the answer is no text: it is of another version of popgate".into()))
}

/// Sends what `send` makes of an agent, the API's address with a slash behind it, and the header that presents the token.
fn exchange(
    to: &Connection,
    send: impl FnOnce(&ureq::Agent, &str, String) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Vec<u8>, ShowError> {
    let url = to.url.trim_end_matches('/').to_owned();
    if !url.starts_with("http://") {
        return Err(ShowError::Url(url));
    }
    let token = token::load(&to.token_file)?;
    // The token goes to this address and to none that a proxy variable or a redirect names.
    let config = ureq::Agent::config_builder().proxy(None).max_redirects(0).http_status_as_error(false);
    let agent = config.timeout_global(Some(PATIENCE)).build().new_agent();
    let sent = send(&agent, &format!("{url}/api/v1/"), token.authorization());
    let mut response = sent.map_err(|error| match error {
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
            ShowError::NotRunning { url: url.clone(), cause: "connection refused".to_owned() }
        }
        error => ShowError::NoAnswer { url: url.clone(), cause: error.to_string() },
    })?;
    let not_popgate = |cause: String| ShowError::NotPopgate { url: url.clone(), cause };
    // 64 MiB: three times the longest answer there is.
    let body = response.body_mut().with_config().limit(64 << 20).read_to_vec();
    let body = body.map_err(|error| not_popgate(error.to_string()))?;
    match response.status().as_u16() {
        200..300 => Ok(body),
        401 => Err(ShowError::Refused { url, token_file: to.token_file.clone() }),
        status => match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ShowError::Problem(problem.told())),
            Err(_) => Err(not_popgate(format!("status {status}"))),
        },
    }
}

/// The API's path and parameters.
fn question(what: &What) -> (&'static str, Vec<(&'static str, String)>) {
    let tenant = |args: &TenantArgs| args.tenant.iter().map(|name| ("tenant", name.clone())).collect();
    let filter = |args: &FilterArgs| {
        let parameters = [
            ("tenant", args.tenant.clone()),
            ("address", args.address.map(|address| address.to_string())),
            ("port", args.port.map(|port| port.to_string())),
            ("class", args.class.clone()),
            ("limit", args.limit.map(|limit| limit.to_string())),
        ];
        parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    };
    match what {
        What::Status => ("status", Vec::new()),
        What::Paths(args) => ("paths", tenant(args)),
        What::Sessions(args) => ("sessions", filter(args)),
        What::Flows(args) => ("flows", filter(args)),
        What::Drops(args) => ("drops", tenant(args)),
        What::Rules(args) => ("rules", tenant(args)),
        What::Decisions(args) => ("decisions", tenant(args)),
        What::Measurements(args) => ("measurements", tenant(args)),
        What::Queues(args) => ("queues", tenant(args)),
        What::Exporters => ("exporters", Vec::new()),
        What::Handoffs(args) => ("handoffs", tenant(args)),
        What::Certificate => ("certificate", Vec::new()),
    }
}

fn render(what: &What, answer: &str) -> Result<String, ShowError> {
    Ok(match what {
        What::Status => status(&read(answer)?),
        What::Paths(_) => paths(&read::<Paths>(answer)?.paths),
        What::Sessions(_) => sessions(&read(answer)?),
        What::Flows(_) => flows(&read(answer)?),
        What::Drops(_) => drops(&read::<Drops>(answer)?.drops),
        What::Rules(_) => rules(&read::<Rules>(answer)?.rules),
        What::Decisions(_) => decisions(&read::<Decisions>(answer)?.decisions),
        What::Measurements(_) => measurements(&read::<Measurements>(answer)?.measurements),
        What::Queues(_) => queues(&read::<Queues>(answer)?.queues),
        What::Exporters => exporters(&read::<Exporters>(answer)?.exporters),
        What::Handoffs(_) => handoffs(&read::<Handoffs>(answer)?.handoffs),
        What::Certificate => certificate(read::<CertificateAnswer>(answer)?.certificate),
    })
}

pub(super) fn read<T: DeserializeOwned>(answer: &str) -> Result<T, ShowError> {
    serde_json::from_str(answer)
        .map_err(|error| ShowError::Problem(format!("the answer is of another version of popgate: {error}")))
}

fn status(status: &Status) -> String {
    let (site, totals) = (&status.site, &status.totals);
    let uptime = status.now_unix_ms.saturating_sub(site.started_unix_ms) as f64 / 1_000.0;
    let rows = [
        ("site", format!("{} ({})", site.site, site.role)),
        ("metro", or_dash(site.metro.clone())),
        ("facility", or_dash(site.facility.clone())),
        ("version", site.version.clone()),
        ("started", format!("{}, {} ago", utc(site.started_unix_ms), duration(uptime))),
        ("generation", totals.generation.to_string()),
        ("workers", status.site.workers.to_string()),
        ("paths up", format!("{} of {}", totals.paths_up, totals.paths)),
        ("sessions", format!("{} of at most {}", totals.sessions, totals.max_sessions)),
        ("sessions created", totals.sessions_created.to_string()),
        ("forwarded", format!("{} packets, {}", totals.forwarded_packets, bytes(totals.forwarded_bytes))),
        ("dropped", format!("{} packets", totals.dropped_packets)),
        ("records lost", totals.records_lost.to_string()),
        ("not inspected", totals.not_inspected.to_string()),
        ("returns overridden", totals.returns_overridden.to_string()),
        ("NAT ledger", nat_ledger(status)),
        ("flow history", flow_history(status)),
        ("object store", object_store(status)),
        ("revision", revision(status)),
        ("collectors", collectors(status)),
    ];
    rows.iter().map(|(name, value)| format!("{name:<18}{value}\n")).collect()
}

fn revision(status: &Status) -> String {
    let Some(commit) = &status.commit else { return "-".to_owned() };
    let by = commit.confirm_by_unix_ms.map(|by| format!(", to be confirmed by {}", utc(by)));
    let trial = if commit.on_trial { ", on trial" } else { "" };
    let problem = commit.problem.as_ref().map(|problem| format!(", CANNOT BE KEPT: {problem}"));
    format!("{}{trial}{}{}", commit.revision, by.unwrap_or_default(), problem.unwrap_or_default())
}

fn nat_ledger(status: &Status) -> String {
    let Some(ledger) = &status.nat_ledger else { return "-".to_owned() };
    let since = or_dash(ledger.known_from_unix_ms.map(utc));
    // What workers could not pass on is told to the ledger when there is room again.
    let lost = ledger.lost.max(status.totals.ledger_lost);
    let missing = if lost > 0 { format!(", {lost} beginnings and ends missing") } else { String::new() };
    let failing = ledger.problem.as_ref().map(|problem| format!(", CANNOT BE WRITTEN: {problem}"));
    let failing = failing.unwrap_or_default();
    format!("since {since}, {}, {} held{missing}{failing}", bytes(ledger.bytes), ledger.open)
}

fn flow_history(status: &Status) -> String {
    let Some(history) = &status.flow_history else { return "-".to_owned() };
    let since = or_dash(history.known_from_unix_ms.map(utc));
    let more = [(history.lost, "records lost"), (history.damaged, "files damaged")];
    let more = more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    let more: String = more.collect();
    let failing = history.problem.as_ref().map(|problem| format!(", CANNOT BE WRITTEN: {problem}"));
    let failing = failing.unwrap_or_default();
    let (size, files) = (bytes(history.bytes), history.files);
    format!("since {since}, {size} in {files} files, {} in the log{more}{failing}", history.in_memory)
}

fn object_store(status: &Status) -> String {
    let Some(copies) = status.flow_history.as_ref().and_then(|history| history.object_store.as_ref()) else {
        return "-".to_owned();
    };
    let lost = copies.lost_files;
    let lost = if lost > 0 { format!(", {lost} HAD TO GO BEFORE") } else { String::new() };
    let retry = copies.retry_unix_ms.map(|at| format!(" (tried again at {})", utc(at))).unwrap_or_default();
    let failing = copies.problem.as_ref().map(|problem| format!(", CANNOT BE COPIED: {problem}{retry}"));
    let (sent, waiting) = (copies.sent_files, copies.waiting_files);
    let sizes = [copies.sent_bytes, copies.waiting_bytes].map(bytes);
    let failing = failing.unwrap_or_default();
    format!("{sent} files copied ({}), {waiting} wait ({}){lost}{failing}", sizes[0], sizes[1])
}

fn collectors(status: &Status) -> String {
    let all = &status.exporters;
    let failing = all.iter().filter(|report| report.failing_since_unix_ms.is_some());
    let failing: Vec<&str> = failing.map(|report| &*report.collector).collect();
    let lost: u64 = all.iter().map(|report| report.stats.lost_records).sum();
    let lost = if lost > 0 { format!(", {lost} records lost") } else { String::new() };
    match (all.len(), failing.len()) {
        (0, _) => "-".to_owned(),
        (count, 0) => format!("{count}, all are sent to{lost}"),
        (count, _) => format!("{count}, CANNOT BE SENT TO: {}{lost}", failing.join(", ")),
    }
}

fn paths(paths: &[PathReport]) -> String {
    if paths.is_empty() {
        return "no paths\n".to_owned();
    }
    let mut table = Table::new(&[
        "TENANT",
        "SITE",
        "PATH",
        "STATE",
        "TRANSPORT",
        "ENDPOINT",
        ">RTT",
        ">JITTER",
        ">LOSS",
        ">OUT: P95",
        ">JITTER",
        ">LOSS",
        ">MOS",
        ">IN: P95",
        ">JITTER",
        ">LOSS",
        ">MOS",
        ">HANDSHAKE",
        ">RECEIVED",
        ">SENT",
    ]);
    for path in paths {
        let [out, back] = [path.outbound, path.inbound].map(direction);
        let rtt = path.rtt_ms;
        let row = [
            path.tenant.clone(),
            path.site.clone(),
            path.path.clone(),
            match path.state {
                PathState::Up => "up".to_owned(),
                PathState::Recovering => "recovering".to_owned(),
                PathState::Down => "DOWN".to_owned(),
            },
            or_dash(path.transport.clone()),
            or_dash(path.endpoint.map(|endpoint| endpoint.to_string())),
            millis(rtt),
            millis(path.jitter_ms),
            or_dash(path.loss.map(|loss| format!("{:.0} %", loss * 100.0))),
        ];
        let rest = [
            or_dash(path.last_handshake_secs.map(|secs| format!("{} ago", duration(secs as f64)))),
            bytes(path.received_bytes),
            bytes(path.sent_bytes),
        ];
        table.row(row.into_iter().chain(out).chain(back).chain(rest));
        for stream in &path.streams {
            let nothing = std::iter::repeat_n(String::new(), 3);
            let named = [path.tenant.clone(), path.site.clone(), format!("{} ({})", path.path, stream.dscp)];
            let rtt = [millis(stream.rtt_ms), String::new(), String::new()];
            let ways = [stream.outbound, stream.inbound].into_iter().flat_map(direction);
            table.row(named.into_iter().chain(nothing).chain(rtt).chain(ways));
        }
    }
    table.render()
}

fn millis(value: Option<f64>) -> String {
    or_dash(value.map(|value| format!("{value:.1} ms")))
}

/// Latency, jitter, loss and score.
fn direction(way: Option<DirectionReport>) -> [String; 4] {
    let way = way.unwrap_or_default();
    [
        millis(way.latency_p95_ms),
        millis(way.jitter_ms),
        or_dash(way.loss.map(|share| format!("{:.1} %", share * 100.0))),
        or_dash(way.mos.map(|score| format!("{score:.1}"))),
    ]
}

fn sessions(page: &SessionPage) -> String {
    let mut table = Table::new(&[
        "TENANT",
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "NAT",
        "FROM",
        "TO",
        "CLASS",
        "BY",
        "NAME OR APP",
        "RULE",
        "PATHS",
        "STATE",
        ">AGE",
        ">IDLE",
        ">FORWARD",
        ">REVERSE",
    ]);
    for session in &page.sessions {
        let SessionReport { nat_source, nat_source_port, .. } = session;
        table.row([
            session.tenant.clone(),
            session.protocol.clone(),
            end(&session.protocol, session.source, session.source_port),
            end(&session.protocol, session.destination, session.destination_port),
            nat(&session.protocol, *nat_source, *nat_source_port),
            session.from.clone(),
            session.to.clone(),
            session.class.clone(),
            session.class_by.clone(),
            or_dash(session.name.clone().or_else(|| session.app.clone())),
            session.rule.clone(),
            both_paths(&session.forward_path, &session.reverse_path),
            or_dash(session.tcp_state.clone()),
            duration(session.age_secs),
            duration(session.idle_secs),
            bytes(session.forward_bytes),
            bytes(session.reverse_bytes),
        ]);
    }
    counted("session", page.matching, page.sessions.len(), table)
}

fn flows(page: &FlowPage) -> String {
    let mut table = Table::new(&[
        "START",
        ">LASTED",
        "TENANT",
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "NAT",
        "FROM",
        "TO",
        "CLASS",
        "BY",
        "NAME OR APP",
        "RULE",
        "PATHS",
        "END",
        ">FORWARD",
        ">REVERSE",
    ]);
    for flow in &page.flows {
        let FlowReport { nat_source, nat_source_port, .. } = flow;
        table.row([
            utc(flow.start_unix_ms),
            duration(flow.end_unix_ms.saturating_sub(flow.start_unix_ms) as f64 / 1_000.0),
            flow.tenant.clone(),
            flow.protocol.clone(),
            end(&flow.protocol, flow.source, flow.source_port),
            end(&flow.protocol, flow.destination, flow.destination_port),
            nat(&flow.protocol, *nat_source, *nat_source_port),
            flow.from.clone(),
            flow.to.clone(),
            flow.class.clone(),
            flow.class_by.clone(),
            or_dash(flow.name.clone().or_else(|| flow.app.clone())),
            flow.rule.clone(),
            both_paths(&flow.forward_path, &flow.reverse_path),
            flow.end_reason.clone(),
            bytes(flow.forward_bytes),
            bytes(flow.reverse_bytes),
        ]);
    }
    counted("flow record", page.matching, page.flows.len(), table)
}

fn drops(rows: &[DropRow]) -> String {
    if rows.is_empty() {
        return "no drops\n".to_owned();
    }
    let mut table = Table::new(&["TENANT", "REASON", "DETAIL", ">PACKETS"]);
    for row in rows {
        let packets = row.packets.to_string();
        table.row([or_dash(row.tenant.clone()), row.reason.clone(), or_dash(row.detail.clone()), packets]);
    }
    table.render()
}

fn queues(rows: &[QueueRow]) -> String {
    if rows.is_empty() {
        return "no bandwidth is limited, or nothing was sent\n".to_owned();
    }
    let mut table = Table::new(&[
        "TENANT",
        "SITE",
        "PATH",
        "CLASS",
        "TURN",
        ">PACKETS",
        ">SENT",
        ">QUEUED",
        ">DROPPED",
        ">MARKED",
        ">NO ROOM",
        ">DELAY: P50",
        ">P95",
    ]);
    for row in rows {
        let millis = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.1} ms")));
        table.row([
            row.tenant.clone(),
            row.site.clone(),
            row.path.clone(),
            row.class.clone(),
            row.weight.map_or_else(|| "first".to_owned(), |weight| format!("weight {weight}")),
            row.sent_packets.to_string(),
            bytes(row.sent_bytes),
            bytes(row.queued_bytes),
            row.dropped_packets.to_string(),
            row.marked_packets.to_string(),
            row.overflowed_packets.to_string(),
            millis(row.delay_p50_ms),
            millis(row.delay_p95_ms),
        ]);
    }
    table.render()
}

/// Each in a line of JSON.
fn measurements(rows: &[MeasurementRow]) -> String {
    rows.iter().filter_map(|row| serde_json::to_string(row).ok()).map(|line| line + "\n").collect()
}

/// A table of moves.
pub fn decisions(rows: &[DecisionRow]) -> String {
    if rows.is_empty() {
        return "no class has moved\n".to_owned();
    }
    let mut table = Table::new(&["WHEN", "TENANT", "SITE", "CLASS", "FROM", "TO", "WHY"]);
    for row in rows {
        table.row([
            utc(row.unix_ms),
            row.tenant.clone(),
            row.site.clone(),
            row.class.clone(),
            row.from.clone(),
            row.to.clone(),
            row.detail.clone(),
        ]);
    }
    table.render()
}

fn rules(rows: &[RuleRow]) -> String {
    if rows.is_empty() {
        return "no rules\n".to_owned();
    }
    let mut table = Table::new(&[
        "TENANT",
        "RULE",
        "ACTION",
        "WRITTEN",
        ">SESSIONS",
        ">PACKETS",
        ">BYTES",
        ">DROPPED",
        ">UNLOGGED",
    ]);
    for row in rows {
        let action = match row.action {
            AclAction::Accept => "accept",
            AclAction::Drop => "drop",
            AclAction::Reject => "reject",
        };
        table.row([
            row.tenant.clone(),
            row.rule.clone(),
            action.to_owned(),
            row.at.clone(),
            row.sessions.to_string(),
            row.packets.to_string(),
            bytes(row.bytes),
            row.dropped_packets.to_string(),
            row.unlogged.to_string(),
        ]);
    }
    table.render()
}

fn certificate(row: Option<CertificateRow>) -> String {
    let Some(row) = row else {
        return "nothing is reached over TLS: tls-listen in [admin] says where\n".to_owned();
    };
    let issued = match row.issued {
        Issued::Itself => "the box itself: nobody vouches for it",
        Issued::Files => "the files that [admin] names",
        Issued::Acme => "an authority, by ACME",
    };
    let mut lines = vec![
        format!("issued by    {issued}"),
        format!("names        {}", row.names.join(", ")),
        format!("good         {} to {}", utc(row.not_before_unix_ms), utc(row.not_after_unix_ms)),
        format!("SHA-256      {}", row.fingerprint),
    ];
    lines.extend(row.renew_unix_ms.map(|at| format!("asked anew   {}", utc(at))));
    lines.extend(row.problem.map(|why| format!("problem      {why} ({} times in a row)", row.failures)));
    lines.join("\n") + "\n"
}

fn exporters(reports: &[ExporterReport]) -> String {
    if reports.is_empty() {
        return "flow records are exported to nobody: [[export.collector]] in popgate.toml names a collector\n"
            .to_owned();
    }
    let mut table = Table::new(&[
        "COLLECTOR",
        "ADDRESS",
        "PROTOCOL",
        "BY",
        "STATE",
        ">CONNECTIONS",
        ">MESSAGES",
        ">BYTES",
        ">RECORDS",
        ">WAITING",
        ">LOST",
        "PROBLEM",
    ]);
    for report in reports {
        let state = match (report.failing_since_unix_ms, report.connected) {
            (Some(since), _) => format!("FAILING since {}", utc(since)),
            (None, true) => "connected".to_owned(),
            (None, false) => "not connected".to_owned(),
        };
        let retry = report.retry_unix_ms.map(|at| format!(" (tried again at {})", utc(at)));
        let problem = report.problem.as_ref();
        table.row([
            report.collector.clone(),
            report.address.to_string(),
            report.protocol.clone(),
            report.transport.clone(),
            state,
            report.connections.to_string(),
            report.stats.messages.to_string(),
            bytes(report.stats.octets),
            report.stats.records.to_string(),
            report.waiting.to_string(),
            report.stats.lost_records.to_string(),
            or_dash(problem.map(|problem| format!("{problem}{}", retry.unwrap_or_default()))),
        ]);
    }
    table.render()
}

fn handoffs(rows: &[HandoffRow]) -> String {
    if rows.is_empty() {
        return "no tenant has a private handoff\n".to_owned();
    }
    let mut table = Table::new(&["TENANT", "HANDOFF", "INTERFACE", "LINK", "ADDRESSES", "DHCP SERVER"]);
    for row in rows {
        table.row([
            row.tenant.clone(),
            row.handoff.clone(),
            row.interface.clone(),
            if row.up { "up" } else { "DOWN" }.to_owned(),
            or_dash((!row.addresses.is_empty()).then(|| row.addresses.join(", "))),
            or_dash(row.dhcp_server.clone()),
        ]);
    }
    table.render()
}

/// The table, and how many of how many it shows where it does not show all.
fn counted(noun: &str, matching: u64, shown: usize, table: Table) -> String {
    match shown {
        0 => format!("no {noun} matches\n"),
        _ if shown as u64 == matching => table.render(),
        _ => format!("{}the newest {shown} of {matching}; see more with --limit\n", table.render()),
    }
}

/// Ports mean nothing without TCP or UDP: ICMP's is the echo identifier.
fn end(protocol: &str, address: IpAddr, port: u16) -> String {
    if matches!(protocol, "tcp" | "udp") { endpoint(address, port) } else { address.to_string() }
}

fn nat(protocol: &str, address: Option<IpAddr>, port: Option<u16>) -> String {
    or_dash(address.map(|address| end(protocol, address, port.unwrap_or_default())))
}

/// One name where both directions take the same path, else forward and reverse.
fn both_paths(forward: &Option<String>, reverse: &Option<String>) -> String {
    match (forward, reverse) {
        (Some(forward), Some(reverse)) if forward != reverse => format!("{forward} / {reverse}"),
        (forward, reverse) => or_dash(forward.clone().or_else(|| reverse.clone())),
    }
}
