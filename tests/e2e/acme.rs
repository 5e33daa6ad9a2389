//! A certificate by ACME, of a real authority (pebble) that looks whose the name is: the box's own is shown until it is signed,
//! what is signed is shown over restarts and renewed, and what fails is told and takes nothing away.

use crate::world::{World, eventually, need_program, node, template, within};
use popgate::lab::{NodeChild, Signal};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const STATUS: &str = "https://pop.example:4443/api/v1/status";
/// Seconds for which pebble signs: the box asks anew after 30.
const GOOD_FOR: u64 = 45;

struct Authority<'a> {
    world: &'a World,
    files: &'a TempDir,
}

impl Authority<'_> {
    fn path(&self, file: &str) -> PathBuf {
        self.files.path().join(file)
    }

    /// Who says where pop.example is, and who signs.
    fn open(&self, at: &str) -> [NodeChild; 2] {
        let dns = self.world.node("web").command("dnsmasq");
        let fixed =
            ["--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--bind-interfaces"];
        let dns = fixed.into_iter().fold(dns, |dns, argument| dns.arg(argument));
        let dns = dns
            .arg("--listen-address=203.0.113.80")
            .arg("--port=5053")
            .arg(format!("--address=/pop.example/{at}"));
        let pebble = self
            .world
            .node("web")
            .command("pebble")
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0");
        let pebble =
            pebble.arg("-config").arg(self.path("pebble.json")).arg("-dnsserver").arg("203.0.113.80:5053");
        let both = [dns.spawn().expect("dnsmasq runs"), pebble.spawn().expect("pebble runs")];
        eventually("the authority listens", || {
            let knock = ["socat", "-u", "/dev/null", "TCP:203.0.113.80:14000"];
            self.world.exec("stun", &knock).status.success()
        });
        both
    }

    /// Whom to trust from then on: pebble has another root each time.
    fn fetch_root(&self) {
        let root = self.world.must("stun", &["curl", "-sSk", "https://203.0.113.80:15000/roots/0"]);
        fs::write(self.path("root.pem"), root).expect("written");
    }

    /// What is answered to somebody who trusts that root alone.
    fn headers(&self) -> Option<String> {
        let root = self.path("root.pem");
        let trusting =
            ["--cacert", root.to_str().expect("UTF-8"), "--resolve", "pop.example:4443:192.0.2.1", STATUS];
        let output = self.world.exec("stun", &[&["curl", "-sS", "-m", "10", "-i"], &trusting[..]].concat());
        output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
    }

    fn certificate(&self) -> Value {
        let told = self.world.ask("fra1", &["show", "certificate", "--json"]);
        serde_json::from_str::<Value>(&told).expect("JSON")["certificate"].take()
    }
}

