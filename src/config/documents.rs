//! What a configuration is written in: `popgate.toml` and `tenants/NAME.toml`, as texts by their names.
//!
//! Texts and no more: the key files and certificates that they name are not among them, so documents hold no secret.

use super::problem::{Ledger, Noted};
use super::{Candidate, Problem, Problems, SourceRef, reader::Document, reader::Table, values};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The box's own file, in the configuration directory.
pub const APPLIANCE_FILE: &str = "popgate.toml";

/// The directory of the tenants' files, in the configuration directory.
pub const TENANTS_DIR: &str = "tenants";

/// Where the box keeps its state unless told otherwise.
pub const STATE_DIR: &str = "/var/lib/popgate";

/// All files of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// By name relative to the directory; what could not be read, with why.
    texts: BTreeMap<String, Result<String, Problem>>,
    /// What is wrong with the directory itself.
    stray: Vec<Problem>,
}

/// What of a tenant's file is the provider's to say: who its branches are and by which keys, what it has of the box's addresses,
/// interfaces and room, and whom of others it deals with. The rest is the tenant's own policy.
const PROVIDERS_PART: [&str; 7] =
    ["tenant", "branch", "handoff", "max-sessions", "subscriber", "subscribe", "whereabouts"];

/// Which keys of the provider's part differ between two texts of a tenant's file, both of which can be read.
pub fn providers_part(old: &str, new: &str) -> Vec<&'static str> {
    let [old, new] = [old, new].map(|text| text.parse::<toml::Table>().unwrap_or_default());
    PROVIDERS_PART.into_iter().filter(|key| old.get(*key) != new.get(*key)).collect()
}

impl Documents {
    /// The files that lie in `dir`. Hidden ones are an editor's business.
    pub fn read(dir: &Path) -> Documents {
        let mut documents = Documents::default();
        documents.texts.insert(APPLIANCE_FILE.to_owned(), read_text(dir, APPLIANCE_FILE));
        match tenant_files(dir) {
            Ok(names) => {
                for name in names {
                    match name {
                        Ok(name) => {
                            let text = read_text(dir, &name);
                            documents.texts.insert(name, text);
                        }
                        Err(problem) => documents.stray.push(problem),
                    }
                }
            }
            Err(error) => documents.stray.push(cannot_be_read(TENANTS_DIR, error)),
        }
        documents
    }

    /// Texts by their names, which must be a configuration's.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn from_texts(texts: BTreeMap<String, String>) -> Result<Documents, String> {
        if let Some(name) = texts.keys().find(|name| !is_name(name)) {
            return Err(format!("{name:?} is no file of a configuration"));
        }
        let texts = texts.into_iter().map(|(name, text)| (name, Ok(text))).collect();
        Ok(Documents { texts, stray: Vec::new() })
    }

    /// The same with another text in the place of one of them; `None` takes it away.
    pub fn with(mut self, name: &str, text: Option<String>) -> Documents {
        match text {
            Some(text) => drop(self.texts.insert(name.to_owned(), Ok(text))),
            None => drop(self.texts.remove(name)),
        }
        self
    }

    /// All texts, or `None` where one could not be read.
    pub fn texts(&self) -> Option<BTreeMap<String, String>> {
        let whole = self.stray.is_empty();
        let read = |(name, text): (&String, &Result<String, Problem>)| {
            text.as_ref().ok().map(|text| (name.clone(), text.clone()))
        };
        whole.then(|| self.texts.iter().map(read).collect())?
    }

    /// The text of that name, if there is one that can be read.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).and_then(|text| text.as_deref().ok())
    }

    /// Where the box keeps its state, as far as that can be made out: also of a configuration that is wrong.
    pub fn state_dir(&self) -> PathBuf {
        let table: Option<toml::Table> = self.text(APPLIANCE_FILE).and_then(|text| text.parse().ok());
        let written = table.and_then(|table| Some(PathBuf::from(table.get("state-dir")?.as_str()?)));
        written.filter(|path| path.is_absolute()).unwrap_or_else(|| STATE_DIR.into())
    }

    /// Checks them; the files that they name are looked for from `dir` on.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn check(&self, dir: &Path) -> Result<Candidate, Problems> {
        let ledger = Ledger::default();
        let candidate = super::read(self, dir, &ledger);
        ledger.settle(candidate)
    }

    /// The names of the tenants' files without `.toml`, in their order; fails where files were there that have none.
    pub(super) fn tenant_stems(&self, ledger: &Ledger) -> Result<Vec<&str>, Noted> {
        let mut noted = None;
        for problem in &self.stray {
            let stray = ledger.note(&problem.at, problem.message.clone());
            // A file with a bad name is nobody's, and the others are still there.
            if problem.at.file.as_ref() == TENANTS_DIR {
                noted = Some(stray);
            }
        }
        let stems = self.texts.keys().filter_map(|name| stem(name)).collect();
        noted.map_or(Ok(stems), Err)
    }

    /// Reads one of them by `read`.
    pub(super) fn read_one<T>(
        &self,
        name: &str,
        ledger: &Ledger,
        read: impl FnOnce(Table<'_>) -> Result<T, Noted>,
    ) -> Result<T, Noted> {
        let file: Arc<str> = name.into();
        match self.texts.get(name) {
            Some(Ok(text)) => {
                let document = Document::new(file, text, ledger);
                let entries = document.parse()?;
                read(document.root(&entries))
            }
            Some(Err(problem)) => Err(ledger.note(&problem.at, problem.message.clone())),
            None => Err(ledger.note(&SourceRef { file, line: 1 }, "there is none")),
        }
    }
}

