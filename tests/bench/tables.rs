//! The tables by themselves: how long a decision takes with so many rules, and what so many sessions cost.
//!
//! Decisions beside a scan of the same rules; sessions looked up one at a time beside many at once. What grows is watched
//! for the one insertion that all others behind it would wait for.

use crate::cases::{Bench, Case};
use crate::measure::{cpu_time, median, rss, since};
use crate::pop::{candidate, from_client, host_of, process, seal, udp};
use crate::{SERVER, Wanted};
use ipnetwork::{IpNetwork, Ipv4Network};
use popgate::config::{AclRule, Candidate, FlowMatch, Place, Service};
use popgate::flow::{Plan, Session, SessionTable, Translation};
use popgate::model::{
    ClassBy, ClassId, Direction, End, FlowKey, Id, IdMap, NextHop, Now, Protocol, RuleId, SiteId, TenantId,
    Zone,
};
use popgate::tables::{Compiler, Generation, Subject, Tenant};
use popgate::wire::Outbound;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;

/// Runs the cases that are `wanted`; their rows.
pub fn rows(wanted: &Wanted) -> Vec<Value> {
    let matches = |name: &str| wanted.has(name);
    let mut rows = Vec::new();
    for rules in [4, 10, 100, 1_000, 10_000] {
        if matches(&format!("decision, {rules} rules")) {
            rows.extend(decisions(rules));
        }
    }
    rows
}

/// Those of the session table by itself.
pub fn table_rows(wanted: &Wanted) -> Vec<Value> {
    if wanted.has("session table") { session_table() } else { Vec::new() }
}

/// What two million sessions are to this process's memory.
pub fn memory_rows(wanted: &Wanted) -> Vec<Value> {
    if wanted.has("memory of sessions") { vec![memory_of_sessions()] } else { Vec::new() }
}

// Decisions.

/// Rules that most flows pass by, until the last; rules that overlap, so that flows end anywhere among them, and such of
/// three services each; and rules each of which a flow fits but for one field, another one for every second rule.
fn decisions(rules: usize) -> Vec<Value> {
    let mut rng = StdRng::seed_from_u64(rules as u64);
    [("last", true), ("mixed", true), ("services", true), ("near misses", false)]
        .map(|(kind, matches)| {
            let mut candidate = candidate(1, 1);
            let tenant = candidate.tenants.values_mut().next().expect("a tenant");
            let mut last = tenant.acl.pop().expect("a rule");
            if !matches {
                last.matches.protocols = vec![Protocol(99)];
            }
            let configs = (1..rules).map(|n| rule(kind, n, &mut rng)).chain([last.matches.clone()]);
            let configs: Vec<FlowMatch> = configs.collect();
            tenant.acl = configs
                .iter()
                .enumerate()
                .map(|(n, matches)| AclRule {
                    name: format!("r{n}"),
                    matches: matches.clone(),
                    ..last.clone()
                })
                .collect();
            decision(kind, &candidate, &configs, &mut rng)
        })
        .into()
}

