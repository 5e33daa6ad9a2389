//! What an operator does with a whole box on its own command line: examine it, keep it and put it back, show it to somebody who is
//! to help.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const SECRETS: [&str; 3] = ["keys/fra1.key", "keys/acme-berlin-dsl.psk", "tls/pop.key"];
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A PoP that has been used: a configuration with keys, and state.
struct Box {
    dir: TempDir,
}

impl Box {
    fn new() -> Box {
        let made = Box { dir: tempfile::tempdir().expect("a directory") };
        for dir in
            ["config/keys", "config/tls", "config/tenants", "state/revisions", "state/flows/tenant=acme"]
        {
            fs::create_dir_all(made.at(dir)).expect("made");
        }
        let config = format!(
            "site = \"fra1\"\nrole = \"pop\"\nstate-dir = \"{}\"\nprivate-key-file = \"keys/fra1.key\"\n\
             [[transport]]\nname = \"isp\"\nlisten = \"127.0.0.1:51820\"\ninterface = \"lo\"\n",
            made.at("state").display()
        );
        made.write("config/popgate.toml", &config);
        made.write("config/keys/fra1.key", &text(&popgate().arg("genkey").output().expect("runs")));
        made.write(
            "config/keys/acme-berlin-dsl.psk",
            &text(&popgate().arg("genkey").output().expect("runs")),
        );
        made.write("config/tls/pop.key", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHdoYXRldmVy\n");
        made.write("state/admin-token", &format!("{TOKEN}\n"));
        made.write("state/setup-secret", "of-another-time 1\n");
        made.write("state/revisions/1.json", "{}");
        made.write("state/flows/tenant=acme/x.parquet", "what the box has seen");
        let users = rusqlite::Connection::open(made.at("state/users.db")).expect("opens");
        users
            .execute_batch("CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('olga')")
            .expect("made");
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("written");
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o600)).expect("set");
    }

    /// A command about it.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = popgate();
        command.args(arguments).args(["--dir", &self.at("config").display().to_string()]);
        command.output().expect("runs")
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", error(&output));
        text(&output)
    }
}

fn popgate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_popgate"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An identity of age's in a file, and its recipient.
fn identity(dir: &Path) -> (PathBuf, String) {
    let file = dir.join("identity");
    let made = Command::new("age-keygen").arg("--output").arg(&file).output();
    let made = made.expect("age-keygen runs: it is in Debian's package age");
    let recipient = error(&made).trim().rsplit(' ').next().expect("a word").to_owned();
    (file, recipient)
}

