//! `[flow-history.object-store]`: where finished files of the flow history are copied to.

use super::export::certificates;
use super::keys::{Access, read_file};
use super::problem::Noted;
use super::reader::Table;
use super::values::Parsed;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::path::Path;

/// Where Debian keeps whom the web trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A file of credentials is two lines.
const MAX_CREDENTIALS_BYTES: u64 = 4_096;

/// A store that speaks S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStore {
    /// `https://HOST` or `https://HOST:PORT`, or with `http`.
    pub endpoint: String,
    pub bucket: String,
    /// What objects' names begin with; empty, or it ends in a slash.
    pub prefix: String,
    pub region: String,
    pub credentials: Credentials,
    /// Who may have signed the store's certificate; of none where it is not asked for one.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// Who the box is to the store.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    /// Never printed.
    pub secret_access_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// Reads the table. Files' names are relative to `dir`; objects' names begin with `site` unless it says otherwise.
pub(super) fn read(mut table: Table<'_>, dir: &Path, site: Option<&str>) -> Result<ObjectStore, Noted> {
    let endpoint = table.required("endpoint", |value| value.parse(endpoint));
    let bucket = table.required("bucket", |value| value.parse(bucket));
    let usual = site.map_or(String::new(), |site| format!("{site}/"));
    let prefix = table.with_default("prefix", usual, |value| value.parse(prefix));
    let region = table.with_default("region", "us-east-1".to_owned(), |value| value.parse(region));
    let credentials = table.required("credentials-file", |value| {
        value.parse(|name| credentials(&dir.join(name)).map_err(|why| format!("{name:?}: {why}")))
    });
    let authorities = table.optional("ca-file", |value| certificates(value, dir));
    let authorities = match (&endpoint, authorities?) {
        (_, Some(authorities)) => authorities,
        (Ok(endpoint), None) if endpoint.starts_with("https://") => {
            usual_authorities().map_err(|why| table.note(format!("[flow-history.object-store]: {why}")))?
        }
        (_, None) => Vec::new(),
    };
    table.finish();
    Ok(ObjectStore {
        endpoint: endpoint?,
        bucket: bucket?,
        prefix: prefix?,
        region: region?,
        credentials: credentials?,
        authorities,
    })
}

/// Whom the web trusts.
pub(super) fn usual_authorities() -> Result<Vec<CertificateDer<'static>>, String> {
    super::export::read_certificates(Path::new(AUTHORITIES))
        .map_err(|why| format!("{why}; Debian's package ca-certificates has it, or ca-file names another"))
}

/// Without what is usual for its scheme, so that it is what a request's Host says.
fn endpoint(text: &str) -> Parsed<String> {
    let wrong = || format!("{text:?} is no endpoint; write \"https://HOST\" or \"https://HOST:PORT\"");
    let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Err(wrong()),
    };
    let host = host.strip_suffix('/').unwrap_or(host);
    let host = host.strip_suffix(usual).unwrap_or(host);
    let fits =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    if host.is_empty() || !host.bytes().all(fits) {
        return Err(wrong());
    }
    Ok(format!("{scheme}://{host}"))
}

fn bucket(text: &str) -> Parsed<String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if (3..=63).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("bad bucket {text:?}: 3 to 63 of a-z, 0-9, \".\" and \"-\""))
}

fn prefix(text: &str) -> Parsed<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'=' | b'/');
    let is_whole = text.is_empty() || text.ends_with('/') && !text.starts_with('/') && !text.contains("//");
    if text.len() <= 200 && is_whole && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "bad prefix {text:?}: folders as in \"flows/fra1/\", of letters, digits, \".\", \"-\", \"_\" and \"=\""
    ))
}

fn region(text: &str) -> Parsed<String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=40).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("bad region {text:?}: as in \"eu-central-1\""))
}

/// `aws_access_key_id = …` and `aws_secret_access_key = …`, as in the files of everybody's tools; other lines mean nothing
/// here. What is in it does not get into messages.
fn credentials(path: &Path) -> Result<Credentials, String> {
    let text = read_file(path, Access::OwnerAlone, MAX_CREDENTIALS_BYTES)?;
    let text = std::str::from_utf8(&text).map_err(|_| "it is not text".to_owned())?;
    let value = |name: &str| {
        let values = text.lines().filter_map(|line| line.split_once('='));
        let mut named =
            values.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
        match (named.next().filter(|value| !value.is_empty()), named.next()) {
            (Some(value), None) => Ok(value),
            (None, _) => Err(format!("it has no {name} = …")),
            (Some(_), Some(_)) => Err(format!("it has {name} twice; one box is one account")),
        }
    };
    Ok(Credentials {
        access_key_id: value("aws_access_key_id")?,
        secret_access_key: value("aws_secret_access_key")?,
    })
}
