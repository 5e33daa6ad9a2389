// The ACL rules in the order they are tried, and what each has done: which carries the traffic, which never decided.

import { useState } from 'preact/hooks';
import { asProblem, get } from './api';
import { TenantFilter } from './asking';
import { bytes, integer } from './format';
import { usePolled } from './polled';
import { href, narrow, type Route } from './route';
import { readSort, Rows, writeSort, type Column } from './rows';
import type { RuleRow } from './types';
import { fitting, NARROW, useWidth } from './width';

const REFRESH_MS = 2000;

interface Props {
  route: Route;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

export function Rules({ route, bearer, tenants, onUnauthorized }: Props) {
  const tenant = route.query.tenant ?? '';
  const [rules, setRules] = useState<RuleRow[]>();
  const [problem, setProblem] = useState<string>();
  const width = useWidth();
  const isNarrow = width < NARROW;
  usePolled(
    REFRESH_MS,
    async (signal) => {
      const query = tenant && `?${new URLSearchParams({ tenant })}`;
      setRules((await get<{ rules: RuleRow[] }>(`rules${query}`, bearer, signal)).rules);
      setProblem(undefined);
    },
    { onUnauthorized, failed: (error) => setProblem(asProblem(error).detail) },
    [tenant, bearer],
  );

  const rows = rules ?? [];
  const idle = rows.filter((row) => happened(row) === 0).length;
  return (
    <main class="listing" id="main">
      <h1 class="visually-hidden">ACL rules</h1>
      <TenantFilter of="rules" tenant={tenant} tenants={tenants}>
        <div class="standing">
          <span class="count">
            {rules && `${integer(rows.length)} rules${idle > 0 ? `, ${integer(idle)} never decided` : ''}`}
          </span>
        </div>
      </TenantFilter>
      {problem && (
        <p class="banner warn" role="alert">
          {problem}. It is asked again every two seconds.
        </p>
      )}
      <Rows
        label="Rules"
        rows={rows}
        columns={isNarrow ? NARROW_COLUMNS : fitting(COLUMNS, width)}
        rowKey={(row) => `${row.tenant} ${row.rule}`}
        rowHeight={isNarrow ? 50 : 28}
        sort={readSort(route.query.sort)}
        onSort={(sort) => narrow({ sort: writeSort(sort) })}
        empty={rules && <p class="empty">There are no ACL rules here: nothing may pass.</p>}
      />
    </main>
  );
}

const happened = (row: RuleRow): number => row.sessions + row['dropped-packets'];

const VERBS = { accept: 'accept', drop: 'drop', reject: 'reject' } as const;

const COLUMNS: Column<RuleRow>[] = [
  {
    key: 'tenant',
    title: 'Tenant',
    width: 6,
    cell: (row) => <a href={href('sessions', { tenant: row.tenant })}>{row.tenant}</a>,
    sort: (row) => row.tenant,
  },
  { key: 'rule', title: 'Rule', width: 10, cell: (row) => row.rule, full: (row) => row.rule, sort: (row) => row.rule },
  { key: 'action', title: 'Action', width: 5, cell: (row) => VERBS[row.action], sort: (row) => row.action },
  { key: 'at', title: 'Written', width: 12, mono: true, cell: (row) => row.at, full: (row) => row.at, from: 900 },
  {
    key: 'sessions',
    title: 'Sessions',
    hint: 'It accepted, since the box was started',
    width: 6,
    right: true,
    cell: (row) => integer(row.sessions),
    sort: (row) => row.sessions,
  },
  {
    key: 'bytes',
    title: 'Bytes',
    hint: 'In these sessions, both directions, as far as records of them are written',
    width: 6,
    right: true,
    cell: (row) => bytes(row.bytes),
    full: (row) => `${integer(row.packets)} packets`,
    sort: (row) => row.bytes,
  },
  {
    key: 'dropped',
    title: 'Dropped',
    hint: 'Packets it dropped or rejected',
    width: 6,
    right: true,
    cell: (row) => integer(row['dropped-packets']),
    sort: (row) => row['dropped-packets'],
  },
];

const NARROW_COLUMNS: Column<RuleRow>[] = [
  {
    key: 'rule',
    title: 'Rule, tenant',
    width: 11,
    cell: (row) => (
      <span class="stack">
        {row.rule}
        <small>{row.tenant}</small>
      </span>
    ),
    sort: (row) => row.rule,
  },
  {
    key: 'sessions',
    title: 'Sessions, action',
    width: 7,
    right: true,
    cell: (row) => (
      <span class="stack">
        {integer(happened(row))}
        <small>{VERBS[row.action]}</small>
      </span>
    ),
    sort: happened,
  },
];
