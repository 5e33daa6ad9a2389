//! Sums, for each value of the fields that rows are grouped by.
//!
//! Values get numbers, *codes*, as they turn up, and rows are told apart by these: text is hashed once for each value in
//! a dictionary. Each thread has its own codes; at the end one's are translated to the other's.

use super::field::Field;
use super::read::{Block, Look, Trouble, dictionary, ints, longs};
use super::{QueryError, Sum};
use crate::store::flows::{Column, FLOWS, Kind};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::sync::Arc;

/// 4 fields at once: their codes together are a group's key.
pub(super) const MOST_FIELDS: usize = 4;

/// What a row has in a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    None,
    Number(u64),
    Text(Arc<str>),
}

/// A file is sorted by an address, and so is its dictionary: a value's code is soon after that of the value before, where
/// another file had them already. To look there is to read on, which costs less than a look into the table.
const SOON: usize = 4;

/// No code: not met yet, or none of those that are looked for.
const UNKNOWN: u32 = u32::MAX;

/// The codes of one field's values.
struct Codes {
    field: Field,
    /// Those of at most 15 bytes, every IPv4 address among them, lie in the table itself.
    short: HashMap<u128, u32, FixedState>,
    /// The same by code, 0 for what is not such.
    shorts: Vec<u128>,
    /// The code that was found last, and whether it came soon after the one before.
    last: usize,
    in_order: bool,
    texts: HashMap<Arc<str>, u32, FixedState>,
    numbers: HashMap<u64, u32, FixedState>,
    none: u32,
    /// By code.
    values: Vec<Value>,
    /// No more are given.
    closed: bool,
    /// The codes of the dictionary that was seen last, by its keys.
    known: Option<(ArrayRef, Vec<u32>)>,
}

impl Codes {
    fn new(field: Field) -> Codes {
        Codes {
            field,
            short: HashMap::default(),
            shorts: Vec::new(),
            last: 0,
            in_order: false,
            texts: HashMap::default(),
            numbers: HashMap::default(),
            none: UNKNOWN,
            values: Vec::new(),
            closed: false,
            known: None,
        }
    }

    fn give(values: &mut Vec<Value>, closed: bool, value: impl FnOnce() -> Value) -> u32 {
        if closed {
            return UNKNOWN;
        }
        values.push(value());
        // There are never as many: the number of groups is bounded.
        u32::try_from(values.len() - 1).unwrap_or(UNKNOWN)
    }

    fn of_none(&mut self) -> u32 {
        if self.none == UNKNOWN {
            self.none = Codes::give(&mut self.values, self.closed, || Value::None);
        }
        self.none
    }

    fn of_number(&mut self, number: u64) -> u32 {
        if let Some(code) = self.numbers.get(&number) {
            return *code;
        }
        let code = Codes::give(&mut self.values, self.closed, || Value::Number(number));
        if code != UNKNOWN {
            self.numbers.insert(number, code);
        }
        code
    }

    fn of_text(&mut self, text: &str) -> u32 {
        let Some(short) = short(text) else {
            return match self.texts.get(text) {
                Some(code) => *code,
                None => self.of_new(text, None),
            };
        };
        if self.in_order {
            let next = self.last + 1;
            let soon = self.shorts.iter().skip(next).take(SOON).position(|known| *known == short);
            if let Some(after) = soon {
                self.last = next + after;
                return self.last as u32;
            }
        }
        let code = match self.short.get(&short) {
            Some(code) => *code,
            None => self.of_new(text, Some(short)),
        };
        let found = code as usize;
        self.in_order = (self.last + 1..=self.last + SOON).contains(&found);
        self.last = if code == UNKNOWN { self.last } else { found };
        code
    }

    fn of_new(&mut self, text: &str, short: Option<u128>) -> u32 {
        if self.closed {
            return UNKNOWN;
        }
        let text: Arc<str> = text.into();
        let code = Codes::give(&mut self.values, false, || Value::Text(Arc::clone(&text)));
        match short {
            Some(short) => {
                self.shorts.resize(self.values.len(), 0);
                self.shorts[code as usize] = short;
                self.short.insert(short, code);
            }
            None => {
                self.texts.insert(text, code);
            }
        }
        code
    }

