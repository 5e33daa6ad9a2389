//! What a worker tells about itself: the shapes that the API, the CLI and the console show as they are.
//!
//! Names, not ids: whoever reads a report has no generation to look ids up in.

mod story;

pub use story::{Denial, Dropped, DroppedFor, MoveBy, MoveRow, StoryReport, TraceAsked, Traced};

use super::recording::Measured;
use crate::config::{AclAction, Outcome};
use crate::model::{AskedEnd, Protocol};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use utoipa::ToSchema;

/// What may be asked of a worker.
#[derive(Clone, Debug)]
pub enum Query {
    Totals,
    Paths,
    Sessions {
        filter: FlowFilter,
        limit: usize,
    },
    /// Of the sessions between two ends.
    Trace(TraceAsked),
    Drops,
    /// Of one tenant, or of all.
    Rules {
        tenant: Option<String>,
    },
    /// Of one tenant, or of all.
    Decisions {
        tenant: Option<String>,
    },
    /// Of one tenant, or of all.
    Measurements {
        tenant: Option<String>,
    },
    /// Of one tenant, or of all.
    Queues {
        tenant: Option<String>,
    },
    /// Of canaries, which are sent a probe first, if the worker is to.
    Canaries {
        probe: bool,
    },
    /// Of one path.
    History(PathName),
    Tenants,
    /// Of one tenant, or of all.
    NatBlocks {
        tenant: Option<String>,
    },
    /// Sessions that are to end.
    Clear(ClearAsked),
}

/// Which sessions are to end: a tenant's, before translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearAsked {
    pub tenant: String,
    /// `None` for all.
    pub protocol: Option<Protocol>,
    /// Who has begun them, if that is to matter.
    pub from: Option<AskedEnd>,
    pub to: Option<AskedEnd>,
}

/// What it answers, of the same name as the question.
#[derive(Clone, Debug)]
pub enum Answer {
    Totals(Totals),
    Paths(Vec<PathReport>),
    Sessions(SessionPage),
    Trace(Traced),
    Drops(Vec<DropRow>),
    /// By tenant, in the order they are tried.
    Rules(Vec<RuleRow>),
    /// The oldest first.
    Decisions(Vec<DecisionRow>),
    /// The oldest first.
    Measurements(Vec<MeasurementRow>),
    /// Of paths whose bandwidth is limited, and of classes that have sent something.
    Queues(Vec<QueueRow>),
    /// Of those whose probes the worker sends.
    Canaries(Vec<CanaryRow>),
    /// `None` from those that do not have the path.
    History(Option<PathHistory>),
    /// What is limited is the box's, what is used the worker's own.
    Tenants(Vec<TenantRow>),
    /// Blocks that the worker has given to branches.
    NatBlocks(Vec<NatBlockRow>),
    /// How many have ended.
    Cleared(u64),
}

/// How a canary stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryRow {
    pub tenant: String,
    pub canary: String,
    /// Its address, and port if it has one.
    pub target: String,
    /// The last probe was answered, of those that are not under way.
    pub answers: bool,
    /// A probe is under way.
    pub under_way: bool,
}

/// Which path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathName {
    pub tenant: String,
    /// The far site.
    pub site: String,
    pub path: String,
}

/// Sums over a worker's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// The generation the worker runs.
    pub generation: u64,
    pub sessions: u64,
    pub max_sessions: u64,
    pub sessions_created: u64,
    pub paths: u64,
    pub paths_up: u64,
    /// Inner packets taken in and passed on, and their IP bytes.
    pub forwarded_packets: u64,
    pub forwarded_bytes: u64,
    pub dropped_packets: u64,
    /// Records the exporter's queue had no room for.
    pub records_lost: u64,
    /// Beginnings and ends of NAT bindings that the ledger's queue had no room for.
    pub ledger_lost: u64,
    /// Flows that a name could have given another class, and that there was no room to look into.
    pub not_inspected: u64,
    /// How often a session began to be answered by another path than it came by, since that one breaks what its class needs.
    #[serde(default)]
    pub returns_overridden: u64,
}

