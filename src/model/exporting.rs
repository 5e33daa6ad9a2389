//! What a flow collector is sent, and how: said in the configuration, done by the exporter.

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportProtocol {
    /// RFC 7011.
    #[default]
    Ipfix,
    /// RFC 3954.
    NetflowV9,
    /// Version 5: packet samples and counters, no sessions.
    Sflow,
}

/// A kind of record that a collector can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// Sessions, as far as they have come.
    Flows,
    /// Who was given which outside address and ports, and who got none (RFC 8158).
    NatEvents,
}
