//! What may be asked of the configuration: the verbs of `popgate commit` and the like, and their answers.
//!
//! Whoever owns the running box carries them out, one after the other; this is how they are put to it.

use super::audit::{Action, Entry};
use super::candidates::{Draft, Scope};
use super::compare::FileDifference;
use super::revisions::{KEPT, Revision, Who};
use crate::config::{Problem, PublicKey};
use crate::model::AskedFlow;
use crate::pipeline::report::Explanation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;
use utoipa::ToSchema;

/// A configuration, by where it is to be had from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The one in force.
    InForce,
    /// The files in the configuration directory, as they are now.
    Files,
    /// What is in force with these candidates in it; none named: with all that are open.
    Candidates(Vec<Scope>),
    /// The revision so many before the one in force, which is 0.
    Back(usize),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::InForce => f.write_str("in-force"),
            Source::Files => f.write_str("files"),
            Source::Candidates(scopes) if scopes.is_empty() => f.write_str("candidates"),
            Source::Candidates(scopes) => {
                let scopes: Vec<String> = scopes.iter().map(Scope::to_string).collect();
                f.write_str(&scopes.join(","))
            }
            Source::Back(back) => write!(f, "{back}"),
        }
    }
}

impl FromStr for Source {
    type Err = String;
    fn from_str(text: &str) -> Result<Source, String> {
        match text {
            "in-force" => Ok(Source::InForce),
            "files" => Ok(Source::Files),
            "candidates" => Ok(Source::Candidates(Vec::new())),
            _ if text.starts_with(|first: char| first.is_ascii_digit()) => text
                .parse()
                .ok()
                .filter(|back| *back < KEPT)
                .map(Source::Back)
                .ok_or_else(|| format!("{text:?} is not a number of revisions to go back, 0 to {}", KEPT - 1)),
            _ => text.split(',').map(str::parse).collect::<Result<_, _>>().map(Source::Candidates).map_err(|_| {
                format!("{text:?} is none of in-force, files, candidates, box, tenant:NAME and a number of revisions back")
            }),
        }
    }
}

/// How it is put in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// It is taken back unless confirmed within this time.
    pub confirm: Option<Duration>,
    pub comment: Option<String>,
    /// By a tenant's own user: what the tenant has of the box stays as it is ([`providers_part`]).
    ///
    /// [`providers_part`]: crate::config::providers_part
    pub policy_alone: bool,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// How things stand.
    State,
    /// The revisions that are kept.
    Revisions,
    /// The texts of one.
    Texts(Source),
    /// What differs.
    Compare {
        old: Source,
        new: Source,
    },
    /// Whether it could be put in force.
    Check(Source),
    /// What its policy tests come to.
    Test(Source),
    /// What would become of a flow with it.
    Explain {
        source: Source,
        tenant: String,
        flow: Box<AskedFlow>,
    },
    /// What would become of the flows that there are, of one tenant or of all.
    DryRun {
        source: Source,
        tenant: Option<String>,
    },
    Commit(Source, Terms),
    /// What is in force and waits for it; only if it changed this tenant's alone, where one is named.
    Confirm {
        tenant: Option<String>,
    },
    Candidate(Scope),
    /// The candidate's new text, or that its file is to go; `expected` is the tag of what it takes the place of, which is the
    /// candidate's or, where none is open, that of the text in force.
    Put {
        scope: Scope,
        text: Option<String>,
        expected: String,
    },
    Discard {
        scope: Scope,
        expected: String,
    },
    /// The newest entries of the audit log, of those that are about one tenant or of all.
    Audit {
        limit: usize,
        tenant: Option<String>,
    },
    /// What branches know this box by, if it is a PoP.
    Pop,
    /// Whether the private halves of these keys have made these proofs of this ([`crate::enrol::proof`]).
    Prove {
        said: Vec<u8>,
        proofs: Vec<(PublicKey, Vec<u8>)>,
    },
    /// To be written into the audit log: it has happened elsewhere.
    Note {
        action: Action,
        /// It is about this tenant, and no other.
        tenant: Option<String>,
        detail: String,
    },
}

/// The answer to each.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    State(ConfigState),
    Revisions(Vec<Revision>),
    Texts(BTreeMap<String, String>),
    Compared(Vec<FileDifference>),
    /// It could be: what is not wrong with it, but not what was meant.
    Checked(Vec<ProblemRow>),
    Tested(Vec<PolicyTestRow>),
    /// Or that there is no such tenant.
    Explained(Result<Explanation, String>),
    DryRun(DryRun),
    Committed(Committed),
    Confirmed(u64),
    /// With its tag.
    Candidate(Option<Draft>, String),
    Done,
    Audit(Vec<Entry>),
    Pop(PopFacts),
    Proved(bool),
}