/// A path's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// Probes are answered; or, towards a stock WireGuard client, there is a session.
    Up,
    /// Up again after it was down, and used only where no other is up until it has proved to last.
    Recovering,
    /// Probes in a row went unanswered, or there is no session.
    Down,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PathReport {
    pub tenant: String,
    /// The far site: a branch, or (at a branch) a PoP; of the branch's way straight out, `internet`.
    pub site: String,
    pub path: String,
    /// This box's transport that the peer was last heard on.
    pub transport: Option<String>,
    pub state: PathState,
    /// Base64, the far end's; of the way straight out of a branch there is none.
    pub public_key: Option<String>,
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<SocketAddr>,
    pub last_handshake_secs: Option<u64>,
    /// The far end answers probes: it is a popgate, not a stock client. Others are measured by echo requests, if policy says where.
    pub probed: bool,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Smoothed mean deviation of the round-trip time in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Share of the last 100 probes that went unanswered, 0 to 1.
    pub loss: Option<f64>,
    /// What this box sends, by what the far end says in its answers.
    pub outbound: Option<DirectionReport>,
    /// What it receives. Loss is known of stock clients too, for WireGuard numbers what they send.
    pub inbound: Option<DirectionReport>,
    /// The same of packets that carry other DSCPs than best effort, where classes set them: `outbound` and `inbound` are of all others then.
    #[serde(default)]
    pub streams: Vec<StreamReport>,
    pub received_packets: u64,
    pub received_bytes: u64,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    /// Packets among these that went by another path too, and this was not the first choice.
    #[serde(default)]
    pub duplicated_packets: u64,
    /// Packets received that had come already, by another path.
    #[serde(default)]
    pub duplicate_packets: u64,
}

/// How good a path is for packets that carry a DSCP, by probes that carry it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StreamReport {
    /// By name, or by number if it has none.
    pub dscp: String,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    pub outbound: Option<DirectionReport>,
    pub inbound: Option<DirectionReport>,
}

/// One direction of a path, over the last ten seconds: of packets of all kinds, probes being few of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DirectionReport {
    /// One-way latency in milliseconds: half of the probes took no longer, and 95 of a hundred. What a path takes at rest is
    /// shared out evenly between its directions.
    pub latency_p50_ms: Option<f64>,
    pub latency_p95_ms: Option<f64>,
    /// Interarrival jitter in milliseconds (RFC 3550 section 6.4.1).
    pub jitter_ms: Option<f64>,
    /// Share of packets lost, 0 to 1.
    pub loss: Option<f64>,
    /// Mean opinion score of a call, 1 to 4.4 (ITU-T G.107).
    pub mos: Option<f64>,
}

/// How good a path has been, and who asks what of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PathHistory {
    /// The oldest first; nothing of what is not measured, as stock clients without a `probe-target`.
    pub samples: Vec<PathSample>,
    /// The SLAs of the tenant's path policies, in their order.
    pub slas: Vec<SlaRow>,
}

/// A path at one moment: [`DirectionReport`] of the ten seconds before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PathSample {
    pub unix_ms: u64,
    pub state: PathState,
    pub outbound: Option<DirectionReport>,
    pub inbound: Option<DirectionReport>,
}

/// What a class needs of paths, and whether this one breaks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SlaRow {
    pub sla: String,
    /// Every class that has it.
    pub classes: Vec<String>,
    /// What the probes carry that it is judged by, where not best effort: a DSCP by name, or by number if it has none.
    #[serde(default)]
    pub stream: Option<String>,
    /// Share, 0 to 1.
    pub max_loss: Option<f64>,
    pub max_latency_ms: Option<f64>,
    pub max_jitter_ms: Option<f64>,
    pub min_mos: Option<f64>,
    pub is_broken: bool,
}

/// Narrows sessions and flows; what is `None` matches all. An address or port matches either end, before or after
/// translation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct FlowFilter {
    pub tenant: Option<String>,
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub class: Option<String>,
}

/// Sessions that match, newest first, cut at the limit that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SessionPage {
    /// How many match in all.
    pub matching: u64,
    pub sessions: Vec<SessionReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SessionReport {
    pub id: u64,
    pub tenant: String,
    pub protocol: String,
    #[schema(value_type = String)]
    pub source: IpAddr,
    pub source_port: u16,
    #[schema(value_type = String)]
    pub destination: IpAddr,
    pub destination_port: u16,
    /// The address and port the source was translated to.
    #[schema(value_type = Option<String>)]
    pub nat_source: Option<IpAddr>,
    pub nat_source_port: Option<u16>,
    /// And the destination, of a session that was called at an address and port of ours.
    #[schema(value_type = Option<String>)]
    pub nat_destination: Option<IpAddr>,
    pub nat_destination_port: Option<u16>,
    /// `branch:berlin`, `handoff:internet`, `lan`.
    pub from: String,
    pub to: String,
    pub class: String,
    /// What told the class: `default`, `rule`, `port`, `prefix`, `dns`, `tls-sni`, `quic-sni`, `http-host`.
    pub class_by: String,
    /// The app it is of; of several the most specific.
    pub app: Option<String>,
    /// What its far end is called, where that could make a difference.
    pub name: Option<String>,
    pub rule: String,
    /// DSCP of the first packet, 0-63.
    #[serde(default)]
    pub dscp: u8,
    /// Of the configuration that decided.
    #[serde(default)]
    pub generation: u64,
    /// Path the forward direction's last packet came or went by; the tunnel side nearest the initiator first.
    pub forward_path: Option<String>,
    pub reverse_path: Option<String>,
    /// TCP state (`syn-sent`, `established`, …); `None` for other protocols.
    pub tcp_state: Option<String>,
    pub age_secs: f64,
    pub idle_secs: f64,
    pub forward_packets: u64,
    pub forward_bytes: u64,
    pub reverse_packets: u64,
    pub reverse_bytes: u64,
    /// What happened to it since its last record, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub story: Option<Box<StoryReport>>,
}

