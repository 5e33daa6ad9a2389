//! The lab: real popgate processes, plain hosts, stock WireGuard peers and the links between them, in network
//! namespaces of this machine.
//!
//! ```toml
//! name = "demo"                       # namespaces are called pglab-demo-NODE; a-z and 0-9
//! suggestions = ["@lab@ cut @file@ berlin-dsl"]       # printed once it is up, with the placeholders filled in
//!
//! [[node]]
//! name = "berlin"
//! kind = "appliance"                  # popgate run CONFIG
//! config = "demo/berlin"              # directory of templates, relative to this file; and/or `files`
//! tenants = "demo/tenants"            # where shared tenant files are,
//! tenant-files = ["acme"]             # and which of them go to this box's tenants/
//! publish = { "127.0.0.1:8443" = "127.0.0.1:8443" }   # TCP, reached from outside the lab: outside = inside
//!
//! [[node]]
//! name = "web"
//! kind = "host"                       # or "router": a host that forwards
//! addresses = ["192.0.2.77/32"]       # on lo; links bring their own
//! routes = { default = "203.0.113.1", "::/0" = "2001:db8::1", "10.0.0.0/8" = "eth1" }   # next hop or interface
//! forwarding = false                  # default: true for all but hosts
//! run = ["python3 -m http.server 80"] # in the background by sh, in the node's own directory, with its
//! files = { "index.html" = "hello" }  # files (an appliance's: in its configuration directory)
//!
//! [[node]]
//! name = "site1"
//! kind = "wireguard"                  # wireguard-go
//! key = "site1"                       # the lab's key pair; default: the node's name
//! listen-port = 51820                 # default: the kernel chooses
//! mtu = 1420                          # default
//! addresses = ["10.1.0.1/32"]         # on the WireGuard interface
//! routes = { "0.0.0.0/0" = "wireguard" }
//! [[node.peer]]
//! public-key = "@public-key:fra1@"
//! preshared-key = "@preshared-key:x@" # optional
//! endpoint = "192.0.2.1:51820"        # optional
//! allowed-ips = ["0.0.0.0/0"]
//! persistent-keepalive = "25s"        # optional
//!
//! [[link]]
//! name = "berlin-dsl"
//! ends = ["berlin:eth1", "isp-a:berlin"]      # forward is from the first to the second
//! addresses = { berlin = ["100.64.1.2/30"], isp-a = ["100.64.1.1/30"] }
//! mtu = 1500                          # default
//! cuttable = true                     # through user space though nothing is impaired (yet)
//! delay = "8ms"                       # both ways; this and any of the following, too, lead it through user space
//! jitter = "1ms"                      # each frame up to so much sooner or later
//! loss = "0.1%"
//! rate = "50Mbps"
//! queue = 1000                        # frames that wait for the rate; default
//! reorder = false                     # default: jitter lets no frame overtake another
//! seed = 7                            # of losses and jitter; default: from the link's name
//! [link.reverse]                      # and [link.forward]: what is different in one direction
//! rate = "10Mbps"
//!
//! [[event]]
//! at = "10s"                          # after the lab is up
//! link = "berlin-dsl"
//! action = "cut"                      # "heal", or "impair" with what changes
//! direction = "forward"               # or "reverse", of a cut or an impairment; default: both
//! ```
//!
//! **Going up.** 1 lock the name, 2 remove what a dead lab of that name left, 3 namespaces, 4 keys and configuration
//! (placeholders: see `render`), 5 links, 6 addresses and routes, 7 published ports, 8 what runs in the nodes, in the file's
//! order: an appliance has printed `ready` before the next node begins, so whoever is called stands before its callers and
//! no first handshake is lost, 9 events. **Going down** is dropping the [`Lab`]: every process in any of its namespaces is
//! ended, then links, namespaces and files are removed.
//!
//! What is its own a lab knows by the namespaces' prefix: appliances get it in `POPGATE_NETNS_PREFIX` for the namespaces
//! they make themselves, and a process belongs to whoever owns the namespace it is in. So nothing need be remembered to
//! clean up after a lab that was killed but the files it made, and those the lock file names.

