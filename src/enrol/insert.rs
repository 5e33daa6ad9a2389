//! A branch's keys put into its tenant's file, where everything else, comments included, stays as somebody wrote it.

use crate::config::PublicKey;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

/// A path of the branch's, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedPath {
    pub name: String,
    /// Written where the path is new: it is accepted on this transport of the PoP's alone.
    pub transport: String,
    pub key: PublicKey,
}

/// The text with these keys in it. A branch or a path that is not there yet is added behind the others; of one that is, the key is
/// another from now on, and nothing else.
///
/// # Errors
/// For the operator: why it cannot be done.
pub fn insert(text: &str, branch: &str, prefixes: &[String], paths: &[KeyedPath]) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error| format!("the tenant's file: {error}"))?;
    let branches = tables(document.as_table_mut(), "branch")?;
    let at = branches.iter().position(|table| named(table, branch));
    if at.is_none() {
        if prefixes.is_empty() {
            return Err(format!(
                "there is no branch {branch:?} in the tenant's file, and no prefix for a new one"
            ));
        }
        let mut table = spaced();
        table["name"] = value(branch);
        table["prefixes"] = value(prefixes.iter().collect::<Array>());
        branches.push(table);
    }
    let at = at.unwrap_or(branches.len() - 1);
    let table = branches.get_mut(at).ok_or("a branch that has just been found is gone")?;
    let there = tables(table, "path")?;
    for path in paths {
        let key = path.key.to_string();
        let known = there.iter().position(|table| named(table, &path.name));
        match known.and_then(|at| there.get_mut(at)) {
            Some(table) => {
                // What stands behind it in its line stays there.
                let decor = table.get("public-key").and_then(Item::as_value).map(|old| old.decor().clone());
                table["public-key"] = value(key);
                if let (Some(decor), Some(new)) = (decor, table["public-key"].as_value_mut()) {
                    *new.decor_mut() = decor;
                }
            }
            None => {
                let mut table = spaced();
                table["name"] = value(&path.name);
                table["transport"] = value(&path.transport);
                table["public-key"] = value(key);
                there.push(table);
            }
        }
    }
    Ok(document.to_string())
}

fn spaced() -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table
}

fn tables<'a>(table: &'a mut Table, key: &str) -> Result<&'a mut ArrayOfTables, String> {
    let item = table.entry(key).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    item.as_array_of_tables_mut()
        .ok_or_else(|| format!("{key} is written in one line: write it as [[…]], a table for each"))
}

fn named(table: &Table, name: &str) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# The customer's.
tenant = \"acme\"

[[branch]]
name = \"berlin\" # the first
prefixes = [\"10.1.0.0/24\"]
[[branch.path]]
name = \"dsl\"
public-key = \"BGqdlh7Cd1QVMtfB99NhDxLynx5iEjhhg0fy7mJGfhA=\" # since spring
bandwidth = \"100mbit\"

# What may pass.
[[acl]]
name = \"all\" # for now
action = \"accept\"
";

    fn path(name: &str, byte: u8) -> KeyedPath {
        KeyedPath { name: name.to_owned(), transport: "isp-a".to_owned(), key: PublicKey([byte; 32]) }
    }

    #[test]
    fn a_new_branch_comes_behind_the_others_and_every_line_stays() {
        let prefixes = ["10.2.0.0/16".to_owned(), "2001:db8:2::/48".to_owned()];
        let new = insert(TEXT, "lyon", &prefixes, &[path("wan", 1), path("lte", 2)]).expect("inserted");
        let added = "\
\n[[branch]]
name = \"lyon\"
prefixes = [\"10.2.0.0/16\", \"2001:db8:2::/48\"]

[[branch.path]]
name = \"wan\"
transport = \"isp-a\"
public-key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"

[[branch.path]]
name = \"lte\"
transport = \"isp-a\"
public-key = \"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\"
";
        let (before, behind) = TEXT.split_once("\n# What").expect("two parts");
        assert_eq!(new, format!("{before}{added}\n# What{behind}"));
    }

    #[test]
    fn a_branch_that_is_there_gets_the_paths_it_lacks_and_another_key_for_those_it_has() {
        let new = insert(TEXT, "berlin", &[], &[path("dsl", 1), path("lte", 2)]).expect("inserted");
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let changed = TEXT.replace("BGqdlh7Cd1QVMtfB99NhDxLynx5iEjhhg0fy7mJGfhA=", key);
        let (before, behind) = changed.split_once("\n# What").expect("two parts");
        let added = "\n[[branch.path]]\nname = \"lte\"\ntransport = \"isp-a\"\n\
                     public-key = \"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\"\n";
        assert_eq!(new, format!("{before}{added}\n# What{behind}"));
        // Once more changes nothing: an approval may be repeated after a crash.
        assert_eq!(insert(&new, "berlin", &[], &[path("dsl", 1), path("lte", 2)]), Ok(new));
    }

    #[test]
    fn the_first_branch_of_a_tenant_goes_where_it_can() {
        let prefixes = ["10.2.0.0/16".to_owned()];
        let new = insert("tenant = \"acme\"\n", "lyon", &prefixes, &[path("wan", 1)]).expect("inserted");
        let table: toml::Table = new.parse().expect("TOML");
        assert_eq!(table["branch"][0]["path"][0]["name"].as_str(), Some("wan"), "{new}");
    }

    #[test]
    fn what_cannot_be_done_is_told() {
        assert!(insert(TEXT, "lyon", &[], &[path("wan", 1)]).expect_err("no prefix").contains("no prefix"));
        let inline = "tenant = \"acme\"\nbranch = [{ name = \"lyon\", prefixes = [] }]\n";
        assert!(insert(inline, "lyon", &[], &[path("wan", 1)]).expect_err("inline").contains("[[…]]"));
        assert!(insert("tenant = ", "lyon", &[], &[]).is_err());
    }
}
