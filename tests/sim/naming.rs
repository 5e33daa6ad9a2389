//! Names: by DNS answers, by what a flow says itself; classes that come late, and what they may not do.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, tcp, udp};
use popgate::config::Outcome;
use popgate::flow::EndReason;
use popgate::model::{AskedFlow, Protocol};
use popgate::pipeline::report::SessionReport;
use popgate::wire::tcp_flags::{ACK, SYN};

const SERVER: &str = "203.0.113.80";

/// acme's policy, with classes by names: what is of the class `business` takes lte, what is of `games` is dropped.
fn by_names() -> String {
    let classes = r#"
[[app-class]]
name = "business"
match = [ { domain = "sap.example" }, { app = "github", protocol = "tcp", dst-port = 443 } ]

[[app-class]]
name = "games"
match = [ { domain = "games.example" } ]

[[acl]]
name = "no-games-by-name"
class = "games"
action = "drop"

[[path-policy]]
class = "business"
prefer = ["lte"]

[[app-class]]
"#;
    ACME.replacen("[[app-class]]", classes, 1)
}

fn up(acme: &str, globex: &str) -> Sim {
    let mut sim = Sim::with_policies(acme, globex);
    sim.advance(2_000);
    sim
}

/// What a DNS message says of `name`: the question, or the answer that it is `address`, with a TTL of 300 s.
fn dns(id: u16, name: &str, address: Option<&str>) -> Vec<u8> {
    let answers = u8::from(address.is_some());
    let mut message = id.to_be_bytes().to_vec();
    message.extend([if answers > 0 { 0x81 } else { 1 }, 0, 0, 1, 0, answers, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    if let Some(address) = address {
        let address: std::net::Ipv4Addr = address.parse().expect("an address");
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0x2c, 0, 4]);
        message.extend(address.octets());
    }
    message
}

/// A host asks `resolver` what address `name` has, and is told.
fn resolve(sim: &mut Sim, (branch, host): (&str, &str), resolver: &str, name: &str, address: &str) {
    let question = udp(&format!("{host}:5353"), resolver, &dns(7, name, None)).bytes();
    let sent = sim.from_lan(branch, &question);
    let told = sim.from_internet(&answer(&sent[0], &dns(7, name, Some(address))));
    assert_eq!(told.len(), 1, "the host is told");
}

fn session_of(sim: &mut Sim, node: &str, port: u16) -> SessionReport {
    let found = sim.sessions(node).into_iter().find(|session| session.source_port == port);
    found.unwrap_or_else(|| panic!("no session from port {port} at {node}"))
}

/// Class, what told it, and the name.
fn told(sim: &mut Sim, node: &str, port: u16) -> (String, String, String) {
    let session = session_of(sim, node, port);
    (session.class, session.class_by, session.name.unwrap_or_default())
}

fn owned((class, by, name): (&str, &str, &str)) -> (String, String, String) {
    (class.to_owned(), by.to_owned(), name.to_owned())
}

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A host opens a connection from `port`; gives the segment as it came out.
fn open(sim: &mut Sim, port: u16) -> Vec<u8> {
    let syn = tcp(&format!("10.1.0.5:{port}"), &format!("{SERVER}:80"), SYN, b"").sequence(99).bytes();
    sim.from_lan("berlin", &syn).remove(0)
}

/// It sends what it opened the connection for.
fn say(sim: &mut Sim, port: u16, payload: &[u8]) -> Vec<Vec<u8>> {
    let segment = tcp(&format!("10.1.0.5:{port}"), &format!("{SERVER}:80"), ACK, payload).sequence(100);
    sim.from_lan("berlin", &segment.bytes())
}

#[test]
fn a_flows_first_packet_is_classed_by_what_dns_has_answered() {
    let mut sim = up(&by_names(), GLOBEX);
    resolve(&mut sim, ("berlin", "10.1.0.9"), "9.9.9.9:53", "erp.sap.example", SERVER);
    open(&mut sim, 1000);
    for node in ["berlin", "fra1"] {
        assert_eq!(told(&mut sim, node, 1000), owned(("business", "dns", "erp.sap.example")), "{node}");
    }
    assert_eq!(
        session_of(&mut sim, "fra1", 1000).forward_path.as_deref(),
        Some("lte"),
        "with the first packet"
    );
}

