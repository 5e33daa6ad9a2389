//! Crossing: what one thread hands over to another.
//!
//! Each thread has a mailbox. Whoever has something for it puts all that a batch made for it in at once, under the
//! mailbox's lock; the owner takes all that is there out at once, by exchanging it for an empty parcel, and runs through it
//! in batches, as through anything else it receives. Two parcels a mailbox go back and forth, so that nothing is allocated
//! once they have grown to what is needed. A lock is held for as long as it takes to copy a batch, or to exchange two
//! pointers; waiting for it is short, and the price of it is paid once a batch. The order between two threads is kept.
//!
//! A mailbox is bounded, and what finds no room is dropped and counted by the sender, which never waits. An owner that may
//! be asleep has said so in its mailbox, and is woken by the first who finds that there; one that is at work is not, since
//! it looks before it sleeps.

use super::wake::Wake;
use crate::wire::{Batch, Handover, Ingress, Outbound, SLOT_BYTES};
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// 2 MiB wait at most: what a worker takes a millisecond or two to send on. More would be delay, not throughput; less would
/// not do for the super-packets of two full batches.
const MAILBOX_BYTES: usize = 2 << 20;
/// 4,096 packets, however small: as long again, and the parcels' lists stay small.
const MAILBOX_PACKETS: usize = 4096;

/// A thread's place among those that hand packets to each other: its own mailbox, and the way to the others'.
#[derive(Debug)]
pub struct Seat {
    own: usize,
    mailboxes: Arc<[Mailbox]>,
    /// What has been taken out of the mailbox and not been run through yet.
    in_hand: Parcel,
    /// How far that has been run through: packets, bytes.
    done: (usize, usize),
}

/// Packets on their way, their bytes one behind the other.
#[derive(Debug, Default)]
struct Parcel {
    packets: Vec<(Handover, usize)>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Mailbox {
    content: Mutex<Content>,
    /// Something is in it: a look that costs nothing. Written under the lock.
    full: AtomicBool,
    wake: Arc<Wake>,
}

#[derive(Debug, Default)]
struct Content {
    parcel: Parcel,
    /// The owner has looked, found nothing, and may be asleep.
    owner_sleeps: bool,
}

impl Seat {
    /// Seats for `count` threads, numbered from 0.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn among(count: usize) -> io::Result<Vec<Seat>> {
        let mailbox = |_| {
            let (content, full) = (Mutex::default(), AtomicBool::new(false));
            Ok(Mailbox { content, full, wake: Arc::new(Wake::new()?) })
        };
        let mailboxes: Arc<[Mailbox]> = (0..count).map(mailbox).collect::<io::Result<_>>()?;
        let seat =
            |own| Seat { own, mailboxes: Arc::clone(&mailboxes), in_hand: Parcel::default(), done: (0, 0) };
        Ok((0..count).map(seat).collect())
    }

    /// The seat of a thread that has nobody to hand anything to.
    ///
    /// # Errors
    /// Those of [`Seat::among`].
    pub fn alone() -> io::Result<Seat> {
        let mut seats = Seat::among(1)?;
        // Just made.
        Ok(seats.pop().expect("one seat"))
    }

    pub(super) fn wake(&self) -> &Arc<Wake> {
        &self.mailboxes[self.own].wake
    }

    /// Puts what `out` has for others into their mailboxes; tells `dropped` of each packet that found no room, and whose
    /// mailbox it was.
    pub(super) fn hand_over(&self, out: &Outbound, mut dropped: impl FnMut(u16, Handover, &[u8])) {
        // One bit a receiver: 64 workers and the entrance.
        let mut receivers: u128 = 0;
        for (to, what, packet) in out.handovers() {
            if usize::from(to) < self.mailboxes.len() {
                receivers |= 1 << to;
            } else {
                dropped(to, what, packet);
            }
        }
        while receivers != 0 {
            let to = receivers.trailing_zeros() as u16;
            receivers &= receivers - 1;
            let mine = out.handovers().filter(|(receiver, _, _)| *receiver == to);
            self.mailboxes[usize::from(to)].put(mine, &mut dropped);
        }
    }