pub mod control;
mod files;
pub mod impair;
mod link;
mod lock;
pub mod netns;
mod process;
mod publish;
mod render;
pub mod topology;
pub mod units;

pub use files::render;
pub use link::{Link, LinkReport};
pub use process::{NodeChild, NodeCommand};
pub use rustix::process::Signal;
pub use topology::Topology;

use crate::io::tap::Tap;
use files::Files;
use ipnetwork::IpNetwork;
use lock::Lock;
use process::Appliance;
use publish::Published;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use topology::{Event, Node, NodeKind, Route, Via, WireGuard};

/// Where labs that are up have their locks and sockets, and their files unless told otherwise.
pub const RUN_DIR: &str = "/run/popgate-lab";

/// Where wireguard-go has its sockets.
const WIREGUARD_DIR: &str = "/var/run/wireguard";

/// 20 s: an appliance that takes longer to become ready will not.
const READY_PATIENCE: Duration = Duration::from_secs(20);
/// 5 s: wireguard-go makes its interface at once or not at all; so does a process end.
const PROCESS_PATIENCE: Duration = Duration::from_secs(5);
/// 3 s from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// Why a lab could not be brought up, or not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// All that is wrong with the topology file or a template.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("lab {name} is already up{}", .owner.map_or_else(String::new, |pid| format!(" (process {pid})")))]
    AlreadyUp { name: String, owner: Option<u32> },
    #[error("{program} for node {node}: {why}")]
    Failed { program: String, node: String, why: String },
    #[error("appliance {node} {why}; the end of its log:\n{tail}")]
    NotReady { node: String, why: String, tail: String },
    #[error("interrupted")]
    Interrupted,
    #[error("there is no link {0}")]
    NoSuchLink(String),
    #[error("link {0} is a bare veth pair: to be cut or impaired it must say `cuttable = true`")]
    NotCuttable(String),
    #[error("{0} is no appliance of this lab")]
    NoSuchAppliance(String),
    #[error("appliance {0} is running")]
    Running(String),
    #[error("appliance {0} is not running")]
    NotRunning(String),
    #[error("{0}")]
    Refused(String),
}

impl LabError {
    /// For `map_err`: what was being done when the kernel said no.
    fn io(doing: String) -> impl FnOnce(io::Error) -> LabError {
        move |source| LabError::Io { doing, source }
    }
}

/// How a lab is brought up.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Keys, rendered configurations, appliances' state and logs. Made if it is not there.
    pub work_dir: PathBuf,
    /// The `popgate` binary.
    pub popgate: PathBuf,
    /// How long to wait for another lab of the same name to go down.
    pub lock_patience: Duration,
    /// Leave the logs behind.
    pub keep_logs: bool,
    /// Gives up as soon as this is set.
    pub interrupted: Arc<AtomicBool>,
}

impl LabOptions {
    pub fn new(work_dir: impl Into<PathBuf>, popgate: impl Into<PathBuf>) -> LabOptions {
        LabOptions {
            work_dir: work_dir.into(),
            popgate: popgate.into(),
            lock_patience: Duration::ZERO,
            keep_logs: false,
            interrupted: Arc::default(),
        }
    }
}

/// A lab that is up. Dropping it takes it down and leaves nothing.
pub struct Lab {
    topology: Topology,
    files: Files,
    options: LabOptions,
    lock: Lock,
    links: Vec<Arc<Link>>,
    appliances: Mutex<BTreeMap<String, Appliance>>,
    /// WireGuard and background commands.
    background: Mutex<Vec<NodeChild>>,
    published: Vec<Published>,
    events: Option<Events>,
}

impl Lab {
    /// Brings a lab up; back when every appliance is ready.
    ///
    /// # Errors
    /// Whatever went wrong first; what had been made by then is removed again.
    pub fn up(topology: Topology, options: LabOptions) -> Result<Lab, LabError> {
        let files = Files::at(&options.work_dir)?;
        let lock = Lock::acquire(&topology.name, options.lock_patience)?;
        remove_leftovers(&topology.name, &lock)?;
        let mut lab = Lab {
            topology,
            files,
            options,
            lock,
            links: Vec::new(),
            appliances: Mutex::default(),
            background: Mutex::default(),
            published: Vec::new(),
            events: None,
        };
        lab.bring_up()?;
        Ok(lab)
    }

