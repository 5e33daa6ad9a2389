//! The command line, as it is typed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn popgate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_popgate"))
}

/// What `command` makes of `input`.
fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command; `wg` is in Debian's wireguard-tools");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    child.wait_with_output().expect("its output")
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn wg(verb: &str) -> Command {
    let mut command = Command::new("wg");
    command.arg(verb);
    command
}

#[test]
fn keys_made_here_are_wireguards() {
    let (first, second) = (text(run(popgate().arg("genkey"), "")), text(run(popgate().arg("genkey"), "")));
    assert_ne!(first, second);
    for private in [first, second] {
        assert_eq!(text(run(popgate().arg("pubkey"), &private)), text(run(&mut wg("pubkey"), &private)));
    }
}

#[test]
fn wireguards_keys_have_the_same_public_half_here() {
    // A preshared key is 32 random bytes that nobody has clamped.
    for verb in ["genkey", "genpsk", "genpsk", "genpsk"] {
        let private = text(run(&mut wg(verb), ""));
        assert_eq!(text(run(popgate().arg("pubkey"), &private)), text(run(&mut wg("pubkey"), &private)));
    }
}

#[test]
fn what_is_no_key_has_no_public_half() {
    for wrong in ["", "secret\n", &"A".repeat(5000)] {
        let output = run(popgate().arg("pubkey"), wrong);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "popgate: not a key of 32 bytes in base64\n");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_key_written_where_others_can_read_it_is_warned_of() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("key");
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        let file = File::create(&path).expect("the key's file");
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("its mode");
        let output = popgate().arg("genkey").stdout(file).output().expect("popgate runs");
        assert!(output.status.success());
        assert_eq!(!output.stderr.is_empty(), warned, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A branch of acme's in `dir`, its key made by popgate as the comments of the examples say.
fn branch(dir: &Path) -> PathBuf {
    fs::create_dir(dir.join("tenants")).expect("tenants/");
    let private = text(run(popgate().arg("genkey"), ""));
    let public = text(run(popgate().arg("pubkey"), &private));
    let key = Command::new("sh")
        .args(["-c", "umask 077; \"$0\" genkey > dsl.key", env!("CARGO_BIN_EXE_popgate")])
        .current_dir(dir)
        .status();
    assert!(key.expect("sh runs").success());
    fs::write(
        dir.join("popgate.toml"),
        format!(
            r#"site = "paris"
role = "branch"
transport = [{{ name = "dsl", listen = "0.0.0.0:51820" }}]
[[pop]]
name = "fra1"
public-key = "{}"
[[pop.path]]
name = "dsl"
transport = "dsl"
endpoint = "192.0.2.1:51820"
private-key-file = "dsl.key"
"#,
            public.trim()
        ),
    )
    .expect("popgate.toml");
    let tenant = dir.join("tenants/acme.toml");
    fs::write(&tenant, "tenant = \"acme\"\n[[branch]]\nname = \"paris\"\nprefixes = [\"10.0.0.0/8\"]\n")
        .expect("acme.toml");
    tenant
}

#[test]
fn check_says_what_a_whole_configuration_holds() {
    let dir = TempDir::new().expect("a temporary directory");
    branch(dir.path());
    let output = run(popgate().arg("check").arg(dir.path()), "");
    assert_eq!(text(output), "ok: branch paris of acme, 1 pop, 1 path, 0 rules\n");
}

#[test]
fn check_prints_every_problem_and_fails() {
    let dir = TempDir::new().expect("a temporary directory");
    let tenant = branch(dir.path());
    fs::write(
        tenant,
        "tenant = \"acme\"\n[[branch]]\nname = \"paris\"\nprefixes = [\"10.0.0.1/8\"]\npaht = 1\n",
    )
    .expect("acme.toml");
    let output = run(popgate().arg("check").arg(dir.path()), "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "tenants/acme.toml:4: prefixes: 10.0.0.1/8 has host bits set; did you mean 10.0.0.0/8?\n\
         tenants/acme.toml:5: unknown [[branch]] key \"paht\"; did you mean \"path\"?\n"
    );
}

#[test]
fn apps_lists_the_catalog_and_tells_of_one_app_what_it_is_known_by() {
    let list = text(run(popgate().arg("apps"), ""));
    let row = list.lines().find(|line| line.starts_with("zoom-phone ")).expect("zoom-phone");
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        words,
        ["zoom-phone", "voice", "1", "domain,", "7", "prefixes,", "3", "ports", "Zoom", "Phone"]
    );
    let one = text(run(popgate().args(["apps", "ntp"]), ""));
    assert!(one.starts_with("ntp: NTP\nclass:     control\nsource:    RFC 5905"), "{one}");
    assert!(one.ends_with("ports:     udp/123\n           tcp/4460\n"), "{one}");
    let unknown = run(popgate().args(["apps", "zoon"]), "");
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&unknown.stderr),
        "popgate: there is no app \"zoon\" in the catalog\n"
    );
}
/// A tenant's file of the branch's, with rules and whatever `more` is, which begins at line 26.
fn ruled(tenant: &Path, more: &str) {
    let text = r#"tenant = "acme"
[[branch]]
name = "paris"
prefixes = ["10.0.0.0/8"]
[[handoff]]
name = "internet"
kind = "internet"
[[app-class]]
name = "voice"
match = [{ dscp = "ef" }]
[[acl]]
name = "no-telnet"
protocol = "tcp"
dst-port = 23
action = "reject"
[[acl]]
name = "out"
from = ["branch:paris"]
action = "accept"
[[acl]]
name = "web"
from = ["10.1.0.0/16"]
protocol = "tcp"
dst-port = [80, 443]
action = "drop"
"#;
    fs::write(tenant, format!("{text}{more}")).expect("acme.toml");
}

