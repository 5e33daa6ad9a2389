//! The worker's paths: for each a tunnel, a prober and its counters, brought in line with every new generation.

use crate::model::{IdMap, Instant, Now, PathId, Wheel};
use crate::path::{Candidate, Prober, State};
use crate::tables::{Generation, PathSpec};
use crate::tunnel::{Endpoint, Gate, Keys, Tunnel, TunnelIndex};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::HashMap;
use std::time::Duration;

/// Probes are due to 10 ms.
const TICK: Duration = Duration::from_millis(10);
/// WireGuard's timers are of seconds; a quarter of one is what boringtun's own device uses.
const TUNNEL_TICK: Duration = Duration::from_millis(250);
/// Between calls to a far end that does not answer: quick at first, for it may only be restarting, then at the pace of
/// WireGuard's own retries (REKEY_TIMEOUT, whitepaper section 6.1).
const CALL_INTERVALS_MS: [u64; 8] = [1_000, 1_000, 1_000, 1_000, 1_000, 2_000, 3_000, 5_000];

/// A path, as a worker works it.
pub struct Path {
    pub spec: PathSpec,
    pub tunnel: Tunnel,
    pub prober: Prober,
    /// The far end is a popgate: it answers probes, or has sent one.
    pub probed: bool,
    pub received: Traffic,
    pub sent: Traffic,
    next_tunnel_tick: Instant,
    next_call: Instant,
    calls: usize,
}

/// Inner packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// All paths of one worker.
pub struct Paths {
    paths: IdMap<PathId, Path>,
    by_index: HashMap<TunnelIndex, PathId>,
    /// By our own public key and the peer's.
    by_keys: HashMap<([u8; 32], [u8; 32]), PathId>,
    pub gate: Gate,
    wheel: Wheel<PathId>,
    worker: u16,
}

impl Traffic {
    /// One packet more.
    pub fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

impl Path {
    /// How fit it is to send on. A stock client answers no probes: its session is all the proof there is.
    pub fn fitness(&self) -> Candidate {
        let alive = if self.probed { self.prober.state() == State::Up } else { self.tunnel.has_session() };
        match (alive, self.tunnel.endpoint()) {
            (_, None) => Candidate::Unreachable,
            (true, Some(_)) => Candidate::Up,
            (false, Some(_)) => Candidate::Reachable,
        }
    }

    /// Whether WireGuard's timers are to be looked at now.
    pub fn tunnel_tick_due(&mut self, now: Instant) -> bool {
        let due = self.next_tunnel_tick <= now;
        if due {
            self.next_tunnel_tick = now + TUNNEL_TICK;
        }
        due
    }

    /// Whether it is time to call a far end that does not answer.
    pub fn call_due(&mut self, now: Instant) -> bool {
        if !self.spec.calls || self.fitness() == Candidate::Up {
            self.calls = 0;
            return false;
        }
        // A session that is being proved by its first probes is left in peace for one interval.
        if now < self.next_call {
            return false;
        }
        let interval = CALL_INTERVALS_MS[self.calls.min(CALL_INTERVALS_MS.len() - 1)];
        self.next_call = now + Duration::from_millis(interval);
        self.calls += 1;
        true
    }

    fn poll_timeout(&self) -> Instant {
        let tunnel = self.next_tunnel_tick;
        if self.probed && self.tunnel.has_session() { tunnel.min(self.prober.poll_timeout()) } else { tunnel }
    }
}

impl Paths {
    /// No paths yet.
    pub fn new(worker: u16, now: Now) -> Paths {
        Paths {
            paths: IdMap::default(),
            by_index: HashMap::new(),
            by_keys: HashMap::new(),
            gate: Gate::new([], now.instant),
            wheel: Wheel::new(TICK, now.instant),
            worker,
        }
    }

