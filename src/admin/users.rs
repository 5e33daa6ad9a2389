//! `popgate users`, `tokens` and `setup-link`: who may come in, put to the running box.

use super::access::{Role, setup_link};
use super::accounts::{MadeToken, NewTokenBody, NewUserBody, RoleBody, Tokens, UserChange, Users};
use super::client::{Connection, ShowError, ask, delete, patch, post, read, tell};
use super::table::{Table, or_dash, utc};
use crate::config;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Who may come in, and what they may do
#[derive(Clone, Debug, Args)]
pub struct UsersArgs {
    #[command(subcommand)]
    what: UsersWhat,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Debug, Subcommand)]
enum UsersWhat {
    /// Show all users
    List,
    /// Add a user: prints the password to tell them, which they are asked to change
    Add {
        /// Small letters, digits and . - _ @
        name: String,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Change what a user may do; they are signed out
    Set {
        name: String,
        #[command(flatten)]
        access: AccessArgs,
    },
    /// Keep a user out, with sessions and tokens, whatever they come with
    Disable { name: String },
    /// Keep a user out no more
    Enable { name: String },
    /// Remove a user, with all sessions and tokens of theirs
    Remove { name: String },
    /// Give a user another password: prints it; they are signed out, and asked to change it
    ResetPassword { name: String },
    /// Forget a user's second factor, which is lost; they are signed out, and asked to set up another
    ResetTotp { name: String },
    /// Sign a user out everywhere
    EndSessions { name: String },
}

#[derive(Clone, Debug, Args)]
struct AccessArgs {
    /// owner, operator or viewer
    #[arg(long)]
    role: Role,
    /// All they may see and touch
    #[arg(long)]
    tenant: Option<String>,
}

/// API tokens, for programs
#[derive(Clone, Debug, Args)]
pub struct TokensArgs {
    #[command(subcommand)]
    what: TokensWhat,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Debug, Subcommand)]
enum TokensWhat {
    /// Show all tokens
    List,
    /// Make a token: prints it, this once
    Add {
        /// What it is for
        name: String,
        #[command(flatten)]
        access: AccessArgs,
        /// For how long it is good, a year at most: 8h, 90d
        #[arg(long, value_parser = config::duration)]
        expires: Duration,
    },
    /// Make a token worthless
    Revoke {
        /// Its number in the list
        id: i64,
    },
}

/// Print the link that makes the first user, where there is none yet
#[derive(Clone, Debug, Args)]
pub struct SetupLinkArgs {
    /// Where the console is, for whoever opens the link
    #[arg(long, default_value = "http://127.0.0.1:8443")]
    url: String,
    /// The box's state-dir
    #[arg(long, value_name = "DIR", default_value = config::STATE_DIR)]
    state_dir: PathBuf,
}

/// Runs `popgate setup-link`.
pub fn print_setup_link(
    args: &SetupLinkArgs,
    random: impl FnOnce() -> [u8; 32],
    now_unix_ms: u64,
) -> ExitCode {
    let link = setup_link(&args.state_dir, &args.url, random, now_unix_ms);
    tell("setup-link", link.map(|link| link + "\n").map_err(ShowError::Problem))
}

/// Runs `popgate users`.
pub fn users(args: &UsersArgs, random: impl FnOnce() -> [u8; 32]) -> ExitCode {
    tell("users", users_text(args, random))
}

