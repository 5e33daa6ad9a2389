//! The slow path against a naive reading of the configuration: whatever `tables` makes of it, `decide` must say what a
//! person would who reads the file from the top.

use ipnetwork::IpNetwork;
use popgate::config::{
    AclAction, AclRule, Addressing, Admin, AppClass, Appliance, Attachment, Bound, BranchLimits, Candidate,
    CommitGuard, DEFAULT_CLASS, Export, FlowMatch, Handoff, HandoffKind, IcmpSource, NatAction, NatFiltering,
    NatRule, Place, Pop, PrivateKey, Role, Service, SourceRef, Tenant, TenantBranch,
};
use popgate::model::{FlowKey, NextHop, Protocol, Queueing, TenantId, Timeouts, Zone};
use popgate::pipeline::{Question, Way, decide};
use popgate::tables::{Compiler, Generation, NatVerdict};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

fn at() -> SourceRef {
    SourceRef { file: "tenants/acme.toml".into(), line: 1 }
}

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a prefix")
}

/// Few and nested, so that rules meet.
const PREFIXES: [&str; 12] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.77.0/24",
    "10.2.0.0/16",
    "10.2.1.0/30",
    "10.200.0.0/16",
    "203.0.113.0/24",
    "198.18.5.0/24",
    "2001:db8:1::/48",
    "2001:db8:1:7::/64",
    "2001:db8::/32",
    "0.0.0.0/0",
];
const ADDRESSES: [&str; 12] = [
    "10.1.0.5",
    "10.1.77.5",
    "10.2.0.9",
    "10.2.1.2",
    "10.9.9.9",
    "10.200.0.7",
    "203.0.113.80",
    "198.18.5.5",
    "192.0.2.200",
    "2001:db8:1::5",
    "2001:db8:1:7::5",
    "2001:db8:ffff::9",
];
const PLACES: [&str; 5] = ["branch:b0", "branch:b1", "branch:b2", "handoff:internet", "handoff:dc"];
const POOLS: [&str; 2] = ["198.51.100.0/30", "198.51.100.4/30"];
const PORTS: [u16; 5] = [1, 23, 53, 443, 5_201];

fn place(text: &str) -> Place {
    match text.split_once(':') {
        Some(("branch", name)) => Place::Branch(name.to_owned()),
        Some(("handoff", name)) if !name.is_empty() => Place::Handoff(name.to_owned()),
        _ => Place::Prefix(net(text)),
    }
}

fn places() -> impl Strategy<Value = Vec<Place>> {
    let one = prop_oneof![select(PLACES.to_vec()), select(PREFIXES.to_vec())].prop_map(place);
    prop_oneof![2 => Just(Vec::new()), 3 => prop::collection::vec(one, 1..3)]
}

fn ports() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    let one = (select(PORTS.to_vec()), 0u16..500).prop_map(|(port, more)| port..=port.saturating_add(more));
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(one, 1..3)]
}

fn protocols() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP])
}

fn flow_match(classes: Vec<String>) -> impl Strategy<Value = FlowMatch> {
    let some_protocols = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(protocols(), 1..3)];
    let some_dscp = prop_oneof![4 => Just(vec![]), 1 => Just(vec![46, 0])];
    let some_classes = if classes.is_empty() {
        Just(vec![]).boxed()
    } else {
        prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(select(classes), 1..3)].boxed()
    };
    let service = (prop::collection::vec(protocols(), 1..3), ports(), ports()).prop_map(
        |(protocols, source_ports, destination_ports)| Service { protocols, source_ports, destination_ports },
    );
    // Services of groups, or one that the rule says itself.
    let own = (some_protocols, ports(), ports()).prop_map(|own| (own, Vec::new()));
    let named = prop::collection::vec(service, 1..4).prop_map(|named| (Default::default(), named));
    let bound = select(vec![None, None, None, Some(Bound::Outbound), Some(Bound::Inbound)]);
    (places(), places(), prop_oneof![2 => own, 1 => named], some_dscp, some_classes, bound).prop_map(
        |(from, to, ((protocols, source_ports, destination_ports), services), dscp, classes, bound)| {
            FlowMatch {
                from,
                to,
                protocols,
                source_ports,
                destination_ports,
                services,
                dscp,
                classes,
                bound,
                ..FlowMatch::default()
            }
        },
    )
}

