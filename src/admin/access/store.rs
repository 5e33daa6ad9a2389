//! Users, their sessions and API tokens, in SQLite at `STATE-DIR/users.db`. Of what somebody could come in with only hashes are
//! kept: argon2id of passwords, and SHA-256 of sessions' and tokens' secrets, which are random and as long. The secrets of
//! second factors have to be there as they are.
//!
//! Every call may wait for the disk.

use super::enrolments;
use super::principal::{By, Pending, Principal};
use super::totp::Secret;
use crate::model::Role;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use utoipa::ToSchema;

/// The database's file in the state directory.
pub(crate) const FILE_NAME: &str = "users.db";

/// 30 minutes in which nothing is asked.
pub(crate) const IDLE_MS: u64 = 30 * 60_000;
/// 12 hours: a working day.
pub(crate) const LIFETIME_MS: u64 = 12 * 3_600_000;
/// When a session was last used is written this often: a console asks every second.
const USED_EVERY_MS: u64 = 60_000;
/// A year.
pub(crate) const LONGEST_TOKEN_MS: u64 = 366 * 86_400_000;

/// 30 days: whoever signs in at a provider and has not been there for so long may have been taken away there, and their tokens
/// open nothing until they have.
pub(crate) const LONGEST_ABSENCE_MS: u64 = 30 * 86_400_000;

/// 16 sessions of a user, and then the oldest goes; 1,000 users; 100 tokens that somebody has made.
const MOST_SESSIONS: i64 = 16;
const MOST_USERS: i64 = 1_000;
const MOST_TOKENS: i64 = 100;

const SCHEMA: &str = "
    CREATE TABLE users (
        name TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        tenant TEXT,
        password TEXT NOT NULL,
        must_change INTEGER NOT NULL,
        totp BLOB,
        totp_step INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        signed_in_ms INTEGER
    ) STRICT;
    CREATE TABLE sessions (
        hash BLOB PRIMARY KEY,
        user TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
        created_ms INTEGER NOT NULL,
        used_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE tokens (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE,
        maker TEXT REFERENCES users ON DELETE CASCADE,
        role TEXT NOT NULL,
        tenant TEXT,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        used_ms INTEGER
    ) STRICT;
    PRAGMA user_version = 1;
";

/// Who is kept out; and those who sign in at a provider: whom it knows them as, and in which groups, as JSON.
const WITH_PROVIDER: &str = "
    ALTER TABLE users ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE users ADD COLUMN unmapped INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE users ADD COLUMN issuer TEXT;
    ALTER TABLE users ADD COLUMN subject TEXT;
    ALTER TABLE users ADD COLUMN groups TEXT;
    CREATE UNIQUE INDEX identities ON users (issuer, subject);
    PRAGMA user_version = 2;
";

/// Of users: an owner keeps them out by no switch, and if they sign in at a provider, a rule lets them in.
const ADMITTED: &str = "users.disabled = 0 AND users.unmapped = 0";

/// A secret's hash.
pub(crate) type Hash = [u8; 32];

/// A user, as one is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    pub name: String,
    pub role: Role,
    /// All they may see and touch; `None` for the whole box.
    pub tenant: Option<String>,
    /// The provider that they sign in at; `None`: here, with a password.
    pub provider: Option<String>,
    /// An owner keeps them out.
    pub disabled: bool,
    /// They sign in at a provider, and no rule lets them in any more.
    pub unmapped: bool,
    /// They have a second factor here; without one they are asked to set one up.
    pub has_totp: bool,
    /// Somebody else knows their password: they are asked to choose one.
    pub must_change_password: bool,
    pub created_unix_ms: u64,
    pub signed_in_unix_ms: Option<u64>,
    /// Sessions that are open.
    pub sessions: u64,
}

/// An API token, as one is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ApiToken {
    pub id: i64,
    pub name: String,
    /// Who made it; it goes when they go, and never may more than they.
    pub maker: String,
    pub role: Role,
    pub tenant: Option<String>,
    pub created_unix_ms: u64,
    pub expires_unix_ms: u64,
    pub used_unix_ms: Option<u64>,
}

/// What there is to check a sign-in with.
pub(crate) struct Credentials {
    pub(crate) password: String,
    pub(crate) totp: Option<Secret>,
    pub(crate) totp_step: u64,
}

/// A user to be.
pub(crate) struct NewUser<'a> {
    pub(crate) name: &'a str,
    pub(crate) role: Role,
    pub(crate) tenant: Option<&'a str>,
    /// As [`super::password::hash`] made it.
    pub(crate) password: &'a str,
    pub(crate) must_change_password: bool,
    /// With the step whose code was taken last.
    pub(crate) totp: Option<(Secret, u64)>,
}

/// Somebody whom a provider vouches for.
pub(crate) struct Vouched<'a> {
    pub(crate) issuer: &'a str,
    /// Theirs alone at that provider, and for ever (OpenID Connect Core section 2).
    pub(crate) subject: &'a str,
    /// What they are shown as, if they are new here.
    pub(crate) name: &'a str,
    pub(crate) groups: &'a [String],
}

/// A role, and all that it is for; `None` for the whole box.
pub(crate) type May = (Role, Option<String>);

/// What somebody may whom this issuer vouches for, and who is in these groups; `None`: not come in.
pub(crate) type Rules<'a> = &'a dyn Fn(&str, &[String]) -> Option<May>;

