//! QUIC: the server's name in a client's Initial packets, of version 1 (RFC 9000, RFC 9001) and version 2 (RFC 9369).
//!
//! Initial packets are encrypted, but not secret: their keys come of the Destination Connection ID that the client has
//! drawn, which stands in them. So: 1 find the packets in the datagram, 2 derive the keys, 3 take the protection off,
//! 4 put the CRYPTO frames together, 5 read the ClientHello ([`super::tls`]). Functions appear in that order.

use super::assembly::Assembly;
use super::inspect::Unnamed;
use super::parse::be32;
use super::tls;
use crate::model::HostName;
use ring::{aead, hkdf};

/// RFC 9000 section 17.2.
const MAX_CONNECTION_ID_BYTES: usize = 20;
/// Initial packets that are longer are passed over: clients begin with datagrams that any path takes, of 1,200 bytes
/// (RFC 9000 section 14.1), and try longer ones later.
const MAX_PACKET_BYTES: usize = 2_048;
const SAMPLE_BYTES: usize = 16;
/// Where the sample for header protection is taken from, behind the packet number's beginning (RFC 9001 section 5.4.2).
const SAMPLE_OFFSET: usize = 4;

/// What a client has said in a connection's Initial packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Initials {
    /// What the keys come of, once a packet has been opened with them.
    origin: Option<Origin>,
    crypto: Assembly,
}

/// Which keys Initial packets have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    version: Version,
    /// `destination_bytes` of it.
    destination: [u8; MAX_CONNECTION_ID_BYTES],
    destination_bytes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

impl Initials {
    /// Takes in a client's next datagram.
    pub(super) fn feed(&mut self, datagram: &[u8]) -> Result<HostName, Unnamed> {
        let mut rest = datagram;
        // RFC 9000 section 12.2: one behind the other.
        while let Some((packet, behind)) = LongPacket::split_off(rest) {
            rest = behind;
            match packet.kind {
                Kind::Initial => match self.open(&packet) {
                    Err(Unnamed::NotYet) => {}
                    decided => return decided,
                },
                Kind::ZeroRtt | Kind::Handshake | Kind::Retry => {}
            }
        }
        // Nothing of a connection that begins here: another protocol, another version, or the middle of a connection.
        // 0-RTT packets may overtake the Initial.
        let begins = self.origin.is_some()
            || LongPacket::split_off(datagram).is_some_and(|(first, _)| first.kind == Kind::ZeroRtt);
        Err(if begins { Unnamed::NotYet } else { Unnamed::Never })
    }

    /// The keys come of the first packet's Destination Connection ID; after a Retry, of the one that the client was given
    /// with it (RFC 9001 section 5.2).
    fn open(&mut self, packet: &LongPacket) -> Result<HostName, Unnamed> {
        let mut buffer = [0; MAX_PACKET_BYTES];
        let buffer = match buffer.get_mut(..packet.bytes.len()) {
            Some(buffer) => buffer,
            None => return Err(Unnamed::NotYet),
        };
        let retried = Some(packet.origin).filter(|origin| self.origin != Some(*origin));
        for origin in self.origin.into_iter().chain(retried) {
            let keys = Keys::of_client(origin);
            if let Some(frames) = keys.and_then(|keys| keys.unprotect(packet, buffer)) {
                self.origin = Some(origin);
                return self.read_frames(frames);
            }
        }
        Err(Unnamed::NotYet)
    }

    /// The frames that Initial packets may have (RFC 9000 section 12.4); another one is an error, and ends it.
    fn read_frames(&mut self, frames: &[u8]) -> Result<HostName, Unnamed> {
        let mut fields = Fields(frames);
        while !fields.0.is_empty() {
            let frame = read_frame(&mut fields).ok_or(Unnamed::Never)?;
            let Some((offset, data)) = frame else { continue };
            // Mostly all of it is there, in one piece: then it need not be copied.
            if offset == 0 && self.crypto.is_empty() {
                match tls::name_in_handshake(data) {
                    Err(Unnamed::NotYet) => {}
                    decided => return decided,
                }
            }
            self.crypto.put(offset, data).map_err(|_| Unnamed::Never)?;
        }
        match tls::name_in_handshake(self.crypto.beginning()) {
            Err(Unnamed::NotYet) if self.crypto.is_full() => Err(Unnamed::Never),
            read => read,
        }
    }
}

