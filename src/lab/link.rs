//! Links through user space: a TAP device at each end, and a thread between them that carries frames.
//!
//! Neither end can see that the other is not a cable: a cut takes no carrier away, as in a provider's network.
//!
//! A link without a `rate` is as fast as this thread, some hundred megabits per second; what is sent faster than that
//! overflows the device's own queue and is counted there (`ip -s link`, TX dropped). Where drops matter, give it a rate.

use super::LabError;
use super::impair::{Change, Counters, Impairment, Wire};
use super::topology::{Action, Directions, Shape};
use crate::io::tap::Tap;
use crate::model::Instant;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a link is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkReport {
    pub name: String,
    /// `NODE:INTERFACE`, as the topology file has them.
    pub ends: [String; 2],
    /// One way at least.
    pub cut: bool,
    /// Forward and reverse; none for a bare veth pair, which counts nothing here.
    pub counters: Option<[Counters; 2]>,
}

/// A link of a lab that is up.
pub struct Link {
    name: String,
    ends: [String; 2],
    shovel: Option<Shovel>,
}

impl Link {
    /// A veth pair: the kernel's alone.
    pub(super) fn bare(name: &str, ends: [String; 2]) -> Link {
        Link { name: name.to_owned(), ends, shovel: None }
    }

    /// Begins to carry frames between `taps`.
    pub(super) fn shaped(name: &str, ends: [String; 2], taps: [Tap; 2], shape: Shape) -> io::Result<Link> {
        Ok(Link { name: name.to_owned(), ends, shovel: Some(Shovel::start(name, taps, shape)?) })
    }

    /// The link's name in the topology file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets nothing through any more, either way, and loses what is under way. Both ends keep their carrier.
    ///
    /// # Errors
    /// A bare veth pair, like all that follow.
    pub fn cut(&self) -> Result<(), LabError> {
        self.cut_way(Directions::Both)
    }

    /// As [`Link::cut`], perhaps one way only.
    ///
    /// # Errors
    /// A bare veth pair.
    pub fn cut_way(&self, direction: Directions) -> Result<(), LabError> {
        self.apply(&Action::Cut { direction })
    }

    /// Undoes cuts and impairments: as the topology file has it.
    ///
    /// # Errors
    /// A bare veth pair.
    pub fn heal(&self) -> Result<(), LabError> {
        self.apply(&Action::Heal)
    }

    /// Changes what it does to frames, until it is healed.
    ///
    /// # Errors
    /// A bare veth pair.
    pub fn impair(&self, direction: Directions, change: Change) -> Result<(), LabError> {
        self.apply(&Action::Impair { direction, change })
    }

    /// Does what an event or a command says.
    ///
    /// # Errors
    /// A bare veth pair.
    pub fn apply(&self, action: &Action) -> Result<(), LabError> {
        let shovel = self.shovel.as_ref().ok_or_else(|| LabError::NotCuttable(self.name.clone()))?;
        shovel.apply(action);
        Ok(())
    }

    /// How it is doing.
    pub fn report(&self) -> LinkReport {
        let wires = self.shovel.as_ref().map(|shovel| shovel.shared.lock());
        LinkReport {
            name: self.name.clone(),
            ends: self.ends.clone(),
            cut: wires.as_ref().is_some_and(|wires| wires.iter().any(Wire::is_cut)),
            counters: wires.map(|wires| [wires[0].counters, wires[1].counters]),
        }
    }
}

/// The thread between two TAP devices. Dropping it ends the thread, and with it the devices.
struct Shovel {
    shared: Arc<Shared>,
    configured: [Impairment; 2],
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    wires: Mutex<[Wire; 2]>,
    /// Written to when something changed that the thread does not know of.
    wake: OwnedFd,
    stop: AtomicBool,
}

impl Shared {
    /// What a panic elsewhere left behind is still two wires.
    fn lock(&self) -> MutexGuard<'_, [Wire; 2]> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It only fails when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Shovel {
    fn start(name: &str, taps: [Tap; 2], shape: Shape) -> io::Result<Shovel> {
        let Shape { impairments: [forward, reverse], seed } = shape;
        let configured = [forward.clone(), reverse.clone()];
        // The two directions of a link have nothing to do with each other's luck.
        let wires = [Wire::new(forward, seed), Wire::new(reverse, seed.wrapping_add(1))];
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { wires: Mutex::new(wires), wake, stop: AtomicBool::new(false) });
        let thread = std::thread::Builder::new().name(format!("link {name}")).spawn({
            let shared = Arc::clone(&shared);
            move || carry(&shared, &taps)
        })?;
        Ok(Shovel { shared, configured, thread: Some(thread) })
    }

    fn apply(&self, action: &Action) {
        let mut wires = self.shared.lock();
        for (index, wire) in wires.iter_mut().enumerate() {
            let other = [Directions::Reverse, Directions::Forward][index];
            match action {
                Action::Cut { direction } | Action::Impair { direction, .. } if *direction == other => {}
                Action::Cut { .. } => wire.set_cut(true),
                Action::Heal => {
                    wire.set_cut(false);
                    wire.set_impairment(self.configured[index].clone());
                }
                Action::Impair { change, .. } => wire.set_impairment(change.apply(wire.impairment())),
            }
        }
        drop(wires);
        self.shared.wake();
    }
}

impl Drop for Shovel {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, which has been printed.
            let _ = thread.join();
        }
    }
}

/// 64: neither direction waits for more than so many frames of the other.
const BURST: usize = 64;

/// Takes in what the devices send, gives out what has arrived, sleeps until there is more of either.
fn carry(shared: &Shared, taps: &[Tap; 2]) {
    let epoch = std::time::Instant::now();
    let clock = || Instant(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX));
    // 64 KiB and room for an Ethernet header and a VLAN tag: the largest frame a device can have.
    let mut buffer = vec![0; 65_536 + 18];
    while !shared.stop.load(Ordering::Relaxed) {
        let mut wires = shared.lock();
        for (tap, wire) in taps.iter().zip(wires.iter_mut()) {
            if !take_in(tap, wire, &mut buffer, clock()) {
                // The device is gone: its namespace was removed under us.
                return;
            }
        }
        for (tap, wire) in taps.iter().rev().zip(wires.iter_mut()) {
            while let Some(frame) = wire.take_arrived(clock()) {
                match tap.send(&frame) {
                    Ok(()) => wire.counters.delivered += 1,
                    Err(_) => wire.counters.refused += 1,
                }
            }
        }
        let next = wires.iter().filter_map(Wire::poll_timeout).min();
        drop(wires);
        sleep(shared, taps, next.map(|next| next.since(clock())));
    }
}

/// False if the device is gone.
fn take_in(tap: &Tap, wire: &mut Wire, buffer: &mut [u8], now: Instant) -> bool {
    for _ in 0..BURST {
        match tap.receive(buffer) {
            Ok(len) => wire.offer(&buffer[..len], now),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

fn sleep(shared: &Shared, taps: &[Tap; 2], timeout: Option<Duration>) {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut fds = [
        PollFd::new(&taps[0], PollFlags::IN),
        PollFd::new(&taps[1], PollFlags::IN),
        PollFd::new(&shared.wake, PollFlags::IN),
    ];
    // Interrupted or not: the loop looks for itself at what there is to do.
    let _ = poll(&mut fds, timeout.as_ref());
    let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
}
