//! Who may do what: every route of the table, asked by every role with and without a tenant, held against a second opinion.

use super::*;
use crate::admin::access::store::{Hash, NewToken, NewUser};
use crate::admin::access::{Role, totp::Secret};
use crate::control::audit::{Action, Entry};
use crate::control::candidates::{Draft, Scope};
use crate::control::commits::{
    CandidateState, ChangeKind, CommitPort, Committed, ConfigState, DryRun, FlowChange, PolicyTestRow,
    PopFacts, ProblemRow, Refusal, Reply, Standing, Verb,
};
use crate::control::compare::FileDifference;
use crate::control::revisions::{Cause, Revision, Stamp, Who};
use crate::pipeline::report::{
    DecisionRow, FlowFilter, MeasurementRow, NatBlockRow, NatPoolRow, PathReport, PathState, QueueRow,
    SessionReport, TenantRow,
};
use crate::store::report::Held;
use std::collections::BTreeMap;
use std::pin::Pin;

/// Counts over the whole box: in nothing that a user of one tenant sees.
const ALL_SESSIONS: u64 = 424_242;
/// Of the other tenant's: its name, its site, and what is only in its numbers.
const OTHERS: [&str; 4] = ["globex", "oslo", "424242", "313131"];

// --- the second opinion

/// What a route is for, as somebody who has not seen the table would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Everybody,
    WhoeverIsKnown,
    /// Looking at a tenant, or at the box.
    Viewers,
    ViewersOfTheBox,
    Operators,
    Owners,
    OwnersInPerson,
    ViewersInPerson,
}

