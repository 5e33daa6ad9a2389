//! Commits, as the running box carries them out: one verb at a time, on the thread that owns the machine.
//!
//! A commit's way: 1 the texts, 2 checked, 3 compiled and tested, 4 written into the audit log, 5 kept as a revision, which is
//! the moment from which a restart finds the new one, 6 put in force, 7 written out into the configuration directory, 8 on
//! trial. Whatever fails before the fifth step changes nothing. Back to an earlier revision goes the other way round: it is
//! put in force first, since the box is worse off every moment it is not.

use super::check::explain_in;
use super::dry_run::{self, Flow};
use super::machine::{Machine, Prepared, addresses_for};
use crate::config::{Candidate, Documents, Pop, Problems, PublicKey, Role, providers_part, public_of};
use crate::control::Control;
use crate::control::audit::{self, Action, Audit, Entry};
use crate::control::candidates::{Candidates, Draft, Scope, tag_of};
use crate::control::commits::{
    CandidateState, CommitPort, Committed, ConfigState, PolicyTestRow, PopFacts, ProblemRow, Refusal, Reply,
    Source, Standing, Terms, UnconfirmedState, Verb,
};
use crate::control::compare::{compare, differing};
use crate::control::revisions::{Cause, InForce, Revisions, Stamp, Unconfirmed, Who};
use crate::control::trial::{Canary, Health, Trial, Verdict};
use crate::enrol::proof;
use crate::io::clock::Clock;
use crate::io::syslog;
use crate::pipeline::report::{CanaryRow, FlowFilter, PathState};
use crate::pipeline::{Rehearsed, rehearse, rehearse_all};
use crate::store::whole;
use crate::tables::{Compiler, Generation};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Verbs that wait: people press no faster.
const QUEUE: usize = 16;
/// Measurements of before a commit: half a minute, one each time [`Commits::sample`] is called.
const SAMPLES: usize = 10;
/// How long workers may take to tell how the box stands.
const PATIENCE: Duration = Duration::from_secs(2);
/// Probes of a canary before a commit, of which one is answered if it is to count.
const CANARY_TRIES: usize = 2;
/// Between looks whether they have been.
const CANARY_PAUSE: Duration = Duration::from_millis(20);
/// Flows of a kind that a dry run asks about: 20,000 sessions are answered in less than a second.
const DRY_RUN_FLOWS: usize = 20_000;

type Texts = BTreeMap<String, String>;
type Canaries = BTreeMap<String, Canary>;
type Answer = Result<Reply, Refusal>;

/// A verb under way.
pub(super) struct Asked {
    who: Who,
    verb: Verb,
    reply: oneshot::Sender<Answer>,
}

/// The way in, and what is in sight from there.
struct Port {
    sender: mpsc::Sender<Asked>,
    standing: SharedStanding,
}

type SharedStanding = Arc<ArcSwap<Standing>>;

/// What comes in.
pub(super) struct Desk {
    pub(super) verbs: mpsc::Receiver<Asked>,
    standing: SharedStanding,
}

/// The two ends of that way.
pub(super) fn port() -> (impl CommitPort + 'static, Desk) {
    let (sender, verbs) = mpsc::channel(QUEUE);
    let standing = SharedStanding::default();
    (Port { sender, standing: Arc::clone(&standing) }, Desk { verbs, standing })
}

impl CommitPort for Port {
    fn standing(&self) -> Standing {
        self.standing.load().as_ref().clone()
    }

    fn ask(&self, who: Who, verb: Verb) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let sender = self.sender.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let gone = || Refusal::Failed("the box is stopping".to_owned());
            sender.send(Asked { who, verb, reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }
}

/// What is kept of the configuration on disk.
pub(super) struct Books {
    revisions: Revisions,
    candidates: Candidates,
    audit: Audit,
}

impl Books {
    /// Opens them in `state_dir`. Revisions that cannot be read are moved aside: a box is to start.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn open(state_dir: &Path, clock: Clock) -> io::Result<Books> {
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        let revisions = Revisions::open(state_dir).or_else(|error| {
            let aside = Revisions::set_aside(state_dir, unix_millis(clock))?;
            tracing::error!(%error, aside = %aside.display(), "the configuration's revisions cannot be read: they are moved aside");
            Revisions::open(state_dir)
        })?;
        Ok(Books { revisions, candidates: Candidates::open(state_dir)?, audit: Audit::open(state_dir)? })
    }
}

/// The configuration a box begins with.
pub(super) struct Beginning {
    pub(super) candidate: Candidate,
    pub(super) legacy: Legacy,
}

/// What [`Commits`] takes over of it.
pub(super) struct Legacy {
    texts: Texts,
    books: Books,
    /// What is to be kept once it is in force.
    revision: Option<(Cause, String)>,
}

