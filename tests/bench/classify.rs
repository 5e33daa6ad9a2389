//! What a flow's first bytes cost until its server's name is known, and what a DNS answer costs.
//!
//! Real clients' bytes, of `tests/corpus`. Beside each a naive twin that finds the same name, by the shortest code that does
//! rather than the shortest time; beside QUIC's, ring taking the AEAD off the same packets alone.

use crate::measure::{cpu_time, median, since};
use crate::{ROUNDS, Wanted};
use popgate::model::{HostName, Protocol};
use popgate::wire::{DnsResponse, Inspection, Progress};
use ring::aead;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hint::black_box;

/// Names found in one round.
const TIMES: usize = 2_000;

const TLS_CHROMIUM: &[u8] = include_bytes!("../corpus/inspect_tcp/tls-chromium.bin");
const TLS_CURL: &[u8] = include_bytes!("../corpus/inspect_tcp/tls-curl.bin");
const HTTP_CHROMIUM: &[u8] = include_bytes!("../corpus/inspect_tcp/http-chromium.bin");
const QUIC_CHROMIUM: &[u8] = include_bytes!("../corpus/inspect_udp/quic-chromium.bin");
const DNS_ALIASES: &[u8] = include_bytes!("../corpus/dns/aliases.bin");

/// Runs the cases that are `wanted`; their rows.
pub fn rows(wanted: &Wanted) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut case =
        |name: &str, protocol: Protocol, pieces: &[&[u8]], naive: &dyn Fn(&[&[u8]]) -> Option<String>| {
            let name = format!("classifier, {name}");
            if !wanted.has(&name) {
                return;
            }
            let found = inspect(protocol, pieces).map(|name| name.to_string());
            // ring finds nothing: it is a part of the work.
            assert!(protocol == Protocol::UDP || found == naive(pieces), "{name}: {found:?}");
            rows.push(row(&name, pieces, || inspect(protocol, pieces), || naive(pieces)));
        };
    let tcp = Protocol::TCP;
    case("TLS of Chromium, one segment", tcp, &[TLS_CHROMIUM], &naive_tls);
    let (first, second) = TLS_CHROMIUM.split_at(1_380);
    case("TLS of Chromium, two segments", tcp, &[first, second], &naive_tls);
    case("TLS of curl, one segment", tcp, &[TLS_CURL], &naive_tls);
    case("HTTP of Chromium", tcp, &[HTTP_CHROMIUM], &naive_http);
    let datagrams = QUIC_CHROMIUM.split_at(2 + 1_250);
    case(
        "QUIC of Chromium, two datagrams",
        Protocol::UDP,
        &[&datagrams.0[2..], &datagrams.1[2..]],
        &ring_alone,
    );
    // RTP: what most datagrams that are looked at are.
    let media = [&[0x80, 111, 0, 1][..], &[7; 160]].concat();
    case("nothing to be found (RTP)", Protocol::UDP, &[&media], &|_| None);
    let name = "classifier, DNS answer with two aliases";
    if wanted.has(name) {
        assert_eq!(learn(DNS_ALIASES), naive_dns(DNS_ALIASES));
        rows.push(row(name, &[DNS_ALIASES], || learn(DNS_ALIASES), || naive_dns(DNS_ALIASES)));
    }
    rows
}

fn row<A, B>(name: &str, pieces: &[&[u8]], ours: impl Fn() -> A, naive: impl Fn() -> B) -> Value {
    let (mut spent, mut naively) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        spent.push(time(&ours));
        naively.push(time(&naive));
    }
    let (ns, naive_ns) = (median(spent), median(naively));
    let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    let bytes_per_second = bytes as f64 / ns * 1e9;
    println!("{name:48} {ns:>7.0} ns, {:>7.0} MB/s; naive {naive_ns:>7.0} ns", bytes_per_second / 1e6);
    json!({
        "name": name,
        "direction": "up",
        "bytes": bytes,
        "sessions": 1,
        "rules": 0,
        "tunnels": 0,
        "workers": 1,
        "ns_per_packet": ns / pieces.len() as f64,
        "ns_per_flow": ns,
        "bytes_per_second": bytes_per_second,
        "naive_ns_per_flow": naive_ns,
        "ratio": ns / naive_ns,
    })
}

