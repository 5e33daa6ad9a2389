//! What gets through, and what it looks like on the other side.

use crate::net::{ACME, GLOBEX, POP, Sim};
use crate::packets::{answer, ends, fragments, other, ping, read, source, tcp, udp};
use popgate::wire::{Upper, tcp_flags::SYN};

#[test]
fn two_tenants_with_one_address_share_the_internet_and_each_gets_its_own_answer() {
    let mut sim = Sim::up();
    let mut sent = Vec::new();
    for (branch, payload) in [("berlin", b"acme"), ("site1", b"glob")] {
        let out = sim.from_lan(branch, &udp("10.1.0.5:5001", "203.0.113.80:53", payload).bytes());
        assert_eq!(out.len(), 1, "{:?}", sim.drops("fra1"));
        let source = source(&out[0]).to_string();
        let pool = if branch == "berlin" { "198.51.100." } else { "198.51.100.1" };
        assert!(source.starts_with(pool), "{source}");
        assert_eq!(&out[0][28..], payload);
        sent.push(out[0].clone());
    }
    assert_ne!(source(&sent[0]), source(&sent[1]));
    for (packet, (branch, payload)) in sent.iter().zip([("berlin", b"for acme"), ("site1", b"for glob")]) {
        let out = sim.send("fra1", "internet", &answer(packet, payload));
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].0, format!("{branch} pg-lan"));
        assert_eq!(ends(&out[0].1), "203.0.113.80:53 > 10.1.0.5:5001");
        assert_eq!(&out[0].1[28..], payload);
    }
}

#[test]
fn branches_of_a_tenant_and_its_data_centre_reach_each_other_untranslated() {
    let mut sim = Sim::up();
    let out = sim.send("berlin", "lan", &udp("10.1.0.5:1000", "10.2.0.9:2000", b"x").bytes());
    assert_eq!(out[0].0, "lyon pg-lan");
    assert_eq!(ends(&out[0].1), "10.1.0.5:1000 > 10.2.0.9:2000");
    let out = sim.send("lyon", "lan", &answer(&out[0].1, b"y"));
    assert_eq!(
        (out[0].0.as_str(), ends(&out[0].1).as_str()),
        ("berlin pg-lan", "10.2.0.9:2000 > 10.1.0.5:1000")
    );
    let out = sim.send("lyon", "lan", &ping("10.2.0.9", "10.200.0.7", 5, b"ping").bytes());
    assert_eq!(out[0].0, "fra1 pg1");
    let out = sim.send("fra1", "dc", &answer(&out[0].1, b"ping"));
    assert_eq!(
        (out[0].0.as_str(), ends(&out[0].1).as_str()),
        ("lyon pg-lan", "10.200.0.7 > 10.2.0.9 echo reply 5")
    );
    let out = sim.send("fra1", "dc", &udp("10.200.0.7:9", "10.1.0.5:9", b"z").bytes());
    assert_eq!(out[0].0, "berlin pg-lan");
}

#[test]
fn ipv6_goes_out_untranslated_and_published_servers_can_be_called() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &udp("[2001:db8:1::5]:1000", "[2001:db8:ffff::9]:53", b"q").bytes());
    assert_eq!(ends(&out[0]), "[2001:db8:1::5]:1000 > [2001:db8:ffff::9]:53");
    let out = sim.send("fra1", "internet", &answer(&out[0], b"a"));
    assert_eq!(out[0].0, "berlin pg-lan");
    let syn = tcp("[2001:db8:ffff::9]:40000", "[2001:db8:1::80]:80", SYN, b"").bytes();
    let out = sim.send("fra1", "internet", &syn);
    assert_eq!(out[0].0, "berlin pg-lan");
    let out = sim.from_lan("berlin", &answer(&out[0].1, b""));
    assert_eq!(ends(&out[0]), "[2001:db8:1::80]:80 > [2001:db8:ffff::9]:40000");
    let closed = tcp("[2001:db8:ffff::9]:40000", "[2001:db8:1::80]:22", SYN, b"").bytes();
    assert!(sim.from_internet(&closed).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "acl-default"), 1);
}

