//! Candidates: a tenant's file, or the box's own, as somebody wants it to be. One of each at most, kept over restarts, until
//! it is committed or given up.
//!
//! Who writes one says which text it was that they changed, by its tag: so nobody overwrites what they have not seen.

use super::revisions::{Who, hash_of};
use crate::config::{self, APPLIANCE_FILE, TENANTS_DIR};
use crate::store::whole;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use utoipa::ToSchema;

const DIR: &str = "candidates";

/// What a candidate is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `popgate.toml`.
    Appliance,
    /// `tenants/NAME.toml`.
    Tenant(String),
}

impl Scope {
    /// The tenant's name.
    pub fn tenant(&self) -> Option<String> {
        match self {
            Scope::Appliance => None,
            Scope::Tenant(name) => Some(name.clone()),
        }
    }

    /// Of the file of that name, if it is one of a configuration's.
    pub fn of_file(name: &str) -> Option<Scope> {
        if name == APPLIANCE_FILE {
            return Some(Scope::Appliance);
        }
        let tenant = name.strip_prefix(TENANTS_DIR)?.strip_prefix('/')?.strip_suffix(".toml")?;
        Some(Scope::Tenant(tenant.to_owned()))
    }

    /// The tenant whose texts these files are, if they are one's alone.
    pub fn only_tenant<'a>(files: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let mut scopes = files.into_iter().map(Scope::of_file);
        let Some(Some(Scope::Tenant(tenant))) = scopes.next() else { return None };
        scopes.all(|scope| scope == Some(Scope::Tenant(tenant.clone()))).then_some(tenant)
    }

    /// The file it is the text of.
    pub fn file(&self) -> String {
        match self {
            Scope::Appliance => APPLIANCE_FILE.to_owned(),
            Scope::Tenant(name) => format!("{TENANTS_DIR}/{name}.toml"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Appliance => f.write_str("box"),
            Scope::Tenant(name) => write!(f, "tenant:{name}"),
        }
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Scope, String> {
        match text.split_once(':') {
            None if text == "box" => Ok(Scope::Appliance),
            Some(("tenant", tenant)) if config::name(tenant).is_ok() => Ok(Scope::Tenant(tenant.to_owned())),
            _ => Err(format!("{text:?} is not \"box\" or \"tenant:NAME\"")),
        }
    }
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Draft {
    /// `box` or `tenant:NAME`.
    pub scope: String,
    #[serde(flatten)]
    pub who: Who,
    pub unix_ms: u64,
    /// The tag of the text in force that it began from; `None` where there was none.
    pub based_on: Option<String>,
    /// `None`: the file is to go.
    pub text: Option<String>,
}

impl Draft {
    /// What tells it from any other.
    pub fn tag(&self) -> String {
        tag_of(self.text.as_deref())
    }
}

/// What tells a text from any other, and from none.
pub fn tag_of(text: Option<&str>) -> String {
    text.map_or_else(|| "none".to_owned(), hash_of)
}

/// All candidates.
#[derive(Debug)]
pub struct Candidates {
    dir: PathBuf,
    drafts: BTreeMap<Scope, Draft>,
}

impl Candidates {
    /// Those in `state_dir`. What is none of ours there is passed over.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(state_dir: &Path) -> io::Result<Candidates> {
        let dir = state_dir.join(DIR);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        whole::remove_unfinished(&dir)?;
        let mut drafts = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let read = fs::read(entry?.path())?;
            let draft = serde_json::from_slice::<Draft>(&read).ok();
            if let Some(draft) = draft
                && let Ok(scope) = draft.scope.parse()
            {
                drafts.insert(scope, draft);
            }
        }
        Ok(Candidates { dir, drafts })
    }

    /// The one of that scope, if it is open.
    pub fn get(&self, scope: &Scope) -> Option<&Draft> {
        self.drafts.get(scope)
    }

    /// All that are open, by their scope.
    pub fn all(&self) -> impl Iterator<Item = (&Scope, &Draft)> {
        self.drafts.iter()
    }

    /// Keeps it in the place of what was there.
    ///
    /// # Errors
    /// The disk's: the one before is still there.
    pub fn put(&mut self, scope: Scope, draft: Draft) -> io::Result<()> {
        let json = serde_json::to_vec(&draft)?;
        whole::create(&self.path(&scope), |file| file.write_all(&json))?;
        self.drafts.insert(scope, draft);
        Ok(())
    }

    /// It is no more.
    ///
    /// # Errors
    /// The disk's: it is still there.
    pub fn remove(&mut self, scope: &Scope) -> io::Result<()> {
        whole::remove(&self.path(scope))?;
        self.drafts.remove(scope);
        Ok(())
    }

    fn path(&self, scope: &Scope) -> PathBuf {
        self.dir.join(match scope {
            Scope::Appliance => "box.json".to_owned(),
            // A name has no dot, so that no tenant's file is the box's.
            Scope::Tenant(name) => format!("tenant.{name}.json"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_the_box_or_a_tenant_and_never_a_path() {
        for text in ["box", "tenant:acme", "tenant:a-1"] {
            assert_eq!(text.parse::<Scope>().expect("a scope").to_string(), text);
        }
        for text in ["", "acme", "tenant:", "tenant:../x", "tenant:A", "tenant:-a", "box:acme", "tenant:a.b"]
        {
            assert!(text.parse::<Scope>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn candidates_are_there_after_a_restart_until_they_are_given_up() {
        let state = tempfile::tempdir().expect("a directory");
        let mut candidates = Candidates::open(state.path()).expect("empty");
        let draft = |scope: &Scope, text: Option<&str>| Draft {
            scope: scope.to_string(),
            who: Who { user: "admin".into(), from: "127.0.0.1:4000".into() },
            unix_ms: 7,
            based_on: Some("tag".into()),
            text: text.map(str::to_owned),
        };
        let (acme, appliance) = (Scope::Tenant("box".into()), Scope::Appliance);
        candidates.put(acme.clone(), draft(&acme, None)).expect("kept");
        candidates.put(appliance.clone(), draft(&appliance, Some("site = 1"))).expect("kept");
        let mut again = Candidates::open(state.path()).expect("read");
        assert_eq!(again.get(&acme), Some(&draft(&acme, None)));
        assert_eq!(again.get(&appliance).map(Draft::tag), Some(hash_of("site = 1")));
        again.remove(&acme).expect("removed");
        assert_eq!(Candidates::open(state.path()).expect("read").all().count(), 1);
    }

    #[test]
    fn files_are_of_one_tenant_alone_or_of_none() {
        let of = |files: &[&str]| Scope::only_tenant(files.iter().copied());
        assert_eq!(of(&["tenants/acme.toml"]).as_deref(), Some("acme"));
        assert_eq!(of(&["tenants/acme.toml", "tenants/acme.toml"]).as_deref(), Some("acme"));
        for files in [
            &[][..],
            &["popgate.toml"],
            &["tenants/acme.toml", "popgate.toml"],
            &["tenants/acme.toml", "tenants/b.toml"],
        ] {
            assert_eq!(of(files), None, "{files:?}");
        }
    }
}
