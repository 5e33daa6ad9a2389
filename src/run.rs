//! A running box: what `popgate run` starts, keeps, and stops again. Wiring: everything here is a call to somewhere else.
//!
//! 1 load and compile, 2 the threads of the exporter and the NAT ledger ([`ledger`]), the workers' and the entrance's ([`crew`], which drive [`planes`]), 3 the
//! kernel's devices and the transports' sockets ([`kernel`]), 4 the admin server's thread ([`serving`]), 5 `ready`, which the service manager hears too ([`service`]); then wait: SIGHUP commits the files as they are ([`commits`], which put them in force on the [`machine`]), SIGTERM or SIGINT stops. What the
//! kernel would not give at once (an interface that is not there yet) is tried again every few seconds; the rest works
//! meanwhile.

mod captures;
mod check;
mod commits;
mod crew;
mod dry_run;
mod enrolling;
mod flows;
mod kernel;
mod ledger;
mod machine;
mod planes;
mod screening;
mod service;
mod serving;
mod system;

use crate::admin::{Access, Doors, Tls, token};
use crate::config::{Appliance, Candidate, Role};
use crate::control::{Control, RecentFlows, SiteFacts};
use crate::flow::FlowRecord;
use crate::io::clock::Clock;
use crate::io::cpu;
use crate::io::exporting::{self, Standing, Wants};
use crate::io::ledgering::Ledgering;
use crate::io::listening;
use crate::io::network::{self, NetworkWatch};
use crate::model::AskedFlow;
use crate::pipeline::{Entrance, Logged, Team, Worker, describe_record, rehearse};
use crate::tables::{Compiler, Generation};
use crate::update::Uploads;
use arc_swap::ArcSwap;
use captures::{Captures, Tapes, Taping};
pub use check::{Checked, check, explain_candidate, replay, who_has};
use commits::{Asked, Beginning, Commits};
pub use enrolling::{EnrolArgs, enrol};
use flows::FlowsThread;
use kernel::Kernel;
use ledger::LedgerThread;
pub use ledger::who_had_offline;
use machine::{Machine, reconfigure, warn_of};
use planes::WorkerPlane;
use rand::TryRngCore;
pub use screening::{ScreenArgs, screen, set_up};
use service::Service;
use serving::AdminThread;
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Records between the workers and the exporter: some seconds of a busy box.
const RECORD_QUEUE: usize = 65_536;
/// How often what the kernel would not give is asked for again.
const RETRY: Duration = Duration::from_secs(3);
/// How often a box is looked at that has a new configuration on trial.
const TRIAL: Duration = Duration::from_secs(1);
/// Begins the names of tenants' network namespaces. A lab sets it, so that its boxes keep apart from everybody else's.
const NETNS_PREFIX: &str = "POPGATE_NETNS_PREFIX";

type Failure = Box<dyn Error>;

/// Runs the box configured in `dir` until it is told to stop.
///
/// # Errors
/// For the operator: what is wrong with the configuration, or what the box cannot do without.
pub fn run(dir: &Path) -> Result<(), Failure> {
    let clock = Clock::new();
    let beginning = commits::begin(dir, clock)?;
    // One thread is enough: nothing here is in a packet's way.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(dir.to_owned(), beginning, clock))
}

