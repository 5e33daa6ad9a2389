// Enrolments: codes that make a box a branch. 1 A box that has used a code waits to be approved, its keys' fingerprint compared with
// what it shows itself. 2 A code is made, and told once. 3 All of them, and what has become of each.

import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { asProblem, get, isUnauthorized, send } from './api';
import { Field, Known } from './asking';
import { Wrong } from './changes';
import { CheckIcon } from './icons';
import type { Live } from './live';
import { namesIn } from './names';
import { usePolled } from './polled';
import { href, type Route } from './route';
import { ActionsHead, Scroll } from './scroll';
import { Time } from './time';
import type { Approved, EnrolmentRow, EnrolmentState, Lan, MadeCode, Me, NewEnrolment, Problem } from './types';
import { NARROW, useWidth } from './width';

/** Whoever has just used a code stands at the box, and waits. */
const REFRESH_MS = 2000;

interface Props {
  me: Me;
  route: Route;
  live: Live;
  bearer: string;
  onUnauthorized: () => void;
}

type Act = (what: () => Promise<string>) => Promise<boolean>;

export function Enrolments({ me, route, live, bearer, onUnauthorized }: Props) {
  const mayChange = me.role !== 'viewer';
  const [rows, setRows] = useState<EnrolmentRow[]>();
  const [problem, setProblem] = useState<Problem>();
  const [done, setDone] = useState<string>();
  const [made, setMade] = useState<MadeCode & { site: string }>();
  const [again, setAgain] = useState(0);
  const refused = (error: unknown) => {
    if (isUnauthorized(error)) return onUnauthorized();
    setProblem(asProblem(error));
  };
  usePolled(
    REFRESH_MS,
    async (signal) => setRows((await get<{ enrolments: EnrolmentRow[] }>('enrolments', bearer, signal)).enrolments),
    { onUnauthorized, failed: refused },
    [bearer, again],
  );
  const act: Act = async (what) => {
    setProblem(undefined);
    setDone(undefined);
    let isDone = true;
    try {
      setDone(await what());
    } catch (error) {
      isDone = false;
      refused(error);
    }
    setAgain((again) => again + 1);
    return isDone;
  };
  const make = (asked: NewEnrolment) =>
    act(async () => {
      setMade(undefined);
      setMade({ ...(await send<MadeCode>('POST', 'enrolments', bearer, asked)), site: asked.site });
      return '';
    });
  const waiting = rows?.filter((row) => row.state === 'claimed') ?? [];
  // The same words stand in the way of a commit, which is where it can be got out of the way.
  const isInTheWay = problem?.status === 409 && /candidate|commit/.test(problem.detail);
  return (
    <main class="changes enrolments" id="main">
      <h1 class="visually-hidden">Enrolments</h1>
      {done && (
        <p class="done" role="status">
          {done}
        </p>
      )}
      {problem && problem.parameter === undefined && (
        <>
          <Wrong problem={problem} />
          {isInTheWay && (
            <p class="hint">
              Nothing was put in force. <a href={href('changes')}>Go to Changes</a>, then approve it again.
            </p>
          )}
        </>
      )}
      {waiting.length > 0 && (
        <section aria-labelledby="enrolments-waiting">
          <h2 id="enrolments-waiting">{waiting.length === 1 ? 'A box waits to be approved' : `${waiting.length} boxes wait to be approved`}</h2>
          <p class="hint">Compare the fingerprint with the one that the box shows. Another one is another box.</p>
          <ul class="waiting-boxes">
            {waiting.map((row) => (
              <WaitingBox key={row.id} row={row} mayChange={mayChange} bearer={bearer} act={act} />
            ))}
          </ul>
        </section>
      )}
      {made && <NewCode made={made} forget={() => setMade(undefined)} />}
      {mayChange && live.status?.role !== 'branch' && (
        <MakeCode me={me} route={route} bearer={bearer} problem={problem} refused={refused} make={make} />
      )}
      <section aria-labelledby="enrolments-all">
        <h2 id="enrolments-all">Enrolments</h2>
        {rows?.length === 0 && <p class="hint">{nothingYet(mayChange, live.status?.role)}</p>}
        {rows && rows.length > 0 && <AllOfThem rows={rows} mayChange={mayChange} bearer={bearer} act={act} />}
      </section>
    </main>
  );
}

function nothingYet(mayChange: boolean, role?: string): string {
  if (role === 'branch') return 'There are none: branches are enrolled at a PoP.';
  return mayChange ? 'There are none yet. A code makes a box that has nothing but the image one of your branches.' : 'There are none yet. An operator makes codes.';
}

