// How good a path has been: four measures over the last half hour, either way, each with the limits that classes set it; what
// moved because of it, marked in time and told below. Where classes' packets carry DSCPs, how good it is now for each; where its
// bandwidth is limited, how classes fare in its queues. Which path, the address says.

import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { get, isUnauthorized } from './api';
import { bytes, integer, millis, percent, timeOfDay } from './format';
import { href, type Route } from './route';
import { Time } from './time';
import type { Decision, DirectionReport, PathHistory, PathReport, PathSample, QueueRow, SlaRow } from './types';

interface Props {
  route: Route;
  bearer: string;
  /** As they are now. */
  paths: PathReport[];
  onUnauthorized: () => void;
}

/** Samples come every 15 s; moves when they like. */
const ASK_EVERY_MS = 5_000;
/** More moves than this are not told apart. */
const MOVES = 200;

interface Measure {
  title: string;
  hint: string;
  of: (direction: DirectionReport) => number | null;
  limit: (sla: SlaRow) => number | null;
  say: (value: number) => string;
  /** What is shown at least, so that small changes look small. */
  least: number;
  /** Whether it is to stay above its limits, not below. */
  isBetterHigh?: boolean;
}

const MEASURES: Measure[] = [
  {
    title: 'Latency',
    hint: 'One way; 95 of a hundred probes took no longer',
    of: (d) => d['latency-p95-ms'],
    limit: (sla) => sla['max-latency-ms'],
    say: millis,
    least: 50,
  },
  {
    title: 'Jitter',
    hint: 'From probe to probe (RFC 3550)',
    of: (d) => d['jitter-ms'],
    limit: (sla) => sla['max-jitter-ms'],
    say: millis,
    least: 10,
  },
  {
    title: 'Loss',
    hint: 'Of packets of all kinds',
    of: (d) => d.loss,
    limit: (sla) => sla['max-loss'],
    say: percent,
    least: 0.02,
  },
  {
    title: 'MOS',
    hint: 'How a call would sound: 4 is good, below 3.6 poor (ITU-T G.107)',
    of: (d) => d.mos,
    limit: (sla) => sla['min-mos'],
    say: (value) => value.toFixed(1),
    least: 5,
    isBetterHigh: true,
  },
];

