//! The generator: real WireGuard peers, each with a socket and an address of its own, and the server they talk to.
//!
//! One thread does everything, so that it takes one processor and no more: it seals and sends for the peers, sends for the
//! server, and looks after the probes. What gets through is counted by the receiving interface and dropped before it
//! costs the receiving side anything; a buffer in 64 is let through, opened and compared with what was sent. Probes are of
//! a peer and a flow of their own; they are listened for between two bursts, so that one takes as long as it takes or as
//! a burst does, 35 microseconds at most.
//!
//! Functions in order: set up (sockets, handshakes, one flow a peer), one run, the search for a rate.

use super::Failure;
use super::dut::{Pop, inner_address, outer_address, peer_key};
use super::packet::{self, HEADERS, TCP_HEADERS};
use super::rig::{Count, Counter, POP, POP_PORT, SERVER, early_filter};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::PublicKey;
use popgate::io::forward::Received;
use popgate::io::udp::{Listen, TransportSocket};
use popgate::model::TransportId;
use popgate::wire::{Batch, Ingress};
use rustix::net::{RecvFlags, SendFlags};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

/// Where the load goes, and the probes.
const LOAD_PORT: u16 = 7000;
const PROBE_PORT: u16 = 7001;
/// Where peers have their sockets; and the peer that only probes.
const PEER_PORT: u16 = 51820;
const PROBE_PEER_PORT: u16 = 51821;
/// Handshakes under way at once: wireguard-go asks for cookies from 128 on.
const HANDSHAKES: usize = 64;
/// A handshake that has not been answered by then is begun again.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);
/// Sessions older than this are renewed between runs: from 120 s on the DUT would begin to ask for it.
const SESSION_AGE: Duration = Duration::from_secs(75);
/// Inner bytes of a probe: a multiple of 16, to which wireguard-go pads; and how often one is sent.
const PROBE_BYTES: usize = 96;
const PROBE_EVERY: Duration = Duration::from_millis(1);
/// Sealing adds 32 bytes; a buffer of less than 148 is refused whatever is in it.
const SEAL_BYTES: usize = 32;
const SEAL_ROOM: usize = 148;
/// What is sealed beforehand at most: 2 GiB, some two seconds of all that a processor can send.
const SEALED_BYTES: usize = 2 << 30;
/// More than can be sent.
const LIMITLESS_PPS: f64 = 1e8;
/// What counts as none lost.
pub const TOLERATED_LOSS: f64 = 0.005;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peers to the server.
    Up,
    Down,
    /// A burst this way, a burst that way.
    Both,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
            Direction::Both => "both",
        }
    }
}

/// What the inner packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    Udp,
    /// Segments of a long upload, one behind the other, as TCP sends them; nobody acknowledges any. Only upwards.
    Tcp,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub upper: Upper,
    pub direction: Direction,
    /// Of the inner packet.
    pub bytes: usize,
    /// Packets of one peer in a row, which leave as one buffer (GSO).
    pub burst: usize,
}

impl Load {
    /// Of the UDP payload that the inner packet becomes.
    fn sealed_bytes(self) -> usize {
        self.bytes + SEAL_BYTES
    }

    fn headers(self) -> usize {
        match self.upper {
            Upper::Udp => HEADERS,
            Upper::Tcp => TCP_HEADERS,
        }
    }
}

/// How it is sent.
pub struct Offer<'a> {
    /// Packets a second; `None`: as many as the generator can.
    pub pps: Option<f64>,
    pub length: Duration,
    /// Measure how long packets take.
    pub probes: bool,
    /// Seal before the clock starts, for so many packets a second, so that the generator only sends; for what goes up,
    /// and as long as it lasts.
    pub sealed: Option<f64>,
    /// What else this thread does meanwhile.
    pub company: Option<&'a mut dyn Company>,
}

impl Offer<'_> {
    /// Nothing but the load.
    pub fn plain(pps: Option<f64>, length: Duration) -> Offer<'static> {
        Offer { pps, length, probes: false, sealed: None, company: None }
    }
}

/// Something done by the generator's thread between two bursts.
pub trait Company {
    /// Whether the run may end.
    fn turn(&mut self, now: Instant) -> bool;
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub offered_pps: f64,
    /// While it lasted, beginnings left out: what a device that is too slow lets through.
    pub steady_pps: f64,
    /// Of what was sent, with what came later.
    pub delivered_pps: f64,
    pub loss: f64,
    /// Processor time of the DUT a gigabyte of inner packets delivered.
    pub cpu_s_per_gb: f64,
    /// One way, in milliseconds, ordered.
    pub latencies_ms: Vec<f64>,
}

