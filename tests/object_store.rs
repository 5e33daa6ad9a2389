//! The flow history's files in an object store: a server that speaks S3 and looks at signatures (npm's @20minutes/s3rver), and pyarrow,
//! which reads from it what the box has copied there.

use popgate::config::{Credentials, ObjectStore};
use popgate::io::clock::Clock;
use popgate::io::flow_keeping::{self, FlowKeeping, SharedFlows};
use popgate::io::object_sending::{self, Destination};
use popgate::store::flows::{Counted, Flows, Limits, LocalDisk, Row, Told};
use popgate::store::report::ObjectStoreState;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Long ago: the days are over.
const NOON: u64 = 1_764_331_200_000;
const DAY: u64 = 86_400_000;
const TENANTS: [&str; 3] = ["acme", "beta", "globex"];
const LIMITS: Limits = Limits {
    keep: Duration::from_secs(10_000 * 86_400),
    keep_rollups: Duration::from_secs(10_000 * 86_400),
    tenant_bytes: 1 << 40,
    is_copied: true,
};
/// Those that s3rver knows.
const ACCOUNT: &str = "S3RVER";

fn row(n: u64, end: u64) -> Row<'static> {
    Row {
        tenant: TENANTS[(n % 3) as usize],
        start: end - 5,
        end,
        session: n,
        protocol: "udp",
        source: (IpAddr::from([10, 1, (n / 250 % 250) as u8, (n % 250) as u8]), 40_000),
        destination: (IpAddr::from([203, 0, 113, (n % 9) as u8]), 443),
        nat_source: None,
        nat_destination: None,
        from: "paris",
        to: "internet",
        class: "voice",
        class_by: "rule",
        app: None,
        name: None,
        rule: "out",
        dscp: 46,
        forward_path: Some("dsl"),
        reverse_path: None,
        forward: Counted { packets: n % 90 + 1, bytes: 1_000 + n },
        reverse: Counted { packets: n % 80, bytes: 7 * n },
        tcp_flags: 0,
        generation: 1,
        end_reason: "idle-timeout",
        told: Told::default(),
    }
}

/// Rows of so many days from the given one on, a thousand a day, as files of the history in `dir`.
fn fill(dir: &Path, days: std::ops::Range<u64>) {
    let mut flows = Flows::open(dir.to_owned(), LIMITS, Box::new(LocalDisk), NOON);
    for day in days {
        for n in 0..1_000 {
            flows.take(&row(day * 1_000 + n, NOON + day * DAY + n), NOON);
        }
        flows.close_log(NOON + day * DAY);
        while let Some(job) = flows.work(NOON + day * DAY) {
            flows.done(job.run(), NOON + day * DAY);
        }
    }
}

