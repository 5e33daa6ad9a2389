//! TCP as a middlebox sees it (RFC 5382): enough to know how long a session deserves to be kept.
//!
//! Whoever guesses addresses and ports must not be able to end other people's connections, so a reset or a FIN counts only
//! where its sequence number is one that the far end may be waiting for; the packet itself goes on and the far end judges it
//! by more than we know (RFC 5961). What each end waits for is what it has acknowledged last.

use crate::model::Direction;
use crate::wire::Segment;
use crate::wire::tcp_flags::{ACK, FIN, RST, SYN};

/// A reset is at most this far beyond what was acknowledged: what was under way to a host that had not acknowledged it yet.
/// One guess in 65,536 meets it.
const RESET_WINDOW: u32 = 1 << 16;
/// And a FIN, which comes behind all data: what a long fat path holds. One that was missed costs memory until the session
/// is idle for too long.
const FIN_WINDOW: u32 = 1 << 20;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// A SYN went forward.
    SynSent,
    /// And one came back.
    SynReceived,
    /// Data may flow. Also where a connection begins that was under way before we saw it.
    Established,
    /// A FIN went this way.
    Closing(Direction),
    /// FINs went both ways.
    Closed,
    /// Somebody reset it.
    Reset,
}

impl TcpState {
    /// The state after a session's first segment; `None` if no session may begin with it.
    pub fn first(flags: u8) -> Option<TcpState> {
        match flags & (SYN | ACK | RST | FIN) {
            SYN => Some(TcpState::SynSent),
            // A SYN ACK answers something we have not let through, and a RST or FIN ends something we do not know.
            flags if flags & (SYN | RST | FIN) != 0 => None,
            ACK => Some(TcpState::Established),
            // Whatever comes after the SYN acknowledges something (RFC 9293 section 3.10.7.4): this is a scan.
            _ => None,
        }
    }

    /// The state after `segment` in `direction`, whose far end expects the sequence number `expected`, and whose sender has
    /// acknowledged (or, before its first segment, is to acknowledge) `acknowledged`.
    pub(super) fn next(
        self,
        direction: Direction,
        segment: &Segment,
        expected: u32,
        acknowledged: u32,
    ) -> TcpState {
        use TcpState::*;
        let mut flags = segment.flags;
        if flags & RST != 0 {
            // A call that is refused: nothing but its acknowledgment can tell it from a guess (RFC 9293 section 3.10.7.3).
            let refuses = self == SynSent && direction == Direction::Reverse;
            let counts = if refuses {
                flags & ACK != 0 && segment.acknowledgment == acknowledged
            } else {
                is_within(RESET_WINDOW, expected, segment)
            };
            return if counts { Reset } else { self };
        }
        if flags & FIN != 0 && !is_within(FIN_WINDOW, expected, segment) {
            flags &= !FIN;
        }
        match (self, direction) {
            (SynSent, Direction::Reverse) if flags & (SYN | ACK) == SYN | ACK => SynReceived,
            (SynSent, Direction::Reverse) if flags & SYN != 0 => SynReceived,
            (SynReceived, Direction::Forward) if flags & (SYN | ACK) == ACK => {
                self.finished(direction, flags, Established)
            }
            (Established | SynReceived, _) => self.finished(direction, flags, self),
            (Closing(first), _) if first != direction && flags & FIN != 0 => Closed,
            _ => self,
        }
    }

    fn finished(self, direction: Direction, flags: u8, otherwise: TcpState) -> TcpState {
        if flags & FIN != 0 { TcpState::Closing(direction) } else { otherwise }
    }

    /// Whether TCP itself has ended the session.
    pub fn is_over(self) -> bool {
        matches!(self, TcpState::Closed | TcpState::Reset)
    }

    /// In the field's words.
    pub fn name(self) -> &'static str {
        match self {
            TcpState::SynSent => "syn-sent",
            TcpState::SynReceived => "syn-received",
            TcpState::Established => "established",
            TcpState::Closing(_) => "closing",
            TcpState::Closed => "closed",
            TcpState::Reset => "reset",
        }
    }
}

/// The sequence number behind a segment's SYN, if it has one.
pub(super) fn begins_at(segment: &Segment) -> u32 {
    segment.sequence.wrapping_add(u32::from(segment.flags & SYN != 0))
}

/// What a segment's sender has acknowledged with it, if it was `before` until now: never less (RFC 9293 section 3.4).
pub(super) fn acknowledged(segment: &Segment, before: u32) -> u32 {
    let is_news = before == 0 || segment.acknowledgment.wrapping_sub(before) < 1 << 31;
    if segment.flags & ACK != 0 && is_news { segment.acknowledgment } else { before }
}

