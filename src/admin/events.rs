//! `/api/v1/events`: what the console shows live, once a second, as server-sent events named like the routes whose
//! answers they carry (`status`, `paths`, `drops`), or `problem` when a worker does not answer.
//!
//! One task asks the workers for all streams together, and only while there are any. A stream that cannot keep up
//! misses samples, never delays them.

use super::api::{Drops, Paths};
use super::problem::Problem;
use super::{App, worker_patience};
use crate::control::Control;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::stream::{self, Stream, StreamExt};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;

const EVERY: Duration = Duration::from_secs(1);

/// 32 consoles at a time.
pub(super) const MAX_STREAMS: usize = 32;

/// What one second's events carry: name and JSON.
type Sample = Vec<(&'static str, String)>;

/// Where a stream gets its samples.
#[derive(Clone)]
pub(super) struct Subscribers {
    room: Arc<Semaphore>,
    arrived: Arc<Notify>,
    samples: watch::Receiver<Arc<Sample>>,
}

/// Starts taking samples; when `stopped`'s sender goes, so do the samples, and all streams end.
pub(super) fn start(control: Arc<Control>, mut stopped: watch::Receiver<()>) -> Subscribers {
    let (sender, samples) = watch::channel(Arc::default());
    let subscribers = Subscribers {
        room: Arc::new(Semaphore::new(MAX_STREAMS)),
        arrived: Arc::new(Notify::new()),
        samples,
    };
    let (room, arrived) = (subscribers.room.clone(), subscribers.arrived.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = stopped.changed() => {}
            () = take_samples(&control, &sender, &room, &arrived) => {}
        }
    });
    subscribers
}

async fn take_samples(
    control: &Control,
    sender: &watch::Sender<Arc<Sample>>,
    room: &Semaphore,
    arrived: &Notify,
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
            sender.send_replace(Arc::new(sample(control).await));
        }
    }
}

async fn sample(control: &Control) -> Sample {
    let asked = async {
        let status = control.status(worker_patience()).await?;
        let paths = control.paths(None, worker_patience()).await?;
        let drops = control.drops(None, worker_patience()).await?;
        Ok::<_, Problem>(vec![
            ("status", json(&status)),
            ("paths", json(&Paths { paths })),
            ("drops", json(&Drops { drops })),
        ])
    };
    asked.await.unwrap_or_else(|problem| vec![("problem", json(&problem))])
}

fn json(value: &impl Serialize) -> String {
    // Reports are plain structs with string keys, which always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) async fn stream(
    State(app): State<App>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Subscribers { room, arrived, mut samples } = app.events;
    let permit = room.try_acquire_owned().map_err(|_| {
        let detail =
            format!("{MAX_STREAMS} event streams are open already; close a console, or ask less often");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    samples.mark_unchanged();
    arrived.notify_one();
    let events = stream::unfold((samples, permit), next).flat_map(stream::iter);
    Ok(Sse::new(events))
}

type Events = Vec<Result<Event, Infallible>>;
type Seat = (watch::Receiver<Arc<Sample>>, OwnedSemaphorePermit);

/// The next sample's events; none once there will be no more samples.
async fn next((mut samples, permit): Seat) -> Option<(Events, Seat)> {
    samples.changed().await.ok()?;
    let sample = samples.borrow_and_update().clone();
    let event = |(name, data): &(&'static str, String)| Ok(Event::default().event(*name).data(data));
    Some((sample.iter().map(event).collect(), (samples, permit)))
}
