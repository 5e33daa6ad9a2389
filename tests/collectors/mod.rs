//! Collectors as people run them: Debian's nfcapd, sfcapd, nfacctd and tshark, and what they have got. Those of which there is a
//! file in `config/collectors` run with that, but for port, paths and how often they write.

#![allow(dead_code, reason = "not every test needs all of it")]

use serde_json::Value;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where programs run: here, or in a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Place(pub Option<String>);

impl Place {
    pub fn command(&self, program: &str) -> Command {
        let Some(namespace) = &self.0 else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]);
        command
    }
}

/// Flow records, their packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub records: usize,
    pub packets: u64,
    pub bytes: u64,
}

impl Sums {
    pub fn add(&mut self, packets: u64, bytes: u64) {
        self.records += 1;
        self.packets += packets;
        self.bytes += bytes;
    }
}

pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(so_far) => assert!(Instant::now() < deadline, "waited in vain for {what}: {so_far}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program that is ended with what it was for, in a directory of its own with its output in `log`.
pub struct Program {
    pub process: Child,
    pub dir: TempDir,
}

impl Program {
    /// `arguments` are written with spaces between.
    pub fn start(place: &Place, package: &str, command: &str, arguments: &str, dir: TempDir) -> Program {
        let log = File::create(dir.path().join("log")).expect("a log file");
        let process = place
            .command(command)
            .args(arguments.split_whitespace())
            .current_dir(dir.path())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command}: {error}; it is in Debian's package {package}"));
        Program { process, dir }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).expect("the log")
    }

    pub fn await_log(&self, text: &str) {
        eventually(text, || if self.log().contains(text) { Ok(()) } else { Err(self.log()) });
    }

    pub fn end(&mut self) {
        let kill = Command::new("kill").arg(self.process.id().to_string()).status().expect("kill runs");
        assert!(kill.success(), "it ended early:\n{}", self.log());
        self.process.wait().expect("it ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Wireshark's `PI_WARN`, above its notes and chat.
const EXPERT_WARNING: u32 = 0x0060_0000;

/// What goes over the loopback from or to a port, as tshark reads it.
pub struct Capture {
    pub tcpdump: Program,
    pub decode_as: String,
}

impl Capture {
    pub fn start(place: &Place, protocol: &str, port: u16) -> Capture {
        let dir = tempfile::tempdir().expect("a directory");
        let arguments = format!("-i lo -U --immediate-mode -B 8192 -w capture {protocol} port {port}");
        let tcpdump = Program::start(place, "tcpdump", "tcpdump", &arguments, dir);
        tcpdump.await_log("listening on lo");
        Capture { tcpdump, decode_as: format!("{protocol}.port=={port},cflow") }
    }

    /// Fields of each message, each with all its values.
    pub fn fields(&self, fields: &[&str]) -> Vec<Vec<Vec<String>>> {
        self.fields_of("cflow", fields)
    }

    pub fn fields_of(&self, protocol: &str, fields: &[&str]) -> Vec<Vec<Vec<String>>> {
        let mut tshark = Command::new("tshark");
        tshark.args(["-r", "capture", "-d", &self.decode_as, "-Y", protocol, "-T", "fields"]);
        tshark.args(["-E", "separator=|", "-E", "occurrence=a"]);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.current_dir(self.tcpdump.dir.path()).output();
        let output = output.expect("tshark runs: it is in Debian's package tshark");
        // It says that the last packet is cut short, where tcpdump is still writing it.
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let values = |field: &str| field.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        text.lines().map(|line| line.split('|').map(values).collect()).collect()
    }

    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        let number = |text: &String| text.parse::<u64>().expect("a number");
        for message in self.fields(&["cflow.packets", "cflow.octets"]) {
            assert_eq!(message[0].len(), message[1].len());
            for (packets, bytes) in message[0].iter().zip(&message[1]) {
                sums.add(number(packets), number(bytes));
            }
        }
        sums
    }

    pub fn await_sums(&self, expected: Sums) {
        eventually("tshark's sums", || match self.sums() {
            sums if sums == expected => Ok(()),
            sums => Err(format!("{sums:?} of {expected:?}")),
        });
    }

    /// Every data set has its template, nothing is missing in the sequence, and nothing is malformed.
    pub fn assert_no_complaint(&self) {
        for message in self.fields(&["cflow.sequence_analysis.expected_sn", "_ws.malformed"]) {
            let complaints: Vec<&String> = message.iter().flatten().collect();
            assert!(complaints.is_empty(), "tshark says: {complaints:?}");
        }
        for message in self.fields(&["_ws.expert.severity", "_ws.expert.message"]) {
            let severities = message[0].iter().map(|text| text.parse::<u32>().expect("a severity"));
            // Below a warning it only remarks, as on a connection that ends with its last message.
            assert!(
                severities.max().is_none_or(|worst| worst < EXPERT_WARNING),
                "tshark says: {:?}",
                message[1]
            );
        }
        let unknown = self.fields(&["cflow.flowset_id", "cflow.template_frame"]);
        for message in unknown {
            let data_sets = message[0].iter().filter(|id| id.parse::<u16>().is_ok_and(|id| id >= 256));
            assert_eq!(message[1].len(), data_sets.count(), "a data set without template: {message:?}");
        }
    }
}

/// A file of `config/collectors` with parts of it replaced.
pub fn ready_made(name: &str, replace: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/collectors").join(name);
    let mut text = fs::read_to_string(path).expect("it is there");
    for (old, new) in replace {
        assert_eq!(text.matches(old).count(), 1, "{old:?} in {name}");
        text = text.replace(old, new);
    }
    text
}

/// pmacct's nfacctd, which writes what it has got into files of JSON.
pub struct Nfacctd {
    pub program: Program,
    pub address: SocketAddr,
}

impl Nfacctd {
    pub fn start(place: &Place, port: u16) -> Nfacctd {
        let dir = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let configuration = ready_made(
            "pmacct/nfacctd.conf",
            &[
                ("daemonize: true", "daemonize: false"),
                ("pidfile: /var/run/nfacctd.pid", &format!("pidfile: {}", at("pid"))),
                ("syslog: daemon", &format!("nfacctd_ip: 127.0.0.1\nlogfile: {}", at("log"))),
                ("nfacctd_port: 4739", &format!("nfacctd_port: {}", address.port())),
                ("/etc/pmacct/popgate.primitives", &at("popgate.primitives")),
                ("/var/lib/pmacct/", &at("")),
                ("print_refresh_time[sessions]: 60", "print_refresh_time[sessions]: 1"),
            ],
        );
        fs::write(dir.path().join("nfacctd.conf"), configuration).expect("written");
        fs::write(dir.path().join("popgate.primitives"), ready_made("pmacct/popgate.primitives", &[]))
            .expect("written");
        let program = Program::start(place, "pmacct", "nfacctd", &format!("-f {}", at("nfacctd.conf")), dir);
        program.await_log("waiting for NetFlow/IPFIX data");
        // Its plugin is a process of its own, which knows nothing of what came before it was there.
        program.await_log("JSON: setting object handlers.");
        Nfacctd { program, address }
    }

    pub fn rows(&self) -> Vec<Value> {
        let files = fs::read_dir(self.program.dir.path()).expect("its directory");
        let paths = files.map(|file| file.expect("a file").path());
        let json: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|it| it == "json")).collect();
        let text: String = json.iter().map(|path| fs::read_to_string(path).expect("its output")).collect();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn sums(&self, tenant: Option<u64>) -> Sums {
        let mut sums = Sums::default();
        for row in self.rows() {
            let number = |field: &str| match &row[field] {
                Value::String(text) => text.parse::<u64>().expect("a number"),
                other => other.as_u64().unwrap_or_else(|| panic!("{field} in {row}")),
            };
            if tenant.is_none_or(|tenant| number("tenant") == tenant) {
                sums.add(number("packets"), number("bytes"));
            }
        }
        sums
    }
}

