//! A certificate that somebody signs who is asked by ACME (RFC 8555), by the instant-acme crate.
//!
//! That the names are this box's is proved by TLS-ALPN-01 (RFC 8737): the authority greets the box where everybody does, and asks in
//! the greeting for `acme-tls/1`. So the box needs no second door: HTTP-01 would want port 80, in the clear, from everywhere.
//!
//! The account's key and the certificate with its own are files of the state directory. Key and certificate are one file, which
//! is whole or not there: they belong together after any crash. Whoever takes that file away gets another key.

use super::tls::Challenges;
use crate::config::Acme as Config;
use crate::model::HostName;
use crate::store::whole;
use axum::body::Body;
use bytes::Bytes;
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse,
    ChallengeType, Error, HttpClient, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// The certificate with its key, and the account, in the state directory.
pub(super) const CERTIFICATE: &str = "acme-certificate.pem";
const ACCOUNT: &str = "acme-account.json";

/// For a connection, and for an answer.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// 1 MiB: a chain of certificates is some kilobytes.
const MOST_ANSWER: u64 = 1 << 20;
/// The box's own requests are a few kilobytes.
const MOST_REQUEST: usize = 1 << 20;
/// Two minutes for the authority to look whose the names are, and to sign; ten for all of it, whatever it answers.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));
const ALL: Duration = Duration::from_secs(600);

/// After a failure. Each one more doubles it: authorities bear five an hour.
const FIRST_RETRY: Duration = Duration::from_secs(120);
const LAST_RETRY: Duration = Duration::from_secs(6 * 3_600);

/// Who is asked, for what.
pub(super) struct Acme {
    pub(super) config: Config,
    pub(super) names: Vec<HostName>,
    pub(super) state_dir: PathBuf,
}

/// What is kept of an account: it is of one authority.
#[derive(Serialize, Deserialize)]
struct Kept<C> {
    directory: String,
    credentials: C,
}

/// How long until the next try, after so many failures one after the other.
pub(super) fn retry(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_RETRY)
}

impl Acme {
    /// A new certificate with those it was signed by, and its key, in PEM.
    ///
    /// # Errors
    /// For the operator.
    pub(super) async fn order(&self, challenges: &Challenges) -> Result<String, String> {
        let ordered = tokio::time::timeout(ALL, self.ask(challenges)).await;
        challenges.forget();
        ordered.map_err(|_| "it takes longer than ten minutes".to_owned())?.map_err(|error| told(&error))
    }

    async fn ask(&self, challenges: &Challenges) -> Result<String, Error> {
        let names: Vec<Identifier> =
            self.names.iter().map(|name| Identifier::Dns(name.as_str().to_owned())).collect();
        let asked = NewOrder::new(&names);
        let mut order = match self.account(false).await?.new_order(&asked).await {
            // The authority has forgotten it.
            Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
                self.account(true).await?.new_order(&asked).await?
            }
            order => order?,
        };
        self.prove(&mut order, challenges).await?;
        if order.poll_ready(&PATIENCE).await? != OrderStatus::Ready {
            return Err(self.verdict(&mut order).await?);
        }
        let key = self.key().map_err(Error::Other)?;
        let asked: Vec<String> = self.names.iter().map(|name| name.as_str().to_owned()).collect();
        let request = CertificateParams::new(asked).and_then(|params| params.serialize_request(&key));
        order.finalize_csr(request.map_err(|error| Error::Other(error.into()))?.der()).await?;
        let chain = order.poll_certificate(&PATIENCE).await?;
        Ok(format!("{}\n{chain}", key.serialize_pem()))
    }

    /// That of the certificate before, if there is one: branches know the box by its key (the pin in an enrolment's code).
    fn key(&self) -> Result<KeyPair, Box<dyn std::error::Error + Send + Sync>> {
        let kept = fs::read(self.state_dir.join(CERTIFICATE)).ok();
        let kept = kept.and_then(|pem| PrivatePkcs8KeyDer::from_pem_slice(&pem).ok());
        // One that cannot be read is as good as none.
        let kept = kept.and_then(|key| KeyPair::try_from(&key).ok());
        kept.map_or_else(KeyPair::generate, Ok).map_err(Into::into)
    }

    /// Shows the authority, when it comes, what only this account could.
    async fn prove(&self, order: &mut Order, challenges: &Challenges) -> Result<(), Error> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut challenge = authorization
                .challenge(ChallengeType::TlsAlpn01)
                .ok_or(Error::Str("the authority knows no TLS-ALPN-01"))?;
            let name = challenge.identifier().to_string();
            let proof = proof(&name, challenge.key_authorization().digest().as_ref());
            challenges.show(&name, proof.map_err(|error| Error::Other(error.into()))?);
            challenge.set_ready().await?;
        }
        Ok(())
    }

    /// What the authority has found where it looked.
    async fn verdict(&self, order: &mut Order) -> Result<Error, Error> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let challenges = &authorization.refresh().await?.challenges;
            if let Some(problem) = challenges.iter().find_map(|challenge| challenge.error.clone()) {
                return Ok(Error::Api(problem));
            }
        }
        Ok(Error::Str("the authority does not find that the names are this box's"))
    }

    /// The account there is with this authority; `anew`, or if there is none, another one.
    async fn account(&self, anew: bool) -> Result<Account, Error> {
        let path = self.state_dir.join(ACCOUNT);
        let other = |error: io::Error| Error::Other(format!("{}: {error}", path.display()).into());
        let kept: Option<Kept<AccountCredentials>> = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            kept => serde_json::from_slice(&kept.map_err(other)?).ok(),
        };
        let directory = &self.config.directory;
        if let Some(Kept { credentials, .. }) = kept.filter(|kept| kept.directory == *directory && !anew) {
            return self.client().from_credentials(credentials).await;
        }
        let contacts: Vec<String> =
            self.config.contacts.iter().map(|mail| format!("mailto:{mail}")).collect();
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        let wanted =
            NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = self.client().create(&wanted, directory.clone(), None).await?;
        let text = serde_json::to_vec(&Kept { directory: directory.clone(), credentials })?;
        whole::create(&path, |file| file.write_all(&text)).map_err(other)?;
        Ok(account)
    }

    fn client(&self) -> AccountBuilder {
        let authorities = self.config.authorities.iter().map(|der| Certificate::from_der(der).to_owned());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(authorities.collect())))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = ureq::Agent::config_builder().proxy(None).max_redirects(0).http_status_as_error(false);
        let agent = agent.timeout_connect(Some(CONNECT)).timeout_global(Some(ANSWER)).tls_config(tls);
        Account::builder_with_http(Box::new(Asking(agent.build().new_agent())))
    }
}

