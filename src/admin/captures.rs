//! Captures: `/api/v1/captures`, and `popgate capture`, which begins one, waits until it is over, and writes it into a file.

use super::App;
use super::access::Principal;
use super::accounts::note;
use super::api::{Parameters, check_names, value_of};
use super::client::{Connection, ShowError, ask, delete, download, post, read, tell};
use super::guard::unknown_tenant;
use super::listen::Peer;
use super::problem::Problem;
use super::table::bytes;
use crate::control::audit::Action;
use crate::control::captures::{CaptureAsked, CapturePort, CaptureRefusal, CaptureRow, CaptureSide};
use crate::control::revisions::Who;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use utoipa::ToSchema;

/// Between two looks whether it is over.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Captures {
    /// The newest first.
    pub(super) captures: Vec<CaptureRow>,
}

/// All, or a tenant's.
pub(super) async fn list(
    State(app): State<App>,
    Query(parameters): Parameters,
) -> Result<Json<Captures>, Problem> {
    check_names(&parameters, &["tenant"])?;
    let tenant = value_of(&parameters, "tenant").filter(|tenant| !tenant.is_empty());
    let mut captures = port(&app)?.list();
    captures.retain(|row| tenant.is_none_or(|tenant| row.asked.tenant == tenant));
    Ok(Json(Captures { captures }))
}

pub(super) async fn begin(
    State(app): State<App>,
    who: Principal,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    query: Parameters,
    body: Bytes,
) -> Result<(StatusCode, Json<CaptureRow>), Problem> {
    check_names(&query.0, &[])?;
    let asked: CaptureAsked = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))?;
    if !is_of(&who, &asked.tenant) {
        return Err(unknown_tenant(&asked.tenant));
    }
    let begun = port(&app)?.begin(asked).map_err(|refusal| match refusal {
        CaptureRefusal::NoTenant(tenant) => unknown_tenant(&tenant),
        CaptureRefusal::Wrong(parameter, detail) => Problem::parameter(parameter, detail),
        CaptureRefusal::Full(detail) => Problem::new(StatusCode::CONFLICT, detail),
    })?;
    let CaptureRow { capture, asked: CaptureAsked { tenant, side, packets, .. }, .. } = &begun;
    let detail = format!("{capture}: up to {} packets, {side}", packets.unwrap_or_default());
    let who = Who { user: who.name, from: from.to_string() };
    note(&app, who, Action::Capture, Some(tenant.clone()), detail).await;
    Ok((StatusCode::CREATED, Json(begun)))
}

pub(super) async fn file(
    State(app): State<App>,
    who: Principal,
    Path(capture): Path<String>,
    query: Parameters,
) -> Result<Response, Problem> {
    check_names(&query.0, &[])?;
    let number = number(&capture)?;
    // It may be many megabytes.
    let made = tokio::task::spawn_blocking(move || port(&app).map(|port| port.file(number)));
    let made = made.await.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
    let made = made??.filter(|(row, _)| is_of(&who, &row.asked.tenant));
    let (row, file) = made.ok_or_else(|| unknown(&capture))?;
    let disposition = format!("attachment; filename=\"{}-{}.pcapng\"", row.asked.tenant, row.capture);
    let headers = [
        (header::CONTENT_TYPE, "application/x-pcapng".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, file).into_response())
}

pub(super) async fn forget(
    State(app): State<App>,
    who: Principal,
    Path(capture): Path<String>,
    query: Parameters,
) -> Result<StatusCode, Problem> {
    check_names(&query.0, &[])?;
    let (port, number) = (port(&app)?, number(&capture)?);
    let is_theirs = |row: &CaptureRow| row.capture == number && is_of(&who, &row.asked.tenant);
    match port.list().iter().any(is_theirs) && port.forget(number) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown(&capture)),
    }
}

/// Whether what is a tenant's is for them.
fn is_of(who: &Principal, tenant: &str) -> bool {
    who.tenant.as_deref().is_none_or(|their| their == tenant)
}

fn port(app: &App) -> Result<&dyn CapturePort, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "nobody captures packets here");
    app.control.captures().ok_or_else(missing)
}

fn number(capture: &str) -> Result<u64, Problem> {
    capture.parse().map_err(|_| unknown(capture))
}

fn unknown(capture: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no capture {capture}"))
}

/// Capture a tenant's packets into a pcapng file, which tshark and Wireshark read
#[derive(Clone, Debug, Args)]
pub struct CaptureArgs {
    tenant: String,
    /// The datagrams of its tunnels, and not the packets in them
    #[arg(long)]
    outer: bool,
    /// From or to this address or prefix
    #[arg(long)]
    address: Option<String>,
    /// From or to this port
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, icmp, icmpv6 or a number
    #[arg(long)]
    protocol: Option<String>,
    /// End with so many packets [default: 1000]
    #[arg(long, value_name = "N")]
    packets: Option<u32>,
    /// End after so many seconds [default: 60]
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// So many bytes of each packet [default: 2048]
    #[arg(long, value_name = "BYTES")]
    snap_length: Option<u32>,
    /// The file; - for standard output [default: TENANT-NUMBER.pcapng]
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// Runs `popgate capture`: 0 if there is a file.
pub fn capture(args: &CaptureArgs) -> ExitCode {
    tell("capture", into_file(args))
}

fn into_file(args: &CaptureArgs) -> Result<String, ShowError> {
    let to = &args.connection;
    let asked = CaptureAsked {
        tenant: args.tenant.clone(),
        side: if args.outer { CaptureSide::Outer } else { CaptureSide::Inner },
        address: args.address.clone(),
        port: args.port,
        protocol: args.protocol.clone(),
        packets: args.packets,
        seconds: args.seconds,
        snap_length: args.snap_length,
    };
    let begun: CaptureRow = read(&post(to, "captures", &asked)?)?;
    let path = format!("captures/{}", begun.capture);
    // Standard output may be where the packets go. Standard error may be closed.
    let _ = writeln!(io::stderr(), "capture {} of {} has begun", begun.capture, args.tenant);
    let over = loop {
        let rows: Captures = read(&ask(to, "captures", Vec::new())?)?;
        let row = rows.captures.into_iter().find(|row| row.capture == begun.capture);
        let row = row.ok_or_else(|| ShowError::Problem("somebody else has deleted it".to_owned()))?;
        if !row.is_running {
            break row;
        }
        thread::sleep(PAUSE);
    };
    let file = download(to, &path)?;
    let name = args.write.clone();
    let name = name.unwrap_or_else(|| format!("{}-{}.pcapng", args.tenant, begun.capture).into());
    let told = if name.as_os_str() == "-" {
        io::stdout().lock().write_all(&file).map_err(ShowError::Output)?;
        String::new()
    } else {
        let written = std::fs::write(&name, &file);
        written.map_err(|error| ShowError::Problem(format!("{}: {error}", name.display())))?;
        let lost = match over.lost_packets {
            0 => String::new(),
            lost => format!(", {lost} lost"),
        };
        let (packets, size) = (over.captured_packets, bytes(file.len() as u64));
        format!("{}: {packets} packets{lost}, {size}\n", name.display())
    };
    delete(to, &path)?;
    Ok(if to.json { serde_json::to_string(&over).unwrap_or_default() + "\n" } else { told })
}
