//! What another configuration would do to flows that there are: each is explained by both, and the differences are told.

use super::check::explain_in;
use crate::config::Outcome;
use crate::control::commits::{ChangeKind, DryRun, FlowChange};
use crate::model::{AskedEnd, AskedFlow, Protocol};
use crate::pipeline::report::{Explanation, FlowReport, SessionReport};
use crate::store::report::{Cell, FlowAnswer, FlowQuestion, FlowRange};
use crate::tables::Generation;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How far back recorded flows are asked about.
const HOURS: u64 = 4;

/// What makes recorded flows alike.
const COLUMNS: [&str; 7] =
    ["tenant", "protocol", "source", "destination", "destination_port", "dscp", "name"];

/// Kinds of recorded flows that are asked about, those with the most flows.
const MOST_KINDS: usize = 10_000;

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
    /// So many of them, where only their source ports differ.
    count: u64,
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
            count: 1,
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
            count: 1,
        }
    }
}

/// What [`recorded`] is asked with: the last hours' flows of a tenant or of all, those that are alike as one.
pub(super) fn question(tenant: Option<String>) -> FlowQuestion {
    FlowQuestion {
        tenant,
        range: FlowRange::Last(format!("{HOURS}h")),
        by: COLUMNS.map(str::to_owned).into(),
        sums: ["flows", "bytes"].map(str::to_owned).into(),
        top: Some(MOST_KINDS),
        ..FlowQuestion::default()
    }
}

/// The flows of an answer to [`question`].
pub(super) fn recorded(answer: &FlowAnswer) -> Vec<Flow> {
    let row = |row: &Vec<Cell>| {
        let text = |at: usize| match row.get(at) {
            Some(Cell::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let number = |at: usize| match row.get(at) {
            Some(Cell::Number(number)) => Some(*number),
            _ => None,
        };
        Some(Flow {
            tenant: text(0)?,
            protocol: text(1)?,
            source: (text(2)?.parse().ok()?, 0),
            destination: (
                text(3)?.parse().ok()?,
                number(4).and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
            ),
            dscp: number(5).and_then(|dscp| u8::try_from(dscp).ok()).unwrap_or(0),
            name: text(6),
            count: number(COLUMNS.len())?,
            bytes: number(COLUMNS.len() + 1)?,
            lives: false,
        })
    };
    answer.rows.iter().filter_map(row).collect()
}

/// What is different with `then` from what is with `now`.
pub(super) fn run(now: &Generation, then: &Generation, flows: &[Flow]) -> DryRun {
    let mut run = DryRun::default();
    let mut changes: BTreeMap<(String, ChangeKind, String, String), FlowChange> = BTreeMap::new();
    for flow in flows {
        *(if flow.lives { &mut run.sessions } else { &mut run.records }) += flow.count;
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
            change.flows += flow.count;
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
    let end =
        |(address, port)| AskedEnd { address, port: (protocol.has_ports() && port > 0).then_some(port) };
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
        _ if port == 0 => address.to_string(),
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    format!("{} {} -> {}", flow.protocol, end(flow.source), end(flow.destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Documents;
    use crate::tables::Compiler;
    use std::os::unix::fs::PermissionsExt;

    const BOX: &str = "site = \"fra1\"\nrole = \"pop\"\nprivate-key-file = \"fra1.key\"\n\n[[transport]]\nname = \"isp\"\n\
                       listen = \"192.0.2.1:51820\"\n";
    const BRANCH: &str = "tenant = \"acme\"\n[[branch]]\nname = \"berlin\"\nprefixes = [\"10.1.0.0/16\"]\n[[branch.path]]\nname = \"dsl\"\n\
                          public-key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\n\
                          [[handoff]]\nname = \"internet\"\nkind = \"internet\"\n";
    const POOL: &str = "nat-pool = [\"198.51.100.0/29\"]\n";
    const OTHER_POOL: &str = "nat-pool = [\"198.51.100.8/29\"]\n";
    const WEB: &str = "[[acl]]\nname = \"web\"\nprotocol = \"tcp\"\ndst-port = 80\naction = \"accept\"\n";
    const DENY: &str = "[[acl]]\nname = \"night\"\nto = [\"203.0.113.9\"]\naction = \"drop\"\n";
    const VOICE: &str = "[[app-class]]\nname = \"voice\"\nmatch = [{ protocol = \"tcp\", dst-port = 80 }]\n";

    fn generation(acme: &[&str]) -> Generation {
        let dir = tempfile::tempdir().expect("a directory");
        let key = dir.path().join("fra1.key");
        std::fs::write(&key, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").expect("written");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("ours");
        let documents = Documents::default()
            .with("popgate.toml", Some(BOX.to_owned()))
            .with("tenants/acme.toml", Some(acme.concat()));
        let candidate = documents.check(dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
        Compiler::new("test-").compile(&candidate).expect("ids are left")
    }

    fn flow(destination: [u8; 4], lives: bool, count: u64) -> Flow {
        Flow {
            tenant: "acme".into(),
            protocol: "tcp".into(),
            source: ([10, 1, 0, 5].into(), if lives { 51_000 } else { 0 }),
            destination: (destination.into(), 80),
            dscp: 0,
            name: None,
            bytes: 100,
            lives,
            count,
        }
    }

    fn flows() -> Vec<Flow> {
        vec![
            flow([203, 0, 113, 9], true, 1),
            flow([203, 0, 113, 9], false, 7),
            flow([203, 0, 113, 10], true, 1),
        ]
    }

    #[test]
    fn flows_that_a_rule_would_drop_are_counted_and_named() {
        let (now, then) = (generation(&[BRANCH, POOL, WEB]), generation(&[BRANCH, POOL, DENY, WEB]));
        let run = run(&now, &then, &flows());
        assert_eq!((run.sessions, run.records), (2, 7));
        let [change] = run.changes.try_into().expect("one change");
        assert_eq!((change.kind, change.rule.as_deref()), (ChangeKind::Dropped, Some("night")));
        assert_eq!((change.flows, change.sessions, change.bytes), (8, 1, 200));
        assert_eq!((change.now.as_str(), change.then.as_str()), ("accept by web", "drop by night"));
        let examples = ["tcp 10.1.0.5:51000 -> 203.0.113.9:80", "tcp 10.1.0.5 -> 203.0.113.9:80"];
        assert_eq!(change.examples, examples);
    }

    #[test]
    fn flows_that_would_pass_or_be_of_another_class_or_address_are_told_apart() {
        let kinds = |now: &[&str], then: &[&str]| {
            let run = run(&generation(now), &generation(then), &flows());
            run.changes.iter().map(|change| (change.kind, change.flows)).collect::<Vec<_>>()
        };
        let now = [BRANCH, POOL, WEB];
        assert_eq!(kinds(&now, &now), []);
        assert_eq!(kinds(&[BRANCH, POOL, DENY, WEB], &now), [(ChangeKind::Admitted, 8)]);
        assert_eq!(kinds(&now, &[BRANCH, POOL, VOICE, WEB]), [(ChangeKind::Class, 9)]);
        assert_eq!(kinds(&now, &[BRANCH, OTHER_POOL, WEB]), [(ChangeKind::Nat, 9)]);
    }

    #[test]
    fn flows_of_a_tenant_that_would_be_gone_are_dropped() {
        let mut others = flows();
        others.iter_mut().for_each(|flow| flow.tenant = "globex".into());
        let (now, then) = (generation(&[BRANCH, POOL, WEB]), generation(&[BRANCH, POOL, WEB]));
        // A tenant that is not there now has nothing that could be dropped.
        assert_eq!(run(&now, &then, &others).changes, []);
    }
}
