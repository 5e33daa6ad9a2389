//! One test a reason: what must not pass does not, and is counted under its name.

use crate::net::{ACME, Link, Sim};
use crate::packets::{addr, answer, ping, read, source, tcp, udp};
use crate::plane::workers;
use crate::services;
use popgate::model::TransportId;
use popgate::wire::Ingress;
use popgate::wire::tcp_flags::{ACK, RST, SYN};

/// Berlin's datagrams to the PoP, by a tunnel that berlin's own box did not make: sends an inner packet that a real
/// popgate branch would not let out of its LAN.
fn from_tunnel(sim: &mut Sim, branch: &str, packet: &[u8]) -> Vec<(String, Vec<u8>)> {
    sim.forge(branch, packet);
    sim.take_delivered()
}

fn assert_dropped(sim: &mut Sim, tenant: Option<&str>, reason: &str, packets: u64) {
    let rows = sim.drops("fra1");
    assert_eq!(sim.dropped("fra1", tenant, reason), packets, "{rows:?}");
}

fn datagram(sim: &mut Sim, bytes: &[u8]) {
    let from = addr("203.0.113.99:9");
    sim.inject("fra1", Ingress::Transport { transport: TransportId(0), from }, bytes);
}

#[test]
fn source_not_allowed_by_a_peer_that_does_not_own_it() {
    let mut sim = Sim::up();
    for source in ["10.2.0.9:1", "192.168.7.7:1", "203.0.113.80:1", "10.200.0.7:1"] {
        assert!(from_tunnel(&mut sim, "berlin", &udp(source, "203.0.113.81:1", b"").bytes()).is_empty());
    }
    assert_dropped(&mut sim, Some("acme"), "source-not-allowed", 4);
}

#[test]
fn source_not_allowed_from_a_more_specific_prefix_of_another_branch() {
    let mut sim = Sim::up();
    // 10.1.77.0/24 is lyon's, inside berlin's 10.1.0.0/16.
    assert!(from_tunnel(&mut sim, "berlin", &udp("10.1.77.5:1", "203.0.113.81:1", b"").bytes()).is_empty());
    assert_dropped(&mut sim, Some("acme"), "source-not-allowed", 1);
    assert_eq!(from_tunnel(&mut sim, "lyon", &udp("10.1.77.5:1", "203.0.113.81:1", b"").bytes()).len(), 1);
}

#[test]
fn source_not_allowed_on_somebody_elses_session() {
    let mut sim = Sim::up();
    sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    assert!(from_tunnel(&mut sim, "lyon", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes()).is_empty());
    assert_dropped(&mut sim, Some("acme"), "source-not-allowed", 1);
}

#[test]
fn source_not_allowed_when_the_internet_claims_a_tenants_prefix() {
    let mut sim = Sim::up();
    let spoofed = tcp("[2001:db8:1::99]:4000", "[2001:db8:1::80]:80", SYN, b"").bytes();
    assert!(sim.from_internet(&spoofed).is_empty());
    assert_dropped(&mut sim, Some("acme"), "source-not-allowed", 1);
}

#[test]
fn no_route_to_another_tenants_prefix() {
    let mut sim = Sim::with_policies(ACME, &crate::net::GLOBEX.replace("10.1.0.0/16", "10.9.0.0/16"));
    sim.advance(2_000);
    // globex's 10.9/16 is not acme's business: for acme it is an address on the internet, and leaves translated.
    let out = from_tunnel(&mut sim, "berlin", &udp("10.1.0.5:1", "10.9.0.5:1", b"").bytes());
    assert!(out.iter().all(|(device, _)| device == "fra1 pg-internet"));
    // Back in through the internet it is nobody's.
    for (_, packet) in out {
        assert!(sim.from_internet(&packet).is_empty());
    }
    assert_dropped(&mut sim, None, "no-route", 1);
    assert!(sim.take_delivered().is_empty());
}

