//! The beginning of a stream, put together from pieces that come in any order, twice, or overlapping.

/// Of a stream, from its beginning on. A ClientHello with post-quantum keys has about 2 KiB, and one record holds 16;
/// servers refuse a longer request head too (8 KiB is the usual limit). A name comes before that or never.
pub(super) const MAX_BYTES: usize = 16 << 10;
/// Pieces that may lie apart from one another. Chromium cuts its hello into about ten and shuffles them; more than twice
/// that, nobody has a reason for.
const MAX_APART: usize = 24;

/// What has arrived of a stream's first [`MAX_BYTES`]. Where pieces overlap, what came first stays, as it does with a
/// receiver that has passed it on already.
#[derive(Clone, Debug, Default)]
pub(super) struct Assembly {
    /// Up to the end of the last piece; what has not come is 0.
    bytes: Vec<u8>,
    /// Where there is something: begin and end, in order, neither touching nor overlapping.
    filled: Vec<(usize, usize)>,
}

/// Pieces lie further apart than is put up with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooScattered;

impl Assembly {
    /// Takes in a piece that begins at `offset`; what lies beyond [`MAX_BYTES`] is left out.
    ///
    /// # Errors
    /// `TooScattered`: it has not been taken in.
    pub(super) fn put(&mut self, offset: usize, piece: &[u8]) -> Result<(), TooScattered> {
        let piece = &piece[..piece.len().min(MAX_BYTES.saturating_sub(offset))];
        if piece.is_empty() {
            return Ok(());
        }
        let end = offset + piece.len();
        // Those that it touches become one with it.
        let first = self.filled.partition_point(|span| span.1 < offset);
        let behind = self.filled.partition_point(|span| span.0 <= end);
        if first == behind && self.filled.len() == MAX_APART {
            return Err(TooScattered);
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let mut at = offset;
        let mut joined = (offset, end);
        for &(begin, until) in &self.filled[first..behind] {
            if at < begin {
                self.bytes[at..begin].copy_from_slice(&piece[at - offset..begin - offset]);
            }
            at = at.max(until);
            joined = (joined.0.min(begin), joined.1.max(until));
        }
        if at < end {
            self.bytes[at..end].copy_from_slice(&piece[at - offset..]);
        }
        self.filled.splice(first..behind, [joined]);
        Ok(())
    }

    /// What is there without a gap.
    pub(super) fn beginning(&self) -> &[u8] {
        match self.filled.first() {
            Some(&(0, end)) => &self.bytes[..end],
            _ => &[],
        }
    }

    /// Whether nothing has come yet.
    pub(super) fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// Whether all that can be taken in is there.
    pub(super) fn is_full(&self) -> bool {
        self.beginning().len() == MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Its twin keeps every byte by itself.
        #[test]
        fn pieces_in_any_order_give_what_came_first_at_each_place(
            pieces in prop::collection::vec((0..120_usize, prop::collection::vec(1..=u8::MAX, 0..40)), 0..40),
        ) {
            let mut assembly = Assembly::default();
            let mut naive = [0; 160];
            for (offset, piece) in pieces {
                if assembly.put(offset, &piece).is_ok() {
                    for (byte, new) in naive[offset..].iter_mut().zip(piece) {
                        *byte = if *byte == 0 { new } else { *byte };
                    }
                }
                let gap = naive.iter().position(|byte| *byte == 0).unwrap_or(naive.len());
                prop_assert_eq!(assembly.beginning(), &naive[..gap]);
                prop_assert!(assembly.filled.is_sorted_by(|a, b| a.1 < b.0), "{:?}", assembly.filled);
            }
        }
    }

    #[test]
    fn pieces_far_apart_are_put_up_with_so_often() {
        let mut assembly = Assembly::default();
        for n in 0..MAX_APART {
            assert_eq!(assembly.put(2 * n, &[1]), Ok(()));
        }
        assert_eq!(assembly.put(2 * MAX_APART, &[1]), Err(TooScattered));
        assert_eq!(assembly.put(1, &[1]), Ok(()), "one that closes a gap always has room");
        assert_eq!(assembly.beginning(), [1; 3]);
    }

    #[test]
    fn what_lies_too_far_behind_is_left_out() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.put(MAX_BYTES, &[1]), Ok(()));
        assert_eq!(assembly.put(usize::MAX, &[1]), Ok(()));
        assert_eq!(assembly.put(MAX_BYTES - 1, &[1, 2]), Ok(()));
        assert_eq!(assembly.bytes.len(), MAX_BYTES);
        assert_eq!(assembly.put(0, &[3; 70_000]), Ok(()));
        assert!(assembly.is_full());
        assert_eq!(assembly.beginning()[MAX_BYTES - 2..], [3, 1]);
    }
}
