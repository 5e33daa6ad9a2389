//! The keys and words of a configuration, as the console's editor offers them (`web/src/config-keys.json`). They are written down
//! by the reader while it reads the examples, which have every key in its place: what is offered is what is asked for.

use std::collections::{BTreeMap, BTreeSet};

/// By the table's header, `[[branch.path]]`, or the file of the outermost; by key the values in TOML that are known beforehand.
#[derive(Debug, Default)]
pub(super) struct Vocabulary(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

/// What stands for each tenant's file.
const TENANTS_FILE: &str = "tenants/NAME.toml";

impl Vocabulary {
    /// That a table was asked for a key, which takes these values, among others.
    pub(super) fn values(
        &mut self,
        header: Option<&str>,
        file: &str,
        key: &str,
        values: impl IntoIterator<Item = String>,
    ) {
        let table = self.0.entry(place(header, file)).or_default();
        table.entry(key.to_owned()).or_default().extend(values);
    }
}

fn place(header: Option<&str>, file: &str) -> String {
    let file = if file == super::APPLIANCE_FILE { file } else { TENANTS_FILE };
    header.unwrap_or(file).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::problem::Ledger;
    use crate::config::{APPLIANCE_FILE, Documents};
    use std::path::Path;

    const KEPT: &str = "web/src/config-keys.json";

    /// Tables that no example has: one that nobody needs to begin with is not in their way.
    const UNSHOWN: &str = "\n[flow-history.object-store]\n[commit-guard]\n[audit]\n\
        [[export.collector]]\ntransport = \"tls\"\n[export.collector.tls]\n\
        [admin.oidc]\n[[admin.oidc.rule]]\nrole = \"viewer\"\n[admin.acme]\n[[interface]]\n";
    const UNSHOWN_AT_BRANCHES: &str = "\n[[lan.dhcp]]\n[[lan.dhcp.host]]\n[lan.dns]\n";

    fn of_the_examples() -> Vocabulary {
        let mut all = Vocabulary::default();
        for example in ["pop", "branch"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(example);
            let ledger = Ledger::default();
            let mut documents = Documents::read(&dir);
            let text = documents.text(APPLIANCE_FILE).expect("the example").to_owned();
            let unshown = if example == "pop" { UNSHOWN } else { UNSHOWN_AT_BRANCHES };
            documents = documents.with(APPLIANCE_FILE, Some(text + unshown));
            // The files that it names are not there, which is noted and keeps nothing from being read.
            let _ = crate::config::read(&documents, &dir, &ledger);
            for (table, keys) in ledger.vocabulary.take().0 {
                let table = all.0.entry(table).or_default();
                keys.into_iter().for_each(|(key, values)| table.entry(key).or_default().extend(values));
            }
        }
        all
    }

    /// With UPDATE=1 in the environment it is written.
    #[test]
    fn the_editor_offers_the_keys_that_are_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(KEPT);
        let mut read = serde_json::to_string_pretty(&of_the_examples().0).expect("JSON");
        read.push('\n');
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &read).expect("written");
        }
        let kept = std::fs::read_to_string(&path).expect("it is there");
        assert!(
            kept == read,
            "{KEPT} is not what is read: UPDATE=1 cargo test --lib vocabulary writes it anew"
        );
    }

    #[test]
    fn the_examples_have_every_table_that_is_read() {
        let vocabulary = of_the_examples();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
        for entry in std::fs::read_dir(sources).expect("readable") {
            let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("readable");
            for call in [".table(", ".tables("].iter().flat_map(|call| text.split(call).skip(1)) {
                let header =
                    call.split(')').next().unwrap_or_default().split('"').find(|it| it.starts_with('['));
                let Some(header) = header else { continue };
                assert!(vocabulary.0.contains_key(header), "{header} is in no example");
            }
        }
    }
}