#[test]
fn no_route_without_a_handoff_for_it() {
    let closed =
        ACME.replace("kind = \"internet\"", "kind = \"internet\"\nprefixes = [\"203.0.113.0/24\", \"::/0\"]");
    let mut sim = Sim::with_policies(&closed, crate::net::GLOBEX);
    sim.advance(2_000);
    let answers = from_tunnel(&mut sim, "berlin", &udp("10.1.0.5:1", "8.8.8.8:1", b"").bytes());
    assert_eq!(answers.len(), 0, "the answer goes back to the forged tunnel");
    assert_dropped(&mut sim, Some("acme"), "no-route", 1);
}

#[test]
fn hairpin_refused_back_to_where_it_came_from() {
    let mut sim = Sim::up();
    assert!(from_tunnel(&mut sim, "berlin", &udp("10.1.0.5:1", "10.1.0.6:1", b"").bytes()).is_empty());
    assert_dropped(&mut sim, Some("acme"), "hairpin-refused", 1);
}

#[test]
fn acl_default_denies_what_no_rule_accepts() {
    let mut sim = Sim::up();
    let syn = tcp("[2001:db8:ffff::9]:4000", "[2001:db8:1::80]:443", SYN, b"").bytes();
    assert!(sim.from_internet(&syn).is_empty());
    assert_dropped(&mut sim, Some("acme"), "acl-default", 1);
}

#[test]
fn acl_dropped_and_acl_rejected_are_apart() {
    let mut sim = Sim::up();
    from_tunnel(&mut sim, "berlin", &udp("10.1.0.5:1", "203.0.113.80:27001", b"").bytes());
    from_tunnel(&mut sim, "berlin", &udp("10.1.0.5:1", "203.0.113.80:123", b"").bytes());
    assert_dropped(&mut sim, Some("acme"), "acl-dropped", 1);
    assert_dropped(&mut sim, Some("acme"), "acl-rejected", 1);
}

#[test]
fn no_session_for_what_cannot_begin_one() {
    let mut sim = Sim::up();
    let pool = "198.51.100.1:4000";
    assert!(sim.from_internet(&udp("203.0.113.80:53", pool, b"unasked").bytes()).is_empty());
    from_tunnel(&mut sim, "berlin", &tcp("10.1.0.5:1", "203.0.113.80:80", RST, b"").bytes());
    from_tunnel(&mut sim, "berlin", &tcp("10.1.0.5:1", "203.0.113.80:80", SYN | ACK, b"").bytes());
    let asked = ping("203.0.113.80", "10.1.0.5", 9, b"").bytes();
    from_tunnel(&mut sim, "berlin", &answer(&asked, b""));
    assert_dropped(&mut sim, Some("acme"), "no-session", 4);
}

#[test]
fn malformed_source_routed_and_not_forwarded() {
    let mut sim = Sim::up();
    let mut short = udp("10.1.0.5:1", "203.0.113.80:1", b"1234").bytes();
    short[24..26].copy_from_slice(&200u16.to_be_bytes());
    from_tunnel(&mut sim, "berlin", &short);
    assert_dropped(&mut sim, Some("acme"), "malformed", 1);

    let mut routed = udp("[2001:db8:1::5]:1", "[2001:db8:2::5]:1", b"").bytes();
    let upper = routed.split_off(40);
    routed[6] = 43;
    routed[4..6].copy_from_slice(&(8 + upper.len() as u16).to_be_bytes());
    routed.extend_from_slice(&[17, 0, 0, 0, 0, 0, 0, 0]);
    routed.extend_from_slice(&upper);
    from_tunnel(&mut sim, "berlin", &routed);
    assert_dropped(&mut sim, Some("acme"), "source-routed", 1);

    from_tunnel(&mut sim, "berlin", &udp("10.1.0.5:1", "224.0.0.5:1", b"").bytes());
    from_tunnel(&mut sim, "berlin", &udp("[fe80::1]:1", "[2001:db8::1]:1", b"").bytes());
    assert_dropped(&mut sim, Some("acme"), "address-not-forwarded", 2);
}

