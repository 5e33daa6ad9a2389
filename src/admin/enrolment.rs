//! `/api/v1/enrolments` and `/api/v1/enrol`: codes for branches, the boxes that use them, and their approval; and `popgate enrol`, which puts
//! that to the running box. What the two ends tell each other is [`crate::enrol`]'s.
//!
//! A user of one tenant makes codes for that tenant's branches that are in its file already: who its branches are, and what prefixes
//! they have, is the provider's to say, here as in every commit.

use super::App;
use super::access::Denied;
use super::access::enrolments::{Claimant, Enrolment, NewEnrolment};
use super::access::hash_of_enrolment;
use super::accounts::{more_before, note, wrong};
use super::client::{Connection, ShowError, ask, delete, post, read, tell};
use super::config::{Asking, read_body, unexpected};
use super::guard::unknown_tenant;
use super::listen::Peer;
use super::problem::Problem;
use super::table::{Table, or_dash, utc};
use crate::config::{self, PublicKey};
use crate::control::audit::Action;
use crate::control::candidates::Scope;
use crate::control::commits::{PopFacts, Reply, Source, Terms, Verb};
use crate::control::revisions::Who;
use crate::enrol::insert::{KeyedPath, insert};
use crate::enrol::{
    Address, Claim, Code, Lan, LanAsked, Offer, OfferedPath, State as Stands, Step, TenantFile, proof,
};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use utoipa::ToSchema;

/// A day, unless it is said; 30 days at most.
const EXPIRES_SECS: u64 = 86_400;
const LONGEST_SECS: u64 = 30 * 86_400;
/// A branch has no more attachments.
const MOST_PATHS: usize = 16;
const MOST_PREFIXES: usize = 64;
/// What a box says of itself is shown to people.
const LONGEST_VERSION: usize = 32;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Enrolments {
    /// The newest first.
    enrolments: Vec<EnrolmentRow>,
}

/// A code that was made for a branch, and what has become of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct EnrolmentRow {
    id: i64,
    site: String,
    tenant: String,
    state: Stands,
    /// Of a branch that is new.
    prefixes: Vec<String>,
    paths: Vec<OfferedPath>,
    lan: Lan,
    maker: String,
    created_unix_ms: u64,
    expires_unix_ms: u64,
    /// Who has used it.
    claim: Option<ClaimRow>,
    /// Who approved, refused or revoked it.
    decider: Option<String>,
    decided_unix_ms: Option<u64>,
    /// That its keys came into force with.
    revision: Option<u64>,
}

/// A box that has used a code.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct ClaimRow {
    /// Its address, as it is seen here.
    from: String,
    version: String,
    unix_ms: u64,
    /// Of its public keys: the box shows the same.
    fingerprint: String,
}

/// A code to be.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct NewEnrolmentBody {
    /// The branch's name.
    site: String,
    tenant: String,
    /// Of a branch that is not in the tenant's file yet.
    #[serde(default)]
    prefixes: Vec<String>,
    /// Those that it is to have; unless they are named, those in the tenant's file, or else one to each transport that can be dialled.
    #[serde(default)]
    paths: Vec<PathBody>,
    /// What its LAN is to be, where that is not what its prefixes suggest.
    #[serde(default)]
    lan: LanAsked,
    /// Where the branch finds this box's admin server, as in `pop.example:443`; where it listens, unless it is said.
    #[serde(default)]
    admin: Vec<String>,
    /// A day, unless it is said.
    #[serde(default)]
    expires_in_secs: Option<u64>,
}

/// A path to be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct PathBody {
    name: String,
    /// This box's; the first that can be dialled, unless it is said.
    #[serde(default)]
    transport: Option<String>,
    /// Where the branch dials it; where it listens, unless it is said.
    #[serde(default)]
    endpoint: Option<String>,
}

/// The one time that a code is told.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct MadeCode {
    id: i64,
    code: String,
    expires_unix_ms: u64,
    /// What the branch's LAN will be.
    lan: Lan,
}

