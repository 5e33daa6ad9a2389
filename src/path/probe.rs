//! The prober: asks the far end whether the path is alive, and decides that it is not.
//!
//! A probe every 50 ms while packets follow each other closely, every 100 ms while there is traffic, every second
//! otherwise. One whose answer is overdue makes the path suspect: three quick ones follow, and if nothing at all has been
//! answered when their answers are overdue as well, it is down. Four probes in 70 ms are lost together where the path is cut,
//! and hardly by chance. A path of which nothing was known goes down likewise.
//!
//! Down comes up again after three answers in a row, but is *recovering* for a while, and used only where nothing better is:
//! 10 seconds, and twice as long each time it goes down again soon. A path that was never down is up with its first answer.
//!
//! An idle path is asked about by one of its ends: one that is asked, and told in the question that its answers arrive,
//! knows what an answer would tell it. It goes on asking only where it does not hear from the far end when it should.

use super::arrivals::Counts;
use super::clock::Stamps;
use super::judge::Seen;
use super::quality::Quality;
use super::stamp::Reply;
use crate::model::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Between probes while packets follow each other within [`CLOSE`]: a call, or a transfer.
const BUSY: Duration = Duration::from_millis(50);
const CLOSE: Duration = Duration::from_millis(100);
/// Then, while there is doubt whether the path is good enough.
const DOUBTFUL: Duration = Duration::from_millis(20);
/// Between probes while there is traffic, or while coming back.
const ACTIVE: Duration = Duration::from_millis(100);
/// Between probes otherwise.
const IDLE: Duration = Duration::from_secs(1);
/// How long a far end that vouches for the path may keep us waiting for its next probe: [`IDLE`], and a hiccup.
const VOUCHED: Duration = Duration::from_millis(1_200);
/// Round-trip time and loss that are shown of a path are no older than this: then it is asked about however much is vouched.
const ASK_ANYWAY: Duration = Duration::from_secs(10);
/// Traffic within this time counts as running.
const TRAFFIC: Duration = Duration::from_secs(2);
/// Answers in a row that bring a path back.
const IN_A_ROW: u32 = 3;
/// A suspect path is asked so often, so far apart that a burst of loss does not take them all.
const QUICK: u32 = 3;
const QUICKLY: Duration = Duration::from_millis(10);
/// An answer is waited for no less than this before the path is suspect: a scheduler's hiccup is not a loss;
const MIN_WAIT: Duration = Duration::from_millis(50);
/// where nobody is in a hurry, than this;
const IDLE_WAIT: Duration = Duration::from_millis(150);
/// after the last quick one, than this;
const CONFIRM: Duration = Duration::from_millis(30);
/// and no more than this, also before anything is known of the path.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Who is called so much later than it asked for has been kept from looking, and answers may be waiting behind it.
const STALL: Duration = Duration::from_millis(20);
/// Probes under way at once: what [`MAX_WAIT`] allows, and some.
const MAX_UNDER_WAY: usize = 56;
/// How long a path that came back is not preferred, at first and at most. Each time it goes down before it has been up for
/// twice as long as it was held, it is held twice as long.
const HOLD: Duration = Duration::from_secs(10);
const MAX_HOLD: Duration = Duration::from_secs(600);

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No answer has come yet, nor failed to come.
    Unproven,
    Up,
    /// Up, and not trusted again yet.
    Recovering,
    Down,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a request with this sequence number, saying whether the far end's answers arrive.
    Send { sequence: u32, answered: bool },
    /// The path has just gone down, after so long without an answer.
    WentDown { silent: Duration },
    /// The path has just come up, and is held so long.
    CameUp { held: Duration },
    /// It has stayed up for as long as it was held.
    Recovered,
}

