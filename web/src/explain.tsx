// Why: a flow is asked about, and every step of the decision comes with the line it is written at. The question lives in the
// address, so a link shows a colleague the same answer. It may be asked of a candidate, which is not in force yet.

import { Field, Known, PROTOCOLS, useQuestion, Wrong } from './asking';
import { scopeOf } from './editor';
import { href, type Route } from './route';
import type { Explanation, PathStep, Step } from './types';

interface Props {
  route: Route;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

const FIELDS = ['tenant', 'from', 'to', 'protocol', 'dscp', 'sni', 'of'] as const;
type Name = (typeof FIELDS)[number];
const NEEDED = ['tenant', 'from', 'to'] as const;

const HINTS: Record<Name, [string, string]> = {
  tenant: ['Tenant', 'acme'],
  from: ['From', '10.1.0.5'],
  to: ['To', '203.0.113.80:443'],
  protocol: ['Protocol', 'tcp'],
  dscp: ['DSCP', '0'],
  sni: ['Server name', 'teams.microsoft.com'],
  of: ['Configuration', 'in-force'],
};

export function Explain({ route, bearer, tenants, onUnauthorized }: Props) {
  const { answer, problem, value, type, ask } = useQuestion<Name, Explanation>({ path: 'explain', fields: FIELDS, needed: NEEDED, route, bearer, onUnauthorized });
  return (
    <main class="listing explain" id="main">
      <h1 class="visually-hidden">Explain</h1>
      <form class="filter" aria-label="Flow to explain" onSubmit={ask}>
        {FIELDS.map((name) => {
          const [title, placeholder] = HINTS[name];
          return (
            <Field
              key={name}
              name={`asked-${name}`}
              title={title}
              placeholder={placeholder}
              value={value(name)}
              onInput={(text) => type(name, text)}
              problem={problem?.parameter === name ? problem : undefined}
              list={name === 'tenant' || name === 'protocol' || name === 'of' ? `asked-${name}` : undefined}
              isMono={name === 'from' || name === 'to'}
              isFirst={name === 'tenant'}
            />
          );
        })}
        <Known id="asked-tenant" names={tenants} />
        <Known id="asked-protocol" names={PROTOCOLS} />
        <Known id="asked-of" names={['in-force', 'candidates', 'files', ...tenants.map((tenant) => `tenant:${tenant}`)]} />
        <button type="submit" class="primary">
          Explain
        </button>
      </form>
      <Wrong problem={problem} />
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
      {step.at && <PolicyLine at={step.at} />}
    </li>
  );
}

/** `tenants/acme.toml:12`, leading there. */
function PolicyLine({ at }: { at: string }) {
  const [, file = '', line] = /^(.+):(\d+)$/.exec(at) ?? [];
  const edit = scopeOf(file);
  return <code>{edit ? <a href={href('changes', { edit, line })}>{at}</a> : at}</code>;
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
