//! Why a packet was dropped. One variant, one counter, one row in the console, one test.

use super::{HandoffId, RuleId, SiteId};

/// Why a packet went no further. Every packet that popgate takes in and does not pass on is counted under one of these,
/// per tenant where the tenant is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    // Outside the tunnel: datagrams at the UDP port.
    /// Not a WireGuard message at all.
    NotWireGuard,
    /// A handshake message whose MAC is wrong: not meant for this box's key.
    HandshakeMacInvalid,
    /// A handshake message that did not authenticate, or is older than one already seen.
    HandshakeRefused,
    /// A handshake initiation from a public key no path has.
    PeerUnknown,
    /// A handshake from a source that sends too many.
    HandshakeRateLimited,
    /// A handshake without a valid cookie while under load; a cookie was sent.
    CookieRequired,
    /// A peer on another transport than the one its path names.
    WrongTransport,
    /// A data or response message for a receiver index no tunnel has.
    ReceiverIndexUnknown,
    /// A data message that did not authenticate.
    TunnelAuthenticationFailed,
    /// A data message whose counter was seen before, or is too old for the window.
    TunnelReplayed,
    /// A data message of a session that has expired.
    TunnelSessionExpired,
    /// A copy of a packet that has come already, by another path.
    Duplicate,
    // The inner packet itself.
    /// Not a well-formed IP packet.
    Malformed,
    /// IPv4 source routing, or an IPv6 routing header type 0 (RFC 5095, RFC 7126).
    SourceRouted,
    /// A source or destination that is never forwarded: link-local, loopback, multicast, unspecified.
    AddressNotForwarded,
    /// A fragment whose first fragment was not seen.
    FragmentUnknown,
    /// TTL or hop limit ran out; answered with ICMP time exceeded.
    TtlExpired,
    /// Larger than the path and not to be fragmented; answered with ICMP too big.
    TooBig,
    // Policy.
    /// The source address does not belong to the peer or handoff that sent it.
    SourceNotAllowed,
    /// No prefix of the tenant covers the destination.
    NoRoute,
    /// Would leave the way it came.
    HairpinRefused,
    /// An ACL rule drops it.
    AclDropped(RuleId),
    /// An ACL rule rejects it; answered with TCP RST or ICMP.
    AclRejected(RuleId),
    /// No ACL rule accepts it.
    AclDefault,
    /// No session, and this packet cannot begin one (an answer, an error, a TCP RST).
    NoSession,
    /// Nothing that the service's publisher offers at that address: another protocol or port.
    ServiceNotPublished,
    /// The service's publisher has no address for this source.
    SubscriberUnmapped,
    /// Sent to where the PoP answers hosts itself, and nothing that it answers; itself answered with TCP RST or ICMP.
    NotAnswered,
    // Translation and state.
    /// NAT64 does not lead there: the address within the prefix is not global and the prefix the well-known one (RFC 6052
    /// section 3.1), or it is not beyond the handoff. Answered with ICMP.
    Nat64Refused,
    /// It would have to become a packet of the other family and has no counterpart there (RFC 7915): a piece of an ICMP
    /// message, or of a UDP datagram without a checksum.
    Untranslatable,
    /// The handoff needs an address of a NAT pool and none is configured.
    NatRequired(HandoffId),
    /// Every port of the NAT pool is in use.
    NatPoolExhausted(HandoffId),
    /// Every port of the blocks that the branch may have of the pool is in use.
    BranchPortLimit(SiteId),
    /// The session table is full.
    SessionTableFull,
    /// The tenant has as many sessions as it may.
    TenantSessionLimit,
    /// The branch has as many sessions as it may.
    BranchSessionLimit(SiteId),
    /// The branch begins more sessions a second than it may.
    BranchSessionRate(SiteId),
    /// The answers it would get are another session's.
    SessionConflict,
    /// A session whose NAT binding, or the zone its answers are known in, the new policy no longer permits.
    NatBindingRevoked,
    // Leaving.
    /// The far site has no path to send on.
    NoPath,
    /// Every path breaks the SLA that the class's policy insists on.
    SlaViolated,
    /// The tunnel has no session yet and its queue of waiting packets is full.
    TunnelQueueFull,
    /// Its class's queue, where bandwidth is limited, was full.
    ClassQueueFull,
    /// It had waited in its class's queue for too long (CoDel, RFC 8289): senders are to slow down.
    ClassQueueStanding,
    /// The kernel would not take it: its queue was full.
    EgressQueueFull,
    /// The queue it came in by had not been empty for too long: senders are to slow down.
    QueueStanding,
    /// Another worker has its session or its tunnel, and that worker's queue was full.
    WorkerQueueFull,
    /// The handoff's device is not there.
    DeviceDown,
}

impl DropReason {
    /// The reason's name in the API, the console and metrics; kebab-case.
    pub fn name(self) -> &'static str {
        use DropReason::*;
        match self {
            NotWireGuard => "not-wireguard",
            HandshakeMacInvalid => "handshake-mac-invalid",
            HandshakeRefused => "handshake-refused",
            PeerUnknown => "peer-unknown",
            HandshakeRateLimited => "handshake-rate-limited",
            CookieRequired => "cookie-required",
            WrongTransport => "wrong-transport",
            ReceiverIndexUnknown => "receiver-index-unknown",
            TunnelAuthenticationFailed => "tunnel-authentication-failed",
            TunnelReplayed => "tunnel-replayed",
            TunnelSessionExpired => "tunnel-session-expired",
            Duplicate => "duplicate",
            Malformed => "malformed",
            SourceRouted => "source-routed",
            AddressNotForwarded => "address-not-forwarded",
            FragmentUnknown => "fragment-unknown",
            TtlExpired => "ttl-expired",
            TooBig => "too-big",
            SourceNotAllowed => "source-not-allowed",
            NoRoute => "no-route",
            HairpinRefused => "hairpin-refused",
            AclDropped(_) => "acl-dropped",
            AclRejected(_) => "acl-rejected",
            AclDefault => "acl-default",
            NoSession => "no-session",
            ServiceNotPublished => "service-not-published",
            SubscriberUnmapped => "subscriber-unmapped",
            NotAnswered => "not-answered",
            Nat64Refused => "nat64-refused",
            Untranslatable => "untranslatable",
            NatRequired(_) => "nat-required",
            NatPoolExhausted(_) => "nat-pool-exhausted",
            BranchPortLimit(_) => "branch-port-limit",
            SessionTableFull => "session-table-full",
            TenantSessionLimit => "tenant-session-limit",
            BranchSessionLimit(_) => "branch-session-limit",
            BranchSessionRate(_) => "branch-session-rate",
            SessionConflict => "session-conflict",
            NatBindingRevoked => "nat-binding-revoked",
            NoPath => "no-path",
            SlaViolated => "sla-violated",
            TunnelQueueFull => "tunnel-queue-full",
            ClassQueueFull => "class-queue-full",
            ClassQueueStanding => "class-queue-standing",
            EgressQueueFull => "egress-queue-full",
            QueueStanding => "queue-standing",
            WorkerQueueFull => "worker-queue-full",
            DeviceDown => "device-down",
        }
    }
}
