//! The workers of one box: who owns what, and what each must know of the others' paths.
//!
//! A site belongs to one worker, with all its tunnels. A session belongs to the worker of its site; of its two sites, if
//! it has two, to the first's. Both directions' packets lead to the same worker, whoever they reach first.

use super::leases::Leases;
use crate::model::{FlowKey, Instant, NextHop, PathId, Protocol, SiteId, TenantId, TransportId};
use crate::path::{Budget, Candidate, FullClasses};
use crate::tables::{Called, Generation};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The workers of a box.
pub struct Team {
    size: u16,
    board: Board,
    /// When each path last stood otherwise, and why it stands as it does: [`super::gauge::Why::pack`].
    changes: Board,
    /// Of which classes there is more on each path than goes soon.
    full: Board,
    causes: Board,
    /// When the far end last told why it sends by a path or not, and what it told.
    heard: Board,
    told: Board,
    /// How many sessions workers have been allowed to have; and of those that may not have as many as there are.
    granted: AtomicU32,
    granted_of_tenants: Board,
    granted_of_branches: Board,
    leases: Leases,
    /// Of transports. Taken at commits alone.
    budgets: Mutex<BTreeMap<TransportId, Arc<Budget>>>,
}

/// How many sessions of somebody's the workers have been allowed to have.
pub(super) struct Granted<'a>(&'a AtomicU32);

/// What is known of a path, whoever works it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub fitness: Candidate,
    /// Where the peer was last heard; means nothing for an unreachable one.
    pub transport: TransportId,
    /// One bit for each of its tenant's SLAs ([`crate::tables::Tenant::slas`]): whether it is to be avoided where that is asked.
    pub avoid: u16,
}

/// What made a path stand as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// To the millisecond. What is longer ago than 24 days may seem to have been since: that makes a session go over a second late.
    pub(super) at: Instant,
    /// It broke an SLA, or keeps it again; and was as alive before.
    pub(super) by_sla: bool,
}

impl Team {
    /// A team of `size` workers, numbered from 0; at least one.
    pub fn new(size: u16) -> Arc<Team> {
        Arc::new(Team {
            size: size.max(1),
            board: Board::default(),
            changes: Board::default(),
            full: Board::default(),
            causes: Board::default(),
            heard: Board::default(),
            told: Board::default(),
            granted: AtomicU32::new(0),
            granted_of_tenants: Board::default(),
            granted_of_branches: Board::default(),
            leases: Leases::default(),
            budgets: Mutex::default(),
        })
    }

    /// How many they are.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Who works a site's tunnels.
    pub fn worker_of(&self, site: SiteId) -> u16 {
        (site.0 % u32::from(self.size)) as u16
    }

    /// Who has the session of packets that arrive with `key`; `None` if anyone may, for nobody can have one.
    pub fn owner(&self, key: &FlowKey, generation: &Generation) -> Option<u16> {
        if self.size == 1 {
            return Some(0);
        }
        let tenant = match key.zone.as_tenant() {
            Some(tenant) => tenant,
            None => match generation.called(key.protocol, (key.destination(), key.destination_port))? {
                Called::Host { tenant, host } => {
                    return Some(self.worker_of(site_of(generation, tenant, host.0)?));
                }
                Called::Pool { .. } => {
                    return self.worker_of_port(key.destination(), key.protocol, key.destination_port);
                }
            },
        };
        let sites = [key.source(), key.destination()].map(|address| site_of(generation, tenant, address));
        let first = sites.into_iter().flatten().min()?;
        Some(self.worker_of(first))
    }

    /// Who has sessions at `port` of a pool's `address`, if anybody can have. A protocol without ports takes whole addresses, and
    /// each of those is one worker's.
    fn worker_of_port(&self, address: IpAddr, protocol: Protocol, port: u16) -> Option<u16> {
        let IpAddr::V4(address) = address else { return None };
        if protocol.has_ports() {
            self.leases.holder(address, port)
        } else {
            Some(self.worker_of_address(address))
        }
    }

    /// Whose a whole address of a pool is.
    pub(super) fn worker_of_address(&self, address: Ipv4Addr) -> u16 {
        (address.to_bits() % u32::from(self.size)) as u16
    }

