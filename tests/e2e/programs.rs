//! Programs that people use, across the NAT: web, files, calls and names. They run at once in one lab, each against a
//! server of its own on `web`. What of them works in either family is used by other tests, too.

use crate::hosts::{Program, curl};
use crate::world::{World, eventually, stderr};
use ipnetwork::IpNetwork;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

const HOST: &str = "berlin-host";
const WEB: &str = "203.0.113.80";

/// How Berlin's host and the web server know each other.
pub struct Way {
    /// What the host calls the server.
    pub called: IpAddr,
    /// The server's own address.
    pub server: IpAddr,
    /// What the server sees the host come from.
    pub outside: IpNetwork,
}

impl Way {
    /// The address that is called, as it stands in a URL.
    fn host(&self) -> String {
        match self.called {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        }
    }
}

/// What is fetched and sent: some hundred packets, none like another.
const PAGE_BYTES: u32 = 400_000;

/// Debian's own: another one that comes first in PATH has not Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn web_ftp_dns_and_sip_work_across_the_nat_and_active_ftp_fails_as_the_readme_says() {
    let world = World::up("eprograms", &["berlin", HOST]);
    world.await_ping(HOST, WEB);
    let web_server = WEB.parse().expect("an address");
    let outside = "198.51.100.0/29".parse().expect("a prefix");
    let way = Way { called: web_server, server: web_server, outside };
    at_once(&world, &way, &[("web", web), ("ftp", ftp), ("dns", dns), ("sip", sip)]);
}

/// Those that work in either family.
pub fn use_programs(world: &World, way: &Way) {
    let ftp: Use = |world, page, way| drop(passive_ftp(world, page, way));
    at_once(world, way, &[("web", web), ("ftp", ftp), ("dns", dns)]);
}

/// The use of a program, with the page to fetch and send.
type Use = fn(&World, &Path, &Way);

fn at_once(world: &World, way: &Way, programs: &[(&str, Use)]) {
    let page = world.node("web").directory().join("page");
    let numbers: String = (0..PAGE_BYTES / 8).map(|number| format!("{number:07}\n")).collect();
    fs::write(&page, &numbers).expect("a page");
    thread::scope(|scope| {
        let page = &page;
        for (name, program) in programs {
            let thread = thread::Builder::new().name((*name).to_owned());
            thread.spawn_scoped(scope, move || program(world, page, way)).expect("a thread");
        }
    });
}

/// Whether the PoP has, or had, a session of the host's to `port`, and the web server saw it by an address outside.
fn was_translated(world: &World, protocol: &str, port: u16, way: &Way) -> bool {
    let is_pools = |nat: Option<IpAddr>| nat.is_some_and(|address| way.outside.contains(address));
    let is_it = |told: (&str, IpAddr, u16)| told == (protocol, way.called, port);
    let sessions = world.sessions("fra1");
    let flows = world.flows("fra1").flows;
    sessions.iter().any(|s| is_it((&s.protocol, s.destination, s.destination_port)) && is_pools(s.nat_source))
        || flows
            .iter()
            .any(|f| is_it((&f.protocol, f.destination, f.destination_port)) && is_pools(f.nat_source))
}

/// curl with HTTP/1.1 from Python's server, three pages over one connection; with HTTP/2 and TLS from nghttpd, three at
/// once over one connection, and one there and back.
fn web(world: &World, page: &Path, way: &Way) {
    let at = world.node("web").directory();
    let at = at.to_str().expect("text");
    // What is asked for is the server's address, so that is whom the certificate is for.
    let request = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out certificate \
         -days 2 -subj /CN=web -addext subjectAltName=IP:{}",
        way.called
    );
    world.must("web", &["sh", "-c", &format!("cd {at} && {request} 2>&1")]);
    let _http1 = Program::start(
        world,
        "web",
        ("tcp", 80),
        &[PYTHON, "-m", "http.server", "--bind", "::", "--protocol", "HTTP/1.1", "--directory", at, "80"],
    );
    let nghttpd = ["nghttpd", "--echo-upload", "--htdocs", at, "443", "key", "certificate"];
    let _http2 = Program::start(world, "web", ("tcp", 443), &nghttpd);

    let sent = fs::read(page).expect("the page");
    let certificate = format!("{at}/certificate");
    let host = way.host();
    for (url, version, port) in
        [(format!("http://{host}/page"), "1.1", 80), (format!("https://{host}/page"), "2", 443)]
    {
        let copies: Vec<String> = (0..3).map(|copy| format!("{at}/http-{version}-{copy}")).collect();
        let mut options = vec!["--cacert", &certificate, "-w", "%{http_version} %{num_connects}\n"];
        if version == "2" {
            options.extend(["--parallel", "--http2"]);
        }
        options.extend(["-o", &copies[0]]);
        copies[1..].iter().for_each(|copy| options.extend([&url, "-o", copy]));
        let told = curl(world, HOST, &url, &options);
        let connections = |line: &str| line.strip_prefix(version)?.trim().parse::<u32>().ok();
        let connections: Option<Vec<u32>> = told.lines().map(connections).collect();
        assert_eq!(connections.map(|each| (each.len(), each.iter().sum())), Some((3, 1)), "{url}: {told}");
        for copy in copies {
            assert!(fs::read(&copy).expect("the copy") == sent, "{copy} is not what was asked for");
        }
        assert!(was_translated(world, "tcp", port, way), "{url}: {:?}", world.sessions("fra1"));
    }
    let upload = format!("@{}", page.display());
    let url = format!("https://{host}/page");
    let back = curl(world, HOST, &url, &["--http2", "--cacert", &certificate, "--data-binary", &upload]);
    assert!(back.as_bytes() == sent, "{} bytes came back", back.len());
}

