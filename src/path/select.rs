//! Which path a packet leaves by.

use crate::model::PathId;

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

/// Chooses from `order`, best first: the path the flow last arrived on while it is up, then the first that is up. Where
/// none is, one that breaks the SLA will do, or one that is recovering; and then a path that may be dead beats a packet that certainly is: the one the flow arrived on, then the first that
/// can be sent on.
pub fn select(
    order: &[PathId],
    arrived_on: Option<PathId>,
    fitness: impl Fn(PathId) -> Candidate,
) -> Option<PathId> {
    let arrived_on = arrived_on.filter(|path| order.contains(path));
    [Candidate::Up, Candidate::Poor, Candidate::Recovering, Candidate::Reachable]
        .into_iter()
        .find_map(|wanted| arrived_on.iter().chain(order).copied().find(|path| fitness(*path) == wanted))
}

#[cfg(test)]
mod tests {
    use super::Candidate::*;
    use super::*;

    #[test]
    fn a_live_path_beats_the_order_and_the_order_beats_the_rest() {
        let (a, b, c) = (PathId(0), PathId(1), PathId(2));
        let choose =
            |arrived, fitness: [Candidate; 3]| select(&[b, a, c], arrived, |path| fitness[path.0 as usize]);
        assert_eq!(choose(None, [Up, Up, Up]), Some(b));
        assert_eq!(choose(Some(c), [Up, Up, Up]), Some(c));
        assert_eq!(choose(Some(c), [Up, Up, Reachable]), Some(b));
        assert_eq!(choose(None, [Up, Reachable, Up]), Some(a));
        assert_eq!(choose(Some(a), [Reachable, Reachable, Unreachable]), Some(a));
        assert_eq!(choose(None, [Reachable, Unreachable, Reachable]), Some(a));
        assert_eq!(choose(None, [Up, Recovering, Recovering]), Some(a), "one that has been up is better");
        assert_eq!(choose(Some(b), [Up, Poor, Up]), Some(a), "what breaks the SLA is left");
        assert_eq!(choose(None, [Recovering, Poor, Reachable]), Some(b), "it is there, and lasts");
        assert_eq!(choose(Some(c), [Reachable, Recovering, Recovering]), Some(c));
        assert_eq!(choose(None, [Unreachable; 3]), None);
        assert_eq!(choose(Some(PathId(9)), [Up, Up, Up]), Some(b), "a path that is no longer the site's");
    }
}
