//! A call beside an upload over a line of 20 Mbit/s: what waits, waits in classes' queues and not in the line.

use crate::figures::{Figure, Where, percentile};
use crate::net::{ACME, Link, Sim};
use crate::packets::{answer, read, udp};
use popgate::pipeline::report::QueueRow;
use popgate::wire::traffic_class;
use std::collections::{BTreeMap, VecDeque};

/// Berlin's DSL, as the simulated network knows it.
const DSL: &str = "203.0.113.1:1001";
/// A little more than what is sent over it.
const LINE: u64 = 21_000_000;
const BANDWIDTH: &str = "20mbit";
const VOICE_PORT: u16 = 5_004;
const BULK_PORT: u16 = 6_000;
const BULK_PAYLOAD: usize = 1_320;

fn policy() -> String {
    let voice = "name = \"voice\"\nqueue = \"priority\"\nset-dscp = \"ef\"\nmatch = [ { protocol = \"udp\", dst-port = 5004 } ]";
    ACME.replacen("name = \"voice\"\nmatch = [ { dscp = [\"ef\"] } ]", voice, 1)
}

/// A sender that keeps as many packets under way as arrive without loss, and halves that for one that does not (RFC 5681).
#[derive(Default)]
struct Upload {
    next: u32,
    window: f64,
    threshold: f64,
    under_way: BTreeMap<u32, u64>,
    /// What has arrived, and when the sender hears of it.
    answers: VecDeque<(u64, u32)>,
    halved_at: u64,
    arrived: u64,
}

impl Upload {
    fn new() -> Upload {
        Upload { window: 10.0, threshold: f64::MAX, ..Upload::default() }
    }

    fn heard(&mut self, ms: u64) {
        while self.answers.front().is_some_and(|(at, _)| *at <= ms) {
            let Some((_, number)) = self.answers.pop_front() else { return };
            self.under_way.remove(&number);
            let gain = if self.window < self.threshold { 1.0 } else { 1.0 / self.window };
            self.window += gain;
            // Three later ones have arrived (RFC 5681 section 3.2).
            let lost: Vec<u32> = self.under_way.range(..number.saturating_sub(2)).map(|(n, _)| *n).collect();
            for number in lost {
                let sent = self.under_way.remove(&number).unwrap_or_default();
                if sent > self.halved_at {
                    self.window = (self.window / 2.0).max(2.0);
                    self.threshold = self.window;
                    self.halved_at = ms;
                }
            }
        }
    }

    fn may_send(&self) -> bool {
        self.under_way.len() < self.window as usize
    }
}

/// For so many seconds a call of 50 packets a second, and an upload if there is one; the call's latencies, in milliseconds, and how
/// many of its packets were lost.
fn call(sim: &mut Sim, secs: u64, mut upload: Option<&mut Upload>) -> (Vec<f64>, usize) {
    let mut latencies = Vec::new();
    let mut sent = Vec::new();
    for ms in 1..=secs * 1_000 {
        if let Some(upload) = upload.as_deref_mut() {
            upload.heard(ms);
            while upload.may_send() {
                let mut payload = vec![0; BULK_PAYLOAD];
                payload[..4].copy_from_slice(&upload.next.to_be_bytes());
                upload.under_way.insert(upload.next, ms);
                upload.next += 1;
                let packet = udp("10.1.0.5:2000", &format!("203.0.113.80:{BULK_PORT}"), &payload).bytes();
                sim.inject_from_lan("berlin", &packet);
            }
        }
        // The last ones have the time to arrive.
        if ms % 20 == 0 && ms + 500 < secs * 1_000 {
            let mut payload = [0; 172];
            payload[..4].copy_from_slice(&(sent.len() as u32).to_be_bytes());
            sent.push(sim.now.instant);
            let packet = udp("10.1.0.5:1000", &format!("203.0.113.80:{VOICE_PORT}"), &payload).bytes();
            sim.inject_from_lan("berlin", &packet);
        }
        sim.advance(1);
        for (to, packet) in sim.take_delivered() {
            if to != "fra1 pg-internet" {
                continue;
            }
            let parsed = read(&packet);
            let payload = &packet[parsed.upper_at + 8..];
            let number = u32::from_be_bytes(payload[..4].try_into().expect("four bytes"));
            match u16::from_be_bytes([packet[parsed.upper_at + 2], packet[parsed.upper_at + 3]]) {
                VOICE_PORT => {
                    let latency = sim.now.instant.since(sent[number as usize]);
                    latencies.push(latency.as_secs_f64() * 1e3);
                    assert_eq!(traffic_class(&packet) >> 2, 46, "it carries what its class says");
                }
                _ => {
                    if let Some(upload) = upload.as_deref_mut() {
                        upload.arrived += packet.len() as u64;
                        upload.answers.push_back((ms + 10, number));
                    }
                }
            }
        }
    }
    // What is still under way arrives, and is nobody's.
    let lost = sent.len() - latencies.len();
    sim.advance(500);
    sim.take_delivered();
    (latencies, lost)
}