#[test]
fn what_the_operator_made_comes_back_from_a_backup_and_what_was_there_goes_aside() {
    let made = Box::new();
    let (identity, recipient) = identity(made.dir.path());
    let backup = made.at("box.age").display().to_string();
    made.must(&["backup", &backup, "--recipient", &recipient]);
    let bytes = fs::read(made.at("box.age")).expect("there");
    assert!(bytes.starts_with(b"age-encryption.org/v1"));
    assert_eq!(fs::metadata(made.at("box.age")).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(error(&made.run(&["backup", &backup, "--recipient", &recipient])).contains("is there already"));

    // On another box, which has things of its own.
    let other = Box::new();
    let (before, wanted) = (other.read("config/keys/fra1.key"), made.read("config/keys/fra1.key"));
    assert_ne!(before, wanted);
    let state = other.at("state").display().to_string();
    let restore =
        ["restore", &*backup, "--identity", &identity.display().to_string(), "--state-dir", &*state];
    let said = other.must(&restore);
    assert_eq!(other.read("config/keys/fra1.key"), wanted);
    assert_eq!(other.read("state/revisions/1.json"), "{}");
    let users = rusqlite::Connection::open(other.at("state/users.db")).expect("opens");
    let name: String = users.query_row("SELECT name FROM users", [], |row| row.get(0)).expect("a user");
    assert_eq!(name, "olga");
    // What the box has seen is its own, and a link of another time lets nobody in.
    assert_eq!(other.read("state/flows/tenant=acme/x.parquet"), "what the box has seen");
    let aside = said.split_whitespace().find(|word| word.contains("before-restore-")).expect("said");
    assert_eq!(fs::read_to_string(format!("{aside}/config/keys/fra1.key")).expect("aside"), before);
    let listed = fs::read_dir(other.at("state")).expect("there").flatten();
    assert!(listed.into_iter().all(|it| !it.file_name().to_string_lossy().starts_with(".stage")));
}

#[test]
fn what_is_no_backup_or_is_not_for_whoever_asks_touches_nothing() {
    let made = Box::new();
    let (mine, recipient) = identity(made.dir.path());
    let others = tempfile::tempdir().expect("a directory");
    let (foreign, _) = identity(others.path());
    let backup = made.at("box.age").display().to_string();
    made.must(&["backup", &backup, "--recipient", &recipient]);
    let before = made.read("config/keys/fra1.key");
    let restore = |file: &str, identity: &Path| {
        made.run(&["restore", file, "--identity", &identity.display().to_string()])
    };
    let told = error(&restore(&backup, &foreign));
    assert!(told.contains("age failed"), "{told}");
    let mut bytes = fs::read(&backup).expect("there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(made.at("altered.age"), &bytes).expect("written");
    assert!(!restore(&made.at("altered.age").display().to_string(), &mine).status.success());
    bytes.truncate(last / 2);
    fs::write(made.at("cut.age"), &bytes).expect("written");
    assert!(!restore(&made.at("cut.age").display().to_string(), &mine).status.success());
    // Something else that the same key opens.
    let foreign = made.at("foreign.age");
    let line = format!(
        "tar --create --directory {} config | age --recipient {recipient} > {}",
        made.dir.path().display(),
        foreign.display()
    );
    assert!(Command::new("sh").args(["-c", &line]).status().expect("sh runs").success());
    let told = error(&restore(&foreign.display().to_string(), &mine));
    assert!(told.contains("this is no backup"), "{told}");
    assert_eq!(made.read("config/keys/fra1.key"), before);
}

#[test]
fn a_support_bundle_holds_no_secret_and_is_enough_to_help() {
    let made = Box::new();
    // Even where somebody has written one into the policy.
    let policy = made.read("config/popgate.toml") + &format!("# the token is {TOKEN}\n");
    made.write("config/popgate.toml", &policy);
    let file = made.at("bundle.tar.gz").display().to_string();
    made.must(&["support-bundle", &file]);
    let inside = made.at("inside");
    fs::create_dir(&inside).expect("made");
    let unpacked = Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(&inside)
        .status();
    assert!(unpacked.expect("tar runs").success());
    let mut all = String::new();
    let mut names = Vec::new();
    let mut dirs = vec![inside.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("listed").flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                names.push(entry.path().strip_prefix(&inside).expect("inside").display().to_string());
                all += &String::from_utf8_lossy(&fs::read(entry.path()).expect("readable"));
            }
        }
    }
    for expected in
        ["doctor", "config/popgate.toml", "popgate/status.json", "system/log", "network/addresses"]
    {
        assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
    }
    assert!(all.contains("site = \"fra1\"") && all.contains("# the token is [secret]"));
    for secret in SECRETS.map(|name| made.read(&format!("config/{name}"))).iter().chain([&TOKEN.to_owned()]) {
        let word = secret.trim().lines().last().expect("a line");
        assert!(!all.contains(word), "{word}");
    }
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let made = Box::new();
    let policy = made.read("config/popgate.toml");
    made.write("config/popgate.toml", &policy.replace("\"lo\"", "\"none-such\""));
    let output = made.run(&["doctor"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let told = text(&output);
    assert!(told.contains("BAD      interface    there is no none-such"), "{told}");
    assert!(told.contains("-> name one that is there"), "{told}");
    fs::set_permissions(made.at("config/keys/fra1.key"), fs::Permissions::from_mode(0o644)).expect("set");
    let told = text(&made.run(&["doctor"]));
    assert!(told.contains("BAD      config") && told.contains("others"), "{told}");
}

#[test]
fn a_fresh_box_is_set_up_from_a_folder_and_one_that_is_not_is_left_alone() {
    let (made, fresh) = (Box::new(), tempfile::tempdir().expect("a directory"));
    // As a stick has it: everything for everybody.
    let stick = made.at("config");
    let readable = Command::new("chmod").args(["--recursive", "a+rX"]).arg(&stick).status();
    assert!(readable.expect("chmod runs").success());
    let dir = fresh.path().join("popgate").display().to_string();
    let setup = |from: &Path, more: &[&str]| {
        let from = from.display().to_string();
        let state = fresh.path().join("state").display().to_string();
        let setup = ["setup", "--from", &*from, "--dir", &*dir, "--state-dir", &*state];
        let output = popgate().args(setup).args(more).output();
        output.expect("runs")
    };
    let mode = |name: &str| {
        let file = fs::metadata(Path::new(&dir).join(name)).expect("there");
        file.permissions().mode() & 0o777
    };
    let done = setup(&stick, &[]);
    assert!(text(&done).contains("set up: pop fra1"), "{}", error(&done));
    assert_eq!((mode("."), mode("keys/fra1.key"), mode("tenants")), (0o700, 0o600, 0o700));
    assert!(error(&setup(&stick, &[])).contains("there is a configuration already"));
    assert!(!fresh.path().join("state").exists(), "nothing was there to go aside");
    assert!(text(&setup(&stick, &["--force"])).contains("set up: pop fra1"));
    // A key that another took the place of is not lost.
    let aside = fs::read_dir(fresh.path().join("state")).expect("there").flatten().next().expect("aside");
    let before = fs::read_to_string(aside.path().join("keys/fra1.key")).expect("there");
    assert_eq!(before, made.read("config/keys/fra1.key"));

    // What does not read takes nothing's place.
    fs::write(stick.join("popgate.toml"), "site = \"fra2\"\n").expect("written");
    assert!(error(&setup(&stick, &["--force"])).contains("does not read"));
    let kept = fs::read_to_string(Path::new(&dir).join("popgate.toml")).expect("there");
    assert!(kept.contains("site = \"fra1\""));
    assert!(error(&setup(fresh.path(), &["--force"])).contains("neither popgate.toml nor enrol-code"));
    // As cloud-init's data has it.
    let data = tempfile::tempdir().expect("a directory");
    let key = made.read("config/keys/fra1.key");
    let user_data = format!(
        "#cloud-config\npopgate:\n  files:\n    popgate.toml: |\n      {}\n    keys/fra1.key: {key}\n",
        kept.trim_end().replace('\n', "\n      ")
    );
    fs::write(data.path().join("user-data"), &user_data).expect("written");
    let done = setup(data.path(), &["--force"]);
    assert!(text(&done).contains("set up: pop fra1"), "{}", error(&done));
    assert_eq!(mode("keys/fra1.key"), 0o600);
    fs::write(data.path().join("user-data"), user_data + &"# long\n".repeat(200_000)).expect("written");
    assert!(error(&setup(data.path(), &["--force"])).contains("larger than 1 MiB"));

    // Nor does a code with a wrong letter.
    fs::write(fresh.path().join("enrol-code"), "PG1-ABC\n").expect("written");
    let told = error(&setup(fresh.path(), &["--force"]));
    assert!(told.contains("a letter of the code is wrong"), "{told}");
    assert!(Path::new(&dir).join("popgate.toml").exists());
}

/// Typed into `popgate setup`, for a box that is not there yet.
fn typed(fresh: &Path, lines: &str) -> Output {
    let at = |name: &str| fresh.join(name).display().to_string();
    let mut command = popgate();
    command.args(["setup", "--dir", &at("config"), "--state-dir", &at("state")]);
    let mut setup =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    // It may have left before it has read all of them.
    let _ = setup.stdin.take().expect("piped").write_all(lines.as_bytes());
    setup.wait_with_output().expect("ours")
}

#[test]
fn a_pop_is_set_up_by_keys_alone_and_checks() {
    let fresh = tempfile::tempdir().expect("a directory");
    // Whoever leaves before the end leaves nothing.
    let left = typed(fresh.path(), "pop\nfra1\n\n\n\n\n");
    assert!(!left.status.success() && text(&left).contains("Nothing was written"), "{}", text(&left));
    assert_eq!(fs::read_dir(fresh.path()).expect("there").count(), 0);

    let done = typed(fresh.path(), "pop\nFra1\nfra1\nlo0\n\nkeep\n\n127.0.0.1:4443\nyes\n");
    assert!(done.status.success(), "{}{}", text(&done), error(&done));
    assert!(
        text(&done).contains("bad name \"Fra1\"") && text(&done).contains("there is no lo0"),
        "{}",
        text(&done)
    );
    let config = fresh.path().join("config");
    let checked = popgate().arg("check").arg(&config).output().expect("runs");
    assert!(text(&checked).contains("ok: pop fra1"), "{}", text(&checked));
    let key = fs::read_to_string(config.join("keys/fra1.key")).expect("there");
    assert!(!text(&done).contains(key.trim()));
    assert_eq!(fs::read_dir(&config).expect("there").flatten().count(), 3, "nothing is left of the stage");
    let again = typed(fresh.path(), "pop\n");
    assert!(error(&again).contains("there is a configuration already"), "{}", error(&again));

    // What its console then shows.
    let screen = popgate().args(["screen", "--once", "--dir"]).arg(&config).output().expect("runs");
    assert!(text(&screen).contains("popgate does not answer"), "{}{}", text(&screen), error(&screen));
    let nothing = fresh.path().join("nothing");
    let screen = popgate().args(["screen", "--once", "--dir"]).arg(&nothing).output().expect("runs");
    assert!(text(&screen).contains("not set up yet"), "{}{}", text(&screen), error(&screen));
}
