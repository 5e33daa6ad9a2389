//! Workers beside one another, each pinned to a processor as far as there are any: 1,000 sites are spread over them, and
//! all send up at once.
//!
//! What is timed is processor time in the worker alone; sealing what is sent next comes between. More workers than
//! processors show the shape of the curve, not its height.

use crate::cases::{BASE, Case, fill};
use crate::measure::Stopwatch;
use crate::pop::{Pop, from_client, host_of, seal, udp};
use crate::{BATCH, Row, SERVER, Wanted};
use boringtun::noise::Tunn;
use popgate::model::Now;
use popgate::pipeline::Worker;
use popgate::wire::{Batch, Ingress, Outbound};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const SITES: usize = 1_000;
const SPAN: Duration = Duration::from_secs(3);
/// Sealed at once: few enough that they are little memory beside what the worker itself needs.
const BURST: usize = 16 * BATCH;
/// New sessions in all: there is room for 2,000,000.
const MAX_NEW: usize = 1_800_000;
const FLOWS_A_SITE: usize = 10;

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    for (bytes, new) in [(1_420, false), (64, false), (64, true)] {
        let what = if new { "new sessions" } else { "packets" };
        let name = |workers| format!("workers: {workers}, {what} up, {bytes} B, {SITES} tunnels");
        let mut one = 0.0;
        for workers in [1, 2, 4].into_iter().filter(|workers| !new || *workers <= 2) {
            if !wanted.has(&name(workers)) {
                continue;
            }
            let each = run(workers, bytes, new);
            let all: f64 = each.iter().sum();
            one = if workers == 1 { all } else { one };
            let share = (one > 0.0).then_some(all / one);
            println!(
                "{}: {:.0} thousand/s, {} of one's",
                name(workers),
                all / 1e3,
                share.map_or("?".into(), |share| format!("{share:.2}"))
            );
            let case = Case { bytes, sessions: FLOWS_A_SITE * SITES, tunnels: SITES, ..BASE };
            rows.push(
                Row {
                    workers: workers.into(),
                    ns_per_packet: Some(f64::from(workers) * 1e9 / all),
                    ..Row::new(name(workers), "up", case)
                }
                .with("per_second", all)
                .with("per_second_each", each)
                .with("of_one_worker", share),
            );
        }
    }
    rows
}

/// Packets a second of each worker.
fn run(workers: u16, bytes: usize, new: bool) -> Vec<f64> {
    let Pop { workers: working, clients, owners, now, .. } = Pop::new(SITES, 100, workers);
    let mut sites: Vec<Vec<(usize, Tunn)>> = working.iter().map(|_| Vec::new()).collect();
    for (n, (client, owner)) in clients.into_iter().zip(owners).enumerate() {
        sites[usize::from(owner)].push((n, client));
    }
    let begin = Barrier::new(working.len());
    let processors = sched_getaffinity(None).expect("this thread's processors");
    std::thread::scope(|scope| {
        let threads: Vec<_> = working
            .into_iter()
            .zip(sites)
            .enumerate()
            .map(|(at, (worker, sites))| {
                let (begin, processors) = (&begin, &processors);
                scope.spawn(move || {
                    pin(processors, at);
                    let mut sender = Sender { worker, sites, now, bytes, new, next: 0 };
                    // Sessions are opened, and the others are ready.
                    sender.send(FLOWS_A_SITE * SITES, &mut Stopwatch::new());
                    begin.wait();
                    let mut watch = Stopwatch::new();
                    let until = Instant::now() + SPAN;
                    let mut packets = 0;
                    let enough = if new { MAX_NEW / usize::from(workers) } else { usize::MAX };
                    while Instant::now() < until && packets < enough {
                        packets += sender.send(BURST, &mut watch);
                    }
                    packets as f64 / watch.nanos() * 1e9
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

fn pin(processors: &CpuSet, at: usize) {
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| processors.is_set(*cpu)).collect();
    let mut one = CpuSet::new();
    one.set(allowed[at % allowed.len()]);
    sched_setaffinity(None, &one).expect("it was allowed there before");
}

struct Sender {
    worker: Worker,
    sites: Vec<(usize, Tunn)>,
    now: Now,
    bytes: usize,
    /// Every packet is a flow's first.
    new: bool,
    next: usize,
}

impl Sender {
    /// Has the worker forward `count` packets, one of each site in turn.
    fn send(&mut self, count: usize, watch: &mut Stopwatch) -> usize {
        let mut sealed: Vec<(Ingress, Vec<u8>)> = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.next % self.sites.len();
            let turn = self.next / self.sites.len();
            self.next += 1;
            let flow = if self.new { turn } else { turn % FLOWS_A_SITE };
            let (site, client) = &mut self.sites[at];
            let host = (host_of(*site, flow / 60_000), 2_000 + (flow % 60_000) as u16);
            let packet = udp(host, (SERVER, 443), self.bytes);
            sealed.push((from_client(*site), seal(client, &packet)));
        }
        let mut batch = Batch::with_slots(BATCH);
        let mut out = Outbound::default();
        let mut forwarded = 0;
        for chunk in sealed.chunks(BATCH) {
            fill(&mut batch, chunk.iter().map(|(ingress, packet)| (*ingress, packet.as_slice())));
            out.clear();
            let (worker, now) = (&mut self.worker, self.now);
            watch.time(|| worker.process(&mut batch, now, &mut out));
            assert_eq!(out.handovers().len(), 0, "each packet has come to its site's worker");
            forwarded += out.packets().count();
        }
        assert_eq!(forwarded, count, "every packet was forwarded");
        count
    }
}
