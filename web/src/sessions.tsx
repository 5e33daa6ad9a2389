import { traceOf } from './trace';
import type { ComponentChildren } from 'preact';
import { bytes, duration, integer } from './format';
import { commonColumns, End, Listing, Narrow, pathsOf, TwoLines, type ListingProps, type Page } from './listing';
import { href } from './route';
import type { Column } from './rows';
import type { SessionPage, SessionReport } from './types';

type Props = Pick<ListingProps<SessionReport>, 'route' | 'bearer' | 'tenants' | 'lost' | 'onUnauthorized'>;

export function Sessions(props: Props) {
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
      gone="It has ended, or the filter no longer shows it. Its flow record is under Flows."
      nothing="There are no sessions now. The first packet that a rule accepts begins one."
    />
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
