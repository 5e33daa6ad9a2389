//! Must hold 4: a transport is cut, silently, in mid-download; the same TCP connection finishes over the other.

use crate::hosts::{Download, HASH_OF_NOTHING, Server, hash};
use crate::world::{World, eventually};
use popgate::pipeline::report::SessionReport;
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

/// 6 s at 12 Mbit/s: the cut comes well within.
const CHUNK: usize = 15_000;
const CHUNKS: usize = 600;
const PACE: Duration = Duration::from_millis(10);
const PORT: u16 = 80;

#[test]
fn a_download_goes_on_over_the_second_transport_when_the_first_is_cut() {
    let world = World::alone("efailover", &["berlin", "berlin-host"]);
    let server = Server::start(&world, "web", PORT, |_, _, mut stream| {
        let begin = Instant::now();
        for number in 0..CHUNKS {
            if stream.write_all(&chunk(number)).is_err() {
                return;
            }
            // By the clock, so that what could not be sent for a while does not take that much longer.
            std::thread::sleep(
                (begin + PACE * (number as u32 + 1)).saturating_duration_since(Instant::now()),
            );
        }
    });
    let up = |node: &str, site: &str, path: &str| {
        world.path(node, site, path).state == popgate::pipeline::report::PathState::Up
    };
    for path in ["dsl", "lte"] {
        eventually("both paths are up", || up("fra1", "berlin", path) && up("berlin", "fra1", path));
    }

    let mut stream = world
        .enter("berlin-host", || TcpStream::connect(("203.0.113.80", PORT)))
        .expect("entered")
        .expect("connected");
    // Far beyond the gap that is allowed: this is for a test that fails, so that it does not hang.
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let own_port = stream.local_addr().expect("an address").port();
    let session = || -> SessionReport {
        let sessions = world.sessions("fra1").into_iter().filter(|session| session.protocol == "tcp");
        let mut sessions: Vec<SessionReport> = sessions.collect();
        assert_eq!(sessions.len(), 1, "one connection is one session: {sessions:?}");
        sessions.remove(0)
    };
    let download = std::thread::spawn(move || Download::read(&mut stream));
    eventually("the download is well under way", || session().reverse_bytes > 1_500_000);
    let before = session();
    assert_eq!((before.source_port, before.reverse_path.as_deref()), (own_port, Some("dsl")));
    world.link("berlin-dsl").cut().expect("cut");
    eventually("the session moves to the other path", || {
        let now = session();
        (now.forward_path.as_deref(), now.reverse_path.as_deref()) == (Some("lte"), Some("lte"))
    });
    assert!(!download.is_finished(), "in mid-download");
    let after = session();
    let identity = |session: &SessionReport| (session.id, session.nat_source, session.nat_source_port);
    assert_eq!(identity(&before), identity(&after), "the session and its NAT binding stay");
    let download = download.join().expect("the download ends");

    let Download { bytes, hash: got, longest_gap, gap_began, lasted } = download;
    println!(
        "failover: {bytes} bytes in {lasted:.2?} over one connection; longest gap {longest_gap:.0?}, {gap_began:.2?} \
         after the beginning"
    );
    assert_eq!(bytes as usize, CHUNK * CHUNKS);
    assert_eq!(got, (0..CHUNKS).fold(HASH_OF_NOTHING, |so_far, number| hash(so_far, &chunk(number))));
    let peers = server.peers();
    let (address, port): (IpAddr, u16) = (
        before.nat_source.expect("an address of the pool"),
        before.nat_source_port.expect("a port of the pool"),
    );
    assert_eq!(peers, [(address, port).into()], "the server saw one connection");
    assert!(longest_gap < Duration::from_secs(1), "longest gap {longest_gap:?}");
}

/// Every chunk is another, so that none can stand in for another.
fn chunk(number: usize) -> Vec<u8> {
    (0..CHUNK).map(|at| (number.wrapping_mul(31) ^ at.wrapping_mul(7) ^ (at >> 8)) as u8).collect()
}
