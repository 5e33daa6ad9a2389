//! Taking an address and a port of a pool for a new session.
//!
//! 1 a port of those that all of a worker's branches share, 2 or of a branch's own blocks; for either the worker leases more
//! of the team ([`super::leases`]) where it has none that will do. 3 A lease ends when nothing is bound to its ports any
//! more; a block's, some time after that.

use super::team::Team;
use crate::flow::{PortChange, PortEvent, Ports, SessionTable, UNIT, Wish};
use crate::model::{DropReason, FlowKey, HandoffId, Instant, SiteId, TenantId};
use crate::tables::Pool;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// How many of a pool's addresses are tried before it is called exhausted: an address has 64,512 ports, so a pool with
/// this many full ones has other troubles.
const MAX_ADDRESSES: u64 = 64;
/// How long a block stays its branch's after the last of its bindings has ended: nobody else gets what was meant for the branch
/// (RFC 6888 REQ-8).
const KEPT: Duration = Duration::from_secs(120);
/// How often each lease is looked at.
const ROUND: Duration = Duration::from_secs(1);
/// How many of them at once: a few microseconds, which packets can wait.
const LOOKS: usize = 128;

/// What one worker has leased.
#[derive(Default)]
pub(super) struct Holdings {
    /// By handoff and branch; without a branch, those of hosts that are at none.
    blocks: HashMap<(HandoffId, Option<SiteId>), Vec<Block>, foldhash::fast::FixedState>,
    /// In the order they are looked at.
    leases: VecDeque<Lease>,
    next_look: Instant,
}

/// A block that a branch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    address: Ipv4Addr,
    first: u16,
    last: u16,
}

struct Lease {
    block: Block,
    /// Whose block it is; nobody's, if all share it.
    holder: Option<Holder>,
    /// Since it was first seen so.
    unused_since: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Holder {
    tenant: TenantId,
    handoff: HandoffId,
    branch: Option<SiteId>,
}

/// Who wants a port.
pub(super) struct Applicant<'a> {
    pub(super) tenant: TenantId,
    pub(super) branch: Option<SiteId>,
    /// Of its packets.
    pub(super) key: &'a FlowKey,
}

impl Applicant<'_> {
    fn wish(&self, hint: u16) -> Wish {
        Wish { port: self.key.source_port, hint, alike: true }
    }
}

impl Holdings {
    /// Takes a port of `pool`'s for worker `id` of `team`. The port is kept where it is free, and its parity where that can be
    /// (RFC 4787 REQ-3, REQ-4).
    ///
    /// # Errors
    /// The pool has none left, or the branch has used up its blocks.
    pub(super) fn allocate(
        &mut self,
        sessions: &mut SessionTable,
        pool: &Pool,
        (id, team): (u16, &Team),
        applicant: &Applicant<'_>,
        rng: &mut StdRng,
        now: Instant,
    ) -> Result<(IpAddr, u16), DropReason> {
        let hint = rng.random();
        if !applicant.key.protocol.has_ports() {
            return whole_address(sessions.ports(), pool, (id, team), applicant)
                .ok_or(DropReason::NatPoolExhausted(pool.handoff));
        }
        if self.leases.is_empty() {
            self.next_look = now + ROUND;
        }
        if pool.blocks().is_some() {
            self.of_blocks(sessions, pool, (id, team), applicant, hint)
        } else {
            self.shared(sessions.ports(), pool, (id, team), applicant, hint)
                .ok_or(DropReason::NatPoolExhausted(pool.handoff))
        }
    }

    /// The address of `pool` that the applicant's next binding will have, as long as its ports last.
    pub(super) fn foreseen(&self, pool: &Pool, applicant: &Applicant<'_>) -> Option<Ipv4Addr> {
        let Applicant { tenant, branch, key } = *applicant;
        if pool.blocks().is_none() {
            return addresses(pool, (tenant, key.source())).next();
        }
        let held = self.blocks.get(&(pool.handoff, branch)).into_iter().flatten();
        let held = held.filter(|block| pool.permits(branch, block.address.into(), block.first));
        let next = candidates(pool, applicant, None, 0);
        held.copied().chain(next).next().map(|block| block.address)
    }

