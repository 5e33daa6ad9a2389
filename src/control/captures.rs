//! Captures of a tenant's packets: how they are asked for, and how they stand.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Packets, seconds and bytes of each packet unless asked otherwise, and at most.
pub const PACKETS: (u32, u32) = (1_000, 100_000);
pub const SECONDS: (u32, u32) = (60, 3_600);
pub const SNAP_LENGTH: (u32, u32) = (2_048, 65_535);

/// Fewer bytes of a packet are not even its headers.
pub const LEAST_SNAP_LENGTH: u32 = 64;

/// Which side of the tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureSide {
    /// Packets in the clear: out of and into tunnels, from and to devices.
    #[default]
    Inner,
    /// The datagrams of the tunnels.
    Outer,
}

impl fmt::Display for CaptureSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CaptureSide::Inner => "inner",
            CaptureSide::Outer => "outer",
        })
    }
}

/// What is to be captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CaptureAsked {
    pub tenant: String,
    #[serde(default)]
    pub side: CaptureSide,
    /// An address or prefix that either end lies in.
    #[serde(default)]
    pub address: Option<String>,
    /// A port that either end has.
    #[serde(default)]
    pub port: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    #[serde(default)]
    pub protocol: Option<String>,
    /// It ends with so many packets.
    #[serde(default)]
    pub packets: Option<u32>,
    /// It ends after so many seconds.
    #[serde(default)]
    pub seconds: Option<u32>,
    /// So many bytes of each packet.
    #[serde(default)]
    pub snap_length: Option<u32>,
}

/// A capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CaptureRow {
    pub capture: u64,
    /// With what was left out.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub asked: CaptureAsked,
    pub began_unix_ms: u64,
    /// Whether it goes on.
    pub is_running: bool,
    pub captured_packets: u64,
    pub captured_bytes: u64,
    /// Packets that would have been captured, and found no room.
    pub lost_packets: u64,
}

/// Why a capture does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureRefusal {
    /// There is no such tenant.
    NoTenant(String),
    /// What of it is wrong, and how.
    Wrong(&'static str, String),
    /// The box has too many of them.
    Full(String),
}

/// Who captures.
pub trait CapturePort: Send + Sync {
    /// Begins one.
    ///
    /// # Errors
    /// Why not.
    fn begin(&self, asked: CaptureAsked) -> Result<CaptureRow, CaptureRefusal>;

    /// All there are, the newest first.
    fn list(&self) -> Vec<CaptureRow>;

    /// What one has captured so far, as a pcapng file, with whose it is; `None` if there is none of this number.
    fn file(&self, capture: u64) -> Option<(CaptureRow, Vec<u8>)>;

    /// Ends one and forgets it; false if there is none of this number.
    fn forget(&self, capture: u64) -> bool;
}
