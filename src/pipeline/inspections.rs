//! Flows that are looked into for their names, and the names of those that have one: beside the sessions, by their ids,
//! since few have either.

use crate::model::{Instant, Named};
use crate::wire::Inspection;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Flows under inspection at once, a worker. Most are for a packet or two; at most 16 KiB of each are kept, which makes
/// 64 MiB. Where there are more, the rest keep the class they began with.
const MAX_INSPECTIONS: usize = 4_096;
/// How long a flow may take to tell its name: a handshake on a bad line, with its retransmissions.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of sessions' names, a worker: of a million sessions with names of 32 bytes, or of a hundred thousand with the
/// longest. Where there are more, the rest are not named.
const MAX_NAME_BYTES: usize = 32 << 20;

/// Flows that are looked into, by their sessions' ids.
#[derive(Debug, Default)]
pub(super) struct Inspections {
    under_way: HashMap<u64, Inspection>,
    /// When each has taken too long; some have ended before.
    order: VecDeque<(Instant, u64)>,
    /// Flows there was no room for.
    pub(super) refused: u64,
}

impl Inspections {
    /// Begins to look into a session. False if there is no room.
    pub(super) fn begin(&mut self, session: u64, inspection: Inspection, now: Instant) -> bool {
        while let Some((expires, oldest)) = self.order.front().copied()
            && (expires <= now || !self.under_way.contains_key(&oldest))
        {
            self.order.pop_front();
            self.under_way.remove(&oldest);
        }
        if self.order.len() >= 2 * MAX_INSPECTIONS {
            self.order.retain(|(_, session)| self.under_way.contains_key(session));
        }
        if self.under_way.len() >= MAX_INSPECTIONS {
            self.refused += 1;
            return false;
        }
        self.under_way.insert(session, inspection);
        self.order.push_back((now + PATIENCE, session));
        true
    }

    /// The inspection of a session, unless it has been given up.
    pub(super) fn get(&mut self, session: u64) -> Option<&mut Inspection> {
        self.under_way.get_mut(&session)
    }

    /// Looks into a session no longer.
    pub(super) fn end(&mut self, session: u64) {
        self.under_way.remove(&session);
    }
}

/// The names of sessions, by their ids.
#[derive(Debug, Default)]
pub(super) struct SessionNames {
    names: HashMap<u64, Named>,
    bytes: usize,
}

impl SessionNames {
    /// The session's name.
    pub(super) fn get(&self, session: u64) -> Option<&Named> {
        self.names.get(&session)
    }

    /// Names a session, perhaps anew. False if there is no room.
    pub(super) fn insert(&mut self, session: u64, named: Named) -> bool {
        self.remove(session);
        if self.bytes + named.name.len() > MAX_NAME_BYTES {
            return false;
        }
        self.bytes += named.name.len();
        self.names.insert(session, named);
        true
    }

    /// Takes the name of a session that ends.
    pub(super) fn remove(&mut self, session: u64) -> Option<Named> {
        let named = self.names.remove(&session)?;
        self.bytes -= named.name.len();
        Some(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NameSource, Protocol};

    fn inspection() -> Inspection {
        Inspection::new(Protocol::TCP, 443).expect("inspected")
    }

    #[test]
    fn when_all_places_are_taken_flows_are_refused_and_counted_until_some_have_taken_too_long() {
        let mut inspections = Inspections::default();
        let begin = Instant(0);
        for session in 0..MAX_INSPECTIONS as u64 {
            assert!(inspections.begin(session, inspection(), begin));
        }
        assert!(!inspections.begin(9_999, inspection(), begin + PATIENCE / 2));
        assert_eq!(inspections.refused, 1);
        assert!(inspections.begin(9_999, inspection(), begin + PATIENCE));
        assert!(inspections.get(0).is_none(), "it has been given up");
        assert_eq!((inspections.under_way.len(), inspections.order.len()), (1, 1));
    }

    #[test]
    fn flows_that_tell_their_names_make_room_however_long_the_oldest_takes() {
        let mut inspections = Inspections::default();
        assert!(inspections.begin(0, inspection(), Instant(0)));
        for session in 1..10 * MAX_INSPECTIONS as u64 {
            assert!(inspections.begin(session, inspection(), Instant(0)));
            inspections.end(session);
        }
        assert!(inspections.get(0).is_some());
        assert!(inspections.order.len() <= 2 * MAX_INSPECTIONS);
    }

    #[test]
    fn names_are_bounded_by_their_bytes_and_give_them_back() {
        let mut names = SessionNames::default();
        let named = || Named { name: "a".repeat(1 << 20).into(), by: NameSource::Dns };
        for session in 0..32 {
            assert!(names.insert(session, named()));
        }
        assert!(names.insert(31, named()), "in place of its own");
        assert!(!names.insert(32, named()));
        assert!(names.remove(5).is_some());
        assert!(names.insert(32, named()));
        assert!(names.get(5).is_none());
    }
}
