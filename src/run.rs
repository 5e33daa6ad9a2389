//! A running box: what `popgate run` starts, keeps, and stops again. Wiring: everything here is a call to somewhere else.
//!
//! 1 load and compile, 2 the kernel's devices and the transports' sockets, 3 the worker's thread, the exporter's thread,
//! 4 the admin server, 5 `ready`; then wait: SIGHUP loads the configuration anew, SIGTERM or SIGINT stops. What the
//! kernel would not give at once (an interface that is not there yet) is tried again every few seconds; the rest works
//! meanwhile.

use crate::admin::{self, token};
use crate::config::{self, Candidate, Role};
use crate::control::{Control, RecentFlows, SiteFacts, WorkerGone, WorkerPort};
use crate::export::Directory;
use crate::io::clock::Clock;
use crate::io::exporting::{self, Order};
use crate::io::forward::{self, DataPlane, Dropped, ForwardHandle};
use crate::io::network::Network;
use crate::io::udp::{Listen, TransportSocket};
use crate::model::{Instant, Now, TransportId};
use crate::pipeline::report::{Answer, Query};
use crate::pipeline::{Entrance, SessionScan, Team, Worker, describe_record};
use crate::tables::{Compiler, Generation};
use crate::wire::{Batch, Ingress, Outbound};
use arc_swap::ArcSwap;
use rand::TryRngCore;
use std::collections::VecDeque;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Records between the worker and the exporter: some seconds of a busy box.
const RECORD_QUEUE: usize = 65_536;
/// How often what the kernel would not give is asked for again.
const RETRY: Duration = Duration::from_secs(3);
/// One for now. Nothing below it assumes so; `io` does not yet steer datagrams to several.
const WORKERS: u16 = 1;
/// Begins the names of tenants' network namespaces. A lab sets it, so that its boxes keep apart from everybody else's.
const NETNS_PREFIX: &str = "POPGATE_NETNS_PREFIX";

type Failure = Box<dyn Error>;

/// Runs the box configured in `dir` until it is told to stop.
///
/// # Errors
/// For the operator: what is wrong with the configuration, or what the box cannot do without.
pub fn run(dir: &Path) -> Result<(), Failure> {
    let candidate = config::load(dir)?;
    // One thread is enough: nothing here is in a packet's way.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(dir.to_owned(), candidate))
}

async fn serve(dir: PathBuf, candidate: Candidate) -> Result<(), Failure> {
    let clock = Clock::new();
    let started_unix_ms = clock.now().unix_nanos / 1_000_000;
    let state_dir = candidate.appliance.state_dir.clone();
    let token = token::load_or_create(&state_dir, random)?;
    let listen = candidate.appliance.admin.listen;
    let listener =
        std::net::TcpListener::bind(listen).map_err(|error| format!("admin: {listen}: {error}"))?;
    let facts = site_facts(&candidate, started_unix_ms);

    let prefix = std::env::var(NETNS_PREFIX).unwrap_or_else(|_| "pg-".into());
    let mut compiler = Compiler::new(&prefix);
    let generation = Arc::new(compiler.compile(&candidate)?);
    let current = Arc::new(ArcSwap::new(Arc::clone(&generation)));

    let (orders, orders_in) = sync_channel(RECORD_QUEUE);
    let flows = Arc::new(RecentFlows::default());
    let exporter = exporting::start(orders_in, clock, {
        let (flows, current) = (Arc::clone(&flows), Arc::clone(&current));
        move |record| flows.push(describe_record(record, &current.load()))
    })?;

    let team = Team::new(WORKERS);
    let worker = Worker::new(0, &team, random(), Arc::clone(&generation), clock.now());
    let next_scan = clock.now().instant;
    let entrance = Entrance::new(&team, Arc::clone(&generation), clock.now());
    let plane = Plane { worker, entrance, orders: orders.clone(), scans: VecDeque::new(), next_scan };
    let (thread, handle) = forward::start("worker-0", plane, Vec::new(), Vec::new(), clock)?;
    let mut kernel =
        Kernel { network: Network::new()?, handle: handle.clone(), bound: Vec::new(), complete: false };
    kernel.bring_to(&generation).await;
    if kernel.bound.is_empty() {
        return Err("no transport could be opened".into());
    }
    orders.send(reconfigure(&candidate, &generation))?;

    let port: Box<dyn WorkerPort> = Box::new(Port(handle.clone()));
    let unix_millis = move || clock.now().unix_nanos / 1_000_000;
    let control = Arc::new(Control::new(facts, vec![port], flows, unix_millis));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let admin = tokio::spawn(admin::serve(listener, control, token, async move {
        let _ = stopped.await;
    }));
    tracing::info!(site = candidate.appliance.site, %listen, "popgate is running");
    println!("ready");
    std::io::stdout().flush()?;

    let mut reloader = Reloader { dir, compiler, current, handle, orders: orders.clone(), candidate };
    let worker_died = wait(&mut reloader, &mut kernel, || thread.is_finished()).await?;
    let _ = stop.send(());
    admin.await??;
    drop(reloader);
    drop(kernel);
    let mut plane = thread.stop().map_err(|_| "the worker panicked")?;
    plane.worker.end_all(clock.now());
    // No packet waits any more: the exporter gets all of them, however many there are.
    for record in plane.worker.take_records() {
        orders.send(Order::Record(record))?;
    }
    drop((plane, orders));
    exporter.join().map_err(|_| "the exporter panicked")?;
    if worker_died { Err("the worker has stopped".into()) } else { Ok(()) }
}

