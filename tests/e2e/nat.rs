//! Must hold 1: tenants with the same addresses share the internet and never meet.

use crate::hosts::{Server, curl};
use crate::world::World;
use ipnetwork::Ipv4Network;
use std::net::{IpAddr, SocketAddr};

/// Where the hosts of both tenants are, and the port they call from: their flows are one and the same 5-tuple.
const HOST: &str = "10.1.0.10";
const PORT: &str = "40000";

#[test]
fn hosts_of_two_tenants_with_one_address_and_port_fetch_a_page_at_once_and_each_gets_its_own() {
    let world = World::up("enat", &["berlin", "berlin-host", "site1", "site1-host"]);
    let web = Server::web(&world, "web");
    let fetch = |host: &str, tenant: &str| {
        let url = format!("http://203.0.113.80/together?{tenant}");
        curl(&world, host, &url, &["--local-port", PORT])
    };
    let (acme, globex) = std::thread::scope(|scope| {
        let acme = scope.spawn(|| fetch("berlin-host", "acme"));
        let globex = scope.spawn(|| fetch("site1-host", "globex"));
        (acme.join().expect("acme's page"), globex.join().expect("globex's page"))
    });
    let sessions = world.sessions("fra1");
    let mut told = Vec::new();
    for (tenant, page, pool) in [("acme", acme, "198.51.100.0/29"), ("globex", globex, "198.51.100.8/29")] {
        let pool: Ipv4Network = pool.parse().expect("a prefix");
        let address = page.strip_prefix(&format!("/together?{tenant} ")).expect("its own answer");
        let address: SocketAddr = address.parse().expect("the address the server saw");
        assert!(matches!(address.ip(), IpAddr::V4(ip) if pool.contains(ip)), "{tenant} came from {address}");
        let session = sessions.iter().find(|session| {
            session.tenant == tenant
                && session.source == HOST.parse::<IpAddr>().expect("an address")
                && session.source_port.to_string() == PORT
        });
        let session = session.unwrap_or_else(|| panic!("no session of {tenant}'s: {sessions:?}"));
        assert_eq!((session.nat_source, session.nat_source_port), (Some(address.ip()), Some(address.port())));
        told.push(address);
    }
    let mut seen = web.peers();
    seen.sort();
    told.sort();
    assert_eq!(seen, told, "the server saw nobody but the two, and them by their pools' addresses");
}
