//! Two tenants with a million sessions each: one has used up its pool and all the sessions it may have, and goes on asking;
//! the other loses no packet and no new session.

use crate::net::{ACME, GLOBEX, POP, Sim};
use crate::packets::udp;
use popgate::model::DeviceId;
use popgate::wire::{Ingress, Outbound};
use std::ops::Range;

/// Sessions of each tenant; as many as acme may have.
const EACH: u32 = 1_000_000;
/// Of acme's pool: sixteen addresses.
const ACMES_PORTS: u32 = 16 * 61_440;
const TOGETHER: u32 = 64;

/// A PoP with room for all of them; both tenants have a data centre.
pub fn crowded() -> Sim {
    let pop = POP.replace("max-sessions = 1000", "max-sessions = 2_100_000");
    let out = "[[acl]]\nname = \"dc-out\"\nfrom = [\"handoff:dc\"]\nto = [\"handoff:internet\"]\naction = \"accept\"\n";
    let acme = ACME.replace("[\"198.51.100.0/30\"]", "[\"198.51.100.0/28\"]\nnat-ports = \"1024-62463\"");
    let dc = "[[handoff]]\nname = \"dc\"\nkind = \"private\"\ninterface = \"eth3\"\naddress = [\"10.200.0.1/24\"]\n\
              prefixes = [\"10.200.0.0/16\"]\n";
    let globex =
        GLOBEX.replace("198.51.100.8/30", "198.51.100.32/27").replace("nat-ports = \"5000-5003\"\n", "");
    let acme = format!("max-sessions = {EACH}\n{acme}{out}");
    let mut sim = Sim::with_configurations(&pop, &acme, &format!("{globex}{dc}{out}"));
    sim.advance(2_000);
    sim
}

/// Packets of the sessions `numbers`, from the tenant's data centre to `to`; how many leave the box.
fn send(sim: &mut Sim, device: DeviceId, numbers: Range<u32>, to: &str) -> u64 {
    let mut left = 0;
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let packet = |n: u32| {
            let from = format!("10.200.{}.{}:{}", n / 50_000, 7, 1_024 + n % 50_000);
            (Ingress::Device(device), udp(&from, to, b"").bytes())
        };
        let together: Vec<_> = numbers.by_ref().take(TOGETHER as usize).map(packet).collect();
        let now = sim.now;
        let mut out = Outbound::default();
        sim.node("fra1").plane.process_together(&together, now, &mut out);
        left += (out.packets().count() + out.datagrams().count()) as u64;
    }
    left
}

#[test]
fn a_tenant_that_has_used_up_its_pool_and_its_sessions_costs_the_other_no_packet_and_no_session() {
    let mut sim = crowded();
    let [acme, globex] = ["dc", "globex/dc"].map(|name| sim.device("fra1", name));
    let server = "203.0.113.80:53";
    let almost = EACH - 10_000;
    assert_eq!(send(&mut sim, globex, 0..almost, server), u64::from(almost));

    // acme's pool: what is over is refused, and costs no session.
    let asked = ACMES_PORTS + 50_000;
    let translated = send(&mut sim, acme, 0..asked, server);
    assert!(translated <= u64::from(ACMES_PORTS));
    assert_eq!(sim.dropped("fra1", Some("acme"), "nat-pool-exhausted"), u64::from(asked) - translated);
    // Its sessions: the rest, to a branch, which takes nothing of the pool.
    let room = u64::from(EACH) - translated;
    let to_branch = send(&mut sim, acme, 0..room as u32 + 50_000, "10.1.0.5:7");
    // Of what it may have, a worker can have a share that it does not need just now.
    assert!(to_branch <= room && to_branch > room - 100, "{to_branch} of {room}");
    assert_eq!(sim.dropped("fra1", Some("acme"), "tenant-session-limit"), 50_000 + room - to_branch);

    // globex meanwhile: new sessions, and a packet of each that it has.
    assert_eq!(send(&mut sim, globex, almost..EACH, server), 10_000);
    assert_eq!(send(&mut sim, globex, 0..EACH, server), u64::from(EACH));
    assert_eq!(sim.drops("fra1").iter().filter(|drop| drop.tenant.as_deref() == Some("globex")).count(), 0);
}