fn rule(kind: &str, n: usize, rng: &mut StdRng) -> FlowMatch {
    let prefix = |bits: u32, length: u8| {
        let network = Ipv4Network::new(Ipv4Addr::from_bits(bits), length).expect("a length");
        vec![Place::Prefix(IpNetwork::V4(Ipv4Network::new(network.network(), length).expect("a length")))]
    };
    match kind {
        "last" => FlowMatch {
            from: prefix(0x0afa_0000 + ((n as u32 % 1_000) << 8), 24),
            to: prefix(rng.random(), 24),
            protocols: vec![Protocol::TCP],
            destination_ports: vec![n as u16..=n as u16],
            ..FlowMatch::default()
        },
        "mixed" => {
            let port = rng.random_range(1..2_000);
            FlowMatch {
                from: prefix(0x0a00_0000 | rng.random_range(0..1024), rng.random_range(20..=32)),
                to: prefix(0xcb00_7100 | rng.random_range(0..256), rng.random_range(24..=32)),
                protocols: vec![if rng.random() { Protocol::TCP } else { Protocol::UDP }],
                destination_ports: vec![port..=port + rng.random_range(0..50)],
                ..FlowMatch::default()
            }
        }
        "services" => {
            let service = |protocol, rng: &mut StdRng| {
                let port = rng.random_range(1..2_000);
                Service {
                    protocols: vec![protocol],
                    source_ports: Vec::new(),
                    destination_ports: vec![port..=port + rng.random_range(0..50)],
                }
            };
            let source_bound = Service { source_ports: vec![1..=1_023], ..service(Protocol::UDP, rng) };
            FlowMatch {
                from: prefix(0x0a00_0000 | rng.random_range(0..1024), rng.random_range(20..=32)),
                to: prefix(0xcb00_7100 | rng.random_range(0..256), rng.random_range(24..=32)),
                services: vec![service(Protocol::TCP, rng), service(Protocol::UDP, rng), source_bound],
                ..FlowMatch::default()
            }
        }
        // Every block of both fields has something, and nothing in common.
        _ if n.is_multiple_of(2) => FlowMatch {
            from: prefix(0x0a00_0000, 8),
            to: prefix(0x0c00_0000 + n as u32, 32),
            destination_ports: vec![1..=u16::MAX - (n % 1_000) as u16],
            source_ports: vec![1..=u16::MAX - (n % 999) as u16],
            ..FlowMatch::default()
        },
        _ => FlowMatch {
            from: prefix(0x0c00_0000 + n as u32, 32),
            to: prefix(0xcb00_7100, 24),
            destination_ports: vec![1..=u16::MAX - (n % 1_000) as u16],
            source_ports: vec![1..=u16::MAX - (n % 999) as u16],
            ..FlowMatch::default()
        },
    }
}

fn decision(kind: &str, candidate: &Candidate, configs: &[FlowMatch], rng: &mut StdRng) -> Value {
    let before = rss();
    let begin = Instant::now();
    let generation = Compiler::new("bench-").compile(candidate).expect("few names");
    let compiled_ms = begin.elapsed().as_secs_f64() * 1e3;
    let bytes = rss().saturating_sub(before);
    let (_, tenant) = generation.tenants.iter().next().expect("a tenant");
    let owner = |address| tenant.owners.lookup(address).expect("somebody's");
    let subjects: Vec<Subject> = (0..4_096)
        .map(|_| {
            let source = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | rng.random_range(0..1024)));
            let destination = IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 | rng.random_range(0..256)));
            Subject {
                source,
                source_port: rng.random_range(1_024..60_000),
                source_end: owner(source),
                destination,
                destination_port: rng.random_range(1..2_000),
                destination_end: owner(destination),
                protocol: if rng.random() { Protocol::TCP } else { Protocol::UDP },
                dscp: 0,
                apps: &[],
                domains: &[],
            }
        })
        .collect();
    let found = |subject: &Subject| first_match(&generation, tenant, subject);
    for subject in subjects.iter().take(200) {
        let expected = configs.iter().position(|config| fits(config, subject, &generation));
        assert_eq!(found(subject), expected, "{kind}: {subject:?}");
    }
    let (mut compiled, mut scanned) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = cpu_time();
        for subject in &subjects {
            black_box(look_ups(tenant, subject));
        }
        compiled.push(since(begin) / subjects.len() as f64);
        let some = &subjects[..subjects.len().min(2_000_000 / configs.len()).max(16)];
        let begin = cpu_time();
        for subject in some {
            black_box(configs.iter().position(|config| fits(config, subject, &generation)));
        }
        scanned.push(since(begin) / some.len() as f64);
    }
    let (compiled, scanned) = (median(compiled), median(scanned));
    let name = format!("decision, {} rules, {kind}", configs.len());
    println!(
        "{name:44} {compiled:>6.0} ns, scan {scanned:>7.0} ns, compiled in {compiled_ms:.1} ms, {:.1} MB",
        bytes as f64 / 1e6
    );
    json!({
        "name": name,
        "direction": "up",
        "bytes": 0,
        "sessions": 0,
        "rules": configs.len(),
        "tunnels": 1,
        "workers": 1,
        "ns_per_packet": compiled,
        "scan_ns": scanned,
        "ratio": compiled / scanned,
        "compile_ms": compiled_ms,
        "memory_bytes": bytes,
    })
}