/// How many packets of the sample were looked at, and how many of those were not what had been sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub seen: u64,
    pub wrong: u64,
}

struct Peer {
    index: usize,
    tunn: Tunn,
    socket: TransportSocket,
    /// Where the server sees it.
    translated: Option<SocketAddr>,
}

pub struct Generator<'a> {
    pop: &'a Pop,
    peers: Vec<Peer>,
    probe: Peer,
    server: TransportSocket,
    probe_server: TransportSocket,
    up: Counter,
    down: Counter,
    established_at: Instant,
    batch: Batch,
    pub sample: Sample,
    /// Of probes' timestamps.
    epoch: Instant,
    /// Room for what is sealed beforehand, kept from run to run.
    store: Vec<u8>,
}

impl<'a> Generator<'a> {
    /// Peers 0 to `peers` - 1, and one more for probes: the DUT must know as many.
    pub fn new(pop: &'a Pop, peers: usize) -> Result<Generator<'a>, Failure> {
        let rig = &pop.rig;
        let peer = |index: usize, port| Peer::new(index, port, &pop.public_key);
        let (all, probe) = rig.lab.enter("branch", || {
            let all: Result<Vec<Peer>, Failure> = (0..peers).map(|index| peer(index, PEER_PORT)).collect();
            (all, peer(peers, PROBE_PEER_PORT))
        })?;
        let (server, probe_server) =
            rig.lab.enter("srv", || (bind(SERVER, LOAD_PORT), bind(SERVER, PROBE_PORT)))?;
        let mut generator = Generator {
            pop,
            peers: all?,
            probe: probe?,
            server: server?,
            probe_server: probe_server?,
            up: rig.counter("srv", "s0")?,
            down: rig.counter("branch", "u0")?,
            established_at: Instant::now(),
            batch: Batch::with_slots(64),
            sample: Sample::default(),
            epoch: Instant::now(),
            store: Vec::new(),
        };
        generator.establish()?;
        Ok(generator)
    }

    /// Handshakes and flows, with the sinks open; then the sinks are closed.
    fn establish(&mut self) -> Result<(), Failure> {
        let rig = &self.pop.rig;
        rig.nft("srv", &early_filter(""))?;
        rig.nft("branch", &early_filter(""))?;
        self.shake_hands()?;
        self.open_flows()?;
        let sink = |probes: u16, load: u16| {
            early_filter(&format!(
                "udp dport {probes} accept\n  udp dport {load} numgen inc mod 64 0 accept\n  udp dport {load} drop\n  \
                 tcp dport {load} drop"
            ))
        };
        rig.nft("srv", &sink(PROBE_PORT, LOAD_PORT))?;
        rig.nft("branch", &sink(PROBE_PEER_PORT, PEER_PORT))
    }

    fn shake_hands(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut waiting: Vec<usize> = (0..=self.peers.len()).rev().collect();
        let mut asked: Vec<(usize, Instant)> = Vec::new();
        while !waiting.is_empty() || !asked.is_empty() {
            self.pop.rig.setting.check()?;
            if Instant::now() > deadline {
                let left = waiting.len() + asked.len();
                return Err(format!("{left} of {} handshakes not done in 60 s", self.peers.len() + 1).into());
            }
            while asked.len() < HANDSHAKES
                && let Some(index) = waiting.pop()
            {
                self.peer(index).initiate();
                asked.push((index, Instant::now()));
            }
            let mut silent = true;
            asked.retain_mut(|(index, at)| {
                let peer = self.peers.get_mut(*index).unwrap_or(&mut self.probe);
                let answer = peer.hear_handshake();
                silent &= answer == Answer::None;
                match answer {
                    Answer::Established => return false,
                    Answer::None if at.elapsed() < HANDSHAKE_PATIENCE => {}
                    // A cookie, with which to ask again at once; or it got lost.
                    _ => {
                        peer.initiate();
                        *at = Instant::now();
                    }
                }
                true
            });
            if silent {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        self.established_at = Instant::now();
        Ok(())
    }

    /// A peer that the DUT knows and that has not called yet.
    pub fn newcomer(&self) -> Result<Newcomer, Failure> {
        let index = self.peers.len() + 1;
        let peer = self
            .pop
            .rig
            .lab
            .enter("branch", || Peer::new(index, PROBE_PEER_PORT, &self.pop.public_key))??;
        Ok(Newcomer { peer, begun: None, next_tick: None, admitted_after: None })
    }

    fn peer(&mut self, index: usize) -> &mut Peer {
        self.peers.get_mut(index).unwrap_or(&mut self.probe)
    }

    /// One packet of each flow goes up: the server learns where it comes from.
    fn open_flows(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(20);
        self.peers.iter_mut().chain([&mut self.probe]).for_each(|peer| peer.translated = None);
        let mut first = 0;
        loop {
            self.pop.rig.setting.check()?;
            // Few at a time, so that none is lost for want of room.
            let missing = self.peers.iter_mut().filter(|peer| peer.translated.is_none());
            let mut asked = 0;
            for peer in missing.take(32) {
                let packet = peer.packet(LOAD_PORT, 200);
                peer.send(&packet);
                asked += 1;
            }
            if self.probe.translated.is_none() {
                let packet = self.probe.packet(PROBE_PORT, 200);
                self.probe.send(&packet);
                asked += 1;
            }
            if asked == 0 {
                return Ok(());
            }
            let patience = Instant::now() + Duration::from_millis(if first == 0 { 500 } else { 50 });
            first += 1;
            let mut heard = 0;
            while heard < asked && Instant::now() < patience {
                for socket in [&mut self.server, &mut self.probe_server] {
                    self.batch.clear();
                    socket.receive(&mut self.batch);
                    for (ingress, payload, _) in self.batch.packets() {
                        let (Ingress::Transport { from, .. }, Some(index)) =
                            (ingress, packet::index_of(payload))
                        else {
                            continue;
                        };
                        let peer = self.peers.get_mut(index).unwrap_or(&mut self.probe);
                        peer.translated = Some(from);
                        heard += 1;
                    }
                }
            }
            if Instant::now() > deadline {
                return Err("packets of some peers do not reach the server".into());
            }
        }
    }

    /// Forgets what is still on its way: waits until nothing more arrives.
    fn settle(&mut self) -> [Count; 2] {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut last = self.counts();
        let mut quiet = 0;
        while quiet < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.counts();
            // A keepalive or an ARP request is not traffic.
            let same = now.iter().zip(&last).all(|(now, last)| now.buffers - last.buffers <= 1);
            quiet = if same { quiet + 1 } else { 0 };
            last = now;
        }
        last
    }

    fn counts(&mut self) -> [Count; 2] {
        [self.up.read(), self.down.read()]
    }

    /// Sends a load and counts what arrives.
    pub fn run(&mut self, load: Load, offer: Offer<'_>) -> Result<Outcome, Failure> {
        let Offer { pps, length, probes, sealed, mut company } = offer;
        if self.established_at.elapsed() > SESSION_AGE {
            self.establish()?;
        }
        let processes = self.pop.rig.processes("pop")?;
        let mut bursts = Bursts::new(self, load);
        if let Some(pps) = sealed.filter(|_| load.direction == Direction::Up) {
            bursts.seal(self, pps, length);
        }
        let before = self.settle();
        let cpu_before = processes.cpu_seconds();
        let begin = Instant::now();
        let warm_after = length / 5;
        let (mut warm, mut warm_at) = (before, begin);
        let (mut sent, mut turn) = ([0_u64; 2], 0_usize);
        let (mut pace, mut next_probe) = (Pace::new(pps, load.burst, begin), begin);
        let mut latencies = Vec::new();
        loop {
            let now = Instant::now();
            let elapsed = now - begin;
            if elapsed >= length {
                break;
            }
            if warm_at == begin && elapsed >= warm_after {
                (warm, warm_at) = (self.counts(), now);
            }
            if probes {
                if now >= next_probe {
                    next_probe = now + PROBE_EVERY;
                    self.send_probe(load.direction);
                }
                self.hear_probes(&mut latencies);
            }
            if company.as_mut().is_some_and(|company| company.turn(now)) {
                break;
            }
            if !pace.is_due(now) {
                std::hint::spin_loop();
                continue;
            }
            if turn.is_multiple_of(1024) {
                self.pop.rig.setting.check()?;
            }
            let peers = self.peers.len();
            let (up, index) = match load.direction {
                Direction::Up => (true, turn % peers),
                Direction::Down => (false, turn % peers),
                Direction::Both => (turn.is_multiple_of(2), turn / 2 % peers),
            };
            turn += 1;
            let peer = &mut self.peers[index];
            if !up {
                sent[1] += bursts.send_down(&mut self.server, peer);
            } else if let Some(count) = bursts.send_up(peer) {
                sent[0] += count;
            } else {
                break;
            }
        }
        let length = begin.elapsed();
        if let Some((store, _)) = bursts.sealed.take() {
            self.store = store;
        }
        let (end, steady) = (self.counts(), warm_at.elapsed());
        let after = self.settle();
        if probes {
            self.hear_probes(&mut latencies);
        }
        let cpu = processes.cpu_seconds() - cpu_before;
        self.look_at_sample();

        let arrived = |from: &[Count; 2], to: &[Count; 2]| {
            let [up, down] = [0, 1].map(|way| {
                // Either way's other end hears of the other way only what is of no consequence.
                let (headers, payload) = match way {
                    0 => (load.headers(), load.bytes - load.headers()),
                    _ => (HEADERS, load.sealed_bytes()),
                };
                to[way].packets_since(from[way], headers, payload)
            });
            match load.direction {
                Direction::Up => up,
                Direction::Down => down,
                Direction::Both => up + down,
            }
        };
        let (sent, delivered) = ((sent[0] + sent[1]) as f64, arrived(&before, &after));
        latencies.sort_by(f64::total_cmp);
        let outcome = Outcome {
            offered_pps: sent / length.as_secs_f64(),
            steady_pps: arrived(&warm, &end) / steady.as_secs_f64(),
            delivered_pps: delivered / length.as_secs_f64(),
            loss: (1.0 - delivered / sent.max(1.0)).max(0.0),
            cpu_s_per_gb: cpu / (delivered.max(1.0) * load.bytes as f64 / 1e9),
            latencies_ms: latencies,
        };
        if std::env::var_os("VERBOSE").is_some() {
            let Outcome { offered_pps, steady_pps, delivered_pps, loss, .. } = outcome;
            let asked = pps.map_or("all".to_owned(), |pps| format!("{pps:.0}"));
            println!(
                "         asked {asked}, offered {offered_pps:.0}, steady {steady_pps:.0}, delivered {delivered_pps:.0} \
                 packets/s, lost {:.2} %",
                loss * 100.0
            );
        }
        Ok(outcome)
    }

    fn send_probe(&mut self, direction: Direction) {
        let mut payload = packet::payload(self.probe.index, PROBE_BYTES - HEADERS);
        payload[4..12].copy_from_slice(&(self.epoch.elapsed().as_nanos() as u64).to_be_bytes());
        if direction == Direction::Down {
            let Some(to) = self.probe.translated else { return };
            // One that is lost is one that no answer comes to.
            let _ = rustix::net::sendto(&self.probe_server, &payload, SendFlags::DONTWAIT, &to);
        } else {
            let to = SocketAddrV4::new(SERVER, PROBE_PORT);
            let packet = packet::udp(inner(self.probe.index), to, &payload);
            self.probe.send(&packet);
        }
    }

    fn hear_probes(&mut self, latencies_ms: &mut Vec<f64>) {
        let now = self.epoch.elapsed().as_nanos() as u64;
        let mut room = [0; 2048];
        let mut opened = [0; 2048];
        let mut note = |payload: &[u8]| {
            if let Some(sent) = payload.get(4..12).and_then(|bytes| bytes.first_chunk::<8>()) {
                latencies_ms.push(now.saturating_sub(u64::from_be_bytes(*sent)) as f64 / 1e6);
            }
        };
        while let Ok((len, _)) = rustix::net::recv(&self.probe_server, &mut room[..], RecvFlags::DONTWAIT) {
            note(&room[..len.min(PROBE_BYTES - HEADERS)]);
        }
        while let Ok((len, _)) = rustix::net::recv(&self.probe.socket, &mut room[..], RecvFlags::DONTWAIT) {
            // Two that came as one are a datagram and another's beginning: the first of them counts.
            let datagram = &room[..len.min(PROBE_BYTES + SEAL_BYTES)];
            if let TunnResult::WriteToTunnelV4(packet, _) =
                self.probe.tunn.decapsulate(None, datagram, &mut opened)
                && let Some((_, payload)) = packet::udp_payload(packet)
            {
                note(payload);
            }
        }
    }

    /// What the sinks let through: is it what was sent?
    fn look_at_sample(&mut self) {
        let Self { peers, server, batch, sample, .. } = self;
        loop {
            batch.clear();
            let received = server.receive(batch);
            for (_, payload, _) in batch.packets() {
                sample.judge(payload, packet::index_of(payload).is_some_and(|index| index < peers.len()));
            }
            if received != Received::Full {
                break;
            }
        }
        let mut opened = vec![0; 65_536];
        for peer in peers {
            loop {
                batch.clear();
                let received = peer.socket.receive(batch);
                for (_, datagram, _) in batch.packets() {
                    match peer.tunn.decapsulate(None, datagram, &mut opened) {
                        TunnResult::WriteToTunnelV4(packet, _) => match packet::udp_payload(packet) {
                            Some((from, payload)) => {
                                let mine = packet::index_of(payload) == Some(peer.index);
                                sample.judge(payload, mine && *from.ip() == SERVER);
                            }
                            None => sample.judge(&[], false),
                        },
                        // Keepalives.
                        TunnResult::Done | TunnResult::WriteToNetwork(_) => {}
                        _ => sample.judge(&[], false),
                    }
                }
                if received != Received::Full {
                    break;
                }
            }
        }
    }

    /// The overload rate, and the highest rate at which no more than [`TOLERATED_LOSS`] is lost: tried out in runs of
    /// `length`, a step up or down first and then by halves.
    pub fn search(&mut self, load: Load, length: Duration) -> Result<Found, Failure> {
        let flat_out = length * 5 / 4;
        let goes_up = load.direction == Direction::Up;
        let mut sealed = goes_up && std::env::var_os("PRESEAL").is_some();
        let mut overload = Outcome::default();
        if !sealed {
            overload = self.run(load, Offer::plain(None, flat_out))?;
        }
        if overload.loss <= TOLERATED_LOSS && goes_up {
            // The DUT opens faster than this seals and sends. Twice as many it will send at most if it need not seal.
            let pps = if sealed { LIMITLESS_PPS } else { overload.offered_pps * 2.0 };
            sealed = true;
            overload = self.run(load, Offer { sealed: Some(pps), ..Offer::plain(None, flat_out) })?;
        }
        if overload.loss <= TOLERATED_LOSS {
            return Ok(Found { lossless: overload.clone(), overload, sealed, generator_bound: true });
        }
        let trial = |rate| Offer { sealed: sealed.then_some(rate), ..Offer::plain(Some(rate), length) };
        let (mut passed, mut failed) = (None::<Outcome>, None::<f64>);
        let mut rate = overload.steady_pps * 0.97;
        for _ in 0..8 {
            let mut outcome = self.run(load, trial(rate))?;
            if outcome.loss > TOLERATED_LOSS && outcome.loss < 0.03 {
                // Something else may have wanted the processor.
                outcome = self.run(load, trial(rate))?;
            }
            match outcome.loss <= TOLERATED_LOSS {
                true => passed = Some(outcome),
                false => failed = Some(rate),
            }
            let low = passed.as_ref().map(|passed| passed.delivered_pps);
            rate = match (low, failed) {
                (Some(low), Some(high)) if (high - low) / high < 0.05 => break,
                (Some(low), Some(high)) => (low + high) / 2.0,
                (Some(low), None) if low >= overload.offered_pps * 0.97 => break,
                (Some(low), None) => (low * 1.2).min(overload.offered_pps),
                (None, Some(high)) => high * 0.75,
                (None, None) => break,
            };
        }
        Ok(Found { lossless: passed.unwrap_or_default(), overload, sealed, generator_bound: false })
    }
}

/// What a search found.
pub struct Found {
    /// All zero if there is no such rate worth the name.
    pub lossless: Outcome,
    pub overload: Outcome,
    /// What was sent had been sealed beforehand.
    pub sealed: bool,
    /// The generator could not offer more than the DUT took.
    pub generator_bound: bool,
}

impl Sample {
    fn judge(&mut self, payload: &[u8], known: bool) {
        let right = known
            && packet::index_of(payload)
                .is_some_and(|index| payload.len() < 12 || packet::payload(index, payload.len()) == payload);
        self.seen += 1;
        self.wrong += u64::from(!right);
    }
}

/// A peer that calls as any stock client does: once, and again after 5 s, then with the cookie it was given.
pub struct Newcomer {
    peer: Peer,
    begun: Option<Instant>,
    next_tick: Option<Instant>,
    pub admitted_after: Option<Duration>,
}

impl Newcomer {
    /// As often as boringtun's device does.
    const TICK: Duration = Duration::from_millis(100);
}

impl Company for Newcomer {
    fn turn(&mut self, now: Instant) -> bool {
        let Some(begun) = self.begun else {
            self.begun = Some(now);
            self.next_tick = Some(now + Self::TICK);
            self.peer.initiate();
            return false;
        };
        if self.next_tick.is_some_and(|tick| now >= tick) {
            self.next_tick = Some(now + Self::TICK);
            let mut room = [0; SEAL_ROOM];
            if let TunnResult::WriteToNetwork(datagram) = self.peer.tunn.update_timers(&mut room) {
                send_to_pop(&self.peer.socket, datagram);
            }
        }
        if self.admitted_after.is_none() && self.peer.hear_handshake() == Answer::Established {
            self.admitted_after = Some(now - begun);
        }
        self.admitted_after.is_some()
    }
}

#[derive(PartialEq, Eq)]
enum Answer {
    None,
    Cookie,
    Established,
}

impl Peer {
    fn new(index: usize, port: u16, pop: &PublicKey) -> Result<Peer, Failure> {
        let tunn = Tunn::new(peer_key(index), *pop, None, None, index as u32, None);
        Ok(Peer { index, tunn, socket: bind(outer_address(index), port)?, translated: None })
    }

    fn initiate(&mut self) {
        let mut room = [0; SEAL_ROOM];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.format_handshake_initiation(&mut room, true) {
            send_to_pop(&self.socket, datagram);
        }
    }

    fn hear_handshake(&mut self) -> Answer {
        let (mut datagram, mut room) = ([0; 2048], [0; 2048]);
        let Ok((len, _)) = rustix::net::recv(&self.socket, &mut datagram[..], RecvFlags::DONTWAIT) else {
            return Answer::None;
        };
        match self.tunn.decapsulate(None, &datagram[..len], &mut room) {
            // The first keepalive, which confirms the session.
            TunnResult::WriteToNetwork(keepalive) => {
                send_to_pop(&self.socket, keepalive);
                Answer::Established
            }
            TunnResult::Done if datagram[0] == 3 => Answer::Cookie,
            _ => Answer::None,
        }
    }

    fn packet(&self, port: u16, bytes: usize) -> Vec<u8> {
        let to = SocketAddrV4::new(SERVER, port);
        packet::udp(inner(self.index), to, &packet::payload(self.index, bytes - HEADERS))
    }

    fn send(&mut self, packet: &[u8]) {
        let mut room = vec![0; packet.len() + SEAL_ROOM];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut room) {
            send_to_pop(&self.socket, datagram);
        }
    }
}

fn inner(index: usize) -> SocketAddrV4 {
    SocketAddrV4::new(inner_address(index), 5000)
}

fn bind(address: std::net::Ipv4Addr, port: u16) -> Result<TransportSocket, Failure> {
    let listen = Listen { address: SocketAddr::from((address, port)), interface: None };
    Ok(TransportSocket::bind(TransportId(0), &listen)?)
}

fn send_to_pop(socket: &TransportSocket, datagram: &[u8]) -> bool {
    let to = SocketAddrV4::new(POP, POP_PORT);
    rustix::net::sendto(socket, datagram, SendFlags::DONTWAIT, &to).is_ok()
}

/// Says when the next burst is due.
struct Pace {
    /// Between two bursts; `None`: there is always one due.
    every: Option<Duration>,
    due: Instant,
}

impl Pace {
    /// 1 ms: what a generator that was held up may catch up with. More of it at once would be another load, and what is
    /// lost of that the generator's fault.
    const BACKLOG: Duration = Duration::from_millis(1);

