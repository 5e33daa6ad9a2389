//! From when on the history has everything. What has gone for its age or for want of room has gone for good, and whoever asks
//! about such a time is to know it: a sum over less than all looks like any other.

use crate::store::whole;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "begins.json";

/// Milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Begins {
    /// When the history was begun: what ended before was never in it.
    history: u64,
    /// By tenant, where some has gone: what ended before may not be there.
    #[serde(default)]
    rows: BTreeMap<String, u64>,
    #[serde(default)]
    rollups: BTreeMap<String, u64>,
}

impl Begins {
    /// As it is written in `dir`, or of a history that begins at `history`.
    pub(super) fn read(dir: &Path, history: u64) -> io::Result<Begins> {
        match fs::read(path(dir)) {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!("flow history: {}: {error}", path(dir).display());
                Begins { history, ..Begins::default() }
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Begins { history, ..Begins::default() }),
            Err(error) => Err(error),
        }
    }

    /// Writes it down in `dir`.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        whole::create(&path(dir), |file| file.write_all(&text)).map(|_| ())
    }

    /// Of `tenant`, what ended before `until` goes.
    pub(super) fn goes(&mut self, tenant: &str, is_rollup: bool, until: u64) {
        let gone = if is_rollup { &mut self.rollups } else { &mut self.rows };
        let before = gone.entry(tenant.to_owned()).or_default();
        *before = until.max(*before);
    }

    /// From when on there is everything, of one tenant or of all.
    pub(super) fn from(&self, tenant: Option<&str>, is_rollup: bool) -> u64 {
        let gone = if is_rollup { &self.rollups } else { &self.rows };
        let gone = match tenant {
            Some(tenant) => gone.get(tenant),
            None => gone.values().max(),
        };
        self.history.max(gone.copied().unwrap_or_default())
    }
}

fn path(dir: &Path) -> PathBuf {
    super::files::logs_dir(dir).join(NAME)
}
