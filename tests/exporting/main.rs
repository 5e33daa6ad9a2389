//! Exporting to several collectors at once, over real sockets: by UDP, TCP and TLS, each with its own filter, and what
//! becomes of the others when one is dead, slow, or begins anew.

#[path = "../collectors/mod.rs"]
mod collectors;
mod receivers;

use popgate::config::{self, Collector};
use popgate::export::Directory;
use popgate::export::report::ExporterReport;
use popgate::flow::{DirectionRecord, End, EndReason, FlowRecord};
use popgate::io::clock::Clock;
use popgate::io::exporting::{self, Order, Standing};
use popgate::model::{
    ClassBy, ClassId, FlowKey, HandoffId, PathId, Protocol, RuleId, SiteId, TenantId, Zone,
};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The exporter's thread, as a box runs it, with the collectors of a configuration.
struct Exporting {
    orders: SyncSender<Order>,
    standing: Standing,
    thread: JoinHandle<()>,
    next: u64,
}

impl Exporting {
    fn start(collectors: &str) -> Exporting {
        Exporting::start_in(tempfile::tempdir().expect("a directory").path(), collectors)
    }

    fn start_in(dir: &Path, collectors: &str) -> Exporting {
        let (orders, orders_in) = sync_channel(65_536);
        let (wants, standing, clock) = (Arc::default(), Standing::default(), Clock::new());
        let thread = exporting::start(orders_in, wants, standing.clone(), clock, |_| {}, |_| {});
        let exporting = Exporting { orders, standing, thread: thread.expect("a thread"), next: 0 };
        exporting.reconfigure(configured(dir, collectors));
        exporting
    }

    fn reconfigure(&self, collectors: Vec<Collector>) {
        let directory = Directory {
            tenants: [(TenantId(0), "acme".to_owned()), (TenantId(1), "globex".to_owned())].into(),
            ..Directory::default()
        };
        self.orders.send(Order::Reconfigure { collectors, packet_sampling: 1, directory }).expect("it runs");
    }

    /// Sends so many sessions' records of a tenant: each becomes two.
    fn add(&mut self, sessions: u64, tenant: TenantId) {
        for _ in 0..sessions {
            self.next += 1;
            self.orders.send(Order::Record(session(self.next, tenant))).expect("it runs");
        }
    }

    /// What is told of two collectors, once it is as expected.
    fn eventually(&self, what: &str, is: impl Fn(&[ExporterReport; 2]) -> bool) -> [ExporterReport; 2] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.standing.reports();
            match told.try_into() {
                Ok(told) if is(&told) => return told,
                told => assert!(Instant::now() < deadline, "waited in vain: {what}: {told:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(self) {
        drop(self.orders);
        self.thread.join().expect("it does not panic");
    }
}

/// The collectors of a box whose configuration ends with `collectors`.
fn configured(dir: &Path, collectors: &str) -> Vec<Collector> {
    let box_toml = "site = \"fra1\"\nrole = \"pop\"\nprivate-key-file = \"box.key\"\n\
                    [[transport]]\nname = \"isp\"\nlisten = \"192.0.2.1:51820\"\n";
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    };
    write("popgate.toml", &format!("{box_toml}{collectors}"));
    write("box.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n");
    std::fs::create_dir_all(dir.join("tenants")).expect("a directory");
    for tenant in ["acme", "globex"] {
        write(&format!("tenants/{tenant}.toml"), &format!("tenant = \"{tenant}\"\n"));
    }
    let candidate = config::load(dir).unwrap_or_else(|problems| panic!("{problems}"));
    candidate.appliance.export.collectors
}

fn session(number: u64, tenant: TenantId) -> FlowRecord {
    let end = |text: &str, port| (text.parse().expect("an address"), port);
    let key = FlowKey::new(
        Zone::tenant(tenant),
        Protocol::TCP,
        end("10.1.0.5", number as u16),
        end("203.0.113.80", 443),
    );
    let went = |arrived_on, left_on| DirectionRecord {
        packets: 1 + number % 7,
        bytes: 100 * number,
        first_unix_millis: 1_700_000_000_000,
        last_unix_millis: 1_700_000_000_500,
        tcp_flags: 0x1b,
        arrived_on,
        left_on,
    };
    FlowRecord {
        session: number,
        tenant,
        key,
        reply_key: key.turned_round(key.zone),
        initiator: End::Site(SiteId(0)),
        responder: End::Handoff(HandoffId(2)),
        class: ClassId(1),
        class_by: ClassBy::Rule,
        name: None,
        rule: RuleId(3),
        dscp: 0,
        generation: 1,
        directions: [went(Some(PathId(3)), None), went(None, Some(PathId(3)))],
        end_reason: EndReason::EndOfFlow,
        story: None,
    }
}

