//! Who asks, and what they may.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// What somebody may do; each may what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Change the configuration.
    Operator,
    /// Say who may do what.
    Owner,
}

impl Role {
    pub(crate) const ALL: [Role; 3] = [Role::Viewer, Role::Operator, Role::Owner];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Role, String> {
        let role = Role::ALL.into_iter().find(|role| role.name() == text);
        role.ok_or_else(|| format!("{text:?} is none of owner, operator, viewer"))
    }
}

/// Whoever sends a request, once that is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// A user's name, or a token's and who made it: what the audit log says.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// All they may see and touch; `None` for the whole box.
    pub(crate) tenant: Option<String>,
    pub(crate) by: By,
    /// What they have to do before anything else.
    pub(crate) pending: Option<Pending>,
}

/// What proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The secret in a file of the box.
    Console,
    /// A session's cookie, by its hash.
    Session { user: String, hash: [u8; 32] },
    /// An API token, by its number.
    Token(i64),
}

/// What a user has to do before they may do anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pending {
    /// Choose a password: somebody else knows the one they have.
    Password,
    /// Set up a second factor.
    Totp,
}

impl Principal {
    /// Root on the box.
    pub(crate) fn console() -> Principal {
        let name = super::CONSOLE_USER.to_owned();
        Principal { name, role: Role::Owner, tenant: None, by: By::Console, pending: None }
    }

    /// A user who is signed in.
    pub(crate) fn user(&self) -> Option<&str> {
        match &self.by {
            By::Session { user, .. } => Some(user),
            By::Console | By::Token(_) => None,
        }
    }
}
