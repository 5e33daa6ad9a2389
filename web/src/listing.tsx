// What sessions and flows share: a filter that lives in the address, rows that are asked for again every few seconds,
// and a pane with all there is to know of one row.

import type { ComponentChildren } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { asProblem, get, isUnauthorized } from './api';
import { Field, Known } from './asking';
import { hasPorts, integer, withPort } from './format';
import { CloseIcon, PauseIcon, PlayIcon } from './icons';
import { useKeys } from './keys';
import { FILTERS, narrow, type Filter, type Route } from './route';
import { readSort, Rows, writeSort, type Column } from './rows';
import { Time } from './time';
import type { FlowLike, Problem } from './types';
import { fitting, NARROW, useWidth } from './width';

/** More rows than anyone reads; a narrower filter finds the others. */
const LIMIT = 10_000;
const REFRESH_MS = 2000;
/** They are asked for again in that time; more of them, more rarely. */
const PROMPT_ROWS = 2000;
/** After the last key in a filter field. */
const TYPING_MS = 250;

export interface Page<T> {
  matching: number;
  rows: T[];
  /** Of how many, where that is not all there ever were. */
  held?: number;
}

export interface ListingProps<T> {
  noun: string;
  plural: string;
  /** The API's path. */
  path: string;
  read: (body: unknown) => Page<T>;
  columns: Column<T>[];
  narrowColumns: Column<T>[];
  rowKey: (row: T) => string;
  detail: (row: T) => [string, ComponentChildren][];
  /** What may be done with a row that is still there. */
  actions?: (row: T) => ComponentChildren;
  /** What is said of a row that has gone while it was open. */
  gone: string;
  nothing: string;
  route: Route;
  bearer: string;
  tenants: string[];
  /** The connection is lost and the frame says so. */
  lost: boolean;
  onUnauthorized: () => void;
}

interface Fetched<T> {
  page?: Page<T>;
  at?: number;
  problem?: Problem;
  /** The request for the filter as it stands is under way. */
  busy: boolean;
}

