//! A lab with what a test needs of `lab/topology.toml`, and the questions tests ask of it.

use popgate::control::{FlowPage, Status};
use popgate::lab::topology::{Node, NodeKind};
use popgate::lab::{Lab, LabOptions, Topology, netns, prefix};
use popgate::pipeline::report::{DecisionRow, DropRow, PathReport, QueueRow, SessionPage, SessionReport};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::process::Output;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const POPGATE: &str = env!("CARGO_BIN_EXE_popgate");

/// Programs the tests run, and Debian's packages that have them.
const PROGRAMS: [(&str, &str); 21] = [
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("nfacctd", "pmacct"),
    ("nfcapd", "nfdump"),
    ("nghttpd", "nghttp2-server"),
    ("openssl", "openssl"),
    ("ping", "iputils-ping"),
    ("/usr/lib/python3/dist-packages/pyftpdlib", "python3-pyftpdlib"),
    ("sfcapd", "nfdump-sflow"),
    ("sipp", "sip-tester"),
    ("socat", "socat"),
    ("tcpdump", "tcpdump"),
    ("tracepath", "iputils-tracepath"),
    ("traceroute", "traceroute"),
    ("tshark", "tshark"),
    ("turnserver", "coturn"),
    ("turnutils_natdiscovery", "coturn"),
    ("wg", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
];

/// How many workers every box gets, whatever it would choose: the same must hold for any number.
pub const WORKERS: &str = "POPGATE_TEST_WORKERS";

/// Shared by all labs but one that measures times of less than a second: two cores are not enough for both.
static QUIET: RwLock<()> = RwLock::new(());

/// A lab that is up. Dropping it takes it down, and looks that nothing is left.
pub struct World {
    lab: Option<Lab>,
    _directory: TempDir,
    _company: Company,
}

enum Company {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl World {
    /// Brings up the internet (`isp`, `web`), the PoP with its data centre (`fra1`, `dc-host`), and `nodes` besides.
    pub fn up(name: &str, nodes: &[&str]) -> World {
        World::changed(name, nodes, |_| {})
    }

    /// As [`World::up`], with something different about the topology.
    pub fn changed(name: &str, nodes: &[&str], change: impl FnOnce(&mut Topology)) -> World {
        let guard = QUIET.read().unwrap_or_else(PoisonError::into_inner);
        World::bring_up(name, nodes, change, Company::Shared { _guard: guard })
    }

    /// As [`World::up`], with no other lab beside it.
    pub fn alone(name: &str, nodes: &[&str]) -> World {
        let guard = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        World::bring_up(name, nodes, |_| {}, Company::Alone { _guard: guard })
    }

    /// As [`World::changed`], with no other lab beside it.
    pub fn changed_alone(name: &str, nodes: &[&str], change: impl FnOnce(&mut Topology)) -> World {
        let guard = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        World::bring_up(name, nodes, change, Company::Alone { _guard: guard })
    }

    /// A lab that is like no other, with no other beside it.
    pub fn alone_with(topology: Topology) -> World {
        let guard = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        World::start(topology, Company::Alone { _guard: guard })
    }

    /// The demo's topology, under another name and reached from nowhere, so that it can be up beside a demo.
    pub fn demo() -> World {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/lab/demo.toml");
        let mut topology = Topology::read(&file).unwrap_or_else(|problems| panic!("{problems}"));
        topology.name = "edemo".to_owned();
        topology.nodes.iter_mut().for_each(|node| node.publish.clear());
        let guard = QUIET.read().unwrap_or_else(PoisonError::into_inner);
        World::start(topology, Company::Shared { _guard: guard })
    }

    fn bring_up(name: &str, nodes: &[&str], change: impl FnOnce(&mut Topology), company: Company) -> World {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/lab/topology.toml");
        let mut topology = Topology::read(&file).unwrap_or_else(|problems| panic!("{problems}"));
        topology.name = name.to_owned();
        let wanted = |node: &str| ["isp", "web", "fra1", "dc-host"].contains(&node) || nodes.contains(&node);
        for node in nodes {
            assert!(topology.nodes.iter().any(|known| known.name == *node), "the topology has no {node}");
        }
        topology.nodes.retain(|node| wanted(&node.name));
        topology.links.retain(|link| link.ends.iter().all(|end| wanted(&end.node)));
        change(&mut topology);
        World::start(topology, company)
    }

    fn start(mut topology: Topology, company: Company) -> World {
        need_root_and_programs();
        if let Ok(workers) = std::env::var(WORKERS) {
            topology.nodes.iter_mut().for_each(|node| set_workers(node, &workers));
        }
        let name = topology.name.clone();
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = LabOptions::new(directory.path().join("work"), POPGATE);
        // Another checkout's test run may be at the same lab.
        options.lock_patience = Duration::from_secs(120);
        let lab = Lab::up(topology, options).unwrap_or_else(|error| panic!("lab {name}: {error}"));
        World { lab: Some(lab), _directory: directory, _company: company }
    }

    /// What the real `popgate show` says on the box `node`.
    pub fn show_text(&self, node: &str, what: &[&str]) -> String {
        self.ask(node, &[&["show"], what].concat())
    }

    /// What the real `popgate` says on the box `node` to a question that needs its token.
    pub fn ask(&self, node: &str, what: &[&str]) -> String {
        let token_file = self.node(node).state_dir().join("admin-token");
        let command = self.node(node).command(POPGATE).args(what);
        let output = command.arg("--token-file").arg(token_file).output().expect("popgate runs");
        assert!(output.status.success(), "popgate {what:?} on {node}: {}", stderr(&output));
        stdout(&output)
    }

    fn show<T: DeserializeOwned>(&self, node: &str, what: &[&str]) -> T {
        let text = self.show_text(node, &[what, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("show {what:?} on {node}: {error}: {text}"))
    }

    /// `popgate show status` on the box `node`.
    pub fn status(&self, node: &str) -> Status {
        self.show(node, &["status"])
    }

    /// `popgate show sessions` on the box `node`: all of them.
    pub fn sessions(&self, node: &str) -> Vec<SessionReport> {
        let page: SessionPage = self.show(node, &["sessions", "--limit", "10000"]);
        assert_eq!(page.matching, page.sessions.len() as u64, "more sessions than can be shown");
        page.sessions
    }

    /// `popgate show flows` on the box `node`: all of them.
    pub fn flows(&self, node: &str) -> FlowPage {
        let page: FlowPage = self.show(node, &["flows", "--limit", "10000"]);
        assert_eq!(page.matching, page.flows.len() as u64, "more flows than can be shown");
        page
    }

    /// `popgate show paths` on the box `node`.
    pub fn paths(&self, node: &str) -> Vec<PathReport> {
        #[derive(Deserialize)]
        struct Paths {
            paths: Vec<PathReport>,
        }
        self.show::<Paths>(node, &["paths"]).paths
    }

    /// The box's path of that name to that site.
    pub fn path(&self, node: &str, site: &str, name: &str) -> PathReport {
        let paths = self.paths(node);
        let found = paths.iter().find(|path| path.site == site && path.path == name);
        found.unwrap_or_else(|| panic!("{node} has no path {site}/{name}: {paths:?}")).clone()
    }

    /// `popgate show decisions` on the box `node`.
    pub fn decisions(&self, node: &str) -> Vec<DecisionRow> {
        #[derive(Deserialize)]
        struct Decisions {
            decisions: Vec<DecisionRow>,
        }
        self.show::<Decisions>(node, &["decisions"]).decisions
    }

    /// `popgate show queues` on the box `node`.
    pub fn queues(&self, node: &str) -> Vec<QueueRow> {
        #[derive(Deserialize)]
        struct Queues {
            queues: Vec<QueueRow>,
        }
        self.show::<Queues>(node, &["queues"]).queues
    }

    /// `popgate show drops` on the box `node`.
    pub fn drops(&self, node: &str) -> Vec<DropRow> {
        #[derive(Deserialize)]
        struct Drops {
            drops: Vec<DropRow>,
        }
        self.show::<Drops>(node, &["drops"]).drops
    }

    /// How many packets the box `node` has dropped for `reason`, of `tenant` if it is known.
    pub fn dropped(&self, node: &str, tenant: Option<&str>, reason: &str) -> u64 {
        let rows = self.drops(node);
        let of = rows.iter().filter(|row| row.tenant.as_deref() == tenant && row.reason == reason);
        of.map(|row| row.packets).sum()
    }

    /// Where the console of the box `node` is reached from outside the lab.
    pub fn console(&self, node: &str) -> SocketAddr {
        let inside = "127.0.0.1:8443".parse().expect("an address");
        self.node(node).published(inside).expect("the topology publishes it")
    }

    /// Runs a command in a node to its end.
    pub fn exec(&self, node: &str, command: &[&str]) -> Output {
        self.run(node, command).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a command in a node that must succeed; what it printed.
    pub fn must(&self, node: &str, command: &[&str]) -> String {
        let output = self.exec(node, command);
        assert!(output.status.success(), "{command:?} in {node}: {output:?}");
        stdout(&output)
    }

    /// Whether one ping is answered within a second.
    pub fn pings(&self, from: &str, to: &str) -> bool {
        self.exec(from, &["ping", "-n", "-q", "-c", "1", "-W", "1", to]).status.success()
    }

    /// Until a ping is answered.
    pub fn await_ping(&self, from: &str, to: &str) {
        eventually(&format!("{from} reaches {to}"), || self.pings(from, to));
    }
}

impl Deref for World {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        self.lab.as_ref().expect("only drop takes it")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(lab) = self.lab.take() else { return };
        let name = lab.name().to_owned();
        let work_dir = lab.work_dir().to_owned();
        drop(lab);
        if !std::thread::panicking() {
            assert_eq!(netns::with_prefix(&prefix(&name)), [""; 0], "namespaces that lab {name} left");
            assert!(!work_dir.exists(), "lab {name} left {}", work_dir.display());
        }
    }
}

/// A node of a topology that is about to come up.
pub fn node<'a>(topology: &'a mut Topology, name: &str) -> &'a mut Node {
    topology.nodes.iter_mut().find(|node| node.name == name).expect("the topology has it")
}

/// Writes `workers` into an appliance's configuration; first, since tables follow.
fn set_workers(node: &mut Node, workers: &str) {
    let NodeKind::Appliance { config, .. } = &node.kind else { return };
    let text = node.files.remove("popgate.toml").unwrap_or_else(|| {
        let path = config.as_ref().expect("an appliance has one or the other").join("popgate.toml");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    node.files.insert("popgate.toml".to_owned(), format!("workers = {workers}\n{text}"));
}

/// A file of the lab's templates.
pub fn template(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/lab").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn need_root_and_programs() {
    assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: it must run as root");
    PROGRAMS.iter().for_each(|(program, package)| need_program(program, package));
}

/// Fails unless `program` is there; `package` is Debian's that has it.
pub fn need_program(program: &str, package: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    assert!(found, "there is no {program}: apt-get install {package}");
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for a condition with a deadline that is far beyond what it takes.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    let patience = Duration::from_secs(20);
    assert!(within(patience, condition).is_some(), "not within {patience:?}: {what}");
}

/// How long it took until the condition came true; `None` if it took longer than `patience`.
pub fn within(patience: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let begin = Instant::now();
    loop {
        if condition() {
            return Some(begin.elapsed());
        }
        if begin.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
