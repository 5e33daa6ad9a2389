//! The devices under test: popgate with everything on, and the peers found on this machine with the kernel's conntrack,
//! NAT and as many rules around them.

use super::Failure;
use super::rig::{Inside, POP, POP_PORT, Rig, Setting, on_cpus};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey, StaticSecret};
use popgate::lab::{NodeChild, netns};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Besides the one that lets everything else out.
const RULES: usize = 99;
/// Where both wireguard-go and boringtun have their sockets.
const UAPI_DIR: &str = "/var/run/wireguard";
/// 10 s: a device that takes longer to come up will not.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Popgate,
    /// With one thread, or with as many as it takes of its own accord (four).
    Boringtun {
        single: bool,
    },
    WireguardGo,
    /// Plain routing.
    NoTunnel,
}

#[derive(Clone, Debug)]
pub struct Dut {
    pub kind: Kind,
    pub name: &'static str,
    program: PathBuf,
}

/// The devices on this machine, in the order in which they are measured; of those that are not, why.
pub fn all(setting: &Setting) -> (Vec<Dut>, Vec<String>) {
    let boringtun = std::env::var_os("BORINGTUN_CLI").map_or_else(|| "boringtun-cli".into(), PathBuf::from);
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (kind, name, program, source) in [
        (Kind::Popgate, "popgate", setting.popgate.clone(), "cargo build --release"),
        (Kind::Boringtun { single: false }, "boringtun", boringtun.clone(), "make bench-net installs it"),
        (Kind::Boringtun { single: true }, "boringtun-1t", boringtun, "make bench-net installs it"),
        (Kind::WireguardGo, "wireguard-go", "wireguard-go".into(), "apt-get install wireguard-go"),
        (Kind::NoTunnel, "no-tunnel", "ip".into(), "apt-get install iproute2"),
    ] {
        match which(&program) {
            Some(program) => found.push(Dut { kind, name, program }),
            None => missing.push(format!("{name}: there is no {} ({source})", program.display())),
        }
    }
    (found, missing)
}

fn which(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return std::path::absolute(program).ok().filter(|path| path.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.exists())
}

/// The private key of the generator's peer `index`.
pub fn peer_key(index: usize) -> StaticSecret {
    let mut bytes = [0x42; 32];
    bytes[8..16].copy_from_slice(&(index as u64).to_le_bytes());
    StaticSecret::from(bytes)
}

/// Its address inside the tunnel.
pub fn inner_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 1).to_bits() + index as u32)
}

/// Its address on the underlay.
pub fn outer_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 17, 0, 1).to_bits() + index as u32)
}

/// A PoP with its rig around it, and what it is known by. Dropping it takes all of it down.
pub struct Pop {
    pub public_key: PublicKey,
    // Before the rig goes, which would wait for it.
    _programs: Vec<NodeChild>,
    pub rig: Rig,
}

impl Dut {
    /// As the PoP of `peers` of the generator's, on the processors `cpus`.
    pub fn as_pop(&self, setting: &Setting, peers: usize, cpus: &[usize]) -> Result<Pop, Failure> {
        let keys: Vec<PublicKey> = (0..peers).map(|index| PublicKey::from(&peer_key(index))).collect();
        let branches =
            keys.iter().enumerate().map(|(index, key)| (STANDARD.encode(key), inner_address(index), 32));
        if self.kind == Kind::Popgate {
            let pop = Inside::Popgate(vec![
                ("popgate.toml", pop_file()),
                ("tenants/bench.toml", tenant_file(branches)),
            ]);
            let rig = Rig::up(setting, false, Inside::Router, pop, cpus)?;
            let public_key = key_of_lab(&rig, "pop")?;
            return Ok(Pop { public_key, _programs: Vec::new(), rig });
        }
        let rig = Rig::up(setting, false, Inside::Router, Inside::Router, cpus)?;
        // Not one of the peers'.
        let secret = peer_key(usize::MAX);
        let mut conf = interface(&secret, POP_PORT);
        for (key, address, len) in branches {
            let _ = writeln!(conf, "[Peer]\nPublicKey = {key}\nAllowedIPs = {address}/{len}");
        }
        let program = self.start(&rig, "pop", cpus, &conf, "route add 10.1.0.0/16 dev")?;
        rig.nft("pop", &kernel_policy())?;
        Ok(Pop { public_key: PublicKey::from(&secret), _programs: vec![program], rig })
    }

