//! Shaping: what leaves by a path waits here and not in the line, where a call would wait behind a download.
//!
//! A packet's way: 1 offered; it goes at once if nobody waits and there is time for it, and if it is of the class that goes
//! first, also where others wait; 2 else it waits in its class's queue; 3 when the line has time, one of the line's paths has its
//! turn, of that path's queues one (deficit round robin, Shreedhar and Varghese 1996, twice), and of that queue's flows one; CoDel
//! says whether the packet at its head has waited too long.
//!
//! A path may send at its own rate, which is what the far end can take in, and all paths of a transport share that
//! transport's. Packets wait unsealed: a tunnel's counters are in the order in which datagrams leave.

mod budget;
mod codel;
mod flows;
mod queue;
#[cfg(test)]
mod tests;

use crate::model::{ClassId, IdMap, Instant, PathId, Queueing, Rate, TransportId, Wheel};
pub use budget::Budget;
use budget::{IDLE_BURST, LATE_BURST};
pub use queue::Counters;
use queue::{LARGEST, Queue};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A weight of 1 sends so many bytes in its turn: small, so that a weight of 100 does not send for long at a time
/// (RFC 8290 section 5.2.4).
const QUANTUM: i64 = 300;
/// What a path sends in its turn among its transport's.
const PATH_QUANTUM: i64 = LARGEST as i64;
/// Of a line's time, what is taken in advance: as much as passes while a thread sleeps.
const GRANT: Duration = Duration::from_millis(1);
/// Paths come up to a quarter of a millisecond late, and make up for that.
const TICK: Duration = Duration::from_micros(250);
/// What may wait with one worker, in bytes. A thousand paths' fullest queues would be more memory than a box has.
const MOST_WAITING: usize = 64 << 20;
/// Five of CoDel's targets: what senders that heed it keep waiting is less, as is a slow line's largest packet.
const FULL: Duration = Duration::from_millis(25);
/// Empty buffers that are kept for what comes.
const SPARE_BUFFERS: usize = 1_024;

/// The shaped paths of one worker.
pub struct Shaper {
    lines: IdMap<TransportId, Line>,
    paths: IdMap<PathId, Shaped>,
    /// Paths with something to send that have no time yet.
    wheel: Wheel<PathId>,
    due: Vec<PathId>,
    spare: Vec<Vec<u8>>,
    waiting_bytes: usize,
    /// Paths of which other classes are full than were.
    changed: Vec<PathId>,
    seed: u64,
}

/// Classes of which there is more on a path already than goes soon: a bit for each, which those 32 apart share, so that the other
/// workers find all of a path's in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FullClasses(pub u32);

/// Which way a packet is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub path: PathId,
    pub transport: TransportId,
    /// What is put around a packet, in bytes.
    pub overhead: usize,
}

/// What became of a packet that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is to be sent now.
    Goes,
    /// It is kept, and will come out of [`Shaper::depart`].
    Waits,
    /// There was no room, and so many packets are lost: this one, or others of its class that take more of the room.
    Full(u64),
}

/// How one class fares on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    pub path: PathId,
    pub class: ClassId,
    pub queueing: Queueing,
    pub counters: Counters,
    pub waiting_packets: usize,
    pub waiting_bytes: usize,
    /// What half and 95 of a hundred of the last packets waited at most.
    pub waits: Option<(Duration, Duration)>,
}

/// A transport.
struct Line {
    rate: Option<Rate>,
    budget: Arc<Budget>,
    /// Paths that have something to send and time for it, in the order of their turns.
    ready: VecDeque<PathId>,
    /// What all of its paths have to send, in bytes.
    backlog: usize,
    /// Bytes that may be sent from then on; below zero, what was sent beyond them.
    credit: i64,
    from: Instant,
    /// Nobody has had to wait since.
    idle: bool,
}

/// A path.
struct Shaped {
    way: Way,
    rate: Option<Rate>,
    budget: Budget,
    queues: Vec<Queue>,
    /// Whose turn it is.
    turn: usize,
    /// Packets that wait, and their bytes.
    waiting: usize,
    backlog: usize,
    /// What it may send in its turn among the line's.
    deficit: i64,
    /// It stands in its line.
    is_ready: bool,
    full: FullClasses,
}

