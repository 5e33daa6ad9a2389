//! Policy tests: each asks the slow path about its flows, as [`explain`](super::explain()) does, and compares.

use super::explain::explain;
use super::report::{Explanation, StepKind};
use crate::config::{BREAKOUT, Candidate, Outcome, PolicyTest, Problem, Role, SourceRef};
use crate::model::{AskedFlow, TenantId};
use crate::tables::{Generation, Tenant};
use ipnetwork::IpNetwork;

/// A policy test that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsed {
    pub tenant: String,
    pub name: String,
    pub at: SourceRef,
    /// What came out in place of what is expected; `None`: it passes.
    pub failure: Option<String>,
}

/// The candidate's policy tests that fail in `generation`, each at its line with what came out instead.
pub fn rehearse(candidate: &Candidate, generation: &Generation) -> Vec<Problem> {
    let all = rehearse_all(candidate, generation).into_iter();
    let failed = all.filter_map(|Rehearsed { name, at, failure, .. }| {
        failure.map(|why| Problem { at, message: format!("policy test {name:?}: {why}") })
    });
    failed.collect()
}

/// Runs the candidate's policy tests in `generation`, which it was compiled to. A branch box runs those of its own LAN's flows,
/// and asks for translation and the path of what comes from elsewhere only at the PoP, where these are decided.
pub fn rehearse_all(candidate: &Candidate, generation: &Generation) -> Vec<Rehearsed> {
    let is_pop = matches!(candidate.appliance.role, Role::Pop(_));
    let mut rehearsed = Vec::new();
    for config in candidate.tenants.values() {
        let Some((id, _)) = generation.names.all_tenants().find(|(_, name)| ***name == *config.name) else {
            continue;
        };
        let Some(tenant) = generation.tenants.get(id) else { continue };
        for test in &config.policy_tests {
            let mut here = test.flows.iter().filter(|flow| is_pop || concerns(tenant, flow)).peekable();
            if here.peek().is_none() {
                continue;
            }
            rehearsed.push(Rehearsed {
                tenant: config.name.clone(),
                name: test.name.clone(),
                at: test.at.clone(),
                // Of several services the first that fails.
                failure: here.find_map(|flow| run(generation, id, is_pop, test, flow)),
            });
        }
    }
    rehearsed
}

/// Whether a flow passes between this branch's LAN and elsewhere.
fn concerns(tenant: &Tenant, flow: &AskedFlow) -> bool {
    let [from, to] = [flow.from, flow.to].map(|end| tenant.owners.lookup(end.address));
    let hop = |end: Option<_>| end.and_then(|end| tenant.next_hop(end));
    hop(from) != hop(to)
}

/// What is wrong, if anything.
fn run(
    generation: &Generation,
    tenant: TenantId,
    is_pop: bool,
    test: &PolicyTest,
    flow: &AskedFlow,
) -> Option<String> {
    let seen = explain(generation, tenant, flow);
    let expected = match test.expect {
        Outcome::Accept => "accept",
        Outcome::Drop => "drop",
        Outcome::Reject => "reject",
    };
    let of = if test.flows.len() > 1 { format!(" ({} {})", flow.protocol, flow.to) } else { String::new() };
    if seen.outcome != test.expect {
        return Some(format!("expected {expected}{of}, and {}", came_out(&seen)));
    }
    let named = [
        ("class", &test.class, &seen.class),
        ("rule", &test.rule, &seen.rule),
        ("handoff", &test.handoff, &seen.handoff),
    ];
    for (what, expected, found) in named {
        if let Some(expected) = expected
            && Some(expected) != found.as_ref()
        {
            let found = found.as_ref().map_or("none".to_owned(), |found| format!("{found:?}"));
            return Some(format!("expected {what} {expected:?}{of}, and it is {found}; {}", came_out(&seen)));
        }
    }
    // That is a branch's.
    let expected_path: Vec<&str> =
        test.path.iter().map(String::as_str).filter(|path| !(is_pop && *path == BREAKOUT)).collect();
    let order: Vec<&str> = seen.paths.iter().map(|step| step.path.as_str()).collect();
    let leaves_here = is_pop || seen.paths_are_forward;
    if leaves_here && !order.starts_with(&expected_path) {
        let expected = expected_path.join(", ");
        return Some(format!("expected the paths {expected}{of}, and they are {}", order.join(", ")));
    }
    if let Some(expected) = test.nat.filter(|_| is_pop) {
        let within = |text: &String| {
            text.parse::<IpNetwork>()
                .is_ok_and(|to| expected.prefix() <= to.prefix() && expected.contains(to.ip()))
        };
        if seen.nat.is_empty() || !seen.nat.iter().all(within) {
            let found = if seen.nat.is_empty() {
                "it is not".to_owned()
            } else {
                format!("it is to {}", seen.nat.join(", "))
            };
            return Some(format!("expected translation to {expected}{of}, and {found}"));
        }
    }
    None
}

/// What became of it, and by which rule.
fn came_out(seen: &Explanation) -> String {
    let verb = match seen.outcome {
        Outcome::Accept => "it is accepted",
        Outcome::Drop => "it is dropped",
        Outcome::Reject => "it is rejected",
    };
    let decisive = seen.steps.iter().rev().find(|step| step.fits && step.kind == StepKind::Rule);
    // Whatever comes after the ACL is no rule's doing.
    let by_rule = seen.reason.as_deref().is_none_or(|reason| reason.starts_with("acl-"));
    match (&seen.rule, &seen.reason, decisive.and_then(|step| step.at.as_deref())) {
        (Some(rule), _, Some(at)) if by_rule => {
            let line = at.rsplit_once(':').map_or(at, |(_, line)| line);
            format!("{verb} by ACL rule {rule:?} (line {line})")
        }
        (_, Some(reason), _) => format!("{verb}: {reason}"),
        _ => verb.to_owned(),
    }
}
