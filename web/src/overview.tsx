// The box at a glance: 1 what is wrong now, 2 how much goes through, 3 the map, 4 every path, 5 what was dropped and why, 6 which
// classes are busiest, 7 which box this is.

import type { ComponentChildren } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { get } from './api';
import { Busiest } from './busiest';
import { bitRate, bytes, duration, integer, millis, percent, rate, timeOfDay } from './format';
import { BadIcon, CheckIcon, WarnIcon } from './icons';
import { dropKey, pathKey, type Live } from './live';
import { SiteMap } from './map';
import { usePolled } from './polled';
import { ALARMING, REASONS } from './reasons';
import { href, narrow, type Route } from './route';
import { readSort, Rows, writeSort, type Column } from './rows';
import { Spark } from './spark';
import { Time } from './time';
import type { DirectionReport, DropRow, EnrolmentRow, ExporterReport, PathReport, Status } from './types';
import { fitting, NARROW, useWidth } from './width';
import { whatIsWrong } from './wrong';

interface Props {
  live: Live;
  route: Route;
  bearer: string;
  onUnauthorized: () => void;
}

/** Whoever stands at a new branch waits. */
const WAITING_MS = 5000;

export function Overview({ live, route, bearer, onUnauthorized }: Props) {
  const [waiting, setWaiting] = useState<EnrolmentRow[]>([]);
  usePolled(
    WAITING_MS,
    async (signal) => {
      const { enrolments } = await get<{ enrolments: EnrolmentRow[] }>('enrolments', bearer, signal);
      setWaiting(enrolments.filter((row) => row.state === 'claimed'));
    },
    // Where there is no answer, the feed says so.
    { onUnauthorized, failed: () => {} },
    [bearer],
  );
  const status = live.status;
  if (!status) {
    return (
      <main class="overview" id="main" aria-busy="true">
        <h1 class="visually-hidden">Overview</h1>
        <p class="waiting">{live.problem ? `${live.problem}…` : 'Waiting for the first sample…'}</p>
      </main>
    );
  }
  return (
    <main class={`overview${live.state === 'lost' ? ' stale' : ''}`} id="main">
      <h1 class="visually-hidden">Overview</h1>
      <Now live={live} status={status} waiting={waiting} />
      <Totals live={live} status={status} />
      <SiteMap live={live} status={status} route={route} />
      <Paths live={live} route={route} />
      <div class="lower">
        <Drops live={live} route={route} />
        <div class="aside">
          {status['flow-history'] && <Busiest bearer={bearer} onUnauthorized={onUnauthorized} />}
          <Box status={status} />
        </div>
      </div>
    </main>
  );
}

/** More than this many are summed up: by then it is one trouble, not many. */
const WRONG_SHOWN = 6;

function Now({ live, status, waiting }: { live: Live; status: Status; waiting: EnrolmentRow[] }) {
  const wrong = whatIsWrong(live, waiting);
  if (wrong.length === 0) {
    const lost = live.state === 'lost';
    const verb = lost ? 'were' : 'are';
    const paths = status.paths === 0 ? `There ${verb} no paths yet.` : `All ${status.paths} paths ${verb} up.`;
    return (
      <section class="now fine" aria-label="What is wrong now">
        <p role="status">
          <CheckIcon />
          <strong>{lost ? 'Nothing was wrong when last heard.' : 'Nothing is wrong now.'}</strong> {paths}
        </p>
      </section>
    );
  }
  return (
    <section class="now" aria-label="What is wrong now">
      <p class="visually-hidden" role="status">
        {wrong.filter((item) => item.level === 'bad').length} critical,{' '}
        {wrong.filter((item) => item.level === 'warn').length} warnings
      </p>
      <ul>
        {wrong.slice(0, WRONG_SHOWN).map((item) => (
          <li key={item.key ?? item.what.replace(/[\d.,\u202f]+\S*/g, '')} class={item.level}>
            {item.level === 'bad' ? <BadIcon /> : <WarnIcon />}
            <span class="visually-hidden">{item.level === 'bad' ? 'Critical: ' : 'Warning: '}</span>
            <strong>{item.what}</strong>
            {item.since !== undefined && <span class="since">since {timeOfDay(item.since)}</span>}
            {item.hint && <span class="hint">{item.hint}</span>}
            {item.link && <a href={item.link.href}>{item.link.text}</a>}
          </li>
        ))}
        {wrong.length > WRONG_SHOWN && <li class="more">and {wrong.length - WRONG_SHOWN} more</li>}
      </ul>
    </section>
  );
}

