//! Which path a packet leaves by.

use crate::model::{DropReason, PathId, Share};

/// How fit a path is for use, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Candidate {
    /// Alive, and as good as it must be.
    Up,
    /// Alive, and breaks the SLA of whoever asks.
    Poor,
    /// Alive again after it was not, and held back for a while.
    Recovering,
    /// Not known to be alive, but something can be sent.
    Reachable,
    /// There is nowhere to send to.
    Unreachable,
}

impl Candidate {
    /// Whether packets get through, for all that is known.
    pub fn is_alive(self) -> bool {
        matches!(self, Candidate::Up | Candidate::Poor | Candidate::Recovering)
    }
}

/// A class's paths, best first.
#[derive(Clone, Copy)]
pub struct Ranking<'a> {
    pub paths: &'a [PathId],
    /// Of each, if any are equal; otherwise none.
    pub shares: &'a [Share],
}

/// What ties a session to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// It takes the best.
    Free,
    /// It stays while that path is up.
    Prefers(PathId),
    /// It stays, and is lost with it.
    Keeps(PathId),
}

impl Bond {
    /// The path, if there is one.
    pub fn path(self) -> Option<PathId> {
        match self {
            Bond::Free => None,
            Bond::Prefers(path) | Bond::Keeps(path) => Some(path),
        }
    }
}

/// Steers a session: by its bond, or the ranking. What must not go by a path that breaks its SLA, `is_refused` says.
///
/// # Errors
/// `NoPath`, where nothing can be sent anywhere; `SlaViolated`, where it must not be sent by the one that there is.
pub fn steer(
    ranking: Ranking<'_>,
    session: u64,
    bond: Bond,
    fitness: impl Fn(PathId) -> Candidate,
    is_refused: impl Fn(PathId) -> bool,
) -> Result<PathId, DropReason> {
    let path = match bond {
        Bond::Keeps(path) if ranking.paths.contains(&path) && fitness(path) != Candidate::Unreachable => path,
        _ => select(ranking, session, bond.path(), fitness).ok_or(DropReason::NoPath)?,
    };
    if is_refused(path) { Err(DropReason::SlaViolated) } else { Ok(path) }
}

/// Chooses from the ranking: the path the flow last arrived on while it is up, then the first that is up; of equal ones the
/// session's. Where none is, one that breaks the SLA will do, or one that is recovering; and then a path that may be dead beats a packet
/// that certainly is: the one the flow arrived on, then the first that can be sent on.
pub fn select(
    ranking: Ranking<'_>,
    session: u64,
    arrived_on: Option<PathId>,
    fitness: impl Fn(PathId) -> Candidate,
) -> Option<PathId> {
    let arrived_on = arrived_on.filter(|path| ranking.paths.contains(path));
    [Candidate::Up, Candidate::Poor, Candidate::Recovering, Candidate::Reachable].into_iter().find_map(
        |wanted| {
            let is_wanted = |path: PathId| fitness(path) == wanted;
            match arrived_on.filter(|path| is_wanted(*path)) {
                Some(path) => Some(path),
                None if ranking.shares.is_empty() => {
                    ranking.paths.iter().copied().find(|path| is_wanted(*path))
                }
                None => shared(ranking, session, is_wanted),
            }
        },
    )
}

/// The paths that new sessions take, in their order: the best that is alive, and what is equal to it and as good.
pub fn takers(ranking: Ranking<'_>, fitness: impl Fn(PathId) -> Candidate) -> Vec<PathId> {
    let alive = [Candidate::Up, Candidate::Poor, Candidate::Recovering].into_iter();
    let takers =
        alive.map(|wanted| equal(ranking, |path| fitness(path) == wanted).map(|(path, _)| path).collect());
    takers.into_iter().find(|takers: &Vec<PathId>| !takers.is_empty()).unwrap_or_default()
}

/// The first that is wanted, and those of its equals that are; with their weights.
fn equal<'a>(
    ranking: Ranking<'a>,
    is_wanted: impl Fn(PathId) -> bool + 'a,
) -> impl Iterator<Item = (PathId, f32)> + 'a {
    let Ranking { paths, shares } = ranking;
    let first = paths.iter().position(|path| is_wanted(*path)).unwrap_or(paths.len());
    let group = |at: usize| shares.get(at).map(|share| share.group);
    let of_group = (first..paths.len())
        .take_while(move |at| *at == first || group(*at).is_some_and(|of| Some(of) == group(first)));
    let weight = |at: usize| shares.get(at).map_or(1.0, |share| share.weight);
    of_group.map(move |at| (paths[at], weight(at))).filter(move |(path, _)| is_wanted(*path))
}

/// The session's among equal ones.
fn shared(ranking: Ranking<'_>, session: u64, is_wanted: impl Fn(PathId) -> bool) -> Option<PathId> {
    let mut equal = equal(ranking, is_wanted);
    let first = equal.next()?;
    let Some(second) = equal.next() else { return Some(first.0) };
    let rated =
        [first, second].into_iter().chain(equal).map(|(path, weight)| (path, rate(session, path, weight)));
    rated.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(path, _)| path)
}

