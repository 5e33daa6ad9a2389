//! Through the front door: a server on a loopback port, and HTTP as anyone would speak it.

use super::*;
use crate::config::AclAction;
use crate::control::{FlowsPort, LedgerPort, RecentFlows, SiteFacts, WorkerGone, WorkerPort};
use crate::model::AskedPort;
use crate::pipeline::report::{
    Answer, DropRow, Explanation, PathHistory, Query, RuleRow, SessionPage, Step, StepKind, Totals, Traced,
};
use crate::store::report::{
    self, Cell, FlowAnswer, FlowColumn, FlowHistoryState, FlowProblem, FlowQuestion, FlowRange, Holding,
    LedgerState, WhoHad,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

mod captures;
mod commits;
mod roles;
mod updates;

#[test]
fn no_route_answers_nobody() {
    let server = Server::start();
    let token = server.secret();
    let wrong = Token::from_bytes([8; 32]).authorization();
    let unknown =
        ["/api", "/api/v1", "/api/v1/", "/api/v1/nothing", "/nothing", "/index.html.br", "/api/v2/status"];
    let public = |method: &str, path: &str| {
        matches!(
            (method, path),
            ("POST" | "PUT", "/api/v1/setup") | ("POST", "/api/v1/session" | "/api/v1/enrol")
        )
    };
    for path in ROUTES.iter().map(|route| route.path).chain(unknown) {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
            // A browser that is nobody yet is on its way to the provider, if there is one.
            if path.starts_with("/api/v1/oidc") && method == "GET" {
                let status = if path == "/api/v1/oidc" { 200 } else { 303 };
                assert_eq!(server.ask(method, path, &[]).status, status, "{path}");
                continue;
            }
            if public(method, path) {
                // It says nothing to who asks for nothing, and does nothing for another site's page.
                let answer = server.ask(method, path, &[("popgate-request", "1")]);
                assert_eq!(answer.status, 400, "{method} {path}: {}", answer.body);
                assert_eq!(server.ask(method, path, &[]).status, 403, "{method} {path}");
                continue;
            }
            let asks = [
                server.ask(method, path, &[]),
                server.ask(method, path, &[("Authorization", &wrong)]),
                server.ask(method, path, &[("Authorization", "Bearer ")]),
                server.ask(method, path, &[("Authorization", &format!("Basic {token}"))]),
                server.ask(method, path, &[("Authorization", &format!("Bearer {}", &token[..42]))]),
                server.ask(method, path, &[("Authorization", &format!("Bearer {token}x"))]),
                server.ask(method, path, &[("Cookie", &format!("token={token}"))]),
                server.ask(method, path, &[("Cookie", &format!("__Host-popgate={token}"))]),
            ];
            for answer in asks {
                assert_eq!(answer.status, 401, "{method} {path}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"popgate\""));
                assert_eq!(answer.header("cache-control"), Some("no-store"));
                assert!(!answer.body.contains(&token));
            }
        }
    }
}

#[test]
fn a_token_in_a_url_is_refused_whether_it_would_open_anything_or_not() {
    let server = Server::start();
    let token = server.secret();
    let queries = [
        format!("token={token}"),
        "token=".to_owned(),
        "tenant=acme&access_token=x".to_owned(),
        format!("tenant={token}"),
        format!("tenant=pgt_{}", "A".repeat(43)),
    ];
    for path in ["/api/v1/status", "/api/v1/sessions", "/", "/nothing", "/metrics"] {
        for query in &queries {
            for headers in [&[][..], &[("Authorization", &*server.authorization)]] {
                let answer = server.ask("GET", &format!("{path}?{query}"), headers);
                assert_eq!(answer.status, 400, "{path}?{query}");
                assert!(
                    answer.body.contains("no place in a URL") && !answer.body.contains(&token),
                    "{}",
                    answer.body
                );
            }
        }
    }
}

