// NAT pools: how much of each is used, which blocks of ports branches have, and from there who had a port.

import { Fragment } from 'preact';
import { useState } from 'preact/hooks';
import { asProblem, get } from './api';
import { TenantFilter } from './asking';
import { integer, percent } from './format';
import { usePolled } from './polled';
import { href, type Route } from './route';
import { ActionsHead, Scroll } from './scroll';
import type { NatAnswer, NatBlock, NatPool, SessionPage, SessionReport } from './types';

const REFRESH_MS = 2000;

/** More blocks than these nobody reads; a tenant's are fewer. */
const SHOWN = 500;

interface Props {
  route: Route;
  bearer: string;
  tenants: string[];
  onUnauthorized: () => void;
}

export function NatView({ route, bearer, tenants, onUnauthorized }: Props) {
  const tenant = route.query.tenant ?? '';
  const [answer, setAnswer] = useState<NatAnswer>();
  const [problem, setProblem] = useState<string>();
  usePolled(
    REFRESH_MS,
    async (signal) => {
      const query = tenant && `?${new URLSearchParams({ tenant })}`;
      setAnswer(await get<NatAnswer>(`nat${query}`, bearer, signal));
      setProblem(undefined);
    },
    { onUnauthorized, failed: (error) => setProblem(asProblem(error).detail) },
    [tenant, bearer],
  );
  return (
    <main class="listing explain history" id="main">
      <h1 class="visually-hidden">NAT</h1>
      <TenantFilter of="pools" tenant={tenant} tenants={tenants} />
      {problem && (
        <p class="banner warn" role="alert">
          {problem}. It is asked again every two seconds.
        </p>
      )}
      <div class="answer">
        {answer && <Pools pools={answer.pools} />}
        {answer && <Blocks answer={answer} bearer={bearer} onUnauthorized={onUnauthorized} />}
      </div>
    </main>
  );
}

/** Of the protocol that has taken most: a pool is exhausted for each by itself. */
const used = (pool: NatPool): number => Math.max(pool['tcp-bindings'], pool['udp-bindings'], pool['icmp-bindings']);
const share = (part: number, pool: NatPool): number | null => (pool.ports === 0 ? null : part / pool.ports);

function Pools({ pools }: { pools: NatPool[] }) {
  return (
    <section class="panel moves" aria-label="Pools">
      <header>
        <h2>Pools</h2>
        <span class="count">{pools.length}</span>
      </header>
      {pools.length === 0 ? (
        <p class="empty">No handoff here translates addresses: a pool is a `nat-pool` of an internet handoff.</p>
      ) : (
        <Scroll name="Pools as a table">
          <thead>
            <tr>
              <th scope="col">Tenant</th>
              <th scope="col">Handoff</th>
              <th scope="col">Addresses</th>
              <th scope="col">Ports of each</th>
              <th scope="col" class="right">
                Used
              </th>
              <th scope="col" class="right">
                Free
              </th>
              <th scope="col" class="right">
                TCP
              </th>
              <th scope="col" class="right">
                UDP
              </th>
              <th scope="col" class="right">
                ICMP
              </th>
              <th scope="col" class="right">
                Given to branches and workers
              </th>
            </tr>
          </thead>
          <tbody>
            {pools.map((pool) => (
              <tr key={`${pool.tenant} ${pool.handoff}`}>
                <td>
                  <a href={href('sessions', { tenant: pool.tenant })}>{pool.tenant}</a>
                </td>
                <td>{pool.handoff}</td>
                <td class="mono">{pool.prefixes.join(', ')}</td>
                <td>
                  {pool['first-port']}–{pool['last-port']}
                  {pool['block-ports'] !== null && `, in blocks of ${pool['block-ports']}`}
                </td>
                <td class="right">
                  <meter
                    min={0}
                    max={pool.ports}
                    low={pool.ports * 0.8}
                    high={pool.ports * 0.95}
                    optimum={0}
                    value={used(pool)}
                    aria-label={`Used of the pool of ${pool.tenant}, ${pool.handoff}`}
                  />{' '}
                  {percent(share(used(pool), pool))}
                </td>
                <td class="right">{integer(pool.ports - used(pool))}</td>
                <td class="right">{integer(pool['tcp-bindings'])}</td>
                <td class="right">{integer(pool['udp-bindings'])}</td>
                <td class="right">{integer(pool['icmp-bindings'])}</td>
                <td class="right">
                  {integer(pool['leased-ports'])}, {percent(share(pool['leased-ports'], pool))}
                </td>
              </tr>
            ))}
          </tbody>
        </Scroll>
      )}
    </section>
  );
}

