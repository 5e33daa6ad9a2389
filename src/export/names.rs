//! Options records with the names ([`Directory`]) behind the numbers in flow records.

use super::directory::{APPLICATION_UNNUMBERED, Directory, application, rule, vrf};
use super::element::{Dialect, Template};
use super::message::Message;
use super::template::{self, Named};
use crate::model::Instant;
use std::time::Duration;

/// A PoP with thousands of tenants has megabytes of names. They go in bursts of this many messages, 45 KB, which a
/// collector's default socket buffer holds, with a pause between; flow records do not wait for them.
pub(super) const NAMES_BURST: usize = 32;
const NAMES_PAUSE: Duration = Duration::from_millis(10);

/// Options records with names, made anew when the directory changes, and how many of them this round has sent.
pub(super) struct Names {
    messages: Vec<Message>,
    sent: usize,
    /// When the next burst may begin, and how much of this one is left.
    resume_at: Instant,
    burst_left: usize,
}

impl Names {
    pub(super) fn of(directory: &Directory, observation_domain: u32, dialect: Dialect) -> Names {
        let mut messages = Messages { dialect, all: Vec::new() };
        for (number, name, what) in directory.interfaces() {
            let (name, description) = (name.to_owned(), format!("{what} {name}"));
            let interface = Named { observation_domain, number, name, description };
            messages.add(&template::INTERFACE, &interface);
        }
        for (&id, name) in &directory.tenants {
            let (number, name, description) = (vrf(id), name.clone(), String::new());
            let vrf = Named { observation_domain, number, name, description };
            messages.add(&template::VRF, &vrf);
        }
        for (&(tenant, id), name) in &directory.classes {
            let number = application(tenant, id);
            // A number that stands for many has no name.
            if number == APPLICATION_UNNUMBERED {
                continue;
            }
            let tenant = directory.tenant(tenant);
            let (name, description) = (format!("{tenant}/{name}"), format!("app class of {tenant}"));
            let application = Named { observation_domain, number, name, description };
            messages.add(&template::APPLICATION, &application).close_set();
        }
        for (&(tenant, id), name) in &directory.rules {
            let (number, description) = (rule(tenant, id), String::new());
            let name = format!("{}/{name}", directory.tenant(tenant));
            let rule = Named { observation_domain, number, name, description };
            messages.add(&template::RULE, &rule);
        }
        let messages = messages.all;
        let sent = messages.len();
        Names { messages, sent, resume_at: Instant::default(), burst_left: NAMES_BURST }
    }

    pub(super) fn start_again(&mut self) {
        self.sent = 0;
    }

    /// The next message of this round, unless the burst is over.
    pub(super) fn next(&mut self, now: Instant) -> Option<Message> {
        if self.burst_left == 0 && now < self.resume_at {
            return None;
        }
        if self.resume_at <= now {
            self.burst_left = NAMES_BURST;
        }
        let next = self.messages.get(self.sent)?.clone();
        self.sent += 1;
        self.burst_left -= 1;
        self.resume_at = now + NAMES_PAUSE;
        Some(next)
    }

    /// When [`Names::next`] has one.
    pub(super) fn due(&self) -> Option<Instant> {
        let left = self.sent < self.messages.len();
        left.then_some(if self.burst_left == 0 { self.resume_at } else { Instant::default() })
    }
}

struct Messages {
    dialect: Dialect,
    all: Vec<Message>,
}

impl Messages {
    /// Adds a record to the last message, or to a new one where that is full; gives the message.
    fn add<T>(&mut self, template: &Template<T>, record: &T) -> &mut Message {
        if self.all.last_mut().is_none_or(|message| !message.push(template, record)) {
            let mut message = Message::new(self.dialect);
            message.push(template, record);
            self.all.push(message);
        }
        self.all.last_mut().expect("a message was just written to")
    }
}
