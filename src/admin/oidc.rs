//! `/api/v1/oidc`: the way to the provider and back, for a browser that goes there ([`super::access::oidc`] has what is asked and
//! proved on it).
//!
//! Both ways are navigations, so that whatever goes wrong ends on the console's page, which says what: behind a `#`, by a word of
//! [`word_of`]. Nowhere does an address come out of what a request has in it. The cookie of the attempt is `Lax`, since the browser
//! comes back from another site; the session's stays `Strict`, which the console's own page asks with.

use super::App;
use super::access::oidc::{ATTEMPT_MS, NotVouched};
use super::access::{Entered, Turned};
use super::accounts::{cookie, described, more_before, note};
use super::guard;
use super::listen::Peer;
use crate::control::audit::Action;
use crate::control::revisions::Who;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// The cookie of an attempt.
const COOKIE: &str = "__Host-popgate-oidc";

/// Where people may sign in besides.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct ProviderAnswer {
    /// `None`: nowhere.
    provider: Option<ProviderRow>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct ProviderRow {
    /// What people call it.
    label: String,
    /// Where a browser begins.
    start: String,
}

/// What a provider sends back (RFC 6749 section 4.1.2, RFC 9207).
#[derive(Deserialize)]
pub(super) struct Returned {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

pub(super) async fn provider(State(app): State<App>) -> Json<ProviderAnswer> {
    let provider = app.access.provider().map(|provider| ProviderRow {
        label: provider.label.clone(),
        start: format!("{}/api/v1/oidc/start", provider.console),
    });
    Json(ProviderAnswer { provider })
}

pub(super) async fn start(State(app): State<App>, ConnectInfo(Peer(from)): ConnectInfo<Peer>) -> Response {
    match app.access.begin(from.ip(), app.control.now_unix_ms()).await {
        Ok((secret, url)) => {
            let age = ATTEMPT_MS / 1_000;
            let cookie = format!("{COOKIE}={secret}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={age}");
            to(url, [(header::SET_COOKIE, cookie)])
        }
        Err(turned) => turn_away(&app, from, &turned).await,
    }
}

pub(super) async fn callback(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    headers: HeaderMap,
    returned: Result<Query<Returned>, QueryRejection>,
) -> Response {
    let Ok(Query(returned)) = returned else { return turn_away(&app, from, &Turned::Late).await };
    let (Some(cookie), Some(state)) = (guard::cookie(&headers, COOKIE), &returned.state) else {
        return turn_away(&app, from, &Turned::Late).await;
    };
    let code = code_of(&returned, app.access.provider().map(|provider| provider.issuer.clone()));
    match app.access.come_back(cookie, state, code, from.ip(), app.control.now_unix_ms()).await {
        Ok(entered) => let_in(&app, from, entered).await,
        Err(turned) => turn_away(&app, from, &turned).await,
    }
}

/// The code, or what the provider says in its place.
fn code_of(returned: &Returned, issuer: Option<String>) -> Result<String, NotVouched> {
    if returned.iss.is_some() && returned.iss != issuer {
        return Err(NotVouched::Unproved("it comes from another issuer".to_owned()));
    }
    match (&returned.error, &returned.code) {
        (None, Some(code)) => Ok(code.clone()),
        (Some(error), _) if error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
            Err(NotVouched::Refused(error.chars().take(100).collect()))
        }
        _ => Err(NotVouched::Refused("it says no code".to_owned())),
    }
}

async fn let_in(app: &App, from: SocketAddr, entered: Entered) -> Response {
    let Entered { secret, name, subject, role, tenant, is_new, issuer } = entered;
    let who = || Who { user: name.clone(), from: from.to_string() };
    if is_new {
        let may = described(role, tenant.as_deref());
        let detail = format!("{name}: new, as {may}: {subject:?} of {issuer}");
        note(app, who(), Action::UserChange, tenant.clone(), detail).await;
    }
    note(app, who(), Action::SignIn, tenant, format!("as {role}: {subject:?} of {issuer}")).await;
    to("/".to_owned(), [cookie(&secret), no_attempt()])
}

/// Back to the console, which says why.
async fn turn_away(app: &App, from: SocketAddr, turned: &Turned) -> Response {
    let (word, failed) = word_of(turned);
    if let Some((name, why)) = failed {
        tracing::warn!(%from, name, "admin: nobody is let in from the provider: {why}");
        if let Some(left_out) = app.access.note_failure(app.control.now_unix_ms()) {
            let who = Who { user: name, from: from.to_string() };
            note(app, who, Action::SignInFailed, None, format!("{why}{}", more_before(left_out))).await;
        }
    }
    to(format!("/#sign-in={word}"), [no_attempt()])
}

/// A word for the console; and what the audit log is told, of whom.
fn word_of(turned: &Turned) -> (&'static str, Option<(String, String)>) {
    let nobody = |why: String| Some(("?".to_owned(), why));
    match turned {
        Turned::NoProvider => ("none", None),
        Turned::Limited => ("limited", nobody("too many tries at the provider".to_owned())),
        Turned::Busy => ("busy", None),
        Turned::Late => (
            "late",
            nobody("what came back from the provider began in no browser here, or too long ago".to_owned()),
        ),
        Turned::NotVouched(why @ NotVouched::Unreachable(_)) => ("unreachable", nobody(why.to_string())),
        Turned::NotVouched(why @ NotVouched::Refused(_)) => ("refused", nobody(why.to_string())),
        Turned::NotVouched(why @ NotVouched::Unproved(_)) => ("unproved", nobody(why.to_string())),
        Turned::Unmapped(it) => {
            ("unmapped", Some((it.name.clone(), format!("no rule lets {:?} in", it.subject))))
        }
        Turned::Disabled(name) => ("disabled", Some((name.clone(), "kept out by an owner".to_owned()))),
        Turned::Taken(it) => {
            ("taken", Some((it.name.clone(), format!("another one than {:?} has this name", it.subject))))
        }
        Turned::Failed(error) => {
            tracing::error!("{error}");
            ("failed", None)
        }
    }
}

fn no_attempt() -> (HeaderName, String) {
    (header::SET_COOKIE, format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"))
}

fn to<const N: usize>(location: String, headers: [(HeaderName, String); N]) -> Response {
    (StatusCode::SEE_OTHER, AppendHeaders(headers), [(header::LOCATION, location)]).into_response()
}
