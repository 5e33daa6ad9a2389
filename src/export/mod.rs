//! IPFIX (RFC 7011) and NetFlow v9 (RFC 3954): flow records in, messages out. No sockets and no clock: whoever owns those
//! asks [`Exporter::poll`] for what is to be sent, and [`Exporter::poll_timeout`] when to ask again.
//!
//! What a collector has not asked for stays out ([`Filter`]). A session's record becomes one or two unidirectional flow
//! records, since nfdump mixes up the two directions of an RFC 5103 biflow. They are packed into messages ([`message`]) by
//! the templates of their kind ([`template`]), and leave when a message is full or its first record has waited a second.
//! Before anything else, then every minute, and when names change, go the templates themselves and options records with the
//! names ([`Directory`]) behind the numbers.

mod directory;
mod element;
mod filter;
mod message;
mod names;
mod nat;
pub mod pcapng;
pub mod report;
mod sflow;
mod template;
#[cfg(test)]
mod tests;

pub use directory::{APPLICATION_UNNUMBERED, Directory, application, interface, rule, vrf};
pub use filter::Filter;
pub use nat::{NatChange, NatEvent, NatLimit};
pub use sflow::Agent;

use crate::flow::FlowRecord;
use crate::model::{Direction, ExportProtocol, Instant, Now};
use element::{Dialect, Template};
use message::Message;
use names::Names;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;
use template::Flow;
use utoipa::ToSchema;

/// How long a record waits for others to share its message.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// How often templates and names are said again: UDP may lose them (RFC 7011 section 8.4), and a collector may start
/// after us.
const REFRESH: Duration = Duration::from_secs(60);

/// Full messages that wait to be sent; one more is lost. About a second's worth at 5,000 records a second: more would
/// only hide that the collector's link is down.
const MAX_WAITING: usize = 512;

/// How long before itself an exporter says, in NetFlow v9, that the box began: no session that it tells of began to be told
/// of earlier, since the active timeout is an hour at most.
const BOOTED_BEFORE_SECS: u64 = 24 * 3_600;

/// When NetFlow v9's 32 bits of milliseconds come to an end. Half of what they hold, so that no flow's time is beyond.
const MAX_UPTIME_MILLIS: u64 = 1 << 31;

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub protocol: ExportProtocol,
    /// What messages say they come from (RFC 7011 section 3.1; RFC 3954 section 5.1's source id).
    pub observation_domain: u32,
    /// Whether messages go through a stream that loses none: templates then go once in each, at its beginning, for RFC 7011
    /// section 8.4 is about UDP.
    pub is_stream: bool,
    /// Whether it is sent flow records, and NAT events: it is not told of templates that it has no use for.
    pub flows: bool,
    pub nat_events: bool,
    /// Whether a session with answers is one record (RFC 5103) and not two. IPFIX alone has such.
    pub biflow: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            protocol: ExportProtocol::Ipfix,
            observation_domain: 0,
            is_stream: false,
            flows: true,
            nat_events: false,
            biflow: false,
        }
    }
}

/// What an exporter has done, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// What went astray before it came here: flow records, and what they spoke of; and other things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    pub records: u64,
    pub packets: u64,
    pub octets: u64,
    /// NAT events, and packet samples.
    pub nat_events: u64,
    pub samples: u64,
}

impl Missed {
    /// Counts one record of a session, as the flow records that it would have become.
    pub fn count(&mut self, record: &FlowRecord) {
        for direction in record.directions.iter().filter(|direction| direction.packets > 0) {
            self.records += 1;
            self.packets += direction.packets;
            self.octets += direction.bytes;
        }
    }

    /// An event, which speaks of no packets.
    pub fn one_event() -> Missed {
        Missed { nat_events: 1, ..Missed::default() }
    }

    /// A packet sample.
    pub fn one_sample() -> Missed {
        Missed { samples: 1, ..Missed::default() }
    }

    fn data_records(&self) -> u64 {
        self.records + self.nat_events
    }

    /// Counts what somebody else has counted.
    pub fn add(&mut self, other: Missed) {
        self.records += other.records;
        self.packets += other.packets;
        self.octets += other.octets;
        self.nat_events += other.nat_events;
        self.samples += other.samples;
    }
}

/// The exporting process for one collector: its transport sessions (RFC 7011 section 2), one after the other, and their
/// sequence numbers.
pub struct Exporter {
    settings: Settings,
    dialect: Dialect,
    /// What has been handed out in this transport session so far, modulo 2^32; see [`Message::counts`].
    sequence: u32,
    stats: ExportStats,
    /// When templates and names are due; at once, to begin with.
    refresh_at: Instant,
    /// Whether this transport session has been told the templates.
    has_templates: bool,
    directory: Directory,
    /// Templates and statistics that wait to be sent.
    announcement: VecDeque<Message>,
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
    told: Missed,
}

