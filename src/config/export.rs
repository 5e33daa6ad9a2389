//! `[export]`: which collectors flow records go to, how, and which records.

use super::appliance::Surroundings;
use super::keys::{Access, read_file};
use super::problem::Noted;
use super::reader::{Table, Value, all};
use super::scope::Scope;
use super::values;
use super::{Collector, CollectorTransport, Export};
use crate::model::{ExportProtocol, RecordKind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Of a file of certificates: some hundreds of them. A bundle of all the authorities of the web is half of it.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// 1,000: a gigabit makes a hundred samples a second.
const PACKET_SAMPLING: u32 = 1_000;

/// How a collector proves who it is over TLS, and the box to it (RFC 7011 section 11.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorTls {
    /// What the collector's certificate must be for.
    pub server_name: ServerName<'static>,
    /// Who may have signed it.
    pub authorities: Vec<CertificateDer<'static>>,
    pub identity: Option<Identity>,
}

/// The box's own certificate, with those it was signed by, and the key to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificates: Vec<CertificateDer<'static>>,
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl CollectorTls {
    /// What connections are made with.
    ///
    /// # Errors
    /// An authority's certificate is none, or key and certificate do not belong together.
    pub fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match &self.identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificates, key }) => {
                builder.with_client_auth_cert(certificates.clone(), key.clone_key())?
            }
        })
    }
}

/// Reads the table. Files' names are relative to `dir`; tenants that filters name go to `around`.
pub(super) fn read(root: &mut Table<'_>, dir: &Path, around: &mut Surroundings) -> Result<Export, Noted> {
    let default = Duration::from_secs(60);
    let Some(mut table) = root.table("export", "[export]")? else {
        return Ok(Export {
            active_timeout: default,
            packet_sampling: PACKET_SAMPLING,
            collectors: Vec::new(),
        });
    };
    let packet_sampling =
        table.with_default("packet-sampling", PACKET_SAMPLING, |value| value.number(1..=1_000_000));
    let active_timeout = table.with_default("active-timeout", default, |value| {
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        value.duration(|text| values::duration_within(text, range, "1s to 1h"))
    });
    let mut names = Scope::new("collector");
    let collectors = table.tables("collector", "[[export.collector]]").and_then(|tables| {
        all(tables.into_iter().map(|table| read_collector(table, dir, &mut names, around)))
    });
    table.finish();
    Ok(Export { active_timeout: active_timeout?, packet_sampling: packet_sampling?, collectors: collectors? })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Udp,
    Tcp,
    Tls,
}

fn read_collector(
    mut table: Table<'_>,
    dir: &Path,
    names: &mut Scope<()>,
    around: &mut Surroundings,
) -> Result<Collector, Noted> {
    let name = table.required("name", |value| names.claim(value, ()));
    let address = table.required("address", |value| value.parse(values::endpoint));
    let protocol = table.with_default("protocol", ExportProtocol::Ipfix, |value| {
        value.one_of(&[
            ("ipfix", ExportProtocol::Ipfix),
            ("netflow-v9", ExportProtocol::NetflowV9),
            ("sflow", ExportProtocol::Sflow),
        ])
    });
    let carrier = table.with_default("transport", Carrier::Udp, |value| {
        let carrier = value.one_of(&[("udp", Carrier::Udp), ("tcp", Carrier::Tcp), ("tls", Carrier::Tls)])?;
        match protocol {
            Ok(ExportProtocol::NetflowV9 | ExportProtocol::Sflow) if carrier != Carrier::Udp => {
                Err(value.note("NetFlow v9 and sFlow go over udp alone; over tcp and tls there is ipfix"))
            }
            _ => Ok(carrier),
        }
    });
    let domain = table.with_default("observation-domain", 0, |value| value.number(0..=u32::MAX));
    let biflow = table.with_default("biflow", false, |value| match (value.boolean()?, &protocol) {
        (true, Ok(ExportProtocol::NetflowV9 | ExportProtocol::Sflow)) => {
            Err(value.note("NetFlow v9 and sFlow know no biflows; ipfix does"))
        }
        (biflow, _) => Ok(biflow),
    });
    let filter = match table.table("filter", "[export.collector.filter]") {
        Ok(filter) => read_filter(filter, around),
        Err(noted) => Err(noted),
    };
    let transport = match carrier {
        Ok(Carrier::Tls) => match table.table("tls", "[export.collector.tls]") {
            Ok(Some(tls)) => read_tls(tls, dir, address.as_ref().ok().copied()).map(CollectorTransport::Tls),
            Ok(None) => Err(table.missing("tls, which says how the collector proves who it is")),
            Err(noted) => Err(noted),
        },
        Ok(other) => {
            table.refuse(&["tls"], "it is for transport \"tls\" alone");
            Ok(if other == Carrier::Tcp { CollectorTransport::Tcp } else { CollectorTransport::Udp })
        }
        Err(noted) => {
            table.value("tls");
            Err(noted)
        }
    };
    table.finish();
    let (tenants, records) = filter?;
    Ok(Collector {
        name: name?,
        address: address?,
        protocol: protocol?,
        transport: transport?,
        observation_domain: domain?,
        tenants,
        records,
        biflow: biflow?,
    })
}

