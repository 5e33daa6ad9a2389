//! TLS of the admin server: whose certificate it shows, and that a renewed one is shown without a restart.
//!
//! Where no files are named the box makes a certificate of its own at the first start, for as long as it lasts: nobody has
//! signed it, so whoever comes compares its fingerprint, which the log tells and `openssl x509 -in admin-certificate.pem
//! -noout -fingerprint -sha256`, with what their browser shows. With `[admin.acme]` that one is shown until an authority has signed
//! another, which is shown from then on, over restarts, and asked for anew when two thirds of its time are over.

use super::acme::{self, Acme};
use super::problem::Problem;
use super::{App, api};
use crate::config::{AdminTls, Identity, IdentityFiles};
use crate::store::whole;
use arc_swap::ArcSwap;
use axum::Json;
use axum::extract::State;
use rcgen::{CertificateParams, DnType, KeyPair};
use ring::digest;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use utoipa::ToSchema;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// The box's own certificate and key in the state directory.
const CERTIFICATE: &str = "admin-certificate.pem";
const KEY: &str = "admin-key.pem";

/// 10 s: whoever renews a certificate does it days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// An hour: how late it is seen that the clock was set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);

/// What an authority asks for in its greeting (RFC 8737 section 6.2).
pub(super) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// What connections are greeted with.
pub struct Tls {
    acceptor: TlsAcceptor,
    pub(super) shown: Arc<Shown>,
    files: IdentityFiles,
    provider: Arc<CryptoProvider>,
    acme: Option<Acme>,
}

/// Why there is none; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Identity(String),
    #[error("the certificate cannot be made: {0}")]
    Own(#[from] rcgen::Error),
    #[error("the certificate cannot be kept: {0}")]
    Io(#[from] io::Error),
    #[error("the certificate cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Who has made a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Issued {
    /// The box itself; nobody vouches for it.
    Itself,
    /// Whoever wrote the files that the configuration names.
    Files,
    /// An authority that was asked by ACME.
    Acme,
}

/// What is shown, how long it is good, and what keeps a better one away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CertificateRow {
    pub(super) issued: Issued,
    /// SHA-256, as browsers write it.
    pub(super) fingerprint: String,
    pub(super) names: Vec<String>,
    pub(super) not_before_unix_ms: u64,
    pub(super) not_after_unix_ms: u64,
    /// When an authority is asked for the next one; `None` if none is asked.
    pub(super) renew_unix_ms: Option<u64>,
    /// How often it was asked in vain since the last certificate, and why last.
    pub(super) failures: u32,
    pub(super) problem: Option<String>,
}

/// What `GET /api/v1/certificate` answers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct CertificateAnswer {
    /// `None`: the box is reached on loopback alone.
    pub(super) certificate: Option<CertificateRow>,
}

pub(super) async fn certificate(
    State(app): State<App>,
    query: api::Parameters,
) -> Result<Json<CertificateAnswer>, Problem> {
    api::check_names(&query.0, &[])?;
    Ok(Json(CertificateAnswer { certificate: app.shown.as_ref().map(|shown| shown.row()) }))
}

/// What is shown at the moment.
#[derive(Debug)]
pub(super) struct Shown {
    key: ArcSwap<CertifiedKey>,
    row: Mutex<CertificateRow>,
    pub(super) challenges: Challenges,
}

/// What an authority is shown that looks whose a name is.
#[derive(Debug, Default)]
pub(super) struct Challenges(Mutex<BTreeMap<String, Arc<CertifiedKey>>>);

impl Challenges {
    pub(super) fn show(&self, name: &str, proof: CertifiedKey) {
        held(&self.0).insert(name.to_owned(), Arc::new(proof));
    }

    pub(super) fn forget(&self) {
        held(&self.0).clear();
    }
}

impl Shown {
    fn new(key: CertifiedKey, issued: Issued) -> Shown {
        let row = Mutex::new(row_of(&key, issued));
        Shown { key: ArcSwap::from_pointee(key), row, challenges: Challenges::default() }
    }