/// A packet with a long header, from its first byte to its last (RFC 9000 section 17.2).
struct LongPacket<'a> {
    kind: Kind,
    origin: Origin,
    bytes: &'a [u8],
    packet_number_at: usize,
}

impl<'a> LongPacket<'a> {
    /// The packet that `datagram` begins with, and what comes behind it.
    fn split_off(datagram: &'a [u8]) -> Option<(LongPacket<'a>, &'a [u8])> {
        let invariant: &[u8; 5] = datagram.first_chunk()?;
        let version = match be32(invariant, 1) {
            1 => Version::V1,
            0x6b33_43cf => Version::V2,
            _ => return None,
        };
        // The fixed bit is not asked for: clients may grease it (RFC 9287).
        if invariant[0] & 0x80 == 0 {
            return None;
        }
        // RFC 9369 section 3.2.
        let kind = match (invariant[0] >> 4 & 3, version) {
            (0, Version::V1) | (1, Version::V2) => Kind::Initial,
            (1, Version::V1) | (2, Version::V2) => Kind::ZeroRtt,
            (2, Version::V1) | (3, Version::V2) => Kind::Handshake,
            _ => Kind::Retry,
        };
        let mut fields = Fields(&datagram[invariant.len()..]);
        let destination_bytes = fields.byte()?;
        let id = fields.take(destination_bytes.into())?;
        let mut destination = [0; MAX_CONNECTION_ID_BYTES];
        destination.get_mut(..id.len())?.copy_from_slice(id);
        let source_bytes = usize::from(fields.byte()?);
        if source_bytes > MAX_CONNECTION_ID_BYTES {
            return None;
        }
        fields.take(source_bytes)?;
        match kind {
            Kind::Initial => {
                let token_bytes = fields.length()?;
                fields.take(token_bytes)?;
            }
            Kind::ZeroRtt | Kind::Handshake => {}
            // It has no length, and clients send none.
            Kind::Retry => return None,
        }
        let bytes = fields.length()?;
        let packet_number_at = datagram.len() - fields.0.len();
        fields.take(bytes)?;
        let (bytes, behind) = datagram.split_at(packet_number_at + bytes);
        let origin = Origin { version, destination, destination_bytes };
        Some((LongPacket { kind, origin, bytes, packet_number_at }, behind))
    }
}

/// A client's Initial keys (RFC 9001 section 5.1).
#[derive(Debug, PartialEq, Eq)]
struct Keys {
    key: [u8; 16],
    iv: [u8; 12],
    header_protection: [u8; 16],
}

impl Keys {
    /// RFC 9001 section 5.2, with the salts and labels of both versions (RFC 9369 section 3.3).
    fn of_client(origin: Origin) -> Option<Keys> {
        let (salt, labels) = match origin.version {
            Version::V1 => (&SALT_V1, [b"quic key".as_slice(), b"quic iv", b"quic hp"]),
            Version::V2 => (&SALT_V2, [b"quicv2 key".as_slice(), b"quicv2 iv", b"quicv2 hp"]),
        };
        let destination = origin.destination.get(..usize::from(origin.destination_bytes))?;
        let initial_secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(destination);
        let mut client_secret = [0; 32];
        expand_label(&initial_secret, b"client in", &mut client_secret)?;
        let client_secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &client_secret);
        let mut keys = Keys { key: [0; 16], iv: [0; 12], header_protection: [0; 16] };
        expand_label(&client_secret, labels[0], &mut keys.key)?;
        expand_label(&client_secret, labels[1], &mut keys.iv)?;
        expand_label(&client_secret, labels[2], &mut keys.header_protection)?;
        Some(keys)
    }

    /// The packet's frames, if it has these keys; `buffer` is as long as the packet.
    fn unprotect<'b>(&self, packet: &LongPacket, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        buffer.copy_from_slice(packet.bytes);
        let sample_at = packet.packet_number_at + SAMPLE_OFFSET;
        let sample = buffer.get(sample_at..sample_at + SAMPLE_BYTES)?;
        let header_key = aead::quic::HeaderProtectionKey::new(&aead::quic::AES_128, &self.header_protection);
        let mask = header_key.ok()?.new_mask(sample).ok()?;
        // RFC 9001 section 5.4.1.
        buffer[0] ^= mask[0] & 0x0f;
        let packet_number_bytes = usize::from(buffer[0] & 3) + 1;
        let header_bytes = packet.packet_number_at + packet_number_bytes;
        let (header, sealed) = buffer.split_at_mut_checked(header_bytes)?;
        let mut nonce = self.iv;
        let counter = nonce[12 - packet_number_bytes..].iter_mut();
        for ((byte, nonce), mask) in header[packet.packet_number_at..].iter_mut().zip(counter).zip(&mask[1..])
        {
            *byte ^= mask;
            // RFC 9001 section 5.3. A client's first packets have numbers that are not cut short.
            *nonce ^= *byte;
        }
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, &self.key).ok()?;
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let frames = aead::LessSafeKey::new(key).open_in_place(nonce, aead::Aad::from(&*header), sealed);
        frames.ok().map(|frames| &*frames)
    }
}

