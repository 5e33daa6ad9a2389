//! Breakout: what a branch lets straight out, past the PoPs, by the address of an interface of its own.

use crate::net::{ACME, GLOBEX, Link, Sim};
use crate::packets::{answer, ends, other, ping, source, tcp, udp};
use crate::steering::{DSL, call};
use popgate::config::Outcome;
use popgate::model::{AskedFlow, Protocol};
use popgate::wire::tcp_flags::{ACK, SYN};

const OWN: &str = "192.0.2.77";

/// What is bulk, and what is called an update server, breaks out; voice does if dsl is down.
fn acme() -> String {
    let classes = r#"
[[app-class]]
name = "updates"
match = [ { domain = "updates.example" } ]

[[path-policy]]
class = "updates"
prefer = ["breakout"]

[[path-policy]]
class = "voice"
prefer = ["dsl", "breakout"]

[[app-class]]
"#;
    ACME.replacen("[[app-class]]", classes, 1)
        .replace("prefer = [\"lte\"]", "prefer = [\"breakout\", \"lte\"]")
}

fn up() -> Sim {
    let acme = acme();
    let mut sim = Sim::with_policies(&acme, GLOBEX);
    sim.break_out("berlin", Some(OWN), ("acme", &acme));
    sim.advance(2_000);
    sim
}

/// Where a packet of berlin's came out, and with which source.
fn left(sim: &mut Sim, packet: &[u8]) -> (String, String) {
    let out = sim.send("berlin", "lan", packet);
    let [(at, packet)] = out.as_slice() else { panic!("{out:?}") };
    (at.clone(), source(packet).to_string())
}

fn broke_out() -> (String, String) {
    ("berlin pg-breakout".to_owned(), OWN.to_owned())
}

fn bulk(port: u16) -> Vec<u8> {
    tcp(&format!("10.1.0.5:{port}"), "203.0.113.80:5201", SYN, b"").bytes()
}

fn voice(port: u16) -> Vec<u8> {
    udp(&format!("10.1.0.5:{port}"), "203.0.113.80:9", b"").dscp(46).bytes()
}

#[test]
fn a_class_that_breaks_out_leaves_at_the_branch_and_everything_else_by_the_pop() {
    let mut sim = up();
    let out = sim.send("berlin", "lan", &bulk(4_000));
    assert_eq!((out[0].0.clone(), source(&out[0].1).to_string()), broke_out());
    let back = sim.send("berlin", "breakout", &answer(&out[0].1, b""));
    assert_eq!(ends(&back[0].1), "203.0.113.80:5201 > 10.1.0.5:4000");
    assert_eq!(back[0].0, "berlin pg-lan");
    let (at, _) = left(&mut sim, &udp("10.1.0.5:4000", "203.0.113.80:53", b"x").bytes());
    assert_eq!(at, "fra1 pg-internet");
    // The PoP knows of the one session alone, the branch of both.
    assert_eq!((sim.sessions("fra1").len(), sim.sessions("berlin").len()), (1, 2));
    let session = sim.sessions("berlin").into_iter().find(|session| session.class == "bulk").expect("one");
    assert_eq!((session.to.as_str(), session.nat_source), ("handoff:internet", OWN.parse().ok()));
}

#[test]
fn the_branchs_acl_is_asked_before_anything_breaks_out() {
    let policy = acme().replacen(
        "[[acl]]",
        "[[acl]]\nname = \"no-bulk\"\nclass = \"bulk\"\naction = \"drop\"\n[[acl]]",
        1,
    );
    let mut sim = up();
    sim.break_out("berlin", Some(OWN), ("acme", &policy));
    assert!(sim.from_lan("berlin", &bulk(4_000)).is_empty());
    assert_eq!(sim.dropped("berlin", Some("acme"), "acl-dropped"), 1);
}

#[test]
fn between_branches_and_without_ports_or_in_ipv6_nothing_breaks_out() {
    let mut sim = up();
    let inner = tcp("10.1.0.5:1", "10.2.0.9:5201", SYN, b"").bytes();
    assert_eq!(left(&mut sim, &inner).0, "lyon pg-lan");
    let v6 = tcp("[2001:db8:1::5]:1", "[2001:db8:99::1]:5201", SYN, b"").bytes();
    assert_eq!(left(&mut sim, &v6).0, "fra1 pg-internet");
    let gre = other("10.1.0.5", "203.0.113.80", 47, b"gre").dscp(46);
    assert_eq!(left(&mut sim, &gre.bytes()).0, "fra1 pg-internet");
}

