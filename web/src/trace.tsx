// What became of one flow: where it went, what happened to it in order, and apart from that what would become of it now. The
// question lives in the address, so a link shows a colleague the same answer.

import { Field, Known, PROTOCOLS, useQuestion, Wrong } from './asking';
import { Explained } from './explain';
import { bytes, integer, utcMillis, withPort } from './format';
import { href, type Route } from './route';
import type { Trace, TracedSession } from './types';

interface Props {
  route: Route;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

const FIELDS = ['tenant', 'from', 'to', 'protocol', 'at'] as const;
type Name = (typeof FIELDS)[number];
const NEEDED = ['tenant', 'from', 'to'] as const;

const HINTS: Record<Name, [string, string]> = {
  tenant: ['Tenant', 'acme'],
  from: ['One end', '10.1.0.5:51000'],
  to: ['Other end', '203.0.113.9:443'],
  protocol: ['Protocol', 'any'],
  at: ['Time', 'now, -5m or 2026-11-22T10:00Z'],
};

/** The link to what became of a flow: of its ends before translation, at a time if it is not about now. */
export function traceOf(flow: {
  tenant: string;
  protocol: string;
  source: string;
  'source-port': number;
  destination: string;
  'destination-port': number;
  at?: number;
}): string {
  const { tenant, protocol, at } = flow;
  const from = withPort(flow.source, flow['source-port']);
  const to = withPort(flow.destination, flow['destination-port']);
  return href('trace', { tenant, from, to, protocol, at: at === undefined ? undefined : utcMillis(at) });
}

export function TraceView({ route, bearer, tenants, onUnauthorized }: Props) {
  const { answer, problem, value, type, ask } = useQuestion<Name, Trace>({ path: 'flows/trace', fields: FIELDS, needed: NEEDED, route, bearer, onUnauthorized });
  return (
    <main class="listing explain trace" id="main">
      <h1 class="visually-hidden">Trace</h1>
      <form class="filter" aria-label="Flow to trace" onSubmit={ask}>
        {FIELDS.map((name) => {
          const [title, placeholder] = HINTS[name];
          return (
            <Field
              key={name}
              name={`traced-${name}`}
              title={title}
              placeholder={placeholder}
              value={value(name)}
              onInput={(text) => type(name, text)}
              problem={problem?.parameter === name ? problem : undefined}
              list={name === 'tenant' || name === 'protocol' ? `traced-${name}` : undefined}
              isMono={name === 'from' || name === 'to' || name === 'at'}
              isFirst={name === 'from'}
            />
          );
        })}
        <Known id="traced-tenant" names={tenants} />
        <Known id="traced-protocol" names={PROTOCOLS} />
        <button type="submit" class="primary">
          Trace
        </button>
      </form>
      <Wrong problem={problem} />
      <div class="answers" tabIndex={0} role="region" aria-live="polite" aria-label="Answers">
        {answer ? <Told answer={answer} /> : <p class="empty">Say whose flow it is and its two ends with their ports, before translation or after: what became of it.</p>}
      </div>
    </main>
  );
}

function Told({ answer }: { answer: Trace }) {
  const { sessions, known } = answer;
  const since = known['since-unix-ms'];
  const at = `${utcMillis(answer['from-unix-ms'])}`;
  const place = [answer.site, answer.metro && `metro ${answer.metro}`, answer.facility && `facility ${answer.facility}`];
  return (
    <>
      {!answer['was-there'] && (
        <p class="banner warn" role="status">
          {sessions.length === 0 ? `Nothing is known of it, at ${at} nor before or after.` : `It was not there at ${at}; this is the nearest that is known.`}
        </p>
      )}
      {sessions.map((session) => (
        <Session key={session.session} session={session} place={place.filter(Boolean).join(', ')} tenant={answer.tenant} />
      ))}
      <p class="known">
        Known from live sessions and {known['has-history'] ? 'the flow history' : 'the last records in memory, for this box keeps no flow history'}
        {since === null ? '' : `, which begins at ${utcMillis(since)}`}.{known.problem && ` The history does not tell all: ${known.problem}.`}
      </p>
      {answer.now && (
        <section class="panel answer" aria-label="What would become of it now">
          <p class="about">What would become of it now, by generation {answer.now.generation}</p>
          <Explained answer={answer.now.explanation} />
        </section>
      )}
    </>
  );
}

function state({ denied, ...session }: TracedSession): [string, boolean] {
  const reason = session['end-reason'];
  if (denied) return [`Denied by ${[denied.reason, denied.detail].filter(Boolean).join(' ')}, generation ${session.generation}`, true];
  if (session['ended-unix-ms'] === null) return ['Lasts', false];
  return [reason === null ? 'Its end is not known' : `Ended: ${reason}`, false];
}

function Session({ session, place, tenant }: { session: TracedSession; place: string; tenant: string }) {
  const [verdict, isBad] = state(session);
  const translated = (address: string | null, port: number | null) => address && withPort(address, port);
  const nat = [translated(session['nat-source'], session['nat-source-port']), translated(session['nat-destination'], session['nat-destination-port'])];
  const dropped = session.drops.reduce((sum, { packets }) => sum + packets, 0);
  const facts: [string, string][] = [
    ['Where', `${tenant}, ${session.from} to ${session.to}, at ${place}`],
    ['Translated to', nat.filter(Boolean).join(', ') || 'not translated'],
    ['Class', `${session.class}, told by ${session['class-by']}`],
    ['App, name', `${session.app ?? 'not known'}, ${session.name ?? 'not known'}`],
    ['Rule', `${session.rule}, generation ${session.generation}`],
    ['Path', `forward ${session['forward-path'] ?? '–'}, reverse ${session['reverse-path'] ?? '–'}`],
    ['Forward', `${bytes(session['forward-bytes'])}, ${integer(session['forward-packets'])} packets`],
    ['Reverse', `${bytes(session['reverse-bytes'])}, ${integer(session['reverse-packets'])} packets`],
    ['Dropped', dropped === 1 ? '1 packet' : `${integer(dropped)} packets`],
  ];
  return (
    <section class="panel answer" aria-label={`Session ${session.session}`}>
      <header>
        <h2 class={isBad ? 'verdict bad-text' : 'verdict'}>{verdict}</h2>
        <code>
          {session.protocol} {withPort(session.source, session['source-port'])} → {withPort(session.destination, session['destination-port'])}
        </code>
      </header>
      <dl class="facts">
        {facts.map(([name, fact]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{fact}</dd>
          </div>
        ))}
      </dl>
      <ol class="steps happened" aria-label="What happened, in order">
        {session.events.map((event, index) => (
          <li key={index} class={event.what === 'denied' || event.what === 'dropped' ? 'misfits' : 'fits'}>
            <b>{event.what}</b>
            <span>{event.text}</span>
            <time dateTime={utcMillis(event['unix-ms'])}>{utcMillis(event['unix-ms'])}</time>
          </li>
        ))}
      </ol>
    </section>
  );
}
