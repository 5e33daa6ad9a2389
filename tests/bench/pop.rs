//! The PoP that is measured: its policy, its workers, and the clients that dial in, boringtun's own.

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnetwork::IpNetwork;
use popgate::config::{
    AclAction, AclRule, Admin, Appliance, BranchLimits, Candidate, CommitGuard, DEFAULT_CLASS, Export,
    FlowMatch, Handoff, HandoffKind, IcmpSource, NatFiltering, PathPolicy, Place, Pop as PopRole, PrivateKey,
    Role, SourceRef, Tenant, TenantBranch, TenantPath, Transport, public_of,
};
use popgate::model::{
    DeviceId, Now, Protocol, Queueing, Rate, Remediation, Resilience, Timeouts, TransportId,
};
use popgate::pipeline::{Entrance, Team, Worker};
use popgate::tables::{Compiler, Generation};
use popgate::wire::{Batch, Handover, Ingress, Outbound};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A PoP with everything on, and its clients.
pub struct Pop {
    pub entrance: Entrance,
    pub workers: Vec<Worker>,
    pub clients: Vec<Tunn>,
    /// By client: which worker has its site.
    pub owners: Vec<u16>,
    pub internet: DeviceId,
    pub now: Now,
}

impl Pop {
    /// One whose tunnels are all up.
    pub fn new(tunnels: usize, rules: usize, workers: u16) -> Pop {
        let clients = clients(tunnels);
        let mut pop = Pop::unconnected(&compiled(tunnels, rules), clients, workers);
        pop.connect();
        pop
    }

    /// One of one worker, whose transport has so much bandwidth.
    pub fn limited(tunnels: usize, rules: usize, bandwidth: Option<Rate>) -> Pop {
        let mut candidate = candidate(tunnels, rules);
        candidate.appliance.transports.iter_mut().for_each(|transport| transport.bandwidth = bandwidth);
        Pop::by(&candidate, tunnels)
    }

    /// One of one worker and by this policy, with so many clients.
    pub fn by(candidate: &Candidate, clients: usize) -> Pop {
        let generation = Compiler::new("bench-").compile(candidate).expect("few names");
        let mut pop = Pop::unconnected(&Arc::new(generation), self::clients(clients), 1);
        pop.connect();
        pop
    }

    /// One that nobody has dialled into yet.
    pub fn unconnected(generation: &Arc<Generation>, clients: Vec<Tunn>, workers: u16) -> Pop {
        let internet = generation.devices.iter().next().expect("the internet's device").0;
        let now = Now { unix_nanos: 1_790_000_000_000_000_000, ..Now::default() };
        let team = Team::new(workers);
        let worker = |id| Worker::new(id, &team, [7 + id as u8; 32], Arc::clone(generation), now);
        Pop {
            entrance: Entrance::new(&team, Arc::clone(generation), now),
            workers: (0..workers).map(worker).collect(),
            owners: vec![0; clients.len()],
            clients,
            internet,
            now,
        }
    }

    pub fn connect(&mut self) {
        for n in 0..self.clients.len() {
            // By the thousand a second, as after a restart: some are asked for a cookie first.
            while !self.shake_hands(n) {}
            self.now = self.now + Duration::from_millis(100);
            for worker in &mut self.workers {
                worker.handle_timeout(self.now, &mut Outbound::default());
            }
        }
    }