function Totals({ live, status }: { live: Live; status: Status }) {
  const { totals } = live;
  const now = (history: number[], format: (value: number) => string) => {
    const value = history.at(-1);
    return value === undefined ? '–' : format(value);
  };
  const share = status['max-sessions'] > 0 ? status.sessions / status['max-sessions'] : 0;
  const down = status.paths - status['paths-up'];
  return (
    <section class="totals" aria-label="Totals">
      <Metric name="Throughput" value={now(totals.bits, bitRate)} note={`${bytes(status['forwarded-bytes'])} in all`}>
        <Spark values={totals.bits} width={120} height={26} label="Throughput over the last minute" />
      </Metric>
      <Metric
        name="Packets"
        value={now(totals.packets, rate)}
        note={`${integer(status['forwarded-packets'])} forwarded`}
      >
        <Spark values={totals.packets} width={120} height={26} label="Packets over the last minute" />
      </Metric>
      <Metric
        name="Sessions"
        value={integer(status.sessions)}
        note={`${percent(share)} of ${integer(status['max-sessions'])}`}
        link={href('sessions')}
      >
        <Spark values={totals.sessions} width={120} height={26} label="Sessions over the last minute" />
      </Metric>
      <Metric
        name="New sessions"
        value={now(totals.created, rate)}
        note={`${integer(status['sessions-created'])} created`}
      >
        <Spark values={totals.created} width={120} height={26} label="New sessions over the last minute" />
      </Metric>
      <Metric name="Drops" value={now(totals.dropped, rate)} note={`${integer(status['dropped-packets'])} dropped`}>
        <Spark values={totals.dropped} width={120} height={26} label="Drops over the last minute" />
      </Metric>
      <Metric
        name="Paths up"
        value={`${status['paths-up']} of ${status.paths}`}
        note={down > 0 ? `${down} down` : 'none down'}
        level={down > 0 ? 'bad' : undefined}
      >
        <PathDots live={live} />
      </Metric>
    </section>
  );
}

interface MetricProps {
  name: string;
  value: string;
  note: string;
  level?: 'bad';
  link?: string;
  children: ComponentChildren;
}

function Metric({ name, value, note, level, link, children }: MetricProps) {
  return (
    <div class={`metric${level ? ` ${level}` : ''}`}>
      <h2>{link ? <a href={link}>{name}</a> : name}</h2>
      <p class="value">{value}</p>
      {children}
      <p class="note">{note}</p>
    </div>
  );
}

/** Dots only as long as they can be told apart. */
const DOTS_SHOWN = 48;

function PathDots({ live }: { live: Live }) {
  if (live.paths.length > DOTS_SHOWN) return <div class="dots" />;
  return (
    <div class="dots" aria-hidden="true">
      {live.paths.map((path) => (
        <i key={pathKey(path)} class={path.state} title={`${path.tenant} ${path.site} ${path.path}: ${path.state}`} />
      ))}
    </div>
  );
}

const State = ({ path }: { path: PathReport }) => (
  <span class={`state ${path.state}`}>
    <i aria-hidden="true" />
    {path.state}
  </span>
);

const handshake = (path: PathReport) => {
  const secs = path['last-handshake-secs'];
  return secs === null ? 'never' : `${duration(secs)} ago`;
};

const pathLink = ({ tenant, site, path }: PathReport) => href('path', { tenant, site, path });

const score = (direction: DirectionReport | null) => direction?.mos?.toFixed(1) ?? '–';

const direction = (name: string, d: DirectionReport | null) =>
  d === null
    ? `${name}: nothing known`
    : `${name}: ${percent(d.loss)} of all packets lost, 95 of 100 take at most ${millis(d['latency-p95-ms'])}, ` +
      `jitter ${millis(d['jitter-ms'])}, MOS ${score(d)}`;

