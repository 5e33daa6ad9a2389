//! Which records a collector is sent.

use super::{Directory, NatEvent};
use crate::flow::FlowRecord;
use crate::model::{RecordKind, TenantId};
use std::collections::BTreeSet;

/// What a collector asks for: records of some tenants, and of some kinds.
#[derive(Clone, Debug)]
pub struct Filter {
    /// `None` is all of them.
    tenants: Option<BTreeSet<String>>,
    records: BTreeSet<RecordKind>,
    /// The tenants' numbers, by the directory last seen.
    ids: BTreeSet<TenantId>,
}

impl Filter {
    /// A filter that knows tenants by name; which numbers they have, [`Filter::learn`] tells.
    pub fn new(tenants: Option<BTreeSet<String>>, records: BTreeSet<RecordKind>) -> Filter {
        Filter { tenants, records, ids: BTreeSet::new() }
    }

    /// Takes over the numbers of a new generation's tenants.
    pub fn learn(&mut self, directory: &Directory) {
        let Some(wanted) = &self.tenants else { return };
        let ids = directory.tenants.iter().filter(|(_, name)| wanted.contains(*name)).map(|(&id, _)| id);
        self.ids = ids.collect();
    }

    /// The names that the collector may learn: a tenant that has one of its own is not to know the others'.
    pub fn names(&self, directory: &Directory) -> Directory {
        let mut told = directory.clone();
        let Some(wanted) = &self.tenants else { return told };
        told.tenants.retain(|_, name| wanted.contains(name));
        let tenants = &told.tenants;
        told.classes.retain(|(tenant, _), _| tenants.contains_key(tenant));
        told.rules.retain(|(tenant, _), _| tenants.contains_key(tenant));
        // These names begin with their tenant's.
        let is_theirs = |name: &str| name.split('/').next().is_some_and(|tenant| wanted.contains(tenant));
        told.sites.retain(|_, name| is_theirs(name));
        told.paths.retain(|_, name| is_theirs(name));
        told.handoffs.retain(|_, name| is_theirs(name));
        told
    }

    /// Whether the collector is to have this session's record.
    pub fn admits(&self, record: &FlowRecord) -> bool {
        self.admits_of(RecordKind::Flows, record.tenant)
    }

    /// Whether it is to have this event.
    pub fn admits_nat_event(&self, event: &NatEvent) -> bool {
        self.admits_of(RecordKind::NatEvents, event.tenant)
    }

    /// Whether it is to have anything of this tenant's.
    pub fn admits_tenant(&self, tenant: TenantId) -> bool {
        self.tenants.is_none() || self.ids.contains(&tenant)
    }

    fn admits_of(&self, kind: RecordKind, tenant: TenantId) -> bool {
        self.records.contains(&kind) && self.admits_tenant(tenant)
    }
}
