//! Echo requests (RFC 792, RFC 4443 section 4.1): what a way is measured by whose far end is no popgate.
//!
//! A probe is one request to each target, and its answer is the first reply to any: a target that is dead, or has better things
//! to do than to answer, is no dead line. An echo tells round trips: half of one counts as the latency of either direction, and
//! what is lost counts as lost in both ([`super::Prober::echoed`]).

use crate::wire::{self, Parsed, Upper};
use std::net::IpAddr;

/// The secret and the whole sequence number.
const PAYLOAD_BYTES: usize = 12;

/// Who is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Echo {
    source: IpAddr,
    targets: Box<[IpAddr]>,
    identifier: u16,
    /// Who has not seen a request cannot answer it.
    secret: u64,
}

impl Echo {
    /// Asks `targets` for `source`. `secret` must be unpredictable.
    pub fn new(source: IpAddr, targets: &[IpAddr], identifier: u16, secret: u64) -> Echo {
        Echo { source, targets: targets.into(), identifier, secret }
    }

    /// The requests of the probe with this sequence number.
    pub fn requests(&self, sequence: u32) -> impl Iterator<Item = Vec<u8>> {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&self.secret.to_be_bytes());
        payload[8..].copy_from_slice(&sequence.to_be_bytes());
        self.targets.iter().filter_map(move |target| {
            wire::echo_request(self.source, *target, (self.identifier, sequence as u16), &payload)
        })
    }

    /// The sequence number of the probe that a packet answers, if it does.
    pub fn answered(&self, packet: &[u8], parsed: &Parsed) -> Option<u32> {
        let is_ours = parsed.upper == Upper::EchoReply { id: self.identifier }
            && parsed.destination(packet) == self.source
            && self.targets.contains(&parsed.source(packet));
        let payload = packet.get(parsed.upper_at + 8..parsed.len).filter(|_| is_ours)?;
        let (secret, sequence) = payload.split_first_chunk()?;
        (u64::from_be_bytes(*secret) == self.secret)
            .then(|| sequence.first_chunk().map(|sequence| u32::from_be_bytes(*sequence)))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "192.0.2.77";
    const TARGETS: [&str; 2] = ["203.0.113.53", "203.0.113.54"];

    fn asking(source: &str, targets: &[&str]) -> Echo {
        let targets: Vec<IpAddr> = targets.iter().map(|target| target.parse().expect("an address")).collect();
        Echo::new(source.parse().expect("an address"), &targets, 52_000, 7)
    }

    /// The reply to a request: the addresses change places, and the type is another.
    fn reply(request: &[u8]) -> Vec<u8> {
        let parsed = wire::parse(request).expect("a request");
        let (at, length) = if parsed.ipv4 { (12, 4) } else { (8, 16) };
        let mut reply = request.to_vec();
        reply[at..at + 2 * length].rotate_left(length);
        reply[parsed.upper_at] = if parsed.ipv4 { 0 } else { 129 };
        reply
    }

    fn answered(echo: &Echo, packet: &[u8]) -> Option<u32> {
        echo.answered(packet, &wire::parse(packet).expect("a packet"))
    }

    #[test]
    fn each_target_is_asked_and_each_reply_tells_which_probe_it_answers() {
        for (source, targets) in [(SOURCE, &TARGETS[..]), ("2001:db8::1", &["2001:db8::53"][..])] {
            let echo = asking(source, targets);
            let requests: Vec<Vec<u8>> = echo.requests(70_000).collect();
            assert_eq!(requests.len(), targets.len());
            for request in requests {
                let parsed = wire::parse(&request).expect("sound, with its checksums");
                assert_eq!(parsed.upper, Upper::EchoRequest { id: 52_000 });
                assert_eq!(answered(&echo, &reply(&request)), Some(70_000));
                assert_eq!(answered(&echo, &request), None, "what comes back as it went is no reply");
            }
        }
    }

    #[test]
    fn only_who_was_asked_and_has_seen_the_request_answers_it() {
        let echo = asking(SOURCE, &TARGETS[..1]);
        let stranger = asking(SOURCE, &TARGETS[1..]).requests(1).next().expect("one");
        assert_eq!(answered(&echo, &reply(&stranger)), None);
        let request = echo.requests(1).next().expect("one");
        let mut guessed = reply(&request);
        guessed[28 + 7] ^= 1;
        assert_eq!(answered(&echo, &guessed), None, "another secret");
        let short =
            wire::echo_request(echo.source, echo.targets[0], (52_000, 1), &[0; 4]).expect("one family");
        assert_eq!(answered(&echo, &reply(&short)), None);
    }
}
