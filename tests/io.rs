//! The edge against the real kernel, in network namespaces that each test makes for itself. Needs root.

use popgate::config::{Addressing, Attachment};
use popgate::io::clock::Clock;
use popgate::io::cpu::Placement;
use popgate::io::crossing::Seat;
use popgate::io::forward::{self, DataPlane, Dropped, Egress, Fault, ForwardHandle, Post, Received, Refused};
use popgate::io::namespace::Namespace;
use popgate::io::network::{HandoffLink, Network, Realised};
use popgate::io::tun::TunDevice;
use popgate::io::udp::{Listen, TransportSocket};
use popgate::model::{DeviceId, DropReason, Instant, Now, PathId, TransportId};
use popgate::pipeline::{Steered, steer};
use popgate::tables::{DeviceKind, DeviceSpec, PrivateNetwork};
use popgate::wire::{Batch, Handover, Ingress, Outbound};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
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

    /// Everything `Network` may have changed, a line each, to be compared; without what changes by itself (link-local
    /// addresses, carrier) or comes with forwarding, which stays on (anycast addresses of routers).
    fn state(&self) -> BTreeSet<String> {
        let lists = "-4 route show table all; -6 route show table all; -4 rule; -6 rule; -o address";
        let mut lines: BTreeSet<String> = BTreeSet::new();
        for list in lists.split("; ") {
            let by_itself = |line: &&str| line.contains("anycast ") || line.contains("fe80:");
            let said = self.ip(list);
            let kept = said.lines().filter(|line| !by_itself(line));
            lines.extend(
                kept.map(|line| {
                    format!("{list}: {}", line.replace(" linkdown", "").replace(" tentative", ""))
                }),
            );
        }
        for line in self.ip("-o link").lines() {
            let mut words = line.split_whitespace();
            let mut after = |word| words.by_ref().skip_while(|w| *w != word).nth(1).unwrap_or("-").to_owned();
            let (mtu, group, queue) = (after("mtu"), after("group"), after("qlen"));
            let name = line.split(": ").nth(1).expect("a name");
            let up = line.split(['<', ',', '>']).any(|flag| flag == "UP");
            lines.insert(format!("link {name} up {up} mtu {mtu} group {group} qlen {queue}"));
        }
        lines
    }

    /// Waits until the kernel has got round to letting IPv6 addresses be used.
    fn await_addresses(&self) {
        eventually("an address stays tentative", || self.ip("address show tentative").trim().is_empty());
    }

    /// A cable to another namespace, over which the first addresses of both ends reach each other.
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
        self.await_addresses();
        other.await_addresses();
        for far in far_addresses.split_whitespace().filter_map(|address| address.split('/').next()) {
            let ping = format!("ping -n -c 1 -W 1 {far}");
            eventually("the cable stays dead", || self.command(&ping).status.success());
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

/// Waits for what is bound to come. Closing a file is one such thing here: while another test starts a command, the child
/// has a copy of it until it becomes that command.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
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
    Listen { address: address.parse().expect("an address"), interface: None }
}

fn bind(host: &Host, id: TransportId, address: &str) -> TransportSocket {
    host.run(|| TransportSocket::bind(id, &listen(address))).expect("to bind")
}

/// Binds an address that has just been let go of.
fn bind_again(host: &Host, id: TransportId, address: SocketAddr) -> TransportSocket {
    let mut socket = None;
    eventually("the address is free again", || {
        socket = host.run(|| TransportSocket::bind(id, &listen(&address.to_string()))).ok();
        socket.is_some()
    });
    socket.expect("just bound")
}

fn send_all(socket: &mut TransportSocket, to: SocketAddr, datagrams: &[Vec<u8>]) -> Vec<(Fault, u64)> {
    let mut dropped = Vec::new();
    socket.send(datagrams.iter().map(|d| (to, 0, &**d)), |fault, count| dropped.push((fault, count)));
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
        for (ingress, packet, _) in batch.packets() {
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
    sender.send(datagrams.iter().map(|(to, d)| (*to, 0, &***d)), |fault, n| dropped.push((fault, n)));
    let count = |fault| dropped.iter().filter(|d| d.0 == fault).map(|d| d.1).sum::<u64>();
    assert_eq!(count(Fault::TooBig), 1, "{dropped:?}");
    let unreachable = dropped.iter().filter(|(fault, _)| matches!(fault, Fault::Unreachable(_)));
    assert_eq!(unreachable.map(|d| d.1).sum::<u64>(), 4, "{dropped:?}");
    assert_eq!(receive_all(&mut receiver, 2).0.len(), 2);

    // A closed port answers with an ICMP error, which must not disturb anything later.
    drop(receiver);
    for _ in 0..3 {
        assert_eq!(send_all(&mut sender, reachable, &numbered([10])), []);
    }
    let mut receiver = bind_again(&far, FAR, reachable);
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
    let _group =
        near.run(|| TransportSocket::bind_group(NEAR, &listen("10.77.0.1:7447"), 2)).expect("a group");
    assert!(fails(listen("10.77.0.1:7447")).contains("in use"), "so is one beside a group");
    let group = near.run(|| TransportSocket::bind_group(NEAR, &listen("10.77.0.1:7447"), 2));
    assert!(group.expect_err("a problem").to_string().contains("in use"), "and a second group");
}

/// What has come to which socket of a group.
fn receive_each(group: &mut [TransportSocket], count: usize) -> Vec<(usize, Vec<u8>)> {
    let (mut batch, mut got) = (Batch::with_slots(64), Vec::new());
    eventually("not all datagrams came", || {
        for (i, socket) in group.iter_mut().enumerate() {
            socket.receive(&mut batch);
            got.extend(batch.packets().map(|(_, packet, _)| (i, packet.to_vec())));
            batch.clear();
        }
        got.len() >= count
    });
    got
}

/// A message of that type for a tunnel of that worker's, and a mark to know it by.
fn message(kind: u8, worker: u8, len: usize) -> Vec<u8> {
    let mut message = vec![0xee; len.max(16)];
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    // The index's low byte counts sessions; the worker is in the six bits above, the rest is random.
    let index = [0x77, 0xc0 | worker, 0x55, 0x99];
    let at = if kind == 2 { 8 } else { 4 };
    message[at..at + 4].copy_from_slice(&index);
    message.truncate(len);
    message
}

#[test]
fn the_kernel_steers_each_datagram_where_the_pipeline_says() {
    let host = Host::new("steer");
    for workers in [1, 2, 4, 64] {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let mut sender = bind(&host, NEAR, at);
            let mut group =
                host.run(|| TransportSocket::bind_group(FAR, &listen(at), workers)).expect("a group");
            assert_eq!(group.len(), usize::from(workers) + 1);
            let to = group[0].local_address().expect("its address");

            let kinds = (0..=5).chain([130, 255]);
            let mut datagrams: Vec<Vec<u8>> =
                kinds.flat_map(|kind| (0..64).map(move |worker| message(kind, worker, 148))).collect();
            // Too short to say, and just long enough; rubbish.
            for kind in [1, 2, 3, 4] {
                datagrams.extend((0..=13).map(|len| message(kind, 0, len)));
            }
            datagrams.extend(
                (0..100u8).map(|i| (0..i).map(|at| i.wrapping_mul(31) ^ at.wrapping_mul(7)).collect()),
            );
            // One at a time: those of one size would be joined, and a super-packet has one owner.
            for datagram in datagrams.chunks(1) {
                assert_eq!(send_all(&mut sender, to, datagram), []);
            }
            let got = receive_each(&mut group, datagrams.len());
            assert_eq!(got.len(), datagrams.len());
            for (socket, datagram) in got {
                let owner = match steer(&datagram, workers) {
                    Steered::Worker(worker) => usize::from(worker),
                    Steered::Entrance => usize::from(workers),
                };
                let begin = &datagram[..datagram.len().min(12)];
                assert_eq!(socket, owner, "{workers} workers: {begin:02x?} of {} bytes", datagram.len());
            }
        }
    }
}