#[test]
fn a_class_that_comes_late_plans_the_session_anew_at_once_and_keeps_its_binding() {
    let mut sim = up(&by_names(), GLOBEX);
    let syn = open(&mut sim, 1000);
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("default", "default", "")));
    assert_eq!(session_of(&mut sim, "fra1", 1000).forward_path.as_deref(), Some("dsl"));
    assert_eq!(sim.from_internet(&answer(&syn, b"")).len(), 1);
    let sent = say(&mut sim, 1000, &request("erp.sap.example"));
    for node in ["berlin", "fra1"] {
        assert_eq!(told(&mut sim, node, 1000), owned(("business", "http-host", "erp.sap.example")), "{node}");
    }
    assert_eq!(session_of(&mut sim, "fra1", 1000).forward_path.as_deref(), Some("lte"), "the very packet");
    assert_eq!(ends(&sent[0]), ends(&syn), "the binding is what it was");
    assert_eq!(sim.from_internet(&answer(&sent[0], b"200")).len(), 1);
    // A commit that does not touch it leaves it all that.
    sim.commit(&[("acme", &by_names()), ("globex", GLOBEX)]);
    assert_eq!(ends(&say(&mut sim, 1000, b"more")[0]), ends(&syn));
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("business", "http-host", "erp.sap.example")));
}

#[test]
fn a_name_in_several_segments_is_put_together() {
    let mut sim = up(&by_names(), GLOBEX);
    open(&mut sim, 1000);
    let request = request("erp.sap.example");
    let (first, second) = request.split_at(20);
    let segment = |sequence, payload| {
        tcp("10.1.0.5:1000", &format!("{SERVER}:80"), ACK, payload).sequence(sequence).bytes()
    };
    sim.from_lan("berlin", &segment(120, second));
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("default", "default", "")));
    sim.from_lan("berlin", &segment(100, first));
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("business", "http-host", "erp.sap.example")));
}

#[test]
fn real_clients_tls_and_quic_are_named_on_their_way() {
    let policy = by_names().replace("domain = \"sap.example\"", "domain = \"example.com\"");
    let mut sim = up(&policy, GLOBEX);
    open(&mut sim, 1000);
    let hello = include_bytes!("../corpus/inspect_tcp/tls-chromium.bin");
    let (first, second) = hello.split_at(hello.len() / 2);
    say(&mut sim, 1000, first);
    let rest = tcp("10.1.0.5:1000", &format!("{SERVER}:80"), ACK, second).sequence(100 + first.len() as u32);
    sim.from_lan("berlin", &rest.bytes());
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("business", "tls-sni", "chromium.example.com")));
    let mut datagrams = &include_bytes!("../corpus/inspect_udp/quic-chromium.bin")[..];
    while let Some((len, rest)) = datagrams.split_first_chunk::<2>() {
        let (datagram, rest) = rest.split_at(u16::from_be_bytes(*len).into());
        datagrams = rest;
        let packet = udp("10.1.0.5:1001", &format!("{SERVER}:443"), datagram).may_fragment();
        assert_eq!(sim.from_lan("berlin", &packet.bytes()).len(), 1, "{:?}", sim.drops("berlin"));
    }
    assert_eq!(told(&mut sim, "fra1", 1001), owned(("business", "quic-sni", "chromium.example.com")));
    assert_eq!(session_of(&mut sim, "fra1", 1001).forward_path.as_deref(), Some("lte"));
}

