//! What probing costs: five thousand paths on one box, a probe by itself, and what is decided by it.
//!
//! The far ends are real probers with boringtun's tunnels, and not timed. Nor is the traffic that makes them busy: what is
//! timed is the worker's timers, and the probes that arrive, by the processor time they take; for seconds of virtual time.
//! Sockets are not among it: `bench-net` has what a datagram costs there.

use crate::cases::{BASE, Case};
use crate::measure::{Stopwatch, cpu_time, median, since};
use crate::pop::{DSCPS, Pop, client_at, clients, compiled, compiled_with_streams, from_client, seal};
use crate::{BATCH, ROUNDS, Row, Wanted};
use boringtun::noise::TunnResult;
use popgate::model::{PathId, SlaLimits};
use popgate::path::{
    Action, Asks, Candidate, Counts, Judge, Message, OfStream, Prober, Quality, Stamps, Tells, reflect,
    request, select,
};
use popgate::wire::{self, Batch, Outbound};
use std::hint::black_box;
use std::net::Ipv6Addr;
use std::time::Duration;

const PATHS: usize = 5_000;
/// Between two looks at what is due: the worker's wheel's.
const STEP: Duration = Duration::from_millis(5);
const STEPS_A_SECOND: usize = 200;
/// Seconds until all have settled, and those that are measured.
const BEFORE: usize = 16;
const MEASURED: usize = 10;
/// Steps between the packets of a path that is busy: 20 ms, as a call's.
const SPACING: usize = 4;
/// Of work that is done for its time's sake, in one round.
const PIECES: usize = 20_000;

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let shares = [
        (0, false, "probing of 5,000 paths, all idle"),
        (0, true, "probing of 5,000 paths with three streams, all idle"),
        (10, false, "probing of 5,000 paths, one in ten with a call"),
        (100, false, "probing of 5,000 paths, all with a call"),
    ];
    let mut rows = Vec::new();
    for (percent, streams, name) in shares {
        if wanted.has(name) {
            rows.push(box_of_paths(percent, streams, name));
        }
    }
    if wanted.has(SEALED) {
        rows.push(sealed());
    }
    rows.extend(pieces(wanted));
    rows
}

const SEALED: &str = "probe that is answered, opened and sealed";

/// What an answer costs, of all that a worker does for it: open, read, count, reflect, seal.
fn sealed() -> Row {
    let mut pop = Pop::new(1, 100, 1);
    let mut out = Outbound::default();
    let asks = Asks { answered: true, within: Some(Duration::from_millis(20)), ..Asks::default() };
    let mut sequence = 0;
    let round = |pop: &mut Pop, sequence: &mut u32, out: &mut Outbound| {
        let mut watch = Stopwatch::new();
        let mut answered = 0;
        for _ in 0..PIECES / BATCH {
            pop.now = pop.now + STEP;
            let mut batch = Batch::with_slots(BATCH);
            for _ in 0..BATCH {
                *sequence += 1;
                batch.push(from_client(0), &seal(&mut pop.clients[0], &request(*sequence, asks, pop.now)));
            }
            let (worker, now) = (&mut pop.workers[0], pop.now);
            watch.time(|| worker.process(&mut batch, now, out));
            answered += out.datagrams().len();
            out.clear();
        }
        assert_eq!(answered, PIECES / BATCH * BATCH, "all are answered");
        watch.nanos() / answered as f64
    };
    let ns = median((0..ROUNDS).map(|_| round(&mut pop, &mut sequence, &mut out)).collect());
    println!("{SEALED:48} {ns:>7.0} ns, {:.2} million/s", 1e3 / ns);
    let mut row = Row::new(SEALED.into(), "both", Case { bytes: 0, sessions: 0, tunnels: 1, ..BASE });
    row.ns_per_packet = Some(ns);
    row.with("per_second", 1e9 / ns)
}

