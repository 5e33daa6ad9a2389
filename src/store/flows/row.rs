//! A flow record in names, as it comes in and as it lies in memory until it is in a file.

use std::net::IpAddr;

/// One flow record in names; see [`super::Column`] for what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub tenant: &'a str,
    /// Milliseconds since the Unix epoch.
    pub start: u64,
    pub end: u64,
    pub session: u64,
    pub protocol: &'a str,
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub nat_source: Option<(IpAddr, u16)>,
    pub nat_destination: Option<(IpAddr, u16)>,
    pub from: &'a str,
    pub to: &'a str,
    pub class: &'a str,
    pub class_by: &'a str,
    pub app: Option<&'a str>,
    pub name: Option<&'a str>,
    pub rule: &'a str,
    pub dscp: u8,
    pub forward_path: Option<&'a str>,
    pub reverse_path: Option<&'a str>,
    pub forward: Counted,
    pub reverse: Counted,
    pub tcp_flags: u8,
    pub generation: u64,
    pub end_reason: &'a str,
}

/// Packets and IP bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}