    fn store(&self, key: CertifiedKey, issued: Issued) {
        let row = row_of(&key, issued);
        self.key.store(Arc::new(key));
        *held(&self.row) = row;
    }

    pub(super) fn row(&self) -> CertificateRow {
        held(&self.row).clone()
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the certificate that is shown (as RFC 7469 section 2.4 pins keys): a renewed one
    /// with the same key has the same. `None` if it cannot be read.
    pub(super) fn pin(&self) -> Option<[u8; 32]> {
        let key = self.key.load();
        let (_, certificate) = parse_x509_certificate(key.cert.first()?).ok()?;
        let mut pin = [0; 32];
        pin.copy_from_slice(digest::digest(&digest::SHA256, certificate.public_key().raw).as_ref());
        Some(pin)
    }

    /// Whether somebody else vouches for the certificate: it is not the box's own.
    pub(super) fn is_signed(&self) -> bool {
        held(&self.row).issued != Issued::Itself
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737 section 3: whoever asks for that asks for nothing else.
        if hello.alpn().is_some_and(|mut asked| asked.any(|protocol| protocol == CHALLENGE_PROTOCOL)) {
            let name = hello.server_name()?.to_ascii_lowercase();
            return held(&self.challenges.0).get(&name).cloned();
        }
        Some(self.key.load_full())
    }
}

impl Tls {
    /// With what `config` names, or what an authority has signed for `site` before, or else what it makes for itself in `state_dir`
    /// unless that is there already.
    ///
    /// # Errors
    /// Files cannot be read or written, or do not belong together.
    pub fn open(config: &AdminTls, site: &str, state_dir: &Path) -> Result<Tls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let acme = config.acme.as_ref().map(|acme| Acme {
            config: acme.clone(),
            names: config.names.clone(),
            state_dir: state_dir.to_owned(),
        });
        let signed = acme.as_ref().and_then(|_| signed_before(state_dir, &provider));
        let (files, shown) = match (&config.identity, signed) {
            (Some(files), _) => (files.clone(), Shown::new(read(files, &provider)?, Issued::Files)),
            (None, Some(signed)) => (signed_files(state_dir), Shown::new(signed, Issued::Acme)),
            (None, None) => {
                let files = own_files(config, site, state_dir)?;
                let own = read(&files, &provider)?;
                (files, Shown::new(own, Issued::Itself))
            }
        };
        let shown = Arc::new(shown);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        server.alpn_protocols.extend(acme.as_ref().map(|_| CHALLENGE_PROTOCOL.to_vec()));
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(server)), shown, files, provider, acme })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// The SHA-256 of the certificate that is shown, as browsers write it.
    pub fn fingerprint(&self) -> String {
        self.shown.row().fingerprint
    }

    /// Shows a renewed certificate, for ever. What cannot be used is told once, and the old one stays.
    pub(super) async fn keep_up(&self, now_unix_ms: impl Fn() -> u64) -> Infallible {
        if let Some(acme) = &self.acme {
            return self.ask_for(acme, now_unix_ms).await;
        }
        let mut seen = stamp(&self.files);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = stamp(&self.files);
            if now == seen {
                continue;
            }
            seen = now;
            self.renew();
        }
    }

    fn renew(&self) {
        match read(&self.files, &self.provider) {
            Ok(renewed) => {
                self.shown.store(renewed, self.shown.row().issued);
                tracing::info!(fingerprint = self.fingerprint(), "admin: another certificate is shown");
            }
            Err(error) => {
                tracing::warn!(%error, "admin: the certificate has changed and cannot be used: the old one stays")
            }
        }
    }

    /// Asks the authority for a certificate when it is time to, for ever. Until there is one the old one stays.
    async fn ask_for(&self, acme: &Acme, now_unix_ms: impl Fn() -> u64) -> Infallible {
        loop {
            let due = due_unix_ms(&self.shown.row(), acme);
            held(&self.shown.row).renew_unix_ms = Some(due);
            let wait = Duration::from_millis(due.saturating_sub(now_unix_ms()));
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(LONGEST_SLEEP)).await;
                continue;
            }
            let ordered = acme.order(&self.shown.challenges).await;
            let taken = ordered.and_then(|pem| self.take(&pem, acme, now_unix_ms()));
            let Err(why) = taken else { continue };
            let failures = held(&self.shown.row).failures + 1;
            let wait = acme::retry(failures);
            tracing::warn!(
                failures,
                retry_secs = wait.as_secs(),
                "admin: no certificate by ACME: {why}; the old one stays"
            );
            {
                let mut row = held(&self.shown.row);
                row.failures = failures;
                row.problem = Some(why);
                row.renew_unix_ms = Some(now_unix_ms() + wait.as_millis() as u64);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Keeps what the authority has signed and shows it, if it can be used and for longer than this moment.
    fn take(&self, pem: &str, acme: &Acme, now_unix_ms: u64) -> Result<(), String> {
        let path = acme.state_dir.join(acme::CERTIFICATE);
        let new = path.with_extension("new");
        whole::create(&new, |file| file.write_all(pem.as_bytes())).map_err(|error| error.to_string())?;
        let files = IdentityFiles { certificates: new.clone(), key: new.clone() };
        let key = read(&files, &self.provider).map_err(|error| error.to_string());
        whole::remove(&new).map_err(|error| error.to_string())?;
        let key = key?;
        if due_unix_ms(&row_of(&key, Issued::Acme), acme) <= now_unix_ms {
            return Err("what it has signed is over, or for other names; is the clock right?".to_owned());
        }
        whole::create(&path, |file| file.write_all(pem.as_bytes())).map_err(|error| error.to_string())?;
        self.shown.store(key, Issued::Acme);
        tracing::info!(
            fingerprint = self.fingerprint(),
            "admin: a certificate that ACME's authority has signed is shown"
        );
        Ok(())
    }
}

