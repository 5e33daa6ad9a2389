//! Paths that die, boxes that restart, peers that move.

use crate::net::Sim;
use crate::packets::{answer, ends, udp};
use popgate::pipeline::report::PathState;

/// Berlin's DSL, as the simulated network knows it.
const DSL: &str = "203.0.113.1:1001";

fn state(sim: &mut Sim, node: &str, site: &str, path: &str) -> PathState {
    let paths = sim.paths(node);
    let found = paths.iter().find(|p| p.site == site && p.path == path);
    found.unwrap_or_else(|| panic!("no path {site}/{path}")).state
}

#[test]
fn every_path_comes_up_and_is_probed_from_both_ends() {
    let mut sim = Sim::up();
    for node in ["fra1", "berlin", "lyon", "site1"] {
        for path in sim.paths(node) {
            assert_eq!(path.state, PathState::Up, "{node}: {path:?}");
            assert!(path.probed && path.rtt_ms.is_some(), "{node}: {path:?}");
        }
    }
}

#[test]
fn a_flow_moves_within_150_ms_and_keeps_its_session_and_binding() {
    let mut sim = Sim::up();
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    let first = sim.from_lan("berlin", &packet);
    let mut gap = 0;
    for tick in 0..100 {
        if tick == 20 {
            sim.cut(DSL);
        }
        sim.advance(20);
        let out = sim.from_lan("berlin", &packet);
        let arrived = out.first().is_some_and(|out| ends(out) == ends(&first[0]));
        let answered = arrived && !sim.from_internet(&answer(&out[0], b"y")).is_empty();
        gap += u64::from(!answered) * 20;
    }
    println!("gap: {gap} ms");
    assert!(gap > 0 && gap <= 150, "gap of {gap} ms");
    let sessions = sim.sessions("fra1");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].forward_path.as_deref(), Some("lte"));
    assert_eq!(sessions[0].reverse_path.as_deref(), Some("lte"));
    assert_eq!(state(&mut sim, "berlin", "fra1", "dsl"), PathState::Down);
    assert_eq!(state(&mut sim, "fra1", "berlin", "dsl"), PathState::Down);
}

#[test]
fn a_path_that_nothing_can_be_sent_by_is_left_at_once_and_by_both_ends() {
    let mut sim = Sim::up();
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    sim.from_lan("berlin", &packet);
    sim.cut(DSL);
    sim.cannot_send("berlin", "192.0.2.1:51820");
    sim.advance(5);
    assert_eq!(state(&mut sim, "berlin", "fra1", "dsl"), PathState::Down);
    assert_eq!(state(&mut sim, "fra1", "berlin", "dsl"), PathState::Down, "it was told by the other path");
    assert_eq!(state(&mut sim, "fra1", "lyon", "dsl"), PathState::Up, "which is none of theirs");
    let out = sim.from_lan("berlin", &packet);
    assert_eq!(out.len(), 1);
    let whys = |sim: &mut Sim, node| -> Vec<String> {
        sim.decisions(node).into_iter().filter(|row| row.class == "default").map(|row| row.why).collect()
    };
    assert_eq!(whys(&mut sim, "berlin").last().map(String::as_str), Some("cannot-send"));
    assert_eq!(whys(&mut sim, "fra1").last().map(String::as_str), Some("told-down"));
}

#[test]
fn a_path_that_loses_what_is_large_is_left_until_it_carries_it_again() {
    let mut sim = Sim::up();
    let way = |sim: &mut Sim| {
        sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
        sim.sessions("fra1")[0].forward_path.clone()
    };
    assert_eq!(way(&mut sim).as_deref(), Some("dsl"));
    sim.narrow(DSL, 1_400);
    sim.advance(14_000);
    assert_eq!(way(&mut sim).as_deref(), Some("lte"));
    assert_eq!(state(&mut sim, "berlin", "fra1", "dsl"), PathState::Recovering);
    let row = sim.decisions("berlin").into_iter().rfind(|row| row.class == "default").expect("moved");
    assert_eq!((row.why.as_str(), row.detail.as_str()), ("narrow", "dsl loses packets of full size"));
    sim.narrow(DSL, 2_000);
    sim.advance(2_000);
    assert_eq!(way(&mut sim).as_deref(), Some("dsl"));
}

