//! The words everything else is written in: ids, the flow key, time, and why a packet was dropped.
//!
//! Nothing here knows of sockets, files or policy; every other module may import this one.

mod asked;
mod class;
mod drop;
mod exporting;
mod id;
mod key;
mod name;
mod prefix;
mod queueing;
mod role;
mod sla;
mod time;
mod timeouts;
mod wheel;

pub use asked::{AskedEnd, AskedFlow, AskedPort, AskedTime, AskedWhen, NotATime, NotAnEnd, NotWhen};
pub use class::{ClassBy, NameSource, Named};
pub use drop::DropReason;
pub use exporting::{ExportProtocol, RecordKind};
pub use id::{
    AppId, ClassId, DeviceId, DomainId, HandoffId, Id, IdMap, MAX_WORKERS, PathId, RuleId, SiteId, TenantId,
    TransportId, WORKER_BITS,
};
pub use key::{Direction, End, FlowKey, NextHop, Protocol, Zone};
pub use name::{HostName, NotAHostName, WHEREABOUTS};
pub use prefix::{Nat64Prefix, PrefixMap, may_be_forwarded};
pub use queueing::{Queueing, Rate};
pub use role::Role;
pub use sla::{MAX_SLA_POLICIES, OnViolation, Remediation, Resilience, Share, SlaLimit, SlaLimits};
pub use time::{Civil, Instant, Now};
pub use timeouts::Timeouts;
pub use wheel::Wheel;