/// When the authority is asked for another: after two thirds of this one's time, or at once if it is no good.
fn due_unix_ms(row: &CertificateRow, acme: &Acme) -> u64 {
    let covers = acme.names.iter().all(|name| row.names.iter().any(|known| known == name.as_str()));
    if row.issued != Issued::Acme || !covers {
        return 0;
    }
    let lifetime = row.not_after_unix_ms.saturating_sub(row.not_before_unix_ms);
    row.not_before_unix_ms + lifetime / 3 * 2
}

fn row_of(key: &CertifiedKey, issued: Issued) -> CertificateRow {
    let der = key.cert.first();
    let hash = der.map(|certificate| digest::digest(&digest::SHA256, certificate));
    let bytes = hash.iter().flat_map(|hash| hash.as_ref());
    let mut row = CertificateRow {
        issued,
        fingerprint: bytes.map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"),
        names: Vec::new(),
        not_before_unix_ms: 0,
        not_after_unix_ms: 0,
        renew_unix_ms: None,
        failures: 0,
        problem: None,
    };
    // What cannot be read can be shown all the same.
    if let Some((_, certificate)) = der.and_then(|der| parse_x509_certificate(der).ok()) {
        let millis = |seconds: i64| u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000);
        row.not_before_unix_ms = millis(certificate.validity().not_before.timestamp());
        row.not_after_unix_ms = millis(certificate.validity().not_after.timestamp());
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        row.names.extend(names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        }));
    }
    row
}

fn signed_files(state_dir: &Path) -> IdentityFiles {
    let path = state_dir.join(acme::CERTIFICATE);
    IdentityFiles { certificates: path.clone(), key: path }
}

/// What an authority has signed before this start, if there is something that can be used.
fn signed_before(state_dir: &Path, provider: &CryptoProvider) -> Option<CertifiedKey> {
    let files = signed_files(state_dir);
    if !files.certificates.exists() {
        return None;
    }
    let signed = read(&files, provider);
    signed
        .inspect_err(|error| tracing::warn!(%error, "admin: what ACME's authority has signed cannot be used"))
        .ok()
}

/// Whatever panicked meanwhile, what is held is a value that was put there whole.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(files: &IdentityFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let Identity { certificates, key } = files.read().map_err(TlsError::Identity)?;
    Ok(CertifiedKey::from_der(certificates, key.clone_key(), provider)?)
}

