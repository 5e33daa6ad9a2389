//! `popgate-lab`: the command line of [`popgate::lab`]; wiring only.

use clap::{Args, Parser, Subcommand, ValueEnum};
use popgate::lab::control::{self, Request};
use popgate::lab::impair::{Change, Counters};
use popgate::lab::topology::{Action, Directions, NodeKind};
use popgate::lab::units::{Loss, Rate, Span};
use popgate::lab::{Lab, LabError, LabOptions, RUN_DIR, Signal, Topology, netns};
use rustix::event::{EventfdFlags, eventfd};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Topologies of real popgate processes, hosts and links, in network namespaces of this machine.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Bring a lab up, and take it down on Ctrl-C
    Up {
        file: PathBuf,
        /// Where keys, configurations, state and logs go [default: /run/popgate-lab/NAME]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The popgate binary [default: next to this one]
        #[arg(long)]
        popgate: Option<PathBuf>,
        /// Leave the logs behind
        #[arg(long)]
        keep_logs: bool,
    },
    /// Take a lab down, or remove what one that was killed left
    Down { file: PathBuf },
    /// Let nothing through a link any more
    Cut {
        file: PathBuf,
        link: String,
        /// Forward is from the link's first end to its second
        #[arg(long, value_enum, default_value = "both")]
        direction: Direction,
    },
    /// Undo a link's cuts and impairments
    Heal { file: PathBuf, link: String },
    /// Change what a link does to frames, until it is healed
    Impair(Impair),
    /// End an appliance, as if it had crashed
    Kill {
        file: PathBuf,
        node: String,
        /// SIGTERM instead of SIGKILL
        #[arg(long)]
        term: bool,
    },
    /// Start an appliance that has ended
    Start { file: PathBuf, node: String },
    /// Run a command inside a node
    Exec {
        file: PathBuf,
        /// A node; or a namespace that an appliance made, by its name without the lab's prefix
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Show what a lab consists of and how its links are doing
    List { file: PathBuf },
}

#[derive(Args)]
struct Impair {
    file: PathBuf,
    link: String,
    /// Forward is from the link's first end to its second
    #[arg(long, value_enum, default_value = "both")]
    direction: Direction,
    #[arg(long)]
    delay: Option<Span>,
    #[arg(long)]
    jitter: Option<Span>,
    #[arg(long)]
    loss: Option<Loss>,
    #[arg(long)]
    rate: Option<Rate>,
    /// Frames that may wait for the rate
    #[arg(long)]
    queue: Option<usize>,
    /// Whether jitter lets frames overtake one another
    #[arg(long)]
    reorder: Option<bool>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
    Both,
    Forward,
    Reverse,
}

impl From<Direction> for Directions {
    fn from(direction: Direction) -> Directions {
        match direction {
            Direction::Both => Directions::Both,
            Direction::Forward => Directions::Forward,
            Direction::Reverse => Directions::Reverse,
        }
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("popgate-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Subcommands) -> Result<(), LabError> {
    match command {
        Subcommands::Up { file, dir, popgate, keep_logs } => {
            let topology = Topology::read(&file)?;
            let work_dir = dir.unwrap_or_else(|| Path::new(RUN_DIR).join(&topology.name));
            let popgate = popgate.unwrap_or_else(popgate_next_to_us);
            up(topology, LabOptions { keep_logs, ..LabOptions::new(work_dir, popgate) }, &file)
        }
        Subcommands::Down { file } => {
            let name = Topology::read(&file)?.name;
            control::ask(&name, &Request::Down)?;
            // 30 s: every appliance may take its grace.
            Lab::clear(&name, Duration::from_secs(30))
        }
        Subcommands::Cut { file, link, direction } => {
            ask(&file, Request::Link { link, action: Action::Cut { direction: direction.into() } })
        }
        Subcommands::Heal { file, link } => ask(&file, Request::Link { link, action: Action::Heal }),
        Subcommands::Impair(impair) => {
            let Impair { file, link, direction, delay, jitter, loss, rate, queue, reorder } = impair;
            let change = Change { delay, jitter, loss, rate, queue, reorder };
            let action = Action::Impair { direction: direction.into(), change };
            ask(&file, Request::Link { link, action })
        }
        Subcommands::Kill { file, node, term } => {
            let signal = if term { Signal::TERM } else { Signal::KILL };
            ask(&file, Request::Kill { node, signal: signal.as_raw() })
        }
        Subcommands::Start { file, node } => ask(&file, Request::Start { node }),
        Subcommands::Exec { file, node, command } => exec(&Topology::read(&file)?.name, &node, &command),
        Subcommands::List { file } => list(&Topology::read(&file)?),
    }
}

fn popgate_next_to_us() -> PathBuf {
    let ours = std::env::current_exe().unwrap_or_default();
    ours.with_file_name("popgate")
}

fn up(topology: Topology, options: LabOptions, file: &Path) -> Result<(), LabError> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |source| LabError::Io { doing, source }
    };
    let stop =
        Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| failed("making an eventfd")(e.into()))?);
    stop_on_signals(Arc::clone(&options.interrupted), Arc::clone(&stop))
        .map_err(failed("listening for signals"))?;
    let popgate = options.popgate.clone();
    let lab = Lab::up(topology, options)?;
    let mut out = io::stdout();
    print_lab(lab.topology(), &mut out);
    // Whoever reads a pipe waits for the last line; nobody may be reading.
    let _ = writeln!(
        out,
        "{}files and logs are in {}\ninside a node:  popgate-lab exec {} NODE -- COMMAND\nup; Ctrl-C takes it down",
        consoles_and_suggestions(&lab, &popgate, file),
        lab.work_dir().display(),
        file.display()
    )
    .and_then(|()| out.flush());
    control::serve(&lab, &*stop)
}

