//! What tenants have of what is limited: sessions, and ports of their NAT pools.

use super::report::{NatBlockRow, NatPoolRow, TenantRow};
use super::worker::Worker;
use crate::model::{HandoffId, Protocol};
use crate::tables::{InternetKind, Pool, Tenant};
use std::collections::HashMap;
use std::net::IpAddr;

impl Worker {
    /// Of every tenant, by name.
    pub(super) fn tenant_rows(&self) -> Vec<TenantRow> {
        let pools = self.generation.tenants.iter().flat_map(|(_, tenant)| nat_pools(tenant));
        let used = self.pools_used(&pools.map(|pool| (pool.handoff, pool)).collect());
        let names = &self.generation.names;
        let row = |pool: &Pool| {
            let used = used.get(&pool.handoff).copied().unwrap_or_default();
            NatPoolRow {
                handoff: names.handoff(pool.handoff).to_owned(),
                prefixes: pool.networks().iter().map(ToString::to_string).collect(),
                first_port: *pool.ports().start(),
                last_port: *pool.ports().end(),
                block_ports: pool.blocks().map(|blocks| blocks.size),
                addresses: pool.len(),
                ports: pool.len() * pool.ports().len() as u64,
                leased_ports: used.leased,
                tcp_bindings: used.tcp,
                udp_bindings: used.udp,
                icmp_bindings: used.icmp,
                other_bindings: used.other,
            }
        };
        let tenants = self.generation.tenants.iter().map(|(id, tenant)| TenantRow {
            tenant: names.tenant(id).to_owned(),
            sessions: self.sessions.of_tenant(id) as u64,
            max_sessions: tenant.max_sessions.map(|max| max as u64),
            nat_pools: nat_pools(tenant).map(row).collect(),
        });
        let mut rows: Vec<TenantRow> = tenants.collect();
        rows.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        rows
    }

    /// The blocks that branches of `tenant`'s have, or of all.
    pub(super) fn nat_block_rows(&self, tenant: Option<&str>) -> Vec<NatBlockRow> {
        let names = &self.generation.names;
        let rows = self.holdings.blocks().map(|(id, handoff, branch, address, ports)| NatBlockRow {
            tenant: names.tenant(id).to_owned(),
            handoff: names.handoff(handoff).to_owned(),
            branch: branch.map(|branch| names.site(branch).to_owned()),
            address: address.into(),
            first_port: *ports.start(),
            last_port: *ports.end(),
        });
        rows.filter(|row| tenant.is_none_or(|tenant| row.tenant == tenant)).collect()
    }

    /// An address belongs to one pool, so what is used is gone through once, however many pools there are.
    fn pools_used(&self, all: &HashMap<HandoffId, &Pool>) -> HashMap<HandoffId, Used> {
        let mut pools: HashMap<HandoffId, Used> = HashMap::new();
        let owner = |address: IpAddr| {
            let owner = self.generation.internet.lookup(address)?;
            matches!(owner.kind, InternetKind::Pool).then_some(owner.handoff)
        };
        for (address, protocol, ports) in self.sessions.ports_used() {
            let Some(handoff) = owner(address) else { continue };
            let used = pools.entry(handoff).or_default();
            match protocol {
                Protocol::TCP => used.tcp += ports,
                Protocol::UDP => used.udp += ports,
                Protocol::ICMP => used.icmp += ports,
                _ => used.other += ports,
            }
        }
        for (address, ports) in self.holdings.leased() {
            if let Some(pool) = owner(address.into()).and_then(|handoff| all.get(&handoff)) {
                let (first, last) = (pool.ports().start(), pool.ports().end());
                let within = *ports.start().max(first)..=*ports.end().min(last);
                pools.entry(pool.handoff).or_default().leased += within.len() as u64;
            }
        }
        pools
    }
}

/// Of its handoffs, and of its way out of a branch.
fn nat_pools(tenant: &Tenant) -> impl Iterator<Item = &Pool> {
    let of_handoffs = tenant.nat.iter().map(|(_, policy)| policy.pool());
    let all = of_handoffs.chain(tenant.breakout.iter().map(|breakout| &breakout.pool));
    all.filter(|pool| !pool.is_empty())
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    leased: u64,
    tcp: u64,
    udp: u64,
    icmp: u64,
    other: u64,
}
