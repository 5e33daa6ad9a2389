//! Must hold 4: installed, started, upgraded, removed and purged on a clean system.

use crate::container::{Container, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A point of presence with a tenant, a handoff to the internet and one to a VLAN of its own.
const APPLIANCE: &str = "site = \"fra1\"\nrole = \"pop\"\nprivate-key-file = \"keys/fra1.key\"\n\n\
    [[transport]]\nname = \"isp\"\nlisten = \"127.0.0.1:51820\"\n";
const TENANT: &str = "tenant = \"acme\"\n\n[[branch]]\nname = \"berlin\"\nprefixes = [\"10.1.0.0/24\"]\n\
    [[branch.path]]\nname = \"dsl\"\npublic-key = \"@public-key@\"\n\n\
    [[handoff]]\nname = \"internet\"\nkind = \"internet\"\nnat-pool = [\"198.51.100.0/29\"]\n\n\
    [[handoff]]\nname = \"dc\"\nkind = \"private\"\ninterface = \"dc0\"\naddress = [\"10.200.0.1/24\"]\n\
    prefixes = [\"10.200.0.0/24\"]\n\n\
    [[acl]]\nname = \"out\"\nfrom = [\"branch:berlin\"]\nto = [\"handoff:internet\", \"handoff:dc\"]\naction = \"accept\"\n";

/// The newest package there is.
pub fn package() -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian");
    let packages = fs::read_dir(&made).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let newest = packages
        .filter(|path| path.extension().is_some_and(|it| it == "deb"))
        .max_by_key(|path| fs::metadata(path).and_then(|it| it.modified()).ok());
    newest.unwrap_or_else(|| panic!("no package in {}: make package PROFILE=dev", made.display()))
}

/// Copies a package in and installs it.
pub fn install(container: &Container, package: &Path) {
    fs::copy(package, container.root().join("popgate.deb")).expect("copied");
    container.must(&["dpkg", "--install", "/popgate.deb"]);
}

/// Writes a configuration as an operator would, and starts the box.
pub fn configure_and_start(container: &Container) {
    container.must(&["ip", "link", "add", "dc0", "type", "veth", "peer", "name", "dc-far"]);
    container.write("/etc/popgate/popgate.toml", APPLIANCE);
    let line = "umask 077; popgate genkey > /etc/popgate/keys/fra1.key; popgate genkey | popgate pubkey";
    let public = container.must(&["sh", "-c", line]);
    container.write("/etc/popgate/tenants/acme.toml", &TENANT.replace("@public-key@", public.trim()));
    container.must(&["chown", "--recursive", "popgate:popgate", "/etc/popgate"]);
    let started = container.exec(&["systemctl", "start", "popgate"]);
    assert!(started.status.success(), "{}", container.journal("popgate"));
}

fn main_pid(container: &Container) -> String {
    container.must(&["systemctl", "show", "--property=MainPID", "--value", "popgate"]).trim().to_owned()
}

