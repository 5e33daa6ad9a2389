//! What `popgate check` asks of a configuration, and every commit: can it be read, does each rule decide on something, do its
//! policy tests come out as they say.

use crate::config::{self, Candidate, Problem};
use crate::model::AskedFlow;
use crate::pipeline::report::{DecisionRow, Explanation};
use crate::pipeline::{explain, rehearse};
use crate::tables::{Compiler, Generation};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// A configuration that can be read, and what is to be said of it.
pub struct Checked {
    pub candidate: Candidate,
    /// Not wrong, but not what was meant.
    pub warnings: Vec<Problem>,
    /// Policy tests that do not come out as they say.
    pub failed: Vec<Problem>,
}

/// Checks the configuration in `dir`.
///
/// # Errors
/// All that keeps it from being read, for the operator.
pub fn check(dir: &Path) -> Result<Checked, String> {
    let (candidate, generation) = compiled(dir)?;
    let (warnings, failed) = (generation.unreachable_rules(), rehearse(&candidate, &generation));
    Ok(Checked { candidate, warnings, failed })
}

/// What the configuration in `dir` would make of a flow of `tenant`'s.
///
/// # Errors
/// All that keeps it from being read; or that there is no such tenant.
pub fn explain_candidate(dir: &Path, tenant: &str, asked: &AskedFlow) -> Result<Explanation, String> {
    explain_in(&compiled(dir)?.1, tenant, asked)
}

/// The branch that has a public address and port by the configuration in `dir`, which must compute that: `acme/berlin`.
///
/// # Errors
/// All that keeps it from being read; or that it does not say.
pub fn who_has(dir: &Path, outside: SocketAddr) -> Result<String, String> {
    let (_, generation) = compiled(dir)?;
    let (tenant, branch) = generation.branch_of(outside.ip(), outside.port()).ok_or_else(|| {
        format!("{outside} is in no branch's deterministic nat-blocks; what was bound to it, `popgate show sessions` tells")
    })?;
    Ok(format!("{}/{}", generation.names.tenant(tenant), generation.names.site(branch)))
}

/// Which classes the policy in `dir` moves where the measurements in the file `journal` are made, and how many of these are of
/// paths that it does not have.
///
/// # Errors
/// All that keeps either from being read.
pub fn replay(journal: &Path, dir: &Path) -> Result<(Vec<DecisionRow>, usize), String> {
    let text = std::fs::read_to_string(journal).map_err(|error| format!("{}: {error}", journal.display()))?;
    let row = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", journal.display(), at + 1))
    };
    let rows = text.lines().enumerate().map(row).collect::<Result<_, _>>()?;
    let candidate = config::load(dir).map_err(|problems| problems.to_string())?;
    let mut compiler = Compiler::new("replay-");
    // Where it was measured, the interfaces had addresses; which, decides nothing.
    let somewhere = |interface| (interface, Ipv4Addr::UNSPECIFIED);
    compiler.know_addresses(candidate.masquerades().into_iter().map(somewhere).collect());
    let generation = compiler.compile(&candidate).map_err(|error| error.to_string())?;
    Ok(crate::pipeline::replay(generation, rows))
}

/// What `generation` makes of a flow of `tenant`'s.
pub(super) fn explain_in(
    generation: &Generation,
    tenant: &str,
    asked: &AskedFlow,
) -> Result<Explanation, String> {
    let mut tenants = generation.names.all_tenants();
    let known = tenants.find(|(id, name)| ***name == *tenant && generation.tenants.get(*id).is_some());
    let (id, _) = known.ok_or_else(|| format!("there is no tenant {tenant:?}"))?;
    Ok(explain(generation, id, asked))
}

fn compiled(dir: &Path) -> Result<(Candidate, Generation), String> {
    let candidate = config::load(dir).map_err(|problems| problems.to_string())?;
    let generation = Compiler::new("check-").compile(&candidate).map_err(|error| error.to_string())?;
    Ok((candidate, generation))
}
