//! Records and what is live, told by session: what each was, and what happened to it in order.

use super::{TraceEvent, TraceEventKind, TraceMove, TracedSession};
use crate::pipeline::report::{Denial, Dropped, FlowReport, MoveRow, SessionReport, StoryReport, Traced};
use std::collections::BTreeMap;
use std::ops::Range;

/// Of several sessions between the same ends, so many are told.
const SESSIONS: usize = 20;
/// Why a record was written of a session that goes on.
const GOES_ON: &str = "active-timeout";

/// The sessions that were there at that time, the newest first; or else the last before and the first after, and `false`.
pub(super) fn told(
    records: Vec<FlowReport>,
    live: &Traced,
    at: &Range<u64>,
    now: u64,
) -> (Vec<TracedSession>, bool) {
    let mut of_sessions: BTreeMap<_, (Vec<FlowReport>, Option<&SessionReport>)> = BTreeMap::new();
    for record in records.into_iter().chain(live.denied.iter().cloned()) {
        let key = (record.session, record.protocol.clone(), record.source, record.source_port);
        of_sessions.entry(key).or_default().0.push(record);
    }
    for session in &live.sessions {
        let key = (session.id, session.protocol.clone(), session.source, session.source_port);
        of_sessions.entry(key).or_default().1 = Some(session);
    }
    let sessions = of_sessions.into_values();
    let mut sessions: Vec<TracedSession> =
        sessions.filter_map(|(records, live)| session(records, live, now)).collect();
    sessions.sort_by_key(|session| std::cmp::Reverse((session.began_unix_ms, session.session)));
    let last = |session: &TracedSession| {
        let denied = session.denied.as_ref().map(|denial| denial.unix_ms);
        session.ended_unix_ms.map_or(u64::MAX, |ended| denied.unwrap_or(ended).max(ended))
    };
    let was_there = |session: &TracedSession| session.began_unix_ms < at.end && last(session) >= at.start;
    if sessions.iter().any(was_there) {
        sessions.retain(was_there);
        sessions.truncate(SESSIONS);
        return (sessions, true);
    }
    let after =
        sessions.iter().filter(|session| session.began_unix_ms >= at.end).min_by_key(|s| s.began_unix_ms);
    let before = sessions.iter().filter(|session| last(session) < at.start).max_by_key(|s| last(s));
    (after.into_iter().chain(before).cloned().collect(), false)
}