#[test]
fn fragment_unknown_without_its_first() {
    let mut sim = Sim::up();
    let whole = udp("10.1.0.5:1", "203.0.113.80:1", &[0; 1_200]).may_fragment().bytes();
    let mut parts = Vec::new();
    popgate::wire::fragment(&whole, &read(&whole), 600, |part| parts.push(part.to_vec()));
    assert!(from_tunnel(&mut sim, "berlin", &parts[1]).is_empty());
    assert_dropped(&mut sim, Some("acme"), "fragment-unknown", 1);
    assert_eq!(from_tunnel(&mut sim, "berlin", &parts[0]).len(), 1);
    assert_eq!(from_tunnel(&mut sim, "berlin", &parts[1]).len(), 1);
}

#[test]
fn ttl_expired_and_too_big_are_counted_where_they_are_answered() {
    let mut sim = Sim::up();
    sim.from_lan("berlin", &udp("10.1.0.5:1", "203.0.113.80:1", b"").ttl(2).bytes());
    assert_dropped(&mut sim, Some("acme"), "ttl-expired", 1);
    let out = sim.from_lan("berlin", &udp("10.1.0.5:2", "203.0.113.80:1", b"").bytes());
    let answers = sim.from_internet(&answer(&out[0], &[0; 1_450]));
    assert_eq!(answers[0][20..22], [3, 4]);
    assert_dropped(&mut sim, Some("acme"), "too-big", 1);
}

/// acme, with a prefix within which IPv6 hosts find IPv4's addresses.
fn nat64(prefix: &str) -> Sim {
    let pool = "nat-pool = [\"198.51.100.0/30\"]";
    let acme = ACME.replace(pool, &format!("{pool}\nnat64-prefix = \"{prefix}\""));
    let mut sim = Sim::with_policies(&acme, crate::net::GLOBEX);
    sim.advance(2_000);
    sim
}

#[test]
fn nat64_refused_to_where_the_prefix_does_not_lead() {
    // 203.0.113.80 is documentation's, 10.2.0.9 lyon's, 127.0.0.1 nobody's to forward to.
    for (prefix, to) in [
        ("64:ff9b::/96", "64:ff9b::cb00:7150"),
        ("64:ff9b::/96", "64:ff9b::a02:9"),
        ("2001:db8:64::/96", "2001:db8:64::a02:9"),
        ("2001:db8:64::/96", "2001:db8:64::7f00:1"),
    ] {
        let mut sim = nat64(prefix);
        let packet = udp("[2001:db8:1::5]:1", &format!("[{to}]:1"), b"").bytes();
        let answers = sim.send("berlin", "lan", &packet);
        assert_eq!(
            (answers[0].0.as_str(), &answers[0].1[40..42]),
            ("berlin pg-lan", &[1, 0][..]),
            "no route"
        );
        assert!(from_tunnel(&mut sim, "berlin", &packet).is_empty());
        assert_dropped(&mut sim, Some("acme"), "nat64-refused", 1);
    }
    let mut sim = nat64("64:ff9b::/96");
    let global = udp("[2001:db8:1::5]:1", "[64:ff9b::808:808]:1", b"").bytes();
    assert_eq!(from_tunnel(&mut sim, "berlin", &global).len(), 1);
}

#[test]
fn untranslatable_without_a_counterpart_in_the_other_family() {
    let mut sim = nat64("2001:db8:64::/96");
    let packet = udp("[2001:db8:1::5]:5001", "[2001:db8:64::cb00:7150]:9", b"").bytes();
    let out = from_tunnel(&mut sim, "berlin", &packet).remove(0).1;
    // The first fragment of a datagram that has no checksum: what is not here cannot be summed.
    let mut first = crate::packets::fragments(&answer(&out, &[7; 1_000]), 600).remove(0);
    first[26..28].fill(0);
    let answers = sim.send("fra1", "internet", &first);
    assert_eq!(answers[0].1[20..22], [3, 13], "communication administratively prohibited");
    assert_dropped(&mut sim, Some("acme"), "untranslatable", 1);
}

#[test]
fn nat_required_without_a_pool() {
    let poolless = ACME.replace("nat-pool = [\"198.51.100.0/30\"]\n", "");
    let mut sim = Sim::with_policies(&poolless, crate::net::GLOBEX);
    sim.advance(2_000);
    assert!(sim.from_lan("berlin", &udp("10.1.0.5:1", "203.0.113.80:1", b"").bytes()).is_empty());
    assert_dropped(&mut sim, Some("acme"), "nat-required", 1);
}

