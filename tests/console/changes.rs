//! A PoP's configuration that is not there: a line of policy that can be changed, tried, committed, confirmed and taken back. What
//! is wrong with a text, and what it does to flows, is made up; what differs is computed.

use crate::fake::explanation;
use popgate::config::{Outcome, PublicKey};
use popgate::control::audit::{Action, Entry};
use popgate::control::candidates::{Draft, Scope, tag_of};
use popgate::control::commits::{
    CandidateState, ChangeKind, CommitPort, Committed, ConfigState, DryRun, FlowChange, PolicyTestRow,
    PopFacts, ProblemRow, Refusal, Reply, Source, Standing, Verb,
};
use popgate::control::compare::compare;
use popgate::control::revisions::{Cause, Revision, Stamp, Who};
use popgate::pipeline::report::Explanation;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Texts = BTreeMap<String, String>;

/// The configuration and whoever commits.
#[derive(Clone)]
pub(crate) struct Changes {
    inner: Arc<Mutex<Inner>>,
    unix_ms: fn() -> u64,
}

struct Inner {
    /// The newest last.
    revisions: Vec<(Revision, Texts)>,
    drafts: BTreeMap<Scope, Draft>,
    confirm_by: Option<u64>,
    audit: Vec<Entry>,
}

impl Changes {
    pub(crate) fn new(unix_ms: fn() -> u64) -> Changes {
        let acme = "tenant = \"acme\"\n\n[[branch]]\nname = \"berlin\"\nprefixes = [\"10.1.0.0/16\"]\n\n[[branch]]\n\
                    name = \"lyon\"\nprefixes = [\"10.2.0.0/16\"]\n\n[[handoff]]\nname = \"internet\"\nkind = \"internet\"\n\
                    nat-pool = [\"198.51.100.0/29\"]\n\n[[app-class]]\nname = \"voice\"\nmatch = [{ dscp = \"ef\" }]\n\n\
                    [[policy-test]]\nname = \"web-passes\"\nfrom = \"10.1.0.5\"\nto = \"203.0.113.80:443\"\nprotocol = \"tcp\"\n\
                    expect = \"accept\"\n\n[[policy-test]]\nname = \"telnet-is-dropped\"\nfrom = \"10.1.0.5\"\n\
                    to = \"203.0.113.80:23\"\nprotocol = \"tcp\"\nexpect = \"drop\"\n\n\
                    [[acl]]\nname = \"web-out\"\nfrom = [\"branch:berlin\"]\nto = [\"handoff:internet\"]\nprotocol = \"tcp\"\n\
                    dst-port = [80, 443]\naction = \"accept\"\n";
        let texts = [
            (
                "popgate.toml".to_owned(),
                "site = \"fra1\"\nrole = \"pop\"\n\n[[transport]]\nname = \"isp-a\"\n".to_owned(),
            ),
            ("tenants/acme.toml".to_owned(), acme.to_owned()),
        ];
        let inner =
            Inner { revisions: Vec::new(), drafts: BTreeMap::new(), confirm_by: None, audit: Vec::new() };
        let changes = Changes { inner: Arc::new(Mutex::new(inner)), unix_ms };
        let who = Who { user: "local".into(), from: "start".into() };
        changes.inner().keep(texts.into(), who, Cause::Files, Some("the first".into()), unix_ms());
        changes
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.unix_ms)();
        if inner.confirm_by.is_some_and(|by| by <= now) {
            inner.take_back(now);
        }
        inner
    }
}

impl CommitPort for Changes {
    fn standing(&self) -> Standing {
        let inner = self.inner();
        let confirm_by_unix_ms = inner.confirm_by;
        Standing { revision: inner.last().0.number, confirm_by_unix_ms, ..Standing::default() }
    }

    fn ask(&self, who: Who, verb: Verb) -> Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>> {
        let answer = self.inner().answer(who, verb, (self.unix_ms)());
        Box::pin(std::future::ready(answer))
    }
}

impl Inner {
    fn last(&self) -> &(Revision, Texts) {
        self.revisions.last().expect("the first is made at once")
    }

