//! Rules: app classes, the ACL and NAT rules, tried in the order they were written.
//!
//! They share one matcher, and one way to find the first that matches: [`first_match`]. [`Matcher::matches`] says what a
//! match is.

mod first_match;
mod unreachable;

pub use first_match::FirstMatch;
pub(super) use unreachable::unreachable;

use crate::config::{self, AclAction, Bound, Place, SourceRef};
use crate::model::{AppId, ClassId, DomainId, End, FlowKey, Protocol, RuleId, Zone};
use ipnetwork::IpNetwork;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// What rules look at: a session's first packet, who owns its addresses, and what it is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    pub source: IpAddr,
    pub source_port: u16,
    pub source_end: End,
    pub destination: IpAddr,
    pub destination_port: u16,
    pub destination_end: End,
    pub protocol: Protocol,
    pub dscp: u8,
    /// The apps it is of, and the domains its name lies in: found by [`super::Classifier`], which alone asks for them.
    pub apps: &'a [AppId],
    pub domains: &'a [DomainId],
}

/// What of a flow a rule asks for, and may not find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Protocol and ports.
    Service,
    Dscp,
    Direction,
    Class,
    Source,
    Destination,
    App,
    Domain,
}

impl Misfit {
    const ALL: [Misfit; 8] = [
        Misfit::Service,
        Misfit::Dscp,
        Misfit::Direction,
        Misfit::Class,
        Misfit::Source,
        Misfit::Destination,
        Misfit::App,
        Misfit::Domain,
    ];
}

impl Subject<'_> {
    /// The key of its first packet, in `zone`.
    pub fn key(&self, zone: Zone) -> FlowKey {
        let (source, destination) =
            ((self.source, self.source_port), (self.destination, self.destination_port));
        FlowKey::new(zone, self.protocol, source, destination)
    }

    /// Which way it goes.
    pub fn bound(&self) -> Bound {
        bound_from(self.source_end)
    }
}

/// Which way a session goes that begins at `end`.
fn bound_from(end: End) -> Bound {
    match end {
        End::Site(_) | End::Lan => Bound::Outbound,
        End::Handoff(_) | End::Tenant(_) => Bound::Inbound,
    }
}

/// What a flow must be like for a rule.
#[derive(Clone, Debug)]
pub struct Matcher {
    from: Places,
    to: Places,
    /// Any of them; empty matches everything.
    services: Box<[Service]>,
    dscp: Box<[u8]>,
    classes: Box<[ClassId]>,
    apps: Box<[AppId]>,
    domains: Box<[DomainId]>,
    bound: Option<Bound>,
}

/// What is spoken: each of these must fit, and what is empty matches everything.
#[derive(Clone, Debug, Default)]
struct Service {
    protocols: Box<[Protocol]>,
    source_ports: Box<[RangeInclusive<u16>]>,
    destination_ports: Box<[RangeInclusive<u16>]>,
}

/// One end of a rule; empty matches everything.
#[derive(Clone, Debug)]
struct Places {
    prefixes: Box<[IpNetwork]>,
    ends: Box<[End]>,
}

/// An ACL rule.
#[derive(Clone, Debug)]
pub struct AclRule {
    pub id: RuleId,
    pub action: AclAction,
    /// Sessions it decides on are logged.
    pub log: bool,
    pub at: SourceRef,
}

/// A tenant's ordered ACL.
#[derive(Clone, Debug)]
pub struct Acl {
    rules: Box<[AclRule]>,
    /// By rule: for those who want to know why one fits or does not. The look-up has its own.
    matchers: Box<[Matcher]>,
    first_match: FirstMatch,
}

impl Acl {
    pub(super) fn new(rules: Vec<(AclRule, Matcher)>) -> Acl {
        let (rules, matchers): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        let first_match = FirstMatch::new(matchers.clone());
        Acl { rules: rules.into(), matchers: matchers.into(), first_match }
    }

    /// All rules, in the order they are tried.
    pub fn rules(&self) -> &[AclRule] {
        &self.rules
    }

    /// The rules in the order they are tried, up to the first that fits, with what of the flow does not fit each.
    pub fn tried(&self, subject: &Subject, class: ClassId) -> impl Iterator<Item = (&AclRule, Vec<Misfit>)> {
        let mut is_over = false;
        let tried = self.rules.iter().zip(&self.matchers);
        tried.map_while(move |(rule, matcher)| {
            if is_over {
                return None;
            }
            let misfits = matcher.misfits(subject, Some(class));
            is_over = misfits.is_empty();
            Some((rule, misfits))
        })
    }

    /// The first rule that matches; `None` is the default: deny.
    pub fn first_match(&self, subject: &Subject<'_>, class: ClassId) -> Option<&AclRule> {
        Some(&self.rules[self.first_match.find(subject, Some(class))?])
    }
}

