// Which app classes had most of the traffic of late, where a flow history is kept: the overview's answer to what the lines are full of.

import { useState } from 'preact/hooks';
import { get } from './api';
import { bytes, percent } from './format';
import { usePolled } from './polled';
import { href } from './route';
import { Scroll } from './scroll';
import type { FlowAnswer } from './types';

/** The history is asked, not a counter: seldom. */
const REFRESH_MS = 15_000;
const LAST = '15m';
const SHOWN = 6;

export function Busiest({ bearer, onUnauthorized }: { bearer: string; onUnauthorized: () => void }) {
  const [answer, setAnswer] = useState<FlowAnswer>();
  const [failed, setFailed] = useState(false);
  usePolled(
    REFRESH_MS,
    async (signal) => {
      const query = new URLSearchParams({ last: LAST, by: 'class', order: 'bytes', top: String(SHOWN) });
      setAnswer(await get<FlowAnswer>(`flows/query?${query}`, bearer, signal));
      setFailed(false);
    },
    { onUnauthorized, failed: () => setFailed(true) },
    [bearer],
  );
  const at = (name: string) => answer?.columns.findIndex((column) => column.name === name) ?? -1;
  const [group, sum] = [at('class'), at('bytes')];
  const all = answer && sum >= 0 ? (answer.total[sum - (answer.columns.length - answer.total.length)] ?? 0) : 0;
  return (
    <section class="panel moves busiest" aria-labelledby="busiest-title">
      <header>
        <h2 id="busiest-title">Busiest classes</h2>
        <span class="count">last 15 minutes</span>
      </header>
      {failed && <p class="hint">The flow history does not answer now; it is asked again.</p>}
      {answer && answer.rows.length === 0 && <p class="empty">No flow record of that time: one is written when a session ends or has lasted.</p>}
      {answer && answer.rows.length > 0 && (
        <Scroll name="Busiest classes as a table">
          <thead>
            <tr>
              <th scope="col">Class</th>
              <th scope="col" class="right">
                Bytes
              </th>
              <th scope="col" class="right">
                Share
              </th>
            </tr>
          </thead>
          <tbody>
            {answer.rows.map((row) => {
              const [name, value] = [String(row[group]), Number(row[sum])];
              const share = all > 0 ? value / all : 0;
              return (
                <tr key={name} class="measured" style={`--share: ${(share * 100).toFixed(2)}%`}>
                  <td>
                    <a href={href('history', { q: `class = ${name}`, last: LAST, by: 'source,destination' })}>{name}</a>
                  </td>
                  <td class="right">{bytes(value)}</td>
                  <td class="right">{percent(share)}</td>
                </tr>
              );
            })}
          </tbody>
        </Scroll>
      )}
    </section>
  );
}
