//! `/metrics` as those see it who it is for: Debian's Prometheus, which scrapes it by the files of `config/prometheus`, what is
//! asked of that by the dashboard in `config/grafana`, and a parser that takes nothing but OpenMetrics.

use super::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Child, Output, Stdio};
use std::time::Instant;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn every_expression_of_the_dashboard_and_the_alerts_finds_what_it_asks_for_in_a_prometheus() {
    let server = Server::start(Mood::Troubled, TOKEN);
    let prometheus = Prometheus::start(&server);
    prometheus.eventually("it scrapes", || {
        let up = prometheus.ask("query", "query", "up{job=\"popgate\"}");
        up.pointer("/data/result/0/value/1").and_then(Value::as_str) == Some("1")
    });
    let dashboard = expressions_of_dashboard();
    assert!(dashboard.len() > 20, "{dashboard:?}");
    for expression in &dashboard {
        // What asks for a rate finds it after the second scrape.
        prometheus.eventually(expression, || {
            let answer = prometheus.ask("query", "query", expression);
            assert_eq!(answer["status"], "success", "{expression}: {answer}");
            answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty())
        });
    }
    let names = prometheus.ask("label/__name__/values", "match[]", "{job=\"popgate\"}");
    let names: BTreeSet<&str> =
        names["data"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    let alerts = fs::read_to_string("config/prometheus/popgate.rules.yml").expect("it is there");
    for text in dashboard.iter().map(String::as_str).chain(alerts.lines()) {
        for name in names_in(text) {
            assert!(names.contains(name), "{name} is no metric: {text}");
        }
    }
    // What the fake's trouble is, as far as it is told at once.
    for alert in ["PopgateLimitReached", "PopgateFlowRecordsLost"] {
        prometheus.eventually(alert, || prometheus.firing().contains(alert));
    }
    assert!(!prometheus.firing().contains("PopgateDoesNotAnswer"));
}

#[test]
fn nothing_in_the_metrics_is_beside_what_openmetrics_says() {
    let server = Server::start(Mood::Troubled, TOKEN);
    let metrics = scrape(&server, "/metrics?rules=true");
    let (content_type, text) = metrics;
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    need("target/tools/openmetrics/prometheus_client", "make target/tools/openmetrics");
    let mut python = Command::new("python3")
        .arg("tests/console/openmetrics.py")
        .env("PYTHONPATH", "target/tools/openmetrics")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    python.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = python.wait_with_output().expect("it ends");
    let told = said(&output);
    let families: BTreeSet<&str> = told.lines().collect();
    for family in ["popgate_path_rtt_seconds gauge seconds", "popgate_rule_bytes counter bytes"] {
        assert!(families.contains(family), "{families:?}");
    }
    assert_eq!(families.len(), told.lines().count(), "no family comes twice");
}

#[test]
fn labels_are_names_of_the_configuration_and_never_an_address_or_a_session_of_somebodys() {
    const LABELS: [&str; 16] = [
        "class",
        "cause",
        "collector",
        "direction",
        "facility",
        "handoff",
        "metro",
        "path",
        "protocol",
        "reason",
        "role",
        "rule",
        "site",
        "tenant",
        "transport",
        "version",
    ];
    let server = Server::start(Mood::Troubled, TOKEN);
    let (_, text) = scrape(&server, "/metrics?rules=true");
    let first = text.lines().filter(|line| !line.starts_with('#')).count();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |it| it.0);
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, _) = label.split_once('=').expect("a label has a value");
            assert!(LABELS.contains(&name), "{line}");
        }
    }
    // Fourteen sessions begin each second, and as many end.
    std::thread::sleep(Duration::from_millis(1_500));
    let (_, text) = scrape(&server, "/metrics?rules=true");
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), first);
}

/// The content type and the text.
fn scrape(server: &Server, path: &str) -> (String, String) {
    let request = ureq::get(format!("{}{path}", server.url()));
    let mut response =
        request.header("Authorization", format!("Bearer {TOKEN_TEXT}")).call().expect("an answer");
    let content_type = response.headers()["content-type"].to_str().expect("text").to_owned();
    (content_type, response.body_mut().read_to_string().expect("text"))
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out
}

/// As Grafana would ask them, of all boxes and tenants.
fn expressions_of_dashboard() -> Vec<String> {
    let text = fs::read_to_string("config/grafana/popgate.json").expect("it is there");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
    let variables = [("$__rate_interval", "10s"), ("$instance", ".*"), ("$tenant", ".*")];
    expressions
        .map(|expression| {
            let filled =
                variables.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
            assert!(!filled.contains('$'), "{filled}");
            filled
        })
        .collect()
}

/// Metrics' names in an expression.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("popgate_"))
}

/// Debian's, with the files of `config/prometheus` but for places and patience.
struct Prometheus {
    process: Child,
    url: String,
    dir: TempDir,
}

impl Prometheus {
    fn start(server: &Server) -> Prometheus {
        need("/usr/bin/prometheus", "apt-get install prometheus");
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let mut text = fs::read_to_string("config/prometheus/prometheus.yml").expect("it is there");
        for (old, new) in [
            ("127.0.0.1:8443", server.listen.to_string()),
            ("/etc/prometheus/popgate-token", at("token")),
            ("/etc/prometheus/popgate.rules.yml", at("popgate.rules.yml")),
            ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
            ("evaluation_interval: 15s", "evaluation_interval: 1s".to_owned()),
        ] {
            assert!(text.contains(old), "{old:?} in prometheus.yml");
            text = text.replace(old, &new);
        }
        fs::write(at("prometheus.yml"), text).expect("written");
        fs::write(at("token"), TOKEN_TEXT).expect("written");
        fs::copy("config/prometheus/popgate.rules.yml", at("popgate.rules.yml")).expect("copied");
        let checked = Command::new("promtool").args(["check", "config", &at("prometheus.yml")]).output();
        said(&checked.expect("promtool runs"));
        // It cannot choose one itself; nobody else takes it in the little time between.
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = free.local_addr().expect("an address");
        drop(free);
        let log = fs::File::create(at("log")).expect("a log file");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", at("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", at("data")))
            .arg(format!("--web.listen-address={listen}"))
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("prometheus runs");
        Prometheus { process, url: format!("http://{listen}/api/v1"), dir }
    }

    /// Its answer; null while it does not answer yet.
    fn ask(&self, what: &str, parameter: &str, value: &str) -> Value {
        let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false);
        let agent = config.build().new_agent();
        let answer = agent.get(format!("{}/{what}", self.url)).query(parameter, value).call();
        let text = answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok());
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    fn firing(&self) -> BTreeSet<String> {
        let answer = self.ask("query", "query", "ALERTS{alertstate=\"firing\"}");
        let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let name =
            |alert: &Value| alert.pointer("/metric/alertname").and_then(Value::as_str).map(str::to_owned);
        result.iter().filter_map(name).collect()
    }

    fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "in vain: {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
