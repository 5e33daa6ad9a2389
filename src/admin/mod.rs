//! The admin server: JSON under `/api/v1`, the console that shows it, and `/metrics` for Prometheus.
//!
//! A request's way: 1 `harden` puts security headers on whatever goes back, 2 `check_host` turns away what a rebound
//! DNS name sent, 3 `check_token` turns away what brings no token, unless it asks for one of the console's own files,
//! 4 the router. Steps 2 and 3 lie around the whole router, the paths it does not know included: a route that somebody
//! adds is closed until its request proves otherwise.

mod api;
mod apps;
mod assets;
mod client;
mod commits;
mod config;
mod events;
mod explain;
mod flows;
mod guard;
mod history;
mod listen;
mod metrics;
mod openmetrics;
mod problem;
mod table;
pub mod token;
mod trace;
mod who_had;

pub use apps::{describe_app, list_apps};
pub use client::{ShowArgs, decisions, show};
pub use commits::{AuditArgs, CommitArgs, CompareArgs, ConfirmArgs, DryRunArgs, RevisionsArgs, RollbackArgs};
pub use commits::{audit, commit, compare, confirm, dry_run, revisions, rollback};
pub use explain::{AskCandidate, ExplainArgs, explain};
pub use flows::{FlowsArgs, flows};
pub use token::Token;
pub use trace::{TraceArgs, trace_flow};
pub use who_had::{AskLedger, WhoHadArgs, who_had};

use crate::control::Control;
use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{MethodRouter, get, post};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// 2 s: a worker answers within a batch, well under a millisecond. One that has not by now is stuck.
const WORKER_PATIENCE: Duration = Duration::from_secs(2);

/// 5 s: longer than any answer may take, shorter than systemd's patience.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// What every handler knows.
#[derive(Clone)]
struct App {
    control: Arc<Control>,
    token: Arc<Token>,
    listen: SocketAddr,
    events: events::Subscribers,
    /// Room for questions to the flow history.
    questions: Arc<Semaphore>,
}

/// Serves until `shutdown` resolves; what is under way then may still finish.
pub async fn serve(
    listener: std::net::TcpListener,
    control: Arc<Control>,
    token: Token,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let listen = listener.local_addr()?;
    // Dropped, it tells everybody who watches `stopped`.
    let (stop, stopped) = watch::channel(());
    let events = events::start(control.clone(), stopped.clone());
    let questions = Arc::new(Semaphore::new(history::MAX_QUESTIONS));
    let app = App { control, token: Arc::new(token), listen, events, questions };
    let graceful = async move {
        shutdown.await;
        drop(stop);
    };
    let service = router(app).into_make_service_with_connect_info::<listen::Peer>();
    let server = axum::serve(listen::Bounded::new(listener), service).with_graceful_shutdown(graceful);
    let overdue = async {
        let mut stopped = stopped;
        let _ = stopped.changed().await;
        tokio::time::sleep(SHUTDOWN_PATIENCE).await;
    };
    tokio::select! {
        served = server => served,
        () = overdue => Ok(()),
    }
}

/// A path, and what makes its handlers.
type Route = (&'static str, fn() -> MethodRouter<App>);

/// Every route there is, but for the console's files. The test that walks them all without a token reads this table.
const ROUTES: &[Route] = &[
    ("/api/v1/status", || get(api::status)),
    ("/api/v1/paths", || get(api::paths)),
    ("/api/v1/tunnels", || get(api::paths)),
    ("/api/v1/sessions", || get(api::sessions)),
    ("/api/v1/flows", || get(api::flows)),
    ("/api/v1/flows/query", || get(history::query)),
    ("/api/v1/flows/trace", || get(trace::trace)),
    ("/api/v1/drops", || get(api::drops)),
    ("/api/v1/rules", || get(api::rules)),
    ("/api/v1/paths/history", || get(api::path_history)),
    ("/api/v1/decisions", || get(api::decisions)),
    ("/api/v1/measurements", || get(api::measurements)),
    ("/api/v1/queues", || get(api::queues)),
    ("/api/v1/exporters", || get(api::exporters)),
    ("/api/v1/explain", || get(api::explain)),
    ("/api/v1/who-had", || get(api::who_had)),
    ("/api/v1/config", || get(config::state)),
    ("/api/v1/config/revisions", || get(config::revisions)),
    ("/api/v1/config/texts", || get(config::texts)),
    ("/api/v1/config/compare", || get(config::compare)),
    ("/api/v1/config/check", || get(config::check)),
    ("/api/v1/config/dry-run", || get(config::dry_run)),
    ("/api/v1/config/candidate", || {
        get(config::candidate).put(config::put_candidate).delete(config::discard_candidate)
    }),
    ("/api/v1/config/commit", || post(config::commit)),
    ("/api/v1/config/confirm", || post(config::confirm)),
    ("/api/v1/audit", || get(config::audit)),
    ("/api/v1/events", || get(events::stream)),
    ("/metrics", || get(metrics::scrape)),
];

fn router(app: App) -> Router {
    let routes = ROUTES.iter().fold(Router::new(), |router, (path, route)| router.route(path, route()));
    routes
        .fallback(assets::serve)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(app.clone(), guard::check_token))
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