    // 1 Ports that all share.

    /// The host's address decides which of the pool's addresses it gets ("paired", RFC 4787 REQ-2) until that one is full.
    fn shared(
        &mut self,
        ports: &mut Ports,
        pool: &Pool,
        (id, team): (u16, &Team),
        applicant: &Applicant<'_>,
        hint: u16,
    ) -> Option<(IpAddr, u16)> {
        let range = pool.ports();
        let wish = applicant.wish(hint);
        let protocol = applicant.key.protocol;
        let all = range.start() / UNIT..range.end() / UNIT + 1;
        addresses(pool, (applicant.tenant, applicant.key.source())).find_map(|address| {
            let outside = IpAddr::V4(address);
            let mut lease = |ports: &mut Ports, unit: u16| {
                let leased = !ports.shares(outside, unit) && team.leases().lease(id, address, unit..unit + 1);
                if leased {
                    ports.lease(outside, unit..unit + 1, false);
                    let block = Block { address, first: unit * UNIT, last: unit * UNIT + (UNIT - 1) };
                    self.leases.push_back(Lease { block, holder: None, unused_since: None });
                }
                leased
            };
            if range.contains(&wish.port) {
                lease(ports, wish.port / UNIT);
            }
            let port = ports.take_shared(outside, protocol, range, wish).or_else(|| {
                let any = Wish { alike: false, ..wish };
                in_turn(all.clone(), hint).find(|unit| lease(ports, *unit));
                ports.take_shared(outside, protocol, range, any)
            })?;
            Some((outside, port))
        })
    }

    // 2 Blocks.

    /// All of a branch's blocks are of one address, as far as there are any left: so are the ports of each of its hosts.
    fn of_blocks(
        &mut self,
        sessions: &mut SessionTable,
        pool: &Pool,
        (id, team): (u16, &Team),
        applicant: &Applicant<'_>,
        hint: u16,
    ) -> Result<(IpAddr, u16), DropReason> {
        let Applicant { tenant, branch, key } = *applicant;
        let holder = Holder { tenant, handoff: pool.handoff, branch };
        let blocks = self.blocks.entry((pool.handoff, branch)).or_default();
        let take = |ports: &mut Ports, block: &Block, wish: Wish| {
            let port = ports.take_like(block.address.into(), key.protocol, &block.ports(), wish)?;
            Some((IpAddr::V4(block.address), port))
        };
        let wish = applicant.wish(hint);
        let is_pools = |block: &&Block| pool.permits(branch, block.address.into(), block.first);
        let fits = |block: &&Block| block.ports().contains(&wish.port);
        let first = blocks.iter().filter(fits).chain(blocks.iter());
        if let Some(outside) = first.filter(is_pools).find_map(|block| take(sessions.ports(), block, wish)) {
            return Ok(outside);
        }
        let quota = pool.blocks().map_or(0, |blocks| usize::from(blocks.per_branch));
        let any = Wish { alike: false, ..wish };
        let mut is_exhausted = false;
        if blocks.len() < quota {
            let at = blocks.first().map(|block| block.address);
            let found = candidates(pool, applicant, at, hint)
                .find(|block| team.leases().lease(id, block.address, block.units()));
            if let Some(block) = found {
                sessions.ports().lease(block.address.into(), block.units(), true);
                sessions.tell(holder.event(PortChange::Began, &block));
                blocks.push(block);
                self.leases.push_back(Lease { block, holder: Some(holder), unused_since: None });
                return take(sessions.ports(), &block, any).ok_or(DropReason::NatPoolExhausted(pool.handoff));
            }
            is_exhausted = true;
        }
        let outside = blocks.iter().filter(is_pools).find_map(|block| take(sessions.ports(), block, any));
        outside.ok_or(match branch {
            Some(branch) if !is_exhausted => DropReason::BranchPortLimit(branch),
            _ => DropReason::NatPoolExhausted(pool.handoff),
        })
    }

    /// The ports it has leased, some of which may be beyond those of their pool.
    pub(super) fn leased(&self) -> impl Iterator<Item = (Ipv4Addr, RangeInclusive<u16>)> {
        self.leases.iter().map(|lease| (lease.block.address, lease.block.ports()))
    }

