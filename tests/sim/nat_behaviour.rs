//! How the NAT behaves, in the words of RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP): mapping, filtering, timers.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, ping, read, tcp, udp};
use popgate::wire::tcp_flags::{ACK, FIN, RST, SYN};

fn with_filtering(filtering: &str) -> Sim {
    let pool = "nat-pool = [\"198.51.100.0/30\"]";
    let policy = ACME.replace(pool, &format!("{pool}\nnat-filtering = \"{filtering}\""));
    let mut sim = Sim::with_policies(&policy, GLOBEX);
    sim.advance(2_000);
    sim
}

/// `198.51.100.1:5001`: what the internet sees `packet` come from.
fn seen_as(packet: &[u8]) -> String {
    ends(packet).split_once(" > ").expect("two ends").0.to_owned()
}

#[test]
fn rfc_4787_req_1_a_host_and_port_are_known_by_one_address_and_port_wherever_they_send() {
    let mut sim = Sim::up();
    let mut seen = Vec::new();
    for server in ["203.0.113.80:53", "203.0.113.80:54", "203.0.113.81:53"] {
        let out = sim.from_lan("berlin", &udp("10.1.0.5:5001", server, b"").bytes());
        seen.push(seen_as(&out[0]));
        let back = sim.from_internet(&answer(&out[0], b""));
        assert_eq!(ends(&back[0]), format!("{server} > 10.1.0.5:5001"));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    assert_eq!((sim.sessions("fra1").len(), sim.bindings("fra1")), (3, 1));
}

#[test]
fn rfc_4787_req_2_a_host_is_known_by_one_address_whatever_its_port() {
    let mut sim = Sim::up();
    let mut seen = Vec::new();
    for port in 5_000..5_004 {
        let out = sim.from_lan("berlin", &udp(&format!("10.1.0.5:{port}"), "203.0.113.80:53", b"").bytes());
        seen.push(read(&out[0]).source(&out[0]));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}

#[test]
fn rfc_4787_req_4_a_port_that_is_taken_gives_way_to_one_of_its_parity() {
    let mut sim = Sim::up();
    for port in [40_000, 40_001] {
        let from = |host: u8| format!("10.1.0.{host}:{port}");
        for host in 1..20 {
            let out = sim.from_lan("berlin", &udp(&from(host), "203.0.113.80:53", b"").bytes());
            let seen = seen_as(&out[0]);
            let (_, seen) = seen.rsplit_once(':').expect("a port");
            assert_eq!(seen.parse::<u16>().expect("a port") % 2, port % 2, "host {host}");
        }
    }
}

#[test]
fn rfc_4787_req_8_filtering_lets_in_whom_policy_names() {
    // From the server that was asked, from another port of it, from elsewhere.
    for (filtering, passes) in [
        ("endpoint-independent", [true, true, true]),
        ("address-dependent", [true, true, false]),
        ("address-and-port-dependent", [true, false, false]),
    ] {
        let mut sim = with_filtering(filtering);
        let out = sim.from_lan("berlin", &udp("10.1.0.5:5001", "203.0.113.80:53", b"").bytes());
        let outside = seen_as(&out[0]);
        for (caller, passes) in ["203.0.113.80:53", "203.0.113.80:99", "203.0.113.99:53"].iter().zip(passes) {
            let in_ = sim.from_internet(&udp(caller, &outside, b"").bytes());
            assert_eq!(!in_.is_empty(), passes, "{filtering}, from {caller}");
            if passes {
                assert_eq!(ends(&in_[0]), format!("{caller} > 10.1.0.5:5001"));
                let back = sim.from_lan("berlin", &answer(&in_[0], b""));
                assert_eq!(ends(&back[0]), format!("{outside} > {caller}"));
            }
        }
        let refused = passes.iter().filter(|passes| !**passes).count() as u64;
        assert_eq!(sim.dropped("fra1", Some("acme"), "no-session"), refused);
        assert_eq!(sim.bindings("fra1"), 1, "whoever calls, it is one binding");
    }
}

#[test]
fn a_caller_that_the_acl_would_not_let_the_host_talk_to_is_not_let_in() {
    let pool = "nat-pool = [\"198.51.100.0/30\"]";
    let filtering = format!("{pool}\nnat-filtering = \"endpoint-independent\"");
    let deny = "[[acl]]\nname = \"no-99\"\nto = [\"203.0.113.99\"]\naction = \"drop\"\n\n";
    let first = "[[acl]]\nname = \"no-telnet\"";
    let policy = ACME.replace(pool, &filtering).replace(first, &format!("{deny}{first}"));
    let mut sim = Sim::with_policies(&policy, GLOBEX);
    sim.advance(2_000);
    let out = sim.from_lan("berlin", &udp("10.1.0.5:5001", "203.0.113.80:53", b"").bytes());
    assert!(sim.from_internet(&udp("203.0.113.99:53", &seen_as(&out[0]), b"").bytes()).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "acl-dropped"), 1);
}

#[test]
fn a_call_from_outside_is_followed_like_any_other_and_a_commit_finds_it_again() {
    let mut sim = with_filtering("endpoint-independent");
    let syn = sim.from_lan("berlin", &tcp("10.1.0.5:5001", "203.0.113.80:80", SYN, b"").bytes());
    let outside = seen_as(&syn[0]);
    let caller = "203.0.113.99:4000";
    // What is not a call gets nowhere.
    assert!(sim.from_internet(&tcp(caller, &outside, ACK, b"x").bytes()).is_empty());
    let call = sim.from_internet(&tcp(caller, &outside, SYN, b"").bytes());
    assert_eq!(ends(&call[0]), format!("{caller} > 10.1.0.5:5001"));
    sim.from_lan("berlin", &answer(&call[0], b""));
    sim.from_internet(&tcp(caller, &outside, ACK, b"x").bytes());
    let session = |sim: &mut Sim| {
        let sessions = sim.sessions("fra1");
        sessions.into_iter().find(|s| s.source.to_string() == "203.0.113.99").expect("the call's session")
    };
    let first = session(&mut sim);
    assert_eq!((first.from.as_str(), first.to.as_str()), ("handoff:internet", "branch:berlin"));
    assert_eq!(first.tcp_state.as_deref(), Some("established"));
    assert_eq!(
        (first.nat_source, first.nat_destination),
        (None, Some("10.1.0.5".parse().expect("an address")))
    );
    let pool = "nat-pool = [\"198.51.100.0/30\"]";
    let policy = ACME.replace(pool, &format!("{pool}\nnat-filtering = \"endpoint-independent\""));
    sim.commit(&[("acme", &policy), ("globex", GLOBEX)]);
    assert_eq!(sim.from_internet(&tcp(caller, &outside, ACK, b"y").bytes()).len(), 1);
    assert_eq!(session(&mut sim).id, first.id);
    // A policy without the pool ends it.
    sim.commit(&[("acme", &policy.replace("198.51.100.0/30", "198.51.100.16/30")), ("globex", GLOBEX)]);
    assert!(sim.from_internet(&tcp(caller, &outside, ACK, b"z").bytes()).is_empty());
}

#[test]
fn a_binding_lives_as_long_as_the_last_session_that_shares_it() {
    let mut sim = with_filtering("endpoint-independent");
    let first = sim.from_lan("berlin", &udp("10.1.0.5:5001", "203.0.113.80:53", b"").bytes());
    let outside = seen_as(&first[0]);
    sim.advance(200_000);
    let second = sim.from_lan("berlin", &udp("10.1.0.5:5001", "203.0.113.81:53", b"").bytes());
    assert_eq!(seen_as(&second[0]), outside);
    sim.advance(200_000);
    assert_eq!((sim.sessions("fra1").len(), sim.bindings("fra1")), (1, 1), "the first has ended");
    assert_eq!(sim.from_internet(&udp("203.0.113.99:9", &outside, b"").bytes()).len(), 1);
    sim.advance(310_000);
    assert_eq!(sim.bindings("fra1"), 0);
    assert!(sim.from_internet(&udp("203.0.113.99:9", &outside, b"").bytes()).is_empty());
}

// Timers.

/// Whether the session that `sim` has is kept for just so long.
fn kept_for(sim: &mut Sim, seconds: u64) {
    sim.advance((seconds - 1) * 1_000);
    assert_eq!(sim.sessions("fra1").len(), 1, "before {seconds} s");
    sim.advance(2_000);
    assert_eq!(sim.sessions("fra1").len(), 0, "after {seconds} s");
}

const HOST: &str = "10.1.0.5:1000";
const SERVER: &str = "203.0.113.80:80";

/// An established connection; gives the host's address and port as the server sees them.
fn established(sim: &mut Sim) -> String {
    let syn = sim.from_lan("berlin", &tcp(HOST, SERVER, SYN, b"").bytes());
    sim.from_internet(&answer(&syn[0], b""));
    sim.from_lan("berlin", &tcp(HOST, SERVER, ACK, b"").bytes());
    assert_eq!(sim.sessions("fra1")[0].tcp_state.as_deref(), Some("established"));
    seen_as(&syn[0])
}

#[test]
fn rfc_4787_req_5_udp_is_kept_for_five_minutes() {
    let mut sim = Sim::up();
    sim.from_lan("berlin", &udp(HOST, SERVER, b"").bytes());
    kept_for(&mut sim, 300);
}

#[test]
fn rfc_5508_req_2_an_icmp_query_is_kept_for_a_minute() {
    let mut sim = Sim::up();
    sim.from_lan("berlin", &ping("10.1.0.5", "203.0.113.80", 7, b"").bytes());
    kept_for(&mut sim, 60);
}

#[test]
fn rfc_5382_req_5_an_established_connection_is_kept_for_two_hours_and_four_minutes() {
    let mut sim = Sim::up();
    established(&mut sim);
    kept_for(&mut sim, 7_440);
}

#[test]
fn rfc_5382_req_5_opening_and_closing_connections_are_kept_for_four_minutes() {
    let mut sim = Sim::up();
    sim.from_lan("berlin", &tcp(HOST, SERVER, SYN, b"").bytes());
    kept_for(&mut sim, 240);
    established(&mut sim);
    sim.from_lan("berlin", &tcp(HOST, SERVER, FIN | ACK, b"").bytes());
    kept_for(&mut sim, 240);
}

#[test]
fn rfc_7857_section_2_2_a_reset_connection_keeps_its_binding_for_four_minutes() {
    let mut sim = Sim::up();
    let outside = established(&mut sim);
    sim.from_internet(&tcp(SERVER, &outside, RST, b"").bytes());
    assert_eq!(sim.sessions("fra1")[0].tcp_state.as_deref(), Some("reset"));
    kept_for(&mut sim, 240);
}

#[test]
fn rfc_5382_req_5_what_policy_says_of_timeouts_holds() {
    let timeouts = "\n[session-timeouts]\ntcp-established = \"10m\"\nudp = \"30s\"\n";
    let mut sim = Sim::with_policies(&format!("{ACME}{timeouts}"), GLOBEX);
    sim.advance(2_000);
    established(&mut sim);
    kept_for(&mut sim, 600);
    sim.from_lan("berlin", &udp(HOST, SERVER, b"").bytes());
    kept_for(&mut sim, 30);
}

// Fixed translation: prefixes host by host, and ports that lead to a host.

/// acme and globex, both 10.1.0.0/16, each known by a prefix of its own; the internet may call their web servers.
fn mapped() -> Sim {
    let pool = "nat-pool = [\"198.51.100.0/30\"]";
    let map = "map = { \"10.1.0.0/16\" = \"172.20.0.0/16\", \"2001:db8:1::/48\" = \"2001:db8:f00::/48\" }\n";
    let acme = ACME
        .replace(pool, &format!("{pool}\n{map}"))
        .replace("routed = [\"2001:db8:1::/48\"]\n", "")
        .replace("\"2001:db8:1::80/128\"", "\"2001:db8:1::80/128\", \"10.1.0.80\"");
    let pool = GLOBEX.lines().find(|line| line.starts_with("nat-pool")).expect("globex has a pool");
    let globex = GLOBEX.replace(pool, &format!("{pool}\nmap = {{ \"10.1.0.0/16\" = \"172.21.0.0/16\" }}"));
    let mut sim = Sim::with_policies(&acme, &globex);
    sim.advance(2_000);
    sim
}

#[test]
fn two_tenants_with_one_prefix_reach_a_shared_service_each_by_a_prefix_of_its_own() {
    let mut sim = mapped();
    for (branch, seen) in [("berlin", "172.20.7.9"), ("site1", "172.21.7.9")] {
        let out = sim.from_lan(branch, &udp("10.1.7.9:5001", "203.0.113.80:53", b"").bytes());
        assert_eq!(ends(&out[0]), format!("{seen}:5001 > 203.0.113.80:53"));
        let back = sim.from_internet(&answer(&out[0], b""));
        assert_eq!(ends(&back[0]), "203.0.113.80:53 > 10.1.7.9:5001");
        let out = sim.from_lan(branch, &ping("10.1.7.9", "203.0.113.80", 9, b"").bytes());
        assert_eq!(ends(&out[0]), format!("{seen} > 203.0.113.80 echo 9"));
    }
    assert_eq!(sim.node("fra1").plane.ports_in_use(), 0, "no port of a pool is taken");
}

#[test]
fn rfc_6296_an_ipv6_prefix_is_known_by_another_and_no_checksum_changes() {
    let mut sim = mapped();
    let sent = udp("[2001:db8:1::5]:5001", "[2001:db8:ffff::9]:53", b"q").bytes();
    let out = sim.from_lan("berlin", &sent);
    let source = read(&out[0]).source(&out[0]).to_string();
    assert!(source.starts_with("2001:db8:f00:"), "{source}");
    assert_eq!(out[0][46..48], sent[46..48], "UDP's checksum is what it was");
    let back = sim.from_internet(&answer(&out[0], b"a"));
    assert_eq!(ends(&back[0]), "[2001:db8:ffff::9]:53 > [2001:db8:1::5]:5001");
}

#[test]
fn a_host_behind_a_map_is_called_by_its_other_address_as_far_as_the_acl_lets_it() {
    let mut sim = mapped();
    let call = sim.from_internet(&tcp("203.0.113.80:4000", "172.20.0.80:80", SYN, b"").bytes());
    assert_eq!(ends(&call[0]), "203.0.113.80:4000 > 10.1.0.80:80");
    let back = sim.from_lan("berlin", &answer(&call[0], b""));
    assert_eq!(ends(&back[0]), "172.20.0.80:80 > 203.0.113.80:4000");
    assert!(sim.from_internet(&tcp("203.0.113.80:4000", "172.20.0.80:22", SYN, b"").bytes()).is_empty());
    assert!(sim.from_internet(&tcp("203.0.113.80:4000", "172.21.0.80:80", SYN, b"").bytes()).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "acl-default"), 1);
    assert_eq!(sim.dropped("fra1", Some("globex"), "acl-default"), 1);
}

