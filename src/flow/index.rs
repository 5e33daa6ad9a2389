//! The index: from a key's hash to the session that has the key.
//!
//! A cache line holds seven entries and the number of those that belong here but found no room and went on to the next
//! lines. So most look-ups read one line, hit or miss; a removed entry leaves no trace; and the table never has to be
//! put in order again. It has room from the beginning for as many as there may be: no packet waits for a million others
//! to be moved. Memory that no entry has come near is not taken from the system.

/// Entries in a line.
const PLACES: usize = 7;
/// Of a line: the places, and the number of those that went on.
const WORDS: usize = PLACES + 1;
const OVERFLOW: usize = PLACES;
/// A cache line's bytes.
const ALIGN: usize = WORDS * size_of::<u64>();

/// What hashes lead to: numbers, by 31 bits of hash; what they stand for is compared by the caller.
pub struct Index {
    /// Zeroed by the allocator, which gives a large block out as pages that exist when they are written to.
    words: Box<[u64]>,
    /// Words before the first whole cache line.
    offset: usize,
    lines: usize,
    capacity: usize,
}

impl Index {
    /// An empty index with room for `capacity` entries, at least.
    pub fn with_capacity(capacity: usize) -> Index {
        // Three quarters full, a line in eight has an entry too many.
        let lines = (capacity.div_ceil(PLACES) * 4).div_ceil(3).max(1);
        let words = vec![0; (lines + 1) * WORDS].into_boxed_slice();
        let offset = words.as_ptr().align_offset(ALIGN).min(WORDS);
        Index { words, offset, lines, capacity }
    }

    /// How many entries it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The entry that `hash` leads to and that `is` the one.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        for _ in 0..self.lines {
            let line = &self.lines()[at];
            for word in &line[..PLACES] {
                if word >> 32 == tag && is(*word as u32) {
                    return Some(*word as u32);
                }
            }
            if line[OVERFLOW] == 0 {
                break;
            }
            at = self.after(at);
        }
        None
    }

    /// An entry of `hash`'s first line that may be the one: what to have fetched while other keys are looked up.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        let tag = tag(hash);
        let line = &self.lines()[self.home(hash)];
        line[..PLACES].iter().find(|word| *word >> 32 == tag).map(|word| *word as u32)
    }

    /// Has the first line of `hash` fetched.
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        self.lines()[self.home(hash)][OVERFLOW]
    }

    /// Enters `entry` under `hash`; it must not be there yet, and there must be room.
    pub fn insert(&mut self, hash: u64, entry: u32) {
        let mut at = self.home(hash);
        for _ in 0..self.lines {
            let next = self.after(at);
            let line = &mut self.lines_mut()[at];
            if let Some(place) = line[..PLACES].iter_mut().find(|word| **word == 0) {
                *place = tag(hash) << 32 | u64::from(entry);
                return;
            }
            line[OVERFLOW] += 1;
            at = next;
        }
        debug_assert!(false, "entered more than there is room for");
    }

    /// Takes out `entry`, entered under `hash`.
    pub fn remove(&mut self, hash: u64, entry: u32) {
        let word = tag(hash) << 32 | u64::from(entry);
        let home = self.home(hash);
        let mut at = home;
        for _ in 0..self.lines {
            if let Some(place) = self.lines_mut()[at][..PLACES].iter_mut().find(|place| **place == word) {
                *place = 0;
                // It no longer goes past the lines on its way.
                let mut passed = home;
                while passed != at {
                    self.lines_mut()[passed][OVERFLOW] -= 1;
                    passed = self.after(passed);
                }
                return;
            }
            if self.lines()[at][OVERFLOW] == 0 {
                return;
            }
            at = self.after(at);
        }
    }

    #[inline]
    fn lines(&self) -> &[[u64; WORDS]] {
        self.words[self.offset..].as_chunks().0
    }

    fn lines_mut(&mut self) -> &mut [[u64; WORDS]] {
        self.words[self.offset..].as_chunks_mut().0
    }

    /// The line where `hash` belongs: its upper bits, as a fraction of all lines.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.lines as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.lines { 0 } else { at + 1 }
    }
}

/// A hash's lower bits; never 0, which is an empty place.
#[inline]
fn tag(hash: u64) -> u64 {
    hash & 0x7fff_ffff | 0x8000_0000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn an_index_behaves_as_a_set_however_its_hashes_crowd(
            steps in proptest::collection::vec((any::<bool>(), 0u32..60), 1..400),
            capacity in 1usize..60,
        ) {
            let mut index = Index::with_capacity(capacity);
            let mut twin = BTreeSet::new();
            for (insert, entry) in steps {
                // A few homes for all of them, the last line's among them; tags that many share.
                let hash = (u64::MAX - u64::from(entry % 4) * (u64::MAX / 3)) & !0xffff_ffff | u64::from(entry % 5);
                let found = index.find(hash, |probe| probe == entry);
                prop_assert_eq!(found.is_some(), twin.contains(&(hash, entry)));
                if !insert {
                    index.remove(hash, entry);
                    twin.remove(&(hash, entry));
                } else if found.is_none() && twin.len() < capacity {
                    index.insert(hash, entry);
                    twin.insert((hash, entry));
                }
            }
            for (hash, entry) in &twin {
                prop_assert_eq!(index.find(*hash, |probe| probe == *entry), Some(*entry));
            }
            for (hash, entry) in twin {
                index.remove(hash, entry);
            }
            prop_assert!(index.words.iter().all(|word| *word == 0));
        }
    }

    #[test]
    fn a_line_of_the_index_is_a_line_of_the_cache() {
        for capacity in [1, 100, 10_000] {
            let index = Index::with_capacity(capacity);
            assert_eq!(index.lines().as_ptr().addr() % ALIGN, 0);
            assert!(index.lines().len() >= index.lines && index.lines * PLACES >= capacity);
        }
    }
}
