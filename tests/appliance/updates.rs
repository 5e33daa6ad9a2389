//! Must hold 3: another version comes by a USB stick, by the API, or by the folder that the updater watches, and nobody uses a shell.

use crate::machine::{BOOT, Build, Disk, Firmware, Machine, image_version, must};
use crate::network::Network;
use crate::office::Office;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// An update is read three times, written once, and read once more.
const INSTALLED: Duration = Duration::from_secs(240);
/// Healthy is what is healthy for 35 seconds.
const SETTLED: Duration = Duration::from_secs(180);
const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// A version that differs from the image's, made from the same root file system.
struct Variant {
    directory: TempDir,
    version: String,
    /// An update, signed by the tests' key.
    update: PathBuf,
}

/// The image's version, so many builds later: or earlier.
fn version(later: i64) -> String {
    let (release, build) =
        image_version().split_once('+').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a version");
    let number: i64 = build.split('.').next().and_then(|it| it.parse().ok()).expect("a number");
    format!("{release}+{}.gtest", number + later)
}

impl Variant {
    fn new(later: i64, change: impl Fn(&Path)) -> Variant {
        let directory =
            tempfile::Builder::new().tempdir_in(Path::new(HERE).join("target")).expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let version = version(later);
        // Hard links: what is changed is removed first.
        must(
            Command::new("cp")
                .args(["--archive", "--link"])
                .arg(Path::new(HERE).join("target/appliance/tree"))
                .arg(at("tree")),
        );
        let release = at("tree/usr/lib/os-release");
        let text = fs::read_to_string(&release).expect("readable").replace(&image_version(), &version);
        fs::remove_file(&release).expect("removed");
        fs::write(&release, text).expect("written");
        change(&at("tree"));
        must(script("squash").arg(at("tree")).arg(at("root.squashfs")).env("LEVEL", "1"));
        let update = at(&format!("popgate-{version}.update"));
        let key = Path::new(HERE).join("target/appliance/test.key");
        must(script("update").arg(at("root.squashfs")).arg(&version).arg(key).arg(&update));
        fs::remove_dir_all(at("tree")).expect("removed");
        Variant { directory, version, update }
    }

    /// One where whatever `popgate run` does, it crashes; its other commands work.
    fn that_crashes(later: i64) -> Variant {
        Variant::new(later, |tree| {
            let popgate = tree.join("usr/bin/popgate");
            fs::rename(&popgate, tree.join("usr/bin/popgate.whole")).expect("renamed");
            let script =
                "#!/bin/sh\n[ \"$1\" != run ] || kill -SEGV $$\nexec /usr/bin/popgate.whole \"$@\"\n";
            fs::write(&popgate, script).expect("written");
            fs::set_permissions(&popgate, fs::Permissions::from_mode(0o755)).expect("ours");
        })
    }

    /// The same without a signature.
    fn unsigned(&self) -> PathBuf {
        let unsigned = self.directory.path().join("popgate-unsigned.update");
        let folder = self.directory.path().join("parts");
        fs::create_dir(&folder).expect("made");
        must(Command::new("tar").arg("-xf").arg(&self.update).arg("-C").arg(&folder));
        must(
            Command::new("tar")
                .args(["--format=ustar", "-cf"])
                .arg(&unsigned)
                .arg("-C")
                .arg(&folder)
                .args(["manifest", "root.squashfs"]),
        );
        fs::remove_dir_all(&folder).expect("removed");
        unsigned
    }

    /// The same with other bytes, or fewer.
    fn spoilt(&self, name: &str, spoil: impl Fn(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = fs::read(&self.update).expect("readable");
        spoil(&mut bytes);
        let spoilt = self.directory.path().join(format!("popgate-{name}.update"));
        fs::write(&spoilt, bytes).expect("written");
        spoilt
    }
}

/// The first megabyte of an update: what is refused for what it is needs no more of it.
fn head(update: &Path) -> PathBuf {
    let head = update.with_extension("head");
    let bytes = fs::read(update).expect("readable");
    fs::write(&head, &bytes[..1 << 20]).expect("written");
    head
}

fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(HERE).join("appliance-image").join(name));
    command.env("SOURCE_DATE_EPOCH", "1795902778");
    command
}

/// A stick with a file on it, without a partition table, as many are.
fn stick(update: &Path) -> PathBuf {
    let stick = update.with_extension("stick");
    let size = fs::metadata(update).expect("it is there").len() + (8 << 20);
    fs::File::create(&stick).and_then(|file| file.set_len(size)).expect("a file");
    must(Command::new("mkfs.vfat").args(["-F", "32"]).arg(&stick));
    must(Command::new("mcopy").arg("-i").arg(&stick).arg(update).arg("::/"));
    stick
}

