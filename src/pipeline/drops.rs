//! Dropped packets, counted by tenant and reason.

use super::report::DropRow;
use crate::model::{DropReason, TenantId};
use crate::tables::Generation;
use std::collections::BTreeMap;

/// Counters of one worker; they only grow.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    counts: BTreeMap<(Option<TenantId>, DropReason), u64>,
}

impl Drops {
    /// Counts `packets` more.
    pub fn count(&mut self, tenant: Option<TenantId>, reason: DropReason, packets: u64) {
        *self.counts.entry((tenant, reason)).or_default() += packets;
    }

    /// How many were dropped for `reason`, over all tenants.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.counts.iter().filter(|((_, r), _)| *r == reason).map(|(_, count)| count).sum()
    }

    /// How many of `tenant`'s were dropped for `reason`.
    pub fn of_tenant(&self, tenant: TenantId, reason: DropReason) -> u64 {
        self.counts.get(&(Some(tenant), reason)).copied().unwrap_or_default()
    }

    /// How many were dropped at all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The counters in names.
    pub fn rows(&self, generation: &Generation) -> Vec<DropRow> {
        let names = &generation.names;
        let row = |((tenant, reason), packets): (&(Option<TenantId>, DropReason), &u64)| DropRow {
            tenant: tenant.map(|id| names.tenant(id).to_owned()),
            reason: reason.name().to_owned(),
            detail: match reason {
                DropReason::AclDropped(rule) | DropReason::AclRejected(rule) => {
                    Some(names.rule(*rule).to_owned())
                }
                DropReason::NatRequired(handoff) | DropReason::NatPoolExhausted(handoff) => {
                    Some(names.handoff(*handoff).to_owned())
                }
                DropReason::BranchSessionLimit(site)
                | DropReason::BranchSessionRate(site)
                | DropReason::BranchPortLimit(site) => Some(names.site(*site).to_owned()),
                _ => None,
            },
            packets: *packets,
        };
        self.counts.iter().map(row).collect()
    }
}
