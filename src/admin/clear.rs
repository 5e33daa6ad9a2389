//! `popgate clear`: sessions that are to end, without waiting for them.

use super::api::{ClearBody, Cleared};
use super::client::{Connection, ShowError, post, read, tell};
use super::explain::protocol;
use crate::model::{AskedEnd, Protocol};
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// End what runs on the box
#[derive(Clone, Debug, Args)]
pub struct ClearArgs {
    #[command(subcommand)]
    what: ClearWhat,
}

#[derive(Clone, Debug, Subcommand)]
enum ClearWhat {
    /// End a tenant's sessions of one end, or between two; what their hosts still send is looked at anew
    Sessions(ClearSessionsArgs),
}

#[derive(Clone, Debug, Args)]
struct ClearSessionsArgs {
    #[arg(long)]
    tenant: String,
    /// Whoever has begun them: ADDRESS or ADDRESS:PORT
    #[arg(long, required_unless_present = "to")]
    from: Option<AskedEnd>,
    /// Where to, as the one who has begun them calls it
    #[arg(long)]
    to: Option<AskedEnd>,
    /// tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_parser = protocol)]
    proto: Option<Protocol>,
    #[command(flatten)]
    connection: Connection,
}

/// Runs `popgate clear`: 0 if it was done, whether there was anything to end.
pub fn clear(args: &ClearArgs) -> ExitCode {
    tell("clear", text(args))
}

fn text(args: &ClearArgs) -> Result<String, ShowError> {
    let ClearWhat::Sessions(ClearSessionsArgs { tenant, from, to, proto, connection }) = &args.what;
    let body = ClearBody {
        tenant: tenant.clone(),
        protocol: proto.map(|protocol| protocol.to_string()),
        from: from.map(|end| end.to_string()),
        to: to.map(|end| end.to_string()),
    };
    let answer = post(connection, "sessions/clear", &body)?;
    if connection.json {
        return Ok(answer + "\n");
    }
    let Cleared { sessions } = read(&answer)?;
    Ok(match sessions {
        1 => "1 session has ended\n".to_owned(),
        sessions => format!("{sessions} sessions have ended\n"),
    })
}