/// What an approval has made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Approved {
    /// That the keys are in force with.
    revision: Option<u64>,
}

// --- at the operator's

/// All, or one's tenant's.
pub(super) async fn list(State(app): State<App>, asking: Asking) -> Result<Json<Enrolments>, Problem> {
    let (tenant, now) = (asking.tenant().map(str::to_owned), app.control.now_unix_ms());
    let rows = app.access.stored(move |store| store.enrolments(tenant.as_deref(), now)).await?;
    Ok(Json(Enrolments { enrolments: rows.into_iter().map(row_of).collect() }))
}

fn row_of(it: Enrolment) -> EnrolmentRow {
    let claim = it.claim.map(|claim| ClaimRow {
        fingerprint: proof::fingerprint(&publics(&claim)),
        from: claim.from.to_string(),
        version: claim.version,
        unix_ms: claim.unix_ms,
    });
    EnrolmentRow {
        id: it.id,
        site: it.site,
        tenant: it.tenant,
        state: it.state,
        prefixes: it.prefixes,
        paths: it.paths,
        lan: it.lan,
        maker: it.maker,
        created_unix_ms: it.created_unix_ms,
        expires_unix_ms: it.expires_unix_ms,
        claim,
        decider: it.decider,
        decided_unix_ms: it.decided_unix_ms,
        revision: it.revision,
    }
}

fn publics(claim: &Claimant) -> Vec<(&str, PublicKey)> {
    claim.keys.iter().filter_map(|(path, key)| Some((path.as_str(), key.parse().ok()?))).collect()
}

