//! The forwarding threads as one: an order to all of them, a part of it for each.

use super::planes::{Command, EntrancePlane, Port, WorkerPlane};
use crate::config::{Appliance, Role};
use crate::control::WorkerPort;
use crate::io::clock::Clock;
use crate::io::cpu::{Cpu, Placement};
use crate::io::crossing::Seat;
use crate::io::forward::{self, ForwardHandle, ForwardThread, Post, Refused};
use crate::io::tun::TunDevice;
use crate::io::udp::TransportSocket;
use crate::model::{DeviceId, MAX_WORKERS, TransportId};
use crate::pipeline::{DeadLinks, Entrance};
use crate::tables::Generation;
use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// A full queue of commands is looked at again after so long.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);
/// The entrance is behind the workers: of a core they share, it gets a quarter. A flood of initiations takes no more from
/// forwarding, and a core that is free it has to itself.
const ENTRANCE_BEHIND: i32 = 5;

/// How many workers a box gets: as configured, else a PoP one for each of `cpus`, and a branch one, for all its tunnels end
/// at one site and would be one worker's anyway.
pub(super) fn workers_of(appliance: &Appliance, cpus: &[Cpu]) -> u16 {
    let by_default = match appliance.role {
        Role::Pop(_) => u16::try_from(cpus.len()).unwrap_or(MAX_WORKERS).clamp(1, MAX_WORKERS),
        Role::Branch(_) => 1,
    };
    appliance.workers.map_or(by_default, NonZeroU16::get)
}

/// The running threads; dropped, they stop.
pub(super) struct Threads {
    workers: Vec<ForwardThread<WorkerPlane>>,
    entrance: ForwardThread<EntrancePlane>,
}

/// The way to the threads; as many copies as needed.
#[derive(Clone)]
pub(super) struct Crew {
    workers: Vec<ForwardHandle<Command>>,
    entrance: ForwardHandle<Command>,
}

/// Starts a thread for each of `workers` and one for the entrance. A worker has a processor to itself, if there are several
/// workers and enough processors.
///
/// # Errors
/// The process may have no more threads or open files.
pub(super) fn start(
    workers: Vec<WorkerPlane>,
    entrance: Entrance,
    cpus: &[Cpu],
    clock: Clock,
) -> io::Result<(Threads, Crew)> {
    let pinned = (2..=cpus.len()).contains(&workers.len());
    let mut seats = Seat::among(workers.len() + 1)?.into_iter();
    let (mut threads, mut handles) = (Vec::new(), Vec::new());
    for (i, (plane, seat)) in workers.into_iter().zip(&mut seats).enumerate() {
        let placement = if pinned { Placement::Pinned(cpus[i]) } else { Placement::Anywhere };
        let post = Post { name: format!("worker-{i}"), placement, seat };
        let (thread, handle) = forward::start(post, plane, Vec::new(), Vec::new(), clock)?;
        threads.push(thread);
        handles.push(handle);
    }
    let post = Post {
        name: "entrance".to_owned(),
        placement: Placement::Behind(ENTRANCE_BEHIND),
        // One more than there are workers.
        seat: seats.next().expect("a seat is left"),
    };
    let (thread, handle) = forward::start(post, EntrancePlane(entrance), Vec::new(), Vec::new(), clock)?;
    Ok((Threads { workers: threads, entrance: thread }, Crew { workers: handles, entrance: handle }))
}

impl Threads {
    /// Whether one of them has ended by itself, which is by a panic.
    pub(super) fn dead(&self) -> bool {
        self.workers.iter().any(ForwardThread::is_finished) || self.entrance.is_finished()
    }

    /// Stops all of them; gives back what can be given back, and whether that is all.
    pub(super) fn stop(self) -> (Vec<WorkerPlane>, bool) {
        let workers = self.workers.len();
        let entrance = self.entrance.stop();
        let planes: Vec<WorkerPlane> =
            self.workers.into_iter().filter_map(|thread| thread.stop().ok()).collect();
        let all = planes.len() == workers && entrance.is_ok();
        (planes, all)
    }
}

impl Crew {
    /// How many workers there are.
    pub(super) fn workers(&self) -> u16 {
        // At most MAX_WORKERS.
        self.workers.len() as u16
    }

    /// All of them, as `control` asks them.
    pub(super) fn ports(&self) -> Vec<Box<dyn WorkerPort>> {
        self.all().map(|handle| Box::new(Port(handle.clone())) as Box<dyn WorkerPort>).collect()
    }

    /// Whether all of them have gone round since this was last called; asks them anew.
    pub(super) fn take_pulse(&self) -> bool {
        let alive = self.all().all(ForwardHandle::has_pulse);
        self.all().for_each(ForwardHandle::ask_pulse);
        alive
    }

    /// Tells all of them to go over to `generation`; the entrance last, so that no worker is handed an initiation for a
    /// path it does not know yet. False if one of them has ended.
    pub(super) async fn adopt(&self, generation: &Arc<Generation>) -> bool {
        self.tell(|| Command::Adopt(Arc::clone(generation))).await
    }

    /// Tells all workers which links are dead.
    pub(super) async fn tell_links(&self, dead: &DeadLinks) {
        // One that has ended is found out about elsewhere.
        let _ = self.tell(|| Command::Links(dead.clone())).await;
    }

    async fn tell(&self, command: impl Fn() -> Command) -> bool {
        for handle in self.all() {
            let mut command = command();
            loop {
                match handle.send(command) {
                    Ok(()) => break,
                    // Of queries; a worker that takes none any more would not take packets either.
                    Err(Refused::Full(again)) => command = again,
                    Err(Refused::Gone(_)) => return false,
                }
                tokio::time::sleep(FULL_QUEUE_PAUSE).await;
            }
        }
        true
    }

    /// Closes transports everywhere.
    pub(super) async fn close_transports(&self, close: Vec<TransportId>) {
        let orders = self.all().map(|handle| handle.replace_transports(close.clone(), Vec::new()));
        all_done(orders.collect()).await;
    }

    /// Gives each its socket of a group; false if one of them has ended.
    pub(super) async fn open_transport(&self, group: Vec<TransportSocket>) -> bool {
        let pairs = self.all().zip(group);
        let orders = pairs.map(|(handle, socket)| handle.replace_transports(Vec::new(), vec![socket]));
        all_done(orders.collect()).await
    }

    /// Closes devices everywhere, and gives each worker its queue of others; false if one of them has ended.
    pub(super) async fn replace_devices(&self, close: Vec<DeviceId>, open: Vec<Vec<TunDevice>>) -> bool {
        let mut queues: Vec<_> = open.into_iter().map(Vec::into_iter).collect();
        let orders = self.workers.iter().map(|handle| {
            let its_own = queues.iter_mut().filter_map(Iterator::next).collect();
            handle.replace_devices(close.clone(), its_own)
        });
        all_done(orders.collect()).await
    }

    fn all(&self) -> impl Iterator<Item = &ForwardHandle<Command>> {
        self.workers.iter().chain([&self.entrance])
    }
}

/// Waits until everybody has done what was ordered.
async fn all_done<E>(orders: Vec<Result<tokio::sync::oneshot::Receiver<()>, E>>) -> bool {
    let mut all = true;
    for order in orders {
        all &= match order {
            Ok(done) => done.await.is_ok(),
            Err(_) => false,
        };
    }
    all
}