/// What is under way to the box: from whom, and whether it is a probe.
type UnderWay = Vec<(usize, bool, Vec<u8>)>;

fn box_of_paths(percent: usize, streams: bool, name: &str) -> Row {
    let generation = if streams { compiled_with_streams(PATHS, 100) } else { compiled(PATHS, 100) };
    let mut pop = Pop::unconnected(&generation, clients(PATHS), 1);
    pop.connect();
    let mut far: Vec<Prober> = (0..PATHS).map(|_| Prober::new(pop.now.instant)).collect();
    let mut out = Outbound::default();
    let (mut watch, mut sent, mut received) = (Stopwatch::new(), 0, 0);
    for step in 0..(BEFORE + MEASURED) * STEPS_A_SECOND {
        if step == BEFORE * STEPS_A_SECOND {
            (watch, sent, received) = (Stopwatch::new(), 0, 0);
        }
        pop.now = pop.now + STEP;
        let now = pop.now;
        let worker = &mut pop.workers[0];
        watch.time(|| worker.handle_timeout(now, &mut out));
        let mut coming = UnderWay::new();
        sent += answer(&mut pop, &mut far, &mut out, &mut coming);
        ask(&mut pop, &mut far, percent, step, &mut coming);
        if streams {
            ask_of_streams(&mut pop, step, &mut coming);
        }
        for probes in [false, true] {
            let mut some = coming.iter().filter(|(_, is_probe, _)| *is_probe == probes).peekable();
            while some.peek().is_some() {
                let mut batch = Batch::with_slots(BATCH);
                for (client, _, datagram) in some.by_ref().take(BATCH) {
                    batch.push(from_client(*client), datagram);
                    received += usize::from(probes);
                }
                let worker = &mut pop.workers[0];
                if probes {
                    watch.time(|| worker.process(&mut batch, now, &mut out));
                } else {
                    worker.process(&mut batch, now, &mut out);
                }
            }
        }
    }
    let share = watch.nanos() / (MEASURED as f64 * 1e9);
    let (out_per_second, in_per_second) = (sent / MEASURED, received / MEASURED);
    println!(
        "{name}: {:.2} % of a core, {out_per_second} probes and answers/s out, {in_per_second} in",
        100.0 * share
    );
    Row::new(name.into(), "both", Case { bytes: 0, sessions: 0, tunnels: PATHS, ..BASE })
        .with("core_share", share)
        .with("ns_per_path_and_second", share * 1e9 / PATHS as f64)
        .with("ns_per_datagram", share * 1e9 / (out_per_second + in_per_second) as f64)
        .with("datagrams_per_second", out_per_second as u64)
        .with("received_per_second", in_per_second as u64)
}

/// Lets the far ends have what was sent to them; their answers. How many datagrams it was.
fn answer(pop: &mut Pop, far: &mut [Prober], out: &mut Outbound, coming: &mut UnderWay) -> usize {
    let mut buffer = vec![0; 2_048];
    let now = pop.now;
    let sent = out.datagrams().len();
    for (_, to, datagram) in out.datagrams() {
        let n = client_at(to);
        let client = &mut pop.clients[n];
        let TunnResult::WriteToTunnelV6(packet, _) = client.decapsulate(None, datagram, &mut buffer) else {
            continue;
        };
        let ip = wire::parse_ip(packet).expect("sound");
        far[n].heard(now.instant);
        match Message::read(packet, &ip, now) {
            Some(Message::Request(asks)) => {
                far[n].asked(&asks, now.instant);
                let reply = reflect(packet, &ip, &Tells::default(), now).expect("a request");
                coming.push((n, true, seal(client, &reply)));
            }
            Some(Message::Reply(reply)) => {
                far[n].answer(&reply, Counts::default(), now.instant);
            }
            _ => {}
        }
    }
    out.clear();
    sent
}

