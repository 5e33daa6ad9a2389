//! `[admin]`: where API and console are, and how whoever comes from elsewhere knows that it is this box.

use super::export::{both, read_certificates, read_private_key};
use super::problem::Noted;
use super::reader::{Table, Value};
use super::{Identity, values};
use crate::model::HostName;
use rustls::ServerConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where API and console are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// On loopback, without TLS.
    pub listen: SocketAddr,
    pub tls: Option<AdminTls>,
}

/// Where others than the box itself reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    pub listen: Vec<SocketAddr>,
    /// By which the box may be asked for there, besides its addresses.
    pub names: Vec<HostName>,
    /// `None`: the box makes its own certificate.
    pub identity: Option<IdentityFiles>,
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

pub(super) fn read_admin(root: &mut Table<'_>, dir: &Path) -> Result<Admin, Noted> {
    let default = Admin { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)), tls: None };
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
    table.finish();
    let names = names?.unwrap_or_default();
    Ok(Admin { listen, tls: tls.map(|listen| AdminTls { listen, names, identity }) })
}