/// The same package under a higher version.
fn next_version(package: &Path, directory: &Path) -> PathBuf {
    let (tree, next) = (directory.join("tree"), directory.join("next.deb"));
    let run = |arguments: &[&str]| {
        let output = Command::new("dpkg-deb").args(arguments).output().expect("dpkg-deb runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    run(&["--raw-extract", &package.display().to_string(), &tree.display().to_string()]);
    let control = fs::read_to_string(tree.join("DEBIAN/control")).expect("readable");
    let line = control.lines().find(|line| line.starts_with("Version: ")).expect("it has a version");
    fs::write(tree.join("DEBIAN/control"), control.replace(line, "Version: 99.0.0-1")).expect("written");
    run(&["--root-owner-group", "--build", &tree.display().to_string(), &next.display().to_string()]);
    next
}

#[test]
fn lintian_finds_nothing_wrong_with_the_package() {
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning", "--no-tag-display-limit"]).arg(package());
    let output = lintian.output().expect("lintian runs");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn a_package_is_installed_started_upgraded_removed_and_purged_and_keeps_what_the_operator_made_until_then() {
    let container = Container::boot();
    install(&container, &package());
    // Nothing is configured, so nothing runs, and nothing has failed.
    let state =
        |unit: &str| text(&container.exec(&["systemctl", "is-active", unit]).stdout).trim().to_owned();
    assert_eq!(state("popgate"), "inactive");
    assert_eq!(container.must(&["systemctl", "is-enabled", "popgate"]).trim(), "enabled");
    assert_eq!(container.must(&["stat", "--format=%U %a", "/etc/popgate/keys"]).trim(), "popgate 700");
    for file in ["/usr/share/man/man1/popgate.1.gz", "/usr/share/bash-completion/completions/popgate"] {
        assert!(container.has(file), "{file}");
    }

    configure_and_start(&container);
    let show = || container.must(&["popgate", "show", "status", "--json"]);
    assert!(show().contains("\"site\":\"fra1\""), "{}", show());
    // The tenant's handoff is in a namespace of its own, which only the service sees.
    let pid = main_pid(&container);
    let within = [
        "nsenter",
        "--mount",
        "--target",
        &pid,
        "ip",
        "netns",
        "exec",
        "pg-fra1-acme-dc",
        "ip",
        "-brief",
        "link",
    ];
    container.eventually("the handoff is in the tenant's namespace", |it| {
        text(&it.exec(&within).stdout).contains("dc0")
    });
    // A link for the first user can be made beside the running box, and the box can still write what it keeps of users.
    container.must(&["popgate", "setup-link"]);
    let foreign = ["find", "/var/lib/popgate", "!", "-user", "popgate"];
    assert_eq!(container.must(&foreign), "", "files that are not the service's");
    // A commit is written out into the configuration by the service's own user.
    container.must(&["sh", "-c", "sed -i '1i # night shift' /etc/popgate/tenants/acme.toml"]);
    container.must(&["popgate", "commit"]);
    container.must(&["popgate", "rollback", "1"]);
    assert!(!container.must(&["cat", "/etc/popgate/tenants/acme.toml"]).contains("night shift"));
    container.must(&["systemctl", "reload", "popgate"]);

    let directory = tempfile::tempdir().expect("a directory");
    let next = next_version(&package(), directory.path());
    install(&container, &next);
    container.eventually("the new one runs", |container| {
        state("popgate") == "active" && main_pid(container) != pid
    });
    assert!(container.must(&["dpkg-query", "--show", "popgate"]).contains("99.0.0"));
    assert!(show().contains("\"site\":\"fra1\""));

    let kept = ["/etc/popgate/popgate.toml", "/etc/popgate/keys/fra1.key", "/var/lib/popgate/admin-token"];
    container.must(&["dpkg", "--remove", "popgate"]);
    assert_eq!(state("popgate"), "inactive");
    assert!(!container.has("/usr/bin/popgate") && !container.has("/usr/lib/systemd/system/popgate.service"));
    kept.iter().for_each(|file| assert!(container.has(file), "{file} has gone"));

    // Installed again, it goes on as it was.
    install(&container, &package());
    container.eventually("it runs again", |_| state("popgate") == "active");
    container.must(&["dpkg", "--purge", "popgate"]);
    assert!(!container.has("/etc/popgate") && !container.has("/var/lib/popgate"));
    assert_eq!(text(&container.exec(&["systemctl", "--failed", "--quiet", "--no-legend"]).stdout), "");
}

#[test]
fn a_box_whose_forwarding_thread_is_stuck_is_started_anew() {
    let container = Container::boot();
    install(&container, &package());
    let soon = "[Service]\nWatchdogSec=3s\nTimeoutAbortSec=2s\n";
    container.write("/etc/systemd/system/popgate.service.d/soon.conf", soon);
    container.must(&["systemctl", "daemon-reload"]);
    configure_and_start(&container);
    // It is not started anew for nothing.
    let pid = main_pid(&container);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(main_pid(&container), pid, "{}", container.journal("popgate"));

    let mut stuck = stick(&container);
    container.eventually("it is started anew", |container| {
        let now = main_pid(container);
        now != pid && now != "0"
    });
    // It has ended with whom it held.
    let _ = stuck.kill();
    let _ = stuck.wait();
    assert!(container.journal("popgate").contains("does not go round"), "{}", container.journal("popgate"));
    container.eventually("it serves again", |it| it.exec(&["popgate", "show", "status"]).status.success());
}

/// Holds the first worker of the container's box at its next wait for packets.
fn stick(container: &Container) -> std::process::Child {
    let thread = container.thread("popgate", "worker-0");
    let mut strace = Command::new("strace");
    strace.args([
        "-q",
        "-o",
        "/dev/null",
        "-p",
        &thread.to_string(),
        "-e",
        "trace=epoll_wait,epoll_pwait,epoll_pwait2",
    ]);
    strace.args(["-e", "inject=epoll_wait,epoll_pwait,epoll_pwait2:delay_enter=10000000"]);
    strace.spawn().expect("strace runs: it is in Debian's package strace")
}
