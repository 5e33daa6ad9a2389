//! The rig: namespaces and links around the device under test (DUT), and what is read from the kernel about them.
//!
//! ```text
//!  cli ── branch ══ u ══ pop ── s ── srv           10.1.0.2 - 10.1.0.1 | 172.16.0.1 = 172.16.0.2 | 10.2.0.1 - 10.2.0.2
//!                         └─── m ── col            the flow collector, which drops what it gets
//! ```
//!
//! For the generator there is no branch box: it lives in `branch` with one address a peer, 172.17.0.0/16, which is routed
//! there. 172.18.0.0/16, too, where a flood says it comes from.

use super::Failure;
use popgate::lab::{Lab, LabOptions, NodeChild, RUN_DIR, Topology};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Also what all namespaces are called: pglab-bn-NODE.
const NAME: &str = "bn";
pub const POP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
pub const POP_PORT: u16 = 51820;
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// USER_HZ: what /proc counts processor time in; 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a box of the rig runs; for `branch` and `pop`.
pub enum Inside {
    /// A plain router: whatever runs there is started later.
    Router,
    /// popgate, with the files of its configuration directory.
    Popgate(Vec<(&'static str, String)>),
}

/// The whole run's: where things are, and whether to stop.
#[derive(Clone)]
pub struct Setting {
    pub popgate: PathBuf,
    pub interrupted: Arc<AtomicBool>,
}

impl Setting {
    /// # Errors
    /// Ctrl-C was pressed.
    pub fn check(&self) -> Result<(), Failure> {
        if self.interrupted.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }

    /// Waits for a condition that nothing tells of.
    ///
    /// # Errors
    /// It did not come true in time.
    pub fn wait(
        &self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        while !condition() {
            self.check()?;
            if Instant::now() >= deadline {
                return Err(format!("not within {patience:?}: {what}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// The rig, up. Dropping it ends every process in it and removes it.
pub struct Rig {
    pub lab: Lab,
    pub setting: Setting,
}

impl Rig {
    /// Brings it up; what runs in it from the beginning runs on the processors `cpus`. `clients` adds `cli`.
    pub fn up(
        setting: &Setting,
        clients: bool,
        branch: Inside,
        pop: Inside,
        cpus: &[usize],
    ) -> Result<Rig, Failure> {
        setting.check()?;
        let topology = topology(clients, branch, pop)?;
        let mut options = LabOptions::new(Path::new(RUN_DIR).join(NAME), &setting.popgate);
        options.interrupted = Arc::clone(&setting.interrupted);
        let lab = on_cpus(cpus, || Lab::up(topology, options))?;
        let rig = Rig { lab, setting: setting.clone() };
        rig.nft("col", &early_filter("udp dport 4739 drop"))?;
        if !clients {
            rig.must("branch", &["ip", "route", "add", "local", "172.17.0.0/16", "dev", "lo"])?;
        }
        Ok(rig)
    }

    /// Removes what an earlier run left.
    pub fn clear() -> Result<(), Failure> {
        Lab::clear(NAME, Duration::ZERO).map_err(Into::into)
    }

    /// Runs a command in a node that must succeed; what it printed.
    pub fn must(&self, node: &str, command: &[&str]) -> Result<String, Failure> {
        let output = self.lab.run(node, command)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} in {node}: {}", command.join(" "), said.trim()).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program in a node on the processors `cpus`; what it says goes to `LOG.out` in the node's directory.
    pub fn start<S: AsRef<OsStr>>(
        &self,
        node: &str,
        cpus: &[usize],
        program: impl AsRef<OsStr>,
        arguments: &[S],
        environment: &[(&str, &str)],
    ) -> Result<NodeChild, Failure> {
        let node = self.lab.node(node);
        let log = File::create(node.directory().join("program.out"))?;
        let mut command = node.command(program).args(arguments).stderr(log.try_clone()?).stdout(log);
        for (key, value) in environment {
            command = command.env(key, value);
        }
        on_cpus(cpus, || command.spawn()).map_err(Into::into)
    }

    /// Loads nftables rules in a node.
    pub fn nft(&self, node: &str, rules: &str) -> Result<(), Failure> {
        let file = self.lab.node(node).directory().join("rules.nft");
        std::fs::write(&file, rules)?;
        self.must(node, &["nft", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// Opens a file of /proc/net as it is in a node; it goes on telling of that node.
    pub fn proc_net(&self, node: &str, name: &str) -> Result<File, Failure> {
        let path = Path::new("/proc/thread-self/net").join(name);
        Ok(self.lab.enter(node, || File::open(path))??)
    }

    /// The counters of an interface of a node.
    pub fn counter(&self, node: &str, interface: &str) -> Result<Counter, Failure> {
        Ok(Counter { file: self.proc_net(node, "dev")?, interface: interface.to_owned() })
    }

    /// Every process that runs in a node.
    pub fn processes(&self, node: &str) -> Result<Processes, Failure> {
        let namespace = self.lab.node(node).namespace().to_owned();
        let output = std::process::Command::new("ip").args(["netns", "pids", &namespace]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(Processes(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()))
    }
}

/// Rules that are asked before anything else has looked at a packet, instead of those there were.
pub fn early_filter(rules: &str) -> String {
    format!(
        "table ip early {{}}\ndelete table ip early\ntable ip early {{\n chain first {{\n  \
         type filter hook prerouting priority -400;\n  {rules}\n }}\n}}\n"
    )
}

/// The text is a topology file's, so that it can be looked up in the lab's reference what it means.
fn topology(clients: bool, branch: Inside, pop: Inside) -> Result<Topology, Failure> {
    let mut text = format!(
        r#"
        name = "{NAME}"
        [[link]]
        name = "u"
        ends = ["branch:u0", "pop:u1"]
        addresses = {{ branch = ["172.16.0.1/24"], pop = ["172.16.0.2/24"] }}
        [[link]]
        name = "s"
        ends = ["pop:s1", "srv:s0"]
        addresses = {{ pop = ["10.2.0.1/24"], srv = ["10.2.0.2/24"] }}
        [[link]]
        name = "m"
        ends = ["pop:m1", "col:m0"]
        addresses = {{ pop = ["10.3.0.1/24"], col = ["10.3.0.2/24"] }}
        [[node]]
        name = "srv"
        kind = "host"
        routes = {{ "198.51.100.0/24" = "10.2.0.1" }}
        [[node]]
        name = "col"
        kind = "host"
        "#
    );
    if clients {
        text += r#"
        [[link]]
        name = "c"
        ends = ["cli:c0", "branch:b0"]
        addresses = { cli = ["10.1.0.2/24"], branch = ["10.1.0.1/24"] }
        [[node]]
        name = "cli"
        kind = "host"
        routes = { default = "10.1.0.1" }
        "#;
    }
    text += &node("pop", r#"{ "172.17.0.0/16" = "172.16.0.1", "172.18.0.0/16" = "172.16.0.1" }"#, &pop);
    // Without clients it is the generator's host: what comes for addresses that are not its own is not passed on.
    text += &match (clients, &branch) {
        (false, _) => "[[node]]\nname = \"branch\"\nkind = \"host\"\n".to_owned(),
        (true, branch) => node("branch", "{}", branch),
    };
    let mut topology = Topology::parse(&text, "the bench's rig", Path::new(""))?;
    for (name, inside) in [("branch", branch), ("pop", pop)] {
        if let (Some(node), Inside::Popgate(files)) =
            (topology.nodes.iter_mut().find(|node| node.name == name), inside)
        {
            node.files.extend(files.into_iter().map(|(name, text)| (name.to_owned(), text)));
        }
    }
    Ok(topology)
}

fn node(name: &str, routes: &str, inside: &Inside) -> String {
    let mut text = format!("[[node]]\nname = \"{name}\"\nroutes = {routes}\n");
    text += match inside {
        Inside::Router => "kind = \"router\"\n",
        // What the parser wants to see; the real one is put in its place.
        Inside::Popgate(_) => "kind = \"appliance\"\nfiles = { \"popgate.toml\" = \"\" }\n",
    };
    let _ = writeln!(text);
    text
}

/// Does something on the processors `cpus`: processes and threads that it starts stay there.
pub fn on_cpus<T: Send>(cpus: &[usize], inside: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin(cpus);
            inside()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Binds the calling thread to processors. Where there are not as many the kernel refuses, and the thread roams.
pub fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    let _ = sched_setaffinity(None, &set);
}

/// What an interface has received.
pub struct Counter {
    file: File,
    interface: String,
}

/// Bytes with Ethernet headers, and buffers: a super-packet is one.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub bytes: u64,
    pub buffers: u64,
}

impl Counter {
    pub fn read(&mut self) -> Count {
        let mut text = String::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_string(&mut text));
        let line =
            text.lines().find_map(|line| line.trim_start().strip_prefix(&self.interface)?.strip_prefix(':'));
        let mut numbers = line.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok());
        match (read, numbers.next(), numbers.next()) {
            (Ok(_), Some(bytes), Some(buffers)) => Count { bytes, buffers },
            _ => Count::default(),
        }
    }
}

impl Count {
    /// How many packets of `payload` bytes behind IP's and the upper layer's `headers` have come since `earlier`,
    /// super-packets taken apart.
    pub fn packets_since(self, earlier: Count, headers: usize, payload: usize) -> f64 {
        let headers = 14.0 + headers as f64;
        let bytes = self.bytes.saturating_sub(earlier.bytes) as f64;
        let buffers = self.buffers.saturating_sub(earlier.buffers) as f64;
        (bytes - headers * buffers).max(0.0) / payload as f64
    }
}

/// Processes whose resources are counted.
pub struct Processes(Vec<u32>);

impl Processes {
    /// Processor time spent so far, of all threads.
    pub fn cpu_seconds(&self) -> f64 {
        let ticks = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Behind the program's name in brackets; utime and stime are fields 14 and 15 (proc(5)).
            let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
            let fields = rest.split_whitespace().skip(11).take(2);
            fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
        };
        self.0.iter().map(ticks).sum::<u64>() as f64 / TICKS_PER_SECOND
    }

    /// Memory resident.
    pub fn rss_mb(&self) -> f64 {
        let kilobytes = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        self.0.iter().map(kilobytes).sum::<u64>() as f64 / 1024.0
    }
}