    /// What workers have of the pools' ports.
    pub(super) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Who may send when over a transport, if its bandwidth is limited.
    pub(super) fn budget(&self, transport: TransportId) -> Arc<Budget> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(budgets.entry(transport).or_default())
    }

    /// Allows a worker some more sessions of the box's `max`; none, if all are given away. A worker that knows how many it
    /// may have need not ask the others about each.
    pub(super) fn grant_sessions(&self, max: usize) -> usize {
        Granted(&self.granted).grant(max)
    }

    /// A worker needs so many no longer.
    pub(super) fn return_sessions(&self, count: usize) {
        Granted(&self.granted).give_back(count);
    }

    /// What workers may have of a tenant's.
    pub(super) fn sessions_of_tenant(&self, tenant: TenantId) -> Granted<'_> {
        Granted(self.granted_of_tenants.cell(tenant.0.into()))
    }

    /// What workers may have of a branch's.
    pub(super) fn sessions_of_branch(&self, branch: SiteId) -> Granted<'_> {
        Granted(self.granted_of_branches.cell(branch.0))
    }

    /// How a path stands.
    pub(super) fn standing(&self, path: PathId) -> Standing {
        Standing::unpack(self.board.of(path).load(Ordering::Relaxed))
    }

    /// When it began to stand so, for whoever has just found that it does.
    pub(super) fn change(&self, path: PathId, now: Instant) -> Change {
        // Whoever has seen how it stands now sees this too.
        fence(Ordering::Acquire);
        Change::unpack(self.changes.of(path).load(Ordering::Relaxed), now)
    }

    /// Of which classes there is no room for more on a path, as whoever works it says.
    pub(super) fn full(&self, path: PathId) -> FullClasses {
        FullClasses(self.full.of(path).load(Ordering::Relaxed))
    }

    /// Tells the others that of a path of one's own.
    pub(super) fn tell_full(&self, path: PathId, full: FullClasses) {
        self.full.of(path).store(full.0, Ordering::Relaxed);
    }

    /// Why it stands so; 0 if it never stood otherwise.
    pub(super) fn cause(&self, path: PathId) -> u32 {
        self.causes.of(path).load(Ordering::Relaxed)
    }

    /// The far end tells why it sends by a path, or does not.
    pub(super) fn hear(&self, path: PathId, why: u32, now: Instant) {
        self.told.of(path).store(why, Ordering::Relaxed);
        self.heard.of(path).store(Change { at: now, by_sla: false }.pack(), Ordering::Release);
    }

    /// When the far end last told of a path, and what; 0 if it never did.
    pub(super) fn heard(&self, path: PathId, now: Instant) -> (Instant, u32) {
        let at = Change::unpack(self.heard.of(path).load(Ordering::Acquire), now).at;
        (at, self.told.of(path).load(Ordering::Relaxed))
    }

    /// Tells the others how a path of one's own stands, and why. Whether that is new.
    pub(super) fn publish(&self, path: PathId, standing: Standing, why: u32, now: Instant) -> bool {
        let cell = self.board.of(path);
        let packed = standing.pack();
        let before = cell.load(Ordering::Relaxed);
        // Written only when it changes: whoever reads it keeps the cache line.
        let is_new = before != packed;
        if is_new {
            let before = Standing::unpack(before);
            if (before.fitness, before.avoid) != (standing.fitness, standing.avoid) {
                let change = Change { at: now, by_sla: before.fitness == standing.fitness };
                self.changes.of(path).store(change.pack(), Ordering::Relaxed);
                self.causes.of(path).store(why, Ordering::Relaxed);
            }
            cell.store(packed, Ordering::Release);
        }
        is_new
    }
}

/// How many sessions are granted at a time: one by one in a small table, so that none goes unused; in a large one a few,
/// so that asking costs nothing.
pub(super) fn session_share(max: usize) -> usize {
    (max / 65_536).clamp(1, 1_024)
}

impl Granted<'_> {
    /// Some more, of `max`.
    pub(super) fn grant(&self, max: usize) -> usize {
        let (share, max) = (session_share(max) as u32, max as u32);
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |granted| {
            (granted < max).then(|| granted + share.min(max - granted))
        });
        before.map_or(0, |before| share.min(max - before)) as usize
    }

    /// So many are no longer needed.
    pub(super) fn give_back(&self, count: usize) {
        self.0.fetch_sub(count as u32, Ordering::Relaxed);
    }
}

/// The site of an address of a tenant's; where that stands for another tenant's host, that host's, so that both tenants'
/// addresses lead to the same worker.
fn site_of(generation: &Generation, tenant: TenantId, address: IpAddr) -> Option<SiteId> {
    let here = generation.tenants.get(tenant)?;
    let (tenant, address) = match here.services.counterpart(address) {
        Some((other, host)) => (generation.tenants.get(other)?, host),
        None => (here, address),
    };
    match tenant.next_hop(tenant.owners.lookup(address)?)? {
        NextHop::Tunnel(site) => Some(site),
        NextHop::Device(_) => None,
    }
}

impl Standing {
    pub(super) const UNREACHABLE: Standing =
        Standing { fitness: Candidate::Unreachable, transport: TransportId(0), avoid: 0 };

    /// Whether it is to be avoided by who asks for the tenant's SLA at place `sla`.
    pub(super) fn is_avoided(self, sla: u8) -> bool {
        self.avoid & 1 << sla != 0
    }

    /// Whether it is as good as `other` for everybody.
    pub(super) fn is_no_worse_than(self, other: Standing) -> bool {
        self.fitness <= other.fitness && self.avoid & !other.avoid == 0
    }