    fn new(pps: Option<f64>, burst: usize, begin: Instant) -> Pace {
        // At 1 a second nothing is measured, but nothing divided by zero either.
        let every = pps.map(|pps| Duration::from_secs_f64(burst as f64 / pps.max(1.0)));
        Pace { every, due: begin }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(every) = self.every else { return true };
        if now < self.due {
            return false;
        }
        self.due = (self.due + every).max(now.checked_sub(Self::BACKLOG).unwrap_or(now));
        true
    }
}

/// What is sent over and over, and the room to seal it in.
struct Bursts {
    load: Load,
    /// By peer.
    packets: Vec<Vec<u8>>,
    /// Of the next segment, by peer.
    sequences: Vec<u32>,
    payloads: Vec<Vec<u8>>,
    room: Vec<u8>,
    /// Bursts sealed beforehand, in the order of their turns, and how many bytes of them have been sent.
    sealed: Option<(Vec<u8>, usize)>,
}

impl Bursts {
    fn new(generator: &Generator<'_>, load: Load) -> Bursts {
        let packet = |peer: &Peer| match load.upper {
            Upper::Udp => peer.packet(LOAD_PORT, load.bytes),
            Upper::Tcp => {
                let payload = packet::payload(peer.index, load.bytes - TCP_HEADERS);
                packet::tcp(inner(peer.index), SocketAddrV4::new(SERVER, LOAD_PORT), &payload)
            }
        };
        let packets = generator.peers.iter().map(packet).collect();
        let sequences = vec![0; generator.peers.len()];
        let payloads = generator.peers.iter().map(|peer| packet::payload(peer.index, load.bytes - HEADERS));
        let room = vec![0; load.burst * load.sealed_bytes() + SEAL_ROOM];
        Bursts { load, packets, sequences, payloads: payloads.collect(), room, sealed: None }
    }