impl Exporter {
    /// An exporter that begins `now`, in its first transport session.
    pub fn new(settings: Settings, directory: Directory, now: Now) -> Exporter {
        let dialect = dialect_of(settings.protocol, now);
        Exporter {
            settings,
            dialect,
            sequence: 0,
            stats: ExportStats::default(),
            refresh_at: Instant::default(),
            has_templates: false,
            announcement: VecDeque::new(),
            names: Names::of(&directory, settings.observation_domain, dialect),
            directory,
            waiting: VecDeque::new(),
            open: FlowMessage::new(Message::new(dialect)),
            open_until: None,
            handed_out: None,
        }
    }

    /// A new transport session begins, to which nothing has been said: its sequence numbers begin anew, and templates and
    /// names go first.
    pub fn begin_session(&mut self) {
        self.sequence = 0;
        self.has_templates = false;
        self.refresh_at = Instant::default();
    }

    /// Takes over the names of a new generation. Where they differ from the old, they are sent before anything else.
    pub fn set_directory(&mut self, directory: &Directory) {
        if self.directory != *directory {
            self.directory = directory.clone();
            self.names = Names::of(directory, self.settings.observation_domain, self.dialect);
            self.refresh_at = Instant::default();
        }
    }

    /// Takes a record in: one flow record for each direction that has packets, or one for both.
    pub fn add(&mut self, record: &FlowRecord, now: Now) {
        if self.settings.biflow
            && let Some(flow) = Flow::with_answers(record)
        {
            return self.push(flow.template(), &flow, flow.told(), now);
        }
        for direction in [Direction::Forward, Direction::Reverse] {
            if let Some(flow) = Flow::of(record, direction) {
                self.push(flow.template(), &flow, flow.told(), now);
            }
        }
    }

    /// Takes a NAT event in.
    pub fn add_nat_event(&mut self, event: &NatEvent, now: Now) {
        self.push(event.template(), event, Missed::one_event(), now);
    }

    fn push<T>(&mut self, template: &Template<T>, record: &T, told: Missed, now: Now) {
        if !self.open.push(template, record, told) {
            self.flush();
            self.open.push(template, record, told);
        }
        self.open_until.get_or_insert(now.instant + MAX_DELAY);
    }

    /// Counts as lost what went astray before it came here, as far as it was meant for this collector.
    pub fn missed(&mut self, missed: Missed) {
        if self.settings.flows {
            self.stats.count_lost(Missed { nat_events: 0, ..missed });
        }
        if self.settings.nat_events {
            self.stats.lost_records += missed.nat_events;
        }
    }

