//! What is explained is what happens: whatever flow comes, each box does with it what its explanation said before.

use crate::net::Sim;
use crate::packets::{tcp, udp};
use crate::services;
use popgate::config::Outcome;
use popgate::model::{AskedEnd, AskedFlow, Protocol};
use popgate::pipeline::report::{Explanation, Step, StepKind};
use popgate::wire::tcp_flags::SYN;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where a flow begins, and the hosts there that can begin one.
const BEGINNINGS: [(&str, &str, &[&str]); 4] = [
    ("berlin", "lan", &["10.1.0.5", "10.1.3.7", "2001:db8:1::5"]),
    ("lyon", "lan", &["10.2.0.9", "10.1.77.9"]),
    ("fra1", "internet", &["203.0.113.80", "2001:db8:99::1"]),
    ("fra1", "dc", &["10.200.0.9"]),
];
const DESTINATIONS: [&str; 16] = [
    "203.0.113.80",
    "203.0.113.81",
    "10.2.0.9",
    "10.1.77.9",
    "10.200.0.9",
    "10.1.0.9",
    "198.51.100.1",
    "198.51.100.9",
    "192.0.2.99",
    "2001:db8:99::1",
    "2001:db8:1::80",
    "10.1.255.1",
    "10.1.255.2",
    "172.31.0.5",
    // By NAT64: 203.0.113.80, and lyon's 10.2.0.9, where it does not lead.
    "2001:db8:64::cb00:7150",
    "2001:db8:64::a02:9",
];

fn flows() -> impl Strategy<Value = Vec<(usize, usize, &'static str, u16, bool, u8)>> {
    let ports = select(vec![23u16, 53, 80, 81, 123, 443, 5_201, 8_443, 27_015]);
    let flow = (
        0..BEGINNINGS.len(),
        0usize..3,
        select(DESTINATIONS.to_vec()),
        ports,
        any::<bool>(),
        select(vec![0u8, 46]),
    );
    prop::collection::vec(flow, 1..25)
}

/// Dropped packets by reason and detail, whosever they were.
fn drops(sim: &mut Sim, node: &str) -> BTreeMap<(String, Option<String>), u64> {
    let mut drops = BTreeMap::new();
    for row in sim.drops(node) {
        *drops.entry((row.reason, row.detail)).or_default() += row.packets;
    }
    drops
}

