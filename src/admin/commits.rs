//! `popgate compare`, `commit`, `confirm`, `rollback`, `revisions`, `dry-run` and `audit`: the verbs of a change, put to the
//! running box.

use super::client::{Connection, ShowError, ask, post, read, tell};
use super::config::{AuditPage, CommitBody, Comparison, Confirmed, Revisions};
use super::table::{Table, bytes, duration, or_dash, utc};
use crate::config;
use crate::control::audit::{self, Entry};
use crate::control::commits::{ChangeKind, Committed, ConfigState, DryRun, Source, UnconfirmedState};
use crate::control::revisions::{Cause, Revision};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Show what differs between two configurations: by default what committing the files would change
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// in-force, files, candidates, box, tenant:NAME, or how many revisions to go back
    #[arg(default_value = "files")]
    new: Source,
    /// What it is compared with
    #[arg(long, default_value = "in-force")]
    old: Source,
    #[command(flatten)]
    connection: Connection,
}

/// Put the edited files, or candidates, in force
#[derive(Clone, Debug, Args)]
pub struct CommitArgs {
    /// files, candidates, or some of these: box,tenant:NAME
    #[arg(default_value = "files")]
    source: Source,
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    connection: Connection,
}

/// Put an earlier revision in force
#[derive(Clone, Debug, Args)]
pub struct RollbackArgs {
    /// How many revisions to go back, 1 to 99
    #[arg(value_parser = clap::value_parser!(u8).range(1..100))]
    back: u8,
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Debug, Args)]
struct TermsArgs {
    /// Take it back unless `popgate confirm` comes within this time: 2m
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    confirm: Option<Duration>,
    /// Why, for the list of revisions
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

/// Confirm a commit that would be taken back otherwise
#[derive(Clone, Debug, Args)]
pub struct ConfirmArgs {
    #[command(flatten)]
    connection: Connection,
}

/// List the revisions that are kept, the one in force first, and what is open
#[derive(Clone, Debug, Args)]
pub struct RevisionsArgs {
    #[command(flatten)]
    connection: Connection,
}

/// Show what a configuration would do to the sessions that live and the flows of late
#[derive(Clone, Debug, Args)]
pub struct DryRunArgs {
    /// files, candidates, box, tenant:NAME, or how many revisions to go back
    #[arg(default_value = "files")]
    source: Source,
    #[command(flatten)]
    connection: Connection,
}

/// The audit log: who changed what, when, and from where
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    what: AuditWhat,
}

#[derive(Clone, Debug, Subcommand)]
enum AuditWhat {
    /// Show the newest entries
    Show {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        connection: Connection,
    },
    /// Check that no entry was changed or taken away; reads the files, whether the box runs or not
    Verify {
        /// The box's state-dir
        #[arg(long, value_name = "DIR", default_value = config::STATE_DIR)]
        state_dir: PathBuf,
    },
}

/// Runs `popgate compare`.
pub fn compare(args: &CompareArgs) -> ExitCode {
    let parameters = vec![("old", args.old.to_string()), ("new", args.new.to_string())];
    tell(
        "compare",
        ask(&args.connection, "config/compare", parameters).and_then(|answer| {
            if args.connection.json {
                return Ok(answer + "\n");
            }
            let files = read::<Comparison>(&answer)?.files;
            Ok(files.into_iter().map(|file| file.diff).collect())
        }),
    )
}

/// Runs `popgate commit`.
pub fn commit(args: &CommitArgs) -> ExitCode {
    tell("commit", put_in_force(&args.connection, &args.source, &args.terms))
}

/// Runs `popgate rollback`.
pub fn rollback(args: &RollbackArgs) -> ExitCode {
    let source = Source::Back(usize::from(args.back));
    tell("rollback", put_in_force(&args.connection, &source, &args.terms))
}

fn put_in_force(connection: &Connection, source: &Source, terms: &TermsArgs) -> Result<String, ShowError> {
    let body = CommitBody {
        source: source.to_string(),
        // Half a second is none; the API says so.
        confirm_secs: terms.confirm.map(|window| window.as_secs()),
        comment: terms.comment.clone(),
    };
    let answer = post(connection, "config/commit", &body)?;
    if connection.json {
        return Ok(answer + "\n");
    }
    let Committed { revision, unconfirmed, warnings, .. } = read(&answer)?;
    let warnings = warnings.iter().map(|it| format!("warning: {it}\n"));
    let mut out: String = warnings.collect();
    out += &format!("revision {revision} is in force\n");
    if let Some(unconfirmed) = unconfirmed {
        out += &waits(&unconfirmed);
    }
    Ok(out)
}

fn waits(unconfirmed: &UnconfirmedState) -> String {
    let left = duration(unconfirmed.remaining_ms as f64 / 1_000.0);
    format!("it is taken back in {left}, unless `popgate confirm` comes before\n")
}

/// Runs `popgate confirm`.
pub fn confirm(args: &ConfirmArgs) -> ExitCode {
    let nothing = serde_json::Map::new();
    tell(
        "confirm",
        post(&args.connection, "config/confirm", &nothing).and_then(|answer| {
            if args.connection.json {
                return Ok(answer + "\n");
            }
            let Confirmed { revision } = read(&answer)?;
            Ok(format!("revision {revision} stays\n"))
        }),
    )
}

