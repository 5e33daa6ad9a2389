//! Whom an OpenID Connect provider vouches for: the authorization code flow with PKCE (OpenID Connect Core section 3.1, RFC 7636),
//! by the openidconnect crate, which looks at the ID token's signature, issuer, audience, times and nonce.
//!
//! 1 A browser begins and gets a cookie, a random secret with the time in it. 2 [`Attempt`] makes of it, with a key that only this
//! process knows, the state, the nonce and the code verifier: nothing is kept for who has not come back, and who comes back with
//! a state that is not of their browser's cookie is not who began. 3 [`Provider::begin`] says where the browser is to go.
//! 4 [`Provider::finish`] takes the code it comes back with to the provider, and proves what the provider says.
//!
//! What the provider is and signs with is asked for at most once an hour, and at once where a key is not among those known: it
//! has been rotated. Everything here waits for the network, but what is named `of` something.

use super::store::May;
use super::{SECRET_LETTERS, text_of};
use crate::config::Oidc;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreResponseType,
    CoreRevocableToken, CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AccessToken, AccessTokenHash, AdditionalClaims, AuthenticationFlow, AuthorizationCode,
    ClaimsVerificationError, Client, ClientId, ClientSecret, CsrfToken, DiscoveryError,
    EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    IdTokenFields, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, Scope, StandardErrorResponse, StandardTokenResponse, TokenResponse, UserInfoClaims,
    UserInfoError,
};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use subtle::ConstantTimeEq;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Begins the names of those who sign in at a provider: no user of the box's own can have it in theirs.
pub(crate) const NAME_PREFIX: &str = "oidc:";

/// 10 minutes to sign in at the provider, with a second factor to be looked for.
pub(crate) const ATTEMPT_MS: u64 = 10 * 60_000;
/// A minute by which the provider's clock may be another.
const SKEW_MS: u64 = 60_000;
/// An hour for which what is known of the provider is good.
const KNOWN_MS: u64 = 3_600_000;
/// For a connection, and for an answer.
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);
/// 1 MiB: a token of somebody who is in very many groups is a hundredth of it.
const MOST_ANSWER: u64 = 1 << 20;
/// 1,000 groups of 200 letters: the largest that providers tell.
const MOST_GROUPS: usize = 1_000;
const LONGEST_GROUP: usize = 200;
/// At most as long as other names.
const MOST_NAME: usize = super::MOST_NAME;

/// Signed with the provider's private key: what the client's secret signs, anybody who knows that can make.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 10] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EcdsaP521Sha512,
    CoreJwsSigningAlgorithm::EdDsa,
];

// --- a browser's attempt

/// What makes attempts of cookies; another in each process.
pub(super) struct Seal(hmac::Key);

/// What goes with a browser to the provider and has to come back.
pub(super) struct Attempt {
    state: String,
    nonce: String,
    verifier: String,
}

impl Seal {
    pub(super) fn of(random: [u8; 32]) -> Seal {
        Seal(hmac::Key::new(hmac::HMAC_SHA256, &random))
    }

    /// A cookie for a browser that begins.
    pub(super) fn cookie_of(random: [u8; 32], now_unix_ms: u64) -> String {
        format!("{now_unix_ms}.{}", text_of(random))
    }

    /// The attempt of a cookie that this process has made.
    pub(super) fn attempt_of(&self, cookie: &str) -> Attempt {
        let made = |what: &str| {
            let mut context = hmac::Context::with_key(&self.0);
            context.update(what.as_bytes());
            context.update(cookie.as_bytes());
            let mut bytes = [0; 32];
            bytes.copy_from_slice(context.sign().as_ref());
            text_of(bytes)
        };
        Attempt { state: made("state "), nonce: made("nonce "), verifier: made("verifier ") }
    }

    /// The attempt that comes back with this cookie and this state; `None` if they do not belong together, or it is too late.
    pub(super) fn returned(&self, cookie: &str, state: &str, now_unix_ms: u64) -> Option<Attempt> {
        let (at, secret) = cookie.split_once('.')?;
        let attempt = self.attempt_of(cookie);
        let is_ours: bool = attempt.state.as_bytes().ct_eq(state.as_bytes()).into();
        let at: u64 = at.parse().ok()?;
        let is_in_time = now_unix_ms.abs_diff(at) < ATTEMPT_MS;
        (is_ours && is_in_time && secret.len() == SECRET_LETTERS).then_some(attempt)
    }
}

// --- the provider

/// A provider, and what is known of it.
pub(crate) struct Provider {
    pub(crate) config: Arc<Oidc>,
    agent: ureq::Agent,
    known: Mutex<Option<Known>>,
}

