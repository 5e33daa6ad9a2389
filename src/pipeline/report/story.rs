//! What happened to a session, in names: its moves between paths, its packets that were dropped, and what ended it.

use super::{FlowReport, SessionReport};
use crate::model::Protocol;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// A session's story; of a live one since its last record, of a record since the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StoryReport {
    /// The oldest first. Forward is from who began the session.
    pub forward_moves: Vec<MoveRow>,
    pub reverse_moves: Vec<MoveRow>,
    pub drops: Vec<Dropped>,
    /// What does not let it go on, of one that policy has ended.
    pub denied: Option<Denial>,
}

/// A move of one direction from a path to another, with the first packet that took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MoveRow {
    pub unix_ms: u64,
    pub from: String,
    pub to: String,
    pub by: MoveBy,
    /// What the path did whose doing it was: as in [`super::DecisionRow`]. `None` where that is not known, or nothing was done.
    pub why: Option<String>,
    /// The same in words, with the numbers that decided.
    pub detail: String,
    /// So many moves before this one were not kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unkept: u32,
}

/// Who decided on a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveBy {
    /// This box.
    Here,
    /// The box at the far end of the paths.
    FarEnd,
    /// Nobody: answers go where the session comes from.
    Answers,
    /// The session's app class, or the path policy, became another.
    Policy,
}

/// Why packets were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DroppedFor {
    /// [`crate::model::DropReason::name`].
    pub reason: String,
    /// The rule, pool or handoff the reason speaks of.
    pub detail: Option<String>,
}

/// That policy has ended a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Denial {
    #[serde(flatten)]
    pub reason: DroppedFor,
    /// When its first packet came that was not let through.
    pub unix_ms: u64,
}

/// Packets of a session that were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Dropped {
    #[serde(flatten)]
    pub reason: DroppedFor,
    pub packets: u64,
}

/// Whose story is asked for: the sessions between two ends, whoever began, before translation or after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceAsked {
    pub tenant: String,
    /// `None` for TCP, UDP and ICMP.
    pub protocol: Option<Protocol>,
    /// ICMP queries have their identifiers for ports; other protocols 0.
    pub ends: [(IpAddr, u16); 2],
}

/// What a worker has of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traced {
    pub sessions: Vec<SessionReport>,
    /// The last records of sessions that policy has ended a short time ago. They wait for what their hosts still send, and are
    /// written then.
    pub denied: Vec<FlowReport>,
}

impl StoryReport {
    /// Packets that were dropped for whatever reason.
    pub fn dropped_packets(&self) -> u64 {
        self.drops.iter().map(|drop| drop.packets).sum()
    }
}

impl std::fmt::Display for DroppedFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{} {detail}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}
