use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const LINE: TransportId = TransportId(0);
const VOICE: ClassId = ClassId(1);
const BULK: ClassId = ClassId(2);
const ERP: ClassId = ClassId(3);
/// What WireGuard over UDP and IPv4 puts around a packet.
const OVERHEAD: usize = 60;

fn mbit(mbit: u64) -> Option<Rate> {
    Rate::bits_per_second(mbit * 1_000_000)
}

fn way(path: u32) -> Way {
    Way { path: PathId(path), transport: LINE, overhead: OVERHEAD }
}

/// An IPv4 packet of `len` bytes that says which it is.
fn packet(number: u32, len: usize, ecn: u8) -> Vec<u8> {
    let mut packet = vec![0; len.max(24)];
    (packet[0], packet[1]) = (0x45, ecn);
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().expect("four bytes"))
}

/// A shaper, and when what left it left.
struct Bench {
    shaper: Shaper,
    now: Instant,
    next: u32,
    lost: usize,
    full: usize,
    left: Vec<Left>,
    offered: BTreeMap<u32, (u32, ClassId, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    number: u32,
    path: u32,
    class: ClassId,
    bytes: usize,
    waited: Duration,
}

impl Bench {
    fn new(line: Option<Rate>, paths: &[Option<Rate>]) -> Bench {
        Bench::sharing(line, paths, Arc::default())
    }

    fn sharing(line: Option<Rate>, paths: &[Option<Rate>], budget: Arc<Budget>) -> Bench {
        let now = Instant(1_000_000_000);
        let mut shaper = Shaper::new(7, now);
        shaper.set_line(LINE, line, budget);
        for (path, rate) in paths.iter().enumerate() {
            shaper.set_path(PathId(path as u32), *rate);
        }
        let (left, offered) = (Vec::new(), BTreeMap::new());
        Bench { shaper, now, next: 0, lost: 0, full: 0, left, offered }
    }

    fn offer(&mut self, path: u32, class: ClassId, queueing: Queueing, len: usize) {
        self.offer_marked(path, class, queueing, len, 0);
    }

    fn offer_marked(&mut self, path: u32, class: ClassId, queueing: Queueing, len: usize, ecn: u8) {
        let packet = packet(self.next, len, ecn);
        self.offered.insert(self.next, (path, class, self.now));
        self.next += 1;
        match self.shaper.offer(way(path), (class, queueing), &packet, self.now) {
            Offered::Goes => self.leave(&packet),
            Offered::Waits => {}
            Offered::Full(lost) => self.full += lost as usize,
        }
    }

    fn leave(&mut self, packet: &[u8]) {
        let number = number(packet);
        let (path, class, came) = self.offered.remove(&number).expect("leaves once");
        let waited = self.now.since(came);
        self.left.push(Left { number, path, class, bytes: packet.len() + OVERHEAD, waited });
    }

    fn depart(&mut self) {
        let mut lost = 0;
        while let Some((_, packet)) = self.shaper.depart(self.now, |_| lost += 1) {
            self.leave(&packet);
            self.shaper.give_back(packet);
        }
        self.lost += lost;
        let next = self.shaper.poll_timeout();
        assert!(
            next.is_none_or(|next| next > self.now),
            "nothing is left undone: {next:?} at {:?}",
            self.now
        );
    }

    /// Lets `time` pass, with the shaper looked at whenever it wants, and never sooner than `late` after.
    fn pass(&mut self, time: Duration, late: Duration) {
        let end = self.now + time;
        while let Some(next) = self.shaper.poll_timeout().filter(|next| *next + late <= end) {
            self.now = self.now.max(next + late);
            self.depart();
        }
        self.now = end;
        self.depart();
    }