/// The path that a session from Berlin takes: before its DSL is cut, while it is, and when it has been well again for long;
/// and those that a new session takes. `None` where the packet does not arrive.
fn ways(resilience: &str) -> [[Option<String>; 2]; 3] {
    let policy = crate::net::ACME.replacen(
        "prefer = [\"dsl\", \"lte\"]",
        &format!("prefer = [\"dsl\", \"lte\"]\nresilience = \"{resilience}\""),
        1,
    );
    let mut sim = Sim::with_policies(&policy, crate::net::GLOBEX);
    sim.advance(2_000);
    let mut port = 2_000;
    let mut way = |sim: &mut Sim| {
        port += 1;
        [1_000, port].map(|port| {
            let from = format!("10.1.0.5:{port}");
            let out = sim.from_lan("berlin", &udp(&from, "203.0.113.80:53", b"x").bytes());
            let session = |session: &popgate::pipeline::report::SessionReport| session.source_port == port;
            let sessions = sim.sessions("fra1");
            (!out.is_empty()).then(|| sessions.into_iter().find(session)?.forward_path).flatten()
        })
    };
    let before = way(&mut sim);
    sim.cut(DSL);
    sim.advance(4_000);
    let during = way(&mut sim);
    sim.heal(DSL);
    sim.advance(20_000);
    [before, during, way(&mut sim)]
}

#[test]
fn running_sessions_move_as_their_resilience_says() {
    let [dsl, lte] = ["dsl", "lte"].map(|path| Some(path.to_owned()));
    let new = [dsl.clone(), lte.clone(), dsl.clone()];
    for (resilience, running) in [
        ("none", [dsl.clone(), None, dsl.clone()]),
        ("failover", [dsl.clone(), lte.clone(), lte.clone()]),
        ("revertible", [dsl.clone(), lte, dsl]),
    ] {
        let ways = ways(resilience);
        assert_eq!(ways.clone().map(|[running, _]| running), running, "{resilience}: running");
        assert_eq!(ways.map(|[_, new]| new), new, "{resilience}: new");
    }
}

#[test]
fn a_path_that_heals_is_used_again() {
    let mut sim = Sim::up();
    sim.cut(DSL);
    sim.advance(5_000);
    sim.heal(DSL);
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    let forward = |sim: &mut Sim| {
        sim.from_lan("berlin", &packet);
        sim.sessions("fra1")[0].forward_path.clone()
    };
    sim.advance(8_000);
    assert_eq!(state(&mut sim, "berlin", "fra1", "dsl"), PathState::Recovering);
    assert_eq!(forward(&mut sim).as_deref(), Some("lte"), "good slow");
    sim.advance(10_000);
    assert_eq!(state(&mut sim, "berlin", "fra1", "dsl"), PathState::Up);
    assert_eq!(forward(&mut sim).as_deref(), Some("dsl"));
}

#[test]
fn a_path_that_flaps_is_left_once_and_not_come_back_to() {
    let mut sim = Sim::up();
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    let mut moves = 0;
    let mut last = None;
    for tick in 0..6_000 {
        // Every two seconds, for two minutes.
        match tick % 200 {
            0 => sim.cut(DSL),
            100 => sim.heal(DSL),
            _ => {}
        }
        sim.advance(20);
        sim.from_lan("berlin", &packet);
        let sessions = sim.sessions("fra1");
        let path = sessions.first().and_then(|session| session.forward_path.clone());
        moves += u32::from(last.is_some() && path != last);
        last = path.or(last);
    }
    assert_eq!(
        (moves, last.as_deref()),
        (0, Some("lte")),
        "it had been left before the first packet got through"
    );
}