    /// At both ends, with a client behind the branch; back when a ping from the client reaches the server.
    pub fn at_both_ends(&self, setting: &Setting) -> Result<Pop, Failure> {
        let everywhere = [0, 1];
        let (rig, programs, public_key) = match self.kind {
            Kind::Popgate => {
                let branch = [("@public-key:branch@".to_owned(), Ipv4Addr::new(10, 1, 0, 0), 24)];
                let tenant = tenant_file(branch.into_iter()).replace("\"b0\"", "\"branch\"");
                let pop = Inside::Popgate(vec![
                    ("popgate.toml", pop_file()),
                    ("tenants/bench.toml", tenant.clone()),
                ]);
                let branch =
                    Inside::Popgate(vec![("popgate.toml", branch_file()), ("tenants/bench.toml", tenant)]);
                let rig = Rig::up(setting, true, branch, pop, &everywhere)?;
                let public_key = key_of_lab(&rig, "pop")?;
                (rig, Vec::new(), public_key)
            }
            Kind::NoTunnel => {
                let rig = Rig::up(setting, true, Inside::Router, Inside::Router, &everywhere)?;
                rig.must("branch", &["ip", "route", "add", "10.2.0.0/24", "via", "172.16.0.2"])?;
                rig.must("pop", &["ip", "route", "add", "10.1.0.0/24", "via", "172.16.0.1"])?;
                rig.nft("pop", &kernel_policy())?;
                (rig, Vec::new(), PublicKey::from([0; 32]))
            }
            Kind::Boringtun { .. } | Kind::WireguardGo => {
                let rig = Rig::up(setting, true, Inside::Router, Inside::Router, &everywhere)?;
                let (branch, pop) = (peer_key(0), peer_key(usize::MAX));
                let public_key = PublicKey::from(&pop);
                let peer = |secret: &StaticSecret| STANDARD.encode(PublicKey::from(secret));
                let mut conf = interface(&pop, POP_PORT);
                let _ = writeln!(conf, "[Peer]\nPublicKey = {}\nAllowedIPs = 10.1.0.0/24", peer(&branch));
                let far = self.start(&rig, "pop", &everywhere, &conf, "route add 10.1.0.0/24 dev")?;
                let mut conf = interface(&branch, POP_PORT);
                let _ = writeln!(
                    conf,
                    "[Peer]\nPublicKey = {}\nEndpoint = {POP}:{POP_PORT}\nAllowedIPs = 0.0.0.0/0\nPersistentKeepalive = 25",
                    peer(&pop)
                );
                let near = self.start(&rig, "branch", &everywhere, &conf, "route add 10.2.0.0/24 dev")?;
                rig.nft("pop", &kernel_policy())?;
                (rig, vec![near, far], public_key)
            }
        };
        let pings = || rig.must("cli", &["ping", "-n", "-q", "-c", "1", "-W", "1", "10.2.0.2"]).is_ok();
        setting.wait(&format!("a ping through {}", self.name), PATIENCE, pings)?;
        Ok(Pop { public_key, _programs: programs, rig })
    }

    /// A daemon that is configured through its socket, as `wg` does it; `route` is `ip`'s, without the device.
    fn start(
        &self,
        rig: &Rig,
        node: &str,
        cpus: &[usize],
        conf: &str,
        route: &str,
    ) -> Result<NodeChild, Failure> {
        let interface = rig.lab.node(node).wireguard_interface();
        let socket = Path::new(UAPI_DIR).join(format!("{interface}.sock"));
        let (arguments, environment): (&[&str], &[(&str, &str)]) = match self.kind {
            Kind::Boringtun { single: true } => (&["-f", "-t", "1", "--disable-drop-privileges"], &[]),
            Kind::Boringtun { single: false } => (&["-f", "--disable-drop-privileges"], &[]),
            _ => (&["-f"], &[("LOG_LEVEL", "error"), ("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")]),
        };
        let arguments = [arguments, &[interface.as_str()]].concat();
        let program = rig.start(node, cpus, &self.program, &arguments, environment)?;
        // Not before it is listened on: `wg` takes a socket that refuses it for a dead one's, and removes it.
        rig.setting.wait(&format!("{} listens at {}", self.name, socket.display()), PATIENCE, || {
            UnixStream::connect(&socket).is_ok()
        })?;
        let file = rig.lab.node(node).directory().join("wg.conf");
        std::fs::write(&file, conf)?;
        on_cpus(cpus, || rig.must(node, &["wg", "setconf", &interface, &file.to_string_lossy()]))?;
        let lines = format!("link set {interface} mtu 1420 up\n{route} {interface}\n");
        rig.lab.enter(node, || netns::ip_batch(&lines))??;
        Ok(program)
    }
}

fn key_of_lab(rig: &Rig, name: &str) -> Result<PublicKey, Failure> {
    let text = std::fs::read_to_string(rig.lab.work_dir().join("keys").join(format!("{name}.key")))?;
    let bytes: [u8; 32] =
        STANDARD.decode(text.trim())?.try_into().map_err(|_| "a key is not 32 bytes long")?;
    Ok(PublicKey::from(&StaticSecret::from(bytes)))
}

fn interface(secret: &StaticSecret, port: u16) -> String {
    format!("[Interface]\nPrivateKey = {}\nListenPort = {port}\n", STANDARD.encode(secret.to_bytes()))
}

