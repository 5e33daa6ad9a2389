//! The worker's paths: for each a tunnel, a prober and its counters, brought in line with every new generation. How each
//! stands is told to the other workers whenever it may have changed.

use super::gauge::{Gauge, Why};
use super::outlet::{Outlet, asking};
use super::team::{Standing, Team};
use crate::config::public_of;
use crate::model::{IdMap, Instant, Now, PathId, SiteId, TenantId, TransportId, Wheel};
use crate::path::{
    Arrivals, ByDscp, Candidate, Echo, Judge, Measured, OfStream, PathTag, Prober, State, Way,
};
use crate::tables::{Generation, PathSpec};
use crate::tunnel::{Endpoint, Keys, Tunnel, TunnelIndex};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Probes are due to 5 ms: as much of the time in which a cut is found.
const TICK: Duration = Duration::from_millis(5);
const NEVER: Instant = Instant(u64::MAX);
/// A peer that moves all the time (two boxes with one key) is not told of with every packet.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// WireGuard's timers are of seconds, and looking at ten thousand tunnels' is not for nothing; but while a handshake is
/// under way people wait: then a quarter of one, which is what boringtun's own device uses.
const TUNNEL_TICK: Duration = Duration::from_secs(1);
const HANDSHAKE_TICK: Duration = Duration::from_millis(250);
/// Between calls to a far end that does not answer: quick at first, for it may only be restarting, then at the pace of
/// WireGuard's own retries (REKEY_TIMEOUT, whitepaper section 6.1).
const CALL_INTERVALS_MS: [u64; 8] = [1_000, 1_000, 1_000, 1_000, 1_000, 2_000, 3_000, 5_000];

/// A path, as a worker works it.
pub struct Path {
    pub spec: PathSpec,
    pub tunnel: Tunnel,
    /// What both ends know it by.
    pub tag: PathTag,
    pub gauge: Gauge,
    /// The far end is a popgate: it answers probes, or has sent one.
    pub probed: bool,
    /// It is none that is known of, and this is what to ask with instead.
    pub echo: Option<Box<Echo>>,
    pub received: Traffic,
    pub sent: Traffic,
    /// Copies among it, of packets that went by another path first; and packets that had come already, by another path.
    pub duplicated: u64,
    pub duplicates: u64,
    /// What arrived of what the far end sent.
    pub arrivals: Arrivals,
    /// And of what was sent, by DSCP, where either end measures it by several streams.
    pub by_dscp: Option<Box<ByDscp>>,
    next_tunnel_tick: Instant,
    next_call: Instant,
    calls: usize,
    /// When its entry in the wheel comes up.
    scheduled: Instant,
    /// When it was last told that the peer has moved.
    told: Option<Instant>,
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
    by_index: HashMap<TunnelIndex, PathId, foldhash::fast::FixedState>,
    wheel: Wheel<PathId>,
    outlet: Option<Box<Outlet>>,
    team: Arc<Team>,
    worker: u16,
}

impl Traffic {
    /// So many packets and bytes more.
    pub fn add(&mut self, (packets, bytes): (u64, u64)) {
        self.packets += packets;
        self.bytes += bytes;
    }

    /// One packet more.
    pub fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

impl Path {
    /// How fit it is to send on. A stock client answers no probes: its session is all the proof there is; and it goes on
    /// being that for a far end that has just shown itself to be a popgate, until our own probes have told.
    pub fn fitness(&self) -> Candidate {
        if self.tunnel.endpoint().is_none() {
            return Candidate::Unreachable;
        }
        match self.gauge.prober.state() {
            // What is large would be lost, and with it whoever sends that.
            State::Up if self.gauge.prober.is_narrow() => Candidate::Recovering,
            State::Up => Candidate::Up,
            State::Recovering => Candidate::Recovering,
            State::Unproven if !self.spec.probes && self.tunnel.has_session() => Candidate::Up,
            State::Unproven | State::Down => Candidate::Reachable,
        }
    }

    fn standing(&self) -> Standing {
        match self.tunnel.endpoint() {
            Some(endpoint) => {
                Standing { fitness: self.fitness(), transport: endpoint.transport, avoid: self.gauge.avoid }
            }
            None => Standing::UNREACHABLE,
        }
    }

