//! What a host behind a tunnel is told that asks its PoP by name: at which site it is, by which path, and as whom it is known
//! on the internet. One page, in text or JSON.

use crate::model::WHEREABOUTS;
use crate::wire::HttpRequest;
use serde::Serialize;
use std::fmt::Write;
use std::net::IpAddr;

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Whereabouts {
    /// The PoP.
    pub site: String,
    pub metro: Option<String>,
    pub facility: Option<String>,
    pub tenant: String,
    pub branch: String,
    /// By which it has asked.
    pub path: String,
    /// The host's own.
    pub address: IpAddr,
    /// Of a flow to the internet that no rule makes another of.
    pub class: String,
    /// By which handoff such a flow leaves; `None`: there is none.
    pub handoff: Option<String>,
    /// By which address it is known there; `None`: it cannot be.
    pub public_address: Option<IpAddr>,
}

impl Whereabouts {
    fn text(&self) -> String {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let rows = [
            ("site", self.site.clone()),
            ("metro", or_dash(&self.metro)),
            ("facility", or_dash(&self.facility)),
            ("tenant", self.tenant.clone()),
            ("branch", self.branch.clone()),
            ("path", self.path.clone()),
            ("address", self.address.to_string()),
            ("class", self.class.clone()),
            ("handoff", or_dash(&self.handoff)),
            ("public address", or_dash(&self.public_address.map(|address| address.to_string()))),
        ];
        let mut text = String::new();
        for (name, value) in rows {
            // Into a string nothing fails.
            let _ = writeln!(text, "{name:<15} {value}");
        }
        text
    }
}

/// The whole response to the first bytes of a connection to one of `ours`, by a host that is `about`.
pub(super) fn respond(stream: &[u8], ours: &[IpAddr], about: &Whereabouts) -> Vec<u8> {
    let Some(request) = HttpRequest::read(stream) else {
        return response("400 Bad Request", TEXT, "this is no HTTP/1.1 request\n", true);
    };
    let has_body = request.method != b"HEAD";
    let refuse = |status, why: &str| response(status, TEXT, why, has_body);
    if !request.host.is_none_or(|host| is_ours(host, ours)) {
        // Of a page whose name was rebound to this address: its scripts are to learn nothing.
        return refuse("421 Misdirected Request", &format!("ask for http://{WHEREABOUTS}/\n"));
    }
    if !matches!(request.method, b"GET" | b"HEAD") {
        return refuse("405 Method Not Allowed\r\nAllow: GET, HEAD", "GET is all there is\n");
    }
    let json = || serde_json::to_string_pretty(about).unwrap_or_default() + "\n";
    match request.path {
        b"/" if !request.wants_json => response("200 OK", TEXT, &about.text(), has_body),
        b"/" | b"/json" => response("200 OK", "application/json", &json(), has_body),
        _ => refuse("404 Not Found", "there is / and /json\n"),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn is_ours(host: &[u8], ours: &[IpAddr]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    host.trim_end_matches('.').eq_ignore_ascii_case(WHEREABOUTS)
        || host.parse().is_ok_and(|address| ours.contains(&address))
}

fn response(status: &str, kind: &str, body: &str, has_body: bool) -> Vec<u8> {
    let length = body.len();
    let body = if has_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nVary: Accept\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> Whereabouts {
        Whereabouts {
            site: "fra1".into(),
            metro: Some("fra".into()),
            facility: None,
            tenant: "acme".into(),
            branch: "berlin".into(),
            path: "dsl".into(),
            address: [10, 1, 0, 5].into(),
            class: "default".into(),
            handoff: Some("internet".into()),
            public_address: Some([198, 51, 100, 7].into()),
        }
    }

    fn asked(request: &str) -> String {
        let ours = [IpAddr::from([198, 18, 0, 80]), "fd70::80".parse().expect("an address")];
        String::from_utf8(respond(request.as_bytes(), &ours, &about())).expect("text")
    }

    #[test]
    fn it_is_told_in_text_and_in_json() {
        let text = asked("GET / HTTP/1.1\r\nHost: popgate.internal\r\nAccept: */*\r\n\r\n");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(body.starts_with("site            fra1\nmetro           fra\nfacility        -\n"), "{body}");
        assert!(body.ends_with("public address  198.51.100.7\n"), "{body}");
        for request in [
            "GET /json HTTP/1.1\r\nHost: [fd70::80]:80\r\n\r\n",
            "GET /?x HTTP/1.1\r\nhost: POPGATE.internal.\r\naccept: application/json, text/plain\r\n\r\n",
            "GET / HTTP/1.0\r\nAccept: application/json;q=1\r\n\r\n",
        ] {
            let answer = asked(request);
            let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
            let told: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!((&told["path"], &told["facility"]), (&"dsl".into(), &serde_json::Value::Null));
            assert_eq!(told["public_address"], "198.51.100.7");
        }
    }

    #[test]
    fn what_is_not_asked_rightly_is_told_why() {
        for (request, status) in [
            ("\x16\x03\x01\x02", "400"),
            ("GET /\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
            ("GET / HTTP/1.1\r\nHost: 198.18.0.81\r\n\r\n", "421"),
            ("POST / HTTP/1.1\r\nHost: popgate.internal\r\n\r\n", "405"),
            ("GET /favicon.ico HTTP/1.1\r\nHost: 198.18.0.80\r\n\r\n", "404"),
        ] {
            let answer = asked(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
        let head = asked("HEAD / HTTP/1.1\r\nHost: popgate.internal\r\n\r\n");
        assert!(head.ends_with("\r\n\r\n") && !head.contains("Content-Length: 0"), "{head}");
    }

    #[test]
    fn a_head_that_goes_on_in_another_segment_is_answered_by_what_is_there() {
        assert!(asked("GET /json HTTP/1.1\r\nUser-Agent: curl\r\nCoo").starts_with("HTTP/1.1 200 OK"));
        assert!(asked("GET /js").starts_with("HTTP/1.1 400"));
    }
}