struct Known {
    metadata: CoreProviderMetadata,
    at_unix_ms: u64,
}

/// Somebody whom the provider vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) subject: String,
    /// As users are named, with [`NAME_PREFIX`].
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

/// Why nobody is vouched for; for the log, without what is secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotVouched {
    #[error("the provider cannot be asked: {0}")]
    Unreachable(String),
    #[error("the provider refuses: {0}")]
    Refused(String),
    #[error("what the provider says does not hold: {0}")]
    Unproved(String),
}

/// All claims that openidconnect does not know by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OtherClaims {
    #[serde(flatten)]
    all: Map<String, Value>,
}

impl AdditionalClaims for OtherClaims {}

type Fields = IdTokenFields<
    OtherClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Tokens = StandardTokenResponse<Fields, CoreTokenType>;
type Asking = Client<
    OtherClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    Tokens,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

impl Provider {
    pub(crate) fn new(config: Arc<Oidc>) -> Provider {
        let authorities = config.authorities.iter().map(|der| Certificate::from_der(der).to_owned());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(authorities.collect())))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        // The client's secret goes to the provider, and to no address that a proxy variable or a redirect names; and where the
        // provider is asked over TLS, so is whatever it names.
        let agent = ureq::Agent::config_builder().proxy(None).max_redirects(0).http_status_as_error(false);
        let agent = agent.https_only(config.issuer.starts_with("https://"));
        let agent = agent.timeout_connect(Some(CONNECT)).timeout_global(Some(ANSWER)).tls_config(tls);
        Provider { config, agent: agent.build().new_agent(), known: Mutex::default() }
    }

    /// What the rules make of somebody of this issuer's who is in these groups.
    pub(crate) fn role_of(&self, issuer: &str, groups: &[String]) -> Option<May> {
        let mut rules = self.config.rules.iter().filter(|_| issuer == self.config.issuer);
        let rule = rules.find(|rule| groups.contains(&rule.group))?;
        Some((rule.role, rule.tenant.clone()))
    }

    /// Where a browser is to go.
    pub(super) fn begin(&self, attempt: &Attempt, now_unix_ms: u64) -> Result<String, NotVouched> {
        let client = self.client(now_unix_ms, false)?;
        let Attempt { state, nonce, verifier } = attempt;
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let (state, nonce) = (CsrfToken::new(state.clone()), Nonce::new(nonce.clone()));
        let challenge =
            PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier.clone()));
        let request = client.authorize_url(flow, move || state, move || nonce).set_pkce_challenge(challenge);
        let scopes = self.config.scopes.iter().cloned().map(Scope::new);
        let (url, _, _) = request.add_scopes(scopes).url();
        let is_safe = url.scheme() == "https" || self.config.issuer.starts_with("http://");
        if is_safe {
            Ok(url.into())
        } else {
            Err(NotVouched::Unproved(format!("it sends browsers to {url}")))
        }
    }

    /// Who it is that comes back with this code.
    pub(super) fn finish(
        &self,
        attempt: &Attempt,
        code: String,
        now_unix_ms: u64,
    ) -> Result<Identity, NotVouched> {
        let mut client = self.client(now_unix_ms, false)?;
        let exchange = client.exchange_code(AuthorizationCode::new(code));
        let exchange = exchange.map_err(|_| NotVouched::Unproved("it names no token endpoint".to_owned()))?;
        let exchange = exchange.set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()));
        let tokens = exchange.request(&|request| self.ask(request)).map_err(|error| match error {
            RequestTokenError::ServerResponse(told) => NotVouched::Refused(printable(&told.to_string())),
            RequestTokenError::Request(error) => unreachable(error),
            // With what was answered, which may have tokens in it, nothing is told.
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
                NotVouched::Unproved("its answer to the code is no token's".to_owned())
            }
        })?;
        let proved = match self.prove(&client, &tokens, attempt, now_unix_ms) {
            Err(ClaimsVerificationError::SignatureVerification(_)) => {
                client = self.client(now_unix_ms, true)?;
                self.prove(&client, &tokens, attempt, now_unix_ms)
            }
            proved => proved,
        };
        let mut claims = proved.map_err(|error| NotVouched::Unproved(printable(&error.to_string())))?;
        let Some(Value::String(subject)) = claims.get("sub").cloned() else {
            return Err(NotVouched::Unproved("nobody is named in it".to_owned()));
        };
        let Oidc { name_claim, groups_claim, .. } = &*self.config;
        if [name_claim, groups_claim].iter().any(|claim| !claims.contains_key(*claim)) {
            let more = self.user_info(&client, tokens.access_token().clone(), &subject)?;
            more.into_iter().for_each(|(claim, value)| _ = claims.entry(claim).or_insert(value));
        }
        if name_claim == "email" && claims.get("email_verified") != Some(&Value::Bool(true)) {
            return Err(NotVouched::Unproved("the address of mail is not verified".to_owned()));
        }
        let named = claims.get(name_claim).and_then(Value::as_str).filter(|name| !name.is_empty());
        let groups = groups_in(claims.get(groups_claim));
        Ok(Identity { name: name_of(named.unwrap_or(&subject)), subject, groups })
    }

    /// The ID token's claims, if it is the provider's, for this box, of this attempt and of now.
    fn prove(
        &self,
        client: &Asking,
        tokens: &Tokens,
        attempt: &Attempt,
        now_unix_ms: u64,
    ) -> Result<Map<String, Value>, ClaimsVerificationError> {
        let other = |why: &str| ClaimsVerificationError::Other(why.to_owned());
        let token = tokens.id_token().ok_or_else(|| other("there is no ID token"))?;
        let (early, late) = (time_of(now_unix_ms.saturating_sub(SKEW_MS)), time_of(now_unix_ms + SKEW_MS));
        let oldest = time_of(now_unix_ms.saturating_sub(ATTEMPT_MS + SKEW_MS));
        let verifier = client.id_token_verifier();
        let verifier = verifier.set_allowed_algs(ALGORITHMS).set_time_fn(move || early);
        let verifier = verifier.set_issue_time_verifier_fn(move |issued| {
            if (oldest..=late).contains(&issued) { Ok(()) } else { Err(format!("it is of {issued}")) }
        });
        let claims = token.claims(&verifier, &Nonce::new(attempt.nonce.clone()))?;
        if let Some(told) = claims.access_token_hash() {
            let of = |error: String| ClaimsVerificationError::Other(error);
            let algorithm = token.signing_alg().map_err(|error| of(error.to_string()))?;
            let key = token.signing_key(&verifier).map_err(|error| of(error.to_string()))?;
            let hash = AccessTokenHash::from_token(tokens.access_token(), algorithm, key);
            if hash.map_err(|error| of(error.to_string()))? != *told {
                return Err(other("the access token is another one's"));
            }
        }
        match serde_json::to_value(claims) {
            Ok(Value::Object(claims)) => Ok(claims),
            _ => Err(other("the claims cannot be read")),
        }
    }

    /// What the provider says of whoever has this token, besides; nothing, if there is nowhere to ask.
    fn user_info(
        &self,
        client: &Asking,
        token: AccessToken,
        subject: &str,
    ) -> Result<Map<String, Value>, NotVouched> {
        let subject = openidconnect::SubjectIdentifier::new(subject.to_owned());
        let Ok(request) = client.user_info(token, Some(subject)) else { return Ok(Map::new()) };
        let claims: Result<UserInfoClaims<OtherClaims, CoreGenderClaim>, _> =
            request.request(&|request| self.ask(request));
        let claims = claims.map_err(|error| match error {
            UserInfoError::Request(error) => unreachable(error),
            UserInfoError::Response(status, ..) => NotVouched::Refused(format!("status {status} for claims")),
            UserInfoError::ClaimsVerification(error) => NotVouched::Unproved(printable(&error.to_string())),
            _ => NotVouched::Unproved("its claims cannot be read".to_owned()),
        })?;
        match serde_json::to_value(&claims) {
            Ok(Value::Object(claims)) => Ok(claims),
            _ => Err(NotVouched::Unproved("its claims cannot be read".to_owned())),
        }
    }

    /// Who asks the provider; `anew` if what is known of it does not fit any more.
    fn client(&self, now_unix_ms: u64, anew: bool) -> Result<Asking, NotVouched> {
        let Oidc { client_id, client_secret, console, .. } = &*self.config;
        let redirect = RedirectUrl::new(format!("{console}{CALLBACK}"));
        let redirect = redirect.map_err(|error| NotVouched::Unproved(error.to_string()))?;
        let metadata = self.metadata(now_unix_ms, anew)?;
        let (id, secret) = (ClientId::new(client_id.clone()), ClientSecret::new(client_secret.0.clone()));
        Ok(Client::from_provider_metadata(metadata, id, Some(secret)).set_redirect_uri(redirect))
    }

    fn metadata(&self, now_unix_ms: u64, anew: bool) -> Result<CoreProviderMetadata, NotVouched> {
        let is_good = |known: &&Known| now_unix_ms.abs_diff(known.at_unix_ms) < KNOWN_MS && !anew;
        if let Some(known) = super::lock(&self.known).as_ref().filter(is_good) {
            return Ok(known.metadata.clone());
        }
        let issuer = IssuerUrl::new(self.config.issuer.clone());
        let issuer = issuer.map_err(|error| NotVouched::Unproved(error.to_string()))?;
        let asked = CoreProviderMetadata::discover(&issuer, &|request| self.ask(request));
        let metadata = asked.map_err(|error| match error {
            DiscoveryError::Request(error) => unreachable(error),
            DiscoveryError::Response(status, ..) => NotVouched::Unreachable(format!("status {status}")),
            DiscoveryError::Validation(why) => NotVouched::Unproved(printable(&why)),
            error => NotVouched::Unproved(printable(&error.to_string())),
        })?;
        *super::lock(&self.known) = Some(Known { metadata: metadata.clone(), at_unix_ms: now_unix_ms });
        Ok(metadata)
    }

    fn ask(&self, request: HttpRequest) -> Result<HttpResponse, ureq::Error> {
        let (parts, body) = self.agent.run(request)?.into_parts();
        let body = body.into_with_config().limit(MOST_ANSWER).read_to_vec()?;
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// Where browsers come back to, below the console.
pub(crate) const CALLBACK: &str = "/api/v1/oidc/callback";

fn unreachable(error: ureq::Error) -> NotVouched {
    NotVouched::Unreachable(printable(&error.to_string()))
}

/// What others have written, for a line of a log.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(300).collect()
}