#[test]
fn every_box_takes_one_hop_and_the_mss_fits_the_tunnel() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &tcp("10.1.0.5:1000", "203.0.113.80:443", SYN, b"").ttl(9).bytes());
    assert_eq!(read(&out[0]).ttl, 7);
    assert_eq!(out[0][40..44], [2, 4, 0x05, 0x64], "1,420 less 40 is 1,380");
    let back = answer(&out[0], b"");
    let out = sim.from_internet(&back);
    assert_eq!(out[0][40..44], [2, 4, 0x05, 0x64]);
}

#[test]
fn ping_and_traceroute_work_through_the_nat() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &ping("10.1.0.5", "203.0.113.80", 77, b"hello").bytes());
    let back = sim.from_internet(&answer(&out[0], b"hello"));
    assert_eq!(ends(&back[0]), "203.0.113.80 > 10.1.0.5 echo reply 77");
    // One hop: the branch answers. Two: the PoP.
    for ttl in [1, 2] {
        let probe = udp("10.1.0.5:33000", "203.0.113.80:33434", b"").ttl(ttl).bytes();
        let answers = sim.from_lan("berlin", &probe);
        assert_eq!(
            ends(&answers[0]),
            "192.0.0.8 > 10.1.0.5 error about 10.1.0.5:33000 > 203.0.113.80:33434",
            "TTL {ttl}"
        );
        assert_eq!(answers[0][20], 11);
    }
}

#[test]
fn icmp_errors_about_translated_packets_are_translated_back_in_both_directions() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:33434", b"x").bytes());
    let translated = read(&out[0]);
    let router = ("203.0.113.1".parse().expect("v4"), "2001:db8::1".parse().expect("v6"));
    let error = popgate::wire::icmp_error(&out[0], &translated, popgate::wire::IcmpError::NoRoute, router);
    let back = sim.send("fra1", "internet", &error);
    assert_eq!(back[0].0, "berlin pg-lan");
    assert_eq!(ends(&back[0].1), "203.0.113.1 > 10.1.0.5 error about 10.1.0.5:1000 > 203.0.113.80:33434");

    let reply = answer(&out[0], b"y");
    let inside = sim.from_internet(&reply);
    let host = ("10.1.0.5".parse().expect("v4"), "2001:db8::1".parse().expect("v6"));
    let error =
        popgate::wire::icmp_error(&inside[0], &read(&inside[0]), popgate::wire::IcmpError::Prohibited, host);
    let outside = sim.send("berlin", "lan", &error);
    let pool = source(&out[0]);
    let Upper::Udp { source_port, .. } = translated.upper else { panic!("not UDP") };
    assert_eq!(outside[0].0, "fra1 pg-internet");
    assert_eq!(
        ends(&outside[0].1),
        format!("{pool} > 203.0.113.80 error about 203.0.113.80:33434 > {pool}:{source_port}")
    );
}

#[test]
fn what_does_not_fit_is_answered_or_cut_up() {
    let mut sim = Sim::up();
    let big = vec![7; 1_450];
    let answers = sim.from_lan("berlin", &udp("10.1.0.5:5000", "203.0.113.80:9", &big).bytes());
    assert_eq!(answers[0][20..22], [3, 4], "fragmentation needed");
    assert_eq!(answers[0][26..28], 1_420u16.to_be_bytes());
    let answers = sim.from_lan("berlin", &udp("[2001:db8:1::5]:1000", "[2001:db8:ffff::9]:9", &big).bytes());
    assert_eq!(answers[0][40..42], [2, 0], "packet too big");
    let parts = sim.from_lan("berlin", &udp("10.1.0.5:5000", "203.0.113.80:9", &big).may_fragment().bytes());
    assert_eq!(parts.len(), 2);
    let whole: usize = parts.iter().map(|part| read(part).len - 20).sum();
    assert_eq!(whole, 8 + big.len());
    assert!(parts.iter().all(|part| source(part).to_string().starts_with("198.51.100.")));
    // And the answer, fragmented outside, comes back in fragments.
    let reply = udp("203.0.113.80:9", &format!("{}:5000", source(&parts[0])), &big).may_fragment().bytes();
    let mut back = Vec::new();
    popgate::wire::fragment(&reply, &read(&reply), 1_000, |part| back.extend(sim.from_internet(part)));
    assert_eq!(back.len(), 2);
    assert!(back.iter().all(|part| read(part).destination(part).to_string() == "10.1.0.5"));
}

