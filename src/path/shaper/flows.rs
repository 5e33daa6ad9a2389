//! The flows of one class that wait, each in a queue of its own (RFC 8290, FQ-CoDel): one that fills its queue makes itself wait
//! and not the others, and what sends little goes before what sends much.

use super::codel::{Codel, Head};
use super::queue::LARGEST;
use crate::model::Instant;
use crate::path::copies::inner_of;
use crate::wire;
use std::collections::VecDeque;
use std::time::Duration;

/// Places for flows; those whose hashes agree share one. More would be of use where a class has hundreds of flows that do
/// not end, which the line of a branch does not.
const PLACES: usize = 64;
/// What a flow sends in its turn (RFC 8290 section 5.2.4).
const QUANTUM: i64 = LARGEST as i64;
/// Packets that a place keeps room for when it is empty.
const KEPT: usize = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A class's packets that wait, by flow.
pub(super) struct Flows {
    places: Box<[Flow]>,
    /// Places with something in them, in the order of their turns: first those that have just begun.
    new: VecDeque<u8>,
    old: VecDeque<u8>,
    packets: usize,
    bytes: usize,
}

#[derive(Default)]
struct Flow {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    deficit: i64,
    codel: Codel,
    /// It stands in one of the lists.
    listed: bool,
}

struct Waiting {
    packet: Vec<u8>,
    came: Instant,
}

/// A packet that is let go, or lost, and how long it has waited.
pub(super) struct Popped {
    pub(super) packet: Vec<u8>,
    pub(super) wait: Duration,
    pub(super) fate: Fate,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Goes,
    /// It goes, with a mark (ECN).
    Marked,
    Lost,
}

impl Flows {
    pub(super) fn new() -> Flows {
        Flows {
            places: std::iter::repeat_with(Flow::default).take(PLACES).collect(),
            new: VecDeque::with_capacity(PLACES),
            old: VecDeque::with_capacity(PLACES),
            packets: 0,
            bytes: 0,
        }
    }

    pub(super) fn packets(&self) -> usize {
        self.packets
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, packet: Vec<u8>, seed: u64, now: Instant) {
        let place = place_of(&packet, seed);
        let flow = &mut self.places[usize::from(place)];
        flow.bytes += packet.len();
        self.bytes += packet.len();
        self.packets += 1;
        flow.waiting.push_back(Waiting { packet, came: now });
        if !flow.listed {
            flow.listed = true;
            flow.deficit = QUANTUM;
            self.new.push_back(place);
        }
    }

    /// Takes out the packet that has waited longest of the flow that takes most room (RFC 8290 section 4.1): its sender is to
    /// hear of it soonest.
    pub(super) fn displace(&mut self) -> Option<Vec<u8>> {
        let fattest = self.places.iter_mut().max_by_key(|flow| flow.bytes)?;
        let packet = fattest.waiting.pop_front()?.packet;
        fattest.bytes -= packet.len();
        self.bytes -= packet.len();
        self.packets -= 1;
        Some(packet)
    }

    /// The next packet: one that goes, or one that has waited too long, where a packet may wait for `target`.
    pub(super) fn pop(&mut self, target: Duration, now: Instant) -> Option<Popped> {
        loop {
            let (place, is_new) = match (self.new.front(), self.old.front()) {
                (Some(place), _) => (*place, true),
                (None, Some(place)) => (*place, false),
                (None, None) => return None,
            };
            let list = if is_new { &mut self.new } else { &mut self.old };
            let flow = &mut self.places[usize::from(place)];
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                list.pop_front();
                self.old.push_back(place);
                continue;
            }
            let Some(Waiting { mut packet, came }) = flow.waiting.pop_front() else {
                flow.codel.emptied();
                list.pop_front();
                // One that comes and goes must not stand before the others for ever (RFC 8290 section 4.2).
                if is_new && !self.old.is_empty() {
                    self.old.push_back(place);
                } else {
                    flow.listed = false;
                    flow.waiting.shrink_to(KEPT);
                }
                continue;
            };
            flow.bytes -= packet.len();
            self.bytes -= packet.len();
            self.packets -= 1;
            let wait = now.since(came);
            let head = Head { sojourn: wait, target, is_last: self.bytes <= LARGEST };
            let fate = match flow.codel.sheds(head, now) {
                false => Fate::Goes,
                true if wire::mark_congested(&mut packet) => {
                    flow.codel.marked();
                    Fate::Marked
                }
                true => Fate::Lost,
            };
            if fate != Fate::Lost {
                flow.deficit -= packet.len() as i64;
            }
            return Some(Popped { packet, wait, fate });
        }
    }
}

