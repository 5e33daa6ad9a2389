//! TLS: the server's name in a ClientHello (RFC 6066 section 3), without waiting for the rest of it.
//!
//! The hello comes in the handshake records that a TCP stream begins with (RFC 8446 section 5.1), one or several, or as it
//! is in QUIC's CRYPTO frames. Of an encrypted ClientHello the outer one is read: the name there is the one that everybody
//! on the way may know (RFC 9849 section 5).

use super::inspect::Unnamed;
use super::parse::be16;
use crate::model::HostName;

/// The content type of handshake records (RFC 8446 section 5.1), and what a TLS stream begins with.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const MAX_RECORD_BYTES: usize = 1 << 14;
/// The extension, and the only kind of name there has ever been in it (RFC 6066 section 3).
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// The name in the hello that a TCP stream begins with.
pub(super) fn name_in_records(stream: &[u8]) -> Result<HostName, Unnamed> {
    server_name(Handshake { bytes: stream, framed: true, left_in_record: 0, left: 0 })
}

/// The name in the hello that a QUIC connection's CRYPTO stream begins with (RFC 9001 section 4.1.3).
pub(super) fn name_in_handshake(stream: &[u8]) -> Result<HostName, Unnamed> {
    server_name(Handshake { bytes: stream, framed: false, left_in_record: 0, left: 0 })
}

/// RFC 8446 section 4.1.2; the fields that all versions since TLS 1.0 have in common.
fn server_name(mut hello: Handshake) -> Result<HostName, Unnamed> {
    hello.left = 4;
    if hello.byte()? != CLIENT_HELLO {
        return Err(Unnamed::Never);
    }
    hello.left = usize::from(hello.byte()?) << 16 | usize::from(hello.word()?);
    // legacy_version, random.
    hello.skip(2 + 32)?;
    let session_id_bytes = hello.byte()?;
    hello.skip(session_id_bytes.into())?;
    let cipher_suites_bytes = hello.word()?;
    hello.skip(cipher_suites_bytes.into())?;
    let compression_methods = hello.byte()?;
    hello.skip(compression_methods.into())?;
    if usize::from(hello.word()?) != hello.left {
        return Err(Unnamed::Never);
    }
    // Without an extension of the kind, they are at an end some time: reading on is `Never` then.
    loop {
        let (kind, bytes) = (hello.word()?, hello.word()?);
        if kind == SERVER_NAME {
            if usize::from(bytes) > hello.left {
                return Err(Unnamed::Never);
            }
            hello.left = bytes.into();
            return first_host_name(hello);
        }
        hello.skip(bytes.into())?;
    }
}

/// ServerNameList.
fn first_host_name(mut list: Handshake) -> Result<HostName, Unnamed> {
    if usize::from(list.word()?) != list.left {
        return Err(Unnamed::Never);
    }
    loop {
        // Whatever the kind, a length comes first.
        let (kind, bytes) = (list.byte()?, list.word()?);
        if kind == HOST_NAME {
            let mut name = [0; 256];
            let name = name.get_mut(..usize::from(bytes)).ok_or(Unnamed::Never)?;
            list.read(name)?;
            return HostName::new(name).ok_or(Unnamed::Never);
        }
        list.skip(bytes.into())?;
    }
}

/// The bytes of a handshake message, with the records' headers left out from between them.
struct Handshake<'a> {
    bytes: &'a [u8],
    /// Whether they are in records.
    framed: bool,
    left_in_record: usize,
    /// Bytes that the structure being read still has by its own length. Beyond them there is `Never` anything.
    left: usize,
}

