//! Captures as a box makes them: a tape for each, which every worker's thread adds to after a batch, if it is free at that moment.
//!
//! No thread that forwards waits for anybody: what it cannot add it keeps, and what it has no room for it counts. Memory is
//! promised before a capture begins, so that what workers give always fits.

use crate::config::prefix;
use crate::control::captures::{
    CaptureAsked, CapturePort, CaptureRefusal, CaptureRow, CaptureSide, LEAST_SNAP_LENGTH, PACKETS, SECONDS,
    SNAP_LENGTH,
};
use crate::export::pcapng::{self, Capture, Interface, Packet};
use crate::io::clock::Clock;
use crate::model::{Now, Protocol, TenantId};
use crate::pipeline::{CaptureInterface, CaptureSpec, CapturedPacket, PacketFilter, Worker};
use crate::tables::Generation;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// 16 MiB for one, 64 MiB for all: a small box has a gigabyte.
const MAX_BYTES: u64 = 16 << 20;
const MAX_BYTES_OF_ALL: u64 = 64 << 20;
/// What a packet takes beside its bytes.
const BESIDE: u64 = 96;

/// 16: each is looked at for every packet while it runs.
const MAX_CAPTURES: usize = 16;

/// All captures of the box.
#[derive(Default)]
pub(super) struct Tapes {
    /// Changes whenever the list does.
    version: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    last: u64,
    tapes: BTreeMap<u64, Arc<Tape>>,
}

/// One capture.
struct Tape {
    spec: CaptureSpec,
    asked: CaptureAsked,
    max_packets: usize,
    began_unix_nanos: u64,
    until_unix_nanos: u64,
    is_over: AtomicBool,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    packets: Vec<Arc<CapturedPacket>>,
    bytes: u64,
    lost: BTreeMap<CaptureInterface, u64>,
}

impl Tape {
    fn goes_on(&self, now_unix_nanos: u64) -> bool {
        !self.is_over.load(Ordering::Relaxed) && now_unix_nanos < self.until_unix_nanos
    }

    /// What it may take of memory.
    fn promised(&self) -> u64 {
        self.max_packets as u64 * (self.spec.snap as u64 + BESIDE)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, now_unix_nanos: u64) -> CaptureRow {
        let content = self.content();
        CaptureRow {
            capture: self.spec.number,
            asked: self.asked.clone(),
            began_unix_ms: self.began_unix_nanos / 1_000_000,
            is_running: self.goes_on(now_unix_nanos),
            captured_packets: content.packets.len() as u64,
            captured_bytes: content.bytes,
            lost_packets: content.lost.values().sum(),
        }
    }
}

impl Tapes {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// A worker's part in them.
pub(super) struct Taping {
    tapes: Arc<Tapes>,
    version: u64,
    running: Vec<Arc<Tape>>,
}

impl Taping {
    pub(super) fn new(tapes: &Arc<Tapes>) -> Taping {
        Taping { tapes: Arc::clone(tapes), version: 0, running: Vec::new() }
    }

    /// Has `worker` capture what is to be, before it takes a batch.
    #[inline]
    pub(super) fn prepare(&mut self, worker: &mut Worker, now: Now) {
        if self.version != self.tapes.version.load(Ordering::Acquire) || !self.running.is_empty() {
            self.look(worker, now);
        }
    }

    #[cold]
    fn look(&mut self, worker: &mut Worker, now: Now) {
        let version = self.tapes.version.load(Ordering::Acquire);
        let before = self.running.len();
        let is_new = version != self.version;
        // Where somebody has the list at this moment, there is another batch.
        if is_new && let Ok(book) = self.tapes.book.try_lock() {
            self.running = book.tapes.values().cloned().collect();
            self.version = version;
        }
        self.running.retain(|tape| tape.goes_on(now.unix_nanos));
        if is_new || self.running.len() != before {
            worker.capture(self.running.iter().map(|tape| tape.spec.clone()).collect());
        }
    }