/// Runs `popgate revisions`.
pub fn revisions(args: &RevisionsArgs) -> ExitCode {
    let text = || {
        let listed = ask(&args.connection, "config/revisions", Vec::new())?;
        if args.connection.json {
            return Ok(listed + "\n");
        }
        let state = ask(&args.connection, "config", Vec::new())?;
        Ok(list(&read::<Revisions>(&listed)?.revisions) + &stands(&read(&state)?))
    };
    tell("revisions", text())
}

fn list(revisions: &[Revision]) -> String {
    let mut table = Table::new(&[">BACK", ">REVISION", "WHEN", "USER", "FROM", "BY", "COMMENT"]);
    for (back, revision) in revisions.iter().enumerate() {
        let stamp = &revision.stamp;
        let cause = match stamp.cause {
            Cause::Files => "files",
            Cause::Candidate => "candidate",
            Cause::Rollback => "rollback",
            Cause::Unconfirmed => "not confirmed",
            Cause::Guard => "commit guard",
        };
        table.row([
            back.to_string(),
            revision.number.to_string(),
            utc(stamp.unix_ms),
            stamp.who.user.clone(),
            stamp.who.from.clone(),
            cause.to_owned(),
            or_dash(stamp.comment.clone()),
        ]);
    }
    table.render()
}

fn stands(state: &ConfigState) -> String {
    let mut out = String::new();
    if let Some(unconfirmed) = &state.unconfirmed {
        out += &format!("the revision in force is still to be confirmed: {}", waits(unconfirmed));
    }
    if !state.edited.is_empty() {
        out += &format!("edited and not committed: {}\n", state.edited.join(", "));
    }
    for candidate in &state.candidates {
        let outdated = if candidate.outdated { "; what it began from is in force no more" } else { "" };
        let (who, when) = (&candidate.who, utc(candidate.unix_ms));
        out += &format!(
            "open candidate: {}, by {} from {}, {when}{outdated}\n",
            candidate.scope, who.user, who.from
        );
    }
    if let Some(problem) = &state.problem {
        out += &format!("PROBLEM: {problem}\n");
    }
    out
}

/// Runs `popgate dry-run`.
pub fn dry_run(args: &DryRunArgs) -> ExitCode {
    let parameters = vec![("of", args.source.to_string())];
    tell(
        "dry-run",
        ask(&args.connection, "config/dry-run", parameters).and_then(|answer| {
            if args.connection.json {
                return Ok(answer + "\n");
            }
            Ok(would_be(&read(&answer)?))
        }),
    )
}

fn would_be(run: &DryRun) -> String {
    let asked = format!("{} sessions and {} records of late were asked about", run.sessions, run.records);
    if run.changes.is_empty() {
        return format!("nothing would change: {asked}\n");
    }
    let mut table = Table::new(&["TENANT", "WHAT", ">FLOWS", ">LIVE", ">BYTES", "NOW", "THEN", "SUCH AS"]);
    for change in &run.changes {
        let kind = match change.kind {
            ChangeKind::Dropped => "DROPPED",
            ChangeKind::Admitted => "admitted",
            ChangeKind::Class => "class",
            ChangeKind::Path => "paths",
            ChangeKind::Nat => "address",
        };
        table.row([
            change.tenant.clone(),
            kind.to_owned(),
            change.flows.to_string(),
            change.sessions.to_string(),
            bytes(change.bytes),
            change.now.clone(),
            change.then.clone(),
            change.examples.first().cloned().unwrap_or_default(),
        ]);
    }
    format!("{}{asked}\n", table.render())
}

/// Runs `popgate audit`.
pub fn audit(args: &AuditArgs) -> ExitCode {
    match &args.what {
        AuditWhat::Show { limit, connection } => {
            let parameters = vec![("limit", limit.to_string())];
            tell(
                "audit show",
                ask(connection, "audit", parameters).and_then(|answer| {
                    if connection.json {
                        return Ok(answer + "\n");
                    }
                    Ok(entries(&read::<AuditPage>(&answer)?.entries))
                }),
            )
        }
        AuditWhat::Verify { state_dir } => tell("audit verify", verify(state_dir)),
    }
}

fn verify(state_dir: &Path) -> Result<String, ShowError> {
    let file = state_dir.join(audit::FILE_NAME);
    let problem = |why: String| ShowError::Problem(format!("{}: {why}", file.display()));
    // An empty log is whole, and no log is a wrong directory.
    if !file.exists() {
        return Err(problem("there is none".to_owned()));
    }
    let verified = audit::verify(state_dir).map_err(|error| problem(error.to_string()))?;
    let verified = verified.map_err(|broken| problem(broken.to_string()))?;
    Ok(format!("whole: {} entries, the last one's hash is {}\n", verified.entries.len(), verified.last))
}

fn entries(entries: &[Entry]) -> String {
    let mut table = Table::new(&["WHEN", "USER", "FROM", "WHAT", ">REVISION", "DETAIL"]);
    for entry in entries {
        table.row([
            utc(entry.unix_ms),
            entry.who.user.clone(),
            entry.who.from.clone(),
            entry.action.name().to_owned(),
            entry.revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string()),
            entry.detail.clone(),
        ]);
    }
    table.render()
}
