//! A change at night: compared, tried on the flows there are, put in force, taken back when nobody confirms it or the box is
//! worse off, across kills and reboots. All by the command line, as an engineer would.

use crate::branches::is_measured;
use crate::calls::{Exchange, Kind};
use crate::figures::{Figure, Where, percentile};
use crate::hosts::Server;
use crate::large;
use crate::reload::edit;
use crate::world::{POPGATE, World, eventually, need_program, node, stderr, stdout, template};
use popgate::control::commits::ConfigState;
use popgate::control::revisions::Revision;
use popgate::lab::Signal;
use popgate::pipeline::report::PathState;
use rustix::process::{Pid, kill_process};
use serde::Deserialize;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ACME: &str = "tenants/acme.toml";
/// Telnet is refused with it in front of all rules, and nothing else changes.
const COMMENT: &str = "# night shift\n";

/// What a verb says, and that it was done.
fn verb(world: &World, node: &str, what: &[&str]) -> String {
    world.ask(node, what)
}

/// Why a verb was not done.
fn refusal(world: &World, node: &str, what: &[&str]) -> String {
    let token_file = world.node(node).state_dir().join("admin-token");
    let command = world.node(node).command(POPGATE);
    let output = command.args(what).arg("--token-file").arg(token_file).output().expect("popgate runs");
    assert_eq!(output.status.code(), Some(1), "popgate {what:?} was done: {}", stdout(&output));
    stderr(&output)
}

