//! The index: from a key's hash to the session that has the key.
//!
//! A cache line holds seven entries and the number of those that belong here but found no room and went on to the next
//! lines. So most look-ups read one line, hit or miss, and a removed entry leaves no trace.
//!
//! It is as large as the sessions there are ask for, so that a few stay in the nearest cache, and grows by steps: behind
//! the lines there is a larger set of lines, and each insertion moves some of the old ones over. An entry brings the part of
//! its hash with it that says where it belongs, so that moving it reads no session. No packet waits for a million others.

/// Entries in a line.
const PLACES: usize = 7;
/// Of a line: the places, and the number of those that went on.
const WORDS: usize = PLACES + 1;
const OVERFLOW: usize = PLACES;
/// A cache line's bytes.
const ALIGN: usize = WORDS * size_of::<u64>();
/// Lines to begin with: a page.
const FIRST_LINES: usize = 64;
/// Of 16 places, how many are taken when the index grows: a line in six has an entry too many by then.
const FULL_16THS: usize = 12;
/// And how many are when it has become as large as it may.
const FULL_16THS_AT_LAST: usize = 13;
/// Lines that an insertion moves. Growing must be done before it is time to grow again: with four entries a session, any
/// number would do.
const MOVED: usize = 4;
/// Words of lines no longer used that an insertion gives back to the system: 64 KiB. All 20 MB at once take 2 ms.
const GIVEN_BACK: usize = 8_192;

/// What hashes lead to: numbers, by 32 bits of hash; what they stand for is compared by the caller.
pub struct Index {
    lines: Lines,
    /// Those that are being moved from, and the first that has not been.
    old: Option<(Lines, usize)>,
    /// Empty lines that are being given back.
    emptied: Vec<u64>,
    entries: usize,
    max_lines: usize,
}

/// Entries as `hash << 32 | entry + 1`; 0 is an empty place.
struct Lines {
    /// Zeroed by the allocator, which gives a large block out as pages that exist when they are written to.
    words: Box<[u64]>,
    /// Words before the first whole cache line.
    offset: usize,
    count: usize,
}

impl Index {
    /// An empty index.
    pub fn new() -> Index {
        let lines = Lines::new(FIRST_LINES);
        Index { lines, old: None, emptied: Vec::new(), entries: 0, max_lines: FIRST_LINES }
    }

    /// Lets it grow to have room for `entries`. It does not become smaller.
    pub fn let_grow(&mut self, entries: usize) {
        let lines = (entries * 16).div_ceil(PLACES * FULL_16THS_AT_LAST);
        self.max_lines = self.max_lines.max(lines);
    }

    /// The entry that `hash` leads to and that `is` the one.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.lines.find(hash, &mut is).or_else(|| self.old.as_ref()?.0.find(hash, is))
    }

    /// An entry of `hash`'s first line that may be the one: what to have fetched while other keys are looked up.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        self.lines.guess(hash).or_else(|| self.old.as_ref()?.0.guess(hash))
    }

    /// Has the first line of `hash` fetched.
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        self.lines.touch(hash) ^ self.old.as_ref().map_or(0, |(old, _)| old.touch(hash))
    }

    /// Enters `entry` under `hash`; it must not be there yet.
    pub fn insert(&mut self, hash: u64, entry: u32) {
        if self.old.is_none()
            && self.entries * 16 >= self.lines.count * PLACES * FULL_16THS
            && self.lines.count < self.max_lines
        {
            let larger = Lines::new((self.lines.count * 2).min(self.max_lines));
            self.old = Some((std::mem::replace(&mut self.lines, larger), 0));
        }
        self.move_lines(MOVED);
        self.entries += 1;
        self.lines.insert(word(hash, entry));
    }

    /// Takes out `entry`, entered under `hash`; false if it was not there.
    pub fn remove(&mut self, hash: u64, entry: u32) -> bool {
        let word = word(hash, entry);
        let was_there = self.lines.remove(word) || self.old.as_mut().is_some_and(|(old, _)| old.remove(word));
        self.entries -= usize::from(was_there);
        was_there
    }

    /// Goes on with growing, if it does.
    pub fn move_lines(&mut self, count: usize) {
        if !self.emptied.is_empty() {
            self.emptied.truncate(self.emptied.len().saturating_sub(GIVEN_BACK));
            self.emptied.shrink_to_fit();
        }
        let Some((old, next)) = &mut self.old else { return };
        let end = next.saturating_add(count).min(old.count);
        for at in *next..end {
            for place in 0..PLACES {
                let word = old.line(at)[place];
                if word != 0 {
                    old.remove(word);
                    self.lines.insert(word);
                }
            }
        }
        *next = end;
        if end == old.count
            && let Some((old, _)) = self.old.take()
        {
            self.emptied = old.words.into_vec();
        }
    }
}

impl Lines {
    fn new(count: usize) -> Lines {
        let words = vec![0; (count + 1) * WORDS].into_boxed_slice();
        let offset = words.as_ptr().align_offset(ALIGN).min(WORDS);
        Lines { words, offset, count }
    }