/// One path's prober.
#[derive(Clone, Debug)]
pub struct Prober {
    state: State,
    next: Instant,
    sequence: u32,
    under_way: VecDeque<Sent>,
    suspicion: Option<Suspicion>,
    answered: u32,
    last_traffic: Option<Instant>,
    /// When a packet last followed another closely.
    last_close: Option<Instant>,
    last_answer: Option<Instant>,
    in_doubt: bool,
    hold: Duration,
    /// Until when the path is held, or was.
    held_until: Instant,
    quality: Quality,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    at: Instant,
    /// Its answer is waited for from then on: later, if nobody could look.
    awaited_from: Instant,
    /// No longer waited for. If an answer comes all the same, the path is slow, and not dead.
    given_up: bool,
}

/// An answer is overdue.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    /// Quick probes still to be sent.
    quick: u32,
    /// When there has been no answer for too long.
    decided: Instant,
}

impl Prober {
    /// A prober whose first probe is due at once.
    pub fn new(now: Instant) -> Prober {
        Prober {
            state: State::Unproven,
            next: now,
            sequence: 0,
            under_way: VecDeque::new(),
            suspicion: None,
            answered: 0,
            last_traffic: None,
            last_close: None,
            last_answer: None,
            in_doubt: false,
            hold: Duration::ZERO,
            held_until: now,
            quality: Quality::default(),
        }
    }

    /// What is known of the path.
    pub fn state(&self) -> State {
        self.state
    }

    /// What its probes say.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// What the last answer has brought, once.
    pub fn take_seen(&mut self) -> Option<Seen> {
        self.quality.take_seen()
    }

    /// Whether it is to look closely.
    pub fn doubt(&mut self, in_doubt: bool) {
        self.in_doubt = in_doubt;
    }

    /// Traffic of sessions runs over the path. True if that brings the next probe forward.
    pub fn traffic(&mut self, now: Instant) -> bool {
        if self.last_traffic.replace(now).is_some_and(|last| now.since(last) <= CLOSE) {
            self.last_close = Some(now);
        }
        let by = now + self.interval(now);
        let sooner = self.state != State::Down && by < self.next;
        if sooner {
            self.next = by;
        }
        sooner
    }

    /// There is reason to ask at once: a new session, or a far end that has just shown itself.
    pub fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// The far end has asked, and said that our answers arrive: packets get through either way, as our own next probe
    /// would find. It need not be sent, unless there is traffic, doubt, or it has been long.
    pub fn vouched(&mut self, now: Instant) {
        let lately = self.last_answer.is_some_and(|last| now.since(last) < ASK_ANYWAY);
        if self.is_up() && self.suspicion.is_none() && lately && !self.has_traffic(now) {
            self.next = self.next.max(now + VOUCHED);
        }
    }

