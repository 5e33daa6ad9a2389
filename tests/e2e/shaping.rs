//! Must hold 8 of paths: an upload by iperf3 over a line of 20 Mbit/s leaves a call beside it under 5 ms of extra p95 delay.

use crate::branches::is_measured;
use crate::calls::{Exchange, Kind};
use crate::figures::{Figure, Stream, Where, percentile};
use crate::hosts::{Program, Watch};
use crate::world::{World, eventually, need_program, node, stderr, stdout, template};
use popgate::lab::Topology;
use popgate::pipeline::report::PathState;
use serde_json::Value;
use std::time::Duration;

const SERVER: &str = "203.0.113.80";
/// 20 ms of speech a packet, to the port of the lab's voice class.
const CALL: Kind = Kind { port: 5_004, spacing: Duration::from_millis(20) };
/// What Berlin may send over its DSL line, which takes a little more.
const BANDWIDTH: f64 = 20e6;
const LINE: &str = "21Mbps";
const SECS: u64 = 12;
/// iperf3's first seconds, in which TCP finds the rate.
const OMITTED: u64 = 2;

fn limited(topology: &mut Topology) {
    let voice = "[[app-class]]\nname = \"voice\"\nmatch = [{ protocol = \"udp\", dst-port = 5004 }]\nqueue = \"priority\"\n\
                 set-dscp = \"ef\"\n";
    let policy = template("tenants/acme.toml").replacen("[[app-class]]", &format!("{voice}[[app-class]]"), 1);
    for name in ["berlin", "fra1"] {
        node(topology, name).files.insert("tenants/acme.toml".to_owned(), policy.clone());
    }
    let config = template("berlin/popgate.toml");
    let config = config.replacen("name = \"dsl\"\n", "name = \"dsl\"\nbandwidth = \"20mbit\"\n", 1);
    node(topology, "berlin").files.insert("popgate.toml".to_owned(), config);
    let line = topology.links.iter_mut().find(|link| link.name == "berlin-dsl").expect("the topology has it");
    let [up, _] = &mut line.shape.as_mut().expect("it has a delay").impairments;
    up.rate = Some(LINE.parse().expect("a rate"));
}

/// What packets took, in milliseconds: half of them at most, and 95 of a hundred; and how many were lost.
fn delays(stream: &Stream) -> (f64, f64, u64) {
    let took: Vec<f64> = stream.came.iter().map(|(number, at)| at - stream.sent[*number]).collect();
    let [lost, _] = stream.lost(0.0..stream.sent.last().copied().unwrap_or_default() - 500.0);
    let of = |percent| percentile(&took, percent).expect("some came");
    (of(50), of(95), lost)
}

#[test]
fn an_upload_leaves_a_call_under_5_ms_of_extra_p95_delay() {
    need_program("iperf3", "iperf3");
    if !is_measured() {
        return;
    }
    let world = World::changed_alone("eshaping", &["berlin", "berlin-host"], limited);
    let exchange = Exchange::start(&world, "web", &[CALL]);
    let _server = Program::start(&world, "web", ("tcp", 5_201), &["iperf3", "--server"]);
    eventually("the path is up", || world.path("berlin", "fra1", "dsl").state == PathState::Up);
    world.await_ping("berlin-host", SERVER);
    let watch = Watch::start(&world, "isp", "berlin-dsl", "src host 100.64.1.2 and udp and ip[1] = 0xb8");

    let host = "berlin-host".to_owned();
    let (_, alone) = exchange.call(&world, &(1, host.clone(), SERVER), &[0], || {
        std::thread::sleep(Duration::from_secs(SECS));
    });
    let (uploaded, beside) = exchange.call(&world, &(2, host, SERVER), &[0], || {
        let (secs, omitted) = (SECS.to_string(), OMITTED.to_string());
        let iperf3 = ["iperf3", "--client", SERVER, "--time", &secs, "--omit", &omitted, "--json"];
        let output = world.exec("berlin-host", &iperf3);
        assert!(output.status.success(), "iperf3: {}{}", stdout(&output), stderr(&output));
        let told: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        told["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate")
    });
    let ([up_alone, _], [up_beside, _]) = (&alone[0], &beside[0]);
    let (alone, beside) = (delays(up_alone), delays(up_beside));
    let (extra, share) = (beside.1 - alone.1, uploaded / BANDWIDTH);
    println!(
        "call: p50 {:.1} ms, p95 {:.1} ms alone; {:.1} and {:.1} beside iperf3's {:.1} Mbit/s ({share:.2} of 20 Mbit/s); lost {} and {}",
        alone.0,
        alone.1,
        beside.0,
        beside.1,
        uploaded / 1e6,
        alone.2,
        beside.2
    );
    println!("{}", world.show_text("berlin", &["queues"]));
    println!("{:?}", world.link("berlin-dsl").report());
    Figure::new("shaping", Where::Lab, "voice")
        .lost(beside.2)
        .with("extra_p95_ms", (extra * 100.0).round() / 100.0)
        .with("bulk_share", (share * 1e3).round() / 1e3)
        .record();

    assert!(extra < 5.0, "{extra} ms");
    // Of the rate with all headers, iperf3 counts what is in TCP segments: 92 % of it.
    assert!(share >= 0.85, "{share}");
    assert_eq!(beside.2, 0, "a call loses nothing");
    let marked = watch.lines().len();
    assert!(marked as u64 >= 2 * SECS * 40, "{marked} datagrams carried the call's DSCP outside");
    let queue = |class: &str| {
        let rows = world.queues("berlin");
        rows.into_iter().find(|row| row.class == class && row.path == "dsl").expect("it has sent")
    };
    let (voice, bulk) = (queue("voice"), queue("default"));
    assert_eq!((voice.weight, voice.dropped_packets, voice.overflowed_packets), (None, 0, 0));
    assert!(bulk.dropped_packets + bulk.marked_packets > 0, "{bulk:?}");
}