    /// Removes what a lab of this name left behind, if it is not up.
    ///
    /// # Errors
    /// It is still up after `patience`; or something cannot be removed.
    pub fn clear(name: &str, patience: Duration) -> Result<(), LabError> {
        let lock = Lock::acquire(name, patience)?;
        remove_leftovers(name, &lock)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.topology.name
    }

    /// What it was made from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where keys, configurations, state and logs are.
    pub fn work_dir(&self) -> &Path {
        self.files.work_dir()
    }

    /// A node, or a namespace that an appliance made (by its name without the lab's prefix).
    ///
    /// # Panics
    /// There is none: the name stands in the same test as the topology, or it is a test's finding.
    pub fn node(&self, name: &str) -> NodeRef<'_> {
        let namespace = namespace(self.name(), name);
        assert!(netns::path(&namespace).exists(), "lab {} has no node {name}", self.name());
        NodeRef { lab: self, name: name.to_owned(), namespace }
    }

    /// A link.
    ///
    /// # Panics
    /// There is none: the name stands in the same test as the topology.
    pub fn link(&self, name: &str) -> &Link {
        let link = self.links.iter().find(|link| link.name() == name);
        link.unwrap_or_else(|| panic!("lab {} has no link {name}", self.name()))
    }

    /// All links, in the topology file's order.
    pub fn links(&self) -> &[Arc<Link>] {
        &self.links
    }

    /// Runs a command inside a node, and waits for it.
    ///
    /// # Errors
    /// It could not be started. That it failed is in what it gives back.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        node: &str,
        command: impl IntoIterator<Item = S>,
    ) -> Result<Output, LabError> {
        let output = self.command_of(node, command).output();
        output.map_err(LabError::io(format!("running a command in {node}")))
    }

    /// Starts a command inside a node; dropping what it gives back kills it.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn<S: AsRef<OsStr>>(
        &self,
        node: &str,
        command: impl IntoIterator<Item = S>,
    ) -> Result<NodeChild, LabError> {
        let child = self.command_of(node, command).spawn();
        child.map_err(LabError::io(format!("starting a command in {node}")))
    }

    fn command_of<S: AsRef<OsStr>>(&self, node: &str, command: impl IntoIterator<Item = S>) -> NodeCommand {
        let mut words = command.into_iter();
        let node = self.node(node);
        match words.next() {
            Some(program) => node.command(program).args(words),
            None => node.command("true"),
        }
    }

    /// Runs `inside` on a thread inside a node: sockets it opens are the node's.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn enter<T: Send>(&self, node: &str, inside: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        netns::within(&self.node(node).namespace, inside).map_err(LabError::io(format!("entering {node}")))
    }

    /// Ends an appliance with `signal`, and waits until it has ended.
    ///
    /// # Errors
    /// It is not running, or goes on running in spite of the signal.
    pub fn kill(&self, node: &str, signal: Signal) -> Result<ExitStatus, LabError> {
        let mut appliances = held(&self.appliances);
        let appliance = appliances.get_mut(node).ok_or_else(|| self.not_running(node))?;
        let failed =
            |why: String| LabError::Failed { program: "popgate".to_owned(), node: node.to_owned(), why };
        let pid = i32::try_from(appliance.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| self.not_running(node))?;
        let deadline = Instant::now() + PROCESS_PATIENCE;
        if appliance.exited().is_none() {
            rustix::process::kill_process(pid, signal).map_err(|error| failed(error.to_string()))?;
        }
        loop {
            if let Some(status) = appliance.exited() {
                appliances.remove(node);
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(failed(format!("still running {PROCESS_PATIENCE:?} after {signal:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts an appliance that has ended; back when it is ready.
    ///
    /// # Errors
    /// It is running, cannot be started, or does not become ready.
    pub fn start(&self, node: &str) -> Result<(), LabError> {
        let found = self.topology.nodes.iter().find(|candidate| candidate.name == node);
        let found = found.filter(|node| matches!(node.kind, NodeKind::Appliance { .. }));
        let found = found.ok_or_else(|| LabError::NoSuchAppliance(node.to_owned()))?;
        self.launch(found)?;
        self.await_ready(&found.name)
    }

    fn not_running(&self, node: &str) -> LabError {
        let is_it =
            |candidate: &Node| candidate.name == node && matches!(candidate.kind, NodeKind::Appliance { .. });
        match self.topology.nodes.iter().any(is_it) {
            true => LabError::NotRunning(node.to_owned()),
            false => LabError::NoSuchAppliance(node.to_owned()),
        }
    }
}

/// A node of a lab that is up.
#[derive(Clone)]
pub struct NodeRef<'a> {
    lab: &'a Lab,
    name: String,
    namespace: String,
}

impl NodeRef<'_> {
    /// The name of its namespace, as in `ip netns`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> NodeCommand {
        NodeCommand::new(&self.namespace, program)
    }

    /// The node's own directory, where background commands run.
    pub fn directory(&self) -> PathBuf {
        self.lab.files.node_dir(&self.name)
    }

    /// An appliance's configuration directory.
    pub fn config_dir(&self) -> PathBuf {
        self.lab.files.config_dir(&self.name)
    }

    /// An appliance's state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.lab.files.state_dir(&self.name)
    }

    /// What an appliance, WireGuard or background commands write.
    pub fn log(&self) -> PathBuf {
        self.lab.files.log(&self.name)
    }

    /// The name of a WireGuard node's interface, for `wg` and `ip`.
    pub fn wireguard_interface(&self) -> String {
        wireguard_interface(self.lab.name(), &self.name)
    }

    /// Where the node's TCP port `inside` is reached from outside the lab.
    pub fn published(&self, inside: SocketAddr) -> Option<SocketAddr> {
        let is_it = |published: &&Published| published.node == self.name && published.inside == inside;
        self.lab.published.iter().find(is_it).map(|published| published.outside)
    }
}

// Going up, in the order it happens.

impl Lab {
    fn bring_up(&mut self) -> Result<(), LabError> {
        self.make_namespaces()?;
        self.make_files()?;
        self.make_links()?;
        self.configure_nodes()?;
        self.publish_ports()?;
        for node in &self.topology.nodes {
            self.check_interrupted()?;
            self.start_node(node)?;
        }
        self.events = Events::start(self.topology.events.clone(), self.links.clone())
            .map_err(LabError::io("starting a thread".to_owned()))?;
        Ok(())
    }

    fn make_namespaces(&self) -> Result<(), LabError> {
        let namespaces: Vec<String> = self.topology.nodes.iter().map(|node| self.namespace(node)).collect();
        netns::create(&namespaces).map_err(LabError::io("making namespaces".to_owned()))?;
        for node in &self.topology.nodes {
            // Before there are interfaces: they take these over as they are made.
            let settings = netns::try_within(&self.namespace(node), || {
                // No duplicate address detection: nobody is to wait for it, and a lab has no duplicates.
                set("net/ipv6/conf/all/accept_dad", false)?;
                set("net/ipv6/conf/default/accept_dad", false)?;
                set("net/ipv6/conf/all/disable_ipv6", false)?;
                set("net/ipv6/conf/default/disable_ipv6", false)?;
                set("net/ipv4/ip_forward", node.forwarding)?;
                set("net/ipv6/conf/all/forwarding", node.forwarding)
            });
            settings.map_err(LabError::io(format!("setting up node {}", node.name)))?;
        }
        Ok(())
    }

    fn make_files(&self) -> Result<(), LabError> {
        // The lock names all that is about to be made, so that whoever comes after a `kill -9` can remove it.
        let made = self.files.all_of(&self.topology);
        self.lock.remember(&made).map_err(LabError::io("writing the lock file".to_owned()))?;
        self.files.make(&self.topology)
    }

    fn make_links(&mut self) -> Result<(), LabError> {
        let mut veths = String::new();
        for topology::Link { name, ends, mtu, shape } in &self.topology.links {
            let labels = ends.each_ref().map(|end| format!("{}:{}", end.node, end.interface));
            let [a, b] = ends.each_ref().map(|end| (&end.interface, namespace(self.name(), &end.node)));
            match shape {
                None => {
                    let ((a, at_a), (b, at_b)) = (a, b);
                    let _ = writeln!(
                        veths,
                        "link add name {a} mtu {mtu} netns {at_a} type veth peer name {b} mtu {mtu} netns {at_b}"
                    );
                    self.links.push(Arc::new(Link::bare(name, labels)));
                }
                Some(shape) => {
                    let failed = || LabError::io(format!("making link {name}"));
                    let tap = |(interface, namespace): (&String, String)| {
                        netns::try_within(&namespace, || Tap::create(interface)).map_err(failed())
                    };
                    let taps = [tap(a)?, tap(b)?];
                    let link = Link::shaped(name, labels, taps, shape.clone()).map_err(failed())?;
                    self.links.push(Arc::new(link));
                }
            }
        }
        netns::ip_batch(&veths).map_err(LabError::io("making links".to_owned()))
    }

    /// Interfaces and addresses, then routes.
    fn configure_nodes(&self) -> Result<(), LabError> {
        for node in &self.topology.nodes {
            let mut lines = String::from("link set lo up\n");
            for link in &self.topology.links {
                for end in link.ends.iter().filter(|end| end.node == node.name) {
                    let _ = writeln!(lines, "link set {} mtu {} up", end.interface, link.mtu);
                    add_addresses(&mut lines, &end.addresses, &end.interface);
                }
            }
            // A WireGuard node's addresses and routes are for later: they may need its tunnel.
            if !matches!(node.kind, NodeKind::WireGuard(_)) {
                add_addresses(&mut lines, &node.addresses, "lo");
                add_routes(&mut lines, &node.routes, "lo");
            }
            self.ip_batch(node, &lines)?;
        }
        Ok(())
    }

    fn publish_ports(&mut self) -> Result<(), LabError> {
        for node in &self.topology.nodes {
            for (outside, inside) in &node.publish {
                let namespace = namespace(&self.topology.name, &node.name);
                let published = Published::start(&node.name, &namespace, *outside, *inside)
                    .map_err(LabError::io(format!("publishing {outside} for node {}", node.name)))?;
                self.published.push(published);
            }
        }
        Ok(())
    }

    /// Starts what runs in a node; back when it may be called by those that come after it in the file.
    fn start_node(&self, node: &Node) -> Result<(), LabError> {
        match &node.kind {
            NodeKind::WireGuard(wireguard) => self.start_wireguard(node, wireguard)?,
            NodeKind::Appliance { .. } => {
                self.launch(node)?;
                self.await_ready(&node.name)?;
            }
            NodeKind::Host | NodeKind::Router => {}
        }
        for line in &node.run {
            let command = NodeCommand::new(&self.namespace(node), "sh").args(["-c", line]);
            self.start_in_background(node, command)?;
        }
        Ok(())
    }

    fn start_wireguard(&self, node: &Node, wireguard: &WireGuard) -> Result<(), LabError> {
        let interface = wireguard_interface(self.name(), &node.name);
        let failed = |program: &str, why: String| LabError::Failed {
            program: program.to_owned(),
            node: node.name.clone(),
            why,
        };
        let command = NodeCommand::new(&self.namespace(node), "wireguard-go")
            .args(["-f", &interface])
            .env("LOG_LEVEL", "verbose")
            // Says that a kernel with WireGuard would do better, which is not the point here.
            .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
        self.start_in_background(node, command)?;
        let socket = Path::new(WIREGUARD_DIR).join(format!("{interface}.sock"));
        // Not before it is listened on: `wg` takes a socket that refuses it for a dead one's, and removes it.
        if !self.wait(PROCESS_PATIENCE, || UnixStream::connect(&socket).is_ok())? {
            return Err(failed("wireguard-go", process::tail(&self.files.log(&node.name))));
        }
        let command = NodeCommand::new(&self.namespace(node), "wg").args(["setconf", &interface]);
        let output = command.arg(self.files.wireguard_conf(&node.name)).output();
        let output = output.map_err(|error| failed("wg", error.to_string()))?;
        if !output.status.success() {
            return Err(failed("wg setconf", String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let mut lines = format!("link set {interface} mtu {} up\n", wireguard.mtu);
        add_addresses(&mut lines, &node.addresses, &interface);
        add_routes(&mut lines, &node.routes, &interface);
        self.ip_batch(node, &lines)
    }

    fn ip_batch(&self, node: &Node, lines: &str) -> Result<(), LabError> {
        let done = netns::try_within(&self.namespace(node), || netns::ip_batch(lines));
        done.map_err(LabError::io(format!("node {}", node.name)))
    }

    fn start_in_background(&self, node: &Node, command: NodeCommand) -> Result<(), LabError> {
        let log = self.files.log(&node.name);
        let start = || {
            let command = command.stdout(process::append(&log)?).stderr(process::append(&log)?);
            command.current_dir(self.files.node_dir(&node.name)).spawn()
        };
        let child = start().map_err(LabError::io(format!("starting a command in {}", node.name)))?;
        held(&self.background).push(child);
        Ok(())
    }

    fn launch(&self, node: &Node) -> Result<(), LabError> {
        let mut appliances = held(&self.appliances);
        if appliances.get_mut(&node.name).is_some_and(|appliance| appliance.exited().is_none()) {
            return Err(LabError::Running(node.name.clone()));
        }
        let command = NodeCommand::new(&self.namespace(node), &self.options.popgate)
            .arg("run")
            .arg(self.files.config_dir(&node.name))
            .env("POPGATE_NETNS_PREFIX", prefix(self.name()))
            .current_dir(self.files.node_dir(&node.name));
        let appliance = Appliance::start(command, &self.files.log(&node.name))
            .map_err(LabError::io(format!("starting {} as {}", self.options.popgate.display(), node.name)))?;
        appliances.insert(node.name.clone(), appliance);
        Ok(())
    }

    fn await_ready(&self, node: &str) -> Result<(), LabError> {
        let mut why = format!("is not ready after {READY_PATIENCE:?}");
        let mut is_ready = false;
        self.wait(READY_PATIENCE, || {
            let mut appliances = held(&self.appliances);
            let Some(appliance) = appliances.get_mut(node) else { return true };
            is_ready = appliance.ready.try_recv().is_ok();
            if let Some(status) = appliance.exited().filter(|_| !is_ready) {
                why = format!("ended ({status}) before it was ready");
                return true;
            }
            is_ready
        })?;
        let tail = || process::tail(&self.files.log(node));
        is_ready.then_some(()).ok_or_else(|| LabError::NotReady { node: node.to_owned(), why, tail: tail() })
    }

    /// Waits for a condition that nothing tells us of; whether it came true in time.
    fn wait(&self, patience: Duration, mut condition: impl FnMut() -> bool) -> Result<bool, LabError> {
        let deadline = Instant::now() + patience;
        while !condition() {
            self.check_interrupted()?;
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    fn check_interrupted(&self) -> Result<(), LabError> {
        match self.options.interrupted.load(Ordering::Relaxed) {
            true => Err(LabError::Interrupted),
            false => Ok(()),
        }
    }

    fn namespace(&self, node: &Node) -> String {
        namespace(self.name(), &node.name)
    }
}

/// In the calling thread's namespace, below /proc/sys.
fn set(name: &str, on: bool) -> io::Result<()> {
    fs::write(Path::new("/proc/sys").join(name), if on { "1" } else { "0" })
        .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}: {error}")))
}

fn add_addresses(lines: &mut String, addresses: &[IpNetwork], interface: &str) {
    for address in addresses {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        let _ = writeln!(lines, "address add {address} dev {interface}{nodad}");
    }
}

fn add_routes(lines: &mut String, routes: &[Route], own_interface: &str) {
    for Route { to, via } in routes {
        let _ = match via {
            Via::Address(address) => writeln!(lines, "route add {to} via {address}"),
            Via::Interface(interface) => writeln!(lines, "route add {to} dev {interface}"),
            Via::WireGuard => writeln!(lines, "route add {to} dev {own_interface}"),
        };
    }
}

/// What all namespaces of the lab `name` begin with.
pub fn prefix(name: &str) -> String {
    format!("pglab-{name}-")
}

/// The namespace of a node.
pub fn namespace(lab: &str, node: &str) -> String {
    format!("{}{node}", prefix(lab))
}

/// wireguard-go's sockets share one directory, so an interface's name must say whose it is; in 15 bytes.
fn wireguard_interface(lab: &str, node: &str) -> String {
    format!("{}{:06x}", wireguard_prefix(lab), fnv(node) & 0xff_ffff)
}

fn wireguard_prefix(lab: &str) -> String {
    format!("wg{:06x}", fnv(lab) & 0xff_ffff)
}

/// FNV-1a: a number for a name that is the same tomorrow.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// What a panic elsewhere left behind is still a list of processes.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Going down.

impl Drop for Lab {
    fn drop(&mut self) {
        self.events = None;
        self.published.clear();
        if std::thread::panicking() {
            self.print_logs();
        }
        let leftovers = end_processes(self.name(), || {
            held(&self.appliances).retain(|_, appliance| appliance.exited().is_none());
            held(&self.background).retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        });
        held(&self.appliances).clear();
        held(&self.background).clear();
        self.links.clear();
        let removed = leftovers.and_then(|()| {
            remove_namespaces(self.name())?;
            let keep = |path: &Path| self.options.keep_logs && path.extension() == Some("log".as_ref());
            self.lock.remove_remembered(keep)
        });
        if let Err(error) = removed {
            tracing::error!("lab {} leaves something behind: {error}", self.name());
        }
    }
}

impl Lab {
    /// A test failed: whoever reads of it wants to know what the appliances said.
    fn print_logs(&self) {
        for node in self.topology.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Appliance { .. }))
        {
            eprintln!("---- {} ----\n{}", node.name, process::tail(&self.files.log(&node.name)));
        }
    }
}

/// Removes what a lab that was killed left. The caller has its lock.
fn remove_leftovers(name: &str, lock: &Lock) -> Result<(), LabError> {
    let failed = || LabError::io(format!("removing what an earlier lab {name} left"));
    end_processes(name, || {})
        .and_then(|()| remove_namespaces(name))
        .and_then(|()| lock.remove_remembered(|_| false))
        .map_err(failed())?;
    match fs::remove_file(control::socket_path(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed()(error)),
        _ => Ok(()),
    }
}

fn end_processes(name: &str, reap: impl FnMut()) -> io::Result<()> {
    let namespaces = netns::with_prefix(&prefix(name));
    let ended = netns::end_processes(&namespaces, GRACE, reap);
    ended.then_some(()).ok_or_else(|| io::Error::other("a process does not end in spite of SIGKILL"))
}

fn remove_namespaces(name: &str) -> io::Result<()> {
    for namespace in netns::with_prefix(&prefix(name)) {
        netns::remove(&namespace)?;
    }
    // wireguard-go leaves its socket when it is killed.
    let Ok(sockets) = fs::read_dir(WIREGUARD_DIR) else { return Ok(()) };
    for socket in sockets.flatten() {
        if socket.file_name().to_string_lossy().starts_with(&wireguard_prefix(name)) {
            fs::remove_file(socket.path())?;
        }
    }
    Ok(())
}

/// The thread that does what the topology file says is to happen. Dropping it ends it.
struct Events {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    fn start(events: Vec<Event>, links: Vec<Arc<Link>>) -> io::Result<Option<Events>> {
        if events.is_empty() {
            return Ok(None);
        }
        let (stop, stopped) = channel();
        let begin = Instant::now();
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            for event in events {
                let wait = (begin + event.at).saturating_duration_since(Instant::now());
                let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) else { return };
                for link in links.iter().filter(|link| link.name() == event.link) {
                    tracing::info!("link {}: {:?}", event.link, event.action);
                    if let Err(error) = link.apply(&event.action) {
                        tracing::error!("{error}");
                    }
                }
            }
        })?;
        Ok(Some(Events { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, which has been printed.
            let _ = thread.join();
        }
    }
}