/// curl with pyftpdlib's server. Passive, the branch opens the data connection like any other. Active, the server is told
/// to call the host's own address, which nobody can out there: popgate has no application gateway that rewrites what is
/// said.
fn ftp(world: &World, page: &Path, way: &Way) {
    let server = passive_ftp(world, page, way);
    let url = format!("ftp://{WEB}/page");
    for (command, says) in [("--disable-eprt", "> PORT 10,1,0,10,"), ("--eprt", "> EPRT |1|10.1.0.10|")] {
        let active = ["curl", "-sSv", "--max-time", "15", "--ftp-port", "-", command, &url];
        let output = world.exec(HOST, &active);
        let told = stderr(&output);
        // curl's exit status for a server that cannot, or does not want to, call back.
        assert_eq!(output.status.code(), Some(30), "{told}\n{}", server.log());
        assert!(told.contains(says), "{command}: {told}");
        let refused = "< 501 Rejected data connection to foreign address 10.1.0.10:";
        assert!(told.contains(refused), "{command}: {told}");
    }
}

/// Files there and back, passively; the server goes on.
fn passive_ftp(world: &World, page: &Path, way: &Way) -> Program {
    let served = world.node("web").directory().join("ftp");
    fs::create_dir(&served).expect("a directory");
    fs::copy(page, served.join("page")).expect("the page to fetch");
    let (served, at) = (served.to_str().expect("text"), way.server.to_string());
    let server = [PYTHON, "-m", "pyftpdlib", "-i", &at, "-p", "21", "-w", "-d", served];
    let server = Program::start(world, "web", ("tcp", 21), &server);
    let (sent, path) = (fs::read_to_string(page).expect("the page"), page.to_str().expect("text"));
    // PASV has no IPv6 (RFC 2428).
    let pasv = way.called.is_ipv4().then_some(("--disable-epsv", "pasv"));
    for (passive, copy) in [("--ftp-pasv", "epsv")].into_iter().chain(pasv) {
        assert!(curl(world, HOST, &format!("ftp://{}/page", way.host()), &[passive]) == sent, "{passive}");
        curl(world, HOST, &format!("ftp://{}/{copy}", way.host()), &[passive, "-T", path]);
        // It answers "transfer complete" once it has written the file.
        assert!(
            fs::read_to_string(format!("{served}/{copy}")).expect("the copy") == sent,
            "{passive}: upload"
        );
    }
    assert!(was_translated(world, "tcp", 21, way), "{:?}", world.sessions("fra1"));
    server
}

/// dig and dnsmasq: a short answer by UDP and by TCP; one that is too long for a datagram of 512 bytes, so that dig asks
/// again by TCP; and the same in one datagram of many fragments, for who says that it takes that much.
fn dns(world: &World, _: &Path, way: &Way) {
    let text = |number: usize| format!("{number}{}", "x".repeat(199));
    let record = (0..9).map(text).collect::<Vec<String>>().join(",");
    let long = format!("--txt-record=long.lab.example,{record}");
    let address = format!("--address=/www.lab.example/{WEB}");
    let at = format!("--listen-address={}", way.server);
    let own = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file="];
    let dnsmasq =
        [&["dnsmasq"], &own[..], &["--user=root", "--bind-interfaces", "--edns-packet-max=4096"]].concat();
    let _dnsmasq =
        Program::start(world, "web", ("udp", 53), &[&dnsmasq[..], &[&at, &address, &long]].concat());
    let server = format!("@{}", way.called);
    let dig =
        |options: &[&str]| world.must(HOST, &[&["dig", "+time=5", "+tries=1", &server], options].concat());
    for transport in ["+notcp", "+tcp"] {
        let answer = dig(&["www.lab.example", "A", "+short", transport]);
        assert_eq!(answer.trim(), WEB, "{transport}");
    }
    let is_whole = |answer: &str| (0..9).all(|number| answer.contains(&text(number)));
    let cut = dig(&["long.lab.example", "TXT", "+noedns", "+ignore"]);
    assert!(cut.contains("flags: qr aa tc") && !is_whole(&cut), "{cut}");
    let again = dig(&["long.lab.example", "TXT", "+noedns"]);
    assert!(again.contains(";; Truncated, retrying in TCP mode.") && is_whole(&again), "{again}");
    assert!(again.contains("(TCP)"), "{again}");
    let in_fragments = ["long.lab.example", "TXT", "+bufsize=4096", "+notcp", "+ignore"];
    if way.server.is_ipv6() {
        // There only the sender makes fragments, and those it makes before it knows the path's MTU are lost.
        let ask = [&["dig", "+time=1", "+tries=1", &server], &in_fragments[..]].concat();
        eventually("the server has been told what fits", || world.exec(HOST, &ask).status.success());
    }
    let fragments = dig(&in_fragments);
    assert!(is_whole(&fragments) && fragments.contains("(UDP)"), "{fragments}");
    for protocol in ["udp", "tcp"] {
        assert!(was_translated(world, protocol, 53, way), "{:?}", world.sessions("fra1"));
    }
}

