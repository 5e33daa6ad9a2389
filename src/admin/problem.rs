//! What went wrong, as RFC 9457 problem details.

use super::access::Pending;
use super::access::store::StoreError;
use crate::control::Unanswered;
use crate::control::commits::{ProblemRow, Refusal};
use crate::store::report::FlowProblem;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A problem; `type` is always `about:blank`, so the status says what kind it is (RFC 9457 section 4.2.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) struct Problem {
    pub(super) title: String,
    pub(super) status: u16,
    pub(super) detail: String,
    /// The query parameter at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parameter: Option<String>,
    /// Where in it, in characters from 1 on, and for how many: of a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) column: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) length: Option<u32>,
    /// What is wrong with a configuration, all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<ProblemRow>,
    /// What a user has to do before anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Pending>,
    /// In how many seconds it may be tried again; told in a header.
    #[serde(skip)]
    pub(super) retry_secs: Option<u16>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        let title = status.canonical_reason().unwrap_or("Problem").to_owned();
        Problem {
            title,
            status: status.as_u16(),
            detail: detail.into(),
            parameter: None,
            column: None,
            length: None,
            problems: Vec::new(),
            pending: None,
            retry_secs: None,
        }
    }

    /// A query parameter that cannot be understood.
    pub(super) fn parameter(name: &str, detail: String) -> Problem {
        Problem { parameter: Some(name.to_owned()), ..Problem::new(StatusCode::BAD_REQUEST, detail) }
    }

    /// For the operator: what is wrong, and with a configuration all of that, a line each.
    pub(super) fn told(&self) -> String {
        let lines = self.problems.iter().map(|it| format!("\n{it}"));
        std::iter::once(self.detail.clone()).chain(lines).collect()
    }

    /// The same answer whatever was wrong, so that it tells nothing about a token or a session.
    pub(super) fn unauthorized() -> Problem {
        let detail = "this needs somebody who is signed in, or a token: Authorization: Bearer TOKEN";
        Problem::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// A user who has something to do first.
    pub(super) fn pending(pending: Pending) -> Problem {
        let detail = match pending {
            Pending::Password => "choose a password of your own first",
            Pending::Totp => "set up a second factor first",
        };
        Problem { pending: Some(pending), ..Problem::new(StatusCode::FORBIDDEN, detail) }
    }
}

impl From<Unanswered> for Problem {
    fn from(error: Unanswered) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::Wrong(problems) => {
                let detail = "the configuration cannot be put in force";
                Problem { problems, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
            }
            Refusal::Unknown(why) => Problem::new(StatusCode::NOT_FOUND, why),
            Refusal::Forbidden(why) => Problem::new(StatusCode::FORBIDDEN, why),
            Refusal::Conflict(why) => Problem::new(StatusCode::CONFLICT, why),
            Refusal::Changed(tag) => {
                let detail = format!("somebody else changed it meanwhile: its tag is \"{tag}\" now");
                Problem::new(StatusCode::PRECONDITION_FAILED, detail)
            }
            Refusal::Failed(why) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match &error {
            StoreError::Unknown(_) => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
            StoreError::Conflict(why) => Problem::new(StatusCode::CONFLICT, why),
            StoreError::Failed(_) => {
                tracing::error!("{error}");
                Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the users' database cannot be read or written",
                )
            }
        }
    }
}

impl From<FlowProblem> for Problem {
    fn from(problem: FlowProblem) -> Problem {
        let FlowProblem { parameter, detail, column, length } = problem;
        // A request's line is far shorter than that.
        let [column, length] = [column, length].map(|it| it.and_then(|it| u32::try_from(it).ok()));
        match parameter {
            Some(name) => Problem { column, length, ..Problem::parameter(name, detail) },
            None => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry = self.retry_secs.or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(2));
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"popgate\""));
        }
        if let Some(secs) = retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not by this method: the Allow header tells by which")
}