impl Nfacctd {
    /// It says nothing but what it does.
    pub fn assert_no_complaint(&self) {
        let log = self.program.log();
        let is_complaint = |line: &&str| !line.contains("INFO") || line.contains("expecting flow");
        let complaints: Vec<&str> = log.lines().filter(is_complaint).collect();
        assert!(complaints.is_empty(), "nfacctd says: {complaints:?}");
    }
}

/// Makes `name`'s key and certificate, and the authority that signs it if there is none yet.
pub fn certificate(dir: &Path, authority: &str, name: &str) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output();
        let output = output.expect("openssl runs: it is in Debian's package openssl");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    if !dir.join(format!("{authority}.crt")).exists() {
        openssl(&format!(
            "req -x509 {KEY} -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
        ));
    }
    openssl(&format!("req {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    openssl(&format!(
        "x509 -req -days 2 -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -extfile san -out {name}.crt"
    ));
    let key = dir.join(format!("{name}.key"));
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
}

/// Debian's nfcapd, with the options of the ready-made file.
pub struct Nfcapd(pub Program);

impl Nfcapd {
    pub fn start(place: &Place, port: u16) -> Nfcapd {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("flows")).expect("a directory");
        let port = format!("-p {port} -b 127.0.0.1 -C none -E");
        let text =
            ready_made("nfdump/popgate.conf", &[("-l /var/cache/nfdump", "-l flows"), ("-p 4739", &port)]);
        let options = text.lines().find_map(|line| line.strip_prefix("options='")).expect("options");
        // stdbuf has it print each record at once: that is how the test knows that all have arrived.
        let arguments = format!("-oL nfcapd {}", options.trim_end_matches('\''));
        let nfcapd = Program::start(place, "nfdump", "stdbuf", &arguments, dir);
        nfcapd.await_log("Startup nfcapd.");
        Nfcapd(nfcapd)
    }

    /// Ends it when it has got all records. It says that they come to `expected`, and that nothing was missing or bad.
    pub fn end_with(&mut self, expected: Sums) {
        eventually("all records", || match self.0.log().matches("Flow Record:").count() {
            records if records >= expected.records => Ok(()),
            records => Err(format!("{records} of {expected:?}:\n{}", self.0.log())),
        });
        self.0.end();
        let log = self.0.log();
        // A line for each of its files: it begins another every five minutes of the clock.
        let mut sums = Sums::default();
        for line in log.lines().filter(|line| line.starts_with("Ident: 'none'")) {
            assert!(line.contains("Sequence Errors: 0, Bad Packets: 0"), "{line}");
            let number = |name: &str| {
                let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("no {name}: {line}"));
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                digits.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {line}"))
            };
            sums.records += usize::try_from(number("Flows: ")).expect("few");
            sums.packets += number("Packets: ");
            sums.bytes += number("Bytes: ");
        }
        let told: Vec<&str> =
            log.lines().filter(|it| !it.starts_with("  ") && !it.contains("Flow Record")).collect();
        assert_eq!(sums, expected, "{}", told.join("\n"));
    }

    /// What nfdump reads in its files, once it has ended.
    pub fn nfdump(&self, format: &str, filter: &str) -> String {
        nfdump(&self.0, format, filter)
    }
}