interface RowProps {
  row: EnrolmentRow;
  mayChange: boolean;
  bearer: string;
  act: Act;
}

function WaitingBox({ row, mayChange, bearer, act }: RowProps) {
  const [asks, setAsks] = useState<'approve' | 'refuse'>();
  const claim = row.claim;
  if (!claim) return null;
  const facts = (
    <dl class="facts">
      <div>
        <dt>Fingerprint</dt>
        <dd>
          <code class="fingerprint">{claim.fingerprint}</code>
        </dd>
      </div>
      <div>
        <dt>From</dt>
        <dd class="mono">{claim.from}</dd>
      </div>
      <div>
        <dt>popgate</dt>
        <dd>{claim.version}</dd>
      </div>
      <div>
        <dt>Since</dt>
        <dd>
          <Time unixMs={claim['unix-ms']} full />
        </dd>
      </div>
      <div>
        <dt>Prefixes</dt>
        <dd class="mono">{row.prefixes.join(', ') || "those in the tenant's file"}</dd>
      </div>
      <div>
        <dt>Paths</dt>
        <dd class="mono">{pathsOf(row)}</dd>
      </div>
      <div>
        <dt>Its LAN</dt>
        <dd class="mono">{lanOf(row.lan)}</dd>
      </div>
    </dl>
  );
  const decide = (what: 'approve' | 'refuse') =>
    act(async () => {
      const answer = await send<Approved | undefined>('POST', `enrolments/${row.id}/${what}`, bearer);
      if (what === 'refuse') return `The box that wanted to be ${row.site} is refused. Make another code for the right one.`;
      return `${row.site} is approved${answer?.revision ? `, with revision ${answer.revision}` : ''}. It gets its configuration within seconds.`;
    });
  return (
    <li>
      <h3>
        {row.site} <span>of {row.tenant}</span>
      </h3>
      {facts}
      {mayChange && (
        <p class="buttons">
          <button type="button" class="primary" onClick={() => setAsks('approve')}>
            Approve<span class="visually-hidden"> {row.site}</span>
          </button>
          <button type="button" class="secondary" onClick={() => setAsks('refuse')}>
            Refuse<span class="visually-hidden"> {row.site}</span>
          </button>
        </p>
      )}
      {asks === 'approve' && (
        <Confirm title={`Approve ${row.site} of ${row.tenant}?`} verb="Approve" onYes={() => decide('approve')} onClose={() => setAsks(undefined)}>
          <p>Its keys come into force at once, and whoever has this box is in {row.tenant}'s network. The box shows this fingerprint:</p>
          <p>
            <code class="fingerprint large">{claim.fingerprint}</code>
          </p>
          <p class="hint">
            It calls from {claim.from}, with popgate {claim.version}.
          </p>
        </Confirm>
      )}
      {asks === 'refuse' && (
        <Confirm title={`Refuse the box that wants to be ${row.site}?`} verb="Refuse" onYes={() => decide('refuse')} onClose={() => setAsks(undefined)}>
          <p>The code has been used and is good for no other box: the right one gets another.</p>
        </Confirm>
      )}
    </li>
  );
}

const pathsOf = (row: EnrolmentRow): string => row.paths.map((path) => `${path.name} to ${path.endpoint}`).join(', ');

function lanOf({ addresses, dhcp, dns }: Lan): string {
  if (addresses.length === 0) return 'has its address already';
  return [addresses.join(', '), dhcp ? `DHCP ${dhcp}` : 'no DHCP', dns.length > 0 && `DNS ${dns.join(', ')}`].filter(Boolean).join(' · ');
}

interface ConfirmProps {
  title: string;
  verb: string;
  onYes: () => void;
  onClose: () => void;
  children: ComponentChildren;
}

/** Asks once more; whoever only presses Enter or Escape has done nothing. */
export function Confirm({ title, verb, onYes, onClose, children }: ConfirmProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const close = () => dialog.current?.close();
  return (
    <dialog
      class="help confirm"
      ref={dialog}
      aria-labelledby="confirm-title"
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && close()}
    >
      <div class="help-body">
        <h2 id="confirm-title">{title}</h2>
        {children}
        <p class="buttons">
          <button type="button" class="secondary" onClick={close}>
            Cancel
          </button>
          <button
            type="button"
            class="primary"
            onClick={() => {
              close();
              onYes();
            }}
          >
            {verb}
          </button>
        </p>
      </div>
    </dialog>
  );
}