export function PathView({ route, bearer, paths, onUnauthorized }: Props) {
  const { tenant = '', site = '', path = '' } = route.query;
  const [history, setHistory] = useState<PathHistory>();
  const [moves, setMoves] = useState<Decision[]>([]);
  const [queues, setQueues] = useState<QueueRow[]>([]);
  const [problem, setProblem] = useState<string>();
  const [chosen, setChosen] = useState<Decision>();
  useEffect(() => {
    setHistory(undefined);
    setQueues([]);
    setChosen(undefined);
    const controller = new AbortController();
    const query = new URLSearchParams({ tenant, site, path }).toString();
    const ask = async () => {
      try {
        const [found, { decisions }, waiting] = await Promise.all([
          get<PathHistory>(`paths/history?${query}`, bearer, controller.signal),
          get<{ decisions: Decision[] }>(
            `decisions?${new URLSearchParams({ tenant, limit: String(MOVES) })}`,
            bearer,
            controller.signal,
          ),
          get<{ queues: QueueRow[] }>(`queues?${query}`, bearer, controller.signal),
        ]);
        setHistory(found);
        setQueues(waiting.queues);
        setMoves(decisions.filter((move) => move.site === site && [move.from, move.to, move.path].includes(path)));
        setProblem(undefined);
      } catch (error) {
        if (controller.signal.aborted) return;
        if (isUnauthorized(error)) return onUnauthorized();
        setProblem(error instanceof Error ? error.message : String(error));
      }
    };
    void ask();
    const timer = setInterval(() => void ask(), ASK_EVERY_MS);
    return () => {
      clearInterval(timer);
      controller.abort();
    };
  }, [tenant, site, path, bearer]);

  const until = history?.samples.at(-1)?.['unix-ms'] ?? 0;
  const from = history?.samples[0]?.['unix-ms'] ?? 0;
  const now = paths.find((known) => known.tenant === tenant && known.site === site && known.path === path);
  const within = moves.filter((move) => move['unix-ms'] >= from);
  return (
    <main class="listing path-view" id="main">
      <header class="path-head">
        <h1>
          {site} <b>{path}</b>
        </h1>
        <span>{tenant}</span>
        <a href={href('overview')}>All paths</a>
      </header>
      {problem && (
        <p class="trouble" role="alert">
          {problem}
        </p>
      )}
      {history && history.samples.length < 2 && (
        <p class="empty">
          Nothing to draw yet: a sample is taken every 15 seconds, of paths whose far end answers probes.
        </p>
      )}
      {history && history.samples.length >= 2 && (
        <>
          <p class="legend">
            <i class="out" aria-hidden="true" /> sent <i class="in" aria-hidden="true" /> received{' '}
            <i class="limit" aria-hidden="true" /> limit of what is sent <i class="off" aria-hidden="true" /> down
          </p>
          <div class="charts">
            {MEASURES.map((measure) => (
              <Chart
                key={measure.title}
                measure={measure}
                history={history}
                moves={within}
                chosen={chosen}
                choose={setChosen}
                span={[from, until]}
              />
            ))}
          </div>
          <Limits slas={history.slas} />
        </>
      )}
      {now && now.streams.length > 0 && <Streams path={now} />}
      {queues.length > 0 && <Queues rows={queues} />}
      {history && <Moves moves={moves} chosen={chosen} choose={setChosen} />}
    </main>
  );
}

interface ChartProps {
  measure: Measure;
  history: PathHistory;
  moves: Decision[];
  chosen: Decision | undefined;
  choose: (move: Decision) => void;
  span: [number, number];
}

const WIDTH = 600;
const HEIGHT = 120;

