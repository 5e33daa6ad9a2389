//! Fragments that follow their first: they carry no ports, so their datagram's id leads them to the session.

use super::table::SessionRef;
use crate::model::{Direction, Instant, Protocol, Zone};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Datagrams under way at once; an older one gives way.
const MAX_DATAGRAMS: usize = 4_096;
/// How long the rest of a datagram may take (RFC 791 section 3.2 suggests 15 s, RFC 8200 section 4.5 60 s).
const TIMEOUT: Duration = Duration::from_secs(30);

/// What all fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    pub zone: Zone,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub id: u32,
}

/// Datagrams whose first fragment passed.
#[derive(Default)]
pub struct Fragments {
    known: HashMap<DatagramKey, Entry>,
    order: VecDeque<(Instant, DatagramKey)>,
}

/// Where a datagram's fragments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trail {
    /// With a session; its id is to be compared, for the place may be another's by now.
    Session { at: SessionRef, id: u64, direction: Direction },
    /// To the worker that has the session.
    Worker(u16),
}

#[derive(Clone, Copy)]
struct Entry {
    trail: Trail,
    expires: Instant,
}

impl Fragments {
    /// Remembers where the first fragment of a datagram went.
    pub fn insert(&mut self, key: DatagramKey, trail: Trail, now: Instant) {
        while let Some((expires, oldest)) = self.order.front().copied()
            && (expires <= now || self.order.len() >= MAX_DATAGRAMS)
        {
            self.order.pop_front();
            if self.known.get(&oldest).is_some_and(|entry| entry.expires == expires) {
                self.known.remove(&oldest);
            }
        }
        let expires = now + TIMEOUT;
        self.known.insert(key, Entry { trail, expires });
        self.order.push_back((expires, key));
    }

    /// Where a later fragment goes.
    pub fn lookup(&self, key: &DatagramKey, now: Instant) -> Option<Trail> {
        self.known.get(key).filter(|entry| entry.expires > now).map(|entry| entry.trail)
    }
}