    /// Adds what `worker` has captured.
    #[inline]
    pub(super) fn collect(&self, worker: &mut Worker) {
        for tape in &self.running {
            let mut content = match tape.content.try_lock() {
                Ok(content) => content,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => continue,
            };
            for packet in worker.take_captured(tape.spec.number) {
                if content.packets.len() >= tape.max_packets {
                    tape.is_over.store(true, Ordering::Relaxed);
                    break;
                }
                content.bytes += packet.bytes.len() as u64;
                if packet.lost > 0 {
                    *content.lost.entry(packet.interface).or_default() += u64::from(packet.lost);
                }
                content.packets.push(Arc::new(packet));
            }
            if content.packets.len() >= tape.max_packets {
                tape.is_over.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Whoever asks.
pub(super) struct Captures {
    pub(super) tapes: Arc<Tapes>,
    pub(super) current: Arc<ArcSwap<Generation>>,
    pub(super) site: String,
    pub(super) clock: Clock,
}

impl Captures {
    fn tape(&self, capture: u64) -> Option<Arc<Tape>> {
        self.tapes.book().tapes.get(&capture).cloned()
    }

    fn now(&self) -> u64 {
        self.clock.now().unix_nanos
    }

    fn tenant(&self, name: &str) -> Option<TenantId> {
        let generation = self.current.load();
        let mut tenants = generation.tenants.iter().map(|(id, _)| id);
        tenants.find(|id| generation.names.tenant(*id) == name)
    }

    fn interface(&self, interface: CaptureInterface) -> String {
        let generation = self.current.load();
        match interface {
            CaptureInterface::Path(path) => generation.names.site_and_path(path),
            CaptureInterface::Device(device) => {
                let name = generation.devices.get(device).map(|spec| spec.name.clone());
                name.unwrap_or_else(|| format!("device-{}", device.0))
            }
            CaptureInterface::Transport(transport) => generation.names.transport(transport).to_owned(),
        }
    }
}

impl CapturePort for Captures {
    fn begin(&self, asked: CaptureAsked) -> Result<CaptureRow, CaptureRefusal> {
        let (asked, filter) = complete(asked)?;
        let tenant = self.tenant(&asked.tenant);
        let tenant = tenant.ok_or_else(|| CaptureRefusal::NoTenant(asked.tenant.clone()))?;
        let began_unix_nanos = self.now();
        let seconds = u64::from(asked.seconds.unwrap_or(SECONDS.0));
        let mut book = self.tapes.book();
        book.last += 1;
        let tape = Tape {
            spec: CaptureSpec {
                number: book.last,
                tenant,
                is_outer: asked.side == CaptureSide::Outer,
                filter,
                snap: asked.snap_length.unwrap_or(SNAP_LENGTH.0) as usize,
            },
            max_packets: asked.packets.unwrap_or(PACKETS.0) as usize,
            asked,
            began_unix_nanos,
            until_unix_nanos: began_unix_nanos + seconds * 1_000_000_000,
            is_over: AtomicBool::new(false),
            content: Mutex::default(),
        };
        if tape.promised() > MAX_BYTES {
            let detail = format!(
                "packets: so many of snap-length take {} bytes, and a capture may take {MAX_BYTES}",
                tape.promised()
            );
            return Err(CaptureRefusal::Wrong("packets", detail));
        }
        let promised: u64 = book.tapes.values().map(|tape| tape.promised()).sum();
        if book.tapes.len() >= MAX_CAPTURES || promised + tape.promised() > MAX_BYTES_OF_ALL {
            let detail = "the box has no room for another capture: delete one that is not needed any more";
            return Err(CaptureRefusal::Full(detail.to_owned()));
        }
        let row = tape.row(began_unix_nanos);
        book.tapes.insert(tape.spec.number, Arc::new(tape));
        drop(book);
        self.tapes.changed();
        Ok(row)
    }

    fn list(&self) -> Vec<CaptureRow> {
        let tapes: Vec<Arc<Tape>> = self.tapes.book().tapes.values().rev().cloned().collect();
        let now = self.now();
        tapes.iter().map(|tape| tape.row(now)).collect()
    }

    fn file(&self, capture: u64) -> Option<(CaptureRow, Vec<u8>)> {
        let tape = self.tape(capture)?;
        let now = self.now();
        let (mut packets, lost) = {
            let content = tape.content();
            (content.packets.clone(), content.lost.clone())
        };
        // Workers have added theirs one after the other.
        packets.sort_by_key(|packet| packet.unix_nanos);
        let mut interfaces: BTreeMap<CaptureInterface, (u32, Interface)> = BTreeMap::new();
        for packet in &packets {
            let next = interfaces.len() as u32;
            let (_, interface) = interfaces.entry(packet.interface).or_insert_with(|| {
                let lost = lost.get(&packet.interface).copied().unwrap_or_default();
                let name = self.interface(packet.interface);
                (next, Interface { name, filter: describe(&tape.asked), received: lost, lost })
            });
            interface.received += 1;
        }
        let numbers: BTreeMap<CaptureInterface, u32> =
            interfaces.iter().map(|(interface, (number, _))| (*interface, *number)).collect();
        let mut in_order: Vec<(u32, Interface)> = interfaces.into_values().collect();
        in_order.sort_by_key(|(number, _)| *number);
        let in_order: Vec<Interface> = in_order.into_iter().map(|(_, interface)| interface).collect();
        let last = packets.last().map_or(tape.began_unix_nanos, |packet| packet.unix_nanos);
        let capture = Capture {
            application: concat!("popgate ", env!("CARGO_PKG_VERSION")).to_owned(),
            comment: format!("{} packets of {} at {}", tape.asked.side, tape.asked.tenant, self.site),
            snap: tape.spec.snap as u32,
            began_unix_nanos: tape.began_unix_nanos,
            ended_unix_nanos: if tape.goes_on(now) { now } else { last.max(now.min(tape.until_unix_nanos)) },
            interfaces: &in_order,
        };
        let rows = packets.iter().map(|packet| Packet {
            interface: numbers.get(&packet.interface).copied().unwrap_or_default(),
            unix_nanos: packet.unix_nanos,
            is_outbound: packet.is_outbound,
            length: packet.length,
            bytes: &packet.bytes,
            lost: packet.lost,
        });
        let file = pcapng::file(&capture, rows);
        Some((tape.row(now), file))
    }

    fn forget(&self, capture: u64) -> bool {
        let gone = self.tapes.book().tapes.remove(&capture);
        if let Some(tape) = &gone {
            tape.is_over.store(true, Ordering::Relaxed);
            self.tapes.changed();
        }
        gone.is_some()
    }
}

/// With what was left out, and what it asks of packets.
fn complete(asked: CaptureAsked) -> Result<(CaptureAsked, PacketFilter), CaptureRefusal> {
    let within = |name: &'static str, given: Option<u32>, least: u32, (default, most): (u32, u32)| {
        let number = given.unwrap_or(default);
        if (least..=most).contains(&number) {
            return Ok(Some(number));
        }
        Err(CaptureRefusal::Wrong(name, format!("{name}: {number} is out of range; {least} to {most}")))
    };
    let wrong = |name: &'static str, why: String| CaptureRefusal::Wrong(name, format!("{name}: {why}"));
    let packets = within("packets", asked.packets, 1, PACKETS)?;
    let seconds = within("seconds", asked.seconds, 1, SECONDS)?;
    let snap_length = within("snap-length", asked.snap_length, LEAST_SNAP_LENGTH, SNAP_LENGTH)?;
    let address = asked.address.as_deref().map(|text| prefix(text).map_err(|why| wrong("address", why)));
    let protocol = asked.protocol.as_deref().map(|text| {
        let known = Protocol::by_name(text);
        known.ok_or_else(|| wrong("protocol", format!("{text:?} is not tcp, udp, icmp, icmpv6 or a number")))
    });
    let filter =
        PacketFilter { address: address.transpose()?, port: asked.port, protocol: protocol.transpose()? };
    Ok((CaptureAsked { packets, seconds, snap_length, ..asked }, filter))
}

/// What it asks of packets, for people.
fn describe(asked: &CaptureAsked) -> String {
    let parts = [
        asked.protocol.clone(),
        asked.address.as_ref().map(|address| format!("address {address}")),
        asked.port.map(|port| format!("port {port}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}
