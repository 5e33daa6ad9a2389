//! Order: numbered datagrams of several flows, in bursts that fill super-packets and alone, through real boxes both ways.
//! Some may be lost; none may arrive behind one that was sent after it.

use crate::world::{World, eventually};
use popgate::pipeline::report::PathState;
use std::net::{SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FLOWS: usize = 4;
const DATAGRAMS: u32 = 4_000;
/// After a burst of each flow: the lab's links are programs, and boxes of a test are slow.
const PAUSE: Duration = Duration::from_millis(8);
/// The last has arrived by then, or never will.
const SILENCE: Duration = Duration::from_secs(2);
const SERVER: &str = "10.200.0.10:9000";

#[test]
fn datagrams_of_a_flow_arrive_in_the_order_in_which_they_were_sent_both_ways() {
    let world = World::up("eorder", &["berlin", "berlin-host"]);
    world.await_ping("berlin-host", "10.200.0.10");
    // With one line there is none to move to: a flow that changes lines may overtake itself.
    world.link("berlin-lte").cut().expect("cut");
    for (node, site) in [("berlin", "fra1"), ("fra1", "berlin")] {
        eventually("the other line is down", || world.path(node, site, "lte").state == PathState::Down);
    }
    let server = world.enter("dc-host", || UdpSocket::bind(SERVER)).expect("entered").expect("bound");
    let clients: Vec<UdpSocket> = (0..FLOWS)
        .map(|_| {
            let client = world.enter("berlin-host", || UdpSocket::bind("0.0.0.0:0")).expect("entered");
            let client = client.expect("bound");
            client.connect(SERVER).expect("a route");
            client
        })
        .collect();
    let up =
        send(clients.iter().map(|client| move |datagram: &[u8]| client.send(datagram)).collect(), || {
            let server = server.try_clone().expect("a second handle");
            vec![receive(server)]
        });
    let mut seen: Vec<(SocketAddr, u32)> = up.into_iter().flatten().collect();
    let order = |seen: &[(SocketAddr, u32)], from: SocketAddr, what: &str| {
        let numbers: Vec<u32> = seen.iter().filter(|(of, _)| *of == from).map(|(_, n)| *n).collect();
        println!("order: {what} {from}: {} of {DATAGRAMS} arrived", numbers.len());
        let overtaken = numbers.windows(2).filter(|pair| pair[1] <= pair[0]).count();
        assert_eq!(overtaken, 0, "{what} {from}");
        assert!(
            numbers.len() > DATAGRAMS as usize / 2,
            "too few to tell: {} of {what} {from}",
            numbers.len()
        );
    };
    let mut peers: Vec<SocketAddr> = seen.iter().map(|(from, _)| *from).collect();
    peers.sort();
    peers.dedup();
    assert_eq!(peers.len(), FLOWS, "{peers:?}");
    peers.iter().for_each(|peer| order(&seen, *peer, "up"));

    let down = send(
        peers
            .iter()
            .map(|peer| {
                let server = &server;
                move |datagram: &[u8]| server.send_to(datagram, peer)
            })
            .collect(),
        || clients.iter().map(|client| receive(client.try_clone().expect("a second handle"))).collect(),
    );
    for of_one in down {
        seen = of_one;
        order(&seen, SERVER.parse().expect("an address"), "down");
    }
}

/// Sends numbered datagrams in bursts of one to forty of a flow in turn; what the receivers, listening by then, saw.
fn send<S: Fn(&[u8]) -> std::io::Result<usize>>(
    flows: Vec<S>,
    receivers: impl FnOnce() -> Vec<JoinHandle<Vec<(SocketAddr, u32)>>>,
) -> Vec<Vec<(SocketAddr, u32)>> {
    let receivers = receivers();
    let mut next = vec![0; flows.len()];
    let mut burst = 0;
    while next.iter().any(|number| *number < DATAGRAMS) {
        for (send, number) in flows.iter().zip(&mut next) {
            burst = (burst + 13) % 40;
            for _ in 0..=burst {
                if *number < DATAGRAMS {
                    let mut datagram = number.to_be_bytes().to_vec();
                    datagram.resize(if burst % 3 == 0 { 60 } else { 300 }, 7);
                    // One that the kernel does not take is a lost one.
                    let _ = send(&datagram);
                    *number += 1;
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
    receivers.into_iter().map(|receiver| receiver.join().expect("no panic")).collect()
}

/// Listens until nothing has come for [`SILENCE`]: who sent what.
fn receive(socket: UdpSocket) -> JoinHandle<Vec<(SocketAddr, u32)>> {
    socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
    std::thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::new(), [0; 2_048]);
        let begin = Instant::now();
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            assert!(len >= 4 && begin.elapsed() < Duration::from_secs(120), "an end");
            seen.push((from, u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]])));
        }
        seen
    })
}
