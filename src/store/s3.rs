//! How a request to a store that speaks S3 is signed: AWS Signature Version 4, for requests whose payload's hash is known.

use crate::model::Civil;
use ring::{digest, hmac};
use std::fmt::Write as _;

/// Who signs, and for where.
pub struct Signer<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    pub region: &'a str,
}

/// What is signed.
pub struct Request<'a> {
    pub method: &'a str,
    /// As the Host header has it.
    pub host: &'a str,
    /// [`encoded`].
    pub path: &'a str,
    /// Headers besides Host, in lower case and in order.
    pub headers: &'a [(&'a str, &'a str)],
    /// Of the payload; in hexadecimal.
    pub sha256: &'a str,
}

impl Signer<'_> {
    /// The Authorization header of a request made at `date`, which is also its `x-amz-date`.
    pub fn authorization(&self, request: &Request<'_>, date: &str) -> String {
        let day = date.get(..8).unwrap_or(date);
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let headers = || [("host", request.host)].into_iter().chain(request.headers.iter().copied());
        let names: Vec<&str> = headers().map(|(name, _)| name).collect();
        let names = names.join(";");
        let Request { method, path, sha256, .. } = request;
        let mut canonical = format!("{method}\n{path}\n\n");
        for (name, value) in headers() {
            // Writing into a String cannot fail.
            let _ = writeln!(canonical, "{name}:{}", value.trim());
        }
        let _ = write!(canonical, "\n{names}\n{sha256}");
        let told = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{told}");
        let sign =
            |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let mut key = sign(format!("AWS4{}", self.secret_access_key).as_bytes(), day);
        for text in [self.region, "s3", "aws4_request"] {
            key = sign(key.as_ref(), text);
        }
        let signature = hex(sign(key.as_ref(), &to_sign).as_ref());
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
            self.access_key_id
        )
    }
}

/// `20130524T000000Z`.
pub fn date(unix_secs: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::at(unix_secs);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// A path as it is sent and signed: all but letters, digits, `-`, `.`, `_`, `~` and slashes by their numbers.
pub fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into())
            }
            other => drop(write!(text, "%{other:02X}")),
        }
    }
    text
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first example of "Signature Calculations for the Authorization Header" in Amazon's S3 API reference.
    #[test]
    fn the_signature_is_that_of_amazons_example() {
        let signer = Signer {
            access_key_id: "AKIAIOSFODNN7EXAMPLE",
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
        };
        let date = date(1_369_353_600);
        assert_eq!(date, "20130524T000000Z");
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let get = Request {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            headers: &[("range", "bytes=0-9"), ("x-amz-content-sha256", nothing), ("x-amz-date", &date)],
            sha256: nothing,
        };
        let signed = "AWS4-HMAC-SHA256 \
             Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(signer.authorization(&get, &date), signed);
    }

    #[test]
    fn names_of_files_are_sent_by_numbers_where_they_must_be() {
        assert_eq!(
            encoded("/flows/fra1/tenant=acme/a_b~c.d-e é"),
            "/flows/fra1/tenant%3Dacme/a_b~c.d-e%20%C3%A9"
        );
    }
}
