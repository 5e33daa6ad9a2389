//! The lab itself, with plain hosts: links, impairments, cuts, WireGuard peers, and that nothing of it stays.
//! Needs root, `ip`, `ping`, `wg` and `wireguard-go`.

use popgate::lab::impair::{Change, Impairment, Wire};
use popgate::lab::topology::Directions;
use popgate::lab::{Lab, LabOptions, Topology, netns, prefix};
use popgate::model::Instant as LabInstant;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Lets one run of these tests go at a time on this machine: the labs' names are the same in every checkout.
fn alone() {
    static LOCK: OnceLock<fs::File> = OnceLock::new();
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests make network namespaces: they must run as root"
    );
    LOCK.get_or_init(|| {
        let file =
            fs::File::create(std::env::temp_dir().join("popgate-lab-tests.lock")).expect("a lock file");
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("the lock");
        file
    });
}

/// Two hosts; `LINK` is what stands in the link between them besides its ends and addresses.
fn pair(name: &str, link: &str) -> String {
    format!(
        r#"
name = "{name}"
[[node]]
name = "one"
kind = "host"
[[node]]
name = "two"
kind = "host"
[[link]]
name = "cable"
ends = ["one:eth0", "two:eth0"]
addresses = {{ one = ["10.0.0.1/24", "fd00::1/64"], two = ["10.0.0.2/24", "fd00::2/64"] }}
{link}
"#
    )
}

fn up(text: &str) -> (Lab, TempDir) {
    alone();
    let work_dir = tempfile::tempdir().expect("a directory");
    let topology = Topology::parse(text, "test.toml", Path::new("")).expect("a topology");
    let options = LabOptions::new(work_dir.path().join("work"), env!("CARGO_BIN_EXE_popgate"));
    (Lab::up(topology, options).expect("the lab comes up"), work_dir)
}

