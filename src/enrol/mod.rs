//! Enrolment: a branch that has nothing but a code gets its configuration, and the PoP its keys.
//!
//! 1 An operator makes a [`Code`] at the PoP and gives it to whoever is at the branch. 2 The branch asks the PoP, which it knows by
//! the pin in the code, what paths it is to have. 3 It makes a key pair for each, which stays with it, and claims the code with
//! the public halves and a [`proof`] that it has the private ones. 4 The operator sees and approves it: [`insert`] writes the keys into
//! the tenant's file, which is committed as any change is. 5 The branch, which asks every two seconds, gets the tenant's file,
//! writes its own ([`branch`]) and says that it is done.
//!
//! The code opens one branch once. Whoever has it and comes later is told so; who does not have it learns nothing.

pub mod branch;
mod code;
pub mod insert;
mod lan;
pub mod proof;

/// What an enrolment that is under way says that it waits for, in the state directory: for the screen at the box's console.
pub const PROGRESS_FILE: &str = "enrolment-progress";

pub use code::{Address, Code, MOST_ADDRESSES, NotACode, Secret};
pub use lan::{Lan, LanAsked};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a branch asks with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Claim {
    /// The code's secret, in letters as the code has them.
    pub secret: String,
    pub step: Step,
    /// The branch's popgate.
    pub version: String,
    /// One for each path; none to look.
    pub keys: Vec<ClaimedKey>,
}

/// How far a branch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It wants to know its paths. That takes nothing.
    Look,
    /// It takes the code; and asks again until it is approved.
    Claim,
    /// It has what it needs.
    Done,
}

/// A path's public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClaimedKey {
    pub path: String,
    /// Base64, as WireGuard has it.
    pub public_key: String,
    /// What only who has the private half, or the PoP's, can make of this claim; base64.
    pub proof: String,
}

/// What the PoP answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Offer {
    pub state: State,
    /// The PoP's name.
    pub pop: String,
    pub paths: Vec<OfferedPath>,
    /// What its LAN is to be.
    #[serde(default)]
    pub lan: Lan,
    /// The tenant and its policy, once it is approved.
    pub tenant: Option<TenantFile>,
}

/// A path that a branch is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct OfferedPath {
    pub name: String,
    /// The PoP's transport.
    pub transport: String,
    /// Where that is dialled: an address and a port.
    #[schema(value_type = String)]
    pub endpoint: std::net::SocketAddr,
}

/// A tenant's policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantFile {
    pub name: String,
    pub text: String,
}

/// How an enrolment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nobody has used the code.
    Open,
    /// A box has, and waits to be approved.
    Claimed,
    /// Its keys are in force; it has not said yet that it has its configuration.
    Approved,
    Finished,
    Refused,
    /// Nobody had used it in time.
    Expired,
    Revoked,
}

impl State {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Claimed => "claimed",
            State::Approved => "approved",
            State::Finished => "finished",
            State::Refused => "refused",
            State::Expired => "expired",
            State::Revoked => "revoked",
        }
    }

    /// The one that is so written.
    pub fn by_name(name: &str) -> Option<State> {
        [
            State::Open,
            State::Claimed,
            State::Approved,
            State::Finished,
            State::Refused,
            State::Expired,
            State::Revoked,
        ]
        .into_iter()
        .find(|state| state.name() == name)
    }
}
