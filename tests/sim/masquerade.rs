//! Masquerading, as the data plane sees it: a pool of one address, which is the box's own too.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, fragments, other, ping, source, tcp, udp};
use popgate::wire::tcp_flags::{ACK, SYN};

const POOL: &str = "nat-pool = [\"198.51.100.0/30\"]";
const OWN: &str = "192.0.2.77";

fn acme() -> String {
    ACME.replace(POOL, "masquerade = \"eth9\"")
}

/// A PoP whose interface has an address, by which acme goes out.
fn masquerading() -> Sim {
    let mut sim = Sim::up();
    sim.own_address("eth9", Some(OWN), &[("acme", &acme()), ("globex", GLOBEX)]);
    sim
}

#[test]
fn a_tenant_goes_out_by_the_boxs_own_address_from_ports_that_are_given_out() {
    let mut sim = masquerading();
    let out = sim.from_lan("berlin", &tcp("10.1.0.5:40000", "203.0.113.80:80", SYN, b"").bytes());
    let [out] = &out[..] else { panic!("{out:?}") };
    let from = ends(out);
    let port: u16 = from.split([':', ' ']).nth(1).and_then(|port| port.parse().ok()).expect("a port");
    assert!(from.starts_with(OWN) && port >= 52_000, "{from}");
    assert_eq!(sim.from_internet(&answer(out, b"")).len(), 1);
}

#[test]
fn what_belongs_to_no_session_is_given_back_to_the_kernel_as_it_came() {
    let mut sim = masquerading();
    let to = |port: u16| format!("{OWN}:{port}");
    let first = udp("203.0.113.80:53", &to(60_001), &[7; 900]).may_fragment().bytes();
    let strays = [
        udp("203.0.113.80:53", &to(60_000), b"not ours").bytes(),
        tcp("203.0.113.80:80", &to(60_000), ACK, b"").bytes(),
        answer(&ping(OWN, "203.0.113.80", 60_000, b"the box's own").bytes(), b""),
        // A fragment whose first went to the box.
        fragments(&first, 600).remove(1),
    ];
    for stray in strays {
        assert_eq!(sim.from_internet(&stray), std::slice::from_ref(&stray));
    }
    assert!(sim.drops("fra1").is_empty(), "{:?}", sim.drops("fra1"));
    // What is for a pool's address is not the box's.
    assert!(sim.from_internet(&udp("203.0.113.80:53", "198.51.100.8:5000", b"").bytes()).is_empty());
    assert_eq!(sim.dropped("fra1", Some("globex"), "no-session"), 1);
}

#[test]
fn a_session_of_the_old_address_ends_when_it_changes_and_begins_anew_with_the_new_one() {
    let mut sim = masquerading();
    let packet = udp("10.1.0.5:40000", "203.0.113.80:53", b"?").bytes();
    let before = sim.from_lan("berlin", &packet);
    assert_eq!(source(&before[0]).to_string(), OWN);
    let tenants = [("acme", acme()), ("globex", GLOBEX.to_owned())];
    let tenants: Vec<(&str, &str)> = tenants.iter().map(|(name, text)| (*name, text.as_str())).collect();
    sim.own_address("eth9", Some("192.0.2.78"), &tenants);
    assert!(sim.from_lan("berlin", &packet).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-binding-revoked"), 1);
    let after = sim.from_lan("berlin", &packet);
    assert_eq!(source(&after[0]).to_string(), "192.0.2.78");
    // Without an address there is nothing to be translated to.
    sim.own_address("eth9", None, &tenants);
    assert!(sim.from_lan("berlin", &udp("10.1.0.6:1", "203.0.113.80:53", b"?").bytes()).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-required"), 1);
}

#[test]
fn a_host_of_ipv6_reaches_ipv4_by_the_boxs_own_address() {
    let mut sim = Sim::up();
    let masquerade = "masquerade = \"eth9\"";
    let acme = acme().replace(masquerade, &format!("{masquerade}\nnat64-prefix = \"2001:db8:64::/96\""));
    sim.own_address("eth9", Some(OWN), &[("acme", &acme), ("globex", GLOBEX)]);
    let packet = udp("[2001:db8:1::5]:40000", "[2001:db8:64::cb00:7150]:53", b"?").bytes();
    let out = sim.from_lan("berlin", &packet);
    assert!(
        ends(&out[0]).starts_with(OWN) && ends(&out[0]).ends_with("> 203.0.113.80:53"),
        "{}",
        ends(&out[0])
    );
    assert_eq!(ends(&sim.from_internet(&answer(&out[0], b""))[0]), ends(&answer(&packet, b"")));
}

#[test]
fn a_protocol_without_ports_cannot_share_the_boxs_address() {
    let mut sim = masquerading();
    assert!(sim.from_lan("berlin", &other("10.1.0.5", "203.0.113.80", 47, b"GRE").bytes()).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-required"), 1);
}
