//! `popgate who-had`: whose an outside address and port was; asked of the running box, or of a ledger's directory.

use super::client::{Connection, ShowError, ask, read, tell};
use super::explain::protocol;
use super::table::{Table, endpoint, or_dash, utc_ms};
use crate::model::{AskedEnd, AskedPort, AskedTime, Protocol};
use crate::store::report::{Answer, Gap, GapCause, Held, WhoHad};
use clap::Args;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Ask the NAT ledger who had a public address and port, and when
#[derive(Clone, Debug, Args)]
pub struct WhoHadArgs {
    /// ADDRESS:PORT, or ADDRESS alone for protocols without ports; an ICMP query's port is its identifier
    #[arg(value_name = "ADDRESS:PORT")]
    outside: AskedEnd,
    /// When, with its zone: 2026-11-22T10:00Z is any time in that minute [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<AskedTime>,
    /// tcp, udp, icmp, icmpv6 or a number [default: all]
    #[arg(long, value_parser = protocol)]
    proto: Option<Protocol>,
    /// Read the ledger in this directory instead of asking the box: nat-ledger in its state-dir, or a copy of that
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// What a directory's ledger says, or why it cannot be asked.
pub type AskLedger = fn(&Path, &AskedPort) -> Result<WhoHad, String>;

/// Runs `popgate who-had`: 0 if there was an answer, whatever it is.
pub fn who_had(args: &WhoHadArgs, offline: AskLedger) -> ExitCode {
    tell("who-had", text(args, offline))
}

/// What goes to standard output.
pub(super) fn text(args: &WhoHadArgs, offline: AskLedger) -> Result<String, ShowError> {
    let asked = AskedPort {
        address: args.outside.address,
        port: args.outside.port.unwrap_or_default(),
        protocol: args.proto,
        at: args.at,
    };
    let answer: WhoHad = match &args.ledger {
        None => read(&ask(&args.connection, "who-had", parameters(&asked))?)?,
        Some(dir) => offline(dir, &asked).map_err(ShowError::Problem)?,
    };
    if args.connection.json {
        let json = serde_json::to_string(&answer);
        return json.map(|json| json + "\n").map_err(|error| ShowError::Problem(error.to_string()));
    }
    Ok(render(&answer))
}

fn parameters(asked: &AskedPort) -> Vec<(&'static str, String)> {
    let mut parameters = vec![("address", asked.address.to_string()), ("port", asked.port.to_string())];
    parameters.extend(asked.protocol.map(|protocol| ("protocol", protocol.to_string())));
    parameters.extend(asked.at.map(|at| ("at", at.to_string())));
    parameters
}

fn render(answer: &WhoHad) -> String {
    let mut out = match answer.answer {
        Answer::Held => holdings(&answer.holdings),
        Answer::Nobody => "nobody\n".to_owned(),
        Answer::NotSure => "not known: something is missing in the ledger\n".to_owned(),
        Answer::BeforeLedger => match answer.known_from_unix_ms {
            Some(from) => format!("not known: before the ledger begins, which is at {}\n", utc_ms(from)),
            None => "not known: there is no ledger yet\n".to_owned(),
        },
        Answer::NotYet => "not known: that is still to come\n".to_owned(),
    };
    out.extend(answer.gaps.iter().map(gap));
    out
}

fn holdings(holdings: &[Held]) -> String {
    let mut table = Table::new(&["TENANT", "BRANCH", "INSIDE", "PROTO", "PORTS", "BEGAN", "ENDED"]);
    for held in holdings {
        let ports = match (held.first_port, held.last_port) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let inside = match (held.inside, held.inside_port) {
            (None, _) => "the whole branch".to_owned(),
            (Some(address), Some(port)) if port > 0 => endpoint(address, port),
            (Some(address), _) => address.to_string(),
        };
        let began = utc_ms(held.began_unix_ms);
        let ended = match (held.ended_unix_ms, held.ended_unsure) {
            (Some(ended), false) => utc_ms(ended),
            (Some(ended), true) => format!("by {}", utc_ms(ended)),
            (None, false) => "lasts".to_owned(),
            (None, true) => "not known".to_owned(),
        };
        table.row([
            held.tenant.clone(),
            or_dash(held.branch.clone()),
            inside,
            held.protocol.clone().unwrap_or_else(|| "all".to_owned()),
            ports,
            if held.began_unsure { format!("after {began}") } else { began },
            ended,
        ]);
    }
    table.render()
}

fn gap(gap: &Gap) -> String {
    let (from, until) = (utc_ms(gap.from_unix_ms), utc_ms(gap.until_unix_ms));
    let why = match gap.cause {
        GapCause::Stopped => "popgate did not run, or kept no ledger".to_owned(),
        GapCause::Overrun => {
            format!("{} beginnings and ends found no room on the way to the ledger", gap.lost)
        }
        GapCause::NotWritten => {
            format!("the ledger could not be written, {} beginnings and ends are missing", gap.lost)
        }
        GapCause::Damaged => "what was written cannot be read".to_owned(),
    };
    format!("not sure between {from} and {until}: {why}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T10:00Z.
    const TEN: u64 = 1_795_341_600_000;

    fn answer(answer: Answer) -> WhoHad {
        WhoHad {
            address: "198.51.100.7".parse().expect("an address"),
            port: 40_112,
            protocol: None,
            from_unix_ms: TEN,
            until_unix_ms: TEN + 60_000,
            answer,
            holdings: Vec::new(),
            gaps: Vec::new(),
            known_from_unix_ms: Some(TEN - 600_000),
        }
    }

    #[test]
    fn who_had_it_is_told_in_a_line_and_what_is_not_known_is_said() {
        let held = Held {
            tenant: "acme".into(),
            branch: Some("berlin".into()),
            inside: "10.1.0.5".parse().ok(),
            inside_port: Some(5_000),
            protocol: Some("udp".into()),
            first_port: 40_112,
            last_port: 40_112,
            began_unix_ms: TEN - 599_875,
            began_unsure: false,
            ended_unix_ms: Some(TEN + 100_000),
            ended_unsure: true,
        };
        let block = Held {
            branch: None,
            inside: None,
            inside_port: None,
            protocol: None,
            first_port: 40_000,
            last_port: 40_511,
            began_unsure: true,
            ended_unix_ms: None,
            ended_unsure: false,
            ..held.clone()
        };
        let (from_unix_ms, until_unix_ms) = (TEN + 90_000, TEN + 100_000);
        let gaps = vec![Gap { from_unix_ms, until_unix_ms, cause: GapCause::Stopped, lost: 0 }];
        let both = WhoHad { holdings: vec![held, block], gaps, ..answer(Answer::Held) };
        let lines = [
            "TENANT  BRANCH  INSIDE            PROTO  PORTS        BEGAN                           ENDED",
            "acme    berlin  10.1.0.5:5000     udp    40112        2026-11-22T09:50:00.125Z        by \
             2026-11-22T10:01:40.000Z",
            "acme    -       the whole branch  all    40000-40511  after 2026-11-22T09:50:00.125Z  lasts",
            "not sure between 2026-11-22T10:01:30.000Z and 2026-11-22T10:01:40.000Z: popgate did not run, or \
             kept no ledger",
        ];
        assert_eq!(render(&both).lines().collect::<Vec<_>>(), lines);
        assert_eq!(render(&answer(Answer::Nobody)), "nobody\n");
        let before = render(&answer(Answer::BeforeLedger));
        assert_eq!(before, "not known: before the ledger begins, which is at 2026-11-22T09:50:00.000Z\n");
    }
}