#[test]
fn answers_take_the_path_the_flow_last_arrived_on() {
    let mut sim = Sim::up();
    let bulk =
        crate::packets::tcp("10.1.0.5:1000", "203.0.113.80:5201", popgate::wire::tcp_flags::SYN, b"").bytes();
    let out = sim.from_lan("berlin", &bulk);
    sim.from_internet(&answer(&out[0], b""));
    let session = &sim.sessions("fra1")[0];
    assert_eq!(
        (session.forward_path.as_deref(), session.reverse_path.as_deref()),
        (Some("lte"), Some("lte"))
    );
}

#[test]
fn with_every_path_down_packets_still_go_out_on_the_best_there_is() {
    let mut sim = Sim::up();
    sim.cut(DSL);
    sim.cut("203.0.113.1:1002");
    sim.advance(5_000);
    sim.record_datagrams();
    sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes());
    assert_eq!(sim.recorded().iter().filter(|d| d[0] == 4).count(), 1);
}

#[test]
fn a_pop_that_was_killed_has_its_branches_back_within_five_seconds() {
    let mut sim = Sim::up();
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    assert_eq!(sim.from_lan("berlin", &packet).len(), 1);
    sim.restart("fra1");
    let mut waited = 0;
    while sim.from_lan("berlin", &packet).is_empty() {
        sim.advance(50);
        waited += 50;
        assert!(waited <= 5_000, "not back after {waited} ms");
    }
    println!("back after {waited} ms");
}

#[test]
fn a_branch_that_was_killed_is_back_at_once() {
    let mut sim = Sim::up();
    sim.restart("berlin");
    sim.advance(500);
    assert_eq!(sim.from_lan("berlin", &udp("10.1.0.5:1", "203.0.113.80:53", b"x").bytes()).len(), 1);
}

#[test]
fn a_peer_that_changes_its_address_is_followed() {
    let mut sim = Sim::up();
    sim.move_transport("203.0.113.2:1001", "203.0.113.222:7777");
    sim.from_lan("lyon", &udp("10.2.0.1:1", "203.0.113.80:53", b"x").bytes());
    let paths = sim.paths("fra1");
    let lyon = paths.iter().find(|p| p.site == "lyon").expect("lyon");
    assert_eq!(lyon.endpoint.map(|e| e.to_string()).as_deref(), Some("203.0.113.222:7777"));
}

#[test]
fn a_path_does_not_falter_when_its_far_end_turns_out_to_be_a_popgate() {
    let mut sim = Sim::new();
    sim.cut("203.0.113.2:1001");
    sim.advance(10);
    // A session, and no probes: for all the PoP knows a stock client, until one shows.
    sim.forge("lyon", &udp("10.2.0.1:1", "203.0.113.80:53", b"x").bytes());
    assert_eq!(state(&mut sim, "fra1", "lyon", "dsl"), PathState::Up);
    let request =
        popgate::path::request(1, popgate::path::Asks { answered: true, ..Default::default() }, sim.now);
    sim.forge("lyon", &request);
    assert_eq!(state(&mut sim, "fra1", "lyon", "dsl"), PathState::Up);
    // But one that answers no probes of ours is not up for long.
    sim.advance(5_000);
    assert_eq!(state(&mut sim, "fra1", "lyon", "dsl"), PathState::Down);
}

#[test]
fn a_flood_in_a_branchs_name_does_not_keep_the_branch_out() {
    let mut sim = Sim::up();
    let lyon = || popgate::wire::Ingress::Transport {
        transport: popgate::model::TransportId(0),
        from: crate::packets::addr("203.0.113.2:1001"),
    };
    let mut rubbish = [0; 148];
    rubbish[0] = 1;
    // Some who do not know the PoP's public key, some who do.
    let stranger = sim.initiation([0x77; 32]);
    sim.restart("lyon");
    for _ in 0..300 {
        sim.inject("fra1", lyon(), &rubbish);
        sim.inject("fra1", lyon(), &stranger);
        sim.advance(10);
    }
    assert_eq!(sim.from_lan("lyon", &udp("10.2.0.1:1", "203.0.113.80:53", b"x").bytes()).len(), 1);
}

