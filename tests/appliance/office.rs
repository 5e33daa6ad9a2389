//! A point of presence as an operator has set it up, and its branch, which is stock WireGuard outside: what the tests of updates
//! and of power cuts have in the machine.

use crate::container::text;
use crate::machine::{Disk, must};
use crate::network::Network;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const POPGATE: &str = env!("CARGO_BIN_EXE_popgate");
/// The service's user in the image (appliance-image/base).
pub const SERVICE: u32 = 900;

/// What the tenant's traffic is translated to.
pub const POOL: &str = "198.51.100.0/29";

const APPLIANCE: &str = "site = \"fra1\"\nrole = \"pop\"\nprivate-key-file = \"keys/fra1.key\"\nworkers = 1\n\n\
    [[transport]]\nname = \"isp\"\nlisten = \"0.0.0.0:51820\"\n\n\
    [admin]\ntls-listen = \"0.0.0.0:443\"\n\n[flow-history]\nkeep = \"1d\"\n\n[export]\nactive-timeout = \"1s\"\n\n\
    [[export.collector]]\nname = \"outside\"\naddress = \"192.0.2.1:4739\"\n";
const TENANT: &str = "tenant = \"acme\"\n\n[[branch]]\nname = \"berlin\"\nprefixes = [\"10.1.0.0/24\"]\n\
    [[branch.path]]\nname = \"dsl\"\npublic-key = \"@public-key@\"\n\n\
    [[handoff]]\nname = \"internet\"\nkind = \"internet\"\nnat-pool = [\"@pool@\"]\n\n\
    [[acl]]\nname = \"out\"\nto = [\"handoff:internet\"]\naction = \"accept\"\n";

/// What an operator has made for a machine, and needs to talk to it at an address.
pub struct Office {
    directory: TempDir,
    address: String,
    token: String,
    /// Of the tenant's file, as it was at first.
    pub policy: String,
}

impl Office {
    /// Makes keys, configuration and an API token: the users' file is made by a popgate that runs for a moment outside.
    pub fn new(network: &Network, address: &str) -> Office {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |path: &str| directory.path().join(path);
        for folder in ["outside/keys", "outside/tenants", "var/etc", "var/lib/popgate"] {
            fs::create_dir_all(at(folder)).expect("made");
        }
        let key = |name: &str| {
            let made =
                Command::new(POPGATE).arg("genkey").stderr(Stdio::null()).output().expect("popgate runs");
            fs::write(at(name), made.stdout).expect("written");
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).expect("ours");
            let input = fs::File::open(at(name)).expect("opens");
            let public = Command::new(POPGATE).arg("pubkey").stdin(input).output().expect("popgate runs");
            text(&public.stdout).trim().to_owned()
        };
        let pop = key("outside/keys/fra1.key");
        let policy = TENANT.replace("@public-key@", &key("branch.key")).replace("@pool@", POOL);
        fs::write(at("outside/tenants/acme.toml"), &policy).expect("written");
        let state = at("state");
        let text_outside = format!(
            "state-dir = \"{}\"\n{}",
            state.display(),
            APPLIANCE.replace("0.0.0.0:443", "127.0.0.1:443")
        );
        fs::write(at("outside/popgate.toml"), text_outside).expect("written");
        let token = make_token(network, &at("outside"), &state);

        fs::copy(state.join("users.db"), at("var/lib/popgate/users.db")).expect("copied");
        fs::rename(at("outside"), at("var/etc/popgate")).expect("renamed");
        fs::write(at("var/etc/popgate/popgate.toml"), APPLIANCE).expect("written");
        let owner = format!("{SERVICE}:{SERVICE}");
        let chown = Command::new("chown")
            .args(["--recursive", &owner])
            .args([at("var/etc/popgate"), at("var/lib/popgate")])
            .status();
        assert!(chown.expect("chown runs").success());
        for private in ["var/etc/popgate", "var/lib/popgate"] {
            fs::set_permissions(at(private), fs::Permissions::from_mode(0o700)).expect("ours");
        }

