//! Which worker has which ports of the pools' addresses: so that an answer's port names its worker.
//!
//! A worker takes ports as it needs them, 64 at a time or a block that is several of those, and gives them back when nothing is
//! bound to them. Who is first has them: one compare-and-swap for each 64. Reading who has a port is four steps down a tree of
//! addresses, of which only what has ever been leased is there.

use crate::flow::UNIT;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Units that an address has.
const UNITS: usize = 65_536 / UNIT as usize;

/// The whole team's. By an address's four bytes, and within it by unit: the worker that has it, plus one; 0 for nobody.
#[derive(Default)]
pub(super) struct Leases(Level<Level<Level<Level<Level<AtomicU16>>>>>);

/// Places that are made when the first of them is needed.
struct Level<T>(OnceLock<Box<[T]>>);

impl<T> Default for Level<T> {
    fn default() -> Level<T> {
        Level(OnceLock::new())
    }
}

impl<T: Default> Level<T> {
    fn get(&self, at: u8) -> Option<&T> {
        self.0.get()?.get(usize::from(at))
    }

    fn all(&self, places: usize) -> &[T] {
        self.0.get_or_init(|| std::iter::repeat_with(T::default).take(places).collect())
    }

    fn at(&self, at: u8) -> &T {
        &self.all(256)[usize::from(at)]
    }
}

impl Leases {
    /// The worker that has `port` of `address`, if any has.
    pub(super) fn holder(&self, address: Ipv4Addr, port: u16) -> Option<u16> {
        let [a, b, c, d] = address.octets();
        let units = self.0.get(a)?.get(b)?.get(c)?.get(d)?.0.get()?;
        units.get(usize::from(port / UNIT))?.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Leases all of `units` of `address` to `worker`, if nobody has any of them.
    pub(super) fn lease(&self, worker: u16, address: Ipv4Addr, units: Range<u16>) -> bool {
        let all = self.units(address);
        for unit in units.clone() {
            let taken =
                all[usize::from(unit)].compare_exchange(0, worker + 1, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_err() {
                self.give_back(address, units.start..unit);
                return false;
            }
        }
        true
    }

    /// Ends the lease of whoever has `units`, and nobody else may say so.
    pub(super) fn give_back(&self, address: Ipv4Addr, units: Range<u16>) {
        for unit in &self.units(address)[usize::from(units.start)..usize::from(units.end)] {
            unit.store(0, Ordering::Relaxed);
        }
    }

    fn units(&self, address: Ipv4Addr) -> &[AtomicU16] {
        let [a, b, c, d] = address.octets();
        self.0.at(a).at(b).at(c).at(d).all(UNITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    #[test]
    fn units_are_one_workers_from_lease_to_return_and_a_block_is_leased_whole_or_not_at_all() {
        let leases = Leases::default();
        assert!(leases.lease(0, ADDRESS, 1_023..1_024));
        assert!(leases.lease(1, ADDRESS, 20..21));
        assert!(!leases.lease(0, ADDRESS, 16..24), "one of them is another's");
        assert_eq!(leases.holder(ADDRESS, 16 * UNIT), None);
        assert_eq!(leases.holder(ADDRESS, 21 * UNIT - 1), Some(1));
        assert_eq!(leases.holder(ADDRESS, u16::MAX), Some(0));
        assert_eq!(leases.holder(Ipv4Addr::new(198, 51, 100, 2), u16::MAX), None);
        leases.give_back(ADDRESS, 20..21);
        assert!(leases.lease(0, ADDRESS, 16..24));
        assert_eq!(leases.holder(ADDRESS, 20 * UNIT), Some(0));
    }

    #[test]
    fn of_workers_that_want_the_same_units_at_once_each_gets_others() {
        let leases = Leases::default();
        let workers = 4;
        let held: Vec<Vec<u16>> = std::thread::scope(|scope| {
            let work = |worker| {
                let leases = &leases;
                scope.spawn(move || {
                    (0..1_024).filter(|unit| leases.lease(worker, ADDRESS, *unit..unit + 1)).collect()
                })
            };
            let all: Vec<_> = (0..workers).map(work).collect();
            all.into_iter().map(|worker| worker.join().expect("it does not panic")).collect()
        });
        let mut all: Vec<u16> = held.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1_024));
        for (worker, held) in (0..).zip(held) {
            assert!(held.iter().all(|unit| leases.holder(ADDRESS, unit * UNIT) == Some(worker)));
        }
    }
}