#[test]
fn nat_pool_exhausted_hits_its_own_tenant_alone() {
    let mut sim = Sim::up();
    // Four addresses of four ports each.
    let ports = 16;
    for port in 1..=20u16 {
        sim.from_lan("site1", &udp(&format!("10.1.0.5:{port}"), "203.0.113.80:53", b"").bytes());
    }
    assert_dropped(&mut sim, Some("globex"), "nat-pool-exhausted", 20 - ports);
    assert_eq!(sim.sessions("fra1").len() as u64, ports);
    assert_eq!(sim.from_lan("berlin", &udp("10.1.0.5:1", "203.0.113.80:53", b"").bytes()).len(), 1);
}

#[test]
fn branch_port_limit() {
    let pool = "nat-pool = [\"198.51.100.0/30\"]";
    let blocks = format!("{pool}\nnat-blocks = {{ size = 64, per-branch = 2 }}");
    let mut sim = Sim::with_policies(&ACME.replace(pool, &blocks), crate::net::GLOBEX);
    sim.advance(2_000);
    for port in 1..=150u16 {
        sim.from_lan("berlin", &udp(&format!("10.1.0.5:{port}"), "203.0.113.80:53", b"").bytes());
    }
    assert_dropped(&mut sim, Some("acme"), "branch-port-limit", 22);
    assert_eq!(
        sim.drops("fra1").iter().find(|d| d.reason == "branch-port-limit").and_then(|d| d.detail.clone()),
        Some("berlin".to_owned())
    );
    // Each protocol has a block's ports to itself, and each branch its blocks.
    assert_eq!(sim.from_lan("berlin", &ping("10.1.0.5", "203.0.113.80", 1, b"").bytes()).len(), 1);
    assert_eq!(sim.from_lan("lyon", &udp("10.2.0.1:9", "203.0.113.80:53", b"").bytes()).len(), 1);
}

#[test]
fn session_table_full() {
    let mut sim = Sim::up();
    for n in 0..1_010u32 {
        let from = format!("10.1.{}.{}:7", n / 200, n % 200 + 1);
        from_tunnel(&mut sim, "berlin", &udp(&from, "10.2.0.1:7", b"").bytes());
    }
    assert_dropped(&mut sim, Some("acme"), "session-table-full", 10);
    assert_eq!(sim.sessions("fra1").len(), 1_000);
}

/// acme's Berlin with a line more; and how many of 20 sessions it begins with Lyon and of 20 with the internet get through.
fn begun_by_berlin(line: &str) -> (Sim, [usize; 2]) {
    let prefixes = "prefixes = [\"10.1.0.0/16\", \"2001:db8:1::/48\"]";
    let mut sim =
        Sim::with_policies(&ACME.replace(prefixes, &format!("{prefixes}\n{line}")), crate::net::GLOBEX);
    sim.advance(2_000);
    let begun = ["10.2.0.1:7", "203.0.113.80:7"].map(|to| {
        let before = sim.sessions("fra1").len();
        for port in 1..=20 {
            from_tunnel(&mut sim, "berlin", &udp(&format!("10.1.0.5:{port}"), to, b"").bytes());
        }
        sim.sessions("fra1").len() - before
    });
    (sim, begun)
}

#[test]
fn branch_session_limit() {
    let (mut sim, begun) = begun_by_berlin("max-sessions = 25");
    assert_eq!(begun, [20, 5], "with whomever, and whichever worker has them");
    assert_dropped(&mut sim, Some("acme"), "branch-session-limit", 15);
    assert_eq!(
        sim.drops("fra1").iter().find(|d| d.reason == "branch-session-limit").and_then(|d| d.detail.clone()),
        Some("berlin".to_owned())
    );
    // Another branch has its own.
    assert_eq!(sim.from_lan("lyon", &udp("10.2.0.1:9", "203.0.113.80:9", b"").bytes()).len(), 1);
    sim.advance(301_000);
    assert_eq!(sim.from_lan("berlin", &udp("10.1.0.5:1", "203.0.113.80:9", b"").bytes()).len(), 1);
}

