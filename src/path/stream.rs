//! A stream of probes beside the path's own: they carry a DSCP that classes' packets do, so that a class whose packets the
//! underlay treats in another way is judged by probes that it treats in that way too.
//!
//! Whether the path is alive the prober says; a stream says how good it is for those packets, and asks only while the path is up:
//! every 20 ms beside packets of its own that somebody judges it for, every 100 ms while there are any, every five seconds
//! otherwise. Where nobody judges it, it is shown, and a second is soon enough.
//!
//! What does not get through at all sends no answer to be judged by. So a stream of which eight probes in a row are not answered
//! is silent, if the path's own have been meanwhile; after two it has the prober ask, which finds out whether the path is dead.
//! And where a stream is answered, the prober is not so quick to find the path dead that only lets best effort wait.

use super::arrivals::Counts;
use super::clock::Stamps;
use super::judge::{Doubt, Seen};
use super::probe::{
    ACTIVE, Activity, CLOSELY, FORGET, IDLE, MAX_UNDER_WAY, MAX_WAIT, MIN_WAIT, Prober, next_after,
};
use super::quality::Quality;
use super::tally::Tally;
use crate::model::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Between probes where no packet carries its DSCP: several streams a path, from both ends, are not to cost more than the
/// paths' own.
const IDLE_STREAM: Duration = Duration::from_secs(5);
/// So many in a row, unanswered, and the prober is to ask;
const DOUBTED: u32 = 2;
/// by then the path is dead or the stream is silent: where a tenth is lost either way, so many are once in a million.
const SILENT: u32 = 8;
/// From when on the path's own must have been answered: what arrives after one was given up has left after it was sent.
const VOUCHED: u32 = 3;
/// And so long after: answers that lay about while nobody looked have been read by then.
const CONFIRM: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamAction {
    /// Send a request of the stream with this sequence number.
    Send { sequence: u32 },
    /// It has just been found silent, though the path is alive.
    FellSilent,
}

/// One of a path's streams.
#[derive(Clone, Debug)]
pub struct Stream {
    dscp: u8,
    next: Instant,
    under_way: VecDeque<Sent>,
    newest_answered: u32,
    activity: Activity,
    is_judged: bool,
    doubt: Doubt,
    silence: Option<Silence>,
    quality: Quality,
    measured: Option<(Stamps, [Option<Counts>; 2])>,
    /// Outbound and inbound.
    pub tallies: [Tally; 2],
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    at: Instant,
    given_up: bool,
}

/// Probes go unanswered.
#[derive(Clone, Copy, Debug)]
struct Silence {
    unanswered: u32,
    /// When that many were given up that the path's own answers count from then.
    vouched_from: Option<Instant>,
    is_told: bool,
}

impl Stream {
    /// A stream of probes that carry `dscp`, whose first is due at once.
    pub fn new(dscp: u8, now: Instant) -> Stream {
        Stream {
            dscp,
            next: now,
            under_way: VecDeque::new(),
            newest_answered: 0,
            activity: Activity::default(),
            is_judged: false,
            doubt: Doubt::None,
            silence: None,
            quality: Quality::default(),
            measured: None,
            tallies: Default::default(),
        }
    }

    /// What its probes carry.
    pub fn dscp(&self) -> u8 {
        self.dscp
    }

    /// What they say.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// What the last answer has brought, once.
    pub fn take_seen(&mut self) -> Option<Seen> {
        self.quality.take_seen()
    }

    /// What the last answer has measured, once: the stamps, and what had arrived there and here.
    pub fn take_measured(&mut self) -> Option<(Stamps, [Option<Counts>; 2])> {
        self.measured.take()
    }

    /// This was measured another time.
    pub fn recall(&mut self, stamps: &Stamps, counts: [Option<Counts>; 2], now: Instant) {
        self.quality.answered(stamps, counts, now);
    }

    /// Whether somebody judges by an SLA what it measures.
    pub fn is_judged(&mut self, is_judged: bool) {
        self.is_judged = is_judged;
        if !is_judged {
            self.doubt = Doubt::None;
        }
    }

    /// How closely it is to look.
    pub fn doubt(&mut self, doubt: Doubt) {
        self.doubt = doubt;
    }

    /// A packet that carries its DSCP is on the path. True if that brings the next probe forward.
    pub fn traffic(&mut self, path: &Prober, now: Instant) -> bool {
        self.activity.packet(now);
        let by = now + self.interval(path, now);
        let sooner = by < self.next;
        if sooner {
            self.next = by;
        }
        sooner && path.is_up()
    }

