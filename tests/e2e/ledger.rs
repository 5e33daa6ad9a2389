//! Who had an outside address and port is known while it lasts, after popgate was stopped, and after it was killed.

use crate::hosts::{Server, curl};
use crate::world::{POPGATE, World, eventually, node, stderr, template};
use popgate::lab::Signal;
use popgate::model::AskedTime;
use popgate::store::report::{Answer, GapCause, Held, WhoHad};
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

/// A box of its own keeps a ledger.
fn world(name: &str) -> World {
    World::changed(name, &["berlin", "berlin-host"], |topology| {
        let text = template("fra1/popgate.toml") + "\n[nat-ledger]\nkeep = \"30d\"\n";
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    })
}

/// A page is fetched from Berlin's port 40000; the address that the web server saw.
fn fetch(world: &World) -> SocketAddr {
    world.await_ping("berlin-host", "203.0.113.80");
    let page = curl(world, "berlin-host", "http://203.0.113.80/whoami", &["--local-port", "40000"]);
    let seen = page.strip_prefix("/whoami ").expect("its answer");
    seen.trim().parse().unwrap_or_else(|error| panic!("{seen:?}: {error}"))
}

pub fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// The whole second in which `unix_ms` lies, as it is asked about.
pub fn at(unix_ms: u64) -> String {
    let from_unix_ms = unix_ms / 1_000 * 1_000;
    AskedTime { from_unix_ms, until_unix_ms: from_unix_ms + 1_000 }.to_string()
}

fn online(world: &World, outside: SocketAddr, unix_ms: u64) -> WhoHad {
    let (outside, at) = (outside.to_string(), at(unix_ms));
    let text = world.ask("fra1", &["who-had", &outside, "--at", &at, "--proto", "tcp", "--json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn offline(world: &World, outside: SocketAddr, unix_ms: u64) -> WhoHad {
    let ledger = world.node("fra1").state_dir().join("nat-ledger");
    let mut command = std::process::Command::new(POPGATE);
    command.args(["who-had", &outside.to_string(), "--at", &at(unix_ms), "--json", "--ledger"]).arg(ledger);
    let output = command.output().expect("popgate runs");
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("an answer")
}

/// That it was Berlin's host, and nobody else.
fn berlins(answer: &WhoHad) -> Held {
    assert_eq!(answer.answer, Answer::Held, "{answer:?}");
    let [held] = answer.holdings.as_slice() else { panic!("one: {answer:?}") };
    assert_eq!((held.tenant.as_str(), held.branch.as_deref()), ("acme", Some("berlin")));
    let host: IpAddr = "10.1.0.10".parse().expect("an address");
    assert_eq!((held.inside, held.inside_port), (Some(host), Some(40_000)));
    assert_eq!(held.protocol.as_deref(), Some("tcp"));
    held.clone()
}

#[test]
fn who_had_a_port_is_known_while_it_lasts_when_popgate_was_stopped_and_when_it_runs_again() {
    let world = world("eledger");
    let _web = Server::web(&world, "web");
    let before = now_unix_ms();
    let outside = fetch(&world);
    let after = now_unix_ms();
    // The page has come, and with it everything has long been passed on; what is written is seen at once.
    eventually("the binding is in the ledger", || online(&world, outside, after).answer == Answer::Held);
    let lasting = berlins(&online(&world, outside, after));
    assert!((before..=after).contains(&lasting.began_unix_ms), "{before} {lasting:?} {after}");
    assert_eq!((lasting.ended_unix_ms, lasting.began_unsure, lasting.ended_unsure), (None, false, false));
    let text = world.ask("fra1", &["who-had", &outside.to_string()]);
    assert!(text.contains("acme") && text.contains("10.1.0.10:40000") && text.contains("lasts"), "{text}");
    let status = world.show_text("fra1", &["status"]);
    assert!(status.contains("NAT ledger        since "), "{status}");

    let stopping = now_unix_ms();
    world.kill("fra1", Signal::TERM).expect("stopped");
    let stopped = now_unix_ms();
    let told = berlins(&offline(&world, outside, after));
    let ended = told.ended_unix_ms.expect("it ended with popgate");
    assert!((stopping..=stopped).contains(&ended) && !told.ended_unsure, "{stopping} {told:?} {stopped}");

    world.start("fra1").expect("started");
    assert_eq!(berlins(&online(&world, outside, after)), told);
    // A second later nobody has it.
    eventually("a second that popgate ran in is over", || now_unix_ms() / 1_000 > stopped / 1_000 + 3);
    let answer = online(&world, outside, now_unix_ms() - 1_000);
    assert!(answer.holdings.is_empty(), "{answer:?}");
}

#[test]
fn what_was_held_when_popgate_was_killed_is_known_and_that_its_end_is_not() {
    let world = world("eledgerkill");
    let _web = Server::web(&world, "web");
    let outside = fetch(&world);
    let after = now_unix_ms();
    eventually("the binding is in the ledger", || online(&world, outside, after).answer == Answer::Held);
    world.kill("fra1", Signal::KILL).expect("killed");
    berlins(&offline(&world, outside, after));
    world.start("fra1").expect("started");
    eventually("the ledger has been opened again", || {
        online(&world, outside, after).holdings.iter().all(|held| held.ended_unix_ms.is_some())
    });
    let answer = online(&world, outside, after);
    assert!(berlins(&answer).ended_unsure);
    assert!(answer.gaps.iter().any(|gap| gap.cause == GapCause::Stopped), "{answer:?}");
}