    /// Looks at WireGuard's timers if it is time to, or nearly so: [`Tunnel::tick`]. An idle tunnel has left the cache;
    /// where it is probed, it is fetched once for both.
    pub fn tick_tunnel(&mut self, now: Instant, buffer: &mut [u8]) -> Option<(Option<usize>, usize)> {
        if now + TUNNEL_TICK / 2 < self.next_tunnel_tick {
            return None;
        }
        let outcome = self.tunnel.tick(buffer);
        self.next_tunnel_tick = now + if self.tunnel.is_calling() { HANDSHAKE_TICK } else { TUNNEL_TICK };
        Some(outcome)
    }

    /// One direction over the last ten seconds, and the share of all packets lost, which is known of what arrives here even where
    /// no probe is answered.
    pub fn measured(&self, way: Way, now: Instant) -> (Option<Measured>, Option<f64>) {
        let (measured, loss) = self.gauge.measured(way, now);
        match way {
            Way::Inbound if self.gauge.streams.is_empty() => (measured, self.arrivals.lately(now).loss()),
            Way::Outbound | Way::Inbound => (measured, loss),
        }
    }

    /// What a probe says of its stream; nothing, where there is only one.
    pub fn of_stream(&self, dscp: u8) -> Option<OfStream> {
        let by_dscp = self.by_dscp.as_ref().filter(|_| !self.gauge.streams.is_empty())?;
        let dscps = self.gauge.stands_for(dscp);
        let [sent, _] = by_dscp.of(dscps);
        Some(OfStream { dscp, dscps, sent })
    }

    /// A packet of a session's that carries `dscp` is on the path. True if that brings a probe forward.
    pub fn carries(&mut self, dscp: u8, is_protected: bool, now: Instant) -> bool {
        let Gauge { prober, streams, .. } = &mut self.gauge;
        let sooner = prober.traffic(is_protected, now);
        // As a rule there are none.
        match streams.iter_mut().find(|stream| stream.dscp() == dscp) {
            Some(stream) => stream.traffic(prober, now) | sooner,
            None => sooner,
        }
    }

    /// From now on it is measured and judged as `generation` says.
    pub fn follow(&mut self, generation: &Generation, now: Instant) {
        // Echo requests are answered by hosts, and all the same.
        let tenant = generation.tenants.get(self.spec.tenant);
        let streams = tenant.filter(|_| self.echo.is_none()).map_or(&[][..], |tenant| &tenant.streams);
        self.gauge.measure_by(streams, now);
        if !streams.is_empty() {
            self.by_dscp.get_or_insert_default();
        }
        let (judges, judged_for) = judges(self.spec.tenant, generation);
        self.gauge.judge_by(judges, judged_for);
    }

    /// Whether anything is asked about it.
    pub fn is_measured(&self) -> bool {
        self.probed || self.echo.is_some()
    }

    /// Takes down how good it is, now and then, where that is known: of a path that is measured.
    pub fn sample(&mut self, now: Instant) {
        if self.is_measured() && self.gauge.history.is_due(now) {
            let ways = [Way::Outbound, Way::Inbound].map(|way| self.measured(way, now));
            self.gauge.sample(ways, now);
        }
    }

    /// The far end has shown itself to be a popgate: it is asked as such from now on.
    pub fn is_popgates(&mut self, now: Instant) {
        self.probed = true;
        if self.echo.take().is_some() {
            self.gauge.prober = Prober::new(now);
        }
        self.gauge.prober.hurry(now);
    }