#[test]
fn a_flow_that_may_not_be_once_its_name_is_known_ends_with_that_packet() {
    let mut sim = up(&by_names(), GLOBEX);
    open(&mut sim, 1000);
    assert!(say(&mut sim, 1000, &request("eu.games.example")).is_empty());
    // berlin's own box has found out first.
    assert_eq!(sim.dropped("berlin", Some("acme"), "acl-dropped"), 1);
    // Its record waits for what its hosts still send.
    sim.advance(11_000);
    let ended: Vec<_> = sim.node("berlin").records.drain(..).collect();
    assert_eq!(ended.iter().map(|record| record.end_reason).collect::<Vec<_>>(), [EndReason::ForcedEnd]);
    assert_eq!(ended[0].name.as_ref().map(|named| &*named.name), Some("eu.games.example"));
    assert!(say(&mut sim, 1000, &request("eu.games.example")).is_empty(), "sent again, it fares no better");
    assert_eq!(sim.dropped("berlin", Some("acme"), "acl-dropped"), 2);
}

#[test]
fn what_a_name_will_change_is_explained_as_it_then_happens() {
    let mut sim = up(&by_names(), GLOBEX);
    let asked = |name: &str| AskedFlow {
        from: "10.1.0.5:4000".parse().expect("an end"),
        to: format!("{SERVER}:80").parse().expect("an end"),
        protocol: Protocol::TCP,
        dscp: 0,
        sni: Some(name.parse().expect("a name")),
    };
    let business = sim.explain("berlin", "acme", &asked("erp.sap.example"));
    let first = business.paths.first().map(|step| step.path.as_str());
    assert_eq!(
        (business.outcome, business.class.as_deref(), first),
        (Outcome::Accept, Some("business"), Some("lte"))
    );
    let texts: Vec<&str> = business.steps.iter().map(|step| step.text.as_str()).collect();
    let named =
        texts.iter().position(|text| text.starts_with("then the client calls the server erp.sap.example"));
    let before = texts.iter().position(|text| text.starts_with("class default"));
    let after = texts.iter().position(|text| text.starts_with("class business"));
    assert!(before < named && named < after && before.is_some(), "{texts:#?}");
    assert_eq!(
        texts.iter().filter(|text| text.contains("belongs to")).count(),
        2,
        "each end is told of once"
    );
    // It begins, and its name ends it.
    let games = sim.explain("berlin", "acme", &asked("play.games.example"));
    assert_eq!((games.outcome, games.rule.as_deref()), (Outcome::Drop, Some("no-games-by-name")));
    open(&mut sim, 4_000);
    say(&mut sim, 4_000, &request("play.games.example"));
    assert_eq!(sim.rule("berlin", "acme", "no-games-by-name").dropped_packets, 1);
    let silent = AskedFlow { protocol: Protocol::ICMP, ..asked("play.games.example") };
    assert_eq!(sim.explain("berlin", "acme", &silent).outcome, Outcome::Accept);
}

#[test]
fn what_a_flow_says_itself_counts_more_than_what_dns_said_of_its_address() {
    let mut sim = up(&by_names(), GLOBEX);
    resolve(&mut sim, ("berlin", "10.1.0.9"), "9.9.9.9:53", "erp.sap.example", SERVER);
    open(&mut sim, 1000);
    say(&mut sim, 1000, &request("www.other.example"));
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("default", "default", "www.other.example")));
}

#[test]
fn an_app_of_the_catalog_is_told_by_its_domain() {
    let mut sim = up(&by_names(), GLOBEX);
    resolve(&mut sim, ("berlin", "10.1.0.9"), "9.9.9.9:53", "api.github.com", SERVER);
    let syn = |port: u16| tcp(&format!("10.1.0.5:{port}"), &format!("{SERVER}:{}", 443), SYN, b"");
    sim.from_lan("berlin", &syn(1000).bytes());
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("business", "dns", "api.github.com")));
    assert_eq!(session_of(&mut sim, "fra1", 1000).app.as_deref(), Some("github"));
}

#[test]
fn what_dns_has_answered_is_forgotten_with_its_ttl() {
    let mut sim = up(&by_names(), GLOBEX);
    resolve(&mut sim, ("berlin", "10.1.0.9"), "9.9.9.9:53", "erp.sap.example", SERVER);
    sim.advance(299_000);
    open(&mut sim, 1000);
    assert_eq!(told(&mut sim, "fra1", 1000).0, "business");
    sim.advance(2_000);
    open(&mut sim, 1001);
    assert_eq!(told(&mut sim, "fra1", 1001).0, "default");
}

