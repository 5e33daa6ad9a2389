// The API's reports, as popgate's `pipeline::report` and `control` write them.

export interface Status {
  site: string;
  role: string;
  metro: string | null;
  facility: string | null;
  version: string;
  'started-unix-ms': number;
  'now-unix-ms': number;
  workers: number;
  generation: number;
  sessions: number;
  'max-sessions': number;
  'sessions-created': number;
  paths: number;
  'paths-up': number;
  'forwarded-packets': number;
  'forwarded-bytes': number;
  'dropped-packets': number;
  'records-lost': number;
  exporters: ExporterReport[];
  handoffs: HandoffRow[];
  /** Nobody puts configurations in force where there is none. */
  commit: Standing | null;
  'flow-history': FlowHistoryState | null;
}

/** What of the configuration is always in sight. */
export interface Standing {
  revision: number;
  'confirm-by-unix-ms': number | null;
  'on-trial': boolean;
  problem: string | null;
}

export interface FlowHistoryState {
  'failing-since-unix-ms': number | null;
  problem: string | null;
  'object-store': ObjectStoreState | null;
}

/** The copying of the flow history's files elsewhere. */
export interface ObjectStoreState {
  'failing-since-unix-ms': number | null;
  problem: string | null;
  'waiting-files': number;
  'lost-files': number;
}

/** The interface of a private handoff. */
export interface HandoffRow {
  tenant: string;
  handoff: string;
  interface: string;
  up: boolean;
  addresses: string[];
  'dhcp-server': string | null;
}

/** The way to a collector of flow records, and what went by it. */
export interface ExporterReport {
  collector: string;
  address: string;
  protocol: 'ipfix' | 'netflow-v9' | 'sflow';
  transport: 'udp' | 'tcp' | 'tls';
  connected: boolean;
  connections: number;
  failures: number;
  'failing-since-unix-ms': number | null;
  problem: string | null;
  'retry-unix-ms': number | null;
  waiting: number;
  messages: number;
  octets: number;
  records: number;
  'lost-records': number;
}

export interface PathReport {
  tenant: string;
  site: string;
  path: string;
  transport: string | null;
  state: 'up' | 'recovering' | 'down';
  'public-key': string | null;
  endpoint: string | null;
  'last-handshake-secs': number | null;
  probed: boolean;
  'rtt-ms': number | null;
  'jitter-ms': number | null;
  loss: number | null;
  outbound: DirectionReport | null;
  inbound: DirectionReport | null;
  streams: StreamReport[];
  'received-packets': number;
  'received-bytes': number;
  'sent-packets': number;
  'sent-bytes': number;
  'duplicated-packets': number;
  'duplicate-packets': number;
}

/** A path for packets that carry a DSCP other than best effort. */
export interface StreamReport {
  dscp: string;
  'rtt-ms': number | null;
  outbound: DirectionReport | null;
  inbound: DirectionReport | null;
}

/** One direction of a path over the last ten seconds. */
export interface DirectionReport {
  'latency-p50-ms': number | null;
  'latency-p95-ms': number | null;
  'jitter-ms': number | null;
  loss: number | null;
  mos: number | null;
}

export interface DropRow {
  tenant: string | null;
  reason: string;
  detail: string | null;
  packets: number;
}

/** What sessions and flow records have in common. */
export interface FlowLike {
  tenant: string;
  protocol: string;
  source: string;
  'source-port': number;
  destination: string;
  'destination-port': number;
  'nat-source': string | null;
  'nat-source-port': number | null;
  'nat-destination': string | null;
  'nat-destination-port': number | null;
  from: string;
  to: string;
  class: string;
  /** `default`, `rule`, `port`, `prefix`, `dns`, `tls-sni`, `quic-sni`, `http-host`. */
  'class-by': string;
  app: string | null;
  /** What the far end is called. */
  name: string | null;
  rule: string;
  'forward-path': string | null;
  'reverse-path': string | null;
  'forward-packets': number;
  'forward-bytes': number;
  'reverse-packets': number;
  'reverse-bytes': number;
}

export interface SessionReport extends FlowLike {
  id: number;
  'tcp-state': string | null;
  'age-secs': number;
  'idle-secs': number;
}

