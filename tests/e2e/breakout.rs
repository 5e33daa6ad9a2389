//! Breakout: a branch lets a class straight out by the address of its own line, and everything else through the PoP.

use crate::figures::{Figure, Where};
use crate::hosts::{Server, Service, curl};
use crate::world::{World, eventually, need_program, node, stdout, template, within};
use popgate::lab::topology::Directions;
use popgate::lab::{Signal, Topology};
use popgate::pipeline::report::{DecisionRow, PathState};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const WEB: &str = "203.0.113.80";
/// Berlin's line.
const LINE: &str = "100.64.1.2";
/// Between new connections.
const SPACING: Duration = Duration::from_millis(50);

/// The web leaves at berlin, by its DSL line.
fn breaking_out(topology: &mut Topology) {
    let by_paths = "class = \"web\"\nprefer = [\"dsl\", \"lte\"]";
    let policy = template("tenants/acme.toml");
    assert!(policy.contains(by_paths));
    let policy = policy.replace(by_paths, "class = \"web\"\nprefer = [\"breakout\"]");
    for name in ["berlin", "fra1"] {
        node(topology, name).files.insert("tenants/acme.toml".to_owned(), policy.clone());
    }
    let berlin = node(topology, "berlin");
    let config = template("berlin/popgate.toml") + "\n[breakout]\ninterface = \"eth1\"\n";
    berlin.files.insert("popgate.toml".to_owned(), config);
}

/// Where the web server says that a request comes from.
fn whoami(world: &World) -> SocketAddr {
    let page = curl(world, "berlin-host", &format!("http://{WEB}/whoami"), &[]);
    page.strip_prefix("/whoami ").and_then(|peer| peer.parse().ok()).expect("an address")
}

#[test]
fn a_class_leaves_at_the_branch_and_goes_through_the_pop_while_the_line_has_no_address() {
    need_program("nft", "nftables");
    let world = World::changed("ebreak", &["berlin", "berlin-host"], breaking_out);
    let _web = Server::web(&world, "web");
    world.must("berlin", &["ip", "route", "add", "203.0.113.0/24", "via", "100.64.1.1"]);
    world.await_ping("berlin-host", WEB);

    let peer = whoami(&world);
    assert!(peer.ip() == LINE.parse::<IpAddr>().expect("an address") && peer.port() >= 52_000, "{peer}");
    assert_eq!(curl(&world, "berlin-host", &format!("http://{WEB}/bytes/5000000"), &[]).len(), 5_000_000);
    let is_web = |port: u16| port == 80;
    assert!(world.sessions("berlin").iter().any(|session| is_web(session.destination_port)));
    assert!(!world.sessions("fra1").iter().any(|session| is_web(session.destination_port)));
    // The ping went through the PoP; the box's own goes as ever, by an identifier that is given out as well.
    assert!(world.sessions("fra1").iter().any(|session| session.protocol == "icmp"));
    world.must("berlin", &["ping", "-n", "-c", "1", "-W", "2", "-e", "60000", WEB]);
    let told = world
        .ask("berlin", &["explain", "--tenant", "acme", "--from", "10.1.0.10", "--to", &format!("{WEB}:80")]);
    assert!(told.contains("internet/breakout: up"), "{told}");

    world.must("berlin", &["ip", "address", "delete", "100.64.1.2/30", "dev", "eth1"]);
    eventually("the web goes through the PoP", || {
        let command = ["curl", "-s", "-m", "2", &format!("http://{WEB}/whoami")];
        stdout(&world.exec("berlin-host", &command)).contains(" 198.51.100.")
    });

    world.kill("berlin", Signal::TERM).expect("stops");
    let left = world.must("berlin", &["nft", "list", "ruleset"]);
    assert!(!left.contains("popgate"), "{left}");
}

/// Reads lines and answers each with who sent it.
fn tell_peers(_: &Service, peer: SocketAddr, stream: TcpStream) {
    let mut writer = stream.try_clone().expect("a second handle");
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut line).is_ok_and(|len| len > 0) && writeln!(writer, "{peer}").is_ok() {
        line.clear();
    }
}

/// A connection of berlin's host's to the server that tells peers.
fn connect(world: &World) -> TcpStream {
    let server = SocketAddr::new(WEB.parse().expect("an address"), 443);
    let patience = Duration::from_secs(10);
    let stream = world.enter("berlin-host", || TcpStream::connect_timeout(&server, patience));
    let stream = stream.expect("entered").expect("connected");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    stream
}

