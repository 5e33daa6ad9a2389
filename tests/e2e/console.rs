//! A PoP's console in a browser, of a lab: a session that was just made, the first owner, a change of the policy tried, taken back
//! and kept, and every view in both themes.

use crate::hosts::Server;
use crate::ledger;
use crate::world::{POPGATE, World, eventually, need_program, node, template};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

/// Where each view is kept as a picture, and what does not last: a dry run, a countdown.
const SCREENS: &str = "target/screens/lab";

const POLICY_TESTS: &str = "[[policy-test]]\nname = \"web-passes\"\nfrom = \"10.1.0.10\"\nto = \"203.0.113.80:8080\"\nprotocol = \"tcp\"\n\
    expect = \"accept\"\n[[policy-test]]\nname = \"web-is-translated\"\nfrom = \"10.1.0.10\"\nto = \"203.0.113.80:53\"\nprotocol = \"udp\"\n\
    expect = \"accept\"\nhandoff = \"internet\"\n";

#[test]
fn the_console_makes_an_owner_shows_a_new_session_takes_a_change_back_and_has_no_view_that_axe_finds_wrong() {
    need_program("chromium", "chromium");
    need_program("node", "nodejs");
    need("web/node_modules/playwright-core", "npm ci in web/");
    need("web/node_modules/axe-core", "npm ci in web/");
    need("web/dist/index.html", "npm ci && npm run build in web/, then build popgate again");
    let world = World::changed("econsole", &["berlin", "berlin-host"], |topology| {
        // So that there are flow records to be seen of what has only just begun.
        let text = template("fra1/popgate.toml")
            + "[export]\nactive-timeout = \"1s\"\n[nat-ledger]\n[flow-history]\n";
        let files = &mut node(topology, "fra1").files;
        files.insert("popgate.toml".to_owned(), text);
        files.insert("tenants/acme.toml".to_owned(), template("tenants/acme.toml") + POLICY_TESTS);
    });
    world.await_ping("berlin-host", "203.0.113.80");
    let _server = Server::start(&world, "web", 443, |_, _, mut stream| {
        // Open until the other side has enough of it.
        let _ = stream.read(&mut [0]);
    });
    let connection = world
        .enter("berlin-host", || TcpStream::connect("203.0.113.80:443"))
        .expect("entered")
        .expect("connected");
    let port = connection.local_addr().expect("an address").port();
    eventually("the session is established", || {
        let sessions = world.sessions("fra1");
        sessions.iter().any(|s| s.source_port == port && s.tcp_state.as_deref() == Some("established"))
    });
    eventually("a record of it is written", || {
        world.flows("fra1").flows.iter().any(|flow| flow.source_port == port)
    });
    let sessions = world.sessions("fra1");
    let session = sessions.iter().find(|session| session.source_port == port).expect("it lasts");
    let outside = session.nat_source.zip(session.nat_source_port).expect("it is translated");
    let outside = SocketAddr::from(outside);
    let at = ledger::at(ledger::now_unix_ms());
    eventually("the ledger has its binding", || {
        world.ask("fra1", &["who-had", &outside.to_string(), "--at", &at]).contains("10.1.0.10")
    });
    let token =
        std::fs::read_to_string(world.node("fra1").state_dir().join("admin-token")).expect("the token");
    let url = format!("http://{}", world.console("fra1"));
    let state_dir = world.node("fra1").state_dir();
    let state_dir = state_dir.to_str().expect("a path of ours");
    let link = world.must("fra1", &[POPGATE, "setup-link", "--url", &url, "--state-dir", state_dir]);
    // What opens the box is nobody else's to read.
    let kept = tempfile::tempdir().expect("a directory");
    let user = kept.path().join("user.json");
    run(Command::new("node").arg("web/test/setup.mjs").env("SETUP_LINK", link.trim()).env("KEEP", &user));
    std::fs::create_dir_all(SCREENS).expect("a directory");
    let script = |name: &str| {
        let mut command = Command::new("node");
        command.arg(format!("web/test/{name}"));
        command.env("BASE_URL", &url).env("TOKEN", token.trim());
        command.env("HELD_ADDRESS", outside.ip().to_string());
        command.env("HELD_PORT", outside.port().to_string()).env("HELD_AT", &at);
        command
    };
    run(script("console.mjs")
        .env("OUT", SCREENS)
        .env("HAS_FLOW_HISTORY", "203.0.113.80")
        .env("POLICY_TEST", "web-passes")
        .env("DRY_RUN_NAMES", format!("tcp 10.1.0.10:{port} -> 203.0.113.80:443"))
        .env("SESSION_TEXT", format!("10.1.0.10:{port}"))
        .env("SESSION_FILTER", format!("tenant=acme&address=10.1.0.10&port={port}"))
        .env("HELD_INSIDE", format!("10.1.0.10:{port}")));
    run(script("axe.mjs").env("OUT", SCREENS).env("USER_FILE", &user));
}

/// Runs a script to its end, which must go well.
fn run(command: &mut Command) {
    let status = command.status().expect("node runs");
    // Without the environment, where the token is.
    assert!(status.success(), "{:?} says above what it missed", command.get_args());
}

fn need(path: &str, how: &str) {
    assert!(Path::new(path).exists(), "{path} is missing: {how}");
}