    /// When [`Stream::poll`] has something to do; never while the path is not up.
    pub fn poll_timeout(&self, path: &Prober) -> Option<Instant> {
        let overdue = self.awaited().map(|sent| sent.at + self.wait());
        path.is_up().then(|| overdue.map_or(self.next, |overdue| overdue.min(self.next)))
    }

    /// Does what is due. Call until `None`.
    pub fn poll(&mut self, path: &mut Prober, now: Instant) -> Option<StreamAction> {
        if !path.is_up() {
            self.rest(now);
            return None;
        }
        while let Some(at) = self.overdue(now) {
            self.under_way[at].given_up = true;
            self.quality.missed();
            // Where one that was sent later has been answered, nobody is silent.
            if self.under_way[at].sequence.wrapping_sub(self.newest_answered).cast_signed() > 0 {
                self.unanswered(path, now);
            }
        }
        if self.has_fallen_silent(path, now) {
            return Some(StreamAction::FellSilent);
        }
        if now < self.next {
            return None;
        }
        let interval = self.interval(path, now);
        self.next = next_after(self.doubt, interval, self.next, now);
        if self.silence.is_some_and(|silence| !silence.is_told) {
            self.next = self.next.min(now + CLOSELY);
        }
        let sequence = path.take_sequence();
        let is_past = |sent: &mut Sent| sent.given_up && now.since(sent.at) > FORGET;
        if self.under_way.len() >= MAX_UNDER_WAY || self.under_way.front_mut().is_some_and(is_past) {
            self.under_way.pop_front();
        }
        self.under_way.push_back(Sent { sequence, at: now, given_up: false });
        Some(StreamAction::Send { sequence })
    }

    /// An answer came, and so much has arrived there and here by then. Whether it was waited for.
    pub fn answer(
        &mut self,
        path: &mut Prober,
        (sequence, stamps): (u32, &Stamps),
        counts: [Option<Counts>; 2],
        now: Instant,
    ) -> bool {
        let Some(at) = self.under_way.iter().position(|sent| sent.sequence == sequence) else { return false };
        let Some(sent) = self.under_way.remove(at) else { return false };
        if sequence.wrapping_sub(self.newest_answered).cast_signed() > 0 {
            self.newest_answered = sequence;
        }
        self.silence = None;
        path.answered_beside(sent.at);
        // By the clock that nobody sets meanwhile.
        let took = u64::try_from(now.since(sent.at).as_nanos()).unwrap_or(u64::MAX);
        let stamps = Stamps { sent: stamps.returned.wrapping_sub(took), ..*stamps };
        self.quality.answered(&stamps, counts, now);
        self.measured = Some((stamps, counts));
        true
    }

    /// Nothing is asked while the path is not up; and what it lost meanwhile says nothing of what it is like then.
    fn rest(&mut self, now: Instant) {
        self.under_way.clear();
        self.silence = None;
        self.next = now;
        self.tallies.iter_mut().for_each(Tally::forget);
    }

    fn unanswered(&mut self, path: &mut Prober, now: Instant) {
        let new = Silence { unanswered: 0, vouched_from: None, is_told: false };
        let silence = self.silence.get_or_insert(new);
        silence.unanswered += 1;
        match silence.unanswered {
            DOUBTED => path.hurry(now),
            VOUCHED => silence.vouched_from = Some(now),
            _ => {}
        }
        if !silence.is_told {
            self.next = self.next.min(now);
        }
    }

    fn has_fallen_silent(&mut self, path: &Prober, now: Instant) -> bool {
        let Some(silence) = &mut self.silence else { return false };
        let is_silent = !silence.is_told
            && silence.unanswered >= SILENT
            && !path.is_suspect()
            && silence.vouched_from.is_some_and(|from| {
                now.since(from) >= CONFIRM && path.last_answer().is_some_and(|last| last >= from)
            });
        silence.is_told |= is_silent;
        is_silent
    }

    fn awaited(&self) -> Option<&Sent> {
        self.under_way.iter().find(|sent| !sent.given_up)
    }

    fn overdue(&self, now: Instant) -> Option<usize> {
        let wait = self.wait();
        let first = self.under_way.iter().position(|sent| !sent.given_up);
        first.filter(|at| self.under_way[*at].at + wait <= now)
    }

    fn interval(&self, path: &Prober, now: Instant) -> Duration {
        let stretch = path.stretch();
        let at_most = stretch.of_idle(IDLE_STREAM);
        let wanted = match self.is_judged {
            _ if !self.activity.is_running(now) => return at_most,
            true if self.activity.is_close(now) => CLOSELY,
            true => ACTIVE,
            false => IDLE,
        };
        stretch.of_active(wanted).min(at_most)
    }

