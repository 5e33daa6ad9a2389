//! `make bench-net`: the release binary between real WireGuard peers and a server, beside the peers of its own kind.
//!
//! Each case is measured on every device under test (DUT) that this machine has, one right after the other, so that a
//! noisy machine is noisy for all; every measurement begins with a DUT just started, in namespaces of its own. The
//! generator has processor 0, the DUT processor 1; where there are hosts at both ends (iperf3, ping) everybody has both.
//! popgate runs with all that it does switched on: NAT, 100 rules, app classes, path policy, flow export. The others have
//! the kernel do as much of that as it can (conntrack, NAT and 100 rules in nftables).
//!
//! When asked for (`CASE=transmit`), the ways a single packet can leave by are measured without any DUT.
//!
//! Writes `target/bench/net.json` and prints a table. In the environment:
//!
//! - `CASE=text`, `DUT=text`: only cases and DUTs whose name holds the text; some cases run only when asked for
//! - `RUNS=n`: all of it so many times, and the medians; 1
//! - `SECS=n`: length of a trial in seconds; 1
//! - `WORKERS=n`: written to popgate's configuration; if not set, nothing is
//! - `PRESEAL=1`: what goes up is sealed before the clock starts, so that the generator can offer more; done without
//!   asking where the DUT takes all that can be sealed while it runs
//! - `POPGATE`, `BORINGTUN_CLI`: where the binaries are, if not where cargo or the search path have them
//! - `VERBOSE=1`: every trial

mod dut;
mod flood;
mod load;
mod order;
mod packet;
mod report;
mod rig;
mod tcp;
mod transmit;

use dut::{Dut, Kind};
use load::{Direction, Found, Generator, Load, Offer, Upper};
use report::{Figures, Report, Subject, quantile};
use rig::{Rig, Setting, pin};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tcp::Tcp;
use tokio::signal::unix::{SignalKind, signal};
use transmit::Transmit;

pub type Failure = Box<dyn Error + Send + Sync>;

const GENERATOR_CPU: usize = 0;
const DUT_CPU: usize = 1;

/// What is measured of a case.
#[derive(Clone, Copy)]
enum Measure {
    Rates(Load),
    Tcp(Tcp),
    Ping {
        loaded: bool,
    },
    /// On these processors.
    Flood(&'static [usize]),
}

struct Case {
    name: String,
    peers: usize,
    measure: Measure,
    /// Only if `CASE` asks for it.
    extra: bool,
}

fn cases() -> Vec<Case> {
    use Direction::{Both, Down, Up};
    let mut cases = Vec::new();
    let mut loads = |upper, direction: Direction, bytes: usize, burst: usize, peers: usize, extra: bool| {
        let size = if burst == 1 { format!("{bytes} singles") } else { format!("{bytes}x{burst}") };
        let who = if peers == 1 { "1 peer".to_owned() } else { format!("{peers} peers") };
        let load = Load { upper, direction, bytes, burst };
        let tcp = if upper == Upper::Tcp { " TCP" } else { "" };
        let name = format!("{}{tcp} {size}, {who}", direction.name());
        cases.push(Case { name, peers, measure: Measure::Rates(load), extra });
    };
    loads(Upper::Tcp, Up, 1_420, 44, 1, false);
    loads(Upper::Tcp, Up, 1_420, 4, 1_000, false);
    let mut rates = |direction, bytes, burst, peers, extra| {
        loads(Upper::Udp, direction, bytes, burst, peers, extra);
    };
    rates(Up, 1_420, 44, 1, false);
    rates(Up, 64, 64, 1, false);
    rates(Up, 64, 1, 1, false);
    rates(Down, 1_420, 44, 1, false);
    rates(Down, 64, 1, 1, false);
    rates(Up, 1_420, 4, 1_000, false);
    rates(Up, 64, 4, 1_000, false);
    rates(Up, 1_420, 1, 1_000, false);
    rates(Down, 1_420, 4, 1_000, false);
    rates(Down, 1_420, 1, 1_000, false);
    rates(Both, 1_420, 44, 1, true);
    rates(Both, 1_420, 4, 1_000, true);
    rates(Up, 64, 1, 1_000, true);
    rates(Down, 64, 1, 1_000, true);
    rates(Up, 1_420, 4, 10_000, true);
    rates(Down, 1_420, 4, 10_000, true);
    for (name, cpus, extra) in [("flood", &[DUT_CPU][..], false), ("flood, both cores", &[0, 1][..], true)] {
        cases.push(Case { name: name.to_owned(), peers: 1, measure: Measure::Flood(cpus), extra });
    }
    for (name, streams, down) in [
        ("iperf3 up, 1 stream", 1, false),
        ("iperf3 down, 1 stream", 1, true),
        ("iperf3 up, 8 streams", 8, false),
        ("iperf3 down, 8 streams", 8, true),
    ] {
        let measure = Measure::Tcp(Tcp { streams, down });
        cases.push(Case { name: name.to_owned(), peers: 1, measure, extra: false });
    }
    for (name, loaded) in [("ping, idle", false), ("ping under iperf3 up", true)] {
        cases.push(Case { name: name.to_owned(), peers: 1, measure: Measure::Ping { loaded }, extra: false });
    }
    cases
}

impl Case {
    fn subject(&self) -> Subject {
        let (direction, bytes, burst) = match self.measure {
            Measure::Rates(load) => (load.direction.name(), load.bytes, load.burst),
            Measure::Tcp(tcp) => (if tcp.down { "down" } else { "up" }, 0, 0),
            Measure::Ping { .. } => ("both", 84, 1),
            Measure::Flood(_) => (flood::LOAD.direction.name(), flood::LOAD.bytes, flood::LOAD.burst),
        };
        Subject { case: self.name.clone(), direction, peers: self.peers, bytes, burst }
    }

