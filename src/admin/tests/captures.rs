//! `/api/v1/captures`: begun, listed, downloaded, deleted.

use super::*;
use crate::admin::access::Role;
use crate::control::captures::{CaptureAsked, CapturePort, CaptureRefusal, CaptureRow, CaptureSide};
use serde_json::json;

/// Two captures: acme's has the number 7, globex's 9.
pub(super) struct Captures;

fn row(asked: CaptureAsked) -> CaptureRow {
    CaptureRow {
        capture: 7,
        asked,
        began_unix_ms: 1_000,
        is_running: false,
        captured_packets: 4,
        captured_bytes: 336,
        lost_packets: 1,
    }
}

fn of_acme() -> CaptureRow {
    row(CaptureAsked { tenant: "acme".into(), packets: Some(4), ..CaptureAsked::default() })
}

fn of_globex() -> CaptureRow {
    let asked = CaptureAsked { tenant: "globex".into(), ..CaptureAsked::default() };
    CaptureRow { capture: 9, ..row(asked) }
}

impl CapturePort for Captures {
    fn begin(&self, asked: CaptureAsked) -> Result<CaptureRow, CaptureRefusal> {
        match asked.tenant.as_str() {
            "nobody" => Err(CaptureRefusal::NoTenant("nobody".into())),
            "long" => Err(CaptureRefusal::Wrong("seconds", "seconds: too many".into())),
            "full" => Err(CaptureRefusal::Full("no room".into())),
            _ => Ok(row(asked)),
        }
    }

    fn list(&self) -> Vec<CaptureRow> {
        vec![of_globex(), of_acme()]
    }

    fn file(&self, capture: u64) -> Option<(CaptureRow, Vec<u8>)> {
        let row = self.list().into_iter().find(|row| row.capture == capture)?;
        Some((row, b"\n\r\r\n".to_vec()))
    }

    fn forget(&self, capture: u64) -> bool {
        [7, 9].contains(&capture)
    }
}

#[test]
fn a_capture_is_begun_listed_downloaded_and_deleted() {
    let server = Server::start_with(|control| control.with_captures(Captures));
    let begin = |body: serde_json::Value| server.send("POST", "/api/v1/captures", &[], &body.to_string());
    let begun = begin(json!({ "tenant": "acme", "side": "outer", "port": 53, "snap-length": 96 }));
    assert_eq!(begun.status, 201, "{}", begun.body);
    let told: CaptureRow = serde_json::from_str(&begun.body).expect("a capture");
    assert_eq!(
        (told.asked.side, told.asked.port, told.asked.snap_length),
        (CaptureSide::Outer, Some(53), Some(96))
    );
    for (body, status, parameter) in [
        (json!({ "tenant": "nobody" }), 404, "tenant"),
        (json!({ "tenant": "long" }), 400, "seconds"),
        (json!({ "tenant": "full" }), 409, ""),
        (json!({ "tenant": "acme", "sied": "outer" }), 400, ""),
        (json!({}), 400, ""),
    ] {
        let answer = begin(body.clone());
        assert_eq!(answer.status, status, "{body}");
        let problem: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(problem["parameter"].as_str().unwrap_or_default(), parameter);
    }

    let listed = |query: &str| {
        let answer = server.get(&format!("/api/v1/captures{query}"));
        let listed: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        listed["captures"].as_array().map(Vec::len)
    };
    assert_eq!((listed(""), listed("?tenant=acme"), listed("?tenant=globex")), (Some(2), Some(1), Some(1)));

    let file = server.get("/api/v1/captures/7");
    assert_eq!((file.status, file.body.as_str()), (200, "\n\r\r\n"));
    assert_eq!(file.header("content-type"), Some("application/x-pcapng"));
    assert_eq!(file.header("content-disposition"), Some("attachment; filename=\"acme-7.pcapng\""));
    assert_eq!(server.send("DELETE", "/api/v1/captures/7", &[], "").status, 204);
    for capture in ["8", "seven", "-1"] {
        let path = format!("/api/v1/captures/{capture}");
        assert_eq!(server.get(&path).status, 404);
        assert_eq!(server.send("DELETE", &path, &[], "").status, 404);
    }
}

#[test]
fn a_tenants_operator_captures_that_tenants_packets_and_knows_of_no_others_captures() {
    let server = Server::start_with(|control| control.with_captures(Captures));
    let bearer = format!("Bearer {}", server.token_of(Role::Operator, Some("acme")));
    let ask = |method: &str, path: &str, body: &str| {
        server.send_as(method, path, &[("Authorization", &bearer)], body)
    };
    assert_eq!(ask("POST", "/api/v1/captures", r#"{"tenant": "acme"}"#).status, 201);
    assert_eq!(ask("GET", "/api/v1/captures/7", "").status, 200);
    for method in ["GET", "DELETE"] {
        let (others, nobodys) =
            (ask(method, "/api/v1/captures/9", ""), ask(method, "/api/v1/captures/10", ""));
        assert_eq!((others.status, others.body), (404, nobodys.body.replace("10", "9")));
    }
    assert_eq!(ask("DELETE", "/api/v1/captures/7", "").status, 204);
    let listed = ask("GET", "/api/v1/captures", "");
    assert!(listed.body.contains("acme") && !listed.body.contains("globex"), "{}", listed.body);
}