/// What a decision asks the rules: app class, ACL, NAT.
fn look_ups(tenant: &Tenant, subject: &Subject) -> (ClassId, Option<RuleId>) {
    let class = tenant.classifier.classify(subject, None).class;
    let rule = tenant.acl.first_match(subject, class).map(|rule| rule.id);
    if let End::Handoff(handoff) = subject.destination_end {
        black_box(tenant.nat.get(handoff).map(|policy| policy.outbound(subject, class)));
    }
    (class, rule)
}

fn first_match(generation: &Generation, tenant: &Tenant, subject: &Subject) -> Option<usize> {
    let rule = look_ups(tenant, subject).1?;
    generation.names.rule(rule).strip_prefix('r')?.parse().ok()
}

/// A rule as it is written.
fn fits(config: &FlowMatch, subject: &Subject, generation: &Generation) -> bool {
    let place = |places: &[Place], address: IpAddr, end: End| {
        places.is_empty()
            || places.iter().any(|place| match place {
                Place::Prefix(prefix) => prefix.contains(address),
                Place::Handoff(_) => matches!(end, End::Handoff(_)),
                Place::Tenant(name) => matches!(end, End::Tenant(id) if generation.names.tenant(id) == name),
                Place::Branch(name) => matches!(end, End::Site(site) if generation.names.site(site) == name),
            })
    };
    let port = |ranges: &[std::ops::RangeInclusive<u16>], port| {
        ranges.is_empty() || ranges.iter().any(|range| range.contains(&port))
    };
    let spoken = |service: &Service| {
        service.protocols.contains(&subject.protocol)
            && port(&service.source_ports, subject.source_port)
            && port(&service.destination_ports, subject.destination_port)
    };
    (config.services.is_empty() || config.services.iter().any(spoken))
        && (config.protocols.is_empty() || config.protocols.contains(&subject.protocol))
        && port(&config.destination_ports, subject.destination_port)
        && port(&config.source_ports, subject.source_port)
        && place(&config.from, subject.source, subject.source_end)
        && place(&config.to, subject.destination, subject.destination_end)
}

// Sessions.

const TENANT: TenantId = TenantId(0);

fn key(n: u32) -> FlowKey {
    let source = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n / 50_000));
    let port = 1_024 + (n % 50_000) as u16;
    FlowKey::new(Zone::tenant(TENANT), Protocol::UDP, (source, port), (SERVER.into(), 443))
}

fn session(n: u32, now: Now) -> Session {
    let end = |n| End::Site(SiteId::from_index(n));
    let hop = |n| NextHop::Tunnel(SiteId::from_index(n));
    let plan = Plan {
        generation: 1,
        class: ClassId(0),
        class_by: ClassBy::Default,
        rule: RuleId(0),
        ends: [end(0), end(1)],
        hops: [hop(0), hop(1)],
    };
    let keys = [key(n), key(n).turned_round(Zone::tenant(TENANT))];
    Session::new(TENANT, keys, plan, Translation::None, None, 0, now.instant)
}