#[test]
fn breakout_is_a_backup_where_it_comes_after_a_path() {
    let mut sim = up();
    assert_eq!(left(&mut sim, &voice(1)).0, "fra1 pg-internet");
    sim.cut("203.0.113.1:1001");
    sim.advance(5_000);
    // What has begun keeps its address, by the path that is left; what begins now breaks out.
    assert_eq!(left(&mut sim, &voice(1)).0, "fra1 pg-internet");
    assert_eq!(left(&mut sim, &voice(2)), broke_out());
    sim.heal("203.0.113.1:1001");
    // What comes back is held for ten seconds.
    sim.advance(20_000);
    assert_eq!(left(&mut sim, &voice(2)), broke_out());
    assert_eq!(left(&mut sim, &voice(3)).0, "fra1 pg-internet");
}

#[test]
fn a_path_that_breaks_what_the_class_needs_is_no_better_than_breaking_out() {
    let voice_wants = "class = \"voice\"\nsla-class = \"gold\"\n";
    let gold = "[[sla-class]]\nname = \"gold\"\nmax-loss = \"1%\"\n";
    let acme = acme().replace("class = \"voice\"\nprefer", &format!("{voice_wants}prefer")) + gold;
    let mut sim = Sim::with_policies(&acme, GLOBEX);
    sim.break_out("berlin", Some(OWN), ("acme", &acme));
    sim.advance(2_000);
    assert_eq!(left(&mut sim, &voice(1)).0, "fra1 pg-internet");
    sim.impair(DSL, [Link { loss: 0.3, ..Link::default() }, Link::default()]);
    call(&mut sim, 2);
    sim.impair(DSL, [Link::default(); 2]);
    sim.take_delivered();
    assert_eq!(left(&mut sim, &voice(2)), broke_out());
    assert_eq!(left(&mut sim, &voice(1)).0, "fra1 pg-internet", "what runs keeps its address");
}

#[test]
fn a_name_that_comes_late_does_not_take_a_session_from_the_way_that_it_has() {
    let mut sim = up();
    let open = tcp("10.1.0.5:4000", "203.0.113.80:80", SYN, b"").bytes();
    let (at, before) = left(&mut sim, &open);
    assert_eq!(at, "fra1 pg-internet");
    let request = b"GET / HTTP/1.1\r\nHost: eu.updates.example\r\n\r\n";
    let said = tcp("10.1.0.5:4000", "203.0.113.80:80", ACK, request).sequence(1).bytes();
    assert_eq!(left(&mut sim, &said), ("fra1 pg-internet".to_owned(), before));
    assert!(sim.sessions("berlin").iter().any(|session| session.class == "updates"));
}

#[test]
fn while_the_interface_has_no_address_the_pop_is_the_way_and_what_was_out_ends() {
    let mut sim = up();
    let acme = acme();
    assert_eq!(left(&mut sim, &bulk(1)), broke_out());
    sim.break_out("berlin", None, ("acme", &acme));
    assert!(sim.from_lan("berlin", &bulk(1)).is_empty());
    assert_eq!(sim.dropped("berlin", Some("acme"), "nat-binding-revoked"), 1);
    assert_eq!(left(&mut sim, &bulk(1)).0, "fra1 pg-internet");
    sim.break_out("berlin", Some("192.0.2.78"), ("acme", &acme));
    assert_eq!(left(&mut sim, &bulk(2)).1, "192.0.2.78");
    assert_eq!(left(&mut sim, &bulk(1)).0, "fra1 pg-internet");
}

#[test]
fn what_belongs_to_no_session_is_the_boxs_own() {
    let mut sim = up();
    for stray in [
        udp("203.0.113.80:53", &format!("{OWN}:60000"), b"not ours").bytes(),
        answer(&ping(OWN, "203.0.113.80", 60_000, b"the box's own").bytes(), b""),
    ] {
        let back = sim.send("berlin", "breakout", &stray);
        assert_eq!(back, [("berlin pg-breakout".to_owned(), stray)]);
    }
}

#[test]
fn the_way_out_is_explained_among_the_paths() {
    let mut sim = up();
    let asked = |port: &str, dscp| AskedFlow {
        from: "10.1.0.5".parse().expect("an end"),
        to: format!("203.0.113.80:{port}").parse().expect("an end"),
        protocol: Protocol::TCP,
        dscp,
        sni: None,
    };
    let paths = |sim: &mut Sim, asked: &AskedFlow| {
        let told = sim.explain("berlin", "acme", asked);
        assert_eq!(told.outcome, Outcome::Accept);
        let ways: Vec<String> = told.paths.iter().map(|step| step.path.clone()).collect();
        (ways.join(" "), told.nat.join(" "))
    };
    let told = |ways: &str, nat: &str| (ways.to_owned(), nat.to_owned());
    assert_eq!(paths(&mut sim, &asked("5201", 0)), told("breakout lte dsl", "192.0.2.77/32"));
    assert_eq!(paths(&mut sim, &asked("443", 46)), told("dsl breakout lte", ""));
    assert_eq!(paths(&mut sim, &asked("443", 0)), told("dsl lte", ""));
}