/// One session, of its records and what is live of it.
fn session(mut records: Vec<FlowReport>, live: Option<&SessionReport>, now: u64) -> Option<TracedSession> {
    // One that was written while the workers were asked comes twice; the later has all there is to tell.
    records.sort_by_key(|record| (record.end_unix_ms, record.start_unix_ms, dropped_packets(record)));
    records.dedup_by(|later, earlier| {
        let same = (later.start_unix_ms, later.end_unix_ms, &later.end_reason)
            == (earlier.start_unix_ms, earlier.end_unix_ms, &earlier.end_reason);
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    let last = records.last();
    let is_over = last.is_some_and(|last| last.end_reason != GOES_ON);
    let live = live.filter(|_| !is_over);
    let mut told = match (live, last) {
        (Some(live), _) => of_live(live, now),
        (None, Some(last)) => of_record(last),
        (None, None) => return None,
    };
    if let Some(first) = records.first() {
        told.began_unix_ms = told.began_unix_ms.min(first.start_unix_ms);
    }
    if live.is_none() {
        let sum = |count: fn(&FlowReport) -> u64| records.iter().map(count).sum();
        told.forward_packets = sum(|record| record.forward_packets);
        told.forward_bytes = sum(|record| record.forward_bytes);
        told.reverse_packets = sum(|record| record.reverse_packets);
        told.reverse_bytes = sum(|record| record.reverse_bytes);
    }
    told.events = events(&records, live, &told, now);
    let live_story = live.and_then(|live| live.story.as_deref());
    let stories = records.iter().filter_map(|record| record.story.as_deref()).chain(live_story);
    for drop in stories.flat_map(|story| &story.drops) {
        match told.drops.iter_mut().find(|known| known.reason == drop.reason) {
            Some(known) => known.packets += drop.packets,
            None => told.drops.push(drop.clone()),
        }
    }
    Some(told)
}

fn dropped_packets(record: &FlowReport) -> u64 {
    record.story.as_ref().map_or(0, |story| story.dropped_packets())
}

fn of_live(live: &SessionReport, now: u64) -> TracedSession {
    let live = live.clone();
    TracedSession {
        session: live.id,
        protocol: live.protocol,
        source: live.source,
        source_port: live.source_port,
        destination: live.destination,
        destination_port: live.destination_port,
        nat_source: live.nat_source,
        nat_source_port: live.nat_source_port,
        nat_destination: live.nat_destination,
        nat_destination_port: live.nat_destination_port,
        from: live.from,
        to: live.to,
        class: live.class,
        class_by: live.class_by,
        app: live.app,
        name: live.name,
        rule: live.rule,
        dscp: live.dscp,
        generation: live.generation,
        forward_path: live.forward_path,
        reverse_path: live.reverse_path,
        tcp_state: live.tcp_state,
        began_unix_ms: now.saturating_sub((live.age_secs * 1e3) as u64),
        ended_unix_ms: None,
        end_reason: None,
        denied: None,
        forward_packets: live.forward_packets,
        forward_bytes: live.forward_bytes,
        reverse_packets: live.reverse_packets,
        reverse_bytes: live.reverse_bytes,
        drops: Vec::new(),
        events: Vec::new(),
    }
}

fn of_record(record: &FlowReport) -> TracedSession {
    let record = record.clone();
    let is_over = record.end_reason != GOES_ON;
    TracedSession {
        session: record.session,
        protocol: record.protocol,
        source: record.source,
        source_port: record.source_port,
        destination: record.destination,
        destination_port: record.destination_port,
        nat_source: record.nat_source,
        nat_source_port: record.nat_source_port,
        nat_destination: record.nat_destination,
        nat_destination_port: record.nat_destination_port,
        from: record.from,
        to: record.to,
        class: record.class,
        class_by: record.class_by,
        app: record.app,
        name: record.name,
        rule: record.rule,
        dscp: record.dscp,
        generation: record.generation,
        forward_path: record.forward_path,
        reverse_path: record.reverse_path,
        tcp_state: None,
        began_unix_ms: record.start_unix_ms,
        ended_unix_ms: Some(record.end_unix_ms),
        end_reason: is_over.then_some(record.end_reason),
        denied: record.story.and_then(|story| story.denied),
        forward_packets: 0,
        forward_bytes: 0,
        reverse_packets: 0,
        reverse_bytes: 0,
        drops: Vec::new(),
        events: Vec::new(),
    }
}

/// Who decided on it at some time.
#[derive(PartialEq)]
struct Decided<'a> {
    class: &'a str,
    class_by: &'a str,
    rule: &'a str,
}

fn events(
    records: &[FlowReport],
    live: Option<&SessionReport>,
    told: &TracedSession,
    now: u64,
) -> Vec<TraceEvent> {
    let mut events = Vec::new();
    let mut add = |unix_ms, what, text| events.push(TraceEvent { unix_ms, what, text, moved: None });
    // By when each was so, and by which generation.
    let of_record = |record: &'_ FlowReport| record.end_unix_ms;
    let mut decided: Vec<(u64, u64, Decided<'_>)> = records
        .iter()
        .map(|record| {
            let FlowReport { class, class_by, rule, generation, .. } = record;
            (of_record(record), *generation, Decided { class, class_by, rule })
        })
        .collect();
    if let Some(SessionReport { class, class_by, rule, generation, .. }) = live {
        decided.push((now, *generation, Decided { class, class_by, rule }));
    }
    let first = decided.first().map(|(_, generation, decided)| {
        let Decided { class, class_by, rule } = decided;
        (format!("class {class} ({class_by}), accepted by {rule}"), *generation)
    });
    let stories = || {
        let of_records =
            records.iter().filter_map(|record| Some((of_record(record), record.story.as_deref()?)));
        of_records.chain(live.and_then(|live| Some((now, live.story.as_deref()?))))
    };
    let path = |moves: fn(&StoryReport) -> &[MoveRow], last: &Option<String>| {
        let first = stories().find_map(|(_, story)| moves(story).first());
        first.map(|moved| moved.from.clone()).or_else(|| last.clone())
    };
    let paths = [
        path(|story| &story.forward_moves, &told.forward_path),
        path(|story| &story.reverse_moves, &told.reverse_path),
    ];
    let on = match paths {
        [Some(forward), Some(reverse)] if forward == reverse => format!(", on {forward}"),
        [Some(forward), Some(reverse)] => format!(", on {forward}, answered on {reverse}"),
        [Some(forward), None] => format!(", on {forward}"),
        [None, Some(reverse)] => format!(", answered on {reverse}"),
        [None, None] => String::new(),
    };
    if let Some((decision, generation)) = first {
        let denied = records
            .first()
            .is_some_and(|record| record.story.as_ref().is_some_and(|story| story.denied.is_some()));
        // The generation of one that was denied is that which did it.
        let by = if denied { String::new() } else { format!(", by generation {generation}") };
        add(told.began_unix_ms, TraceEventKind::Began, format!("began: {decision}{by}{on}"));
    }
    for pair in decided.windows(2) {
        let [(_, _, before), (by, generation, after)] = pair else { continue };
        if before != after {
            let Decided { class, class_by, rule } = after;
            let text = format!(
                "decided on again: class {class} ({class_by}), accepted by {rule}, by generation {generation}"
            );
            add(*by, TraceEventKind::Decided, text);
        }
    }
    for (by, story) in stories() {
        let at = story.denied.as_ref().map_or(by, |denial| denial.unix_ms);
        for Dropped { reason, packets } in &story.drops {
            let word = if *packets == 1 { "packet" } else { "packets" };
            add(at, TraceEventKind::Dropped, format!("{packets} {word} dropped: {reason}"));
        }
    }
    match (&told.denied, &told.end_reason, told.ended_unix_ms) {
        (Some(Denial { reason, unix_ms }), ..) => {
            let text = format!("denied: {reason}, by generation {}", told.generation);
            add(*unix_ms, TraceEventKind::Denied, text);
        }
        (None, Some(reason), Some(ended)) => add(ended, TraceEventKind::Ended, format!("ended: {reason}")),
        _ => {}
    }
    for (_, story) in stories() {
        for (direction, moves) in [("forward", &story.forward_moves), ("reverse", &story.reverse_moves)] {
            events.extend(moves.iter().map(|moved| of_move(direction, moved)));
        }
    }
    events.sort_by_key(|event| (event.unix_ms, event.what));
    events
}

fn of_move(direction: &str, moved: &MoveRow) -> TraceEvent {
    let MoveRow { unix_ms, from, to, by, why, detail, unkept } = moved;
    let unkept = match unkept {
        0 => String::new(),
        moves => format!(" ({moves} moves before that were not kept)"),
    };
    TraceEvent {
        unix_ms: *unix_ms,
        what: TraceEventKind::Moved,
        text: format!("{direction}: {from} > {to}: {detail}{unkept}"),
        moved: Some(TraceMove {
            direction: direction.to_owned(),
            from: from.clone(),
            to: to.clone(),
            by: *by,
            why: why.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::report::{DroppedFor, MoveBy};

    fn record(session: u64, start: u64, end: u64, end_reason: &str) -> FlowReport {
        FlowReport {
            session,
            tenant: "acme".into(),
            protocol: "tcp".into(),
            source: [10, 1, 0, 5].into(),
            source_port: 51_000,
            destination: [203, 0, 113, 9].into(),
            destination_port: 443,
            nat_source: None,
            nat_source_port: None,
            nat_destination: None,
            nat_destination_port: None,
            from: "branch:lyon".into(),
            to: "handoff:internet".into(),
            class: "voice".into(),
            class_by: "rule".into(),
            app: None,
            name: None,
            rule: "out".into(),
            dscp: 0,
            forward_path: Some("lte".into()),
            reverse_path: Some("lte".into()),
            start_unix_ms: start,
            end_unix_ms: end,
            forward_packets: 2,
            forward_bytes: 200,
            reverse_packets: 1,
            reverse_bytes: 1_000,
            tcp_flags: 0,
            generation: 3,
            end_reason: end_reason.into(),
            story: None,
        }
    }

    fn moved(unix_ms: u64) -> MoveRow {
        let (from, to) = ("dsl".to_owned(), "lte".to_owned());
        let detail = "dsl has not answered for 200 ms".to_owned();
        MoveRow { unix_ms, from, to, by: MoveBy::Here, why: Some("down".into()), detail, unkept: 0 }
    }

    fn numbers(told: &(Vec<TracedSession>, bool)) -> (Vec<u64>, bool) {
        (told.0.iter().map(|session| session.session).collect(), told.1)
    }

    #[test]
    fn a_session_is_its_records_in_order_of_time_with_all_that_they_tell() {
        let with =
            |story: StoryReport, record: FlowReport| FlowReport { story: Some(Box::new(story)), ..record };
        let too_big = DroppedFor { reason: "too-big".into(), detail: None };
        let by_rule = DroppedFor { reason: "acl-dropped".into(), detail: Some("no-web".into()) };
        let first = with(
            StoryReport {
                forward_moves: vec![moved(1_500)],
                drops: vec![Dropped { reason: too_big.clone(), packets: 1 }],
                ..StoryReport::default()
            },
            record(7, 1_000, 2_000, "active-timeout"),
        );
        let last = with(
            StoryReport {
                drops: vec![
                    Dropped { reason: by_rule.clone(), packets: 5 },
                    Dropped { reason: too_big, packets: 1 },
                ],
                denied: Some(Denial { reason: by_rule, unix_ms: 3_400 }),
                ..StoryReport::default()
            },
            FlowReport { generation: 4, class: "bulk".into(), ..record(7, 2_100, 3_000, "forced-end") },
        );
        // As it was while it waited, and as it was written then.
        let live = Traced { denied: vec![FlowReport { story: None, ..last.clone() }], ..Traced::default() };
        let told = told(vec![last, first], &live, &(2_500..2_501), 9_000);
        let [session] = &told.0[..] else { panic!("{told:?}") };
        assert_eq!((session.began_unix_ms, session.ended_unix_ms), (1_000, Some(3_000)));
        assert_eq!((session.forward_packets, session.reverse_bytes), (4, 2_000));
        let drops: Vec<_> =
            session.drops.iter().map(|drop| (drop.reason.to_string(), drop.packets)).collect();
        assert_eq!(drops, [("too-big".to_owned(), 2), ("acl-dropped no-web".to_owned(), 5)]);
        let events: Vec<_> =
            session.events.iter().map(|event| (event.unix_ms, event.text.as_str())).collect();
        let wanted = [
            (1_000, "began: class voice (rule), accepted by out, by generation 3, on dsl, answered on lte"),
            (1_500, "forward: dsl > lte: dsl has not answered for 200 ms"),
            (2_000, "1 packet dropped: too-big"),
            (3_000, "decided on again: class bulk (rule), accepted by out, by generation 4"),
            (3_400, "denied: acl-dropped no-web, by generation 4"),
            (3_400, "5 packets dropped: acl-dropped no-web"),
            (3_400, "1 packet dropped: too-big"),
        ];
        assert_eq!(events, wanted);
    }

    #[test]
    fn those_that_were_there_are_told_or_else_the_nearest_before_and_after() {
        let all = || {
            vec![
                record(1, 1_000, 2_000, "end-of-flow"),
                record(2, 5_000, 6_000, "end-of-flow"),
                record(3, 9_000, 9_500, "active-timeout"),
            ]
        };
        let nobody = Traced::default();
        let at = |time: u64| numbers(&told(all(), &nobody, &(time..time + 1), 20_000));
        assert_eq!(at(500), (vec![1], false));
        assert_eq!(at(1_000), (vec![1], true));
        assert_eq!(at(2_000), (vec![1], true));
        assert_eq!(at(3_000), (vec![2, 1], false));
        assert_eq!(at(5_500), (vec![2], true));
        assert_eq!(at(10_000), (vec![3], false), "whether it goes on is not known");
        assert_eq!(numbers(&told(all(), &nobody, &(0..20_000), 20_000)), (vec![3, 2, 1], true));
        assert_eq!(numbers(&told(Vec::new(), &nobody, &(0..1), 20_000)), (Vec::new(), false));
    }
}