#[test]
fn a_super_packet_is_steered_whole() {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable(("n0", "10.77.0.1/24"), &far, ("f0", "10.77.0.2/24"));
    let mut sender = bind(&near, NEAR, "10.77.0.1:0");
    let mut group = far.run(|| TransportSocket::bind_group(FAR, &listen("10.77.0.2:0"), 4)).expect("a group");
    let to = group[0].local_address().expect("its address");
    for worker in [3, 0, 2, 1] {
        assert_eq!(send_all(&mut sender, to, &vec![message(4, worker, 1400); 44]), []);
        let (got, slots) = receive_all(&mut group[usize::from(worker)], 44);
        assert!(got.iter().all(|(_, datagram)| *datagram == message(4, worker, 1400)));
        assert_eq!(slots, 1, "44 datagrams in {slots} receives");
    }
    let mut batch = Batch::with_slots(64);
    group.iter_mut().for_each(|socket| assert_eq!(socket.receive(&mut batch), Received::Drained));
    assert!(batch.is_empty(), "nothing came to anybody else");
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
        for (ingress, packet, _) in batch.packets() {
            assert_eq!(ingress, Ingress::Device(device.id()));
            if turn_into_reply(packet) {
                requests += 1;
                send(device, packet).expect("to answer");
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
    host.await_addresses();
    assert_eq!(ping_answered(&host, "10.66.0.2", &mut device), (true, 1));
    assert_eq!(ping_answered(&host, "fd66::2", &mut device), (true, 1));
    assert_eq!(send(&mut device, &[0; 60]), Err(Fault::Refused), "not an IP packet");

    let busy = TunDevice::create(DeviceId(4), "t0", &host.namespace).expect_err("it is there already");
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);
    assert!(TunDevice::create(DeviceId(4), "name-of-16-bytes", &host.namespace).is_err());

    let mut batch = Batch::with_slots(1);
    host.ip("link set t0 down");
    assert_eq!(send(&mut device, &[0x45; 20]), Err(Fault::Gone), "down");
    host.ip("link delete t0");
    assert_eq!(send(&mut device, &[0x45; 20]), Err(Fault::Gone));
    assert_eq!(device.receive(&mut batch), Received::Gone);
}

#[test]
fn a_flow_is_answered_on_the_queue_it_was_written_on() {
    let host = Host::new("queues");
    let mut queues = TunDevice::create_queues(DeviceId(3), "t0", &host.namespace, 3).expect("a device");
    host.ip("address add 10.66.0.1/24 dev t0");
    host.ip("link set t0 up");
    let socket = host.run(|| std::net::UdpSocket::bind("10.66.0.1:7")).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for round in 0..20 {
        let writer = round % queues.len();
        let port = 40_000 + round as u16;
        let mut packet = udp_packet([10, 66, 0, 2], [10, 66, 0, 1], 7);
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        send(&mut queues[writer], &packet).expect("room");
        let mut bytes = [0; 64];
        let (_, from) = socket.recv_from(&mut bytes).expect("what was written");
        assert_eq!(from.port(), port);
        socket.send_to(b"answer", from).expect("to answer");

        let (mut batch, mut answered_on) = (Batch::with_slots(8), None);
        eventually("no answer comes out", || {
            for (i, queue) in queues.iter_mut().enumerate() {
                queue.receive(&mut batch);
                for (_, packet, _) in batch.packets() {
                    if packet[9] == 17 && packet[22..24] == port.to_be_bytes() {
                        answered_on = Some(i);
                    }
                }
                batch.clear();
            }
            answered_on.is_some()
        });
        assert_eq!(answered_on, Some(writer), "round {round}");
    }
}

// ---- the network ----

fn realise(network: &mut Network, wanted: &[(DeviceId, DeviceSpec)]) -> Realised {
    /// May be awaited in a task of a runtime with many threads.
    fn sendable<T>(future: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
        future
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(sendable(network.realise(wanted)))
}

/// Realises without problems.
fn realise_all(network: &mut Network, wanted: &[(DeviceId, DeviceSpec)]) -> Realised {
    let realised = realise(network, wanted);
    assert_eq!(realised.problems, []);
    realised
}

fn only_device(realised: Realised) -> TunDevice {
    let [queues] = <[_; 1]>::try_from(realised.opened).expect("one device");
    let [device] = <[_; 1]>::try_from(queues).expect("one queue");
    device
}

fn internet(id: u16, routes: &[&str]) -> (DeviceId, DeviceSpec) {
    let routes = routes.iter().map(|r| r.parse().expect("a prefix")).collect();
    let kind = DeviceKind::Internet { routes, masquerades: Vec::new() };
    (DeviceId(id), DeviceSpec { name: "pg-internet".to_owned(), mtu: 1420, kind })
}

fn lan(id: u16, interfaces: &[&str]) -> (DeviceId, DeviceSpec) {
    let kind =
        DeviceKind::Lan { interfaces: interfaces.iter().map(|i| (*i).to_owned()).collect(), own: Vec::new() };
    (DeviceId(id), DeviceSpec { name: "pg-lan".to_owned(), mtu: 1420, kind })
}

fn private(
    id: u16,
    netns: &str,
    interface: &str,
    addresses: &[&str],
    routes: &[(&str, &str)],
) -> (DeviceId, DeviceSpec) {
    let fixed = addresses.iter().map(|a| a.parse().expect("an address")).collect();
    let kind = DeviceKind::Private(PrivateNetwork {
        tenant: "acme".into(),
        handoff: "dc".into(),
        netns: netns.to_owned(),
        attachment: Attachment { interface: interface.to_owned(), vlan: None },
        addressing: Addressing { fixed, ..Addressing::default() },
        routes: routes
            .iter()
            .map(|(to, via)| (to.parse().expect("a prefix"), via.parse().expect("an address")))
            .collect(),
        reached: Vec::new(),
    });
    (DeviceId(id), DeviceSpec { name: "pg-dc".to_owned(), mtu: 1500, kind })
}

/// Nothing to do, and nothing done.
fn assert_settled(network: &mut Network, host: &Host, wanted: &[(DeviceId, DeviceSpec)]) {
    let before = host.state();
    let again = realise_all(network, wanted);
    assert_eq!(again.changes, [""; 0]);
    assert!(again.opened.is_empty() && again.closed.is_empty());
    assert_same(&host.state(), &before);
}

fn assert_same(now: &BTreeSet<String>, before: &BTreeSet<String>) {
    let (new, lost): (Vec<_>, Vec<_>) = (now.difference(before).collect(), before.difference(now).collect());
    assert!(new.is_empty() && lost.is_empty(), "new: {new:#?}, lost: {lost:#?}");
}

#[test]
fn the_internet_device_gets_what_is_routed_to_the_pools() {
    let (pop, upstream) = (Host::new("pop"), Host::new("up"));
    pop.cable(("eth0", "192.0.2.1/24 2001:db8::1/64"), &upstream, ("u0", "192.0.2.254/24 2001:db8::fe/64"));
    upstream.ip("route add 198.51.100.0/24 via 192.0.2.1");
    upstream.ip("route add 2001:db8:1::/48 via 2001:db8::1");
    let before = pop.state();
    let mut network = pop.run(|| Network::new(1, Arc::default())).expect("a network");

    // One prefix twice (two tenants' handoffs may share it), one with host bits.
    let wanted = [internet(1, &["198.51.100.0/29", "198.51.100.0/29", "2001:db8:1::7/48"])];
    let realised = realise_all(&mut network, &wanted);
    assert!(realised.changes.iter().any(|c| c == "sysctl net/ipv4/ip_forward=1"), "{:?}", realised.changes);
    let mut device = only_device(realised);
    assert_eq!((device.id(), device.name()), (DeviceId(1), "pg-internet"));
    assert_settled(&mut network, &pop, &wanted);
    for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        assert_eq!(pop.sysctl(setting), "1");
    }
    assert!(pop.ip("link show pg-internet").contains("mtu 1420"));
    assert_eq!(ping_answered(&upstream, "198.51.100.1", &mut device), (true, 1));
    assert_eq!(ping_answered(&upstream, "2001:db8:1::1", &mut device), (true, 1));
    assert_eq!(ping_answered(&upstream, "198.51.100.9", &mut device), (false, 0), "not of the pool");

    // A pool goes, another comes, the MTU grows: the device stays open throughout.
    let mut wanted = [internet(1, &["198.51.100.8/29"])];
    wanted[0].1.mtu = 1500;
    let realised = realise_all(&mut network, &wanted);
    assert!(realised.opened.is_empty() && realised.closed.is_empty());
    assert_settled(&mut network, &pop, &wanted);
    assert_eq!(ping_answered(&upstream, "198.51.100.9", &mut device), (true, 1));
    assert_eq!(ping_answered(&upstream, "198.51.100.1", &mut device), (false, 0), "no longer of the pool");
    assert_eq!(pop.ip("route show proto 74").trim(), "198.51.100.8/29 dev pg-internet scope link");
    assert_eq!(pop.ip("-6 route show proto 74"), "");
    assert!(pop.ip("link show pg-internet").contains("mtu 1500"));

    // Somebody else's route out of the device is not ours to remove.
    pop.ip("route add 203.0.113.0/24 dev pg-internet");
    assert_settled(&mut network, &pop, &wanted);

    // Deleted behind our back, it comes back.
    pop.ip("link delete pg-internet");
    let realised = realise_all(&mut network, &wanted);
    assert_eq!(realised.closed, [DeviceId(1)]);
    device = only_device(realised);
    assert_eq!(ping_answered(&upstream, "198.51.100.9", &mut device), (true, 1));

    let realised = realise_all(&mut network, &[]);
    assert_eq!(realised.closed, [DeviceId(1)]);
    assert_same(&pop.state(), &before);
    assert_settled(&mut network, &pop, &[]);
}

#[test]
fn the_lan_device_gets_what_its_interfaces_bring_and_nothing_goes_past_it() {
    let (branch, isp) = (Host::new("branch"), Host::new("isp"));
    let (alice, bob) = (Host::new("alice"), Host::new("bob"));
    branch.cable(("wan", "192.0.2.1/24 2001:db8::1/64"), &isp, ("i0", "192.0.2.254/24 2001:db8::fe/64"));
    branch.cable(("lan0", "10.1.0.1/24 fd01::1/64"), &alice, ("a0", "10.1.0.2/24 fd01::2/64"));
    branch.cable(("lan1", "10.1.1.1/24 fd01:1::1/64"), &bob, ("b0", "10.1.1.2/24 fd01:1::2/64"));
    for (host, via4, via6) in [
        (&alice, "10.1.0.1", "fd01::1"),
        (&bob, "10.1.1.1", "fd01:1::1"),
        (&branch, "192.0.2.254", "2001:db8::fe"),
        (&isp, "192.0.2.1", "2001:db8::1"),
    ] {
        host.ip(&format!("route add default via {via4}"));
        host.ip(&format!("-6 route add default via {via6}"));
    }
    // The strictest there is, as some distributions set it.
    branch.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1")).expect("to set it");
    let before = branch.state();
    let mut network = branch.run(|| Network::new(1, Arc::default())).expect("a network");
    let wanted = [lan(1, &["lan0", "lan1"])];
    let mut device = only_device(realise_all(&mut network, &wanted));
    assert_settled(&mut network, &branch, &wanted);

    // Off to the tunnels, even to what the underlay could reach directly; and answers come back to the host.
    for far in ["10.9.0.1", "192.0.2.254", "fd09::1", "2001:db8::fe"] {
        assert_eq!(ping_answered(&alice, far, &mut device), (true, 1), "{far}");
    }
    // Within the LAN, and to the box itself, the kernel needs no help.
    for near in ["10.1.1.2", "10.1.0.1", "10.1.1.1", "192.0.2.1", "fd01:1::2", "fd01::1"] {
        assert_eq!(ping_answered(&alice, near, &mut device), (true, 0), "{near}");
    }

    // What comes out of a tunnel goes to the LAN, never on to the underlay.
    let heard = bind(&isp, FAR, "192.0.2.254:5000");
    let mut in_lan = bind(&bob, FAR, "10.1.1.2:5000");
    for to in [[192, 0, 2, 254], [10, 1, 1, 2]] {
        send(&mut device, &udp_packet([10, 9, 0, 1], to, 5000)).expect("to write");
    }
    assert_eq!(receive_all(&mut in_lan, 1).0[0].0.to_string(), "10.9.0.1:4000");
    assert!(!wait_readable(&heard, std::time::Instant::now()), "it leaked to the underlay");

    // An interface leaves the LAN: it is the box's again.
    let fewer = [lan(1, &["lan0"])];
    let realised = realise_all(&mut network, &fewer);
    assert!(realised.opened.is_empty() && realised.closed.is_empty());
    assert_settled(&mut network, &branch, &fewer);
    assert_eq!(ping_answered(&bob, "192.0.2.254", &mut device), (true, 0), "past the device");
    assert!(!branch.ip("rule").contains("lan1"));

    // Killed: the device goes, but the LAN stays off the underlay.
    drop((network, device));
    eventually("the device goes with its owner", || !branch.ip("link").contains("pg-lan"));
    for far in ["192.0.2.254", "2001:db8::fe"] {
        assert!(
            !alice.command(&format!("ping -n -c 1 -W 1 {far}")).status.success(),
            "{far} past the tunnels"
        );
    }

    // Its successor finds the rules, with another set of interfaces, and leaves none double.
    let mut network = branch.run(|| Network::new(1, Arc::default())).expect("a network");
    let wanted = [lan(5, &["lan1"])];
    let mut device = only_device(realise_all(&mut network, &wanted));
    assert_settled(&mut network, &branch, &wanted);
    assert_eq!(ping_answered(&bob, "10.9.0.1", &mut device), (true, 1));
    assert_eq!(branch.ip("rule").matches("7447:").count(), 2, "one of the interface, one of the device");
    assert!(!branch.ip("rule").contains("lan0"));

    // A LAN without interfaces is the operator's to route; one that is missing is a problem, but not for the others.
    let by_hand = [lan(5, &[])];
    realise_all(&mut network, &by_hand);
    assert_settled(&mut network, &branch, &by_hand);
    assert!(!branch.ip("rule").contains("744"));
    let realised = realise(&mut network, &[lan(5, &["lan0", "nix0"])]);
    assert_eq!(realised.problems.len(), 1);
    assert_eq!(realised.problems[0].to_string(), "device pg-lan: there is no interface nix0");
    assert_eq!(ping_answered(&alice, "10.9.0.1", &mut device), (true, 1));

    realise_all(&mut network, &[]);
    assert_same(&branch.state(), &before);
}

fn send(device: &mut TunDevice, packet: &[u8]) -> Result<(), Fault> {
    let mut out = Outbound::default();
    out.push_packet(device.id(), packet);
    device.send(&out.packets().next().expect("one packet"))
}

/// A UDP packet without a checksum (RFC 768 permits that over IPv4), from port 4000, of 4 bytes.
fn udp_packet(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend([from, to].concat());
    let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet.extend([4000u16, port, 12, 0].map(u16::to_be_bytes).concat());
    packet.extend(b"ping");
    packet
}

#[test]
fn a_private_handoff_has_a_namespace_with_its_interface_and_gives_it_back() {
    let (pop, dc) = (Host::new("pop"), Host::new("dc"));
    pop.cable(("eth2", "10.200.0.9/24 fd20::9/64"), &dc, ("d0", "10.200.0.254/24 fd20::fe/64"));
    dc.ip("address add 10.200.8.1/32 dev lo");
    dc.ip("route add default via 10.200.0.1");
    dc.ip("-6 route add default via fd20::1");
    let netns = RemovedAtEnd(format!("{}-acme", pop.name));
    let before = pop.ip("-o link show eth2");
    let mut network = pop.run(|| Network::new(1, Arc::default())).expect("a network");

    let addresses = ["10.200.0.1/24", "fd20::1/64"];
    let wanted = [private(1, &netns.0, "eth2", &addresses, &[("10.200.8.0/21", "10.200.0.254")])];
    let mut device = only_device(realise_all(&mut network, &wanted));
    let tenant = Namespace::find(&netns.0).expect("to look").expect("a namespace");
    // A view of it that does not remove it.
    let inside = std::mem::ManuallyDrop::new(Host { name: netns.0.clone(), namespace: tenant });
    assert_settled(&mut network, &inside, &wanted);
    assert!(!pop.ip("link").contains("eth2"), "moved");
    assert!(!pop.ip("link").contains("pg-dc"), "the device is in there too");
    assert!(inside.ip("-o address show eth2 scope global").contains("fd20::1/64 scope global nodad"));

    for far in ["10.1.0.9", "fd01::9"] {
        assert_eq!(ping_answered(&dc, far, &mut device), (true, 1), "{far}");
    }
    assert_eq!(ping_answered(&dc, "10.200.0.1", &mut device), (true, 0), "the interface's own address");
    let mut behind_router = bind(&dc, FAR, "10.200.8.1:5000");
    send(&mut device, &udp_packet([10, 1, 0, 9], [10, 200, 8, 1], 5000)).expect("to write");
    assert_eq!(receive_all(&mut behind_router, 1).0[0].0.to_string(), "10.1.0.9:4000");

    // Addresses and routes change in place.
    let wanted = [private(1, &netns.0, "eth2", &["10.200.0.1/24"], &[])];
    let realised = realise_all(&mut network, &wanted);
    assert!(realised.opened.is_empty() && realised.closed.is_empty());
    assert_settled(&mut network, &inside, &wanted);
    assert!(!inside.ip("address").contains("fd20::1"));
    assert!(!inside.ip("route").contains("10.200.8.0"));

    // Killed: the interface stays inside, and is found there.
    drop((network, device));
    let mut network = pop.run(|| Network::new(1, Arc::default())).expect("a network");
    let wanted = [private(7, &netns.0, "eth2", &addresses, &[])];
    let mut device = only_device(realise_all(&mut network, &wanted));
    assert_settled(&mut network, &inside, &wanted);
    assert_eq!(ping_answered(&dc, "10.1.0.9", &mut device), (true, 1));

    // Two in one namespace would fight for the default route.
    let second = (DeviceId(8), DeviceSpec { name: "pg-dc2".to_owned(), ..wanted[0].1.clone() });
    let realised = realise(&mut network, &[wanted[0].clone(), second]);
    assert_eq!(realised.problems.len(), 1, "{:?}", realised.problems);
    assert!(realised.problems[0].to_string().starts_with("device pg-dc2: the network namespace"));

    // Another interface takes over; the first goes home. One that is not there is a problem, and the device stays.
    pop.ip("link add eth3 type veth peer name eth3-far");
    let wanted = [private(7, &netns.0, "eth3", &["10.200.0.1/24"], &[])];
    realise_all(&mut network, &wanted);
    assert_settled(&mut network, &inside, &wanted);
    assert!(pop.ip("link").contains("eth2"));
    let missing = [private(7, &netns.0, "eth9", &["10.200.0.1/24"], &[])];
    let realised = realise(&mut network, &missing);
    assert!(
        realised.problems[0].to_string().contains("there is no interface eth9"),
        "{:?}",
        realised.problems
    );
    assert!(realised.closed.is_empty());
    realise_all(&mut network, &wanted);

    // Somebody else's interface in the namespace keeps it alive: it would die with it.
    inside.ip("link add stray type veth peer name stray-far");
    let realised = realise(&mut network, &[]);
    assert_eq!(realised.closed, [DeviceId(7)]);
    assert!(realised.problems[0].message.contains("stray"), "{:?}", realised.problems);
    assert!(pop.ip("link").contains("eth3"), "ours is home already");
    inside.ip("link delete stray");
    assert_eq!(realise_all(&mut network, &[]).changes, [format!("ip netns delete {}", netns.0)]);
    assert!(Namespace::find(&netns.0).expect("to look").is_none());
    let index_and_flags = |line: &str| line.split("state").next().expect("a line").to_owned();
    let after = pop.ip("-o link show eth2");
    assert!(index_and_flags(&after).contains("eth2@"), "home: {after} (was {before})");
    assert_settled(&mut network, &pop, &[]);
}

#[test]
fn a_private_handoff_learns_its_address_and_its_routers_and_tells_of_its_link() {
    let (pop, dc) = (Host::new("pop"), Host::new("dc"));
    pop.cable(("eth2", "10.200.0.9/24 fd20::9/64"), &dc, ("d0", "10.200.0.254/24 fd20::fe/64"));
    dc.ip("address add 10.200.8.1/32 dev lo");
    dc.ip("address add fd21::1/128 dev lo");
    dc.ip("route add default via 10.200.0.50");
    let sysctl = |path: &str, value: &str| dc.run(|| std::fs::write(format!("/proc/sys/{path}"), value));
    sysctl("net/ipv6/conf/all/forwarding", "1").expect("a router");
    let mut server = dc.spawn(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=d0 --bind-interfaces --leasefile-ro \
         --user=root --dhcp-range=10.200.0.50,10.200.0.50,2m --dhcp-option=option:router,10.200.0.254 \
         --enable-ra --dhcp-range=fd20::,ra-only,64 --ra-param=d0,4",
    );
    let netns = RemovedAtEnd(format!("{}-acme", pop.name));
    let wake = Arc::new(tokio::sync::Notify::new());
    let mut network = pop.run(|| Network::new(1, Arc::clone(&wake))).expect("a network");
    let (id, mut spec) = private(1, &netns.0, "eth2", &[], &[]);
    let DeviceKind::Private(acme) = &mut spec.kind else { panic!("it is private") };
    acme.addressing = Addressing { fixed: Vec::new(), dhcp: true, ra: true };
    acme.reached = ["10.200.0.0/16", "fd21::/16"].map(|prefix| prefix.parse().expect("a prefix")).to_vec();
    let wanted = [(id, spec)];

    // What is learned comes by itself, and each time the network is told of it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut devices = Vec::new();
    let mut until = |what: &str, mut is_so: Box<dyn FnMut(&HandoffLink) -> bool>| {
        runtime.block_on(async {
            loop {
                let realised = network.realise(&wanted).await;
                assert_eq!(realised.problems, []);
                devices.extend(realised.opened);
                let link = &realised.handoffs[&id];
                if is_so(link) {
                    return link.clone();
                }
                let told = tokio::time::timeout(PATIENCE, wake.notified()).await;
                told.unwrap_or_else(|_| panic!("{what}: {link:?}"));
            }
        })
    };
    let link = until("two addresses", Box::new(|link| link.addresses.len() == 2 && link.carries));
    assert_eq!(link.dhcp_server.map(|server| server.to_string()).as_deref(), Some("10.200.0.254"));
    let mut addresses: Vec<String> = link.addresses.iter().map(ToString::to_string).collect();
    addresses.sort();
    assert_eq!(addresses[0], "10.200.0.50/24");
    assert!(addresses[1].starts_with("fd20::"), "{addresses:?}");
    let tenant = Namespace::find(&netns.0).expect("to look").expect("a namespace");
    let inside = std::mem::ManuallyDrop::new(Host { name: netns.0.clone(), namespace: tenant });
    eventually("an address stays tentative", || inside.ip("-o address show dev eth2 tentative").is_empty());
    // The device stays the way to all else, whatever a router says of itself.
    assert!(inside.ip("route get 10.1.0.9").contains("dev pg-dc"));
    assert!(inside.ip("-6 route get fd01::9").contains("dev pg-dc"));
    assert!(inside.ip("route get 10.200.8.1").contains("via 10.200.0.254 dev eth2"));
    eventually("the router's route is there", || inside.ip("-6 route get fd21::1").contains("via fe80::"));
    assert!(inside.command("ping -n -c 1 -W 5 10.200.8.1").status.success());
    assert!(inside.command("ping -n -c 1 -W 5 fd21::1").status.success());

    dc.ip("link set d0 down");
    until("the link is down", Box::new(|link| !link.carries));
    dc.ip("link set d0 up");
    until("the link is up", Box::new(|link| link.carries));

    // Not to be learned any more: nothing of it is left, and nothing comes back.
    let wanted = [private(1, &netns.0, "eth2", &["10.200.0.1/24"], &[])];
    runtime.block_on(network.realise(&wanted));
    assert!(!inside.ip("-o address show eth2 scope global").contains("10.200.0.50"));
    assert!(!inside.ip("-o address show eth2 scope global").contains("fd20:"));
    assert!(!inside.ip("-6 route").contains("proto ra"));
    server.kill().and_then(|()| server.wait()).expect("it is ours");
}

#[test]
fn what_one_device_lacks_does_not_hold_up_another() {
    let pop = Host::new("pop");
    pop.ip("link add pg-internet type veth peer name other");
    let netns = RemovedAtEnd(format!("{}-acme", pop.name));
    let mut network = pop.run(|| Network::new(1, Arc::default())).expect("a network");
    let wanted = [internet(1, &["198.51.100.0/29"]), private(2, &netns.0, "eth2", &[], &[])];
    let realised = realise(&mut network, &wanted);
    let problems: Vec<String> = realised.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("device pg-internet: there is an interface of that name already"),
        "{problems:?}"
    );
    assert!(problems[1].starts_with("device pg-dc: there is no interface eth2"), "{problems:?}");
    assert_eq!(realised.opened.len(), 1);

    pop.ip("link delete other");
    pop.ip("link add eth2 type veth peer name eth2-far");
    let second = realise_all(&mut network, &wanted);
    assert_eq!(second.opened.len(), 1, "what was there before is left alone: {:?}", second.changes);

    // A device that changes its namespace is a new one.
    let elsewhere = RemovedAtEnd(format!("{}-else", pop.name));
    let wanted = [internet(1, &["198.51.100.0/29"]), private(2, &elsewhere.0, "eth2", &[], &[])];
    let moved = realise_all(&mut network, &wanted);
    assert_eq!((moved.closed, moved.opened.len()), (vec![DeviceId(2)], 1));
    assert!(Namespace::find(&netns.0).expect("to look").is_none());
    realise_all(&mut network, &[]);
    assert!(Namespace::find(&elsewhere.0).expect("to look").is_none());
}