#[test]
fn the_worker_counts_every_byte_and_its_records_say_the_same() {
    let mut sim = Sim::up();
    let mut sent = 0;
    for n in 0..50u16 {
        let packet =
            udp(&format!("10.1.0.5:{}", 1_000 + n % 7), "203.0.113.80:53", &vec![1; usize::from(n) * 9])
                .bytes();
        sent += packet.len() as u64;
        let out = sim.from_lan("berlin", &packet);
        let reply = answer(&out[0], &vec![2; usize::from(n) * 5]);
        sent += reply.len() as u64;
        sim.from_internet(&reply);
    }
    let now = sim.now;
    let counted: u64 = sim.sessions("fra1").iter().map(|s| s.forward_bytes + s.reverse_bytes).sum();
    assert_eq!(counted, sent);
    let pop = sim.node("fra1");
    pop.plane.end_all(now);
    let records = pop.plane.take_records();
    let recorded: u64 = records.iter().map(|r| r.directions.iter().map(|d| d.bytes).sum::<u64>()).sum();
    assert_eq!(recorded, sent);
}

#[test]
fn samples_show_packets_as_they_arrived_and_where_they_went() {
    let mut sim = Sim::up();
    sim.node("fra1").plane.sample_packets(1);
    let packet = udp("10.1.0.5:1000", "203.0.113.80:53", b"question").bytes();
    let out = sim.from_lan("berlin", &packet);
    let reply = answer(&out[0], b"answer");
    sim.from_internet(&reply);
    sim.node("fra1").plane.sample_packets(0);
    sim.from_lan("berlin", &packet);
    let samples = sim.node("fra1").plane.take_samples();
    let [request, response] = &samples[..] else { panic!("two samples: {samples:?}") };
    // The branch has counted its TTL down, and with it the header's checksum.
    assert_eq!((&request.header[12..], request.length as usize), (&packet[12..], packet.len()));
    assert_eq!((&response.header[..], response.length as usize), (&reply[..], reply.len()));
    assert_eq!((request.from, request.to), (response.to, response.from));
    assert!(request.arrived_on.is_some() && request.arrived_on == response.left_on, "{samples:?}");
    assert_eq!((request.rate, request.pool, response.pool), (1, 1, 2));
}

#[test]
fn an_icmp_error_larger_than_the_path_goes_no_further() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:9", &[7; 1_380]).bytes());
    // A router that quotes all it got.
    let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&out[0]);
    let sum = !popgate::wire::checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let error = other("203.0.113.80", &source(&out[0]).to_string(), 1, &icmp).may_fragment();
    assert!(sim.from_internet(&error.bytes()).is_empty());
    assert_eq!(sim.dropped("fra1", Some("acme"), "too-big"), 1);
}

#[test]
fn errors_of_our_own_boxes_never_show_their_inside_address_to_the_internet() {
    let mut sim = Sim::up();
    // The PoP takes one hop, the branch finds none left.
    let syn = tcp("[2001:db8:ffff::9]:40000", "[2001:db8:1::80]:80", SYN, b"").ttl(2).bytes();
    let out = sim.send("fra1", "internet", &syn);
    assert_eq!(out[0].0, "fra1 pg-internet");
    assert_eq!(source(&out[0].1).to_string(), "2001:db8:1::80");
    assert_eq!(out[0].1[40], 3, "time exceeded");
}

#[test]
fn every_path_carries_the_smallest_ipv6_packet_whole() {
    // RFC 8200 section 5: where a link is too narrow for 1,280 bytes, fragmentation below IPv6 must make up for it.
    let narrow = POP.replace("listen = \"192.0.2.1:51820\"", "listen = \"192.0.2.1:51820\"\nmtu = 1280");
    let mut sim = Sim::with_configurations(&narrow, ACME, GLOBEX);
    sim.advance(2_000);
    let out = sim.from_lan("berlin", &udp("[2001:db8:1::5]:1000", "[2001:db8:ffff::9]:53", b"q").bytes());
    let full = answer(&out[0], &[0; 1_280 - 48]);
    assert_eq!(sim.send("fra1", "internet", &full)[0].0, "berlin pg-lan");
    let answers = sim.send("fra1", "internet", &answer(&out[0], &[0; 1_281 - 48]));
    assert_eq!(answers[0].1[40..42], [2, 0], "packet too big");
    assert_eq!(answers[0].1[44..48], 1_280u32.to_be_bytes());
}

