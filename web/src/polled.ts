// What a view asks again and again while somebody looks at it.

import { useEffect } from 'preact/hooks';
import { isUnauthorized } from './api';

/** Asks at once, and again so long after each answer; anew whenever what it asks for changes. */
export function usePolled(
  everyMs: number,
  ask: (signal: AbortSignal) => Promise<void>,
  { onUnauthorized, failed }: { onUnauthorized: () => void; failed: (error: unknown) => void },
  changes: unknown[],
): void {
  useEffect(() => {
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const round = async () => {
      // Nobody looks at a hidden tab.
      if (!document.hidden) {
        try {
          await ask(controller.signal);
        } catch (error) {
          if (controller.signal.aborted) return;
          if (isUnauthorized(error)) return onUnauthorized();
          failed(error);
        }
      }
      timer = setTimeout(round, everyMs);
    };
    void round();
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, changes);
}
