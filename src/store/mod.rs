//! What outlives the process, besides the configuration: the flow history and the NAT ledger.
//!
//! Files and no clock: whoever owns one says what time it is. Nothing here is in a packet's way.

pub mod flows;
pub mod ledger;
pub mod query;
pub mod report;
pub mod s3;
pub(crate) mod whole;