#[test]
fn a_forged_first_fragment_does_not_lead_somebody_elses_fragments() {
    let mut sim = Sim::up();
    let first = |port| fragments(&udp(port, "203.0.113.80:9", &[7; 1_200]).may_fragment().bytes(), 700);
    // Two flows of berlin's; in the builder's packets all datagrams have one id.
    let (ours, other) = (first("10.1.0.5:1000"), first("10.1.0.5:2000"));
    sim.from_lan("berlin", &udp("10.1.0.5:2000", "203.0.113.80:9", b"x").bytes());
    sim.from_lan("berlin", &ours[0]);
    sim.forge("lyon", &other[0]);
    assert_eq!(sim.dropped("fra1", Some("acme"), "source-not-allowed"), 1);
    sim.from_lan("berlin", &ours[1]);
    let packets = |sim: &mut Sim, port| {
        sim.sessions("fra1").iter().find(|s| s.source_port == port).map(|s| s.forward_packets)
    };
    assert_eq!((packets(&mut sim, 1000), packets(&mut sim, 2000)), (Some(2), Some(1)));
}

#[test]
fn an_ipv6_fragment_behind_options_follows_its_first() {
    let mut sim = Sim::up();
    let whole = udp("[2001:db8:1::5]:1000", "[2001:db8:ffff::9]:53", &[7; 200]).bytes();
    // The fragmentable part begins with destination options, which the later fragment's next header names too.
    let mut body = vec![17, 0, 1, 4, 0, 0, 0, 0];
    body.extend_from_slice(&whole[40..]);
    let part = |from: usize, to: usize| {
        let mut packet = whole[..40].to_vec();
        packet[4..6].copy_from_slice(&(8 + (to - from) as u16).to_be_bytes());
        packet[6] = 44;
        let more = u16::from(to < body.len());
        packet.extend_from_slice(&[60, 0]);
        packet.extend_from_slice(&(from as u16 | more).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 77]);
        packet.extend_from_slice(&body[from..to]);
        packet
    };
    assert_eq!(sim.from_lan("berlin", &part(0, 104)).len(), 1);
    assert_eq!(sim.from_lan("berlin", &part(104, body.len())).len(), 1, "{:?}", sim.drops("berlin"));
}

#[test]
fn a_flow_whose_first_packet_goes_no_further_leaves_no_session_and_no_port_behind() {
    let mut sim = Sim::up();
    for port in 1..=40 {
        sim.from_lan("site1", &udp(&format!("10.1.0.5:{port}"), "203.0.113.80:9", b"").ttl(2).bytes());
    }
    assert_eq!(sim.dropped("fra1", Some("globex"), "ttl-expired"), 40);
    assert!(sim.sessions("fra1").is_empty());
    assert!(sim.node("fra1").records.is_empty());
}