fn opinion(method: &str, path: &str) -> For {
    match (method, path) {
        (_, "/api/v1/setup") | ("POST", "/api/v1/session") => For::Everybody,
        ("GET", "/api/v1/oidc" | "/api/v1/oidc/start" | "/api/v1/oidc/callback") => For::Everybody,
        (_, "/api/v1/session" | "/api/v1/session/password" | "/api/v1/session/totp") => For::WhoeverIsKnown,
        (_, "/api/v1/users" | "/api/v1/users/{name}") => For::OwnersInPerson,
        // Another version of the box, which its signature vouches for: also by a program.
        (_, "/api/v1/update") => For::Owners,
        (_, "/api/v1/tokens" | "/api/v1/tokens/{id}") => For::ViewersInPerson,
        ("GET", "/metrics" | "/api/v1/certificate" | "/api/v1/exporters" | "/api/v1/config/revisions") => {
            For::ViewersOfTheBox
        }
        // What is in it are a tenant's packets.
        (_, "/api/v1/captures/{capture}") | ("POST", "/api/v1/captures") => For::Operators,
        ("POST", "/api/v1/sessions/clear") => For::Operators,
        // Whoever has a code may use it.
        ("POST", "/api/v1/enrol") => For::Everybody,
        ("POST" | "DELETE", path) if path.starts_with("/api/v1/enrolments") => For::Operators,
        ("GET", _) => For::Viewers,
        (_, "/api/v1/config/candidate" | "/api/v1/config/commit" | "/api/v1/config/confirm") => {
            For::Operators
        }
        other => panic!("a new route: say here whom it is for: {other:?}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    AsNobody,
    BySession,
    ByToken,
}

fn may(what: For, comes: Comes, role: Role, tenant: Option<&str>) -> bool {
    if what == For::Everybody {
        return true;
    }
    let is_person = comes == Comes::BySession;
    comes != Comes::AsNobody
        && match what {
            For::Everybody | For::WhoeverIsKnown | For::Viewers => true,
            For::ViewersOfTheBox => tenant.is_none(),
            For::Operators => role >= Role::Operator,
            For::Owners => role == Role::Owner && tenant.is_none(),
            For::OwnersInPerson => role == Role::Owner && is_person && tenant.is_none(),
            For::ViewersInPerson => is_person,
        }
}

// --- the walk

/// What a route is asked with about a tenant: its query and its body.
fn request(method: &str, path: &str, tenant: &str) -> (String, String) {
    let query = match (method, path) {
        (_, "/api/v1/paths/history") => format!("?tenant={tenant}&site=berlin&path=dsl"),
        (_, "/api/v1/explain") => format!("?tenant={tenant}&from=10.1.0.5&to=192.0.2.1:443"),
        (_, "/api/v1/flows/trace") => format!("?tenant={tenant}&from=10.1.0.5:51000&to=192.0.2.1:443"),
        (_, "/api/v1/flows/query") => format!("?q=tenant%20%3D%20{tenant}%20or%20dport%20%3D%2080"),
        (_, "/api/v1/who-had") => "?address=198.51.100.7&port=40112&at=2026-11-22T10:00Z".to_owned(),
        (_, "/api/v1/config/candidate") => format!("?scope=tenant:{tenant}"),
        (
            _,
            "/api/v1/config/texts"
            | "/api/v1/config/check"
            | "/api/v1/config/policy-tests"
            | "/api/v1/config/dry-run",
        ) => {
            format!("?of=tenant:{tenant}")
        }
        (_, "/api/v1/config/compare") => format!("?new=tenant:{tenant}"),
        (
            "GET",
            "/api/v1/paths" | "/api/v1/tunnels" | "/api/v1/sessions" | "/api/v1/flows" | "/api/v1/drops",
        )
        | ("GET", "/api/v1/rules" | "/api/v1/decisions" | "/api/v1/measurements" | "/api/v1/queues")
        | ("GET", "/api/v1/captures" | "/api/v1/nat") => {
            format!("?tenant={tenant}")
        }
        _ => String::new(),
    };
    let body = match (method, path) {
        ("PUT", "/api/v1/config/candidate") => r#"{"text": "a"}"#.to_owned(),
        ("POST", "/api/v1/captures") => format!(r#"{{"tenant": "{tenant}"}}"#),
        ("POST", "/api/v1/sessions/clear") => format!(r#"{{"tenant": "{tenant}", "from": "10.1.0.5"}}"#),
        ("POST", "/api/v1/config/commit") => format!(r#"{{"source": "tenant:{tenant}"}}"#),
        ("POST", "/api/v1/users") => {
            format!(
                r#"{{"name": "new", "role": "viewer", "tenant": "{tenant}", "password": "twelve letters"}}"#
            )
        }
        ("POST", "/api/v1/enrolments") => format!(r#"{{"site": "berlin", "tenant": "{tenant}"}}"#),
        ("POST", "/api/v1/enrol") => {
            r#"{"secret": "0", "step": "look", "version": "1", "keys": []}"#.to_owned()
        }
        ("PATCH", _) => r#"{"end-sessions": true}"#.to_owned(),
        ("POST", "/api/v1/tokens") => {
            format!(r#"{{"name": "new", "role": "viewer", "tenant": "{tenant}", "expires-in-secs": 60}}"#)
        }
        _ => String::new(),
    };
    let path = path.replace("{name}", "carl").replace("{id}", "1").replace("{capture}", "7");
    (format!("{path}{query}"), body)
}

/// Asks as somebody; of a stream that never ends its first events are the answer.
fn ask(server: &Server, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Response {
    if !url.starts_with("/api/v1/events") {
        return server.send_as(method, url, headers, body);
    }
    let headers: Vec<(&str, &str)> = headers.iter().copied().chain([("Connection", "close")]).collect();
    let mut text = String::new();
    let mut is_last = false;
    for line in BufReader::new(server.connect(method, url, &headers)).lines() {
        let line = line.expect("a line");
        text += &line;
        text += "\r\n";
        if is_last && line.starts_with("data: ") {
            break;
        }
        is_last |= line == "event: drops";
    }
    Response::parse(&text)
}

#[test]
fn every_route_is_open_to_whom_it_is_for_and_to_nobody_else() {
    let server = two_tenants();
    let mut asked = 0;
    for Route { method, path, .. } in ROUTES {
        let what = opinion(method, path);
        for comes in [Comes::AsNobody, Comes::BySession, Comes::ByToken] {
            for (role, tenant) in [
                (Role::Viewer, None),
                (Role::Operator, None),
                (Role::Owner, None),
                (Role::Viewer, Some("acme")),
                (Role::Operator, Some("acme")),
            ] {
                let headers = server.headers_of(comes, role, tenant);
                let headers: Vec<(&str, &str)> =
                    headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let case = format!("{method} {path} {comes:?} {role} {tenant:?}");
                let (url, body) = request(method, path, "acme");
                let own = ask(&server, method, &url, &headers, &body);
                asked += 1;
                if !may(what, comes, role, tenant) {
                    let expected = if comes == Comes::AsNobody { 401 } else { 403 };
                    assert_eq!(own.status, expected, "{case}: {}", own.body);
                    continue;
                }
                // Whatever else is wrong with what was asked, it was let pass; and what is looked at is there.
                if what != For::Everybody {
                    assert!(!matches!(own.status, 401 | 403 | 500), "{case}: {} {}", own.status, own.body);
                }
                if *method == "GET" {
                    let is_on_the_way = matches!(*path, "/api/v1/oidc/start" | "/api/v1/oidc/callback");
                    assert_eq!(own.status, if is_on_the_way { 303 } else { 200 }, "{case}: {}", own.body);
                }
                if tenant.is_none() || what == For::Everybody {
                    continue;
                }
                let hidden = |answer: &Response| OTHERS.into_iter().find(|it| answer.body.contains(it));
                assert_eq!(hidden(&own), None, "{case}: {}", own.body);
                let (url, body) = request(method, path, "nobody");
                if !url.contains("nobody") && !body.contains("nobody") {
                    continue;
                }
                let nobodys = ask(&server, method, &url, &headers, &body);
                let (url, body) = request(method, path, "globex");
                let others = ask(&server, method, &url, &headers, &body);
                let told = |answer: &Response, name: &str| (answer.status, answer.body.replace(name, "NAME"));
                assert_eq!(
                    told(&others, "globex"),
                    told(&nobodys, "nobody"),
                    "{case}: another's is as good as none"
                );
                if !path.ends_with("/flows/query") {
                    assert!(
                        matches!(others.status, 403 | 404 | 422),
                        "{case}: {} {}",
                        others.status,
                        others.body
                    );
                }
            }
        }
    }
    assert_eq!(asked, ROUTES.len() * 15);
}

#[test]
fn the_whole_box_sees_both_tenants() {
    // Otherwise the walk would look for what nobody has.
    let server = two_tenants();
    let headers = server.headers_of(Comes::BySession, Role::Viewer, None);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for path in [
        "/api/v1/paths",
        "/api/v1/sessions",
        "/api/v1/drops",
        "/api/v1/rules",
        "/api/v1/decisions",
        "/api/v1/measurements",
        "/api/v1/queues",
        "/api/v1/flows/query",
        "/api/v1/who-had?address=198.51.100.7&port=40112&at=2026-11-22T10:00Z",
        "/api/v1/config",
        "/api/v1/config/texts",
        "/api/v1/config/compare",
        "/api/v1/config/check",
        "/api/v1/config/policy-tests",
        "/api/v1/config/dry-run",
        "/api/v1/config/revisions",
        "/api/v1/audit",
        "/api/v1/events",
    ] {
        let answer = ask(&server, "GET", path, &headers, "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(answer.body.contains("acme") && answer.body.contains("globex"), "{path}: {}", answer.body);
    }
    let status = ask(&server, "GET", "/api/v1/status", &headers, "");
    assert!(status.body.contains("424242"), "{}", status.body);
}

#[test]
fn a_tenants_status_counts_what_is_its_own() {
    let server = two_tenants();
    let headers = server.headers_of(Comes::ByToken, Role::Viewer, Some("acme"));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = ask(&server, "GET", "/api/v1/status", &headers, "");
    let status: crate::control::Status = serde_json::from_str(&answer.body).expect("a status");
    let totals = status.totals;
    assert_eq!((totals.sessions, totals.sessions_created, totals.dropped_packets), (11, 5, 7));
    assert_eq!(
        (totals.paths, totals.paths_up, totals.forwarded_packets, totals.forwarded_bytes),
        (1, 1, 30, 3_000)
    );
}

// --- sessions

#[test]
fn a_change_by_cookie_needs_the_consoles_own_page() {
    let server = two_tenants();
    for Route { method, path, need, .. } in ROUTES.iter().filter(|route| route.method != "GET") {
        let (url, body) = request(method, path, "acme");
        for forged in [
            &[][..],
            &[("popgate-request", "1")],
            &[("Sec-Fetch-Site", "same-origin")],
            &[("popgate-request", "1"), ("Sec-Fetch-Site", "cross-site")],
            &[("popgate-request", "1"), ("Sec-Fetch-Site", "same-site")],
            &[("popgate-request", "1"), ("Origin", "http://evil.example")],
        ] {
            let cookie = server.cookie_of(Role::Owner, None);
            let mut headers = forged.to_vec();
            headers.push(("Cookie", &cookie));
            let answer = ask(&server, method, &url, &headers, &body);
            // What a browser says comes from elsewhere is nobody's; the rest is not the page's.
            let expected =
                if forged.iter().any(|(_, value)| value.ends_with("-site")) && *need != Need::Public {
                    401
                } else {
                    403
                };
            assert_eq!(answer.status, expected, "{method} {path} {need:?} {forged:?}: {}", answer.body);
        }
    }
    // And nothing is read by another site's page, even where the browser sends the cookie along.
    let cookie = server.cookie_of(Role::Owner, None);
    let headers = [("Cookie", &*cookie), ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(server.ask("GET", "/api/v1/status", &headers).status, 401);
    assert_eq!(server.ask("GET", "/api/v1/status", &headers[..1]).status, 200);
}

#[test]
fn an_enrolment_is_its_tenants_and_decided_by_operators() {
    use crate::admin::access::enrolments::{Claimant, NewEnrolment};
    let server = two_tenants();
    let (access, now) = (server.access.clone(), server.now.load(Ordering::Relaxed));
    let [mine, others] = [("acme", "lyon"), ("globex", "oslo")].map(|(tenant, site)| {
        let add = access.clone();
        server.run(async move {
            let added = add.stored(move |store| {
                let new = NewEnrolment {
                    hash: crate::admin::access::hash_of_enrolment(&crate::enrol::Secret(
                        [site.as_bytes()[0]; 16],
                    )),
                    site: site.to_owned(),
                    tenant: tenant.to_owned(),
                    prefixes: Vec::new(),
                    paths: Vec::new(),
                    lan: crate::enrol::Lan::default(),
                    maker: "anna".to_owned(),
                    expires_unix_ms: now + 1_000,
                };
                let id = store.add_enrolment(&new, now)?;
                let from = std::net::IpAddr::from([198, 51, 100, 7]);
                let claim = Claimant { from, version: "1".to_owned(), unix_ms: now, keys: Vec::new() };
                assert!(store.claim(id, &claim)?);
                Ok(id)
            });
            added.await.expect("added")
        })
    });
    let ask = |role: Role, method: &str, path: &str| {
        let headers = server.headers_of(Comes::ByToken, role, Some("acme"));
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        server.send_as(method, &format!("/api/v1/enrolments{path}"), &headers, "")
    };
    let list = ask(Role::Viewer, "GET", "");
    assert!(list.status == 200 && list.body.contains("lyon") && !list.body.contains("oslo"), "{}", list.body);
    for (method, verb) in [("POST", "/approve"), ("POST", "/refuse"), ("DELETE", "")] {
        assert_eq!(ask(Role::Viewer, method, &format!("/{mine}{verb}")).status, 403);
        let [theirs, nobodys] = [others, 99].map(|id| ask(Role::Operator, method, &format!("/{id}{verb}")));
        assert_eq!((theirs.status, nobodys.status), (404, 404));
        assert_eq!(theirs.body.replace(&others.to_string(), "N"), nobodys.body.replace("99", "N"));
    }
    // What somebody has begun to change is not committed along with it.
    let open = ask(Role::Operator, "POST", &format!("/{mine}/approve"));
    assert!(open.status == 409 && open.body.contains("a candidate of tenant:acme is open"), "{}", open.body);
    assert_eq!(ask(Role::Operator, "POST", &format!("/{mine}/refuse")).status, 204);
    assert_eq!(ask(Role::Operator, "POST", &format!("/{mine}/refuse")).status, 409);
    // Who has the code is told; who guesses is not, whatever the guess.
    let claim = |byte: u8, step: &str| {
        let secret = crate::enrol::Secret([byte; 16]).to_letters();
        let body = format!(r#"{{"secret": "{secret}", "step": "{step}", "version": "1", "keys": []}}"#);
        server.send_as("POST", "/api/v1/enrol", &[("popgate-request", "1")], &body)
    };
    assert_eq!((claim(b'l', "look").status, claim(b'o', "look").status), (410, 200));
    let guesses = [claim(1, "look"), claim(2, "claim"), claim(3, "done")];
    assert!(guesses.iter().all(|it| it.status == 403 && it.body == guesses[0].body));
    let limited = std::iter::repeat_with(|| claim(4, "look")).take(30).find(|answer| answer.status != 403);
    assert_eq!(limited.map(|answer| answer.status), Some(429));
}

const OURS: [(&str, &str); 2] = [("popgate-request", "1"), ("Sec-Fetch-Site", "same-origin")];
const PASSWORD: &str = "correct horse battery";

/// The cookie that an answer sets, as a browser sends it back.
fn set_cookie(answer: &Response) -> String {
    let cookie = answer.header("set-cookie").expect("a cookie");
    let (pair, attributes) = cookie.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; Secure; HttpOnly; SameSite=Strict");
    assert!(pair.starts_with("__Host-popgate="), "{pair}");
    pair.to_owned()
}

fn with_cookie(cookie: &str) -> Vec<(&str, &str)> {
    OURS.into_iter().chain([("Cookie", cookie)]).collect()
}

#[test]
fn signing_in_gives_another_session_whatever_was_there_and_ends_that() {
    let server = two_tenants();
    server.add_user("anna", Role::Owner, None);
    let code = |server: &Server| TOTP.code_at(server.now.load(Ordering::Relaxed));
    let sign_in = |cookie: &str, code: &str| {
        let body = format!(r#"{{"name": "anna", "password": "{PASSWORD}", "code": "{code}"}}"#);
        server.send_as("POST", "/api/v1/session", &with_cookie(cookie), &body)
    };
    let known = |cookie: &str| server.ask("GET", "/api/v1/session", &[("Cookie", cookie)]).status == 200;
    // One that an attacker has put there, and knows.
    let planted = "__Host-popgate=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let first = sign_in(planted, &code(&server));
    assert_eq!(first.status, 200, "{}", first.body);
    let first = set_cookie(&first);
    assert_ne!(first, planted);
    assert!(known(&first) && !known(planted));
    server.now.fetch_add(30_000, Ordering::Relaxed);
    let second = set_cookie(&sign_in(&first, &code(&server)));
    assert!(known(&second) && !known(&first));
    // Another password is another session, and the end of all others.
    server.now.fetch_add(30_000, Ordering::Relaxed);
    let elsewhere = set_cookie(&sign_in("", &code(&server)));
    let body = format!(r#"{{"old": "{PASSWORD}", "new": "another horse battery"}}"#);
    let changed = server.send_as("PUT", "/api/v1/session/password", &with_cookie(&second), &body);
    assert_eq!(changed.status, 200, "{}", changed.body);
    let third = set_cookie(&changed);
    assert!(known(&third) && !known(&second) && !known(&elsewhere));
    let out = server.send_as("DELETE", "/api/v1/session", &with_cookie(&third), "");
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    assert!(!known(&third));
}

#[test]
fn whoever_guesses_is_told_to_wait_and_not_what_was_wrong() {
    let server = two_tenants();
    server.add_user("anna", Role::Owner, None);
    let guess = |name: &str| {
        let body = format!(r#"{{"name": "{name}", "password": "guess after guess"}}"#);
        server.send_as("POST", "/api/v1/session", &OURS, &body)
    };
    let (known, unknown) = (guess("anna"), guess("nobody"));
    assert_eq!((known.status, &known.body), (401, &unknown.body));
    let limited = std::iter::repeat_with(|| guess("anna")).take(20).find(|answer| answer.status != 401);
    let limited = limited.expect("limited");
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("6")));
}

#[test]
fn a_new_user_chooses_a_password_and_a_second_factor_before_anything_else() {
    let server = two_tenants();
    let body =
        format!(r#"{{"name": "dora", "role": "operator", "tenant": "acme", "password": "{PASSWORD}"}}"#);
    assert_eq!(server.send("POST", "/api/v1/users", &[], &body).status, 201);
    let body = format!(r#"{{"name": "dora", "password": "{PASSWORD}"}}"#);
    let first = server.send_as("POST", "/api/v1/session", &OURS, &body);
    assert!(first.body.contains(r#""pending":"password""#), "{}", first.body);
    let cookie = set_cookie(&first);
    for path in ["/api/v1/paths", "/api/v1/events", "/api/v1/tokens", "/api/v1/config/texts"] {
        let refused = server.ask("GET", path, &[("Cookie", &cookie)]);
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.body.contains(r#""pending":"password""#), "{}", refused.body);
    }
    let new = "a password of dora's";
    let body = format!(r#"{{"old": "{PASSWORD}", "new": "{new}"}}"#);
    let changed = server.send_as("PUT", "/api/v1/session/password", &with_cookie(&cookie), &body);
    assert!(changed.body.contains(r#""pending":"totp""#), "{}", changed.body);
    let cookie = set_cookie(&changed);
    assert_eq!(server.ask("GET", "/api/v1/paths", &[("Cookie", &cookie)]).status, 403);
    let proposed = server.send_as("POST", "/api/v1/session/totp", &with_cookie(&cookie), "");
    let proposed: serde_json::Value = serde_json::from_str(&proposed.body).expect("JSON");
    let secret = proposed["secret"].as_str().expect("a secret");
    assert!(proposed["uri"].as_str().is_some_and(|uri| uri.contains(secret)));
    let code = Secret::from_base32(secret).expect("a secret").code_at(server.now.load(Ordering::Relaxed));
    let enrol = |code: &str| {
        let body = format!(r#"{{"password": "{new}", "secret": "{secret}", "code": "{code}"}}"#);
        server.send_as("PUT", "/api/v1/session/totp", &with_cookie(&cookie), &body)
    };
    assert_eq!(enrol("000000").status, 422);
    let enrolled = enrol(&code);
    assert_eq!(enrolled.status, 200, "{}", enrolled.body);
    let cookie = set_cookie(&enrolled);
    assert_eq!(server.ask("GET", "/api/v1/paths", &[("Cookie", &cookie)]).status, 200);
    // The code that enrolled it is used up.
    let body = format!(r#"{{"name": "dora", "password": "{new}", "code": "{code}"}}"#);
    assert_eq!(server.send_as("POST", "/api/v1/session", &OURS, &body).status, 401);
}

#[test]
fn a_token_is_made_listed_used_and_revoked() {
    let server = two_tenants();
    let cookie = server.cookie_of(Role::Operator, Some("acme"));
    let make = |body: &str| server.send_as("POST", "/api/v1/tokens", &with_cookie(&cookie), body);
    for (body, parameter) in [
        (r#"{"name": "ci", "role": "owner", "expires-in-secs": 60}"#, "role"),
        (r#"{"name": "ci", "role": "viewer", "tenant": "globex", "expires-in-secs": 60}"#, "tenant"),
        (r#"{"name": "ci", "role": "viewer", "expires-in-secs": 0}"#, "expires-in-secs"),
        (r#"{"name": "ci", "role": "viewer", "expires-in-secs": 99999999}"#, "expires-in-secs"),
        (r#"{"name": "C I", "role": "viewer", "expires-in-secs": 60}"#, "name"),
    ] {
        let refused = make(body);
        assert_eq!(refused.status, 422, "{body}: {}", refused.body);
        assert!(refused.body.contains(&format!("\"parameter\":\"{parameter}\"")), "{}", refused.body);
    }
    let made = make(r#"{"name": "ci", "role": "viewer", "expires-in-secs": 60}"#);
    assert_eq!(made.status, 201, "{}", made.body);
    let made: serde_json::Value = serde_json::from_str(&made.body).expect("JSON");
    let bearer = format!("Bearer {}", made["token"].as_str().expect("a token"));
    let by_token = |path: &str| server.ask("GET", path, &[("Authorization", &bearer)]);
    assert!(bearer.starts_with("Bearer pgt_"));
    assert_eq!(by_token("/api/v1/paths").status, 200);
    let me = by_token("/api/v1/session").body;
    assert!(me.contains(r#""tenant":"acme""#) && me.contains("ci, a token of"), "{me}");
    let listed = server.ask("GET", "/api/v1/tokens", &[("Cookie", &cookie)]).body;
    assert!(listed.contains("\"ci\"") && !listed.contains("pgt_"), "{listed}");
    let path = format!("/api/v1/tokens/{}", made["id"]);
    assert_eq!(server.send_as("DELETE", &path, &with_cookie(&cookie), "").status, 204);
    assert_eq!(by_token("/api/v1/paths").status, 401);
    assert_eq!(server.send_as("DELETE", &path, &with_cookie(&cookie), "").status, 404);
}

#[test]
fn a_stream_ends_when_its_session_does() {
    let server = two_tenants();
    let cookie = server.cookie_of(Role::Viewer, Some("acme"));
    let stream = server.connect("GET", "/api/v1/events", &[("Cookie", &cookie), ("Connection", "close")]);
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    assert!(lines.any(|line| line == "event: drops"));
    let out = server.send_as("DELETE", "/api/v1/session", &with_cookie(&cookie), "");
    assert_eq!(out.status, 204);
    // It does end; until then it is the tenant's.
    let rest: String = lines.collect();
    assert!(!OTHERS.iter().any(|other| rest.contains(other)), "{rest}");
}

#[test]
fn a_session_is_over_after_half_an_hour_in_which_nothing_is_asked() {
    let server = two_tenants();
    let cookie = server.cookie_of(Role::Viewer, None);
    let asked = |after_ms: u64| {
        server.now.fetch_add(after_ms, Ordering::Relaxed);
        server.ask("GET", "/api/v1/paths", &[("Cookie", &cookie)]).status
    };
    assert_eq!(asked(29 * 60_000), 200);
    assert_eq!(asked(29 * 60_000), 200);
    assert_eq!(asked(30 * 60_000), 401);
    // A console that nobody touches says so, and keeps no session open.
    let cookie = server.cookie_of(Role::Viewer, None);
    let by_itself = [("Cookie", &*cookie), ("popgate-idle", "1")];
    let asked = |after_ms: u64| {
        server.now.fetch_add(after_ms, Ordering::Relaxed);
        server.ask("GET", "/api/v1/paths", &by_itself).status
    };
    assert_eq!([asked(0), asked(20 * 60_000), asked(10 * 60_000)], [200, 200, 401]);
}

#[test]
fn what_another_tenants_policy_does_with_a_call_is_not_told() {
    let step = |kind, text: &str, at: Option<&str>| Step {
        kind,
        text: text.to_owned(),
        at: at.map(str::to_owned),
        fits: true,
    };
    let steps = vec![
        step(StepKind::Source, "10.1.0.5 belongs to branch:berlin", Some("tenants/acme.toml:4")),
        step(StepKind::Rule, "in fits: accept", Some("tenants/acme.toml:40")),
        step(StepKind::Nat, "a service of globex: the source becomes 10.9.0.5", Some("tenants/acme.toml:90")),
        step(StepKind::Class, "in globex: class default: no app class fits", None),
        step(StepKind::Rule, "in globex: night fits: drop", Some("tenants/globex.toml:12")),
    ];
    let whole = Explanation {
        outcome: crate::config::Outcome::Drop,
        rule: Some("night".into()),
        steps: steps.clone(),
        ..Explanation::default()
    };
    let told = whole.clone().of_tenant("acme");
    assert_eq!(told.rule, None);
    assert_eq!(told.steps[..3], steps[..3]);
    assert!(told.steps.len() == 4 && told.steps[3].text.contains("whoever publishes"), "{:?}", told.steps);
    // What is all one's own stays as it is.
    let own = Explanation { rule: Some("in".into()), steps: steps[..3].to_vec(), ..whole };
    assert_eq!(own.clone().of_tenant("acme"), own);
}

// --- a box with two tenants

static TOTP: std::sync::LazyLock<Secret> = std::sync::LazyLock::new(|| Secret::of([3; 32]));

fn two_tenants() -> Server {
    let worker: Vec<Box<dyn WorkerPort>> = vec![Box::new(TwoTenants)];
    let server = Server::of(worker, Arc::default(), |control| {
        control
            .with_ledger(TwoTenants)
            .with_history(TwoTenants)
            .with_commits(TwoTenants)
            .with_captures(super::captures::Captures)
    });
    server.now.store(1_800_000_000_000, Ordering::Relaxed);
    server
}

impl Server {
    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(future)
    }

    fn add_user(&self, name: &'static str, role: Role, tenant: Option<&'static str>) {
        let (access, now) = (self.access.clone(), self.now.load(Ordering::Relaxed));
        self.run(async move {
            let password = access.hash(PASSWORD).await.expect("hashed");
            let totp = Some((*TOTP, 0));
            let added = access.stored(move |store| {
                let password = password.as_str();
                store.add_user(
                    &NewUser { name, role, tenant, password, must_change_password: false, totp },
                    now,
                )
            });
            added.await.expect("added");
        });
    }

    /// The cookie of a new session of a user who is this; there is one of each.
    fn cookie_of(&self, role: Role, tenant: Option<&'static str>) -> String {
        let (access, now) = (self.access.clone(), self.now.load(Ordering::Relaxed));
        let name = user_of(role, tenant);
        self.run(async move {
            let user = name.clone();
            let added = access.stored(move |store| {
                if store.credentials(&user)?.is_none() {
                    let totp = Some((*TOTP, 0));
                    let user = NewUser {
                        name: &user,
                        role,
                        tenant,
                        password: "",
                        must_change_password: false,
                        totp,
                    };
                    store.add_user(&user, now)?;
                }
                Ok(())
            });
            added.await.expect("added");
            format!("__Host-popgate={}", access.begin_session(&name, now).await.expect("begun"))
        })
    }

    pub(super) fn token_of(&self, role: Role, tenant: Option<&'static str>) -> String {
        let (access, now) = (self.access.clone(), self.now.load(Ordering::Relaxed));
        self.run(async move {
            let (secret, hash): (String, Hash) = access.new_token();
            let made = access.stored(move |store| {
                for old in store.tokens(None, now)? {
                    store.revoke(old.id, None)?;
                }
                let expires_unix_ms = now + 60_000;
                store.add_token(
                    &NewToken { name: "ci", hash: &hash, maker: None, role, tenant, expires_unix_ms },
                    now,
                )
            });
            made.await.expect("made");
            secret
        })
    }

    fn headers_of(
        &self,
        comes: Comes,
        role: Role,
        tenant: Option<&'static str>,
    ) -> Vec<(&'static str, String)> {
        let ours = OURS.map(|(name, value)| (name, value.to_owned()));
        match comes {
            Comes::AsNobody => ours.into(),
            Comes::BySession => ours.into_iter().chain([("Cookie", self.cookie_of(role, tenant))]).collect(),
            Comes::ByToken => vec![("Authorization", format!("Bearer {}", self.token_of(role, tenant)))],
        }
    }
}

fn user_of(role: Role, tenant: Option<&str>) -> String {
    format!("{role}-{}", tenant.unwrap_or("box"))
}

/// Everything there is of two tenants, acme and globex; as the real ones it narrows what it is asked to narrow, and no more.
#[derive(Clone, Copy)]
struct TwoTenants;

/// Site, and what numbers begin with.
const TENANTS: [(&str, &str, u64); 2] = [("acme", "berlin", 0), ("globex", "oslo", 313_131)];

fn of_both<T>(asked: Option<&str>, row: impl Fn(&str, &str, u64) -> T) -> Vec<T> {
    let wanted = TENANTS.iter().filter(|(name, ..)| asked.is_none_or(|asked| asked == *name));
    wanted.map(|(name, site, number)| row(name, site, *number)).collect()
}

impl WorkerPort for TwoTenants {
    fn ask(&self, query: Query, reply: Box<dyn FnOnce(Answer) + Send>) -> Result<(), WorkerGone> {
        reply(match query {
            Query::Totals => Answer::Totals(Totals { sessions: ALL_SESSIONS, ..Totals::default() }),
            Query::Paths => Answer::Paths(of_both(None, path)),
            Query::Sessions { filter, .. } => {
                let FlowFilter { tenant, .. } = filter;
                let sessions = of_both(tenant.as_deref(), session);
                Answer::Sessions(SessionPage { matching: sessions.len() as u64, sessions })
            }
            Query::Trace(_) => Answer::Trace(Traced::default()),
            Query::Drops => Answer::Drops(of_both(None, |tenant, site, number| DropRow {
                tenant: Some(tenant.into()),
                reason: "acl-default".into(),
                detail: Some(site.into()),
                packets: number + 7,
            })),
            Query::Rules { tenant } => {
                Answer::Rules(of_both(tenant.as_deref(), |tenant, site, number| RuleRow {
                    tenant: tenant.into(),
                    rule: format!("to-{site}"),
                    action: AclAction::Accept,
                    at: format!("tenants/{tenant}.toml:4"),
                    sessions: number + 5,
                    packets: number,
                    bytes: number,
                    dropped_packets: 0,
                    unlogged: 0,
                }))
            }
            Query::Decisions { tenant } => Answer::Decisions(of_both(tenant.as_deref(), decision)),
            Query::Measurements { tenant } => Answer::Measurements(of_both(tenant.as_deref(), measurement)),
            Query::Queues { tenant } => Answer::Queues(of_both(tenant.as_deref(), queue)),
            Query::Canaries { .. } => Answer::Canaries(Vec::new()),
            Query::Clear(asked) => Answer::Cleared(u64::from(asked.from.is_some())),
            Query::NatBlocks { tenant } => {
                Answer::NatBlocks(of_both(tenant.as_deref(), |tenant, site, _| NatBlockRow {
                    tenant: tenant.into(),
                    handoff: "internet".into(),
                    branch: Some(site.into()),
                    address: "198.51.100.1".parse().expect("an address"),
                    first_port: 1_024,
                    last_port: 1_535,
                }))
            }
            Query::Tenants => Answer::Tenants(of_both(None, |tenant, _, number| TenantRow {
                tenant: tenant.into(),
                sessions: number + 11,
                max_sessions: Some(1_000),
                nat_pools: vec![NatPoolRow {
                    handoff: format!("out-of-{tenant}"),
                    prefixes: Vec::new(),
                    first_port: 1_024,
                    last_port: 65_535,
                    block_ports: None,
                    addresses: 1,
                    ports: number,
                    leased_ports: 0,
                    tcp_bindings: 0,
                    udp_bindings: 0,
                    icmp_bindings: 0,
                    other_bindings: 0,
                }],
            })),
            Query::History(asked) => Answer::History(
                (asked.tenant == "acme").then(|| PathHistory { samples: Vec::new(), slas: Vec::new() }),
            ),
        });
        Ok(())
    }
}

fn path(tenant: &str, site: &str, number: u64) -> PathReport {
    PathReport {
        tenant: tenant.into(),
        site: site.into(),
        path: "dsl".into(),
        transport: None,
        state: PathState::Up,
        public_key: None,
        endpoint: None,
        last_handshake_secs: None,
        probed: false,
        rtt_ms: None,
        jitter_ms: None,
        loss: None,
        outbound: None,
        inbound: None,
        streams: Vec::new(),
        received_packets: number + 10,
        received_bytes: number + 1_000,
        sent_packets: number + 20,
        sent_bytes: number + 2_000,
        duplicated_packets: 0,
        duplicate_packets: 0,
    }
}

fn session(tenant: &str, site: &str, number: u64) -> SessionReport {
    SessionReport {
        id: number,
        tenant: tenant.into(),
        protocol: "tcp".into(),
        source: [10, 1, 0, 5].into(),
        source_port: 40_000,
        destination: [192, 0, 2, 1].into(),
        destination_port: 443,
        nat_source: None,
        nat_source_port: None,
        nat_destination: None,
        nat_destination_port: None,
        from: format!("branch:{site}"),
        to: "handoff:internet".into(),
        class: "default".into(),
        class_by: "rule".into(),
        app: None,
        name: None,
        rule: "web-out".into(),
        dscp: 0,
        generation: 1,
        forward_path: None,
        reverse_path: None,
        tcp_state: None,
        age_secs: 1.0,
        idle_secs: 0.0,
        forward_packets: 1,
        forward_bytes: 60,
        reverse_packets: 0,
        reverse_bytes: 0,
        story: None,
    }
}

fn decision(tenant: &str, site: &str, number: u64) -> DecisionRow {
    DecisionRow {
        unix_ms: number,
        tenant: tenant.into(),
        site: site.into(),
        class: "voice".into(),
        from: "dsl".into(),
        to: "lte".into(),
        path: "dsl".into(),
        why: "down".into(),
        detail: format!("{site}/dsl is down"),
        sla: None,
        stream: None,
        measured: None,
        limit: None,
    }
}

fn measurement(tenant: &str, site: &str, number: u64) -> MeasurementRow {
    let row = serde_json::json!({
        "unix-nanos": number,
        "monotonic-nanos": number,
        "tenant": tenant,
        "site": site,
        "path": "dsl",
        "what": "recovered",
    });
    serde_json::from_value(row).expect("a measurement")
}

fn queue(tenant: &str, site: &str, number: u64) -> QueueRow {
    QueueRow {
        tenant: tenant.into(),
        site: site.into(),
        path: "dsl".into(),
        class: "voice".into(),
        weight: None,
        sent_packets: number,
        sent_bytes: number,
        queued_packets: 0,
        queued_bytes: 0,
        dropped_packets: 0,
        marked_packets: 0,
        overflowed_packets: 0,
        delay_p50_ms: None,
        delay_p95_ms: None,
    }
}

impl LedgerPort for TwoTenants {
    fn who_had(&self, asked: &AskedPort) -> std::io::Result<WhoHad> {
        let held = |tenant: &str, site: &str, number: u64| Held {
            tenant: tenant.into(),
            branch: Some(site.into()),
            inside: None,
            inside_port: None,
            protocol: None,
            first_port: asked.port,
            last_port: asked.port,
            began_unix_ms: number,
            began_unsure: false,
            ended_unix_ms: None,
            ended_unsure: false,
        };
        Ok(WhoHad { answer: report::Answer::Held, holdings: of_both(None, held), ..Ledger.who_had(asked)? })
    }

    fn state(&self) -> LedgerState {
        LedgerState { open: ALL_SESSIONS, ..LedgerState::default() }
    }
}

impl FlowsPort for TwoTenants {
    fn ask(&self, question: &FlowQuestion) -> Result<FlowAnswer, FlowProblem> {
        let columns = vec![FlowColumn { name: "tenant".into(), holds: Holding::Text }];
        let rows = of_both(question.tenant.as_deref(), |tenant, _, _| vec![Cell::Text(tenant.into())]);
        Ok(FlowAnswer { columns, rows, ..FlowAnswer::default() })
    }

    fn parquet(&self, _: &FlowAnswer) -> Result<Vec<u8>, FlowProblem> {
        Ok(Vec::new())
    }

    fn state(&self) -> FlowHistoryState {
        FlowHistoryState { bytes: ALL_SESSIONS, ..FlowHistoryState::default() }
    }
}

impl CommitPort for TwoTenants {
    fn standing(&self) -> Standing {
        Standing { problem: Some("globex".into()), ..Standing::default() }
    }

    fn ask(&self, _: Who, verb: Verb) -> Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>> {
        Box::pin(std::future::ready(Ok(reply_to(verb))))
    }
}

fn reply_to(verb: Verb) -> Reply {
    let who = Who { user: "anna".into(), from: "127.0.0.1:1".into() };
    let file = |tenant: &str| format!("tenants/{tenant}.toml");
    let texts: BTreeMap<String, String> =
        of_both(None, |tenant, site, _| (file(tenant), site.to_owned())).into_iter().collect();
    let problem = |tenant: &str, site: &str, _: u64| ProblemRow {
        file: Some(file(tenant)),
        line: Some(1),
        message: format!("rule {site} is never reached"),
    };
    let revision = |number: u64| {
        let stamp =
            Stamp { unix_ms: 1, who: who.clone(), cause: Cause::Files, comment: Some("for globex".into()) };
        let texts = texts.iter().map(|(name, text)| (name.clone(), format!("{text}{number}"))).collect();
        Revision { number, stamp, texts }
    };
    match verb {
        Verb::State => Reply::State(ConfigState {
            revision: Some(revision(2)),
            generation: 1,
            unconfirmed: None,
            on_trial: false,
            edited: of_both(None, |tenant, _, _| file(tenant)),
            candidates: of_both(None, |tenant, _, _| CandidateState {
                scope: format!("tenant:{tenant}"),
                who: who.clone(),
                unix_ms: 1,
                tag: "none".into(),
                outdated: false,
            }),
            problem: Some("globex".into()),
        }),
        Verb::Revisions => Reply::Revisions(vec![revision(2), revision(1)]),
        Verb::Texts(_) => Reply::Texts(texts),
        Verb::Compare { .. } => Reply::Compared(of_both(None, |tenant, site, _| FileDifference {
            file: file(tenant),
            added_lines: 1,
            removed_lines: 0,
            diff: format!("+{site}"),
        })),
        Verb::Check(_) => Reply::Checked(of_both(None, problem)),
        Verb::Test(_) => Reply::Tested(of_both(None, |tenant, site, _| PolicyTestRow {
            tenant: tenant.into(),
            name: site.into(),
            file: file(tenant),
            line: 1,
            failure: Some(site.into()),
        })),
        Verb::Explain { .. } => Reply::Explained(Ok(Explanation::default())),
        Verb::DryRun { tenant, .. } => Reply::DryRun(DryRun {
            sessions: if tenant.is_some() { 1 } else { ALL_SESSIONS },
            records: 0,
            changes: of_both(None, |tenant, site, number| FlowChange {
                tenant: tenant.into(),
                kind: ChangeKind::Dropped,
                now: site.into(),
                then: site.into(),
                rule: None,
                flows: number,
                sessions: number,
                bytes: number,
                examples: Vec::new(),
            }),
        }),
        Verb::Commit(..) => Reply::Committed(Committed {
            revision: 3,
            generation: 3,
            unconfirmed: None,
            warnings: of_both(None, problem),
        }),
        Verb::Confirm { .. } => Reply::Confirmed(3),
        Verb::Candidate(scope) => Reply::Candidate(Some(draft(&scope)), "none".into()),
        Verb::Put { scope, .. } => Reply::Candidate(Some(draft(&scope)), "none".into()),
        Verb::Pop => Reply::Pop(PopFacts {
            public_key: crate::config::PublicKey([9; 32]),
            transports: vec![("isp-a".into(), "192.0.2.1:51820".parse().expect("an address"))],
        }),
        Verb::Prove { .. } => Reply::Proved(true),
        Verb::Discard { .. } | Verb::Note { .. } => Reply::Done,
        Verb::Audit { tenant, .. } => {
            Reply::Audit(of_both(tenant.as_deref(), |tenant, site, number| Entry {
                unix_ms: number,
                who: who.clone(),
                action: Action::Revert,
                revision: None,
                tenant: Some(tenant.into()),
                // As the box says it: who is worse off need not be who committed.
                detail: format!("back to revision 1: {site} and oslo's canary"),
            }))
        }
    }
}

fn draft(scope: &Scope) -> Draft {
    let who = Who { user: "anna".into(), from: "127.0.0.1:1".into() };
    Draft { scope: scope.to_string(), who, unix_ms: 1, based_on: None, text: Some("a".into()) }
}
