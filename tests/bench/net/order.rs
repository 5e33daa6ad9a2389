//! Order: whether the packets of a TCP connection arrive in the order in which they were sent, seen where they arrive.
//!
//! Linux numbers a connection's packets as it sends them, those it repeats too (the IPv4 identification; RFC 6864 lets it be
//! anything where nothing is fragmented, and nothing on the way changes it). So what arrives with a smaller number than one
//! before it has been overtaken; what was lost, or sent twice, has not.

use super::Failure;
use super::rig::Rig;
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const TCP: u8 = 6;
/// Options, ports: more of a packet is not looked at.
const HEADERS: usize = 64;
/// Between two looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// Super-packets count once.
    pub seen: u64,
    /// Behind one that was sent after it.
    pub reordered: u64,
}

/// By what one connection's packets of one direction are known.
type Connection = ([u8; 8], [u8; 4]);

/// Looks at what arrives in a node, until it is asked what it saw.
pub struct Watcher {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Order>,
}

impl Watcher {
    /// Of what arrives at `node`.
    pub fn start(rig: &Rig, node: &str) -> Result<Watcher, Failure> {
        // Bound to one protocol it is given what arrives, and not what leaves (packet(7)).
        let socket = rig.lab.enter(node, || {
            let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::IP))?;
            rustix::net::sockopt::set_socket_timeout(
                &socket,
                rustix::net::sockopt::Timeout::Recv,
                Some(PATIENCE),
            )?;
            Ok::<OwnedFd, rustix::io::Errno>(socket)
        })??;
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("order".to_owned()).spawn({
            let ended = Arc::clone(&ended);
            move || watch(&socket, &ended)
        })?;
        Ok(Watcher { ended, thread })
    }

    /// # Errors
    /// The thread panicked.
    pub fn stop(self) -> Result<Order, Failure> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the watcher panicked".into())
    }
}

fn watch(socket: &OwnedFd, ended: &AtomicBool) -> Order {
    let mut order = Order::default();
    let mut newest: HashMap<Connection, u16> = HashMap::new();
    let mut packet = [0; HEADERS];
    while !ended.load(Ordering::Relaxed) {
        // Nothing has come for a while, or the network is gone: the flag will say.
        let Ok((len, _)) = rustix::net::recv(socket, &mut packet[..], RecvFlags::empty()) else { continue };
        let Some((connection, number)) = numbered(&packet[..len]) else { continue };
        order.seen += 1;
        let newest = newest.entry(connection).or_insert(number);
        match number.wrapping_sub(*newest) as i16 {
            0.. => *newest = number,
            _ => order.reordered += 1,
        }
    }
    order
}

/// The connection of a TCP packet, and its number.
fn numbered(packet: &[u8]) -> Option<(Connection, u16)> {
    let ports_at = usize::from(packet.first()? & 0x0f) * 4;
    if packet.get(9) != Some(&TCP) {
        return None;
    }
    let connection =
        (packet.get(12..20)?.try_into().ok()?, packet.get(ports_at..ports_at + 4)?.try_into().ok()?);
    Some((connection, u16::from_be_bytes([packet[4], packet[5]])))
}
