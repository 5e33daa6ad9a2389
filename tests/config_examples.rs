//! Every configuration under `config` is whole, and no bytes at all make the reader panic.

use popgate::config::{self, PrivateKey, Problems};
use popgate::lab::{self, Topology};
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples")
}

/// A copy of the example `name` with the keys its files name.
fn copy_with_keys(name: &str) -> TempDir {
    let copy = TempDir::new().expect("a temporary directory");
    let mut seed = 0;
    let tenants = examples().join(name).join("tenants");
    fs::create_dir(copy.path().join("tenants")).expect("tenants/");
    let files = fs::read_dir(tenants)
        .expect("the example's tenants")
        .map(|entry| Path::new("tenants").join(entry.expect("a directory entry").file_name()));
    for file in files.chain([PathBuf::from("popgate.toml")]) {
        let text = fs::read_to_string(examples().join(name).join(&file)).expect("the example");
        fs::write(copy.path().join(&file), &text).expect("the copy");
        for line in text.lines().filter(|line| !line.starts_with('#') && line.contains("-key-file = ")) {
            let key = line.split('"').nth(1).expect("a file name in quotes");
            seed += 1;
            write_key(&copy.path().join(key), seed);
        }
        for line in text.lines().filter(|line| line.starts_with("ca-file = ")) {
            let path = copy.path().join(line.split('"').nth(1).expect("a file name in quotes"));
            fs::create_dir_all(path.parent().expect("a directory")).expect("tls/");
            fs::write(path, AUTHORITY).expect("the certificate's file");
        }
    }
    copy
}

const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBbzCCARWgAwIBAgIUE5yidCAfarUiTXT6bHEU+cjASewwCgYIKoZIzj0EAwIw\n\
DDEKMAgGA1UEAwwBYTAgFw0yNjExMjgwODQwMTZaGA8yMTI2MTEwNDA4NDAxNlow\n\
DDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMKCF8o/Y8wV\n\
sRt1LxhNC2iaXIB+5ULGFk2GNb7lS5RgJ286eXbNtzaqgS0k4Pdoq89C/9MV2HmX\n\
wXG+hMFElXyjUzBRMB0GA1UdDgQWBBT1+D/7r1A4Y6ZJrJ6grKYX8cBBCDAfBgNV\n\
HSMEGDAWgBT1+D/7r1A4Y6ZJrJ6grKYX8cBBCDAPBgNVHRMBAf8EBTADAQH/MAoG\n\
CCqGSM49BAMCA0gAMEUCIQCdkVVrDRjhlpMHgTHn3wqxmnf6fIASoIaPI/qp71ZE\n\
vAIgQm3bu/lkQeqIsbBOr+K3eNVJY17CqcuG9y/A9aiXx1U=\n\
-----END CERTIFICATE-----";

fn write_key(path: &Path, seed: u8) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("keys/");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .expect("the key's file");
    writeln!(file, "{}", PrivateKey::from_random([seed; 32]).to_base64()).expect("written");
}

#[test]
fn every_example_is_whole() {
    let mut names = Vec::new();
    for entry in fs::read_dir(examples()).expect("config/examples") {
        let name = entry.expect("a directory entry").file_name().into_string().expect("UTF-8");
        match popgate::run::check(copy_with_keys(&name).path()) {
            Ok(checked) => assert_eq!((checked.warnings, checked.failed), (vec![], vec![]), "{name}"),
            Err(problems) => panic!("config/examples/{name}:\n{problems}"),
        }
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["branch", "pop"]);
}

#[test]
fn the_examples_say_what_they_seem_to() {
    let pop = config::load(copy_with_keys("pop").path()).expect("whole");
    assert_eq!(pop.summary(), "pop fra1, 2 tenants, 3 branches, 4 paths, 13 rules");
    let branch = config::load(copy_with_keys("branch").path()).expect("whole");
    assert_eq!(branch.summary(), "branch berlin of acme, 1 pop, 2 paths, 11 rules");
}

/// The defaults named in the examples' comments are the ones that hold.
#[test]
fn a_pop_without_its_default_lines_is_the_same_pop() {
    let whole = copy_with_keys("pop");
    let short = copy_with_keys("pop");
    for file in ["popgate.toml", "tenants/acme.toml"] {
        let path = short.path().join(file);
        let text = fs::read_to_string(&path).expect("the copy");
        let lines = text.lines().map(|line| {
            if line.contains("# default;")
                || line.ends_with("# default")
                || line.contains("# default for")
                || line.starts_with("icmp-source")
            {
                ""
            } else {
                line
            }
        });
        fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("the shortened copy");
    }
    let [whole, short] = [whole, short].map(|dir| config::load(dir.path()).expect("whole"));
    assert_eq!(format!("{whole:#?}"), format!("{short:#?}"));
}

