//! A client's Initial packets, sealed with the keys of RFC 9001 and RFC 9369, appendices A.1: for the fuzzer, which would
//! never guess a tag, and for tests.

use ring::aead;

/// The connection of both appendices.
const DESTINATION: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

pub struct Version {
    number: u32,
    /// The first byte of an Initial packet with a packet number of one byte.
    first: u8,
    key: [u8; 16],
    iv: [u8; 12],
    header_protection: [u8; 16],
}

pub const V1: Version = Version {
    number: 1,
    first: 0xc0,
    key: 0x1f36_9613_dd76_d546_7730_efcb_e3b1_a22d_u128.to_be_bytes(),
    iv: [0xfa, 0x04, 0x4b, 0x2f, 0x42, 0xa3, 0xfd, 0x3b, 0x46, 0xfb, 0x25, 0x5c],
    header_protection: 0x9f50_449e_04a0_e810_283a_1e99_33ad_edd2_u128.to_be_bytes(),
};

pub const V2: Version = Version {
    number: 0x6b33_43cf,
    first: 0xd0,
    key: 0x8b1a_0bc1_2128_4290_a29e_0971_b5cd_045d_u128.to_be_bytes(),
    iv: [0x91, 0xf7, 0x3e, 0x23, 0x51, 0xd8, 0xfa, 0x91, 0x66, 0x0e, 0x90, 0x9f],
    header_protection: 0x45b9_5e15_235d_6f45_a6b1_9cbc_b029_4ba9_u128.to_be_bytes(),
};

/// An Initial packet with these frames (RFC 9001 section 5.3 and 5.4), padded so that there is something to sample.
pub fn seal(version: &Version, packet_number: u8, frames: &[u8]) -> Vec<u8> {
    let mut payload = frames.to_vec();
    payload.resize(payload.len().max(3), 0);
    let length = (1 + payload.len() + 16) as u16;
    let mut packet = vec![version.first];
    packet.extend_from_slice(&version.number.to_be_bytes());
    packet.push(DESTINATION.len() as u8);
    packet.extend_from_slice(&DESTINATION);
    // No source connection ID, no token; the length in two bytes.
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(&(0x4000 | length).to_be_bytes());
    let packet_number_at = packet.len();
    packet.push(packet_number);

    let mut nonce = version.iv;
    nonce[11] ^= packet_number;
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    let key =
        aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, &version.key).expect("16 bytes"));
    key.seal_in_place_append_tag(nonce, aead::Aad::from(&packet), &mut payload).expect("it is short");
    packet.extend_from_slice(&payload);

    let key = aead::quic::HeaderProtectionKey::new(&aead::quic::AES_128, &version.header_protection);
    let sample = &packet[packet_number_at + 4..packet_number_at + 20];
    let mask = key.expect("16 bytes").new_mask(sample).expect("16 bytes");
    packet[0] ^= mask[0] & 0x0f;
    packet[packet_number_at] ^= mask[1];
    packet
}
