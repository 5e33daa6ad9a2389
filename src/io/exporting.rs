//! Exporting: the thread that takes flow records from the workers, and one for each collector, which it hands them on to.
//!
//! Nothing here can hold up a worker, nor one collector another: every queue between is bounded, and what finds no room is
//! counted and told to the collector as lost. A collector's thread waits for records and for its exporter's timers,
//! whichever comes first, and may take its time over a connection ([`Link`]).

use super::clock::Clock;
use super::collector::Link;
use crate::config::{Collector, CollectorTransport};
use crate::export::report::ExporterReport;
use crate::export::{Agent, Directory, ExportStats, Exporter, Filter, Missed, NatEvent, Settings};
use crate::flow::{FlowRecord, Sample};
use crate::model::{ExportProtocol, Instant, Now, RecordKind};
use crate::pipeline::Logged;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long what a collector's thread has no room for waits until it is offered again.
const RETRY: Duration = Duration::from_millis(20);

/// Nothing is due: wakes this often, for nothing, which keeps the loops one loop.
const IDLE: Duration = Duration::from_secs(60);

/// Parcels on the way to a collector's thread: it is the records waiting outside that count.
const PARCELS: usize = 4;

/// Records that wait for a collector's thread, which may be waiting for a connection; one more is lost. Some seconds of a
/// busy box, as between workers and exporter.
const MAX_WAITING: usize = 65_536;

/// Records in a parcel.
const PARCEL_RECORDS: usize = 4_096;

/// Records between two looks at what is to be sent: some twenty messages.
const AT_ONCE: usize = 128;

/// What the thread is sent.
pub enum Order {
    Record(FlowRecord),
    NatEvent(NatEvent),
    /// A packet that a worker has chosen to be shown.
    Sample(Sample),
    /// Records that a worker had no room for.
    Missed(Missed),
    /// What an ACL rule with `log` decided on.
    Logged(Logged),
    /// A new generation's collectors and names. A collector that stays keeps its sequence numbers.
    Reconfigure {
        collectors: Vec<Collector>,
        packet_sampling: u32,
        directory: Directory,
    },
}

/// What the collectors of now want of the workers that costs something to tell.
#[derive(Debug, Default)]
pub struct Wants {
    nat_events: AtomicBool,
    packet_sampling: AtomicU32,
}

impl Wants {
    /// One packet in how many is to be shown; 0 is none.
    pub fn packet_sampling(&self) -> u32 {
        self.packet_sampling.load(Relaxed)
    }

    /// Whether somebody wants to know of NAT events.
    pub fn nat_events(&self) -> bool {
        self.nat_events.load(Relaxed)
    }
}

/// How exporting stands, for whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<Vec<Arc<Told>>>>);

/// What is told of the way to one collector.
#[derive(Debug)]
struct Told {
    report: Mutex<ExporterReport>,
    waiting: AtomicU64,
}

impl Standing {
    /// Of each collector, in the order of the configuration.
    pub fn reports(&self) -> Vec<ExporterReport> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.iter()
            .map(|told| ExporterReport { waiting: told.waiting.load(Relaxed), ..told.report().clone() })
            .collect()
    }
}

impl Told {
    fn of(collector: &Collector) -> Told {
        let report = ExporterReport {
            collector: collector.name.clone(),
            address: collector.address,
            protocol: match collector.protocol {
                ExportProtocol::Ipfix => "ipfix",
                ExportProtocol::NetflowV9 => "netflow-v9",
                ExportProtocol::Sflow => "sflow",
            }
            .to_owned(),
            transport: match collector.transport {
                CollectorTransport::Udp => "udp",
                CollectorTransport::Tcp => "tcp",
                CollectorTransport::Tls(_) => "tls",
            }
            .to_owned(),
            connected: false,
            connections: 0,
            failures: 0,
            failing_since_unix_ms: None,
            problem: None,
            retry_unix_ms: None,
            waiting: 0,
            stats: ExportStats::default(),
        };
        Told { report: Mutex::new(report), waiting: AtomicU64::new(0) }
    }