/// Finds the configuration to begin with: what is in force, unless files were edited meanwhile and are whole, or nobody
/// confirmed it in time.
///
/// # Errors
/// For the operator: nothing is in force yet, and the files are wrong; or the disk's.
pub(super) fn begin(dir: &Path, clock: Clock) -> Result<Beginning, Box<dyn std::error::Error>> {
    let files = Documents::read(dir);
    let state_dir = files.state_dir();
    let books =
        Books::open(&state_dir, clock).map_err(|error| format!("{}: {error}", state_dir.display()))?;
    let Some(in_force) = books.revisions.in_force() else {
        let candidate = files.check(dir)?;
        let texts = files.texts().unwrap_or_default();
        return Ok(beginning(candidate, texts, books, Some((Cause::Files, "the first".into()))));
    };
    let overdue = in_force.unconfirmed.filter(|it| remaining(it, unix_millis(clock)).is_zero());
    if let Some(unconfirmed) = overdue {
        match kept(&books, dir, unconfirmed.back_to) {
            Ok((candidate, texts)) => {
                let why = format!("revision {} was not confirmed in time", in_force.revision);
                return Ok(beginning(candidate, texts, books, Some((Cause::Unconfirmed, why))));
            }
            Err(error) => tracing::error!("revision {} cannot come back: {error}", unconfirmed.back_to),
        }
    }
    let last = kept(&books, dir, in_force.revision);
    // Until it is confirmed and written out, the files are behind it.
    let files_count = in_force.written_out && in_force.unconfirmed.is_none();
    let edited = files_count && last.as_ref().ok().map(|(_, texts)| texts) != files.texts().as_ref();
    let taken = if edited || last.is_err() { Some(files.check(dir)) } else { None };
    match (taken, last) {
        (Some(Ok(candidate)), _) => {
            let texts = files.texts().unwrap_or_default();
            let revision = Some((Cause::Files, "edited while the box was down".to_owned()));
            Ok(beginning(candidate, texts, books, revision))
        }
        (Some(Err(problems)), Ok((candidate, texts))) => {
            tracing::error!(
                "the files are not taken over, revision {} stays:\n{problems}",
                in_force.revision
            );
            Ok(beginning(candidate, texts, books, None))
        }
        (None, Ok((candidate, texts))) => Ok(beginning(candidate, texts, books, None)),
        (Some(Err(problems)), Err(_)) => Err(problems.into()),
        (None, Err(error)) => Err(error.into()),
    }
}

fn beginning(
    candidate: Candidate,
    texts: Texts,
    books: Books,
    revision: Option<(Cause, String)>,
) -> Beginning {
    Beginning { candidate, legacy: Legacy { texts, books, revision } }
}

/// A revision, checked as it would be today.
fn kept(books: &Books, dir: &Path, number: u64) -> Result<(Candidate, Texts), String> {
    let documents = books.revisions.documents(number).map_err(|error| error.to_string())?;
    let candidate = documents.check(dir).map_err(|problems| problems.to_string())?;
    Ok((candidate, documents.texts().unwrap_or_default()))
}

/// How long a commit may still be confirmed, whatever the clock did meanwhile.
fn remaining(unconfirmed: &Unconfirmed, now_unix_ms: u64) -> Duration {
    let left = unconfirmed.deadline_unix_ms.saturating_sub(now_unix_ms);
    Duration::from_millis(left.min(unconfirmed.window_ms))
}

/// A configuration on trial, and what comes back if it fails.
struct OnTrial {
    trial: Trial,
    back_to: u64,
    /// Not there after a restart: then it is read from the disk.
    before: Option<Candidate>,
}

/// Whoever carries the verbs out.
pub(super) struct Commits {
    pub(super) machine: Machine,
    books: Books,
    dir: PathBuf,
    control: Arc<Control>,
    clock: Clock,
    /// The texts in force.
    texts: Texts,
    on_trial: Option<OnTrial>,
    /// How the box stood of late: counters alone.
    samples: VecDeque<Health>,
    problem: Option<String>,
    /// How all of this stands, for whoever looks.
    standing: SharedStanding,
    /// What is in force and could not be kept.
    owed: Option<Owed>,
}

/// What is still to be kept of a configuration that is in force: who made it, why, and what is to be said of it.
struct Owed {
    who: Who,
    cause: Cause,
    detail: String,
    /// The audit log has it.
    noted: bool,
}

impl Commits {
    /// Takes over a box that has begun.
    pub(super) fn new(
        legacy: Legacy,
        desk: &Desk,
        machine: Machine,
        dir: PathBuf,
        control: Arc<Control>,
        clock: Clock,
    ) -> Commits {
        let Legacy { texts, books, revision } = legacy;
        let (on_trial, samples, problem, owed) = (None, VecDeque::new(), None, None);
        let mut commits = Commits {
            machine,
            books,
            dir,
            control,
            clock,
            texts,
            on_trial,
            samples,
            problem,
            owed,
            standing: Arc::clone(&desk.standing),
        };
        match revision {
            Some((cause, detail)) => {
                let who = Who { user: "popgate".into(), from: "start".into() };
                commits.keep(Owed { who, cause, detail, noted: false });
            }
            None => commits.go_on_with_trial(),
        }
        commits.write_out();
        commits.show();
        commits
    }

