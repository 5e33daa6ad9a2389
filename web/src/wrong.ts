// What is wrong now, worst first: the first thing an operator wants to know.

import { bitRate, integer, percent, rate } from './format';
import { dropKey, pathKey, type Live } from './live';
import { ALARMING } from './reasons';
import { href } from './route';
import type { EnrolmentRow, PathReport } from './types';

export interface Wrong {
  /** What tells it from others that read alike but for their numbers. */
  key?: string;
  level: 'bad' | 'warn';
  what: string;
  /** What follows from it or what to do about it. */
  hint?: string;
  /** When it began, as far as the box or this console knows. */
  since?: number;
  /** Where it is done. */
  link?: { href: string; text: string };
}

/** Loss of probes from which on a path is worth a look, and from which on it is useless for voice. */
export const LOSS_WARN = 0.02;
const LOSS_BAD = 0.1;

const FULL_WARN = 0.8;
const FULL_BAD = 0.95;

/** `waiting` are boxes that have used their codes: nobody works there before somebody has approved them. */
export function whatIsWrong(live: Live, waiting: EnrolmentRow[] = []): Wrong[] {
  const wrong: Wrong[] = waiting.map((row) => ({
    key: `enrolment ${row.id}`,
    level: 'warn',
    what: `A box waits to be approved as ${row.tenant} / ${row.site}`,
    hint: row.claim ? `It calls from ${row.claim.from}.` : undefined,
    since: row.claim?.['unix-ms'],
    link: { href: href('enrolments'), text: 'Compare its fingerprint' },
  }));
  if (live.problem) {
    wrong.push({ level: 'bad', what: capital(live.problem), hint: "Numbers stand still until it does; see the box's log." });
  }
  for (const paths of bySite(live.paths)) wrong.push(...siteTrouble(paths, live));

  const status = live.status;
  if (status && status['max-sessions'] > 0) {
    const share = status.sessions / status['max-sessions'];
    if (share >= FULL_WARN) {
      const level = share >= FULL_BAD ? 'bad' : 'warn';
      wrong.push({ level, what: `The session table is ${percent(share)} full`, hint: ALARMING['session-table-full'] });
    }
  }
  const lost = live.totals.recordsLost.at(-1) ?? 0;
  if (lost > 0) {
    wrong.push({ level: 'warn', what: `Flow records are lost: ${rate(lost)}`, hint: 'The exporter cannot keep up.' });
  }
  for (const exporter of status?.exporters ?? []) {
    const since = exporter['failing-since-unix-ms'];
    if (since === null) continue;
    const what = `Collector ${exporter.collector} gets no flow records: ${exporter.problem ?? 'nothing can be sent'}`;
    const hint = `${exporter.protocol} over ${exporter.transport} to ${exporter.address}; ${integer(exporter['lost-records'])} records are lost.`;
    wrong.push({ level: 'warn', what, hint, since });
  }
  for (const handoff of status?.handoffs ?? []) {
    if (handoff.up) continue;
    const what = `Handoff ${handoff.handoff} of ${handoff.tenant} leads nowhere: ${handoff.interface} has no link`;
    wrong.push({ level: 'bad', what, hint: 'Its cable, its switch port, or the VLAN on the way.' });
  }
  const history = status?.['flow-history'];
  if (history?.problem) {
    const since = history['failing-since-unix-ms'] ?? undefined;
    wrong.push({ level: 'bad', what: `The flow history cannot be written: ${history.problem}`, since });
  }
  const copies = history?.['object-store'];
  if (copies?.problem) {
    const what = `Files of the flow history are not copied to the object store: ${copies.problem}`;
    const hint = `${integer(copies['waiting-files'])} files wait.`;
    wrong.push({ level: 'warn', what, hint, since: copies['failing-since-unix-ms'] ?? undefined });
  }
  if (copies && copies['lost-files'] > 0) {
    const what = `${integer(copies['lost-files'])} files of the flow history had to go before they were copied`;
    wrong.push({ level: 'bad', what, hint: 'A larger tenant-quota leaves more time.' });
  }
  for (const row of live.drops) {
    const perSecond = live.dropRates.get(dropKey(row)) ?? 0;
    const hint = ALARMING[row.reason];
    if (perSecond <= 0 || !hint) continue;
    const whose = [row.tenant, row.detail].filter(Boolean).join(' / ');
    wrong.push({ level: 'warn', what: `${row.reason}${whose && ` for ${whose}`}: ${rate(perSecond)}`, hint });
  }
  return wrong.sort((a, b) => Number(b.level === 'bad') - Number(a.level === 'bad'));
}

function siteTrouble(paths: PathReport[], live: Live): Wrong[] {
  const [first] = paths;
  if (!first) return [];
  const site = `${first.tenant} / ${first.site}`;
  const down = paths.filter((path) => path.state === 'down');
  const up = paths.filter((path) => path.state !== 'down');
  const changes = down.map((path) => live.pathRates.get(pathKey(path))?.changedAt).filter((at) => at !== undefined);
  const since = changes.length > 0 ? Math.max(...changes) : undefined;
  const wrong: Wrong[] = [];
  if (up.length === 0) {
    const what = `${site} is cut off: ${down.length === 1 ? `its path ${first.path} is` : 'all its paths are'} down`;
    wrong.push({ level: 'bad', what, hint: `Last known endpoint ${first.endpoint ?? 'none'}.`, since });
  } else if (down.length > 0) {
    const names = down.map((path) => path.path).join(', ');
    const load = up.reduce((sum, path) => {
      const known = live.pathRates.get(pathKey(path));
      return sum + (known ? known.inBits + known.outBits : 0);
    }, 0);
    const hint = `Its traffic is on ${up.map((path) => path.path).join(', ')}, ${bitRate(load)}.`;
    wrong.push({ level: 'warn', what: `${site}: path ${names} is down`, hint, since });
  }
  for (const path of up) {
    if (path.loss === null || path.loss < LOSS_WARN) continue;
    const level = path.loss >= LOSS_BAD ? 'bad' : 'warn';
    const hint = path.transport ? `It comes in by transport ${path.transport}.` : undefined;
    wrong.push({ level, what: `${site}: path ${path.path} loses ${percent(path.loss)} of its probes`, hint });
  }
  return wrong;
}

function bySite(paths: PathReport[]): PathReport[][] {
  const sites = new Map<string, PathReport[]>();
  for (const path of paths) {
    const key = `${path.tenant} ${path.site}`;
    sites.set(key, [...(sites.get(key) ?? []), path]);
  }
  return [...sites.values()];
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