// ---- forwarding ----

/// Sends datagrams back where they came from and answers pings; does what tests tell it to.
#[derive(Default)]
struct Mirror {
    seen: Counts,
    /// Wants to be called this often.
    interval: Option<Duration>,
    deadline: Option<Instant>,
    /// What a mirrored packet is sent out of instead.
    detour: Option<Egress>,
    polls: std::cell::Cell<u64>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    packets: u64,
    largest_batch: usize,
    /// Deadline and when it was called.
    timeouts: Vec<(Instant, Instant)>,
    dropped: Vec<(Dropped, u64)>,
    polls: u64,
}

enum Tell {
    Report(mpsc::Sender<Counts>),
    Tick(Duration, Now),
    Detour(Egress),
    /// Waits until the other end is dropped.
    Block(mpsc::Receiver<()>),
    Panic,
}

impl DataPlane for Mirror {
    fn process(&mut self, batch: &mut Batch, _: Now, out: &mut Outbound) {
        let mut packets = 0;
        for (ingress, packet, _) in batch.packets() {
            packets += 1;
            match (self.detour, ingress) {
                (Some(Egress::Device(device)), _) => out.push_packet(device, packet),
                (Some(Egress::Worker(worker)), Ingress::Transport { transport, from }) => {
                    let what = Handover::Datagram { path: Some(PathId(0)), transport, from };
                    out.hand_over(worker, what, packet);
                }
                // Who was handed a datagram answers it with its own thread's name before it.
                (_, Ingress::Worker(Handover::Datagram { transport, from, .. })) => {
                    let name = std::thread::current().name().expect("a name").to_owned();
                    out.push_datagram(transport, from, &[name.as_bytes(), packet].concat());
                }
                (_, Ingress::Worker(other)) => panic!("{other:?}"),
                (Some(Egress::Worker(_)), Ingress::Device(_)) => {}
                (Some(Egress::Transport(transport)), Ingress::Transport { from, .. })
                | (None, Ingress::Transport { transport, from }) => {
                    out.write_datagram(transport, from, packet.len(), |room| {
                        room.copy_from_slice(packet);
                        (Some(packet.len()), ())
                    });
                }
                (_, Ingress::Device(device)) => {
                    if turn_into_reply(packet) {
                        out.push_packet(device, packet);
                    }
                }
            }
        }
        assert!(packets > 0, "an empty batch");
        self.seen.packets += packets as u64;
        self.seen.largest_batch = self.seen.largest_batch.max(packets);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.polls.set(self.polls.get() + 1);
        self.deadline
    }

