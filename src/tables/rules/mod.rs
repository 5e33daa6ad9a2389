//! Rules: app classes, the ACL and NAT rules, tried in the order they were written.
//!
//! They share one matcher, and one way to find the first that matches: [`first_match`]. [`Matcher::matches`] says what a
//! match is.

mod first_match;

pub use first_match::FirstMatch;

use crate::config::{self, AclAction, Place};
use crate::model::{AppId, ClassId, DomainId, End, Protocol, RuleId};
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

/// What a flow must be like for a rule.
#[derive(Clone, Debug)]
pub struct Matcher {
    from: Places,
    to: Places,
    protocols: Box<[Protocol]>,
    source_ports: Box<[RangeInclusive<u16>]>,
    destination_ports: Box<[RangeInclusive<u16>]>,
    dscp: Box<[u8]>,
    classes: Box<[ClassId]>,
    apps: Box<[AppId]>,
    domains: Box<[DomainId]>,
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
}

/// A tenant's ordered ACL.
#[derive(Clone, Debug)]
pub struct Acl {
    rules: Box<[AclRule]>,
    first_match: FirstMatch,
}

impl Acl {
    pub(super) fn new(rules: Vec<(AclRule, Matcher)>) -> Acl {
        let (rules, matchers): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        Acl { rules: rules.into(), first_match: FirstMatch::new(matchers) }
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
            protocols: config.protocols.clone().into(),
            source_ports: config.source_ports.clone().into(),
            destination_ports: config.destination_ports.clone().into(),
            dscp: config.dscp.clone().into(),
            classes,
            apps: [].into(),
            domains: [].into(),
        }
    }

    /// As it is, for flows of one of these apps and with a name in one of these domains.
    pub(super) fn asking_for(self, apps: Box<[AppId]>, domains: Box<[DomainId]>) -> Matcher {
        Matcher { apps, domains, ..self }
    }

    /// Whether `subject` is such a flow; `class` is `None` while it is still to be classified.
    pub fn matches(&self, subject: &Subject<'_>, class: Option<ClassId>) -> bool {
        let port = |ranges: &[RangeInclusive<u16>], port| {
            ranges.is_empty() || ranges.iter().any(|r| r.contains(&port))
        };
        (self.protocols.is_empty() || self.protocols.contains(&subject.protocol))
            && port(&self.destination_ports, subject.destination_port)
            && port(&self.source_ports, subject.source_port)
            && (self.dscp.is_empty() || self.dscp.contains(&subject.dscp))
            && (self.classes.is_empty() || class.is_some_and(|class| self.classes.contains(&class)))
            && (self.apps.is_empty() || subject.apps.iter().any(|app| self.apps.contains(app)))
            && (self.domains.is_empty() || subject.domains.iter().any(|domain| self.domains.contains(domain)))
            && self.from.contain(subject.source, subject.source_end)
            && self.to.contain(subject.destination, subject.destination_end)
    }
}

impl Places {
    fn contain(&self, address: IpAddr, end: End) -> bool {
        self.prefixes.is_empty() && self.ends.is_empty()
            || self.ends.contains(&end)
            || self.prefixes.iter().any(|prefix| prefix.contains(address))
    }
}