/// One counter of dropped packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DropRow {
    /// `None` where the packet could not be laid at a tenant's door.
    pub tenant: Option<String>,
    /// [`crate::model::DropReason::name`].
    pub reason: String,
    /// The rule, pool or handoff the reason speaks of.
    pub detail: Option<String>,
    pub packets: u64,
}

/// A move of an app class from one path of a site to another, towards that site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DecisionRow {
    /// When it began, in milliseconds since the Unix epoch: off a path that is alive many sessions go one after the other.
    pub unix_ms: u64,
    pub tenant: String,
    /// The far site.
    pub site: String,
    pub class: String,
    pub from: String,
    pub to: String,
    /// The path whose doing it was: one of the two, as a rule.
    pub path: String,
    /// What it did: `down`, `link-down`, `came-up`, `recovered`, `sla-broken`, `sla-kept`, `best-of-worst`, `heard`, `commit`.
    pub why: String,
    /// The same in words, with the numbers that decided.
    pub detail: String,
    /// The SLA class that it was about.
    pub sla: Option<String>,
    /// What the probes carried that told, where not best effort: a DSCP by name, or by number if it has none.
    #[serde(default)]
    pub stream: Option<String>,
    /// What was measured where an SLA was broken, and its limit: a share, milliseconds, or a score.
    pub measured: Option<f64>,
    pub limit: Option<f64>,
}

/// How an app class fares on a path whose bandwidth is limited, by its own rate or its transport's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QueueRow {
    pub tenant: String,
    /// The far site.
    pub site: String,
    pub path: String,
    pub class: String,
    /// Its share beside the others'; `None`: it goes first.
    pub weight: Option<u8>,
    /// Inner packets that went, and their IP bytes.
    pub sent_packets: u64,
    pub sent_bytes: u64,
    /// What waits now.
    pub queued_packets: u64,
    pub queued_bytes: u64,
    /// Lost, or marked (ECN), because the queue stood: CoDel (RFC 8289). And lost because it was full.
    pub dropped_packets: u64,
    pub marked_packets: u64,
    pub overflowed_packets: u64,
    /// What half and 95 of a hundred of its last 128 packets waited at most, in milliseconds.
    pub delay_p50_ms: Option<f64>,
    pub delay_p95_ms: Option<f64>,
}

/// What a tenant has of what is limited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TenantRow {
    pub tenant: String,
    pub sessions: u64,
    /// `None`: as many as the box.
    pub max_sessions: Option<u64>,
    /// By handoff.
    pub nat_pools: Vec<NatPoolRow>,
}

/// How much of a handoff's NAT pool is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NatPoolRow {
    pub handoff: String,
    pub prefixes: Vec<String>,
    /// Those of each address that may be given out.
    pub first_port: u16,
    pub last_port: u16,
    /// Ports of a block, where each is one branch's.
    pub block_ports: Option<u16>,
    pub addresses: u64,
    /// What its addresses have of them, for each protocol.
    pub ports: u64,
    /// What workers have taken to give out, in units or as branches' blocks.
    pub leased_ports: u64,
    /// Ports that sessions hold. Of other protocols each holds an address.
    pub tcp_bindings: u64,
    pub udp_bindings: u64,
    pub icmp_bindings: u64,
    pub other_bindings: u64,
}

/// A block of ports that a branch has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NatBlockRow {
    pub tenant: String,
    pub handoff: String,
    /// `None`: hosts that are at none.
    pub branch: Option<String>,
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub first_port: u16,
    pub last_port: u16,
}

/// What a path was judged by: [`Measured`], when, and of which path. `popgate replay` reads these, one in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MeasurementRow {
    pub unix_nanos: u64,
    /// Since the process began; it decides.
    pub monotonic_nanos: u64,
    pub tenant: String,
    /// The far site.
    pub site: String,
    pub path: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub measured: Measured,
}

/// An ACL rule, and what it has done since the process began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RuleRow {
    pub tenant: String,
    pub rule: String,
    pub action: AclAction,
    /// Where it is written: `tenants/acme.toml:40`.
    pub at: String,
    /// Sessions it accepted.
    pub sessions: u64,
    /// What went in these sessions, both directions, as far as records of them have been written: at their ends and at
    /// active timeouts.
    pub packets: u64,
    pub bytes: u64,
    /// Packets it dropped or rejected.
    pub dropped_packets: u64,
    /// Sessions that a rule with `log` decided on and left out of the log, because there were too many.
    pub unlogged: u64,
}

