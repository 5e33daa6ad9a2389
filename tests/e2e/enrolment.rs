//! Zero-touch enrolment: a box with nothing but a code becomes a branch, by two real boxes; and who may not has nothing of it.

use crate::world::{POPGATE, World, eventually, node, stderr, stdout, template, within};
use popgate::config::{PrivateKey, public_of};
use popgate::enrol::Code;
use popgate::lab::NodeChild;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NEW: [&str; 9] =
    ["enrol", "new", "nice", "--tenant", "acme", "--prefix", "10.6.0.0/24", "--path", "wan=isp-a"];

/// The PoP, and a box beside it that is nobody yet.
struct Site {
    world: World,
    files: TempDir,
}

impl Site {
    fn up(name: &str) -> Site {
        let world = World::changed(name, &["nice", "nice-host"], |topology| {
            let fra1 = node(topology, "fra1");
            let text = template("fra1/popgate.toml") + "\n[admin]\ntls-listen = \"192.0.2.1:4443\"\n";
            fra1.files.insert("popgate.toml".to_owned(), text);
            if let popgate::lab::topology::NodeKind::Appliance { tenant_files, .. } = &mut fra1.kind {
                tenant_files.retain(|tenant| tenant != "acme");
            }
            let acl = "\n[[acl]]\nname = \"nice\"\nfrom = [\"10.6.0.0/24\"]\naction = \"accept\"\n";
            fra1.files.insert("tenants/acme.toml".to_owned(), template("tenants/acme.toml") + acl);
        });
        Site { world, files: tempfile::tempdir().expect("a directory") }
    }

    fn code(&self, more: &[&str]) -> String {
        self.world.ask("fra1", &[&NEW[..], more].concat()).trim().to_owned()
    }

    /// Where the box of that name keeps its configuration and its state.
    fn dirs(&self, of: &str) -> [PathBuf; 2] {
        ["etc", "var"].map(|dir| self.files.path().join(of).join(dir))
    }

    /// `popgate enrol` on the box at nice, which keeps things under `of`.
    fn enrol(&self, of: &str, how: &str) -> NodeChild {
        let [dir, state] = self.dirs(of);
        let command = self.world.node("nice").command(POPGATE).args([
            "enrol",
            how,
            "--transport",
            "wan=eth1",
            "--lan",
            "eth0",
        ]);
        let command = command.arg("--dir").arg(dir).arg("--state-dir").arg(state);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("popgate runs")
    }

    /// Why the box is not enrolled.
    fn refused(&self, of: &str, how: &str) -> String {
        let output: Output = self.enrol(of, how).output().expect("it ends");
        assert!(!output.status.success(), "{}", stdout(&output));
        assert!(!self.dirs(of)[0].join("popgate.toml").exists());
        stderr(&output)
    }

    /// The newest enrolment.
    fn newest(&self) -> Value {
        let list = self.world.ask("fra1", &["enrol", "list", "--json"]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        list["enrolments"][0].clone()
    }

    fn await_state(&self, state: &str) -> Value {
        eventually(&format!("the enrolment is {state}"), || self.newest()["state"] == state);
        self.newest()
    }
}

/// Whether a file under `dir` holds one of these.
fn any_file_holds(dir: &Path, needles: &[Vec<u8>]) -> bool {
    fs::read_dir(dir).expect("a directory").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return any_file_holds(&path, needles);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        needles.iter().any(|needle| bytes.windows(needle.len()).any(|window| window == needle))
    })
}

