//! Every problem that a configuration can have, as the operator gets to read it. One test a problem.

use popgate::config::{self, PrivateKey, public_of};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

const POP: &str = r#"site = "fra1"
role = "pop"
private-key-file = "keys/fra1.key"

[[transport]]
name = "isp-a"
listen = "192.0.2.1:51820"
interface = "eth0"

[export]
active-timeout = "60s"
[[export.collector]]
name = "noc"
address = "192.0.2.50:4739"
"#;

const BRANCH: &str = r#"site = "paris"
role = "branch"

[[transport]]
name = "dsl"
listen = "0.0.0.0:51820"

[[pop]]
name = "fra1"
public-key = "PUBLIC-9"
[[pop.path]]
name = "dsl"
transport = "dsl"
endpoint = "192.0.2.1:51820"
private-key-file = "keys/dsl.key"
"#;

const ACME: &str = r#"tenant = "acme"

[[branch]]
name = "paris"
prefixes = [
    "10.20.0.0/16",
    "2001:db8:20::/48",
]
[[branch.path]]
name = "dsl"
public-key = "PUBLIC-1"
persistent-keepalive = "25s"

[[branch]]
name = "lyon"
prefixes = ["10.21.0.0/16"]

[[handoff]]
name = "internet"
kind = "internet"
nat-pool = ["198.51.100.0/29"]
routed = ["2001:db8:20::/48"]

[[handoff]]
name = "dc"
kind = "private"
interface = "eth2"
address = ["10.200.0.1/24"]
prefixes = ["10.200.0.0/16"]
routes = { "10.200.8.0/21" = "10.200.0.254" }

[[app-class]]
name = "voice"
match = [{ dscp = ["ef"] }]

[[acl]]
name = "web-out"
from = ["branch:paris"]
to = ["handoff:internet"]
protocol = "tcp"
dst-port = [80, "8000-8010"]
class = ["voice", "default"]
action = "accept"

[[nat]]
name = "finance"
from = ["10.20.9.0/24"]
to = ["handoff:internet"]
pool = ["198.51.100.3/32"]

[[path-policy]]
class = "voice"
prefer = ["dsl"]
"#;

/// A second customer, with acme's prefixes.
const GLOBEX: &str = r#"tenant = "globex"

[[branch]]
name = "paris"
prefixes = ["10.20.0.0/16", "2001:db8:30::/48"]
[[branch.path]]
name = "dsl"
public-key = "PUBLIC-2"

[[handoff]]
name = "internet"
kind = "internet"
nat-pool = ["198.51.100.8/29"]
routed = ["2001:db8:30::/48"]
"#;

const BOX: &str = "popgate.toml";
const TENANT: &str = "tenants/acme.toml";
const OTHER: &str = "tenants/globex.toml";

fn private(seed: u8) -> PrivateKey {
    PrivateKey::from_random([seed; 32])
}

/// A configuration directory that is to be spoiled.
struct Config {
    dir: TempDir,
    files: BTreeMap<&'static str, String>,
}

impl Config {
    fn pop() -> Config {
        Config::with([(BOX, POP), (TENANT, ACME), (OTHER, GLOBEX)])
    }

    fn branch() -> Config {
        Config::with([(BOX, BRANCH), (TENANT, ACME)])
    }

