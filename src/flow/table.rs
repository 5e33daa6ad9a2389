//! The session table: one entry per session, found by either direction's key, with one deadline and one lifecycle.
//!
//! Sessions that share a NAT binding are a ring, which is found by the binding's inside and by its outside: two more ways
//! into the one index, which lead to one of them. The binding ends, and its port is free, when the ring's last session ends.

use super::index::Index;
use super::nat::{Binding, PortChange, PortEvent, Ports};
use super::record::{EndReason, FlowRecord};
use super::session::{Plan, Session};
use super::tcp::TcpState;
use crate::model::{
    Direction, FlowKey, Id, IdMap, Instant, Now, Protocol, SiteId, TenantId, Timeouts, WORKER_BITS, Wheel,
    Zone,
};
use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

/// Session timeouts are of seconds and more.
const TICK: Duration = Duration::from_millis(100);
/// In ticks; 13 years.
const NEVER: u32 = u32::MAX;
/// Slots that are allocated at once, 1 MiB of sessions: the table grows without moving any of them.
const CHUNK: usize = 4_096;
/// Lines of the index that are moved each time, when it was left growing: as many as a few new sessions move.
const MOVED: usize = 64;
/// Sessions that one call of [`SessionTable::expire`] looks at: four times as many as a batch of packets can bring, so that
/// it gets ahead of them, and a tenth of a millisecond at most, which packets can wait.
const LOOKS: usize = 256;
/// Sessions of a ring that are asked whom they talk to. A host that talks to more at once from one port (a resolver's) is
/// answered by the newest of them, and by the rest on their own sessions.
const ASKED: usize = 256;
/// Keys whose look-ups overlap: about as many lines as a core fetches at once, and more gain nothing.
const GROUP: usize = 16;

/// All sessions of one worker, and the NAT ports they hold.
pub struct SessionTable {
    /// All full but the last.
    chunks: Vec<Chunk>,
    free: Vec<u32>,
    /// Slots, and what of theirs hashes to it: [`Entry`]. The keys themselves stay in the sessions.
    index: Index,
    hasher: SeedableRandomState,
    wheel: Wheel<SessionRef>,
    /// What has come up and was not looked at yet, the first at the end.
    due: Vec<SessionRef>,
    /// Bindings live and die with their sessions.
    ports: Ports,
    /// Of bindings that began and ended since they were last taken; `None` while nobody keeps a ledger.
    port_events: Option<Vec<PortEvent>>,
    created: u64,
    worker: u64,
    /// How many there may be at present, and how many there is room for.
    allowed: usize,
    max: usize,
    active_timeout: Duration,
    timeouts: IdMap<TenantId, Timeouts>,
    of_tenants: IdMap<TenantId, usize>,
    of_branches: IdMap<SiteId, usize>,
}

/// [`CHUNK`] slots, of which memory is touched as they are first used.
struct Chunk {
    sessions: Vec<Option<Session>>,
    /// By slot: the tick at which its entry in the wheel comes up, [`NEVER`] if it has none. A slot has one that counts: a
    /// new session takes over its predecessor's, and an entry that was overtaken by a nearer one is let go when it comes
    /// up. So the wheel is bounded by the slots, however fast sessions come and go in them.
    looks: Vec<u32>,
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
    /// An empty table that takes nothing before [`SessionTable::configure`] and [`SessionTable::allow`]. `seeds` must be unpredictable: keys are
    /// chosen by strangers.
    ///
    /// Ids of sessions tell workers apart in their lowest [`WORKER_BITS`].
    pub fn new(worker: u16, seeds: [u64; 2], now: Instant) -> SessionTable {
        SessionTable {
            chunks: Vec::new(),
            free: Vec::new(),
            index: Index::new(),
            hasher: SeedableRandomState::with_seed(seeds[0], leaked_seed(seeds[1])),
            wheel: Wheel::new(TICK, now),
            due: Vec::new(),
            ports: Ports::default(),
            port_events: None,
            created: 0,
            worker: u64::from(worker),
            allowed: 0,
            max: 0,
            active_timeout: Duration::MAX,
            timeouts: IdMap::default(),
            of_tenants: IdMap::default(),
            of_branches: IdMap::default(),
        }
    }

