//! How long nobody is heard when a line is cut, and how soon a bad one is left, with real processes.
//!
//! Many branches with two lines each, 30 to 50 ms there and back, and one PoP. What is done to a line is done once to each
//! branch, so that no path has a past. Calls run either way between a host of the branch's and one on the internet, 50
//! packets a second, one for each class; what is measured is what a receiving host sees.
//!
//! One call, the `control`, is on the line to which nothing is done. Where it stalls itself for more than [`STALL`], the
//! machine has stalled, not the path: that run is printed and does not count, and the next branch stands in for it. There
//! are [`SPARE`] of these; if they do not suffice, the test fails.

use crate::calls::{Exchange, Kind};
use crate::figures::{Figure, Stream, Where, percentile};
use crate::world::{WORKERS, World, eventually, template};
use popgate::lab::Topology;
use popgate::lab::topology::Directions;
use popgate::pipeline::report::{DecisionRow, PathReport, PathState};
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SERVER: &str = "203.0.113.80";
/// A class by its port: `control` is on the second line, all others on the first.
const CLASSES: [(&str, u16); 4] =
    [("twin", 5_001), ("critical", 5_002), ("default", 5_003), ("control", 5_004)];
const SPACING: Duration = Duration::from_millis(20);
const CUTS: usize = 20;
const SPARE: usize = 6;
/// In milliseconds. Less than half of the least gap that a class is allowed.
const STALL: f64 = 20.0;
/// Branches that are called from at the same time.
const AT_ONCE: usize = 5;
/// What comes so long after is no longer of the cut.
const AFTER_MS: f64 = 1_500.0;
/// A call's last so many milliseconds are scored: as long as the samples that people were asked about (ITU-T P.800).
const CALL_MS: f64 = 10_000.0;
const WAYS: [Directions; 3] = [Directions::Forward, Directions::Reverse, Directions::Both];

/// The e2e topology's internet and PoP, and so many branches `b1`, `b2`, … of tenant acme.
fn branches(name: &str, count: usize, policies: &str) -> World {
    let routes = "\"100.64.4.0/30\" = \"192.0.2.6\"\n";
    let mut text = template("topology.toml").replace(routes, "\"100.65.0.0/16\" = \"192.0.2.6\"\n");
    let mut tenant = String::from("tenant = \"acme\"\n");
    for n in 1..=count {
        // Lines of 30 to 48 ms there and back.
        let (dsl, lte) = (15 + n % 10, 24 - n % 10);
        let _ = write!(
            tenant,
            "[[branch]]\nname = \"b{n}\"\nprefixes = [\"10.{n}.0.0/24\"]\n\
             [[branch.path]]\nname = \"dsl\"\ntransport = \"isp-a\"\npublic-key = \"@public-key:b{n}-dsl@\"\n\
             [[branch.path]]\nname = \"lte\"\ntransport = \"isp-b\"\npublic-key = \"@public-key:b{n}-lte@\"\n"
        );
        let _ = write!(
            text,
            r#"
[[node]]
name = "b{n}"
kind = "appliance"
config = "berlin"
routes = {{ "192.0.2.0/30" = "100.66.{n}.1", "192.0.2.4/30" = "100.65.{n}.1" }}
[[node]]
name = "h{n}"
kind = "host"
routes = {{ default = "10.{n}.0.1" }}
[[link]]
name = "lan{n}"
ends = ["b{n}:eth0", "h{n}:eth0"]
addresses = {{ b{n} = ["10.{n}.0.1/24"], h{n} = ["10.{n}.0.10/24"] }}
[[link]]
name = "dsl{n}"
ends = ["b{n}:eth1", "isp:dsl{n}"]
addresses = {{ b{n} = ["100.66.{n}.2/30"], isp = ["100.66.{n}.1/30"] }}
delay = "{dsl}ms"
jitter = "1ms"
[[link]]
name = "lte{n}"
ends = ["b{n}:eth2", "isp:lte{n}"]
addresses = {{ b{n} = ["100.65.{n}.2/30"], isp = ["100.65.{n}.1/30"] }}
delay = "{lte}ms"
jitter = "1ms"
"#
        );
    }
    tenant += "[[handoff]]\nname = \"internet\"\nkind = \"internet\"\nnat-pool = [\"198.51.100.0/29\"]\n\
               [[acl]]\nname = \"all\"\naction = \"accept\"\n";
    tenant += policies;
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/lab");
    let mut topology =
        Topology::parse(&text, "branches", &base).unwrap_or_else(|problems| panic!("{problems}"));
    topology.name = name.to_owned();
    let is_branch = |node: &str| node[1..].parse::<usize>().is_ok();
    let wanted = |node: &str| ["isp", "web", "fra1"].contains(&node) || is_branch(node);
    topology.nodes.retain(|node| wanted(&node.name));
    topology.links.retain(|link| link.ends.iter().all(|end| wanted(&end.node)));
    for node in &mut topology.nodes {
        if node.name == "fra1" || node.name.starts_with('b') {
            node.files.insert("tenants/acme.toml".to_owned(), tenant.clone());
        }
        if node.name.starts_with('b') {
            let berlin = template("berlin/popgate.toml").replace("berlin", &node.name);
            node.files.insert("popgate.toml".to_owned(), berlin);
        }
    }
    World::alone_with(topology)
}

