//! Rules, classes, commits.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, other, ping, read, source, tcp, udp};
use crate::plane::workers;
use popgate::config::AclAction;
use popgate::flow::EndReason;
use popgate::model::Protocol;
use popgate::pipeline::report::ClearAsked;
use popgate::wire::tcp_flags::{ACK, FIN, RST, SYN};

#[test]
fn a_rule_that_drops_is_named_where_drops_are_counted() {
    let mut sim = Sim::up();
    assert!(sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:27015", b"x").bytes()).is_empty());
    let rows = sim.drops("berlin");
    let row = rows.iter().find(|row| row.reason == "acl-dropped").expect("counted");
    assert_eq!(
        (row.tenant.as_deref(), row.detail.as_deref(), row.packets),
        (Some("acme"), Some("no-games"), 1)
    );
}

#[test]
fn a_rule_that_rejects_answers_tcp_with_a_reset_and_the_rest_with_icmp() {
    let mut sim = Sim::up();
    let answers = sim.from_lan("berlin", &tcp("10.1.0.5:1000", "203.0.113.80:23", SYN, b"").bytes());
    assert_eq!(ends(&answers[0]), "203.0.113.80:23 > 10.1.0.5:1000");
    assert_eq!(read(&answers[0]).tcp_flags(), RST | ACK);
    let answers = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:123", b"x").bytes());
    assert_eq!(answers[0][20..22], [3, 13], "administratively prohibited");
    assert_eq!(sim.dropped("berlin", Some("acme"), "acl-rejected"), 2);
}

#[test]
fn classes_come_from_dscp_and_ports_and_steer_the_path() {
    let mut sim = Sim::up();
    sim.from_lan("berlin", &udp("10.1.0.5:1", "203.0.113.80:9", b"").dscp(46).bytes());
    sim.from_lan("berlin", &tcp("10.1.0.5:2", "203.0.113.80:5201", SYN, b"").bytes());
    sim.from_lan("berlin", &udp("10.1.0.5:3", "203.0.113.80:9", b"").bytes());
    let seen: Vec<_> = sim
        .sessions("fra1")
        .into_iter()
        .map(|s| (s.source_port, s.class, s.rule, s.forward_path.expect("came by a path")))
        .collect();
    let told =
        |port: u16, class: &str, path: &str| (port, class.to_owned(), "out".to_owned(), path.to_owned());
    assert_eq!(seen, [told(3, "default", "dsl"), told(2, "bulk", "lte"), told(1, "voice", "dsl")]);
}

#[test]
fn a_commit_that_denies_a_running_flow_drops_its_next_packet_and_leaves_others_their_binding() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    let kept = sim.from_lan("berlin", &udp("10.1.0.5:1001", "203.0.113.81:53", b"x").bytes());
    let denying = ACME.replacen(
        "[[acl]]",
        "[[acl]]\nname = \"not-80\"\nto = [\"203.0.113.80\"]\naction = \"drop\"\n[[acl]]",
        1,
    );
    sim.commit(&[("acme", &denying), ("globex", GLOBEX)]);
    assert!(sim.from_internet(&answer(&out[0], b"late")).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "acl-dropped"), 1);
    assert_eq!(ends(&sim.from_internet(&answer(&kept[0], b"fine"))[0]), "203.0.113.81:53 > 10.1.0.5:1001");
    let again = sim.from_lan("berlin", &udp("10.1.0.5:1001", "203.0.113.81:53", b"x").bytes());
    assert_eq!(ends(&again[0]), ends(&kept[0]));
    // Its record waits for what its hosts still send.
    sim.advance(11_000);
    let ended: Vec<_> = sim.node("fra1").records.iter().map(|r| r.end_reason).collect();
    assert_eq!(ended, [EndReason::ForcedEnd]);
}