#[test]
fn branch_session_rate() {
    let (mut sim, [with_lyon, with_internet]) = begun_by_berlin("new-sessions-per-second = 10");
    // Those with Lyon may be another worker's.
    assert!((with_lyon, with_internet) == (10, 0) || (with_lyon, with_internet) == (10, 10));
    assert_dropped(&mut sim, Some("acme"), "branch-session-rate", 40 - (with_lyon + with_internet) as u64);
    sim.advance(1_000);
    let again = (1..=20u16).filter(|port| {
        let packet = udp(&format!("10.1.0.6:{port}"), "203.0.113.80:7", b"").bytes();
        !sim.from_lan("berlin", &packet).is_empty()
    });
    assert_eq!(again.count(), 10);
}

#[test]
fn tenant_session_limit() {
    let limited = format!("max-sessions = 30\n{ACME}");
    let mut sim = Sim::with_policies(&limited, crate::net::GLOBEX);
    sim.advance(2_000);
    for port in 1..=20 {
        from_tunnel(&mut sim, "berlin", &udp(&format!("10.1.0.5:{port}"), "203.0.113.80:7", b"").bytes());
        from_tunnel(&mut sim, "lyon", &udp(&format!("10.2.0.5:{port}"), "203.0.113.80:7", b"").bytes());
    }
    assert_dropped(&mut sim, Some("acme"), "tenant-session-limit", 10);
    assert_eq!(sim.sessions("fra1").len(), 30);
    assert_eq!(sim.from_lan("site1", &udp("10.1.0.5:1", "203.0.113.80:9", b"").bytes()).len(), 1);
    // What one worker no longer needs, another may have.
    sim.advance(301_000);
    for port in 1..=30 {
        let packet = udp(&format!("10.2.0.5:{port}"), "203.0.113.80:7", b"").bytes();
        assert_eq!(sim.from_lan("lyon", &packet).len(), 1, "port {port}");
    }
}

#[test]
fn service_not_published_at_another_port() {
    let mut sim = services::up();
    assert!(sim.from_lan("berlin", &services::syn("10.1.0.5:4000", "10.1.255.1:22")).is_empty());
    assert!(sim.from_lan("berlin", &udp("10.1.0.5:4000", "10.1.255.1:443", b"x").bytes()).is_empty());
    assert_dropped(&mut sim, Some("acme"), "service-not-published", 2);
}

#[test]
fn subscriber_unmapped_whom_the_publisher_has_no_address_for() {
    let mut sim = services::up();
    assert!(sim.from_lan("lyon", &services::syn("10.2.0.5:4000", "10.1.255.1:443")).is_empty());
    assert_dropped(&mut sim, Some("acme"), "subscriber-unmapped", 1);
}

#[test]
fn subscriber_unmapped_whose_address_is_somebody_elses_at_the_publishers() {
    let (acme, globex) = services::policies();
    let globex =
        globex.replacen("prefixes = [\"10.1.0.0/16\"]", "prefixes = [\"10.1.0.0/16\", \"172.20.7.0/24\"]", 1);
    let mut sim = Sim::with_policies(&acme, &globex);
    sim.advance(2_000);
    assert!(sim.from_lan("berlin", &services::syn("10.1.7.5:4000", "10.1.255.1:443")).is_empty());
    assert_dropped(&mut sim, Some("acme"), "subscriber-unmapped", 1);
    assert_eq!(sim.from_lan("berlin", &services::syn("10.1.8.5:4000", "10.1.255.1:443")).len(), 1);
}

#[test]
fn not_answered_where_the_pop_answers_hosts_itself() {
    let mut sim = Sim::up();
    let told = sim.from_lan("berlin", &tcp("10.1.0.5:4000", "198.18.0.80:22", SYN, b"").bytes());
    assert_eq!(read(&told[0]).tcp_flags() & RST, RST);
    assert_dropped(&mut sim, Some("acme"), "not-answered", 1);
}