#[test]
fn protocols_with_udps_checksum_are_translated_with_it() {
    let mut sim = Sim::up();
    // UDP-Lite covering all of the packet (RFC 3828 section 3.1).
    let mut lite = vec![0x10, 0, 0x20, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    let (from, to) = ("10.1.0.5", "203.0.113.80");
    let sum = |upper: &[u8], from: &str, to: &str| {
        let pseudo = popgate::wire::pseudo_header(
            from.parse().expect("v4"),
            to.parse().expect("v4"),
            136,
            upper.len(),
        );
        popgate::wire::add_sums(pseudo, popgate::wire::checksum(upper))
    };
    let checksum = !sum(&lite, from, to);
    lite[6..8].copy_from_slice(&checksum.to_be_bytes());
    let out = sim.from_lan("berlin", &other(from, to, 136, &lite).bytes());
    assert_eq!(sum(&out[0][20..], &source(&out[0]).to_string(), to), 0xffff);
}

#[test]
fn a_box_that_was_quiet_for_a_year_still_answers() {
    let mut sim = Sim::up();
    sim.now = sim.now + std::time::Duration::from_secs(366 * 86_400);
    let answers = sim.from_lan("berlin", &udp("10.1.0.5:1000", "203.0.113.80:9", b"").ttl(1).bytes());
    assert_eq!(answers[0][20], 11, "time exceeded");
}

/// Segments of several TCP and UDP flows, some new and some known, mixed as a seeded generator has it, and rubbish among
/// them: in batches they are looked up together and coalesced on their way out, one by one they are not.
#[test]
fn packets_that_come_together_leave_exactly_as_they_would_one_by_one() {
    use popgate::wire::Ingress;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    for seed in 0..8 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut flows: Vec<std::vec::IntoIter<Vec<u8>>> = (0..6u16)
            .map(|flow| {
                let (from, to) = (format!("10.1.0.5:{}", 5_000 + flow), format!("203.0.113.{flow}:443"));
                let payload: Vec<u8> = (0..rng.random_range(1..30_000u32)).map(|n| n as u8).collect();
                let (first, rest) = match flow % 2 {
                    0 => {
                        (tcp(&from, &to, SYN, b""), tcp(&from, &to, popgate::wire::tcp_flags::ACK, &payload))
                    }
                    _ => (udp(&from, &to, b"?"), udp(&from, &to, &payload)),
                };
                let segment = rng.random_range(100..1_300);
                let whole = rest.bytes();
                let parsed = popgate::wire::parse_super(&whole, segment).expect("sound");
                let mut packets = vec![first.bytes()];
                popgate::wire::split(&whole, &parsed, &mut Vec::new(), |part| packets.push(part.to_vec()));
                packets.into_iter()
            })
            .collect();
        let mut mixed = Vec::new();
        while !flows.is_empty() {
            let at = rng.random_range(0..flows.len());
            let burst = rng.random_range(1..20);
            mixed.extend(flows[at].by_ref().take(burst));
            flows.retain(|flow| flow.len() > 0);
            if rng.random_ratio(1, 4) {
                mixed.push((0..rng.random_range(1..60)).map(|_| rng.random()).collect());
            }
        }
        let mut outcomes = Vec::new();
        for together in [true, false] {
            let mut sim = Sim::up();
            let lan = Ingress::Device(sim.device("berlin", "lan"));
            let batches: Vec<&[Vec<u8>]> = mixed.chunks(if together { 64 } else { 1 }).collect();
            for batch in batches {
                let batch: Vec<_> = batch.iter().map(|packet| (lan, packet.clone())).collect();
                sim.inject_together("berlin", &batch);
            }
            let mut by_flow: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
            for (device, packet) in sim.take_delivered() {
                assert_eq!(device, "fra1 pg-internet");
                by_flow.entry(ends(&packet)).or_default().push(packet);
            }
            assert_eq!(by_flow.len(), 6, "seed {seed}");
            assert_eq!(sim.node("fra1").plane.coalesced > 0, together, "seed {seed}");
            let counted: Vec<_> = (sim.sessions("fra1").into_iter())
                .map(|s| (s.source_port, s.forward_packets, s.forward_bytes))
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect();
            outcomes.push((by_flow, counted, sim.drops("berlin"), sim.drops("fra1")));
        }
        assert!(outcomes[0] == outcomes[1], "seed {seed}: {:?}", (&outcomes[0].1, &outcomes[1].1));
    }
}

