//! What the ledger and the flow history answer: the shapes that the API, the CLI and the console show as they are.

mod flows;

pub use flows::*;

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Who had an outside address and port in a span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WhoHad {
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

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    pub tenant: String,
    /// `None` where no branch began it.
    pub branch: Option<String>,
    /// The host; `None` where a block of ports was its branch's.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gap {
    pub from_unix_ms: u64,
    pub until_unix_ms: u64,
    pub cause: GapCause,
    /// Beginnings and ends that are missing, where they were counted.
    pub lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}
