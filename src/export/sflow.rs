//! sFlow version 5 (sflow.org/sflow_version_5.txt): some of the packets as they arrived, and what each interface has carried.
//!
//! Everything is in XDR (RFC 4506): numbers of four bytes, opaque bytes with their length and filled up to four. Samples are
//! of the expanded kind, since our interfaces' numbers do not fit into the other's 24 bits.

use super::ExportStats;
use super::directory::interface;
use super::message::MAX_MESSAGE_BYTES;
use crate::flow::{FlowRecord, Sample};
use crate::model::{Direction, Instant, Now};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How long a sample waits for others: sFlow asks for a second at most.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// How often the counters are said.
const COUNTERS: Duration = Duration::from_secs(20);

/// Full datagrams that wait to be sent; one more is lost. At 1 in 1,000 of a million packets a second, half a minute.
const MAX_WAITING: usize = 512;

/// Enterprise 0's formats.
const FLOW_SAMPLE_EXPANDED: u32 = 3;
const COUNTERS_SAMPLE_EXPANDED: u32 = 4;
const SAMPLED_HEADER: u32 = 1;
const GENERIC_INTERFACE_COUNTERS: u32 = 1;
/// The protocol that a sampled header begins with.
const HEADER_IPV4: u32 = 11;
const HEADER_IPV6: u32 = 12;
/// ifType "other" (RFC 2863's registry).
const OTHER: u32 = 1;
/// A counter that nobody keeps.
const UNKNOWN: u32 = u32::MAX;

/// The sFlow agent for one collector.
pub struct Agent {
    /// What it calls itself: samples are known by it, whatever address they come from.
    address: IpAddr,
    sub_agent: u32,
    sequence: u32,
    began: Instant,
    /// Sequence numbers of samples, by interface: of packets, and of counters.
    samples: BTreeMap<u32, u32>,
    counter_samples: u32,
    /// Samples that were not sent, since the beginning.
    dropped: u32,
    interfaces: BTreeMap<u32, Counters>,
    counters_at: Instant,
    waiting: VecDeque<Datagram>,
    open: Datagram,
    open_until: Option<Instant>,
    handed_out: Option<Datagram>,
    stats: ExportStats,
}

/// What sessions' records have told of an interface.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    in_octets: u64,
    in_packets: u64,
    out_octets: u64,
    out_packets: u64,
}

/// Samples, without what comes before the first.
#[derive(Clone, Debug, Default)]
struct Datagram {
    samples: Vec<u8>,
    count: u32,
    /// The whole, once it is handed out.
    bytes: Vec<u8>,
}

impl Agent {
    /// An agent that begins `now`; until it is told another, by the unspecified address.
    pub fn new(sub_agent: u32, now: Now) -> Agent {
        Agent {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            sub_agent,
            sequence: 0,
            began: now.instant,
            samples: BTreeMap::new(),
            counter_samples: 0,
            dropped: 0,
            interfaces: BTreeMap::new(),
            counters_at: now.instant + COUNTERS,
            waiting: VecDeque::new(),
            open: Datagram::default(),
            open_until: None,
            handed_out: None,
            stats: ExportStats::default(),
        }
    }

    /// Which address of the box's it is known by.
    pub fn set_address(&mut self, address: Option<IpAddr>) {
        self.address = address.unwrap_or(self.address);
    }

    /// Counts what a session's record tells of the interfaces.
    pub fn count(&mut self, record: &FlowRecord) {
        for direction in [Direction::Forward, Direction::Reverse] {
            let (from, to) = match direction {
                Direction::Forward => (record.initiator, record.responder),
                Direction::Reverse => (record.responder, record.initiator),
            };
            let went = record.direction(direction);
            let arrived = self.interfaces.entry(interface(from, went.arrived_on)).or_default();
            arrived.in_octets += went.bytes;
            arrived.in_packets += went.packets;
            let left = self.interfaces.entry(interface(to, went.left_on)).or_default();
            left.out_octets += went.bytes;
            left.out_packets += went.packets;
        }
    }

    /// Takes a sample in.
    pub fn add(&mut self, sample: &Sample, now: Now) {
        let source = interface(sample.from, sample.arrived_on);
        let number = self.samples.entry(source).or_default();
        *number = number.wrapping_add(1);
        let mut xdr = Xdr::default();
        xdr.number(*number);
        // Of data source type 0, an interface by its number.
        xdr.number(0);
        xdr.number(source);
        xdr.number(sample.rate);
        xdr.number(sample.pool as u32);
        xdr.number(self.dropped);
        xdr.number(0);
        xdr.number(source);
        xdr.number(0);
        xdr.number(interface(sample.to, sample.left_on));
        xdr.number(1);
        let mut header = Xdr::default();
        header.number(if sample.is_ipv4 { HEADER_IPV4 } else { HEADER_IPV6 });
        header.number(sample.length);
        // Nothing was taken off its end.
        header.number(0);
        header.opaque(&sample.header);
        xdr.tagged(SAMPLED_HEADER, &header);
        self.push(FLOW_SAMPLE_EXPANDED, &xdr);
        self.open_until.get_or_insert(now.instant + MAX_DELAY);
    }

