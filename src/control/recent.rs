//! The last flow records, in names, for whoever wants to see what just happened. The history proper is `store`'s.

use crate::pipeline::report::{FlowFilter, FlowReport};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use utoipa::ToSchema;

/// 20,000: some minutes of a busy PoP, at about half a kilobyte each 10 MB.
const CAPACITY: usize = 20_000;

/// A bounded ring of flow records. The exporter's thread pushes; the API reads.
#[derive(Default)]
pub struct RecentFlows(Mutex<VecDeque<FlowReport>>);

/// Flow records that match, newest first, cut at the limit that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowPage {
    /// How many of those still held match in all.
    pub matching: u64,
    /// How many are held.
    pub held: u64,
    pub flows: Vec<FlowReport>,
}

impl RecentFlows {
    /// Adds a record; the oldest makes room for it.
    pub fn push(&self, flow: FlowReport) {
        let mut ring = self.ring();
        if ring.len() >= CAPACITY {
            ring.pop_front();
        }
        ring.push_back(flow);
    }

    /// The newest `limit` records that match.
    pub fn page(&self, filter: &FlowFilter, limit: usize) -> FlowPage {
        let ring = self.ring();
        let mut page = FlowPage { held: ring.len() as u64, ..FlowPage::default() };
        for flow in ring.iter().rev().filter(|flow| matches(filter, flow)) {
            page.matching += 1;
            if page.flows.len() < limit {
                page.flows.push(flow.clone());
            }
        }
        page
    }

    /// All records held that `is_asked` means, and when the oldest that is held ended, in milliseconds since the Unix epoch.
    pub fn between(&self, is_asked: impl Fn(&FlowReport) -> bool) -> (Vec<FlowReport>, Option<u64>) {
        let ring = self.ring();
        let since = ring.front().map(|flow| flow.end_unix_ms);
        (ring.iter().filter(|flow| is_asked(flow)).cloned().collect(), since)
    }

    /// A ring is whole between any two of its operations, so a poisoned lock is as good as any.
    fn ring(&self) -> MutexGuard<'_, VecDeque<FlowReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matches(filter: &FlowFilter, flow: &FlowReport) -> bool {
    let addresses = [Some(flow.source), Some(flow.destination), flow.nat_source, flow.nat_destination];
    let ports = [
        Some(flow.source_port),
        Some(flow.destination_port),
        flow.nat_source_port,
        flow.nat_destination_port,
    ];
    filter.tenant.as_ref().is_none_or(|tenant| *tenant == flow.tenant)
        && filter.class.as_ref().is_none_or(|class| *class == flow.class)
        && (filter.address.is_none() || addresses.contains(&filter.address))
        && (filter.port.is_none() || ports.contains(&filter.port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn the_newest_come_first_and_the_oldest_make_room() {
        let recent = RecentFlows::default();
        for session in 0..CAPACITY as u64 + 5 {
            recent.push(flow(session, "acme"));
        }
        let page = recent.page(&FlowFilter::default(), 2);
        assert_eq!((page.matching, page.held), (CAPACITY as u64, CAPACITY as u64));
        let newest = CAPACITY as u64 + 4;
        assert_eq!(page.flows.iter().map(|f| f.session).collect::<Vec<_>>(), [newest, newest - 1]);
    }

    #[test]
    fn a_filter_finds_either_end_before_and_after_translation() {
        let recent = RecentFlows::default();
        recent.push(flow(1, "acme"));
        recent.push(flow(2, "globex"));
        let count = |filter: FlowFilter| recent.page(&filter, 10).matching;
        let address = |text: &str| FlowFilter { address: text.parse().ok(), ..FlowFilter::default() };
        let port = |port| FlowFilter { port: Some(port), ..FlowFilter::default() };
        assert_eq!(count(address("10.1.0.5")), 2);
        assert_eq!(count(address("192.0.2.1")), 2);
        assert_eq!(count(address("198.51.100.1")), 2);
        assert_eq!(count(address("198.51.100.2")), 0);
        assert_eq!([443, 40_000, 1_024, 80].map(|p| count(port(p))), [2, 2, 2, 0]);
        assert_eq!(count(FlowFilter { tenant: Some("acme".into()), ..FlowFilter::default() }), 1);
        assert_eq!(count(FlowFilter { class: Some("voice".into()), ..FlowFilter::default() }), 0);
    }

    #[test]
    fn no_address_in_the_filter_is_not_the_same_as_no_translation_in_the_flow() {
        let recent = RecentFlows::default();
        recent.push(FlowReport { nat_source: None, nat_source_port: None, ..flow(1, "acme") });
        assert_eq!(recent.page(&FlowFilter::default(), 10).matching, 1);
        let other = FlowFilter { address: "203.0.113.9".parse().ok(), ..FlowFilter::default() };
        assert_eq!(recent.page(&other, 10).matching, 0);
    }

    fn flow(session: u64, tenant: &str) -> FlowReport {
        FlowReport {
            session,
            tenant: tenant.into(),
            protocol: "tcp".into(),
            source: IpAddr::from([10, 1, 0, 5]),
            source_port: 40_000,
            destination: IpAddr::from([192, 0, 2, 1]),
            destination_port: 443,
            nat_source: Some(IpAddr::from([198, 51, 100, 1])),
            nat_source_port: Some(1_024),
            nat_destination: None,
            nat_destination_port: None,
            from: "branch:berlin".into(),
            to: "handoff:internet".into(),
            class: "default".into(),
            class_by: "rule".into(),
            app: None,
            name: None,
            rule: "web-out".into(),
            dscp: 0,
            forward_path: None,
            reverse_path: None,
            start_unix_ms: 0,
            end_unix_ms: 0,
            forward_packets: 1,
            forward_bytes: 60,
            reverse_packets: 0,
            reverse_bytes: 0,
            generation: 1,
            tcp_flags: 0,
            end_reason: "end-of-flow".into(),
            story: None,
        }
    }
}
