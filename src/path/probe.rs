//! The prober: asks the far end whether the path is alive, and decides that it is not.
//!
//! A probe every 20 ms while packets follow each other that are protected against a cut, every 50 ms while others do, every
//! 100 ms while there is traffic, every second otherwise; and each says when the next one will come. So there are two signs
//! that something is wrong: an answer is overdue, or the far end has been silent for one and a half of what it promised. Either
//! makes the path suspect, and so does a far end that says it hears nothing, by this path or by another. Three quick probes
//! follow, and if nothing at all has been answered when their answers are overdue as well, it is down. What is lost together
//! within that time is lost where the path is cut, and hardly by chance. A path of which nothing was known goes down likewise.
//!
//! Every ten seconds one is as large as the path should carry: where three such are lost and small ones are not, the path is
//! narrow, and used only where nothing better is.
//!
//! Down comes up again after three answers in a row, but is *recovering* for a while, and used only where nothing better is:
//! 10 seconds, and twice as long each time it goes down again soon. A path that was never down is up with its first answer.
//!
//! Where classes' packets carry DSCPs, best effort is what the prober asks by: it is the path as a whole that it finds dead or
//! alive, and how good that is for the others, [`super::Stream`]s tell.
//!
//! An idle path is asked about by one of its ends: one that is asked, and told in the question that its answers arrive,
//! knows what an answer would tell it. It goes on asking only where it does not hear from the far end when it should.
//!
//! Where there is no popgate to ask, echo requests are the probes: more seldom, for who answers does it as a favour; and what has
//! not answered is not dead so soon, for nobody else is there to say whether it is only slow.

use super::arrivals::Counts;
use super::clock::Stamps;
use super::judge::{Doubt, Seen};
use super::pace::Stretch;
use super::quality::Quality;
use super::stamp::{Asks, News, Reply};
use crate::model::{Instant, Now};
use std::collections::VecDeque;
use std::time::Duration;

/// Between probes while packets follow each other within [`CLOSE`]: a call, or a transfer.
const BUSY: Duration = Duration::from_millis(50);
const CLOSE: Duration = Duration::from_millis(100);
/// Then, while they are protected against a cut, or somebody judges whether the path is good enough.
pub(super) const CLOSELY: Duration = Duration::from_millis(20);
/// A probe is sent so soon after the other, sooner than promised, where there is such doubt and the box has time for it: a
/// call's packets alone would take too long to tell; and so soon where there is much: 40 KB of them until it is known.
const DOUBTFUL: Duration = Duration::from_millis(5);
const VERY_DOUBTFUL: Duration = Duration::from_micros(1_250);
/// Between probes while there is traffic, or while coming back.
pub(super) const ACTIVE: Duration = Duration::from_millis(100);
/// Between probes otherwise.
pub(super) const IDLE: Duration = Duration::from_secs(1);
/// How much longer than it promised a far end that vouches for the path may keep us waiting for its next probe.
const HICCUP: Duration = Duration::from_millis(200);
/// Round-trip time and loss that are shown of a path are no older than this: then it is asked about however much is vouched.
const ASK_ANYWAY: Duration = Duration::from_secs(10);
/// Traffic within this time counts as running.
const TRAFFIC: Duration = Duration::from_secs(2);
/// Between probes of full size; the next follows at once where one was not answered within [`MAX_WAIT`].
const FULL_SIZE: Duration = Duration::from_secs(10);
/// So many of these in a row, unanswered, make the path narrow.
const NARROW: u32 = 3;
/// Answers in a row that bring a path back.
const IN_A_ROW: u32 = 3;
/// A suspect path is asked so often, so far apart that a burst of loss does not take them all.
const QUICK: u32 = 3;
const QUICKLY: Duration = Duration::from_millis(10);
/// An answer is waited for no less than this before the path is suspect: a scheduler's hiccup is not a loss;
pub(super) const MIN_WAIT: Duration = Duration::from_millis(50);
/// where one has to know soon, than this;
const MIN_WAIT_CLOSELY: Duration = Duration::from_millis(30);
/// where nobody is in a hurry, than this;
const IDLE_WAIT: Duration = Duration::from_millis(150);
/// after the last quick one, than this;
const CONFIRM: Duration = Duration::from_millis(30);
/// or, of an echo request, than this: it must be more than a line is slower by on a bad day;
const CONFIRM_ECHO: Duration = Duration::from_millis(300);
/// or, counted from the first doubt, than this, where a probe that carries another DSCP gets through: best effort may only wait longer;
const CONFIRM_BESIDE: Duration = Duration::from_millis(300);
/// and no more than this, also before anything is known of the path.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(1);
/// Both ends' timers are as exact as this: a promise is kept so much later, and is not broken before.
const SLACK: Duration = Duration::from_millis(5);
/// Who is called so much later than it asked for has been kept from looking, and answers may be waiting behind it.
const STALL: Duration = Duration::from_millis(20);
/// Probes under way at once: what [`MAX_WAIT`] allows, and some.
pub(super) const MAX_UNDER_WAY: usize = 1_024;
/// One that was given up is not heard of any more after so long.
pub(super) const FORGET: Duration = Duration::from_secs(2);
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
    /// Send a request with this sequence number, which says this.
    Send {
        sequence: u32,
        asks: Asks,
    },
    /// Send a request with this sequence number that is as large as a packet may be.
    SendFullSize {
        sequence: u32,
        asks: Asks,
    },
    /// Packets that are as large as they may be do not get through any more; or they do again.
    Narrow,
    Wide,
    /// Something is wrong; the far end should hear of it, if there is another way to it.
    Suspected,
    /// The path has just gone down, after so long without an answer.
    WentDown {
        silent: Duration,
    },
    /// It has just gone down, as the far end has found out.
    ToldDown,
    /// It has just gone down, for nothing can be sent by it.
    CannotSend,
    /// Likewise, as its link is down.
    LinkDown,
    /// The path has just come up, and is held so long.
    CameUp {
        held: Duration,
    },
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
    /// The newest of those that have been answered.
    newest_answered: u32,
    suspicion: Option<Suspicion>,
    full_size: FullSize,
    answered: u32,
    activity: Activity,
    /// When one that is protected was last on the path.
    last_protected: Option<Instant>,
    /// When anything last came.
    last_heard: Option<Instant>,
    /// Within which time of that the far end sends again, as it says.
    promised: Option<Duration>,
    /// What the last request has promised.
    interval: Duration,
    last_answer: Option<Instant>,
    is_judged: bool,
    doubt: Doubt,
    /// What this box stretches intervals by, and what the far end has asked for.
    stretch: [Stretch; 2],
    /// What the last answer has measured, as quality was given it.
    measured: Option<(Stamps, [Option<Counts>; 2])>,
    hold: Duration,
    /// Until when the path is held, or was.
    held_until: Instant,
    quality: Quality,
    /// What became of its probes, where they are echo requests: nobody at the far end counts.
    echoes: Option<Echoes>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Echoes {
    counts: Counts,
    /// How many are lost without one between.
    run: u32,
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

/// What is known of packets that are as large as they may be.
#[derive(Clone, Copy, Debug)]
struct FullSize {
    next: Instant,
    under_way: Option<(u32, Instant)>,
    /// In a row.
    unanswered: u32,
    is_narrow: bool,
}

/// Packets that follow each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    last: Option<Instant>,
    /// When one last followed another closely.
    last_close: Option<Instant>,
}