    /// How fit it is for who asks for the tenant's SLA at place `sla`.
    pub(super) fn fitness_for(self, sla: Option<u8>) -> Candidate {
        match (self.fitness, sla) {
            (Candidate::Up, Some(sla)) if self.is_avoided(sla) => Candidate::Poor,
            (fitness, _) => fitness,
        }
    }

    fn pack(self) -> u32 {
        let fitness = match self.fitness {
            Candidate::Unreachable => return 0,
            Candidate::Reachable => 1,
            Candidate::Recovering => 2,
            // What is poor is up for those who do not ask.
            Candidate::Up | Candidate::Poor => 3,
        };
        u32::from(self.avoid) << 18 | fitness << 16 | u32::from(self.transport.0)
    }

    fn unpack(packed: u32) -> Standing {
        let fitness = match packed >> 16 & 3 {
            0 => return Standing::UNREACHABLE,
            1 => Candidate::Reachable,
            2 => Candidate::Recovering,
            _ => Candidate::Up,
        };
        Standing { fitness, transport: TransportId(packed as u16), avoid: (packed >> 18) as u16 }
    }
}

impl Change {
    const MS: u64 = 1_000_000;
    const WRAP: u64 = 1 << 31;

    fn pack(self) -> u32 {
        ((self.at.0 / Change::MS) as u32) << 1 | u32::from(self.by_sla)
    }

    fn unpack(packed: u32, now: Instant) -> Change {
        let now_ms = now.0 / Change::MS;
        let ago = now_ms.wrapping_sub(u64::from(packed >> 1)) % Change::WRAP;
        Change { at: Instant(now_ms.saturating_sub(ago) * Change::MS), by_sla: packed & 1 != 0 }
    }
}

/// One word a number, in chunks that double, so that none ever moves: chunk `n` has 1,024 << `n` of them.
#[derive(Default)]
struct Board {
    chunks: [OnceLock<Box<[AtomicU32]>>; CHUNKS],
}

const FIRST_CHUNK: u64 = 1_024;
/// Enough for every number a path can have, which are the most.
const CHUNKS: usize = 23;

impl Board {
    fn of(&self, path: PathId) -> &AtomicU32 {
        self.cell(path.0)
    }

    fn cell(&self, number: u32) -> &AtomicU32 {
        let at = u64::from(number) + FIRST_CHUNK;
        let chunk = (at.ilog2() - FIRST_CHUNK.ilog2()) as usize;
        let size = FIRST_CHUNK << chunk;
        let cells = self.chunks[chunk]
            .get_or_init(|| std::iter::repeat_with(AtomicU32::default).take(size as usize).collect());
        &cells[(at - size) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_place_of_its_own_on_the_board() {
        let team = Team::new(2);
        let paths = [0, 1, 1_023, 1_024, 1_025, 3_071, 3_072, 70_000];
        let standing = |n: usize| Standing {
            fitness: [Candidate::Up, Candidate::Recovering, Candidate::Reachable][n % 3],
            transport: TransportId(n as u16),
            avoid: (1 << n) as u16,
        };
        for (n, path) in paths.into_iter().enumerate() {
            assert_eq!(team.standing(PathId(path)), Standing::UNREACHABLE);
            team.publish(PathId(path), standing(n), 1, Instant(0));
        }
        for (n, path) in paths.into_iter().enumerate() {
            assert_eq!(team.standing(PathId(path)), standing(n));
        }
        team.publish(PathId(1_024), Standing::UNREACHABLE, 1, Instant(0));
        assert_eq!(team.standing(PathId(1_024)), Standing::UNREACHABLE);
    }

    #[test]
    fn a_path_has_stood_as_it_does_since_its_fitness_or_an_sla_of_it_changed_whatever_the_clock_has_counted_to()
     {
        let path = PathId(7);
        let team = Team::new(1);
        let up = Standing { fitness: Candidate::Up, transport: TransportId(1), avoid: 0 };
        for day in [0, 24, 25, 49, 50, 500] {
            let at = |ms: u64| Instant(day * 86_400_000_000_000 + ms * 1_000_000);
            let known = |change: Change| ((change.at.0 - at(0).0) / 1_000_000, change.by_sla);
            team.publish(path, Standing::UNREACHABLE, 1, at(1));
            team.publish(path, up, 1, at(2));
            assert_eq!(known(team.change(path, at(900_000))), (2, false), "day {day}");
            team.publish(path, Standing { avoid: 4, ..up }, 1, at(3));
            assert_eq!(known(team.change(path, at(4))), (3, true));
            team.publish(path, Standing { avoid: 4, transport: TransportId(2), ..up }, 1, at(5));
            assert_eq!(known(team.change(path, at(6))), (3, true), "it has only moved");
            team.publish(path, Standing { fitness: Candidate::Recovering, avoid: 4, ..up }, 1, at(7));
            assert_eq!(known(team.change(path, at(8))), (7, false));
        }
    }
}
