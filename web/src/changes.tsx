// Changes: what would be put in force, what it would do, and what was put in force before. A commit is looked at here before it
// is made, and taken back or confirmed.

import { useEffect, useState } from 'preact/hooks';
import { asProblem, get, isUnauthorized, Refused, send } from './api';
import { nameOf, PolicyEditor, scopeOf } from './editor';
import { bytes, duration, integer } from './format';
import { BadIcon, CheckIcon } from './icons';
import type { Live } from './live';
import { current, href, narrow, type Route } from './route';
import { ActionsHead, Scroll } from './scroll';
import { Time } from './time';
import type {
  AuditEntry,
  Committed,
  ConfigState,
  DryRun,
  FileDifference,
  FlowChange,
  Me,
  PolicyTest,
  Problem,
  ProblemRow,
  Revision,
} from './types';

interface Props {
  me: Me;
  route: Route;
  bearer: string;
  tenants: string[];
  live: Live;
  onUnauthorized: () => void;
}

/** What a change does, once it is looked at. */
export interface Outlook {
  files: FileDifference[];
  warnings: ProblemRow[];
  /** Absent where it cannot be read. */
  tests?: PolicyTest[];
  /** Absent where there is something wrong with it. */
  dryRun?: DryRun;
  problem?: Problem;
}

const CAUSES: Record<Revision['cause'], string> = {
  files: 'files',
  candidate: 'candidate',
  rollback: 'rollback',
  unconfirmed: 'not confirmed in time',
  guard: 'taken back: the box was worse off',
};

const KINDS: Record<FlowChange['kind'], string> = {
  dropped: 'Dropped',
  admitted: 'Let pass',
  class: 'Other class',
  path: 'Other paths',
  nat: 'Other address',
};