    fn of(&mut self, value: &Value) -> u32 {
        match value {
            Value::None => self.of_none(),
            Value::Number(number) => self.of_number(*number),
            Value::Text(text) => self.of_text(text),
        }
    }

    /// Those of a block's rows.
    fn read(&mut self, block: &Block<'_>, into: &mut Vec<u32>) -> Result<(), Trouble> {
        into.clear();
        let column = match self.field {
            Field::Column(column) => column,
            _ => {
                let code = self.of_text(block.tenant);
                into.resize(block.places.map_or(block.batch.num_rows(), <[u32]>::len), code);
                return Ok(());
            }
        };
        match column.kind() {
            Kind::Text | Kind::Address => self.read_texts(block, column, into),
            Kind::Int => {
                let array = ints(block.batch, column)?;
                let values = array.values();
                let has_none = array.null_count() > 0;
                let mut last = (u64::MAX, UNKNOWN);
                block.each(|place| {
                    into.push(if has_none && array.is_null(place) {
                        self.of_none()
                    } else {
                        self.after(values[place] as u64, &mut last)
                    });
                });
                Ok(())
            }
            Kind::Long | Kind::Time => {
                let values = longs(block.batch, column.name())?;
                let mut last = (u64::MAX, UNKNOWN);
                block.each(|place| into.push(self.after(values[place] as u64, &mut last)));
                Ok(())
            }
        }
    }

    /// As [`Codes::of_number`]; what is as the row before is not looked up again.
    fn after(&mut self, number: u64, last: &mut (u64, u32)) -> u32 {
        if last.0 != number || last.1 == UNKNOWN {
            *last = (number, self.of_number(number));
        }
        last.1
    }

    fn read_texts(&mut self, block: &Block<'_>, column: Column, into: &mut Vec<u32>) -> Result<(), Trouble> {
        /// Not looked at yet; a code of its own here, since [`UNKNOWN`] is an answer.
        const UNSEEN: u32 = u32::MAX - 1;
        let array = dictionary(block.batch, column)?;
        let mut codes = match self.known.take() {
            Some((values, codes)) if Arc::ptr_eq(&values, array.values()) => codes,
            _ => vec![UNSEEN; array.values().len()],
        };
        let texts = array.values().as_string::<i32>();
        let keys = array.keys();
        let values = keys.values();
        let mut of_key = |key: i32| match codes.get_mut(key as usize) {
            Some(code) => {
                if *code == UNSEEN {
                    let key = key as usize;
                    *code = if texts.is_null(key) { self.of_none() } else { self.of_text(texts.value(key)) };
                }
                *code
            }
            None => self.of_none(),
        };
        match block.places {
            None if keys.null_count() == 0 => into.extend(values.iter().map(|key| of_key(*key))),
            Some(places) if keys.null_count() == 0 => {
                into.extend(places.iter().map(|place| of_key(values[*place as usize])));
            }
            // No key is as large: it stands for nothing.
            _ => block.each(|place| into.push(of_key(if keys.is_null(place) { -1 } else { values[place] }))),
        }
        self.known = Some((Arc::clone(array.values()), codes));
        Ok(())
    }
}

/// A short text and its length in a number.
fn short(text: &str) -> Option<u128> {
    let mut bytes = [0; 16];
    bytes.get_mut(..text.len()).filter(|_| text.len() < 16)?.copy_from_slice(text.as_bytes());
    // One more, so that no text has the number 0.
    bytes[15] = text.len() as u8 + 1;
    Some(u128::from_le_bytes(bytes))
}

impl Block<'_> {
    /// The places of the rows that are meant.
    pub(super) fn each(&self, mut one: impl FnMut(usize)) {
        match self.places {
            None => (0..self.batch.num_rows()).for_each(one),
            Some(places) => places.iter().for_each(|place| one(*place as usize)),
        }
    }
}

/// The codes of a row, one behind the other.
type Key = u128;

fn key(codes: impl Iterator<Item = u32>) -> Key {
    codes.zip(0..).fold(0, |key, (code, at): (u32, u32)| key | Key::from(code) << (32 * at))
}

fn codes(key: Key) -> [u32; MOST_FIELDS] {
    std::array::from_fn(|at| (key >> (32 * at)) as u32)
}