/// What a path offers for a session: it goes to the highest bidder, so that one that goes or comes moves its own share and no
/// other (rendezvous hashing: Thaler and Ravishankar 1998; with weights by the logarithmic method: Schindelhauer and Schomaker 2005).
fn rate(session: u64, path: PathId, weight: f32) -> f64 {
    // The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    let mut hash = session ^ (u64::from(path.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    // Between 0 and 1, and neither.
    let uniform = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    f64::from(weight) / -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::Candidate::*;
    use super::*;

    const ALL: [Candidate; 5] = [Up, Poor, Recovering, Reachable, Unreachable];
    const A: PathId = PathId(3);
    const B: PathId = PathId(1);
    const C: PathId = PathId(7);
    const ELSEWHERE: PathId = PathId(9);

    /// Who is taken of two paths, `a` before `b`: a row for each fitness of `a`, a column for each of `b`; `-` is none.
    type Rows = [&'static str; 5];

    /// By the ranking.
    const RANKED: Rows = [
        //Up Poor Recovering Reachable Unreachable
        "aaaaa", // Up
        "baaaa", // Poor
        "bbaaa", // Recovering
        "bbbaa", // Reachable
        "bbbb-", // Unreachable
    ];
    /// By who is on `b`, and would rather stay.
    const PREFERS_B: Rows = ["baaaa", "bbaaa", "bbbaa", "bbbba", "bbbb-"];
    /// By who is on either and stays come what may.
    const KEEPS_A: Rows = ["aaaaa", "aaaaa", "aaaaa", "aaaaa", "bbbb-"];
    const KEEPS_B: Rows = ["bbbba", "bbbba", "bbbba", "bbbba", "bbbb-"];

    fn ranked(paths: &[PathId]) -> Ranking<'_> {
        Ranking { paths, shares: &[] }
    }

    #[test]
    fn the_whole_table_of_two_paths_and_a_session() {
        let bonds = [
            (Bond::Free, RANKED),
            (Bond::Prefers(A), RANKED),
            (Bond::Prefers(B), PREFERS_B),
            (Bond::Keeps(A), KEEPS_A),
            (Bond::Keeps(B), KEEPS_B),
            // What a commit has taken out of the order ties nobody.
            (Bond::Prefers(ELSEWHERE), RANKED),
            (Bond::Keeps(ELSEWHERE), RANKED),
        ];
        for (bond, rows) in bonds {
            for (a, row) in ALL.into_iter().zip(rows) {
                for (b, wanted) in ALL.into_iter().zip(row.chars()) {
                    let fitness = |path| if path == A { a } else { b };
                    let is_poor = |path| fitness(path) == Poor;
                    for is_strict in [false, true] {
                        let taken =
                            steer(ranked(&[A, B]), 0, bond, fitness, |path| is_strict && is_poor(path));
                        let wanted = match wanted {
                            '-' => Err(DropReason::NoPath),
                            name => Ok(if name == 'a' { A } else { B }),
                        };
                        let refused = wanted.is_ok_and(|path| is_strict && is_poor(path));
                        let wanted = if refused { Err(DropReason::SlaViolated) } else { wanted };
                        assert_eq!(taken, wanted, "{bond:?}, a {a:?}, b {b:?}, strict: {is_strict}");
                    }
                }
            }
        }
    }

    #[test]
    fn of_equal_ones_those_that_are_as_good_take_what_is_new_and_then_the_next() {
        let share = |group| Share { group, weight: 1.0 };
        let shares = [share(0), share(0), share(1)];
        let ranking = Ranking { paths: &[A, B, C], shares: &shares };
        // Fitness of a, b and c; who takes what is new.
        let table: [([Candidate; 3], &[PathId]); 10] = [
            ([Up, Up, Up], &[A, B]),
            ([Up, Poor, Up], &[A]),
            ([Recovering, Up, Up], &[B]),
            ([Reachable, Up, Up], &[B]),
            ([Poor, Poor, Up], &[C]),
            ([Poor, Poor, Poor], &[A, B]),
            ([Poor, Recovering, Recovering], &[A]),
            ([Recovering, Recovering, Reachable], &[A, B]),
            ([Unreachable, Recovering, Up], &[C]),
            ([Reachable, Unreachable, Reachable], &[]),
        ];
        for (fitness, wanted) in table {
            let of = |path| fitness[[A, B, C].iter().position(|known| *known == path).expect("ranked")];
            assert_eq!(takers(ranking, of), wanted, "{fitness:?}");
            for session in 0..100 {
                let taken = select(ranking, session, None, of);
                assert!(wanted.is_empty() || taken.is_some_and(|path| wanted.contains(&path)), "{fitness:?}");
                assert_eq!(select(ranking, session, Some(B), of) == Some(B), of(B) == taken.map_or(Up, of));
            }
        }
    }

    #[test]
    fn sessions_are_shared_by_weight_and_who_goes_and_comes_moves_its_own_share() {
        let share = |weight| Share { group: 4, weight };
        let shares = [share(1.0), share(3.0), share(4.0)];
        let ranking = Ranking { paths: &[A, B, C], shares: &shares };
        // Sessions' numbers as one worker of sixteen gives them.
        let take = |dead: Option<PathId>| -> Vec<PathId> {
            let fitness = |path| if Some(path) == dead { Reachable } else { Up };
            (0..8_000).map(|n| select(ranking, n << 10 | 5, None, fitness).expect("two are left")).collect()
        };
        let all = take(None);
        for (path, wanted) in [(A, 1_000_usize), (B, 3_000), (C, 4_000)] {
            let found = all.iter().filter(|taken| **taken == path).count();
            assert!(found.abs_diff(wanted) <= 150, "{path:?}: {found}");
        }
        let without = take(Some(C));
        assert!(all.iter().zip(&without).all(|(before, after)| *before == C || before == after));
        let of_a = without.iter().filter(|taken| **taken == A).count();
        assert!(of_a.abs_diff(2_000) <= 150, "{of_a} of what is left, by weight again");
    }
}