/// RFC 9001 section 5.2.
const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc,
    0xbb, 0x7f, 0x0a,
];
/// RFC 9369 section 3.3.1.
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9,
    0xbd, 0x2e, 0xd9,
];

/// HKDF-Expand-Label without context (RFC 8446 section 7.1).
fn expand_label(secret: &hkdf::Prk, label: &[u8], out: &mut [u8]) -> Option<()> {
    struct Bytes(usize);
    impl hkdf::KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    let (bytes, prefix) = (out.len() as u16, b"tls13 ");
    let lengths = [bytes.to_be_bytes()[0], bytes.to_be_bytes()[1], (prefix.len() + label.len()) as u8];
    let info = [&lengths[..], prefix, label, &[0]];
    secret.expand(&info, Bytes(out.len())).ok()?.fill(out).ok()
}

/// Goes over a frame (RFC 9000 section 19); a CRYPTO frame's offset and data, `None` for any other. `None` in place of both
/// for what must not be there.
fn read_frame<'a>(fields: &mut Fields<'a>) -> Option<Option<(usize, &'a [u8])>> {
    match fields.byte()? {
        // PADDING, PING.
        0x00 | 0x01 => {}
        // ACK: largest, delay, ranges behind the first.
        kind @ (0x02 | 0x03) => {
            fields.varint()?;
            fields.varint()?;
            let ranges = fields.varint()?;
            fields.varint()?;
            for _ in 0..ranges {
                fields.varint()?;
                fields.varint()?;
            }
            if kind == 0x03 {
                fields.varint()?;
                fields.varint()?;
                fields.varint()?;
            }
        }
        // CRYPTO.
        0x06 => {
            let offset = fields.length()?;
            let bytes = fields.length()?;
            return Some(Some((offset, fields.take(bytes)?)));
        }
        // CONNECTION_CLOSE.
        0x1c => {
            fields.varint()?;
            fields.varint()?;
            let reason_bytes = fields.length()?;
            fields.take(reason_bytes)?;
        }
        _ => return None,
    }
    Some(None)
}

