//! What the kernel knows at once: there is no way to an endpoint, or an interface can carry nothing. Nobody need ask.

use super::Worker;
use crate::model::{Now, PathId, TransportId};
use crate::path::{Action, News};
use crate::pipeline::gauge::Why;
use crate::pipeline::paths::Path;
use crate::wire::Outbound;

/// What nothing can leave by at present, for its interface is down, or has no carrier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLinks {
    pub transports: Vec<TransportId>,
    /// The way straight out of the branch.
    pub outlet: bool,
}

impl Worker {
    /// A path that nothing can be sent by is down without further asking.
    pub(super) fn work_unreachable(&mut self, now: Now, out: &mut Outbound) {
        let unreachable = std::mem::take(&mut self.unreachable);
        let uses =
            |path: &Path| path.tunnel.endpoint().is_some_and(|endpoint| unreachable.contains(&endpoint));
        for id in self.paths_that(uses) {
            self.take_down(id, Action::CannotSend, now, out);
        }
    }

    /// These links are dead from now on, and no others are. What goes by one is down; what went by one that is back is asked about
    /// at once.
    pub fn know_dead_links(&mut self, dead: DeadLinks, now: Now, out: &mut Outbound) {
        let before = std::mem::replace(&mut self.dead_links, dead.clone());
        let goes_by = |path: &Path, links: &DeadLinks| {
            path.tunnel.endpoint().is_some_and(|endpoint| links.transports.contains(&endpoint.transport))
        };
        for id in self.paths_that(|path| goes_by(path, &dead) && !goes_by(path, &before)) {
            self.take_down(id, Action::LinkDown, now, out);
        }
        for id in self.paths_that(|path| goes_by(path, &before) && !goes_by(path, &dead)) {
            if let Some(path) = self.paths.get_mut(id) {
                path.asks_at_once(now.instant);
            }
            self.paths.schedule(id);
        }
        if before.outlet != dead.outlet {
            self.cut_outlet(dead.outlet, now);
        }
    }

    pub(super) fn cut_outlet(&mut self, is_cut: bool, now: Now) {
        let Some(outlet) = self.paths.outlet_mut() else { return };
        let path = outlet.path;
        outlet.is_cut = is_cut;
        outlet.gauge.why = if is_cut { Why::LinkDown } else { Why::LinkUp };
        let went = if is_cut { outlet.gauge.prober.cannot_send(now.instant) } else { None };
        outlet.gauge.prober.hurry(now.instant);
        if went.is_some() {
            self.changed(path, Action::LinkDown, now);
        }
        self.stands_anew(path, now);
    }

    fn take_down(&mut self, id: PathId, why: Action, now: Now, out: &mut Outbound) {
        let went = self.paths.get_mut(id).and_then(|path| path.gauge.prober.cannot_send(now.instant));
        if went.is_none() {
            return;
        }
        self.changed(id, why, now);
        self.tell_far_end(id, News::Down, now, out);
        self.stands_anew(id, now);
        self.paths.schedule(id);
    }

    fn paths_that(&self, are: impl Fn(&Path) -> bool) -> Vec<PathId> {
        self.paths.iter().filter(|(_, path)| are(path)).map(|(id, _)| id).collect()
    }
}
