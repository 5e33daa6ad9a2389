//! TCP as a middlebox sees it (RFC 5382): enough to know how long a session deserves to be kept.

use crate::model::Direction;
use crate::wire::tcp_flags::{ACK, FIN, RST, SYN};
use std::time::Duration;

/// Established connections (RFC 5382 REQ-5: not less than 2 h 4 min).
const ESTABLISHED: Duration = Duration::from_secs(2 * 3_600 + 4 * 60);
/// Opening and closing ones (RFC 5382 REQ-5: not less than 4 min).
const TRANSITORY: Duration = Duration::from_secs(4 * 60);
/// Closed in both directions, or reset: as long as a last retransmission may take.
const CLOSED: Duration = Duration::from_secs(10);

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

    /// The state after a segment with `flags` in `direction`.
    pub fn next(self, direction: Direction, flags: u8) -> TcpState {
        use TcpState::*;
        if flags & RST != 0 {
            return Reset;
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

    /// How long a session in this state is kept without a packet.
    pub fn idle_timeout(self) -> Duration {
        match self {
            TcpState::Established => ESTABLISHED,
            TcpState::SynSent | TcpState::SynReceived | TcpState::Closing(_) => TRANSITORY,
            TcpState::Closed | TcpState::Reset => CLOSED,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reverse};
    use TcpState::*;

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
                assert_eq!(state.next(direction, flags), expected, "{state:?} {direction:?} {flags:#04x}");
            }
        }
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
