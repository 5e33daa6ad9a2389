//! Apps: what business applications are known by. The catalog comes with the binary (`config/apps/*.toml`, one `[[app]]` an
//! application, each with the source it was taken from); tenants add to it.
//!
//! A flow is an app's if its name is one of the app's domains, or its destination lies in one of the app's prefixes; where
//! the app has ports, protocol and destination port must be among them too. An app that has ports alone is known by these.

use super::problem::{Ledger, Noted, Problems, unknown};
use super::reader::{Document, Table, Value, all};
use super::scope::Scope;
use super::{SourceRef, values};
use crate::model::{HostName, Protocol};
use ipnetwork::IpNetwork;
use rust_embed::RustEmbed;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

#[derive(RustEmbed)]
#[folder = "config/apps"]
struct Files;

/// Domains of an app, or of a rule, that are looked for; prefixes of one; ports of one. More is a blocklist, which is
/// another thing.
const MOST: usize = 1_000;

/// What an application is known by. At least one of the lists holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    pub name: String,
    /// Each with everything below it.
    pub domains: Vec<HostName>,
    pub prefixes: Vec<IpNetwork>,
    pub ports: Vec<AppPorts>,
    pub at: SourceRef,
}

/// Destination ports of TCP or UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppPorts {
    pub protocol: Protocol,
    pub ports: RangeInclusive<u16>,
}

/// An app that comes with the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogApp {
    pub app: App,
    /// For people.
    pub title: String,
    /// Where its vendor, or a registry, publishes what it is known by.
    pub source: String,
    /// What most would class it as; policy decides.
    pub class: String,
}

/// All apps that come with the binary, by their names.
pub fn catalog() -> &'static BTreeMap<String, CatalogApp> {
    static CATALOG: LazyLock<BTreeMap<String, CatalogApp>> = LazyLock::new(|| {
        // It is a part of the binary, and a test reads it.
        read_catalog().unwrap_or_else(|problems| unreachable!("config/apps: {problems}"))
    });
    &CATALOG
}

fn read_catalog() -> Result<BTreeMap<String, CatalogApp>, Problems> {
    let ledger = Ledger::default();
    let mut names = Scope::new("app");
    let mut files: Vec<_> = Files::iter().collect();
    files.sort();
    let read = all(files.iter().map(|file| {
        let bytes = Files::get(file).map(|file| file.data).unwrap_or_default();
        let document = Document::new(
            format!("config/apps/{file}").into(),
            str::from_utf8(&bytes).unwrap_or_default(),
            &ledger,
        );
        let entries = document.parse()?;
        let mut root = document.root(&entries);
        let apps = root
            .tables("app", "[[app]]")
            .and_then(|tables| all(tables.into_iter().map(|table| catalog_app(table, &mut names))));
        root.finish();
        apps
    }));
    let by_name = |apps: Vec<Vec<CatalogApp>>| {
        apps.into_iter().flatten().map(|app| (app.app.name.clone(), app)).collect()
    };
    ledger.settle(read.map(by_name))
}

fn catalog_app(mut table: Table<'_>, names: &mut Scope<()>) -> Result<CatalogApp, Noted> {
    let name = table.required("name", |value| names.claim(value, ()));
    let mut text = |key| table.required(key, |value| value.string().map(str::to_owned));
    let (title, source) = (text("title"), text("source"));
    let class = table.required("class", |value| value.parse(values::name));
    let signature = Signature::read(&mut table);
    let at = table.at().clone();
    table.finish();
    let app = signature?.of(name?, at);
    Ok(CatalogApp { app, title: title?, source: source?, class: class? })
}

/// A tenant's `[[app]]`, which takes the place of the catalog's of that name; with `extends` it begins as the catalog's.
pub(super) fn tenant_app(mut table: Table<'_>, names: &mut Scope<()>) -> Result<App, Noted> {
    let extends = table.optional("extends", |value| {
        #[cfg(test)]
        value.offers_words(catalog().keys().map(String::as_str));
        let word = value.string()?;
        match catalog().get(word) {
            Some(base) => Ok((value, &base.app)),
            None => Err(value.note(unknown_app(word, []))),
        }
    });
    let name = match (table.value("name"), &extends) {
        (Some(value), _) => names.claim(value, ()),
        // It stays what it is called.
        (None, Ok(Some((value, _)))) => names.claim(*value, ()),
        (None, _) => Err(table.missing("name")),
    };
    let signature = Signature::read(&mut table);
    let at = table.at().clone();
    table.finish();
    let mut signature = signature?;
    if let Some((_, base)) = extends? {
        signature.domains.extend_from_slice(&base.domains);
        signature.prefixes.extend_from_slice(&base.prefixes);
        signature.ports.extend_from_slice(&base.ports);
    }
    Ok(signature.of(name?, at))
}

