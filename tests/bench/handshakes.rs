//! Handshakes: what the entrance spends on each kind of initiation, and the worker on its answer.

use crate::cases::{BASE, Case};
use crate::measure::Stopwatch;
use crate::pop::{Pop, clients, compiled, from_client, initiation};
use crate::{Row, Wanted};
use boringtun::noise::TunnResult;
use popgate::wire::{Batch, Ingress, Outbound};

/// The gate asks for cookies beyond 500 a second.
const CLIENTS: usize = 450;

pub fn rows(wanted: &Wanted) -> Vec<Row> {
    const NAMES: [&str; 5] = [
        "handshakes, admitted",
        "handshakes, admitted with a cookie",
        "handshakes, asked for a cookie",
        "handshakes, wrong MAC",
        "handshakes, the worker's answer",
    ];
    if !NAMES.iter().any(|name| wanted.has(name)) {
        return Vec::new();
    }
    let mut bench = Handshakes {
        pop: Pop::unconnected(&compiled(CLIENTS, 100), clients(CLIENTS), 1),
        answering: Stopwatch::new(),
        answered: 0,
    };
    let first = bench.round();
    // Cookies are asked for from now on.
    bench.round();
    let asked = bench.round();
    bench.take_cookies();
    let proved = bench.round();
    let wrong = bench.wrong_macs();
    let answer = bench.answering.nanos() / bench.answered as f64;
    let figures = [first, proved, asked, wrong, answer];
    let case = Case { bytes: 0, sessions: 0, tunnels: CLIENTS, ..BASE };
    NAMES
        .into_iter()
        .zip(figures)
        .map(|(name, ns)| {
            println!("{name:44} {:>8.1} us, {:.0} a second", ns / 1e3, 1e9 / ns);
            Row { ns_per_packet: Some(ns), ..Row::new(name.into(), "up", case) }
                .with("per_second", (1e9 / ns).round())
        })
        .collect()
}

struct Handshakes {
    pop: Pop,
    answering: Stopwatch,
    answered: usize,
}

impl Handshakes {
    /// Each client calls once: what the entrance spends on one.
    fn round(&mut self) -> f64 {
        let calls: Vec<_> = self.pop.clients.iter_mut().map(initiation).collect();
        let mut watch = Stopwatch::new();
        let mut batch = Batch::with_slots(1);
        for (n, call) in calls.iter().enumerate() {
            let (mut out, mut answers) = (Outbound::default(), Outbound::default());
            batch.clear();
            batch.push(from_client(n), call);
            let (entrance, now) = (&mut self.pop.entrance, self.pop.now);
            watch.time(|| entrance.process(&mut batch, now, &mut out));
            for (_, what, call) in out.handovers() {
                batch.clear();
                batch.push(Ingress::Worker(what), call);
                let worker = &mut self.pop.workers[0];
                self.answering.time(|| worker.process(&mut batch, now, &mut answers));
                self.answered += 1;
                assert_eq!(answers.datagrams().len(), 1, "it answers");
            }
        }
        watch.nanos() / calls.len() as f64
    }

    /// Each client calls, is asked for a cookie and has it.
    fn take_cookies(&mut self) {
        let mut batch = Batch::with_slots(1);
        let mut buffer = vec![0; 256];
        for (n, client) in self.pop.clients.iter_mut().enumerate() {
            let mut out = Outbound::default();
            batch.clear();
            batch.push(from_client(n), &initiation(client));
            self.pop.entrance.process(&mut batch, self.pop.now, &mut out);
            let cookie = out.datagrams().next().expect("a cookie is asked for").2.to_vec();
            assert!(matches!(client.decapsulate(None, &cookie, &mut buffer), TunnResult::Done));
        }
    }

    fn wrong_macs(&mut self) -> f64 {
        let mut watch = Stopwatch::new();
        let mut batch = Batch::with_slots(1);
        let mut out = Outbound::default();
        const CALLS: u32 = 10_000;
        for n in 0..CALLS {
            let mut call = [n as u8; 148];
            call[..4].copy_from_slice(&[1, 0, 0, 0]);
            batch.clear();
            batch.push(from_client(n as usize), &call);
            let (entrance, now) = (&mut self.pop.entrance, self.pop.now);
            watch.time(|| entrance.process(&mut batch, now, &mut out));
        }
        assert_eq!(out.handovers().len() + out.datagrams().len(), 0, "none is answered");
        watch.nanos() / f64::from(CALLS)
    }
}
