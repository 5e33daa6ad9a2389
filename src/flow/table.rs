//! The session table: one entry per session, found by either direction's key, with one deadline and one lifecycle.

use super::nat::Ports;
use super::record::{EndReason, FlowRecord};
use super::session::Session;
use crate::model::{Direction, FlowKey, Instant, Now, Wheel};
use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::time::Duration;

/// Session timeouts are of seconds and more.
const TICK: Duration = Duration::from_millis(100);
const NEVER: Instant = Instant(u64::MAX);

/// All sessions of one worker, and the NAT ports they hold.
pub struct SessionTable {
    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    /// Slot and direction: `slot << 1 | direction`. The keys themselves stay in the sessions.
    index: HashTable<u32>,
    hasher: SeedableRandomState,
    wheel: Wheel<SessionRef>,
    /// By slot: when its entry in the wheel comes up, [`NEVER`] if it has none. A slot has one that counts: a new session
    /// takes over its predecessor's, and an entry that was overtaken by a nearer one is let go when it comes up. So the
    /// wheel is bounded by the slots, however fast sessions come and go in them.
    looks: Vec<Instant>,
    due: Vec<SessionRef>,
    /// Bindings live and die with their sessions.
    ports: Ports,
    created: u64,
    max: usize,
    active_timeout: Duration,
}

/// Where a session stands; good until the next call that may remove sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionRef(u32);

/// Why a session could not be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// As many as there may be.
    Full,
    /// A key of it is another session's.
    Taken,
}

impl SessionTable {
    /// An empty table that takes nothing before [`SessionTable::configure`]. `seeds` must be unpredictable: keys are
    /// chosen by strangers.
    pub fn new(seeds: [u64; 2], now: Instant) -> SessionTable {
        SessionTable {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: SeedableRandomState::with_seed(seeds[0], leaked_seed(seeds[1])),
            wheel: Wheel::new(TICK, now),
            looks: Vec::new(),
            due: Vec::new(),
            ports: Ports::default(),
            created: 0,
            max: 0,
            active_timeout: Duration::MAX,
        }
    }

    /// The session that packets with `key` belong to, and their direction in it.
    pub fn lookup(&self, key: &FlowKey) -> Option<(SessionRef, Direction)> {
        let found = *self.index.find(self.hasher.hash_one(key), |entry| self.key_of(*entry) == Some(key))?;
        Some(split(found))
    }

    /// The session at `at`.
    pub fn get(&self, at: SessionRef) -> Option<&Session> {
        self.slots.get(at.0 as usize)?.as_ref()
    }

    /// The session at `at`, to be changed; its keys must stay as they are.
    pub fn get_mut(&mut self, at: SessionRef) -> Option<&mut Session> {
        self.slots.get_mut(at.0 as usize)?.as_mut()
    }