impl FullClasses {
    /// Whether there is no room for more of `class`.
    pub fn has(self, class: ClassId) -> bool {
        self.0 >> (class.0 % 32) & 1 == 1
    }

    fn with(self, class: ClassId, is_full: bool) -> FullClasses {
        let bit = 1 << (class.0 % 32);
        FullClasses(if is_full { self.0 | bit } else { self.0 & !bit })
    }
}

impl Shaper {
    /// A shaper of no paths. `seed`: by which flows are spread, and which senders must not know.
    pub fn new(seed: u64, now: Instant) -> Shaper {
        Shaper {
            seed,
            lines: IdMap::default(),
            paths: IdMap::default(),
            wheel: Wheel::new(TICK, now),
            due: Vec::new(),
            spare: Vec::new(),
            waiting_bytes: 0,
            changed: Vec::new(),
        }
    }

    /// Sets the rates of all transports, whose budgets all workers share.
    pub fn set_lines(&mut self, lines: impl Iterator<Item = (TransportId, Option<Rate>, Arc<Budget>)>) {
        // What waits for one that is gone need not wait for its time too.
        self.lines.iter_mut().for_each(|(_, line)| line.rate = None);
        for (transport, rate, budget) in lines {
            self.set_line(transport, rate, budget);
        }
    }

    fn set_line(&mut self, transport: TransportId, rate: Option<Rate>, budget: Arc<Budget>) {
        match self.lines.get_mut(transport) {
            Some(line) => (line.rate, line.budget) = (rate, budget),
            None => {
                self.lines.insert(transport, Line::new(rate, budget));
            }
        }
    }

    /// Sets the rate of a path alone.
    pub fn set_path(&mut self, path: PathId, rate: Option<Rate>) {
        match self.paths.get_mut(path) {
            Some(shaped) => shaped.rate = rate,
            None => {
                self.paths.insert(path, Shaped::new(path, rate));
            }
        }
    }

    /// Forgets a path; how many packets waited for it.
    pub fn remove(&mut self, path: PathId) -> usize {
        let Some(shaped) = self.paths.remove(path) else { return 0 };
        self.waiting_bytes -= shaped.backlog;
        if let Some(line) = self.lines.get_mut(shaped.way.transport) {
            line.backlog -= shaped.backlog;
        }
        self.lines.iter_mut().for_each(|(_, line)| line.ready.retain(|ready| *ready != path));
        shaped.waiting
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.waiting_bytes == 0
    }

    /// Tells of which classes more waits for a path than it will have sent soon, of each path of which that has changed since the
    /// last call.
    pub fn take_full(&mut self, mut tell: impl FnMut(PathId, FullClasses)) {
        for id in self.changed.drain(..) {
            if let Some(path) = self.paths.get(id) {
                tell(id, path.full);
            }
        }
    }

    /// The paths there are.
    pub fn paths(&self) -> impl Iterator<Item = PathId> {
        self.paths.iter().map(|(id, _)| id)
    }

    // 1 Offered.

