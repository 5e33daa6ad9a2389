//! IPFIX (RFC 7011): flow records in, datagrams out. No sockets and no clock: whoever owns those asks
//! [`Exporter::poll`] for what is to be sent, and [`Exporter::poll_timeout`] when to ask again.
//!
//! A session's record becomes one or two unidirectional flow records, since nfdump mixes up the two directions of an RFC
//! 5103 biflow. They are packed into messages ([`message`]) by the templates of their kind ([`template`]), and leave when
//! a message is full or its first record has waited a second. Before anything else, then every minute, and when names
//! change, go the templates themselves and options records with the names ([`Directory`]) behind the numbers.

mod directory;
mod element;
mod message;
mod template;
#[cfg(test)]
mod tests;

pub use directory::{APPLICATION_UNNUMBERED, Directory, application, interface, rule, vrf};

use crate::flow::FlowRecord;
use crate::model::{Direction, Instant, Now};
use element::Template;
use message::Message;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;
use template::{Flow, Named};

/// How long a record waits for others to share its message.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// How often templates and names are said again: UDP may lose them (RFC 7011 section 8.4), and a collector may start
/// after us.
const REFRESH: Duration = Duration::from_secs(60);

/// Full messages that wait to be sent; one more is lost. About a second's worth at 5,000 records a second: more would
/// only hide that the collector's link is down.
const MAX_WAITING: usize = 512;

/// A PoP with thousands of tenants has megabytes of names. They go in bursts of this many messages, 45 KB, which a
/// collector's default socket buffer holds, with a pause between; flow records do not wait for them.
const NAMES_BURST: usize = 32;
const NAMES_PAUSE: Duration = Duration::from_millis(10);

/// What an exporter has done, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExportStats {
    /// Messages handed out, and their bytes.
    pub messages: u64,
    pub octets: u64,
    /// Flow records in them; two for a session that had packets both ways.
    pub records: u64,
    /// Flow records that were not sent, and the packets and bytes they spoke of.
    pub lost_records: u64,
    pub lost_packets: u64,
    pub lost_octets: u64,
}

/// The exporting process for one collector: one transport session (RFC 7011 section 2) and its sequence numbers.
pub struct Exporter {
    observation_domain: u32,
    /// Data records handed out so far, modulo 2^32; flow and options records alike (RFC 7011 section 3.1).
    sequence: u32,
    stats: ExportStats,
    /// When templates and names are due; at once, to begin with.
    refresh_at: Instant,
    directory: Directory,
    names: Names,
    /// Full messages, oldest first.
    waiting: VecDeque<FlowMessage>,
    open: FlowMessage,
    /// When the open message must leave; `None` while it is empty.
    open_until: Option<Instant>,
    /// What the last [`Exporter::poll`] handed out.
    handed_out: Option<FlowMessage>,
}

/// A message of flow records, and what is lost if it is not sent.
struct FlowMessage {
    message: Message,
    records: u64,
    packets: u64,
    octets: u64,
}

/// Options records with names, made anew when the directory changes, and how many of them this round has sent.
struct Names {
    messages: Vec<Message>,
    sent: usize,
    /// When the next burst may begin, and how much of this one is left.
    resume_at: Instant,
    burst_left: usize,
}

impl Exporter {
    /// An exporter whose messages say they come from `observation_domain` (RFC 7011 section 3.1).
    pub fn new(observation_domain: u32, directory: Directory) -> Exporter {
        Exporter {
            observation_domain,
            sequence: 0,
            stats: ExportStats::default(),
            refresh_at: Instant::default(),
            names: Names::of(&directory, observation_domain),
            directory,
            waiting: VecDeque::new(),
            open: FlowMessage::new(Message::new()),
            open_until: None,
            handed_out: None,
        }
    }

    /// Takes over the names of a new generation. Where they differ from the old, they are sent before anything else.
    pub fn set_directory(&mut self, directory: &Directory) {
        if self.directory != *directory {
            self.directory = directory.clone();
            self.names = Names::of(directory, self.observation_domain);
            self.refresh_at = Instant::default();
        }
    }

    /// Takes a record in: one flow record for each direction that has packets.
    pub fn add(&mut self, record: &FlowRecord, now: Now) {
        for direction in [Direction::Forward, Direction::Reverse] {
            let Some(flow) = Flow::of(record, direction) else { continue };
            if !self.open.push(&flow) {
                self.flush();
                self.open.push(&flow);
            }
            self.open_until.get_or_insert(now.instant + MAX_DELAY);
        }
    }