/// Whom the server sees at the far end of it now.
fn peer_of(mut stream: &TcpStream) -> std::io::Result<IpAddr> {
    writeln!(stream, "who am I?")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    line.trim().parse().map(|peer: SocketAddr| peer.ip()).map_err(std::io::Error::other)
}

/// A connection that began so many milliseconds after something, how many after it was answered, and whether it left straight.
#[derive(Debug)]
struct Flow {
    began: f64,
    answered: f64,
    is_straight: bool,
}

/// A new connection every 50 ms, from now on and for so long.
fn flows(world: &World, lasting: Duration) -> Vec<Flow> {
    let line: IpAddr = LINE.parse().expect("an address");
    let begin = Instant::now();
    let millis = move || begin.elapsed().as_secs_f64() * 1e3;
    std::thread::scope(|scope| {
        let mut flows = Vec::new();
        while begin.elapsed() < lasting {
            flows.push(scope.spawn(move || {
                let began = millis();
                let peer = peer_of(&connect(world)).expect("answered");
                Flow { began, answered: millis(), is_straight: peer == line }
            }));
            std::thread::sleep(SPACING);
        }
        flows.into_iter().map(|flow| flow.join().expect("no panic")).collect()
    })
}

/// The longest time without an answer to any of them.
fn gap(flows: &[Flow]) -> f64 {
    let mut times: Vec<f64> = flows.iter().map(|flow| flow.answered).collect();
    times.sort_by(f64::total_cmp);
    times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max) - SPACING.as_secs_f64() * 1e3
}

/// A world in which the web leaves at berlin while the line keeps to an SLA, and whom its connections reach; with this more about
/// its policy.
fn measured(name: &str, more: &str) -> (World, Server) {
    need_program("nft", "nftables");
    let world = World::changed_alone(name, &["berlin", "berlin-host"], |topology| {
        breaking_out(topology);
        for name in ["berlin", "fra1"] {
            let policy = node(topology, name).files.get_mut("tenants/acme.toml").expect("written");
            let prefer = "prefer = [\"breakout\"]";
            assert!(policy.contains(prefer));
            let measured = format!("prefer = [\"breakout\", \"lte\"]\nsla-class = \"saas\"\n{more}");
            *policy = policy.replace(prefer, &measured)
                + "\n[[sla-class]]\nname = \"saas\"\nmax-latency = \"50ms\"\nmax-loss = \"3%\"\n";
        }
        let berlin = node(topology, "berlin").files.get_mut("popgate.toml").expect("written");
        // The first is nobody: one dead target is no dead line.
        *berlin += "probe-target = [\"203.0.113.99\", \"203.0.113.80\"]\n";
    });
    let server = Server::start(&world, "web", 443, tell_peers);
    world.must("berlin", &["ip", "route", "add", "203.0.113.0/24", "via", "100.64.1.1"]);
    eventually("the line is measured", || {
        let line = world.path("berlin", "internet", "breakout");
        line.state == PathState::Up && line.rtt_ms.is_some_and(|rtt| (10.0..40.0).contains(&rtt))
    });
    world.await_ping("berlin-host", WEB);
    (world, server)
}

#[test]
fn what_runs_stays_on_a_dead_line_where_its_class_has_it_so_and_goes_on_when_that_is_back() {
    let (world, _server) = measured("estay", "resilience = \"none\"");
    let line: IpAddr = LINE.parse().expect("an address");
    let running = connect(&world);
    assert_eq!(peer_of(&running).expect("answered"), line);
    world.link("berlin-dsl").cut().expect("cut");
    // What begins before that is lost on it as well.
    eventually("the line is dead", || world.path("berlin", "internet", "breakout").state == PathState::Down);
    assert_ne!(peer_of(&connect(&world)).expect("answered"), line, "new flows go through the PoP");
    running.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let lost = peer_of(&running).expect_err("it is on the dead line");
    assert_eq!(lost.kind(), ErrorKind::WouldBlock, "neither answered nor told to begin anew");
    world.link("berlin-dsl").heal().expect("healed");
    let answered = within(Duration::from_secs(30), || peer_of(&running).is_ok_and(|peer| peer == line));
    assert!(answered.is_some(), "it is the same session on the same line");
}

