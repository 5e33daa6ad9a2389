//! Many branches with two lines each, 30 to 50 ms there and back, and one PoP: what is done to a line is done once to each
//! branch, so that no path has a past. Calls run either way between a host of the branch's and one on the internet, and what is
//! measured is what a receiving host sees.
//!
//! The last class's call, the control, is on the line to which nothing is done. Where it stalls itself for more than [`STALL`],
//! the machine has stalled, not the path: that run is printed and does not count, and the next branch stands in for it. There
//! are [`SPARE`] of these; if they do not suffice, the test fails.

use crate::calls::{Exchange, Kind};
use crate::figures::Stream;
use crate::world::{WORKERS, World, eventually, template};
use popgate::lab::Topology;
use popgate::pipeline::report::{DecisionRow, PathReport, PathState};
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const SERVER: &str = "203.0.113.80";
pub const SPARE: usize = 6;
/// In milliseconds. Less than half of the least gap that a class is allowed.
const STALL: f64 = 20.0;
/// Branches that are called from at the same time.
const AT_ONCE: usize = 5;
/// What comes so long after, in milliseconds, is no longer of the gap.
const AFTER: f64 = 1_500.0;
/// So much of a call, in milliseconds, is scored in the end: as long as the samples that people were asked about (ITU-T P.800).
const SCORED: f64 = 10_000.0;

/// An app class, the UDP port it claims, the time between the packets of its calls, and what its policy says besides.
pub struct Class {
    pub name: &'static str,
    pub port: u16,
    pub spacing: Duration,
    pub policy: &'static str,
}

/// The class that is on the second line alone; all others are on the first.
pub const CONTROL: Class = Class::call("control", 5_009, "");

impl Class {
    /// Of 50 packets a second.
    pub const fn call(name: &'static str, port: u16, policy: &'static str) -> Class {
        Class { name, port, spacing: Duration::from_millis(20), policy }
    }

    fn text(&self) -> String {
        let Class { name, port, policy, .. } = self;
        let prefer = if *name == CONTROL.name { "[\"lte\"]" } else { "[\"dsl\", \"lte\"]" };
        let claim = match *name {
            "default" => String::new(),
            _ => format!(
                "[[app-class]]\nname = \"{name}\"\nmatch = [{{ protocol = \"udp\", dst-port = {port} }}]\n"
            ),
        };
        format!("{claim}[[path-policy]]\nclass = \"{name}\"\nprefer = {prefer}\n{policy}\n")
    }
}

/// The tenant's policy for these.
pub fn policies(classes: &[Class]) -> String {
    classes.iter().map(Class::text).collect()
}

/// The e2e topology's internet and PoP, and so many branches `b1`, `b2`, … of tenant acme, a host
/// `h1`, `h2`, … in each. `lines` is TOML that all of their lines have; a branch's are links `dsl1` and `lte1`.
pub fn branches(name: &str, count: usize, policies: &str, lines: &str) -> World {
    World::alone_with(topology(name, count, policies, lines))
}

/// Their topology.
pub fn topology(name: &str, count: usize, policies: &str, lines: &str) -> Topology {
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
{lines}
[[link]]
name = "lte{n}"
ends = ["b{n}:eth2", "isp:lte{n}"]
addresses = {{ b{n} = ["100.65.{n}.2/30"], isp = ["100.65.{n}.1/30"] }}
delay = "{lte}ms"
{lines}
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
    topology
}

/// Whether this is a run of the tests with the workers that boxes choose themselves.
pub fn is_measured() -> bool {
    let chosen = std::env::var_os(WORKERS).is_none();
    if !chosen {
        println!("{WORKERS} is set: times are measured once, with the workers that boxes choose themselves");
    }
    chosen
}

/// One run: what was done to a branch's first line, and what was heard of it.
pub struct Run {
    /// Which branch's.
    pub number: usize,
    /// When it was done, in milliseconds of the streams' clock.
    pub at: f64,
    /// When the calls were over.
    pub end: f64,
    /// Of the classes that called, in their order: the control last.
    pub heard: Vec<Heard>,
}

/// What was heard of a class's call in one run.
pub struct Heard {
    pub gap: f64,
    pub lost: u64,
    /// What the worse of its directions would have sounded like.
    pub mos: f64,
    /// Its moves at either end, since the calls began and before anything was done; and after.
    pub moves: [u64; 2],
    /// How long after it was done the branch's end moved it, in milliseconds.
    pub moved: Option<u64>,
    /// From the branch, and to it.
    pub streams: [Stream; 2],
}