#[test]
fn a_port_leads_to_its_host_until_a_commit_takes_it_away() {
    let forward = "\n[[handoff.port-forward]]\nname = \"web\"\nprotocol = \"tcp\"\n\
                   address = \"198.51.100.2:443\"\nto = \"10.1.0.80:8443\"\n";
    let routed = "routed = [\"2001:db8:1::/48\"]\n";
    let acl = "[[acl]]\nname = \"web-in\"\nfrom = [\"handoff:internet\"]\nto = [\"10.1.0.80\"]\n\
               protocol = \"tcp\"\ndst-port = 8443\naction = \"accept\"\n";
    let without = format!("{ACME}{acl}");
    let with = without.replace(routed, &format!("{routed}{forward}"));
    let mut sim = Sim::with_policies(&with, GLOBEX);
    sim.advance(2_000);
    let (caller, public) = ("203.0.113.80:4000", "198.51.100.2:443");
    let call = sim.from_internet(&tcp(caller, public, SYN, b"").bytes());
    assert_eq!(ends(&call[0]), format!("{caller} > 10.1.0.80:8443"));
    let back = sim.from_lan("berlin", &answer(&call[0], b""));
    assert_eq!(ends(&back[0]), format!("{public} > {caller}"));
    // A commit that leaves it alone keeps the session.
    sim.commit(&[("acme", &with), ("globex", GLOBEX)]);
    assert_eq!(sim.from_internet(&tcp(caller, public, ACK, b"x").bytes()).len(), 1);
    sim.commit(&[("acme", &without), ("globex", GLOBEX)]);
    assert!(sim.from_internet(&tcp(caller, public, ACK, b"y").bytes()).is_empty());
    // The port is nobody's now, so whichever worker it came to has dropped it, the session's own or another.
    let dropped = |reason| sim.dropped("fra1", Some("acme"), reason);
    assert_eq!(["nat-binding-revoked", "no-session"].map(dropped).iter().sum::<u64>(), 1);
}
