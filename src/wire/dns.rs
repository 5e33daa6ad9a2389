//! DNS (RFC 1035). Responses: which addresses a name stands for. And queries for a name of our own, with their answer.
//!
//! Only what was asked is learned: the addresses that the answer section gives for the question's name, directly or by a
//! chain of aliases. A response that is an error, cut short or broken teaches nothing at all. Names are compared where
//! they lie; those that are given out are copied, and nothing is allocated.
//!
//! Whether the response may be believed, because it is the answer to a query from a resolver that policy trusts, is for the
//! session that it belongs to to say.

use super::parse::{be16, be32};
use crate::model::HostName;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where resolvers are asked (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

const HEADER_BYTES: usize = 12;
/// Of a name on the wire, the root's length octet included (RFC 1035 section 2.3.4).
const MAX_NAME_OCTETS: usize = 255;
/// Pointers in one name. Who compresses needs one; a few more come of names that end in compressed names.
const MAX_POINTERS: usize = 16;
/// Names in a chain of aliases: resolvers follow no more than this either.
const MAX_NAMES: usize = 16;
/// Answers looked at: twice what fits into 1,232 bytes, the size that responses over UDP keep to. Those behind teach
/// nothing.
const MAX_ANSWERS: usize = 128;

const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;

/// What a response says of its question's name.
#[derive(Clone, Copy, Debug)]
pub struct DnsResponse<'a> {
    message: &'a [u8],
    /// Where the answers begin, and how many of them are looked at.
    answers_at: usize,
    answers: usize,
    /// Where the question's name stands, then what each alias stands for; `names` of them.
    chain: [usize; MAX_NAMES],
    names: usize,
    /// The shortest of the aliases'.
    alias_ttl_secs: u32,
}

/// An address that a response gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsAddress {
    pub address: IpAddr,
    /// How long it may be remembered: the shortest TTL on the way from the question to it.
    pub ttl_secs: u32,
}

impl<'a> DnsResponse<'a> {
    /// Reads the payload of a UDP datagram, or one of [`dns_messages`].
    ///
    /// `None` for what is no sound, complete, successful response to one question of class IN about a host name.
    pub fn read(message: &'a [u8]) -> Option<DnsResponse<'a>> {
        let header: &[u8; HEADER_BYTES] = message.first_chunk()?;
        // RFC 1035 section 4.1.1: QR is set, OPCODE is 0, TC is not set, RCODE is 0.
        if be16(header, 2) & 0xfa0f != 0x8000 || be16(header, 4) != 1 {
            return None;
        }
        let (_, answers_at) = question(message)?;
        let mut response = DnsResponse {
            message,
            answers_at,
            answers: usize::from(be16(header, 6)).min(MAX_ANSWERS),
            chain: [HEADER_BYTES; MAX_NAMES],
            names: 1,
            alias_ttl_secs: u32::MAX,
        };
        response.name_at(HEADER_BYTES)?;
        if response.records().count() != response.answers {
            return None;
        }
        response.follow_aliases()?;
        Some(response)
    }

    /// The question's name, then the names that it is an alias of, in order (RFC 1034 section 3.6.2). A name in between
    /// that is no host's is left out.
    pub fn names(&self) -> impl Iterator<Item = HostName> {
        self.chain[..self.names].iter().filter_map(|at| self.name_at(*at))
    }

    /// The addresses of all [`DnsResponse::names`].
    pub fn addresses(&self) -> impl Iterator<Item = DnsAddress> {
        let last = self.chain[self.names - 1];
        self.records().filter_map(move |record| {
            let address = match (record.kind, record.data.len()) {
                (TYPE_A, 4) => IpAddr::V4(Ipv4Addr::from(*record.data.first_chunk::<4>()?)),
                (TYPE_AAAA, 16) => IpAddr::V6(Ipv6Addr::from(*record.data.first_chunk::<16>()?)),
                _ => return None,
            };
            let ttl_secs = record.ttl_secs.min(self.alias_ttl_secs);
            same_name(self.message, record.owner_at, last).then_some(DnsAddress { address, ttl_secs })
        })
    }

    /// In whatever order the records stand: resolvers do not all keep the chain's.
    fn follow_aliases(&mut self) -> Option<()> {
        loop {
            let last = self.chain[self.names - 1];
            let alias = self
                .records()
                .find(|record| record.kind == TYPE_CNAME && same_name(self.message, record.owner_at, last));
            let Some(alias) = alias else { return Some(()) };
            // Longer than any honest chain is also what goes round.
            *self.chain.get_mut(self.names)? = alias.data_at;
            self.names += 1;
            self.alias_ttl_secs = self.alias_ttl_secs.min(alias.ttl_secs);
        }
    }

    /// The answers of class IN, up to the first broken one.
    fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let message = self.message;
        let (mut at, mut left) = (self.answers_at, self.answers);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (record, next) = Record::read(message, at)?;
            at = next;
            Some(record)
        })
    }

    fn name_at(&self, at: usize) -> Option<HostName> {
        HostName::from_labels(Labels::at(self.message, at))
    }
}