fn get<T: for<'de> Deserialize<'de>>(world: &World, node: &str, path: &str) -> T {
    let token = fs::read_to_string(world.node(node).state_dir().join("admin-token")).expect("a token");
    let header = format!("Authorization: Bearer {}", token.trim());
    let url = format!("http://127.0.0.1:8443/api/v1/{path}");
    let body = world.must(node, &["curl", "-sS", "--fail", "-H", &header, &url]);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

fn state(world: &World, node: &str) -> ConfigState {
    get(world, node, "config")
}

fn revision(world: &World, node: &str) -> u64 {
    state(world, node).revision.expect("one is in force").number
}

fn revisions(world: &World, node: &str) -> Vec<Revision> {
    #[derive(Deserialize)]
    struct Revisions {
        revisions: Vec<Revision>,
    }
    get::<Revisions>(world, node, "config/revisions").revisions
}

fn text(world: &World, node: &str, file: &str) -> String {
    fs::read_to_string(world.node(node).config_dir().join(file)).expect("readable")
}

fn audit(world: &World, node: &str) -> String {
    let state_dir = world.node(node).state_dir();
    let command = world.node(node).command(POPGATE);
    let verified =
        command.args(["audit", "verify", "--state-dir"]).arg(state_dir).output().expect("popgate runs");
    assert!(verified.status.success(), "the audit log: {}", stderr(&verified));
    verb(world, node, &["audit", "show"])
}

#[test]
fn a_change_is_compared_tried_confirmed_or_taken_back_and_written_down() {
    let world = World::changed("ecommit", &["berlin", "berlin-host"], |topology| {
        let fra1 = node(topology, "fra1");
        let text = fra1.files.remove("popgate.toml").unwrap_or_else(|| template("fra1/popgate.toml"));
        let text = format!("{text}\n[audit]\nsyslog = \"127.0.0.1:5514\"\n");
        fra1.files.insert("popgate.toml".to_owned(), text);
    });
    let heard = world.node("fra1").directory().join("syslog");
    let to_file = format!("OPEN:{},creat,append", heard.display());
    let collector = world.spawn("fra1", ["socat", "-u", "UDP-RECV:5514,bind=127.0.0.1", &to_file]);
    let _collector = collector.expect("socat runs");
    eventually("the collector listens", || world.must("fra1", &["ss", "-Hunl"]).contains("127.0.0.1:5514"));
    world.await_ping("berlin-host", "203.0.113.80");
    let before = text(&world, "fra1", ACME);
    assert_eq!(verb(&world, "fra1", &["compare"]), "");
    assert_eq!(revision(&world, "fra1"), 1);

    // The rule for the web goes, while somebody uses it.
    let curl = ["curl", "-sS", "--max-time", "5", "-o", "/dev/null", "http://203.0.113.80/"];
    let _ = world.exec("berlin-host", &curl);
    let deny = "[[acl]]\nname = \"night\"\naction = \"drop\"\nprotocol = \"tcp\"\ndst-port = 80\n\n";
    edit(&world, "fra1", ACME, |text| text.replacen("[[acl]]", &format!("{deny}[[acl]]"), 1));
    let changed = text(&world, "fra1", ACME);
    let compared = verb(&world, "fra1", &["compare"]);
    assert!(
        compared.contains("--- tenants/acme.toml") && compared.contains("+name = \"night\""),
        "{compared}"
    );
    assert_eq!(state(&world, "fra1").edited, [ACME]);
    let dry = verb(&world, "fra1", &["dry-run"]);
    assert!(
        dry.contains("DROPPED") && dry.contains("drop by night") && dry.contains("203.0.113.80:80"),
        "{dry}"
    );

    // Nobody confirms it.
    let said = verb(&world, "fra1", &["commit", "--confirm", "3s", "--comment", "ticket 4711"]);
    assert!(said.contains("revision 2 is in force") && said.contains("taken back in"), "{said}");
    assert!(refusal(&world, "fra1", &["commit"]).contains("still to be confirmed"));
    eventually("it is taken back", || revision(&world, "fra1") == 3);
    assert_eq!(text(&world, "fra1", ACME), before);
    assert_eq!(verb(&world, "fra1", &["compare"]), "");
    assert!(refusal(&world, "fra1", &["confirm"]).contains("nothing is to be confirmed"));

    // What was taken back is not lost, and somebody confirms it this time.
    let said = verb(&world, "fra1", &["rollback", "1", "--confirm", "60s"]);
    assert!(said.contains("revision 4 is in force"), "{said}");
    assert_eq!(text(&world, "fra1", ACME), changed);
    assert_eq!(verb(&world, "fra1", &["confirm"]), "revision 4 stays\n");
    assert_eq!(state(&world, "fra1").unconfirmed, None);

    let listed = verb(&world, "fra1", &["revisions"]);
    assert!(listed.contains("ticket 4711") && listed.contains("not confirmed"), "{listed}");
    let audit = audit(&world, "fra1");
    for part in ["commit", "revert", "confirm", "back to revision 1: it was not confirmed in time", "+6 -0"] {
        assert!(audit.contains(part), "{part}: {audit}");
    }
    // And elsewhere, where nobody who has the box can change it: the last entry's hash is the log's.
    let log = fs::read_to_string(world.node("fra1").state_dir().join("audit.log")).expect("readable");
    let (last, _) = log.lines().last().and_then(|line| line.split_once(' ')).expect("an entry");
    eventually("the collector has the last entry", || {
        fs::read_to_string(&heard)
            .is_ok_and(|heard| heard.contains(&format!("revision=\"4\" hash=\"{last}\"]")))
    });
}

#[test]
fn a_candidate_is_asked_what_it_would_do_to_a_flow_and_a_session_that_runs_is_ended() {
    let world = World::up("eclear", &["berlin", "berlin-host"]);
    world.await_ping("berlin-host", "203.0.113.80");
    let explain = |of: &[&str]| {
        let flow = ["explain", "--tenant", "acme", "--from", "10.1.0.10", "--to", "203.0.113.80:80"];
        verb(&world, "fra1", &[&flow, of].concat())
    };
    let deny = "[[acl]]\nname = \"night\"\naction = \"drop\"\nprotocol = \"tcp\"\ndst-port = 80\n\n";
    edit(&world, "fra1", ACME, |text| text.replacen("[[acl]]", &format!("{deny}[[acl]]"), 1));
    assert!(explain(&[]).ends_with("accept\n"), "{}", explain(&[]));
    assert!(explain(&["--of", "files"]).ends_with("drop: acl-dropped\n"), "{}", explain(&["--of", "files"]));

    let pinged = |world: &World| world.sessions("fra1").iter().filter(|it| it.protocol == "icmp").count();
    assert!(pinged(&world) > 0);
    let clear = ["clear", "sessions", "--tenant", "acme", "--from", "10.1.0.10", "--proto", "icmp"];
    let said = verb(&world, "fra1", &clear);
    assert!(said.contains("ended"), "{said}");
    assert_eq!(pinged(&world), 0);
    world.await_ping("berlin-host", "203.0.113.80");
    assert!(audit(&world, "fra1").contains("from 10.1.0.10 protocol icmp"));
}

#[test]
fn a_change_that_cuts_off_the_branches_is_taken_back_by_itself() {
    let world = World::up("eguard", &["berlin", "berlin-host"]);
    world.await_ping("berlin-host", "203.0.113.80");
    eventually("both of Berlin's paths are up", || {
        world.paths("fra1").iter().all(|path| path.site != "berlin" || path.state == PathState::Up)
    });
    // It calls itself by a key that no branch knows.
    let other = world.node("fra1").config_dir().join("other.key");
    let key = world.node("fra1").command(POPGATE).args(["genkey"]).output().expect("popgate runs");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&other).expect("a file");
    file.write_all(&key.stdout).expect("written");
    edit(&world, "fra1", "popgate.toml", |text| {
        let line = text.lines().find(|line| line.starts_with("private-key-file")).expect("it has one");
        text.replace(line, "private-key-file = \"other.key\"")
    });
    let said = verb(&world, "fra1", &["commit", "--confirm", "10m"]);
    assert!(said.contains("revision 2 is in force"), "{said}");
    eventually("it is taken back", || revision(&world, "fra1") == 3);
    assert!(!text(&world, "fra1", "popgate.toml").contains("other.key"));
    let audit = audit(&world, "fra1");
    assert!(audit.contains("tunnels that were up are down: acme/berlin/"), "{audit}");
    world.await_ping("berlin-host", "203.0.113.80");
}

