//! Services that tenants publish to each other: `globex` publishes a web server at `site1` to `acme`, whose addresses are the
//! same, and `acme` one behind its private handoff to `globex`.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, ping, read, tcp, udp};
use popgate::config::Outcome;
use popgate::model::{AskedFlow, Protocol};
use popgate::wire::tcp_flags::SYN;
use popgate::wire::{IcmpError, icmp_error};

const SUBSCRIBER: &str = r#"
[[subscribe]]
tenant = "globex"
services = { web = "10.1.255.1", pong = "10.1.255.2" }
map = { "10.1.0.0/16" = "172.20.0.0/16" }

[[publish]]
name = "files"
host = "10.200.0.9"
protocol = "tcp"
dst-port = 445

[[subscriber]]
tenant = "globex"
services = ["files"]
known-as = "172.31.0.0/16"

[[acl]]
name = "to-web"
to = ["service:globex/web", "service:globex/pong"]
action = "accept"

[[acl]]
name = "to-files"
from = ["tenant:globex"]
action = "accept"
"#;

const PUBLISHER: &str = r#"
[[publish]]
name = "web"
host = "10.1.0.80"
protocol = "tcp"
dst-port = [443, 8443]

[[publish]]
name = "pong"
host = "10.1.0.80"
protocol = ["icmp", "udp"]

[[subscriber]]
tenant = "acme"
services = ["web", "pong"]
known-as = "172.20.0.0/15"

[[subscribe]]
tenant = "acme"
services = { files = "10.99.0.9" }
map = { "10.1.0.0/16" = "172.31.0.0/16" }

[[acl]]
name = "no-8443"
from = ["tenant:acme"]
protocol = "tcp"
dst-port = 8443
action = "drop"

[[acl]]
name = "guests"
from = ["tenant:acme"]
to = ["branch:site1"]
direction = "inbound"
action = "accept"

[[acl]]
name = "to-acme"
to = ["tenant:acme"]
action = "accept"
"#;

pub fn policies() -> (String, String) {
    (ACME.to_owned() + SUBSCRIBER, GLOBEX.to_owned() + PUBLISHER)
}

pub fn up() -> Sim {
    let (acme, globex) = policies();
    let mut sim = Sim::with_policies(&acme, &globex);
    sim.advance(2_000);
    sim
}

pub fn syn(from: &str, to: &str) -> Vec<u8> {
    tcp(from, to, SYN, b"").bytes()
}

#[test]
fn a_published_service_is_called_by_addresses_of_each_tenants_own() {
    let mut sim = up();
    let called = sim.send("berlin", "lan", &syn("10.1.0.80:4000", "10.1.255.1:443"));
    // The caller has the very address that the server has.
    let [(at, packet)] = called.as_slice() else { panic!("{called:?}") };
    assert_eq!((at.as_str(), ends(packet).as_str()), ("site1 pg-lan", "172.20.0.80:4000 > 10.1.0.80:443"));
    let answered = sim.send("site1", "lan", &answer(packet, b""));
    let [(at, packet)] = answered.as_slice() else { panic!("{answered:?}") };
    assert_eq!((at.as_str(), ends(packet).as_str()), ("berlin pg-lan", "10.1.255.1:443 > 10.1.0.80:4000"));
    let sessions = sim.sessions("fra1");
    let told = sessions.iter().map(|s| (s.tenant.as_str(), s.rule.as_str(), s.from.as_str(), s.to.as_str()));
    assert_eq!(told.collect::<Vec<_>>(), [("acme", "to-web", "branch:berlin", "tenant:globex")]);
    assert_eq!(sim.rule("fra1", "globex", "guests").sessions, 1);
}

#[test]
fn a_service_may_stand_behind_a_private_handoff() {
    let mut sim = up();
    let called = sim.send("site1", "lan", &syn("10.1.0.5:4000", "10.99.0.9:445"));
    let [(at, packet)] = called.as_slice() else { panic!("{called:?}") };
    assert!(at.starts_with("fra1 pg"), "{at}");
    assert_eq!(ends(packet), "172.31.0.5:4000 > 10.200.0.9:445");
    let answered = sim.send("fra1", "dc", &answer(packet, b""));
    let [(at, packet)] = answered.as_slice() else { panic!("{answered:?}") };
    assert_eq!((at.as_str(), ends(packet).as_str()), ("site1 pg-lan", "10.99.0.9:445 > 10.1.0.5:4000"));
}

#[test]
fn a_ping_comes_back_as_from_who_was_called() {
    let mut sim = up();
    let there = sim.from_lan("berlin", &ping("10.1.0.5", "10.1.255.2", 7, b"x").bytes());
    assert_eq!(ends(&there[0]), "172.20.0.5 > 10.1.0.80 echo 7");
    let back = sim.from_lan("site1", &answer(&there[0], b"x"));
    assert_eq!(ends(&back[0]), "10.1.255.2 > 10.1.0.5 echo reply 7");
}