    /// Seals what a run at that rate will need, or [`SEALED_BYTES`] of it.
    fn seal(&mut self, generator: &mut Generator<'_>, pps: f64, length: Duration) {
        let burst_bytes = self.load.burst * self.load.sealed_bytes();
        let wanted = (pps * length.as_secs_f64() * 1.02) as usize / self.load.burst + 1;
        let bursts = wanted.min(SEALED_BYTES / burst_bytes);
        let mut store = std::mem::take(&mut generator.store);
        store.clear();
        let peers = generator.peers.len();
        for turn in 0..bursts {
            self.seal_burst(&mut generator.peers[turn % peers]);
            store.extend_from_slice(&self.room[..burst_bytes]);
        }
        self.sealed = Some((store, 0));
    }

    fn seal_burst(&mut self, peer: &mut Peer) {
        let sealed = self.load.sealed_bytes();
        let packet = &mut self.packets[peer.index];
        for slot in 0..self.load.burst {
            if self.load.upper == Upper::Tcp {
                let sequence = &mut self.sequences[peer.index];
                packet::set_sequence(packet, *sequence);
                *sequence = sequence.wrapping_add((self.load.bytes - TCP_HEADERS) as u32);
            }
            // Its slack is the next one's room.
            let room = &mut self.room[slot * sealed..][..sealed.max(SEAL_ROOM)];
            peer.tunn.encapsulate(packet, room);
        }
    }

