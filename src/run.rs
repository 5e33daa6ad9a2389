//! A running box: what `popgate run` starts, keeps, and stops again. Wiring: everything here is a call to somewhere else.
//!
//! 1 load and compile, 2 the threads of the exporter and the NAT ledger ([`ledger`]), the workers' and the entrance's ([`crew`], which drive [`planes`]), 3 the
//! kernel's devices and the transports' sockets ([`kernel`]), 4 the admin server, 5 `ready`; then wait: SIGHUP loads the configuration anew, SIGTERM or SIGINT stops. What the
//! kernel would not give at once (an interface that is not there yet) is tried again every few seconds; the rest works
//! meanwhile.

mod check;
mod crew;
mod flows;
mod kernel;
mod ledger;
mod planes;

use crate::admin::{self, token};
use crate::config::{self, Candidate, Role};
use crate::control::{Control, RecentFlows, SiteFacts};
use crate::export::Directory;
use crate::flow::FlowRecord;
use crate::io::clock::Clock;
use crate::io::cpu;
use crate::io::exporting::{self, Order, Wants};
use crate::io::flow_keeping::FlowKeeping;
use crate::io::ledgering::{Entry, Ledgering};
use crate::io::network::{self, NetworkWatch};
use crate::model::AskedFlow;
use crate::pipeline::{Entrance, Logged, Team, Worker, describe_record, rehearse};
use crate::tables::{Compiler, Generation};
use arc_swap::ArcSwap;
pub use check::{Checked, check, explain_candidate, replay, who_has};
use crew::Crew;
use flows::FlowsThread;
use kernel::Kernel;
pub use ledger::who_had_offline;
use ledger::{LedgerThread, limits_of};
use planes::WorkerPlane;
use rand::TryRngCore;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Records between the workers and the exporter: some seconds of a busy box.
const RECORD_QUEUE: usize = 65_536;
/// How often what the kernel would not give is asked for again.
const RETRY: Duration = Duration::from_secs(3);
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

    let prefix = std::env::var(NETNS_PREFIX).unwrap_or_else(|_| "pg-".into());
    let mut compiler = Compiler::new(&prefix);
    let watch = NetworkWatch::open()?;
    compiler.know_addresses(network::addresses(&candidate.masquerades()).await?);
    let generation = Arc::new(compiler.compile(&candidate)?);
    warn_of(&generation);
    // A box that is down carries nobody's traffic: at the start a failing test is told and no more.
    for failed in rehearse(&candidate, &generation) {
        tracing::error!("{failed}");
    }
    let current = Arc::new(ArcSwap::new(Arc::clone(&generation)));

    let (orders, orders_in) = sync_channel(RECORD_QUEUE);
    let wants = Arc::new(Wants::default());
    let flows = Arc::new(RecentFlows::default());
    let history = candidate.appliance.flow_history.as_ref();
    let history = history.map(|config| FlowsThread::start(&state_dir, config, clock)).transpose()?;
    let seen = {
        let (flows, current) = (Arc::clone(&flows), Arc::clone(&current));
        let history = history.as_ref().map(|history| history.way.clone());
        move |record: &FlowRecord| {
            let flow = describe_record(record, &current.load());
            if let Some(history) = &history {
                history.pass_on(flow.clone());
            }
            flows.push(flow);
        }
    };
    let log = {
        let current = Arc::clone(&current);
        move |logged: &Logged| log_decision(logged, &current.load())
    };
    let exporter = exporting::start(orders_in, Arc::clone(&wants), clock, seen, log)?;

    let naming = Arc::new(ArcSwap::new(Arc::clone(&generation)));
    let ledger = match &candidate.appliance.nat_ledger {
        Some(config) => Some(LedgerThread::start(&state_dir, config, Arc::clone(&naming), clock)?),
        None => None,
    };

    let cpus = cpu::usable()?;
    let workers = crew::workers_of(&candidate.appliance, &cpus);
    let facts = site_facts(&candidate, started_unix_ms, workers);
    let team = Team::new(workers);
    let planes = (0..workers).map(|id| {
        let worker = Worker::new(id, &team, random(), Arc::clone(&generation), clock.now());
        let ledger = ledger.as_ref().map(|ledger| Ledgering::new(ledger.entries.clone()));
        WorkerPlane::new(worker, orders.clone(), Arc::clone(&wants), ledger, clock.now())
    });
    let entrance = Entrance::new(&team, Arc::clone(&generation), clock.now());
    let (threads, crew) = crew::start(planes.collect(), entrance, &cpus, clock)?;
    let mut kernel = Kernel::new(crew.clone())?;
    kernel.bring_to(&generation).await;
    if kernel.is_deaf() {
        return Err("no transport could be opened".into());
    }
    orders.send(reconfigure(&candidate, &generation))?;

    let unix_millis = move || clock.now().unix_nanos / 1_000_000;
    let explainer = {
        let current = Arc::clone(&current);
        move |tenant: &str, asked: &AskedFlow| check::explain_in(&current.load(), tenant, asked)
    };
    let control = Control::new(facts, crew.ports(), flows, unix_millis).explained_by(explainer);
    let control = match &ledger {
        Some(ledger) => control.with_ledger(ledger.reader()),
        None => control,
    };
    let control = Arc::new(match &history {
        Some(history) => control.with_history(history.reader()),
        None => control,
    });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let admin = tokio::spawn(admin::serve(listener, control, token, async move {
        let _ = stopped.await;
    }));
    tracing::info!(site = candidate.appliance.site, workers, %listen, "popgate is running");
    println!("ready");
    std::io::stdout().flush()?;

    let history_way = history.as_ref().map(|history| history.way.clone());
    let entries = ledger.as_ref().map(|ledger| ledger.entries.clone());
    let orders_out = orders.clone();
    let mut reloader = Reloader {
        dir,
        compiler,
        current,
        naming,
        crew,
        orders: orders_out,
        ledger: entries,
        history: history_way,
        candidate,
    };
    wait(&mut reloader, &mut kernel, &watch, || threads.dead()).await?;
    let _ = stop.send(());
    admin.await??;
    drop(reloader);
    kernel.leave();
    drop(kernel);
    let (planes, all) = threads.stop();
    planes.into_iter().for_each(|plane| plane.end(clock.now()));
    drop(orders);
    exporter.join().map_err(|_| "the exporter panicked")?;
    history.map_or(Ok(()), FlowsThread::finish)?;
    ledger.map_or(Ok(()), LedgerThread::finish)?;
    if all { Ok(()) } else { Err("a forwarding thread has stopped".into()) }
}

