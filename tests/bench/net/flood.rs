//! The flood: handshake initiations with a valid MAC from random addresses, while one peer sends at 80 % of what it may,
//! and another wants to be let in.
//!
//! An initiation of the flood is a real one by a client that the DUT does not know: it costs the DUT all that an
//! initiation can cost, up to finding that out. They are made beforehand, a few thousand, and sent over and over: a DUT
//! that is busy asks for a cookie before it looks inside, so that it cannot notice. They leave by a raw socket with
//! random sources in 172.18.0.0/16, where cookies go and are dropped.
//!
//! Flood and load are one thread's, so that they take turns by the packet and not by the scheduler's slice; the load is
//! sealed beforehand to leave the flood enough of the processor.
//!
//! On two cores the generator has one, and the DUT's handshakes share the other with its forwarding. What a core of their
//! own is worth to them, "flood, both cores" shows as far as the generator leaves it to them.

use super::Failure;
use super::dut::{Pop, peer_key};
use super::load::{Company, Direction, Generator, Load, Newcomer, Offer, Upper};
use super::report::Figures;
use super::rig::{POP, POP_PORT};
use boringtun::noise::{Tunn, TunnResult};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

pub const LOAD: Load = Load { upper: Upper::Udp, direction: Direction::Up, bytes: 1_420, burst: 44 };
/// The one that sends, the one for probes, and the newcomer.
pub const PEERS: usize = 3;
/// Asked for; what was reached stands in the row.
const PER_SECOND: f64 = 100_000.0;
/// Different initiations.
const DIFFERENT: usize = 4_096;
/// Three tries of a stock client's: it repeats an initiation after 5 s.
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(12);
/// IPv4 and UDP.
const HEADERS: usize = 28;

/// Throughput before and under the flood; then, with the load at a quarter, how long it takes to be let in.
pub fn measure(pop: &Pop, trial: Duration) -> Result<Figures, Failure> {
    let mut generator = Generator::new(pop, 1)?;
    let found = generator.search(LOAD, trial)?;
    let lossless = found.lossless.delivered_pps;
    let offer = |share: f64, length| {
        let pps = Some(lossless * share);
        Offer { sealed: pps, ..Offer::plain(pps, length) }
    };
    let mut flood = Flood::new(pop)?;
    let before = generator.run(LOAD, offer(0.8, trial * 2))?;
    let under = generator.run(LOAD, Offer { company: Some(&mut flood), ..offer(0.8, trial * 2) })?;
    let flood_per_s = flood.per_second();
    (flood.begun, flood.sent) = (None, 0);
    let mut newcomer = generator.newcomer()?;
    let mut both = Besieged { flood: &mut flood, newcomer: &mut newcomer };
    let quarter = Offer { sealed: None, company: Some(&mut both), ..offer(0.25, NEWCOMER_PATIENCE) };
    generator.run(LOAD, quarter)?;
    let mut figures = Figures::from([
        ("lossless_kpps", lossless / 1e3),
        ("overload_kpps", found.overload.steady_pps / 1e3),
        ("before_kpps", before.delivered_pps / 1e3),
        ("flooded_kpps", under.delivered_pps / 1e3),
        ("offered_kpps", under.offered_pps / 1e3),
        // Of what was offered: the generator, too, has less of its processor for the load.
        ("throughput_lost", under.loss - before.loss),
        ("flood_per_s", flood_per_s),
        ("rss_mb", pop.rig.processes("pop")?.rss_mb()),
    ]);
    if let Some(after) = newcomer.admitted_after {
        figures.insert("newcomer_s", after.as_secs_f64());
    }
    Ok(figures)
}

struct Flood {
    socket: OwnedFd,
    /// With headers, in which only the source is left to be filled in.
    packets: Vec<Vec<u8>>,
    rng: StdRng,
    begun: Option<Instant>,
    last: Option<Instant>,
    sent: u64,
}

impl Flood {
    fn new(pop: &Pop) -> Result<Flood, Failure> {
        let raw = || {
            // What is sent by it has its IP header (raw(7)).
            rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
        };
        let initiation = |index: usize| {
            // Keys of nobody that the DUT knows.
            let mut tunn =
                Tunn::new(peer_key((1 << 32) + index), pop.public_key, None, None, index as u32, None);
            let mut room = [0; 148];
            match tunn.format_handshake_initiation(&mut room, true) {
                TunnResult::WriteToNetwork(initiation) => with_headers(initiation),
                _ => Vec::new(),
            }
        };
        Ok(Flood {
            socket: pop.rig.lab.enter("branch", raw)??,
            packets: (0..DIFFERENT).map(initiation).collect(),
            rng: StdRng::seed_from_u64(7),
            begun: None,
            last: None,
            sent: 0,
        })
    }

    fn per_second(&self) -> f64 {
        match (self.begun, self.last) {
            (Some(begun), Some(last)) if last > begun => self.sent as f64 / (last - begun).as_secs_f64(),
            _ => 0.0,
        }
    }
}

impl Company for Flood {
    fn turn(&mut self, now: Instant) -> bool {
        let begun = *self.begun.get_or_insert(now);
        // 64: the load has its turn in between, however far behind this is.
        for _ in 0..64 {
            if self.sent as f64 > (now - begun).as_secs_f64() * PER_SECOND {
                break;
            }
            let at = self.sent as usize % self.packets.len();
            let packet = &mut self.packets[at];
            let chance: u32 = self.rng.random();
            packet[12..16].copy_from_slice(&[172, 18, chance as u8, (chance >> 8) as u8]);
            packet[20..22].copy_from_slice(&((chance >> 16) as u16 | 1).to_be_bytes());
            let to = SocketAddrV4::new(POP, POP_PORT);
            // One that the kernel does not take is one that was not sent.
            self.sent +=
                u64::from(rustix::net::sendto(&self.socket, packet, SendFlags::DONTWAIT, &to).is_ok());
        }
        self.last = Some(now);
        false
    }
}

struct Besieged<'a> {
    flood: &'a mut Flood,
    newcomer: &'a mut Newcomer,
}

impl Company for Besieged<'_> {
    fn turn(&mut self, now: Instant) -> bool {
        self.flood.turn(now);
        self.newcomer.turn(now)
    }
}

/// The kernel fills in the length, the identification and the checksum of an IP header (raw(7)); UDP's may be left out.
fn with_headers(datagram: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; HEADERS];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 17;
    packet[16..20].copy_from_slice(&POP.octets());
    packet[22..24].copy_from_slice(&POP_PORT.to_be_bytes());
    packet[24..26].copy_from_slice(&(8 + datagram.len() as u16).to_be_bytes());
    packet.extend_from_slice(datagram);
    packet
}