/// An IPFIX or NetFlow v9 message, as far as these tests look into it.
#[derive(Debug)]
struct Message {
    version: u16,
    sequence: u32,
    /// Sets' ids.
    sets: Vec<u16>,
    /// Flow records: those of template 256, of which all have the same length.
    flows: usize,
}

impl Message {
    fn read(bytes: &[u8]) -> Message {
        assert!(bytes.len() <= 1_400, "{} bytes", bytes.len());
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let version = number(0);
        let header = if version == 9 { 20 } else { 16 };
        let at = header - 8;
        let sequence = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        // Times are four bytes shorter in NetFlow v9.
        let record = if version == 9 { 94 } else { 102 };
        let (mut at, mut sets, mut flows) = (header, Vec::new(), 0);
        while at < bytes.len() {
            let (id, length) = (number(at), usize::from(number(at + 2)));
            if id == 256 {
                assert!((length - 4) % record < 4, "a set of {length} bytes");
                flows += (length - 4) / record;
            }
            sets.push(id);
            at += length;
        }
        Message { version, sequence, sets, flows }
    }

    /// Whether templates are in it before anything else.
    fn begins_with_templates(&self) -> bool {
        self.sets[0] == if self.version == 9 { 0 } else { 2 }
    }
}

fn flows(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.flows).sum()
}

/// Messages over UDP until so many flow records have come.
fn receive(socket: &UdpSocket, records: usize) -> Vec<Message> {
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (mut messages, mut bytes) = (Vec::new(), [0; 2_000]);
    while flows(&messages) < records {
        let length = socket
            .recv(&mut bytes)
            .unwrap_or_else(|error| panic!("{error}: {} of {records} records have come", flows(&messages)));
        messages.push(Message::read(&bytes[..length]));
    }
    messages
}

/// The next IPFIX message of a stream; `None` at its end.
fn read_message(stream: &mut TcpStream) -> Option<Message> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut bytes = vec![0; 16];
    match stream.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        Err(error) => panic!("{error}"),
    }
    bytes.resize(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 0);
    stream.read_exact(&mut bytes[16..]).expect("a whole message");
    Some(Message::read(&bytes))
}

fn read_flows(stream: &mut TcpStream, records: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while flows(&messages) < records {
        messages.push(read_message(stream).expect("more records"));
    }
    messages
}

fn udp() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket")
}

fn tcp() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener")
}

fn collector(name: &str, address: SocketAddr, more: &str) -> String {
    format!("[[export.collector]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}\n")
}

fn address_of(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("an address")
}

fn listens_at(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("an address")
}

#[test]
fn each_collector_has_its_own_protocol_transport_and_filter() {
    let (all, acme, stream) = (udp(), udp(), tcp());
    let mut exporting = Exporting::start(
        &[
            collector("all", address_of(&all), "protocol = \"netflow-v9\""),
            collector("acme", address_of(&acme), "filter = { tenants = [\"acme\"] }"),
            collector(
                "globex",
                listens_at(&stream),
                "transport = \"tcp\"\nfilter = { tenants = [\"globex\"] }",
            ),
        ]
        .concat(),
    );
    exporting.add(10, TenantId(0));
    exporting.add(25, TenantId(1));
    let (mut stream, _) = stream.accept().expect("it connects");
    exporting.end();
    let (all, acme) = (receive(&all, 70), receive(&acme, 20));
    let mut globex = Vec::new();
    while let Some(message) = read_message(&mut stream) {
        globex.push(message);
    }
    assert_eq!((flows(&all), flows(&acme), flows(&globex)), (70, 20, 50));
    assert!(all.iter().all(|it| it.version == 9));
    assert!(acme.iter().chain(&globex).all(|it| it.version == 10));
    for messages in [&all, &acme, &globex] {
        assert!(messages[0].begins_with_templates() && messages[0].sequence == 0, "{:?}", messages[0]);
    }
}