/// By addresses, protocol and ports, and by a seed that senders do not know. Fragments go by what all of a datagram's have.
fn place_of(packet: &[u8], seed: u64) -> u8 {
    let packet = inner_of(packet);
    let (addresses, protocol, ports_at) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
            let ports_at = usize::from(packet[0] & 0xf) * 4;
            (&packet[12..20], packet[9], (!is_fragment).then_some(ports_at))
        }
        Some(6) if packet.len() >= 40 => (&packet[8..40], packet[6], Some(40)),
        _ => (&[][..], 0, None),
    };
    let ports = ports_at.filter(|_| matches!(protocol, TCP | UDP)).and_then(|at| packet.get(at..at + 4));
    let words = addresses.chunks(4).chain(ports);
    let mixed = words.fold(seed ^ u64::from(protocol), |hash, word| {
        let word = word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        // Multiplied by 2^64 over the golden ratio, and the high bits brought down again (Knuth, volume 3, section 6.4).
        let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ hash >> 32
    });
    (mixed % PLACES as u64) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(5);

    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000 + ms * 1_000_000)
    }

    /// A UDP packet of a flow's; at its end, its number.
    fn packet(flow: u16, number: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        (packet[0], packet[9]) = (0x45, UDP);
        packet[20..22].copy_from_slice(&flow.to_be_bytes());
        packet[len - 1] = number;
        packet
    }

    fn flow_and_number(packet: &[u8]) -> (u16, u8) {
        (u16::from_be_bytes([packet[20], packet[21]]), packet[packet.len() - 1])
    }

    /// Two flows that have places of their own.
    fn two() -> (u16, u16) {
        let place = |flow: &u16| place_of(&packet(*flow, 0, 100), 7);
        let other = (2..).find(|flow| place(flow) != place(&1)).expect("sixty-four places");
        (1, other)
    }

    /// Where a flow stands, with so many packets; `true`: it has sent what it may in its turn.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Place {
        Nowhere,
        New(usize, bool),
        Old(usize, bool),
    }
    use Place::{New, Nowhere, Old};

    /// The flow that it is about, and one that stands before it among the old.
    const OURS: u16 = 1;
    const OTHER: u16 = 2;

    fn place(flows: &Flows) -> Place {
        let ours = place_of(&packet(OURS, 0, 100), 0);
        let flow = &flows.places[usize::from(ours)];
        let is_in = |list: &VecDeque<u8>| list.iter().filter(|place| **place == ours).count();
        let (waiting, is_spent) = (flow.waiting.len(), flow.deficit <= 0);
        match (is_in(&flows.new), is_in(&flows.old), flow.listed) {
            (0, 0, false) if waiting == 0 => Nowhere,
            (1, 0, true) => New(waiting, is_spent),
            (0, 1, true) => Old(waiting, is_spent),
            other => panic!("{other:?}, {waiting} waiting"),
        }
    }

    fn flows_where(ours: Place, other_waits: bool) -> Flows {
        let mut flows = Flows::new();
        let places = [OURS, OTHER].map(|flow| place_of(&packet(flow, 0, 100), 0));
        assert_ne!(places[0], places[1]);
        let mut stand = |flow: u16, is_new: bool, waiting: usize, is_spent: bool| {
            // One that is empty has been there with something before.
            flows.push(packet(flow, 1, 100), 0, at(0));
            let at_place = usize::from(places[usize::from(flow != OURS)]);
            if waiting == 0 {
                let gone = flows.places[at_place].waiting.pop_front().expect("just pushed").packet;
                flows.places[at_place].bytes -= gone.len();
                (flows.bytes, flows.packets) = (flows.bytes - gone.len(), flows.packets - 1);
            }
            flows.places[at_place].deficit = if is_spent { 0 } else { QUANTUM };
            if !is_new {
                let place = flows.new.pop_back().expect("just pushed");
                flows.old.push_back(place);
            }
        };
        if other_waits {
            stand(OTHER, false, 1, false);
        }
        match ours {
            Nowhere => {}
            New(waiting, is_spent) => stand(OURS, true, waiting, is_spent),
            Old(waiting, is_spent) => stand(OURS, false, waiting, is_spent),
        }
        assert_eq!(place(&flows), ours);
        flows
    }

    /// Every place a flow can stand in, what can happen, and where it stands then.
    #[test]
    fn the_transition_table() {
        // A packet comes; or the next is asked for while nobody else waits, and while one of the old does: who goes then.
        let states =
            [Nowhere, New(1, false), New(1, true), New(0, false), Old(1, false), Old(1, true), Old(0, false)];
        let pushed = [
            New(1, false),
            New(2, false),
            New(2, true),
            New(1, false),
            Old(2, false),
            Old(2, true),
            // It is no new one for having been empty for a moment.
            Old(1, false),
        ];
        let alone = [
            (Nowhere, None),
            (New(0, false), Some(OURS)),
            (Old(0, false), Some(OURS)),
            (Nowhere, None),
            (Old(0, false), Some(OURS)),
            (Old(0, false), Some(OURS)),
            (Nowhere, None),
        ];
        let beside = [
            (Nowhere, Some(OTHER)),
            (New(0, false), Some(OURS)),
            (Old(1, false), Some(OTHER)),
            (Old(0, false), Some(OTHER)),
            (Old(1, false), Some(OTHER)),
            (Old(1, true), Some(OTHER)),
            (Old(0, false), Some(OTHER)),
        ];
        for (at_place, state) in states.into_iter().enumerate() {
            let mut flows = flows_where(state, false);
            flows.push(packet(OURS, 2, 100), 0, at(1));
            assert_eq!(place(&flows), pushed[at_place], "a packet comes, {state:?}");
            for (other_waits, becomes) in [(false, alone[at_place]), (true, beside[at_place])] {
                let mut flows = flows_where(state, other_waits);
                let gone = flows.pop(TARGET, at(1)).map(|popped| flow_and_number(&popped.packet).0);
                assert_eq!(
                    (place(&flows), gone),
                    becomes,
                    "the next goes, {state:?}, another waits: {other_waits}"
                );
            }
        }
    }

    #[test]
    fn a_flow_that_sends_little_goes_before_one_that_sends_much_and_each_in_its_order() {
        let (much, little) = two();
        let mut flows = Flows::new();
        (0..50).for_each(|number| flows.push(packet(much, number, 1_400), 7, at(0)));
        let mut went = Vec::new();
        for ms in 0..40 {
            if ms % 10 == 5 {
                flows.push(packet(little, ms as u8, 200), 7, at(ms));
            }
            let Popped { packet, wait, .. } = flows.pop(Duration::MAX, at(ms)).expect("something waits");
            let (flow, number) = flow_and_number(&packet);
            if flow == little {
                assert!(wait <= Duration::from_millis(1), "{wait:?}");
            } else {
                went.push(number);
            }
        }
        assert_eq!(went, (0..36).collect::<Vec<u8>>());
    }

    #[test]
    fn two_flows_share_evenly_whatever_the_size_of_their_packets() {
        let (large, small) = two();
        let mut flows = Flows::new();
        for number in 0..200 {
            flows.push(packet(large, number, 1_400), 7, at(0));
            (0..7).for_each(|_| flows.push(packet(small, number, 200), 7, at(0)));
        }
        let mut bytes = [0, 0];
        for _ in 0..400 {
            let popped = flows.pop(Duration::MAX, at(0)).expect("something waits");
            bytes[usize::from(flow_and_number(&popped.packet).0 == small)] += popped.packet.len();
        }
        let share = bytes[0] as f64 / (bytes[0] + bytes[1]) as f64;
        assert!((share - 0.5).abs() < 0.02, "{bytes:?}");
    }

    #[test]
    fn what_has_no_room_is_of_the_flow_that_takes_most() {
        let (much, little) = two();
        let mut flows = Flows::new();
        (0..10).for_each(|number| flows.push(packet(much, number, 1_400), 7, at(0)));
        flows.push(packet(little, 0, 200), 7, at(0));
        assert_eq!(flows.displace().map(|packet| flow_and_number(&packet)), Some((much, 0)));
        assert_eq!((flows.packets(), flows.bytes()), (10, 9 * 1_400 + 200));
        while flows.pop(TARGET, at(1)).is_some() {}
        assert_eq!((flows.packets(), flows.bytes()), (0, 0));
        assert!(flows.displace().is_none());
    }

    #[test]
    fn a_flow_that_stands_is_shed_and_the_other_is_not() {
        let (much, little) = two();
        let mut flows = Flows::new();
        let mut lost = [0, 0];
        for ms in 0..2_000 {
            (0..2).for_each(|number| flows.push(packet(much, number, 1_400), 7, at(ms)));
            if ms % 20 == 0 {
                flows.push(packet(little, 0, 200), 7, at(ms));
            }
            while let Some(Popped { packet, fate, .. }) = flows.pop(TARGET, at(ms)) {
                if fate != Fate::Lost {
                    break;
                }
                lost[usize::from(flow_and_number(&packet).0 == little)] += 1;
            }
        }
        assert!(lost[0] > 100 && lost[1] == 0, "{lost:?}");
    }

    #[test]
    fn a_flow_has_one_place_whatever_its_packets_are_and_fragments_that_of_their_datagram() {
        let places: std::collections::BTreeSet<u8> =
            (0..1_000).map(|flow| place_of(&packet(flow, 0, 100), 7)).collect();
        assert_eq!(places.len(), PLACES, "a thousand flows are everywhere");
        let one = |len: usize| place_of(&packet(5, len as u8, len), 7);
        assert_eq!(one(40), one(1_400));
        let fragment = |more: bool, offset: u8| {
            let mut fragment = packet(offset.into(), 0, 100);
            (fragment[6], fragment[7]) = (if more { 0x20 } else { 0 }, offset);
            place_of(&fragment, 7)
        };
        assert_eq!(
            fragment(true, 0),
            fragment(false, 60),
            "though the second has no ports where the first has them"
        );
        let copy = |number| {
            let mut copy = vec![0x40, 0, 0, 112, 1, 2, 3, 4, 0, 0, 0, number];
            copy.extend_from_slice(&packet(5, 0, 100));
            place_of(&copy, 7)
        };
        assert_eq!([copy(1), copy(2)], [one(100), one(100)], "a copy is of the flow of what it is a copy of");
        assert_eq!(place_of(&[], 7), place_of(&[0x99], 7));
    }
}
