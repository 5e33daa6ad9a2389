//! Taking an address and a port of a pool for a new session.

use crate::flow::Ports;
use crate::model::{FlowKey, TenantId};
use crate::tables::Pool;
use rand::Rng;
use rand::rngs::StdRng;
use std::hash::BuildHasher;
use std::net::IpAddr;

/// How many of a pool's addresses are tried before it is called exhausted: an address has 64,512 ports, so a pool with
/// this many full ones has other troubles.
const MAX_ADDRESSES: u64 = 64;

/// Takes a port for the source of `key`. The host's address
/// decides which of the pool's addresses it gets ("paired", RFC 4787 REQ-2) until that one is full; the port is kept
/// where it is free. Only what is `worker`'s of `workers` is taken, so that the answers find it.
pub fn allocate(
    ports: &mut Ports,
    pool: &Pool,
    (worker, workers): (u16, u16),
    tenant: TenantId,
    key: &FlowKey,
    rng: &mut StdRng,
) -> Option<(IpAddr, u16)> {
    let first = foldhash::fast::FixedState::default().hash_one((tenant, key.source()));
    let hint = rng.random();
    let range = pool.ports.of(worker, workers);
    (0..pool.len().min(MAX_ADDRESSES)).find_map(|step| {
        let address = IpAddr::V4(pool.address(first.wrapping_add(step) % pool.len())?);
        // A whole address, where the protocol has no ports, is one worker's.
        if !key.protocol.has_ports() && pool.ports.owner(address, key.protocol, 0, workers) != worker {
            return None;
        }
        let port = ports.take(address, key.protocol, &range, key.source_port, hint)?;
        Some((address, port))
    })
}
