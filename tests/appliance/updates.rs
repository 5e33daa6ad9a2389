//! Must hold 3: another version comes by a USB stick, and nobody uses a shell.

use crate::machine::{BOOT, Build, Disk, Machine, image_version, must};
use crate::network::Network;
use crate::office::Office;
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
        let network = Network::new();
        let office = Office::new(&network, "192.0.2.10");
        let disk = office.disk();
        Box { network, office, disk }
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