/// Nanoseconds that `work` takes.
fn time<R>(work: impl Fn() -> R) -> f64 {
    let begin = cpu_time();
    for _ in 0..TIMES {
        black_box(work());
    }
    since(begin) / TIMES as f64
}

fn inspect(protocol: Protocol, pieces: &[&[u8]]) -> Option<HostName> {
    let mut inspection = Inspection::new(protocol, 443)?;
    let mut sequence = 1;
    for piece in pieces {
        let progress = match protocol {
            Protocol::TCP => inspection.feed_tcp(sequence, piece),
            _ => inspection.feed_udp(piece),
        };
        sequence += piece.len() as u32;
        if let Progress::Named { name, .. } = progress {
            return Some(name);
        }
    }
    None
}

fn learn(message: &[u8]) -> Vec<String> {
    let Some(response) = DnsResponse::read(message) else { return Vec::new() };
    // As text, so that it can be compared; a name in a packet needs none of its own.
    response.addresses().map(|address| address.address.to_string()).collect()
}

/// All extensions into a map.
fn naive_tls(pieces: &[&[u8]]) -> Option<String> {
    let hello = pieces.concat();
    let word = |at: usize| Some(usize::from(*hello.get(at)?) << 8 | usize::from(*hello.get(at + 1)?));
    let mut at = 5 + 4 + 34;
    at += 1 + usize::from(*hello.get(at)?);
    at += 2 + word(at)?;
    at += 1 + usize::from(*hello.get(at)?) + 2;
    let mut extensions = HashMap::new();
    while let (Some(kind), Some(bytes)) = (word(at), word(at + 2)) {
        extensions.insert(kind, hello.get(at + 4..at + 4 + bytes)?.to_vec());
        at += 4 + bytes;
    }
    String::from_utf8(extensions.get(&0)?.get(5..)?.to_vec()).ok()
}

/// All fields into a map.
fn naive_http(pieces: &[&[u8]]) -> Option<String> {
    let head = String::from_utf8(pieces.concat()).ok()?;
    let fields: HashMap<String, &str> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    fields.get("host")?.split(':').next().map(str::to_owned)
}

/// All names as text, all records in a map.
fn naive_dns(message: &[u8]) -> Vec<String> {
    fn name(message: &[u8], mut at: usize) -> (String, usize) {
        let mut labels = Vec::new();
        let mut end = None;
        loop {
            let length = usize::from(message[at]);
            match length {
                0 => break,
                0xc0.. => {
                    end = end.or(Some(at + 2));
                    at = (length & 0x3f) << 8 | usize::from(message[at + 1]);
                }
                _ => {
                    labels.push(String::from_utf8_lossy(&message[at + 1..at + 1 + length]).to_lowercase());
                    at += 1 + length;
                }
            }
        }
        (labels.join("."), end.unwrap_or(at + 1))
    }
    let (question, at) = name(message, 12);
    let mut at = at + 4;
    let mut records: HashMap<(String, u8), Vec<(usize, usize)>> = HashMap::new();
    for _ in 0..message[7] {
        let (owner, fields) = name(message, at);
        let length = usize::from(message[fields + 9]);
        records.entry((owner, message[fields + 1])).or_default().push((fields + 10, length));
        at = fields + 10 + length;
    }
    let mut owner = question;
    while let Some(alias) = records.get(&(owner.clone(), 5)) {
        owner = name(message, alias[0].0).0;
    }
    let addresses = records.get(&(owner, 1)).into_iter().flatten();
    addresses
        .map(|(at, _)| {
            format!("{}.{}.{}.{}", message[*at], message[at + 1], message[at + 2], message[at + 3])
        })
        .collect()
}

fn ring_alone(datagrams: &[&[u8]]) -> Option<String> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, &[7; 16]).ok()?);
    for datagram in datagrams {
        let mut bytes = datagram.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key([7; 12]);
        // Not the right key: the work is the same.
        let _ = black_box(key.open_in_place(nonce, aead::Aad::empty(), &mut bytes));
    }
    None
}