/// Waits 5 s for the last answer unless `options` say otherwise.
fn ping(lab: &Lab, from: &str, to: &str, options: &[&str]) -> Output {
    let command = ["ping", "-n", "-W", "5", to].into_iter().chain(options.iter().copied());
    lab.run(from, command).expect("ping runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits for a condition with a deadline that is far beyond what it takes.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command that this run of the tests can tell from anybody else's.
fn marked_sleep(number: u32) -> String {
    format!("sleep {number}.{}", std::process::id())
}

/// The command lines that speak of `mark`, but our own.
fn processes_mentioning(mark: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let own = std::process::id().to_string();
    entries
        .filter(|entry| entry.file_name().to_string_lossy() != own)
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(mark))
        .collect()
}

#[test]
fn hosts_ping_each_other_across_a_bare_veth_pair_in_both_families() {
    let (lab, _directory) = up(&pair("tveth", ""));
    for address in ["10.0.0.2", "fd00::2"] {
        let output = ping(&lab, "one", address, &["-c", "1"]);
        assert!(output.status.success(), "{output:?}");
    }
    let refused = lab.link("cable").cut().expect_err("a bare pair cannot be cut").to_string();
    assert!(refused.contains("cuttable = true"), "{refused}");
}

#[test]
fn a_router_forwards_between_hosts_and_answers_when_the_ttl_runs_out() {
    let (lab, _directory) = up(r#"
name = "trouter"
[[node]]
name = "one"
kind = "host"
routes = { default = "10.0.1.1", "::/0" = "fd00:1::1" }
[[node]]
name = "middle"
kind = "router"
addresses = ["192.0.2.1/32"]
[[node]]
name = "two"
kind = "host"
routes = { "10.0.1.0/24" = "10.0.2.1", "fd00:1::/64" = "eth0" }
[[link]]
name = "left"
ends = ["one:eth0", "middle:left"]
addresses = { one = ["10.0.1.2/24", "fd00:1::2/64"], middle = ["10.0.1.1/24", "fd00:1::1/64"] }
[[link]]
name = "right"
ends = ["middle:right", "two:eth0"]
cuttable = true
addresses = { two = ["10.0.2.2/24"], middle = ["10.0.2.1/24"] }
"#);
    assert!(ping(&lab, "one", "10.0.2.2", &["-c", "1"]).status.success());
    assert!(ping(&lab, "one", "192.0.2.1", &["-c", "1"]).status.success());
    let expired = stdout(&ping(&lab, "one", "10.0.2.2", &["-c", "1", "-t", "1"]));
    assert!(expired.contains("From 10.0.1.1") && expired.contains("Time to live exceeded"), "{expired}");
}

#[test]
fn an_impaired_link_takes_its_delay_each_way() {
    let (lab, _directory) = up(&pair("tdelay", "delay = '20ms'\n[link.reverse]\ndelay = '30ms'"));
    let output = stdout(&ping(&lab, "one", "10.0.0.2", &["-c", "5", "-i", "0.01"]));
    // rtt min/avg/max/mdev = 50.1/50.2/50.3/0.1 ms
    let least = output.rsplit_once(" = ").and_then(|(_, times)| times.split('/').next()?.parse::<f64>().ok());
    assert!(least.expect("a time") >= 50.0, "{output}");
}

#[test]
fn an_impaired_link_loses_what_its_seed_says() {
    let (lab, _directory) = up(&pair("tloss", "seed = 7\n[link.forward]\nloss = '10%'"));
    let output = stdout(&ping(&lab, "one", "10.0.0.2", &["-q", "-c", "300", "-i", "0.002", "-W", "1"]));
    let received: u64 = output
        .split(", ")
        .find_map(|part| part.strip_suffix(" received")?.parse().ok())
        .unwrap_or_else(|| panic!("{output}"));
    let [forward, reverse] = lab.link("cable").report().counters.expect("counters");
    // The kernel sends frames besides (ARP, neighbour discovery); each has its draw as well.
    let mut twin = Wire::new(
        toml::from_str::<Change>("loss = '10%'").expect("a change").apply(&Impairment::default()),
        7,
    );
    (0..forward.offered).for_each(|_| twin.offer(b"", LabInstant::default()));
    assert_eq!(forward.lost, twin.counters.lost, "{forward:?}");
    assert_eq!((reverse.lost, reverse.refused), (0, 0));
    let missing = 300 - received;
    assert!(missing > 0 && missing <= forward.lost, "{missing} of {forward:?}: {output}");
}

#[test]
fn a_rate_holds_a_download_back() {
    let (lab, _directory) = up(&pair("trate", "rate = '8Mbps'"));
    let begin = lab
        .enter("two", || {
            let listener = std::net::TcpListener::bind("10.0.0.2:80").expect("a listener");
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                stream.write_all(&[0; 200_000]).expect("sent");
            });
            Instant::now()
        })
        .expect("entered");
    let got = lab.enter("one", || {
        let mut stream = TcpStream::connect("10.0.0.2:80").expect("connected");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("received");
        bytes.len()
    });
    assert_eq!(got.expect("entered"), 200_000);
    // 200,000 bytes are 0.2 s at 8 Mbps.
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
}

#[test]
fn a_cut_stops_traffic_without_taking_carrier_and_healing_restores_it() {
    let (lab, _directory) = up(&pair("tcut", "cuttable = true"));
    let gets_through = || ping(&lab, "one", "10.0.0.2", &["-c", "1", "-W", "0.2"]).status.success();
    let carrier = || {
        let output = lab.run("one", ["ip", "-br", "link", "show", "eth0"]).expect("ip runs");
        stdout(&output).contains("LOWER_UP")
    };
    let link = lab.link("cable");
    assert!(gets_through() && carrier());
    link.cut().expect("cut");
    assert!(!gets_through());
    assert!(carrier(), "a silent cut must not show at the interface");
    assert!(link.report().cut && link.report().counters.expect("counters")[0].cut > 0);
    link.heal().expect("healed");
    assert!(gets_through() && carrier());
    // One way only: questions arrive, and their answers do not.
    let before = link.report().counters.expect("counters");
    link.cut_way(Directions::Reverse).expect("cut");
    assert!(!gets_through());
    let after = link.report().counters.expect("counters");
    assert_eq!(after[0].cut, before[0].cut);
    assert!(link.report().cut && after[0].delivered > before[0].delivered && after[1].cut > before[1].cut);
    link.heal().expect("healed");
    assert!(gets_through());
    // A brownout in one direction, and back.
    link.impair(Directions::Reverse, toml::from_str("loss = '100%'").expect("a change")).expect("impaired");
    assert!(!gets_through());
    link.heal().expect("healed");
    assert!(gets_through());
}