    /// Whether it is time to call a far end that does not answer.
    pub fn call_due(&mut self, now: Instant) -> bool {
        if !self.spec.calls || self.fitness().is_alive() {
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

    /// There is reason to believe that it can be used again.
    pub fn asks_at_once(&mut self, now: Instant) {
        self.gauge.prober.hurry(now);
        (self.next_call, self.calls) = (now, 0);
    }

    /// Whether people should hear that the peer has moved.
    pub fn tell_of_move(&mut self, now: Instant) -> bool {
        let tell = self.told.is_none_or(|told| now.since(told) >= TELL_AGAIN);
        if tell {
            self.told = Some(now);
        }
        tell
    }

    fn poll_timeout(&self) -> Instant {
        let probes = self.is_measured() && self.tunnel.has_session();
        let calls = self.spec.calls && !self.fitness().is_alive();
        let prober = &self.gauge.prober;
        let streams = self.gauge.streams.iter().filter_map(|stream| stream.poll_timeout(prober));
        let probes = probes.then(|| streams.fold(prober.poll_timeout(), Instant::min));
        [probes, calls.then_some(self.next_call)]
            .into_iter()
            .flatten()
            .fold(self.next_tunnel_tick, Instant::min)
    }
}

impl Paths {
    /// No paths yet.
    pub fn new(team: Arc<Team>, worker: u16, now: Now) -> Paths {
        Paths {
            paths: IdMap::default(),
            by_index: HashMap::default(),
            wheel: Wheel::new(TICK, now.instant),
            outlet: None,
            team,
            worker,
        }
    }

    /// Brings the paths in line with `generation`, as far as they are this worker's: a path whose keys stay keeps its
    /// sessions, endpoint and counters.
    pub fn adopt(&mut self, generation: &Generation, rng: &mut StdRng, now: Now) {
        // First all that go: a key that moves from one path to another must not be taken off the wrong one.
        let stays = |id: PathId, path: &Path| {
            generation.paths.get(id).is_some_and(|spec| same_peer(&path.spec, spec))
        };
        let gone: Vec<PathId> =
            self.paths.iter().filter(|(id, path)| !stays(*id, path)).map(|(id, _)| id).collect();
        for id in gone {
            self.remove(id, now.instant);
        }
        for (id, spec) in generation.paths.iter() {
            if self.team.worker_of(spec.site) != self.worker {
                continue;
            }
            match self.paths.get_mut(id) {
                Some(path) => {
                    let last_heard_on = path.tunnel.endpoint().map(|endpoint| endpoint.transport);
                    if last_heard_on.is_some_and(|id| !may_use(spec, generation, id)) {
                        path.tunnel.forget_endpoint();
                    }
                    if path.spec.endpoint != spec.endpoint || path.tunnel.endpoint().is_none() {
                        point(&mut path.tunnel, spec, generation);
                    }
                    if path.spec.echo != spec.echo && !path.probed {
                        path.echo = echo(spec, rng);
                        path.gauge = Gauge::new(prober(spec, now.instant));
                    }
                    path.spec = spec.clone();
                    path.gauge.why = Why::Configured;
                    path.follow(generation, now.instant);
                    self.schedule(id);
                }
                None => self.insert(id, spec, generation, rng, now),
            }
            self.publish(id, now.instant);
        }
        self.adopt_outlet(generation, rng, now.instant);
    }

    fn adopt_outlet(&mut self, generation: &Generation, rng: &mut StdRng, now: Instant) {
        let breakout = generation.breakout();
        // Its sessions are where those are that go past it.
        let breakout = breakout.filter(|(_, breakout)| self.team.worker_of(breakout.site) == self.worker);
        let before = self.outlet.take();
        if let Some((tenant, breakout)) = breakout {
            let same = before.filter(|outlet| outlet.path == breakout.path);
            self.outlet = Some(match same {
                Some(mut outlet) => {
                    outlet.follow(breakout, generation, rng, now);
                    outlet
                }
                None => Box::new(Outlet::new(tenant, breakout, generation, rng, now)),
            });
            self.publish(breakout.path, now);
        } else if let Some(outlet) = before {
            self.publish(outlet.path, now);
        }
    }

    /// The way straight out, if it is this worker's.
    pub fn outlet(&self) -> Option<&Outlet> {
        self.outlet.as_deref()
    }

    /// That, to be worked.
    pub fn outlet_mut(&mut self) -> Option<&mut Outlet> {
        self.outlet.as_deref_mut()
    }

    /// How good a path is, or the way straight out.
    pub fn gauge(&self, id: PathId) -> Option<&Gauge> {
        match self.paths.get(id) {
            Some(path) => Some(&path.gauge),
            None => self.outlet().filter(|outlet| outlet.path == id).map(|outlet| &outlet.gauge),
        }
    }

    /// That, to be changed.
    pub fn gauge_mut(&mut self, id: PathId) -> Option<&mut Gauge> {
        match self.paths.get_mut(id) {
            Some(path) => Some(&mut path.gauge),
            None => self.outlet.as_mut().filter(|outlet| outlet.path == id).map(|outlet| &mut outlet.gauge),
        }
    }

    /// How fit it is to send on, whoever asks.
    pub fn fitness(&self, id: PathId) -> Candidate {
        self.standing(id).fitness
    }

    /// Whose it is, and which site is at its far end, or past it.
    pub fn whose(&self, id: PathId) -> Option<(TenantId, SiteId)> {
        let of_path = self.paths.get(id).map(|path| (path.spec.tenant, path.spec.site));
        let outlet = self.outlet().filter(|outlet| outlet.path == id);
        of_path.or(outlet.map(|outlet| (outlet.tenant, outlet.site)))
    }

    /// Those of a site, and past it, that are better than the others know.
    pub fn held_back(&self, site: SiteId) -> Vec<PathId> {
        let paths = self.paths.iter().filter(|(_, path)| path.spec.site == site && path.gauge.is_held_back);
        let outlet = self.outlet().filter(|outlet| outlet.site == site && outlet.gauge.is_held_back);
        paths.map(|(id, _)| id).chain(outlet.map(|outlet| outlet.path)).collect()
    }

    /// What others are to know of one.
    pub(super) fn standing(&self, id: PathId) -> Standing {
        match self.paths.get(id) {
            Some(path) => path.standing(),
            None => self.outlet().filter(|o| o.path == id).map_or(Standing::UNREACHABLE, Outlet::standing),
        }
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

    /// Tells the team how `id` stands now. Whether that is new.
    pub fn publish(&self, id: PathId, now: Instant) -> bool {
        let why = self.gauge(id).map_or(0, |gauge| gauge.why.pack());
        self.team.publish(id, self.standing(id), why, now)
    }

    /// The paths that have something to do; each is to be scheduled again.
    pub fn take_due(&mut self, now: Instant, due: &mut Vec<PathId>) {
        self.wheel.expire(now, due);
        let Self { paths, .. } = self;
        // An entry that a nearer one has overtaken, or whose path is gone, is let go: one a path is kept.
        due.retain(|id| {
            let path = paths.get_mut(*id).filter(|path| path.scheduled <= now);
            path.is_some_and(|path| std::mem::replace(&mut path.scheduled, NEVER) != NEVER)
        });
        due.sort_unstable();
    }

    /// Has `id` come up when its timers say so, if it does not come up by then already.
    pub fn schedule(&mut self, id: PathId) {
        if let Some(path) = self.paths.get_mut(id) {
            let at = path.poll_timeout();
            let comes_up = self.wheel.comes_up(at);
            if comes_up < path.scheduled {
                path.scheduled = comes_up;
                self.wheel.schedule(id, at);
            }
        }
    }

    /// When the next path has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let outlet = self.outlet().and_then(Outlet::poll_timeout);
        self.wheel.next().into_iter().chain(outlet).min()
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
        let mut path = Path {
            spec: spec.clone(),
            tunnel,
            tag: PathTag::between(&spec.public_key.0, &public_of(&spec.private_key).0),
            gauge: Gauge::new(prober(spec, now.instant)),
            probed: spec.probes,
            echo: echo(spec, rng),
            received: Traffic::default(),
            sent: Traffic::default(),
            duplicated: 0,
            duplicates: 0,
            arrivals: Arrivals::default(),
            by_dscp: None,
            // Spread, or the tunnels of a generation would all be looked at in one go, every second.
            next_tunnel_tick: now.instant + TUNNEL_TICK.mul_f64(rng.random()),
            next_call: now.instant,
            calls: 0,
            scheduled: NEVER,
            told: None,
        };
        path.follow(generation, now.instant);
        self.paths.insert(id, path);
        self.schedule(id);
    }

    fn remove(&mut self, id: PathId, now: Instant) {
        if let Some(path) = self.paths.remove(id) {
            self.by_index.remove(&path.tunnel.index());
        }
        self.publish(id, now);
    }
}

/// One for each of a tenant's SLAs, and the DSCP of what it is asked for.
pub(super) fn judges(tenant: TenantId, generation: &Generation) -> (Box<[Judge]>, Box<[u8]>) {
    let slas = generation.tenants.get(tenant).map_or(&[][..], |tenant| &tenant.slas);
    (slas.iter().map(|sla| Judge::new(sla.limits)).collect(), slas.iter().map(|sla| sla.dscp).collect())
}

fn prober(spec: &PathSpec, now: Instant) -> Prober {
    if spec.echo.is_some() { Prober::by_echo(now) } else { Prober::new(now) }
}

fn echo(spec: &PathSpec, rng: &mut StdRng) -> Option<Box<Echo>> {
    spec.echo.as_ref().map(|echo| Box::new(asking(echo, rng.random())))
}

fn same_peer(a: &PathSpec, b: &PathSpec) -> bool {
    a.private_key == b.private_key
        && a.public_key == b.public_key
        && a.preshared_key == b.preshared_key
        && a.persistent_keepalive == b.persistent_keepalive
}

/// Whether the policy lets the peer be where it was last heard.
fn may_use(spec: &PathSpec, generation: &Generation, transport: TransportId) -> bool {
    spec.transport.is_none_or(|only| only == transport) && generation.transports.get(transport).is_some()
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