pub(super) fn users_text(args: &UsersArgs, random: impl FnOnce() -> [u8; 32]) -> Result<String, ShowError> {
    let to = &args.connection;
    let change = |name: &str, change: &UserChange| patch(to, &path("users", name), change);
    // 120 random bits: it need not be changed before somebody else tries it.
    let password = || URL_SAFE_NO_PAD.encode(&random()[..15]);
    match &args.what {
        UsersWhat::List => {
            let answer = ask(to, "users", Vec::new())?;
            if to.json {
                return Ok(answer + "\n");
            }
            return Ok(list(&read(&answer)?));
        }
        UsersWhat::Add { name, access } => {
            let password = password();
            let AccessArgs { role, tenant } = access.clone();
            let body = NewUserBody { name: name.clone(), role, tenant, password: password.clone() };
            post(to, "users", &body)?;
            return Ok(format!("{password}\n"));
        }
        UsersWhat::ResetPassword { name } => {
            let password = password();
            change(name, &UserChange { password: Some(password.clone()), ..UserChange::default() })?;
            return Ok(format!("{password}\n"));
        }
        UsersWhat::Set { name, access } => {
            let AccessArgs { role, tenant } = access.clone();
            change(name, &UserChange { access: Some(RoleBody { role, tenant }), ..UserChange::default() })?
        }
        UsersWhat::Disable { name } => {
            change(name, &UserChange { disabled: Some(true), ..UserChange::default() })?
        }
        UsersWhat::Enable { name } => {
            change(name, &UserChange { disabled: Some(false), ..UserChange::default() })?
        }
        UsersWhat::Remove { name } => delete(to, &path("users", name))?,
        UsersWhat::ResetTotp { name } => {
            change(name, &UserChange { reset_totp: true, ..UserChange::default() })?
        }
        UsersWhat::EndSessions { name } => {
            change(name, &UserChange { end_sessions: true, ..UserChange::default() })?
        }
    };
    Ok(String::new())
}

/// Runs `popgate tokens`.
pub fn tokens(args: &TokensArgs) -> ExitCode {
    tell("tokens", tokens_text(args))
}

pub(super) fn tokens_text(args: &TokensArgs) -> Result<String, ShowError> {
    let to = &args.connection;
    match &args.what {
        TokensWhat::List => {
            let answer = ask(to, "tokens", Vec::new())?;
            if to.json { Ok(answer + "\n") } else { Ok(list_tokens(&read(&answer)?)) }
        }
        TokensWhat::Add { name, access, expires } => {
            let AccessArgs { role, tenant } = access.clone();
            let expires_in_secs = expires.as_secs();
            let answer =
                post(to, "tokens", &NewTokenBody { name: name.clone(), role, tenant, expires_in_secs })?;
            if to.json {
                return Ok(answer + "\n");
            }
            let MadeToken { token, .. } = read(&answer)?;
            Ok(token + "\n")
        }
        TokensWhat::Revoke { id } => delete(to, &path("tokens", &id.to_string())).map(|_| String::new()),
    }
}

/// What a name cannot have in it (RFC 3986 section 2.3) is left for the box to refuse.
fn path(what: &str, name: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | '@' | ':');
    let name: String = name.chars().map(|letter| if fits(letter) { letter } else { '_' }).collect();
    format!("{what}/{name}")
}

fn list(Users { users }: &Users) -> String {
    if users.is_empty() {
        return "no users: `popgate setup-link` prints the link that makes the first\n".to_owned();
    }
    let mut table =
        Table::new(&["USER", "ROLE", "TENANT", "SECOND FACTOR", "SIGNED IN", ">SESSIONS", "TO DO"]);
    for user in users {
        let is_vouched = user.provider.is_some();
        let to_do = match (user.must_change_password, user.has_totp || is_vouched) {
            _ if user.disabled => "kept out",
            _ if user.unmapped => "no rule lets them in",
            (true, _) => "choose a password",
            (false, false) => "set up a second factor",
            (false, true) => "-",
        };
        let second = match &user.provider {
            Some(issuer) => format!("at {issuer}"),
            None => if user.has_totp { "yes" } else { "no" }.to_owned(),
        };
        table.row([
            user.name.clone(),
            user.role.to_string(),
            or_dash(user.tenant.clone()),
            second,
            or_dash(user.signed_in_unix_ms.map(utc)),
            user.sessions.to_string(),
            to_do.to_owned(),
        ]);
    }
    table.render()
}

fn list_tokens(Tokens { tokens }: &Tokens) -> String {
    if tokens.is_empty() {
        return "no tokens\n".to_owned();
    }
    let mut table = Table::new(&[">ID", "TOKEN", "MAKER", "ROLE", "TENANT", "EXPIRES", "USED"]);
    for token in tokens {
        table.row([
            token.id.to_string(),
            token.name.clone(),
            token.maker.clone(),
            token.role.to_string(),
            or_dash(token.tenant.clone()),
            utc(token.expires_unix_ms),
            or_dash(token.used_unix_ms.map(utc)),
        ]);
    }
    table.render()
}
