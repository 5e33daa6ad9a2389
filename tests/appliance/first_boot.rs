//! A fresh box is set up by a stick: a branch by the code that it was given, at a point of presence that runs the image too.

use crate::hosts::{BEYOND, Beyond, Host};
use crate::machine::{BOOT, Build, Disk, Firmware, Machine, must};
use crate::network::Network;
use crate::office::{Office, POOL};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A stick of a name that sets a box up; with a file on it.
fn stick(directory: &Path, name: &str, file: &str, text: &str) -> PathBuf {
    let stick = directory.join("stick");
    fs::File::create(&stick).and_then(|file| file.set_len(64 << 20)).expect("a file");
    must(Command::new("mkfs.vfat").args(["-F", "32", "-n", name]).arg(&stick));
    fs::write(directory.join(file), text).expect("written");
    must(Command::new("mcopy").arg("-i").arg(&stick).arg(directory.join(file)).arg("::/"));
    stick
}

/// Many times what a flow's end, its export and the collector's file take.
const EXPORTED: Duration = Duration::from_secs(60);

fn until_it_pings(branch: &mut Machine, pc: &Host) {
    branch.eventually("a ping passes", BOOT, |_| pc.pings(BEYOND));
}

/// Must hold 1: the image as a point of presence and as a branch, and nobody has a shell.
#[test]
fn a_fresh_box_with_a_code_on_a_stick_is_a_branch_once_somebody_has_approved() {
    let network = Network::new();
    network.add_switch("lan", None);
    let office = Office::new(&network, "192.0.2.10");
    let beyond = Beyond::new(&network, POOL, "192.0.2.10");
    let pc = Host::new(&network, "lan");
    let pop_disk = office.disk();
    let mut pop = Machine::start(&network, &pop_disk, &Build::default());
    pop.eventually("its API answers", BOOT, |_| office.policy_in_force(&network).is_some());

    let wanted = json!({
        "site": "lyon", "tenant": "acme", "prefixes": ["10.2.0.0/24"], "admin": ["192.0.2.10:443"],
        "paths": [{ "name": "wan", "transport": "isp", "endpoint": "192.0.2.10:51820" }],
        "lan": { "dns": [BEYOND] },
    });
    let (status, made) = office.ask(&network, "POST", "enrolments", "", &wanted).expect("an answer");
    assert!((200..300).contains(&status), "{status} {made}");
    let code = made["code"].as_str().expect("a code");

    let directory = tempfile::tempdir().expect("a directory");
    // The stick is in before the box is switched on.
    let branch_disk = Disk::new();
    let build = Build { cards: vec![("switch", 11), ("lan", 12)], ..Build::default() };
    let mut branch = Machine::start(&network, &branch_disk, &build);
    branch.plug_in(&stick(directory.path(), "POPGATE", "enrol-code", code));
    let state = || {
        let listed = office.get(&network, "enrolments")?;
        Some(listed["enrolments"][0]["state"].as_str().unwrap_or("?").to_owned())
    };
    branch.eventually("it claims its code", BOOT, |_| state().as_deref() == Some("claimed"));
    println!("first boot: claimed {:.1} s after it was switched on", branch.age().as_secs_f64());
    let approve = format!("enrolments/{}/approve", made["id"]);
    let (status, approved) = office.ask(&network, "POST", &approve, "", &json!({})).expect("an answer");
    assert!((200..300).contains(&status), "{status} {approved}");
    let begin = branch.age();
    let is_up = |paths: Value| {
        let paths = paths["paths"].as_array().cloned().unwrap_or_default();
        paths.iter().any(|path| path["site"] == "lyon" && path["state"] == "up")
    };
    branch.eventually("its tunnel is up", BOOT, |_| office.get(&network, "paths").is_some_and(is_up));
    println!("first boot: the tunnel is up {:.1} s after the approval", (branch.age() - begin).as_secs_f64());

    // A host on its LAN needs nothing but a cable, and is seen from outside as the tenant.
    branch.eventually("a host on its LAN gets an address", BOOT, |_| pc.takes_a_lease());
    assert!(pc.addresses().contains(" 10.2.0."), "{}", pc.addresses());
    until_it_pings(&mut branch, &pc);
    println!(
        "first boot: a host on the LAN has an address and a ping passes {:.1} s after the approval, {:.1} s after it was switched on",
        (branch.age() - begin).as_secs_f64(),
        branch.age().as_secs_f64()
    );
    branch.eventually("a page is fetched by its name", BOOT, |_| pc.fetches());
    let asked_from = beyond.asked_from();
    assert!(asked_from.contains("198.51.100.") && !asked_from.contains("10.2.0."), "{asked_from}");
    branch.pull_out();

    // It is the same branch after a power cut, without the stick.
    branch.kill();
    pop.eventually("its tunnel is down", BOOT, |_| {
        office.get(&network, "paths").is_some_and(|paths| !is_up(paths))
    });
    let mut branch = Machine::start(&network, &branch_disk, &build);
    until_it_pings(&mut branch, &pc);
    println!("boot to the first packet through the tunnel: {:.1} s", branch.age().as_secs_f64());

    // What has passed is told outside: as whom it came, and as whom it went on.
    for (protocol, port) in [("1", None), ("17", Some("53")), ("6", Some("80"))] {
        let is_it = |flow: &Vec<String>| match &flow[..] {
            [its, from, to, its_port, translated] => {
                (its == protocol && to == BEYOND && port.is_none_or(|port| its_port == port))
                    && (from.starts_with("10.2.0.") && translated.starts_with("198.51.100."))
            }
            _ => false,
        };
        let begin = Instant::now();
        loop {
            let flows = beyond.flows();
            if flows.iter().any(is_it) {
                break;
            }
            assert!(
                begin.elapsed() < EXPORTED,
                "the collector is not told of protocol {protocol}: {flows:?}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    // A button is enough to switch them off.
    branch.power_off();
    pop.power_off();
}

#[test]
fn a_fresh_box_with_cloud_inits_data_is_what_that_says() {
    let network = Network::new();
    let directory = tempfile::tempdir().expect("a directory");
    let key = network.must(&["wg", "genkey"]);
    let user_data = format!(
        "#cloud-config\nhostname: fra1\npopgate:\n  files:\n    keys/fra1.key: {key}    popgate.toml: |\n      \
         site = \"fra1\"\n      role = \"pop\"\n      private-key-file = \"keys/fra1.key\"\n      [[transport]]\n      \
         name = \"isp\"\n      listen = \"0.0.0.0:51820\"\n      [admin]\n      tls-listen = \"0.0.0.0:443\"\n"
    );
    let volume = stick(directory.path(), "CIDATA", "user-data", &user_data);
    let disk = Disk::new();
    let build = Build { firmware: Firmware::None, ..Build::default() };
    let mut pop = Machine::start(&network, &disk, &build);
    pop.plug_in(&volume);
    pop.await_serial(0, "fra1 (pop)", BOOT);
    pop.await_serial(0, "https://192.0.2.10", BOOT);
    println!("first boot: by cloud-init's data, {:.1} s after it was switched on", pop.age().as_secs_f64());
    // What it answers needs a token, which is for those who have one.
    pop.eventually("its API answers", BOOT, |_| {
        let status = [
            "curl",
            "-sk",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "https://192.0.2.10/api/v1/status",
        ];
        network.exec(&status).stdout == b"401"
    });
    pop.power_off();
}
