//! How exporting to a collector stands: the shape that the API, the CLI, the console and the metrics show as it is.

use super::ExportStats;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// The way to one collector, and what has gone by it since it was configured as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ExporterReport {
    /// Its name in the configuration.
    pub collector: String,
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// `ipfix`, `netflow-v9`, `sflow`.
    pub protocol: String,
    /// `udp`, `tcp`, `tls`.
    pub transport: String,
    /// There is a way to it. Of UDP that says that the box knows a route, not that anybody listens.
    pub connected: bool,
    /// How often a way was made; and how often that failed, one broke, or a datagram could not be sent.
    pub connections: u64,
    pub failures: u64,
    /// Since when it gets nothing, and why.
    pub failing_since_unix_ms: Option<u64>,
    pub problem: Option<String>,
    /// When the next connection is tried, after a failure.
    pub retry_unix_ms: Option<u64>,
    /// Records, NAT events and samples that wait for its thread, which may be waiting for a connection.
    pub waiting: u64,
    #[serde(flatten)]
    pub stats: ExportStats,
}
