//! What a commit costs on a large box: reading and checking its texts, compiling them, asking for rules that never decide; and
//! what its packets see of the moment in which a worker goes over to it.
//!
//! That moment is played with the time that the worker takes for each batch, while packets arrive as a clock says: how long each
//! waits, and how many wait at once, is what they would on a processor of the worker's own.

use crate::large::{self, BRANCHES, RULES, SERVER};
use crate::measure::{cpu_time, median, since};
use crate::pop::{Pop, client_key, clients, from_client, pop_key, process, seal, tcp};
use crate::{BATCH, Wanted};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use popgate::config::{Documents, public_of};
use popgate::tables::{Compiler, Generation};
use popgate::wire::{Batch, Ingress, Outbound};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// A box to try it with, and the one that figures are asked of.
const TENANTS: [usize; 2] = [20, 1_000];
const ROUNDS: usize = 3;

/// The load: sessions of the first tenant's branches, packets a second, their bytes, and for how long, in seconds.
const SESSIONS: usize = 10_000;
const RATE: usize = 100_000;
const BYTES: usize = 512;
const LASTS: f64 = 0.6;
/// When it is swapped, and for how long after that packets count as of the swap, seconds.
const SWAP_AT: f64 = 0.2;
const DURING: f64 = 0.1;

/// What a transport's socket holds for a worker that does not come, in datagrams of this size: 16 MiB as the kernel counts
/// (`io` asks for 8 MiB, and is given twice that), of which each takes 2,304. Beyond this they would be lost.
const SOCKET_HOLDS: usize = (16 << 20) / 2_304;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Runs the cases that are `wanted`.
pub fn rows(wanted: &Wanted) -> Vec<Value> {
    let name = |tenants: usize| format!("commit: {tenants} tenants, {BRANCHES} branches, {RULES} rules");
    let cases = TENANTS.into_iter().map(|tenants| (tenants, name(tenants)));
    cases.filter(|(_, name)| wanted.has(name)).map(|(tenants, name)| row(tenants, &name)).collect()
}

