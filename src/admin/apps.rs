//! `popgate apps`: the catalog, for people.

use super::table::Table;
use crate::config::{AppPorts, CatalogApp, catalog};
use std::fmt::Write;

/// All apps of the catalog, a line each.
pub fn list_apps() -> String {
    let mut table = Table::new(&["APP", "CLASS", "KNOWN BY", "TITLE"]);
    for (name, app) in catalog() {
        table.row([name.clone(), app.class.clone(), known_by(app), app.title.clone()]);
    }
    table.render()
}

/// What one app is known by, and where that is published; `None` if there is no such app.
pub fn describe_app(name: &str) -> Option<String> {
    let CatalogApp { app, title, source, class } = catalog().get(name)?;
    let mut out = format!("{name}: {title}\nclass:     {class}\nsource:    {source}\n");
    let mut list = |what: &str, items: Vec<String>| {
        for (at, item) in items.iter().enumerate() {
            // Writing into a String cannot fail.
            let _ = writeln!(out, "{:<11}{item}", if at == 0 { what } else { "" });
        }
    };
    list("domains:", app.domains.iter().map(ToString::to_string).collect());
    list("prefixes:", app.prefixes.iter().map(ToString::to_string).collect());
    list("ports:", app.ports.iter().map(describe_ports).collect());
    Some(out)
}

fn known_by(CatalogApp { app, .. }: &CatalogApp) -> String {
    let counted = [(app.domains.len(), "domain"), (app.prefixes.len(), "prefix"), (app.ports.len(), "port")];
    let mut parts = Vec::new();
    for (count, what) in counted {
        match (count, what) {
            (0, _) => {}
            (1, _) => parts.push(format!("1 {what}")),
            (_, "prefix") => parts.push(format!("{count} prefixes")),
            (_, _) => parts.push(format!("{count} {what}s")),
        }
    }
    parts.join(", ")
}

/// As it is written in a file: `udp/3478-3481`.
fn describe_ports(AppPorts { protocol, ports }: &AppPorts) -> String {
    match (ports.start(), ports.end()) {
        (first, last) if first == last => format!("{protocol}/{first}"),
        (first, last) => format!("{protocol}/{first}-{last}"),
    }
}
