//! The admin server: JSON under `/api/v1`, the console that shows it, and `/metrics` for Prometheus.
//!
//! A request's way: 1 `harden` puts security headers on whatever goes back, 2 `check_host` turns away what a rebound
//! DNS name sent, 3 `refuse_secrets` what has a token in its URL, 4 `identify` whoever is nobody, unless it is the console's own
//! files that they ask for or what is public, 5 the router, 6 `authorize` whoever may not do what this route does. Steps 2 to 4 lie
//! around the whole router, the paths it does not know included; the sixth around each route, which cannot be written down in
//! [`ROUTES`] without saying what it needs.

pub mod access;
mod accounts;
mod acme;
mod api;
mod apps;
mod assets;
mod captures;
mod clear;
mod client;
mod commits;
mod config;
mod enrolment;
mod events;
mod explain;
mod flows;
mod guard;
mod history;
mod listen;
mod metrics;
mod oidc;
mod openapi;
mod openmetrics;
mod problem;
mod screen;
mod table;
mod tls;
pub mod token;
mod trace;
mod update;
mod users;
mod who_had;

pub use access::Access;
pub use apps::{describe_app, list_apps};
pub use captures::{CaptureArgs, capture};
pub use clear::{ClearArgs, clear};
pub use client::{ShowArgs, decisions, show};
pub use commits::{AuditArgs, CommitArgs, CompareArgs, ConfirmArgs, DryRunArgs, RevisionsArgs, RollbackArgs};
pub use commits::{audit, commit, compare, confirm, dry_run, revisions, rollback};
pub use enrolment::{EnrolWhat, enrol};
pub use explain::{AskCandidate, ExplainArgs, explain};
pub use flows::{FlowsArgs, flows};
pub use screen::{AtConsole, at_console, first_link};
pub use tls::Tls;
pub use token::Token;
pub use trace::{TraceArgs, trace_flow};
pub use users::{SetupLinkArgs, TokensArgs, UsersArgs, print_setup_link, tokens, users};
pub use who_had::{AskLedger, WhoHadArgs, who_had};

use crate::control::Control;
use crate::model::HostName;
use access::Role::{Operator, Owner, Viewer};
use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use axum::serve::Listener;
use futures_util::future::try_join_all;
use guard::Need;
use guard::Tenancy::{Answer, Box as WholeBox, Parameter};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// 2 s: a worker answers within a batch, well under a millisecond. One that has not by now is stuck.
const WORKER_PATIENCE: Duration = Duration::from_secs(2);

/// 5 s: longer than any answer may take, shorter than systemd's patience.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// What every handler knows.
#[derive(Clone)]
struct App {
    control: Arc<Control>,
    access: Access,
    hosts: Arc<Hosts>,
    /// What is shown to those who come over TLS.
    shown: Option<Arc<tls::Shown>>,
    events: events::Subscribers,
    /// Room for questions to the flow history.
    questions: Arc<Semaphore>,
}

/// Where the admin server is reached.
pub struct Doors {
    /// On loopback.
    pub plain: std::net::TcpListener,
    /// From elsewhere.
    pub tls: Vec<std::net::TcpListener>,
    /// What is shown there; without it, nobody comes in there.
    pub greeting: Option<Tls>,
    /// By which the box is asked for there.
    pub names: Vec<HostName>,
}

impl Doors {
    /// For the box itself alone.
    pub fn on_loopback(plain: std::net::TcpListener) -> Doors {
        Doors { plain, tls: Vec::new(), greeting: None, names: Vec::new() }
    }
}

/// What the box may be asked for as.
struct Hosts {
    listen: Vec<SocketAddr>,
    names: Vec<HostName>,
}

