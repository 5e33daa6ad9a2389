//! What stands around every route: who asks, what each route needs of them, the Host header, the security headers.
//!
//! 1 [`refuse_secrets`] turns away a URL that somebody put a token into, 2 [`identify`] finds out who asks, and lets nobody pass
//! who is nobody, unless the route is for everybody, 3 around each route of its own [`authorize`] holds who asks against what the
//! route needs, and narrows what is asked to what they may see.

use super::access::{By, Principal, Role};
use super::listen::Peer;
use super::problem::Problem;
use super::{App, Hosts, ROUTES, assets};
use axum::extract::{ConnectInfo, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};

/// What a route needs of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: who is to be known has to ask for something.
    Public,
    /// To be known, whatever they may do and still have to: it is about themselves.
    Known,
    /// A role or a higher one; and for a user of one tenant, that it can be narrowed to that.
    Role(Role, Tenancy),
    /// The same, and a person: no token, which somebody else may have by now, makes another or a user.
    Person(Role, Tenancy),
}

/// What becomes of it if whoever asks is of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenancy {
    /// It is the whole box's, and nothing of theirs.
    Box,
    /// Its parameter `tenant` says of whom; theirs is put in where it is not there.
    Parameter,
    /// Whoever answers narrows it.
    Answer,
}

/// The cookie of a session. Its name binds it to this host and, but for loopback, to TLS
/// (draft-ietf-httpbis-rfc6265bis section 4.1.3.2).
pub(super) const COOKIE: &str = "__Host-popgate";

/// No form can send it, and no page of another origin without being asked first.
pub(super) const REQUEST_HEADER: HeaderName = HeaderName::from_static("popgate-request");

/// The console asks by itself, and nobody has touched it for a while: that is no use of a session, which is to end.
const IDLE_HEADER: HeaderName = HeaderName::from_static("popgate-idle");

/// Names that people give tokens in URLs.
const NAMES_OF_SECRETS: [&str; 6] = ["token", "access_token", "api_key", "apikey", "auth", "bearer"];

/// URLs are kept in histories and in the logs of whatever lies between: a token in one is refused, lest somebody get used to it.
pub(super) async fn refuse_secrets(State(app): State<App>, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let is_named = query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
        NAMES_OF_SECRETS.contains(&name.as_str())
    });
    if is_named || app.access.is_secret(query) || app.access.is_secret(request.uri().path()) {
        let detail = "a token has no place in a URL, where logs and histories keep it: it belongs into the Authorization \
                      header, and this one is best revoked";
        return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    }
    next.run(request).await
}

/// Finds out who asks. Nobody in particular may read the console's own files, which hold no data, and ask for what is public.
pub(super) async fn identify(
    State(app): State<App>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_public = assets::is_public(&request) || is_public(&request);
    let principal = match proof(request.headers()) {
        Proof::Bearer(secret) => app.access.of_bearer(secret, from.ip(), app.control.now_unix_ms()).await,
        Proof::Cookie(secret) if is_from_elsewhere(request.headers()) => {
            let _ = secret;
            None
        }
        Proof::Cookie(secret) => {
            let counts = !request.headers().contains_key(IDLE_HEADER);
            app.access.of_cookie(secret, app.control.now_unix_ms(), counts).await
        }
        Proof::None => None,
    };
    if principal.is_none() && !is_public {
        tracing::debug!(path = request.uri().path(), "refused: nobody who is known");
        return Problem::unauthorized().into_response();
    }
    let by_cookie = principal.as_ref().is_some_and(|it| matches!(it.by, By::Session { .. }));
    if is_change(request.method()) && (by_cookie || principal.is_none()) && !is_our_page(&request, by_cookie)
    {
        let detail =
            format!("this has to come from the console's own page, or with the header {REQUEST_HEADER}: 1");
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    if let Some(principal) = principal {
        request.extensions_mut().insert(principal);
    }
    next.run(request).await
}

/// Whether a route is for everybody. Paths are compared as they were sent: one that is written in another way is not public.
fn is_public(request: &Request) -> bool {
    let (method, path) = (request.method().as_str(), request.uri().path());
    ROUTES.iter().any(|route| route.need == Need::Public && route.method == method && route.path == path)
}

enum Proof<'a> {
    Bearer(&'a str),
    Cookie(&'a str),
    None,
}

/// Whoever brings an `Authorization` header means that, whatever a browser adds.
fn proof(headers: &HeaderMap) -> Proof<'_> {
    if headers.contains_key(header::AUTHORIZATION) {
        return bearer(headers).map_or(Proof::None, Proof::Bearer);
    }
    session_cookie(headers).map_or(Proof::None, Proof::Cookie)
}

/// The secret of the one cookie that is a session's.
pub(super) fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, COOKIE)
}

