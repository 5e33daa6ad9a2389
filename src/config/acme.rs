//! `[admin.acme]`: who signs the admin server's certificate when asked by ACME (RFC 8555).

use super::export::certificates;
use super::object_store::usual_authorities;
use super::oidc::web_url;
use super::problem::Noted;
use super::reader::Table;
use super::values::Parsed;
use rustls::pki_types::CertificateDer;
use std::path::Path;

/// Who is asked for certificates, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The URL of its directory.
    pub directory: String,
    /// Addresses of mail.
    pub contacts: Vec<String>,
    /// Who may have signed the certificate that it shows itself.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// Reads the table. Files' names are relative to `dir`.
pub(super) fn read(mut table: Table<'_>, dir: &Path) -> Result<Acme, Noted> {
    let directory =
        table.required("directory", |value| value.parse(|text| web_url(text).map(|_| text.to_owned())));
    let contacts = table.optional("contact", |value| value.one_or_many(|value| value.parse(mail)));
    let agreed = table.required("terms-agreed", |value| match value.boolean()? {
        true => Ok(()),
        false => Err(value.note("who does not agree to the terms gets no certificate")),
    });
    let authorities = match table.optional("ca-file", |value| certificates(value, dir))? {
        Some(authorities) => authorities,
        None => usual_authorities().map_err(|why| table.note(format!("[admin.acme]: {why}")))?,
    };
    table.finish();
    agreed?;
    Ok(Acme { directory: directory?, contacts: contacts?.unwrap_or_default(), authorities })
}

fn mail(text: &str) -> Parsed<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+' | b'@');
    let is_whole = text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    if is_whole && text.len() <= 200 && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no address of mail"))
}
