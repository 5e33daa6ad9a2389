//! Names: gives every named thing its id, once and for good.
//!
//! Append-only. A tenant that a commit removes keeps its number, and a commit that brings it back finds it again; so an
//! id in a session or a counter never comes to mean another thing.

use crate::model::{AppId, ClassId, DeviceId, HandoffId, Id, PathId, RuleId, SiteId, TenantId, TransportId};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// All names ever given an id in the life of this process.
#[derive(Clone, Default)]
pub struct Names {
    tenants: Interner<TenantId, Arc<str>>,
    sites: Interner<SiteId, (TenantId, Arc<str>)>,
    paths: Interner<PathId, (SiteId, Arc<str>)>,
    handoffs: Interner<HandoffId, (TenantId, Arc<str>)>,
    classes: Interner<ClassId, (TenantId, Arc<str>)>,
    rules: Interner<RuleId, (TenantId, Arc<str>)>,
    transports: Interner<TransportId, Arc<str>>,
    devices: Interner<DeviceId, Arc<str>>,
    apps: Interner<AppId, Arc<str>>,
}

macro_rules! named {
    ($($id:ident $ids:ident $get:ident $all:ident $($owner:ident)?;)*) => {$(
        pub(super) fn $get(&mut self, $($owner: named!(@type $owner),)? name: &str) -> $id {
            self.$ids.id(named!(@key name $($owner)?))
        }

        /// All of them with their names (and what they are named within), in the order of their ids.
        pub fn $all(&self) -> impl Iterator<Item = ($id, named!(@item $($owner)?))> {
            self.$ids.iter()
        }
    )*};
    (@type tenant) => { TenantId };
    (@type site) => { SiteId };
    (@key $name:ident) => { Arc::from($name) };
    (@key $name:ident $owner:ident) => { ($owner, Arc::from($name)) };
    (@item) => { &Arc<str> };
    (@item tenant) => { &(TenantId, Arc<str>) };
    (@item site) => { &(SiteId, Arc<str>) };
}

impl Names {
    named! {
        TenantId tenants tenant_id all_tenants;
        SiteId sites site_id all_sites tenant;
        PathId paths path_id all_paths site;
        HandoffId handoffs handoff_id all_handoffs tenant;
        ClassId classes class_id all_classes tenant;
        RuleId rules rule_id all_rules tenant;
        TransportId transports transport_id all_transports;
        DeviceId devices device_id all_devices;
        AppId apps app_id all_apps;
    }

    /// What there is no number left for, if anything: a table with such a name in it would mix up two things.
    pub fn exhausted(&self) -> Option<&'static str> {
        [
            (self.tenants.exhausted, "tenants"),
            (self.sites.exhausted, "branches"),
            (self.paths.exhausted, "paths"),
            (self.handoffs.exhausted, "handoffs"),
            (self.classes.exhausted, "app classes"),
            (self.rules.exhausted, "ACL rules"),
            (self.transports.exhausted, "transports"),
            (self.devices.exhausted, "devices"),
            (self.apps.exhausted, "apps"),
        ]
        .into_iter()
        .find_map(|(exhausted, what)| exhausted.then_some(what))
    }

    /// The tenant's name.
    pub fn tenant(&self, id: TenantId) -> &str {
        self.tenants.name(id).map_or("?", |name| name)
    }

    /// The site's name within its tenant.
    pub fn site(&self, id: SiteId) -> &str {
        self.sites.name(id).map_or("?", |(_, name)| name)
    }

    /// Whose site it is.
    pub fn site_tenant(&self, id: SiteId) -> Option<TenantId> {
        self.sites.name(id).map(|(tenant, _)| *tenant)
    }

    /// The path's name within its site.
    pub fn path(&self, id: PathId) -> &str {
        self.paths.name(id).map_or("?", |(_, name)| name)
    }

    /// `berlin/dsl`.
    pub fn site_and_path(&self, id: PathId) -> String {
        self.paths.name(id).map_or_else(|| "?".into(), |(site, name)| format!("{}/{name}", self.site(*site)))
    }

    /// The handoff's name within its tenant.
    pub fn handoff(&self, id: HandoffId) -> &str {
        self.handoffs.name(id).map_or("?", |(_, name)| name)
    }

    /// The class's name within its tenant.
    pub fn class(&self, id: ClassId) -> &str {
        self.classes.name(id).map_or("?", |(_, name)| name)
    }

    /// The rule's name within its tenant.
    pub fn rule(&self, id: RuleId) -> &str {
        self.rules.name(id).map_or("?", |(_, name)| name)
    }

    /// The app's name.
    pub fn app(&self, id: AppId) -> &str {
        self.apps.name(id).map_or("?", |name| name)
    }

    /// The transport's name.
    pub fn transport(&self, id: TransportId) -> &str {
        self.transports.name(id).map_or("?", |name| name)
    }
}

#[derive(Clone)]
struct Interner<I, K> {
    ids: HashMap<K, I>,
    names: Vec<K>,
    /// A name came for which there was no number left.
    exhausted: bool,
}

impl<I, K> Default for Interner<I, K> {
    fn default() -> Self {
        Self { ids: HashMap::new(), names: Vec::new(), exhausted: false }
    }
}

impl<I: Id, K: Clone + Eq + Hash> Interner<I, K> {
    fn id(&mut self, name: K) -> I {
        if self.names.len() >= I::LIMIT && !self.ids.contains_key(&name) {
            self.exhausted = true;
            return I::from_index(I::LIMIT);
        }
        *self.ids.entry(name).or_insert_with_key(|name| {
            self.names.push(name.clone());
            I::from_index(self.names.len() - 1)
        })
    }

    fn name(&self, id: I) -> Option<&K> {
        self.names.get(id.index())
    }

    fn iter(&self) -> impl Iterator<Item = (I, &K)> {
        self.names.iter().enumerate().map(|(index, name)| (I::from_index(index), name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_id_and_when_none_is_left_that_is_said() {
        let mut names = Names::default();
        let first = names.tenant_id("t0");
        for n in 0..TenantId::LIMIT {
            names.tenant_id(&format!("t{n}"));
        }
        assert_eq!((names.tenant_id("t0"), names.exhausted()), (first, None));
        names.tenant_id("one too many");
        assert_eq!(names.exhausted(), Some("tenants"));
    }
}
