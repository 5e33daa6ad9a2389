//! What a box's own console shows of the running box ([`crate::system::screen`]), asked over its API as by any command.

use super::access::setup_link;
use super::client::{Connection, ask, read};
use super::table::utc;
use super::tls::CertificateAnswer;
use crate::control::Status;
use std::net::SocketAddr;
use std::path::Path;

/// How the running box is.
#[derive(Clone, Debug)]
pub struct AtConsole {
    pub status: Status,
    /// SHA-256 of the certificate that is shown over TLS, as browsers write it.
    pub fingerprint: Option<String>,
    /// By when a commit is to be confirmed.
    pub confirm_by: Option<String>,
}

/// Asks the box whose API is at `listen`.
///
/// # Errors
/// For whoever stands before it: why it does not answer.
pub fn at_console(listen: SocketAddr, state_dir: &Path) -> Result<AtConsole, String> {
    let to = Connection::of_box(listen, state_dir);
    let answer = |path: &str| ask(&to, path, Vec::new());
    let status: Status = answer("status").and_then(|it| read(&it)).map_err(|error| error.to_string())?;
    let certificate: CertificateAnswer =
        answer("certificate").and_then(|it| read(&it)).map_err(|error| error.to_string())?;
    let confirm_by = status.commit.as_ref().and_then(|commit| commit.confirm_by_unix_ms).map(utc);
    Ok(AtConsole { status, fingerprint: certificate.certificate.map(|row| row.fingerprint), confirm_by })
}

/// The link that makes the first owner, to the console at `url`; `None` when there is a user.
pub fn first_link(
    state_dir: &Path,
    url: &str,
    random: impl FnOnce() -> [u8; 32],
    now_unix_ms: u64,
) -> Option<String> {
    setup_link(state_dir, url, random, now_unix_ms).ok()
}