#[test]
fn a_change_that_cuts_off_a_canary_is_taken_back_by_itself_and_the_audit_log_names_it() {
    let world = World::up("ecanary", &["berlin", "berlin-host"]);
    let _shop = Server::web(&world, "web");
    world.await_ping("berlin-host", "203.0.113.80");
    let canary = |name: &str, target: &str| {
        format!("[[canary]]\nname = \"{name}\"\nfrom = \"berlin\"\ntarget = \"{target}\"\n")
    };
    let canaries = [
        canary("web", "203.0.113.80"),
        canary("shop", "203.0.113.80") + "kind = \"tcp\"\nport = 80\n",
        // It never answers, which is no commit's fault.
        canary("nobody", "203.0.113.99"),
    ];
    edit(&world, "fra1", ACME, |text| format!("{text}\n{}", canaries.concat()));
    verb(&world, "fra1", &["commit"]);
    let before = text(&world, "fra1", ACME);

    let deny = "[[acl]]\nname = \"night\"\naction = \"drop\"\nprotocol = \"tcp\"\ndst-port = 80\n\n";
    edit(&world, "fra1", ACME, |text| text.replacen("[[acl]]", &format!("{deny}[[acl]]"), 1));
    let said = verb(&world, "fra1", &["commit", "--confirm", "10m"]);
    assert!(said.contains("revision 3 is in force"), "{said}");
    eventually("it is taken back", || revision(&world, "fra1") == 4);
    assert_eq!(text(&world, "fra1", ACME), before);
    let audit = audit(&world, "fra1");
    let why = "back to revision 2: canary shop of acme does not answer any more: 203.0.113.80:80";
    assert!(audit.contains(why), "{audit}");
    let told = world.flows("fra1").flows;
    assert!(told.iter().all(|flow| flow.destination_port != 80), "a probe leaves no record: {told:?}");
}

/// Must hold 5 of commits: a box of this size, and so many packets a second each way.
const TENANTS: usize = 1_000;
const LOAD: Kind = Kind { port: 5_060, spacing: Duration::from_micros(500) };
const SWAPS: usize = 3;

#[test]
fn a_box_of_a_thousand_tenants_loses_no_packet_when_it_goes_over_to_another_configuration() {
    if !is_measured() {
        return;
    }
    let world = World::changed_alone("eswap", &["berlin", "berlin-host"], |topology| {
        node(topology, "fra1").files.extend(large::tenants(TENANTS, |_, _| None));
    });
    world.await_ping("berlin-host", "203.0.113.80");
    let web = Exchange::start(&world, "web", &[LOAD]);
    let caller = (1, "berlin-host".to_owned(), "203.0.113.80");
    let (swaps, streams) = web.call(&world, &caller, &[0], || {
        let begin = web.now();
        let swaps: Vec<f64> = (0..SWAPS)
            .map(|_| {
                edit(&world, "fra1", ACME, |text| format!("{COMMENT}{text}"));
                verb(&world, "fra1", &["commit"]);
                web.now()
            })
            .collect();
        let end = web.now();
        // Until what was sent by then has come.
        std::thread::sleep(Duration::from_secs(1));
        (begin..end, swaps)
    });
    let (within, swaps) = swaps;
    for (way, stream) in ["up", "down"].into_iter().zip(&streams[0]) {
        // The commit is answered once the workers have gone over.
        let near = |at: f64| swaps.iter().any(|swap| (swap - 1_000.0..*swap).contains(&at));
        let delays = |during: bool| -> Vec<f64> {
            let came = stream.came.iter().map(|(number, at)| (stream.sent[*number], *at));
            let came = came.filter(|(sent, _)| within.contains(sent) && near(*sent) == during);
            came.map(|(sent, at)| at - sent).collect()
        };
        let p99 = |during| percentile(&delays(during), 99);
        Figure::new("swap", Where::Lab, way)
            .runs(SWAPS)
            .lost(stream.lost(within.clone())[0])
            .with("delay_p99_ms", p99(false))
            .with("delay_p99_ms_during_swap", p99(true))
            .with("delay_max_ms_during_swap", percentile(&delays(true), 100))
            .record();
        assert!(stream.sent.len() > 1_000, "{way}: hardly any load: {}", stream.sent.len());
        assert_eq!(stream.lost(within.clone()), [0, 0], "{way}: lost, and come twice");
    }
    assert_eq!(revision(&world, "fra1"), 1 + SWAPS as u64);
}

