// Keys that work everywhere but in a field somebody types in.

import { useLayoutEffect, useRef } from 'preact/hooks';

export type Bindings = Record<string, () => void>;

/** How long the second key of a pair (`g o`) may take. */
const PAIR_MS = 1200;

/** Calls the binding of a key (`?`) or of two in a row (`g o`). */
export function useKeys(bindings: Bindings): void {
  // The page is drawn anew every second, also between the two keys of a pair: the listener stays, what it calls changes.
  const latest = useRef(bindings);
  latest.current = bindings;
  // Before the page is seen: whoever sees it may press a key at once.
  useLayoutEffect(() => {
    let first: string | undefined;
    let expiry: ReturnType<typeof setTimeout> | undefined;
    const onKey = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (isTyping(event) || document.querySelector('dialog[open]')) return;
      const pair = first && `${first} ${event.key}`;
      first = undefined;
      clearTimeout(expiry);
      const known = latest.current;
      const binding = (pair && known[pair]) || known[event.key];
      if (binding) {
        event.preventDefault();
        binding();
      } else if (Object.keys(known).some((keys) => keys.startsWith(`${event.key} `))) {
        first = event.key;
        expiry = setTimeout(() => (first = undefined), PAIR_MS);
      }
    };
    addEventListener('keydown', onKey);
    return () => {
      clearTimeout(expiry);
      removeEventListener('keydown', onKey);
    };
  }, []);
}

/** Where it was typed, also inside a shadow tree. */
const isTyping = (event: KeyboardEvent): boolean => {
  const target = event.composedPath()[0];
  return target instanceof HTMLElement && (target.matches('input, textarea, select') || target.isContentEditable);
};
