//! The slow path: what becomes of a session, by policy alone. Classify -> ACL -> route -> NAT policy, in that order of
//! dependence: owners first, for everything else asks about them. Of a destination within a NAT64 prefix all of it is asked
//! about the IPv4 address that this stands for. Where a session crosses into another tenant, by a service that is published
//! there, that tenant's ACL has its say too.

use crate::config::AclAction;
use crate::flow::Plan;
use crate::model::{ClassId, DropReason, End, FlowKey, Named, NextHop, PathId, RuleId};
use crate::path::{self, Candidate};
use crate::tables::{AclRule, Classified, Crossing, Generation, NatVerdict, Subject, Tenant};

/// A session that policy accepts.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    pub plan: Plan,
    /// What policy was asked about: of what NAT64 takes across, the flow on the far side.
    pub asked: FlowKey,
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
    /// The destination is within a NAT64 prefix, and stands for this one, if that is one that it leads to.
    fn across(&mut self, _asked: Option<&FlowKey>) {}
    /// The class of the flow, and what told it.
    fn class(&mut self, _classified: &Classified) {}
    /// The first rule that fits.
    fn rule(&mut self, _subject: &Subject<'_>, _class: ClassId, _rule: Option<&'a AclRule>) {}
    /// What becomes of the source.
    fn nat(&mut self, _subject: &Subject<'_>, _class: ClassId, _nat: &NatVerdict<'a>) {}
    /// From here on it is decided on in another tenant: ends, class and rule once more.
    fn crosses(&mut self, _crossing: &Crossing) {}
}

impl Observer<'_> for () {}

/// What is asked: may there be such a session, and how?
#[derive(Clone, Copy)]
pub struct Question<'q> {
    /// Its first packet's.
    pub key: &'q FlowKey,
    /// 0-63.
    pub dscp: u8,
    pub arrives_from: NextHop,
    /// What its far end is called, as far as one knows.
    pub named: Option<&'q Named>,
    pub way: Way<'q>,
}

/// By which of the ways to the internet a branch's session goes, where it has two.
#[derive(Clone, Copy)]
pub enum Way<'q> {
    /// The best, by its class; this tells how fit paths are for that.
    Best(&'q dyn Fn(PathId, ClassId) -> Candidate),
    /// The one that it has: its NAT binding is there.
    Kept(NextHop),
}

/// Decides on a session.
///
/// # Errors
/// Why it may not be.
pub fn decide<'a>(
    generation: &'a Generation,
    tenant: &'a Tenant,
    question: &Question<'_>,
    observer: &mut impl Observer<'a>,
) -> Result<Decision<'a>, DropReason> {
    let Question { key, dscp, arrives_from: arrived_from, named, way } = *question;
    let source_end = tenant.owners.lookup(key.source());
    observer.source(source_end);
    let source_end = source_end.ok_or(DropReason::SourceNotAllowed)?;
    if tenant.next_hop(source_end) != Some(arrived_from) {
        return Err(DropReason::SourceNotAllowed);
    }
    let across = tenant.across(key);
    if !matches!(across, Ok(None)) {
        observer.across(across.as_ref().ok().and_then(Option::as_ref));
    }
    let asked = across?.unwrap_or(*key);
    let destination_end = tenant.owners.lookup(asked.destination());
    observer.destination(destination_end);
    let destination_end = destination_end.ok_or(DropReason::NoRoute)?;
    let service = tenant.services.called(key.destination());
    let to = match service {
        Some(service) => service.next_hop(generation),
        None => tenant.next_hop(destination_end),
    };
    let to = to.ok_or(DropReason::NoRoute)?;
    if to == arrived_from {
        return Err(DropReason::HairpinRefused);
    }
    let subject = Subject {
        source: asked.source(),
        source_port: asked.source_port,
        source_end,
        destination: asked.destination(),
        destination_port: asked.destination_port,
        destination_end,
        protocol: asked.protocol,
        dscp,
        apps: &[],
        domains: &[],
    };
    let (classified, rule) = judge(tenant, &subject, named, observer)?;
    let class = classified.class;
    let breakout = tenant.breakout.as_ref().filter(|breakout| match way {
        Way::Kept(hop) => hop == NextHop::Device(breakout.device),
        Way::Best(fitness) => {
            // It has no equals; which of others' is taken is no matter here.
            let ranking = path::Ranking { paths: breakout.order(class), shares: &[] };
            tenant.may_break_out(&subject, class)
                && path::select(ranking, 0, None, |id| fitness(id, class)) == Some(breakout.path)
        }
    });
    if let (Some(breakout), Way::Best(fitness)) = (breakout, way)
        && fitness(breakout.path, class) == Candidate::Poor
        && tenant
            .sites
            .get(breakout.site)
            .and_then(|site| site.sla(class))
            .is_some_and(|sla| tenant.insists(sla))
    {
        return Err(DropReason::SlaViolated);
    }
    let to = breakout.map_or(to, |breakout| NextHop::Device(breakout.device));
    let nat = match destination_end {
        End::Handoff(_) if let Some(breakout) = breakout => NatVerdict::Translate(&breakout.pool),
        End::Tenant(_) if let Some(service) = service => {
            NatVerdict::Cross(tenant.services.cross(service, &subject)?)
        }
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
    if let NatVerdict::Cross(crossing) = &nat {
        admit_guest(generation, crossing, &subject, observer)?;
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
    Ok(Decision { plan, asked, nat, may_change })
}

/// What a tenant's classes and ACL say to it.
fn judge<'a>(
    tenant: &'a Tenant,
    subject: &Subject<'_>,
    named: Option<&Named>,
    observer: &mut impl Observer<'a>,
) -> Result<(Classified, RuleId), DropReason> {
    let classified = tenant.classifier.classify(subject, named);
    observer.class(&classified);
    let rule = tenant.acl.first_match(subject, classified.class);
    observer.rule(subject, classified.class, rule);
    let rule = rule.ok_or(DropReason::AclDefault)?;
    match rule.action {
        AclAction::Accept => Ok((classified, rule.id)),
        AclAction::Drop => Err(DropReason::AclDropped(rule.id)),
        AclAction::Reject => Err(DropReason::AclRejected(rule.id)),
    }
}

/// Asks the publisher whether it lets in who calls its service. No name goes with it: what a subscriber's resolver says is
/// no ground for another tenant's policy.
fn admit_guest<'a>(
    generation: &'a Generation,
    crossing: &Crossing,
    called: &Subject<'_>,
    observer: &mut impl Observer<'a>,
) -> Result<(), DropReason> {
    let Crossing { subscriber, publisher, source, host: destination } = *crossing;
    observer.crosses(crossing);
    let publisher = generation.tenants.get(publisher).ok_or(DropReason::NoRoute)?;
    let [source_end, destination_end] = [source, destination].map(|address| publisher.owners.lookup(address));
    observer.source(source_end);
    observer.destination(destination_end);
    // A part of what the subscriber is known as may be somebody else's there.
    let source_end =
        source_end.filter(|end| *end == End::Tenant(subscriber)).ok_or(DropReason::SubscriberUnmapped)?;
    let destination_end = destination_end.ok_or(DropReason::NoRoute)?;
    let subject = Subject { source, source_end, destination, destination_end, ..*called };
    judge(publisher, &subject, None, observer).map(|_| ())
}
