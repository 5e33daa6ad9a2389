// NAT pools: how much of each is used, which blocks of ports branches have, and from there who had a port.

import { useState } from 'preact/hooks';
import { asProblem, get } from './api';
import { TenantFilter } from './asking';
import { integer, percent } from './format';
import { usePolled } from './polled';
import { href, type Route } from './route';
import type { NatAnswer, NatPool } from './types';

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
        {answer && <Blocks answer={answer} />}
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
        <table>
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
        </table>
      )}
    </section>
  );
}

function Blocks({ answer }: { answer: NatAnswer }) {
  const { blocks, pools } = answer;
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
        <table>
          <thead>
            <tr>
              <th scope="col">Tenant</th>
              <th scope="col">Handoff</th>
              <th scope="col">Branch</th>
              <th scope="col">Address</th>
              <th scope="col">Ports</th>
              <th scope="col">
                <span class="visually-hidden">In the ledger</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map((block) => (
              <tr key={`${block.address} ${block['first-port']}`}>
                <td>{block.tenant}</td>
                <td>{block.handoff}</td>
                <td>{block.branch ?? 'none'}</td>
                <td class="mono">{block.address}</td>
                <td>
                  {block['first-port']}–{block['last-port']}
                </td>
                <td>
                  <a
                    href={href('who-had', { address: block.address, port: String(block['first-port']) })}
                    aria-label={`Who had ${block.address}, port ${block['first-port']}`}
                  >
                    who had
                  </a>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {blocks.length > SHOWN && <p class="hint">And {integer(blocks.length - SHOWN)} more: name a tenant to see its own.</p>}
    </section>
  );
}