/// The history's threads, as a box runs them.
struct History {
    way: Option<FlowKeeping>,
    flows: SharedFlows,
    destination: Option<Destination>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl History {
    fn start(dir: &Path, store: ObjectStore) -> History {
        let clock = Clock::new();
        let now = clock.now().unix_nanos / 1_000_000;
        let flows = Flows::open(dir.to_owned(), LIMITS, Box::new(LocalDisk), now);
        let (way, flows, thread) = flow_keeping::start(flows, clock).expect("a thread");
        let destination = object_sending::start(flows.clone(), clock).expect("a thread");
        destination.send(Some(Arc::new(store))).expect("it runs");
        History { way: Some(way), flows, destination: Some(destination), thread: Some(thread) }
    }

    fn state(&self) -> ObjectStoreState {
        self.flows.lock().state().object_store.expect("files are copied")
    }

    fn eventually(&self, what: &str, is: impl Fn(&ObjectStoreState) -> bool) -> ObjectStoreState {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state();
            if is(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "waited in vain: {what}: {state:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        drop((self.way.take(), self.destination.take()));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}

/// The server, with one bucket in a directory of its own.
struct Store {
    process: Child,
    dir: TempDir,
    port: u16,
    scheme: &'static str,
}

impl Store {
    fn start(scheme: &'static str) -> Store {
        // It cannot choose one itself; nobody else takes it in the little time between.
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let dir = tempfile::tempdir().expect("a directory");
        if scheme == "https" {
            certificate(dir.path());
        }
        let process = Store::run(dir.path(), port, scheme);
        Store { process, dir, port, scheme }
    }

    fn run(dir: &Path, port: u16, scheme: &str) -> Child {
        let popgate = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = popgate.join("target/tools/s3rver/node_modules");
        assert!(modules.exists(), "{}: `make test` installs it", modules.display());
        let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        fs::create_dir_all(dir.join("data")).expect("a directory");
        let mut command = Command::new("node");
        command.env("NODE_PATH", modules).arg(popgate.join("tests/flow_history/store.cjs"));
        command.arg(dir.join("data")).arg(port.to_string());
        if scheme == "https" {
            command.arg(dir.join("store.key")).arg(dir.join("store.crt"));
        }
        let command = command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let process = command.stdin(Stdio::null()).spawn().expect("node runs");
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(dir.join("log")).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    fn stop(&mut self) {
        self.process.kill().expect("it is there");
        self.process.wait().expect("it ends");
    }

    fn start_again(&mut self) {
        self.process = Store::run(self.dir.path(), self.port, self.scheme);
    }

    fn config(&self) -> ObjectStore {
        let authority = self.dir.path().join("ca.crt");
        ObjectStore {
            endpoint: format!("{}://127.0.0.1:{}", self.scheme, self.port),
            bucket: "flows".to_owned(),
            prefix: "fra1/".to_owned(),
            region: "us-east-1".to_owned(),
            credentials: Credentials { access_key_id: ACCOUNT.into(), secret_access_key: ACCOUNT.into() },
            authorities: CertificateDer::from_pem_file(authority).into_iter().collect(),
        }
    }

    /// How often something was put there.
    fn puts(&self) -> usize {
        let log = fs::read_to_string(self.dir.path().join("log")).expect("its log");
        log.matches("Stored object \"fra1/flows/").count()
    }

    /// What pyarrow reads there: each object, and by tenant its rows, packets and bytes.
    fn read(&self) -> (Vec<String>, BTreeMap<String, [u64; 3]>) {
        let popgate = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("python3")
            .env("PYTHONPATH", popgate.join("target/tools/flow-readers"))
            .arg(popgate.join("tests/flow_history/read_s3.py"))
            .args([&format!("127.0.0.1:{}", self.port), ACCOUNT, "flows/fra1/flows"])
            .output()
            .expect("python3 runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (mut objects, mut sums) = (Vec::new(), BTreeMap::new());
        for line in String::from_utf8(output.stdout).expect("text").lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                [object] => objects.push(object.to_owned()),
                [tenant, rows, packets, bytes] => {
                    let number = |text: &str| text.parse().expect("a number");
                    sums.insert(tenant.to_owned(), [rows, packets, bytes].map(number));
                }
                _ => panic!("{line}"),
            }
        }
        (objects, sums)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Of the rows of so many days.
fn expected(days: u64) -> BTreeMap<String, [u64; 3]> {
    let mut sums = BTreeMap::<String, [u64; 3]>::new();
    for n in 0..days * 1_000 {
        let row = row(n, NOON);
        let sum = sums.entry(row.tenant.to_owned()).or_default();
        let more = [1, row.forward.packets + row.reverse.packets, row.forward.bytes + row.reverse.bytes];
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    sums
}

/// The box's files of records, by their names in the store.
fn files(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open: Vec<PathBuf> = vec![dir.join("flows")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()),
            );
        } else {
            let name = path.strip_prefix(dir).expect("below").to_str().expect("UTF-8").to_owned();
            names.push(format!("flows/fra1/{name}"));
        }
    }
    names.sort();
    names
}

/// A certificate for 127.0.0.1, and the authority that signed it.
fn certificate(dir: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output();
        let output = output.expect("openssl runs: it is in Debian's package openssl");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {KEY} -days 2 -subj /CN=ca -keyout ca.key -out ca.crt"));
    openssl(&format!("req {KEY} -subj /CN=store -keyout store.key -out store.csr"));
    fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    openssl(
        "x509 -req -days 2 -in store.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile san -out store.crt",
    );
}

#[test]
fn finished_files_arrive_once_however_often_the_store_and_the_box_begin_anew() {
    let mut store = Store::start("http");
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 0..3);
    {
        let history = History::start(dir.path(), store.config());
        let state =
            history.eventually("all has arrived", |state| state.sent_files == 9 && state.waiting_files == 0);
        assert_eq!((state.problem, state.lost_files), (None, 0));
    }
    let (objects, sums) = store.read();
    assert_eq!((objects, sums), (files(dir.path()), expected(3)));

    store.stop();
    fill(dir.path(), 3..5);
    {
        let history = History::start(dir.path(), store.config());
        let state = history.eventually("it is told", |state| state.failing_since_unix_ms.is_some());
        assert_eq!((state.sent_files, state.waiting_files), (0, 6));
        assert!(state.problem.is_some_and(|problem| problem.starts_with("127.0.0.1:")), "by its address");
        store.start_again();
        let state = history.eventually("the rest has arrived", |state| state.waiting_files == 0);
        assert_eq!((state.sent_files, state.problem, state.retry_unix_ms), (6, None, None));
    }
    let (objects, sums) = store.read();
    assert_eq!((objects, sums), (files(dir.path()), expected(5)));
    assert_eq!(store.puts(), 15, "each once");
}

#[test]
fn over_tls_files_go_to_who_the_authority_vouches_for_and_to_nobody_else() {
    let store = Store::start("https");
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 0..1);
    {
        let stranger = tempfile::tempdir().expect("a directory");
        certificate(stranger.path());
        let authority = CertificateDer::from_pem_file(stranger.path().join("ca.crt")).expect("a certificate");
        let history =
            History::start(dir.path(), ObjectStore { authorities: vec![authority], ..store.config() });
        let state = history.eventually("it is refused", |state| state.problem.is_some());
        assert_eq!((state.sent_files, store.puts()), (0, 0), "{:?}", state.problem);
    }
    let history = History::start(dir.path(), store.config());
    history.eventually("all has arrived", |state| state.sent_files == 3 && state.waiting_files == 0);
    assert_eq!(store.puts(), 3);
}

#[test]
fn what_the_store_refuses_is_told_without_the_secret_and_what_goes_before_it_was_copied_is_counted() {
    let store = Store::start("http");
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 0..2);
    let secret = "not the secret";
    let credentials = Credentials { access_key_id: ACCOUNT.into(), secret_access_key: secret.into() };
    let config = ObjectStore { credentials, ..store.config() };
    assert!(!format!("{config:?}").contains(secret));
    let history = History::start(dir.path(), config);
    let state = history.eventually("it is refused", |state| state.problem.is_some());
    let problem = state.problem.expect("it is told");
    assert!(problem.contains("status 403, SignatureDoesNotMatch"), "{problem}");
    assert!(!problem.contains(secret) && !problem.contains(ACCOUNT), "{problem}");
    assert_eq!((state.lost_files, state.waiting_files), (0, 6));

    let way = history.way.as_ref().expect("it runs");
    assert!(way.set_limits(Limits { keep: Duration::from_secs(3_600), ..LIMITS }));
    let state = history.eventually("all have gone", |state| state.waiting_files == 0);
    assert_eq!((state.lost_files, state.sent_files), (6, 0));
    assert!(state.lost_bytes > 0);
}