/// A tenant of three branches and two handoffs, who share the prefixes out among them.
fn tenant() -> impl Strategy<Value = Tenant> {
    let class_names = || vec!["voice".to_owned(), "bulk".to_owned(), DEFAULT_CLASS.to_owned()];
    let action = select(vec![AclAction::Accept, AclAction::Accept, AclAction::Drop, AclAction::Reject]);
    let nat_action = prop_oneof![
        1 => Just(NatAction::NoNat),
        2 => select(POOLS.to_vec()).prop_map(|pool| NatAction::Pool(vec![net(pool)])),
    ];
    // Half of them for everything: rules that say little are the ones that go wrong.
    let nat_match = prop_oneof![Just(FlowMatch::default()), flow_match(class_names())];
    (
        prop::collection::vec(0usize..6, PREFIXES.len() - 1),
        prop::collection::vec(prop::collection::vec(flow_match(vec![]), 1..3), 2),
        (prop::collection::vec((flow_match(class_names()), action), 0..8), any::<bool>()),
        prop::collection::vec((nat_match, nat_action), 0..4),
        any::<bool>(),
        prop::collection::vec(select(vec!["10.1.77.0/24", "198.18.5.0/24", "2001:db8:1::/48"]), 0..3),
    )
        .prop_map(|(owners, classes, (mut acl, open), nat, pooled, routed)| {
            if open {
                acl.push((FlowMatch::default(), AclAction::Accept));
            }
            let of = |who: usize| -> Vec<IpNetwork> {
                owners.iter().zip(PREFIXES).filter(|(o, _)| **o == who).map(|(_, p)| net(p)).collect()
            };
            let branch = |n: usize| TenantBranch {
                name: format!("b{n}"),
                prefixes: of(n),
                prefixes_at: Vec::new(),
                limits: BranchLimits::default(),
                paths: Vec::new(),
                at: at(),
            };
            let internet = HandoffKind::Internet {
                nat_pool: if pooled { POOLS.map(net).to_vec() } else { Vec::new() },
                masquerade: None,
                nat_ports: 1_024..=65_535,
                nat_blocks: None,
                nat_filtering: NatFiltering::AddressAndPortDependent,
                nat64_prefix: None,
                maps: vec![],
                forwards: vec![],
                routed: routed.into_iter().map(net).collect(),
            };
            let attachment = Attachment { interface: "eth2".into(), vlan: None };
            let dc = HandoffKind::Private { attachment, addressing: Addressing::default(), routes: vec![] };
            let handoff = |name: &str, kind, mut prefixes: Vec<IpNetwork>, default: bool| {
                if default {
                    prefixes.extend([net("0.0.0.0/0"), net("::/0")]);
                }
                Handoff { name: name.to_owned(), kind, prefixes, at: at() }
            };
            Tenant {
                name: "acme".into(),
                branches: (0..3).map(branch).collect(),
                apps: vec![],
                whereabouts: vec![],
                dns_teachers: vec![],
                published: Vec::new(),
                subscribers: Vec::new(),
                subscriptions: Vec::new(),
                handoffs: vec![handoff("internet", internet, of(3), true), handoff("dc", dc, of(4), false)],
                classes: ["voice", "bulk"]
                    .into_iter()
                    .zip(classes)
                    .map(|(name, matches)| AppClass {
                        name: name.to_owned(),
                        matches,
                        queueing: Queueing::default(),
                        set_dscp: None,
                        at: at(),
                    })
                    .collect(),
                acl: acl
                    .into_iter()
                    .enumerate()
                    .map(|(n, (matches, action))| AclRule {
                        name: format!("r{n}"),
                        matches,
                        action,
                        log: false,
                        at: at(),
                    })
                    .collect(),
                // A rule's pool must be a part of the handoff's.
                nat: nat
                    .into_iter()
                    .filter(|(_, action)| pooled || *action == NatAction::NoNat)
                    .enumerate()
                    .map(|(n, (matches, action))| NatRule {
                        name: format!("n{n}"),
                        matches,
                        action,
                        at: at(),
                    })
                    .collect(),
                timeouts: Timeouts::DEFAULT,
                max_sessions: None,
                path_policies: Vec::new(),
                policy_tests: Vec::new(),
                canaries: Vec::new(),
                file: "tenants/acme.toml".into(),
            }
        })
}