fn time_of(unix_ms: u64) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_millis(unix_ms.cast_signed()).unwrap_or_default()
}

/// How somebody is shown here whom the provider calls this: what users' names cannot have in them is left out.
fn name_of(claimed: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | '@');
    let letters = claimed.chars().map(|letter| if fits(letter) { letter.to_ascii_lowercase() } else { '_' });
    NAME_PREFIX.chars().chain(letters).take(MOST_NAME).collect()
}

/// A list of texts, or one text.
fn groups_in(claim: Option<&Value>) -> Vec<String> {
    let groups = match claim {
        Some(Value::Array(groups)) => groups.as_slice(),
        Some(group @ Value::String(_)) => std::slice::from_ref(group),
        _ => &[],
    };
    let texts = groups.iter().filter_map(Value::as_str).filter(|group| group.len() <= LONGEST_GROUP);
    texts.take(MOST_GROUPS).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn an_attempt_comes_back_with_its_own_browsers_cookie_and_in_time() {
        let seal = Seal::of([1; 32]);
        let cookie = Seal::cookie_of([2; 32], NOW);
        let state = seal.attempt_of(&cookie).state;
        let is_back = |cookie: &str, state: &str, now| seal.returned(cookie, state, now).is_some();
        assert!(is_back(&cookie, &state, NOW));
        assert!(is_back(&cookie, &state, NOW + ATTEMPT_MS - 1));
        assert!(!is_back(&cookie, &state, NOW + ATTEMPT_MS));
        assert!(!is_back(&Seal::cookie_of([3; 32], NOW), &state, NOW), "another browser's");
        assert!(!is_back(&Seal::cookie_of([2; 32], NOW + 1), &state, NOW), "the time in it is changed");
        for (cookie, state) in
            [("", ""), (&*cookie, ""), (&*cookie, &state[1..]), (".", &*state), (&state, &state)]
        {
            assert!(!is_back(cookie, state, NOW), "{cookie} {state}");
        }
        assert!(Seal::of([4; 32]).returned(&cookie, &state, NOW).is_none(), "another process");
    }

    #[test]
    fn what_goes_through_the_browser_says_nothing_of_what_does_not() {
        let attempt = Seal::of([1; 32]).attempt_of(&Seal::cookie_of([2; 32], NOW));
        assert!(attempt.state != attempt.nonce && attempt.nonce != attempt.verifier);
        // RFC 7636 section 4.1.
        assert_eq!(attempt.verifier.len(), 43);
    }

    #[test]
    fn names_are_as_users_are_and_no_users() {
        assert_eq!(name_of("Anna@Example.net"), "oidc:anna@example.net");
        assert_eq!(name_of("Ängström, J. oidc:x"), "oidc:_ngstr_m__j._oidc_x");
        assert_eq!(name_of(&"a".repeat(100)).len(), MOST_NAME);
        assert!(super::super::check_name(&name_of("anna")).is_err());
    }

    #[test]
    fn groups_are_a_list_or_one() {
        assert_eq!(groups_in(Some(&json!(["noc", 7, "ops"]))), ["noc", "ops"]);
        assert_eq!(groups_in(Some(&json!("noc"))), ["noc"]);
        for claim in [Some(json!(7)), Some(json!({"noc": true})), Some(json!(["x".repeat(201)])), None] {
            assert!(groups_in(claim.as_ref()).is_empty());
        }
    }
}