#[test]
fn what_nobody_confirmed_is_taken_back_though_the_box_was_killed_meanwhile() {
    let world = World::up("ekilled", &[]);
    let before = text(&world, "fra1", ACME);
    let commit = |window: &str| {
        edit(&world, "fra1", ACME, |text| format!("{COMMENT}{text}"));
        verb(&world, "fra1", &["commit", "--confirm", window]);
    };
    let start = || world.start("fra1").expect("started");

    // The box is up again before that: the clock goes on.
    commit("6s");
    world.kill("fra1", Signal::KILL).expect("killed");
    start();
    assert_eq!(revision(&world, "fra1"), 2);
    assert!(state(&world, "fra1").unconfirmed.is_some());
    eventually("it is taken back", || revision(&world, "fra1") == 3);
    assert_eq!(text(&world, "fra1", ACME), before);

    // It is down all that time.
    commit("1s");
    world.kill("fra1", Signal::KILL).expect("killed");
    std::thread::sleep(Duration::from_secs(1));
    start();
    assert_eq!(text(&world, "fra1", ACME), before);
    let last = revisions(&world, "fra1").remove(0);
    assert_eq!(last.number, 5);
    assert_eq!(last.stamp.comment.as_deref(), Some("revision 4 was not confirmed in time"));

    // Confirmed, it stays over any number of those.
    commit("60s");
    verb(&world, "fra1", &["confirm"]);
    world.kill("fra1", Signal::KILL).expect("killed");
    start();
    assert_eq!(revision(&world, "fra1"), 6);
    assert_ne!(text(&world, "fra1", ACME), before);
}

#[test]
fn what_was_taken_back_and_cannot_be_kept_is_in_the_audit_log_once_and_kept_when_it_can_be() {
    let world = World::up("eowed", &[]);
    let before = text(&world, "fra1", ACME);
    edit(&world, "fra1", ACME, |text| format!("{COMMENT}{text}"));
    verb(&world, "fra1", &["commit", "--confirm", "1s"]);
    // No file can take a directory's place.
    let in_the_way = world.node("fra1").state_dir().join("revisions/3.json");
    fs::create_dir(&in_the_way).expect("made");
    eventually("it has been tried more than once", || {
        let log = fs::read_to_string(world.node("fra1").log()).expect("readable");
        log.matches("the configuration in force cannot be kept").count() > 1
    });
    let told = state(&world, "fra1");
    assert!(told.problem.is_some() && told.revision.is_some_and(|it| it.number == 2));
    fs::remove_dir(&in_the_way).expect("taken away");
    eventually("it is kept", || revision(&world, "fra1") == 3);
    assert_eq!(state(&world, "fra1").problem, None);
    assert_eq!(text(&world, "fra1", ACME), before);
    let audit = audit(&world, "fra1");
    assert_eq!(audit.matches("back to revision 1").count(), 1, "{audit}");
}

#[test]
fn a_bad_file_changes_nothing_whether_the_box_runs_or_starts() {
    let world = World::up("ebadfile", &[]);
    let good = text(&world, "fra1", ACME);
    edit(&world, "fra1", ACME, |text| format!("nonsense = 1\n{text}"));
    let told = refusal(&world, "fra1", &["commit"]);
    assert!(told.contains("tenants/acme.toml:1: unknown key \"nonsense\""), "{told}");
    world.kill("fra1", Signal::TERM).expect("ended");
    world.start("fra1").expect("it starts with what was in force");
    assert_eq!(revision(&world, "fra1"), 1);
    assert_eq!(state(&world, "fra1").edited, [ACME]);
    // And what is edited is not lost.
    assert!(text(&world, "fra1", ACME).starts_with("nonsense"));
    let path = world.node("fra1").config_dir().join(ACME);
    fs::write(path, format!("{COMMENT}{good}")).expect("written");
    verb(&world, "fra1", &["commit"]);
    assert_eq!(revision(&world, "fra1"), 2);
}