#[test]
fn a_dead_and_a_stuck_collector_hold_up_nobody() {
    let (alive, dead, stuck) = (tcp(), tcp(), tcp());
    let mut exporting = Exporting::start(
        &[
            collector("dead", listens_at(&dead), "transport = \"tcp\""),
            // It listens, and never takes anything in.
            collector("stuck", listens_at(&stuck), "transport = \"tcp\""),
            collector("alive", listens_at(&alive), "transport = \"tcp\""),
        ]
        .concat(),
    );
    drop(dead);
    // 12 MB: more than the kernel keeps for who does not read.
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = alive.accept().expect("it connects");
        flows(&read_flows(&mut stream, 120_000))
    });
    exporting.add(60_000, TenantId(0));
    assert_eq!(reader.join().expect("it reads"), 120_000);
}

#[test]
fn a_collector_that_begins_anew_is_told_the_templates_first_and_all_that_waited() {
    let listener = tcp();
    let mut exporting = Exporting::start(&collector("noc", listens_at(&listener), "transport = \"tcp\""));
    exporting.add(5, TenantId(0));
    let (mut first, _) = listener.accept().expect("it connects");
    assert_eq!(flows(&read_flows(&mut first, 10)), 10);
    drop(first);
    exporting.add(7, TenantId(0));
    let (mut second, _) = listener.accept().expect("it connects again");
    let messages = read_flows(&mut second, 14);
    assert!(messages[0].begins_with_templates() && messages[0].sequence == 0, "{:?}", messages[0]);
    exporting.end();
}

#[test]
fn how_exporting_stands_is_told_of_each_collector_while_it_is_there_and_while_it_is_not() {
    let (datagrams, listener) = (udp(), tcp());
    let address = listens_at(&listener);
    let mut exporting = Exporting::start(
        &[
            collector("siem", address_of(&datagrams), "protocol = \"netflow-v9\""),
            collector("noc", address, "transport = \"tcp\""),
        ]
        .concat(),
    );
    exporting.add(10, TenantId(0));
    let (mut stream, _) = listener.accept().expect("it connects");
    assert_eq!(flows(&read_flows(&mut stream, 20)), 20);
    let [siem, noc] = exporting.eventually("all is sent", |[siem, noc]| {
        siem.stats.records == 20 && noc.stats.records == 20 && noc.connected
    });
    assert_eq!((&*siem.collector, &*siem.protocol, &*siem.transport), ("siem", "netflow-v9", "udp"));
    assert_eq!((&*noc.collector, &*noc.protocol, noc.address), ("noc", "ipfix", address));
    assert_eq!((noc.connections, noc.failures, noc.problem), (1, 0, None));
    assert!(noc.stats.octets > noc.stats.messages, "{:?}", noc.stats);

    drop((stream, listener));
    exporting.add(1, TenantId(0));
    let [_, noc] = exporting.eventually("it is missed", |[_, noc]| noc.failing_since_unix_ms.is_some());
    assert!(!noc.connected && noc.problem.is_some() && noc.retry_unix_ms.is_some(), "{noc:?}");
    let listener = TcpListener::bind(address).expect("the same port");
    let (mut stream, _) = listener.accept().expect("it connects again");
    read_flows(&mut stream, 2);
    let [_, noc] = exporting.eventually("it is there again", |[_, noc]| noc.failing_since_unix_ms.is_none());
    assert_eq!((noc.connections, noc.connected, noc.problem, noc.retry_unix_ms), (2, true, None, None));
    exporting.end();
}

#[test]
fn over_tcp_what_is_left_at_the_end_still_arrives() {
    let listener = tcp();
    let mut exporting = Exporting::start(&collector("noc", listens_at(&listener), "transport = \"tcp\""));
    exporting.add(3_000, TenantId(0));
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        let messages: Vec<Message> = std::iter::from_fn(|| read_message(&mut stream)).collect();
        for pair in messages.windows(2).filter(|pair| pair.iter().all(|it| it.sets == [256])) {
            let expected = pair[0].sequence + pair[0].flows as u32;
            assert_eq!(pair[1].sequence, expected, "the sequence counts data records");
        }
        flows(&messages)
    });
    exporting.end();
    assert_eq!(reader.join().expect("it reads"), 6_000);
}