    /// One handshake; false if the PoP asked for a cookie, which the client now has.
    fn shake_hands(&mut self, n: usize) -> bool {
        let mut buffer = vec![0; 2_048];
        let (mut admitted, mut out) = (Outbound::default(), Outbound::default());
        let mut batch = Batch::with_slots(1);
        batch.push(from_client(n), &initiation(&mut self.clients[n]));
        self.entrance.process(&mut batch, self.now, &mut admitted);
        for (owner, what, initiation) in admitted.handovers() {
            self.owners[n] = owner;
            self.answer(owner, what, initiation, &mut out);
        }
        let reply = admitted.datagrams().chain(out.datagrams()).next().expect("a reply").2.to_vec();
        match self.clients[n].decapsulate(None, &reply, &mut buffer) {
            TunnResult::Done => false,
            TunnResult::WriteToNetwork(keepalive) => {
                let keepalive = keepalive.to_vec();
                let worker = &mut self.workers[usize::from(self.owners[n])];
                process(worker, &[(from_client(n), keepalive)], self.now, &mut Outbound::default());
                true
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, owner: u16, what: Handover, initiation: &[u8], out: &mut Outbound) {
        let worker = &mut self.workers[usize::from(owner)];
        process(worker, &[(Ingress::Worker(what), initiation.to_vec())], self.now, out);
    }
}

/// What `candidate(tunnels, rules)` is compiled to.
pub fn compiled(tunnels: usize, rules: usize) -> Arc<Generation> {
    Arc::new(Compiler::new("bench-").compile(&candidate(tunnels, rules)).expect("few names"))
}

/// The same, of whose classes two set a DSCP.
pub fn compiled_with_streams(tunnels: usize, rules: usize) -> Arc<Generation> {
    let mut candidate = candidate(tunnels, rules);
    set_dscps(&mut candidate);
    Arc::new(Compiler::new("bench-").compile(&candidate).expect("few names"))
}

/// What the two carry; with best effort's, each path has three streams of probes then.
pub const DSCPS: [u8; 2] = [46, 34];

pub fn set_dscps(candidate: &mut Candidate) {
    for tenant in candidate.tenants.values_mut() {
        for (class, dscp) in tenant.classes.iter_mut().zip(DSCPS) {
            class.set_dscp = Some(dscp);
        }
    }
}

/// So many clients of the PoP's.
pub fn clients(count: usize) -> Vec<Tunn> {
    let pop = PublicKey::from(public_of(&pop_key()).0);
    let client = |n| Tunn::new(StaticSecret::from(client_key(n).0), pop, None, None, n as u32, None);
    (0..count).map(client).collect()
}

/// A handshake's first message.
pub fn initiation(client: &mut Tunn) -> Vec<u8> {
    let mut buffer = vec![0; 2_048];
    match client.format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(initiation) => initiation.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// What `sender` makes of `packet`.
pub fn seal(sender: &mut Tunn, packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; packet.len() + 64];
    match sender.encapsulate(packet, &mut buffer) {
        TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
        other => panic!("{other:?}"),
    }
}

pub fn process(worker: &mut Worker, packets: &[(Ingress, Vec<u8>)], now: Now, out: &mut Outbound) {
    let mut batch = Batch::with_slots(packets.len());
    for (ingress, packet) in packets {
        batch.push(*ingress, packet);
    }
    worker.process(&mut batch, now, out);
}

pub fn pop_key() -> PrivateKey {
    PrivateKey::from_random([0x11; 32])
}

pub fn client_key(n: usize) -> PrivateKey {
    let mut bytes = [0x22; 32];
    bytes[8..16].copy_from_slice(&(n as u64).to_le_bytes());
    PrivateKey::from_random(bytes)
}

pub fn from_client(n: usize) -> Ingress {
    let address = Ipv4Addr::from_bits(0x0b00_0000 + n as u32);
    Ingress::Transport { transport: TransportId(0), from: SocketAddr::new(address.into(), 51_820) }
}

/// [`from_client`], the other way round.
pub fn client_at(address: SocketAddr) -> usize {
    match address.ip() {
        IpAddr::V4(v4) => v4.to_bits() as usize - 0x0b00_0000,
        IpAddr::V6(_) => panic!("nobody is there"),
    }
}

/// The `k`th host behind tunnel `n`: 10.0.0.0/8 in /22s.
pub fn host_of(n: usize, k: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + ((n as u32) << 10) + 5 + k as u32)
}

/// A client and a server that have a session, boringtun's own and nothing else.
pub fn bare_pair() -> (Tunn, Tunn) {
    let (a, b) = (StaticSecret::from([5; 32]), StaticSecret::from([6; 32]));
    let mut client = Tunn::new(a.clone(), PublicKey::from(&b), None, None, 1, None);
    let mut server = Tunn::new(b, PublicKey::from(&a), None, None, 2, None);
    let (mut x, mut y) = (vec![0; 2_048], vec![0; 2_048]);
    let TunnResult::WriteToNetwork(init) = client.format_handshake_initiation(&mut x, true) else { panic!() };
    let TunnResult::WriteToNetwork(response) = server.decapsulate(None, init, &mut y) else { panic!() };
    let TunnResult::WriteToNetwork(keepalive) = client.decapsulate(None, response, &mut x) else { panic!() };
    server.decapsulate(None, keepalive, &mut y);
    (client, server)
}

/// An IPv4/UDP packet of `len` bytes in all, every checksum right.
pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&from.0.octets());
    packet[16..20].copy_from_slice(&to.0.octets());
    let sum = !popgate::wire::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&from.1.to_be_bytes());
    packet[22..24].copy_from_slice(&to.1.to_be_bytes());
    packet[24..26].copy_from_slice(&((len - 20) as u16).to_be_bytes());
    let pseudo = popgate::wire::pseudo_header(from.0.into(), to.0.into(), 17, len - 20);
    let sum = !popgate::wire::add_sums(pseudo, popgate::wire::checksum(&packet[20..]));
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

pub fn source_of(packet: &[u8]) -> (Ipv4Addr, u16) {
    let address = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    (address, u16::from_be_bytes([packet[20], packet[21]]))
}

