// Update: which version of the box runs, and another one for it. What is sent is checked by the box, and again by its updater.

import { useState } from 'preact/hooks';
import { asProblem, get, isUnauthorized, upload } from './api';
import { Wrong } from './changes';
import { Confirm } from './enrolments';
import { bytes, percent } from './format';
import { usePolled } from './polled';
import { Scroll } from './scroll';
import { Time } from './time';
import type { LastUpdate, Problem, UpdateState, UpdateTaken } from './types';

const REFRESH_MS = 2000;

interface Props {
  bearer: string;
  onUnauthorized: () => void;
}

export function Update({ bearer, onUnauthorized }: Props) {
  const [state, setState] = useState<UpdateState>();
  const [problem, setProblem] = useState<Problem>();
  const [done, setDone] = useState<{ text: string; version: string }>();
  /** How much of it has been sent, 0 to 1. */
  const [sent, setSent] = useState<number>();
  const refused = (error: unknown) => {
    if (isUnauthorized(error)) return onUnauthorized();
    setProblem(asProblem(error));
  };
  usePolled(
    REFRESH_MS,
    async (signal) => setState(await get<UpdateState>('update', bearer, signal)),
    // A box that starts anew does not answer, which the frame tells.
    { onUnauthorized, failed: (error) => state || refused(error) },
    [bearer],
  );
  const send = async (file: File, reboot: boolean, force: boolean) => {
    setProblem(undefined);
    setDone(undefined);
    setSent(0);
    try {
      const query = new URLSearchParams({ reboot: String(reboot), 'force-downgrade': String(force) });
      const taken = await upload<UpdateTaken>(`update?${query}`, bearer, file, setSent);
      const then = taken.reboot ? 'The box starts anew when it is installed: that takes a few minutes.' : 'It is tried when the box starts anew.';
      setDone({ text: `${taken.version} is signed by whom it should be, and is being installed. ${then}`, version: taken.version });
    } catch (error) {
      refused(error);
    }
    setSent(undefined);
  };
  return (
    <main class="changes update" id="main">
      <h1 class="visually-hidden">Update</h1>
      {done && done.version !== state?.version && (
        <p class="done" role="status">
          {done.text}
        </p>
      )}
      {problem && <Wrong problem={problem} />}
      <section aria-labelledby="update-versions">
        <h2 id="update-versions">Versions on this box</h2>
        {state && (
          <>
            {state.last && <p class={state.last.outcome === 'refused' || state.last.outcome === 'fell-back' ? 'warn-text' : undefined}>{became(state.last)}</p>}
            {state['under-way'] && sent === undefined && <p role="status">An update is on its way, or is being installed.</p>}
            {state['on-trial'] && <p role="status">What runs is on trial: it is kept when it has been healthy for half a minute.</p>}
            {state.slots.length > 0 && (
              <Scroll name="Versions on this box as a table">
                <thead>
                  <tr>
                    <th>Slot</th>
                    <th>Version</th>
                    <th>State</th>
                  </tr>
                </thead>
                <tbody>
                  {state.slots.map((row) => (
                    <tr key={row.slot}>
                      <td>{row.slot.toUpperCase()}</td>
                      <td class="mono">{row.version ?? '–'}</td>
                      <td>{row.runs ? (state['on-trial'] ? 'runs, on trial' : 'runs') : standsBy(state, row.version)}</td>
                    </tr>
                  ))}
                </tbody>
              </Scroll>
            )}
            {state.refuses && <p class="hint">This box takes no updates here: {state.refuses}.</p>}
          </>
        )}
      </section>
      {state && !state.refuses && <SendUpdate sent={sent} send={send} />}
    </main>
  );
}

function standsBy(state: UpdateState, version: string | null): string {
  if (version === null) return 'empty, or being written';
  return state.last?.outcome === 'installed' && state.last.version === version ? 'tried when the box starts anew' : 'stands by';
}

function became(last: LastUpdate) {
  const version = last.version ?? 'A version';
  const said = {
    installed: `${version} is installed.`,
    kept: `${version} came up healthy, and is kept.`,
    'fell-back': `${version} did not come up healthy: the box fell back to the one before.`,
    refused: `An update was refused: ${last.detail ?? 'no reason was given'}`,
  }[last.outcome];
  return (
    <>
      {said}
      {last['unix-ms'] !== null && (
        <>
          {' '}
          <small>
            <Time unixMs={last['unix-ms']} full />
          </small>
        </>
      )}
    </>
  );
}

function SendUpdate({ sent, send }: { sent?: number; send: (file: File, reboot: boolean, force: boolean) => Promise<void> }) {
  const [file, setFile] = useState<File>();
  const [reboot, setReboot] = useState(true);
  const [force, setForce] = useState(false);
  const [asks, setAsks] = useState(false);
  const isOnItsWay = sent !== undefined;
  const submit = (event: Event) => {
    event.preventDefault();
    if (file && !isOnItsWay) setAsks(true);
  };
  return (
    <section aria-labelledby="update-send">
      <h2 id="update-send">Another version</h2>
      <form class="send-update" aria-label="Update" onSubmit={submit}>
        <label class="file">
          <span>The file popgate-VERSION.update</span>
          <input type="file" accept=".update" data-filter disabled={isOnItsWay} onChange={(event) => setFile(event.currentTarget.files?.[0])} />
        </label>
        <label class="check">
          <input type="checkbox" checked={reboot} onChange={(event) => setReboot(event.currentTarget.checked)} />
          Start the box anew when it is installed
        </label>
        <label class="check">
          <input type="checkbox" checked={force} onChange={(event) => setForce(event.currentTarget.checked)} />
          Take it also if it is older, or was left before
        </label>
        <p class="buttons">
          <button type="submit" class="primary" disabled={!file || isOnItsWay}>
            Update
          </button>
          {sent !== undefined && (
            <span class="sending">
              <progress aria-label="Sent" value={sent} max={1} />
              <span class="hint">{sent < 1 ? `${percent(sent)} is sent` : 'The box looks at it…'}</span>
            </span>
          )}
        </p>
        <p class="hint">
          It is held to its signature, and to the version that runs. It is tried at the next boot, kept when it is healthy, and left when it is not: the box
          then goes back by itself.
        </p>
      </form>
      {asks && file && (
        <Confirm title={`Update this box with ${file.name}?`} verb="Update" onYes={() => void send(file, reboot, force)} onClose={() => setAsks(false)}>
          <p>
            {bytes(file.size)}. {reboot ? 'The box starts anew when it is installed: tunnels through it are down for about a minute.' : 'It is tried when the box starts anew.'}
          </p>
          {force && <p class="warn-text">An older version is taken too, with what has been mended since.</p>}
        </Confirm>
      )}
    </section>
  );
}