/// Whether a configuration may have a file of this name.
fn is_name(name: &str) -> bool {
    name == APPLIANCE_FILE || stem(name).is_some_and(|stem| values::name(stem).is_ok())
}

/// The NAME of `tenants/NAME.toml`.
fn stem(name: &str) -> Option<&str> {
    name.strip_prefix(TENANTS_DIR)?.strip_prefix('/')?.strip_suffix(".toml")
}

fn read_text(dir: &Path, name: &str) -> Result<String, Problem> {
    let bytes = std::fs::read(dir.join(name)).map_err(|error| cannot_be_read(name, error))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        Problem { at: SourceRef { file: name.into(), line }, message: "not UTF-8".to_owned() }
    })
}

fn cannot_be_read(name: &str, error: std::io::Error) -> Problem {
    Problem { at: SourceRef { file: name.into(), line: 1 }, message: format!("cannot be read: {error}") }
}

/// The tenants' files, each by its name or with what is wrong with that.
fn tenant_files(dir: &Path) -> std::io::Result<Vec<Result<String, Problem>>> {
    let entries = match std::fs::read_dir(dir.join(TENANTS_DIR)) {
        Ok(entries) => entries,
        // A PoP before its first customer.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = PathBuf::from(entry?.file_name());
        let hidden = path.as_os_str().as_encoded_bytes().starts_with(b".");
        if path.extension() != Some(OsStr::new("toml")) || hidden {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default();
        let name = stem.to_str().ok_or_else(|| format!("bad name {stem:?}")).and_then(values::name);
        names.push(name.map(|stem| format!("{TENANTS_DIR}/{stem}.toml")).map_err(|message| {
            let file = format!("{TENANTS_DIR}/{}", path.to_string_lossy().escape_debug());
            Problem { at: SourceRef { file: file.into(), line: 1 }, message }
        }));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_policy_is_its_own_and_what_it_has_of_the_box_the_providers() {
        let old = "tenant = \"acme\"\n[[branch]]\nname = \"berlin\"\n[[acl]]\nname = \"out\"\n";
        assert_eq!(providers_part(old, &old.replace("out", "in")), [""; 0]);
        assert_eq!(providers_part(old, &format!("# a word\n{old}")), [""; 0]);
        assert_eq!(providers_part(old, &old.replace("berlin", "lyon")), ["branch"]);
        assert_eq!(
            providers_part(old, &format!("max-sessions = 7\n{old}[[handoff]]\n")),
            ["handoff", "max-sessions"]
        );
    }

    #[test]
    fn only_a_configurations_own_files_are_documents() {
        let of = |name: &str| Documents::from_texts([(name.to_owned(), String::new())].into());
        for name in ["popgate.toml", "tenants/acme.toml", "tenants/a-1.toml"] {
            assert!(of(name).is_ok(), "{name}");
        }
        for name in
            ["", "other.toml", "tenants/../acme.toml", "tenants/Acme.toml", "tenants/.toml", "/popgate.toml"]
        {
            assert!(of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn where_the_state_is_kept_can_be_made_out_of_a_configuration_that_is_wrong() {
        let of = |text: &str| Documents::default().with(APPLIANCE_FILE, Some(text.to_owned())).state_dir();
        assert_eq!(of("state-dir = \"/srv/pg\"\nrole = 7"), Path::new("/srv/pg"));
        for text in ["", "role = \"pop\"", "state-dir = \"pg\"", "state-dir = \"/srv/pg", "state-dir = 1"] {
            assert_eq!(of(text), Path::new(STATE_DIR), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_problem_of_its_own_and_no_text() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(TENANTS_DIR)).expect("made");
        std::fs::write(dir.path().join(APPLIANCE_FILE), b"site = \"fra1\"\n\xff").expect("written");
        let documents = Documents::read(dir.path());
        assert_eq!((documents.texts(), documents.text(APPLIANCE_FILE)), (None, None));
        let problems = documents.check(dir.path()).expect_err("not UTF-8");
        assert_eq!(problems.to_string(), "popgate.toml:2: not UTF-8\n");
    }
}
