//! Who may come in, and as whom.
//!
//! There are four ways: 1 a user signs in with name, password and a code, and is known by a cookie from then on; 2 so is whom a
//! provider vouches for ([`oidc`]) and a rule lets in; 3 a script brings an API token, which a user has made; 4 whoever is root on
//! the box brings the secret that lies in a file there ([`super::token`]), from a loopback address: `popgate show` and the like.
//! That last way is an owner's. It gives nobody more than they have: who reads that file can as well write the database of users
//! next to it, or the configuration itself.
//!
//! Who comes from a provider is a user of their own, whose name begins with `oidc:`, as no other's can; whom the provider calls
//! by the name of a user of the box's is not that user. It is one and the same as long as the provider says that it is the same
//! subject, whatever it calls them by then. What they may is not the box's to say but the rules', by the groups they were in when
//! they signed in last, and a rule that is changed counts at once.
//!
//! Passwords take time and memory to check, so two at most are at any time, some wait, and others are told to come again; a
//! name that is not known takes as long as one that is. How often one may try is [`limit`]'s.

pub(super) mod enrolments;
mod limit;
pub(super) mod oidc;
pub(super) mod password;
mod principal;
mod setup;
pub(super) mod store;
pub(super) mod totp;

pub use crate::model::Role;
pub use principal::Pending;
pub(crate) use principal::{By, Principal};
pub(super) use setup::setup_link;
pub use store::{ApiToken, User};

use super::token::Token;
use crate::config::Oidc;
use crate::enrol;
use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use enrolments::Enrolment;
use limit::{Limiter, Sparingly};
use oidc::{Identity, NotVouched, Provider, Seal};
use ring::digest::{SHA256, digest};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Credentials, Entry, Hash, NewUser, Store, StoreError, Vouched};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use totp::Secret;

/// Who brings the secret of the box's file.
pub(crate) const CONSOLE_USER: &str = "root@box";
/// Begins API tokens, so that whoever finds one knows what it is.
pub(crate) const TOKEN_PREFIX: &str = "pgt_";

/// 43 letters are 256 bits.
const SECRET_LETTERS: usize = 43;

/// 2 passwords are checked at a time: 38 MiB, and a core for others.
const AT_ONCE: usize = 2;
/// 32 wait or are checked: the last of them for half a second.
const IN_LINE: usize = 32;

/// 4 may wait for the provider at a time: a fifth is told to come again, and who signs in here waits for none of them.
const ASKING: usize = 4;

/// The kernel's randomness, or a test's.
pub type Random = fn() -> [u8; 32];

/// All who may come in.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    store: Mutex<Store>,
    console: Token,
    random: Random,
    /// Where the first user's secret lies; `None` where nothing is kept.
    state_dir: Option<PathBuf>,
    limiter: Mutex<Limiter>,
    failures: Mutex<Sparingly>,
    line: Arc<Semaphore>,
    hashing: Arc<Semaphore>,
    /// What the password of somebody who is not known is compared with.
    decoy: String,
    provider: ArcSwapOption<Provider>,
    seal: Seal,
    asking: Arc<Semaphore>,
}

/// Why somebody is not let in.
#[derive(Debug)]
pub(super) enum Denied {
    /// Too many have tried: in so many milliseconds one may again.
    Limited(u64),
    /// Too many are at it this moment.
    Busy,
    /// Name or password.
    Wrong,
    /// All is well so far, and a code is needed.
    CodeNeeded,
    /// It is not the code of this half minute, or it was taken already.
    WrongCode,
    Failed(StoreError),
}

/// Why somebody who comes from a provider is not let in, or does not get there.
#[derive(Debug)]
pub(super) enum Turned {
    /// There is none.
    NoProvider,
    Limited,
    /// Too many are at it this moment.
    Busy,
    /// What came back is not of this browser, or too late.
    Late,
    NotVouched(NotVouched),
    /// No rule lets them in.
    Unmapped(Identity),
    /// An owner keeps this user out.
    Disabled(String),
    /// Somebody else has that name.
    Taken(Identity),
    Failed(StoreError),
}

