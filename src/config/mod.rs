//! Configuration: TOML files in, a [`Candidate`] out, or all problems at once as `file:line: message`.

mod appliance;
mod candidate;
mod keys;
mod problem;
mod reader;
mod scope;
mod tenant;
mod values;

pub use candidate::*;
pub use keys::{NotAKey, public_of};
pub use problem::{Problem, Problems};

use appliance::{RoleName, Surroundings};
use ipnetwork::IpNetwork;
use problem::{Ledger, Noted};
use reader::{Document, Table};
use scope::Claims;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The box's own file, in the configuration directory.
const APPLIANCE_FILE: &str = "popgate.toml";

/// The directory of the tenants' files, in the configuration directory.
const TENANTS_DIR: &str = "tenants";

/// Reads the configuration in `dir` and everything it names, or says all that is wrong with it.
pub fn load(dir: &Path) -> Result<Candidate, Problems> {
    let ledger = Ledger::default();
    let candidate = read(dir, &ledger);
    ledger.settle(candidate)
}

fn read(dir: &Path, ledger: &Ledger) -> Result<Candidate, Noted> {
    let mut around = Surroundings::default();
    let mut claims = Claims::default();
    let appliance =
        read_file(dir, APPLIANCE_FILE, ledger, |root| appliance::read(root, dir, &mut around, &mut claims));
    let stems = tenant_stems(dir, ledger);
    if let (Ok(stems), Some((RoleName::Branch, at))) = (&stems, &around.role)
        && stems.len() != 1
    {
        let found =
            if stems.is_empty() { "there is none".to_owned() } else { format!("there are {}", stems.len()) };
        ledger.note(at, format!("role: a branch box has exactly one {TENANTS_DIR}/NAME.toml; {found}"));
        // Which of them it is a branch of, nobody can say.
        around.site = None;
    }
    let tenants = stems.and_then(|stems| {
        reader::all(stems.iter().map(|stem| {
            read_file(dir, &format!("{TENANTS_DIR}/{stem}.toml"), ledger, |root| {
                tenant::read(root, stem, dir, &around, &mut claims)
            })
        }))
    });
    claims.check(ledger);
    let tenants = tenants?.into_iter().map(|tenant| (tenant.name.clone(), tenant)).collect();
    Ok(Candidate { appliance: appliance?, tenants })
}

/// Reads one file, named relative to `dir`.
fn read_file<T>(
    dir: &Path,
    name: &str,
    ledger: &Ledger,
    read: impl FnOnce(Table<'_>) -> Result<T, Noted>,
) -> Result<T, Noted> {
    let file: Arc<str> = name.into();
    let bytes = std::fs::read(dir.join(name)).map_err(|error| {
        ledger.note(&SourceRef { file: file.clone(), line: 1 }, format!("cannot be read: {error}"))
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        ledger.note(&SourceRef { file: file.clone(), line }, "not UTF-8")
    })?;
    let document = Document::new(file, text, ledger);
    let entries = document.parse()?;
    read(document.root(&entries))
}

/// The names of the tenants' files without `.toml`, in their order. Hidden files are an editor's business.
fn tenant_stems(dir: &Path, ledger: &Ledger) -> Result<Vec<String>, Noted> {
    let cannot_read = |error: std::io::Error| {
        let at = SourceRef { file: TENANTS_DIR.into(), line: 1 };
        ledger.note(&at, format!("cannot be read: {error}"))
    };
    let entries = match std::fs::read_dir(dir.join(TENANTS_DIR)) {
        Ok(entries) => entries,
        // A PoP before its first customer.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot_read(error)),
    };
    let mut stems = Vec::new();
    for entry in entries {
        let path = PathBuf::from(entry.map_err(cannot_read)?.file_name());
        let hidden = path.as_os_str().as_encoded_bytes().starts_with(b".");
        if path.extension() != Some(OsStr::new("toml")) || hidden {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default();
        match stem.to_str().ok_or_else(|| format!("bad name {stem:?}")).and_then(values::name) {
            Ok(stem) => stems.push(stem),
            Err(message) => {
                let file = format!("{TENANTS_DIR}/{}", path.to_string_lossy().escape_debug());
                ledger.note(&SourceRef { file: file.into(), line: 1 }, message);
            }
        }
    }
    stems.sort();
    Ok(stems)
}

impl Candidate {
    /// What there is, in a line: `pop fra1, 2 tenants, 3 branches, 4 paths, 12 rules`.
    pub fn summary(&self) -> String {
        let branches = self.tenants.values().flat_map(|tenant| &tenant.branches);
        let rules: usize = self.tenants.values().map(|tenant| tenant.acl.len() + tenant.nat.len()).sum();
        let site = &self.appliance.site;
        match &self.appliance.role {
            Role::Pop(_) => format!(
                "pop {site}, {}, {}, {}, {}",
                count(self.tenants.len(), "tenant", "tenants"),
                count(branches.clone().count(), "branch", "branches"),
                count(branches.map(|branch| branch.paths.len()).sum(), "path", "paths"),
                count(rules, "rule", "rules"),
            ),
            Role::Branch(branch) => format!(
                "branch {site} of {}, {}, {}, {}",
                self.tenants.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
                count(branch.pops.len(), "pop", "pops"),
                count(branch.pops.iter().map(|pop| pop.paths.len()).sum(), "path", "paths"),
                count(rules, "rule", "rules"),
            ),
        }
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