#[test]
fn check_warns_of_a_rule_that_never_decides_and_is_content() {
    let dir = TempDir::new().expect("a temporary directory");
    ruled(&branch(dir.path()), "");
    let output = run(popgate().arg("check").arg(dir.path()), "");
    assert_eq!(
        text(output),
        "tenants/acme.toml:20: ACL rule \"web\" never decides: rule \"out\" (line 16) takes everything it could match\n\
         ok: branch paris of acme, 1 pop, 1 path, 3 rules\n"
    );
}

#[test]
fn check_runs_policy_tests_and_tells_what_came_out_instead() {
    let dir = TempDir::new().expect("a temporary directory");
    let tenant = branch(dir.path());
    let tests = r#"[[policy-test]]
name = "web-is-closed"
from = "10.1.0.5"
to = "93.184.216.34:443"
protocol = "tcp"
expect = "drop"
[[policy-test]]
name = "calls"
from = "10.1.0.5"
to = "93.184.216.34:5060"
protocol = "udp"
dscp = "ef"
expect = "accept"
class = "default"
[[policy-test]]
name = "telnet"
from = "10.1.0.5"
to = "93.184.216.34:23"
protocol = "tcp"
expect = "reject"
rule = "no-telnet"
handoff = "internet"
"#;
    ruled(&tenant, tests);
    let output = run(popgate().arg("check").arg(dir.path()), "");
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = shown.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "tenants/acme.toml:26: policy test \"web-is-closed\": expected drop, and it is accepted by ACL rule \"out\" (line 16)",
            "tenants/acme.toml:32: policy test \"calls\": expected class \"default\", and it is \"voice\"; it is accepted by ACL rule \"out\" (line 16)",
        ]
    );
}

#[test]
fn explain_tells_each_step_with_the_line_it_is_written_at() {
    let dir = TempDir::new().expect("a temporary directory");
    ruled(&branch(dir.path()), "");
    let explain = |more: &[&str]| {
        let mut command = popgate();
        command.args([
            "explain",
            "--tenant",
            "acme",
            "--from",
            "10.1.0.5",
            "--to",
            "93.184.216.34:443",
            "--candidate",
        ]);
        run(command.arg(dir.path()).args(["--token-file", "/nowhere"]).args(more), "")
    };
    assert_eq!(
        text(explain(&["--dscp", "ef"])),
        "STEP         WRITTEN               WHAT\n\
         source       tenants/acme.toml:4   10.1.0.5 belongs to lan, as part of 10.0.0.0/8\n\
         destination  tenants/acme.toml:5   93.184.216.34 belongs to handoff:internet, as part of 0.0.0.0/0\n\
         class        tenants/acme.toml:8   class voice: the first whose match fits\n\
         rule         tenants/acme.toml:11  no-telnet does not fit: tcp 49152 to 443\n\
         rule         tenants/acme.toml:16  out fits: accept\n\
         nat          -                     not translated\n\
         path         -                     the first that is up is taken\n\
         path         -                     fra1/dsl: not known here\n\
         accept\n"
    );
    let json: serde_json::Value = serde_json::from_str(&text(explain(&["--json"]))).expect("JSON");
    assert_eq!(
        (json["outcome"].as_str(), json["rule"].as_str(), json["class"].as_str()),
        (Some("accept"), Some("out"), Some("default"))
    );
    let output = explain(&["--proto", "sctp"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not tcp, udp, icmp, icmpv6 or a number"));
}

#[test]
fn who_has_computes_whose_a_port_is_from_the_configuration_alone() {
    let dir = TempDir::new().expect("a temporary directory");
    branch(dir.path());
    fs::write(
        dir.path().join("popgate.toml"),
        r#"site = "fra1"
role = "pop"
private-key-file = "dsl.key"
transport = [{ name = "isp-a", listen = "192.0.2.1:51820" }]
"#,
    )
    .expect("popgate.toml");
    fs::write(
        dir.path().join("tenants/acme.toml"),
        r#"tenant = "acme"
branch = [{ name = "paris", prefixes = ["10.1.0.0/16"] }, { name = "lyon", prefixes = ["10.2.0.0/16"] }]
[[handoff]]
name = "internet"
kind = "internet"
nat-pool = ["198.51.100.0/31"]
nat-blocks = { size = 512, per-branch = 100, deterministic = true }
"#,
    )
    .expect("acme.toml");
    let who_has = |outside: &str| run(popgate().args(["who-has", outside]).arg(dir.path()), "");
    assert_eq!(text(who_has("198.51.100.0:1024")), "acme/paris\n");
    assert_eq!(text(who_has("198.51.100.1:52223")), "acme/lyon\n");
    let output = who_has("198.51.100.1:52224");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("popgate: 198.51.100.1:52224 is in no branch's")
    );
}

#[test]
fn a_journal_that_is_none_is_told_with_its_line_and_an_empty_one_moves_nobody() {
    let dir = TempDir::new().expect("a temporary directory");
    branch(dir.path());
    let journal = dir.path().join("journal");
    let replay = || run(popgate().arg("replay").arg(&journal).arg("--policy").arg(dir.path()), "");
    fs::write(&journal, "").expect("written");
    assert_eq!(text(replay()), "no class has moved\n");
    let answer = r#"{"unix-nanos":1,"monotonic-nanos":1,"tenant":"acme","site":"nowhere","path":"dsl","what":"recovered"}"#;
    fs::write(&journal, format!("{answer}\n")).expect("written");
    let output = replay();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("popgate: 1 measurements are of paths that "), "{said}");
    assert_eq!(text(output), "no class has moved\n");
    fs::write(&journal, format!("{answer}\nrubbish\n")).expect("written");
    let output = replay();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/journal:2: "), "{output:?}");
}