/// Somebody who is let in.
pub(super) struct Entered {
    /// The session's.
    pub(super) secret: String,
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) role: Role,
    pub(super) tenant: Option<String>,
    pub(super) is_new: bool,
    pub(super) issuer: String,
}

impl From<StoreError> for Turned {
    fn from(error: StoreError) -> Turned {
        Turned::Failed(error)
    }
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Denied {
        Denied::Failed(error)
    }
}

impl Access {
    /// Those whose database is in `state_dir`, and whoever brings `console`. Where there is no user yet, the secret that makes the
    /// first is laid there too.
    ///
    /// # Errors
    /// For the operator: the disk's, or others can read what they should not.
    pub fn open(state_dir: &Path, console: Token, random: Random, now_unix_ms: u64) -> io::Result<Access> {
        let store = Store::open(state_dir)?;
        if !store.has_users().map_err(io::Error::other)? {
            setup::ensure(state_dir, random, now_unix_ms)?;
            let file = state_dir.join(setup::FILE_NAME);
            tracing::info!(file = %file.display(), "there are no users yet: `popgate setup-link` prints the link that makes the first");
        }
        Ok(Access::new(store, console, random, Some(state_dir.to_owned())))
    }

    /// Nobody but whoever brings `console`, and whoever they let in while the process lives.
    ///
    /// # Errors
    /// There is no memory.
    pub fn in_memory(console: Token, random: Random) -> io::Result<Access> {
        Ok(Access::new(Store::in_memory()?, console, random, None))
    }

    fn new(store: Store, console: Token, random: Random, state_dir: Option<PathBuf>) -> Access {
        let decoy = password::hash(&text_of(random()), salt(random)).unwrap_or_default();
        Access(Arc::new(Inner {
            store: Mutex::new(store),
            console,
            random,
            state_dir,
            limiter: Mutex::default(),
            failures: Mutex::default(),
            line: Arc::new(Semaphore::new(IN_LINE)),
            hashing: Arc::new(Semaphore::new(AT_ONCE)),
            decoy,
            provider: ArcSwapOption::empty(),
            seal: Seal::of(random()),
            asking: Arc::new(Semaphore::new(ASKING)),
        }))
    }

    // --- known already

    /// Who brings the secret of an `Authorization: Bearer`.
    pub(super) async fn of_bearer(&self, secret: &str, from: IpAddr, now: u64) -> Option<Principal> {
        if self.0.console.admits(secret) {
            return from.to_canonical().is_loopback().then(Principal::console);
        }
        let hash = secret.strip_prefix(TOKEN_PREFIX).map(|_| hash_of(secret))?;
        told(self.stored(move |store| store.token(&hash, now)).await)
    }

    /// Whose session a cookie is of; it lasts for another while if this `counts` as use.
    pub(super) async fn of_cookie(&self, secret: &str, now: u64, counts: bool) -> Option<Principal> {
        let hash = hash_of(secret);
        told(self.stored(move |store| store.session(&hash, now, counts)).await)
    }

    /// What somebody who came in earlier is by now; `None` if they would not be let in any more. That is no use of theirs.
    pub(super) async fn again(&self, principal: &Principal, now: u64) -> Option<Principal> {
        match principal.by.clone() {
            By::Console => Some(principal.clone()),
            By::Session { hash, .. } => {
                told(self.stored(move |store| store.session(&hash, now, false)).await)
            }
            By::Token(id) => told(self.stored(move |store| store.token_again(id, now)).await),
        }
    }

    /// Whether a text is, or contains, what somebody could come in with.
    pub(super) fn is_secret(&self, text: &str) -> bool {
        let is_of_these = |letter: &u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
        let mut tokens =
            text.match_indices(TOKEN_PREFIX).map(|(at, _)| &text.as_bytes()[at + TOKEN_PREFIX.len()..]);
        let is_long =
            |rest: &[u8]| rest.iter().take_while(|letter| is_of_these(letter)).count() >= SECRET_LETTERS;
        tokens.any(is_long) || self.0.console.is_in(text)
    }

    // --- signing in