    /// Whether [`Seat::receive`] would find something.
    pub(super) fn has_mail(&self) -> bool {
        !self.in_hand.packets.is_empty() || self.mailboxes[self.own].full.load(Ordering::Acquire)
    }

    /// Moves packets into the free slots of `batch`, at most `portion` bytes and a packet; true if there may be more.
    pub(super) fn receive(&mut self, batch: &mut Batch, portion: usize) -> bool {
        if self.in_hand.packets.is_empty() {
            self.mailboxes[self.own].take(&mut self.in_hand);
        }
        let (mut packet, mut at) = self.done;
        let end = at + portion;
        while let Some((what, len)) = self.in_hand.packets.get(packet) {
            if at >= end || !batch.push(Ingress::Worker(*what), &self.in_hand.bytes[at..at + len]) {
                self.done = (packet, at);
                return true;
            }
            (packet, at) = (packet + 1, at + len);
        }
        self.in_hand.clear();
        self.done = (0, 0);
        self.has_mail()
    }

    /// Says that the thread is about to sleep; false if it must not, since there is something to do.
    pub(super) fn may_sleep(&self) -> bool {
        let mut content = self.mailboxes[self.own].lock();
        content.owner_sleeps = content.parcel.packets.is_empty() && self.in_hand.packets.is_empty();
        content.owner_sleeps
    }
}

impl Mailbox {
    fn put<'a>(
        &self,
        packets: impl Iterator<Item = (u16, Handover, &'a [u8])>,
        dropped: &mut impl FnMut(u16, Handover, &[u8]),
    ) {
        let mut content = self.lock();
        for (to, what, packet) in packets {
            if !content.parcel.put(what, packet) {
                dropped(to, what, packet);
            }
        }
        self.full.store(true, Ordering::Release);
        let wake = mem::take(&mut content.owner_sleeps);
        drop(content);
        if wake {
            self.wake.wake();
        }
    }

    /// Exchanges what is in the mailbox for `empty`.
    fn take(&self, empty: &mut Parcel) {
        if self.full.load(Ordering::Acquire) {
            let mut content = self.lock();
            mem::swap(&mut content.parcel, empty);
            self.full.store(false, Ordering::Release);
        }
    }