impl Handshake<'_> {
    fn byte(&mut self) -> Result<u8, Unnamed> {
        let mut byte = [0];
        self.read(&mut byte)?;
        Ok(byte[0])
    }

    fn word(&mut self) -> Result<u16, Unnamed> {
        let mut word = [0; 2];
        self.read(&mut word)?;
        Ok(u16::from_be_bytes(word))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Unnamed> {
        let mut filled = 0;
        self.advance(into.len(), |piece| {
            into[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        })
    }

    fn skip(&mut self, count: usize) -> Result<(), Unnamed> {
        self.advance(count, |_| {})
    }

    /// Goes on by `count` bytes and shows them, in pieces of as much as a record has.
    fn advance(&mut self, mut count: usize, mut see: impl FnMut(&[u8])) -> Result<(), Unnamed> {
        self.left = self.left.checked_sub(count).ok_or(Unnamed::Never)?;
        while count > 0 {
            if self.left_in_record == 0 {
                self.begin_record()?;
            }
            let (piece, rest) = self.bytes.split_at(count.min(self.left_in_record).min(self.bytes.len()));
            if piece.is_empty() {
                return Err(Unnamed::NotYet);
            }
            see(piece);
            self.bytes = rest;
            self.left_in_record -= piece.len();
            count -= piece.len();
        }
        Ok(())
    }

    /// RFC 8446 section 5.1: a handshake message that goes over records has nothing else between them, and none is empty.
    fn begin_record(&mut self) -> Result<(), Unnamed> {
        if !self.framed {
            self.left_in_record = usize::MAX;
            return Ok(());
        }
        // What the header begins with is judged as soon as it is there: most of what is not TLS is told by its first byte.
        if self.bytes.iter().zip([HANDSHAKE, 3]).any(|(byte, expected)| *byte != expected) {
            return Err(Unnamed::Never);
        }
        let (header, rest) = self.bytes.split_first_chunk::<5>().ok_or(Unnamed::NotYet)?;
        self.left_in_record = usize::from(be16(header, 3));
        self.bytes = rest;
        if self.left_in_record == 0 || self.left_in_record > MAX_RECORD_BYTES {
            return Err(Unnamed::Never);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello with these extensions.
    fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[4, 1, 2, 3, 4]);
        body.extend_from_slice(&[0, 2, 0x13, 0x01]);
        body.extend_from_slice(&[1, 0]);
        let mut block = Vec::new();
        for (kind, data) in extensions {
            block.extend_from_slice(&kind.to_be_bytes());
            block.extend_from_slice(&(data.len() as u16).to_be_bytes());
            block.extend_from_slice(data);
        }
        body.extend_from_slice(&(block.len() as u16).to_be_bytes());
        body.extend_from_slice(&block);
        let bytes = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO][..], &bytes[1..], &body].concat()
    }

    fn names(names: &[(u8, &str)]) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, name) in names {
            list.push(*kind);
            list.extend_from_slice(&(name.len() as u16).to_be_bytes());
            list.extend_from_slice(name.as_bytes());
        }
        [&(list.len() as u16).to_be_bytes()[..], &list].concat()
    }

    fn sni(name: &str) -> (u16, Vec<u8>) {
        (SERVER_NAME, names(&[(HOST_NAME, name)]))
    }

    /// In records of so many bytes each.
    fn in_records(handshake: &[u8], bytes: usize) -> Vec<u8> {
        let record = |piece: &[u8]| {
            let length = (piece.len() as u16).to_be_bytes();
            [&[HANDSHAKE, 3, 1, length[0], length[1]][..], piece].concat()
        };
        handshake.chunks(bytes).flat_map(record).collect()
    }

    fn named(handshake: &[u8]) -> Result<String, Unnamed> {
        let name = name_in_handshake(handshake).map(|name| name.to_string());
        let framed = name_in_records(&in_records(handshake, MAX_RECORD_BYTES)).map(|name| name.to_string());
        assert_eq!(name, framed);
        name
    }

    #[test]
    fn a_hello_names_its_server_wherever_the_extension_stands() {
        let other = (0x0a0a, vec![1, 2, 3]);
        for extensions in [
            vec![sni("Www.Example.com")],
            vec![other.clone(), sni("www.example.com")],
            vec![sni("www.example.com"), other],
        ] {
            assert_eq!(named(&hello(&extensions)), Ok("www.example.com".to_owned()));
        }
    }

    #[test]
    fn of_an_encrypted_hello_the_outer_name_counts_rfc_9849() {
        let encrypted = (0xfe0d, [vec![0], sni("inner.example.com").1].concat());
        assert_eq!(
            named(&hello(&[encrypted, sni("public.example.com")])),
            Ok("public.example.com".to_owned())
        );
    }

    #[test]
    fn names_of_unknown_kinds_are_passed_over_rfc_6066_section_3() {
        let list = names(&[(9, "x"), (HOST_NAME, "www.example.com"), (HOST_NAME, "second.example.com")]);
        assert_eq!(named(&hello(&[(SERVER_NAME, list)])), Ok("www.example.com".to_owned()));
    }

    #[test]
    fn a_hello_without_a_hosts_name_never_has_one() {
        let lists =
            [names(&[]), names(&[(9, "x")]), names(&[(HOST_NAME, "192.0.2.1")]), names(&[(HOST_NAME, "")])];
        let mut hellos: Vec<_> = lists.into_iter().map(|list| hello(&[(SERVER_NAME, list)])).collect();
        hellos.push(hello(&[]));
        hellos.push(hello(&[(16, vec![0; 9])]));
        hellos.push(hello(&[(SERVER_NAME, names(&[(HOST_NAME, &"a.".repeat(200))]))]));
        for hello in hellos {
            assert_eq!(named(&hello), Err(Unnamed::Never), "{hello:x?}");
        }
    }

    #[test]
    fn lengths_that_contradict_each_other_end_it() {
        let sound = hello(&[sni("www.example.com")]);
        let name_at = sound.len() - "www.example.com".len();
        // Of the name, the list, the extension, all extensions, the hello: each one too long, where something follows, and
        // too short.
        for at in [name_at - 1, name_at - 4, name_at - 6, name_at - 10, 3] {
            for wrong in [sound[at] + 1, sound[at] - 1] {
                let mut hello = sound.clone();
                hello[at] = wrong;
                hello.extend_from_slice(&[0; 40]);
                let read = name_in_handshake(&hello);
                let short_name = at == name_at - 1 && wrong < sound[at];
                // A list may have something behind the name.
                assert!(read.is_err() || short_name, "{at} {wrong}: {read:?}");
            }
        }
    }

    #[test]
    fn a_hello_in_records_of_any_size_names_its_server() {
        let hello = hello(&[(0x0a0a, vec![1; 300]), sni("www.example.com"), (21, vec![0; 100])]);
        for bytes in 1..=hello.len() {
            let framed = in_records(&hello, bytes);
            let name = name_in_records(&framed).map(|name| name.to_string());
            assert_eq!(name, Ok("www.example.com".to_owned()), "{bytes}");
        }
    }

    #[test]
    fn a_hello_cut_before_its_names_end_is_waited_for() {
        let hello = hello(&[(0x0a0a, vec![1; 30]), sni("www.example.com")]);
        for bytes in [1, 7, MAX_RECORD_BYTES] {
            let framed = in_records(&hello, bytes);
            for end in 0..framed.len() {
                assert_eq!(name_in_records(&framed[..end]), Err(Unnamed::NotYet), "{bytes} {end}");
            }
        }
    }

    #[test]
    fn other_records_and_other_messages_end_it() {
        let framed = in_records(&hello(&[sni("www.example.com")]), 20);
        // An alert as the second record, SSL 2, an empty record, one that is too long, a ServerHello.
        for (at, byte) in [(25, 21), (1, 2), (4, 0), (3, 0x41), (5, 2)] {
            let mut changed = framed.clone();
            changed[at] = byte;
            assert_eq!(name_in_records(&changed), Err(Unnamed::Never), "{at}");
        }
        assert_eq!(name_in_records(b"\x17"), Err(Unnamed::Never));
        assert_eq!(name_in_records(b"\x16\x02"), Err(Unnamed::Never));
    }
}