/// Until a signal says to stop; true if the worker's thread ended by itself.
async fn wait(
    reloader: &mut Reloader,
    kernel: &mut Kernel,
    worker_is_gone: impl Fn() -> bool,
) -> Result<bool, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut retry = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(false),
            _ = interrupt.recv() => return Ok(false),
            _ = hangup.recv() => reloader.reload(kernel).await,
            _ = retry.tick() => {
                if worker_is_gone() {
                    return Ok(true);
                }
                if !kernel.complete {
                    let generation = reloader.current.load_full();
                    kernel.bring_to(&generation).await;
                }
            }
        }
    }
}

/// The worker, as `io` drives it; its records go on to the exporter.
struct Plane {
    worker: Worker,
    // TODO: the entrance gets a thread of its own with the kernel's steering.
    entrance: Entrance,
    orders: SyncSender<Order>,
    /// Questions about sessions that are being answered, a part of the table at a time.
    scans: VecDeque<(SessionScan, Reply)>,
    next_scan: Instant,
}

type Reply = Box<dyn FnOnce(Answer) + Send>;

/// Slots of the session table that are looked at between packets: well under a millisecond.
const SCAN_SLOTS: usize = 10_000;
/// Questions under way at once.
const MAX_SCANS: usize = 64;
/// Between two such looks, so that packets get nine tenths of the time: a million sessions take half a second.
const SCAN_PAUSE: Duration = Duration::from_millis(5);

/// What the worker's thread is told.
enum Command {
    Adopt(Arc<Generation>),
    Ask(Query, Reply),
}

impl Plane {
    fn pass_on_records(&mut self) {
        let mut lost = 0;
        for record in self.worker.take_records() {
            lost += u64::from(self.orders.try_send(Order::Record(record)).is_err());
        }
        self.worker.records_lost(lost);
    }

    /// One look at the table for the question that has waited longest; those that come after wait their turn.
    fn go_on_scanning(&mut self, now: Now) {
        if now.instant < self.next_scan {
            return;
        }
        if let Some((mut scan, reply)) = self.scans.pop_front() {
            self.next_scan = now.instant + SCAN_PAUSE;
            if self.worker.scan(&mut scan, SCAN_SLOTS) {
                reply(Answer::Sessions(self.worker.page(scan, now)));
            } else {
                self.scans.push_back((scan, reply));
            }
        }
    }
}

impl DataPlane for Plane {
    type Command = Command;

