//! HTTP/1: the host that a request is for (RFC 9112 section 3.2), without waiting for the rest of its head.
//!
//! HTTP/2 without TLS begins with a preface that looks like a request of that version and names nobody (RFC 9113 section
//! 3.4); its fields are compressed, and it is not spoken by browsers.

use super::inspect::Unnamed;
use crate::model::HostName;

/// The longest in IANA's registry of methods has 17.
const MAX_METHOD_BYTES: usize = 20;

/// The host in the request that a TCP stream begins with.
pub(super) fn host(stream: &[u8]) -> Result<HostName, Unnamed> {
    // RFC 9112 section 2.2: an empty line before the request is passed over.
    let stream = stream.strip_prefix(b"\r\n").unwrap_or(stream);
    if !may_be_request(stream) {
        return Err(Unnamed::Never);
    }
    let mut lines = Lines(stream);
    match target_host(lines.next_line()?)? {
        Some(host) => Ok(host),
        None => host_field(lines),
    }
}

/// Whether a method stands there, as far as can be seen: what is something else should be known at once.
fn may_be_request(stream: &[u8]) -> bool {
    if matches!(stream, [] | [b'\r']) {
        return true;
    }
    let method = stream.split(|byte| *byte == b' ').next().unwrap_or_default();
    (1..=MAX_METHOD_BYTES).contains(&method.len())
        && method.iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
}

/// The host in the request line; `None` if it is in a field. In absolute form the target counts, whatever the field says
/// (RFC 9112 section 3.2.2).
fn target_host(line: &[u8]) -> Result<Option<HostName>, Unnamed> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Unnamed::Never);
    };
    if !matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9']) {
        return Err(Unnamed::Never);
    }
    if method == b"CONNECT" {
        return authority_host(target).map(Some);
    }
    if target.starts_with(b"/") || target == b"*" {
        return Ok(None);
    }
    let scheme_end = target.windows(3).position(|three| three == b"://").ok_or(Unnamed::Never)?;
    let authority = target[scheme_end + 3..].split(|byte| matches!(byte, b'/' | b'?' | b'#')).next();
    authority_host(authority.unwrap_or_default()).map(Some)
}

/// RFC 9110 section 7.2.
fn host_field(mut lines: Lines) -> Result<HostName, Unnamed> {
    loop {
        let line = lines.next_line()?;
        // The end of the head, or a line that goes on (RFC 9112 section 5.2): it belongs to another field than Host.
        if line.is_empty() {
            return Err(Unnamed::Never);
        }
        if matches!(line[0], b' ' | b'\t') {
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Unnamed::Never)?;
        if line[..colon].eq_ignore_ascii_case(b"host") {
            return authority_host(line[colon + 1..].trim_ascii());
        }
    }
}

/// The host of `host [ ":" port ]`; an address is none.
fn authority_host(authority: &[u8]) -> Result<HostName, Unnamed> {
    let mut parts = authority.split(|byte| *byte == b':');
    let host = parts.next().unwrap_or_default();
    let port = parts.next().unwrap_or_default();
    if parts.next().is_some() || !port.iter().all(u8::is_ascii_digit) {
        return Err(Unnamed::Never);
    }
    HostName::new(host).ok_or(Unnamed::Never)
}

/// A request, as far as its beginning tells: what a server of one page has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    pub method: &'a [u8],
    /// Without the query.
    pub path: &'a [u8],
    /// In the Host field, as it is written there; a port is left out.
    pub host: Option<&'a [u8]>,
    /// It asks for JSON, and takes it rather than text.
    pub wants_json: bool,
}

impl<'a> HttpRequest<'a> {
    /// Reads the beginning of a connection; of a head that goes on, what is there. `None` if that is no request.
    pub fn read(stream: &'a [u8]) -> Option<HttpRequest<'a>> {
        if !may_be_request(stream) {
            return None;
        }
        let mut lines = Lines(stream);
        let mut words = lines.next_line().ok()?.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with(b"HTTP/1.") || words.next().is_some() {
            return None;
        }
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let mut request = HttpRequest { method, path, host: None, wants_json: false };
        while let Ok(line) = lines.next_line()
            && let Some(colon) = line.iter().position(|byte| *byte == b':')
        {
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"host") {
                request.host = Some(without_port(value));
            } else if name.eq_ignore_ascii_case(b"accept") {
                // The first of what it names is what it wants most; quality values are for those with much to choose from.
                let first = value.split(|byte| matches!(byte, b',' | b';')).next().unwrap_or_default();
                request.wants_json = first.trim_ascii().eq_ignore_ascii_case(b"application/json");
            }
        }
        Some(request)
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port` without the port and the brackets (RFC 3986 section 3.2.2).
fn without_port(host: &[u8]) -> &[u8] {
    match host.strip_prefix(b"[") {
        Some(rest) => rest.split(|byte| *byte == b']').next(),
        None => host.split(|byte| *byte == b':').next(),
    }
    .unwrap_or_default()
}

struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// The next line, without its end: CRLF, or LF alone (RFC 9112 section 2.2).
    fn next_line(&mut self) -> Result<&'a [u8], Unnamed> {
        let end = self.0.iter().position(|byte| *byte == b'\n').ok_or(Unnamed::NotYet)?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(request: &str) -> Result<String, Unnamed> {
        host(request.as_bytes()).map(|name| name.to_string())
    }

    #[test]
    fn a_requests_host_is_named_in_each_form() {
        for request in [
            "GET / HTTP/1.1\r\nHost: Www.Example.COM\r\n\r\n",
            "GET / HTTP/1.1\r\nhost:www.example.com:8080  \r\n",
            "POST /a?b HTTP/1.0\nAccept: */*\nHOST:\twww.example.com\n",
            "\r\nOPTIONS * HTTP/1.1\r\nUser-Agent: x\r\n y: z\r\nHost: www.example.com.\r\n\r\n",
            "GET http://www.example.com/path HTTP/1.1\r\nHost: other.example\r\n\r\n",
            "GET http://www.example.com?query HTTP/1.1\r\n",
            "CONNECT www.example.com:443 HTTP/1.1\r\n",
            "VERSION-CONTROL / HTTP/1.1\r\nHost: www.example.com\r\n",
        ] {
            assert_eq!(named(request), Ok("www.example.com".to_owned()), "{request:?}");
        }
    }

    #[test]
    fn what_names_no_host_never_will() {
        for request in [
            "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : www.example.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: www.example.com:http\r\n\r\n",
            "GET / HTTP/1.1\r\nno field\r\nHost: www.example.com\r\n\r\n",
            "GET http://user@www.example.com/ HTTP/1.1\r\n",
            "GET www.example.com HTTP/1.1\r\n",
            "GET /\r\n",
            "GET / a b HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "get / HTTP/1.1\r\n",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            " / HTTP/1.1\r\n",
            "\u{0}",
        ] {
            assert_eq!(named(request), Err(Unnamed::Never), "{request:?}");
        }
    }

    #[test]
    fn a_head_cut_anywhere_before_its_hosts_end_is_waited_for() {
        let head = "\r\nGET /path HTTP/1.1\r\nUser-Agent: a\r\nHost: www.example.com\r\n";
        for end in 0..head.len() {
            assert_eq!(named(&head[..end]), Err(Unnamed::NotYet), "{end}");
        }
        assert!(named(head).is_ok());
    }
}