fn is_within(window: u32, expected: u32, segment: &Segment) -> bool {
    segment.sequence.wrapping_sub(expected) < window
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reverse};
    use TcpState::*;

    fn segment(flags: u8, sequence: u32) -> Segment {
        Segment { flags, sequence, acknowledgment: 0 }
    }

    #[test]
    fn the_whole_transition_table() {
        let states = [SynSent, SynReceived, Established, Closing(Forward), Closing(Reverse), Closed, Reset];
        // After a segment in this direction with these flags, the states above become:
        let table: [(Direction, u8, [TcpState; 7]); 10] = [
            (Forward, SYN, states),
            (
                Reverse,
                SYN,
                [SynReceived, SynReceived, Established, Closing(Forward), Closing(Reverse), Closed, Reset],
            ),
            (Forward, SYN | ACK, states),
            (
                Reverse,
                SYN | ACK,
                [SynReceived, SynReceived, Established, Closing(Forward), Closing(Reverse), Closed, Reset],
            ),
            (
                Forward,
                ACK,
                [SynSent, Established, Established, Closing(Forward), Closing(Reverse), Closed, Reset],
            ),
            (Reverse, ACK, states),
            (
                Forward,
                FIN | ACK,
                [SynSent, Closing(Forward), Closing(Forward), Closing(Forward), Closed, Closed, Reset],
            ),
            (
                Reverse,
                FIN | ACK,
                [SynSent, Closing(Reverse), Closing(Reverse), Closed, Closing(Reverse), Closed, Reset],
            ),
            (Forward, RST, [Reset; 7]),
            (Reverse, RST | ACK, [Reset; 7]),
        ];
        for (direction, flags, expected) in table {
            for (state, expected) in states.into_iter().zip(expected) {
                assert_eq!(
                    state.next(direction, &segment(flags, 100), 100, 0),
                    expected,
                    "{state:?} {direction:?} {flags:#04x}"
                );
            }
        }
    }

    #[test]
    fn rfc_5961_section_3_a_reset_counts_only_where_the_far_end_may_be_waiting_for_it() {
        for state in [SynReceived, Established, Closing(Forward), Closed] {
            let after = |sequence, expected| state.next(Reverse, &segment(RST, sequence), expected, 0);
            for expected in [7, 1 << 31, u32::MAX - 5] {
                assert_eq!(after(expected, expected), Reset);
                assert_eq!(after(expected.wrapping_add(RESET_WINDOW - 1), expected), Reset);
                assert_eq!(after(expected.wrapping_add(RESET_WINDOW), expected), state);
                assert_eq!(after(expected.wrapping_sub(1), expected), state);
            }
        }
    }

    #[test]
    fn rfc_9293_section_3_10_7_3_a_call_is_refused_by_whoever_knows_its_sequence_number() {
        let refusal = |flags, acknowledgment| Segment { flags, sequence: 0, acknowledgment };
        assert_eq!(SynSent.next(Reverse, &refusal(RST | ACK, 1_001), 0, 1_001), Reset);
        assert_eq!(SynSent.next(Reverse, &refusal(RST | ACK, 1_002), 0, 1_001), SynSent);
        assert_eq!(SynSent.next(Reverse, &refusal(RST, 1_001), 0, 1_001), SynSent);
    }

    #[test]
    fn a_fin_far_from_what_was_acknowledged_closes_nothing() {
        let fin = |sequence| segment(FIN | ACK, sequence);
        assert_eq!(Established.next(Reverse, &fin(5_000), 5_000, 0), Closing(Reverse));
        assert_eq!(Established.next(Reverse, &fin(4_999), 5_000, 0), Established);
        assert_eq!(Established.next(Reverse, &fin(5_000 + FIN_WINDOW), 5_000, 0), Established);
        assert_eq!(Closing(Reverse).next(Forward, &fin(77), 5_000, 0), Closing(Reverse));
    }

    #[test]
    fn acknowledgments_only_grow() {
        let ack = |acknowledgment| Segment { flags: ACK, sequence: 0, acknowledgment };
        assert_eq!(acknowledged(&ack(10), 0), 10);
        assert_eq!(acknowledged(&ack(9), 10), 10);
        assert_eq!(acknowledged(&ack(3), u32::MAX - 3), 3);
        assert_eq!(acknowledged(&Segment { flags: RST, ..ack(99) }, 10), 10);
    }

    #[test]
    fn sessions_begin_with_a_syn_or_in_the_middle_but_not_with_an_end() {
        assert_eq!(TcpState::first(SYN), Some(SynSent));
        assert_eq!(TcpState::first(ACK), Some(Established));
        for flags in [0, SYN | ACK, RST, RST | ACK, FIN, FIN | ACK] {
            assert_eq!(TcpState::first(flags), None);
        }
    }
}
