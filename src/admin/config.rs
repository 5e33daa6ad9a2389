//! `/api/v1/config`: what is in force, what would be, and what puts it in force.
//!
//! A configuration is named by where it is to be had from ([`Source`]): `in-force`, `files`, `candidates`, `box`,
//! `tenant:NAME` (several with commas), or how many revisions to go back.
//!
//! A user of one tenant asks for their own text in force and for their candidate, and commits that one alone. Of what comes back
//! they see what is of their file.

use super::App;
use super::access::Principal;
use super::api::{Parameters, check_names, value_of};
use super::guard::unknown_tenant;
use super::listen::Peer;
use super::problem::Problem;
use crate::control::audit::{Action, Entry};
use crate::control::candidates::{Draft, Scope};
use crate::control::commits::{
    Committed, ConfigState, DryRun, PolicyTestRow, ProblemRow, Refusal, Reply, Source, Terms, Verb,
};
use crate::control::compare::{FileDifference, differing};
use crate::control::revisions::{Cause, Revision, Who};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use utoipa::ToSchema;

/// Entries of the audit log unless asked otherwise, and at most.
const DEFAULT_ENTRIES: usize = 100;
const MOST_ENTRIES: usize = 10_000;

/// A commit must be confirmed within a week at most: nobody waits longer, and a typing error may ask for years.
const LONGEST_CONFIRM: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Of a tenant's user: while it runs nobody else commits anything.
const LONGEST_OF_TENANTS: Duration = Duration::from_secs(15 * 60);

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Revisions {
    /// The one in force first: how many to go back is the place in this list.
    pub(super) revisions: Vec<Revision>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Texts {
    pub(super) texts: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Comparison {
    pub(super) files: Vec<FileDifference>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Checked {
    /// What is not wrong, but not what was meant.
    pub(super) warnings: Vec<ProblemRow>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct PolicyTests {
    /// By tenant, in the order they are written.
    pub(super) tests: Vec<PolicyTestRow>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct CandidateAnswer {
    /// `None`: none is open.
    pub(super) candidate: Option<Draft>,
    /// What a change must say that it takes the place of, in `If-Match`.
    pub(super) tag: String,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Confirmed {
    pub(super) revision: u64,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct AuditPage {
    /// The newest first.
    pub(super) entries: Vec<Entry>,
}

/// What a commit is asked with.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct TextBody {
    /// `null`: the file is to go.
    text: Option<String>,
}

pub(super) async fn state(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<ConfigState>, Problem> {
    check_names(&query.0, &[])?;
    let Reply::State(mut state) = asking.ask(&app, Verb::State).await? else { return Err(unexpected()) };
    if asking.tenant().is_some() {
        let Reply::Revisions(revisions) = asking.ask(&app, Verb::Revisions).await? else {
            return Err(unexpected());
        };
        state.edited.retain(|file| asking.is_own_file(file));
        state
            .candidates
            .retain(|it| it.scope.parse::<Scope>().is_ok_and(|scope| asking.own_scope(scope).is_ok()));
        state.problem = None;
        // One that changed other texts, too, tells of others.
        let changed = changed_files(&revisions);
        state.revision =
            state.revision.filter(|_| changed.is_some_and(|mut it| it.all(|file| asking.is_own_file(file))));
        if let Some(revision) = &mut state.revision {
            revision.texts.retain(|file, _| asking.is_own_file(file));
            if revision.stamp.cause == Cause::Guard {
                revision.stamp.comment = None;
            }
        }
    }
    Ok(Json(state))
}

pub(super) async fn revisions(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<Revisions>, Problem> {
    check_names(&query.0, &[])?;
    match asking.ask(&app, Verb::Revisions).await? {
        Reply::Revisions(revisions) => Ok(Json(Revisions { revisions })),
        _ => Err(unexpected()),
    }
}

pub(super) async fn texts(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<Texts>, Problem> {
    check_names(&query.0, &["of"])?;
    let source = asking.may_see(source(&query, "of", Source::InForce)?)?;
    match asking.ask(&app, Verb::Texts(source)).await? {
        Reply::Texts(mut texts) => {
            texts.retain(|file, _| asking.is_own_file(file));
            Ok(Json(Texts { texts }))
        }
        _ => Err(unexpected()),
    }
}

/// What differs between `old`, what is in force unless said otherwise, and `new`, which is the files.
pub(super) async fn compare(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<Comparison>, Problem> {
    check_names(&query.0, &["old", "new"])?;
    let (old, new) = (source(&query, "old", Source::InForce)?, source(&query, "new", Source::Files)?);
    let (old, new) = (asking.may_see(old)?, asking.may_see(new)?);
    match asking.ask(&app, Verb::Compare { old, new }).await? {
        Reply::Compared(mut files) => {
            files.retain(|it| asking.is_own_file(&it.file));
            Ok(Json(Comparison { files }))
        }
        _ => Err(unexpected()),
    }
}

pub(super) async fn check(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<Checked>, Problem> {
    check_names(&query.0, &["of"])?;
    let source = asking.may_see(source(&query, "of", Source::Files)?)?;
    match asking.ask(&app, Verb::Check(source)).await? {
        Reply::Checked(warnings) => Ok(Json(Checked { warnings: asking.narrowed(warnings) })),
        _ => Err(unexpected()),
    }
}

/// What the policy tests of a configuration that is not wrong otherwise come to.
pub(super) async fn policy_tests(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<PolicyTests>, Problem> {
    check_names(&query.0, &["of"])?;
    let source = asking.may_see(source(&query, "of", Source::Files)?)?;
    match asking.ask(&app, Verb::Test(source)).await? {
        Reply::Tested(mut tests) => {
            tests.retain(|test| asking.tenant().is_none_or(|tenant| test.tenant == tenant));
            Ok(Json(PolicyTests { tests }))
        }
        _ => Err(unexpected()),
    }
}

pub(super) async fn dry_run(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<DryRun>, Problem> {
    check_names(&query.0, &["of"])?;
    let source = asking.may_see(source(&query, "of", Source::Files)?)?;
    let tenant = asking.tenant().map(str::to_owned);
    match asking.ask(&app, Verb::DryRun { source, tenant }).await? {
        Reply::DryRun(mut run) => {
            run.changes.retain(|change| asking.tenant().is_none_or(|tenant| change.tenant == tenant));
            Ok(Json(run))
        }
        _ => Err(unexpected()),
    }
}

pub(super) async fn candidate(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Response, Problem> {
    tagged(asking.ask(&app, Verb::Candidate(asking.own_scope(scope(&query)?)?)).await?)
}

pub(super) async fn put_candidate(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let (scope, expected) = (asking.own_scope(scope(&query)?)?, if_match(&headers)?);
    let TextBody { text } = read_body(&body)?;
    tagged(asking.ask(&app, Verb::Put { scope, text, expected }).await?)
}

pub(super) async fn discard_candidate(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (scope, expected) = (asking.own_scope(scope(&query)?)?, if_match(&headers)?);
    match asking.ask(&app, Verb::Discard { scope, expected }).await? {
        Reply::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(unexpected()),
    }
}

pub(super) async fn commit(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
    body: Bytes,
) -> Result<Json<Committed>, Problem> {
    check_names(&query.0, &[])?;
    let CommitBody { source, confirm_secs, comment } = read_body(&body)?;
    let bad = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let source: Source = source.parse().map_err(|why| bad(format!("source: {why}")))?;
    let confirm = confirm_secs.map(Duration::from_secs);
    let longest = asking.tenant().map_or(LONGEST_CONFIRM, |_| LONGEST_OF_TENANTS);
    if confirm.is_some_and(|window| window.is_zero() || window > longest) {
        return Err(bad(format!("confirm-secs: 1 to {}", longest.as_secs())));
    }
    let source = asking.own_candidate(source)?;
    let policy_alone = asking.tenant().is_some();
    let terms = Terms { confirm, comment, policy_alone };
    match asking.ask(&app, Verb::Commit(source, terms)).await? {
        Reply::Committed(committed) => {
            Ok(Json(Committed { warnings: asking.narrowed(committed.warnings), ..committed }))
        }
        _ => Err(unexpected()),
    }
}

pub(super) async fn confirm(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<Confirmed>, Problem> {
    check_names(&query.0, &[])?;
    match asking.ask(&app, Verb::Confirm { tenant: asking.tenant().map(str::to_owned) }).await? {
        Reply::Confirmed(revision) => Ok(Json(Confirmed { revision })),
        _ => Err(unexpected()),
    }
}

pub(super) async fn audit(
    State(app): State<App>,
    asking: Asking,
    query: Parameters,
) -> Result<Json<AuditPage>, Problem> {
    check_names(&query.0, &["limit"])?;
    let limit = value_of(&query.0, "limit").map_or(Ok(DEFAULT_ENTRIES), |text| {
        let limit = text.parse().ok().filter(|limit| (1..=MOST_ENTRIES).contains(limit));
        let told = || format!("limit: {text:?} is not a number of entries, 1 to {MOST_ENTRIES}");
        limit.ok_or_else(|| Problem::parameter("limit", told()))
    });
    let tenant = asking.tenant().map(str::to_owned);
    match asking.ask(&app, Verb::Audit { limit: limit?, tenant }).await? {
        Reply::Audit(mut entries) => {
            if asking.tenant().is_some() {
                entries.iter_mut().for_each(|entry| entry.detail = without_reason(entry));
            }
            Ok(Json(AuditPage { entries }))
        }
        _ => Err(unexpected()),
    }
}

/// Whoever asks, and from where.
pub(super) struct Asking {
    who: Principal,
    from: SocketAddr,
}

impl FromRequestParts<App> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Asking, Problem> {
        let who = Principal::from_request_parts(parts, app).await?;
        let peer = ConnectInfo::<Peer>::from_request_parts(parts, app).await;
        let ConnectInfo(Peer(from)) = peer.map_err(|_| Problem::unauthorized())?;
        Ok(Asking { who, from })
    }
}

impl Asking {
    pub(super) async fn ask(&self, app: &App, verb: Verb) -> Result<Reply, Problem> {
        app.control.commits(self.whoever(), verb).await.map_err(|refusal| match (refusal, &self.who.tenant) {
            (Refusal::Wrong(rows), Some(tenant)) => Refusal::Wrong(rows_of(rows, tenant)).into(),
            (Refusal::Failed(why), Some(tenant)) if names_others(&why, tenant) => {
                tracing::error!("{why}");
                Refusal::Failed("something that is not this tenant's is in the way".to_owned()).into()
            }
            (refusal, _) => refusal.into(),
        })
    }

    /// As the audit log has them.
    pub(super) fn whoever(&self) -> Who {
        Who { user: self.who.name.clone(), from: self.from.to_string() }
    }

    pub(super) fn tenant(&self) -> Option<&str> {
        self.who.tenant.as_deref()
    }

    /// A source that they may see: of a user of one tenant, what is in force and their own candidate.
    pub(super) fn may_see(&self, source: Source) -> Result<Source, Problem> {
        match (&source, self.tenant()) {
            (Source::InForce, _) | (_, None) => Ok(source),
            _ => self.own_candidate(source),
        }
    }

    /// A source that is nothing but a candidate they may change.
    fn own_candidate(&self, source: Source) -> Result<Source, Problem> {
        let Some(tenant) = self.tenant() else { return Ok(source) };
        let own = Scope::Tenant(tenant.to_owned());
        match &source {
            Source::Candidates(scopes) if *scopes == [own.clone()] => Ok(source),
            _ => Err(Problem::new(StatusCode::FORBIDDEN, format!("yours is {own}, and that alone"))),
        }
    }

    /// A scope that is theirs. Asked for another one, there is none.
    fn own_scope(&self, scope: Scope) -> Result<Scope, Problem> {
        match (&scope, self.tenant()) {
            (_, None) => Ok(scope),
            (Scope::Tenant(name), Some(tenant)) if name == tenant => Ok(scope),
            (Scope::Tenant(name), Some(_)) => Err(unknown_tenant(name)),
            (Scope::Appliance, Some(tenant)) => {
                let detail = format!("this is of the whole box, and yours is tenant {tenant}");
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
        }
    }

    fn narrowed(&self, rows: Vec<ProblemRow>) -> Vec<ProblemRow> {
        match self.tenant() {
            Some(tenant) => rows_of(rows, tenant),
            None => rows,
        }
    }

    fn is_own_file(&self, file: &str) -> bool {
        self.tenant().is_none_or(|tenant| {
            Scope::of_file(file).and_then(|scope| scope.tenant()).as_deref() == Some(tenant)
        })
    }
}

/// What an entry tells, but for why a commit was taken back: somebody else may have been worse off by it.
fn without_reason(entry: &Entry) -> String {
    let of_all = entry.detail.split(':').next().unwrap_or_default();
    if entry.action == Action::Revert { of_all.to_owned() } else { entry.detail.clone() }
}

/// The files that the newest revision changed; `None` where that is not known.
fn changed_files(revisions: &[Revision]) -> Option<impl Iterator<Item = &str>> {
    let [last, before, ..] = revisions else { return None };
    Some(differing(&before.texts, &last.texts).map(String::as_str))
}

/// What is wrong with a configuration, as one tenant may see it: what is wrong elsewhere is counted, and who is named there is not.
fn rows_of(rows: Vec<ProblemRow>, tenant: &str) -> Vec<ProblemRow> {
    let own = Scope::Tenant(tenant.to_owned()).file();
    let (mut mine, others): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.file.as_ref().is_none_or(|file| *file == own));
    for row in mine.iter_mut().filter(|row| names_others(&row.message, tenant)) {
        "it does not go together with something that is not this tenant's; ask whoever runs the box"
            .clone_into(&mut row.message);
    }
    if !others.is_empty() {
        let count = others.len();
        mine.push(ProblemRow::of_all(format!(
            "{count} more outside this tenant's file; ask whoever runs the box"
        )));
    }
    mine
}

/// Whether a message speaks of another tenant, as messages do: `tenant "globex"`, `tenants/globex.toml`.
fn names_others(message: &str, tenant: &str) -> bool {
    ["tenant \"", "tenants/"].iter().any(|begins| {
        message.match_indices(begins).any(|(at, _)| {
            let name = message[at + begins.len()..].split(['"', '.']).next().unwrap_or_default();
            name != tenant
        })
    })
}

pub(super) fn source(
    Query(parameters): &Parameters,
    name: &'static str,
    default: Source,
) -> Result<Source, Problem> {
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

pub(super) fn read_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

fn tagged(reply: Reply) -> Result<Response, Problem> {
    let Reply::Candidate(candidate, tag) = reply else { return Err(unexpected()) };
    let header = HeaderValue::from_str(&format!("\"{tag}\""));
    let mut response = Json(CandidateAnswer { candidate, tag }).into_response();
    if let Ok(value) = header {
        response.headers_mut().insert(header::ETAG, value);
    }
    Ok(response)
}

pub(super) fn unexpected() -> Problem {
    tracing::error!("an answer to another question");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an answer to another question")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_a_tenant_without_who_else_there_is() {
        let row = |file: Option<&str>, message: &str| ProblemRow {
            file: file.map(str::to_owned),
            line: Some(4),
            message: message.to_owned(),
        };
        let acme = Some("tenants/acme.toml");
        let rows = vec![
            row(acme, "unknown key \"nonsense\""),
            row(acme, "198.51.100.0/29 is tenant \"globex\" handoff \"internet\"'s already"),
            row(acme, "198.51.100.0/29 is written at tenants/globex.toml:7 already"),
            row(acme, "tenant \"acme\" has two of these (tenants/acme.toml:3)"),
            row(Some("tenants/globex.toml"), "its pool is too small"),
            row(Some("popgate.toml"), "bad site"),
            row(None, "role: changes only with a restart"),
        ];
        let told = rows_of(rows.clone(), "acme");
        assert_eq!(told.len(), 6);
        assert_eq!([&told[0], &told[3], &told[4]], [&rows[0], &rows[3], &rows[6]]);
        assert!(told[5].message.starts_with("2 more outside"), "{told:?}");
        let all: String = told.iter().map(ToString::to_string).collect();
        assert!(!all.contains("globex") && !all.contains("198.51.100.0"), "{all}");
    }
}