/// Makes a code, and tells it this once.
pub(super) async fn make(State(app): State<App>, asking: Asking, body: Bytes) -> Result<Response, Problem> {
    let body: NewEnrolmentBody = read_body(&body)?;
    if asking.tenant().is_some_and(|own| own != body.tenant) {
        return Err(unknown_tenant(&body.tenant));
    }
    let text = tenants_text(&app, &asking, &body.tenant).await?;
    let site = config::name(&body.site).map_err(wrong("site"))?;
    let file = InFile::of(&text, &site);
    let prefixes = prefixes(&body.prefixes, &file, asking.tenant().is_some())?;
    let its: Vec<IpNetwork> =
        prefixes.iter().chain(&file.prefixes).filter_map(|text| config::prefix(text).ok()).collect();
    let lan = Lan::of(&body.lan, &its).map_err(wrong("lan"))?;
    let facts = facts(&app, &asking).await?;
    let paths = paths(&body.paths, &file, &facts)?;
    let (addresses, pin) = (addresses(&app, &body.admin)?, pin(&app)?);
    let lasts = body.expires_in_secs.unwrap_or(EXPIRES_SECS);
    if !(1..=LONGEST_SECS).contains(&lasts) {
        return Err(wrong("expires-in-secs")(format!("1 to {LONGEST_SECS}: 30 days at most")));
    }
    let now = app.control.now_unix_ms();
    let expires_unix_ms = now + lasts * 1_000;
    let secret = app.access.new_enrolment();
    let new = NewEnrolment {
        hash: hash_of_enrolment(&secret),
        site: site.clone(),
        tenant: body.tenant.clone(),
        prefixes,
        paths,
        lan: lan.clone(),
        maker: asking.whoever().user,
        expires_unix_ms,
    };
    let id = app.access.stored(move |store| store.add_enrolment(&new, now)).await?;
    let detail = format!("{site}: a code is made, enrolment {id}, good until {}", utc(expires_unix_ms));
    note(&app, asking.whoever(), Action::Enrolment, Some(body.tenant), detail).await;
    let expires_unix_secs = u32::try_from(expires_unix_ms / 1_000).unwrap_or(u32::MAX);
    let code = Code { site, addresses, pin, pop_key: facts.public_key, expires_unix_secs, secret };
    let made = MadeCode { id, code: code.to_string(), expires_unix_ms, lan };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn tenants_text(app: &App, asking: &Asking, tenant: &str) -> Result<String, Problem> {
    match asking.ask(app, Verb::Texts(Source::InForce)).await? {
        Reply::Texts(mut texts) => {
            texts.remove(&Scope::Tenant(tenant.to_owned()).file()).ok_or_else(|| unknown_tenant(tenant))
        }
        _ => Err(unexpected()),
    }
}

async fn facts(app: &App, asking: &Asking) -> Result<PopFacts, Problem> {
    match asking.ask(app, Verb::Pop).await? {
        Reply::Pop(facts) => Ok(facts),
        _ => Err(unexpected()),
    }
}

/// What the tenant's file says of a branch.
#[derive(Default)]
struct InFile {
    is_there: bool,
    prefixes: Vec<String>,
    /// By name: the PoP's transport, and whether there is a preshared key.
    paths: Vec<(String, Option<String>, bool)>,
}

impl InFile {
    /// What is in force can be read.
    fn of(text: &str, site: &str) -> InFile {
        let table: toml::Table = text.parse().unwrap_or_default();
        let tables = |table: &toml::Table, key: &str| -> Vec<toml::Table> {
            let all = table.get(key).and_then(toml::Value::as_array);
            all.into_iter().flatten().filter_map(|it| it.as_table().cloned()).collect()
        };
        let text =
            |table: &toml::Table, key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let branch =
            tables(&table, "branch").into_iter().find(|it| text(it, "name").as_deref() == Some(site));
        let Some(branch) = branch else { return InFile::default() };
        let path = |path: toml::Table| {
            Some((text(&path, "name")?, text(&path, "transport"), path.contains_key("preshared-key-file")))
        };
        let prefixes = branch.get("prefixes").and_then(toml::Value::as_array).into_iter().flatten();
        let prefixes = prefixes.filter_map(|it| it.as_str().map(str::to_owned)).collect();
        InFile {
            is_there: true,
            prefixes,
            paths: tables(&branch, "path").into_iter().filter_map(path).collect(),
        }
    }
}

fn prefixes(asked: &[String], file: &InFile, by_tenant: bool) -> Result<Vec<String>, Problem> {
    let wrong = wrong("prefixes");
    if file.is_there {
        return if asked.is_empty() {
            Ok(Vec::new())
        } else {
            Err(wrong("the branch is in the tenant's file, with its own".to_owned()))
        };
    }
    if !(1..=MOST_PREFIXES).contains(&asked.len()) {
        return Err(wrong(format!(
            "the branch is not in the tenant's file yet: 1 to {MOST_PREFIXES} are needed"
        )));
    }
    if by_tenant {
        let detail = "who the tenant's branches are, whoever runs the box says: they put the branch into the tenant's file, or \
                      make the code";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    asked.iter().map(|text| config::prefix(text).map(|_| text.clone()).map_err(&wrong)).collect()
}

/// The paths, each with a transport of this box's and where that is dialled.
fn paths(asked: &[PathBody], file: &InFile, facts: &PopFacts) -> Result<Vec<OfferedPath>, Problem> {
    let wrong = wrong("paths");
    let body = |name: &str, transport: Option<&str>| PathBody {
        name: name.to_owned(),
        transport: transport.map(str::to_owned),
        endpoint: None,
    };
    let dialled = |listen: &SocketAddr| !listen.ip().is_unspecified() && !listen.ip().is_loopback();
    let can_be_dialled = || facts.transports.iter().filter(|(_, listen)| dialled(listen));
    let asked: Vec<PathBody> = match (asked, &*file.paths) {
        ([], []) => can_be_dialled().map(|(name, _)| body(name, Some(name))).collect(),
        ([], there) => there.iter().map(|(name, transport, _)| body(name, transport.as_deref())).collect(),
        (asked, _) => asked.to_vec(),
    };
    if asked.is_empty() {
        return Err(wrong(
            "no transport listens on an address that can be dialled: name a path with its endpoint"
                .to_owned(),
        ));
    }
    if asked.len() > MOST_PATHS {
        return Err(wrong(format!("a branch has at most {MOST_PATHS}")));
    }
    let mut paths: Vec<OfferedPath> = Vec::new();
    for path in asked {
        let name = config::name(&path.name).map_err(&wrong)?;
        if paths.iter().any(|other| other.name == name) {
            return Err(wrong(format!("{name:?} comes twice")));
        }
        if file.paths.iter().any(|(its, _, has_preshared)| *its == name && *has_preshared) {
            return Err(wrong(format!(
                "{name:?} has a preshared key, which no code carries: take it out of the tenant's file first"
            )));
        }
        let transport = match &path.transport {
            Some(wanted) => facts.transports.iter().find(|(name, _)| name == wanted),
            None => can_be_dialled().next().or(facts.transports.first()),
        };
        let (transport, listen) = transport.ok_or_else(|| {
            wrong(format!("there is no transport {:?}", path.transport.unwrap_or_default()))
        })?;
        let endpoint = match &path.endpoint {
            Some(text) => match text.parse() {
                Ok(Address::At(endpoint)) => endpoint,
                _ => {
                    return Err(wrong(format!(
                        "{text:?} is not an address with a port, as in \"192.0.2.1:51820\""
                    )));
                }
            },
            None if dialled(listen) => *listen,
            None => {
                return Err(wrong(format!(
                    "transport {transport:?} listens on {listen}, which nobody can dial: say by which endpoint it is reached"
                )));
            }
        };
        paths.push(OfferedPath { name, transport: transport.clone(), endpoint });
    }
    Ok(paths)
}

/// Where branches find the admin server.
fn addresses(app: &App, asked: &[String]) -> Result<Vec<Address>, Problem> {
    let wrong = wrong("admin");
    // The first is on loopback.
    let doors = app.hosts.listen.get(1..).unwrap_or_default();
    let own = doors.iter().filter(|listen| !listen.ip().is_unspecified()).map(|listen| Address::At(*listen));
    let port = doors.first().map(SocketAddr::port);
    let named = app.hosts.names.iter().filter_map(|name| Some(Address::Named(Box::new(*name), port?)));
    let addresses: Vec<Address> = if asked.is_empty() {
        own.chain(named).take(crate::enrol::MOST_ADDRESSES).collect()
    } else {
        asked.iter().map(|text| text.parse().map_err(&wrong)).collect::<Result<_, _>>()?
    };
    match addresses.len() {
        0 => Err(wrong(
            "it listens on all addresses: say by which a branch finds it, or write names into [admin]"
                .to_owned(),
        )),
        1..=crate::enrol::MOST_ADDRESSES => Ok(addresses),
        _ => Err(wrong(format!("a code has room for {}", crate::enrol::MOST_ADDRESSES))),
    }
}

fn pin(app: &App) -> Result<[u8; 32], Problem> {
    app.shown.as_ref().and_then(|shown| shown.pin()).ok_or_else(|| {
        let detail = "branches reach this box over TLS, and nothing listens there: write tls-listen into [admin] first";
        Problem::new(StatusCode::CONFLICT, detail)
    })
}

/// Puts a box's keys in force.
pub(super) async fn approve(
    State(app): State<App>,
    asking: Asking,
    Path(id): Path<String>,
) -> Result<Json<Approved>, Problem> {
    let it = one(&app, &asking, &id).await?;
    let claim = it
        .claim
        .as_ref()
        .filter(|_| it.state == Stands::Claimed)
        .ok_or_else(|| is_not(&it, Stands::Claimed))?;
    let scope = Scope::Tenant(it.tenant.clone());
    let conflict = |detail: String| Problem::new(StatusCode::CONFLICT, detail);
    match asking.ask(&app, Verb::State).await? {
        Reply::State(state) if state.unconfirmed.is_some() => {
            return Err(conflict(
                "another commit waits to be confirmed: confirm it, or let it be taken back, first".to_owned(),
            ));
        }
        Reply::State(state) if state.candidates.iter().any(|open| open.scope == scope.to_string()) => {
            return Err(conflict(format!("a candidate of {scope} is open: commit it, or discard it, first")));
        }
        Reply::State(_) => {}
        _ => return Err(unexpected()),
    }
    let text = tenants_text(&app, &asking, &it.tenant).await?;
    let keys: BTreeMap<&str, PublicKey> = publics(claim).into_iter().collect();
    let keyed = it.paths.iter().filter_map(|path| {
        let key = *keys.get(path.name.as_str())?;
        Some(KeyedPath { name: path.name.clone(), transport: path.transport.clone(), key })
    });
    let keyed: Vec<KeyedPath> = keyed.collect();
    let new = insert(&text, &it.site, &it.prefixes, &keyed).map_err(conflict)?;
    // The same keys again: the box went down between the commit and what is noted below.
    let revision =
        if new == text { None } else { Some(put_in_force(&app, &asking, &scope, new, &it.site).await?) };
    let (by, now) = (asking.whoever().user, app.control.now_unix_ms());
    let number = it.id;
    let step = (Stands::Claimed, Stands::Approved);
    if !app.access.stored(move |store| store.decide(number, step, &by, revision, now)).await? {
        return Err(conflict("somebody else has decided meanwhile".to_owned()));
    }
    let detail =
        format!("{}: enrolment {number} is approved, keys {}", it.site, proof::fingerprint(&publics(claim)));
    note(&app, asking.whoever(), Action::Enrolment, Some(it.tenant), detail).await;
    Ok(Json(Approved { revision }))
}

/// By a candidate of the tenant's, as everything is committed; what is refused leaves none.
async fn put_in_force(
    app: &App,
    asking: &Asking,
    scope: &Scope,
    text: String,
    site: &str,
) -> Result<u64, Problem> {
    let Reply::Candidate(_, tag) = asking.ask(app, Verb::Candidate(scope.clone())).await? else {
        return Err(unexpected());
    };
    let put = Verb::Put { scope: scope.clone(), text: Some(text), expected: tag };
    let Reply::Candidate(_, tag) = asking.ask(app, put).await? else { return Err(unexpected()) };
    let terms = Terms { confirm: None, comment: Some(format!("enrolment of {site}")), policy_alone: false };
    match asking.ask(app, Verb::Commit(Source::Candidates(vec![scope.clone()]), terms)).await {
        Ok(Reply::Committed(committed)) => Ok(committed.revision),
        Ok(_) => Err(unexpected()),
        Err(problem) => {
            asking.ask(app, Verb::Discard { scope: scope.clone(), expected: tag }).await?;
            Err(problem)
        }
    }
}

/// A box that is not the one that is meant.
pub(super) async fn refuse(
    State(app): State<App>,
    asking: Asking,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    decide(&app, &asking, &id, &[Stands::Claimed], Stands::Refused).await
}

/// A code that is not to be used any more. What is in force stays.
pub(super) async fn revoke(
    State(app): State<App>,
    asking: Asking,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    decide(&app, &asking, &id, &[Stands::Open, Stands::Claimed, Stands::Approved], Stands::Revoked).await
}

async fn decide(
    app: &App,
    asking: &Asking,
    id: &str,
    from: &[Stands],
    to: Stands,
) -> Result<StatusCode, Problem> {
    let it = one(app, asking, id).await?;
    let before = *from.iter().find(|state| **state == it.state).ok_or_else(|| is_not(&it, from[0]))?;
    let (by, now, number) = (asking.whoever().user, app.control.now_unix_ms(), it.id);
    if !app.access.stored(move |store| store.decide(number, (before, to), &by, None, now)).await? {
        return Err(Problem::new(StatusCode::CONFLICT, "somebody else has decided meanwhile"));
    }
    let detail = format!("{}: enrolment {number} is {}", it.site, to.name());
    note(app, asking.whoever(), Action::Enrolment, Some(it.tenant), detail).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn one(app: &App, asking: &Asking, id: &str) -> Result<Enrolment, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no enrolment {id}"));
    let number: i64 = id.parse().map_err(|_| unknown())?;
    let (tenant, now) = (asking.tenant().map(str::to_owned), app.control.now_unix_ms());
    Ok(app.access.stored(move |store| store.enrolment(number, tenant.as_deref(), now)).await?)
}

fn is_not(it: &Enrolment, wanted: Stands) -> Problem {
    let detail = format!("enrolment {} is {}, and not {}", it.id, it.state.name(), wanted.name());
    Problem::new(StatusCode::CONFLICT, detail)
}

// --- at the branch's

/// What a branch asks, again and again until it is done.
pub(super) async fn claim(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Json<Offer>, Problem> {
    let claim: Claim = read_body(&body)?;
    let now = app.control.now_unix_ms();
    let it = match app.access.enrolment_of(&claim.secret, from.ip(), now).await {
        Ok(it) => it,
        Err(Denied::Wrong) => {
            if let Some(left_out) = app.access.note_failure(now) {
                let detail = format!("a code that opens nothing{}", more_before(left_out));
                note(&app, box_at(from), Action::Enrolment, None, detail).await;
            }
            return Err(Problem::new(StatusCode::FORBIDDEN, "this code opens nothing here"));
        }
        Err(denied) => return Err(denied.into()),
    };
    let gone = |detail: &str| Err(Problem::new(StatusCode::GONE, detail));
    match it.state {
        Stands::Expired => return gone("this code is too old: ask for another"),
        Stands::Revoked => return gone("this code was revoked: ask for another"),
        Stands::Refused => return gone("this box was refused: ask whoever gave you the code"),
        Stands::Open | Stands::Claimed | Stands::Approved | Stands::Finished => {}
    }
    if claim.step == Step::Look {
        return Ok(Json(offer(&app, &it, it.state, None)));
    }
    let claimant = proved(&app, &claim, &it, from, now).await?;
    let is_same = it.claim.as_ref().is_some_and(|before| before.keys == claimant.keys);
    let state = match (it.state, is_same) {
        (Stands::Open, _) => {
            let (number, taken) = (it.id, claimant.clone());
            if !app.access.stored(move |store| store.claim(number, &taken)).await? {
                return Err(used());
            }
            let print = proof::fingerprint(&publics(&claimant));
            let detail = format!("{}: a box claims enrolment {number}, keys {print}", it.site);
            note(&app, box_at(from), Action::Enrolment, Some(it.tenant.clone()), detail).await;
            Stands::Claimed
        }
        (state, true) => state,
        (_, false) => return Err(used()),
    };
    if state == Stands::Approved && claim.step == Step::Done {
        let number = it.id;
        app.access.stored(move |store| store.advance(number, Stands::Approved, Stands::Finished)).await?;
        let detail = format!("{}: enrolment {number} is finished, the box has its configuration", it.site);
        note(&app, box_at(from), Action::Enrolment, Some(it.tenant.clone()), detail).await;
        return Ok(Json(offer(&app, &it, Stands::Finished, None)));
    }
    let is_in_force = matches!(state, Stands::Approved | Stands::Finished);
    let tenant = if is_in_force { Some(policy(&app, &it, from).await?) } else { None };
    Ok(Json(offer(&app, &it, state, tenant)))
}

fn used() -> Problem {
    Problem::new(StatusCode::CONFLICT, "this code has been used, by a box with other keys: ask for another")
}

fn offer(app: &App, it: &Enrolment, state: Stands, tenant: Option<TenantFile>) -> Offer {
    Offer { state, pop: app.control.site().to_owned(), paths: it.paths.clone(), lan: it.lan.clone(), tenant }
}

/// In the audit log: nobody signs in there.
fn box_at(from: SocketAddr) -> Who {
    Who { user: "a branch".to_owned(), from: from.to_string() }
}

/// Who claims, if there is a key for each path and they have the private halves of them.
async fn proved(
    app: &App,
    claim: &Claim,
    it: &Enrolment,
    from: SocketAddr,
    now: u64,
) -> Result<Claimant, Problem> {
    let wrong = wrong("keys");
    let mut keys = Vec::new();
    let mut proofs = Vec::new();
    for path in &it.paths {
        let found = claim.keys.iter().find(|key| key.path == path.name);
        let found = found.filter(|_| claim.keys.len() == it.paths.len());
        let found = found.ok_or_else(|| wrong("there must be one for each path".to_owned()))?;
        let public: PublicKey =
            found.public_key.parse().map_err(|error| wrong(format!("{}: {error}", path.name)))?;
        keys.push((path.name.as_str(), public));
        proofs.push((public, STANDARD.decode(&found.proof).unwrap_or_default()));
    }
    // As it was, to the bit: the same secret in other letters is the same.
    let secret = crate::enrol::Secret::from_letters(&claim.secret).ok_or_else(used)?;
    let said = proof::transcript(&secret, &it.site, &keys);
    match app.control.commits(box_at(from), Verb::Prove { said, proofs }).await? {
        Reply::Proved(true) => {}
        Reply::Proved(false) => return Err(wrong("their private halves are somebody else's".to_owned())),
        _ => return Err(unexpected()),
    }
    let mut keys: Vec<(String, String)> =
        keys.into_iter().map(|(path, key)| (path.to_owned(), key.to_string())).collect();
    keys.sort();
    let is_plain =
        claim.version.len() <= LONGEST_VERSION && claim.version.bytes().all(|it| it.is_ascii_graphic());
    let version = if is_plain { claim.version.clone() } else { "?".to_owned() };
    Ok(Claimant { from: from.ip().to_canonical(), version, unix_ms: now, keys })
}

/// The tenant's policy, as it is in force.
async fn policy(app: &App, it: &Enrolment, from: SocketAddr) -> Result<TenantFile, Problem> {
    match app.control.commits(box_at(from), Verb::Texts(Source::InForce)).await? {
        Reply::Texts(mut texts) => {
            let text = texts.remove(&Scope::Tenant(it.tenant.clone()).file());
            let text = text.ok_or_else(|| Problem::new(StatusCode::GONE, "the tenant is no more"))?;
            Ok(TenantFile { name: it.tenant.clone(), text })
        }
        _ => Err(unexpected()),
    }
}

// --- the command

/// What `popgate enrol` does at a PoP.
#[derive(Clone, Debug, Subcommand)]
pub enum EnrolWhat {
    /// Make a code for a branch, good for one box: prints it, this once
    New(Box<NewArgs>),
    /// Show all codes, and the boxes that use them
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Put a box's keys in force: compare the fingerprint with the one that it shows
    Approve(IdArgs),
    /// Turn a box away that is not the one that is meant
    Refuse(IdArgs),
    /// Make a code worthless
    Revoke(IdArgs),
}

#[derive(Clone, Debug, Args)]
pub struct NewArgs {
    /// The branch's name
    site: String,
    #[arg(long)]
    tenant: String,
    /// Of a branch that is not in the tenant's file yet; may be given several times
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// A path that it is to have, the PoP's transport, and where that is dialled: NAME[=TRANSPORT[@ADDRESS:PORT]]
    #[arg(long = "path", value_name = "PATH", value_parser = path_body)]
    paths: Vec<PathBody>,
    /// The box's own address on the branch's LAN, or none to leave that as it is; may be given several times [default: the first of its
    /// prefix]
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    lan: Vec<String>,
    /// What its hosts are given by DHCP, or none [default: the half of the network that the box is not in]
    #[arg(long, value_name = "FIRST-LAST")]
    dhcp: Option<String>,
    /// A resolver that they are to have; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Where the branch finds the PoP's admin server: pop.example:443
    #[arg(long, value_name = "HOST:PORT")]
    admin: Vec<String>,
    /// For how long it can be used, 30d at most [default: 24h]
    #[arg(long, value_parser = config::duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Debug, Args)]
pub struct IdArgs {
    /// The number in the list
    id: i64,
    #[command(flatten)]
    connection: Connection,
}

/// `NAME[=TRANSPORT[@ADDRESS:PORT]]`
fn path_body(text: &str) -> Result<PathBody, String> {
    let (name, rest) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let name = config::name(name)?;
    let Some(rest) = rest else { return Ok(PathBody { name, transport: None, endpoint: None }) };
    let (transport, endpoint) =
        rest.split_once('@').map_or((rest, None), |(its, at)| (its, Some(at.to_owned())));
    Ok(PathBody { name, transport: Some(transport.to_owned()), endpoint })
}

/// Runs `popgate enrol new`, `list`, `approve`, `refuse` or `revoke`.
pub fn enrol(what: &EnrolWhat) -> ExitCode {
    tell("enrol", text(what))
}

pub(super) fn text(what: &EnrolWhat) -> Result<String, ShowError> {
    match what {
        EnrolWhat::New(args) => {
            let NewArgs { site, tenant, prefixes, paths, lan, dhcp, dns, admin, expires, connection } =
                &**args;
            let addresses = match &**lan {
                [] => None,
                [none] if none == "none" => Some(Vec::new()),
                given => Some(given.to_vec()),
            };
            let body = NewEnrolmentBody {
                site: site.clone(),
                tenant: tenant.clone(),
                prefixes: prefixes.clone(),
                paths: paths.clone(),
                lan: LanAsked { addresses, dhcp: dhcp.clone(), dns: dns.clone() },
                admin: admin.clone(),
                expires_in_secs: expires.map(|it| it.as_secs()),
            };
            let answer = post(connection, "enrolments", &body)?;
            if connection.json {
                return Ok(answer + "\n");
            }
            let made: MadeCode = read(&answer)?;
            // Beside the code, which may be piped to where it is needed.
            eprintln!("the branch's LAN: {}", made.lan);
            Ok(made.code + "\n")
        }
        EnrolWhat::List { connection } => {
            let answer = ask(connection, "enrolments", Vec::new())?;
            if connection.json { Ok(answer + "\n") } else { Ok(table(&read(&answer)?)) }
        }
        EnrolWhat::Approve(IdArgs { id, connection }) => {
            let answer = post(connection, &format!("enrolments/{id}/approve"), &())?;
            if connection.json {
                return Ok(answer + "\n");
            }
            let made = read::<Approved>(&answer)?.revision;
            Ok(made.map_or_else(String::new, |revision| format!("revision {revision}\n")))
        }
        EnrolWhat::Refuse(IdArgs { id, connection }) => {
            post(connection, &format!("enrolments/{id}/refuse"), &()).map(|_| String::new())
        }
        EnrolWhat::Revoke(IdArgs { id, connection }) => {
            delete(connection, &format!("enrolments/{id}")).map(|_| String::new())
        }
    }
}

fn table(Enrolments { enrolments }: &Enrolments) -> String {
    if enrolments.is_empty() {
        return "no enrolments: `popgate enrol new SITE --tenant TENANT` makes a code\n".to_owned();
    }
    let mut table = Table::new(&[
        ">ID",
        "SITE",
        "TENANT",
        "STATE",
        "FROM",
        "VERSION",
        "FINGERPRINT",
        "EXPIRES",
        "MADE BY",
        "DECIDED BY",
    ]);
    for row in enrolments {
        let claim = row.claim.as_ref();
        table.row([
            row.id.to_string(),
            row.site.clone(),
            row.tenant.clone(),
            row.state.name().to_owned(),
            or_dash(claim.map(|claim| claim.from.clone())),
            or_dash(claim.map(|claim| claim.version.clone())),
            or_dash(claim.map(|claim| claim.fingerprint.clone())),
            utc(row.expires_unix_ms),
            row.maker.clone(),
            or_dash(row.decider.clone()),
        ]);
    }
    table.render()
}