fn compile(tenant: &Tenant) -> Generation {
    let appliance = Appliance {
        site: "fra1".into(),
        metro: None,
        facility: None,
        role: Role::Pop(Pop {
            private_key: PrivateKey::from_random([7; 32]),
            internet_device: "pg-internet".into(),
        }),
        state_dir: "/nowhere".into(),
        transports: Vec::new(),
        icmp_source: IcmpSource { v4: "192.0.0.8".parse().expect("v4"), v6: "fd70::1".parse().expect("v6") },
        max_sessions: 1_000,
        workers: None,
        admin: Admin { listen: "127.0.0.1:8443".parse().expect("an address"), tls: None, oidc: None },
        export: Export {
            active_timeout: Duration::from_secs(60),
            packet_sampling: 1_000,
            collectors: Vec::new(),
        },
        nat_ledger: None,
        flow_history: None,
        commit_guard: CommitGuard { watch: Duration::from_secs(30), tunnels_lost: 1.0, drops: None },
        audit_syslog: None,
        interfaces: Vec::new(),
    };
    let candidate = Candidate { appliance, tenants: [(tenant.name.clone(), tenant.clone())].into() };
    Compiler::new("oracle-").compile(&candidate).expect("few names")
}

/// A flow, as a rule sees it.
struct Flow {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: Protocol,
    dscp: u8,
}

/// Who owns `address`, by looking at every prefix there is.
fn owner(tenant: &Tenant, address: IpAddr) -> Option<Place> {
    let branches = tenant.branches.iter().map(|b| (Place::Branch(b.name.clone()), &b.prefixes));
    let handoffs = tenant.handoffs.iter().map(|h| (Place::Handoff(h.name.clone()), &h.prefixes));
    branches
        .chain(handoffs)
        .flat_map(|(place, prefixes)| prefixes.iter().map(move |prefix| (place.clone(), prefix)))
        .filter(|(_, prefix)| prefix.contains(address))
        .max_by_key(|(_, prefix)| prefix.prefix())
        .map(|(place, _)| place)
}

fn matches(tenant: &Tenant, rule: &FlowMatch, flow: &Flow, class: Option<&str>) -> bool {
    let end = |places: &[Place], address: IpAddr| {
        places.is_empty()
            || places.iter().any(|place| match place {
                Place::Prefix(prefix) => prefix.contains(address),
                place => owner(tenant, address).as_ref() == Some(place),
            })
    };
    let port = |ranges: &[RangeInclusive<u16>], port: u16| {
        ranges.is_empty() || ranges.iter().any(|range| *range.start() <= port && port <= *range.end())
    };
    end(&rule.from, flow.source.0)
        && end(&rule.to, flow.destination.0)
        && (rule.protocols.is_empty() || rule.protocols.contains(&flow.protocol))
        && port(&rule.source_ports, flow.source.1)
        && port(&rule.destination_ports, flow.destination.1)
        && (rule.services.is_empty()
            || rule.services.iter().any(|service| {
                service.protocols.contains(&flow.protocol)
                    && port(&service.source_ports, flow.source.1)
                    && port(&service.destination_ports, flow.destination.1)
            }))
        && rule.bound.is_none_or(|bound| {
            let inside = !matches!(owner(tenant, flow.source.0), Some(Place::Handoff(_)));
            inside == (bound == Bound::Outbound)
        })
        && (rule.dscp.is_empty() || rule.dscp.contains(&flow.dscp))
        && (rule.classes.is_empty()
            || class.is_some_and(|class| rule.classes.iter().any(|wanted| wanted == class)))
}

