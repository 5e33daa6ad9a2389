// Why: a flow is asked about, and every step of the decision comes with the line it is written at. The question lives in the
// address, so a link shows a colleague the same answer.

import { useEffect, useState } from 'preact/hooks';
import { get, isUnauthorized, Refused } from './api';
import { narrow, type Route } from './route';
import type { Explanation, PathStep, Problem, Step } from './types';

interface Props {
  route: Route;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

const FIELDS = ['tenant', 'from', 'to', 'protocol', 'dscp', 'sni'] as const;
type Field = (typeof FIELDS)[number];

const HINTS: Record<Field, [string, string]> = {
  tenant: ['Tenant', 'acme'],
  from: ['From', '10.1.0.5'],
  to: ['To', '203.0.113.80:443'],
  protocol: ['Protocol', 'tcp'],
  dscp: ['DSCP', '0'],
  sni: ['Server name', 'teams.microsoft.com'],
};

export function Explain({ route, bearer, tenants, onUnauthorized }: Props) {
  const asked = new URLSearchParams(FIELDS.flatMap((name) => (route.query[name] ? [[name, route.query[name]!]] : []))).toString();
  const isWhole = Boolean(route.query.tenant && route.query.from && route.query.to);
  const [draft, setDraft] = useState<Partial<Record<Field, string>>>({});
  const [answer, setAnswer] = useState<Explanation>();
  const [problem, setProblem] = useState<Problem>();
  const [again, setAgain] = useState(0);
  useEffect(() => {
    setAnswer(undefined);
    setProblem(undefined);
    if (!isWhole) return;
    const controller = new AbortController();
    get<Explanation>(`explain?${asked}`, bearer, controller.signal)
      .then(setAnswer)
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        if (isUnauthorized(error)) return onUnauthorized();
        const detail = error instanceof Error ? error.message : String(error);
        setProblem(error instanceof Refused ? error.problem : { title: 'Unreachable', status: 0, detail });
      });
    return () => controller.abort();
  }, [asked, bearer, again]);

  const value = (name: Field) => draft[name] ?? route.query[name] ?? '';
  const ask = (event: Event) => {
    event.preventDefault();
    const missing = (['tenant', 'from', 'to'] as const).find((name) => value(name).trim() === '');
    if (missing) return setProblem({ title: 'Missing', status: 400, detail: `${missing}: it is needed`, parameter: missing });
    narrow(Object.fromEntries(FIELDS.map((name) => [name, value(name).trim()])));
    setDraft({});
    setAgain(again + 1);
  };
  return (
    <main class="listing explain" id="main">
      <h1 class="visually-hidden">Explain</h1>
      <form class="filter" aria-label="Flow to explain" onSubmit={ask}>
        {FIELDS.map((name) => {
          const [title, placeholder] = HINTS[name];
          const wrong = problem?.parameter === name ? problem : undefined;
          return (
            <label key={name} class={`field asked-${name}${wrong ? ' bad' : ''}`}>
              <span>{title}</span>
              <input
                type="text"
                data-filter={name === 'tenant' ? true : undefined}
                class={name === 'from' || name === 'to' ? 'mono' : undefined}
                list={name === 'tenant' || name === 'protocol' ? `asked-${name}` : undefined}
                placeholder={placeholder}
                autocomplete="off"
                autocapitalize="off"
                spellcheck={false}
                value={value(name)}
                aria-invalid={wrong ? true : undefined}
                aria-describedby={wrong ? `asked-${name}-problem` : undefined}
                onInput={(event) => setDraft({ ...draft, [name]: event.currentTarget.value })}
              />
              {wrong && (
                <em id={`asked-${name}-problem`} role="alert">
                  {wrong.detail.replace(/^\w+: /, '')}
                </em>
              )}
            </label>
          );
        })}
        <datalist id="asked-tenant">
          {tenants.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <datalist id="asked-protocol">
          {['tcp', 'udp', 'icmp', 'icmpv6'].map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <button type="submit" class="primary">
          Explain
        </button>
      </form>
      {problem && problem.parameter === undefined && (
        <p class="banner warn" role="alert">
          {problem.detail}
        </p>
      )}
      <section class="panel answer" tabIndex={0} aria-live="polite" aria-label="Explanation">
        {answer ? (
          <Explained answer={answer} />
        ) : (
          <p class="empty">Say whose flow it is, from which host and where to: what would become of it, and why.</p>
        )}
      </section>
    </main>
  );
}

const VERDICTS = { accept: 'Accepted', drop: 'Dropped', reject: 'Rejected' } as const;

/** What would become of a flow, step by step. */
export function Explained({ answer }: { answer: Explanation }) {
  const verdict = VERDICTS[answer.outcome] + (answer.reason ? `: ${answer.reason}` : '');
  return (
    <>
      <header>
        <h2 class={answer.outcome === 'accept' ? 'verdict' : 'verdict bad-text'}>{verdict}</h2>
      </header>
      <ol class="steps">
        {answer.steps.map((step, index) => (
          <StepRow key={index} step={step} />
        ))}
      </ol>
      {answer.paths.length > 0 && (
        <ol class="steps" aria-label="Paths, best first">
          {answer.paths.map((path) => (
            <PathRow key={`${path.site} ${path.path}`} path={path} />
          ))}
        </ol>
      )}
    </>
  );
}

function StepRow({ step }: { step: Step }) {
  return (
    <li class={step.fits ? 'fits' : 'misfits'}>
      <b>{step.kind}</b>
      <span>{step.text}</span>
      {step.at && <code>{step.at}</code>}
    </li>
  );
}

function PathRow({ path }: { path: PathStep }) {
  const { live } = path;
  const rtt = live?.['rtt-ms'];
  return (
    <li class={live && live.state !== 'down' ? 'fits' : 'misfits'}>
      <b>path</b>
      <span>
        {path.site}/{path.path}
        {live ? `: ${live.state}${rtt == null ? '' : `, ${rtt.toFixed(1)} ms`}` : ''}
      </span>
    </li>
  );
}
