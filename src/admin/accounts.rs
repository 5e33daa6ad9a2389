//! `/api/v1/session`, `/setup`, `/users` and `/tokens`: who one is, and who may come in.
//!
//! Each change is written into the audit log, under the name of whoever made it. Whoever changes how they sign in, or what they
//! are, is signed in anew: a session that somebody else knows of is then worth nothing.

use super::access::oidc::NAME_PREFIX;
use super::access::store::{ApiToken, LONGEST_TOKEN_MS, NewToken, NewUser, User};
use super::access::totp::{Secret, qr};
use super::access::{By, Denied, Pending, Principal, Role, check_name, password};
use super::config::read_body;
use super::guard::{COOKIE, session_cookie};
use super::listen::Peer;
use super::problem::Problem;
use super::{App, worker_patience};
use crate::control::audit::Action;
use crate::control::commits::Verb;
use crate::control::revisions::Who;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// Who one is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Me {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) tenant: Option<String>,
    /// A user who has signed in; otherwise a token, or root on the box.
    pub(super) is_user: bool,
    /// They have signed in at a provider: what they sign in with, and what they may, is not changed here.
    pub(super) is_vouched: bool,
    pub(super) pending: Option<Pending>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct SignInBody {
    name: String,
    password: String,
    /// Of the second factor, where there is one.
    #[serde(default)]
    code: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct PasswordBody {
    old: String,
    new: String,
}

/// A second factor, to be put into an app.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TotpProposal {
    /// As one types it.
    secret: String,
    /// The same for an app to read: `otpauth://…`, also as a picture of so many squares each way, the black ones being the path of
    /// an SVG.
    uri: String,
    qr_size: usize,
    qr_path: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct TotpBody {
    password: String,
    secret: String,
    /// That the app shows by now: it has understood.
    code: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct SetupBody {
    secret: String,
    /// Who is going to be the first user: what their app calls it.
    #[serde(default)]
    name: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct FirstUserBody {
    secret: String,
    name: String,
    password: String,
    totp_secret: String,
    code: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Users {
    pub(super) users: Vec<User>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct NewUserBody {
    pub(super) name: String,
    pub(super) role: Role,
    #[serde(default)]
    pub(super) tenant: Option<String>,
    /// They are asked for another one when they have signed in.
    pub(super) password: String,
}

/// What is to be changed; what is not there stays.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct UserChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) access: Option<RoleBody>,
    /// They are asked for another one when they have signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<String>,
    /// The second factor is lost: they are asked for another one when they have signed in.
    #[serde(default)]
    pub(super) reset_totp: bool,
    #[serde(default)]
    pub(super) end_sessions: bool,
    /// Whether they are kept out, whatever they come with; what they have is there when they are not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disabled: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RoleBody {
    pub(super) role: Role,
    #[serde(default)]
    pub(super) tenant: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Tokens {
    pub(super) tokens: Vec<ApiToken>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct NewTokenBody {
    pub(super) name: String,
    pub(super) role: Role,
    #[serde(default)]
    pub(super) tenant: Option<String>,
    pub(super) expires_in_secs: u64,
}

/// The one time that a token is told.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct MadeToken {
    pub(super) id: i64,
    pub(super) token: String,
}

// --- signing in and out

pub(super) async fn who_am_i(who: Principal) -> Json<Me> {
    Json(me(who))
}

fn me(who: Principal) -> Me {
    let (is_user, is_vouched) = (who.user().is_some(), who.user().is_some_and(is_vouched));
    Me { name: who.name, role: who.role, tenant: who.tenant, is_user, is_vouched, pending: who.pending }
}

/// Whether a user's name is one of those whom a provider vouches for.
fn is_vouched(name: &str) -> bool {
    name.starts_with(NAME_PREFIX)
}

/// A session that was there already is over, whoever began it.
pub(super) async fn sign_in(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let SignInBody { name, password, code } = read_body(&body)?;
    let now = app.control.now_unix_ms();
    match app.access.sign_in(&name, &password, code.as_deref(), from.ip(), now).await {
        Ok(secret) => {
            if let Some(old) = session_cookie(&headers) {
                app.access.end(old).await?;
            }
            signed_in(&app, from, &secret).await
        }
        Err(denied) => {
            if matches!(denied, Denied::Wrong | Denied::WrongCode | Denied::Limited(_))
                && let Some(left_out) = app.access.note_failure(now)
            {
                let why = match &denied {
                    Denied::WrongCode => "a wrong code",
                    Denied::Limited(_) => "too many tries",
                    _ => "a wrong name or password",
                };
                // Whatever was typed: it may have been the password.
                let known = check_name(&name).map_or_else(|_| "?".to_owned(), |()| name.clone());
                let who = Who { user: known, from: from.to_string() };
                note(&app, who, Action::SignInFailed, None, format!("{why}{}", more_before(left_out))).await;
            }
            Err(denied.into())
        }
    }
}

/// What is said of failures that were not written down.
pub(super) fn more_before(left_out: u64) -> String {
    if left_out > 0 { format!(", and {left_out} more before") } else { String::new() }
}

/// The answer that sets the cookie.
async fn signed_in(app: &App, from: SocketAddr, secret: &str) -> Result<Response, Problem> {
    let who = app
        .access
        .of_cookie(secret, app.control.now_unix_ms(), true)
        .await
        .ok_or_else(Problem::unauthorized)?;
    let by = Who { user: who.name.clone(), from: from.to_string() };
    note(app, by, Action::SignIn, who.tenant.clone(), String::new()).await;
    Ok(([cookie(secret)], Json(me(who))).into_response())
}

/// It lasts as long as the browser's session at most; the box ends it before.
pub(super) fn cookie(secret: &str) -> (HeaderName, String) {
    (header::SET_COOKIE, format!("{COOKIE}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict"))
}

pub(super) async fn sign_out(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
) -> Result<Response, Problem> {
    let By::Session { hash, .. } = who.by else { return Err(not_a_user()) };
    app.access.stored(move |store| store.end_session(&hash)).await?;
    let by = Who { user: who.name, from: from.to_string() };
    note(&app, by, Action::SignOut, who.tenant, String::new()).await;
    let gone = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response())
}

/// A user who signs in with a password here.
fn own_account(who: &Principal) -> Result<String, Problem> {
    let user = who.user().ok_or_else(not_a_user)?;
    if is_vouched(user) {
        let detail = "what you sign in with is your provider's: change it there";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(user.to_owned())
}

fn not_a_user() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "this is for users who have signed in, and neither for tokens nor root on the box",
    )
}

// --- one's own account

/// All other sessions end, and this one goes on under another secret.
pub(super) async fn change_password(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
    body: Bytes,
) -> Result<Response, Problem> {
    let PasswordBody { old, new } = read_body(&body)?;
    let user = own_account(&who)?;
    app.access.is_password_of(&user, &old, from.ip(), app.control.now_unix_ms()).await.map_err(own("old"))?;
    password::check(&new).map_err(wrong("new"))?;
    if new == old {
        return Err(wrong("new")("it is the one there is".to_owned()));
    }
    let kept = app.access.hash(&new).await?;
    let name = user.clone();
    app.access.stored(move |store| store.set_password(&name, &kept, false)).await?;
    let by = Who { user: who.name, from: from.to_string() };
    note(&app, by, Action::UserChange, who.tenant, format!("{user}: another password, by themselves")).await;
    anew(&app, from, &user).await
}

/// Another second factor, which counts once it is brought back with a code.
pub(super) async fn propose_totp(
    State(app): State<App>,
    who: Principal,
) -> Result<Json<TotpProposal>, Problem> {
    proposal(&app, &own_account(&who)?).map(Json)
}

fn proposal(app: &App, user: &str) -> Result<TotpProposal, Problem> {
    let secret = app.access.new_totp();
    let uri = secret.uri(user, app.control.site());
    let (qr_size, qr_path) =
        qr(&uri).ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no picture can be drawn"))?;
    Ok(TotpProposal { secret: secret.to_base32(), uri, qr_size, qr_path })
}

/// All other sessions end, and this one goes on under another secret.
pub(super) async fn enrol_totp(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
    body: Bytes,
) -> Result<Response, Problem> {
    let TotpBody { password, secret, code } = read_body(&body)?;
    let user = own_account(&who)?;
    let now = app.control.now_unix_ms();
    app.access.is_password_of(&user, &password, from.ip(), now).await.map_err(own("password"))?;
    let totp = proved(&secret, "secret", &code, now)?;
    let name = user.clone();
    app.access.stored(move |store| store.set_totp(&name, Some(totp))).await?;
    let by = Who { user: who.name, from: from.to_string() };
    note(&app, by, Action::UserChange, who.tenant, format!("{user}: another second factor, by themselves"))
        .await;
    anew(&app, from, &user).await
}

/// A second factor whose code somebody has brought.
fn proved(secret: &str, parameter: &str, code: &str, now: u64) -> Result<(Secret, u64), Problem> {
    let secret = Secret::from_base32(secret).ok_or_else(|| {
        Problem::parameter(parameter, format!("{parameter}: it is not one that was made here"))
    })?;
    let step = secret.step_of(code, 0, now).ok_or_else(|| wrong("code")(WRONG_CODE.to_owned()))?;
    Ok((secret, step))
}

const WRONG_CODE: &str = "it is not the code of this half minute; is the clock of the phone right?";

async fn anew(app: &App, from: SocketAddr, user: &str) -> Result<Response, Problem> {
    let name = user.to_owned();
    app.access.stored(move |store| store.end_sessions(&name, None)).await?;
    let secret = app.access.begin_session(user, app.control.now_unix_ms()).await?;
    signed_in(app, from, &secret).await
}

// --- the first user

/// Whether the link still holds, with a second factor to be.
pub(super) async fn look_at_setup(
    State(app): State<App>,
    body: Bytes,
) -> Result<Json<TotpProposal>, Problem> {
    let SetupBody { secret, name } = read_body(&body)?;
    if !app.access.is_setup(&secret, app.control.now_unix_ms()).await? {
        return Err(no_setup());
    }
    proposal(&app, name.as_deref().unwrap_or("owner")).map(Json)
}

fn no_setup() -> Problem {
    let detail =
        "this link has been used, or is older than a day; on the box, `popgate setup-link` prints another";
    Problem::new(StatusCode::FORBIDDEN, detail)
}

/// Makes the first owner, and signs them in.
pub(super) async fn set_up(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Response, Problem> {
    let FirstUserBody { secret, name, password, totp_secret, code } = read_body(&body)?;
    let now = app.control.now_unix_ms();
    if !app.access.is_setup(&secret, now).await? {
        return Err(no_setup());
    }
    check_name(&name).map_err(wrong("name"))?;
    password::check(&password).map_err(wrong("password"))?;
    let totp = proved(&totp_secret, "totp-secret", &code, now)?;
    let kept = app.access.hash(&password).await?;
    app.access.set_up(&name, &kept, totp, now).await?;
    let by = Who { user: name.clone(), from: from.to_string() };
    note(&app, by, Action::UserChange, None, format!("{name}: the first owner, by the setup link")).await;
    let secret = app.access.begin_session(&name, now).await?;
    signed_in(&app, from, &secret).await
}

// --- users

pub(super) async fn users(State(app): State<App>) -> Result<Json<Users>, Problem> {
    let now = app.control.now_unix_ms();
    Ok(Json(Users { users: app.access.stored(move |store| store.users(now)).await? }))
}

pub(super) async fn add_user(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let NewUserBody { name, role, tenant, password } = read_body(&body)?;
    check_name(&name).map_err(wrong("name"))?;
    password::check(&password).map_err(wrong("password"))?;
    check_tenant(&app, role, tenant.as_deref()).await?;
    let kept = app.access.hash(&password).await?;
    let now = app.control.now_unix_ms();
    let detail = format!("{name}: added as {}", described(role, tenant.as_deref()));
    let of = tenant.clone();
    let add = move |store: &mut super::access::store::Store| {
        let user = NewUser {
            name: &name,
            role,
            tenant: tenant.as_deref(),
            password: &kept,
            must_change_password: true,
            totp: None,
        };
        store.add_user(&user, now)
    };
    app.access.stored(add).await?;
    note(&app, Who { user: who.name, from: from.to_string() }, Action::UserChange, of, detail).await;
    Ok(StatusCode::CREATED)
}

pub(super) async fn change_user(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let UserChange { access, password, reset_totp, end_sessions, disabled } = read_body(&body)?;
    if is_vouched(&name) && (access.is_some() || password.is_some() || reset_totp) {
        let detail = format!(
            "{name} signs in at a provider, and what they may is what the rules in [admin.oidc] say: here they are \
             kept out, let in again, signed out and removed"
        );
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    if let Some(RoleBody { role, tenant }) = &access {
        check_tenant(&app, *role, tenant.as_deref()).await?;
    }
    let kept = match &password {
        Some(password) => {
            password::check(password).map_err(wrong("password"))?;
            Some(app.access.hash(password).await?)
        }
        None => None,
    };
    let mut done = Vec::new();
    done.extend(access.as_ref().map(|it| format!("is {} now", described(it.role, it.tenant.as_deref()))));
    done.extend(kept.as_ref().map(|_| "another password".to_owned()));
    done.extend(reset_totp.then(|| "the second factor is reset".to_owned()));
    done.extend(end_sessions.then(|| "sessions are ended".to_owned()));
    done.extend(disabled.map(|it| if it { "kept out" } else { "kept out no more" }.to_owned()));
    let detail = format!("{name}: {}", done.join(", "));
    let of = access.as_ref().and_then(|it| it.tenant.clone());
    let change = move |store: &mut super::access::store::Store| {
        if let Some(RoleBody { role, tenant }) = access {
            store.set_role(&name, role, tenant.as_deref())?;
        }
        if let Some(kept) = &kept {
            store.set_password(&name, kept, true)?;
        }
        if reset_totp {
            store.set_totp(&name, None)?;
        }
        if let Some(disabled) = disabled {
            store.set_disabled(&name, disabled)?;
        }
        store.expect_user(&name)?;
        // Whoever is in by what has just been taken away is out.
        store.end_sessions(&name, None)
    };
    app.access.stored(change).await?;
    note(&app, Who { user: who.name, from: from.to_string() }, Action::UserChange, of, detail).await;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_user(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let detail = format!("{name}: removed, with sessions and tokens");
    app.access.stored(move |store| store.remove_user(&name)).await?;
    note(&app, Who { user: who.name, from: from.to_string() }, Action::UserChange, None, detail).await;
    Ok(StatusCode::NO_CONTENT)
}

/// An owner is the whole box's; and a tenant has to be there, or what is typed wrong shows nothing and nobody knows why.
async fn check_tenant(app: &App, role: Role, tenant: Option<&str>) -> Result<(), Problem> {
    let Some(tenant) = tenant else { return Ok(()) };
    if role == Role::Owner {
        return Err(wrong("tenant")("an owner is of the whole box".to_owned()));
    }
    let known = app.control.tenants(worker_patience()).await?;
    if known.iter().any(|row| row.tenant == tenant) {
        return Ok(());
    }
    Err(wrong("tenant")(format!("there is no tenant {tenant:?}")))
}

pub(super) fn described(role: Role, tenant: Option<&str>) -> String {
    tenant.map_or_else(|| role.to_string(), |tenant| format!("{role} of tenant {tenant}"))
}

// --- tokens

/// One's own; an owner's are all.
pub(super) async fn tokens(State(app): State<App>, who: Principal) -> Result<Json<Tokens>, Problem> {
    let now = app.control.now_unix_ms();
    let of = makers(&who);
    let tokens = app.access.stored(move |store| store.tokens(of.as_ref().map(Option::as_deref), now)).await?;
    Ok(Json(Tokens { tokens }))
}

/// Whose tokens somebody sees and revokes: `None` for all.
fn makers(who: &Principal) -> Option<Option<String>> {
    (who.role < Role::Owner).then(|| who.user().map(str::to_owned))
}

pub(super) async fn add_token(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
    body: Bytes,
) -> Result<Response, Problem> {
    let NewTokenBody { name, role, tenant, expires_in_secs } = read_body(&body)?;
    check_name(&name).map_err(wrong("name"))?;
    if role > who.role {
        return Err(wrong("role")(format!("yours is {}, and a token may no more", who.role)));
    }
    match (&who.tenant, &tenant) {
        (Some(own), Some(asked)) if own != asked => {
            return Err(wrong("tenant")(format!("there is no tenant {asked:?}")));
        }
        (Some(_), _) => {}
        (None, asked) => check_tenant(&app, role, asked.as_deref()).await?,
    }
    let tenant = tenant.or(who.tenant.clone());
    let lasts_ms = expires_in_secs.saturating_mul(1_000);
    if !(1..=LONGEST_TOKEN_MS).contains(&lasts_ms) {
        let days = LONGEST_TOKEN_MS / 86_400_000;
        return Err(wrong("expires-in-secs")(format!(
            "a token lasts a second at least, and {days} days at most"
        )));
    }
    let now = app.control.now_unix_ms();
    let detail =
        format!("{name}: made, {}, for {} days", described(role, tenant.as_deref()), lasts_ms / 86_400_000);
    let (token, hash) = app.access.new_token();
    let (maker, of) = (who.user().map(str::to_owned), tenant.clone());
    let add = move |store: &mut super::access::store::Store| {
        let (maker, tenant) = (maker.as_deref(), tenant.as_deref());
        let token =
            NewToken { name: &name, hash: &hash, maker, role, tenant, expires_unix_ms: now + lasts_ms };
        store.add_token(&token, now)
    };
    let id = app.access.stored(add).await?;
    note(&app, Who { user: who.name, from: from.to_string() }, Action::TokenChange, of, detail).await;
    Ok((StatusCode::CREATED, Json(MadeToken { id, token })).into_response())
}

pub(super) async fn revoke_token(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    who: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no token {id}"));
    let number: i64 = id.parse().map_err(|_| unknown())?;
    let of = makers(&who);
    let name =
        app.access.stored(move |store| store.revoke(number, of.as_ref().map(Option::as_deref))).await?;
    let by = Who { user: who.name, from: from.to_string() };
    note(&app, by, Action::TokenChange, who.tenant, format!("{name}: revoked")).await;
    Ok(StatusCode::NO_CONTENT)
}

// --- what all have

/// Writes into the audit log. Where that cannot be done, the box says so, and goes on: whoever comes to mend it has to get in.
pub(super) async fn note(app: &App, who: Who, action: Action, tenant: Option<String>, detail: String) {
    let verb = Verb::Note { action, tenant, detail };
    if app.control.commits(who, verb.clone()).await.is_err() {
        tracing::error!(?verb, "not written into the audit log");
    }
}

/// What is wrong with a field of the body.
pub(super) fn wrong(field: &'static str) -> impl Fn(String) -> Problem {
    move |why| {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {why}"));
        Problem { parameter: Some(field.to_owned()), ..problem }
    }
}

/// What is wrong with one's own password: that is no reason to be signed out.
fn own(field: &'static str) -> impl Fn(Denied) -> Problem {
    move |denied| match denied {
        Denied::Wrong => wrong(field)("it is not your password".to_owned()),
        denied => denied.into(),
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        let unauthorized = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
        let code = |detail: &str| Problem { parameter: Some("code".to_owned()), ..unauthorized(detail) };
        match denied {
            Denied::Limited(millis) => {
                let secs = u16::try_from(millis.div_ceil(1_000).max(1)).unwrap_or(u16::MAX);
                let detail = format!("too many have tried; try again in {secs} s");
                Problem { retry_secs: Some(secs), ..Problem::new(StatusCode::TOO_MANY_REQUESTS, detail) }
            }
            Denied::Busy => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "others are signing in; try again"),
            Denied::Wrong => unauthorized("the name or the password is wrong"),
            Denied::CodeNeeded => code("now the code of your second factor"),
            Denied::WrongCode => {
                code("the code is wrong, or has been used; each is good for half a minute, and once")
            }
            Denied::Failed(error) => error.into(),
        }
    }
}
