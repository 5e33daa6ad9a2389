//! Packets captured by the box, read by tshark: the interfaces they were seen at, both sides of the tunnels, and nothing of
//! anybody else's.

use crate::world::{POPGATE, World, stderr, stdout};
use popgate::lab::NodeChild;
use std::path::Path;
use std::process::Stdio;

/// `popgate capture` under way; back once it has begun.
fn begin(world: &World, what: &[&str], file: &Path) -> NodeChild {
    let token_file = world.node("fra1").state_dir().join("admin-token");
    let command = world.node("fra1").command(POPGATE).arg("capture").args(what).arg("--write").arg(file);
    let command = command.arg("--token-file").arg(token_file);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("popgate runs");
    let mut begun = String::new();
    let told = child.stderr.as_mut().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(told), &mut begun).expect("readable");
    assert!(begun.contains("has begun"), "{begun}");
    child
}

/// What tshark makes of the fields of each packet.
fn fields(world: &World, file: &Path, fields: &[&str]) -> Vec<String> {
    let file = file.to_str().expect("a path of ours");
    let mut command = vec!["tshark", "-n", "-r", file, "-T", "fields", "-E", "separator= "];
    fields.iter().for_each(|field| command.extend(["-e", field]));
    let told = world.must("fra1", &command);
    told.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn a_tenants_packets_are_captured_on_both_sides_of_its_tunnels_and_tshark_reads_them() {
    let world = World::up("ecapture", &["berlin", "berlin-host"]);
    world.await_ping("berlin-host", "203.0.113.80");
    let directory = world.node("fra1").directory();
    let (inner, outer) = (directory.join("inner.pcapng"), directory.join("outer.pcapng"));

    let capturing =
        begin(&world, &["acme", "--protocol", "icmp", "--packets", "4", "--seconds", "30"], &inner);
    assert!(world.pings("berlin-host", "203.0.113.80"));
    let output = capturing.output().expect("it ends");
    assert!(output.status.success() && stdout(&output).contains(": 4 packets, "), "{}", stderr(&output));
    let seen = fields(
        &world,
        &inner,
        &["frame.interface_name", "frame.packet_flags_direction", "icmp.type", "ip.src"],
    );
    let wanted = [
        ("berlin/", " 0x00000001 8 10.1.0.10"),
        ("pg-internet", " 0x00000002 8 198.51.100."),
        ("pg-internet", " 0x00000001 0 203.0.113.80"),
        ("berlin/", " 0x00000002 0 203.0.113.80"),
    ];
    assert_eq!(seen.len(), wanted.len(), "{seen:?}");
    for (seen, (interface, rest)) in seen.iter().zip(wanted) {
        assert!(seen.starts_with(interface) && seen.contains(rest), "{seen}, not {interface}{rest}");
    }
    // Sound to the last byte: tshark would say so in its expert column.
    assert_eq!(
        fields(&world, &inner, &["_ws.malformed", "ip.checksum.status"])
            .join("")
            .replace(['1', '2', ' '], ""),
        ""
    );

    let capturing = begin(&world, &["acme", "--outer", "--packets", "10", "--snap-length", "64"], &outer);
    let output = capturing.output().expect("probes alone are more than that");
    assert!(output.status.success(), "{}", stderr(&output));
    let seen = fields(&world, &outer, &["frame.interface_name", "udp.port", "wg.type", "frame.cap_len"]);
    assert_eq!(seen.len(), 10);
    // What begins a tunnel, and what goes in it: both are longer than was asked for.
    let is_datagram =
        |line: &String| line.starts_with("isp-") && line.contains("51820") && line.ends_with(" 64");
    assert!(seen.iter().all(is_datagram) && seen.iter().any(|line| line.ends_with(" 4 64")), "{seen:?}");

    let audit = world.ask("fra1", &["audit", "show"]);
    assert!(audit.contains("up to 4 packets, inner") && audit.contains("up to 10 packets, outer"), "{audit}");

    let refused = |what: &[&str], why: &str| {
        let token_file = world.node("fra1").state_dir().join("admin-token");
        let command = world.node("fra1").command(POPGATE).arg("capture").args(what);
        let output = command.arg("--token-file").arg(token_file).output().expect("popgate runs");
        assert!(!output.status.success() && stderr(&output).contains(why), "{}", stderr(&output));
    };
    refused(&["nobody"], "there is no tenant \"nobody\"");
    refused(&["acme", "--packets", "100001"], "packets: 100001 is out of range; 1 to 100000");
    refused(&["acme", "--packets", "100000"], "a capture may take 16777216");
    refused(&["acme", "--address", "web"], "address: ");
}
