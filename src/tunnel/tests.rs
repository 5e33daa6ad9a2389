//! Two tunnels talking, and strangers at the gate.

use super::*;
use crate::model::{DropReason, Instant};
use std::net::IpAddr;
use std::time::Duration;
use x25519_dalek::{PublicKey, StaticSecret};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn public(private: [u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

fn gate_of(keys: impl IntoIterator<Item = [u8; 32]>) -> Gate {
    let mut gate = Gate::new(Instant(0));
    gate.keep(keys);
    gate
}

fn pair() -> (Tunnel, Tunnel, Gate) {
    let (branch, pop) = ([1; 32], [2; 32]);
    let keys = |private, peer| Keys { private, peer: public(peer), preshared: None };
    (
        Tunnel::new(&keys(branch, pop), None, TunnelIndex::new(7, 0)),
        Tunnel::new(&keys(pop, branch), None, TunnelIndex::new(9, 3)),
        gate_of([pop]),
    )
}

fn packet() -> Vec<u8> {
    crate::wire::udp_v6(
        ("2001:db8::1".parse().expect("v6"), 1),
        ("2001:db8::2".parse().expect("v6"), 2),
        0,
        b"hello",
    )
}

#[test]
fn a_packet_that_waited_for_the_handshake_arrives_and_so_do_answers() {
    let (mut branch, mut pop, mut gate) = pair();
    let (mut a, mut b) = ([0; 2_048], [0; 2_048]);
    let Sealed::Waiting(Some(len)) = branch.seal(&packet(), &mut a) else { panic!("no handshake") };
    let admitted = gate.admit(HERE, &a[..len], &mut b);
    assert_eq!(admitted, Ok(Admission::Peer { ours: public([2; 32]), peer: public([1; 32]) }));
    let Ok(Opened::Reply(len)) = pop.open(HERE, &a[..len], &mut b) else { panic!("no response") };
    assert_eq!(receiver(&b[..len]), Some(branch.index()));
    assert_eq!(pop.seal_waiting(&mut [0; 2_048]), None);
    let Ok(Opened::Reply(len)) = branch.open(HERE, &b[..len], &mut a) else { panic!("no keepalive") };
    assert_eq!(receiver(&a[..len]), Some(pop.index()));
    assert_eq!(pop.open(HERE, &a[..len], &mut b), Ok(Opened::Nothing));
    let len = branch.seal_waiting(&mut a).expect("the packet that waited");
    let Ok(Opened::Packet(plain)) = pop.open(HERE, &a[..len], &mut b) else { panic!("not opened") };
    assert_eq!(&b[..plain], &packet()[..]);
    assert_eq!(branch.seal_waiting(&mut a), None);
    let replayed = a[..len].to_vec();
    assert_eq!(pop.open(HERE, &replayed, &mut b), Err(DropReason::TunnelReplayed));
    let Sealed::Datagram(len) = pop.seal(&packet(), &mut b) else { panic!("no session") };
    assert!(matches!(branch.open(HERE, &b[..len], &mut a), Ok(Opened::Packet(_))));
}

#[test]
fn packets_beyond_the_waiting_queue_are_told_of() {
    let (mut branch, ..) = pair();
    let mut buffer = [0; 2_048];
    let outcomes: Vec<_> = (0..300).map(|_| branch.seal(&packet(), &mut buffer)).collect();
    assert!(matches!(outcomes[0], Sealed::Waiting(Some(148))));
    assert_eq!(outcomes.iter().filter(|o| **o == Sealed::QueueFull).count(), 300 - 256);
}

/// A gate under load: cookies are asked for.
fn loaded() -> (Tunnel, Gate) {
    let (mut branch, _, mut gate) = pair();
    let (mut buffer, mut reply) = ([0; 2_048], [0; 2_048]);
    let mut cookies = 0;
    for n in 0..600u32 {
        let len = branch.call(&mut buffer).expect("an initiation");
        let from = IpAddr::from((n + 0x0a00_0000).to_be_bytes());
        cookies +=
            usize::from(matches!(gate.admit(from, &buffer[..len], &mut reply), Ok(Admission::Cookie(64))));
    }
    assert_eq!(cookies, 100);
    (branch, gate)
}

/// Calls from `HERE`.
fn call(branch: &mut Tunnel, gate: &mut Gate, reply: &mut [u8]) -> Result<Admission, DropReason> {
    let mut buffer = [0; 2_048];
    let len = branch.call(&mut buffer).expect("an initiation");
    gate.admit(HERE, &buffer[..len], reply)
}

#[test]
fn under_load_a_cookie_is_asked_for_and_serves() {
    let (mut branch, mut gate) = loaded();
    let mut reply = [0; 64];
    assert_eq!(call(&mut branch, &mut gate, &mut reply), Ok(Admission::Cookie(64)));
    assert_eq!(branch.open(HERE, &reply, &mut [0; 2_048]), Ok(Opened::Nothing));
    assert!(matches!(call(&mut branch, &mut gate, &mut reply), Ok(Admission::Peer { .. })));
}

#[test]
fn a_source_that_proved_itself_and_calls_too_often_is_refused_and_forgiven_in_time() {
    let (mut branch, mut gate) = loaded();
    let mut reply = [0; 64];
    assert_eq!(call(&mut branch, &mut gate, &mut reply), Ok(Admission::Cookie(64)));
    assert_eq!(branch.open(HERE, &reply, &mut [0; 2_048]), Ok(Opened::Nothing));
    let outcomes: Vec<_> = (0..60).map(|_| call(&mut branch, &mut gate, &mut reply)).collect();
    assert!(outcomes[..50].iter().all(Result::is_ok), "{outcomes:?}");
    assert!(outcomes[50..].iter().all(|o| *o == Err(DropReason::HandshakeRateLimited)), "{outcomes:?}");
    gate.tick(Instant(0) + Duration::from_secs(1));
    assert!(matches!(call(&mut branch, &mut gate, &mut reply), Ok(Admission::Peer { .. })));
}

#[test]
fn calls_in_somebody_elses_name_do_not_keep_him_out() {
    let (mut branch, _, mut gate) = pair();
    let mut stranger = Tunnel::new(
        &Keys { private: [5; 32], peer: public([2; 32]), preshared: None },
        None,
        TunnelIndex::new(8, 0),
    );
    for _ in 0..400 {
        assert!(call(&mut stranger, &mut gate, &mut [0; 64]).is_ok());
        let mut rubbish = [0; 148];
        rubbish[0] = 1;
        assert_eq!(gate.admit(HERE, &rubbish, &mut [0; 64]), Err(DropReason::HandshakeMacInvalid));
    }
    assert!(matches!(call(&mut branch, &mut gate, &mut [0; 64]), Ok(Admission::Peer { .. })));
}

#[test]
fn an_initiation_for_another_key_is_not_ours() {
    let (mut branch, ..) = pair();
    let mut gate = gate_of([[3; 32], [4; 32]]);
    let mut buffer = [0; 2_048];
    let len = branch.call(&mut buffer).expect("an initiation");
    assert_eq!(gate.admit(HERE, &buffer[..len], &mut [0; 64]), Err(DropReason::HandshakeMacInvalid));
}

#[test]
fn a_commit_in_the_middle_of_a_flood_leaves_cookies_good() {
    let (mut branch, mut gate) = loaded();
    let mut reply = [0; 2_048];
    assert_eq!(call(&mut branch, &mut gate, &mut reply), Ok(Admission::Cookie(64)));
    assert_eq!(branch.open(HERE, &reply[..64], &mut [0; 2_048]), Ok(Opened::Nothing));
    gate.keep([[3; 32], [2; 32]]);
    assert!(matches!(call(&mut branch, &mut gate, &mut reply), Ok(Admission::Peer { .. })));
}

#[test]
fn a_tunnel_is_calling_from_its_initiation_to_its_session() {
    let (mut branch, mut pop, _) = pair();
    let (mut a, mut b) = ([0; 2_048], [0; 2_048]);
    assert!(!branch.is_calling());
    let len = branch.call(&mut a).expect("an initiation");
    assert!(branch.is_calling());
    let Ok(Opened::Reply(len)) = pop.open(HERE, &a[..len], &mut b) else { panic!("no response") };
    assert!(!pop.is_calling(), "who answers does not call");
    assert!(branch.open(HERE, &[2; 92], &mut a).is_err());
    assert!(branch.is_calling(), "rubbish is no answer");
    assert!(matches!(branch.open(HERE, &b[..len], &mut a), Ok(Opened::Reply(_))));
    assert!(!branch.is_calling());
}