/// The value of the one cookie of this name.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut ours = lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (its, value) = pair.trim().split_once('=')?;
        (its == name).then_some(value)
    });
    match (ours.next(), ours.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// Whether a browser says that another site's page asks (Fetch Metadata).
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    fetch_site(headers).is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

fn fetch_site(headers: &HeaderMap) -> Option<&str> {
    headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("cross-site"))
}

/// Whether a change comes from the console's page: by a header that a form cannot send, and by what the browser says of the page.
/// Who has no cookie to be abused may be no browser, which says nothing.
fn is_our_page(request: &Request, has_cookie: bool) -> bool {
    let headers = request.headers();
    let origin = headers.get(header::ORIGIN).map(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        origin.is_some() && origin == headers.get(header::HOST).and_then(|host| host.to_str().ok())
    });
    let says = match (fetch_site(headers), origin) {
        (Some(site), None) => Some(site == "same-origin"),
        (Some(site), Some(origin)) => Some(site == "same-origin" && origin),
        (None, origin) => origin,
    };
    headers.contains_key(REQUEST_HEADER) && says.unwrap_or(!has_cookie)
}

/// Holds who asks against what the route needs. Without an answer to who asks, nothing but what is public is let pass.
pub(super) async fn authorize(State(need): State<Need>, mut request: Request, next: Next) -> Response {
    if need != Need::Public {
        let Some(principal) = request.extensions().get::<Principal>().cloned() else {
            return Problem::unauthorized().into_response();
        };
        match admit(need, &principal, request.uri()) {
            Ok(None) => {}
            Ok(Some(uri)) => *request.uri_mut() = uri,
            Err(problem) => return problem.into_response(),
        }
    }
    next.run(request).await
}

/// Whether somebody may; with a URL to go on with that names their tenant, if it has to.
fn admit(need: Need, principal: &Principal, uri: &Uri) -> Result<Option<Uri>, Problem> {
    let forbidden = |detail: String| Err(Problem::new(StatusCode::FORBIDDEN, detail));
    let (role, tenancy) = match need {
        Need::Public | Need::Known => return Ok(None),
        Need::Role(role, tenancy) => (role, tenancy),
        Need::Person(role, tenancy) => {
            if matches!(principal.by, By::Token(_)) {
                return forbidden(
                    "this needs a person: an API token makes no users and no tokens".to_owned(),
                );
            }
            (role, tenancy)
        }
    };
    if let Some(pending) = principal.pending {
        return Err(Problem::pending(pending));
    }
    if principal.role < role {
        return forbidden(format!("this needs the role {role}; yours is {}", principal.role));
    }
    let Some(tenant) = &principal.tenant else { return Ok(None) };
    match tenancy {
        Tenancy::Box => forbidden(format!("this is of the whole box, and yours is tenant {tenant}")),
        Tenancy::Answer => Ok(None),
        Tenancy::Parameter => narrowed(uri, tenant).map(Some),
    }
}

/// The URL with the tenant in it. Asked for another one, there is none.
fn narrowed(uri: &Uri, tenant: &str) -> Result<Uri, Problem> {
    let bad = || Problem::new(StatusCode::BAD_REQUEST, "the query cannot be understood");
    // As the handlers read it.
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| bad())?;
    let mut asked = parameters.iter().filter(|(name, _)| name == "tenant").map(|(_, value)| value).peekable();
    if asked.peek().is_some() {
        return match asked.find(|value| *value != tenant) {
            Some(other) => Err(unknown_tenant(other)),
            None => Ok(uri.clone()),
        };
    }
    let query = match uri.query() {
        None | Some("") => format!("{}?tenant={tenant}", uri.path()),
        Some(query) => format!("{}?{query}&tenant={tenant}", uri.path()),
    };
    query.parse().map_err(|_| bad())
}

/// What somebody is told who asks for a tenant that is not theirs: the same whether there is one of that name or not.
pub(super) fn unknown_tenant(name: &str) -> Problem {
    let detail = format!("there is no tenant {name:?}");
    Problem { parameter: Some("tenant".to_owned()), ..Problem::new(StatusCode::NOT_FOUND, detail) }
}

/// Whoever asks, as a handler has it.
impl FromRequestParts<App> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Principal, Problem> {
        parts.extensions.get().cloned().ok_or_else(Problem::unauthorized)
    }
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
    if is_ours(request.uri(), request.headers(), &app.hosts) {
        return next.run(request).await;
    }
    let names = app.hosts.names.iter().map(ToString::to_string);
    let known: Vec<String> = names.chain(app.hosts.listen.iter().map(ToString::to_string)).collect();
    let detail = format!("this box is not known by that Host; ask for {}", known.join(" or "));
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

