//! `/api/v1/config` and `/api/v1/audit`: what becomes of a request is a verb, and of its answer a document.

use super::*;
use crate::control::commits::{
    CommitPort, Committed, ConfigState, DryRun, ProblemRow, Refusal, Reply, Source, Standing, Terms, Verb,
};
use crate::control::revisions::Who;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Mutex;

/// Writes down what is asked, and answers each kind with the least there is; refuses what speaks of `wrong`.
#[derive(Clone, Default)]
pub(super) struct Commits(Arc<Mutex<Vec<(Who, Verb)>>>);

impl CommitPort for Commits {
    fn standing(&self) -> Standing {
        Standing { revision: 7, ..Standing::default() }
    }

    fn ask(&self, who: Who, verb: Verb) -> Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>> {
        let answer = answer(&verb);
        self.0.lock().expect("not poisoned").push((who, verb));
        Box::pin(std::future::ready(answer))
    }
}

fn answer(verb: &Verb) -> Result<Reply, Refusal> {
    let committed = Committed { revision: 7, generation: 3, unconfirmed: None, warnings: Vec::new() };
    Ok(match verb {
        Verb::State => Reply::State(ConfigState {
            revision: None,
            generation: 3,
            unconfirmed: None,
            on_trial: false,
            edited: vec!["popgate.toml".into()],
            candidates: Vec::new(),
            problem: None,
        }),
        Verb::Revisions => Reply::Revisions(Vec::new()),
        Verb::Texts(_) => Reply::Texts(BTreeMap::new()),
        Verb::Compare { .. } => Reply::Compared(Vec::new()),
        Verb::Check(Source::Back(_)) => {
            let row = ProblemRow {
                file: Some("tenants/acme.toml".into()),
                line: Some(4),
                message: "bad name".into(),
            };
            return Err(Refusal::Wrong(vec![row, ProblemRow::of_all("role: changes only with a restart")]));
        }
        Verb::Check(_) => Reply::Checked(Vec::new()),
        Verb::Explain { .. } => Reply::Explained(Ok(Explanation::default())),
        Verb::Test(_) => Reply::Tested(Vec::new()),
        Verb::DryRun { .. } => Reply::DryRun(DryRun::default()),
        Verb::Commit(Source::Candidates(_), _) => {
            return Err(Refusal::Unknown("no candidate is open".into()));
        }
        Verb::Commit(..) => Reply::Committed(committed),
        Verb::Confirm { .. } => return Err(Refusal::Conflict("nothing is to be confirmed".into())),
        Verb::Candidate(_) => Reply::Candidate(None, "none".into()),
        Verb::Put { expected, .. } if expected != "none" => return Err(Refusal::Changed("none".into())),
        Verb::Put { .. } => Reply::Candidate(None, "abc".into()),
        Verb::Pop => return Err(Refusal::Conflict("this box is a branch".into())),
        Verb::Prove { .. } => Reply::Proved(true),
        Verb::Discard { .. } | Verb::Note { .. } => Reply::Done,
        Verb::Audit { .. } => Reply::Audit(Vec::new()),
    })
}

fn server() -> (Server, Commits) {
    let commits = Commits::default();
    let way = commits.clone();
    (Server::start_with(|control| control.with_commits(way)), commits)
}

impl Commits {
    fn last(&self) -> Verb {
        self.0.lock().expect("not poisoned").last().expect("something was asked").1.clone()
    }

    fn count(&self) -> usize {
        self.0.lock().expect("not poisoned").len()
    }
}