    /// Offers a packet of `class`, of a path that has been set.
    pub fn offer(
        &mut self,
        way: Way,
        (class, queueing): (ClassId, Queueing),
        packet: &[u8],
        now: Instant,
    ) -> Offered {
        let Self { lines, paths, .. } = self;
        let (Some(line), Some(path)) = (lines.get_mut(way.transport), paths.get_mut(way.path)) else {
            return Offered::Goes;
        };
        let rate = slower(path.rate, line.rate);
        if rate.is_none() && path.waiting == 0 {
            return Offered::Goes;
        }
        if path.way != way {
            self.roam(way);
            return self.offer(way, (class, queueing), packet, now);
        }
        let bytes = packet.len() + way.overhead;
        let at = path.queue_of(class, queueing);
        let goes = match queueing {
            Queueing::Priority if path.queues[at].is_empty() && path.is_open_first(line, now) => {
                path.take_first(line, bytes, now);
                true
            }
            _ => path.waiting == 0 && path.takes_now(line, bytes, now),
        };
        let queue = &mut path.queues[at];
        if goes {
            queue.went(packet.len(), Duration::ZERO);
            return Offered::Goes;
        }
        if self.waiting_bytes + packet.len() > MOST_WAITING {
            queue.counters.overflowed += 1;
            return Offered::Full(1);
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.extend_from_slice(packet);
        let was_waiting = path.waiting > 0;
        (path.waiting, path.backlog) = (path.waiting + 1, path.backlog + packet.len());
        line.backlog += packet.len();
        self.waiting_bytes += packet.len();
        let mut lost = 0;
        queue.push(kept, rate, self.seed, now, |buffer| {
            lost += 1;
            (path.waiting, path.backlog) = (path.waiting - 1, path.backlog - buffer.len());
            line.backlog -= buffer.len();
            self.waiting_bytes -= buffer.len();
            put_back(&mut self.spare, buffer);
        });
        if path.looks_at(at, rate) {
            self.changed.push(way.path);
        }
        if !was_waiting {
            self.stand_in_line(way.path, now);
        }
        if lost > 0 { Offered::Full(lost) } else { Offered::Waits }
    }

    /// Has a packet of our own go, which measures the path and not the queues before it, and so waits in none.
    pub fn charge(&mut self, way: Way, bytes: usize, now: Instant) {
        let Self { lines, paths, .. } = self;
        if let (Some(line), Some(path)) = (lines.get_mut(way.transport), paths.get_mut(way.path)) {
            path.take_first(line, bytes + way.overhead, now);
        }
    }

    /// The path leaves by another transport from now on, or to an address of another family.
    fn roam(&mut self, way: Way) {
        let Self { lines, paths, .. } = self;
        let Some(path) = paths.get_mut(way.path) else { return };
        if let Some(old) = lines.get_mut(path.way.transport) {
            old.backlog -= path.backlog;
        }
        if let Some(new) = lines.get_mut(way.transport) {
            new.backlog += path.backlog;
        }
        // If it stands in the old one's line, it is sent on from there.
        path.way = way;
    }

    // 2 Waiting.

    /// A path has something to send: it waits for time of its own, and then for its transport's.
    fn stand_in_line(&mut self, id: PathId, now: Instant) {
        let Some(path) = self.paths.get_mut(id) else { return };
        if path.rate.is_some() && !path.budget.all.is_free(now) {
            self.wheel.schedule(id, path.budget.all.next());
            return;
        }
        if let Some(line) = self.lines.get_mut(path.way.transport) {
            path.is_ready = true;
            line.ready.push_back(id);
            line.ask(now);
        }
    }

    /// When [`Shaper::depart`] has something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lines = self.lines.iter().filter(|(_, line)| !line.ready.is_empty());
        let lines = lines.map(|(_, line)| if line.rate.is_some() { line.from } else { Instant(0) });
        lines.chain(self.wheel.next()).min()
    }

    // 3 Departing.

