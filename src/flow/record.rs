//! What is written down of a session: at its end, and at every active timeout while it lasts.

use super::story::Story;
use crate::model::{ClassBy, ClassId, Direction, End, FlowKey, Named, PathId, RuleId, TenantId};

/// Why a record was written (IPFIX flowEndReason, RFC 5102 section 5.11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// No packet for the idle timeout.
    IdleTimeout = 1,
    /// The session goes on; it was reported because the active timeout passed.
    ActiveTimeout = 2,
    /// TCP said so: FIN in both directions, or RST.
    EndOfFlow = 3,
    /// Ended from outside: policy, an operator, or shutdown.
    ForcedEnd = 4,
    /// The session table needed the room.
    LackOfResources = 5,
}

/// One direction's share of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionRecord {
    /// Since the last record of this session; IP bytes as they arrived, headers included.
    pub packets: u64,
    pub bytes: u64,
    /// When this direction's first and last packet since the last record came, milliseconds since the Unix epoch;
    /// where no packet came, both are the record's time.
    pub first_unix_millis: u64,
    pub last_unix_millis: u64,
    /// All TCP flags seen, or-ed (RFC 9293 section 3.1); 0 for other protocols.
    pub tcp_flags: u8,
    /// The path this direction's last packet arrived on, where it came out of a tunnel.
    pub arrived_on: Option<PathId>,
    /// The path this direction's last packet left on, where it went into a tunnel.
    pub left_on: Option<PathId>,
}

/// A session, as far as it has come since its last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Unique for the life of the process, the same in every record of one session.
    pub session: u64,
    pub tenant: TenantId,
    /// As the first packet arrived, before translation.
    pub key: FlowKey,
    /// As answers arrive, before translation back: differs from `key` turned round where NAT did something.
    pub reply_key: FlowKey,
    pub initiator: End,
    pub responder: End,
    pub class: ClassId,
    /// What told the class; and what the far end is called, where that could make a difference.
    pub class_by: ClassBy,
    pub name: Option<Named>,
    pub rule: RuleId,
    /// DSCP of the first packet, 0-63.
    pub dscp: u8,
    /// The table's generation that decided; of a session that policy has ended, the one that did.
    pub generation: u64,
    /// Indexed by [`Direction`].
    pub directions: [DirectionRecord; 2],
    pub end_reason: EndReason,
    /// What happened to it since its last record.
    pub story: Option<Box<Story>>,
}

impl FlowRecord {
    /// What went in `direction`.
    pub fn direction(&self, direction: Direction) -> &DirectionRecord {
        &self.directions[direction as usize]
    }
}
