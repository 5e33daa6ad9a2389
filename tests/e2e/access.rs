//! Who may see what of a busy box: a user of one tenant asks for everything there is, and watches, while both tenants are at work.

use crate::world::{POPGATE, World, eventually, stdout};

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