/// What has not been read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    /// RFC 9000 section 16.
    fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let rest = self.take((1 << (first >> 6)) - 1)?;
        Some(rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendices A of both RFCs begin with this one.
    const DESTINATION: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    fn origin(version: Version, id: &[u8]) -> Origin {
        let mut destination = [0; MAX_CONNECTION_ID_BYTES];
        destination[..id.len()].copy_from_slice(id);
        Origin { version, destination, destination_bytes: id.len() as u8 }
    }

    fn hex<const N: usize>(digits: &str) -> [u8; N] {
        std::array::from_fn(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).expect("hexadecimal"))
    }

    /// The one datagram in this file of the corpus, behind its length.
    fn datagram(file: &'static [u8]) -> &'static [u8] {
        &file[2..]
    }

    const V1_CLIENT: &[u8] = include_bytes!("../../tests/corpus/inspect_udp/rfc9001-a2-client-initial.bin");
    const V2_CLIENT: &[u8] = include_bytes!("../../tests/corpus/inspect_udp/rfc9369-a2-client-initial.bin");
    const V1_SERVER: &[u8] = include_bytes!("../../tests/corpus/inspect_udp/rfc9001-a3-server-initial.bin");
    const V2_SERVER: &[u8] = include_bytes!("../../tests/corpus/inspect_udp/rfc9369-a3-server-initial.bin");

    #[test]
    fn version_1_has_the_keys_of_rfc_9001_appendix_a_1() {
        let expected = Keys {
            key: hex("1f369613dd76d5467730efcbe3b1a22d"),
            iv: hex("fa044b2f42a3fd3b46fb255c"),
            header_protection: hex("9f50449e04a0e810283a1e9933adedd2"),
        };
        assert_eq!(Keys::of_client(origin(Version::V1, &DESTINATION)), Some(expected));
    }

    #[test]
    fn version_2_has_the_keys_of_rfc_9369_appendix_a_1() {
        let expected = Keys {
            key: hex("8b1a0bc121284290a29e0971b5cd045d"),
            iv: hex("91f73e2351d8fa91660e909f"),
            header_protection: hex("45b95e15235d6f45a6b19cbcb0294ba9"),
        };
        assert_eq!(Keys::of_client(origin(Version::V2, &DESTINATION)), Some(expected));
    }

    #[test]
    fn the_client_initials_of_both_rfcs_open_to_the_hello_in_them_appendix_a_2() {
        for (file, version, mask) in
            [(V1_CLIENT, Version::V1, "437b9aec36"), (V2_CLIENT, Version::V2, "94a0c95e80")]
        {
            let (packet, behind) = LongPacket::split_off(datagram(file)).expect("a packet");
            assert_eq!((packet.kind, packet.origin), (Kind::Initial, origin(version, &DESTINATION)));
            assert_eq!((packet.packet_number_at, packet.bytes.len(), behind.len()), (18, 1_200, 0));
            let mut buffer = [0; 1_200];
            let keys = Keys::of_client(packet.origin).expect("keys");
            let frames = keys.unprotect(&packet, &mut buffer).expect("its keys");
            assert_eq!(frames.len(), 1_162);
            assert_eq!(frames[..16], hex::<16>("060040f1010000ed0303ebf8fa56f129"));
            assert_eq!(frames[229..245], hex::<16>("0f088394c8f03e51570806048000ffff"));
            assert!(frames[245..].iter().all(|byte| *byte == 0), "padding");
            // The header as it was before: packet number 2 in four bytes.
            let mask: [u8; 5] = hex(mask);
            assert_eq!(buffer[0], datagram(file)[0] ^ mask[0] & 0x0f);
            assert_eq!(buffer[18..22], [0, 0, 0, 2]);
            assert_eq!(
                Initials::default().feed(datagram(file)).map(|name| name.to_string()),
                Ok("example.com".into())
            );
        }
    }

    #[test]
    fn a_servers_initial_a_retry_and_a_short_packet_name_nobody_appendices_a_3_to_a_5() {
        let retry_v1: [u8; 36] =
            hex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba");
        let retry_v2: [u8; 36] =
            hex("cf6b3343cf0008f067a5502a4262b5746f6b656ec8646ce8bfe33952d955543665dcc7b6");
        let short_v1: [u8; 21] = hex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb");
        let short_v2: [u8; 21] = hex("5558b1c60ae7b6b932bc27d786f4bc2bb20f2162ba");
        for it in [datagram(V1_SERVER), datagram(V2_SERVER), &retry_v1, &retry_v2, &short_v1, &short_v2] {
            assert_eq!(Initials::default().feed(it), Err(Unnamed::Never), "{:x?}", &it[..8]);
        }
    }

    #[test]
    fn other_versions_and_version_negotiation_name_nobody() {
        for version in [0, 2, 0xff00_001d, 0x709a_50c4, 0x1a2a_3a4a_u32] {
            let mut packet = datagram(V1_CLIENT).to_vec();
            packet[1..5].copy_from_slice(&version.to_be_bytes());
            assert_eq!(Initials::default().feed(&packet), Err(Unnamed::Never), "{version:#x}");
        }
    }

    #[test]
    fn a_packet_of_version_1_is_none_of_version_2() {
        // The same kind in the other's bits, so that only the keys differ.
        let mut packet = datagram(V1_CLIENT).to_vec();
        packet[0] |= 0x10;
        packet[1..5].copy_from_slice(&0x6b33_43cf_u32.to_be_bytes());
        assert_eq!(Initials::default().feed(&packet), Err(Unnamed::Never));
    }
}
