//! `/api/v1/events`: what the console shows live, once a second, as server-sent events named like the routes whose
//! answers they carry (`status`, `paths`, `drops`, and `certificate` while an authority is asked for one in vain), or `problem` when a
//! worker does not answer.
//!
//! One task asks the workers for all streams together, and only while there are any. A stream that cannot keep up
//! misses samples, never delays them. One of a user of a single tenant is narrowed to that; and each ends when whoever asked
//! would not be let in any more.

use super::access::Principal;
use super::api::{Drops, Paths};
use super::problem::Problem;
use super::tls::{CertificateAnswer, Shown};
use super::{App, worker_patience};
use crate::control::{Control, Status, TenantFacts};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::stream::{self, Stream, StreamExt};
use serde::Serialize;
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;

const EVERY: Duration = Duration::from_secs(1);

/// 32 consoles at a time.
pub(super) const MAX_STREAMS: usize = 32;

/// What one second's events carry.
enum Sample {
    /// For those who see the whole box: name and JSON. And what the others' is made of, if there are any.
    Taken(Vec<(&'static str, String)>, Option<Box<(Status, TenantFacts)>>),
    Problem(String),
}

impl Default for Sample {
    fn default() -> Sample {
        Sample::Taken(Vec::new(), None)
    }
}

impl Sample {
    /// Name and JSON, of one tenant or of all.
    fn events(&self, tenant: Option<&str>) -> Vec<(&'static str, Cow<'_, str>)> {
        match (self, tenant) {
            (Sample::Problem(problem), _) => vec![("problem", problem.into())],
            (Sample::Taken(all, _), None) => all.iter().map(|(name, data)| (*name, data.into())).collect(),
            (Sample::Taken(_, None), Some(_)) => Vec::new(),
            (Sample::Taken(_, Some(facts)), Some(tenant)) => {
                let (status, facts) = &**facts;
                let paths = facts.paths.iter().filter(|path| path.tenant == tenant).cloned().collect();
                let drops = facts.drops.iter().filter(|row| row.tenant.as_deref() == Some(tenant));
                vec![
                    ("status", json(&status.of_tenant(tenant, facts)).into()),
                    ("paths", json(&Paths { paths }).into()),
                    ("drops", json(&Drops { drops: drops.cloned().collect() }).into()),
                ]
            }
        }
    }
}

/// Where a stream gets its samples.
#[derive(Clone)]
pub(super) struct Subscribers {
    room: Arc<Semaphore>,
    arrived: Arc<Notify>,
    samples: watch::Receiver<Arc<Sample>>,
    /// How many streams are of a single tenant.
    narrowed: Arc<AtomicUsize>,
}

/// Starts taking samples; when `stopped`'s sender goes, so do the samples, and all streams end.
pub(super) fn start(
    control: Arc<Control>,
    shown: Option<Arc<Shown>>,
    mut stopped: watch::Receiver<()>,
) -> Subscribers {
    let (sender, samples) = watch::channel(Arc::default());
    let subscribers = Subscribers {
        room: Arc::new(Semaphore::new(MAX_STREAMS)),
        arrived: Arc::new(Notify::new()),
        samples,
        narrowed: Arc::default(),
    };
    let (room, arrived) = (subscribers.room.clone(), subscribers.arrived.clone());
    let narrowed = subscribers.narrowed.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = stopped.changed() => {}
            () = take_samples(&control, shown.as_deref(), &sender, &room, &arrived, &narrowed) => {}
        }
    });
    subscribers
}

async fn take_samples(
    control: &Control,
    shown: Option<&Shown>,
    sender: &watch::Sender<Arc<Sample>>,
    room: &Semaphore,
    arrived: &Notify,
    narrowed: &AtomicUsize,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Whoever has just come should not look at an empty page for a second.
            () = arrived.notified() => ticks.reset(),
        }
        if room.available_permits() < MAX_STREAMS {
            let is_narrowed = narrowed.load(Ordering::Relaxed) > 0;
            sender.send_replace(Arc::new(sample(control, shown, is_narrowed).await));
        }
    }
}

async fn sample(control: &Control, shown: Option<&Shown>, is_narrowed: bool) -> Sample {
    let asked = async {
        let status = control.status(worker_patience()).await?;
        let paths = control.paths(None, worker_patience()).await?;
        let drops = control.drops(None, worker_patience()).await?;
        let (rules, tenants) = if is_narrowed {
            (control.rules(None, worker_patience()).await?, control.tenants(worker_patience()).await?)
        } else {
            Default::default()
        };
        let (paths, drops) = (Paths { paths }, Drops { drops });
        let mut all = vec![("status", json(&status)), ("paths", json(&paths)), ("drops", json(&drops))];
        if let Some(certificate) = shown.map(Shown::row).filter(|row| row.problem.is_some()) {
            all.push(("certificate", json(&CertificateAnswer { certificate: Some(certificate) })));
        }
        let facts = TenantFacts { paths: paths.paths, drops: drops.drops, rules, tenants };
        Ok::<_, Problem>(Sample::Taken(all, is_narrowed.then(|| Box::new((status, facts)))))
    };
    asked.await.unwrap_or_else(|problem| Sample::Problem(json(&problem)))
}

fn json(value: &impl Serialize) -> String {
    // Reports are plain structs with string keys, which always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) async fn stream(
    State(app): State<App>,
    who: Principal,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Subscribers { room, arrived, mut samples, narrowed } = app.events.clone();
    let permit = room.try_acquire_owned().map_err(|_| {
        let detail =
            format!("{MAX_STREAMS} event streams are open already; close a console, or ask less often");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    samples.mark_unchanged();
    let narrowed = who.tenant.is_some().then(|| Narrowed::enter(narrowed));
    arrived.notify_one();
    let seat = Seat { app, who, samples, _permit: permit, _narrowed: narrowed };
    let events = stream::unfold(seat, next).flat_map(stream::iter);
    Ok(Sse::new(events))
}

type Events = Vec<Result<Event, Infallible>>;

/// Somebody who listens.
struct Seat {
    app: App,
    who: Principal,
    samples: watch::Receiver<Arc<Sample>>,
    _permit: OwnedSemaphorePermit,
    _narrowed: Option<Narrowed>,
}

/// Counts one more stream of a single tenant, for as long as it is.
struct Narrowed(Arc<AtomicUsize>);

impl Narrowed {
    fn enter(count: Arc<AtomicUsize>) -> Narrowed {
        count.fetch_add(1, Ordering::Relaxed);
        Narrowed(count)
    }
}

impl Drop for Narrowed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The next sample's events; none once there will be no more samples, or not for whoever listens.
async fn next(mut seat: Seat) -> Option<(Events, Seat)> {
    seat.samples.changed().await.ok()?;
    let sample = seat.samples.borrow_and_update().clone();
    let now = seat.app.control.now_unix_ms();
    let by_now = seat.app.access.again(&seat.who, now).await?;
    // Whoever is another by now comes in anew.
    if (by_now.tenant != seat.who.tenant) || by_now.pending.is_some() {
        return None;
    }
    let events = sample.events(seat.who.tenant.as_deref());
    let event = |(name, data): (&'static str, Cow<'_, str>)| Ok(Event::default().event(name).data(data));
    Some((events.into_iter().map(event).collect(), seat))
}
