//! Ten thousand tunnels: their memory, and what they cost while nothing is sent.
//!
//! A minute of them passes in seconds; but boringtun reads the clock itself, and for it only those seconds pass. So what is
//! timed is looking at every timer as often as the worker does, and whatever the far ends send; what a timer of boringtun's
//! would send after many seconds (a keepalive of ours, a rekeying) is not among it. Handshakes have rows of their own.

use crate::cases::{BASE, Case};
use crate::measure::{Stopwatch, rss};
use crate::pop::{Pop, client_at, clients, compiled, from_client, seal};
use crate::{BATCH, Row, Wanted};
use boringtun::noise::TunnResult;
use popgate::path::{Asks, Message, Tells, reflect, request};
use popgate::wire::{self, Batch, Outbound};
use std::sync::Arc;
use std::time::Duration;

const TUNNELS: usize = 10_000;
const SECONDS: u64 = 60;
/// Between two looks of the worker at what is due: its wheel's.
const STEP: Duration = Duration::from_millis(10);
const STEPS_A_SECOND: u64 = 100;
/// What wg-quick's manual proposes behind a NAT.
const KEEPALIVE_SECONDS: u64 = 25;

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq)]
enum Peers {
    Silent,
    KeepAlive,
    Probing,
}

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let idle = [
        (Peers::Silent, "idle tunnels, stock peers"),
        (Peers::KeepAlive, "idle tunnels, stock peers with a keepalive every 25 s"),
        (Peers::Probing, "idle tunnels, popgate peers with probes"),
    ];
    let memory = "memory of tunnels";
    if !wanted.has(memory) && !idle.iter().any(|(_, name)| wanted.has(name)) {
        return Vec::new();
    }
    let case = Case { bytes: 0, sessions: 0, tunnels: TUNNELS, ..BASE };
    // Theirs is not ours: it is there before.
    let clients = clients(TUNNELS);
    let before = rss();
    let generation = compiled(TUNNELS, 100);
    let compiled = rss();
    let mut pop = Pop::unconnected(&Arc::clone(&generation), clients, 1);
    pop.connect();
    let after = rss();
    let [policy, each] = [compiled - before, after - compiled].map(|bytes| bytes as f64 / TUNNELS as f64);
    println!(
        "{memory}: {each:.0} bytes each and {policy:.0} of policy; {:.0} MB for {TUNNELS}",
        (after - before) as f64 / 1e6
    );
    let row = Row::new(memory.into(), "both", case)
        .with("bytes_per_tunnel", each)
        .with("policy_bytes_per_tunnel", policy)
        .with("rss_bytes", after - before);
    let mut rows = vec![row];
    for (peers, name) in idle {
        if wanted.has(name) {
            rows.push(minute(&mut pop, peers, name, case));
        }
    }
    rows
}

fn minute(pop: &mut Pop, peers: Peers, name: &str, case: Case) -> Row {
    let (mut timers, mut packets) = (Stopwatch::new(), Stopwatch::new());
    let mut longest: f64 = 0.0;
    let (mut sent, mut received) = (0, 0);
    let mut batch = Batch::with_slots(BATCH);
    let mut out = Outbound::default();
    let mut answers: Vec<(usize, Vec<u8>)> = Vec::new();
    for step in 0..SECONDS * STEPS_A_SECOND {
        pop.now = pop.now + STEP;
        let now = pop.now;
        let worker = &mut pop.workers[0];
        let before = timers.nanos();
        if worker.poll_timeout().is_some_and(|due| due <= now.instant) {
            timers.time(|| worker.handle_timeout(now, &mut out));
        }
        longest = longest.max(timers.nanos() - before);
        let mut arriving = std::mem::take(&mut answers);
        sent += take(pop, &mut out, peers, &mut answers);
        arriving.extend(unasked(pop, peers, step));
        received += arriving.len();
        for chunk in arriving.chunks(BATCH) {
            batch.clear();
            for (client, datagram) in chunk {
                batch.push(from_client(*client), datagram);
            }
            packets.time(|| pop.workers[0].process(&mut batch, now, &mut out));
            sent += take(pop, &mut out, peers, &mut answers);
        }
    }
    let share = |nanos: f64| nanos / (SECONDS as f64 * 1e9);
    let (timers_share, packets_share) = (share(timers.nanos()), share(packets.nanos()));
    println!(
        "{name}: {:.2} % of a core ({:.2} timers, {:.2} what arrives), {} datagrams/s out, {} in; longest turn {:.2} ms",
        100.0 * (timers_share + packets_share),
        100.0 * timers_share,
        100.0 * packets_share,
        sent as u64 / SECONDS,
        received as u64 / SECONDS,
        longest / 1e6,
    );
    Row::new(name.into(), "both", case)
        .with("core_share", timers_share + packets_share)
        .with("timers_core_share", timers_share)
        .with("packets_core_share", packets_share)
        .with("datagrams_per_second", sent as u64 / SECONDS)
        .with("received_per_second", received as u64 / SECONDS)
        .with("longest_turn_ns", longest)
}

/// What the far ends send of themselves in this step, evenly spread.
fn unasked(pop: &mut Pop, peers: Peers, step: u64) -> Vec<(usize, Vec<u8>)> {
    let every = match peers {
        Peers::Silent => return Vec::new(),
        Peers::KeepAlive => KEEPALIVE_SECONDS * STEPS_A_SECOND,
        Peers::Probing => STEPS_A_SECOND,
    };
    let turn = |n: &usize| *n as u64 % every == step % every;
    let now = pop.now;
    let asks = Asks { answered: true, within: Some(Duration::from_secs(1)), ..Asks::default() };
    (0..TUNNELS)
        .filter(turn)
        .map(|n| {
            let client = &mut pop.clients[n];
            match peers {
                Peers::Probing => (n, seal(client, &request(step as u32, asks, now))),
                _ => (n, seal(client, &[])),
            }
        })
        .collect()
}

/// Lets the far ends have what was sent to them; their answers. How many datagrams it was.
fn take(pop: &mut Pop, out: &mut Outbound, peers: Peers, answers: &mut Vec<(usize, Vec<u8>)>) -> usize {
    let mut buffer = vec![0; 2_048];
    let sent = out.datagrams().len();
    for (_, to, datagram) in out.datagrams() {
        let n = client_at(to);
        let client = &mut pop.clients[n];
        if let TunnResult::WriteToTunnelV6(packet, _) = client.decapsulate(None, datagram, &mut buffer)
            && peers == Peers::Probing
        {
            let ip = wire::parse_ip(packet).expect("sound");
            if matches!(Message::read(packet, &ip, pop.now), Some(Message::Request { .. })) {
                let reply = reflect(packet, &ip, &Tells::default(), pop.now).expect("a request");
                answers.push((n, seal(client, &reply)));
            }
        }
    }
    out.clear();
    sent
}