    /// Lets what has been added leave without waiting for more.
    pub fn flush(&mut self) {
        if self.open_until.take().is_none() {
            return;
        }
        let full = std::mem::replace(&mut self.open, FlowMessage::new(Message::new(self.dialect)));
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(full);
        } else {
            self.stats.count_lost(full.told);
        }
    }

    /// The next message to send, at most 1,400 bytes; `None` until [`Exporter::poll_timeout`].
    pub fn poll(&mut self, now: Now) -> Option<&[u8]> {
        if self.open_until.is_some_and(|until| until <= now.instant) {
            self.flush();
        }
        if self.refresh_at <= now.instant {
            self.refresh_at = now.instant + REFRESH;
            self.refresh(now);
        }
        let names = |names: &mut Names| names.next(now.instant);
        let without_flows = self.announcement.pop_front().or_else(|| names(&mut self.names));
        self.handed_out = match without_flows {
            Some(message) => Some(FlowMessage::new(message.in_dialect(self.dialect))),
            None => self.waiting.pop_front(),
        };
        let FlowMessage { message, told } = self.handed_out.as_mut()?;
        message.stamp(now, self.sequence, self.settings.observation_domain);
        self.sequence = self.sequence.wrapping_add(message.counts());
        self.stats.messages += 1;
        self.stats.octets += message.bytes().len() as u64;
        self.stats.records += told.data_records();
        Some(message.bytes())
    }

    /// When to call [`Exporter::poll`] again; in the past if it has something now.
    pub fn poll_timeout(&self) -> Instant {
        if !self.waiting.is_empty() || !self.announcement.is_empty() {
            return Instant::default();
        }
        let due = [Some(self.refresh_at), self.names.due(), self.open_until];
        due.into_iter().flatten().min().unwrap_or(self.refresh_at)
    }

    /// Says that the message last handed out could not be sent. Its sequence numbers stay used, so that the collector
    /// sees the gap.
    pub fn not_sent(&mut self) {
        let Some(lost) = self.handed_out.take() else { return };
        self.stats.messages -= 1;
        self.stats.octets -= lost.message.bytes().len() as u64;
        self.stats.records -= lost.told.data_records();
        self.stats.count_lost(lost.told);
    }

    /// What this exporter has done so far.
    pub fn stats(&self) -> ExportStats {
        self.stats
    }

    /// Has all templates said again, the one options record that is different each time, and the names.
    fn refresh(&mut self, now: Now) {
        if let Dialect::NetflowV9 { boot_unix_millis } = self.dialect
            && (now.unix_nanos / 1_000_000).saturating_sub(boot_unix_millis) > MAX_UPTIME_MILLIS
        {
            self.flush();
            self.dialect = dialect_of(self.settings.protocol, now);
            self.open = FlowMessage::new(Message::new(self.dialect));
        }
        let mut messages = Announcement { dialect: self.dialect, messages: VecDeque::new() };
        if !self.has_templates || !self.settings.is_stream {
            self.has_templates = true;
            if self.settings.flows {
                messages.define(&template::FLOW_IPV4);
                messages.define(&template::FLOW_IPV6);
                messages.define(&template::FLOW_ICMP);
                messages.define(&template::FLOW_ICMPV6);
                messages.define(&template::FLOW_IPV6_TO_IPV4);
                messages.define(&template::FLOW_IPV4_TO_IPV6);
                messages.define(&template::FLOW_ICMPV6_TO_IPV4);
                messages.define(&template::FLOW_ICMP_TO_IPV6);
            }
            if self.settings.flows && self.settings.biflow {
                messages.define(&template::BIFLOW_IPV4);
                messages.define(&template::BIFLOW_IPV6);
                messages.define(&template::BIFLOW_ICMP);
                messages.define(&template::BIFLOW_ICMPV6);
                messages.define(&template::BIFLOW_IPV6_TO_IPV4);
                messages.define(&template::BIFLOW_IPV4_TO_IPV6);
                messages.define(&template::BIFLOW_ICMPV6_TO_IPV4);
                messages.define(&template::BIFLOW_ICMP_TO_IPV6);
            }
            if self.settings.nat_events {
                for template in
                    [&nat::NAT44_BINDING, &nat::NAT64_BINDING, &nat::BLOCK, &nat::EXHAUSTED, &nat::QUOTA]
                {
                    messages.define(template);
                }
            }
            messages.define(&template::INTERFACE);
            messages.define(&template::APPLICATION);
            messages.define(&template::VRF);
            messages.define(&template::RULE);
            messages.define(&template::SAMPLING);
            messages.define(&template::STATISTICS);
        }
        let observation_domain = self.settings.observation_domain;
        messages.push(&template::STATISTICS, &template::Statistics { observation_domain, stats: self.stats });
        messages.push(&template::SAMPLING, &observation_domain);
        self.announcement = messages.messages;
        self.names.start_again();
    }
}

fn dialect_of(protocol: ExportProtocol, now: Now) -> Dialect {
    match protocol {
        // sFlow is an [`Agent`]'s.
        ExportProtocol::Ipfix | ExportProtocol::Sflow => Dialect::Ipfix,
        ExportProtocol::NetflowV9 => {
            let boot_unix_secs = (now.unix_nanos / 1_000_000_000).saturating_sub(BOOTED_BEFORE_SECS);
            Dialect::NetflowV9 { boot_unix_millis: boot_unix_secs * 1_000 }
        }
    }
}

/// What goes first, in as many messages as it takes.
struct Announcement {
    dialect: Dialect,
    messages: VecDeque<Message>,
}

impl Announcement {
    fn define<T>(&mut self, template: &Template<T>) {
        self.write(|message| message.define(template));
    }

    fn push<T>(&mut self, template: &Template<T>, record: &T) {
        self.write(|message| message.push(template, record));
    }

    fn write(&mut self, write: impl Fn(&mut Message) -> bool) {
        if self.messages.back_mut().is_none_or(|last| !write(last)) {
            let mut message = Message::new(self.dialect);
            write(&mut message);
            self.messages.push_back(message);
        }
    }
}

impl ExportStats {
    fn count_lost(&mut self, lost: Missed) {
        self.lost_records += lost.data_records();
        self.lost_packets += lost.packets;
        self.lost_octets += lost.octets;
    }
}

impl FlowMessage {
    fn new(message: Message) -> FlowMessage {
        FlowMessage { message, told: Missed::default() }
    }

    fn push<T>(&mut self, template: &Template<T>, record: &T, told: Missed) -> bool {
        let fits = self.message.push(template, record);
        if fits {
            self.told.add(told);
        }
        fits
    }
}