#[test]
fn sessions_that_are_cleared_end_and_nobody_elses_do() {
    let mut sim = Sim::up();
    let one = |sim: &mut Sim, branch, from| {
        sim.from_lan(branch, &udp(from, "203.0.113.80:53", b"x").bytes()).remove(0)
    };
    let gone = one(&mut sim, "berlin", "10.1.0.5:1000");
    let stays = one(&mut sim, "berlin", "10.1.0.5:1001");
    let others = one(&mut sim, "site1", "10.1.0.5:1000");
    let asked = |from: &str, protocol| ClearAsked {
        tenant: "acme".into(),
        protocol,
        from: Some(from.parse().expect("an end")),
        to: None,
    };
    assert_eq!(sim.clear("fra1", &asked("10.1.0.5:1000", Some(Protocol::TCP))), 0);
    assert_eq!(sim.clear("fra1", &asked("203.0.113.80:53", None)), 0, "it has begun none");
    assert_eq!(sim.clear("fra1", &asked("10.1.0.5:1000", None)), 1);
    assert!(sim.from_internet(&answer(&gone, b"late")).is_empty());
    for kept in [&stays, &others] {
        assert_eq!(sim.from_internet(&answer(kept, b"fine")).len(), 1);
    }
    // All of a host's, towards one server.
    let to = Some("203.0.113.80".parse().expect("an end"));
    assert_eq!(sim.clear("fra1", &ClearAsked { to, ..asked("10.1.0.5", None) }), 1);
    assert_eq!(sim.sessions("fra1").len(), 1, "the other tenant's");
    sim.advance(1_000);
    let ended: Vec<_> = sim.node("fra1").records.iter().map(|record| record.end_reason).collect();
    assert_eq!(ended, [EndReason::ForcedEnd; 2]);
    // And it may begin anew.
    let again = one(&mut sim, "berlin", "10.1.0.5:1000");
    assert_eq!(sim.from_internet(&answer(&again, b"again")).len(), 1);
}

#[test]
fn a_commit_that_takes_the_pool_away_revokes_its_bindings() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    let moved = ACME.replace("198.51.100.0/30", "198.51.100.16/30");
    sim.commit(&[("acme", &moved), ("globex", GLOBEX)]);
    assert!(sim.from_internet(&answer(&out[0], b"late")).is_empty());
    // Where the answer reached another worker than the session's, that one knows the address as nobody's now, and the
    // session hears of it with the host's next packet.
    if sim.dropped("fra1", None, "no-route") == 1 {
        assert!(workers() > 1);
        assert!(sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes()).is_empty());
    }
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-binding-revoked"), 1);
    let again = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    let source = source(&again[0]).to_string();
    assert!(["198.51.100.16", "198.51.100.17", "198.51.100.18", "198.51.100.19"].contains(&source.as_str()));
}

#[test]
fn a_tenant_that_a_commit_removes_is_gone_at_once_and_its_id_is_nobodys() {
    let mut sim = Sim::up();
    let out = sim.from_lan("site1", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    sim.commit(&[("acme", ACME)]);
    assert!(sim.sessions("fra1").iter().all(|s| s.tenant == "acme"));
    assert!(sim.from_internet(&answer(&out[0], b"late")).is_empty());
    assert!(sim.from_lan("site1", &udp("10.1.0.5:1001", "203.0.113.80:53", b"x").bytes()).is_empty());
}

#[test]
fn tcp_is_followed_to_its_end_and_the_record_says_so() {
    let mut sim = Sim::up();
    let from = "10.1.0.5:1000";
    let to = "203.0.113.80:80";
    let syn = sim.from_lan("berlin", &tcp(from, to, SYN, b"").bytes());
    sim.from_internet(&answer(&syn[0], b""));
    sim.from_lan("berlin", &tcp(from, to, ACK, b"GET").bytes());
    assert_eq!(sim.sessions("fra1")[0].tcp_state.as_deref(), Some("established"));
    let fin = sim.from_lan("berlin", &tcp(from, to, FIN | ACK, b"").bytes());
    let ends = ends(&fin[0]);
    let (nat, server) = ends.split_once(" > ").expect("two ends");
    sim.from_internet(&tcp(server, nat, FIN | ACK, b"").bytes());
    assert_eq!(sim.sessions("fra1")[0].tcp_state.as_deref(), Some("closed"));
    // The same ports again begin a new session at once.
    sim.from_lan("berlin", &tcp(from, to, SYN, b"").bytes());
    assert_eq!(sim.sessions("fra1")[0].tcp_state.as_deref(), Some("syn-sent"));
    let records = &sim.node("fra1").records;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].end_reason, popgate::flow::EndReason::EndOfFlow);
    assert_eq!(records[0].directions.map(|d| d.packets), [3, 2]);
}