    /// Brings the paths in line with `generation`: a path whose keys stay keeps its sessions, endpoint and counters.
    pub fn adopt(&mut self, generation: &Generation, rng: &mut StdRng, now: Now) {
        let gone: Vec<PathId> =
            self.paths.iter().map(|(id, _)| id).filter(|id| generation.paths.get(*id).is_none()).collect();
        for id in gone {
            self.remove(id);
        }
        for (id, spec) in generation.paths.iter() {
            match self.paths.get_mut(id) {
                Some(path) if same_peer(&path.spec, spec) => {
                    if path.spec.endpoint != spec.endpoint || path.spec.transport != spec.transport {
                        point(&mut path.tunnel, spec, generation);
                    }
                    path.spec = spec.clone();
                }
                _ => {
                    self.remove(id);
                    self.insert(id, spec, generation, rng, now);
                }
            }
        }
        let keys = generation.paths.iter().map(|(_, spec)| spec.private_key.0);
        // A PoP's paths share one key: told apart here, so that the gate is not asked a thousand times.
        let mut distinct: Vec<[u8; 32]> = keys.collect();
        distinct.sort_unstable();
        distinct.dedup();
        self.gate = Gate::new(distinct, now.instant);
    }

    /// The path at `id`.
    pub fn get(&self, id: PathId) -> Option<&Path> {
        self.paths.get(id)
    }

    /// The path at `id`, to be worked.
    pub fn get_mut(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.get_mut(id)
    }

    /// All paths in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (PathId, &Path)> {
        self.paths.iter()
    }

    /// The path a receiver index stands for.
    pub fn by_index(&self, index: TunnelIndex) -> Option<PathId> {
        self.by_index.get(&index).copied()
    }

    /// The path between two public keys, ours and the peer's.
    pub fn by_keys(&self, ours: [u8; 32], peer: [u8; 32]) -> Option<PathId> {
        self.by_keys.get(&(ours, peer)).copied()
    }

    /// The paths that have something to do.
    pub fn take_due(&mut self, now: Instant, due: &mut Vec<PathId>) {
        self.wheel.expire(now, due);
        due.sort_unstable();
        due.dedup();
    }

    /// Has `id` come up again when its timers say so. Every call adds an entry, so: once each time it comes up, and when
    /// its deadline has come nearer.
    pub fn schedule(&mut self, id: PathId) {
        if let Some(path) = self.paths.get(id) {
            self.wheel.schedule(id, path.poll_timeout());
        }
    }

    /// When the next path has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    fn insert(&mut self, id: PathId, spec: &PathSpec, generation: &Generation, rng: &mut StdRng, now: Now) {
        let keys = Keys {
            private: spec.private_key.0,
            peer: spec.public_key.0,
            preshared: spec.preshared_key.as_ref().map(|key| key.0),
        };
        let index = loop {
            let index = TunnelIndex::new(rng.random(), self.worker);
            if !self.by_index.contains_key(&index) {
                break index;
            }
        };
        let mut tunnel = Tunnel::new(&keys, spec.persistent_keepalive, index);
        point(&mut tunnel, spec, generation);
        self.by_index.insert(index, id);
        self.by_keys.insert((public(spec), spec.public_key.0), id);
        let path = Path {
            spec: spec.clone(),
            tunnel,
            prober: Prober::new(now.instant),
            probed: spec.probes,
            received: Traffic::default(),
            sent: Traffic::default(),
            next_tunnel_tick: now.instant,
            next_call: now.instant,
            calls: 0,
        };
        self.paths.insert(id, path);
        self.schedule(id);
    }

    fn remove(&mut self, id: PathId) {
        if let Some(path) = self.paths.remove(id) {
            self.by_index.remove(&path.tunnel.index());
            self.by_keys.remove(&(public(&path.spec), path.spec.public_key.0));
        }
    }
}

fn same_peer(a: &PathSpec, b: &PathSpec) -> bool {
    a.private_key == b.private_key
        && a.public_key == b.public_key
        && a.preshared_key == b.preshared_key
        && a.persistent_keepalive == b.persistent_keepalive
}

fn public(spec: &PathSpec) -> [u8; 32] {
    crate::config::public_of(&spec.private_key).0
}

/// Policy says where the peer is: on the transport it names, or on any of the address's family.
fn point(tunnel: &mut Tunnel, spec: &PathSpec, generation: &Generation) {
    let Some(address) = spec.endpoint else { return };
    let transport = spec.transport.or_else(|| {
        let fits = |listen: std::net::SocketAddr| listen.is_ipv4() == address.is_ipv4();
        generation.transports.iter().find(|(_, transport)| fits(transport.listen)).map(|(id, _)| id)
    });
    if let Some(transport) = transport {
        tunnel.roam(Endpoint { transport, address });
    }
}