impl Matcher {
    /// Compiles `config`; `classes` are the ids of its classes, `end` finds those of its places.
    pub(super) fn compile(
        config: &config::FlowMatch,
        classes: Box<[ClassId]>,
        mut end: impl FnMut(&Place) -> End,
    ) -> Matcher {
        let mut places = |places: &[Place]| Places {
            prefixes: places
                .iter()
                .filter_map(|p| if let Place::Prefix(p) = p { Some(*p) } else { None })
                .collect(),
            ends: places.iter().filter(|p| !matches!(p, Place::Prefix(_))).map(&mut end).collect(),
        };
        Matcher {
            from: places(&config.from),
            to: places(&config.to),
            services: services(config),
            dscp: config.dscp.clone().into(),
            classes,
            apps: [].into(),
            domains: [].into(),
            bound: config.bound,
        }
    }

    /// As it is, for flows of one of these apps and with a name in one of these domains.
    pub(super) fn asking_for(self, apps: Box<[AppId]>, domains: Box<[DomainId]>) -> Matcher {
        Matcher { apps, domains, ..self }
    }

    /// What of `subject` does not fit; nothing, if it is such a flow.
    pub fn misfits(&self, subject: &Subject<'_>, class: Option<ClassId>) -> Vec<Misfit> {
        Misfit::ALL.into_iter().filter(|field| !self.fits(*field, subject, class)).collect()
    }

    /// Whether `subject` is such a flow; `class` is `None` while it is still to be classified.
    pub fn matches(&self, subject: &Subject<'_>, class: Option<ClassId>) -> bool {
        Misfit::ALL.into_iter().all(|field| self.fits(field, subject, class))
    }

    #[inline]
    fn fits(&self, field: Misfit, subject: &Subject<'_>, class: Option<ClassId>) -> bool {
        match field {
            Misfit::Service => {
                self.services.is_empty() || self.services.iter().any(|service| service.is_spoken(subject))
            }
            Misfit::Dscp => self.dscp.is_empty() || self.dscp.contains(&subject.dscp),
            Misfit::Direction => self.bound.is_none_or(|bound| bound == subject.bound()),
            Misfit::Class => {
                self.classes.is_empty() || class.is_some_and(|class| self.classes.contains(&class))
            }
            Misfit::App => self.apps.is_empty() || subject.apps.iter().any(|app| self.apps.contains(app)),
            Misfit::Domain => {
                self.domains.is_empty() || subject.domains.iter().any(|domain| self.domains.contains(domain))
            }
            Misfit::Source => self.from.contain(subject.source, subject.source_end),
            Misfit::Destination => self.to.contain(subject.destination, subject.destination_end),
        }
    }
}

impl Service {
    fn is_spoken(&self, subject: &Subject<'_>) -> bool {
        let port = |ranges: &[RangeInclusive<u16>], port| {
            ranges.is_empty() || ranges.iter().any(|r| r.contains(&port))
        };
        (self.protocols.is_empty() || self.protocols.contains(&subject.protocol))
            && port(&self.destination_ports, subject.destination_port)
            && port(&self.source_ports, subject.source_port)
    }
}

/// The rule's own protocols and ports as one service, or those of its service groups; such as differ in nothing but
/// their destination ports are one.
fn services(config: &config::FlowMatch) -> Box<[Service]> {
    let own = config::Service {
        protocols: config.protocols.clone(),
        source_ports: config.source_ports.clone(),
        destination_ports: config.destination_ports.clone(),
    };
    let mut merged: Vec<config::Service> = Vec::new();
    let any = own.protocols.is_empty() && own.source_ports.is_empty() && own.destination_ports.is_empty();
    let own = (!any).then_some(&own);
    for service in config.services.iter().chain(own) {
        let like = |other: &&mut config::Service| {
            (&other.protocols, &other.source_ports) == (&service.protocols, &service.source_ports)
        };
        match merged.iter_mut().find(like) {
            // One of them takes every port.
            Some(other) if other.destination_ports.is_empty() || service.destination_ports.is_empty() => {
                other.destination_ports.clear();
            }
            Some(other) => other.destination_ports.extend_from_slice(&service.destination_ports),
            None => merged.push(service.clone()),
        }
    }
    let compiled = merged.into_iter().map(|service| Service {
        protocols: service.protocols.into(),
        source_ports: service.source_ports.into(),
        destination_ports: service.destination_ports.into(),
    });
    compiled.collect()
}

impl Places {
    fn contain(&self, address: IpAddr, end: End) -> bool {
        self.prefixes.is_empty() && self.ends.is_empty()
            || self.ends.contains(&end)
            || self.prefixes.iter().any(|prefix| prefix.contains(address))
    }
}