    fn handle_timeout(&mut self, now: Now, _: &mut Outbound) {
        let deadline = self.deadline.expect("a deadline, or it would not be called");
        self.seen.timeouts.push((deadline, now.instant));
        self.deadline = self.interval.map(|interval| now.instant + interval);
    }

    fn egress_dropped(&mut self, what: Dropped, count: u64) {
        self.seen.dropped.push((what, count));
    }

    type Command = Tell;

    fn command(&mut self, command: Tell, _: Now, _: &mut Outbound) {
        match command {
            Tell::Report(to) => {
                to.send(Counts { polls: self.polls.get(), ..self.seen.clone() }).expect("somebody who asked")
            }
            Tell::Tick(interval, first) => {
                (self.interval, self.deadline) = (Some(interval), Some(first.instant));
            }
            Tell::Detour(egress) => self.detour = Some(egress),
            Tell::Block(until) => {
                let _ = until.recv();
            }
            Tell::Panic => panic!("as told"),
        }
    }
}

/// A thread that is alone.
fn post(name: &str) -> Post {
    Post { name: name.to_owned(), placement: Placement::Anywhere, seat: Seat::alone().expect("a seat") }
}

fn report(handle: &ForwardHandle<Tell>) -> Counts {
    let (to, from) = mpsc::channel();
    handle.send(Tell::Report(to)).expect("room for a question");
    from.recv_timeout(PATIENCE).expect("an answer")
}