export interface FlowReport extends FlowLike {
  session: number;
  dscp: number;
  'start-unix-ms': number;
  'end-unix-ms': number;
  'tcp-flags': number;
  'end-reason': string;
}

export interface SessionPage {
  matching: number;
  sessions: SessionReport[];
}

export interface FlowPage {
  matching: number;
  held: number;
  flows: FlowReport[];
}

export interface RuleRow {
  tenant: string;
  rule: string;
  action: 'accept' | 'drop' | 'reject';
  at: string;
  sessions: number;
  packets: number;
  bytes: number;
  'dropped-packets': number;
  unlogged: number;
}

export interface Step {
  kind: 'source' | 'destination' | 'class' | 'rule' | 'nat' | 'path';
  text: string;
  at: string | null;
  fits: boolean;
}

export interface PathStep {
  site: string;
  path: string;
  live: { state: 'up' | 'recovering' | 'down'; 'rtt-ms': number | null; 'jitter-ms': number | null; loss: number | null } | null;
}

export interface Explanation {
  outcome: 'accept' | 'drop' | 'reject';
  reason: string | null;
  class: string | null;
  rule: string | null;
  handoff: string | null;
  nat: string[];
  paths: PathStep[];
  'paths-are-forward': boolean;
  steps: Step[];
}

/** What became of a flow, as popgate's `control::trace` writes it. */
export interface Trace {
  site: string;
  metro: string | null;
  facility: string | null;
  tenant: string;
  'from-unix-ms': number;
  'until-unix-ms': number;
  'was-there': boolean;
  sessions: TracedSession[];
  known: { 'has-history': boolean; 'since-unix-ms': number | null; problem: string | null };
  now: { generation: number; explanation: Explanation } | null;
}

export interface TracedSession extends FlowLike {
  session: number;
  dscp: number;
  generation: number;
  'tcp-state': string | null;
  'began-unix-ms': number;
  'ended-unix-ms': number | null;
  'end-reason': string | null;
  denied: { reason: string; detail: string | null; 'unix-ms': number } | null;
  drops: { reason: string; detail: string | null; packets: number }[];
  events: TraceEvent[];
}

export interface TraceEvent {
  'unix-ms': number;
  what: 'began' | 'decided' | 'moved' | 'denied' | 'dropped' | 'ended';
  text: string;
  move: { direction: 'forward' | 'reverse'; from: string; to: string; by: 'here' | 'far-end' | 'answers' | 'policy'; why: string | null } | null;
}

/** What the NAT ledger says, as popgate's `store::report` writes it. */
export interface NatAnswer {
  /** By tenant and handoff. */
  pools: NatPool[];
  blocks: NatBlock[];
}

export interface NatPool {
  tenant: string;
  handoff: string;
  prefixes: string[];
  'first-port': number;
  'last-port': number;
  /** Ports of a block, where each is one branch's. */
  'block-ports': number | null;
  addresses: number;
  /** What its addresses have of them, for each protocol. */
  ports: number;
  'leased-ports': number;
  'tcp-bindings': number;
  'udp-bindings': number;
  'icmp-bindings': number;
  'other-bindings': number;
}

/** A block of ports that a branch has. */
export interface NatBlock {
  tenant: string;
  handoff: string;
  branch: string | null;
  address: string;
  'first-port': number;
  'last-port': number;
}

export interface CaptureRow {
  capture: number;
  tenant: string;
  side: 'inner' | 'outer';
  address: string | null;
  port: number | null;
  protocol: string | null;
  packets: number;
  seconds: number;
  'snap-length': number;
  'began-unix-ms': number;
  'is-running': boolean;
  'captured-packets': number;
  'captured-bytes': number;
  'lost-packets': number;
}

export interface WhoHad {
  address: string;
  port: number;
  protocol: string | null;
  'from-unix-ms': number;
  'until-unix-ms': number;
  answer: 'held' | 'nobody' | 'not-sure' | 'before-ledger' | 'not-yet';
  holdings: Held[];
  gaps: LedgerGap[];
  'known-from-unix-ms': number | null;
}

