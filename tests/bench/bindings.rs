//! NAT bindings by themselves: how many can begin a second, in pools that are so full; and what it costs to find that
//! nothing is left.
//!
//! Beside it a naive twin that gives out the same ports by the same rules, in the standard library's maps and sets: one
//! entry for what each packet or binding is looked up by, and one port tried after another.

use crate::measure::{cpu_time, median, since};
use crate::{ROUNDS, SERVER, Wanted};
use popgate::flow::{Binding, EndReason, Plan, Session, SessionRef, SessionTable, Translation};
use popgate::model::{
    ClassBy, ClassId, DeviceId, End, FlowKey, HandoffId, Id, IdMap, NextHop, Now, Protocol, RuleId, SiteId,
    TenantId, Zone,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

const TENANT: TenantId = TenantId(0);
const PORTS: RangeInclusive<u16> = 1_024..=u16::MAX;
/// Of the pool: a quarter of a million ports.
const ADDRESSES: u32 = 4;
/// Bindings that begin in one round: few enough to leave the pool about as full as it was.
const EACH_ROUND: usize = 1_024;

/// Runs the cases that are `wanted`; their rows.
pub fn rows(wanted: &Wanted) -> Vec<Value> {
    let cases = [0.1, 0.5, 0.9, 0.99, 1.0]
        .map(|full| (full, format!("NAT new bindings, pool {:.0} % full", full * 100.0)));
    cases.iter().filter(|(_, name)| wanted.has(name)).map(|(full, name)| row(name, *full)).collect()
}

fn row(name: &str, full: f64) -> Value {
    let ports = ADDRESSES as usize * PORTS.len();
    let bindings = (ports as f64 * full) as usize;
    let mut pools = Pools::new();
    while pools.held.len() < bindings {
        let host = pools.host(pools.held.len());
        pools.begin(host);
    }
    let (mut ours, mut naively) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        if full < 1.0 {
            (0..EACH_ROUND).for_each(|_| pools.end_any());
        }
        // Naively, a full pool takes thousands of times as long to look through.
        let count = if full < 1.0 { EACH_ROUND } else { 16 };
        let hosts: Vec<Host> = (0..count).map(|n| pools.host(n)).collect();
        let [spent, spent_naively] = pools.time(&hosts);
        ours.push(spent / count as f64);
        naively.push(spent_naively / count as f64);
    }
    let (ns, naive_ns) = (median(ours), median(naively));
    println!(
        "{name:44} {ns:>6.0} ns, {:>6.0} thousand a second; naive {naive_ns:>8.0} ns; ratio {:.4}",
        1e6 / ns,
        ns / naive_ns
    );
    json!({
        "name": name,
        "direction": "up",
        "bytes": 0,
        "sessions": bindings,
        "rules": 0,
        "tunnels": 0,
        "workers": 1,
        "ns_per_packet": ns,
        "per_second": (1e9 / ns).round(),
        "naive_ns": naive_ns,
        "ratio": ns / naive_ns,
    })
}

/// Who wants a binding: an address and port inside, the pool's address it is paired with, and where to look for a port if
/// that one is taken.
struct Host {
    inside: (IpAddr, u16),
    address: IpAddr,
    hint: u16,
}

/// The same pool twice.
struct Pools {
    table: SessionTable,
    naive: Naive,
    /// Bindings there are, by either's means.
    held: Vec<(SessionRef, FlowKey)>,
    rng: StdRng,
    hosts: u32,
    now: Now,
}

impl Pools {
    fn new() -> Pools {
        let now = Now::default();
        let mut table = SessionTable::new(0, [1, 2], now.instant);
        table.configure(1_000_000, Duration::from_secs(60), IdMap::default());
        table.allow(1_000_000);
        let rng = StdRng::seed_from_u64(7);
        Pools { table, naive: Naive::default(), held: Vec::new(), rng, hosts: 0, now }
    }

    /// A new host. As it is known by an address by its own, and each fills up like the others, so does the `n`th here.
    fn host(&mut self, n: usize) -> Host {
        self.hosts += 1;
        Host {
            inside: (Ipv4Addr::from_bits(0x0a00_0000 + self.hosts).into(), self.rng.random_range(PORTS)),
            address: Ipv4Addr::from_bits(0xc633_6400 + n as u32 % ADDRESSES).into(),
            hint: self.rng.random(),
        }
    }

    fn begin(&mut self, host: Host) {
        let began = begin(&mut self.table, &host, self.now);
        let began_naively = self.naive.begin(&host, self.now);
        self.held.extend(agreed(&self.table, began, began_naively));
    }

    fn end_any(&mut self) {
        let (at, key) = self.held.swap_remove(self.rng.random_range(0..self.held.len()));
        self.table.remove(at, EndReason::ForcedEnd, self.now);
        self.naive.end(&key);
    }