#[test]
fn a_commit_says_what_how_and_why_and_is_told_who_asked() {
    let (server, commits) = server();
    let body = r#"{"source": "files", "confirm-secs": 120, "comment": "as agreed"}"#;
    let answer = server.send("POST", "/api/v1/config/commit", &[], body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answered: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(answered["revision"], 7);
    let terms = Terms {
        confirm: Some(Duration::from_secs(120)),
        comment: Some("as agreed".into()),
        policy_alone: false,
    };
    assert_eq!(commits.last(), Verb::Commit(Source::Files, terms));
    let who = commits.0.lock().expect("not poisoned")[0].0.clone();
    assert_eq!(who.user, "root@box");
    assert!(who.from.starts_with("127.0.0.1:"), "{who:?}");

    server.send("POST", "/api/v1/config/commit", &[], r#"{"source": "3"}"#);
    assert_eq!(commits.last(), Verb::Commit(Source::Back(3), Terms::default()));
}

#[test]
fn a_commit_that_is_not_understood_is_not_tried() {
    let (server, commits) = server();
    let bodies = [
        "",
        "{}",
        r#"{"source": "elsewhere"}"#,
        r#"{"source": "files", "confirm-secs": 0}"#,
        r#"{"source": "files", "confirm-secs": 99999999}"#,
        r#"{"source": "files", "confirm": "2m"}"#,
    ];
    for body in bodies {
        let answer = server.send("POST", "/api/v1/config/commit", &[], body);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (400, Some("application/problem+json")),
            "{body}"
        );
    }
    assert_eq!(server.get("/api/v1/config/commit").status, 405);
    assert_eq!(
        server.send("POST", "/api/v1/config/commit?source=files", &[], r#"{"source": "files"}"#).status,
        400
    );
    assert_eq!(commits.count(), 0);
}

#[test]
fn all_that_is_wrong_with_a_configuration_is_told_at_once() {
    let (server, _) = server();
    let answer = server.get("/api/v1/config/check?of=3");
    assert_eq!(answer.status, 422);
    let problem: Value = serde_json::from_str(&answer.body).expect("JSON");
    let expected = json!([
        {"file": "tenants/acme.toml", "line": 4, "message": "bad name"},
        {"file": null, "line": null, "message": "role: changes only with a restart"},
    ]);
    assert_eq!(problem["problems"], expected);
    assert_eq!(server.get("/api/v1/config/check?of=nothing").status, 400);
    assert_eq!(server.send("POST", "/api/v1/config/commit", &[], r#"{"source": "box"}"#).status, 404);
    assert_eq!(server.send("POST", "/api/v1/config/confirm", &[], "").status, 409);
}

#[test]
fn a_candidate_is_changed_only_by_who_says_which_text_they_saw() {
    let (server, commits) = server();
    let path = "/api/v1/config/candidate?scope=tenant:acme";
    let seen = server.get(path);
    assert_eq!((seen.status, seen.header("etag")), (200, Some("\"none\"")));
    assert_eq!(server.send("PUT", path, &[], r#"{"text": "a"}"#).status, 428);
    assert_eq!(server.send("PUT", path, &[("If-Match", "none")], r#"{"text": "a"}"#).status, 428);
    let stale = server.send("PUT", path, &[("If-Match", "\"old\"")], r#"{"text": "a"}"#);
    assert_eq!(stale.status, 412);
    let put = server.send("PUT", path, &[("If-Match", "\"none\"")], r#"{"text": "a"}"#);
    assert_eq!((put.status, put.header("etag")), (200, Some("\"abc\"")));
    let scope = crate::control::candidates::Scope::Tenant("acme".into());
    let expected = "none".to_owned();
    assert_eq!(commits.last(), Verb::Put { scope: scope.clone(), text: Some("a".into()), expected });
    assert_eq!(server.send("DELETE", path, &[], "").status, 428);
    assert_eq!(server.send("DELETE", path, &[("If-Match", "\"abc\"")], "").status, 204);
    assert_eq!(commits.last(), Verb::Discard { scope, expected: "abc".into() });
    assert_eq!(server.get("/api/v1/config/candidate?scope=tenant:../x").status, 400);
}

#[test]
fn without_anybody_who_commits_the_api_says_so() {
    let server = Server::start();
    let answer = server.send("POST", "/api/v1/config/commit", &[], r#"{"source": "files"}"#);
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("nobody puts configurations in force"), "{}", answer.body);
}