#[test]
fn idle_sessions_end_by_their_protocols_timeouts_and_give_their_ports_back() {
    let mut sim = Sim::up();
    sim.from_lan("site1", &ping("10.1.0.5", "203.0.113.80", 5_001, b"").bytes());
    sim.from_lan("site1", &udp("10.1.0.5:5001", "203.0.113.80:53", b"").bytes());
    assert_eq!(sim.sessions("fra1").len(), 2);
    sim.advance(59_000);
    assert_eq!(sim.sessions("fra1").len(), 2);
    sim.advance(2_000);
    assert_eq!(sim.sessions("fra1").len(), 1, "an echo is kept for 60 s (RFC 5508 REQ-2)");
    sim.advance(238_000);
    assert_eq!(sim.sessions("fra1").len(), 1);
    sim.advance(2_000);
    assert_eq!(sim.sessions("fra1").len(), 0, "UDP is kept for 5 min (RFC 4787 REQ-5)");
    assert!(sim.node("fra1").records.iter().any(|r| r.end_reason == popgate::flow::EndReason::IdleTimeout));
}

#[test]
fn a_flow_without_ports_keeps_its_binding_across_a_commit() {
    let mut sim = Sim::up();
    let gre = other("10.1.0.5", "203.0.113.80", 47, &[0; 40]).bytes();
    let before = sim.from_lan("berlin", &gre);
    sim.commit(&[("acme", ACME), ("globex", GLOBEX)]);
    let after = sim.from_lan("berlin", &gre);
    assert_eq!(after, before, "{:?}", sim.drops("fra1"));
}

#[test]
fn a_flow_whose_far_side_a_commit_moves_to_another_handoff_begins_anew_there() {
    let with_v6 = ACME
        .replace("prefixes = [\"10.200.0.0/16\"]", "prefixes = [\"10.200.0.0/16\", \"2001:db8:200::/48\"]");
    let mut sim = Sim::with_policies(&with_v6, GLOBEX);
    sim.advance(2_000);
    let packet = udp("[2001:db8:1::5]:1000", "[2001:db8:200::9]:53", b"q").bytes();
    assert_eq!(sim.send("berlin", "lan", &packet)[0].0, "fra1 pg1");
    sim.commit(&[("acme", ACME), ("globex", GLOBEX)]);
    // The answers would come from another zone than the session's: it ends, and the next packet makes a new one.
    assert!(sim.send("berlin", "lan", &packet).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-binding-revoked"), 1);
    let out = sim.send("berlin", "lan", &packet);
    assert_eq!(out[0].0, "fra1 pg-internet");
    assert_eq!(sim.send("fra1", "internet", &answer(&out[0].1, b"a"))[0].0, "berlin pg-lan");
}

#[test]
fn paths_that_exchange_their_keys_in_a_commit_are_both_found_again() {
    let anywhere = ACME.replace("transport = \"isp-a\"\n", "").replace("transport = \"isp-b\"\n", "");
    let mut sim = Sim::with_policies(&anywhere, GLOBEX);
    sim.advance(2_000);
    let exchanged = anywhere.replace("@berlin-dsl@", "@x@").replace("@berlin-lte@", "@berlin-dsl@");
    let exchanged = exchanged.replace("@x@", "@berlin-lte@");
    sim.commit(&[("acme", &exchanged), ("globex", GLOBEX)]);
    sim.advance(10_000);
    assert_eq!(sim.dropped("fra1", None, "peer-unknown"), 0);
    assert!(sim.paths("fra1").iter().all(|p| p.state == popgate::pipeline::report::PathState::Up));
}

#[test]
fn a_path_that_a_commit_confines_to_a_transport_sends_on_no_other() {
    let mut sim = Sim::up();
    let packet = udp("10.1.0.5:1000", "10.2.0.9:53", b"q").bytes();
    assert_eq!(sim.from_lan("berlin", &packet).len(), 1);
    let confined =
        ACME.replace("public-key = \"@lyon-dsl@\"", "public-key = \"@lyon-dsl@\"\ntransport = \"isp-b\"");
    sim.commit(&[("acme", &confined), ("globex", GLOBEX)]);
    assert!(sim.from_lan("berlin", &packet).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "no-path"), 1);
}

#[test]
fn ipv6_is_not_translated_whatever_a_nat_rule_says() {
    let translating = format!("{ACME}\n[[nat]]\nname = \"all\"\npool = [\"198.51.100.0/31\"]\n");
    let mut sim = Sim::with_policies(&translating, GLOBEX);
    sim.advance(2_000);
    let out = sim.from_lan("berlin", &udp("[2001:db8:1::5]:1000", "[2001:db8:ffff::9]:53", b"q").bytes());
    assert_eq!(ends(&out[0]), "[2001:db8:1::5]:1000 > [2001:db8:ffff::9]:53");
    assert_eq!(sim.from_internet(&answer(&out[0], b"a")).len(), 1, "{:?}", sim.drops("fra1"));
    assert_eq!(sim.node("fra1").plane.ports_in_use(), 0);
}