    /// How many packets of a burst the kernel took; `None` if what was sealed beforehand is used up.
    fn send_up(&mut self, peer: &mut Peer) -> Option<u64> {
        let (sealed, burst) = (self.load.sealed_bytes(), self.load.burst);
        if self.sealed.is_none() {
            self.seal_burst(peer);
        }
        let bytes = match &mut self.sealed {
            Some((store, used)) => {
                let begin = *used;
                *used += burst * sealed;
                store.get(begin..*used)?
            }
            None => &self.room[..burst * sealed],
        };
        if burst == 1 {
            return Some(u64::from(send_to_pop(&peer.socket, bytes)));
        }
        let to = SocketAddr::from((POP, POP_PORT));
        let mut lost = 0;
        peer.socket
            .send(bytes.chunks_exact(sealed).map(|datagram| (to, 0, datagram)), |_, count| lost += count);
        Some(burst as u64 - lost)
    }

    fn send_down(&mut self, server: &mut TransportSocket, peer: &Peer) -> u64 {
        let Some(to) = peer.translated else { return 0 };
        let payload = &self.payloads[peer.index];
        if self.load.burst == 1 {
            return u64::from(rustix::net::sendto(&*server, payload, SendFlags::DONTWAIT, &to).is_ok());
        }
        let mut lost = 0;
        let datagrams = std::iter::repeat_n((to, 0, payload.as_slice()), self.load.burst);
        server.send(datagrams, |_, count| lost += count);
        self.load.burst as u64 - lost
    }
}
