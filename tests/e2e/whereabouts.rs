//! Must hold: a host inside a tunnel asks the PoP itself where it is, by its name, and is told; two tenants' hosts with the
//! same address are each told their own.

use crate::hosts::{Server, curl};
use crate::world::{World, need_program};
use popgate::pipeline::report::{PathReport, PathState};
use serde_json::Value;
use std::net::SocketAddr;

/// A resolver that knows nothing, and is never asked: the PoP answers before it.
const RESOLVER: &str = "203.0.113.80";

#[test]
fn hosts_with_one_address_ask_their_pop_by_its_name_and_are_told_where_they_are() {
    need_program("dig", "bind9-dnsutils");
    let world = World::up("ewhere", &["berlin", "berlin-host", "site1", "site1-host"]);
    let _web = Server::web(&world, "web");
    for (host, tenant, branch) in [("berlin-host", "acme", "berlin"), ("site1-host", "globex", "site1")] {
        world.await_ping(host, RESOLVER);
        let dig = ["dig", "+short", "+tries=1", &format!("@{RESOLVER}"), "popgate.internal", "A"];
        let address = world.must(host, &dig).trim().to_owned();
        let resolved = format!("popgate.internal:80:{address}");
        let ask = |options: &[&str]| {
            curl(&world, host, "http://popgate.internal/", &[&["--resolve", &resolved], options].concat())
        };
        let told: Value = serde_json::from_str(&ask(&["-H", "Accept: application/json"])).expect("JSON");
        let facts = ["site", "tenant", "branch", "address"].map(|name| told[name].as_str().expect("text"));
        assert_eq!(facts, ["fra1", tenant, branch, "10.1.0.10"], "{told}");
        let paths = world.paths("fra1");
        let is_told = |path: &&PathReport| path.site == branch && told["path"] == *path.path;
        assert_eq!(
            paths.iter().find(is_told).map(|path| path.state),
            Some(PathState::Up),
            "{told}: {paths:?}"
        );
        // What the world sees it as.
        let page = curl(&world, host, "http://203.0.113.80/whoami", &[]);
        let seen: SocketAddr =
            page.strip_prefix("/whoami ").and_then(|peer| peer.parse().ok()).expect("a peer");
        assert_eq!(told["public_address"], seen.ip().to_string(), "{told}");
        let text = ask(&[]);
        assert!(text.starts_with("site            fra1\n"), "{text}");
        assert!(text.ends_with(&format!("public address  {}\n", seen.ip())), "{text}");
        world.must(host, &["ping", "-c", "1", "-W", "5", &address]);
    }
}
