import { traceOf } from './trace';
import type { ComponentChildren } from 'preact';
import { bytes, duration, integer } from './format';
import { commonColumns, End, Listing, Narrow, pathsOf, TwoLines, type ListingProps, type Page } from './listing';
import type { Column } from './rows';
import { Time } from './time';
import type { FlowPage, FlowReport } from './types';

type Props = Pick<ListingProps<FlowReport>, 'route' | 'bearer' | 'tenants' | 'lost' | 'onUnauthorized'>;

export function Flows(props: Props) {
  return (
    <Listing
      {...props}
      noun="flow record"
      plural="flow records"
      path="flows"
      read={read}
      columns={COLUMNS}
      narrowColumns={NARROW_COLUMNS}
      rowKey={keyOf}
      detail={detail}
      gone="The box no longer holds this record, or the filter no longer shows it."
      nothing="There are no flow records yet. One is written when a session ends, and every active timeout while it lasts."
    />
  );
}

const read = (body: unknown): Page<FlowReport> => {
  const page = body as FlowPage;
  return { matching: page.matching, held: page.held, rows: page.flows };
};

/** A session has a record for each active timeout; the end tells them apart. */
const keyOf = (row: FlowReport): string =>
  `${row.session} ${row['end-unix-ms']} ${row['end-reason']} ${row.tenant} ${row.source} ${row['source-port']} ${row['destination-port']}`;

const lasted = (row: FlowReport): number => Math.max(0, row['end-unix-ms'] - row['start-unix-ms']) / 1000;

const common = commonColumns<FlowReport>();

const COLUMNS: Column<FlowReport>[] = [
  {
    key: 'end',
    title: 'End',
    hint: 'Last packet; in your zone',
    width: 5,
    cell: (row) => <Time unixMs={row['end-unix-ms']} />,
    sort: (row) => row['end-unix-ms'],
  },
  {
    key: 'lasted',
    title: 'Lasted',
    width: 4.5,
    right: true,
    cell: (row) => duration(lasted(row)),
    sort: lasted,
    from: 900,
  },
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
    key: 'reason',
    title: 'End reason',
    hint: 'Why the record was written',
    width: 7.5,
    cell: (row) => row['end-reason'],
    full: (row) => END_REASONS[row['end-reason']] ?? '',
    sort: (row) => row['end-reason'],
    from: 1280,
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

const NARROW_COLUMNS: Column<FlowReport>[] = [
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
    key: 'end',
    title: 'End, bytes',
    width: 5.6,
    right: true,
    cell: (row) => (
      <span class="stack">
        <Time unixMs={row['end-unix-ms']} />
        <small>{bytes(row['forward-bytes'] + row['reverse-bytes'])}</small>
      </span>
    ),
    sort: (row) => row['end-unix-ms'],
  },
];

/** IPFIX flowEndReason. */
const END_REASONS: Record<string, string> = {
  'idle-timeout': 'No packet for the idle timeout',
  'active-timeout': 'The session goes on; the active timeout passed',
  'end-of-flow': 'TCP said so: FIN in both directions, or RST',
  'forced-end': 'Ended by policy, an operator, or shutdown',
  'lack-of-resources': 'The session table needed the room',
};

/** RFC 9293 section 3.1, lowest bit first. */
const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'];

const flagsOf = (row: FlowReport): string =>
  TCP_FLAGS.filter((_, bit) => row['tcp-flags'] & (1 << bit)).join(' ') || 'none';

function detail(row: FlowReport): [string, ComponentChildren][] {
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
    ['DSCP', String(row.dscp)],
    ['TCP flags', protocol === 'tcp' ? flagsOf(row) : 'not TCP'],
    ['Start', <Time unixMs={row['start-unix-ms']} full />],
    ['End', <Time unixMs={row['end-unix-ms']} full />],
    ['Lasted', duration(lasted(row))],
    ['What became of it', <a href={traceOf({ ...row, at: row['end-unix-ms'] })}>trace</a>],
    ['End reason', `${row['end-reason']}: ${END_REASONS[row['end-reason']] ?? ''}`],
    ['Forward', `${bytes(row['forward-bytes'])}, ${integer(row['forward-packets'])} packets`],
    ['Reverse', `${bytes(row['reverse-bytes'])}, ${integer(row['reverse-packets'])} packets`],
  ];
}