function pathColumns(live: Live): Column<PathReport>[] {
  const rates = (path: PathReport) => live.pathRates.get(pathKey(path));
  const lossClass = (loss: number | null) =>
    loss === null || loss < 0.02 ? undefined : loss < 0.1 ? 'warn-text' : 'bad-text';
  const noProbes = 'A stock WireGuard client answers no probes';
  // By probes, or by pings where policy names whom to ask.
  const isMeasured = (p: PathReport) => p.probed || p.loss !== null;
  return [
    {
      key: 'tenant',
      title: 'Tenant',
      width: 6,
      cell: (p) => <a href={href('sessions', { tenant: p.tenant })}>{p.tenant}</a>,
      sort: (p) => p.tenant,
    },
    { key: 'site', title: 'Site', width: 7, cell: (p) => p.site, full: (p) => p.site, sort: (p) => p.site },
    {
      key: 'path',
      title: 'Path',
      width: 5,
      cell: (p) => <a href={pathLink(p)}>{p.path}</a>,
      full: (p) => `${p.path}: how good it has been`,
      sort: (p) => p.path,
    },
    { key: 'state', title: 'State', width: 4.5, cell: (p) => <State path={p} />, sort: (p) => p.state },
    {
      key: 'transport',
      title: 'Transport',
      width: 5.5,
      cell: (p) => p.transport ?? '–',
      sort: (p) => p.transport ?? '',
      from: 1100,
    },
    {
      key: 'endpoint',
      title: 'Endpoint',
      width: 11.5,
      mono: true,
      cell: (p) => p.endpoint ?? '–',
      full: (p) => (p['public-key'] ? `${p.endpoint ?? 'No endpoint yet'}\nPublic key ${p['public-key']}` : ''),
      sort: (p) => p.endpoint ?? '',
      from: 960,
    },
    {
      key: 'rtt',
      title: 'RTT',
      hint: 'Round-trip time, smoothed',
      width: 5,
      right: true,
      cell: (p) => millis(p['rtt-ms']),
      full: (p) => (isMeasured(p) ? '' : noProbes),
      sort: (p) => p['rtt-ms'] ?? -1,
    },
    {
      key: 'jitter',
      title: 'Jitter',
      hint: 'Mean deviation of the round-trip time, smoothed',
      width: 5,
      right: true,
      cell: (p) => millis(p['jitter-ms']),
      full: (p) => (isMeasured(p) ? '' : noProbes),
      sort: (p) => p['jitter-ms'] ?? -1,
      from: 820,
    },
    {
      key: 'loss',
      title: 'Loss',
      hint: 'Share of the last 100 probes that went unanswered',
      width: 4,
      right: true,
      cell: (p) => <span class={lossClass(p.loss)}>{percent(p.loss)}</span>,
      full: (p) => (isMeasured(p) ? '' : noProbes),
      sort: (p) => p.loss ?? -1,
    },
    {
      key: 'mos',
      title: 'MOS',
      hint: 'How a call would sound, out and in: 4 is good, below 3.6 poor (ITU-T G.107)',
      width: 6,
      right: true,
      cell: (p) => `${score(p.outbound)} ${score(p.inbound)}`,
      full: (p) =>
        isMeasured(p) ? `${direction('Out', p.outbound)}\n${direction('In', p.inbound)}` : noProbes,
      sort: (p) => Math.min(p.outbound?.mos ?? -1, p.inbound?.mos ?? -1),
      from: 1100,
    },
    {
      key: 'in',
      title: 'In',
      hint: 'Received from the far end',
      width: 6,
      right: true,
      cell: (p) => bitRate(rates(p)?.inBits ?? 0),
      full: (p) => `${bytes(p['received-bytes'])}, ${integer(p['received-packets'])} packets in all`,
      sort: (p) => rates(p)?.inBits ?? 0,
    },
    {
      key: 'out',
      title: 'Out',
      hint: 'Sent to the far end',
      width: 6,
      right: true,
      cell: (p) => bitRate(rates(p)?.outBits ?? 0),
      full: (p) => `${bytes(p['sent-bytes'])}, ${integer(p['sent-packets'])} packets in all`,
      sort: (p) => rates(p)?.outBits ?? 0,
    },
    {
      key: 'trend',
      title: 'Last minute',
      apart: true,
      width: 7.5,
      cell: (p) => (
        <Spark values={rates(p)?.history ?? []} width={110} height={18} label={`Throughput of ${p.site} ${p.path}`} />
      ),
      from: 1240,
    },
    {
      key: 'handshake',
      title: 'Handshake',
      hint: 'Last completed WireGuard handshake',
      width: 6,
      right: true,
      cell: handshake,
      sort: (p) => p['last-handshake-secs'] ?? Number.MAX_SAFE_INTEGER,
      from: 1100,
    },
  ];
}