    /// How long an answer may take.
    fn wait(&self) -> Duration {
        let (Some(rtt), Some(deviation)) = (self.quality.rtt(), self.quality.rtt_deviation()) else {
            return MAX_WAIT;
        };
        (rtt + deviation * 4).clamp(MIN_WAIT, MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::probe::Action;
    use crate::path::stamp::Reply;
    use crate::path::{Stretch, Way};

    const MS: Duration = Duration::from_millis(1);
    const RTT: u64 = 40;

    /// A path's prober and one stream of it, whose probes are answered 40 ms later, or not.
    struct Pair {
        prober: Prober,
        stream: Stream,
        now: Instant,
        answers: VecDeque<(Instant, u32, bool)>,
        /// Whether the path's own are answered, and the stream's.
        alive: [bool; 2],
        /// Milliseconds between packets that carry the stream's DSCP, if there are any.
        spacing: Option<u64>,
        /// Probes of the stream's that were sent; and when it fell silent.
        sent: u32,
        silent: Vec<Instant>,
    }

    impl Pair {
        /// Up for two seconds, and judged.
        fn up() -> Pair {
            let mut pair = Pair {
                prober: Prober::new(Instant(0)),
                stream: Stream::new(46, Instant(0)),
                now: Instant(0),
                answers: VecDeque::new(),
                alive: [true; 2],
                spacing: None,
                sent: 0,
                silent: Vec::new(),
            };
            pair.stream.is_judged(true);
            pair.run(2_000);
            pair
        }

        fn stamps(took: Duration) -> Stamps {
            let returned = 1_000_000_000 + took.as_nanos() as u64;
            Stamps { sent: 0, received: returned, reflected: returned, returned }
        }

        fn run(&mut self, ms: u64) -> &mut Pair {
            for _ in 0..ms / 5 {
                self.now += MS * 5;
                let now = self.now;
                while let Some((_, sequence, is_streams)) =
                    self.answers.front().copied().filter(|(at, ..)| *at <= now)
                {
                    self.answers.pop_front();
                    let stamps = Pair::stamps(Duration::ZERO);
                    if is_streams {
                        let counts = [Some(Counts::default()), None];
                        self.stream.answer(&mut self.prober, (sequence, &stamps), counts, now);
                    } else {
                        let stretch = Stretch::default();
                        let reply = Reply { sequence, stamps, arrivals: None, of_stream: None, stretch };
                        self.prober.answer(&reply, Counts::default(), now);
                    }
                }
                let ms = now.0 / 1_000_000;
                if self.spacing.is_some_and(|spacing| ms.is_multiple_of(spacing)) {
                    self.prober.traffic(false, now);
                    self.stream.traffic(&self.prober, now);
                }
                let at = now + MS * RTT as u32;
                while let Some(action) = self.prober.poll(now) {
                    if let (Action::Send { sequence, .. } | Action::SendFullSize { sequence, .. }, true) =
                        (action, self.alive[0])
                    {
                        self.answers.push_back((at, sequence, false));
                    }
                }
                while let Some(action) = self.stream.poll(&mut self.prober, now) {
                    match action {
                        StreamAction::Send { sequence } => {
                            self.sent += 1;
                            if self.alive[1] {
                                self.answers.push_back((at, sequence, true));
                            }
                        }
                        StreamAction::FellSilent => self.silent.push(now),
                    }
                }
            }
            self
        }

        /// How many probes of the stream's are sent in so long.
        fn asks(&mut self, ms: u64) -> u32 {
            let before = self.sent;
            self.run(ms).sent - before
        }
    }

    #[test]
    fn it_is_asked_about_as_its_own_packets_need_it() {
        // Milliseconds between packets, whether somebody judges, how closely; probes in ten seconds.
        let table = [
            (None, true, Doubt::None, 2),
            (Some(20), true, Doubt::None, 500),
            (Some(500), true, Doubt::None, 100),
            (Some(20), true, Doubt::Some, 2_000),
            (Some(20), true, Doubt::Much, 8_000),
            (Some(500), true, Doubt::Much, 100),
            (None, false, Doubt::None, 2),
            (Some(20), false, Doubt::None, 10),
        ];
        for (spacing, is_judged, doubt, wanted) in table {
            let mut pair = Pair::up();
            pair.stream.is_judged(is_judged);
            pair.stream.doubt(doubt);
            pair.spacing = spacing;
            pair.run(2_000);
            let sent = pair.asks(10_000);
            assert!(sent.abs_diff(wanted) <= 1 + wanted / 50, "{spacing:?} {is_judged} {doubt:?}: {sent}");
            assert_eq!(pair.silent, []);
        }
    }

    #[test]
    fn packets_of_other_dscps_bring_no_probe_forward() {
        let mut pair = Pair::up();
        let before = pair.sent;
        for _ in 0..500 {
            pair.prober.traffic(true, pair.now);
            pair.run(20);
        }
        assert_eq!(pair.sent - before, 2);
    }

    /// What befalls it and the path, and what follows: probes in two seconds, and whether it falls silent meanwhile.
    #[test]
    fn the_transition_table() {
        // Whether the path is alive, whether the stream is, milliseconds between packets: before, and then.
        type State = (bool, bool, Option<u64>);
        let well: State = (true, true, None);
        let call: State = (true, true, Some(20));
        let mute: State = (true, false, Some(20));
        let mute_and_idle: State = (true, false, None);
        let dead: State = (false, false, Some(20));
        let table: [(State, State, u32, bool); 9] = [
            (well, well, 0, false),
            (well, call, 99, false),
            (call, call, 100, false),
            (call, mute, 100, true),
            (mute, mute, 100, false),
            // Packets count as running for two seconds after the last.
            (mute, mute_and_idle, 24, false),
            (mute, call, 100, false),
            // The path is dead, and no stream is to blame: nothing is asked but until it is known.
            (call, dead, 9, false),
            // The path has to come up first.
            (dead, call, 34, false),
        ];
        for (before, then, wanted, is_silent) in table {
            let mut pair = Pair::up();
            for (state, ms) in [(before, 5_000), (then, 2_000)] {
                let (path, stream, spacing) = state;
                (pair.alive, pair.spacing) = ([path, stream], spacing);
                (pair.sent, pair.silent) = (0, Vec::new());
                pair.run(ms);
            }
            let slack = 1 + wanted / 4;
            assert!(pair.sent.abs_diff(wanted) <= slack, "{before:?}, then {then:?}: {} probes", pair.sent);
            assert_eq!(pair.silent.len(), usize::from(is_silent), "{before:?}, then {then:?}");
        }
    }

    #[test]
    fn silence_is_found_within_400_ms_in_a_call_and_soon_after_the_first_probe_of_an_idle_stream() {
        let mut pair = Pair::up();
        pair.spacing = Some(20);
        pair.run(3_000);
        pair.alive[1] = false;
        let begin = pair.now;
        pair.run(2_000);
        let took = pair.silent[0].since(begin);
        assert!(took <= MS * 400, "{took:?}");
        // One whose path has to be asked first whether it is alive: it is idle as well.
        let mut pair = Pair::up();
        pair.alive[1] = false;
        let begin = pair.now;
        pair.run(7_000);
        let took = pair.silent[0].since(begin);
        assert!(took <= MS * 5_600, "{took:?}");
    }

    #[test]
    fn a_loss_is_followed_by_a_quick_probe_and_no_more() {
        let mut pair = Pair::up();
        pair.run(10_000);
        while pair.asks(5) == 0 {}
        // It will not be answered.
        pair.answers.retain(|(_, _, is_streams)| !is_streams);
        let sent = pair.asks(2_000);
        // Until the first is answered two may have followed.
        assert!((1..=3).contains(&sent) && pair.silent.is_empty(), "{sent}");
    }

    #[test]
    fn its_numbers_are_the_paths_and_what_was_not_asked_is_no_answer() {
        let mut pair = Pair::up();
        let mut sequences: Vec<u32> = Vec::new();
        pair.spacing = Some(20);
        for _ in 0..200 {
            pair.run(5);
            sequences.extend(pair.answers.iter().map(|(_, sequence, _)| *sequence));
        }
        sequences.sort_unstable();
        let own: Vec<u32> = pair.answers.iter().filter(|(.., is)| !is).map(|(_, n, _)| *n).collect();
        let (stamps, counts) = (Pair::stamps(Duration::ZERO), [None, None]);
        for sequence in own.into_iter().chain([u32::MAX]) {
            let Pair { prober, stream, now, .. } = &mut pair;
            assert!(!stream.answer(prober, (sequence, &stamps), counts, *now), "{sequence}");
        }
        let rtt = pair.stream.quality().rtt().expect("answered");
        assert!(rtt.abs_diff(MS * RTT as u32) <= MS, "{rtt:?}");
        assert!(pair.stream.quality().measured(Way::Outbound, Duration::from_secs(2), pair.now).is_some());
    }
}