fn await_change(change: Result<tokio::sync::oneshot::Receiver<()>, Refused<forward::Change>>) {
    change.expect("to be accepted").blocking_recv().expect("to be done");
}

#[test]
fn a_flood_starves_neither_other_sources_nor_timeouts_nor_commands() {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable(("n0", "10.77.0.1/24"), &far, ("f0", "10.77.0.2/24"));
    let (flooded, quiet) = (bind(&far, NEAR, "10.77.0.2:0"), bind(&far, FAR, "10.77.0.2:0"));
    let flooded_at = flooded.local_address().expect("its address");
    let quiet_at = quiet.local_address().expect("its address");
    let (clock, plane) = (Clock::new(), Mirror::default());
    let (thread, handle) =
        forward::start(post("mirror"), plane, vec![flooded, quiet], vec![], clock).expect("to start");

    let mut caller = bind(&near, NEAR, "10.77.0.1:0");
    let mut flooder = bind(&near, NEAR, "10.77.0.1:0");
    let flooding = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        // Stops the flood also when an assertion fails, or the scope would never end.
        struct Calm<'a>(&'a std::sync::atomic::AtomicBool);
        impl Drop for Calm<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        let calm = Calm(&flooding);
        scope.spawn(|| {
            let datagrams = numbered([1000; 300]);
            while flooding.load(Ordering::Relaxed) {
                send_all(&mut flooder, flooded_at, &datagrams);
            }
        });
        eventually("no flood", || report(&handle).packets >= 10_000);
        handle.send(Tell::Tick(Duration::from_millis(5), clock.now())).expect("room");
        let before = report(&handle).packets;
        for round in 0..50 {
            // The cable itself may lose packets in a flood; the thread behind it must not.
            let answered = (0..20).any(|_| {
                assert_eq!(send_all(&mut caller, quiet_at, &numbered([round + 1])), []);
                wait_readable(&caller, std::time::Instant::now() + Duration::from_secs(1))
            });
            assert!(answered, "round {round}: the quiet transport starves");
            assert_eq!(receive_all(&mut caller, 1).0[0].0, quiet_at);
            report(&handle);
        }
        eventually("timeouts starve", || report(&handle).timeouts.len() >= 20);
        assert!(report(&handle).packets > before, "the flood goes on");
        drop(calm);
    });

    let seen = thread.stop().expect("no panic").seen;
    assert!(
        seen.timeouts.iter().all(|(deadline, called)| called >= deadline),
        "too early: {:?}",
        seen.timeouts
    );
    assert!(seen.timeouts.is_sorted_by_key(|(_, called)| *called));
    assert!(seen.largest_batch > 1);
    assert!(matches!(handle.send(Tell::Panic), Err(Refused::Gone(Tell::Panic))), "it has stopped");
}