function Chart({ measure, history, moves, chosen, choose, span: [from, until] }: ChartProps) {
  const { samples, slas } = history;
  const values = (way: 'outbound' | 'inbound') =>
    samples.map((sample) => (sample[way] ? measure.of(sample[way]) : null));
  const [out, back] = [values('outbound'), values('inbound')];
  const limits = slas.flatMap((sla) => {
    const limit = measure.limit(sla);
    // The lines are best effort's.
    return limit === null || sla.stream !== null ? [] : [{ sla, limit }];
  });
  const known = [...out, ...back].filter((value) => value !== null);
  const top = Math.max(measure.least, ...known, ...limits.map(({ limit }) => limit)) * (measure.isBetterHigh ? 1 : 1.1);
  const x = (unixMs: number) => ((unixMs - from) / (until - from || 1)) * WIDTH;
  const y = (value: number) => HEIGHT - (Math.min(value, top) / top) * HEIGHT;
  const last = out.at(-1) ?? null;
  const tightest = limits.map(({ limit }) => limit).sort((a, b) => (measure.isBetterHigh ? b - a : a - b))[0];
  const isOver = last !== null && tightest !== undefined && (measure.isBetterHigh ? last < tightest : last > tightest);
  return (
    <section class={`panel chart${isOver ? ' over' : ''}`} aria-label={measure.title}>
      <header>
        <h2 title={measure.hint}>{measure.title}</h2>
        <Latest name="sent" value={last} say={measure.say} />
        <Latest name="received" value={back.at(-1) ?? null} say={measure.say} />
      </header>
      <div class="plot">
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${measure.title} over the last half hour`}>
          {downTimes(samples).map(([begin, end]) => (
            <rect key={begin} class="off" x={x(begin)} width={Math.max(x(end) - x(begin), 2)} y={0} height={HEIGHT} />
          ))}
          {limits.map(({ sla, limit }) => (
            <g key={`${sla.sla} ${sla.classes.join()}`}>
              <rect
                class="beyond"
                x={0}
                width={WIDTH}
                y={measure.isBetterHigh ? y(limit) : 0}
                height={measure.isBetterHigh ? HEIGHT - y(limit) : y(limit)}
              />
              <path class="limit" d={`M0 ${y(limit)}H${WIDTH}`} />
            </g>
          ))}
          <path class="line in" d={line(samples, back, x, y)} />
          <path class="line out" d={line(samples, out, x, y)} />
          {moves.map((move) => (
            <path
              key={keyOf(move)}
              class={`move${chosen && keyOf(chosen) === keyOf(move) ? ' chosen' : ''}`}
              d={`M${x(move['unix-ms'])} 0V${HEIGHT}`}
              onClick={() => choose(move)}
            >
              <title>{`${timeOfDay(move['unix-ms'])} ${move.class}: ${move.from} → ${move.to}, ${move.detail}`}</title>
            </path>
          ))}
        </svg>
        <span class="scale">{measure.say(top)}</span>
      </div>
      <footer>
        <Time unixMs={from} />
        <Time unixMs={until} />
      </footer>
    </section>
  );
}

const Latest = ({ name, value, say }: { name: string; value: number | null; say: (value: number) => string }) => (
  <span class="latest">
    {name} <b>{value === null ? '–' : say(value)}</b>
  </span>
);

/** From when until when it was down. */
function downTimes(samples: PathSample[]): [number, number][] {
  const times: [number, number][] = [];
  samples.forEach((sample, index) => {
    if (sample.state !== 'down') return;
    const end = samples[index + 1]?.['unix-ms'] ?? sample['unix-ms'];
    const current = times.at(-1);
    if (current && current[1] === sample['unix-ms']) current[1] = end;
    else times.push([sample['unix-ms'], end]);
  });
  return times;
}

/** A line through what is known, broken where nothing is. */
function line(
  samples: PathSample[],
  values: (number | null)[],
  x: (unixMs: number) => number,
  y: (value: number) => number,
): string {
  let pen = 'M';
  return samples
    .map((sample, index) => {
      const value = values[index] ?? null;
      if (value === null) {
        pen = 'M';
        return '';
      }
      const point = `${pen}${x(sample['unix-ms']).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = 'L';
      return point;
    })
    .join('');
}

function Limits({ slas }: { slas: SlaRow[] }) {
  if (slas.length === 0) return null;
  const asked = (sla: SlaRow): ComponentChildren =>
    MEASURES.flatMap((measure) => {
      const limit = measure.limit(sla);
      return limit === null ? [] : [`${measure.title === 'MOS' ? 'MOS' : measure.title.toLowerCase()} ${measure.isBetterHigh ? 'at least' : 'at most'} ${measure.say(limit)}`];
    }).join(', ');
  return (
    <ul class="limits" aria-label="SLA classes">
      {slas.map((sla) => (
        <li key={`${sla.sla} ${sla.classes.join()}`} class={sla['is-broken'] ? 'bad-text' : undefined}>
          <b>{sla.sla}</b> ({sla.classes.join(', ')}): {asked(sla)}
          {sla.stream ? `, by probes that carry ${sla.stream}` : ''}
          {sla['is-broken'] ? '; this path breaks it' : ''}
        </li>
      ))}
    </ul>
  );
}

const WAYS = [
  ['sent', 'outbound'],
  ['received', 'inbound'],
] as const;

