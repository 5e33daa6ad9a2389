//! What became of the last update, in a file that everybody on the box may read.

use super::version::Version;
use crate::control::updates::{LastUpdate, UpdateOutcome};
use crate::store::whole;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const FILE: &str = "/var/lib/popgate-update/status.toml";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is in the other slot, and tried at the next boot.
    Installed,
    /// It came up healthy.
    Kept,
    /// It did not, and the one before runs.
    FellBack,
    Refused,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    outcome: Option<Outcome>,
    version: Option<String>,
    detail: Option<String>,
    /// Seconds since 1970.
    at: Option<u64>,
    /// The last version that was left.
    pub failed: Option<String>,
    /// What is in them, as the environment block said when this was written: the block itself is root's.
    #[serde(default)]
    pub slots: BTreeMap<String, String>,
}

impl Status {
    /// What is known; nothing is where nothing can be read.
    pub fn read() -> Status {
        fs::read_to_string(FILE).ok().and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
    }

    pub fn note(&mut self, outcome: Outcome, version: Option<&Version>, detail: String, now_unix: u64) {
        self.outcome = Some(outcome);
        self.version = version.map(Version::to_string);
        self.detail = Some(detail).filter(|it| !it.is_empty());
        self.at = Some(now_unix);
        if outcome == Outcome::FellBack {
            self.failed.clone_from(&self.version);
        }
    }

    pub fn is(&self, outcome: Outcome) -> bool {
        self.outcome == Some(outcome)
    }

    /// Of the last update.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The last update, as the API tells it.
    pub fn last(&self) -> Option<LastUpdate> {
        Some(LastUpdate {
            outcome: match self.outcome? {
                Outcome::Installed => UpdateOutcome::Installed,
                Outcome::Kept => UpdateOutcome::Kept,
                Outcome::FellBack => UpdateOutcome::FellBack,
                Outcome::Refused => UpdateOutcome::Refused,
            },
            version: self.version.clone(),
            detail: self.detail.clone(),
            unix_ms: self.at.map(|at| at.saturating_mul(1_000)),
        })
    }

    /// What is not over yet; `on_trial`: this boot was one of a version's tries.
    pub fn news(&self, on_trial: bool) -> Option<String> {
        match self.outcome {
            Some(Outcome::Installed) if on_trial => {
                let version = self.version.as_deref().unwrap_or("this version");
                Some(format!("{version} is on trial: it is kept when it is healthy"))
            }
            Some(Outcome::Installed | Outcome::FellBack) => Some(self.to_string().trim_end().to_owned()),
            _ => None,
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// If it cannot be written: then what was known stays.
    pub fn write(&self) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        fs::create_dir_all(Path::new(FILE).parent().unwrap_or(Path::new("/")))?;
        whole::create(Path::new(FILE), |file| {
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.write_all(text.as_bytes())
        })?;
        Ok(())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("a version");
        let detail = self.detail.as_deref().unwrap_or_default();
        match self.outcome {
            None => writeln!(f, "no update was installed yet"),
            Some(Outcome::Installed) => writeln!(f, "{version} is installed, and tried at the next boot"),
            Some(Outcome::Kept) => writeln!(f, "{version} came up healthy, and is kept"),
            Some(Outcome::FellBack) => writeln!(f, "{version} did not come up healthy: the box fell back"),
            Some(Outcome::Refused) => writeln!(f, "refused {detail}"),
        }
    }
}
