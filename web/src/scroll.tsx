// A table that is wider than a phone: it scrolls by itself, by keyboard too.

import type { ComponentChildren } from 'preact';

export function Scroll({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={name}>
      <table>{children}</table>
    </div>
  );
}

/** The head of the column of buttons. */
export function ActionsHead() {
  return (
    <th>
      <span class="visually-hidden">What can be done</span>
    </th>
  );
}
