//! `[admin]`: where API and console are, and how whoever comes from elsewhere knows that it is this box.

use super::appliance::Surroundings;
use super::export::{both, read_certificates, read_private_key};
use super::problem::Noted;
use super::reader::{Table, Value};
use super::{Acme, Identity, Oidc, acme, oidc, values};
use crate::model::HostName;
use rustls::ServerConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// Where API and console are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// On loopback, without TLS.
    pub listen: SocketAddr,
    pub tls: Option<AdminTls>,
    /// Where people may sign in besides.
    pub oidc: Option<Arc<Oidc>>,
}

/// Where others than the box itself reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    pub listen: Vec<SocketAddr>,
    /// By which the box may be asked for there, besides its addresses.
    pub names: Vec<HostName>,
    /// `None`: the box makes its own certificate.
    pub identity: Option<IdentityFiles>,
    /// Who signs one in its place.
    pub acme: Option<Acme>,
}

/// The files of a certificate and the key to it, which somebody may renew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    pub certificates: PathBuf,
    pub key: PathBuf,
}

impl IdentityFiles {
    /// What they hold now.
    ///
    /// # Errors
    /// One cannot be read, others may read the key, or they do not belong together; for the operator.
    pub fn read(&self) -> Result<Identity, String> {
        let identity = Identity {
            certificates: read_certificates(&self.certificates)?,
            key: Arc::new(read_private_key(&self.key)?),
        };
        let Identity { certificates, key } = identity.clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().and_then(
                |builder| builder.with_no_client_auth().with_single_cert(certificates, key.clone_key()),
            );
        server.map(|_| identity).map_err(|error| format!("{}: {error}", self.certificates.display()))
    }
}

pub(super) fn read_admin(
    root: &mut Table<'_>,
    dir: &Path,
    around: &mut Surroundings,
) -> Result<Admin, Noted> {
    let default = Admin { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)), tls: None, oidc: None };
    let Some(mut table) = root.table("admin", "[admin]")? else { return Ok(default) };
    let listen = table.with_default("listen", default.listen, |value| {
        let listen = value.parse(values::socket_address)?;
        if !listen.ip().is_loopback() {
            return Err(value.note(format!(
                "{listen} is not on loopback, and passwords would cross a network in the clear there: write it into tls-listen"
            )));
        }
        Ok(listen)
    });
    let tls =
        table.optional("tls-listen", |value| value.one_or_many(|value| value.parse(values::socket_address)));
    let names = table.optional("names", |value| {
        value.one_or_many(|value| {
            value.parse(|name| name.parse().map_err(|_| format!("{name:?} is not a host name")))
        })
    });
    let path = |value: Value<'_>| value.string().map(|name| dir.join(name));
    let certificates = table.optional("certificate-file", path);
    let key = table.optional("key-file", path);
    let provider = table.table("oidc", "[admin.oidc]");
    let authority = table.table("acme", "[admin.acme]");
    let (tls, listen) = (tls?, listen?);
    let identity = both(&table, certificates?, key?)?;
    let identity = identity.map(|(certificates, key)| IdentityFiles { certificates, key });
    if let Some(Err(why)) = identity.as_ref().map(IdentityFiles::read) {
        return Err(table.note(format!("[admin]: {why}")));
    }
    if tls.is_none() && (identity.is_some() || matches!(names, Ok(Some(_)))) {
        return Err(table.missing("tls-listen, which certificates and names are for"));
    }
    if let Some(same) = tls.iter().flatten().find(|address| {
        address.port() == listen.port() && (**address == listen || address.ip().is_unspecified())
    }) {
        return Err(table.note(format!(
            "[admin]: tls-listen: {same} takes the port of listen, {listen}: choose another"
        )));
    }
    let names = names?.unwrap_or_default();
    let acme = authority?.map(|authority| {
        let at = authority.at().clone();
        let acme = acme::read(authority, dir)?;
        if identity.is_some() {
            let why = "[admin.acme]: certificate-file names a certificate already: one or the other";
            return Err(table.note_at(&at, why));
        }
        if names.is_empty() {
            let why = "[admin.acme]: the certificate is for the names in [admin], and there are none";
            return Err(table.note_at(&at, why));
        }
        Ok(acme)
    });
    let acme = acme.transpose();
    let tls = tls.map(|listen| AdminTls { listen, names, identity, acme: None });
    let is_ours = |console: &Url| is_ours(console, tls.as_ref());
    let oidc = provider?.map(|table| oidc::read(table, dir, around, is_ours)).transpose();
    table.finish();
    let acme = acme?;
    let tls = tls.map(|tls| AdminTls { acme, ..tls });
    Ok(Admin { listen, tls, oidc: oidc?.map(Arc::new) })
}

/// Whether the box answers to what this URL is asked for.
fn is_ours(console: &Url, tls: Option<&AdminTls>) -> Result<(), String> {
    if console.scheme() == "http" {
        return Ok(());
    }
    let Some(tls) = tls else { return Err("nothing is there over TLS without tls-listen".to_owned()) };
    let host = console.host_str().unwrap_or_default();
    let is_ours = match oidc::address_of(console) {
        Some(address) => {
            let is_here = |listen: &SocketAddr| listen.ip() == address || listen.ip().is_unspecified();
            address.is_loopback() || tls.listen.iter().any(is_here)
        }
        None => host == "localhost" || tls.names.iter().any(|name| name.as_str() == host),
    };
    if is_ours { Ok(()) } else { Err(format!("this box is not asked for as {host}: write that into names")) }
}