function NewCode({ made, forget }: { made: MadeCode & { site: string }; forget: () => void }) {
  const [copied, setCopied] = useState<boolean>();
  const shown = useRef<HTMLElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  // It is above what was filled in, which may be a phone's whole screen.
  useEffect(() => heading.current?.focus(), [made.code]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(made.code);
      setCopied(true);
    } catch {
      // No clipboard without HTTPS: it is marked, so that the browser's own key copies it.
      if (shown.current) getSelection()?.selectAllChildren(shown.current);
      setCopied(false);
    }
  };
  const file = `data:application/octet-stream,${encodeURIComponent(`${made.code}\n`)}`;
  return (
    <section class="new-code" aria-labelledby="enrolments-code">
      <h2 id="enrolments-code" ref={heading} tabIndex={-1}>
        The code for {made.site}, told this once
      </h2>
      <p>
        <code class="secret" ref={shown}>
          {made.code}
        </code>
      </p>
      <p class="buttons">
        <button type="button" class="primary" onClick={() => void copy()}>
          {copied && <CheckIcon />}
          {copied ? 'Copied' : 'Copy'}
        </button>
        <a class="secondary" href={file} download="enrol-code">
          Save as enrol-code
        </a>
        <button type="button" class="secondary" onClick={forget}>
          I have it
        </button>
        <span class="hint" role="status">
          {copied === false && "It is marked: copy it with your browser's own key."}
        </span>
      </p>
      <p class="hint">
        On its LAN: <span class="mono">{lanOf(made.lan)}</span>
      </p>
      <ul class="how">
        <li>
          A box from the image: put the code into a file <code>enrol-code</code> on a stick whose file system is called <code>POPGATE</code>, and put the
          stick in.
        </li>
        <li>
          At a shell: <code>popgate enrol</code> and the code.
        </li>
        <li>
          It is good for one box until <Time unixMs={made['expires-unix-ms']} full />. Once it is used, the box waits here for you.
        </li>
      </ul>
    </section>
  );
}

/** A path as it is typed. */
interface PathDraft {
  name: string;
  transport: string;
  endpoint: string;
}

const HOUR = 3600;
const LASTS: [number, string][] = [
  [HOUR, '1 hour'],
  [24 * HOUR, '1 day'],
  [7 * 24 * HOUR, '7 days'],
  [30 * 24 * HOUR, '30 days'],
];

interface MakeProps {
  me: Me;
  route: Route;
  bearer: string;
  problem?: Problem;
  refused: (error: unknown) => void;
  make: (asked: NewEnrolment) => Promise<boolean>;
}