        let tunnel = format!(
            "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {pop}\nEndpoint = {address}:51820\nAllowedIPs = 0.0.0.0/0\n\
             PersistentKeepalive = 5\n",
            fs::read_to_string(at("branch.key")).expect("readable").trim()
        );
        fs::write(at("tunnel.conf"), tunnel).expect("written");
        Office { directory, address: address.to_owned(), token, policy }
    }

    /// A disk with all that on it.
    pub fn disk(&self) -> Disk {
        Disk::new().with_state(&self.directory.path().join("var"))
    }

    /// The same, with files in the folder that the updater watches.
    pub fn disk_with(&self, files: &[&Path]) -> Disk {
        let folder = self.directory.path().join("var/lib/popgate/update");
        fs::create_dir_all(&folder).expect("made");
        for file in files {
            fs::copy(file, folder.join(file.file_name().expect("a name"))).expect("copied");
        }
        let owner = format!("{SERVICE}:{SERVICE}");
        must(Command::new("chown").args(["--recursive", &owner]).arg(&folder));
        let disk = self.disk();
        fs::remove_dir_all(&folder).expect("removed");
        disk
    }

    /// Brings the branch up: 10.1.0.1, whose way to 203.0.113.0/24 is the tunnel.
    pub fn start_branch(&self, network: &Network) {
        // It goes on in the background, and ends with its interface.
        network.must(&["wireguard-go", "wg0"]);
        network.must(&[
            "wg",
            "setconf",
            "wg0",
            &self.directory.path().join("tunnel.conf").display().to_string(),
        ]);
        network.must(&["ip", "address", "add", "10.1.0.1/24", "dev", "wg0"]);
        network.must(&["ip", "link", "set", "wg0", "up"]);
        network.must(&["ip", "route", "add", "203.0.113.0/24", "dev", "wg0"]);
    }

    /// The answer's status and what it says: `None` where there is none.
    pub fn ask(
        &self,
        network: &Network,
        method: &str,
        path: &str,
        tag: &str,
        body: &Value,
    ) -> Option<(u16, Value)> {
        let (tag, body) = (format!("If-Match: \"{tag}\""), body.to_string());
        let with = if method == "GET" { &[][..] } else { &["-H", &tag, "-d", &body] };
        self.curl(network, method, path, &[&["-m", "20"], with].concat())
    }

    /// Sends an update to it.
    pub fn upload(&self, network: &Network, update: &Path, query: &str) -> Option<(u16, Value)> {
        let file = update.display().to_string();
        // A machine that is emulated opens a few megabytes a second.
        self.curl(network, "POST", &format!("update{query}"), &["-m", "300", "-T", &file])
    }

    fn curl(&self, network: &Network, method: &str, path: &str, with: &[&str]) -> Option<(u16, Value)> {
        let url = format!("https://{}/api/v1/{path}", self.address);
        let header = format!("Authorization: Bearer {}", self.token);
        let curl = ["curl", "-sSk", "-w", "\n%{http_code}", "-X", method, "-H", &header, &url];
        let output = network.exec(&[&curl, with].concat());
        let told = text(&output.stdout);
        let (body, status) = told.rsplit_once('\n')?;
        let status = status.parse().ok().filter(|status| *status != 0)?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    pub fn get(&self, network: &Network, path: &str) -> Option<Value> {
        let (status, told) = self.ask(network, "GET", path, "", &Value::Null)?;
        (status == 200).then_some(told)
    }

    /// The tenant's policy that is in force.
    pub fn policy_in_force(&self, network: &Network) -> Option<String> {
        let texts = self.get(network, "config/texts")?;
        texts["texts"]["tenants/acme.toml"].as_str().map(str::to_owned)
    }

    /// Commits another policy: whether it was said to be in force. `None` where there was no answer.
    pub fn commit(&self, network: &Network, policy: &str) -> Option<bool> {
        let candidate = "config/candidate?scope=tenant:acme";
        let tag = self.get(network, candidate)?["tag"].as_str()?.to_owned();
        let (put, _) = self.ask(network, "PUT", candidate, &tag, &json!({ "text": policy }))?;
        if put != 200 {
            return Some(false);
        }
        let (committed, _) =
            self.ask(network, "POST", "config/commit", "", &json!({ "source": "tenant:acme" }))?;
        Some(committed == 200)
    }
}

/// Runs a box until it has made an owner's API token.
fn make_token(network: &Network, configuration: &Path, state: &Path) -> String {
    let log = fs::File::create(configuration.with_extension("log")).expect("a file");
    let mut run = network.command(&[POPGATE, "run"]);
    run.arg(configuration).stdout(log.try_clone().expect("a handle")).stderr(log);
    let mut popgate = run.env("POPGATE_NETNS_PREFIX", network.name()).spawn().expect("popgate runs");
    let begin = Instant::now();
    let token = loop {
        let mut add = network.command(&[
            POPGATE,
            "tokens",
            "add",
            "tests",
            "--role",
            "owner",
            "--expires",
            "10d",
            "--token-file",
        ]);
        let output = add.arg(state.join("admin-token")).output().expect("popgate runs");
        if output.status.success() {
            break text(&output.stdout).trim().to_owned();
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "no token: {}{}",
            text(&output.stderr),
            fs::read_to_string(configuration.with_extension("log")).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    let pid = rustix::process::Pid::from_child(&popgate);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    popgate.wait().expect("ours");
    token
}