#[test]
fn an_idle_thread_sleeps_even_if_its_data_plane_nags() {
    let clock = Clock::new();
    let (thread, handle) =
        forward::start(post("idle"), Mirror::default(), vec![], vec![], clock).expect("to start");
    let rest = || {
        let before = report(&handle);
        std::thread::sleep(Duration::from_millis(300));
        let after = report(&handle);
        (after.polls - before.polls, after.timeouts.len() - before.timeouts.len())
    };
    let (polls, timeouts) = rest();
    assert!(polls < 20, "{polls} rounds with nothing to do");
    assert_eq!(timeouts, 0);
    // A deadline that is always already past.
    handle.send(Tell::Tick(Duration::ZERO, clock.now())).expect("room");
    let (_, timeouts) = rest();
    assert!((1..=400).contains(&timeouts), "{timeouts} timeouts in 300 ms");
    drop(thread);
    assert!(handle.send(Tell::Panic).is_err(), "dropping the thread stops it");
}

#[test]
fn a_thread_that_goes_round_has_a_pulse_though_it_idles_and_one_that_is_stuck_has_none() {
    let (_thread, handle) =
        forward::start(post("pulse"), Mirror::default(), vec![], vec![], Clock::new()).expect("to start");
    for _ in 0..3 {
        handle.ask_pulse();
        eventually("it goes round", || handle.has_pulse());
    }
    let (release, block) = mpsc::channel();
    handle.send(Tell::Block(block)).expect("room");
    // It is asked again and again, for it may go round once more before it gets to that.
    eventually("it is stuck", || {
        handle.ask_pulse();
        std::thread::sleep(Duration::from_millis(50));
        !handle.has_pulse()
    });
    drop(release);
    eventually("it goes round again", || handle.has_pulse());
}

