//! `/api/v1/config`: what is in force, what would be, and what puts it in force.
//!
//! A configuration is named by where it is to be had from ([`Source`]): `in-force`, `files`, `candidates`, `box`,
//! `tenant:NAME` (several with commas), or how many revisions to go back.

use super::App;
use super::api::{Parameters, check_names, value_of};
use super::listen::Peer;
use super::problem::Problem;
use crate::control::audit::Entry;
use crate::control::candidates::{Draft, Scope};
use crate::control::commits::{
    Committed, ConfigState, DryRun, ProblemRow, Refusal, Reply, Source, Terms, Verb,
};
use crate::control::compare::FileDifference;
use crate::control::revisions::{Revision, Who};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Entries of the audit log unless asked otherwise, and at most.
const DEFAULT_ENTRIES: usize = 100;
const MOST_ENTRIES: usize = 10_000;

/// A commit must be confirmed within a week at most: nobody waits longer, and a typing error may ask for years.
const LONGEST_CONFIRM: Duration = Duration::from_secs(7 * 24 * 3_600);

#[derive(Serialize, Deserialize)]
pub(super) struct Revisions {
    /// The one in force first: how many to go back is the place in this list.
    pub(super) revisions: Vec<Revision>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Texts {
    pub(super) texts: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Comparison {
    pub(super) files: Vec<FileDifference>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Checked {
    /// What is not wrong, but not what was meant.
    pub(super) warnings: Vec<ProblemRow>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct CandidateAnswer {
    /// `None`: none is open.
    pub(super) candidate: Option<Draft>,
    /// What a change must say that it takes the place of, in `If-Match`.
    pub(super) tag: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Confirmed {
    pub(super) revision: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct AuditPage {
    /// The newest first.
    pub(super) entries: Vec<Entry>,
}

/// What a commit is asked with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct CommitBody {
    pub(super) source: String,
    /// It is taken back unless confirmed within so many seconds.
    #[serde(default)]
    pub(super) confirm_secs: Option<u64>,
    #[serde(default)]
    pub(super) comment: Option<String>,
}

/// A candidate's new text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TextBody {
    /// `null`: the file is to go.
    text: Option<String>,
}

pub(super) async fn state(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<ConfigState>, Problem> {
    check_names(&query.0, &[])?;
    match ask(&app, peer, Verb::State).await? {
        Reply::State(state) => Ok(Json(state)),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn revisions(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<Revisions>, Problem> {
    check_names(&query.0, &[])?;
    match ask(&app, peer, Verb::Revisions).await? {
        Reply::Revisions(revisions) => Ok(Json(Revisions { revisions })),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn texts(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<Texts>, Problem> {
    check_names(&query.0, &["of"])?;
    match ask(&app, peer, Verb::Texts(source(&query, "of", Source::InForce)?)).await? {
        Reply::Texts(texts) => Ok(Json(Texts { texts })),
        other => Err(unexpected(&other)),
    }
}

/// What differs between `old`, what is in force unless said otherwise, and `new`, which is the files.
pub(super) async fn compare(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<Comparison>, Problem> {
    check_names(&query.0, &["old", "new"])?;
    let (old, new) = (source(&query, "old", Source::InForce)?, source(&query, "new", Source::Files)?);
    match ask(&app, peer, Verb::Compare { old, new }).await? {
        Reply::Compared(files) => Ok(Json(Comparison { files })),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn check(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<Checked>, Problem> {
    check_names(&query.0, &["of"])?;
    match ask(&app, peer, Verb::Check(source(&query, "of", Source::Files)?)).await? {
        Reply::Checked(warnings) => Ok(Json(Checked { warnings })),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn dry_run(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<DryRun>, Problem> {
    check_names(&query.0, &["of"])?;
    match ask(&app, peer, Verb::DryRun(source(&query, "of", Source::Files)?)).await? {
        Reply::DryRun(run) => Ok(Json(run)),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn candidate(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Response, Problem> {
    tagged(ask(&app, peer, Verb::Candidate(scope(&query)?)).await?)
}

pub(super) async fn put_candidate(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let (scope, expected) = (scope(&query)?, if_match(&headers)?);
    let TextBody { text } = read_body(&body)?;
    tagged(ask(&app, peer, Verb::Put { scope, text, expected }).await?)
}

pub(super) async fn discard_candidate(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (scope, expected) = (scope(&query)?, if_match(&headers)?);
    match ask(&app, peer, Verb::Discard { scope, expected }).await? {
        Reply::Done => Ok(StatusCode::NO_CONTENT),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn commit(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
    body: Bytes,
) -> Result<Json<Committed>, Problem> {
    check_names(&query.0, &[])?;
    let CommitBody { source, confirm_secs, comment } = read_body(&body)?;
    let bad = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let source: Source = source.parse().map_err(|why| bad(format!("source: {why}")))?;
    let confirm = confirm_secs.map(Duration::from_secs);
    if confirm.is_some_and(|window| window.is_zero() || window > LONGEST_CONFIRM) {
        return Err(bad(format!("confirm-secs: 1 to {}", LONGEST_CONFIRM.as_secs())));
    }
    match ask(&app, peer, Verb::Commit(source, Terms { confirm, comment })).await? {
        Reply::Committed(committed) => Ok(Json(committed)),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn confirm(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<Confirmed>, Problem> {
    check_names(&query.0, &[])?;
    match ask(&app, peer, Verb::Confirm).await? {
        Reply::Confirmed(revision) => Ok(Json(Confirmed { revision })),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn audit(
    State(app): State<App>,
    peer: ConnectInfo<Peer>,
    query: Parameters,
) -> Result<Json<AuditPage>, Problem> {
    check_names(&query.0, &["limit"])?;
    let limit = value_of(&query.0, "limit").map_or(Ok(DEFAULT_ENTRIES), |text| {
        let limit = text.parse().ok().filter(|limit| (1..=MOST_ENTRIES).contains(limit));
        let told = || format!("limit: {text:?} is not a number of entries, 1 to {MOST_ENTRIES}");
        limit.ok_or_else(|| Problem::parameter("limit", told()))
    });
    match ask(&app, peer, Verb::Audit { limit: limit? }).await? {
        Reply::Audit(entries) => Ok(Json(AuditPage { entries })),
        other => Err(unexpected(&other)),
    }
}

/// Whoever has the token is the box's admin; from where tells people apart.
async fn ask(app: &App, ConnectInfo(Peer(from)): ConnectInfo<Peer>, verb: Verb) -> Result<Reply, Refusal> {
    app.control.commits(Who { user: "admin".into(), from: from.to_string() }, verb).await
}

fn source(Query(parameters): &Parameters, name: &'static str, default: Source) -> Result<Source, Problem> {
    match value_of(parameters, name) {
        None | Some("") => Ok(default),
        Some(text) => text.parse().map_err(|why| Problem::parameter(name, format!("{name}: {why}"))),
    }
}

fn scope(Query(parameters): &Parameters) -> Result<Scope, Problem> {
    check_names(parameters, &["scope"])?;
    let text = value_of(parameters, "scope").unwrap_or_default();
    text.parse().map_err(|why| Problem::parameter("scope", format!("scope: {why}")))
}

/// The tag that a change takes the place of (RFC 9110 section 13.1.1): without it nobody may change anything.
fn if_match(headers: &HeaderMap) -> Result<String, Problem> {
    let tag = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    let tag = tag.and_then(|text| text.trim().strip_prefix('"')?.strip_suffix('"'));
    tag.map(str::to_owned).ok_or_else(|| {
        let detail = "this needs If-Match: \"TAG\", with the tag of what it takes the place of";
        Problem::new(StatusCode::PRECONDITION_REQUIRED, detail)
    })
}

fn read_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

fn tagged(reply: Reply) -> Result<Response, Problem> {
    let Reply::Candidate(candidate, tag) = reply else { return Err(unexpected(&reply)) };
    let header = HeaderValue::from_str(&format!("\"{tag}\""));
    let mut response = Json(CandidateAnswer { candidate, tag }).into_response();
    if let Ok(value) = header {
        response.headers_mut().insert(header::ETAG, value);
    }
    Ok(response)
}

fn unexpected(reply: &Reply) -> Problem {
    tracing::error!(?reply, "an answer to another question");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an answer to another question")
}
