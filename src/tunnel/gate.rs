//! The gate: what a handshake initiation passes before a tunnel spends anything on it.
//!
//! 1 the MAC, which proves that the sender knows our public key, 2 under load the cookie, which proves that it is where it
//! says (whitepaper section 5.3), and with that a bucket for the source: counted any earlier, a forged source would keep
//! out whoever has it, 3 one Diffie-Hellman, which tells who it is.

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
    /// Initiations with a valid MAC since the last reset: what the limiter counts, but does not tell.
    asked: u64,
}

impl Gate {
    /// A gate without keys: nobody gets in.
    pub fn new(now: Instant) -> Gate {
        Gate { keys: Vec::new(), sources: HashMap::new(), last_reset: now }
    }

    /// From now on the box has these private keys: a PoP one, a branch one per path. What is known of those it had before
    /// stays, so that a commit in the middle of a flood does not void the cookies that are under way.
    pub fn keep(&mut self, private_keys: impl IntoIterator<Item = [u8; 32]>) {
        let mut before = std::mem::take(&mut self.keys);
        for secret in private_keys {
            let secret = StaticSecret::from(secret);
            let public = PublicKey::from(&secret);
            if self.keys.iter().any(|key| key.public == public) {
                continue;
            }
            self.keys.push(match before.iter().position(|key| key.public == public) {
                Some(at) => before.swap_remove(at),
                None => {
                    let limiter = RateLimiter::new(&public, HANDSHAKES_PER_SECOND);
                    LocalKey { secret, public, limiter, asked: 0 }
                }
            });
        }
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
        let Self { keys, sources, .. } = self;
        let mut refused = DropReason::HandshakeMacInvalid;
        for key in keys {
            match key.limiter.verify_packet(Some(from), datagram, reply) {
                Ok(Packet::HandshakeInit(initiation)) => {
                    key.asked += 1;
                    if key.asked > HANDSHAKES_PER_SECOND {
                        charge(sources, from)?;
                    }
                    let half = parse_handshake_anon(&key.secret, &key.public, &initiation)
                        .map_err(|_| DropReason::HandshakeRefused)?;
                    return Ok(Admission::Peer {
                        ours: key.public.to_bytes(),
                        peer: half.peer_static_public,
                    });
                }
                Ok(_) => return Err(DropReason::NotWireGuard),
                Err(TunnResult::WriteToNetwork(cookie)) => {
                    key.asked += 1;
                    return Ok(Admission::Cookie(cookie.len()));
                }
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
        for key in &mut self.keys {
            key.limiter.reset_count();
            key.asked = 0;
        }
        self.sources.retain(|_, spent| {
            *spent = spent.saturating_sub(SOURCE_PER_SECOND);
            *spent > 0
        });
    }
}

/// Takes from the bucket of a source that has proved to be where it says.
fn charge(sources: &mut HashMap<IpAddr, u32>, from: IpAddr) -> Result<(), DropReason> {
    let source = match from {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        // One customer has a /64 at least (RFC 6177).
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    };
    if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
        return Ok(());
    }
    let spent = sources.entry(source).or_insert(0);
    if *spent >= SOURCE_BURST {
        return Err(DropReason::HandshakeRateLimited);
    }
    *spent += 1;
    Ok(())
}
