//! What outlives the process, besides the configuration: the flow history and the NAT ledger.
//!
//! Files and no clock: whoever owns one says what time it is. Nothing here is in a packet's way.

pub mod flows;
pub mod ledger;
pub mod query;
pub mod report;
pub mod s3;
pub(crate) mod whole;

/// Folders of the state directory that hold what the box has seen, and nothing that anybody has made.
pub const DATA_DIRS: [&str; 4] =
    [flows::files::ROWS_DIR, flows::files::ROLLUPS_DIR, flows::files::LOGS_DIR, ledger::DIR_NAME];
