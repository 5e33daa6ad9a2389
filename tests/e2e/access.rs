//! Who may see what of a busy box: a user of one tenant asks for everything there is, and watches, while both tenants are at work.

use crate::world::{POPGATE, World, eventually, stdout};
use serde_json::{Value, json};

/// What is of the other tenant: its name, and its one branch.
const OTHERS: [&str; 2] = ["globex", "site1"];

#[test]
fn a_user_of_one_tenant_sees_nothing_of_the_other_on_a_busy_box() {
    let world = World::up("eaccess", &["lyon", "site1"]);
    world.await_ping("lyon", "10.200.0.10");
    world.must("site1", &["ip", "address", "add", "10.1.0.1/32", "dev", "lo"]);
    // The last is not allowed: drops are counted, too.
    let busy = [
        ("lyon", "10.2.0.1", "10.200.0.10"),
        ("site1", "10.1.0.1", "203.0.113.80"),
        ("site1", "10.1.0.1", "10.2.0.1"),
    ];
    let _pings = busy.map(|(from, source, to)| {
        let ping = ["ping", "-n", "-q", "-i", "0.02", "-I", source, to];
        world.spawn(from, ping).expect("ping runs")
    });
    eventually("both tenants have sessions", || {
        let sessions = world.sessions("fra1");
        ["acme", "globex"].iter().all(|tenant| sessions.iter().any(|session| session.tenant == *tenant))
    });
    let token = |scope: &[&str]| {
        let add = ["tokens", "add", "watch", "--role", "operator", "--expires", "1h"];
        world.ask("fra1", &[&add, scope].concat()).trim().to_owned()
    };
    let (of_acme, of_box) = (token(&["--tenant", "acme"]), token(&[]));
    let get = |token: &str, path: &str, seconds: &str| {
        let header = format!("Authorization: Bearer {token}");
        let url = format!("http://127.0.0.1:8443/api/v1/{path}");
        let curl = ["curl", "-sS", "--no-buffer", "--max-time", seconds, "-H", &header, &url];
        stdout(&world.exec("fra1", &curl))
    };

    let paths = [
        "status",
        "paths",
        "sessions?limit=10000",
        "flows?limit=10000",
        "drops",
        "rules",
        "decisions",
        "measurements",
        "queues",
        "config",
        "config/texts",
        "audit",
        "session",
        "exporters",
        "config/revisions",
        "users",
        "paths?tenant=nobody",
        "config/compare",
    ];
    for path in paths {
        let told = get(&of_acme, path, "5");
        assert!(!told.is_empty(), "{path}: no answer");
        assert_eq!(OTHERS.iter().find(|other| told.contains(**other)), None, "{path}: {told}");
    }
    for path in ["paths", "sessions", "drops", "config/texts"] {
        let told = get(&of_box, path, "5");
        assert!(OTHERS.iter().any(|other| told.contains(other)), "{path}: {told}");
        assert!(get(&of_acme, path, "5").contains("acme"), "{path}");
    }
    assert!(get(&of_acme, "paths?tenant=globex", "5").contains("\"status\":404"));

    let (mine, all) = std::thread::scope(|scope| {
        let mine = scope.spawn(|| get(&of_acme, "events", "5"));
        let all = scope.spawn(|| get(&of_box, "events", "5"));
        (mine.join().expect("a stream"), all.join().expect("a stream"))
    });
    let samples = mine.matches("event: drops").count();
    assert!(samples >= 3, "{samples} samples in five seconds: {mine}");
    assert!(mine.contains("\"acme\"") && all.contains("\"globex\""));
    assert_eq!(OTHERS.iter().find(|other| mine.contains(**other)), None, "{mine}");
    // Whoever changes something is named as who they are.
    let audit = world.ask("fra1", &["audit", "show"]);
    assert!(audit.contains("token-change") && audit.contains("root@box"), "{audit}");
    let state_dir = world.node("fra1").state_dir();
    let command = world.node("fra1").command(POPGATE).args(["setup-link", "--state-dir"]).arg(state_dir);
    let link = stdout(&command.output().expect("popgate runs"));
    assert!(link.starts_with("http://127.0.0.1:8443/#setup="), "{link}");
}

/// Somebody at fra1's API.
struct Client<'a> {
    world: &'a World,
    token: String,
}

