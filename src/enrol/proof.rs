//! That a branch has the private halves of the keys it claims with: an HMAC under what the path's key and the PoP's have in common
//! (X25519, RFC 7748 section 6.1), over all that is claimed. Nobody else but the PoP can make it, so nobody registers a key that is
//! another's.

use super::Secret;
use crate::config::{PrivateKey, PublicKey};
use ring::digest::{SHA256, digest};
use ring::hmac;
use x25519_dalek::StaticSecret;

/// Apart from whatever else is made of the same two keys.
const PURPOSE: &[u8] = b"popgate enrolment 1";

/// All that is claimed: the code's secret, the branch, and each path with its key, by the paths' names.
pub fn transcript(secret: &Secret, site: &str, keys: &[(&str, PublicKey)]) -> Vec<u8> {
    let mut keys = keys.to_vec();
    keys.sort_unstable_by_key(|(path, _)| *path);
    let mut bytes = secret.0.to_vec();
    let mut put = |text: &str| {
        bytes.extend((text.len() as u64).to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    put(site);
    keys.iter().for_each(|(path, _)| put(path));
    keys.iter().for_each(|(_, key)| bytes.extend(key.0));
    bytes
}

/// The branch's proof that it has the private half of a path's key.
pub fn prove(private: &PrivateKey, pop: &PublicKey, transcript: &[u8]) -> Option<[u8; 32]> {
    let mut proof = [0; 32];
    proof.copy_from_slice(hmac::sign(&key_of(private, pop)?, transcript).as_ref());
    Some(proof)
}

/// Whether it holds, at the PoP.
pub fn holds(pop: &PrivateKey, path: &PublicKey, transcript: &[u8], proof: &[u8]) -> bool {
    key_of(pop, path).is_some_and(|key| hmac::verify(&key, transcript, proof).is_ok())
}

fn key_of(private: &PrivateKey, public: &PublicKey) -> Option<hmac::Key> {
    let shared = StaticSecret::from(private.0).diffie_hellman(&x25519_dalek::PublicKey::from(public.0));
    // A point of low order has the same in common with everybody (RFC 7748 section 6.1).
    let shared = shared.was_contributory().then_some(shared)?;
    let extracted = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, PURPOSE), shared.as_bytes());
    Some(hmac::Key::new(hmac::HMAC_SHA256, extracted.as_ref()))
}

/// What people compare a branch's keys by, at both ends: 40 bits would do against a mistake; these are 80, against somebody.
pub fn fingerprint(keys: &[(&str, PublicKey)]) -> String {
    let mut keys = keys.to_vec();
    keys.sort_unstable_by_key(|(path, _)| *path);
    let all: Vec<u8> = keys.iter().flat_map(|(_, key)| key.0).collect();
    let hash = digest(&SHA256, &all);
    let pairs = hash.as_ref()[..10].chunks(2).map(|pair| format!("{:02X}{:02X}", pair[0], pair[1]));
    pairs.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::public_of;

    #[test]
    fn a_proof_holds_for_this_key_this_claim_and_this_pop_alone() {
        let [branch, pop, other] = [1, 2, 3].map(|byte| PrivateKey::from_random([byte; 32]));
        let public = public_of(&branch);
        let said = transcript(&Secret([7; 16]), "lyon", &[("wan", public)]);
        let proof = prove(&branch, &public_of(&pop), &said).expect("a proof");
        assert!(holds(&pop, &public, &said, &proof));
        assert!(!holds(&other, &public, &said, &proof));
        assert!(!holds(&pop, &public_of(&other), &said, &proof));
        for said in [
            transcript(&Secret([8; 16]), "lyon", &[("wan", public)]),
            transcript(&Secret([7; 16]), "oslo", &[("wan", public)]),
            transcript(&Secret([7; 16]), "lyon", &[("lte", public)]),
            transcript(&Secret([7; 16]), "lyon", &[("wan", public_of(&other))]),
        ] {
            assert!(!holds(&pop, &public, &said, &proof));
        }
        assert!(!holds(&pop, &public, &said, &proof[..31]));
    }

    #[test]
    fn a_key_that_has_the_same_in_common_with_everybody_proves_nothing() {
        let pop = PrivateKey::from_random([2; 32]);
        for point in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, PURPOSE);
            let known = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, &[0; 32]).as_ref());
            assert!(!holds(&pop, &PublicKey(point), b"x", hmac::sign(&known, b"x").as_ref()));
        }
    }

    #[test]
    fn the_order_of_paths_changes_nothing() {
        let [one, two] = [1, 2].map(|byte| public_of(&PrivateKey::from_random([byte; 32])));
        let (ways, back) = ([("a", one), ("b", two)], [("b", two), ("a", one)]);
        assert_eq!(fingerprint(&ways), fingerprint(&back));
        let secret = Secret([7; 16]);
        assert_eq!(transcript(&secret, "lyon", &ways), transcript(&secret, "lyon", &back));
        assert_eq!(fingerprint(&ways).len(), 24);
    }
}