/// Whether the request names this box by a loopback name or address, by an address it listens on, or by a name that its
/// configuration gives it. Listening on all of its addresses, it takes any address: one cannot be rebound, only names can.
fn is_ours(uri: &Uri, headers: &HeaderMap, hosts: &Hosts) -> bool {
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
        Ok(address) => {
            let is_here = |listen: &SocketAddr| address == listen.ip() || listen.ip().is_unspecified();
            address.is_loopback() || hosts.listen.iter().any(is_here)
        }
        Err(_) => hosts.names.iter().any(|name| host.eq_ignore_ascii_case(name.as_str())),
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

/// Over TLS: where somebody has signed the certificate, browsers are to insist on it for a year (RFC 6797).
pub(super) async fn insist(mut response: Response, is_signed: bool) -> Response {
    if is_signed {
        let year = HeaderValue::from_static("max-age=31536000");
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str) -> Hosts {
        let names = vec!["pop.example".parse().expect("a name")];
        Hosts { listen: vec![listen.parse().expect("an address")], names }
    }

    fn ours(host: &str, listen: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a header"));
        is_ours(&Uri::from_static("/"), &headers, &hosts(listen))
    }

    #[test]
    fn loopback_and_the_address_listened_on_are_this_box() {
        for host in ["localhost", "LocalHost:9", "127.0.0.1:8443", "127.9.9.9", "[::1]:8443", "[::1]"] {
            assert!(ours(host, "127.0.0.1:8443"), "{host}");
            assert!(ours(host, "10.0.0.1:8443"), "{host}");
        }
        assert!(ours("10.0.0.1:8443", "10.0.0.1:8443"));
        assert!(ours("Pop.Example:443", "10.0.0.1:8443"));
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
        let listen = &hosts("127.0.0.1:8443");
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

    #[test]
    fn the_cookie_is_ours_alone_and_comes_once() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_static(line));
            }
            session_cookie(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["a=1; __Host-popgate=abc; b=2"]).as_deref(), Some("abc"));
        assert_eq!(of(&["a=1", "__Host-popgate=abc"]).as_deref(), Some("abc"));
        for lines in
            [&["popgate=abc"][..], &["__host-popgate=abc"], &["__Host-popgate=a; __Host-popgate=b"], &[]]
        {
            assert_eq!(of(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn a_users_tenant_is_put_in_and_no_other_is_found() {
        let of = |uri: &str| narrowed(&uri.parse().expect("a URI"), "acme").map(|uri| uri.to_string());
        assert_eq!(of("/paths").as_deref(), Ok("/paths?tenant=acme"));
        assert_eq!(of("/paths?").as_deref(), Ok("/paths?tenant=acme"));
        assert_eq!(of("/paths?limit=1").as_deref(), Ok("/paths?limit=1&tenant=acme"));
        assert_eq!(of("/paths?%74enant=ac%6De").as_deref(), Ok("/paths?%74enant=ac%6De"));
        let others = [
            "tenant=globex",
            "tenant=",
            "tenant",
            "%74enant=globex",
            "tenant=acme&tenant=globex",
            "tenant=Acme",
        ];
        for query in others {
            let problem = of(&format!("/paths?{query}")).expect_err("refused");
            assert_eq!((problem.status, problem.parameter.as_deref()), (404, Some("tenant")), "{query}");
        }
    }

    fn post(headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::new(axum::body::Body::empty());
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("127.0.0.1:8443"));
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn a_change_by_cookie_comes_from_the_consoles_page() {
        const OURS: (&str, &str) = ("popgate-request", "1");
        let same = ("sec-fetch-site", "same-origin");
        let origin = ("origin", "http://127.0.0.1:8443");
        for headers in [&[OURS, same][..], &[OURS, origin], &[OURS, same, origin]] {
            assert!(is_our_page(&post(headers), true), "{headers:?}");
        }
        let elsewhere: [&[(&'static str, &'static str)]; 8] = [
            &[same, origin],
            &[OURS],
            &[OURS, ("sec-fetch-site", "cross-site")],
            &[OURS, ("sec-fetch-site", "same-site")],
            &[OURS, ("sec-fetch-site", "none")],
            &[OURS, ("origin", "http://evil.example")],
            &[OURS, ("origin", "null")],
            &[OURS, same, ("origin", "http://127.0.0.1:9999")],
        ];
        for headers in elsewhere {
            assert!(!is_our_page(&post(headers), true), "{headers:?}");
        }
        // A script has no cookie that another's page could make use of.
        assert!(is_our_page(&post(&[OURS]), false));
        assert!(!is_our_page(&post(&[]), false));
        assert!(!is_our_page(&post(&[OURS, ("sec-fetch-site", "cross-site")]), false));
    }
}
