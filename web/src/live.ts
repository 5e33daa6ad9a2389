// The live feed: server-sent events read by fetch, since EventSource cannot send the token. Rates are made of two
// successive samples, by the box's own clock.

import { isUnauthorized, open, Refused } from './api';
import type { DropRow, PathReport, Problem, Status } from './types';

/** Samples kept for the sparklines: one minute. */
const KEPT = 60;

/** Samples that a drop rate is taken over: rare drops come in ones, and a rate that is 0 every other second says less. */
const DROP_SAMPLES = 10;

/** The feed speaks every second; after this much silence it is taken for dead. */
const SILENCE_MS = 6000;

export interface Live {
  state: 'connecting' | 'live' | 'lost';
  /** Why it is lost, where the server said. */
  reason?: string;
  /** When the next attempt is due, by this browser's clock. */
  retryAt?: number;
  /** When the last sample came, by this browser's clock. */
  sampledAt?: number;
  /** The server is there but a worker does not answer. */
  problem?: string;
  status?: Status;
  paths: PathReport[];
  drops: DropRow[];
  totals: TotalsHistory;
  pathRates: ReadonlyMap<string, PathRate>;
  dropRates: ReadonlyMap<string, number>;
}

/** Per second, oldest first. */
export interface TotalsHistory {
  bits: number[];
  packets: number[];
  created: number[];
  dropped: number[];
  recordsLost: number[];
  sessions: number[];
}

export interface PathRate {
  inBits: number;
  outBits: number;
  /** Both directions' bits per second, oldest first. */
  history: number[];
  /** When this console saw it change to the state it is in. */
  changedAt?: number;
}

export const pathKey = (path: PathReport): string => `${path.tenant} ${path.site} ${path.path}`;
export const dropKey = (row: DropRow): string => `${row.tenant ?? ''} ${row.reason} ${row.detail ?? ''}`;

const nothing = (): Live => ({
  state: 'connecting',
  paths: [],
  drops: [],
  totals: { bits: [], packets: [], created: [], dropped: [], recordsLost: [], sessions: [] },
  pathRates: new Map(),
  dropRates: new Map(),
});

export class Feed {
  live: Live = nothing();
  private readonly listeners = new Set<() => void>();
  private readonly closing = new AbortController();
  private wake?: () => void;
  private dropHistory: { at: number; packets: Map<string, number> }[] = [];

  constructor(
    private readonly bearer: string,
    private readonly onUnauthorized: () => void,
  ) {
    void this.run();
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  close(): void {
    this.closing.abort();
    this.wake?.();
  }

  /** Ends the wait for the next attempt. */
  retry(): void {
    this.wake?.();
  }

  private set(change: Partial<Live>): void {
    this.live = { ...this.live, ...change };
    this.listeners.forEach((tell) => tell());
  }

  private async run(): Promise<void> {
    let failures = 0;
    while (!this.closing.signal.aborted) {
      let reason: string | undefined;
      try {
        await this.read(() => (failures = 0));
      } catch (error) {
        if (isUnauthorized(error)) return this.onUnauthorized();
        if (error instanceof Refused) reason = error.problem.detail;
      }
      if (this.closing.signal.aborted) return;
      // 1, 2, 4, then every 8 seconds: a restart is noticed at once, an outage costs nothing.
      const wait = 1000 * Math.min(8, 2 ** failures);
      failures += 1;
      this.set({ state: 'lost', reason, retryAt: Date.now() + wait });
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, wait);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.wake = undefined;
    }
  }

