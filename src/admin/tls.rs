//! TLS of the admin server: whose certificate it shows, and that a renewed one is shown without a restart.
//!
//! Where no files are named the box makes a certificate of its own at the first start, for as long as it lasts: nobody has
//! signed it, so whoever comes compares its fingerprint, which the log tells and `openssl x509 -in admin-certificate.pem
//! -noout -fingerprint -sha256`, with what their browser shows.

use crate::config::{AdminTls, Identity, IdentityFiles};
use crate::store::whole;
use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DnType, KeyPair};
use ring::digest;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// The box's own certificate and key in the state directory.
const CERTIFICATE: &str = "admin-certificate.pem";
const KEY: &str = "admin-key.pem";

/// 10 s: whoever renews a certificate does it days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What connections are greeted with.
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    files: IdentityFiles,
    provider: Arc<CryptoProvider>,
    is_own: bool,
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

#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Tls {
    /// With what `config` names, or what `site` makes for itself in `state_dir` unless that is there already.
    ///
    /// # Errors
    /// Files cannot be read or written, or do not belong together.
    pub fn open(config: &AdminTls, site: &str, state_dir: &Path) -> Result<Tls, TlsError> {
        let files = match &config.identity {
            Some(files) => files.clone(),
            None => own_files(config, site, state_dir)?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shown = Arc::new(Shown(ArcSwap::from_pointee(read(&files, &provider)?)));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            shown,
            files,
            provider,
            is_own: config.identity.is_none(),
        })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Whether somebody else vouches for the certificate: it is not the box's own.
    pub(super) fn is_signed(&self) -> bool {
        !self.is_own
    }

    /// The SHA-256 of the certificate that is shown, as browsers write it.
    pub fn fingerprint(&self) -> String {
        let shown = self.shown.0.load();
        let hash = shown.cert.first().map(|certificate| digest::digest(&digest::SHA256, certificate));
        let bytes = hash.iter().flat_map(|hash| hash.as_ref());
        bytes.map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    /// Shows a renewed certificate, for ever. What cannot be used is told once, and the old one stays.
    pub(super) async fn keep_up(&self) -> Infallible {
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
                self.shown.0.store(Arc::new(renewed));
                tracing::info!(fingerprint = self.fingerprint(), "admin: another certificate is shown");
            }
            Err(error) => {
                tracing::warn!(%error, "admin: the certificate has changed and cannot be used: the old one stays")
            }
        }
    }
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
        AdminTls { listen: vec!["0.0.0.0:443".parse().expect("an address")], names, identity }
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
}