    /// Begins one for each of `hosts`; nanoseconds that this takes, and what it takes naively.
    fn time(&mut self, hosts: &[Host]) -> [f64; 2] {
        let mut began = Vec::with_capacity(hosts.len());
        let begin_ours = cpu_time();
        began.extend(hosts.iter().map(|host| black_box(begin(&mut self.table, host, self.now))));
        let ours = since(begin_ours);
        let mut began_naively = Vec::with_capacity(hosts.len());
        let begin_naive = cpu_time();
        began_naively.extend(hosts.iter().map(|host| black_box(self.naive.begin(host, self.now))));
        let naive = since(begin_naive);
        for (began, began_naively) in began.into_iter().zip(began_naively) {
            self.held.extend(agreed(&self.table, began, began_naively));
        }
        [ours, naive]
    }
}

/// Both have given it the same port, or none.
fn agreed(
    table: &SessionTable,
    began: Option<SessionRef>,
    naively: Option<FlowKey>,
) -> Option<(SessionRef, FlowKey)> {
    let key = began.and_then(|at| table.get(at)).map(|session| session.keys[1]);
    assert_eq!(key, naively);
    began.zip(key)
}

/// As the slow path does it: is it bound already? If not: a port, and a session that has it.
fn begin(table: &mut SessionTable, host: &Host, now: Now) -> Option<SessionRef> {
    let (address, port) = host.inside;
    let bound = table.bound_to(Zone::tenant(TENANT), Protocol::UDP, host.inside, |_, _| true);
    let outside = match bound {
        Some(outside) => outside,
        None => (host.address, table.ports().take(host.address, Protocol::UDP, &PORTS, port, host.hint)?),
    };
    table.insert(session((address, port), outside, now)).ok()
}

fn session(inside: (IpAddr, u16), outside: (IpAddr, u16), now: Now) -> Session {
    let site = SiteId::from_index(0);
    let plan = Plan {
        generation: 1,
        class: ClassId(0),
        class_by: ClassBy::Default,
        rule: RuleId(0),
        ends: [End::Site(site), End::Handoff(HandoffId(0))],
        hops: [NextHop::Tunnel(site), NextHop::Device(DeviceId(0))],
    };
    let server = (SERVER.into(), 443);
    let keys = [
        FlowKey::new(Zone::tenant(TENANT), Protocol::UDP, inside, server),
        FlowKey::new(Zone::INTERNET, Protocol::UDP, server, outside),
    ];
    Session::new(TENANT, keys, plan, Translation::Source, None, 0, now.instant)
}

/// By answers' keys: all there are; and what leads to them.
#[derive(Default)]
struct Naive {
    sessions: HashMap<FlowKey, Session>,
    by_forward_key: HashMap<FlowKey, FlowKey>,
    by_inside: HashMap<(Zone, Protocol, (IpAddr, u16)), Binding>,
    by_outside: HashMap<(Zone, Protocol, (IpAddr, u16)), Binding>,
    used: HashSet<(IpAddr, Protocol, u16)>,
}

impl Naive {
    fn begin(&mut self, host: &Host, now: Now) -> Option<FlowKey> {
        let protocol = Protocol::UDP;
        let outside = match self.by_inside.get(&(Zone::tenant(TENANT), protocol, host.inside)) {
            Some(binding) => binding.outside,
            None => (host.address, self.take(host.address, protocol, host.inside.1, host.hint)?),
        };
        let session = session(host.inside, outside, now);
        let [forward, reverse] = session.keys;
        let binding = session.binding()?;
        self.by_inside.insert((binding.zone, protocol, binding.inside), binding);
        self.by_outside.insert((binding.far_zone, protocol, binding.outside), binding);
        self.by_forward_key.insert(forward, reverse);
        self.sessions.insert(reverse, session);
        Some(reverse)
    }

    fn take(&mut self, address: IpAddr, protocol: Protocol, wanted: u16, hint: u16) -> Option<u16> {
        let from = *PORTS.start() + (usize::from(hint) % PORTS.len()) as u16;
        let in_order = || std::iter::once(wanted).chain(from..=*PORTS.end()).chain(*PORTS.start()..from);
        let is_free = |port: &u16| !self.used.contains(&(address, protocol, *port));
        let mut alike = in_order().filter(|port| port % 2 == wanted % 2);
        let port = alike.find(is_free).or_else(|| in_order().find(is_free))?;
        self.used.insert((address, protocol, port));
        Some(port)
    }

    fn end(&mut self, key: &FlowKey) {
        let Some(session) = self.sessions.remove(key) else { return };
        let Some(binding) = session.binding() else { return };
        self.by_forward_key.remove(&session.keys[0]);
        self.by_inside.remove(&(binding.zone, binding.protocol, binding.inside));
        self.by_outside.remove(&(binding.far_zone, binding.protocol, binding.outside));
        self.used.remove(&(binding.outside.0, binding.protocol, binding.outside.1));
    }
}