/// What the file says: class, rule, and what becomes of the source; or why not.
fn read(tenant: &Tenant, flow: &Flow, from: &Place) -> Result<(String, String, String), String> {
    let source = owner(tenant, flow.source.0).ok_or("source-not-allowed")?;
    if source != *from {
        return Err("source-not-allowed".into());
    }
    let destination = owner(tenant, flow.destination.0).ok_or("no-route")?;
    if destination == source {
        return Err("hairpin-refused".into());
    }
    let class = tenant
        .classes
        .iter()
        .find(|class| class.matches.iter().any(|m| matches(tenant, m, flow, None)))
        .map_or(DEFAULT_CLASS, |class| &class.name);
    let rule = tenant.acl.iter().find(|rule| matches(tenant, &rule.matches, flow, Some(class)));
    let rule = match rule {
        None => return Err("acl-default".into()),
        Some(rule) => match rule.action {
            AclAction::Accept => rule.name.clone(),
            AclAction::Drop => return Err(format!("acl-dropped {}", rule.name)),
            AclAction::Reject => return Err(format!("acl-rejected {}", rule.name)),
        },
    };
    let handoff = tenant.handoffs.iter().find(|h| destination == Place::Handoff(h.name.clone()));
    let nat = match handoff.map(|handoff| &handoff.kind) {
        Some(HandoffKind::Internet { nat_pool, routed, .. }) => {
            let shown = routed.iter().any(|prefix| prefix.contains(flow.source.0));
            let first = tenant.nat.iter().find(|rule| matches(tenant, &rule.matches, flow, Some(class)));
            match first.map(|rule| &rule.action) {
                Some(NatAction::Pool(pool)) if flow.source.0.is_ipv4() => format!("{pool:?}"),
                _ if shown => "untranslated".into(),
                _ if flow.source.0.is_ipv6() || nat_pool.is_empty() => return Err("nat-required".into()),
                _ => format!("{nat_pool:?}"),
            }
        }
        _ => "untranslated".into(),
    };
    Ok((class.to_owned(), rule, nat))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn decide_says_what_the_file_says(
        tenant in tenant(),
        flows in prop::collection::vec(
            (any::<Index>(), any::<Index>(), select(PORTS.to_vec()), select(PORTS.to_vec()), protocols(),
             select(vec![0u8, 46, 10]), any::<Index>(), 0u8..4),
            1..20,
        ),
    ) {
        let generation = compile(&tenant);
        let id = TenantId(0);
        let compiled = generation.tenants.get(id).expect("one tenant");
        let names = &generation.names;
        let hop_of = |place: &Place| match place {
            Place::Branch(name) => {
                let found = names.all_sites().find(|(_, (_, site))| **site == **name);
                NextHop::Tunnel(found.expect("a branch").0)
            }
            Place::Handoff(name) => {
                let wanted = if name == "internet" { "internet".to_owned() } else { format!("acme/{name}") };
                NextHop::Device(names.all_devices().find(|(_, device)| ***device == *wanted).expect("a device").0)
            }
            Place::Prefix(_) | Place::Tenant(_) => unreachable!("nobody owns by these"),
        };
        for (source, destination, source_port, destination_port, protocol, dscp, from, honest) in flows {
            let address = |index: &Index| ADDRESSES[index.index(ADDRESSES.len())].parse::<IpAddr>().expect("an address");
            let (source, destination) = (address(&source), address(&destination));
            if source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            let flow = Flow { source: (source, source_port), destination: (destination, destination_port), protocol, dscp };
            // Most come from where they belong.
            let from = owner(&tenant, source)
                .filter(|_| honest > 0)
                .unwrap_or_else(|| place(PLACES[from.index(PLACES.len())]));
            let key = FlowKey::new(Zone::tenant(id), protocol, flow.source, flow.destination);
            let way = Way::Best(&|_, _| popgate::path::Candidate::Up);
            let question = Question { key: &key, dscp, arrives_from: hop_of(&from), named: None, way };
            let decided = decide(&generation, compiled, &question, &mut ());
            let told = match decided {
                Ok(decision) => Ok((
                    names.class(decision.plan.class).to_owned(),
                    names.rule(decision.plan.rule).to_owned(),
                    match decision.nat {
                        NatVerdict::Untranslated => "untranslated".to_owned(),
                        NatVerdict::Beyond(_) => "translated beyond".to_owned(),
                        NatVerdict::Map(outside) => format!("mapped to {outside}"),
                        NatVerdict::Translate(pool) => {
                            let whole: Vec<IpNetwork> = POOLS.map(net).to_vec();
                            let is = |networks: &[IpNetwork]| {
                                whole.iter().all(|n| {
                                    pool.permits(None, n.network(), 2_000) == networks.contains(n)
                                        && !pool.permits(None, n.network(), 80)
                                })
                            };
                            let parts = [whole.clone(), vec![whole[0]], vec![whole[1]]];
                            format!("{:?}", parts.iter().find(|part| is(part)).expect("a pool of the file's"))
                        }
                        NatVerdict::Cross(_) | NatVerdict::Impossible(_) => unreachable!("no other tenant, or an error"),
                    },
                )),
                Err(reason) => {
                    use popgate::model::DropReason::{AclDropped, AclRejected};
                    Err(match reason {
                        AclDropped(rule) | AclRejected(rule) => format!("{} {}", reason.name(), names.rule(rule)),
                        _ => reason.name().to_owned(),
                    })
                }
            };
            prop_assert_eq!(told, read(&tenant, &flow, &from), "{:?} from {:?}", key, from);
        }
    }
}
