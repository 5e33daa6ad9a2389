//! `/api/v1/flows/trace` and `popgate trace`: what became of a flow, and what would become of it now.

use super::access::Principal;
use super::api::{Parameters, check_names, value_of};
use super::client::{Connection, ShowError, ask, read};
use super::explain::{protocol, render as render_explanation};
use super::history::permit;
use super::problem::Problem;
use super::table::{Table, bytes, endpoint, or_dash, utc_ms};
use super::{App, worker_patience};
use crate::control::{Trace, TraceQuestion, TracedSession};
use crate::model::{AskedEnd, AskedWhen, NotAnEnd, NotWhen, Protocol};
use crate::pipeline::report::TraceAsked;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use clap::Args;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::process::ExitCode;

/// The workers are asked first: a session that ends meanwhile is then in the history, and nowhere missing.
pub(super) async fn trace(
    State(app): State<App>,
    who: Principal,
    Query(parameters): Parameters,
) -> Result<Json<Trace>, Problem> {
    let question = asked(&parameters)?;
    let permit = permit(&app)?;
    let live = app.control.traced(question.flow.clone(), worker_patience()).await?;
    let (control, about) = (app.control.clone(), question.clone());
    let trace = tokio::task::spawn_blocking(move || {
        // Until it is answered, whoever is still there to hear it.
        let _permit = permit;
        control.trace(&about, &live)
    })
    .await;
    let failed =
        |error: tokio::task::JoinError| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let mut trace = trace.map_err(failed)?;
    match app.control.trace_now(&question, &trace, worker_patience()).await? {
        Ok(mut now) => {
            if let Some(tenant) = &who.tenant {
                now.explanation = now.explanation.of_tenant(tenant);
            }
            trace.now = Some(now);
        }
        // A tenant that is gone still has a history.
        Err(unknown) if trace.sessions.is_empty() => return Err(Problem::parameter("tenant", unknown)),
        Err(_) => {}
    }
    Ok(Json(trace))
}

fn asked(parameters: &[(String, String)]) -> Result<TraceQuestion, Problem> {
    check_names(parameters, &["tenant", "from", "to", "protocol", "at"])?;
    let given = |name: &str| value_of(parameters, name).filter(|value| !value.is_empty());
    let required =
        |name: &str| given(name).ok_or_else(|| Problem::parameter(name, format!("{name}: it is needed")));
    let wrong = |name: &'static str| move |why: String| Problem::parameter(name, format!("{name}: {why}"));
    let protocol = given("protocol").map(|text| protocol(text).map_err(wrong("protocol"))).transpose()?;
    let end = |name: &'static str| {
        let text = required(name)?;
        let end: AskedEnd =
            text.parse().map_err(|error: NotAnEnd| wrong(name)(format!("{text:?} is {error}")))?;
        with_port(end, protocol).ok_or_else(|| wrong(name)(format!("{text:?} has no port; {PORT_NEEDED}")))
    };
    let ends = [end("from")?, end("to")?];
    if ends[0].0.is_ipv4() != ends[1].0.is_ipv4() {
        return Err(Problem::parameter("to", "to: it is of another family than from".to_owned()));
    }
    let at = given("at")
        .map(|text| text.parse().map_err(|error: NotWhen| wrong("at")(format!("{text:?} is {error}"))));
    let tenant = required("tenant")?.to_owned();
    Ok(TraceQuestion { flow: TraceAsked { tenant, protocol, ends }, at: at.transpose()? })
}

const PORT_NEEDED: &str = "ADDRESS:PORT is needed, and of a ping its identifier";

/// Protocols without ports need none.
fn with_port(end: AskedEnd, protocol: Option<Protocol>) -> Option<(IpAddr, u16)> {
    let none = protocol.filter(|protocol| !protocol.has_ports() && !protocol.is_icmp()).map(|_| 0);
    Some((end.address, end.port.or(none)?))
}

/// Ask what became of a flow: where it went, by which paths and rules, every move and drop with its reason, and its end
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Whose flow it is
    #[arg(long)]
    tenant: String,
    /// tcp, udp, icmp, icmpv6 or a number [default: tcp, udp and pings]
    #[arg(long, visible_alias = "proto", value_parser = protocol)]
    protocol: Option<Protocol>,
    /// One end, ADDRESS:PORT; before translation or after
    #[arg(value_name = "FROM")]
    from: AskedEnd,
    /// The other end, ADDRESS:PORT
    #[arg(value_name = "TO")]
    to: AskedEnd,
    /// When: 2026-11-22T10:00Z, -5m or "5m ago" [default: now, or the last there was]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<AskedWhen>,
    #[command(flatten)]
    connection: Connection,
}

