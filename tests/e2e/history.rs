//! The flow history of a box whose disk is full: forwarding does not notice, the operator does, and nothing is lost when there
//! is room again.

use crate::hosts::{Server, curl};
use crate::ledger::now_unix_ms;
use crate::world::{World, eventually, node, template};
use popgate::lab::Signal;
use popgate::store::flows::{Flows, Limits, LocalDisk};
use popgate::store::report::FlowHistoryState;
use std::fs;
use std::io::{ErrorKind, Write};
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
    let limits = Limits { keep: day, keep_rollups: day, tenant_bytes: u64::MAX };
    let dir = world.node("fra1").state_dir();
    let found = Flows::open(dir.to_owned(), limits, Box::new(LocalDisk), now_unix_ms()).state();
    assert!(found.in_memory >= before + fetched, "{found:?} after {kept:?}");
}
