//! The entrance: where handshake initiations come in, on a thread of their own, so that a flood of them takes nothing from
//! forwarding.
//!
//! 1 the gate (MAC, cookie, the source's bucket, one Diffie-Hellman), 2 whose path it is, 3 over to that path's worker,
//! which answers. Whatever else no worker's number is on ends here, counted.

use super::drops::Drops;
use super::report::{Answer, Query, SessionPage, Totals, Traced};
use super::steering::{Steered, steer};
use super::team::Team;
use crate::config::public_of;
use crate::model::{DropReason, Now, PathId, TransportId};
use crate::tables::Generation;
use crate::tunnel::{Admission, Gate};
use crate::wire::{Batch, Handover, Ingress, Outbound};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The entrance of one box.
pub struct Entrance {
    team: Arc<Team>,
    generation: Arc<Generation>,
    gate: Gate,
    /// By our own public key and the peer's.
    paths: HashMap<([u8; 32], [u8; 32]), PathId>,
    drops: Drops,
}

impl Entrance {
    /// The entrance to `team`.
    pub fn new(team: &Arc<Team>, generation: Arc<Generation>, now: Now) -> Entrance {
        let mut entrance = Entrance {
            team: Arc::clone(team),
            generation: Arc::clone(&generation),
            gate: Gate::new(now.instant),
            paths: HashMap::new(),
            drops: Drops::default(),
        };
        entrance.adopt(generation);
        entrance
    }

    /// Goes over to `generation`.
    pub fn adopt(&mut self, generation: Arc<Generation>) {
        // A PoP's paths share one key: it is made public once, not ten thousand times.
        let mut ours: HashMap<[u8; 32], [u8; 32]> = HashMap::new();
        self.paths.clear();
        for (id, spec) in generation.paths.iter() {
            let public = *ours.entry(spec.private_key.0).or_insert_with(|| public_of(&spec.private_key).0);
            self.paths.insert((public, spec.public_key.0), id);
        }
        self.gate.keep(ours.into_keys());
        self.generation = generation;
    }

    /// Takes the datagrams of `batch`, hands over what is admitted and answers what is not yet.
    pub fn process(&mut self, batch: &mut Batch, now: Now, out: &mut Outbound) {
        for (ingress, datagram, _) in batch.packets() {
            match ingress {
                Ingress::Transport { transport, from } => {
                    self.take(transport, from, datagram, false, now, out)
                }
                Ingress::Worker(Handover::Datagram { transport, from, .. }) => {
                    self.take(transport, from, datagram, true, now, out)
                }
                // Nobody gives packets to it.
                Ingress::Worker(_) | Ingress::Device(_) => {}
            }
        }
    }

    /// `count` packets that were to be sent could not be.
    pub fn egress_dropped(&mut self, reason: DropReason, count: u64) {
        self.drops.count(None, reason, count);
    }

    /// Answers `query`. It has no sessions and no paths; datagrams it drops are counted like a worker's.
    pub fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Totals => Answer::Totals(Totals {
                generation: self.generation.number,
                dropped_packets: self.drops.total(),
                ..Totals::default()
            }),
            Query::Paths => Answer::Paths(Vec::new()),
            Query::Sessions { .. } => Answer::Sessions(SessionPage::default()),
            Query::Trace(_) => Answer::Trace(Traced::default()),
            Query::Drops => Answer::Drops(self.drops.rows(&self.generation)),
            Query::Rules { .. } => Answer::Rules(Vec::new()),
            Query::Decisions { .. } => Answer::Decisions(Vec::new()),
            Query::Measurements { .. } => Answer::Measurements(Vec::new()),
            Query::Queues { .. } => Answer::Queues(Vec::new()),
            Query::History(_) => Answer::History(None),
            Query::Canaries { .. } => Answer::Canaries(Vec::new()),
            Query::NatBlocks { .. } => Answer::NatBlocks(Vec::new()),
            Query::Tenants => Answer::Tenants(Vec::new()),
            Query::Clear(_) => Answer::Cleared(0),
        }
    }

    fn take(
        &mut self,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        handed_over: bool,
        now: Now,
        out: &mut Outbound,
    ) {
        // The type, and three zero bytes (whitepaper section 5.4).
        let reason = match datagram {
            [1, 0, 0, 0, ..] => return self.initiation(transport, from, datagram, now, out),
            [2..=4, 0, 0, 0, ..] => match steer(datagram, self.team.size()) {
                Steered::Worker(worker) if !handed_over => {
                    let what = Handover::Datagram { path: None, transport, from };
                    return out.hand_over(worker, what, datagram);
                }
                _ => DropReason::ReceiverIndexUnknown,
            },
            _ => DropReason::NotWireGuard,
        };
        self.drops.count(None, reason, 1);
    }

    fn initiation(
        &mut self,
        transport: TransportId,
        from: SocketAddr,
        datagram: &[u8],
        now: Now,
        out: &mut Outbound,
    ) {
        self.gate.tick(now.instant);
        let mut cookie = [0; 64];
        let reason = match self.gate.admit(from.ip(), datagram, &mut cookie) {
            Ok(Admission::Peer { ours, peer }) => {
                let path = self.paths.get(&(ours, peer)).copied();
                match path.and_then(|id| Some((id, self.generation.paths.get(id)?))) {
                    Some((path, spec)) => {
                        let what = Handover::Datagram { path: Some(path), transport, from };
                        return out.hand_over(self.team.worker_of(spec.site), what, datagram);
                    }
                    None => DropReason::PeerUnknown,
                }
            }
            Ok(Admission::Cookie(len)) => {
                out.push_datagram(transport, from, &cookie[..len]);
                DropReason::CookieRequired
            }
            Err(reason) => reason,
        };
        self.drops.count(None, reason, 1);
    }
}
