import { traceOf } from './trace';
import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import { asProblem, isUnauthorized, send } from './api';
import { bytes, duration, hasPorts, integer, withPort } from './format';
import { commonColumns, End, Listing, Narrow, pathsOf, TwoLines, type ListingProps, type Page } from './listing';
import { href } from './route';
import type { Column } from './rows';
import type { Me, SessionPage, SessionReport } from './types';

type Props = Pick<ListingProps<SessionReport>, 'route' | 'bearer' | 'tenants' | 'lost' | 'onUnauthorized'> & { me: Me };

export function Sessions({ me, ...props }: Props) {
  const { bearer, onUnauthorized } = props;
  return (
    <Listing
      {...props}
      noun="session"
      plural="sessions"
      path="sessions"
      read={read}
      columns={COLUMNS}
      narrowColumns={NARROW_COLUMNS}
      rowKey={keyOf}
      detail={detail}
      actions={(row) => me.role !== 'viewer' && <Clear key={keyOf(row)} row={row} bearer={bearer} onUnauthorized={onUnauthorized} />}
      gone="It has ended, or the filter no longer shows it. Its flow record is under Flows."
      nothing="There are no sessions now. The first packet that a rule accepts begins one."
    />
  );
}

interface ClearProps {
  row: SessionReport;
  bearer: string;
  onUnauthorized: () => void;
}

/** Ends a session, once one has pressed twice: its host may have to begin anew. */
function Clear({ row, bearer, onUnauthorized }: ClearProps) {
  const [sure, setSure] = useState(false);
  const [told, setTold] = useState<string>();
  const end = (side: 'source' | 'destination') =>
    withPort(row[side], hasPorts(row.protocol) ? row[`${side}-port`] : null);
  const clear = async () => {
    if (!sure) return setSure(true);
    setSure(false);
    const body = { tenant: row.tenant, protocol: row.protocol, from: end('source'), to: end('destination') };
    try {
      const { sessions } = await send<{ sessions: number }>('POST', 'sessions/clear', bearer, body);
      setTold(sessions > 0 ? 'It has been ended. Its flow record is under Flows.' : 'It had ended already.');
    } catch (error) {
      if (isUnauthorized(error)) return onUnauthorized();
      setTold(asProblem(error).detail);
    }
  };
  return (
    <p class="actions">
      <button type="button" class="plain" onClick={clear} onBlur={() => setSure(false)}>
        {sure ? 'End it: press again' : 'Clear session'}
      </button>
      <span role="status">{told}</span>
    </p>
  );
}

const read = (body: unknown): Page<SessionReport> => {
  const page = body as SessionPage;
  return { matching: page.matching, rows: page.sessions };
};

/** The id alone may lose its last digits in JavaScript's numbers. */
const keyOf = (row: SessionReport): string =>
  `${row.id} ${row.tenant} ${row.source} ${row['source-port']} ${row.destination} ${row['destination-port']} ${row.protocol}`;

const common = commonColumns<SessionReport>();

const COLUMNS: Column<SessionReport>[] = [
  common.tenant!,
  common.protocol!,
  common.source!,
  common.destination!,
  common.nat!,
  common.from!,
  common.to!,
  common.class!,
  common.rule!,
  common.paths!,
  {
    key: 'state',
    title: 'State',
    hint: 'TCP state',
    width: 6.5,
    cell: (row) => row['tcp-state'] ?? '–',
    sort: (row) => row['tcp-state'] ?? '',
    from: 1320,
  },
  {
    key: 'age',
    title: 'Age',
    width: 4.5,
    right: true,
    cell: (row) => duration(row['age-secs']),
    sort: (row) => row['age-secs'],
  },
  {
    key: 'idle',
    title: 'Idle',
    hint: 'Since the last packet',
    width: 4.5,
    right: true,
    cell: (row) => duration(row['idle-secs']),
    sort: (row) => row['idle-secs'],
    from: 1240,
  },
  {
    key: 'forward',
    title: 'Forward',
    hint: 'From the initiator',
    width: 4.8,
    right: true,
    cell: (row) => bytes(row['forward-bytes']),
    full: (row) => `${integer(row['forward-packets'])} packets`,
    sort: (row) => row['forward-bytes'],
  },
  {
    key: 'reverse',
    title: 'Reverse',
    hint: 'To the initiator',
    width: 4.8,
    right: true,
    cell: (row) => bytes(row['reverse-bytes']),
    full: (row) => `${integer(row['reverse-packets'])} packets`,
    sort: (row) => row['reverse-bytes'],
  },
];

const NARROW_COLUMNS: Column<SessionReport>[] = [
  {
    key: 'source',
    title: 'Source, destination',
    width: 12.5,
    cell: (row) => <TwoLines row={row} small={null} />,
    sort: (row) => row.source,
  },
  {
    key: 'class',
    title: 'Tenant, class',
    width: 6.4,
    cell: (row) => (
      <span class="stack">
        {row.tenant}
        <small>{row.class}</small>
      </span>
    ),
    sort: (row) => `${row.tenant} ${row.class}`,
  },
  {
    key: 'bytes',
    title: 'Bytes, age',
    width: 5.6,
    right: true,
    cell: (row) => (
      <span class="stack">
        {bytes(row['forward-bytes'] + row['reverse-bytes'])}
        <small>{duration(row['age-secs'])}</small>
      </span>
    ),
    sort: (row) => row['forward-bytes'] + row['reverse-bytes'],
  },
];

function detail(row: SessionReport): [string, ComponentChildren][] {
  const { protocol } = row;
  return [
    ['Tenant', <Narrow by="tenant" value={row.tenant} />],
    ['Source', <End address={row.source} port={row['source-port']} protocol={protocol} />],
    ['Destination', <End address={row.destination} port={row['destination-port']} protocol={protocol} />],
    [
      'NAT source',
      row['nat-source'] ? (
        <End address={row['nat-source']} port={row['nat-source-port']} protocol={protocol} />
      ) : (
        'not translated'
      ),
    ],
    ['From', row.from],
    ['To', row.to],
    ['Class', <Narrow by="class" value={row.class} />],
    ['Class by', row['class-by']],
    ['App', row.app ?? 'not known'],
    ['Name', row.name ?? 'not known'],
    ['Rule', row.rule],
    ['Path', pathsOf(row)],
    ['TCP state', row['tcp-state'] ?? 'not TCP'],
    ['Age', duration(row['age-secs'])],
    ['Idle', duration(row['idle-secs'])],
    ['Forward', `${bytes(row['forward-bytes'])}, ${integer(row['forward-packets'])} packets`],
    ['Reverse', `${bytes(row['reverse-bytes'])}, ${integer(row['reverse-packets'])} packets`],
    ['What became of it', <a href={traceOf(row)}>trace</a>],
    [
      'Flow records',
      <a href={href('flows', { tenant: row.tenant, address: row.source, port: String(row['source-port']) })}>
        of this source and port
      </a>,
    ],
  ];
}
