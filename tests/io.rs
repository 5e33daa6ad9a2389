//! The edge against the real kernel, in network namespaces that each test makes for itself. Needs root.

use popgate::io::clock::Clock;
use popgate::io::forward::{self, DataPlane, Dropped, Egress, Fault, ForwardHandle, Received, Refused};
use popgate::io::namespace::Namespace;
use popgate::io::network::{Network, Realised};
use popgate::io::tun::TunDevice;
use popgate::io::udp::{Listen, TransportSocket};
use popgate::model::{DeviceId, Instant, Now, TransportId};
use popgate::tables::{DeviceKind, DeviceSpec};
use popgate::wire::{Batch, Ingress, Outbound};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// What every wait of these tests ends by.
const PATIENCE: Duration = Duration::from_secs(20);

// ---- namespaces ----

/// A namespace of a test's own, gone when the test is.
struct Host {
    name: String,
    namespace: Namespace,
}

impl Host {
    fn new(label: &str) -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make network namespaces: run them as root"
        );
        let name = format!("pgt-{label}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let namespace = Namespace::ensure(&name).expect("a namespace");
        let made = Host { name, namespace };
        made.ip("link set lo up");
        made
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).expect("to enter the namespace")
    }

    fn command(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a command"));
        self.run(|| command.args(words).output()).expect("to run it")
    }

    fn spawn(&self, line: &str) -> Child {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a command"));
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        self.run(|| command.spawn()).expect("to run it")
    }

    /// Runs `ip`, which must succeed; gives what it says.
    fn ip(&self, arguments: &str) -> String {
        let output = self.command(&format!("ip {arguments}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments} in {}: {error}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn sysctl(&self, path: &str) -> String {
        let value = self.run(|| std::fs::read_to_string(format!("/proc/sys/{path}")));
        value.unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
    }

    /// Everything `Network` may have changed, to be compared.
    fn state(&self) -> String {
        let routes = "route show table all; -6 route show table all; rule; -6 rule; -o addr; -d -o link";
        routes.split(';').map(|arguments| self.ip(arguments)).collect()
    }

    /// A cable to another namespace, with addresses that may be used at once.
    fn cable(&self, (end, addresses): (&str, &str), other: &Host, (far_end, far_addresses): (&str, &str)) {
        self.ip(&format!("link add {end} type veth peer name {far_end}"));
        self.ip(&format!("link set {far_end} netns {}", other.name));
        for (host, end, addresses) in [(self, end, addresses), (other, far_end, far_addresses)] {
            host.run(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/accept_dad"), "0"))
                .expect("no duplicate address detection");
            for address in addresses.split_whitespace() {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                host.ip(&format!("address add {address} dev {end} {nodad}"));
            }
            host.ip(&format!("link set {end} up"));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(e) = Namespace::remove(&self.name) {
            eprintln!("namespace {} stays: {e}", self.name);
        }
    }
}

/// Removes a namespace that popgate makes in a test, whatever becomes of the test.
struct RemovedAtEnd(String);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        let _ = Namespace::remove(&self.0);
    }
}

fn wait_readable(fd: &impl AsFd, deadline: std::time::Instant) -> bool {
    let left = deadline.saturating_duration_since(std::time::Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).expect("poll") > 0
}

#[test]
fn a_named_namespace_is_found_again_and_a_dead_name_is_none() {
    let made = Host::new("ns");
    let inode = |namespace: &Namespace| rustix::fs::fstat(namespace).expect("fstat").st_ino;
    let found = Namespace::find(&made.name).expect("to look").expect("to find it");
    assert_eq!(inode(&found), inode(&made.namespace));
    assert_eq!(inode(&Namespace::ensure(&made.name).expect("to ensure")), inode(&found), "made only once");
    assert_ne!(inode(&found), inode(&Namespace::current().expect("ours")));
    assert!(made.ip("netns").contains(&made.name), "`ip netns` knows it too");

    // What a process leaves that is killed between making the file and mounting the namespace on it.
    let dead = RemovedAtEnd(format!("{}-dead", made.name));
    std::fs::write(format!("/run/netns/{}", dead.0), "").expect("a file");
    assert!(Namespace::find(&dead.0).expect("to look").is_none());
    let revived = Namespace::ensure(&dead.0).expect("to take the file over");
    assert_ne!(inode(&revived), inode(&found));

    Namespace::remove(&dead.0).expect("to remove");
    assert!(Namespace::find(&dead.0).expect("to look").is_none());
    Namespace::remove(&dead.0).expect("removing what is not there is done already");
    assert!(Namespace::ensure("../escape").is_err());
}

#[test]
fn a_panic_inside_a_namespace_comes_out() {
    let made = Host::new("panic");
    let result = std::panic::catch_unwind(|| made.run(|| panic!("from inside")));
    assert_eq!(*result.expect_err("a panic").downcast::<&str>().expect("a message"), "from inside");
}

// ---- transports ----

const NEAR: TransportId = TransportId(1);
const FAR: TransportId = TransportId(2);

fn listen(address: &str) -> Listen {
    Listen { address: address.parse().expect("an address"), interface: None, shared: false }
}

fn bind(host: &Host, id: TransportId, address: &str) -> TransportSocket {
    host.run(|| TransportSocket::bind(id, &listen(address))).expect("to bind")
}

fn send_all(socket: &mut TransportSocket, to: SocketAddr, datagrams: &[Vec<u8>]) -> Vec<(Fault, u64)> {
    let mut dropped = Vec::new();
    socket.send(datagrams.iter().map(|d| (to, &**d)), |fault, count| dropped.push((fault, count)));
    dropped
}

/// Receives `count` datagrams, and says how many receives of the kernel's it took.
fn receive_all(socket: &mut TransportSocket, count: usize) -> (Vec<(SocketAddr, Vec<u8>)>, usize) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let (mut batch, mut got, mut slots) = (Batch::with_slots(64), Vec::new(), 0);
    while got.len() < count {
        assert!(wait_readable(socket, deadline), "only {} of {count} datagrams came", got.len());
        socket.receive(&mut batch);
        slots += 64 - batch.free_slots();
        for (ingress, packet) in batch.packets() {
            let Ingress::Transport { from, .. } = ingress else { panic!("from {ingress:?}") };
            got.push((from, packet.to_vec()));
        }
        batch.clear();
    }
    (got, slots)
}

