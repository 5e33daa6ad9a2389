//! Must hold: what real clients call their servers decides the class: by DNS answers, curl's and Chromium's TLS, Chromium's
//! QUIC.

use crate::world::{World, eventually, need_program};
use popgate::lab::NodeChild;
use popgate::pipeline::report::SessionReport;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;

const WEB: &str = "203.0.113.80";

/// A TLS server of OpenSSL's on port 443, with a certificate of its own.
fn tls_server(world: &World, directory: &Path) -> NodeChild {
    need_program("openssl", "openssl");
    let [key, certificate] =
        ["key.pem", "certificate.pem"].map(|file| directory.join(file).to_str().expect("UTF-8").to_owned());
    let request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"];
    world.must("web", &[&request[..], &["/CN=sap.example", "-keyout", &key, "-out", &certificate]].concat());
    let server = world.node("web").command("openssl").args(["s_server", "-www", "-accept", "443"]);
    let server = server.args(["-key", &key, "-cert", &certificate]);
    let child =
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    eventually("the server listens", || {
        world.enter("web", || TcpStream::connect((WEB, 443)).is_ok()).expect("entered")
    });
    child
}

/// Chromium without a window, on its way to `url` in berlin; its resolver gives every name the server's address.
fn chromium(world: &World, profile: &Path, url: &str, more: &[&str]) -> NodeChild {
    need_program("chromium", "chromium");
    let profile = format!("--user-data-dir={}", profile.display());
    let resolver = format!("--host-resolver-rules=MAP * {WEB}");
    let options =
        ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--ignore-certificate-errors"];
    let command = world.node("berlin-host").command("chromium").args(options).args([&*profile, &*resolver]);
    let command = command.args(more).args(["--dump-dom", url]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("chromium runs")
}

/// Waits until both boxes have a session of that name, and gives the PoP's.
fn session_named(world: &World, name: &str) -> SessionReport {
    let of =
        |node: &str| world.sessions(node).into_iter().find(|session| session.name.as_deref() == Some(name));
    let mut found = None;
    eventually(&format!("sessions are called {name}"), || {
        found = of("fra1");
        found.is_some() && of("berlin").is_some()
    });
    found.expect("just seen")
}

fn class_and_why(session: &SessionReport) -> (&str, &str) {
    (&session.class, &session.class_by)
}

#[test]
fn real_clients_flows_are_classed_by_what_they_call_their_servers() {
    let world = World::up("enames", &["berlin", "berlin-host"]);
    let directory = tempfile::tempdir().expect("a directory");
    world.await_ping("berlin-host", WEB);
    let _server = tls_server(&world, directory.path());

    let resolve = format!("curl.sap.example:443:{WEB}");
    let page = world.must(
        "berlin-host",
        &["curl", "-sSk", "--max-time", "15", "--resolve", &resolve, "https://curl.sap.example/"],
    );
    assert!(page.contains("s_server"), "{page}");
    assert_eq!(class_and_why(&session_named(&world, "curl.sap.example")), ("business", "tls-sni"));

    // Some other name is none of the class's.
    let resolve = format!("www.other.example:443:{WEB}");
    world.must(
        "berlin-host",
        &["curl", "-sSk", "--max-time", "15", "--resolve", &resolve, "https://www.other.example/"],
    );
    assert_eq!(class_and_why(&session_named(&world, "www.other.example")), ("web", "rule"));

    let browser = chromium(&world, &directory.path().join("tls"), "https://chromium.sap.example/", &[]);
    assert_eq!(class_and_why(&session_named(&world, "chromium.sap.example")), ("business", "tls-sni"));
    drop(browser);

    // Nobody answers: its first datagrams are enough.
    let quic = ["--enable-quic", "--origin-to-force-quic-on=quic.sap.example:443"];
    let _port = world.enter("web", || UdpSocket::bind((WEB, 443))).expect("entered").expect("bound");
    let browser = chromium(&world, &directory.path().join("quic"), "https://quic.sap.example/", &quic);
    let session = session_named(&world, "quic.sap.example");
    assert_eq!((session.protocol.as_str(), class_and_why(&session)), ("udp", ("business", "quic-sni")));
    drop(browser);
}

#[test]
fn a_flow_to_an_address_that_dns_has_named_is_classed_before_it_has_said_anything() {
    let world = World::up("edns", &["berlin", "berlin-host"]);
    let directory = tempfile::tempdir().expect("a directory");
    world.await_ping("berlin-host", WEB);
    let _server = tls_server(&world, directory.path());
    let resolver = world.enter("web", || UdpSocket::bind((WEB, 53))).expect("entered").expect("bound");
    let host = world.enter("berlin-host", || UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("bound");
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x03erp\x03sap\x07example\0\0\x01\0\x01");
    host.send_to(&question, (WEB, 53)).expect("sent");
    let mut buffer = [0; 512];
    let (len, peer) = resolver.recv_from(&mut buffer).expect("asked");
    let mut told = buffer[..len].to_vec();
    (told[2], told[7]) = (0x81, 1);
    told.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xcb\0\x71\x50");
    resolver.send_to(&told, peer).expect("sent");
    host.recv_from(&mut buffer).expect("told");
    let connection = world.enter("berlin-host", || TcpStream::connect((WEB, 443))).expect("entered");
    let port = connection.as_ref().expect("connected").local_addr().expect("an address").port();
    for node in ["berlin", "fra1"] {
        let session = world.sessions(node).into_iter().find(|session| session.source_port == port);
        let session = session.unwrap_or_else(|| panic!("{node} has no session from port {port}"));
        assert_eq!(class_and_why(&session), ("business", "dns"), "{node}");
        assert_eq!(session.name.as_deref(), Some("erp.sap.example"), "{node}");
    }
}