/// Serves until `shutdown` resolves; what is under way then may still finish.
pub async fn serve(
    doors: Doors,
    control: Arc<Control>,
    access: Access,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let room = listen::room();
    let open = |listener: std::net::TcpListener, acceptor: Option<TlsAcceptor>| {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        io::Result::Ok(listen::Bounded::new(listener, acceptor, Arc::clone(&room)))
    };
    let plain = open(doors.plain, None)?;
    let greeting = doors.greeting.as_ref();
    let tls = greeting.map(|tls| doors.tls.into_iter().map(|door| open(door, Some(tls.acceptor()))));
    let tls = tls.into_iter().flatten().collect::<io::Result<Vec<_>>>()?;
    let listen = std::iter::once(&plain).chain(&tls).map(Listener::local_addr).collect::<io::Result<_>>()?;
    // Dropped, it tells everybody who watches `stopped`.
    let (stop, stopped) = watch::channel(());
    let shown = greeting.map(|tls| Arc::clone(&tls.shown));
    let events = events::start(control.clone(), shown.clone(), stopped.clone());
    let questions = Arc::new(Semaphore::new(history::MAX_QUESTIONS));
    let hosts = Arc::new(Hosts { listen, names: doors.names });
    let app = App { control, access, hosts, shown: shown.clone(), events, questions };
    let now = {
        let control = Arc::clone(&app.control);
        move || control.now_unix_ms()
    };
    let beyond = router(app.clone()).layer(map_response(move |response| {
        guard::insist(response, shown.as_ref().is_some_and(|shown| shown.is_signed()))
    }));
    let serve = |door, router: Router| {
        let mut stopped = stopped.clone();
        let service = router.into_make_service_with_connect_info::<listen::Peer>();
        axum::serve(door, service)
            .with_graceful_shutdown(async move {
                let _ = stopped.changed().await;
            })
            .into_future()
    };
    let all = std::iter::once(serve(plain, router(app)))
        .chain(tls.into_iter().map(|door| serve(door, beyond.clone())));
    let renewals = async {
        match greeting {
            Some(tls) => tls.keep_up(now).await,
            None => std::future::pending().await,
        }
    };
    let mut ended = stopped.clone();
    let overdue = async {
        let _ = ended.changed().await;
        tokio::time::sleep(SHUTDOWN_PATIENCE).await;
    };
    let stopping = async {
        shutdown.await;
        drop(stop);
        // The others notice, and end it.
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        served = try_join_all(all) => served.map(drop),
        () = overdue => Ok(()),
        never = stopping => match never {},
        never = renewals => match never {},
    }
}

/// What is done by a method at a path, and what it needs of whoever asks.
struct Route {
    method: &'static str,
    path: &'static str,
    need: Need,
    handler: fn() -> MethodRouter<App>,
}

const fn route(
    method: &'static str,
    path: &'static str,
    need: Need,
    handler: fn() -> MethodRouter<App>,
) -> Route {
    Route { method, path, need, handler }
}

/// To be looked at by everybody; what of it by users of one tenant.
const LOOK: Need = Need::Role(Viewer, Parameter);
const LOOK_NARROWED: Need = Need::Role(Viewer, Answer);
const LOOK_BOX: Need = Need::Role(Viewer, WholeBox);
const CHANGE: Need = Need::Role(Operator, Answer);
/// A program may bring a fleet up to date: what it brings is signed.
const UPDATES: Need = Need::Role(Owner, WholeBox);
const USERS: Need = Need::Person(Owner, WholeBox);
const TOKENS: Need = Need::Person(Viewer, Answer);