/// What has become of somebody whom a provider vouches for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The user's name; `is_new` if they have not been here before.
    Admitted {
        name: String,
        may: May,
        is_new: bool,
    },
    Unmapped,
    /// An owner keeps this user out.
    Disabled {
        name: String,
    },
    /// Somebody else of that provider has the name.
    Taken,
}

/// A token to be.
pub(crate) struct NewToken<'a> {
    pub(crate) name: &'a str,
    pub(crate) hash: &'a Hash,
    /// `None`: root on the box.
    pub(crate) maker: Option<&'a str>,
    pub(crate) role: Role,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) expires_unix_ms: u64,
}

/// Why it is not done; for whoever asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("there is no {0}")]
    Unknown(String),
    #[error("{0}")]
    Conflict(String),
    #[error("the users' database: {0}")]
    Failed(#[from] rusqlite::Error),
}

pub(crate) type Stored<T> = Result<T, StoreError>;

pub(crate) struct Store(pub(super) Connection);

impl Store {
    /// Opens the database in `state_dir`, or makes it; for nobody but its owner.
    ///
    /// # Errors
    /// The disk's; or others can read it, which is not put right quietly: they may have.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Store> {
        let path = state_dir.join(FILE_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let mode = file.metadata()?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let why = format!("{}: may be read by others (mode {mode:04o}): chmod 600 it", path.display());
            return Err(io::Error::other(why));
        }
        let failed = |error| io::Error::other(format!("{}: {error}", path.display()));
        Connection::open(&path).and_then(Store::begin).map_err(failed)
    }

    /// One that is gone with the process.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn in_memory() -> io::Result<Store> {
        Connection::open_in_memory().and_then(Store::begin).map_err(io::Error::other)
    }

    fn begin(connection: Connection) -> rusqlite::Result<Store> {
        connection.execute_batch(
            "PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;",
        )?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let steps = [SCHEMA, WITH_PROVIDER, enrolments::SCHEMA, enrolments::WITH_LAN];
        let missing = steps.get(usize::try_from(version).unwrap_or(usize::MAX)..).unwrap_or_default();
        if !missing.is_empty() {
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {} COMMIT;", missing.concat()))?;
        }
        Ok(Store(connection))
    }

    // --- users

    /// Whether anybody signs in here: whoever does so at a provider makes no box's first owner.
    pub(crate) fn has_users(&self) -> Stored<bool> {
        Ok(self
            .0
            .query_row("SELECT EXISTS (SELECT 1 FROM users WHERE issuer IS NULL)", [], |row| row.get(0))?)
    }

    /// By name.
    pub(crate) fn users(&self, now: u64) -> Stored<Vec<User>> {
        let live = "SELECT count(*) FROM sessions WHERE user = name AND used_ms > ?1 AND created_ms > ?2";
        let mut statement = self.0.prepare(&format!(
            "SELECT name, role, tenant, totp IS NOT NULL, must_change, created_ms, signed_in_ms, ({live}), \
             issuer, disabled, unmapped FROM users ORDER BY name"
        ))?;
        let since = (before(now, IDLE_MS), before(now, LIFETIME_MS));
        let users = statement.query_map(since, |row| {
            Ok(User {
                name: row.get(0)?,
                role: role(row, 1)?,
                tenant: row.get(2)?,
                has_totp: row.get(3)?,
                must_change_password: row.get(4)?,
                created_unix_ms: millis(row, 5)?,
                signed_in_unix_ms: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
                sessions: millis(row, 7)?,
                provider: row.get(8)?,
                disabled: row.get(9)?,
                unmapped: row.get(10)?,
            })
        })?;
        Ok(users.collect::<rusqlite::Result<_>>()?)
    }

    /// # Errors
    /// There is no such user.
    pub(crate) fn expect_user(&self, name: &str) -> Stored<()> {
        let found = self.count("SELECT count(*) FROM users WHERE name = ?1", [name])?;
        self.changed(name, usize::from(found > 0))
    }

    /// `None` if there is no such user, or none who signs in with a password.
    pub(crate) fn credentials(&self, name: &str) -> Stored<Option<Credentials>> {
        let sql =
            "SELECT password, totp, totp_step FROM users WHERE name = ?1 AND issuer IS NULL AND disabled = 0";
        let found = self.0.query_row(sql, [name], |row| {
            let totp: Option<Vec<u8>> = row.get(1)?;
            let totp = totp.as_deref().and_then(Secret::from_bytes);
            Ok(Credentials { password: row.get(0)?, totp, totp_step: millis(row, 2)? })
        });
        Ok(found.optional()?)
    }

    pub(crate) fn add_user(&self, user: &NewUser<'_>, now: u64) -> Stored<()> {
        let NewUser { name, role, tenant, password, must_change_password, totp } = user;
        if self.count("SELECT count(*) FROM users", [])? >= MOST_USERS {
            return Err(StoreError::Conflict(format!("there are {MOST_USERS} users already")));
        }
        let (secret, step) = match totp {
            Some((secret, step)) => (Some(secret.bytes()), step.cast_signed()),
            None => (None, 0),
        };
        let added = self.0.execute(
            "INSERT INTO users (name, role, tenant, password, must_change, totp, totp_step, created_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
            params![
                name,
                role.name(),
                tenant,
                password,
                must_change_password,
                secret,
                step,
                now.cast_signed()
            ],
        )?;
        if added == 0 {
            Err(StoreError::Conflict(format!("there is a user {name:?} already")))
        } else {
            Ok(())
        }
    }

    /// The first user, if there is none yet.
    pub(crate) fn add_first_user(&mut self, user: &NewUser<'_>, now: u64) -> Stored<()> {
        if self.has_users()? {
            return Err(StoreError::Conflict("there are users already".to_owned()));
        }
        self.add_user(user, now)
    }

    /// A role and a tenant. What they had under the old ones ends.
    pub(crate) fn set_role(&mut self, name: &str, role: Role, tenant: Option<&str>) -> Stored<()> {
        if role != Role::Owner {
            self.spare_last_owner(name)?;
        }
        let sql = "UPDATE users SET role = ?2, tenant = ?3 WHERE name = ?1";
        self.changed(name, self.0.execute(sql, params![name, role.name(), tenant])?)?;
        self.end_sessions(name, None)
    }

    pub(crate) fn set_password(&self, name: &str, password: &str, must_change: bool) -> Stored<()> {
        let sql = "UPDATE users SET password = ?2, must_change = ?3 WHERE name = ?1";
        self.changed(name, self.0.execute(sql, params![name, password, must_change])?)
    }

    /// A second factor and the step whose code was taken last; or none.
    pub(crate) fn set_totp(&self, name: &str, totp: Option<(Secret, u64)>) -> Stored<()> {
        let (secret, step) = totp.map_or((None, 0), |(secret, step)| (Some(secret), step));
        let bytes = secret.as_ref().map(Secret::bytes);
        let sql = "UPDATE users SET totp = ?2, totp_step = ?3 WHERE name = ?1";
        self.changed(name, self.0.execute(sql, params![name, bytes, step.cast_signed()])?)
    }

    /// Takes a code's step; false if it, or a later one, was taken meanwhile.
    pub(crate) fn take_step(&self, name: &str, step: u64) -> Stored<bool> {
        let sql = "UPDATE users SET totp_step = ?2 WHERE name = ?1 AND totp_step < ?2";
        Ok(self.0.execute(sql, params![name, step.cast_signed()])? == 1)
    }

    /// Kept out from now on, with what they have; or not any more.
    pub(crate) fn set_disabled(&self, name: &str, disabled: bool) -> Stored<()> {
        if disabled {
            self.spare_last_owner(name)?;
        }
        let sql = "UPDATE users SET disabled = ?2 WHERE name = ?1";
        self.changed(name, self.0.execute(sql, params![name, disabled])?)
    }

    /// With all they had: sessions and tokens.
    pub(crate) fn remove_user(&self, name: &str) -> Stored<()> {
        self.spare_last_owner(name)?;
        self.changed(name, self.0.execute("DELETE FROM users WHERE name = ?1", [name])?)
    }

    fn spare_last_owner(&self, name: &str) -> Stored<()> {
        // Whom a provider vouches for is no owner any more when it is gone.
        let owners = "SELECT count(*) FROM users WHERE role = 'owner' AND issuer IS NULL AND disabled = 0";
        let others = &format!("{owners} AND name <> ?1");
        let is_owner = &format!("{owners} AND name = ?1");
        if self.count(is_owner, [name])? > 0 && self.count(others, [name])? == 0 {
            return Err(StoreError::Conflict(format!(
                "{name} is the last owner: make somebody else one first"
            )));
        }
        Ok(())
    }

    fn changed(&self, name: &str, rows: usize) -> Stored<()> {
        if rows == 0 { Err(StoreError::Unknown(format!("user {name:?}"))) } else { Ok(()) }
    }

    fn count(&self, sql: &str, parameters: impl rusqlite::Params) -> Stored<i64> {
        Ok(self.0.query_row(sql, parameters, |row| row.get(0))?)
    }

    // --- whom a provider vouches for

    /// Who comes from a provider is the user who came with that subject before, or is new. What they may is what the rules say by
    /// now; what they had while that was something else ends.
    pub(crate) fn vouched(&mut self, vouched: &Vouched<'_>, rules: Rules<'_>, now: u64) -> Stored<Entry> {
        let Vouched { issuer, subject, name, groups } = vouched;
        let may = rules(issuer, groups);
        let groups = serde_json::to_string(groups).unwrap_or_default();
        let known = self.0.query_row(
            "SELECT name, disabled FROM users WHERE issuer = ?1 AND subject = ?2",
            [issuer, subject],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)),
        );
        let known = known.optional()?;
        if let Some((name, _)) = &known {
            self.0.execute("UPDATE users SET groups = ?2 WHERE name = ?1", [name, &groups])?;
            self.map(name, may.clone())?;
        }
        match (known, may) {
            (_, None) => Ok(Entry::Unmapped),
            (Some((name, true)), Some(_)) => Ok(Entry::Disabled { name }),
            (Some((name, false)), Some(may)) => Ok(Entry::Admitted { name, may, is_new: false }),
            (None, Some((role, tenant))) => {
                if self.count("SELECT count(*) FROM users", [])? >= MOST_USERS {
                    return Err(StoreError::Conflict(format!("there are {MOST_USERS} users already")));
                }
                let added = self.0.execute(
                    "INSERT INTO users (name, role, tenant, password, must_change, totp_step, created_ms, issuer, \
                     subject, groups) VALUES (?1, ?2, ?3, '', 0, 0, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
                    params![name, role.name(), tenant, now.cast_signed(), issuer, subject, groups],
                )?;
                let (name, may) = ((*name).to_owned(), (role, tenant));
                Ok(if added == 1 { Entry::Admitted { name, may, is_new: true } } else { Entry::Taken })
            }
        }
    }

    /// Whoever signs in at a provider may what these rules say of the groups they were in. Returns those of whom that is something
    /// else than before.
    pub(crate) fn apply_rules(&mut self, rules: Rules<'_>) -> Stored<Vec<String>> {
        let mut statement =
            self.0.prepare("SELECT name, issuer, groups FROM users WHERE issuer IS NOT NULL")?;
        let users = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?))
        })?;
        let users = users.collect::<rusqlite::Result<Vec<_>>>()?;
        drop(statement);
        let mut changed = Vec::new();
        for (name, issuer, groups) in users {
            let groups: Vec<String> =
                groups.and_then(|groups| serde_json::from_str(&groups).ok()).unwrap_or_default();
            if self.map(&name, rules(&issuer, &groups))? {
                changed.push(name);
            }
        }
        Ok(changed)
    }

    /// Whether that is something else than before.
    fn map(&mut self, name: &str, to: Option<May>) -> Stored<bool> {
        let all = self.0.transaction()?;
        let changed = match to {
            Some((role, tenant)) => {
                let sql = "UPDATE users SET role = ?2, tenant = ?3, unmapped = 0 \
                           WHERE name = ?1 AND NOT (role = ?2 AND tenant IS ?3 AND unmapped = 0)";
                all.execute(sql, params![name, role.name(), tenant])?
            }
            None => all.execute("UPDATE users SET unmapped = 1 WHERE name = ?1 AND unmapped = 0", [name])?,
        };
        if changed > 0 {
            all.execute("DELETE FROM sessions WHERE user = ?1", [name])?;
        }
        all.commit()?;
        Ok(changed > 0)
    }

    // --- sessions

    /// A user is signed in. What is over is taken away meanwhile.
    pub(crate) fn begin_session(&self, user: &str, hash: &Hash, now: u64) -> Stored<()> {
        let over = "DELETE FROM sessions WHERE used_ms <= ?1 OR created_ms <= ?2";
        self.0.execute(over, (before(now, IDLE_MS), before(now, LIFETIME_MS)))?;
        self.0.execute("DELETE FROM tokens WHERE expires_ms <= ?1", [now.cast_signed()])?;
        let surplus = "DELETE FROM sessions WHERE user = ?1 AND hash NOT IN \
                       (SELECT hash FROM sessions WHERE user = ?1 ORDER BY created_ms DESC LIMIT ?2)";
        self.0.execute(surplus, params![user, MOST_SESSIONS - 1])?;
        let now = now.cast_signed();
        self.0.execute("INSERT INTO sessions VALUES (?1, ?2, ?3, ?3)", params![&hash[..], user, now])?;
        self.0.execute("UPDATE users SET signed_in_ms = ?2 WHERE name = ?1", params![user, now])?;
        Ok(())
    }

    /// Whose session it is, unless it is over. If it `counts` as use, it lasts for another while.
    pub(crate) fn session(&self, hash: &Hash, now: u64, counts: bool) -> Stored<Option<Principal>> {
        let found = self.0.query_row(
            &format!(
                "SELECT name, role, tenant, totp IS NOT NULL, must_change, used_ms, issuer IS NOT NULL \
                 FROM sessions JOIN users ON user = name \
                 WHERE hash = ?1 AND used_ms > ?2 AND sessions.created_ms > ?3 AND {ADMITTED}"
            ),
            params![&hash[..], before(now, IDLE_MS), before(now, LIFETIME_MS)],
            |row| {
                let name: String = row.get(0)?;
                let (has_totp, must_change): (bool, bool) = (row.get(3)?, row.get(4)?);
                let pending = match (must_change, has_totp || row.get(6)?) {
                    (true, _) => Some(Pending::Password),
                    (false, false) => Some(Pending::Totp),
                    (false, true) => None,
                };
                let by = By::Session { user: name.clone(), hash: *hash };
                Ok((
                    Principal { name, role: role(row, 1)?, tenant: row.get(2)?, by, pending },
                    millis(row, 5)?,
                ))
            },
        );
        let Some((principal, used)) = found.optional()? else { return Ok(None) };
        if counts && now >= used + USED_EVERY_MS {
            let sql = "UPDATE sessions SET used_ms = ?2 WHERE hash = ?1";
            self.0.execute(sql, params![&hash[..], now.cast_signed()])?;
        }
        Ok(Some(principal))
    }

    pub(crate) fn end_session(&self, hash: &Hash) -> Stored<()> {
        self.0.execute("DELETE FROM sessions WHERE hash = ?1", [&hash[..]])?;
        Ok(())
    }

    /// All of a user's but one.
    pub(crate) fn end_sessions(&self, user: &str, but: Option<&Hash>) -> Stored<()> {
        let but = but.map_or(&[][..], |hash| &hash[..]);
        self.0.execute("DELETE FROM sessions WHERE user = ?1 AND hash <> ?2", params![user, but])?;
        Ok(())
    }

    // --- tokens

    /// Its number.
    pub(crate) fn add_token(&self, token: &NewToken<'_>, now: u64) -> Stored<i64> {
        let NewToken { name, hash, maker, role, tenant, expires_unix_ms } = token;
        if self.count("SELECT count(*) FROM tokens WHERE maker IS ?1", [maker])? >= MOST_TOKENS {
            let why = format!("there are {MOST_TOKENS} tokens already: revoke some first");
            return Err(StoreError::Conflict(why));
        }
        let (now, expires) = (now.cast_signed(), expires_unix_ms.cast_signed());
        self.0.execute(
            "INSERT INTO tokens VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL)",
            params![name, &hash[..], maker, role.name(), tenant, now, expires],
        )?;
        Ok(self.0.last_insert_rowid())
    }

    /// Those that somebody made (`Some(None)`: root on the box), or all; the newest first.
    pub(crate) fn tokens(&self, of: Option<Option<&str>>, now: u64) -> Stored<Vec<ApiToken>> {
        let mut statement = self.0.prepare(
            "SELECT id, name, maker, role, tenant, created_ms, expires_ms, used_ms FROM tokens \
             WHERE expires_ms > ?1 AND (?2 OR maker IS ?3) ORDER BY id DESC",
        )?;
        let tokens = statement.query_map(params![now.cast_signed(), of.is_none(), of.flatten()], |row| {
            let maker: Option<String> = row.get(2)?;
            Ok(ApiToken {
                id: row.get(0)?,
                name: row.get(1)?,
                maker: maker.unwrap_or_else(|| super::CONSOLE_USER.to_owned()),
                role: role(row, 3)?,
                tenant: row.get(4)?,
                created_unix_ms: millis(row, 5)?,
                expires_unix_ms: millis(row, 6)?,
                used_unix_ms: row.get::<_, Option<i64>>(7)?.map(i64::cast_unsigned),
            })
        })?;
        Ok(tokens.collect::<rusqlite::Result<_>>()?)
    }

    /// Who comes with it, unless it has expired: never more than its maker is by now.
    pub(crate) fn token(&self, hash: &Hash, now: u64) -> Stored<Option<Principal>> {
        let Some((principal, used)) = self.token_where("hash", &hash[..], now)? else { return Ok(None) };
        if let By::Token(id) = principal.by
            && now >= used + USED_EVERY_MS
        {
            self.0.execute("UPDATE tokens SET used_ms = ?2 WHERE id = ?1", [id, now.cast_signed()])?;
        }
        Ok(Some(principal))
    }

    /// Who came with it, as they are by now; that is no use of it.
    pub(crate) fn token_again(&self, id: i64, now: u64) -> Stored<Option<Principal>> {
        Ok(self.token_where("tokens.id", id, now)?.map(|(principal, _)| principal))
    }

    /// With when it was used last.
    fn token_where(
        &self,
        column: &str,
        value: impl rusqlite::ToSql,
        now: u64,
    ) -> Stored<Option<(Principal, u64)>> {
        let sql = format!(
            "SELECT id, tokens.name, maker, tokens.role, tokens.tenant, users.role, users.tenant, used_ms FROM tokens \
             LEFT JOIN users ON maker = users.name WHERE {column} = ?1 AND expires_ms > ?2 \
             AND (maker IS NULL OR {ADMITTED} AND (issuer IS NULL OR signed_in_ms > ?3))"
        );
        let since = before(now, LONGEST_ABSENCE_MS);
        let found = self.0.query_row(&sql, params![value, now.cast_signed(), since], |row| {
            let (id, maker): (i64, Option<String>) = (row.get(0)?, row.get(2)?);
            let (own, tenant): (Role, Option<String>) = (role(row, 3)?, row.get(4)?);
            let makers = if maker.is_some() { role(row, 5)? } else { Role::Owner };
            let makers_tenant: Option<String> = row.get(6)?;
            let is_beyond = makers_tenant.is_some() && tenant.is_some() && tenant != makers_tenant;
            let (name, of) = (row.get::<_, String>(1)?, maker.as_deref().unwrap_or(super::CONSOLE_USER));
            let principal = Principal {
                name: format!("{name}, a token of {of}"),
                role: own.min(makers),
                tenant: makers_tenant.or(tenant),
                by: By::Token(id),
                pending: None,
            };
            Ok((principal, is_beyond, row.get::<_, Option<i64>>(7)?.map_or(0, i64::cast_unsigned)))
        });
        Ok(found
            .optional()?
            .and_then(|(principal, is_beyond, used)| (!is_beyond).then_some((principal, used))))
    }

    /// Whose it was, and what it was called. Of those that somebody made, or of all.
    pub(crate) fn revoke(&self, id: i64, of: Option<Option<&str>>) -> Stored<String> {
        let gone = self.0.query_row(
            "DELETE FROM tokens WHERE id = ?1 AND (?2 OR maker IS ?3) RETURNING name",
            params![id, of.is_none(), of.flatten()],
            |row| row.get(0),
        );
        gone.optional()?.ok_or_else(|| StoreError::Unknown(format!("token {id}")))
    }
}