#[test]
fn what_one_tenants_hosts_are_told_teaches_the_other_nothing() {
    let named = "[[app-class]]\nname = \"business\"\nmatch = [ { domain = \"sap.example\" } ]\n\n[[acl]]";
    let mut sim = up(&by_names(), &GLOBEX.replacen("[[acl]]", named, 1));
    resolve(&mut sim, ("site1", "10.1.0.9"), "9.9.9.9:53", "erp.sap.example", SERVER);
    open(&mut sim, 1000);
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("default", "default", "")));
    sim.from_lan("site1", &tcp("10.1.0.5:1001", &format!("{SERVER}:80"), SYN, b"").bytes());
    assert_eq!(told(&mut sim, "fra1", 1001).0, "business");
}

#[test]
fn a_tenants_other_sites_know_what_one_was_told_whichever_worker_has_them() {
    let mut sim = up(&by_names(), GLOBEX);
    resolve(&mut sim, ("berlin", "10.1.0.9"), "9.9.9.9:53", "erp.sap.example", SERVER);
    sim.from_lan("lyon", &tcp("10.2.0.5:1000", &format!("{SERVER}:80"), SYN, b"").bytes());
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("business", "dns", "erp.sap.example")));
    assert_eq!(told(&mut sim, "lyon", 1000).0, "default", "its own box has heard nothing");
}

#[test]
fn an_answer_that_nobody_asked_for_teaches_nothing() {
    let mut sim = up(&by_names(), GLOBEX);
    let question = udp("10.1.0.9:5353", "9.9.9.9:53", &dns(7, "www.other.example", None)).bytes();
    let sent = sim.from_lan("berlin", &question);
    for lie in [dns(8, "www.other.example", Some(SERVER)), dns(7, "erp.sap.example", Some(SERVER))] {
        assert_eq!(sim.from_internet(&answer(&sent[0], &lie)).len(), 1, "it is the host's to see through");
    }
    open(&mut sim, 1000);
    assert_eq!(told(&mut sim, "fra1", 1000).0, "default");
}

#[test]
fn where_policy_names_teachers_nobody_else_teaches() {
    let taught = by_names().replace("tenant = \"acme\"", "tenant = \"acme\"\ndns-teachers = [\"9.9.9.9\"]");
    let mut sim = up(&taught, GLOBEX);
    resolve(&mut sim, ("berlin", "10.1.0.9"), "203.0.113.66:53", "erp.sap.example", SERVER);
    open(&mut sim, 1000);
    assert_eq!(told(&mut sim, "fra1", 1000).0, "default");
    resolve(&mut sim, ("berlin", "10.1.0.10"), "9.9.9.9:53", "erp.sap.example", SERVER);
    open(&mut sim, 1001);
    assert_eq!(told(&mut sim, "fra1", 1001).0, "business");
}

#[test]
fn where_no_rule_asks_for_names_none_is_learned_or_looked_for() {
    let mut sim = up(ACME, GLOBEX);
    resolve(&mut sim, ("berlin", "10.1.0.9"), "9.9.9.9:53", "erp.sap.example", SERVER);
    open(&mut sim, 1000);
    say(&mut sim, 1000, &request("erp.sap.example"));
    assert_eq!(told(&mut sim, "fra1", 1000), owned(("default", "default", "")));
    assert_eq!(session_of(&mut sim, "fra1", 1000).app.as_deref(), Some("web"));
}

#[test]
fn records_tell_the_name_and_what_told_the_class() {
    let mut sim = up(&by_names(), GLOBEX);
    open(&mut sim, 1000);
    say(&mut sim, 1000, &request("erp.sap.example"));
    // The active timeout.
    sim.advance(61_000);
    let record = sim.node("fra1").records.iter().find(|record| record.key.source_port == 1000).cloned();
    let record = record.expect("a record");
    assert_eq!(record.class_by.name(), "http-host");
    assert_eq!(record.name.as_ref().map(|named| &*named.name), Some("erp.sap.example"));
}