/// The largest groups.
pub(super) struct Largest {
    /// The largest first, and among equals by their values.
    pub(super) rows: Vec<(Vec<Value>, Vec<u64>)>,
    /// How many groups there are.
    pub(super) count: usize,
    /// All of them together.
    pub(super) total: Vec<u64>,
}

/// Groups as they turn up.
pub(super) struct Groups {
    codes: Vec<Codes>,
    sums: Vec<Sum>,
    most: usize,
    /// Of the groups by more than one field; by one, its codes are the groups.
    slots: Slots,
    keys: Vec<Key>,
    /// By slot: whether any row is in it.
    met: Vec<bool>,
    /// For each sum, by slot.
    totals: Vec<Vec<u64>>,
    room: Room,
}

/// Kept from batch to batch.
#[derive(Default)]
struct Room {
    codes: Vec<Vec<u32>>,
    slots: Vec<u32>,
}

/// Which slot a key has. While there are few enough possible keys, each has its place in a table, which a core's cache
/// holds; beyond, they are hashed.
#[derive(Default)]
struct Slots {
    /// How many bits each field's codes take in a place.
    bits: Vec<u32>,
    table: Vec<u32>,
    hashed: HashMap<Key, u32, FixedState>,
    is_hashed: bool,
}

/// 2 million places, 8 MB.
const PLACE_BITS: u32 = 21;

impl Slots {
    /// Makes room for all keys that these codes can make.
    fn fit(&mut self, codes: &[Codes], keys: &[Key]) {
        let bits = codes.iter().map(|codes| usize::BITS - codes.values.len().leading_zeros());
        if self.is_hashed || bits.clone().eq(self.bits.iter().copied()) {
            return;
        }
        self.bits = bits.collect();
        let all: u32 = self.bits.iter().sum();
        if all > PLACE_BITS {
            self.is_hashed = true;
            self.table = Vec::new();
            self.hashed = keys.iter().copied().zip(0..).collect();
            return;
        }
        self.table.clear();
        self.table.resize(1 << all, UNKNOWN);
        for (key, slot) in keys.iter().zip(0..) {
            let place = self.place(*key);
            self.table[place] = slot;
        }
    }

    fn place(&self, key: Key) -> usize {
        let codes = self.bits.iter().zip(codes(key));
        codes.fold(0, |place, (bits, code)| place << bits | code as usize)
    }

    /// A key without one gets the next.
    fn slot(&mut self, key: Key, keys: &mut Vec<Key>) -> u32 {
        let next = keys.len() as u32;
        let place = if self.is_hashed { 0 } else { self.place(key) };
        let slot = match self.table.get_mut(place) {
            Some(slot) => slot,
            None => self.hashed.entry(key).or_insert(UNKNOWN),
        };
        if *slot == UNKNOWN {
            *slot = next;
            keys.push(key);
        }
        *slot
    }
}

impl Groups {
    /// At most `most` of them.
    pub(super) fn new(by: &[Field], sums: &[Sum], most: usize) -> Groups {
        Groups {
            codes: by.iter().map(|field| Codes::new(*field)).collect(),
            sums: sums.to_vec(),
            most,
            slots: Slots::default(),
            keys: Vec::new(),
            met: Vec::new(),
            totals: vec![Vec::new(); sums.len()],
            room: Room { codes: vec![Vec::new(); by.len()], slots: Vec::new() },
        }
    }

    fn grow(&mut self) -> Result<(), QueryError> {
        let slots = match self.codes.as_slice() {
            [only] => only.values.len(),
            _ => self.keys.len(),
        };
        if slots > self.most {
            return Err(QueryError::TooManyGroups(self.most));
        }
        self.met.resize(slots, false);
        self.totals.iter_mut().for_each(|totals| totals.resize(slots, 0));
        Ok(())
    }

