//! The gate: what a handshake initiation passes before a tunnel spends anything on it.
//!
//! 1 a bucket per source, 2 the MAC, which proves that the sender knows our public key, 3 under load the cookie, which
//! proves that it is where it says (whitepaper section 5.3), 4 one Diffie-Hellman, which tells who it is.

use crate::model::{DropReason, Instant};
use boringtun::noise::Packet;
use boringtun::noise::TunnResult;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Answering one takes about 0.2 ms: beyond a tenth of a core, cookies are asked for.
const HANDSHAKES_PER_SECOND: u64 = 500;
/// An honest source starts one per path and second at most; a NAT may hide a few dozen.
const SOURCE_BURST: u32 = 50;
const SOURCE_PER_SECOND: u32 = 20;
/// Sources remembered; when they are more, nobody is told apart until the next second: the cookie still holds.
const MAX_SOURCES: usize = 16_384;
const RESET: Duration = Duration::from_secs(1);

/// What became of an initiation.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It comes from this public key and is meant for this one of ours.
    Peer { ours: [u8; 32], peer: [u8; 32] },
    /// A cookie reply of so many bytes is in the buffer, to be sent back.
    Cookie(usize),
}

/// The gate of one box: its own keys, and how much each source has asked lately.
pub struct Gate {
    keys: Vec<LocalKey>,
    sources: HashMap<IpAddr, u32>,
    last_reset: Instant,
}

struct LocalKey {
    secret: StaticSecret,
    public: PublicKey,
    limiter: RateLimiter,
}

impl Gate {
    /// A gate for the given private keys: a PoP has one, a branch one per path.
    pub fn new(private_keys: impl IntoIterator<Item = [u8; 32]>, now: Instant) -> Gate {
        let mut gate = Gate { keys: Vec::new(), sources: HashMap::new(), last_reset: now };
        for secret in private_keys {
            let secret = StaticSecret::from(secret);
            let public = PublicKey::from(&secret);
            if gate.keys.iter().all(|key| key.public != public) {
                let limiter = RateLimiter::new(&public, HANDSHAKES_PER_SECOND);
                gate.keys.push(LocalKey { secret, public, limiter });
            }
        }
        gate
    }

    /// Judges an initiation; `reply` has room for a cookie (64 bytes).
    ///
    /// # Errors
    /// Why it goes no further.
    pub fn admit(
        &mut self,
        from: IpAddr,
        datagram: &[u8],
        reply: &mut [u8],
    ) -> Result<Admission, DropReason> {
        self.charge(from)?;
        let mut refused = DropReason::HandshakeMacInvalid;
        for key in &self.keys {
            match key.limiter.verify_packet(Some(from), datagram, reply) {
                Ok(Packet::HandshakeInit(initiation)) => {
                    let half = parse_handshake_anon(&key.secret, &key.public, &initiation)
                        .map_err(|_| DropReason::HandshakeRefused)?;
                    return Ok(Admission::Peer {
                        ours: key.public.to_bytes(),
                        peer: half.peer_static_public,
                    });
                }
                Ok(_) => return Err(DropReason::NotWireGuard),
                Err(TunnResult::WriteToNetwork(cookie)) => return Ok(Admission::Cookie(cookie.len())),
                // Not this key's MAC; perhaps the next one's.
                Err(TunnResult::Err(boringtun::noise::errors::WireGuardError::InvalidMac)) => {}
                Err(_) => refused = DropReason::NotWireGuard,
            }
        }
        Err(refused)
    }

    /// Once a second the counts begin anew.
    pub fn tick(&mut self, now: Instant) {
        if now.since(self.last_reset) < RESET {
            return;
        }
        self.last_reset = now;
        for key in &self.keys {
            key.limiter.reset_count();
        }
        self.sources.retain(|_, spent| {
            *spent = spent.saturating_sub(SOURCE_PER_SECOND);
            *spent > 0
        });
    }

    fn charge(&mut self, from: IpAddr) -> Result<(), DropReason> {
        let source = match from {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            // One customer has a /64 at least (RFC 6177).
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        };
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            return Ok(());
        }
        let spent = self.sources.entry(source).or_insert(0);
        if *spent >= SOURCE_BURST {
            return Err(DropReason::HandshakeRateLimited);
        }
        *spent += 1;
        Ok(())
    }
}