fn session_table() -> Vec<Value> {
    const SESSIONS: u32 = 2_000_000;
    let now = Now::default();
    let before = rss();
    let mut table = SessionTable::new(0, [1, 2], now.instant);
    table.configure(SESSIONS as usize, Duration::from_secs(60), IdMap::default());
    table.allow(SESSIONS as usize);
    let mut spent = Vec::with_capacity(SESSIONS as usize);
    let room_of_samples = SESSIONS as usize * 8;
    let no_time = (0..1_000).map(|_| since(cpu_time()) as u64).min().expect("some");
    for n in 0..SESSIONS {
        let session = session(n, now);
        let begin = cpu_time();
        table.insert(session).expect("room");
        spent.push((since(begin) as u64).saturating_sub(no_time));
    }
    let bytes = (rss() - before - room_of_samples) as f64 / f64::from(SESSIONS);
    spent.sort_unstable();
    let quantile = |share: f64| spent[((spent.len() - 1) as f64 * share) as usize];
    let (median_ns, high, worst) = (quantile(0.5), quantile(0.9999), quantile(1.0));
    println!(
        "session table: {bytes:.0} bytes a session; insertion {median_ns} ns, one in 10,000 {:.1} us, worst {:.1} us",
        high as f64 / 1e3,
        worst as f64 / 1e3
    );
    let mut rows = vec![json!({
        "name": "session table, insertion to 2,000,000",
        "direction": "up",
        "bytes": 0,
        "sessions": SESSIONS,
        "rules": 0,
        "tunnels": 0,
        "workers": 1,
        "ns_per_packet": median_ns,
        "one_in_10000_ns": high,
        "worst_ns": worst,
        "bytes_per_session": bytes,
    })];
    for sessions in [10_000, 1_000_000] {
        let mut alone = 0.0;
        for group in [1, 16, 64] {
            let ns = look_up(&mut table, sessions, group, now);
            alone = if group == 1 { ns } else { alone };
            println!("session table: {sessions} in random order, {group} at once: {ns:.0} ns each");
            rows.push(json!({
                "name": format!("session table, {sessions} in random order, {group} at once"),
                "direction": "up",
                "bytes": 0,
                "sessions": sessions,
                "rules": 0,
                "tunnels": 0,
                "workers": 1,
                "ns_per_packet": ns,
                "ratio": ns / alone,
            }));
        }
    }
    rows
}

/// Looks up and counts: what every packet does.
fn look_up(table: &mut SessionTable, sessions: u32, group: usize, now: Now) -> f64 {
    let mut rng = StdRng::seed_from_u64(7);
    let mut samples = Vec::new();
    let mut found = vec![None; group];
    for _ in 0..ROUNDS {
        let keys: Vec<FlowKey> = (0..65_536)
            .map(|_| {
                let key = key(rng.random_range(0..sessions));
                if rng.random() { key } else { key.turned_round(Zone::tenant(TENANT)) }
            })
            .collect();
        let begin = cpu_time();
        for keys in keys.chunks(group) {
            if group == 1 {
                found[0] = table.lookup(&keys[0]);
            } else {
                table.lookup_batch(keys, &mut found);
            }
            for (at, direction) in found.iter().copied().flatten() {
                if let Some(session) = table.get_mut(at) {
                    session.count(direction, (1, 100), None, None, now);
                    black_box(session.leaving(direction));
                }
            }
        }
        samples.push(since(begin) / keys.len() as f64);
    }
    let [forward, reverse] = [Direction::Forward, Direction::Reverse]
        .map(|direction| table.iter().map(|(_, session)| session.counters(direction).packets).sum::<u64>());
    assert!(forward + reverse >= (ROUNDS * 65_536) as u64, "every packet was counted");
    median(samples)
}

/// 2,000,000 sessions in a worker with everything on.
fn memory_of_sessions() -> Value {
    const SESSIONS: u32 = 2_000_000;
    let mut bench = Bench::new(Case { bytes: 64, sessions: 1, rules: 100, tunnels: 1 });
    let before = rss();
    let mut out = Outbound::default();
    for n in 1..SESSIONS {
        let host = host_of(0, (n / 50_000) as usize);
        let packet = udp((host, 1_024 + (n % 50_000) as u16), (SERVER, 4_500), 64);
        let sealed = seal(&mut bench.pop.clients[0], &packet);
        out.clear();
        process(&mut bench.pop.workers[0], &[(from_client(0), sealed)], bench.pop.now, &mut out);
        assert_eq!(out.packets().count(), 1, "session {n} was opened");
    }
    let after = rss();
    let each = (after - before) as f64 / f64::from(SESSIONS);
    println!(
        "memory of sessions: {each:.0} bytes each in a worker; process {:.0} MB before, {:.0} MB with {SESSIONS}",
        before as f64 / 1e6,
        after as f64 / 1e6
    );
    json!({
        "name": "memory of sessions",
        "direction": "up",
        "bytes": 64,
        "sessions": SESSIONS,
        "rules": 100,
        "tunnels": 1,
        "workers": 1,
        "bytes_per_session": each,
        "rss_before_bytes": before,
        "rss_bytes": after,
    })
}