#[test]
fn the_tenants_file_is_the_same_on_both_boxes() {
    let [pop, branch] = ["pop", "branch"]
        .map(|name| fs::read_to_string(examples().join(name).join("tenants/acme.toml")).expect("acme.toml"));
    assert_eq!(pop, branch);
}

/// Whatever was read, problems are there to be mended: at least one, each in a line that exists.
fn assert_useful(dir: &Path, problems: &Problems) {
    assert!(problems.iter().count() > 0);
    for problem in problems.iter() {
        let lines = fs::read(dir.join(&*problem.at.file))
            .map_or(1, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count() + 1);
        assert!((1..=lines).contains(&problem.at.line), "{problem}");
        assert!(!problem.message.contains('\n'), "{problem}");
    }
}

/// One way to spoil a text.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        at: prop::sample::Index,
        bit: u8,
    },
    Cut {
        at: prop::sample::Index,
        length: usize,
    },
    DoubleLine(prop::sample::Index),
    DropLine(prop::sample::Index),
    /// Puts the value of one line under the key of another.
    SwapValue(prop::sample::Index, prop::sample::Index),
    Insert {
        at: prop::sample::Index,
        text: &'static str,
    },
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    let texts = [
        "\"",
        "'''",
        "[[",
        "]",
        "{",
        "=",
        "\n",
        "\u{0}",
        "é",
        "-1",
        "0x",
        "1e999",
        "99999999999999999999999999999999999999999",
        "[[[[[[",
    ];
    prop_oneof![
        (index(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        (index(), 1..200usize).prop_map(|(at, length)| Damage::Cut { at, length }),
        index().prop_map(Damage::DoubleLine),
        index().prop_map(Damage::DropLine),
        (index(), index()).prop_map(|(a, b)| Damage::SwapValue(a, b)),
        (index(), prop::sample::select(texts.to_vec())).prop_map(|(at, text)| Damage::Insert { at, text }),
    ]
}

fn spoil(bytes: &mut Vec<u8>, damage: &Damage) {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    match damage {
        Damage::Flip { at, bit } if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Cut { at, length } if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + length).min(bytes.len()));
        }
        Damage::Flip { .. } | Damage::Cut { .. } => {}
        Damage::Insert { at, text } => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, text.bytes());
        }
        Damage::DoubleLine(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
            *bytes = lines.join(&b'\n');
        }
        Damage::DropLine(at) => {
            lines.remove(at.index(lines.len()));
            *bytes = lines.join(&b'\n');
        }
        Damage::SwapValue(a, b) => {
            let value = |line: &[u8]| line.iter().position(|byte| *byte == b'=');
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            if let (Some(key), Some(from)) = (value(&lines[a]), value(&lines[b])) {
                let taken = lines[b][from..].to_vec();
                lines[a].splice(key.., taken);
                *bytes = lines.join(&b'\n');
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn spoiled_examples_are_read_or_refused_and_never_panic(
        role in prop::sample::select(vec!["pop", "branch"]),
        of_box in prop::collection::vec(damage(), 0..4),
        of_tenant in prop::collection::vec(damage(), 0..4),
    ) {
        let dir = copy_with_keys(role);
        for (file, damages) in [("popgate.toml", of_box), ("tenants/acme.toml", of_tenant)] {
            let path = dir.path().join(file);
            let mut bytes = fs::read(&path).expect("the copy");
            damages.iter().for_each(|damage| spoil(&mut bytes, damage));
            fs::write(&path, bytes).expect("the spoiled copy");
        }
        if let Err(problems) = config::load(dir.path()) {
            assert_useful(dir.path(), &problems);
        }
    }

    #[test]
    fn random_bytes_are_refused_and_never_panic(
        of_box in prop::collection::vec(any::<u8>(), 0..400),
        of_tenant in "[\\[\\]{}=\"'a-z0-9\\-\\. \n#,]{0,400}",
    ) {
        let dir = TempDir::new().expect("a temporary directory");
        fs::create_dir(dir.path().join("tenants")).expect("tenants/");
        fs::write(dir.path().join("popgate.toml"), of_box).expect("written");
        fs::write(dir.path().join("tenants/acme.toml"), of_tenant).expect("written");
        let problems = config::load(dir.path()).expect_err("nothing whole");
        assert_useful(dir.path(), &problems);
    }
}

#[test]
fn every_lab_is_whole_and_so_is_every_configuration_in_it() {
    let labs = examples().with_file_name("lab");
    let mut count = 0;
    for entry in fs::read_dir(labs).expect("config/lab") {
        let file = entry.expect("a directory entry").path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let topology = Topology::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let work = TempDir::new().expect("a temporary directory");
        let rendered = lab::render(&topology, work.path()).expect("rendered");
        for (node, directory) in rendered {
            if let Err(problems) = config::load(&directory) {
                panic!("{}: {node}:\n{problems}", file.display());
            }
            count += 1;
        }
    }
    assert!(count >= 3, "the demo alone has three appliances");
}