    fn keep(&mut self, texts: Texts, who: Who, cause: Cause, comment: Option<String>, unix_ms: u64) {
        let number = self.revisions.len() as u64 + 1;
        let hashes = texts.iter().map(|(name, text)| (name.clone(), tag_of(Some(text)))).collect();
        let action = if matches!(cause, Cause::Unconfirmed) { Action::Revert } else { Action::Commit };
        let detail = comment.clone().unwrap_or_default();
        self.audit.push(Entry {
            unix_ms,
            who: who.clone(),
            action,
            revision: Some(number),
            tenant: None,
            detail,
        });
        let stamp = Stamp { unix_ms, who, cause, comment };
        self.revisions.push((Revision { number, stamp, texts: hashes }, texts));
    }

    fn take_back(&mut self, unix_ms: u64) {
        self.confirm_by = None;
        let before = self.revisions[self.revisions.len() - 2].1.clone();
        let who = Who { user: "popgate".into(), from: "trial".into() };
        self.keep(before, who, Cause::Unconfirmed, Some("it was not confirmed in time".into()), unix_ms);
    }

    fn texts(&self, source: &Source) -> Result<Texts, Refusal> {
        match source {
            Source::InForce | Source::Files => Ok(self.last().1.clone()),
            Source::Candidates(_) if self.drafts.is_empty() => {
                Err(Refusal::Unknown("no candidate is open".into()))
            }
            Source::Candidates(scopes) => {
                let mut texts = self.last().1.clone();
                for (scope, draft) in &self.drafts {
                    if scopes.is_empty() || scopes.contains(scope) {
                        texts.insert(scope.file(), draft.text.clone().unwrap_or_default());
                    }
                }
                Ok(texts)
            }
            Source::Back(back) => {
                let found = self.revisions.iter().rev().nth(*back).map(|(_, texts)| texts.clone());
                found.ok_or_else(|| Refusal::Unknown("there is no such revision".into()))
            }
        }
    }

    fn tag(&self, scope: &Scope) -> String {
        match self.drafts.get(scope) {
            Some(draft) => draft.tag(),
            None => tag_of(self.last().1.get(&scope.file()).map(String::as_str)),
        }
    }

    fn check(&self, source: &Source) -> Result<Texts, Refusal> {
        let texts = self.texts(source)?;
        let wrong: Vec<ProblemRow> = texts
            .iter()
            .filter(|(_, text)| text.contains("nonsense"))
            .map(|(file, text)| ProblemRow {
                file: Some(file.clone()),
                line: line_of(text, "nonsense"),
                message: "unknown key \"nonsense\"".into(),
            })
            .collect();
        if wrong.is_empty() { Ok(texts) } else { Err(Refusal::Wrong(wrong)) }
    }

    /// The same, if its policy tests pass.
    fn rehearse(&self, source: &Source) -> Result<Texts, Refusal> {
        let texts = self.check(source)?;
        let failed = policy_tests(&texts).into_iter().filter_map(|test| {
            let message = format!("policy test {:?}: {}", test.name, test.failure?);
            Some(ProblemRow { file: Some(test.file), line: Some(test.line), message })
        });
        let failed: Vec<ProblemRow> = failed.collect();
        if failed.is_empty() { Ok(texts) } else { Err(Refusal::Wrong(failed)) }
    }

