//! The topology file: what a lab consists of. From text to a [`Topology`] in which every name stands for something, or
//! to all that is wrong with it, as `file:line: message`.

use super::impair::{Change, Impairment};
use super::units::{Loss, Rate, Span};
use super::{LabError, fnv};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// A lab, as it was written down.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Begins the name of every namespace of the lab.
    pub name: String,
    pub nodes: Vec<Node>,
    pub links: Vec<Link>,
    /// By time.
    pub events: Vec<Event>,
    /// Command lines to try once it is up; `@lab@`, `@popgate@`, `@file@` and `@state-dir:NODE@` in them stand for what they are then.
    pub suggestions: Vec<String>,
    /// What paths in it are relative to.
    pub base: PathBuf,
}

/// A network namespace and what runs in it.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub kind: NodeKind,
    /// On the WireGuard interface of a `wireguard` node, on `lo` of any other.
    pub addresses: Vec<IpNetwork>,
    pub routes: Vec<Route>,
    /// Whether it forwards packets that are not for itself.
    pub forwarding: bool,
    /// Run in the background by `sh -c`, in the node's own directory.
    pub run: Vec<String>,
    /// Written into an appliance's configuration directory, into any other node's own; name to content.
    pub files: BTreeMap<String, String>,
    /// TCP ports of the node that are reached from outside the lab: address outside, address inside.
    pub publish: Vec<(SocketAddr, SocketAddr)>,
}

#[derive(Clone, Debug)]
pub enum NodeKind {
    /// `popgate run` on a configuration directory.
    Appliance {
        /// The directory its configuration is rendered from.
        config: Option<PathBuf>,
        /// Where the tenant files are that several appliances share.
        tenants: Option<PathBuf>,
        /// Which of them this one gets.
        tenant_files: Vec<String>,
    },
    /// A plain namespace.
    Host,
    /// A plain namespace that forwards.
    Router,
    /// wireguard-go, as anybody would run it.
    WireGuard(WireGuard),
}

/// What `wg setconf` and `ip link` are told.
#[derive(Clone, Debug)]
pub struct WireGuard {
    /// The name of the lab's key pair it uses.
    pub key: String,
    pub listen_port: Option<u16>,
    pub mtu: u16,
    pub peers: Vec<WireGuardPeer>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WireGuardPeer {
    /// Base64, or `@public-key:NAME@`.
    pub public_key: String,
    /// Base64, or `@preshared-key:NAME@`.
    pub preshared_key: Option<String>,
    pub endpoint: Option<SocketAddr>,
    pub allowed_ips: Vec<IpNetwork>,
    pub persistent_keepalive: Option<Span>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: IpNetwork,
    pub via: Via,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    Address(IpAddr),
    Interface(String),
    /// The node's WireGuard interface.
    WireGuard,
}

/// A cable between two nodes.
#[derive(Clone, Debug)]
pub struct Link {
    pub name: String,
    /// Forward is from the first to the second.
    pub ends: [LinkEnd; 2],
    pub mtu: u16,
    /// Through user space; a bare veth pair if `None`.
    pub shape: Option<Shape>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    pub node: String,
    pub interface: String,
    pub addresses: Vec<IpNetwork>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Forward, reverse.
    pub impairments: [Impairment; 2],
    pub seed: u64,
}

/// Something that happens by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// After the lab is up.
    pub at: Duration,
    pub link: String,
    pub action: Action,
}

/// What may be done to a link that goes through user space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing gets through any more; both ends keep their carrier.
    Cut {
        direction: Directions,
    },
    /// As the topology file has it again.
    Heal,
    Impair {
        direction: Directions,
        change: Change,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directions {
    #[default]
    Both,
    /// From the link's first end to its second.
    Forward,
    Reverse,
}

impl Topology {
    /// Reads the topology file `path`.
    ///
    /// # Errors
    /// The file cannot be read, or all its problems.
    pub fn read(path: &Path) -> Result<Topology, LabError> {
        let text =
            std::fs::read_to_string(path).map_err(LabError::io(format!("reading {}", path.display())))?;
        Topology::parse(&text, &path.display().to_string(), path.parent().unwrap_or(Path::new("")))
    }

    /// Parses a topology file's text; `file` is what problems call it, `base` what paths in it are relative to.
    ///
    /// # Errors
    /// All its problems at once.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Topology, LabError> {
        let mut problems = Problems { file, text, found: Vec::new() };
        let document: Document = match toml::from_str(text) {
            Ok(document) => document,
            Err(error) => {
                problems.add(error.span().map_or(0, |span| span.start), error.message().to_owned());
                return Err(LabError::Problems(problems.found));
            }
        };
        let topology = document.resolve(base, &mut problems);
        if problems.found.is_empty() { Ok(topology) } else { Err(LabError::Problems(problems.found)) }
    }
}

struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<String>,
}

impl Problems<'_> {
    fn add(&mut self, at: usize, message: String) {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        self.found.push(format!("{}:{line}: {message}", self.file));
    }
}

// The file as it stands: names not yet looked up, keys not yet sorted out by kind.

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    name: Spanned<String>,
    #[serde(default)]
    node: Vec<Spanned<NodeDocument>>,
    #[serde(default)]
    link: Vec<Spanned<LinkDocument>>,
    #[serde(default)]
    event: Vec<Spanned<EventDocument>>,
    #[serde(default)]
    suggestions: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Appliance,
    Host,
    Router,
    WireGuard,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct NodeDocument {
    name: String,
    kind: Kind,
    #[serde(default)]
    addresses: Vec<IpNetwork>,
    #[serde(default)]
    routes: BTreeMap<String, String>,
    forwarding: Option<bool>,
    #[serde(default)]
    run: Vec<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    publish: BTreeMap<SocketAddr, SocketAddr>,
    // Appliances.
    config: Option<PathBuf>,
    tenants: Option<PathBuf>,
    tenant_files: Option<Vec<String>>,
    // WireGuard.
    key: Option<String>,
    listen_port: Option<u16>,
    mtu: Option<u16>,
    peer: Option<Vec<WireGuardPeer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LinkDocument {
    name: String,
    ends: [String; 2],
    #[serde(default)]
    addresses: BTreeMap<String, Vec<IpNetwork>>,
    mtu: Option<u16>,
    #[serde(default)]
    cuttable: bool,
    seed: Option<u64>,
    // A `Change`, which serde cannot flatten without forgetting to refuse unknown keys.
    delay: Option<Span>,
    jitter: Option<Span>,
    loss: Option<Loss>,
    rate: Option<Rate>,
    queue: Option<usize>,
    reorder: Option<bool>,
    #[serde(default)]
    forward: Change,
    #[serde(default)]
    reverse: Change,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ActionName {
    Cut,
    Heal,
    Impair,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct EventDocument {
    at: Span,
    link: String,
    action: ActionName,
    direction: Option<Directions>,
    delay: Option<Span>,
    jitter: Option<Span>,
    loss: Option<Loss>,
    rate: Option<Rate>,
    queue: Option<usize>,
    reorder: Option<bool>,
}

macro_rules! change {
    ($document:ident) => {
        Change {
            delay: $document.delay,
            jitter: $document.jitter,
            loss: $document.loss,
            rate: $document.rate,
            queue: $document.queue,
            reorder: $document.reorder,
        }
    };
}

impl Document {
    fn resolve(self, base: &Path, problems: &mut Problems<'_>) -> Topology {
        let at = self.name.span().start;
        let name = self.name.into_inner();
        // No hyphen: `pglab-NAME-` must not begin another lab's `pglab-OTHERNAME-`. 16: readable in `ip netns`.
        if !(1..=16).contains(&name.len())
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            problems.add(at, format!("lab name \"{name}\" is not 1 to 16 characters of a-z and 0-9"));
        }
        let kinds: BTreeMap<String, Kind> =
            self.node.iter().map(|node| (node.as_ref().name.clone(), node.as_ref().kind)).collect();
        let mut interfaces = BTreeSet::new();
        let mut links = Vec::new();
        for link in self.link {
            links.extend(link.get_ref().resolve(link.span().start, &kinds, &mut interfaces, problems));
        }
        repeated(links.iter().map(|link: &Link| link.name.as_str()), "link", problems);
        repeated(self.node.iter().map(|node| node.get_ref().name.as_str()), "node", problems);
        let nodes = self
            .node
            .into_iter()
            .filter_map(|node| {
                let at = node.span().start;
                node.into_inner().resolve(at, base, &interfaces, problems)
            })
            .collect();
        let mut events: Vec<Event> = self
            .event
            .into_iter()
            .filter_map(|event| {
                let at = event.span().start;
                event.into_inner().resolve(at, &mut links, problems)
            })
            .collect();
        events.sort_by_key(|event| event.at);
        Topology { name, nodes, links, events, suggestions: self.suggestions, base: base.to_owned() }
    }
}

fn repeated<'a>(names: impl Iterator<Item = &'a str>, what: &str, problems: &mut Problems<'_>) {
    let mut seen = BTreeSet::new();
    for name in names.filter(|name| !seen.insert(*name)) {
        let at = problems.text.rfind(&format!("\"{name}\"")).unwrap_or(0);
        problems.add(at, format!("there is already a {what} \"{name}\""));
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=31).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-')
}

impl NodeDocument {
    fn resolve(
        self,
        at: usize,
        base: &Path,
        interfaces: &BTreeSet<(String, String)>,
        problems: &mut Problems<'_>,
    ) -> Option<Node> {
        let name = self.name;
        if !is_name(&name) {
            problems.add(at, format!("node name \"{name}\" is not 1 to 31 characters of a-z, 0-9 and -"));
        }
        let appliance = self.kind == Kind::Appliance;
        let wireguard = self.kind == Kind::WireGuard;
        for (key, given, allowed, kind) in [
            ("config", self.config.is_some(), appliance, "an appliance"),
            ("tenants", self.tenants.is_some(), appliance, "an appliance"),
            ("tenant-files", self.tenant_files.is_some(), appliance, "an appliance"),
            ("key", self.key.is_some(), wireguard, "a wireguard node"),
            ("listen-port", self.listen_port.is_some(), wireguard, "a wireguard node"),
            ("mtu", self.mtu.is_some(), wireguard, "a wireguard node"),
            ("peer", self.peer.is_some(), wireguard, "a wireguard node"),
        ] {
            if given && !allowed {
                problems.add(at, format!("node \"{name}\": `{key}` is for {kind}"));
            }
        }
        if appliance && self.config.is_none() && !self.files.contains_key("popgate.toml") {
            problems.add(
                at,
                format!("node \"{name}\": an appliance needs `config`, or a popgate.toml in `files`"),
            );
        }
        if self.tenant_files.is_some() && self.tenants.is_none() {
            problems.add(at, format!("node \"{name}\": `tenant-files` needs `tenants`, their directory"));
        }
        for file in self.files.keys() {
            let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
            if !inside || file.is_empty() {
                problems.add(
                    at,
                    format!("node \"{name}\": file \"{file}\" is not a path below the node's directory"),
                );
            }
        }
        let mut routes = Vec::new();
        for (to, via) in &self.routes {
            match route(&name, to, via, wireguard, interfaces) {
                Ok(route) => routes.push(route),
                Err(problem) => problems.add(at, format!("node \"{name}\": {problem}")),
            }
        }
        let kind = match self.kind {
            Kind::Appliance => NodeKind::Appliance {
                config: self.config.map(|path| base.join(path)),
                tenants: self.tenants.map(|path| base.join(path)),
                tenant_files: self.tenant_files.unwrap_or_default(),
            },
            Kind::Host => NodeKind::Host,
            Kind::Router => NodeKind::Router,
            Kind::WireGuard => NodeKind::WireGuard(WireGuard {
                key: self.key.unwrap_or_else(|| name.clone()),
                listen_port: self.listen_port,
                // 1420: what wg-quick gives an interface on a 1500-byte underlay.
                mtu: self.mtu.unwrap_or(1420),
                peers: self.peer.unwrap_or_default(),
            }),
        };
        Some(Node {
            forwarding: self.forwarding.unwrap_or(!matches!(kind, NodeKind::Host)),
            name,
            kind,
            addresses: self.addresses,
            routes,
            run: self.run,
            files: self.files,
            publish: self.publish.into_iter().collect(),
        })
    }
}

fn route(
    node: &str,
    to: &str,
    via: &str,
    wireguard: bool,
    interfaces: &BTreeSet<(String, String)>,
) -> Result<Route, String> {
    let next_hop = match via.parse::<IpAddr>() {
        Ok(address) => Via::Address(address),
        Err(_) if wireguard && via == "wireguard" => Via::WireGuard,
        Err(_) if interfaces.contains(&(node.to_owned(), via.to_owned())) => Via::Interface(via.to_owned()),
        Err(_) => {
            return Err(format!("route to {to}: \"{via}\" is neither an address nor an interface of it"));
        }
    };
    let to = match (to, &next_hop) {
        ("default", Via::Address(IpAddr::V6(_))) => "::/0",
        ("default", _) => "0.0.0.0/0",
        (prefix, _) => prefix,
    };
    let to: IpNetwork = to.parse().map_err(|_| format!("route to \"{to}\": not a prefix or `default`"))?;
    match &next_hop {
        Via::Address(address) if address.is_ipv4() != to.is_ipv4() => {
            Err(format!("route to {to}: next hop {address} is of the other address family"))
        }
        _ => Ok(Route { to, via: next_hop }),
    }
}

impl LinkDocument {
    fn resolve(
        &self,
        at: usize,
        nodes: &BTreeMap<String, Kind>,
        interfaces: &mut BTreeSet<(String, String)>,
        problems: &mut Problems<'_>,
    ) -> Option<Link> {
        let name = self.name.clone();
        if !is_name(&name) {
            problems.add(at, format!("link name \"{name}\" is not 1 to 31 characters of a-z, 0-9 and -"));
        }
        let mut ends = Vec::new();
        for end in &self.ends {
            let Some((node, interface)) = end.split_once(':') else {
                problems.add(at, format!("link \"{name}\": end \"{end}\" is not of the form NODE:INTERFACE"));
                continue;
            };
            if !nodes.contains_key(node) {
                problems.add(at, format!("link \"{name}\": there is no node \"{node}\""));
            }
            // 15 bytes: the kernel's IFNAMSIZ, one byte of which is the terminator.
            let visible = |b: u8| b.is_ascii_graphic() && b != b'/';
            if !(1..=15).contains(&interface.len()) || !interface.bytes().all(visible) {
                problems.add(
                    at,
                    format!("link \"{name}\": \"{interface}\" is not an interface name (1 to 15 bytes)"),
                );
            }
            if !interfaces.insert((node.to_owned(), interface.to_owned())) {
                problems.add(
                    at,
                    format!("link \"{name}\": node \"{node}\" already has an interface \"{interface}\""),
                );
            }
            let addresses = self.addresses.get(node).cloned().unwrap_or_default();
            ends.push(LinkEnd { node: node.to_owned(), interface: interface.to_owned(), addresses });
        }
        if let [one, other] = ends.as_slice()
            && one.node == other.node
        {
            problems.add(at, format!("link \"{name}\": both ends are at node \"{}\"", one.node));
        }
        for node in self.addresses.keys().filter(|node| ends.iter().all(|end| end.node != **node)) {
            problems.add(at, format!("link \"{name}\": addresses for \"{node}\", which is at neither end"));
        }
        let both = change!(self);
        let impairments =
            [&self.forward, &self.reverse].map(|one| one.apply(&both.apply(&Impairment::default())));
        let impaired = [&both, &self.forward, &self.reverse].into_iter().any(|change| !change.is_empty());
        let seed = self.seed.unwrap_or_else(|| fnv(&name));
        let shape = (impaired || self.cuttable).then_some(Shape { impairments, seed });
        let ends = ends.try_into().ok()?;
        Some(Link { name, ends, mtu: self.mtu.unwrap_or(1500), shape })
    }
}

impl EventDocument {
    fn resolve(self, at: usize, links: &mut [Link], problems: &mut Problems<'_>) -> Option<Event> {
        let change = change!(self);
        if self.action != ActionName::Impair && !change.is_empty() {
            problems.add(at, "event: only `impair` takes impairments".to_owned());
        }
        if self.action == ActionName::Heal && self.direction.is_some() {
            problems.add(at, "event: `heal` is of both directions".to_owned());
        }
        let Some(link) = links.iter_mut().find(|link| link.name == self.link) else {
            problems.add(at, format!("event: there is no link \"{}\"", self.link));
            return None;
        };
        // A link that something is to happen to needs no `cuttable` besides.
        let bare = || Shape { impairments: Default::default(), seed: fnv(&self.link) };
        link.shape.get_or_insert_with(bare);
        let direction = self.direction.unwrap_or_default();
        let action = match self.action {
            ActionName::Cut => Action::Cut { direction },
            ActionName::Heal => Action::Heal,
            ActionName::Impair => Action::Impair { direction, change },
        };
        Some(Event { at: self.at.0, link: self.link, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Topology, Vec<String>> {
        Topology::parse(text, "lab.toml", Path::new("/base")).map_err(|error| match error {
            LabError::Problems(problems) => problems,
            other => panic!("not a list of problems: {other}"),
        })
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text).expect_err("should have problems")
    }

    const PAIR: &str = r#"
name = "pair"
[[node]]
name = "one"
kind = "host"
routes = { default = "10.0.0.2", "::/0" = "fd00::2" }
[[node]]
name = "two"
kind = "router"
"#;

    #[test]
    fn a_link_without_impairments_is_bare_and_one_with_them_is_shaped() {
        let topology = parse(&format!(
            r#"{PAIR}
[[link]]
name = "bare"
ends = ["one:eth0", "two:eth0"]
addresses = {{ one = ["10.0.0.1/30"], two = ["10.0.0.2/30", "fd00::2/64"] }}
[[link]]
name = "slow"
ends = ["one:eth1", "two:eth1"]
delay = "20ms"
[link.reverse]
loss = "1%"
"#
        ))
        .expect("no problems");
        assert_eq!(topology.links[0].shape, None);
        assert_eq!(topology.links[0].ends[1].addresses.len(), 2);
        let shape = topology.links[1].shape.as_ref().expect("shaped");
        assert_eq!(shape.impairments[0].delay, Duration::from_millis(20));
        assert_eq!(shape.impairments[1].delay, Duration::from_millis(20));
        assert_eq!(shape.impairments[0].loss.millionths(), 0);
        assert_eq!(shape.impairments[1].loss.millionths(), 10_000);
    }

    #[test]
    fn a_default_route_is_of_its_next_hops_family() {
        let topology = parse(PAIR).expect("no problems");
        let routes: Vec<String> = topology.nodes[0].routes.iter().map(|route| route.to.to_string()).collect();
        assert_eq!(routes, ["::/0", "0.0.0.0/0"]);
    }

    #[test]
    fn an_event_makes_its_link_cuttable() {
        let topology = parse(&format!(
            r#"{PAIR}
[[link]]
name = "cable"
ends = ["one:eth0", "two:eth0"]
[[event]]
at = "10s"
link = "cable"
action = "heal"
[[event]]
at = "5s"
link = "cable"
action = "cut"
direction = "reverse"
"#
        ))
        .expect("no problems");
        assert!(topology.links[0].shape.is_some());
        let actions: Vec<&Action> = topology.events.iter().map(|event| &event.action).collect();
        assert_eq!(actions, [&Action::Cut { direction: Directions::Reverse }, &Action::Heal]);
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let found =
            problems("name = \"x\"\n[[link]]\nname = \"a\"\nends = [\"a:b\", \"c:d\"]\ndealy = \"1ms\"\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("lab.toml:5: unknown field `dealy`"), "{found:?}");
    }

    #[test]
    fn a_wrong_unit_is_named_with_its_line() {
        let found =
            problems("name = \"x\"\n[[link]]\nname = \"a\"\nends = [\"a:b\", \"c:d\"]\ndelay = \"1\"\n");
        assert!(found[0].starts_with("lab.toml:5: \"1\" is not a time"), "{found:?}");
    }

    #[test]
    fn all_problems_come_at_once_each_with_the_line_of_what_it_is_about() {
        let found = problems(
            r#"name = "my-lab"
[[node]]
name = "a"
kind = "host"
listen-port = 1
[[node]]
name = "b"
kind = "appliance"
routes = { "10.0.0.0/8" = "eth9" }
[[link]]
name = "l"
ends = ["a:eth0", "nobody:eth0"]
[[link]]
name = "m"
ends = ["a:eth0", "b:interface-too-long"]
addresses = { c = ["10.0.0.1/8"] }
[[event]]
at = "1s"
link = "z"
action = "cut"
"#,
        );
        let expected = [
            "lab.toml:1: lab name \"my-lab\" is not",
            "lab.toml:10: link \"l\": there is no node \"nobody\"",
            "lab.toml:13: link \"m\": node \"a\" already has an interface \"eth0\"",
            "lab.toml:13: link \"m\": \"interface-too-long\" is not an interface name",
            "lab.toml:13: link \"m\": addresses for \"c\"",
            "lab.toml:2: node \"a\": `listen-port` is for a wireguard node",
            "lab.toml:6: node \"b\": an appliance needs `config`",
            "lab.toml:6: node \"b\": route to 10.0.0.0/8: \"eth9\" is neither",
            "lab.toml:17: event: there is no link \"z\"",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} does not begin with {expected}");
        }
    }

    #[test]
    fn a_name_given_twice_is_a_problem() {
        let twice = format!("{PAIR}[[node]]\nname = \"one\"\nkind = \"host\"\n");
        assert_eq!(problems(&twice), ["lab.toml:11: there is already a node \"one\""]);
    }

    #[test]
    fn a_file_cannot_leave_the_nodes_directory() {
        let text = "name = \"x\"\n[[node]]\nname = \"a\"\nkind = \"host\"\nfiles = { \"../b\" = \"\" }\n";
        assert!(problems(text)[0].contains("is not a path below"));
    }
}
