// Captures: a tenant's packets as they pass, into a file that Wireshark reads. What is asked for is checked by the box.

import { useEffect, useState } from 'preact/hooks';
import { get, isUnauthorized, open, Refused, send } from './api';
import { bytes, integer } from './format';
import type { Route } from './route';
import { Time } from './time';
import type { CaptureRow, Problem } from './types';

const REFRESH_MS = 1000;

interface Props {
  route: Route;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

const FIELDS = ['tenant', 'address', 'port', 'protocol', 'packets', 'seconds', 'snap-length'] as const;
type Field = (typeof FIELDS)[number];

const HINTS: Record<Field, [string, string]> = {
  tenant: ['Tenant', 'acme'],
  address: ['Address or prefix', 'any'],
  port: ['Port', 'any'],
  protocol: ['Protocol', 'any'],
  packets: ['Packets', '1000'],
  seconds: ['Seconds', '60'],
  'snap-length': ['Bytes', '2048'],
};

const NUMBERS: readonly Field[] = ['port', 'packets', 'seconds', 'snap-length'];

const asProblem = (error: unknown): Problem =>
  error instanceof Refused
    ? error.problem
    : { title: 'Unreachable', status: 0, detail: error instanceof Error ? error.message : String(error) };

export function Captures({ route, bearer, tenants, onUnauthorized }: Props) {
  const [draft, setDraft] = useState<Partial<Record<Field, string>>>({});
  const [side, setSide] = useState<'inner' | 'outer'>('inner');
  const [captures, setCaptures] = useState<CaptureRow[]>();
  const [problem, setProblem] = useState<Problem>();
  const [again, setAgain] = useState(0);
  const refused = (error: unknown) => {
    if (isUnauthorized(error)) return onUnauthorized();
    setProblem(asProblem(error));
  };
  useEffect(() => {
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const ask = async () => {
      if (!document.hidden) {
        try {
          setCaptures((await get<{ captures: CaptureRow[] }>('captures', bearer, controller.signal)).captures);
        } catch (error) {
          if (controller.signal.aborted) return;
          refused(error);
        }
      }
      timer = setTimeout(ask, REFRESH_MS);
    };
    void ask();
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [bearer, again]);

  const value = (name: Field) => draft[name] ?? (name === 'tenant' ? (route.query.tenant ?? (tenants.length === 1 ? tenants[0]! : '')) : '');
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
  const download = (row: CaptureRow) =>
    act(async () => {
      const file = await open(`captures/${row.capture}`, bearer);
      const link = document.createElement('a');
      link.href = URL.createObjectURL(await file.blob());
      link.download = `${row.tenant}-${row.capture}.pcapng`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  return (
    <main class="listing explain history" id="main">
      <h1 class="visually-hidden">Captures</h1>
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
          const wrong = problem?.parameter === name ? problem : undefined;
          return (
            <label key={name} class={`field captured-${name}${wrong ? ' bad' : ''}`}>
              <span>{title}</span>
              <input
                type="text"
                data-filter={name === 'tenant' ? true : undefined}
                class={name === 'address' ? 'mono' : undefined}
                inputMode={NUMBERS.includes(name) ? 'numeric' : undefined}
                list={name === 'tenant' ? 'captured-tenant' : name === 'protocol' ? 'captured-protocol' : undefined}
                placeholder={placeholder}
                autocomplete="off"
                autocapitalize="off"
                spellcheck={false}
                value={value(name)}
                aria-invalid={wrong ? true : undefined}
                aria-describedby={wrong ? `captured-${name}-problem` : undefined}
                onInput={(event) => setDraft({ ...draft, [name]: event.currentTarget.value })}
              />
              {wrong && (
                <em id={`captured-${name}-problem`} role="alert">
                  {wrong.detail.replace(/^[\w-]+: /, '')}
                </em>
              )}
            </label>
          );
        })}
        <datalist id="captured-tenant">
          {tenants.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <datalist id="captured-protocol">
          {['tcp', 'udp', 'icmp', 'icmpv6'].map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <button type="submit" class="primary">
          Capture
        </button>
      </form>
      {problem && problem.parameter === undefined && (
        <p class="banner warn" role="alert">
          {problem.detail}
        </p>
      )}
      <div class="answer">
        <section class="panel moves" aria-label="Captures">
          <header>
            <h2>Captures</h2>
            {captures && <span class="count">{captures.length}</span>}
          </header>
          {captures?.length === 0 && (
            <p class="empty">
              None. Say whose packets, and which of them: each is captured where it comes in and where it leaves, and the file is read by Wireshark.
            </p>
          )}
          {captures && captures.length > 0 && (
            <table>
              <thead>
                <tr>
                  <th scope="col">Capture</th>
                  <th scope="col">Tenant</th>
                  <th scope="col">Packets that</th>
                  <th scope="col">Began</th>
                  <th scope="col">State</th>
                  <th scope="col" class="right">
                    Packets
                  </th>
                  <th scope="col" class="right">
                    Lost
                  </th>
                  <th scope="col">
                    <span class="visually-hidden">What to do with it</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {captures.map((row) => (
                  <tr key={row.capture}>
                    <td>{row.capture}</td>
                    <td>{row.tenant}</td>
                    <td>{describe(row)}</td>
                    <td>
                      <Time unixMs={row['began-unix-ms']} />
                    </td>
                    <td>{row['is-running'] ? 'running' : 'over'}</td>
                    <td class="right">
                      {integer(row['captured-packets'])}, {bytes(row['captured-bytes'])}
                    </td>
                    <td class="right">{integer(row['lost-packets'])}</td>
                    <td>
                      <button type="button" class="link" aria-label={`Download capture ${row.capture}`} onClick={() => void download(row)}>
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
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </section>
      </div>
    </main>
  );
}

function describe(row: CaptureRow): string {
  const parts = [row.side, row.protocol, row.address, row.port === null ? null : `port ${row.port}`];
  return parts.filter((part) => part !== null).join(', ');
}
