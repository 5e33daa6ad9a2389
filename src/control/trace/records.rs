//! A flow's records out of the history: the questions, and the rows of the answers as the records that they were.

use super::TracedSession;
use crate::pipeline::report::{Denial, Dropped, DroppedFor, FlowReport, MoveRow, StoryReport, TraceAsked};
use crate::store::report::{Cell, FlowAnswer, FlowQuestion, FlowRange};
use std::net::IpAddr;
use std::ops::Range;

/// Rows that `filter` means and that ended in that time, the newest `limit` of them.
pub(super) fn question(filter: String, time: Range<u64>, limit: usize) -> FlowQuestion {
    let range = FlowRange::Between { from_unix_ms: time.start, until_unix_ms: time.end };
    FlowQuestion { filter, range, limit: Some(limit), ..FlowQuestion::default() }
}

/// Means all records of a flow, and some of others: [`is_asked`] tells them apart.
pub(super) fn filter(asked: &TraceAsked) -> String {
    let [one, other] = asked.ends;
    let port =
        |port: u16| format!("(port = {port} or nat_source_port = {port} or nat_destination_port = {port})");
    let protocol = asked.protocol.map_or(String::new(), |protocol| format!(" and protocol = {protocol}"));
    format!(
        "tenant = {} and host = {} and host = {} and {} and {}{protocol}",
        asked.tenant,
        one.0,
        other.0,
        port(one.1),
        port(other.1),
    )
}

/// Means the records of one session.
pub(super) fn filter_of(tenant: &str, session: &TracedSession) -> String {
    let TracedSession { session, source, source_port, destination, destination_port, .. } = session;
    format!(
        "tenant = {tenant} and session = {session} and src = {source} and sport = {source_port} and dst = \
         {destination} and dport = {destination_port}"
    )
}

/// Whether a record is of the flow: between its two ends, before translation or after, whoever began.
pub(super) fn is_asked(flow: &FlowReport, asked: &TraceAsked) -> bool {
    let inside = [(flow.source, flow.source_port), (flow.destination, flow.destination_port)];
    let translated = |inside: (IpAddr, u16), address: Option<IpAddr>, port: Option<u16>| {
        address.map_or(inside, |address| (address, port.unwrap_or_default()))
    };
    let outside = [
        translated(inside[0], flow.nat_source, flow.nat_source_port),
        translated(inside[1], flow.nat_destination, flow.nat_destination_port),
    ];
    let [one, other] = asked.ends;
    flow.tenant == asked.tenant
        && asked.protocol.is_none_or(|protocol| flow.protocol == protocol.to_string())
        && [inside, outside].iter().any(|ends| *ends == [one, other] || *ends == [other, one])
}

/// The rows of an answer as records. What no record can be made of is left out.
pub(super) fn of(answer: &FlowAnswer) -> Vec<FlowReport> {
    answer.rows.iter().filter_map(|row| Row { answer, row }.record()).collect()
}

/// A row, by its columns' names.
struct Row<'a> {
    answer: &'a FlowAnswer,
    row: &'a [Cell],
}

impl Row<'_> {
    fn record(&self) -> Option<FlowReport> {
        let port = |name: &str| self.number(name).map(|port| port as u16);
        Some(FlowReport {
            session: self.number("session")?,
            tenant: self.text("tenant")?,
            protocol: self.text("protocol")?,
            source: self.address("source")?,
            source_port: port("source_port")?,
            destination: self.address("destination")?,
            destination_port: port("destination_port")?,
            nat_source: self.address("nat_source"),
            nat_source_port: port("nat_source_port"),
            nat_destination: self.address("nat_destination"),
            nat_destination_port: port("nat_destination_port"),
            from: self.text("from")?,
            to: self.text("to")?,
            class: self.text("class")?,
            class_by: self.text("class_by")?,
            app: self.text("app"),
            name: self.text("name"),
            rule: self.text("rule")?,
            dscp: self.number("dscp")? as u8,
            forward_path: self.text("forward_path"),
            reverse_path: self.text("reverse_path"),
            start_unix_ms: self.number("start")?,
            end_unix_ms: self.number("end")?,
            forward_packets: self.number("forward_packets")?,
            forward_bytes: self.number("forward_bytes")?,
            reverse_packets: self.number("reverse_packets")?,
            reverse_bytes: self.number("reverse_bytes")?,
            tcp_flags: self.number("tcp_flags")? as u8,
            generation: self.number("generation")?,
            end_reason: self.text("end_reason")?,
            story: self.story(),
        })
    }

    fn story(&self) -> Option<Box<StoryReport>> {
        let moves = |name: &str| -> Vec<MoveRow> {
            self.text(name).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
        };
        let drops = self.text("drop_reasons").unwrap_or_default();
        let denied = self.text("denied_by").map(|text| Denial {
            reason: dropped_for(&text),
            unix_ms: self.number("end").unwrap_or_default()
                + self.number("denied_after_ms").unwrap_or_default(),
        });
        let story = StoryReport {
            forward_moves: moves("forward_moves"),
            reverse_moves: moves("reverse_moves"),
            drops: drops.split(", ").filter_map(dropped).collect(),
            denied,
        };
        (story != StoryReport::default()).then(|| Box::new(story))
    }

    fn cell(&self, name: &str) -> Option<&Cell> {
        let at = self.answer.columns.iter().position(|column| column.name == name)?;
        self.row.get(at)
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.cell(name)? {
            Cell::Number(number) => Some(*number),
            Cell::Text(_) | Cell::None => None,
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.cell(name)? {
            Cell::Text(text) => Some(text.clone()),
            Cell::Number(_) | Cell::None => None,
        }
    }

    fn address(&self, name: &str) -> Option<IpAddr> {
        self.text(name)?.parse().ok()
    }
}

/// `acl-dropped no-telnet`, or a reason alone.
fn dropped_for(text: &str) -> DroppedFor {
    match text.split_once(' ') {
        Some((reason, detail)) => DroppedFor { reason: reason.to_owned(), detail: Some(detail.to_owned()) },
        None => DroppedFor { reason: text.to_owned(), detail: None },
    }
}

/// The same with how many.
fn dropped(text: &str) -> Option<Dropped> {
    let (reason, packets) = text.rsplit_once(' ')?;
    Some(Dropped { reason: dropped_for(reason), packets: packets.parse().ok()? })
}
