//! Ids: small numbers that stand for names.
//!
//! An id keeps its meaning as long as the process lives: a tenant that a commit removes leaves a hole, and a new one
//! gets a number never used before. So a session, a counter or a record made under one generation can never be read as
//! somebody else's under the next. [`crate::tables::Names`] gives the numbers out.

use serde::Serialize;
use std::fmt;
use std::marker::PhantomData;

/// A number that indexes an [`IdMap`].
pub trait Id: Copy + Eq {
    /// How many there can be; the largest number of the type is left out, for "one more" to be a number too.
    const LIMIT: usize;
    /// The id as an index.
    fn index(self) -> usize;
    /// The id at `index`; only [`crate::tables::Names`] should make new ones.
    fn from_index(index: usize) -> Self;
}

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident($repr:ty) $(below $limit:literal)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(pub $repr);

        impl Id for $name {
            const LIMIT: usize = id!(@limit $repr $(, $limit)?);
            fn index(self) -> usize {
                self.0 as usize
            }
            fn from_index(index: usize) -> Self {
                Self(<$repr>::try_from(index).unwrap_or(<$repr>::MAX))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
    (@limit $repr:ty) => { <$repr>::MAX as usize };
    (@limit $repr:ty, $limit:literal) => { $limit };
}

/// What tells workers apart, in receiver indices and ids of sessions.
pub const WORKER_BITS: u32 = 6;
/// How many workers a box can have.
pub const MAX_WORKERS: u16 = 1 << WORKER_BITS;

id! {
    /// A customer.
    TenantId(u16);
    /// A branch of one tenant, or (at a branch) a PoP: whatever is at the far end of tunnels. The numbers from the
    /// limit on stand for handoffs, tenants, devices and the LAN where a site and one of those share four bytes.
    SiteId(u32) below 0xfffd_0000;
    /// A path: one WireGuard peer.
    PathId(u32);
    /// An underlay attachment of this box.
    TransportId(u16);
    /// A handoff of one tenant.
    HandoffId(u16);
    /// A TUN device of this box.
    DeviceId(u16);
    /// An app class of one tenant.
    ClassId(u16);
    /// A named ACL rule of one tenant.
    RuleId(u32);
    /// An app, by its name; what that stands for may differ between tenants.
    AppId(u32);
    /// A domain that one tenant's rules name; means something within its generation only.
    DomainId(u32);
}

impl ClassId {
    /// No tenant's: of packets that no flow's policy has classed.
    pub const NONE: ClassId = ClassId(u16::MAX);
}

/// A map from dense ids: a vector with holes.
#[derive(Clone, Debug)]
pub struct IdMap<I, T> {
    slots: Vec<Option<T>>,
    ids: PhantomData<I>,
}

impl<I, T> Default for IdMap<I, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), ids: PhantomData }
    }
}

impl<I: Id, T> IdMap<I, T> {
    /// What stands under `id`.
    pub fn get(&self, id: I) -> Option<&T> {
        self.slots.get(id.index())?.as_ref()
    }

    /// What stands under `id`, to be changed.
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    /// What stands under `id`, or the default that is put there.
    pub fn get_or_default(&mut self, id: I) -> &mut T
    where
        T: Default,
    {
        let index = id.index();
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index].get_or_insert_default()
    }

    /// Puts `value` under `id`; gives back what stood there.
    pub fn insert(&mut self, id: I, value: T) -> Option<T> {
        let index = id.index();
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index].replace(value)
    }

    /// Takes out what stands under `id`.
    pub fn remove(&mut self, id: I) -> Option<T> {
        self.slots.get_mut(id.index())?.take()
    }

    /// All entries in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, v)| Some((I::from_index(i), v.as_ref()?)))
    }

    /// All entries in the order of their ids, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (I, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(i, v)| Some((I::from_index(i), v.as_mut()?)))
    }
}

impl<I: Id, T> FromIterator<(I, T)> for IdMap<I, T> {
    fn from_iter<It: IntoIterator<Item = (I, T)>>(iter: It) -> Self {
        let mut map = Self::default();
        for (id, value) in iter {
            map.insert(id, value);
        }
        map
    }
}