#[test]
fn session_conflict_when_another_sessions_answers_would_be_the_same() {
    // A host with an address of its own on the internet, whose calls to port 53 are nevertheless translated.
    let policy = ACME
        .replacen("\"10.1.0.0/16\"", "\"10.1.0.0/16\", \"198.18.5.0/24\"", 1)
        .replace("routed = [", "routed = [\"198.18.5.0/24\", ")
        + "[[acl]]\nname = \"called\"\nto = [\"198.18.5.0/24\"]\naction = \"accept\"\n"
        + "[[nat]]\nname = \"dns\"\nprotocol = \"udp\"\ndst-port = 53\npool = [\"198.51.100.0/30\"]\n";
    let mut sim = Sim::with_policies(&policy, crate::net::GLOBEX);
    sim.advance(2_000);
    let out = sim.from_lan("berlin", &udp("198.18.5.9:1000", "203.0.113.80:53", b"").bytes());
    assert!(source(&out[0]).to_string().starts_with("198.51.100."));
    assert!(sim.from_internet(&udp("203.0.113.80:53", "198.18.5.9:1000", b"").bytes()).is_empty());
    assert_dropped(&mut sim, Some("acme"), "session-conflict", 1);
    assert_eq!(sim.from_internet(&answer(&out[0], b"")).len(), 1);
}

#[test]
fn nat_binding_revoked_by_a_commit_that_takes_the_pool_away() {
    let mut sim = Sim::up();
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    sim.from_lan("berlin", &packet);
    let moved = ACME.replace("198.51.100.0/30", "198.51.100.16/30");
    sim.commit(&[("acme", &moved), ("globex", crate::net::GLOBEX)]);
    assert!(sim.from_lan("berlin", &packet).is_empty());
    assert_dropped(&mut sim, Some("acme"), "nat-binding-revoked", 1);
}

#[test]
fn no_path_to_a_branch_that_never_called() {
    let mut sim = Sim::new();
    sim.cut("203.0.113.2:1001");
    sim.advance(2_000);
    assert!(sim.from_lan("berlin", &udp("10.1.0.5:1", "10.2.0.1:7", b"").bytes()).is_empty());
    assert_dropped(&mut sim, Some("acme"), "no-path", 1);
}

#[test]
fn sla_violated_where_policy_insists_and_no_path_keeps_to_it() {
    let slow = Link { delay_ms: 300, ..Link::default() };
    let mut sim = crate::steering::with_sla("max-latency = \"100ms\"", "strict");
    for transport in [crate::steering::DSL, crate::steering::LTE] {
        sim.impair(transport, [slow; 2]);
    }
    crate::steering::call(&mut sim, 20);
    let before = sim.dropped("berlin", Some("acme"), "sla-violated");
    assert!(before > 0);
    crate::steering::call(&mut sim, 1);
    assert_eq!(sim.dropped("berlin", Some("acme"), "sla-violated"), before + 50);
}

#[test]
fn tunnel_queue_full_while_a_handshake_hangs() {
    let mut sim = Sim::new();
    sim.cut("203.0.113.2:1001");
    sim.advance(100);
    for port in 1..=300 {
        sim.from_lan("lyon", &udp(&format!("10.2.0.1:{port}"), "203.0.113.80:53", b"").bytes());
    }
    assert_eq!(sim.dropped("lyon", Some("acme"), "tunnel-queue-full"), 44);
}

#[test]
fn device_down_for_a_device_no_generation_knows() {
    let mut sim = Sim::up();
    sim.inject(
        "fra1",
        Ingress::Device(popgate::model::DeviceId(99)),
        &udp("10.1.0.5:1", "10.2.0.1:7", b"").bytes(),
    );
    assert_dropped(&mut sim, None, "device-down", 1);
}

#[test]
fn not_wireguard_and_unknown_receivers() {
    let mut sim = Sim::up();
    datagram(&mut sim, b"");
    datagram(&mut sim, b"GET / HTTP/1.0\r\n");
    datagram(&mut sim, &[4, 0, 0, 0]);
    datagram(&mut sim, &[4; 64]);
    assert_dropped(&mut sim, None, "not-wireguard", 3);
    let mut unknown = [0; 64];
    unknown[0] = 4;
    datagram(&mut sim, &unknown);
    assert_dropped(&mut sim, None, "receiver-index-unknown", 2);
}