/// Where each published console is, and its token; then what to try, as the topology suggests it.
fn consoles_and_suggestions(lab: &Lab, popgate: &Path, file: &Path) -> String {
    let topology = lab.topology();
    let appliances = || topology.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Appliance { .. }));
    let mut text = String::new();
    for node in appliances() {
        let token = lab.node(&node.name).state_dir().join("admin-token");
        let Ok(token) = std::fs::read_to_string(&token) else { continue };
        for (outside, _) in &node.publish {
            text += &format!("console of {}: http://{outside}/  token: {}\n", node.name, token.trim());
        }
    }
    let us = std::env::current_exe().unwrap_or_else(|_| "popgate-lab".into());
    for (index, suggestion) in topology.suggestions.iter().enumerate() {
        let mut line = suggestion.replace("@lab@", &us.to_string_lossy());
        line =
            line.replace("@popgate@", &popgate.to_string_lossy()).replace("@file@", &file.to_string_lossy());
        for node in appliances() {
            let state_dir = lab.node(&node.name).state_dir();
            line = line.replace(&format!("@state-dir:{}@", node.name), &state_dir.to_string_lossy());
        }
        text += &format!("{}{line}\n", if index == 0 { "try:\n  " } else { "  " });
    }
    text
}

/// Sets the flag and the eventfd at SIGINT, SIGTERM and SIGHUP, instead of dying of it.
fn stop_on_signals(interrupted: Arc<AtomicBool>, stop: Arc<OwnedFd>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(inside);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                interrupted.store(true, Ordering::Relaxed);
                // It only fails when the counter is full, and then it has been told.
                let _ = rustix::io::write(&*stop, &1_u64.to_ne_bytes());
            }
        });
    })?;
    Ok(())
}

fn ask(file: &Path, request: Request) -> Result<(), LabError> {
    let name = Topology::read(file)?.name;
    match control::ask(&name, &request)? {
        Some(_) => Ok(()),
        None => Err(LabError::Refused(format!("lab {name} is not up"))),
    }
}

fn exec(lab: &str, node: &str, command: &[std::ffi::OsString]) -> Result<(), LabError> {
    let failed = |doing: String| move |source| LabError::Io { doing, source };
    netns::enter(&popgate::lab::namespace(lab, node)).map_err(failed(format!("entering node {node}")))?;
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    // Only comes back if it fails.
    Err(failed(format!("running {}", program.display()))(Command::new(program).args(arguments).exec()))
}

fn list(topology: &Topology) -> Result<(), LabError> {
    let mut out = io::stdout();
    print_lab(topology, &mut out);
    let Some(links) = control::ask(&topology.name, &Request::Links)? else {
        println!("not up");
        return Ok(());
    };
    for link in links {
        let [one, other] = &link.ends;
        println!("link {:<16} {one} - {other}{}", link.name, if link.cut { "  CUT" } else { "" });
        for (direction, counters) in ["forward", "reverse"].into_iter().zip(link.counters.unwrap_or_default())
        {
            if counters != Counters::default() {
                let Counters { delivered, lost, overflowed, cut, refused, .. } = counters;
                println!(
                    "     {direction}: {delivered} delivered, {lost} lost, {overflowed} overflowed, {cut} cut, {refused} refused"
                );
            }
        }
    }
    Ok(())
}

fn print_lab(topology: &Topology, out: &mut impl Write) {
    let mut print = || -> io::Result<()> {
        writeln!(out, "lab {}", topology.name)?;
        for node in &topology.nodes {
            let kind = match node.kind {
                NodeKind::Appliance { .. } => "appliance",
                NodeKind::Host => "host",
                NodeKind::Router => "router",
                NodeKind::WireGuard(_) => "wireguard",
            };
            let namespace = popgate::lab::namespace(&topology.name, &node.name);
            write!(out, "{kind:<10} {:<16} {namespace:<32}", node.name)?;
            let ends = topology.links.iter().flat_map(|link| &link.ends);
            let linked = ends.filter(|end| end.node == node.name).flat_map(|end| &end.addresses);
            for address in node.addresses.iter().chain(linked) {
                write!(out, " {address}")?;
            }
            writeln!(out)?;
            for (outside, inside) in &node.publish {
                writeln!(out, "{:<27} {inside} is reached at {outside}", "")?;
            }
        }
        Ok(())
    };
    // Nobody reads it: nothing is lost.
    let _ = print();
}