impl<'a> Client<'a> {
    /// One who brings a new operator's token.
    fn operator(world: &'a World, scope: &[&str]) -> Client<'a> {
        let add = ["tokens", "add", "night-shift", "--role", "operator", "--expires", "1h"];
        Client { world, token: world.ask("fra1", &[&add, scope].concat()).trim().to_owned() }
    }

    /// The answer's status, and what it says.
    fn ask(&self, method: &str, path: &str, tag: Option<&str>, body: &Value) -> (u16, Value) {
        let header = format!("Authorization: Bearer {}", self.token);
        let tag = format!("If-Match: \"{}\"", tag.unwrap_or_default());
        let (url, body) = (format!("http://127.0.0.1:8443/api/v1/{path}"), body.to_string());
        let mut curl = vec!["curl", "-sS", "-w", "\n%{http_code}", "-X", method, "-H", &header, &url];
        if method != "GET" {
            curl.extend(["-H", &tag, "-d", &body]);
        }
        let told = self.world.must("fra1", &curl);
        let (body, status) = told.rsplit_once('\n').expect("a status");
        (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, None, &Value::Null)
    }

    /// Keeps a tenant's text as a candidate, changed.
    fn put(&self, tenant: &str, change: impl Fn(&str) -> String) {
        let path = format!("config/candidate?scope=tenant:{tenant}");
        let tag = self.get(&path).1["tag"].as_str().expect("a tag").to_owned();
        let texts = self.get("config/texts").1;
        let text = texts["texts"][format!("tenants/{tenant}.toml")].as_str().expect("a text");
        let (status, told) = self.ask("PUT", &path, Some(&tag), &json!({ "text": change(text) }));
        assert_eq!(status, 200, "{told}");
    }

    fn commit(&self, source: &str, confirm_secs: Option<u64>) -> (u16, Value) {
        self.ask("POST", "config/commit", None, &json!({ "source": source, "confirm-secs": confirm_secs }))
    }
}

#[test]
fn a_tenants_operator_changes_that_tenants_policy_and_nothing_else() {
    let world = World::up("eoperator", &["lyon"]);
    world.await_ping("lyon", "10.200.0.10");
    let (acme, all) = (Client::operator(&world, &["--tenant", "acme"]), Client::operator(&world, &[]));

    // Their own: tried, committed, confirmed.
    acme.put("acme", |text| format!("# night shift\n{text}"));
    let (status, run) = acme.get("config/dry-run?of=tenant:acme");
    assert_eq!((status, &run["changes"]), (200, &json!([])), "{run}");
    let (status, committed) = acme.commit("tenant:acme", Some(600));
    assert_eq!(status, 200, "{committed}");
    assert_eq!(acme.ask("POST", "config/confirm", None, &json!({})).0, 200);
    assert_eq!(acme.get("config").1["revision"]["number"], committed["revision"]);

    // Not what is somebody else's, by any name; nor everything at once.
    for source in ["tenant:globex", "tenant:acme,tenant:globex", "candidates", "files", "box", "1"] {
        assert_eq!(acme.commit(source, None).0, 403, "{source}");
    }
    for (scope, status) in [("tenant:globex", 404), ("tenant:nobody", 404), ("box", 403)] {
        let path = format!("config/candidate?scope={scope}");
        assert_eq!(acme.get(&path).0, status, "{scope}");
        assert_eq!(acme.ask("PUT", &path, Some("none"), &json!({ "text": "" })).0, status, "{scope}");
    }
    all.put("globex", |text| format!("# day shift\n{text}"));
    let (status, others) = all.commit("tenant:globex", Some(600));
    assert_eq!(status, 200, "{others}");
    let (status, refused) = acme.ask("POST", "config/confirm", None, &json!({}));
    assert_eq!(status, 409, "{refused}");
    assert_eq!(acme.get("config").1["revision"], Value::Null);
    assert_eq!(all.ask("POST", "config/confirm", None, &json!({})).0, 200);

    // What collides is told without whose it is.
    acme.put("acme", |text| text.replace("198.51.100.0/29", "198.51.100.8/29"));
    let (status, wrong) = acme.commit("tenant:acme", None);
    assert_eq!(status, 422, "{wrong}");
    assert!(!wrong.to_string().contains("globex"), "{wrong}");
    assert!(all.get("config/check?of=tenant:acme").1.to_string().contains("globex"));

    // Nor what the tenant has of the box: addresses, interfaces, who its branches are.
    for (mine, wanted) in [("198.51.100.0/29", "198.51.100.16/29"), ("10.2.0.0/16", "10.3.0.0/16")] {
        acme.put("acme", |text| text.replace(mine, wanted));
        let (status, refused) = acme.commit("tenant:acme", None);
        assert_eq!(status, 403, "{refused}");
    }

    // Who did what is written down: for a tenant what is its own.
    let mine = acme.get("audit").1;
    let actions: Vec<&str> =
        mine["entries"].as_array().expect("entries").iter().filter_map(|it| it["action"].as_str()).collect();
    assert_eq!(actions, ["edit", "edit", "edit", "confirm", "commit", "edit", "token-change"], "{mine}");
    assert!(!mine.to_string().contains("globex"), "{mine}");
    let named = mine["entries"][0]["user"].as_str().expect("a name");
    assert_eq!(named, "night-shift, a token of root@box");
    assert!(all.get("audit").1.to_string().contains("tenant:globex"));
}
