//! Packets: checked views of what is on the wire, changes in place, answers of our own, and the batches they travel in.
//!
//! A packet is parsed once ([`parse()`]), and everything after works at the offsets found. What a peer can send reaches
//! nothing here that could panic on it: `tests/corpus` and the property tests below see to that.

#![forbid(unsafe_code)]

mod answer;
mod assembly;
mod batch;
mod checksum;
mod coalesce;
mod dns;
mod http;
mod inspect;
mod listener;
mod offload;
mod outbound;
mod parse;
mod quic;
mod rewrite;
mod siit;
#[cfg(test)]
mod tests;
mod tls;

pub use answer::{
    IcmpError, echo_reply, echo_request, fragment, icmp_error, may_answer, tcp_reset, tcp_segment, udp,
    udp_back, udp_v6,
};
pub use batch::{Batch, Handover, Ingress, SLOT_BYTES};
pub use checksum::{add as add_sums, pseudo_header, sum as checksum};
pub use dns::{DNS_PORT, DnsAddress, DnsQuestion, DnsResponse, dns_messages};
pub use http::HttpRequest;
pub use inspect::{Inspection, NamedBy, Progress};
pub use listener::{Heard, Listener, reply};
pub use offload::{complete, lose_last, prepare, split};
pub use outbound::{Landing, MAX_PIECES, Offload, Outbound, ToDevice};
pub use parse::{Embedded, Fragment, Parsed, Segment, Upper, parse, parse_ip, parse_super, tcp_flags};
pub use rewrite::{
    Side, clamp_mss, decrement_ttl, mark_congested, set_dscp, traffic_class, translate, translate_embedded,
};
pub use siit::{Change, Ends, change_family, mtu_across};