/** What the box knows is filled in: as a rule a site, a tenant and a prefix are enough. */
function MakeCode({ me, route, bearer, problem, refused, make }: MakeProps) {
  const [texts, setTexts] = useState<Record<string, string>>();
  const [site, setSite] = useState('');
  const [chosen, setTenant] = useState(route.query.tenant);
  const [prefixes, setPrefixes] = useState('');
  const [lasts, setLasts] = useState(24 * HOUR);
  const [paths, setPaths] = useState<PathDraft[]>([]);
  const [lan, setLan] = useState({ addresses: '', dhcp: '', dns: '' });
  const [admin, setAdmin] = useState('');
  useEffect(() => {
    const controller = new AbortController();
    get<{ texts: Record<string, string> }>('config/texts', bearer, controller.signal)
      .then(({ texts }) => setTexts(texts))
      .catch((error: unknown) => controller.signal.aborted || refused(error));
    return () => controller.abort();
  }, [bearer]);
  const tenants = Object.keys(texts ?? {}).flatMap((file) => /^tenants\/(.+)\.toml$/.exec(file)?.[1] ?? []);
  const tenant = me.tenant ?? (chosen !== undefined && tenants.includes(chosen) ? chosen : (tenants[0] ?? ''));
  const branches = namesIn(texts?.[`tenants/${tenant}.toml`] ?? '').branch ?? [];
  const transports = namesIn(texts?.['popgate.toml'] ?? '').transport ?? [];
  const isKnown = branches.includes(site.trim());
  // Who a tenant's branches are, and what prefixes they have, is said by whoever runs the box.
  const mayAdd = !me.tenant;
  const at = (name: string) => (problem?.parameter === name ? problem : undefined);
  const isShut = !['paths', 'lan', 'admin'].some(at);
  const submit = async (event: Event) => {
    event.preventDefault();
    const asked: NewEnrolment = {
      site: site.trim(),
      tenant,
      prefixes: isKnown ? [] : listed(prefixes),
      paths: paths
        .filter((path) => path.name.trim() !== '')
        .map((path) => ({ name: path.name.trim(), transport: path.transport || null, endpoint: path.endpoint.trim() || null })),
      lan: {
        addresses: lan.addresses.trim() === '' ? null : listed(lan.addresses).filter((it) => it !== 'none'),
        dhcp: lan.dhcp.trim() || null,
        dns: listed(lan.dns),
      },
      admin: listed(admin),
      'expires-in-secs': lasts,
    };
    if (!(await make(asked))) return;
    setSite('');
    setPrefixes('');
    setPaths([]);
    setLan({ addresses: '', dhcp: '', dns: '' });
  };
  const change = (index: number, to: Partial<PathDraft>) => setPaths(paths.map((path, at) => (at === index ? { ...path, ...to } : path)));
  return (
    <section aria-labelledby="enrolments-new">
      <h2 id="enrolments-new">A code for a branch</h2>
      <form class="make-code" aria-label="Code" onSubmit={(event) => void submit(event)}>
        <div class="fields">
          <Field name="enrolled-site" title="Site" placeholder="lyon" value={site} list="enrolled-known" isFirst onInput={setSite} problem={at('site')} />
          <Known id="enrolled-known" names={branches} />
          {!me.tenant && (
            <label class="field">
              <span>Tenant</span>
              <select value={tenant} onChange={(event) => setTenant(event.currentTarget.value)}>
                {tenants.map((name) => (
                  <option key={name} value={name}>
                    {name}
                  </option>
                ))}
              </select>
            </label>
          )}
          {!isKnown && mayAdd && (
            <Field
              name="enrolled-prefixes"
              title="Prefixes"
              placeholder="10.20.0.0/16"
              value={prefixes}
              onInput={setPrefixes}
              problem={at('prefixes')}
              isMono
            />
          )}
          <label class="field">
            <span>Good for</span>
            <select value={lasts} onChange={(event) => setLasts(Number(event.currentTarget.value))}>
              {LASTS.map(([secs, title]) => (
                <option key={secs} value={secs}>
                  {title}
                </option>
              ))}
            </select>
          </label>
          <button type="submit" class="primary" disabled={!site.trim() || !tenant || (!isKnown && (!mayAdd || !prefixes.trim()))}>
            Make the code
          </button>
        </div>
        {isKnown && (
          <p class="hint">
            {site.trim()} is in {tenant}'s file already: its prefixes and paths are those, and its keys will be the box's.
          </p>
        )}
        {!isKnown && !mayAdd && (
          <p class="hint">
            {branches.length > 0 ? `Your branches: ${branches.join(', ')}.` : 'You have no branches yet.'} Whoever runs the box puts others into your file.
          </p>
        )}
        <details open={isShut ? undefined : true}>
          <summary>Its LAN, its paths, and where this box is found</summary>
          <div class="fields" role="group" aria-label="Its LAN">
            <Field
              name="lan-addresses"
              title="LAN address"
              placeholder="the first, or none"
              value={lan.addresses}
              onInput={(addresses) => setLan({ ...lan, addresses })}
              isMono
            />
            <Field
              name="lan-dhcp"
              title="DHCP"
              placeholder="half of it, or none"
              value={lan.dhcp}
              onInput={(dhcp) => setLan({ ...lan, dhcp })}
              isMono
            />
            <Field name="lan-dns" title="Resolvers" placeholder="none" value={lan.dns} onInput={(dns) => setLan({ ...lan, dns })} isMono />
          </div>
          {at('lan') && <Told problem={at('lan')!} />}
          <p class="hint">
            {isKnown
              ? "Unless you name some, it has the paths in the tenant's file."
              : `Unless you name some, it has a path to each transport that can be dialled${transports.length > 0 ? ` (${transports.join(', ')})` : ''}.`}
          </p>
          {at('paths') && <Told problem={at('paths')!} />}
          {paths.map((path, index) => (
            <div class="fields" role="group" aria-label={`Path ${index + 1}`} key={index}>
              <Field name={`path-name-${index}`} title="Path" placeholder="dsl" value={path.name} onInput={(name) => change(index, { name })} />
              <label class="field">
                <span>Transport</span>
                <select value={path.transport} onChange={(event) => change(index, { transport: event.currentTarget.value })}>
                  <option value="">the first</option>
                  {transports.map((name) => (
                    <option key={name} value={name}>
                      {name}
                    </option>
                  ))}
                </select>
              </label>
              <Field
                name={`dialled path-endpoint-${index}`}
                title="Dialled at"
                placeholder="where it listens"
                value={path.endpoint}
                onInput={(endpoint) => change(index, { endpoint })}
                isMono
              />
              <button type="button" class="link" onClick={() => setPaths(paths.filter((_, at) => at !== index))}>
                Leave it out<span class="visually-hidden">: path {index + 1}</span>
              </button>
            </div>
          ))}
          <p class="buttons">
            <button type="button" class="secondary" onClick={() => setPaths([...paths, { name: '', transport: '', endpoint: '' }])}>
              Name a path
            </button>
          </p>
          <div class="fields">
            <Field
              name="enrolled-admin"
              title="This box is found at"
              placeholder="where it listens"
              value={admin}
              onInput={setAdmin}
              problem={at('admin')}
              isMono
            />
          </div>
        </details>
      </form>
    </section>
  );
}