function Blocks({ answer, bearer, onUnauthorized }: { answer: NatAnswer; bearer: string; onUnauthorized: () => void }) {
  const { blocks, pools } = answer;
  const [opened, setOpened] = useState<string>();
  if (blocks.length === 0 && pools.every((pool) => pool['block-ports'] === null)) return null;
  const shown = blocks.slice(0, SHOWN);
  return (
    <section class="panel moves" aria-label="Blocks">
      <header>
        <h2>Blocks of branches</h2>
        <span class="count">{integer(blocks.length)}</span>
      </header>
      {blocks.length === 0 ? (
        <p class="empty">No branch has any ports at present.</p>
      ) : (
        <Scroll name="Blocks as a table">
          <thead>
            <tr>
              <th scope="col">Tenant</th>
              <th scope="col">Handoff</th>
              <th scope="col">Branch</th>
              <th scope="col">Address</th>
              <th scope="col">Ports</th>
              <ActionsHead />
            </tr>
          </thead>
          <tbody>
            {shown.map((block) => {
              const key = `${block.address} ${block['first-port']}`;
              const isOpen = opened === key;
              return (
                <Fragment key={key}>
                  <tr>
                    <td>{block.tenant}</td>
                    <td>{block.handoff}</td>
                    <td>{block.branch ?? 'none'}</td>
                    <td class="mono">{block.address}</td>
                    <td>
                      {block['first-port']}–{block['last-port']}
                    </td>
                    <td>
                      <button
                        type="button"
                        class="link"
                        aria-expanded={isOpen}
                        aria-label={`Hosts that hold ports of ${block.address}, ${block['first-port']} to ${block['last-port']}`}
                        onClick={() => setOpened(isOpen ? undefined : key)}
                      >
                        hosts
                      </button>{' '}
                      <a
                        href={href('who-had', { address: block.address, port: String(block['first-port']) })}
                        aria-label={`Who had ${block.address}, port ${block['first-port']}`}
                      >
                        who had
                      </a>
                    </td>
                  </tr>
                  {isOpen && (
                    <tr>
                      <td colSpan={6}>
                        <Hosts block={block} bearer={bearer} onUnauthorized={onUnauthorized} />
                      </td>
                    </tr>
                  )}
                </Fragment>
              );
            })}
          </tbody>
        </Scroll>
      )}
      {blocks.length > SHOWN && <p class="hint">And {integer(blocks.length - SHOWN)} more: name a tenant to see its own.</p>}
    </section>
  );
}

/** So many sessions the box tells of one address at once. */
const MOST_SESSIONS = 10_000;

interface Host {
  address: string;
  ports: number[];
  sessions: number;
}

/** Which of a branch's hosts hold ports of a block now, as its sessions say. */
function Hosts({ block, bearer, onUnauthorized }: { block: NatBlock; bearer: string; onUnauthorized: () => void }) {
  const [hosts, setHosts] = useState<{ all: Host[]; isWhole: boolean }>();
  const [problem, setProblem] = useState<string>();
  usePolled(
    REFRESH_MS,
    async (signal) => {
      const query = new URLSearchParams({ tenant: block.tenant, address: block.address, limit: String(MOST_SESSIONS) });
      const { sessions, matching } = await get<SessionPage>(`sessions?${query}`, bearer, signal);
      setHosts({ all: hostsOf(block, sessions), isWhole: sessions.length === matching });
      setProblem(undefined);
    },
    { onUnauthorized, failed: (error) => setProblem(asProblem(error).detail) },
    [block.address, block['first-port'], bearer],
  );
  if (problem) return <p role="alert">{problem}</p>;
  if (!hosts) return <p class="hint">Asking for the sessions of {block.address}…</p>;
  if (hosts.all.length === 0) return <p class="hint">No session holds a port of it now; the block stays the branch’s for a while.</p>;
  return (
    <ul class="hosts" aria-label={`Hosts with ports of ${block.address}, ${block['first-port']} to ${block['last-port']}`}>
      {hosts.all.map((host) => (
        <li key={host.address}>
          <a class="mono" href={href('sessions', { tenant: block.tenant, address: host.address })}>
            {host.address}
          </a>{' '}
          {host.ports.length === 1 ? `port ${host.ports[0]}` : `${integer(host.ports.length)} ports, ${host.ports[0]} to ${host.ports.at(-1)}`}
          {`, ${integer(host.sessions)} ${host.sessions === 1 ? 'session' : 'sessions'}`}
        </li>
      ))}
      {!hosts.isWhole && <li>and more: the box told of the first {integer(MOST_SESSIONS)} sessions.</li>}
    </ul>
  );
}

/** Most ports first. */
function hostsOf(block: NatBlock, sessions: SessionReport[]): Host[] {
  const hosts = new Map<string, { ports: Set<number>; sessions: number }>();
  for (const session of sessions) {
    const port = session['nat-source-port'];
    if (session['nat-source'] !== block.address || port === null || port < block['first-port'] || port > block['last-port']) continue;
    const host = hosts.get(session.source) ?? { ports: new Set(), sessions: 0 };
    host.ports.add(port);
    host.sessions += 1;
    hosts.set(session.source, host);
  }
  const all = [...hosts].map(([address, { ports, sessions }]) => ({ address, ports: [...ports].sort((a, b) => a - b), sessions }));
  return all.sort((a, b) => b.ports.length - a.ports.length || (a.address < b.address ? -1 : 1));
}
