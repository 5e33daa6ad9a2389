//! What a tenant and a branch may have of what all share: a crowd at one of them is that one's trouble alone.
//!
//! Their sessions may be several workers' (a tenant's branches are, and so are sessions between two branches), so each
//! worker asks the team for a share of what they may have, and gives back what it does not need. A branch's rate holds for
//! each worker: what goes to a handoff is all one worker's.

use super::team::{Granted, Team, session_share};
use crate::flow::{Plan, SessionTable};
use crate::model::{DropReason, End, Id, IdMap, Instant, SiteId, TenantId};
use crate::tables::{Generation, Tenant};
use std::num::NonZeroU32;
use std::time::Duration;

/// What a branch with a rate may begin at once when it has begun nothing for long: a second's worth.
const BURST: Duration = Duration::from_secs(1);

/// One worker's.
#[derive(Default)]
pub(super) struct Quotas {
    tenants: Share<TenantId>,
    branches: Share<SiteId>,
    /// When a branch has made up for all it has begun.
    made_up: IdMap<SiteId, Instant>,
}

impl Quotas {
    /// Whether there may be one session more, of this plan.
    ///
    /// # Errors
    /// Whose limit is reached.
    pub(super) fn admit(
        &mut self,
        (id, tenant): (TenantId, &Tenant),
        plan: &Plan,
        sessions: &SessionTable,
        team: &Team,
        now: Instant,
    ) -> Result<(), DropReason> {
        if let Some(max) = tenant.max_sessions
            && !self.tenants.has_room(id, sessions.of_tenant(id), || team.sessions_of_tenant(id).grant(max))
        {
            return Err(DropReason::TenantSessionLimit);
        }
        let branch = plan.ends.iter().find_map(|end| match end {
            End::Site(site) => Some((*site, tenant.sites.get(*site)?)),
            End::Handoff(_) | End::Lan | End::Tenant(_) => None,
        });
        let Some((branch, site)) = branch else { return Ok(()) };
        if let Some(max) = site.limits.max_sessions
            && !self
                .branches
                .has_room(branch, sessions.of_branch(branch), || team.sessions_of_branch(branch).grant(max))
        {
            return Err(DropReason::BranchSessionLimit(branch));
        }
        match site.limits.new_sessions_per_second {
            Some(rate) if !self.is_in_time(branch, rate, now) => Err(DropReason::BranchSessionRate(branch)),
            _ => Ok(()),
        }
    }

    /// The generic cell rate algorithm (ITU-T I.371), which needs to know no more than one instant.
    fn is_in_time(&mut self, branch: SiteId, rate: NonZeroU32, now: Instant) -> bool {
        let each = Duration::from_secs(1) / rate.get();
        let made_up = self.made_up.get(branch).copied().unwrap_or_default().max(now);
        if made_up + each > now + BURST {
            return false;
        }
        self.made_up.insert(branch, made_up + each);
        true
    }

    /// Gives back what it may have of one tenant's and one branch's and does not need; of others' the next time.
    pub(super) fn give_back(&mut self, generation: &Generation, sessions: &SessionTable, team: &Team) {
        if let Some(id) = self.tenants.next() {
            let max = generation.tenants.get(id).and_then(|tenant| tenant.max_sessions);
            self.tenants.give_back(id, sessions.of_tenant(id), max, team.sessions_of_tenant(id));
        }
        if let Some(id) = self.branches.next() {
            let tenant = generation.names.site_tenant(id).and_then(|tenant| generation.tenants.get(tenant));
            let max = tenant.and_then(|tenant| tenant.sites.get(id)?.limits.max_sessions);
            self.branches.give_back(id, sessions.of_branch(id), max, team.sessions_of_branch(id));
        }
    }
}

/// How many sessions this worker may have of each that has a limit.
struct Share<I> {
    allowed: IdMap<I, usize>,
    /// Those that have ever had a limit, and whose spare is looked at next.
    limited: Vec<I>,
    next: usize,
}

impl<I> Default for Share<I> {
    fn default() -> Share<I> {
        Share { allowed: IdMap::default(), limited: Vec::new(), next: 0 }
    }
}

impl<I: Id> Share<I> {
    /// Whether there may be one more than there are; `grant` asks for more if need be.
    fn has_room(&mut self, id: I, sessions: usize, grant: impl FnOnce() -> usize) -> bool {
        let Some(allowed) = self.allowed.get_mut(id) else {
            self.limited.push(id);
            self.allowed.insert(id, grant());
            return self.allowed.get(id).is_some_and(|allowed| sessions < *allowed);
        };
        if sessions >= *allowed {
            *allowed += grant();
        }
        sessions < *allowed
    }

    fn next(&mut self) -> Option<I> {
        self.next = if self.next + 1 < self.limited.len() { self.next + 1 } else { 0 };
        self.limited.get(self.next).copied()
    }

    fn give_back(&mut self, id: I, sessions: usize, max: Option<usize>, granted: Granted<'_>) {
        // One that has none may never need any.
        let spare = if sessions > 0 { max.map_or(0, session_share) } else { 0 };
        let keep = sessions + spare;
        if let Some(allowed) = self.allowed.get_mut(id)
            && *allowed > keep
        {
            granted.give_back(*allowed - keep);
            *allowed = keep;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_begins_a_seconds_worth_at_once_and_then_as_many_as_its_rate_says() {
        let mut quotas = Quotas::default();
        let rate = NonZeroU32::new(10).expect("not zero");
        let at = |ms: u64| Instant(ms * 1_000_000);
        let mut begun = |ms| (0..100).filter(|_| quotas.is_in_time(SiteId(1), rate, at(ms))).count();
        assert_eq!(begun(5_000), 10);
        assert_eq!((begun(5_050), begun(5_100), begun(5_400)), (0, 1, 3));
        assert_eq!(begun(60_000), 10, "what was not begun is not saved up");
    }

    #[test]
    fn two_workers_have_together_what_a_branch_may_have_and_what_one_gives_back_the_other_gets() {
        let team = Team::new(2);
        let granted = || team.sessions_of_branch(SiteId(3));
        let mut shares = [Share::default(), Share::default()];
        let mut sessions = [0, 0];
        for step in 0..20 {
            let worker = step % 2;
            let has_room = shares[worker].has_room(SiteId(3), sessions[worker], || granted().grant(5));
            sessions[worker] += usize::from(has_room);
        }
        assert_eq!(sessions.iter().sum::<usize>(), 5);
        shares[0].give_back(SiteId(3), 0, None, granted());
        assert!(shares[1].has_room(SiteId(3), sessions[1], || granted().grant(5)));
    }
}