/// Whether `node` did as was said; true if it passed the packet on.
fn did(
    sim: &mut Sim,
    node: &str,
    asked: &AskedFlow,
    said: &Explanation,
    before: &BTreeMap<(String, Option<String>), u64>,
) -> Result<bool, TestCaseError> {
    let after = drops(sim, node);
    let more: Vec<_> = after.iter().filter(|(key, count)| before.get(*key).unwrap_or(&0) < *count).collect();
    if said.outcome != Outcome::Accept {
        prop_assert_eq!(more.len(), 1, "{} dropped {:?}: {:?}", node, more, said);
        let ((reason, detail), _) = more[0];
        prop_assert_eq!(Some(reason), said.reason.as_ref(), "{} {:?}", node, said);
        if reason.starts_with("acl-") {
            prop_assert_eq!(detail, &said.rule);
        }
        return Ok(false);
    }
    prop_assert!(more.is_empty(), "{} dropped {:?}: {:?}", node, more, said);
    let sessions = sim.sessions(node);
    let session =
        sessions.iter().find(|session| session.source_port == asked.source_port()).expect("a session");
    prop_assert_eq!((session.source, session.destination), (asked.from.address, asked.to.address));
    prop_assert_eq!(Some(&session.rule), said.rule.as_ref());
    prop_assert_eq!(Some(&session.class), said.class.as_ref());
    let within = |address: IpAddr| {
        said.nat
            .iter()
            .any(|prefix| prefix.parse::<ipnetwork::IpNetwork>().expect("a prefix").contains(address))
    };
    prop_assert_eq!(session.nat_source.is_some_and(within), !said.nat.is_empty(), "{:?}", said);
    prop_assert_eq!(session.nat_source.is_some(), !said.nat.is_empty());
    // Of the rules that were tried the last fits, and none before it; so too in the tenant whose service is called.
    for there in [false, true] {
        let of_one =
            |step: &&Step| step.kind == StepKind::Rule && step.text.starts_with("in globex:") == there;
        let tried: Vec<bool> = said.steps.iter().filter(of_one).map(|step| step.fits).collect();
        prop_assert_eq!(tried.iter().position(|fits| *fits), tried.len().checked_sub(1));
    }
    // Of what comes by one tunnel and leaves by another, the report tells the first.
    if said.paths_are_forward && !(node == "fra1" && session.from.starts_with("branch:")) {
        prop_assert_eq!(session.forward_path.as_ref(), said.paths.first().map(|step| &step.path));
    }
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn each_box_does_what_its_explanation_said(flows in flows()) {
        let (acme, globex) = services::policies();
        let pool = "nat-pool = [\"198.51.100.0/30\"]";
        let acme = acme.replace(pool, &format!("{pool}\nnat64-prefix = \"2001:db8:64::/96\""));
        let mut sim = Sim::with_policies(&acme, &globex);
        sim.advance(2_000);
        for (number, (begin, host, to, port, is_tcp, dscp)) in (20_000u16..).zip(flows) {
            let (node, device, hosts) = BEGINNINGS[begin];
            let from: IpAddr = hosts[host % hosts.len()].parse().expect("an address");
            let to: IpAddr = to.parse().expect("an address");
            // Who calls globex's addresses is no question to acme.
            let is_others = device == "internet" && to == IpAddr::from([198, 51, 100, 9]);
            if from.is_ipv4() != to.is_ipv4() || is_others {
                continue;
            }
            let asked = AskedFlow {
                from: AskedEnd { address: from, port: Some(number) },
                to: AskedEnd { address: to, port: Some(port) },
                protocol: if is_tcp { Protocol::TCP } else { Protocol::UDP },
                dscp,
                sni: None,
            };
            let (from, to) = (asked.from.to_string(), asked.to.to_string());
            let packet = if is_tcp { tcp(&from, &to, SYN, b"") } else { udp(&from, &to, b"q") }.dscp(dscp).bytes();
            // A branch's flow is decided on at the branch, and then at the PoP.
            let boxes: &[&str] = if node == "fra1" { &["fra1"] } else { &[node, "fra1"] };
            let said: Vec<Explanation> = boxes.iter().map(|node| sim.explain(node, "acme", &asked)).collect();
            let before: Vec<_> = boxes.iter().map(|node| drops(&mut sim, node)).collect();
            sim.send(node, device, &packet);
            for ((node, said), before) in boxes.iter().zip(&said).zip(&before) {
                if !did(&mut sim, node, &asked, said, before)? {
                    break;
                }
            }
        }
    }
}

#[test]
fn another_tenants_flow_is_explained_by_that_tenants_tables_alone() {
    let mut sim = Sim::up();
    let end = |text: &str| text.parse::<AskedEnd>().expect("an end");
    let asked = AskedFlow {
        from: end("10.1.0.5"),
        to: end("203.0.113.80:23"),
        protocol: Protocol::TCP,
        dscp: 0,
        sni: None,
    };
    let acme = sim.explain("fra1", "acme", &asked);
    let globex = sim.explain("fra1", "globex", &asked);
    assert_eq!((acme.outcome, acme.rule.as_deref()), (Outcome::Reject, Some("no-telnet")));
    assert_eq!((globex.outcome, globex.rule.as_deref()), (Outcome::Accept, Some("all-out")));
    assert!(globex.steps.iter().flat_map(|step| &step.at).all(|at| at.starts_with("tenants/globex.toml:")));
}
