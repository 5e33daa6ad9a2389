//! The NAT ledger by itself: what taking down a beginning or an end costs, with all the sorting that comes of it, and how
//! long it takes to find out who had a port, in millions of holdings on disk. Beside the search, a scan of all of them in
//! memory. By the wall's time: a disk is part of it.

use crate::Wanted;
use crate::measure::median;
use popgate::flow::{PortChange, PortEvent};
use popgate::model::{Protocol, SiteId, TenantId};
use popgate::store::ledger::{Asked, Ledger, Limits, Who, who_had};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const HOLDINGS: usize = 2_000_000;
/// Held at once.
const OPEN: usize = 50_000;
/// Between two looks at what is due, as the ledger's thread takes them.
const EACH_LOOK: usize = 8_192;
const QUESTIONS: usize = 200;
const BEGIN_UNIX_MS: u64 = 1_795_341_600_000;

/// Runs the cases that are `wanted`; their rows.
pub fn rows(wanted: &Wanted) -> Vec<Value> {
    let names = ["NAT ledger, append", "NAT ledger, who had"];
    if names.iter().any(|name| wanted.has(name)) { measure(names) } else { Vec::new() }
}

fn measure([append, search]: [&str; 2]) -> Vec<Value> {
    let directory = tempfile::tempdir().expect("a directory");
    let limits = Limits { keep: Duration::from_secs(30 * 24 * 3_600), max_bytes: u64::MAX };
    let named_by =
        |_: TenantId, _: Option<SiteId>| Who { tenant: "acme".into(), branch: Some("berlin".into()) };
    let mut ledger = Ledger::new(directory.path().to_owned(), limits, Box::new(named_by), BEGIN_UNIX_MS);
    let mut rng = StdRng::seed_from_u64(7);
    let (mut now, mut open) = (BEGIN_UNIX_MS, VecDeque::new());
    let mut all: Vec<(PortEvent, u64, u64)> = Vec::with_capacity(HOLDINGS);
    let (mut spent, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut events = Vec::with_capacity(EACH_LOOK);
    while all.len() < HOLDINGS {
        events.clear();
        while events.len() < EACH_LOOK {
            let port = 1_024 + (all.len() % 60_000) as u16;
            let address = Ipv4Addr::new(198, 51, 100, (all.len() / 60_000 % 16) as u8);
            let inside =
                (IpAddr::from(Ipv4Addr::from(0x0a01_0000 + rng.random_range(0..1_000))), rng.random());
            let began = PortEvent {
                change: PortChange::Began,
                tenant: TenantId(1),
                branch: Some(SiteId(1)),
                outside: address.into(),
                ports: (port, port),
                protocol: Some(Protocol::UDP),
                inside: Some(inside),
            };
            open.push_back(all.len());
            all.push((began, now, u64::MAX));
            events.push(began);
            if open.len() > OPEN
                && let Some(oldest) = open.pop_front()
            {
                all[oldest].2 = now;
                events.push(PortEvent { change: PortChange::Ended, ..all[oldest].0 });
            }
        }
        let begin = Instant::now();
        events.iter().for_each(|event| ledger.take(event, now));
        ledger.work(now);
        spent += begin.elapsed();
        longest = longest.max(begin.elapsed());
        now += 100;
    }
    let count = 2 * all.len() - OPEN;
    let ns = spent.as_nanos() as f64 / count as f64;
    let mib = ledger.state().bytes >> 20;
    println!(
        "{append:44} {ns:>6.0} ns an event, {count} events; the longest look took {longest:.0?}; {mib} MiB on disk"
    );

    let (mut searched, mut scanned) = (Vec::new(), Vec::new());
    for _ in 0..QUESTIONS {
        let (event, began, _) = all[rng.random_range(0..all.len())];
        let asked = Asked {
            address: event.outside,
            port: event.ports.0,
            protocol: event.protocol,
            from: began + 50,
            until: began + 1_050,
        };
        let begin = Instant::now();
        let answer = who_had(directory.path(), &asked, now).expect("it can be read");
        searched.push(begin.elapsed().as_nanos() as f64);
        let begin = Instant::now();
        let naively = all.iter().filter(|(held, from, until)| {
            held.outside == asked.address
                && held.ports.0 == asked.port
                && *from < asked.until
                && (*until).max(from + 1) > asked.from
        });
        let naively = black_box(naively.count());
        scanned.push(begin.elapsed().as_nanos() as f64);
        assert_eq!(answer.holdings.len(), naively, "{asked:?}");
    }
    let (searched, scanned) = (median(searched), median(scanned));
    println!(
        "{search:44} {:>6.1} ms in {} holdings; a scan of all in memory {:.1} ms",
        searched / 1e6,
        all.len(),
        scanned / 1e6
    );
    ledger.close(now);
    vec![
        json!({ "name": append, "events": count, "ns_per_event": ns, "longest_look_ms": longest.as_millis() as u64 }),
        json!({ "name": search, "holdings": all.len(), "ns": searched, "naive_ns": scanned }),
    ]
}
