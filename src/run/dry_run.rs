//! What another configuration would do to flows that there are: each is explained by both, and the differences are told.

use super::check::explain_in;
use crate::config::Outcome;
use crate::control::commits::{ChangeKind, DryRun, FlowChange};
use crate::model::{AskedEnd, AskedFlow, Protocol};
use crate::pipeline::report::{Explanation, FlowReport, SessionReport};
use crate::tables::Generation;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Flows that each change names.
const EXAMPLES: usize = 5;

/// Changes that are told: beyond that nobody reads.
const MOST_CHANGES: usize = 200;

/// A flow that is, or was.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    tenant: String,
    protocol: String,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    dscp: u8,
    name: Option<String>,
    bytes: u64,
    lives: bool,
}

impl From<&SessionReport> for Flow {
    fn from(session: &SessionReport) -> Flow {
        Flow {
            tenant: session.tenant.clone(),
            protocol: session.protocol.clone(),
            source: (session.source, session.source_port),
            destination: (session.destination, session.destination_port),
            dscp: 0,
            name: session.name.clone(),
            bytes: session.forward_bytes + session.reverse_bytes,
            lives: true,
        }
    }
}

impl From<&FlowReport> for Flow {
    fn from(flow: &FlowReport) -> Flow {
        Flow {
            tenant: flow.tenant.clone(),
            protocol: flow.protocol.clone(),
            source: (flow.source, flow.source_port),
            destination: (flow.destination, flow.destination_port),
            dscp: flow.dscp,
            name: flow.name.clone(),
            bytes: flow.forward_bytes + flow.reverse_bytes,
            lives: false,
        }
    }
}

/// What is different with `then` from what is with `now`.
pub(super) fn run(now: &Generation, then: &Generation, flows: &[Flow]) -> DryRun {
    let mut run = DryRun::default();
    let mut changes: BTreeMap<(String, ChangeKind, String, String), FlowChange> = BTreeMap::new();
    for flow in flows {
        *(if flow.lives { &mut run.sessions } else { &mut run.records }) += 1;
        let Some(asked) = asked(flow) else { continue };
        // A tenant that is not there now has no flows; one that will not be, none that pass.
        let Ok(before) = explain_in(now, &flow.tenant, &asked) else { continue };
        let after = explain_in(then, &flow.tenant, &asked).ok();
        for (kind, was, is) in differences(&before, after.as_ref()) {
            let rule = after.as_ref().and_then(|it| it.rule.clone());
            let key = (flow.tenant.clone(), kind, was.clone(), is.clone());
            let change = changes.entry(key).or_insert_with(|| FlowChange {
                tenant: flow.tenant.clone(),
                kind,
                now: was,
                then: is,
                rule,
                flows: 0,
                sessions: 0,
                bytes: 0,
                examples: Vec::new(),
            });
            change.flows += 1;
            change.sessions += u64::from(flow.lives);
            change.bytes += flow.bytes;
            if change.examples.len() < EXAMPLES {
                change.examples.push(describe(flow));
            }
        }
    }
    run.changes = changes.into_values().collect();
    run.changes.sort_by_key(|change| (change.kind, std::cmp::Reverse(change.flows)));
    run.changes.truncate(MOST_CHANGES);
    run
}

fn asked(flow: &Flow) -> Option<AskedFlow> {
    let protocol = Protocol::by_name(&flow.protocol)?;
    let end = |(address, port)| AskedEnd { address, port: protocol.has_ports().then_some(port) };
    let sni = flow.name.as_deref().and_then(|name| name.parse().ok());
    Some(AskedFlow { from: end(flow.source), to: end(flow.destination), protocol, dscp: flow.dscp, sni })
}

/// What differs, with how it is and how it would be.
fn differences(now: &Explanation, then: Option<&Explanation>) -> Vec<(ChangeKind, String, String)> {
    let Some(then) = then else {
        return vec![(ChangeKind::Dropped, outcome(now), "there is no such tenant".to_owned())];
    };
    let passes = |it: &Explanation| it.outcome == Outcome::Accept;
    match (passes(now), passes(then)) {
        (true, false) => vec![(ChangeKind::Dropped, outcome(now), outcome(then))],
        (false, true) => vec![(ChangeKind::Admitted, outcome(now), outcome(then))],
        (false, false) => Vec::new(),
        (true, true) => {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            let paths = |it: &Explanation| {
                let name = |step: &crate::pipeline::report::PathStep| format!("{}/{}", step.site, step.path);
                it.paths.iter().map(name).collect::<Vec<_>>().join(", ")
            };
            let of = [
                (ChangeKind::Class, or_none(&now.class), or_none(&then.class)),
                (ChangeKind::Path, paths(now), paths(then)),
                (ChangeKind::Nat, now.nat.join(", "), then.nat.join(", ")),
            ];
            of.into_iter().filter(|(_, now, then)| now != then).collect()
        }
    }
}

fn outcome(it: &Explanation) -> String {
    let word = match it.outcome {
        Outcome::Accept => "accept",
        Outcome::Drop => "drop",
        Outcome::Reject => "reject",
    };
    match (&it.rule, &it.reason) {
        (Some(rule), _) => format!("{word} by {rule}"),
        (None, Some(reason)) => format!("{word}: {reason}"),
        (None, None) => word.to_owned(),
    }
}

fn describe(flow: &Flow) -> String {
    let end = |(address, port): (IpAddr, u16)| match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    format!("{} {} -> {}", flow.protocol, end(flow.source), end(flow.destination))
}