    /// Counts samples that went astray before they came here.
    pub fn missed(&mut self, samples: u64) {
        self.dropped = self.dropped.wrapping_add(samples as u32);
        self.stats.lost_records += samples;
    }

    /// Lets what has been added leave without waiting for more.
    pub fn flush(&mut self) {
        self.open_until = None;
        if self.open.count == 0 {
            return;
        }
        let full = std::mem::take(&mut self.open);
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(full);
        } else {
            self.missed(u64::from(full.count));
        }
    }

    /// Lets all leave, with the counters as they are: there will be no more.
    pub fn finish(&mut self) {
        self.add_counters();
        self.flush();
    }

    /// The next datagram to send; `None` until [`Agent::poll_timeout`].
    pub fn poll(&mut self, now: Now) -> Option<&[u8]> {
        if self.counters_at <= now.instant {
            self.counters_at = now.instant + COUNTERS;
            self.add_counters();
            self.flush();
        }
        if self.open_until.is_some_and(|until| until <= now.instant) {
            self.flush();
        }
        self.handed_out = self.waiting.pop_front();
        let datagram = self.handed_out.as_mut()?;
        self.sequence = self.sequence.wrapping_add(1);
        let mut xdr = Xdr::default();
        xdr.number(5);
        match self.address {
            IpAddr::V4(v4) => {
                xdr.number(1);
                xdr.0.extend_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                xdr.number(2);
                xdr.0.extend_from_slice(&v6.octets());
            }
        }
        xdr.number(self.sub_agent);
        xdr.number(self.sequence);
        xdr.number(now.instant.since(self.began).as_millis() as u32);
        xdr.number(datagram.count);
        datagram.bytes = xdr.0;
        datagram.bytes.extend_from_slice(&datagram.samples);
        self.stats.messages += 1;
        self.stats.octets += datagram.bytes.len() as u64;
        self.stats.records += u64::from(datagram.count);
        Some(&datagram.bytes)
    }

    /// When to call [`Agent::poll`] again; in the past if it has something now.
    pub fn poll_timeout(&self) -> Instant {
        if !self.waiting.is_empty() {
            return Instant::default();
        }
        self.open_until.map_or(self.counters_at, |until| until.min(self.counters_at))
    }

    /// Says that the datagram last handed out could not be sent.
    pub fn not_sent(&mut self) {
        let Some(lost) = self.handed_out.take() else { return };
        self.stats.messages -= 1;
        self.stats.octets -= lost.bytes.len() as u64;
        self.stats.records -= u64::from(lost.count);
        self.missed(u64::from(lost.count));
    }

    /// What this agent has done so far; its records are samples.
    pub fn stats(&self) -> ExportStats {
        self.stats
    }

    fn add_counters(&mut self) {
        let interfaces: Vec<_> =
            self.interfaces.iter().map(|(number, counters)| (*number, *counters)).collect();
        for (number, counters) in interfaces {
            self.counter_samples = self.counter_samples.wrapping_add(1);
            let mut body = Xdr::default();
            body.number(number);
            body.number(OTHER);
            // Speed: unknown; direction: unknown; status: up.
            body.long(0);
            body.number(0);
            body.number(3);
            body.long(counters.in_octets);
            body.number(counters.in_packets as u32);
            for _ in 0..5 {
                body.number(UNKNOWN);
            }
            body.long(counters.out_octets);
            body.number(counters.out_packets as u32);
            for _ in 0..4 {
                body.number(UNKNOWN);
            }
            // Promiscuous: no.
            body.number(0);
            let mut xdr = Xdr::default();
            xdr.number(self.counter_samples);
            xdr.number(0);
            xdr.number(number);
            xdr.number(1);
            xdr.tagged(GENERIC_INTERFACE_COUNTERS, &body);
            self.push(COUNTERS_SAMPLE_EXPANDED, &xdr);
        }
    }

    fn push(&mut self, format: u32, sample: &Xdr) {
        /// Before the first sample, with an IPv6 address; and before each.
        const HEADERS: usize = 40 + 8;
        if self.open.samples.len() + sample.0.len() + HEADERS > MAX_MESSAGE_BYTES {
            self.flush();
        }
        let mut tagged = Xdr::default();
        tagged.tagged(format, sample);
        self.open.samples.extend_from_slice(&tagged.0);
        self.open.count += 1;
    }
}

/// What is written in XDR.
#[derive(Default)]
struct Xdr(Vec<u8>);

impl Xdr {
    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn long(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn opaque(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A structure of enterprise 0, with its format and length.
    fn tagged(&mut self, format: u32, body: &Xdr) {
        self.number(format);
        self.opaque(&body.0);
    }
}
