//! A PoP `fra1` and popgate branches, their workers wired together in memory.

use crate::plane::{Plane, workers};
use popgate::config;
use popgate::flow::FlowRecord;
use popgate::model::{AskedFlow, DeviceId, Instant, Now, TransportId};
use popgate::pipeline::report::{
    Answer, CanaryRow, ClearAsked, DecisionRow, DropRow, Explanation, FlowFilter, MeasurementRow,
    NatBlockRow, PathHistory, PathName, PathReport, Query, QueueRow, RuleRow, SessionReport, TenantRow,
};
use popgate::pipeline::{DeadLinks, explain};
use popgate::tables::{Compiler, Generation};
use popgate::tunnel::{Endpoint, Keys, Opened, Sealed, Tunnel, TunnelIndex};
use popgate::wire::{Ingress, Outbound, Upper};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Two tenants with the same prefixes. `acme`: `berlin` with two transports, `lyon` with one; `globex`: `site1`.
pub const ACME: &str = r#"
tenant = "acme"

[[branch]]
name = "berlin"
prefixes = ["10.1.0.0/16", "2001:db8:1::/48"]
[[branch.path]]
name = "dsl"
transport = "isp-a"
public-key = "@berlin-dsl@"
[[branch.path]]
name = "lte"
transport = "isp-b"
public-key = "@berlin-lte@"

[[branch]]
name = "lyon"
prefixes = ["10.2.0.0/16", "10.1.77.0/24"]
[[branch.path]]
name = "dsl"
public-key = "@lyon-dsl@"

[[handoff]]
name = "internet"
kind = "internet"
nat-pool = ["198.51.100.0/30"]
routed = ["2001:db8:1::/48"]

[[handoff]]
name = "dc"
kind = "private"
interface = "eth2"
address = ["10.200.0.1/24"]
prefixes = ["10.200.0.0/16"]

[[app-class]]
name = "voice"
match = [ { dscp = ["ef"] } ]

[[app-class]]
name = "bulk"
match = [ { protocol = "tcp", dst-port = 5201 } ]

[[acl]]
name = "no-telnet"
protocol = "tcp"
dst-port = 23
action = "reject"

[[acl]]
name = "no-games"
protocol = "udp"
dst-port = "27000-27100"
action = "drop"

[[acl]]
name = "no-ntp-abuse"
protocol = "udp"
dst-port = 123
action = "reject"

[[acl]]
name = "branches"
from = ["branch:berlin", "branch:lyon"]
to = ["branch:berlin", "branch:lyon", "handoff:dc"]
action = "accept"

[[acl]]
name = "dc-in"
from = ["handoff:dc"]
to = ["branch:berlin", "branch:lyon"]
action = "accept"

[[acl]]
name = "web-server"
from = ["handoff:internet"]
to = ["2001:db8:1::80/128"]
protocol = "tcp"
dst-port = 80
action = "accept"

[[acl]]
name = "out"
from = ["branch:berlin", "branch:lyon"]
to = ["handoff:internet"]
action = "accept"

[[path-policy]]
class = "default"
prefer = ["dsl", "lte"]

[[path-policy]]
class = "bulk"
prefer = ["lte"]
"#;

pub const GLOBEX: &str = r#"
tenant = "globex"

[[branch]]
name = "site1"
prefixes = ["10.1.0.0/16"]
[[branch.path]]
name = "wan"
public-key = "@site1-wan@"

[[handoff]]
name = "internet"
kind = "internet"
nat-pool = ["198.51.100.8/30"]
nat-ports = "5000-5003"

[[acl]]
name = "all-out"
from = ["branch:site1"]
to = ["handoff:internet"]
action = "accept"
"#;

pub const POP: &str = r#"
site = "fra1"
role = "pop"
private-key-file = "keys/fra1"
max-sessions = 1000

[[transport]]
name = "isp-a"
listen = "192.0.2.1:51820"

[[transport]]
name = "isp-b"
listen = "192.0.2.2:51820"
"#;

/// What one direction of a link does to datagrams.
#[derive(Clone, Copy, Default)]
pub struct Link {
    /// The share that is lost, 0 to 1.
    pub loss: f64,
    pub delay_ms: u64,
    /// Up to so much more, as chance has it; what was sent later does not arrive earlier.
    pub jitter_ms: u64,
}

