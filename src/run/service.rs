//! What a service manager is told (systemd's sd_notify(3)); nothing where there is none.
//!
//! Its watchdog hears of the box only while the thread that owns the machine comes by and every forwarding thread has gone
//! round since it last did: a box that does not forward is one to be started anew.

use super::crew::Crew;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};

/// The box is looked at so many times before the watchdog loses its patience.
const LOOKS: u32 = 4;

pub(super) struct Service {
    crew: Crew,
    /// `None` where nobody watches.
    looks: Option<Interval>,
    was_alive: bool,
}

impl Service {
    pub(super) fn new(crew: Crew) -> Service {
        let looks = sd_notify::watchdog_enabled().filter(|patience| *patience > Duration::ZERO);
        let looks = looks.map(|patience| {
            let mut looks = tokio::time::interval(patience / LOOKS);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            looks
        });
        Service { crew, looks, was_alive: true }
    }

    /// The box has begun.
    pub(super) fn is_ready(&self) {
        tell(NotifyState::Ready);
    }

    /// The box ends, for it was told to.
    pub(super) fn is_stopping(&self) {
        tell(NotifyState::Stopping);
    }

    /// When [`Service::look`] is to be called.
    pub(super) async fn due(&mut self) {
        match &mut self.looks {
            Some(looks) => drop(looks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Tells the watchdog that the box is alive, if it is.
    pub(super) fn look(&mut self) {
        let alive = self.crew.take_pulse();
        if alive {
            tell(NotifyState::Watchdog);
        } else if self.was_alive {
            tracing::error!(
                "a forwarding thread does not go round: the watchdog is not told that the box is alive"
            );
        }
        self.was_alive = alive;
    }
}

fn tell(what: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[what]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
