//! The prober: asks the far end whether the path is alive, and decides that it is not.
//!
//! A probe every 100 ms while traffic runs, every second otherwise, every 100 ms again as soon as one is missed. Three
//! misses in a row: down, also for a path of which nothing was known. Down comes up again after three answers in a row; a
//! path that was never down is up with its first.
//!
//! An idle path is asked about by one of its ends: one that is asked, and told in the question that its answers arrive,
//! knows what an answer would tell it. It goes on asking only where it does not hear from the far end when it should.

use super::arrivals::Counts;
use super::clock::Stamps;
use super::quality::Quality;
use super::stamp::Reply;
use crate::model::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Between probes while traffic runs, or while in doubt.
const ACTIVE: Duration = Duration::from_millis(100);
/// Between probes otherwise.
const IDLE: Duration = Duration::from_secs(1);
/// How long a far end that vouches for the path may keep us waiting for its next probe: [`IDLE`], and a hiccup.
const VOUCHED: Duration = Duration::from_millis(1_200);
/// Round-trip time and loss that are shown of a path are no older than this: then it is asked about however much is vouched.
const ASK_ANYWAY: Duration = Duration::from_secs(10);
/// Traffic within this time counts as running.
const TRAFFIC: Duration = Duration::from_secs(2);
/// Misses in a row that take a path down; answers in a row that bring it back.
const IN_A_ROW: u32 = 3;
/// An answer is waited for no less than this: a scheduler's hiccup is not a loss;
const MIN_WAIT: Duration = Duration::from_millis(100);
/// and no more than this, also before anything is known of the path.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Probes under way at once: what [`MAX_WAIT`] allows, and one.
const MAX_UNDER_WAY: usize = 11;

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No answer has come yet, nor failed to come three times.
    Unproven,
    Up,
    Down,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a request with this sequence number, saying whether the far end's answers arrive.
    Send { sequence: u32, answered: bool },
    /// The path has just gone down.
    WentDown,
    /// The path has just come up.
    CameUp,
}

/// One path's prober.
#[derive(Clone, Debug)]
pub struct Prober {
    state: State,
    next: Instant,
    sequence: u32,
    under_way: VecDeque<(u32, Instant)>,
    missed: u32,
    answered: u32,
    last_traffic: Option<Instant>,
    last_answer: Option<Instant>,
    quality: Quality,
}

impl Prober {
    /// A prober whose first probe is due at once.
    pub fn new(now: Instant) -> Prober {
        Prober {
            state: State::Unproven,
            next: now,
            sequence: 0,
            under_way: VecDeque::new(),
            missed: 0,
            answered: 0,
            last_traffic: None,
            last_answer: None,
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

    /// Traffic of sessions runs over the path. True if that brings the next probe forward.
    pub fn traffic(&mut self, now: Instant) -> bool {
        self.last_traffic = Some(now);
        let sooner = self.state != State::Down && now + ACTIVE < self.next;
        if sooner {
            self.next = now + ACTIVE;
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
        if self.state == State::Up && self.missed == 0 && lately && !self.has_traffic(now) {
            self.next = self.next.max(now + VOUCHED);
        }
    }

    /// When [`Prober::poll`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        match self.under_way.front() {
            Some((_, sent)) => self.next.min(*sent + self.wait()),
            None => self.next,
        }
    }

    /// Does what is due: counts misses, and sends. Call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        while let Some((_, sent)) = self.under_way.front()
            && *sent + self.wait() <= now
        {
            self.under_way.pop_front();
            if self.miss(now) {
                return Some(Action::WentDown);
            }
        }
        if now < self.next {
            return None;
        }
        self.next = now + self.interval(now);
        self.sequence = self.sequence.wrapping_add(1);
        if self.under_way.len() >= MAX_UNDER_WAY {
            self.under_way.pop_front();
        }
        self.under_way.push_back((self.sequence, now));
        Some(Action::Send { sequence: self.sequence, answered: self.state == State::Up && self.missed == 0 })
    }