    /// Everything another thread has found, too.
    ///
    /// # Errors
    /// Together there are too many.
    pub(super) fn absorb(&mut self, other: Groups) -> Result<(), QueryError> {
        let translate = |(mine, theirs): (&mut Codes, &Codes)| -> Vec<u32> {
            theirs.values.iter().map(|value| mine.of(value)).collect()
        };
        let codes: Vec<Vec<u32>> = self.codes.iter_mut().zip(&other.codes).map(translate).collect();
        self.slots.fit(&self.codes, &self.keys);
        let met: Vec<usize> = (0..other.met.len()).filter(|slot| other.met[*slot]).collect();
        let slots: Vec<usize> = met
            .iter()
            .map(|theirs| match codes.as_slice() {
                [only] => only[*theirs] as usize,
                codes => {
                    let theirs = self::codes(other.keys[*theirs]);
                    let mine = codes.iter().zip(theirs).map(|(codes, theirs)| codes[theirs as usize]);
                    self.slots.slot(key(mine), &mut self.keys) as usize
                }
            })
            .collect();
        self.grow()?;
        for (theirs, mine) in met.into_iter().zip(slots) {
            self.met[mine] = true;
            for (mine_of, theirs_of) in self.totals.iter_mut().zip(&other.totals) {
                mine_of[mine] = mine_of[mine].wrapping_add(theirs_of[theirs]);
            }
        }
        Ok(())
    }

    /// The `top` groups by the sum at `order`.
    pub(super) fn top(&self, top: usize, order: usize) -> Largest {
        let mut slots: Vec<usize> = (0..self.met.len()).filter(|slot| self.met[*slot]).collect();
        let count = slots.len();
        let compare = |a: &usize, b: &usize| {
            let by_sum = self.totals[order][*b].cmp(&self.totals[order][*a]);
            by_sum.then_with(|| self.values(*a).cmp(self.values(*b)))
        };
        if slots.len() > top && top > 0 {
            slots.select_nth_unstable_by(top - 1, compare);
        }
        slots.truncate(top);
        slots.sort_unstable_by(compare);
        let sums = |slot: usize| self.totals.iter().map(|totals| totals[slot]).collect();
        let rows = slots.into_iter().map(|slot| (self.values(slot).cloned().collect(), sums(slot))).collect();
        Largest { rows, count, total: self.totals.iter().map(|totals| totals.iter().sum()).collect() }
    }

    fn values(&self, slot: usize) -> impl Iterator<Item = &Value> {
        let codes = match self.codes.len() {
            1 => [slot as u32, 0, 0, 0],
            _ => codes(self.keys[slot]),
        };
        self.codes.iter().zip(codes).map(|(known, code)| &known.values[code as usize])
    }
}

impl Look for Groups {
    fn look(&mut self, block: &Block<'_>) -> Result<(), Trouble> {
        let mut room = std::mem::take(&mut self.room);
        for (codes, into) in self.codes.iter_mut().zip(&mut room.codes) {
            codes.read(block, into)?;
        }
        let slots = match room.codes.as_slice() {
            [only] => only,
            many => {
                room.slots.clear();
                self.slots.fit(&self.codes, &self.keys);
                for row in 0..many.first().map_or(0, Vec::len) {
                    let key = key(many.iter().map(|codes| codes[row]));
                    room.slots.push(self.slots.slot(key, &mut self.keys));
                }
                &room.slots
            }
        };
        self.grow()?;
        for slot in slots {
            if let Some(met) = self.met.get_mut(*slot as usize) {
                *met = true;
            }
        }
        for (sum, totals) in self.sums.iter().zip(&mut self.totals) {
            sum.add(block, slots, totals)?;
        }
        self.room = room;
        Ok(())
    }
}

/// The sums of groups that are known beforehand, over time. What is in no group is in the last line.
pub(super) struct Lines {
    codes: Vec<Codes>,
    /// By more than one field.
    slots: HashMap<Key, u32, FixedState>,
    others: u32,
    sums: Vec<Sum>,
    buckets: Buckets,
    /// For each sum, by line and bucket.
    totals: Vec<Vec<u64>>,
    room: Room,
}

/// Time in steps: milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buckets {
    pub(super) from: u64,
    pub(super) step: u64,
    pub(super) count: usize,
}

impl Lines {
    pub(super) fn new(by: &[Field], groups: &[Vec<Value>], sums: &[Sum], buckets: Buckets) -> Lines {
        let mut codes: Vec<Codes> = by.iter().map(|field| Codes::new(*field)).collect();
        let mut slots = HashMap::default();
        for (slot, group) in (0..).zip(groups) {
            let given: Vec<u32> = codes.iter_mut().zip(group).map(|(codes, value)| codes.of(value)).collect();
            slots.insert(key(given.into_iter()), slot);
        }
        codes.iter_mut().for_each(|codes| codes.closed = true);
        let cells = (groups.len() + 1) * buckets.count;
        Lines {
            room: Room { codes: vec![Vec::new(); codes.len()], slots: Vec::new() },
            codes,
            slots,
            others: groups.len() as u32,
            sums: sums.to_vec(),
            buckets,
            totals: vec![vec![0; cells]; sums.len()],
        }
    }

