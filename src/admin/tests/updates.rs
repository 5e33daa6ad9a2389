//! `/api/v1/update`: another version is taken, or it is told why not.

use super::*;
use crate::control::audit::Action;
use crate::control::commits::Verb;
use crate::control::updates::{IncomingUpdate, UpdatePort, UpdateRefusal, UpdateState, UpdateTerms};

/// A box that takes whatever begins with `good`, and of the rest at the first piece what it is.
struct Updates(Arc<Mutex<Vec<(UpdateTerms, usize)>>>);

struct Incoming {
    taken: Arc<Mutex<Vec<(UpdateTerms, usize)>>>,
    terms: UpdateTerms,
    length: usize,
}

impl UpdatePort for Updates {
    fn state(&self) -> UpdateState {
        UpdateState { version: "0.1.0+2.gabc".to_owned(), ..UpdateState::default() }
    }

    fn begin(&self, terms: UpdateTerms) -> Result<Box<dyn IncomingUpdate>, UpdateRefusal> {
        if self.0.lock().expect("no panic").len() > 1 {
            return Err(UpdateRefusal::NotNow("another update is on its way".to_owned()));
        }
        Ok(Box::new(Incoming { taken: Arc::clone(&self.0), terms, length: 0 }))
    }
}

impl IncomingUpdate for Incoming {
    fn write(&mut self, bytes: &[u8]) -> Result<(), UpdateRefusal> {
        if self.length == 0 && !bytes.starts_with(b"good") {
            return Err(UpdateRefusal::Wrong("it is not signed".to_owned()));
        }
        self.length += bytes.len();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<String, UpdateRefusal> {
        if self.length == 0 {
            return Err(UpdateRefusal::Wrong("it is cut short".to_owned()));
        }
        self.taken.lock().expect("no panic").push((self.terms, self.length));
        Ok("0.1.0+3.gdef".to_owned())
    }
}

/// Whatever is noted.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl crate::control::commits::CommitPort for Notes {
    fn standing(&self) -> crate::control::commits::Standing {
        crate::control::commits::Standing::default()
    }

    fn ask(
        &self,
        _: crate::control::revisions::Who,
        verb: Verb,
    ) -> std::pin::Pin<
        Box<
            dyn Future<Output = Result<crate::control::commits::Reply, crate::control::commits::Refusal>>
                + Send,
        >,
    > {
        if let Verb::Note { action: Action::Update, detail, .. } = verb {
            self.0.lock().expect("no panic").push(detail);
        }
        Box::pin(std::future::ready(Ok(crate::control::commits::Reply::Done)))
    }
}

#[test]
fn an_update_is_taken_as_it_comes_and_noted_and_what_is_refused_is_heard() {
    let (taken, notes) = (Arc::new(Mutex::new(Vec::new())), Notes::default());
    let (port, noting) = (Updates(Arc::clone(&taken)), notes.clone());
    let server = Server::start_with(|control| control.with_updates(port).with_commits(noting));
    let state: UpdateState = serde_json::from_str(&server.get("/api/v1/update").body).expect("a state");
    assert_eq!((state.version.as_str(), state.refuses), ("0.1.0+2.gabc", None));

    // Longer than what is put to the disk at a time, and than what other bodies may be.
    let long = format!("good{}", "-".repeat(5 << 20));
    let answer = server.send("POST", "/api/v1/update", &[], &long);
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert!(
        answer.body.contains("0.1.0+3.gdef") && answer.body.contains(r#""reboot":true"#),
        "{}",
        answer.body
    );
    assert_eq!(
        *taken.lock().expect("no panic"),
        [(UpdateTerms { force_downgrade: false, reboot: true }, long.len())]
    );

    // All of it is taken before it is told, or whoever sends does not listen.
    let wrong = server.send("POST", "/api/v1/update", &[], &"-".repeat(5 << 20));
    assert_eq!(wrong.status, 422, "{}", wrong.body);
    assert!(wrong.body.contains("it is not signed"), "{}", wrong.body);
    assert_eq!(server.send("POST", "/api/v1/update", &[], "").status, 422);
    for unknown in ["?force=true", "?reboot=yes", "?force-downgrade="] {
        assert_eq!(
            server.send("POST", &format!("/api/v1/update{unknown}"), &[], "good").status,
            400,
            "{unknown}"
        );
    }

    let forced = server.send("POST", "/api/v1/update?force-downgrade=true&reboot=false", &[], "good");
    assert_eq!(forced.status, 202, "{}", forced.body);
    let terms = UpdateTerms { force_downgrade: true, reboot: false };
    assert_eq!(taken.lock().expect("no panic").last(), Some(&(terms, 4)));
    assert_eq!(server.send("POST", "/api/v1/update", &[], "good").status, 409);
    assert_eq!(
        *notes.0.lock().expect("no panic"),
        [
            "0.1.0+3.gdef is to be installed; the box starts anew with it",
            "not taken: it is not signed",
            "not taken: it is cut short",
            "0.1.0+3.gdef is to be installed, also if it is older; it is tried at the next boot",
            "not taken: another update is on its way",
        ]
    );
}

#[test]
fn a_box_that_takes_no_updates_says_so() {
    let server = Server::start();
    assert!(server.get("/api/v1/update").body.contains("nobody takes updates here"));
    let answer = server.send("POST", "/api/v1/update", &[], "good");
    assert_eq!(answer.status, 409, "{}", answer.body);
}