// popgate's files.

fn pop_file() -> String {
    let workers = std::env::var("WORKERS").map(|n| format!("workers = {n}\n")).unwrap_or_default();
    format!(
        r#"site = "fra1"
role = "pop"
state-dir = "@state-dir@"
private-key-file = "@key:pop@"
{workers}
[[transport]]
name = "isp"
listen = "{POP}:{POP_PORT}"
interface = "u1"

[export]
active-timeout = "10s"
[[export.collector]]
name = "noc"
address = "10.3.0.2:4739"
"#
    )
}

fn branch_file() -> String {
    let workers = std::env::var("WORKERS").map(|n| format!("workers = {n}\n")).unwrap_or_default();
    format!(
        r#"site = "branch"
role = "branch"
state-dir = "@state-dir@"
{workers}
[[transport]]
name = "isp"
listen = "0.0.0.0:51820"
interface = "u0"

[lan]
interfaces = ["b0"]

[[pop]]
name = "fra1"
public-key = "@public-key:pop@"
[[pop.path]]
name = "wan"
transport = "isp"
endpoint = "{POP}:{POP_PORT}"
private-key-file = "@key:branch@"
"#
    )
}

/// `branches` have a public key, and a prefix.
fn tenant_file(branches: impl Iterator<Item = (String, Ipv4Addr, u8)>) -> String {
    let mut text = "tenant = \"bench\"\n".to_owned();
    for (index, (key, address, len)) in branches.enumerate() {
        let _ = writeln!(
            text,
            "[[branch]]\nname = \"b{index}\"\nprefixes = [\"{address}/{len}\"]\n[[branch.path]]\nname = \"wan\"\n\
             public-key = \"{key}\""
        );
    }
    text += r#"
[[handoff]]
name = "internet"
kind = "internet"
nat-pool = ["198.51.100.0/28"]

[[app-class]]
name = "voice"
match = [{ dscp = ["ef"] }]
[[app-class]]
name = "web"
match = [{ protocol = "tcp", dst-port = [80, 443] }]
[[app-class]]
name = "media"
match = [{ protocol = "udp", dst-port = ["7000-7999"] }]
[[app-class]]
name = "bulk"
match = [{ protocol = "tcp", dst-port = 5201 }]

[[path-policy]]
class = "voice"
prefer = ["wan"]
[[path-policy]]
class = "media"
prefer = ["wan"]
[[path-policy]]
class = "bulk"
prefer = ["wan"]
[[path-policy]]
class = "default"
prefer = ["wan"]
"#;
    for i in 0..RULES {
        let (what, action) = match i % 4 {
            0 => {
                (format!("from = [\"10.50.{i}.0/24\"]\nprotocol = \"tcp\"\ndst-port = {}", 2000 + i), "drop")
            }
            1 => (
                format!(
                    "to = [\"192.0.2.{i}/32\"]\nprotocol = \"udp\"\ndst-port = [{}, {}]",
                    3000 + i,
                    4000 + i
                ),
                "drop",
            ),
            2 => (format!("from = [\"10.51.{i}.0/24\"]\nto = [\"198.51.100.0/24\"]"), "accept"),
            _ => (
                format!(
                    "to = [\"203.0.113.{i}/32\"]\nprotocol = \"tcp\"\ndst-port = [\"{}-{}\"]",
                    5000 + i,
                    5100 + i
                ),
                "drop",
            ),
        };
        let _ = writeln!(text, "[[acl]]\nname = \"rule-{i}\"\n{what}\naction = \"{action}\"");
    }
    text += "[[acl]]\nname = \"out\"\nfrom = [\"10.0.0.0/8\"]\nto = [\"handoff:internet\"]\naction = \"accept\"\n";
    text
}

/// The same job for the kernel: conntrack, the rules, and the translation.
fn kernel_policy() -> String {
    let mut text = "table ip pop {\n chain forward { type filter hook forward priority 0; policy drop;\n  \
                    ct state established,related accept\n  ct state invalid drop\n"
        .to_owned();
    for i in 0..RULES {
        let _ = match i % 4 {
            0 => writeln!(text, "  ip saddr 10.50.{i}.0/24 tcp dport {} drop", 2000 + i),
            1 => writeln!(text, "  ip daddr 192.0.2.{i} udp dport {{ {}, {} }} drop", 3000 + i, 4000 + i),
            2 => writeln!(text, "  ip saddr 10.51.{i}.0/24 ip daddr 198.51.100.0/24 accept"),
            _ => writeln!(text, "  ip daddr 203.0.113.{i} tcp dport {}-{} drop", 5000 + i, 5100 + i),
        };
    }
    text += "  ip saddr 10.0.0.0/8 accept\n }\n chain postrouting { type nat hook postrouting priority 100; \
             oifname \"s1\" masquerade; }\n}\n";
    text
}