    /// Puts in sight how things stand now.
    fn show(&self) {
        let in_force = self.books.revisions.in_force();
        self.standing.store(Arc::new(Standing {
            revision: in_force.map_or(0, |it| it.revision),
            confirm_by_unix_ms: self.unconfirmed().map(|it| it.deadline_unix_ms),
            on_trial: self.on_trial.is_some(),
            problem: self.problem.clone(),
        }));
    }

    fn go_on_with_trial(&mut self) {
        let Some(unconfirmed) = self.books.revisions.in_force().and_then(|it| it.unconfirmed) else { return };
        let guard = self.machine.candidate.appliance.commit_guard;
        let left = remaining(&unconfirmed, unix_millis(self.clock));
        let trial = Trial::begin(guard, &[], Some(left), self.clock.now().instant);
        tracing::warn!(seconds = left.as_secs(), "the configuration in force is still to be confirmed");
        self.on_trial = Some(OnTrial { trial, back_to: unconfirmed.back_to, before: None });
    }

    /// Carries out a verb that came by the port.
    pub(super) async fn answer(&mut self, asked: Asked) {
        let Asked { who, verb, reply } = asked;
        if let Verb::DryRun { source, tenant } = verb {
            self.dry_run(&source, tenant, reply).await;
            return;
        }
        let answer = self.carry_out(who, verb).await;
        self.show();
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    /// SIGHUP: the files as they are now.
    pub(super) async fn reload(&mut self) {
        let who = Who { user: "local".into(), from: "SIGHUP".into() };
        match self.commit(who, &Source::Files, Terms::default()).await {
            Ok(_) => {}
            Err(refusal) => tracing::error!(
                "the configuration is not taken over, the old one stays:\n{}",
                describe(&refusal)
            ),
        }
        self.show();
    }

    async fn carry_out(&mut self, who: Who, verb: Verb) -> Answer {
        match verb {
            Verb::State => Ok(Reply::State(self.state())),
            Verb::Revisions => {
                Ok(Reply::Revisions(self.books.revisions.list().into_iter().cloned().collect()))
            }
            Verb::Texts(source) => self.texts_of(&source).map(Reply::Texts),
            Verb::Compare { old, new } => {
                Ok(Reply::Compared(compare(&self.texts_of(&old)?, &self.texts_of(&new)?)))
            }
            Verb::Check(source) => {
                let candidate = self.documents(&source)?.check(&self.dir).map_err(wrong)?;
                self.rehearsed(&candidate).await.map(|(_, warnings)| Reply::Checked(warnings))
            }
            Verb::Test(source) => {
                let candidate = self.documents(&source)?.check(&self.dir).map_err(wrong)?;
                let rehearsed = rehearse_all(&candidate, &self.compiled(&candidate).await?);
                Ok(Reply::Tested(rehearsed.into_iter().map(policy_test_row).collect()))
            }
            Verb::Explain { source, tenant, flow } => {
                let candidate = self.documents(&source)?.check(&self.dir).map_err(wrong)?;
                let generation = self.compiled(&candidate).await?;
                Ok(Reply::Explained(explain_in(&generation, &tenant, &flow)))
            }
            // It is answered from another thread.
            Verb::DryRun { .. } => Err(Refusal::Failed("a dry run is no step of the box's own".to_owned())),
            Verb::Commit(source, terms) => self.commit(who, &source, terms).await.map(Reply::Committed),
            Verb::Confirm { tenant } => self.confirm(who, tenant.as_deref()).map(Reply::Confirmed),
            Verb::Candidate(scope) => {
                let tag = self.tag(&scope);
                Ok(Reply::Candidate(self.books.candidates.get(&scope).cloned(), tag))
            }
            Verb::Put { scope, text, expected } => self.put(who, scope, text, &expected),
            Verb::Discard { scope, expected } => self.discard(who, &scope, &expected),
            Verb::Audit { limit, tenant } => {
                let state_dir = &self.machine.candidate.appliance.state_dir;
                let verified = audit::verify(state_dir).map_err(failed)?;
                let broken = |it| Refusal::Failed(format!("the audit log is not what was written: {it}"));
                let entries = verified.map_err(broken)?.entries.into_iter().rev();
                let is_asked = |entry: &Entry| tenant.is_none() || entry.tenant == tenant;
                Ok(Reply::Audit(entries.filter(is_asked).take(limit).collect()))
            }
            Verb::Pop => {
                let transports = &self.machine.candidate.appliance.transports;
                let transports = transports.iter().map(|it| (it.name.clone(), it.listen)).collect();
                Ok(Reply::Pop(PopFacts { public_key: public_of(&self.pop()?.private_key), transports }))
            }
            Verb::Prove { said, proofs } => {
                let pop = self.pop()?;
                let holds =
                    |(key, proof): &(PublicKey, Vec<u8>)| proof::holds(&pop.private_key, key, &said, proof);
                Ok(Reply::Proved(proofs.iter().all(holds)))
            }
            Verb::Note { action, tenant, detail } => {
                self.note(who, action, None, tenant, &detail).map_err(failed)?;
                Ok(Reply::Done)
            }
        }
    }

    /// This box, if it is a PoP.
    fn pop(&self) -> Result<&Pop, Refusal> {
        match &self.machine.candidate.appliance.role {
            Role::Pop(pop) => Ok(pop),
            Role::Branch(_) => Err(Refusal::Conflict("this box is a branch: a PoP makes codes".to_owned())),
        }
    }

    // --- what there is

    fn state(&self) -> ConfigState {
        let revisions = &self.books.revisions;
        let files = Documents::read(&self.dir).texts().unwrap_or_default();
        let candidate = |(scope, draft): (&Scope, &Draft)| CandidateState {
            scope: scope.to_string(),
            who: draft.who.clone(),
            unix_ms: draft.unix_ms,
            tag: draft.tag(),
            outdated: draft.based_on.clone() != self.texts.get(&scope.file()).map(|it| tag_of(Some(it))),
        };
        ConfigState {
            revision: revisions.back(0).cloned(),
            generation: self.machine.current.load().number,
            unconfirmed: self.unconfirmed(),
            on_trial: self.on_trial.is_some(),
            edited: differing(&self.texts, &files).cloned().collect(),
            candidates: self.books.candidates.all().map(candidate).collect(),
            problem: self.problem.clone(),
        }
    }

    fn unconfirmed(&self) -> Option<UnconfirmedState> {
        let by = self.on_trial.as_ref()?.trial.confirm_by()?;
        let unconfirmed = self.books.revisions.in_force()?.unconfirmed?;
        Some(UnconfirmedState {
            deadline_unix_ms: unconfirmed.deadline_unix_ms,
            remaining_ms: u64::try_from(by.since(self.clock.now().instant).as_millis()).unwrap_or(u64::MAX),
            back_to: unconfirmed.back_to,
        })
    }

    fn documents(&self, source: &Source) -> Result<Documents, Refusal> {
        match source {
            Source::InForce => Documents::from_texts(self.texts.clone()).map_err(Refusal::Failed),
            Source::Files => Ok(Documents::read(&self.dir)),
            Source::Candidates(scopes) => {
                let in_force = Documents::from_texts(self.texts.clone()).map_err(Refusal::Failed)?;
                self.drafts(scopes)?.into_iter().try_fold(in_force, |documents, (scope, draft)| {
                    Ok(documents.with(&scope.file(), draft.text.clone()))
                })
            }
            Source::Back(back) => {
                let revision = self.books.revisions.back(*back);
                let revision = revision.ok_or_else(|| {
                    Refusal::Unknown(format!("there is no revision {back} before the one in force"))
                })?;
                self.books.revisions.documents(revision.number).map_err(failed)
            }
        }
    }

    fn drafts(&self, scopes: &[Scope]) -> Result<Vec<(Scope, &Draft)>, Refusal> {
        let candidates = &self.books.candidates;
        if scopes.is_empty() {
            let all: Vec<_> = candidates.all().map(|(scope, draft)| (scope.clone(), draft)).collect();
            return if all.is_empty() {
                Err(Refusal::Unknown("no candidate is open".into()))
            } else {
                Ok(all)
            };
        }
        let open = |scope: &Scope| {
            let draft = candidates.get(scope).map(|draft| (scope.clone(), draft));
            draft.ok_or_else(|| Refusal::Unknown(format!("no candidate of {scope} is open")))
        };
        scopes.iter().map(open).collect()
    }

    fn texts_of(&self, source: &Source) -> Result<Texts, Refusal> {
        let documents = self.documents(source)?;
        // What is wrong with one that cannot be read, the check says.
        documents.texts().ok_or_else(|| match documents.check(&self.dir) {
            Err(problems) => wrong(problems),
            Ok(_) => Refusal::Failed("a file cannot be read".to_owned()),
        })
    }

    // --- checking

    /// What would be in force, without the names it would use up.
    async fn compiled(&self, candidate: &Candidate) -> Result<Generation, Refusal> {
        let lasting = self.machine.needs_restart(candidate);
        if !lasting.is_empty() {
            return Err(Refusal::Wrong(lasting));
        }
        let mut compiler = Compiler::new("check-");
        compiler.know_addresses(addresses_for(candidate).await.unwrap_or_default());
        compiler.compile(candidate).map_err(|error| failed(error.to_string()))
    }

    /// The same, if its policy tests pass; what is not wrong with it but not meant.
    async fn rehearsed(&self, candidate: &Candidate) -> Result<(Generation, Vec<ProblemRow>), Refusal> {
        let generation = self.compiled(candidate).await?;
        let broken = rehearse(candidate, &generation);
        if !broken.is_empty() {
            return Err(Refusal::Wrong(broken.iter().map(ProblemRow::from).collect()));
        }
        let warnings = generation.unreachable_rules().iter().map(ProblemRow::from).collect();
        Ok((generation, warnings))
    }

    /// Answers from a thread of its own: a busy box has many sessions, and a commit may have to be confirmed meanwhile.
    async fn dry_run(&self, source: &Source, tenant: Option<String>, reply: oneshot::Sender<Answer>) {
        let then = match self.documents(source).map(|documents| documents.check(&self.dir)) {
            Ok(Ok(candidate)) => self.rehearsed(&candidate).await.map(|(generation, _)| generation),
            Ok(Err(problems)) => Err(wrong(problems)),
            Err(refusal) => Err(refusal),
        };
        let (now, control) = (self.machine.current.load_full(), Arc::clone(&self.control));
        tokio::spawn(async move {
            let answer = async {
                let then = then?;
                let filter = FlowFilter { tenant: tenant.clone(), ..FlowFilter::default() };
                let asked = control.sessions(filter.clone(), DRY_RUN_FLOWS, patience()).await;
                let sessions = asked.map_err(|error| failed(error.to_string()))?.sessions;
                let mut flows: Vec<Flow> = sessions.iter().map(Flow::from).collect();
                let (asked, recent) = (Arc::clone(&control), Arc::clone(&control));
                let history = move || asked.history().map(|history| history.ask(&dry_run::question(tenant)));
                // What is in memory does where no history is kept, or it takes too long to read.
                match tokio::task::spawn_blocking(history).await {
                    Ok(Some(Ok(answer))) => flows.extend(dry_run::recorded(&answer)),
                    _ => {
                        let records = recent.flows(&filter, DRY_RUN_FLOWS).flows;
                        flows.extend(records.iter().map(Flow::from));
                    }
                }
                let run = tokio::task::spawn_blocking(move || dry_run::run(&now, &then, &flows));
                run.await.map(Reply::DryRun).map_err(|error| failed(error.to_string()))
            };
            let _ = reply.send(answer.await);
        });
    }

    // --- candidates

    /// The tag of what a new text would take the place of.
    fn tag(&self, scope: &Scope) -> String {
        match self.books.candidates.get(scope) {
            Some(draft) => draft.tag(),
            None => tag_of(self.texts.get(&scope.file()).map(String::as_str)),
        }
    }

    fn expect(&self, scope: &Scope, expected: &str) -> Result<(), Refusal> {
        let tag = self.tag(scope);
        if tag == expected { Ok(()) } else { Err(Refusal::Changed(tag)) }
    }

    fn put(&mut self, who: Who, scope: Scope, text: Option<String>, expected: &str) -> Answer {
        self.expect(&scope, expected)?;
        if text.is_none() && scope == Scope::Appliance {
            return Err(Refusal::Conflict("a box has a popgate.toml".to_owned()));
        }
        let based_on = match self.books.candidates.get(&scope) {
            Some(draft) => draft.based_on.clone(),
            None => self.texts.get(&scope.file()).map(|text| tag_of(Some(text))),
        };
        let unix_ms = unix_millis(self.clock);
        let draft = Draft { scope: scope.to_string(), who: who.clone(), unix_ms, based_on, text };
        self.note(who, Action::Edit, None, scope.tenant(), &scope.to_string()).map_err(failed)?;
        self.books.candidates.put(scope.clone(), draft.clone()).map_err(failed)?;
        let tag = draft.tag();
        Ok(Reply::Candidate(Some(draft), tag))
    }

    fn discard(&mut self, who: Who, scope: &Scope, expected: &str) -> Answer {
        self.drafts(std::slice::from_ref(scope))?;
        self.expect(scope, expected)?;
        self.note(who, Action::Discard, None, scope.tenant(), &scope.to_string()).map_err(failed)?;
        self.books.candidates.remove(scope).map_err(failed)?;
        Ok(Reply::Done)
    }

    // --- commit

    /// A tenant's own user changes its policy, and nothing of what it has of the box.
    fn refuse_providers_part<'f>(
        &self,
        changed: impl Iterator<Item = &'f str>,
        texts: &BTreeMap<String, String>,
    ) -> Result<(), Refusal> {
        for file in changed {
            let keys = match (self.texts.get(file), texts.get(file)) {
                (Some(old), Some(new)) => providers_part(old, new),
                _ => vec!["tenant"],
            };
            if !keys.is_empty() {
                let keys = keys.join(", ");
                let why =
                    format!("{file}: {keys}: whoever runs the box says that, and a tenant's user its policy");
                return Err(Refusal::Forbidden(why));
            }
        }
        Ok(())
    }

