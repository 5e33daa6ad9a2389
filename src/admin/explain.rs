//! `popgate explain`: what would become of a flow, and why; asked of the running box, or of a directory's configuration.

use super::api::Paths;
use super::client::{Connection, ShowError, ask, read, tell};
use super::table::{Table, or_dash};
use crate::config;
use crate::control::commits::Source;
use crate::model::{AskedEnd, AskedFlow, HostName, Protocol};
use crate::pipeline::report::{Explanation, LivePath, PathState, StepKind};
use clap::Args;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Ask what would become of a flow, and why: every step with the line it is written at
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Whose flow it is
    #[arg(long)]
    tenant: String,
    /// The host that begins: ADDRESS or ADDRESS:PORT
    #[arg(long)]
    from: AskedEnd,
    /// Where to: ADDRESS or ADDRESS:PORT
    #[arg(long)]
    to: AskedEnd,
    /// tcp, udp, icmp, icmpv6 or a number
    #[arg(long, default_value = "tcp", value_parser = protocol)]
    proto: Protocol,
    /// A DSCP by name or number, 0 to 63
    #[arg(long, default_value = "0", value_parser = dscp)]
    dscp: u8,
    /// What the client calls the server in its first bytes: the TLS or QUIC server name
    #[arg(long, value_name = "NAME")]
    sni: Option<HostName>,
    /// Ask the configuration in this directory instead, which need not be in force; how paths stand is told if the box runs
    #[arg(long, value_name = "DIR", conflicts_with = "of")]
    candidate: Option<PathBuf>,
    /// Ask what the box has of it instead: candidates, files, tenant:NAME, or how many revisions to go back
    #[arg(long, value_name = "SOURCE")]
    of: Option<Source>,
    #[command(flatten)]
    connection: Connection,
}

/// What a directory's configuration says of a flow, or why it cannot be asked.
pub type AskCandidate = fn(&Path, &str, &AskedFlow) -> Result<Explanation, String>;

/// Runs `popgate explain`: 0 if there was an answer, whatever it is.
pub fn explain(args: &ExplainArgs, candidate: AskCandidate) -> ExitCode {
    tell("explain", text(args, candidate))
}

/// What goes to standard output.
pub(super) fn text(args: &ExplainArgs, candidate: AskCandidate) -> Result<String, ShowError> {
    let explanation = match &args.candidate {
        None => read::<Explanation>(&ask(&args.connection, "explain", parameters(args))?)?,
        Some(directory) => {
            let ExplainArgs { from, to, proto: protocol, dscp, sni, .. } = *args;
            let flow = AskedFlow { from, to, protocol, dscp, sni };
            let explanation = candidate(directory, &args.tenant, &flow).map_err(ShowError::Problem)?;
            // A box that does not run has no paths that stand or fall.
            match ask(&args.connection, "paths", vec![("tenant", args.tenant.clone())]) {
                Ok(answer) => explanation.with_live(&args.tenant, &read::<Paths>(&answer)?.paths),
                Err(_) => explanation,
            }
        }
    };
    if args.connection.json {
        let json = serde_json::to_string(&explanation);
        return json.map(|json| json + "\n").map_err(|error| ShowError::Problem(error.to_string()));
    }
    Ok(render(&explanation))
}

fn parameters(args: &ExplainArgs) -> Vec<(&'static str, String)> {
    vec![
        ("tenant", args.tenant.clone()),
        ("from", args.from.to_string()),
        ("to", args.to.to_string()),
        ("protocol", args.proto.to_string()),
        ("dscp", args.dscp.to_string()),
        ("sni", args.sni.map_or(String::new(), |name| name.to_string())),
        ("of", args.of.as_ref().map_or(String::new(), Source::to_string)),
    ]
}

/// A protocol as it is typed.
pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::by_name(text).ok_or_else(|| format!("{text:?} is not tcp, udp, icmp, icmpv6 or a number"))
}

/// A DSCP as it is typed.
pub(super) fn dscp(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(number @ 0..=63) => Ok(number),
        Ok(_) => Err(format!("{text} is out of range; 0 to 63")),
        Err(_) => config::dscp(text),
    }
}

pub(super) fn render(explanation: &Explanation) -> String {
    let mut table = Table::new(&["STEP", "WRITTEN", "WHAT"]);
    for step in &explanation.steps {
        let kind = match step.kind {
            StepKind::Source => "source",
            StepKind::Destination => "destination",
            StepKind::Class => "class",
            StepKind::Rule => "rule",
            StepKind::Nat => "nat",
            StepKind::Path => "path",
        };
        table.row([kind.to_owned(), or_dash(step.at.clone()), step.text.clone()]);
    }
    for path in &explanation.paths {
        let live = path.live.map_or_else(|| "not known here".to_owned(), standing);
        table.row(["path".to_owned(), "-".to_owned(), format!("{}/{}: {live}", path.site, path.path)]);
    }
    let verdict = match (&explanation.outcome, &explanation.reason) {
        (config::Outcome::Accept, _) => "accept".to_owned(),
        (config::Outcome::Drop, reason) => format!("drop: {}", or_dash(reason.clone())),
        (config::Outcome::Reject, reason) => format!("reject: {}", or_dash(reason.clone())),
    };
    format!("{}{verdict}\n", table.render())
}

fn standing(live: LivePath) -> String {
    let state = match live.state {
        PathState::Up => "up",
        PathState::Recovering => "recovering",
        PathState::Down => "DOWN",
    };
    let rtt = live.rtt_ms.map_or(String::new(), |rtt| format!(", {rtt:.1} ms"));
    let loss = live.loss.map_or(String::new(), |loss| format!(", {:.0} % lost", loss * 100.0));
    format!("{state}{rtt}{loss}")
}