#[test]
fn devices_and_transports_come_and_go_while_the_thread_runs() {
    let host = Host::new("host");
    let (thread, handle) =
        forward::start(post("changes"), Mirror::default(), vec![], vec![], Clock::new()).expect("to start");
    let ping = |to: &str| host.command(&format!("ping -n -c 1 -W 2 {to}")).status.success();
    let device = |name: &str, address: &str| {
        let device = TunDevice::create(DeviceId(5), name, &host.namespace).expect("a device");
        host.ip(&format!("address add {address} dev {name}"));
        host.ip(&format!("link set {name} up"));
        device
    };

    let first = device("t0", "10.66.0.1/24");
    await_change(handle.replace_devices(vec![], vec![first]));
    assert!(ping("10.66.0.2"));
    let second = device("t1", "10.67.0.1/24");
    await_change(handle.replace_devices(vec![], vec![second]));
    assert!(ping("10.67.0.2"));
    eventually("replaced under the same id, its last queue is closed", || !host.ip("link").contains("t0"));
    await_change(handle.replace_devices(vec![DeviceId(5), DeviceId(77)], vec![]));
    eventually("closed", || !host.ip("link").contains("t1"));

    // Deleted by somebody else, it is let go of, and does not keep the thread busy.
    let third = device("t2", "10.68.0.1/24");
    await_change(handle.replace_devices(vec![], vec![third]));
    assert!(ping("10.68.0.2"));
    host.ip("link delete t2");
    let before = report(&handle).polls;
    std::thread::sleep(Duration::from_millis(200));
    assert!(report(&handle).polls - before < 20, "it spins");

    // A transport moves to a new socket at the same address.
    let echo = |at: SocketAddr| {
        let mut caller = bind(&host, FAR, "127.0.0.1:0");
        assert_eq!(send_all(&mut caller, at, &numbered([200])), []);
        assert_eq!(receive_all(&mut caller, 1).0[0].0, at);
    };
    let socket = bind(&host, NEAR, "127.0.0.1:0");
    let at = socket.local_address().expect("its address");
    await_change(handle.replace_transports(vec![], vec![socket]));
    echo(at);
    await_change(handle.replace_transports(vec![NEAR], vec![]));
    await_change(handle.replace_transports(vec![], vec![bind_again(&host, NEAR, at)]));
    echo(at);

    // What is to leave by what is not there is counted.
    for egress in [Egress::Device(DeviceId(5)), Egress::Transport(TransportId(99))] {
        let before = report(&handle).dropped.len();
        handle.send(Tell::Detour(egress)).expect("room");
        let mut caller = bind(&host, FAR, "127.0.0.1:0");
        assert_eq!(send_all(&mut caller, at, &numbered([200, 300])), []);
        let gone = Dropped { egress, fault: Fault::Gone };
        let count = || -> u64 {
            let dropped = &report(&handle).dropped[before..];
            assert!(dropped.iter().all(|(what, _)| *what == gone), "{dropped:?}");
            dropped.iter().map(|(_, count)| count).sum()
        };
        eventually("what is lost is not counted", || count() == 2);
    }
    assert_eq!(thread.stop().expect("no panic").seen.timeouts, []);
}

