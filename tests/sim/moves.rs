//! How sessions go over to a better path: few at once, many an eighth at a time, all at once off a path that is dead.

use crate::net::{ACME, GLOBEX, Link, Sim};
use crate::packets::{answer, udp};
use crate::steering::{DSL, LTE, call, with_sla};
use popgate::config::Outcome;
use popgate::model::{AskedFlow, Protocol};
use popgate::pipeline::report::{DecisionRow, PathState, StepKind};
use std::collections::BTreeSet;

const STEADY: Link = Link { loss: 0.0, delay_ms: 20, jitter_ms: 0 };
const BAD: Link = Link { loss: 0.1, ..STEADY };
/// How often each session sends, in milliseconds.
const SPACING: u64 = 100;
const MANY: usize = 800;
const EIGHTH: usize = MANY / 8;
/// Of an eighth: sessions are spread by chance, and eight go before their turn.
const MARGIN: usize = 24;

fn policy() -> String {
    let policy = "class = \"default\"\nprefer = [\"dsl\", \"lte\"]\n";
    let acme = ACME.replace(policy, &format!("{policy}sla-class = \"gold\"\n"));
    assert_ne!(acme, ACME, "the policy is there to be changed");
    acme + "[[sla-class]]\nname = \"gold\"\nmax-loss = \"1%\"\n"
}

/// Sessions from Berlin's LAN to the internet, each with a packet every [`SPACING`] that is answered.
struct Crowd {
    sim: Sim,
    size: usize,
    ms: u64,
    /// Bytes a packet.
    payload: Vec<u8>,
    /// Who sends nothing at present.
    silent: Vec<usize>,
}

impl Crowd {
    fn of(size: usize) -> Crowd {
        let mut crowd = Crowd::by(&policy(), size);
        assert_eq!(crowd.on("dsl"), size);
        crowd
    }