    fn report(&self) -> MutexGuard<'_, ExporterReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It calls `seen` with every record and `log` with what rules decided on, and ends when all senders of
/// `orders` are gone, after all collectors have been sent what was left. How it stands is told in `standing`.
///
/// # Errors
/// The thread could not be made.
pub fn start(
    orders: Receiver<Order>,
    wants: Arc<Wants>,
    standing: Standing,
    clock: Clock,
    seen: impl FnMut(&FlowRecord) + Send + 'static,
    log: impl FnMut(&Logged) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let (feeds, ending) = (Vec::new(), Vec::new());
    let exporting = Exporting { orders, wants, standing, clock, seen, log, feeds, ending };
    std::thread::Builder::new().name("export".into()).spawn(move || exporting.run())
}

struct Exporting<F, G> {
    orders: Receiver<Order>,
    wants: Arc<Wants>,
    standing: Standing,
    clock: Clock,
    seen: F,
    log: G,
    feeds: Vec<Feed>,
    /// Of collectors that are no longer configured: they still send what they have.
    ending: Vec<JoinHandle<()>>,
}

/// The way to a collector's thread.
struct Feed {
    collector: Collector,
    filter: Filter,
    /// What it has not been given yet.
    waiting: Parcel,
    parcels: SyncSender<Parcel>,
    told: Arc<Told>,
    thread: JoinHandle<()>,
}

/// What a collector's thread is given.
#[derive(Default)]
struct Parcel {
    directory: Option<Directory>,
    records: Vec<FlowRecord>,
    nat_events: Vec<NatEvent>,
    samples: Vec<Sample>,
    missed: Missed,
}

impl<F: FnMut(&FlowRecord), G: FnMut(&Logged)> Exporting<F, G> {
    fn run(mut self) {
        loop {
            let wait = if self.feeds.iter().all(|feed| feed.waiting.is_empty()) { IDLE } else { RETRY };
            match self.orders.recv_timeout(wait) {
                Ok(order) => {
                    self.take(order);
                    // What else is there already goes with it.
                    for _ in 0..PARCEL_RECORDS {
                        let Ok(order) = self.orders.try_recv() else { break };
                        self.take(order);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.feeds.iter_mut().for_each(Feed::pass_on);
        }
        self.ending.extend(self.feeds.drain(..).map(Feed::end));
        for thread in self.ending {
            if thread.join().is_err() {
                tracing::error!("a collector's thread panicked");
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Record(record) => {
                (self.seen)(&record);
                self.feeds.iter_mut().for_each(|feed| feed.take(&record));
            }
            Order::NatEvent(event) => self.feeds.iter_mut().for_each(|feed| feed.take_nat_event(event)),
            Order::Sample(sample) => self.feeds.iter_mut().for_each(|feed| feed.take_sample(&sample)),
            Order::Missed(missed) => self.feeds.iter_mut().for_each(|feed| feed.waiting.missed.add(missed)),
            Order::Logged(logged) => (self.log)(&logged),
            Order::Reconfigure { collectors, packet_sampling, directory } => {
                self.reconfigure(collectors, packet_sampling, &directory);
            }
        }
    }

    fn reconfigure(&mut self, collectors: Vec<Collector>, packet_sampling: u32, directory: &Directory) {
        let nat_events = collectors.iter().any(|it| it.records.contains(&RecordKind::NatEvents));
        self.wants.nat_events.store(nat_events, Relaxed);
        let samples = collectors.iter().any(|it| it.protocol == ExportProtocol::Sflow);
        self.wants.packet_sampling.store(if samples { packet_sampling } else { 0 }, Relaxed);
        let mut old = std::mem::take(&mut self.feeds);
        for collector in collectors {
            let kept = old.iter().position(|known| known.collector == collector);
            let feed = match kept {
                Some(at) => Ok(old.swap_remove(at)),
                None => Feed::start(collector, directory, self.clock),
            };
            match feed {
                Ok(mut feed) => {
                    feed.filter.learn(directory);
                    feed.waiting.directory = Some(feed.filter.names(directory));
                    self.feeds.push(feed);
                }
                Err(error) => tracing::error!(%error, "a collector gets no flow records: no thread for it"),
            }
        }
        let told = self.feeds.iter().map(|feed| Arc::clone(&feed.told)).collect();
        *self.standing.0.lock().unwrap_or_else(PoisonError::into_inner) = told;
        self.ending.retain(|thread| !thread.is_finished());
        self.ending.extend(old.into_iter().map(Feed::end));
    }
}

impl Feed {
    fn start(collector: Collector, directory: &Directory, clock: Clock) -> io::Result<Feed> {
        let (parcels, parcels_in) = sync_channel(PARCELS);
        let mut filter = Filter::new(collector.tenants.clone(), collector.records.clone());
        filter.learn(directory);
        let told = Arc::new(Told::of(&collector));
        let sending = Sending::new(&collector, filter.names(directory), parcels_in, Arc::clone(&told), clock);
        let thread = std::thread::Builder::new()
            .name(format!("export-{}", collector.name))
            .spawn(move || sending.run())?;
        Ok(Feed { collector, filter, waiting: Parcel::default(), parcels, told, thread })
    }

    fn take(&mut self, record: &FlowRecord) {
        if !self.filter.admits(record) {
            return;
        }
        if self.waiting.records.len() < MAX_WAITING {
            self.waiting.records.push(record.clone());
        } else {
            self.waiting.missed.count(record);
        }
    }

    fn take_nat_event(&mut self, event: NatEvent) {
        if !self.filter.admits_nat_event(&event) {
            return;
        }
        if self.waiting.nat_events.len() < MAX_WAITING {
            self.waiting.nat_events.push(event);
        } else {
            self.waiting.missed.add(Missed::one_event());
        }
    }

    fn take_sample(&mut self, sample: &Sample) {
        if self.collector.protocol != ExportProtocol::Sflow || !self.filter.admits_tenant(sample.tenant) {
            return;
        }
        if self.waiting.samples.len() < MAX_WAITING {
            self.waiting.samples.push(sample.clone());
        } else {
            self.waiting.missed.add(Missed::one_sample());
        }
    }

    /// Gives the thread what waits for it, as far as it has room.
    fn pass_on(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let parcel = std::mem::take(&mut self.waiting);
        match self.parcels.try_send(parcel) {
            Ok(()) => {}
            Err(TrySendError::Full(parcel)) => self.waiting = parcel,
            // It never ends before it is told to; its panic is told at the end.
            Err(TrySendError::Disconnected(_)) => {}
        }
        self.told.waiting.store(self.waiting.len() as u64, Relaxed);
    }

    /// Gives the thread the last there will be. It ends when it has sent that, or has found that it cannot.
    fn end(self) -> JoinHandle<()> {
        // Nobody waits for this any more: at the end of the process it may take as long as a connection may.
        let _ = self.parcels.send(self.waiting);
        self.thread
    }
}

impl Parcel {
    fn len(&self) -> usize {
        self.records.len() + self.nat_events.len() + self.samples.len()
    }

    fn is_empty(&self) -> bool {
        self.directory.is_none()
            && self.records.is_empty()
            && self.nat_events.is_empty()
            && self.samples.is_empty()
            && self.missed == Missed::default()
    }
}

/// A collector's thread.
struct Sending {
    name: String,
    speaker: Speaker,
    link: Link,
    parcels: Receiver<Parcel>,
    told: Arc<Told>,
    clock: Clock,
    /// So that a dead collector is told of once.
    failing: bool,
}

impl Sending {
    fn new(
        collector: &Collector,
        directory: Directory,
        parcels: Receiver<Parcel>,
        told: Arc<Told>,
        clock: Clock,
    ) -> Sending {
        let now = clock.now();
        let settings = Settings {
            protocol: collector.protocol,
            observation_domain: collector.observation_domain,
            is_stream: collector.transport != CollectorTransport::Udp,
            flows: collector.records.contains(&RecordKind::Flows),
            nat_events: collector.records.contains(&RecordKind::NatEvents),
            biflow: collector.biflow,
        };
        let speaker = match collector.protocol {
            ExportProtocol::Sflow => Speaker::Agent(Box::new(Agent::new(collector.observation_domain, now))),
            ExportProtocol::Ipfix | ExportProtocol::NetflowV9 => {
                Speaker::Exporter(Box::new(Exporter::new(settings, directory, now)))
            }
        };
        Sending {
            name: collector.name.clone(),
            speaker,
            link: Link::new(collector.address, &collector.transport),
            parcels,
            told,
            clock,
            failing: false,
        }
    }

    fn run(mut self) {
        loop {
            let now = self.clock.now();
            let due = self.speaker.poll_timeout().max(self.link.poll_timeout());
            match self.parcels.recv_timeout(due.since(now.instant).min(IDLE)) {
                Ok(parcel) => self.take(parcel),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.send();
        }
        self.speaker.flush();
        self.link.hurry();
        self.send();
        self.link.close();
    }

    fn take(&mut self, parcel: Parcel) {
        if let Some(directory) = &parcel.directory {
            self.speaker.set_directory(directory);
        }
        self.speaker.missed(parcel.missed);
        // What makes full messages leaves before more is added: the exporter keeps few.
        for some in parcel.records.chunks(AT_ONCE) {
            let now = self.clock.now();
            some.iter().for_each(|record| self.speaker.add(record, now));
            self.send();
        }
        for some in parcel.nat_events.chunks(AT_ONCE) {
            let now = self.clock.now();
            some.iter().for_each(|event| self.speaker.add_nat_event(event, now));
            self.send();
        }
        for some in parcel.samples.chunks(AT_ONCE) {
            let now = self.clock.now();
            some.iter().for_each(|sample| self.speaker.add_sample(sample, now));
            self.send();
        }
    }

    fn send(&mut self) {
        self.send_what_is_due();
        self.tell();
    }

    /// Without a connection nothing is taken from the exporter, which keeps the first that come and counts the others as
    /// lost.
    fn send_what_is_due(&mut self) {
        let now = self.clock.now();
        if self.speaker.poll_timeout() > now.instant || self.link.poll_timeout() > now.instant {
            return;
        }
        match self.link.open(now.instant) {
            Ok(true) => {
                self.speaker.begin_session(self.link.local_address());
                self.told.report().connections += 1;
            }
            Ok(false) => {}
            Err(error) => return self.failed(&error),
        }
        loop {
            let now = self.clock.now();
            let Some(message) = self.speaker.poll(now) else { return };
            match self.link.send(message, now.instant) {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(collector = self.name, "flow records are sent again");
                        let mut report = self.told.report();
                        (report.failing_since_unix_ms, report.problem) = (None, None);
                    }
                }
                Err(error) => {
                    self.speaker.not_sent();
                    self.failed(&error);
                    if !self.link.is_open() {
                        return;
                    }
                }
            }
        }
    }

    fn tell(&self) {
        let now = self.clock.now();
        let retry = Some(self.link.poll_timeout()).filter(|at| *at > now.instant);
        let mut report = self.told.report();
        report.connected = self.link.is_open();
        report.stats = self.speaker.stats();
        report.retry_unix_ms =
            retry.map(|at| (now.unix_nanos + at.since(now.instant).as_nanos() as u64) / 1_000_000);
    }

    fn failed(&mut self, error: &io::Error) {
        let mut report = self.told.report();
        report.failures += 1;
        report.problem = Some(error.to_string());
        report.failing_since_unix_ms.get_or_insert(self.clock.now().unix_nanos / 1_000_000);
        drop(report);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(collector = self.name, %error, "flow records cannot be sent");
        }
    }
}

/// What speaks to a collector, in the language that it understands.
enum Speaker {
    Exporter(Box<Exporter>),
    Agent(Box<Agent>),
}

impl Speaker {
    fn begin_session(&mut self, address: Option<IpAddr>) {
        match self {
            Speaker::Exporter(exporter) => exporter.begin_session(),
            Speaker::Agent(agent) => agent.set_address(address),
        }
    }

    fn set_directory(&mut self, directory: &Directory) {
        if let Speaker::Exporter(exporter) = self {
            exporter.set_directory(directory);
        }
    }

    fn add(&mut self, record: &FlowRecord, now: Now) {
        match self {
            Speaker::Exporter(exporter) => exporter.add(record, now),
            Speaker::Agent(agent) => agent.count(record),
        }
    }

    fn add_nat_event(&mut self, event: &NatEvent, now: Now) {
        if let Speaker::Exporter(exporter) = self {
            exporter.add_nat_event(event, now);
        }
    }

    fn add_sample(&mut self, sample: &Sample, now: Now) {
        if let Speaker::Agent(agent) = self {
            agent.add(sample, now);
        }
    }

    fn missed(&mut self, missed: Missed) {
        match self {
            Speaker::Exporter(exporter) => exporter.missed(missed),
            Speaker::Agent(agent) => agent.missed(missed.samples),
        }
    }

    fn flush(&mut self) {
        match self {
            Speaker::Exporter(exporter) => exporter.flush(),
            Speaker::Agent(agent) => agent.finish(),
        }
    }

    fn poll(&mut self, now: Now) -> Option<&[u8]> {
        match self {
            Speaker::Exporter(exporter) => exporter.poll(now),
            Speaker::Agent(agent) => agent.poll(now),
        }
    }

    fn poll_timeout(&self) -> Instant {
        match self {
            Speaker::Exporter(exporter) => exporter.poll_timeout(),
            Speaker::Agent(agent) => agent.poll_timeout(),
        }
    }

    fn stats(&self) -> ExportStats {
        match self {
            Speaker::Exporter(exporter) => exporter.stats(),
            Speaker::Agent(agent) => agent.stats(),
        }
    }

    fn not_sent(&mut self) {
        match self {
            Speaker::Exporter(exporter) => exporter.not_sent(),
            Speaker::Agent(agent) => agent.not_sent(),
        }
    }
}