/// A query for one name, and what answers it from here.
#[derive(Clone, Copy, Debug)]
pub struct DnsQuestion<'a> {
    message: &'a [u8],
    /// Where the question ends.
    end: usize,
    pub name: HostName,
    kind: u16,
}

impl<'a> DnsQuestion<'a> {
    /// Reads the payload of a UDP datagram. `None` for what is no query of class IN for one host name.
    pub fn read(message: &'a [u8]) -> Option<DnsQuestion<'a>> {
        let header: &[u8; HEADER_BYTES] = message.first_chunk()?;
        // RFC 1035 section 4.1.1: neither QR nor an OPCODE; one question.
        if be16(header, 2) & 0xf800 != 0 || be16(header, 4) != 1 {
            return None;
        }
        let (kind, end) = question(message)?;
        let name = HostName::from_labels(Labels::at(message, HEADER_BYTES))?;
        Some(DnsQuestion { message, end, name, kind })
    }

    /// The authoritative answer that the name stands for these of `addresses` that were asked for. The question is repeated to
    /// the letter: resolvers tell by its capitals whom they have asked.
    pub fn answer(&self, addresses: &[IpAddr], ttl_secs: u32) -> Vec<u8> {
        // QR and AA, and RD as it was asked.
        const RESPONSE: u8 = 0x84;
        // A pointer to the question's name (RFC 1035 section 4.1.4).
        const NAME: [u8; 2] = [0xc0, HEADER_BYTES as u8];
        let kind_of = |address: &IpAddr| if address.is_ipv4() { TYPE_A } else { TYPE_AAAA };
        let asked: Vec<&IpAddr> = addresses.iter().filter(|address| kind_of(address) == self.kind).collect();
        let mut out = Vec::with_capacity(self.end + 28 * asked.len());
        out.extend_from_slice(&self.message[..2]);
        out.extend_from_slice(&[RESPONSE | self.message[2] & 1, 0, 0, 1, 0, asked.len() as u8, 0, 0, 0, 0]);
        out.extend_from_slice(&self.message[HEADER_BYTES..self.end]);
        for address in asked {
            out.extend_from_slice(&NAME);
            out.extend_from_slice(&kind_of(address).to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&ttl_secs.to_be_bytes());
            match address {
                IpAddr::V4(v4) => out.extend_from_slice(&[&[0, 4][..], &v4.octets()].concat()),
                IpAddr::V6(v6) => out.extend_from_slice(&[&[0, 16][..], &v6.octets()].concat()),
            }
        }
        out
    }
}

/// The whole messages at the beginning of a TCP segment's payload, each behind its length (RFC 1035 section 4.2.2). One
/// that spans segments is not put together: what asks over TCP has mostly asked over UDP before.
pub fn dns_messages(mut stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = stream.split_first_chunk::<2>()?;
        let (message, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        stream = rest;
        Some(message)
    })
}

/// The type that a message's first question is about, and where it ends; `None` if it is of no class but IN.
fn question(message: &[u8]) -> Option<(u16, usize)> {
    let fields_at = skip_name(message, HEADER_BYTES)?;
    let fields: &[u8; 4] = message.get(fields_at..)?.first_chunk()?;
    (be16(fields, 2) == CLASS_IN).then(|| (be16(fields, 0), fields_at + fields.len()))
}

/// A resource record (RFC 1035 section 3.2.1).
struct Record<'a> {
    owner_at: usize,
    kind: u16,
    ttl_secs: u32,
    data: &'a [u8],
    data_at: usize,
}