async fn serve(dir: PathBuf, beginning: Beginning, clock: Clock) -> Result<(), Failure> {
    let Beginning { candidate, legacy } = beginning;
    let started_unix_ms = clock.now().unix_nanos / 1_000_000;
    let state_dir = candidate.appliance.state_dir.clone();
    let token = token::load_or_create(&state_dir, random)?;
    let access = Access::open(&state_dir, token, random, started_unix_ms)?;
    access.follow(candidate.appliance.admin.oidc.as_ref()).await?;
    let doors = open_doors(&candidate.appliance)?;

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
    let standing = Standing::default();
    let exporter = exporting::start(orders_in, Arc::clone(&wants), standing.clone(), clock, seen, log)?;

    let naming = Arc::new(ArcSwap::new(Arc::clone(&generation)));
    let ledger = match &candidate.appliance.nat_ledger {
        Some(config) => Some(LedgerThread::start(&state_dir, config, Arc::clone(&naming), clock)?),
        None => None,
    };

    let cpus = cpu::usable()?;
    let workers = crew::workers_of(&candidate.appliance, &cpus);
    let facts = site_facts(&candidate, started_unix_ms, workers);
    let team = Team::new(workers);
    let tapes = Arc::new(Tapes::default());
    let planes = (0..workers).map(|id| {
        let worker = Worker::new(id, &team, random(), Arc::clone(&generation), clock.now());
        let ledger = ledger.as_ref().map(|ledger| Ledgering::new(ledger.entries.clone()));
        let taping = Taping::new(&tapes);
        WorkerPlane::new(worker, orders.clone(), Arc::clone(&wants), ledger, taping, clock.now())
    });
    let entrance = Entrance::new(&team, Arc::clone(&generation), clock.now());
    let (threads, crew) = crew::start(planes.collect(), entrance, &cpus, clock)?;
    system::follow(&candidate);
    let mut kernel = Kernel::new(crew.clone(), &watch)?;
    kernel.bring_to(&generation).await;
    // Where the addresses are the box's to have made, they come later.
    if kernel.is_deaf() && candidate.appliance.interfaces.is_empty() {
        return Err("no transport could be opened".into());
    }
    orders.send(reconfigure(&candidate, &generation))?;

    let unix_millis = move || clock.now().unix_nanos / 1_000_000;
    let explainer = {
        let current = Arc::clone(&current);
        move |tenant: &str, asked: &AskedFlow| check::explain_in(&current.load(), tenant, asked)
    };
    let control = Control::new(facts, crew.ports(), flows, unix_millis);
    let control = control.explained_by(explainer).exporting(move || standing.reports());
    let handoffs = kernel.handoffs();
    let control = control.handing_off(move || handoffs.load().to_vec());
    let control = match &ledger {
        Some(ledger) => control.with_ledger(ledger.reader()),
        None => control,
    };
    let control = match &history {
        Some(history) => control.with_history(history.reader()),
        None => control,
    };
    let (site, seen) = (candidate.appliance.site.clone(), Arc::clone(&current));
    let control = control.with_captures(Captures { tapes, current: seen, site, clock });
    let control = control.with_updates(Uploads::of_box());
    let (commit_port, mut desk) = commits::port();
    let control = Arc::new(control.with_commits(commit_port));
    let admin = AdminThread::start(doors, Arc::clone(&control), access.clone())?;
    tracing::info!(site = candidate.appliance.site, workers, listen = %candidate.appliance.admin.listen, "popgate is running");

    let mut service = Service::new(crew.clone());
    let machine = Machine {
        compiler,
        current,
        naming,
        crew,
        orders: orders.clone(),
        ledger: ledger.as_ref().map(|ledger| ledger.entries.clone()),
        history: history.as_ref().map(FlowsThread::settings),
        kernel,
        access,
        candidate,
    };
    let mut commits = Commits::new(legacy, &desk, machine, dir, control, clock);
    println!("ready");
    std::io::stdout().flush()?;
    service.is_ready();
    wait(&mut commits, &mut desk.verbs, &watch, &mut service, || threads.dead()).await?;
    service.is_stopping();
    drop(desk);
    admin.stop()?;
    commits.machine.kernel.leave();
    drop(commits);
    let (planes, all) = threads.stop();
    planes.into_iter().for_each(|plane| plane.end(clock.now()));
    drop(orders);
    exporter.join().map_err(|_| "the exporter panicked")?;
    history.map_or(Ok(()), FlowsThread::finish)?;
    ledger.map_or(Ok(()), LedgerThread::finish)?;
    if all { Ok(()) } else { Err("a forwarding thread has stopped".into()) }
}

/// Where the admin server is reached. What is beyond loopback is told of: whoever starts the box should know.
fn open_doors(appliance: &Appliance) -> Result<Doors, Failure> {
    // An address that the box is about to be given can be listened at before.
    let is_given = |listen: &SocketAddr| {
        let given = appliance.interfaces.iter().flat_map(|interface| &interface.addressing.fixed);
        given.into_iter().any(|given| given.ip() == listen.ip())
    };
    let bind = |listen: &SocketAddr| {
        listening::bind(*listen, is_given(listen)).map_err(|error| format!("admin: {listen}: {error}"))
    };
    let admin = &appliance.admin;
    let plain = bind(&admin.listen)?;
    let Some(tls) = &admin.tls else {
        return Ok(Doors::on_loopback(plain));
    };
    let greeting =
        Tls::open(tls, &appliance.site, &appliance.state_dir).map_err(|error| format!("admin: {error}"))?;
    for listen in &tls.listen {
        tracing::info!(%listen, fingerprint = greeting.fingerprint(), "admin: reached from elsewhere, over TLS");
    }
    let doors = tls.listen.iter().map(bind).collect::<Result<_, _>>()?;
    Ok(Doors { plain, tls: doors, greeting: Some(greeting), names: tls.names.clone() })
}

/// Until a signal says to stop, or a forwarding thread has ended by itself.
async fn wait(
    commits: &mut Commits,
    verbs: &mut mpsc::Receiver<Asked>,
    watch: &NetworkWatch,
    service: &mut Service,
    is_crew_dead: impl Fn() -> bool,
) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut retry = tokio::time::interval(RETRY);
    let mut trial = tokio::time::interval(TRIAL);
    trial.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => commits.reload().await,
            Some(asked) = verbs.recv() => commits.answer(asked).await,
            () = service.due() => service.look(),
            _ = trial.tick(), if commits.is_watching() => commits.watch().await,
            () = watch.changed() => {
                // The links first: who uses a dead one waits for nothing else.
                let Machine { kernel, current, .. } = &mut commits.machine;
                kernel.follow_links(&current.load_full()).await;
                if kernel.has_news() || !kernel.is_complete() {
                    kernel.bring_to(&current.load_full()).await;
                }
                commits.machine.follow_addresses().await;
            }
            _ = retry.tick() => {
                if is_crew_dead() {
                    return Ok(());
                }
                let Machine { kernel, current, .. } = &mut commits.machine;
                kernel.follow_links(&current.load_full()).await;
                if !kernel.is_complete() || kernel.has_lost_something() {
                    kernel.bring_to(&current.load_full()).await;
                }
                commits.machine.follow_addresses().await;
                commits.sample().await;
            }
        }
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

/// The kernel's randomness, for keys, seeds and tokens.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    // Without it nothing here would be secret: better not to start.
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("the kernel gives random bytes");
    bytes
}