/// A call with sipp: it names the host's own address, like any phone that knows nothing of a NAT. The server answers to
/// where the request came from (RFC 3581) and sends its voice to where the caller's comes from (symmetric RTP, RFC 4961).
fn sip(world: &World, _: &Path, way: &Way) {
    let directory = world.node(HOST).directory();
    fs::write(directory.join("call.xml"), CALL).expect("a scenario");
    // Of 20 ms each, at 8,000 bytes a second.
    const VOICE_PACKETS: u64 = 75;
    fs::write(directory.join("voice.raw"), vec![0xd5; VOICE_PACKETS as usize * 160]).expect("a voice");
    // sipp looks at its terminal though it is told to have none.
    let sipp = ["env", "TERM=dumb", "sipp", "-nostdin"];
    let server = ["-sn", "uas", "-rtp_echo", "-i", WEB, "-mi", WEB, "-p", "5060", "-mp", "6000"];
    let _server = Program::start(world, "web", ("udp", 5060), &[&sipp[..], &server].concat());
    let call = ["-sf", "call.xml", "-i", "10.1.0.10", "-mi", "10.1.0.10", "-p", "5060", "-mp", "7000"];
    let end = ["-m", "1", "-timeout", "20s", "-timeout_error", "203.0.113.80:5060"];
    let command = world.node(HOST).command("env").args([&sipp[1..], &call, &end].concat());
    let output = command.current_dir(directory).output().expect("sipp runs");
    assert!(output.status.success(), "{output:?}");
    // By what both boxes have counted: Berlin's hands the voice over to the host.
    let counted = |node: &str| {
        let sessions = world.sessions(node);
        let voice = sessions.iter().find(|session| session.destination_port == 6000);
        voice.map_or((0, 0), |voice| (voice.forward_packets, voice.reverse_packets))
    };
    eventually("each packet of the voice has gone there and come back once", || {
        ["berlin", "fra1"].map(counted) == [(VOICE_PACKETS, VOICE_PACKETS); 2]
    });
    for port in [5060, 6000] {
        assert!(was_translated(world, "udp", port, way), "{:?}", world.sessions("fra1"));
    }
}

/// sipp's own caller, with a voice of 1.5 s. The pause is longer.
const CALL: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<scenario name="a call">
  <send retrans="500"><![CDATA[
    INVITE sip:web@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
    From: <sip:berlin@[local_ip]:[local_port]>;tag=[call_number]
    To: <sip:web@[remote_ip]:[remote_port]>
    Call-ID: [call_id]
    CSeq: 1 INVITE
    Contact: <sip:berlin@[local_ip]:[local_port]>
    Max-Forwards: 70
    Content-Type: application/sdp
    Content-Length: [len]

    v=0
    o=berlin 1 1 IN IP4 [local_ip]
    s=-
    c=IN IP4 [local_ip]
    t=0 0
    m=audio [rtpstream_audio_port] RTP/AVP 8
    a=rtpmap:8 PCMA/8000
  ]]></send>
  <recv response="100" optional="true"/>
  <recv response="180" optional="true"/>
  <recv response="200"/>
  <send><![CDATA[
    ACK sip:web@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
    From: <sip:berlin@[local_ip]:[local_port]>;tag=[call_number]
    To: <sip:web@[remote_ip]:[remote_port]>[peer_tag_param]
    Call-ID: [call_id]
    CSeq: 1 ACK
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <nop><action><exec rtp_stream="voice.raw,1,8,PCMA/8000"/></action></nop>
  <pause milliseconds="2500"/>
  <send retrans="500"><![CDATA[
    BYE sip:web@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
    From: <sip:berlin@[local_ip]:[local_port]>;tag=[call_number]
    To: <sip:web@[remote_ip]:[remote_port]>[peer_tag_param]
    Call-ID: [call_id]
    CSeq: 2 BYE
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <recv response="200"/>
</scenario>
"#;
