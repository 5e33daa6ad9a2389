//! How the NAT behaves, as Debian's STUN client finds it out (RFC 5780): how a host's port is mapped, who may answer to it,
//! and whether hosts behind the NAT reach each other by their addresses on the internet.

use crate::hosts::{Echo, Program};
use crate::reload;
use crate::world::{World, eventually, node, template};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const STUN: &str = "192.0.2.66";

/// The server: two addresses, and at each of them two ports.
fn serve(world: &World) -> Program {
    let server = ["turnserver", "-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli"];
    let own = ["--log-file=stdout", "--simple-log", "--pidfile=turn.pid", "--userdb=turn.db"];
    let addresses = ["--listening-ip=192.0.2.66", "--listening-ip=192.0.2.67"];
    Program::start(world, "stun", ("udp", 3_478), &[&server[..], &own, &addresses].concat())
}

/// What the client concludes.
fn discover(world: &World, node: &str, options: &[&str]) -> Vec<String> {
    let told = world.must(node, &[&["turnutils_natdiscovery"], options, &[STUN]].concat());
    let concludes = |line: &&str| {
        line.contains("NAT with ") || line.contains("No NAT!") || line.contains("successful hairpinning")
    };
    told.lines().filter(concludes).map(str::to_owned).collect()
}

#[test]
fn a_stun_client_finds_one_mapping_whoever_is_sent_to_and_filtering_as_configured_and_hosts_reach_each_other()
{
    const NAMES: [(&str, &str); 3] = [
        ("address-and-port-dependent", "Address and Port Dependent"),
        ("address-dependent", "Address Dependent"),
        ("endpoint-independent", "Endpoint Independent"),
    ];
    let acme = |filtering: &str| {
        let pool = "nat-pool = [\"198.51.100.0/29\"]";
        template("tenants/acme.toml").replace(pool, &format!("{pool}\nnat-filtering = \"{filtering}\""))
    };
    let world = World::changed("estun", &["berlin", "berlin-host", "lyon", "stun"], |topology| {
        for at in ["fra1", "berlin"] {
            node(topology, at).files.insert("tenants/acme.toml".to_owned(), acme(NAMES[0].0));
        }
    });
    let _server = serve(&world);
    let _echo = Echo::start(&world, "web");
    world.await_ping("berlin-host", STUN);
    world.await_ping("lyon", STUN);
    world.must("berlin-host", &["ip", "address", "add", "10.1.0.11/24", "dev", "eth0"]);
    // Who has an address of its own is told so.
    let direct = discover(&world, "isp", &["-m", "-f", "-L", "192.0.2.65"]);
    assert!(direct.contains(&"No NAT! (Endpoint Independent Mapping)".to_owned()), "{direct:?}");
    assert!(direct.contains(&"NAT with Endpoint Independent Filtering!".to_owned()), "{direct:?}");

    let mut was = NAMES[0].0;
    for (filtering, called) in NAMES {
        if filtering != was {
            for at in ["berlin", "fra1"] {
                reload::edit_and_tell(&world, at, "tenants/acme.toml", |text| text.replace(was, filtering));
            }
            was = filtering;
        }
        for host in ["berlin-host", "lyon"] {
            let told = discover(&world, host, &["-m"]);
            assert_eq!(told, ["NAT with Endpoint Independent Mapping!"], "{host}, {filtering}");
        }
        let told = discover(&world, "berlin-host", &["-f"]);
        assert_eq!(told, [format!("NAT with {called} Filtering!")], "{filtering}");

        let hosts = [("berlin-host", "10.1.0.10"), ("berlin-host", "10.1.0.11"), ("lyon", "10.2.0.1")];
        let [one, neighbour, other] = hosts.map(|(node, address)| Host::start(&world, node, address));
        one.and_another_reach_each_other(&world, &neighbour);
        one.and_another_reach_each_other(&world, &other);
    }
    // Its request must come in though it has sent nothing to itself.
    let told = discover(&world, "berlin-host", &["-H"]);
    assert_eq!(told, ["Received a request (maybe a successful hairpinning)"]);
}

/// A socket behind the NAT, and what the internet knows it by.
struct Host {
    socket: UdpSocket,
    outside: SocketAddr,
}

impl Host {
    fn start(world: &World, node: &str, address: &str) -> Host {
        let socket = world.enter(node, || UdpSocket::bind((address, 0))).expect("entered").expect("bound");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        socket.send_to(b"who am I?", "203.0.113.80:7").expect("sent");
        socket.recv_from(&mut [0; 100]).expect("echoed");
        let inside = socket.local_addr().expect("an address");
        let sessions = world.sessions("fra1");
        let session = sessions.iter().find(|s| (s.source, s.source_port) == (inside.ip(), inside.port()));
        let session = session.unwrap_or_else(|| panic!("no session of {inside}'s: {sessions:?}"));
        let address: IpAddr = session.nat_source.expect("translated");
        Host { socket, outside: (address, session.nat_source_port.expect("translated")).into() }
    }

    fn hears(&self) -> (String, SocketAddr) {
        let mut buffer = [0; 100];
        let (len, from) = self.socket.recv_from(&mut buffer).expect("something comes");
        (String::from_utf8_lossy(&buffer[..len]).into_owned(), from)
    }

    /// Each sends to the other's address outside and is heard to come from its own (RFC 4787 REQ-9): with any filtering,
    /// since both send first.
    fn and_another_reach_each_other(&self, world: &World, other: &Host) {
        // Lets the other in; whether it arrives is up to filtering.
        self.socket.send_to(b"let me in", other.outside).expect("sent");
        let inside = self.socket.local_addr().expect("an address");
        eventually("the PoP has seen it", || {
            let sessions = world.sessions("fra1");
            sessions.iter().any(|s| {
                (s.source, s.source_port) == (inside.ip(), inside.port())
                    && (s.destination, s.destination_port) == (other.outside.ip(), other.outside.port())
            })
        });
        other.socket.send_to(b"question", self.outside).expect("sent");
        assert_eq!(self.hears(), ("question".to_owned(), other.outside));
        self.socket.send_to(b"answer", other.outside).expect("sent");
        let mut heard = other.hears();
        if heard.0 == "let me in" {
            heard = other.hears();
        }
        assert_eq!(heard, ("answer".to_owned(), self.outside));
    }
}