/// Until a signal says to stop, or a forwarding thread has ended by itself.
async fn wait(
    reloader: &mut Reloader,
    kernel: &mut Kernel,
    watch: &NetworkWatch,
    is_crew_dead: impl Fn() -> bool,
) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut retry = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reloader.reload(kernel).await,
            () = watch.changed() => {
                // The links first: who uses a dead one waits for nothing else.
                kernel.follow_links(&reloader.current.load_full()).await;
                reloader.follow_addresses(kernel).await;
            }
            _ = retry.tick() => {
                if is_crew_dead() {
                    return Ok(());
                }
                kernel.follow_links(&reloader.current.load_full()).await;
                reloader.follow_addresses(kernel).await;
                if !kernel.is_complete() || kernel.has_lost_something() {
                    let generation = reloader.current.load_full();
                    kernel.bring_to(&generation).await;
                }
            }
        }
    }
}

/// Loads the configuration anew. A file that is wrong changes nothing.
struct Reloader {
    dir: PathBuf,
    compiler: Compiler,
    current: Arc<ArcSwap<Generation>>,
    /// What the ledger takes names from: of a generation that workers may have already.
    naming: Arc<ArcSwap<Generation>>,
    crew: Crew,
    orders: SyncSender<Order>,
    ledger: Option<SyncSender<Entry>>,
    history: Option<FlowKeeping>,
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
            || old.workers != new.workers
            || old.admin.listen != new.admin.listen
            || old.nat_ledger.is_some() != new.nat_ledger.is_some()
            || old.flow_history.is_some() != new.flow_history.is_some()
        {
            tracing::error!(
                "site, role, workers, admin listen address, and whether there is a NAT ledger or a flow history, change only with a \
                 restart; the old configuration stays"
            );
            return;
        }
        self.know_addresses(&candidate).await;
        self.put_in_force(candidate, kernel).await;
    }

    /// Where an address of the box's own is masqueraded with, and has changed, the configuration is compiled anew with it.
    async fn follow_addresses(&mut self, kernel: &mut Kernel) {
        let candidate = self.candidate.clone();
        if self.know_addresses(&candidate).await {
            tracing::info!("an address of this box's own is another now");
            self.put_in_force(candidate, kernel).await;
        }
    }

    /// Looks what they are; true if that differs from before. Those that nobody can tell stay as they are.
    async fn know_addresses(&mut self, candidate: &Candidate) -> bool {
        match network::addresses(&candidate.masquerades()).await {
            Ok(addresses) => self.compiler.know_addresses(addresses),
            Err(error) => {
                tracing::warn!("this box's own addresses: {error}");
                false
            }
        }
    }

    async fn put_in_force(&mut self, candidate: Candidate, kernel: &mut Kernel) {
        let generation = match self.compiler.compile(&candidate) {
            Ok(generation) => Arc::new(generation),
            Err(error) => {
                tracing::error!("{error}; the old configuration stays");
                return;
            }
        };
        let failed = rehearse(&candidate, &generation);
        if !failed.is_empty() {
            let failed: String = failed.iter().map(|problem| format!("{problem}\n")).collect();
            tracing::error!(
                "policy tests fail; the configuration is not taken over, the old one stays:\n{failed}"
            );
            return;
        }
        warn_of(&generation);
        self.naming.store(Arc::clone(&generation));
        if !self.crew.adopt(&generation).await {
            tracing::error!("a forwarding thread has ended; the new configuration is not taken over");
            return;
        }
        self.current.store(Arc::clone(&generation));
        kernel.bring_to(&generation).await;
        if self.orders.send(reconfigure(&candidate, &generation)).is_err() {
            tracing::error!("the exporter is gone");
        }
        if let (Some(history), Some(config)) = (&self.history, &candidate.appliance.flow_history)
            && !history.set_limits(flows::limits_of(config))
        {
            tracing::error!("the flow history's thread is gone");
        }
        if let (Some(ledger), Some(config)) = (&self.ledger, &candidate.appliance.nat_ledger)
            && ledger.send(Entry::Limits(limits_of(config))).is_err()
        {
            tracing::error!("the NAT ledger's thread is gone");
        }
        self.candidate = candidate;
        tracing::info!(generation = generation.number, "the configuration is in force");
    }
}