    /// The blocks it has given out: whose, of which handoff's pool, to which branch.
    pub(super) fn blocks(
        &self,
    ) -> impl Iterator<Item = (TenantId, HandoffId, Option<SiteId>, Ipv4Addr, RangeInclusive<u16>)> {
        self.leases.iter().filter_map(|Lease { block, holder, .. }| {
            let Holder { tenant, handoff, branch } = (*holder)?;
            Some((tenant, handoff, branch, block.address, block.ports()))
        })
    }

    // 3 The end of a lease.

    /// When [`Holdings::look`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.leases.is_empty()).then_some(self.next_look)
    }

    /// Ends leases of ports that nothing is bound to, as far as it is time to look at them: each once a [`ROUND`].
    pub(super) fn look(&mut self, sessions: &mut SessionTable, team: &Team, now: Instant) {
        if self.next_look > now {
            return;
        }
        let all = self.leases.len();
        let looks = all.min(LOOKS);
        self.next_look = now + ROUND * looks as u32 / all.max(1) as u32;
        for mut lease in self.leases.drain(..looks).collect::<Vec<_>>() {
            let used = sessions.ports().were_used(lease.block.address.into(), lease.block.units());
            let unused_since = lease.unused_since.filter(|_| !used).unwrap_or(now);
            lease.unused_since = (!used).then_some(unused_since);
            let kept = if lease.holder.is_some() { KEPT } else { Duration::ZERO };
            if used || now < unused_since + kept {
                self.leases.push_back(lease);
            } else {
                self.end(&lease, sessions, team);
            }
        }
    }

    /// Ends all leases: no session is left.
    pub(super) fn end_all(&mut self, sessions: &mut SessionTable, team: &Team) {
        for lease in std::mem::take(&mut self.leases) {
            self.end(&lease, sessions, team);
        }
    }

    fn end(&mut self, lease: &Lease, sessions: &mut SessionTable, team: &Team) {
        let Lease { block, holder, .. } = lease;
        sessions.ports().end_lease(block.address.into(), block.units());
        if let Some(holder) = holder {
            sessions.tell(holder.event(PortChange::Ended, block));
            if let Some(blocks) = self.blocks.get_mut(&(holder.handoff, holder.branch)) {
                blocks.retain(|other| other != block);
            }
        }
        team.leases().give_back(block.address, block.units());
    }
}

impl Block {
    fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    fn units(&self) -> Range<u16> {
        self.first / UNIT..self.last / UNIT + 1
    }
}

impl Holder {
    fn event(&self, change: PortChange, block: &Block) -> PortEvent {
        PortEvent {
            change,
            tenant: self.tenant,
            branch: self.branch,
            outside: block.address.into(),
            ports: (block.first, block.last),
            protocol: None,
            inside: None,
        }
    }
}

/// A whole address, where the protocol has no ports: each is one worker's.
fn whole_address(
    ports: &mut Ports,
    pool: &Pool,
    (id, team): (u16, &Team),
    applicant: &Applicant<'_>,
) -> Option<(IpAddr, u16)> {
    addresses(pool, (applicant.tenant, applicant.key.source()))
        .filter(|address| team.worker_of_address(*address) == id)
        .find_map(|address| {
            let address = IpAddr::V4(address);
            let port = ports.take(address, applicant.key.protocol, pool.ports(), 0, 0)?;
            Some((address, port))
        })
}

/// Addresses of `pool`, from one on that `whom` decides.
fn addresses(pool: &Pool, whom: impl std::hash::Hash) -> impl Iterator<Item = Ipv4Addr> {
    let first = foldhash::fast::FixedState::default().hash_one(whom);
    let tried = 0..pool.len().min(MAX_ADDRESSES);
    tried.filter_map(move |step| pool.address(first.wrapping_add(step) % pool.len()))
}