    /// When [`Prober::poll`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        let overdue = self.awaited().map(|sent| sent.awaited_from + self.wait());
        let decided = self.suspicion.map(|suspicion| suspicion.decided);
        let recovered = (self.state == State::Recovering).then_some(self.held_until);
        [overdue, decided, recovered].into_iter().flatten().fold(self.next, Instant::min)
    }

    /// Does what is due: suspects, decides, and sends. Call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        self.forgive_stall(now);
        while let Some(at) = self.overdue(now) {
            self.under_way[at].given_up = true;
            self.quality.missed();
            self.answered = 0;
            self.suspect(now);
        }
        if let Some(suspicion) = self.suspicion
            && suspicion.decided <= now
            && suspicion.quick == 0
        {
            self.suspicion = None;
            if self.state != State::Down {
                return Some(self.go_down(now));
            }
        }
        if self.state == State::Recovering && self.held_until <= now {
            self.state = State::Up;
            return Some(Action::Recovered);
        }
        if now < self.next {
            return None;
        }
        self.next = now + self.interval(now);
        if let Some(suspicion) = &mut self.suspicion
            && suspicion.quick > 0
        {
            suspicion.quick -= 1;
            if suspicion.quick > 0 {
                self.next = now + QUICKLY;
            }
            self.decide_after(now);
        }
        self.sequence = self.sequence.wrapping_add(1);
        if self.under_way.len() >= MAX_UNDER_WAY {
            self.under_way.pop_front();
        }
        self.under_way.push_back(Sent {
            sequence: self.sequence,
            at: now,
            awaited_from: now,
            given_up: false,
        });
        let answered = self.is_up() && self.suspicion.is_none();
        Some(Action::Send { sequence: self.sequence, answered })
    }

    /// An answer came; so much has arrived here of what the far end sent. One that nobody waits for any more, or never did,
    /// changes nothing.
    pub fn answer(&mut self, reply: &Reply, here: Counts, now: Instant) -> Option<Action> {
        let at = self.under_way.iter().position(|sent| sent.sequence == reply.sequence)?;
        let sent = self.under_way.remove(at)?;
        // By the clock that nobody sets meanwhile.
        let took = u64::try_from(now.since(sent.at).as_nanos()).unwrap_or(u64::MAX);
        let stamps = Stamps { sent: reply.stamps.returned.wrapping_sub(took), ..reply.stamps };
        self.quality.answered(&stamps, [reply.arrivals, Some(here)], now);
        self.last_answer = Some(now);
        self.answered += 1;
        // What was sent before this one will hardly be answered any more; but what matters is that this one was.
        self.suspicion = None;
        match self.state {
            State::Unproven => {
                self.state = State::Up;
                Some(Action::CameUp { held: Duration::ZERO })
            }
            State::Down if self.answered >= IN_A_ROW => {
                self.state = if self.hold.is_zero() { State::Up } else { State::Recovering };
                self.held_until = now + self.hold;
                Some(Action::CameUp { held: self.hold })
            }
            _ => None,
        }
    }

    /// The tunnel has no session: probes would only wait with the packets. What is under way is lost, and the path is
    /// down without further asking.
    pub fn lost_session(&mut self, now: Instant) -> Option<Action> {
        self.under_way.clear();
        self.suspicion = None;
        self.answered = 0;
        self.is_up().then(|| self.go_down(now))
    }

    fn is_up(&self) -> bool {
        matches!(self.state, State::Up | State::Recovering)
    }

    fn go_down(&mut self, now: Instant) -> Action {
        let was_up = self.is_up();
        let again = now <= self.held_until + self.hold * 2 && self.hold > Duration::ZERO;
        self.hold = match (was_up, again) {
            // Nothing has been lost by waiting for a path that never was.
            (false, _) => Duration::ZERO,
            (true, true) => (self.hold * 2).min(MAX_HOLD),
            (true, false) => HOLD,
        };
        self.state = State::Down;
        self.answered = 0;
        Action::WentDown { silent: self.last_answer.map_or(Duration::ZERO, |last| now.since(last)) }
    }

    /// Whoever could not look judges nobody: what is waited for is waited for that much longer.
    fn forgive_stall(&mut self, now: Instant) {
        let stalled = now.since(self.poll_timeout());
        if stalled <= STALL {
            return;
        }
        self.under_way.iter_mut().for_each(|sent| sent.awaited_from += stalled);
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.decided += stalled;
        }
    }

    fn suspect(&mut self, now: Instant) {
        if self.suspicion.is_none() && self.state != State::Down {
            self.suspicion = Some(Suspicion { quick: QUICK, decided: now });
            self.next = now;
        }
    }

    /// The last quick probe has been sent: its answer, and those of the others, are waited for.
    fn decide_after(&mut self, now: Instant) {
        let wait = self.estimate().map_or(MAX_WAIT, |estimate| estimate.clamp(CONFIRM, MAX_WAIT));
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.decided = now + wait;
        }
    }

    /// The probe that is waited for and was sent first.
    fn awaited(&self) -> Option<&Sent> {
        self.under_way.iter().find(|sent| !sent.given_up)
    }

    fn overdue(&self, now: Instant) -> Option<usize> {
        let wait = self.wait();
        self.under_way
            .iter()
            .position(|sent| !sent.given_up)
            .filter(|at| self.under_way[*at].awaited_from + wait <= now)
    }

    fn interval(&self, now: Instant) -> Duration {
        let within = |last: Option<Instant>, time| last.is_some_and(|last| now.since(last) < time);
        match self.state {
            // A path that stays down is asked at leisure; one that is coming back is not.
            State::Down if self.answered == 0 => IDLE,
            State::Down => ACTIVE,
            _ if within(self.last_close, CLOSE) => {
                if self.in_doubt {
                    DOUBTFUL
                } else {
                    BUSY
                }
            }
            _ if within(self.last_traffic, TRAFFIC) => ACTIVE,
            _ => IDLE,
        }
    }

    fn has_traffic(&self, now: Instant) -> bool {
        self.last_traffic.is_some_and(|last| now.since(last) < TRAFFIC)
    }

    /// RFC 6298's timeout, without its bounds.
    fn estimate(&self) -> Option<Duration> {
        Some(self.quality.rtt()? + self.quality.rtt_deviation()? * 4)
    }

    /// How long an answer may take before it is overdue. Silence of more than one and a half intervals is what it comes to:
    /// the answer should have come a round trip after the probe, and half an interval later it has not.
    fn wait(&self) -> Duration {
        let (Some(rtt), Some(deviation)) = (self.quality.rtt(), self.quality.rtt_deviation()) else {
            return MAX_WAIT;
        };
        let is_idle = match (self.last_traffic, self.under_way.back()) {
            (Some(traffic), Some(newest)) => newest.at.since(traffic) >= TRAFFIC,
            (None, _) => true,
            (Some(_), None) => false,
        };
        let least = if is_idle { IDLE_WAIT } else { MIN_WAIT };
        (rtt + (BUSY / 2).max(deviation * 4)).clamp(least, MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::cell::Cell;

    const MS: Duration = Duration::from_millis(1);

    fn reply(sequence: u32) -> Reply {
        let stamps = Stamps { sent: 0, received: 0, reflected: 0, returned: 0 };
        Reply { sequence, stamps, arrivals: None }
    }

    /// Runs a prober for `ms`, answering every probe that `alive` at its time says yes to, 5 ms later.
    fn run(
        prober: &mut Prober,
        from: u64,
        ms: u64,
        traffic: bool,
        alive: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Action)> {
        let mut log = Vec::new();
        let mut answers = VecDeque::new();
        for t in from..from + ms {
            let now = Instant(0) + MS * t as u32;
            if traffic {
                prober.traffic(now);
            }
            while let Some((due, sequence)) = answers.front().copied()
                && due <= t
            {
                answers.pop_front();
                log.extend(prober.answer(&reply(sequence), Counts::default(), now).map(|action| (t, action)));
            }
            while let Some(action) = prober.poll(now) {
                if let Action::Send { sequence, .. } = action
                    && alive(t)
                {
                    answers.push_back((t + 5, sequence));
                }
                log.push((t, action));
            }
        }
        log
    }

    fn changes(log: &[(u64, Action)]) -> Vec<(u64, Action)> {
        log.iter().copied().filter(|(_, action)| !matches!(action, Action::Send { .. })).collect()
    }

    #[test]
    fn probes_run_every_50_ms_in_a_call_and_every_second_without_traffic() {
        let mut prober = Prober::new(Instant(0));
        assert_eq!(run(&mut prober, 0, 10_000, false, |_| true).len(), 10 + 1);
        let busy = run(&mut prober, 10_000, 10_000, true, |_| true);
        assert!((198..=201).contains(&busy.len()), "{}", busy.len());
        assert_eq!(prober.state(), State::Up);
    }

    #[test]
    fn probes_run_every_100_ms_with_traffic_now_and_then() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 2_000, false, |_| true);
        let sent: usize = (0..10)
            .map(|n| {
                prober.traffic(Instant(0) + MS * (2_000 + n * 1_000));
                run(&mut prober, 2_000 + u64::from(n) * 1_000, 1_000, false, |_| true).len()
            })
            .sum();
        assert!((98..=101).contains(&sent), "{sent}");
    }

    #[test]
    fn a_busy_path_is_down_within_150_ms_of_a_cut_whenever_it_comes() {
        for phase in 0..100 {
            let mut prober = Prober::new(Instant(0));
            let begin = 5_000 + phase;
            run(&mut prober, 0, begin, true, |_| true);
            let log = changes(&run(&mut prober, begin, 2_000, true, |_| false));
            let [(at, Action::WentDown { silent })] = log[..] else { panic!("{log:?}") };
            assert!(at - begin <= 150 && silent >= MS * 100, "{log:?}");
        }
    }

    #[test]
    fn an_idle_path_is_found_down_within_two_seconds() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 5_000, false, |_| true);
        let log = changes(&run(&mut prober, 5_000, 3_000, false, |_| false));
        assert_eq!(log.len(), 1);
        assert!(log[0].0 <= 7_000, "{log:?}");
    }

    #[test]
    fn a_path_that_was_down_comes_up_after_three_answers_in_a_row_and_recovers_in_ten_seconds() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 3_000, false, |_| true);
        run(&mut prober, 3_000, 5_000, false, |_| false);
        assert_eq!(prober.state(), State::Down);
        let log = run(&mut prober, 8_000, 3_000, false, |_| true);
        let up = log.iter().position(|(_, action)| matches!(action, Action::CameUp { .. })).expect("up");
        let sent = log[..up].iter().filter(|(_, action)| matches!(action, Action::Send { .. })).count();
        assert!(sent >= 3, "{log:?}");
        assert!(log[up].0 <= 9_500, "{log:?}");
        assert_eq!(prober.state(), State::Recovering);
        let log = changes(&run(&mut prober, 11_000, 20_000, false, |_| true));
        let [(at, Action::Recovered)] = log[..] else { panic!("{log:?}") };
        assert!((18_000..=19_600).contains(&at), "{log:?}");
    }

    #[test]
    fn a_path_that_never_answers_is_down_too_and_is_not_held_when_it_does() {
        let mut prober = Prober::new(Instant(0));
        let log = changes(&run(&mut prober, 0, 10_000, false, |_| false));
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].0 <= 3_100 && prober.state() == State::Down, "{log:?}");
        run(&mut prober, 10_000, 2_000, false, |_| true);
        assert_eq!(prober.state(), State::Up);
    }

    #[test]
    fn a_path_is_spared_if_one_quick_probe_is_answered() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 5_000, true, |_| true);
        let sent = Cell::new(0);
        // Of what is sent from now on the first three are lost: one, and two of the three quick ones.
        let log = run(&mut prober, 5_000, 2_000, true, |_| {
            sent.set(sent.get() + 1);
            sent.get() > 3
        });
        assert_eq!(changes(&log), []);
    }

    #[test]
    fn a_prober_that_was_kept_from_looking_for_long_takes_no_path_down() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 5_000, true, |_| true);
        // It has asked, is stalled, and is called before the answer that came long ago is read.
        let asked = prober.sequence;
        let now = Instant(0) + MS * 5_400;
        while let Some(action) = prober.poll(now) {
            assert!(matches!(action, Action::Send { .. }), "{action:?}");
        }
        prober.answer(&reply(asked), Counts::default(), now);
        assert_eq!(changes(&run(&mut prober, 5_401, 1_000, true, |_| true)), []);
        // A cut is found all the same.
        let log = changes(&run(&mut prober, 6_401, 400, true, |_| false));
        assert!(matches!(log[..], [(_, Action::WentDown { .. })]), "{log:?}");
    }

    #[test]
    fn a_path_that_flaps_is_held_twice_as_long_each_time_and_at_most_ten_minutes() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 2_000, true, |_| true);
        let mut held = Vec::new();
        for n in 0..40 {
            for (ms, alive) in [(2_000, false), (2_000, true)] {
                let log =
                    run(&mut prober, 2_000 + n * 4_000 + if alive { 2_000 } else { 0 }, ms, true, |_| alive);
                held.extend(log.iter().filter_map(|(_, action)| match action {
                    Action::CameUp { held } => Some(held.as_secs()),
                    Action::Recovered => panic!("trusted while it flaps"),
                    _ => None,
                }));
            }
        }
        assert_eq!(held[..8], [10, 20, 40, 80, 160, 320, 600, 600]);
        // Once it has been quiet for long enough it begins anew.
        run(&mut prober, 162_000, 2_000_000, false, |_| true);
        assert_eq!(prober.state(), State::Up);
        run(&mut prober, 2_162_000, 3_000, true, |_| false);
        let log = run(&mut prober, 2_165_000, 3_000, true, |_| true);
        assert!(
            log.iter().any(|(_, action)| matches!(action, Action::CameUp { held } if held.as_secs() == 10))
        );
    }

    /// Every state, everything that can happen in it, and what becomes of it.
    #[test]
    fn the_transition_table() {
        let silence = 3_000;
        let make = |state| {
            let mut prober = Prober::new(Instant(0));
            match state {
                State::Unproven => {}
                State::Up => drop(run(&mut prober, 0, 2_000, false, |_| true)),
                State::Down | State::Recovering => {
                    run(&mut prober, 0, 2_000, false, |_| true);
                    run(&mut prober, 2_000, 3_000, false, |_| false);
                }
            }
            if state == State::Recovering {
                run(&mut prober, 5_000, 3_000, false, |_| true);
            }
            assert_eq!(prober.state(), state);
            prober
        };
        use State::*;
        for (state, answers, is_silent, loses_session) in [
            (Unproven, Up, Down, Unproven),
            (Up, Up, Down, Down),
            (Down, Recovering, Down, Down),
            (Recovering, Recovering, Down, Down),
        ] {
            for (alive, becomes) in [(true, answers), (false, is_silent)] {
                let mut prober = make(state);
                run(&mut prober, 10_000, silence, false, |_| alive);
                assert_eq!(prober.state(), becomes, "{state:?}, alive: {alive}");
            }
            let mut prober = make(state);
            prober.lost_session(Instant(0) + MS * 10_000);
            assert_eq!(prober.state(), loses_session, "{state:?} loses its session");
        }
        let mut prober = make(Recovering);
        run(&mut prober, 8_000, 12_000, false, |_| true);
        assert_eq!(prober.state(), Up, "held for long enough");
    }

    /// A day of a call over a path that loses one probe in 200, and of these one in a hundred with the two after it.
    #[test]
    fn chance_does_not_take_a_path_down_in_a_day() {
        let mut rng = StdRng::seed_from_u64(20);
        let mut prober = Prober::new(Instant(0));
        let (mut now, mut burst, mut lost) = (Instant(0), 0, 0);
        let mut answers: VecDeque<(Instant, u32)> = VecDeque::new();
        while now < Instant(0) + Duration::from_secs(86_400) {
            prober.traffic(now);
            while let Some((at, sequence)) = answers.pop_front_if(|(at, _)| *at <= now) {
                prober.answer(&reply(sequence), Counts::default(), at);
            }
            while let Some(action) = prober.poll(now) {
                match action {
                    Action::Send { .. } if burst > 0 => burst -= 1,
                    Action::Send { .. } if rng.random_bool(0.005) => {
                        lost += 1;
                        burst = if rng.random_bool(0.01) { 2 } else { 0 };
                    }
                    Action::Send { sequence, .. } => {
                        answers.push_back((
                            now + Duration::from_micros(rng.random_range(30_000..40_000)),
                            sequence,
                        ));
                        answers.make_contiguous().sort_unstable();
                    }
                    Action::CameUp { .. } => {}
                    other => panic!("{other:?} at {now:?}"),
                }
            }
            let due = answers.front().map_or(Instant(u64::MAX), |(at, _)| *at).min(prober.poll_timeout());
            now = due.max(now + MS);
        }
        assert!(lost > 5_000, "{lost}");
    }

    #[test]
    fn answers_nobody_waits_for_change_nothing() {
        let mut prober = Prober::new(Instant(0));
        assert_eq!(prober.answer(&reply(5), Counts::default(), Instant(0)), None);
        assert_eq!(prober.state(), State::Unproven);
    }

    /// Runs both ends of a path, of which the second is vouched for, for `ms`: how many probes each sends, and when the
    /// second finds it down. `carries` says of each direction whether it gets through.
    fn run_both(ends: &mut [Prober; 2], from: u64, ms: u64, carries: [bool; 2]) -> ([usize; 2], Option<u64>) {
        let (mut sent, mut down) = ([0; 2], None);
        for t in from..from + ms {
            let now = Instant(0) + MS * t as u32;
            for near in 0..2 {
                while let Some(action) = ends[near].poll(now) {
                    match action {
                        Action::Send { sequence, answered } => {
                            sent[near] += 1;
                            if carries[near] && near == 0 && answered {
                                ends[1].vouched(now);
                            }
                            if carries[near] && carries[1 - near] {
                                ends[near].answer(&reply(sequence), Counts::default(), now);
                            }
                        }
                        Action::WentDown { .. } if near == 1 => down = down.or(Some(t - from)),
                        _ => {}
                    }
                }
            }
        }
        (sent, down)
    }

    #[test]
    fn an_idle_path_is_asked_about_by_one_end_while_it_vouches_and_by_the_other_every_ten_seconds() {
        let mut ends = [Prober::new(Instant(0)), Prober::new(Instant(0))];
        run_both(&mut ends, 0, 5_000, [true; 2]);
        let (sent, down) = run_both(&mut ends, 5_000, 60_000, [true; 2]);
        assert!((59..=61).contains(&sent[0]) && (5..=7).contains(&sent[1]), "{sent:?}");
        assert_eq!(down, None);
        // Traffic makes both ask, at once.
        let now = Instant(0) + MS * 65_000;
        for end in &mut ends {
            end.traffic(now);
        }
        assert!(ends.iter().all(|end| end.poll_timeout() <= now + ACTIVE));
        let (sent, _) = run_both(&mut ends, 65_000, 1_000, [true; 2]);
        assert!(sent.iter().all(|sent| *sent >= 9), "{sent:?}");
    }

    #[test]
    fn a_vouched_for_path_is_found_down_within_two_seconds_whichever_direction_fails() {
        for carries in [[false, false], [true, false], [false, true]] {
            for phase in 0..10 {
                let mut ends = [Prober::new(Instant(0)), Prober::new(Instant(0))];
                let begin = 20_000 + 97 * phase;
                run_both(&mut ends, 0, begin, [true; 2]);
                let (_, down) = run_both(&mut ends, begin, 4_000, carries);
                assert!(down.is_some_and(|ms| ms <= 2_000), "{carries:?}, {phase}: {down:?}");
            }
        }
    }

    #[test]
    fn a_lost_session_is_down_at_once() {
        let mut prober = Prober::new(Instant(0));
        assert_eq!(prober.lost_session(Instant(0)), None);
        run(&mut prober, 0, 100, false, |_| true);
        let went = prober.lost_session(Instant(0) + MS * 100);
        assert_eq!(went, Some(Action::WentDown { silent: MS * 95 }));
        assert_eq!(prober.lost_session(Instant(0) + MS * 100), None);
    }
}