fn numbered(lens: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    let datagram = |(i, len): (usize, usize)| (0..len).map(|at| (i * 7 + at) as u8).collect();
    lens.into_iter().enumerate().map(datagram).collect()
}

#[test]
fn datagrams_cross_in_order_and_in_super_packets() {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable(("n0", "10.77.0.1/24 fd77::1/64"), &far, ("f0", "10.77.0.2/24 fd77::2/64"));
    for (here, there) in [("10.77.0.1:0", "10.77.0.2:0"), ("[fd77::1]:0", "[fd77::2]:0")] {
        let mut sender = bind(&near, NEAR, here);
        let mut receiver = bind(&far, FAR, there);
        let to = receiver.local_address().expect("its address");
        let from = sender.local_address().expect("its address");

        // A full run with a short end, mixed sizes, an empty datagram; more than one system call's worth in all.
        let lens = [vec![1200; 100], vec![60], vec![1200, 90, 90, 0, 1300, 0], vec![1400; 500]].concat();
        let datagrams = numbered(lens);
        assert_eq!(send_all(&mut sender, to, &datagrams), []);
        let (got, slots) = receive_all(&mut receiver, datagrams.len());
        assert!(got.iter().all(|(source, _)| *source == from), "from {from}");
        for (i, ((_, got), sent)) in got.iter().zip(&datagrams).enumerate() {
            assert!(got == sent, "datagram {i}: {} bytes sent, {} received", sent.len(), got.len());
        }
        assert!(
            slots < datagrams.len() / 4,
            "{} datagrams in {slots} receives: no GSO, no GRO",
            datagrams.len()
        );
    }
}