/// An IPv4/TCP packet of `len` bytes in all, every checksum right.
pub fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), sequence: u32, flags: u8, len: usize) -> Vec<u8> {
    let mut packet = udp(from, to, len);
    packet[9] = 6;
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = flags;
    packet[34..36].copy_from_slice(&[0xff, 0xff]);
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = !popgate::wire::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = popgate::wire::pseudo_header(from.0.into(), to.0.into(), 6, len - 20);
    let sum = !popgate::wire::add_sums(pseudo, popgate::wire::checksum(&packet[20..]));
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A PoP with everything on: NAT, `rules` rules of which the last accepts, classes, path policies.
pub fn candidate(tunnels: usize, rules: usize) -> Candidate {
    let at = SourceRef { file: "bench".into(), line: 1 };
    let transport = Transport {
        name: "wan".into(),
        listen: "192.0.2.1:51820".parse().expect("an address"),
        interface: None,
        mtu: 1_500,
        bandwidth: None,
        at: at.clone(),
    };
    let network = |text: &str| text.parse::<IpNetwork>().expect("a network");
    let branches = (0..tunnels).map(|n| TenantBranch {
        name: format!("b{n}"),
        prefixes: vec![
            IpNetwork::new(IpAddr::V4(host_of(n, 0)), 22)
                .map(|p| IpNetwork::new(p.network(), 22))
                .expect("a /22")
                .expect("a /22"),
        ],
        prefixes_at: Vec::new(),
        limits: BranchLimits::default(),
        paths: vec![TenantPath {
            name: "wan".into(),
            transport: None,
            public_key: public_of(&client_key(n)),
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            bandwidth: None,
            probe_target: None,
            at: at.clone(),
        }],
        at: at.clone(),
    });
    let rule = |n: usize| AclRule {
        name: format!("r{n}"),
        matches: FlowMatch {
            from: vec![Place::Prefix(network(&format!("10.250.{}.0/24", n % 250)))],
            protocols: vec![Protocol::TCP],
            destination_ports: vec![(n as u16 + 1)..=(n as u16 + 1)],
            ..FlowMatch::default()
        },
        action: AclAction::Drop,
        log: false,
        at: at.clone(),
    };
    let mut acl: Vec<AclRule> = (1..rules).map(rule).collect();
    acl.push(AclRule {
        name: "out".into(),
        matches: FlowMatch { to: vec![Place::Handoff("internet".into())], ..FlowMatch::default() },
        action: AclAction::Accept,
        log: false,
        at: at.clone(),
    });
    let class = |name: &str, dscp| popgate::config::AppClass {
        name: name.into(),
        matches: vec![FlowMatch { dscp: vec![dscp], ..FlowMatch::default() }],
        queueing: Queueing::default(),
        set_dscp: None,
        at: at.clone(),
    };
    let tenant = Tenant {
        apps: vec![],
        dns_teachers: vec![],
        whereabouts: Vec::new(),
        name: "acme".into(),
        branches: branches.collect(),
        published: Vec::new(),
        subscribers: Vec::new(),
        subscriptions: Vec::new(),
        handoffs: vec![Handoff {
            name: "internet".into(),
            kind: HandoffKind::Internet {
                nat_pool: vec![network("198.51.100.0/24")],
                masquerade: None,
                nat_ports: 1_024..=65_535,
                nat_blocks: None,
                nat_filtering: NatFiltering::AddressAndPortDependent,
                nat64_prefix: None,
                maps: Vec::new(),
                forwards: Vec::new(),
                routed: Vec::new(),
            },
            prefixes: vec![network("0.0.0.0/0")],
            at: at.clone(),
        }],
        classes: vec![class("voice", 46), class("meetings", 34), class("bulk", 8)],
        acl,
        nat: Vec::new(),
        timeouts: Timeouts::DEFAULT,
        max_sessions: None,
        path_policies: vec![PathPolicy {
            class: DEFAULT_CLASS.into(),
            prefer: vec![vec!["wan".into()]],
            weights: BTreeMap::new(),
            sla: None,
            remediation: Remediation::None,
            resilience: Resilience::Revertible,
            at: at.clone(),
        }],
        policy_tests: Vec::new(),
        canaries: Vec::new(),
        file: "bench".into(),
    };
    let appliance = Appliance {
        site: "fra1".into(),
        metro: None,
        facility: None,
        role: Role::Pop(PopRole { private_key: pop_key(), internet_device: "pg-internet".into() }),
        state_dir: "/nonexistent".into(),
        transports: vec![transport],
        icmp_source: IcmpSource {
            v4: Ipv4Addr::new(192, 0, 0, 8),
            v6: "fd00::1".parse().expect("an address"),
        },
        max_sessions: 2_000_000,
        workers: None,
        admin: Admin { listen: "127.0.0.1:0".parse().expect("an address"), tls: None, oidc: None },
        export: Export {
            active_timeout: Duration::from_secs(60),
            packet_sampling: 1_000,
            collectors: Vec::new(),
        },
        nat_ledger: None,
        flow_history: None,
        commit_guard: CommitGuard { watch: Duration::from_secs(30), tunnels_lost: 1.0, drops: None },
        audit_syslog: None,
        interfaces: Vec::new(),
    };
    Candidate { appliance, tenants: [("acme".to_owned(), tenant)].into() }
}