/// What would become of a flow, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    pub outcome: Outcome,
    /// Why it would be dropped or rejected: [`crate::model::DropReason::name`].
    pub reason: Option<String>,
    pub class: Option<String>,
    /// The ACL rule that decides.
    pub rule: Option<String>,
    /// The handoff it goes to.
    pub handoff: Option<String>,
    /// The prefixes whose addresses the source may be translated to.
    pub nat: Vec<String>,
    /// Best first: those it is sent on.
    pub paths: Vec<PathStep>,
    /// The paths are those of its own direction, not of its answers'.
    pub paths_are_forward: bool,
    /// In the order they were taken.
    pub steps: Vec<Step>,
}

impl Explanation {
    /// Without the rules of another tenant's that publishes what is called: that one's policy decides, and is its own.
    pub fn of_tenant(mut self, tenant: &str) -> Explanation {
        let own = format!("tenants/{tenant}.toml:");
        let is_own = |step: &Step| match &step.at {
            Some(at) => at.starts_with(&own) || !at.starts_with("tenants/"),
            None => !step.text.starts_with("in "),
        };
        let all = self.steps.len();
        self.steps.retain(is_own);
        if self.steps.len() < all {
            let rule = self.rule.take();
            let is_of = |step: &Step, rule: &str| {
                step.text.strip_prefix(rule).is_some_and(|rest| rest.starts_with(" fits"))
            };
            self.rule = rule.filter(|rule| self.steps.iter().any(|step| is_of(step, rule)));
            let text = "the rest is for the policy of whoever publishes this service to say".to_owned();
            let fits = self.outcome == Outcome::Accept;
            self.steps.push(Step { kind: StepKind::Rule, text, at: None, fits });
        }
        self
    }
}

/// A step on the way to a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    pub kind: StepKind,
    pub text: String,
    /// Where what was asked for is written: `tenants/acme.toml:40`.
    pub at: Option<String>,
    /// It fitted, or went on.
    pub fits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    Source,
    Destination,
    Class,
    /// An ACL rule.
    Rule,
    Nat,
    Path,
}

/// A path in the order it would be tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PathStep {
    /// The far site.
    pub site: String,
    pub path: String,
    /// How it stands now; `None` where no box was asked.
    pub live: Option<LivePath>,
}

/// How a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LivePath {
    pub state: PathState,
    /// Milliseconds.
    pub rtt_ms: Option<f64>,
    pub jitter_ms: Option<f64>,
    /// 0 to 1.
    pub loss: Option<f64>,
}

impl Explanation {
    /// Fills in how its paths, which are `tenant`'s, stand.
    pub fn with_live(mut self, tenant: &str, reports: &[PathReport]) -> Explanation {
        for step in &mut self.paths {
            let is = |report: &&PathReport| {
                report.tenant == tenant && report.site == step.site && report.path == step.path
            };
            let found = reports.iter().find(is).map(|report| LivePath {
                state: report.state,
                rtt_ms: report.rtt_ms,
                jitter_ms: report.jitter_ms,
                loss: report.loss,
            });
            step.live = found.or(step.live);
        }
        self
    }
}

/// A flow record in names, for the API's list of recent flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowReport {
    pub session: u64,
    pub tenant: String,
    pub protocol: String,
    #[schema(value_type = String)]
    pub source: IpAddr,
    pub source_port: u16,
    #[schema(value_type = String)]
    pub destination: IpAddr,
    pub destination_port: u16,
    #[schema(value_type = Option<String>)]
    pub nat_source: Option<IpAddr>,
    pub nat_source_port: Option<u16>,
    /// And the destination, of a session that was called at an address and port of ours.
    #[schema(value_type = Option<String>)]
    pub nat_destination: Option<IpAddr>,
    pub nat_destination_port: Option<u16>,
    pub from: String,
    pub to: String,
    pub class: String,
    /// As in [`SessionReport`].
    pub class_by: String,
    pub app: Option<String>,
    pub name: Option<String>,
    pub rule: String,
    pub dscp: u8,
    pub forward_path: Option<String>,
    pub reverse_path: Option<String>,
    pub start_unix_ms: u64,
    pub end_unix_ms: u64,
    pub forward_packets: u64,
    pub forward_bytes: u64,
    pub reverse_packets: u64,
    pub reverse_bytes: u64,
    pub tcp_flags: u8,
    /// Of the configuration that decided; of a session that policy has ended, the one that did.
    #[serde(default)]
    pub generation: u64,
    /// `idle-timeout`, `active-timeout`, `end-of-flow`, `forced-end`, `lack-of-resources`.
    pub end_reason: String,
    /// What happened to it since its last record, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub story: Option<Box<StoryReport>>,
}
