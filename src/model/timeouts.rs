//! How long sessions are kept without a packet.

use std::time::Duration;

/// Idle timeouts by what a session is. The defaults are the RFCs'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Connections on which data may flow (RFC 5382 REQ-5: not less than 2 h 4 min).
    pub tcp_established: Duration,
    /// Opening, closing and closed ones, and those that were reset (RFC 5382 REQ-5: not less than 4 min; RFC 7857
    /// section 2.2).
    pub tcp_transitory: Duration,
    /// RFC 4787 REQ-5: 5 minutes recommended, not less than 2.
    pub udp: Duration,
    /// ICMP queries (RFC 5508 REQ-2: not less than 60 s).
    pub icmp: Duration,
    /// Protocols that popgate knows no states of: GRE, ESP, ...
    pub other: Duration,
}

impl Timeouts {
    /// The RFCs' values.
    pub const DEFAULT: Timeouts = Timeouts {
        tcp_established: Duration::from_secs(2 * 3_600 + 4 * 60),
        tcp_transitory: Duration::from_secs(4 * 60),
        udp: Duration::from_secs(5 * 60),
        icmp: Duration::from_secs(60),
        other: Duration::from_secs(5 * 60),
    };
}