    /// A thread that panicked left a list of packets, as whole as ever.
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parcel {
    fn put(&mut self, what: Handover, packet: &[u8]) -> bool {
        // One larger than a slot, which no packet is, would never get out again.
        let fits = self.packets.len() < MAILBOX_PACKETS
            && self.bytes.len() + packet.len() <= MAILBOX_BYTES
            && packet.len() <= SLOT_BYTES;
        if fits {
            self.packets.push((what, packet.len()));
            self.bytes.extend_from_slice(packet);
        }
        fits
    }

    fn clear(&mut self) {
        self.packets.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClassId, PathId};

    const BATCH: usize = 64;

    fn leaving(path: u32) -> Handover {
        Handover::Leaving { path: PathId(path), class: ClassId::NONE, mtu: 1420, segment: 0 }
    }

    /// Hands packets of these lengths over; how many found no room.
    fn hand_over(seat: &Seat, to: u16, packets: impl IntoIterator<Item = (u32, usize)>) -> usize {
        let mut out = Outbound::default();
        for (path, len) in packets {
            out.hand_over(to, leaving(path), &vec![path as u8; len]);
        }
        let mut dropped = 0;
        seat.hand_over(&out, |receiver, _, _| {
            assert_eq!(receiver, to);
            dropped += 1;
        });
        dropped
    }

    fn receive_all(seat: &mut Seat) -> Vec<(u32, usize)> {
        let (mut batch, mut got) = (Batch::with_slots(BATCH), Vec::new());
        loop {
            let more = seat.receive(&mut batch, usize::MAX >> 1);
            for (ingress, packet, _) in batch.packets() {
                let Ingress::Worker(Handover::Leaving { path, .. }) = ingress else { panic!("{ingress:?}") };
                assert!(packet.iter().all(|byte| *byte == path.0 as u8));
                got.push((path.0, packet.len()));
            }
            batch.clear();
            if !more {
                return got;
            }
        }
    }

    fn pair() -> (Seat, Seat) {
        let mut seats = Seat::among(2).expect("seats").into_iter();
        (seats.next().expect("one"), seats.next().expect("another"))
    }

    #[test]
    fn packets_arrive_whole_and_in_order_over_many_batches() {
        let (from, mut to) = pair();
        assert_eq!(receive_all(&mut to), []);
        let packets: Vec<(u32, usize)> = (0..200).map(|i| (i, (i as usize * 37) % 1500)).collect();
        assert_eq!(hand_over(&from, 1, packets[..150].iter().copied()), 0);
        // A part is in hand when the rest comes.
        let mut batch = Batch::with_slots(BATCH);
        assert!(to.receive(&mut batch, usize::MAX >> 1));
        assert_eq!(hand_over(&from, 1, packets[150..].iter().copied()), 0);
        assert_eq!(receive_all(&mut to), packets[64..]);
        assert!(!to.has_mail());
    }

    #[test]
    fn a_portion_ends_a_batch() {
        let (from, mut to) = pair();
        hand_over(&from, 1, [(1, 60_000); 10]);
        let mut batch = Batch::with_slots(BATCH);
        assert!(to.receive(&mut batch, 100_000));
        assert_eq!(batch.packets().count(), 2, "the one that exceeds it is the last");
    }

    #[test]
    fn a_full_mailbox_drops_and_tells() {
        let (from, mut to) = pair();
        assert_eq!(hand_over(&from, 1, (0..5000).map(|i| (i, 1))), 5000 - MAILBOX_PACKETS);
        assert_eq!(hand_over(&from, 1, [(1, 1)]), 1);
        assert_eq!(receive_all(&mut to).len(), MAILBOX_PACKETS);
        let large = MAILBOX_BYTES / 65_000;
        assert_eq!(hand_over(&from, 1, (0..40).map(|i| (i, 65_000))), 40 - large);
        assert_eq!(receive_all(&mut to).len(), large);
        assert_eq!(hand_over(&from, 7, [(1, 10), (2, 10)]), 2, "nobody sits there");
    }

    #[test]
    fn only_an_owner_that_may_sleep_is_woken() {
        let (from, mut to) = pair();
        let woken = |seat: &Seat| seat.wake().clear();
        hand_over(&from, 1, [(1, 1)]);
        assert!(!woken(&to), "it is at work, and will look");
        assert!(!to.may_sleep(), "there is something");
        receive_all(&mut to);
        assert!(to.may_sleep());
        hand_over(&from, 1, [(2, 1)]);
        assert!(woken(&to));
        hand_over(&from, 1, [(3, 1)]);
        assert!(!woken(&to), "it has been woken");
        assert_eq!(receive_all(&mut to), [(2, 1), (3, 1)]);
    }

    #[test]
    fn between_two_threads_the_order_stays_and_nobody_sleeps_through_anything() {
        const PACKETS: u32 = 20_000;
        let mut seats = Seat::among(3).expect("seats");
        let mut receiver = seats.remove(0);
        std::thread::scope(|scope| {
            for seat in &seats {
                scope.spawn(move || {
                    for n in 0..PACKETS / 10 {
                        let first = ((seat.own as u32) << 24) + n * 10;
                        let mut to_send: Vec<(u32, usize)> = (0..10).map(|i| (first + i, 10)).collect();
                        while !to_send.is_empty() {
                            // Those dropped are the last: none of ours that comes later may overtake them.
                            let dropped = hand_over(seat, 0, to_send.iter().copied());
                            to_send.drain(..to_send.len() - dropped);
                            if dropped > 0 {
                                std::thread::yield_now();
                            }
                        }
                    }
                });
            }
            let mut next = [0; 3];
            while next[1] + next[2] < 2 * PACKETS {
                for (packet, _) in receive_all(&mut receiver) {
                    let (from, number) = ((packet >> 24) as usize, packet & 0xff_ffff);
                    assert_eq!(number, next[from], "from {from}");
                    next[from] += 1;
                }
                if next[1] + next[2] < 2 * PACKETS && receiver.may_sleep() {
                    assert!(receiver.wake().wait(), "asleep, and nobody wakes it");
                }
            }
        });
    }
}