    /// Takes a name, a password and a code, and gives the secret of a new session.
    pub(super) async fn sign_in(
        &self,
        name: &str,
        password: &str,
        code: Option<&str>,
        from: IpAddr,
        now: u64,
    ) -> Result<String, Denied> {
        // Longer names than there are take no more memory.
        let account: String = name.chars().take(MOST_NAME).collect();
        self.limiter().admit(&account, from, now).map_err(Denied::Limited)?;
        let asked = account.clone();
        let known = self.stored(move |store| store.credentials(&asked)).await?;
        let kept = known.as_ref().map_or_else(|| self.0.decoy.clone(), |known| known.password.clone());
        let is_right = self.verify(password, kept).await?;
        let Some(Credentials { totp, totp_step, .. }) = known.filter(|_| is_right) else {
            return Err(Denied::Wrong);
        };
        if let Some(secret) = totp {
            let Some(code) = code.filter(|code| !code.is_empty()) else {
                self.limiter().give_back(&account, from);
                return Err(Denied::CodeNeeded);
            };
            let step = secret.step_of(code, totp_step, now).ok_or(Denied::WrongCode)?;
            let user = account.clone();
            if !self.stored(move |store| store.take_step(&user, step)).await? {
                return Err(Denied::WrongCode);
            }
        }
        let session = self.begin_session(&account, now).await?;
        self.limiter().succeeded(&account, from);
        Ok(session)
    }

    /// A session's secret.
    pub(super) async fn begin_session(&self, user: &str, now: u64) -> Result<String, StoreError> {
        let secret = text_of((self.0.random)());
        let (user, hash) = (user.to_owned(), hash_of(&secret));
        self.stored(move |store| store.begin_session(&user, &hash, now)).await?;
        Ok(secret)
    }

    /// A session, by its secret, is over.
    pub(super) async fn end(&self, secret: &str) -> Result<(), StoreError> {
        let hash = hash_of(secret);
        self.stored(move |store| store.end_session(&hash)).await
    }

    /// Whether a failure is to be written down, and how many were not before.
    pub(super) fn note_failure(&self, now: u64) -> Option<u64> {
        lock(&self.0.failures).admit(now)
    }

    /// Whether it is the password of which `kept` was made.
    async fn verify(&self, password: &str, kept: String) -> Result<bool, Denied> {
        let password = password.to_owned();
        // What is longer is nobody's, and would take longer.
        let is_possible = password.len() <= 4 * password::LONGEST;
        self.hashing(move || is_possible && password::verify(&password, &kept)).await
    }

    /// Whether it is a user's password. Wrong ones count as tries.
    pub(super) async fn is_password_of(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
        now: u64,
    ) -> Result<(), Denied> {
        self.limiter().admit(user, from, now).map_err(Denied::Limited)?;
        let name = user.to_owned();
        let known = self.stored(move |store| store.credentials(&name)).await?;
        let kept = known.ok_or(Denied::Wrong)?.password;
        if !self.verify(password, kept).await? {
            return Err(Denied::Wrong);
        }
        self.limiter().give_back(user, from);
        Ok(())
    }

    /// What is kept of a new password.
    pub(super) async fn hash(&self, password: &str) -> Result<String, Denied> {
        let (password, salt) = (password.to_owned(), salt(self.0.random));
        self.hashing(move || password::hash(&password, salt)).await?.ok_or(Denied::Busy)
    }