    /// The next packet that is to be sent now, and its path; to be called until there is none. Packets that have waited
    /// too long are lost on the way, and their paths given to `lost`.
    pub fn depart(&mut self, now: Instant, mut lost: impl FnMut(PathId)) -> Option<(PathId, Vec<u8>)> {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for id in due.drain(..) {
            // One that is there already has been away meanwhile, and come back.
            if self.paths.get(id).is_some_and(|path| path.waiting > 0 && !path.is_ready) {
                self.stand_in_line(id, now);
            }
        }
        self.due = due;
        let Self { lines, paths, spare, waiting_bytes, wheel, changed, .. } = self;
        let mut moved = None;
        let mut departed = None;
        'lines: for (transport, line) in lines.iter_mut() {
            while let Some(&id) = line.ready.front() {
                let Some(path) = paths.get_mut(id) else {
                    line.ready.pop_front();
                    continue;
                };
                if path.way.transport != transport {
                    line.ready.pop_front();
                    path.is_ready = false;
                    moved = Some(id);
                    break 'lines;
                }
                let is_alone = line.ready.len() == 1;
                if path.deficit <= 0 {
                    path.deficit = if is_alone { PATH_QUANTUM } else { path.deficit + PATH_QUANTUM };
                    line.ready.rotate_left(1);
                    continue;
                }
                let first = path.first().filter(|_| path.is_open_first(line, now));
                if first.is_none() {
                    line.ask(now);
                    if !line.has_credit(now) {
                        break;
                    }
                }
                let at = first.unwrap_or_else(|| path.next_queue());
                let rate = slower(path.rate, line.rate);
                let queue = &mut path.queues[at];
                let (packets_before, bytes_before) = (queue.len(), queue.bytes());
                let packet = queue.pop(rate, now, |buffer| {
                    lost(id);
                    put_back(spare, buffer);
                });
                let (packets, bytes) = (packets_before - queue.len(), bytes_before - queue.bytes());
                path.waiting -= packets;
                path.backlog -= bytes;
                line.backlog -= bytes;
                *waiting_bytes -= bytes;
                if path.looks_at(at, rate) {
                    changed.push(id);
                }
                if let Some(packet) = &packet {
                    let bytes = packet.len() + path.way.overhead;
                    match first {
                        Some(_) => path.take_first(line, bytes, now),
                        None => path.take(at, line, bytes, now),
                    }
                }
                let has_time = path.rate.is_none() || path.budget.all.is_free(now);
                if path.waiting == 0 || !has_time {
                    line.ready.pop_front();
                    path.is_ready = false;
                    if path.waiting > 0 {
                        wheel.schedule(id, path.budget.all.next());
                    }
                }
                if line.ready.is_empty() {
                    line.rest();
                } else {
                    line.ask(now);
                }
                if let Some(packet) = packet {
                    departed = Some((id, packet));
                    break 'lines;
                }
            }
        }
        if let Some(id) = moved {
            self.stand_in_line(id, now);
            return self.depart(now, lost);
        }
        departed
    }

    /// Takes the buffer of a packet that was sent back.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        put_back(&mut self.spare, buffer);
    }

    /// How all classes fare on all paths.
    pub fn queues(&self) -> impl Iterator<Item = QueueState> {
        self.paths.iter().flat_map(|(id, path)| {
            path.queues.iter().map(move |queue| QueueState {
                path: id,
                class: queue.class,
                queueing: queue.queueing,
                counters: queue.counters,
                waiting_packets: queue.len(),
                waiting_bytes: queue.bytes(),
                waits: queue.waits(),
            })
        })
    }
}

fn put_back(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if spare.len() < SPARE_BUFFERS {
        buffer.clear();
        spare.push(buffer);
    }
}

fn slower(one: Option<Rate>, other: Option<Rate>) -> Option<Rate> {
    one.into_iter().chain(other).min()
}

impl Line {
    fn new(rate: Option<Rate>, budget: Arc<Budget>) -> Line {
        let ready = VecDeque::new();
        Line { rate, budget, ready, backlog: 0, credit: 0, from: Instant(0), idle: true }
    }

    /// Takes some of the line's time for what is ready, unless it has some.
    fn ask(&mut self, now: Instant) {
        let Some(rate) = self.rate else { return };
        if self.credit > 0 {
            return;
        }
        let wanted = rate.bytes_in(GRANT).min(self.backlog).max(1) as i64;
        let bytes = wanted - self.credit;
        let burst = if std::mem::take(&mut self.idle) { IDLE_BURST } else { LATE_BURST };
        self.from = self.budget.all.take(rate.time_of(bytes as usize), burst, now);
        self.credit = wanted;
    }

    fn has_credit(&self, now: Instant) -> bool {
        self.rate.is_none() || self.credit > 0 && now >= self.from
    }

    /// Nothing is ready any more: what is left is others'. What was sent beyond is paid for.
    fn rest(&mut self) {
        if let Some(rate) = self.rate {
            let left = rate.time_of(self.credit.unsigned_abs() as usize);
            if self.credit > 0 {
                self.budget.all.give_back(left);
            } else {
                self.budget.all.take(left, IDLE_BURST, self.from);
            }
        }
        self.credit = 0;
        self.idle = true;
    }
}