export interface Held {
  tenant: string;
  branch: string | null;
  inside: string | null;
  'inside-port': number | null;
  protocol: string | null;
  'first-port': number;
  'last-port': number;
  'began-unix-ms': number;
  'began-unsure': boolean;
  'ended-unix-ms': number | null;
  'ended-unsure': boolean;
}

export interface LedgerGap {
  'from-unix-ms': number;
  'until-unix-ms': number;
  cause: 'stopped' | 'overrun' | 'not-written' | 'damaged';
  lost: number;
}

/** RFC 9457. */
export interface Problem {
  title: string;
  status: number;
  detail: string;
  parameter?: string;
  /** What is wrong with a configuration, all of it. */
  problems?: ProblemRow[];
}

/** One path over the last half hour. */
export interface PathHistory {
  samples: PathSample[];
  slas: SlaRow[];
}

export interface PathSample {
  'unix-ms': number;
  state: 'up' | 'recovering' | 'down';
  outbound: DirectionReport | null;
  inbound: DirectionReport | null;
}

export interface SlaRow {
  sla: string;
  classes: string[];
  /** The DSCP of the probes that it is judged by, if not best effort. */
  stream: string | null;
  'max-loss': number | null;
  'max-latency-ms': number | null;
  'max-jitter-ms': number | null;
  'min-mos': number | null;
  'is-broken': boolean;
}

/** A class's move from one path of a site to another. */
export interface Decision {
  'unix-ms': number;
  tenant: string;
  site: string;
  class: string;
  from: string;
  to: string;
  path: string;
  why: string;
  detail: string;
}

/** How a class fares on a path whose bandwidth is limited. */
export interface QueueRow {
  tenant: string;
  site: string;
  path: string;
  class: string;
  /** Null: it goes first. */
  weight: number | null;
  'sent-packets': number;
  'sent-bytes': number;
  'queued-packets': number;
  'queued-bytes': number;
  'dropped-packets': number;
  'marked-packets': number;
  'overflowed-packets': number;
  'delay-p50-ms': number | null;
  'delay-p95-ms': number | null;
}

/** What the flow history answers: a table, and what belongs to it. */
export interface FlowAnswer {
  'from-unix-ms': number;
  'until-unix-ms': number;
  filter: string;
  columns: { name: string; holds: 'text' | 'number' | 'time' }[];
  rows: Cell[][];
  groups: number;
  total: number[];
  before: { 'from-unix-ms': number; 'until-unix-ms': number; total: number[]; rows: number[][] } | null;
  series: FlowSeries | null;
  cursor: string | null;
  'rows-read': number;
  /** Records that ended before are not all in it. */
  'incomplete-before-unix-ms': number | null;
  unreadable: string[];
}

export type Cell = string | number | null;

/** A sum in each step, for each row of the answer, and at last that of all else. */
export interface FlowSeries {
  of: string;
  'step-ms': number;
  'from-unix-ms': number;
  lines: number[][];
  before: number[][] | null;
}

/** Something wrong with a configuration, and where; nowhere: with all of it. */
export interface ProblemRow {
  file: string | null;
  line: number | null;
  message: string;
}

export interface FileDifference {
  file: string;
  'added-lines': number;
  'removed-lines': number;
  /** Unified, headed by two lines of names. */
  diff: string;
}

export interface Revision {
  number: number;
  'unix-ms': number;
  user: string;
  from: string;
  cause: 'files' | 'candidate' | 'rollback' | 'unconfirmed' | 'guard';
  comment?: string;
  texts: Record<string, string>;
}

export interface CandidateState {
  scope: string;
  user: string;
  from: string;
  'unix-ms': number;
  tag: string;
  outdated: boolean;
}

export interface ConfigState {
  revision: Revision | null;
  generation: number;
  unconfirmed: { 'deadline-unix-ms': number; 'remaining-ms': number; 'back-to': number } | null;
  'on-trial': boolean;
  edited: string[];
  candidates: CandidateState[];
  problem: string | null;
}

export interface CandidateAnswer {
  candidate: { scope: string; text: string | null } | null;
  tag: string;
}

export interface Committed {
  revision: number;
  generation: number;
  warnings: ProblemRow[];
}

/** What a configuration would do to the flows that there are. */
/** A policy test, and what it came to. */
export interface PolicyTest {
  tenant: string;
  name: string;
  file: string;
  line: number;
  /** What came out in place of what is expected; null: it passes. */
  failure: string | null;
}