#[test]
fn what_exceeds_the_underlays_mtu_is_fragmented_not_lost() {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable(("n0", "10.77.0.1/24 fd77::1/64"), &far, ("f0", "10.77.0.2/24 fd77::2/64"));
    for (here, there) in [("10.77.0.1:0", "10.77.0.2:0"), ("[fd77::1]:0", "[fd77::2]:0")] {
        let mut sender = bind(&near, NEAR, here);
        let mut receiver = bind(&far, FAR, there);
        let to = receiver.local_address().expect("its address");
        // Twice: the second time it is known that GSO cannot carry them.
        for _ in 0..2 {
            let datagrams = numbered([1490; 20].into_iter().chain([3000; 3]).chain([500; 20]));
            assert_eq!(send_all(&mut sender, to, &datagrams), []);
            let (got, _) = receive_all(&mut receiver, datagrams.len());
            assert!(got.iter().map(|(_, got)| got).eq(&datagrams));
        }
    }
}

#[test]
fn what_cannot_be_sent_is_counted_and_does_not_hold_up_the_rest() {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable(("n0", "10.77.0.1/24"), &far, ("f0", "10.77.0.2/24"));
    let mut sender = bind(&near, NEAR, "10.77.0.1:0");
    let mut receiver = bind(&far, FAR, "10.77.0.2:0");
    let reachable = receiver.local_address().expect("its address");
    let nowhere: SocketAddr = "203.0.113.1:9".parse().expect("an address");
    let other_family: SocketAddr = "[fd77::2]:9".parse().expect("an address");
    let (small, huge) = (vec![1; 100], vec![2; 65_520]);
    let datagrams = [
        (nowhere, &small),
        (reachable, &small),
        (other_family, &small),
        (nowhere, &small),
        (nowhere, &small),
        (reachable, &huge),
        (reachable, &small),
    ];
    let mut dropped = Vec::new();
    sender.send(datagrams.iter().map(|(to, d)| (*to, &***d)), |fault, n| dropped.push((fault, n)));
    let count = |fault| dropped.iter().filter(|d| d.0 == fault).map(|d| d.1).sum::<u64>();
    assert_eq!((count(Fault::Unreachable), count(Fault::TooBig)), (4, 1), "{dropped:?}");
    assert_eq!(receive_all(&mut receiver, 2).0.len(), 2);

    // A closed port answers with an ICMP error, which must not disturb anything later.
    drop(receiver);
    for _ in 0..3 {
        assert_eq!(send_all(&mut sender, reachable, &numbered([10])), []);
    }
    let mut receiver = bind(&far, FAR, &reachable.to_string());
    assert_eq!(send_all(&mut sender, reachable, &numbered([10])), []);
    assert_eq!(receive_all(&mut receiver, 1).0.len(), 1);
}

#[test]
fn a_wildcard_socket_hears_both_families_and_binding_problems_name_the_address() {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable(("n0", "10.77.0.1/24 fd77::1/64"), &far, ("f0", "10.77.0.2/24 fd77::2/64"));
    let mut wildcard = bind(&far, FAR, "[::]:0");
    let port = wildcard.local_address().expect("its address").port();
    for (here, there) in [("10.77.0.1:0", "10.77.0.2"), ("[fd77::1]:0", "fd77::2")] {
        let mut caller = bind(&near, NEAR, here);
        let to = SocketAddr::new(there.parse().expect("an address"), port);
        assert_eq!(send_all(&mut caller, to, &numbered([33])), []);
        let (got, _) = receive_all(&mut wildcard, 1);
        // Under the name it has on a socket of its own family, so that it can be answered from either.
        assert_eq!(got[0].0, caller.local_address().expect("its address"));
        assert_eq!(send_all(&mut wildcard, got[0].0, &numbered([44])), []);
        assert_eq!(receive_all(&mut caller, 1).0[0].0, to);
    }

    let fails = |listen: Listen| {
        near.run(|| TransportSocket::bind(NEAR, &listen)).expect_err("a problem").to_string()
    };
    assert!(fails(listen("192.0.2.1:51820")).contains("192.0.2.1:51820"));
    let first = bind(&near, NEAR, "10.77.0.1:0");
    let taken = first.local_address().expect("its address").to_string();
    assert!(fails(listen(&taken)).contains("in use"), "a second popgate is refused");
    let on = |interface: &str| Some(interface.to_owned());
    assert!(fails(Listen { interface: on("nix0"), ..listen("10.77.0.1:0") }).contains("nix0"));
    near.run(|| TransportSocket::bind(NEAR, &Listen { interface: on("n0"), ..listen("10.77.0.1:0") }))
        .expect("to bind to an interface that is there");
    let shared = Listen { shared: true, ..listen("10.77.0.1:7447") };
    let _both = near.run(|| [0, 1].map(|_| TransportSocket::bind(NEAR, &shared).expect("to share")));
}