#[test]
fn nobody_calls_a_subscriber_by_what_it_is_known_as() {
    let mut sim = up();
    sim.from_lan("berlin", &syn("10.1.0.5:4000", "10.1.255.1:443"));
    for (from, to) in [("10.1.0.80:443", "172.20.0.5:4001"), ("10.1.0.81:443", "172.20.0.5:4000")] {
        // The answer is the PoP's: there is no route.
        let delivered = sim.send("site1", "lan", &syn(from, to));
        assert!(delivered.iter().all(|(at, _)| at == "site1 pg-lan"), "{delivered:?}");
    }
    assert_eq!(sim.dropped("fra1", Some("globex"), "no-route"), 2);
}

#[test]
fn nobody_at_the_publishers_is_taken_for_a_subscriber() {
    let mut sim = up();
    sim.from_lan("berlin", &syn("10.1.0.5:4000", "10.1.255.1:443"));
    // The branch itself lets no such source out of its LAN; a peer that does, the PoP stops.
    assert!(sim.from_lan("site1", &syn("172.20.0.5:4000", "10.1.0.80:443")).is_empty());
    assert_eq!(sim.dropped("site1", Some("globex"), "source-not-allowed"), 1);
    assert!(sim.send("fra1", "dc", &syn("172.31.0.5:4000", "10.200.0.9:445")).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "source-not-allowed"), 1);
}

#[test]
fn the_publishers_acl_has_its_say_and_its_rules_count() {
    let mut sim = up();
    assert!(sim.from_lan("berlin", &syn("10.1.0.5:4000", "10.1.255.1:8443")).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "acl-dropped"), 1);
    assert_eq!(sim.rule("fra1", "globex", "no-8443").dropped_packets, 1);
    assert_eq!(sim.rule("fra1", "globex", "guests").sessions, 0);
}

#[test]
fn an_error_shows_neither_tenant_an_address_of_the_others() {
    let mut sim = up();
    let there = sim.from_lan("berlin", &udp("10.1.0.5:4000", "10.1.255.2:53", b"x").bytes());
    // A router at the publisher's, not the server itself.
    let router = ([10, 1, 0, 1].into(), [0; 16].into());
    let error = icmp_error(&there[0], &read(&there[0]), IcmpError::NoRoute, router);
    let back = sim.from_lan("site1", &error);
    assert_eq!(ends(&back[0]), "10.1.255.2 > 10.1.0.5 error about 10.1.0.5:4000 > 10.1.255.2:53");
}

#[test]
fn a_commit_that_ends_a_subscription_drops_the_next_packet_and_leaves_others_theirs() {
    let mut sim = up();
    let gone = sim.from_lan("berlin", &syn("10.1.0.5:4000", "10.1.255.1:443"));
    let kept = sim.from_lan("berlin", &udp("10.1.0.5:4000", "10.1.255.2:53", b"x").bytes());
    let (acme, globex) = policies();
    let acme = acme.replace("web = \"10.1.255.1\", ", "").replace("\"service:globex/web\", ", "");
    sim.commit(&[("acme", &acme), ("globex", &globex)]);
    assert!(sim.from_lan("site1", &answer(&gone[0], b"")).is_empty());
    assert_eq!(ends(&sim.from_lan("site1", &answer(&kept[0], b""))[0]), "10.1.255.2:53 > 10.1.0.5:4000");
}

#[test]
fn a_commit_of_the_publishers_that_denies_a_running_session_drops_its_next_packet() {
    let mut sim = up();
    let there = sim.from_lan("berlin", &syn("10.1.0.5:4000", "10.1.255.1:443"));
    let (acme, globex) = policies();
    sim.commit(&[("acme", &acme), ("globex", &globex.replace("dst-port = 8443", "dst-port = [443, 8443]"))]);
    assert!(sim.from_lan("site1", &answer(&there[0], b"")).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "acl-dropped"), 1);
}

#[test]
fn the_way_into_another_tenant_is_explained_with_what_that_one_says() {
    let mut sim = up();
    let asked = |to: &str| AskedFlow {
        from: "10.1.0.5".parse().expect("an end"),
        to: to.parse().expect("an end"),
        protocol: Protocol::TCP,
        dscp: 0,
        sni: None,
    };
    let told = sim.explain("fra1", "acme", &asked("10.1.255.1:443"));
    assert_eq!((told.outcome, told.rule.as_deref()), (Outcome::Accept, Some("to-web")));
    assert_eq!(told.nat, ["172.20.0.5"]);
    let text: Vec<&str> = told.steps.iter().map(|step| step.text.as_str()).collect();
    for line in [
        "10.1.255.1 belongs to tenant:globex, as part of 10.1.255.1/32",
        "a service of globex: the source becomes 172.20.0.5, the destination 10.1.0.80",
        "in globex: 172.20.0.5 belongs to tenant:acme, as part of 172.20.0.0/15",
        "in globex: guests fits: accept",
    ] {
        assert!(text.contains(&line), "{text:#?}");
    }
    assert_eq!(told.paths.iter().map(|step| step.path.as_str()).collect::<Vec<_>>(), ["wan"]);
    let refused = sim.explain("fra1", "acme", &asked("10.1.255.1:8443"));
    assert_eq!((refused.outcome, refused.rule.as_deref()), (Outcome::Drop, Some("no-8443")));
    let closed = sim.explain("fra1", "acme", &asked("10.1.255.1:22"));
    assert_eq!(closed.reason.as_deref(), Some("service-not-published"));
}