/// An answer is overdue.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    /// Quick probes still to be sent.
    quick: u32,
    since: Instant,
    /// When there has been no answer for too long.
    decided: Instant,
    /// A probe that was sent meanwhile and carries another DSCP has been answered.
    vouched_beside: bool,
    /// Whoever works the path is still to hear of it.
    is_news: bool,
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
            full_size: FullSize { next: now, under_way: None, unanswered: 0, is_narrow: false },
            answered: 0,
            activity: Activity::default(),
            last_protected: None,
            last_heard: None,
            promised: None,
            interval: IDLE,
            last_answer: None,
            is_judged: false,
            doubt: Doubt::None,
            newest_answered: 0,
            stretch: Default::default(),
            measured: None,
            hold: Duration::ZERO,
            held_until: now,
            quality: Quality::default(),
            echoes: None,
        }
    }

    /// One whose probes are echo requests, to be answered by [`Prober::echoed`].
    pub fn by_echo(now: Instant) -> Prober {
        let full_size = FullSize { next: Instant(u64::MAX), ..Prober::new(now).full_size };
        Prober { echoes: Some(Echoes::default()), full_size, ..Prober::new(now) }
    }

    /// What is known of the path.
    pub fn state(&self) -> State {
        self.state
    }

    /// What its probes say.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// From now on what its answers count is other packets.
    pub fn counts_others(&mut self) {
        self.quality.counts_others();
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

    /// This was found another time.
    pub fn recall_change(&mut self, change: Action) {
        match change {
            Action::CameUp { held } if held.is_zero() => self.state = State::Up,
            Action::CameUp { .. } => self.state = State::Recovering,
            Action::Recovered => self.state = State::Up,
            Action::WentDown { .. } | Action::ToldDown | Action::CannotSend | Action::LinkDown => {
                self.state = State::Down;
            }
            Action::Narrow => self.full_size.is_narrow = true,
            Action::Wide => self.full_size.is_narrow = false,
            Action::Send { .. } | Action::SendFullSize { .. } | Action::Suspected => {}
        }
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

    /// By how much this box stretches intervals from now on.
    pub fn pace(&mut self, stretch: Stretch) {
        self.stretch[0] = stretch;
    }

    /// Whether packets get through it, for all that is known.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up | State::Recovering)
    }

    /// When one of its probes was last answered.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    /// By how much intervals are stretched, whoever asks for it.
    pub(super) fn stretch(&self) -> Stretch {
        let [ours, theirs] = self.stretch;
        ours.max(theirs)
    }

    /// A probe beside its own, which was sent then, has been answered: something gets through.
    pub(super) fn answered_beside(&mut self, sent: Instant) {
        if let Some(suspicion) = self.suspicion.as_mut().filter(|suspicion| sent >= suspicion.since) {
            suspicion.vouched_beside = true;
        }
    }

    /// Another probe's number: streams beside it share its numbers, so that no answer is taken for another's.
    pub(super) fn take_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// What a probe says that is sent beside its own: nothing new.
    pub fn asks(&self, now: Instant) -> Asks {
        let answered = self.is_up() && self.suspicion.is_none();
        Asks { answered, within: Some(self.interval), deaf: self.is_deaf(now), stream: None }
    }

    /// Whether something is wrong with it, and it is not known yet what.
    pub fn is_suspect(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Whether packets that are as large as they may be do not get through it.
    pub fn is_narrow(&self) -> bool {
        self.full_size.is_narrow
    }

    /// Traffic of sessions runs over the path, such as is protected against a cut, or other. True if that brings the next
    /// probe forward.
    pub fn traffic(&mut self, is_protected: bool, now: Instant) -> bool {
        self.activity.packet(now);
        if is_protected {
            self.last_protected = Some(now);
        }
        let by = now + self.interval(now);
        let sooner = self.state != State::Down && by < self.next;
        if sooner {
            self.next = by;
        }
        sooner
    }

    /// Something has come that the far end has sent.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = Some(now);
    }

    /// The far end has asked, and said this. [`Prober::poll_timeout`] may be sooner.
    pub fn asked(&mut self, asks: &Asks, now: Instant) {
        self.promised = asks.within;
        if asks.deaf && self.is_up() {
            self.suspect(false, now);
        }
    }

    /// The far end has sent news of this path by another one. [`Prober::poll_timeout`] may be sooner.
    pub fn told(&mut self, news: News, now: Instant) -> Option<Action> {
        match news {
            _ if !self.is_up() => None,
            News::Suspect => {
                self.suspect(false, now);
                None
            }
            News::Down => {
                self.suspicion = None;
                self.go_down(now);
                Some(Action::ToldDown)
            }
        }
    }

    /// Nothing can be sent: the transport is down, or knows no way. It is down without further asking.
    pub fn cannot_send(&mut self, now: Instant) -> Option<Action> {
        self.suspicion = None;
        self.is_up().then(|| {
            self.go_down(now);
            Action::CannotSend
        })
    }

    /// There is reason to ask at once: a new session, or a far end that has just shown itself.
    pub fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// The far end has asked, and said that our answers arrive: packets get through either way, as our own next probe
    /// would find. It need not be sent, unless there is traffic, doubt, or it has been long.
    pub fn vouched(&mut self, now: Instant) {
        let lately = self.last_answer.is_some_and(|last| now.since(last) < ASK_ANYWAY);
        // What has been promised is kept.
        let is_idle = self.interval >= IDLE && !self.activity.is_running(now);
        if self.is_up() && self.suspicion.is_none() && lately && is_idle {
            let promised = self.promised.unwrap_or(IDLE).clamp(IDLE, ASK_ANYWAY);
            self.next = self.next.max(now + promised + HICCUP);
        }
    }

    /// When [`Prober::poll`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        [Some(self.judged_by()), self.full_size_due()].into_iter().flatten().min().unwrap_or(self.next)
    }

    /// When it has something to do that it judges the path by, or whoever waits for it does.
    fn judged_by(&self) -> Instant {
        let overdue = self.awaited().map(|sent| sent.awaited_from + self.wait());
        let decided = self.suspicion.map(|suspicion| suspicion.decided);
        let recovered = (self.state == State::Recovering).then_some(self.held_until);
        let silent = self.silent_from().filter(|_| self.suspicion.is_none());
        [overdue, decided, recovered, silent].into_iter().flatten().fold(self.next, Instant::min)
    }

    /// Does what is due: suspects, decides, and sends. Call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        self.forgive_stall(now);
        while let Some(at) = self.overdue(now) {
            self.under_way[at].given_up = true;
            self.quality.missed();
            self.answered = 0;
            // Where one that was sent later has been answered, nobody is silent.
            if self.under_way[at].sequence.wrapping_sub(self.newest_answered).cast_signed() > 0 {
                self.suspect(true, now);
            }
        }
        let deaf = self.is_deaf(now);
        if deaf {
            self.suspect(true, now);
        }
        if let Some(suspicion) = &mut self.suspicion
            && std::mem::take(&mut suspicion.is_news)
        {
            return Some(Action::Suspected);
        }
        if let Some(suspicion) = &mut self.suspicion
            && suspicion.vouched_beside
        {
            suspicion.decided = suspicion.decided.max(suspicion.since + CONFIRM_BESIDE);
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
        if self.full_size_due().is_some_and(|due| due <= now) {
            return Some(self.work_full_size(now));
        }
        if now < self.next {
            return None;
        }
        self.interval = self.interval(now);
        self.next = match self.doubt {
            // Hosts on the internet are not asked as often as a far end of ours.
            Doubt::Some | Doubt::Much if self.echoes.is_some() && self.interval == ACTIVE => now + CLOSELY,
            _ if self.echoes.is_some() => now + self.interval,
            doubt => next_after(doubt, self.interval, self.next, now),
        };
        if let Some(suspicion) = &mut self.suspicion
            && suspicion.quick > 0
        {
            suspicion.quick -= 1;
            if suspicion.quick > 0 {
                self.next = now + QUICKLY;
            }
            self.decide_after(now);
        }
        let sequence = self.take_sequence();
        let is_past = |sent: &mut Sent| sent.given_up && now.since(sent.at) > FORGET;
        if self.under_way.len() >= MAX_UNDER_WAY || self.under_way.front_mut().is_some_and(is_past) {
            self.under_way.pop_front();
        }
        self.under_way.push_back(Sent { sequence, at: now, awaited_from: now, given_up: false });
        Some(Action::Send { sequence, asks: Asks { deaf, ..self.asks(now) } })
    }

    /// An answer came; so much has arrived here of what the far end sent. One that nobody waits for any more, or never did,
    /// changes nothing.
    pub fn answer(&mut self, reply: &Reply, here: Counts, now: Instant) -> Option<Action> {
        if self.full_size.under_way.is_some_and(|(sequence, _)| sequence == reply.sequence) {
            // It says nothing of how long others take.
            self.full_size.under_way = None;
            self.full_size.unanswered = 0;
            return std::mem::take(&mut self.full_size.is_narrow).then_some(Action::Wide);
        }
        let at = self.under_way.iter().position(|sent| sent.sequence == reply.sequence)?;
        let sent = self.under_way.remove(at)?;
        self.newest_answered = if self.newest_answered.wrapping_sub(sent.sequence).cast_signed() > 0 {
            self.newest_answered
        } else {
            sent.sequence
        };
        // By the clock that nobody sets meanwhile.
        let took = u64::try_from(now.since(sent.at).as_nanos()).unwrap_or(u64::MAX);
        let stamps = Stamps { sent: reply.stamps.returned.wrapping_sub(took), ..reply.stamps };
        let counts = [reply.arrivals, Some(here)];
        self.quality.answered(&stamps, counts, now);
        self.measured = Some((stamps, counts));
        self.stretch[1] = reply.stretch;
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

    /// The echo request of this sequence number came back: half of what it took counts for either direction, and so does what
    /// was sent before it, is overdue, and was thus lost.
    pub fn echoed(&mut self, sequence: u32, now: Now) -> Option<Action> {
        let sent = self.under_way.iter().find(|sent| sent.sequence == sequence)?;
        let took = u64::try_from(now.instant.since(sent.at).as_nanos()).unwrap_or(u64::MAX);
        let echoes = self.echoes.as_mut()?;
        let at = sent.at;
        let is_lost = |sent: &Sent| sent.given_up && sent.sequence != sequence && sent.at <= at;
        self.under_way.iter().filter(|sent| is_lost(sent)).for_each(|_| echoes.lost());
        self.under_way.retain(|sent| !is_lost(sent));
        echoes.came();
        let counts = echoes.counts;
        let returned = now.unix_nanos;
        let there = returned.wrapping_sub(took / 2);
        let stamps =
            Stamps { sent: returned.wrapping_sub(took), received: there, reflected: there, returned };
        let stretch = Stretch::default();
        let reply = Reply { sequence, stamps, arrivals: Some(counts), of_stream: None, stretch };
        self.answer(&reply, counts, now.instant)
    }

    /// The tunnel has no session: probes would only wait with the packets. What is under way is lost, and the path is
    /// down without further asking.
    pub fn lost_session(&mut self, now: Instant) -> Option<Action> {
        self.under_way.clear();
        self.suspicion = None;
        self.answered = 0;
        self.is_up().then(|| self.go_down(now))
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
        self.promised = None;
        (self.full_size.under_way, self.full_size.unanswered) = (None, 0);
        Action::WentDown { silent: self.last_answer.map_or(Duration::ZERO, |last| now.since(last)) }
    }

    /// Whoever could not look judges nobody: what is waited for is waited for that much longer.
    fn forgive_stall(&mut self, now: Instant) {
        let stalled = now.since(self.judged_by());
        if stalled <= STALL {
            return;
        }
        self.under_way.iter_mut().for_each(|sent| sent.awaited_from += stalled);
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.decided += stalled;
        }
        if let Some(last) = &mut self.last_heard {
            *last += stalled;
        }
    }

    fn suspect(&mut self, is_news: bool, now: Instant) {
        if self.suspicion.is_none() && self.state != State::Down {
            let (since, decided, vouched_beside) = (now, now, false);
            self.suspicion = Some(Suspicion { quick: QUICK, since, decided, vouched_beside, is_news });
            self.next = now;
        }
    }

    /// From when on the far end has been silent for longer than it promised, where it promised anything soon.
    fn silent_from(&self) -> Option<Instant> {
        let promised = self.promised.filter(|promised| *promised <= ACTIVE && self.is_up())?;
        let varies = self.quality.rtt_deviation()? * 4;
        Some(self.last_heard? + promised * 3 / 2 + varies.max(SLACK))
    }

    fn is_deaf(&self, now: Instant) -> bool {
        self.silent_from().is_some_and(|from| from <= now)
    }

    /// The last quick probe has been sent: its answer, and those of the others, are waited for.
    fn decide_after(&mut self, now: Instant) {
        let least = if self.echoes.is_none() { CONFIRM } else { CONFIRM_ECHO };
        let wait = self.estimate().map_or(MAX_WAIT, |estimate| estimate.clamp(least, MAX_WAIT));
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.decided = now + wait;
        }
    }

    /// When there is something to do for packets of full size: only while small ones are answered.
    fn full_size_due(&self) -> Option<Instant> {
        let at = match self.full_size.under_way {
            Some((_, sent)) => sent + MAX_WAIT,
            None => self.full_size.next,
        };
        (self.is_up() && self.suspicion.is_none()).then_some(at)
    }

    fn work_full_size(&mut self, now: Instant) -> Action {
        let full_size = &mut self.full_size;
        if full_size.under_way.take().is_some() {
            full_size.unanswered += 1;
            full_size.next = now;
            if full_size.unanswered >= NARROW && !full_size.is_narrow {
                full_size.is_narrow = true;
                return Action::Narrow;
            }
        }
        full_size.next = now + FULL_SIZE;
        let sequence = self.take_sequence();
        self.full_size.under_way = Some((sequence, now));
        // The next small one keeps what was promised.
        Action::SendFullSize { sequence, asks: Asks { answered: true, ..self.asks(now) } }
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
        let stretch = self.stretch();
        let wanted = match self.state {
            // A path that stays down is asked at leisure; one that is coming back is not.
            State::Down if self.answered == 0 => IDLE,
            State::Down => ACTIVE,
            _ if self.activity.is_close(now) && self.echoes.is_none() => {
                if self.is_judged || within(self.last_protected, CLOSE) { CLOSELY } else { BUSY }
            }
            _ if self.activity.is_running(now) => ACTIVE,
            _ => IDLE,
        };
        let at_most = stretch.of_idle(IDLE);
        if wanted == IDLE { at_most } else { stretch.of_active(wanted).min(at_most) }
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
        let is_idle = match (self.activity.last, self.under_way.back()) {
            (Some(traffic), Some(newest)) => newest.at.since(traffic) >= TRAFFIC,
            (None, _) => true,
            (Some(_), None) => false,
        };
        let least = match self.interval {
            _ if is_idle => IDLE_WAIT,
            CLOSELY => MIN_WAIT_CLOSELY,
            _ => MIN_WAIT,
        };
        let half = (self.interval / 2).min(BUSY / 2);
        (rtt + half.max(deviation * 4)).clamp(least, MAX_WAIT)
    }
}