/// The moment so long before `now`, or the beginning of time: what was used then is over.
fn before(now: u64, span: u64) -> i64 {
    now.cast_signed() - span.cast_signed()
}

pub(super) fn millis(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::cast_unsigned)
}

fn role(row: &Row<'_>, at: usize) -> rusqlite::Result<Role> {
    let text: String = row.get(at)?;
    text.parse().map_err(|why: String| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, why.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const NOW: u64 = 1_800_000_000_000;
    const HASH: Hash = [1; 32];

    fn new<'a>(name: &'a str, role: Role, tenant: Option<&'a str>) -> NewUser<'a> {
        let totp = Some((Secret::of([3; 32]), 5));
        NewUser { name, role, tenant, password: "$argon2id$", must_change_password: false, totp }
    }

    fn with_users() -> Store {
        let store = Store::in_memory().expect("a database");
        store.add_user(&new("anna", Role::Owner, None), NOW).expect("added");
        store.add_user(&new("bert", Role::Operator, Some("acme")), NOW).expect("added");
        store
    }

    fn token<'a>(
        hash: &'a Hash,
        maker: Option<&'a str>,
        role: Role,
        tenant: Option<&'a str>,
    ) -> NewToken<'a> {
        NewToken { name: "ci", hash, maker, role, tenant, expires_unix_ms: NOW + 1_000 }
    }

    #[test]
    fn the_database_is_its_owners_alone_and_lasts() {
        let state = tempfile::tempdir().expect("a directory");
        let path = state.path().join(FILE_NAME);
        Store::open(state.path())
            .expect("made")
            .add_user(&new("anna", Role::Owner, None), NOW)
            .expect("added");
        assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o7777, 0o600);
        let users = Store::open(state.path()).expect("opened").users(NOW).expect("read");
        assert_eq!((users.len(), users[0].name.as_str(), users[0].role), (1, "anna", Role::Owner));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        let refused = Store::open(state.path()).err().expect("refused").to_string();
        assert!(refused.contains("(mode 0640): chmod 600"), "{refused}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        fs::write(
            &path,
            "no database at all, but longer than a header of one is: 100 bytes, says its documentation. So.",
        )
        .expect("written");
        assert!(Store::open(state.path()).is_err());
    }

    #[test]
    fn a_session_ends_when_it_was_idle_and_when_the_day_is_over() {
        let store = with_users();
        store.begin_session("anna", &HASH, NOW).expect("begun");
        let at = |now: u64, counts| store.session(&HASH, now, counts).expect("read").map(|it| it.name);
        assert_eq!(at(NOW + IDLE_MS - 1, false).as_deref(), Some("anna"));
        assert_eq!(at(NOW + IDLE_MS, false), None);
        // Whoever uses it may go on, and not for ever.
        let mut now = NOW;
        while now < NOW + LIFETIME_MS {
            assert_eq!(at(now, true).as_deref(), Some("anna"));
            now += IDLE_MS / 2;
        }
        assert_eq!(at(NOW + LIFETIME_MS, true), None);
        assert_eq!(store.session(&[2; 32], NOW, true).expect("read"), None);
    }

    #[test]
    fn a_session_is_what_its_user_is_by_now() {
        let mut store = with_users();
        store.begin_session("bert", &HASH, NOW).expect("begun");
        let principal = store.session(&HASH, NOW, true).expect("read").expect("there");
        assert_eq!(
            (principal.role, principal.tenant.as_deref(), principal.pending),
            (Role::Operator, Some("acme"), None)
        );
        store.set_totp("bert", None).expect("set");
        let pending =
            |store: &Store| store.session(&HASH, NOW, true).expect("read").and_then(|it| it.pending);
        assert_eq!(pending(&store), Some(Pending::Totp));
        store.set_password("bert", "$other$", true).expect("set");
        assert_eq!(pending(&store), Some(Pending::Password));
        // Another role is another session.
        store.set_role("bert", Role::Viewer, None).expect("set");
        assert_eq!(store.session(&HASH, NOW, true).expect("read"), None);
        store.begin_session("bert", &HASH, NOW).expect("begun");
        store.remove_user("bert").expect("removed");
        assert_eq!(store.session(&HASH, NOW, true).expect("read"), None);
    }

    #[test]
    fn the_last_owner_stays_one() {
        let mut store = with_users();
        assert!(matches!(store.remove_user("anna"), Err(StoreError::Conflict(_))));
        assert!(matches!(store.set_role("anna", Role::Operator, None), Err(StoreError::Conflict(_))));
        store.set_role("bert", Role::Owner, None).expect("set");
        store.remove_user("anna").expect("removed");
        assert!(matches!(store.remove_user("anna"), Err(StoreError::Unknown(_))));
        assert!(matches!(
            store.add_user(&new("bert", Role::Viewer, None), NOW),
            Err(StoreError::Conflict(_))
        ));
        assert!(matches!(
            store.add_first_user(&new("eve", Role::Owner, None), NOW),
            Err(StoreError::Conflict(_))
        ));
    }

    #[test]
    fn a_user_has_so_many_sessions_and_then_the_oldest_goes() {
        let store = with_users();
        for number in 0..=u8::try_from(MOST_SESSIONS).expect("few") {
            store.begin_session("anna", &[number; 32], NOW + u64::from(number)).expect("begun");
        }
        let lives = |number: u8| store.session(&[number; 32], NOW + 100, false).expect("read").is_some();
        assert!(!lives(0) && lives(1) && lives(16));
        assert_eq!(store.users(NOW + 100).expect("read")[0].sessions, 16);
        store.end_sessions("anna", Some(&[5; 32])).expect("ended");
        assert!(lives(5) && !lives(6));
        store.end_session(&[5; 32]).expect("ended");
        assert!(!lives(5));
    }

    #[test]
    fn a_step_is_taken_once() {
        let store = with_users();
        assert!(store.take_step("anna", 6).expect("written"));
        assert!(!store.take_step("anna", 6).expect("written"));
        assert!(!store.take_step("anna", 5).expect("written"));
        assert!(!store.take_step("nobody", 7).expect("written"));
    }

    #[test]
    fn a_token_never_may_more_than_its_maker_by_now() {
        let mut store = with_users();
        store.add_token(&token(&HASH, Some("anna"), Role::Owner, None), NOW).expect("made");
        let at = |store: &Store, now| store.token(&HASH, now).expect("read");
        let found = at(&store, NOW).expect("there");
        assert_eq!(
            (found.name.as_str(), found.role, found.tenant),
            ("ci, a token of anna", Role::Owner, None)
        );
        assert_eq!(at(&store, NOW + 1_000), None);
        store.set_role("bert", Role::Owner, None).expect("set");
        store.set_role("anna", Role::Viewer, Some("acme")).expect("set");
        let found = at(&store, NOW).expect("there");
        assert_eq!((found.role, found.tenant.as_deref()), (Role::Viewer, Some("acme")));
        store.remove_user("anna").expect("removed");
        assert_eq!(at(&store, NOW), None);
    }

    #[test]
    fn a_token_of_a_tenant_that_is_not_its_makers_any_more_is_none() {
        let mut store = with_users();
        store.add_token(&token(&HASH, Some("bert"), Role::Viewer, Some("acme")), NOW).expect("made");
        assert!(store.token(&HASH, NOW).expect("read").is_some());
        store.set_role("bert", Role::Operator, Some("globex")).expect("set");
        assert_eq!(store.token(&HASH, NOW).expect("read"), None);
    }

    #[test]
    fn tokens_are_listed_and_revoked_by_who_made_them_or_an_owner() {
        let store = with_users();
        let of_root = store.add_token(&token(&[1; 32], None, Role::Owner, None), NOW).expect("made");
        let of_bert =
            store.add_token(&token(&[2; 32], Some("bert"), Role::Viewer, Some("acme")), NOW).expect("made");
        let listed =
            |of| -> Vec<i64> { store.tokens(of, NOW).expect("read").iter().map(|it| it.id).collect() };
        assert_eq!(listed(None), [of_bert, of_root]);
        assert_eq!(listed(Some(None)), [of_root]);
        assert_eq!(listed(Some(Some("bert"))), [of_bert]);
        assert!(matches!(store.revoke(of_root, Some(Some("bert"))), Err(StoreError::Unknown(_))));
        assert_eq!(store.revoke(of_root, None).expect("revoked"), "ci");
        assert_eq!(store.token(&[1; 32], NOW).expect("read"), None);
    }

    const ISSUER: &str = "https://login.example";

    fn rules(issuer: &str, groups: &[String]) -> Option<May> {
        let is_in = |group: &str| issuer == ISSUER && groups.iter().any(|it| it == group);
        match (is_in("owners"), is_in("noc")) {
            (true, _) => Some((Role::Owner, None)),
            (_, true) => Some((Role::Operator, Some("acme".to_owned()))),
            _ => None,
        }
    }

    fn comes(store: &mut Store, subject: &str, name: &str, groups: &[&str]) -> Entry {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        let vouched = Vouched { issuer: ISSUER, subject, name, groups: &groups };
        store.vouched(&vouched, &rules, NOW).expect("written")
    }

    #[test]
    fn who_comes_from_a_provider_is_known_by_subject_and_may_what_the_rules_say() {
        let mut store = with_users();
        let operator = (Role::Operator, Some("acme".to_owned()));
        let admitted = |name: &str, may: &May, is_new| {
            let (name, may) = (name.to_owned(), may.clone());
            Entry::Admitted { name, may, is_new }
        };
        assert_eq!(comes(&mut store, "s1", "oidc:cleo", &["others"]), Entry::Unmapped);
        assert_eq!(store.users(NOW).expect("read").len(), 2, "nobody is kept who is not let in");
        assert_eq!(comes(&mut store, "s1", "oidc:cleo", &["noc"]), admitted("oidc:cleo", &operator, true));
        // The same one by another name; and another one by that name.
        assert_eq!(comes(&mut store, "s1", "oidc:dora", &["noc"]), admitted("oidc:cleo", &operator, false));
        assert_eq!(comes(&mut store, "s2", "oidc:cleo", &["noc"]), Entry::Taken);
        store.begin_session("oidc:cleo", &HASH, NOW).expect("begun");
        let session = |store: &Store| store.session(&HASH, NOW, false).expect("read");
        let principal = session(&store).expect("there");
        assert_eq!((principal.role, principal.tenant, principal.pending), (operator.0, operator.1, None));
        // No password opens it.
        assert!(store.credentials("oidc:cleo").expect("read").is_none());
        // What they may is something else: what they had ends.
        assert_eq!(
            comes(&mut store, "s1", "oidc:cleo", &["owners"]),
            admitted("oidc:cleo", &(Role::Owner, None), false)
        );
        assert_eq!(session(&store), None);
        store.begin_session("oidc:cleo", &HASH, NOW).expect("begun");
        store.add_token(&token(&[9; 32], Some("oidc:cleo"), Role::Viewer, None), NOW).expect("made");
        let opens = |store: &Store| store.token(&[9; 32], NOW).expect("read").is_some();
        assert!(opens(&store));
        assert_eq!(comes(&mut store, "s1", "oidc:cleo", &[]), Entry::Unmapped);
        assert!(session(&store).is_none() && !opens(&store));
        assert!(store.users(NOW).expect("read").iter().any(|user| user.name == "oidc:cleo" && user.unmapped));
    }

    #[test]
    fn a_rule_that_goes_ends_what_it_gave_and_nothing_else() {
        let mut store = with_users();
        comes(&mut store, "s1", "oidc:cleo", &["noc"]);
        comes(&mut store, "s2", "oidc:dora", &["owners"]);
        for (user, hash) in [("oidc:cleo", [1; 32]), ("oidc:dora", [2; 32]), ("anna", [3; 32])] {
            store.begin_session(user, &hash, NOW).expect("begun");
        }
        let lives = |store: &Store| {
            [1, 2, 3].map(|hash| store.session(&[hash; 32], NOW, false).expect("read").is_some())
        };
        assert_eq!(store.apply_rules(&rules).expect("read"), [""; 0]);
        assert_eq!(lives(&store), [true; 3]);
        let fewer =
            |issuer: &str, groups: &[String]| rules(issuer, groups).filter(|(role, _)| *role == Role::Owner);
        assert_eq!(store.apply_rules(&fewer).expect("written"), ["oidc:cleo"]);
        assert_eq!(lives(&store), [false, true, true]);
        assert_eq!(store.apply_rules(&|_, _| None).expect("written"), ["oidc:dora"]);
        assert_eq!(lives(&store), [false, false, true]);
        assert_eq!(store.apply_rules(&rules).expect("written"), ["oidc:cleo", "oidc:dora"]);
    }

    #[test]
    fn who_is_kept_out_is_out_until_they_are_not_and_the_last_owner_here_never_is() {
        let mut store = with_users();
        comes(&mut store, "s1", "oidc:cleo", &["owners"]);
        for (user, hash) in [("oidc:cleo", [1; 32]), ("bert", [2; 32])] {
            store.begin_session(user, &hash, NOW).expect("begun");
            store.set_disabled(user, true).expect("set");
            assert!(store.session(&hash, NOW, false).expect("read").is_none(), "{user}");
        }
        assert_eq!(
            comes(&mut store, "s1", "oidc:cleo", &["owners"]),
            Entry::Disabled { name: "oidc:cleo".into() }
        );
        assert!(store.credentials("bert").expect("read").is_none());
        store.set_disabled("bert", false).expect("set");
        assert!(store.credentials("bert").expect("read").is_some());
        store.set_disabled("oidc:cleo", false).expect("set");
        // The provider may be gone tomorrow.
        assert!(matches!(store.set_disabled("anna", true), Err(StoreError::Conflict(_))));
        assert!(matches!(store.remove_user("anna"), Err(StoreError::Conflict(_))));
        store.remove_user("oidc:cleo").expect("removed");
        assert!(matches!(store.set_disabled("nobody", true), Err(StoreError::Unknown(_))));
    }

    #[test]
    fn a_token_of_who_has_not_been_at_the_provider_for_long_opens_nothing() {
        let mut store = with_users();
        comes(&mut store, "s1", "oidc:cleo", &["noc"]);
        let day = 86_400_000;
        let lasting = NewToken {
            expires_unix_ms: NOW + 300 * day,
            ..token(&HASH, Some("oidc:cleo"), Role::Viewer, Some("acme"))
        };
        store.add_token(&lasting, NOW).expect("made");
        let opens = |store: &Store, now| store.token(&HASH, now).expect("read").is_some();
        assert!(!opens(&store, NOW), "they have not signed in");
        store.begin_session("oidc:cleo", &[2; 32], NOW).expect("begun");
        assert!(opens(&store, NOW + 29 * day) && !opens(&store, NOW + 30 * day));
        store.begin_session("oidc:cleo", &[3; 32], NOW + 40 * day).expect("begun");
        assert!(opens(&store, NOW + 41 * day));
    }

    #[test]
    fn a_database_of_before_there_were_providers_is_taken_over() {
        let state = tempfile::tempdir().expect("a directory");
        let old = Connection::open(state.path().join(FILE_NAME)).expect("made");
        fs::set_permissions(state.path().join(FILE_NAME), fs::Permissions::from_mode(0o600)).expect("ours");
        old.execute_batch(SCHEMA).expect("written");
        let user = "INSERT INTO users VALUES ('anna', 'owner', NULL, '$argon2id$', 0, NULL, 0, 5, NULL)";
        old.execute_batch(user).expect("written");
        drop(old);
        for _ in 0..2 {
            let store = Store::open(state.path()).expect("opened");
            let users = store.users(NOW).expect("read");
            assert_eq!((users.len(), users[0].disabled, users[0].provider.clone()), (1, false, None));
            assert!(store.credentials("anna").expect("read").is_some());
        }
    }
}