    pub(super) fn absorb(&mut self, other: Lines) {
        for (mine, theirs) in self.totals.iter_mut().zip(other.totals) {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.wrapping_add(theirs));
        }
    }

    /// Of the sum at `sum`, in the first bucket of the group at `group`.
    pub(super) fn at(&self, sum: usize, group: usize) -> u64 {
        self.totals[sum][group * self.buckets.count]
    }

    /// Of the sum at `sum`, bucket by bucket: for each group, and then for what is in none.
    pub(super) fn of(&self, sum: usize) -> impl Iterator<Item = &[u64]> {
        self.totals[sum].chunks(self.buckets.count)
    }
}

impl Look for Lines {
    fn look(&mut self, block: &Block<'_>) -> Result<(), Trouble> {
        let mut room = std::mem::take(&mut self.room);
        for (codes, into) in self.codes.iter_mut().zip(&mut room.codes) {
            codes.read(block, into)?;
        }
        room.slots.clear();
        let rows = block.places.map_or(block.batch.num_rows(), <[u32]>::len);
        match room.codes.as_slice() {
            [] => room.slots.resize(rows, self.others),
            // Groups were given the codes in order.
            [only] => room.slots.extend(only.iter().map(|code| (*code).min(self.others))),
            many => {
                for row in 0..rows {
                    let key = key(many.iter().map(|codes| codes[row]));
                    room.slots.push(self.slots.get(&key).copied().unwrap_or(self.others));
                }
            }
        }
        if self.buckets.count > 1 {
            let Buckets { from, step, count } = self.buckets;
            let ends = longs(block.batch, Column::End.name())?;
            let mut slots = room.slots.iter_mut();
            block.each(|place| {
                if let Some(slot) = slots.next() {
                    let bucket = (ends[place] as u64).saturating_sub(from) / step;
                    *slot = *slot * count as u32 + (bucket as u32).min(count as u32 - 1);
                }
            });
        }
        for (sum, totals) in self.sums.iter().zip(&mut self.totals) {
            sum.add(block, &room.slots, totals)?;
        }
        self.room = room;
        Ok(())
    }
}

impl Sum {
    /// Each row's share to its slot.
    fn add(self, block: &Block<'_>, slots: &[u32], totals: &mut [u64]) -> Result<(), Trouble> {
        let batch = block.batch;
        match self {
            Sum::Flows => match flows(batch)? {
                Some(flows) => add(block, slots, totals, |place| flows[place] as u64),
                None => add(block, slots, totals, |_| 1),
            },
            Sum::Bytes | Sum::Packets => {
                let [forward, reverse] = match self {
                    Sum::Bytes => [Column::ForwardBytes, Column::ReverseBytes],
                    _ => [Column::ForwardPackets, Column::ReversePackets],
                };
                let (forward, reverse) = (longs(batch, forward.name())?, longs(batch, reverse.name())?);
                add(block, slots, totals, |place| {
                    (forward[place] as u64).wrapping_add(reverse[place] as u64)
                });
            }
            Sum::Of(column) => {
                let values = longs(batch, column.name())?;
                add(block, slots, totals, |place| values[place] as u64);
            }
        }
        Ok(())
    }
}

/// How many records each row sums up; `None` if each is one.
fn flows(batch: &RecordBatch) -> Result<Option<&[i64]>, Trouble> {
    batch.column_by_name(FLOWS).map(|_| longs(batch, FLOWS)).transpose()
}

fn add(block: &Block<'_>, slots: &[u32], totals: &mut [u64], share: impl Fn(usize) -> u64) {
    let mut one = |slot: u32, place: usize| {
        if let Some(total) = totals.get_mut(slot as usize) {
            *total = total.wrapping_add(share(place));
        }
    };
    match block.places {
        None => slots.iter().enumerate().for_each(|(place, slot)| one(*slot, place)),
        Some(places) => slots.iter().zip(places).for_each(|(slot, place)| one(*slot, *place as usize)),
    }
}
