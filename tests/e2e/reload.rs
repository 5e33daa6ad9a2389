//! A configuration loaded anew reaches every thread: transports and devices are exchanged under all of them, and what
//! cannot change while they run is refused.

use crate::world::{World, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// The popgate that runs in a node.
fn popgate(world: &World, node: &str) -> Pid {
    let namespace = world.node(node).namespace().to_owned();
    let pids = world.must(node, &["ip", "netns", "pids", &namespace]);
    let is_popgate =
        |pid: &&str| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("popgate"));
    let pid = pids.lines().find(is_popgate).expect("popgate runs there");
    Pid::from_raw(pid.parse().expect("a number")).expect("a process")
}

/// The names of its threads that forward.
fn threads(pid: Pid) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).expect("a process");
    let mut names: Vec<String> = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("worker-") || name == "entrance")
        .collect();
    names.sort();
    names
}

/// Changes a file of the configuration in a box that runs, tells it, and waits until it has taken it over.
pub fn edit_and_tell(world: &World, node: &str, file: &str, change: impl FnOnce(String) -> String) {
    let generation = world.status(node).totals.generation;
    edit(world, node, file, change);
    kill_process(popgate(world, node), Signal::HUP).expect("it runs");
    eventually("it runs the new generation", || world.status(node).totals.generation > generation);
}

pub fn edit(world: &World, node: &str, file: &str, change: impl FnOnce(String) -> String) {
    let file = world.node(node).config_dir().join(file);
    let text = fs::read_to_string(&file).expect("readable");
    let changed = change(text.clone());
    assert_ne!(changed, text);
    fs::write(&file, changed).expect("writable");
}

#[test]
fn transports_and_devices_are_exchanged_under_all_threads_and_the_number_of_workers_stays() {
    let world = World::up("ereload", &["berlin", "berlin-host"]);
    world.await_ping("berlin-host", "203.0.113.80");
    let pid = popgate(&world, "fra1");
    let before = threads(pid);
    let workers = before.len() - 1;
    assert!(workers >= 1 && before[0] == "entrance", "{before:?}");
    // Each has a socket of its own at the transport's address.
    let sockets = || world.must("fra1", &["ss", "-Hun", "-a", "src", "192.0.2.1:51820"]).lines().count();
    assert_eq!(sockets(), workers + 1);

    // The same address without the interface: another socket all the same. And the device under another name.
    let generation = world.status("fra1").totals.generation;
    edit(&world, "fra1", "popgate.toml", |text| {
        let text = text.replace("interface = \"eth0\"\n", "");
        text.replace("role = \"pop\"", "role = \"pop\"\ninternet-device = \"pg-other\"")
    });
    kill_process(pid, Signal::HUP).expect("it runs");
    eventually("all threads run the new generation", || world.status("fra1").totals.generation > generation);
    eventually("the devices are exchanged", || {
        let links = world.must("fra1", &["ip", "-o", "link"]);
        links.contains("pg-other") && !links.contains("pg-internet")
    });
    eventually("the sockets are exchanged", || {
        let sockets = world.must("fra1", &["ss", "-Hun", "-a", "src", "192.0.2.1:51820"]);
        sockets.lines().count() == workers + 1 && !sockets.contains("eth0")
    });
    world.await_ping("berlin-host", "203.0.113.80");
    world.await_ping("berlin-host", "10.200.0.10");

    let generation = world.status("fra1").totals.generation;
    edit(&world, "fra1", "popgate.toml", |text| {
        let rest: Vec<&str> = text.lines().filter(|line| !line.starts_with("workers")).collect();
        format!("workers = {}\n{}\n", workers + 1, rest.join("\n"))
    });
    kill_process(pid, Signal::HUP).expect("it runs");
    eventually("it says why not", || {
        let log = fs::read_to_string(world.node("fra1").log()).expect("a log");
        log.contains("workers: changes only with a restart")
    });
    assert_eq!(threads(pid), before);
    assert_eq!(world.status("fra1").totals.generation, generation);
    assert!(world.pings("berlin-host", "203.0.113.80"));
}

const TEST: &str = "[[policy-test]]\nname = \"telnet\"\nfrom = \"10.1.0.10\"\nto = \"203.0.113.80:23\"\nprotocol = \"tcp\"\n";

#[test]
fn a_policy_test_that_fails_stops_a_commit_and_a_box_tells_what_would_become_of_a_flow() {
    let world = World::up("epolicy", &["berlin", "berlin-host"]);
    world.await_ping("berlin-host", "203.0.113.80");
    let pid = popgate(&world, "fra1");
    let generation = world.status("fra1").totals.generation;
    let acme = "tenants/acme.toml";
    edit(&world, "fra1", acme, |text| format!("{text}{TEST}expect = \"accept\"\n"));
    kill_process(pid, Signal::HUP).expect("it runs");
    eventually("it says why not", || {
        let log = fs::read_to_string(world.node("fra1").log()).expect("a log");
        log.contains("policy test \"telnet\": expected accept, and it is rejected by ACL rule \"no-telnet\"")
    });
    assert_eq!(world.status("fra1").totals.generation, generation);
    edit(&world, "fra1", acme, |text| text.replace("expect = \"accept\"", "expect = \"reject\""));
    kill_process(pid, Signal::HUP).expect("it runs");
    eventually("the box runs the new generation", || world.status("fra1").totals.generation > generation);

    let flow = ["explain", "--tenant", "acme", "--from", "10.1.0.10", "--to", "203.0.113.80:80"];
    let told = world.ask("fra1", &flow);
    let ends_so = told.trim_end().ends_with("accept");
    assert!(ends_so && told.contains("no-telnet does not fit") && told.contains("berlin/dsl: up"), "{told}");
    let rules = world.show_text("fra1", &["rules", "--tenant", "acme"]);
    assert!(rules.contains("no-telnet") && rules.contains("tenants/acme.toml:"), "{rules}");
}