/// Blocks that the branch may have one of, the best first: of address `at`, if it has some already.
fn candidates<'a>(
    pool: &'a Pool,
    applicant: &Applicant<'_>,
    at: Option<Ipv4Addr>,
    hint: u16,
) -> impl Iterator<Item = Block> + 'a {
    let Applicant { tenant, branch, .. } = *applicant;
    let size = pool.blocks().map_or(UNIT, |blocks| blocks.size);
    let computed = branch.and_then(|branch| pool.ports_of(branch));
    let is_computed = pool.is_deterministic();
    let numbers = match (&computed, pool.blocks()) {
        (Some((_, ports)), _) => ports.start() / size..ports.end() / size + 1,
        (None, Some(blocks)) if !is_computed => blocks.whole(pool.ports()),
        (None, _) => 0..0,
    };
    let others = addresses(pool, (tenant, branch)).filter(move |_| !is_computed);
    let addresses = computed.map(|(address, _)| address).or(at).into_iter().chain(others);
    let hint = if is_computed { 0 } else { hint };
    addresses.flat_map(move |address| {
        in_turn(numbers.clone(), hint).map(move |number| Block {
            address,
            first: number * size,
            last: number * size + (size - 1),
        })
    })
}

/// All of `range`, from one on that `hint` decides.
fn in_turn(range: Range<u16>, hint: u16) -> impl Iterator<Item = u16> {
    let from = range.start + hint.checked_rem(range.len() as u16).unwrap_or(0);
    (from..range.end).chain(range.start..from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PortBlocks;
    use crate::flow::{EndReason, Plan, Session, SessionRef, Translation};
    use crate::model::{ClassBy, ClassId, DeviceId, End, Id, NextHop, Now, Protocol, RuleId, Zone};
    use rand::SeedableRng;
    use std::sync::Arc;

    const TENANT: TenantId = TenantId(3);
    const HANDOFF: HandoffId = HandoffId(0);
    const BRANCH: SiteId = SiteId(7);

    /// One worker's state, and who it is.
    struct Seat {
        id: u16,
        team: Arc<Team>,
        holdings: Holdings,
        sessions: SessionTable,
        rng: StdRng,
    }

    impl Seat {
        fn new(id: u16, team: &Arc<Team>) -> Seat {
            let mut sessions = SessionTable::new(id, [1, 2], Instant::default());
            sessions.configure(1_000, Duration::from_secs(60), crate::model::IdMap::default());
            sessions.allow(1_000);
            sessions.tell_bindings(true);
            let rng = StdRng::seed_from_u64(id.into());
            Seat { id, team: Arc::clone(team), holdings: Holdings::default(), sessions, rng }
        }

        /// A session that a host begins from `port`.
        fn begin(
            &mut self,
            pool: &Pool,
            branch: SiteId,
            port: u16,
            now: Now,
        ) -> Result<SessionRef, DropReason> {
            let server = ([203, 0, 113, 80].into(), 53);
            let key = FlowKey::new(Zone::tenant(TENANT), Protocol::UDP, ([10, 1, 0, 5].into(), port), server);
            let applicant = Applicant { tenant: TENANT, branch: Some(branch), key: &key };
            let seat = (self.id, &*self.team);
            let outside = self.holdings.allocate(
                &mut self.sessions,
                pool,
                seat,
                &applicant,
                &mut self.rng,
                now.instant,
            )?;
            let plan = Plan {
                generation: 1,
                class: ClassId(0),
                class_by: ClassBy::Default,
                rule: RuleId(0),
                ends: [End::Site(branch), End::Handoff(HANDOFF)],
                hops: [NextHop::Tunnel(branch), NextHop::Device(DeviceId(0))],
            };
            let keys = [key, FlowKey::new(Zone::INTERNET, Protocol::UDP, server, outside)];
            let session = Session::new(TENANT, keys, plan, Translation::Source, None, 0, now.instant);
            Ok(self.sessions.insert(session).expect("room"))
        }

        fn events(&mut self) -> Vec<PortEvent> {
            self.sessions.take_port_events().collect()
        }
    }

    fn pool(blocks: Option<PortBlocks>) -> Pool {
        let network = "198.51.100.1/32".parse().expect("a prefix");
        Pool::new(HANDOFF, &[network], 1_024..=1_279).in_blocks(blocks, &std::iter::empty().collect())
    }

    fn at(seconds: u64) -> Now {
        Now::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_block_is_told_of_once_and_the_bindings_in_it_are_not() {
        let team = Team::new(1);
        let mut seat = Seat::new(0, &team);
        let pool = pool(Some(PortBlocks { size: 128, per_branch: 1, deterministic: false }));
        let sessions: Vec<_> =
            (1..=3).map(|port| seat.begin(&pool, BRANCH, port, at(0)).expect("a port")).collect();
        let events = seat.events();
        let [event] = events[..] else { panic!("{events:?}") };
        assert!([(1_024, 1_151), (1_152, 1_279)].contains(&event.ports), "{event:?}");
        let expected = PortEvent {
            change: PortChange::Began,
            tenant: TENANT,
            branch: Some(BRANCH),
            outside: [198, 51, 100, 1].into(),
            ports: event.ports,
            protocol: None,
            inside: None,
        };
        assert_eq!(event, expected);
        for session in sessions {
            seat.sessions.remove(session, EndReason::IdleTimeout, at(5));
        }
        // At 6 s it is seen to have been used, at 7 s not to be any more.
        for second in 6..=127 {
            seat.holdings.look(&mut seat.sessions, &team, at(second).instant);
            let expected = PortEvent { change: PortChange::Ended, ..expected };
            assert_eq!(seat.events(), if second == 127 { vec![expected] } else { vec![] }, "at {second} s");
        }
        assert_eq!(seat.holdings.poll_timeout(), None, "nothing is left to be looked at");
    }

    #[test]
    fn bindings_of_ports_that_all_share_are_told_of_one_by_one() {
        let team = Team::new(1);
        let mut seat = Seat::new(0, &team);
        let session = seat.begin(&pool(None), BRANCH, 1_030, at(0)).expect("a port");
        let event = seat.events()[0];
        assert_eq!((event.ports, event.protocol), ((1_030, 1_030), Some(Protocol::UDP)));
        seat.sessions.remove(session, EndReason::IdleTimeout, at(1));
        assert_eq!(seat.events(), [PortEvent { change: PortChange::Ended, ..event }]);
    }

    #[test]
    fn two_workers_give_out_all_of_a_pool_between_them_and_no_port_twice() {
        let team = Team::new(2);
        let mut seats = [Seat::new(0, &team), Seat::new(1, &team)];
        for blocks in [None, Some(PortBlocks { size: 64, per_branch: 4, deterministic: false })] {
            let pool = pool(blocks);
            let mut begun = Vec::new();
            for step in 0..400u16 {
                let seat = &mut seats[usize::from(step % 2)];
                let branch = SiteId::from_index(usize::from(step % 2));
                if let Ok(session) = seat.begin(&pool, branch, 40_000 + step, at(0)) {
                    let outside =
                        seat.sessions.get(session).and_then(Session::binding).expect("bound").outside;
                    assert_eq!(team.leases().holder([198, 51, 100, 1].into(), outside.1), Some(seat.id));
                    begun.push((usize::from(step % 2), session, outside));
                }
            }
            let ports: std::collections::BTreeSet<u16> =
                begun.iter().map(|(_, _, (_, port))| *port).collect();
            assert!(ports.into_iter().eq(1_024..1_280), "each once");
            assert_eq!(begun.len(), 256);
            for (seat, session, _) in begun {
                seats[seat].sessions.remove(session, EndReason::IdleTimeout, at(1));
            }
            for seat in &mut seats {
                seat.holdings.end_all(&mut seat.sessions, &team);
            }
        }
    }

    #[test]
    fn a_branch_that_has_used_up_its_blocks_is_refused_for_that_and_another_finds_the_pool_empty() {
        let team = Team::new(1);
        let mut seat = Seat::new(0, &team);
        let pool = pool(Some(PortBlocks { size: 128, per_branch: 2, deterministic: false }));
        let begun: Vec<_> = (1..=257).map(|port| seat.begin(&pool, BRANCH, port, at(0))).collect();
        assert!(begun[..256].iter().all(Result::is_ok));
        assert_eq!(begun[256], Err(DropReason::BranchPortLimit(BRANCH)));
        assert_eq!(seat.begin(&pool, SiteId(8), 1, at(0)), Err(DropReason::NatPoolExhausted(HANDOFF)));
    }
}
