//! Canaries: probed as packets of the branch's, and nothing is left of it.

use crate::net::{ACME, GLOBEX, Sim};
use crate::packets::{answer, ends, ping, read, reply, tcp};
use popgate::pipeline::report::CanaryRow;
use popgate::wire::{Upper, tcp_flags};

const WEB: &str = "[[canary]]\nname = \"web\"\nfrom = \"berlin\"\ntarget = \"203.0.113.80\"\n";
const ERP: &str = "[[canary]]\nname = \"erp\"\nfrom = \"berlin\"\nsource = \"10.1.0.9\"\n\
                   target = \"10.200.0.5\"\nkind = \"tcp\"\nport = 443\n";

fn with(canary: &str) -> (Sim, String) {
    let policy = format!("{ACME}\n{canary}");
    let mut sim = Sim::with_policies(&policy, GLOBEX);
    sim.advance(2_000);
    (sim, policy)
}

/// What a probe of all canaries puts out of devices.
fn probed(sim: &mut Sim, node: &str) -> Vec<(String, Vec<u8>)> {
    sim.probe_canaries(node);
    sim.take_delivered()
}

fn one(sim: &mut Sim, node: &str) -> CanaryRow {
    let rows = sim.canaries(node);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.into_iter().next().expect("one")
}

fn nothing_is_left(sim: &mut Sim, node: &str) {
    assert_eq!((sim.sessions(node).len(), sim.bindings(node)), (0, 0));
    sim.advance(120_000);
    assert_eq!(sim.node(node).records, [], "no record tells of it");
}