struct Box {
    network: Network,
    office: Office,
    disk: Disk,
}

impl Box {
    fn new() -> Box {
        Box::with(&[])
    }

    /// With files in the folder that the updater watches.
    fn with(files: &[&Path]) -> Box {
        let network = Network::new();
        let office = Office::new(&network, "192.0.2.10");
        let disk = office.disk_with(files);
        Box { network, office, disk }
    }

    /// How its updates stand.
    fn state(&self) -> Value {
        self.office.get(&self.network, "update").expect("the API answers")
    }

    fn upload(&self, update: &Path, query: &str) -> (u16, Value) {
        self.office.upload(&self.network, update, query).expect("the API answers")
    }

    fn start(&self) -> Machine {
        let mut machine = Machine::start(&self.network, &self.disk, &Build::default());
        self.await_api(&mut machine);
        machine
    }

    fn await_api(&self, machine: &mut Machine) {
        machine.eventually("its API answers", BOOT, |_| self.office.policy_in_force(&self.network).is_some());
    }
}

#[test]
fn a_good_version_is_kept_one_that_crashes_is_left_and_unsigned_and_older_ones_are_refused() {
    let pop = Box::new();
    let (good, crashing) = (Variant::new(1, |_| ()), Variant::that_crashes(2));
    let older = Variant::new(-1, |_| ());
    let mut machine = pop.start();
    println!("updates: the API answers after {:.1} s", machine.age().as_secs_f64());
    // What the operator has changed since the box was made.
    let policy = format!("# changed on the box\n{}", pop.office.policy);
    assert_eq!(pop.office.commit(&pop.network, &policy), Some(true));

    for (update, why) in [(good.unsigned(), "it is not signed"), (older.update.clone(), "is older than")] {
        let said = machine.said();
        machine.plug_in(&stick(&update));
        machine.await_serial(
            said,
            &format!("refused {}", update.file_name().expect("a name").to_string_lossy()),
            INSTALLED,
        );
        assert!(machine.serial()[said..].contains(why), "{}", &machine.serial()[said..]);
        machine.pull_out();
    }

    let said = machine.said();
    machine.plug_in(&stick(&good.update));
    machine.await_serial(said, &format!("{} is installed", good.version), INSTALLED);
    machine.await_serial(said, &format!("{} came up healthy", good.version), BOOT + SETTLED);
    println!("updates: kept after {:.1} s", machine.age().as_secs_f64());
    machine.pull_out();
    assert_eq!(pop.office.policy_in_force(&pop.network).as_deref(), Some(&*policy));

    let said = machine.said();
    machine.plug_in(&stick(&crashing.update));
    machine.await_serial(said, &format!("{} is installed", crashing.version), INSTALLED);
    // Without anybody doing anything, and with the stick still in it.
    let left = format!("{} did not come up healthy: the box fell back", crashing.version);
    machine.await_serial(said, &left, BOOT * 3);
    println!("updates: fell back after {:.1} s", machine.age().as_secs_f64());
    machine.await_serial(said, "was tried before and did not come up healthy", INSTALLED);
    pop.await_api(&mut machine);
    assert_eq!(pop.office.policy_in_force(&pop.network).as_deref(), Some(&*policy));
    machine.await_serial(said, &format!("popgate {}", good.version), BOOT);
}

