//! A box is set up by cloud-init's data, as hypervisors hand it to a machine: a volume `cidata` with `user-data` (the NoCloud data
//! source). cloud-init itself is not on the box, and of its language there is one key:
//!
//! ```yaml
//! #cloud-config
//! popgate:
//!   enrol-code: PG1-...              # a branch; or
//!   uplink:                          # with it, for a box that is not given an address by DHCP
//!     interface: enp1s0
//!     address: 192.0.2.10/24
//!     gateway: 192.0.2.1
//!     dns: [192.0.2.53]
//!   files:                           # in place of the code: a whole configuration
//!     popgate.toml: |
//!       site = "fra1"
//!     tenants/acme.toml: |
//!     keys/fra1.key: |
//! ```
//!
//! Other keys are others'. YAML's references, which can make much of little, are none here.

use super::setup::{CODE_FILE, UPLINK_FILE};
use crate::config::{APPLIANCE_FILE, Documents};
use saphyr_parser::{Event, Parser};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

pub(super) const USER_DATA: &str = "user-data";
/// 1 MiB: many times a configuration of a thousand branches.
pub(super) const MOST_BYTES: u64 = 1 << 20;
/// 16: ours are four deep, and others' not much more.
const DEEPEST: usize = 16;
/// Folders of a configuration that are not documents.
const SECRETS: [&str; 2] = ["keys", "tls"];

