//! The console's files, built by `npm run build` in `web/` and kept in the binary, each with the Brotli and gzip forms
//! that the build made: nothing is compressed here.

use super::problem::Problem;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Dist;

/// The console's views; each is the same page, which looks at its own address.
const VIEWS: [&str; 15] = [
    "/",
    "/path",
    "/sessions",
    "/flows",
    "/history",
    "/rules",
    "/explain",
    "/trace",
    "/nat",
    "/who-had",
    "/captures",
    "/enrolments",
    "/changes",
    "/users",
    "/update",
];

const PAGE: &str = "index.html";

/// Forms of a file, best first: the name in `Accept-Encoding`, and what the build adds to the file's name.
const ENCODINGS: [(&str, &str); 2] = [("br", ".br"), ("gzip", ".gz")];

/// Whether a request asks for nothing but the console's own files, which anyone may have.
pub(super) fn is_public(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && file_of(request.uri().path()).is_some()
}

/// The file that a path stands for: a view's page, or a file of that very name.
fn file_of(path: &str) -> Option<&str> {
    if VIEWS.contains(&path) {
        return Some(PAGE);
    }
    let name = path.strip_prefix('/')?;
    let compressed = ENCODINGS.iter().any(|(_, suffix)| name.ends_with(suffix));
    (!compressed && Dist::get(name).is_some()).then_some(name)
}

pub(super) async fn serve(request: Request) -> Response {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return super::problem::method_not_allowed().await.into_response();
    }
    let Some(name) = file_of(path) else {
        return Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}")).into_response();
    };
    let Some(plain) = Dist::get(name) else { return not_built() };
    let accepted = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let form = ENCODINGS.iter().find_map(|(encoding, suffix)| {
        let wanted = accepts(accepted.unwrap_or_default(), encoding);
        Some((*encoding, Dist::get(&format!("{name}{suffix}")).filter(|_| wanted)?))
    });
    let (encoding, file) = match form {
        Some((encoding, file)) => (Some(encoding), file),
        None => (None, plain),
    };
    answer(name, encoding, file, request.headers())
}

fn answer(name: &str, encoding: Option<&'static str>, file: EmbeddedFile, asked: &HeaderMap) -> Response {
    let etag = etag_of(&file);
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.is_some_and(|known| names(known, &etag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Body::from(file.data).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(name)));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    // Vite puts a hash of the content into the names of what is under assets/.
    let forever = name.starts_with("assets/");
    let keep = if forever { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    response
}

/// Of the very bytes sent, so that each form of a file has its own.
fn etag_of(file: &EmbeddedFile) -> String {
    let hash = file.metadata.sha256_hash();
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// Whether an `If-None-Match` list names the tag; weakly compared (RFC 9110 section 13.1.2).
fn names(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Whether `Accept-Encoding` (RFC 9110 section 12.5.3) takes an encoding: named or by `*`, and not with a weight of 0.
fn accepts(header: &str, encoding: &str) -> bool {
    let weight_of = |wanted: &str| {
        header.split(',').find_map(|item| {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = parameters.trim().strip_prefix("q=").unwrap_or("1");
            name.trim().eq_ignore_ascii_case(wanted).then(|| weight.parse::<f32>().unwrap_or(0.0))
        })
    };
    weight_of(encoding).or_else(|| weight_of("*")).is_some_and(|weight| weight > 0.0)
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("txt") => "text/plain; charset=utf-8",
        Some("webmanifest" | "json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// A binary built before the console was: the API is there all the same.
fn not_built() -> Response {
    let page = "popgate runs, but this binary was built without its console.\n\n\
        Build it with `npm ci && npm run build` in web/, then build popgate again.\n\
        Until then: `popgate show status`, or the API under /api/v1.\n";
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (StatusCode::SERVICE_UNAVAILABLE, plain, page).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_taken_when_named_and_not_weighed_zero() {
        assert!(accepts("gzip, deflate, br", "br"));
        assert!(accepts("gzip;q=0.5", "gzip"));
        assert!(accepts("*", "br"));
        assert!(!accepts("", "br"));
        assert!(!accepts("gzip, br;q=0", "br"));
        assert!(!accepts("*;q=0", "br"));
        assert!(!accepts("*, br;q=0", "br"));
        assert!(!accepts("brotli", "br"));
    }

    #[test]
    fn a_tag_is_found_in_a_list_weak_or_strong() {
        assert!(names("\"a\", W/\"b\"", "\"b\""));
        assert!(names("*", "\"b\""));
        assert!(!names("\"a\"", "\"b\""));
    }

    #[test]
    fn only_views_and_existing_files_are_public() {
        assert_eq!(file_of("/sessions"), Some(PAGE));
        let closed =
            ["/api/v1/status", "/api", "/sessions/", "//", "/index.html.br", "/../Cargo.toml", "", "*"];
        for path in closed.into_iter().chain(["/%69ndex.html", "/assets/", "/assets"]) {
            assert_eq!(file_of(path), None, "{path}");
        }
    }
}
