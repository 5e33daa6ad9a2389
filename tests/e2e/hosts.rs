//! What runs on the lab's hosts. Sockets belong to the namespace they were opened in, so servers are threads of the test
//! itself wherever they can be: it knows when they listen, and what they saw. Where the point is that they are somebody
//! else's, they are programs of Debian's.

use crate::world::{World, eventually};
use popgate::lab::{Lab, NodeChild};
use rustix::net::Shutdown;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For whatever must come: many times what a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A TCP server in a node. Dropping it ends it and its connections.
pub struct Server {
    shared: Arc<Shared>,
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Who connected, in order, and the connections.
    connections: Mutex<Vec<(SocketAddr, TcpStream)>>,
    /// Who waits at `/together`.
    together: Mutex<BTreeSet<SocketAddr>>,
    arrived: Condvar,
}

impl Server {
    /// A web server on port 80 of both families. `/whoami` answers with the address that asks; `/together` with the same
    /// to two who ask, once both have asked.
    pub fn web(lab: &Lab, node: &str) -> Server {
        Server::start(lab, node, 80, answer_web)
    }

    /// A server that calls `serve` with each connection.
    pub fn start(
        lab: &Lab,
        node: &str,
        port: u16,
        serve: impl Fn(&Service, SocketAddr, TcpStream) + Send + Sync + Clone + 'static,
    ) -> Server {
        let listener = lab.enter(node, || TcpListener::bind(("::", port))).expect("entered").expect("bound");
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let listener = listener.try_clone().expect("a second handle");
            let shared = Arc::clone(&shared);
            move || {
                while let Ok((stream, peer)) = listener.accept() {
                    let peer = canonical(peer);
                    let copy = stream.try_clone().expect("a second handle");
                    shared.connections.lock().expect("no panic").push((peer, copy));
                    let service = Service { shared: Arc::clone(&shared) };
                    let serve = serve.clone();
                    std::thread::spawn(move || {
                        let closing = stream.try_clone().expect("a second handle");
                        serve(&service, peer, stream);
                        // Said here, for the list above keeps a handle too. The other side may be gone.
                        let _ = closing.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        Server { shared, listener, acceptor: Some(acceptor) }
    }

    /// Who has connected so far, in order.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.connections.lock().expect("no panic").iter().map(|(peer, _)| *peer).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the acceptor.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        if let Ok(connections) = self.shared.connections.lock() {
            for (_, stream) in connections.iter() {
                // It may be closed already.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

/// What a connection's thread knows of its server.
pub struct Service {
    shared: Arc<Shared>,
}

fn answer_web(service: &Service, peer: SocketAddr, mut stream: TcpStream) {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    if reader.read_line(&mut line).is_err() {
        return;
    }
    // The headers, to their empty line: what is unread when a connection is closed makes it a reset.
    let mut header = String::new();
    while reader.read_line(&mut header).is_ok_and(|len| len > 2) {
        header.clear();
    }
    if line.contains(" /together") {
        let mut together = service.shared.together.lock().expect("no panic");
        together.insert(peer);
        service.shared.arrived.notify_all();
        let wait = service.shared.arrived.wait_timeout_while(together, PATIENCE, |who| who.len() < 2);
        if wait.expect("no panic").1.timed_out() {
            return;
        }
    }
    let (status, body) = match line.split(' ').nth(1) {
        Some(path) if path.starts_with("/whoami") || path.starts_with("/together") => {
            ("200 OK", format!("{path} {peer}"))
        }
        Some(path) => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => ("200 OK", "x".repeat(count)),
            None => ("404 Not Found", String::new()),
        },
        None => ("400 Bad Request", String::new()),
    };
    // Whoever asked may be gone.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// A UDP echo server on port 7 of both families. Dropping it ends it.
pub struct Echo {
    socket: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(lab: &Lab, node: &str) -> Echo {
        let socket = lab.enter(node, || UdpSocket::bind("[::]:7")).expect("entered").expect("bound");
        let thread = std::thread::spawn({
            let socket = socket.try_clone().expect("a second handle");
            move || {
                let mut buffer = [0; 65_536];
                // Looked at first: a socket that was shut down gives nothing, from nobody, which std cannot put into words.
                while let Ok(1..) = socket.peek(&mut buffer) {
                    let Ok((len, from)) = socket.recv_from(&mut buffer) else { return };
                    // The asker's wait says if it was lost.
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        Echo { socket, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Of a socket that is not connected it says so, and wakes the receiver all the same.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server of Debian's in a node, from the moment it listens. Dropping it ends it.
pub struct Program {
    _child: NodeChild,
    log: PathBuf,
}

impl Program {
    /// Runs `command` in the node's own directory. It listens once the node has a `socket`: "tcp" or "udp", and the port.
    pub fn start(world: &World, node: &str, socket: (&str, u16), command: &[&str]) -> Program {
        let (protocol, port) = socket;
        let directory = world.node(node).directory();
        let log = directory.join(format!("{protocol}-{port}.log"));
        let output = File::create(&log).expect("a log file");
        let child = world.node(node).command(command[0]).args(&command[1..]).current_dir(directory);
        let child = child.stdout(output.try_clone().expect("a second handle")).stderr(output);
        let program = Program { _child: child.spawn().expect("the program runs"), log };
        let sockets = ["ss", "-Hln", &format!("--{protocol}"), "sport", "=", &format!(":{port}")];
        eventually(&format!("{} listens in {node}", command[0]), || !world.must(node, &sockets).is_empty());
        program
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the program's log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {} ----\n{}", self.log.display(), self.log());
        }
    }
}

/// Fetches `url` with curl from a node; what it got.
pub fn curl(world: &World, node: &str, url: &str, options: &[&str]) -> String {
    world.must(node, &[&["curl", "-sS", "--fail", "--max-time", "15", url], options].concat())
}

/// An IPv4 address in IPv6's clothes as itself.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// tcpdump on an interface of a node, from the moment it listens.
pub struct Watch {
    tcpdump: NodeChild,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(lab: &Lab, node: &str, interface: &str, filter: &str) -> Watch {
        let command = lab.node(node).command("tcpdump");
        let command = command.args(["-n", "-l", "--immediate-mode", "-i", interface, filter]);
        let mut tcpdump =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tcpdump runs");
        let mut said = BufReader::new(tcpdump.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let read = said.read_line(&mut line).expect("read");
            assert!(read > 0, "tcpdump in {node} ended");
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let (lines, stdout) = (Arc::clone(&lines), tcpdump.stdout.take().expect("piped"));
            move || {
                let stdout = BufReader::new(stdout);
                stdout
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| lines.lock().expect("no panic").push(line));
                // Not before: it would make tcpdump's last words an error.
                drop(said);
            }
        });
        Watch { tcpdump, lines, reader: Some(reader) }
    }

    /// What it has seen so far, a line a packet.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reads to the end of a stream; how much came, its hash, and the longest time between two times that something came.
pub struct Download {
    pub bytes: u64,
    pub hash: u64,
    pub longest_gap: Duration,
    /// When the longest gap began.
    pub gap_began: Duration,
    pub lasted: Duration,
}

impl Download {
    pub fn read(stream: &mut TcpStream) -> Download {
        let begin = Instant::now();
        let mut download = Download {
            bytes: 0,
            hash: HASH_OF_NOTHING,
            longest_gap: Duration::ZERO,
            gap_began: Duration::ZERO,
            lasted: Duration::ZERO,
        };
        let mut buffer = vec![0; 65_536];
        let mut last = begin;
        loop {
            let read = stream.read(&mut buffer).expect("the connection lasts");
            let now = Instant::now();
            if now - last > download.longest_gap {
                (download.longest_gap, download.gap_began) = (now - last, last - begin);
            }
            last = now;
            if read == 0 {
                download.lasted = begin.elapsed();
                return download;
            }
            download.bytes += read as u64;
            download.hash = hash(download.hash, &buffer[..read]);
        }
    }
}

/// FNV-1a: any byte that is missing, doubled or out of place changes it.
pub const HASH_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

pub fn hash(so_far: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(so_far, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
