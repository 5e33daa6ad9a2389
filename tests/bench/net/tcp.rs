//! TCP and ping from a client through branch and PoP to the server, everything on the same processors.

use super::Failure;
use super::dut::Pop;
use super::order::{Order, Watcher};
use super::report::{Figures, quantile};
use super::rig::Rig;
use popgate::lab::NodeChild;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Output, Stdio};
use std::time::Duration;

const SERVER: &str = "10.2.0.2";
const PATIENCE: Duration = Duration::from_secs(10);

/// Segments that had to wait for one before them, at the receiver: after one was lost, too.
const WAITED: [&str; 1] = ["TCPOFOQueue"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub streams: usize,
    /// From the server to the client.
    pub down: bool,
}

/// iperf3 for so many seconds. Processor time is that of both boxes, memory the PoP's. Then once more, for a second, while
/// somebody watches in which order packets arrive, which takes some of the processor.
pub fn throughput(pop: &Pop, tcp: Tcp, seconds: u64) -> Result<Figures, Failure> {
    let rig = &pop.rig;
    let (branch, far) = (rig.processes("branch")?, rig.processes("pop")?);
    let to = if tcp.down { "cli" } else { "srv" };
    let mut receiver = rig.proc_net(to, "netstat")?;
    let server = serve(rig)?;
    let disorder = tcp_count(&mut receiver, &WAITED)?;
    let cpu = branch.cpu_seconds() + far.cpu_seconds();
    let output = client(rig, tcp, seconds)?.output()?;
    let cpu = branch.cpu_seconds() + far.cpu_seconds() - cpu;
    let disorder = tcp_count(&mut receiver, &WAITED)? - disorder;
    drop(server);
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let number = |path: &str| said.pointer(path).and_then(Value::as_f64);
    let (Some(rate), Some(bytes)) =
        (number("/end/sum_received/bits_per_second"), number("/end/sum_received/bytes"))
    else {
        let error = said.get("error").and_then(Value::as_str).unwrap_or("said nothing of what it received");
        return Err(format!("iperf3: {error}").into());
    };
    let Order { seen, reordered } = order(rig, tcp)?;
    Ok(Figures::from([
        ("mbit_s", rate / 1e6),
        ("retransmits", number("/end/sum_sent/retransmits").unwrap_or(0.0)),
        ("out_of_order", disorder),
        ("watched", seen as f64),
        ("reordered", reordered as f64),
        ("cpu_s_per_gb", cpu / (bytes / 1e9)),
        ("rss_mb", far.rss_mb()),
    ]))
}

/// What arrives in which order in a second of iperf3.
fn order(rig: &Rig, tcp: Tcp) -> Result<Order, Failure> {
    let server = serve(rig)?;
    let watcher = Watcher::start(rig, if tcp.down { "cli" } else { "srv" })?;
    client(rig, tcp, 1)?.output()?;
    drop(server);
    watcher.stop()
}

/// `count` pings 10 ms apart, while TCP fills the tunnel if `loaded`.
pub fn ping(pop: &Pop, count: u64, loaded: bool) -> Result<Figures, Failure> {
    let rig = &pop.rig;
    let mut load = None;
    if loaded {
        let server = serve(rig)?;
        // As long as the pings and a second on either side.
        let client = client(rig, Tcp { streams: 1, down: false }, count / 100 + 2)?;
        // Until it is in full flow.
        std::thread::sleep(Duration::from_secs(1));
        load = Some((client, server));
    }
    let count_text = count.to_string();
    let said = ping_output(rig, &["ping", "-n", "-i", "0.01", "-c", &count_text, SERVER])?;
    drop(load);
    let text = String::from_utf8_lossy(&said.stdout);
    let times =
        text.lines().filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok());
    let mut times: Vec<f64> = times.collect();
    if times.is_empty() {
        return Err("no ping was answered".into());
    }
    times.sort_by(f64::total_cmp);
    Ok(Figures::from([
        ("p50_ms", quantile(&times, 0.5)),
        ("p99_ms", quantile(&times, 0.99)),
        ("lost", count as f64 - times.len() as f64),
        ("rss_mb", rig.processes("pop")?.rss_mb()),
    ]))
}

fn ping_output(rig: &Rig, command: &[&str]) -> Result<Output, Failure> {
    Ok(rig.lab.run("cli", command)?)
}

/// A server for one test; back when it listens.
fn serve(rig: &Rig) -> Result<NodeChild, Failure> {
    let server = rig.lab.node("srv").command("iperf3").args(["--server", "--one-off"]);
    let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // 5201, listening; asked of the kernel, since a connection would be the one test.
    let mut sockets = [rig.proc_net("srv", "tcp6")?, rig.proc_net("srv", "tcp")?];
    rig.setting.wait("iperf3 listens", PATIENCE, || {
        sockets.iter_mut().any(|file| {
            let text = text_of(file).unwrap_or_default();
            text.lines().any(|line| line.contains(":1451 ") && line.contains(" 0A "))
        })
    })?;
    Ok(server)
}

fn client(rig: &Rig, tcp: Tcp, seconds: u64) -> Result<NodeChild, Failure> {
    let (streams, seconds) = (tcp.streams.to_string(), seconds.to_string());
    // Cubic, since it shows what is lost; and the same on every machine.
    let mut arguments = vec!["--client", SERVER, "-J", "-C", "cubic", "-t", &seconds, "-P", &streams];
    if tcp.down {
        arguments.push("--reverse");
    }
    let client = rig.lab.node("cli").command("iperf3").args(arguments);
    Ok(client.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

/// The sum of counters of TCP's (TcpExt).
fn tcp_count(netstat: &mut File, counters: &[&str]) -> Result<f64, Failure> {
    let text = text_of(netstat)?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let count = |counter: &&str| -> Option<f64> {
        let at = names.split_whitespace().position(|name| name == *counter)?;
        numbers.split_whitespace().nth(at)?.parse().ok()
    };
    let counts: Option<Vec<f64>> = counters.iter().map(count).collect();
    let counts = counts.ok_or_else(|| format!("/proc/net/netstat does not have all of {counters:?}"))?;
    Ok(counts.iter().sum())
}

fn text_of(file: &mut File) -> std::io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}
