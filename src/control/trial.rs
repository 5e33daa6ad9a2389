//! A configuration on trial: whether it stays, or the one before comes back.
//!
//! Two things may end it: nobody confirms it in time, or the box is worse off with it than policy allows. What "worse" is
//! compares with how the box stood right before: tunnels, canaries, drops. Time and measurements are arguments.

use crate::config::CommitGuard;
use crate::model::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// 3 s: longer than a path needs to come up again over another socket, and what it was probed by to tell.
const GRACE: Duration = Duration::from_secs(3);

/// Drops are judged over so many of the last measurements, a second apart.
const WINDOW: usize = 5;

/// 100: of fewer packets a share says nothing.
const FEW_PACKETS: u64 = 100;

/// How many tunnels a reason names.
const NAMED: usize = 3;

/// A tunnel by its names, `acme/berlin/dsl`.
pub type Tunnel = String;

/// How the box stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// All tunnels there are.
    pub tunnels: BTreeSet<Tunnel>,
    /// Those that are up.
    pub up: BTreeSet<Tunnel>,
    /// Since the box started.
    pub forwarded_packets: u64,
    pub dropped_packets: u64,
    /// By their names, `erp of acme`.
    pub canaries: BTreeMap<String, Canary>,
}

/// How a canary stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Its address, and port if it has one.
    pub target: String,
    pub answers: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Still on trial.
    Wait,
    /// It stays; there is nothing to wait for any more.
    Stays,
    /// Nobody confirmed it.
    Unconfirmed,
    /// The box is worse off; why.
    Worse(String),
}

/// A trial under way.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Until when it must be confirmed, if at all.
    confirm_by: Option<Instant>,
    /// Until when the box is watched.
    watch_until: Instant,
    guard: CommitGuard,
    before: Health,
    /// The share of packets that were dropped before.
    dropped_before: f64,
    /// Forwarded and dropped packets, newest last.
    samples: VecDeque<(u64, u64)>,
    /// Since when too many tunnels are missing.
    missing_since: Option<Instant>,
    /// Since when which canaries are silent that answered before.
    silent_since: BTreeMap<String, Instant>,
}

impl Trial {
    /// Begins one, of a box that has stood as `before` says; the first of these measurements is the oldest.
    pub fn begin(guard: CommitGuard, before: &[Health], confirm: Option<Duration>, now: Instant) -> Trial {
        let last = before.last().cloned().unwrap_or_default();
        let counts = |health: &Health| (health.forwarded_packets, health.dropped_packets);
        let dropped_before = match before {
            [first, .., last] => share_dropped(counts(first), counts(last)),
            _ => None,
        };
        Trial {
            confirm_by: confirm.map(|window| now + window),
            watch_until: now + guard.watch,
            guard,
            samples: [counts(&last)].into(),
            before: last,
            dropped_before: dropped_before.unwrap_or_default(),
            missing_since: None,
            silent_since: BTreeMap::new(),
        }
    }

    /// When it must be confirmed by.
    pub fn confirm_by(&self) -> Option<Instant> {
        self.confirm_by
    }

    /// It was confirmed: whoever did it takes the responsibility for how the box stands.
    pub fn confirm(&mut self) {
        self.confirm_by = None;
        self.watch_until = Instant(0);
    }

    /// What becomes of it, as the box stands now. To be asked about once a second.
    pub fn judge(&mut self, health: &Health, now: Instant) -> Verdict {
        // One that nobody has confirmed may be looked after by nobody: it is watched for all that time.
        if now < self.watch_until || self.confirm_by.is_some() {
            let why = self.tunnels_missing(health, now).or_else(|| self.canary_silent(health, now));
            if let Some(why) = why.or_else(|| self.more_drops(health)) {
                return Verdict::Worse(why);
            }
            if self.confirm_by.is_none_or(|by| now < by) {
                return Verdict::Wait;
            }
            return Verdict::Unconfirmed;
        }
        Verdict::Stays
    }