/// What the far ends send of themselves: their probes, and calls' packets.
fn ask(pop: &mut Pop, far: &mut [Prober], percent: usize, step: usize, coming: &mut UnderWay) {
    let now = pop.now;
    for (n, prober) in far.iter_mut().enumerate() {
        let client = &mut pop.clients[n];
        if n % 100 < percent && n % SPACING == step % SPACING {
            prober.traffic(false, now.instant);
            coming.push((n, false, seal(client, &speech())));
        }
        while let Some(action) = prober.poll(now.instant) {
            if let Action::Send { sequence, asks } | Action::SendFullSize { sequence, asks } = action {
                coming.push((n, true, seal(client, &request(sequence, asks, now))));
            }
        }
    }
}

/// What the far ends ask of streams that carry nothing: as often as the box does.
fn ask_of_streams(pop: &mut Pop, step: usize, coming: &mut UnderWay) {
    let now = pop.now;
    let every = 5 * STEPS_A_SECOND;
    for (n, client) in pop.clients.iter_mut().enumerate().filter(|(n, _)| n % every == step % every) {
        for dscp in DSCPS {
            let stream = Some(OfStream { dscp, dscps: 1 << dscp, sent: step as u32 });
            let asks = Asks { answered: true, within: Some(Duration::from_secs(1)), deaf: false, stream };
            coming.push((n, true, seal(client, &request(step as u32, asks, now))));
        }
    }
}

/// From where no host is: it makes its path busy, and goes no further.
fn speech() -> Vec<u8> {
    let nobody = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    wire::udp_v6((nobody, 1), (nobody, 2), 0, &[0; 160])
}

fn pieces(wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut piece = |name: &str, work: &mut dyn FnMut()| {
        if !wanted.has(name) {
            return;
        }
        let round = |work: &mut dyn FnMut()| {
            let begin = cpu_time();
            (0..PIECES).for_each(|_| work());
            since(begin) / PIECES as f64
        };
        let ns = median((0..ROUNDS).map(|_| round(work)).collect());
        println!("{name:48} {ns:>7.0} ns, {:.1} million/s", 1e3 / ns);
        let mut row = Row::new(name.into(), "both", Case { bytes: 0, sessions: 0, tunnels: 1, ..BASE });
        row.ns_per_packet = Some(ns);
        rows.push(row.with("per_second", 1e9 / ns));
    };
    let order: Vec<PathId> = (0..4).map(PathId).collect();
    // The first that will do is the last.
    let fitness = [Candidate::Poor, Candidate::Recovering, Candidate::Reachable, Candidate::Up];
    piece("path decision, four paths", &mut || {
        let ranking = popgate::path::Ranking { paths: black_box(&order), shares: &[] };
        black_box(select(ranking, 7, None, |id| fitness[id.0 as usize]));
    });
    let shares = [popgate::model::Share { group: 0, weight: 3.0 }; 4];
    piece("path decision, four equal paths", &mut || {
        let ranking = popgate::path::Ranking { paths: &order, shares: black_box(&shares) };
        black_box(select(ranking, black_box(7), None, |_| Candidate::Up));
    });
    let ms = Duration::from_millis;
    let limits = SlaLimits { loss: Some(0.01), latency: Some(ms(100)), jitter: Some(ms(20)), mos: Some(3.8) };
    let (mut judge, mut quality, mut counts) = (Judge::new(limits), Quality::default(), Counts::default());
    let mut now = popgate::model::Now::default();
    piece("verdict on an answered probe, SLA with four limits", &mut || {
        now = now + ms(50);
        counts.received = counts.received.wrapping_add(3);
        let sent = now.unix_nanos;
        let stamps = Stamps {
            sent,
            received: sent + 20_000_000,
            reflected: sent + 20_000_000,
            returned: sent + 40_000_000,
        };
        quality.answered(&stamps, [Some(counts), Some(counts)], now.instant);
        if let Some(seen) = quality.take_seen() {
            black_box(judge.observe(&seen, &quality, now.instant));
        }
    });
    rows
}