    async fn commit(&mut self, who: Who, source: &Source, terms: Terms) -> Result<Committed, Refusal> {
        let waiting = self.books.revisions.in_force().and_then(|it| it.unconfirmed);
        if waiting.is_some() && !matches!(source, Source::Back(_)) {
            let what = "the revision in force is still to be confirmed: confirm it, or roll back, first";
            return Err(Refusal::Conflict(what.to_owned()));
        }
        let documents = self.documents(source)?;
        let candidate = documents.check(&self.dir).map_err(wrong)?;
        let texts = documents.texts().ok_or_else(|| failed("a file cannot be read"))?;
        let files = *source == Source::Files;
        let differences = compare(&self.texts, &texts);
        if differences.is_empty() && (!files || terms.confirm.is_some()) {
            return Err(Refusal::Conflict("nothing differs from what is in force".to_owned()));
        }
        if terms.policy_alone {
            let changed = differences.iter().map(|it| it.file.as_str());
            self.refuse_providers_part(changed, &texts)?;
        }
        if !files {
            self.refuse_over_edits(differences.iter().map(|it| it.file.as_str()))?;
        }
        let prepared = self.machine.prepare(candidate).await?;
        let warnings = prepared.warnings();
        if differences.is_empty() {
            // Key files and certificates, which the texts name, may be others now.
            self.machine.put_in_force(prepared).await.map_err(failed)?;
            return Ok(self.committed(warnings));
        }
        let canaries = self.canaries_before().await.unwrap_or_default();
        let before = self.health(canaries).await;
        let counts = |it: &crate::control::compare::FileDifference| {
            format!("{} +{} -{}", it.file, it.added_lines, it.removed_lines)
        };
        let detail: Vec<String> = differences.iter().map(counts).collect();
        let detail = detail.join(", ");
        let next = self.books.revisions.in_force().map_or(1, |it| it.revision + 1);
        let tenant = Scope::only_tenant(differences.iter().map(|it| it.file.as_str()));
        self.note(who.clone(), Action::Commit, Some(next), tenant.clone(), &detail).map_err(failed)?;
        let cause = match source {
            Source::Files | Source::InForce => Cause::Files,
            Source::Candidates(_) => Cause::Candidate,
            Source::Back(_) => Cause::Rollback,
        };
        let unix_ms = unix_millis(self.clock);
        let back_to = next - 1;
        let unconfirmed = terms.confirm.map(|window| {
            let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
            Unconfirmed { deadline_unix_ms: unix_ms.saturating_add(window_ms), window_ms, back_to }
        });
        let stamp = Stamp { unix_ms, who: who.clone(), cause, comment: terms.comment };
        let kept = self.books.revisions.commit(&texts, stamp, files, unconfirmed);
        if let Err(error) = kept {
            let _ = self.note(who, Action::CommitFailed, Some(next), tenant, &error.to_string());
            return Err(failed(error));
        }
        // This one takes the place of what was still to be kept.
        self.owed = None;
        let old = self.machine.candidate.clone();
        self.texts = texts;
        self.machine.put_in_force(prepared).await.map_err(failed)?;
        if let Source::Candidates(scopes) = source {
            self.settle_drafts(scopes);
        }
        self.write_out();
        let now = self.clock.now().instant;
        let before: Vec<Health> = self.samples.iter().cloned().chain(before).collect();
        let guard = self.machine.candidate.appliance.commit_guard;
        let trial = Trial::begin(guard, &before, terms.confirm, now);
        self.on_trial = Some(OnTrial { trial, back_to, before: Some(old) });
        Ok(self.committed(warnings))
    }

