//! The admin server beyond loopback: over TLS alone, with a certificate of its own that whoever has it can hold it to, and a
//! renewed one shown without a restart.

use crate::world::{World, eventually, need_program, node, template};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const STATUS: &str = "https://192.0.2.1:4443/api/v1/status";

#[test]
fn from_elsewhere_it_is_reached_over_tls_alone_and_shows_a_renewed_certificate() {
    need_program("openssl", "openssl");
    let world = World::changed("etls", &["berlin"], |topology| {
        let text = template("fra1/popgate.toml")
            + "\n[admin]\ntls-listen = \"192.0.2.1:4443\"\nnames = \"pop.example\"\n";
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    });
    let state_dir = world.node("fra1").state_dir();
    let [certificate, key] = ["admin-certificate.pem", "admin-key.pem"].map(|file| state_dir.join(file));
    let trusted = certificate.to_str().expect("UTF-8").to_owned();
    let status = |options: &[&str], url: &str| {
        let curl = ["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"];
        let output = world.exec("berlin", &[&curl[..], options, &[url]].concat());
        output.status.success().then(|| String::from_utf8(output.stdout).expect("a code"))
    };
    let trusting = ["--cacert", &*trusted];
    eventually("it answers", || status(&trusting, STATUS).is_some());
    assert_eq!(status(&trusting, STATUS).as_deref(), Some("401"), "nobody is known yet");
    assert_eq!(status(&[], STATUS), None, "nobody vouches for it");
    let by_name = ["--cacert", &*trusted, "--resolve", "pop.example:4443:192.0.2.1"];
    assert_eq!(status(&by_name, "https://pop.example:4443/").as_deref(), Some("200"), "the console");
    let rebound = ["-k", "--resolve", "evil.example:4443:192.0.2.1"];
    assert_eq!(status(&rebound, "https://evil.example:4443/").as_deref(), Some("421"));
    assert_eq!(status(&[], &STATUS.replace("https", "http")), None, "nothing in the clear");
    assert_eq!(status(&[], "http://192.0.2.1:8443/"), None, "loopback is loopback");

    // Who reads the token's file and is not on the box is nobody: it is for the box's own console.
    let token = fs::read_to_string(state_dir.join("admin-token")).expect("readable");
    let header = format!("Authorization: Bearer {}", token.trim());
    assert_eq!(status(&["--cacert", &trusted, "-H", &header], STATUS).as_deref(), Some("401"));

    let before = fs::read(&certificate).expect("readable");
    let [new_key, new_certificate] = ["new-key.pem", "new.pem"].map(|file| state_dir.join(file));
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let request =
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let named = ["-days", "2", "-subj", "/CN=renewed", "-addext", "subjectAltName=IP:192.0.2.1"];
    let files = ["-keyout", &path(&new_key), "-out", &path(&new_certificate)];
    world.must("fra1", &[&request[..], &named, &files].concat());
    fs::set_permissions(&new_key, fs::Permissions::from_mode(0o600)).expect("ours");
    fs::rename(&new_key, &key).expect("renewed");
    fs::rename(&new_certificate, &certificate).expect("renewed");
    assert_ne!(fs::read(&certificate).expect("readable"), before);
    eventually("the renewed one is shown", || status(&trusting, STATUS).as_deref() == Some("401"));
}