/// Each of [`CLASSES`] on the first line but `control`, with what else it wants.
fn policies(of: impl Fn(&str) -> &'static str) -> String {
    let policy = |(class, port): &(&str, u16)| {
        let prefer = if *class == "control" { "[\"lte\"]" } else { "[\"dsl\", \"lte\"]" };
        let claim = match *class {
            "default" => String::new(),
            _ => format!(
                "[[app-class]]\nname = \"{class}\"\nmatch = [{{ protocol = \"udp\", dst-port = {port} }}]\n"
            ),
        };
        format!("{claim}[[path-policy]]\nclass = \"{class}\"\nprefer = {prefer}\n{}\n", of(class))
    };
    CLASSES.iter().map(policy).collect()
}

/// Whether this is a run of the tests with the workers that boxes choose themselves.
fn is_measured() -> bool {
    let chosen = std::env::var_os(WORKERS).is_none();
    if !chosen {
        println!("{WORKERS} is set: times are measured once, with the workers that boxes choose themselves");
    }
    chosen
}

/// What was heard of a class's call in one run.
struct Heard {
    gap: f64,
    lost: u64,
    /// What the worse of its directions would have sounded like.
    mos: f64,
    /// Its moves at either end, since the calls began and before anything was done; and after.
    moves: [u64; 2],
}

/// Does something to the first line of one branch after another, until it has been done `runs` times; the call goes on for so
/// long after it. What was heard in each run, in the order of [`CLASSES`].
fn try_often(
    world: &World,
    runs: usize,
    lasting: Duration,
    act: impl Fn(usize, &World) + Sync,
) -> Vec<[Heard; 4]> {
    // Tenant globex's only branch is not there.
    let of_acme = |path: &PathReport| path.tenant == "acme";
    let all_up =
        || world.paths("fra1").iter().filter(|path| of_acme(path)).all(|path| path.state == PathState::Up);
    eventually("all paths are up", all_up);
    let exchange = Exchange::start(world, "web", &CLASSES.map(|(_, port)| Kind { port, spacing: SPACING }));
    let (next, heard) = (AtomicUsize::new(1), Mutex::new(Vec::new()));
    let good = || heard.lock().expect("no panic").len();
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let (next, heard, exchange, act, good) = (&next, &heard, &exchange, &act, &good);
            scope.spawn(move || {
                // So that they do not cut at the same time.
                std::thread::sleep(Duration::from_millis(1_370) * first as u32);
                while good() < runs {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n > runs + SPARE {
                        return;
                    }
                    let host = format!("h{n}");
                    let begin = popgate_time();
                    let ((at, acted), streams) = exchange.call(world, &host, (n as u16, SERVER), || {
                        // Phases of a probe's interval, spread.
                        std::thread::sleep(Duration::from_millis(2_500 + 37 * n as u64 % 100));
                        act(n, world);
                        let acted = (exchange.now(), popgate_time());
                        std::thread::sleep(lasting);
                        acted
                    });
                    let run = hear(world, n, streams, (at, lasting), (begin, acted));
                    let stall = run[3].gap;
                    if stall > STALL {
                        println!("run {n} does not count: the control call stalled for {stall:.0} ms itself");
                        continue;
                    }
                    heard.lock().expect("no panic").push(run);
                }
            });
        }
    });
    let mut heard = heard.into_inner().expect("no panic");
    assert!(heard.len() >= runs, "the machine stalls: {} runs of {runs}", heard.len());
    heard.truncate(runs);
    heard
}