    fn tunnels_missing(&mut self, health: &Health, now: Instant) -> Option<String> {
        // A tunnel that the configuration has no more is not missed.
        let expected: Vec<&Tunnel> = self.before.up.intersection(&health.tunnels).collect();
        let missing: Vec<&Tunnel> = expected.iter().filter(|it| !health.up.contains(**it)).copied().collect();
        if missing.is_empty() || missing.len() as f64 <= self.guard.tunnels_lost * expected.len() as f64 {
            self.missing_since = None;
            return None;
        }
        let since = *self.missing_since.get_or_insert(now);
        (now.since(since) >= GRACE).then(|| {
            let named: Vec<&str> = missing.iter().take(NAMED).map(|name| name.as_str()).collect();
            let more = if missing.len() > NAMED { ", …" } else { "" };
            let (missing, expected) = (missing.len(), expected.len());
            format!("{missing} of {expected} tunnels that were up are down: {}{more}", named.join(", "))
        })
    }

    fn canary_silent(&mut self, health: &Health, now: Instant) -> Option<String> {
        // One that has never answered, or that the configuration has no more, is not missed.
        let answered = |name: &String| self.before.canaries.get(name).is_some_and(|it| it.answers);
        let silent: Vec<(&String, &Canary)> =
            health.canaries.iter().filter(|(name, it)| !it.answers && answered(name)).collect();
        self.silent_since.retain(|name, _| silent.iter().any(|(it, _)| *it == name));
        silent.into_iter().find_map(|(name, Canary { target, .. })| {
            let since = *self.silent_since.entry(name.clone()).or_insert(now);
            (now.since(since) >= GRACE).then(|| format!("canary {name} does not answer any more: {target}"))
        })
    }

    fn more_drops(&mut self, health: &Health) -> Option<String> {
        let limit = self.guard.drops?;
        self.samples.push_back((health.forwarded_packets, health.dropped_packets));
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        let dropped = share_dropped(*self.samples.front()?, *self.samples.back()?)?;
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        (dropped - self.dropped_before > limit).then(|| {
            format!(
                "{} of the packets are dropped, and it was {}",
                percent(dropped),
                percent(self.dropped_before)
            )
        })
    }
}

