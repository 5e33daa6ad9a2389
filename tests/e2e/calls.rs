//! Calls: hosts send each other numbered packets at a steady pace, and take down when each came. Sender and receiver are
//! threads of the test itself, by one clock.

use crate::figures::Stream;
use crate::world::World;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// As much as 20 ms of G.711 (RFC 3551) and its RTP header.
const PAYLOAD: usize = 172;
/// How long a receiver waits before it looks whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(100);

/// A kind of call: the port it is to, which is what its class goes by, and the time between its packets.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub port: u16,
    pub spacing: Duration,
}

/// Who takes the calls, in a node of its own.
pub struct Exchange {
    epoch: Instant,
    lines: Vec<Line>,
}

/// The side of an [`Exchange`] that is for one kind of call.
struct Line {
    kind: Kind,
    socket: UdpSocket,
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    receiver: Option<JoinHandle<()>>,
}

/// By the caller's number: where it calls from, and which of its packets came when.
type Heard = BTreeMap<u16, (SocketAddr, Vec<(usize, f64)>)>;

impl Exchange {
    /// Begins to listen.
    pub fn start(world: &World, node: &str, kinds: &[Kind]) -> Exchange {
        let epoch = Instant::now();
        let line = |kind: &Kind| {
            let bound = world.enter(node, || UdpSocket::bind(("0.0.0.0", kind.port)));
            let socket = bound.expect("entered").expect("bound");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let (heard, stop) = (Arc::new(Mutex::new(Heard::new())), Arc::new(AtomicBool::new(false)));
            let receiver = std::thread::spawn({
                let (socket, heard, stop) = (other(&socket), Arc::clone(&heard), Arc::clone(&stop));
                move || {
                    listen(&socket, &stop, epoch, |from, caller, number, at| {
                        let mut heard = held(&heard);
                        let (peer, came) = heard.entry(caller).or_insert((from, Vec::new()));
                        *peer = from;
                        came.push((number, at));
                    });
                }
            });
            Line { kind: *kind, socket, heard, stop, receiver: Some(receiver) }
        };
        Exchange { epoch, lines: kinds.iter().map(line).collect() }
    }

    /// Milliseconds since it began.
    pub fn now(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64() * 1e3
    }

    /// From a host, a caller whose number no other has had has a call of each of these kinds, by their places, to `server` for as
    /// long as `meanwhile` takes. Gives what that says, and of each kind what went from the host, and to it.
    pub fn call<T>(
        &self,
        world: &World,
        (caller, host, server): &(u16, String, &str),
        kinds: &[usize],
        meanwhile: impl FnOnce() -> T,
    ) -> (T, Vec<[Stream; 2]>) {
        let sockets: Vec<UdpSocket> =
            kinds.iter().map(|line| dial(world, host, (*server, self.lines[*line].kind.port))).collect();
        let lines: Vec<&Line> = kinds.iter().map(|line| &self.lines[*line]).collect();
        let (lines, caller) = (&lines[..], *caller);
        let stop = AtomicBool::new(false);
        let (stop, epoch) = (&stop, self.epoch);
        std::thread::scope(|scope| {
            // One thread a direction: packets of different kinds do not leave at once.
            let up = scope.spawn(|| {
                let send = |line: usize, packet: &[u8]| sockets[line].send(packet).is_ok();
                self.send(lines, caller, stop, send)
            });
            let down = scope.spawn(|| {
                let send = |line: usize, packet: &[u8]| {
                    let peer = held(&lines[line].heard).get(&caller).map(|(peer, _)| *peer);
                    peer.is_some_and(|peer| lines[line].socket.send_to(packet, peer).is_ok())
                };
                self.send(lines, caller, stop, send)
            });
            let receivers = sockets.iter().map(|socket| {
                scope.spawn(move || {
                    let mut came = Vec::new();
                    listen(socket, stop, epoch, |_, _, number, at| came.push((number, at)));
                    came
                })
            });
            let receivers: Vec<_> = receivers.collect();
            let said = meanwhile();
            stop.store(true, Ordering::Relaxed);
            let (up, down) = (up.join().expect("no panic"), down.join().expect("no panic"));
            let received: Vec<_> =
                receivers.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            let streams =
                lines.iter().zip(up).zip(down).zip(received).map(|(((line, up), down), received)| {
                    let heard = held(&line.heard).remove(&caller).map(|(_, came)| came).unwrap_or_default();
                    [Stream { sent: up, came: heard }, Stream { sent: down, came: received }]
                });
            (said, streams.collect())
        })
    }

    /// Sends packets of each kind until it is to stop; when each was sent.
    fn send(
        &self,
        lines: &[&Line],
        caller: u16,
        stop: &AtomicBool,
        mut send: impl FnMut(usize, &[u8]) -> bool,
    ) -> Vec<Vec<f64>> {
        let mut sent = vec![Vec::new(); lines.len()];
        let begin = Instant::now();
        // Evenly spread over their spacing.
        let offset = |line: usize| lines[line].kind.spacing * line as u32 / lines.len() as u32;
        let mut due: Vec<Instant> = (0..lines.len()).map(|line| begin + offset(line)).collect();
        while !stop.load(Ordering::Relaxed) {
            let Some((line, at)) = due.iter().copied().enumerate().min_by_key(|(_, at)| *at) else { break };
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            due[line] = at + lines[line].kind.spacing;
            let mut packet = [0; PAYLOAD];
            packet[..2].copy_from_slice(&caller.to_be_bytes());
            packet[2..6].copy_from_slice(&(sent[line].len() as u32).to_be_bytes());
            let now = self.now();
            if send(line, &packet) {
                sent[line].push(now);
            }
        }
        sent
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.lines.iter().for_each(|line| line.stop.store(true, Ordering::Relaxed));
        for line in &mut self.lines {
            if let Some(receiver) = line.receiver.take() {
                let _ = receiver.join();
            }
        }
    }
}

fn dial(world: &World, host: &str, server: (&str, u16)) -> UdpSocket {
    let socket = world.enter(host, || UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("bound");
    socket.connect(server).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Takes down who it was from, the caller, the packet's number, and the time in milliseconds.
fn listen(
    socket: &UdpSocket,
    stop: &AtomicBool,
    epoch: Instant,
    mut hear: impl FnMut(SocketAddr, u16, usize, f64),
) {
    let mut packet = [0; 2 * PAYLOAD];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut packet) {
            Ok((PAYLOAD, from)) => {
                let at = epoch.elapsed().as_secs_f64() * 1e3;
                let caller = u16::from_be_bytes([packet[0], packet[1]]);
                let number = u32::from_be_bytes([packet[2], packet[3], packet[4], packet[5]]);
                hear(from, caller, number as usize, at);
            }
            // Nothing yet; or an ICMP error, which the gap tells better.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => eprintln!("a call: {error}"),
        }
    }
}

fn other(socket: &UdpSocket) -> UdpSocket {
    socket.try_clone().expect("a second handle")
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