impl<'a> Record<'a> {
    /// The record at `at`, and where the next one begins.
    fn read(message: &'a [u8], at: usize) -> Option<(Record<'a>, usize)> {
        let fields_at = skip_name(message, at)?;
        let fields: &[u8; 10] = message.get(fields_at..)?.first_chunk()?;
        let data_at = fields_at + fields.len();
        let data = message.get(data_at..data_at + usize::from(be16(fields, 8)))?;
        // Of another class there is nothing to learn; a kind that nobody looks for stands for it.
        let kind = if be16(fields, 2) == CLASS_IN { be16(fields, 0) } else { 0 };
        // RFC 2181 section 8: with its highest bit set, a TTL is none.
        let ttl_secs = be32(fields, 4);
        let ttl_secs = if ttl_secs > i32::MAX as u32 { 0 } else { ttl_secs };
        Some((Record { owner_at: at, kind, ttl_secs, data, data_at }, data_at + data.len()))
    }
}

/// The labels of a name, with compression undone (RFC 1035 section 4.1.4). What is broken ends with `None`.
struct Labels<'a> {
    message: &'a [u8],
    at: usize,
    /// A pointer leads to a prior occurrence of the rest of the name: before where this piece began. So none goes round.
    piece_at: usize,
    pointers: usize,
    octets: usize,
    over: bool,
}

impl<'a> Labels<'a> {
    fn at(message: &'a [u8], at: usize) -> Labels<'a> {
        Labels { message, at, piece_at: at, pointers: 0, octets: 0, over: false }
    }

    /// The next label, empty for the root.
    fn step(&mut self) -> Option<&'a [u8]> {
        loop {
            let length = usize::from(*self.message.get(self.at)?);
            match length >> 6 {
                0 => {
                    let label = self.message.get(self.at + 1..self.at + 1 + length)?;
                    self.at += 1 + length;
                    self.octets += 1 + length;
                    return (self.octets <= MAX_NAME_OCTETS).then_some(label);
                }
                3 => {
                    let pointer: &[u8; 2] = self.message.get(self.at..)?.first_chunk()?;
                    let to = usize::from(be16(pointer, 0) & 0x3fff);
                    self.pointers += 1;
                    if to >= self.piece_at || self.pointers > MAX_POINTERS {
                        return None;
                    }
                    (self.at, self.piece_at) = (to, to);
                }
                // RFC 6891 section 5: label types that came to nothing.
                _ => return None,
            }
        }
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        if self.over {
            return None;
        }
        let label = self.step();
        self.over = label.is_none_or(<[u8]>::is_empty);
        (label != Some(&[])).then_some(label)
    }
}

/// Where what follows the name at `at` begins.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let end = at + MAX_NAME_OCTETS;
    while at < end {
        let length = usize::from(*message.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some(at + 1),
            0 => at += 1 + length,
            3 => return Some(at + 2),
            _ => return None,
        }
    }
    None
}

