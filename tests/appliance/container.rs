//! A clean Debian with systemd, running in a container of systemd-nspawn: its own processes, files and network, the machine's kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the package needs, and what a Debian with it has: of what tests run in there, nothing that the package would not bring.
const PACKAGES: &str = "dbus,dnsmasq-base,iproute2,iputils-ping,nftables,systemd-sysv,udhcpc";
/// For whatever must come: many times what a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Container {
    directory: TempDir,
    nspawn: Child,
    /// Its first process, as it is called outside.
    init: u32,
}

impl Container {
    /// Boots one.
    pub fn boot() -> Container {
        assert!(rustix::process::geteuid().is_root(), "this test boots a container: it must run as root");
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        fs::create_dir(&root).expect("made");
        must(Command::new("tar").arg("-xf").arg(clean_debian()).arg("-C").arg(&root));
        let log = fs::File::create(directory.path().join("console")).expect("a file");
        let mut command = Command::new("systemd-nspawn");
        command.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]);
        command.args(["--console=read-only", "--capability=CAP_NET_ADMIN"]);
        command.arg("--directory").arg(&root).stdin(Stdio::null());
        let nspawn = command.stdout(log.try_clone().expect("a handle")).stderr(log).spawn();
        let nspawn = nspawn.expect("systemd-nspawn runs: it is in Debian's package systemd-container");
        let mut container = Container { directory, nspawn, init: 0 };
        container.await_init();
        container.eventually("it has booted", |container| {
            let said = container.exec(&["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&text(&said.stdout).trim())
        });
        // As udev makes it elsewhere, for everybody: there is none in a container.
        container.must(&["chmod", "666", "/dev/net/tun"]);
        container
    }

    fn await_init(&mut self) {
        let nspawn = self.nspawn.id();
        let children = format!("/proc/{nspawn}/task/{nspawn}/children");
        let begin = Instant::now();
        while self.init == 0 {
            assert!(begin.elapsed() < PATIENCE, "no first process: {}", self.console());
            let listed = fs::read_to_string(&children).unwrap_or_default();
            let is_init =
                |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it == "systemd\n");
            self.init = listed
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .find(is_init)
                .unwrap_or_default();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where its files are outside.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn console(&self) -> String {
        fs::read_to_string(self.directory.path().join("console")).unwrap_or_default()
    }

    /// A file in it; with what is needed of folders.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// Whether there is such a file in it.
    pub fn has(&self, path: &str) -> bool {
        self.root().join(path.trim_start_matches('/')).exists()
    }

    /// A command in it, to be run.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--root", "--wd", "--target", &self.init.to_string(), "--"]);
        command.args([
            "/usr/bin/env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        command.args(line).stdin(Stdio::null());
        command
    }

    /// Runs a command in it to its end.
    pub fn exec(&self, line: &[&str]) -> Output {
        self.command(line).output().expect("nsenter runs")
    }

    /// Runs one that must succeed; what it printed.
    pub fn must(&self, line: &[&str]) -> String {
        let output = self.exec(line);
        assert!(output.status.success(), "{line:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// A thread in it, as it is called outside, by its name and its process's.
    pub fn thread(&self, process: &str, name: &str) -> u32 {
        let netns = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let its_own = netns(&self.init.to_string());
        let comm = |path: String| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let entries = |path: &str| -> Vec<String> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let pid = entries("/proc")
            .into_iter()
            .find(|pid| comm(format!("/proc/{pid}/comm")) == process && netns(pid) == its_own);
        let pid = pid.unwrap_or_else(|| panic!("no process is called {process}"));
        let tasks = entries(&format!("/proc/{pid}/task"));
        let task = tasks.into_iter().find(|task| comm(format!("/proc/{pid}/task/{task}/comm")) == name);
        task.and_then(|task| task.parse().ok()).unwrap_or_else(|| panic!("{process} has no thread {name}"))
    }

    /// What its log has of a unit.
    pub fn journal(&self, unit: &str) -> String {
        self.must(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// Waits for a condition with a deadline that is far beyond what it takes.
    pub fn eventually(&self, what: &str, mut condition: impl FnMut(&Container) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            if begin.elapsed() > PATIENCE {
                let journal = text(&self.exec(&["journalctl", "--no-pager", "--lines=100"]).stdout);
                panic!("not within {PATIENCE:?}: {what}\n{}\n{journal}", self.console());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The first process of a namespace takes all others of it along.
        let _ = Command::new("kill").args(["-KILL", &self.init.to_string()]).status();
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An archive of it, made once for each list of packages.
fn clean_debian() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/appliance");
    fs::create_dir_all(&made).expect("made");
    let archive = made.join(format!("debian-{}.tar", PACKAGES.replace(',', "+")));
    if !archive.exists() {
        // Under another name until it is whole.
        let unfinished = made.join("unfinished.tar");
        let mut mmdebstrap = Command::new("mmdebstrap");
        let options = format!("--include={PACKAGES}");
        must(mmdebstrap.args(["--quiet", "--variant=minbase", &options, "bookworm"]).arg(&unfinished));
        fs::rename(unfinished, &archive).expect("renamed");
    }
    archive
}

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}