#[test]
fn a_box_with_a_code_is_a_branch_within_ten_seconds_of_its_approval() {
    let site = Site::up("eenrol");
    let code = site.code(&[]);
    println!("enrolment: a code has {} letters", code.len());
    let first = site.enrol("nice", &code);
    let claimed = site.await_state("claimed");
    assert_eq!(claimed["claim"]["from"], "100.64.6.2");
    // Switched off, and on again: the same box with the same keys.
    drop(first);
    let mut again = site.enrol("nice", "--resume");
    let mut said = BufReader::new(again.stdout.take().expect("a pipe"));
    let mut waits = String::new();
    said.read_line(&mut waits).expect("it says what it waits for");
    let print = claimed["claim"]["fingerprint"].as_str().expect("a fingerprint");
    assert!(waits.contains("waits to be approved at fra1") && waits.contains(print), "{waits}");
    // Whoever else has the code comes too late.
    let late = site.refused("other", &code);
    assert!(late.contains("has been used"), "{late}");
    assert_eq!(site.newest()["claim"], claimed["claim"]);

    let id = claimed["id"].to_string();
    let approved = Instant::now();
    site.world.ask("fra1", &["enrol", "approve", &id]);
    let output = again.output().expect("it ends");
    assert!(output.status.success(), "{}", stderr(&output));
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("what it says");
    assert!(rest.contains("nice is enrolled"), "{rest}");
    let [dir, state] = site.dirs("nice");
    let run = site
        .world
        .node("nice")
        .command(POPGATE)
        .arg("run")
        .arg(&dir)
        .env("POPGATE_NETNS_PREFIX", "eenrol-nice-");
    let _running = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("popgate runs");
    let patience = Duration::from_secs(10);
    let passes = within(patience, || site.world.pings("nice-host", "10.200.0.10"));
    let took = approved.elapsed();
    assert!(passes.is_some() && took <= patience, "no ping within {took:?}");
    println!("enrolment: a ping passes {took:.2?} after the approval");
    site.await_state("finished");
    assert!(!state.join("enrolment.json").exists());

    // It is a revision as any other, and what the operator wrote is still there.
    let text =
        fs::read_to_string(site.world.node("fra1").config_dir().join("tenants/acme.toml")).expect("a text");
    assert!(
        text.contains("# More specific than Lyon's; and called by the PoP.")
            && text.contains("name = \"nice\"")
    );
    let audit = site.world.ask("fra1", &["audit", "show"]);
    for told in ["a code is made", "a box claims", "is approved", "is finished"] {
        assert!(audit.contains(told), "{told}: {audit}");
    }
    // No private key has left the box.
    let private = fs::read_to_string(dir.join("keys/wan.key")).expect("a key");
    let private: PrivateKey = private.trim().parse().expect("a key");
    let public = public_of(&private).to_string().into_bytes();
    let node = site.world.node("fra1");
    for place in [node.config_dir(), node.state_dir()] {
        assert!(any_file_holds(&place, std::slice::from_ref(&public)), "the search finds what is there");
        assert!(!any_file_holds(&place, &[private.to_base64().into_bytes(), private.0.to_vec()]));
    }
    assert!(site.refused("third", &code).contains("has been used"));
}

#[test]
fn a_code_that_is_altered_old_revoked_or_leads_to_another_opens_nothing() {
    let site = Site::up("eenrolno");
    let code = site.code(&["--expires", "1s"]);
    site.await_state("expired");
    assert!(site.refused("a", &code).contains("too old"));

    let code = site.code(&[]);
    let id = site.newest()["id"].to_string();
    let swapped = if code.ends_with('7') { "8" } else { "7" };
    let altered = format!("{}{swapped}", &code[..code.len() - 1]);
    assert!(site.refused("a", &altered).contains("a letter of the code is wrong"));
    assert_eq!(site.newest()["state"], "open");

    // Somebody in between, who has a key of their own.
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["192.0.2.1".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("signed");
    let [pem, log] = ["between.pem", "between.log"].map(|name| site.files.path().join(name));
    fs::write(&pem, key.serialize_pem() + &certificate.pem()).expect("written");
    let server = site
        .world
        .node("web")
        .command("openssl")
        .args(["s_server", "-quiet", "-naccept", "1", "-accept", "4443", "-cert"]);
    let file = fs::File::create(&log).expect("a file");
    let between = server.arg(&pem).stdout(file).stderr(Stdio::null()).spawn().expect("openssl runs");
    let mut led: Code = code.parse().expect("a code");
    led.addresses = vec!["203.0.113.80:4443".parse().expect("an address")];
    let mut why = String::new();
    eventually("somebody answers there", || {
        why = site.refused_or_killed("a", &led.to_string());
        why.contains("does not have the key")
    });
    drop(between);
    assert_eq!(fs::read(&log).expect("a log"), b"", "nothing was sent to them");
    assert_eq!(site.newest()["state"], "open");

    site.world.ask("fra1", &["enrol", "revoke", &id]);
    assert!(site.refused("a", &code).contains("was revoked"));
    // A guess is told nothing of what there is.
    let mut guess: Code = code.parse().expect("a code");
    guess.secret = popgate::enrol::Secret([7; 16]);
    assert!(site.refused("a", &guess.to_string()).contains("opens nothing here"));
}

impl Site {
    /// Why the box is not enrolled; or nothing, if it waits for somebody to be reached.
    fn refused_or_killed(&self, of: &str, how: &str) -> String {
        let mut child = self.enrol(of, how);
        match within(Duration::from_secs(1), || child.try_wait().is_ok_and(|status| status.is_some())) {
            Some(_) => stderr(&child.output().expect("it has ended")),
            None => String::new(),
        }
    }
}