fn hear(
    world: &World,
    n: usize,
    streams: Vec<[Stream; 2]>,
    (at, lasting): (f64, Duration),
    (begin, acted): (u64, u64),
) -> [Heard; 4] {
    let branch = format!("b{n}");
    let (end, spacing) = (at + lasting.as_secs_f64() * 1e3, SPACING.as_secs_f64() * 1e3);
    let mut decisions: Vec<DecisionRow> = world.decisions(&branch);
    decisions.extend(world.decisions("fra1").into_iter().filter(|row| row.site == branch));
    let heard = CLASSES.iter().zip(streams).map(|((class, _), streams)| {
        let (mut gap, mut lost, mut mos): (f64, u64, f64) = (0.0, 0, 5.0);
        for stream in &streams {
            gap = gap.max(stream.gap(at - 100.0..at + AFTER_MS, spacing));
            // What was sent in the end may be under way.
            let [never, twice] = stream.lost(at - 200.0..end - 200.0);
            assert_eq!(twice, 0, "{branch}: packets of {class} came twice");
            lost += never;
            mos = mos.min(stream.mos(end - CALL_MS..end - 200.0));
        }
        let of = |from: u64, until: u64| {
            let is_it = |row: &&DecisionRow| row.class == *class && (from..until).contains(&row.unix_ms);
            decisions.iter().filter(is_it).count() as u64
        };
        Heard { gap, lost, mos, moves: [of(begin, acted), of(acted, u64::MAX)] }
    });
    let heard: Vec<Heard> = heard.collect();
    heard.try_into().unwrap_or_else(|_| panic!("one for each class"))
}

/// The time in decisions.
fn popgate_time() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64
}

fn remediation(class: &str) -> &'static str {
    match class {
        "twin" => "remediation = \"duplicate-always\"",
        "critical" => "remediation = \"duplicate-on-suspect\"",
        _ => "",
    }
}

#[test]
fn twenty_cuts_are_heard_as_little_as_each_class_may() {
    if !is_measured() {
        return;
    }
    let world = branches("ecuts", CUTS + SPARE, &policies(remediation));
    let runs = try_often(&world, CUTS, Duration::from_millis(7_600), |n, world| {
        world.link(&format!("dsl{n}")).cut_way(WAYS[n % 3]).expect("cut");
    });
    let of = |index: usize| runs.iter().map(move |run| &run[index]);
    let mut gaps = Vec::new();
    for (index, (class, _)) in CLASSES.iter().enumerate() {
        let mut of_class: Vec<f64> = of(index).map(|heard| heard.gap).collect();
        of_class.sort_by(f64::total_cmp);
        println!(
            "{class}: gaps in ms {:?}",
            of_class.iter().map(|gap| gap.round() as u64).collect::<Vec<_>>()
        );
        let moves = of(index).fold([0, 0], |sum, heard| [0, 1].map(|when| sum[when] + heard.moves[when]));
        for (scenario, mos) in [("blackout", None), ("voice-through-cut", Some(mos(of(index))))] {
            let row = Figure::new(scenario, Where::Lab, class).gaps(&of_class).lost(lost(of(index)));
            let row = row.moves(moves[1]).false_moves(moves[0]);
            mos.map_or(row.clone(), |mos| row.with("mos", (mos * 100.0).round() / 100.0)).record();
        }
        assert_eq!(moves[0], 0, "nothing was wrong before the cuts");
        gaps.push([50, 99].map(|percent| percentile(&of_class, percent).expect("twenty")));
    }
    // Must hold 1, and 4: it is heard, and not minded.
    let [_, critical, default, _] = gaps[..] else { panic!("one for each class") };
    assert_eq!(lost(of(0)), 0, "packets that went twice");
    assert!(critical[0] <= 80.0 && critical[1] <= 150.0, "critical class: half and p99 {critical:?}");
    assert!(default[1] <= 300.0, "default class: half and p99 {default:?}");
    assert!((0..4).all(|index| mos(of(index)) >= 4.0), "a call through a cut sounds badly");
    assert_eq!(lost(of(3)), 0, "the other line was not cut");
}

fn lost<'a>(runs: impl Iterator<Item = &'a Heard>) -> u64 {
    runs.map(|heard| heard.lost).sum()
}

/// The worst of them.
fn mos<'a>(runs: impl Iterator<Item = &'a Heard>) -> f64 {
    runs.map(|heard| heard.mos).fold(5.0, f64::min)
}