/// RFC 8555 section 6.7.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// The certificate that proves it for a name (RFC 8737 section 3).
fn proof(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let make = || {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok::<_, rcgen::Error>((certificate.der().clone(), key.serialize_der()))
    };
    let (certificate, key) = make().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    // Unchecked: that extension is critical, and nobody but an authority understands it.
    Ok(CertifiedKey::new(vec![certificate], key))
}

/// With what an authority says of each name.
fn told(error: &Error) -> String {
    let text = match error {
        Error::Api(problem) => {
            problem.detail.clone().or(problem.r#type.clone()).unwrap_or_else(|| error.to_string())
        }
        Error::Timeout(_) => "the authority has not decided in time".to_owned(),
        error => error.to_string(),
    };
    text.chars().filter(|letter| !letter.is_control()).take(300).collect()
}

/// instant-acme's requests, asked on threads that may wait for the network.
struct Asking(ureq::Agent);

impl HttpClient for Asking {
    fn request(
        &self,
        request: ureq::http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let agent = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(Body::new(body), MOST_REQUEST).await;
            let body = body.map_err(|error| Error::Other(error.into()))?.to_vec();
            let ask = move || {
                let (parts, body) = agent.run(ureq::http::Request::from_parts(parts, body))?.into_parts();
                let body = body.into_with_config().limit(MOST_ANSWER).read_to_vec()?;
                Ok::<_, ureq::Error>((parts, body))
            };
            let asked = tokio::task::spawn_blocking(ask).await.map_err(|error| Error::Other(error.into()))?;
            let (parts, body) = asked.map_err(|error| Error::Other(error.into()))?;
            Ok(BytesResponse { parts, body: Box::new(Bytes::from(body)) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_a_certificate_of_the_name_that_nobody_else_takes_for_one() {
        use x509_parser::parse_x509_certificate;
        let proof = proof("pop.example", &[7; 32]).expect("made");
        let (_, certificate) = parse_x509_certificate(&proof.cert[0]).expect("a certificate");
        let critical: Vec<_> = certificate.extensions().iter().filter(|it| it.critical).collect();
        // RFC 8737 section 6.1, with the digest as an octet string.
        assert_eq!(critical[0].oid.to_id_string(), "1.3.6.1.5.5.7.1.31");
        assert_eq!(critical[0].value, [&[4, 32][..], &[7; 32]].concat());
    }

    #[test]
    fn an_authority_is_asked_again_later_and_later() {
        let minutes = |failures| retry(failures).as_secs() / 60;
        assert_eq!([1, 2, 3, 4].map(minutes), [2, 4, 8, 16]);
        assert_eq!([8, 9, 40].map(minutes), [256, 360, 360]);
        // In the first hour, of which authorities bear five.
        let mut at = 0;
        assert_eq!(
            (1..)
                .take_while(|failures| {
                    at += minutes(*failures);
                    at < 60
                })
                .count()
                + 1,
            5
        );
    }
}