#[test]
fn every_route_answers_with_the_token_and_is_not_stored() {
    let commits = commits::Commits::default();
    let with = |control: Control| {
        control
            .with_ledger(Ledger)
            .with_history(History)
            .with_commits(commits)
            .with_captures(captures::Captures)
    };
    let server = Server::start_with(with);
    // The stream never ends.
    let asked = ROUTES.iter().filter(|route| route.method == "GET" && route.path != "/api/v1/events");
    for Route { path, .. } in asked {
        // Only these cannot do without parameters.
        let query = match *path {
            "/api/v1/paths/history" => "?tenant=acme&site=berlin&path=dsl",
            "/api/v1/explain" => "?tenant=acme&from=10.1.0.5&to=192.0.2.1:443",
            "/api/v1/flows/trace" => "?tenant=acme&from=10.1.0.5:51000&to=192.0.2.1:443",
            "/api/v1/config/candidate" => "?scope=tenant:acme",
            // It is a file; and it is asked for with its number.
            "/api/v1/captures/{capture}" => continue,
            // These are ways to somewhere else.
            "/api/v1/oidc/start" | "/api/v1/oidc/callback" => continue,
            "/api/v1/who-had" => "?address=198.51.100.7&port=40112&at=2026-11-22T10:00Z",
            _ => "",
        };
        let answer = server.get(&format!("{path}{query}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let content_type = match *path {
            "/metrics" => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            _ => "application/json",
        };
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
}

#[test]
fn every_answer_carries_the_security_headers() {
    let server = Server::start();
    let answers = [
        server.get("/api/v1/status"),
        server.get("/api/v1/nothing"),
        server.get("/api/v1/sessions?port=x"),
        server.ask("GET", "/api/v1/status", &[]),
        server.ask("GET", "/", &[]),
        server.ask("GET", "/", &[("Host", "evil.example")]),
        server.ask("POST", "/", &[("Authorization", &server.authorization)]),
    ];
    let statuses = answers.each_ref().map(|answer| answer.status);
    assert_eq!((statuses[0], statuses[1], statuses[2], statuses[3]), (200, 404, 400, 401));
    assert_eq!((statuses[5], statuses[6]), (421, 405));
    for answer in answers {
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[test]
fn another_hosts_name_is_turned_away_even_with_the_token() {
    let server = Server::start();
    let authorization = server.authorization.clone();
    for host in ["evil.example", "evil.example:8443", "10.0.0.1", ""] {
        let answer =
            server.ask("GET", "/api/v1/status", &[("Host", host), ("Authorization", &authorization)]);
        assert_eq!(answer.status, 421, "{host}");
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8443"] {
        let answer =
            server.ask("GET", "/api/v1/status", &[("Host", host), ("Authorization", &authorization)]);
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[test]
fn a_parameter_at_fault_is_named_in_problem_details() {
    let server = Server::start();
    let answer = server.get("/api/v1/sessions?tenant=acme&port=http");
    assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")));
    let problem: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(problem["parameter"], "port");
    assert_eq!(problem["status"], 400);
    assert_eq!(problem["detail"], "port: \"http\" is not a port, 0 to 65535");
    assert_eq!(server.get("/api/v1/status?tenant=acme").status, 400);
}

#[test]
fn a_silent_worker_is_503_and_says_which() {
    let server = Server::start();
    server.silent.store(true, Ordering::Relaxed);
    let answer = server.get("/api/v1/paths");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert!(answer.body.contains("worker 1 does not answer"), "{}", answer.body);
}

#[test]
fn events_come_at_once_then_every_second_and_end_with_the_server() {
    let mut server = Server::start();
    let stream = server.connect("GET", "/api/v1/events", &[("Authorization", &server.authorization)]);
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    let mut names = lines.by_ref().filter_map(|line| line.strip_prefix("event: ").map(String::from));
    let first: Vec<String> = names.by_ref().take(6).collect();
    assert_eq!(first, ["status", "paths", "drops", "status", "paths", "drops"]);
    server.stop();
    // The stream ends; were it cut off, a line would be an error.
    assert!(lines.by_ref().last().is_some_and(|line| line == "0" || line.is_empty()));
}

#[test]
fn event_streams_are_bounded_and_room_is_given_back() {
    let server = Server::start();
    let authorization = server.authorization.clone();
    let open = || {
        let mut stream = server.connect("GET", "/api/v1/events", &[("Authorization", &authorization)]);
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("a status line");
        (status.ends_with(b"200"), stream)
    };
    let streams: Vec<_> = std::iter::repeat_with(open).take(events::MAX_STREAMS).collect();
    assert!(streams.iter().all(|(accepted, _)| *accepted));
    let refused = server.get("/api/v1/events");
    assert_eq!(refused.status, 503);
    drop(streams);
    eventually("a stream is accepted again", || open().0);
}

#[test]
fn an_event_stream_tells_of_a_silent_worker() {
    let server = Server::start();
    server.silent.store(true, Ordering::Relaxed);
    let stream = server.connect("GET", "/api/v1/events", &[("Authorization", &server.authorization)]);
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    assert!(lines.any(|line| line == "event: problem"));
    assert!(lines.next().is_some_and(|line| line.contains("worker 1 does not answer")));
}

#[test]
fn the_console_is_there_without_a_token_in_the_form_the_browser_takes() {
    let server = Server::start();
    let plain = server.ask("GET", "/", &[]);
    if plain.status == 503 {
        // Built without the console: it says how to build it, and that is all there is to see.
        assert!(plain.body.contains("npm ci && npm run build"), "{}", plain.body);
        return;
    }
    assert_eq!(plain.status, 200);
    assert_eq!(plain.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(plain.header("cache-control"), Some("no-cache"));
    assert!(!plain.body.contains("style=") && !plain.body.contains("<style"), "nothing inline");
    assert_eq!(server.ask("GET", "/sessions?tenant=acme", &[]).body, plain.body);
    let script =
        plain.body.split('"').find(|text| text.starts_with("/assets/")).expect("a script").to_owned();
    let packed = server.ask("GET", &script, &[("Accept-Encoding", "gzip, br")]);
    assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("br")));
    assert!(packed.header("cache-control").is_some_and(|keep| keep.contains("immutable")));
    let etag = packed.header("etag").expect("a tag").to_owned();
    let again = server.ask("GET", &script, &[("Accept-Encoding", "gzip, br"), ("If-None-Match", &etag)]);
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let gzip = server.ask("GET", &script, &[("Accept-Encoding", "gzip")]);
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    assert_ne!(gzip.header("etag"), Some(etag.as_str()));
    assert_eq!(server.ask("GET", &script, &[]).header("content-encoding"), None);
    assert_eq!(server.ask("POST", "/", &[]).status, 401);
}

/// A popgate of two workers, the second of which can be told to fall silent.
struct Server {
    listen: SocketAddr,
    authorization: String,
    access: Access,
    /// The wall clock, in milliseconds.
    now: Arc<AtomicU64>,
    silent: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[test]
fn a_flow_is_explained_with_its_parameters_read_strictly() {
    let server = Server::start();
    let ask = |query: &str| server.get(&format!("/api/v1/explain?{query}"));
    for (query, parameter) in [
        ("", "from"),
        ("from=10.1.0.5&to=10.0.0.0/8&tenant=acme", "to"),
        ("from=10.1.0.5&to=192.0.2.1:443", "tenant"),
        ("from=10.1.0.5&to=192.0.2.1:443&tenant=acme&protocol=sctp", "protocol"),
        ("from=10.1.0.5&to=192.0.2.1:443&tenant=acme&dscp=64", "dscp"),
        ("from=10.1.0.5&to=192.0.2.1:443&tenant=acme&sni=192.0.2.1", "sni"),
        ("from=10.1.0.5&to=192.0.2.1:443&tenant=acme&port=1", "port"),
        ("from=10.1.0.5&from=10.1.0.6&to=192.0.2.1:443&tenant=acme", "from"),
        ("from=10.1.0.5&to=192.0.2.1:443&tenant=nobody", "tenant"),
    ] {
        let answer = ask(query);
        let (status, body) = (answer.status, answer.body);
        assert_eq!(status, 400, "{query}: {body}");
        assert!(body.contains(&format!("\"parameter\":\"{parameter}\"")), "{query}: {body}");
    }
    let answer = ask("from=10.1.0.5&to=192.0.2.1:443&tenant=acme&dscp=ef&protocol=udp");
    let (status, body) = (answer.status, answer.body);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("10.1.0.5 to 192.0.2.1:443, udp, 46"), "{body}");
}

#[test]
fn a_flow_is_traced_with_its_parameters_read_strictly() {
    let server = Server::start();
    let ask = |query: &str| server.get(&format!("/api/v1/flows/trace?{query}"));
    for (query, parameter) in [
        ("", "from"),
        ("tenant=acme&from=10.1.0.5:1&to=10.0.0.0/8", "to"),
        ("tenant=acme&from=10.1.0.5&to=192.0.2.1:443", "from"),
        ("tenant=acme&from=10.1.0.5:1&to=[2001:db8::1]:443", "to"),
        ("from=10.1.0.5:1&to=192.0.2.1:443", "tenant"),
        ("tenant=nobody&from=10.1.0.5:1&to=192.0.2.1:443", "tenant"),
        ("tenant=acme&from=10.1.0.5:1&to=192.0.2.1:443&protocol=sctp", "protocol"),
        ("tenant=acme&from=10.1.0.5:1&to=192.0.2.1:443&at=yesterday", "at"),
        ("tenant=acme&from=10.1.0.5:1&to=192.0.2.1:443&port=1", "port"),
    ] {
        let answer = ask(query);
        let (status, body) = (answer.status, answer.body);
        assert_eq!(status, 400, "{query}: {body}");
        assert!(body.contains(&format!("\"parameter\":\"{parameter}\"")), "{query}: {body}");
    }
    let answer = ask("tenant=acme&from=10.1.0.5:1&to=192.0.2.1:443&at=-5m");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let told: crate::control::Trace = serde_json::from_str(&answer.body).expect("a trace");
    assert!(!told.was_there && told.sessions.is_empty(), "{told:?}");
    assert_eq!(told.until_unix_ms - told.from_unix_ms, 1_000);
    let now = told.now.expect("what would become of it");
    assert!(now.explanation.steps.iter().any(|step| step.text.contains("10.1.0.5")), "{now:?}");
    // A protocol without ports.
    assert_eq!(ask("tenant=acme&from=10.1.0.5&to=192.0.2.1&protocol=47").status, 200);
}

#[test]
fn the_ledger_is_asked_with_its_parameters_read_strictly() {
    let server = Server::start();
    let ask = |query: &str| server.get(&format!("/api/v1/who-had?{query}"));
    for (query, parameter) in [
        ("port=40112", "address"),
        ("address=198.51.100.0/24&port=40112", "address"),
        ("address=198.51.100.7", "port"),
        ("address=198.51.100.7&port=65536", "port"),
        ("address=198.51.100.7&port=40112&at=2026-11-22", "at"),
        ("address=198.51.100.7&port=40112&protocol=sctp", "protocol"),
        ("address=198.51.100.7&port=40112&tenant=acme", "tenant"),
        ("address=198.51.100.7&port=40112&port=40113", "port"),
    ] {
        let answer = ask(query);
        let (status, body) = (answer.status, answer.body);
        assert_eq!(status, 400, "{query}: {body}");
        assert!(body.contains(&format!("\"parameter\":\"{parameter}\"")), "{query}: {body}");
    }
    let answer = ask("address=198.51.100.7&port=40112&protocol=udp&at=2026-11-22T11:00%2B01:00");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let told: WhoHad = serde_json::from_str(&answer.body).expect("an answer");
    assert_eq!((told.address.to_string().as_str(), told.port), ("198.51.100.7", 40_112));
    assert_eq!((told.protocol.as_deref(), told.from_unix_ms), (Some("udp"), 1_795_341_600_000));
}

#[test]
fn a_box_that_keeps_no_ledger_says_how_to_have_it_keep_one() {
    let server = Server::start_with(|control| control);
    let answer = server.get("/api/v1/who-had?address=198.51.100.7&port=40112");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("[nat-ledger] in popgate.toml"), "{}", answer.body);
}

/// A ledger in which nobody ever had anything.
struct Ledger;

impl LedgerPort for Ledger {
    fn who_had(&self, asked: &AskedPort) -> std::io::Result<WhoHad> {
        let at = asked.at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(WhoHad {
            address: asked.address,
            port: asked.port,
            protocol: asked.protocol.map(|protocol| protocol.to_string()),
            from_unix_ms: at.from_unix_ms,
            until_unix_ms: at.until_unix_ms,
            answer: report::Answer::Nobody,
            holdings: Vec::new(),
            gaps: Vec::new(),
            known_from_unix_ms: Some(0),
        })
    }

    fn state(&self) -> LedgerState {
        LedgerState::default()
    }
}

#[test]
fn the_flow_history_is_asked_and_what_it_refuses_is_told_with_its_place() {
    let server = Server::start();
    let ask = |query: &str| server.get(&format!("/api/v1/flows/query?{query}"));
    for (query, parameter) in [
        ("last=1h&from=2026-11-22T10:00Z&until=2026-11-22T11:00Z", "last"),
        ("from=2026-11-22T10:00Z", "until"),
        ("until=2026-11-22T10:00Z", "from"),
        ("from=yesterday&until=2026-11-22T10:00Z", "from"),
        ("top=many", "top"),
        ("limit=10001", "limit"),
        ("previous=maybe", "previous"),
        ("format=xml", "format"),
        ("tenant=acme", "tenant"),
    ] {
        let answer = ask(query);
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert!(answer.body.contains(&format!("\"parameter\":\"{parameter}\"")), "{query}: {}", answer.body);
    }
    let refused = ask("q=clas%20%3D%20voice");
    let problem: serde_json::Value = serde_json::from_str(&refused.body).expect("JSON");
    assert_eq!((refused.status, &problem["parameter"]), (400, &"q".into()));
    assert_eq!((&problem["column"], &problem["length"]), (&1.into(), &4.into()));
    assert_eq!(ask("q=all").status, 422);

    let answer = ask("q=class%20%3D%20voice&by=class,dst&sum=bytes&top=3&last=5m&previous=true&step=auto");
    let told: FlowAnswer = serde_json::from_str(&answer.body).expect("an answer");
    assert_eq!(told.filter, "class = voice");
    assert_eq!(told.rows, [[Cell::Text("a \"b\", c".into()), Cell::Number(7), Cell::None, Cell::Number(0)]]);
    let table = ask("q=class%20%3D%20voice&limit=10001&format=csv");
    assert_eq!(table.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(table.header("content-disposition"), Some("attachment; filename=\"flows.csv\""));
    let lines = "class,bytes,app,end\r\n\"a \"\"b\"\", c\",7,,1970-01-01T00:00:00.000Z\r\n";
    assert_eq!(table.body, lines);
    let file = ask("q=class%20%3D%20voice&format=parquet");
    assert_eq!(
        (file.header("content-type"), file.body.as_str()),
        (Some("application/vnd.apache.parquet"), "PAR1")
    );
}

#[test]
fn more_questions_to_the_flow_history_than_are_answered_at_once_are_told_to_come_again() {
    let (answering, answer_now) = std::sync::mpsc::channel::<()>();
    let (asked, is_asked) = std::sync::mpsc::channel();
    let history = Slow { asked, answer_now: Mutex::new(answer_now) };
    let server = Server::start_with(|control| control.with_history(history));
    std::thread::scope(|scope| {
        let ask = || server.get("/api/v1/flows/query").status;
        let slow: Vec<_> = (0..history::MAX_QUESTIONS).map(|_| scope.spawn(ask)).collect();
        for _ in &slow {
            is_asked.recv_timeout(Duration::from_secs(10)).expect("it is asked");
        }
        let refused = server.get("/api/v1/flows/query");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
        assert!(refused.body.contains("4 questions to the flow history"), "{}", refused.body);
        // The others do not wait for these.
        assert_eq!(server.get("/api/v1/status").status, 200);
        drop(answering);
        assert!(slow.into_iter().all(|slow| slow.join().expect("an answer") == 200));
    });
    assert_eq!(server.get("/api/v1/flows/query").status, 200);
}

/// A history that answers when it is told to.
struct Slow {
    asked: std::sync::mpsc::Sender<()>,
    answer_now: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl FlowsPort for Slow {
    fn ask(&self, _: &FlowQuestion) -> Result<FlowAnswer, FlowProblem> {
        let _ = self.asked.send(());
        let _ = self.answer_now.lock().map(|now| now.recv());
        Ok(FlowAnswer::default())
    }

    fn parquet(&self, _: &FlowAnswer) -> Result<Vec<u8>, FlowProblem> {
        Ok(Vec::new())
    }

    fn state(&self) -> FlowHistoryState {
        FlowHistoryState::default()
    }
}

#[test]
fn a_box_that_keeps_no_flow_history_says_how_to_have_it_keep_one() {
    let server = Server::start_with(|control| control);
    let answer = server.get("/api/v1/flows/query");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("[flow-history] in popgate.toml"), "{}", answer.body);
}

/// A history that knows of one group, and refuses what its filter says.
struct History;

impl FlowsPort for History {
    fn ask(&self, question: &FlowQuestion) -> Result<FlowAnswer, FlowProblem> {
        if question.filter.starts_with("clas ") {
            let wrong = FlowProblem::asked("q", "there is no column \"clas\"".to_owned());
            return Err(FlowProblem { column: Some(1), length: Some(4), ..wrong });
        }
        if question.filter == "all" {
            return Err(FlowProblem::answering("it took too long".to_owned()));
        }
        if question.previous {
            assert_eq!(question.by, ["class", "dst"]);
            assert_eq!((question.top, question.step.as_deref()), (Some(3), Some("auto")));
            assert_eq!(question.range, FlowRange::Last("5m".to_owned()));
        }
        let column = |name: &str, holds| FlowColumn { name: name.to_owned(), holds };
        Ok(FlowAnswer {
            filter: question.filter.clone(),
            columns: vec![
                column("class", Holding::Text),
                column("bytes", Holding::Number),
                column("app", Holding::Text),
                column("end", Holding::Time),
            ],
            rows: vec![vec![Cell::Text("a \"b\", c".into()), Cell::Number(7), Cell::None, Cell::Number(0)]],
            ..FlowAnswer::default()
        })
    }

    fn parquet(&self, _: &FlowAnswer) -> Result<Vec<u8>, FlowProblem> {
        Ok(b"PAR1".to_vec())
    }

    fn state(&self) -> FlowHistoryState {
        FlowHistoryState::default()
    }
}

struct Worker(Option<Arc<AtomicBool>>);

impl WorkerPort for Worker {
    fn ask(&self, query: Query, reply: Box<dyn FnOnce(Answer) + Send>) -> Result<(), WorkerGone> {
        if self.0.as_ref().is_some_and(|silent| silent.load(Ordering::Relaxed)) {
            // Leaked: a worker that neither answers nor dies.
            std::mem::forget(reply);
            return Ok(());
        }
        let row = DropRow { tenant: None, reason: "not-wireguard".into(), detail: None, packets: 1 };
        let rule = RuleRow {
            tenant: "acme".into(),
            rule: "web-out".into(),
            action: AclAction::Accept,
            at: "tenants/acme.toml:40".into(),
            sessions: 2,
            packets: 10,
            bytes: 1_000,
            dropped_packets: 0,
            unlogged: 0,
        };
        reply(match query {
            Query::Totals => Answer::Totals(Totals::default()),
            Query::Paths => Answer::Paths(Vec::new()),
            Query::Sessions { .. } => Answer::Sessions(SessionPage::default()),
            Query::Trace(_) => Answer::Trace(Traced::default()),
            Query::Drops => Answer::Drops(vec![row]),
            Query::Rules { .. } => Answer::Rules(vec![rule]),
            Query::Decisions { .. } => Answer::Decisions(Vec::new()),
            Query::Measurements { .. } => Answer::Measurements(Vec::new()),
            Query::Queues { .. } => Answer::Queues(Vec::new()),
            Query::Canaries { .. } => Answer::Canaries(Vec::new()),
            Query::Clear(_) => Answer::Cleared(1),
            Query::NatBlocks { .. } => Answer::NatBlocks(Vec::new()),
            Query::Tenants => Answer::Tenants(Vec::new()),
            Query::History(asked) => Answer::History(
                (asked.path == "dsl").then(|| PathHistory { samples: Vec::new(), slas: Vec::new() }),
            ),
        });
        Ok(())
    }
}

impl Server {
    fn start() -> Server {
        Server::start_with(|control| control.with_ledger(Ledger).with_history(History))
    }

    fn start_with(change: impl FnOnce(Control) -> Control) -> Server {
        let silent = Arc::new(AtomicBool::new(false));
        let workers: Vec<Box<dyn WorkerPort>> =
            vec![Box::new(Worker(None)), Box::new(Worker(Some(silent.clone())))];
        Server::of(workers, silent, change)
    }

    fn of(
        workers: Vec<Box<dyn WorkerPort>>,
        silent: Arc<AtomicBool>,
        change: impl FnOnce(Control) -> Control,
    ) -> Server {
        let site = SiteFacts {
            site: "fra1".into(),
            role: "pop".into(),
            metro: Some("fra".into()),
            facility: None,
            version: "0".into(),
            started_unix_ms: 1,
            workers: workers.len(),
        };
        let now = Arc::new(AtomicU64::new(2));
        let clock = {
            let now = now.clone();
            move || now.load(Ordering::Relaxed)
        };
        let control = change(Control::new(site, workers, Arc::new(RecentFlows::default()), clock));
        let control = Arc::new(control.explained_by(|tenant, asked| match tenant {
            "acme" => {
                let flow = format!("{} to {}, {}, {}", asked.from, asked.to, asked.protocol, asked.dscp);
                let step = Step { kind: StepKind::Source, text: flow, at: None, fits: true };
                Ok(Explanation { steps: vec![step], ..Explanation::default() })
            }
            _ => Err(format!("there is no tenant {tenant:?}")),
        }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = listener.local_addr().expect("an address");
        let token = Token::from_bytes([7; 32]);
        let authorization = token.authorization();
        let access = Access::in_memory(token, random).expect("access");
        let served = access.clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let stopped = async {
                let _ = stopped.await;
            };
            runtime.block_on(serve(Doors::on_loopback(listener), control, served, stopped)).expect("serves");
        });
        Server { listen, authorization, access, now, silent, stop: Some(stop), thread: Some(thread) }
    }

    fn secret(&self) -> String {
        self.authorization["Bearer ".len()..].to_owned()
    }

    /// Ends the server as SIGTERM would, and waits for it.
    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ended in peace");
        }
    }

    fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[("Authorization", &self.authorization)])
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut headers = headers.to_vec();
        headers.push(("Connection", "close"));
        let mut bytes = Vec::new();
        self.connect(method, path, &headers).read_to_end(&mut bytes).expect("an answer");
        Response::parse(&String::from_utf8_lossy(&bytes))
    }

    /// Sends a body with the token.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut headers = headers.to_vec();
        headers.push(("Authorization", &self.authorization));
        self.send_as(method, path, &headers, body)
    }

    /// Sends a body with whatever these headers bring.
    fn send_as(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut headers = headers.to_vec();
        let length = body.len().to_string();
        headers.extend([("Content-Length", length.as_str()), ("Connection", "close")]);
        let mut stream = self.connect(method, path, &headers);
        stream.write_all(body.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        Response::parse(&String::from_utf8_lossy(&bytes))
    }

    /// Sends a request as written here: no client that puts it right.
    fn connect(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> TcpStream {
        let mut stream = TcpStream::connect(self.listen).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let host = if headers.iter().any(|(name, _)| *name == "Host") { "" } else { "Host: localhost\r\n" };
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "{method} {path} HTTP/1.1\r\n{host}{lines}\r\n").expect("sent");
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

#[derive(Debug)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Response {
    fn parse(text: &str) -> Response {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned()));
        Response {
            status: status.parse().expect("a status"),
            headers: lines.filter_map(header).collect(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Different each time, and no secret.
fn random() -> [u8; 32] {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let mut random = [0; 32];
    random[..8].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    random
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

mod show {
    use super::super::client::{self, ShowArgs};
    use super::Server;
    use clap::Parser;
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        show: ShowArgs,
    }

    fn args(line: &str, url: &str, token_file: &Path) -> ShowArgs {
        let token_file = token_file.to_str().expect("UTF-8");
        let connection = ["--url", url, "--token-file", token_file];
        let words = ["show"].into_iter().chain(line.split(' ')).chain(connection);
        Cli::try_parse_from(words).expect("arguments").show
    }

    pub(super) fn keep(token: &str, path: &Path) {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        std::io::Write::write_all(&mut file.expect("a file"), token.as_bytes()).expect("written");
    }

    #[test]
    fn every_report_is_shown_with_the_token_of_the_file() {
        let server = Server::start();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin-token");
        keep(&server.secret(), &path);
        let url = format!("http://{}/", server.listen);
        let shown = |line: &str| client::text(&args(line, &url, &path)).map_err(|error| error.to_string());
        assert!(shown("status").expect("status").contains("site              fra1 (pop)\n"));
        assert_eq!(shown("paths --tenant acme").as_deref(), Ok("no paths\n"));
        assert_eq!(shown("tunnels").as_deref(), Ok("no paths\n"));
        assert_eq!(shown("sessions --address 10.0.0.1 --port 80").as_deref(), Ok("no session matches\n"));
        assert_eq!(shown("flows --class voice --limit 5").as_deref(), Ok("no flow record matches\n"));
        assert_eq!(
            shown("drops").as_deref(),
            Ok("TENANT  REASON         DETAIL  PACKETS\n-       not-wireguard  -             2\n")
        );
        assert!(shown("drops --json").expect("JSON").starts_with("{\"drops\":["));
        assert_eq!(
            shown("rules --tenant acme").as_deref(),
            Ok(
                "TENANT  RULE     ACTION  WRITTEN               SESSIONS  PACKETS    BYTES  DROPPED  UNLOGGED\n\
                acme    web-out  accept  tenants/acme.toml:40         4       20  2.00 KB        0         0\n"
            )
        );
        assert!(
            shown("flows --limit 0")
                .expect_err("refused")
                .starts_with("limit: \"0\" is not a number of rows")
        );
    }

    #[test]
    fn what_is_in_the_way_is_said_plainly() {
        let server = Server::start();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin-token");
        let url = format!("http://{}", server.listen);
        let refused = |url: &str| client::text(&args("status", url, &path)).expect_err("refused").to_string();
        assert!(refused(&url).contains("No such file or directory"));
        keep(&super::Token::from_bytes([8; 32]).authorization()["Bearer ".len()..], &path);
        assert!(refused(&url).contains("does not take the token in"));
        assert!(refused("https://127.0.0.1").contains("must begin with http://"));
        // A port that was free a moment ago, and that nobody listens on.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let nobody = refused(&format!("http://{free}"));
        assert_eq!(nobody, format!("popgate is not running at http://{free}: connection refused"));
    }
}

mod accounts {
    use super::super::users::{TokensArgs, UsersArgs, tokens_text, users_text};
    use super::Server;
    use super::show::keep;
    use clap::{Args, Parser};
    use std::path::Path;

    #[derive(Parser)]
    struct Cli<T: Args> {
        #[command(flatten)]
        args: T,
    }

    fn args<T: Args>(line: &str, url: &str, token_file: &Path) -> T {
        let connection = ["--url", url, "--token-file", token_file.to_str().expect("UTF-8")];
        let words = ["popgate"].into_iter().chain(line.split(' ')).chain(connection);
        Cli::<T>::try_parse_from(words).expect("arguments").args
    }

    #[test]
    fn users_and_tokens_are_managed_from_the_boxs_own_command_line() {
        let server = Server::start();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin-token");
        keep(&server.secret(), &path);
        let url = format!("http://{}", server.listen);
        let users = |line: &str| {
            users_text(&args::<UsersArgs>(line, &url, &path), super::random)
                .map_err(|error| error.to_string())
        };
        let tokens = |line: &str| {
            tokens_text(&args::<TokensArgs>(line, &url, &path)).map_err(|error| error.to_string())
        };
        assert!(users("list").expect("a list").contains("popgate setup-link"));
        let password = users("add anna --role owner").expect("added");
        assert_eq!(password.len(), 21);
        assert!(users("add anna --role viewer").expect_err("refused").contains("already"));
        assert!(users("add bert --role viewer --tenant nobody").expect_err("refused").contains("no tenant"));
        users("add bert --role operator").expect("added");
        users("set bert --role viewer").expect("set");
        assert_ne!(
            users("reset-password bert").expect("reset"),
            users("reset-password bert").expect("reset")
        );
        users("reset-totp bert").expect("reset");
        users("end-sessions bert").expect("ended");
        assert!(users("reset-totp carl").expect_err("refused").contains("no user \"carl\""));
        let listed = users("list").expect("a list");
        let bert = "bert  viewer  -       no             -                 0  choose a password";
        assert!(listed.lines().any(|line| line == bert), "{listed}");
        users("remove bert").expect("removed");
        assert!(users("remove anna").expect_err("refused").contains("last owner"));

        let token = tokens("add prometheus --role viewer --expires 90d").expect("made");
        assert!(token.starts_with("pgt_"), "{token}");
        let with_token = directory.path().join("prometheus");
        keep(&token, &with_token);
        let shown = users_text(&args::<UsersArgs>("list", &url, &with_token), super::random);
        assert!(shown.expect_err("refused").to_string().contains("this needs a person"));
        assert!(tokens("list").expect("a list").contains("prometheus  root@box  viewer  -"));
        assert!(tokens("add ci --role viewer --expires 400d").expect_err("refused").contains("days at most"));
        tokens("revoke 1").expect("revoked");
        assert_eq!(tokens("list").as_deref(), Ok("no tokens\n"));
    }
}