export interface DryRun {
  sessions: number;
  records: number;
  changes: FlowChange[];
}

export interface FlowChange {
  tenant: string;
  kind: 'dropped' | 'admitted' | 'class' | 'path' | 'nat';
  now: string;
  then: string;
  rule: string | null;
  flows: number;
  sessions: number;
  bytes: number;
  examples: string[];
}

export interface AuditEntry {
  'unix-ms': number;
  user: string;
  from: string;
  action: 'commit' | 'commit-failed' | 'confirm' | 'revert' | 'edit' | 'discard';
  revision?: number;
  detail: string;
}

/** How an enrolment stands. */
export type EnrolmentState = 'open' | 'claimed' | 'approved' | 'finished' | 'refused' | 'expired' | 'revoked';

/** A path that a branch is to have. */
export interface OfferedPath {
  name: string;
  /** The PoP's. */
  transport: string;
  endpoint: string;
}

/** A branch's LAN. */
export interface Lan {
  /** The box's own, with the length of the prefix; none: it has one already. */
  addresses: string[];
  /** From the first to the last. */
  dhcp: string | null;
  dns: string[];
}

/** A box that has used a code. */
export interface ClaimRow {
  from: string;
  version: string;
  'unix-ms': number;
  fingerprint: string;
}

/** A code that was made for a branch, and what has become of it. */
export interface EnrolmentRow {
  id: number;
  site: string;
  tenant: string;
  state: EnrolmentState;
  prefixes: string[];
  paths: OfferedPath[];
  lan: Lan;
  maker: string;
  'created-unix-ms': number;
  'expires-unix-ms': number;
  claim: ClaimRow | null;
  decider: string | null;
  'decided-unix-ms': number | null;
  revision: number | null;
}

/** A code to be. */
export interface NewEnrolment {
  site: string;
  tenant: string;
  prefixes: string[];
  paths: { name: string; transport: string | null; endpoint: string | null }[];
  /** What is null is suggested by the prefixes. */
  lan: { addresses: string[] | null; dhcp: string | null; dns: string[] };
  admin: string[];
  'expires-in-secs': number;
}

export interface MadeCode {
  id: number;
  code: string;
  'expires-unix-ms': number;
  lan: Lan;
}

export interface Approved {
  revision: number | null;
}

/** How updates of the box stand. */
export interface UpdateState {
  /** Why it takes none. */
  refuses: string | null;
  version: string;
  slots: { slot: string; version: string | null; runs: boolean }[];
  'on-trial': boolean;
  'under-way': boolean;
  last: LastUpdate | null;
}

export interface LastUpdate {
  outcome: 'installed' | 'kept' | 'fell-back' | 'refused';
  version: string | null;
  detail: string | null;
  'unix-ms': number | null;
}

export interface UpdateTaken {
  version: string;
  reboot: boolean;
}

export type Role = 'viewer' | 'operator' | 'owner';

/** Who one is. */
export interface Me {
  name: string;
  role: Role;
  tenant: string | null;
  /** A user who has signed in; otherwise a token. */
  'is-user': boolean;
  /** At a provider, which knows what they sign in with. */
  'is-vouched': boolean;
  pending: 'password' | 'totp' | null;
}

/** Where people may sign in besides. */
export interface ProviderAnswer {
  provider: { label: string; start: string } | null;
}

export interface User {
  name: string;
  role: Role;
  tenant: string | null;
  /** The issuer they sign in at; null: here, with a password. */
  provider: string | null;
  disabled: boolean;
  /** No rule lets them in any more. */
  unmapped: boolean;
  'has-totp': boolean;
  'must-change-password': boolean;
  'created-unix-ms': number;
  'signed-in-unix-ms': number | null;
  sessions: number;
}

export interface ApiToken {
  id: number;
  name: string;
  maker: string;
  role: Role;
  tenant: string | null;
  'created-unix-ms': number;
  'expires-unix-ms': number;
  'used-unix-ms': number | null;
}

export interface TotpProposal {
  secret: string;
  uri: string;
  'qr-size': number;
  'qr-path': string;
}