    fn concerns(&self, dut: &Dut) -> bool {
        match self.measure {
            Measure::Rates(_) => dut.kind != Kind::NoTunnel,
            Measure::Flood(_) => !matches!(dut.kind, Kind::NoTunnel | Kind::Boringtun { single: true }),
            // As installed: one thread more or less is the load cases' matter.
            Measure::Tcp(_) | Measure::Ping { .. } => dut.kind != Kind::Boringtun { single: true },
        }
    }
}

fn main() -> ExitCode {
    // `cargo bench` appends `--bench`; what it runs is chosen by the environment.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-net: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("it makes network namespaces: run it as root".into());
    }
    // A socket a peer.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum.or(Some(65_536));
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files)?;
    let popgate = std::env::var_os("POPGATE").unwrap_or_else(|| env!("CARGO_BIN_EXE_popgate").into());
    let setting = Setting { popgate: std::path::absolute(popgate)?, interrupted: Arc::default() };
    stop_on_signals(Arc::clone(&setting.interrupted))?;
    Rig::clear()?;

    let (duts, missing) = dut::all(&setting);
    missing.iter().for_each(|why| println!("left out: {why}"));
    let holds =
        |name: &str, variable: &str| std::env::var(variable).map_or(true, |text| name.contains(&text));
    let duts: Vec<Dut> = duts.into_iter().filter(|dut| holds(dut.name, "DUT")).collect();
    let asked = std::env::var_os("CASE").is_some_and(|text| !text.is_empty());
    let cases: Vec<Case> =
        cases().into_iter().filter(|case| holds(&case.name, "CASE") && (asked || !case.extra)).collect();
    let transmits = Transmit::all().filter(|transmit| asked && holds(&transmit.name(), "CASE"));
    let transmits: Vec<Transmit> = transmits.collect();
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<f64>().ok());
    let trial = Duration::from_secs_f64(number("SECS").unwrap_or(1.0));

    pin(&[GENERATOR_CPU]);
    let begin = Instant::now();
    let mut report = Report::default();
    let mut interrupted = false;
    'runs: for _ in 0..number("RUNS").map_or(1, |runs| runs as usize) {
        for case in &cases {
            for dut in duts.iter().filter(|dut| case.concerns(dut)) {
                let result = measure(case, dut, &setting, trial);
                if setting.check().is_err() {
                    interrupted = true;
                    break 'runs;
                }
                let result = result.map_err(|error| error.to_string());
                tell(begin, &case.name, dut.name, &result);
                report.add(&case.subject(), dut.name, result);
            }
        }
        for transmit in &transmits {
            let measured = transmit.measure(&setting);
            if setting.check().is_err() {
                interrupted = true;
                break 'runs;
            }
            for (way, result) in measured? {
                tell(begin, &transmit.name(), way, &result);
                report.add(&transmit.subject(), way, result);
            }
        }
    }
    report.print();
    report.write(Path::new("target/bench/net.json"))?;
    if interrupted { Err("interrupted".into()) } else { Ok(()) }
}

