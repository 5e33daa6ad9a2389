//! The image in QEMU, which emulates the processor too: `/dev/kvm` may be there and not work. POPGATE_TEST_KVM=1 asks for it.
//!
//! A machine has a disk of its own, cards on the switches of a [`Network`], a serial console whose every byte is kept, and a
//! screen to be looked at. What is waited for has a deadline; a failure prints the console.

use crate::container::text;
use crate::guest::Guest;
use crate::network::{Network, hardware_address};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For a boot under emulation on a busy machine: many times what it takes.
pub const BOOT: Duration = Duration::from_secs(240);
/// QEMU answers in milliseconds.
const QMP: Duration = Duration::from_secs(20);

/// What `make test-image` has made.
fn made() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image-test")
}

/// The file there that ends so.
pub fn image_file(extension: &str) -> PathBuf {
    let files = fs::read_dir(made()).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files = files.filter(|path| path.extension().is_some_and(|it| it == extension));
    files.next().unwrap_or_else(|| panic!("no .{extension} in {}: make test-image", made().display()))
}

/// What the image calls its version.
pub fn image_version() -> String {
    let name = image_file("raw").file_stem().expect("a name").to_string_lossy().into_owned();
    name.trim_start_matches("popgate-").to_owned()
}

/// A machine's disk: a copy of the image that takes no more room than what differs from nothing.
pub struct Disk {
    directory: TempDir,
}

impl Disk {
    pub fn new() -> Disk {
        let directory =
            tempfile::Builder::new().tempdir_in(made().parent().expect("in target")).expect("a directory");
        let disk = Disk { directory };
        must(Command::new("cp").args(["--sparse=always"]).arg(image_file("raw")).arg(disk.path()));
        disk
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("disk.raw")
    }

    /// Puts files of a directory onto the state partition: what belongs into /var, and in its `etc/popgate` the configuration.
    /// The directory's owners and modes count.
    pub fn with_state(self, files: &Path) -> Disk {
        let (at, size) = self.partition("popgate-state");
        let state = self.directory.path().join("state");
        File::create(&state).and_then(|file| file.set_len(size)).expect("a file");
        must(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-T", "default", "-b", "4096", "-L", "popgate-state", "-d"])
                .arg(files)
                .arg(&state),
        );
        self.copy_in(&state, at);
        self
    }

    /// Where a partition begins and how long it is, in bytes.
    fn partition(&self, name: &str) -> (u64, u64) {
        let listed = Command::new("sfdisk").arg("--json").arg(self.path()).output().expect("sfdisk runs");
        let table: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        let partitions = table["partitiontable"]["partitions"].as_array().expect("partitions");
        let found = partitions.iter().find(|it| it["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no partition {name}: {table}"));
        let bytes = |key: &str| found[key].as_u64().expect("a number") * 512;
        (bytes("start"), bytes("size"))
    }

    fn copy_in(&self, file: &Path, at: u64) {
        let mut disk = OpenOptions::new().write(true).open(self.path()).expect("opens");
        disk.seek(SeekFrom::Start(at)).expect("seeks");
        std::io::copy(&mut File::open(file).expect("opens"), &mut disk).expect("copied");
        fs::remove_file(file).expect("removed");
    }
}

/// How it starts: what a board has in flash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    Uefi,
    /// None: QEMU itself puts the kernel of the image's slot A into memory, which saves the seconds that firmware and GRUB take.
    None,
}

/// How a machine is put together.
pub struct Build<'a> {
    pub firmware: Firmware,
    /// Its cards: on which switch, and the number in the hardware address ([`hardware_address`]).
    pub cards: Vec<(&'a str, u8)>,
    pub memory_mib: u32,
}

impl Default for Build<'_> {
    /// One card, which gets 192.0.2.10.
    fn default() -> Self {
        Build { firmware: Firmware::Bios, cards: vec![("switch", 10)], memory_mib: 512 }
    }
}

pub struct Machine {
    qemu: Child,
    directory: TempDir,
    qmp: BufReader<UnixStream>,
    serial: UnixStream,
    started: Instant,
}