/// A PoP, as its branches know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PopFacts {
    pub public_key: PublicKey,
    /// Each by its name, with where it listens.
    pub transports: Vec<(String, SocketAddr)>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are things wrong with it; it could not be put in force, or not while the box runs.
    Wrong(Vec<ProblemRow>),
    /// There is no such thing.
    Unknown(String),
    /// Not by whoever asks.
    Forbidden(String),
    /// Something else comes first.
    Conflict(String),
    /// It is not the one that was expected: somebody else changed it meanwhile. Its tag now.
    Changed(String),
    /// The disk's, or the box is stopping.
    Failed(String),
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProblemRow {
    /// `None`: the configuration as a whole.
    pub file: Option<String>,
    /// Counted from 1.
    pub line: Option<usize>,
    pub message: String,
}

impl From<&Problem> for ProblemRow {
    fn from(problem: &Problem) -> ProblemRow {
        let at = &problem.at;
        ProblemRow { file: Some(at.file.to_string()), line: Some(at.line), message: problem.message.clone() }
    }
}

impl fmt::Display for ProblemRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, "{file}:{line}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl ProblemRow {
    /// One of no place.
    pub fn of_all(message: impl Into<String>) -> ProblemRow {
        ProblemRow { file: None, line: None, message: message.into() }
    }
}

/// A policy test, and what it came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyTestRow {
    pub tenant: String,
    pub name: String,
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// What came out in place of what is expected; `None`: it passes.
    pub failure: Option<String>,
}

/// How the configuration stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigState {
    /// `None` while none could be kept.
    pub revision: Option<Revision>,
    pub generation: u64,
    pub unconfirmed: Option<UnconfirmedState>,
    /// A commit is being watched, and taken back if the box is worse off.
    pub on_trial: bool,
    /// The files in the configuration directory that were edited and not committed.
    pub edited: Vec<String>,
    pub candidates: Vec<CandidateState>,
    /// Why revisions or the audit log cannot be kept.
    pub problem: Option<String>,
}

/// What of it is always in sight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Standing {
    /// The revision in force; 0 while none could be kept.
    pub revision: u64,
    /// By when it must be confirmed, lest the one before comes back; the wall clock's.
    pub confirm_by_unix_ms: Option<u64>,
    /// Whether the box is watched, and the revision taken back if it is worse off.
    pub on_trial: bool,
    /// Why revisions or the audit log cannot be kept.
    pub problem: Option<String>,
}

/// A commit that waits to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct UnconfirmedState {
    pub deadline_unix_ms: u64,
    pub remaining_ms: u64,
    /// The revision that comes back.
    pub back_to: u64,
}

/// A candidate, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CandidateState {
    pub scope: String,
    #[serde(flatten)]
    pub who: Who,
    pub unix_ms: u64,
    pub tag: String,
    /// What it began from is in force no more: somebody else committed meanwhile.
    pub outdated: bool,
}

/// A commit that was put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Committed {
    pub revision: u64,
    pub generation: u64,
    pub unconfirmed: Option<UnconfirmedState>,
    pub warnings: Vec<ProblemRow>,
}

/// What a candidate would do to the flows that there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DryRun {
    /// How many flows were asked about, of the sessions that live and of the records of late.
    pub sessions: u64,
    pub records: u64,
    /// Each kind of change with the rule that makes it, most flows first.
    pub changes: Vec<FlowChange>,
}

/// Flows to which the same happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowChange {
    pub tenant: String,
    pub kind: ChangeKind,
    /// What it is now and what it would be: outcomes with their rules, classes, paths, prefixes.
    pub now: String,
    pub then: String,
    /// The ACL rule that would decide.
    pub rule: Option<String>,
    pub flows: u64,
    /// Of these, sessions that live.
    pub sessions: u64,
    pub bytes: u64,
    /// A few of them: `tcp 10.1.0.5:51000 -> 203.0.113.9:443`.
    pub examples: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Let pass now, and would not be.
    Dropped,
    /// Not let pass now, and would be.
    Admitted,
    Class,
    Path,
    Nat,
}

/// The way to whoever carries them out.
pub trait CommitPort: Send + Sync {
    /// How the configuration stands, without waiting for a verb under way.
    fn standing(&self) -> Standing;

    /// Carries out a verb.
    fn ask(&self, who: Who, verb: Verb) -> Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_configuration_is_to_be_had_from_is_written_as_it_is_read() {
        for text in ["in-force", "files", "candidates", "box", "tenant:acme", "box,tenant:acme", "0", "99"] {
            assert_eq!(text.parse::<Source>().expect("known").to_string(), text);
        }
        for text in ["", "100", "-1", "1x", "acme", "box,", "candidates,box", "tenant:../x"] {
            assert!(text.parse::<Source>().is_err(), "{text:?} was taken");
        }
    }
}