#[test]
fn an_event_happens_by_itself() {
    let text = pair("tevent", "") + "[[event]]\nat = '200ms'\nlink = 'cable'\naction = 'cut'\n";
    let (lab, _directory) = up(&text);
    eventually("the link is cut", || lab.link("cable").report().cut);
}

#[test]
fn stock_wireguard_peers_talk_to_each_other() {
    let peer = |other: &str, endpoint: &str, address: &str| {
        format!(
            r#"
[[node.peer]]
public-key = "@public-key:{other}@"
preshared-key = "@preshared-key:both@"
allowed-ips = ["{address}/32"]
{endpoint}
"#
        )
    };
    let text = format!(
        r#"
name = "twg"
[[node]]
name = "two"
kind = "wireguard"
listen-port = 51820
addresses = ["10.1.0.2/32"]
routes = {{ "10.1.0.1/32" = "wireguard" }}
{}
[[node]]
name = "one"
kind = "wireguard"
addresses = ["10.1.0.1/32"]
routes = {{ "10.1.0.2/32" = "wireguard" }}
{}
[[link]]
name = "cable"
ends = ["one:eth0", "two:eth0"]
addresses = {{ one = ["192.0.2.1/24"], two = ["192.0.2.2/24"] }}
"#,
        peer("one", "", "10.1.0.1"),
        peer("two", "endpoint = '192.0.2.2:51820'\npersistent-keepalive = '25s'", "10.1.0.2"),
    );
    let (lab, _directory) = up(&text);
    let output = ping(&lab, "one", "10.1.0.2", &["-c", "3", "-i", "0.1"]);
    assert!(output.status.success(), "{output:?}");
    let interface = lab.node("two").wireguard_interface();
    let transfer = stdout(&lab.run("two", ["wg", "show", &interface, "transfer"]).expect("wg runs"));
    assert!(!transfer.trim_end().ends_with("\t0\t0"), "{transfer}");
    // Its socket is where `wg` looks for it, and goes with the lab.
    let socket = Path::new("/var/run/wireguard").join(format!("{interface}.sock"));
    assert!(socket.exists());
    drop(lab);
    assert!(!socket.exists());
}

#[test]
fn a_published_port_is_reached_from_outside_and_files_are_served() {
    let text = r#"
name = "tpublish"
[[node]]
name = "web"
kind = "host"
files = { "index.html" = "hello from inside" }
run = ["exec python3 -u -m http.server 80"]
publish = { "127.0.0.1:0" = "127.0.0.1:80" }
"#;
    let (lab, _directory) = up(text);
    let outside = lab.node("web").published("127.0.0.1:80".parse().expect("an address")).expect("published");
    eventually("the page is there", || {
        let Ok(mut stream) = TcpStream::connect(outside) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let mut answer = String::new();
        let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok()
            && answer.contains("hello from inside")
    });
}

#[test]
fn going_down_leaves_no_namespace_process_or_file() {
    let (polite, stubborn) = (marked_sleep(7331), marked_sleep(7334));
    let text = pair("tdown", "cuttable = true")
        + &format!(
            r#"
[[node]]
name = "busy"
kind = "wireguard"
run = ["while {polite}; do :; done", "trap '' TERM; while :; do sleep 0.2; done; : {stubborn}"]
"#
        );
    let (lab, directory) = up(&text);
    assert_eq!(netns::with_prefix(&prefix("tdown")).len(), 3);
    eventually("the shell and what it runs", || processes_mentioning(&polite).len() == 2);
    assert!(directory.path().join("work/keys/busy.key").exists());
    drop(lab);
    assert_eq!(netns::with_prefix(&prefix("tdown")), [""; 0]);
    assert_eq!(processes_mentioning(&polite), [""; 0]);
    assert_eq!(processes_mentioning(&stubborn), [""; 0], "what ignores SIGTERM is killed");
    assert!(!directory.path().join("work").exists());
    assert!(!Path::new("/run/popgate-lab/tdown.lock").exists());
}