/// What is not wrong with a configuration, but not what was meant.
fn warn_of(generation: &Generation) {
    for warning in generation.unreachable_rules() {
        tracing::warn!("{warning}");
    }
}

/// The line of a rule with `log`.
fn log_decision(logged: &Logged, generation: &Generation) {
    let (names, key) = (&generation.names, &logged.key);
    let [from, to] = logged.ends.map(|end| generation.describe_end(end));
    tracing::info!(
        target: "popgate::acl",
        tenant = names.tenant(logged.tenant),
        rule = names.rule(logged.rule),
        action = ?logged.action,
        protocol = %key.protocol,
        source = %key.source(),
        source_port = key.source_port,
        destination = %key.destination(),
        destination_port = key.destination_port,
        from,
        to,
        dscp = logged.dscp,
        unlogged = logged.unlogged,
        "decided on a session"
    );
}

fn is_pop(role: &Role) -> bool {
    matches!(role, Role::Pop(_))
}

fn site_facts(candidate: &Candidate, started_unix_ms: u64, workers: u16) -> SiteFacts {
    let appliance = &candidate.appliance;
    SiteFacts {
        site: appliance.site.clone(),
        role: if is_pop(&appliance.role) { "pop" } else { "branch" }.into(),
        metro: appliance.metro.clone(),
        facility: appliance.facility.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms,
        workers: usize::from(workers),
    }
}

fn reconfigure(candidate: &Candidate, generation: &Generation) -> Order {
    let collectors = candidate.appliance.export.collectors.clone();
    let packet_sampling = candidate.appliance.export.packet_sampling;
    Order::Reconfigure { collectors, packet_sampling, directory: directory(generation) }
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