    /// All sessions, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (SessionRef, &Session)> {
        self.slots.iter().enumerate().filter_map(|(slot, s)| Some((SessionRef(slot as u32), s.as_ref()?)))
    }

    /// The sessions in some of the table's slots, from slot `from` on; and where to go on, unless that was the end.
    pub fn some(
        &self,
        from: usize,
        slots: usize,
    ) -> (impl Iterator<Item = (SessionRef, &Session)>, Option<usize>) {
        let end = from.saturating_add(slots).min(self.slots.len());
        let found =
            (from..end).filter_map(|slot| Some((SessionRef(slot as u32), self.slots[slot].as_ref()?)));
        (found, (end < self.slots.len()).then_some(end))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there may be.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Sets how many there may be (those there are may stay), and how often one that lasts is reported.
    pub fn configure(&mut self, max: usize, active_timeout: Duration) {
        self.max = max;
        self.active_timeout = active_timeout;
    }

    /// How many sessions there ever were.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// How many ports sessions hold.
    pub fn ports_in_use(&self) -> u64 {
        self.ports.in_use()
    }

    /// The ports that sessions hold.
    pub fn ports(&mut self) -> &mut Ports {
        &mut self.ports
    }

    /// Enters `session` and gives it its id. If it is translated, its port must have been taken from
    /// [`SessionTable::ports`]; from now on the table gives it back, also when this fails.
    ///
    /// # Errors
    /// `Full`, or `Taken` when a key of it is already in the table.
    pub fn insert(&mut self, mut session: Session) -> Result<SessionRef, InsertError> {
        let [forward, reverse] = session.keys;
        let error = if self.len() >= self.max {
            Some(InsertError::Full)
        } else if forward == reverse || self.lookup(&forward).is_some() || self.lookup(&reverse).is_some() {
            Some(InsertError::Taken)
        } else {
            None
        };
        if let Some(error) = error {
            self.release_port(&session);
            return Err(error);
        }
        self.created += 1;
        session.id = self.created;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.looks.push(NEVER);
            self.slots.len() as u32 - 1
        });
        let at = SessionRef(slot);
        let look = self.next_look(&session);
        self.slots[slot as usize] = Some(session);
        self.look_by(at, look);
        for (direction, key) in [(Direction::Forward, forward), (Direction::Reverse, reverse)] {
            let Self { index, slots, hasher, .. } = self;
            index.insert_unique(hasher.hash_one(key), slot << 1 | direction as u32, |entry| {
                key_in(slots, *entry).map_or(0, |key| hasher.hash_one(key))
            });
        }
        Ok(at)
    }

    /// Ends the session at `at`: both keys, the NAT port and the entry go together. Gives its last record.
    pub fn remove(&mut self, at: SessionRef, reason: EndReason, now: Now) -> Option<FlowRecord> {
        let keys = self.get(at)?.keys;
        for key in keys {
            let hash = self.hasher.hash_one(key);
            let Self { index, slots, .. } = self;
            if let Ok(entry) = index.find_entry(hash, |entry| key_in(slots, *entry) == Some(&key)) {
                entry.remove();
            }
        }
        let mut session = self.slots.get_mut(at.0 as usize)?.take()?;
        self.free.push(at.0);
        self.release_port(&session);
        Some(session.take_record(reason, now))
    }

    /// Ends what has been idle too long, and reports what has lasted longer than the active timeout since its last
    /// record.
    pub fn expire(&mut self, now: Now, mut emit: impl FnMut(FlowRecord)) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now.instant, &mut due);
        let active_timeout = self.active_timeout;
        for at in due.drain(..) {
            let slot = at.0 as usize;
            if self.looks[slot] > now.instant {
                continue;
            }
            self.looks[slot] = NEVER;
            let Some(session) = self.get_mut(at) else { continue };
            if session.deadline() <= now.instant {
                let reason = session.end_reason();
                if let Some(record) = self.remove(at, reason, now) {
                    emit(record);
                }
                continue;
            }
            if session.last_report + active_timeout <= now.instant {
                if session.has_news() {
                    emit(session.take_record(EndReason::ActiveTimeout, now));
                } else {
                    session.last_report = now.instant;
                }
            }
            let look = session.deadline().min(session.last_report + active_timeout);
            self.look_by(at, look);
        }
        self.due = due;
    }

    /// Makes sure that `at` is looked at no later than its deadline, after that has come nearer (TCP closed).
    pub fn hasten(&mut self, at: SessionRef) {
        if let Some(deadline) = self.get(at).map(Session::deadline) {
            self.look_by(at, deadline);
        }
    }

    /// When [`SessionTable::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    fn next_look(&self, session: &Session) -> Instant {
        session.deadline().min(session.last_report + self.active_timeout)
    }

    fn look_by(&mut self, at: SessionRef, when: Instant) {
        let look = self.wheel.comes_up(when);
        if look < self.looks[at.0 as usize] {
            self.looks[at.0 as usize] = look;
            self.wheel.schedule(at, when);
        }
    }

    /// Entries in the wheel.
    #[cfg(test)]
    pub(super) fn scheduled(&self) -> usize {
        self.wheel.waiting()
    }

    fn release_port(&mut self, session: &Session) {
        if let Some((address, port)) = session.binding() {
            self.ports.release(address, session.keys[0].protocol, port);
        }
    }

    fn key_of(&self, entry: u32) -> Option<&FlowKey> {
        key_in(&self.slots, entry)
    }
}

fn key_in(slots: &[Option<Session>], entry: u32) -> Option<&FlowKey> {
    let (at, direction) = split(entry);
    Some(slots.get(at.0 as usize)?.as_ref()?.key(direction))
}

fn split(entry: u32) -> (SessionRef, Direction) {
    let direction = if entry & 1 == 0 { Direction::Forward } else { Direction::Reverse };
    (SessionRef(entry >> 1), direction)
}

/// foldhash wants its shared seed for ever; a table is made once per worker, so this is too.
fn leaked_seed(seed: u64) -> &'static SharedSeed {
    Box::leak(Box::new(SharedSeed::from_u64(seed)))
}
