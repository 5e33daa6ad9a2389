//! Datagrams that strangers send to the WireGuard port, and what a peer may put into a tunnel.

use popgate::config::{PrivateKey, public_of};
use popgate::model::Instant;
use popgate::tunnel::{Gate, Keys, Opened, Sealed, Tunnel, TunnelIndex, buffer_for, receiver};
use popgate::wire;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const BRANCH: [u8; 32] = [1; 32];
const POP: [u8; 32] = [2; 32];

/// Both ends of a tunnel, and the gate before the second.
struct Ends {
    branch: Tunnel,
    pop: Tunnel,
    gate: Gate,
}

thread_local! {
    /// Making them takes a few Diffie-Hellmans.
    static ENDS: RefCell<Ends> = RefCell::new(Ends::new());
}

/// First as a datagram from anywhere, then as the packet in one from the peer.
pub fn tunnel(data: &[u8]) {
    ENDS.with_borrow_mut(|ends| {
        let mut buffer = vec![0; buffer_for(data.len())];
        receiver(data);
        let mut reply = [0; 64];
        // Whatever it is judged to be.
        let _ = ends.gate.admit(HERE, data, &mut reply);
        let _ = ends.pop.open(HERE, data, &mut buffer);
        let mut datagram = vec![0; buffer_for(data.len())];
        if let Sealed::Datagram(len) = ends.branch.seal(data, &mut datagram) {
            buffer.resize(buffer_for(len), 0);
            if let Ok(Opened::Packet(plain)) = ends.pop.open(HERE, &datagram[..len], &mut buffer) {
                assert_eq!(buffer[..plain], data[..plain]);
                let _ = wire::parse(&buffer[..plain]);
            }
        } else {
            // The session has run out.
            *ends = Ends::new();
        }
    });
}

impl Ends {
    /// With a session, as the branch's first packet makes it.
    fn new() -> Ends {
        let keys = |private, peer| Keys { private, peer: public_of(&PrivateKey(peer)).0, preshared: None };
        let mut branch = Tunnel::new(&keys(BRANCH, POP), None, TunnelIndex::new(7, 0));
        let mut pop = Tunnel::new(&keys(POP, BRANCH), None, TunnelIndex::new(9, 0));
        let mut gate = Gate::new(Instant(0));
        gate.keep([POP]);
        let (mut a, mut b) = ([0; 256], [0; 256]);
        let len = branch.call(&mut a).expect("an initiation");
        let Ok(Opened::Reply(len)) = pop.open(HERE, &a[..len], &mut b) else { panic!("no response") };
        let Ok(Opened::Reply(len)) = branch.open(HERE, &b[..len], &mut a) else { panic!("no keepalive") };
        assert_eq!(pop.open(HERE, &a[..len], &mut b), Ok(Opened::Nothing));
        Ends { branch, pop, gate }
    }
}
