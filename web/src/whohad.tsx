// Who had a public address and port, and when: the NAT ledger's answer, with what is missing in it. The question lives in the
// address, so a link shows a colleague the same answer.

import { Field, Known, PROTOCOLS, useQuestion, Wrong } from './asking';
import { utcMillis, withPort } from './format';
import type { Route } from './route';
import type { Held, LedgerGap, WhoHad } from './types';

interface Props {
  route: Route;
  bearer: string;
  onUnauthorized: () => void;
}

const FIELDS = ['address', 'port', 'protocol', 'at'] as const;
type Name = (typeof FIELDS)[number];
const NEEDED = ['address', 'port'] as const;

const HINTS: Record<Name, [string, string]> = {
  address: ['Public address', '198.51.100.7'],
  port: ['Port', '40112'],
  protocol: ['Protocol', 'all'],
  at: ['Time', '2026-11-22T10:00Z, or now'],
};

export function WhoHadView({ route, bearer, onUnauthorized }: Props) {
  const { answer, problem, value, type, ask } = useQuestion<Name, WhoHad>({ path: 'who-had', fields: FIELDS, needed: NEEDED, route, bearer, onUnauthorized });
  return (
    <main class="listing explain" id="main">
      <h1 class="visually-hidden">Who had</h1>
      <form class="filter" aria-label="Address and port to look up" onSubmit={ask}>
        {FIELDS.map((name) => {
          const [title, placeholder] = HINTS[name];
          return (
            <Field
              key={name}
              name={`looked-${name}`}
              title={title}
              placeholder={placeholder}
              value={value(name)}
              onInput={(text) => type(name, text)}
              problem={problem?.parameter === name ? problem : undefined}
              list={name === 'protocol' ? 'looked-protocol' : undefined}
              isMono={name === 'address' || name === 'at'}
              isNumber={name === 'port'}
              isFirst={name === 'address'}
            />
          );
        })}
        <Known id="looked-protocol" names={PROTOCOLS} />
        <button type="submit" class="primary">
          Look up
        </button>
      </form>
      <Wrong problem={problem} />
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
