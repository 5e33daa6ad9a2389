//! `[admin.oidc]`: the provider at which people sign in who have no password here, and what it takes to be let in.

use super::appliance::Surroundings;
use super::export::certificates;
use super::keys::{Access, read_file};
use super::object_store::usual_authorities;
use super::problem::Noted;
use super::reader::{Table, all};
use super::values::{self, Parsed};
use crate::model::Role;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use url::{Host, Url};

/// A secret that a provider gives out is a line.
const MAX_SECRET_BYTES: u64 = 4_096;

/// An OpenID Connect provider, and what this box makes of those it vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    /// As the provider writes it, to the letter (OpenID Connect Core section 2).
    pub issuer: String,
    pub client_id: String,
    pub client_secret: ClientSecret,
    /// What people call the provider.
    pub label: String,
    /// Where browsers find the console: they come back there. Without a slash at its end.
    pub console: String,
    /// Asked for besides `openid`.
    pub scopes: Vec<String>,
    /// The claim that somebody is shown by.
    pub name_claim: String,
    /// The claim that rules look at.
    pub groups_claim: String,
    /// In order; the first that fits decides, and whom none fits is not let in.
    pub rules: Vec<OidcRule>,
    /// Who may have signed the provider's certificate; none where it is on loopback, without TLS.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// What becomes of those in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcRule {
    pub group: String,
    pub role: Role,
    /// `None` for the whole box.
    pub tenant: Option<String>,
}

/// Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecret(pub String);

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(hidden)")
    }
}

/// Reads the table. Files' names are relative to `dir`; tenants that rules name go to `around`. Whether the console is
/// where `is_ours` says, its owner has to know.
pub(super) fn read(
    mut table: Table<'_>,
    dir: &Path,
    around: &mut Surroundings,
    is_ours: impl FnOnce(&Url) -> Result<(), String>,
) -> Result<Oidc, Noted> {
    let issuer = table.required("issuer", |value| value.parse(|text| web_url(text).map(|_| text.to_owned())));
    let client_id = table.required("client-id", |value| value.parse(line));
    let client_secret = table.required("client-secret-file", |value| {
        value.parse(|name| secret(&dir.join(name)).map_err(|why| format!("{name:?}: {why}")))
    });
    let label = table.required("label", |value| value.parse(line));
    let console = table.required("console", |value| {
        value.parse(|text| {
            let url = web_url(text)?;
            if url.path() != "/" {
                return Err(format!("{text:?} has a path; the console is at the top: \"https://HOST\""));
            }
            is_ours(&url)?;
            Ok(url.as_str().trim_end_matches('/').to_owned())
        })
    });
    let scopes = table
        .with_default("scopes", vec!["profile".to_owned()], |value| value.list(|value| value.parse(scope)));
    let name_claim =
        table.with_default("name-claim", "preferred_username".to_owned(), |value| value.parse(line));
    let groups_claim = table.with_default("groups-claim", "groups".to_owned(), |value| value.parse(line));
    let authorities = table.optional("ca-file", |value| certificates(value, dir));
    let authorities = match (&issuer, authorities?) {
        (_, Some(authorities)) => authorities,
        (Ok(issuer), None) if issuer.starts_with("https://") => {
            usual_authorities().map_err(|why| table.note(format!("[admin.oidc]: {why}")))?
        }
        (_, None) => Vec::new(),
    };
    let rules = table.tables("rule", "[[admin.oidc.rule]]");
    let rules = rules.and_then(|rules| all(rules.into_iter().map(|rule| read_rule(rule, around))));
    if matches!(&rules, Ok(rules) if rules.is_empty()) {
        return Err(table.missing("[[admin.oidc.rule]], without which nobody is let in"));
    }
    table.finish();
    Ok(Oidc {
        issuer: issuer?,
        client_id: client_id?,
        client_secret: client_secret?,
        label: label?,
        console: console?,
        scopes: scopes?,
        name_claim: name_claim?,
        groups_claim: groups_claim?,
        rules: rules?,
        authorities,
    })
}

fn read_rule(mut table: Table<'_>, around: &mut Surroundings) -> Result<OidcRule, Noted> {
    let group = table.required("group", |value| value.parse(line));
    let role = table.required("role", |value| value.one_of(&Role::ALL.map(|role| (role.name(), role))));
    let tenant = table.optional("tenant", |value| {
        let tenant = value.parse(values::name)?;
        if matches!(role, Ok(Role::Owner)) {
            return Err(value.note("an owner is of the whole box"));
        }
        around.named_tenants.push((tenant.clone(), value.at()));
        Ok(tenant)
    });
    table.finish();
    Ok(OidcRule { group: group?, role: role?, tenant: tenant? })
}

/// `https`, or `http` where nothing crosses a network.
pub(super) fn web_url(text: &str) -> Parsed<Url> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if is_here => {}
        "http" => return Err(format!("{text:?} would be asked in the clear: write https")),
        _ => return Err(format!("{text:?} is not as in \"https://HOST\"")),
    }
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(format!("{text:?} has more than a host, a port and a path"));
    }
    Ok(url)
}

/// The host of a URL as an address, if it is one.
pub(super) fn address_of(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Some text in a line; at most 200 letters: a group's id or a button's words.
fn line(text: &str) -> Parsed<String> {
    let fits = !text.trim().is_empty() && text.len() <= 200 && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err(format!("{text:?} is not 1 to 200 letters in a line")) }
}

/// RFC 6749 section 3.3.
fn scope(text: &str) -> Parsed<String> {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
    if (1..=200).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no scope: a word as in \"profile\""))
}

/// What is in the file does not get into messages.
fn secret(path: &Path) -> Parsed<ClientSecret> {
    let text = read_file(path, Access::OwnerAlone, MAX_SECRET_BYTES)?;
    let text = std::str::from_utf8(&text).map_err(|_| "it is not text".to_owned())?.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("it holds no secret in a line of its own".to_owned());
    }
    Ok(ClientSecret(text.to_owned()))
}
