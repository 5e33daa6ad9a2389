//! Dropped packets, counted by tenant and reason.

use super::report::DropRow;
use super::trace::dropped_for;
use crate::model::{DropReason, TenantId};
use crate::tables::Generation;
use std::collections::BTreeMap;

/// Counters of one worker; they only grow.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    counts: BTreeMap<(Option<TenantId>, DropReason), u64>,
    /// As they were when [`Drops::take_new`] last looked.
    seen: BTreeMap<(Option<TenantId>, DropReason), u64>,
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

    /// Which counters have grown since the last call.
    pub fn take_new(&mut self) -> Vec<(Option<TenantId>, DropReason)> {
        let grown = self.counts.iter().filter(|(key, count)| self.seen.get(key) != Some(count));
        let new = grown.map(|(key, _)| *key).collect();
        self.seen.clone_from(&self.counts);
        new
    }

    /// The counters in names.
    pub fn rows(&self, generation: &Generation) -> Vec<DropRow> {
        let names = &generation.names;
        let row = |((tenant, reason), packets): (&(Option<TenantId>, DropReason), &u64)| DropRow {
            tenant: tenant.map(|id| names.tenant(id).to_owned()),
            reason: reason.name().to_owned(),
            detail: dropped_for(*reason, generation).detail,
            packets: *packets,
        };
        self.counts.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_since_the_last_look_is_told_once() {
        let acme = Some(TenantId(1));
        let mut drops = Drops::default();
        assert!(drops.take_new().is_empty());
        drops.count(acme, DropReason::TenantSessionLimit, 3);
        drops.count(None, DropReason::Malformed, 1);
        let both = [(None, DropReason::Malformed), (acme, DropReason::TenantSessionLimit)];
        assert_eq!(drops.take_new(), both);
        assert!(drops.take_new().is_empty());
        drops.count(acme, DropReason::TenantSessionLimit, 1);
        assert_eq!(drops.take_new(), both[1..]);
    }
}