/** How good it is for what carries which DSCP: the prober's own stream, and those beside it. */
function Streams({ path }: { path: PathReport }) {
  const rows = [{ dscp: 'best effort', outbound: path.outbound, inbound: path.inbound }, ...path.streams];
  return (
    <section class="panel figures" tabIndex={0} aria-labelledby="streams-title">
      <header>
        <h2 id="streams-title" title="Of the last ten seconds, by probes that carry each DSCP">
          By DSCP
        </h2>
      </header>
      <table>
        <thead>
          <tr>
            <th scope="col">DSCP</th>
            <th scope="col">Way</th>
            {MEASURES.map((measure) => (
              <th key={measure.title} scope="col" class="right" title={measure.hint}>
                {measure.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.flatMap((row) =>
            WAYS.map(([name, way]) => (
              <tr key={`${row.dscp} ${way}`}>
                <td>{way === 'outbound' ? row.dscp : ''}</td>
                <td>{name}</td>
                {MEASURES.map((measure) => {
                  const value = row[way] ? measure.of(row[way]) : null;
                  return (
                    <td key={measure.title} class="right">
                      {value === null ? '–' : measure.say(value)}
                    </td>
                  );
                })}
              </tr>
            )),
          )}
        </tbody>
      </table>
    </section>
  );
}

interface QueueColumn {
  title: string;
  hint?: string;
  of: (row: QueueRow) => string;
}

const QUEUE_COLUMNS: QueueColumn[] = [
  { title: 'Turn', hint: 'Goes first, or has this share beside others that wait', of: (row) => (row.weight === null ? 'first' : `weight ${row.weight}`) },
  { title: 'Sent', of: (row) => bytes(row['sent-bytes']) },
  { title: 'Waiting', of: (row) => `${integer(row['queued-packets'])} (${bytes(row['queued-bytes'])})` },
  { title: 'Delay p50', hint: 'What half of the last 128 packets waited at most', of: (row) => millis(row['delay-p50-ms']) },
  { title: 'Delay p95', hint: 'What 95 of a hundred of them did', of: (row) => millis(row['delay-p95-ms']) },
  { title: 'Marked', hint: 'Packets that told their senders to slow down (ECN)', of: (row) => integer(row['marked-packets']) },
  { title: 'Dropped', hint: 'Packets lost because the queue stood', of: (row) => integer(row['dropped-packets']) },
  { title: 'Overflowed', hint: 'Packets lost because it was full', of: (row) => integer(row['overflowed-packets']) },
];

/** How classes fare where its bandwidth is limited. */
function Queues({ rows }: { rows: QueueRow[] }) {
  return (
    <section class="panel figures" tabIndex={0} aria-labelledby="queues-title">
      <header>
        <h2 id="queues-title">Queues</h2>
        <span class="count">{rows.length}</span>
      </header>
      <table>
        <thead>
          <tr>
            <th scope="col">Class</th>
            {QUEUE_COLUMNS.map(({ title, hint }) => (
              <th key={title} scope="col" class="right" title={hint}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.class}>
              <td>{row.class}</td>
              {QUEUE_COLUMNS.map(({ title, of }) => (
                <td key={title} class="right">
                  {of(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

const keyOf = (move: Decision) => `${move['unix-ms']} ${move.class} ${move.from} ${move.to}`;

interface MovesProps {
  moves: Decision[];
  chosen: Decision | undefined;
  choose: (move: Decision) => void;
}

function Moves({ moves, chosen, choose }: MovesProps) {
  return (
    <section class="panel moves" aria-labelledby="moves-title">
      <header>
        <h2 id="moves-title">Moves</h2>
        <span class="count">{moves.length}</span>
      </header>
      {moves.length === 0 ? (
        <p class="empty">No class has left this path or come to it since popgate was started.</p>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Time</th>
              <th scope="col">Class</th>
              <th scope="col">From</th>
              <th scope="col">To</th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {moves.map((move) => (
              <tr
                key={keyOf(move)}
                aria-selected={chosen !== undefined && keyOf(chosen) === keyOf(move)}
                onClick={() => choose(move)}
              >
                <td>
                  <Time unixMs={move['unix-ms']} full />
                </td>
                <td>{move.class}</td>
                <td>{move.from}</td>
                <td>{move.to}</td>
                <td>{move.detail}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