    /// The session that packets with `key` belong to, and their direction in it.
    pub fn lookup(&self, key: &FlowKey) -> Option<(SessionRef, Direction)> {
        self.find(self.hasher.hash_one(key), key)
    }

    /// [`SessionTable::lookup`] for many keys, into `found`, which must be as long. Among millions of sessions each look-up
    /// waits for memory twice, for the index and for the session; here they wait together.
    pub fn lookup_batch(&self, keys: &[FlowKey], found: &mut [Option<(SessionRef, Direction)>]) {
        for (keys, found) in keys.chunks(GROUP).zip(found.chunks_mut(GROUP)) {
            let mut hashes = [0; GROUP];
            let mut touched = 0;
            // Nothing here depends on what is read, so that the core goes on to the next before it has come.
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.hasher.hash_one(key);
                touched ^= self.index.touch(*hash);
            }
            black_box(touched);
            let mut guesses = [None; GROUP];
            for (guess, hash) in guesses.iter_mut().zip(&hashes[..keys.len()]) {
                *guess = self.index.guess(*hash);
            }
            let mut touched = 0;
            for (at, direction) in guesses.into_iter().flatten().filter_map(Entry::as_key) {
                touched ^= self.get(at).map_or(0, |session| session.touch(direction));
            }
            black_box(touched);
            for ((found, key), hash) in found.iter_mut().zip(keys).zip(hashes) {
                *found = self.find(hash, key);
            }
        }
    }

    /// The session at `at`.
    #[inline]
    pub fn get(&self, at: SessionRef) -> Option<&Session> {
        let (chunk, slot) = at.place();
        self.chunks.get(chunk)?.sessions.get(slot)?.as_ref()
    }

    /// The session at `at`, to be changed; its keys must stay as they are.
    #[inline]
    pub fn get_mut(&mut self, at: SessionRef) -> Option<&mut Session> {
        let (chunk, slot) = at.place();
        self.chunks.get_mut(chunk)?.sessions.get_mut(slot)?.as_mut()
    }

    /// All sessions, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (SessionRef, &Session)> {
        self.some(0, usize::MAX).0
    }

    /// The sessions in some of the table's slots, from slot `from` on; and where to go on, unless that was the end.
    pub fn some(
        &self,
        from: usize,
        slots: usize,
    ) -> (impl Iterator<Item = (SessionRef, &Session)>, Option<usize>) {
        let end = from.saturating_add(slots).min(self.slots());
        let found = (from..end).filter_map(|slot| {
            let at = SessionRef(slot as u32);
            Some((at, self.get(at)?))
        });
        (found, (end < self.slots()).then_some(end))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are this tenant's.
    pub fn of_tenant(&self, tenant: TenantId) -> usize {
        self.of_tenants.get(tenant).copied().unwrap_or(0)
    }

    /// How many are this branch's: see [`Session::branch`].
    pub fn of_branch(&self, branch: SiteId) -> usize {
        self.of_branches.get(branch).copied().unwrap_or(0)
    }

    /// Replaces the plan of the session at `at`.
    pub fn set_plan(&mut self, at: SessionRef, plan: &Plan) {
        let Some(session) = self.get_mut(at) else { return };
        let before = session.branch();
        session.set_plan(plan);
        let after = session.branch();
        if before != after {
            before.into_iter().for_each(|branch| uncount(&mut self.of_branches, branch));
            after.into_iter().for_each(|branch| count(&mut self.of_branches, branch));
        }
    }

    /// How many there may be.
    pub fn allowed(&self) -> usize {
        self.allowed
    }

    /// Sets how many there may be, at most as many as there is room for; those there are may stay.
    pub fn allow(&mut self, sessions: usize) {
        self.allowed = sessions.min(self.max);
    }

    /// Lets there be room for `max`, without allowing them yet, and sets how often one that lasts is reported and how long
    /// tenants' are kept; the RFCs' defaults, for those left out.
    pub fn configure(&mut self, max: usize, active_timeout: Duration, timeouts: IdMap<TenantId, Timeouts>) {
        self.max = max;
        self.allowed = self.allowed.min(max);
        self.active_timeout = active_timeout;
        self.timeouts = timeouts;
        self.index.let_grow(KINDS * max);
    }

    /// How many sessions there ever were.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// How many ports sessions hold.
    pub fn ports_in_use(&self) -> u64 {
        self.ports.in_use()
    }

    /// How many ports sessions hold of each address and protocol.
    pub fn ports_used(&self) -> impl Iterator<Item = (IpAddr, Protocol, u64)> {
        self.ports.used()
    }

    /// The ports that sessions hold.
    pub fn ports(&mut self) -> &mut Ports {
        &mut self.ports
    }

    /// Whether it tells from now on when bindings begin and end. Whoever has it told takes the events after each batch, which
    /// bounds them.
    pub fn tell_bindings(&mut self, tell: bool) {
        if tell != self.port_events.is_some() {
            self.port_events = tell.then(Vec::new);
        }
    }

    /// Tells of ports that the table itself does not know the holder of: blocks.
    pub fn tell(&mut self, event: PortEvent) {
        self.port_events.iter_mut().for_each(|events| events.push(event));
    }

    /// What became of bindings since this was last called, in order.
    pub fn take_port_events(&mut self) -> impl Iterator<Item = PortEvent> {
        self.port_events.iter_mut().flat_map(|events| events.drain(..))
    }

    /// What an inside endpoint is known by, where it is bound to something that `permits` says will do. `protocol` is the
    /// outside's.
    pub fn bound_to(
        &self,
        zone: Zone,
        protocol: Protocol,
        inside: (IpAddr, u16),
        permits: impl Fn(IpAddr, u16) -> bool,
    ) -> Option<(IpAddr, u16)> {
        let is = |binding: &Binding| {
            (binding.zone, binding.protocol, binding.inside) == (zone, protocol, inside)
                && permits(binding.outside.0, binding.outside.1)
        };
        let at = self.find_ring(Kind::Inside, self.hash_inside(zone, protocol, inside), is)?;
        self.get(at)?.binding().map(|binding| binding.outside)
    }

    /// The binding of an outside endpoint, which callers know in `far_zone`, and a session that shares it.
    pub fn bound_from(
        &self,
        far_zone: Zone,
        protocol: Protocol,
        outside: (IpAddr, u16),
    ) -> Option<(SessionRef, Binding)> {
        let is = |binding: &Binding| {
            (binding.far_zone, binding.protocol, binding.outside) == (far_zone, protocol, outside)
        };
        let at = self.find_ring(Kind::Outside, self.hash_outside(far_zone, protocol, outside), is)?;
        Some((at, self.get(at)?.binding()?))
    }

    /// Whether a session that shares its binding with the one at `at` talks to `remote`; of very many, the newest are asked.
    pub fn talks_to(&self, at: SessionRef, remote: IpAddr) -> bool {
        let mut next = at;
        for _ in 0..ASKED {
            let Some(session) = self.get(next) else { return false };
            if session.remote() == remote {
                return true;
            }
            next = SessionRef(session.next_sharing);
            if next == at {
                return false;
            }
        }
        false
    }

    /// Enters `session` and gives it its id. If it has a binding of its own, that one's port must have been taken from
    /// [`SessionTable::ports`]; from now on the table gives it back, also when this fails.
    ///
    /// # Errors
    /// `Full`, or `Taken` when a key of it is already in the table.
    pub fn insert(&mut self, mut session: Session) -> Result<SessionRef, InsertError> {
        let [forward, reverse] = session.keys;
        let hashes = session.keys.map(|key| self.hasher.hash_one(key));
        let error = if self.len() >= self.allowed {
            Some(InsertError::Full)
        } else if forward == reverse
            || self.find(hashes[0], &forward).is_some()
            || self.find(hashes[1], &reverse).is_some()
        {
            Some(InsertError::Taken)
        } else {
            None
        };
        let binding = session.binding();
        let ring =
            binding.and_then(|binding| self.bound_from(binding.far_zone, binding.protocol, binding.outside));
        if let Some(error) = error {
            if let (Some(binding), None) = (binding, ring) {
                self.ports.release(binding.outside.0, binding.protocol, binding.outside.1);
            }
            return Err(error);
        }
        self.created += 1;
        session.id = self.created << WORKER_BITS | self.worker;
        let look = next_look(&session, timeouts_of(&self.timeouts, session.tenant), self.active_timeout);
        count(&mut self.of_tenants, session.tenant);
        session.branch().into_iter().for_each(|branch| count(&mut self.of_branches, branch));
        let (tenant, branch) = (session.tenant, session.branch());
        let at = self.place(session);
        self.look_by(at, look);
        self.index.insert(hashes[0], at.entry(Kind::Forward));
        self.index.insert(hashes[1], at.entry(Kind::Reverse));
        match (binding, ring) {
            (Some(_), Some((others, _))) => self.join_ring(at, others),
            (Some(binding), None) => {
                self.begin_ring(at, &binding);
                self.note(PortChange::Began, (tenant, branch), &binding);
            }
            (None, _) => {}
        }
        Ok(at)
    }

    /// Ends the session at `at`: its keys and its entry go together, and its binding, if it was the last to share it. Gives
    /// its last record, if there is anything left to tell.
    pub fn remove(&mut self, at: SessionRef, reason: EndReason, now: Now) -> Option<FlowRecord> {
        let (chunk, slot) = at.place();
        let mut session = self.chunks.get_mut(chunk)?.sessions.get_mut(slot)?.take()?;
        for (direction, kind) in [(Direction::Forward, Kind::Forward), (Direction::Reverse, Kind::Reverse)] {
            self.index.remove(self.hasher.hash_one(session.key(direction)), at.entry(kind));
        }
        if let Some(binding) = session.binding() {
            self.leave_ring(at, &session, &binding);
        }
        uncount(&mut self.of_tenants, session.tenant);
        session.branch().into_iter().for_each(|branch| uncount(&mut self.of_branches, branch));
        self.free.push(at.0);
        (!session.is_told()).then(|| session.take_record(reason, now))
    }

    /// Ends what has been idle too long, and reports what has lasted longer than the active timeout since its last
    /// record; the first [`LOOKS`] of them, and [`SessionTable::poll_timeout`] says so if there are more.
    pub fn expire(&mut self, now: Now, mut emit: impl FnMut(FlowRecord)) {
        self.index.move_lines(MOVED);
        let mut due = std::mem::take(&mut self.due);
        if due.is_empty() {
            self.wheel.expire(now.instant, &mut due);
            due.reverse();
        }
        for at in due.drain(due.len().saturating_sub(LOOKS)..).rev() {
            let (chunk, slot) = at.place();
            let look = &mut self.chunks[chunk].looks[slot];
            if *look == NEVER || self.wheel.instant_of(u64::from(*look)) > now.instant {
                continue;
            }
            *look = NEVER;
            let Some(session) = self.chunks[chunk].sessions[slot].as_mut() else { continue };
            if session.deadline(timeouts_of(&self.timeouts, session.tenant)) <= now.instant {
                let reason = session.end_reason();
                if let Some(record) = self.remove(at, reason, now) {
                    emit(record);
                }
                continue;
            }
            if session.settles().is_some_and(|settled| settled <= now.instant) {
                emit(session.take_record(EndReason::EndOfFlow, now));
            } else if session.last_report + self.active_timeout <= now.instant {
                if session.has_news() {
                    let is_over = session.tcp.is_some_and(TcpState::is_over);
                    let reason = if is_over { EndReason::EndOfFlow } else { EndReason::ActiveTimeout };
                    emit(session.take_record(reason, now));
                } else {
                    session.last_report = now.instant;
                }
            }
            let look = next_look(session, timeouts_of(&self.timeouts, session.tenant), self.active_timeout);
            self.look_by(at, look);
        }
        self.due = due;
    }

    /// Makes sure that `at` is looked at in time, after that has come nearer (TCP closed).
    pub fn hasten(&mut self, at: SessionRef) {
        if let Some(session) = self.get(at) {
            let look = next_look(session, timeouts_of(&self.timeouts, session.tenant), self.active_timeout);
            self.look_by(at, look);
        }
    }

    /// When [`SessionTable::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.due.is_empty() { self.wheel.next() } else { Some(Instant::default()) }
    }

    fn look_by(&mut self, at: SessionRef, when: Instant) {
        let (chunk, slot) = at.place();
        let tick = u32::try_from(self.wheel.tick_of(when)).unwrap_or(NEVER - 1);
        let look = &mut self.chunks[chunk].looks[slot];
        if tick < *look {
            *look = tick;
            self.wheel.schedule(at, when);
        }
    }

    /// Puts `session` into a free slot, or a new one.
    fn place(&mut self, session: Session) -> SessionRef {
        if let Some(free) = self.free.pop() {
            let at = SessionRef(free);
            let (chunk, slot) = at.place();
            self.chunks[chunk].sessions[slot] = Some(session);
            return at;
        }
        let at = SessionRef(self.slots() as u32);
        if at.place().1 == 0 {
            self.chunks.push(Chunk { sessions: Vec::with_capacity(CHUNK), looks: Vec::with_capacity(CHUNK) });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.sessions.push(Some(session));
            chunk.looks.push(NEVER);
        }
        at
    }

    /// How many slots have ever been in use.
    fn slots(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.sessions.len())
    }

    #[inline]
    fn find(&self, hash: u64, key: &FlowKey) -> Option<(SessionRef, Direction)> {
        let is = |entry| {
            Entry::as_key(entry).is_some_and(|(at, direction)| {
                self.get(at).is_some_and(|session| session.key(direction) == key)
            })
        };
        self.index.find(hash, is).and_then(Entry::as_key)
    }

    // Rings.

    /// The session that leads to a ring by its `kind` of end, whose binding `is` the one.
    fn find_ring(&self, kind: Kind, hash: u64, is: impl Fn(&Binding) -> bool) -> Option<SessionRef> {
        let is = |entry| {
            let (at, of) = Entry::split(entry);
            of == kind && self.get(at).and_then(Session::binding).is_some_and(|binding| is(&binding))
        };
        self.index.find(hash, is).map(|entry| Entry::split(entry).0)
    }

    fn begin_ring(&mut self, at: SessionRef, binding: &Binding) {
        self.link(at, at);
        for (kind, hash) in self.ends_of(binding) {
            self.index.insert(hash, at.entry(kind));
        }
    }

    /// Behind `others`, which leads to the ring: so that the newest stand first.
    fn join_ring(&mut self, at: SessionRef, others: SessionRef) {
        let Some(next) = self.get(others).map(|session| SessionRef(session.next_sharing)) else { return };
        self.link(others, at);
        self.link(at, next);
    }

    fn leave_ring(&mut self, at: SessionRef, session: &Session, binding: &Binding) {
        let (next, previous) = (SessionRef(session.next_sharing), SessionRef(session.previous_sharing));
        for (kind, hash) in self.ends_of(binding) {
            let led_there = self.index.remove(hash, at.entry(kind));
            if led_there && next != at {
                self.index.insert(hash, next.entry(kind));
            }
        }
        if next == at {
            self.ports.release(binding.outside.0, binding.protocol, binding.outside.1);
            self.note(PortChange::Ended, (session.tenant, session.branch()), binding);
        } else {
            self.link(previous, next);
        }
    }

    /// Tells of a binding; not of one within a block, which was told of when it began.
    fn note(&mut self, change: PortChange, (tenant, branch): (TenantId, Option<SiteId>), binding: &Binding) {
        let (outside, port) = binding.outside;
        let in_block = binding.protocol.has_ports() && self.ports.is_in_block(outside, port);
        if self.port_events.is_some() && !in_block {
            let (protocol, inside) = (Some(binding.protocol), Some(binding.inside));
            self.tell(PortEvent { change, tenant, branch, outside, ports: (port, port), protocol, inside });
        }
    }

    fn link(&mut self, first: SessionRef, second: SessionRef) {
        if let Some(session) = self.get_mut(first) {
            session.next_sharing = second.0;
        }
        if let Some(session) = self.get_mut(second) {
            session.previous_sharing = first.0;
        }
    }

    fn ends_of(&self, binding: &Binding) -> [(Kind, u64); 2] {
        [
            (Kind::Inside, self.hash_inside(binding.zone, binding.protocol, binding.inside)),
            (Kind::Outside, self.hash_outside(binding.far_zone, binding.protocol, binding.outside)),
        ]
    }

    fn hash_inside(&self, zone: Zone, protocol: Protocol, inside: (IpAddr, u16)) -> u64 {
        self.hasher.hash_one((Kind::Inside as u8, zone, protocol, inside))
    }

    fn hash_outside(&self, far_zone: Zone, protocol: Protocol, outside: (IpAddr, u16)) -> u64 {
        self.hasher.hash_one((Kind::Outside as u8, far_zone, protocol, outside))
    }

    /// Entries in the wheel.
    #[cfg(test)]
    pub(super) fn scheduled(&self) -> usize {
        self.wheel.waiting()
    }
}

