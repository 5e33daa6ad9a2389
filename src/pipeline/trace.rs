//! What a worker knows of the sessions between two ends, with their stories in names.

use super::Worker;
use super::answers::describe_record;
use super::gauge::Why;
use super::journal::Move;
use super::report::{Denial, Dropped, DroppedFor, MoveBy, MoveRow, StoryReport, TraceAsked, Traced};
use crate::flow::{Moved, MovedBy, Moves, Story};
use crate::model::{ClassId, DropReason, FlowKey, Now, Protocol, TenantId, Zone};
use crate::tables::Generation;
use std::net::IpAddr;

impl Worker {
    /// The sessions between two ends, by their keys: nothing is searched.
    pub(super) fn trace(&self, asked: &TraceAsked, now: Now) -> Traced {
        let mut traced = Traced::default();
        let names = &self.generation.names;
        let Some(tenant) = self.generation.tenants.iter().find(|(id, _)| names.tenant(*id) == asked.tenant)
        else {
            return traced;
        };
        let (mut found, mut denied) = (Vec::new(), Vec::new());
        for key in keys(asked, tenant.0) {
            if let Some((at, _)) = self.sessions.lookup(&key)
                && let Some(session) = self.sessions.get(at)
                && (session.tenant == tenant.0 || key.zone.as_tenant() == Some(tenant.0))
                && !found.contains(&session.id)
            {
                found.push(session.id);
                traced.sessions.push(self.session_report(session, now));
            }
            if let Some(record) = self.denied_of(&key)
                && record.tenant == tenant.0
                && !denied.contains(&record.session)
            {
                denied.push(record.session);
                traced.denied.push(describe_record(record, &self.generation));
            }
        }
        traced
    }
}

/// The keys that a packet between the ends may have: either way, inside and outside.
fn keys(asked: &TraceAsked, tenant: TenantId) -> impl Iterator<Item = FlowKey> {
    let [one, other] = asked.ends;
    let any = match one.0 {
        IpAddr::V4(_) => vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP],
        IpAddr::V6(_) => vec![Protocol::TCP, Protocol::UDP, Protocol::ICMPV6],
    };
    let protocols = asked.protocol.map_or(any, |protocol| vec![protocol]);
    protocols.into_iter().flat_map(move |protocol| {
        [Zone::tenant(tenant), Zone::INTERNET].into_iter().flat_map(move |zone| {
            [(one, other), (other, one)].map(|(from, to)| FlowKey::new(zone, protocol, from, to))
        })
    })
}

/// A story in names; the session is `tenant`'s.
pub(super) fn describe_story(story: &Story, tenant: TenantId, generation: &Generation) -> StoryReport {
    let [forward, reverse] = &story.moves;
    let moves = |moves: &Moves| {
        let mut unkept = moves.left_out;
        let rows = moves.kept.iter().map(|moved| MoveRow {
            unkept: std::mem::take(&mut unkept),
            ..describe_move(moved, tenant, generation)
        });
        rows.collect()
    };
    let drops = story.drops.iter();
    StoryReport {
        forward_moves: moves(forward),
        reverse_moves: moves(reverse),
        drops: drops
            .map(|(reason, packets)| Dropped { reason: dropped_for(*reason, generation), packets: *packets })
            .collect(),
        denied: story
            .denied
            .map(|(reason, unix_ms)| Denial { reason: dropped_for(reason, generation), unix_ms }),
    }
}

fn describe_move(moved: &Moved, tenant: TenantId, generation: &Generation) -> MoveRow {
    let Moved { unix_millis, from, to, by, .. } = *moved;
    let told = |cause: crate::flow::Cause| {
        let slas = generation.tenants.get(tenant).map(|tenant| &tenant.slas);
        let limits = |place: u8| slas?.get(usize::from(place)).map(|sla| sla.limits);
        let why = Why::unpack(cause.why, limits)?;
        let (at, class, path) = (unix_millis * 1_000_000, ClassId::NONE, cause.path);
        let entry = Move { at, tenant, class, from, to, path, why };
        Some((entry.kind().to_owned(), entry.reason(generation)))
    };
    let (by, why, detail) = match by {
        MovedBy::Here(cause) => match told(cause) {
            Some((why, detail)) => (MoveBy::Here, Some(why), detail),
            None => (MoveBy::Here, None, "by a policy that is no longer in force".to_owned()),
        },
        MovedBy::FarEnd(cause) => match cause.and_then(told) {
            Some((why, detail)) => (MoveBy::FarEnd, Some(why), format!("the far end says: {detail}")),
            None => (MoveBy::FarEnd, None, "the far end sends by it, and has not said why".to_owned()),
        },
        MovedBy::Follows => (MoveBy::Answers, None, "answers go where the session comes from".to_owned()),
        MovedBy::Policy => (MoveBy::Policy, None, "its app class has other paths now".to_owned()),
    };
    let [from, to] = [from, to].map(|path| generation.names.path(path).to_owned());
    MoveRow { unix_ms: unix_millis, from, to, by, why, detail, unkept: 0 }
}

/// A reason to drop in names.
pub(super) fn dropped_for(reason: DropReason, generation: &Generation) -> DroppedFor {
    let names = &generation.names;
    let detail = match reason {
        DropReason::AclDropped(rule) | DropReason::AclRejected(rule) => Some(names.rule(rule)),
        DropReason::NatRequired(handoff) | DropReason::NatPoolExhausted(handoff) => {
            Some(names.handoff(handoff))
        }
        DropReason::BranchSessionLimit(site)
        | DropReason::BranchSessionRate(site)
        | DropReason::BranchPortLimit(site) => Some(names.site(site)),
        _ => None,
    };
    DroppedFor { reason: reason.name().to_owned(), detail: detail.map(str::to_owned) }
}