/// When the next probe is due after one that was due then, where there is such doubt.
pub(super) fn next_after(doubt: Doubt, interval: Duration, due: Instant, now: Instant) -> Instant {
    match doubt {
        Doubt::Some if interval == CLOSELY => now + DOUBTFUL,
        // Several at a time: timers are not as exact.
        Doubt::Much if interval == CLOSELY => due + now.since(due).saturating_sub(DOUBTFUL) + VERY_DOUBTFUL,
        _ => now + interval,
    }
}

impl Activity {
    /// One more.
    pub(super) fn packet(&mut self, now: Instant) {
        if self.last.replace(now).is_some_and(|last| now.since(last) <= CLOSE) {
            self.last_close = Some(now);
        }
    }

    /// Whether they follow each other closely.
    pub(super) fn is_close(&self, now: Instant) -> bool {
        self.last_close.is_some_and(|last| now.since(last) < CLOSE)
    }

    /// Whether there are any.
    pub(super) fn is_running(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.since(last) < TRAFFIC)
    }
}

impl Echoes {
    fn came(&mut self) {
        self.counts.received = self.counts.received.wrapping_add(1);
        self.run = 0;
    }

    fn lost(&mut self) {
        self.counts.lose(1, &mut self.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::quality::{LONG, Way};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::cell::Cell;

    const MS: Duration = Duration::from_millis(1);

    fn reply(sequence: u32) -> Reply {
        let stamps = Stamps { sent: 0, received: 0, reflected: 0, returned: 0 };
        Reply { sequence, stamps, arrivals: None, of_stream: None, stretch: Stretch::default() }
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
                prober.traffic(false, now);
            }
            while let Some((due, sequence)) = answers.front().copied()
                && due <= t
            {
                answers.pop_front();
                log.extend(prober.answer(&reply(sequence), Counts::default(), now).map(|action| (t, action)));
            }
            while let Some(action) = prober.poll(now) {
                if let Action::Send { sequence, .. } | Action::SendFullSize { sequence, .. } = action
                    && alive(t)
                {
                    answers.push_back((t + 5, sequence));
                }
                if !matches!(action, Action::SendFullSize { .. }) {
                    log.push((t, action));
                }
            }
        }
        log
    }