    fn process(&mut self, batch: &mut Batch, now: Now, out: &mut Outbound) {
        let mut initiations = Vec::new();
        for (ingress, packet, _) in batch.packets() {
            if matches!(ingress, Ingress::Transport { .. }) && packet.first() == Some(&1) {
                initiations.push((ingress, packet.to_vec()));
                packet[0] = 0;
            }
        }
        self.worker.process(batch, now, out);
        for (ingress, packet) in initiations {
            let (mut aside, mut admitted) = (Batch::with_slots(1), Outbound::default());
            aside.push(ingress, &packet);
            self.entrance.process(&mut aside, now, &mut admitted);
            for (transport, to, cookie) in admitted.datagrams() {
                out.push_datagram(transport, to, cookie);
            }
            for (_, what, packet) in admitted.handovers() {
                aside.clear();
                aside.push(Ingress::Worker(what), packet);
                self.worker.process(&mut aside, now, out);
            }
        }
        self.pass_on_records();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let scan = (!self.scans.is_empty()).then_some(self.next_scan);
        [self.worker.poll_timeout(), scan].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Now, out: &mut Outbound) {
        self.worker.handle_timeout(now, out);
        self.pass_on_records();
        self.go_on_scanning(now);
    }

    fn egress_dropped(&mut self, what: Dropped, count: u64) {
        self.worker.egress_dropped(what.reason(), count);
    }

    fn command(&mut self, command: Command, now: Now, _out: &mut Outbound) {
        match command {
            Command::Adopt(generation) => {
                self.entrance.adopt(Arc::clone(&generation), now);
                self.worker.adopt(generation, now);
                self.pass_on_records();
            }
            Command::Ask(Query::Sessions { filter, limit }, reply) => {
                // One that finds no room is dropped unanswered, and whoever asked is told that nobody answers.
                if self.scans.len() < MAX_SCANS {
                    self.scans.push_back((SessionScan::new(filter, limit), reply));
                }
                self.go_on_scanning(now);
            }
            Command::Ask(query, reply) => reply(self.worker.answer(&query, now)),
        }
    }
}

/// The worker, as `control` asks it.
struct Port(ForwardHandle<Command>);

impl WorkerPort for Port {
    fn ask(&self, query: Query, reply: Reply) -> Result<(), WorkerGone> {
        self.0.send(Command::Ask(query, reply)).map_err(|_| WorkerGone)
    }
}

/// The kernel's devices and sockets, brought in line with a generation.
struct Kernel {
    network: Network,
    handle: ForwardHandle<Command>,
    bound: Vec<(TransportId, Listen)>,
    /// Nothing is missing.
    complete: bool,
}

impl Kernel {
    async fn bring_to(&mut self, generation: &Generation) {
        let transports = self.bring_transports_to(generation).await;
        let devices = self.bring_devices_to(generation).await;
        self.complete = transports && devices;
    }

    async fn bring_transports_to(&mut self, generation: &Generation) -> bool {
        let wanted: Vec<(TransportId, Listen)> = generation
            .transports
            .iter()
            .map(|(id, spec)| {
                (id, Listen { address: spec.listen, interface: spec.interface.clone(), shared: WORKERS > 1 })
            })
            .collect();
        let close: Vec<TransportId> =
            self.bound.iter().filter(|bound| !wanted.contains(bound)).map(|(id, _)| *id).collect();
        // Closed first: an address can be bound once.
        if !close.is_empty() {
            if let Ok(done) = self.handle.replace_transports(close, Vec::new()) {
                let _ = done.await;
            }
            self.bound.retain(|bound| wanted.contains(bound));
        }
        for (id, listen) in &wanted {
            if self.bound.iter().any(|(bound, _)| bound == id) {
                continue;
            }
            match TransportSocket::bind(*id, listen) {
                Ok(socket) => {
                    if let Ok(done) = self.handle.replace_transports(Vec::new(), vec![socket]) {
                        let _ = done.await;
                        self.bound.push((*id, listen.clone()));
                    }
                }
                Err(error) => tracing::warn!("{error}; will try again"),
            }
        }
        self.bound.len() == wanted.len()
    }

