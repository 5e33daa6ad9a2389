//! Services that tenants publish to each other: the one way from one tenant's addresses into another's.
//!
//! A subscriber calls a service by an address among its own, and the publisher knows its callers by addresses among *its*
//! own, so that each can route, filter and read its records without knowing anything of the other's addresses, which may be
//! the same. Both translations are computed, host by host: nothing is bound, and nothing can run out. `config` has seen to it
//! that both files say so.

use super::generation::Generation;
use super::rules::{Matcher, Subject};
use crate::model::{DropReason, NextHop, PrefixMap, TenantId};
use std::collections::HashMap;
use std::net::IpAddr;

/// A tenant's share in services: those it may call, and who may call its own.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// By the address they are called by.
    subscribed: HashMap<IpAddr, Subscribed>,
    /// What this tenant's addresses are known by to each publisher.
    known_as: Vec<(TenantId, Box<[PrefixMap]>)>,
    /// What each subscriber's addresses are known by here.
    subscribers: Vec<(TenantId, Box<[PrefixMap]>)>,
}

/// A service of another tenant's.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub subscriber: TenantId,
    pub publisher: TenantId,
    /// Who offers it, among the publisher's addresses.
    pub host: IpAddr,
    /// What is spoken there.
    pub(super) spoken: Matcher,
}

/// How a session comes into another tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    pub subscriber: TenantId,
    pub publisher: TenantId,
    /// What the caller is known by there.
    pub source: IpAddr,
    /// Who is called there.
    pub host: IpAddr,
}

impl Services {
    pub(super) fn subscribe(&mut self, address: IpAddr, service: Subscribed) {
        self.subscribed.insert(address, service);
    }

    pub(super) fn known_as(&mut self, publisher: TenantId, maps: Box<[PrefixMap]>) {
        self.known_as.push((publisher, maps));
    }

    pub(super) fn subscribed_by(&mut self, subscriber: TenantId, maps: Box<[PrefixMap]>) {
        self.subscribers.push((subscriber, maps));
    }

    /// Who may call.
    pub fn subscribers(&self) -> impl Iterator<Item = TenantId> {
        self.subscribers.iter().map(|(subscriber, _)| *subscriber)
    }

    /// The service that is called by `address`.
    pub fn called(&self, address: IpAddr) -> Option<&Subscribed> {
        self.subscribed.get(&address)
    }

    /// Who stands behind an address that is another tenant's host here, and where: what is called by it, or known by it.
    pub fn counterpart(&self, address: IpAddr) -> Option<(TenantId, IpAddr)> {
        if let Some(service) = self.called(address) {
            return Some((service.publisher, service.host));
        }
        let inside = |maps: &[PrefixMap]| maps.iter().find_map(|map| map.to_inside(address));
        self.subscribers.iter().find_map(|(subscriber, maps)| Some((*subscriber, inside(maps)?)))
    }

    /// How a session that calls `service` comes into the publisher's addresses.
    ///
    /// # Errors
    /// [`DropReason::ServiceNotPublished`] for what is not spoken there, [`DropReason::SubscriberUnmapped`] for a caller whom
    /// the publisher would have no address for.
    pub fn cross(&self, service: &Subscribed, subject: &Subject<'_>) -> Result<Crossing, DropReason> {
        if !service.spoken.matches(subject, None) {
            return Err(DropReason::ServiceNotPublished);
        }
        let Subscribed { subscriber, publisher, host, .. } = *service;
        let maps = self.known_as.iter().filter(|(to, _)| *to == publisher).flat_map(|(_, maps)| maps);
        let source = maps.into_iter().find_map(|map| map.to_outside(subject.source));
        let source = source.ok_or(DropReason::SubscriberUnmapped)?;
        Ok(Crossing { subscriber, publisher, source, host })
    }
}

impl Subscribed {
    /// Where packets for it go.
    pub fn next_hop(&self, generation: &Generation) -> Option<NextHop> {
        let publisher = generation.tenants.get(self.publisher)?;
        publisher.next_hop(publisher.owners.lookup(self.host)?)
    }
}