#[test]
fn a_rule_counts_the_sessions_it_accepts_at_once_and_what_went_in_them_when_they_are_recorded() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    sim.from_internet(&answer(&out[0], b"yes"));
    sim.from_lan("berlin", &udp("10.1.0.5:1001", "203.0.113.80:53", b"x").bytes());
    let rule = sim.rule("fra1", "acme", "out");
    assert_eq!((rule.sessions, rule.packets, rule.bytes), (2, 0, 0));
    let fra1 = "tenants/acme.toml:";
    assert!(rule.at.starts_with(fra1), "{}", rule.at);
    sim.advance(6 * 60_000);
    let rule = sim.rule("fra1", "acme", "out");
    assert_eq!((rule.sessions, rule.packets, rule.bytes), (2, 3, 29 + 31 + 29));
    assert_eq!(sim.rule("fra1", "globex", "all-out").sessions, 0);
}

#[test]
fn a_rule_that_refuses_counts_packets_and_a_session_that_never_was_counts_for_none() {
    let mut sim = Sim::up();
    for _ in 0..3 {
        sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:27015", b"x").bytes());
    }
    let rule = sim.rule("berlin", "acme", "no-games");
    assert_eq!((rule.sessions, rule.dropped_packets), (0, 3));
    // Accepted, and then too far to go.
    sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").ttl(1).bytes());
    assert_eq!(sim.rule("berlin", "acme", "out").sessions, 0);
}

#[test]
fn a_rule_that_logs_tells_of_the_first_packet_of_each_session_and_what_is_too_much_is_counted() {
    let logging = ACME.replace("action = \"drop\"", "action = \"drop\"\nlog = true");
    let out = "to = [\"handoff:internet\"]\naction = \"accept\"";
    assert_eq!(logging.matches(out).count(), 1);
    let logging = logging.replace(out, &format!("{out}\nlog = true"));
    let mut sim = Sim::with_policies(&logging, GLOBEX);
    sim.advance(2_000);
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    sim.from_lan("berlin", &packet);
    sim.from_lan("berlin", &packet);
    sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:27015", b"x").bytes());
    let lines = sim.node("berlin").plane.take_logged();
    let told: Vec<_> = lines.iter().map(|line| (line.action, line.key.destination_port)).collect();
    assert_eq!(told, [(AclAction::Accept, 53), (AclAction::Drop, 27_015)]);
    for port in 0..100 {
        sim.from_lan("berlin", &udp(&format!("10.1.0.5:{}", 2_000 + port), "203.0.113.80:53", b"x").bytes());
    }
    // 10 in a second, of which the first was told above.
    assert_eq!(sim.node("berlin").plane.take_logged().len(), 9);
    assert_eq!(sim.rule("berlin", "acme", "out").unlogged, 91);
    sim.advance(1_000);
    sim.from_lan("berlin", &udp("10.1.0.5:3000", "203.0.113.80:53", b"x").bytes());
    let lines = sim.node("berlin").plane.take_logged();
    assert_eq!(lines.iter().map(|line| line.unlogged).collect::<Vec<_>>(), [91]);
}

#[test]
fn a_rule_for_one_direction_leaves_sessions_that_begin_at_the_other_end_alone() {
    let inbound = ACME.replacen(
        "[[acl]]",
        "[[acl]]\nname = \"in\"\ndirection = \"inbound\"\naction = \"drop\"\n[[acl]]",
        1,
    );
    let mut sim = Sim::with_policies(&inbound, GLOBEX);
    sim.advance(2_000);
    let call = tcp("[2001:db8:99::1]:1000", "[2001:db8:1::80]:80", SYN, b"").bytes();
    assert!(sim.from_internet(&call).is_empty());
    assert_eq!(sim.rule("fra1", "acme", "in").dropped_packets, 1);
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    assert_eq!(sim.from_internet(&answer(&out[0], b"an answer is not a session")).len(), 1);
    assert_eq!(sim.from_lan("berlin", &udp("10.1.0.5:1000", "10.2.0.9:53", b"x").bytes()).len(), 1);
}
