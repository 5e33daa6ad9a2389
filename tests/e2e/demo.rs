//! The demo, as `make demo` brings it up.

use crate::world::{World, eventually};

#[test]
fn in_the_demo_both_tenants_reach_the_internet_and_acme_its_data_centre_and_other_branch() {
    let world = World::demo();
    for (host, url, page) in [
        ("berlin-host", "http://203.0.113.80/", "hello from the internet"),
        ("site1-host", "http://203.0.113.80/", "hello from the internet"),
        ("lyon-host", "http://[2001:db8:113::80]/", "hello from the internet"),
        ("berlin-host", "http://10.200.0.10/", "hello from acme's data centre"),
    ] {
        // The demo's web servers take a moment to begin.
        eventually(&format!("{host} fetches {url}"), || {
            let fetched =
                world.run(host, ["curl", "-sS", "--fail", "--max-time", "5", url]).expect("curl runs");
            String::from_utf8_lossy(&fetched.stdout).trim() == page
        });
    }
    eventually("what was fetched is in the flow history", || {
        let told = world.ask("fra1", &["flows", "dst = 203.0.113.80", "--last", "5m", "--by", "tenant"]);
        told.contains("acme") && told.contains("globex")
    });
    world.link("berlin-dsl").cut().expect("cut");
    eventually("the voice of berlin has moved to lte", || {
        world
            .sessions("fra1")
            .iter()
            .any(|session| session.class == "voice" && session.forward_path.as_deref() == Some("lte"))
    });
}