#[test]
fn a_super_packet_leaves_exactly_as_its_segments_would() {
    for (from, to) in
        [("203.0.113.80:443", "10.1.0.5:5000"), ("[2001:db8:ffff::9]:443", "[2001:db8:1::5]:5000")]
    {
        for protocol in [6, 17] {
            let (mut whole, mut singly) = (Sim::up(), Sim::up());
            let mut outcomes = Vec::new();
            for (sim, as_one) in [(&mut whole, true), (&mut singly, false)] {
                let open = if protocol == 6 { tcp(to, from, SYN, b"") } else { udp(to, from, b"?") };
                let out = sim.from_lan("berlin", &open.bytes());
                // Answered from where it came out, wherever the NAT put it.
                let inside = ends(&out[0]);
                let pool = inside.split(" > ").next().expect("a source");
                let payload: Vec<u8> = (0..30_000u32).map(|n| n as u8).collect();
                let packet = match protocol {
                    6 => tcp(
                        from,
                        pool,
                        popgate::wire::tcp_flags::ACK | popgate::wire::tcp_flags::PSH,
                        &payload,
                    ),
                    _ => udp(from, pool, &payload),
                };
                let packet = packet.bytes();
                let parsed = popgate::wire::parse_super(&packet, 1_300).expect("sound");
                let device = sim.device("fra1", "internet");
                if as_one {
                    sim.inject_super("fra1", device, &packet, 1_300);
                } else {
                    let mut parts = Vec::new();
                    popgate::wire::split(&packet, &parsed, &mut Vec::new(), |part| parts.push(part.to_vec()));
                    for part in parts {
                        read(&part);
                        sim.inject("fra1", popgate::wire::Ingress::Device(device), &part);
                    }
                }
                let delivered = sim.take_delivered();
                assert_eq!(delivered.len(), 24);
                assert!(delivered.iter().all(|(_, packet)| read(packet).len == packet.len()));
                let session = sim.sessions("fra1").pop().expect("a session");
                outcomes.push((delivered, session.reverse_packets, session.reverse_bytes));
            }
            assert_eq!(outcomes[0], outcomes[1]);
        }
    }
}

#[test]
fn a_super_packets_segments_that_do_not_fit_are_cut_up_or_answered_like_packets() {
    let mut sim = Sim::up();
    let out = sim.from_lan("berlin", &udp("10.1.0.5:5000", "203.0.113.80:443", b"?").bytes());
    let pool = source(&out[0]);
    let answer = udp("203.0.113.80:443", &format!("{pool}:5000"), &[7; 14_500]);
    let device = sim.device("fra1", "internet");
    sim.inject_super("fra1", device, &answer.clone().may_fragment().bytes(), 1_450);
    let delivered = sim.take_delivered();
    assert_eq!(delivered.len(), 20, "ten segments, each in two fragments");
    let whole: usize = delivered.iter().map(|(_, packet)| packet.len() - 20).sum();
    assert_eq!(whole, 14_500 + 10 * 8);
    sim.inject_super("fra1", device, &answer.bytes(), 1_450);
    let answers = sim.take_delivered();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1[20..22], [3, 4], "fragmentation needed");
    assert_eq!(sim.dropped("fra1", Some("acme"), "too-big"), 10);
}

#[test]
fn sessions_looked_for_in_parts_are_those_looked_for_at_once() {
    use popgate::pipeline::SessionScan;
    use popgate::pipeline::report::{Answer, FlowFilter, Query};
    let mut sim = Sim::up();
    for port in 2_000..2_300 {
        sim.from_lan("berlin", &udp(&format!("10.1.0.5:{port}"), "203.0.113.80:53", b"").bytes());
    }
    sim.from_lan("site1", &udp("10.1.0.5:5001", "203.0.113.80:53", b"").bytes());
    let now = sim.now;
    let pop = &sim.node("fra1").plane;
    for (tenant, limit) in [("acme", 20), ("acme", 1_000), ("globex", 20), ("nobody", 20)] {
        let filter = FlowFilter { tenant: Some(tenant.into()), ..FlowFilter::default() };
        let mut matching = 0;
        for worker in pop.workers() {
            let mut scan = SessionScan::new(filter.clone(), limit);
            let parts: u64 = (1..).find(|_| worker.scan(&mut scan, 7)).expect("an end");
            let Answer::Sessions(at_once) =
                worker.answer(&Query::Sessions { filter: filter.clone(), limit }, now)
            else {
                panic!()
            };
            assert!(parts >= at_once.matching / 7, "7 at a time");
            assert_eq!(at_once.sessions.len() as u64, at_once.matching.min(limit as u64));
            assert!(at_once.sessions.is_sorted_by(|a, b| a.id > b.id), "newest first");
            matching += at_once.matching;
            assert_eq!(worker.page(scan, now), at_once);
        }
        let expected = match tenant {
            "acme" => 300,
            "globex" => 1,
            _ => 0,
        };
        assert_eq!(matching, expected);
    }
}