    #[inline]
    fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..self.count {
            let line = self.line(at);
            for word in &line[..PLACES] {
                if (word ^ hash) >> 32 == 0 && *word != 0 && is(entry(*word)) {
                    return Some(entry(*word));
                }
            }
            if line[OVERFLOW] == 0 {
                break;
            }
            at = self.after(at);
        }
        None
    }

    #[inline]
    fn guess(&self, hash: u64) -> Option<u32> {
        let line = self.line(self.home(hash));
        line[..PLACES].iter().find(|word| (*word ^ hash) >> 32 == 0 && **word != 0).map(|word| entry(*word))
    }

    #[inline]
    fn touch(&self, hash: u64) -> u64 {
        self.line(self.home(hash))[OVERFLOW]
    }

    fn insert(&mut self, word: u64) {
        let mut at = self.home(word);
        for _ in 0..self.count {
            let next = self.after(at);
            let line = self.line_mut(at);
            if let Some(place) = line[..PLACES].iter_mut().find(|place| **place == 0) {
                *place = word;
                return;
            }
            line[OVERFLOW] += 1;
            at = next;
        }
        debug_assert!(false, "entered more than it was let grow for");
    }

    fn remove(&mut self, word: u64) -> bool {
        let home = self.home(word);
        let mut at = home;
        for _ in 0..self.count {
            let line = self.line_mut(at);
            if let Some(place) = line[..PLACES].iter_mut().find(|place| **place == word) {
                *place = 0;
                // It no longer goes past the lines on its way.
                while at != home {
                    at = if at == 0 { self.count - 1 } else { at - 1 };
                    self.line_mut(at)[OVERFLOW] -= 1;
                }
                return true;
            }
            if line[OVERFLOW] == 0 {
                break;
            }
            at = self.after(at);
        }
        false
    }

    #[inline]
    fn line(&self, at: usize) -> &[u64; WORDS] {
        &self.words[self.offset..].as_chunks().0[at]
    }

    #[inline]
    fn line_mut(&mut self, at: usize) -> &mut [u64; WORDS] {
        &mut self.words[self.offset..].as_chunks_mut().0[at]
    }

    /// The line where a hash, or a word, belongs: its upper half, as a fraction of all lines.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.count as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.count { 0 } else { at + 1 }
    }
}

fn word(hash: u64, entry: u32) -> u64 {
    hash & !0xffff_ffff | (u64::from(entry) + 1)
}

#[inline]
fn entry(word: u64) -> u32 {
    word as u32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// One entry in four crowds with its like in four homes, the last line's among them; some share all 32 bits.
    fn hash_of(entry: u32) -> u64 {
        if entry % 8 < 2 {
            let home = u64::MAX - u64::from(entry % 4) * (u64::MAX / 3);
            home ^ u64::from(entry % 7) << 32
        } else {
            u64::from(entry).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
    }

    proptest! {
        #[test]
        fn an_index_behaves_as_a_map_however_its_hashes_crowd_and_while_it_grows(
            steps in proptest::collection::vec((0u8..4, 0u32..2_000), 1..3_000),
        ) {
            let mut index = Index::new();
            let mut twin = BTreeMap::new();
            index.let_grow(4_000);
            for (what, entry) in steps {
                let hash = hash_of(entry);
                let found = index.find(hash, |probe| probe == entry);
                prop_assert_eq!(found.is_some(), twin.contains_key(&entry));
                if what == 0 {
                    index.remove(hash, entry);
                    twin.remove(&entry);
                } else if found.is_none() {
                    index.insert(hash, entry);
                    twin.insert(entry, hash);
                }
                prop_assert_eq!(index.entries, twin.len());
            }
            for (entry, hash) in &twin {
                prop_assert_eq!(index.find(*hash, |probe| probe == *entry), Some(*entry));
            }
            for (entry, hash) in twin {
                index.remove(hash, entry);
            }
            prop_assert!(index.lines.words.iter().all(|word| *word == 0));
            prop_assert!(index.old.is_none_or(|(old, _)| old.words.iter().all(|word| *word == 0)));
        }
    }

    #[test]
    fn it_grows_to_what_it_was_let_and_is_as_full_as_it_may_be_there() {
        let mut index = Index::new();
        index.let_grow(100_000);
        let hash = |entry: u32| hash_of(entry * 8 + 2);
        for entry in 0..100_000 {
            index.insert(hash(entry), entry);
        }
        assert!((0..100_000).all(|entry| index.find(hash(entry), |probe| probe == entry) == Some(entry)));
        assert!(index.lines.count * PLACES < 125_000);
        index.move_lines(usize::MAX);
        assert!(index.old.is_none());
    }

    #[test]
    fn a_line_of_the_index_is_a_line_of_the_cache() {
        for count in [1, 100, 10_000] {
            let mut lines = Lines::new(count);
            assert_eq!(lines.line(0).as_ptr().addr() % ALIGN, 0);
            assert_eq!(lines.line_mut(count - 1)[OVERFLOW], 0);
        }
    }
}
