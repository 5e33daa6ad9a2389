//! `/api/v1/update`: which version of the box runs, and another one for it. The service may not install it: it takes the file, holds
//! it to its signature, and leaves it to the box's updater.

use super::App;
use super::access::Principal;
use super::accounts::note;
use super::api::{Parameters, check_names, parse, value_of};
use super::listen::Peer;
use super::problem::Problem;
use crate::control::audit::Action;
use crate::control::revisions::Who;
use crate::control::updates::{IncomingUpdate, UpdatePort, UpdateRefusal, UpdateState, UpdateTerms};
use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Bytes that are put to the disk at a time: a body comes in pieces of some kilobytes.
const CHUNK: usize = 1 << 20;
/// Bytes of a refused body that are still taken, so that whoever sends it hears why: a client that is hung up on while it sends may
/// not listen. More than a disk's slot holds.
const MOST_PASSED_OVER: u64 = 1 << 30;

/// An update that was taken. It is installed next.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct UpdateTaken {
    pub(super) version: String,
    /// Whether the box starts anew when it is installed; else it is tried at the next boot.
    pub(super) reboot: bool,
}

pub(super) async fn state(
    State(app): State<App>,
    Query(parameters): Parameters,
) -> Result<Json<UpdateState>, Problem> {
    check_names(&parameters, &[])?;
    let Some(port) = app.control.updates() else {
        let refuses = Some(NOBODY.to_owned());
        return Ok(Json(UpdateState { refuses, ..UpdateState::default() }));
    };
    let state = tokio::task::spawn_blocking(move || port.state()).await;
    state.map(Json).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

const NOBODY: &str = "nobody takes updates here";

/// Takes an update, as `make image` writes it.
pub(super) async fn take(
    State(app): State<App>,
    who: Principal,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    Query(parameters): Parameters,
    body: Body,
) -> Result<(StatusCode, Json<UpdateTaken>), Problem> {
    check_names(&parameters, &["force-downgrade", "reboot"])?;
    let flag = |name: &str, unless: bool| match value_of(&parameters, name) {
        None => Ok(unless),
        Some(text) => parse(name, text, "true or false"),
    };
    let terms =
        UpdateTerms { force_downgrade: flag("force-downgrade", false)?, reboot: flag("reboot", true)? };
    let port = app.control.updates().ok_or_else(|| Problem::new(StatusCode::CONFLICT, NOBODY))?;
    let who = Who { user: who.name, from: from.to_string() };
    match receive(port, terms, body).await {
        Ok(version) => {
            let forced = if terms.force_downgrade { ", also if it is older" } else { "" };
            let then =
                if terms.reboot { "the box starts anew with it" } else { "it is tried at the next boot" };
            note(&app, who, Action::Update, None, format!("{version} is to be installed{forced}; {then}"))
                .await;
            Ok((StatusCode::ACCEPTED, Json(UpdateTaken { version, reboot: terms.reboot })))
        }
        Err(problem) => {
            note(&app, who, Action::Update, None, format!("not taken: {}", problem.detail)).await;
            Err(problem)
        }
    }
}

async fn receive(port: Arc<dyn UpdatePort>, terms: UpdateTerms, body: Body) -> Result<String, Problem> {
    let mut pieces = Pieces(body.into_data_stream());
    let received = async {
        let mut incoming = blocking(move || port.begin(terms)).await?;
        while let Some(chunk) = pieces.next().await? {
            incoming = blocking(move || written(incoming, &chunk)).await?;
        }
        blocking(move || incoming.finish()).await
    };
    let received = received.await;
    if received.is_err() {
        pieces.pass_over().await;
    }
    received
}

fn written(
    mut incoming: Box<dyn IncomingUpdate>,
    chunk: &[u8],
) -> Result<Box<dyn IncomingUpdate>, UpdateRefusal> {
    incoming.write(chunk).map(|()| incoming)
}

/// Files are written where nobody waits for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UpdateRefusal> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Problem::from),
        Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

impl From<UpdateRefusal> for Problem {
    fn from(refusal: UpdateRefusal) -> Problem {
        let (status, detail) = match refusal {
            UpdateRefusal::NotNow(detail) => (StatusCode::CONFLICT, detail),
            UpdateRefusal::Wrong(detail) => (StatusCode::UNPROCESSABLE_ENTITY, detail),
            UpdateRefusal::NoRoom(detail) => (StatusCode::PAYLOAD_TOO_LARGE, detail),
            UpdateRefusal::Failed(detail) => (StatusCode::INTERNAL_SERVER_ERROR, detail),
        };
        Problem::new(status, detail)
    }
}

/// A body, in pieces of some size.
struct Pieces(BodyDataStream);

impl Pieces {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Problem> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            match self.0.next().await {
                None => break,
                Some(Ok(piece)) => chunk.extend_from_slice(&piece),
                Some(Err(error)) => {
                    let detail = format!("it did not come whole: {error}");
                    return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
                }
            }
        }
        Ok(if chunk.is_empty() { None } else { Some(chunk) })
    }

    async fn pass_over(&mut self) {
        let mut passed = 0;
        while let Some(Ok(piece)) = self.0.next().await {
            passed += piece.len() as u64;
            if passed > MOST_PASSED_OVER {
                break;
            }
        }
    }
}
