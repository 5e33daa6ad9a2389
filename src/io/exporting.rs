//! Exporting: the thread that takes flow records from the workers and sends them to the collectors.
//!
//! It waits for records and for the exporters' timers, whichever comes first. Nothing here can hold up a worker: the
//! queue between is bounded, and a worker counts what it had no room for.

use super::clock::Clock;
use crate::config::Collector;
use crate::export::{Directory, Exporter};
use crate::flow::FlowRecord;
use crate::model::Instant;
use crate::pipeline::Logged;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A box without collectors wakes this often, for nothing; cheap, and keeps the loop one loop.
const IDLE: Duration = Duration::from_secs(60);

/// What the thread is sent.
pub enum Order {
    Record(FlowRecord),
    /// What an ACL rule with `log` decided on.
    Logged(Logged),
    /// A new generation's collectors and names. A collector that stays keeps its sequence numbers.
    Reconfigure {
        collectors: Vec<Collector>,
        directory: Directory,
    },
}

/// Starts the thread. It calls `seen` with every record and `log` with what rules decided on, and ends when all senders of `orders` are gone, after it has
/// sent what was left.
///
/// # Errors
/// The thread could not be made.
pub fn start(
    orders: Receiver<Order>,
    clock: Clock,
    seen: impl FnMut(&FlowRecord) + Send + 'static,
    log: impl FnMut(&Logged) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let exporting = Exporting { orders, clock, seen, log, collectors: Vec::new() };
    std::thread::Builder::new().name("export".into()).spawn(move || exporting.run())
}

struct Exporting<F, G> {
    orders: Receiver<Order>,
    clock: Clock,
    seen: F,
    log: G,
    collectors: Vec<Connected>,
}

/// A collector, and the way to it.
struct Connected {
    collector: Collector,
    exporter: Exporter,
    socket: Option<UdpSocket>,
    /// So that a dead collector is told of once.
    failing: bool,
}

impl<F: FnMut(&FlowRecord), G: FnMut(&Logged)> Exporting<F, G> {
    fn run(mut self) {
        loop {
            let now = self.clock.now();
            let due = self.collectors.iter().map(|c| c.exporter.poll_timeout()).min();
            let wait = due.map_or(IDLE, |due: Instant| due.since(now.instant));
            match self.orders.recv_timeout(wait) {
                Ok(order) => {
                    self.take(order);
                    // What else is there already goes with it.
                    while let Ok(order) = self.orders.try_recv() {
                        self.take(order);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.send();
        }
        for connected in &mut self.collectors {
            connected.exporter.flush();
        }
        self.send();
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Record(record) => {
                (self.seen)(&record);
                let now = self.clock.now();
                for connected in &mut self.collectors {
                    connected.exporter.add(&record, now);
                }
            }
            Order::Logged(logged) => (self.log)(&logged),
            Order::Reconfigure { collectors, directory } => {
                let mut old = std::mem::take(&mut self.collectors);
                for collector in collectors {
                    let kept = old.iter().position(|known| known.collector == collector);
                    let mut connected = match kept {
                        Some(at) => old.swap_remove(at),
                        None => Connected::new(collector, directory.clone()),
                    };
                    connected.exporter.set_directory(&directory);
                    self.collectors.push(connected);
                }
            }
        }
    }

    fn send(&mut self) {
        let now = self.clock.now();
        for connected in &mut self.collectors {
            connected.send(now);
        }
    }
}

impl Connected {
    fn new(collector: Collector, directory: Directory) -> Connected {
        let exporter = Exporter::new(collector.observation_domain, directory);
        Connected { collector, exporter, socket: None, failing: false }
    }

    fn send(&mut self, now: crate::model::Now) {
        loop {
            if self.socket.is_none() {
                self.socket = connect(self.collector.address).ok();
            }
            let Some(message) = self.exporter.poll(now) else { return };
            let sent = match &self.socket {
                Some(socket) => socket.send(message).map(|_| ()),
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match sent {
                Ok(()) => self.failing = false,
                Err(error) => {
                    self.exporter.not_sent();
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(collector = self.collector.name, %error, "flow records cannot be sent");
                    }
                }
            }
        }
    }
}

fn connect(collector: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match collector {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(collector)?;
    Ok(socket)
}