/// What changes when a file is written or another takes its place: its inode, its length, and when it was written.
fn stamp(files: &IdentityFiles) -> [Option<(u64, u64, i64, i64)>; 2] {
    [&files.certificates, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    })
}

/// The box's own certificate, made if there is none.
fn own_files(config: &AdminTls, site: &str, state_dir: &Path) -> Result<IdentityFiles, TlsError> {
    let files = IdentityFiles { certificates: state_dir.join(CERTIFICATE), key: state_dir.join(KEY) };
    if files.certificates.exists() && files.key.exists() {
        return Ok(files);
    }
    let addresses =
        config.listen.iter().map(|listen| listen.ip()).filter(|address| !address.is_unspecified());
    let names = config.names.iter().map(|name| name.as_str().to_owned());
    let mut names: Vec<String> = names.chain(addresses.map(|address| address.to_string())).collect();
    names.push("localhost".to_owned());
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, format!("popgate {site}"));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    // The key first: a certificate without its key would never be made again.
    whole::create(&files.key, |file| file.write_all(key.serialize_pem().as_bytes()))?;
    whole::create(&files.certificates, |file| file.write_all(certificate.pem().as_bytes()))?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(identity: Option<IdentityFiles>) -> AdminTls {
        let names = vec!["pop.example".parse().expect("a name")];
        AdminTls { listen: vec!["0.0.0.0:443".parse().expect("an address")], names, identity, acme: None }
    }

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_the_boxs_alone() {
        let state = tempfile::tempdir().expect("a directory");
        let made = Tls::open(&config(None), "fra1", state.path()).expect("made");
        assert_eq!(made.fingerprint().len(), 32 * 3 - 1);
        let mode = fs::metadata(state.path().join(KEY)).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Tls::open(&config(None), "fra1", state.path()).expect("there");
        assert_eq!(made.fingerprint(), again.fingerprint());
        // A crash between the two files leaves no half of it.
        fs::remove_file(state.path().join(CERTIFICATE)).expect("removed");
        let anew = Tls::open(&config(None), "fra1", state.path()).expect("made anew");
        assert_ne!(made.fingerprint(), anew.fingerprint());
    }

    #[test]
    fn a_renewed_certificate_is_shown_and_half_of_one_is_not() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let tls = Tls::open(&config(None), "fra1", first.path()).expect("made");
        let other = Tls::open(&config(None), "fra1", second.path()).expect("made");
        let served = Tls::open(&config(Some(tls.files.clone())), "fra1", first.path()).expect("read");
        let before = stamp(&served.files);
        fs::copy(second.path().join(CERTIFICATE), &served.files.certificates).expect("copied");
        assert_ne!(stamp(&served.files), before);
        served.renew();
        assert_eq!(served.fingerprint(), tls.fingerprint(), "its key is not there yet");
        fs::copy(second.path().join(KEY), &served.files.key).expect("copied");
        served.renew();
        assert_eq!(served.fingerprint(), other.fingerprint());
    }

    #[test]
    fn an_authority_is_asked_after_two_thirds_of_the_time_and_at_once_for_other_names() {
        let names = ["pop.example"].map(|name| name.parse().expect("a name")).to_vec();
        let acme = Acme {
            config: crate::config::Acme {
                directory: String::new(),
                contacts: Vec::new(),
                authorities: Vec::new(),
            },
            names,
            state_dir: std::path::PathBuf::new(),
        };
        let state = tempfile::tempdir().expect("a directory");
        let own = Tls::open(&config(None), "fra1", state.path()).expect("made").shown.row();
        assert_eq!((due_unix_ms(&own, &acme), own.names.contains(&"pop.example".to_owned())), (0, true));
        let day = 86_400_000;
        let signed = CertificateRow {
            issued: Issued::Acme,
            not_before_unix_ms: 1_000 * day,
            not_after_unix_ms: 1_090 * day,
            ..own
        };
        assert_eq!(due_unix_ms(&signed, &acme), 1_060 * day);
        let others = CertificateRow { names: vec!["pop2.example".to_owned()], ..signed };
        assert_eq!(due_unix_ms(&others, &acme), 0);
    }
}