function narrowPathColumns(live: Live): Column<PathReport>[] {
  const rates = (path: PathReport) => live.pathRates.get(pathKey(path));
  return [
    {
      key: 'site',
      title: 'Site, path',
      width: 7.5,
      cell: (p) => (
        <span class="stack">
          <b>{p.site}</b>
          <small>
            {p.tenant} · <a href={pathLink(p)}>{p.path}</a>
          </small>
        </span>
      ),
      sort: (p) => `${p.tenant} ${p.site} ${p.path}`,
    },
    { key: 'state', title: 'State', width: 4, cell: (p) => <State path={p} />, sort: (p) => p.state },
    {
      key: 'rtt',
      title: 'RTT, loss',
      width: 5,
      right: true,
      cell: (p) => (
        <span class="stack">
          {millis(p['rtt-ms'])}
          <small>{percent(p.loss)}</small>
        </span>
      ),
      sort: (p) => p['rtt-ms'] ?? -1,
    },
    {
      key: 'in',
      title: 'In, out',
      width: 6,
      right: true,
      cell: (p) => (
        <span class="stack">
          {bitRate(rates(p)?.inBits ?? 0)}
          <small>{bitRate(rates(p)?.outBits ?? 0)}</small>
        </span>
      ),
      sort: (p) => (rates(p)?.inBits ?? 0) + (rates(p)?.outBits ?? 0),
    },
  ];
}

/** So many may be in the page all at once, which then scrolls as one. */
const FEW = 60;

function Paths({ live, route }: { live: Live; route: Route }) {
  const width = useWidth();
  const isNarrow = width < NARROW;
  const columns = useMemo(
    () => (isNarrow ? narrowPathColumns(live) : fitting(pathColumns(live), width)),
    [live, width, isNarrow],
  );
  const find = (route.query.find ?? '').trim().toLowerCase();
  const shown = useMemo(() => {
    const words = find.split(/\s+/);
    const says = (p: PathReport) =>
      `${p.tenant} ${p.site} ${p.path} ${p.state} ${p.transport ?? ''} ${p.endpoint ?? ''} ${p['public-key'] ?? ''}`.toLowerCase();
    return find ? live.paths.filter((path) => words.every((word) => says(path).includes(word))) : live.paths;
  }, [live.paths, find]);
  return (
    <section class={`panel paths${shown.length <= FEW ? ' few' : ''}`} aria-labelledby="paths-title">
      <header>
        <h2 id="paths-title">Paths</h2>
        <span class="count">
          {find ? `${shown.length} of ${live.paths.length}` : live.paths.length}
        </span>
        <input
          type="search"
          data-filter
          class="find"
          placeholder="Find a site, path, endpoint"
          aria-label="Find paths"
          spellcheck={false}
          value={route.query.find ?? ''}
          onInput={(event) => narrow({ find: event.currentTarget.value })}
          onKeyDown={(event) => event.key === 'Escape' && event.currentTarget.blur()}
        />
      </header>
      <Rows
        label="Paths"
        rows={shown}
        columns={columns}
        rowKey={pathKey}
        rowHeight={isNarrow ? 46 : 30}
        sort={readSort(route.query.sort)}
        onSort={(sort) => narrow({ sort: writeSort(sort) })}
        rowClass={(path) => (path.state === 'down' ? 'down' : undefined)}
        empty={
          <p class="empty">
            {live.paths.length > 0
              ? 'No path matches. Clear the field above to see all.'
              : 'No paths are configured. A [[branch.path]] in a tenant’s file (at a branch: a [[pop.path]]) makes one.'}
          </p>
        }
      />
    </section>
  );
}

