//! What stands around every route: the token, the Host header, the security headers.

use super::problem::Problem;
use super::{App, assets};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};

/// Lets pass what presents the token, and reads of the console's own files, which hold no data.
pub(super) async fn check_token(State(app): State<App>, request: Request, next: Next) -> Response {
    let presented = bearer(request.headers());
    if presented.is_some_and(|presented| app.token.admits(presented)) || assets::is_public(&request) {
        return next.run(request).await;
    }
    // The path alone: somebody may have put the token into the query.
    tracing::debug!(path = request.uri().path(), presented = presented.is_some(), "refused: no valid token");
    Problem::unauthorized().into_response()
}

/// The token of the one `Authorization` header (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Turns away requests for another host's name: a web page whose DNS name was rebound to this box's address sends them
/// from an operator's browser, and same-origin policy would let it read the answers.
pub(super) async fn check_host(State(app): State<App>, request: Request, next: Next) -> Response {
    if is_ours(request.uri(), request.headers(), app.listen) {
        return next.run(request).await;
    }
    let detail = format!("this box is not known by that Host; ask for {}", app.listen);
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

/// Whether the request names this box by a loopback name or address, or by the address it listens on. Listening on all
/// of its addresses, it takes any address: one cannot be rebound, only names can.
fn is_ours(uri: &Uri, headers: &HeaderMap, listen: SocketAddr) -> bool {
    let mut values = headers.get_all(header::HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some(host) = value.to_str().ok().and_then(host_of) else { return false };
    // The absolute form of a request's target overrides Host (RFC 9112 section 3.2.2); nobody has a reason to differ.
    if uri.host().is_some_and(|absolute| host_of(absolute).is_none_or(|absolute| absolute != host)) {
        return false;
    }
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == listen.ip() || listen.ip().is_unspecified(),
        Err(_) => false,
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port` without port and brackets.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port =
        port.strip_prefix(':').map_or(port.is_empty(), |port| port.bytes().all(|b| b.is_ascii_digit()));
    port.then_some(host)
}

/// Headers on every answer, the refused ones included. Scripts, styles and pictures come from this box's files alone:
/// nothing inline, nothing from elsewhere, in no other page's frame.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

pub(super) async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What says nothing about caching is not to be kept; only the console's files say something.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(host: &str, listen: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a header"));
        is_ours(&Uri::from_static("/"), &headers, listen.parse().expect("an address"))
    }

    #[test]
    fn loopback_and_the_address_listened_on_are_this_box() {
        for host in ["localhost", "LocalHost:9", "127.0.0.1:8443", "127.9.9.9", "[::1]:8443", "[::1]"] {
            assert!(ours(host, "127.0.0.1:8443"), "{host}");
            assert!(ours(host, "10.0.0.1:8443"), "{host}");
        }
        assert!(ours("10.0.0.1:8443", "10.0.0.1:8443"));
        assert!(ours("[2001:db8::1]:8443", "[2001:db8::1]:8443"));
    }

    #[test]
    fn other_names_and_addresses_are_not_this_box() {
        let others =
            ["evil.example", "localhost.evil.example", "10.0.0.2", "127.0.0.1.evil.example:8443", ""];
        for host in
            others.into_iter().chain(["localhost:80:80", "[::1", "[::1]x", "2001:db8::1", "127.1", "0"])
        {
            assert!(!ours(host, "10.0.0.1:8443"), "{host}");
        }
    }

    #[test]
    fn listening_everywhere_any_address_is_this_box_but_still_no_name() {
        assert!(ours("192.0.2.7:8443", "0.0.0.0:8443"));
        assert!(!ours("evil.example:8443", "0.0.0.0:8443"));
    }

    #[test]
    fn no_host_two_hosts_or_a_target_that_differs_from_it_are_not_this_box() {
        let listen = "127.0.0.1:8443".parse().expect("an address");
        let mut headers = HeaderMap::new();
        assert!(!is_ours(&Uri::from_static("/"), &headers, listen));
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        assert!(is_ours(&Uri::from_static("http://localhost/"), &headers, listen));
        assert!(!is_ours(&Uri::from_static("http://evil.example/"), &headers, listen));
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(!is_ours(&Uri::from_static("/"), &headers, listen));
    }

    #[test]
    fn a_bearer_token_is_read_from_a_single_header_alone() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            headers
        };
        assert_eq!(bearer(&headers(&["bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["Basic abc"])), None);
        assert_eq!(bearer(&headers(&["Bearer"])), None);
        assert_eq!(bearer(&headers(&["Bearer abc", "Bearer abc"])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }
}