    fn changes(log: &[(u64, Action)]) -> Vec<(u64, Action)> {
        let is_change = |action: &Action| !matches!(action, Action::Send { .. } | Action::Suspected);
        log.iter().copied().filter(|(_, action)| is_change(action)).collect()
    }

    #[test]
    fn probes_run_every_50_ms_in_a_call_and_every_second_without_traffic() {
        let mut prober = Prober::new(Instant(0));
        assert_eq!(run(&mut prober, 0, 10_000, false, |_| true).len(), 10 + 1);
        let busy = run(&mut prober, 10_000, 10_000, true, |_| true);
        assert!((198..=201).contains(&busy.len()), "{}", busy.len());
        assert_eq!(prober.state(), State::Up);
    }

    /// How long after its probes are no longer answered a busy path is found down, where one that carries another DSCP is
    /// answered so long after, having been sent at that time.
    fn found_down(beside: Option<(u64, u64)>) -> u64 {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 3_000, true, |_| true);
        for t in 3_000..4_000 {
            if let Some((sent, answered)) = beside
                && t == 3_000 + answered
            {
                prober.answered_beside(Instant(0) + MS * (3_000 + sent) as u32);
            }
            let log = run(&mut prober, t, 1, true, |_| false);
            if log.iter().any(|(_, action)| matches!(action, Action::WentDown { .. })) {
                return t - 3_000;
            }
        }
        panic!("not found")
    }

    #[test]
    fn a_path_on_which_another_dscp_is_answered_is_given_a_little_longer_and_no_more() {
        let alone = found_down(None);
        assert!(alone <= 180, "{alone}");
        // It was sent while the path was suspect, and answered before it was decided; or it is an answer from before.
        let beside = found_down(Some((alone - 25, alone - 5)));
        assert!((300..=400).contains(&beside), "{beside}");
        assert_eq!(found_down(Some((10, alone - 5))), alone);
    }

    #[test]
    fn probes_run_every_20_ms_beside_packets_that_are_protected() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 2_000, false, |_| true);
        let mut sent = 0;
        for t in 2_000..12_000 {
            let now = Instant(0) + MS * t;
            if t % 20 == 0 {
                prober.traffic(true, now);
            }
            while let Some(action) = prober.poll(now) {
                if let Action::Send { sequence, asks } = action {
                    assert!(t < 2_200 || asks.within == Some(CLOSELY), "{asks:?}");
                    prober.answer(&reply(sequence), Counts::default(), now);
                    sent += 1;
                }
            }
        }
        assert!((495..=502).contains(&sent), "{sent}");
    }

    #[test]
    fn probes_are_many_while_there_is_doubt_and_very_many_while_there_is_much() {
        for (doubt, each_second) in [(Doubt::None, 50), (Doubt::Some, 200), (Doubt::Much, 800)] {
            let mut prober = Prober::new(Instant(0));
            prober.is_judged(true);
            prober.doubt(doubt);
            run(&mut prober, 0, 2_000, true, |_| true);
            // It is called when the worker's wheel turns.
            let mut sent = 0;
            for t in (2_000..4_000).step_by(5) {
                let now = Instant(0) + MS * t;
                prober.traffic(false, now);
                while let Some(action) = prober.poll(now) {
                    if let Action::Send { sequence, asks } = action {
                        assert_eq!(asks.within, Some(CLOSELY), "no more is promised");
                        prober.answer(&reply(sequence), Counts::default(), now);
                        sent += 1;
                    }
                }
            }
            assert!((2 * each_second - 5..=2 * each_second + 5).contains(&sent), "{doubt:?}: {sent}");
            // Nobody judges it any more.
            prober.is_judged(false);
            let sent = run(&mut prober, 4_000, 2_000, true, |_| true).len();
            assert!((38..=42).contains(&sent), "{doubt:?}: {sent}");
        }
    }

    #[test]
    fn one_lost_probe_of_many_makes_no_path_suspect_for_the_next_was_answered() {
        let mut prober = Prober::new(Instant(0));
        prober.is_judged(true);
        run(&mut prober, 0, 2_000, true, |_| true);
        prober.doubt(Doubt::Some);
        let log = run(&mut prober, 2_000, 4_000, true, |t| t % 100 > 5);
        assert!(prober.quality().loss().is_some_and(|loss| loss > 0.03), "{:?}", prober.quality().loss());
        assert!(log.iter().all(|(_, action)| matches!(action, Action::Send { .. })), "{log:?}");
        let log = run(&mut prober, 6_000, 200, true, |_| false);
        assert!(matches!(changes(&log)[..], [(..=6_150, Action::WentDown { .. })]), "a cut is one: {log:?}");
    }

    /// A prober that is up, and has been promised a packet every 20 ms, the last of which came at 2,000 ms.
    fn promised() -> Prober {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 2_000, true, |_| true);
        prober.heard(Instant(0) + MS * 2_000);
        let asks = Asks { within: Some(CLOSELY), ..Asks::default() };
        prober.asked(&asks, Instant(0) + MS * 2_000);
        prober
    }

    #[test]
    fn a_far_end_that_is_silent_for_one_and_a_half_of_what_it_promised_makes_the_path_suspect() {
        let mut prober = promised();
        let log = run(&mut prober, 2_000, 100, true, |_| true);
        let suspected = log.iter().find(|(_, action)| *action == Action::Suspected);
        let at = suspected.expect("suspected").0;
        assert!((2_030..=2_040).contains(&at), "{log:?}");
        let is_deaf = |action: &Action| matches!(action, Action::Send { asks, .. } if asks.deaf);
        let said = log.iter().find(|(_, action)| is_deaf(action));
        assert_eq!(said.expect("said so").0, at, "the far end is told at once");
    }

    #[test]
    fn a_far_end_that_keeps_its_promise_is_not_suspected_and_one_that_promised_nothing_soon_is_not_either() {
        let mut prober = promised();
        for t in (2_000..10_000).step_by(20) {
            prober.heard(Instant(0) + MS * t);
            let log = run(&mut prober, t.into(), 20, true, |_| true);
            assert!(log.iter().all(|(_, action)| matches!(action, Action::Send { .. })), "{log:?}");
        }
        prober.asked(&Asks { within: Some(IDLE), ..Asks::default() }, Instant(0) + MS * 10_000);
        let log = run(&mut prober, 10_000, 5_000, true, |_| true);
        assert!(log.iter().all(|(_, action)| matches!(action, Action::Send { .. })), "{log:?}");
    }

    #[test]
    fn a_far_end_that_hears_nothing_makes_the_path_suspect_by_saying_so_on_it_or_on_another() {
        let now = Instant(0) + MS * 2_000;
        for by_another in [false, true] {
            let mut prober = promised();
            if by_another {
                assert_eq!(prober.told(News::Suspect, now), None);
            } else {
                prober.asked(&Asks { deaf: true, ..Asks::default() }, now);
            }
            assert!(prober.is_suspect());
            let log = run(&mut prober, 2_000, 30, true, |_| true);
            let [(2_000, Action::Send { .. }), ..] = log[..] else { panic!("it asks at once: {log:?}") };
            assert!(
                !log.iter().any(|(_, action)| *action == Action::Suspected),
                "nobody need be told: {log:?}"
            );
            assert!(!prober.is_suspect(), "it was answered");
        }
    }

    #[test]
    fn a_path_that_small_probes_alone_get_through_is_narrow_until_a_large_one_does() {
        let mut prober = Prober::new(Instant(0));
        let mut log = Vec::new();
        for t in 0..100_000 {
            let now = Instant(0) + MS * t;
            while let Some(action) = prober.poll(now) {
                match action {
                    Action::SendFullSize { sequence, .. } if !(20_000..60_000).contains(&t) => {
                        log.extend(
                            prober.answer(&reply(sequence), Counts::default(), now).map(|action| (t, action)),
                        );
                    }
                    Action::Send { sequence, .. } => {
                        let _ = prober.answer(&reply(sequence), Counts::default(), now);
                    }
                    Action::SendFullSize { .. } => {}
                    other => log.push((t, other)),
                }
            }
        }
        let [(narrow, Action::Narrow), (wide, Action::Wide)] = log[..] else { panic!("{log:?}") };
        assert!(narrow <= 20_000 + 10_000 + 3_000 && wide <= 60_000 + 1_000, "{log:?}");
        assert_eq!((prober.state(), prober.is_narrow()), (State::Up, false));
        assert_eq!(prober.quality().loss(), Some(0.0), "no loss of what is sent");
    }

    #[test]
    fn what_is_promised_is_kept() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut prober = Prober::new(Instant(0));
            let mut until: Option<Instant> = None;
            for t in 0..20_000 {
                let now = Instant(0) + MS * t;
                match rng.random_range(0..200) {
                    0..20 if t % 5_000 < 2_000 => drop(prober.traffic(rng.random(), now)),
                    20..25 => prober.vouched(now),
                    _ => {}
                }
                while let Some(action) = prober.poll(now) {
                    let Action::Send { sequence, asks } = action else { continue };
                    prober.answer(&reply(sequence), Counts::default(), now);
                    // A second is no promise that anybody goes by.
                    until = asks.within.filter(|within| *within <= ACTIVE).map(|within| now + within);
                }
                assert!(until.is_none_or(|until| now <= until), "seed {seed}, {t} ms");
            }
        }
    }

    #[test]
    fn probes_run_every_100_ms_with_traffic_now_and_then() {
        let mut prober = Prober::new(Instant(0));
        run(&mut prober, 0, 2_000, false, |_| true);
        let sent: usize = (0..10)
            .map(|n| {
                prober.traffic(false, Instant(0) + MS * (2_000 + n * 1_000));
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
            assert!(matches!(action, Action::Send { .. } | Action::Suspected), "{action:?}");
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

    /// A prober's state, whether it is suspect, and whether it is narrow.
    type Shown = (State, bool, bool);
    const UNPROVEN: Shown = (State::Unproven, false, false);
    const UP: Shown = (State::Up, false, false);
    const SUSPECT: Shown = (State::Up, true, false);
    const NARROW_PATH: Shown = (State::Up, false, true);
    const RECOVERING: Shown = (State::Recovering, false, false);
    const SUSPECT_AGAIN: Shown = (State::Recovering, true, false);
    const DOWN: Shown = (State::Down, false, false);

    /// When a prober is in such a state, in milliseconds.
    const THEN: u64 = 10_000;

    fn shown(prober: &Prober) -> Shown {
        (prober.state(), prober.is_suspect(), prober.is_narrow())
    }

    /// Answers all probes for so long, those of full size only if they are to get through.
    fn answer_for(prober: &mut Prober, from: u64, ms: u64, full_size: bool) {
        for t in from..from + ms {
            let now = Instant(0) + MS * t as u32;
            while let Some(action) = prober.poll(now) {
                match action {
                    Action::SendFullSize { .. } if !full_size => {}
                    Action::Send { sequence, .. } | Action::SendFullSize { sequence, .. } => {
                        prober.answer(&reply(sequence), Counts::default(), now);
                    }
                    _ => {}
                }
            }
        }
    }

    /// A prober that is in this state at [`THEN`].
    fn prober_that_is(state: Shown) -> Prober {
        let mut prober = Prober::new(Instant(0));
        match state {
            UNPROVEN => {}
            UP | SUSPECT | NARROW_PATH => answer_for(&mut prober, 0, THEN, state != NARROW_PATH),
            _ => {
                answer_for(&mut prober, 0, 2_000, true);
                run(&mut prober, 2_000, 3_000, false, |_| false);
                run(&mut prober, 5_000, THEN - 5_000, false, |_| state != DOWN);
            }
        }
        if matches!(state, SUSPECT | SUSPECT_AGAIN) {
            prober.told(News::Suspect, Instant(0) + MS * THEN as u32);
        }
        assert_eq!(shown(&prober), state);
        prober
    }

    /// Answers the next so many probes, each at once.
    fn answer_next(prober: &mut Prober, mut probes: u32) {
        let mut now = Instant(0) + MS * THEN as u32;
        while probes > 0 {
            now = now.max(prober.poll_timeout());
            while let Some(action) = prober.poll(now) {
                if let Action::Send { sequence, .. } = action
                    && probes > 0
                {
                    probes -= 1;
                    prober.answer(&reply(sequence), Counts::default(), now);
                }
            }
        }
    }

    /// Every state, everything that can happen in it, and what becomes of it.
    #[test]
    fn the_transition_table() {
        const THEN_IT_IS: Instant = Instant(THEN * 1_000_000);
        // Down, or suspect, and as narrow as it was.
        const NARROW_DOWN: Shown = (State::Down, false, true);
        const NARROW_SUSPECT: Shown = (State::Up, true, true);
        const NEVER_ANSWERED: Shown = (State::Unproven, true, false);
        let states = [UNPROVEN, UP, SUSPECT, RECOVERING, SUSPECT_AGAIN, DOWN, NARROW_PATH];
        let stays = states;
        let dies = [DOWN, DOWN, DOWN, DOWN, DOWN, DOWN, NARROW_DOWN];
        // Nothing has been lost with one that has never been up.
        let ends = [UNPROVEN, DOWN, DOWN, DOWN, DOWN, DOWN, NARROW_DOWN];
        let doubts = [UNPROVEN, SUSPECT, SUSPECT, SUSPECT_AGAIN, SUSPECT_AGAIN, DOWN, NARROW_SUSPECT];
        // What happens, how, and what becomes of each of these states.
        type Row = (&'static str, fn(&mut Prober), [Shown; 7]);
        let table: [Row; 15] = [
            (
                "an answer",
                |prober| answer_next(prober, 1),
                [UP, UP, UP, RECOVERING, RECOVERING, DOWN, NARROW_PATH],
            ),
            (
                "three answers",
                |prober| answer_next(prober, 3),
                [UP, UP, UP, RECOVERING, RECOVERING, RECOVERING, NARROW_PATH],
            ),
            (
                "answers to all for longer than it is held",
                |prober| answer_for(prober, THEN, 25_000, true),
                [UP; 7],
            ),
            (
                "answers to small ones alone",
                |prober| answer_for(prober, THEN, 25_000, false),
                [NARROW_PATH; 7],
            ),
            (
                "an answer is overdue",
                |prober| {
                    let ms = (THEN..THEN + 2_500).map(|t| Instant(0) + MS * t as u32);
                    for now in ms {
                        while !prober.is_suspect() && prober.poll(now).is_some() {}
                    }
                },
                [NEVER_ANSWERED, SUSPECT, SUSPECT, SUSPECT_AGAIN, SUSPECT_AGAIN, DOWN, NARROW_SUSPECT],
            ),
            ("silence", |prober| drop(run(prober, THEN, 4_000, false, |_| false)), dies),
            (
                "an answer nobody waits for",
                |prober| {
                    prober.answer(&reply(1 << 20), Counts::default(), THEN_IT_IS);
                },
                stays,
            ),
            (
                "the session is lost",
                |prober| {
                    prober.lost_session(THEN_IT_IS);
                },
                ends,
            ),
            (
                "nothing can be sent",
                |prober| {
                    prober.cannot_send(THEN_IT_IS);
                },
                ends,
            ),
            (
                "the far end finds it dead",
                |prober| {
                    prober.told(News::Down, THEN_IT_IS);
                },
                ends,
            ),
            (
                "the far end doubts",
                |prober| {
                    prober.told(News::Suspect, THEN_IT_IS);
                },
                doubts,
            ),
            (
                "the far end hears nothing",
                |prober| prober.asked(&Asks { deaf: true, ..Asks::default() }, THEN_IT_IS),
                doubts,
            ),
            (
                "the far end breaks its promise",
                |prober| {
                    prober.heard(THEN_IT_IS);
                    prober.asked(&Asks { within: Some(CLOSELY), ..Asks::default() }, THEN_IT_IS);
                    for ms in 0..45 {
                        while prober.poll(THEN_IT_IS + MS * ms).is_some() {}
                    }
                },
                doubts,
            ),
            ("the far end vouches for it", |prober| prober.vouched(THEN_IT_IS), stays),
            (
                "a packet",
                |prober| {
                    prober.traffic(true, THEN_IT_IS);
                },
                stays,
            ),
        ];
        for (event, happens, becomes) in table {
            for (state, becomes) in states.into_iter().zip(becomes) {
                let mut prober = prober_that_is(state);
                happens(&mut prober);
                assert_eq!(shown(&prober), becomes, "{event}, {state:?}");
            }
        }
    }

    /// A day of a call over a path that loses one probe in 200, and of these one in a hundred with the two after it.
    #[test]
    fn chance_does_not_take_a_path_down_in_a_day() {
        let mut rng = StdRng::seed_from_u64(20);
        let mut prober = Prober::new(Instant(0));
        let (mut now, mut burst, mut lost) = (Instant(0), 0, 0);
        let mut answers: VecDeque<(Instant, u32)> = VecDeque::new();
        while now < Instant(0) + Duration::from_secs(86_400) {
            prober.traffic(false, now);
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
                    Action::SendFullSize { sequence, .. } => {
                        prober.answer(&reply(sequence), Counts::default(), now);
                    }
                    Action::CameUp { .. } | Action::Suspected => {}
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
                        Action::Send { sequence, asks } => {
                            sent[near] += 1;
                            if carries[near] && near == 0 && asks.answered {
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
            end.traffic(false, now);
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

    /// Runs a prober by echo for `ms` with traffic, each request of which comes back after what `takes` says, if at all.
    fn run_echoes(
        prober: &mut Prober,
        from: u64,
        ms: u64,
        takes: impl Fn(u64) -> Option<u64>,
    ) -> Vec<(u64, Action)> {
        let mut log = Vec::new();
        let mut back: Vec<(u64, u32)> = Vec::new();
        for t in from..from + ms {
            let now = Now {
                instant: Instant(0) + MS * t as u32,
                unix_nanos: 1_790_000_000_000_000_000 + t * 1_000_000,
            };
            prober.traffic(false, now.instant);
            for (_, sequence) in back.extract_if(.., |(due, _)| *due <= t) {
                log.extend(prober.echoed(sequence, now).map(|action| (t, action)));
            }
            while let Some(action) = prober.poll(now.instant) {
                assert!(!matches!(action, Action::SendFullSize { .. }), "nobody is asked for large echoes");
                if let Action::Send { sequence, .. } = action {
                    back.extend(takes(t).map(|takes| (t + takes, sequence)));
                }
                log.push((t, action));
            }
        }
        log
    }

    #[test]
    fn an_echo_tells_half_of_what_it_took_for_either_direction_and_what_was_lost_for_both() {
        let mut prober = Prober::by_echo(Instant(0));
        let log = run_echoes(&mut prober, 0, 10_000, |t| {
            (!(5_000..6_000).contains(&t) || t % 300 > 100).then_some(20)
        });
        assert_eq!(changes(&log), [(20, Action::CameUp { held: Duration::ZERO })]);
        let now = Instant(0) + MS * 10_000;
        let sent = log.iter().filter(|(_, action)| matches!(action, Action::Send { .. })).count();
        let [out, back] = [Way::Outbound, Way::Inbound]
            .map(|way| prober.quality().measured(way, LONG, now).expect("measured"));
        assert_eq!((out.p95, back.p95), (MS * 10, MS * 10));
        assert_eq!(out.loss, back.loss);
        let counts = prober.echoes.expect("echoes").counts;
        assert_eq!(counts.received + counts.lost, sent as u32, "each is one or the other");
        assert!(counts.lost > 0 && out.loss.is_some_and(|loss| loss > 0.0), "{counts:?}");
    }

    #[test]
    fn a_line_that_is_slower_by_a_quarter_of_a_second_is_not_dead_and_loses_nothing() {
        let mut prober = Prober::by_echo(Instant(0));
        let log = run_echoes(&mut prober, 0, 20_000, |t| Some(if t < 10_000 { 10 } else { 260 }));
        assert_eq!(changes(&log), [(10, Action::CameUp { held: Duration::ZERO })]);
        assert_eq!(prober.echoes.expect("echoes").counts.lost, 0);
    }

    #[test]
    fn a_line_whose_echoes_cease_is_dead_within_seven_tenths_of_a_second() {
        for phase in 0..100 {
            let mut prober = Prober::by_echo(Instant(0));
            let begin = 5_000 + phase;
            run_echoes(&mut prober, 0, begin, |_| Some(10));
            let log = changes(&run_echoes(&mut prober, begin, 2_000, |_| None));
            let [(at, Action::WentDown { .. })] = log[..] else { panic!("{log:?}") };
            assert!(at - begin <= 700, "{log:?}");
        }
    }

    #[test]
    fn echoes_are_asked_for_ten_times_a_second_with_traffic_and_fifty_times_in_doubt() {
        let mut prober = Prober::by_echo(Instant(0));
        run_echoes(&mut prober, 0, 2_000, |_| Some(10));
        let steps = [(Doubt::None, 10), (Doubt::Some, 50), (Doubt::Much, 50)];
        for (from, (doubt, expected)) in (2_000..).step_by(10_000).zip(steps) {
            prober.is_judged(true);
            prober.doubt(doubt);
            let log = run_echoes(&mut prober, from, 10_000, |_| Some(10));
            let sent = log.iter().filter(|(_, action)| matches!(action, Action::Send { .. })).count();
            assert!(sent.abs_diff(10 * expected) <= 10, "{sent}");
        }
    }
}
