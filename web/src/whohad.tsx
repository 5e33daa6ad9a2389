// Who had a public address and port, and when: the NAT ledger's answer, with what is missing in it. The question lives in the
// address, so a link shows a colleague the same answer.

import { useEffect, useState } from 'preact/hooks';
import { get, isUnauthorized, Refused } from './api';
import { utcMillis, withPort } from './format';
import { narrow, type Route } from './route';
import type { Held, LedgerGap, Problem, WhoHad } from './types';

interface Props {
  route: Route;
  bearer: string;
  onUnauthorized: () => void;
}

const FIELDS = ['address', 'port', 'protocol', 'at'] as const;
type Field = (typeof FIELDS)[number];

const HINTS: Record<Field, [string, string]> = {
  address: ['Public address', '198.51.100.7'],
  port: ['Port', '40112'],
  protocol: ['Protocol', 'all'],
  at: ['Time', '2026-11-22T10:00Z, or now'],
};

export function WhoHadView({ route, bearer, onUnauthorized }: Props) {
  const asked = new URLSearchParams(FIELDS.flatMap((name) => (route.query[name] ? [[name, route.query[name]!]] : []))).toString();
  const isWhole = Boolean(route.query.address && route.query.port);
  const [draft, setDraft] = useState<Partial<Record<Field, string>>>({});
  const [answer, setAnswer] = useState<WhoHad>();
  const [problem, setProblem] = useState<Problem>();
  const [again, setAgain] = useState(0);
  useEffect(() => {
    setAnswer(undefined);
    setProblem(undefined);
    if (!isWhole) return;
    const controller = new AbortController();
    get<WhoHad>(`who-had?${asked}`, bearer, controller.signal)
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
    const missing = (['address', 'port'] as const).find((name) => value(name).trim() === '');
    if (missing) return setProblem({ title: 'Missing', status: 400, detail: `${missing}: it is needed`, parameter: missing });
    narrow(Object.fromEntries(FIELDS.map((name) => [name, value(name).trim()])));
    setDraft({});
    setAgain(again + 1);
  };
  return (
    <main class="listing explain" id="main">
      <h1 class="visually-hidden">Who had</h1>
      <form class="filter" aria-label="Address and port to look up" onSubmit={ask}>
        {FIELDS.map((name) => {
          const [title, placeholder] = HINTS[name];
          const wrong = problem?.parameter === name ? problem : undefined;
          return (
            <label key={name} class={`field looked-${name}${wrong ? ' bad' : ''}`}>
              <span>{title}</span>
              <input
                type="text"
                data-filter={name === 'address' ? true : undefined}
                class={name === 'address' || name === 'at' ? 'mono' : undefined}
                inputMode={name === 'port' ? 'numeric' : undefined}
                list={name === 'protocol' ? 'looked-protocol' : undefined}
                placeholder={placeholder}
                autocomplete="off"
                autocapitalize="off"
                spellcheck={false}
                value={value(name)}
                aria-invalid={wrong ? true : undefined}
                aria-describedby={wrong ? `looked-${name}-problem` : undefined}
                onInput={(event) => setDraft({ ...draft, [name]: event.currentTarget.value })}
              />
              {wrong && (
                <em id={`looked-${name}-problem`} role="alert">
                  {wrong.detail.replace(/^\w+: /, '')}
                </em>
              )}
            </label>
          );
        })}
        <datalist id="looked-protocol">
          {['tcp', 'udp', 'icmp', 'icmpv6'].map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <button type="submit" class="primary">
          Look up
        </button>
      </form>
      {problem && problem.parameter === undefined && (
        <p class="banner warn" role="alert">
          {problem.detail}
        </p>
      )}
      <section class="panel answer" tabIndex={0} aria-live="polite" aria-label="Who had it">
        {answer ? (
          <Answer answer={answer} />
        ) : (
          <p class="empty">Say which public address and port, and when, with the time's zone: who had it, as the NAT ledger knows.</p>
        )}
      </section>
    </main>
  );
}

function verdict(answer: WhoHad): string {
  const from = answer['known-from-unix-ms'];
  switch (answer.answer) {
    case 'held':
      return [...new Set(answer.holdings.map((held) => (held.branch ? `${held.tenant}, ${held.branch}` : held.tenant)))].join('; ');
    case 'nobody':
      return 'Nobody';
    case 'not-sure':
      return 'Not known: something is missing in the ledger';
    case 'before-ledger':
      return from === null ? 'Not known: there is no ledger yet' : `Not known: before the ledger begins, which is at ${utcMillis(from)}`;
    case 'not-yet':
      return 'Not known: that is still to come';
  }
}

function Answer({ answer }: { answer: WhoHad }) {
  const isSure = answer.answer === 'held' || answer.answer === 'nobody';
  return (
    <>
      <header>
        <h2 class={isSure ? 'verdict' : 'verdict bad-text'}>{verdict(answer)}</h2>
      </header>
      <ol class="steps">
        {answer.holdings.map((held, index) => (
          <HeldRow key={index} held={held} />
        ))}
        {answer.gaps.map((gap, index) => (
          <GapRow key={index} gap={gap} />
        ))}
      </ol>
    </>
  );
}

function HeldRow({ held }: { held: Held }) {
  const first = held['first-port'];
  const ports = first === held['last-port'] ? `${first}` : `${first}–${held['last-port']}`;
  const inside = held.inside === null ? 'the whole branch' : withPort(held.inside, held['inside-port']);
  const ended = held['ended-unix-ms'];
  const unsure = held['ended-unsure'];
  const end = ended === null ? (unsure ? 'not known until when' : 'it lasts') : `${unsure ? 'until then at most: ' : 'until '}${utcMillis(ended)}`;
  return (
    <li class="fits">
      <b>{held.protocol ?? 'all protocols'}</b>
      <span>
        <code>{inside}</code> of {held.branch ? `${held.tenant}/${held.branch}` : held.tenant} by port {ports}
      </span>
      <span>
        {held['began-unsure'] ? 'at the earliest from ' : 'from '}
        {utcMillis(held['began-unix-ms'])}, {end}
      </span>
    </li>
  );
}

const CAUSES: Record<LedgerGap['cause'], string> = {
  stopped: 'popgate did not run, or kept no ledger',
  overrun: 'more came at once than there was room for on the way to the ledger',
  'not-written': 'the ledger could not be written',
  damaged: 'what was written cannot be read',
};

function GapRow({ gap }: { gap: LedgerGap }) {
  return (
    <li class="misfits">
      <b>not sure</b>
      <span>
        {CAUSES[gap.cause]}
        {gap.lost > 0 && `: ${gap.lost} beginnings and ends are missing`}
      </span>
      <span>
        {utcMillis(gap['from-unix-ms'])} to {utcMillis(gap['until-unix-ms'])}
      </span>
    </li>
  );
}
