//! Updates of a box that runs from an image: how it stands, and how one is given to it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How updates stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct UpdateState {
    /// Why this box takes none; it does where there is nothing.
    pub refuses: Option<String>,
    /// What runs.
    pub version: String,
    /// Where versions are kept: the one that runs, and the one that an update takes the place of.
    pub slots: Vec<SlotRow>,
    /// What runs has not been healthy for long enough to be kept.
    pub on_trial: bool,
    /// An update is on its way, or is being installed.
    pub under_way: bool,
    /// What became of the last one.
    pub last: Option<LastUpdate>,
}

/// A place for a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SlotRow {
    pub slot: String,
    /// What is in it, as far as something whole is.
    pub version: Option<String>,
    pub runs: bool,
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LastUpdate {
    pub outcome: UpdateOutcome,
    pub version: Option<String>,
    pub detail: Option<String>,
    pub unix_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOutcome {
    /// It is in the other slot, and tried at the next boot.
    Installed,
    /// It came up healthy.
    Kept,
    /// It did not, and the one before runs.
    FellBack,
    Refused,
}

/// What is asked of an update that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateTerms {
    /// It is taken though it is not newer than what runs, or was left before.
    pub force_downgrade: bool,
    /// The box starts anew when it is installed.
    pub reboot: bool,
}

/// Why an update is not taken, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateRefusal {
    /// This box takes none, or not now.
    NotNow(String),
    /// It is none, it is not signed by whom it should be, or it is not newer.
    Wrong(String),
    /// There is no room for it.
    NoRoom(String),
    /// The box's own trouble.
    Failed(String),
}

/// Who takes updates.
pub trait UpdatePort: Send + Sync {
    /// How it stands. Reads files.
    fn state(&self) -> UpdateState;

    /// Begins to take one.
    ///
    /// # Errors
    /// Why this box takes none now.
    fn begin(&self, terms: UpdateTerms) -> Result<Box<dyn IncomingUpdate>, UpdateRefusal>;
}

/// An update on its way: dropped before it is finished, nothing of it stays. Writes files: it may take its time.
pub trait IncomingUpdate: Send {
    /// More of it.
    ///
    /// # Errors
    /// Why it is not taken, as soon as that is known: the rest need not come.
    fn write(&mut self, bytes: &[u8]) -> Result<(), UpdateRefusal>;

    /// That was all of it: it is looked at, and will be installed. Its version.
    ///
    /// # Errors
    /// Why it is not taken.
    fn finish(self: Box<Self>) -> Result<String, UpdateRefusal>;
}