type Filter = (Option<BTreeSet<String>>, BTreeSet<RecordKind>);

fn read_filter(table: Option<Table<'_>>, around: &mut Surroundings) -> Result<Filter, Noted> {
    let all_flows = BTreeSet::from([RecordKind::Flows]);
    let Some(mut table) = table else { return Ok((None, all_flows)) };
    let tenants = table.optional("tenants", |value| {
        value.list(|value| {
            let name = value.parse(values::name)?;
            around.named_tenants.push((name.clone(), value.at()));
            Ok(name)
        })
    });
    let records = table.optional("records", |value| {
        value.list(|value| {
            value.one_of(&[("flows", RecordKind::Flows), ("nat-events", RecordKind::NatEvents)])
        })
    });
    table.finish();
    let records = records?.map_or(all_flows, |records| records.into_iter().collect());
    Ok((tenants?.map(|tenants| tenants.into_iter().collect()), records))
}

fn read_tls(mut table: Table<'_>, dir: &Path, address: Option<SocketAddr>) -> Result<CollectorTls, Noted> {
    let authorities = table.required("ca-file", |value| certificates(value, dir));
    let server_name = table.optional("server-name", |value| {
        value.parse(|name| {
            ServerName::try_from(name.to_owned())
                .map_err(|_| format!("{name:?} is neither a host's name nor an address"))
        })
    });
    let own = table.optional("certificate-file", |value| certificates(value, dir));
    let key = table.optional("key-file", |value| key(value, dir));
    let identity = both(&table, own?, key?)?;
    let identity = identity.map(|(certificates, key)| Identity { certificates, key: Arc::new(key) });
    // An address that could not be read was noted already, and the collector is given up for it.
    let server_name = server_name?.or(address.map(|address| ServerName::from(address.ip())));
    let Some(server_name) = server_name else { return Err(table.missing("server-name")) };
    let tls = CollectorTls { server_name, authorities: authorities?, identity };
    if let Err(error) = tls.client() {
        return Err(table.note(format!("[export.collector.tls]: {error}")));
    }
    table.finish();
    Ok(tls)
}

/// A certificate and its key, which are nothing without each other.
pub(super) fn both<C, K>(
    table: &Table<'_>,
    certificate: Option<C>,
    key: Option<K>,
) -> Result<Option<(C, K)>, Noted> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(table.missing("key-file, the key to certificate-file")),
        (None, Some(_)) => Err(table.missing("certificate-file, which key-file is the key to")),
    }
}

pub(super) fn certificates(value: Value<'_>, dir: &Path) -> Result<Vec<CertificateDer<'static>>, Noted> {
    value.parse(|name| {
        let pem = read_file(&dir.join(name), Access::Anybody, MAX_PEM_BYTES)?;
        in_pem(&pem).map_err(|why| format!("{name:?} {why}"))
    })
}

/// The private key in the file at `path`, which nobody but its owner may read.
pub(super) fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = read_file(path, Access::OwnerAlone, MAX_PEM_BYTES)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| format!("{} holds no private key in PEM", path.display()))
}

/// The certificates in the file at `path`.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_file(path, Access::Anybody, MAX_PEM_BYTES)?;
    in_pem(&pem).map_err(|why| format!("{} {why}", path.display()))
}

fn in_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("holds no certificate in PEM".to_owned()),
        Err(error) => Err(format!("is not whole: {error}")),
    }
}

fn key(value: Value<'_>, dir: &Path) -> Result<PrivateKeyDer<'static>, Noted> {
    value.parse(|name| {
        let pem = read_file(&dir.join(name), Access::OwnerAlone, MAX_PEM_BYTES)?;
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| format!("{name:?} holds no private key in PEM"))
    })
}
