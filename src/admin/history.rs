//! `/api/v1/flows/query`: a question to the flow history, answered in JSON, or its table as CSV or a Parquet file.

use super::App;
use super::access::Principal;
use super::api::{Parameters, check_names, parse, value_of};
use super::problem::Problem;
use super::table::utc_ms;
use crate::model::{AskedTime, NotATime};
use crate::store::report::{Cell, FlowAnswer, FlowQuestion, FlowRange, Holding};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::borrow::Cow;
use tokio::sync::OwnedSemaphorePermit;

/// 10,000 rows of JSON: 5 MB, more than a page of a console has use for. Downloads may have more.
const MOST_JSON_ROWS: usize = 10_000;

/// 4: each has two threads at work and up to some 100 MB, and forwarding has the processors first. More would all take longer
/// until none of them is answered in time.
pub(super) const MAX_QUESTIONS: usize = 4;

/// It reads files, on a thread of its own: the others' answers do not wait for a disk.
pub(super) async fn query(
    State(app): State<App>,
    who: Principal,
    Query(parameters): Parameters,
) -> Result<Response, Problem> {
    let (question, format) = asked(&parameters)?;
    let question = FlowQuestion { tenant: who.tenant, ..question };
    let permit = permit(&app)?;
    let answer = tokio::task::spawn_blocking(move || {
        // Until it is answered, whoever is still there to hear it.
        let _permit = permit;
        let Some(history) = app.control.history() else {
            let detail = "this box keeps no flow history; [flow-history] in popgate.toml has it keep one";
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        };
        let answer = history.ask(&question)?;
        Ok(match format {
            Format::Json => Json(answer).into_response(),
            Format::Csv => {
                download("text/csv; charset=utf-8; header=present", "csv", csv(&answer).into_bytes())
            }
            Format::Parquet => {
                download("application/vnd.apache.parquet", "parquet", history.parquet(&answer)?)
            }
        })
    });
    let failed = |why: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why);
    answer.await.map_err(|error| failed(error.to_string()))?
}

/// To ask the flow history; or that there is no room for more questions.
pub(super) fn permit(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    app.questions.clone().try_acquire_owned().map_err(|_| {
        let detail = format!(
            "{MAX_QUESTIONS} questions to the flow history are being answered; ask again in a moment"
        );
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Parquet,
}

fn asked(parameters: &[(String, String)]) -> Result<(FlowQuestion, Format), Problem> {
    const KNOWN: [&str; 13] = [
        "q", "from", "until", "last", "by", "sum", "order", "top", "step", "previous", "limit", "cursor",
        "format",
    ];
    check_names(parameters, &KNOWN)?;
    let given = |name: &str| value_of(parameters, name).filter(|value| !value.is_empty());
    let list = |name: &str| -> Vec<String> {
        given(name)
            .map(|names| names.split(',').map(|name| name.trim().to_owned()).collect())
            .unwrap_or_default()
    };
    let number = |name: &str| given(name).map(|text| parse(name, text, "a number")).transpose();
    let format = match given("format") {
        None | Some("json") => Format::Json,
        Some("csv") => Format::Csv,
        Some("parquet") => Format::Parquet,
        Some(other) => {
            let detail = format!("format: {other:?} is none of json, csv, parquet");
            return Err(Problem::parameter("format", detail));
        }
    };
    let limit: Option<usize> = number("limit")?;
    if format == Format::Json && limit.is_some_and(|limit| limit > MOST_JSON_ROWS) {
        let detail = format!("limit: at most {MOST_JSON_ROWS} rows in JSON; CSV and Parquet may have more");
        return Err(Problem::parameter("limit", detail));
    }
    let question = FlowQuestion {
        tenant: None,
        filter: given("q").unwrap_or_default().to_owned(),
        range: range(given("last"), given("from"), given("until"))?,
        by: list("by"),
        sums: list("sum"),
        order: given("order").map(str::to_owned),
        top: number("top")?,
        step: given("step").map(str::to_owned),
        previous: given("previous").map(|text| parse("previous", text, "true or false")).transpose()?
            == Some(true),
        limit,
        cursor: given("cursor").map(str::to_owned),
    };
    Ok((question, format))
}

fn range(last: Option<&str>, from: Option<&str>, until: Option<&str>) -> Result<FlowRange, Problem> {
    let time = |name: &'static str, text: &str| {
        text.parse::<AskedTime>()
            .map_err(|error: NotATime| Problem::parameter(name, format!("{name}: {text:?} is {error}")))
    };
    match (last, from, until) {
        (None, Some(from), Some(until)) => {
            let (from_unix_ms, until_unix_ms) =
                (time("from", from)?.from_unix_ms, time("until", until)?.from_unix_ms);
            Ok(FlowRange::Between { from_unix_ms, until_unix_ms })
        }
        (None, None, None) => Ok(FlowRange::default()),
        (Some(last), None, None) => Ok(FlowRange::Last(last.to_owned())),
        (None, Some(_), None) => {
            Err(Problem::parameter("until", "until: it is needed beside from".to_owned()))
        }
        (None, None, Some(_)) => {
            Err(Problem::parameter("from", "from: it is needed beside until".to_owned()))
        }
        (Some(_), ..) => {
            Err(Problem::parameter("last", "last: it stands alone, without from and until".to_owned()))
        }
    }
}

fn download(content_type: &'static str, extension: &str, body: Vec<u8>) -> Response {
    let disposition = format!("attachment; filename=\"flows.{extension}\"");
    let headers =
        [(header::CONTENT_TYPE, content_type.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    (headers, body).into_response()
}

/// RFC 4180, with a line of names first. Times are RFC 3339's, in UTC.
pub(super) fn csv(answer: &FlowAnswer) -> String {
    let (columns, rows) = answer.table();
    let mut out = String::new();
    let mut line = |fields: &mut dyn Iterator<Item = String>| {
        for (at, field) in fields.enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(&quoted(&field));
        }
        out.push_str("\r\n");
    };
    line(&mut columns.iter().map(|column| column.name.clone()));
    for row in rows {
        line(&mut row.into_iter().zip(&columns).map(|(cell, column)| match (cell, column.holds) {
            (Cell::Number(millis), Holding::Time) => utc_ms(millis),
            (Cell::Number(number), _) => number.to_string(),
            (Cell::Text(text), _) => text,
            (Cell::None, _) => String::new(),
        }));
    }
    out
}

fn quoted(field: &str) -> Cow<'_, str> {
    if field.contains(['"', ',', '\r', '\n']) {
        Cow::Owned(format!("\"{}\"", field.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(field)
    }
}