#[test]
fn what_begins_goes_through_the_pop_while_the_line_breaks_the_sla_and_what_runs_leaves_it_only_dead() {
    let (world, _server) = measured("ebrown", "");
    let line: IpAddr = LINE.parse().expect("an address");
    let running = connect(&world);
    assert_eq!(peer_of(&running).expect("answered"), line);
    let before = flows(&world, Duration::from_secs(2));
    assert!(before.iter().all(|flow| flow.is_straight), "{before:?}");
    assert!(!world.sessions("fra1").iter().any(|session| session.destination_port == 443));
    assert!(world.sessions("fra1").iter().any(|session| session.protocol == "icmp"));
    let known = world.decisions("berlin").len();

    // The brownout.
    let slow = toml::from_str("delay = '155ms'").expect("a change");
    world.link("berlin-dsl").impair(Directions::Forward, slow).expect("impaired");
    let during = flows(&world, Duration::from_secs(3));
    let moved = during.iter().find(|flow| !flow.is_straight).map(|flow| flow.began);
    println!("new flows go through the PoP after {moved:?} ms, gap {:.0} ms", gap(&during));
    assert_eq!(peer_of(&running).expect("answered"), line, "what runs keeps its address");
    let moves = || -> Vec<DecisionRow> {
        let rows = world.decisions("berlin").into_iter();
        let is_out = |row: &DecisionRow| [&row.from, &row.to].iter().any(|path| *path == "breakout");
        let mut rows: Vec<_> = rows.filter(|row| row.class == "web" && is_out(row)).collect();
        rows.sort_by_key(|row| row.unix_ms);
        rows
    };
    let [row] = &moves()[..] else { panic!("one of {known} and more: {:?}", moves()) };
    println!("{}", row.detail);
    assert_eq!((row.to.as_str(), row.why.as_str(), row.limit), ("lte", "sla-broken", Some(50.0)), "{row:?}");
    Figure::new("breakout-brownout", Where::Lab, "web")
        .gaps(&[gap(&during)])
        .moves(1)
        .with("moved_ms", moved)
        .record();
    let late = during.iter().filter(|flow| flow.began >= 1_000.0);
    assert!(late.clone().count() > 10 && late.clone().all(|flow| !flow.is_straight), "{during:?}");
    let told = world.ask(
        "berlin",
        &["explain", "--tenant", "acme", "--from", "10.1.0.10", "--to", &format!("{WEB}:443")],
    );
    assert!(told.contains("internet/breakout: up, "), "{told}");

    // It is good again.
    world.link("berlin-dsl").heal().expect("healed");
    let back = within(Duration::from_secs(120), || peer_of(&connect(&world)).is_ok_and(|peer| peer == line));
    let back = back.expect("new flows leave at the branch again");
    println!("new flows leave at the branch again after {:.0} s", back.as_secs_f64());
    assert!(back >= Duration::from_secs(30), "{back:?}");
    assert_eq!(moves()[1].why, "sla-kept");
    assert_eq!(peer_of(&running).expect("answered"), line);

    // It loses a fifth: connections may be late, so it is what the box says that counts.
    let lossy = toml::from_str("loss = '20%'").expect("a change");
    world.link("berlin-dsl").impair(Directions::Forward, lossy).expect("impaired");
    let begin = Instant::now();
    let _busy = flows(&world, Duration::from_secs(3));
    let found = within(Duration::from_secs(20), || moves().len() == 3);
    println!("a fifth lost: found within {:?}", found.map(|_| begin.elapsed()));
    let row = moves().pop().expect("three");
    println!("{}", row.detail);
    assert_eq!((row.to.as_str(), row.why.as_str(), row.limit), ("lte", "sla-broken", Some(0.03)), "{row:?}");
    eventually("new flows go through the PoP", || peer_of(&connect(&world)).is_ok_and(|peer| peer != line));
    assert_eq!(peer_of(&running).expect("answered"), line, "what runs keeps its address");

    // It is dead: what runs goes on as another session, of which the server knows nothing, and says so.
    world.link("berlin-dsl").cut().expect("cut");
    let reset = within(Duration::from_secs(20), || {
        let mut running = &running;
        let _ = writeln!(running, "who am I?");
        world.path("berlin", "internet", "breakout").state == PathState::Down
            && peer_of(running).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    });
    assert!(reset.is_some(), "it hangs");
    assert_ne!(peer_of(&connect(&world)).expect("answered"), line);
}