#[test]
fn a_version_that_an_owner_sends_is_installed_and_kept_and_a_wrong_one_is_refused_at_once() {
    let pop = Box::new();
    let (good, older) = (Variant::new(1, |_| ()), Variant::new(-1, |_| ()));
    let mut machine = pop.start();
    let policy = format!("# changed on the box\n{}", pop.office.policy);
    assert_eq!(pop.office.commit(&pop.network, &policy), Some(true));
    let state = pop.state();
    assert_eq!((&state["version"], &state["refuses"]), (&image_version().into(), &Value::Null), "{state}");

    for (update, why) in [
        (head(&good.unsigned()), "it is not signed"),
        (head(&older.update), "is older than"),
        (head(&good.update), "it is cut short"),
    ] {
        let (status, told) = pop.upload(&update, "");
        assert_eq!(status, 422, "{why}: {told}");
        assert!(told["detail"].as_str().is_some_and(|it| it.contains(why)), "{why}: {told}");
    }

    let (said, begin) = (machine.said(), machine.age());
    let (status, told) = pop.upload(&good.update, "");
    assert_eq!((status, &told["version"]), (202, &good.version.as_str().into()), "{told}");
    println!("updates: sent within {:.1} s", (machine.age() - begin).as_secs_f64());
    machine.await_serial(said, &format!("{} is installed", good.version), INSTALLED);
    machine.await_serial(said, &format!("{} came up healthy", good.version), BOOT + SETTLED);
    println!("updates: kept {:.1} s after it was begun to be sent", (machine.age() - begin).as_secs_f64());
    pop.await_api(&mut machine);
    let state = pop.state();
    assert_eq!(
        (&state["version"], &state["last"]["outcome"]),
        (&good.version.as_str().into(), &"kept".into()),
        "{state}"
    );
    let versions: Vec<&Value> =
        state["slots"].as_array().into_iter().flatten().map(|it| &it["version"]).collect();
    assert_eq!(versions, [&Value::from(image_version()), &good.version.as_str().into()], "{state}");
    assert_eq!(pop.office.policy_in_force(&pop.network).as_deref(), Some(&*policy));
    let audit = pop.office.get(&pop.network, "audit?limit=50").expect("the API answers").to_string();
    for noted in
        [&format!("{} is to be installed; the box starts anew", good.version), "not taken: it is not signed"]
    {
        assert!(audit.contains(noted), "{noted}: {audit}");
    }

    // Back again, as an owner may, and not at once.
    let said = machine.said();
    let (status, told) = pop.upload(&older.update, "?force-downgrade=true&reboot=false");
    assert_eq!(status, 202, "{told}");
    machine.await_serial(said, &format!("{} is installed", older.version), INSTALLED);
    let state = pop.state();
    assert_eq!(
        (&state["version"], &state["last"]["outcome"]),
        (&good.version.as_str().into(), &"installed".into()),
        "{state}"
    );
}

#[test]
fn what_was_altered_or_cut_short_in_the_folder_is_refused_and_taken_away() {
    let good = Variant::new(1, |_| ());
    let altered = good.spoilt("altered", |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let cut = good.spoilt("cut", |bytes| bytes.truncate(9 << 20));
    let pop = Box::with(&[&altered, &cut]);
    let build = Build { firmware: Firmware::None, ..Build::default() };
    let mut machine = Machine::start(&pop.network, &pop.disk, &build);
    let folder = "/var/lib/popgate/update";
    let why = "its content is not what its manifest says: it was altered";
    machine.await_serial(0, &format!("refused {folder}/popgate-altered.update: {why}"), BOOT + INSTALLED);
    machine.await_serial(0, &format!("refused {folder}/popgate-cut.update: it is cut short"), INSTALLED);
    pop.await_api(&mut machine);
    machine.eventually("the folder is empty", INSTALLED, |_| pop.state()["under-way"] == false);
    let state = pop.state();
    assert_eq!(
        (&state["version"], &state["last"]["outcome"]),
        (&image_version().into(), &"refused".into()),
        "{state}"
    );
}

/// Cuts while the old version runs, at most.
const CUTS: usize = 3;
/// From when the API answers: by then the update is being looked at, and to write a slot takes longer.
const WITHIN: Duration = Duration::from_secs(6);

#[test]
fn power_cuts_while_an_update_is_installed_leave_the_old_version_or_the_new_and_it_is_installed_after_all() {
    let seed = std::env::var("POPGATE_TEST_SEED")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("updates: POPGATE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let good = Variant::new(1, |_| ());
    let reboot = good.directory.path().join("reboot");
    fs::write(&reboot, "").expect("written");
    let pop = Box::with(&[&good.update, &reboot]);
    let (mut cuts, mut amid) = (0, 0);
    loop {
        let mut machine = pop.start();
        assert_eq!(pop.office.policy_in_force(&pop.network).as_ref(), Some(&pop.office.policy));
        let version = pop.state()["version"].clone();
        assert!([image_version(), good.version.clone()].iter().any(|it| version == **it), "{version}");
        if cuts < CUTS && version == *image_version() {
            // The first one while it is certainly not done yet.
            let most = if cuts == 0 { WITHIN / 6 } else { WITHIN };
            let pause = random.random_range(0..u64::try_from(most.as_millis()).expect("few"));
            std::thread::sleep(Duration::from_millis(pause));
            let is_done = machine.serial().contains("is installed");
            println!(
                "updates: the plug is pulled {pause} ms after the API has answered, installed: {is_done}"
            );
            machine.kill();
            cuts += 1;
            amid += usize::from(!is_done);
            continue;
        }
        machine.await_serial(0, &format!("{} came up healthy", good.version), INSTALLED + BOOT + SETTLED);
        pop.await_api(&mut machine);
        assert_eq!(pop.state()["version"], *good.version);
        assert_eq!(pop.office.policy_in_force(&pop.network).as_ref(), Some(&pop.office.policy));
        println!(
            "updates: {} is kept after {cuts} power cuts, {amid} of them before it was installed",
            good.version
        );
        break;
    }
    assert!(amid > 0, "the first cut comes before it is installed");
}
