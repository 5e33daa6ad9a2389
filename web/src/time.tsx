import { dateTime, timeOfDay, utc } from './format';

/** A time in the viewer's zone, UTC on hover. */
export function Time({ unixMs, full = false }: { unixMs: number; full?: boolean }) {
  return (
    <time dateTime={new Date(unixMs).toISOString()} title={utc(unixMs)}>
      {full ? dateTime(unixMs) : timeOfDay(unixMs)}
    </time>
  );
}
