//! What the ledger and the flow history answer: the shapes that the API, the CLI and the console show as they are.

mod flows;

pub use flows::*;

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// Who had an outside address and port in a span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct WhoHad {
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub port: u16,
    /// `None` if it was asked of all.
    pub protocol: Option<String>,
    /// The span that was asked about, without its end.
    pub from_unix_ms: u64,
    pub until_unix_ms: u64,
    pub answer: Answer,
    /// By when they began.
    pub holdings: Vec<Held>,
    /// What makes the answer less than sure.
    pub gaps: Vec<Gap>,
    /// Where the ledger begins: what ended before is not in it. `None` if there is no ledger.
    pub known_from_unix_ms: Option<u64>,
}

impl WhoHad {
    /// As one tenant may see it: who else had it is nobody.
    pub fn of_tenant(mut self, tenant: &str) -> WhoHad {
        self.holdings.retain(|held| held.tenant == tenant);
        if self.answer == Answer::Held && self.holdings.is_empty() {
            self.answer = if self.gaps.is_empty() { Answer::Nobody } else { Answer::NotSure };
        }
        self
    }
}

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Those in `holdings`.
    Held,
    /// Nobody, for sure.
    Nobody,
    /// Nobody that is known of, but something is missing: see `gaps`.
    NotSure,
    /// It was before the ledger begins.
    BeforeLedger,
    /// It is still to come.
    NotYet,
}

/// Somebody who had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    pub tenant: String,
    /// `None` where no branch began it.
    pub branch: Option<String>,
    /// The host; `None` where a block of ports was its branch's.
    #[schema(value_type = Option<String>)]
    pub inside: Option<IpAddr>,
    pub inside_port: Option<u16>,
    /// `None` for all.
    pub protocol: Option<String>,
    /// The ports that were held together; one and the same for a binding.
    pub first_port: u16,
    pub last_port: u16,
    pub began_unix_ms: u64,
    /// It began at that time or later: nobody saw it begin.
    pub began_unsure: bool,
    /// `None` while it lasts, as far as is known.
    pub ended_unix_ms: Option<u64>,
    /// It ended at that time or before, if at all: nobody saw it end.
    pub ended_unsure: bool,
}

/// A span of time of which the ledger does not know everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Gap {
    pub from_unix_ms: u64,
    pub until_unix_ms: u64,
    pub cause: GapCause,
    /// Beginnings and ends that are missing, where they were counted.
    pub lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GapCause {
    /// popgate did not run, or kept no ledger.
    Stopped,
    /// More came at once than there was room for on the way to the ledger.
    Overrun,
    /// It could not be written: a full disk, most of the time.
    NotWritten,
    /// What was written cannot be read any more.
    Damaged,
}

/// How the ledger stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LedgerState {
    /// Since when it cannot be written, and why.
    pub failing_since_unix_ms: Option<u64>,
    pub problem: Option<String>,
    /// Where it begins.
    pub known_from_unix_ms: Option<u64>,
    /// On disk.
    pub bytes: u64,
    /// What is held at present.
    pub open: u64,
    /// Beginnings and ends that are missing in it since the process began.
    pub lost: u64,
}

/// How the flow history stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowHistoryState {
    /// Since when it cannot be written, and why.
    pub failing_since_unix_ms: Option<u64>,
    pub problem: Option<String>,
    /// Its first record's end.
    pub known_from_unix_ms: Option<u64>,
    /// On disk, and in how many files.
    pub bytes: u64,
    pub files: u64,
    /// Records that are in the log alone, and in no file yet.
    pub in_memory: u64,
    /// Records that there was no room for since the process began.
    pub lost: u64,
    /// Files that could not be read, and were set aside.
    pub damaged: u64,
    /// `None` where nothing is copied to an object store.
    #[serde(default)]
    pub object_store: Option<ObjectStoreState>,
}

/// How the copying of the flow history's files to an object store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectStoreState {
    /// Since when nothing arrives there, and why.
    pub failing_since_unix_ms: Option<u64>,
    pub problem: Option<String>,
    /// When it is tried again.
    pub retry_unix_ms: Option<u64>,
    /// Files that are not there yet. A small one waits until its day is over, so that it is merged with others first.
    pub waiting_files: u64,
    pub waiting_bytes: u64,
    /// Since the process began: files that have arrived;
    pub sent_files: u64,
    pub sent_bytes: u64,
    /// and files that had to go, for their age or for want of room, before they had.
    pub lost_files: u64,
    pub lost_bytes: u64,
}