/// OpenSSL as the collector's side of TLS; what comes out of it goes to a listener of ours in the clear.
struct TlsCollector {
    process: Child,
    address: SocketAddr,
    clear: TcpListener,
    /// Certificates and keys.
    dir: TempDir,
}

impl TlsCollector {
    /// With a certificate for 127.0.0.1, and of whoever connects it wants one too.
    fn start() -> TlsCollector {
        let dir = tempfile::tempdir().expect("a directory");
        for (authority, name) in [("ca", "collector"), ("ca", "fra1"), ("other-ca", "stranger")] {
            collectors::certificate(dir.path(), authority, name);
        }
        let (clear, taken) = (tcp(), tcp());
        let address = listens_at(&taken);
        drop(taken);
        let process = Command::new("socat")
            .current_dir(dir.path())
            .arg(format!(
                "OPENSSL-LISTEN:{},bind=127.0.0.1,fork,reuseaddr,cert=collector.crt,key=collector.key,cafile=ca.crt,verify=1",
                address.port()
            ))
            .arg(format!("TCP:{}", listens_at(&clear)))
            .stdin(Stdio::null())
            .spawn()
            .expect("socat runs: it is in Debian's package socat");
        TlsCollector { process, address, clear, dir }
    }

    fn configuration(&self, authority: &str, name: Option<&str>) -> String {
        let own = name.map_or(String::new(), |name| {
            format!("certificate-file = \"{name}.crt\"\nkey-file = \"{name}.key\"\n")
        });
        let tls = format!("[export.collector.tls]\nca-file = \"{authority}.crt\"\n{own}");
        collector("noc", self.address, &format!("transport = \"tls\"\n{tls}"))
    }
}

impl Drop for TlsCollector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn over_tls_both_sides_prove_who_they_are() {
    let collector = TlsCollector::start();
    let mut exporting =
        Exporting::start_in(collector.dir.path(), &collector.configuration("ca", Some("fra1")));
    exporting.add(500, TenantId(0));
    let (mut stream, _) = collector.clear.accept().expect("socat connects");
    let messages = read_flows(&mut stream, 1_000);
    assert!(messages[0].begins_with_templates(), "{:?}", messages[0]);
    exporting.add(5, TenantId(0));
    exporting.end();
    assert_eq!(flows(&read_flows(&mut stream, 10)), 10);
}

#[test]
fn over_tls_nothing_goes_to_a_collector_that_another_authority_vouches_for_nor_from_a_box_without_certificate()
 {
    let collector = TlsCollector::start();
    for configuration in [
        collector.configuration("other-ca", Some("fra1")),
        collector.configuration("ca", None),
        collector.configuration("ca", Some("stranger")),
    ] {
        let mut exporting = Exporting::start_in(collector.dir.path(), &configuration);
        exporting.add(5, TenantId(0));
        exporting.end();
        collector.clear.set_nonblocking(true).expect("it can be asked");
        if let Ok((mut stream, _)) = collector.clear.accept() {
            stream.set_nonblocking(false).expect("it can be read");
            assert!(read_message(&mut stream).is_none(), "{configuration}");
        }
    }
}

#[test]
fn a_collector_that_leaves_the_configuration_gets_what_was_on_its_way_and_no_more() {
    let (old, new) = (udp(), udp());
    let dir = tempfile::tempdir().expect("a directory");
    let mut exporting = Exporting::start_in(dir.path(), &collector("old", address_of(&old), ""));
    exporting.add(3, TenantId(0));
    exporting.reconfigure(configured(dir.path(), &collector("new", address_of(&new), "")));
    exporting.add(4, TenantId(0));
    exporting.end();
    assert_eq!(flows(&receive(&old, 6)), 6);
    assert_eq!(flows(&receive(&new, 8)), 8);
    old.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    let deadline = Instant::now() + Duration::from_millis(100);
    while let Ok(length) = old.recv(&mut [0; 2_000]) {
        assert!(Instant::now() < deadline && length > 0, "more for the old one");
    }
}