/** What is wrong with what several fields say. */
const Told = ({ problem }: { problem: Problem }) => (
  <p class="told" role="alert">
    {problem.detail.replace(/^[\w-]+: /, '')}
  </p>
);

/** What is typed with commas or spaces between. */
const listed = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);

const STATES: Record<EnrolmentState, string> = {
  open: 'open',
  claimed: 'waits to be approved',
  approved: 'approved, fetches its configuration',
  finished: 'finished',
  refused: 'refused',
  expired: 'expired',
  revoked: 'revoked',
};

const REVOCABLE: readonly EnrolmentState[] = ['open', 'claimed', 'approved'];

function AllOfThem({ rows, mayChange, bearer, act }: { rows: EnrolmentRow[]; mayChange: boolean; bearer: string; act: Act }) {
  const isNarrow = useWidth() < NARROW;
  const [asks, setAsks] = useState<EnrolmentRow>();
  const revoke = (row: EnrolmentRow) =>
    act(async () => {
      await send('DELETE', `enrolments/${row.id}`, bearer);
      return `The code for ${row.site} is worthless now.`;
    });
  return (
    <>
      <Scroll name="All enrolments, the newest first">
        <thead>
          <tr>
            <th>Site</th>
            {!isNarrow && <th>Tenant</th>}
            <th>State</th>
            {!isNarrow && <th>Made</th>}
            {!isNarrow && <th>Box</th>}
            {!isNarrow && <th>Decided</th>}
            {mayChange && <ActionsHead />}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.id}>
              <td>
                <span class="stack">
                  <b>{row.site}</b>
                  {isNarrow && <small>{row.tenant}</small>}
                  {!isNarrow && row.prefixes.length > 0 && <small class="mono">{row.prefixes.join(', ')}</small>}
                </span>
              </td>
              {!isNarrow && <td>{row.tenant}</td>}
              <td>
                <span class="stack">
                  <span class={`enrolment-state ${row.state}`}>{STATES[row.state]}</span>
                  {row.state === 'open' && (
                    <small>
                      until <Time unixMs={row['expires-unix-ms']} full />
                    </small>
                  )}
                  {row.revision !== null && <small>with revision {row.revision}</small>}
                </span>
              </td>
              {!isNarrow && (
                <td>
                  <span class="stack">
                    {row.maker}
                    <small>
                      <Time unixMs={row['created-unix-ms']} full />
                    </small>
                  </span>
                </td>
              )}
              {!isNarrow && (
                <td>
                  {row.claim ? (
                    <span class="stack">
                      <code class="fingerprint">{row.claim.fingerprint}</code>
                      <small>
                        {row.claim.from}, popgate {row.claim.version}
                      </small>
                    </span>
                  ) : (
                    '–'
                  )}
                </td>
              )}
              {!isNarrow && (
                <td>
                  {row.decider ? (
                    <span class="stack">
                      {row.decider}
                      <small>{row['decided-unix-ms'] && <Time unixMs={row['decided-unix-ms']} full />}</small>
                    </span>
                  ) : (
                    '–'
                  )}
                </td>
              )}
              {mayChange && (
                <td>
                  {REVOCABLE.includes(row.state) && (
                    <button type="button" class="link" onClick={() => setAsks(row)}>
                      Revoke
                      <span class="visually-hidden">
                        {' '}
                        enrolment {row.id}, {row.site}
                      </span>
                    </button>
                  )}
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </Scroll>
      {asks && (
        <Confirm title={`Revoke the code for ${asks.site}?`} verb="Revoke" onYes={() => revoke(asks)} onClose={() => setAsks(undefined)}>
          <p>No box can use it any more. Keys that are in force stay; the tenant's file has them.</p>
        </Confirm>
      )}
    </>
  );
}