    fn with<const N: usize>(files: [(&'static str, &str); N]) -> Config {
        let dir = TempDir::new().expect("a temporary directory");
        fs::create_dir(dir.path().join("tenants")).expect("tenants/");
        fs::create_dir(dir.path().join("keys")).expect("keys/");
        let config = Config { dir, files: files.map(|(name, text)| (name, text.to_owned())).into() };
        config.key("keys/fra1.key", &private(100).to_base64(), 0o600).key(
            "keys/dsl.key",
            &private(101).to_base64(),
            0o600,
        )
    }

    /// Puts `new` where `old` stands, once.
    fn edit(mut self, file: &'static str, old: &str, new: &str) -> Config {
        let text = self.files.get_mut(file).expect("a file of the configuration");
        assert_eq!(text.matches(old).count(), 1, "{old:?} in {file}");
        *text = text.replace(old, new);
        self
    }

    fn append(mut self, file: &'static str, more: &str) -> Config {
        self.files.get_mut(file).expect("a file of the configuration").push_str(more);
        self
    }

    fn file(mut self, file: &'static str, text: &str) -> Config {
        self.files.insert(file, text.to_owned());
        self
    }

    fn without(mut self, file: &'static str) -> Config {
        self.files.remove(file);
        self
    }

    fn key(self, file: &str, content: &str, mode: u32) -> Config {
        let path = self.path(file);
        fs::write(&path, format!("{content}\n")).expect("the key's file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        self
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.dir.path().join(file)
    }

    /// What is wrong, line by line. `DIR` stands for the directory.
    fn problems(&self) -> Vec<String> {
        for (file, text) in &self.files {
            let mut text = text.clone();
            for seed in 1..10 {
                text = text.replace(&format!("PUBLIC-{seed}"), &public_of(&private(seed)).to_string());
            }
            fs::write(self.path(file), text).expect("the configuration");
        }
        let dir = self.dir.path().to_str().expect("UTF-8");
        match config::load(self.dir.path()) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.to_string().replace(dir, "DIR").lines().map(str::to_owned).collect(),
        }
    }

    #[track_caller]
    fn has(&self, expected: &[&str]) {
        assert_eq!(self.problems(), expected);
    }
}

/// The other tests spoil these two, and prove nothing if they are not whole.
#[test]
fn an_unspoiled_configuration_has_no_problem() {
    Config::pop().has(&[]);
    Config::branch().has(&[]);
}

// ---- All of them at once, in order -----------------------------------------------------------------------------------

#[test]
fn all_problems_of_all_files_come_at_once_by_file_and_line() {
    Config::pop()
        .edit(OTHER, "\"PUBLIC-2\"", "\"PUBLIC-1\"")
        .edit(TENANT, "action = \"accept\"", "action = \"acept\"")
        .edit(TENANT, "\"25s\"", "\"25\"")
        .edit(BOX, "\"60s\"", "\"2h\"")
        .has(&[
            r#"popgate.toml:11: active-timeout: "2h" is out of range; 1s to 1h"#,
            r#"tenants/acme.toml:12: persistent-keepalive: "25" lacks its unit; write "25s", or with another of ms, s, m, h, d"#,
            r#"tenants/acme.toml:43: action: unknown action "acept"; did you mean "accept"?"#,
            r#"tenants/globex.toml:8: path "dsl" of branch "paris": this public key already belongs to path "dsl" of branch "paris" (tenants/acme.toml:11)"#,
        ]);
}

#[test]
fn a_name_that_is_itself_a_problem_is_not_called_unknown_where_it_is_used() {
    Config::pop().edit(TENANT, "name = \"voice\"", "name = \"Voice\"").edit(TENANT, "class = \"voice\"", "class = \"Voice\"")
        .edit(TENANT, "[\"voice\", \"default\"]", "\"Voice\"")
        .has(&[r#"tenants/acme.toml:33: name: bad name "Voice": 1 to 31 of a-z, 0-9 and "-", beginning with a letter or digit"#]);
}

// ---- Files -----------------------------------------------------------------------------------------------------------

#[test]
fn a_toml_syntax_error_is_shown_where_it_is() {
    Config::pop()
        .edit(TENANT, "name = \"lyon\"", "name = lyon")
        .has(&["tenants/acme.toml:15: not TOML: string values must be quoted, expected literal string"]);
}

#[test]
fn a_key_given_twice_is_a_syntax_error() {
    Config::pop()
        .edit(TENANT, "name = \"lyon\"", "name = \"lyon\"\nname = \"lyon\"")
        .has(&["tenants/acme.toml:16: not TOML: duplicate key"]);
}

#[test]
fn text_that_is_not_utf_8_is_shown_where_it_is() {
    let config = Config::pop().without(OTHER);
    fs::write(config.path(OTHER), b"tenant = \"globex\"\n# M\xfcnchen\n").expect("written");
    config.has(&["tenants/globex.toml:2: not UTF-8"]);
}

#[test]
fn a_directory_without_popgate_toml_is_no_configuration() {
    Config::pop()
        .without(BOX)
        .has(&["popgate.toml:1: cannot be read: No such file or directory (os error 2)"]);
}

#[test]
fn a_tenants_file_is_called_like_the_tenant() {
    Config::pop().edit(OTHER, "tenant = \"globex\"", "tenant = \"initech\"").has(&[
        r#"tenants/globex.toml:1: tenant: "initech" must stand in tenants/initech.toml, not in tenants/globex.toml"#,
    ]);
}

#[test]
fn a_tenants_file_whose_name_cannot_be_a_tenants_is_not_passed_over() {
    Config::pop().without(OTHER).file("tenants/Globex.toml", GLOBEX).has(&[
        r#"tenants/Globex.toml:1: bad name "Globex": 1 to 31 of a-z, 0-9 and "-", beginning with a letter or digit"#,
    ]);
}

#[test]
fn other_files_beside_the_tenants_are_nobodys_business() {
    Config::pop()
        .file("tenants/.acme.toml.swp", "x")
        .file("tenants/.#acme.toml", "x")
        .file("tenants/README", "x")
        .has(&[]);
}

// ---- Keys and types --------------------------------------------------------------------------------------------------

#[test]
fn an_unknown_key_comes_with_the_nearest_known_name() {
    Config::pop()
        .edit(TENANT, "persistent-keepalive", "persistant-keepalive")
        .has(&[r#"tenants/acme.toml:12: unknown [[branch.path]] key "persistant-keepalive"; did you mean "persistent-keepalive"?"#]);
}

#[test]
fn an_unknown_key_like_no_other_comes_with_all_known_names() {
    Config::pop().edit(BOX, "address = ", "colour = \"red\"\naddress = ").has(&[
        r#"popgate.toml:14: unknown [[export.collector]] key "colour"; known are name, address, protocol, transport, observation-domain, biflow, filter, tls"#,
    ]);
}

#[test]
fn an_unknown_table_is_an_unknown_key() {
    Config::pop()
        .append(BOX, "[exprot]\n")
        .has(&[r#"popgate.toml:15: unknown key "exprot"; did you mean "export"?"#]);
}

#[test]
fn a_missing_key_is_said_of_its_table() {
    Config::pop()
        .edit(TENANT, "public-key = \"PUBLIC-1\"\n", "")
        .has(&["tenants/acme.toml:9: [[branch.path]] lacks public-key"]);
}

#[test]
fn a_missing_key_of_the_file_is_said_of_its_first_line() {
    Config::pop().edit(BOX, "site = \"fra1\"\n", "").has(&["popgate.toml:1: missing: site"]);
}

#[test]
fn a_box_has_a_transport() {
    Config::pop()
        .edit(
            BOX,
            "[[transport]]\nname = \"isp-a\"\nlisten = \"192.0.2.1:51820\"\ninterface = \"eth0\"\n",
            "",
        )
        .has(&["popgate.toml:1: missing: [[transport]]"]);
}

#[test]
fn a_value_of_the_wrong_type_is_told_from_the_right_one() {
    Config::pop()
        .edit(BOX, "listen = \"192.0.2.1:51820\"", "listen = 51820")
        .edit(BOX, "interface = \"eth0\"", "mtu = \"1500\"")
        .edit(TENANT, "prefixes = [\"10.21.0.0/16\"]", "prefixes = \"10.21.0.0/16\"")
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [1.5]")
        .has(&[
            "popgate.toml:7: listen: expected a string, found a whole number",
            "popgate.toml:8: mtu: expected a whole number, found a string",
            "tenants/acme.toml:16: prefixes: expected a list, found a string",
            "tenants/acme.toml:53: prefer: expected a string, found a number with a fraction",
        ]);
}

#[test]
fn a_table_in_place_of_a_list_of_tables_is_told() {
    Config::pop()
        .edit(BOX, "[[transport]]", "[transport]")
        .has(&["popgate.toml:5: transport: write [[transport]]: there may be several"]);
}

#[test]
fn a_list_of_tables_in_place_of_a_table_is_told() {
    Config::pop()
        .append(BOX, "[[admin]]\n")
        .has(&["popgate.toml:15: admin: write [admin]: there is only one"]);
}

#[test]
fn an_empty_list_is_refused_because_it_would_match_everything() {
    Config::pop()
        .edit(TENANT, "from = [\"branch:paris\"]", "from = []")
        .has(&["tenants/acme.toml:38: from: the list is empty; leave the key out or put something in"]);
}

#[test]
fn a_number_out_of_range_is_told_its_range() {
    Config::pop()
        .edit(BOX, "interface = \"eth0\"", "mtu = 1_000")
        .has(&["popgate.toml:8: mtu: 1000 is out of range; 1280 to 9216"]);
    for workers in [0, 65] {
        Config::pop()
            .edit(BOX, "role = \"pop\"", &format!("role = \"pop\"\nworkers = {workers}"))
            .has(&[&format!("popgate.toml:3: workers: {workers} is out of range; 1 to 64")]);
    }
}

// ---- Values ----------------------------------------------------------------------------------------------------------

#[test]
fn a_wrong_unit_is_told_the_right_ones() {
    Config::pop()
        .edit(BOX, "\"60s\"", "\"60sec\"")
        .has(&[r#"popgate.toml:11: active-timeout: "60sec" has the unknown unit "sec"; units of time are ms, s, m, h, d"#]);
}

#[test]
fn a_nat_ledger_is_kept_for_an_hour_to_ten_years_and_in_no_less_than_it_needs() {
    let with = |line: &str| Config::pop().edit(BOX, "[export]", &format!("[nat-ledger]\n{line}\n[export]"));
    with("keep = \"59m\"").has(&[r#"popgate.toml:11: keep: "59m" is out of range; 1h to 3650d"#]);
    with("keep = \"3651d\"").has(&[r#"popgate.toml:11: keep: "3651d" is out of range; 1h to 3650d"#]);
    with("max-size = \"199MB\"")
        .has(&[r#"popgate.toml:11: max-size: "199MB" is out of range; at least 200MB"#]);
    with("max-size = \"18446744073709551615TB\"")
        .has(&[r#"popgate.toml:11: max-size: "18446744073709551615TB" is too much"#]);
}

#[test]
fn a_flow_history_is_kept_for_an_hour_to_ten_years_and_in_no_less_than_it_needs() {
    let with = |line: &str| Config::pop().edit(BOX, "[export]", &format!("[flow-history]\n{line}\n[export]"));
    with("keep = \"59m\"").has(&[r#"popgate.toml:11: keep: "59m" is out of range; 1h to 3650d"#]);
    with("keep-rollups = \"3651d\"")
        .has(&[r#"popgate.toml:11: keep-rollups: "3651d" is out of range; 1h to 3650d"#]);
    with("tenant-quota = \"49MB\"")
        .has(&[r#"popgate.toml:11: tenant-quota: "49MB" is out of range; at least 50MB"#]);
}

#[test]
fn an_object_store_is_told_of_with_who_the_box_is_to_it_and_no_secret_is_repeated() {
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    let whole = format!("aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {secret}\n");
    let with = |lines: &str, credentials: &str, mode: u32| {
        let table = format!("[flow-history]\n[flow-history.object-store]\n{lines}\n[export]");
        let config = Config::pop().edit(BOX, "[export]", &table).key("s3.credentials", credentials, mode);
        let problems = config.problems();
        assert!(problems.iter().all(|problem| !problem.contains(secret)), "{problems:?}");
        problems
    };
    let needed =
        "endpoint = \"http://192.0.2.9:9000/\"\nbucket = \"flows\"\ncredentials-file = \"s3.credentials\"";
    assert_eq!(with(needed, &whole, 0o600), [""; 0]);
    let one = |lines: &str, credentials: &str, mode: u32, expected: &str| {
        let problems = with(lines, credentials, mode);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{expected}: {problems:?}");
    };
    for (line, expected) in [
        (
            "prefix = \"/fra1\"",
            "popgate.toml:15: prefix: bad prefix \"/fra1\": folders as in \"flows/fra1/\"",
        ),
        (
            "region = \"Frankfurt\"",
            "popgate.toml:15: region: bad region \"Frankfurt\": as in \"eu-central-1\"",
        ),
        ("ca-file = \"nowhere.pem\"", "popgate.toml:15: ca-file: there is no file"),
    ] {
        one(&format!("{needed}\n{line}"), &whole, 0o600, expected);
    }
    let no_endpoint =
        "popgate.toml:12: endpoint: \"s3://192.0.2.9:9000/\" is no endpoint; write \"https://HOST\"";
    one(&needed.replace("http://", "s3://"), &whole, 0o600, no_endpoint);
    let bad_bucket = "popgate.toml:13: bucket: bad bucket \"Flows\": 3 to 63 of a-z";
    one(&needed.replace("flows", "Flows"), &whole, 0o600, bad_bucket);
    let file = "popgate.toml:14: credentials-file: \"s3.credentials\": ";
    one(
        needed,
        &whole.replace("secret", "other"),
        0o600,
        &format!("{file}it has no aws_secret_access_key = …"),
    );
    one(needed, &whole.repeat(2), 0o600, &format!("{file}it has aws_access_key_id twice"));
    one(needed, &whole, 0o640, &format!("{file}DIR/s3.credentials is open to others (mode 0640); chmod 600"));
}

#[test]
fn a_commit_is_guarded_for_some_seconds_to_an_hour_and_by_shares() {
    let with = |line: &str| Config::pop().edit(BOX, "[export]", &format!("[commit-guard]\n{line}\n[export]"));
    with("watch = \"4s\"").has(&[r#"popgate.toml:11: watch: "4s" is out of range; 5s to 1h"#]);
    let told = r#"is not a share; write a number of percent, as in "1%" or "0.5%""#;
    with("tunnels-lost = \"0.1\"").has(&[&format!(r#"popgate.toml:11: tunnels-lost: "0.1" {told}"#)]);
    with("drops = \"few\"").has(&[&format!(r#"popgate.toml:11: drops: "few" {told}"#)]);
}

#[test]
fn the_audit_log_is_sent_to_an_address_with_a_port() {
    let with = |lines: &str| Config::pop().edit(BOX, "[export]", &format!("[audit]\n{lines}[export]"));
    with("").has(&["popgate.toml:10: [audit] lacks syslog"]);
    with("syslog = \"192.0.2.9\"\n")
        .has(&[r#"popgate.toml:11: syslog: "192.0.2.9" lacks its port; write "192.0.2.9:51820""#]);
}

#[test]
fn a_size_without_a_unit_is_told_how_to_write_it() {
    let with = |line: &str| Config::pop().edit(BOX, "[export]", &format!("[nat-ledger]\n{line}\n[export]"));
    let told = r#"is not a size; write a whole number of MB, GB or TB, as in "10GB""#;
    with("max-size = \"10GiB\"").has(&[&format!(r#"popgate.toml:11: max-size: "10GiB" {told}"#)]);
    with("max-size = 10").has(&["popgate.toml:11: max-size: expected a string, found a whole number"]);
}

#[test]
fn a_duration_without_a_unit_is_told_how_to_write_it() {
    Config::pop()
        .edit(BOX, "\"60s\"", "60")
        .has(&[r#"popgate.toml:11: active-timeout: expected a number with its unit in quotes, as in "60s", found a whole number"#]);
}

#[test]
fn a_keepalive_is_a_whole_number_of_seconds() {
    Config::pop()
        .edit(TENANT, "\"25s\"", "\"2500ms\"")
        .has(&[r#"tenants/acme.toml:12: persistent-keepalive: "2500ms" is not a whole number of seconds"#]);
}

#[test]
fn a_bad_name_is_told_what_a_name_is() {
    Config::pop().edit(BOX, "\"fra1\"", "\"Frankfurt 1\"").has(&[
        r#"popgate.toml:1: site: bad name "Frankfurt 1": 1 to 31 of a-z, 0-9 and "-", beginning with a letter or digit"#,
    ]);
}

#[test]
fn a_bad_interface_name_is_told_what_one_is() {
    Config::pop().edit(BOX, "\"eth0\"", "\"a-name-too-long-for-linux\"").has(&[
        r#"popgate.toml:8: interface: bad interface name "a-name-too-long-for-linux": 1 to 15 visible characters without "/" and ":""#,
    ]);
}

#[test]
fn host_bits_in_a_prefix_are_told_the_network() {
    Config::pop()
        .edit(TENANT, "[\"10.21.0.0/16\"]", "[\"10.0.0.1/8\"]")
        .has(&["tenants/acme.toml:16: prefixes: 10.0.0.1/8 has host bits set; did you mean 10.0.0.0/8?"]);
}

#[test]
fn what_is_no_prefix_is_told_what_one_looks_like() {
    Config::pop().edit(TENANT, "[\"10.21.0.0/16\"]", "[\"10.21/16\", \"10.0.0.0/33\"]").has(&[
        r#"tenants/acme.toml:16: prefixes: "10.21/16" is not a prefix, as in "10.1.0.0/16""#,
        r#"tenants/acme.toml:16: prefixes: "10.0.0.0/33": the length of the prefix must be 0 to 32"#,
    ]);
}

#[test]
fn nobody_owns_link_local_multicast_or_loopback_addresses() {
    Config::pop()
        .edit(TENANT, "[\"10.21.0.0/16\"]", "[\"169.254.1.0/24\", \"239.1.0.0/16\", \"::1\"]")
        .edit(TENANT, "[\"10.200.0.0/16\"]", "[\"fe80::/64\"]")
        .has(&[
            "tenants/acme.toml:16: prefixes: 169.254.1.0/24 is link-local (169.254.0.0/16) and is never forwarded",
            "tenants/acme.toml:16: prefixes: 239.1.0.0/16 is multicast (224.0.0.0/4) and is never forwarded",
            "tenants/acme.toml:16: prefixes: ::1 is loopback (::1) and is never forwarded",
            "tenants/acme.toml:29: prefixes: fe80::/64 is link-local (fe80::/10) and is never forwarded",
        ]);
}

#[test]
fn a_port_out_of_range_is_told() {
    Config::pop()
        .edit(BOX, "192.0.2.1:51820", "192.0.2.1:70000")
        .edit(BOX, "192.0.2.50:4739", "192.0.2.50:0")
        .edit(TENANT, "[80, \"8000-8010\"]", "[0, 65536, \"8000-80100\"]")
        .has(&[
            "popgate.toml:7: listen: port 70000 is out of range; 1 to 65535",
            "popgate.toml:14: address: port 0 is out of range; 1 to 65535",
            "tenants/acme.toml:41: dst-port: 0 is out of range; 1 to 65535",
            "tenants/acme.toml:41: dst-port: 65536 is out of range; 1 to 65535",
            "tenants/acme.toml:41: dst-port: port 80100 is out of range; 1 to 65535",
        ]);
}

#[test]
fn an_empty_port_range_is_told() {
    Config::pop()
        .edit(TENANT, "\"8000-8010\"", "\"8010-8000\"")
        .has(&["tenants/acme.toml:41: dst-port: the port range 8010-8000 is empty; did you mean 8000-8010?"]);
}

#[test]
fn what_is_no_port_is_told() {
    Config::pop().edit(TENANT, "\"8000-8010\"", "\"http\"").has(&[
        r#"tenants/acme.toml:41: dst-port: "http" is not a port; write a number, or a range as in "8000-8010""#,
    ]);
}

#[test]
fn ports_need_tcp_or_udp() {
    for protocol in ["", "protocol = \"icmp\"", "protocol = [\"tcp\", 47]"] {
        let config = Config::pop().edit(TENANT, "protocol = \"tcp\"", protocol);
        config
            .has(&[r#"tenants/acme.toml:41: dst-port: needs protocol = "tcp", "udp" or both, and no other"#]);
    }
}

#[test]
fn an_unknown_protocol_is_told_the_known_ones() {
    Config::pop().edit(TENANT, "protocol = \"tcp\"", "protocol = \"tpc\"").has(&[
        r#"tenants/acme.toml:40: protocol: unknown protocol "tpc"; tcp, udp, icmp, icmpv6 or a number"#,
    ]);
}

#[test]
fn an_unknown_dscp_is_told_the_known_ones() {
    Config::pop()
        .edit(TENANT, "dscp = [\"ef\"]", "dscp = [\"af44\", 64]")
        .has(&[
            r#"tenants/acme.toml:34: dscp: unknown DSCP "af44"; ef, va, le, cs0 to cs7, af11 to af43, or 0 to 63"#,
            "tenants/acme.toml:34: dscp: 64 is out of range; 0 to 63",
        ]);
}

#[test]
fn an_address_without_its_port_is_told() {
    Config::pop()
        .edit(BOX, "192.0.2.1:51820", "2001:db8::1")
        .edit(BOX, "192.0.2.50:4739", "collector.example.com:4739")
        .has(&[
            r#"popgate.toml:7: listen: "2001:db8::1" lacks its port; write "[2001:db8::1]:51820""#,
            r#"popgate.toml:14: address: "collector.example.com:4739" is not address:port, as in "192.0.2.1:51820" or "[2001:db8::1]:51820""#,
        ]);
}

#[test]
fn nobody_can_be_called_at_the_unspecified_address() {
    Config::branch()
        .edit(BOX, "192.0.2.1:51820", "0.0.0.0:51820")
        .has(&[r#"popgate.toml:14: endpoint: "0.0.0.0:51820": 0.0.0.0 is nobody's address"#]);
}

#[test]
fn an_endpoint_is_of_its_transports_family() {
    Config::branch().edit(BOX, "192.0.2.1:51820", "[2001:db8::1]:51820").has(&[
        r#"popgate.toml:14: endpoint: [2001:db8::1]:51820 cannot be reached from transport "dsl", which is at 0.0.0.0:51820"#,
    ]);
}

#[test]
fn there_is_one_icmp_source_a_family() {
    Config::pop()
        .edit(
            BOX,
            "role = \"pop\"",
            "role = \"pop\"\nicmp-source = [\"192.0.2.1\", \"192.0.2.2\", \"ff02::1\"]",
        )
        .has(&[
            r#"popgate.toml:3: icmp-source: "192.0.2.2" is the second of its family; one of each"#,
            "popgate.toml:3: icmp-source: ff02::1 is multicast (ff00::/8) and is never forwarded",
        ]);
}

#[test]
fn the_state_directory_does_not_depend_on_where_popgate_was_started() {
    Config::pop()
        .edit(BOX, "role = \"pop\"", "role = \"pop\"\nstate-dir = \"state\"")
        .has(&[r#"popgate.toml:3: state-dir: "state" is not an absolute path"#]);
}

// ---- Key files -------------------------------------------------------------------------------------------------------

#[test]
fn a_missing_key_file_is_named() {
    Config::pop()
        .edit(BOX, "keys/fra1.key", "keys/fra2.key")
        .has(&["popgate.toml:3: private-key-file: there is no file DIR/keys/fra2.key"]);
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    for mode in [0o640, 0o604, 0o622, 0o611] {
        Config::pop().key("keys/fra1.key", &private(100).to_base64(), mode).has(&[&format!(
            "popgate.toml:3: private-key-file: DIR/keys/fra1.key is open to others (mode {mode:04o}); chmod 600 DIR/keys/fra1.key"
        )]);
    }
}

#[test]
fn a_preshared_key_file_is_guarded_like_a_private_one() {
    let key = private(50).to_base64();
    Config::pop()
        .key("keys/berlin.psk", &key, 0o644)
        .edit(TENANT, "persistent-keepalive", "preshared-key-file = \"keys/berlin.psk\"\npersistent-keepalive")
        .has(&["tenants/acme.toml:12: preshared-key-file: DIR/keys/berlin.psk is open to others (mode 0644); chmod 600 DIR/keys/berlin.psk"]);
}

/// They are the PoP's: a branch must not need them.
#[test]
fn the_tenants_preshared_keys_are_not_read_at_a_branch() {
    Config::branch()
        .edit(
            TENANT,
            "persistent-keepalive",
            "preshared-key-file = \"keys/missing.psk\"\npersistent-keepalive",
        )
        .has(&[]);
}

#[test]
fn a_key_file_without_a_key_is_refused_and_its_content_kept_secret() {
    let spoiled = private(100).to_base64().replacen('=', "!", 1);
    let config = Config::pop().key("keys/fra1.key", &spoiled, 0o600);
    config.has(&["popgate.toml:3: private-key-file: DIR/keys/fra1.key is not a key of 32 bytes in base64"]);
    assert!(!config.problems()[0].contains(&spoiled[..10]));
}

#[test]
fn a_key_in_place_of_its_files_name_is_kept_secret() {
    let key = private(100).to_base64();
    Config::pop().edit(BOX, "keys/fra1.key", &key).has(&[
        "popgate.toml:3: private-key-file: this is a key itself; put it in a file of its own and write that file's name",
    ]);
}

#[test]
fn a_key_file_is_a_file() {
    Config::pop()
        .edit(BOX, "keys/fra1.key", "keys")
        .has(&["popgate.toml:3: private-key-file: DIR/keys is not a file"]);
}

#[test]
fn a_link_to_an_open_key_file_is_as_open() {
    let config = Config::pop().key("keys/open.key", &private(100).to_base64(), 0o644);
    fs::remove_file(config.path("keys/fra1.key")).expect("the key is there");
    symlink(Path::new("open.key"), config.path("keys/fra1.key")).expect("a link");
    config.has(&["popgate.toml:3: private-key-file: DIR/keys/fra1.key is open to others (mode 0644); chmod 600 DIR/keys/fra1.key"]);
}

#[test]
fn a_public_key_that_is_none_is_refused_and_not_repeated() {
    Config::pop()
        .edit(TENANT, "PUBLIC-1", "c2VjcmV0")
        .has(&["tenants/acme.toml:11: public-key: not a key of 32 bytes in base64"]);
}

// ---- Collectors ------------------------------------------------------------------------------------------------------

/// A certificate, and the key to another one.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBbzCCARWgAwIBAgIUE5yidCAfarUiTXT6bHEU+cjASewwCgYIKoZIzj0EAwIw\n\
DDEKMAgGA1UEAwwBYTAgFw0yNjExMjgwODQwMTZaGA8yMTI2MTEwNDA4NDAxNlow\n\
DDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMKCF8o/Y8wV\n\
sRt1LxhNC2iaXIB+5ULGFk2GNb7lS5RgJ286eXbNtzaqgS0k4Pdoq89C/9MV2HmX\n\
wXG+hMFElXyjUzBRMB0GA1UdDgQWBBT1+D/7r1A4Y6ZJrJ6grKYX8cBBCDAfBgNV\n\
HSMEGDAWgBT1+D/7r1A4Y6ZJrJ6grKYX8cBBCDAPBgNVHRMBAf8EBTADAQH/MAoG\n\
CCqGSM49BAMCA0gAMEUCIQCdkVVrDRjhlpMHgTHn3wqxmnf6fIASoIaPI/qp71ZE\n\
vAIgQm3bu/lkQeqIsbBOr+K3eNVJY17CqcuG9y/A9aiXx1U=\n\
-----END CERTIFICATE-----";
const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg69arwz7uCvR5ZMZw\n\
eygHCIhuAlYY9vrU17uVYpIKlGOhRANCAASGvQEN+7BeAY+2vqw0ARsL55LAbixg\n\
tq9FnSIRXHj/CHIb15c9RxiRjg7IFIzfHUv6A5NHo6jR/NoP7wXxlvVM\n\
-----END PRIVATE KEY-----";

#[test]
fn netflow_v9_goes_over_udp_alone() {
    Config::pop().append(BOX, "protocol = \"netflow-v9\"\ntransport = \"tcp\"\n").has(&[
        "popgate.toml:16: transport: NetFlow v9 and sFlow go over udp alone; over tcp and tls there is ipfix",
    ]);
}

#[test]
fn netflow_v9_has_no_biflows() {
    Config::pop()
        .append(BOX, "protocol = \"netflow-v9\"\nbiflow = true\n")
        .has(&["popgate.toml:16: biflow: NetFlow v9 and sFlow know no biflows; ipfix does"]);
}

#[test]
fn a_filter_names_tenants_and_kinds_of_record_that_there_are() {
    Config::pop()
        .append(BOX, "[export.collector.filter]\ntenants = [\"acme\", \"acne\"]\nrecords = [\"flow\"]\n")
        .has(&[
            r#"popgate.toml:16: unknown tenant "acne"; did you mean "acme"?"#,
            r#"popgate.toml:17: records: unknown records "flow"; did you mean "flows"?"#,
        ]);
}

#[test]
fn tls_needs_to_know_who_may_vouch_for_the_collector() {
    Config::pop().append(BOX, "transport = \"tls\"\n").has(&[
        "popgate.toml:12: [[export.collector]] lacks tls, which says how the collector proves who it is",
    ]);
    Config::pop()
        .append(BOX, "transport = \"tls\"\n[export.collector.tls]\n")
        .has(&["popgate.toml:16: [export.collector.tls] lacks ca-file"]);
    Config::pop()
        .append(BOX, "[export.collector.tls]\nca-file = \"keys/ca.pem\"\n")
        .has(&[r#"popgate.toml:15: tls: it is for transport "tls" alone"#]);
}

#[test]
fn files_for_tls_hold_what_they_are_named_for() {
    let tls = "transport = \"tls\"\n[export.collector.tls]\nca-file = \"keys/ca.pem\"\n";
    Config::pop().append(BOX, tls).has(&["popgate.toml:17: ca-file: there is no file DIR/keys/ca.pem"]);
    Config::pop()
        .key("keys/ca.pem", "nothing", 0o644)
        .append(BOX, tls)
        .has(&[r#"popgate.toml:17: ca-file: "keys/ca.pem" holds no certificate in PEM"#]);
    let config = || Config::pop().key("keys/ca.pem", CERTIFICATE, 0o644).append(BOX, tls);
    config().has(&[]);
    config()
        .append(BOX, "certificate-file = \"keys/ca.pem\"\n")
        .has(&["popgate.toml:16: [export.collector.tls] lacks key-file, the key to certificate-file"]);
    let key = "key-file = \"keys/own.pem\"\n";
    config().key("keys/own.pem", OTHER_KEY, 0o600).append(BOX, key).has(&[
        "popgate.toml:16: [export.collector.tls] lacks certificate-file, which key-file is the key to",
    ]);
    config().key("keys/own.pem", OTHER_KEY, 0o644).append(BOX, key).has(&[
        "popgate.toml:18: key-file: DIR/keys/own.pem is open to others (mode 0644); chmod 600 DIR/keys/own.pem",
    ]);
    config()
        .key("keys/own.pem", CERTIFICATE, 0o600)
        .append(BOX, key)
        .has(&[r#"popgate.toml:18: key-file: "keys/own.pem" holds no private key in PEM"#]);
    config()
        .key("keys/own.pem", OTHER_KEY, 0o600)
        .append(BOX, key)
        .append(BOX, "certificate-file = \"keys/ca.pem\"\n")
        .has(&["popgate.toml:16: [export.collector.tls]: keys may not be consistent: KeyMismatch"]);
    config()
        .append(BOX, "server-name = \"no name\"\n")
        .has(&[r#"popgate.toml:18: server-name: "no name" is neither a host's name nor an address"#]);
}

// ---- Names given twice -----------------------------------------------------------------------------------------------

#[test]
fn two_transports_cannot_have_one_name() {
    Config::pop()
        .append(BOX, "[[transport]]\nname = \"isp-a\"\nlisten = \"192.0.2.1:51821\"\n")
        .has(&[r#"popgate.toml:16: name: transport "isp-a" already exists (line 6)"#]);
}

#[test]
fn two_collectors_cannot_have_one_name() {
    Config::pop()
        .append(BOX, "[[export.collector]]\nname = \"noc\"\naddress = \"192.0.2.51:4739\"\n")
        .has(&[r#"popgate.toml:16: name: collector "noc" already exists (line 13)"#]);
}

#[test]
fn two_pops_cannot_have_one_name() {
    Config::branch()
        .key("keys/other.key", &private(102).to_base64(), 0o600)
        .append(BOX, "[[pop]]\nname = \"fra1\"\npublic-key = \"PUBLIC-8\"\n[[pop.path]]\nname = \"lte\"\ntransport = \"dsl\"\nendpoint = \"192.0.2.2:51820\"\nprivate-key-file = \"keys/other.key\"\n")
        .has(&[r#"popgate.toml:17: name: pop "fra1" already exists (line 9)"#]);
}

#[test]
fn two_paths_of_one_box_cannot_have_one_name_even_to_different_pops() {
    Config::branch()
        .key("keys/other.key", &private(102).to_base64(), 0o600)
        .append(BOX, "[[pop]]\nname = \"fra2\"\npublic-key = \"PUBLIC-8\"\n[[pop.path]]\nname = \"dsl\"\ntransport = \"dsl\"\nendpoint = \"192.0.2.2:51820\"\nprivate-key-file = \"keys/other.key\"\n")
        .has(&[r#"popgate.toml:20: name: path "dsl" already exists (line 12)"#]);
}

#[test]
fn two_branches_cannot_have_one_name() {
    Config::pop()
        .edit(TENANT, "name = \"lyon\"", "name = \"paris\"")
        .has(&[r#"tenants/acme.toml:15: name: branch "paris" already exists (line 4)"#]);
}

#[test]
fn two_paths_of_a_branch_cannot_have_one_name() {
    Config::pop()
        .edit(
            TENANT,
            "\n[[branch]]\nname = \"lyon\"",
            "[[branch.path]]\nname = \"dsl\"\npublic-key = \"PUBLIC-3\"\n[[branch]]\nname = \"lyon\"",
        )
        .has(&[r#"tenants/acme.toml:14: name: path "dsl" already exists (line 10)"#]);
}

#[test]
fn two_handoffs_cannot_have_one_name() {
    Config::pop()
        .edit(TENANT, "name = \"dc\"", "name = \"internet\"")
        .has(&[r#"tenants/acme.toml:25: name: handoff "internet" already exists (line 19)"#]);
}

#[test]
fn two_classes_cannot_have_one_name() {
    Config::pop()
        .append(TENANT, "[[app-class]]\nname = \"voice\"\nmatch = [{ dscp = 34 }]\n")
        .has(&[r#"tenants/acme.toml:55: name: class "voice" already exists (line 33)"#]);
}

#[test]
fn a_class_cannot_be_called_default() {
    Config::pop().append(TENANT, "[[app-class]]\nname = \"default\"\nmatch = [{ dscp = 34 }]\n").has(&[
        r#"tenants/acme.toml:55: name: "default" is the class of what matches no other; take another name"#,
    ]);
}

#[test]
fn two_acl_rules_cannot_have_one_name() {
    Config::pop()
        .append(TENANT, "[[acl]]\nname = \"web-out\"\naction = \"drop\"\n")
        .has(&[r#"tenants/acme.toml:55: name: ACL rule "web-out" already exists (line 37)"#]);
}

#[test]
fn two_nat_rules_cannot_have_one_name() {
    Config::pop()
        .append(TENANT, "[[nat]]\nname = \"finance\"\npool = [\"198.51.100.4\"]\n")
        .has(&[r#"tenants/acme.toml:55: name: NAT rule "finance" already exists (line 46)"#]);
}

#[test]
fn a_class_has_one_path_policy() {
    Config::pop()
        .append(TENANT, "[[path-policy]]\nclass = \"voice\"\nprefer = [\"dsl\"]\n")
        .has(&[r#"tenants/acme.toml:55: class: "voice" already has a path policy (line 52)"#]);
}

#[test]
fn a_path_stands_once_in_a_path_policy() {
    Config::pop()
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [\"dsl\", \"dsl\"]")
        .has(&[r#"tenants/acme.toml:53: prefer: path "dsl" stands here twice"#]);
}

#[test]
fn equal_paths_are_several_that_stand_nowhere_else_and_breakout_is_none_of_them() {
    let paths = "prefer = [\"dsl\"]";
    let with_lte = |prefer: &str| {
        let dsl = "[[branch.path]]\nname = \"dsl\"\n";
        let lte = format!("[[branch.path]]\nname = \"lte\"\npublic-key = \"PUBLIC-3\"\n{dsl}");
        Config::pop().edit(TENANT, dsl, &lte).edit(TENANT, paths, prefer)
    };
    with_lte("prefer = [[\"dsl\", \"lte\"]]\nweights = { dsl = 3 }").has(&[]);
    let at = "tenants/acme.toml:56: prefer";
    with_lte("prefer = [[], \"dsl\"]")
        .has(&[&format!("{at}: the list is empty; leave the key out or put something in")]);
    with_lte("prefer = [[\"dsl\", \"lte\"], \"dsl\"]")
        .has(&[&format!("{at}: path \"dsl\" stands here twice")]);
    with_lte("prefer = [[\"dsl\", \"dsl\"]]").has(&[&format!("{at}: path \"dsl\" stands here twice")]);
    with_lte("prefer = [[\"dsl\", \"breakout\"]]")
        .has(&[&format!("{at}: \"breakout\" shares with no path: it stands alone")]);
    let at = "tenants/acme.toml:57: weights";
    with_lte("prefer = [\"dsl\", \"lte\"]\nweights = { dsl = 3 }")
        .has(&[&format!("{at}: \"dsl\" is no path with equals in prefer")]);
    with_lte("prefer = [[\"dsl\", \"lte\"]]\nweights = { lte = 0 }")
        .has(&[&format!("{at}: 0 is out of range; 1 to 100")]);
}

#[test]
fn an_sla_class_limits_something() {
    Config::pop()
        .append(TENANT, "[[sla-class]]\nname = \"gold\"\n")
        .has(&["tenants/acme.toml:54: [[sla-class]] lacks max-loss, max-latency, max-jitter or min-mos"]);
}

#[test]
fn an_sla_classs_limits_are_shares_durations_and_scores() {
    let limit = |line: &str, problem: &str| {
        Config::pop()
            .append(TENANT, &format!("[[sla-class]]\nname = \"gold\"\n{line}\n"))
            .has(&[&format!("tenants/acme.toml:56: {problem}")]);
    };
    limit(
        "max-loss = \"1\"",
        r#"max-loss: "1" is not a share; write a number of percent, as in "1%" or "0.5%""#,
    );
    limit("max-loss = \"0%\"", r#"max-loss: "0%" is out of range; 0.01% to 100%"#);
    limit("max-latency = \"11s\"", r#"max-latency: "11s" is out of range; 1ms to 10s"#);
    limit("max-jitter = \"0ms\"", r#"max-jitter: "0ms" is out of range; 1ms to 10s"#);
    limit("min-mos = \"good\"", r#"min-mos: "good" is not a score; write it as in "4.0""#);
    limit(
        "min-mos = \"4.5\"",
        r#"min-mos: "4.5" is out of range; 1 to 4.3, which is the best that G.711 gets over a real path"#,
    );
}

#[test]
fn an_sla_class_exists_once_and_before_it_is_asked_for() {
    let gold = "[[sla-class]]\nname = \"gold\"\nmax-loss = \"1%\"\n";
    Config::pop()
        .append(TENANT, &gold.repeat(2))
        .has(&[r#"tenants/acme.toml:58: name: SLA class "gold" already exists (line 55)"#]);
    Config::pop()
        .append(TENANT, gold)
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [\"dsl\"]\nsla-class = \"golt\"")
        .has(&[r#"tenants/acme.toml:54: sla-class: unknown SLA class "golt"; did you mean "gold"?"#]);
}

#[test]
fn what_to_do_where_an_sla_is_broken_needs_one() {
    Config::pop()
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [\"dsl\"]\non-violation = \"strict\"")
        .has(&["tenants/acme.toml:54: on-violation: needs sla-class"]);
}

#[test]
fn resilience_is_one_of_three() {
    Config::pop()
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [\"dsl\"]\nresilience = \"some\"")
        .has(&[r#"tenants/acme.toml:54: resilience: unknown resilience "some"; did you mean "none"?"#]);
}

#[test]
fn remediation_is_one_of_three() {
    Config::pop()
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [\"dsl\"]\nremediation = \"duplicate\"")
        .has(&[
            r#"tenants/acme.toml:54: remediation: unknown remediation "duplicate"; known are none, duplicate-on-suspect, duplicate-always"#,
        ]);
}

#[test]
fn at_most_fourteen_path_policies_ask_for_an_sla() {
    let classes: String = (0..15)
        .map(|n| {
            format!(
                "[[app-class]]\nname = \"c{n}\"\nmatch = [{{ dscp = [{n}] }}]\n[[path-policy]]\nclass = \"c{n}\"\n\
                 prefer = [\"dsl\"]\nsla-class = \"gold\"\n"
            )
        })
        .collect();
    Config::pop()
        .append(TENANT, &format!("[[sla-class]]\nname = \"gold\"\nmax-loss = \"1%\"\n{classes}"))
        .has(&["tenants/acme.toml:161: sla-class: more than 14 path policies with an SLA class"]);
}

#[test]
fn bandwidth_is_a_rate() {
    let rate = |text: &str, problem: &str| {
        Config::pop()
            .edit(BOX, "interface = \"eth0\"", &format!("interface = \"eth0\"\nbandwidth = \"{text}\""))
            .has(&[&format!("popgate.toml:9: bandwidth: {problem}")]);
    };
    let expected = r#"is not a rate; write a whole number of kbit, mbit or gbit (a second), as in "20mbit""#;
    rate("20Mbps", &format!("\"20Mbps\" {expected}"));
    rate("32kbit", r#""32kbit" is out of range; 64kbit to 400gbit"#);
    Config::pop()
        .edit(TENANT, "persistent-keepalive", "bandwidth = \"20\"\npersistent-keepalive")
        .has(&[&format!("tenants/acme.toml:12: bandwidth: \"20\" {expected}")]);
    Config::branch()
        .append(BOX, "bandwidth = \"20\"\n")
        .has(&[&format!("popgate.toml:16: bandwidth: \"20\" {expected}")]);
}

#[test]
fn one_class_goes_first_and_has_no_weight() {
    let more = |first: &str, second: &str| {
        let class = |name: &str, line: &str| {
            format!("[[app-class]]\nname = \"{name}\"\nmatch = [{{ dscp = [1] }}]\n{line}\n")
        };
        Config::pop().append(TENANT, &(class("one", first) + &class("two", second)))
    };
    more("queue = \"priority\"", "weight = 1").has(&[]);
    more("queue = \"priority\"", "queue = \"priority\"")
        .has(&[r#"tenants/acme.toml:61: queue: one class goes first, and that is "one" (line 57)"#]);
    more("queue = \"priority\"\nweight = 5", "weight = 101").has(&[
        "tenants/acme.toml:58: weight: a class has either a weight or goes first",
        "tenants/acme.toml:62: weight: 101 is out of range; 1 to 100",
    ]);
    more("queue = \"first\"", "set-dscp = \"best\"").has(&[
        r#"tenants/acme.toml:57: queue: unknown queue "first"; known are priority"#,
        r#"tenants/acme.toml:61: set-dscp: unknown DSCP "best"; ef, va, le, cs0 to cs7, af11 to af43, or 0 to 63"#,
    ]);
}

// ---- Names that nothing has ------------------------------------------------------------------------------------------

#[test]
fn an_unknown_transport_comes_with_the_nearest() {
    Config::pop()
        .edit(TENANT, "persistent-keepalive", "transport = \"isp-b\"\npersistent-keepalive")
        .has(&[r#"tenants/acme.toml:12: transport: unknown transport "isp-b"; did you mean "isp-a"?"#]);
    Config::branch()
        .edit(BOX, "transport = \"dsl\"", "transport = \"dls\"")
        .has(&[r#"popgate.toml:13: transport: unknown transport "dls"; did you mean "dsl"?"#]);
}

/// They are the PoP's, and the branch does not know them.
#[test]
fn the_tenants_transports_are_not_looked_for_at_a_branch() {
    Config::branch()
        .edit(TENANT, "persistent-keepalive", "transport = \"isp-b\"\npersistent-keepalive")
        .has(&[]);
}

#[test]
fn an_unknown_branch_comes_with_the_nearest() {
    Config::pop()
        .edit(TENANT, "branch:paris", "branch:pairs")
        .has(&[r#"tenants/acme.toml:38: from: unknown branch "pairs"; did you mean "paris"?"#]);
}

#[test]
fn an_unknown_handoff_comes_with_those_there_are() {
    Config::pop()
        .edit(TENANT, "to = [\"handoff:internet\"]\nprotocol", "to = [\"handoff:mars\"]\nprotocol")
        .has(&[r#"tenants/acme.toml:39: to: unknown handoff "mars"; known are dc, internet"#]);
}

#[test]
fn a_branch_named_without_saying_that_it_is_one_is_told() {
    Config::pop().edit(TENANT, "\"branch:paris\"", "\"paris\", \"dc\", \"site:x\"").has(&[
        r#"tenants/acme.toml:38: from: "paris" is a branch; write "branch:paris""#,
        r#"tenants/acme.toml:38: from: "dc" is a handoff; write "handoff:dc""#,
        r#"tenants/acme.toml:38: from: "site:x" is no prefix, address, branch:NAME, handoff:NAME, group:NAME, tenant:NAME or service:TENANT/NAME"#,
    ]);
}

/// With `app` in place of acme's `[[app-class]]`, which begins in line 32, and that behind it.
fn with_app(app: &str) -> Config {
    Config::pop().edit(TENANT, "[[app-class]]", &format!("[[app]]\n{app}\n[[app-class]]"))
}

#[test]
fn an_app_is_known_by_something() {
    with_app("name = \"erp\"").has(&["tenants/acme.toml:32: [[app]] lacks domains, prefixes or ports"]);
}

#[test]
fn an_app_has_a_name_unless_it_extends_another() {
    with_app("extends = \"zoom\"\ndomains = [\"zoom.acme.example\"]").has(&[]);
    with_app("ports = [\"tcp/443\"]").has(&["tenants/acme.toml:32: [[app]] lacks name"]);
}

#[test]
fn two_apps_have_different_names() {
    with_app("name = \"erp\"\nports = [\"tcp/443\"]\n[[app]]\nname = \"erp\"\nports = [\"tcp/444\"]")
        .has(&[r#"tenants/acme.toml:36: name: app "erp" already exists (line 33)"#]);
}

#[test]
fn what_an_app_extends_is_in_the_catalog() {
    with_app("extends = \"zooom\"\ndomains = [\"zoom.acme.example\"]\nname = \"erp\"")
        .has(&[r#"tenants/acme.toml:33: extends: unknown app "zooom"; did you mean "zoom"?"#]);
}

#[test]
fn an_apps_domain_is_a_host_name() {
    let problem = |text: &str| {
        format!(
            r#"tenants/acme.toml:34: domains: "{text}" is no domain, as in "sap.example" or "*.sap.example""#
        )
    };
    for text in ["sap_example.", "erp.*.example", "192.0.2.1", "https://sap.example", "bücher.example"] {
        let config = with_app(&format!("name = \"erp\"\ndomains = [\"{text}\"]"));
        match text {
            // The root's dot may be written.
            "sap_example." => config.has(&[]),
            _ => config.has(&[&problem(text)]),
        }
    }
}

#[test]
fn an_apps_port_has_its_protocol() {
    let problem = |text: &str| {
        format!(
            r#"tenants/acme.toml:34: ports: "{text}" is no protocol and port, as in "tcp/443" or "udp/3478-3481""#
        )
    };
    for text in ["443", "icmp/8", "TCP/443"] {
        with_app(&format!("name = \"erp\"\nports = [\"{text}\"]")).has(&[&problem(text)]);
    }
    with_app("name = \"erp\"\nports = [\"tcp/70000\"]")
        .has(&["tenants/acme.toml:34: ports: port 70000 is out of range; 1 to 65535"]);
}

#[test]
fn an_app_is_known_by_so_many_things_at_most() {
    let domains: Vec<String> = (0..1_001).map(|n| format!("\"d{n}.example\"")).collect();
    with_app(&format!("name = \"ads\"\ndomains = [{}]", domains.join(", ")))
        .has(&["tenants/acme.toml:34: domains: 1001 are too many; at most 1000"]);
}

#[test]
fn an_unknown_app_comes_with_the_nearest_or_where_to_find_them_all() {
    let class =
        |app: &str| Config::pop().edit(TENANT, "{ dscp = [\"ef\"] }", &format!("{{ app = [\"{app}\"] }}"));
    class("zoom").has(&[]);
    class("microsoft-tems").has(&[
        r#"tenants/acme.toml:34: app: unknown app "microsoft-tems"; did you mean "microsoft-teams"?"#,
    ]);
    class("frobnicator").has(&[
        r#"tenants/acme.toml:34: app: unknown app "frobnicator"; `popgate apps` lists those there are"#,
    ]);
}

#[test]
fn an_app_class_asks_for_domains_that_are_some() {
    Config::pop()
        .edit(TENANT, "{ dscp = [\"ef\"] }", "{ domain = \"*\" }")
        .has(&[r#"tenants/acme.toml:34: domain: "*" is no domain, as in "sap.example" or "*.sap.example""#]);
}

#[test]
fn apps_and_domains_are_asked_for_in_app_classes_alone() {
    let kind = "[[acl]] key";
    let problems = Config::pop()
        .edit(TENANT, "dst-port = [80, \"8000-8010\"]", "dst-port = [80, \"8000-8010\"]\napp = \"zoom\"")
        .problems();
    assert!(
        problems[0].starts_with(&format!("tenants/acme.toml:42: unknown {kind} \"app\"")),
        "{problems:?}"
    );
}

#[test]
fn a_dns_teacher_is_an_address_or_a_prefix() {
    Config::pop()
        .edit(TENANT, "tenant = \"acme\"", "tenant = \"acme\"\ndns-teachers = [\"9.9.9.9\", \"quad9\"]")
        .has(&[r#"tenants/acme.toml:2: dns-teachers: "quad9" is not a prefix, as in "10.1.0.0/16""#]);
}

#[test]
fn beyond_loopback_the_admin_server_has_tls_and_names_and_files_are_for_that() {
    let admin = |lines: &str| Config::pop().append(BOX, &format!("[admin]\n{lines}\n"));
    admin("tls-listen = [\"0.0.0.0:443\", \"[::]:443\"]\nnames = \"pop.example\"").has(&[]);
    admin("listen = \"192.0.2.1:8443\"")
        .has(&["popgate.toml:16: listen: 192.0.2.1:8443 is not on loopback, and passwords \
         would cross a network in the clear there: write it into tls-listen"]);
    admin("names = \"pop.example\"")
        .has(&["popgate.toml:15: [admin] lacks tls-listen, which certificates and names are for"]);
    admin("tls-listen = \"0.0.0.0:8443\"").has(&[
        "popgate.toml:15: [admin]: tls-listen: 0.0.0.0:8443 takes the port of listen, 127.0.0.1:8443: choose another",
    ]);
    admin("tls-listen = \"0.0.0.0:443\"\nnames = [\"192.0.2.1\"]")
        .has(&[r#"popgate.toml:17: names: "192.0.2.1" is not a host name"#]);
    admin("tls-listen = \"0.0.0.0:443\"\nkey-file = \"keys/tls.pem\"")
        .has(&["popgate.toml:15: [admin] lacks certificate-file, which key-file is the key to"]);
    let both =
        "tls-listen = \"0.0.0.0:443\"\ncertificate-file = \"keys/tls.pem\"\nkey-file = \"keys/tls.pem\"";
    let problems = admin(both).problems();
    assert!(problems.len() == 1 && problems[0].contains("[admin]: there is no file"), "{problems:?}");
}

#[test]
fn whoever_signs_in_at_a_provider_does_so_over_tls_and_by_a_rule() {
    const OIDC: &str = "[admin]\ntls-listen = \"0.0.0.0:443\"\nnames = \"pop.example\"\n[admin.oidc]\n\
        issuer = \"https://login.example/realms/noc\"\nclient-id = \"popgate\"\n\
        client-secret-file = \"keys/fra1.key\"\nlabel = \"Example\"\nconsole = \"https://pop.example\"\n\
        [[admin.oidc.rule]]\ngroup = \"noc\"\nrole = \"operator\"\ntenant = \"acme\"\n";
    let oidc = |from: &str, to: &str| {
        assert!(OIDC.contains(from), "{from}");
        Config::pop().append(BOX, &OIDC.replace(from, to))
    };
    oidc("noc", "noc").has(&[]);
    oidc("https://pop.example", "https://192.0.2.1:443").has(&[]);
    oidc("https://pop.example", "http://127.0.0.1:8443").has(&[]);
    oidc("https://login.example/realms/noc", "http://login.example").has(&[
        r#"popgate.toml:19: issuer: "http://login.example" would be asked in the clear: write https"#,
    ]);
    oidc("https://login.example/realms/noc", "login.example")
        .has(&[r#"popgate.toml:19: issuer: "login.example" is no URL: relative URL without a base"#]);
    oidc("https://login.example/realms/noc", "ftp://login.example")
        .has(&[r#"popgate.toml:19: issuer: "ftp://login.example" is not as in "https://HOST""#]);
    oidc("https://login.example/realms/noc", "https://login.example/?a=b").has(&[
        r#"popgate.toml:19: issuer: "https://login.example/?a=b" has more than a host, a port and a path"#,
    ]);
    oidc("\"popgate\"", "\" \"")
        .has(&[r#"popgate.toml:20: client-id: " " is not 1 to 200 letters in a line"#]);
    oidc("https://pop.example", "https://pop.example/console").has(&[
        r#"popgate.toml:23: console: "https://pop.example/console" has a path; the console is at the top: "https://HOST""#,
    ]);
    oidc("https://pop.example", "https://other.example").has(&[
        "popgate.toml:23: console: this box is not asked for as other.example: write that into names",
    ]);
    oidc("tls-listen = \"0.0.0.0:443\"\nnames = \"pop.example\"", "\n")
        .has(&["popgate.toml:23: console: nothing is there over TLS without tls-listen"]);
    oidc("label", "scopes = [\"two words\"]\nlabel")
        .has(&[r#"popgate.toml:22: scopes: "two words" is no scope: a word as in "profile""#]);
    oidc("role = \"operator\"", "role = \"owner\"")
        .has(&["popgate.toml:27: tenant: an owner is of the whole box"]);
    oidc("\"acme\"", "\"amce\"").has(&[r#"popgate.toml:27: unknown tenant "amce"; did you mean "acme"?"#]);
    let (without, _) = OIDC.split_once("[[").expect("rules");
    Config::pop()
        .append(BOX, without)
        .has(&["popgate.toml:18: [admin.oidc] lacks [[admin.oidc.rule]], without which nobody is let in"]);
    let problems = oidc("keys/fra1.key", "keys/nowhere").problems();
    assert!(problems.len() == 1 && problems[0].contains("there is no file"), "{problems:?}");
}

#[test]
fn an_authority_signs_for_names_and_whoever_asks_it_agrees_to_its_terms() {
    const ACME: &str = "[admin]\ntls-listen = \"0.0.0.0:443\"\nnames = \"pop.example\"\n[admin.acme]\n\
        directory = \"https://acme.example/directory\"\ncontact = \"noc@example.net\"\nterms-agreed = true\n";
    let acme = |from: &str, to: &str| {
        assert!(ACME.contains(from), "{from}");
        Config::pop().append(BOX, &ACME.replace(from, to))
    };
    acme("names", "names").has(&[]);
    acme("contact = \"noc@example.net\"\n", "").has(&[]);
    acme("true", "false")
        .has(&["popgate.toml:21: terms-agreed: who does not agree to the terms gets no certificate"]);
    acme("terms-agreed = true", "").has(&["popgate.toml:18: [admin.acme] lacks terms-agreed"]);
    acme("noc@example.net", "mailto:noc@example.net")
        .has(&[r#"popgate.toml:20: contact: "mailto:noc@example.net" is no address of mail"#]);
    acme("https://acme.example/directory", "http://acme.example").has(&[
        r#"popgate.toml:19: directory: "http://acme.example" would be asked in the clear: write https"#,
    ]);
    acme("names = \"pop.example\"", "").has(&[
        "popgate.toml:18: [admin.acme]: the certificate is for the names in [admin], and there are none",
    ]);
}

#[test]
fn where_a_pop_answers_is_nobody_elses_and_one_address_of_each_family() {
    let named = |list: &str| format!("tenant = \"acme\"\nwhereabouts = {list}");
    Config::pop().edit(TENANT, "tenant = \"acme\"", &named("[\"192.0.2.80\", \"fd00::80\"]")).has(&[]);
    Config::pop().edit(TENANT, "tenant = \"acme\"", &named("\"none\"")).has(&[]);
    Config::pop()
        .edit(
            TENANT,
            "tenant = \"acme\"",
            &named("[\"10.21.0.80\", \"192.0.2.80\", \"192.0.2.81\", \"224.0.0.80\", \"popgate.internal\"]"),
        )
        .has(&[
            r#"tenants/acme.toml:2: whereabouts: 10.21.0.80 belongs to branch "lyon""#,
            "tenants/acme.toml:2: whereabouts: one address of each family is enough",
            "tenants/acme.toml:2: whereabouts: 224.0.0.80 is an address that is never forwarded",
            r#"tenants/acme.toml:2: whereabouts: "popgate.internal" is not an IP address"#,
        ]);
}

#[test]
fn an_unknown_class_comes_with_the_nearest() {
    Config::pop()
        .edit(TENANT, "[\"voice\", \"default\"]", "[\"vioce\"]")
        .edit(TENANT, "class = \"voice\"", "class = \"defualt\"")
        .has(&[
            r#"tenants/acme.toml:42: class: unknown class "vioce"; did you mean "voice"?"#,
            r#"tenants/acme.toml:52: class: unknown class "defualt"; did you mean "default"?"#,
        ]);
}

#[test]
fn an_unknown_path_comes_with_the_nearest() {
    Config::pop()
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [\"dsl2\"]")
        .has(&[r#"tenants/acme.toml:53: prefer: unknown path "dsl2"; did you mean "dsl"?"#]);
}

#[test]
fn a_class_is_not_yet_known_while_flows_are_classified() {
    Config::pop().edit(TENANT, "{ dscp = [\"ef\"] }", "{ class = \"voice\" }").has(&[
        r#"tenants/acme.toml:34: unknown [[app-class.match]] key "class"; known are app, domain, from, to, service, protocol, src-port, dst-port, dscp"#,
    ]);
}

// ---- What no two may have --------------------------------------------------------------------------------------------

#[test]
fn a_prefix_belongs_to_one_branch_of_a_tenant() {
    Config::pop().edit(TENANT, "[\"10.21.0.0/16\"]", "[\"10.20.0.0/16\"]").has(&[
        r#"tenants/acme.toml:16: branch "lyon": 10.20.0.0/16 already belongs to branch "paris" (line 6)"#,
    ]);
}

#[test]
fn a_more_specific_prefix_may_belong_to_another_branch() {
    Config::pop().edit(TENANT, "[\"10.21.0.0/16\"]", "[\"10.20.7.0/24\"]").has(&[]);
}

#[test]
fn a_prefix_stands_once_in_a_branch() {
    Config::pop().edit(TENANT, "[\"10.21.0.0/16\"]", "[\"10.21.0.0/16\", \"10.21.0.0/16\"]").has(&[
        r#"tenants/acme.toml:16: branch "lyon": 10.21.0.0/16 already belongs to branch "lyon" (line 16)"#,
    ]);
}

#[test]
fn a_prefix_belongs_to_a_branch_or_a_handoff() {
    Config::pop().edit(TENANT, "[\"10.200.0.0/16\"]", "[\"10.21.0.0/16\"]").has(&[
        r#"tenants/acme.toml:29: handoff "dc": 10.21.0.0/16 already belongs to branch "lyon" (line 16)"#,
    ]);
}

#[test]
fn a_prefix_belongs_to_one_handoff_even_by_default() {
    Config::pop()
        .append(TENANT, "[[handoff]]\nname = \"backup\"\nkind = \"internet\"\n")
        .has(&[
            r#"tenants/acme.toml:54: handoff "backup": 0.0.0.0/0 already belongs to handoff "internet" (line 18)"#,
            r#"tenants/acme.toml:54: handoff "backup": ::/0 already belongs to handoff "internet" (line 18)"#,
        ]);
}

#[test]
fn a_public_key_is_one_paths_across_all_tenants() {
    Config::pop().edit(OTHER, "PUBLIC-2", "PUBLIC-1").has(&[
        r#"tenants/globex.toml:8: path "dsl" of branch "paris": this public key already belongs to path "dsl" of branch "paris" (tenants/acme.toml:11)"#,
    ]);
}

#[test]
fn a_public_key_is_one_paths_within_a_tenant() {
    Config::pop()
        .edit(TENANT, "[\"10.21.0.0/16\"]", "[\"10.21.0.0/16\"]\n[[branch.path]]\nname = \"dsl\"\npublic-key = \"PUBLIC-1\"")
        .has(&[r#"tenants/acme.toml:19: path "dsl" of branch "lyon": this public key already belongs to path "dsl" of branch "paris" (line 11)"#]);
}

#[test]
fn the_pops_own_public_key_is_no_paths() {
    let own = public_of(&private(100)).to_string();
    Config::pop().edit(OTHER, "PUBLIC-2", &own).has(&[
        r#"tenants/globex.toml:8: path "dsl" of branch "paris": this public key already belongs to this PoP (popgate.toml:3)"#,
    ]);
}

#[test]
fn two_pops_do_not_have_one_public_key() {
    Config::branch()
        .key("keys/other.key", &private(102).to_base64(), 0o600)
        .append(BOX, "[[pop]]\nname = \"fra2\"\npublic-key = \"PUBLIC-9\"\n[[pop.path]]\nname = \"lte\"\ntransport = \"dsl\"\nendpoint = \"192.0.2.2:51820\"\nprivate-key-file = \"keys/other.key\"\n")
        .has(&[r#"popgate.toml:18: pop "fra2": this public key already belongs to pop "fra1" (line 10)"#]);
}

#[test]
fn two_paths_do_not_have_one_private_key() {
    Config::branch()
        .append(BOX, "[[pop.path]]\nname = \"lte\"\ntransport = \"dsl\"\nendpoint = \"192.0.2.1:51820\"\nprivate-key-file = \"keys/dsl.key\"\n")
        .has(&[r#"popgate.toml:20: path "lte": this private key already belongs to path "dsl" (line 15)"#]);
}

/// globex with `nat-blocks`, which stand in line 14.
fn in_blocks(blocks: &str) -> Config {
    let pool = "nat-pool = [\"198.51.100.8/29\"]";
    Config::pop().edit(OTHER, pool, &format!("{pool}\nnat-blocks = {{ {blocks} }}"))
}

#[test]
fn a_port_block_is_a_power_of_two_from_64_on() {
    for size in ["0", "32", "100", "513"] {
        let problem = format!("tenants/globex.toml:14: size: {size} is no power of two from 64 on");
        in_blocks(&format!("size = {size}, per-branch = 1")).has(&[&problem]);
    }
}

#[test]
fn a_branch_has_at_least_one_port_block() {
    in_blocks("size = 64, per-branch = 0")
        .has(&["tenants/globex.toml:14: per-branch: 0 is out of range; 1 to 1024"]);
}

#[test]
fn port_blocks_lie_within_nat_ports_whole() {
    in_blocks("size = 1024, per-branch = 1")
        .edit(OTHER, "nat-blocks", "nat-ports = \"5000-6142\"\nnat-blocks")
        .has(&["tenants/globex.toml:15: nat-blocks: no block of 1024 ports lies in nat-ports 5000-6142"]);
}

#[test]
fn port_blocks_are_a_nat_pools() {
    in_blocks("size = 64, per-branch = 1")
        .edit(OTHER, "nat-pool = [\"198.51.100.8/29\"]", "masquerade = \"eth0\"")
        .has(&[
            "tenants/globex.toml:14: nat-blocks: they are of a nat-pool's ports, and the handoff has none",
        ]);
}

#[test]
fn port_blocks_that_are_computed_are_enough_for_all_branches() {
    in_blocks("size = 32768, per-branch = 2, deterministic = true").has(&[
        "tenants/globex.toml:14: nat-blocks: 1 branches of 2 x 32768 ports each: nat-pool and nat-ports have room for 0",
    ]);
}

#[test]
fn a_nat_rule_has_no_pool_of_its_own_where_ports_are_computed() {
    let pool = "nat-pool = [\"198.51.100.0/29\"]";
    let blocks = "nat-blocks = { size = 512, per-branch = 4, deterministic = true }";
    Config::pop().edit(TENANT, pool, &format!("{pool}\n{blocks}")).has(&[
        r#"tenants/acme.toml:50: NAT rule "finance": which of 198.51.100.3/32 a branch has is computed, for handoff "internet" has deterministic nat-blocks"#,
    ]);
}

#[test]
fn nat_pools_of_two_tenants_do_not_overlap() {
    Config::pop().edit(OTHER, "198.51.100.8/29", "198.51.100.7").has(&[
        r#"tenants/globex.toml:13: tenant "globex" handoff "internet": NAT pool 198.51.100.7/32 overlaps NAT pool 198.51.100.0/29 of tenant "acme" handoff "internet" (tenants/acme.toml:21)"#,
    ]);
}

#[test]
fn a_wider_nat_pool_that_stands_later_is_the_one_that_is_told() {
    Config::pop().edit(OTHER, "198.51.100.8/29", "198.51.100.0/24").has(&[
        r#"tenants/globex.toml:13: tenant "globex" handoff "internet": NAT pool 198.51.100.0/24 overlaps NAT pool 198.51.100.0/29 of tenant "acme" handoff "internet" (tenants/acme.toml:21)"#,
    ]);
}

#[test]
fn nat_pools_of_two_handoffs_do_not_overlap() {
    Config::pop()
        .append(TENANT, "[[handoff]]\nname = \"backup\"\nkind = \"internet\"\nprefixes = [\"9.9.9.0/24\"]\nnat-pool = [\"198.51.100.4/30\"]\n")
        .has(&[r#"tenants/acme.toml:58: tenant "acme" handoff "backup": NAT pool 198.51.100.4/30 overlaps NAT pool 198.51.100.0/29 of tenant "acme" handoff "internet" (line 21)"#]);
}

#[test]
fn a_nat_pool_does_not_contain_a_transports_address() {
    Config::pop().edit(OTHER, "198.51.100.8/29", "192.0.2.0/28").has(&[
        r#"tenants/globex.toml:13: tenant "globex" handoff "internet": NAT pool 192.0.2.0/28 overlaps address 192.0.2.1 of transport "isp-a" (popgate.toml:7)"#,
    ]);
}

/// globex publishes something to acme.
const PUBLISHER: &str = r#"
[[publish]]
name = "payroll"
host = "10.20.0.40"
protocol = "tcp"
dst-port = 443

[[publish]]
name = "wiki"
host = "10.20.0.41"
protocol = "tcp"

[[subscriber]]
tenant = "acme"
services = ["payroll"]
known-as = "172.20.0.0/16"

[[acl]]
name = "payroll"
from = ["tenant:acme"]
action = "accept"
"#;

const SUBSCRIBER: &str = r#"
[[subscribe]]
tenant = "globex"
services = { payroll = "10.20.255.1" }
map = { "10.20.0.0/16" = "172.20.0.0/16" }

[[acl]]
name = "payroll"
to = ["service:globex/payroll", "tenant:globex"]
action = "accept"
"#;

fn neighbours() -> Config {
    Config::pop().append(TENANT, SUBSCRIBER).append(OTHER, PUBLISHER)
}

#[test]
fn a_subscription_that_both_files_speak_of_has_no_problem_at_the_pop_and_none_at_a_branch() {
    neighbours().has(&[]);
    Config::branch().append(TENANT, SUBSCRIBER).has(&[]);
}

#[test]
fn a_tenant_publishes_only_hosts_of_its_own() {
    let message = "lies in no branch's and no private handoff's prefixes";
    neighbours()
        .edit(OTHER, "host = \"10.20.0.40\"", "host = \"203.0.113.9\"")
        .edit(TENANT, "{ \"10.20.0.0/16\" = \"172.20.0.0/16\" }", "{ \"10.3.0.0/16\" = \"172.20.0.0/16\" }")
        .has(&[
            &format!("tenants/acme.toml:58: map: 10.3.0.0/16 {message}"),
            &format!("tenants/globex.toml:18: host: 203.0.113.9 {message}"),
        ]);
}

#[test]
fn what_is_published_by_a_service_group_has_no_ports_of_its_own() {
    let group = "[[service-group]]\nname = \"web\"\nservices = [{ protocol = \"tcp\", dst-port = 80 }]\n";
    neighbours().edit(OTHER, "dst-port = 443", "service = \"web\"\ndst-port = 443").append(OTHER, group).has(&[
        "tenants/globex.toml:19: protocol: what is published by a service group has no protocol and no ports of its own",
        "tenants/globex.toml:21: dst-port: what is published by a service group has no protocol and no ports of its own",
    ]);
}

#[test]
fn nobody_subscribes_whom_the_publisher_does_not_name() {
    neighbours()
        .edit(OTHER, "tenant = \"acme\"", "tenant = \"acne\"")
        .edit(OTHER, "tenant:acme", "tenant:acne")
        .has(&[
            r#"tenants/acme.toml:55: tenant "globex" has no [[subscriber]] "acme": both must say so"#,
            r#"tenants/globex.toml:27: unknown tenant "acne"; did you mean "acme"?"#,
        ]);
}

#[test]
fn a_subscription_is_to_a_tenant_that_there_is_and_to_another_one() {
    neighbours()
        .edit(TENANT, "tenant = \"globex\"", "tenant = \"globes\"")
        .edit(TENANT, "\"service:globex/payroll\", \"tenant:globex\"", "\"tenant:globes\"")
        .has(&[r#"tenants/acme.toml:55: unknown tenant "globes"; did you mean "globex"?"#]);
    neighbours()
        .edit(OTHER, "tenant = \"acme\"", "tenant = \"globex\"")
        .edit(OTHER, "tenant:acme", "10.20.0.0/16")
        .has(&["tenants/globex.toml:28: tenant: this is the tenant itself, which needs no service"]);
}

#[test]
fn only_services_that_are_offered_to_it_are_a_subscribers() {
    neighbours()
        .edit(
            TENANT,
            "{ payroll = \"10.20.255.1\" }",
            "{ payroll = \"10.20.255.1\", wiki = \"10.20.255.2\" }",
        )
        .has(&[r#"tenants/acme.toml:57: unknown service "globex/wiki"; known are globex/payroll"#]);
}

#[test]
fn a_service_is_called_by_an_address_of_its_family_that_nobody_else_has() {
    neighbours()
        .edit(TENANT, "\"10.20.255.1\"", "\"2001:db8:20::9\"")
        .has(&["tenants/acme.toml:57: 2001:db8:20::9 cannot stand for 10.20.0.40: another family"]);
    neighbours()
        .edit(TENANT, "\"10.20.255.1\"", "\"10.21.0.1\"")
        .edit(TENANT, "[\"10.21.0.0/16\"]", "[\"10.21.0.0/16\", \"10.21.0.1\"]")
        .has(&[r#"tenants/acme.toml:57: subscription to "globex": 10.21.0.1 already belongs to branch "lyon" (line 16)"#]);
}

#[test]
fn a_subscriber_is_known_as_what_the_publisher_says() {
    neighbours().edit(TENANT, "\"10.20.0.0/16\" = \"172.20.0.0/16\"", "\"10.20.0.0/16\" = \"172.21.0.0/16\"").has(&[
        r#"tenants/acme.toml:58: 172.21.0.0/16 is not of what tenant "globex" knows this one as: 172.20.0.0/16 (tenants/globex.toml:27)"#,
    ]);
}

#[test]
fn one_host_of_a_subscribers_is_known_by_one_address() {
    neighbours()
        .edit(
            TENANT,
            "map = { \"10.20.0.0/16\"",
            "map = { \"10.20.7.0/24\" = \"172.20.9.0/24\", \"10.20.0.0/16\"",
        )
        .has(&[
            "tenants/acme.toml:58: map: 10.20.7.0/24 = 172.20.9.0/24 overlaps 10.20.0.0/16 = 172.20.0.0/16",
        ]);
    let second =
        "[[subscriber]]\ntenant = \"initech\"\nservices = [\"wiki\"]\nknown-as = [\"172.20.9.0/24\"]\n";
    neighbours()
        .append(OTHER, second)
        .has(&["tenants/globex.toml:39: known-as: 172.20.9.0/24 overlaps 172.20.0.0/16 (line 30)"]);
}

#[test]
fn two_subscribers_are_two_tenants() {
    let second = "[[subscriber]]\ntenant = \"acme\"\nservices = [\"wiki\"]\nknown-as = \"172.21.0.0/16\"\n";
    neighbours()
        .append(OTHER, second)
        .has(&[r#"tenants/globex.toml:37: tenant: subscriber "acme" already exists (line 28)"#]);
    let second = "[[subscribe]]\ntenant = \"globex\"\nservices = {}\nmap = {}\n";
    neighbours()
        .append(TENANT, second)
        .has(&[r#"tenants/acme.toml:65: tenant: subscription to "globex" already exists (line 56)"#]);
}

#[test]
fn rules_name_only_services_that_are_subscribed_to_and_tenants_that_have_to_do_with_this_one() {
    neighbours()
        .edit(TENANT, "service:globex/payroll", "service:globex/wiki")
        .edit(OTHER, "tenant:acme", "tenant:initech")
        .has(&[
            r#"tenants/acme.toml:62: to: unknown service "globex/wiki"; known are globex/payroll"#,
            r#"tenants/globex.toml:34: from: no [[subscriber]] and no [[subscribe]] here is of tenant "initech""#,
        ]);
}

#[test]
fn nat_filtering_is_one_of_the_rfcs_three() {
    let pool = "nat-pool = [\"198.51.100.8/29\"]";
    let filtering = format!("nat-filtering = \"full-cone\"\n{pool}");
    Config::pop().edit(OTHER, pool, &filtering).has(&[
        r#"tenants/globex.toml:13: nat-filtering: unknown nat-filtering "full-cone"; known are endpoint-independent, address-dependent, address-and-port-dependent"#,
    ]);
}

#[test]
fn a_nat64_prefix_is_of_ipv6_has_a_length_of_rfc_6052s_a_pool_behind_it_and_no_hosts_within() {
    let pool = "nat-pool = [\"198.51.100.8/29\"]";
    let with =
        |prefix: &str| Config::pop().edit(OTHER, pool, &format!("{pool}\nnat64-prefix = \"{prefix}\""));
    with("64:ff9b::/95").has(&[
        "tenants/globex.toml:14: nat64-prefix: a NAT64 prefix is a /32, /40, /48, /56, /64 or /96, not a /95",
    ]);
    with("2001:db8:0:0:100::/96").has(&[
        "tenants/globex.toml:14: nat64-prefix: bits 64 to 71 of the NAT64 prefix 2001:db8:0:0:100::/96 must be zero (RFC 6052)",
    ]);
    with("100.64.0.0/32")
        .has(&["tenants/globex.toml:14: nat64-prefix: 100.64.0.0/32 is IPv4, and a NAT64 prefix is IPv6"]);
    with("2001:db8::/32").has(&[
        "tenants/globex.toml:14: nat64-prefix: branch prefix 2001:db8:30::/48 lies in it, and would stand for IPv4 addresses",
    ]);
    Config::pop().edit(OTHER, pool, "nat64-prefix = \"64:ff9b::/96\"").has(&[
        "tenants/globex.toml:13: nat64-prefix: it leads to IPv4 by a nat-pool or masquerade, and the handoff has neither",
    ]);
    let second = "[[handoff]]\nname = \"backup\"\nkind = \"internet\"\nprefixes = [\"9.9.9.0/24\"]\n\
                  nat-pool = [\"198.51.100.64/29\"]\nnat64-prefix = \"64:ff9b::/96\"\n";
    with("64:ff9b::/96").append(OTHER, second).has(&[
        "tenants/globex.toml:21: handoff \"backup\": 64:ff9b::/96 already belongs to handoff \"internet\" (line 14)",
    ]);
    let only_v6 = format!("{pool}\nnat64-prefix = \"64:ff9b::/96\"\nprefixes = [\"::/0\"]");
    Config::pop().edit(OTHER, pool, &only_v6).has(&[
        "tenants/globex.toml:14: nat64-prefix: it leads to what the handoff reaches of IPv4, and none of its prefixes is",
    ]);
}

#[test]
fn limits_of_sessions_are_of_one_at_least() {
    let prefixes = "prefixes = [\"10.20.0.0/16\", \"2001:db8:30::/48\"]";
    let limits = format!("{prefixes}\nmax-sessions = 0\nnew-sessions-per-second = 2_000_000");
    Config::pop().edit(OTHER, prefixes, &limits).has(&[
        "tenants/globex.toml:6: max-sessions: 0 is out of range; 1 to 100000000",
        "tenants/globex.toml:7: new-sessions-per-second: 2000000 is out of range; 1 to 1000000",
    ]);
}

#[test]
fn session_timeouts_are_of_seconds_to_a_week() {
    Config::pop().append(OTHER, "[session-timeouts]\nudp = \"500ms\"\nicmp = 60\n").has(&[
        r#"tenants/globex.toml:16: udp: "500ms" is out of range; 1s to 168h"#,
        r#"tenants/globex.toml:17: icmp: expected a number with its unit in quotes, as in "60s", found a whole number"#,
    ]);
}

#[test]
fn a_map_is_of_a_branchs_prefix_to_one_as_long_that_is_nobodys() {
    let pool = "nat-pool = [\"198.51.100.8/29\"]";
    let map = |map: &str| Config::pop().edit(OTHER, pool, &format!("{pool}\nmap = {{ {map} }}"));
    map(r#""10.1.0.0/16" = "172.20.0.0/24""#).has(&[
        "tenants/globex.toml:14: map: 10.1.0.0/16 cannot be mapped to 172.20.0.0/24: host by host, both must be of one length",
    ]);
    map(r#""10.99.0.0/16" = "172.20.0.0/16""#)
        .has(&["tenants/globex.toml:14: map: 10.99.0.0/16 lies in no branch's prefixes"]);
    map(r#""10.20.0.0/29" = "198.51.100.0/29""#).has(&[
        r#"tenants/globex.toml:14: tenant "globex" handoff "internet": mapped 198.51.100.0/29 overlaps NAT pool 198.51.100.0/29 of tenant "acme" handoff "internet" (tenants/acme.toml:21)"#,
    ]);
}

#[test]
fn a_forwarded_port_is_of_the_pools_addresses_and_nobody_elses() {
    let forward = |name: &str, address: &str, to: &str| {
        format!(
            "[[handoff.port-forward]]\nname = \"{name}\"\nprotocol = \"tcp\"\naddress = \"{address}\"\nto = \"{to}\"\n"
        )
    };
    let last = "routed = [\"2001:db8:30::/48\"]";
    let config = |forwards: String| Config::pop().edit(OTHER, last, &format!("{last}\n{forwards}"));
    config(forward("a", "198.51.100.1:443", "10.1.0.5:443"))
        .has(&["tenants/globex.toml:18: address: 198.51.100.1 is not in the handoff's nat-pool"]);
    config(forward("a", "198.51.100.9:8443", "10.1.0.5:443")).has(&[
        "tenants/globex.toml:18: address: port 8443 may be given out to any host; take one that is not in the handoff's nat-ports, 1024-65535",
    ]);
    config(forward("a", "198.51.100.9:443", "[2001:db8::5]:443"))
        .has(&["tenants/globex.toml:19: to: [2001:db8::5]:443 is of another family than 198.51.100.9:443"]);
    config(forward("a", "198.51.100.9:443", "10.1.0.5:443") + &forward("b", "198.51.100.9:443", "10.1.0.6:443"))
        .has(&[
            r#"tenants/globex.toml:23: port forward "b": tcp 198.51.100.9:443 already belongs to port forward "a" (line 18)"#,
        ]);
}

#[test]
fn a_handoff_has_a_pool_or_masquerades() {
    Config::pop()
        .edit(OTHER, "nat-pool", "masquerade = \"eth0\"\nnat-pool")
        .has(&["tenants/globex.toml:13: masquerade: a handoff has either a nat-pool or masquerade"]);
}

#[test]
fn no_port_is_given_out_that_the_box_listens_on() {
    Config::pop()
        .edit(OTHER, "nat-pool = [\"198.51.100.8/29\"]", "masquerade = \"eth0\"\nnat-ports = \"50000-60000\"")
        .has(&[
            r#"tenants/globex.toml:13: tenant "globex" handoff "internet": ports 50000-60000 cannot be given out: transport "isp-a" listens at 51820; choose others with nat-ports"#,
        ]);
}

#[test]
fn all_who_masquerade_on_one_interface_give_out_the_same_ports() {
    Config::pop()
        .edit(OTHER, "nat-pool = [\"198.51.100.8/29\"]", "masquerade = \"eth0\"")
        .append(OTHER, "[[handoff]]\nname = \"backup\"\nkind = \"internet\"\nprefixes = [\"9.9.9.0/24\"]\nmasquerade = \"eth0\"\nnat-ports = \"60000-61000\"\n")
        .has(&[r#"tenants/globex.toml:19: tenant "globex" handoff "backup": tenant "globex" handoff "internet" (line 13) gives out ports 52000-65535 of "eth0"; all must give out the same"#]);
}

#[test]
fn ipv6_is_not_translated() {
    Config::pop()
        .edit(OTHER, "198.51.100.8/29", "2001:db8:99::/64")
        .has(&["tenants/globex.toml:13: nat-pool: 2001:db8:99::/64 is IPv6, which is not translated; put it under routed"]);
}

#[test]
fn a_nat_rules_pool_is_part_of_its_handoffs() {
    Config::pop().edit(TENANT, "pool = [\"198.51.100.3/32\"]", "pool = [\"198.51.100.9\"]").has(&[
        r#"tenants/acme.toml:49: NAT rule "finance": 198.51.100.9/32 is not in the NAT pool of handoff "internet""#,
    ]);
}

#[test]
fn a_nat_rules_pool_is_some_handoffs_even_if_it_names_none() {
    Config::pop()
        .append(TENANT, "[[nat]]\nname = \"rest\"\npool = [\"198.51.100.9\"]\n")
        .has(&[r#"tenants/acme.toml:56: NAT rule "rest": 198.51.100.9/32 is in no handoff's NAT pool"#]);
}

#[test]
fn a_nat_rule_has_a_pool_or_does_not_translate() {
    Config::pop()
        .edit(TENANT, "pool = [\"198.51.100.3/32\"]\n", "")
        .has(&["tenants/acme.toml:45: [[nat]] lacks pool (or no-nat = true)"]);
    Config::pop()
        .edit(TENANT, "pool = [\"198.51.100.3/32\"]\n", "pool = [\"198.51.100.3/32\"]\nno-nat = true\n")
        .has(&["tenants/acme.toml:50: no-nat: a rule has either a pool or no-nat"]);
}

#[test]
fn what_is_not_routed_cannot_go_untranslated() {
    Config::pop()
        .edit(TENANT, "pool = [\"198.51.100.3/32\"]", "no-nat = true")
        .has(&["tenants/acme.toml:49: no-nat: 10.20.9.0/24 is not in the routed prefixes of a handoff"]);
    Config::pop()
        .append(TENANT, "[[nat]]\nname = \"rest\"\nno-nat = true\n")
        .has(&["tenants/acme.toml:56: no-nat: say from which of the handoff's routed prefixes, with `from`"]);
}

#[test]
fn routed_prefixes_of_two_tenants_do_not_overlap() {
    Config::pop()
        .edit(OTHER, "routed = [\"2001:db8:30::/48\"]", "routed = [\"2001:db8:20::/56\"]")
        .edit(OTHER, "\"2001:db8:30::/48\"]", "\"2001:db8::/32\"]")
        .has(&[r#"tenants/globex.toml:14: tenant "globex" handoff "internet": routed 2001:db8:20::/56 overlaps routed 2001:db8:20::/48 of tenant "acme" handoff "internet" (tenants/acme.toml:22)"#]);
}

#[test]
fn a_routed_prefix_does_not_overlap_a_nat_pool() {
    Config::pop()
        .edit(OTHER, "routed = [\"2001:db8:30::/48\"]", "routed = [\"198.51.100.4\"]")
        .edit(OTHER, "\"2001:db8:30::/48\"]", "\"198.51.100.0/24\"]")
        .has(&[r#"tenants/globex.toml:14: tenant "globex" handoff "internet": routed 198.51.100.4/32 overlaps NAT pool 198.51.100.0/29 of tenant "acme" handoff "internet" (tenants/acme.toml:21)"#]);
}

#[test]
fn a_routed_prefix_lies_in_the_tenants_own_branches() {
    Config::pop().edit(OTHER, "routed = [\"2001:db8:30::/48\"]", "routed = [\"2001:db8:31::/48\"]").has(&[
        r#"tenants/globex.toml:14: handoff "internet": routed 2001:db8:31::/48 lies in no branch's prefixes"#,
    ]);
}

#[test]
fn two_private_handoffs_do_not_have_one_interface() {
    Config::pop()
        .append(OTHER, "[[handoff]]\nname = \"dc\"\nkind = \"private\"\ninterface = \"eth2\"\naddress = [\"10.9.0.1/24\"]\nprefixes = [\"10.9.0.0/16\"]\n")
        .has(&[r#"tenants/globex.toml:18: tenant "globex" handoff "dc": interface "eth2" already belongs to tenant "acme" handoff "dc" (tenants/acme.toml:27)"#]);
}

#[test]
fn a_vlan_is_one_handoffs_and_its_trunk_is_nobodys() {
    let dc = |interface: &str, vlan: &str| {
        format!(
            "[[handoff]]\nname = \"dc\"\nkind = \"private\"\ninterface = \"{interface}\"\n{vlan}\
             address = \"dhcp\"\nprefixes = [\"10.9.0.0/16\"]\n"
        )
    };
    let vlan = "interface = \"eth2\"\nvlan = 101";
    let acme = || Config::pop().edit(TENANT, "interface = \"eth2\"", vlan);
    acme().append(OTHER, &dc("eth2", "vlan = 102\n")).has(&[]);
    // A transport may be on the trunk itself.
    acme().append(OTHER, &dc("eth0", "vlan = 101\n")).has(&[]);
    acme().append(OTHER, &dc("eth2", "vlan = 101\n")).has(&[
        r#"tenants/globex.toml:18: tenant "globex" handoff "dc": VLAN 101 of interface "eth2" already belongs to tenant "acme" handoff "dc" (tenants/acme.toml:27)"#,
    ]);
    acme().append(OTHER, &dc("eth2", "")).has(&[
        r#"tenants/globex.toml:18: tenant "globex" handoff "dc": interface "eth2" already belongs to tenant "acme" handoff "dc" (tenants/acme.toml:27)"#,
    ]);
    Config::pop().append(OTHER, &dc("eth2", "vlan = 101\n")).has(&[
        r#"tenants/globex.toml:18: tenant "globex" handoff "dc": interface "eth2" already belongs to tenant "acme" handoff "dc" (tenants/acme.toml:27)"#,
    ]);
    for bad in ["0", "4095"] {
        Config::pop()
            .append(OTHER, &dc("eth3", &format!("vlan = {bad}\n")))
            .has(&[&format!("tenants/globex.toml:19: vlan: {bad} is out of range; 1 to 4094")]);
    }
}

#[test]
fn an_interface_that_was_taken_away_masquerades_for_nobody() {
    Config::pop().edit(OTHER, "kind = \"internet\"", "kind = \"internet\"\nmasquerade = \"eth2\"").edit(
        OTHER,
        "nat-pool = [\"198.51.100.8/29\"]\n",
        "",
    ).has(&[
        r#"tenants/globex.toml:13: tenant "globex" handoff "internet": interface "eth2" already belongs to tenant "acme" handoff "dc" (tenants/acme.toml:27)"#,
    ]);
}

#[test]
fn an_interface_has_addresses_or_learns_them() {
    let address = |written: &str| {
        Config::pop().edit(TENANT, "address = [\"10.200.0.1/24\"]", &format!("address = {written}"))
    };
    for good in ["\"dhcp\"", "[\"10.200.0.1/24\", \"ra\"]", "[\"dhcp\", \"ra\"]"] {
        address(good).has(&[]);
    }
    address("[\"dhcp\", \"dhcp\"]").has(&["tenants/acme.toml:28: address: \"dhcp\" stands here twice"]);
    address("[\"10.200.0.1/24\", \"10.200.0.1/16\"]")
        .has(&["tenants/acme.toml:28: address: 10.200.0.1 stands here twice"]);
    address("\"slaac\"").has(&[
        r#"tenants/acme.toml:28: address: "slaac" is not "dhcp", "ra", or an address as in "10.200.0.1/24""#,
    ]);
}

#[test]
fn a_private_handoff_does_not_take_a_transports_interface_away() {
    Config::pop().edit(TENANT, "\"eth2\"", "\"eth0\"").has(&[
        r#"tenants/acme.toml:27: tenant "acme" handoff "dc": interface "eth0" already belongs to transport "isp-a" (popgate.toml:8)"#,
    ]);
}

#[test]
fn two_transports_do_not_listen_on_one_address() {
    Config::pop()
        .append(BOX, "[[transport]]\nname = \"isp-b\"\nlisten = \"0.0.0.0:51820\"\n")
        .has(&["popgate.toml:17: listen: 0.0.0.0:51820 is already taken by 192.0.2.1:51820 (line 7)"]);
}

#[test]
fn two_transports_may_listen_on_one_address_of_different_interfaces() {
    Config::pop()
        .append(BOX, "[[transport]]\nname = \"isp-b\"\nlisten = \"0.0.0.0:51820\"\ninterface = \"eth1\"\n")
        .has(&[]);
}

// ---- Groups ----------------------------------------------------------------------------------------------------------

const GROUPS: &str = r#"
[[address-group]]
name = "offices"
addresses = ["branch:paris", "group:servers"]
[[address-group]]
name = "servers"
addresses = ["10.200.1.0/24", "handoff:dc"]
[[service-group]]
name = "web"
services = [{ protocol = "tcp", dst-port = [80, 443] }, { protocol = "udp", dst-port = 443 }]
[[service-group]]
name = "usual"
services = ["web", { protocol = "icmp" }]
[[acl]]
name = "usual"
from = "group:offices"
service = "usual"
action = "accept"
"#;

fn grouped() -> Config {
    Config::pop().append(TENANT, GROUPS)
}

#[test]
fn groups_may_be_in_groups_that_stand_later() {
    grouped().has(&[]);
}

#[test]
fn an_unknown_group_is_told_the_known_ones() {
    grouped()
        .edit(TENANT, "\"group:servers\"", "\"group:server\"")
        .edit(TENANT, "[\"web\", ", "[\"wbe\", ")
        .edit(TENANT, "\"group:offices\"", "\"group:branches\"")
        .edit(TENANT, "service = \"usual\"", "service = [\"dns\"]")
        .has(&[
            r#"tenants/acme.toml:57: addresses: unknown address group "server"; did you mean "servers"?"#,
            r#"tenants/acme.toml:66: services: unknown service group "wbe"; did you mean "web"?"#,
            r#"tenants/acme.toml:69: from: unknown address group "branches"; known are offices, servers"#,
            r#"tenants/acme.toml:70: service: unknown service group "dns"; known are usual, web"#,
        ]);
}

#[test]
fn a_group_is_not_in_itself() {
    grouped()
        .edit(TENANT, "\"handoff:dc\"]\n[[service", "\"group:offices\"]\n[[service")
        .edit(TENANT, "{ protocol = \"icmp\" }", "\"usual\"")
        .has(&[
            r#"tenants/acme.toml:60: addresses: a group cannot be in itself: offices > servers > offices"#,
            r#"tenants/acme.toml:66: services: a group cannot be in itself: usual > usual"#,
        ]);
}

#[test]
fn a_group_has_a_name_of_its_own_among_its_kind() {
    grouped()
        .edit(TENANT, "name = \"servers\"", "name = \"offices\"")
        .edit(TENANT, "\"group:servers\"", "\"10.0.0.0/8\"")
        .has(&[r#"tenants/acme.toml:59: name: address group "offices" already exists (line 56)"#]);
}

#[test]
fn an_address_group_holds_what_from_and_to_take() {
    grouped()
        .edit(TENANT, "\"10.200.1.0/24\"", "\"10.200.1.1/24\", \"lyon\"")
        .edit(TENANT, "\"group:offices\"", "\"offices\"")
        .has(&[
            "tenants/acme.toml:60: addresses: 10.200.1.1/24 has host bits set; did you mean 10.200.1.0/24?",
            r#"tenants/acme.toml:60: addresses: "lyon" is a branch; write "branch:lyon""#,
            r#"tenants/acme.toml:69: from: "offices" is an address group; write "group:offices""#,
        ]);
}

#[test]
fn a_service_says_its_protocol_and_ports_need_one_that_has_some() {
    grouped()
        .edit(TENANT, "{ protocol = \"udp\", dst-port = 443 }", "{ dscp = 1 }")
        .edit(TENANT, "{ protocol = \"icmp\" }", "{ protocol = \"icmp\", src-port = 1 }")
        .has(&[
            "tenants/acme.toml:63: [[service-group.services]] lacks protocol",
            r#"tenants/acme.toml:63: unknown [[service-group.services]] key "dscp"; known are protocol, src-port, dst-port"#,
            r#"tenants/acme.toml:66: src-port: needs protocol = "tcp", "udp" or both, and no other"#,
        ]);
}

#[test]
fn a_rule_has_a_service_or_a_protocol_and_ports_of_its_own() {
    grouped()
        .edit(TENANT, "service = \"usual\"", "service = \"usual\"\nprotocol = \"tcp\"\ndst-port = 22")
        .has(&[
            "tenants/acme.toml:71: protocol: a rule with a service has no protocol and no ports of its own",
            "tenants/acme.toml:72: dst-port: a rule with a service has no protocol and no ports of its own",
        ]);
}

// ---- Rules -----------------------------------------------------------------------------------------------------------

#[test]
fn an_unknown_direction_is_told_the_known_ones() {
    Config::pop().edit(TENANT, "action = \"accept\"", "direction = \"up\"\naction = \"accept\"").has(&[
        r#"tenants/acme.toml:43: direction: unknown direction "up"; known are outbound, inbound, any"#,
    ]);
}

#[test]
fn whether_a_rule_logs_is_true_or_false() {
    Config::pop()
        .edit(TENANT, "action = \"accept\"", "log = \"yes\"\naction = \"accept\"")
        .has(&["tenants/acme.toml:43: log: expected true or false, found a string"]);
}

// ---- Breakout --------------------------------------------------------------------------------------------------------

#[test]
fn breakout_is_a_branchs_and_its_interface_and_device_are_not_the_lans() {
    let breakout = "[breakout]\ninterface = \"eth1\"\n";
    Config::pop()
        .append(BOX, breakout)
        .has(&[r#"popgate.toml:15: breakout: only for role "branch"; this box's role is "pop""#]);
    Config::branch()
        .append(BOX, breakout)
        .edit(TENANT, "prefer = [\"dsl\"]", "prefer = [\"breakout\"]")
        .has(&[]);
    let lan = "[lan]\ndevice = \"pg-in\"\ninterfaces = [\"eth1\"]\n";
    Config::branch().append(BOX, breakout).append(BOX, "device = \"pg-in\"\n").append(BOX, lan).has(&[
        r#"popgate.toml:17: interface: "eth1" is the LAN's"#,
        r#"popgate.toml:18: device: "pg-in" is the LAN's"#,
    ]);
}

#[test]
fn breakout_gives_out_no_port_that_the_box_listens_on() {
    Config::branch().append(BOX, "[breakout]\ninterface = \"eth1\"\nnat-ports = \"50000-60000\"\n").has(&[
        r#"popgate.toml:18: breakout: ports 50000-60000 cannot be given out: transport "dsl" listens at 51820; choose others with nat-ports"#,
    ]);
}

#[test]
fn breakout_is_measured_by_a_few_hosts_and_has_a_port_left_for_that() {
    let with =
        |more: &str| Config::branch().append(BOX, &format!("[breakout]\ninterface = \"eth1\"\n{more}\n"));
    with("probe-target = \"203.0.113.53\"").has(&[]);
    with("probe-target = [\"203.0.113.53\", \"203.0.113.54\"]").has(&[]);
    for (targets, message) in [
        ("\"2001:db8::53\"", "breakout is IPv4 alone"),
        ("\"224.0.0.1\"", "224.0.0.1 is no host's address"),
        ("[\"203.0.113.53\", \"203.0.113.53\"]", "203.0.113.53 stands here twice"),
        ("[\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\", \"192.0.2.4\", \"192.0.2.5\"]", "at most 4 targets"),
    ] {
        with(&format!("probe-target = {targets}"))
            .has(&[&format!("popgate.toml:18: probe-target: {message}")]);
    }
    with("nat-ports = \"60000-60000\"\nprobe-target = \"203.0.113.53\"")
        .has(&["popgate.toml:19: probe-target: nat-ports is one port, and probes take one for themselves"]);
}

#[test]
fn a_path_is_measured_by_a_host_of_its_branchs() {
    let with = |target: &str| {
        let keepalive = "persistent-keepalive = \"25s\"";
        Config::pop().edit(TENANT, keepalive, &format!("{keepalive}\nprobe-target = \"{target}\""))
    };
    with("10.20.0.1").has(&[]);
    with("2001:db8:20::1").has(&[]);
    with("10.21.0.1")
        .has(&[r#"tenants/acme.toml:13: probe-target: 10.21.0.1 is not in the prefixes of branch "paris""#]);
}

#[test]
fn no_path_is_called_like_the_way_out() {
    let message = "\"breakout\" is the way straight out of a branch; take another name";
    Config::branch()
        .edit(BOX, "[[pop.path]]\nname = \"dsl\"", "[[pop.path]]\nname = \"breakout\"")
        .has(&[&format!("popgate.toml:12: name: {message}")]);
    Config::pop()
        .edit(OTHER, "name = \"dsl\"", "name = \"breakout\"")
        .has(&[&format!("tenants/globex.toml:7: name: {message}")]);
}

// ---- Policy tests ----------------------------------------------------------------------------------------------------

const POLICY_TEST: &str = r#"[[policy-test]]
name = "web"
from = "10.20.0.5"
to = "203.0.113.80:443"
protocol = "tcp"
expect = "accept"
class = "default"
rule = "web-out"
handoff = "internet"
path = ["dsl"]
nat = "198.51.100.0/29"
"#;

fn tested() -> Config {
    Config::pop().append(TENANT, POLICY_TEST)
}

#[test]
fn what_a_client_calls_a_server_in_a_policy_test_is_a_host_name() {
    tested()
        .edit(TENANT, "path = [\"dsl\"]", "sni = \"https://example.com/\"")
        .has(&[r#"tenants/acme.toml:63: sni: "https://example.com/" is not a host name"#]);
}

#[test]
fn a_policy_test_names_what_there_is() {
    tested().has(&[]);
    tested()
        .edit(TENANT, "class = \"default\"", "class = \"vioce\"")
        .edit(TENANT, "rule = \"web-out\"", "rule = \"web\"")
        .edit(TENANT, "handoff = \"internet\"", "handoff = \"intrenet\"")
        .edit(TENANT, "path = [\"dsl\"]", "path = [\"dls\"]")
        .has(&[
            r#"tenants/acme.toml:60: class: unknown class "vioce"; did you mean "voice"?"#,
            r#"tenants/acme.toml:61: rule: unknown ACL rule "web"; known are web-out"#,
            r#"tenants/acme.toml:62: handoff: unknown handoff "intrenet"; did you mean "internet"?"#,
            r#"tenants/acme.toml:63: path: unknown path "dls"; did you mean "dsl"?"#,
        ]);
}

#[test]
fn a_policy_test_is_of_a_flow_that_could_come() {
    tested()
        .edit(TENANT, "to = \"203.0.113.80:443\"", "to = \"2001:db8::1\"")
        .has(&["tenants/acme.toml:57: to: 10.20.0.5 and 2001:db8::1 are of two families"]);
    tested().edit(TENANT, "\"10.20.0.5\"", "\"berlin\"").has(&[
        r#"tenants/acme.toml:56: from: "berlin" is not an address, or address:port as in "192.0.2.1:443" or "[2001:db8::1]:443""#,
    ]);
}

#[test]
fn a_policy_test_has_a_service_with_its_ports_or_a_protocol() {
    let group = "[[service-group]]\nname = \"web\"\nservices = [{ protocol = \"tcp\", dst-port = 443 }]\n";
    tested()
        .append(TENANT, group)
        .edit(TENANT, "80:443\"\nprotocol = \"tcp\"", "80\"\nservice = \"web\"")
        .has(&[]);
    tested()
        .append(TENANT, group)
        .edit(TENANT, "80:443\"\nprotocol = \"tcp\"", "80:443\"\nservice = \"web\"")
        .has(&["tenants/acme.toml:57: to: the ports are the service's"]);
    tested()
        .append(TENANT, group)
        .edit(TENANT, "80:443\"\nprotocol = \"tcp\"", "80\"\nservice = \"web\"\nprotocol = \"tcp\"")
        .has(&["tenants/acme.toml:59: protocol: a policy test has either a service or a protocol"]);
}

// ---- Canaries --------------------------------------------------------------------------------------------------------

const CANARY: &str = r#"[[canary]]
name = "erp"
from = "paris"
target = "203.0.113.80"
kind = "tcp"
port = 443
"#;

fn watched() -> Config {
    Config::pop().append(TENANT, CANARY)
}

#[test]
fn a_canary_is_asked_from_a_branch_by_a_ping_or_at_a_port() {
    watched().has(&[]);
    watched()
        .edit(TENANT, "from = \"paris\"\ntarget", "from = \"parsi\"\ntarget")
        .edit(TENANT, "port = 443\n", "")
        .has(&[
            r#"tenants/acme.toml:54: [[canary]] lacks port"#,
            r#"tenants/acme.toml:56: from: unknown branch "parsi"; did you mean "paris"?"#,
        ]);
    watched().edit(TENANT, "kind = \"tcp\"\n", "").has(&["tenants/acme.toml:58: port: a ping has no port"]);
    watched()
        .edit(TENANT, "kind = \"tcp\"", "kind = \"udp\"")
        .has(&[r#"tenants/acme.toml:58: kind: unknown kind "udp"; known are ping, tcp"#]);
    watched()
        .append(TENANT, CANARY)
        .has(&[r#"tenants/acme.toml:61: name: canary "erp" already exists (line 55)"#]);
}

#[test]
fn a_canarys_target_is_elsewhere_and_its_source_is_the_branchs() {
    watched()
        .edit(TENANT, "target = \"203.0.113.80\"", "target = \"10.20.0.5\"")
        .has(&[r#"tenants/acme.toml:57: target: 10.20.0.5 is in the prefixes of branch "paris" itself"#]);
    watched()
        .edit(TENANT, "kind = \"tcp\"", "source = \"10.21.0.1\"\nkind = \"tcp\"")
        .has(&[r#"tenants/acme.toml:58: source: 10.21.0.1 is not in the prefixes of branch "paris""#]);
    watched()
        .edit(TENANT, "kind = \"tcp\"", "source = \"2001:db8:20::1\"\nkind = \"tcp\"")
        .has(&["tenants/acme.toml:58: source: 2001:db8:20::1 and 203.0.113.80 are of two families"]);
    watched()
        .edit(
            TENANT,
            "from = \"paris\"\ntarget = \"203.0.113.80\"",
            "from = \"lyon\"\ntarget = \"2001:db8::80\"",
        )
        .has(&[r#"tenants/acme.toml:56: from: branch "lyon" has no prefix of the family of 2001:db8::80"#]);
}

#[test]
fn a_tenant_has_no_more_canaries_than_are_probed() {
    let many = (0..17).map(|n| CANARY.replace("erp", &format!("c{n}"))).collect::<String>();
    Config::pop().append(TENANT, &many).has(&["tenants/acme.toml:150: a tenant has at most 16 canaries"]);
}

// ---- Handoffs --------------------------------------------------------------------------------------------------------

#[test]
fn a_handoff_has_no_keys_of_the_other_kind() {
    Config::pop()
        .edit(OTHER, "kind = \"internet\"", "kind = \"internet\"\ninterface = \"eth3\"")
        .edit(TENANT, "kind = \"private\"", "kind = \"private\"\nnat-pool = [\"203.0.113.0/29\"]")
        .has(&[
            r#"tenants/acme.toml:27: nat-pool: only for kind "internet"; this handoff's kind is "private""#,
            r#"tenants/globex.toml:13: interface: only for kind "private"; this handoff's kind is "internet""#,
        ]);
}

#[test]
fn an_unknown_kind_is_told_the_known_ones() {
    Config::pop()
        .edit(TENANT, "kind = \"private\"", "kind = \"vlan\"")
        .has(&[r#"tenants/acme.toml:26: kind: unknown kind "vlan"; known are internet, private"#]);
}

#[test]
fn an_interfaces_address_is_a_host_in_its_network() {
    Config::pop().edit(TENANT, "10.200.0.1/24", "10.200.0.0/24").has(&[
        "tenants/acme.toml:28: address: 10.200.0.0/24 is the network itself; write the interface's own address in it",
    ]);
}

#[test]
fn a_next_hop_is_reached_over_the_interface() {
    Config::pop()
        .edit(TENANT, "= \"10.200.0.254\"", "= \"10.201.0.254\"")
        .has(&["tenants/acme.toml:30: routes: next hop 10.201.0.254 lies in no network of the interface's"]);
}

#[test]
fn a_next_hop_is_of_its_prefixs_family() {
    Config::pop().edit(TENANT, "= \"10.200.0.254\"", "= \"2001:db8::1\"").has(&[
        "tenants/acme.toml:30: routes: 10.200.8.0/21 cannot have the next hop 2001:db8::1: another family",
    ]);
}

// ---- Roles -----------------------------------------------------------------------------------------------------------

#[test]
fn a_pop_has_a_private_key() {
    Config::pop()
        .edit(BOX, "private-key-file = \"keys/fra1.key\"\n", "")
        .has(&["popgate.toml:1: missing: private-key-file"]);
}

#[test]
fn a_pop_has_no_keys_of_a_branch() {
    Config::pop().append(BOX, "[lan]\n[[pop]]\n").has(&[
        r#"popgate.toml:15: lan: only for role "branch"; this box's role is "pop""#,
        r#"popgate.toml:16: pop: only for role "branch"; this box's role is "pop""#,
    ]);
}

#[test]
fn a_branch_has_no_keys_of_a_pop() {
    Config::branch()
        .edit(
            BOX,
            "role = \"branch\"",
            "role = \"branch\"\nprivate-key-file = \"keys/dsl.key\"\ninternet-device = \"x\"",
        )
        .has(&[
            r#"popgate.toml:3: private-key-file: only for role "pop"; this box's role is "branch""#,
            r#"popgate.toml:4: internet-device: only for role "pop"; this box's role is "branch""#,
        ]);
}

#[test]
fn an_unknown_role_is_told_the_known_ones() {
    Config::pop()
        .edit(BOX, "role = \"pop\"", "role = \"hub\"")
        .has(&[r#"popgate.toml:2: role: unknown role "hub"; known are pop, branch"#]);
}

#[test]
fn a_branch_has_a_pop() {
    let (before, _) = BRANCH.split_once("[[pop]]").expect("a PoP");
    Config::branch().file(BOX, before).has(&["popgate.toml:1: missing: [[pop]]"]);
}

#[test]
fn a_pop_has_a_path_to_it() {
    let (before, _) = BRANCH.split_once("[[pop.path]]").expect("a path");
    Config::branch().file(BOX, before).has(&["popgate.toml:8: [[pop]] lacks [[pop.path]]"]);
}

#[test]
fn a_branch_box_has_a_tenant() {
    Config::branch()
        .without(TENANT)
        .has(&["popgate.toml:2: role: a branch box has exactly one tenants/NAME.toml; there is none"]);
}

#[test]
fn a_branch_box_has_no_second_tenant() {
    Config::branch()
        .file(OTHER, GLOBEX)
        .has(&["popgate.toml:2: role: a branch box has exactly one tenants/NAME.toml; there are 2"]);
}

#[test]
fn a_branch_box_is_one_of_its_tenants_branches() {
    Config::branch().edit(BOX, "site = \"paris\"", "site = \"pairs\"").has(&[
        r#"popgate.toml:1: site: tenants/acme.toml has no such branch: unknown branch "pairs"; did you mean "paris"?"#,
    ]);
}

// ---- The box's own interfaces, and its LAN ---------------------------------------------------------------------------

const INTERFACES: &str = "[[interface]]\nname = \"eth0\"\naddress = [\"10.20.0.1/24\"]\n\
    [[interface]]\nname = \"eth1\"\naddress = \"dhcp\"\n";

#[test]
fn an_interface_of_the_boxs_own_is_there_once_and_so_is_an_address() {
    let more = |more: &str| Config::branch().append(BOX, &format!("{INTERFACES}{more}"));
    more("").has(&[]);
    more("[[interface]]\nname = \"eth1\"\naddress = \"ra\"\n")
        .has(&[r#"popgate.toml:23: name: interface "eth1" stands here twice"#]);
    more("[[interface]]\nname = \"eth2\"\naddress = \"10.20.0.1/16\"\n").has(&[
        r#"popgate.toml:24: interface "eth2": 10.20.0.1 already belongs to interface "eth0" (line 18)"#,
    ]);
    let vlan =
        |keys: &str| more(&format!("[[interface]]\nname = \"mpls\"\n{keys}address = \"10.255.1.2/30\"\n"));
    vlan("of = \"eth2\"\nvlan = 30\n").has(&[]);
    vlan("of = \"eth2\"\n").has(&["popgate.toml:22: of: vlan says which"]);
    vlan("vlan = 30\n").has(&["popgate.toml:22: vlan: of says which interface's"]);
    Config::pop().append(BOX, "[[interface]]\nname = \"eth2\"\naddress = \"dhcp\"\n").has(&[
        r#"tenants/acme.toml:27: tenant "acme" handoff "dc": interface "eth2" already belongs to the box (popgate.toml:16)"#,
    ]);
}

#[test]
fn a_gateway_is_one_of_each_family_and_on_the_interfaces_network() {
    let gateway = |gateway: &str| {
        Config::branch().append(
            BOX,
            &format!("[[interface]]\nname = \"eth1\"\naddress = [\"192.0.2.2/24\", \"2001:db8::2/64\"]\ngateway = {gateway}\n"),
        )
    };
    gateway("[\"192.0.2.1\", \"2001:db8::1\"]").has(&[]);
    gateway("\"fe80::1\"").has(&[]);
    gateway("\"198.51.100.1\"")
        .has(&["popgate.toml:19: gateway: 198.51.100.1 lies in no network of the interface's"]);
    gateway("[\"192.0.2.1\", \"192.0.2.3\"]")
        .has(&["popgate.toml:19: gateway: one gateway of each family is enough"]);
}

#[test]
fn what_a_lans_hosts_are_given_is_on_its_network() {
    let lan = |lan: &str| {
        Config::branch().append(BOX, &format!("{INTERFACES}[lan]\ninterfaces = [\"eth0\"]\n{lan}"))
    };
    let pool = |range: &str, host: &str| lan(&format!("[[lan.dhcp]]\nrange = \"{range}\"\n{host}"));
    let host = |mac: &str, address: &str| {
        format!("[[lan.dhcp.host]]\nname = \"printer\"\nmac = \"{mac}\"\naddress = \"{address}\"\n")
    };
    pool("10.20.0.100-10.20.0.199", &host("52:54:00:12:34:56", "10.20.0.20")).has(&[]);
    pool("10.21.0.100-10.21.0.199", "").has(&[
        "popgate.toml:25: range: 10.21.0.100-10.21.0.199 lies in no network of an [[interface]] of the LAN's",
    ]);
    pool("10.20.0.1-10.20.0.9", "").has(&["popgate.toml:25: range: 10.20.0.1 in it is the box's own"]);
    pool("10.20.0.9-10.20.0.2", "")
        .has(&[r#"popgate.toml:25: range: "10.20.0.9-10.20.0.2" ends before it begins"#]);
    pool("10.20.0.9", "").has(&[
        r#"popgate.toml:25: range: "10.20.0.9" is no range of addresses, as in "10.1.0.100-10.1.0.199""#,
    ]);
    pool("10.20.0.100-10.20.0.199", &host("53:54:00:12:34:56", "10.20.1.20")).has(&[
        r#"popgate.toml:28: mac: "53:54:00:12:34:56" is no host's Ethernet address, as in "52:54:00:12:34:56""#,
        "popgate.toml:29: address: 10.20.1.20 is no host's in 10.20.0.0/24",
    ]);
    let twice = host("52:54:00:12:34:56", "10.20.0.20").repeat(2);
    pool("10.20.0.100-10.20.0.199", &twice).has(&[
        r#"popgate.toml:31: name: host "printer" already exists (line 27)"#,
        r#"popgate.toml:32: a host: this address already belongs to host "printer" (line 28)"#,
        r#"popgate.toml:33: a host: 10.20.0.20 already belongs to host "printer" (line 29)"#,
    ]);
    pool("10.20.0.100-10.20.0.199", "lease = \"1m\"\ndomain = \"a,b\"\ndns = \"2001:db8::1\"\n").has(&[
        r#"popgate.toml:26: lease: "1m" is out of range; 2m to 365d"#,
        r#"popgate.toml:27: domain: "a,b" is no domain, as in "berlin.example""#,
        "popgate.toml:28: dns: 2001:db8::1 is IPv6, and this is about IPv4",
    ]);
    lan("advertise = true\n").has(&[
        "popgate.toml:24: advertise: no [[interface]] of the LAN has an IPv6 address in a network of /64 to be advertised",
    ]);
    let dns = |upstream: &str| lan(&format!("[lan.dns]\nupstream = {upstream}\n"));
    dns("[\"10.200.0.53\"]").has(&[]);
    dns("\"10.20.0.1\"").has(&["popgate.toml:25: upstream: 10.20.0.1 is the box itself"]);
    dns("\"2001:db8::53\"").has(&[
        "popgate.toml:25: upstream: no [[interface]] of the LAN has an address to ask 2001:db8::53 from",
    ]);
    lan("[lan.dns]\nupstream = \"10.200.0.53\"\ndomains = { \"..\" = \"10.200.0.54\" }\n")
        .has(&[r#"popgate.toml:26: domains: ".." is no domain, as in "berlin.example""#]);
}