function Drops({ live, route }: { live: Live; route: Route }) {
  const width = useWidth();
  const isNarrow = width < NARROW;
  const columns = useMemo((): Column<DropRow>[] => {
    const perSecond = (row: DropRow) => live.dropRates.get(dropKey(row)) ?? 0;
    const reason: Column<DropRow> = {
      key: 'reason',
      title: 'Reason',
      width: isNarrow ? 11 : 19,
      cell: (row) => (
        <span class={isNarrow ? 'stack' : 'reason'}>
          <b>{row.reason}</b>
          <small>{isNarrow ? [row.tenant, row.detail].filter(Boolean).join(' · ') || '–' : REASONS[row.reason]}</small>
        </span>
      ),
      full: (row) => REASONS[row.reason] ?? row.reason,
      sort: (row) => row.reason,
    };
    const numbers: Column<DropRow>[] = [
      {
        key: 'rate',
        title: 'Now',
        hint: 'Packets a second, over the last ten',
        width: 4,
        right: true,
        cell: (row) => (perSecond(row) > 0 ? rate(perSecond(row)) : '–'),
        sort: perSecond,
      },
      {
        key: 'packets',
        title: 'Packets',
        hint: 'Since popgate was started',
        width: 5,
        right: true,
        cell: (row) => integer(row.packets),
        sort: (row) => row.packets,
      },
    ];
    if (isNarrow) return [reason, ...numbers];
    return [
      reason,
      {
        key: 'detail',
        title: 'Rule or handoff',
        width: 7,
        cell: (row) => row.detail ?? '–',
        full: (row) => row.detail ?? '',
        sort: (row) => row.detail ?? '',
      },
      {
        key: 'tenant',
        title: 'Tenant',
        width: 5,
        cell: (row) => (row.tenant ? <a href={href('sessions', { tenant: row.tenant })}>{row.tenant}</a> : '–'),
        sort: (row) => row.tenant ?? '',
      },
      ...numbers,
    ];
  }, [live, isNarrow]);
  return (
    <section class="panel drops" aria-labelledby="drops-title">
      <header>
        <h2 id="drops-title">Drops by reason</h2>
        <span class="count">{live.drops.length}</span>
      </header>
      <Rows
        label="Drops by reason"
        rows={live.drops}
        columns={columns}
        rowKey={dropKey}
        rowHeight={isNarrow ? 46 : 30}
        sort={readSort(route.query.drops)}
        onSort={(sort) => narrow({ drops: writeSort(sort) })}
        rowClass={(row) => {
          if ((live.dropRates.get(dropKey(row)) ?? 0) === 0) return undefined;
          return row.reason in ALARMING ? 'active alarming' : 'active';
        }}
        empty={<p class="empty">Nothing was dropped since popgate was started.</p>}
      />
    </section>
  );
}

function Exporter({ exporter }: { exporter: ExporterReport }) {
  const failing = exporter['failing-since-unix-ms'] !== null;
  const state = failing ? 'failing' : exporter.connected ? 'is sent to' : 'not connected';
  const lost = exporter['lost-records'];
  const title =
    `${exporter.protocol} over ${exporter.transport} to ${exporter.address}: ${integer(exporter.messages)} messages, ` +
    `${bytes(exporter.octets)}, ${integer(exporter.records)} records${exporter.problem ? `\n${exporter.problem}` : ''}`;
  return (
    <span title={title}>
      <span class={failing ? 'bad-text' : undefined}>{state}</span>, {integer(exporter.records)} records
      {lost > 0 && <span class="warn-text">, {integer(lost)} lost</span>}
    </span>
  );
}

function Box({ status }: { status: Status }) {
  const facts: [string, ComponentChildren][] = [
    ['Site', status.site],
    ['Role', status.role === 'pop' ? 'PoP' : status.role],
    ['Metro', status.metro],
    ['Facility', status.facility],
    ['Started', <Time key="started" unixMs={status['started-unix-ms']} full />],
    ['Up for', duration((status['now-unix-ms'] - status['started-unix-ms']) / 1000)],
    ['Generation', integer(status.generation)],
    ['Workers', String(status.workers)],
    ['Records lost', integer(status['records-lost'])],
    ['Version', status.version],
    ...status.exporters.map((exporter): [string, ComponentChildren] => [
      `Collector ${exporter.collector}`,
      <Exporter key={exporter.collector} exporter={exporter} />,
    ]),
  ];
  return (
    <section class="panel box" aria-labelledby="box-title">
      <header>
        <h2 id="box-title">This box</h2>
      </header>
      <dl>
        {facts
          .filter(([, value]) => value !== null)
          .map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
      </dl>
    </section>
  );
}
