//! Must hold 5: the plug is pulled while the configuration is committed and a branch sends.
//!
//! QEMU is killed: what the guest has written is there, in the order in which it was written, up to some moment. What a disk with
//! a cache of its own would lose beyond that is not tried.

use crate::machine::{BOOT, Build, Firmware, Machine};
use crate::network::Network;
use crate::office::Office;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// CI, which has only so much time for all, asks for fewer.
fn cuts() -> usize {
    std::env::var("POPGATE_TEST_CUTS").map_or(20, |it| it.parse().expect("POPGATE_TEST_CUTS is a number"))
}

/// From the first commit after a boot on; one takes a tenth of a second.
const UP_TO: Duration = Duration::from_secs(4);

/// One-packet flows, to ports that nothing listens at, for as long as it is kept.
struct Traffic(Child);

impl Traffic {
    fn begin(network: &Network) -> Traffic {
        let endless =
            "while :; do echo flow >/dev/udp/203.0.113.80/$((1024 + RANDOM)) || sleep 0.1; sleep 0.005; done";
        let mut bash = network.command(&["bash", "-c", endless]);
        Traffic(bash.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("bash runs"))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was put to the box last, and what it has acknowledged.
#[derive(Debug, Clone, Default)]
struct Asked {
    acknowledged: String,
    on_its_way: Option<String>,
}

#[test]
fn power_cuts_during_commits_leave_the_old_or_the_new_configuration_every_time() {
    let seed = std::env::var("POPGATE_TEST_SEED")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("power cuts: POPGATE_TEST_SEED={seed}");
    let (begin, cuts) = (Instant::now(), cuts());
    let mut random = StdRng::seed_from_u64(seed);
    let network = Network::new();
    let office = Office::new(&network, "192.0.2.10");
    let disk = office.disk();
    office.start_branch(&network);
    let _traffic = Traffic::begin(&network);
    // The firmware and GRUB have their tests.
    let build = Build { firmware: Firmware::None, ..Build::default() };

    let asked = Mutex::new(Asked { acknowledged: office.policy.clone(), on_its_way: None });
    let (mut number, mut commits, mut news) = (0, 0, 0);
    for cut in 1..=cuts + 1 {
        let mut machine = Machine::start(&network, &disk, &build);
        let mut found = None;
        machine.eventually("its API answers", BOOT, |_| {
            found = office.policy_in_force(&network);
            found.is_some()
        });
        let found = found.expect("a policy");
        let before = asked.lock().expect("no panic").clone();
        let is_new = before.on_its_way.as_ref() == Some(&found);
        assert!(
            is_new || found == before.acknowledged,
            "after cut {}: {found:?} is neither of {before:?}",
            cut - 1
        );
        news += usize::from(is_new);
        if cut == cuts + 1 {
            println!(
                "power cuts: {cuts} in {:.0} s, after {commits} commits; {news} times what was on its way was in force",
                begin.elapsed().as_secs_f64()
            );
            // What was written between cuts can be read, each of them in the middle of a log.
            let flows =
                office.get(&network, "flows/query?last=6h&limit=1000").expect("the flow history answers");
            let rows = flows["rows"].as_array().map_or(0, Vec::len);
            println!("power cuts: {rows} records, or more, are in the flow history");
            assert!(rows > cuts, "{flows}");
            break;
        }
        *asked.lock().expect("no panic") = Asked { acknowledged: found, on_its_way: None };

        // Commits go on until the plug is pulled, whenever that is.
        let ends = AtomicBool::new(false);
        let pause =
            Duration::from_millis(random.random_range(0..u64::try_from(UP_TO.as_millis()).expect("few")));
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| {
                let mut made = 0;
                while !ends.load(Ordering::Relaxed) {
                    number += 1;
                    let policy = format!("# commit {number}\n{}", office.policy);
                    asked.lock().expect("no panic").on_its_way = Some(policy.clone());
                    match office.commit(&network, &policy) {
                        Some(true) => {
                            *asked.lock().expect("no panic") =
                                Asked { acknowledged: policy, on_its_way: None }
                        }
                        Some(false) => panic!("commit {number} is refused"),
                        // The plug is pulled: this one is neither old nor new until the next boot.
                        None => break,
                    }
                    made += 1;
                }
                made
            });
            std::thread::sleep(pause);
            machine.kill();
            ends.store(true, Ordering::Relaxed);
            commits += committing.join().expect("no panic");
        });
    }
    assert!(commits > 0, "something was committed");
}