/// Which share of the packets between two measurements was dropped; `None` of too few.
fn share_dropped(earlier: (u64, u64), later: (u64, u64)) -> Option<f64> {
    let forwarded = later.0.saturating_sub(earlier.0);
    let dropped = later.1.saturating_sub(earlier.1);
    let all = forwarded + dropped;
    (all >= FEW_PACKETS).then(|| dropped as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: CommitGuard =
        CommitGuard { watch: Duration::from_secs(30), tunnels_lost: 0.1, drops: Some(0.05) };

    fn at(secs: u64) -> Instant {
        Instant(0) + Duration::from_secs(secs)
    }

    fn health(tunnels: usize, up: usize, forwarded_packets: u64, dropped_packets: u64) -> Health {
        let name = |number: usize| format!("acme/site{number:02}/dsl");
        let (tunnels, up) = ((0..tunnels).map(name).collect(), (0..up).map(name).collect());
        Health { tunnels, up, forwarded_packets, dropped_packets, ..Health::default() }
    }

    fn trial(confirm: Option<u64>) -> Trial {
        let before = [health(20, 20, 0, 0), health(20, 20, 1_000, 10)];
        Trial::begin(GUARD, &before, confirm.map(Duration::from_secs), at(0))
    }

    #[test]
    fn what_is_not_confirmed_in_time_goes_and_what_is_confirmed_stays() {
        let well = health(20, 20, 1_000, 10);
        let mut unconfirmed = trial(Some(120));
        assert_eq!(unconfirmed.judge(&well, at(119)), Verdict::Wait);
        assert_eq!(unconfirmed.judge(&well, at(120)), Verdict::Unconfirmed);
        let mut confirmed = trial(Some(120));
        confirmed.confirm();
        assert_eq!(confirmed.judge(&well, at(1)), Verdict::Stays);
    }

    #[test]
    fn what_needs_no_confirmation_is_watched_for_a_while() {
        let well = health(20, 20, 1_000, 10);
        assert_eq!(trial(None).judge(&well, at(29)), Verdict::Wait);
        assert_eq!(trial(None).judge(&well, at(30)), Verdict::Stays);
    }

    #[test]
    fn tunnels_may_be_down_for_a_moment_and_a_few_of_them_for_good() {
        let mut trial = trial(None);
        let (few, many) = (health(20, 18, 1_000, 10), health(20, 17, 1_000, 10));
        assert_eq!(trial.judge(&few, at(1)), Verdict::Wait);
        assert_eq!(trial.judge(&many, at(2)), Verdict::Wait);
        assert_eq!(trial.judge(&few, at(4)), Verdict::Wait);
        assert_eq!(trial.judge(&many, at(5)), Verdict::Wait);
        assert_eq!(trial.judge(&many, at(7)), Verdict::Wait);
        let why = "3 of 20 tunnels that were up are down: acme/site17/dsl, acme/site18/dsl, acme/site19/dsl";
        assert_eq!(trial.judge(&many, at(8)), Verdict::Worse(why.to_owned()));
    }

    #[test]
    fn tunnels_that_the_configuration_has_no_more_are_not_missed() {
        let mut trial = trial(None);
        for secs in 1..10 {
            assert_eq!(trial.judge(&health(5, 5, 1_000, 10), at(secs)), Verdict::Wait);
        }
    }

    #[test]
    fn drops_are_compared_with_the_share_there_was_before() {
        // 1 % before, so that 6 % is still allowed.
        let mut allowed = trial(None);
        let mut too_many = trial(None);
        for second in 1..10 {
            let forwarded = 1_000 + second * 1_000;
            assert_eq!(
                allowed.judge(&health(20, 20, forwarded, 10 + second * 60), at(second)),
                Verdict::Wait
            );
        }
        let why = "13.0 % of the packets are dropped, and it was 1.0 %";
        let verdict = too_many.judge(&health(20, 20, 1_870, 140), at(1));
        assert_eq!(verdict, Verdict::Worse(why.to_owned()));
    }

    #[test]
    fn a_few_packets_prove_nothing() {
        assert_eq!(trial(None).judge(&health(20, 20, 1_000, 109), at(1)), Verdict::Wait);
    }

    #[test]
    fn a_commit_that_waits_to_be_confirmed_is_watched_all_that_time() {
        let mut trial = trial(Some(600));
        assert_eq!(trial.judge(&health(20, 0, 1_000, 10), at(400)), Verdict::Wait);
        assert!(matches!(trial.judge(&health(20, 0, 1_000, 10), at(404)), Verdict::Worse(_)));
    }

    fn canaries(answering: &[(&str, bool)]) -> Health {
        let canary = |(name, answers): &(&str, bool)| {
            let target = "10.20.0.5".to_owned();
            (format!("{name} of acme"), Canary { target, answers: *answers })
        };
        Health { canaries: answering.iter().map(canary).collect(), ..health(20, 20, 1_000, 10) }
    }

    #[test]
    fn a_canary_that_answered_before_may_be_silent_for_a_moment_and_not_for_longer() {
        let before = canaries(&[("erp", true), ("mail", true)]);
        let mut trial = Trial::begin(GUARD, &[before], None, at(0));
        for (secs, erp, mail) in [(1, false, true), (3, true, false), (4, false, false), (5, false, true)] {
            let health = canaries(&[("erp", erp), ("mail", mail)]);
            assert_eq!(trial.judge(&health, at(secs)), Verdict::Wait, "after {secs} s");
        }
        let why = "canary erp of acme does not answer any more: 10.20.0.5";
        let silent = canaries(&[("erp", false), ("mail", true)]);
        assert_eq!(trial.judge(&silent, at(6)), Verdict::Wait);
        assert_eq!(trial.judge(&silent, at(7)), Verdict::Worse(why.to_owned()));
    }

    #[test]
    fn a_canary_that_was_silent_before_or_is_new_or_gone_is_not_missed() {
        let before = canaries(&[("silent", false), ("gone", true)]);
        let mut trial = Trial::begin(GUARD, &[before], None, at(0));
        for secs in 1..10 {
            let health = canaries(&[("silent", false), ("new", false)]);
            assert_eq!(trial.judge(&health, at(secs)), Verdict::Wait);
        }
    }
}