#[test]
fn handshakes_that_are_not_for_us_or_from_strangers() {
    let mut sim = Sim::up();
    let mut rubbish = [0; 148];
    rubbish[0] = 1;
    datagram(&mut sim, &rubbish);
    assert_dropped(&mut sim, None, "handshake-mac-invalid", 1);
    let stranger = sim.initiation([0x77; 32]);
    datagram(&mut sim, &stranger);
    assert_dropped(&mut sim, None, "peer-unknown", 1);
}

#[test]
fn handshake_rate_limited_for_a_source_that_proved_to_be_one() {
    let mut sim = Sim::up();
    let initiation = sim.initiation([0x77; 32]);
    for n in 0..600u32 {
        let from = addr(&format!("10.{}.{}.1:9", n / 250, n % 250));
        sim.inject("fra1", Ingress::Transport { transport: TransportId(0), from }, &initiation);
    }
    let mut caller = crate::net::stranger([0x78; 32]);
    sim.take_strays(3);
    datagram(&mut sim, &crate::net::call(&mut caller));
    let cookie = sim.stray(3).expect("a cookie");
    caller.open(addr("203.0.113.99:9").ip(), &cookie, &mut [0; 256]).expect("a good cookie");
    for _ in 0..60 {
        datagram(&mut sim, &crate::net::call(&mut caller));
    }
    assert_dropped(&mut sim, None, "handshake-rate-limited", 10);
}

#[test]
fn handshake_refused_when_it_is_replayed() {
    let mut sim = Sim::up();
    let initiation = sim.initiation_of("lyon", "dsl");
    datagram(&mut sim, &initiation);
    datagram(&mut sim, &initiation);
    assert_dropped(&mut sim, Some("acme"), "handshake-refused", 1);
}

#[test]
fn cookie_required_under_load() {
    let mut sim = Sim::up();
    let initiation = sim.initiation([0x77; 32]);
    for n in 0..600u32 {
        let from = addr(&format!("10.{}.{}.1:9", n / 250, n % 250));
        sim.inject("fra1", Ingress::Transport { transport: TransportId(0), from }, &initiation);
    }
    let required = sim.dropped("fra1", None, "cookie-required");
    assert!((90..=110).contains(&required), "{required}");
}

#[test]
fn wrong_transport_for_a_path_that_names_one() {
    let mut sim = Sim::up();
    let initiation = sim.initiation_of("berlin", "lte");
    datagram(&mut sim, &initiation);
    assert_dropped(&mut sim, Some("acme"), "wrong-transport", 1);
}

#[test]
fn tunnel_messages_replayed_or_forged_or_too_old() {
    let mut sim = Sim::up();
    sim.record_datagrams();
    sim.from_lan("lyon", &udp("10.2.0.1:1", "203.0.113.80:53", b"x").bytes());
    let message = sim.recorded().into_iter().find(|d| d[0] == 4).expect("a data message");
    datagram(&mut sim, &message);
    assert_dropped(&mut sim, Some("acme"), "tunnel-replayed", 1);
    let mut forged = message.clone();
    forged[8..16].copy_from_slice(&9_999u64.to_le_bytes());
    datagram(&mut sim, &forged);
    assert_dropped(&mut sim, Some("acme"), "tunnel-authentication-failed", 1);
    // Another of the tunnel's session slots, in which there is no session.
    let mut old = message;
    old[4] = old[4].wrapping_add(5);
    datagram(&mut sim, &old);
    assert_dropped(&mut sim, Some("acme"), "tunnel-session-expired", 1);
}

#[test]
fn what_io_could_not_send_is_counted() {
    let mut sim = Sim::up();
    sim.node("fra1").plane.egress_dropped(popgate::model::DropReason::EgressQueueFull, 3);
    sim.node("fra1").plane.egress_dropped(popgate::model::DropReason::WorkerQueueFull, 2);
    assert_dropped(&mut sim, None, "egress-queue-full", 3);
    assert_dropped(&mut sim, None, "worker-queue-full", 2);
}