/// A value, as it is written.
enum Node {
    Text(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

/// Writes what it says into an empty folder.
///
/// # Errors
/// What is wrong with it; or the disk's.
pub(super) fn fill(text: &str, new: &Path) -> io::Result<()> {
    let files = files(text).map_err(|why| io::Error::other(format!("{USER_DATA}: {why}")))?;
    for (name, text) in files {
        let path = new.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// The files that it makes, by names that lead nowhere else.
fn files(text: &str) -> Result<BTreeMap<String, String>, String> {
    if text.lines().next().map(str::trim_end) != Some("#cloud-config") {
        return Err("it begins with the line #cloud-config".to_owned());
    }
    let root = parse(text)?;
    let Node::Map(mut root) = root else { return Err("it has no keys".to_owned()) };
    let Some(Node::Map(mut ours)) = root.remove("popgate") else {
        return Err("it has no key popgate with keys in it".to_owned());
    };
    let (code, uplink, files) = (ours.remove("enrol-code"), ours.remove("uplink"), ours.remove("files"));
    if let Some(other) = ours.keys().next() {
        return Err(format!("unknown key {other:?} in popgate: enrol-code, uplink, files"));
    }
    match (code, uplink, files) {
        (Some(code), uplink, None) => {
            let mut made = BTreeMap::from([(CODE_FILE.to_owned(), of_text(code, "enrol-code")? + "\n")]);
            if let Some(uplink) = uplink {
                made.insert(UPLINK_FILE.to_owned(), interface(uplink)?);
            }
            Ok(made)
        }
        (None, None, Some(Node::Map(files))) => {
            files.into_iter().map(|(name, text)| Ok((checked(&name)?, of_text(text, &name)?))).collect()
        }
        (None, None, Some(_)) => Err("files: paths with their texts".to_owned()),
        (Some(_), _, Some(_)) => Err("enrol-code or files, not both".to_owned()),
        (None, Some(_), _) => {
            Err("uplink goes with enrol-code; files have [[interface]] in popgate.toml".to_owned())
        }
        (None, None, None) => Err("there is neither enrol-code nor files in popgate".to_owned()),
    }
}

/// A path that a configuration may have.
fn checked(name: &str) -> Result<String, String> {
    let is_plain = |name: &str| {
        (1..=64).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_secret = name.split_once('/').is_some_and(|(dir, file)| SECRETS.contains(&dir) && is_plain(file));
    let is_document = || Documents::from_texts([(name.to_owned(), String::new())].into()).is_ok();
    if is_secret || is_document() {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "{name:?} is no file of a configuration: {APPLIANCE_FILE}, tenants/NAME.toml, keys/NAME, tls/NAME"
        ))
    }
}

/// As `[[interface]]` has it; whether it makes sense, its reader says.
fn interface(node: Node) -> Result<String, String> {
    let Node::Map(keys) = node else { return Err("uplink: interface, address, gateway, dns".to_owned()) };
    let mut text = String::from("[[interface]]\n");
    for (key, value) in keys {
        let name = match &*key {
            "interface" => "name",
            "address" | "gateway" | "dns" => &*key,
            _ => return Err(format!("unknown key {key:?} in uplink: interface, address, gateway, dns")),
        };
        let value = match value {
            Node::List(all) => {
                let all: Result<_, String> =
                    all.into_iter().map(|one| of_text(one, &key).map(toml::Value::String)).collect();
                toml::Value::Array(all?)
            }
            one => toml::Value::String(of_text(one, &key)?),
        };
        text += &format!("{name} = {value}\n");
    }
    Ok(text)
}

fn of_text(node: Node, what: &str) -> Result<String, String> {
    match node {
        Node::Text(text) => Ok(text),
        Node::List(_) | Node::Map(_) => Err(format!("{what}: a text, and no list and no keys")),
    }
}

/// The one document that there is.
fn parse(text: &str) -> Result<Node, String> {
    // Those that are open: a map with the key that waits for its value.
    let mut open: Vec<(Node, Option<String>)> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, at) = event.map_err(|error| format!("not YAML: {error}"))?;
        let line = at.start.line();
        let closed = match event {
            Event::Scalar(text, _, 0, None) => Some(Node::Text(text.into_owned())),
            Event::SequenceStart(0, None) => {
                open.push((Node::List(Vec::new()), None));
                None
            }
            Event::MappingStart(0, None) => {
                open.push((Node::Map(BTreeMap::new()), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|(node, _)| node),
            Event::DocumentStart(_) if root.is_some() => {
                return Err(format!("line {line}: one document is enough"));
            }
            Event::Alias(_) | Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                return Err(format!("line {line}: references (&, *) and tags (!) are not understood here"));
            }
            _ => None,
        };
        if open.len() > DEEPEST {
            return Err(format!("line {line}: more than {DEEPEST} deep"));
        }
        let Some(node) = closed else { continue };
        match open.last_mut() {
            None => root = Some(node),
            Some((Node::List(all), _)) => all.push(node),
            Some((Node::Map(all), key)) => match (key.take(), node) {
                (None, Node::Text(text)) => *key = Some(text),
                (None, _) => return Err(format!("line {line}: a key is a text")),
                (Some(name), node) => {
                    if all.insert(name.clone(), node).is_some() {
                        return Err(format!("line {line}: {name:?} stands here twice"));
                    }
                }
            },
            Some((Node::Text(_), _)) => {}
        }
    }
    root.ok_or_else(|| "there is nothing in it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<BTreeMap<String, String>, String> {
        files(&format!("#cloud-config\n{text}"))
    }

    #[test]
    fn a_code_with_an_uplink_is_what_a_stick_would_have() {
        let made = of("hostname: x\npackages: [a, {b: c}]\npopgate:\n  enrol-code: PG1-ABC\n  uplink:\n    interface: enp1s0\n    \
             address: 192.0.2.10/24\n    gateway: 192.0.2.1\n    dns: [192.0.2.53, '2001:db8::53']\n")
        .expect("it reads");
        assert_eq!(made[CODE_FILE], "PG1-ABC\n");
        let interfaces = crate::config::interfaces_alone(UPLINK_FILE, &made[UPLINK_FILE]).expect("it reads");
        assert_eq!((&*interfaces[0].name, interfaces[0].dns.len()), ("enp1s0", 2));
    }

    #[test]
    fn a_whole_configuration_comes_as_it_is_written() {
        let made = of("popgate:\n  files:\n    popgate.toml: |\n      site = \"fra1\"\n      # \u{e9}\n    \"keys/fra1.key\": >-\n      \
             AAAA\n    tenants/acme.toml: 'tenant = \"acme\"'\n").expect("it reads");
        assert_eq!(made["popgate.toml"], "site = \"fra1\"\n# \u{e9}\n");
        assert_eq!(made["keys/fra1.key"], "AAAA");
        assert_eq!(made["tenants/acme.toml"], "tenant = \"acme\"");
    }

    #[test]
    fn no_path_leads_out_of_the_configuration() {
        for path in [
            "/etc/passwd",
            "../popgate.toml",
            "keys/../popgate.toml",
            "keys/a/b",
            "keys/..",
            "keys/.x",
            "keys/",
            "",
            ".",
            "enrol-code",
            "tenants/../x.toml",
            "tenants/Acme.toml",
            "tls/a b",
            "update-keys/x.pub",
            "keys/\\0",
        ] {
            let why = of(&format!("popgate:\n  files:\n    {path:?}: x\n")).expect_err(path);
            assert!(why.contains("is no file of a configuration"), "{path}: {why}");
        }
    }

    #[test]
    fn what_is_of_another_kind_is_told() {
        let deep = format!("popgate: {}{}\n", "[".repeat(40), "]".repeat(40));
        for (text, why) in [
            ("", "there is nothing in it"),
            ("- a\n", "it has no keys"),
            ("popgate: x\n", "no key popgate with keys"),
            ("popgate: {}\n", "neither enrol-code nor files"),
            ("popgate: {enrol-code: [a]}\n", "enrol-code: a text"),
            ("popgate: {files: [a]}\n", "files: paths with their texts"),
            ("popgate: {files: {popgate.toml: {a: b}}}\n", "popgate.toml: a text"),
            ("popgate: {enrol-code: a, files: {}}\n", "not both"),
            ("popgate: {enrol-code: a, uplink: b}\n", "uplink: interface"),
            ("popgate: {enrol-code: a, uplink: {mtu: 9}}\n", "unknown key \"mtu\""),
            ("popgate: {uplink: {}}\n", "uplink goes with enrol-code"),
            ("popgate: {enrol-cod: a}\n", "unknown key \"enrol-cod\""),
            ("popgate: {enrol-code: a, enrol-code: b}\n", "stands here twice"),
            ("x: &x [a]\npopgate: {enrol-code: *x}\n", "references"),
            ("popgate: !!binary {}\n", "tags"),
            ("popgate: {enrol-code: a}\n---\npopgate: {}\n", "one document"),
            ("popgate: {\n", "not YAML"),
            ("? [a]\n: b\n", "a key is a text"),
            (&deep, "more than 16 deep"),
        ] {
            let told = of(text).expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
        assert!(files("popgate: {enrol-code: a}\n").expect_err("no mark").contains("#cloud-config"));
    }
}