// ---- devices ----

/// Turns an ICMP or ICMPv6 echo request into its reply; false if it is none.
fn turn_into_reply(packet: &mut [u8]) -> bool {
    let (icmp, request, reply, first, second) = match packet.first().map(|b| b >> 4) {
        Some(4) if packet[9] == 1 => (usize::from(packet[0] & 15) * 4, 8, 0, 12..16, 16..20),
        Some(6) if packet[6] == 58 => (40, 128, 129, 8..24, 24..40),
        _ => return false,
    };
    if packet[icmp] != request {
        return false;
    }
    let source = packet[first.clone()].to_vec();
    packet.copy_within(second.clone(), first.start);
    packet[second].copy_from_slice(&source);
    packet[icmp] = reply;
    // RFC 1624: HC' = ~(~HC + ~m + m'); the swapped addresses leave the sum as it was.
    let word = |byte: u8| u32::from(byte) << 8;
    let old = u32::from(u16::from_be_bytes([packet[icmp + 2], packet[icmp + 3]]));
    let mut sum = (!old & 0xffff) + (!word(request) & 0xffff) + word(reply);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[icmp + 2..icmp + 4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    true
}

/// Pings `to` from `host` while answering on `device`; whether an answer came, and how many requests came out of it.
fn ping_answered(host: &Host, to: &str, device: &mut TunDevice) -> (bool, usize) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut ping = host.spawn(&format!("ping -n -c 1 -W 3 {to}"));
    let (mut batch, mut requests) = (Batch::with_slots(8), 0);
    let status = loop {
        if let Some(status) = ping.try_wait().expect("to wait") {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "ping does not end");
        wait_readable(device, std::time::Instant::now() + Duration::from_millis(20));
        device.receive(&mut batch);
        for (ingress, packet) in batch.packets() {
            assert_eq!(ingress, Ingress::Device(device.id()));
            if turn_into_reply(packet) {
                requests += 1;
                device.send(packet).expect("to answer");
            }
        }
        batch.clear();
    };
    (status.success(), requests)
}

#[test]
fn a_tun_device_hands_over_the_kernels_packets_and_takes_answers() {
    let host = Host::new("tun");
    let mut device = TunDevice::create(DeviceId(3), "t0", &host.namespace).expect("a device");
    host.ip("address add 10.66.0.1/24 dev t0");
    host.ip("address add fd66::1/64 dev t0 nodad");
    host.ip("link set t0 up");
    assert_eq!(ping_answered(&host, "10.66.0.2", &mut device), (true, 1));
    assert_eq!(ping_answered(&host, "fd66::2", &mut device), (true, 1));
    assert_eq!(device.send(&[0; 60]), Err(Fault::Refused), "not an IP packet");

    let busy = TunDevice::create(DeviceId(4), "t0", &host.namespace).expect_err("it is there already");
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);
    drop(TunDevice::attach(DeviceId(3), "t0", &host.namespace).expect("a second queue"));
    assert!(TunDevice::create(DeviceId(4), "name-of-16-bytes", &host.namespace).is_err());

    let mut batch = Batch::with_slots(1);
    host.ip("link set t0 down");
    assert_eq!(device.send(&[0x45; 20]), Err(Fault::Gone), "down");
    host.ip("link delete t0");
    assert_eq!(device.send(&[0x45; 20]), Err(Fault::Gone));
    assert_eq!(device.receive(&mut batch), Received::Gone);
}
