//! What ACL rules did: counted by rule, and told in the log where a rule asks for it.
//!
//! No packet pays for the counts. A session is counted under its rule when it is admitted; its packets and bytes when a
//! record of it is written, at its end or the active timeout, whichever is first. A session that a commit moves to another
//! rule counts from its next record on for that one.

use super::drops::Drops;
use super::report::RuleRow;
use crate::config::AclAction;
use crate::flow::FlowRecord;
use crate::model::{Direction, DropReason, End, FlowKey, IdMap, Instant, RuleId, TenantId};
use crate::tables::{AclRule, Generation, Services};
use std::time::Duration;

/// Lines of one rule a second, and at once: what a person can follow. A worker counts what it left out.
const LINES_PER_SECOND: u32 = 10;
/// Lines that wait to be taken; one that finds no room is counted as left out.
const MAX_WAITING: usize = 1_000;

/// One worker's account of the rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    counts: IdMap<RuleId, Count>,
    /// Lines not taken yet.
    lines: Vec<Logged>,
}

#[derive(Debug, Default)]
struct Count {
    sessions: u64,
    packets: u64,
    bytes: u64,
    /// Sessions whose line was left out.
    unlogged: u64,
    log: Option<Bucket>,
}

/// How many lines a rule may still write.
#[derive(Debug)]
struct Bucket {
    lines: u32,
    filled: Instant,
}

/// A session's first packet, and what a rule that logs made of it.
#[derive(Clone, Copy, Debug)]
pub struct Logged {
    pub tenant: TenantId,
    pub rule: RuleId,
    pub action: AclAction,
    pub key: FlowKey,
    pub dscp: u8,
    /// Who owns each end: the initiator, the responder.
    pub ends: [End; 2],
    /// How many sessions of the rule this worker has left out so far.
    pub unlogged: u64,
}

impl Rules {
    /// A session that `rule` accepted has begun.
    pub(super) fn began(&mut self, rule: RuleId) {
        self.count(rule).sessions += 1;
    }

    /// A record was written.
    pub(super) fn recorded(&mut self, record: &FlowRecord) {
        let count = self.count(record.rule);
        for direction in [Direction::Forward, Direction::Reverse] {
            let part = record.direction(direction);
            count.packets += part.packets;
            count.bytes += part.bytes;
        }
    }

    /// `rule`, which logs, has decided on a session that begins with `key`.
    pub(super) fn decided(
        &mut self,
        tenant: TenantId,
        rule: &AclRule,
        key: &FlowKey,
        dscp: u8,
        ends: [End; 2],
        now: Instant,
    ) {
        let has_room = self.lines.len() < MAX_WAITING;
        let count = self.count(rule.id);
        let may = count.log.get_or_insert(Bucket { lines: LINES_PER_SECOND, filled: now }).take(now);
        if !(may && has_room) {
            count.unlogged += 1;
            return;
        }
        let unlogged = count.unlogged;
        let (rule, action) = (rule.id, rule.action);
        self.lines.push(Logged { tenant, rule, action, key: *key, dscp, ends, unlogged });
    }

    /// A line that was taken could not be written.
    pub(super) fn left_out(&mut self, rule: RuleId) {
        self.count(rule).unlogged += 1;
    }

    /// The lines since the last call.
    pub(super) fn take_lines(&mut self) -> std::vec::Drain<'_, Logged> {
        self.lines.drain(..)
    }

    /// Every rule that the generation has, of one tenant or of all, by tenant and in the order they are tried.
    pub(super) fn rows(&self, tenant: Option<&str>, drops: &Drops, generation: &Generation) -> Vec<RuleRow> {
        let names = &generation.names;
        let tenants = generation.tenants.iter().map(|(id, tables)| (names.tenant(id), id, tables));
        let mut tenants: Vec<_> =
            tenants.filter(|(name, ..)| tenant.is_none_or(|only| only == *name)).collect();
        tenants.sort_by_key(|(name, ..)| *name);
        let none = Count::default();
        let row = |name: &str, tenant: TenantId, services: &Services, rule: &AclRule| {
            let count = self.counts.get(rule.id).unwrap_or(&none);
            // What subscribers send to a service that is published here, passes this ACL too.
            let asked = || services.subscribers().chain([tenant]);
            let dropped = |reason| asked().map(|tenant| drops.of_tenant(tenant, reason)).sum();
            RuleRow {
                tenant: name.to_owned(),
                rule: names.rule(rule.id).to_owned(),
                action: rule.action,
                at: rule.at.to_string(),
                sessions: count.sessions,
                packets: count.packets,
                bytes: count.bytes,
                dropped_packets: match rule.action {
                    AclAction::Accept => 0,
                    AclAction::Drop => dropped(DropReason::AclDropped(rule.id)),
                    AclAction::Reject => dropped(DropReason::AclRejected(rule.id)),
                },
                unlogged: count.unlogged,
            }
        };
        let rows = tenants.into_iter().flat_map(|(name, tenant, tables)| {
            tables.acl.rules().iter().map(move |rule| (name, tenant, &tables.services, rule))
        });
        rows.map(|(name, tenant, services, rule)| row(name, tenant, services, rule)).collect()
    }

    fn count(&mut self, rule: RuleId) -> &mut Count {
        self.counts.get_or_default(rule)
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        if now.since(self.filled) >= Duration::from_secs(1) {
            *self = Bucket { lines: LINES_PER_SECOND, filled: now };
        }
        let has = self.lines > 0;
        self.lines = self.lines.saturating_sub(1);
        has
    }
}