#[test]
fn what_is_another_threads_crosses_to_it_and_what_has_no_room_is_counted() {
    let host = Host::new("crossing");
    let clock = Clock::new();
    let mut seats = Seat::among(2).expect("seats").into_iter();
    let mut start = |name: &str, socket: TransportSocket| {
        let seat = seats.next().expect("a seat");
        let post = Post { name: name.to_owned(), placement: Placement::Anywhere, seat };
        forward::start(post, Mirror::default(), vec![socket], vec![], clock).expect("to start")
    };
    let sockets = [bind(&host, NEAR, "127.0.0.1:0"), bind(&host, NEAR, "127.0.0.1:0")];
    let at = sockets[0].local_address().expect("its address");
    let far_at = sockets[1].local_address().expect("its address");
    let [near, far] = sockets;
    let (near_thread, near) = start("near", near);
    let (far_thread, far) = start("far", far);
    near.send(Tell::Detour(Egress::Worker(1))).expect("room");
    report(&near);

    // One by one, each of which finds the other asleep, or about to.
    let mut caller = bind(&host, FAR, "127.0.0.1:0");
    for round in 0..200 {
        let datagram = numbered([round % 50 + 1]).remove(0);
        assert_eq!(send_all(&mut caller, at, std::slice::from_ref(&datagram)), []);
        let (got, _) = receive_all(&mut caller, 1);
        assert_eq!(got[0].0, far_at, "the other's socket answers");
        assert_eq!(got[0].1, [&b"far"[..], &datagram[..]].concat());
    }
    // Many at once, in order.
    let datagrams = numbered((0..300).map(|i| 100 + i % 7));
    assert_eq!(send_all(&mut caller, at, &datagrams), []);
    let (got, _) = receive_all(&mut caller, datagrams.len());
    for (i, ((_, got), sent)) in got.iter().zip(&datagrams).enumerate() {
        assert!(got[3..] == sent[..], "datagram {i}");
    }

    // One that does not take what it is handed loses it, not the sender's time.
    let (release, block) = mpsc::channel();
    far.send(Tell::Block(block)).expect("room");
    let before = report(&near).packets;
    let mut sent = 0;
    eventually("the mailbox has no end", || {
        assert_eq!(send_all(&mut caller, at, &numbered([1000; 50])), []);
        sent += 50;
        !report(&near).dropped.is_empty()
    });
    eventually("the sender is held up", || report(&near).packets == before + sent);
    let what = Dropped { egress: Egress::Worker(1), fault: Fault::QueueFull };
    assert!(report(&near).dropped.iter().all(|(dropped, count)| (*dropped, *count) == (what, 1)));
    assert_eq!(what.reason(), DropReason::WorkerQueueFull);
    drop(release);
    let lost: u64 = report(&near).dropped.iter().map(|(_, count)| count).sum();
    let all = 200 + 300 + sent - lost;
    eventually("what had room arrives", || report(&far).packets == all);
    drop((near_thread, far_thread));
}

#[test]
fn a_full_queue_and_a_dead_thread_are_told_at_once() {
    let (thread, handle) =
        forward::start(post("full"), Mirror::default(), vec![], vec![], Clock::new()).expect("to start");
    let (release, block) = mpsc::channel();
    handle.send(Tell::Block(block)).expect("room");
    let (to, from) = mpsc::channel();
    let accepted = (0..10_000).take_while(|_| handle.send(Tell::Report(to.clone())).is_ok()).count();
    assert!((1..1000).contains(&accepted), "{accepted} commands queued");
    assert!(matches!(handle.send(Tell::Panic), Err(Refused::Full(Tell::Panic))));
    // Changes have a queue of their own, so that a flood of queries does not keep a commit out.
    let change = handle.replace_devices(vec![DeviceId(1)], vec![]);
    drop(release);
    await_change(change);
    for _ in 0..accepted {
        from.recv_timeout(PATIENCE).expect("every accepted command is answered");
    }

    handle.send(Tell::Panic).expect("room");
    eventually("it should have ended", || thread.is_finished());
    assert!(matches!(handle.replace_devices(vec![], vec![]), Err(Refused::Gone(_))));
    assert!(thread.stop().is_err(), "it panicked");
}