/// Hours of rekeying need boringtun's clock in our hand: `cargo test --features sim --test sim`.
#[cfg(feature = "sim")]
#[test]
fn sessions_are_rekeyed_for_hours_without_losing_a_packet() {
    let mut sim = Sim::up();
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"x").bytes();
    for second in 0..3 * 3_600 {
        sim.advance(1_000);
        let out = sim.from_lan("berlin", &packet);
        assert_eq!(out.len(), 1, "lost in second {second}");
        assert_eq!(sim.from_internet(&answer(&out[0], b"y")).len(), 1, "answer lost in second {second}");
    }
    for path in sim.paths("berlin") {
        assert!(path.last_handshake_secs.is_some_and(|age| age <= 180), "{path:?}");
    }
}

/// WireGuard's keepalives begin a handshake of their own when the session has expired; what waits for it is packets alone.
#[cfg(feature = "sim")]
#[test]
fn packets_that_waited_all_go_when_keepalives_waited_too() {
    use popgate::tunnel::{Keys, Opened, Sealed, Tunnel, TunnelIndex};
    let private = |n: u8| popgate::config::PrivateKey::from_random([n; 32]);
    let keys = |ours: u8, peer: u8| Keys {
        private: private(ours).0,
        peer: popgate::config::public_of(&private(peer)).0,
        preshared: None,
    };
    let mut near = Tunnel::new(&keys(1, 2), Some(25), TunnelIndex::new(1, 0));
    let mut far = Tunnel::new(&keys(2, 1), None, TunnelIndex::new(2, 0));
    let from = std::net::IpAddr::from([192, 0, 2, 1]);
    let (mut a, mut b) = ([0; 2_048], [0; 2_048]);
    let mut handshake = |near: &mut Tunnel, far: &mut Tunnel| {
        let len = near.call(&mut a).expect("an initiation");
        let Ok(Opened::Reply(len)) = far.open(from, &a[..len], &mut b) else { panic!("no response") };
        let Ok(Opened::Reply(len)) = near.open(from, &b[..len], &mut a) else { panic!("no keepalive") };
        assert_eq!(far.open(from, &a[..len], &mut b), Ok(Opened::Nothing));
    };
    handshake(&mut near, &mut far);
    // The far end is gone for long enough that the session expires, and the near one's keepalives find none.
    let mut buffer = [0; 256];
    while near.has_session() {
        mock_instant::MockClock::advance(std::time::Duration::from_millis(250));
        near.tick(&mut buffer);
    }
    for _ in 0..200 {
        mock_instant::MockClock::advance(std::time::Duration::from_millis(250));
        near.tick(&mut buffer);
    }
    let packets: Vec<_> =
        (1..=256).map(|n| udp(&format!("10.1.0.5:{n}"), "10.2.0.9:9", b"").bytes()).collect();
    for packet in &packets {
        assert!(matches!(near.seal(packet, &mut [0; 2_048]), Sealed::Waiting(_)));
    }
    assert_eq!(near.seal(&packets[0], &mut [0; 2_048]), Sealed::QueueFull);
    handshake(&mut near, &mut far);
    let mut arrived = Vec::new();
    let mut sealed = [0; 2_048];
    while let Some(len) = near.seal_waiting(&mut sealed) {
        let mut opened = [0; 2_048];
        let Ok(Opened::Packet(len)) = far.open(from, &sealed[..len], &mut opened) else {
            panic!("not opened")
        };
        arrived.push(opened[..len].to_vec());
    }
    assert_eq!(arrived, packets);
}
