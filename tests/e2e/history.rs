//! The flow history of a box: whose disk is full, which forwarding does not notice, the operator does, and where nothing is lost
//! when there is room again; and whose files are copied to an object store.

use crate::hosts::{Server, curl};
use crate::ledger::now_unix_ms;
use crate::world::{World, eventually, node, template};
use popgate::lab::Signal;
use popgate::store::flows::{Counted, Flows, Limits, LocalDisk, Row, Told};
use popgate::store::report::FlowHistoryState;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A file system as small as that, where the box keeps its log.
const SIZE: &str = "size=256k";

/// What is mounted goes with it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(dir: &Path) -> SmallDisk {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(dir).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a file system at {}", dir.display());
        SmallDisk(dir.to_owned())
    }

    /// Takes up all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("a file");
        loop {
            match file.write(&[0; 512]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("there is one");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The box may still have a file there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn state(world: &World) -> FlowHistoryState {
    world.status("fra1").flow_history.expect("a history is kept")
}

#[test]
fn a_full_disk_costs_no_packet_raises_an_alarm_and_no_record_is_lost_when_there_is_room_again() {
    let world = World::changed("ehistory", &["berlin", "berlin-host"], |topology| {
        let text = template("fra1/popgate.toml") + "\n[flow-history]\n";
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    });
    let _web = Server::web(&world, "web");
    world.kill("fra1", Signal::TERM).expect("stopped");
    let log = world.node("fra1").state_dir().join("flow-log");
    let disk = SmallDisk::at(&log);
    world.start("fra1").expect("started");
    world.await_ping("berlin-host", "203.0.113.80");
    let fetch = || curl(&world, "berlin-host", "http://203.0.113.80/whoami", &[]);
    fetch();
    eventually("a record is kept", || state(&world).in_memory > 0);
    assert_eq!(state(&world).problem, None);
    let asked = "tenant = acme and dst = 203.0.113.80 and dport = 80 and src = 10.1.0.10";
    let told = world.ask("fra1", &["flows", asked, "--last", "5m", "--by", "from,to,class"]);
    assert!(told.contains("berlin") && told.contains("internet"), "{told}");
    let told = world.ask("fra1", &["flows", asked, "--last", "5m", "--csv"]);
    assert!(told.contains("203.0.113.80") && told.contains("end-of-flow"), "{told}");

    disk.fill();
    let before = state(&world).in_memory;
    let mut fetched = 20;
    // What is left of the log's last page still takes some records.
    eventually("it is an alarm that nothing can be written", || {
        fetch();
        fetched += 1;
        state(&world).failing_since_unix_ms.is_some()
    });
    let shown = world.show_text("fra1", &["status"]);
    assert!(shown.contains("CANNOT BE WRITTEN: "), "{shown}");
    let pings = world.must("berlin-host", &["ping", "-q", "-c", "300", "-i", "0.01", "203.0.113.80"]);
    assert!(pings.contains("300 packets transmitted, 300 received, 0% packet loss"), "{pings}");
    for _ in 0..20 {
        fetch();
    }
    eventually("what cannot be written is in memory", || state(&world).in_memory >= before + fetched);
    assert!(state(&world).problem.is_some(), "{:?}", state(&world));

    disk.make_room();
    // What was in memory is written, and lasts, before it says so.
    eventually("it is written again", || state(&world).problem.is_none());
    let kept = state(&world);
    assert_eq!(kept.lost, 0, "{kept:?}");
    world.kill("fra1", Signal::KILL).expect("killed");
    let day = Duration::from_secs(86_400);
    let limits = Limits { keep: day, keep_rollups: day, tenant_bytes: u64::MAX, is_copied: false };
    let dir = world.node("fra1").state_dir();
    let found = Flows::open(dir.to_owned(), limits, Box::new(LocalDisk), now_unix_ms()).state();
    assert!(found.in_memory >= before + fetched, "{found:?} after {kept:?}");
}

#[test]
fn a_box_copies_its_finished_files_to_the_object_store_of_its_configuration() {
    let store = tempfile::tempdir().expect("a directory");
    let credentials = store.path().join("credentials");
    fs::write(&credentials, "aws_access_key_id = S3RVER\naws_secret_access_key = S3RVER\n").expect("written");
    fs::set_permissions(&credentials, Permissions::from_mode(0o600)).expect("ours");
    let world = World::changed("ecopies", &[], |topology| {
        let table = format!(
            "\n[flow-history]\n[flow-history.object-store]\nendpoint = \"http://127.0.0.1:9000\"\nbucket = \"flows\"\n\
             credentials-file = {credentials:?}\n"
        );
        let text = template("fra1/popgate.toml") + &table;
        node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
    });
    world.kill("fra1", Signal::TERM).expect("stopped");
    // Of a day that is over: what is of today is not finished yet.
    let now = now_unix_ms() - 2 * 86_400_000;
    let ever = Duration::from_secs(30 * 86_400);
    let limits = Limits { keep: ever, keep_rollups: ever, tenant_bytes: u64::MAX, is_copied: true };
    let mut flows = Flows::open(world.node("fra1").state_dir().to_owned(), limits, Box::new(LocalDisk), now);
    assert!(flows.take(&row(now), now));
    flows.close_log(now);
    while let Some(job) = flows.work(now) {
        flows.done(job.run(), now);
    }
    drop(flows);
    let popgate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let server = world.node("fra1").command("node");
    let server = server.env("NODE_PATH", popgate.join("target/tools/s3rver/node_modules"));
    let server = server.arg(popgate.join("tests/flow_history/store.cjs")).arg(store.path()).arg("9000");
    let _server = server.spawn().expect("node runs");
    world.start("fra1").expect("started");
    let copies = || state(&world).object_store.expect("files are copied");
    eventually("it has arrived", || copies().sent_files == 1 && copies().waiting_files == 0);
    let shown = world.show_text("fra1", &["status"]);
    assert!(shown.contains("1 files copied"), "{shown}");
    let prefix = store.path().join("flows/fra1/flows/tenant=acme");
    assert!(prefix.exists(), "by the site's name: {shown}");
}

fn row(end: u64) -> Row<'static> {
    let (source, destination) = ("10.1.0.10", "203.0.113.80");
    let end_of = |address: &str, port| (address.parse().expect("an address"), port);
    Row {
        tenant: "acme",
        start: end,
        end,
        session: 1,
        protocol: "tcp",
        source: end_of(source, 40_000),
        destination: end_of(destination, 80),
        nat_source: None,
        nat_destination: None,
        from: "branch:berlin",
        to: "handoff:internet",
        class: "web",
        class_by: "rule",
        app: None,
        name: None,
        rule: "out",
        dscp: 0,
        forward_path: Some("dsl"),
        reverse_path: Some("dsl"),
        forward: Counted { packets: 5, bytes: 500 },
        reverse: Counted { packets: 5, bytes: 5_000 },
        tcp_flags: 0,
        generation: 1,
        end_reason: "end-of-flow",
        told: Told::default(),
    }
}
