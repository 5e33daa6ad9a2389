// What went through the box in the last days: the flow history, asked in the filter language. The question lives in the
// address, so a link shows a colleague the same answer.

import type { ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { asProblem, download, get, isUnauthorized } from './api';
import { bytes, integer, percent, utc } from './format';
import { href, narrow, type Route } from './route';
import type { SankeyProps } from './sankey';
import { Time } from './time';
import { traceOf } from './trace';
import type { Cell, FlowAnswer, FlowSeries, Problem } from './types';

interface Props {
  route: Route;
  bearer: string;
  onUnauthorized: () => void;
}

const RANGES: [string, string][] = [
  ['15m', '15 minutes'],
  ['1h', 'hour'],
  ['6h', '6 hours'],
  ['1d', 'day'],
  ['7d', '7 days'],
  ['30d', '30 days'],
];

const GROUPS = ['source', 'destination', 'class', 'app', 'name', 'from', 'to', 'rule', 'protocol', 'destination_port', 'forward_path', 'tenant', 'class,source', 'source,destination'];

const RECORDS = 'records';

type Asked = Readonly<Record<string, string>>;

/** The API's parameters; records are what nothing is grouped by. */
function parameters({ q = '', last = '1h', by = 'source', order = '', cursor = '' }: Asked, more: Asked = {}): string {
  const records = by === RECORDS;
  const grouped: Asked = records ? { cursor, limit: '100' } : { by, order, top: '25', step: 'auto', previous: 'true' };
  const set = Object.entries({ q, last, ...grouped, ...more }).filter(([, value]) => value !== '');
  return new URLSearchParams(set).toString();
}

export function HistoryView({ route, bearer, onUnauthorized }: Props) {
  const { query } = route;
  const asked = parameters(query);
  const [draft, setDraft] = useState<Asked>({});
  const [answer, setAnswer] = useState<FlowAnswer>();
  const [problem, setProblem] = useState<Problem>();
  const [again, setAgain] = useState(0);
  const failed = (error: unknown) => {
    if (isUnauthorized(error)) return onUnauthorized();
    setProblem(asProblem(error));
  };
  useEffect(() => {
    setProblem(undefined);
    const controller = new AbortController();
    get<FlowAnswer>(`flows/query?${asked}`, bearer, controller.signal)
      .then(setAnswer)
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        setAnswer(undefined);
        failed(error);
      });
    return () => controller.abort();
  }, [asked, bearer, again]);

  const value = (name: string, usually = '') => draft[name] ?? query[name] ?? usually;
  const ask = (event: Event) => {
    event.preventDefault();
    narrow({ ...draft, q: value('q').trim(), by: value('by').trim(), cursor: undefined });
    setDraft({});
    setAgain(again + 1);
  };
  const save = (format: string) => async () => {
    try {
      const limits: Asked = query.by === RECORDS ? { limit: '100000', cursor: '' } : { top: '10000', step: '' };
      await download(`flows/query?${parameters(query, { format, ...limits })}`, bearer, `flows.${format}`);
    } catch (error) {
      failed(error);
    }
  };
  const wrong = (name: string) => (problem?.parameter === name ? problem : undefined);
  const elsewhere = problem && !['q', 'by'].includes(problem.parameter ?? '');
  return (
    <main class="listing explain history" id="main">
      <h1 class="visually-hidden">History</h1>
      <form class="filter" aria-label="Question to the flow history" onSubmit={ask}>
        <label class={`field asked-q${wrong('q') ? ' bad' : ''}`}>
          <span>Filter</span>
          <input
            type="text"
            class="mono"
            data-filter
            placeholder="tenant = acme and dst in 203.0.113.0/24 and class = voice and bytes > 1M"
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            value={value('q')}
            aria-invalid={wrong('q') ? true : undefined}
            aria-describedby={wrong('q') ? 'q-problem' : undefined}
            onInput={(event) => setDraft({ ...draft, q: event.currentTarget.value })}
          />
          {wrong('q') && (
            <em id="q-problem" class="mono pointed" role="alert">
              {wrong('q')!.detail}
            </em>
          )}
        </label>
        <label class="field">
          <span>Last</span>
          <select value={query.last ?? '1h'} onChange={(event) => narrow({ last: event.currentTarget.value, cursor: undefined })}>
            {RANGES.map(([last, name]) => (
              <option key={last} value={last}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label class={`field asked-by${wrong('by') ? ' bad' : ''}`}>
          <span>By</span>
          <input
            type="text"
            list="asked-by"
            placeholder="source"
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            value={value('by')}
            aria-invalid={wrong('by') ? true : undefined}
            onInput={(event) => setDraft({ ...draft, by: event.currentTarget.value })}
          />
          {wrong('by') && <em role="alert">{wrong('by')!.detail.replace(/^by: /, '')}</em>}
        </label>
        <datalist id="asked-by">
          {[RECORDS, ...GROUPS].map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <button type="submit" class="primary">
          Ask
        </button>
      </form>
      {elsewhere && (
        <p class="banner warn" role="alert">
          {problem.detail}
        </p>
      )}
      <section class="answer" tabIndex={0} aria-live="polite" aria-label="Answer">
        {answer?.['incomplete-before-unix-ms'] != null && (
          <p class="banner warn">
            What ended before <Time unixMs={answer['incomplete-before-unix-ms']} full /> is not all in it: it was before the
            history, or has gone.
          </p>
        )}
        {answer?.unreadable.map((file) => (
          <p key={file} class="banner warn">
            Left out, it cannot be read: {file}
          </p>
        ))}
        {answer?.series && <Chart series={answer.series} answer={answer} />}
        {answer && <Ways answer={answer} route={route} />}
        {answer && <Answer answer={answer} route={route} save={save} />}
      </section>
    </main>
  );
}

const WIDTH = 600;
const HEIGHT = 120;

const say = (name: string, value: number) => (name.endsWith('bytes') ? bytes(value) : integer(value));

/** All groups together, and what they were in the time before. */
function Chart({ series, answer }: { series: FlowSeries; answer: FlowAnswer }) {
  const together = (lines: number[][]) => lines[0]?.map((_, at) => lines.reduce((sum, line) => sum + (line[at] ?? 0), 0)) ?? [];
  const now = together(series.lines);
  const before = together(series.before ?? []);
  const top = Math.max(...now, ...before, 1);
  const x = (at: number) => ((at / Math.max(now.length, 1)) * WIDTH).toFixed(1);
  // Room above for what the highest is.
  const y = (value: number) => (HEIGHT - (value / top) * HEIGHT * 0.82).toFixed(1);
  const steps = (values: number[]) => values.slice(0, now.length).map((value, at) => `${x(at)} ${y(value)}H${x(at + 1)}`).join('L');
  return (
    <section class="panel chart" aria-label={`${series.of} over time`}>
      <header>
        <h2>{series.of}</h2>
        <span class="legend">
          <i /> now
          {series.before && (
            <>
              <i class="in" /> the time before
            </>
          )}
        </span>
      </header>
      <div class="plot">
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${series.of} in steps of ${series['step-ms'] / 1000} s`}>
          {before.length > 0 && <path class="line in" d={`M${steps(before)}`} />}
          {now.length > 0 && <path class="line out" d={`M${steps(now)}`} />}
        </svg>
        <span class="scale">
          at most {say(series.of, top)} in {series['step-ms'] / 1000} s
        </span>
      </div>
      <footer>
        <Time unixMs={answer['from-unix-ms']} />
        <Time unixMs={answer['until-unix-ms']} />
      </footer>
    </section>
  );
}

/** Between the values of several columns, if it is by several. */
function Ways({ answer, route }: { answer: FlowAnswer; route: Route }) {
  const { columns, rows, series, total } = answer;
  const [Sankey, setSankey] = useState<ComponentType<SankeyProps>>();
  const firstSum = columns.length - total.length;
  const order = columns.findIndex(({ name }) => name === (route.query.order || series?.of));
  const isAsked = series !== null && firstSum > 1 && order >= firstSum;
  useEffect(() => {
    // Without it the table still has everything.
    if (isAsked) import('./sankey').then((it) => setSankey(() => it.default)).catch(() => undefined);
  }, [isAsked]);
  if (!isAsked || !Sankey) return null;
  const of = columns[order]!.name;
  return (
    <Sankey
      columns={columns.slice(0, firstSum).map(({ name }) => name)}
      rows={rows.map((row) => ({ cells: row.slice(0, firstSum), value: Number(row[order]) }))}
      of={of}
      say={(value) => say(of, value)}
      route={route}
    />
  );
}

/** Of records; the downloads have every column. */
const SHOWN = ['end', 'tenant', 'protocol', 'source', 'source_port', 'destination', 'destination_port', 'from', 'to', 'class', 'name', 'rule', 'forward_path', 'forward_bytes', 'reverse_bytes'];

interface AnswerProps {
  answer: FlowAnswer;
  route: Route;
  save: (format: string) => () => Promise<void>;
}

function Answer({ answer, route, save }: AnswerProps) {
  const { columns, rows, total, before } = answer;
  const isSums = answer.series !== null;
  const firstSum = columns.length - total.length;
  const shown = columns.map((_, at) => at).filter((at) => isSums || SHOWN.includes(columns[at]!.name));
  const order = isSums ? columns.findIndex(({ name }) => name === (route.query.order || answer.series?.of)) : -1;
  const hidden = answer.groups - rows.length;
  return (
    <section class="panel moves">
      <header>
        <h2>{isSums ? 'Largest' : 'Records'}</h2>
        <span class="count">{isSums ? integer(answer.groups) : rows.length}</span>
        <span class="downloads">
          <button type="button" class="link" onClick={save('csv')}>
            CSV
          </button>
          <button type="button" class="link" onClick={save('parquet')}>
            Parquet
          </button>
        </span>
      </header>
      {rows.length === 0 ? (
        <p class="empty">No flow record of that time fits.</p>
      ) : (
        <div class="wide" tabIndex={0} role="region" aria-label="The answer as a table">
          <table>
            <thead>
              <tr>
                {shown.map((at) => (
                  <th key={at} scope="col" class={columns[at]!.holds === 'number' ? 'right' : undefined}>
                    {isSums && at >= firstSum && columns[at]!.holds === 'number' ? (
                      <button
                        type="button"
                        class="link"
                        aria-pressed={at === order}
                        title={`The largest by ${columns[at]!.name}`}
                        onClick={() => narrow({ order: columns[at]!.name })}
                      >
                        {columns[at]!.name}
                      </button>
                    ) : (
                      columns[at]!.name.replaceAll('_', ' ')
                    )}
                  </th>
                ))}
                {before && <th scope="col" class="right">before</th>}
                {!isSums && <th scope="col">what became of it</th>}
              </tr>
            </thead>
            <tbody>
              {rows.map((row, index) => {
                const sum = order - firstSum;
                const share = order >= 0 && total[sum] ? Number(row[order]) / total[sum]! : 0;
                return (
                  <tr key={index} class={isSums ? 'measured' : undefined} style={isSums ? `--share: ${(share * 100).toFixed(2)}%` : undefined}>
                    {shown.map((at) => (
                      <td key={at} class={columns[at]!.holds === 'number' ? 'right' : undefined} title={at === order ? percent(share) : undefined}>
                        <Shown cell={row[at]!} name={columns[at]!.name} holds={columns[at]!.holds} />
                      </td>
                    ))}
                    {before && <td class="right">{change(Number(row[order]), before.rows[index]?.[sum] ?? 0)}</td>}
                    {!isSums && (
                      <td>
                        <a href={traceOfRow(columns, row)}>trace</a>
                      </td>
                    )}
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      {hidden > 0 && isSums && <p class="hint">And {integer(hidden)} more; the downloads have them.</p>}
      {answer.cursor && (
        <p class="hint">
          <a href={href('history', { ...route.query, cursor: answer.cursor })}>Older</a>
        </p>
      )}
    </section>
  );
}

function Shown({ cell, name, holds }: { cell: Cell; name: string; holds: string }) {
  if (cell === null) return <>–</>;
  if (holds === 'time') return <span title={utc(Number(cell))}><Time unixMs={Number(cell)} full /></span>;
  return <>{typeof cell === 'number' && /bytes|packets|flows/.test(name) ? say(name, cell) : String(cell)}</>;
}

function change(now: number, before: number): string {
  if (before === 0) return now === 0 ? '–' : 'new';
  const share = now / before - 1;
  return `${share >= 0 ? '+' : '−'}${percent(Math.abs(share))}`;
}

function traceOfRow(columns: FlowAnswer['columns'], row: Cell[]): string {
  const cell = (name: string) => row[columns.findIndex((column) => column.name === name)];
  return traceOf({
    tenant: String(cell('tenant')),
    protocol: String(cell('protocol')),
    source: String(cell('source')),
    'source-port': Number(cell('source_port')),
    destination: String(cell('destination')),
    'destination-port': Number(cell('destination_port')),
    at: Number(cell('end')),
  });
}