export function Changes({ me, route, bearer, tenants, live, onUnauthorized }: Props) {
  const [state, setState] = useState<ConfigState>();
  const [revisions, setRevisions] = useState<Revision[]>([]);
  const [entries, setEntries] = useState<AuditEntry[]>([]);
  const [outlook, setOutlook] = useState<Outlook>();
  const [problem, setProblem] = useState<Problem>();
  const [done, setDone] = useState<string>();
  const [again, setAgain] = useState(0);
  // A user of one tenant has that tenant's candidate, and nothing of the box's.
  const own = me.tenant && `tenant:${me.tenant}`;
  const mayChange = me.role !== 'viewer';
  const refused = (error: unknown) => {
    if (isUnauthorized(error)) return onUnauthorized();
    setProblem(asProblem(error));
  };

  // Whoever commits elsewhere changes this view too.
  const standing = live.status?.commit;
  const turn = `${standing?.revision} ${standing?.['confirm-by-unix-ms']} ${again}`;
  useEffect(() => {
    const controller = new AbortController();
    const ask = async () => {
      const [state, listed, audit] = await Promise.all([
        get<ConfigState>('config', bearer, controller.signal),
        own ? { revisions: [] } : get<{ revisions: Revision[] }>('config/revisions', bearer, controller.signal),
        get<{ entries: AuditEntry[] }>('audit?limit=50', bearer, controller.signal),
      ]);
      setState(state);
      setRevisions(listed.revisions);
      setEntries(audit.entries);
    };
    ask().catch((error: unknown) => controller.signal.aborted || refused(error));
    return () => controller.abort();
  }, [turn, bearer]);

  const isOpen = Boolean(state?.candidates.length);
  const source = own ? (isOpen ? own : 'in-force') : (route.query.of ?? (isOpen ? 'candidates' : 'files'));
  useEffect(() => {
    setOutlook(undefined);
    if (!state) return;
    const controller = new AbortController();
    // What is listed as open and is not has been committed or given up since it was listed, here or elsewhere.
    const isListed = source === 'candidates' ? isOpen : state.candidates.some((it) => it.scope === source);
    look(source, bearer, controller.signal)
      .then(setOutlook)
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        if (isListed && error instanceof Refused && error.problem.status === 404) setAgain((again) => again + 1);
        else refused(error);
      });
    return () => controller.abort();
  }, [state, source, bearer]);

  const act = async (what: () => Promise<string>) => {
    setProblem(undefined);
    setDone(undefined);
    try {
      setDone(await what());
      // Whatever stood open may not any more: what would change is looked at once it is known again.
      setState(undefined);
    } catch (error) {
      refused(error);
    }
    setAgain((again) => again + 1);
  };
  const commit = (of: string, confirmSecs: number | null, comment: string) =>
    act(async () => {
      const body = { source: of, 'confirm-secs': confirmSecs, comment: comment || null };
      const { revision } = await send<Committed>('POST', 'config/commit', bearer, body);
      narrow({ of: undefined });
      return `Revision ${revision} is in force.`;
    });

  const open = state?.candidates ?? [];
  const ofTenant: [string, string][] = isOpen ? [[own!, 'Your candidate']] : [['in-force', 'What is in force: no candidate is open']];
  const ofBox: [string, string][] = [
    ['files', state?.edited.length ? `Edited files (${state.edited.join(', ')})` : 'Files on the box (not edited)'],
    ...(open.length > 1 ? [['candidates', 'All open candidates'] as [string, string]] : []),
    ...open.map((it): [string, string] => [it.scope, `Candidate of ${nameOf(it.scope)}`]),
    ...revisions.slice(1).map((it, index): [string, string] => [String(index + 1), `Revision ${it.number}, ${index + 1} back`]),
  ];
  const sources = own ? ofTenant : ofBox;
  if (open.length === 1 && source === 'candidates') sources.push(['candidates', `Candidate of ${nameOf(open[0]!.scope)}`]);
  return (
    <main class="changes" id="main">
      <h1 class="visually-hidden">Changes</h1>
      {done && (
        <p class="done" role="status">
          {done}
        </p>
      )}
      {problem && <Wrong problem={problem} />}
      <section aria-labelledby="changes-what">
        <h2 id="changes-what">What would change</h2>
        <label class="field">
          <span>Configuration</span>
          <select data-filter value={source} onChange={(event) => narrow({ of: event.currentTarget.value })}>
            {sources.map(([value, title]) => (
              <option key={value} value={value}>
                {title}
              </option>
            ))}
          </select>
        </label>
        {outlook ? <OutlookView outlook={outlook} /> : !problem && <p class="hint">Looking at it…</p>}
        {mayChange && outlook && outlook.files.length > 0 && !outlook.problem && (
          <CommitForm waits={Boolean(standing?.['confirm-by-unix-ms'])} commit={(secs, comment) => commit(source, secs, comment)} />
        )}
      </section>
      <PolicyEditor
        me={me}
        route={route}
        tenants={tenants}
        state={state}
        turn={turn}
        wrong={source === 'candidates' || source === route.query.edit ? outlook : undefined}
        bearer={bearer}
        act={act}
        refused={refused}
      />
      {!own && (
      <section aria-labelledby="changes-revisions">
        <h2 id="changes-revisions">Revisions</h2>
        <Scroll name="Revisions, the one in force first">
          <thead>
            <tr>
              <th>Back</th>
              <th>Revision</th>
              <th>When</th>
              <th>Who</th>
              <th>By</th>
              <th>Comment</th>
              <ActionsHead />
            </tr>
          </thead>
          <tbody>
            {revisions.map((it, back) => (
              <tr key={it.number}>
                <td class="number">{back}</td>
                <td class="number">{it.number}</td>
                <td>
                  <Time unixMs={it['unix-ms']} full />
                </td>
                <td>{`${it.user} from ${it.from}`}</td>
                <td>{CAUSES[it.cause]}</td>
                <td class="text">{it.comment ?? '–'}</td>
                <td>
                  {back === 0 ? (
                    'in force'
                  ) : (
                    <button type="button" class="link" onClick={() => narrow({ of: String(back) })}>
                      Look at {it.number}
                    </button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </Scroll>
      </section>
      )}
      <section aria-labelledby="changes-audit">
        <h2 id="changes-audit">Audit log</h2>
        {entries.length === 0 && <p class="hint">Nothing has been changed yet.</p>}
        <Scroll name="Audit log, the newest first">
          <thead>
            <tr>
              <th>When</th>
              <th>Who</th>
              <th>What</th>
              <th>Revision</th>
              <th>Detail</th>
            </tr>
          </thead>
          <tbody>
            {entries.map((it, index) => (
              <tr key={index}>
                <td>
                  <Time unixMs={it['unix-ms']} full />
                </td>
                <td>{`${it.user} from ${it.from}`}</td>
                <td>{it.action}</td>
                <td class="number">{it.revision ?? '–'}</td>
                <td class="text">{it.detail || '–'}</td>
              </tr>
            ))}
          </tbody>
        </Scroll>
      </section>
    </main>
  );
}

async function look(of: string, bearer: string, signal: AbortSignal): Promise<Outlook> {
  const query = new URLSearchParams({ of });
  const { files } = await get<{ files: FileDifference[] }>(`config/compare?${new URLSearchParams({ new: of })}`, bearer, signal);
  let tests: PolicyTest[] | undefined;
  try {
    ({ tests } = await get<{ tests: PolicyTest[] }>(`config/policy-tests?${query}`, bearer, signal));
    if (files.length === 0) return { files, warnings: [], tests };
    const { warnings } = await get<{ warnings: ProblemRow[] }>(`config/check?${query}`, bearer, signal);
    return { files, warnings, tests, dryRun: await get<DryRun>(`config/dry-run?${query}`, bearer, signal) };
  } catch (error) {
    if (error instanceof Refused && error.problem.status === 422) return { files, warnings: [], tests, problem: error.problem };
    throw error;
  }
}

function OutlookView({ outlook }: { outlook: Outlook }) {
  const { files, warnings, tests, dryRun, problem } = outlook;
  const inForce = <p class="hint">It is what is in force.</p>;
  return (
    <>
      {files.length === 0 && !problem && inForce}
      {problem && <Wrong problem={problem} told={tests} />}
      {warnings.length > 0 && (
        <ul class="problems warn">
          {warnings.map((row) => (
            <RowOf key={place(row) + row.message} row={row} />
          ))}
        </ul>
      )}
      {tests && tests.length > 0 && <PolicyTests tests={tests} />}
      {dryRun && <DryRunView run={dryRun} />}
      {files.map((it) => (
        <details key={it.file} open class="diff">
          <summary>
            {it.file} <span class="added">+{it['added-lines']}</span> <span class="removed">−{it['removed-lines']}</span>
          </summary>
          <pre tabIndex={0} aria-label={`What differs in ${it.file}`}>
            {it.diff
              .split('\n')
              .slice(2, -1)
              .map((line, index) => (
                <span key={index} class={line.startsWith('+') ? 'added' : line.startsWith('-') ? 'removed' : line.startsWith('@') ? 'place' : ''}>
                  {`${line}\n`}
                </span>
              ))}
          </pre>
        </details>
      ))}
    </>
  );
}

/** Those that fail first: they keep the rest from being committed. */
function PolicyTests({ tests }: { tests: PolicyTest[] }) {
  const failed = tests.filter((it) => it.failure !== null);
  const passed = tests.filter((it) => it.failure === null);
  const count = `${tests.length} policy ${tests.length === 1 ? 'test' : 'tests'}`;
  return (
    <details class="tests" open={failed.length > 0}>
      <summary>
        {failed.length > 0 ? <BadIcon /> : <CheckIcon />}
        {failed.length > 0 ? `${failed.length} of ${count} ${failed.length === 1 ? 'fails' : 'fail'}: it cannot be committed` : `${count}: all pass`}
      </summary>
      <Scroll name="Policy tests, those that fail first">
        <thead>
          <tr>
            <th>Test</th>
            <th>Tenant</th>
            <th>Result</th>
            <th>What came out</th>
            <th>Where</th>
          </tr>
        </thead>
        <tbody>
          {[...failed, ...passed].map((it) => (
            <tr key={`${it.tenant} ${it.name}`} class={it.failure === null ? undefined : 'bad'}>
              <td>{it.name}</td>
              <td>{it.tenant}</td>
              <td>{it.failure === null ? '✓ passes' : '✕ fails'}</td>
              <td class="text">{it.failure ?? 'what it expects'}</td>
              <td>
                <Place row={{ file: it.file, line: it.line, message: '' }} />
              </td>
            </tr>
          ))}
        </tbody>
      </Scroll>
    </details>
  );
}

function DryRunView({ run }: { run: DryRun }) {
  const asked = `${integer(run.sessions)} live sessions and ${integer(run.records)} records of late`;
  if (run.changes.length === 0) return <p class="hint">Nothing would happen to the flows that there are: {asked} were asked about.</p>;
  return (
    <>
      <p class="hint">What it would do to {asked}:</p>
      <Scroll name="What would happen to flows">
        <thead>
          <tr>
            <th>What</th>
            <th>Tenant</th>
            <th>Flows</th>
            <th>Live</th>
            <th>Bytes</th>
            <th>Now</th>
            <th>Then</th>
            <th>Such as</th>
          </tr>
        </thead>
        <tbody>
          {run.changes.map((it, index) => (
            <tr key={index} class={it.kind === 'dropped' ? 'bad' : undefined}>
              <td>{KINDS[it.kind]}</td>
              <td>{it.tenant}</td>
              <td class="number">{integer(it.flows)}</td>
              <td class="number">{integer(it.sessions)}</td>
              <td class="number">{bytes(it.bytes)}</td>
              <td class="text">{it.now || '–'}</td>
              <td class="text">{it.then || '–'}</td>
              <td class="mono">{it.examples[0]}</td>
            </tr>
          ))}
        </tbody>
      </Scroll>
    </>
  );
}

/** Minutes within which a commit is to be confirmed, unless asked otherwise. */
const CONFIRM_MINUTES = 2;

function CommitForm({ waits, commit }: { waits: boolean; commit: (confirmSecs: number | null, comment: string) => void }) {
  const [comment, setComment] = useState('');
  const [minutes, setMinutes] = useState(String(CONFIRM_MINUTES));
  const [asks, setAsks] = useState(true);
  const secs = Math.round(Number(minutes) * 60);
  const isWrong = asks && !(secs >= 1);
  const submit = (event: Event) => {
    event.preventDefault();
    if (!isWrong) commit(asks ? secs : null, comment.trim());
  };
  return (
    <form class="commit" aria-label="Commit" onSubmit={submit}>
      <label class="field wide">
        <span>Comment</span>
        <input type="text" placeholder="why" value={comment} onInput={(event) => setComment(event.currentTarget.value)} />
      </label>
      <label class="check">
        <input type="checkbox" checked={asks} onChange={(event) => setAsks(event.currentTarget.checked)} />
        <span>Take it back unless confirmed within</span>
      </label>
      <label class={`field minutes${isWrong ? ' bad' : ''}`}>
        <span>Minutes</span>
        <input
          type="text"
          inputMode="decimal"
          disabled={!asks}
          aria-invalid={isWrong || undefined}
          value={minutes}
          onInput={(event) => setMinutes(event.currentTarget.value)}
        />
      </label>
      <button type="submit" class="primary" disabled={waits} title={waits ? 'The one before is still to be confirmed' : undefined}>
        Commit
      </button>
    </form>
  );
}

/** Always in sight while a commit is still to be confirmed. */
export function Unconfirmed({ me, live, bearer, onUnauthorized }: { me: Me; live: Live; bearer: string; onUnauthorized: () => void }) {
  const by = live.status?.commit?.['confirm-by-unix-ms'];
  const [now, setNow] = useState(Date.now);
  const [problem, setProblem] = useState<string>();
  useEffect(() => {
    if (!by) return;
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, [Boolean(by)]);
  if (!by || !live.status) return null;
  // By the box's clock: the browser's may be wrong.
  const left = (by - live.status['now-unix-ms'] - (now - (live.sampledAt ?? now))) / 1000;
  const ask = (path: string, body: unknown) => {
    send('POST', path, bearer, body)
      .then(() => setProblem(undefined))
      .catch((error: unknown) => (isUnauthorized(error) ? onUnauthorized() : setProblem(asProblem(error).detail)));
  };
  return (
    <div class="banner warn" role="alert">
      <strong>Revision {live.status.commit!.revision} is to be confirmed.</strong>
      <span aria-live="off" class="countdown">
        It is taken back in {duration(Math.max(0, left))}.
      </span>
      {problem && <span>{problem}.</span>}
      {me.role !== 'viewer' && (
        <button type="button" class="primary" onClick={() => ask('config/confirm', {})}>
          Confirm
        </button>
      )}
      {me.role !== 'viewer' && !me.tenant && (
        <button type="button" class="secondary" onClick={() => ask('config/commit', { source: '1' })}>
          Take it back now
        </button>
      )}
    </div>
  );
}

const place = (row: ProblemRow): string => (row.file ? `${row.file}:${row.line}` : 'All of it');

/** Where it is written, leading to the line in the editor. */
function Place({ row }: { row: ProblemRow }) {
  const { of } = current().query;
  const scope = row.file && scopeOf(row.file);
  return scope ? <a href={href('changes', { of, edit: scope, line: String(row.line) })}>{place(row)}</a> : <>{place(row)}</>;
}

const RowOf = ({ row }: { row: ProblemRow }) => (
  <li>
    <b>
      <Place row={row} />
    </b>{' '}
    {row.message}
  </li>
);

/** What is wrong, but for policy tests that are told of elsewhere. */
export function Wrong({ problem, told = [] }: { problem: Problem; told?: PolicyTest[] }) {
  const isTold = (row: ProblemRow) => told.some((it) => it.failure !== null && it.file === row.file && it.line === row.line);
  const rows = problem.problems?.filter((row) => !isTold(row));
  if (problem.problems && rows?.length === 0) return null;
  return (
    <div class="problem" role="alert">
      <p>{problem.detail}</p>
      {rows && (
        <ul class="problems">
          {rows.map((row) => (
            <RowOf key={place(row) + row.message} row={row} />
          ))}
        </ul>
      )}
    </div>
  );
}