    async fn hashing<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Denied> {
        let place = Arc::clone(&self.0.line).try_acquire_owned().map_err(|_| Denied::Busy)?;
        let turn = Arc::clone(&self.0.hashing).acquire_owned().await.map_err(|_| Denied::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            // Until it is done, whether somebody still waits for it or has hung up.
            let _held = (place, turn);
            work()
        });
        done.await.map_err(|_| Denied::Busy)
    }

    // --- the provider

    /// From now on people sign in at this provider, or at none, and may what its rules say.
    ///
    /// # Errors
    /// The database's: then they may what they did.
    pub async fn follow(&self, config: Option<&Arc<Oidc>>) -> io::Result<()> {
        let before = self.0.provider.load_full();
        let is_same = before.as_ref().map(|provider| &provider.config) == config;
        if !is_same {
            let provider = config.map(|config| Arc::new(Provider::new(Arc::clone(config))));
            self.0.provider.store(provider);
        }
        // At the start, and after a failure, what the rules say has yet to be looked at.
        let provider = self.0.provider.load_full();
        let changed = self.stored(move |store| {
            store.apply_rules(&|issuer, groups| provider.as_ref()?.role_of(issuer, groups))
        });
        for name in changed.await.map_err(io::Error::other)? {
            tracing::info!(name, "admin: what a user may is something else now, and their sessions are over");
        }
        Ok(())
    }

    /// What people call the provider, and where the console is that they come back to.
    pub(super) fn provider(&self) -> Option<Arc<Oidc>> {
        self.0.provider.load().as_ref().map(|provider| Arc::clone(&provider.config))
    }

    /// Somebody begins to sign in at the provider: a cookie, and where to go.
    pub(super) async fn begin(&self, from: IpAddr, now: u64) -> Result<(String, String), Turned> {
        let provider = self.0.provider.load_full().ok_or(Turned::NoProvider)?;
        self.limiter().admit_visitor(from, now).map_err(|_| Turned::Limited)?;
        let cookie = Seal::cookie_of((self.0.random)(), now);
        let attempt = self.0.seal.attempt_of(&cookie);
        let url = self.asking(move || provider.begin(&attempt, now)).await?;
        Ok((cookie, url))
    }

    /// Somebody comes back from the provider, with what goes with the cookie and with a code.
    pub(super) async fn come_back(
        &self,
        cookie: &str,
        state: &str,
        code: Result<String, NotVouched>,
        from: IpAddr,
        now: u64,
    ) -> Result<Entered, Turned> {
        let provider = self.0.provider.load_full().ok_or(Turned::NoProvider)?;
        self.limiter().admit_visitor(from, now).map_err(|_| Turned::Limited)?;
        let attempt = self.0.seal.returned(cookie, state, now).ok_or(Turned::Late)?;
        let code = code.map_err(Turned::NotVouched)?;
        let asked = Arc::clone(&provider);
        let identity = self.asking(move || asked.finish(&attempt, code, now)).await?;
        self.limiter().vouched(from);
        let (who, issuer, access) = (identity.clone(), provider.config.issuer.clone(), self.clone());
        let entry = self.stored({
            let issuer = issuer.clone();
            move |store| {
                let Identity { subject, name, groups } = &who;
                let vouched = Vouched { issuer: &issuer, subject, name, groups };
                // The rules of now: they may be others than when the browser began.
                let provider = access.0.provider.load();
                store.vouched(&vouched, &|issuer, groups| provider.as_ref()?.role_of(issuer, groups), now)
            }
        });
        match entry.await? {
            Entry::Unmapped => Err(Turned::Unmapped(identity)),
            Entry::Disabled { name } => Err(Turned::Disabled(name)),
            Entry::Taken => Err(Turned::Taken(identity)),
            Entry::Admitted { name, may: (role, tenant), is_new } => {
                let secret = self.begin_session(&name, now).await?;
                Ok(Entered { secret, name, subject: identity.subject, role, tenant, is_new, issuer })
            }
        }
    }

    /// Asks the provider, on a thread that may wait for it.
    async fn asking<T: Send + 'static>(
        &self,
        ask: impl FnOnce() -> Result<T, NotVouched> + Send + 'static,
    ) -> Result<T, Turned> {
        let turn = Arc::clone(&self.0.asking).try_acquire_owned().map_err(|_| Turned::Busy)?;
        let asked = tokio::task::spawn_blocking(move || {
            let _held = turn;
            ask()
        });
        asked.await.map_err(|_| Turned::Busy)?.map_err(Turned::NotVouched)
    }

    // --- making secrets

    /// A second factor to be.
    pub(super) fn new_totp(&self) -> Secret {
        Secret::of((self.0.random)())
    }

    /// An API token to be, and what is kept of it.
    pub(super) fn new_token(&self) -> (String, Hash) {
        let secret = format!("{TOKEN_PREFIX}{}", text_of((self.0.random)()));
        let hash = hash_of(&secret);
        (secret, hash)
    }

    // --- enrolments

    /// A code's secret to be.
    pub(super) fn new_enrolment(&self) -> enrol::Secret {
        let mut secret = [0; 16];
        secret.copy_from_slice(&(self.0.random)()[..16]);
        enrol::Secret(secret)
    }

    /// The enrolment that a secret opens. Who brings one that opens nothing uses up a try of their address's.
    pub(super) async fn enrolment_of(
        &self,
        secret: &str,
        from: IpAddr,
        now: u64,
    ) -> Result<Enrolment, Denied> {
        self.limiter().admit_claim(from, now).map_err(Denied::Limited)?;
        let hash = enrol::Secret::from_letters(secret)
            .map(|secret| hash_of_enrolment(&secret))
            .ok_or(Denied::Wrong)?;
        let found = self.stored(move |store| store.enrolment_of(&hash, now)).await?;
        let is_it = |it: &Enrolment| it.hash.ct_eq(&hash).into();
        let found = found.filter(is_it).ok_or(Denied::Wrong)?;
        self.limiter().claim_was_good(from);
        Ok(found)
    }

    // --- the first user

    /// Whether this is the secret that makes the first user.
    pub(super) async fn is_setup(&self, secret: &str, now: u64) -> Result<bool, StoreError> {
        let Some(dir) = self.0.state_dir.clone() else { return Ok(false) };
        let secret = secret.to_owned();
        self.stored(move |store| {
            let admits = setup::admits(&dir, &secret, now).map_err(disk)?;
            Ok(admits && !store.has_users()?)
        })
        .await
    }

    /// Makes the first user an owner; whoever brings the secret next is told no.
    pub(super) async fn set_up(
        &self,
        name: &str,
        password: &str,
        totp: (Secret, u64),
        now: u64,
    ) -> Result<(), StoreError> {
        let (name, password, dir) = (name.to_owned(), password.to_owned(), self.0.state_dir.clone());
        self.stored(move |store| {
            let user = NewUser {
                name: &name,
                role: Role::Owner,
                tenant: None,
                password: &password,
                must_change_password: false,
                totp: Some(totp),
            };
            store.add_first_user(&user, now)?;
            // With a user there it opens nothing any more, whether it can be taken away or not.
            dir.map_or(Ok(()), |dir| setup::forget(&dir)).map_err(disk)
        })
        .await
    }

    // --- the database

    /// Does something with the database, on a thread that may wait for the disk.
    pub(super) async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&mut lock(&inner.store))).await;
        done.map_err(|error| disk(io::Error::other(error)))?
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        lock(&self.0.limiter)
    }
}