    fn bytes(&self, of: impl Fn(&Left) -> bool) -> f64 {
        self.left.iter().filter(|left| of(left)).map(|left| left.bytes as f64).sum()
    }
}

const LATE: Duration = Duration::from_millis(1);

/// Keeps these queues full for so many seconds, topped up every millisecond.
fn saturate(bench: &mut Bench, offers: &[(u32, ClassId, Queueing, usize)], seconds: u64) {
    for _ in 0..seconds * 1_000 {
        for (path, class, queueing, len) in offers {
            let waits = |bench: &Bench| {
                let of = |queue: &QueueState| queue.path == PathId(*path) && queue.class == *class;
                bench.shaper.queues().find(of).map_or(0, |queue| queue.waiting_packets)
            };
            while waits(bench) < 20 {
                bench.offer(*path, *class, *queueing, *len);
            }
        }
        bench.pass(Duration::from_millis(1), LATE);
    }
}

#[test]
fn a_rate_is_kept_over_time_whatever_is_sent_and_however_late_one_wakes() {
    for (rate, len) in [(mbit(2), 1_400), (mbit(20), 1_400), (mbit(20), 100), (mbit(1_000), 1_400)] {
        for at_line in [true, false] {
            let (line, path) = if at_line { (rate, None) } else { (None, rate) };
            let mut bench = Bench::new(line, &[path]);
            saturate(&mut bench, &[(0, BULK, Queueing::default(), len)], 2);
            let sent = bench.bytes(|_| true);
            let expected = rate.expect("a rate").bytes_in(Duration::from_secs(2)) as f64;
            // A burst, and what is on its way at the end.
            let slack = expected * 0.005 + 1_600.0;
            assert!((sent - expected).abs() <= slack, "{rate:?} {len} {at_line}: {sent} of {expected}");
        }
    }
}

#[test]
fn priority_waits_for_nobody_within_its_share_and_leaves_the_others_a_quarter() {
    let mut bench = Bench::new(mbit(20), &[None]);
    for at in 0..2_000 {
        if at % 20 == 0 {
            bench.offer(0, VOICE, Queueing::Priority, 200);
        }
        for _ in 0..3 {
            bench.offer(0, BULK, Queueing::default(), 1_400);
        }
        bench.pass(Duration::from_millis(1), LATE);
    }
    let voice: Vec<Duration> =
        bench.left.iter().filter(|left| left.class == VOICE).map(|left| left.waited).collect();
    assert_eq!((voice.len(), voice.iter().max()), (100, Some(&Duration::ZERO)));

    let mut bench = Bench::new(mbit(20), &[None]);
    let both = [(0, VOICE, Queueing::Priority, 1_000), (0, BULK, Queueing::default(), 1_000)];
    saturate(&mut bench, &both, 4);
    let share = bench.bytes(|left| left.class == BULK) / bench.bytes(|_| true);
    assert!((0.12..0.14).contains(&share), "half of the quarter that is left: {share}");
}

#[test]
fn classes_share_by_weight_and_paths_of_a_line_evenly() {
    let mut bench = Bench::new(mbit(20), &[None]);
    let offers = [
        (0, VOICE, Queueing::Weight(10), 1_400),
        (0, BULK, Queueing::Weight(30), 300),
        (0, ERP, Queueing::Weight(60), 700),
    ];
    saturate(&mut bench, &offers, 5);
    let all = bench.bytes(|_| true);
    for (class, expected) in [(VOICE, 0.1), (BULK, 0.3), (ERP, 0.6)] {
        let share = bench.bytes(|left| left.class == class) / all;
        assert!((share - expected).abs() < 0.01, "{class:?} has {share}");
    }

    let mut bench = Bench::new(mbit(20), &[None, None, mbit(2)]);
    let offers = [
        (0, BULK, Queueing::default(), 1_400),
        (1, BULK, Queueing::Weight(100), 200),
        (2, BULK, Queueing::default(), 1_400),
    ];
    saturate(&mut bench, &offers, 5);
    let all = bench.bytes(|_| true);
    for (path, expected) in [(0, 0.45), (1, 0.45), (2, 0.1)] {
        let share = bench.bytes(|left| left.path == path) / all;
        assert!((share - expected).abs() < 0.015, "path {path} has {share}");
    }
    assert!((all / 12.5e6 - 1.0).abs() < 0.01, "{all} bytes");
}

#[test]
fn workers_share_a_lines_budget_evenly_though_they_wake_at_the_same_time() {
    for rate in [mbit(20), mbit(1_000)] {
        let budget = Arc::<Budget>::default();
        let mut workers = [0, 1, 2].map(|_| Bench::sharing(rate, &[None], Arc::clone(&budget)));
        for _ in 0..1_000 {
            for worker in &mut workers {
                saturate_once(worker);
                worker.now += Duration::from_millis(1);
                worker.depart();
            }
        }
        let sent: Vec<f64> = workers.iter().map(|worker| worker.bytes(|_| true)).collect();
        let all: f64 = sent.iter().sum();
        let expected = rate.expect("a rate").bytes_in(Duration::from_secs(1)) as f64;
        assert!((all / expected - 1.0).abs() < 0.02, "{all} of {expected}");
        for sent in sent {
            assert!((sent / all - 1.0 / 3.0).abs() < 0.1, "{sent} of {all}");
        }
    }
}

fn saturate_once(bench: &mut Bench) {
    while bench.shaper.queues().next().is_none_or(|queue| queue.waiting_packets < 150) {
        bench.offer(0, BULK, Queueing::default(), 1_400);
    }
}

#[test]
fn a_sender_that_heeds_losses_finds_a_short_queue_and_one_that_does_not_a_bounded_one() {
    // One that heeds nothing: twice the rate.
    let mut bench = Bench::new(mbit(20), &[None]);
    for _ in 0..5_000 {
        for _ in 0..4 {
            bench.offer(0, BULK, Queueing::default(), 1_190);
        }
        bench.pass(Duration::from_millis(1), Duration::ZERO);
    }
    let queue = bench.shaper.queues().next().expect("a queue");
    assert!(queue.waiting_bytes <= 500_000, "{} bytes", queue.waiting_bytes);
    assert!(bench.lost > 100 && bench.full > 100, "{} lost, {} had no room", bench.lost, bench.full);
    assert_eq!(queue.counters.dropped as usize, bench.lost);
    assert_eq!(queue.counters.overflowed as usize, bench.full);
    assert_eq!(queue.counters.packets as usize, bench.left.len());

    // One that does, by half for each round trip with a loss or a mark, of which it gains a packet without (RFC 5681).
    for ecn in [0, 1] {
        let mut bench = Bench::new(mbit(20), &[None]);
        let mut window = 10.0;
        let (mut in_flight, mut seen, mut signals) = (0usize, 0, 0);
        let mut waits = Vec::new();
        for round in 0..3_000 {
            while in_flight < window as usize {
                bench.offer_marked(0, BULK, Queueing::default(), 1_190, ecn);
                in_flight += 1;
            }
            bench.pass(Duration::from_millis(1), Duration::ZERO);
            let left = bench.left.len();
            in_flight -= (left - seen).min(in_flight);
            if round > 1_000 {
                waits.extend(bench.left[seen..].iter().map(|left| left.waited));
            }
            seen = left;
            if round % 20 == 0 {
                let queue = bench.shaper.queues().next().expect("a queue");
                let now = bench.lost as u64 + queue.counters.marked;
                window = if now > signals { (window / 2.0f64).max(4.0) } else { window + 1.0 };
                in_flight = queue.waiting_packets;
                signals = now;
            }
        }
        waits.sort_unstable();
        let median = waits[waits.len() / 2];
        assert!(median < Duration::from_millis(15), "half wait {median:?}");
        let marked = bench.shaper.queues().next().map_or(0, |queue| queue.counters.marked);
        assert_eq!(
            (bench.lost > 0, marked > 0),
            (ecn == 0, ecn == 1),
            "{} lost, {marked} marked",
            bench.lost
        );
    }
}

#[test]
fn a_path_that_moves_to_another_transport_takes_its_packets_along_and_one_that_goes_takes_them_away() {
    let mut bench = Bench::new(mbit(1), &[None, None]);
    let other = TransportId(1);
    bench.shaper.set_line(other, mbit(100), Arc::default());
    for _ in 0..20 {
        bench.offer(0, BULK, Queueing::default(), 1_000);
        bench.offer(1, BULK, Queueing::default(), 1_000);
    }
    let moved = Way { transport: other, ..way(0) };
    let last = packet(bench.next, 1_000, 0);
    bench.offered.insert(bench.next, (0, BULK, bench.now));
    assert_eq!(bench.shaper.offer(moved, (BULK, Queueing::default()), &last, bench.now), Offered::Waits);
    bench.pass(Duration::from_millis(30), LATE);
    let numbers: Vec<u32> = bench.left.iter().filter(|left| left.path == 0).map(|left| left.number).collect();
    assert_eq!(numbers.len(), 21);
    assert!(numbers.is_sorted(), "{numbers:?}");
    let waiting = bench.shaper.queues().find(|queue| queue.path == PathId(1)).map(|q| q.waiting_packets);
    assert_eq!(waiting, Some(bench.shaper.remove(PathId(1))));
    assert!(waiting.is_some_and(|waiting| waiting > 10));
    bench.pass(Duration::from_secs(1), LATE);
    assert_eq!((bench.shaper.poll_timeout(), bench.shaper.waiting_bytes), (None, 0));
}

#[test]
fn a_path_that_comes_back_stands_in_line_once() {
    for rates in [[None, None], [mbit(10), mbit(10)]] {
        let mut bench = Bench::new(mbit(10), &rates);
        for _ in 0..4 {
            for _ in 0..20 {
                bench.offer(0, BULK, Queueing::default(), 1_000);
                bench.offer(1, BULK, Queueing::default(), 1_000);
            }
            bench.shaper.remove(PathId(0));
            bench.shaper.set_path(PathId(0), rates[0]);
            bench.pass(Duration::from_millis(1), LATE);
        }
        bench.left.clear();
        let both = [(0, BULK, Queueing::default(), 1_000), (1, BULK, Queueing::default(), 1_000)];
        saturate(&mut bench, &both, 1);
        let share = bench.bytes(|left| left.path == 0) / bench.bytes(|_| true);
        assert!((share - 0.5).abs() < 0.05, "{rates:?}: {share}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_is_reordered_within_a_class_nothing_is_forgotten_and_no_rate_is_exceeded(
        steps in proptest::collection::vec(
            (0u64..3_000, 0u32..3, 0u16..3, 20usize..1_500, 0usize..8),
            1..400,
        ),
    ) {
        let rates = [None, mbit(3), mbit(30)];
        let mut bench = Bench::new(mbit(10), &rates);
        let begin = bench.now;
        for (micros, path, class, len, count) in steps {
            let queueing = [Queueing::Priority, Queueing::Weight(1), Queueing::Weight(100)][usize::from(class)];
            for _ in 0..count {
                bench.offer(path, ClassId(class), queueing, len);
            }
            bench.pass(Duration::from_micros(micros), Duration::from_micros(micros % 1_000));
            let lasted = bench.now.since(begin);
            let sent = bench.bytes(|_| true);
            // What went first at once, a burst, and a packet beyond.
            let most = mbit(10).expect("a rate").bytes_in(lasted + IDLE_BURST + LATE_BURST) as f64
                + 25_000.0 + 2.0 * 1_600.0;
            prop_assert!(sent <= most, "{sent} of {most}");
        }
        bench.pass(Duration::from_secs(60), LATE);
        prop_assert_eq!(bench.offered.len(), bench.lost + bench.full, "all others have left");
        prop_assert_eq!((bench.shaper.poll_timeout(), bench.shaper.waiting_bytes), (None, 0));
        for path in 0..3 {
            for class in 0..3 {
                let of = |left: &&Left| left.path == path && left.class == ClassId(class);
                let numbers: Vec<u32> = bench.left.iter().filter(of).map(|left| left.number).collect();
                prop_assert!(numbers.is_sorted(), "{path} {class}: {numbers:?}");
            }
        }
    }
}