    fn committed(&self, warnings: Vec<ProblemRow>) -> Committed {
        Committed {
            revision: self.books.revisions.in_force().map_or(0, |it| it.revision),
            generation: self.machine.current.load().number,
            unconfirmed: self.unconfirmed(),
            warnings,
        }
    }

    /// What somebody edited on the box, and did not commit, is not written over.
    fn refuse_over_edits<'a>(&self, mut changed: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
        // While it is not written out, the files are behind, and nobody's.
        if self.books.revisions.in_force().is_some_and(|it| !it.written_out) {
            return Ok(());
        }
        let files = Documents::read(&self.dir);
        let edited = changed.find(|name| files.text(name) != self.texts.get(*name).map(String::as_str));
        match edited {
            None => Ok(()),
            Some(name) => Err(Refusal::Conflict(format!(
                "{name} was edited on the box and not committed: commit the files, or put it back, first"
            ))),
        }
    }

    fn settle_drafts(&mut self, scopes: &[Scope]) {
        let all = || self.books.candidates.all().map(|(scope, _)| scope.clone()).collect();
        let scopes: Vec<Scope> = if scopes.is_empty() { all() } else { scopes.to_vec() };
        for scope in scopes {
            if let Err(error) = self.books.candidates.remove(&scope) {
                tracing::error!(%error, "the candidate of {scope} is committed, and cannot be taken away");
            }
        }
    }

    fn confirm(&mut self, who: Who, by_tenant: Option<&str>) -> Result<u64, Refusal> {
        let in_force = self.books.revisions.in_force();
        let waiting = in_force.filter(|it| it.unconfirmed.is_some());
        let Some(InForce { revision, .. }) = waiting else {
            return Err(Refusal::Conflict("nothing is to be confirmed".to_owned()));
        };
        let tenant = self.changed_tenant();
        if by_tenant.is_some() && tenant.as_deref() != by_tenant {
            return Err(Refusal::Conflict(
                "what waits to be confirmed is not of this tenant alone".to_owned(),
            ));
        }
        self.note(who, Action::Confirm, Some(revision), tenant, "").map_err(failed)?;
        self.books.revisions.confirm().map_err(failed)?;
        if let Some(on_trial) = &mut self.on_trial {
            on_trial.trial.confirm();
        }
        tracing::info!(revision, "the configuration is confirmed");
        Ok(revision)
    }

    /// The tenant that the revision in force changed, if it changed nothing else.
    fn changed_tenant(&self) -> Option<String> {
        let (last, before) = (self.books.revisions.back(0)?, self.books.revisions.back(1)?);
        Scope::only_tenant(differing(&before.texts, &last.texts).map(String::as_str))
    }

    // --- trial

    /// To be called every few seconds: how the box stands while nothing happens.
    pub(super) async fn sample(&mut self) {
        if let (None, Ok(status)) = (&self.on_trial, self.control.status(patience()).await) {
            let counters = Health {
                forwarded_packets: status.totals.forwarded_packets,
                dropped_packets: status.totals.dropped_packets,
                ..Health::default()
            };
            self.samples.push_back(counters);
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
        if let Some(owed) = self.owed.take() {
            self.keep(owed);
        }
        self.write_out();
        self.show();
    }

    /// Whether a commit is on trial, so that [`Commits::watch`] is to be called every second.
    pub(super) fn is_watching(&self) -> bool {
        self.on_trial.is_some()
    }

    /// Looks how the box stands, and takes the commit back if that is to be.
    pub(super) async fn watch(&mut self) {
        // Workers that do not answer are no better off with another configuration.
        let health = match self.canaries(true).await {
            Some((canaries, _)) => self.health(canaries).await,
            None => None,
        };
        let now = self.clock.now().instant;
        let Some(on_trial) = &mut self.on_trial else { return };
        let overdue = on_trial.trial.confirm_by().is_some_and(|by| by <= now);
        let verdict = match health {
            Some(health) => on_trial.trial.judge(&health, now),
            None if overdue => Verdict::Unconfirmed,
            None => Verdict::Wait,
        };
        match verdict {
            Verdict::Wait => {}
            Verdict::Stays => self.on_trial = None,
            Verdict::Unconfirmed => self.revert(Cause::Unconfirmed, "it was not confirmed in time").await,
            Verdict::Worse(why) => self.revert(Cause::Guard, &why).await,
        }
        self.show();
    }

    async fn health(&self, canaries: Canaries) -> Option<Health> {
        let status = self.control.status(patience()).await.ok()?;
        let paths = self.control.paths(None, patience()).await.ok()?;
        let name =
            |it: &crate::pipeline::report::PathReport| format!("{}/{}/{}", it.tenant, it.site, it.path);
        let up = paths.iter().filter(|path| path.state == PathState::Up).map(name).collect();
        Some(Health {
            tunnels: paths.iter().map(name).collect(),
            up,
            forwarded_packets: status.totals.forwarded_packets,
            dropped_packets: status.totals.dropped_packets,
            canaries,
        })
    }

    /// How canaries stand, each of them sent a probe first, if that is to be; and whether probes are under way.
    async fn canaries(&self, probe: bool) -> Option<(Canaries, bool)> {
        let rows = self.control.canaries(probe, patience()).await.ok()?;
        let under_way = rows.iter().any(|row| row.under_way);
        let canary = |row: CanaryRow| {
            let canary = Canary { target: row.target, answers: row.answers };
            (format!("{} of {}", row.canary, row.tenant), canary)
        };
        Some((rows.into_iter().map(canary).collect(), under_way))
    }

    /// How they stand before a commit: each is asked and waited for, and once more where one is silent, for one probe may be
    /// lost.
    async fn canaries_before(&self) -> Option<Canaries> {
        let mut known = Canaries::new();
        for _ in 0..CANARY_TRIES {
            let (mut canaries, mut under_way) = self.canaries(true).await?;
            while under_way {
                tokio::time::sleep(CANARY_PAUSE).await;
                (canaries, under_way) = self.canaries(false).await?;
            }
            for (name, canary) in canaries {
                let answers = canary.answers;
                known.entry(name).or_insert(canary).answers |= answers;
            }
            if known.values().all(|canary| canary.answers) {
                break;
            }
        }
        Some(known)
    }

    async fn revert(&mut self, cause: Cause, why: &str) {
        let Some(OnTrial { back_to, before, .. }) = self.on_trial.take() else { return };
        tracing::error!("the configuration is taken back: {why}");
        let read = self.books.revisions.documents(back_to);
        let texts = read.as_ref().ok().and_then(Documents::texts);
        let candidate = before.or_else(|| read.ok()?.check(&self.dir).ok());
        let (Some(candidate), Some(texts)) = (candidate, texts) else {
            tracing::error!("revision {back_to} cannot be read: the configuration stays as it is");
            return;
        };
        let prepared: Result<Prepared, Refusal> = self.machine.prepare(candidate).await;
        let done = match prepared {
            Ok(prepared) => self.machine.put_in_force(prepared).await,
            Err(refusal) => Err(describe(&refusal)),
        };
        if let Err(error) = done {
            tracing::error!("the configuration stays as it is: {error}");
            return;
        }
        self.texts = texts;
        let who = Who { user: "popgate".into(), from: "trial".into() };
        let detail = format!("back to revision {back_to}: {why}");
        self.keep(Owed { who, cause, detail, noted: false });
        self.write_out();
    }

    // --- the disk

    /// Keeps what is in force already. Where that cannot be done, the box goes on, says so, and tries again.
    fn keep(&mut self, mut owed: Owed) {
        if let Err(problem) = self.try_to_keep(&mut owed) {
            tracing::error!("the configuration in force cannot be kept: {problem}");
            self.problem = Some(problem);
            self.owed = Some(owed);
        }
    }

    fn try_to_keep(&mut self, owed: &mut Owed) -> Result<(), String> {
        let Owed { who, cause, detail, noted } = owed;
        let files = *cause == Cause::Files;
        if !*noted {
            let next = self.books.revisions.in_force().map_or(1, |it| it.revision + 1);
            let action = if files { Action::Commit } else { Action::Revert };
            let hashes = self.texts.iter().map(|(name, text)| (name.clone(), tag_of(Some(text)))).collect();
            let before = self.books.revisions.back(0).map(|revision| revision.texts.clone());
            let before = before.unwrap_or_default();
            let tenant = Scope::only_tenant(differing(&before, &hashes).map(String::as_str));
            self.note(who.clone(), action, Some(next), tenant, detail)?;
            *noted = true;
        }
        let unix_ms = unix_millis(self.clock);
        let stamp = Stamp { unix_ms, who: who.clone(), cause: *cause, comment: Some(detail.clone()) };
        self.books.revisions.commit(&self.texts, stamp, files, None).map_err(|error| error.to_string())?;
        self.problem = None;
        Ok(())
    }

    fn note(
        &mut self,
        who: Who,
        action: Action,
        revision: Option<u64>,
        tenant: Option<String>,
        detail: &str,
    ) -> Result<(), String> {
        let unix_ms = unix_millis(self.clock);
        let entry = Entry { unix_ms, who, action, revision, tenant, detail: detail.to_owned() };
        let added = self.books.audit.add(&entry).map_err(|error| format!("the audit log: {error}"));
        let appliance = &self.machine.candidate.appliance;
        if let (Ok(hash), Some(collector)) = (&added, appliance.audit_syslog)
            && let Err(error) = syslog::send(collector, &audit::syslog(&entry, hash, &appliance.site))
        {
            tracing::warn!(%error, %collector, "an entry of the audit log could not be sent");
        }
        self.problem = added.as_ref().err().cloned();
        added.map(drop)
    }

    /// Makes the files in the configuration directory those in force, as far as these differ from the revision before.
    fn write_out(&mut self) {
        if self.owed.is_some() || self.books.revisions.in_force().is_none_or(|it| it.written_out) {
            return;
        }
        let before = self.texts_of(&Source::Back(1)).unwrap_or_default();
        let written = differing(&before, &self.texts)
            .map(|name| write_file(&self.dir, name, self.texts.get(name)))
            .collect::<io::Result<Vec<()>>>()
            .and_then(|_| self.books.revisions.set_written_out());
        if let Err(error) = written {
            let dir = self.dir.display();
            tracing::error!("the files in {dir} are behind what is in force, and cannot be written: {error}");
            self.problem = Some(format!("{dir}: {error}"));
        }
    }
}