/// Every route there is, but for the console's files. The test that walks them all, for every role and tenant, reads this table.
const ROUTES: &[Route] = &[
    route("GET", "/api/v1/status", LOOK_NARROWED, || get(api::status)),
    route("GET", "/api/v1/paths", LOOK, || get(api::paths)),
    route("GET", "/api/v1/tunnels", LOOK, || get(api::paths)),
    route("GET", "/api/v1/sessions", LOOK, || get(api::sessions)),
    route("POST", "/api/v1/sessions/clear", CHANGE, || post(api::clear_sessions)),
    route("GET", "/api/v1/flows", LOOK, || get(api::flows)),
    route("GET", "/api/v1/flows/query", LOOK_NARROWED, || get(history::query)),
    route("GET", "/api/v1/flows/trace", LOOK, || get(trace::trace)),
    route("GET", "/api/v1/drops", LOOK, || get(api::drops)),
    route("GET", "/api/v1/rules", LOOK, || get(api::rules)),
    route("GET", "/api/v1/paths/history", LOOK, || get(api::path_history)),
    route("GET", "/api/v1/decisions", LOOK, || get(api::decisions)),
    route("GET", "/api/v1/measurements", LOOK, || get(api::measurements)),
    route("GET", "/api/v1/queues", LOOK, || get(api::queues)),
    route("GET", "/api/v1/nat", LOOK, || get(api::nat)),
    route("GET", "/api/v1/exporters", LOOK_BOX, || get(api::exporters)),
    route("GET", "/api/v1/handoffs", LOOK, || get(api::handoffs)),
    route("GET", "/api/v1/certificate", LOOK_BOX, || get(tls::certificate)),
    route("GET", "/api/v1/explain", LOOK, || get(api::explain)),
    route("GET", "/api/v1/who-had", LOOK_NARROWED, || get(api::who_had)),
    route("GET", "/api/v1/captures", LOOK, || get(captures::list)),
    route("POST", "/api/v1/captures", CHANGE, || post(captures::begin)),
    route("GET", "/api/v1/captures/{capture}", CHANGE, || get(captures::file)),
    route("DELETE", "/api/v1/captures/{capture}", CHANGE, || delete(captures::forget)),
    route("GET", "/api/v1/config", LOOK_NARROWED, || get(config::state)),
    route("GET", "/api/v1/config/revisions", LOOK_BOX, || get(config::revisions)),
    route("GET", "/api/v1/config/texts", LOOK_NARROWED, || get(config::texts)),
    route("GET", "/api/v1/config/compare", LOOK_NARROWED, || get(config::compare)),
    route("GET", "/api/v1/config/check", LOOK_NARROWED, || get(config::check)),
    route("GET", "/api/v1/config/policy-tests", LOOK_NARROWED, || get(config::policy_tests)),
    route("GET", "/api/v1/config/dry-run", LOOK_NARROWED, || get(config::dry_run)),
    route("GET", "/api/v1/config/candidate", LOOK_NARROWED, || get(config::candidate)),
    route("PUT", "/api/v1/config/candidate", CHANGE, || put(config::put_candidate)),
    route("DELETE", "/api/v1/config/candidate", CHANGE, || delete(config::discard_candidate)),
    route("POST", "/api/v1/config/commit", CHANGE, || post(config::commit)),
    route("POST", "/api/v1/config/confirm", CHANGE, || post(config::confirm)),
    route("GET", "/api/v1/audit", LOOK_NARROWED, || get(config::audit)),
    route("GET", "/api/v1/events", LOOK_NARROWED, || get(events::stream)),
    route("GET", "/metrics", LOOK_BOX, || get(metrics::scrape)),
    route("GET", "/api/v1/openapi.json", LOOK_NARROWED, || get(openapi::serve)),
    route("POST", "/api/v1/setup", Need::Public, || post(accounts::look_at_setup)),
    route("PUT", "/api/v1/setup", Need::Public, || put(accounts::set_up)),
    route("POST", "/api/v1/session", Need::Public, || post(accounts::sign_in)),
    route("GET", "/api/v1/oidc", Need::Public, || get(oidc::provider)),
    route("GET", "/api/v1/oidc/start", Need::Public, || get(oidc::start)),
    route("GET", "/api/v1/oidc/callback", Need::Public, || get(oidc::callback)),
    route("GET", "/api/v1/session", Need::Known, || get(accounts::who_am_i)),
    route("DELETE", "/api/v1/session", Need::Known, || delete(accounts::sign_out)),
    route("PUT", "/api/v1/session/password", Need::Known, || put(accounts::change_password)),
    route("POST", "/api/v1/session/totp", Need::Known, || post(accounts::propose_totp)),
    route("PUT", "/api/v1/session/totp", Need::Known, || put(accounts::enrol_totp)),
    route("GET", "/api/v1/enrolments", LOOK_NARROWED, || get(enrolment::list)),
    route("POST", "/api/v1/enrolments", CHANGE, || post(enrolment::make)),
    route("POST", "/api/v1/enrolments/{id}/approve", CHANGE, || post(enrolment::approve)),
    route("POST", "/api/v1/enrolments/{id}/refuse", CHANGE, || post(enrolment::refuse)),
    route("DELETE", "/api/v1/enrolments/{id}", CHANGE, || delete(enrolment::revoke)),
    route("POST", "/api/v1/enrol", Need::Public, || post(enrolment::claim)),
    route("GET", "/api/v1/update", UPDATES, || get(update::state)),
    route("POST", "/api/v1/update", UPDATES, || post(update::take)),
    route("GET", "/api/v1/users", USERS, || get(accounts::users)),
    route("POST", "/api/v1/users", USERS, || post(accounts::add_user)),
    route("PATCH", "/api/v1/users/{name}", USERS, || patch(accounts::change_user)),
    route("DELETE", "/api/v1/users/{name}", USERS, || delete(accounts::remove_user)),
    route("GET", "/api/v1/tokens", TOKENS, || get(accounts::tokens)),
    route("POST", "/api/v1/tokens", TOKENS, || post(accounts::add_token)),
    route("DELETE", "/api/v1/tokens/{id}", TOKENS, || delete(accounts::revoke_token)),
];

fn router(app: App) -> Router {
    let routes = ROUTES.iter().fold(Router::new(), |router, route| {
        let guarded = (route.handler)().route_layer(from_fn_with_state(route.need, guard::authorize));
        router.route(route.path, guarded)
    });
    routes
        .fallback(assets::serve)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(app.clone(), guard::identify))
        .layer(from_fn_with_state(app.clone(), guard::refuse_secrets))
        .layer(from_fn_with_state(app.clone(), guard::check_host))
        .layer(map_response(guard::harden))
        .with_state(app)
}

/// How long a question to the workers may take.
async fn worker_patience() {
    tokio::time::sleep(WORKER_PATIENCE).await;
}

#[cfg(test)]
mod tests;