#[test]
fn queue_standing_costs_a_large_packet_or_one_segment_and_a_mark_where_marks_are_heeded() {
    let mut sim = Sim::up();
    let large = [7; 1_000];
    let shed = |sim: &mut Sim, packet: &[u8]| {
        sim.node("fra1").plane.shed = true;
        sim.from_internet(packet)
    };
    // Answers come in at any worker, by both addresses; where the session is another's, the other one's queue stands or not.
    let out = (80..80 + workers())
        .map(|server| {
            let packet = udp("10.1.0.5:1000", &format!("203.0.113.{server}:53"), b"x").bytes();
            sim.from_lan("berlin", &packet)
        })
        .collect::<Vec<_>>();
    let at_its_own = out.into_iter().find(|out| shed(&mut sim, &answer(&out[0], &large)).is_empty());
    let out = at_its_own.expect("one that comes in where its session is");
    assert_eq!(shed(&mut sim, &answer(&out[0], b"a call")).len(), 1, "small ones pass");
    assert_dropped(&mut sim, Some("acme"), "queue-standing", 1);
    // ECN-capable: marked, and not lost (RFC 3168).
    let mut capable = answer(&out[0], &large);
    capable[1] |= 0b10;
    mend_ipv4(&mut capable);
    let marked = shed(&mut sim, &capable);
    assert_eq!(marked[0][1] & 0b11, 0b11);
    assert_eq!(read(&marked[0]).destination(&marked[0]).to_string(), "10.1.0.5");
    assert_dropped(&mut sim, Some("acme"), "queue-standing", 1);
    // Of a super-packet of ten segments nine arrive.
    let device = sim.device("fra1", "internet");
    sim.node("fra1").plane.shed = true;
    sim.inject_super("fra1", device, &answer(&out[0], &[7; 10_000]), 1_000);
    assert_eq!(sim.take_delivered().len(), 9);
    assert_dropped(&mut sim, Some("acme"), "queue-standing", 2);
}

#[test]
fn class_queue_of_a_limited_line_is_bounded_and_does_not_stand() {
    let slow = crate::net::POP.replacen("[[transport]]\n", "[[transport]]\nbandwidth = \"1mbit\"\n", 1);
    let mut sim = Sim::with_configurations(&slow, ACME, crate::net::GLOBEX);
    sim.advance(2_000);
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    let large = answer(&out[0], &[7; 1_000]);
    // One goes at once, and 128 KiB of the others wait.
    let at_once: usize = (0..140).map(|_| sim.from_internet(&large).len()).sum();
    assert_eq!(at_once, 1);
    assert_dropped(&mut sim, Some("acme"), "class-queue-full", 140 - 1 - (128 << 10) / 1_028);
    sim.advance(2_000);
    let lost = sim.drops("fra1").into_iter().find(|row| row.reason == "class-queue-standing");
    let lost = lost.expect("it has stood for an interval").packets;
    assert!((5..60).contains(&lost), "{lost} lost");
    assert_eq!(sim.take_delivered().len() as u64 + lost, (128 << 10) / 1_028);
}

fn mend_ipv4(packet: &mut [u8]) {
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = !popgate::wire::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn duplicate_of_what_came_by_another_path() {
    let twice = ACME.replacen(
        "prefer = [\"dsl\", \"lte\"]",
        "prefer = [\"dsl\", \"lte\"]\nremediation = \"duplicate-always\"",
        1,
    );
    let mut sim = Sim::with_policies(&twice, crate::net::GLOBEX);
    sim.advance(2_000);
    assert_eq!(sim.from_lan("berlin", &udp("10.1.0.5:1", "203.0.113.80:53", b"x").bytes()).len(), 1);
    assert_dropped(&mut sim, Some("acme"), "duplicate", 1);
}

/// Reads the enum's own source: a variant without a test in this file fails here.
#[test]
fn every_reason_there_is_has_a_test_in_this_file() {
    let variants: Vec<&str> = include_str!("../../src/model/drop.rs")
        .split("=> \"")
        .skip(1)
        .filter_map(|t| t.split('"').next())
        .collect();
    assert!(variants.len() >= 33, "{variants:?}");
    let here = include_str!("drops.rs");
    let untested: Vec<_> =
        variants.into_iter().filter(|name| !here.contains(&format!("\"{name}\""))).collect();
    assert_eq!(untested, [""; 0]);
}