/// A path's name, the branch's address, the PoP's.
type PathRow = (&'static str, &'static str, &'static str);

/// Names of the branches, their tenant, and their paths: name, own address, the PoP's address.
const BRANCHES: [(&str, &str, &[PathRow]); 3] = [
    (
        "berlin",
        "acme",
        &[("dsl", "203.0.113.1:1001", "192.0.2.1:51820"), ("lte", "203.0.113.1:1002", "192.0.2.2:51820")],
    ),
    ("lyon", "acme", &[("dsl", "203.0.113.2:1001", "192.0.2.1:51820")]),
    ("site1", "globex", &[("wan", "203.0.113.3:1001", "192.0.2.1:51820")]),
];

/// One box.
pub struct Node {
    pub plane: Plane,
    workers: u16,
    compiler: Compiler,
    generation: Arc<Generation>,
    directory: tempfile::TempDir,
    /// What it wrote to its devices, since last asked, by the device's name.
    delivered: Vec<(String, Vec<u8>)>,
    pub records: Vec<FlowRecord>,
}

pub struct Sim {
    pub now: Now,
    pub nodes: BTreeMap<String, Node>,
    addresses: BTreeMap<SocketAddr, (String, TransportId)>,
    /// Branch transports whose link is cut, by their address: from the branch, and to it.
    cut: BTreeMap<SocketAddr, [bool; 2]>,
    /// How long the datagrams are that a branch's transport still sends and is sent, where that is not any, by its address.
    narrow: BTreeMap<SocketAddr, usize>,
    /// Links of branch transports that do not carry everything at once, by their address: from the branch, and to it; and when the
    /// last datagram on each arrives.
    links: BTreeMap<SocketAddr, [(Link, Instant); 2]>,
    /// Likewise of datagrams that carry a DSCP: they have a queue of their own.
    marked_links: BTreeMap<(SocketAddr, u8), [(Link, Instant); 2]>,
    /// How many datagrams left an address with a DSCP.
    marked: BTreeMap<(SocketAddr, u8), u64>,
    /// What branch transports with such a link can send in bits a second, with a queue of 100 ms before it; by their address.
    rates: BTreeMap<SocketAddr, u64>,
    /// What is under way on these, by when it arrives, and in the order it was sent: where to, from where.
    under_way: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    launched: u64,
    /// Hosts out there that answer pings of `berlin`'s, by their addresses, and what the line between does both ways.
    pinged: BTreeMap<IpAddr, [Link; 2]>,
    /// Their replies under way, by when they arrive and in the order they were sent.
    replies: BTreeMap<(Instant, u64), Vec<u8>>,
    chance: StdRng,
    /// Transports that send from another address than they listen on, as behind a NAT.
    moved: BTreeMap<SocketAddr, SocketAddr>,
    /// Tunnels of the tests' own, by the name of the branch's key they use: they send what no real branch would. Made
    /// with everything else, so that their handshakes' timestamps are never older than the branch's own.
    forgers: BTreeMap<String, Tunnel>,
    /// Branches in whose name a forger has a session.
    impersonated: BTreeSet<String>,
    /// Datagrams to addresses where nobody is.
    strays: Vec<Vec<u8>>,
    /// Every datagram on the wire, while it is being recorded.
    recording: Option<Vec<Vec<u8>>>,
    /// The PoP's `popgate.toml`.
    pop: String,
}

impl Sim {
    /// The network described above, everything just started.
    pub fn new() -> Sim {
        Sim::with_policies(ACME, GLOBEX)
    }

    pub fn with_policies(acme: &str, globex: &str) -> Sim {
        Sim::with_configurations(POP, acme, globex)
    }

    /// With another `popgate.toml` at the PoP.
    pub fn with_configurations(pop: &str, acme: &str, globex: &str) -> Sim {
        let mut sim = Sim {
            pop: pop.to_owned(),
            now: Now { unix_nanos: 1_790_000_000_000_000_000, ..Now::default() },
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            cut: BTreeMap::new(),
            narrow: BTreeMap::new(),
            links: BTreeMap::new(),
            marked_links: BTreeMap::new(),
            marked: BTreeMap::new(),
            rates: BTreeMap::new(),
            under_way: BTreeMap::new(),
            launched: 0,
            pinged: BTreeMap::new(),
            replies: BTreeMap::new(),
            chance: StdRng::seed_from_u64(5),
            moved: BTreeMap::new(),
            forgers: ["berlin-dsl", "berlin-lte", "lyon-dsl"]
                .map(|key| (key.to_owned(), stranger(private_key(key).0)))
                .into(),
            impersonated: BTreeSet::new(),
            strays: Vec::new(),
            recording: None,
        };
        sim.add("fra1", pop, &[("acme", acme), ("globex", globex)]);
        for (name, tenant, paths) in BRANCHES {
            let policy = if tenant == "acme" { acme } else { globex };
            sim.add(name, &branch_config(name, paths), &[(tenant, policy)]);
        }
        sim
    }

    /// With a second PoP, `ams1`, to which `berlin` has the paths `ams-dsl` and `ams-lte`, over the same lines.
    pub fn with_two_pops(acme: &str) -> Sim {
        const PATHS: [PathRow; 2] = [
            ("ams-dsl", "203.0.113.1:1001", "192.0.2.11:51820"),
            ("ams-lte", "203.0.113.1:1002", "192.0.2.12:51820"),
        ];
        let of_berlin = "public-key = \"@berlin-lte@\"\n";
        let mut with_paths = of_berlin.to_owned();
        for (path, ..) in PATHS {
            with_paths += &format!("[[branch.path]]\nname = \"{path}\"\npublic-key = \"@berlin-{path}@\"\n");
        }
        let acme = acme.replacen(of_berlin, &with_paths, 1);
        let mut sim = Sim::with_policies(&acme, GLOBEX);
        let pop = POP.replace("fra1", "ams1").replace("192.0.2.", "192.0.2.1");
        sim.add("ams1", &pop, &[("acme", &acme.replace("198.51.100.0/30", "198.51.100.32/30"))]);
        let (_, _, own) = BRANCHES[0];
        let mut berlin = branch_config("berlin", own) + "[[pop]]\nname = \"ams1\"\npublic-key = \"@ams1@\"\n";
        for ((path, _, endpoint), (transport, ..)) in PATHS.iter().zip(own) {
            berlin += &format!(
                "[[pop.path]]\nname = \"{path}\"\ntransport = \"{transport}\"\nendpoint = \"{endpoint}\"\n\
                 private-key-file = \"keys/berlin-{path}\"\n"
            );
        }
        sim.add("berlin", &berlin, &[("acme", &acme)]);
        sim
    }

    /// As [`Sim::new`], with every tunnel up and every path probed.
    pub fn up() -> Sim {
        let mut sim = Sim::new();
        sim.advance(2_000);
        sim
    }

    fn add(&mut self, name: &str, config: &str, tenants: &[(&str, &str)]) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut compiler = Compiler::new("sim-");
        let candidate = write_and_load(directory.path(), config, tenants);
        let generation = Arc::new(compiler.compile(&candidate).expect("few names"));
        for (id, transport) in generation.transports.iter() {
            self.addresses.insert(transport.listen, (name.to_owned(), id));
        }
        let mut seed = [7; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        let workers = if name == "fra1" { workers() } else { 1 };
        let plane = Plane::new(workers, seed, &generation, self.now);
        let node = Node {
            plane,
            workers,
            compiler,
            generation,
            directory,
            delivered: Vec::new(),
            records: Vec::new(),
        };
        self.nodes.insert(name.to_owned(), node);
    }

    /// Lets `ms` milliseconds pass; every box does what is due when it is due.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now.instant < end.instant {
            let timers = self.nodes.values().filter_map(|node| node.plane.poll_timeout());
            let landing = [self.under_way.keys().next(), self.replies.keys().next()];
            let due = timers.chain(landing.into_iter().flatten().map(|(at, _)| *at)).min();
            let next =
                due.unwrap_or(end.instant).clamp(self.now.instant + Duration::from_millis(1), end.instant);
            let step = next.since(self.now.instant);
            self.now = self.now + step;
            #[cfg(feature = "sim")]
            mock_instant::MockClock::advance(step);
            self.land();
            for name in self.names() {
                let now = self.now;
                let mut out = Outbound::default();
                let node = self.node(&name);
                if node.plane.poll_timeout().is_some_and(|at| at <= now.instant) {
                    node.plane.handle_timeout(now, &mut out);
                }
                self.settle(&name, &out);
            }
        }
    }

    /// A packet comes out of a device of `node`'s: its LAN's, if it is a branch; `internet` or `dc` at the PoP. Gives
    /// every packet that any box then writes to a device, with the box's and the device's name.
    pub fn send(&mut self, node: &str, device: &str, packet: &[u8]) -> Vec<(String, Vec<u8>)> {
        let id = self.device(node, device);
        self.inject(node, Ingress::Device(id), packet);
        self.take_delivered()
    }

    /// A packet from `branch`'s LAN; what comes out anywhere, without saying where.
    pub fn from_lan(&mut self, branch: &str, packet: &[u8]) -> Vec<Vec<u8>> {
        self.send(branch, "lan", packet).into_iter().map(|(_, packet)| packet).collect()
    }

    /// A packet from the internet; what comes out anywhere.
    pub fn from_internet(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.send("fra1", "internet", packet).into_iter().map(|(_, packet)| packet).collect()
    }

    /// As [`Sim::from_lan`] and [`Sim::from_internet`], for links that take their time: what comes of it is delivered later.
    pub fn inject_from_lan(&mut self, branch: &str, packet: &[u8]) {
        let id = self.device(branch, "lan");
        self.inject(branch, Ingress::Device(id), packet);
    }

    pub fn inject_from_internet(&mut self, packet: &[u8]) {
        let id = self.device("fra1", "internet");
        self.inject("fra1", Ingress::Device(id), packet);
    }

    /// A datagram from anywhere to one of `node`'s transports.
    pub fn inject(&mut self, node: &str, ingress: Ingress, packet: &[u8]) {
        let now = self.now;
        let mut out = Outbound::default();
        let before = self.node(node).taken_in();
        self.node(node).plane.process(ingress, packet, 0, now, &mut out);
        let counted = self.node(node).taken_in() - before;
        // Of what comes out of a tunnel only the tunnel knows whether it is a packet. An answer of ours that could not be
        // sent is counted as well.
        let at_least = u64::from(matches!(ingress, Ingress::Device(_)));
        // Where bandwidth is limited, packets that have waited too long are lost on the same occasion.
        let at_most = if self.node(node).generation.is_shaped() { u64::MAX } else { 2 };
        assert!(
            (at_least..=at_most).contains(&counted),
            "{node} counted {counted} for one packet by {ingress:?}"
        );
        self.settle(node, &out);
    }

    /// Packets that come in together; what they cause at the next box comes in together there.
    pub fn inject_together(&mut self, node: &str, packets: &[(Ingress, Vec<u8>)]) {
        let now = self.now;
        let mut out = Outbound::default();
        self.node(node).plane.process_together(packets, now, &mut out);
        let mut next: BTreeMap<String, Vec<(Ingress, Vec<u8>)>> = BTreeMap::new();
        for (transport, to, datagram) in out.datagrams() {
            let from = self.node(node).generation.transports.get(transport).expect("a transport").listen;
            let (there, transport) = self.addresses.get(&to).cloned().expect("somebody's address");
            next.entry(there).or_default().push((Ingress::Transport { transport, from }, datagram.to_vec()));
        }
        self.deliver(node, &out);
        for (node, packets) in next {
            self.inject_together(&node, &packets);
        }
    }

    /// A super-packet out of a device of `node`'s.
    pub fn inject_super(&mut self, node: &str, device: DeviceId, packet: &[u8], segment: u16) {
        let now = self.now;
        let mut out = Outbound::default();
        self.node(node).plane.process(Ingress::Device(device), packet, segment, now, &mut out);
        self.settle(node, &out);
    }

    /// What was written to devices since this was last asked.
    pub fn take_delivered(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for (name, node) in &mut self.nodes {
            all.extend(node.delivered.drain(..).map(|(device, packet)| (format!("{name} {device}"), packet)));
        }
        all
    }

    /// Silently loses everything a branch's transport sends or is sent.
    pub fn cut(&mut self, address: &str) {
        self.cut_ways(address, [true; 2]);
    }

    /// Silently loses what a branch's transport sends, what it is sent, or both; also what is under way.
    pub fn cut_ways(&mut self, address: &str, ways: [bool; 2]) {
        self.cut.insert(address.parse().expect("an address"), ways);
    }

    pub fn heal(&mut self, address: &str) {
        self.cut.remove(&address.parse().expect("an address"));
    }

    /// Silently loses what is longer than `bytes` of what a branch's transport sends and is sent.
    pub fn narrow(&mut self, address: &str, bytes: usize) {
        self.narrow.insert(address.parse().expect("an address"), bytes);
    }

    /// There is no way from `node` to `address` any more, as its kernel finds out.
    pub fn cannot_send(&mut self, node: &str, address: &str) {
        let address = address.parse().expect("an address");
        let node = self.node(node);
        for (transport, _) in node.generation.transports.iter() {
            node.plane.cannot_send_to(Endpoint { transport, address });
        }
    }

    /// The interfaces of these transports of `node`'s are down, or that of its way straight out, and no others are.
    pub fn dead_links(&mut self, node: &str, transports: &[&str], outlet: bool) {
        let (now, mut out) = (self.now, Outbound::default());
        let at = self.node(node);
        let all = at.generation.transports.iter();
        let dead = all.filter(|(_, spec)| transports.contains(&spec.name.as_str())).map(|(id, _)| id);
        let dead = DeadLinks { transports: dead.collect(), outlet };
        at.plane.know_dead_links(&dead, now, &mut out);
        self.settle(node, &out);
    }

    /// What a branch's transport sends, and what it is sent, meets this from now on.
    pub fn impair(&mut self, address: &str, links: [Link; 2]) {
        let now = self.now.instant;
        self.links.insert(address.parse().expect("an address"), links.map(|link| (link, now)));
    }

    /// What of that carries `dscp` outside meets this instead.
    pub fn impair_marked(&mut self, address: &str, dscp: u8, links: [Link; 2]) {
        let now = self.now.instant;
        let address = address.parse().expect("an address");
        self.marked_links.insert((address, dscp), links.map(|link| (link, now)));
    }

    /// How many datagrams have left `address` that carry `dscp` outside.
    pub fn marked(&self, address: &str, dscp: u8) -> u64 {
        let address = address.parse().expect("an address");
        self.marked.get(&(address, dscp)).copied().unwrap_or_default()
    }

    /// What a branch's transport sends meets a line of `rate` bits a second from now on.
    pub fn throttle(&mut self, address: &str, rate: u64) {
        self.rates.insert(address.parse().expect("an address"), rate);
    }

    /// The branch's transport that listens on `old` is seen at `new` from now on, as when a NAT on the way restarts.
    pub fn move_transport(&mut self, old: &str, new: &str) {
        let (old, new) = (old.parse().expect("an address"), new.parse().expect("an address"));
        let node = self.addresses.remove(&old).expect("a transport's address");
        self.addresses.insert(new, node);
        self.moved.insert(old, new);
    }

    /// Begins to record datagrams.
    pub fn record_datagrams(&mut self) {
        self.recording = Some(Vec::new());
    }

    /// The datagrams on the wire since [`Sim::record_datagrams`].
    pub fn recorded(&mut self) -> Vec<Vec<u8>> {
        self.recording.take().unwrap_or_default()
    }

    /// How many datagrams of WireGuard message type `kind` went to where nobody is, since this was last asked.
    pub fn take_strays(&mut self, kind: u8) -> u64 {
        self.strays.drain(..).filter(|datagram| datagram.first() == Some(&kind)).count() as u64
    }

    /// The last datagram of WireGuard message type `kind` that went to where nobody is.
    pub fn stray(&self, kind: u8) -> Option<Vec<u8>> {
        self.strays.iter().rfind(|datagram| datagram.first() == Some(&kind)).cloned()
    }

    /// A handshake initiation to the PoP from whoever has this private key.
    pub fn initiation(&mut self, private: [u8; 32]) -> Vec<u8> {
        call(&mut stranger(private))
    }

    /// A handshake initiation with the keys of a branch's path.
    pub fn initiation_of(&mut self, branch: &str, path: &str) -> Vec<u8> {
        call(self.forger(&format!("{branch}-{path}")))
    }

    fn forger(&mut self, key: &str) -> &mut Tunnel {
        self.forgers.get_mut(key).unwrap_or_else(|| panic!("nobody forges {key}"))
    }

    /// Forgers begin with a new handshake.
    pub fn hang_up(&mut self) {
        self.impersonated.clear();
    }

    /// Sends `packet` through a tunnel with the keys of `branch`'s first path, whatever it holds. False if it is nothing
    /// the PoP would count: an empty packet is a keepalive.
    pub fn forge(&mut self, branch: &str, packet: &[u8]) -> bool {
        let transport = TransportId(0);
        let from: SocketAddr =
            if branch == "berlin" { "203.0.113.201:1" } else { "203.0.113.202:1" }.parse().expect("v4");
        let mut buffer = vec![0; 70_000];
        let key = format!("{branch}-dsl");
        if self.impersonated.insert(branch.to_owned()) {
            let initiation = call(self.forger(&key));
            self.strays.clear();
            self.inject("fra1", Ingress::Transport { transport, from }, &initiation);
            // None if the branch's own box has called at the very same time.
            let Some(response) = self.stray(2) else {
                self.impersonated.remove(branch);
                return false;
            };
            let opened = self.forger(&key).open(from.ip(), &response, &mut buffer);
            let Ok(Opened::Reply(len)) = opened else { panic!("no keepalive: {opened:?}") };
            self.inject("fra1", Ingress::Transport { transport, from }, &buffer[..len]);
        }
        let Sealed::Datagram(len) = self.forger(&key).seal(packet, &mut buffer) else { panic!("no session") };
        self.inject("fra1", Ingress::Transport { transport, from }, &buffer[..len]);
        self.strays.clear();
        !packet.is_empty()
    }

    /// A branch's box is no more, and its forger is all that has its keys: a stock client.
    pub fn unplug(&mut self, branch: &str) {
        self.nodes.remove(branch);
        self.addresses.retain(|_, (name, _)| name != branch);
    }

    /// The packets that the PoP has sent to a branch's forger since this was last asked.
    pub fn taken_by_forger(&mut self, branch: &str) -> Vec<Vec<u8>> {
        let strays: Vec<Vec<u8>> = self.strays.drain(..).filter(|datagram| datagram[0] == 4).collect();
        let from = "192.0.2.1".parse().expect("v4");
        let mut buffer = vec![0; 70_000];
        let forger = self.forger(&format!("{branch}-dsl"));
        let opened = strays.iter().filter_map(|datagram| match forger.open(from, datagram, &mut buffer) {
            Ok(Opened::Packet(len)) => Some(buffer[..len].to_vec()),
            _ => None,
        });
        opened.collect()
    }

    /// As [`Sim::forge`], once there is a session; but it never arrives.
    pub fn seal_and_lose(&mut self, branch: &str, packet: &[u8]) {
        let sealed = self.forger(&format!("{branch}-dsl")).seal(packet, &mut vec![0; 70_000]);
        assert!(matches!(sealed, Sealed::Datagram(_)), "{sealed:?}");
    }

    /// Commits new tenant files at the PoP; a tenant that is not among them is gone.
    pub fn commit(&mut self, tenants: &[(&str, &str)]) {
        let (now, pop) = (self.now, self.pop.clone());
        let node = self.node("fra1");
        let candidate = write_and_load(node.directory.path(), &pop, tenants);
        node.generation = Arc::new(node.compiler.compile(&candidate).expect("few names"));
        node.plane.adopt(&node.generation, now);
        node.collect();
    }

    /// The PoP's interface has this address from now on, or none; the tenant files are as given.
    pub fn own_address(&mut self, interface: &str, address: Option<&str>, tenants: &[(&str, &str)]) {
        let address = address.map(|address| (interface.to_owned(), address.parse().expect("IPv4")));
        assert!(
            self.node("fra1").compiler.know_addresses(address.into_iter().collect()),
            "another than before"
        );
        self.commit(tenants);
    }

    /// `branch` may break out from now on, by an interface that has this address, or none; its tenant's file is as given.
    pub fn break_out(&mut self, branch: &str, address: Option<&str>, tenant: (&str, &str)) {
        self.break_out_by(branch, address, "", tenant);
    }

    /// As [`Sim::break_out`], with something more about the way out.
    pub fn break_out_by(
        &mut self,
        branch: &str,
        address: Option<&str>,
        more: &str,
        (tenant, policy): (&str, &str),
    ) {
        let (_, _, paths) = BRANCHES.iter().find(|(name, ..)| *name == branch).expect("a branch");
        let config = branch_config(branch, paths) + "[breakout]\ninterface = \"eth9\"\n" + more;
        let address = address.map(|address| ("eth9".to_owned(), address.parse().expect("IPv4")));
        let now = self.now;
        let node = self.node(branch);
        node.compiler.know_addresses(address.into_iter().collect());
        let candidate = write_and_load(node.directory.path(), &config, &[(tenant, policy)]);
        node.generation = Arc::new(node.compiler.compile(&candidate).expect("few names"));
        node.plane.adopt(&node.generation, now);
        node.collect();
    }

    /// `branch` may send no more than `bandwidth` over `transport` from now on.
    pub fn limit(&mut self, branch: &str, transport: &str, bandwidth: &str, (tenant, policy): (&str, &str)) {
        let (_, _, paths) = BRANCHES.iter().find(|(name, ..)| *name == branch).expect("a branch");
        let begins = format!("[[transport]]\nname = \"{transport}\"\n");
        let limited = format!("{begins}bandwidth = \"{bandwidth}\"\n");
        let config = branch_config(branch, paths).replacen(&begins, &limited, 1);
        let now = self.now;
        let node = self.node(branch);
        let candidate = write_and_load(node.directory.path(), &config, &[(tenant, policy)]);
        node.generation = Arc::new(node.compiler.compile(&candidate).expect("few names"));
        node.plane.adopt(&node.generation, now);
        node.collect();
    }

    /// How classes fare at `node` where bandwidth is limited.
    pub fn queues(&mut self, node: &str) -> Vec<QueueRow> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Queues { tenant: None }, now) {
            Answer::Queues(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Has `node` send the probes of its canaries.
    pub fn probe_canaries(&mut self, node: &str) {
        let (now, mut out) = (self.now, Outbound::default());
        self.node(node).plane.probe_canaries(now, &mut out);
        self.settle(node, &out);
    }

    /// How they stand.
    pub fn canaries(&mut self, node: &str) -> Vec<CanaryRow> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Canaries { probe: false }, now) {
            Answer::Canaries(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// The box loses all its state, as by `kill -9`, and starts again.
    pub fn restart(&mut self, name: &str) {
        let now = self.now;
        let node = self.node(name);
        node.plane = Plane::new(node.workers, [99; 32], &node.generation, now);
    }

    /// As [`Sim::restart`], with so many workers.
    pub fn restart_with(&mut self, name: &str, workers: u16) {
        self.node(name).workers = workers;
        self.restart(name);
    }

    /// What every tenant has of what is limited.
    pub fn tenants(&mut self, node: &str) -> Vec<TenantRow> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Tenants, now) {
            Answer::Tenants(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Which blocks of NAT ports branches have.
    pub fn nat_blocks(&mut self, node: &str) -> Vec<NatBlockRow> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::NatBlocks { tenant: None }, now) {
            Answer::NatBlocks(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    pub fn drops(&mut self, node: &str) -> Vec<DropRow> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Drops, now) {
            Answer::Drops(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// How good a path of `node`'s has been.
    pub fn path_history(&mut self, node: &str, tenant: &str, site: &str, path: &str) -> Option<PathHistory> {
        let now = self.now;
        let [tenant, site, path] = [tenant, site, path].map(str::to_owned);
        match self.node(node).plane.answer(&Query::History(PathName { tenant, site, path }), now) {
            Answer::History(history) => history,
            other => panic!("{other:?}"),
        }
    }

    /// How many packets `node` dropped for `reason` on `tenant`'s account.
    pub fn dropped(&mut self, node: &str, tenant: Option<&str>, reason: &str) -> u64 {
        let rows = self.drops(node);
        rows.iter()
            .filter(|row| row.tenant.as_deref() == tenant && row.reason == reason)
            .map(|row| row.packets)
            .sum()
    }

    /// How many addresses and ports of pools `node`'s sessions are bound to.
    pub fn bindings(&mut self, node: &str) -> u64 {
        let outside = |session: SessionReport| match (session.nat_source, session.nat_destination) {
            (Some(address), _) => Some((session.protocol, address, session.nat_source_port)),
            (None, Some(_)) => Some((session.protocol, session.destination, Some(session.destination_port))),
            (None, None) => None,
        };
        self.sessions(node).into_iter().filter_map(outside).collect::<BTreeSet<_>>().len() as u64
    }

    /// What `node` says would become of a flow of `tenant`'s.
    pub fn explain(&mut self, node: &str, tenant: &str, asked: &AskedFlow) -> Explanation {
        let generation = Arc::clone(&self.node(node).generation);
        let found = generation.names.all_tenants().find(|(_, name)| ***name == *tenant);
        explain(&generation, found.expect("a tenant").0, asked)
    }

    /// Which classes `node` has moved, and why; the oldest first.
    pub fn decisions(&mut self, node: &str) -> Vec<DecisionRow> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Decisions { tenant: None }, now) {
            Answer::Decisions(rows) => rows.into_iter().rev().collect(),
            other => panic!("{other:?}"),
        }
    }

    /// What `node` has judged its paths by; the oldest first.
    pub fn measurements(&mut self, node: &str) -> Vec<MeasurementRow> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Measurements { tenant: None }, now) {
            Answer::Measurements(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// What `node` would do by other tenant files, or by these.
    pub fn other_generation(&mut self, node: &str, tenants: &[(&str, &str)]) -> Generation {
        let paths = BRANCHES.iter().find(|(name, ..)| *name == node).map(|(_, _, paths)| *paths);
        let config = paths.map_or_else(|| self.pop.clone(), |paths| branch_config(node, paths));
        let directory = tempfile::tempdir().expect("a directory");
        let candidate = write_and_load(directory.path(), &config, tenants);
        Compiler::new("other-").compile(&candidate).expect("few names")
    }

    /// What `node` does.
    pub fn generation(&mut self, node: &str) -> Generation {
        Generation::clone(&self.node(node).generation)
    }

    /// The rule of this name at `node`.
    pub fn rule(&mut self, node: &str, tenant: &str, rule: &str) -> RuleRow {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Rules { tenant: Some(tenant.to_owned()) }, now) {
            Answer::Rules(rows) => rows.into_iter().find(|row| row.rule == rule).expect("a rule"),
            other => panic!("{other:?}"),
        }
    }

    pub fn sessions(&mut self, node: &str) -> Vec<SessionReport> {
        let now = self.now;
        let query = Query::Sessions { filter: FlowFilter::default(), limit: usize::MAX };
        match self.node(node).plane.answer(&query, now) {
            Answer::Sessions(page) => page.sessions,
            other => panic!("{other:?}"),
        }
    }

    pub fn paths(&mut self, node: &str) -> Vec<PathReport> {
        let now = self.now;
        match self.node(node).plane.answer(&Query::Paths, now) {
            Answer::Paths(paths) => paths,
            other => panic!("{other:?}"),
        }
    }

    /// Ends sessions at a node; how many.
    pub fn clear(&mut self, node: &str, asked: &ClearAsked) -> u64 {
        let now = self.now;
        self.node(node).plane.clear_sessions(asked, now)
    }

    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap_or_else(|| panic!("no node {name}"))
    }

    pub fn device(&mut self, node: &str, device: &str) -> DeviceId {
        let node = self.node(node);
        let wanted = match device {
            "internet" => "pg-internet",
            "lan" => "pg-lan",
            "breakout" => "pg-breakout",
            "globex/dc" => "pg2",
            _ => "pg1",
        };
        let found = node.generation.devices.iter().find(|(_, spec)| spec.name == wanted);
        found.unwrap_or_else(|| panic!("no device {device}")).0
    }

    fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    fn deliver(&mut self, from: &str, out: &Outbound) {
        self.node(from).collect();
        for packet in out.packets() {
            let node = self.node(from);
            let spec = node.generation.devices.get(packet.device());
            let name = spec.map(|spec| spec.name.clone()).unwrap_or_default();
            let packet = packet.to_vec();
            if name == "pg-breakout" && self.answer_ping(&packet) {
                continue;
            }
            self.node(from).delivered.push((name, packet));
        }
    }

    /// Delivers what a worker sent, and what is sent in answer to that, until nobody has anything more to say.
    fn settle(&mut self, from: &str, out: &Outbound) {
        self.deliver(from, out);
        for ((transport, to, datagram), dscp) in out.datagrams().zip(out.dscps()) {
            let listen = self.node(from).generation.transports.get(transport).expect("a transport").listen;
            let source = self.moved.get(&listen).copied().unwrap_or(listen);
            *self.marked.entry((source, dscp)).or_default() += 1;
            if let Some(recording) = &mut self.recording {
                recording.push(datagram.to_vec());
            }
            let is_too_long = |end| self.narrow.get(end).is_some_and(|bytes| datagram.len() > *bytes);
            if self.is_cut(source, to) || [source, to].iter().any(is_too_long) {
                continue;
            }
            self.launch((source, to), dscp, datagram);
        }
    }

    /// A datagram begins its way, and is at its end at once unless its link delays it.
    fn launch(&mut self, (source, to): (SocketAddr, SocketAddr), dscp: u8, datagram: &[u8]) {
        let Self { links, marked_links, rates, chance, now, .. } = self;
        let marked = [source, to].map(|end| marked_links.contains_key(&(end, dscp)));
        let link = if marked[0] {
            marked_links.get_mut(&(source, dscp)).map(|[from_branch, _]| from_branch)
        } else if marked[1] {
            marked_links.get_mut(&(to, dscp)).map(|[_, to_branch]| to_branch)
        } else if let Some([from_branch, _]) = links.get_mut(&source) {
            Some(from_branch)
        } else {
            links.get_mut(&to).map(|[_, to_branch]| to_branch)
        };
        let Some((link, last)) = link else { return self.arrive(source, to, datagram) };
        if chance.random_bool(link.loss) {
            return;
        }
        let delay = Duration::from_millis(link.delay_ms + chance.random_range(0..=link.jitter_ms));
        let earliest = (*last).max(now.instant + delay);
        *last = match rates.get(&source) {
            None => earliest,
            Some(_) if earliest.since(now.instant + delay) > Duration::from_millis(100) => return,
            // IP and UDP around it, and Ethernet around those.
            Some(rate) => {
                earliest + Duration::from_nanos((datagram.len() as u64 + 42) * 8_000_000_000 / rate)
            }
        };
        let at = (*last, self.launched);
        self.launched += 1;
        if at.0 <= self.now.instant {
            return self.arrive(source, to, datagram);
        }
        self.under_way.insert(at, (source, to, datagram.to_vec()));
    }

    /// What was under way long enough arrives.
    fn land(&mut self) {
        while let Some(first) = self.under_way.first_entry().filter(|first| first.key().0 <= self.now.instant)
        {
            let (source, to, datagram) = first.remove();
            self.arrive(source, to, &datagram);
        }
        while let Some(first) = self.replies.first_entry().filter(|first| first.key().0 <= self.now.instant) {
            let reply = first.remove();
            let device = self.device("berlin", "breakout");
            self.inject("berlin", Ingress::Device(device), &reply);
        }
    }

    /// A host out there answers pings of `berlin`'s from now on, over a line that does this to them and to the replies; or it
    /// does not any more.
    pub fn pinged(&mut self, address: &str, line: Option<[Link; 2]>) {
        let address = address.parse().expect("an address");
        match line {
            Some(line) => self.pinged.insert(address, line),
            None => self.pinged.remove(&address),
        };
    }

    /// Answers a ping of the box's own, if it is one.
    fn answer_ping(&mut self, packet: &[u8]) -> bool {
        let Ok(parsed) = popgate::wire::parse(packet) else { return false };
        // Hosts' pings are longer or shorter.
        if !matches!(parsed.upper, Upper::EchoRequest { .. }) || packet.len() != 40 {
            return false;
        }
        let Some(line) = self.pinged.get(&parsed.destination(packet)).copied() else { return true };
        let mut late = Duration::ZERO;
        for way in line {
            if self.chance.random_bool(way.loss) {
                return true;
            }
            late += Duration::from_millis(way.delay_ms + self.chance.random_range(0..=way.jitter_ms));
        }
        self.launched += 1;
        self.replies.insert((self.now.instant + late, self.launched), crate::packets::reply(packet));
        true
    }

    fn is_cut(&self, source: SocketAddr, to: SocketAddr) -> bool {
        self.cut.get(&source).is_some_and(|ways| ways[0]) || self.cut.get(&to).is_some_and(|ways| ways[1])
    }

    fn arrive(&mut self, source: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        match self.addresses.get(&to).cloned() {
            _ if self.is_cut(source, to) => {}
            Some((node, transport)) => {
                self.inject(&node, Ingress::Transport { transport, from: source }, datagram);
            }
            None => self.strays.push(datagram.to_vec()),
        }
    }
}

impl Node {
    /// The tables in force.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Packets passed on and packets dropped: what the box has accounted for.
    pub fn taken_in(&self) -> u64 {
        match self.plane.answer(&Query::Totals, Now::default()) {
            Answer::Totals(totals) => totals.forwarded_packets + totals.dropped_packets,
            other => panic!("{other:?}"),
        }
    }

    fn collect(&mut self) {
        self.records.extend(self.plane.take_records());
    }
}

fn branch_config(name: &str, paths: &[PathRow]) -> String {
    let mut text = format!("site = \"{name}\"\nrole = \"branch\"\n");
    for (path, listen, _) in paths {
        text += &format!("[[transport]]\nname = \"{path}\"\nlisten = \"{listen}\"\n");
    }
    text += "[lan]\n[[pop]]\nname = \"fra1\"\npublic-key = \"@fra1@\"\n";
    for (path, _, endpoint) in paths {
        text += &format!(
            "[[pop.path]]\nname = \"{path}\"\ntransport = \"{path}\"\nendpoint = \"{endpoint}\"\n\
             private-key-file = \"keys/{name}-{path}\"\n"
        );
    }
    text
}

fn write_and_load(directory: &Path, config: &str, tenants: &[(&str, &str)]) -> config::Candidate {
    let _ = std::fs::remove_dir_all(directory.join("tenants"));
    std::fs::create_dir_all(directory.join("tenants")).expect("a directory");
    std::fs::create_dir_all(directory.join("keys")).expect("a directory");
    std::fs::write(directory.join("popgate.toml"), fill(directory, config)).expect("written");
    for (name, text) in tenants {
        std::fs::write(directory.join(format!("tenants/{name}.toml")), fill(directory, text))
            .expect("written");
    }
    for line in config.lines() {
        if let Some(name) = line.strip_prefix("private-key-file = \"keys/") {
            key_of(directory, name.trim_end_matches('"'));
        }
    }
    config::load(directory).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Replaces `@name@` by the public key of `name`.
fn fill(directory: &Path, text: &str) -> String {
    let parts: Vec<&str> = text.split('@').collect();
    parts
        .iter()
        .enumerate()
        .map(|(i, part)| if i % 2 == 1 { key_of(directory, part).to_string() } else { (*part).to_string() })
        .collect()
}

/// Somebody who knows the PoP's public key.
pub fn stranger(private: [u8; 32]) -> Tunnel {
    let keys = Keys { private, peer: config::public_of(&private_key("fra1")).0, preshared: None };
    Tunnel::new(&keys, None, TunnelIndex::new(4_711, 0))
}

pub fn call(tunnel: &mut Tunnel) -> Vec<u8> {
    let mut buffer = [0; 256];
    let len = tunnel.call(&mut buffer).expect("an initiation");
    buffer[..len].to_vec()
}

fn private_key(name: &str) -> config::PrivateKey {
    let mut random = [0x5a; 32];
    random[..name.len()].copy_from_slice(name.as_bytes());
    config::PrivateKey::from_random(random)
}

/// A key pair by name; the private key is where configurations look for it.
fn key_of(directory: &Path, name: &str) -> config::PublicKey {
    let private = private_key(name);
    let path = directory.join("keys").join(name);
    if !path.exists() {
        use std::io::Write;
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("created");
        writeln!(file, "{}", private.to_base64()).expect("written");
    }
    config::public_of(&private)
}