fn row(tenants: usize, name: &str) -> Value {
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("fra1.key");
    std::fs::write(&key, STANDARD.encode(pop_key().0)).expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let texts = texts(tenants);
    let bytes: usize = texts.values().map(String::len).sum();
    let documents = Documents::from_texts(texts).expect("a configuration's names");

    let mut compiler = Compiler::new("bench-");
    let (mut check, mut compile, mut warn) = (vec![], vec![], vec![]);
    let timed = |samples: &mut Vec<f64>, begin| samples.push(since(begin) / 1e6);
    let mut load: Option<Load> = None;
    let mut swaps = Vec::new();
    for _ in 0..=ROUNDS {
        // As a commit does: all of it anew, though a line is changed.
        let begin = cpu_time();
        let candidate = documents.check(dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
        timed(&mut check, begin);
        let begin = cpu_time();
        let generation = Arc::new(compiler.compile(&candidate).expect("ids are left"));
        timed(&mut compile, begin);
        let begin = cpu_time();
        assert_eq!(generation.unreachable_rules().len(), 0);
        timed(&mut warn, begin);
        match &mut load {
            None => load = Some(Load::on(&generation)),
            Some(load) => swaps.push(load.swap(generation)),
        }
    }
    let [check, compile, warn] = [check, compile, warn].map(median);
    // The worst of them: there is one moment in a commit.
    let worst = |of: fn(&Swap) -> f64| swaps.iter().map(of).fold(0.0, f64::max);
    let (adopt, before, p99) = (worst(|it| it.adopt), worst(|it| it.before), worst(|it| it.p99));
    let longest = worst(|it| it.longest);
    let queue = swaps.iter().map(|it| it.queue).max().unwrap_or_default();
    println!(
        "{name}: {:.1} MB checked in {check:.0} ms, compiled in {compile:.0} ms (asked 2,000 for both), \
         unreachable rules {warn:.0} ms",
        bytes as f64 / 1e6
    );
    println!(
        "  swap under {RATE} packets/s of {SESSIONS} sessions: none lost; the worker is away for {adopt:.1} ms; forwarding \
         delay p99 {:.3} ms before, {p99:.1} ms in the {:.0} ms after, {longest:.1} ms at most; {queue} packets waited \
         at most, and a socket holds {SOCKET_HOLDS}",
        before,
        DURING * 1e3
    );
    json!({
        "name": name,
        "bytes": bytes,
        "check_ms": check,
        "compile_ms": compile,
        "unreachable_rules_ms": warn,
        "adopt_ms": adopt,
        "delay_p99_ms_before": before,
        "delay_p99_ms_during_swap": p99,
        "delay_max_ms": longest,
        "most_packets_waiting": queue,
        "lost_packets": 0,
    })
}

/// Hosts that send through a worker.
struct Load {
    pop: Pop,
    next: usize,
    sequence: u32,
}

/// What packets saw of a swap; milliseconds.
struct Swap {
    adopt: f64,
    before: f64,
    p99: f64,
    longest: f64,
    /// How many waited at once.
    queue: usize,
}

impl Load {
    fn on(generation: &Arc<Generation>) -> Load {
        let mut pop = Pop::unconnected(generation, clients(BRANCHES), 1);
        pop.connect();
        let mut load = Load { pop, next: 0, sequence: 1 };
        let opening = load.sealed(SESSIONS, SYN);
        let mut out = Outbound::default();
        for packets in opening.chunks(BATCH) {
            out.clear();
            process(&mut load.pop.workers[0], packets, load.pop.now, &mut out);
            assert_eq!(count(&out), packets.len(), "every session begins");
        }
        load
    }

    /// The next packets, of all sessions in turn.
    fn sealed(&mut self, packets: usize, flags: u8) -> Vec<(Ingress, Vec<u8>)> {
        let packet = |_| {
            let session = self.next % SESSIONS;
            self.next += 1;
            if session == 0 {
                self.sequence += 1;
            }
            let (branch, port) = (session % BRANCHES, 10_000 + (session / BRANCHES) as u16);
            let host = Ipv4Addr::new(10, branch as u8, 0, 5);
            let to = (SERVER, 1_000 + branch as u16);
            let packet = tcp((host, port), to, self.sequence, flags, BYTES);
            (from_client(branch), seal(&mut self.pop.clients[branch], &packet))
        };
        (0..packets).map(packet).collect()
    }

    fn swap(&mut self, generation: Arc<Generation>) -> Swap {
        let sealed = self.sealed((RATE as f64 * LASTS) as usize, ACK);
        let arrives = |n: usize| n as f64 / RATE as f64;
        let Pop { workers, now, .. } = &mut self.pop;
        let worker = &mut workers[0];
        let (mut batch, mut out) = (Batch::with_slots(BATCH), Outbound::default());
        let mut waiting: VecDeque<usize> = VecDeque::new();
        let mut generation = Some(generation);
        // Seconds since it began.
        let (mut clock, mut arrived, mut forwarded) = (0.0, 0, 0);
        let (mut adopt, mut queue, mut delays) = (0.0, 0, Vec::with_capacity(sealed.len()));
        while arrived < sealed.len() || !waiting.is_empty() {
            while arrived < sealed.len() && arrives(arrived) <= clock {
                waiting.push_back(arrived);
                arrived += 1;
            }
            queue = queue.max(waiting.len());
            if clock >= SWAP_AT
                && let Some(generation) = generation.take()
            {
                let begin = cpu_time();
                worker.adopt(generation, *now);
                adopt = since(begin) / 1e9;
                clock += adopt;
                continue;
            }
            if waiting.is_empty() {
                clock = arrives(arrived);
                continue;
            }
            let taken: Vec<usize> = waiting.drain(..waiting.len().min(BATCH)).collect();
            batch.clear();
            for n in &taken {
                let (ingress, packet) = &sealed[*n];
                assert!(batch.push(*ingress, packet), "there is room");
            }
            out.clear();
            let begin = cpu_time();
            worker.process(&mut batch, *now, &mut out);
            clock += since(begin) / 1e9;
            forwarded += count(&out);
            delays.extend(taken.iter().map(|n| (arrives(*n), (clock - arrives(*n)) * 1e3)));
        }
        assert_eq!(forwarded, sealed.len(), "every packet is forwarded");
        assert!(queue < SOCKET_HOLDS, "{queue} packets waited, more than a socket holds");
        let p99 = |from: f64, until: f64| {
            let within = delays.iter().filter(|(at, _)| (from..until).contains(at));
            let mut within: Vec<f64> = within.map(|(_, delay)| *delay).collect();
            within.sort_by(f64::total_cmp);
            within[within.len() * 99 / 100]
        };
        Swap {
            adopt: adopt * 1e3,
            before: p99(0.0, SWAP_AT),
            p99: p99(SWAP_AT, SWAP_AT + DURING),
            longest: delays.iter().map(|(_, delay)| *delay).fold(0.0, f64::max),
            queue,
        }
    }
}

/// Packets on the wire, coalesced or not.
fn count(out: &Outbound) -> usize {
    out.packets().map(|packet| packet.count() as usize).sum()
}

fn texts(tenants: usize) -> BTreeMap<String, String> {
    let appliance = "site = \"fra1\"\nrole = \"pop\"\nprivate-key-file = \"fra1.key\"\nmax-sessions = 100000\n\n\
                     [[transport]]\nname = \"isp\"\nlisten = \"192.0.2.1:51820\"\n";
    // The first tenant's branches are those that send.
    let key = |tenant, branch| (tenant == 0).then(|| public_of(&client_key(branch)).0);
    let mut texts = large::tenants(tenants, key);
    texts.insert("popgate.toml".to_owned(), appliance.to_owned());
    texts
}
