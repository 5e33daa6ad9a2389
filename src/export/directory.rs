//! Names, and the numbers that stand for them in records.
//!
//! A collector sees numbers in every flow record and learns their names from options records. All numbers are pure
//! functions of popgate's ids, so they mean the same in every message of every exporter as long as the process lives,
//! whatever is committed in between.

use crate::flow::End;
use crate::model::{ClassId, HandoffId, PathId, RuleId, SiteId, TenantId};
use std::collections::BTreeMap;

/// The names in force, filled from the active generation.
///
/// Paths', handoffs' and sites' names stand alone in a collector, so they should say whose they are
/// (`acme/berlin/dsl`, `acme/internet`); classes and rules are given by their own names, their tenant's is put before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    pub tenants: BTreeMap<TenantId, String>,
    pub classes: BTreeMap<(TenantId, ClassId), String>,
    pub rules: BTreeMap<(TenantId, RuleId), String>,
    pub sites: BTreeMap<SiteId, String>,
    pub paths: BTreeMap<PathId, String>,
    pub handoffs: BTreeMap<HandoffId, String>,
    /// The LAN device's name, at a branch.
    pub lan: Option<String>,
}

impl Directory {
    /// Every interface: its number, its name, and what it is.
    pub fn interfaces(&self) -> impl Iterator<Item = (u32, &str, &'static str)> {
        let lan = self.lan.iter().map(|name| (interface(End::Lan, None), name.as_str(), "LAN"));
        let handoffs = self
            .handoffs
            .iter()
            .map(|(&id, name)| (interface(End::Handoff(id), None), name.as_str(), "handoff"));
        let paths = self.paths.iter().map(|(&id, name)| (path_interface(id), name.as_str(), "path"));
        let sites =
            self.sites.iter().map(|(&id, name)| (interface(End::Site(id), None), name.as_str(), "site"));
        // As what a session crosses to, or comes from.
        let tenants = self
            .tenants
            .iter()
            .map(|(&id, name)| (interface(End::Tenant(id), None), name.as_str(), "tenant"));
        lan.chain(handoffs).chain(paths).chain(sites).chain(tenants)
    }

    /// The tenant's name, or its number where a record outlived it.
    pub(super) fn tenant(&self, id: TenantId) -> String {
        self.tenants.get(&id).cloned().unwrap_or_else(|| format!("tenant-{}", id.0))
    }
}

/// The interface number of one end of a session, as `ingressInterface` and `egressInterface` tell it: the path where one
/// is known, otherwise the site, handoff or LAN.
///
/// | numbers | what |
/// | --- | --- |
/// | 1 | the branch's own LAN |
/// | 100,000 to 165,535 | a handoff: its id added |
/// | 200,000 to 265,535 | another tenant, of which the path is not known: its id added |
/// | 1,000,000 to 999,999,999 | a path: its id added |
/// | 1,000,000,000 to 1,999,999,999 | a site of which the path is not known: its id added |
///
/// Never 0, which collectors take for "none" and Akvorado drops, and always a valid `ifIndex` (RFC 2863: 1 to
/// 2,147,483,647). Ids are dense, so no box comes near the upper bounds; past them a number stands for several.
pub fn interface(end: End, path: Option<PathId>) -> u32 {
    match (end, path) {
        (_, Some(path)) => path_interface(path),
        (End::Lan, None) => 1,
        (End::Handoff(id), None) => 100_000 + u32::from(id.0),
        (End::Tenant(id), None) => 200_000 + u32::from(id.0),
        (End::Site(id), None) => 1_000_000_000 + id.0.min(999_999_999),
    }
}

fn path_interface(id: PathId) -> u32 {
    1_000_000 + id.0.min(998_999_999)
}

/// The tenant, as `ingressVRFID` and `egressVRFID` tell it. From 1: 0 is the global table elsewhere.
pub fn vrf(tenant: TenantId) -> u32 {
    u32::from(tenant.0) + 1
}

/// The app class, as `applicationId` tells it: classification engine 6, "user-defined", and a selector of 3 bytes (RFC
/// 6759 section 4) with the tenant's id in the upper 13 bits and the class's, from 1, in the lower 11.
///
/// Room for 8,192 tenants of 2,047 classes; what lies beyond is sent as [`APPLICATION_UNNUMBERED`].
pub fn application(tenant: TenantId, class: ClassId) -> u32 {
    if tenant.0 < 1 << 13 && class.0 < (1 << 11) - 1 {
        APPLICATION_UNNUMBERED | u32::from(tenant.0) << 11 | (u32::from(class.0) + 1)
    } else {
        APPLICATION_UNNUMBERED
    }
}

/// An app class that has no number of its own; see [`application`].
pub const APPLICATION_UNNUMBERED: u32 = 6 << 24;

/// The ACL rule, as `commonPropertiesId` tells it (RFC 5473): the tenant's VRF id in the upper 32 bits, the rule's id in
/// the lower. Not `selectorId`: that one names a packet sampler, and a collector that finds it in a flow record looks up
/// the sampler's rate (Akvorado then drops the record).
pub fn rule(tenant: TenantId, rule: RuleId) -> u64 {
    u64::from(vrf(tenant)) << 32 | u64::from(rule.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_interfaces_share_a_number_and_none_is_zero() {
        let ids = [0, 1, 2, 99_999, 100_000, 165_535, 998_999_999];
        let mut numbers = vec![interface(End::Lan, None)];
        numbers.extend([0, 1, u16::MAX].map(|id| interface(End::Handoff(HandoffId(id)), None)));
        numbers.extend([0, 1, u16::MAX].map(|id| interface(End::Tenant(TenantId(id)), None)));
        numbers.extend(ids.map(|id| interface(End::Site(SiteId(id)), None)));
        numbers.extend(ids.map(|id| interface(End::Lan, Some(PathId(id)))));
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        assert!(numbers.iter().all(|&number| (1..1 << 31).contains(&number)));
    }

    #[test]
    fn no_two_app_classes_share_a_number() {
        let tenants = [0, 1, 4_095, 8_191].map(TenantId);
        let classes = [0, 1, 1_023, 2_046].map(ClassId);
        let numbers: BTreeSet<u32> =
            tenants.iter().flat_map(|&t| classes.iter().map(move |&c| application(t, c))).collect();
        assert_eq!(numbers.len(), 16);
        assert!(numbers.iter().all(|number| number >> 24 == 6));
        assert!(!numbers.contains(&APPLICATION_UNNUMBERED));
        assert_eq!(application(TenantId(8_192), ClassId(0)), APPLICATION_UNNUMBERED);
        assert_eq!(application(TenantId(0), ClassId(2_047)), APPLICATION_UNNUMBERED);
    }
}