impl Machine {
    /// Switches one on.
    pub fn start(network: &Network, disk: &Disk, build: &Build) -> Machine {
        let drive = format!("file={},if=virtio,format=raw", disk.path().display());
        Machine::begin(network, &["-drive".to_owned(), drive], build)
    }

    /// And one that runs a script.
    pub fn start_guest(network: &Network, guest: &Guest, build: &Build) -> Machine {
        Machine::begin(network, &guest.arguments(), build)
    }

    /// `from` is what it starts from, in QEMU's words.
    fn begin(network: &Network, from: &[String], build: &Build) -> Machine {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let accelerator = if std::env::var_os("POPGATE_TEST_KVM").is_some() { "kvm" } else { "tcg" };
        let mut qemu = network.command(&["qemu-system-x86_64"]);
        qemu.args([
            "-machine",
            &format!("q35,accel={accelerator}"),
            "-m",
            &build.memory_mib.to_string(),
            "-nodefaults",
        ]);
        qemu.args(["-vga", "std", "-display", "none", "-no-user-config", "-rtc", "base=utc"]);
        qemu.args(from);
        qemu.args([
            "-chardev",
            &format!(
                "socket,id=serial,path={},server=on,wait=off,logfile={}",
                path("serial"),
                path("serial.log")
            ),
        ]);
        qemu.args(["-serial", "chardev:serial", "-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))]);
        // A stick can be put in while it runs; the guest needs no chance of its own to come up.
        qemu.args([
            "-device",
            "qemu-xhci,id=usb",
            "-device",
            "virtio-rng-pci",
            "-device",
            "i6300esb",
            "-action",
            "watchdog=reset",
        ]);
        if build.firmware == Firmware::Uefi {
            let variables = directory.path().join("variables");
            fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).expect("it is in Debian's package ovmf");
            qemu.args(["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"]);
            qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
        }
        if build.firmware == Firmware::None {
            let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/appliance/tree/boot");
            qemu.arg("-kernel").arg(boot.join("vmlinuz")).arg("-initrd").arg(boot.join("initrd"));
            // As in appliance-image/grub/grub.cfg.
            qemu.args([
                "-append",
                "popgate.slot=a ro quiet loglevel=3 systemd.gpt_auto=0 panic=10 console=ttyS0,115200",
            ]);
        }
        for (index, (switch, number)) in build.cards.iter().enumerate() {
            let tap = format!("tap{number}");
            network.exec(&["ip", "link", "delete", &tap]);
            network.must(&["ip", "tuntap", "add", &tap, "mode", "tap"]);
            network.must(&["ip", "link", "set", &tap, "master", switch, "up"]);
            qemu.args(["-netdev", &format!("tap,id=card{index},ifname={tap},script=no,downscript=no")]);
            let mac = hardware_address(*number);
            qemu.args([
                "-device",
                &format!("virtio-net-pci,netdev=card{index},mac={mac},romfile=,addr={:#x}", 0x10 + index),
            ]);
        }
        let log = File::create(directory.path().join("qemu.log")).expect("a file");
        let qemu = qemu.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log).spawn();
        let mut qemu = qemu.expect("ip runs");
        let mut connect = |name: &str| {
            let begin = Instant::now();
            loop {
                if let Ok(stream) = UnixStream::connect(directory.path().join(name)) {
                    return stream;
                }
                let ended = qemu.try_wait().expect("ours").is_some();
                if ended || begin.elapsed() > QMP {
                    let said = fs::read_to_string(directory.path().join("qemu.log")).unwrap_or_default();
                    panic!("no QEMU (Debian's packages qemu-system-x86 and ovmf): {said}");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let (qmp, serial) = (connect("qmp"), connect("serial"));
        qmp.set_read_timeout(Some(QMP)).expect("set");
        // What comes is in the log. It is read all the same: a machine whose console is not read stands still. The end of QEMU is
        // the end of this.
        let mut comes = serial.try_clone().expect("a handle");
        std::thread::spawn(move || std::io::copy(&mut comes, &mut std::io::sink()));
        let mut machine =
            Machine { qemu, directory, qmp: BufReader::new(qmp), serial, started: Instant::now() };
        machine.next_message();
        machine.qmp("qmp_capabilities", json!({}));
        machine
    }

    /// For how long it has been on.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything that its serial console has said, without what moves a cursor.
    pub fn serial(&self) -> String {
        plain(&text(&fs::read(self.directory.path().join("serial.log")).unwrap_or_default()))
    }

    /// Presses keys at the serial console.
    pub fn type_text(&mut self, typed: &str) {
        self.serial.write_all(typed.as_bytes()).expect("QEMU takes it");
    }

    /// Waits until the console has said something since a point of its text ([`Machine::said`]).
    pub fn await_serial(&mut self, since: usize, what: &str, patience: Duration) {
        self.eventually(what, patience, |machine| {
            machine.serial().get(since..).is_some_and(|it| it.contains(what))
        });
    }

    /// How much the console has said.
    pub fn said(&self) -> usize {
        self.serial().len()
    }

    /// Waits for a condition. Ends at once when QEMU has.
    pub fn eventually(
        &mut self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut(&mut Machine) -> bool,
    ) {
        let begin = Instant::now();
        while !condition(self) {
            let ended = self.qemu.try_wait().expect("ours");
            let late = begin.elapsed() > patience;
            if ended.is_some() || late {
                let _ = self
                    .screendump(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/appliance/failed.png"));
                panic!(
                    "not within {patience:?}: {what} (ended: {ended:?}); its screen is in target/appliance/failed.png\n{}",
                    self.serial()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A picture of the screen (PNG).
    pub fn screendump(&mut self, to: &Path) -> Option<()> {
        if self.qemu.try_wait().ok()?.is_some() {
            return None;
        }
        self.qmp("screendump", json!({ "filename": to, "format": "png" }));
        Some(())
    }

    /// How much of the screen is not black, in thousandths.
    pub fn lit_permille(&mut self) -> usize {
        let picture = self.directory.path().join("screen.ppm");
        self.qmp("screendump", json!({ "filename": picture, "format": "ppm" }));
        let bytes = fs::read(&picture).expect("readable");
        // Behind a short head there are three bytes for each point.
        bytes.iter().filter(|byte| **byte > 64).count() * 1_000 / bytes.len().max(1)
    }

    /// Puts in a USB stick: a file that holds a file system, or a disk.
    pub fn plug_in(&mut self, stick: &Path) {
        let drive =
            json!({ "driver": "raw", "node-name": "stick", "file": { "driver": "file", "filename": stick } });
        self.qmp("blockdev-add", drive);
        self.qmp("device_add", json!({ "driver": "usb-storage", "id": "stick", "drive": "stick", "removable": true, "bus": "usb.0" }));
    }

    /// And pulls it out.
    pub fn pull_out(&mut self) {
        self.qmp("device_del", json!({ "id": "stick" }));
        let begin = Instant::now();
        while self.try_qmp("blockdev-del", json!({ "node-name": "stick" })).get("error").is_some() {
            assert!(begin.elapsed() < QMP, "the stick is still in use");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses its power button, and waits until it is off.
    pub fn power_off(mut self) {
        self.qmp("system_powerdown", json!({}));
        let begin = Instant::now();
        while self.qemu.try_wait().expect("ours").is_none() {
            assert!(begin.elapsed() < BOOT, "it does not go off\n{}", self.serial());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Pulls its plug.
    pub fn kill(self) {
        drop(self);
    }

    fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        let answer = self.try_qmp(command, arguments);
        assert!(answer.get("return").is_some(), "{command}: {answer}");
        answer
    }

    fn try_qmp(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.qmp.get_mut().write_all(line.as_bytes()).expect("QEMU listens");
        loop {
            let message = self.next_message();
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    fn next_message(&mut self) -> Value {
        let mut line = String::new();
        self.qmp.read_line(&mut line).expect("QEMU answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Without escape sequences (ECMA-48): GRUB and systemd draw.
fn plain(said: &str) -> String {
    let mut plain = String::with_capacity(said.len());
    let mut characters = said.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' if characters.next_if_eq(&'[').is_some() => {
                while characters.next().is_some_and(|it| !('@'..='~').contains(&it)) {}
            }
            '\x1b' | '\r' => {}
            _ => plain.push(character),
        }
    }
    plain
}

pub fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}
