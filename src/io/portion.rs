//! How much to receive at a time.
//!
//! A system call is paid for by many messages, up to 64 of them. But a message may be one small datagram or a super-packet
//! of 64 KB, and 64 of those are 4 MB: they would have left the cache by the time they are looked at. So a portion is
//! bounded in bytes too. A receive must say beforehand how many messages it takes, and how large they are is seen only
//! afterwards; what the last ones were like is the best guess.

/// Half a megabyte received, and about as much made of it to be sent, stay in a second-level cache of 1 to 2 MB.
pub(super) const PORTION_BYTES: usize = 512 << 10;
/// The most messages: enough to pay for the system call, few enough to answer soon.
pub(super) const MOST_MESSAGES: usize = 64;
/// The fewest: as many of the largest as make a portion.
const FEWEST_MESSAGES: usize = PORTION_BYTES >> 16;

/// The next receive's share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portion {
    messages: usize,
}

impl Default for Portion {
    fn default() -> Self {
        Portion { messages: MOST_MESSAGES }
    }
}

impl Portion {
    /// How many messages to ask for.
    pub(super) fn messages(self) -> usize {
        self.messages
    }

    /// The last receive brought `messages` of `bytes` in all.
    pub(super) fn received(&mut self, messages: usize, bytes: usize) {
        let average = bytes / messages.max(1);
        self.messages = (PORTION_BYTES / average.max(1)).clamp(FEWEST_MESSAGES, MOST_MESSAGES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_is_bounded_in_messages_and_in_bytes() {
        let mut portion = Portion::default();
        assert_eq!(portion.messages(), 64);
        for (messages, bytes, next) in [
            (64, 64 * 65_507, 8),
            (8, 8 * 65_507, 8),
            (8, 8 * 32_768, 16),
            (16, 16 * 1_452, 64),
            (1, 0, 64),
            (64, 64 * 65_507, 8),
            (0, 0, 64),
        ] {
            portion.received(messages, bytes);
            assert_eq!(portion.messages(), next, "after {messages} of {bytes} bytes");
        }
    }
}