    /// An answer came; so much has arrived here of what the far end sent. One that nobody waits for any more, or never did,
    /// changes nothing.
    pub fn answer(&mut self, reply: &Reply, here: Counts, now: Instant) -> Option<Action> {
        let at = self.under_way.iter().position(|(sent, _)| *sent == reply.sequence)?;
        let (_, sent) = self.under_way.remove(at)?;
        // By the clock that nobody sets meanwhile.
        let took = u64::try_from(now.since(sent).as_nanos()).unwrap_or(u64::MAX);
        let stamps = Stamps { sent: reply.stamps.returned.wrapping_sub(took), ..reply.stamps };
        self.quality.answered(&stamps, [reply.arrivals, Some(here)], now);
        self.last_answer = Some(now);
        self.missed = 0;
        self.answered += 1;
        let up = match self.state {
            State::Unproven => true,
            State::Down => self.answered >= IN_A_ROW,
            State::Up => false,
        };
        if up {
            self.state = State::Up;
        }
        up.then_some(Action::CameUp)
    }

    /// The tunnel has no session: probes would only wait with the packets. What is under way is lost, and the path is
    /// down without further asking.
    pub fn lost_session(&mut self) -> Option<Action> {
        self.under_way.clear();
        self.answered = 0;
        let went = self.state == State::Up;
        if went {
            self.state = State::Down;
        }
        went.then_some(Action::WentDown)
    }

    fn miss(&mut self, now: Instant) -> bool {
        self.quality.missed();
        self.answered = 0;
        self.missed += 1;
        self.next = self.next.min(now + ACTIVE);
        let went = self.missed >= IN_A_ROW && self.state != State::Down;
        if went {
            self.state = State::Down;
        }
        went
    }

    fn interval(&self, now: Instant) -> Duration {
        // A path that stays down is asked at leisure; one that is coming back is not.
        let doubt = (1..=IN_A_ROW).contains(&self.missed) || self.state == State::Down && self.answered > 0;
        if self.has_traffic(now) && self.state != State::Down || doubt { ACTIVE } else { IDLE }
    }

    fn has_traffic(&self, now: Instant) -> bool {
        self.last_traffic.is_some_and(|last| now.since(last) < TRAFFIC)
    }

    /// How long an answer may take: RFC 6298's timeout within our bounds.
    fn wait(&self) -> Duration {
        match (self.quality.rtt(), self.quality.rtt_deviation()) {
            (Some(rtt), Some(deviation)) => (rtt + deviation * 4).clamp(MIN_WAIT, MAX_WAIT),
            _ => MAX_WAIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn probes_run_every_100_ms_with_traffic_and_every_second_without() {
        let mut prober = Prober::new(Instant(0));
        assert_eq!(run(&mut prober, 0, 10_000, false, |_| true).len(), 10 + 1);
        let busy = run(&mut prober, 10_000, 10_000, true, |_| true);
        assert!((98..=101).contains(&busy.len()), "{}", busy.len());
        assert_eq!(prober.state(), State::Up);
    }

    #[test]
    fn three_misses_take_a_busy_path_down_within_half_a_second() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 5_000, true, |_| true);
        let log = changes(&run(&mut prober, 5_000, 2_000, true, |_| false));
        assert_eq!(log.len(), 1);
        assert_eq!(log[0].1, Action::WentDown);
        assert!(log[0].0 <= 5_500, "{log:?}");
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
    fn a_path_that_was_down_comes_up_after_three_answers_in_a_row() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 3_000, false, |_| true);
        run(&mut prober, 3_000, 5_000, false, |_| false);
        assert_eq!(prober.state(), State::Down);
        let log = run(&mut prober, 8_000, 3_000, false, |_| true);
        let up = log.iter().position(|(_, action)| *action == Action::CameUp).expect("up");
        let sent = log[..up].iter().filter(|(_, action)| matches!(action, Action::Send { .. })).count();
        assert!(sent >= 3, "{log:?}");
        assert!(log[up].0 <= 9_500, "{log:?}");
    }

    #[test]
    fn a_path_that_never_answers_is_down_too() {
        let mut prober = Prober::new(Instant(0));
        let log = changes(&run(&mut prober, 0, 10_000, false, |_| false));
        assert_eq!(log.iter().map(|(_, action)| *action).collect::<Vec<_>>(), [Action::WentDown]);
        assert!(log[0].0 <= 3_100, "{log:?}");
    }

    #[test]
    fn two_misses_are_forgiven() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 5_000, true, |_| true);
        let log = changes(&run(&mut prober, 5_000, 2_000, true, |t| t >= 5_190));
        assert_eq!(log, []);
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
                        Action::WentDown if near == 1 => down = down.or(Some(t - from)),
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
        assert_eq!(prober.lost_session(), None);
        run(&mut prober, 0, 100, false, |_| true);
        assert_eq!(prober.lost_session(), Some(Action::WentDown));
        assert_eq!(prober.lost_session(), None);
    }
}
