import { useEffect, useRef } from 'preact/hooks';
import { CloseIcon } from './icons';

const KEYS: [string, [string, string][]][] = [
  [
    'Everywhere',
    [
      ['g o', 'Overview'],
      ['g s', 'Sessions'],
      ['g f', 'Flows'],
      ['g r', 'Rules'],
      ['g e', 'Explain'],
      ['g t', 'Trace'],
      ['g h', 'History'],
      ['g n', 'NAT'],
      ['g w', 'Who had'],
      ['g p', 'Captures of packets'],
      ['g b', 'Enrolments of branches'],
      ['g c', 'Changes'],
      ['g u', 'Users'],
      ['g v', 'Update: the box’s version'],
      ['/', 'Filter'],
      ['t', 'Theme: automatic, light, dark'],
      ['?', 'This help'],
    ],
  ],
  [
    'In a table',
    [
      ['↓ ↑  or  j k', 'Next row, previous row'],
      ['PgDn PgUp', 'A page on, a page back'],
      ['Home  End', 'First row, last row'],
      ['Enter', 'All there is to know of a row'],
      ['Esc', 'Close that, or leave the filter'],
      ['p', 'Hold still, go on'],
      ['c', 'Clear the filter'],
    ],
  ],
];

export function Help({ onClose }: { onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      class="help"
      ref={dialog}
      aria-labelledby="help-title"
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}
    >
      <div class="help-body">
        <header>
          <h2 id="help-title">Keys</h2>
          <button type="button" class="plain" aria-label="Close" onClick={() => dialog.current?.close()}>
            <CloseIcon />
          </button>
        </header>
        <div class="help-columns">
          {KEYS.map(([title, keys]) => (
            <section key={title}>
              <h3>{title}</h3>
              <dl>
                {keys.map(([combination, meaning]) => (
                  <div key={combination}>
                    <dt>
                      {combination.split(/ {2}/).map((part, index) =>
                        part === 'or' ? (
                          <i key={index}>or</i>
                        ) : (
                          part.split(' ').map((key) => <kbd key={key}>{key}</kbd>)
                        ),
                      )}
                    </dt>
                    <dd>{meaning}</dd>
                  </div>
                ))}
              </dl>
            </section>
          ))}
        </div>
        <p class="hint">Times are in your zone; hold the pointer over one to see UTC. A view's address carries its filter: share it.</p>
      </div>
    </dialog>
  );
}