function useFetched<T>(props: ListingProps<T>, query: string, paused: boolean): Fetched<T> {
  const [fetched, setFetched] = useState<Fetched<T>>({ busy: true });
  const asked = useRef<string>(undefined);
  useEffect(() => {
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const isNew = asked.current !== query;
    let rest = REFRESH_MS;
    const ask = async () => {
      // Nobody looks at a hidden tab.
      if (!document.hidden) {
        try {
          const body = await get<unknown>(`${props.path}?${query}`, props.bearer, controller.signal);
          const page = props.read(body);
          rest = REFRESH_MS * Math.max(1, page.rows.length / PROMPT_ROWS);
          setFetched({ page, at: Date.now(), busy: false });
        } catch (error) {
          if (controller.signal.aborted) return;
          if (isUnauthorized(error)) return props.onUnauthorized();
          const problem = asProblem(error);
          // What was there stays in sight, unless it answers another question.
          const page = (before: Fetched<T>) => (problem.parameter ? undefined : before.page);
          setFetched((before) => ({ ...before, page: page(before), problem, busy: false }));
          if (problem.status === 400) return;
        }
      }
      if (!paused) timer = setTimeout(ask, rest);
    };
    if (isNew) {
      setFetched((before) => ({ ...before, busy: true }));
      timer = setTimeout(ask, asked.current === undefined ? 0 : TYPING_MS);
      asked.current = query;
    } else if (!paused) {
      timer = setTimeout(ask, 0);
    }
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [query, paused, props.path, props.bearer]);
  return fetched;
}

export function Listing<T extends FlowLike>(props: ListingProps<T>) {
  const { route, rowKey } = props;
  const [paused, setPaused] = useState(false);
  const [opened, setOpened] = useState<T>();
  const width = useWidth();
  const isNarrow = width < NARROW;
  const columns = useMemo(
    () => (isNarrow ? props.narrowColumns : fitting(props.columns, opened ? width - 340 : width)),
    [props.columns, props.narrowColumns, width, isNarrow, opened !== undefined],
  );

  const filter = Object.fromEntries(FILTERS.map((name) => [name, route.query[name]?.trim() ?? '']));
  const set = Object.entries(filter).filter(([, value]) => value !== '');
  const query = new URLSearchParams([...set, ['limit', String(LIMIT)]]).toString();
  const { page, at, problem, busy } = useFetched(props, query, paused);

  const clear = () => narrow(Object.fromEntries(FILTERS.map((name) => [name, undefined])));
  useKeys({
    p: () => setPaused(!paused),
    c: clear,
    Escape: () => setOpened(undefined),
  });

  const rows = page?.rows ?? [];
  const fresh = opened && rows.find((row) => rowKey(row) === rowKey(opened));
  return (
    <main class="listing" id="main">
      <h1 class="visually-hidden">{capital(props.plural)}</h1>
      <form class="filter" role="search" aria-label={`Filter ${props.plural}`} onSubmit={(event) => event.preventDefault()}>
        {FILTERS.map((name) => (
          <Field
            key={name}
            name={name}
            title={capital(name)}
            placeholder="any"
            value={route.query[name] ?? ''}
            onInput={(text) => narrow({ [name]: text })}
            problem={problem?.parameter === name ? problem : undefined}
            list={name === 'tenant' || name === 'class' ? `known-${name}` : undefined}
            isMono={name === 'address' || name === 'port'}
            isNumber={name === 'port'}
            isFirst={name === 'tenant'}
            isLeft
          />
        ))}
        <Known id="known-tenant" names={props.tenants} />
        <Known id="known-class" names={[...new Set(rows.map((row) => row.class))].sort()} />
        {set.length > 0 && (
          <button type="button" class="plain" onClick={clear}>
            Clear
          </button>
        )}
        <div class="standing">
          <span class="count">
            {page ? summary(page, props) : busy ? 'Asking…' : ''}
          </span>
          {at !== undefined && (
            <span class={`asof${problem ? ' warn-text' : ''}`}>
              <span>{paused ? 'Held at' : 'As of'} </span>
              <Time unixMs={at} />
            </span>
          )}
          <button
            type="button"
            class="plain"
            aria-label="Hold still"
            aria-pressed={paused}
            title={paused ? 'Go on (p)' : 'Hold still (p)'}
            onClick={() => setPaused(!paused)}
          >
            {paused ? <PlayIcon /> : <PauseIcon />}
            <span>{paused ? 'Go on' : 'Hold'}</span>
          </button>
        </div>
      </form>
      {problem && problem.parameter === undefined && !props.lost && (
        <p class="banner warn" role="alert">
          {capital(problem.detail)}. {page ? 'These rows are older.' : ''} It is asked again every two seconds.
        </p>
      )}
      <div class={`split${opened ? ' open' : ''}`}>
        <Rows
          label={capital(props.plural)}
          rows={rows}
          columns={columns}
          rowKey={rowKey}
          rowHeight={isNarrow ? 50 : 28}
          sort={readSort(route.query.sort)}
          onSort={(sort) => narrow({ sort: writeSort(sort) })}
          opened={opened && rowKey(opened)}
          onOpen={(row) => setOpened(opened && rowKey(opened) === rowKey(row) ? undefined : row)}
          empty={
            problem?.parameter ? (
              <p class="empty">Put the filter right to see {props.plural}.</p>
            ) : page && !busy ? (
              <Empty filtered={set.length > 0} clear={clear} {...props} />
            ) : (
              problem && <p class="empty">No answer yet. It is asked again every two seconds.</p>
            )
          }
        />
        {opened && (
          <Detail
            title={`${capital(props.noun)} ${opened.protocol}`}
            gone={fresh ? undefined : props.gone}
            facts={props.detail(fresh ?? opened)}
            actions={props.actions?.(opened)}
            onClose={() => setOpened(undefined)}
          />
        )}
      </div>
    </main>
  );
}

function summary<T>({ matching, rows, held }: Page<T>, { plural }: { plural: string }): string {
  const noun = matching === 1 ? plural.replace(/s$/, '') : plural;
  if (rows.length < matching) return `Newest ${integer(rows.length)} of ${integer(matching)} ${noun}`;
  if (held !== undefined && held > matching) return `${integer(matching)} of the last ${integer(held)} ${plural}`;
  return `${integer(matching)} ${noun}`;
}

function Empty<T>({ filtered, clear, plural, nothing }: ListingProps<T> & { filtered: boolean; clear: () => void }) {
  if (!filtered) return <p class="empty">{nothing}</p>;
  return (
    <p class="empty">
      No {plural} match this filter.{' '}
      <button type="button" class="link" onClick={clear}>
        Show all
      </button>
    </p>
  );
}

interface DetailProps {
  title: string;
  gone?: string;
  facts: [string, ComponentChildren][];
  actions?: ComponentChildren;
  onClose: () => void;
}

function Detail({ title, gone, facts, actions, onClose }: DetailProps) {
  return (
    <aside class="detail" aria-label={title}>
      <header>
        <h2>{title}</h2>
        <button type="button" class="plain" aria-label="Close" title="Close (Esc)" onClick={onClose}>
          <CloseIcon />
        </button>
      </header>
      {gone && <p class="gone">{gone}</p>}
      <dl>
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {actions}
    </aside>
  );
}

/** A value that narrows the view to itself. */
export function Narrow({ by, value, children }: { by: Filter; value: string | number; children?: ComponentChildren }) {
  return (
    <button
      type="button"
      class="link"
      title={`Show only ${by} ${value}`}
      onClick={() => narrow({ [by]: String(value) })}
    >
      {children ?? value}
    </button>
  );
}

/** An address and port, each of which narrows the view to itself. */
export function End({ address, port, protocol }: { address: string; port: number | null; protocol: string }) {
  return (
    <span class="mono end">
      <Narrow by="address" value={address} />
      {port !== null && hasPorts(protocol) && (
        <>
          {' port '}
          <Narrow by="port" value={port} />
        </>
      )}
    </span>
  );
}

export const sourceOf = (row: FlowLike): string =>
  hasPorts(row.protocol) ? withPort(row.source, row['source-port']) : row.source;
export const destinationOf = (row: FlowLike): string =>
  hasPorts(row.protocol) ? withPort(row.destination, row['destination-port']) : row.destination;
export const natOf = (row: FlowLike): string => {
  const address = row['nat-source'];
  if (address === null) return '–';
  return hasPorts(row.protocol) ? withPort(address, row['nat-source-port']) : address;
};

/** One name where both directions take the same path, else the way there and the way back. */
export function pathsOf(row: FlowLike): string {
  const { 'forward-path': there, 'reverse-path': back } = row;
  if (there !== null && back !== null && there !== back) return `${there} / ${back}`;
  return there ?? back ?? '–';
}

/** Columns that sessions and flows have in common, to be put in order by each. */
export function commonColumns<T extends FlowLike>(): Record<string, Column<T>> {
  const text = (key: keyof FlowLike, title: string, width: number): Column<T> => ({
    key,
    title,
    width,
    cell: (row) => String(row[key] ?? '–'),
    full: (row) => String(row[key] ?? ''),
    sort: (row) => String(row[key] ?? ''),
  });
  return {
    tenant: text('tenant', 'Tenant', 5),
    protocol: text('protocol', 'Proto', 4),
    source: { key: 'source', title: 'Source', width: 11.5, mono: true, cell: sourceOf, full: sourceOf, sort: sourceOf },
    destination: {
      key: 'destination',
      title: 'Destination',
      width: 11.5,
      mono: true,
      cell: destinationOf,
      full: destinationOf,
      sort: destinationOf,
    },
    nat: {
      key: 'nat',
      title: 'NAT source',
      hint: 'What the source was translated to',
      width: 10.5,
      mono: true,
      cell: natOf,
      full: natOf,
      sort: natOf,
      from: 1180,
    },
    from: { ...text('from', 'From', 7.5), from: 1500 },
    to: { ...text('to', 'To', 8.5), from: 1500 },
    class: text('class', 'Class', 5),
    rule: { ...text('rule', 'Rule', 6), from: 1040 },
    paths: {
      key: 'paths',
      title: 'Path',
      hint: 'The way there, and the way back where that is another',
      width: 6,
      cell: pathsOf,
      full: pathsOf,
      sort: pathsOf,
    },
  };
}

/** A flow in two lines, for narrow windows. */
export function TwoLines({ row, small }: { row: FlowLike; small: ComponentChildren }) {
  return (
    <span class="stack mono">
      <span>{sourceOf(row)}</span>
      <span>→ {destinationOf(row)}</span>
      {small}
    </span>
  );
}

export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