/// Writes a file of the configuration, or takes it away; whole or not at all, and as open to others as it was.
fn write_file(dir: &Path, name: &str, text: Option<&String>) -> io::Result<()> {
    let path = dir.join(name);
    let Some(text) = text else { return whole::remove(&path) };
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).create(parent)?;
    }
    let mode = fs::metadata(&path).map_or(0o644, |metadata| metadata.permissions().mode());
    whole::create(&path, |file| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())
    })
    .map(drop)
}

fn unix_millis(clock: Clock) -> u64 {
    clock.now().unix_nanos / 1_000_000
}

async fn patience() {
    tokio::time::sleep(PATIENCE).await;
}

fn wrong(problems: Problems) -> Refusal {
    Refusal::Wrong(problems.iter().map(ProblemRow::from).collect())
}

fn failed(error: impl ToString) -> Refusal {
    Refusal::Failed(error.to_string())
}

fn policy_test_row(it: Rehearsed) -> PolicyTestRow {
    let Rehearsed { tenant, name, at, failure } = it;
    PolicyTestRow { tenant, name, file: at.file.to_string(), line: at.line, failure }
}

/// For a log.
fn describe(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Wrong(problems) => problems.iter().map(|it| format!("{it}\n")).collect(),
        Refusal::Unknown(why) | Refusal::Forbidden(why) | Refusal::Conflict(why) | Refusal::Failed(why) => {
            format!("{why}\n")
        }
        Refusal::Changed(tag) => format!("it is {tag} meanwhile\n"),
    }
}
