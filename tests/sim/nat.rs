//! Translation can be undone: whatever flows of both tenants there are, with the same addresses on the inside, every host
//! sees what it would see without a NAT in between.

use crate::net::Sim;
use crate::packets::{answer, ends, other, ping, read, source, tcp, udp};
use popgate::wire::{self, IcmpError, tcp_flags::SYN};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A flow of a branch's, by small numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    branch: usize,
    host: u8,
    port: u16,
    server: u8,
    server_port: u16,
    kind: u8,
}

#[derive(Clone, Debug)]
enum Step {
    Out(Flow, Vec<u8>),
    /// The server of one of the flows so far answers.
    Back(prop::sample::Index, Vec<u8>),
    /// A router on the way complains about one.
    Error(prop::sample::Index),
}

const BRANCHES: [(&str, &str); 2] = [("berlin", "198.51.100.0/30"), ("site1", "198.51.100.8/30")];
const TCP: u8 = 0;
const UDP: u8 = 1;
const PING: u8 = 2;

fn flow() -> impl Strategy<Value = Flow> {
    let port = prop::sample::select(vec![1u16, 53, 1_024, 5_000, 5_003, 40_000, 65_535]);
    (0usize..2, 1u8..4, port, 80u8..82, 9u16..11, 0u8..4).prop_map(
        |(branch, host, port, server, server_port, kind)| match kind {
            TCP | UDP => Flow { branch, host, port, server, server_port, kind },
            PING => Flow { branch, host, port, server, server_port: 0, kind },
            _ => Flow { branch, host, port: 0, server, server_port: 0, kind },
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload = || prop::collection::vec(any::<u8>(), 0..40);
    let step = prop_oneof![
        3 => (flow(), payload()).prop_map(|(flow, payload)| Step::Out(flow, payload)),
        3 => (any::<prop::sample::Index>(), payload()).prop_map(|(index, payload)| Step::Back(index, payload)),
        1 => any::<prop::sample::Index>().prop_map(Step::Error),
    ];
    prop::collection::vec(step, 1..60)
}

fn packet(flow: &Flow, payload: &[u8]) -> Vec<u8> {
    let (host, server) = (format!("10.1.0.{}", flow.host), format!("203.0.113.{}", flow.server));
    let (from, to) = (format!("{host}:{}", flow.port), format!("{server}:{}", flow.server_port));
    match flow.kind {
        TCP => tcp(&from, &to, SYN, payload),
        UDP => udp(&from, &to, payload),
        PING => ping(&host, &server, flow.port, payload),
        _ => other(&host, &server, 47, payload),
    }
    .bytes()
}

/// The same bytes but for hops taken, and for checksums, which [`read`] has verified.
fn seen(packet: &[u8]) -> Vec<u8> {
    let parsed = read(packet);
    let mut seen = packet.to_vec();
    seen[8] = 0;
    seen[10..12].fill(0);
    let at = match parsed.protocol.0 {
        6 => Some(16),
        17 => Some(6),
        1 => Some(2),
        _ => None,
    };
    if let Some(at) = at {
        seen[parsed.upper_at + at..parsed.upper_at + at + 2].fill(0);
    }
    // Of a SYN the MSS is clamped.
    if parsed.tcp_flags() & SYN != 0 {
        seen[parsed.upper_at + 22..parsed.upper_at + 24].fill(0);
    }
    seen
}

/// The answer; of GRE, the packet turned round.
fn answered(packet: &[u8], payload: &[u8]) -> Vec<u8> {
    let parsed = read(packet);
    if parsed.protocol.0 == 47 {
        let (from, to) = (parsed.destination(packet).to_string(), parsed.source(packet).to_string());
        return other(&from, &to, 47, payload).bytes();
    }
    answer(packet, payload)
}

fn check(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut sim = Sim::up();
    // What the internet saw of each flow, and what its host had sent.
    let mut outside: BTreeMap<Flow, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Out(flow, payload) => {
                let (branch, pool) = BRANCHES[flow.branch];
                let sent = packet(&flow, &payload);
                let exhausted = sim.drops("fra1").iter().filter(|d| d.reason == "nat-pool-exhausted").count();
                let before = sim.dropped("fra1", Some("globex"), "nat-pool-exhausted")
                    + sim.dropped("fra1", Some("acme"), "nat-pool-exhausted");
                let out = sim.send(branch, "lan", &sent);
                if out.is_empty() {
                    let after = sim.dropped("fra1", Some("globex"), "nat-pool-exhausted")
                        + sim.dropped("fra1", Some("acme"), "nat-pool-exhausted");
                    prop_assert_eq!(after, before + 1, "{:?} {:?} {}", flow, sim.drops("fra1"), exhausted);
                    prop_assert!(!outside.contains_key(&flow), "{flow:?} had a binding");
                    continue;
                }
                prop_assert_eq!(out.len(), 1);
                prop_assert_eq!(out[0].0.as_str(), "fra1 pg-internet");
                let out = out[0].1.clone();
                let parsed = read(&out);
                let pool: ipnetwork::IpNetwork = pool.parse().expect("a prefix");
                prop_assert!(pool.contains(parsed.source(&out)), "{flow:?} left as {}", ends(&out));
                // Put back what the NAT may change, and it is what was sent.
                let (mut back, mut parsed_back) = (out.clone(), parsed);
                let inside = source(&sent);
                wire::translate(&mut back, &mut parsed_back, wire::Side::Source, inside, flow.port);
                prop_assert_eq!(seen(&back), seen(&sent));
                if let Some((first, _)) = outside.get(&flow) {
                    prop_assert_eq!(ends(first), ends(&out), "a binding stays");
                }
                let key = (ends(&out), flow.kind);
                let same = outside.iter().find(|(f, (o, _))| **f != flow && (ends(o), f.kind) == key);
                prop_assert!(same.is_none(), "{flow:?} and {same:?} look the same outside");
                outside.insert(flow, (out, sent));
            }
            Step::Back(index, payload) if !outside.is_empty() => {
                let (flow, (out, sent)) =
                    outside.iter().nth(index.index(outside.len())).expect("one of them");
                let back = sim.send("fra1", "internet", &answered(out, &payload));
                prop_assert_eq!(back.len(), 1, "{:?}", sim.drops("fra1"));
                prop_assert_eq!(back[0].0.clone(), format!("{} pg-lan", BRANCHES[flow.branch].0));
                prop_assert_eq!(seen(&back[0].1), seen(&answered(sent, &payload)), "{:?}", flow);
            }
            Step::Error(index) if !outside.is_empty() => {
                let (flow, (out, sent)) =
                    outside.iter().nth(index.index(outside.len())).expect("one of them");
                let router = ("203.0.113.1".parse().expect("v4"), "2001:db8::1".parse().expect("v6"));
                let complain = |packet: &[u8]| {
                    // GRE with less than 8 bytes behind its header says nothing that could be told apart.
                    (packet.len() >= 28)
                        .then(|| wire::icmp_error(packet, &read(packet), IcmpError::NoRoute, router))
                };
                let (Some(error), Some(expected)) = (complain(out), complain(sent)) else { continue };
                let back = sim.send("fra1", "internet", &error);
                prop_assert_eq!(back.len(), 1, "{:?}", sim.drops("fra1"));
                prop_assert_eq!(back[0].0.clone(), format!("{} pg-lan", BRANCHES[flow.branch].0));
                prop_assert_eq!(ends(&back[0].1), ends(&expected), "{:?}", flow);
            }
            _ => {}
        }
        let ports = sim.node("fra1").plane.ports_in_use();
        prop_assert_eq!(ports, sim.bindings("fra1"));
        for (tenant, branch, ports) in [("acme", 0, 64_512), ("globex", 1, 4)] {
            let rows = sim.tenants("fra1");
            let row = rows.iter().find(|row| row.tenant == tenant).expect("a tenant of the box");
            let [pool] = &row.nat_pools[..] else { panic!("one internet handoff: {row:?}") };
            prop_assert_eq!((pool.addresses, pool.ports), (4, 4 * ports));
            // A flow of GRE holds an address.
            let kinds = [pool.tcp_bindings, pool.udp_bindings, pool.icmp_bindings, pool.other_bindings];
            let begun = outside.keys().filter(|flow| flow.branch == branch);
            let mut bound = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
            for flow in begun {
                bound[usize::from(flow.kind)].insert((flow.host, flow.port));
            }
            prop_assert_eq!(kinds, bound.map(|bound| bound.len() as u64));
            prop_assert!(pool.leased_ports <= pool.ports, "{:?}", pool);
            prop_assert!(kinds[..3].iter().all(|bindings| *bindings <= pool.leased_ports), "{:?}", pool);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn what_comes_back_is_what_the_host_would_see_without_a_nat(steps in steps()) {
        check(steps)?;
    }
}