impl Shaped {
    fn new(path: PathId, rate: Option<Rate>) -> Shaped {
        Shaped {
            way: Way { path, transport: TransportId(0), overhead: 0 },
            rate,
            budget: Budget::default(),
            queues: Vec::new(),
            turn: 0,
            waiting: 0,
            backlog: 0,
            deficit: 0,
            is_ready: false,
            full: FullClasses::default(),
        }
    }

    /// Looks whether more waits in a queue than goes soon. Whether that is new.
    fn looks_at(&mut self, queue: usize, rate: Option<Rate>) -> bool {
        let (queue, before) = (&self.queues[queue], self.full);
        let is_full = rate.is_some_and(|rate| rate.time_of(queue.bytes()) >= FULL);
        self.full = before.with(queue.class, is_full);
        self.full != before
    }

    /// The place of a class's queue.
    fn queue_of(&mut self, class: ClassId, queueing: Queueing) -> usize {
        let found = self.queues.iter().position(|queue| queue.class == class);
        let at = found.unwrap_or_else(|| {
            self.queues.push(Queue::new(class, queueing));
            self.queues.len() - 1
        });
        self.queues[at].queueing = queueing;
        at
    }

    /// Whether priority is within its share of both rates.
    fn is_open_first(&self, line: &Line, now: Instant) -> bool {
        (self.rate.is_none() || self.budget.is_open_first(now))
            && (line.rate.is_none() || line.budget.is_open_first(now))
    }

    fn take_first(&self, line: &Line, bytes: usize, now: Instant) {
        if let Some(rate) = self.rate {
            self.budget.take_first(rate, bytes, now);
        }
        if let Some(rate) = line.rate {
            line.budget.take_first(rate, bytes, now);
        }
    }

    /// Takes time for a packet that has not waited, if nobody else waits.
    fn takes_now(&self, line: &Line, bytes: usize, now: Instant) -> bool {
        let has_own = self.rate.is_none() || self.budget.all.is_free(now);
        if !has_own || !line.ready.is_empty() {
            return false;
        }
        if let Some(rate) = line.rate
            && !line.budget.all.take_now(rate.time_of(bytes), IDLE_BURST, now)
        {
            return false;
        }
        if let Some(rate) = self.rate {
            self.budget.all.take(rate.time_of(bytes), IDLE_BURST, now);
        }
        true
    }

    /// Takes time for a packet that has waited in the queue at `at`.
    fn take(&mut self, at: usize, line: &mut Line, bytes: usize, now: Instant) {
        if let Some(rate) = self.rate {
            self.budget.all.take(rate.time_of(bytes), LATE_BURST, now);
        }
        if line.rate.is_some() {
            line.credit -= bytes as i64;
        }
        self.queues[at].deficit -= bytes as i64;
        self.deficit -= bytes as i64;
    }

    /// The queue that goes first, if something waits there.
    fn first(&self) -> Option<usize> {
        let goes_first = |queue: &Queue| queue.queueing == Queueing::Priority && !queue.is_empty();
        self.queues.iter().position(goes_first)
    }

    /// Whose turn it is. Something waits.
    fn next_queue(&mut self) -> usize {
        loop {
            let queue = &mut self.queues[self.turn];
            if !queue.is_empty() && queue.deficit > 0 {
                return self.turn;
            }
            // What an empty queue did not use is not kept, but what it sent beyond its turn is not forgiven either.
            queue.deficit = if queue.is_empty() {
                queue.deficit.min(0)
            } else {
                let weight = match queue.queueing {
                    // Beyond its share, it is one among the others.
                    Queueing::Priority => Queueing::DEFAULT_WEIGHT,
                    Queueing::Weight(weight) => weight.max(1),
                };
                queue.deficit + QUANTUM * i64::from(weight)
            };
            self.turn = (self.turn + 1) % self.queues.len();
        }
    }
}