    fn answer(&mut self, who: Who, verb: Verb, now: u64) -> Result<Reply, Refusal> {
        Ok(match verb {
            Verb::State => Reply::State(self.state()),
            Verb::Revisions => {
                Reply::Revisions(self.revisions.iter().rev().map(|(revision, _)| revision.clone()).collect())
            }
            Verb::Texts(source) => Reply::Texts(self.texts(&source)?),
            Verb::Compare { old, new } => Reply::Compared(compare(&self.texts(&old)?, &self.texts(&new)?)),
            Verb::Check(source) => self.rehearse(&source).map(|_| Reply::Checked(Vec::new()))?,
            Verb::Test(source) => self.check(&source).map(|texts| Reply::Tested(policy_tests(&texts)))?,
            // Its reason says where it is from.
            Verb::Explain { source, tenant, flow } => {
                Reply::Explained(explanation(&tenant, &flow).map(|it| Explanation {
                    outcome: Outcome::Drop,
                    reason: Some(source.to_string()),
                    ..it
                }))
            }
            Verb::DryRun { source, .. } => self.rehearse(&source).map(|_| Reply::DryRun(dry_run()))?,
            Verb::Commit(source, terms) => {
                let texts = self.rehearse(&source)?;
                let cause =
                    if matches!(source, Source::Back(_)) { Cause::Rollback } else { Cause::Candidate };
                self.keep(texts, who, cause, terms.comment, now);
                self.drafts.clear();
                let secs = |window: Duration| u64::try_from(window.as_millis()).expect("short");
                self.confirm_by = terms.confirm.map(|window| now + secs(window));
                let revision = self.last().0.number;
                Reply::Committed(Committed {
                    revision,
                    generation: 1,
                    unconfirmed: None,
                    warnings: Vec::new(),
                })
            }
            Verb::Confirm { .. } => {
                self.confirm_by = None;
                let revision = self.last().0.number;
                let detail = String::new();
                self.audit.push(Entry {
                    unix_ms: now,
                    who,
                    action: Action::Confirm,
                    revision: Some(revision),
                    tenant: None,
                    detail,
                });
                Reply::Confirmed(revision)
            }
            Verb::Candidate(scope) => Reply::Candidate(self.drafts.get(&scope).cloned(), self.tag(&scope)),
            Verb::Put { scope, text, expected } => {
                let tag = self.tag(&scope);
                if tag != expected {
                    return Err(Refusal::Changed(tag));
                }
                let draft = Draft { scope: scope.to_string(), who, unix_ms: now, based_on: Some(tag), text };
                self.drafts.insert(scope.clone(), draft.clone());
                Reply::Candidate(Some(draft), self.tag(&scope))
            }
            Verb::Discard { scope, .. } => {
                self.drafts.remove(&scope);
                Reply::Done
            }
            Verb::Pop => {
                let transports = vec![("isp-a".to_owned(), "192.0.2.1:51820".parse().expect("an address"))];
                Reply::Pop(PopFacts { public_key: PublicKey([9; 32]), transports })
            }
            Verb::Prove { .. } => Reply::Proved(true),
            Verb::Note { action, tenant, detail } => {
                self.audit.push(Entry { unix_ms: now, who, action, revision: None, tenant, detail });
                Reply::Done
            }
            Verb::Audit { limit, .. } => Reply::Audit(self.audit.iter().rev().take(limit).cloned().collect()),
        })
    }

    fn state(&self) -> ConfigState {
        let candidate = |(scope, draft): (&Scope, &Draft)| CandidateState {
            scope: scope.to_string(),
            who: draft.who.clone(),
            unix_ms: draft.unix_ms,
            tag: draft.tag(),
            outdated: false,
        };
        ConfigState {
            revision: Some(self.last().0.clone()),
            generation: 1,
            unconfirmed: None,
            on_trial: false,
            edited: Vec::new(),
            candidates: self.drafts.iter().map(candidate).collect(),
            problem: None,
        }
    }
}

fn dry_run() -> DryRun {
    let change = FlowChange {
        tenant: "acme".into(),
        kind: ChangeKind::Dropped,
        now: "accept by web-out".into(),
        then: "drop by night".into(),
        rule: Some("night".into()),
        flows: 31,
        sessions: 4,
        bytes: 12_400_000,
        examples: vec!["tcp 10.1.0.77:50123 -> 203.0.113.80:80".into()],
    };
    DryRun { sessions: 1_204, records: 20_000, changes: vec![change] }
}

/// The line of a text that a word stands in, counted from 1.
fn line_of(text: &str, word: &str) -> Option<usize> {
    text.lines().position(|line| line.contains(word)).map(|at| at + 1)
}

/// All of a text's pass, but that one fails where the web is denied by a rule called `no-web`.
fn policy_tests(texts: &Texts) -> Vec<PolicyTestRow> {
    let file = "tenants/acme.toml";
    let text = texts.get(file).map(String::as_str).unwrap_or_default();
    let row = |name: &str, failure: Option<&str>| {
        Some(PolicyTestRow {
            tenant: "acme".into(),
            name: name.into(),
            file: file.into(),
            line: line_of(text, name)? - 1,
            failure: failure.map(str::to_owned),
        })
    };
    let denied = "expected accept, and it is dropped by ACL rule \"no-web\" (line 19)";
    let web = text.contains("name = \"no-web\"").then_some(denied);
    [row("web-passes", web), row("telnet-is-dropped", None)].into_iter().flatten().collect()
}