/// 64 letters: an address of mail, as a rule.
pub(super) const MOST_NAME: usize = 64;

/// What is wrong with a new user's name; for whoever chose it.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_of_these = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '.' | '-' | '_' | '@');
    if name.is_empty()
        || name.len() > MOST_NAME
        || !name.chars().all(is_of_these)
        || name.starts_with(['.', '-'])
    {
        return Err(format!(
            "{name:?} is not a name of at most {MOST_NAME} small letters, digits and any of . - _ @"
        ));
    }
    // What the box does by itself goes by these names in the audit log.
    if name == CONSOLE_USER || ["popgate", "local"].contains(&name) {
        return Err(format!("{name:?} is the box itself"));
    }
    Ok(())
}

/// Whoever cannot be looked up is not let in; that it cannot is for the log.
fn told(found: Result<Option<Principal>, StoreError>) -> Option<Principal> {
    found.unwrap_or_else(|error| {
        tracing::error!("{error}");
        None
    })
}

fn disk(error: io::Error) -> StoreError {
    StoreError::Failed(rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn salt(random: Random) -> password::Salt {
    let mut salt = password::Salt::default();
    salt.copy_from_slice(&random()[..16]);
    salt
}

fn text_of(random: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(random)
}

/// What is kept of a code's secret.
pub(super) fn hash_of_enrolment(secret: &enrol::Secret) -> Hash {
    hash_of(&secret.to_letters())
}

fn hash_of(secret: &str) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    hash
}

/// Whatever panicked meanwhile, SQLite is whole between any two statements, and so are the buckets.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU8, Ordering};

    const NOW: u64 = 1_800_000_000_000;
    const PASSWORD: &str = "correct horse battery";

    /// Different each time.
    fn random() -> [u8; 32] {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        [COUNT.fetch_add(1, Ordering::Relaxed); 32]
    }

    fn home() -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }

    fn secret() -> Secret {
        Secret::of([3; 32])
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(future)
    }

    async fn with_anna() -> Access {
        let access = Access::in_memory(Token::from_bytes([7; 32]), random).expect("access");
        let kept = access.hash(PASSWORD).await.expect("hashed");
        access.set_up("anna", &kept, (secret(), 0), NOW).await.expect("added");
        access
    }

    #[test]
    fn a_user_comes_in_with_name_password_and_a_code_that_is_taken_once() {
        run(async {
            let access = with_anna().await;
            let code = secret().code_at(NOW);
            let sign_in = async |name: &str, password: &str, code: Option<&str>| {
                access.sign_in(name, password, code, home(), NOW).await
            };
            assert!(matches!(sign_in("anna", PASSWORD, None).await, Err(Denied::CodeNeeded)));
            assert!(matches!(sign_in("anna", PASSWORD, Some("000000")).await, Err(Denied::WrongCode)));
            assert!(matches!(sign_in("anna", "wrong password", Some(&code)).await, Err(Denied::Wrong)));
            assert!(matches!(sign_in("nobody", PASSWORD, Some(&code)).await, Err(Denied::Wrong)));
            let session = sign_in("anna", PASSWORD, Some(&code)).await.expect("in");
            let principal = access.of_cookie(&session, NOW, true).await.expect("known");
            assert_eq!((principal.name.as_str(), principal.role), ("anna", Role::Owner));
            assert!(matches!(sign_in("anna", PASSWORD, Some(&code)).await, Err(Denied::WrongCode)));
            // Each session has a secret of its own.
            let later = NOW + 30_000;
            let code = secret().code_at(later);
            let other = access.sign_in("anna", PASSWORD, Some(&code), home(), later).await.expect("in");
            assert_ne!(session, other);
        });
    }

    #[test]
    fn guesses_are_limited_and_lock_nobody_out_of_where_they_are_known() {
        run(async {
            let access = with_anna().await;
            let code = secret().code_at(NOW);
            access.sign_in("anna", PASSWORD, Some(&code), home(), NOW).await.expect("in");
            let guess = async |last: u8| {
                let from = IpAddr::from([198, 51, 100, last]);
                access.sign_in("anna", "guess after guess", None, from, NOW).await
            };
            let mut wrong = 0;
            while let Err(Denied::Wrong) = guess(wrong).await {
                wrong += 1;
            }
            assert_eq!(wrong, 10);
            assert!(matches!(guess(99).await, Err(Denied::Limited(30_000))));
            let later = NOW + 30_000;
            let code = secret().code_at(later);
            access.sign_in("anna", PASSWORD, Some(&code), home(), later).await.expect("in");
        });
    }

    #[test]
    fn the_boxs_own_secret_opens_from_the_box_alone() {
        run(async {
            let access = with_anna().await;
            let secret = text_of([7; 32]);
            let of = async |from: [u8; 4]| access.of_bearer(&secret, IpAddr::from(from), NOW).await;
            assert_eq!(
                of([127, 0, 0, 1]).await.map(|it| (it.name, it.role)),
                Some(("root@box".into(), Role::Owner))
            );
            assert_eq!(of([192, 0, 2, 1]).await, None);
            let mapped = access.of_bearer(&secret, "::ffff:127.0.0.1".parse().expect("IPv6"), NOW).await;
            assert!(mapped.is_some());
        });
    }

    #[test]
    fn a_secret_is_found_in_a_text() {
        run(async {
            let access = with_anna().await;
            let (token, _) = access.new_token();
            assert!(access.is_secret(&format!("a={token}")));
            assert!(access.is_secret(&format!("x{}y", text_of([7; 32]))));
            assert!(!access.is_secret("tenant=acme"));
        });
    }

    #[test]
    fn names_are_small_letters_and_nobody_is_the_box() {
        for name in ["anna", "a.b-c_d@example.net", "7"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "a".repeat(MOST_NAME + 1);
        for name in ["", "Anna", "a b", ".a", "-a", "root@box", "popgate", "local", "a/b", "ä", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