/// Capital letters are small ones (RFC 4343); a broken name is the same as none.
fn same_name(message: &[u8], a: usize, b: usize) -> bool {
    let (mut a, mut b) = (Labels::at(message, a), Labels::at(message, b));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(Some(a)), Some(Some(b))) if a.eq_ignore_ascii_case(b) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOERROR: u16 = 0x8180;
    /// A pointer to the question's name.
    const QUESTION: &[u8] = &[0xc0, 12];

    fn wire(name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
        out
    }

    fn message(flags: u16, question: &str, answers: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![0x12, 0x34];
        for field in [flags, 1, answers.len() as u16, 0, 0] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&wire(question));
        out.extend_from_slice(&[0, 1, 0, 1]);
        answers.iter().for_each(|answer| out.extend_from_slice(answer));
        out
    }

    fn record(owner: &[u8], kind: u16, ttl_secs: u32, data: &[u8]) -> Vec<u8> {
        let mut out = owner.to_vec();
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        out.extend_from_slice(&ttl_secs.to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
        out
    }

    /// Names, and addresses with their TTLs.
    type Learned = Option<(Vec<String>, Vec<(String, u32)>)>;

    fn learned(message: &[u8]) -> Learned {
        let response = DnsResponse::read(message)?;
        let names = response.names().map(|name| name.to_string()).collect();
        Some((names, response.addresses().map(|a| (a.address.to_string(), a.ttl_secs)).collect()))
    }

    fn is(names: &[&str], addresses: &[(&str, u32)]) -> Learned {
        let owned = |(address, ttl): &(&str, u32)| ((*address).to_owned(), *ttl);
        Some((names.iter().map(|name| (*name).to_owned()).collect(), addresses.iter().map(owned).collect()))
    }

    #[test]
    fn an_answer_teaches_its_questions_addresses_of_both_families() {
        let v6: Ipv6Addr = "2001:db8::5".parse().expect("v6");
        let answers =
            [record(QUESTION, TYPE_A, 300, &[192, 0, 2, 1]), record(QUESTION, TYPE_AAAA, 60, &v6.octets())];
        let message = message(NOERROR, "WWW.Example.com", &answers);
        assert_eq!(learned(&message), is(&["www.example.com"], &[("192.0.2.1", 300), ("2001:db8::5", 60)]));
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_the_shortest_ttl_counts() {
        let answers = [
            record(&wire("edge.cdn.example"), TYPE_A, 300, &[192, 0, 2, 1]),
            record(&wire("teams.tenant.example"), TYPE_CNAME, 90, &wire("EDGE.cdn.example")),
            record(QUESTION, TYPE_CNAME, 600, &wire("teams.tenant.example")),
            record(&wire("edge.cdn.example"), TYPE_A, 20, &[192, 0, 2, 2]),
        ];
        let message = message(NOERROR, "teams.example.com", &answers);
        let names = ["teams.example.com", "teams.tenant.example", "edge.cdn.example"];
        assert_eq!(learned(&message), is(&names, &[("192.0.2.1", 90), ("192.0.2.2", 20)]));
    }

    #[test]
    fn addresses_of_names_that_were_not_asked_for_teach_nothing() {
        let answers = [
            record(&wire("bank.example"), TYPE_A, 300, &[192, 0, 2, 66]),
            record(&wire("bank.example"), TYPE_CNAME, 300, QUESTION),
            record(QUESTION, TYPE_A, 300, &[192, 0, 2, 1]),
        ];
        assert_eq!(
            learned(&message(NOERROR, "a.example", &answers)),
            is(&["a.example"], &[("192.0.2.1", 300)])
        );
        let aliased = [
            record(QUESTION, TYPE_CNAME, 300, &wire("b.example")),
            record(QUESTION, TYPE_A, 300, &[192, 0, 2, 66]),
        ];
        assert_eq!(learned(&message(NOERROR, "a.example", &aliased)), is(&["a.example", "b.example"], &[]));
    }

    #[test]
    fn a_record_of_another_class_or_of_a_wrong_length_teaches_nothing() {
        let mut chaos = record(QUESTION, TYPE_A, 300, &[192, 0, 2, 1]);
        chaos[5] = 3;
        let answers =
            [chaos, record(QUESTION, TYPE_A, 300, &[192, 0, 2]), record(QUESTION, TYPE_AAAA, 1, &[0; 4])];
        assert_eq!(learned(&message(NOERROR, "a.example", &answers)), is(&["a.example"], &[]));
    }

    #[test]
    fn a_ttl_with_its_highest_bit_set_is_none_rfc_2181_section_8() {
        let answers = [record(QUESTION, TYPE_A, 0x8000_0001, &[192, 0, 2, 1])];
        assert_eq!(
            learned(&message(NOERROR, "a.example", &answers)),
            is(&["a.example"], &[("192.0.2.1", 0)])
        );
    }

    #[test]
    fn queries_errors_and_truncated_responses_teach_nothing() {
        let answers = [record(QUESTION, TYPE_A, 300, &[192, 0, 2, 1])];
        let (query, truncated, name_error, status) = (0x0100, 0x8380, 0x8183, 0x9180);
        for flags in [query, truncated, name_error, status] {
            assert_eq!(learned(&message(flags, "a.example", &answers)), None, "{flags:#x}");
        }
        assert!(learned(&message(NOERROR, "a.example", &answers)).is_some());
    }

    #[test]
    fn a_question_about_what_is_no_host_teaches_nothing() {
        assert_eq!(learned(&message(NOERROR, "", &[])), None, "the root");
        assert_eq!(learned(&message(NOERROR, "a b.example", &[])), None);
        let mut two = message(NOERROR, "a.example", &[]);
        two[5] = 2;
        assert_eq!(learned(&two), None);
    }

    #[test]
    fn pointers_that_lead_forward_or_round_are_refused() {
        for pointer in [23, 24, 25, 200, 0x3fff_u16] {
            let mut message = message(NOERROR, "a.example", &[]);
            // The answer's owner stands at 27.
            message[7] = 1;
            message.extend_from_slice(&record(
                &(0xc000 | (27 + pointer)).to_be_bytes(),
                TYPE_CNAME,
                1,
                &[0xc0, 27],
            ));
            assert_eq!(learned(&message).map(|(names, _)| names.len()), Some(1), "{pointer}");
        }
        let itself = message(NOERROR, "a.example", &[record(QUESTION, TYPE_CNAME, 1, QUESTION)]);
        assert_eq!(learned(&itself), None, "an alias of itself");
    }

    #[test]
    fn a_name_of_more_pointers_than_anybody_writes_is_refused() {
        // In the data of a record that nobody reads, each pointer leads to the one before, and the first to the question.
        const BYTES: usize = 2 * (MAX_POINTERS + 1);
        let mut message = message(NOERROR, "a.example", &[record(&[0], 99, 1, &[0; BYTES])]);
        let at = message.len() - BYTES;
        let with_pointers = |count: usize| if count == 0 { HEADER_BYTES } else { at + 2 * (count - 1) };
        for count in 1..=MAX_POINTERS + 1 {
            let pointer = 0xc000 | with_pointers(count - 1) as u16;
            message[with_pointers(count)..][..2].copy_from_slice(&pointer.to_be_bytes());
        }
        assert!(same_name(&message, with_pointers(MAX_POINTERS), HEADER_BYTES));
        assert!(!same_name(&message, with_pointers(MAX_POINTERS + 1), HEADER_BYTES));
    }

    #[test]
    fn messages_over_tcp_stand_behind_their_lengths() {
        let one = message(NOERROR, "a.example", &[record(QUESTION, TYPE_A, 300, &[192, 0, 2, 1])]);
        let framed = [&(one.len() as u16).to_be_bytes()[..], &one].concat();
        let stream = [&framed[..], &framed, &framed[..framed.len() - 1]].concat();
        assert_eq!(dns_messages(&stream).map(learned).collect::<Vec<_>>(), [learned(&one), learned(&one)]);
        assert_eq!(dns_messages(&[0]).count(), 0);
    }

    #[test]
    fn a_response_cut_anywhere_teaches_nothing() {
        let answers = [
            record(QUESTION, TYPE_CNAME, 300, &wire("b.example")),
            record(&wire("b.example"), TYPE_A, 300, &[192, 0, 2, 1]),
        ];
        let whole = message(NOERROR, "a.example", &answers);
        for end in 0..whole.len() {
            assert_eq!(learned(&whole[..end]), None, "{end}");
        }
        assert!(learned(&whole).is_some());
    }

    #[test]
    fn no_more_than_so_many_answers_and_aliases_are_looked_at() {
        let many: Vec<_> = (0..300).map(|n| record(QUESTION, TYPE_A, n, &[192, 0, 2, 1])).collect();
        let (_, addresses) = learned(&message(NOERROR, "a.example", &many)).expect("sound");
        assert_eq!(addresses.len(), MAX_ANSWERS);
        let chain = |aliases: u8| {
            let link = |n| {
                record(&wire(&format!("n{n}.example")), TYPE_CNAME, 9, &wire(&format!("n{}.example", n + 1)))
            };
            message(NOERROR, "n0.example", &(0..aliases).map(link).collect::<Vec<_>>())
        };
        assert_eq!(learned(&chain(15)).map(|(names, _)| names.len()), Some(MAX_NAMES));
        assert_eq!(learned(&chain(16)), None);
    }

    /// A question, if it is one, is answered by what is a response to it.
    fn asked(message: &[u8]) {
        let Some(question) = DnsQuestion::read(message) else { return };
        let answer = question.answer(&[[192, 0, 2, 80].into()], 60);
        let response = DnsResponse::read(&answer).expect("a response");
        assert_eq!(response.names().next(), Some(question.name));
    }

    proptest! {
        #[test]
        fn rubbish_is_read_without_panic(mut bytes: Vec<u8>, flips in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6)) {
            learned(&bytes);
            let answers = [record(QUESTION, TYPE_CNAME, 3, &wire("b.example")), record(&[0xc0, 39], TYPE_A, 3, &[192, 0, 2, 1])];
            let mut message = message(NOERROR, "a.example", &answers);
            for (at, value) in flips {
                let at = at.index(message.len());
                message[at] = value;
            }
            learned(&message);
            asked(&message);
            message[2] &= 0x07;
            asked(&message);
            asked(&bytes);
            message.append(&mut bytes);
            learned(&message);
        }
    }
}
