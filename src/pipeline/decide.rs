//! The slow path: what becomes of a session, by policy alone. Classify -> ACL -> route -> NAT policy, in that order of
//! dependence: owners first, for everything else asks about them.

use crate::config::AclAction;
use crate::flow::Plan;
use crate::model::{ClassId, DropReason, End, FlowKey, Named, NextHop};
use crate::tables::{AclRule, Classified, Generation, NatVerdict, Subject, Tenant};

/// A session that policy accepts.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    pub plan: Plan,
    /// What becomes of the source.
    pub nat: NatVerdict<'a>,
    /// A name, or another one, could give it another class.
    pub may_change: bool,
}

/// Looks on while a session is decided on. Nothing it does changes the decision, and `()`, which does nothing, costs
/// nothing.
pub trait Observer<'a> {
    /// Who owns the source, if anybody does.
    fn source(&mut self, _end: Option<End>) {}
    /// Who owns the destination, if anybody does.
    fn destination(&mut self, _end: Option<End>) {}
    /// The class of the flow, and what told it.
    fn class(&mut self, _classified: &Classified) {}
    /// The first rule that fits.
    fn rule(&mut self, _subject: &Subject<'_>, _class: ClassId, _rule: Option<&'a AclRule>) {}
    /// What becomes of the source.
    fn nat(&mut self, _subject: &Subject<'_>, _class: ClassId, _nat: &NatVerdict<'a>) {}
}

impl Observer<'_> for () {}

/// Decides on a session whose first packet carries `key` and arrives from `arrived_from`; its far end is `named`, as far as
/// one knows.
///
/// # Errors
/// Why the session may not be.
pub fn decide<'a>(
    generation: &Generation,
    tenant: &'a Tenant,
    key: &FlowKey,
    dscp: u8,
    arrived_from: NextHop,
    named: Option<&Named>,
    observer: &mut impl Observer<'a>,
) -> Result<Decision<'a>, DropReason> {
    let source_end = tenant.owners.lookup(key.source());
    observer.source(source_end);
    let source_end = source_end.ok_or(DropReason::SourceNotAllowed)?;
    if tenant.next_hop(source_end) != Some(arrived_from) {
        return Err(DropReason::SourceNotAllowed);
    }
    let destination_end = tenant.owners.lookup(key.destination());
    observer.destination(destination_end);
    let destination_end = destination_end.ok_or(DropReason::NoRoute)?;
    let to = tenant.next_hop(destination_end).ok_or(DropReason::NoRoute)?;
    if to == arrived_from {
        return Err(DropReason::HairpinRefused);
    }
    let subject = Subject {
        source: key.source(),
        source_port: key.source_port,
        source_end,
        destination: key.destination(),
        destination_port: key.destination_port,
        destination_end,
        protocol: key.protocol,
        dscp,
        apps: &[],
        domains: &[],
    };
    let classified = tenant.classifier.classify(&subject, named);
    observer.class(&classified);
    let class = classified.class;
    let rule = tenant.acl.first_match(&subject, class);
    observer.rule(&subject, class, rule);
    let rule = match rule {
        None => return Err(DropReason::AclDefault),
        Some(rule) => match rule.action {
            AclAction::Accept => rule.id,
            AclAction::Drop => return Err(DropReason::AclDropped(rule.id)),
            AclAction::Reject => return Err(DropReason::AclRejected(rule.id)),
        },
    };
    let nat = match destination_end {
        End::Handoff(handoff) => {
            let policy = tenant.nat.get(handoff);
            match policy.map_or(NatVerdict::Untranslated, |policy| policy.outbound(&subject, class)) {
                verdict if matches!(to, NextHop::Device(_)) => verdict,
                NatVerdict::Translate(_) => NatVerdict::Beyond(handoff),
                // What is impossible, the far end will say.
                _ => NatVerdict::Untranslated,
            }
        }
        _ => NatVerdict::Untranslated,
    };
    observer.nat(&subject, class, &nat);
    if let NatVerdict::Impossible(handoff) = nat {
        return Err(DropReason::NatRequired(handoff));
    }
    let plan = Plan {
        generation: generation.number,
        class,
        class_by: classified.by,
        rule,
        ends: [source_end, destination_end],
        hops: [arrived_from, to],
    };
    let may_change = tenant.classifier.may_change(&subject, &classified);
    Ok(Decision { plan, nat, may_change })
}
