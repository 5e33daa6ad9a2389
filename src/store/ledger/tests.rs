use super::*;
use crate::model::Id;
use crate::store::report::{Answer, Held, WhoHad};
use proptest::prelude::*;
use std::path::Path;
use tempfile::TempDir;

const LIMITS: Limits = Limits { keep: Duration::from_secs(30 * 24 * 3_600), max_bytes: 10_000_000_000 };
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// 2026-11-22T10:00Z.
const TEN: u64 = 1_795_341_600_000;

fn ledger(dir: &Path, now: u64) -> Ledger {
    Ledger::new(dir.to_owned(), LIMITS, Box::new(named_by), now)
}

fn named_by(tenant: TenantId, branch: Option<SiteId>) -> Who {
    let tenant = format!("tenant-{}", tenant.index()).into();
    Who { tenant, branch: branch.map(|branch| format!("branch-{}", branch.index()).into()) }
}

fn outside(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

/// What becomes of a binding of tenant 1's branch 7.
fn event(change: PortChange, port: u16) -> PortEvent {
    PortEvent {
        change,
        tenant: TenantId(1),
        branch: Some(SiteId(7)),
        outside: outside(7),
        ports: (port, port),
        protocol: Some(Protocol::UDP),
        inside: Some((IpAddr::from([10, 1, 0, 5]), 5_000)),
    }
}

fn asked(port: u16, from: u64) -> Asked {
    Asked { address: outside(7), port, protocol: None, from, until: from + 1_000 }
}

fn ask(dir: &TempDir, asked: &Asked, now: u64) -> WhoHad {
    who_had(dir.path(), asked, now).expect("it can be read")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn causes(answer: &WhoHad) -> Vec<GapCause> {
    answer.gaps.iter().map(|gap| gap.cause).collect()
}

#[test]
fn who_had_a_port_is_told_while_it_lasts_after_it_ended_and_after_a_restart() {
    let dir = directory();
    let mut ledger = ledger(dir.path(), TEN);
    ledger.take(&event(PortChange::Began, 40_112), TEN + 10_000);
    ledger.work(TEN + 10_000);
    let lasting = ask(&dir, &asked(40_112, TEN + 20_000), TEN + 30_000);
    let told = Held {
        tenant: "tenant-1".into(),
        branch: Some("branch-7".into()),
        inside: Some(IpAddr::from([10, 1, 0, 5])),
        inside_port: Some(5_000),
        protocol: Some("udp".into()),
        first_port: 40_112,
        last_port: 40_112,
        began_unix_ms: TEN + 10_000,
        began_unsure: false,
        ended_unix_ms: None,
        ended_unsure: false,
    };
    assert_eq!((lasting.answer, &lasting.holdings), (Answer::Held, &vec![told.clone()]));
    assert_eq!(causes(&lasting), []);

    ledger.take(&event(PortChange::Ended, 40_112), TEN + 40_000);
    ledger.work(TEN + 40_000);
    let told = Held { ended_unix_ms: Some(TEN + 40_000), ..told };
    let question = asked(40_112, TEN + 20_000);
    assert_eq!(ask(&dir, &question, TEN + 50_000).holdings, std::slice::from_ref(&told));
    ledger.close(TEN + 50_000);
    let _again = self::ledger(dir.path(), TEN + 90_000);
    let answer = ask(&dir, &question, TEN + 90_000);
    assert_eq!((answer.answer, answer.holdings), (Answer::Held, vec![told]));
    assert_eq!(answer.gaps, []);
}

#[test]
fn nobody_is_told_apart_from_before_the_ledger_from_what_is_to_come_and_from_what_was_missed() {
    let dir = directory();
    let mut ledger = ledger(dir.path(), TEN);
    ledger.work(TEN + HOUR);
    ledger.close(TEN + HOUR);
    let _again = self::ledger(dir.path(), TEN + 2 * HOUR);
    let at = |when| {
        let answer = ask(&dir, &asked(40_112, when), TEN + 2 * HOUR + 1);
        (answer.answer, causes(&answer))
    };
    assert_eq!(at(TEN - 1), (Answer::BeforeLedger, vec![]));
    assert_eq!(at(TEN + HOUR / 2), (Answer::Nobody, vec![]));
    assert_eq!(at(TEN + HOUR + 1), (Answer::NotSure, vec![GapCause::Stopped]));
    assert_eq!(at(TEN + 3 * HOUR), (Answer::NotYet, vec![]));
    let nowhere = directory();
    assert_eq!(ask(&nowhere, &asked(1, TEN), TEN + 1).answer, Answer::BeforeLedger);
}

#[test]
fn what_was_held_when_popgate_was_killed_has_ended_and_nobody_knows_when() {
    let dir = directory();
    let mut first = ledger(dir.path(), TEN);
    first.take(&event(PortChange::Began, 40_112), TEN);
    first.work(TEN + 1);
    drop(first);
    // Asked of the files alone, long after.
    let offline = ask(&dir, &asked(40_112, TEN + HOUR), TEN + DAY);
    assert_eq!((offline.answer, offline.holdings[0].ended_unix_ms), (Answer::Held, None));
    assert!(offline.holdings[0].ended_unsure);
    assert_eq!(causes(&offline), [GapCause::Stopped]);

    let _second = ledger(dir.path(), TEN + DAY);
    let answer = ask(&dir, &asked(40_112, TEN + HOUR), TEN + DAY);
    assert_eq!(answer.holdings[0].ended_unix_ms, Some(TEN + DAY));
    assert!(answer.holdings[0].ended_unsure);
    assert_eq!(causes(&answer), [GapCause::Stopped]);
    assert_eq!(ask(&dir, &asked(40_112, TEN + DAY + 1), TEN + DAY + 2).answer, Answer::Nobody);
}

#[test]
fn a_log_that_was_torn_anywhere_keeps_what_is_whole() {
    let dir = directory();
    let mut first = ledger(dir.path(), TEN);
    for port in 1_000..1_010 {
        first.take(&event(PortChange::Began, port), TEN + u64::from(port));
    }
    for port in 1_000..1_010 {
        first.take(&event(PortChange::Ended, port), TEN + 2 * u64::from(port));
    }
    first.work(TEN + 3_000);
    drop(first);
    let files = Files::list(dir.path()).expect("listed");
    let whole = fs::read(&files.logs[0].1).expect("read");
    // A header, a tenant's and a branch's name, ten beginnings and ten ends.
    assert_eq!(whole.len(), 23 * record::RECORD_BYTES);
    for length in (3 * record::RECORD_BYTES..whole.len()).step_by(7) {
        let dir = directory();
        fs::write(dir.path().join("0000000001.log"), &whole[..length]).expect("written");
        let _again = ledger(dir.path(), TEN + DAY);
        let records = length / record::RECORD_BYTES - 3;
        for (at, port) in (1_000..1_010u16).enumerate() {
            let expected = if records >= 11 + at {
                Some((Some(TEN + 2 * u64::from(port)), false))
            } else if records > at {
                Some((Some(TEN + DAY), true))
            } else {
                None
            };
            let answer = ask(&dir, &asked(port, TEN + u64::from(port)), TEN + DAY);
            let told = answer.holdings.first().map(|held| (held.ended_unix_ms, held.ended_unsure));
            assert_eq!(told, expected, "{length} bytes, port {port}");
        }
    }
}

#[test]
fn a_record_that_went_bad_costs_itself_and_is_told_as_a_gap() {
    let dir = directory();
    let mut first = ledger(dir.path(), TEN);
    for port in [1_000, 1_001, 1_002] {
        first.take(&event(PortChange::Began, port), TEN + u64::from(port));
    }
    first.work(TEN + 3_000);
    first.close(TEN + 4_000);
    let path = dir.path().join("0000000001.log");
    let mut bytes = fs::read(&path).expect("read");
    bytes[4 * record::RECORD_BYTES + 9] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let check = |now: u64| {
        let lost = ask(&dir, &asked(1_001, TEN + 1_001), now);
        assert_eq!((lost.answer, causes(&lost)), (Answer::NotSure, vec![GapCause::Damaged]));
        for port in [1_000, 1_002] {
            let answer = ask(&dir, &asked(port, TEN + 2_000), now);
            assert_eq!(answer.answer, Answer::Held, "{port}");
        }
    };
    check(TEN + 5_000);
    let _second = ledger(dir.path(), TEN + DAY);
    check(TEN + DAY);
    // And one in a segment.
    let path = dir.path().join("0000000001.segment");
    let mut bytes = fs::read(&path).expect("read");
    bytes[record::RECORD_BYTES + 9] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let answer = ask(&dir, &asked(1_000, TEN + 1_001), TEN + DAY);
    assert_eq!((answer.answer, causes(&answer)), (Answer::NotSure, vec![GapCause::Damaged; 2]));
}

#[test]
fn a_log_that_cannot_be_read_is_put_aside_and_told() {
    let dir = directory();
    fs::write(dir.path().join("0000000003.log"), [7; 640]).expect("written");
    let answer = ask(&dir, &asked(1, TEN), TEN + HOUR);
    assert_eq!(causes(&answer), [GapCause::Damaged]);
    let ledger = ledger(dir.path(), TEN + HOUR);
    assert_eq!(ledger.state().problem, None);
    assert!(dir.path().join("0000000003.damaged").exists());
    assert_eq!(causes(&ask(&dir, &asked(1, TEN), TEN + HOUR)), [GapCause::Damaged]);
}

#[test]
fn what_there_was_no_room_for_makes_nobody_unsure_until_popgate_is_started_anew() {
    let dir = directory();
    let mut first = ledger(dir.path(), TEN);
    first.take(&event(PortChange::Began, 1_000), TEN + 1_000);
    first.miss(Gap {
        from_unix_ms: TEN + 2_000,
        until_unix_ms: TEN + 3_000,
        cause: GapCause::Overrun,
        lost: 5,
    });
    // Its beginning was lost.
    first.take(&event(PortChange::Ended, 1_001), TEN + 9_000);
    // The end of the one before it was.
    first.take(&event(PortChange::Began, 1_000), TEN + 9_500);
    first.work(TEN + 10_000);
    assert_eq!(first.state().lost, 5);
    let at = |port, when| ask(&dir, &asked(port, when), TEN + 10_000);
    let held = at(1_001, TEN + 8_000).holdings.remove(0);
    assert_eq!((held.began_unix_ms, held.began_unsure, held.ended_unsure), (TEN + 2_000, true, false));
    let held = at(1_000, TEN + 8_000).holdings.remove(0);
    assert_eq!((held.ended_unix_ms, held.ended_unsure), (Some(TEN + 9_500), true));
    assert_eq!(at(1_002, TEN + 500).answer, Answer::Nobody);
    let unsure = at(1_002, TEN + 8_000);
    assert_eq!((unsure.answer, causes(&unsure)), (Answer::NotSure, vec![GapCause::Overrun]));
    first.close(TEN + 20_000);
    let mut second = ledger(dir.path(), TEN + 30_000);
    second.work(TEN + 40_000);
    assert_eq!(ask(&dir, &asked(1_002, TEN + 35_000), TEN + 40_000).answer, Answer::Nobody);
}

#[test]
fn a_full_disk_is_told_and_what_is_held_is_known_again_when_there_is_room() {
    let dir = directory();
    let mut ledger = ledger(dir.path(), TEN);
    ledger.take(&event(PortChange::Began, 1_000), TEN + 1_000);
    ledger.take(&event(PortChange::Began, 1_001), TEN + 1_000);
    ledger.work(TEN + 1_000);
    ledger.log.as_mut().expect("a log").fill_disk();
    // Two that last, one that comes and goes, and one that ends.
    ledger.take(&event(PortChange::Began, 1_002), TEN + 2_000);
    ledger.work(TEN + 2_000);
    let state = ledger.state();
    assert_eq!((state.failing_since_unix_ms, state.lost), (Some(TEN + 1_000), 1));
    assert!(state.problem.expect("a problem").contains("No space left on device"));
    ledger.take(&event(PortChange::Began, 1_003), TEN + 3_000);
    ledger.take(&event(PortChange::Ended, 1_003), TEN + 3_500);
    ledger.take(&event(PortChange::Ended, 1_001), TEN + 4_000);
    ledger.work(TEN + 8_000);
    assert_eq!((ledger.state().problem, ledger.state().open), (None, 2));

    let at = |port, when| ask(&dir, &asked(port, when), TEN + 9_000);
    let sure = |port| at(port, TEN + 8_000).holdings[0].clone();
    assert_eq!((sure(1_000).began_unix_ms, sure(1_000).ended_unsure), (TEN + 1_000, false));
    assert_eq!((sure(1_002).began_unix_ms, sure(1_002).ended_unsure), (TEN + 2_000, false));
    let cut = at(1_001, TEN + 2_000).holdings.remove(0);
    assert_eq!((cut.ended_unix_ms, cut.ended_unsure), (Some(TEN + 8_000), true));
    let lost = at(1_003, TEN + 3_000);
    assert_eq!((lost.answer, causes(&lost)), (Answer::NotSure, vec![GapCause::NotWritten]));
    assert_eq!(lost.gaps[0].lost, 4);
    assert_eq!(at(1_003, TEN + 8_500).answer, Answer::Nobody);
}

#[test]
fn a_ledger_that_cannot_be_opened_is_opened_later() {
    let parent = directory();
    let dir = parent.path().join("nat-ledger");
    fs::write(&dir, "in the way").expect("written");
    let mut ledger = ledger(&dir, TEN);
    assert!(ledger.state().problem.is_some());
    ledger.take(&event(PortChange::Began, 1_000), TEN + 1_000);
    fs::remove_file(&dir).expect("removed");
    ledger.work(TEN + 4_999);
    assert!(ledger.state().problem.is_some(), "not tried at every call");
    ledger.work(TEN + 5_000);
    assert_eq!(ledger.state().problem, None);
    let answer = who_had(&dir, &asked(1_000, TEN + 1_500), TEN + 6_000).expect("read");
    assert_eq!((answer.answer, answer.holdings[0].ended_unix_ms), (Answer::Held, None));
}

#[test]
fn what_ended_longer_ago_than_is_kept_goes_and_what_lasts_stays() {
    let dir = directory();
    let mut ledger = ledger(dir.path(), TEN);
    ledger.take(&event(PortChange::Began, 999), TEN + 1);
    for day in 0..60 {
        let port = 1_000 + day as u16;
        let at = TEN + day * DAY + HOUR;
        ledger.take(&event(PortChange::Began, port), at);
        ledger.take(&event(PortChange::Ended, port), at + HOUR);
        ledger.work(at + HOUR);
    }
    let now = TEN + 60 * DAY;
    ledger.work(now);
    ledger.work(now + 1);
    for day in 0..60 {
        let answer = ask(&dir, &asked(1_000 + day as u16, TEN + day * DAY + HOUR), now + 2);
        let kept = day >= 30;
        assert_eq!(answer.answer == Answer::Held, kept, "day {day}: {answer:?}");
        assert!(kept || answer.answer == Answer::BeforeLedger, "day {day}: {answer:?}");
    }
    let lasting = ask(&dir, &asked(999, TEN + 5 * DAY), now + 2);
    assert_eq!((lasting.answer, lasting.holdings[0].began_unix_ms), (Answer::Held, TEN + 1));
    let known_from = ledger.state().known_from_unix_ms.expect("it begins");
    assert!((TEN + 28 * DAY..=TEN + 30 * DAY).contains(&known_from));
}

#[test]
fn the_oldest_segments_make_room_for_the_new() {
    let dir = directory();
    let mut ledger = ledger(dir.path(), TEN);
    for day in 0..10 {
        for port in 1_000..1_100 {
            ledger.take(&event(PortChange::Began, port), TEN + day * DAY);
            ledger.take(&event(PortChange::Ended, port), TEN + day * DAY + HOUR);
        }
        ledger.work(TEN + (day + 1) * DAY);
    }
    let all = ledger.state().bytes;
    let now = TEN + 10 * DAY;
    ledger.set_limits(Limits { max_bytes: all / 2, ..LIMITS });
    ledger.work(now);
    assert!(ledger.state().bytes <= all / 2 && ledger.state().bytes > all / 4, "{:?}", ledger.state());
    let at = |day| ask(&dir, &asked(1_050, TEN + day * DAY + 1), now).answer;
    assert_eq!((at(0), at(9)), (Answer::BeforeLedger, Answer::Held));
}

#[test]
fn a_block_is_the_whole_branchs_for_all_protocols_and_found_by_any_of_its_ports() {
    let dir = directory();
    let mut ledger = ledger(dir.path(), TEN);
    let block = |change, ports| PortEvent { ports, protocol: None, inside: None, ..event(change, 0) };
    for (at, ports) in [(1_024, 1_535), (2_048, 2_559), (1_536, 2_047)].into_iter().enumerate() {
        ledger.take(&block(PortChange::Began, ports), TEN + at as u64);
    }
    ledger.take(&event(PortChange::Began, 1_600), TEN + 10);
    ledger.take(&event(PortChange::Ended, 1_600), TEN + 20);
    for change in [(1_024, 1_535), (1_536, 2_047), (2_048, 2_559)] {
        ledger.take(&block(PortChange::Ended, change), TEN + 5_000);
    }
    ledger.work(TEN + 6_000);
    let check = || {
        for port in [1_023, 1_024, 1_535, 1_536, 1_600, 2_047, 2_559, 2_560] {
            let question = Asked { protocol: Some(Protocol::TCP), ..asked(port, TEN) };
            let answer = ask(&dir, &question, TEN + 7_000);
            let blocks: Vec<_> =
                answer.holdings.iter().map(|held| (held.first_port, held.last_port)).collect();
            let first = port / 512 * 512;
            let expected = if (1_024..2_560).contains(&port) { vec![(first, first + 511)] } else { vec![] };
            assert_eq!(blocks, expected, "{port}");
            assert!(answer.holdings.iter().all(|held| held.inside.is_none() && held.protocol.is_none()));
        }
        assert_eq!(ask(&dir, &asked(1_600, TEN), TEN + 7_000).holdings.len(), 2, "of any protocol");
    };
    check();
    ledger.work(TEN + 2 * DAY);
    assert_eq!(Files::list(dir.path()).expect("listed").segments.len(), 1);
    check();
}

#[test]
fn a_holding_keeps_its_beginning_and_its_name_however_often_the_log_is_renewed() {
    let dir = directory();
    let mut ledger = ledger(dir.path(), TEN);
    ledger.take(&event(PortChange::Began, 1_000), TEN + 1);
    for day in 1..5 {
        ledger.take(&event(PortChange::Began, 1_001), TEN + day * DAY);
        ledger.take(&event(PortChange::Ended, 1_001), TEN + day * DAY);
        ledger.work(TEN + day * DAY + 1);
    }
    ledger.take(&event(PortChange::Ended, 1_000), TEN + 5 * DAY);
    ledger.work(TEN + 7 * DAY);
    assert!(Files::list(dir.path()).expect("listed").segments.len() >= 4);
    let answer = ask(&dir, &asked(1_000, TEN + 2 * DAY), TEN + 7 * DAY);
    let [held] = answer.holdings.as_slice() else { panic!("once: {answer:?}") };
    assert_eq!((held.tenant.as_str(), held.branch.as_deref()), ("tenant-1", Some("branch-7")));
    assert_eq!((held.began_unix_ms, held.ended_unix_ms), (TEN + 1, Some(TEN + 5 * DAY)));
    assert_eq!(answer.gaps, []);
    // What came and went in one moment was there.
    assert_eq!(ask(&dir, &asked(1_001, TEN + 2 * DAY), TEN + 7 * DAY).holdings.len(), 1);
}

/// Who had what: a list.
#[derive(Default)]
struct Naive(Vec<(PortEvent, u64, u64)>);

impl Naive {
    fn take(&mut self, event: &PortEvent, at: u64) {
        if event.change == PortChange::Began {
            self.0.push((*event, at, u64::MAX));
        } else {
            let is = |held: &&mut (PortEvent, u64, u64)| held.2 == u64::MAX && same(&held.0, event);
            self.0.iter_mut().find(is).expect("it began").2 = at;
        }
    }

    fn who_had(&self, asked: &Asked) -> Vec<(String, u64, Option<u64>)> {
        let fits = |(event, began, ended): &&(PortEvent, u64, u64)| {
            let (first, last) = event.ports;
            let protocol =
                asked.protocol.is_none() || event.protocol.is_none() || event.protocol == asked.protocol;
            let in_time =
                *began < asked.until && (*ended > asked.from || began == ended && *began >= asked.from);
            event.outside == asked.address && first <= asked.port && asked.port <= last && protocol && in_time
        };
        let found = self.0.iter().filter(fits);
        let mut found: Vec<_> = found
            .map(|(event, began, ended)| {
                let branch = event.branch.map_or("-".into(), |branch| format!("branch-{}", branch.index()));
                let who =
                    format!("tenant-{} {branch} {:?} {:?}", event.tenant.index(), event.inside, event.ports);
                (who, *began, (*ended != u64::MAX).then_some(*ended))
            })
            .collect();
        found.sort();
        found
    }
}

fn same(a: &PortEvent, b: &PortEvent) -> bool {
    (a.outside, a.ports.0, a.protocol) == (b.outside, b.ports.0, b.protocol)
}

fn told(answer: &WhoHad) -> Vec<(String, u64, Option<u64>)> {
    let mut found: Vec<_> = answer
        .holdings
        .iter()
        .map(|held| {
            let branch = held.branch.as_deref().unwrap_or("-");
            let inside = held.inside.zip(held.inside_port);
            let ports = (held.first_port, held.last_port);
            assert!(!held.began_unsure && !held.ended_unsure);
            (format!("{} {branch} {inside:?} {ports:?}", held.tenant), held.began_unix_ms, held.ended_unix_ms)
        })
        .collect();
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_ledger_answers_as_a_list_does(
        steps in proptest::collection::vec(
            (0u8..3, 1_000u16..1_006, 0u8..4, 0u16..3, 0u64..400, 0u8..40), 1..300),
        questions in proptest::collection::vec((0u8..3, 1_000u16..1_030, 0u8..4, 0u64..60_000, 1u64..3_000), 40),
    ) {
        let dir = directory();
        let mut ledger = ledger(dir.path(), TEN);
        let (mut naive, mut now) = (Naive::default(), TEN);
        let mut held: Vec<PortEvent> = Vec::new();
        for (address, port, kind, tenant, wait, rare) in steps {
            now += wait;
            let mut event = event(PortChange::Began, port);
            event.outside = if address == 2 { "2001:db8::7".parse().expect("an address") } else { outside(address) };
            event.tenant = TenantId(tenant);
            event.branch = (tenant > 0).then_some(SiteId(u32::from(tenant) + u32::from(port)));
            match kind {
                0 => event.protocol = Some(Protocol::TCP),
                1 => (event.ports, event.protocol, event.inside) = ((port * 4, port * 4 + 3), None, None),
                _ => {}
            }
            if kind == 1 {
                event.ports = (1_000 + (port - 1_000) * 4, 1_003 + (port - 1_000) * 4);
            }
            match held.iter().position(|other| same(other, &event)) {
                Some(at) => event = PortEvent { change: PortChange::Ended, ..held.swap_remove(at) },
                None => held.push(event),
            }
            naive.take(&event, now);
            ledger.take(&event, now);
            if rare == 0 {
                ledger.work(now);
                ledger.renew(now).expect("renewed");
            }
        }
        ledger.work(now);
        for (address, port, protocol, from, span) in questions {
            let address = if address == 2 { "2001:db8::7".parse().expect("an address") } else { outside(address) };
            let protocol = [None, Some(Protocol::TCP), Some(Protocol::UDP), Some(Protocol(47))][usize::from(protocol)];
            let question = Asked { address, port, protocol, from: TEN + from, until: TEN + from + span };
            let answer = ask(&dir, &question, now + 1);
            prop_assert_eq!(told(&answer), naive.who_had(&question), "{:?}", question);
            prop_assert!(answer.answer != Answer::NotSure, "{:?}", answer);
        }
    }
}