    async fn bring_devices_to(&mut self, generation: &Generation) -> bool {
        let wanted: Vec<_> = generation.devices.iter().map(|(id, spec)| (id, spec.clone())).collect();
        let realised = self.network.realise(&wanted).await;
        let handed_over = if realised.opened.is_empty() && realised.closed.is_empty() {
            true
        } else {
            match self.handle.replace_devices(realised.closed, realised.opened) {
                Ok(done) => done.await.is_ok(),
                Err(_) => false,
            }
        };
        realised.problems.is_empty() && handed_over
    }
}

/// Loads the configuration anew. A file that is wrong changes nothing.
struct Reloader {
    dir: PathBuf,
    compiler: Compiler,
    current: Arc<ArcSwap<Generation>>,
    handle: ForwardHandle<Command>,
    orders: SyncSender<Order>,
    candidate: Candidate,
}

impl Reloader {
    async fn reload(&mut self, kernel: &mut Kernel) {
        let candidate = match config::load(&self.dir) {
            Ok(candidate) => candidate,
            Err(problems) => {
                tracing::error!("the configuration is not taken over, the old one stays:\n{problems}");
                return;
            }
        };
        let (old, new) = (&self.candidate.appliance, &candidate.appliance);
        if old.site != new.site
            || is_pop(&old.role) != is_pop(&new.role)
            || old.admin.listen != new.admin.listen
        {
            tracing::error!(
                "site, role and admin listen address change only with a restart; the old configuration stays"
            );
            return;
        }
        let generation = match self.compiler.compile(&candidate) {
            Ok(generation) => Arc::new(generation),
            Err(error) => {
                tracing::error!("{error}; the old configuration stays");
                return;
            }
        };
        if self.handle.send(Command::Adopt(Arc::clone(&generation))).is_err() {
            tracing::error!("the worker does not take the new configuration over; the old one stays");
            return;
        }
        self.current.store(Arc::clone(&generation));
        kernel.bring_to(&generation).await;
        if self.orders.send(reconfigure(&candidate, &generation)).is_err() {
            tracing::error!("the exporter is gone");
        }
        self.candidate = candidate;
        tracing::info!(generation = generation.number, "the configuration is in force");
    }
}

fn is_pop(role: &Role) -> bool {
    matches!(role, Role::Pop(_))
}

fn site_facts(candidate: &Candidate, started_unix_ms: u64) -> SiteFacts {
    let appliance = &candidate.appliance;
    SiteFacts {
        site: appliance.site.clone(),
        role: if is_pop(&appliance.role) { "pop" } else { "branch" }.into(),
        metro: appliance.metro.clone(),
        facility: appliance.facility.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms,
    }
}

fn reconfigure(candidate: &Candidate, generation: &Generation) -> Order {
    let collectors = candidate.appliance.export.collectors.clone();
    Order::Reconfigure { collectors, directory: directory(generation) }
}

/// The names a collector is told. All ever given, not only the present generation's: a record may still speak of them.
fn directory(generation: &Generation) -> Directory {
    let names = &generation.names;
    Directory {
        tenants: names.all_tenants().map(|(id, name)| (id, name.to_string())).collect(),
        classes: names.all_classes().map(|(id, (tenant, name))| ((*tenant, id), name.to_string())).collect(),
        rules: names.all_rules().map(|(id, (tenant, name))| ((*tenant, id), name.to_string())).collect(),
        sites: names
            .all_sites()
            .map(|(id, (tenant, name))| (id, format!("{}/{name}", names.tenant(*tenant))))
            .collect(),
        paths: names
            .all_paths()
            .map(|(id, (site, _))| {
                let tenant = names.site_tenant(*site).map_or("?", |tenant| names.tenant(tenant));
                (id, format!("{tenant}/{}", names.site_and_path(id)))
            })
            .collect(),
        handoffs: names
            .all_handoffs()
            .map(|(id, (tenant, name))| (id, format!("{}/{name}", names.tenant(*tenant))))
            .collect(),
        lan: generation
            .devices
            .iter()
            .find(|(_, spec)| matches!(spec.kind, crate::tables::DeviceKind::Lan { .. }))
            .map(|(_, spec)| spec.name.clone()),
    }
}

/// The kernel's randomness, for keys, seeds and tokens.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    // Without it nothing here would be secret: better not to start.
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("the kernel gives random bytes");
    bytes
}