  private async read(onSample: () => void): Promise<void> {
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    this.closing.signal.addEventListener('abort', abort);
    let silence = setTimeout(abort, SILENCE_MS);
    try {
      const response = await open('events', this.bearer, attempt.signal);
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
      let pending = '';
      const sample: { status?: Status; paths?: PathReport[] } = {};
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(abort, SILENCE_MS);
        const blocks = (pending + value).split(/\r?\n\r?\n/);
        pending = blocks.pop() ?? '';
        for (const block of blocks) {
          const [name, data] = parse(block);
          if (name === 'status') sample.status = data as Status;
          else if (name === 'paths') sample.paths = (data as { paths: PathReport[] }).paths;
          else if (name === 'drops' && sample.status && sample.paths) {
            onSample();
            this.take(sample.status, sample.paths, (data as { drops: DropRow[] }).drops);
          } else if (name === 'problem') {
            onSample();
            this.set({ state: 'live', retryAt: undefined, reason: undefined, problem: (data as Problem).detail });
          }
        }
      }
    } finally {
      clearTimeout(silence);
      this.closing.signal.removeEventListener('abort', abort);
    }
  }

  private take(status: Status, paths: PathReport[], drops: DropRow[]): void {
    const now = Date.now();
    let before = this.live;
    // A box that was started anew counts from zero.
    if (before.status?.['started-unix-ms'] !== status['started-unix-ms']) {
      before = nothing();
      this.dropHistory = [];
    }
    const secs = before.status ? (status['now-unix-ms'] - before.status['now-unix-ms']) / 1000 : 0;
    const per = (later: number, earlier: number | undefined) =>
      secs > 0 && earlier !== undefined ? Math.max(0, later - earlier) / secs : undefined;

    const push = (history: number[], value: number | undefined) =>
      value === undefined ? history : [...history.slice(1 - KEPT), value];
    const field = (name: keyof Status) => per(status[name] as number, before.status?.[name] as number | undefined);
    const bits = field('forwarded-bytes');
    const totals: TotalsHistory = {
      bits: push(before.totals.bits, bits === undefined ? undefined : bits * 8),
      packets: push(before.totals.packets, field('forwarded-packets')),
      created: push(before.totals.created, field('sessions-created')),
      dropped: push(before.totals.dropped, field('dropped-packets')),
      recordsLost: push(before.totals.recordsLost, field('records-lost')),
      sessions: push(before.totals.sessions, status.sessions),
    };

    const pathsBefore = new Map(before.paths.map((path) => [pathKey(path), path]));
    const pathRates = new Map<string, PathRate>();
    for (const path of paths) {
      const key = pathKey(path);
      const earlier = pathsBefore.get(key);
      const known = before.pathRates.get(key);
      const inBits = (per(path['received-bytes'], earlier?.['received-bytes']) ?? 0) * 8;
      const outBits = (per(path['sent-bytes'], earlier?.['sent-bytes']) ?? 0) * 8;
      const history = earlier ? push(known?.history ?? [], inBits + outBits) : [];
      const changedAt = earlier && earlier.state !== path.state ? now : known?.changedAt;
      pathRates.set(key, { inBits, outBits, history, changedAt });
    }

    const dropped = { at: status['now-unix-ms'], packets: new Map(drops.map((row) => [dropKey(row), row.packets])) };
    this.dropHistory = [...this.dropHistory.slice(-DROP_SAMPLES), dropped];
    const since = this.dropHistory[0]!;
    const window = (dropped.at - since.at) / 1000;
    // A reason that was not there before began at zero.
    const dropRate = (row: DropRow) => Math.max(0, row.packets - (since.packets.get(dropKey(row)) ?? 0)) / window;
    const dropRates = new Map(drops.map((row) => [dropKey(row), window > 0 ? dropRate(row) : 0]));

    this.live = before;
    this.set({
      state: 'live',
      reason: undefined,
      retryAt: undefined,
      problem: undefined,
      sampledAt: now,
      status,
      paths,
      drops,
      totals,
      pathRates,
      dropRates,
    });
  }
}

function parse(block: string): [string, unknown] {
  let name = 'message';
  const data: string[] = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith('event:')) name = line.slice(6).trim();
    else if (line.startsWith('data:')) data.push(line.slice(5).trimStart());
  }
  return [name, data.length > 0 ? JSON.parse(data.join('\n')) : undefined];
}