    fn by(acme: &str, size: usize) -> Crowd {
        let mut sim = Sim::with_policies(acme, GLOBEX);
        sim.impair(DSL, [STEADY; 2]);
        sim.impair(LTE, [STEADY; 2]);
        sim.advance(3_000);
        let mut crowd = Crowd { sim, size, ms: 0, payload: vec![7; 20], silent: Vec::new() };
        crowd.run(1_000);
        crowd
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            let due = (0..self.size).filter(|n| *n as u64 % SPACING == self.ms % SPACING);
            for n in due.filter(|n| !self.silent.contains(n)) {
                let packet = udp(&format!("10.1.0.5:{}", 2_000 + n), "203.0.113.80:53", &self.payload);
                self.sim.inject_from_lan("berlin", &packet.bytes());
            }
            self.sim.advance(1);
            self.ms += 1;
            for (to, packet) in self.sim.take_delivered() {
                if to == "fra1 pg-internet" {
                    self.sim.inject_from_internet(&answer(&packet, b"yes"));
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.sim.now.unix_nanos / 1_000_000
    }

    /// Goes on until `berlin` writes down that the class has moved.
    fn until_moved(&mut self, to: &str, why: &str) -> DecisionRow {
        let known = self.sim.decisions("berlin").len();
        for _ in 0..6_000 {
            self.run(10);
            let rows = self.sim.decisions("berlin");
            if let Some(row) = rows.iter().skip(known).find(|row| row.class == "default") {
                assert_eq!((row.to.as_str(), row.why.as_str()), (to, why), "{row:?}");
                return row.clone();
            }
        }
        panic!("nobody moves: {:?}", self.sim.decisions("berlin"));
    }

    /// Goes on until so many milliseconds after that.
    fn until(&mut self, row: &DecisionRow, ms: u64) {
        let ms = (row.unix_ms + ms).checked_sub(self.now_ms()).expect("still to come");
        self.run(ms);
    }

    /// The ports of the sessions that leave Berlin by a path.
    fn ports_on(&mut self, path: &str) -> BTreeSet<u16> {
        let sessions = self.sim.sessions("berlin");
        let on = sessions.iter().filter(|session| session.forward_path.as_deref() == Some(path));
        on.map(|session| session.source_port).collect()
    }

    fn on(&mut self, path: &str) -> usize {
        self.ports_on(path).len()
    }

    /// An eighth every 200 ms has gone over to `path`, as far as they have sent something since.
    fn goes_over_by_and_by(&mut self, row: &DecisionRow, path: &str) {
        for part in 1..=8 {
            self.until(row, part * 200 - 50);
            let (gone, wanted) = (self.on(path), part as usize * EIGHTH);
            assert!(gone.abs_diff(wanted) <= MARGIN, "{gone} after {part} turns");
        }
        self.run(SPACING);
        assert_eq!(self.on(path), self.size);
    }
}

#[test]
fn a_crowd_leaves_a_path_that_is_bad_an_eighth_at_a_time_and_comes_back_so_and_answers_follow_at_once() {
    let mut crowd = Crowd::of(MANY);
    crowd.sim.impair(DSL, [BAD, STEADY]);
    let row = crowd.until_moved("lte", "sla-broken");
    crowd.goes_over_by_and_by(&row, "lte");
    let answered_elsewhere = |crowd: &mut Crowd| {
        let sessions = crowd.sim.sessions("fra1");
        sessions.iter().filter(|session| session.forward_path != session.reverse_path).count()
    };
    assert_eq!(answered_elsewhere(&mut crowd), 0);
    // Nothing need be heard of most meanwhile.
    crowd.sim.impair(DSL, [STEADY; 2]);
    crowd.silent = (1..MANY).collect();
    let row = crowd.until_moved("dsl", "sla-kept");
    crowd.silent.clear();
    crowd.goes_over_by_and_by(&row, "dsl");
    crowd.run(SPACING);
    assert_eq!(answered_elsewhere(&mut crowd), 0);
}

#[test]
fn all_leave_at_once_when_the_path_dies_meanwhile_and_come_back_an_eighth_at_a_time() {
    let mut crowd = Crowd::of(MANY);
    crowd.sim.impair(DSL, [BAD, STEADY]);
    let row = crowd.until_moved("lte", "sla-broken");
    crowd.until(&row, 150);
    assert!(crowd.on("lte") <= EIGHTH + MARGIN);
    crowd.sim.impair(DSL, [STEADY; 2]);
    crowd.sim.cut(DSL);
    let is_down = |crowd: &mut Crowd| {
        let paths = crowd.sim.paths("berlin");
        paths.iter().any(|path| path.path == "dsl" && path.state == PathState::Down)
    };
    while !is_down(&mut crowd) {
        crowd.run(5);
    }
    assert!(crowd.on("lte") <= MANY / 2, "{}", crowd.on("lte"));
    crowd.run(SPACING);
    assert_eq!(crowd.on("lte"), MANY);
    crowd.sim.heal(DSL);
    crowd.silent = (1..MANY).collect();
    let row = crowd.until_moved("dsl", "sla-kept");
    crowd.silent.clear();
    crowd.goes_over_by_and_by(&row, "dsl");
}

#[test]
fn a_path_that_has_recovered_is_come_back_to_an_eighth_at_a_time() {
    let mut crowd = Crowd::of(MANY);
    crowd.sim.cut(DSL);
    crowd.run(1_000);
    assert_eq!(crowd.on("lte"), MANY);
    crowd.sim.heal(DSL);
    crowd.silent = (1..MANY).collect();
    let row = crowd.until_moved("dsl", "recovered");
    crowd.silent.clear();
    crowd.goes_over_by_and_by(&row, "dsl");
}

#[test]
fn a_call_that_is_alone_waits_for_no_turn() {
    // Whichever turn would be its: sessions' numbers follow each other.
    for others in 0..8 {
        let mut crowd = Crowd::of(others + 1);
        crowd.sim.impair(DSL, [BAD, STEADY]);
        let row = crowd.until_moved("lte", "sla-broken");
        crowd.until(&row, SPACING + 10);
        assert_eq!(crowd.on("lte"), others + 1);
    }
}

#[test]
fn who_waits_for_a_turn_does_so_where_the_answers_are_bad_too() {
    let mut crowd = Crowd::of(MANY);
    crowd.sim.impair(DSL, [STEADY, BAD]);
    let until_answers_go_by = |crowd: &mut Crowd, path: &str, why: &str| {
        let known = crowd.sim.decisions("fra1").len();
        let moved = |row: &DecisionRow| row.class == "default" && row.site == "berlin";
        let row = loop {
            crowd.run(10);
            if let Some(row) = crowd.sim.decisions("fra1").into_iter().skip(known).find(moved) {
                break row;
            }
        };
        assert_eq!((row.to.as_str(), row.why.as_str()), (path, why), "{row:?}");
        crowd.silent.clear();
        for part in 1..=8 {
            crowd.until(&row, part * 200 - 50);
            let sessions = crowd.sim.sessions("fra1");
            let gone = sessions.iter().filter(|session| session.reverse_path.as_deref() == Some(path));
            let (gone, wanted) = (gone.count(), part as usize * EIGHTH);
            assert!(gone.abs_diff(wanted) <= MARGIN, "{gone} after {part} turns");
            assert_eq!(crowd.on("dsl"), MANY, "their way is good");
        }
    };
    until_answers_go_by(&mut crowd, "lte", "sla-broken");
    crowd.sim.impair(DSL, [STEADY; 2]);
    crowd.silent = (1..MANY).collect();
    until_answers_go_by(&mut crowd, "dsl", "sla-kept");
}

#[test]
fn a_full_target_is_given_time_and_no_more_than_five_seconds() {
    let mut crowd = Crowd::of(MANY);
    // Three quarters of them would fill it.
    crowd.payload = vec![7; 100];
    crowd.sim.limit("berlin", "lte", "3mbit", ("acme", &policy()));
    crowd.run(200);
    crowd.sim.impair(DSL, [BAD, STEADY]);
    let row = crowd.until_moved("lte", "sla-broken");
    crowd.until(&row, 1_550);
    let gone = crowd.on("lte");
    assert!((EIGHTH..=4 * EIGHTH).contains(&gone), "{gone}");
    crowd.until(&row, 4_900);
    let gone = crowd.on("lte");
    assert!(gone <= 6 * EIGHTH, "{gone}");
    crowd.until(&row, 6_800);
    assert_eq!(crowd.on("lte"), MANY);
}

#[test]
fn who_waits_for_a_full_target_goes_on_when_it_has_room_again() {
    let mut crowd = Crowd::of(MANY);
    crowd.payload = vec![7; 100];
    crowd.sim.limit("berlin", "lte", "3mbit", ("acme", &policy()));
    crowd.run(200);
    crowd.sim.impair(DSL, [BAD, STEADY]);
    let row = crowd.until_moved("lte", "sla-broken");
    crowd.until(&row, 1_000);
    let before = crowd.on("lte");
    assert!(before <= 4 * EIGHTH, "{before}");
    // Those that fill it are done.
    let ports = crowd.ports_on("lte");
    crowd.silent = ports.iter().map(|port| usize::from(*port) - 2_000).collect();
    crowd.until(&row, 1_700);
    let after = crowd.on("lte");
    assert!(after >= before + EIGHTH - MARGIN, "{before}, then {after}");
    assert!(after <= before + 4 * EIGHTH + MARGIN, "not all together: {before}, then {after}");
}

#[test]
fn a_target_is_full_for_sessions_of_other_workers_too() {
    // Sites are dealt out to workers one after the other: a session between these is Lyon's worker's, Berlin's paths are another's.
    let lyon = policy();
    let begins = |name: &str| lyon.find(&format!("[[branch]]\nname = \"{name}\"")).expect("a branch");
    let (berlin, lyon_at, rest) = (begins("berlin"), begins("lyon"), lyon.find("[[handoff]]").expect("one"));
    let [head, of_berlin, of_lyon, rest] =
        [&lyon[..berlin], &lyon[berlin..lyon_at], &lyon[lyon_at..rest], &lyon[rest..]];
    let of_berlin = of_berlin.replace("name = \"lte\"\n", "name = \"lte\"\nbandwidth = \"3mbit\"\n");
    let mut sim = Sim::with_policies(&format!("{head}{of_lyon}{of_berlin}{rest}"), GLOBEX);
    sim.restart_with("fra1", 2);
    sim.impair(DSL, [STEADY; 2]);
    sim.impair(LTE, [STEADY; 2]);
    sim.advance(8_000);
    let run = |sim: &mut Sim, ms: u64| {
        for n in 0..ms {
            for port in (0..MANY as u64).filter(|port| port % SPACING == n % SPACING) {
                let packet = udp(&format!("10.2.0.5:{}", 2_000 + port), "10.1.0.5:53", &[7; 100]);
                sim.inject_from_lan("lyon", &packet.bytes());
            }
            sim.advance(1);
            sim.take_delivered();
        }
    };
    let on = |sim: &mut Sim, path: &str| {
        let sessions = sim.sessions("berlin");
        sessions.iter().filter(|session| session.forward_path.as_deref() == Some(path)).count()
    };
    run(&mut sim, 2_000);
    assert_eq!(on(&mut sim, "dsl"), MANY);
    sim.impair(DSL, [STEADY, BAD]);
    let moved = |sim: &mut Sim| {
        let is_move =
            |row: &DecisionRow| (&*row.class, &*row.to, &*row.why) == ("default", "lte", "sla-broken");
        sim.decisions("fra1").iter().any(is_move)
    };
    while !moved(&mut sim) {
        run(&mut sim, 10);
    }
    run(&mut sim, 1_550);
    let gone = on(&mut sim, "lte");
    assert!((EIGHTH..=4 * EIGHTH).contains(&gone), "{gone}");
    run(&mut sim, 5_250);
    let gone = on(&mut sim, "lte");
    assert!(gone >= MANY - MARGIN, "{gone}");
    // All are sent by it. A path that has three times what it takes drops what the last of them send, now and then.
    for _ in 0..20 {
        run(&mut sim, SPACING);
    }
    assert_eq!(on(&mut sim, "lte"), MANY);
}

#[test]
fn who_has_moved_to_what_is_less_bad_stays_ten_seconds_before_it_moves_so_again() {
    let mut sim = with_sla("max-latency = \"50ms\"", "best-of-worst");
    let latency = |delay_ms| [Link { delay_ms, jitter_ms: 5, loss: 0.0 }, STEADY];
    let moves = |sim: &mut Sim| -> Vec<DecisionRow> {
        let rows = sim.decisions("berlin").into_iter().filter(|row| row.class == "default");
        rows.filter(|row| row.why == "best-of-worst").collect()
    };
    call(&mut sim, 5);
    sim.impair(LTE, latency(90));
    sim.impair(DSL, latency(150));
    call(&mut sim, 30);
    sim.impair(DSL, latency(60));
    let mut rows = moves(&mut sim);
    let known = rows.len();
    while rows.len() == known {
        call(&mut sim, 1);
        rows = moves(&mut sim);
    }
    assert_eq!(rows[known].to, "dsl", "{rows:?}");
    // Half a second tells that it is far worse than the other now.
    sim.impair(DSL, latency(150));
    call(&mut sim, 20);
    let rows = moves(&mut sim);
    let [there, back] = &rows[known..] else { panic!("{rows:?}") };
    let stayed = back.unix_ms - there.unix_ms;
    assert!(back.to == "lte" && (10_000..11_000).contains(&stayed), "{stayed} ms: {rows:?}");
}

/// The two lines are equal, and share by these weights.
fn sharing(weights: &str) -> String {
    policy().replace(
        "prefer = [\"dsl\", \"lte\"]\nsla",
        &format!("prefer = [[\"dsl\", \"lte\"]]\n{weights}\nsla"),
    )
}

#[test]
fn equal_paths_share_sessions_by_weight_and_who_goes_and_comes_moves_its_own_share() {
    let mut crowd = Crowd::by(&sharing("weights = { dsl = 3 }"), MANY);
    let of_lte = crowd.ports_on("lte");
    assert!(of_lte.len().abs_diff(2 * EIGHTH) <= 2 * MARGIN, "{}", of_lte.len());
    assert_eq!(crowd.on("dsl"), MANY - of_lte.len());
    let answered = crowd.sim.sessions("fra1");
    assert!(answered.iter().all(|session| session.forward_path == session.reverse_path));
    let known = crowd.sim.decisions("berlin").len();
    crowd.sim.cut(LTE);
    crowd.run(1_000);
    assert_eq!(crowd.on("dsl"), MANY);
    crowd.sim.heal(LTE);
    crowd.silent = (1..MANY).collect();
    crowd.until_moved("lte", "recovered");
    crowd.silent.clear();
    crowd.run(2_000);
    assert_eq!(crowd.ports_on("lte"), of_lte);
    let rows = crowd.sim.decisions("berlin");
    let rows: Vec<(&str, &str)> = (rows[known..].iter().filter(|row| row.class == "default"))
        .map(|row| (row.from.as_str(), row.to.as_str()))
        .collect();
    assert_eq!(rows, [("lte", "dsl"), ("dsl", "lte")], "its share goes to who stays, and comes from there");
}

#[test]
fn the_share_of_an_equal_path_that_is_bad_goes_over_by_and_by() {
    let mut crowd = Crowd::by(&sharing(""), MANY);
    let share = crowd.on("dsl");
    assert!(share.abs_diff(MANY / 2) <= 2 * MARGIN, "{share}");
    crowd.sim.impair(DSL, [BAD, STEADY]);
    let row = crowd.until_moved("lte", "sla-broken");
    for part in 1..=8 {
        crowd.until(&row, part * 200 - 50);
        let (left, wanted) = (crowd.on("dsl"), share - share * part as usize / 8);
        assert!(left.abs_diff(wanted) <= MARGIN, "{left} left after {part} turns");
    }
}

#[test]
fn an_explanation_says_what_each_of_equal_paths_takes() {
    let mut sim = Sim::with_policies(&sharing("weights = { dsl = 3 }"), GLOBEX);
    let asked = AskedFlow {
        from: "10.1.0.5:1000".parse().expect("an end"),
        to: "203.0.113.80:53".parse().expect("an end"),
        protocol: Protocol::UDP,
        dscp: 0,
        sni: None,
    };
    let explained = sim.explain("berlin", "acme", &asked);
    assert_eq!(explained.outcome, Outcome::Accept);
    let paths = explained.steps.iter().find(|step| step.kind == StepKind::Path).expect("it goes by paths");
    assert_eq!(paths.text, "the first that is up is taken; equal ones share: dsl 75 %, lte 25 %");
}