#[test]
fn a_canary_is_pinged_as_a_host_of_the_branch_would_and_its_answer_goes_no_further() {
    let (mut sim, _) = with(WEB);
    for _ in 0..3 {
        let sent = probed(&mut sim, "fra1");
        let [(device, request)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(device, "fra1 pg-internet");
        assert!(ends(request).starts_with("198.51.100.") && ends(request).contains("203.0.113.80"));
        assert_eq!(sim.bindings("fra1"), 1, "translated as a host's");
        assert!(one(&mut sim, "fra1").under_way);
        assert_eq!(probed(&mut sim, "fra1"), [], "one at a time");

        assert_eq!(sim.from_internet(&reply(request)), Vec::<Vec<u8>>::new());
        let row = one(&mut sim, "fra1");
        assert!(row.answers && !row.under_way, "{row:?}");
        assert_eq!(
            (row.tenant.as_str(), row.canary.as_str(), row.target.as_str()),
            ("acme", "web", "203.0.113.80")
        );
    }
    nothing_is_left(&mut sim, "fra1");
}

#[test]
fn a_canary_accepts_a_connection_and_is_told_that_there_is_none() {
    let (mut sim, _) = with(ERP);
    let sent = probed(&mut sim, "fra1");
    let [(device, syn)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(device, "fra1 pg1");
    assert!(ends(syn).starts_with("10.1.0.9:") && ends(syn).ends_with(" > 10.200.0.5:443"), "{}", ends(syn));
    let sequence = read(syn).tcp_segment(syn).expect("TCP").sequence;
    // Refused is not answered.
    let from = ends(syn).split(' ').next().expect("an end").to_owned();
    let rst = tcp("10.200.0.5:443", &from, tcp_flags::RST | tcp_flags::ACK, b"").bytes();
    assert_eq!(sim.send("fra1", "dc", &rst), []);
    assert!(!one(&mut sim, "fra1").answers);

    let mut accepts = tcp("10.200.0.5:443", &from, tcp_flags::SYN | tcp_flags::ACK, b"");
    accepts = accepts.acknowledges(sequence.wrapping_add(1));
    let back = sim.send("fra1", "dc", &accepts.bytes());
    let [(device, reset)] = &back[..] else { panic!("{back:?}") };
    assert_eq!((device.as_str(), ends(reset)), ("fra1 pg1", ends(syn)));
    let segment = read(reset).tcp_segment(reset).expect("TCP");
    assert_eq!((segment.flags, segment.sequence), (tcp_flags::RST, sequence.wrapping_add(1)));
    assert!(one(&mut sim, "fra1").answers);
    nothing_is_left(&mut sim, "fra1");
}

#[test]
fn a_canary_that_a_commit_denies_is_silent_at_once_and_one_whose_answer_is_lost_before_the_next_probe() {
    let (mut sim, policy) = with(WEB);
    let answer_it = |sim: &mut Sim| {
        let sent = probed(sim, "fra1");
        sim.from_internet(&reply(&sent[0].1));
        assert!(one(sim, "fra1").answers);
    };
    answer_it(&mut sim);
    let sent = probed(&mut sim, "fra1");
    assert!(one(&mut sim, "fra1").answers, "the last that is over was answered");
    sim.advance(1_000);
    let row = one(&mut sim, "fra1");
    assert!(!row.answers && !row.under_way, "{row:?}");
    assert_eq!(sim.from_internet(&reply(&sent[0].1)), Vec::<Vec<u8>>::new(), "too late");
    assert!(!one(&mut sim, "fra1").answers);

    answer_it(&mut sim);
    let deny = "[[acl]]\nname = \"night\"\nprotocol = \"icmp\"\naction = \"reject\"\n\n";
    let denied = policy.replacen("[[acl]]", &format!("{deny}[[acl]]"), 1);
    sim.commit(&[("acme", &denied), ("globex", GLOBEX)]);
    assert!(one(&mut sim, "fra1").answers, "until it is asked");
    assert_eq!(probed(&mut sim, "fra1"), [], "nobody at the branch hears of it");
    let row = one(&mut sim, "fra1");
    assert!(!row.answers && !row.under_way, "{row:?}");
    assert_eq!(sim.dropped("fra1", Some("acme"), "acl-rejected"), 1);

    sim.commit(&[("acme", &policy), ("globex", GLOBEX)]);
    answer_it(&mut sim);
    // A probe that is under way when a commit comes is neither.
    probed(&mut sim, "fra1");
    sim.commit(&[("acme", &denied), ("globex", GLOBEX)]);
    let row = one(&mut sim, "fra1");
    assert!(row.answers && !row.under_way, "{row:?}");
    nothing_is_left(&mut sim, "fra1");
}

#[test]
fn a_branch_probes_its_own_canaries_as_from_its_lan_and_leaves_others_alone() {
    let lyon = WEB.replace("berlin", "lyon").replace("\"web\"", "\"of-lyon\"");
    let (mut sim, _) = with(&format!("{WEB}\n{lyon}"));
    assert_eq!(sim.canaries("fra1").len(), 2);
    let sent = probed(&mut sim, "berlin");
    let [(device, request)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(device, "fra1 pg-internet");
    assert_eq!(sim.sessions("fra1")[0].source.to_string(), "10.1.0.1");
    assert_eq!(sim.from_internet(&reply(request)), Vec::<Vec<u8>>::new());
    let row = one(&mut sim, "berlin");
    assert!(row.canary == "web" && row.answers, "{row:?}");
    nothing_is_left(&mut sim, "berlin");
}

#[test]
fn a_host_that_happens_to_send_what_a_probe_looks_like_goes_first() {
    let (mut sim, _) = with(&ERP.replace("kind = \"tcp\"\nport = 443\n", ""));
    let sent = probed(&mut sim, "fra1");
    let Upper::EchoRequest { id } = read(&sent[0].1).upper else { panic!("{sent:?}") };
    let host = ping("10.1.0.9", "10.200.0.5", id, b"a host's").bytes();
    let out = sim.from_lan("berlin", &host);
    assert_eq!(out.len(), 1);
    let back = sim.send("fra1", "dc", &answer(&out[0], b"a host's"));
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].0, "berlin pg-lan");
    sim.advance(1_000);
    assert!(!one(&mut sim, "fra1").answers, "its own probe was not answered");
    assert_eq!(sim.sessions("fra1").len(), 1, "the host's session stays");
}
