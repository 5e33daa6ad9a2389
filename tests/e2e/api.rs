//! Must hold: schemathesis, which knows the API by its OpenAPI document alone, asks a running box whatever it can think of, and
//! gets no answer that the document does not name, none of another shape, and no 5xx.

use crate::world::{World, node, template};
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// 5 minutes; on the way through with more workers, which the API does not depend on, a look.
const SECONDS: [&str; 2] = ["300", "30"];

#[test]
fn whatever_the_api_is_asked_it_answers_as_its_document_says() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/schemathesis");
    assert!(
        tools.join("schemathesis").is_dir(),
        "schemathesis is not there: `make test` installs it into target/tools"
    );
    let world = World::changed("eapi", &["berlin", "berlin-host"], |topology| {
        let text = template("fra1/popgate.toml") + "\n[flow-history]\n\n[nat-ledger]\n";
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    });
    world.await_ping("berlin-host", "10.200.0.10");
    let token = fs::read_to_string(world.node("fra1").state_dir().join("admin-token")).expect("a token");
    let is_long = std::env::var_os("POPGATE_TEST_WORKERS").is_none();
    let seconds = SECONDS[usize::from(!is_long)];
    println!("schemathesis asks for {seconds} s");
    let checks =
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let work = tempfile::tempdir().expect("a directory");
    let output = world
        .node("fra1")
        .command("python3")
        .env("PYTHONPATH", &tools)
        .current_dir(work.path())
        .args(["-m", "schemathesis.cli", "run", "http://127.0.0.1:8443/api/v1/openapi.json"])
        .args(["--max-time", seconds, "--checks", checks, "--request-timeout", "20"])
        .args(["--suppress-health-check", "all", "--continue-on-failure", "--no-shrink", "--no-color"])
        // It never ends; the tests of roles read it.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["-H", &format!("Authorization: Bearer {}", token.trim())])
        .stdin(Stdio::null())
        .output()
        .expect("python3 runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{told}");
}