fn tell(begin: Instant, case: &str, dut: &str, result: &Result<Figures, String>) {
    let said = match result {
        Ok(figures) => {
            let figures = figures.iter().map(|(name, value)| format!("{name} {value:.3}"));
            figures.collect::<Vec<_>>().join(", ")
        }
        Err(error) => error.clone(),
    };
    println!("{:5.0} s  {case}, {dut}: {said}", begin.elapsed().as_secs_f64());
}

fn measure(case: &Case, dut: &Dut, setting: &Setting, trial: Duration) -> Result<Figures, Failure> {
    match case.measure {
        Measure::Rates(load) => rates(load, case.peers, dut, setting, trial),
        Measure::Tcp(tcp) => {
            let pop = dut.at_both_ends(setting)?;
            tcp::throughput(&pop, tcp, trial.as_secs().max(1) * 3)
        }
        Measure::Ping { loaded } => {
            let pop = dut.at_both_ends(setting)?;
            tcp::ping(&pop, 500, loaded)
        }
        Measure::Flood(cpus) => flood::measure(&dut.as_pop(setting, flood::PEERS, cpus)?, trial),
    }
}

fn rates(
    load: Load,
    peers: usize,
    dut: &Dut,
    setting: &Setting,
    trial: Duration,
) -> Result<Figures, Failure> {
    // One more, who probes.
    let pop = dut.as_pop(setting, peers + 1, &[DUT_CPU])?;
    let mut generator = Generator::new(&pop, peers)?;
    let Found { lossless, overload, sealed, generator_bound } = generator.search(load, trial)?;
    let gentle = Offer { probes: true, ..Offer::plain(Some(lossless.delivered_pps / 2.0), trial) };
    let half = generator.run(load, gentle)?;
    let processes = pop.rig.processes("pop")?;
    let (before, at) = (processes.cpu_seconds(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let idle = (processes.cpu_seconds() - before) / at.elapsed().as_secs_f64();
    let sample = generator.sample;
    let mut figures = Figures::from([
        ("lossless_kpps", lossless.delivered_pps / 1e3),
        ("overload_kpps", overload.steady_pps / 1e3),
        ("offered_kpps", overload.offered_pps / 1e3),
        ("generator_bound", f64::from(u8::from(generator_bound))),
        ("sealed_beforehand", f64::from(u8::from(sealed))),
        ("rss_mb", processes.rss_mb()),
        ("idle_cpu_percent", idle * 100.0),
        ("sampled", sample.seen as f64),
        ("wrong", sample.wrong as f64),
    ]);
    let measured = if lossless.delivered_pps > 0.0 { &lossless } else { &overload };
    figures.insert("cpu_s_per_gb", measured.cpu_s_per_gb);
    if !half.latencies_ms.is_empty() {
        figures.insert("p50_ms", quantile(&half.latencies_ms, 0.5));
        figures.insert("p99_ms", quantile(&half.latencies_ms, 0.99));
    }
    Ok(figures)
}

/// Sets the flag at SIGINT, SIGTERM and SIGHUP, instead of dying of it: the rig is taken down first.
fn stop_on_signals(interrupted: Arc<AtomicBool>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(inside);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            interrupted.store(true, Ordering::Relaxed);
        });
    })?;
    Ok(())
}