/// Says that there is no such app in the catalog or among `own`.
pub(super) fn unknown_app<'a>(word: &str, own: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = own.into_iter().chain(catalog().keys().map(String::as_str)).collect();
    let message = unknown("app", word, known);
    // So many are known that naming twelve of them helps nobody.
    match message.split_once("; known are") {
        Some((unknown, _)) => format!("{unknown}; `popgate apps` lists those there are"),
        None => message,
    }
}

/// A domain, which stands for itself and everything below it; `*.` before it is how vendors write that.
pub(super) fn domain(value: Value<'_>) -> Result<HostName, Noted> {
    let text = value.string()?;
    text.strip_prefix("*.")
        .unwrap_or(text)
        .parse()
        .map_err(|_| value.note(format!("{text:?} is no domain, as in \"sap.example\" or \"*.sap.example\"")))
}

struct Signature {
    domains: Vec<HostName>,
    prefixes: Vec<IpNetwork>,
    ports: Vec<AppPorts>,
}

impl Signature {
    fn read(table: &mut Table<'_>) -> Result<Signature, Noted> {
        let domains = table.with_default("domains", Vec::new(), |value| few(value, domain));
        let prefixes = table
            .with_default("prefixes", Vec::new(), |value| few(value, |value| value.parse(values::prefix)));
        let ports =
            table.with_default("ports", Vec::new(), |value| few(value, |value| value.parse(app_ports)));
        let signature = Signature { domains: domains?, prefixes: prefixes?, ports: ports? };
        if signature.domains.is_empty() && signature.prefixes.is_empty() && signature.ports.is_empty() {
            return Err(table.missing("domains, prefixes or ports"));
        }
        Ok(signature)
    }

    fn of(self, name: String, at: SourceRef) -> App {
        let Signature { domains, prefixes, ports } = self;
        App { name, domains, prefixes, ports, at }
    }
}

fn few<'d, T>(value: Value<'d>, read: impl FnMut(Value<'d>) -> Result<T, Noted>) -> Result<Vec<T>, Noted> {
    let list = value.list(read)?;
    if list.len() > MOST {
        return Err(value.note(format!("{} are too many; at most {MOST}", list.len())));
    }
    Ok(list)
}

fn app_ports(text: &str) -> values::Parsed<AppPorts> {
    let parts = text.split_once('/').and_then(|(protocol, ports)| match protocol {
        "tcp" => Some((Protocol::TCP, ports)),
        "udp" => Some((Protocol::UDP, ports)),
        _ => None,
    });
    let Some((protocol, ports)) = parts else {
        return Err(format!("{text:?} is no protocol and port, as in \"tcp/443\" or \"udp/3478-3481\""));
    };
    Ok(AppPorts { protocol, ports: values::ports(ports)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_catalog_is_whole_and_names_the_source_of_every_app() {
        let catalog = read_catalog().unwrap_or_else(|problems| panic!("{problems}"));
        assert!(catalog.len() >= 40, "{} apps", catalog.len());
        for (name, app) in &catalog {
            let source = &app.source;
            let is_named =
                ["https://", "RFC ", "IANA ", "[MS-"].iter().any(|begin| source.starts_with(begin));
            assert!(is_named, "{name}: {source:?} is no source");
            assert!(!app.title.is_empty() && app.title != *name, "{name}: no title");
        }
        let classes: BTreeSet<&str> = catalog.values().map(|app| app.class.as_str()).collect();
        let suggested =
            ["bulk", "business", "control", "default", "interactive", "meetings", "personal", "voice"];
        assert_eq!(classes, suggested.into());
    }

    #[test]
    fn no_app_of_the_catalog_says_anything_twice() {
        for (name, CatalogApp { app, .. }) in catalog() {
            for (at, domain) in app.domains.iter().enumerate() {
                let above: Vec<&str> = domain.suffixes().collect();
                let other = app
                    .domains
                    .iter()
                    .enumerate()
                    .find(|(other, d)| *other != at && above.contains(&d.as_str()));
                assert_eq!(other, None, "{name}: {domain} lies below it already");
            }
            for (at, prefix) in app.prefixes.iter().enumerate() {
                let other = app
                    .prefixes
                    .iter()
                    .enumerate()
                    .find(|(other, p)| *other != at && values::covers(**p, *prefix));
                assert_eq!(other, None, "{name}: {prefix} lies in it already");
            }
            for (at, ports) in app.ports.iter().enumerate() {
                let meets = |p: &AppPorts| {
                    p.protocol == ports.protocol
                        && p.ports.start() <= ports.ports.end()
                        && ports.ports.start() <= p.ports.end()
                };
                assert_eq!(
                    app.ports[..at].iter().find(|p| meets(p)),
                    None,
                    "{name}: {ports:?} is there already"
                );
            }
        }
    }
}