    /// Lets what has been added leave without waiting for more.
    pub fn flush(&mut self) {
        if self.open_until.take().is_none() {
            return;
        }
        let full = std::mem::replace(&mut self.open, FlowMessage::new(Message::new()));
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(full);
        } else {
            self.stats.count_lost(&full);
        }
    }

    /// The next datagram to send, at most 1,400 bytes; `None` until [`Exporter::poll_timeout`].
    pub fn poll(&mut self, now: Now) -> Option<&[u8]> {
        if self.open_until.is_some_and(|until| until <= now.instant) {
            self.flush();
        }
        self.handed_out = if self.refresh_at <= now.instant {
            self.refresh_at = now.instant + REFRESH;
            self.names.start_again();
            Some(FlowMessage::new(self.announcement()))
        } else if let Some(names) = self.names.next(now.instant) {
            Some(FlowMessage::new(names))
        } else {
            self.waiting.pop_front()
        };
        let FlowMessage { message, records, .. } = self.handed_out.as_mut()?;
        let export_unix_secs = (now.unix_nanos / 1_000_000_000) as u32;
        message.stamp(export_unix_secs, self.sequence, self.observation_domain);
        self.sequence = self.sequence.wrapping_add(message.data_records());
        self.stats.messages += 1;
        self.stats.octets += message.bytes().len() as u64;
        self.stats.records += *records;
        Some(message.bytes())
    }

    /// When to call [`Exporter::poll`] again; in the past if it has something now.
    pub fn poll_timeout(&self) -> Instant {
        if !self.waiting.is_empty() {
            return Instant::default();
        }
        let due = [Some(self.refresh_at), self.names.due(), self.open_until];
        due.into_iter().flatten().min().unwrap_or(self.refresh_at)
    }

    /// Says that the datagram last handed out could not be sent. Its sequence numbers stay used, so that the collector
    /// sees the gap.
    pub fn not_sent(&mut self) {
        let Some(lost) = self.handed_out.take() else { return };
        self.stats.messages -= 1;
        self.stats.octets -= lost.message.bytes().len() as u64;
        self.stats.records -= lost.records;
        self.stats.count_lost(&lost);
    }

    /// What this exporter has done so far.
    pub fn stats(&self) -> ExportStats {
        self.stats
    }

    /// All templates, and the one options record that is different each time.
    fn announcement(&self) -> Message {
        let mut message = Message::new();
        message.define(&template::FLOW_IPV4);
        message.define(&template::FLOW_IPV6);
        message.define(&template::FLOW_ICMP);
        message.define(&template::FLOW_ICMPV6);
        message.define(&template::FLOW_IPV6_TO_IPV4);
        message.define(&template::FLOW_IPV4_TO_IPV6);
        message.define(&template::FLOW_ICMPV6_TO_IPV4);
        message.define(&template::FLOW_ICMP_TO_IPV6);
        message.define(&template::INTERFACE);
        message.define(&template::APPLICATION);
        message.define(&template::VRF);
        message.define(&template::RULE);
        message.define(&template::STATISTICS);
        let observation_domain = self.observation_domain;
        message.push(&template::STATISTICS, &template::Statistics { observation_domain, stats: self.stats });
        message
    }
}

impl ExportStats {
    fn count_lost(&mut self, lost: &FlowMessage) {
        self.lost_records += lost.records;
        self.lost_packets += lost.packets;
        self.lost_octets += lost.octets;
    }
}

impl FlowMessage {
    fn new(message: Message) -> FlowMessage {
        FlowMessage { message, records: 0, packets: 0, octets: 0 }
    }

    fn push(&mut self, flow: &Flow) -> bool {
        let fits = self.message.push(flow.template(), flow);
        if fits {
            self.records += 1;
            self.packets += flow.packets();
            self.octets += flow.octets();
        }
        fits
    }
}

impl Names {
    fn of(directory: &Directory, observation_domain: u32) -> Names {
        let mut messages = Vec::new();
        for (number, name, what) in directory.interfaces() {
            let (name, description) = (name.to_owned(), format!("{what} {name}"));
            let interface = Named { observation_domain, number, name, description };
            add_name(&mut messages, &template::INTERFACE, &interface);
        }
        for (&id, name) in &directory.tenants {
            let (number, name, description) = (vrf(id), name.clone(), String::new());
            let vrf = Named { observation_domain, number, name, description };
            add_name(&mut messages, &template::VRF, &vrf);
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
            add_name(&mut messages, &template::APPLICATION, &application).close_set();
        }
        for (&(tenant, id), name) in &directory.rules {
            let (number, description) = (rule(tenant, id), String::new());
            let name = format!("{}/{name}", directory.tenant(tenant));
            let rule = Named { observation_domain, number, name, description };
            add_name(&mut messages, &template::RULE, &rule);
        }
        let sent = messages.len();
        Names { messages, sent, resume_at: Instant::default(), burst_left: NAMES_BURST }
    }

    fn start_again(&mut self) {
        self.sent = 0;
    }

    /// The next message of this round, unless the burst is over.
    fn next(&mut self, now: Instant) -> Option<Message> {
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
    fn due(&self) -> Option<Instant> {
        let left = self.sent < self.messages.len();
        left.then_some(if self.burst_left == 0 { self.resume_at } else { Instant::default() })
    }
}

/// Adds a record to the last message, or to a new one where that is full; gives the message.
fn add_name<'a, T>(messages: &'a mut Vec<Message>, template: &Template<T>, record: &T) -> &'a mut Message {
    if messages.last_mut().is_none_or(|message| !message.push(template, record)) {
        let mut message = Message::new();
        message.push(template, record);
        messages.push(message);
    }
    messages.last_mut().expect("a message was just written to")
}