/// The extra p95 delay that an upload costs a call, the share of the line that it gets, and how many of the call's packets were lost.
fn extra_delay(sim: &mut Sim) -> (f64, f64, usize) {
    const SECS: u64 = 20;
    sim.impair(DSL, [Link { delay_ms: 10, ..Link::default() }; 2]);
    sim.throttle(DSL, LINE);
    sim.advance(2_000);
    let (alone, _) = call(sim, SECS, None);
    let mut upload = Upload::new();
    let (beside, lost) = call(sim, SECS, Some(&mut upload));
    let p95 = |latencies: &[f64]| percentile(latencies, 95).expect("some arrived");
    let share = upload.arrived as f64 * 8.0 / SECS as f64 / 20e6;
    (p95(&beside) - p95(&alone), share, lost)
}

#[test]
fn an_upload_at_20_mbit_leaves_a_call_under_5_ms_of_extra_p95_delay() {
    let policy = policy();
    let unshaped = extra_delay(&mut Sim::with_policies(&policy, crate::net::GLOBEX));
    let mut sim = Sim::with_policies(&policy, crate::net::GLOBEX);
    sim.limit("berlin", "dsl", BANDWIDTH, ("acme", &policy));
    let (extra, share, lost) = extra_delay(&mut sim);
    println!(
        "extra p95 delay {extra:.1} ms with {share:.2} of 20 Mbit/s uploaded, {lost} lost; unshaped {unshaped:?}"
    );
    for row in sim.queues("berlin") {
        println!("{row:?}");
    }
    assert!(unshaped.0 > 20.0, "the line's own queue is what it is about");
    assert!(extra < 5.0, "{extra} ms");
    assert!(share >= 0.85, "{share}");
    assert_eq!(lost, 0);
    let mut row = |class: &str| -> QueueRow {
        sim.queues("berlin").into_iter().find(|row| row.class == class && row.path == "dsl").expect(class)
    };
    let (voice, bulk) = (row("voice"), row("default"));
    assert_eq!((voice.weight, bulk.weight), (None, Some(10)));
    assert_eq!((voice.delay_p95_ms, voice.dropped_packets), (Some(0.0), 0));
    assert!(bulk.dropped_packets > 0, "{bulk:?}");
    Figure::new("shaping", Where::Sim, "voice")
        .lost(lost as u64)
        .with("extra_p95_ms", extra)
        .with("extra_p95_unshaped_ms", unshaped.0)
        .with("bulk_share", (share * 1e3).round() / 1e3)
        .record();
}

#[test]
fn what_the_pop_sends_to_a_branch_keeps_to_the_paths_rate_and_probes_are_not_in_its_queues() {
    let limited = "name = \"dsl\"\nbandwidth = \"2mbit\"\ntransport = \"isp-a\"";
    let policy = ACME.replacen("name = \"dsl\"\ntransport = \"isp-a\"", limited, 1);
    let mut sim = Sim::with_policies(&policy, crate::net::GLOBEX);
    sim.advance(2_000);
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    let down = answer(&out[0], &[7; 972]);
    let mut bytes = 0;
    for _ in 0..5_000 {
        sim.inject_from_internet(&down);
        sim.advance(1);
        let delivered = sim.take_delivered();
        bytes += delivered.iter().map(|(_, packet)| packet.len() + 60).sum::<usize>();
    }
    let rate = bytes as f64 * 8.0 / 5.0;
    assert!((1.85e6..=2.02e6).contains(&rate), "{rate} bits a second of what is not probes");
    let row = sim.queues("fra1").into_iter().find(|row| row.path == "dsl" && row.site == "berlin");
    let row = row.expect("Berlin's DSL");
    assert!(row.delay_p95_ms.is_some_and(|ms| ms > 100.0), "it heeds nothing: {row:?}");
    let path = sim.paths("fra1").into_iter().find(|path| path.site == "berlin" && path.path == "dsl");
    let rtt = path.and_then(|path| path.rtt_ms).expect("measured");
    assert!(rtt < 5.0, "{rtt} ms");
}

#[test]
fn a_commit_that_lifts_a_limit_lets_what_waits_go_in_order() {
    let limited = "name = \"dsl\"\nbandwidth = \"1mbit\"\ntransport = \"isp-a\"";
    let policy = ACME.replacen("name = \"dsl\"\ntransport = \"isp-a\"", limited, 1);
    let mut sim = Sim::with_policies(&policy, crate::net::GLOBEX);
    sim.advance(2_000);
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    let mut numbers = Vec::new();
    let mut send = |sim: &mut Sim, number: u8| {
        sim.inject_from_internet(&answer(&out[0], &[number; 900]));
        for (_, packet) in sim.take_delivered() {
            numbers.push(packet[28]);
        }
    };
    (0..30).for_each(|number| send(&mut sim, number));
    sim.commit(&[("acme", ACME), ("globex", crate::net::GLOBEX)]);
    (30..40).for_each(|number| send(&mut sim, number));
    sim.advance(10);
    send(&mut sim, 40);
    assert_eq!(numbers, (0..=40).collect::<Vec<u8>>());
}