#[test]
fn an_authority_signs_the_certificate_and_renews_it_and_until_then_the_one_there_is_stays() {
    need_program("pebble", "pebble");
    let files = tempfile::tempdir().expect("a directory");
    let path = |file: &str| files.path().join(file);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["203.0.113.80".to_owned()]).expect("a name");
    fs::write(path("pebble.key"), key.serialize_pem()).expect("written");
    fs::write(path("pebble.pem"), params.self_signed(&key).expect("signed").pem()).expect("written");
    let config = json!({"pebble": {
        "listenAddress": "203.0.113.80:14000", "managementListenAddress": "203.0.113.80:15000",
        "certificate": path("pebble.pem"), "privateKey": path("pebble.key"),
        "httpPort": 5002, "tlsPort": 4443, "certificateValidityPeriod": GOOD_FOR,
    }});
    fs::write(path("pebble.json"), config.to_string()).expect("written");
    let world = World::changed("eacme", &["stun"], |topology| {
        let acme = format!(
            "\n[admin]\ntls-listen = \"192.0.2.1:4443\"\nnames = \"pop.example\"\n[admin.acme]\n\
             directory = \"https://203.0.113.80:14000/dir\"\ncontact = \"noc@example.net\"\nterms-agreed = true\nca-file = {:?}\n",
            path("pebble.pem")
        );
        let text = template("fra1/popgate.toml") + &acme;
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    });
    let authority = Authority { world: &world, files: &files };
    let state_dir = world.node("fra1").state_dir();

    // Nobody to ask: the box's own is shown, and why. And nobody who asks as an authority would is shown anything.
    eventually("it is told", || authority.certificate()["problem"].is_string());
    let own = authority.certificate();
    assert_eq!((&own["issued"], &own["failures"]), (&json!("itself"), &json!(1)), "{own}");
    assert!(world.ask("fra1", &["show", "certificate"]).contains("problem"));
    let trusted = state_dir.join("admin-certificate.pem");
    let trusted = trusted.to_str().expect("UTF-8");
    let by_own =
        ["curl", "-sS", "-m", "10", "--cacert", trusted, "--resolve", "pop.example:4443:192.0.2.1", STATUS];
    assert!(world.must("stun", &by_own).contains("\"status\":401"));
    let asked = [
        "openssl",
        "s_client",
        "-connect",
        "192.0.2.1:4443",
        "-servername",
        "pop.example",
        "-alpn",
        "acme-tls/1",
    ];
    assert!(!world.exec("stun", &asked).status.success(), "there is no challenge");
    let token = fs::read_to_string(state_dir.join("admin-token")).expect("a token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let get = |path: &str| {
        let curl = ["curl", "-sS", "-m", "3", "-H", &bearer, path];
        String::from_utf8(world.exec("fra1", &curl).stdout).expect("text")
    };
    assert!(get("http://127.0.0.1:8443/metrics").contains("popgate_certificate_failures 1"));
    assert!(get("http://127.0.0.1:8443/api/v1/events").contains("event: certificate"));

    // An authority that finds the name at somebody else's.
    let restart = || {
        world.kill("fra1", Signal::TERM).expect("stopped");
        world.start("fra1").expect("started");
    };
    let elsewhere = authority.open("203.0.113.80");
    restart();
    eventually("it is refused", || authority.certificate()["problem"].is_string());
    let refused = authority.certificate();
    assert_eq!(refused["issued"], json!("itself"));
    let why = refused["problem"].as_str().expect("a text");
    assert!(why.contains("203.0.113.80:4443"), "{why}");
    drop(elsewhere);

    // And one that finds it here. It knows nothing of the account of before, nor of any.
    let here = authority.open("192.0.2.1");
    authority.fetch_root();
    restart();
    eventually("it is signed", || authority.certificate()["issued"] == "acme");
    let first = authority.certificate();
    assert_eq!((&first["names"], &first["problem"]), (&json!(["pop.example"]), &Value::Null), "{first}");
    let headers = authority.headers().expect("it is trusted");
    assert!(headers.contains(" 401 ") && headers.contains("strict-transport-security"), "{headers}");
    for file in ["acme-account.json", "acme-certificate.pem"] {
        assert_eq!(fs::metadata(state_dir.join(file)).expect("it is kept").mode() & 0o7777, 0o600, "{file}");
    }
    let key = || {
        let kept = fs::read_to_string(state_dir.join("acme-certificate.pem")).expect("it is kept");
        kept.split_inclusive("-----END PRIVATE KEY-----").next().map(str::to_owned)
    };
    let first_key = key();
    restart();
    assert_eq!(authority.certificate()["fingerprint"], first["fingerprint"], "it is kept");

    // Before its time is over there is another, without a restart.
    let renewed = || authority.certificate()["fingerprint"] != first["fingerprint"];
    assert!(within(Duration::from_secs(2 * GOOD_FOR), renewed).is_some(), "{}", authority.certificate());
    let second = authority.certificate();
    assert_eq!(key(), first_key, "branches know the box by it");
    assert!(second["not-before-unix-ms"].as_u64() < first["not-after-unix-ms"].as_u64(), "{first} {second}");
    assert!(authority.headers().expect("it is trusted").contains(" 401 "));

    // The authority is gone when it is asked next: what there is stays.
    drop(here);
    let failed = || authority.certificate()["problem"].is_string();
    assert!(within(Duration::from_secs(2 * GOOD_FOR), failed).is_some(), "{}", authority.certificate());
    let last = authority.certificate();
    assert_eq!((&last["fingerprint"], &last["issued"]), (&second["fingerprint"], &json!("acme")), "{last}");
    assert!(fs::read_to_string(world.node("fra1").log()).expect("a log").contains("no certificate by ACME"));
}