/// Does something to the first line of one branch after another, until it has been done `runs` times; the call goes on for so
/// long after it. Of `classes` those call which are `heard` in that run, and the control, which is the last.
pub fn try_often(
    world: &World,
    (runs, lasting): (usize, Duration),
    classes: &[Class],
    heard: impl Fn(usize) -> Vec<usize> + Sync,
    act: impl Fn(usize, &World) + Sync,
) -> Vec<Run> {
    // Tenant globex's only branch is not there.
    let of_acme = |path: &PathReport| path.tenant == "acme";
    let all_up =
        || world.paths("fra1").iter().filter(|path| of_acme(path)).all(|path| path.state == PathState::Up);
    eventually("all paths are up", all_up);
    let kinds: Vec<Kind> =
        classes.iter().map(|class| Kind { port: class.port, spacing: class.spacing }).collect();
    let exchange = Exchange::start(world, "web", &kinds);
    let (next, done) = (AtomicUsize::new(1), Mutex::new(Vec::new()));
    let good = || done.lock().expect("no panic").len();
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let (next, done, exchange, heard, act, good) = (&next, &done, &exchange, &heard, &act, &good);
            scope.spawn(move || {
                // So that they do not act at the same time.
                std::thread::sleep(Duration::from_millis(1_370) * first as u32);
                while good() < runs {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > runs + SPARE {
                        return;
                    }
                    let calling = [heard(number), vec![classes.len() - 1]].concat();
                    let begin = popgate_time();
                    let caller = (number as u16, format!("h{number}"), SERVER);
                    let ((at, acted), streams) = exchange.call(world, &caller, &calling, || {
                        // Phases of a probe's interval, spread.
                        std::thread::sleep(Duration::from_millis(2_500 + 37 * number as u64 % 100));
                        act(number, world);
                        let acted = (exchange.now(), popgate_time());
                        std::thread::sleep(lasting);
                        acted
                    });
                    let mut run = Run { number, at, end: exchange.now(), heard: Vec::new() };
                    let decisions = decisions(world, number);
                    for (class, streams) in calling.into_iter().zip(streams) {
                        run.hear(classes, class, streams, &decisions, [begin, acted]);
                    }
                    let stall = run.heard.last().map_or(0.0, |control| control.gap);
                    if stall > STALL {
                        println!(
                            "run {number} does not count: the control call stalled for {stall:.0} ms itself"
                        );
                        continue;
                    }
                    done.lock().expect("no panic").push(run);
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no panic");
    assert!(done.len() >= runs, "the machine stalls: {} runs of {runs}", done.len());
    done.truncate(runs);
    done
}

impl Run {
    fn hear(
        &mut self,
        classes: &[Class],
        class: usize,
        streams: [Stream; 2],
        decisions: &[(bool, DecisionRow)],
        [begin, acted]: [u64; 2],
    ) {
        let Class { name, spacing, .. } = classes[class];
        // What was sent in the end may be under way.
        let over = self.end - 200.0;
        let (mut gap, mut lost, mut mos): (f64, u64, f64) = (0.0, 0, 5.0);
        for stream in &streams {
            let until = over.min(self.at + AFTER);
            gap = gap.max(stream.gap(self.at - 100.0..until, spacing.as_secs_f64() * 1e3));
            let [never, twice] = stream.lost(self.at - 200.0..over);
            assert_eq!(twice, 0, "run {}: packets of {name} came twice", self.number);
            lost += never;
            mos = mos.min(stream.mos(self.end - SCORED..over));
        }
        let of = |from: u64, until: u64| {
            let is_it = move |(_, row): &&(bool, DecisionRow)| {
                row.class == name && (from..until).contains(&row.unix_ms)
            };
            decisions.iter().filter(is_it)
        };
        let moves = [of(begin, acted).count() as u64, of(acted, u64::MAX).count() as u64];
        let moved = of(acted, u64::MAX).filter(|(near, _)| *near).map(|(_, row)| row.unix_ms - acted).min();
        self.heard.push(Heard { gap, lost, mos, moves, moved, streams });
    }
}

/// Those of a branch and of the PoP about it; whether it is the branch's own.
fn decisions(world: &World, number: usize) -> Vec<(bool, DecisionRow)> {
    let branch = format!("b{number}");
    let near = world.decisions(&branch).into_iter().map(|row| (true, row));
    let far = world.decisions("fra1").into_iter().filter(|row| row.site == branch);
    near.chain(far.map(|row| (false, row))).collect()
}

/// The time in decisions.
fn popgate_time() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64
}
