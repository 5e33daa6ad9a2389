//! Who asks, and what they may.

use crate::model::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