/// Runs `popgate trace`: 0 if there was an answer, whatever it is.
pub fn trace_flow(args: &TraceArgs) -> ExitCode {
    let told = text(args).and_then(|text| match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(ShowError::Output),
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "popgate trace: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What goes to standard output.
pub(super) fn text(args: &TraceArgs) -> Result<String, ShowError> {
    let answer = ask(&args.connection, "flows/trace", parameters(args))?;
    if args.connection.json {
        return Ok(answer + "\n");
    }
    Ok(render(&read(&answer)?))
}

fn parameters(args: &TraceArgs) -> Vec<(&'static str, String)> {
    let mut parameters =
        vec![("tenant", args.tenant.clone()), ("from", args.from.to_string()), ("to", args.to.to_string())];
    parameters.extend(args.protocol.map(|protocol| ("protocol", protocol.to_string())));
    parameters.extend(args.at.map(|at| ("at", at.to_string())));
    parameters
}

// Writing into a String cannot fail.
fn render(trace: &Trace) -> String {
    let mut out = format!("site {}", trace.site);
    for (word, value) in [("metro", &trace.metro), ("facility", &trace.facility)] {
        if let Some(value) = value {
            let _ = write!(out, ", {word} {value}");
        }
    }
    let _ = writeln!(out, ", tenant {}", trace.tenant);
    if !trace.was_there {
        let (from, until) = (utc_ms(trace.from_unix_ms), utc_ms(trace.until_unix_ms));
        let _ = match trace.sessions.len() {
            0 => writeln!(out, "nothing is known of it between {from} and {until}, nor before or after"),
            _ => writeln!(out, "it was not there between {from} and {until}; the nearest that is known:"),
        };
    }
    for session in &trace.sessions {
        out.push('\n');
        out.push_str(&render_session(session));
    }
    out.push('\n');
    let since = trace.known.since_unix_ms.map_or_else(
        || "no record yet".to_owned(),
        |since| format!("the first record that is kept ended at {}", utc_ms(since)),
    );
    let _ = match trace.known.has_history {
        true => writeln!(out, "known from: live sessions; the flow history: {since}"),
        false => writeln!(
            out,
            "known from: live sessions; the last records in memory, for no flow history is kept here: {since}"
        ),
    };
    if let Some(problem) = &trace.known.problem {
        let _ = writeln!(out, "the history does not tell all: {problem}");
    }
    if let Some(now) = &trace.now {
        let _ = writeln!(out, "\nwhat would become of it now, by generation {}:", now.generation);
        out.push_str(&render_explanation(&now.explanation));
    }
    out
}

fn render_session(session: &TracedSession) -> String {
    let ends = format!(
        "{} > {}",
        endpoint(session.source, session.source_port),
        endpoint(session.destination, session.destination_port)
    );
    let translated = |address: Option<IpAddr>, port: Option<u16>| {
        address.map(|address| endpoint(address, port.unwrap_or_default()))
    };
    let nat = [
        translated(session.nat_source, session.nat_source_port).map(|source| format!("source {source}")),
        translated(session.nat_destination, session.nat_destination_port)
            .map(|destination| format!("destination {destination}")),
    ];
    let nat: Vec<String> = nat.into_iter().flatten().collect();
    let lasted = match (session.ended_unix_ms, &session.end_reason, &session.denied) {
        (None, ..) => "lasts".to_owned(),
        (Some(ended), _, Some(denied)) => {
            format!(
                "last let through {}, denied {}: {}",
                utc_ms(ended),
                utc_ms(denied.unix_ms),
                denied.reason
            )
        }
        (Some(ended), Some(reason), None) => format!("ended {}: {reason}", utc_ms(ended)),
        (Some(ended), None, None) => format!("last known of {}", utc_ms(ended)),
    };
    let dropped: u64 = session.drops.iter().map(|drop| drop.packets).sum();
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("session", format!("{} {ends}, number {}", session.protocol, session.session));
    line("where", format!("{} > {}", session.from, session.to));
    line("translated", if nat.is_empty() { "-".to_owned() } else { nat.join(", ") });
    line("class", format!("{}, told by {}", session.class, session.class_by));
    line("app, name", format!("{}, {}", or_dash(session.app.clone()), or_dash(session.name.clone())));
    line("rule", format!("{}, generation {}", session.rule, session.generation));
    line(
        "path",
        format!(
            "forward {}, reverse {}",
            or_dash(session.forward_path.clone()),
            or_dash(session.reverse_path.clone())
        ),
    );
    line(
        "went",
        format!(
            "forward {} in {} packets, reverse {} in {} packets, {dropped} packets dropped",
            bytes(session.forward_bytes),
            session.forward_packets,
            bytes(session.reverse_bytes),
            session.reverse_packets
        ),
    );
    line("time", format!("began {}, {lasted}", utc_ms(session.began_unix_ms)));
    let mut table = Table::new(&["TIME", "WHAT HAPPENED"]);
    for event in &session.events {
        table.row([utc_ms(event.unix_ms), event.text.clone()]);
    }
    out.push_str(&table.render());
    out
}