#[test]
fn a_lab_that_cannot_come_up_says_why_and_leaves_nothing() {
    alone();
    let work_dir = tempfile::tempdir().expect("a directory");
    let start = |text: &str, popgate: &str| {
        let topology = Topology::parse(text, "test.toml", Path::new("")).expect("a topology");
        let options = LabOptions::new(work_dir.path().join("work"), popgate);
        let error = Lab::up(topology, options).err().expect("it cannot come up").to_string();
        assert_eq!(netns::with_prefix(&prefix("tfail")), [""; 0], "{error}");
        assert!(!work_dir.path().join("work").exists(), "{error}");
        error
    };
    let appliance = |config: &str| {
        format!(
            "name = \"tfail\"\n[[node]]\nname = \"box\"\nkind = \"appliance\"\nfiles = {{ \"popgate.toml\" = '{config}' }}"
        )
    };
    let error = start(&appliance("state-dir = \"/var/lib/popgate\""), "/bin/false");
    assert!(error.contains("must say `state-dir = \"@state-dir@\"`"), "{error}");
    let error = start(&appliance("state-dir = \"@statedir@\""), "/bin/false");
    assert!(error.contains("popgate.toml:1: there is no placeholder @statedir@"), "{error}");
    let error = start(&appliance("state-dir = \"@state-dir@\""), "/bin/false");
    assert!(error.contains("box ended (exit status: 1) before it was ready"), "{error}");
    let error = start(
        &(pair("tfail", "") + "[[link]]\nname = \"l\"\nends = [\"one:x\", \"two:lo\"]\n"),
        "/bin/false",
    );
    assert!(error.contains("making links"), "{error}");
}

/// Makes `STAND_IN` executable in `directory`; what its process is called besides.
fn stand_in(directory: &Path) -> (PathBuf, String) {
    use std::os::unix::fs::PermissionsExt;
    let (popgate, sleep) = (directory.join("popgate"), marked_sleep(7332));
    fs::write(&popgate, STAND_IN.replace("MARKED-SLEEP", &sleep)).expect("written");
    fs::set_permissions(&popgate, fs::Permissions::from_mode(0o755)).expect("made executable");
    (popgate, sleep)
}

/// A stand-in for the popgate binary: says what it was given, is ready, and leaves a namespace behind as popgate does.
const STAND_IN: &str = r#"#!/bin/sh
test "$1" = run || exit 2
echo "configured: $(cat "$2"/popgate.toml "$2"/tenants/acme.toml)" >&2
ip netns add "${POPGATE_NETNS_PREFIX}pg-box-acme" 2>/dev/null
ip link set eth2 netns "${POPGATE_NETNS_PREFIX}pg-box-acme" 2>/dev/null
echo starting
echo ready
exec MARKED-SLEEP
"#;

#[test]
fn an_appliance_is_rendered_started_killed_and_started_again() {
    alone();
    let directory = tempfile::tempdir().expect("a directory");
    let base = directory.path();
    let (popgate, sleep) = stand_in(base);
    fs::create_dir_all(base.join("box")).expect("made");
    fs::create_dir_all(base.join("shared")).expect("made");
    fs::write(
        base.join("box/popgate.toml"),
        "state-dir = \"@state-dir@\"\nprivate-key-file = \"@key:box@\"\n",
    )
    .expect("written");
    fs::write(base.join("shared/acme.toml"), "public-key = \"@public-key:box@\"\n").expect("written");
    let text = r#"
name = "tbox"
[[node]]
name = "box"
kind = "appliance"
config = "box"
tenants = "shared"
tenant-files = ["acme"]
[[node]]
name = "dc"
kind = "host"
[[link]]
name = "handoff"
ends = ["box:eth2", "dc:eth0"]
cuttable = true
addresses = { dc = ["10.200.0.10/24"] }
"#;
    let topology = Topology::parse(text, "test.toml", base).expect("a topology");
    let options = LabOptions::new(base.join("work"), popgate);
    let lab = Lab::up(topology, options).expect("the lab comes up");
    let log = || fs::read_to_string(lab.node("box").log()).expect("the log");
    let key = base.join("work/keys/box.key");
    assert!(log().contains(&format!("private-key-file = \"{}\"", key.display())), "{}", log());
    assert!(log().contains(&lab.node("box").state_dir().display().to_string()), "{}", log());
    assert!(!log().contains('@'), "{}", log());
    assert!(lab.start("box").expect_err("it runs").to_string().contains("is running"));
    let status = lab.kill("box", popgate::lab::Signal::KILL).expect("killed");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(lab.kill("box", popgate::lab::Signal::KILL).is_err(), "it is dead already");
    lab.start("box").expect("started");
    assert_eq!(log().matches("starting").count(), 2);
    // The namespace it made is a node like any other, the interface is in there, and both go with the lab.
    let inside = lab.run("pg-box-acme", ["ip", "-br", "link", "show", "eth2"]).expect("ip runs");
    assert!(inside.status.success(), "{inside:?}");
    drop(lab);
    assert_eq!(netns::with_prefix(&prefix("tbox")), [""; 0]);
    assert_eq!(processes_mentioning(&sleep), [""; 0]);
}

