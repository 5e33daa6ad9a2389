// Captures: a tenant's packets as they pass, into a file that Wireshark reads. What is asked for is checked by the box.

import { useState } from 'preact/hooks';
import { asProblem, download, get, isUnauthorized, send } from './api';
import { Field, Known, PROTOCOLS, Wrong } from './asking';
import { bytes, integer } from './format';
import { usePolled } from './polled';
import type { Route } from './route';
import { ActionsHead, Scroll } from './scroll';
import { Time } from './time';
import type { CaptureRow, Me, Problem } from './types';
import { NARROW, useWidth } from './width';

const REFRESH_MS = 1000;

interface Props {
  me: Me;
  route: Route;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

const FIELDS = ['tenant', 'address', 'port', 'protocol', 'packets', 'seconds', 'snap-length'] as const;
type Name = (typeof FIELDS)[number];

const HINTS: Record<Name, [string, string]> = {
  tenant: ['Tenant', 'acme'],
  address: ['Address or prefix', 'any'],
  port: ['Port', 'any'],
  protocol: ['Protocol', 'any'],
  packets: ['Packets', '1000'],
  seconds: ['Seconds', '60'],
  'snap-length': ['Bytes', '2048'],
};

const NUMBERS: readonly Name[] = ['port', 'packets', 'seconds', 'snap-length'];

export function Captures({ me, route, bearer, tenants, onUnauthorized }: Props) {
  const mayChange = me.role !== 'viewer';
  const isNarrow = useWidth() < NARROW;
  const [draft, setDraft] = useState<Partial<Record<Name, string>>>({});
  const [side, setSide] = useState<'inner' | 'outer'>('inner');
  const [captures, setCaptures] = useState<CaptureRow[]>();
  const [problem, setProblem] = useState<Problem>();
  const [again, setAgain] = useState(0);
  const refused = (error: unknown) => {
    if (isUnauthorized(error)) return onUnauthorized();
    setProblem(asProblem(error));
  };
  usePolled(
    REFRESH_MS,
    async (signal) => setCaptures((await get<{ captures: CaptureRow[] }>('captures', bearer, signal)).captures),
    { onUnauthorized, failed: refused },
    [bearer, again],
  );

  const value = (name: Name) => draft[name] ?? (name === 'tenant' ? (route.query.tenant ?? (tenants.length === 1 ? tenants[0]! : '')) : '');
  const act = async (what: () => Promise<unknown>) => {
    setProblem(undefined);
    try {
      await what();
    } catch (error) {
      refused(error);
    }
    setAgain(again + 1);
  };
  const begin = (event: Event) => {
    event.preventDefault();
    const given = FIELDS.map((name) => [name, value(name).trim()] as const).filter(([, text]) => text !== '');
    const wrong = given.find(([name, text]) => NUMBERS.includes(name) && !/^\d+$/.test(text));
    if (wrong) {
      const [name, text] = wrong;
      return setProblem({ title: 'Wrong', status: 400, detail: `${name}: "${text}" is not a number`, parameter: name });
    }
    const asked = Object.fromEntries(given.map(([name, text]) => [name, NUMBERS.includes(name) ? Number(text) : text]));
    void act(() => send('POST', 'captures', bearer, { tenant: '', ...asked, side }));
  };
  const save = (row: CaptureRow) => act(() => download(`captures/${row.capture}`, bearer, `${row.tenant}-${row.capture}.pcapng`));
  return (
    <main class="listing explain history" id="main">
      <h1 class="visually-hidden">Captures</h1>
      {mayChange ? (
        <form class="filter" aria-label="Packets to capture" onSubmit={begin}>
          <label class="field captured-side">
            <span>Side</span>
            <select value={side} onChange={(event) => setSide(event.currentTarget.value as 'inner' | 'outer')}>
              <option value="inner">inner: packets in the clear</option>
              <option value="outer">outer: datagrams of the tunnels</option>
            </select>
          </label>
          {FIELDS.map((name) => {
            const [title, placeholder] = HINTS[name];
            return (
              <Field
                key={name}
                name={`captured-${name}`}
                title={title}
                placeholder={placeholder}
                value={value(name)}
                onInput={(text) => setDraft({ ...draft, [name]: text })}
                problem={problem?.parameter === name ? problem : undefined}
                list={name === 'tenant' || name === 'protocol' ? `captured-${name}` : undefined}
                isMono={name === 'address'}
                isNumber={NUMBERS.includes(name)}
                isFirst={name === 'tenant'}
              />
            );
          })}
          <Known id="captured-tenant" names={tenants} />
          <Known id="captured-protocol" names={PROTOCOLS} />
          <button type="submit" class="primary">
            Capture
          </button>
        </form>
      ) : (
        <p class="hint unasked">A viewer sees which captures there are. An operator begins them, and has what is in them.</p>
      )}
      <Wrong problem={problem} />
      <div class="answer">
        <section class="panel moves" aria-label="Captures">
          <header>
            <h2>Captures</h2>
            {captures && <span class="count">{captures.length}</span>}
          </header>
          {captures?.length === 0 && (
            <p class="empty">
              {mayChange
                ? 'None. Say whose packets, and which of them: each is captured where it comes in and where it leaves, and the file is read by Wireshark.'
                : 'None.'}
            </p>
          )}
          {captures && captures.length > 0 && (
            <Scroll name="Captures as a table">
              <thead>
                <tr>
                  {!isNarrow && <th scope="col">Capture</th>}
                  <th scope="col">Tenant</th>
                  {!isNarrow && <th scope="col">Packets that</th>}
                  {!isNarrow && <th scope="col">Began</th>}
                  {!isNarrow && <th scope="col">State</th>}
                  <th scope="col" class="right">
                    Packets
                  </th>
                  {!isNarrow && (
                    <th scope="col" class="right">
                      Lost
                    </th>
                  )}
                  {mayChange && <ActionsHead />}
                </tr>
              </thead>
              <tbody>
                {captures.map((row) => (
                  <tr key={row.capture}>
                    {!isNarrow && <td>{row.capture}</td>}
                    <td>
                      {isNarrow ? (
                        <span class="stack">
                          <b>{row.tenant}</b>
                          <small>{describe(row)}</small>
                          <small>
                            <Time unixMs={row['began-unix-ms']} />
                          </small>
                        </span>
                      ) : (
                        row.tenant
                      )}
                    </td>
                    {!isNarrow && <td>{describe(row)}</td>}
                    {!isNarrow && (
                      <td>
                        <Time unixMs={row['began-unix-ms']} />
                      </td>
                    )}
                    {!isNarrow && <td>{stateOf(row)}</td>}
                    <td class="right">
                      {isNarrow ? (
                        <span class="stack">
                          {integer(row['captured-packets'])}
                          <small>{bytes(row['captured-bytes'])}</small>
                          <small>
                            {stateOf(row)}
                            {row['lost-packets'] > 0 && `, ${integer(row['lost-packets'])} lost`}
                          </small>
                        </span>
                      ) : (
                        `${integer(row['captured-packets'])}, ${bytes(row['captured-bytes'])}`
                      )}
                    </td>
                    {!isNarrow && <td class="right">{integer(row['lost-packets'])}</td>}
                    {mayChange && (
                      <td class={isNarrow ? 'right' : undefined}>
                        <button type="button" class="link" aria-label={`Download capture ${row.capture}`} onClick={() => void save(row)}>
                          Download
                        </button>{' '}
                        <button
                          type="button"
                          class="link"
                          aria-label={`${row['is-running'] ? 'End and delete' : 'Delete'} capture ${row.capture}`}
                          onClick={() => void act(() => send('DELETE', `captures/${row.capture}`, bearer))}
                        >
                          {row['is-running'] ? 'End and delete' : 'Delete'}
                        </button>
                      </td>
                    )}
                  </tr>
                ))}
              </tbody>
            </Scroll>
          )}
        </section>
      </div>
    </main>
  );
}

const stateOf = (row: CaptureRow): string => (row['is-running'] ? 'running' : 'over');

function describe(row: CaptureRow): string {
  const parts = [row.side, row.protocol, row.address, row.port === null ? null : `port ${row.port}`];
  return parts.filter((part) => part !== null).join(', ');
}