/// The system calls by which a commit changes the disk.
const CALLS: [&str; 6] = ["openat", "write", "fsync", "fdatasync", "rename", "unlink"];

/// Follows the box `node`, and sends it SIGKILL at the so many-th of a system call. Back when it follows.
fn strace(world: &World, node: &str, log: &Path, (call, at): (&str, usize)) -> Child {
    let namespace = world.node(node).namespace().to_owned();
    let pids = world.must(node, &["ip", "netns", "pids", &namespace]);
    let is_popgate =
        |pid: &&str| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("popgate"));
    let pid = pids.lines().find(is_popgate).expect("popgate runs there");
    let mut command = Command::new("strace");
    // The main thread alone: it commits, and the others have nothing to do with it.
    command.args(["-p", pid, "-e", &format!("trace={call}")]).arg("-o").arg(log);
    command.arg("-e").arg(format!("inject={call}:signal=SIGKILL:when={at}"));
    let mut child =
        command.stderr(Stdio::piped()).spawn().expect("strace runs: it is in Debian's package strace");
    let mut first = String::new();
    let log = child.stderr.take().expect("a pipe");
    BufReader::new(log).read_line(&mut first).expect("readable");
    assert!(first.contains("attached"), "{first}");
    child
}

#[test]
fn killed_at_any_system_call_of_a_commit_the_box_comes_back_with_the_old_or_the_new_configuration() {
    need_program("strace", "strace");
    let world = World::up("eevery", &[]);
    let one = text(&world, "fra1", ACME);
    let other = format!("{COMMENT}{one}");
    let put = |text: &str| {
        let body = serde_json::json!({ "text": text }).to_string();
        let tag: serde_json::Value = get(&world, "fra1", "config/candidate?scope=tenant:acme");
        let token = fs::read_to_string(world.node("fra1").state_dir().join("admin-token")).expect("a token");
        let headers = [
            format!("Authorization: Bearer {}", token.trim()),
            format!("If-Match: \"{}\"", tag["tag"].as_str().expect("a tag")),
        ];
        let url = "http://127.0.0.1:8443/api/v1/config/candidate?scope=tenant:acme";
        let [authorization, expected] = &headers;
        let put =
            ["curl", "-sS", "--fail", "-X", "PUT", "-H", authorization, "-H", expected, "-d", &body, url];
        world.must("fra1", &put);
    };
    let (mut old, mut new) = (one.clone(), other.clone());
    let calls = world.node("fra1").directory().join("calls");
    let (mut kills, mut kept_old, mut kept_new) = (0, 0, 0);
    for call in CALLS {
        for at in 1.. {
            put(&new);
            let mut tracer = strace(&world, "fra1", &calls, (call, at));
            let token_file = world.node("fra1").state_dir().join("admin-token");
            let command = world.node("fra1").command(POPGATE);
            let commit = command.args(["commit", "tenant:acme", "--token-file"]).arg(token_file).output();
            let done = commit.expect("popgate runs").status.success();
            if done {
                let pid = i32::try_from(tracer.id()).ok().and_then(Pid::from_raw).expect("a process");
                // It may have ended with the box, which a later call killed.
                let _ = kill_process(pid, Signal::TERM);
            }
            tracer.wait().expect("it ends");
            let killed = fs::read_to_string(&calls).expect("readable").contains("killed by SIGKILL");
            assert!(done || killed, "{call} {at}: it was neither done nor killed");
            let status = world.kill("fra1", Signal::KILL).expect("it has ended");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
            kills += 1;
            world.start("fra1").expect("started");
            let now = text(&world, "fra1", ACME);
            let in_force: serde_json::Value = get(&world, "fra1", "config/texts");
            assert_eq!(in_force["texts"][ACME], now, "{call} {at}: the files are what is in force");
            assert_eq!(state(&world, "fra1").edited, [""; 0]);
            if now == new {
                kept_new += usize::from(killed);
                std::mem::swap(&mut old, &mut new);
            } else {
                assert_eq!(now, old, "{call} {at}: neither the old one nor the new one");
                assert!(!done, "{call} {at}: it was said to be done");
                kept_old += 1;
            }
            audit(&world, "fra1");
            if !killed {
                // It needs fewer of these calls than that.
                break;
            }
        }
    }
    println!("commits: killed {kills} times, {kept_old} kept the old one and {kept_new} the new one");
    assert!(kept_old > 0 && kept_new > 0, "both sides of the moment were tried: {kept_old}, {kept_new}");
}