/// `popgate-lab up`, as far as it has said that it is up.
fn lab_process(file: &Path, work_dir: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_popgate-lab"))
        .arg("up")
        .arg(file)
        .arg("--dir")
        .arg(work_dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("popgate-lab runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("up;") {
        line.clear();
        assert!(lines.read_line(&mut line).expect("read") > 0, "popgate-lab ended: {:?}", child.wait());
    }
    (child, lines)
}

fn popgate_lab(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_popgate-lab")).args(arguments).output().expect("popgate-lab runs")
}

#[test]
fn after_kill_minus_nine_the_next_run_removes_what_the_dead_one_left_and_nobody_elses() {
    let (bystander, _directory) = up(&pair("tdead2", ""));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lab.toml");
    let sleep = marked_sleep(7333);
    let node = format!("[[node]]\nname = \"gone\"\nkind = \"wireguard\"\nrun = [\"exec {sleep}\"]\n");
    fs::write(&file, pair("tdead", "cuttable = true") + &node).expect("written");

    let work_dir = directory.path().join("first");
    let (mut first, _stdout) = lab_process(&file, &work_dir);
    first.kill().expect("killed");
    first.wait().expect("waited for");
    assert_eq!(netns::with_prefix(&prefix("tdead")).len(), 3, "a killed lab cannot clean up");
    // A process in the middle of an exec has no command line for a moment.
    eventually("what it ran goes on", || processes_mentioning(&sleep).len() == 1);

    // The next run has another idea of where and what.
    fs::write(&file, pair("tdead", "cuttable = true")).expect("written");
    let (mut second, _stdout) = lab_process(&file, &directory.path().join("second"));
    assert_eq!(netns::with_prefix(&prefix("tdead")).len(), 2);
    assert_eq!(processes_mentioning(&sleep), [""; 0]);
    assert!(!work_dir.exists(), "the dead lab's keys are gone");

    let path = file.to_str().expect("text");
    let third = popgate_lab(&["up", path]);
    assert!(String::from_utf8_lossy(&third.stderr).contains("already up"), "{third:?}");

    // Commands to the one that runs.
    let gets_through = || {
        let ping = ["ping", "-n", "-c", "1", "-W", "0.2", "10.0.0.2"];
        popgate_lab(&[&["exec", path, "one", "--"], &ping[..]].concat()).status.success()
    };
    assert!(gets_through());
    assert!(popgate_lab(&["cut", path, "cable"]).status.success());
    assert!(!gets_through());
    assert!(stdout(&popgate_lab(&["list", path])).contains("CUT"));
    assert!(popgate_lab(&["heal", path, "cable"]).status.success());
    assert!(gets_through());
    assert!(popgate_lab(&["impair", path, "cable", "--loss", "100%"]).status.success());
    assert!(!gets_through());
    let unknown = popgate_lab(&["cut", path, "nothing"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no link nothing"), "{unknown:?}");

    assert!(popgate_lab(&["down", path]).status.success());
    assert!(second.wait().expect("waited for").success());
    assert_eq!(netns::with_prefix(&prefix("tdead")).len(), 0);
    assert!(!directory.path().join("second").exists());
    assert_eq!(netns::with_prefix(&prefix("tdead2")).len(), 2);
    assert!(ping(&bystander, "one", "10.0.0.2", &["-c", "1"]).status.success());
}

#[test]
fn a_signal_takes_a_lab_down_in_order() {
    alone();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lab.toml");
    fs::write(&file, pair("tsignal", "")).expect("written");
    let (mut child, _stdout) = lab_process(&file, &directory.path().join("work"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    assert!(child.wait().expect("waited for").success());
    assert_eq!(netns::with_prefix(&prefix("tsignal")), [""; 0]);
    assert!(!directory.path().join("work").exists());
}

/// With a stand-in for popgate: what is under the tunnels. The tunnels have tests of their own.
#[test]
fn the_demos_underlay_reaches_the_pop_from_every_branch() {
    alone();
    let directory = tempfile::tempdir().expect("a directory");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/lab/demo.toml");
    let mut topology = Topology::read(&file).expect("a topology");
    // Beside a demo that somebody is looking at.
    topology.name = "tdemo".to_owned();
    for node in &mut topology.nodes {
        node.run.clear();
        node.publish.clear();
    }
    let options = LabOptions::new(directory.path().join("work"), stand_in(directory.path()).0);
    let lab = Lab::up(topology, options).expect("the lab comes up");
    for (from, to) in [
        ("berlin", "192.0.2.1"),
        ("berlin", "192.0.2.5"),
        ("lyon", "192.0.2.1"),
        ("site1", "192.0.2.5"),
        ("fra1", "203.0.113.80"),
        ("fra1", "2001:db8:113::80"),
        ("berlin-host", "10.1.0.1"),
        ("site1-host", "10.1.0.1"),
        ("lyon-host", "2001:db8:a:2::1"),
    ] {
        let output = ping(&lab, from, to, &["-c", "1"]);
        assert!(output.status.success(), "{from} to {to}: {output:?}");
    }
    // Berlin's two transports have nothing in common.
    lab.link("berlin-dsl").cut().expect("cut");
    assert!(!ping(&lab, "berlin", "192.0.2.1", &["-c", "1", "-W", "0.2"]).status.success());
    assert!(ping(&lab, "berlin", "192.0.2.5", &["-c", "1"]).status.success());
    // What asks for a pool's address is led to the PoP, whatever comes of it there.
    let route = |from: &str, to: &str| stdout(&lab.run(from, ["ip", "route", "get", to]).expect("ip runs"));
    assert!(route("isp-a", "198.51.100.9").contains("via 192.0.2.1 dev fra1"));
    assert!(route("isp-a", "2001:db8:a:1::10").contains("dev fra1"));
}

#[test]
fn a_signal_on_the_way_up_takes_down_what_there_is_so_far() {
    use std::os::unix::fs::PermissionsExt;
    alone();
    let directory = tempfile::tempdir().expect("a directory");
    let popgate = directory.path().join("popgate");
    fs::write(&popgate, "#!/bin/sh\ntouch begun\nexec sleep 60\n").expect("written");
    fs::set_permissions(&popgate, fs::Permissions::from_mode(0o755)).expect("made executable");
    let file = directory.path().join("lab.toml");
    let node = "[[node]]\nname = \"box\"\nkind = \"appliance\"\n\
                files = { \"popgate.toml\" = 'state-dir = \"@state-dir@\"' }\n";
    fs::write(&file, pair("tabort", "") + node).expect("written");
    let work_dir = directory.path().join("work");
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgate-lab"));
    command.arg("up").arg(&file).arg("--dir").arg(&work_dir).arg("--popgate").arg(&popgate);
    let child = command.stderr(Stdio::piped()).spawn().expect("popgate-lab runs");
    eventually("the appliance has begun", || work_dir.join("nodes/box/begun").exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    let output = child.wait_with_output().expect("waited for");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
    assert_eq!(netns::with_prefix(&prefix("tabort")), [""; 0]);
    assert!(!work_dir.exists());
}