impl SessionRef {
    #[inline]
    fn place(self) -> (usize, usize) {
        (self.0 as usize / CHUNK, self.0 as usize % CHUNK)
    }

    fn entry(self, kind: Kind) -> u32 {
        self.0 << KIND_BITS | kind as u32
    }
}

/// What of a session's leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The keys, by direction.
    Forward,
    Reverse,
    /// Its binding's ends.
    Inside,
    Outside,
}

const KINDS: usize = 4;
const KIND_BITS: u32 = KINDS.ilog2();

/// An entry of the index: a slot, and below it what of it is meant.
struct Entry;

impl Entry {
    fn split(entry: u32) -> (SessionRef, Kind) {
        let kinds = [Kind::Forward, Kind::Reverse, Kind::Inside, Kind::Outside];
        (SessionRef(entry >> KIND_BITS), kinds[entry as usize % KINDS])
    }

    #[inline]
    fn as_key(entry: u32) -> Option<(SessionRef, Direction)> {
        let at = SessionRef(entry >> KIND_BITS);
        match entry as usize % KINDS {
            0 => Some((at, Direction::Forward)),
            1 => Some((at, Direction::Reverse)),
            _ => None,
        }
    }
}

fn count<I: Id>(counts: &mut IdMap<I, usize>, id: I) {
    match counts.get_mut(id) {
        Some(count) => *count += 1,
        None => {
            counts.insert(id, 1);
        }
    }
}

fn uncount<I: Id>(counts: &mut IdMap<I, usize>, id: I) {
    if let Some(count) = counts.get_mut(id) {
        *count -= 1;
    }
}

fn timeouts_of(timeouts: &IdMap<TenantId, Timeouts>, tenant: TenantId) -> &Timeouts {
    const DEFAULT: Timeouts = Timeouts::DEFAULT;
    timeouts.get(tenant).unwrap_or(&DEFAULT)
}

fn next_look(session: &Session, timeouts: &Timeouts, active_timeout: Duration) -> Instant {
    let next = session.deadline(timeouts).min(session.last_report + active_timeout);
    session.settles().map_or(next, |settled| settled.min(next))
}

/// foldhash wants its shared seed for ever; a table is made once per worker, so this is too.
fn leaked_seed(seed: u64) -> &'static SharedSeed {
    Box::leak(Box::new(SharedSeed::from_u64(seed)))
}