/// Debian's sfcapd.
pub struct Sfcapd(pub Program);

impl Sfcapd {
    pub fn start(place: &Place, port: u16) -> Sfcapd {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("flows")).expect("a directory");
        let arguments = format!("-oL sfcapd -E -C none -4 -b 127.0.0.1 -t 3600 -p {port} -w flows");
        let sfcapd = Program::start(place, "nfdump-sflow", "stdbuf", &arguments, dir);
        sfcapd.await_log("Startup sfcapd.");
        Sfcapd(sfcapd)
    }

    /// Ends it when it has got so many samples.
    pub fn end_with(&mut self, samples: usize) {
        eventually("all samples", || match self.0.log().matches("Flow Record:").count() {
            records if records >= samples => Ok(()),
            records => Err(format!("{records} of {samples}:\n{}", self.0.log())),
        });
        self.0.end();
    }

    pub fn nfdump(&self, format: &str, filter: &str) -> String {
        nfdump(&self.0, format, filter)
    }
}

fn nfdump(of: &Program, format: &str, filter: &str) -> String {
    let output = Command::new("nfdump")
        .current_dir(of.dir.path())
        .args(["-R", "flows", "-C", "none", "-q", "-N", "-6", "-o", format, filter])
        .output()
        .expect("nfdump runs");
    assert!(output.status.success(), "nfdump: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
